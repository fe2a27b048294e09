package api

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// cluster of so many members with points: "arb1" is an arbiter, "disk1" a lock disk.
func clusterOf(members int, points ...string) *statepb.State {
	s := &statepb.State{Cluster: &v1.Cluster{}, Nodes: map[string]*v1.Node{}, View: &statepb.View{}}
	for i := range members {
		name := fmt.Sprintf("n%d", i+1)
		s.Nodes[name] = &v1.Node{Name: name}
		s.View.Members = append(s.View.Members, &statepb.Member{Node: name})
	}
	for _, p := range points {
		if s.Witness == nil {
			s.Witness = &statepb.Witness{}
		}
		one := &v1.CoordinationPoint{Name: p, Kind: &v1.CoordinationPoint_Arbiter{Arbiter: &v1.ArbiterPoint{}}}
		if strings.HasPrefix(p, "disk") {
			one.Kind = &v1.CoordinationPoint_LockDisk{LockDisk: &v1.LockDiskPoint{}}
		}
		s.Witness.Points = append(s.Witness.Points, one)
	}
	return s
}

// What Survives says of many clusters; testdata/survives.txt is read by people.
func TestSurvives(t *testing.T) {
	one, three := []string{"arb1"}, []string{"arb1", "arb2", "disk1"}
	var b bytes.Buffer
	tell := func(title string, s *statepb.State, reachable []string, silent ...string) {
		var live []string
		for _, m := range s.GetView().GetMembers() {
			if !slices.Contains(silent, m.GetNode()) {
				live = append(live, m.GetNode())
			}
		}
		fmt.Fprintf(&b, "%s\n", title)
		for _, line := range Survives(s, reachable, live) {
			fmt.Fprintf(&b, "  %s\n", line)
		}
		b.WriteByte('\n')
	}
	for n := 1; n <= 5; n++ {
		nodes := count(n, "node")
		tell(nodes+", no point", clusterOf(n), nil)
		tell(nodes+", an arbiter", clusterOf(n, one...), one)
		tell(nodes+", an arbiter that is away", clusterOf(n, one...), nil)
		tell(nodes+", three points", clusterOf(n, three...), three)
		tell(nodes+", three points, one of them away", clusterOf(n, three...), three[1:])
		tell(nodes+", three points, two of them away", clusterOf(n, three...), three[2:])
	}
	tell("2 nodes, a lock disk", clusterOf(2, "disk1"), []string{"disk1"})
	preferred := clusterOf(2, one...)
	preferred.Cluster.PreferredFencing = v1.PreferredFencing_PREFERRED_FENCING_NODE_WEIGHT
	tell("2 nodes, an arbiter, preferred fencing", preferred, one)
	tell("2 nodes, no point, one silent", clusterOf(2), nil, "n2")
	tell("2 nodes, an arbiter, one silent", clusterOf(2, one...), one, "n2")
	tell("2 nodes, an arbiter that is away, one silent", clusterOf(2, one...), nil, "n2")
	tell("3 nodes, no point, one silent", clusterOf(3), nil, "n3")
	tell("3 nodes, an arbiter, one silent", clusterOf(3, one...), one, "n3")
	tell("5 nodes, no point, one silent", clusterOf(5), nil, "n3")
	tell("5 nodes, no point, three silent", clusterOf(5), nil, "n3", "n4", "n5")
	tell("4 nodes, an arbiter, two silent", clusterOf(4, one...), one, "n3", "n4")
	tell("64 nodes, three points", clusterOf(64, three...), three)
	tell("no view", clusterOf(0), nil)

	const name = "testdata/survives.txt"
	if slices.Contains(os.Args, "-rewrite") {
		if err := os.WriteFile(name, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(want, b.Bytes()) {
		t.Errorf("%s is not current: go test ./internal/api -rewrite, then read the difference. Now it is:\n%s", name, b.String())
	}
}

// TestToleratesAsCounted compares the formulas with counting votes: every set
// of members that fails at once, and every way to lose one after another.
func TestToleratesAsCounted(t *testing.T) {
	// quorum of a view: members that are there, and the witness if it votes and can be reached.
	quorum := func(members, there, points, reachable int) bool {
		votes, voters := there, members
		if points > 0 && members%2 == 0 {
			voters++
			if 2*reachable > points {
				votes++
			}
		}
		return 2*votes > voters
	}
	for members := 1; members <= 9; members++ {
		for _, points := range []int{0, 1, 3} {
			for reachable := range points + 1 {
				got := tolerates(members, points, reachable)
				atOnce := 0
				for lost := 1; lost < members; lost++ {
					if quorum(members, members-lost, points, reachable) {
						atOnce = lost
					}
				}
				// One is lost: the others change the view by a quorum of the old one, and then need one of the new.
				inTurn, left := 0, members
				for left > 1 && quorum(left, left-1, points, reachable) && quorum(left-1, left-1, points, reachable) {
					inTurn, left = inTurn+1, left-1
				}
				if got.atOnce != atOnce || got.inTurn != inTurn {
					t.Errorf("%d members, %d of %d points: %d at once and %d in turn; counted: %d and %d", members, reachable, points, got.atOnce, got.inTurn, atOnce, inTurn)
				}
			}
		}
	}
}

func TestPreferredWords(t *testing.T) {
	weight := uint32(5)
	for rule, want := range map[v1.PreferredFencing]string{
		v1.PreferredFencing_PREFERRED_FENCING_UNSPECIFIED:    "none: in an even split the side goes on that reaches the coordination points first, which is mostly the leader's",
		v1.PreferredFencing_PREFERRED_FENCING_NODE_WEIGHT:    "in an even split the side with the greater sum of weights (n1 5, n2 1) goes on; the other waits 500ms before it asks the coordination points, and goes on if they are still free then",
		v1.PreferredFencing_PREFERRED_FENCING_GROUP_PRIORITY: "in an even split the side on which the groups with the greater sum of priorities run goes on; the other waits 500ms before it asks the coordination points, and goes on if they are still free then",
		v1.PreferredFencing_PREFERRED_FENCING_SITE:           "in an even split the side with more nodes of site north (n1) goes on; the other waits 500ms before it asks the coordination points, and goes on if they are still free then",
	} {
		s := clusterOf(2, "arb1")
		s.Cluster.PreferredFencing, s.Cluster.PreferredSite = rule, "north"
		s.Nodes["n1"].Weight, s.Nodes["n1"].Site = &weight, "north"
		if got := preferredWords(s); got != want {
			t.Errorf("%v:\n%s\nwant\n%s", rule, got, want)
		}
		s.Witness = nil
		if got := preferredWords(s); !strings.HasSuffix(got, "it has no effect, for there are no coordination points") {
			t.Errorf("without points: %s", got)
		}
	}
}
