package state

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	pb "github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

func arbiterPoint(name string) *v1.CoordinationPoint {
	return &v1.CoordinationPoint{Name: name, Kind: &v1.CoordinationPoint_Arbiter{Arbiter: &v1.ArbiterPoint{
		Address: name + ":7950", KeyFingerprint: strings.Repeat("ab", 32), Instance: "instance of " + name,
	}}}
}

// withPoints is a cluster of the named nodes with one coordination point.
func withPoints(t *testing.T, nodes ...string) *pb.State {
	t.Helper()
	cfg := &v1.Configuration{Cluster: &v1.Cluster{Name: "c"}}
	for _, n := range nodes {
		cfg.Nodes = append(cfg.Nodes, &v1.Node{Name: n})
	}
	s, err := Initial(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range s.View.Members {
		m.GuardIncarnation = 1
	}
	must(t, s, &pb.Command{Change: &pb.Command_WantPoints{WantPoints: &pb.WantPoints{Points: []*v1.CoordinationPoint{arbiterPoint("p")}}}})
	must(t, s, &pb.Command{Change: &pb.Command_SetPoints{SetPoints: &pb.SetPoints{BaseEpoch: 1, RaftId: s.NextRaftId}}})
	return s
}

// pointsSay is their statement; statement gives those of members.
func pointsSay(s *pb.State, about string, age time.Duration) *pb.Statement {
	return &pb.Statement{
		Voter: WitnessName, VoterRaftId: s.GetWitness().GetRaftId(), About: about,
		AboutRaftId: MemberOf(s, about).GetRaftId(), Stays: s.NodeStatus[about].GetStays(), Age: durationpb.New(age),
	}
}

func TestLastNodeStandingNeedsThePoints(t *testing.T) {
	s := withPoints(t, "n1", "n2")
	if WitnessID(s) == 0 || Voters(s) != 3 {
		t.Fatalf("two members and the points: %d voters", Voters(s))
	}
	own := statement(s, "n1", "n2", time.Hour)
	alone := &pb.Evict{BaseEpoch: s.View.Epoch, Evictees: []*pb.Evictee{{Node: "n2", ConfirmedView: true}}, Statements: []*pb.Statement{own}}
	if _, err := CheckEvict(s, alone); err == nil {
		t.Fatal("one of two evicts the other by its own word")
	}
	old := pointsSay(s, "n2", time.Hour)
	old.VoterRaftId--
	alone.Statements = []*pb.Statement{own, old}
	if _, err := CheckEvict(s, alone); err == nil {
		t.Fatal("the word of points that were replaced counts")
	}
	alone.Statements = []*pb.Statement{own, pointsSay(s, "n2", 200*time.Millisecond)}
	v, err := CheckEvict(s, alone)
	if err != nil || v[0].Wait != 800*time.Millisecond {
		t.Fatalf("%v %v: the youngest renewal at the points was 200ms ago, the lease is over 800ms from now", v, err)
	}
	must(t, s, &pb.Command{Change: &pb.Command_Evict{Evict: alone}})
	if WitnessID(s) != 0 || Voters(s) != 1 {
		t.Fatalf("one member: %d voters", Voters(s))
	}
}

func TestSideWithThePointsIsAMajority(t *testing.T) {
	s := withPoints(t, "n1", "n2", "n3", "n4")
	var all []*pb.Statement
	for _, about := range []string{"n3", "n4"} {
		all = append(all, statement(s, "n1", about, time.Hour), statement(s, "n2", about, time.Hour), pointsSay(s, about, time.Hour))
	}
	c := &pb.Evict{BaseEpoch: s.View.Epoch, Evictees: []*pb.Evictee{{Node: "n3", ConfirmedView: true}, {Node: "n4", ConfirmedView: true}}, Statements: all}
	if v, err := CheckEvict(s, c); err != nil || v[1].Proof != pb.Proof_PROOF_TIME {
		t.Fatalf("%v %v", v, err)
	}
	c.Statements = all[:5] // the points say nothing of n4
	if _, err := CheckEvict(s, c); err == nil {
		t.Fatal("half of the members is evicted without the points")
	}
}

func TestPointsVoteWhileTheNumberOfMembersIsEven(t *testing.T) {
	s := withPoints(t, "n1", "n2", "n3")
	if WitnessID(s) != 0 {
		t.Fatal("the points vote beside three members")
	}
	must(t, s, evict(s, time.Hour, "n3", statement(s, "n1", "n3", time.Hour), statement(s, "n2", "n3", time.Hour)))
	if WitnessID(s) != s.GetWitness().GetRaftId() {
		t.Fatal("the points do not vote beside two members")
	}
}

func TestPointsAreCheckedBeforeTheyAreWanted(t *testing.T) {
	two := arbiterPoint("q")
	two.GetArbiter().Instance = "instance of p"
	for _, c := range []struct {
		why    string
		points []*v1.CoordinationPoint
	}{
		{"one or three", []*v1.CoordinationPoint{arbiterPoint("p"), arbiterPoint("q")}},
		{"fail independently", []*v1.CoordinationPoint{arbiterPoint("p"), two, arbiterPoint("r")}},
		{"two coordination points named", []*v1.CoordinationPoint{arbiterPoint("p"), arbiterPoint("p"), arbiterPoint("r")}},
		{"neither", []*v1.CoordinationPoint{{Name: "p"}}},
	} {
		if err := CheckPoints(c.points); err == nil || !strings.Contains(err.Message, c.why) {
			t.Errorf("%v, want %q", err, c.why)
		}
	}
	s := withPoints(t, "n1", "n2")
	stale := &pb.Command{Change: &pb.Command_WantPoints{WantPoints: &pb.WantPoints{BaseRaftId: 1}}}
	if o := Apply(s, stale); o.Refused == nil || o.Refused.Code != CodeStale {
		t.Fatalf("%v", o.Refused)
	}
}

func TestNodesKeepTheirNumbers(t *testing.T) {
	s := withPoints(t, "n2", "n3")
	cfg := &v1.Configuration{Cluster: &v1.Cluster{}, Nodes: []*v1.Node{{Name: "n1"}, {Name: "n2"}, {Name: "n3"}}}
	must(t, s, &pb.Command{Change: &pb.Command_Configure{Configure: &pb.Configure{BaseRevision: s.ConfigRevision, Configuration: cfg}}})
	for node, want := range map[string]uint32{"n1": 3, "n2": 1, "n3": 2} {
		if got := s.NodeStatus[node].GetNumber(); got != want {
			t.Errorf("%s has block %d, want %d", node, got, want)
		}
	}
}
