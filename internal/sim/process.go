package sim

import (
	"slices"
	"time"
)

// A process is one daemon of a node. Events for it are posted; while it is
// frozen they wait, and when it ends they are forgotten. A later incarnation is
// another process.
type process struct {
	q       *queue
	alive   bool
	frozen  int // how many reasons there are not to run
	waiting []posted
}

type posted struct {
	droppable bool // a datagram in a socket buffer that may overflow
	run       func()
}

// socketBuffer is how many datagrams wait for a frozen process; later ones are
// lost.
const socketBuffer = 200

func (q *queue) newProcess() *process { return &process{q: q, alive: true} }

// post makes run happen in the process after d.
func (p *process) post(d time.Duration, run func()) *simEvent {
	return p.q.after(d, func() { p.do(false, run) })
}

// do runs now, or as soon as the process runs again.
func (p *process) do(droppable bool, run func()) {
	switch {
	case !p.alive:
	case p.frozen == 0:
		run()
	case droppable && len(p.waiting) >= socketBuffer:
	default:
		p.waiting = append(p.waiting, posted{droppable, run})
	}
}

func (p *process) freeze() { p.frozen++ }

// thaw takes one reason away. What waited then happens at once: first what lies
// in socket buffers, then the rest, each in its order.
func (p *process) thaw() {
	if p.frozen--; p.frozen > 0 || !p.alive {
		return
	}
	for p.alive && p.frozen == 0 && len(p.waiting) > 0 {
		i := max(0, slices.IndexFunc(p.waiting, func(x posted) bool { return x.droppable }))
		next := p.waiting[i]
		p.waiting = slices.Delete(p.waiting, i, i+1)
		next.run()
	}
}

func (p *process) kill() {
	p.alive = false
	p.waiting = nil
}
