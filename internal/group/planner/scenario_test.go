package planner

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// TestRules runs the corpus: one rule per file, its title in the first line.
//
//	cluster nodes=(n1,n2,n3)        the members; agents have probed nothing yet
//	group web list=(n1,n2) auto=(n1) [no-failover] [takeover=power] [parallel|hybrid] [zones=(n1:0,n2:1)]
//	  NAME [nic|once] [requires=(a,b)] [uncritical] [disabled]       one resource per line
//	plan                            plan and apply once
//	agents [n1 ...]                 agents of these nodes (all) do all that is wanted of them
//	run                             agents and plans in turn until nothing changes
//	report n1 web [ip=STATE[/ACTIVITY]] ... [msg="..."] [old]         old: made before the newest order was seen
//	stuck n1 web ip
//	evict n1 ... | proven n1 | join n1 | reboot n1 | start            as the log has them; start is a cold start
//	online|offline|switch web [n2], resource-online|resource-offline web ip [n1], stop n1 [evacuate]
//	levels n1                       it can be switched off; fencing n1 n2: by n2; fenced off|failed|lied: how that ended; confirm n1
//	freeze|unfreeze web|n1, clear web [n1], flush web
//	config web [list=()] [auto=()]
//	unseeded | seeded
//	node n1 capacity=(cpu:100) limits=(licence:2) site=east ...       fields of nodes, groups and resources (autoStart=false) are set as in
//	                                                                  YAML; atleast=2:a,b requires two of them
//	clock 30s | wake                 the cluster's clock goes on; when the planner wants to be called again
//	trigger ends|fails [MESSAGE]     how the oldest trigger ended that is waited for; triggers: all that are to be run
//	disable|enable|autoenable web [n1], switching web on|off, maintenance web [n1], clear-admin-wait web [n1] [fault]
//	load n1 load=(cpu:50), freeze-for web|n1 1h, evacuate n1, detach n1, forecast web
//	report ... [verdict=RESET] [adminwait=ONLINE_HUNG] [intentional]
//	state, explain web, simulate    (one step per line: fail n1 n2, join n1, ...)
func TestRules(t *testing.T) {
	datadriven.Walk(t, "testdata/rules", func(t *testing.T, path string) {
		b := &bench{env: Env{Seeded: true, ClockMs: 1000}}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			b.out.Reset()
			b.do(t, d)
			if b.out.Len() == 0 {
				return "nothing\n"
			}
			return b.out.String()
		})
	})
}

// bench is a cluster on paper.
type bench struct {
	cfg *v1.Configuration
	s   *statepb.State
	env Env
	out strings.Builder
	// Number of the last report.
	reports uint64
	// Places that are disabled because nobody knows them are printed, too.
	places bool
}

