package planner

import (
	"fmt"
	"slices"
	"strings"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// explainDecisions is how many of a group's decisions an explanation has.
const explainDecisions = 10

// Explain says why a group is where it is, why not elsewhere, and what would
// happen if its node failed. It returns nil when there is no such group.
// Source is left to the caller.
func Explain(s *statepb.State, env Env, group string) *v1.ExplainGroupResponse {
	w := look(s, env, group)
	if w == nil {
		return nil
	}
	h := w.home()
	resp := &v1.ExplainGroupResponse{Group: group, Summary: w.summary()}
	all := s.GetDecisions()
	for i := len(all) - 1; i >= 0 && len(resp.Decisions) < explainDecisions; i-- {
		if all[i].GetGroup() == group {
			resp.Decisions = append(resp.Decisions, all[i])
		}
	}
	resp.Reasons = w.reasons(resp.Decisions)
	for _, sp := range w.spots {
		if sp == h {
			continue
		}
		why := w.reject(sp, false)
		switch {
		case why != "":
		case h != nil:
			why = fmt.Sprintf("%s could run %s: it is wanted online on %s", sp.node, group, h.node)
		default:
			why = fmt.Sprintf("%s could run %s", sp.node, group)
		}
		resp.NotThere = append(resp.NotThere, &v1.Rejection{Node: sp.node, Reason: why})
	}
	if h != nil && h.member {
		resp.WhatIf = append(resp.WhatIf, whatIf(s, env, group, h.node))
	}
	return resp
}

// look gathers what is known of a group, to be read only.
func look(s *statepb.State, env Env, group string) *work {
	g := s.GetGroups()[group]
	if g == nil {
		return nil
	}
	p := newPass(s, env)
	p.findLeaving()
	return p.newWork(g)
}

// summary is one sentence on where the group is.
func (w *work) summary() string {
	g, h := w.g.GetName(), w.home()
	frozen := ""
	if w.g.GetFrozen() {
		frozen = "; it is frozen, so nothing is done with it"
	}
	switch {
	case h != nil && (!h.member || h.fence != nil):
		return w.notClear(h) + ", and " + g + " ran there" + frozen
	case h != nil && w.complete(h):
		return g + " is online on " + h.node + frozen
	case h != nil:
		return g + " is being brought online on " + h.node + w.missing(h) + frozen
	}
	for _, sp := range w.spots {
		if sp.member && len(sp.online) > 0 {
			return fmt.Sprintf("%s running on %s, where %s is not wanted online", w.areNames(sp.online), sp.node, g) + frozen
		}
	}
	if w.book.IntentOnline {
		return g + " shall be online and is offline everywhere" + frozen
	}
	return g + " is offline" + frozen
}

func (w *work) missing(h *spot) string {
	var at []int
	for i := range w.res {
		if w.expected(h, i) && w.status(h, i).GetState() != v1.ResourceState_RESOURCE_STATE_ONLINE {
			at = append(at, i)
		}
	}
	if len(at) == 0 {
		return ""
	}
	return ": " + w.areNames(at) + " not online yet"
}

// reasons of the place that the group has, or of its having none.
func (w *work) reasons(latest []*v1.Decision) []string {
	h := w.home()
	if h == nil {
		return []string{whyOffline(w.s, w.g.GetName())}
	}
	var out []string
	if w.book.Waiting != "" {
		out = append(out, w.book.Waiting)
	}
	i := slices.IndexFunc(latest, func(d *v1.Decision) bool {
		return d.GetNode() == h.node && strings.HasPrefix(d.GetAction(), "online "+w.g.GetName()+" ")
	})
	if i >= 0 {
		out = append(out, latest[i].GetReasons()...)
	}
	return out
}

// whyOffline says why a group is online nowhere.
func whyOffline(s *statepb.State, group string) string {
	g, b := s.GetGroups()[group], state.Book(s.GetGroupStatus()[group], "")
	switch {
	case b.GetWaiting() != "":
		return b.GetWaiting()
	case b.GetHeldOffline():
		return "an administrator took " + group + " offline"
	case len(g.GetAutoStartList()) == 0 && !b.GetIntentOnline():
		return group + " has no autoStartList: it waits for holdfast group online " + group
	case g.GetFrozen():
		return group + " is frozen"
	}
	return group + " is about to be decided on"
}

func whatIf(s *statepb.State, env Env, group, node string) string {
	r := Simulate(s, env, &v1.SimulateRequest{Steps: []*v1.SimulateStep{
		{Step: &v1.SimulateStep_FailNodes{FailNodes: &v1.NodeNames{Nodes: []string{node}}}},
	}})
	for _, g := range r.GetGroups() {
		if g.GetGroup() != group {
			continue
		}
		if g.GetAfter() != "" {
			return fmt.Sprintf("if %s fails: %s goes to %s", node, group, g.GetAfter())
		}
		return fmt.Sprintf("if %s fails: %s stays offline: %s", node, group, g.GetReason())
	}
	return ""
}
