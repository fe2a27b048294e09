package engine

import (
	"math/rand/v2"
	"testing"
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// A leader that an administrator stops hands leadership over once, and neither it nor the third node
// takes it from the one that got it: the node would leave only three seconds later.
func TestLeadershipIsMovedOnce(t *testing.T) {
	for seed := range uint64(150) {
		luck := rand.New(rand.NewPCG(seed, 3))
		w := newTrio(t)
		leader, _ := w.elected()
		for _, name := range state.SortedKeys(w.by) {
			peers := &guardpb.Peers{Seeded: true}
			for _, other := range state.SortedKeys(w.by) {
				peers.Peers = append(peers.Peers, &guardpb.PeerState{Node: other, State: guardpb.LinkState_LINK_STATE_UP})
			}
			w.step(name, GuardConn{Up: true})
			w.step(name, FromGuard{&guardpb.FromGuard{Body: &guardpb.FromGuard_Welcome{Welcome: &guardpb.Welcome{GuardIncarnation: 1}}}})
			w.step(name, FromGuard{&guardpb.FromGuard{Body: &guardpb.FromGuard_Peers{Peers: peers}}})
		}
		w.pass(time.Second)
		term := w.by[leader].raft.Status().Term
		w.step(leader, Propose{Token: 1, Command: &statepb.Command{Change: &statepb.Command_Operate{Operate: &statepb.Operate{
			Operation: &v1.Operation{Kind: v1.OperationKind_OPERATION_KIND_NODE_STOP, Node: leader},
		}}}})
		for range 600 { // each packet takes up to some milliseconds, in order between two nodes
			w.now += time.Millisecond
			slow := map[[2]string]bool{}
			queue := w.queue
			w.queue = nil
			var late []packet
			for _, p := range queue {
				if pair := [2]string{p.from, p.to}; slow[pair] || luck.IntN(4) == 0 {
					slow[pair] = true
					late = append(late, p)
					continue
				}
				w.queue = append(w.queue, p)
			}
			w.deliver()
			w.queue = append(late, w.queue...)
			for _, name := range state.SortedKeys(w.by) {
				w.step(name, Tick{})
			}
		}
		for name, e := range w.by {
			if st := e.raft.Status(); st.Term != term+1 || st.Leader == 0 || e.Leader() == leader {
				t.Fatalf("seed %d: %s led in term %d; %s has term %d and leader %q", seed, leader, term, name, st.Term, e.Leader())
			}
		}
	}
}
