package api

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"connectrpc.com/connect"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
	"github.com/holdfast-ha/holdfast/internal/group/planner"
	"github.com/holdfast-ha/holdfast/internal/protoyaml"
)

type explainServer struct{ *server }

// How much of the past an explanation has.
const (
	explainEvents    = 10
	explainDecisions = 5
)

// env is what the planner knows beyond the state.
func (s *server) env(l *look) planner.Env {
	return planner.Env{Seeded: l.local.Peers.GetSeeded(), ClockMs: l.clockMs(), NowMs: s.now().UnixMilli()}
}

func (s *explainServer) Group(ctx context.Context, req *connect.Request[v1.ExplainGroupRequest]) (*connect.Response[v1.ExplainGroupResponse], error) {
	l, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	g, err := l.group(req.Msg.GetGroup())
	if err != nil {
		return nil, err
	}
	resp := planner.Explain(l.State, s.env(l), g.GetName())
	resp.Source = l.source()
	resp.Holds = l.groupInfo(g).GetHolds()
	return connect.NewResponse(resp), nil
}

func (s *explainServer) Resource(ctx context.Context, req *connect.Request[v1.ExplainResourceRequest]) (*connect.Response[v1.ExplainResourceResponse], error) {
	m := req.Msg
	g, r, l, err := s.one(ctx, m.GetGroup(), m.GetResource(), m.GetNode())
	if err != nil {
		return nil, err
	}
	places := l.placesOf(g)
	if n := m.GetNode(); n != "" {
		if !slices.Contains(places, n) {
			return nil, l.inSystemList(g, n)
		}
		places = []string{n}
	}
	resp := &v1.ExplainResourceResponse{Source: l.source(), Group: g.GetName(), Resource: r.GetName()}
	x := &explanation{look: l, g: g, env: s.env(l)}
	var said []string
	for _, n := range places {
		one := x.resource(r, n)
		resp.Nodes = append(resp.Nodes, one)
		said = append(said, stateWord(one.GetStatus().GetState())+" on "+n)
	}
	resp.Summary = fmt.Sprintf("%s (%s, group %s) is %s", r.GetName(), r.GetType(), g.GetName(), strings.Join(said, ", "))
	resp.Events = l.latest(func(e *v1.Event) bool {
		return e.GetResource() == r.GetName() && (m.GetNode() == "" || e.GetNode() == m.GetNode())
	})
	for _, d := range slices.Backward(l.GetDecisions()) {
		if d.GetGroup() == g.GetName() && len(resp.Decisions) < explainDecisions {
			resp.Decisions = append(resp.Decisions, d)
		}
	}
	return connect.NewResponse(resp), nil
}

// latest events, newest first.
func (l *look) latest(about func(*v1.Event) bool) (out []*v1.Event) {
	for _, e := range slices.Backward(l.GetEvents()) {
		if about(e) && len(out) < explainEvents {
			out = append(out, e)
		}
	}
	return out
}

// explanation of parts of a group.
type explanation struct {
	*look
	g   *v1.Group
	env planner.Env
	// why of the group, once somebody has asked.
	why *v1.ExplainGroupResponse
}

func (x *explanation) on(node string) *statepb.GroupOnNode {
	return x.GetGroupStatus()[x.g.GetName()].GetNodes()[node]
}

func (x *explanation) resource(r *v1.Resource, node string) *v1.ExplainedResource {
	on := x.on(node)
	st := on.GetResources()[r.GetName()]
	out := &v1.ExplainedResource{Node: node, Status: st, Want: wantOf(on, r.GetName())}
	for _, h := range append(x.groupHolds(x.g), x.holdsOn(x.g, node)...) {
		if (h.GetResource() == "" || h.GetResource() == r.GetName()) && (h.GetNode() == "" || h.GetNode() == node) {
			out.Holds = append(out.Holds, h)
		}
	}
	switch {
	case on.GetDetached():
		out.Reasons = []string{node + " left the cluster and let it go on: nobody looks at it"}
		return out
	case state.MemberOf(x.State, node) == nil || on == nil:
		out.Reasons = []string{node + " is not in the cluster, so nothing is known of it there"}
		return out
	case !state.Enabled(r):
		out.Reasons = []string{"it is disabled in the configuration (enabled: false): it is neither monitored nor managed"}
		return out
	}
	out.Reasons = x.reasons(r, node, st)
	out.Chain = x.chain(r, node)
	return out
}

