package sim

import (
	"strings"
	"testing"
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	pb "github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// Each way in which an incarnation is said to have ended while it holds its lease
// and runs a group breaks N5; one that leaves may hold its lease for a moment more.
func TestCheckerSeesWhatIsProven(t *testing.T) {
	gone := func(s *pb.State, event string) {
		s.View.Epoch++
		s.View.Members = s.View.Members[1:]
		s.NextEvent++
		s.Events = append(s.Events, &v1.Event{Number: s.NextEvent, Code: event, Node: "n1"})
	}
	fence := func(s *pb.State) { s.NodeStatus["n1"].Fence = &pb.Fence{RaftId: 1} }
	for _, c := range []struct {
		name string
		want string
		then []func(s *pb.State)
	}{
		{"evicted with a proof", "holds a lease", []func(*pb.State){func(s *pb.State) { gone(s, "node.evicted") }}},
		{"evicted", "", []func(*pb.State){func(s *pb.State) { gone(s, "node.evicted"); fence(s) }}},
		{"evicted, then a join", "holds a lease", []func(*pb.State){
			func(s *pb.State) { gone(s, "node.evicted"); fence(s) },
			func(s *pb.State) {
				s.NodeStatus["n1"].Fence = nil
				s.Learners["n1"] = &pb.Member{Node: "n1", RaftId: 4}
			},
		}},
		{"resigned", "holds a lease", []func(*pb.State){func(s *pb.State) { gone(s, "node.resigned") }}},
		{"left, but runs something", "processes of g1 are alive", []func(*pb.State){func(s *pb.State) { gone(s, "node.left") }}},
		{"left", "", []func(*pb.State){func(s *pb.State) { gone(s, "node.left") }, func(*pb.State) {}}},
		{"replaced in one step", "holds a lease", []func(*pb.State){func(s *pb.State) {
			s.View.Members[0].RaftId = 4
		}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			defer useSeed(1)()
			o := Options{Seed: 1, Nodes: 3, Links: 2, Groups: 1, Peerinact: time.Second, DiskSync: time.Millisecond, Calm: true}
			cl := newClusterOf(o, scriptConfiguration(o))
			cl.runUntil(3 * time.Second)
			if n := cl.byName["n1"]; cl.failed != nil || !n.guard.LeaseHeld(n.local()) || !n.host.alive("g1") {
				t.Fatalf("the cluster has not started: %v", cl.failed)
			}
			if c.name == "left" {
				cl.byName["n1"].host.kill("g1", "for the test")
			}
			s := cl.check.newest
			for _, change := range c.then {
				var err error
				if s, err = state.Unmarshal(state.Marshal(s)); err != nil {
					t.Fatal(err)
				}
				change(s)
				cl.check.proofs(s)
			}
			if c.want == "" && cl.failed != nil || c.want != "" && (cl.failed == nil || cl.failed.Rule != "N5" || !strings.Contains(cl.failed.Message, c.want)) {
				t.Errorf("broken: %v, want %q", cl.failed, c.want)
			}
		})
	}
}
