package state

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"pgregory.net/rapid"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	pb "github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// fataler is what testing.TB and rapid.T have in common.
type fataler interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
}

// three nodes with registered guards, and a group web that may run on all of them.
func three(t fataler) *pb.State {
	t.Helper()
	cfg := &v1.Configuration{
		Cluster: &v1.Cluster{Name: "c", Uuid: strings.Repeat("0", 32)},
		Types:   []*v1.ResourceType{{Name: "FileOnOff", Operations: v1.Operations_OPERATIONS_ON_OFF}},
		Groups: []*v1.Group{{Name: "web", SystemList: []string{"n1", "n2", "n3"}, Resources: []*v1.Resource{
			{Name: "file", Type: "FileOnOff"},
		}}},
	}
	for _, n := range []string{"n3", "n1", "n2"} {
		cfg.Nodes = append(cfg.Nodes, &v1.Node{Name: n, Links: []*v1.Link{{Name: "a", Address: "10.0.0.1"}}})
	}
	s, err := Initial(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{"n1", "n2", "n3"} {
		must(t, s, &pb.Command{Change: &pb.Command_GuardStarted{GuardStarted: &pb.GuardStarted{
			Node: n, RaftId: MemberOf(s, n).GetRaftId(), GuardIncarnation: 1, Rebooted: true,
		}}})
	}
	return s
}

func must(t fataler, s *pb.State, c *pb.Command) Outcome {
	t.Helper()
	o := Apply(s, c)
	if o.Refused != nil {
		t.Fatalf("refused: %v", o.Refused)
	}
	return o
}

func refused(t *testing.T, s *pb.State, c *pb.Command, code string) {
	t.Helper()
	before := Digest(s)
	o := Apply(s, c)
	if o.Refused == nil || o.Refused.Code != code {
		t.Fatalf("outcome %+v, want a refusal with %s", o.Refused, code)
	}
	if Digest(s) != before {
		t.Fatal("a refused command changed the state")
	}
}

func statement(s *pb.State, voter, about string, age time.Duration) *pb.Statement {
	return &pb.Statement{
		Voter: voter, VoterRaftId: MemberOf(s, voter).GetRaftId(), VoterGuardIncarnation: MemberOf(s, voter).GetGuardIncarnation(),
		About: about, AboutRaftId: MemberOf(s, about).GetRaftId(), Stays: s.NodeStatus[about].GetStays(),
		Age: durationpb.New(age), YoungestSequence: 100, AboutGuardIncarnation: 1,
	}
}

func evict(s *pb.State, viewAge time.Duration, about string, sts ...*pb.Statement) *pb.Command {
	return &pb.Command{Change: &pb.Command_Evict{Evict: &pb.Evict{
		BaseEpoch: s.View.Epoch, Evictees: []*pb.Evictee{{Node: about}}, Statements: sts, ViewAge: durationpb.New(viewAge),
	}}}
}

func TestInitialView(t *testing.T) {
	s := three(t)
	if s.View.Epoch != 1 || len(s.View.Members) != 3 || MemberOf(s, "n1").RaftId != 1 || MemberOf(s, "n3").RaftId != 3 || s.NextRaftId != 4 {
		t.Fatalf("view %v, next raft id %d", s.View, s.NextRaftId)
	}
	if _, err := Initial(&v1.Configuration{}); err == nil {
		t.Fatal("a cluster without nodes was made")
	}
}

func TestEviction(t *testing.T) {
	const full = time.Second // peerinact
	for _, c := range []struct {
		name  string
		make  func(s *pb.State) *pb.Command
		code  string        // of a refusal
		wait  time.Duration // of the fence; 0: proven at once
		proof string        // in the event
	}{
		{"by a majority that has been silent long enough", func(s *pb.State) *pb.Command {
			return evict(s, time.Hour, "n3", statement(s, "n1", "n3", full), statement(s, "n2", "n3", full))
		}, "", 0, "lease"},
		{"waits from the youngest acknowledgement", func(s *pb.State) *pb.Command {
			return evict(s, time.Hour, "n3", statement(s, "n1", "n3", full), statement(s, "n2", "n3", 300*time.Millisecond))
		}, "", 700 * time.Millisecond, ""},
		{"needs a majority", func(s *pb.State) *pb.Command {
			return evict(s, time.Hour, "n3", statement(s, "n1", "n3", full))
		}, CodeConflict, 0, ""},
		{"one voter does not count twice", func(s *pb.State) *pb.Command {
			return evict(s, time.Hour, "n3", statement(s, "n1", "n3", full), statement(s, "n1", "n3", full))
		}, CodeConflict, 0, ""},
		{"the suspected has no say", func(s *pb.State) *pb.Command {
			return evict(s, time.Hour, "n3", statement(s, "n1", "n3", full), statement(s, "n3", "n3", full))
		}, CodeConflict, 0, ""},
		{"a statement from before the voter's guard was started again is void", func(s *pb.State) *pb.Command {
			c := evict(s, time.Hour, "n3", statement(s, "n1", "n3", full), statement(s, "n2", "n3", full))
			Apply(s, &pb.Command{Change: &pb.Command_GuardStarted{GuardStarted: &pb.GuardStarted{Node: "n2", RaftId: 2, GuardIncarnation: 2}}})
			return c
		}, CodeConflict, 0, ""},
		{"a statement from before it stays is void", func(s *pb.State) *pb.Command {
			c := evict(s, time.Hour, "n3", statement(s, "n1", "n3", full), statement(s, "n2", "n3", full))
			Apply(s, &pb.Command{Change: &pb.Command_Stays{Stays: &pb.Stays{Node: "n3", RaftId: 3}}})
			return c
		}, CodeConflict, 0, ""},
		{"of another epoch", func(s *pb.State) *pb.Command {
			c := evict(s, time.Hour, "n3", statement(s, "n1", "n3", full), statement(s, "n2", "n3", full))
			c.GetEvict().BaseEpoch = 7
			return c
		}, CodeStale, 0, ""},
		{"in a later view it may still hold a lease by the one before", func(s *pb.State) *pb.Command {
			s.View.Epoch = 5
			return evict(s, 400*time.Millisecond, "n3", statement(s, "n1", "n3", full), statement(s, "n2", "n3", full))
		}, "", 600 * time.Millisecond, ""},
		{"unless it had confirmed the later view", func(s *pb.State) *pb.Command {
			s.View.Epoch = 5
			c := evict(s, 400*time.Millisecond, "n3", statement(s, "n1", "n3", full), statement(s, "n2", "n3", full))
			c.GetEvict().Evictees[0].ConfirmedView = true
			return c
		}, "", 0, "lease"},
		{"with longer timers that it may still run by", func(s *pb.State) *pb.Command {
			s.LongestPeerinact = durationpb.New(3 * time.Second)
			return evict(s, time.Hour, "n3", statement(s, "n1", "n3", full), statement(s, "n2", "n3", full))
		}, "", 2 * time.Second, ""},
		{"during an announced silence", func(s *pb.State) *pb.Command {
			Apply(s, &pb.Command{Change: &pb.Command_AnnounceSilence{AnnounceSilence: &pb.AnnounceSilence{Node: "n3", RaftId: 3, Length: durationpb.New(5 * time.Second)}}})
			c := evict(s, time.Hour, "n3", statement(s, "n1", "n3", full), statement(s, "n2", "n3", full))
			c.GetEvict().Evictees[0].SilenceAge = durationpb.New(time.Second)
			return c
		}, "", 5 * time.Second, ""},
		{"after its goodbye", func(s *pb.State) *pb.Command {
			a, b := statement(s, "n1", "n3", 0), statement(s, "n2", "n3", 0)
			a.GoodbyeSequence = 100
			return evict(s, time.Hour, "n3", a, b)
		}, "", 0, "guard said so"},
		{"a goodbye that was followed by a later lease proves nothing", func(s *pb.State) *pb.Command {
			a, b := statement(s, "n1", "n3", 0), statement(s, "n2", "n3", 0)
			a.GoodbyeSequence, b.YoungestSequence = 100, 101
			return evict(s, time.Hour, "n3", a, b)
		}, "", time.Second, ""},
		{"a goodbye of another guard of the node proves nothing", func(s *pb.State) *pb.Command {
			a, b := statement(s, "n1", "n3", 0), statement(s, "n2", "n3", 0)
			a.GoodbyeSequence, b.AboutGuardIncarnation = 100, 2
			return evict(s, time.Hour, "n3", a, b)
		}, "", time.Second, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := three(t)
			cmd := c.make(s)
			if c.code != "" {
				refused(t, s, cmd, c.code)
				return
			}
			epoch := s.View.Epoch
			must(t, s, cmd)
			if MemberOf(s, "n3") != nil || s.View.Epoch != epoch+1 {
				t.Fatalf("view %v", s.View)
			}
			fence, place := s.NodeStatus["n3"].Fence, s.GroupStatus["web"].Nodes["n3"]
			if c.wait == 0 {
				if fence != nil || place != nil {
					t.Fatalf("fence %v, place %v: proven, but something still waits", fence, place)
				}
				if last := s.Events[len(s.Events)-1]; !strings.Contains(last.Message, c.proof) {
					t.Fatalf("last event: %s", last.Message)
				}
				return
			}
			if fence == nil || fence.Wait.AsDuration() != c.wait || place == nil {
				t.Fatalf("fence %v, place %v, want a wait of %v and the place kept (S4)", fence, place, c.wait)
			}
			must(t, s, &pb.Command{Change: &pb.Command_Proven{Proven: &pb.Proven{Node: "n3", RaftId: 3, Proof: pb.Proof_PROOF_TIME}}})
			if s.GroupStatus["web"].Nodes["n3"] != nil {
				t.Fatal("the place is still kept after the proof")
			}
		})
	}
}

