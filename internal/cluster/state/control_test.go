package state

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	pb "github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

func planned(s *pb.State, p *pb.Plan) *pb.Command {
	p.BasePlanRevision = s.PlanRevision
	return &pb.Command{TimeMs: 1, Change: &pb.Command_Plan{Plan: p}}
}

func operate(op *v1.Operation) *pb.Command {
	return &pb.Command{Change: &pb.Command_Operate{Operate: &pb.Operate{Operation: op}}}
}

// codes of the events since number.
func codes(s *pb.State, number uint64) (all []string) {
	for _, e := range s.Events {
		if e.Number > number {
			all = append(all, e.Code)
		}
	}
	return all
}

// lost evicts n3, proven by time.
func lost(t *testing.T, s *pb.State) {
	t.Helper()
	must(t, s, evict(s, time.Hour, "n3", statement(s, "n1", "n3", time.Second), statement(s, "n2", "n3", time.Second)))
}

func online(t *testing.T, s *pb.State, node string, request uint64) {
	t.Helper()
	must(t, s, planned(s, &pb.Plan{Orders: []*pb.Order{{Group: "web", Node: node, Want: v1.Want_WANT_ONLINE}},
		GroupChanges: []*pb.GroupChange{{Group: "web", Book: &pb.Instance{Active: node, IntentOnline: true}}}}))
	report(t, s, node, v1.ResourceState_RESOURCE_STATE_ONLINE, request)
}

func TestPlanIsTakenAsAWhole(t *testing.T) {
	s := three(t)
	for name, p := range map[string]*pb.Plan{
		"an order to nowhere":             {Orders: []*pb.Order{{Group: "web", Node: "n9"}}},
		"a place that is not there":       {Places: []*pb.PlaceChange{{Group: "web", Node: "n9"}}},
		"a trigger that is not in it":     {GroupChanges: []*pb.GroupChange{{Group: "web", Book: &pb.Instance{}, NewTrigger: 1}}},
		"a trigger on a stranger":         {Triggers: []*pb.TriggerRun{{Trigger: "sysup", Node: "n9"}}},
		"flags of a group that is gone":   {Flags: []*pb.GroupFlags{{Group: "none"}}},
		"a clear of a group that is gone": {Clears: []*pb.Clear{{Group: "none"}}},
		"a reset of a stranger":           {Resets: map[string]string{"n9": "why"}},
		"a load of a stranger":            {Loads: []*pb.LoadChange{{Node: "n9"}}},
		"a stranger unfrozen":             {NodesUnfrozen: []string{"n9"}},
	} {
		t.Run(name, func(t *testing.T) {
			p.ClockMs = 500
			p.Decisions = []*v1.Decision{{Group: "web"}}
			refused(t, s, planned(s, p), CodeInvalid)
		})
	}
}

func TestClockGoesOnlyOn(t *testing.T) {
	s := three(t)
	for _, c := range []struct{ say, have int64 }{{500, 500}, {400, 500}, {0, 500}, {501, 501}} {
		must(t, s, planned(s, &pb.Plan{ClockMs: c.say}))
		if s.ClockMs != c.have {
			t.Fatalf("after %d the clock reads %d, not %d", c.say, s.ClockMs, c.have)
		}
	}
}

func TestFaultHasATime(t *testing.T) {
	s := three(t)
	faulted := func(clock int64, nodes ...string) {
		must(t, s, planned(s, &pb.Plan{ClockMs: clock, GroupChanges: []*pb.GroupChange{{Group: "web", Book: &pb.Instance{}, Nodes: []string{"n1", "n2"}, Faulted: nodes}}}))
	}
	faulted(700, "n1")
	faulted(900, "n1", "n2") // n1 has been since 700
	faulted(950)
	if a, b := s.GroupStatus["web"].Nodes["n1"], s.GroupStatus["web"].Nodes["n2"]; a.FaultedMs != 700 || b.FaultedMs != 900 || a.Faulted || b.Faulted {
		t.Fatalf("%v, %v", a, b)
	}
}

// run adds one trigger, blocking for web if it is asked for.
func run(t *testing.T, s *pb.State, trigger, node string, blocking bool) uint64 {
	t.Helper()
	p := &pb.Plan{ClockMs: s.ClockMs + 1, Triggers: []*pb.TriggerRun{{Trigger: trigger, Node: node, Group: "web", Program: "/p", Blocking: blocking, RaftId: 99, Ended: true}}}
	if blocking {
		p.GroupChanges = []*pb.GroupChange{{Group: "web", Book: &pb.Instance{}, NewTrigger: 1}}
	}
	must(t, s, planned(s, p))
	tr := Trigger(s, s.NextTrigger)
	if tr.GetRaftId() != MemberOf(s, node).GetRaftId() || tr.GetEnded() || tr.GetClockMs() != s.ClockMs {
		t.Fatalf("added as %v", tr)
	}
	if blocking && Book(s.GroupStatus["web"], "").GetTrigger() != s.NextTrigger {
		t.Fatal("the notebook does not know the number of its trigger")
	}
	return s.NextTrigger
}

