package agent

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

// bigWorld is a node with 10,000 resources in 400 groups.
func bigWorld(b failer) *world {
	w := newWorld(b)
	types := map[string]*v1.ResourceType{"on-off": {Name: "on-off"}}
	w.desired = Desired{Incarnation: 1, MayAct: true}
	for g := range 400 {
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
		for _, rep := range a.Reports {
			for _, s := range rep.Resources {
				w.reported[s.State]++
			}
		}
		if len(a.Calls) == 0 {
			return calls
		}
		for _, c := range a.Calls {
			calls++
			w.answer(c)
		}
	}
}

// answer a call at once.
func (w *world) answer(c Call) {
	th := w.thing(c.Group, c.Resource)
	res := Result{}
	switch c.Entry {
	case Online:
		th.running = true
	case Offline, Clean:
		th.running = false
	case Monitor:
		res.State = offline
		if th.running {
			res.State = online
		}
	}
	w.r.Done(w.now, 0, Done{Token: c.Token, Result: res})
}

// up has everything online.
func (w *world) up() {
	w.r.Desire(0, 0, w.desired)
	w.instant()
}

// BenchmarkStart brings 10,000 resources online: 40,000 calls with their outcomes.
func BenchmarkStart(b *testing.B) {
	for b.Loop() {
		w := bigWorld(b)
		w.r.Desire(0, 0, w.desired)
		if calls := w.instant(); calls != 40000 {
			b.Fatalf("%d calls", calls)
		}
	}
}

// BenchmarkMinute is a minute of monitoring 10,000 online resources.
func BenchmarkMinute(b *testing.B) {
	w := bigWorld(b)
	w.up()
	ticks := 0
	b.ResetTimer()
	for b.Loop() {
		calls := 0
		for end := w.now + time.Minute; w.wake < end; ticks++ {
			w.now = w.wake
			w.r.Tick(w.now)
			calls += w.instant()
		}
		if calls < 9800 {
			b.Fatalf("%d calls", calls)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(ticks), "µs/tick")
}

// BenchmarkDeaths is the sudden death of 5,000 of 10,000 resources, up to the last report: notices, monitors, cleans and
// faults, and the way offline of what needed them.
func BenchmarkDeaths(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		w := bigWorld(b)
		w.up()
		var dead []Notice
		for _, g := range w.desired.Groups[:200] {
			for _, r := range g.Config.Resources {
				w.thing(g.Config.Name, r.Name).running = false
				dead = append(dead, Notice{Group: g.Config.Name, Resource: r.Name, What: "killed"})
			}
		}
		w.now += time.Second
		b.StartTimer()
		for _, n := range dead {
			w.r.Notify(w.now, n)
		}
		w.instant()
		if w.reported[faulted] < 200 {
			b.Fatalf("%v", w.reported)
		}
	}
}

// BenchmarkDesire hands over a state in which nothing has changed, as new messages.
func BenchmarkDesire(b *testing.B) {
	w := bigWorld(b)
	w.up()
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
