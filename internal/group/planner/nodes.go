package planner

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// Operations on nodes, and what is told of their load.

// nodeStop is a running NODE_STOP. Apply makes the node LEAVING when the
// operation starts, RUNNING again when it fails, and ends it when the node has left.
type nodeStop struct {
	op *v1.Operation
	// Groups that are not clear of the node, and why the first one is not.
	busy []string
	why  string
	// Groups that go on there (sysDownPolicy).
	left  []string
	ended bool
}

// evacuation is a running NODE_EVACUATE.
type evacuation struct {
	op *v1.Operation
	// What is on its way, and what stays and why.
	moving, staying []string
}

// findLeaving says which members leave, or are left. A stop that would have to take a
// frozen group offline, or one that waits for a person, is refused.
func (p *pass) findLeaving() {
	for _, m := range p.s.GetView().GetMembers() {
		st := p.s.GetNodeStatus()[m.GetNode()]
		if st.GetPhase() == statepb.NodePhase_NODE_PHASE_LEAVING {
			p.leaving[m.GetNode()] = leave{evacuate: st.GetEvacuate(), detach: st.GetDetach()}
		}
	}
	for _, stop := range p.stops {
		node := stop.op.GetNode()
		if !p.members[node] {
			stop.end(p, failed, p.absent(node))
			continue
		}
		p.leaving[node] = leave{evacuate: stop.op.GetEvacuate(), detach: stop.op.GetDetach()}
		if why := p.keepsNode(stop.op); why != "" {
			stop.end(p, failed, why)
			delete(p.leaving, node)
		}
	}
	for _, node := range state.SortedKeys(p.evacuations) {
		if _, leaving := p.leaving[node]; leaving || !p.members[node] {
			why := node + " is being stopped"
			if !leaving {
				why = p.absent(node)
			}
			p.endOperation(p.evacuations[node].op, failed, why)
			delete(p.evacuations, node)
			continue
		}
		p.leaving[node] = leave{evacuate: true, stays: true}
	}
}

func (n *nodeStop) end(p *pass, st v1.OperationState, message string) {
	n.ended = true
	p.endOperation(n.op, st, message)
}

// keepsNode says what forbids to stop a node; empty: nothing does.
func (p *pass) keepsNode(op *v1.Operation) string {
	node := op.GetNode()
	for _, gr := range p.groups {
		w := gr.at(node)
		if w == nil || op.GetDetach() {
			continue // what is left running is looked at when it is detached
		}
		sp := w.spot(node)
		g := gr.g.GetName()
		if gr.frozen() != "" && (sp.on.GetWant() == wantOnline || sp.runs()) {
			return fmt.Sprintf("%s is frozen and runs on %s: holdfast group unfreeze %s, then stop the node again", g, node, g)
		}
		if why := w.mustWait(sp); why != "" && !op.GetForce() {
			return why
		}
	}
	return ""
}

// noteBusy remembers for the nodes that are being stopped or evacuated what they wait for.
func (gr *group) noteBusy() {
	for _, stop := range gr.stops {
		w := gr.at(stop.op.GetNode())
		if stop.ended || w == nil {
			continue
		}
		sp := w.spot(stop.op.GetNode())
		if w.leftRunning(sp) {
			stop.left = append(stop.left, gr.g.GetName())
		}
		if stop.op.GetDetach() || w.leftRunning(sp) || stop.op.GetForce() && w.mustWait(sp) != "" && !sp.runs() {
			continue
		}
		if why := w.notClear(sp); why != "" {
			if len(stop.busy) == 0 {
				stop.why = why
			}
			stop.busy = append(stop.busy, gr.g.GetName())
		}
	}
	for node, e := range gr.evacuations { // in any order: one has nothing to do with another
		w := gr.at(node)
		if w == nil {
			continue
		}
		sp := w.spot(node)
		switch {
		case gr.frozen() != "" && sp.on.GetWant() == wantOnline:
			e.staying = append(e.staying, gr.frozen())
		case w.held != "" && sp.want() == wantOnline:
			e.staying = append(e.staying, w.held)
		case sp.member && sp.alone() != "":
			e.staying = append(e.staying, fmt.Sprintf("%s stays: it was brought online by itself", sp.alone()))
		case sp.want() == wantOffline && w.notClear(sp) != "", w.departing(sp), sp.want() == wantOnline && (w.op != nil || w.book.GetParting() != "" || !sp.confirmed()):
			e.moving = append(e.moving, gr.g.GetName())
		}
	}
}