// reasons of a resource's state on a node.
func (x *explanation) reasons(r *v1.Resource, node string, st *v1.ResourceStatus) (out []string) {
	said := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	last := ""
	if st.GetMessage() != "" {
		last = ": " + st.GetMessage()
	}
	switch st.GetState() {
	case v1.ResourceState_RESOURCE_STATE_ONLINE:
		sure := ""
		if c := st.GetConfidence(); c > 0 && c < 100 {
			sure = fmt.Sprintf(", with a confidence of %d percent", c)
		}
		said("its agent on %s finds it online%s%s", node, sure, last)
	case v1.ResourceState_RESOURCE_STATE_OFFLINE:
		if st.GetIntentional() {
			said("somebody outside took it offline on purpose, which is no fault for type %s%s", r.GetType(), last)
		} else {
			said("its agent on %s finds it offline%s", node, last)
		}
	case v1.ResourceState_RESOURCE_STATE_FAULTED:
		said("it has faulted on %s%s", node, last)
		out = append(out, x.afterFault(r, st)...)
	default:
		said("its agent on %s has not found out its state%s", node, last)
	}
	if busy := x.busyWith(st); busy != "" {
		said("its agent %s", busy)
	}
	if w := st.GetAdminWait(); w != 0 {
		said("it %s, and faults of it are not managed (manageFaults): it waits for an administrator", adminWait(w))
	}
	if st.GetUnableToOffline() {
		said("it could not be taken offline: something of it may still run, so its group starts nowhere else")
	}
	if st.GetMonitorTimedOut() {
		said("its last monitor did not end in its time (monitorTimeout %s)", protoyaml.Duration(x.limits(r).GetMonitorTimeout().AsDuration()))
	}
	return append(out, x.whyWanted(r, node)...)
}

func (x *explanation) busyWith(st *v1.ResourceStatus) string {
	return map[v1.ResourceActivity]string{
		v1.ResourceActivity_RESOURCE_ACTIVITY_WAITING_ONLINE:  "waits to bring it online",
		v1.ResourceActivity_RESOURCE_ACTIVITY_ONLINE:          "brings it online",
		v1.ResourceActivity_RESOURCE_ACTIVITY_WAITING_OFFLINE: "waits to take it offline",
		v1.ResourceActivity_RESOURCE_ACTIVITY_OFFLINE:         "takes it offline",
		v1.ResourceActivity_RESOURCE_ACTIVITY_CLEAN:           "forces it down (clean)",
		v1.ResourceActivity_RESOURCE_ACTIVITY_RESTARTING:      "restarts it in place",
	}[st.GetActivity()]
}

// afterFault says what the fault means, and what was tried before.
func (x *explanation) afterFault(r *v1.Resource, st *v1.ResourceStatus) (out []string) {
	limits := x.limits(r)
	switch n, most := st.GetRestarts(), limits.GetRestartLimit(); {
	case most == 0:
		out = append(out, "it is not restarted in place (restartLimit 0)")
	default:
		out = append(out, fmt.Sprintf("it was restarted in place %d of %d times within %s (restartLimit, confInterval)", n, most, protoyaml.Duration(limits.GetConfInterval().AsDuration())))
	}
	if r.Critical != nil && !r.GetCritical() {
		out = append(out, "it is not critical: its fault alone does not move the group")
	} else {
		out = append(out, "it is critical: its fault takes the group off the node")
	}
	if v := map[v1.Verdict]string{
		v1.Verdict_VERDICT_NOWHERE:      "its script says that it would fail everywhere: the group is not started elsewhere by itself",
		v1.Verdict_VERDICT_NOT_HERE:     "its script says that this node is not to be used for the group until an administrator enables it",
		v1.Verdict_VERDICT_RESET:        "its failure demands that the node is reset (fail-fast)",
		v1.Verdict_VERDICT_HALT_ABORTED: "its halt stopped half-way: a person has to look",
	}[st.GetVerdict()]; v != "" {
		out = append(out, v)
	}
	return out
}

// whyWanted says why a resource is wanted on a node or not.
func (x *explanation) whyWanted(r *v1.Resource, node string) []string {
	on, g := x.on(node), x.g.GetName()
	if x.operations(r) == v1.Operations_OPERATIONS_NONE {
		return []string{"its type is only watched: it is neither brought online nor taken offline"}
	}
	switch want := wantOf(on, r.GetName()); {
	case want == v1.Want_WANT_OFFLINE && on.GetWant() == v1.Want_WANT_ONLINE && !slices.Contains(on.GetHeldResources(), r.GetName()):
		return []string{fmt.Sprintf("it is wanted offline on %s by itself, while %s is wanted online there", node, g)}
	case slices.Contains(on.GetHeldResources(), r.GetName()) && on.GetWant() == v1.Want_WANT_ONLINE:
		return []string{fmt.Sprintf("%s is wanted online on %s without it: it was taken offline alone, or faulted without taking the group along", g, node)}
	case want == v1.Want_WANT_ONLINE && on.GetWant() == v1.Want_WANT_ONLINE:
		out := []string{fmt.Sprintf("%s is wanted online on %s", g, node)}
		if d := x.broughtTo(node); d != nil {
			out = append(out, d.GetReasons()...)
		}
		return out
	case want == v1.Want_WANT_ONLINE:
		return []string{fmt.Sprintf("it is wanted online on %s by itself: an administrator asked for it", node)}
	case want == v1.Want_WANT_OFFLINE:
		return append([]string{fmt.Sprintf("%s is not wanted online on %s", g, node)}, x.whyNot(node)...)
	}
	return []string{fmt.Sprintf("nothing is wanted of %s on %s: it is left as it is and watched", g, node)}
}

