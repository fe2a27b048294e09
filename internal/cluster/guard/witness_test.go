package guard

import (
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
)

// lastOfTwo is the guard of a, whose peer b is not heard; the coordination points vote as 9.
type lastOfTwo struct {
	*Core
	now   time.Duration
	wants []*guardpb.WitnessWanted
}

func newLastOfTwo() *lastOfTwo {
	l := &lastOfTwo{Core: New(0, Config{Node: "a", Incarnation: 1})}
	l.EngineConn(0, true)
	c := goodConfigure()
	c.WitnessRaftId, c.Peers[0].Stays = 9, 4
	l.Engine(0, &guardpb.ToGuard{Body: &guardpb.ToGuard_Configure{Configure: c}})
	return l
}

// pass time, answering each question by ack (nil: not).
func (l *lastOfTwo) pass(until time.Duration, ack func(*guardpb.WitnessWanted) *guardpb.WitnessAcked) {
	for ; l.now < until; l.now += 10 * time.Millisecond {
		l.Tick(l.now)
		l.Engine(l.now, &guardpb.ToGuard{Body: &guardpb.ToGuard_Tick{Tick: &guardpb.Tick{Counter: uint64(l.now)}}})
		for _, f := range l.Take().Engine {
			w := f.GetWitnessWanted()
			if w == nil {
				continue
			}
			l.wants = append(l.wants, w)
			if m := ack(w); m != nil {
				l.Engine(l.now, &guardpb.ToGuard{Body: &guardpb.ToGuard_WitnessAcked{WitnessAcked: m}})
			}
		}
	}
}

func acked(w *guardpb.WitnessWanted) *guardpb.WitnessAcked {
	return &guardpb.WitnessAcked{Number: w.GetNumber(), RaftId: w.GetRaftId(), WitnessRaftId: w.GetWitnessRaftId(), GuardIncarnation: 1}
}

func TestPointsKeepTheLastNodesLease(t *testing.T) {
	l := newLastOfTwo()
	l.pass(3*time.Second, acked)
	if !l.LeaseHeld(l.now) {
		t.Fatal("the coordination points acknowledge, and there is no lease")
	}
	w := l.wants[len(l.wants)-1]
	if w.GetEpoch() != 3 || w.GetRaftId() != 1 || w.GetStays() != 4 || w.GetWitnessRaftId() != 9 || !slices.Equal(w.GetSilent(), []string{"b"}) {
		t.Fatalf("asked %v", w)
	}
	if n := len(l.wants); n > 3*10/askBeats+3 {
		t.Fatalf("asked %d times in 3s although the answer was fresh", n)
	}
	from := l.now
	l.pass(from+time.Second, func(*guardpb.WitnessWanted) *guardpb.WitnessAcked { return nil })
	if l.LeaseHeld(l.now) {
		t.Fatal("a lease that nobody has acknowledged for a second")
	}
}

// What is not this guard's answer to this question counts for nothing.
func TestForeignAcknowledgementsOfPoints(t *testing.T) {
	for name, spoil := range map[string]func(*guardpb.WitnessAcked){
		"of points that were replaced":   func(m *guardpb.WitnessAcked) { m.WitnessRaftId-- },
		"for an earlier incarnation":     func(m *guardpb.WitnessAcked) { m.RaftId++ },
		"for another guard of this node": func(m *guardpb.WitnessAcked) { m.GuardIncarnation++ },
		"of a number that was not sent":  func(m *guardpb.WitnessAcked) { m.Number += 1000 },
	} {
		l := newLastOfTwo()
		l.pass(2*time.Second, func(w *guardpb.WitnessWanted) *guardpb.WitnessAcked {
			m := acked(w)
			spoil(m)
			return m
		})
		if l.LeaseHeld(l.now) {
			t.Errorf("a lease from an acknowledgement %s", name)
		}
	}
}

// Other points than those that acknowledged do not inherit their word.
func TestAcknowledgementEndsWithThePoints(t *testing.T) {
	l := newLastOfTwo()
	l.pass(time.Second, acked)
	c := goodConfigure()
	c.Epoch, c.WitnessRaftId = 4, 10
	c.Peerinact = durationpb.New(time.Second)
	l.Engine(l.now, &guardpb.ToGuard{Body: &guardpb.ToGuard_Configure{Configure: c}})
	l.pass(l.now+20*time.Millisecond, func(*guardpb.WitnessWanted) *guardpb.WitnessAcked { return nil })
	if l.LeaseHeld(l.now) {
		t.Fatal("the lease by points that vote no more goes on")
	}
}