func (p *pass) endNodeStops() {
	for _, stop := range p.stops {
		if stop.ended {
			continue
		}
		node := stop.op.GetNode()
		switch {
		case stop.op.GetDetach():
			p.endOperation(stop.op, running, fmt.Sprintf("what runs on %s goes on: it leaves the cluster", node))
		case len(stop.busy) == 0 && len(stop.left) > 0:
			slices.Sort(stop.left)
			p.endOperation(stop.op, running, fmt.Sprintf("%s goes on on %s, and nothing else runs there: it leaves the cluster", list(stop.left), node))
		case len(stop.busy) == 0:
			p.endOperation(stop.op, running, fmt.Sprintf("nothing runs on %s any more: it leaves the cluster", node))
		default:
			slices.Sort(stop.busy)
			p.endOperation(stop.op, running, fmt.Sprintf("waiting for %s: %s", list(stop.busy), stop.why))
		}
	}
	for _, node := range state.SortedKeys(p.evacuations) {
		e := p.evacuations[node]
		slices.Sort(e.moving)
		slices.Sort(e.staying)
		switch {
		case len(e.moving) > 0:
			p.endOperation(e.op, running, fmt.Sprintf("moving %s away from %s", list(e.moving), node))
		case len(e.staying) > 0:
			p.endOperation(e.op, failed, fmt.Sprintf("not all groups have left %s: %s", node, atMost(e.staying)))
		default:
			p.endOperation(e.op, done, "all groups that can move have left "+node)
		}
	}
}

// warnOfLoad tells of nodes of which more than the warning level of some capacity
// has been in use for a while.
func (p *pass) warnOfLoad() {
	for _, m := range p.s.GetView().GetMembers() {
		node := m.GetNode()
		n, st, a := p.s.GetNodes()[node], p.s.GetNodeStatus()[node], p.ledger.accounts[node]
		if a == nil {
			continue
		}
		a.claims, a.sums = nil, nil // of no more than this pass
		change := &statepb.LoadChange{Node: node, SinceMs: st.GetLoadedSinceMs(), Warned: st.GetLoadWarned()}
		level := int64(value(n.LoadWarningLevel, p.unset.node.LoadWarningLevel))
		high := a.above(level)
		switch {
		case high == "":
			change.SinceMs, change.Warned = 0, false
		case change.SinceMs == 0:
			change.SinceMs = max(p.nowMs, 1)
		}
		if high != "" && !change.Warned && p.due(change.SinceMs+spanMs(n.GetLoadTimeThreshold(), p.unset.node.GetLoadTimeThreshold())) {
			change.Warned = true
			p.plan.Events = append(p.plan.Events, &v1.Event{TimeMs: p.env.NowMs, Severity: v1.Severity_SEVERITY_WARNING, Code: "node.load", Node: node,
				Message: fmt.Sprintf("%s has been above its warning level of %d %% for a while: %s", node, level, high)})
			if slices.Contains(p.s.GetCluster().GetTriggersEnabled(), loadWarning) {
				p.plan.Triggers = append(p.plan.Triggers, &statepb.TriggerRun{Trigger: loadWarning, Node: node, Facts: map[string]string{state.FactAvailable: a.left()},
					Program: state.TriggerProgram(p.s, nil, loadWarning), Timeout: durationpb.New(tellTimeout), ClockMs: p.nowMs})
			}
		}
		if change.GetSinceMs() != st.GetLoadedSinceMs() || change.GetWarned() != st.GetLoadWarned() {
			p.plan.Loads = append(p.plan.Loads, change)
		}
	}
}

// left is what is left of each capacity: "cpu=40 memory=100".
func (a *account) left() string {
	var all []string
	for _, dim := range state.SortedKeys(a.node.GetCapacity()) {
		all = append(all, fmt.Sprintf("%s=%d", dim, a.node.GetCapacity()[dim]-a.used(dim)))
	}
	return strings.Join(all, " ")
}

// above says of which capacities more than so many percent are in use; empty: of none.
func (a *account) above(level int64) string {
	var high []string
	for _, dim := range state.SortedKeys(a.node.GetCapacity()) {
		all := a.node.GetCapacity()[dim]
		if used := a.used(dim); all > 0 && float64(used)*100 > float64(level)*float64(all) {
			high = append(high, fmt.Sprintf("%d of %s %d are in use", used, dim, all))
		}
	}
	return strings.Join(high, ", ")
}
