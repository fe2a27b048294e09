package engine

import (
	"fmt"
	"slices"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/holdfast-ha/holdfast/internal/cluster/consensus"
	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/peer/peerpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
	"github.com/holdfast-ha/holdfast/internal/cluster/view"
)

// What a leader does beyond planning: view changes, one at a time, and handing
// leadership over when another node is better placed.

type leading struct {
	term uint64
	// A configuration change was proposed and its entry is not applied yet.
	confChange   bool
	confChangeAt time.Duration
	// Suspected members, and the voters that hear them again since they have stated their suspicion.
	heardAgain map[string]map[string]bool
	// Since when this leader is the only one to suspect some member.
	aloneSince time.Duration
	transferAt time.Duration
	wake       time.Duration
	// The driver does something that it has to end before this leader leaves.
	busy bool
	// What the present leader was told last, and when.
	confirmed   confirmation
	confirmedAt time.Duration
}

func (l *leading) forgetHeard(node string) { delete(l.heardAgain, node) }

func (l *leading) hearsAgain(voter, node string) {
	if l.heardAgain == nil {
		l.heardAgain = map[string]map[string]bool{}
	}
	if l.heardAgain[node] == nil {
		l.heardAgain[node] = map[string]bool{}
	}
	l.heardAgain[node][voter] = true
}

type confirmation struct {
	leader, epoch, revision uint64
}

const (
	// A change that was proposed may be lost by a change of leaders; then it is proposed again.
	retryChange = time.Second
	// Raft gives up a move of leadership after 1.5 s, in which nothing else is changed. Then
	// there has to be time for other changes: the target may be what they are about.
	retryTransfer = 3 * time.Second
	// A follower may have applied a view before its leader has, which then can't place its word.
	repeatConfirm = 2 * time.Second
	// A leader that is alone in suspecting a member moves leadership to a node that sees everyone.
	aloneLimit = 2
)

func (e *Engine) leadOn() {
	e.lead.wake = 0
	if e.raft == nil || e.s == nil {
		return
	}
	st := e.raft.Status()
	e.confirm(st)
	if !e.raft.IsLeader() {
		if e.lead.term != 0 {
			e.waiting.leadershipLost()
			e.forgetAsked()
		}
		e.lead.term, e.lead.confChange, e.lead.aloneSince = 0, false, 0
		return
	}
	if e.lead.term != st.Term {
		e.lead.term, e.lead.confChange = st.Term, false
		e.logf("engine: this node leads in term %d", st.Term)
	}
	if e.appliedTerm != st.Term || st.Transferring {
		return // the log before this term is not known to be committed yet
	}
	if e.handOver(st) || st.Joint {
		return
	}
	if e.lead.confChange && e.now < e.lead.confChangeAt+retryChange {
		return
	}
	c, wake := e.keeper.Next(e.now, e.s, e.sight())
	if c == nil {
		c = e.admit()
	}
	if c != nil {
		e.change(c)
	}
	e.lead.wake = wake
}

// confirm tells the leader by which view and configuration this node's guard
// runs now.
func (e *Engine) confirm(st consensus.Status) {
	c := confirmation{st.Leader, e.guard.runsEpoch, e.guard.runsRevision}
	if st.Leader == 0 || c.epoch == 0 || c == e.lead.confirmed && e.now < e.lead.confirmedAt+repeatConfirm {
		return
	}
	name := e.nameOf(st.Leader)
	switch {
	case name == e.node:
		e.keeper.Confirmed(e.now, e.RaftID(), c.epoch, c.revision)
	case name != "" && e.peer(name).connected:
		e.send(name, &peerpb.Message{Body: &peerpb.Message_Applied{Applied: &peerpb.Applied{Epoch: c.epoch, Index: e.applied, ConfigRevision: c.revision}}})
	default:
		return
	}
	e.lead.confirmed, e.lead.confirmedAt = c, e.now
}

func (e *Engine) sight() view.Sight {
	return view.Sight{
		Self: e.node,
		Heard: func(node string) bool {
			return node == e.node || e.guard.heard(node)
		},
		Trouble: func(node string) bool {
			return node != e.node && e.guard.state(node) == guardpb.LinkState_LINK_STATE_TROUBLE
		},
		// Only the word of a voter whose suspicion stands counts, and only what it said after that.
		HeardAgain: func(node string) bool {
			return slices.ContainsFunc(e.keeper.Suspecting(e.s, node), func(voter string) bool {
				return voter == state.WitnessName && e.pointsHearAgain(node) || e.lead.heardAgain[node][voter] || voter == e.node && slices.Contains(e.guard.heardAgain, node)
			})
		},
		CaughtUp: func(raftID uint64) bool {
			match, snapshot, known := e.raft.Match(raftID)
			return known && !snapshot && match != 0 && match+50 >= e.raft.Status().Commit
		},
		Resigned: func(node string, raftID uint64) bool { return e.outside.resigned[node] == raftID },
	}
}

// change proposes what is due.
func (e *Engine) change(c *statepb.Command) {
	if state.ConfChange(c) {
		cc := &raftpb.ConfChangeV2{Changes: e.votes(c)}
		c.Proposer, c.Request, c.TimeMs, c.Format = e.node, e.requestNumber(), e.wall, state.Format
		cc.Context = state.Marshal(c)
		if err := e.raft.ProposeConfChange(cc); err == nil {
			e.lead.confChange, e.lead.confChangeAt = true, e.now
			e.lead.wake = e.now + retryChange
		}
		return
	}
	e.submitAsLeader(string(state.Marshal(&statepb.Command{Change: c.GetChange()})), c)
}

