//go:build linux

package clusterd

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/consensus"
	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/logstore"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
	"github.com/holdfast-ha/holdfast/internal/group/agent"
	"github.com/holdfast-ha/holdfast/internal/node/engine"
)

func TestEngineHearsOfABatchOnlyWhenItIsDurable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		defer b.end()
		b.diskGate = make(chan struct{})
		out := batchOut()
		out.ToPeers = []engine.ToPeer{{Node: "n2"}}
		b.next(out)
		b.next(engine.Out{})
		b.next(engine.Out{ToPeers: []engine.ToPeer{{Node: "n2"}, {Node: "n2"}}})
		b.input()
		b.want("FromPeer n2; send n2; disk begins 0")
		// The disk hangs; the loop goes on.
		b.input()
		b.want("FromPeer n2")
		close(b.diskGate)
		b.want("disk ends; Persisted; send n2; send n2")
	})
}

func TestResetIsItsOwnBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		defer b.end()
		b.next(engine.Out{Persist: &engine.Batch{Batch: consensus.Batch{Reset: true}, RaftID: 9}})
		b.input()
		b.want("FromPeer n2; disk reset 9; Persisted")
	})
}

func TestOutIsCarriedOutInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		defer b.end()
		b.guardComes()
		time.Sleep(time.Second)
		b.want("GuardConn true")
		b.next(engine.Out{
			Calls: []agent.Call{{Token: 5}}, Cancel: []uint64{3}, ToPeers: []engine.ToPeer{{Node: "n2"}},
			Results: []engine.Result{{Token: 99}}, // of somebody who has gone
		})
		b.input()
		b.want("FromPeer n2; send n2; cancel 3; run 5")
		b.finish(5, "x")
		b.want("CallDone 5 x")
	})
}

func TestDroppedMessagesComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		defer b.end()
		b.refuse = true
		b.next(engine.Out{ToPeers: []engine.ToPeer{{Node: "n2"}, {Node: "n3"}}})
		b.input()
		b.want("FromPeer n2; PeerDropped n2; PeerDropped n3")
	})
}

func TestTicksComeWhenTheEngineWantsThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		defer b.end()
		b.next(engine.Out{Wake: b.now() + 100*time.Millisecond})
		b.input()
		b.want("FromPeer n2")
		time.Sleep(99 * time.Millisecond)
		b.want("")
		time.Sleep(2 * time.Millisecond)
		b.want("Tick")
		time.Sleep(time.Minute)
		b.want("")
		// One that wants it at once, always, does not keep others from their turn.
		for range 500 {
			b.next(engine.Out{Wake: 1})
		}
		b.input()
		time.Sleep(100 * time.Millisecond)
		b.input()
		if n := strings.Count(b.told(), "Tick"); n < 50 || n > 110 {
			t.Errorf("%d ticks in 100 ms", n)
		}
	})
}

func TestGroupsAreProtectedBeforeTheEngineGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		defer b.end()
		// Without guard the answer is no.
		b.next(engine.Out{Protect: []string{"web"}})
		b.input()
		b.want(`FromPeer n2; Protected web "guard is not connected"`)
		g := b.guardComes()
		time.Sleep(time.Second)
		b.told()
		b.next(engine.Out{Protect: []string{"web"}})
		b.input()
		b.want("FromPeer n2; guard gets Protect web /cg/web")
		g.answer("")
		b.want(`Protected web ""`)
		b.next(engine.Out{Protect: []string{"db"}})
		b.input()
		b.told()
		g.answer("no lease")
		b.want(`Protected db "no lease"`)
		// Guard goes before it has answered.
		b.next(engine.Out{Protect: []string{"mail"}})
		b.input()
		b.told()
		b.mu.Lock()
		b.lease = b.now() + time.Hour
		b.mu.Unlock()
		_ = g.Close()
		b.want(`GuardConn false; Protected mail "guard is not connected"`)
		b.next(engine.Out{Gone: []string{"web"}})
		b.input()
		b.want("FromPeer n2; release web")
	})
}