func (b *bench) do(t *testing.T, d *datadriven.TestData) {
	var words []string
	for _, a := range d.CmdArgs {
		if len(a.Vals) == 0 && a.Key != "propagate" && a.Key != "force" {
			words = append(words, a.Key)
		}
	}
	word := func(i int) string {
		if i < len(words) {
			return words[i]
		}
		return ""
	}
	node := word(1)
	switch d.Cmd {
	case "cluster":
		b.cfg = &v1.Configuration{Cluster: &v1.Cluster{Name: "test"}, Types: []*v1.ResourceType{
			{Name: "any", Operations: v1.Operations_OPERATIONS_ON_OFF},
			{Name: "nic", Operations: v1.Operations_OPERATIONS_NONE},
			{Name: "once", Operations: v1.Operations_OPERATIONS_ON_ONLY},
			{Name: "quiet", Operations: v1.Operations_OPERATIONS_ON_OFF, FaultPropagation: proto.Bool(false)},
		}}
		setFields(t, d, b.cfg.Cluster, d.CmdArgs)
		b.places = d.HasArg("places")
		for _, n := range vals(d, "nodes") {
			b.cfg.Nodes = append(b.cfg.Nodes, &v1.Node{Name: n})
		}
	case "group":
		b.cfg.Groups = append(b.cfg.Groups, parseGroup(t, d, word(0)))
		b.init(t)
	case "config":
		b.configure(t, d, word(0))
	case "plan":
		b.plan()
	case "where":
		b.where()
	case "agents":
		b.agents(words)
	case "run":
		for range 50 {
			was := proto.CloneOf(b.s)
			b.agents(nil)
			b.plan()
			if proto.Equal(was, b.s) {
				return
			}
		}
		t.Fatal("the cluster does not come to rest")
	case "report":
		b.report(t, d, words)
	case "stuck":
		st := b.s.GroupStatus[word(1)].Nodes[word(0)].Resources[word(2)]
		st.State, st.UnableToOffline, st.Activity = v1.ResourceState_RESOURCE_STATE_ONLINE, true, v1.ResourceActivity_RESOURCE_ACTIVITY_NONE
		b.s.PlanRevision++
	case "evict":
		b.evict(words)
	case "proven":
		b.must(&statepb.Command{Change: &statepb.Command_Proven{Proven: &statepb.Proven{Node: word(0), RaftId: b.s.NodeStatus[word(0)].GetFence().GetRaftId(), Proof: statepb.Proof_PROOF_TIME}}})
	case "levels":
		b.s.Nodes[word(0)].FenceLevels = []*v1.FenceLevel{{Devices: []string{"pdu"}}}
	case "fencing":
		b.must(&statepb.Command{Change: &statepb.Command_FenceStarted{FenceStarted: &statepb.FenceStarted{Node: word(0), RaftId: b.s.NodeStatus[word(0)].GetFence().GetRaftId(), By: node, ByRaftId: state.MemberOf(b.s, node).GetRaftId()}}})
	case "fenced":
		r := v1.FenceResult_value["FENCE_RESULT_"+strings.ToUpper(word(0))]
		b.must(&statepb.Command{Change: &statepb.Command_FenceDone{FenceDone: &statepb.FenceDone{Number: b.s.NextFenceOperation, Result: v1.FenceResult(r)}}})
	case "confirm":
		b.must(&statepb.Command{Change: &statepb.Command_ConfirmDown{ConfirmDown: &statepb.ConfirmDown{Node: word(0), RaftId: b.s.NodeStatus[word(0)].GetFence().GetRaftId(), By: "user alice"}}})
	case "join":
		id := b.s.NextRaftId
		b.must(&statepb.Command{Change: &statepb.Command_Join{Join: &statepb.Join{Node: word(0), RaftId: id, GuardIncarnation: 7, EndedRaftId: b.s.NodeStatus[word(0)].GetFence().GetRaftId()}}})
		if word(1) != "learner" {
			b.must(&statepb.Command{Change: &statepb.Command_Promote{Promote: &statepb.Promote{BaseEpoch: b.s.View.Epoch, Node: word(0), RaftId: id}}})
		}
	case "promote":
		b.must(&statepb.Command{Change: &statepb.Command_Promote{Promote: &statepb.Promote{BaseEpoch: b.s.View.Epoch, Node: word(0), RaftId: b.s.Learners[word(0)].GetRaftId()}}})
	case "leave":
		b.must(&statepb.Command{Change: &statepb.Command_Leave{Leave: &statepb.Leave{BaseEpoch: b.s.View.Epoch, Node: word(0)}}})
	case "reboot":
		m := state.MemberOf(b.s, word(0))
		b.must(&statepb.Command{Change: &statepb.Command_GuardStarted{GuardStarted: &statepb.GuardStarted{Node: m.Node, RaftId: m.RaftId, GuardIncarnation: m.GuardIncarnation + 1, Rebooted: true}}})
	case "start":
		m := b.s.View.Members[0]
		b.must(&statepb.Command{Change: &statepb.Command_ClusterStarted{ClusterStarted: &statepb.ClusterStarted{Node: m.Node, RaftId: m.RaftId, GuardIncarnation: m.GuardIncarnation}}})
	case "online", "offline", "switch":
		kinds := map[string]v1.OperationKind{"online": opOnline, "offline": opOffline, "switch": opSwitch}
		b.operate(&v1.Operation{Kind: kinds[d.Cmd], Group: word(0), Node: node, Propagate: d.HasArg("propagate"), Force: d.HasArg("force")})
	case "resource-online", "resource-offline":
		kinds := map[string]v1.OperationKind{"resource-online": opResourceOnline, "resource-offline": opResourceOffline}
		b.operate(&v1.Operation{Kind: kinds[d.Cmd], Group: word(0), Resource: word(1), Node: word(2)})
	case "stop":
		b.operate(&v1.Operation{Kind: v1.OperationKind_OPERATION_KIND_NODE_STOP, Node: word(0), Evacuate: word(1) == "evacuate", Force: d.HasArg("force")})
	case "freeze", "unfreeze":
		f := &statepb.SetFrozen{Group: word(0), Frozen: d.Cmd == "freeze"}
		if b.s.Nodes[word(0)] != nil {
			f.Group, f.Node = "", word(0)
		}
		b.must(&statepb.Command{Change: &statepb.Command_SetFrozen{SetFrozen: f}})
	case "clear":
		b.must(&statepb.Command{Change: &statepb.Command_Clear{Clear: &statepb.Clear{Group: word(0), Node: node}}})
	case "flush":
		b.must(&statepb.Command{Change: &statepb.Command_Flush{Flush: &statepb.Flush{Group: word(0), Node: node}}})
	case "unseeded", "seeded":
		b.env.Seeded = d.Cmd == "seeded"
	case "state":
		b.state()
	case "explain":
		b.explain(word(0))
	case "simulate":
		b.simulate(t, d)
	default:
		if !b.more(t, d, word) {
			d.Fatalf(t, "no verb %s", d.Cmd)
		}
	}
	if b.s != nil && b.out.Len() == 0 && d.Cmd != "plan" && d.Cmd != "run" {
		b.out.WriteString("ok\n")
	} else if b.s == nil {
		b.out.WriteString("ok\n")
	}
}

