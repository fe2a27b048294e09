package peer

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/holdfast-ha/holdfast/internal/cluster/peer/peerpb"
	"github.com/holdfast-ha/holdfast/internal/wire"
)

// incoming is the connection over which a peer sends its messages.
type incoming struct {
	conn net.Conn
	done chan struct{}
}

func (t *Transport) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			t.log.Warn("peer: can't accept connections", "address", l.Addr().String(), "error", err)
			select {
			case <-time.After(backoffMax):
			case <-t.ctx.Done():
				return
			}
			continue
		}
		from, _ := netip.ParseAddrPort(c.RemoteAddr().String())
		release, ok := t.admit(from.Addr().Unmap())
		if !ok {
			_ = c.Close()
			t.refusedIncoming(from.String(), errors.New("too many handshakes are under way"))
			continue
		}
		t.wg.Go(func() {
			serve := t.greet(c, from)
			release()
			if serve != nil {
				serve()
			}
		})
	}
}

// admit a handshake, if there are not too many. Addresses of peers have places
// of their own: strangers can't keep them out.
func (t *Transport) admit(from netip.Addr) (release func(), ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	stranger := 0
	if !t.known[from] {
		stranger = 1
	}
	if t.admitted[from] >= handshakesPerIP || stranger == 1 && t.strangers >= handshakesMax {
		return nil, false
	}
	t.admitted[from]++
	t.strangers += stranger
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.admitted[from]--; t.admitted[from] == 0 {
			delete(t.admitted, from)
		}
		t.strangers -= stranger
	}, true
}

// greet finds out who is there and returns how to go on, nil: it is over.
func (t *Transport) greet(raw net.Conn, from netip.AddrPort) func() {
	c := tls.Server(raw, t.tls)
	_ = c.SetDeadline(time.Now().Add(handshakeLimit))
	stop := context.AfterFunc(t.ctx, func() { _ = raw.Close() })
	defer stop()
	fail := func(err error) func() {
		t.refusedIncoming(from.String(), err)
		_ = c.Close()
		return nil
	}
	if err := c.Handshake(); err != nil {
		return fail(err)
	}
	if c.ConnectionState().NegotiatedProtocol == EnrollProtocol {
		if err := t.enroll(c); err != nil {
			return fail(err)
		}
		_ = c.Close()
		return nil
	}
	if c.ConnectionState().NegotiatedProtocol != Protocol {
		who, err := t.o.Identity.Verify(c.ConnectionState())
		if err == nil && t.api == nil {
			err = errors.New("no API is served here")
		}
		if err != nil {
			return fail(err)
		}
		_ = c.SetDeadline(time.Time{})
		t.log.Debug("peer: API client", "client", who.String(), "address", from.String())
		return func() { t.api.push(c) }
	}
	r := bufio.NewReaderSize(c, 64<<10)
	h, err := t.meet(c, r, "")
	if err != nil {
		return fail(err)
	}
	_ = c.SetDeadline(time.Time{})
	return func() { t.receive(c, r, h, from) }
}

// receive a peer's messages until the connection ends. A newer connection of
// the same peer replaces this one, and begins once this one has ended (P1).
func (t *Transport) receive(c net.Conn, r *bufio.Reader, h *peerpb.Hello, from netip.AddrPort) {
	node := h.GetNode()
	in := &incoming{c, make(chan struct{})}
	defer close(in.done)
	defer c.Close()
	t.mu.Lock()
	older := t.in[node]
	t.in[node] = in
	closed := t.ctx.Err() != nil
	t.mu.Unlock()
	if closed {
		return
	}
	if older != nil {
		_ = older.conn.Close()
		<-older.done
	}
	defer func() {
		t.mu.Lock()
		if t.in[node] == in {
			delete(t.in, node)
		}
		t.mu.Unlock()
	}()
	t.learn(node, h.GetAddresses())
	t.Kick(node) // it is alive
	for {
		m := new(peerpb.Message)
		err := wire.ReadFrame(r, m, FrameMax)
		if why := m.GetHello().GetRefused(); err == nil && why != "" {
			err = &refusal{true, why}
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed):
			return
		default:
			t.refusedIncoming(node+" at "+from.String(), err)
			return
		}
		t.received(node)
		t.o.Handler.Message(node, m)
	}
}

func (t *Transport) received(node string) {
	if p := t.peer(node); p != nil {
		p.mu.Lock()
		p.c.Received++
		p.mu.Unlock()
	}
}

// refusedIncoming counts and logs; strangers can't fill the log.
func (t *Transport) refusedIncoming(who string, err error) {
	if t.ctx.Err() != nil {
		return
	}
	t.refused.Add(1)
	now, last := time.Now().UnixNano(), t.lastLogged.Load()
	if now-last < int64(strangerLogEvery) || !t.lastLogged.CompareAndSwap(last, now) {
		t.unlogged.Add(1)
		return
	}
	t.log.Warn("peer: incoming connection refused", "from", who, "error", err, "not_logged_before", t.unlogged.Swap(0))
}
