package planner

import (
	"cmp"
	"slices"
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
	p.thawNodes()
	for _, gr := range p.groups {
		gr.review()
	}
	p.openLedger()
	for _, gr := range p.groups {
		gr.act()
	}
	for _, gr := range p.groups {
		gr.finish()
	}
	p.endNodeStops()
	p.warnOfLoad()
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
		s:           s,
		env:         env,
		nowMs:       max(env.ClockMs, s.GetClockMs()),
		members:     map[string]bool{},
		leaving:     map[string]leave{},
		evacuations: map[string]*evacuation{},
		ops:         map[string][]*v1.Operation{},
		unset:       readUnset(),
		plan:        &statepb.Plan{BasePlanRevision: s.GetPlanRevision()},
	}
	for _, m := range s.GetView().GetMembers() {
		p.members[m.GetNode()] = true
	}
	for _, name := range state.SortedKeys(s.GetGroups()) {
		p.groups = append(p.groups, p.newGroup(s.GetGroups()[name]))
	}
	p.link()
	p.inOrder()
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
	// All groups, in the order of the pass ([pass.inOrder]).
	groups []*group
	ledger ledger
	unset  *unset
	// Running operations by group, oldest first.
	ops   map[string][]*v1.Operation
	stops []*nodeStop
	// Running NODE_EVACUATE by node.
	evacuations map[string]*evacuation
	plan        *statepb.Plan
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

// inOrder is the one order in which groups are decided about in all phases: what
// comes first is given a place first. Those of higher drag priority, counting what
// depends on them; then children before their parents; then by name.
func (p *pass) inOrder() {
	slices.SortStableFunc(p.groups, func(a, b *group) int {
		return cmp.Or(cmp.Compare(b.weight, a.weight), cmp.Compare(a.depth, b.depth))
	})
}

// act carries out operations, and finds places for what shall be online and is not.
func (gr *group) act() {
	ops := gr.ops[gr.g.GetName()]
	if why := gr.frozen(); why != "" { // P5
		for _, op := range ops {
			gr.endOperation(op, failed, why)
		}
		return
	}
	for _, w := range gr.instances {
		w.yield()
	}
	gr.takeOperations(ops)
	for _, w := range gr.instances {
		if w.operate() {
			w.automatic()
		}
	}
}

// finish writes down what was decided of the group.
func (gr *group) finish() {
	if gr.frozen() == "" {
		for _, w := range gr.instances {
			w.strand()
			w.relax()
			w.forgetRun()
		}
		gr.endOperations(gr.ops[gr.g.GetName()])
		gr.tidy()
	}
	for _, w := range gr.instances {
		w.write()
	}
	gr.writeFlags()
	gr.noteBusy()
}

// leave is how a member leaves, or is left by its groups.
type leave struct {
	// Its groups move away first; else they stay offline.
	evacuate bool
	// The node stays a member: it is only evacuated.
	stays bool
	// What runs there goes on without the cluster.
	detach bool
}

func (p *pass) sortOperations() {
	for _, op := range p.s.GetOperations() {
		switch {
		case op.GetState() != v1.OperationState_OPERATION_STATE_RUNNING:
		case op.GetKind() == v1.OperationKind_OPERATION_KIND_RESOURCE_ACTION:
			// Carried out by its node.
		case op.GetKind() == v1.OperationKind_OPERATION_KIND_NODE_STOP:
			p.stops = append(p.stops, &nodeStop{op: op})
		case op.GetKind() == v1.OperationKind_OPERATION_KIND_NODE_EVACUATE:
			p.evacuations[op.GetNode()] = &evacuation{op: op}
		case p.s.GetGroups()[op.GetGroup()] == nil:
			p.endOperation(op, failed, "group "+op.GetGroup()+" has been removed")
		default:
			p.ops[op.GetGroup()] = append(p.ops[op.GetGroup()], op)
		}
	}
}