func vals(d *datadriven.TestData, key string) []string {
	for _, a := range d.CmdArgs {
		if a.Key == key {
			return a.Vals
		}
	}
	return nil
}

func parseGroup(t *testing.T, d *datadriven.TestData, name string) *v1.Group {
	g := &v1.Group{Name: name, SystemList: vals(d, "list"), AutoStartList: vals(d, "auto")}
	if d.HasArg("no-failover") {
		g.AutoFailOver = proto.Uint32(0)
	}
	if d.HasArg("takeover") {
		g.Takeover = v1.Takeover(v1.Takeover_value["TAKEOVER_"+strings.ToUpper(vals(d, "takeover")[0])])
	}
	for _, w := range vals(d, "depends") {
		g.DependsOn = append(g.DependsOn, parseDependency(t, d, w))
	}
	g.OnlineClearParent = d.HasArg("clears-parent")
	if d.HasArg("halt-wait") {
		length, err := time.ParseDuration(vals(d, "halt-wait")[0])
		if err != nil {
			d.Fatalf(t, "%v", err)
		}
		g.SuccessorHaltTimeout = durationpb.New(length)
	}
	g.Parallel, g.Hybrid = d.HasArg("parallel"), d.HasArg("hybrid")
	g.SystemZones = parseZones(t, d, vals(d, "zones"))
	setFields(t, d, g, d.CmdArgs)
	if d.HasArg("package") {
		g.Package = &v1.Package{Name: name}
		setFields(t, d, g.Package, d.CmdArgs)
	}
	for line := range strings.Lines(d.Input) {
		f := strings.Fields(line)
		r := &v1.Resource{Name: f[0], Type: "any"}
		for _, w := range f[1:] {
			switch {
			case w == "nic" || w == "once" || w == "quiet":
				r.Type = w
			case w == "uncritical":
				r.Critical = proto.Bool(false)
			case w == "disabled":
				r.Enabled = proto.Bool(false)
			case strings.HasPrefix(w, "requires="):
				r.Requires = strings.Split(strings.Trim(w[len("requires="):], "()"), ",")
			case setResource(t, d, r, w):
			default:
				d.Fatalf(t, "no word %s", w)
			}
		}
		g.Resources = append(g.Resources, r)
	}
	return g
}

