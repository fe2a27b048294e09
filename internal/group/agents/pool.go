package agents

import (
	"runtime"
	"slices"
	"time"

	"github.com/holdfast-ha/holdfast/internal/group/agent"
)

// callPatience is how long a call may hold its place. What takes longer waits for something, or hangs.
const callPatience = time.Second

// pool decides which calls run now and which wait. It holds no goroutine: a
// call that waits is an entry in a list. The host's mutex guards it.
//
//	P1  a call that changes something never waits for one that only looks, and not the other way round
//	P2  clean and offline come before other calls, and calls of one type do not keep those of another waiting: types take turns
//	P3  no more calls of a type run at once than it wants, looking and changing counted apart
//	P4  a call that runs for longer than patience gives its place back, so that what hangs keeps nobody waiting; but there
//	    is an end to that, too
type pool struct {
	lanes    [2]lane
	waiting  map[uint64]*ticket
	patience time.Duration
}

// lane is one half of the pool: looking, or changing.
type lane struct {
	// places are taken by calls that have begun not long ago; most are all that run.
	places, most   int
	taken, running int
	// types with calls that wait or run; order is that in which types with waiting calls have their turn, the urgent ones first.
	types map[string]*typeLine
	order [2][]*typeLine
}

type typeLine struct {
	name    string
	running int
	// waiting calls, the urgent ones first, each oldest first.
	waiting [2][]*ticket
}

// ticket is a call that waits or runs.
type ticket struct {
	call agent.Call
	done func(agent.Result)
	// limit of calls of its type at once.
	limit int

	started, withdrawn, ended bool
	// place: it still holds one.
	place bool
}

func newPool(cpus int) *pool {
	p := &pool{waiting: map[uint64]*ticket{}, patience: callPatience}
	places := min(max(32, 8*cpus), 256)
	for i := range p.lanes {
		n := places * (i + 1) // changing: there is much to do at once after a failure, and most of it is waiting
		p.lanes[i] = lane{places: n, most: 8 * n, types: map[string]*typeLine{}}
	}
	return p
}

func (t *ticket) lane() int {
	if t.call.Entry == agent.Monitor || t.call.Entry == agent.Info {
		return 0
	}
	return 1
}

func (t *ticket) urgency() int {
	if t.call.Entry == agent.Clean || t.call.Entry == agent.Offline {
		return 0
	}
	return 1
}

// add puts a call into the line of its type. next tells whether it may begin.
func (p *pool) add(t *ticket) {
	l, u := &p.lanes[t.lane()], t.urgency()
	line := l.types[t.call.Type]
	if line == nil {
		line = &typeLine{name: t.call.Type}
		l.types[t.call.Type] = line
	}
	if len(line.waiting[u]) == 0 {
		l.order[u] = append(l.order[u], line)
	}
	line.waiting[u] = append(line.waiting[u], t)
	p.waiting[t.call.Token] = t
}

// next returns a call that begins now; nil: none may.
func (p *pool) next() *ticket {
	for i := range p.lanes {
		if t := p.lanes[i].next(); t != nil {
			delete(p.waiting, t.call.Token)
			return t
		}
	}
	return nil
}

func (l *lane) next() *ticket {
	if l.taken >= l.places || l.running >= l.most {
		return nil
	}
	for u := range l.order {
		for i := 0; i < len(l.order[u]); i++ {
			line := l.order[u][i]
			line.skipWithdrawn(u)
			switch {
			case len(line.waiting[u]) == 0:
				l.order[u] = slices.Delete(l.order[u], i, i+1)
				l.tidy(line)
				i--
				continue
			case line.running >= line.waiting[u][0].limit:
				continue
			}
			t := line.waiting[u][0]
			line.waiting[u] = line.waiting[u][1:]
			l.order[u] = slices.Delete(l.order[u], i, i+1)
			if len(line.waiting[u]) > 0 {
				l.order[u] = append(l.order[u], line)
			}
			t.started, t.place = true, true
			line.running++
			l.running++
			l.taken++
			return t
		}
	}
	return nil
}

func (line *typeLine) skipWithdrawn(u int) {
	for len(line.waiting[u]) > 0 && line.waiting[u][0].withdrawn {
		line.waiting[u] = line.waiting[u][1:]
	}
}

// withdraw takes back a call that waits; nil: there is none.
func (p *pool) withdraw(token uint64) *ticket {
	t := p.waiting[token]
	if t != nil {
		t.withdrawn = true
		delete(p.waiting, token)
	}
	return t
}

// withdrawAll takes back everything that waits, in no particular order.
func (p *pool) withdrawAll() []*ticket {
	var out []*ticket
	for token := range p.waiting {
		out = append(out, p.withdraw(token))
	}
	return out
}

// leave gives the place of a call back that goes on (P4).
func (p *pool) leave(t *ticket) {
	if t.place {
		t.place = false
		p.lanes[t.lane()].taken--
	}
}

// end tells that a call has ended.
func (p *pool) end(t *ticket) {
	if !t.started || t.ended {
		return
	}
	t.ended = true
	p.leave(t)
	l := &p.lanes[t.lane()]
	l.running--
	line := l.types[t.call.Type]
	line.running--
	l.tidy(line)
}

// tidy forgets a type of which nothing runs or waits.
func (l *lane) tidy(line *typeLine) {
	if line.running == 0 && len(line.waiting[0]) == 0 && len(line.waiting[1]) == 0 {
		delete(l.types, line.name)
	}
}

// threads is how many calls of its type may run at once. Bundled agents are as cheap as their type has many resources;
// those that are programs are bounded as the field bounds them.
func threads(c agent.Call) int {
	switch n := c.Definition.GetNumThreads(); {
	case n > 0:
		return int(n)
	case c.Definition.GetScript() != nil, c.Definition.GetOcf() != nil:
		return 10
	}
	return 1 << 30
}

func cpus() int { return runtime.NumCPU() }