func TestNotEveryoneIsEvicted(t *testing.T) {
	s := three(t)
	c := evict(s, time.Hour, "n3", statement(s, "n1", "n3", time.Second), statement(s, "n2", "n3", time.Second))
	must(t, s, c)
	// Two are left: a majority of two is two, and the suspected has no say.
	refused(t, s, evict(s, time.Hour, "n2", statement(s, "n1", "n2", time.Hour)), CodeInvalid)
}

func TestRejoin(t *testing.T) {
	s := three(t)
	must(t, s, evict(s, time.Hour, "n3", statement(s, "n1", "n3", 0), statement(s, "n2", "n3", 0)))
	refused(t, s, &pb.Command{Change: &pb.Command_Join{Join: &pb.Join{Node: "n3", RaftId: 3}}}, CodeStale)      // S2
	refused(t, s, &pb.Command{Change: &pb.Command_Join{Join: &pb.Join{Node: "n2", RaftId: 4}}}, CodeConflict)   // still a member
	refused(t, s, &pb.Command{Change: &pb.Command_Join{Join: &pb.Join{Node: "else", RaftId: 4}}}, CodeNotFound) // nobody's
	for _, ended := range []uint64{0, 2, 4} {                                                                   // not said, or of another incarnation
		refused(t, s, &pb.Command{Change: &pb.Command_Join{Join: &pb.Join{Node: "n3", RaftId: 4, GuardIncarnation: 2, EndedRaftId: ended}}}, CodeConflict)
		if s.NodeStatus["n3"].GetFence().GetRaftId() != 3 || s.NextRaftId != 4 {
			t.Fatal("a refused join has lifted the fence")
		}
	}
	must(t, s, &pb.Command{Change: &pb.Command_Join{Join: &pb.Join{Node: "n3", RaftId: 4, GuardIncarnation: 2, EndedRaftId: 3}}})
	if s.NodeStatus["n3"].Fence != nil {
		t.Fatal("a node that joins anew has stopped what ran before")
	}
	refused(t, s, &pb.Command{Change: &pb.Command_Promote{Promote: &pb.Promote{BaseEpoch: 1, Node: "n3", RaftId: 4}}}, CodeStale)
	must(t, s, &pb.Command{Change: &pb.Command_Promote{Promote: &pb.Promote{BaseEpoch: 2, Node: "n3", RaftId: 4}}})
	if m := MemberOf(s, "n3"); m.GetRaftId() != 4 || s.View.Epoch != 3 || s.GroupStatus["web"].Nodes["n3"].GetProbed() {
		t.Fatalf("member %v in epoch %d", m, s.View.Epoch)
	}
	// What the old incarnation says does not count.
	refused(t, s, &pb.Command{Request: 9, Change: &pb.Command_Report{Report: &pb.Report{Node: "n3", RaftId: 3}}}, CodeStale)
}