// parseDependency reads child:online:local:firm; what is left out at the end is the default.
func parseDependency(t *testing.T, d *datadriven.TestData, word string) *v1.GroupDependency {
	part := append(strings.Split(strings.ToUpper(word), ":"), "", "", "")
	category, ok1 := v1.GroupDependency_Category_value[part[1]]
	location, ok2 := v1.GroupDependency_Location_value[part[2]]
	rigidity, ok3 := v1.GroupDependency_Rigidity_value[part[3]]
	if part[1] != "" && !ok1 || part[2] != "" && !ok2 || part[3] != "" && !ok3 {
		d.Fatalf(t, "%s: child:category:location:rigidity", word)
	}
	child, _, _ := strings.Cut(word, ":")
	return &v1.GroupDependency{Group: child, Category: v1.GroupDependency_Category(category), Location: v1.GroupDependency_Location(location),
		Rigidity: v1.GroupDependency_Rigidity(rigidity)}
}

func parseZones(t *testing.T, d *datadriven.TestData, words []string) map[string]uint32 {
	zones := map[string]uint32{}
	for _, w := range words {
		node, zone, _ := strings.Cut(w, ":")
		n, err := strconv.ParseUint(zone, 10, 32)
		if err != nil {
			d.Fatalf(t, "%v", err)
		}
		zones[node] = uint32(n)
	}
	return zones
}

func (b *bench) init(t *testing.T) {
	s, err := state.Initial(b.cfg)
	if err != nil {
		t.Fatal(err)
	}
	b.s = s
	for _, m := range s.View.Members {
		b.must(&statepb.Command{Change: &statepb.Command_GuardStarted{GuardStarted: &statepb.GuardStarted{Node: m.Node, RaftId: m.RaftId, GuardIncarnation: 1}}})
	}
}

func (b *bench) configure(t *testing.T, d *datadriven.TestData, group string) {
	c := state.Configuration(b.s)
	for _, g := range c.Groups {
		if g.Name == group && d.HasArg("list") {
			g.SystemList = vals(d, "list")
		}
		if g.Name == group && d.HasArg("auto") {
			g.AutoStartList = vals(d, "auto")
		}
		if g.Name == group && d.HasArg("zones") {
			g.SystemZones = parseZones(t, d, vals(d, "zones"))
		}
		if g.Name == group {
			setFields(t, d, g, d.CmdArgs)
		}
		if g.Name == group && d.HasArg("add") {
			g.Resources = append(g.Resources, &v1.Resource{Name: vals(d, "add")[0], Type: "any"})
		}
	}
	b.must(&statepb.Command{Change: &statepb.Command_Configure{Configure: &statepb.Configure{BaseRevision: c.Revision, Configuration: c}}})
}

func (b *bench) must(c *statepb.Command) {
	c.Format = 1
	if r := state.Apply(b.s, c).Refused; r != nil {
		fmt.Fprintf(&b.out, "refused: %s\n", r.Message)
	}
}

func (b *bench) operate(op *v1.Operation) {
	b.must(&statepb.Command{Change: &statepb.Command_Operate{Operate: &statepb.Operate{Operation: op}}})
}

