package state

import (
	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	pb "github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

func hasResource(g *v1.Group, name string) bool {
	for _, r := range g.GetResources() {
		if r.GetName() == name {
			return true
		}
	}
	return false
}

// places yields the places of a group that a command names.
func (a *applier) places(group, resource, node string) ([]*pb.GroupOnNode, *Refused) {
	g := a.s.Groups[group]
	if g == nil {
		return nil, noGroup(group)
	}
	if resource != "" && !hasResource(g, resource) {
		return nil, noResource(group, resource)
	}
	gs := a.s.GroupStatus[group]
	if node != "" {
		on := gs.Nodes[node]
		if on == nil {
			return nil, refuse(CodeConflict, "group %s has no place on node %s: the node is down or not in its system list", group, node)
		}
		return []*pb.GroupOnNode{on}, nil
	}
	var all []*pb.GroupOnNode
	for on := range values(gs.Nodes) {
		all = append(all, on)
	}
	return all, nil
}

func (a *applier) clear(c *pb.Clear) *Refused {
	if _, err := a.places(c.GetGroup(), c.GetResource(), c.GetNode()); err != nil {
		return err
	}
	a.cleared(c)
	a.event(&v1.Event{Severity: v1.Severity_SEVERITY_INFORMATION, Code: "group.cleared", Group: c.GetGroup(), Resource: c.GetResource(), Node: c.GetNode(),
		Message: "faults of group " + c.GetGroup() + " were cleared"})
	return nil
}

// cleared takes faults off places that are there.
func (a *applier) cleared(c *pb.Clear) {
	places, _ := a.places(c.GetGroup(), c.GetResource(), c.GetNode())
	for _, on := range places {
		on.Faulted = false
		for name, st := range on.Resources {
			if c.GetResource() != "" && c.GetResource() != name {
				continue
			}
			st.UnableToOffline = false
			st.Verdict = v1.Verdict_VERDICT_UNSPECIFIED
			if st.GetState() == v1.ResourceState_RESOURCE_STATE_FAULTED {
				st.State, st.Message, st.ChangedMs = v1.ResourceState_RESOURCE_STATE_OFFLINE, "cleared", a.c.GetTimeMs()
			}
		}
	}
	a.planChanged()
}

func (a *applier) flush(c *pb.Flush) *Refused {
	places, err := a.places(c.GetGroup(), "", c.GetNode())
	if err != nil {
		return err
	}
	for _, on := range places {
		a.s.NextIntent++
		on.Want, on.Intent, on.ResourceWants, on.Flushed = v1.Want_WANT_NOTHING, a.s.NextIntent, nil, true
	}
	for _, op := range a.s.Operations {
		if op.GetGroup() == c.GetGroup() && op.GetState() == v1.OperationState_OPERATION_STATE_RUNNING {
			a.endOperation(op, v1.OperationState_OPERATION_STATE_FAILED, "flushed by an administrator")
		}
	}
	a.planChanged()
	a.event(&v1.Event{Severity: v1.Severity_SEVERITY_WARNING, Code: "group.flushed", Group: c.GetGroup(), Node: c.GetNode(),
		Message: "what was being done with group " + c.GetGroup() + " was forgotten by order of an administrator"})
	return nil
}

func (a *applier) probe(c *pb.Probe) *Refused {
	_, err := a.places(c.GetGroup(), c.GetResource(), c.GetNode())
	return err
}

func noResource(group, name string) *Refused {
	return refuse(CodeNotFound, "group %s has no resource %s: holdfast resource list shows all", group, name)
}