// broughtTo is the newest decision that brought the group to a node.
func (x *explanation) broughtTo(node string) *v1.Decision { return x.brought(x.g.GetName(), node) }

func (l *look) brought(group, node string) *v1.Decision {
	for _, d := range slices.Backward(l.GetDecisions()) {
		if d.GetGroup() == group && d.GetNode() == node && strings.HasPrefix(d.GetAction(), "online "+group+" ") {
			return d
		}
	}
	return nil
}

// whyNot: why the group is not wanted on a node, as the planner sees it.
func (x *explanation) whyNot(node string) []string {
	if x.why == nil {
		x.why = planner.Explain(x.State, x.env, x.g.GetName())
	}
	for _, r := range x.why.GetNotThere() {
		if r.GetNode() == node {
			return []string{r.GetReason()}
		}
	}
	return nil
}

// chain follows what a resource waits for on a node: each waits for the next.
func (x *explanation) chain(r *v1.Resource, node string) (out []string) {
	seen := map[string]bool{}
	for r != nil && !seen[r.GetName()] {
		seen[r.GetName()] = true
		step, next := x.waitsFor(r, node)
		if step == "" {
			break
		}
		out = append(out, step)
		r = next
	}
	if b := state.Book(x.GetGroupStatus()[x.g.GetName()], state.InstanceAt(x.g, node)); b.GetWaiting() != "" {
		out = append(out, x.g.GetName()+" waits: "+b.GetWaiting())
	}
	return out
}

// waitsFor says what keeps a resource from what is wanted of it, and which
// other resource that is.
func (x *explanation) waitsFor(r *v1.Resource, node string) (step string, next *v1.Resource) {
	on := x.on(node)
	st := on.GetResources()[r.GetName()]
	name, is := r.GetName(), ""
	switch want := wantOf(on, name); {
	case want == v1.Want_WANT_ONLINE && !online(st):
		for _, child := range x.children(r) {
			if c := on.GetResources()[child.GetName()]; state.Enabled(child) && !online(c) {
				return fmt.Sprintf("%s requires %s, which is %s", name, child.GetName(), stateWord(c.GetState())), child
			}
		}
		for _, some := range r.GetRequiresAtLeast() {
			up := 0
			for _, of := range some.GetOf() {
				if online(on.GetResources()[of]) {
					up++
				}
			}
			if up < int(some.GetCount()) {
				return fmt.Sprintf("%s requires %d of %s, and %d are online", name, some.GetCount(), strings.Join(some.GetOf(), ", "), up), nil
			}
		}
	case want == v1.Want_WANT_OFFLINE && online(st):
		for _, parent := range x.g.GetResources() {
			if online(on.GetResources()[parent.GetName()]) && slices.Contains(parent.GetRequires(), name) {
				return fmt.Sprintf("%s can't go offline before %s, which requires it and is still online", name, parent.GetName()), parent
			}
		}
	default:
		return "", nil
	}
	switch busy := x.busyWith(st); {
	case st.GetAdminWait() != 0:
		is = "it waits for an administrator"
	case st.GetUnableToOffline():
		is = "it could not be taken offline"
	case st.GetState() == v1.ResourceState_RESOURCE_STATE_FAULTED:
		is = "it has faulted" + strings.TrimSuffix(": "+st.GetMessage(), ": ")
	case busy != "":
		is = "its agent " + busy
	case st.GetState() <= v1.ResourceState_RESOURCE_STATE_UNKNOWN:
		is = "its agent has not found out its state"
	default:
		return "", nil
	}
	return name + ": " + is, nil
}

// children that a resource requires.
func (x *explanation) children(r *v1.Resource) (out []*v1.Resource) {
	for _, name := range r.GetRequires() {
		for _, c := range x.g.GetResources() {
			if c.GetName() == name {
				out = append(out, c)
			}
		}
	}
	return out
}
