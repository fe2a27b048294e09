package state

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	pb "github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// added returns the runs of triggers after the first n, in words.
func added(s *pb.State, n uint64) (all []string) {
	for _, t := range s.Triggers {
		if t.Number > n {
			all = append(all, strings.Join(TriggerArguments(t), " ")+" @"+t.Node)
		}
	}
	return all
}

func TestResourceTriggers(t *testing.T) {
	s := three(t)
	g := s.Groups["web"]
	name := g.Resources[0].Name
	g.TriggersEnabled = []string{"resfault", "resstatechange"}
	g.Resources[0].TriggersEnabled = []string{"resnotoff", "resrestart", "resadminwait"}
	tell := func(request uint64, st *v1.ResourceStatus) []string {
		t.Helper()
		was := s.NextTrigger
		must(t, s, &pb.Command{Request: request, Change: &pb.Command_Report{Report: &pb.Report{Node: "n2", RaftId: 2, Groups: []*pb.GroupReport{{
			Group: "web", Resources: map[string]*v1.ResourceStatus{name: st}}}}}})
		return added(s, was)
	}
	for i, x := range []struct {
		st   *v1.ResourceStatus
		want []string
	}{
		{&v1.ResourceStatus{State: v1.ResourceState_RESOURCE_STATE_ONLINE}, []string{"resstatechange n2 NAME UNKNOWN ONLINE @n2"}},
		{&v1.ResourceStatus{State: v1.ResourceState_RESOURCE_STATE_ONLINE, Restarts: 1}, []string{"resrestart n2 NAME 1 @n2"}},
		{&v1.ResourceStatus{State: v1.ResourceState_RESOURCE_STATE_ONLINE, Restarts: 1, UnableToOffline: true}, []string{"resnotoff n2 NAME @n2"}},
		{&v1.ResourceStatus{State: v1.ResourceState_RESOURCE_STATE_ONLINE, AdminWait: v1.AdminWait_ADMIN_WAIT_OFFLINE_INEFFECTIVE}, []string{"resadminwait n2 NAME 1 @n2"}},
		{&v1.ResourceStatus{State: v1.ResourceState_RESOURCE_STATE_FAULTED}, []string{"resstatechange n2 NAME ONLINE FAULTED @n2", "resfault n2 NAME ONLINE @n2"}},
		{&v1.ResourceStatus{State: v1.ResourceState_RESOURCE_STATE_FAULTED, Message: "as before"}, nil},
	} {
		for j := range x.want {
			x.want[j] = strings.Replace(x.want[j], "NAME", name, 1)
		}
		if got := tell(uint64(i+1), x.st); !slices.Equal(got, x.want) {
			t.Errorf("%d: %q, want %q", i, got, x.want)
		}
	}
}

func TestNodeTriggers(t *testing.T) {
	s := three(t)
	s.Cluster.TriggersEnabled = []string{"sysoffline", "sysjoin"}
	lost(t, s)
	if got := added(s, 0); !slices.Equal(got, []string{"sysoffline n3 FAULTED @n1"}) {
		t.Error(got)
	}
	was := s.NextTrigger
	must(t, s, operate(&v1.Operation{Kind: v1.OperationKind_OPERATION_KIND_NODE_STOP, Node: "n1"}))
	for name, on := range s.GroupStatus {
		on.Nodes["n1"] = &pb.GroupOnNode{Probed: true}
		for _, r := range s.Groups[name].Resources {
			if on.Nodes["n1"].Resources == nil {
				on.Nodes["n1"].Resources = map[string]*v1.ResourceStatus{}
			}
			on.Nodes["n1"].Resources[r.Name] = &v1.ResourceStatus{State: v1.ResourceState_RESOURCE_STATE_OFFLINE}
		}
	}
	must(t, s, &pb.Command{Change: &pb.Command_Leave{Leave: &pb.Leave{BaseEpoch: s.View.Epoch, Node: "n1"}}})
	if got := added(s, was); !slices.Equal(got, []string{"sysoffline n1 EXITED @n2"}) {
		t.Error(got)
	}
}

// What SysDownPolicy leaves running goes on after its node has been stopped, once everything else there is offline.
func TestLeaveRunning(t *testing.T) {
	s := three(t)
	s.Groups["web"].SysDownPolicy = v1.SysDownPolicy_SYS_DOWN_POLICY_AUTO_DISABLE_NO_OFFLINE
	online(t, s, "n3", 1)
	must(t, s, operate(&v1.Operation{Kind: v1.OperationKind_OPERATION_KIND_NODE_STOP, Node: "n3"}))
	if !s.NodeStatus["n3"].Detach {
		t.Fatalf("%v: %v", s.NodeStatus["n3"], BusyGroups(s, "n3"))
	}
	must(t, s, &pb.Command{Change: &pb.Command_Leave{Leave: &pb.Leave{BaseEpoch: s.View.Epoch, Node: "n3"}}})
	if on := s.GroupStatus["web"].Nodes["n3"]; !on.GetDetached() || s.NodeStatus["n3"].Fence == nil {
		t.Fatalf("somebody else would start it: %v", on)
	}

	s = three(t) // without that policy the node waits for it
	online(t, s, "n3", 1)
	must(t, s, operate(&v1.Operation{Kind: v1.OperationKind_OPERATION_KIND_NODE_STOP, Node: "n3"}))
	if s.NodeStatus["n3"].Detach {
		t.Fatal(fmt.Sprint("it was detached: ", s.NodeStatus["n3"]))
	}
}

func TestJeopardyTrigger(t *testing.T) {
	s := three(t)
	note := func(code, node string) {
		must(t, s, &pb.Command{Change: &pb.Command_Note{Note: &pb.Note{Events: []*v1.Event{{Code: code, Node: node}}}}})
	}
	note("node.jeopardy", "n2")
	s.Cluster.TriggersEnabled = []string{"injeopardy"}
	note("node.jeopardy", "n9")
	note("node.else", "n2")
	if len(s.Triggers) != 0 {
		t.Fatal(added(s, 0))
	}
	if note("node.jeopardy", "n2"); !slices.Equal(added(s, 0), []string{"injeopardy n2 RUNNING @n2"}) {
		t.Fatal(added(s, 0))
	}
}
