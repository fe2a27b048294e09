package state

import (
	"fmt"
	"slices"
	"strings"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	pb "github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// Power fencing: what groups require of a lost node before they are started
// elsewhere, and the attempts to switch such a node off (docs/fencing.md).

// keepFences is how many attempts the state keeps.
const keepFences = 256

// maxFenceMessage bounds what agents may have put into the state, in bytes.
const maxFenceMessage = 4 << 10

// Requirement is what a group needs to be proven of a lost node that it ran on.
// Unless it is set, time is enough: no resource type says yet that it writes data that
// other nodes can reach.
func Requirement(g *v1.Group) v1.Takeover {
	if t := g.GetTakeover(); t != v1.Takeover_TAKEOVER_UNSPECIFIED {
		return t
	}
	return v1.Takeover_TAKEOVER_TIME
}

// Suffices says whether a proof is what a requirement asks for.
func Suffices(t v1.Takeover, p pb.Proof) bool {
	switch p {
	case pb.Proof_PROOF_GOODBYE, pb.Proof_PROOF_POWER, pb.Proof_PROOF_CONFIRMED:
		return true
	case pb.Proof_PROOF_STORAGE:
		return t == v1.Takeover_TAKEOVER_STORAGE
	case pb.Proof_PROOF_TIME:
		return t != v1.Takeover_TAKEOVER_STORAGE && t != v1.Takeover_TAKEOVER_POWER
	}
	return false
}

// Unproven are the groups, sorted, of which something may still run on an
// evicted node by what is proven of it so far and which time will not help.
func Unproven(s *pb.State, node string) (groups []string) {
	f := s.GetNodeStatus()[node].GetFence()
	if f == nil {
		return nil
	}
	for _, name := range SortedKeys(s.GetGroupStatus()) {
		g, on := s.GetGroups()[name], s.GroupStatus[name].GetNodes()[node]
		if on == nil || g == nil || Settled(s, g, on) || lifts(g, on, pb.Proof_PROOF_TIME) || lifts(g, on, f.GetProven()) {
			continue
		}
		groups = append(groups, name)
	}
	return groups
}

// lifts: the proof is enough for what is known of the group there. No time and no fenced storage ends
// what goes on without a lease.
func lifts(g *v1.Group, on *pb.GroupOnNode, p pb.Proof) bool {
	if on.GetDetached() {
		return Suffices(v1.Takeover_TAKEOVER_POWER, p)
	}
	return Suffices(Requirement(g), p)
}

// FenceOf returns the newest attempt to switch off an incarnation of a node, and
// how many there were before it; nil: none.
func FenceOf(s *pb.State, node string, raftID uint64) (op *v1.FenceOperation, before int) {
	for _, o := range s.GetFenceOperations() {
		if o.GetNode() == node && o.GetRaftId() == raftID {
			if op != nil {
				before++
			}
			op = o
		}
	}
	return op, before
}

// PowerWanted says whether an evicted node should be switched off now: some group
// waits for that, it can be done, and nobody is at it. Never one that an administrator has detached.
func PowerWanted(s *pb.State, node string) bool {
	if len(s.GetNodes()[node].GetFenceLevels()) == 0 || len(Unproven(s, node)) == 0 || s.GetNodeStatus()[node].GetDetach() {
		return false
	}
	op, _ := FenceOf(s, node, s.GetNodeStatus()[node].GetFence().GetRaftId())
	return op.GetResult() != v1.FenceResult_FENCE_RESULT_RUNNING
}

// stopped: of an evicted incarnation it is proven, so far as p proves it, that it
// runs nothing any more (S4). The places of groups that require more are kept, and so is the fence.
func (a *applier) stopped(node string, p pb.Proof) {
	st := a.status(node)
	if f := st.Fence; f != nil && !Suffices(v1.Takeover_TAKEOVER_POWER, f.GetProven()) {
		f.Proven = p
	}
	a.settleFence(node)
	a.planChanged()
	how := map[pb.Proof]string{
		pb.Proof_PROOF_GOODBYE:   "its guard said so",
		pb.Proof_PROOF_TIME:      "its lease and its time to stop are over",
		pb.Proof_PROOF_STORAGE:   "its storage is fenced",
		pb.Proof_PROOF_POWER:     "it was powered off",
		pb.Proof_PROOF_CONFIRMED: "an administrator said that it is down",
	}[p]
	if left := DetachedOn(a.s, node); len(left) > 0 {
		a.nodeEvent(v1.Severity_SEVERITY_WARNING, "node.unproven", node, "%s may still go on with %s, which it was detached with and had not taken up again; of other groups it runs nothing any more: %s",
			node, strings.Join(left, ", "), how)
		return
	}
	if wait := Unproven(a.s, node); len(wait) > 0 {
		a.nodeEvent(v1.Severity_SEVERITY_WARNING, "node.unproven", node, "%s is not proven to be off, which %s; of other groups it runs nothing any more: %s", node, requiredBy(a.s, wait), how)
		return
	}
	a.nodeEvent(v1.Severity_SEVERITY_INFORMATION, "node.stopped", node, "%s is proven to run nothing any more: %s", node, how)
}

// requiredBy: "web requires (takeover: power)".
func requiredBy(s *pb.State, groups []string) string {
	word := strings.ToLower(strings.TrimPrefix(Requirement(s.Groups[groups[0]]).String(), "TAKEOVER_"))
	verb := "requires"
	if len(groups) > 1 {
		verb = "require"
	}
	return fmt.Sprintf("%s %s (takeover: %s)", strings.Join(groups, ", "), verb, word)
}

// settleFence takes away what is proven to have stopped: places of groups, and
// the fence itself when no group needs more.
func (a *applier) settleFence(node string) {
	st := a.s.NodeStatus[node]
	f := st.GetFence()
	if f.GetProven() == pb.Proof_PROOF_UNSPECIFIED {
		return
	}
	wait := Unproven(a.s, node)
	for name, gs := range a.s.GroupStatus {
		if _, there := gs.Nodes[node]; there && !slices.Contains(wait, name) {
			delete(gs.Nodes, node)
			a.planChanged()
		}
	}
	if len(wait) == 0 {
		st.Fence, st.Detach = nil, false
		a.planChanged()
	}
}

// settleFences after any change: a group may require less by now, or be gone.
func (a *applier) settleFences() {
	for node, st := range a.s.NodeStatus { // in any order: one has nothing to do with another
		if st.GetFence() != nil {
			a.settleFence(node)
		}
	}
}

func (a *applier) fenceStarted(c *pb.FenceStarted) *Refused {
	f := a.s.NodeStatus[c.GetNode()].GetFence()
	if f == nil || f.GetRaftId() != c.GetRaftId() {
		return refuse(CodeStale, "nothing waits for a proof about raft id %d of node %s", c.GetRaftId(), c.GetNode())
	}
	if m := MemberOf(a.s, c.GetBy()); m == nil || m.GetRaftId() != c.GetByRaftId() {
		return refuse(CodeStale, "raft id %d of node %s is not in the view", c.GetByRaftId(), c.GetBy())
	}
	if !PowerWanted(a.s, c.GetNode()) {
		return refuse(CodeStale, "no group waits for node %s to be switched off, it has no fence levels, or somebody is at it", c.GetNode())
	}
	op := a.fenceOperation(c.GetNode(), f.GetRaftId())
	op.By, op.ByRaftId, op.Result = c.GetBy(), c.GetByRaftId(), v1.FenceResult_FENCE_RESULT_RUNNING
	a.planChanged()
	a.nodeEvent(v1.Severity_SEVERITY_WARNING, "fence.started", c.GetNode(), "%s switches %s off: %s", c.GetBy(), c.GetNode(), requiredBy(a.s, Unproven(a.s, c.GetNode())))
	return nil
}

func (a *applier) fenceOperation(node string, raftID uint64) *v1.FenceOperation {
	a.s.NextFenceOperation++
	op := &v1.FenceOperation{Number: a.s.NextFenceOperation, Node: node, RaftId: raftID, StartedMs: a.c.GetTimeMs()}
	a.s.FenceOperations = keepLast(append(a.s.FenceOperations, op), keepFences)
	return op
}

func (a *applier) fenceDone(c *pb.FenceDone) *Refused {
	i := slices.IndexFunc(a.s.FenceOperations, func(o *v1.FenceOperation) bool { return o.GetNumber() == c.GetNumber() })
	if i < 0 || a.s.FenceOperations[i].GetResult() != v1.FenceResult_FENCE_RESULT_RUNNING {
		return refuse(CodeStale, "fence operation %d is not running", c.GetNumber())
	}
	op := a.s.FenceOperations[i]
	switch c.GetResult() {
	case v1.FenceResult_FENCE_RESULT_OFF, v1.FenceResult_FENCE_RESULT_FAILED, v1.FenceResult_FENCE_RESULT_LIED:
	default:
		return refuse(CodeInvalid, "a fence operation can't end as %v", c.GetResult())
	}
	op.Result, op.Level, op.EndedMs = c.GetResult(), c.GetLevel(), a.c.GetTimeMs()
	op.Message = strings.ToValidUTF8(c.GetMessage()[:min(len(c.GetMessage()), maxFenceMessage)], "")
	a.planChanged()
	switch op.Result {
	case v1.FenceResult_FENCE_RESULT_OFF:
		a.nodeEvent(v1.Severity_SEVERITY_WARNING, "fence.done", op.Node, "%s was switched off by %s: %s", op.Node, op.By, op.Message)
		if f := a.s.NodeStatus[op.Node].GetFence(); f != nil && f.GetRaftId() == op.RaftId {
			a.stopped(op.Node, pb.Proof_PROOF_POWER)
		}
	case v1.FenceResult_FENCE_RESULT_LIED:
		a.nodeEvent(v1.Severity_SEVERITY_CRITICAL, "fence.lied", op.Node, "fence agents say that %s is off, but it is alive: the devices or their plugs are wrong: %s", op.Node, op.Message)
	default:
		a.nodeEvent(v1.Severity_SEVERITY_ERROR, "fence.failed", op.Node, "%s could not be switched off: %s", op.Node, op.Message)
	}
	return nil
}

func (a *applier) confirmDown(c *pb.ConfirmDown) *Refused {
	switch f := a.s.NodeStatus[c.GetNode()].GetFence(); {
	case a.s.Nodes[c.GetNode()] == nil:
		return refuse(CodeNotFound, "there is no node %s", c.GetNode())
	case MemberOf(a.s, c.GetNode()) != nil:
		return refuse(CodeConflict, "node %s is a member: nothing waits for the proof that it is down", c.GetNode())
	case a.s.NodeStatus[c.GetNode()].GetDetach() && a.s.Learners[c.GetNode()] != nil:
		return refuse(CodeConflict, "node %s is just coming back with what it was left running: it is not down", c.GetNode())
	case f == nil:
		return refuse(CodeConflict, "nothing waits for the proof that node %s is down", c.GetNode())
	case f.GetRaftId() != c.GetRaftId():
		return refuse(CodeStale, "node %s was evicted again meanwhile, as raft id %d: look again", c.GetNode(), f.GetRaftId())
	}
	op := a.fenceOperation(c.GetNode(), c.GetRaftId())
	op.By, op.Result, op.EndedMs = c.GetBy(), v1.FenceResult_FENCE_RESULT_CONFIRMED, a.c.GetTimeMs()
	op.Message = "an administrator said that the node is down"
	a.nodeEvent(v1.Severity_SEVERITY_WARNING, "fence.confirmed", c.GetNode(), "%s said that %s is down", c.GetBy(), c.GetNode())
	a.stopped(c.GetNode(), pb.Proof_PROOF_CONFIRMED)
	return nil
}
