package planner

import (
	"fmt"
	"slices"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// nodeStop is a running NODE_STOP. Apply makes the node LEAVING when the
// operation starts, RUNNING again when it fails, and ends it when the node has left.
type nodeStop struct {
	op *v1.Operation
	// Groups that are not clear of the node, and why the first one is not.
	busy  []string
	why   string
	ended bool
}

// findLeaving says which members leave. A stop that would have to take a
// frozen group offline is refused.
func (p *pass) findLeaving() {
	for _, m := range p.s.GetView().GetMembers() {
		st := p.s.GetNodeStatus()[m.GetNode()]
		if st.GetPhase() == statepb.NodePhase_NODE_PHASE_LEAVING {
			p.leaving[m.GetNode()] = leave{evacuate: st.GetEvacuate()}
		}
	}
	for _, stop := range p.stops {
		node := stop.op.GetNode()
		if !p.members[node] {
			stop.end(p, failed, p.absent(node))
			continue
		}
		p.leaving[node] = leave{evacuate: stop.op.GetEvacuate()}
		if g := p.frozenOn(node); g != "" {
			stop.end(p, failed, fmt.Sprintf("%s is frozen and runs on %s: holdfast group unfreeze %s, then stop the node again", g, node, g))
			delete(p.leaving, node)
		}
	}
}

func (n *nodeStop) end(p *pass, st v1.OperationState, message string) {
	n.ended = true
	p.endOperation(n.op, st, message)
}

// frozenOn returns a frozen group of which something runs on node.
func (p *pass) frozenOn(node string) string {
	for _, gr := range p.groups {
		w := gr.at(node)
		if w == nil || !gr.g.GetFrozen() {
			continue
		}
		if sp := w.spot(node); sp.on != nil && (sp.on.GetWant() == wantOnline || sp.runs()) {
			return gr.g.GetName()
		}
	}
	return ""
}

// noteBusy remembers for the nodes that are being stopped what they wait for.
func (gr *group) noteBusy() {
	for _, stop := range gr.stops {
		w := gr.at(stop.op.GetNode())
		if stop.ended || w == nil {
			continue
		}
		if why := w.notClear(w.spot(stop.op.GetNode())); why != "" {
			if len(stop.busy) == 0 {
				stop.why = why
			}
			stop.busy = append(stop.busy, gr.g.GetName())
		}
	}
}

func (p *pass) endNodeStops() {
	for _, stop := range p.stops {
		if stop.ended {
			continue
		}
		node := stop.op.GetNode()
		if len(stop.busy) == 0 {
			p.endOperation(stop.op, running, fmt.Sprintf("nothing runs on %s any more: it leaves the cluster", node))
			continue
		}
		slices.Sort(stop.busy)
		p.endOperation(stop.op, running, fmt.Sprintf("waiting for %s: %s", list(stop.busy), stop.why))
	}
}
