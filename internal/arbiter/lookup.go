package arbiter

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/holdfast-ha/holdfast/internal/cluster/witness/witnesspb"
)

// After datagramFailures looks in a row that got through by a connection only,
// datagrams are not tried for datagramPause. One that is lost means little, and
// connections are what a busy arbiter can bear least.
const (
	datagramFailures = 3
	datagramPause    = 10 * time.Minute
)

const (
	// lookSlack: who asks every 10 s, or a little sooner, shall not be put off because of that.
	lookSlack = 2 * time.Second
	// lookEveryMax bounds what an arbiter may ask for.
	lookEveryMax = 5 * time.Minute
)

// errNoDatagram: look over a connection instead.
var errNoDatagram = errors.New("arbiter: no look by datagram")

// looked is the newest look.
type looked struct {
	at       time.Time
	register uint64
	every    time.Duration
	reply    *witnesspb.Reply
}

// remembered look, with ages of now, if the arbiter does not want to be looked
// at more often (C4); nil: look.
func (c *Client) remembered(r *witnesspb.Request) *witnesspb.Reply {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.looked
	passed := time.Since(l.at)
	if l.reply == nil || l.register != r.GetRegister() || c.seen > l.reply.GetSequence() || passed >= l.every-lookSlack {
		return nil
	}
	reply := proto.CloneOf(l.reply)
	for _, s := range reply.GetLooked().GetSeen() {
		s.Age = durationpb.New(s.GetAge().AsDuration() + passed)
	}
	return reply
}

// remember a look.
func (c *Client) remember(r *witnesspb.Request, reply *witnesspb.Reply) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.looked = looked{}
	if reply.GetLooked() != nil {
		c.looked = looked{time.Now(), r.GetRegister(), c.lookEvery, proto.CloneOf(reply)}
	}
}

func (c *Client) setLookEvery(seconds uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lookEvery = min(time.Duration(seconds)*time.Second, lookEveryMax)
}

// look by datagram where that is possible, else over a connection (C3).
func (c *Client) look(ctx context.Context, r *witnesspb.Request) (*witnesspb.Reply, error) {
	reply, err := c.lookNow(ctx, r)
	c.remember(r, reply) // also that there was none
	return reply, err
}

func (c *Client) lookNow(ctx context.Context, r *witnesspb.Request) (*witnesspb.Reply, error) {
	c.mu.Lock()
	connected := c.conn != nil
	blocked := time.Now().Before(c.noDatagrams)
	p := c.pass
	if p != nil && p.expires <= time.Now().Unix() {
		p, c.pass = nil, nil
	}
	c.mu.Unlock()
	if connected || blocked || p == nil {
		// Where there are no datagrams the connection is kept.
		return c.request(ctx, r, blocked)
	}
	reply, err := c.lookBy(ctx, p, r)
	if err == nil {
		c.mu.Lock()
		c.lost = 0
		c.mu.Unlock()
		return reply, nil
	}
	tooLong := errors.Is(err, ErrConnect)
	if reply, err = c.request(ctx, r, false); err != nil {
		return nil, err
	}
	c.mu.Lock()
	if c.lost++; tooLong || c.lost >= datagramFailures {
		c.lost, c.noDatagrams = 0, time.Now().Add(datagramPause)
	}
	kept := time.Now().Before(c.noDatagrams)
	c.mu.Unlock()
	if !kept {
		c.Rest()
	}
	return reply, nil
}

// lookBy a datagram.
func (c *Client) lookBy(ctx context.Context, p *pass, r *witnesspb.Request) (*witnesspb.Reply, error) {
	cluster, err := ParseUUID(r.GetCluster())
	if err != nil {
		return nil, err
	}
	s, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(p.address))
	if err != nil {
		return nil, err
	}
	defer s.Close()
	stop := context.AfterFunc(ctx, func() { _ = s.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	var nonces [lookTries][nonceSize]byte
	answer := make([]byte, LookMax+1)
	for i := range lookTries {
		_, _ = rand.Read(nonces[i][:])
		b, err := SealLook(p.key, cluster, p.expires, r.GetNode(), nonces[i], c.nextLook(), r)
		if err != nil {
			return nil, err
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		wait := lookTry << i
		if end, ok := ctx.Deadline(); ok {
			wait = min(wait, time.Until(end)/3) // a connection needs time too
		}
		_ = s.SetDeadline(time.Now().Add(wait))
		if _, err := s.Write(b); err != nil {
			return nil, err
		}
		for {
			n, err := s.Read(answer)
			if err != nil {
				if t, ok := err.(net.Error); ok && t.Timeout() {
					break
				}
				return nil, err // refused: nobody listens
			}
			for _, nonce := range nonces[:i+1] {
				every, reply, err := OpenAnswer(p.key, nonce, answer[:n])
				if err == nil {
					c.setLookEvery(uint32(every))
				}
				if err == nil || errors.Is(err, ErrConnect) {
					return reply, err
				}
			}
		}
	}
	return nil, errNoDatagram
}

// nextLook number: later ones are higher, those of the process before too.
func (c *Client) nextLook() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lookNumber = max(c.lookNumber+1, uint64(time.Now().UnixNano()))
	return c.lookNumber
}
