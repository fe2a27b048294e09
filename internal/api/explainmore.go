package api

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"connectrpc.com/connect"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/config"
	"github.com/holdfast-ha/holdfast/internal/group/planner"
)

// limits of a resource, with all defaults.
func (x *explanation) limits(r *v1.Resource) *v1.Limits {
	return config.EffectiveLimits(x.GetTypes()[r.GetType()], r)
}

func (s *explainServer) Node(ctx context.Context, req *connect.Request[v1.ExplainNodeRequest]) (*connect.Response[v1.ExplainNodeResponse], error) {
	l, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	n, err := l.node(req.Msg.GetNode())
	if err != nil {
		return nil, err
	}
	name := n.GetName()
	info := l.nodeInfo(n)
	resp := &v1.ExplainNodeResponse{Source: l.source(), Node: name, Holds: info.GetHolds(), Load: info.GetLoad()}
	resp.Summary, resp.Reasons = l.whyNode(info)
	env := s.env(l)
	for _, forecast := range planner.Forecasts(l.State, env) {
		g := l.GetGroups()[forecast.GetGroup()]
		if slices.Contains(info.GetGroups(), g.GetName()) {
			resp.Runs = append(resp.Runs, &v1.GroupReason{Group: g.GetName(), Reason: l.whyHere(g, name)})
			continue
		}
		for _, r := range forecast.GetNodes() {
			switch {
			case r.GetNode() != name:
			case r.GetRejected() != "":
				resp.CouldNotTake = append(resp.CouldNotTake, &v1.GroupReason{Group: g.GetName(), Reason: r.GetRejected()})
			default:
				resp.CouldTake = append(resp.CouldTake, &v1.GroupReason{Group: g.GetName(), Reason: fmt.Sprintf("rank %d: %s", r.GetRank(), r.GetMeasure())})
			}
		}
	}
	if state.MemberOf(l.State, name) != nil {
		resp.WhatIf = l.ifLost(env, name)
	}
	resp.Events = l.latest(func(e *v1.Event) bool { return e.GetNode() == name && e.GetResource() == "" })
	return connect.NewResponse(resp), nil
}

// whyNode says how a node is, and why.
func (l *look) whyNode(n *v1.NodeInfo) (summary string, reasons []string) {
	name := n.GetName()
	phase := map[v1.NodePhase]string{
		v1.NodePhase_NODE_PHASE_DOWN: "is down", v1.NodePhase_NODE_PHASE_JOINING: "is joining the cluster", v1.NodePhase_NODE_PHASE_RUNNING: "is a member of the cluster",
		v1.NodePhase_NODE_PHASE_LEAVING: "is leaving the cluster", v1.NodePhase_NODE_PHASE_FAULTED: "was evicted from the cluster",
	}[n.GetPhase()]
	summary = name + " " + cmp.Or(phase, "is in no known state")
	if n.GetLeader() {
		summary += " and leads it"
	}
	codes := map[v1.NodePhase][]string{
		v1.NodePhase_NODE_PHASE_DOWN: {"node.left", "node.stopped", "node.detached"}, v1.NodePhase_NODE_PHASE_LEAVING: {"node.leaving"},
		v1.NodePhase_NODE_PHASE_FAULTED: {"node.evicted"}, v1.NodePhase_NODE_PHASE_JOINING: {"node.joining"}, v1.NodePhase_NODE_PHASE_RUNNING: {"node.joined", "node.started"},
	}[n.GetPhase()]
	for _, e := range slices.Backward(l.GetEvents()) {
		if e.GetNode() == name && slices.Contains(codes, e.GetCode()) {
			reasons = append(reasons, fmt.Sprintf("%s (event %d)", e.GetMessage(), e.GetNumber()))
			break
		}
	}
	if n.GetWaitingForProof() != "" {
		reasons = append(reasons, n.GetWaitingForProof())
	}
	if n.GetSuspected() && n.GetPhase() == v1.NodePhase_NODE_PHASE_RUNNING {
		reasons = append(reasons, l.local.Node+" does not hear it and suspects that it is lost")
	}
	if n.GetEngineDown() {
		reasons = append(reasons, "its heartbeats say that its engine is down; its services go on meanwhile")
	}
	if n.GetLinkState() == v1.LinkState_LINK_STATE_JEOPARDY {
		reasons = append(reasons, "it is reachable over its last link only")
	}
	if n.GetReset_() != "" {
		reasons = append(reasons, "it is to be reset: "+n.GetReset_())
	}
	for _, h := range n.GetHolds() {
		switch h.GetKind() {
		case v1.HoldKind_HOLD_KIND_FROZEN:
			reasons = append(reasons, "no group comes to it: it is "+holdText(h)+" ("+h.GetLift()+")")
		default:
			reasons = append(reasons, h.GetLift())
		}
	}
	return summary, reasons
}