func ended(number uint64, node string, raftID uint64, status int32, message string) *pb.Command {
	return &pb.Command{Change: &pb.Command_TriggerDone{TriggerDone: &pb.TriggerDone{Number: number, Node: node, RaftId: raftID, ExitStatus: status, Message: message}}}
}

func TestTriggers(t *testing.T) {
	s := three(t)
	a, b := run(t, s, "postonline", "n1", false), run(t, s, "preonline", "n2", true)
	if a != 1 || b != 2 || len(s.Triggers) != 2 {
		t.Fatalf("%d, %d, %v", a, b, s.Triggers)
	}
	refused(t, s, ended(a, "n2", 2, 0, ""), CodeStale)
	refused(t, s, ended(a, "n1", 7, 0, ""), CodeStale)
	refused(t, s, ended(9, "n1", 1, 0, ""), CodeStale)
	at, plan := s.NextEvent, s.PlanRevision
	must(t, s, ended(a, "n1", 1, 0, ""))
	if Trigger(s, a) != nil || s.NextEvent != at || s.PlanRevision != plan {
		t.Fatal("a trigger that nobody waits for is forgotten without a word when it has gone well")
	}
	must(t, s, ended(b, "n2", 2, 3, strings.Repeat("x", 9000)))
	if tr := Trigger(s, b); !tr.GetEnded() || tr.GetExitStatus() != 3 || len(tr.GetMessage()) != maxText {
		t.Fatalf("%v", tr)
	}
	if got := codes(s, at); !slices.Equal(got, []string{"trigger.failed"}) || s.PlanRevision == plan {
		t.Fatalf("%v", got)
	}
	refused(t, s, ended(b, "n2", 2, 0, ""), CodeStale)
	must(t, s, planned(s, &pb.Plan{TriggersSeen: []uint64{b, 77}, GroupChanges: []*pb.GroupChange{{Group: "web", Book: &pb.Instance{}}}}))
	if len(s.Triggers) != 0 {
		t.Fatalf("left: %v", s.Triggers)
	}
	// One that nobody waits for any more is forgotten when it ends.
	c := run(t, s, "preonline", "n1", true)
	must(t, s, planned(s, &pb.Plan{GroupChanges: []*pb.GroupChange{{Group: "web", Book: &pb.Instance{}}}}))
	must(t, s, ended(c, "n1", 1, 0, ""))
	if len(s.Triggers) != 0 {
		t.Fatalf("left: %v", s.Triggers)
	}
}

func TestTriggersAreBounded(t *testing.T) {
	s := three(t)
	first := run(t, s, "preonline", "n1", true)
	must(t, s, planned(s, &pb.Plan{Triggers: slices.Repeat([]*pb.TriggerRun{{Trigger: "postonline", Node: "n1", Group: "web"}}, MostTriggers-1)}))
	at := s.NextEvent
	must(t, s, planned(s, &pb.Plan{Triggers: slices.Repeat([]*pb.TriggerRun{{Trigger: "postonline", Node: "n2", Group: "web"}}, 3)}))
	if len(s.Triggers) != MostTriggers || Trigger(s, first) == nil || Trigger(s, 2) != nil || Trigger(s, 4) != nil || Trigger(s, 5) == nil {
		t.Fatalf("%d are kept, from %v on", len(s.Triggers), s.Triggers[1])
	}
	if got := codes(s, at); !slices.Equal(got, []string{"trigger.dropped"}) || !strings.HasPrefix(s.Events[len(s.Events)-1].Message, "3 ") {
		t.Fatalf("%v: %s", got, s.Events[len(s.Events)-1].Message)
	}
}

func TestTriggersOfALostNode(t *testing.T) {
	s := three(t)
	awaited, off, post := run(t, s, "preonline", "n3", true), run(t, s, "sysoffline", "n3", false), run(t, s, "postonline", "n3", false)
	must(t, s, planned(s, &pb.Plan{GroupChanges: []*pb.GroupChange{{Group: "web", Book: &pb.Instance{Trigger: awaited}}}}))
	lost(t, s)
	if tr := Trigger(s, awaited); !tr.GetEnded() || tr.GetExitStatus() != -1 {
		t.Fatalf("the planner waits for ever: %v", tr)
	}
	if tr := Trigger(s, off); tr.GetNode() != "n1" || tr.GetRaftId() != 1 || tr.GetEnded() || tr.GetFacts()[FactSystem] != "n3" {
		t.Fatalf("%v", tr)
	}
	if Trigger(s, post) != nil {
		t.Fatal("what was to be run on a node that is gone is kept")
	}
	report(t, s, "n1", v1.ResourceState_RESOURCE_STATE_OFFLINE, 1)
	report(t, s, "n2", v1.ResourceState_RESOURCE_STATE_OFFLINE, 2)
	run(t, s, "postoffline", "n1", false)
	must(t, s, &pb.Command{Change: &pb.Command_Configure{Configure: &pb.Configure{BaseRevision: s.ConfigRevision, Configuration: &v1.Configuration{
		Cluster: s.Cluster, Nodes: Configuration(s).Nodes,
	}}}})
	if len(s.Triggers) != 0 {
		t.Fatal("triggers of a group that was removed are kept")
	}
}

