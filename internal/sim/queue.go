package sim

import (
	"container/heap"
	"time"
)

// A queue holds what will happen. Ties are broken by the order of asking, so a
// run depends on nothing but its seed.
type queue struct {
	now    time.Duration
	serial uint64
	items  eventHeap
}

type simEvent struct {
	at     time.Duration
	serial uint64
	run    func()
	index  int
}

// at makes run happen at t, or now if t has passed. The result can be
// cancelled.
func (q *queue) at(t time.Duration, run func()) *simEvent {
	q.serial++
	e := &simEvent{at: max(t, q.now), serial: q.serial, run: run}
	heap.Push(&q.items, e)
	return e
}

func (q *queue) after(d time.Duration, run func()) *simEvent {
	return q.at(q.now+d, run)
}

// cancel e, which may be nil, past or cancelled already.
func (q *queue) cancel(e *simEvent) {
	if e != nil && e.index >= 0 {
		heap.Remove(&q.items, e.index)
	}
}

// step runs the next event unless it lies after until.
func (q *queue) step(until time.Duration) bool {
	if len(q.items) == 0 || q.items[0].at > until {
		q.now = max(q.now, until)
		return false
	}
	e := heap.Pop(&q.items).(*simEvent)
	q.now = e.at
	e.run()
	return true
}

type eventHeap []*simEvent

func (h eventHeap) Len() int { return len(h) }
func (h eventHeap) Less(i, j int) bool {
	if h[i].at != h[j].at {
		return h[i].at < h[j].at
	}
	return h[i].serial < h[j].serial
}
func (h eventHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}
func (h *eventHeap) Push(x any) {
	e := x.(*simEvent)
	e.index = len(*h)
	*h = append(*h, e)
}
func (h *eventHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	e.index = -1
	return e
}