// votes are the changes of raft's configuration that go with a view change,
// the vote of the coordination points included.
func (e *Engine) votes(c *statepb.Command) []*raftpb.ConfChangeSingle {
	all := e.memberVotes(c)
	remove, add := e.witnessVote(c)
	if remove != 0 {
		all = append(all, &raftpb.ConfChangeSingle{Type: raftpb.ConfChangeRemoveNode.Enum(), NodeId: &remove})
	}
	if add != 0 {
		all = append(all, &raftpb.ConfChangeSingle{Type: raftpb.ConfChangeAddNode.Enum(), NodeId: &add})
	}
	if len(all) == 0 { // to the library a change without changes ends a joint configuration
		self := e.RaftID()
		all = append(all, &raftpb.ConfChangeSingle{Type: raftpb.ConfChangeAddNode.Enum(), NodeId: &self})
	}
	return all
}

func (e *Engine) memberVotes(c *statepb.Command) []*raftpb.ConfChangeSingle {
	remove := func(id uint64) *raftpb.ConfChangeSingle {
		return &raftpb.ConfChangeSingle{Type: raftpb.ConfChangeRemoveNode.Enum(), NodeId: &id}
	}
	switch c := c.GetChange().(type) {
	case *statepb.Command_Evict:
		var all []*raftpb.ConfChangeSingle
		for _, v := range c.Evict.GetEvictees() {
			all = append(all, remove(state.MemberOf(e.s, v.GetNode()).GetRaftId()))
		}
		return all
	case *statepb.Command_Leave:
		return []*raftpb.ConfChangeSingle{remove(state.MemberOf(e.s, c.Leave.GetNode()).GetRaftId())}
	case *statepb.Command_Join:
		id := c.Join.GetRaftId()
		all := []*raftpb.ConfChangeSingle{{Type: raftpb.ConfChangeAddLearnerNode.Enum(), NodeId: &id}}
		if old := e.s.GetLearners()[c.Join.GetNode()]; old != nil {
			all = append(all, remove(old.GetRaftId()))
		}
		return all
	case *statepb.Command_Promote:
		id := c.Promote.GetRaftId()
		return []*raftpb.ConfChangeSingle{{Type: raftpb.ConfChangeAddNode.Enum(), NodeId: &id}}
	}
	return nil
}

// handOver leadership where that is better: before leaving, before an
// announced silence, and when only this leader suspects some member (a leader
// that can't reach a member which everybody else reaches would keep that
// member without news).
func (e *Engine) handOver(st consensus.Status) bool {
	leaving := e.s.GetNodeStatus()[e.node].GetPhase() == statepb.NodePhase_NODE_PHASE_LEAVING
	_, _, peerinact := e.timers()
	alone := false
	for _, m := range e.s.GetView().GetMembers() {
		who := e.keeper.Suspecting(e.s, m.GetNode())
		if len(who) > 0 && who[0] == state.WitnessName {
			who = who[1:]
		}
		alone = alone || len(who) == 1 && who[0] == e.node
	}
	switch {
	case !alone:
		e.lead.aloneSince = 0
	case e.lead.aloneSince == 0:
		e.lead.aloneSince = e.now
	}
	if alone {
		e.lead.wake = e.lead.aloneSince + aloneLimit*peerinact
	}
	lonely := alone && e.now >= e.lead.aloneSince+aloneLimit*peerinact
	if !leaving && e.groups.silence == nil && !lonely {
		return false
	}
	if leaving && e.lead.busy && !lonely {
		return false
	}
	if e.now < e.lead.transferAt+retryTransfer {
		return false
	}
	var best uint64
	var bestMatch uint64
	for _, m := range e.s.GetView().GetMembers() {
		name := m.GetNode()
		if e.peers[name] == nil || !e.peers[name].connected || e.peers[name].hello.GetRaftId() != m.GetRaftId() {
			continue // this incarnation can't take anything over now
		}
		if name == e.node || !e.guard.heard(name) || e.suspects(name) || e.s.GetNodeStatus()[name].GetPhase() != statepb.NodePhase_NODE_PHASE_RUNNING {
			continue
		}
		if match, _, known := e.raft.Match(m.GetRaftId()); known && match >= bestMatch {
			best, bestMatch = m.GetRaftId(), match
		}
	}
	if best == 0 || bestMatch+50 < st.LastIndex {
		return false
	}
	e.logf("engine: leadership moves to %s", e.nameOf(best))
	e.lead.transferAt = e.now
	e.raft.TransferLeader(best)
	return true
}

// suspects: the node itself suspects some member.
func (e *Engine) suspects(voter string) bool {
	for _, m := range e.s.GetView().GetMembers() {
		if slices.Contains(e.keeper.Suspecting(e.s, m.GetNode()), voter) {
			return true
		}
	}
	return false
}

// viewApplied: the applied state has another view, other learners, other
// guards or other timers.
func (e *Engine) viewApplied() {
	e.keeper.State(e.now, e.s)
	e.guard.forgetVoid(e.s)
	e.election.announced = 0
	e.out.Peers = e.nodes()
	e.everyone(e.hello())
	for _, name := range e.connected() {
		e.checkMember(name, e.peers[name].hello)
	}
	if e.raft != nil && e.self() == nil && e.s.GetLearners()[e.node].GetRaftId() != e.RaftID() && e.RaftID() < e.s.GetNextRaftId() {
		e.outside.apart.tell(e.s.GetView().GetEpoch(), detachedThere(e.s, e.node))
		e.removed("this node is not in view " + fmt.Sprint(e.s.GetView().GetEpoch()))
	}
}
