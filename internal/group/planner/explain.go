package planner

import (
	"fmt"
	"slices"
	"strings"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// explainDecisions is how many of a group's decisions an explanation has.
const explainDecisions = 10

// explainWhatIfs is of how many nodes an explanation says what their loss would mean.
const explainWhatIfs = 3

// Explain says why a group is where it is, why not elsewhere, and what would
// happen if its node failed. It returns nil when there is no such group.
// Source is left to the caller.
func Explain(s *statepb.State, env Env, group string) *v1.ExplainGroupResponse {
	gr := look(s, env, group)
	if gr == nil {
		return nil
	}
	resp := &v1.ExplainGroupResponse{Group: group, Summary: gr.summary()}
	all := s.GetDecisions()
	for i := len(all) - 1; i >= 0 && len(resp.Decisions) < explainDecisions; i-- {
		if all[i].GetGroup() == group {
			resp.Decisions = append(resp.Decisions, all[i])
		}
	}
	var homes []string
	for _, w := range gr.instances {
		h := w.home()
		for _, r := range w.reasons(resp.Decisions) {
			if !slices.Contains(resp.Reasons, r) {
				resp.Reasons = append(resp.Reasons, r)
			}
		}
		for _, sp := range w.spots {
			if sp != h {
				resp.NotThere = append(resp.NotThere, &v1.Rejection{Node: sp.node, Reason: w.whyNotThere(sp, h)})
			}
		}
		if h != nil && h.member {
			homes = append(homes, h.node)
		}
	}
	if len(homes) > 0 && !gr.g.GetParallel() { // a parallel instance goes nowhere else
		for _, node := range homes[:min(len(homes), explainWhatIfs)] {
			resp.WhatIf = append(resp.WhatIf, whatIf(s, env, group, node))
		}
	}
	return resp
}

func (w *work) whyNotThere(sp, h *spot) string {
	if no := w.reject(sp, false); no != nil {
		return no.text()
	}
	if h != nil {
		return fmt.Sprintf("%s could run %s: it is wanted online on %s", sp.node, w.g.GetName(), h.node)
	}
	return fmt.Sprintf("%s could run %s", sp.node, w.g.GetName())
}

// look gathers what is known of a group, to be read only.
func look(s *statepb.State, env Env, name string) *group {
	for _, gr := range lookAll(s, env).groups {
		if gr.g.GetName() == name {
			return gr
		}
	}
	return nil
}

// lookAll gathers what is known of all groups, to be read only.
func lookAll(s *statepb.State, env Env) *pass {
	p := newPass(s, env)
	p.sortOperations()
	p.findLeaving()
	p.openLedger()
	return p
}

// summary is one sentence on where the group is.
func (gr *group) summary() string {
	frozen := ""
	if gr.frozen() != "" {
		frozen = "; it is frozen, so nothing is done with it"
	}
	if len(gr.instances) == 1 {
		return gr.instances[0].summary() + frozen
	}
	var online, other []string
	for _, w := range gr.instances {
		if h := w.home(); h != nil && h.member && w.complete(h) {
			online = append(online, h.node)
		} else if w.home() != nil || w.hasMember() {
			other = append(other, w.title()+": "+w.summary())
		}
	}
	said := gr.g.GetName() + " is online nowhere"
	if len(online) > 0 {
		said = gr.g.GetName() + " is online on " + list(online)
	}
	if len(other) > 0 {
		said += "; " + atMost(other)
	}
	return said + frozen
}

// summary is one sentence on where the instance is.
func (w *work) summary() string {
	g, h := w.g.GetName(), w.home()
	switch {
	case h != nil && (!h.member || h.fence != nil):
		return w.notClear(h) + ", and " + g + " ran there"
	case h != nil && w.complete(h):
		return g + " is online on " + h.node
	case h != nil:
		return g + " is being brought online on " + h.node + w.missing(h)
	}
	for _, sp := range w.spots {
		if sp.member && len(sp.online) > 0 {
			return fmt.Sprintf("%s running on %s, where %s is not wanted online", w.areNames(sp.online), sp.node, g)
		}
	}
	if w.book.IntentOnline {
		return g + " shall be online and is offline everywhere"
	}
	return g + " is offline"
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

// reasons of the place that the instance has, or of its having none.
func (w *work) reasons(latest []*v1.Decision) []string {
	h := w.home()
	if h == nil {
		why := whyOffline(w.g, w.book)
		if t := w.title(); t != "" {
			why = t + ": " + why
		}
		return []string{why}
	}
	var out []string
	for _, why := range []string{w.hold(), w.book.Waiting} {
		if why != "" && !slices.Contains(out, why) {
			out = append(out, why)
		}
	}
	i := slices.IndexFunc(latest, func(d *v1.Decision) bool {
		return d.GetNode() == h.node && strings.HasPrefix(d.GetAction(), "online "+w.g.GetName()+" ")
	})
	if i >= 0 {
		out = append(out, latest[i].GetReasons()...)
	}
	return out
}

// whyOffline says why an instance of a group is online nowhere.
func whyOffline(g *v1.Group, b *statepb.Instance) string {
	group := g.GetName()
	switch {
	case b.GetWaiting() != "":
		return b.GetWaiting()
	case b.GetHeldOffline():
		return "an administrator took " + group + " offline"
	case len(g.GetAutoStartList()) == 0 && !b.GetIntentOnline():
		return group + " has no autoStartList: it waits for holdfast group online " + group
	case g.AutoStart != nil && !g.GetAutoStart() && !b.GetIntentOnline():
		return "autoStart of " + group + " is off: it waits for holdfast group online " + group
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
