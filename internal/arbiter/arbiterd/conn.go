package arbiterd

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-ha/holdfast/internal/arbiter"
	"github.com/holdfast-ha/holdfast/internal/arbiter/arbiterpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/witness/witnesspb"
	"github.com/holdfast-ha/holdfast/internal/wire"
)

const (
	// idleLimit of a connection over which nothing is asked. Clients close earlier.
	idleLimit = 5 * time.Minute
	// firstFrameMax bounds the frames of somebody who is not known yet.
	firstFrameMax = 1 << 10
	// passLife of a pass; its end is the same for all of an hour.
	passLife = 24 * time.Hour
	// refuseLimit for telling somebody why he is refused.
	refuseLimit = 2 * time.Second
)

// conn of a node.
type conn struct {
	s      *Server
	tls    *tls.Conn
	r      *bufio.Reader
	shown  *x509.Certificate
	holder holder
	node   string
	// nil: the cluster is not registered.
	cluster *cluster
	number  uint64
	active  atomic.Int64 // nanoseconds since 1970

	slots chan struct{} // requests that were taken and not answered

	mu      sync.Mutex
	out     []byte
	leaving int // answers in out
	writing bool
	closed  bool
}

// greet somebody: handshake, hello, judgement, welcome. Nil: it is over.
func (s *Server) greet(raw net.Conn) *conn {
	from := raw.RemoteAddr().String()
	c := tls.Server(raw, s.tls)
	_ = c.SetDeadline(time.Now().Add(handshakeLimit))
	k := &conn{s: s, tls: c, slots: make(chan struct{}, arbiter.InFlight)}
	if err := c.HandshakeContext(s.ctx); err != nil {
		s.refused(from, "handshake", err)
		_ = raw.Close()
		return nil
	}
	if p := c.ConnectionState().NegotiatedProtocol; p != arbiter.ALPN {
		s.refused(from, "handshake", fmt.Errorf("protocol %q, not %s", p, arbiter.ALPN))
		_ = raw.Close()
		return nil
	}
	k.r = bufio.NewReaderSize(c, 4<<10)
	m := new(arbiterpb.ToArbiter)
	if err := wire.ReadFrame(k.r, m, firstFrameMax); err != nil {
		s.refused(from, "handshake", err)
		_ = raw.Close()
		return nil
	}
	w, why := k.meet(m.GetHello())
	if why != nil {
		s.refused(from, "refused", &arbiter.RefusedError{Code: why.GetCode(), Message: why.GetMessage()})
		k.refuse(why)
		return nil
	}
	_ = c.SetWriteDeadline(time.Now().Add(s.o.FrameLimit))
	if err := wire.WriteFrame(c, &arbiterpb.FromArbiter{Body: &arbiterpb.FromArbiter_Welcome{Welcome: w}}); err != nil {
		s.refused(from, "handshake", err)
		_ = raw.Close()
		return nil
	}
	s.metrics.connections.WithLabelValues("ok").Inc()
	k.touch()
	return k
}

// meet a node that says hello.
func (k *conn) meet(h *arbiterpb.Hello) (*arbiterpb.Welcome, *arbiterpb.Refusal) {
	self := k.s.store.self
	switch {
	case h == nil:
		return nil, refuse(arbiterpb.Refusal_CODE_MALFORMED, "the first frame is no Hello")
	case h.GetProtocolMin() > arbiter.ProtocolMax || h.GetProtocolMax() < arbiter.ProtocolMin:
		return nil, refuse(arbiterpb.Refusal_CODE_VERSION, "the node speaks protocol versions %d to %d, the arbiter %d to %d: upgrade the one that is behind",
			h.GetProtocolMin(), h.GetProtocolMax(), arbiter.ProtocolMin, arbiter.ProtocolMax)
	case h.GetInstance() != self.GetInstance():
		return nil, refuse(arbiterpb.Refusal_CODE_INSTANCE, "instance %s is expected here, this is %s: the arbiter was made anew or restored from a backup, and does not know what it promised before; replace the coordination point (holdfast quorum replace)",
			h.GetInstance(), self.GetInstance())
	}
	k.shown = k.tls.ConnectionState().PeerCertificates[0]
	who, why := holderOf(k.shown)
	if why != nil {
		return nil, why
	}
	k.holder, k.node = who, who.node
	w := &arbiterpb.Welcome{Protocol: min(h.GetProtocolMax(), arbiter.ProtocolMax), Instance: self.GetInstance()}
	c := k.s.table.cluster(who.cluster)
	if c == nil {
		return w, nil
	}
	var reg *arbiterpb.Registration
	if err := k.s.store.view(func(t *tables) (err error) { reg, err = t.registration(who.cluster); return err }); err != nil || reg == nil {
		k.s.log.Error("arbiter: registration of a cluster can't be read", "cluster", who.cluster, "error", err)
		return nil, refuse(arbiterpb.Refusal_CODE_BUSY, "the arbiter can't read its store: see its log")
	}
	if reg.GetForgotten() != 0 {
		return w, nil // it may be registered again
	}
	authorities, why := parseAuthorities(who.cluster, reg.GetAuthorities())
	if why == nil {
		why = judge(k.shown, who, authorities, time.Now())
	}
	if why != nil {
		if why.GetCode() == arbiterpb.Refusal_CODE_EXPIRED {
			return nil, why
		}
		// Whoever holds a token may still say so.
		return w, nil
	}
	k.cluster = c
	w.Registered = true
	expires := time.Now().Truncate(time.Hour).Add(passLife).Unix()
	key := arbiter.PassKey(self.GetPassSecret(), who.cluster, who.node, expires)
	w.Pass = &arbiterpb.Pass{Key: key[:], Expires: expires, LookEvery: uint32(k.s.table.lookEvery())}
	return w, nil
}

