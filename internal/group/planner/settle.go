package planner

import (
	"slices"

	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// maxRounds bounds how often a copy of the state is planned until nothing
// changes any more: a group has a few steps per node, and all groups move at once.
const maxRounds = 1000

// settle plans a state of one's own until nothing changes, with agents that
// succeed at everything, and returns the decisions made on the way. Fenced
// nodes are taken as proven to have stopped; groups that require power are so if the
// node can be switched off.
func settle(s *statepb.State, env Env) []*v1.Decision {
	var made []*v1.Decision
	for node, st := range s.GetNodeStatus() {
		if st.GetFence() != nil {
			forgetNode(s, node)
		}
	}
	for range maxRounds {
		changed := succeed(s)
		p, _ := Plan(s, env)
		if p == nil && !changed {
			break
		}
		if p != nil {
			made = append(made, p.GetDecisions()...)
			state.Apply(s, &statepb.Command{Format: 1, Change: &statepb.Command_Plan{Plan: p}})
		}
	}
	return made
}

// forgetNode takes what is known to run on a node out of the state, but for what
// nobody can prove to have stopped.
func forgetNode(s *statepb.State, node string) {
	st := s.NodeStatus[node]
	if st.Fence != nil && st.Fence.Proven == statepb.Proof_PROOF_UNSPECIFIED {
		st.Fence.Proven = statepb.Proof_PROOF_TIME
	}
	var stay []string
	if len(s.GetNodes()[node].GetFenceLevels()) == 0 {
		stay = state.Unproven(s, node)
	}
	if len(stay) == 0 {
		st.Fence = nil
	}
	for name, gs := range s.GetGroupStatus() {
		if !slices.Contains(stay, name) {
			delete(gs.Nodes, node)
		}
	}
	s.PlanRevision++
}

// succeed lets the agents of all members do what is wanted of them.
func succeed(s *statepb.State) bool {
	changed := false
	for _, name := range state.SortedKeys(s.GetGroupStatus()) {
		g := s.GetGroups()[name]
		for _, node := range state.SortedKeys(s.GroupStatus[name].GetNodes()) {
			on := s.GroupStatus[name].Nodes[node]
			if state.MemberOf(s, node) == nil {
				continue
			}
			was := proto.CloneOf(on)
			succeedAt(s, g, on)
			changed = changed || !proto.Equal(was, on)
		}
	}
	if changed {
		s.PlanRevision++
	}
	return changed
}

func succeedAt(s *statepb.State, g *v1.Group, on *statepb.GroupOnNode) {
	news := on.GetReportedIntent() != on.GetIntent()
	on.ReportedIntent, on.Probed = on.GetIntent(), true
	if on.Resources == nil {
		on.Resources = map[string]*v1.ResourceStatus{}
	}
	online := map[string]bool{}
	for _, r := range g.GetResources() {
		if on.Resources[r.GetName()] == nil {
			on.Resources[r.GetName()] = &v1.ResourceStatus{}
		}
		online[r.GetName()] = !state.Enabled(r) || r.GetMonitorOnly()
	}
	for range g.GetResources() { // a resource may stand before what it requires
		for _, r := range g.GetResources() {
			st := on.Resources[r.GetName()]
			asIs := st.GetUnableToOffline() || st.GetAdminWait() != v1.AdminWait_ADMIN_WAIT_UNSPECIFIED || st.GetIntentional() && !news
			if state.Enabled(r) && !asIs {
				st.State, st.Activity = outcome(s, g, on, r, st.GetState(), online)
				st.Intentional = st.GetIntentional() && st.GetState() == v1.ResourceState_RESOURCE_STATE_OFFLINE
			}
			online[r.GetName()] = online[r.GetName()] || st.GetState() == v1.ResourceState_RESOURCE_STATE_ONLINE
		}
	}
}

// outcome is the state of a resource after its agent has done what is wanted,
// and what it waits for.
func outcome(s *statepb.State, g *v1.Group, on *statepb.GroupOnNode, r *v1.Resource, st v1.ResourceState, online map[string]bool) (v1.ResourceState, v1.ResourceActivity) {
	const none = v1.ResourceActivity_RESOURCE_ACTIVITY_NONE
	known := st == v1.ResourceState_RESOURCE_STATE_ONLINE || st == v1.ResourceState_RESOURCE_STATE_OFFLINE
	if st == v1.ResourceState_RESOURCE_STATE_FAULTED {
		return st, none
	}
	ops := s.GetTypes()[r.GetType()].GetOperations()
	if ops == v1.Operations_OPERATIONS_NONE {
		if !known {
			st = v1.ResourceState_RESOURCE_STATE_ONLINE
		}
		return st, none
	}
	want, single := on.GetResourceWants()[r.GetName()]
	if !single {
		want = on.GetWant()
	}
	switch {
	case g.GetFrozen(), s.GetGroupStatus()[g.GetName()].GetFreeze() != nil, r.GetMonitorOnly():
	case want == wantOnline && (st == v1.ResourceState_RESOURCE_STATE_ONLINE || served(r, online)):
		return v1.ResourceState_RESOURCE_STATE_ONLINE, none
	case want == wantOnline:
		return v1.ResourceState_RESOURCE_STATE_OFFLINE, v1.ResourceActivity_RESOURCE_ACTIVITY_WAITING_ONLINE
	case want == wantOffline && ops != v1.Operations_OPERATIONS_ON_ONLY:
		return v1.ResourceState_RESOURCE_STATE_OFFLINE, none
	}
	if !known {
		st = v1.ResourceState_RESOURCE_STATE_OFFLINE
	}
	return st, none
}

// served: what a resource requires is online.
func served(r *v1.Resource, online map[string]bool) bool {
	for _, c := range r.GetRequires() {
		if !online[c] {
			return false
		}
	}
	for _, some := range r.GetRequiresAtLeast() {
		n := uint32(0)
		for _, c := range some.GetOf() {
			if online[c] {
				n++
			}
		}
		if n < some.GetCount() {
			return false
		}
	}
	return true
}
