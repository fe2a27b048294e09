package arbiter

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/arbiter/arbiterpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/witness/witnesspb"
)

// Client asks one arbiter on behalf of one node. It is safe for concurrent use.
type Client struct {
	point       *v1.ArbiterPoint
	fingerprint [FingerprintSize]byte
	tls         *tls.Config
	wrong       error // of the point's configuration

	mu      sync.Mutex
	conn    *conn
	dialing *dialing
	seen    uint64 // highest Reply.sequence
	pass    *pass
	// Until then datagrams are not tried: they don't get through.
	noDatagrams time.Time
	lost        int // looks in a row that got no answer by datagram
	lookNumber  uint64
	lookEvery   time.Duration
	looked      looked
	closed      bool
}

// pass of this node, and where the arbiter was when it gave it.
type pass struct {
	key     [PassKeySize]byte
	expires int64
	address netip.AddrPort
}

// dialing is a connection being made; conn and err are set when done is closed.
type dialing struct {
	done chan struct{}
	conn *conn
	err  error
}

// Dial returns a client of the arbiter that point describes. It connects when
// it is asked for something. identity shows the node's certificate (as
// identity.PeerTLS does) and tells the time.
func Dial(point *v1.ArbiterPoint, identity *tls.Config) *Client {
	c := &Client{point: proto.CloneOf(point)}
	raw, err := hex.DecodeString(point.GetKeyFingerprint())
	switch {
	case err != nil || len(raw) != FingerprintSize:
		c.wrong = fmt.Errorf("arbiter %s: key fingerprint %q: 64 hexadecimal digits are expected", point.GetAddress(), point.GetKeyFingerprint())
	case point.GetInstance() == "":
		c.wrong = fmt.Errorf("arbiter %s: no instance is configured", point.GetAddress())
	default:
		c.wrong = CheckAddress(point.GetAddress())
	}
	copy(c.fingerprint[:], raw)
	c.tls = clientTLS(identity, c.fingerprint)
	return c
}

// Do asks. An error means that there was no answer; what the arbiter refuses by
// the register's rules is an answer. SeenSequence of the request is raised to
// what this client has seen.
//
// A look may be answered from memory, with ages of now: an arbiter of many
// clusters asks to be looked at less often (C4). Ask goes there always.
func (c *Client) Do(ctx context.Context, r *witnesspb.Request) (*witnesspb.Reply, error) {
	if _, look := r.GetBody().(*witnesspb.Request_Look); look {
		if reply := c.remembered(r); reply != nil {
			return reply, nil
		}
	}
	return c.Ask(ctx, r)
}

// Ask is Do without memory.
func (c *Client) Ask(ctx context.Context, r *witnesspb.Request) (*witnesspb.Reply, error) {
	if c.wrong != nil {
		return nil, c.wrong
	}
	c.mu.Lock()
	seen := c.seen
	c.mu.Unlock()
	if r.GetSeenSequence() < seen {
		r = proto.CloneOf(r)
		r.SeenSequence = seen
	}
	var reply *witnesspb.Reply
	var err error
	if _, look := r.GetBody().(*witnesspb.Request_Look); look {
		reply, err = c.look(ctx, r)
	} else {
		reply, err = c.request(ctx, r, true)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.looked = looked{} // whether it is there has become a question
		return nil, err
	}
	c.seen = max(c.seen, reply.GetSequence())
	return reply, nil
}

// Warm makes the connection, so that what is asked next need not wait for it.
// It returns once the arbiter has shown to be the right one.
func (c *Client) Warm(ctx context.Context) error {
	if c.wrong != nil {
		return c.wrong
	}
	k, _, err := c.connection(ctx)
	if err != nil {
		return err
	}
	k.use()
	select {
	case <-k.welcome:
		return nil
	case <-k.ended:
		return k.failed()
	case <-ctx.Done():
		return c.unreachable(fmt.Errorf("no welcome: %w", ctx.Err()))
	}
}

// Rest closes a connection that nobody waits for at once, instead of after a
// while. The next request makes a new one.
func (c *Client) Rest() {
	c.mu.Lock()
	k := c.conn
	c.mu.Unlock()
	if k != nil {
		k.rest()
	}
}

// SetAuthorities tells the arbiter the cluster's authorities (PEM): the one that
// has signed this node's certificate, and others that it shall accept too.
func (c *Client) SetAuthorities(ctx context.Context, authorities []byte) error {
	if c.wrong != nil {
		return c.wrong
	}
	der, err := ParseAuthorities(authorities)
	if err != nil {
		return err
	}
	answer, err := c.ask(ctx, &arbiterpb.ToArbiter{Body: &arbiterpb.ToArbiter_SetAuthorities{SetAuthorities: &arbiterpb.SetAuthorities{Authorities: der}}}, true)
	if err != nil {
		return err
	}
	return c.expect(answer, answer.GetAuthoritiesSet() != nil)
}

// Close ends the connection. Requests under way fail.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	k := c.conn
	c.conn = nil
	c.mu.Unlock()
	if k != nil {
		k.fail(fmt.Errorf("arbiter %s: client is closed: %w", c.point.GetAddress(), net.ErrClosed))
	}
	return nil
}

