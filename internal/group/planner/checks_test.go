package planner

import (
	"fmt"
	"slices"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// checkPlan holds a plan against P1, P2 and P5, by the state that it was made
// from and by package state's notion of a group that is settled.
func checkPlan(s *statepb.State, p *statepb.Plan) error {
	for _, o := range p.GetOrders() {
		g, gs := s.Groups[o.Group], s.GroupStatus[o.Group]
		if g.Frozen {
			return fmt.Errorf("P5: an order of the frozen group %s", o.Group)
		}
		if o.Want != wantOnline || gs.Nodes[o.Node].GetWant() == wantOnline {
			continue
		}
		if s.Nodes[o.Node].GetFrozen() && len(gs.Nodes[o.Node].GetResources()) == 0 {
			return fmt.Errorf("P5: %s is brought to the frozen node %s", o.Group, o.Node)
		}
		if why := brokenDependency(s, p, o); why != "" {
			return fmt.Errorf("P8: %s is ordered online on %s: %s", o.Group, o.Node, why)
		}
		for n, on := range gs.Nodes {
			if n != o.Node && state.InstanceAt(g, n) == state.InstanceAt(g, o.Node) && !on.Vouched && (s.NodeStatus[n].GetFence() != nil || !on.Probed || !state.Settled(s, g, on)) {
				return fmt.Errorf("P2: %s is ordered online on %s while %s is not clear of it: %v; %v", o.Group, o.Node, n, gs, p)
			}
		}
	}
	if err := checkOrders(s, p); err != nil {
		return err
	}
	if err := checkRoom(s, p); err != nil {
		return err
	}
	for _, op := range p.GetOperations() {
		if op.Message == "" {
			return fmt.Errorf("P7: operation %d gets no sentence", op.Id)
		}
	}
	for _, d := range p.GetDecisions() {
		if len(d.Reasons) == 0 {
			return fmt.Errorf("P7: no reason for %q", d.Action)
		}
	}
	return nil
}

// brokenDependency says, by another way than the planner's, which dependency of a
// group does not hold where it is ordered online. What is found running is adopted as it is.
func brokenDependency(s *statepb.State, p *statepb.Plan, o *statepb.Order) string {
	for _, r := range s.GroupStatus[o.Group].Nodes[o.Node].GetResources() {
		if r.State == v1.ResourceState_RESOURCE_STATE_ONLINE {
			return ""
		}
	}
	for _, d := range s.Groups[o.Group].DependsOn {
		found := false
		for n, on := range s.GroupStatus[d.Group].GetNodes() {
			want := on.Want
			for _, other := range p.Orders {
				if other.Group == d.Group && other.Node == n {
					want = other.Want
				}
			}
			there := map[v1.GroupDependency_Location]bool{
				v1.GroupDependency_LOCATION_UNSPECIFIED: n == o.Node, v1.GroupDependency_LOCAL: n == o.Node,
				v1.GroupDependency_GLOBAL: true, v1.GroupDependency_REMOTE: n != o.Node,
				v1.GroupDependency_SITE: s.Nodes[n].Site != "" && s.Nodes[n].Site == s.Nodes[o.Node].Site,
			}[d.Location]
			found = found || there && want == wantOnline && state.MemberOf(s, n) != nil
		}
		if found == (d.Category == v1.GroupDependency_OFFLINE) {
			return d.String()
		}
	}
	return ""
}

// checkState holds a state that a plan was applied to against P1.
func checkState(s *statepb.State) error {
	for name, gs := range s.GroupStatus {
		online := map[string][]string{}
		for n, on := range gs.Nodes {
			if key := state.InstanceAt(s.Groups[name], n); on.Want == wantOnline {
				online[key] = append(online[key], n)
			}
		}
		for key, at := range online {
			if len(at) > 1 {
				return fmt.Errorf("P1: %s %s is ordered online on %v", name, key, at)
			}
		}
	}
	return nil
}

// checkOrders: nothing is wanted online that requires what is wanted offline, but
// where faults do not propagate.
func checkOrders(s *statepb.State, p *statepb.Plan) error {
	for _, o := range p.GetOrders() {
		g := s.Groups[o.Group]
		want := func(r string) v1.Want {
			if x, ok := o.ResourceWants[r]; ok {
				return x
			}
			return o.Want
		}
		for _, r := range g.Resources {
			for _, c := range r.Requires {
				i := slices.IndexFunc(g.Resources, func(x *v1.Resource) bool { return x.Name == c })
				child := g.Resources[i]
				t := s.Types[child.Type]
				byHand := s.GroupStatus[o.Group].Nodes[o.Node].GetResources()[r.Name].GetState() == v1.ResourceState_RESOURCE_STATE_ONLINE
				if want(r.Name) == wantOnline && want(c) == wantOffline && !byHand && t.GetOperations() != v1.Operations_OPERATIONS_NONE &&
					state.Enabled(r) && state.Enabled(child) && (t.FaultPropagation == nil || *t.FaultPropagation) && (g.FaultPropagation == nil || *g.FaultPropagation) {
					return fmt.Errorf("%s of %s is wanted online on %s, and %s, which it requires, offline: %v from %v", r.Name, o.Group, o.Node, c, p, s.GroupStatus[o.Group])
				}
			}
		}
	}
	return nil
}

// checkRoom holds a plan against P9, adding everything up for itself. What is found running is adopted, room or not.
func checkRoom(s *statepb.State, p *statepb.Plan) error {
	wanted := func(group, node string) v1.Want {
		for _, o := range p.GetOrders() {
			if o.Group == group && o.Node == node {
				return o.Want
			}
		}
		return s.GroupStatus[group].GetNodes()[node].GetWant()
	}
	for _, o := range p.GetOrders() {
		if o.Want != wantOnline || s.GroupStatus[o.Group].Nodes[o.Node].GetWant() == wantOnline || busy(s.GroupStatus[o.Group].Nodes[o.Node]) {
			continue
		}
		load, need := map[string]int64{}, map[string]int64{}
		for name, g := range s.Groups {
			if on := s.GroupStatus[name].GetNodes()[o.Node]; on != nil && (wanted(name, o.Node) == wantOnline || busy(on)) {
				for dim, n := range g.Load {
					load[dim] += n
				}
				for l, n := range g.Prerequisites {
					need[l] += n
				}
			}
		}
		n := s.Nodes[o.Node]
		for dim := range s.Groups[o.Group].Load {
			limit, bounded := n.Capacity[dim]
			if _, measured := s.NodeStatus[o.Node].GetDynamicLoad()[dim]; bounded && !measured && load[dim] > limit-n.ReservedCapacity[dim] {
				return fmt.Errorf("P9: %s is ordered to %s, where groups then take %d of %s %d", o.Group, o.Node, load[dim], dim, limit)
			}
		}
		for l := range s.Groups[o.Group].Prerequisites {
			if need[l] > n.Limits[l] {
				return fmt.Errorf("P9: %s is ordered to %s, where groups then need %d of %s %d", o.Group, o.Node, need[l], l, n.Limits[l])
			}
		}
	}
	return nil
}

// busy: something of the group runs there, or may.
func busy(on *statepb.GroupOnNode) bool {
	for _, st := range on.GetResources() {
		if st.GetState() == v1.ResourceState_RESOURCE_STATE_ONLINE || !idle(st) || st.GetUnableToOffline() {
			return true
		}
	}
	return false
}