func TestTriggerArguments(t *testing.T) {
	for _, c := range []struct {
		run  *pb.TriggerRun
		want string
	}{
		{&pb.TriggerRun{Trigger: "preonline", Node: "n1", Group: "web", Facts: map[string]string{"why": "fault", "from": "n2"}}, "preonline n1 web fault n2"},
		{&pb.TriggerRun{Trigger: "resstatechange", Node: "n1", Group: "web", Resource: "ip", Facts: map[string]string{"was": "OFFLINE", "is": "ONLINE"}}, "resstatechange n1 ip OFFLINE ONLINE"},
		{&pb.TriggerRun{Trigger: "sysoffline", Node: "n1", Facts: map[string]string{"system": "n3", "state": "FAULTED"}}, "sysoffline n3 FAULTED"},
		{&pb.TriggerRun{Trigger: "else", Node: "n1"}, "else n1"},
	} {
		if got := strings.Join(TriggerArguments(c.run), " "); got != c.want {
			t.Errorf("%s, want %s", got, c.want)
		}
	}
	s := three(t)
	if p := TriggerProgram(s, s.Groups["web"], "preonline"); p != "/etc/holdfast/triggers/preonline" {
		t.Error(p)
	}
	s.Cluster.TriggerPath = "/c"
	if p := TriggerProgram(s, nil, "sysup"); p != "/c/sysup" {
		t.Error(p)
	}
	s.Groups["web"].TriggerPath = "/g"
	if p := TriggerProgram(s, s.Groups["web"], "preonline"); p != "/g/preonline" {
		t.Error(p)
	}
}

func TestSignals(t *testing.T) {
	s := three(t)
	set := func(name, node string, v *pb.SignalValue) *pb.Command {
		return &pb.Command{Audit: &pb.Audit{Who: "root"}, Change: &pb.Command_SetSignal{SetSignal: &pb.SetSignal{Name: name, Node: node, Value: v}}}
	}
	up := &pb.SignalValue{State: v1.SignalState_SIGNAL_STATE_UP, Source: "root"}
	must(t, s, set("a", "n1", up))
	at := s.NextEvent
	again := proto.CloneOf(up)
	again.SetMs, again.TimeToLive = 5, durationpb.New(time.Minute)
	must(t, s, set("a", "n1", again))
	if s.NextEvent != at || s.Signals["a"].Nodes["n1"].GetSetMs() != 5 {
		t.Fatal("a script that says the same again fills the log of events, or is not heard")
	}
	must(t, s, set("a", "n1", &pb.SignalValue{State: v1.SignalState_SIGNAL_STATE_DOWN}))
	if got := codes(s, at); !slices.Equal(got, []string{"audit.done"}) {
		t.Fatalf("%v", got)
	}
	must(t, s, set("a", "n2", &pb.SignalValue{Value: 7}))
	if got := SignalsOf(s, "n2"); len(got) != 1 || got["a"].GetValue() != 7 {
		t.Fatalf("%v", got)
	}
	refused(t, s, set("", "n1", up), CodeInvalid)
	refused(t, s, set("a", "n9", up), CodeNotFound)
	refused(t, s, set("a", "n1", &pb.SignalValue{}), CodeInvalid)
	refused(t, s, set("a", "n1", &pb.SignalValue{State: 9}), CodeInvalid)
	refused(t, s, set("a", "n1", &pb.SignalValue{Value: 1 << 31}), CodeInvalid)
	refused(t, s, set("a", "n1", &pb.SignalValue{Value: -1}), CodeInvalid)
	refused(t, s, set("a", "n1", &pb.SignalValue{Value: 1, TimeToLive: durationpb.New(-1)}), CodeInvalid)
	refused(t, s, set("b", "n1", nil), CodeNotFound)
	must(t, s, set("a", "n2", nil))
	must(t, s, set("a", "n1", nil))
	if len(s.Signals) != 0 {
		t.Fatalf("left: %v", s.Signals)
	}
	for i := range MostSignals {
		must(t, s, set(fmt.Sprint("s", i), "n3", up))
	}
	refused(t, s, set("one more", "n1", up), CodeConflict)
	must(t, s, set("s1", "n1", up))
	report(t, s, "n3", v1.ResourceState_RESOURCE_STATE_OFFLINE, 1)
	must(t, s, operate(&v1.Operation{Kind: v1.OperationKind_OPERATION_KIND_NODE_STOP, Node: "n3"}))
	must(t, s, &pb.Command{Change: &pb.Command_Leave{Leave: &pb.Leave{BaseEpoch: 1, Node: "n3"}}})
	must(t, s, &pb.Command{Change: &pb.Command_RemoveNode{RemoveNode: &pb.RemoveNode{Node: "n3", FromGroups: true}}})
	if len(s.Signals) != 1 {
		t.Fatalf("%d signals of a node that was removed are kept", len(s.Signals)-1)
	}
}

