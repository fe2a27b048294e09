package planner

import (
	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// Env is what Plan needs to know beyond the replicated state.
type Env struct {
	// Seeded: enough nodes have been seen together since the cluster started, so groups may start by themselves.
	Seeded bool
	// NowMs is the time of day in Unix milliseconds. It is stamped into decisions and events and decides nothing.
	NowMs int64
}

// Plan decides what the cluster wants next. It returns nil when nothing is to
// be decided. s is only read; the plan shares no memory with it that anyone
// changes.
func Plan(s *statepb.State, env Env) *statepb.Plan {
	p := newPass(s, env)
	p.sortOperations()
	p.findLeaving()
	for _, name := range state.SortedKeys(s.GetGroups()) {
		p.group(s.GetGroups()[name])
	}
	p.endNodeStops()
	if len(p.plan.Orders)+len(p.plan.GroupChanges)+len(p.plan.Operations)+len(p.plan.Decisions)+len(p.plan.Events) == 0 {
		return nil
	}
	return p.plan
}

func newPass(s *statepb.State, env Env) *pass {
	p := &pass{
		s:       s,
		env:     env,
		members: map[string]bool{},
		leaving: map[string]leave{},
		ops:     map[string][]*v1.Operation{},
		plan:    &statepb.Plan{BasePlanRevision: s.GetPlanRevision()},
	}
	for _, m := range s.GetView().GetMembers() {
		p.members[m.GetNode()] = true
	}
	return p
}

// pass is one call of Plan.
type pass struct {
	s       *statepb.State
	env     Env
	members map[string]bool
	// Members that are being stopped.
	leaving map[string]leave
	// Running operations by group, oldest first.
	ops   map[string][]*v1.Operation
	stops []*nodeStop
	plan  *statepb.Plan
}

// leave is how a member leaves.
type leave struct {
	// Its groups move away first; else they stay offline.
	evacuate bool
}

func (p *pass) sortOperations() {
	for _, op := range p.s.GetOperations() {
		switch {
		case op.GetState() != v1.OperationState_OPERATION_STATE_RUNNING:
		case op.GetKind() == v1.OperationKind_OPERATION_KIND_NODE_STOP:
			p.stops = append(p.stops, &nodeStop{op: op})
		case p.s.GetGroups()[op.GetGroup()] == nil:
			p.endOperation(op, failed, "group "+op.GetGroup()+" has been removed")
		default:
			p.ops[op.GetGroup()] = append(p.ops[op.GetGroup()], op)
		}
	}
}
