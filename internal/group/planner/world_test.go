package planner

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// world is a cluster in which anything may happen between any two steps: what
// agents have seen of the state is old, and what the state knows of them too.
type world struct {
	*bench
	t             *rapid.T
	nodes, groups []string
	// Machines by node and incarnation; those of evicted incarnations go on until they are proven to have stopped.
	machines map[string][]*machine
	seen     map[string]bool // what has happened at all
	// Nodes on which an instance has failed since its episode began.
	episode map[string]map[string]bool
	// Groups have attributes of all kinds, and anything may be said of them.
	rich bool
}

// machine is one incarnation of a node: what really runs there.
type machine struct {
	node    string
	raftID  uint64
	groups  map[string]*place
	reports []*statepb.GroupReport
}

// place is a group as the agents of a machine see it.
type place struct {
	intent uint64
	want   v1.Want
	wants  map[string]v1.Want
	status map[string]*v1.ResourceStatus
	runs   map[string]bool // what really runs
	void   uint64          // guard stopped everything: nothing is started by this order
	// Resources that somebody took offline on purpose, by the order that was current then.
	left map[string]uint64
}

func newWorld(t *rapid.T) *world {
	w := plainWorld(t)
	w.start()
	return w
}

// plainWorld has one or two failover groups, one of which may depend on the other.
func plainWorld(t *rapid.T) *world {
	w := &world{bench: &bench{env: Env{Seeded: true}}, t: t, machines: map[string][]*machine{}, seen: map[string]bool{}, episode: map[string]map[string]bool{}}
	w.cfg = &v1.Configuration{Cluster: &v1.Cluster{Name: "c"}, Types: []*v1.ResourceType{
		{Name: "any", Operations: v1.Operations_OPERATIONS_ON_OFF}, {Name: "nic", Operations: v1.Operations_OPERATIONS_NONE},
	}}
	for i := range rapid.IntRange(3, 5).Draw(t, "nodes") {
		w.nodes = append(w.nodes, fmt.Sprintf("n%d", i+1))
		w.cfg.Nodes = append(w.cfg.Nodes, &v1.Node{Name: w.nodes[i]})
	}
	for _, name := range []string{"db", "web"}[:rapid.IntRange(1, 2).Draw(t, "groups")] {
		g := &v1.Group{Name: name, SystemList: rapid.Permutation(w.nodes).Draw(t, "list")[:rapid.IntRange(1, len(w.nodes)).Draw(t, "length")]}
		if rapid.Bool().Draw(t, "auto") {
			g.AutoStartList = g.SystemList
		}
		if rapid.IntRange(0, 4).Draw(t, "failover") == 0 {
			g.AutoFailOver = proto.Uint32(0)
		}
		g.Resources = []*v1.Resource{{Name: "nic", Type: "nic"}, {Name: "ip", Type: "any", Requires: []string{"nic"}},
			{Name: "app", Type: "any", Requires: []string{"ip"}}, {Name: "log", Type: "any", Critical: proto.Bool(false), Requires: []string{"ip"}}}
		if name == "web" && rapid.Bool().Draw(t, "depends") {
			g.DependsOn = []*v1.GroupDependency{{Group: "db",
				Category: v1.GroupDependency_Category(rapid.IntRange(1, 2).Draw(t, "category")),
				Location: v1.GroupDependency_Location(rapid.IntRange(1, 3).Draw(t, "location")),
				Rigidity: v1.GroupDependency_Rigidity(rapid.IntRange(1, 3).Draw(t, "rigidity")),
			}}
		}
		w.cfg.Groups, w.groups = append(w.cfg.Groups, g), append(w.groups, name)
	}
	return w
}