func TestLeaveWaitsForTheGroups(t *testing.T) {
	s := three(t)
	leave := &pb.Command{Change: &pb.Command_Leave{Leave: &pb.Leave{BaseEpoch: 1, Node: "n2"}}}
	refused(t, s, leave, CodeStale) // nobody asked for it
	must(t, s, &pb.Command{Change: &pb.Command_Operate{Operate: &pb.Operate{Operation: &v1.Operation{Kind: v1.OperationKind_OPERATION_KIND_NODE_STOP, Node: "n2"}}}})
	refused(t, s, leave, CodeConflict) // not probed: it may run there
	report(t, s, "n2", v1.ResourceState_RESOURCE_STATE_OFFLINE, 10)
	must(t, s, leave)
	if op := s.Operations[0]; op.State != v1.OperationState_OPERATION_STATE_DONE || s.NodeStatus["n2"].Phase != pb.NodePhase_NODE_PHASE_DOWN {
		t.Fatalf("operation %v, phase %v", op, s.NodeStatus["n2"].Phase)
	}
}

func report(t *testing.T, s *pb.State, node string, st v1.ResourceState, request uint64) {
	t.Helper()
	must(t, s, &pb.Command{Request: request, Change: &pb.Command_Report{Report: &pb.Report{Node: node, RaftId: MemberOf(s, node).GetRaftId(), Groups: []*pb.GroupReport{{
		Group: "web", Intent: s.GroupStatus["web"].Nodes[node].Intent,
		Resources: map[string]*v1.ResourceStatus{"file": {State: st, Activity: v1.ResourceActivity_RESOURCE_ACTIVITY_NONE}},
	}}}}})
}

