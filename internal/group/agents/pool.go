package agents

import (
	"runtime"
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
//	P3  a call that runs for longer than patience gives its place back, so that what hangs keeps nobody waiting; but there
//	    is an end to that, too
//
// How many calls of one type run at once is the runtime's business; here is what the node can bear in all.
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
	// lines of calls that wait by type, and the order in which types have their turn, each for urgent calls first.
	lines [2]map[string]*typeLine
	order [2][]*typeLine
}

// typeLine has the calls of a type that wait, oldest first.
type typeLine struct {
	name    string
	waiting []*ticket
}

// ticket is a call that waits or runs.
type ticket struct {
	call agent.Call
	done func(agent.Result)

	started, withdrawn, ended bool
	// place: it still holds one.
	place bool
}

func newPool(cpus int) *pool {
	p := &pool{waiting: map[uint64]*ticket{}, patience: callPatience}
	places := min(max(32, 8*cpus), 256)
	for i := range p.lanes {
		n := places * (i + 1) // changing: there is much to do at once after a failure, and most of it is waiting
		p.lanes[i] = lane{places: n, most: 8 * n, lines: [2]map[string]*typeLine{{}, {}}}
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
	line := l.lines[u][t.call.Type]
	if line == nil {
		line = &typeLine{name: t.call.Type}
		l.lines[u][line.name] = line
		l.order[u] = append(l.order[u], line)
	}
	line.waiting = append(line.waiting, t)
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
		for len(l.order[u]) > 0 {
			line := l.order[u][0]
			l.order[u] = l.order[u][1:]
			t := line.next()
			if len(line.waiting) > 0 {
				l.order[u] = append(l.order[u], line)
			} else {
				delete(l.lines[u], line.name)
			}
			if t != nil {
				t.started, t.place = true, true
				l.running++
				l.taken++
				return t
			}
		}
	}
	return nil
}

// next takes the oldest call out of the line that was not withdrawn.
func (line *typeLine) next() *ticket {
	for len(line.waiting) > 0 {
		t := line.waiting[0]
		line.waiting = line.waiting[1:]
		if !t.withdrawn {
			return t
		}
	}
	return nil
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

// leave gives the place of a call back that goes on (P3).
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
	p.lanes[t.lane()].running--
}

func cpus() int { return runtime.NumCPU() }
