package state

import (
	"slices"
	"strings"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	pb "github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// Live application detach: a node leaves, and what it runs goes on without the
// cluster (docs/lifecycle.md). Its places are kept, marked as detached, behind a fence that no time lifts:
// nobody else starts these groups before that incarnation is known to run nothing, because the node
// says so when it joins anew, or an administrator does. When the node comes back with what it left running, the places stay
// detached until it has reported on them under a lease: from then on its guard stops them
// like all others, and the end of its lease is a proof again.

// mayDetach refuses what could not be taken up again as it was left.
func (a *applier) mayDetach(node string) *Refused {
	for _, name := range SortedKeys(a.s.GroupStatus) {
		gs := a.s.GroupStatus[name]
		if gs.GetMaintenance() == node {
			return refuse(CodeConflict, "group %s is in maintenance on %s: end that first with holdfast group maintenance off %s", name, node, name)
		}
		if p := a.s.Groups[name].GetPackage(); p.GetType() == v1.PackageType_PACKAGE_TYPE_SYSTEM_MULTI_NODE && !Settled(a.s, a.s.Groups[name], gs.Nodes[node]) {
			return refuse(CodeConflict, "group %s is a system multi-node package, which can't go on without the cluster", name)
		}
	}
	if group, why := unsteady(a.s, node); group != "" {
		return refuse(CodeConflict, "group %s can't be left running on %s: %s", group, node, why)
	}
	return nil
}

// unsteady returns a group that is on its way on node, or of which it is not known how it stands there, and why.
func unsteady(s *pb.State, node string) (group, why string) {
	for _, name := range SortedKeys(s.GetGroupStatus()) {
		on := s.GroupStatus[name].GetNodes()[node]
		if on == nil {
			continue
		}
		if !on.GetProbed() || on.GetReportedIntent() != on.GetIntent() {
			return name, "it is not known yet how it stands there"
		}
		for _, r := range s.GetGroups()[name].GetResources() {
			st := on.GetResources()[r.GetName()]
			switch {
			case !Enabled(r):
			case !quiet(st):
				return name, r.GetName() + " is on its way"
			case st.GetUnableToOffline():
				return name, r.GetName() + " can't be taken offline"
			case st.GetAdminWait() != v1.AdminWait_ADMIN_WAIT_UNSPECIFIED:
				return name, r.GetName() + " waits for an administrator"
			case st.GetVerdict() == v1.Verdict_VERDICT_HALT_ABORTED:
				return name, "its halt stopped half-way"
			}
		}
	}
	return "", ""
}

// leaveRunning: of a node that is being stopped, nothing runs any more but what its groups' SysDownPolicy leaves
// running. From then on it is detached like any other.
func (a *applier) leaveRunning() {
	for _, m := range a.s.View.GetMembers() {
		st := a.s.NodeStatus[m.GetNode()]
		if st.GetPhase() != pb.NodePhase_NODE_PHASE_LEAVING || st.GetDetach() {
			continue
		}
		busy := BusyGroups(a.s, m.GetNode())
		stays := func(name string) bool {
			return a.s.Groups[name].GetSysDownPolicy() == v1.SysDownPolicy_SYS_DOWN_POLICY_AUTO_DISABLE_NO_OFFLINE &&
				a.s.GroupStatus[name].Nodes[m.GetNode()].GetWant() == v1.Want_WANT_ONLINE
		}
		if group, _ := unsteady(a.s, m.GetNode()); len(busy) == 0 || group != "" || slices.ContainsFunc(busy, func(name string) bool { return !stays(name) }) {
			continue
		}
		st.Detach = true
		a.planChanged()
		a.nodeEvent(v1.Severity_SEVERITY_WARNING, "node.detaching", m.GetNode(), "%s is being stopped, and %s goes on there without the cluster (sysDownPolicy)", m.GetNode(), strings.Join(busy, ", "))
	}
}

// MayLeave says what a node that is leaving still waits for; empty: nothing.
func MayLeave(s *pb.State, node string) (why string) {
	if s.GetNodeStatus()[node].GetDetach() {
		if group, why := unsteady(s, node); group != "" {
			return group + ": " + why
		}
		return ""
	}
	if busy := BusyGroups(s, node); len(busy) > 0 {
		return "it still runs " + strings.Join(busy, ", ")
	}
	return ""
}

// DetachedOn are the groups, sorted, that go on or may go on on a node since it was detached.
func DetachedOn(s *pb.State, node string) (groups []string) {
	for _, name := range SortedKeys(s.GetGroupStatus()) {
		if s.GroupStatus[name].GetNodes()[node].GetDetached() {
			groups = append(groups, name)
		}
	}
	return groups
}

// detach marks what a node that has left by a detach runs, and puts it behind a fence.
func (a *applier) detach(node string, raftID uint64) {
	for name, gs := range a.s.GroupStatus {
		if on := gs.Nodes[node]; on != nil && Settled(a.s, a.s.Groups[name], on) {
			delete(gs.Nodes, node)
		} else if on != nil {
			on.Detached = true
		}
	}
	st, left := a.status(node), DetachedOn(a.s, node)
	if len(left) == 0 {
		st.Detach = false
		return
	}
	// Of all other groups there is nothing: it is as if the time had proven that.
	st.Fence = &pb.Fence{RaftId: raftID, Epoch: a.s.View.GetEpoch(), Proven: pb.Proof_PROOF_TIME}
	a.nodeEvent(v1.Severity_SEVERITY_WARNING, "node.detached", node, "%s has left the cluster and goes on running %s: nobody else starts that before %s is back, or is confirmed to be down",
		node, strings.Join(left, ", "), node)
}

// lookAgain: what is known of the groups on a node is from before somebody
// has to look: they count as detached, and unknown, until it has been reported on again.
func (a *applier) lookAgain(node string) {
	for name, gs := range a.s.GroupStatus {
		if on := gs.Nodes[node]; on != nil && (on.Detached || !Settled(a.s, a.s.Groups[name], on)) {
			on.Detached, on.Probed, on.ReportedIntent = true, false, 0
		}
	}
	a.planChanged()
}

// attached: a member has looked at what it left running, under a lease.
func (a *applier) attached(node, group string, on *pb.GroupOnNode) {
	on.Detached = false
	a.groupEvent(v1.Severity_SEVERITY_INFORMATION, "group.attached", group, node, "group %s is looked after on %s again", group, node)
}
