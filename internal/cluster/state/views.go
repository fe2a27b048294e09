package state

import (
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	pb "github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// MaxSilence bounds an announced silence.
const MaxSilence = time.Minute

func (a *applier) status(node string) *pb.NodeStatus {
	st := a.s.NodeStatus[node]
	if st == nil {
		st = &pb.NodeStatus{Phase: pb.NodePhase_NODE_PHASE_DOWN}
		a.s.NodeStatus[node] = st
	}
	return st
}

// nextView makes the view that follows, without the nodes in gone and with the
// member in come, if any.
func (a *applier) nextView(gone []string, come *pb.Member) {
	v := &pb.View{Epoch: a.s.View.GetEpoch() + 1}
	for _, m := range a.s.View.GetMembers() {
		if !slices.Contains(gone, m.GetNode()) {
			v.Members = append(v.Members, m)
		}
	}
	if come != nil {
		v.Members = append(v.Members, come)
		slices.SortFunc(v.Members, func(x, y *pb.Member) int { return strings.Compare(x.GetNode(), y.GetNode()) })
	}
	a.s.View = v
	if w := a.s.Witness; w != nil {
		w.Votes = WitnessVotes(w.GetPoints(), len(v.Members))
	}
	a.out.ViewChanged = true
	a.planChanged()
}

func (a *applier) checkBase(epoch uint64) *Refused {
	if epoch != a.s.View.GetEpoch() {
		return refuse(CodeStale, "the view is %d by now, not %d", a.s.View.GetEpoch(), epoch)
	}
	return nil
}

func (a *applier) guardStarted(c *pb.GuardStarted) *Refused {
	m := MemberOf(a.s, c.GetNode())
	if m == nil || m.GetRaftId() != c.GetRaftId() {
		m = a.s.Learners[c.GetNode()]
	}
	if m == nil || m.GetRaftId() != c.GetRaftId() {
		return refuse(CodeStale, "raft id %d is not one of node %s", c.GetRaftId(), c.GetNode())
	}
	if c.GetGuardIncarnation() == m.GetGuardIncarnation() && c.GetWatchdog().AsDuration() != m.GetWatchdog().AsDuration() {
		a.setWatchdog(m, c.GetWatchdog())
		return nil
	}
	if c.GetGuardIncarnation() <= m.GetGuardIncarnation() {
		return refuse(CodeStale, "guard %d of node %s is not newer than guard %d", c.GetGuardIncarnation(), c.GetNode(), m.GetGuardIncarnation())
	}
	m.GuardIncarnation = c.GetGuardIncarnation()
	if c.GetWatchdog().AsDuration() > 0 {
		a.setWatchdog(m, c.GetWatchdog())
	} else if c.GetRebooted() {
		m.Watchdog = nil // a restarted guard has armed it again, or lets the machine reset
	}
	a.out.ViewChanged = true // what guards count acknowledgements by has changed
	if st := a.status(c.GetNode()); st.GetPhase() == pb.NodePhase_NODE_PHASE_LEAVING {
		// Whoever starts a guard wants the node in; so does the last node to leave, whose leave no view has recorded.
		detach := st.GetDetach()
		st.Phase, st.Evacuate, st.Detach = pb.NodePhase_NODE_PHASE_RUNNING, false, false
		if detach && !c.GetRebooted() {
			a.lookAgain(c.GetNode())
		}
		a.endNodeStops(c.GetNode(), v1.OperationState_OPERATION_STATE_FAILED, c.GetNode()+" was started again before it had left: stop it once more")
	}
	if c.GetRebooted() {
		a.forgetGroups(c.GetNode())
		a.endMaintenances(c.GetNode(), "the node was started again")
		a.endActions(c.GetNode())
		a.status(c.GetNode()).Reset_ = ""
		if a.status(c.GetNode()).Fence != nil { // it was joining with what it had left running
			a.stopped(c.GetNode(), pb.Proof_PROOF_GOODBYE)
		}
		a.planChanged()
		a.nodeEvent(v1.Severity_SEVERITY_INFORMATION, "node.started", c.GetNode(), "%s has started", c.GetNode())
	} else {
		a.nodeEvent(v1.Severity_SEVERITY_WARNING, "guard.started", c.GetNode(), "guard on %s was started again; services went on", c.GetNode())
	}
	return nil
}

// setWatchdog records the time-out that the watchdog of a member has.
func (a *applier) setWatchdog(m *pb.Member, timeout *durationpb.Duration) {
	if timeout.AsDuration() <= 0 {
		m.Watchdog = nil
		a.nodeEvent(v1.Severity_SEVERITY_WARNING, "watchdog.disarmed", m.GetNode(), "the watchdog of %s is not armed any more", m.GetNode())
	} else if timeout.AsDuration() != m.GetWatchdog().AsDuration() {
		m.Watchdog = durationpb.New(timeout.AsDuration())
		a.nodeEvent(v1.Severity_SEVERITY_INFORMATION, "watchdog.armed", m.GetNode(), "the watchdog of %s is armed: the machine is reset if it can't stop its groups; takeovers by time wait %v longer", m.GetNode(), timeout.AsDuration())
	}
	a.out.ViewChanged = true // guard learns what is known of its watchdog
}

// forgetGroups: nothing of what is known to run on node is true any more.
func (a *applier) forgetGroups(node string) {
	for _, name := range SortedKeys(a.s.GroupStatus) {
		gs := a.s.GroupStatus[name]
		if gs.Nodes[node] != nil {
			gs.Nodes[node] = newGroupOnNode(a.s)
		}
	}
}

func (a *applier) clusterStarted(c *pb.ClusterStarted) *Refused {
	m := MemberOf(a.s, c.GetNode())
	if m == nil || m.GetRaftId() != c.GetRaftId() || m.GetGuardIncarnation() != c.GetGuardIncarnation() {
		return refuse(CodeStale, "node %s is another incarnation by now", c.GetNode())
	}
	st := a.status(c.GetNode())
	if st.GetColdGuard() == c.GetGuardIncarnation() {
		return refuse(CodeStale, "%s has said so already", c.GetNode())
	}
	st.ColdGuard = c.GetGuardIncarnation()
	if by := a.s.StartedBy; by != nil {
		now := MemberOf(a.s, by.GetNode())
		if now != nil && now.GetRaftId() == by.GetRaftId() && now.GetGuardIncarnation() == by.GetGuardIncarnation() {
			return nil // another node was first to say so of the same start
		}
	}
	a.s.StartedBy = &pb.Member{Node: m.GetNode(), RaftId: m.GetRaftId(), GuardIncarnation: m.GetGuardIncarnation()}
	for _, name := range SortedKeys(a.s.GroupStatus) {
		gs := a.s.GroupStatus[name]
		if !active(gs) {
			for key, b := range gs.GetInstances() { // nothing is remembered but by whom it was taken offline
				gs.Instances[key] = &pb.Instance{HeldOffline: b.GetHeldOffline(), LastOnline: b.GetLastOnline(), Operation: b.GetOperation(), Site: b.GetSite()}
			}
		}
		a.endsWithTheCluster(name)
	}
	for node := range values(a.s.NodeStatus) {
		node.Freeze = nil
	}
	a.planChanged()
	a.nodeEvent(v1.Severity_SEVERITY_INFORMATION, "cluster.started", "", "the cluster has started: enough nodes have seen each other")
	a.nodeTrigger("sysup", c.GetNode(), "RUNNING")
	return nil
}

// endsWithTheCluster: what holds a group until the last node has ended.
func (a *applier) endsWithTheCluster(group string) {
	gs := a.s.GroupStatus[group]
	gs.Freeze = nil
	if gs.GetMaintenance() != "" {
		a.endMaintenance(group, "the cluster was started again")
	}
	if a.s.Groups[group].GetPackage() != nil {
		gs.SwitchingOff = initialSwitching(a.s.Groups[group])
	}
}

// active: it is wanted or known to run somewhere.
func active(gs *pb.GroupStatus) bool {
	for _, on := range gs.GetNodes() {
		if on.GetWant() == v1.Want_WANT_ONLINE {
			return true
		}
		for _, r := range on.GetResources() {
			if r.GetState() == v1.ResourceState_RESOURCE_STATE_ONLINE {
				return true
			}
		}
	}
	return false
}

func (a *applier) evict(c *pb.Evict) *Refused {
	verdicts, err := CheckEvict(a.s, c)
	if err != nil {
		return err
	}
	var gone []string
	for _, v := range verdicts {
		gone = append(gone, v.Node)
	}
	old := a.s.View
	a.nextView(gone, nil)
	for _, v := range verdicts {
		st := a.status(v.Node)
		st.Phase = pb.NodePhase_NODE_PHASE_FAULTED
		st.Evictions++
		a.over(v.Node)
		a.endNodeStops(v.Node, v1.OperationState_OPERATION_STATE_DONE, v.Node+" was lost while it was being stopped")
		id := memberIn(old, v.Node).GetRaftId()
		st.Fence = &pb.Fence{RaftId: id, Epoch: a.s.View.GetEpoch(), Wait: durationpb.New(v.Wait)}
		a.nodeEvent(v1.Severity_SEVERITY_ERROR, "node.evicted", v.Node, "%s was evicted: %s", v.Node, v.Reason)
		a.nodeTrigger("sysoffline", v.Node, "FAULTED")
		if v.Proof != pb.Proof_PROOF_UNSPECIFIED {
			a.stopped(v.Node, v.Proof)
		}
	}
	return nil
}

// over: what was said of an incarnation that has left the view is void.
func (a *applier) over(node string) {
	st := a.status(node)
	st.Silence, st.Evacuate, st.Detach, st.Reset_ = nil, false, false, ""
	a.endMaintenances(node, "the node has left the cluster")
	a.endActions(node)
}

// Over says whether an incarnation of node has ended by state s. One that s does
// not know yet has not: the state may be older than the word about it.
func Over(s *pb.State, node string, raftID uint64) bool {
	return raftID < s.GetNextRaftId() && MemberOf(s, node).GetRaftId() != raftID && s.GetLearners()[node].GetRaftId() != raftID
}

func memberIn(v *pb.View, node string) *pb.Member {
	for _, m := range v.GetMembers() {
		if m.GetNode() == node {
			return m
		}
	}
	return nil
}

func (a *applier) stays(c *pb.Stays) *Refused {
	m := MemberOf(a.s, c.GetNode())
	if m == nil || m.GetRaftId() != c.GetRaftId() {
		return refuse(CodeStale, "raft id %d of node %s is not in the view", c.GetRaftId(), c.GetNode())
	}
	a.status(c.GetNode()).Stays++
	a.out.ViewChanged = true
	a.nodeEvent(v1.Severity_SEVERITY_INFORMATION, "node.stays", c.GetNode(), "%s was suspected, is heard again and stays", c.GetNode())
	return nil
}

func (a *applier) leave(c *pb.Leave) *Refused {
	if err := a.checkBase(c.GetBaseEpoch()); err != nil {
		return err
	}
	st, m := a.status(c.GetNode()), MemberOf(a.s, c.GetNode())
	if resigned := c.GetResignedRaftId(); resigned != 0 {
		if m.GetRaftId() != resigned {
			return refuse(CodeStale, "raft id %d of node %s is not in the view", resigned, c.GetNode())
		}
	} else {
		if m == nil || st.GetPhase() != pb.NodePhase_NODE_PHASE_LEAVING {
			return refuse(CodeStale, "node %s is not leaving", c.GetNode())
		}
		if why := MayLeave(a.s, c.GetNode()); why != "" {
			return refuse(CodeConflict, "node %s can't leave: %s", c.GetNode(), why)
		}
	}
	if len(a.s.View.GetMembers()) == 1 {
		return refuse(CodeConflict, "%s is the last node: its guard ends without a view change", c.GetNode())
	}
	a.nextView([]string{c.GetNode()}, nil)
	detach := st.GetDetach() && c.GetResignedRaftId() == 0
	a.over(c.GetNode())
	st.Phase, st.Detach = pb.NodePhase_NODE_PHASE_DOWN, detach
	if detach {
		a.detach(c.GetNode(), m.GetRaftId())
	} else {
		for _, gs := range a.s.GroupStatus {
			delete(gs.Nodes, c.GetNode())
		}
	}
	a.endNodeStops(c.GetNode(), v1.OperationState_OPERATION_STATE_DONE, c.GetNode()+" has left the cluster")
	a.nodeTrigger("sysoffline", c.GetNode(), "EXITED")
	if c.GetResignedRaftId() != 0 {
		a.nodeEvent(v1.Severity_SEVERITY_WARNING, "node.resigned", c.GetNode(), "%s has lost its log, runs nothing and will join as new", c.GetNode())
	} else {
		a.nodeEvent(v1.Severity_SEVERITY_INFORMATION, "node.left", c.GetNode(), "%s has left the cluster", c.GetNode())
	}
	return nil
}

func (a *applier) endNodeStops(node string, st v1.OperationState, message string) {
	for _, op := range a.s.Operations {
		if op.GetKind() == v1.OperationKind_OPERATION_KIND_NODE_STOP && op.GetNode() == node && op.GetState() == v1.OperationState_OPERATION_STATE_RUNNING {
			a.endOperation(op, st, message)
		}
	}
}

// BusyGroups returns the groups that are not known to be stopped on node, sorted.
func BusyGroups(s *pb.State, node string) []string {
	var busy []string
	for _, name := range SortedKeys(s.GetGroupStatus()) {
		on := s.GroupStatus[name].GetNodes()[node]
		if on != nil && !Settled(s, s.Groups[name], on) {
			busy = append(busy, name)
		}
	}
	return busy
}

// Settled says that nothing of a group runs or is being started on a node: the
// newest order was seen, and no resource that can be stopped is anything but
// offline or faulted.
func Settled(s *pb.State, g *v1.Group, on *pb.GroupOnNode) bool {
	if on == nil {
		return true
	}
	if on.GetDetached() || on.GetWant() == v1.Want_WANT_ONLINE || on.GetReportedIntent() != on.GetIntent() {
		return false
	}
	for _, r := range g.GetResources() {
		if !Enabled(r) || s.GetTypes()[r.GetType()].GetOperations() == v1.Operations_OPERATIONS_NONE {
			continue
		}
		st := on.GetResources()[r.GetName()]
		if s.GetTypes()[r.GetType()].GetOperations() == v1.Operations_OPERATIONS_ON_ONLY && st.GetState() == v1.ResourceState_RESOURCE_STATE_ONLINE {
			continue
		}
		off := st.GetState() == v1.ResourceState_RESOURCE_STATE_OFFLINE || st.GetState() == v1.ResourceState_RESOURCE_STATE_FAULTED
		if !off || !quiet(st) || st.GetUnableToOffline() {
			return false
		}
	}
	return true
}

func (a *applier) join(c *pb.Join) *Refused {
	if a.s.Nodes[c.GetNode()] == nil {
		return refuse(CodeNotFound, "node %s is not configured: add it with holdfast apply", c.GetNode())
	}
	if MemberOf(a.s, c.GetNode()) != nil {
		return refuse(CodeConflict, "an earlier incarnation of node %s is still a member", c.GetNode())
	}
	if c.GetRaftId() != a.s.NextRaftId {
		return refuse(CodeStale, "the next raft id is %d, not %d", a.s.NextRaftId, c.GetRaftId())
	}
	if f := a.s.NodeStatus[c.GetNode()].GetFence(); f != nil && f.GetRaftId() != c.GetEndedRaftId() {
		return refuse(CodeConflict, "node %s has not said that its evicted raft id %d has ended", c.GetNode(), f.GetRaftId())
	}
	if c.GetDetached() && len(DetachedOn(a.s, c.GetNode())) == 0 {
		return refuse(CodeConflict, "nothing is counted as running on node %s: what it was left with has to be stopped before it joins", c.GetNode())
	}
	a.s.NextRaftId++
	a.s.Learners[c.GetNode()] = &pb.Member{Node: c.GetNode(), RaftId: c.GetRaftId(), GuardIncarnation: c.GetGuardIncarnation(), Nonce: c.GetNonce()}
	st := a.status(c.GetNode())
	if st.Fence != nil && !c.GetDetached() {
		// A node says so, and asks to join, only after its guard has stopped everything.
		a.stopped(c.GetNode(), pb.Proof_PROOF_GOODBYE)
	}
	st.Phase = pb.NodePhase_NODE_PHASE_JOINING
	a.out.ViewChanged = true
	a.nodeEvent(v1.Severity_SEVERITY_INFORMATION, "node.joining", c.GetNode(), "%s is joining", c.GetNode())
	return nil
}

// Probation is how long after its last eviction a node may not join: the first
// evictions cost nothing, each one after them doubles the wait. A link or a node that comes
// and goes would else take its groups along each time.
func Probation(s *pb.State, node string) time.Duration {
	n := int(s.GetNodeStatus()[node].GetEvictions()) - freeEvictions
	if n <= 0 {
		return 0
	}
	return min(time.Second<<min(n-1, 10), maxProbation)
}

// SteadyAfter so long as a member a node's evictions are forgotten.
const SteadyAfter = 5 * time.Minute

const (
	freeEvictions = 3
	maxProbation  = 30 * time.Second
)

func (a *applier) steady(c *pb.Steady) *Refused {
	m := MemberOf(a.s, c.GetNode())
	if m == nil || m.GetRaftId() != c.GetRaftId() {
		return refuse(CodeStale, "raft id %d of node %s is not in the view", c.GetRaftId(), c.GetNode())
	}
	a.status(c.GetNode()).Evictions = 0
	return nil
}

func (a *applier) promote(c *pb.Promote) *Refused {
	if err := a.checkBase(c.GetBaseEpoch()); err != nil {
		return err
	}
	l := a.s.Learners[c.GetNode()]
	if l == nil || l.GetRaftId() != c.GetRaftId() || a.s.Nodes[c.GetNode()] == nil {
		return refuse(CodeStale, "raft id %d of node %s is not joining", c.GetRaftId(), c.GetNode())
	}
	delete(a.s.Learners, c.GetNode())
	a.nextView(nil, l)
	st := a.status(c.GetNode())
	st.Phase = pb.NodePhase_NODE_PHASE_RUNNING
	if st.Fence != nil { // it has come back with what it had left running
		st.Fence, st.Detach = nil, false
		a.lookAgain(c.GetNode())
	}
	a.nodeEvent(v1.Severity_SEVERITY_INFORMATION, "node.joined", c.GetNode(), "%s has joined", c.GetNode())
	a.nodeTrigger("sysjoin", c.GetNode(), "RUNNING")
	return nil
}

func (a *applier) proven(c *pb.Proven) *Refused {
	f := a.s.NodeStatus[c.GetNode()].GetFence()
	if f == nil || f.GetRaftId() != c.GetRaftId() {
		return refuse(CodeStale, "nothing waits for a proof about raft id %d of node %s", c.GetRaftId(), c.GetNode())
	}
	if f.GetProven() == c.GetProof() {
		return refuse(CodeStale, "that is known of raft id %d of node %s already", c.GetRaftId(), c.GetNode())
	}
	a.stopped(c.GetNode(), c.GetProof())
	return nil
}

func (a *applier) announceSilence(c *pb.AnnounceSilence) *Refused {
	m := MemberOf(a.s, c.GetNode())
	if m == nil || m.GetRaftId() != c.GetRaftId() {
		return refuse(CodeConflict, "node %s is not a member", c.GetNode())
	}
	st := a.status(c.GetNode())
	if st.Silence != nil {
		return refuse(CodeConflict, "node %s has announced a silence already: wait for its end", c.GetNode())
	}
	if d := c.GetLength().AsDuration(); d <= 0 || d > MaxSilence {
		return refuse(CodeInvalid, "a silence of %v can't be announced: 1ms to %v can", d, MaxSilence)
	}
	a.s.NextSilence++
	st.Silence = &pb.Silence{RaftId: c.GetRaftId(), Length: c.GetLength(), Number: a.s.NextSilence}
	a.out.ViewChanged = true
	a.nodeEvent(v1.Severity_SEVERITY_INFORMATION, "node.silence", c.GetNode(), "%s may be silent for %v", c.GetNode(), c.GetLength().AsDuration())
	return nil
}

func (a *applier) silenceOver(c *pb.SilenceOver) *Refused {
	st := a.s.NodeStatus[c.GetNode()]
	if st.GetSilence() == nil || st.GetSilence().GetNumber() != c.GetNumber() {
		return refuse(CodeStale, "silence %d of node %s is over", c.GetNumber(), c.GetNode())
	}
	st.Silence = nil
	a.out.ViewChanged = true
	return nil
}