func (b *bench) evict(nodes []string) {
	e := &statepb.Evict{BaseEpoch: b.s.View.Epoch}
	for _, n := range nodes {
		e.Evictees = append(e.Evictees, &statepb.Evictee{Node: n, ConfirmedView: true})
		about := state.MemberOf(b.s, n)
		for _, v := range b.s.View.Members {
			if v.Node != n && (!slices.Contains(nodes, v.Node)) {
				e.Statements = append(e.Statements, &statepb.Statement{Voter: v.Node, VoterRaftId: v.RaftId, VoterGuardIncarnation: v.GuardIncarnation,
					About: n, AboutRaftId: about.GetRaftId(), Stays: b.s.NodeStatus[n].GetStays()})
			}
		}
	}
	b.must(&statepb.Command{Change: &statepb.Command_Evict{Evict: e}})
}

func (b *bench) agents(nodes []string) {
	changed := false
	for _, name := range state.SortedKeys(b.s.GroupStatus) {
		for _, n := range state.SortedKeys(b.s.GroupStatus[name].Nodes) {
			if (len(nodes) == 0 || slices.Contains(nodes, n)) && state.MemberOf(b.s, n) != nil {
				on := b.s.GroupStatus[name].Nodes[n]
				was := proto.CloneOf(on)
				succeedAt(b.s, b.s.Groups[name], on)
				changed = changed || !proto.Equal(was, on)
			}
		}
	}
	if changed {
		b.s.PlanRevision++
	}
}

func (b *bench) report(t *testing.T, d *datadriven.TestData, words []string) {
	on := b.s.GroupStatus[words[1]].Nodes[words[0]]
	r := &statepb.GroupReport{Group: words[1], Intent: on.Intent, Resources: map[string]*v1.ResourceStatus{}}
	if slices.Contains(words, "old") {
		r.Intent = on.ReportedIntent
	}
	for _, a := range d.CmdArgs {
		if len(a.Vals) == 0 || a.Key == "msg" || a.Key == "verdict" || a.Key == "adminwait" {
			continue
		}
		st, act, _ := strings.Cut(a.Vals[0], "/")
		n, ok := v1.ResourceState_value["RESOURCE_STATE_"+st]
		m, ok2 := v1.ResourceActivity_value["RESOURCE_ACTIVITY_"+act]
		if !ok || act != "" && !ok2 {
			d.Fatalf(t, "no state %s", a.Vals[0])
		}
		r.Resources[a.Key] = &v1.ResourceStatus{State: v1.ResourceState(n), Activity: v1.ResourceActivity(m), Message: strings.Join(vals(d, "msg"), " ")}
		statusFacts(t, d, r.Resources[a.Key])
	}
	m := state.MemberOf(b.s, words[0])
	b.reports++
	b.must(&statepb.Command{Request: b.reports, Change: &statepb.Command_Report{Report: &statepb.Report{Node: words[0], RaftId: m.RaftId, Groups: []*statepb.GroupReport{r}}}})
}

// plan prints and applies a plan, and holds it to P1 to P4.
func (b *bench) plan() {
	was := proto.CloneOf(b.s)
	p, _ := Plan(b.s, b.env)
	if !proto.Equal(was, b.s) {
		b.out.WriteString("P3: planning changed the state\n")
	}
	if p == nil {
		return
	}
	b.print(p)
	if err := checkPlan(b.s, p); err != nil {
		fmt.Fprintf(&b.out, "%v\n", err)
	}
	b.must(&statepb.Command{Change: &statepb.Command_Plan{Plan: proto.CloneOf(p)}})
	if again := restless(b.s, b.env, 0); again != nil {
		b.out.WriteString("P4: planning again and again decides more:\n")
		b.print(again)
	}
	if err := checkState(b.s); err != nil {
		fmt.Fprintf(&b.out, "%v\n", err)
	}
}