func TestReportsInOrder(t *testing.T) {
	s := three(t)
	report(t, s, "n1", v1.ResourceState_RESOURCE_STATE_ONLINE, 20)
	refused(t, s, &pb.Command{Request: 19, Change: &pb.Command_Report{Report: &pb.Report{Node: "n1", RaftId: 1}}}, CodeStale)
	on := s.GroupStatus["web"].Nodes["n1"]
	if !on.Probed || Settled(s, s.Groups["web"], on) {
		t.Fatalf("online, but settled or not probed: %v", on)
	}
	report(t, s, "n1", v1.ResourceState_RESOURCE_STATE_OFFLINE, 21)
	if !Settled(s, s.Groups["web"], on) {
		t.Fatalf("offline, but not settled: %v", on)
	}
	must(t, s, &pb.Command{Change: &pb.Command_Plan{Plan: &pb.Plan{BasePlanRevision: s.PlanRevision, Orders: []*pb.Order{{Group: "web", Node: "n1", Want: v1.Want_WANT_OFFLINE}}}}})
	if Settled(s, s.Groups["web"], on) {
		t.Fatal("settled before the newest order was seen")
	}
}

func TestStalePlanAndConfiguration(t *testing.T) {
	s := three(t)
	plan := &pb.Command{Change: &pb.Command_Plan{Plan: &pb.Plan{BasePlanRevision: s.PlanRevision}}}
	conf := &pb.Command{Change: &pb.Command_Configure{Configure: &pb.Configure{BaseRevision: s.ConfigRevision, Configuration: Configuration(s)}}}
	must(t, s, &pb.Command{Change: &pb.Command_SetFrozen{SetFrozen: &pb.SetFrozen{Group: "web", Frozen: true}}})
	refused(t, s, plan, CodeStale) // S5
	refused(t, s, conf, CodeStale) // S6
}