func TestLoad(t *testing.T) {
	s := three(t)
	set := func(node string, load map[string]int64) *pb.Command {
		return &pb.Command{Change: &pb.Command_SetLoad{SetLoad: &pb.SetLoad{Node: node, Load: load}}}
	}
	plan := s.PlanRevision
	must(t, s, set("n1", map[string]int64{"cpu": 50}))
	if s.NodeStatus["n1"].DynamicLoad["cpu"] != 50 || s.PlanRevision == plan {
		t.Fatal("the planner does not learn of it")
	}
	plan = s.PlanRevision
	must(t, s, set("n1", map[string]int64{"cpu": 50}))
	if s.PlanRevision != plan {
		t.Fatal("planned anew for nothing")
	}
	must(t, s, set("n1", nil))
	if len(s.NodeStatus["n1"].DynamicLoad) != 0 {
		t.Fatal("a load that is not measured any more is kept")
	}
	refused(t, s, set("n9", nil), CodeNotFound)
	refused(t, s, set("n1", map[string]int64{"cpu": -1}), CodeInvalid)
	must(t, s, planned(s, &pb.Plan{Loads: []*pb.LoadChange{{Node: "n1", SinceMs: 4, Warned: true}}}))
	if st := s.NodeStatus["n1"]; st.LoadedSinceMs != 4 || !st.LoadWarned {
		t.Fatalf("%v", st)
	}
}

func TestNotified(t *testing.T) {
	s := three(t)
	say := func(name string, event uint64) *pb.Command {
		return &pb.Command{Change: &pb.Command_Notified{Notified: &pb.Notified{Notifier: name, Event: event}}}
	}
	refused(t, s, say("mail", 1), CodeNotFound)
	before := s.NextEvent
	conf := Configuration(s)
	conf.Cluster.Notifiers = []*v1.Notifier{{Name: "mail"}}
	must(t, s, &pb.Command{Change: &pb.Command_Configure{Configure: &pb.Configure{BaseRevision: s.ConfigRevision, Configuration: conf}}})
	if s.Notified["mail"] != before {
		t.Fatalf("a new notifier begins at event %d, not at %d", s.Notified["mail"], before)
	}
	refused(t, s, say("mail", s.NextEvent+1), CodeInvalid)
	must(t, s, say("mail", s.NextEvent))
	refused(t, s, say("mail", s.NextEvent), CodeStale)
	refused(t, s, say("mail", 1), CodeStale)
	conf = Configuration(s)
	conf.Cluster.Notifiers = nil
	must(t, s, &pb.Command{Change: &pb.Command_Configure{Configure: &pb.Configure{BaseRevision: s.ConfigRevision, Configuration: conf}}})
	if len(s.Notified) != 0 {
		t.Fatal("a notifier that was removed is remembered")
	}
}

func TestEnable(t *testing.T) {
	s := three(t)
	gs := s.GroupStatus["web"]
	say := func(node, why string, auto bool) *pb.Command {
		return &pb.Command{Change: &pb.Command_Enable{Enable: &pb.Enable{Group: "web", Node: node, Disabled: why, AutoEnable: auto}}}
	}
	must(t, s, say("n3", "broken", false))
	if gs.Nodes["n3"].Disabled != "broken" || gs.Nodes["n1"].Disabled != "" {
		t.Fatalf("%v", gs)
	}
	lost(t, s)
	must(t, s, &pb.Command{Change: &pb.Command_Join{Join: &pb.Join{Node: "n3", RaftId: 4, GuardIncarnation: 2}}})
	must(t, s, &pb.Command{Change: &pb.Command_Promote{Promote: &pb.Promote{BaseEpoch: 2, Node: "n3", RaftId: 4}}})
	if gs.Nodes["n3"].GetDisabled() != "broken" {
		t.Fatal("a node that went away and came back is enabled again")
	}
	must(t, s, planned(s, &pb.Plan{Places: []*pb.PlaceChange{{Group: "web", Node: "n1", Disabled: "exit status 2", AutoDisabled: "unclear"}}}))
	if on := gs.Nodes["n1"]; on.Disabled != "exit status 2" || on.AutoDisabled != "unclear" {
		t.Fatalf("%v", on)
	}
	must(t, s, planned(s, &pb.Plan{Places: []*pb.PlaceChange{{Group: "web", Node: "n1", Disabled: "exit status 2"}}}))
	if gs.Nodes["n1"].AutoDisabled != "" {
		t.Fatal("a place change sets both")
	}
	conf := Configuration(s)
	conf.Groups[0].DisabledNodes = []string{"n2"}
	must(t, s, &pb.Command{Change: &pb.Command_Configure{Configure: &pb.Configure{BaseRevision: s.ConfigRevision, Configuration: conf}}})
	if gs.Nodes["n2"].GetDisabled() == "" {
		t.Fatal("disabledNodes of the configuration does nothing")
	}
	revision := s.ConfigRevision
	must(t, s, say("", "", false))
	for _, n := range []string{"n1", "n2", "n3"} {
		if gs.Nodes[n].GetDisabled() != "" {
			t.Fatalf("%s: %s", n, gs.Nodes[n].GetDisabled())
		}
	}
	if len(s.Groups["web"].DisabledNodes) != 0 || s.ConfigRevision == revision {
		t.Fatal("the configuration still disables it")
	}
	refused(t, s, say("n9", "", false), CodeNotFound)
	refused(t, s, say("n1", "why", true), CodeInvalid)
	refused(t, s, say("n1", "", true), CodeConflict) // nothing is auto-disabled
	gs.Nodes["n1"].AutoDisabled = "unclear"
	must(t, s, say("", "", true))
	if gs.Nodes["n1"].AutoDisabled != "" {
		t.Fatal("still auto-disabled")
	}
}

