package peer

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-ha/holdfast/internal/cluster/peer/peerpb"
	"github.com/holdfast-ha/holdfast/internal/wire"
)

// outgoing is the connection to one peer, made again whenever it breaks.
type outgoing struct {
	t      *Transport
	node   string
	ctx    context.Context
	end    context.CancelFunc
	wake   chan struct{} // something to write
	kicked chan struct{} // try now
	update chan struct{} // addresses or links have changed

	mu        sync.Mutex
	addresses []string
	down      map[int]bool // links over which no heartbeats come
	next      int          // link to try next
	q         queue
	connected bool
	conn      net.Conn
	link      int
	closing   error // why this node closes conn
	abortDial context.CancelFunc
	dialSince time.Time
	c         Counters
}

func newOutgoing(t *Transport, node string) *outgoing {
	p := &outgoing{
		t: t, node: node, down: map[int]bool{}, link: -1,
		wake: make(chan struct{}, 1), kicked: make(chan struct{}, 1), update: make(chan struct{}, 1),
	}
	p.ctx, p.end = context.WithCancel(t.ctx)
	return p
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (p *outgoing) setAddresses(addresses []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if slices.Equal(p.addresses, addresses) {
		return
	}
	if p.link >= len(addresses) || p.link >= 0 && addresses[p.link] != p.addresses[p.link] {
		p.closeConn(errMoved)
	}
	p.addresses, p.next = slices.Clone(addresses), 0
	poke(p.update)
	poke(p.kicked)
}

func (p *outgoing) send(m *peerpb.Message) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.connected || !p.q.put(m) {
		p.c.Dropped++
		return false
	}
	poke(p.wake)
	return true
}

func (p *outgoing) linkState(link int, up bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.down[link] == !up {
		return
	}
	p.down[link] = !up
	if up {
		p.revive()
		return
	}
	// Without a better link the present one is as good as any.
	if p.link == link && p.linkUp() {
		p.closeConn(errLinkDown)
	}
}

var (
	errMoved    = errors.New("its addresses have changed")
	errLinkDown = errors.New("no heartbeats over this link any more: moving to another one")
	errStalled  = errors.New("the connection has stalled although the peer is there: making a new one")
)

// closeConn ends the present connection, if there is one. The lock is held.
func (p *outgoing) closeConn(why error) {
	if p.conn != nil {
		p.closing = why
		_ = p.conn.Close()
	}
}

// linkUp says whether some link is up. The lock is held.
func (p *outgoing) linkUp() bool {
	for i := range p.addresses {
		if !p.down[i] {
			return true
		}
	}
	return false
}

func (p *outgoing) kickNow() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.revive()
}

// revive tries at once, for the peer is there: an attempt that hangs, or a
// connection on which TCP has begun to wait longer and longer, is given up.
func (p *outgoing) revive() {
	poke(p.kicked)
	if p.abortDial != nil && time.Since(p.dialSince) > 50*time.Millisecond {
		p.abortDial()
	}
	if p.conn != nil && stalled(p.conn) {
		p.closeConn(errStalled)
	}
}

func (p *outgoing) counters() Counters {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.c
	c.Connected, c.Link = p.connected, p.link
	return c
}

// choose the link for the next attempt: one that is up, in turns.
func (p *outgoing) choose() (link int, address string, limit time.Duration, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.addresses)
	if n == 0 {
		return 0, "", 0, false
	}
	limit = dialLimit
	if n > 1 {
		limit = dialLimitOther
	}
	for i := range n {
		if link := (p.next + i) % n; !p.down[link] {
			p.next = (link + 1) % n
			return link, p.addresses[link], limit, true
		}
	}
	link = p.next % n
	p.next = (link + 1) % n
	return link, p.addresses[link], limit, true
}

func (p *outgoing) run() {
	backoff := backoffMin
	var said time.Time // when the present trouble was logged last
	for p.ctx.Err() == nil {
		link, address, limit, ok := p.choose()
		if !ok {
			select {
			case <-p.update:
			case <-p.ctx.Done():
			}
			continue
		}
		began := time.Now()
		connected, err := p.connection(link, address, limit)
		if p.ctx.Err() != nil {
			return
		}
		pause, patient := backoff, false
		switch {
		case errors.Is(err, ErrRefused):
			pause, patient = backoffRefused, true
			p.mu.Lock()
			p.c.Refused++
			p.mu.Unlock()
		case connected && time.Since(began) > backoffRefused:
			pause, backoff = 0, backoffMin
		default:
			backoff = min(2*backoff, backoffMax)
		}
		if connected || time.Since(said) > troubleLogEvery {
			p.t.log.Warn("peer: no connection", "node", p.node, "address", address, "error", err)
			said = time.Now()
		}
		if p.pause(pause, patient) {
			backoff = backoffMin
		}
	}
}