// why this connection is not let ask.
func (k *conn) unregistered() *arbiterpb.Refusal {
	c := k.s.table.cluster(k.holder.cluster)
	const next = "run holdfast arbiter token on the arbiter's machine and register the cluster with it (holdfast quorum add or replace)"
	if c == nil {
		return refuse(arbiterpb.Refusal_CODE_NOT_REGISTERED, "cluster %s: %s", k.holder.cluster, next)
	}
	c.mu.Lock()
	forgotten := c.forgotten
	c.mu.Unlock()
	if forgotten {
		return refuse(arbiterpb.Refusal_CODE_FORGOTTEN, "cluster %s: the arbiter's administrator has removed it, and with it what was promised; %s", k.holder.cluster, next)
	}
	var reg *arbiterpb.Registration
	if err := k.s.store.view(func(t *tables) (err error) { reg, err = t.registration(k.holder.cluster); return err }); err == nil && reg != nil {
		if authorities, why := parseAuthorities(k.holder.cluster, reg.GetAuthorities()); why == nil {
			if why := judge(k.shown, k.holder, authorities, time.Now()); why != nil {
				return why
			}
		}
	}
	return refuse(arbiterpb.Refusal_CODE_BUSY, "cluster %s: what is registered has changed just now: connect again", k.holder.cluster)
}

// refuse before the welcome: say why, then close. What was sent is read until
// the other end has seen it: closing earlier would destroy the reason on its way.
func (k *conn) refuse(why *arbiterpb.Refusal) {
	_ = k.tls.SetDeadline(time.Now().Add(refuseLimit))
	m := &arbiterpb.FromArbiter{Body: &arbiterpb.FromArbiter_Welcome{Welcome: &arbiterpb.Welcome{Instance: k.s.store.self.GetInstance(), Refused: why}}}
	if wire.WriteFrame(k.tls, m) == nil && k.tls.CloseWrite() == nil {
		_, _ = io.Copy(io.Discard, io.LimitReader(k.tls, 64<<10))
	}
	_ = k.tls.NetConn().Close()
}

func (k *conn) touch() { k.active.Store(time.Now().UnixNano()) }

// close at once, whatever is under way.
func (k *conn) close() {
	k.mu.Lock()
	k.closed = true
	k.mu.Unlock()
	_ = k.tls.NetConn().Close()
}

// serve until the connection ends.
func (k *conn) serve() {
	k.s.enter(k)
	defer k.s.leave(k)
	defer k.close()
	if k.cluster != nil {
		old, ok := k.cluster.enter(k)
		if !ok {
			return
		}
		defer k.cluster.leave(k)
		for _, o := range old {
			o.close()
		}
	}
	for {
		if err := k.next(); err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) && !isTimeout(err) {
				k.s.log.Debug("arbiter: connection ended", "cluster", k.holder.cluster, "node", k.node, "error", err)
			}
			return
		}
	}
}

func isTimeout(err error) bool {
	t, ok := errors.AsType[net.Error](err)
	return ok && t.Timeout()
}