func TestSwitching(t *testing.T) {
	cfg := Configuration(three(t))
	cfg.Groups[0].Package = &v1.Package{Name: "web", AutoRun: proto.Bool(false)}
	s, err := Initial(cfg)
	if err != nil {
		t.Fatal(err)
	}
	gs := s.GroupStatus["web"]
	if why, on := Switches(gs); on || why != "auto_run is no" {
		t.Fatalf("%q, %v", why, on)
	}
	say := func(off string) *pb.Command {
		return &pb.Command{Change: &pb.Command_SetSwitching{SetSwitching: &pb.SetSwitching{Group: "web", Off: off}}}
	}
	must(t, s, say(""))
	if _, on := Switches(gs); !on {
		t.Fatal("still off")
	}
	must(t, s, planned(s, &pb.Plan{Flags: []*pb.GroupFlags{{Group: "web", SwitchingOff: "it failed"}}}))
	if why, _ := Switches(gs); why != "it failed" {
		t.Fatal(why)
	}
	must(t, s, &pb.Command{Change: &pb.Command_GuardStarted{GuardStarted: &pb.GuardStarted{Node: "n1", RaftId: 1, GuardIncarnation: 1, Rebooted: true}}})
	must(t, s, say(""))
	must(t, s, &pb.Command{Change: &pb.Command_ClusterStarted{ClusterStarted: &pb.ClusterStarted{Node: "n1", RaftId: 1, GuardIncarnation: 1}}})
	if why, _ := Switches(gs); why != "auto_run is no" {
		t.Fatalf("a package begins by its auto_run when the cluster starts: %q", why)
	}
	refused(t, s, &pb.Command{Change: &pb.Command_SetSwitching{SetSwitching: &pb.SetSwitching{Group: "none"}}}, CodeNotFound)
}

func TestFreezes(t *testing.T) {
	s := three(t)
	set := func(c *pb.SetFrozen) *pb.Command {
		return &pb.Command{TimeMs: 9, Change: &pb.Command_SetFrozen{SetFrozen: c}}
	}
	revision := s.ConfigRevision
	must(t, s, planned(s, &pb.Plan{ClockMs: 100}))
	must(t, s, set(&pb.SetFrozen{Group: "web", Frozen: true, Temporary: &pb.Freeze{By: "root", Reason: "r", UntilClockMs: 200}}))
	if f := s.GroupStatus["web"].Freeze; f.GetSinceMs() != 9 || f.GetBy() != "root" || s.Groups["web"].Frozen || s.ConfigRevision != revision {
		t.Fatalf("%v", f)
	}
	refused(t, s, set(&pb.SetFrozen{Group: "web", Frozen: true, Temporary: &pb.Freeze{UntilClockMs: 100}}), CodeInvalid)
	refused(t, s, set(&pb.SetFrozen{Group: "web", Temporary: &pb.Freeze{}}), CodeInvalid)
	refused(t, s, set(&pb.SetFrozen{Group: "web", Frozen: true, Evacuate: true}), CodeInvalid)
	refused(t, s, set(&pb.SetFrozen{Group: "web", Node: "n1", Frozen: true}), CodeInvalid)
	must(t, s, set(&pb.SetFrozen{Group: "web", Frozen: true, Reason: "for good"}))
	if s.GroupStatus["web"].Freeze == nil || s.Groups["web"].FrozenReason != "for good" || s.ConfigRevision == revision {
		t.Fatal("both kinds stand beside each other")
	}
	must(t, s, set(&pb.SetFrozen{Group: "web"}))
	if s.GroupStatus["web"].Freeze != nil || s.Groups["web"].Frozen || s.Groups["web"].FrozenReason != "" {
		t.Fatal("unfreezing ends both kinds")
	}
	must(t, s, set(&pb.SetFrozen{Group: "web", Frozen: true, Temporary: &pb.Freeze{}}))
	must(t, s, set(&pb.SetFrozen{Node: "n1", Frozen: true, Temporary: &pb.Freeze{}}))
	plan := s.PlanRevision
	must(t, s, set(&pb.SetFrozen{Group: "web"}))
	if s.GroupStatus["web"].Freeze != nil || s.PlanRevision == plan {
		t.Fatal("a temporary freeze alone is not ended")
	}
	must(t, s, planned(s, &pb.Plan{NodesUnfrozen: []string{"n1"}}))
	if s.NodeStatus["n1"].Freeze != nil {
		t.Fatal("expired, and still frozen")
	}
	must(t, s, set(&pb.SetFrozen{Group: "web", Frozen: true, Temporary: &pb.Freeze{}}))
	must(t, s, planned(s, &pb.Plan{Flags: []*pb.GroupFlags{{Group: "web", Unfreeze: true}}}))
	if s.GroupStatus["web"].Freeze != nil {
		t.Fatal("expired, and still frozen")
	}

	refused(t, s, set(&pb.SetFrozen{Node: "n1", Evacuate: true}), CodeInvalid)
	o := must(t, s, set(&pb.SetFrozen{Node: "n3", Frozen: true, Evacuate: true}))
	if op := s.Operations[len(s.Operations)-1]; op.Kind != v1.OperationKind_OPERATION_KIND_NODE_EVACUATE || op.Node != "n3" || o.Operation != op.Id || !s.Nodes["n3"].Frozen {
		t.Fatalf("%v", op)
	}
	refused(t, s, operate(&v1.Operation{Kind: v1.OperationKind_OPERATION_KIND_NODE_EVACUATE, Node: "n3"}), CodeConflict)
	lost(t, s)
	if op := s.Operations[len(s.Operations)-1]; op.State != v1.OperationState_OPERATION_STATE_FAILED {
		t.Fatalf("the evacuation of a node that is gone goes on: %v", op)
	}
	refused(t, s, operate(&v1.Operation{Kind: v1.OperationKind_OPERATION_KIND_NODE_EVACUATE, Node: "n3"}), CodeConflict)
	must(t, s, set(&pb.SetFrozen{Group: "web", Frozen: true, Temporary: &pb.Freeze{}}))
	must(t, s, &pb.Command{Change: &pb.Command_ClusterStarted{ClusterStarted: &pb.ClusterStarted{Node: "n1", RaftId: 1, GuardIncarnation: 1}}})
	if s.GroupStatus["web"].Freeze != nil {
		t.Fatal("a temporary freeze ends with the cluster's last node")
	}
}

