package state

import (
	"slices"

	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	pb "github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// plan carries out what the planner of the leader decided (S5). It is taken as
// a whole or refused as a whole.
func (a *applier) plan(c *pb.Plan) *Refused {
	if c.GetBasePlanRevision() != a.s.GetPlanRevision() {
		return refuse(CodeStale, "planned from revision %d, but it is %d by now", c.GetBasePlanRevision(), a.s.GetPlanRevision())
	}
	if err := a.mayPlan(c); err != nil {
		return err
	}
	a.s.ClockMs = max(a.s.GetClockMs(), c.GetClockMs())
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
	for _, p := range c.GetPlaces() {
		a.s.GroupStatus[p.GetGroup()].Nodes[p.GetNode()].AutoDisabled = p.GetAutoDisabled()
		a.disableByRule(p)
	}
	a.planGroups(c)
	for _, ch := range c.GetOperations() {
		for _, op := range a.s.Operations {
			if op.GetId() == ch.GetId() && op.GetState() == v1.OperationState_OPERATION_STATE_RUNNING {
				a.endOperation(op, ch.GetState(), ch.GetMessage())
			}
		}
	}
	for _, cl := range c.GetClears() {
		a.cleared(cl)
	}
	for _, e := range c.GetEvents() {
		e = proto.CloneOf(e)
		if e.GetDecision() > 0 { // counted from 1 within the plan
			e.Decision += first - 1
		}
		a.event(e)
	}
	a.planNodes(c)
	// What was seen is no longer in the notebooks, and what is added is there already.
	a.seenTriggers(c.GetTriggersSeen())
	a.addTriggers(c.GetTriggers())
	a.planChanged()
	return nil
}

// mayPlan: everything that the plan names is there. It was made from this very
// state, so that nothing else is to be expected of a leader of this version.
func (a *applier) mayPlan(c *pb.Plan) *Refused {
	place := func(group, node string) *Refused {
		if a.s.GroupStatus[group].GetNodes()[node] == nil {
			return refuse(CodeInvalid, "group %s has no place on node %s", group, node)
		}
		return nil
	}
	group := func(name string) *Refused {
		if a.s.GroupStatus[name] == nil {
			return refuse(CodeInvalid, "there is no group %s", name)
		}
		return nil
	}
	member := func(node string) *Refused {
		if MemberOf(a.s, node) == nil {
			return refuse(CodeInvalid, "node %s is not in the view", node)
		}
		return nil
	}
	known := func(node string) *Refused {
		if a.s.NodeStatus[node] == nil {
			return refuse(CodeInvalid, "there is no node %s", node)
		}
		return nil
	}
	var errs []*Refused
	for _, o := range c.GetOrders() {
		errs = append(errs, place(o.GetGroup(), o.GetNode()))
	}
	for _, p := range c.GetPlaces() {
		errs = append(errs, place(p.GetGroup(), p.GetNode()))
	}
	for _, g := range c.GetGroupChanges() {
		errs = append(errs, group(g.GetGroup()))
		if n := int(g.GetNewTrigger()); n > len(c.GetTriggers()) || n > 0 && g.GetBook() == nil {
			errs = append(errs, refuse(CodeInvalid, "group %s waits for trigger %d of %d", g.GetGroup(), n, len(c.GetTriggers())))
		}
	}
	for _, f := range c.GetFlags() {
		errs = append(errs, group(f.GetGroup()))
	}
	for _, cl := range c.GetClears() {
		if _, err := a.places(cl.GetGroup(), cl.GetResource(), cl.GetNode()); err != nil {
			errs = append(errs, refuse(CodeInvalid, "%s", err.Message))
		}
	}
	for _, t := range c.GetTriggers() {
		errs = append(errs, member(t.GetNode()))
	}
	for _, node := range SortedKeys(c.GetResets()) {
		errs = append(errs, member(node))
	}
	for _, l := range c.GetLoads() {
		errs = append(errs, known(l.GetNode()))
	}
	for _, node := range c.GetNodesUnfrozen() {
		errs = append(errs, known(node))
	}
	if i := slices.IndexFunc(errs, func(r *Refused) bool { return r != nil }); i >= 0 {
		return errs[i]
	}
	return nil
}

// disableByRule: a rule of a package has found that the group must not run there.
func (a *applier) disableByRule(p *pb.PlaceChange) {
	gs := a.s.GroupStatus[p.GetGroup()]
	if why := p.GetDisabled(); why != gs.Nodes[p.GetNode()].GetDisabled() && a.setDisabled(p.GetGroup(), p.GetNode(), why) && why != "" {
		a.groupEvent(v1.Severity_SEVERITY_WARNING, "group.disabled", p.GetGroup(), p.GetNode(), "group %s may not run on %s: %s", p.GetGroup(), p.GetNode(), why)
	}
}

func (a *applier) planGroups(c *pb.Plan) {
	for _, g := range c.GetGroupChanges() {
		gs := a.s.GroupStatus[g.GetGroup()]
		if gs.Instances == nil {
			gs.Instances = map[string]*pb.Instance{}
		}
		book := proto.CloneOf(g.GetBook())
		if n := g.GetNewTrigger(); n > 0 {
			book.Trigger = a.s.NextTrigger + uint64(n) // as addTriggers will number it
		}
		if gs.Instances[g.GetInstance()] = book; g.GetBook() == nil {
			delete(gs.Instances, g.GetInstance())
		}
		for _, node := range g.GetNodes() {
			on := gs.Nodes[node]
			if on == nil {
				continue
			}
			if faulted := contains(g.GetFaulted(), node); faulted != on.Faulted {
				if on.Faulted = faulted; faulted {
					on.FaultedMs = a.s.GetClockMs()
				}
			}
		}
	}
	for _, f := range c.GetFlags() {
		gs := a.s.GroupStatus[f.GetGroup()]
		if off := f.GetSwitchingOff(); off != gs.GetSwitchingOff() {
			gs.SwitchingOff = off
			if off == "" {
				a.groupEvent(v1.Severity_SEVERITY_INFORMATION, "group.switching-on", f.GetGroup(), "", "group %s starts and moves by itself again", f.GetGroup())
			} else {
				a.groupEvent(v1.Severity_SEVERITY_WARNING, "group.switching-off", f.GetGroup(), "", "group %s does not start or move by itself: %s", f.GetGroup(), off)
			}
		}
		if f.GetUnfreeze() {
			a.thaw(f.GetGroup())
		}
	}
}

func (a *applier) planNodes(c *pb.Plan) {
	for _, node := range SortedKeys(c.GetResets()) {
		st := a.s.NodeStatus[node]
		if why := c.Resets[node]; st.GetReset_() == "" && why != "" {
			st.Reset_ = why
			a.nodeEvent(v1.Severity_SEVERITY_CRITICAL, "node.reset", node, "%s is reset: %s", node, why)
		}
	}
	for _, l := range c.GetLoads() {
		st := a.s.NodeStatus[l.GetNode()]
		st.LoadedSinceMs, st.LoadWarned = l.GetSinceMs(), l.GetWarned()
	}
	for _, node := range c.GetNodesUnfrozen() {
		a.thawNode(node)
	}
}