// next frame: read it and see to its answer.
func (k *conn) next() error {
	_ = k.tls.SetReadDeadline(time.Now().Add(idleLimit))
	if _, err := k.r.Peek(1); err != nil {
		return err
	}
	_ = k.tls.SetReadDeadline(time.Now().Add(k.s.o.FrameLimit))
	m := new(arbiterpb.ToArbiter)
	if err := wire.ReadFrame(k.r, m, arbiter.FrameMax); err != nil {
		return err
	}
	k.touch()
	// Answers that the node does not take hold up its own requests only (A6).
	select {
	case k.slots <- struct{}{}:
	default:
		timer := time.NewTimer(k.s.o.FrameLimit)
		defer timer.Stop()
		select {
		case k.slots <- struct{}{}:
		case <-timer.C:
			return errors.New("answers are not taken")
		case <-k.s.ctx.Done():
			return net.ErrClosed
		}
	}
	switch b := m.GetBody().(type) {
	case *arbiterpb.ToArbiter_Request:
		k.request(m.GetId(), b.Request)
	case *arbiterpb.ToArbiter_Register:
		k.answerAdmin(m.GetId(), k.s.table.register(k.shown, k.holder, b.Register), &arbiterpb.FromArbiter{Body: &arbiterpb.FromArbiter_Registered{Registered: &arbiterpb.Registered{}}})
	case *arbiterpb.ToArbiter_SetAuthorities:
		why := k.unregisteredYet()
		if why == nil {
			why = k.s.table.setAuthorities(k.shown, k.holder, b.SetAuthorities.GetAuthorities())
		}
		if why == nil {
			k.cluster.closeOthers(k) // whose certificates may be accepted no more
		}
		k.answerAdmin(m.GetId(), why, &arbiterpb.FromArbiter{Body: &arbiterpb.FromArbiter_AuthoritiesSet{AuthoritiesSet: &arbiterpb.AuthoritiesSet{}}})
	default:
		k.answer(&arbiterpb.FromArbiter{Id: m.GetId(), Body: &arbiterpb.FromArbiter_Refusal{Refusal: refuse(arbiterpb.Refusal_CODE_MALFORMED, "a frame %T", b)}})
	}
	return nil
}

func (k *conn) unregisteredYet() *arbiterpb.Refusal {
	if k.cluster == nil {
		return k.unregistered()
	}
	return nil
}

func (k *conn) answerAdmin(id uint64, why *arbiterpb.Refusal, ok *arbiterpb.FromArbiter) {
	if why != nil {
		ok = &arbiterpb.FromArbiter{Body: &arbiterpb.FromArbiter_Refusal{Refusal: why}}
	}
	ok.Id = id
	k.answer(ok)
}

func (k *conn) request(id uint64, r *witnesspb.Request) {
	began := time.Now()
	if why := k.unregisteredYet(); why != nil {
		k.answer(&arbiterpb.FromArbiter{Id: id, Body: &arbiterpb.FromArbiter_Refusal{Refusal: why}})
		return
	}
	answer := func(reply *witnesspb.Reply) {
		k.s.metrics.answered(r, reply, time.Since(began))
		k.answer(&arbiterpb.FromArbiter{Id: id, Body: &arbiterpb.FromArbiter_Reply{Reply: reply}})
	}
	if bad := checkAsker(k.cluster, k.node, r); bad != nil {
		answer(bad)
		return
	}
	if reply := k.s.table.do(k.cluster, r, answer); reply != nil {
		answer(reply)
	}
}

// answer a request that holds a slot. It never waits (A6).
func (k *conn) answer(m *arbiterpb.FromArbiter) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return
	}
	out, err := wire.AppendFrame(k.out, m)
	if err != nil {
		k.s.log.Error("arbiter: an answer can't be encoded", "error", err)
		_ = k.tls.NetConn().Close()
		return
	}
	k.out = out
	k.leaving++
	if !k.writing {
		k.writing = true
		go k.write()
	}
}

// write what is to leave, until there is nothing.
func (k *conn) write() {
	var spare []byte
	for {
		k.mu.Lock()
		b, n := k.out, k.leaving
		k.out, k.leaving = spare[:0], 0
		if len(b) == 0 || k.closed {
			k.writing = false
			k.out = nil
			k.mu.Unlock()
			return
		}
		k.mu.Unlock()
		_ = k.tls.SetWriteDeadline(time.Now().Add(k.s.o.FrameLimit))
		if _, err := k.tls.Write(b); err != nil {
			k.close()
			return
		}
		spare = b
		for range n {
			<-k.slots
		}
	}
}
