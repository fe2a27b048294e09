package agent

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

// naivePool is what a pool shall be, on a plain list.
type naivePool struct {
	threads, running, contests int
	waiting                    []*resource
}

func (n *naivePool) pick() *resource {
	var urgent, oldest *resource
	for _, x := range n.waiting { // in the order in which they came
		kept := map[class]int{stops: 0, starts: n.threads / 4, soon: n.threads / 4, routine: n.threads / 4 * 2, extra: n.threads / 4 * 2}
		if n.running >= n.threads-kept[x.wait.class] {
			continue
		}
		if oldest == nil {
			oldest = x
		}
		if urgent == nil || x.wait.class < urgent.wait.class {
			urgent = x
		}
	}
	if urgent != oldest {
		if n.contests++; n.contests%fairness == 0 {
			return oldest
		}
	}
	return urgent
}

// TestPool compares the pool with its naive twin.
func TestPool(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := &pool{threads: rapid.IntRange(1, 12).Draw(t, "threads")}
		n := &naivePool{threads: p.threads}
		for range 200 {
			switch rapid.SampledFrom([]string{"wait", "wait", "leave", "begin", "begin", "end"}).Draw(t, "step") {
			case "wait":
				x := &resource{}
				p.add(x, rapid.SampledFrom([]class{stops, starts, soon, routine, extra}).Draw(t, "class"))
				n.waiting = append(n.waiting, x)
			case "leave":
				if len(n.waiting) > 0 {
					i := rapid.IntRange(0, len(n.waiting)-1).Draw(t, "who")
					p.remove(n.waiting[i])
					n.waiting = slices.Delete(n.waiting, i, i+1)
				}
			case "begin":
				want := n.pick()
				got := p.pick()
				if got != want {
					t.Fatalf("%v of %v, not %v", got, n.waiting, want)
				}
				if got != nil {
					p.remove(got)
					n.waiting = slices.DeleteFunc(n.waiting, func(x *resource) bool { return x == got })
					p.running++
					n.running++
				}
			case "end":
				if p.running > 0 {
					p.running--
					n.running--
				}
			}
			if p.waiting != len(n.waiting) {
				t.Fatalf("%d wait, not %d", p.waiting, len(n.waiting))
			}
		}
	})
}

// TestNoStorm: a node with 10,000 resources of one type never has more calls under way than the type allows, and their
// monitors are spread over the interval.
func TestNoStorm(t *testing.T) {
	w := bigWorld(t)
	w.r.Desire(0, 0, w.desired)
	most := 0
	for {
		a := w.r.Take()
		if len(a.Calls) == 0 {
			w.wake = a.Wake
			break
		}
		most = max(most, len(a.Calls))
		for _, c := range a.Calls {
			w.answer(c)
		}
	}
	// What has ended makes room at once, so a whole batch may begin while one is taken; never more.
	if most > bundledThreads {
		t.Errorf("%d calls at once", most)
	}
	var perTick []int
	for end := w.now + 5*time.Minute; w.wake < end; {
		w.now = w.wake
		w.r.Tick(w.now)
		perTick = append(perTick, w.instant())
	}
	// 10,000 in a minute, at most four times a second.
	if busiest := slices.Max(perTick); busiest > 130 || len(perTick) > 5*60*4+1 {
		t.Errorf("%d monitors in one of %d ticks", busiest, len(perTick))
	}
}

func TestThreads(t *testing.T) {
	for _, c := range []struct {
		typ  *v1.ResourceType
		want int
	}{
		{&v1.ResourceType{}, 100},
		{&v1.ResourceType{NumThreads: proto.Uint32(7)}, 7},
		{&v1.ResourceType{Agent: &v1.ResourceType_Script{}}, 10},
		{&v1.ResourceType{Agent: &v1.ResourceType_Ocf{}, NumThreads: proto.Uint32(1)}, 1},
	} {
		if got := threads(c.typ); got != c.want {
			t.Errorf("%v: %d, not %d", c.typ, got, c.want)
		}
	}
}

// Wherever a class begins, a more urgent one has room left, if there are slots enough to keep some.
func TestBounds(t *testing.T) {
	for threads := 1; threads <= 100; threads++ {
		p := &pool{threads: threads}
		got := fmt.Sprint(p.bound(stops) == threads, p.bound(starts) == p.bound(soon), p.bound(routine) == p.bound(extra), p.bound(extra) > 0)
		if got != "true true true true" {
			t.Fatalf("%d: %s", threads, got)
		}
		if threads >= 4 && (p.bound(starts) >= threads || p.bound(routine) >= p.bound(starts)) {
			t.Fatalf("%d threads: %d, %d, %d", threads, p.bound(stops), p.bound(starts), p.bound(routine))
		}
	}
}
