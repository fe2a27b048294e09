package planner

import (
	"time"

	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// Env is what Plan needs to know beyond the replicated state.
type Env struct {
	// Seeded: enough nodes have been seen together since the cluster started, so groups may start by themselves.
	Seeded bool
	// ClockMs is the reading of the cluster's clock (State.clock_ms has the last one that was committed). All
	// waiting of the planner is counted by it. A reading before the committed one counts as that.
	ClockMs int64
	// NowMs is the time of day in Unix milliseconds. It is stamped into decisions and events and decides nothing.
	NowMs int64
}

// Plan decides what the cluster wants next. It returns nil when nothing is to
// be decided. s is only read; the plan shares no memory with it that anyone
// changes. If nothing else happens before, it must be called again when the
// cluster's clock has gone on by wake; 0: need not.
func Plan(s *statepb.State, env Env) (plan *statepb.Plan, wake time.Duration) {
	p := newPass(s, env)
	p.sortOperations()
	p.findLeaving()
	for _, gr := range p.groups {
		gr.decide()
	}
	for _, gr := range p.groups {
		gr.write()
	}
	p.endNodeStops()
	if p.wakeMs > 0 {
		wake = time.Duration(p.wakeMs-p.nowMs) * time.Millisecond
	}
	if proto.Equal(p.plan, &statepb.Plan{BasePlanRevision: s.GetPlanRevision()}) {
		return nil, wake
	}
	p.plan.ClockMs = p.nowMs
	return p.plan, wake
}

func newPass(s *statepb.State, env Env) *pass {
	p := &pass{
		s:       s,
		env:     env,
		nowMs:   max(env.ClockMs, s.GetClockMs()),
		members: map[string]bool{},
		leaving: map[string]leave{},
		ops:     map[string][]*v1.Operation{},
		plan:    &statepb.Plan{BasePlanRevision: s.GetPlanRevision()},
	}
	for _, m := range s.GetView().GetMembers() {
		p.members[m.GetNode()] = true
	}
	for _, name := range state.SortedKeys(s.GetGroups()) {
		p.groups = append(p.groups, p.newGroup(s.GetGroups()[name]))
	}
	p.link()
	return p
}

// pass is one call of Plan.
type pass struct {
	s   *statepb.State
	env Env
	// Reading of the cluster's clock, and the next one at which something is due; 0: nothing is.
	nowMs, wakeMs int64
	members       map[string]bool
	// Members that are being stopped.
	leaving map[string]leave
	// All groups, in the order in which they are decided about: by depth, then by name.
	groups []*group
	// Running operations by group, oldest first.
	ops   map[string][]*v1.Operation
	stops []*nodeStop
	plan  *statepb.Plan
}

// due says whether the cluster's clock has reached a reading; if it has not,
// the planner is called again when it does.
func (p *pass) due(ms int64) bool {
	if p.nowMs >= ms {
		return true
	}
	if p.wakeMs == 0 || ms < p.wakeMs {
		p.wakeMs = ms
	}
	return false
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