func (c *Client) request(ctx context.Context, r *witnesspb.Request, use bool) (*witnesspb.Reply, error) {
	answer, err := c.ask(ctx, &arbiterpb.ToArbiter{Body: &arbiterpb.ToArbiter_Request{Request: r}}, use)
	if err != nil {
		return nil, err
	}
	if err := c.expect(answer, answer.GetReply() != nil); err != nil {
		return nil, err
	}
	return answer.GetReply(), nil
}

func (c *Client) expect(answer *arbiterpb.FromArbiter, ok bool) error {
	switch {
	case ok:
		return nil
	case answer.GetRefusal() != nil:
		return fmt.Errorf("arbiter %s: %w", c.point.GetAddress(), refusal(answer.GetRefusal()))
	}
	return fmt.Errorf("arbiter %s: %w: %T", c.point.GetAddress(), ErrProtocol, answer.GetBody())
}

// ask over the connection, and once more over a new one if the old one turns
// out to have ended. use: the connection shall stay.
func (c *Client) ask(ctx context.Context, m *arbiterpb.ToArbiter, use bool) (*arbiterpb.FromArbiter, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, requestLimit)
		defer cancel()
	}
	for {
		if err := ctx.Err(); err != nil {
			return nil, c.unreachable(fmt.Errorf("not asked: %w", err))
		}
		k, fresh, err := c.connection(ctx)
		if err != nil {
			return nil, err
		}
		if use {
			k.use()
		}
		answer, err := k.ask(ctx, m)
		if err == nil || fresh || ctx.Err() != nil || !errors.Is(err, ErrUnreachable) {
			return answer, err
		}
	}
}

// connection that stands, or a new one.
func (c *Client) connection(ctx context.Context) (k *conn, fresh bool, err error) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil, false, fmt.Errorf("arbiter %s: client is closed: %w", c.point.GetAddress(), net.ErrClosed)
	}
	if c.conn != nil && c.conn.failed() == nil {
		k := c.conn
		c.mu.Unlock()
		return k, false, nil
	}
	d := c.dialing
	if d == nil {
		d = &dialing{done: make(chan struct{})}
		c.dialing = d
		// Whoever waits may give up; others want the connection all the same.
		go c.dial(d)
	}
	c.mu.Unlock()
	select {
	case <-d.done:
		return d.conn, true, d.err
	case <-ctx.Done():
		return nil, true, c.unreachable(fmt.Errorf("connecting: %w", ctx.Err()))
	}
}

func (c *Client) unreachable(err error) error {
	return fmt.Errorf("%w: %s: %w; is holdfast arbiter serve running there, and is TCP to this port allowed?", ErrUnreachable, c.point.GetAddress(), err)
}

func (c *Client) dial(d *dialing) {
	ctx, cancel := context.WithTimeout(context.Background(), dialLimit)
	defer cancel()
	d.conn, d.err = c.connect(ctx)
	c.mu.Lock()
	c.dialing = nil
	closed := c.closed
	if d.err == nil && !closed {
		c.conn = d.conn
	}
	c.mu.Unlock()
	if closed && d.err == nil {
		d.conn.fail(net.ErrClosed)
	}
	close(d.done)
}

// connect and say hello. The welcome is not waited for: what is asked meanwhile
// follows the hello, and is answered only after it.
func (c *Client) connect(ctx context.Context) (*conn, error) {
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", c.point.GetAddress())
	if err != nil {
		return nil, c.unreachable(err)
	}
	tc := tls.Client(raw, c.tls)
	if err := tc.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		for _, class := range []error{ErrWrongKey, ErrVersion} {
			if errors.Is(err, class) {
				return nil, fmt.Errorf("arbiter %s: %w", c.point.GetAddress(), err)
			}
		}
		return nil, c.unreachable(fmt.Errorf("TLS: %w", err))
	}
	k := newConn(c, tc)
	hello := &arbiterpb.ToArbiter{Body: &arbiterpb.ToArbiter_Hello{Hello: &arbiterpb.Hello{
		ProtocolMin: ProtocolMin, ProtocolMax: ProtocolMax, Instance: c.point.GetInstance(),
	}}}
	if err := k.write(hello); err != nil {
		k.fail(err)
		return nil, err
	}
	go k.read()
	return k, nil
}

// welcomed by the arbiter that was expected.
func (c *Client) welcomed(w *arbiterpb.Welcome, from net.Addr) error {
	switch {
	case w.GetRefused() != nil:
		return fmt.Errorf("arbiter %s: %w", c.point.GetAddress(), refusal(w.GetRefused()))
	case w.GetInstance() != c.point.GetInstance():
		return fmt.Errorf("arbiter %s: %w: it is instance %s, the cluster's configuration says %s: what was promised there is not known here; replace the coordination point (holdfast quorum replace)",
			c.point.GetAddress(), ErrInstance, w.GetInstance(), c.point.GetInstance())
	case w.GetProtocol() < ProtocolMin || w.GetProtocol() > ProtocolMax:
		return fmt.Errorf("arbiter %s: %w: version %d, this release speaks %d to %d", c.point.GetAddress(), ErrVersion, w.GetProtocol(), ProtocolMin, ProtocolMax)
	}
	address, err := netip.ParseAddrPort(from.String())
	if p := w.GetPass(); err == nil && len(p.GetKey()) == PassKeySize {
		c.mu.Lock()
		c.pass = &pass{[PassKeySize]byte(p.GetKey()), p.GetExpires(), address}
		c.mu.Unlock()
		c.setLookEvery(p.GetLookEvery())
	}
	return nil
}
