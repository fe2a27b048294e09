package view

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	pb "github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// desk is a keeper on node n1 with a state of five members.
type desk struct {
	t *testing.T
	*Keeper
	s     *pb.State
	now   time.Duration
	down  map[string]bool
	near  map[string]bool // in trouble
	again map[string]bool
}

func newDesk(t *testing.T) *desk {
	cfg := &v1.Configuration{Cluster: &v1.Cluster{Name: "c"}}
	for i := range 5 {
		cfg.Nodes = append(cfg.Nodes, &v1.Node{Name: fmt.Sprintf("n%d", i+1)})
	}
	s, err := state.Initial(cfg)
	if err != nil {
		t.Fatal(err)
	}
	d := &desk{t: t, Keeper: New(), s: s, now: time.Hour, down: map[string]bool{}, near: map[string]bool{}, again: map[string]bool{}}
	for _, m := range s.View.Members {
		d.apply(&pb.Command{Change: &pb.Command_GuardStarted{GuardStarted: &pb.GuardStarted{Node: m.Node, RaftId: m.RaftId, GuardIncarnation: 1}}})
	}
	d.now += time.Hour // the first view is old
	return d
}

func (d *desk) apply(c *pb.Command) {
	d.t.Helper()
	if o := state.Apply(d.s, c); o.Refused != nil {
		d.t.Fatal(o.Refused)
	}
	d.State(d.now, d.s)
}

// silent: voters state that they suspect node, as soon as peerinact is over.
func (d *desk) silent(node string, voters ...string) {
	d.down[node] = true
	m := state.MemberOf(d.s, node)
	for _, v := range voters {
		d.Stated(d.now, &pb.Statement{
			Voter: v, VoterRaftId: state.MemberOf(d.s, v).GetRaftId(), VoterGuardIncarnation: 1,
			About: node, AboutRaftId: m.GetRaftId(), Stays: d.s.NodeStatus[node].GetStays(),
			Age: durationpb.New(time.Second), YoungestSequence: 7, AboutGuardIncarnation: 1,
		})
	}
}

func (d *desk) next() (*pb.Command, time.Duration) {
	return d.Next(d.now, d.s, Sight{
		Self:       "n1",
		Heard:      func(n string) bool { return !d.down[n] },
		Trouble:    func(n string) bool { return d.near[n] },
		HeardAgain: func(n string) bool { return d.again[n] },
		CaughtUp:   func(uint64) bool { return true },
		Resigned:   func(string, uint64) bool { return false },
	})
}

func (d *desk) evicted() (nodes []string) {
	c, _ := d.next()
	for _, e := range c.GetEvict().GetEvictees() {
		nodes = append(nodes, e.Node)
	}
	return nodes
}

func TestMajorityEvicts(t *testing.T) {
	d := newDesk(t)
	d.silent("n5", "n1", "n2")
	if got := d.evicted(); got != nil {
		t.Fatalf("two of five evict %v", got)
	}
	d.silent("n5", "n3")
	if got := d.evicted(); len(got) != 1 || got[0] != "n5" {
		t.Fatalf("three of five evict %v", got)
	}
}

func TestTwoThatFailTogetherAreEvictedTogether(t *testing.T) {
	d := newDesk(t)
	d.silent("n5", "n1", "n2", "n3")
	d.near["n4"] = true
	c, wake := d.next()
	if c != nil || wake != d.now+time.Second/batchWait {
		t.Fatalf("%v, wake in %v: n4 is about to be suspected, too", c, wake-d.now)
	}
	d.silent("n4", "n1", "n2", "n3")
	if got := d.evicted(); len(got) != 2 {
		t.Fatalf("evicted %v", got)
	}
}

func TestTroubleDoesNotHoldAnEvictionUpForLong(t *testing.T) {
	d := newDesk(t)
	d.silent("n5", "n1", "n2", "n3")
	d.near["n4"] = true
	d.now += time.Second / batchWait
	if got := d.evicted(); len(got) != 1 {
		t.Fatalf("evicted %v", got)
	}
}

