//go:build linux

package clusterd

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
	"github.com/holdfast-ha/holdfast/internal/node/engine"
)

func TestTriggersAreRunAndEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.next(engine.Out{Triggers: []engine.TriggerCall{{Number: 4, Program: "/t/postonline", Arguments: []string{"postonline", "n1", "web"}}}})
		b.input()
		b.want("FromPeer n2; program /t/postonline postonline n1 web; TriggerEnded 4 0")
		b.next(engine.Out{Triggers: []engine.TriggerCall{{Number: 5, Program: "/t/hangs"}, {Number: 6, Program: "/t/hangs"}}})
		b.input()
		b.want("FromPeer n2; program /t/hangs; program /t/hangs")
		b.next(engine.Out{CancelTriggers: []uint64{5, 99}})
		b.input()
		b.want("FromPeer n2; TriggerEnded 5 -1")
		b.end() // also while one runs
	})
}

func TestSignalsGoToTheAgents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		defer b.end()
		b.next(engine.Out{Signals: map[string]*statepb.SignalValue{"b": {Value: 2}, "a": {Value: 1}}})
		b.input()
		b.want("FromPeer n2; signal a is 1; signal b is 2")
		b.input()
		b.want("FromPeer n2")
	})
}

// What was left running by a detach is stopped without guard only if it has come under a lease again.
func TestWithoutGuardWhatIsDetachedGoesOn(t *testing.T) {
	for _, taken := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			defer b.end()
			g := b.guardComes()
			time.Sleep(time.Second)
			g.frames <- &guardpb.FromGuard{Body: &guardpb.FromGuard_Welcome{Welcome: &guardpb.Welcome{GuardIncarnation: 2, Detached: []*guardpb.Protect{{Group: "web"}}}}}
			g.frames <- &guardpb.FromGuard{Body: &guardpb.FromGuard_Lease{Lease: &guardpb.Lease{Held: taken, Detached: !taken}}}
			b.told()
			_ = g.Close()
			b.want("GuardConn false")
			time.Sleep(time.Minute)
			if taken {
				b.want("from guard lease held=false stopped=false; kill web; from guard lease held=false stopped=true")
			} else {
				b.want("")
			}
		})
	}
}
