package state

import (
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	pb "github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

func stopDetached(node string) *pb.Command {
	return operate(&v1.Operation{Kind: v1.OperationKind_OPERATION_KIND_NODE_STOP, Node: node, Detach: true})
}

// detached is a cluster that n3 has left with web running there.
func detached(t *testing.T) *pb.State {
	t.Helper()
	s := three(t)
	online(t, s, "n3", 1)
	must(t, s, stopDetached("n3"))
	must(t, s, &pb.Command{Change: &pb.Command_Leave{Leave: &pb.Leave{BaseEpoch: 1, Node: "n3"}}})
	return s
}

func TestDetach(t *testing.T) {
	s := detached(t)
	on, st := s.GroupStatus["web"].Nodes["n3"], s.NodeStatus["n3"]
	if !on.GetDetached() || on.GetWant() != v1.Want_WANT_ONLINE || st.Fence.GetRaftId() != 3 || !st.Detach || st.Phase != pb.NodePhase_NODE_PHASE_DOWN {
		t.Fatalf("%v, %v", on, st)
	}
	if op := s.Operations[0]; op.State != v1.OperationState_OPERATION_STATE_DONE {
		t.Fatalf("%v", op)
	}
	// No time, and no storage, makes it free for others.
	for _, p := range []pb.Proof{pb.Proof_PROOF_STORAGE, pb.Proof_PROOF_TIME} {
		Apply(s, &pb.Command{Change: &pb.Command_Proven{Proven: &pb.Proven{Node: "n3", RaftId: 3, Proof: p}}})
		if s.GroupStatus["web"].Nodes["n3"] == nil {
			t.Fatalf("%v: somebody else would start it", p)
		}
	}
	// Nobody switches it off for that.
	s.Nodes["n3"].FenceLevels = []*v1.FenceLevel{{Devices: []string{"d"}}}
	if PowerWanted(s, "n3") {
		t.Fatal("a node that was detached on purpose would be switched off")
	}
	// Nobody else joins by its name, and it can't be removed.
	refused(t, s, &pb.Command{Change: &pb.Command_RemoveNode{RemoveNode: &pb.RemoveNode{Node: "n3", FromGroups: true}}}, CodeConflict)
}

func TestDetachedUntil(t *testing.T) {
	confirm := &pb.Command{Change: &pb.Command_ConfirmDown{ConfirmDown: &pb.ConfirmDown{Node: "n3", RaftId: 3, By: "root"}}}
	join := func(detached bool) *pb.Command {
		return &pb.Command{Change: &pb.Command_Join{Join: &pb.Join{Node: "n3", RaftId: 4, GuardIncarnation: 2, EndedRaftId: 3, Detached: detached}}}
	}
	free := func(t *testing.T, s *pb.State) {
		t.Helper()
		if st := s.NodeStatus["n3"]; s.GroupStatus["web"].Nodes["n3"] != nil || st.Fence != nil || st.Detach {
			t.Fatalf("%v, %v", s.GroupStatus["web"].Nodes["n3"], st)
		}
	}
	t.Run("an administrator confirms that it is down", func(t *testing.T) {
		s := detached(t)
		must(t, s, confirm)
		free(t, s)
		// Then what it still runs has to be stopped before it may join.
		refused(t, s, join(true), CodeConflict)
		must(t, s, join(false))
	})
	t.Run("an administrator says that the group does not run there", func(t *testing.T) {
		s := detached(t)
		must(t, s, &pb.Command{Change: &pb.Command_Enable{Enable: &pb.Enable{Group: "web", Node: "n3", AutoEnable: true}}})
		free(t, s)
	})
	t.Run("it joins anew and runs nothing", func(t *testing.T) {
		s := detached(t)
		must(t, s, join(false))
		free(t, s)
	})
	t.Run("its machine is restarted while it joins", func(t *testing.T) {
		s := detached(t)
		must(t, s, join(true))
		must(t, s, &pb.Command{Change: &pb.Command_GuardStarted{GuardStarted: &pb.GuardStarted{Node: "n3", RaftId: 4, GuardIncarnation: 3, Rebooted: true}}})
		free(t, s)
	})
	t.Run("its machine was restarted after it had joined", func(t *testing.T) {
		s := detached(t)
		must(t, s, join(true))
		must(t, s, &pb.Command{Change: &pb.Command_Promote{Promote: &pb.Promote{BaseEpoch: 2, Node: "n3", RaftId: 4}}})
		must(t, s, &pb.Command{Change: &pb.Command_GuardStarted{GuardStarted: &pb.GuardStarted{Node: "n3", RaftId: 4, GuardIncarnation: 3, Rebooted: true}}})
		if on := s.GroupStatus["web"].Nodes["n3"]; on.GetDetached() || on.GetWant() != v1.Want_WANT_NOTHING {
			t.Fatalf("%v", on)
		}
	})
	t.Run("it comes back with it", func(t *testing.T) {
		s := detached(t)
		must(t, s, join(true))
		refused(t, s, confirm, CodeConflict)
		refused(t, s, &pb.Command{Change: &pb.Command_Enable{Enable: &pb.Enable{Group: "web", Node: "n3", AutoEnable: true}}}, CodeConflict)
		if !s.GroupStatus["web"].Nodes["n3"].GetDetached() || s.NodeStatus["n3"].Fence.GetRaftId() != 3 {
			t.Fatal("it is not known yet that guard stops it at the end of a lease")
		}
		must(t, s, &pb.Command{Change: &pb.Command_Promote{Promote: &pb.Promote{BaseEpoch: 2, Node: "n3", RaftId: 4}}})
		on, st := s.GroupStatus["web"].Nodes["n3"], s.NodeStatus["n3"]
		if !on.GetDetached() || on.GetProbed() || on.GetReportedIntent() != 0 || on.GetWant() != v1.Want_WANT_ONLINE || st.Fence != nil || st.Detach {
			t.Fatalf("%v, %v", on, st)
		}
		t.Run("and is lost before it has taken it up", func(t *testing.T) {
			s := Clone(s)
			must(t, s, evict(s, time.Hour, "n3", statement(s, "n1", "n3", time.Hour), statement(s, "n2", "n3", time.Hour)))
			if s.GroupStatus["web"].Nodes["n3"] == nil || s.NodeStatus["n3"].Fence.GetRaftId() != 4 {
				t.Fatal("its guard never held a lease: that time has passed proves nothing")
			}
			s.Nodes["n3"].FenceLevels = []*v1.FenceLevel{{Devices: []string{"d"}}}
			if !PowerWanted(s, "n3") {
				t.Fatal("a node that was lost is switched off if that helps")
			}
			c := join(true)
			c.GetJoin().EndedRaftId, c.GetJoin().RaftId = 4, 5
			must(t, s, c) // it may come back with it once more
		})
		must(t, s, &pb.Command{Request: 9, Change: &pb.Command_Report{Report: &pb.Report{Node: "n3", RaftId: 4, Groups: []*pb.GroupReport{{Group: "web",
			Resources: map[string]*v1.ResourceStatus{"file": {State: v1.ResourceState_RESOURCE_STATE_ONLINE}}}}}}})
		if !on.GetDetached() {
			t.Fatal("not all of it has been looked at")
		}
		report(t, s, "n3", v1.ResourceState_RESOURCE_STATE_ONLINE, 10)
		if on.GetDetached() || !on.GetProbed() {
			t.Fatalf("%v", on)
		}
		must(t, s, evict(s, time.Hour, "n3", statement(s, "n1", "n3", time.Hour), statement(s, "n2", "n3", time.Hour)))
		if s.GroupStatus["web"].Nodes["n3"] != nil {
			t.Fatal("it was under a lease: time is a proof again")
		}
	})
}

func TestDetachIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		code string
		make func(*pb.State) *pb.Command
	}{
		"with groups that move away": {CodeInvalid, func(s *pb.State) *pb.Command {
			return operate(&v1.Operation{Kind: v1.OperationKind_OPERATION_KIND_NODE_STOP, Node: "n3", Detach: true, Evacuate: true})
		}},
		"of a group that is on its way": {CodeConflict, func(s *pb.State) *pb.Command {
			s.GroupStatus["web"].Nodes["n3"].Resources["file"].Activity = v1.ResourceActivity_RESOURCE_ACTIVITY_ONLINE
			return stopDetached("n3")
		}},
		"of one that was just ordered": {CodeConflict, func(s *pb.State) *pb.Command {
			s.GroupStatus["web"].Nodes["n3"].Intent++
			return stopDetached("n3")
		}},
		"of one that can't be taken offline": {CodeConflict, func(s *pb.State) *pb.Command {
			s.GroupStatus["web"].Nodes["n3"].Resources["file"].UnableToOffline = true
			return stopDetached("n3")
		}},
		"in maintenance": {CodeConflict, func(s *pb.State) *pb.Command {
			s.GroupStatus["web"].Maintenance = "n3"
			return stopDetached("n3")
		}},
		"of a system multi-node package": {CodeConflict, func(s *pb.State) *pb.Command {
			s.Groups["web"].Package = &v1.Package{Type: v1.PackageType_PACKAGE_TYPE_SYSTEM_MULTI_NODE}
			return stopDetached("n3")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := three(t)
			online(t, s, "n3", 1)
			refused(t, s, c.make(s), c.code)
		})
	}
}

