// Package peer carries messages between the nodes of a cluster: frames of
// peerpb.Message over TLS 1.3, with certificates on both sides.
//
// A [Transport] keeps one outgoing connection to each peer and sends this
// node's messages over it; the peer's messages come over the connection that
// the peer has made. It decides only which link to use and when to try again.
// The same port serves the API to remote clients.
//
// The caller says who the peers are ([Transport.SetPeers]), passes on what
// guard knows of links ([Transport.LinkState], [Transport.Kick]), and gets
// everything back through [Options.Handler].
//
//	P1  messages to a node arrive in the order of Send, or not at all
//	P2  a message that was taken and may not have arrived is reported as dropped,
//	    unless it was written so long ago that more has been written since
//	P3  nothing but a Hello is taken from, or sent to, a node whose certificate
//	    and Hello have not been checked
//	P4  queues, frames and handshakes are bounded; a full queue drops, it never blocks
//	P5  who is refused is told why, and the refusal is logged on both sides
//
// The protocol is described in docs/formats/peer.md.
package peer

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-ha/holdfast/internal/cluster/identity"
	"github.com/holdfast-ha/holdfast/internal/cluster/peer/peerpb"
)

// ProtocolMin is the lowest version of the protocol that this program speaks;
// ProtocolMax, the highest, is in version.go.
const ProtocolMin = 1

// Protocol is the name of the peers' protocol in TLS (ALPN).
const Protocol = "holdfast-peer/1"

// Bounds.
const (
	// FrameMax is the longest message, in bytes.
	FrameMax      = 64 << 20
	firstFrameMax = 64 << 10
	queueBytes    = FrameMax + 16<<20
	queueCount    = 8192
	flushBytes    = 64 << 10

	dialLimit      = time.Second
	dialLimitOther = 500 * time.Millisecond // when there is another link to try
	handshakeLimit = 3 * time.Second
	refuseLimit    = time.Second
	userTimeout    = 5 * time.Second

	backoffMin = 20 * time.Millisecond
	backoffMax = 500 * time.Millisecond
	// A peer that has refused us, or that we refused, is not asked again sooner.
	backoffRefused = time.Second

	handshakesMax    = 64
	handshakesPerIP  = 16
	strangerLogEvery = time.Second
	troubleLogEvery  = time.Minute
)

// Handler gets what comes from peers. Its methods are called from many
// goroutines; those of one node one after the other, except that Message is
// independent of the other two. [Transport.Close] waits for them.
type Handler interface {
	// Message from a node. It may block, which stops reading from that node.
	Message(node string, m *peerpb.Message)
	// Connected says whether messages can be sent to a node now.
	Connected(node string, up bool)
	// Dropped is a message that was taken but may not have arrived.
	Dropped(node string, m *peerpb.Message)
}

// Options of a transport.
type Options struct {
	Identity *identity.Identity
	Handler  Handler
	// API serves remote clients on the same port; nil: they are refused.
	API http.Handler
	// Enroll answers a machine that wants to become a node and has shown that it
	// has the key in the certificate, which proves nothing else. Nil: they are refused.
	Enroll func(ctx context.Context, own *x509.Certificate, r *peerpb.EnrollRequest) *peerpb.EnrollReply
	// Log takes one line per change. Nil: silent.
	Log *slog.Logger
	// Versions to speak; 0: ProtocolMin and ProtocolMax.
	ProtocolMin, ProtocolMax uint32
}

// Transport between this node and its peers.
type Transport struct {
	o      Options
	log    *slog.Logger
	tls    *tls.Config
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	api    *apiServer

	mu        sync.Mutex
	own       []string // listening addresses in link order
	listeners map[string]net.Listener
	out       map[string]*outgoing
	in        map[string]*incoming
	known     map[netip.Addr]bool // addresses of peers, for admission
	admitted  map[netip.Addr]int
	strangers int // handshakes under way of addresses that are not known

	spoken     atomic.Uint32 // version that the cluster speaks: who does not is refused
	refused    atomic.Uint64
	lastLogged atomic.Int64
	unlogged   atomic.Uint64
}

// Counters of one peer, since the start.
type Counters struct {
	Connected bool
	// Link of the outgoing connection, -1: none.
	Link                    int
	Sent, Received, Dropped uint64
	Connections, Refused    uint64
}

// New makes a transport that neither listens nor knows anybody yet.
func New(o Options) *Transport {
	if o.ProtocolMin == 0 {
		o.ProtocolMin = ProtocolMin
	}
	if o.ProtocolMax == 0 {
		o.ProtocolMax = ProtocolMax
	}
	t := &Transport{
		o: o, log: o.Log, tls: o.Identity.PeerTLS(),
		listeners: map[string]net.Listener{}, out: map[string]*outgoing{}, in: map[string]*incoming{},
		known: map[netip.Addr]bool{}, admitted: map[netip.Addr]int{},
	}
	if t.log == nil {
		t.log = slog.New(slog.DiscardHandler)
	}
	t.tls.NextProtos = []string{Protocol, "h2", "http/1.1"}
	if o.Enroll != nil {
		enroll := o.Identity.EnrollTLS()
		enroll.NextProtos = []string{EnrollProtocol}
		t.tls.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			if slices.Contains(h.SupportedProtos, EnrollProtocol) {
				return enroll, nil
			}
			return nil, nil
		}
	}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	if o.API != nil {
		t.api = newAPIServer(o.API)
		t.wg.Go(t.api.serve)
	}
	return t
}