// whyHere says why a group runs on a node.
func (l *look) whyHere(g *v1.Group, node string) string {
	on := l.GetGroupStatus()[g.GetName()].GetNodes()[node]
	switch d := l.brought(g.GetName(), node); {
	case on.GetDetached():
		return "it goes on without the cluster since " + node + " left"
	case d != nil && len(d.GetReasons()) > 0:
		return strings.Join(d.GetReasons(), "; ") + fmt.Sprintf(" (decision %d)", d.GetNumber())
	case on.GetWant() == v1.Want_WANT_ONLINE:
		return "it is wanted online there; the decision is not kept any more"
	case on.GetWant() == v1.Want_WANT_OFFLINE:
		return "it is being taken offline there"
	}
	return "it was found running there, and nothing is wanted of it"
}

// ifLost says what the loss of a node would do to the groups that run there.
func (l *look) ifLost(env planner.Env, node string) (out []string) {
	sim := planner.Simulate(l.State, env, &v1.SimulateRequest{Steps: []*v1.SimulateStep{
		{Step: &v1.SimulateStep_FailNodes{FailNodes: &v1.NodeNames{Nodes: []string{node}}}}}})
	for _, st := range sim.GetSteps() {
		if st.GetNote() != "" {
			out = append(out, st.GetNote())
		}
	}
	for _, g := range sim.GetGroups() {
		switch before := strings.Split(g.GetBefore(), ", "); {
		case !slices.Contains(before, node):
		case g.GetAfter() == "":
			out = append(out, fmt.Sprintf("%s would be online nowhere: %s", g.GetGroup(), g.GetReason()))
		case len(before) > 1:
			out = append(out, fmt.Sprintf("%s would stay online on %s", g.GetGroup(), g.GetAfter()))
		default:
			out = append(out, fmt.Sprintf("%s would go to %s", g.GetGroup(), g.GetAfter()))
		}
	}
	return append(out, sim.GetVerdict())
}

// How long before and after an event its causes and consequences are looked for.
const (
	causesMs       = 60_000
	consequencesMs = 60_000
)

func (s *explainServer) Event(ctx context.Context, req *connect.Request[v1.ExplainEventRequest]) (*connect.Response[v1.ExplainEventResponse], error) {
	l, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	e, near, err := s.eventsNear(ctx, l, req.Msg.GetNumber())
	if err != nil {
		return nil, err
	}
	resp := &v1.ExplainEventResponse{Source: l.source(), Event: e}
	resp.Decision, resp.LedTo = l.decisionOf(e)
	resp.Summary = summaryOf(e, resp.Decision, resp.LedTo)
	about := func(o *v1.Event) bool {
		return o.GetNumber() != e.GetNumber() && (e.GetGroup() != "" && o.GetGroup() == e.GetGroup() || e.GetNode() != "" && o.GetNode() == e.GetNode() && (e.GetGroup() == "" || o.GetGroup() == ""))
	}
	for _, o := range near {
		since := e.GetTimeMs() - o.GetTimeMs()
		switch d := resp.GetDecision(); {
		case !about(o) && (d == nil || o.GetDecision() != d.GetNumber() || o == e):
		case o.GetNumber() < e.GetNumber() && since <= causesMs:
			resp.Before = append(resp.Before, o)
		case o.GetNumber() > e.GetNumber() && -since <= consequencesMs:
			resp.After = append(resp.After, o)
		}
	}
	resp.Before = resp.Before[max(0, len(resp.Before)-explainEvents):]
	resp.After = resp.After[:min(len(resp.After), explainEvents)]
	resp.WouldChange = l.wouldChange(e, resp.GetDecision())
	return connect.NewResponse(resp), nil
}

// nearEvents is how many events before and after one are looked at for what belongs to it.
const nearEvents = 500

// eventsNear finds an event, in the state or on the node's own disk, and those around it.
func (s *server) eventsNear(ctx context.Context, l *look, number uint64) (e *v1.Event, near []*v1.Event, err error) {
	log, err := s.eventLog(ctx, l)
	if err != nil {
		return nil, nil, err
	}
	first := uint64(1)
	if number > nearEvents {
		first = number - nearEvents
	}
	err = log.read(ctx, EventQuery{First: first, Last: number + nearEvents}, func(o *v1.Event) bool {
		if o.GetNumber() == number {
			e = o
		}
		near = append(near, o)
		return true
	})
	switch {
	case err != nil:
		return nil, nil, answered(err)
	case e == nil && number > log.newest:
		return nil, nil, fail(CodeNotFound, "holdfast events shows them", "there is no event %d yet: the newest is %d", number, log.newest)
	case e == nil:
		return nil, nil, fail(CodeNotFound, "ask another node with --api, which may have it", "%s does not have event %d any more", l.local.Node, number)
	}
	return e, near, nil
}