// restless holds a state to P4: it returns what is still decided of it after
// twice as many plans as groups are deep, or as they compete with each other.
func restless(s *statepb.State, env Env, compete int) *statepb.Plan {
	deep := compete
	for _, gr := range newPass(s, env).groups {
		deep = max(deep, gr.depth)
	}
	s = state.Clone(s)
	for range deep * 2 {
		p, _ := Plan(s, env)
		if p == nil {
			return nil
		}
		state.Apply(s, &statepb.Command{Format: 1, Change: &statepb.Command_Plan{Plan: p}})
	}
	p, _ := Plan(s, env)
	return p
}

func (b *bench) print(p *statepb.Plan) {
	for _, d := range p.Decisions {
		fmt.Fprintf(&b.out, "%s: because %s\n", d.Action, strings.Join(d.Reasons, "; "))
		for _, r := range d.Rejections {
			fmt.Fprintf(&b.out, "  not %s: %s\n", r.Node, r.Reason)
		}
	}
	for _, o := range p.Orders {
		fmt.Fprintf(&b.out, "-> %s on %s: %s", o.Group, o.Node, strings.TrimPrefix(o.Want.String(), "WANT_"))
		for _, r := range state.SortedKeys(o.ResourceWants) {
			fmt.Fprintf(&b.out, " %s=%s", r, strings.TrimPrefix(o.ResourceWants[r].String(), "WANT_"))
		}
		if len(o.HeldResources) > 0 {
			fmt.Fprintf(&b.out, " held=%s", strings.Join(o.HeldResources, ","))
		}
		b.out.WriteString("\n")
	}
	for _, c := range p.GroupChanges {
		if was := state.Book(b.s.GroupStatus[c.Group], c.Instance).GetWaiting(); was != c.Book.GetWaiting() && c.Book.GetWaiting() != "" {
			fmt.Fprintf(&b.out, "%s waits: %s\n", instanceName(c), c.Book.GetWaiting())
		} else if was != "" && c.Book.GetWaiting() == "" {
			fmt.Fprintf(&b.out, "%s waits no more\n", instanceName(c))
		}
	}
	b.printMore(p)
	for _, e := range p.Events {
		fmt.Fprintf(&b.out, "event %s %s: %s\n", strings.ToLower(strings.TrimPrefix(e.Severity.String(), "SEVERITY_")), e.Code, e.Message)
	}
	for _, o := range p.Operations {
		fmt.Fprintf(&b.out, "operation %d %s: %s\n", o.Id, strings.ToLower(strings.TrimPrefix(o.State.String(), "OPERATION_STATE_")), o.Message)
	}
}

func instanceName(c *statepb.GroupChange) string {
	if c.Instance == "" {
		return c.Group
	}
	return c.Group + "/" + c.Instance
}

// where each group is wanted online, and whether all of it is.
func (b *bench) where() {
	for _, name := range state.SortedKeys(b.s.GroupStatus) {
		var on []string
		for _, n := range state.SortedKeys(b.s.GroupStatus[name].Nodes) {
			if p := b.s.GroupStatus[name].Nodes[n]; p.Want == wantOnline {
				on = append(on, n)
			}
		}
		if len(on) == 0 {
			on = []string{"nowhere"}
		}
		fmt.Fprintf(&b.out, "%s: %s\n", name, strings.Join(on, " "))
	}
}

func (b *bench) state() {
	for _, name := range state.SortedKeys(b.s.GroupStatus) {
		gs := b.s.GroupStatus[name]
		for _, key := range state.SortedKeys(gs.Instances) {
			title := name
			if key != "" {
				title += "/" + key
			}
			fmt.Fprintf(&b.out, "%s intent=%v tried=%v\n", title, gs.Instances[key].GetIntentOnline(), gs.Instances[key].GetTried())
		}
		if len(gs.Instances) == 0 {
			fmt.Fprintf(&b.out, "%s\n", name)
		}
		for _, n := range state.SortedKeys(gs.Nodes) {
			on := gs.Nodes[n]
			fmt.Fprintf(&b.out, "  %s want=%s faulted=%v:", n, strings.TrimPrefix(on.Want.String(), "WANT_"), on.Faulted)
			for _, r := range state.SortedKeys(on.Resources) {
				fmt.Fprintf(&b.out, " %s=%s", r, strings.TrimPrefix(on.Resources[r].State.String(), "RESOURCE_STATE_"))
			}
			b.out.WriteString("\n")
		}
	}
}

