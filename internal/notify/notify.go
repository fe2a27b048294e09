package notify

import (
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

const (
	// FirstRetry is the pause after a failed try; it doubles up to LastRetry.
	FirstRetry = time.Second
	LastRetry  = 5 * time.Minute
	// DefaultGiveUpAfter where a notifier says nothing.
	DefaultGiveUpAfter = time.Hour
	// DefaultSeverity where a notifier says nothing.
	DefaultSeverity = v1.Severity_SEVERITY_WARNING
	// CommitEvery is the least time between two commits of one notifier.
	CommitEvery = time.Second
	// Handover is how long a new leader waits for a former one that is still a member.
	Handover = 5 * time.Second
	// finishWithin of the Handover what is on its way must end.
	finishWithin = 4 * time.Second
	// quietCommit is after how many events that a notifier does not tell that is committed, so
	// that a new leader finds where it is in what the state still has.
	quietCommit = 250
	// FetchMax is how many events are asked for at a time.
	FetchMax = 500
	// maxMarks bounds the memory of when events were seen.
	maxMarks = 256
)

// View is what a step sees of the applied state. The core reads it during the step only.
type View struct {
	// Leading: this node leads, by a lease that it holds.
	Leading bool
	// Former: another member led before and may still be ending what it had begun.
	Former bool
	// Ending: this node is about to give up leadership, as soon as it is not [Core.Busy].
	Ending    bool
	Notifiers []*v1.Notifier
	// Done by name, as committed.
	Done map[string]uint64
	// Events by number, without gaps, up to Newest.
	Events []*v1.Event
	Newest uint64
}

// An Input of [Core.Step]; nil is the passing of time, or a changed view.
type Input interface{ input() }

// Ended says what came of a [Delivery]. Err is empty if it was delivered.
type Ended struct {
	Token uint64
	Err   string
}

// Proposed says what came of a [Proposal].
type Proposed struct {
	Token     uint64
	Committed bool
}

// Fetched answers a [Fetch].
type Fetched struct {
	Token uint64
	// Events in order, and up to which number there are no others.
	Events  []*v1.Event
	Through uint64
}

func (Ended) input()    {}
func (Proposed) input() {}
func (Fetched) input()  {}

// Delivery is to be tried. It ends by itself after a while, or by Cancel.
type Delivery struct {
	Token    uint64
	Notifier *v1.Notifier
	Event    *v1.Event
}

// Proposal is to be committed.
type Proposal struct {
	Token   uint64
	Command *statepb.Command
}

// Fetch events that the state has no more: FetchMax of them, in order, with
// numbers above After and below Before.
type Fetch struct {
	Token, After, Before uint64
}

// Out is what is to be done.
type Out struct {
	Deliver []Delivery
	Cancel  []uint64 // deliveries
	Propose []Proposal
	Fetch   []Fetch
	// Wake is when the next step is due; 0: not before something happens.
	Wake time.Duration
}

// Core of all notifiers of a cluster.
type Core struct {
	now   time.Duration
	view  View
	out   Out
	token uint64
	// flows by name, in the order of the configuration.
	flows []*flow
	// Leading since; only meaningful while running is true.
	leading bool
	since   time.Duration
	// running: the Handover is over.
	running bool
	// Ending since; only meaningful while ending is true.
	ending      bool
	endingSince time.Duration
	busy        bool
	marks       []mark
}

// mark: events up to last had been seen at that time.
type mark struct {
	last uint64
	at   time.Duration
}

// Step takes in what has happened. now never goes back.
func (c *Core) Step(now time.Duration, view View, in Input) {
	c.now, c.view = now, view
	c.lead()
	if c.running {
		c.see()
		c.configure()
	}
	switch in := in.(type) {
	case Ended:
		c.ended(in)
	case Proposed:
		c.proposed(in)
	case Fetched:
		c.fetched(in)
	}
	for _, f := range c.flows {
		c.advance(f)
	}
	c.busy = c.leading && !c.cutOff() && slices.ContainsFunc(c.flows, func(f *flow) bool {
		return f.delivery != 0 || f.commit != 0 || f.told > c.view.Done[f.notifier.GetName()]
	})
	c.out.Wake = c.wake()
	c.view = View{}
}

// Busy: if this node gave up leadership now, something might be told twice.
func (c *Core) Busy() bool { return c.busy }

// cutOff: what was on its way when this node began to end has had its time.
func (c *Core) cutOff() bool { return c.ending && c.now >= c.endingSince+finishWithin }

// Take returns what is to be done, once.
func (c *Core) Take() Out {
	out := c.out
	c.out = Out{}
	return out
}

func (c *Core) next() uint64 {
	c.token++
	return c.token
}

// lead follows who leads (T4).
func (c *Core) lead() {
	switch {
	case c.view.Leading && !c.leading:
		// What is still there from a leadership a moment ago goes on: nobody else has begun meanwhile.
		c.leading, c.since, c.running = true, c.now, false
	case !c.view.Leading && c.leading:
		c.leading, c.since, c.running = false, c.now, false
		for _, f := range c.flows {
			f.commitAt = c.now // the next leader waits for it
		}
	}
	if c.view.Ending && !c.ending {
		c.endingSince = c.now
		for _, f := range c.flows {
			f.commitAt = c.now
		}
	}
	c.ending = c.view.Ending
	if c.cutOff() {
		for _, f := range c.flows {
			c.cancel(f)
		}
	}
	switch {
	case c.leading && !c.running:
		c.running = !c.view.Former || c.now >= c.since+Handover
	case !c.leading && len(c.flows) > 0 && c.now >= c.since+finishWithin:
		for _, f := range c.flows {
			c.cancel(f)
		}
		c.flows, c.marks = nil, nil
	}
}

func (c *Core) cancel(f *flow) {
	if f.delivery != 0 {
		c.out.Cancel = append(c.out.Cancel, f.delivery)
		f.delivery = 0
	}
}

// see remembers when events were first seen.
func (c *Core) see() {
	n := len(c.marks)
	if n > 0 && c.marks[n-1].last >= c.view.Newest {
		return
	}
	if n > 0 && c.marks[n-1].at == c.now {
		c.marks[n-1].last = c.view.Newest
		return
	}
	if n == maxMarks { // coarser: of two the younger, so that nothing is given up too soon
		for i := range n / 2 {
			c.marks[i] = c.marks[2*i+1]
		}
		c.marks = c.marks[:n/2]
	}
	c.marks = append(c.marks, mark{c.view.Newest, c.now})
}

// seenAt is when an event was first seen.
func (c *Core) seenAt(number uint64) time.Duration {
	i, _ := slices.BinarySearchFunc(c.marks, number, func(m mark, n uint64) int {
		if m.last < n {
			return -1
		}
		return 1
	})
	if i == len(c.marks) {
		return c.now
	}
	return c.marks[i].at
}

// configure follows which notifiers there are.
func (c *Core) configure() {
	same := slices.EqualFunc(c.flows, c.view.Notifiers, func(f *flow, n *v1.Notifier) bool { return proto.Equal(f.notifier, n) })
	if same {
		return
	}
	old := map[string]*flow{}
	for _, f := range c.flows {
		old[f.notifier.GetName()] = f
	}
	c.flows = nil
	for _, n := range c.view.Notifiers {
		f := old[n.GetName()]
		delete(old, n.GetName())
		switch {
		case f == nil:
			done, known := c.view.Done[n.GetName()]
			if !known {
				done = c.view.Newest // told of what happens from now on
			}
			f = &flow{cursor: done, fresh: !known}
		case !proto.Equal(f.notifier, n):
			f.failures, f.nextTry = 0, 0 // what was wrong may be mended
		}
		f.notifier = proto.CloneOf(n)
		c.flows = append(c.flows, f)
	}
	for _, f := range old {
		c.cancel(f)
	}
	slices.Sort(c.out.Cancel)
}

// Tells says whether a notifier tells an event.
func Tells(n *v1.Notifier, e *v1.Event) bool {
	least := n.GetSeverity()
	if least == v1.Severity_SEVERITY_UNSPECIFIED {
		least = DefaultSeverity
	}
	return e.GetSeverity() >= least && e.GetNotifier() != n.GetName() &&
		(len(n.GetCodes()) == 0 || slices.ContainsFunc(n.GetCodes(), func(c string) bool { return strings.HasPrefix(e.GetCode(), c) }))
}

func giveUpAfter(n *v1.Notifier) time.Duration {
	if d := n.GetGiveUpAfter(); d != nil {
		return d.AsDuration()
	}
	return DefaultGiveUpAfter
}

// Status is how far a notifier of this leader is.
type Status struct {
	Name string
	Done uint64
	// When an event was delivered last; 0: none by this leader.
	Delivered time.Duration
	// Failed tries in a row, since when, when the next is, and why the last one failed.
	Failures uint32
	Since    time.Duration
	Next     time.Duration
	Error    string
}

// Status of all notifiers; nil unless this node runs them.
func (c *Core) Status() (all []Status) {
	if !c.running {
		return nil
	}
	for _, f := range c.flows {
		s := Status{Name: f.notifier.GetName(), Done: f.cursor, Delivered: f.deliveredAt}
		if f.failures > 0 {
			s.Failures, s.Since, s.Next, s.Error = f.failures, f.failingSince, f.nextTry, f.fault
		}
		all = append(all, s)
	}
	return all
}
