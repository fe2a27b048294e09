package planner

import (
	"fmt"
	"slices"
	"strings"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// A rejection says why an instance may not be brought online on a node.
type rejection struct {
	node string
	// A full sentence. It changes only when something has changed that matters,
	// so that it can be kept in the notebook.
	why string
	// What was counted or measured, for decisions and explanations; may be empty.
	measure string
	// It is for want of room only: others could be pushed off ([work.makeRoom]).
	room bool
}

// sentence of a rejection, empty of none.
func (r *rejection) sentence() string {
	if r == nil {
		return ""
	}
	return r.why
}

func (r *rejection) text() string {
	if r.measure == "" {
		return r.why
	}
	return r.why + ": " + r.measure
}

// choice is the outcome of looking for a node.
type choice struct {
	// Nil: none is eligible.
	to *spot
	// Why to, in words.
	why string
	// Why not the others that were considered, in order of rank.
	rejected []*rejection
	// What was compared.
	inputs []string
}

// rejections as they go into a decision.
func (c *choice) rejections() (out []*v1.Rejection) {
	for _, r := range c.rejected {
		out = append(out, &v1.Rejection{Node: r.node, Reason: r.text()})
	}
	return out
}

// sentence joins rejections for people, without what changes all the time.
func (c *choice) sentence() string {
	var s []string
	for _, r := range c.rejected {
		s = append(s, r.why)
	}
	return strings.Join(s, "; ")
}

// choose takes the first eligible node of a ranking. A node that the instance
// is bound for comes before all others.
func (w *work) choose(r ranking, manual bool) choice {
	c := choice{inputs: []string{r.policy}}
	for _, n := range r.nodes {
		sp := w.spot(n.node)
		if sp == nil {
			c.rejected = append(c.rejected, &rejection{node: n.node, why: w.notListed(n.node)})
			continue
		}
		if no := w.reject(sp, manual); no != nil {
			c.rejected = append(c.rejected, no)
			continue
		}
		if n.measure != "" {
			c.inputs = append(c.inputs, n.node+": "+n.measure)
		}
		switch {
		case w.bound(sp): // preonline runs there already
			c.to, c.why = sp, r.reason(n)
		case c.to != nil && w.bound(c.to):
		case w.book.GetBoundFor() == sp.node:
			c.to, c.why = sp, w.boundWhy(sp)
		case c.to == nil:
			c.to, c.why = sp, r.reason(n)
			if w.g.GetParallel() {
				c.why = w.g.GetName() + " runs on all nodes of its system list at once"
			}
		}
	}
	return c
}

// boundWhy says why the instance goes to the node that it is bound for.
func (w *work) boundWhy(sp *spot) string {
	b := w.book
	switch {
	case w.retrying(sp):
		return fmt.Sprintf("onlineRetryLimit has it tried on %s again (%d of %d)", sp.node, b.GetRetries(), w.attr.onlineRetryLimit)
	case w.op != nil:
		return sp.node + " was chosen when the switch began"
	}
	return "failback is automatic"
}

// reject says why the instance may not be brought online on that node; nil: the
// node is eligible. This is the only place where that is judged. Whether other nodes
// are clear is another question ([work.blocked]). An administrator who asks for it (manual)
// may try again where it has failed (P6), and may leave the zone or site.
func (w *work) reject(sp *spot, manual bool) *rejection {
	if no := w.unfit(sp, manual); no != nil {
		return no
	}
	why := w.givesWay(sp)
	if why == "" && !w.bringsChildren {
		why = w.childless(sp)
	}
	if why != "" {
		return &rejection{node: sp.node, why: why}
	}
	return nil
}

// unfit is reject without the groups that this one depends on.
func (w *work) unfit(sp *spot, manual bool) *rejection {
	if why := w.rejectNode(sp); why != "" {
		return &rejection{node: sp.node, why: why}
	}
	if why := w.rejectState(sp); why != "" {
		return &rejection{node: sp.node, why: why}
	}
	if !manual {
		if why := w.rejectAgain(sp); why != "" {
			return &rejection{node: sp.node, why: why}
		}
	}
	if l := w.ledger.lacks(w, sp.node, false); l != nil {
		return &rejection{node: sp.node, why: l.why, measure: l.measure, room: true}
	}
	return nil
}

// rejectNode: what speaks against the node, whatever the group.
func (w *work) rejectNode(sp *spot) string {
	l, leaving := w.leaving[sp.node]
	switch {
	case !sp.listed:
		return w.notListed(sp.node)
	case sp.fence != nil, sp.on.GetDetached():
		return w.notProven(sp)
	case !sp.member:
		return w.absent(sp.node)
	case leaving && l.stays && !w.mayReturn && !w.bound(sp):
		return sp.node + " is being evacuated"
	case leaving && !l.stays:
		return sp.node + " is being stopped"
	case w.reset(sp.node) != "":
		return sp.node + " is to be reset: " + w.reset(sp.node)
	case w.frozenNode(sp.node):
		return fmt.Sprintf("%s is frozen: holdfast node unfreeze %s", sp.node, sp.node)
	}
	return ""
}

// rejectState: what speaks against the node by the state of the group there.
func (w *work) rejectState(sp *spot) string {
	g := w.g.GetName()
	switch why := w.disabledOn(sp); {
	case why != "":
		return fmt.Sprintf("%s is disabled on %s (%s): holdfast group enable %s --node %s", g, sp.node, why, g, sp.node)
	case sp.on == nil || !sp.on.GetProbed():
		return w.notProbed(sp)
	case w.mustWait(sp) != "":
		return w.mustWait(sp)
	case len(sp.stuck) > 0:
		return w.stuckSentence(sp)
	}
	if f := w.faults(sp); f.group {
		if f.persistent {
			return w.downSentence(sp, f.root)
		}
		return fmt.Sprintf("%s, and is not cleared yet: holdfast group clear %s --node %s", f.why, g, sp.node)
	}
	if slices.Contains(w.faulted, sp.node) {
		return fmt.Sprintf("%s is faulted on %s: clear it first: holdfast group clear %s --node %s", g, sp.node, g, sp.node)
	}
	return ""
}

// rejectAgain: what keeps the planner, and no administrator, from taking the node.
func (w *work) rejectAgain(sp *spot) string {
	g := w.g.GetName()
	if slices.Contains(w.book.Tried, sp.node) && w.book.GetBoundFor() != sp.node {
		return fmt.Sprintf("%s has failed on %s since it was last online: to try again, holdfast group online %s --node %s", g, sp.node, g, sp.node)
	}
	near, where := w.near()
	if near != nil && w.staysNear() && !near(sp.node) {
		return fmt.Sprintf("%s leaves %s only by hand: holdfast group online %s --node %s", g, strings.TrimSuffix(where, ", where it ran"), g, sp.node)
	}
	return ""
}

// staysNear: it leaves its zone or site by itself at no time.
func (w *work) staysNear() bool {
	return w.attr.autoFailOver == 2 || w.g.GetPackage().GetFailoverPolicy() == "site_preferred_manual"
}

func (gr *group) notListed(node string) string {
	return fmt.Sprintf("%s is not on the system list of %s", node, gr.g.GetName())
}

func (w *work) notProbed(sp *spot) string {
	return fmt.Sprintf("%s has not yet found out what of %s runs there", sp.node, w.g.GetName())
}

// absent says why a node that is no member is none.
func (p *pass) absent(node string) string {
	if p.s.GetNodes()[node] == nil {
		return "there is no node " + node
	}
	switch p.s.GetNodeStatus()[node].GetPhase() {
	case statepb.NodePhase_NODE_PHASE_JOINING:
		return node + " is still joining the cluster"
	case statepb.NodePhase_NODE_PHASE_FAULTED:
		return node + " left the cluster unexpectedly and is not back"
	default:
		return node + " is down"
	}
}