func (b *bench) explain(group string) {
	e := Explain(b.s, b.env, group)
	fmt.Fprintf(&b.out, "%s\n", e.Summary)
	for _, r := range e.Reasons {
		fmt.Fprintf(&b.out, "because %s\n", r)
	}
	for _, r := range e.NotThere {
		fmt.Fprintf(&b.out, "not %s: %s\n", r.Node, r.Reason)
	}
	for _, r := range e.WhatIf {
		fmt.Fprintf(&b.out, "%s\n", r)
	}
}

func (b *bench) simulate(t *testing.T, d *datadriven.TestData) {
	req := &v1.SimulateRequest{}
	for line := range strings.Lines(d.Input) {
		req.Steps = append(req.Steps, parseStep(t, d, strings.Fields(line)))
	}
	was := proto.CloneOf(b.s)
	resp := Simulate(b.s, b.env, req)
	if !proto.Equal(was, b.s) {
		b.out.WriteString("simulating changed the state\n")
	}
	for _, st := range resp.Steps {
		fmt.Fprintf(&b.out, "%s\n", st.Step)
		if st.Note != "" {
			fmt.Fprintf(&b.out, "  note: %s\n", st.Note)
		}
		for _, m := range st.Moves {
			fmt.Fprintf(&b.out, "  %s: %s -> %s: %s\n", m.Group, or(m.Before, "offline"), or(m.After, "offline"), m.Reason)
		}
	}
	fmt.Fprintf(&b.out, "%s\n", resp.Verdict)
}

func parseStep(t *testing.T, d *datadriven.TestData, f []string) *v1.SimulateStep {
	at := func(i int) string {
		if i < len(f) {
			return f[i]
		}
		return ""
	}
	on := &v1.GroupOnNodeName{Group: at(1), Node: at(2)}
	switch f[0] {
	case "fail":
		return &v1.SimulateStep{Step: &v1.SimulateStep_FailNodes{FailNodes: &v1.NodeNames{Nodes: f[1:]}}}
	case "join":
		return &v1.SimulateStep{Step: &v1.SimulateStep_JoinNode{JoinNode: at(1)}}
	case "online":
		return &v1.SimulateStep{Step: &v1.SimulateStep_Online{Online: on}}
	case "offline":
		return &v1.SimulateStep{Step: &v1.SimulateStep_Offline{Offline: on}}
	case "switch":
		return &v1.SimulateStep{Step: &v1.SimulateStep_Switch{Switch: on}}
	case "clear":
		return &v1.SimulateStep{Step: &v1.SimulateStep_Clear{Clear: on}}
	case "fault":
		return &v1.SimulateStep{Step: &v1.SimulateStep_Fault{Fault: &v1.ResourceOnNodeName{Group: at(1), Resource: at(2), Node: at(3)}}}
	case "stop":
		return &v1.SimulateStep{Step: &v1.SimulateStep_StopNode{StopNode: &v1.StopNodeName{Node: at(1), Evacuate: at(2) == "evacuate"}}}
	case "freeze", "unfreeze":
		return &v1.SimulateStep{Step: &v1.SimulateStep_Freeze{Freeze: &v1.FreezeName{Group: at(1), Frozen: f[0] == "freeze"}}}
	case "freeze-node":
		return &v1.SimulateStep{Step: &v1.SimulateStep_Freeze{Freeze: &v1.FreezeName{Node: at(1), Frozen: true}}}
	}
	d.Fatalf(t, "no step %s", strconv.Quote(f[0]))
	return nil
}