func TestMaintenance(t *testing.T) {
	s := three(t)
	conf := Configuration(s)
	parent := &v1.Group{Name: "app", SystemList: []string{"n1"}, DependsOn: []*v1.GroupDependency{{Group: "web"}}}
	conf.Groups = append(conf.Groups, parent)
	configure := func(c *v1.Configuration) *pb.Command {
		return &pb.Command{Change: &pb.Command_Configure{Configure: &pb.Configure{BaseRevision: s.ConfigRevision, Configuration: c}}}
	}
	must(t, s, configure(conf))
	set := func(node string) *pb.Command {
		return &pb.Command{Change: &pb.Command_SetMaintenance{SetMaintenance: &pb.SetMaintenance{Group: "web", Node: node}}}
	}
	switching := func(group, off string) *pb.Command {
		return &pb.Command{Change: &pb.Command_SetSwitching{SetSwitching: &pb.SetSwitching{Group: group, Off: off}}}
	}
	report(t, s, "n1", v1.ResourceState_RESOURCE_STATE_ONLINE, 1)
	gs := s.GroupStatus["web"]
	refused(t, s, set("n1"), CodeConflict) // it still switches
	must(t, s, switching("web", "root did"))
	refused(t, s, set("n1"), CodeConflict) // its dependent does
	must(t, s, switching("app", "root did"))
	refused(t, s, set("n9"), CodeNotFound)
	refused(t, s, set(""), CodeConflict) // not in maintenance
	must(t, s, planned(s, &pb.Plan{Orders: []*pb.Order{{Group: "app", Node: "n1", Want: v1.Want_WANT_ONLINE}}}))
	refused(t, s, set("n1"), CodeConflict) // its dependent is not down
	must(t, s, planned(s, &pb.Plan{Orders: []*pb.Order{{Group: "app", Node: "n1", Want: v1.Want_WANT_OFFLINE}}}))
	s.NodeStatus["n1"].Phase = pb.NodePhase_NODE_PHASE_LEAVING
	refused(t, s, set("n1"), CodeConflict)
	s.NodeStatus["n1"].Phase = pb.NodePhase_NODE_PHASE_RUNNING
	must(t, s, set("n1"))
	refused(t, s, set("n2"), CodeConflict) // on one node only
	refused(t, s, switching("web", ""), CodeConflict)
	conf = Configuration(s)
	conf.Groups[1].Priority = proto.Uint32(7)
	refused(t, s, configure(conf), CodeConflict)
	conf = Configuration(s)
	conf.Groups = append(conf.Groups, &v1.Group{Name: "late", SystemList: []string{"n1"}, DependsOn: []*v1.GroupDependency{{Group: "web"}}})
	refused(t, s, configure(conf), CodeConflict)
	must(t, s, configure(Configuration(s)))
	for i, st := range []v1.ResourceState{v1.ResourceState_RESOURCE_STATE_FAULTED, v1.ResourceState_RESOURCE_STATE_UNKNOWN} {
		report(t, s, "n1", st, uint64(10+i))
		refused(t, s, set(""), CodeConflict)
	}
	report(t, s, "n1", v1.ResourceState_RESOURCE_STATE_ONLINE, 20)
	must(t, s, set(""))
	must(t, s, set("n1"))
	report(t, s, "n1", v1.ResourceState_RESOURCE_STATE_OFFLINE, 21)
	must(t, s, set(""))
	must(t, s, set("n3"))
	lost(t, s)
	if gs.Maintenance != "" {
		t.Fatal("maintenance outlives its node")
	}
}

