package peer

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/holdfast-ha/holdfast/internal/cluster/peer/peerpb"
	"github.com/holdfast-ha/holdfast/internal/wire"
)

// ErrRefused marks connections that were given up because one side does not
// want the other.
var ErrRefused = errors.New("refused")

// A refusal says who has refused whom, and why.
type refusal struct {
	// by the peer; else by this node.
	byPeer bool
	why    string
}

func (r *refusal) Error() string {
	if r.byPeer {
		return "it refuses this node: " + r.why
	}
	return "it is refused: " + r.why
}
func (r *refusal) Unwrap() error { return ErrRefused }

// hello is this node's first frame.
func (t *Transport) hello() *peerpb.Message {
	id := t.o.Identity
	return &peerpb.Message{Body: &peerpb.Message_Hello{Hello: &peerpb.Hello{
		ProtocolMin: t.o.ProtocolMin, ProtocolMax: t.o.ProtocolMax,
		ClusterUuid: id.ClusterUUID, Node: id.Node, Addresses: t.Addresses(), Lineage: id.Lineage,
	}}}
}

// checkHello of a node that its certificate calls name.
func (t *Transport) checkHello(name string, h *peerpb.Hello) error {
	id := t.o.Identity
	switch {
	case h.GetRefused() != "":
		return &refusal{true, h.GetRefused()}
	case h.GetClusterUuid() != id.ClusterUUID:
		return &refusal{why: fmt.Sprintf("it is of cluster %s, node %s is of cluster %s", h.GetClusterUuid(), id.Node, id.ClusterUUID)}
	case h.GetNode() != name:
		return &refusal{why: fmt.Sprintf("it calls itself %q, but its certificate is of node %q", h.GetNode(), name)}
	case h.GetNode() == id.Node:
		return &refusal{why: fmt.Sprintf("it calls itself %q, which is this node: was its state directory copied?", h.GetNode())}
	case h.GetLineage() != id.Lineage:
		return &refusal{why: fmt.Sprintf("node %s is of lineage %s of the cluster, node %s of lineage %s: an administrator gave up the quorum of one of them; the node that is not wanted rejoins with a new token (holdfast node token)",
			name, lineageName(h.GetLineage()), id.Node, lineageName(id.Lineage))}
	case h.GetProtocolMax() < t.spoken.Load():
		return &refusal{why: fmt.Sprintf("the cluster speaks protocol version %d, and node %s only %d to %d: upgrade node %s", t.spoken.Load(), name, h.GetProtocolMin(), h.GetProtocolMax(), name)}
	case h.GetProtocolMin() > t.o.ProtocolMax:
		return &refusal{why: fmt.Sprintf("node %s speaks protocol versions %d to %d, node %s only %d to %d: upgrade node %s", name, h.GetProtocolMin(), h.GetProtocolMax(), id.Node, t.o.ProtocolMin, t.o.ProtocolMax, id.Node)}
	case h.GetProtocolMax() < t.o.ProtocolMin:
		return &refusal{why: fmt.Sprintf("node %s speaks protocol versions %d to %d, node %s only %d to %d: upgrade node %s", name, h.GetProtocolMin(), h.GetProtocolMax(), id.Node, t.o.ProtocolMin, t.o.ProtocolMax, name)}
	}
	return nil
}

func lineageName(l string) string {
	if l == "" {
		return "first"
	}
	return l
}

// readHello reads the first frame.
func readHello(r *bufio.Reader) (*peerpb.Hello, error) {
	m := new(peerpb.Message)
	if err := wire.ReadFrame(r, m, firstFrameMax); err != nil {
		return nil, err
	}
	if m.GetHello() == nil {
		return nil, fmt.Errorf("the first frame is a %T, not a Hello", m.GetBody())
	}
	return m.GetHello(), nil
}

// refuse tells the other side why, and closes. What it has sent is read until
// it has seen the reason: closing earlier would destroy it on its way.
func (t *Transport) refuse(c *tls.Conn, why error) {
	_ = c.SetDeadline(time.Now().Add(refuseLimit))
	m := t.hello()
	m.GetHello().Refused = why.Error()
	if wire.WriteFrame(c, m) == nil && c.CloseWrite() == nil {
		_, _ = io.Copy(io.Discard, io.LimitReader(c, 1<<20))
	}
	_ = c.Close()
}

// meet does both sides of the handshake after TLS: each side judges the
// other's certificate, then the Hellos are exchanged. want is the node that was
// called, empty: this node was called. It returns the other's Hello.
func (t *Transport) meet(c *tls.Conn, r *bufio.Reader, want string) (*peerpb.Hello, error) {
	name, err := t.o.Identity.PeerName(c.ConnectionState())
	if err == nil && want != "" && name != want {
		err = fmt.Errorf("node %q was expected here, the certificate is of node %q", want, name)
	}
	if err != nil {
		// It may be about to refuse us too: its reason is worth a line here.
		theirs := ""
		_ = c.SetDeadline(time.Now().Add(refuseLimit))
		t.sendRefusal(c, err)
		if h, herr := readHello(r); herr == nil && h.GetRefused() != "" {
			theirs = "; it refuses this node too: " + h.GetRefused()
		}
		_ = c.Close()
		return nil, &refusal{why: err.Error() + theirs}
	}
	if want != "" {
		if err := wire.WriteFrame(c, t.hello()); err != nil {
			return nil, err
		}
	}
	h, err := readHello(r)
	if err != nil {
		return nil, err
	}
	if err := t.checkHello(name, h); err != nil {
		var ref *refusal
		if errors.As(err, &ref) && !ref.byPeer {
			t.refuse(c, errors.New(ref.why))
		}
		return nil, err
	}
	if want == "" {
		// The one who was called answers last, so that its Hello is a welcome.
		err = wire.WriteFrame(c, t.hello())
	}
	return h, err
}

func (t *Transport) sendRefusal(c *tls.Conn, why error) {
	m := t.hello()
	m.GetHello().Refused = why.Error()
	m.GetHello().Addresses = nil
	if wire.WriteFrame(c, m) == nil {
		_ = c.CloseWrite()
	}
}