// Listen on the addresses ("ip:port", this node's in link order) and on no
// others. Addresses that the machine does not have yet are no error.
func (t *Transport) Listen(addresses []string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ctx.Err() != nil {
		return net.ErrClosed
	}
	var all error
	t.own = slices.Clone(addresses)
	for a, l := range t.listeners {
		if !slices.Contains(addresses, a) {
			_ = l.Close()
			delete(t.listeners, a)
		}
	}
	for _, a := range addresses {
		if t.listeners[a] != nil {
			continue
		}
		l, err := listen(t.ctx, a)
		if err != nil {
			all = errors.Join(all, fmt.Errorf("listen for peers on %s: %w", a, err))
			continue
		}
		t.listeners[a] = l
		t.wg.Go(func() { t.accept(l) })
	}
	return all
}

// Addresses that are being listened on, with the ports that were chosen for port 0.
func (t *Transport) Addresses() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var as []string
	for _, a := range t.own {
		if l := t.listeners[a]; l != nil {
			as = append(as, l.Addr().String())
		}
	}
	return as
}

// ownAddress on a link, empty: there is none.
func (t *Transport) ownAddress(link int) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if link < len(t.own) {
		return t.own[link]
	}
	return ""
}

// SetPeers says who the peers are and at which addresses ("ip:port", in link
// order) they listen. Connections to others end. This node may be among them.
func (t *Transport) SetPeers(peers map[string][]string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ctx.Err() != nil {
		return
	}
	t.known = map[netip.Addr]bool{}
	for node, addresses := range peers {
		for _, a := range addresses {
			if ap, err := netip.ParseAddrPort(a); err == nil {
				t.known[ap.Addr().Unmap()] = true
			}
		}
		t.setPeer(node, addresses)
	}
	for node, p := range t.out {
		if _, ok := peers[node]; !ok {
			p.end()
			delete(t.out, node)
		}
	}
}

func (t *Transport) setPeer(node string, addresses []string) {
	if node == t.o.Identity.Node {
		return
	}
	p := t.out[node]
	if p == nil {
		p = newOutgoing(t, node)
		t.out[node] = p
		t.wg.Go(p.run)
	}
	p.setAddresses(addresses)
}

// learn where a node listens that is not configured yet as far as this node
// knows: it may be the one from which this node has to learn that.
func (t *Transport) learn(node string, addresses []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ctx.Err() == nil && t.out[node] == nil && len(addresses) > 0 && len(addresses) <= 8 {
		t.setPeer(node, addresses)
	}
}

// Send takes a message for a node, or returns false: there is no connection,
// the queue is full, or the message is too long. The message must not be
// changed afterwards.
func (t *Transport) Send(node string, m *peerpb.Message) bool {
	p := t.peer(node)
	return p != nil && p.send(m)
}

// LinkState says whether heartbeats come through over a link of a peer. A
// connection over a link that is down moves to another one that is up.
func (t *Transport) LinkState(node string, link int, up bool) {
	if p := t.peer(node); p != nil {
		p.linkState(link, up)
	}
}

// Speak says which version of the protocol the cluster speaks. Nodes that do
// not are refused from then on.
func (t *Transport) Speak(version uint32) { t.spoken.Store(version) }

// Recheck ends the connections of nodes whose certificates are refused by now.
func (t *Transport) Recheck() {
	t.mu.Lock()
	outs, ins := slices.Collect(maps.Values(t.out)), slices.Collect(maps.Values(t.in))
	t.mu.Unlock()
	for _, in := range ins {
		if c, ok := in.conn.(*tls.Conn); ok {
			if _, err := t.o.Identity.PeerName(c.ConnectionState()); err != nil {
				_ = c.NetConn().Close()
			}
		}
	}
	for _, p := range outs {
		p.mu.Lock()
		if c, ok := p.conn.(*tls.Conn); ok {
			if _, err := t.o.Identity.PeerName(c.ConnectionState()); err != nil {
				p.closing = &refusal{why: err.Error()}
				_ = c.NetConn().Close()
			}
		}
		p.mu.Unlock()
	}
}

// Kick says that a peer is there again: it is dialled at once.
func (t *Transport) Kick(node string) {
	if p := t.peer(node); p != nil {
		p.kickNow()
	}
}

func (t *Transport) peer(node string) *outgoing {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.out[node]
}

// Counters of all peers.
func (t *Transport) Counters() map[string]Counters {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := map[string]Counters{}
	for node, p := range t.out {
		all[node] = p.counters()
	}
	return all
}

// Refused is how many incoming connections have been refused.
func (t *Transport) Refused() uint64 { return t.refused.Load() }

// Close ends all connections and waits for the handler's last call.
func (t *Transport) Close() {
	t.cancel()
	t.mu.Lock()
	for _, l := range t.listeners {
		_ = l.Close()
	}
	for _, p := range t.out {
		p.end()
	}
	ins := slices.Collect(maps.Values(t.in))
	t.mu.Unlock()
	for _, i := range ins {
		_ = i.conn.Close()
	}
	if t.api != nil {
		t.api.close()
	}
	t.wg.Wait()
}
