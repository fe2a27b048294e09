package agent

import "container/heap"

// queue orders resources by the time at which they have to be looked at, then by age, so that the order never depends on
// chance.
type queue []*resource

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	if q[i].at != q[j].at {
		return q[i].at < q[j].at
	}
	return q[i].seq < q[j].seq
}
func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].slot, q[j].slot = i, j
}
func (q *queue) Push(x any) {
	r := x.(*resource)
	r.slot = len(*q)
	*q = append(*q, r)
}
func (q *queue) Pop() any {
	old := *q
	r := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	r.slot = -1
	return r
}

// arrange puts x where its time belongs.
func (q *queue) arrange(x *resource) {
	switch {
	case x.at == never && x.slot >= 0:
		heap.Remove(q, x.slot)
	case x.at == never:
	case x.slot >= 0:
		heap.Fix(q, x.slot)
	default:
		heap.Push(q, x)
	}
}

// drop takes x out.
func (q *queue) drop(x *resource) {
	if x.slot >= 0 {
		heap.Remove(q, x.slot)
	}
}
