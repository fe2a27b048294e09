//go:build linux

package clusterd

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/link"
	"github.com/holdfast-ha/holdfast/internal/cluster/peer/peerpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/node/engine"
)

// listenRetry is how often a link that can't be listened on is tried again.
const listenRetry = time.Second

// fromPeers takes what comes from other nodes into the inbox.
type fromPeers struct{ n *node }

func (f fromPeers) Message(node string, m *peerpb.Message) {
	switch b := m.GetBody().(type) {
	case *peerpb.Message_SecretRequest:
		// The certificate says that it is a node; that it is still configured, the log.
		f.n.post(func() {
			if f.n.engine.State().GetNodes()[node] == nil {
				return
			}
			f.n.background(func() {
				if reply := f.n.secretReply(b.SecretRequest); reply != nil {
					f.n.peers.Send(node, &peerpb.Message{Body: &peerpb.Message_SecretReply{SecretReply: reply}})
				}
			})
		})
		return
	case *peerpb.Message_SecretReply:
		f.n.post(func() { f.n.secret(b.SecretReply) })
		return
	}
	f.n.post(func() { f.n.step(engine.FromPeer{Node: node, Message: m}) })
}

func (f fromPeers) Connected(node string, up bool) {
	f.n.post(func() { f.n.step(engine.PeerConn{Node: node, Up: up}) })
}

func (f fromPeers) Dropped(node string, m *peerpb.Message) {
	f.n.post(func() { f.n.step(engine.PeerDropped{Node: node, Message: m}) })
}

// addresses follows the configuration: where this node listens, and where the
// others do.
func (n *node) addresses() {
	s := n.engine.State()
	nodes := n.id.Nodes
	if s != nil {
		if n.addressed && n.revision == s.GetConfigRevision() {
			return
		}
		n.revision = s.GetConfigRevision()
		nodes = nil
		for _, name := range state.SortedKeys(s.GetNodes()) {
			nodes = append(nodes, s.GetNodes()[name])
		}
	} else if n.addressed {
		return
	}
	first := !n.addressed
	n.addressed = true
	peers := map[string][]string{}
	var own []string
	for _, one := range nodes {
		as, err := endpoints(one)
		if err != nil {
			n.log.Error("a node's address can't be used", "node", one.GetName(), "error", err)
			continue
		}
		peers[one.GetName()] = as
		if one.GetName() == n.id.Node {
			own = as
		}
	}
	if own == nil { // taken out of the configuration: the others can still be reached
		own, _ = endpoints(n.id.Self())
	}
	n.own = own
	n.listen()
	n.peers.SetPeers(peers)
	if s == nil {
		return
	}
	// Kept for a start without a log. Not here: the disk may hang.
	keep := &v1.Configuration{Nodes: nodes}
	if first && proto.Equal(keep, &v1.Configuration{Nodes: n.id.Nodes}) {
		return
	}
	select {
	case <-n.toKeep: // only the newest counts
	default:
	}
	n.toKeep <- proto.CloneOf(keep)
}

// listen on this node's addresses; what does not work is tried again, since a
// port that somebody else holds may become free.
func (n *node) listen() {
	n.listenAt = 0
	err := n.peers.Listen(n.own)
	if err == nil {
		if n.listenFault != "" {
			n.log.Info("this node listens on all links again")
		}
		n.listenFault = ""
		return
	}
	if err.Error() != n.listenFault {
		n.log.Error("peers and remote clients can't reach this node on all links", "error", err)
	}
	n.listenFault = err.Error()
	n.listenAt = n.now() + listenRetry
}

func (n *node) keepNodes() {
	for {
		select {
		case c := <-n.toKeep:
			if err := n.id.SaveNodes(c.GetNodes()); err != nil {
				n.log.Error("the nodes' addresses are not kept for a start without a log", "error", err)
			}
		case <-n.done:
			return
		}
	}
}

func endpoints(one *v1.Node) ([]string, error) {
	var as []string
	for _, l := range one.GetLinks() {
		a, err := link.Parse(l.GetAddress())
		if err != nil {
			return nil, fmt.Errorf("link %s: %w", l.GetName(), err)
		}
		as = append(as, a.String())
	}
	return as, nil
}

// links passes on what guard knows of links.
func (n *node) links(before, now *guardpb.Peers) {
	was := map[string]guardpb.LinkState{}
	for _, p := range before.GetPeers() {
		was[p.GetNode()] = p.GetState()
	}
	for _, p := range now.GetPeers() {
		if p.GetNode() == n.id.Node {
			continue
		}
		for i, l := range p.GetLinks() {
			n.peers.LinkState(p.GetNode(), i, l != guardpb.LinkState_LINK_STATE_DOWN)
		}
		if heard(p.GetState()) && !heard(was[p.GetNode()]) {
			n.peers.Kick(p.GetNode())
		}
	}
}

func heard(s guardpb.LinkState) bool {
	return s == guardpb.LinkState_LINK_STATE_UP || s == guardpb.LinkState_LINK_STATE_JEOPARDY
}