// start the cluster as it is configured.
func (w *world) start() {
	s, err := state.Initial(w.cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.s = s
	for _, m := range s.View.Members {
		w.must(&statepb.Command{Change: &statepb.Command_GuardStarted{GuardStarted: &statepb.GuardStarted{Node: m.Node, RaftId: m.RaftId, GuardIncarnation: 1}}})
		w.boot(m.Node, m.RaftId)
	}
}

func (w *world) boot(node string, raftID uint64) {
	w.machines[node] = append(w.machines[node], &machine{node: node, raftID: raftID, groups: map[string]*place{}})
}

// up returns the machine of a member.
func (w *world) up(node string) *machine {
	m := state.MemberOf(w.s, node)
	all := w.machines[node]
	if m == nil || len(all) == 0 || all[len(all)-1].raftID != m.RaftId {
		return nil
	}
	return all[len(all)-1]
}

func idleStatus(st v1.ResourceState) *v1.ResourceStatus {
	return &v1.ResourceStatus{State: st, Activity: v1.ResourceActivity_RESOURCE_ACTIVITY_NONE}
}

// deliver lets the agents of a node see the state.
func (w *world) deliver(m *machine) {
	for _, name := range state.SortedKeys(w.s.GroupStatus) {
		on := w.s.GroupStatus[name].Nodes[m.node]
		if on == nil {
			continue
		}
		p := m.groups[name]
		if p == nil {
			p = &place{status: map[string]*v1.ResourceStatus{}, runs: map[string]bool{}, left: map[string]uint64{}}
			for _, r := range w.s.Groups[name].Resources {
				st := v1.ResourceState_RESOURCE_STATE_OFFLINE
				if r.Type == "nic" {
					st = v1.ResourceState_RESOURCE_STATE_ONLINE
				}
				p.status[r.Name] = idleStatus(st)
			}
			m.groups[name] = p
		}
		changed := p.intent != on.Intent
		p.intent, p.want, p.wants = on.Intent, on.Want, maps.Clone(on.ResourceWants)
		for r, st := range p.status { // clear reaches the agents this way
			if st.State == v1.ResourceState_RESOURCE_STATE_FAULTED && on.Resources[r].GetState() == v1.ResourceState_RESOURCE_STATE_OFFLINE && on.Resources[r].GetMessage() == "cleared" {
				p.status[r] = idleStatus(v1.ResourceState_RESOURCE_STATE_OFFLINE)
				changed = true
			}
		}
		if changed {
			w.tell(m, name)
		}
	}
}

func (w *world) wantOf(p *place, r string) v1.Want {
	if x, ok := p.wants[r]; ok {
		return x
	}
	return p.want
}

// tell reports all of a group, with what waits to be brought online.
func (w *world) tell(m *machine, group string) {
	p := m.groups[group]
	rep := &statepb.GroupReport{Group: group, Intent: p.intent, Resources: map[string]*v1.ResourceStatus{}}
	for r, st := range p.status {
		st = proto.CloneOf(st)
		if w.typeOf(group, r) != "nic" && st.State == v1.ResourceState_RESOURCE_STATE_OFFLINE && idle(st) && w.wantOf(p, r) == wantOnline && p.void != p.intent && !(st.Intentional && p.left[r] == p.intent) {
			st.Activity = v1.ResourceActivity_RESOURCE_ACTIVITY_WAITING_ONLINE
		}
		rep.Resources[r] = st
	}
	m.reports = append(m.reports, rep)
}

func (w *world) typeOf(group, r string) string {
	for _, x := range w.s.Groups[group].GetResources() {
		if x.Name == r {
			return x.Type
		}
	}
	return ""
}

// commit puts the oldest report of a machine into the log.
func (w *world) commit(m *machine) {
	if len(m.reports) == 0 {
		return
	}
	w.reports++
	r := m.reports[0]
	m.reports = m.reports[1:]
	w.must(&statepb.Command{Request: w.reports, Change: &statepb.Command_Report{Report: &statepb.Report{Node: m.node, RaftId: m.raftID, Groups: []*statepb.GroupReport{r}}}})
	w.out.Reset()
}

// act moves one resource of a group on, as real agents would; lucky: it succeeds.
func (w *world) act(m *machine, group string, lucky bool) bool {
	p := m.groups[group]
	g := w.s.Groups[group]
	if p == nil || g.Frozen || w.s.GroupStatus[group].GetFreeze() != nil {
		return false
	}
	for i := range g.Resources {
		r := g.Resources[i]
		st := p.status[r.Name]
		if r.Type == "nic" || st.UnableToOffline || st.AdminWait != 0 || p.left[r.Name] == p.intent && st.Intentional {
			continue
		}
		switch {
		case st.Activity == v1.ResourceActivity_RESOURCE_ACTIVITY_ONLINE:
			if lucky {
				p.status[r.Name] = idleStatus(v1.ResourceState_RESOURCE_STATE_ONLINE)
			} else {
				p.status[r.Name], p.runs[r.Name] = idleStatus(v1.ResourceState_RESOURCE_STATE_FAULTED), false
			}
		case st.Activity == v1.ResourceActivity_RESOURCE_ACTIVITY_OFFLINE:
			p.status[r.Name], p.runs[r.Name] = idleStatus(v1.ResourceState_RESOURCE_STATE_OFFLINE), false
		case w.wantOf(p, r.Name) == wantOnline && st.State == v1.ResourceState_RESOURCE_STATE_OFFLINE && p.void != p.intent && w.below(p, r):
			p.runs[r.Name] = true
			p.status[r.Name].Activity = v1.ResourceActivity_RESOURCE_ACTIVITY_ONLINE
		case w.wantOf(p, r.Name) == wantOffline && st.State == v1.ResourceState_RESOURCE_STATE_ONLINE && w.above(p, g, r):
			p.status[r.Name].Activity = v1.ResourceActivity_RESOURCE_ACTIVITY_OFFLINE
		default:
			continue
		}
		w.tell(m, group)
		return true
	}
	return false
}

func (w *world) below(p *place, r *v1.Resource) bool {
	for _, c := range r.Requires {
		if p.status[c].State != v1.ResourceState_RESOURCE_STATE_ONLINE {
			return false
		}
	}
	return true
}

func (w *world) above(p *place, g *v1.Group, r *v1.Resource) bool {
	for _, x := range g.Resources {
		if slices.Contains(x.Requires, r.Name) && p.runs[x.Name] {
			return false
		}
	}
	return true
}

// upset breaks something on a machine.
func (w *world) upset(m *machine, group, what string) {
	p := m.groups[group]
	if p == nil {
		return
	}
	switch what {
	case "fault":
		for _, r := range []string{"app", "log", "ip"} {
			if p.status[r].State == v1.ResourceState_RESOURCE_STATE_ONLINE && rapid.Bool().Draw(w.t, r) {
				p.status[r], p.runs[r] = idleStatus(v1.ResourceState_RESOURCE_STATE_FAULTED), false
			}
		}
	case "nic":
		st := v1.ResourceState_RESOURCE_STATE_OFFLINE
		if p.status["nic"].State == st {
			st = v1.ResourceState_RESOURCE_STATE_ONLINE
		}
		p.status["nic"] = idleStatus(st)
	case "stuck":
		for _, r := range []string{"ip", "app"} {
			p.status[r].UnableToOffline = p.runs[r] && rapid.Bool().Draw(w.t, r)
		}
	case "guard":
		p.void = p.intent
		for r := range p.runs {
			if p.runs[r] {
				p.status[r], p.runs[r] = idleStatus(v1.ResourceState_RESOURCE_STATE_OFFLINE), false
			}
		}
	}
	w.tell(m, group)
}

// decide plans and applies, and holds the plan against the invariants.
func (w *world) decide() bool {
	was := state.Clone(w.s)
	p, _ := Plan(w.s, w.env)
	if !proto.Equal(was, w.s) {
		w.t.Fatal("P3: planning changed the state")
	}
	if twin, _ := Plan(was, w.env); !proto.Equal(p, twin) {
		w.t.Fatal("P3: the same state gave another plan")
	}
	if p == nil {
		return false
	}
	if err := checkPlan(w.s, p); err != nil {
		w.t.Fatal(err)
	}
	w.countTries(p)
	w.apply(p)
	compete := 0
	if w.rich {
		compete = 1
	}
	if again := restless(w.s, w.env, compete); again != nil {
		w.t.Fatalf("P4: planned %v, and then without an end %v, from %v %v", p, again, was.GroupStatus, was.Operations)
	}
	if err := checkState(w.s); err != nil {
		w.t.Fatal(err)
	}
	return true
}

func (w *world) apply(p *statepb.Plan) {
	if r := state.Apply(w.s, &statepb.Command{Format: 1, Change: &statepb.Command_Plan{Plan: p}}).Refused; r != nil {
		w.t.Fatalf("the plan was refused: %v", r)
	}
}

// countTries holds P6: after a fault there no node is ordered online again
// before the group was online, or an administrator asked.
func (w *world) countTries(p *statepb.Plan) {
	key := func(group, node string) string { return group + "/" + state.InstanceAt(w.s.Groups[group], node) }
	for _, c := range p.GroupChanges {
		tried := w.episode[c.Group+"/"+c.Instance]
		for n := range tried { // what an attribute of the group has cleared may be tried again
			if !slices.Contains(c.Book.GetTried(), n) && (len(c.Book.GetTried()) == 0 || w.rich) {
				delete(tried, n)
			}
		}
	}
	for _, d := range p.Decisions {
		found := strings.Contains(strings.Join(d.Reasons, " "), "found online") // it runs there by itself
		if d.Action == "online "+d.Group+" on "+d.Node && !found && w.episode[key(d.Group, d.Node)][d.Node] {
			w.t.Fatalf("P6: %s was brought to %s again: %v", d.Group, d.Node, d.Reasons)
		}
	}
	for _, c := range p.GroupChanges {
		for _, n := range c.Book.GetTried() {
			at := c.Group + "/" + c.Instance
			if w.episode[at] == nil {
				w.episode[at] = map[string]bool{}
			}
			w.episode[at][n] = true
		}
	}
}

// alive: nothing runs on two machines that may both be awake.
func (w *world) alive() {
	for name, g := range w.s.Groups {
		at := map[string]string{}
		for _, node := range w.nodes {
			for _, m := range w.machines[node] {
				p := m.groups[name]
				if p == nil || !slices.Contains(slices.Collect(maps.Values(p.runs)), true) {
					continue
				}
				key := state.InstanceAt(g, node)
				if at[key] != "" {
					w.t.Fatalf("%s runs on %s and on %s.%d: %v", name, at[key], node, m.raftID, w.s.GroupStatus[name])
				}
				at[key] = fmt.Sprintf("%s.%d", node, m.raftID)
			}
		}
	}
}

func (w *world) lose(node string) {
	if len(w.s.View.Members)-1 < state.Majority(len(w.s.View.Members)) || state.MemberOf(w.s, node) == nil {
		return
	}
	w.evict([]string{node})
	w.seen["evict"] = true
}

func (w *world) prove(node string) {
	f := w.s.NodeStatus[node].GetFence()
	if f == nil {
		return
	}
	w.machines[node] = nil // it has stopped before that can be proven
	w.must(&statepb.Command{Change: &statepb.Command_Proven{Proven: &statepb.Proven{Node: node, RaftId: f.RaftId, Proof: statepb.Proof_PROOF_TIME}}})
}

func (w *world) rejoin(node string) {
	if state.MemberOf(w.s, node) != nil || w.s.NodeStatus[node].GetFence() != nil {
		return
	}
	id := w.s.NextRaftId
	w.machines[node] = nil
	w.must(&statepb.Command{Change: &statepb.Command_Join{Join: &statepb.Join{Node: node, RaftId: id, GuardIncarnation: id}}})
	w.must(&statepb.Command{Change: &statepb.Command_GuardStarted{GuardStarted: &statepb.GuardStarted{Node: node, RaftId: id, GuardIncarnation: id + 1}}})
	w.must(&statepb.Command{Change: &statepb.Command_Promote{Promote: &statepb.Promote{BaseEpoch: w.s.View.Epoch, Node: node, RaftId: id}}})
	w.boot(node, id)
	w.seen["rejoin"] = true
}

func (w *world) leaveIfClear(node string) {
	if w.s.NodeStatus[node].GetPhase() == statepb.NodePhase_NODE_PHASE_LEAVING && len(state.BusyGroups(w.s, node)) == 0 && len(w.s.View.Members) > 2 {
		w.must(&statepb.Command{Change: &statepb.Command_Leave{Leave: &statepb.Leave{BaseEpoch: w.s.View.Epoch, Node: node}}})
		w.machines[node] = nil
		w.seen["leave"] = true
	}
}

func (w *world) ask() {
	op := &v1.Operation{Group: rapid.SampledFrom(w.groups).Draw(w.t, "group")}
	op.Kind = rapid.SampledFrom([]v1.OperationKind{opOnline, opOnline, opOffline, opSwitch, opSwitch, opResourceOnline, opResourceOffline, v1.OperationKind_OPERATION_KIND_NODE_STOP}).Draw(w.t, "operation")
	if rapid.Bool().Draw(w.t, "any") {
		op.Node = rapid.SampledFrom(w.nodes).Draw(w.t, "node")
	}
	switch op.Kind {
	case opResourceOnline, opResourceOffline:
		op.Resource = rapid.SampledFrom([]string{"nic", "ip", "app", "log"}).Draw(w.t, "resource")
	case v1.OperationKind_OPERATION_KIND_NODE_STOP:
		op.Group, op.Node, op.Evacuate = "", rapid.SampledFrom(w.nodes).Draw(w.t, "node"), rapid.Bool().Draw(w.t, "evacuate")
	}
	w.operate(op)
}

// happen lets one thing happen.
func (w *world) happen() {
	node := rapid.SampledFrom(w.nodes).Draw(w.t, "node")
	group := rapid.SampledFrom(w.groups).Draw(w.t, "group")
	m := w.up(node)
	n := rapid.IntRange(0, 99).Draw(w.t, "event") * 37 % 100 // small numbers are drawn most, and each event has one
	if w.rich && n < 46 && rapid.IntRange(0, 2).Draw(w.t, "rich") == 0 {
		w.happenRich(m, node, group)
		return
	}
	switch {
	case n < 12 && m != nil:
		w.deliver(m)
	case n < 24 && m != nil:
		w.act(m, group, rapid.IntRange(0, 9).Draw(w.t, "luck") != 1)
	case n < 36 && m != nil:
		w.commit(m)
	case n < 46:
		w.decide()
	case n < 78:
		w.round(rapid.IntRange(1, 4).Draw(w.t, "rounds"))
	case n < 80:
		w.lose(node)
	case n < 83:
		w.prove(node)
	case n < 86:
		w.rejoin(node)
	case n < 88 && m != nil:
		w.upset(m, group, rapid.SampledFrom([]string{"fault", "nic", "guard", "stuck"}).Draw(w.t, "upset"))
	case n < 93:
		w.ask()
	case n < 94:
		f := &statepb.SetFrozen{Group: group, Frozen: rapid.Bool().Draw(w.t, "frozen")}
		if rapid.Bool().Draw(w.t, "node instead") {
			f.Group, f.Node = "", node
		}
		w.must(&statepb.Command{Change: &statepb.Command_SetFrozen{SetFrozen: f}})
	case n < 96:
		w.must(&statepb.Command{Change: &statepb.Command_Clear{Clear: &statepb.Clear{Group: group}}})
	case n < 97:
		w.must(&statepb.Command{Change: &statepb.Command_Flush{Flush: &statepb.Flush{Group: group}}})
	case n < 99:
		w.leaveIfClear(node)
	}
	w.out.Reset() // refusals are none of our business here
	w.alive()
}

// round lets all go on for a while undisturbed.
func (w *world) round(times int) {
	for range times {
		for _, node := range w.nodes {
			m := w.up(node)
			if m == nil {
				continue
			}
			w.deliver(m)
			for _, g := range w.groups {
				w.act(m, g, true)
			}
			for len(m.reports) > 0 {
				w.commit(m)
			}
		}
		w.decide()
		w.alive()
	}
}

// happenRich lets one thing happen that only groups with attributes know.
func (w *world) happenRich(m *machine, node, group string) {
	switch n := rapid.IntRange(0, 9).Draw(w.t, "rich event"); {
	case n < 4:
		w.say(node, group)
	case n < 6 && m != nil:
		w.upsetRich(m, group)
	case n < 8:
		w.pass(rapid.IntRange(1, 400).Draw(w.t, "seconds"))
	default:
		w.endTriggers()
	}
	w.out.Reset()
	w.alive()
}

// calm lets everything that is under way come to its end.
func (w *world) calm() {
	for range 2000 {
		busy := w.decide()
		busy = w.rich && w.endTriggers() || busy
		for _, node := range w.nodes {
			w.prove(node)
			w.leaveIfClear(node)
			if w.s.NodeStatus[node].GetPhase() != statepb.NodePhase_NODE_PHASE_LEAVING {
				w.rejoin(node)
			}
			m := w.up(node)
			if m == nil {
				continue
			}
			w.deliver(m)
			for _, g := range w.cfg.Groups {
				busy = w.act(m, g.Name, true) || busy
			}
			for len(m.reports) > 0 {
				busy = true
				w.commit(m)
			}
			w.alive()
		}
		if !busy {
			return
		}
	}
	w.t.Fatalf("it does not come to rest: %v", w.s.GroupStatus)
}

// heal takes away all that keeps a group from being online.
func (w *world) heal() {
	for _, op := range w.s.Operations { // a cluster of which too much has been stopped never gets smaller
		if op.State == running && op.Kind == v1.OperationKind_OPERATION_KIND_NODE_STOP {
			w.must(&statepb.Command{Change: &statepb.Command_Plan{Plan: &statepb.Plan{BasePlanRevision: w.s.PlanRevision,
				Operations: []*statepb.OperationChange{{Id: op.Id, State: failed, Message: "healed"}}}}})
		}
	}
	for _, g := range w.cfg.Groups {
		w.must(&statepb.Command{Change: &statepb.Command_SetFrozen{SetFrozen: &statepb.SetFrozen{Group: g.Name}}})
		w.must(&statepb.Command{Change: &statepb.Command_Clear{Clear: &statepb.Clear{Group: g.Name}}})
	}
	for _, node := range w.nodes {
		w.must(&statepb.Command{Change: &statepb.Command_SetFrozen{SetFrozen: &statepb.SetFrozen{Node: node}}})
		if m := w.up(node); m != nil {
			for _, name := range state.SortedKeys(m.groups) {
				for _, st := range m.groups[name].status {
					st.UnableToOffline = false
				}
				m.groups[name].status["nic"] = idleStatus(v1.ResourceState_RESOURCE_STATE_ONLINE)
				w.tell(m, name)
			}
		}
	}
	w.out.Reset()
}

// online returns where a group really is, whole or but for what is held.
func (w *world) online(group string) (at []string) {
	for _, node := range w.nodes {
		on := w.s.GroupStatus[group].GetNodes()[node]
		m := w.up(node)
		if m == nil || m.groups[group] == nil || on.GetWant() != wantOnline {
			continue
		}
		all := true
		for _, r := range []string{"ip", "app", "log"} {
			all = all && (m.groups[group].runs[r] || on.ResourceWants[r] == wantOffline)
		}
		if all {
			at = append(at, node)
		}
	}
	return at
}
