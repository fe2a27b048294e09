package engine

import (
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/peer/peerpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// E6: before guard has taken up what was left running, a report of it would make the end of a lease that never was a proof.
func TestDetachedIsReportedUnderALease(t *testing.T) {
	w := settledSolo(t)
	place := func() *statepb.GroupOnNode { return w.e.s.GroupStatus["web"].Nodes["n1"] }
	w.guard(&guardpb.FromGuard{Body: &guardpb.FromGuard_Lease{Lease: &guardpb.Lease{Detached: true}}})
	w.e.groups.leased = false // as of an incarnation that has come back
	place().Detached, place().ReportedIntent = true, 0
	w.e.s.PlanRevision++
	w.until("monitor r")
	w.done("monitor r", v1.ResourceState_RESOURCE_STATE_ONLINE)
	if !place().GetDetached() {
		t.Fatal("reported without a lease")
	}
	w.lease(true)
	w.step(Tick{})
	if place().GetDetached() {
		t.Fatal("not reported under the lease")
	}
}

// Words about what was left running: the newest view counts, and of one view only that it is not counted any more.
func TestApart(t *testing.T) {
	var a apart
	for i, c := range []struct {
		epoch   uint64
		counted bool
		want    bool
	}{{2, true, true}, {1, false, true}, {2, false, false}, {2, true, false}, {3, true, true}, {2, false, true}} {
		if a.tell(c.epoch, c.counted); a.counted != c.want {
			t.Errorf("%d: %v", i, a)
		}
	}
}

// outsider is one engine of three whose guard, and whose peer n2, are the test's.
type outsider struct {
	e       *Engine
	now     time.Duration
	stopped bool
	// The newest request to join, nil: none since it was looked at.
	join *peerpb.JoinRequest
}

func newOutsider(t *testing.T) *outsider {
	w := &outsider{e: newTrio(t).by["n1"], now: 2 * time.Hour}
	w.step(GuardConn{Up: true})
	w.guard(&guardpb.FromGuard{Body: &guardpb.FromGuard_Welcome{Welcome: &guardpb.Welcome{GuardIncarnation: 2, Detached: []*guardpb.Protect{{Group: "web"}}}}})
	w.guard(&guardpb.FromGuard{Body: &guardpb.FromGuard_Lease{Lease: &guardpb.Lease{Detached: true}}})
	return w
}

func (w *outsider) guard(f *guardpb.FromGuard) { w.step(FromGuard{f}) }

func (w *outsider) word(epoch uint64, counted bool) {
	w.step(FromPeer{Node: "n2", Message: &peerpb.Message{Body: &peerpb.Message_NotMember{NotMember: &peerpb.NotMember{RaftId: 1, Epoch: epoch, Detached: counted}}}})
}

func (w *outsider) step(in Input) {
	w.now += askEvery
	w.e.Step(w.now, 0, in)
	out := w.e.Take()
	for {
		for _, m := range out.ToPeers {
			if j := m.Message.GetJoinRequest(); j != nil {
				w.join = j
			}
		}
		for _, f := range out.ToGuard {
			w.stopped = w.stopped || f.GetStopDetached() != nil
			if f.GetLeaving() != nil || f.GetProtect() != nil {
				panic(f)
			}
		}
		if out.Persist == nil {
			return
		}
		w.e.Step(w.now, 0, Persisted{})
		out = w.e.Take()
	}
}

// E3: what a node was left running comes back with it only while the cluster counts on that; else it stops before the node asks to join.
func TestComesBackOnlyIfCounted(t *testing.T) {
	t.Run("counted", func(t *testing.T) {
		w := newOutsider(t)
		w.step(Tick{})
		if w.stopped || w.join != nil {
			t.Fatal("it does not know yet where it stands")
		}
		w.word(2, true)
		w.step(Tick{})
		if w.stopped || !w.join.GetDetached() {
			t.Fatalf("stopped %v, %v", w.stopped, w.join)
		}
		w.join = nil
		w.word(2, false) // an administrator has confirmed meanwhile that it is down
		w.step(Tick{})
		if !w.stopped || w.join != nil {
			t.Fatalf("stopped %v, %v", w.stopped, w.join)
		}
		w.word(2, true) // a word from before
		w.step(Tick{})
		if w.join != nil {
			t.Fatal("it asks to join with what is being stopped")
		}
	})
	t.Run("not counted", func(t *testing.T) {
		w := newOutsider(t)
		w.word(2, false)
		w.step(Tick{})
		if !w.stopped || w.join != nil {
			t.Fatalf("stopped %v, %v", w.stopped, w.join)
		}
		w.guard(&guardpb.FromGuard{Body: &guardpb.FromGuard_Lease{Lease: &guardpb.Lease{Stopped: true}}})
		w.step(Tick{})
		if w.join == nil || w.join.GetDetached() {
			t.Fatalf("%v", w.join)
		}
	})
}

// The leader lets nobody in with something that it does not count on.
func TestLeaderRefusesWhatIsNotCounted(t *testing.T) {
	w := newTrio(t)
	leader, others := w.elected()
	w.step(leader, FromPeer{Node: others[0], Message: &peerpb.Message{Body: &peerpb.Message_JoinRequest{JoinRequest: &peerpb.JoinRequest{
		OldRaftId: w.by[others[0]].RaftID(), Detached: true,
	}}}})
	last := &peerpb.Message{}
	if err := proto.Unmarshal(w.queue[len(w.queue)-1].raw, last); err != nil {
		t.Fatal(err)
	}
	if n := last.GetNotMember(); n == nil || n.GetDetached() || w.by[leader].outside.asked[others[0]] != nil || w.by[leader].outside.resigned[others[0]] != 0 {
		t.Fatalf("%v", last)
	}
}
