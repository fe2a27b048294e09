package engine

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/peer/peerpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// What guard repeats of an earlier incarnation's suspicions is nobody's statement: guard acknowledges again once
// it knows of this incarnation.
func TestSuspicionOfAnEarlierIncarnation(t *testing.T) {
	w := newTrio(t)
	w.elected()
	w.queue = nil
	w.step("n1", GuardConn{Up: true})
	w.step("n1", FromGuard{&guardpb.FromGuard{Body: &guardpb.FromGuard_Welcome{Welcome: &guardpb.Welcome{GuardIncarnation: 2}}}})
	said := func(raftID uint64) (n int) {
		w.queue = nil
		w.step("n1", FromGuard{&guardpb.FromGuard{Body: &guardpb.FromGuard_Suspect{Suspect: &guardpb.Suspect{Statement: &statepb.Statement{
			VoterRaftId: raftID, VoterGuardIncarnation: 2, About: "n2", AboutRaftId: 2,
		}}}}})
		for _, p := range w.queue {
			m := &peerpb.Message{}
			if err := proto.Unmarshal(p.raw, m); err != nil {
				t.Fatal(err)
			}
			if m.GetSuspicion().GetStatement() != nil {
				n++
			}
		}
		return n
	}
	if n := said(7); n != 0 || len(w.by["n1"].guard.statements) != 0 {
		t.Errorf("told to %d peers", n)
	}
	if n := said(1); n != 2 || len(w.by["n1"].guard.statements) != 1 {
		t.Errorf("this incarnation's own suspicion was told to %d peers, not to 2", n)
	}
}