func TestDetachWithNothing(t *testing.T) {
	s := three(t)
	report(t, s, "n3", v1.ResourceState_RESOURCE_STATE_OFFLINE, 1)
	must(t, s, stopDetached("n3"))
	must(t, s, &pb.Command{Change: &pb.Command_Leave{Leave: &pb.Leave{BaseEpoch: 1, Node: "n3"}}})
	if st := s.NodeStatus["n3"]; st.Fence != nil || st.Detach || s.GroupStatus["web"].Nodes["n3"] != nil {
		t.Fatalf("%v", st)
	}
}

// The detach of the last node leaves no view behind that could tell: its guard does.
func TestDetachOfTheLastNode(t *testing.T) {
	s := three(t)
	online(t, s, "n3", 1)
	must(t, s, stopDetached("n3"))
	must(t, s, &pb.Command{Change: &pb.Command_GuardStarted{GuardStarted: &pb.GuardStarted{Node: "n3", RaftId: 3, GuardIncarnation: 2}}})
	on := s.GroupStatus["web"].Nodes["n3"]
	if !on.Detached || on.ReportedIntent != 0 || s.NodeStatus["n3"].Detach || s.NodeStatus["n3"].Phase != pb.NodePhase_NODE_PHASE_RUNNING {
		t.Fatalf("%v", on)
	}
	report(t, s, "n3", v1.ResourceState_RESOURCE_STATE_ONLINE, 2)
	if on.Detached {
		t.Fatal("looked at, and still counted as left alone")
	}
}

