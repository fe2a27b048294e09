package agent

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

// bigWorld is a node with 5,000 resources in 200 groups.
func bigWorld(b *testing.B) *world {
	w := newWorld(b)
	types := map[string]*v1.ResourceType{"on-off": {Name: "on-off"}}
	w.desired = Desired{Incarnation: 1, MayAct: true}
	for g := range 200 {
		c := &v1.Group{Name: fmt.Sprintf("group%03d", g)}
		for i := range 25 {
			r := &v1.Resource{Name: fmt.Sprintf("r%02d", i), Type: "on-off"}
			if i > 0 {
				r.Requires = []string{fmt.Sprintf("r%02d", i/2)}
			}
			if i == 1 {
				r.Requires = []string{"r00"}
			}
			c.Resources = append(c.Resources, r)
		}
		w.desired.Groups = append(w.desired.Groups, Group{Config: c, Types: types, Intent: 1, Want: v1.Want_WANT_ONLINE})
	}
	return w
}

// instant answers all calls at once and returns how many there were.
func (w *world) instant() (calls int) {
	for {
		a := w.r.Take()
		w.wake = a.Wake
		if len(a.Calls) == 0 {
			return calls
		}
		for _, c := range a.Calls {
			calls++
			th := w.thing(c.Group, c.Resource)
			res := Result{}
			switch c.Entry {
			case Online:
				th.running = true
			case Monitor:
				res.State = offline
				if th.running {
					res.State = online
				}
			}
			w.r.Done(w.now, 0, Done{Token: c.Token, Result: res})
		}
	}
}

// BenchmarkStart5000 brings 5,000 resources online: 15,000 calls with their outcomes.
func BenchmarkStart5000(b *testing.B) {
	for b.Loop() {
		w := bigWorld(b)
		w.r.Desire(0, 0, w.desired)
		if calls := w.instant(); calls != 15000 {
			b.Fatalf("%d calls", calls)
		}
	}
}

// BenchmarkMinute5000 is a minute of monitoring 5,000 online resources.
func BenchmarkMinute5000(b *testing.B) {
	w := bigWorld(b)
	w.r.Desire(0, 0, w.desired)
	w.instant()
	b.ResetTimer()
	for b.Loop() {
		calls := 0
		for end := w.now + time.Minute; w.wake < end; {
			w.now = w.wake
			w.r.Tick(w.now)
			calls += w.instant()
		}
		if calls < 4900 {
			b.Fatalf("%d calls", calls)
		}
	}
}

// BenchmarkDesire5000 hands over a state in which nothing has changed, as new messages.
func BenchmarkDesire5000(b *testing.B) {
	w := bigWorld(b)
	w.r.Desire(0, 0, w.desired)
	w.instant()
	other := Desired{Incarnation: 1, MayAct: true}
	for _, g := range w.desired.Groups {
		g.Config = proto.CloneOf(g.Config)
		other.Groups = append(other.Groups, g)
	}
	b.ResetTimer()
	for b.Loop() {
		w.r.Desire(w.now, 0, other)
		w.r.Take()
		other, w.desired = w.desired, other
	}
}