func TestLeaderDoesNotEvictItself(t *testing.T) {
	d := newDesk(t)
	d.silent("n1", "n2", "n3", "n4")
	if got := d.evicted(); got != nil {
		t.Fatalf("evicted %v", got)
	}
}

func TestStaysEndsStatements(t *testing.T) {
	d := newDesk(t)
	d.silent("n5", "n1")
	d.again["n5"] = true
	c, _ := d.next()
	if c.GetStays().GetNode() != "n5" {
		t.Fatalf("%v", c)
	}
	d.apply(c)
	if who := d.Suspecting(d.s, "n5"); who != nil {
		t.Fatalf("%v still suspect n5", who)
	}
	d.down["n5"] = false
	if c, _ := d.next(); c != nil {
		t.Fatalf("then: %v", c)
	}
}

func TestFenceIsProvenByTime(t *testing.T) {
	d := newDesk(t)
	d.silent("n5", "n1", "n2", "n3")
	c, _ := d.next()
	for _, st := range c.GetEvict().Statements {
		st.Age = durationpb.New(400 * time.Millisecond)
	}
	d.apply(c)
	if c, wake := d.next(); c != nil || wake != d.now+600*time.Millisecond {
		t.Fatalf("%v, wake in %v", c, wake-d.now)
	}
	d.now += 600 * time.Millisecond
	if c, _ := d.next(); c.GetProven().GetNode() != "n5" || c.GetProven().Proof != pb.Proof_PROOF_TIME {
		t.Fatalf("%v", c)
	}
}

// V3: until every member that is heard has confirmed the present view nobody joins.
func TestJoinWaitsForConfirmation(t *testing.T) {
	d := newDesk(t)
	d.silent("n5", "n1", "n2", "n3")
	c, _ := d.next()
	d.apply(c)
	d.apply(&pb.Command{Change: &pb.Command_Join{Join: &pb.Join{Node: "n5", RaftId: 6, GuardIncarnation: 2}}})
	d.down["n5"] = false
	for _, m := range d.s.View.Members[:3] {
		d.Confirmed(d.now, m.RaftId, 2, 1)
	}
	if c, _ := d.next(); c != nil {
		t.Fatalf("n4 has not confirmed view 2, but %v", c)
	}
	d.Confirmed(d.now, d.s.View.Members[3].RaftId, 2, 1)
	if c, _ := d.next(); c != nil {
		t.Fatalf("n5's guard is not known to acknowledge anyone, but %v", c)
	}
	d.Confirmed(d.now, 6, 2, 1)
	c, wake := d.next()
	if c != nil || wake != d.now+300*time.Millisecond {
		t.Fatalf("%v, wake in %v", c, wake-d.now)
	}
	d.now = wake
	d.Confirmed(d.now, 6, 2, 1) // said again: the first time counts
	if c, _ := d.next(); c.GetPromote().GetNode() != "n5" {
		t.Fatalf("%v", c)
	}
}

// Words about nodes that the state does not know are kept, but not about any number of them; those about its nodes always are.
func TestStatementsAboutStrangers(t *testing.T) {
	d := newDesk(t)
	say := func(about string) {
		d.Stated(d.now, &pb.Statement{Voter: "n2", VoterRaftId: 2, VoterGuardIncarnation: 1, About: about, AboutRaftId: 9})
	}
	for i := range 10_000 {
		say(fmt.Sprintf("x%d", i))
	}
	if n := len(d.statements); n != maxStrangers {
		t.Errorf("words about %d nodes are kept, of which the state knows none", n)
	}
	d.silent("n3", "n1", "n2", "n4")
	if c, _ := d.next(); c.GetEvict() == nil {
		t.Error("n3 is not evicted any more")
	}
}

// The word of a guard is void once a newer guard of that node is committed.
func TestStatementOfAnEarlierGuard(t *testing.T) {
	d := newDesk(t)
	d.silent("n5", "n2", "n3")
	d.apply(&pb.Command{Change: &pb.Command_GuardStarted{GuardStarted: &pb.GuardStarted{Node: "n2", RaftId: 2, GuardIncarnation: 2}}})
	if who := d.Suspecting(d.s, "n5"); len(who) != 1 || who[0] != "n3" {
		t.Errorf("suspected by %v", who)
	}
}
