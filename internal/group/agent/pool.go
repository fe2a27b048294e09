package agent

import v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"

// How many calls of a type run at once where NumThreads does not say: what a bundled agent does is cheap, others run programs.
const (
	programThreads = 10
	bundledThreads = 100
)

// fairness: one call in so many goes to the resource that has waited longest, however urgent the others are.
const fairness = 4

// class of a call, most urgent first.
type class uint8

const (
	// stops are offline, clean and the monitors after them: what they end may have to be gone before it is started elsewhere.
	stops class = iota
	starts
	// soon are monitors after online or after a notice, first probes, and what people wait for.
	soon
	// routine are periodic monitors.
	routine
	// extra is info.
	extra
	classes = 5
)

// pool bounds the calls of one type (A7). A resource whose call is due waits in it for one of its slots.
type pool struct {
	threads, running int
	lines            [classes]line
	waiting          int
	tickets, grants  uint64
	// listed: it is in Runtime.short.
	listed bool
}

// line of resources that wait, oldest first.
type line struct{ first, last *resource }

// waiter is the place of a resource in a pool's line.
type waiter struct {
	pool *pool
	class
	ticket     uint64
	prev, next *resource
}

// bound is how many calls may run when one of that class begins. A part of the slots is kept for what is more urgent, so
// that calls that hang don't keep resources from being stopped, nor monitors that hang others from being started.
func (p *pool) bound(c class) int {
	kept := p.threads / 4
	switch c {
	case stops:
		return p.threads
	case starts, soon:
		return p.threads - kept
	}
	return p.threads - 2*kept
}

// poolOf is where calls of a type wait.
func (r *Runtime) poolOf(typ string) *pool {
	p := r.pools[typ]
	if p == nil {
		p = &pool{threads: programThreads}
		r.pools[typ] = p
	}
	return p
}

func threads(t *v1.ResourceType) int {
	switch {
	case t.GetNumThreads() > 0:
		return int(t.GetNumThreads())
	case t.GetAgent() == nil:
		return bundledThreads
	}
	return programThreads
}

// await has x wait for a slot for a call of class c.
func (r *Runtime) await(x *resource, c class) {
	if x.wait.pool != nil {
		if x.wait.class == c {
			return
		}
		x.wait.pool.remove(x)
	}
	p := r.poolOf(x.config.GetType())
	p.add(x, c)
	if !p.listed {
		p.listed = true
		r.short = append(r.short, p)
	}
}

// leave takes x out of the line that it waits in.
func (r *Runtime) leave(x *resource) {
	if x.wait.pool != nil {
		x.wait.pool.remove(x)
	}
}

func (p *pool) add(x *resource, c class) {
	p.tickets++
	l := &p.lines[c]
	x.wait = waiter{pool: p, class: c, ticket: p.tickets, prev: l.last}
	if l.last == nil {
		l.first = x
	} else {
		l.last.wait.next = x
	}
	l.last = x
	p.waiting++
}

func (p *pool) remove(x *resource) {
	w, l := x.wait, &p.lines[x.wait.class]
	if w.prev == nil {
		l.first = w.next
	} else {
		w.prev.wait.next = w.next
	}
	if w.next == nil {
		l.last = w.prev
	} else {
		w.next.wait.prev = w.prev
	}
	x.wait = waiter{}
	p.waiting--
}

// pick returns the resource whose turn it is, nil if none may begin now.
func (p *pool) pick() *resource {
	var urgent, oldest *resource
	for c := range class(classes) {
		x := p.lines[c].first
		if x == nil || p.running >= p.bound(c) {
			continue
		}
		if urgent == nil {
			urgent = x
		}
		if oldest == nil || x.wait.ticket < oldest.wait.ticket {
			oldest = x
		}
	}
	if urgent == oldest {
		return urgent
	}
	if p.grants++; p.grants%fairness == 0 {
		return oldest
	}
	return urgent
}