// decisionOf an event: the one that caused it, else the first one about the same
// group, or for a node the first one at all, that followed soon.
func (l *look) decisionOf(e *v1.Event) (d *v1.Decision, led bool) {
	if n := e.GetDecision(); n != 0 {
		for _, d := range l.GetDecisions() {
			if d.GetNumber() == n {
				return d, false
			}
		}
		return nil, false
	}
	if !decides(e) {
		return nil, false
	}
	for _, d := range l.GetDecisions() {
		soon := d.GetTimeMs() >= e.GetTimeMs() && d.GetTimeMs()-e.GetTimeMs() <= consequencesMs
		if soon && (d.GetGroup() == e.GetGroup() || e.GetGroup() == "" && e.GetNode() != "" && mentions(d, e.GetNode())) {
			return d, true
		}
	}
	return nil, false
}

// decides: an event of this kind is something that the planner reacts to.
func decides(e *v1.Event) bool {
	kind, what, _ := strings.Cut(e.GetCode(), ".")
	switch kind {
	case "resource":
		return slices.Contains([]string{"faulted", "online", "offline", "unknown"}, what)
	case "node":
		return slices.Contains([]string{"evicted", "left", "leaving", "joined", "started", "stopped", "frozen", "unfrozen", "evacuating", "detached"}, what)
	case "fence":
		return what == "done" || what == "confirmed"
	}
	return kind == "group"
}

func mentions(d *v1.Decision, node string) bool {
	has := func(text string) bool {
		return slices.Contains(strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(" ,.;:()", r) }), node)
	}
	return d.GetNode() == node || slices.ContainsFunc(d.GetReasons(), has)
}

func summaryOf(e *v1.Event, d *v1.Decision, led bool) string {
	switch {
	case e.GetCode() == "audit.done" || e.GetCode() == "audit.refused":
		return "somebody asked for it: " + e.GetMessage()
	case d != nil && !led:
		return fmt.Sprintf("it came of decision %d: %s", d.GetNumber(), d.GetAction())
	case d != nil:
		return fmt.Sprintf("it led to decision %d: %s", d.GetNumber(), d.GetAction())
	case e.GetDecision() != 0:
		return fmt.Sprintf("it came of decision %d, which is not kept any more", e.GetDecision())
	case e.GetResource() != "":
		return fmt.Sprintf("the agent of %s on %s reported it; nothing was decided because of it", e.GetResource(), e.GetNode())
	}
	return "nothing was decided because of it, as far as it is kept"
}

// wouldChange says what would have led to something else.
func (l *look) wouldChange(e *v1.Event, d *v1.Decision) (out []string) {
	out = append(out, d.GetWouldChange()...)
	if e.GetCode() == "resource.faulted" {
		out = append(out, l.otherFault(e)...)
	}
	if len(d.GetWouldChange()) == 0 {
		for _, r := range d.GetRejections() {
			out = append(out, fmt.Sprintf("%s would have been considered, too, but for this: %s", r.GetNode(), r.GetReason()))
		}
	}
	return out
}

// otherFault: what of the configuration would have made less of a fault.
func (l *look) otherFault(e *v1.Event) (out []string) {
	g, r, err := l.resource(e.GetGroup(), e.GetResource())
	if err != nil {
		return nil
	}
	x := &explanation{look: l, g: g}
	limits := x.limits(r)
	out = append(out, fmt.Sprintf("with restartLimit above %d it would have been restarted on %s once more", limits.GetRestartLimit(), e.GetNode()))
	if limits.GetToleranceLimit() == 0 {
		out = append(out, "with toleranceLimit above 0 the first unexpected offline monitors would have been forgiven")
	}
	if r.Critical == nil || r.GetCritical() {
		out = append(out, "with critical: false, and no critical resource that requires it, "+g.GetName()+" would have stayed")
	}
	if l.faultsManaged(g, r) {
		out = append(out, "with manageFaults: none nothing would have been done before an administrator looked")
	}
	return out
}

func (l *look) faultsManaged(g *v1.Group, r *v1.Resource) bool {
	return cmp.Or(r.GetManageFaults(), g.GetManageFaults()) != v1.ManageFaults_MANAGE_FAULTS_NONE
}
