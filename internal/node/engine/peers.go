package engine

import (
	"slices"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-ha/holdfast/internal/cluster/peer/peerpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
)

func (e *Engine) peer(node string) *peerInfo {
	p := e.peers[node]
	if p == nil {
		p = &peerInfo{}
		e.peers[node] = p
	}
	return p
}

func (e *Engine) hello() *peerpb.Message {
	h := &peerpb.Hello{Node: e.node, RaftId: e.RaftID(), Epoch: e.s.GetView().GetEpoch(), GuardIncarnation: e.guard.incarnation}
	return &peerpb.Message{Body: &peerpb.Message_Hello{Hello: h}}
}

func (e *Engine) peerConn(node string, up bool) {
	p := e.peer(node)
	p.connected = up
	if id := p.hello.GetRaftId(); e.raft != nil && id != 0 {
		e.raft.Disconnected(id) // also when it is up again: the break may have gone unseen
		if up {
			e.raft.Nudge()
		}
	}
	if !up {
		return
	}
	e.send(node, e.hello())
	if p.hello != nil { // it may have come before there was a way to answer
		e.checkMember(node, p.hello)
	}
	for _, about := range state.SortedKeys(e.guard.statements) {
		if st, ok := e.statement(about); ok {
			e.send(node, &peerpb.Message{Body: &peerpb.Message_Suspicion{Suspicion: &peerpb.Suspicion{Statement: st}}})
		}
	}
	e.election.announced = 0 // say at once if there is no leader
	e.lead.confirmed = confirmation{}
	e.outside.nextAsk = min(e.outside.nextAsk, e.now)
	e.waiting.resend()
}

func (e *Engine) fromPeer(node string, m *peerpb.Message) {
	switch b := m.GetBody().(type) {
	case *peerpb.Message_Hello:
		if !e.mayBe(node, b.Hello.GetRaftId()) {
			e.logf("engine: %s says that it is raft id %d, which is another's: it is not heard", node, b.Hello.GetRaftId())
			return
		}
		anew := e.peer(node).hello.GetRaftId() != b.Hello.GetRaftId()
		e.peer(node).hello = b.Hello
		e.checkMember(node, b.Hello)
		if anew && e.raft != nil {
			e.raft.Nudge()
		}
	case *peerpb.Message_Raft:
		rm := &raftpb.Message{}
		if e.raft == nil || e.resetting != 0 || proto.Unmarshal(b.Raft, rm) != nil || e.peer(node).hello.GetRaftId() != rm.GetFrom() || !e.mayBe(node, rm.GetFrom()) {
			return // of or for another incarnation
		}
		if rm.GetType() == raftpb.MsgSnap && !e.readable(rm.GetSnapshot()) {
			return
		}
		e.raft.Step(rm)
	case *peerpb.Message_Suspicion:
		e.peer(node)
		e.suspicion(node, b.Suspicion)
	case *peerpb.Message_HeardAgain:
		if m := state.MemberOf(e.s, b.HeardAgain.GetNode()); m != nil && m.GetRaftId() == b.HeardAgain.GetRaftId() {
			e.lead.hearsAgain(node, b.HeardAgain.GetNode())
		}
	case *peerpb.Message_Proposal:
		e.proposalOf(node, b.Proposal)
	case *peerpb.Message_ProposalResult:
		e.waiting.refused(e.now, b.ProposalResult.GetRequest())
	case *peerpb.Message_JoinRequest:
		e.joinRequest(node, b.JoinRequest)
	case *peerpb.Message_StillKnown:
		e.stillKnown(b.StillKnown)
	case *peerpb.Message_JoinReply:
		e.joinReply(b.JoinReply)
	case *peerpb.Message_NotMember:
		e.notMember(node, b.NotMember)
	case *peerpb.Message_Applied:
		m, id := state.MemberOf(e.s, node), e.peer(node).hello.GetRaftId()
		if id != 0 && (m.GetRaftId() == id || e.s.GetLearners()[node].GetRaftId() == id) {
			e.keeper.Confirmed(e.now, id, b.Applied.GetEpoch(), b.Applied.GetConfigRevision())
		}
	}
}

// mayBe: the raft id is not that of another node, nor that of the coordination
// points, as far as is known here.
func (e *Engine) mayBe(node string, raftID uint64) bool {
	if raftID != 0 && raftID == e.s.GetWitness().GetRaftId() {
		return false
	}
	for _, m := range e.s.GetView().GetMembers() {
		if m.GetRaftId() == raftID {
			return m.GetNode() == node
		}
	}
	for name, l := range e.s.GetLearners() {
		if l.GetRaftId() == raftID {
			return name == node
		}
	}
	return true
}

// readable: a snapshot that this version can't read is refused before raft takes it.
func (e *Engine) readable(snap *raftpb.Snapshot) bool {
	if _, err := state.Unmarshal(snap.GetData()); err != nil {
		e.logf("engine: snapshot at %d refused: %v", snap.GetMetadata().GetIndex(), err)
		return false
	}
	return true
}

// checkMember tells a peer whose incarnation has no place any more so.
func (e *Engine) checkMember(node string, h *peerpb.Hello) {
	if e.s == nil || h.GetRaftId() == 0 || h.GetRaftId() >= e.s.GetNextRaftId() {
		return
	}
	if state.MemberOf(e.s, node).GetRaftId() == h.GetRaftId() || e.s.Learners[node].GetRaftId() == h.GetRaftId() {
		return
	}
	e.send(node, &peerpb.Message{Body: &peerpb.Message_NotMember{NotMember: &peerpb.NotMember{RaftId: h.GetRaftId(), Epoch: e.s.GetView().GetEpoch(), Detached: detachedThere(e.s, node)}}})
}

func (e *Engine) peerDropped(node string, m *peerpb.Message) {
	raw, ok := m.GetBody().(*peerpb.Message_Raft)
	rm := &raftpb.Message{}
	if !ok || e.raft == nil || proto.Unmarshal(raw.Raft, rm) != nil || rm.GetFrom() != e.RaftID() {
		return // everything else is repeated until it is answered
	}
	e.raft.Dropped(rm)
}

func addSet(set []string, s string) []string {
	if slices.Contains(set, s) {
		return set
	}
	return append(set, s)
}
