package state

import (
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	pb "github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// powered is a cluster of three whose group web requires takeover, and plain does not;
// both are wanted online on n3, which has fence levels.
func powered(t *testing.T, takeover v1.Takeover) *pb.State {
	t.Helper()
	s := three(t)
	s.Groups["web"].Takeover = takeover
	s.Groups["plain"] = &v1.Group{Name: "plain", SystemList: []string{"n1", "n2", "n3"}, Resources: []*v1.Resource{{Name: "file2", Type: "FileOnOff"}}}
	s.Nodes["n3"].FenceLevels = []*v1.FenceLevel{{Devices: []string{"pdu"}}}
	fitGroupStatus(s)
	for _, g := range []string{"web", "plain"} {
		s.GroupStatus[g].Nodes["n3"].Want = v1.Want_WANT_ONLINE
	}
	return s
}

func lose(t *testing.T, s *pb.State, age time.Duration) {
	t.Helper()
	must(t, s, evict(s, time.Hour, "n3", statement(s, "n1", "n3", age), statement(s, "n2", "n3", age)))
}

func places(s *pb.State, node string) (groups []string) {
	for _, name := range SortedKeys(s.GroupStatus) {
		if s.GroupStatus[name].Nodes[node] != nil {
			groups = append(groups, name)
		}
	}
	return groups
}

func start(*pb.State) *pb.Command {
	return &pb.Command{TimeMs: 1000, Change: &pb.Command_FenceStarted{FenceStarted: &pb.FenceStarted{Node: "n3", RaftId: 3, By: "n1", ByRaftId: 1}}}
}

func done(number uint64, r v1.FenceResult) *pb.Command {
	return &pb.Command{TimeMs: 2000, Change: &pb.Command_FenceDone{FenceDone: &pb.FenceDone{Number: number, Result: r, Level: 1, Message: "device pdu has switched it off"}}}
}

func lastEvents(s *pb.State) string {
	var codes []string
	for _, e := range s.Events {
		codes = append(codes, e.GetCode())
	}
	return strings.Join(codes, " ")
}

// Time is enough for one group, and not for the other.
func TestPowerIsRequired(t *testing.T) {
	s := powered(t, v1.Takeover_TAKEOVER_POWER)
	lose(t, s, time.Hour)
	f := s.NodeStatus["n3"].Fence
	if f == nil || f.Proven != pb.Proof_PROOF_TIME || !slices.Equal(places(s, "n3"), []string{"web"}) {
		t.Fatalf("fence %v, places %v", f, places(s, "n3"))
	}
	if !PowerWanted(s, "n3") {
		t.Error("nobody is to switch it off")
	}
	refused(t, s, &pb.Command{Change: &pb.Command_Proven{Proven: &pb.Proven{Node: "n3", RaftId: 3, Proof: pb.Proof_PROOF_TIME}}}, CodeStale)
	must(t, s, start(s))
	refused(t, s, start(s), CodeStale) // somebody is at it
	must(t, s, done(1, v1.FenceResult_FENCE_RESULT_FAILED))
	if !PowerWanted(s, "n3") || s.NodeStatus["n3"].Fence == nil {
		t.Fatal("after a failure nothing more is to be done")
	}
	must(t, s, start(s))
	must(t, s, done(2, v1.FenceResult_FENCE_RESULT_LIED))
	if s.NodeStatus["n3"].Fence == nil || len(places(s, "n3")) != 1 {
		t.Fatal("a lie is believed")
	}
	must(t, s, start(s))
	refused(t, s, done(2, v1.FenceResult_FENCE_RESULT_OFF), CodeStale)
	refused(t, s, done(3, v1.FenceResult_FENCE_RESULT_CONFIRMED), CodeInvalid)
	must(t, s, done(3, v1.FenceResult_FENCE_RESULT_OFF))
	if s.NodeStatus["n3"].Fence != nil || len(places(s, "n3")) != 0 {
		t.Fatalf("fence %v, places %v", s.NodeStatus["n3"].Fence, places(s, "n3"))
	}
	op := s.FenceOperations[2]
	if op.By != "n1" || op.Result != v1.FenceResult_FENCE_RESULT_OFF || op.StartedMs != 1000 || op.EndedMs != 2000 || op.Level != 1 || len(s.FenceOperations) != 3 {
		t.Errorf("history %v", s.FenceOperations)
	}
	if got, want := lastEvents(s), "node.evicted node.unproven fence.started fence.failed fence.started fence.lied fence.started fence.done node.stopped"; !strings.HasSuffix(got, want) {
		t.Errorf("events %s", got)
	}
}

// Switched off before the time is over: nobody waits for the rest of it.
func TestPowerBeforeTime(t *testing.T) {
	s := powered(t, v1.Takeover_TAKEOVER_POWER)
	lose(t, s, 0)
	if f := s.NodeStatus["n3"].Fence; f.GetProven() != pb.Proof_PROOF_UNSPECIFIED || len(places(s, "n3")) != 2 {
		t.Fatalf("fence %v, places %v", f, places(s, "n3"))
	}
	must(t, s, start(s))
	must(t, s, done(1, v1.FenceResult_FENCE_RESULT_OFF))
	if s.NodeStatus["n3"].Fence != nil || len(places(s, "n3")) != 0 {
		t.Fatal("it is still waited for")
	}
	refused(t, s, &pb.Command{Change: &pb.Command_Proven{Proven: &pb.Proven{Node: "n3", RaftId: 3, Proof: pb.Proof_PROOF_TIME}}}, CodeStale)
}

func TestPowerIsNotWanted(t *testing.T) {
	for name, change := range map[string]func(*pb.State){
		"time suffices":      func(s *pb.State) { s.Groups["web"].Takeover = v1.Takeover_TAKEOVER_TIME },
		"nothing is set":     func(s *pb.State) { s.Groups["web"].Takeover = v1.Takeover_TAKEOVER_UNSPECIFIED },
		"it never ran there": func(s *pb.State) { offlineOn(s, "web", "n3") },
	} {
		t.Run(name, func(t *testing.T) {
			s := powered(t, v1.Takeover_TAKEOVER_POWER)
			change(s)
			lose(t, s, time.Hour)
			if s.NodeStatus["n3"].Fence != nil || len(places(s, "n3")) != 0 || PowerWanted(s, "n3") {
				t.Errorf("fence %v, places %v", s.NodeStatus["n3"].Fence, places(s, "n3"))
			}
			refused(t, s, start(s), CodeStale)
		})
	}
	t.Run("no levels", func(t *testing.T) {
		s := powered(t, v1.Takeover_TAKEOVER_STORAGE)
		s.Nodes["n3"].FenceLevels = nil
		lose(t, s, time.Hour)
		if s.NodeStatus["n3"].Fence == nil || PowerWanted(s, "n3") {
			t.Errorf("fence %v", s.NodeStatus["n3"].Fence)
		}
		refused(t, s, start(s), CodeStale)
	})
}

func offlineOn(s *pb.State, group, node string) {
	on := s.GroupStatus[group].Nodes[node]
	on.Want, on.ReportedIntent = v1.Want_WANT_NOTHING, on.Intent
	on.Resources = map[string]*v1.ResourceStatus{}
	for _, r := range s.Groups[group].Resources {
		on.Resources[r.Name] = &v1.ResourceStatus{State: v1.ResourceState_RESOURCE_STATE_OFFLINE}
	}
}

// Who requires less by now waits no more.
func TestRequirementIsLowered(t *testing.T) {
	s := powered(t, v1.Takeover_TAKEOVER_POWER)
	lose(t, s, time.Hour)
	cfg := Configuration(s)
	for _, g := range cfg.Groups {
		g.Takeover = v1.Takeover_TAKEOVER_TIME
	}
	must(t, s, &pb.Command{Change: &pb.Command_Configure{Configure: &pb.Configure{BaseRevision: s.ConfigRevision, Configuration: cfg}}})
	if s.NodeStatus["n3"].Fence != nil || len(places(s, "n3")) != 0 {
		t.Errorf("fence %v, places %v", s.NodeStatus["n3"].Fence, places(s, "n3"))
	}
}

func TestConfirmDown(t *testing.T) {
	confirm := func(node string, id uint64) *pb.Command {
		return &pb.Command{TimeMs: 5, Change: &pb.Command_ConfirmDown{ConfirmDown: &pb.ConfirmDown{Node: node, RaftId: id, By: "user alice"}}}
	}
	s := powered(t, v1.Takeover_TAKEOVER_POWER)
	refused(t, s, confirm("n9", 1), CodeNotFound)
	refused(t, s, confirm("n3", 3), CodeConflict) // a member
	lose(t, s, time.Hour)
	refused(t, s, confirm("n3", 2), CodeStale)
	must(t, s, start(s))
	must(t, s, confirm("n3", 3))
	if s.NodeStatus["n3"].Fence != nil || len(places(s, "n3")) != 0 {
		t.Errorf("fence %v", s.NodeStatus["n3"].Fence)
	}
	if op := s.FenceOperations[1]; op.By != "user alice" || op.Result != v1.FenceResult_FENCE_RESULT_CONFIRMED {
		t.Errorf("history %v", s.FenceOperations)
	}
	refused(t, s, confirm("n3", 3), CodeConflict)
	// The attempt that was under way ends as it does.
	must(t, s, done(1, v1.FenceResult_FENCE_RESULT_OFF))
}

func TestFenceHistoryIsBounded(t *testing.T) {
	s := powered(t, v1.Takeover_TAKEOVER_POWER)
	lose(t, s, time.Hour)
	for i := range uint64(2 * keepFences) {
		must(t, s, start(s))
		c := done(i+1, v1.FenceResult_FENCE_RESULT_FAILED)
		c.GetFenceDone().Message = strings.Repeat("ü", maxFenceMessage)
		must(t, s, c)
	}
	if n := len(s.FenceOperations); n < keepFences || n > keepFences+keepFences/4+1 {
		t.Errorf("%d are kept", n)
	}
	if m := s.FenceOperations[0].Message; len(m) > maxFenceMessage || !strings.HasPrefix(m, "ü") {
		t.Errorf("a message of %d bytes", len(m))
	}
}

// The time-out of an armed watchdog is part of the wait, and of no goodbye.
func TestWatchdogIsWaitedFor(t *testing.T) {
	s := three(t)
	full := Peerinact(s)
	tell := func(incarnation uint64, d time.Duration, rebooted bool) *pb.Command {
		c := &pb.GuardStarted{Node: "n3", RaftId: 3, GuardIncarnation: incarnation, Rebooted: rebooted}
		if d > 0 {
			c.Watchdog = durationpb.New(d)
		}
		return &pb.Command{Change: &pb.Command_GuardStarted{GuardStarted: c}}
	}
	must(t, s, tell(1, 4*time.Second, false))
	refused(t, s, tell(1, 4*time.Second, false), CodeStale)
	refused(t, s, tell(0, 9*time.Second, false), CodeStale)
	wait := func() time.Duration {
		v, err := CheckEvict(s, evict(s, time.Hour, "n3", statement(s, "n1", "n3", full), statement(s, "n2", "n3", full)).GetEvict())
		if err != nil {
			t.Fatal(err)
		}
		if v[0].Proof != pb.Proof_PROOF_UNSPECIFIED {
			return 0
		}
		return v[0].Wait
	}
	if w := wait(); w != 4*time.Second {
		t.Errorf("with a watchdog of 4s it is waited for %v", w)
	}
	must(t, s, tell(2, 0, false)) // the next guard has not said anything of it yet
	if w := wait(); w != 4*time.Second {
		t.Errorf("after a restart of guard it is waited for %v", w)
	}
	must(t, s, tell(2, 2*time.Second, false))
	if w := wait(); w != 2*time.Second {
		t.Errorf("after a change to 2s it is waited for %v", w)
	}
	must(t, s, tell(3, 0, true)) // the machine was restarted, without one
	if w := wait(); w != 0 {
		t.Errorf("without a watchdog it is waited for %v", w)
	}
	must(t, s, tell(3, time.Second, true))
	must(t, s, tell(3, 0, true)) // it says that it has none any more
	if w := wait(); w != 0 {
		t.Errorf("after it was disarmed it is waited for %v", w)
	}
	must(t, s, tell(3, time.Second, true))
	bye := []*pb.Statement{statement(s, "n1", "n3", full), statement(s, "n2", "n3", full)}
	for _, st := range bye {
		st.AboutGuardIncarnation, st.GoodbyeSequence = 3, 100
	}
	v, err := CheckEvict(s, evict(s, time.Hour, "n3", bye...).GetEvict())
	if err != nil || v[0].Proof != pb.Proof_PROOF_GOODBYE {
		t.Errorf("verdict %v, %v", v, err)
	}
}
