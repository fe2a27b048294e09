package planner

import (
	"fmt"
	"slices"
	"strings"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// choice is the outcome of looking for a node.
type choice struct {
	// Nil: none is eligible.
	to *spot
	// Why not the others that were considered.
	rejections []*v1.Rejection
}

// choose takes the first eligible of nodes. Policies that rank nodes will put
// them in another order before they come here.
func (w *work) choose(nodes []string, again bool) choice {
	var c choice
	for _, node := range nodes {
		sp := w.spot(node)
		if sp == nil {
			c.rejections = append(c.rejections, &v1.Rejection{Node: node, Reason: w.notListed(node)})
			continue
		}
		if why := w.reject(sp, again); why != "" {
			c.rejections = append(c.rejections, &v1.Rejection{Node: node, Reason: why})
			continue
		}
		if c.to == nil {
			c.to = sp
		}
	}
	return c
}

// reject says why the group may not be brought online on that node; empty: the
// node is eligible. With again, a node may be tried once more (P6). Whether
// other nodes are clear is another question ([work.blocked]).
func (w *work) reject(sp *spot, again bool) string {
	if why := or(w.unfit(sp, again), w.givesWay(sp)); why != "" || w.bringsChildren {
		return why
	}
	return w.childless(sp)
}

// unfit is reject without the groups that this one depends on.
func (w *work) unfit(sp *spot, again bool) string {
	g := w.g.GetName()
	_, leaving := w.leaving[sp.node]
	switch {
	case !sp.listed:
		return w.notListed(sp.node)
	case sp.fence != nil:
		return w.notProven(sp)
	case !sp.member:
		return w.absent(sp.node)
	case leaving:
		return sp.node + " is being stopped"
	case w.s.GetNodes()[sp.node].GetFrozen():
		return fmt.Sprintf("%s is frozen: holdfast node unfreeze %s", sp.node, sp.node)
	case sp.on == nil || !sp.on.GetProbed():
		return fmt.Sprintf("%s has not yet found out what of %s runs there", sp.node, g)
	case len(sp.stuck) > 0:
		return w.stuckSentence(sp)
	}
	if f := w.faults(sp); f.group {
		if f.persistent {
			return w.downSentence(sp, f.root)
		}
		return fmt.Sprintf("%s, and is not cleared yet: holdfast group clear %s --node %s", f.why, g, sp.node)
	}
	switch {
	case slices.Contains(w.faulted, sp.node):
		return fmt.Sprintf("%s is faulted on %s: clear it first: holdfast group clear %s --node %s", g, sp.node, g, sp.node)
	case !again && slices.Contains(w.book.Tried, sp.node):
		return fmt.Sprintf("%s has failed on %s since it was last online: to try again, holdfast group online %s --node %s", g, sp.node, g, sp.node)
	}
	return ""
}

func (gr *group) notListed(node string) string {
	return fmt.Sprintf("%s is not on the system list of %s", node, gr.g.GetName())
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

// sentence joins rejections for people.
func sentence(rs []*v1.Rejection) string {
	var s []string
	for _, r := range rs {
		s = append(s, r.GetReason())
	}
	return strings.Join(s, "; ")
}