// A node that is lost while it is being detached has stopped, or is proven to have, like any other.
func TestLostWhileDetaching(t *testing.T) {
	s := three(t)
	online(t, s, "n3", 1)
	must(t, s, stopDetached("n3"))
	lost(t, s)
	if st := s.NodeStatus["n3"]; st.Detach || s.GroupStatus["web"].Nodes["n3"] != nil {
		t.Fatalf("%v", st)
	}
	if op := s.Operations[0]; op.State != v1.OperationState_OPERATION_STATE_DONE || !strings.Contains(op.Message, "lost") {
		t.Fatalf("%v", op)
	}
}

func TestLeaveOfADetachWaitsUntilItStands(t *testing.T) {
	s := three(t)
	online(t, s, "n3", 1)
	must(t, s, stopDetached("n3"))
	s.GroupStatus["web"].Nodes["n3"].Resources["file"].Activity = v1.ResourceActivity_RESOURCE_ACTIVITY_RESTARTING
	refused(t, s, &pb.Command{Change: &pb.Command_Leave{Leave: &pb.Leave{BaseEpoch: 1, Node: "n3"}}}, CodeConflict)
	if MayLeave(s, "n3") == "" || !slices.Equal(BusyGroups(s, "n3"), []string{"web"}) {
		t.Fatal(MayLeave(s, "n3"))
	}
}
