package state

import (
	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	pb "github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

func (a *applier) report(c *pb.Report) *Refused {
	m := MemberOf(a.s, c.GetNode())
	if m == nil || m.GetRaftId() != c.GetRaftId() {
		return refuse(CodeStale, "raft id %d of node %s is not in the view", c.GetRaftId(), c.GetNode())
	}
	st := a.s.NodeStatus[c.GetNode()]
	if a.c.GetRequest() <= st.GetLastReport() {
		return refuse(CodeStale, "a newer report of node %s is known", c.GetNode())
	}
	st.LastReport = a.c.GetRequest()
	changed := false
	for _, gr := range c.GetGroups() {
		gs, g := a.s.GroupStatus[gr.GetGroup()], a.s.Groups[gr.GetGroup()]
		on := gs.GetNodes()[c.GetNode()]
		if g == nil || on == nil {
			continue // removed in the meantime
		}
		changed = true
		if gr.GetIntent() <= on.GetIntent() {
			on.ReportedIntent = max(on.GetReportedIntent(), gr.GetIntent())
		}
		if on.Resources == nil {
			on.Resources = map[string]*v1.ResourceStatus{}
		}
		for _, name := range SortedKeys(gr.GetResources()) {
			st := proto.CloneOf(gr.Resources[name])
			was := on.Resources[name].GetState()
			st.ChangedMs = on.Resources[name].GetChangedMs()
			if st.GetState() != was {
				st.ChangedMs = a.c.GetTimeMs()
				a.resourceEvent(c.GetNode(), gr.GetGroup(), name, was, st)
			}
			on.Resources[name] = st
		}
		fitResources(g, on)
	}
	if changed {
		a.planChanged()
	}
	return nil
}

func (a *applier) resourceEvent(node, group, name string, was v1.ResourceState, st *v1.ResourceStatus) {
	e := &v1.Event{Severity: v1.Severity_SEVERITY_INFORMATION, Node: node, Group: group, Resource: name}
	switch st.GetState() {
	case v1.ResourceState_RESOURCE_STATE_ONLINE:
		e.Code, e.Message = "resource.online", name+" is online on "+node
	case v1.ResourceState_RESOURCE_STATE_OFFLINE:
		if was == v1.ResourceState_RESOURCE_STATE_UNSPECIFIED || was == v1.ResourceState_RESOURCE_STATE_UNKNOWN {
			return // the first probe finds most things offline
		}
		e.Code, e.Message = "resource.offline", name+" is offline on "+node
	case v1.ResourceState_RESOURCE_STATE_FAULTED:
		e.Severity, e.Code, e.Message = v1.Severity_SEVERITY_ERROR, "resource.faulted", name+" is faulted on "+node
	default:
		e.Severity, e.Code, e.Message = v1.Severity_SEVERITY_WARNING, "resource.unknown", "the state of "+name+" on "+node+" is unknown"
	}
	if st.GetMessage() != "" {
		e.Message += ": " + st.GetMessage()
	}
	a.event(e)
}

func (a *applier) plan(c *pb.Plan) *Refused {
	if c.GetBasePlanRevision() != a.s.GetPlanRevision() {
		return refuse(CodeStale, "planned from revision %d, but it is %d by now", c.GetBasePlanRevision(), a.s.GetPlanRevision())
	}
	for _, o := range c.GetOrders() {
		if a.s.GroupStatus[o.GetGroup()].GetNodes()[o.GetNode()] == nil {
			return refuse(CodeInvalid, "group %s has no place on node %s", o.GetGroup(), o.GetNode())
		}
	}
	for _, g := range c.GetGroupChanges() {
		if a.s.GroupStatus[g.GetGroup()] == nil {
			return refuse(CodeInvalid, "there is no group %s", g.GetGroup())
		}
	}
	first := a.s.NextDecision + 1
	for _, d := range c.GetDecisions() {
		a.s.NextDecision++
		d = proto.CloneOf(d)
		d.Number, d.Epoch = a.s.NextDecision, a.s.View.GetEpoch()
		if d.TimeMs == 0 {
			d.TimeMs = a.c.GetTimeMs()
		}
		a.s.Decisions = append(a.s.Decisions, d)
	}
	a.s.Decisions = keepLast(a.s.Decisions, keepDecisions)
	for _, o := range c.GetOrders() {
		on := a.s.GroupStatus[o.GetGroup()].Nodes[o.GetNode()]
		a.s.NextIntent++
		on.Intent, on.Want, on.ResourceWants = a.s.NextIntent, o.GetWant(), o.GetResourceWants()
		on.HeldResources, on.Flushed = o.GetHeldResources(), false
	}
	for _, g := range c.GetGroupChanges() {
		gs := a.s.GroupStatus[g.GetGroup()]
		if gs.Instances == nil {
			gs.Instances = map[string]*pb.Instance{}
		}
		if gs.Instances[g.GetInstance()] = g.GetBook(); g.GetBook() == nil {
			delete(gs.Instances, g.GetInstance())
		}
		for _, node := range g.GetNodes() {
			if on := gs.Nodes[node]; on != nil {
				on.Faulted = contains(g.GetFaulted(), node)
			}
		}
	}
	for _, ch := range c.GetOperations() {
		for _, op := range a.s.Operations {
			if op.GetId() == ch.GetId() && op.GetState() == v1.OperationState_OPERATION_STATE_RUNNING {
				a.endOperation(op, ch.GetState(), ch.GetMessage())
			}
		}
	}
	for _, e := range c.GetEvents() {
		e = proto.CloneOf(e)
		if e.GetDecision() > 0 { // counted from 1 within the plan
			e.Decision += first - 1
		}
		a.event(e)
	}
	a.planChanged()
	return nil
}

// endOperation moves an operation on; state RUNNING changes only its message.
func (a *applier) endOperation(op *v1.Operation, st v1.OperationState, message string) {
	op.State, op.Message = st, message
	if st != v1.OperationState_OPERATION_STATE_RUNNING {
		op.EndedMs = a.c.GetTimeMs()
	}
	if node := a.s.NodeStatus[op.GetNode()]; st == v1.OperationState_OPERATION_STATE_FAILED && op.GetKind() == v1.OperationKind_OPERATION_KIND_NODE_STOP &&
		node.GetPhase() == pb.NodePhase_NODE_PHASE_LEAVING {
		node.Phase, node.Evacuate = pb.NodePhase_NODE_PHASE_RUNNING, false // it stays
	}
}

func (a *applier) operate(c *pb.Operate) *Refused {
	op := proto.CloneOf(c.GetOperation())
	switch op.GetKind() {
	case v1.OperationKind_OPERATION_KIND_NODE_STOP:
		st := a.s.NodeStatus[op.GetNode()]
		if a.s.Nodes[op.GetNode()] == nil {
			return refuse(CodeNotFound, "there is no node %s: holdfast node list shows all", op.GetNode())
		}
		if MemberOf(a.s, op.GetNode()) == nil {
			return refuse(CodeConflict, "node %s is not in the cluster", op.GetNode())
		}
		if st.GetPhase() == pb.NodePhase_NODE_PHASE_LEAVING {
			return refuse(CodeConflict, "node %s is being stopped already", op.GetNode())
		}
		st.Phase, st.Evacuate = pb.NodePhase_NODE_PHASE_LEAVING, op.GetEvacuate()
		a.nodeEvent(v1.Severity_SEVERITY_INFORMATION, "node.leaving", op.GetNode(), "%s is being stopped by an administrator", op.GetNode())
	case v1.OperationKind_OPERATION_KIND_UNSPECIFIED:
		return refuse(CodeInvalid, "the operation has no kind")
	default:
		g := a.s.Groups[op.GetGroup()]
		if g == nil {
			return refuse(CodeNotFound, "there is no group %s: holdfast group list shows all", op.GetGroup())
		}
		if n := op.GetNode(); n != "" && a.s.Nodes[n] == nil {
			return refuse(CodeNotFound, "there is no node %s: holdfast node list shows all", n)
		}
		if r := op.GetResource(); r != "" && !hasResource(g, r) {
			return refuse(CodeNotFound, "group %s has no resource %s: holdfast resource list shows all", g.GetName(), r)
		}
	}
	a.s.NextOperation++
	op.Id, op.State, op.StartedMs, op.EndedMs = a.s.NextOperation, v1.OperationState_OPERATION_STATE_RUNNING, a.c.GetTimeMs(), 0
	a.out.Operation = op.Id
	a.s.Operations = a.keepRunning(append(a.s.Operations, op))
	a.planChanged()
	return nil
}

// keepRunning forgets the oldest operations that have ended.
func (a *applier) keepRunning(ops []*v1.Operation) []*v1.Operation {
	over := len(ops) - keepOperations
	kept := ops[:0]
	for _, op := range ops {
		if over > 0 && op.GetState() != v1.OperationState_OPERATION_STATE_RUNNING {
			over--
			continue
		}
		kept = append(kept, op)
	}
	return kept
}

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
		return nil, refuse(CodeNotFound, "there is no group %s: holdfast group list shows all", group)
	}
	if resource != "" && !hasResource(g, resource) {
		return nil, refuse(CodeNotFound, "group %s has no resource %s: holdfast resource list shows all", group, resource)
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
	places, err := a.places(c.GetGroup(), c.GetResource(), c.GetNode())
	if err != nil {
		return err
	}
	for _, on := range places {
		on.Faulted = false
		for name, st := range on.Resources {
			if c.GetResource() != "" && c.GetResource() != name {
				continue
			}
			st.UnableToOffline = false
			if st.GetState() == v1.ResourceState_RESOURCE_STATE_FAULTED {
				st.State, st.Message, st.ChangedMs = v1.ResourceState_RESOURCE_STATE_OFFLINE, "cleared", a.c.GetTimeMs()
			}
		}
	}
	a.planChanged()
	a.event(&v1.Event{Severity: v1.Severity_SEVERITY_INFORMATION, Code: "group.cleared", Group: c.GetGroup(), Resource: c.GetResource(), Node: c.GetNode(),
		Message: "faults of group " + c.GetGroup() + " were cleared"})
	return nil
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
