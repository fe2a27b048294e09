package planner

import (
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"pgregory.net/rapid"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// richWorld has groups with attributes of all kinds, on nodes with capacities.
func richWorld(t *rapid.T) *world {
	w := &world{bench: &bench{env: Env{Seeded: true, ClockMs: 1000}}, t: t, machines: map[string][]*machine{}, seen: map[string]bool{}, episode: map[string]map[string]bool{}, rich: true}
	w.cfg = &v1.Configuration{Cluster: &v1.Cluster{Name: "c"}, Types: []*v1.ResourceType{
		{Name: "any", Operations: v1.Operations_OPERATIONS_ON_OFF, IntentionalOffline: true}, {Name: "nic", Operations: v1.Operations_OPERATIONS_NONE},
	}}
	for i := range rapid.IntRange(3, 4).Draw(t, "nodes") {
		n := &v1.Node{Name: fmt.Sprintf("n%d", i+1), Site: []string{"east", "west"}[i%2]}
		if rapid.IntRange(0, 3).Draw(t, "bounded") > 0 {
			n.Capacity = map[string]int64{"cpu": rapid.Int64Range(50, 120).Draw(t, "capacity")}
		}
		n.Limits = map[string]int64{"licence": rapid.Int64Range(1, 2).Draw(t, "limit")}
		w.nodes, w.cfg.Nodes = append(w.nodes, n.Name), append(w.cfg.Nodes, n)
	}
	for _, name := range []string{"a", "b", "c"}[:rapid.IntRange(1, 3).Draw(t, "groups")] {
		w.cfg.Groups, w.groups = append(w.cfg.Groups, w.drawGroup(name)), append(w.groups, name)
	}
	w.start()
	return w
}

func (w *world) drawGroup(name string) *v1.Group {
	t := w.t
	one := func(label string, of int) bool { return rapid.IntRange(0, of-1).Draw(t, label) == of-1 }
	g := &v1.Group{Name: name, SystemList: rapid.Permutation(w.nodes).Draw(t, "list")[:rapid.IntRange(1, len(w.nodes)).Draw(t, "length")]}
	if !one("no auto", 3) {
		g.AutoStartList = g.SystemList
	}
	switch rapid.IntRange(0, 5).Draw(t, "kind") {
	case 4:
		g.Parallel = true
	case 5:
		g.Hybrid = true
	}
	if g.Hybrid || one("zones", 4) {
		g.SystemZones = map[string]uint32{}
		for i, n := range w.nodes {
			g.SystemZones[n] = uint32(i % 2)
		}
	}
	g.AutoFailOver = proto.Uint32(rapid.SampledFrom([]uint32{1, 1, 1, 0, 2}).Draw(t, "auto failover"))
	g.FailOverPolicy = v1.FailOverPolicy(rapid.IntRange(1, 5).Draw(t, "policy"))
	g.AutoStartPolicy = v1.AutoStartPolicy(rapid.IntRange(1, 3).Draw(t, "start policy"))
	g.DragPriority = uint32(rapid.IntRange(0, 3).Draw(t, "drag"))
	if !one("no load", 4) {
		g.Load = map[string]int64{"cpu": rapid.Int64Range(20, 80).Draw(t, "cpu")}
	}
	if one("prerequisites", 6) {
		g.Prerequisites = map[string]int64{"licence": 1}
	}
	if one("failback", 3) {
		g.Failback = v1.Failback_FAILBACK_AUTOMATIC
	}
	if one("retry", 4) {
		g.OnlineRetryLimit = proto.Uint32(2)
	}
	if one("clear", 4) {
		g.AutoClearLimit, g.AutoClearInterval = proto.Uint32(2), durationpb.New(time.Minute)
	}
	g.AutoRestart = proto.Uint32(uint32(rapid.IntRange(0, 2).Draw(t, "auto restart")))
	if one("partial", 6) {
		g.AutoStartIfPartial = proto.Bool(false)
	}
	g.OnlineAtUnfreeze = one("unfreeze", 6)
	g.ExternalStateChange = v1.ExternalStateChange(rapid.IntRange(0, 4).Draw(t, "external"))
	for _, trigger := range []string{preOnline, preOffline, preSwitch, postOnline, postOffline, noFailover, violation} {
		if one(trigger, 5) {
			g.TriggersEnabled = append(g.TriggersEnabled, trigger)
		}
	}
	if one("package", 4) {
		g.Package = &v1.Package{Name: name}
	}
	g.Resources = []*v1.Resource{{Name: "nic", Type: "nic"}, {Name: "ip", Type: "any", Requires: []string{"nic"}},
		{Name: "app", Type: "any", Requires: []string{"ip"}}, {Name: "log", Type: "any", Critical: proto.Bool(false), Requires: []string{"ip"}}}
	if one("log waits", 4) {
		g.Resources[3].AutoStart = proto.Bool(false)
	}
	return g
}

// say something of a group or a node beside operations.
func (w *world) say(node, group string) {
	switch rapid.IntRange(0, 10).Draw(w.t, "say") {
	case 0:
		w.must(&statepb.Command{Change: &statepb.Command_Enable{Enable: &statepb.Enable{Group: group, Node: node, Disabled: "drawn"}}})
	case 1:
		w.must(&statepb.Command{Change: &statepb.Command_Enable{Enable: &statepb.Enable{Group: group, Node: node}}})
	case 2:
		w.must(&statepb.Command{Change: &statepb.Command_SetSwitching{SetSwitching: &statepb.SetSwitching{Group: group, Off: "drawn"}}})
	case 3:
		w.must(&statepb.Command{Change: &statepb.Command_SetSwitching{SetSwitching: &statepb.SetSwitching{Group: group}}})
	case 4:
		w.must(&statepb.Command{Change: &statepb.Command_SetMaintenance{SetMaintenance: &statepb.SetMaintenance{Group: group, Node: node}}})
	case 5:
		w.must(&statepb.Command{Change: &statepb.Command_SetMaintenance{SetMaintenance: &statepb.SetMaintenance{Group: group}}})
	case 6:
		w.must(&statepb.Command{Change: &statepb.Command_SetFrozen{SetFrozen: &statepb.SetFrozen{Group: group, Frozen: true, Temporary: &statepb.Freeze{UntilClockMs: max(w.env.ClockMs, w.s.ClockMs) + 60_000}}}})
	case 7:
		w.must(&statepb.Command{Change: &statepb.Command_SetLoad{SetLoad: &statepb.SetLoad{Node: node, Load: map[string]int64{"cpu": rapid.Int64Range(0, 100).Draw(w.t, "measured")}}}})
	case 8:
		w.must(&statepb.Command{Change: &statepb.Command_SetLoad{SetLoad: &statepb.SetLoad{Node: node}}})
	case 9:
		w.must(&statepb.Command{Change: &statepb.Command_ClearAdminWait{ClearAdminWait: &statepb.ClearAdminWait{Group: group, Fault: rapid.Bool().Draw(w.t, "fault")}}})
		w.endWaits(group)
	case 10:
		w.operate(&v1.Operation{Kind: v1.OperationKind_OPERATION_KIND_NODE_EVACUATE, Node: node})
	}
}

// endWaits: agents see what an administrator said of resources that wait.
func (w *world) endWaits(group string) {
	for _, node := range w.nodes {
		m := w.up(node)
		if m == nil || m.groups[group] == nil {
			continue
		}
		for name, st := range m.groups[group].status {
			if is := w.s.GroupStatus[group].Nodes[node].GetResources()[name]; st.AdminWait != 0 && is.GetAdminWait() == 0 {
				m.groups[group].status[name] = proto.CloneOf(is)
				m.groups[group].runs[name] = is.State == v1.ResourceState_RESOURCE_STATE_ONLINE
			}
		}
		w.tell(m, group)
	}
}

// upsetRich breaks something on a machine as no plain group knows it.
func (w *world) upsetRich(m *machine, group string) {
	p := m.groups[group]
	if p == nil {
		return
	}
	r := rapid.SampledFrom([]string{"app", "ip", "log"}).Draw(w.t, "resource")
	st := p.status[r]
	online := st.State == v1.ResourceState_RESOURCE_STATE_ONLINE && idle(st)
	switch rapid.IntRange(0, 3).Draw(w.t, "how") {
	case 0:
		if online {
			p.status[r], p.runs[r] = idleStatus(v1.ResourceState_RESOURCE_STATE_FAULTED), false
			p.status[r].Verdict = v1.Verdict(rapid.IntRange(1, 2).Draw(w.t, "verdict"))
		}
	case 1:
		if online {
			p.status[r] = idleStatus(v1.ResourceState_RESOURCE_STATE_ONLINE)
			p.status[r].AdminWait = v1.AdminWait(rapid.IntRange(1, 6).Draw(w.t, "wait"))
		}
	case 2:
		if online && r != "ip" {
			p.status[r], p.runs[r] = idleStatus(v1.ResourceState_RESOURCE_STATE_OFFLINE), false
			p.status[r].Intentional, p.left[r] = true, p.intent
		}
	case 3: // started by hand where it may; elsewhere, that would be against P1 and not the planner's doing
		if w.wantOf(p, r) != wantOnline && st.State == v1.ResourceState_RESOURCE_STATE_OFFLINE && idle(st) && w.quietElsewhere(group, m.node) {
			p.status[r], p.runs[r] = idleStatus(v1.ResourceState_RESOURCE_STATE_ONLINE), true
			defer func() { // or it would be started elsewhere before anybody knows
				for len(m.reports) > 0 {
					w.commit(m)
				}
			}()
		}
	}
	w.tell(m, group)
}

// quietElsewhere: nothing of the instance runs, or is about to, on any other machine.
func (w *world) quietElsewhere(group, at string) bool {
	g := w.s.Groups[group]
	for _, node := range w.nodes {
		if node == at || state.InstanceAt(g, node) != state.InstanceAt(g, at) {
			continue
		}
		if on := w.s.GroupStatus[group].Nodes[node]; on.GetWant() == wantOnline {
			return false
		}
		for _, m := range w.machines[node] {
			if p := m.groups[group]; p != nil && (p.want == wantOnline || len(p.wants) > 0 || slices.ContainsFunc([]string{"ip", "app", "log"}, func(r string) bool { return p.runs[r] })) {
				return false
			}
		}
	}
	return w.s.GroupStatus[group].Nodes[at].GetWant() != wantOnline
}

// endTriggers ends all runs that are waited for.
func (w *world) endTriggers() (some bool) {
	for _, r := range slices.Clone(w.s.Triggers) {
		if r.Blocking && !r.Ended {
			w.must(&statepb.Command{Change: &statepb.Command_TriggerDone{TriggerDone: &statepb.TriggerDone{Number: r.Number, Node: r.Node, RaftId: r.RaftId}}})
			some = true
		}
	}
	return some
}

// pass lets time go by.
func (w *world) pass(seconds int) {
	w.env.ClockMs = max(w.env.ClockMs, w.s.ClockMs) + int64(seconds)*1000
}

// healRich takes away all that was said of groups and nodes.
func (w *world) healRich() {
	for _, g := range w.cfg.Groups {
		w.must(&statepb.Command{Change: &statepb.Command_ClearAdminWait{ClearAdminWait: &statepb.ClearAdminWait{Group: g.Name}}})
		w.s.GroupStatus[g.Name].Maintenance = "" // whatever is online there
		w.must(&statepb.Command{Change: &statepb.Command_SetSwitching{SetSwitching: &statepb.SetSwitching{Group: g.Name}}})
		w.must(&statepb.Command{Change: &statepb.Command_Enable{Enable: &statepb.Enable{Group: g.Name}}})
	}
	for _, node := range w.nodes {
		w.must(&statepb.Command{Change: &statepb.Command_SetLoad{SetLoad: &statepb.SetLoad{Node: node}}})
		if m := w.up(node); m != nil {
			for _, name := range state.SortedKeys(m.groups) {
				for _, st := range m.groups[name].status {
					st.AdminWait, st.Verdict = 0, 0
				}
				w.tell(m, name)
			}
		}
	}
	w.s.PlanRevision++
	w.out.Reset()
}

// settled lets everything come to its end, and time go by as long as something waits for it.
// However often something is tried, or moved, that ends.
func (w *world) settled() {
	for range 60 {
		w.calm()
		_, wake := Plan(w.s, w.env)
		if wake == 0 {
			return
		}
		w.env.ClockMs = max(w.env.ClockMs, w.s.ClockMs) + wake.Milliseconds()
	}
	w.t.Fatalf("there is always something to wait for: %v", w.s.GroupStatus)
}
