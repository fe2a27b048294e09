package engine

import (
	"cmp"
	"fmt"
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/consensus"
	"github.com/holdfast-ha/holdfast/internal/cluster/peer/peerpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// Coming and going of incarnations. A node that is outside of the view has its
// guard stop everything, then asks to join, gets a new raft id, throws its old
// log away, and is a learner until it has caught up.

type outside struct {
	// This incarnation has been removed by a committed view.
	removed bool
	reason  string
	apart   apart
	nextAsk time.Duration
	// The newest incarnation that has ended although this node does not have its log.
	ended uint64
	// On the leader: who asked to join, and incarnations that have ended by their own word.
	asked    map[string]*peerpb.JoinRequest
	resigned map[string]uint64
	// Evictions of a node when it was last said that it has to wait.
	told map[string]uint32
}

const askEvery = 200 * time.Millisecond

func (e *Engine) removed(reason string) {
	if e.outside.removed {
		return
	}
	e.outside.removed, e.outside.reason = true, reason
	e.logf("engine: %s", reason)
	e.outside.nextAsk = e.now
}

// inside: this incarnation has, or gets, a place.
func (e *Engine) inside() bool { return e.raft != nil && !e.outside.removed }

func (e *Engine) notMember(from string, m *peerpb.NotMember) {
	if e.raft == nil || m.GetRaftId() != e.RaftID() || m.GetEpoch() < e.s.GetView().GetEpoch() {
		return
	}
	e.outside.apart.tell(m.GetEpoch(), m.GetDetached())
	e.removed("this node was removed from the cluster by view " + itoa(m.GetEpoch()) + ", as " + from + " says")
}

// leaving: an administrator wants this node out. What an earlier guard was told
// does not count: a node that was started again is wanted in.
func (e *Engine) leaving() bool {
	m := state.MemberOf(e.s, e.node)
	if m.GetGuardIncarnation() == e.guard.incarnation && m != nil && e.s.GetNodeStatus()[e.node].GetPhase() == statepb.NodePhase_NODE_PHASE_LEAVING {
		e.guard.sawLeaving = true
	}
	return e.guard.sawLeaving
}

func (e *Engine) joinOn() {
	e.outside.nextAsk = max(e.outside.nextAsk, 1)
	if e.inside() || e.resetting != 0 || e.leaving() {
		e.outside.nextAsk = 0
		return
	}
	if e.now < e.outside.nextAsk {
		return
	}
	e.outside.nextAsk = e.now + askEvery
	if !e.mayJoin() || e.stage != idle || e.compacting {
		return // E3
	}
	e.everyone(&peerpb.Message{Body: &peerpb.Message_JoinRequest{JoinRequest: &peerpb.JoinRequest{GuardIncarnation: e.guard.incarnation, OldRaftId: e.RaftID(), EndedRaftId: e.outside.ended, Nonce: e.run, Detached: e.comesBack()}}})
}

// stillKnown: the leader knows an incarnation of this node that it did not name.
// From here on it can't be this one any more, whatever reply is still on its way.
func (e *Engine) stillKnown(m *peerpb.StillKnown) {
	if e.inside() || e.resetting != 0 || m.GetRaftId() == e.RaftID() || !e.mayJoin() {
		return
	}
	e.outside.ended = max(e.outside.ended, m.GetRaftId())
	e.outside.nextAsk = min(e.outside.nextAsk, e.now)
}

// joinRequest is for the leader. One that was long on its way may be from
// before the incarnation that is a member now, or was until it was evicted: only a word
// about that very incarnation proves that it runs nothing.
func (e *Engine) joinRequest(node string, m *peerpb.JoinRequest) {
	if !e.IsLeader() || e.s.GetNodes()[node] == nil {
		return
	}
	member := state.MemberOf(e.s, node)
	known := e.notStopped(node)
	switch {
	case !isAbout(m, known):
		e.send(node, &peerpb.Message{Body: &peerpb.Message_StillKnown{StillKnown: &peerpb.StillKnown{RaftId: known}}})
		return
	case m.GetDetached() && !detachedThere(e.s, node):
		e.notCounted(node, m)
		return
	case member != nil && m.GetOldRaftId() != known:
		e.outside.resigned[node] = known
		return // it asks again
	case member != nil:
		return // its leave or eviction is not applied here yet
	}
	if e.outside.asked == nil {
		e.outside.asked = map[string]*peerpb.JoinRequest{}
	}
	e.outside.asked[node] = m
	e.answerJoin(node)
}

// notStopped is the incarnation of a node that is not known to have stopped, 0: none.
func (e *Engine) notStopped(node string) uint64 {
	return cmp.Or(state.MemberOf(e.s, node).GetRaftId(), e.s.GetNodeStatus()[node].GetFence().GetRaftId())
}

// isAbout: the request says that an incarnation has ended.
func isAbout(m *peerpb.JoinRequest, raftID uint64) bool {
	return raftID == 0 || m.GetOldRaftId() == raftID || m.GetEndedRaftId() == raftID
}

// forgetAsked: what was asked of a leader is asked again of the next one.
func (e *Engine) forgetAsked() {
	clear(e.outside.asked)
	clear(e.outside.resigned)
}

// answerJoin when the raft id is there.
func (e *Engine) answerJoin(node string) {
	m, l := e.outside.asked[node], e.s.GetLearners()[node]
	if m == nil || !isOf(l, m) {
		return
	}
	delete(e.outside.asked, node)
	e.send(node, &peerpb.Message{Body: &peerpb.Message_JoinReply{JoinReply: &peerpb.JoinReply{RaftId: l.GetRaftId(), GuardIncarnation: l.GetGuardIncarnation(), Nonce: l.GetNonce()}}})
}

// isOf: the learner is what this request has led to, so that its node has the raft id or still waits for it. One
// that has lost its log since then asks in another run of its engine, and one that was given it before asks with it.
func isOf(l *statepb.Member, m *peerpb.JoinRequest) bool {
	return l != nil && l.GetGuardIncarnation() == m.GetGuardIncarnation() && l.GetNonce() == m.GetNonce() && l.GetRaftId() != m.GetOldRaftId()
}

// onProbation says once why a node is kept waiting.
func (e *Engine) onProbation(node string, wait time.Duration) {
	n := e.s.GetNodeStatus()[node].GetEvictions()
	if e.outside.told[node] == n {
		return
	}
	if e.outside.told == nil {
		e.outside.told = map[string]uint32{}
	}
	e.outside.told[node] = n
	e.submitAsLeader("probation "+node, &statepb.Command{Change: &statepb.Command_Note{Note: &statepb.Note{Events: []*v1.Event{{
		Severity: v1.Severity_SEVERITY_WARNING, Code: "node.probation", Node: node,
		Message: fmt.Sprintf("%s was evicted %d times lately: it may join again in %v, and after %v without another eviction that is forgotten",
			node, n, wait.Round(time.Second), state.SteadyAfter),
	}}}}})
}

// admit the next node that asked, on the leader.
func (e *Engine) admit() *statepb.Command {
	for _, node := range state.SortedKeys(e.outside.asked) {
		m := e.outside.asked[node]
		if state.MemberOf(e.s, node) != nil || !isAbout(m, e.notStopped(node)) {
			delete(e.outside.asked, node) // it has joined since
			continue
		}
		if m.GetDetached() && !detachedThere(e.s, node) {
			delete(e.outside.asked, node) // not any more, which it hears when it asks again
			continue
		}
		if isOf(e.s.GetLearners()[node], m) {
			e.answerJoin(node)
			continue
		}
		if wait := e.keeper.Probation(e.now, e.s, node); wait > 0 {
			e.onProbation(node, wait)
			continue
		}
		return &statepb.Command{Change: &statepb.Command_Join{Join: &statepb.Join{
			Node: node, RaftId: e.s.GetNextRaftId(), GuardIncarnation: m.GetGuardIncarnation(), EndedRaftId: e.notStopped(node), Nonce: m.GetNonce(), Detached: m.GetDetached(),
		}}}
	}
	return nil
}

// joinReply: begin anew under the new raft id.
func (e *Engine) joinReply(m *peerpb.JoinReply) {
	if e.inside() || e.resetting != 0 || m.GetGuardIncarnation() != e.guard.incarnation || m.GetNonce() != e.run || m.GetRaftId() == e.RaftID() ||
		m.GetRaftId() <= e.outside.ended || !e.mayJoin() || e.stage != idle || e.compacting {
		return
	}
	e.resetting = m.GetRaftId()
	e.out.Persist = &Batch{Batch: consensus.Batch{Reset: true}, RaftID: m.GetRaftId()}
}

func (e *Engine) resetDone() {
	r, err := consensus.New(consensus.Config{RaftID: e.resetting, State: e.encoded, Logf: e.trace})
	if err != nil {
		e.fail("raft: %v", err)
		return
	}
	e.logf("engine: this node joins as raft id %d", e.resetting)
	e.seeds = e.nodes()
	e.raft, e.s, e.applied, e.appliedTerm, e.appendedView = r, nil, 0, 0, nil
	e.resetting, e.outside.removed, e.outside.apart = 0, false, apart{}
	e.triggers.told = map[uint64]bool{} // the runs of another incarnation
	e.guard.statements = map[string]stated{}
	e.groups.reset()
	e.dropProposals()
	e.everyone(e.hello())
}