func TestConfigureKeepsWhatIsInUse(t *testing.T) {
	s := three(t)
	report(t, s, "n1", v1.ResourceState_RESOURCE_STATE_ONLINE, 1)
	try := func(change func(*v1.Configuration)) *pb.Command {
		c := Configuration(s)
		change(c)
		return &pb.Command{Change: &pb.Command_Configure{Configure: &pb.Configure{BaseRevision: s.ConfigRevision, Configuration: c}}}
	}
	refused(t, s, try(func(c *v1.Configuration) { c.Groups = nil }), CodeConflict)
	refused(t, s, try(func(c *v1.Configuration) { c.Nodes = c.Nodes[:2] }), CodeConflict)
	refused(t, s, try(func(c *v1.Configuration) { c.Groups[0].Resources[0].Name = "other" }), CodeConflict)
	refused(t, s, try(func(c *v1.Configuration) { c.Types = nil }), CodeNotFound)
	must(t, s, try(func(c *v1.Configuration) {
		c.Cluster.Name, c.Cluster.Uuid = "another", "another"
		c.Cluster.Timers = &v1.Timers{Peerinact: durationpb.New(300 * time.Millisecond)}
	}))
	if s.Cluster.Name != "c" || s.LongestPeerinact.AsDuration() != time.Second || Peerinact(s) != 300*time.Millisecond {
		t.Fatalf("cluster %v, longest peerinact %v", s.Cluster, s.LongestPeerinact.AsDuration())
	}
	must(t, s, &pb.Command{Change: &pb.Command_TimersSettled{TimersSettled: &pb.TimersSettled{ConfigRevision: s.ConfigRevision}}})
	if s.LongestPeerinact.AsDuration() != 300*time.Millisecond {
		t.Fatal("settled timers still wait for the longer ones")
	}
}

func TestRepeatedRequestChangesNothing(t *testing.T) {
	s := three(t)
	c := &pb.Command{Proposer: "n1", Request: 5, Change: &pb.Command_Operate{Operate: &pb.Operate{Operation: &v1.Operation{
		Kind: v1.OperationKind_OPERATION_KIND_GROUP_ONLINE, Group: "web"}}}}
	must(t, s, c)
	before := Digest(s)
	must(t, s, c)
	if Digest(s) != before {
		t.Fatal("a command that was proposed twice was carried out twice")
	}
}

func TestColdStart(t *testing.T) {
	s := three(t)
	started := func() { s.GroupStatus["web"].Instances = map[string]*pb.Instance{"": {AutoStarted: true}} }
	started()
	say := func(node string, guard uint64) *pb.Command {
		return &pb.Command{Change: &pb.Command_ClusterStarted{ClusterStarted: &pb.ClusterStarted{Node: node, RaftId: MemberOf(s, node).RaftId, GuardIncarnation: guard}}}
	}
	must(t, s, say("n1", 1))
	if Book(s.GroupStatus["web"], "").GetAutoStarted() {
		t.Fatal("a cold start must let groups start by their AutoStartList")
	}
	started()
	must(t, s, say("n2", 1)) // the same start, said by another node
	if !Book(s.GroupStatus["web"], "").GetAutoStarted() {
		t.Fatal("one cold start counted twice")
	}
	refused(t, s, say("n1", 1), CodeStale)
}

// Equal logs make equal states, whatever is in them; nothing panics, and what
// is refused leaves no trace.
func TestApplyIsDeterministic(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := three(t)
		b := Clone(a)
		for i := range rapid.IntRange(1, 40).Draw(t, "commands") {
			c := anyCommand(t, a, uint64(i+1))
			x := Apply(a, proto.CloneOf(c))
			y := Apply(b, proto.CloneOf(c))
			if (x.Refused == nil) != (y.Refused == nil) || Digest(a) != Digest(b) {
				t.Fatalf("states differ after %v", c)
			}
			back, err := Unmarshal(Marshal(a))
			if err != nil || Digest(back) != Digest(a) {
				t.Fatalf("does not survive a snapshot: %v", err)
			}
			if len(a.View.Members) == 0 {
				t.Fatal("the view is empty")
			}
		}
	})
}

