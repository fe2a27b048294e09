package agents

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

// Signal is the value of a signal from outside on this node, as the cluster has it.
type Signal struct {
	// State of a simple signal.
	State v1.SignalState
	// Value of an extended one; 0: never set.
	Value int64
	// SetMs is when it was set by the wall clock of this node, in Unix milliseconds. It changes whenever it is set again.
	SetMs int64
	// TimeToLive: it is unknown when it has not been set again for so long. 0: it stays.
	TimeToLive time.Duration
}

// SetSignals tells what all signals of this node are now; those that are left out are unknown.
func (h *Host) SetSignals(signals map[string]Signal) { h.signals.set(signals) }

// criteria of an extended signal; the zero value is that of a simple one.
type criteria struct {
	op    string
	value int64
}

// parseCriteria refuses what no value or every value of 1 to 2147483647 fulfils.
func parseCriteria(s string) (criteria, error) {
	s = strings.TrimSpace(s)
	if s == "" {
		return criteria{}, nil
	}
	for _, op := range []string{"==", "!=", "<=", ">=", "<", ">"} { // the longer ones first
		rest, ok := strings.CutPrefix(s, op)
		if !ok {
			continue
		}
		v, err := strconv.ParseInt(strings.TrimSpace(rest), 10, 64)
		if err != nil || v < 1 || v > math.MaxInt32 {
			return criteria{}, fmt.Errorf("%q: what follows %s must be a whole number from 1 to %d", s, op, math.MaxInt32)
		}
		c := criteria{op, v}
		// Between the ends of the range an operator other than == and != changes its mind once, so the ends and the number tell.
		first, last, itself := c.holds(1), c.holds(math.MaxInt32), c.holds(v)
		switch {
		case !first && !last && !itself:
			return criteria{}, fmt.Errorf("%q never holds: values are from 1 to %d", s, math.MaxInt32)
		case first && last && itself:
			return criteria{}, fmt.Errorf("%q always holds: values are from 1 to %d", s, math.MaxInt32)
		}
		return c, nil
	}
	return criteria{}, fmt.Errorf("%q does not begin with one of == != < > <= >=", s)
}

func (c criteria) holds(v int64) bool {
	switch c.op {
	case "==":
		return v == c.value
	case "!=":
		return v != c.value
	case "<":
		return v < c.value
	case ">":
		return v > c.value
	case "<=":
		return v <= c.value
	case ">=":
		return v >= c.value
	}
	return false
}

// ordered: it has a side on which it holds, so that a margin makes sense.
func (c criteria) ordered() bool { return c.op != "" && c.op != "==" && c.op != "!=" }

// opinion is what a signal means to a resource.
type opinion uint8

const (
	opinionUnknown opinion = iota
	opinionDown
	opinionUp
)

// listener is how a resource looks at a signal.
type listener struct {
	signal   string
	criteria criteria
	// margin by which a value must miss the criteria to be down once it was up.
	margin int64
	// patience is how long a change must last before it counts.
	patience time.Duration
}

// opinion of a signal, where was is what was thought of it before.
func (l listener) opinion(s Signal, alive bool, was opinion) opinion {
	if !alive {
		return opinionUnknown
	}
	if l.criteria.op == "" {
		switch s.State {
		case v1.SignalState_SIGNAL_STATE_UP:
			return opinionUp
		case v1.SignalState_SIGNAL_STATE_DOWN:
			return opinionDown
		}
		return opinionUnknown
	}
	if s.Value < 1 {
		return opinionUnknown
	}
	holds := l.criteria.holds(s.Value)
	if !holds && was == opinionUp && l.margin > 0 {
		holds = l.criteria.holds(s.Value+l.margin) || l.criteria.holds(s.Value-l.margin)
	}
	if holds {
		return opinionUp
	}
	return opinionDown
}

// signalBoard knows the signals of this node, and tells resources what they mean to them.
type signalBoard struct {
	tell func(key, string)

	mu      sync.Mutex
	closed  bool
	signals map[string]posted
	heard   map[key]*hearing
	timer   *time.Timer
}

// posted is a signal with the time at which it ends to be believed; the zero time: never.
type posted struct {
	Signal
	ends time.Time
}

// hearing is a resource that listens.
type hearing struct {
	listener
	// watched: changes are told.
	watched bool
	now     opinion
	// next is what it seems to become, since when.
	next  opinion
	since time.Time
	// changed is closed and replaced when now changes.
	changed chan struct{}
}

func newSignalBoard(tell func(key, string)) *signalBoard {
	return &signalBoard{tell: tell, signals: map[string]posted{}, heard: map[key]*hearing{}}
}

func (b *signalBoard) set(signals map[string]Signal) {
	b.mu.Lock()
	now := time.Now()
	next := make(map[string]posted, len(signals))
	for name, s := range signals {
		p, known := b.signals[name]
		if !known || p.Signal != s {
			p = posted{Signal: s}
			if s.TimeToLive > 0 {
				// Its age when it is first seen counts, as far as the wall clock can be believed.
				age := min(max(0, now.Sub(time.UnixMilli(s.SetMs))), s.TimeToLive)
				p.ends = now.Add(s.TimeToLive - age)
			}
		}
		next[name] = p
	}
	b.signals = next
	b.evaluate(now)
}

// listen returns what a signal means to a resource now, and a channel that is closed when that changes. The resource is
// told of changes if watch says so.
func (b *signalBoard) listen(k key, l listener, watch bool) (opinion, <-chan struct{}) {
	b.mu.Lock()
	h := b.heard[k]
	if h == nil || h.listener != l {
		h = &hearing{listener: l, changed: make(chan struct{})}
		// The first opinion counts at once: there is nothing to wait for.
		s, alive := b.alive(l.signal, time.Now())
		h.now = l.opinion(s, alive, opinionUnknown)
		h.next = h.now
		b.heard[k] = h
	}
	h.watched = watch
	b.evaluate(time.Now())
	b.mu.Lock()
	defer b.mu.Unlock()
	return h.now, h.changed
}

func (b *signalBoard) forget(k key) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.heard, k)
}

func (b *signalBoard) alive(name string, now time.Time) (Signal, bool) {
	p, ok := b.signals[name]
	return p.Signal, ok && (p.ends.IsZero() || now.Before(p.ends))
}

// evaluate looks at all signals again, tells what has changed, and unlocks mu, which the caller holds.
func (b *signalBoard) evaluate(now time.Time) {
	var told []key
	var wake time.Time
	sooner := func(t time.Time) {
		if t.After(now) && (wake.IsZero() || t.Before(wake)) {
			wake = t
		}
	}
	for k, h := range b.heard {
		s, alive := b.alive(h.signal, now)
		is := h.opinion(s, alive, h.now)
		if is != h.next {
			h.next, h.since = is, now
		}
		if h.next != h.now {
			if now.Sub(h.since) < h.patience {
				sooner(h.since.Add(h.patience))
			} else {
				h.now = h.next
				close(h.changed)
				h.changed = make(chan struct{})
				if h.watched {
					told = append(told, k)
				}
			}
		}
		if alive {
			sooner(b.signals[h.signal].ends)
		}
	}
	if b.timer != nil {
		b.timer.Stop()
		b.timer = nil
	}
	if !wake.IsZero() && !b.closed {
		b.timer = time.AfterFunc(wake.Sub(now), func() {
			b.mu.Lock()
			b.evaluate(time.Now())
		})
	}
	b.mu.Unlock()
	for _, k := range told {
		b.tell(k, "")
	}
}

func (b *signalBoard) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	if b.timer != nil {
		b.timer.Stop()
	}
}