// pause before the next attempt; true: it was cut short. Somebody who refuses
// is not asked again sooner, whatever his heartbeats say.
func (p *outgoing) pause(d time.Duration, patient bool) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	kicked := p.kicked
	if patient {
		kicked = nil
	}
	select {
	case <-timer.C:
	case <-kicked:
		return true
	case <-p.ctx.Done():
	}
	return false
}

// connection makes one, and returns when it is over. connected says whether
// the peer has welcomed this node.
func (p *outgoing) connection(link int, address string, limit time.Duration) (connected bool, err error) {
	c, err := p.dial(link, address, limit)
	if err != nil {
		return false, err
	}
	defer c.Close()
	stop := context.AfterFunc(p.ctx, func() { _ = c.NetConn().Close() })
	defer stop()
	r := bufio.NewReaderSize(c, 4096)
	h, err := p.t.meet(c, r, p.node)
	if err != nil {
		return false, err
	}
	_ = c.SetDeadline(time.Time{})
	p.mu.Lock()
	if link >= len(p.addresses) || p.addresses[link] != address {
		p.mu.Unlock()
		return false, errMoved
	}
	p.conn, p.link, p.connected, p.closing = c, link, true, nil
	p.c.Connections++
	p.mu.Unlock()
	p.t.log.Info("peer: connected", "node", p.node, "address", address, "protocol", min(h.GetProtocolMax(), p.t.o.ProtocolMax))
	p.t.o.Handler.Connected(p.node, true)

	dead := make(chan error, 1)
	p.t.wg.Go(func() { dead <- p.watch(c, r) })
	err = p.write(c, dead)
	_ = c.NetConn().Close() // without TLS's farewell, which a dead peer would not take

	p.mu.Lock()
	if p.closing != nil {
		err = p.closing
	}
	p.conn, p.link, p.connected = nil, -1, false
	lost := p.q.drain()
	p.c.Dropped += uint64(len(lost))
	p.mu.Unlock()
	p.t.o.Handler.Connected(p.node, false)
	for _, m := range lost {
		p.t.o.Handler.Dropped(p.node, m)
	}
	return true, err
}

func (p *outgoing) dial(link int, address string, limit time.Duration) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(p.ctx, limit)
	defer cancel()
	p.mu.Lock()
	p.abortDial, p.dialSince = cancel, time.Now()
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		p.abortDial = nil
		p.mu.Unlock()
	}()
	raw, err := dial(ctx, p.t.ownAddress(link), address)
	if err != nil {
		return nil, err
	}
	cfg := p.t.tls.Clone()
	cfg.NextProtos = []string{Protocol}
	c := tls.Client(raw, cfg)
	_ = c.SetDeadline(time.Now().Add(handshakeLimit))
	// Ends with the transport, but not with the time that dialling may take.
	stop := context.AfterFunc(p.ctx, func() { _ = raw.Close() })
	defer stop()
	if err := c.Handshake(); err != nil {
		_ = raw.Close()
		return nil, fmt.Errorf("TLS handshake: %w", err)
	}
	return c, nil
}

// watch reads what the peer says on this connection: nothing, or why it closes.
func (p *outgoing) watch(c net.Conn, r *bufio.Reader) error {
	for {
		m := new(peerpb.Message)
		err := wire.ReadFrame(r, m, firstFrameMax)
		if err == io.EOF {
			err = errors.New("the peer has closed the connection")
		}
		if err != nil {
			return err
		}
		if why := m.GetHello().GetRefused(); why != "" {
			return &refusal{true, why}
		}
	}
}

// write sends what is queued, in flushes, until the connection ends.
func (p *outgoing) write(c net.Conn, dead <-chan error) error {
	var buf []byte
	for {
		select {
		case <-p.wake:
		case err := <-dead:
			return err
		case <-p.ctx.Done():
			return p.ctx.Err()
		}
		p.mu.Lock()
		messages := p.q.take()
		p.mu.Unlock()
		for _, m := range messages {
			var err error
			if buf, err = wire.AppendFrame(buf, m); err != nil {
				return err
			}
			if len(buf) >= flushBytes {
				if buf, err = flush(c, buf); err != nil {
					return reason(err, dead)
				}
			}
		}
		var err error
		if buf, err = flush(c, buf); err != nil {
			return reason(err, dead)
		}
		p.mu.Lock()
		p.c.Sent += uint64(len(messages))
		p.mu.Unlock()
	}
}

// reason prefers what the peer has said to the error of the write that it caused.
func reason(err error, dead <-chan error) error {
	select {
	case said := <-dead:
		if errors.Is(said, ErrRefused) {
			return said
		}
	default:
	}
	return err
}

func flush(c net.Conn, buf []byte) ([]byte, error) {
	if len(buf) == 0 {
		return buf, nil
	}
	_, err := c.Write(buf)
	if cap(buf) > 4*flushBytes {
		return nil, err // a large message was among them; its buffer is not kept
	}
	return buf[:0], err
}