func TestAdminWait(t *testing.T) {
	s := three(t)
	waits := func(w v1.AdminWait, st v1.ResourceState, request uint64) *v1.ResourceStatus {
		must(t, s, &pb.Command{Request: request, Change: &pb.Command_Report{Report: &pb.Report{Node: "n1", RaftId: 1, Groups: []*pb.GroupReport{{Group: "web", Intent: 4,
			Resources: map[string]*v1.ResourceStatus{"file": {State: st, AdminWait: w}}}}}}})
		return s.GroupStatus["web"].Nodes["n1"].Resources["file"]
	}
	end := func(node string, fault bool) *pb.Command {
		return &pb.Command{Change: &pb.Command_ClearAdminWait{ClearAdminWait: &pb.ClearAdminWait{Group: "web", Node: node, Fault: fault}}}
	}
	refused(t, s, end("n1", false), CodeConflict)
	waits(v1.AdminWait_ADMIN_WAIT_OFFLINE_HUNG, v1.ResourceState_RESOURCE_STATE_ONLINE, 1)
	if e := s.Events[len(s.Events)-1]; e.Code != "resource.admin-wait" {
		t.Fatalf("%v", e)
	}
	refused(t, s, end("n2", false), CodeConflict)
	refused(t, s, &pb.Command{Change: &pb.Command_ClearAdminWait{ClearAdminWait: &pb.ClearAdminWait{Group: "web", Resource: "none"}}}, CodeNotFound)
	must(t, s, end("", true))
	if st := s.GroupStatus["web"].Nodes["n1"].Resources["file"]; st.AdminWait != 0 || !st.UnableToOffline || st.State != v1.ResourceState_RESOURCE_STATE_ONLINE {
		t.Fatalf("%v", st)
	}
	waits(v1.AdminWait_ADMIN_WAIT_UNEXPECTED_OFFLINE, v1.ResourceState_RESOURCE_STATE_OFFLINE, 2)
	must(t, s, end("", false))
	if st := s.GroupStatus["web"].Nodes["n1"].Resources["file"]; st.AdminWait != 0 || st.State != v1.ResourceState_RESOURCE_STATE_OFFLINE {
		t.Fatalf("%v", st)
	}
	waits(v1.AdminWait_ADMIN_WAIT_UNEXPECTED_OFFLINE, v1.ResourceState_RESOURCE_STATE_OFFLINE, 3)
	must(t, s, end("n1", true))
	if st := s.GroupStatus["web"].Nodes["n1"].Resources["file"]; st.State != v1.ResourceState_RESOURCE_STATE_FAULTED {
		t.Fatalf("%v", st)
	}
}

func TestActions(t *testing.T) {
	s := three(t)
	s.Types["FileOnOff"].SupportedActions = []string{"rotate"}
	act := func(change func(*v1.Operation)) *pb.Command {
		op := &v1.Operation{Kind: v1.OperationKind_OPERATION_KIND_RESOURCE_ACTION, Group: "web", Resource: "file", Node: "n3", Action: "rotate"}
		change(op)
		return operate(op)
	}
	for code, change := range map[string][]func(*v1.Operation){
		CodeInvalid: {
			func(op *v1.Operation) { op.Resource = "" }, func(op *v1.Operation) { op.Action = "" }, func(op *v1.Operation) { op.Node = "" },
			func(op *v1.Operation) { op.Arguments = make([]string, maxArguments+1) }, func(op *v1.Operation) { op.Arguments = []string{strings.Repeat("x", maxArgumentBytes)} },
		},
		CodeNotFound: {
			func(op *v1.Operation) { op.Action = "else" }, func(op *v1.Operation) { op.Resource = "else" }, func(op *v1.Operation) { op.Node = "n9" }, func(op *v1.Operation) { op.Group = "else" },
		},
	} {
		for _, ch := range change {
			refused(t, s, act(ch), code)
		}
	}
	id := must(t, s, act(func(*v1.Operation) {})).Operation
	say := func(id uint64, node string, raftID uint64) *pb.Command {
		return &pb.Command{Change: &pb.Command_OperationDone{OperationDone: &pb.OperationDone{Id: id, Node: node, RaftId: raftID, Failed: true, Message: strings.Repeat("é", 9000)}}}
	}
	refused(t, s, say(99, "n3", 3), CodeStale)
	refused(t, s, say(id, "n1", 1), CodeInvalid)
	refused(t, s, say(id, "n3", 9), CodeStale)
	must(t, s, say(id, "n3", 3))
	if op := s.Operations[0]; op.State != v1.OperationState_OPERATION_STATE_FAILED || len(op.Message) > maxText || !strings.HasSuffix(op.Message, "é") {
		t.Fatalf("%v, %d bytes", op.State, len(op.Message))
	}
	refused(t, s, say(id, "n3", 3), CodeStale)
	must(t, s, act(func(*v1.Operation) {}))
	lost(t, s)
	if op := s.Operations[1]; op.State != v1.OperationState_OPERATION_STATE_FAILED {
		t.Fatalf("an action on a node that is gone is waited for: %v", op)
	}
	refused(t, s, act(func(*v1.Operation) {}), CodeConflict)
}

