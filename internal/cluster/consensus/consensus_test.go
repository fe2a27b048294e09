package consensus

import (
	"fmt"
	"testing"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// world is a few nodes whose messages are delivered by hand.
type world struct {
	t     testing.TB
	nodes map[uint64]*testNode
	cut   map[[2]uint64]bool
	queue []*raftpb.Message
}

type testNode struct {
	*Node
	applied []string
	// hold keeps batches outstanding; held is one that is.
	hold, held bool
}

func newWorld(t testing.TB, n uint64) *world {
	w := &world{t: t, nodes: map[uint64]*testNode{}, cut: map[[2]uint64]bool{}}
	cs := &raftpb.ConfState{}
	for id := uint64(1); id <= n; id++ {
		cs.Voters = append(cs.Voters, id)
	}
	for id := uint64(1); id <= n; id++ {
		w.add(id, Saved{
			HardState: &raftpb.HardState{Term: proto.Uint64(1), Commit: proto.Uint64(1)},
			Snapshot:  &raftpb.Snapshot{Data: []byte("s"), Metadata: &raftpb.SnapshotMetadata{Index: proto.Uint64(1), Term: proto.Uint64(1), ConfState: cs}},
		})
	}
	return w
}

func (w *world) add(id uint64, saved Saved) {
	tn := &testNode{}
	n, err := New(Config{RaftID: id, Saved: saved, State: func() (uint64, []byte) { return tn.Status().Applied, []byte("state") }})
	if err != nil {
		w.t.Fatal(err)
	}
	tn.Node = n
	w.nodes[id] = tn
}

// run delivers everything until nothing moves.
func (w *world) run() {
	for moved := true; moved; {
		moved = false
		for id := uint64(1); id <= 9; id++ {
			if n := w.nodes[id]; n != nil && !n.held {
				moved = w.step(n) || moved
			}
		}
		queue := w.queue
		w.queue = nil
		for _, m := range queue {
			moved = true
			w.deliver(m)
		}
	}
}

func (w *world) deliver(m *raftpb.Message) {
	to, from := w.nodes[m.GetTo()], w.nodes[m.GetFrom()]
	if to == nil || w.cut[[2]uint64{m.GetFrom(), m.GetTo()}] {
		from.Dropped(m)
		return
	}
	to.Step(proto.CloneOf(m))
}

func (w *world) step(n *testNode) bool {
	r, ok := n.Ready()
	if !ok {
		return false
	}
	w.queue = append(w.queue, r.Early...)
	if n.hold && r.Batch != nil {
		n.held = true
		return true
	}
	w.finish(n)
	return true
}

func (w *world) finish(n *testNode) {
	n.held = false
	d, err := n.Persisted()
	if err != nil {
		w.t.Fatal(err)
	}
	w.queue = append(w.queue, d.Messages...)
	for _, e := range d.Committed {
		switch {
		case e.GetType() == raftpb.EntryConfChangeV2:
			cc := &raftpb.ConfChangeV2{}
			if err := proto.Unmarshal(e.GetData(), cc); err != nil {
				w.t.Fatal(err)
			}
			if err := n.ApplyConfChange(cc); err != nil {
				w.t.Fatal(err)
			}
			n.Node.Applied()
			n.applied = append(n.applied, "conf")
			continue
		case len(e.GetData()) == 0:
			n.applied = append(n.applied, "empty")
		default:
			n.applied = append(n.applied, string(e.GetData()))
		}
	}
	n.Node.Applied()
}

func (w *world) elect(id uint64) {
	w.t.Helper()
	w.nodes[id].Campaign()
	w.run()
	if !w.nodes[id].IsLeader() {
		w.t.Fatalf("node %d does not lead", id)
	}
}

func (w *world) cutOff(id uint64) {
	for other := range w.nodes {
		w.cut[[2]uint64{id, other}], w.cut[[2]uint64{other, id}] = true, true
	}
}

func (w *world) last(id uint64) string {
	a := w.nodes[id].applied
	if len(a) == 0 {
		return ""
	}
	return a[len(a)-1]
}

// C1: a follower's acknowledgement, and so a commit by it, waits for its disk.
func TestNothingCountsBeforeItIsDurable(t *testing.T) {
	w := newWorld(t, 3)
	w.elect(1)
	w.cutOff(3)
	w.nodes[2].hold = true
	if err := w.nodes[1].Propose([]byte("a")); err != nil {
		t.Fatal(err)
	}
	w.run()
	if got := w.last(1); got == "a" {
		t.Fatal("committed though the only follower's disk has not answered")
	}
	if !w.nodes[2].held {
		t.Fatal("the follower has no batch outstanding: the test shows nothing")
	}
	w.finish(w.nodes[2])
	w.nodes[2].hold = false
	w.run()
	if got := w.last(1); got != "a" {
		t.Fatalf("after the disk answered the leader applied %q", got)
	}
}

// C1: the leader's own copy counts no sooner than its disk answers, though it
// replicates meanwhile.
func TestLeaderReplicatesWhileItWrites(t *testing.T) {
	w := newWorld(t, 3)
	w.elect(1)
	w.cutOff(3)
	w.nodes[1].hold = true
	if err := w.nodes[1].Propose([]byte("a")); err != nil {
		t.Fatal(err)
	}
	w.run()
	if match, _, _ := w.nodes[1].Match(2); match != w.nodes[2].Status().LastIndex || w.nodes[2].Status().LastIndex != 3 {
		t.Fatalf("the follower holds up to %d, the leader knows of %d: nothing was replicated early", w.nodes[2].Status().LastIndex, match)
	}
	if w.last(1) == "a" {
		t.Fatal("committed with one durable copy of three")
	}
	w.finish(w.nodes[1])
	w.nodes[1].hold = false
	w.run()
	if w.last(1) != "a" {
		t.Fatal("not committed after both copies were durable")
	}
}

// C2.
func TestOneBatchAtATime(t *testing.T) {
	w := newWorld(t, 1)
	n := w.nodes[1]
	n.Campaign()
	if _, ok := n.Ready(); !ok {
		t.Fatal("nothing to do after campaigning")
	}
	if _, ok := n.Ready(); ok {
		t.Fatal("a second Ready while the first is outstanding")
	}
}

// C3: followers that hold to a dead leader ignore a campaign; once they have
// forgotten it, the first campaign wins, without waiting for any time-out.
func TestForgettingTheLeaderLetsACampaignWin(t *testing.T) {
	w := newWorld(t, 3)
	w.elect(1)
	w.cutOff(1)
	w.nodes[2].Campaign()
	w.run()
	if w.nodes[2].IsLeader() {
		t.Fatal("node 3 voted although it holds to node 1: pre-vote or check-quorum is off")
	}
	w.nodes[2].ForgetLeader()
	w.nodes[3].ForgetLeader()
	w.elect(2)
}

// C4: a dropped append is reported; else the receiver would be left in a
// replication stream that it is no part of any more.
func TestDroppedAppendIsSentAgain(t *testing.T) {
	w := newWorld(t, 3)
	w.elect(1)
	w.cut[[2]uint64{1, 3}] = true
	for i := range 5 {
		if err := w.nodes[1].Propose(fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
		w.run()
	}
	delete(w.cut, [2]uint64{1, 3})
	for range heartbeatTicks * 3 {
		w.nodes[1].Tick()
		w.run()
	}
	if w.last(3) != "4" {
		t.Fatalf("node 3 has applied %v", w.nodes[3].applied)
	}
}

// C4: a dropped snapshot is reported as failed, and sent again.
func TestDroppedSnapshotIsSentAgain(t *testing.T) {
	w := newWorld(t, 3)
	w.elect(1)
	w.cutOff(3)
	for i := range 20 {
		if err := w.nodes[1].Propose(fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
		w.run()
	}
	if _, err := w.nodes[1].Compact([]byte("state"), 2); err != nil {
		t.Fatal(err)
	}
	// The way back works first: node 3 answers probes, the snapshot is dropped.
	delete(w.cut, [2]uint64{3, 1})
	for range heartbeatTicks * 4 {
		w.nodes[1].Tick()
		w.nodes[3].Tick()
		w.run()
	}
	delete(w.cut, [2]uint64{1, 3})
	for range heartbeatTicks * 4 {
		w.nodes[1].Tick()
		w.run()
	}
	if got, want := w.nodes[3].Status().Applied, w.nodes[1].Status().Applied; got != want {
		t.Fatalf("node 3 has applied up to %d, the leader up to %d", got, want)
	}
}

// C5: of two configuration changes the second becomes an empty entry, though
// its proposal was taken; only applying tells.
func TestSecondConfChangeBecomesEmpty(t *testing.T) {
	w := newWorld(t, 3)
	w.elect(1)
	for _, id := range []uint64{3, 2} {
		cc := &raftpb.ConfChangeV2{Changes: []*raftpb.ConfChangeSingle{{Type: raftpb.ConfChangeRemoveNode.Enum(), NodeId: proto.Uint64(id)}}}
		if err := w.nodes[1].ProposeConfChange(cc); err != nil {
			t.Fatal(err)
		}
	}
	w.run()
	if got := w.nodes[1].ConfState().GetVoters(); len(got) != 2 || got[1] != 2 {
		t.Fatalf("voters %v, want 1 and 2", got)
	}
	if w.last(1) != "empty" {
		t.Fatalf("applied %v", w.nodes[1].applied)
	}
}

// C6: a removed leader steps down by itself.
func TestRemovedLeaderStepsDown(t *testing.T) {
	w := newWorld(t, 3)
	w.elect(1)
	cc := &raftpb.ConfChangeV2{Changes: []*raftpb.ConfChangeSingle{{Type: raftpb.ConfChangeRemoveNode.Enum(), NodeId: proto.Uint64(1)}}}
	if err := w.nodes[1].ProposeConfChange(cc); err != nil {
		t.Fatal(err)
	}
	w.run()
	if w.nodes[1].IsLeader() {
		t.Fatal("a removed node still leads")
	}
}

// C6: leadership is handed over at once.
func TestTransferLeader(t *testing.T) {
	w := newWorld(t, 3)
	w.elect(1)
	w.nodes[1].TransferLeader(3)
	w.run()
	if !w.nodes[3].IsLeader() || w.nodes[1].IsLeader() {
		t.Fatal("leadership did not move")
	}
}

// A leader that no quorum answers steps down (check-quorum).
func TestCheckQuorum(t *testing.T) {
	w := newWorld(t, 3)
	w.elect(1)
	w.cutOff(1)
	for range 3 * electionTicks {
		w.nodes[1].Tick()
		w.run()
	}
	if w.nodes[1].IsLeader() {
		t.Fatal("a leader without a quorum still leads")
	}
	if got, before := w.nodes[1].Status().Term, w.nodes[2].Status().Term; got != before {
		t.Fatalf("its term rose from %d to %d: pre-vote is off", before, got)
	}
}

// A node that was restarted from its snapshot and log goes on where it was.
func TestRestart(t *testing.T) {
	w := newWorld(t, 1)
	n := w.nodes[1]
	var saved Saved
	n.Campaign()
	for i := range 10 {
		for {
			r, ok := n.Ready()
			if !ok {
				break
			}
			if r.Batch != nil {
				saved.Entries = append(saved.Entries, r.Batch.Entries...)
				if r.Batch.HardState != nil {
					saved.HardState = r.Batch.HardState
				}
			}
			w.finish(n)
		}
		if err := n.Propose(fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
	}
	b, err := n.Compact([]byte("state"), 3)
	if err != nil {
		t.Fatal(err)
	}
	saved.Snapshot, saved.HardState = b.Snapshot, b.HardState
	for len(saved.Entries) > 0 && saved.Entries[0].GetIndex() <= b.Compact {
		saved.Entries = saved.Entries[1:]
	}
	if saved.Snapshot.GetMetadata().GetIndex() <= 1 {
		t.Fatal("nothing was folded")
	}
	for len(saved.Entries) > 0 && saved.Entries[0].GetIndex() <= saved.Snapshot.GetMetadata().GetIndex() {
		saved.Entries = saved.Entries[1:]
	}
	again, err := New(Config{RaftID: 1, Saved: saved})
	if err != nil {
		t.Fatal(err)
	}
	if got := again.Status(); got.Applied != saved.Snapshot.GetMetadata().GetIndex() || got.State != raft.StateFollower {
		t.Fatalf("after a restart: %+v", got)
	}
}

// A log that has lost what it had promised to hold is refused, not believed.
func TestDamagedLogIsRefused(t *testing.T) {
	_, err := New(Config{RaftID: 1, Saved: Saved{
		HardState: &raftpb.HardState{Term: proto.Uint64(3), Commit: proto.Uint64(40)},
		Snapshot: &raftpb.Snapshot{Data: []byte("s"), Metadata: &raftpb.SnapshotMetadata{Index: proto.Uint64(1), Term: proto.Uint64(1),
			ConfState: &raftpb.ConfState{Voters: []uint64{1}}}},
	}})
	if err == nil {
		t.Fatal("a log without its committed entries was taken")
	}
}