func anyCommand(t *rapid.T, s *pb.State, request uint64) *pb.Command {
	node := rapid.SampledFrom([]string{"n1", "n2", "n3", "n9", ""}).Draw(t, "node")
	other := rapid.SampledFrom([]string{"n1", "n2", "n3"}).Draw(t, "other")
	group := rapid.SampledFrom([]string{"web", "none"}).Draw(t, "group")
	id := rapid.Uint64Range(0, 8).Draw(t, "id")
	epoch := s.View.Epoch + rapid.Uint64Range(0, 1).Draw(t, "ahead")
	d := durationpb.New(time.Duration(rapid.IntRange(-1, 3000).Draw(t, "ms")) * time.Millisecond)
	c := &pb.Command{Format: 1, Proposer: "p", Request: request, TimeMs: int64(request)}
	switch rapid.IntRange(0, 26).Draw(t, "kind") {
	case 0:
		c.Change = &pb.Command_GuardStarted{GuardStarted: &pb.GuardStarted{Node: node, RaftId: id, GuardIncarnation: id, Rebooted: id%2 == 0}}
	case 1:
		var sts []*pb.Statement
		for _, v := range []string{"n1", "n2", "n3"} {
			if MemberOf(s, v) != nil && MemberOf(s, other) != nil {
				st := statement(s, v, other, d.AsDuration())
				st.GoodbyeSequence = id * 20
				sts = append(sts, st)
			}
		}
		c = evict(s, d.AsDuration(), other, sts...)
		c.Proposer, c.Request = "p", request
	case 2:
		c.Change = &pb.Command_Stays{Stays: &pb.Stays{Node: node, RaftId: id}}
	case 3:
		c.Change = &pb.Command_Leave{Leave: &pb.Leave{BaseEpoch: epoch, Node: node, ResignedRaftId: id % 4}}
	case 4:
		c.Change = &pb.Command_Join{Join: &pb.Join{Node: node, RaftId: s.NextRaftId, GuardIncarnation: id, EndedRaftId: id, Detached: id%2 == 0}}
	case 5:
		c.Change = &pb.Command_Promote{Promote: &pb.Promote{BaseEpoch: epoch, Node: node, RaftId: s.Learners[node].GetRaftId()}}
	case 6:
		c.Change = &pb.Command_Proven{Proven: &pb.Proven{Node: node, RaftId: id, Proof: pb.Proof_PROOF_TIME}}
	case 7:
		c.Change = &pb.Command_Report{Report: &pb.Report{Node: other, RaftId: MemberOf(s, other).GetRaftId(), Groups: []*pb.GroupReport{{Group: group, Intent: id,
			Resources: map[string]*v1.ResourceStatus{"file": {State: v1.ResourceState(id % 5)}, "none": nil}}}}}
	case 8:
		c.Change = &pb.Command_Plan{Plan: &pb.Plan{BasePlanRevision: s.PlanRevision, Orders: []*pb.Order{{Group: group, Node: node, Want: v1.Want(id % 4)}},
			GroupChanges: []*pb.GroupChange{{Group: group, Book: &pb.Instance{Active: node}, Nodes: []string{node, other}, Faulted: []string{other}}}, Decisions: []*v1.Decision{{Group: group}}, Events: []*v1.Event{{}}}}
	case 9:
		c.Change = &pb.Command_Operate{Operate: &pb.Operate{Operation: &v1.Operation{Kind: v1.OperationKind(id), Group: group, Node: node}}}
	case 10:
		c.Change = &pb.Command_SetFrozen{SetFrozen: &pb.SetFrozen{Group: group, Frozen: id%2 == 0}}
	case 11:
		c.Change = &pb.Command_Clear{Clear: &pb.Clear{Group: group, Node: node}}
	case 12:
		c.Change = &pb.Command_Flush{Flush: &pb.Flush{Group: group, Node: node}}
	case 13:
		c.Change = &pb.Command_AnnounceSilence{AnnounceSilence: &pb.AnnounceSilence{Node: node, RaftId: id, Length: d}}
	case 14:
		c.Change = &pb.Command_ClusterStarted{ClusterStarted: &pb.ClusterStarted{Node: other, RaftId: MemberOf(s, other).GetRaftId(), GuardIncarnation: MemberOf(s, other).GetGuardIncarnation()}}
	case 15:
		conf := Configuration(s)
		if id%2 == 0 {
			conf.Groups = nil
		}
		c.Change = &pb.Command_Configure{Configure: &pb.Configure{BaseRevision: s.ConfigRevision, Configuration: conf}}
	case 16:
		c.Change = &pb.Command_Plan{Plan: &pb.Plan{BasePlanRevision: s.PlanRevision, ClockMs: int64(id), Triggers: []*pb.TriggerRun{{Trigger: "sysup", Node: other}, {Trigger: "preonline", Node: other, Group: group, Blocking: true}},
			GroupChanges: []*pb.GroupChange{{Group: group, Book: &pb.Instance{}, NewTrigger: uint32(id % 4)}}, TriggersSeen: []uint64{id}, Places: []*pb.PlaceChange{{Group: group, Node: other, Disabled: "d"}},
			Flags: []*pb.GroupFlags{{Group: group, Unfreeze: true}}, Resets: map[string]string{other: "r"}, Clears: []*pb.Clear{{Group: group}}, NodesUnfrozen: []string{other}}}
	case 17:
		c.Change = &pb.Command_TriggerDone{TriggerDone: &pb.TriggerDone{Number: id, Node: other, RaftId: MemberOf(s, other).GetRaftId(), ExitStatus: int32(id) - 1, Message: "\xff"}}
	case 18:
		c.Change = &pb.Command_SetSignal{SetSignal: &pb.SetSignal{Name: group, Node: node, Value: &pb.SignalValue{State: v1.SignalState(id), TimeToLive: d}}}
	case 19:
		c.Change = &pb.Command_SetLoad{SetLoad: &pb.SetLoad{Node: node, Load: map[string]int64{group: int64(id)}}}
	case 20:
		c.Change = &pb.Command_Enable{Enable: &pb.Enable{Group: group, Node: node, AutoEnable: id%2 == 0, Disabled: map[bool]string{true: "d"}[id%3 == 0]}}
	case 21:
		c.Change = &pb.Command_SetSwitching{SetSwitching: &pb.SetSwitching{Group: group, Off: map[bool]string{true: "off"}[id%2 == 0]}}
	case 22:
		c.Change = &pb.Command_ClearAdminWait{ClearAdminWait: &pb.ClearAdminWait{Group: group, Node: node, Fault: id%2 == 0}}
	case 23:
		c.Change = &pb.Command_SetMaintenance{SetMaintenance: &pb.SetMaintenance{Group: group, Node: node}}
	case 24:
		c.Change = &pb.Command_OperationDone{OperationDone: &pb.OperationDone{Id: id, Node: other, RaftId: MemberOf(s, other).GetRaftId()}}
	case 25:
		c.Change = &pb.Command_Operate{Operate: &pb.Operate{Operation: &v1.Operation{Kind: v1.OperationKind_OPERATION_KIND_NODE_STOP, Node: other, Detach: true}}}
	case 26:
		c.Change = &pb.Command_SetFrozen{SetFrozen: &pb.SetFrozen{Node: other, Frozen: id%3 > 0, Evacuate: id%2 == 0, Temporary: map[bool]*pb.Freeze{true: {Reason: "r"}}[id%3 > 1]}}
	}
	return c
}

// FuzzCommand: bytes from a log or a peer never make Apply panic.
func FuzzCommand(f *testing.F) {
	s := three(f)
	f.Add(Marshal(evict(s, time.Second, "n3", statement(s, "n1", "n3", 0), statement(s, "n2", "n3", 0))))
	f.Add(Marshal(&pb.Command{Change: &pb.Command_Plan{Plan: &pb.Plan{Orders: []*pb.Order{{Group: "web", Node: "n1"}}}}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := &pb.Command{}
		if proto.Unmarshal(b, c) != nil {
			return
		}
		s := three(t)
		Apply(s, c)
		if _, err := Unmarshal(Marshal(s)); err != nil {
			t.Fatal(err)
		}
	})
}