func TestReset(t *testing.T) {
	s := three(t)
	must(t, s, planned(s, &pb.Plan{Resets: map[string]string{"n3": "web failed"}}))
	must(t, s, planned(s, &pb.Plan{Resets: map[string]string{"n3": "again"}}))
	if s.NodeStatus["n3"].Reset_ != "web failed" {
		t.Fatal(s.NodeStatus["n3"].Reset_)
	}
	// A guard that was started again has not carried it out; after a restart of the machine nothing is left of it.
	started := func(guard uint64, rebooted bool) {
		must(t, s, &pb.Command{Change: &pb.Command_GuardStarted{GuardStarted: &pb.GuardStarted{Node: "n3", RaftId: 3, GuardIncarnation: guard, Rebooted: rebooted}}})
	}
	if started(2, false); s.NodeStatus["n3"].Reset_ == "" {
		t.Fatal("forgotten before it was carried out")
	}
	if started(3, true); s.NodeStatus["n3"].Reset_ != "" {
		t.Fatal("it would be reset again and again")
	}
	must(t, s, planned(s, &pb.Plan{Resets: map[string]string{"n3": "web failed"}}))
	lost(t, s)
	if s.NodeStatus["n3"].Reset_ != "" {
		t.Fatal("the next incarnation would be reset")
	}
}

// What a slow machine tells of all its resources at once is summed up.
func TestMarksAreBounded(t *testing.T) {
	s := three(t)
	all := map[string]*v1.ResourceStatus{}
	for i := range 50 {
		name := fmt.Sprintf("r%02d", i)
		s.Groups["web"].Resources = append(s.Groups["web"].Resources, &v1.Resource{Name: name, Type: "FileOnOff"})
		all[name] = &v1.ResourceStatus{State: v1.ResourceState_RESOURCE_STATE_OFFLINE, MonitorTimedOut: true}
	}
	say := func(request uint64, res map[string]*v1.ResourceStatus) []string {
		at := s.NextEvent
		must(t, s, &pb.Command{Request: request, Change: &pb.Command_Report{Report: &pb.Report{Node: "n1", RaftId: 1, Groups: []*pb.GroupReport{{Group: "web", Resources: res}}}}})
		return codes(s, at)
	}
	got := say(1, all)
	if n := len(got); n != mostMarks+1 || got[n-1] != "resource.monitor-timed-out" || !strings.Contains(s.Events[len(s.Events)-1].Message, "40 more") {
		t.Fatalf("%d events, the last: %s", n, s.Events[len(s.Events)-1].Message)
	}
	if got = say(2, all); len(got) != 0 {
		t.Fatalf("told again: %v", got)
	}
	one := func(request uint64, st *v1.ResourceStatus) []string {
		return say(request, map[string]*v1.ResourceStatus{"file": st})
	}
	on := v1.ResourceState_RESOURCE_STATE_ONLINE
	for i, c := range []struct {
		st   *v1.ResourceStatus
		want []string
	}{
		{&v1.ResourceStatus{State: on, Confidence: 100}, []string{"resource.online"}},
		{&v1.ResourceStatus{State: on, Confidence: 90}, nil},
		{&v1.ResourceStatus{State: on, Confidence: 40}, []string{"resource.confidence"}},
		{&v1.ResourceStatus{State: on}, nil},
		{&v1.ResourceStatus{State: on, Restarts: 1}, []string{"resource.restarted"}},
		{&v1.ResourceStatus{State: on, Restarts: 1}, nil},
		{&v1.ResourceStatus{State: on, UnableToOffline: true}, []string{"resource.unable-to-offline"}},
		{&v1.ResourceStatus{State: on, UnableToOffline: true, AdminWait: v1.AdminWait_ADMIN_WAIT_MONITOR_HUNG}, []string{"resource.admin-wait"}},
	} {
		if got := one(uint64(10+i), c.st); !slices.Equal(got, c.want) {
			t.Errorf("%v: %v, want %v", c.st, got, c.want)
		}
	}
	for n, want := range map[uint32]string{1: "1st", 2: "2nd", 3: "3rd", 4: "4th", 11: "11th", 12: "12th", 21: "21st", 113: "113th"} {
		if got := ordinal(n); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}