func TestWithoutGuardEverythingStopsAtTheEndOfTheLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		defer b.end()
		g := b.guardComes()
		time.Sleep(time.Second)
		b.next(engine.Out{Protect: []string{"web"}})
		b.input()
		synctest.Wait()
		g.answer("")
		synctest.Wait()
		b.next(engine.Out{Calls: []agent.Call{{Token: 8, Starts: true}}})
		b.input()
		b.told()
		b.mu.Lock()
		b.lease = b.now() + 600*time.Millisecond
		b.mu.Unlock()
		_ = g.Close()
		b.want("GuardConn false")
		time.Sleep(590 * time.Millisecond)
		b.want("")
		b.next(engine.Out{Cancel: []uint64{8}})
		time.Sleep(11 * time.Millisecond)
		b.want("from guard lease held=false stopped=false; cancel 8; kill web")
		// What the call has started meanwhile is killed too, and only then all counts as stopped.
		b.finish(8, "cancelled")
		got := b.told()
		if got != "CallDone 8 cancelled; kill web; from guard lease held=false stopped=true" && got != "kill web; CallDone 8 cancelled; from guard lease held=false stopped=true" {
			t.Errorf("told %q", got)
		}
		time.Sleep(time.Minute)
		b.want("")
	})
}

// An end that is noticed after the end of the lease waits for guard's word: it
// is no fault of the service.
func TestEndsAfterTheLeaseWaitForGuardsWord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		defer b.end()
		g := b.guardComes()
		time.Sleep(time.Second)
		lease := func(held bool, until time.Duration) {
			b.mu.Lock()
			b.lease = until
			b.mu.Unlock()
			g.frames <- &guardpb.FromGuard{Body: &guardpb.FromGuard_Lease{Lease: &guardpb.Lease{Held: held}}}
			synctest.Wait()
		}
		lease(true, b.now()+100*time.Millisecond)
		b.next(engine.Out{Calls: []agent.Call{{Token: 8}, {Token: 9}, {Token: 10}}})
		b.input()
		b.told()
		b.finish(8, "is gone") // a fault: the lease goes on
		synctest.Wait()
		b.want("CallDone 8 is gone")
		time.Sleep(101 * time.Millisecond)
		b.finish(9, "is gone")
		time.Sleep(20 * time.Millisecond)
		b.want("")
		lease(false, 0)
		time.Sleep(5 * time.Millisecond)
		b.want("from guard lease held=false stopped=false; CallDone 9 is gone")
		// Without a lease nothing waits.
		b.finish(10, "is gone")
		synctest.Wait()
		b.want("CallDone 10 is gone")
	})
}

func TestGuardThatComesBackInTimeStopsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		defer b.end()
		g := b.guardComes()
		time.Sleep(time.Second)
		g.frames <- &guardpb.FromGuard{Body: &guardpb.FromGuard_Welcome{Welcome: &guardpb.Welcome{Protected: []*guardpb.Protect{{Group: "web"}}}}}
		b.told()
		b.mu.Lock()
		b.lease = b.now() + 600*time.Millisecond
		b.mu.Unlock()
		_ = g.Close()
		time.Sleep(200 * time.Millisecond)
		b.guardComes()
		time.Sleep(time.Hour)
		if got := b.told(); strings.Contains(got, "kill") {
			t.Errorf("told %q", got)
		}
	})
}

func TestKillIsRepeatedUntilEverythingHasStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		defer b.end()
		b.stops = make(chan error, 5)
		b.stops <- errors.New("processes [7] do not end")
		b.stops <- nil
		g := b.guardComes()
		time.Sleep(time.Second)
		g.frames <- &guardpb.FromGuard{Body: &guardpb.FromGuard_Welcome{Welcome: &guardpb.Welcome{Protected: []*guardpb.Protect{{Group: "web"}}}}}
		b.told()
		_ = g.Close()
		time.Sleep(time.Second)
		b.want("GuardConn false; from guard lease held=false stopped=false; kill web; kill web; from guard lease held=false stopped=true")
	})
}

func TestFullDiskEndsTheNodeThroughGuard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		defer b.cancel()
		g := b.guardComes()
		time.Sleep(time.Second)
		b.told()
		b.diskErr = fmt.Errorf("raft.db: %w", logstore.ErrNoSpace)
		b.next(batchOut())
		b.input()
		b.want("FromPeer n2; disk begins 0; disk ends; host closed; guard gets Leaving raft.db: no space left for the raft log")
		b.input() // the engine must not go on
		b.want("")
		g.answer("")
		err := <-b.result
		if !errors.Is(err, ErrGivenUp) || Status(err) != StatusGivenUp || !strings.Contains(err.Error(), "no space left") {
			t.Errorf("ended with %v, status %d", err, Status(err))
		}
	})
}

func TestGivenUpNodeWithoutGuardStopsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		defer b.cancel()
		g := b.guardComes()
		time.Sleep(time.Second)
		g.frames <- &guardpb.FromGuard{Body: &guardpb.FromGuard_Welcome{Welcome: &guardpb.Welcome{Protected: []*guardpb.Protect{{Group: "web"}}}}}
		b.told()
		b.mu.Lock()
		b.lease = b.now() + time.Second
		b.mu.Unlock()
		b.next(engine.Out{Exit: "entry 7 of the log is damaged"})
		_ = g.Close()
		if err := <-b.result; !errors.Is(err, ErrGivenUp) || !strings.Contains(err.Error(), "entry 7") {
			t.Errorf("ended with %v", err)
		}
		b.want("GuardConn false; host closed; kill web")
	})
}

func TestCleanLeaveEndsWithGuard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		defer b.cancel()
		g := b.guardComes()
		time.Sleep(time.Second)
		b.told()
		b.next(engine.Out{Exit: "this node has left the cluster", Left: true})
		b.input()
		synctest.Wait()
		select {
		case err := <-b.result:
			t.Fatalf("ended before guard, with %v", err)
		default:
		}
		_ = g.Close()
		if err := <-b.result; err != nil {
			t.Errorf("ended with %v", err)
		}
	})
}

func TestEndAsToldLeavesServicesAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.guardComes()
		time.Sleep(time.Second)
		b.next(engine.Out{Protect: []string{"web"}})
		b.input()
		b.told()
		b.cancel()
		if err := <-b.result; err != nil || Status(err) != 0 {
			t.Errorf("ended with %v", err)
		}
		if got := b.told(); strings.Contains(got, "kill") || strings.Contains(got, "Leaving") {
			t.Errorf("told %q", got)
		}
	})
}

func TestLinksGoToTheTransport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		defer b.end()
		g := b.guardComes()
		time.Sleep(time.Second)
		b.told()
		peers := func(state guardpb.LinkState, links ...guardpb.LinkState) {
			g.frames <- &guardpb.FromGuard{Body: &guardpb.FromGuard_Peers{Peers: &guardpb.Peers{Peers: []*guardpb.PeerState{{Node: "n1"}, {Node: "n2", State: state, Links: links}}}}}
		}
		const up, down, jeopardy, connecting = guardpb.LinkState_LINK_STATE_UP, guardpb.LinkState_LINK_STATE_DOWN, guardpb.LinkState_LINK_STATE_JEOPARDY, guardpb.LinkState_LINK_STATE_CONNECTING
		peers(connecting, connecting, connecting)
		b.want("link n2 0 true; link n2 1 true; from guard *guardpb.FromGuard_Peers")
		peers(jeopardy, up, down)
		b.want("link n2 0 true; link n2 1 false; kick n2; from guard *guardpb.FromGuard_Peers")
		peers(up, up, up)
		b.want("link n2 0 true; link n2 1 true; from guard *guardpb.FromGuard_Peers")
	})
}

func TestChangedConfigurationMovesAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.id.Dir = t.TempDir()
		defer b.end()
		b.state = &statepb.State{ConfigRevision: 2, Nodes: map[string]*v1.Node{
			"n1": {Name: "n1", Links: []*v1.Link{{Address: "10.0.0.1"}}},
			"n3": {Name: "n3", Links: []*v1.Link{{Address: "10.0.0.3"}}},
		}}
		b.next(engine.Out{Changed: true})
		b.input()
		b.want("FromPeer n2; listen [10.0.0.1:7946]; peers map[n1:[10.0.0.1:7946] n3:[10.0.0.3:7946]]")
		b.next(engine.Out{Changed: true})
		b.input()
		b.want("FromPeer n2")
	})
}

func TestListeningIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.id.Dir = t.TempDir()
		defer b.end()
		b.listens = make(chan error, 3)
		b.listens <- errors.New("address already in use")
		b.listens <- errors.New("address already in use")
		b.listens <- nil
		b.state = &statepb.State{ConfigRevision: 2, Nodes: map[string]*v1.Node{"n1": b.id.Nodes[0]}}
		b.next(engine.Out{Changed: true})
		b.input()
		time.Sleep(1500 * time.Millisecond)
		b.told()
		if b.listenFault == "" {
			t.Error("nothing is said of it")
		}
		b.want("")
		time.Sleep(time.Minute)
		b.want("listen [10.0.0.1:7946]")
		if b.listenFault != "" {
			t.Error(b.listenFault)
		}
	})
}
