package notify

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// flow is one notifier.
type flow struct {
	notifier *v1.Notifier
	// Everything up to cursor is done with; told is the last event of these that
	// was delivered, given up or not there, by this leader.
	cursor, told uint64
	// fresh: where to begin is not committed yet.
	fresh bool
	// What is under way, 0: nothing.
	delivery, fetch, commit, note uint64
	delivering                    uint64 // number of the event
	// When the next commit and the next note may be proposed.
	commitAt, noteAt time.Duration
	// What has to become events, until it is committed.
	noted []*v1.Event
	// What is known of events that the state has no more: all up to through.
	fetched      []*v1.Event
	through      uint64
	deliveredAt  time.Duration
	failures     uint32
	failingSince time.Duration
	nextTry      time.Duration
	fault        string
	// What is to be told of besides.
	gaveUp, skipped loss
}

// loss is of events that are not told.
type loss struct {
	count       uint64
	first, last uint64
	// Not all of them are about notifiers (T5).
	matters bool
	why     string
}

func (l *loss) add(number uint64, matters bool) {
	if l.count == 0 {
		l.first = number
	}
	l.count, l.last, l.matters = l.count+1, number, l.matters || matters
}

// lookUp an event. absent: the leader does not have it. Neither: it has to be fetched first.
func (c *Core) lookUp(f *flow, number uint64) (e *v1.Event, absent bool) {
	if n := len(c.view.Events); n > 0 && number >= c.view.Events[0].GetNumber() {
		f.fetched = nil
		return c.view.Events[number-c.view.Events[0].GetNumber()], false
	}
	for len(f.fetched) > 0 && f.fetched[0].GetNumber() < number {
		f.fetched = f.fetched[1:]
	}
	if len(f.fetched) > 0 && f.fetched[0].GetNumber() == number {
		return f.fetched[0], false
	}
	return nil, number <= f.through
}

// head moves the cursor to before the next event that is to be told, and returns it.
func (c *Core) head(f *flow) *v1.Event {
	for f.cursor < c.view.Newest {
		e, absent := c.lookUp(f, f.cursor+1)
		switch {
		case absent:
			f.skipped.add(f.cursor+1, true)
			f.told = f.cursor + 1
		case e == nil:
			if f.fetch == 0 {
				before := c.view.Newest + 1
				if len(c.view.Events) > 0 {
					before = c.view.Events[0].GetNumber()
				}
				f.fetch = c.next()
				c.out.Fetch = append(c.out.Fetch, Fetch{Token: f.fetch, After: f.cursor, Before: before})
			}
			return nil
		case Tells(f.notifier, e):
			return e
		}
		f.cursor++
	}
	return nil
}

// advance does for a notifier what is due.
func (c *Core) advance(f *flow) {
	if c.running {
		if f.delivery == 0 {
			f.cursor = max(f.cursor, c.view.Done[f.notifier.GetName()]) // of the leader before
			if e := c.head(f); e != nil && c.now >= f.nextTry && !c.ending {
				f.delivery, f.delivering = c.next(), e.GetNumber()
				c.out.Deliver = append(c.out.Deliver, Delivery{Token: f.delivery, Notifier: proto.CloneOf(f.notifier), Event: proto.CloneOf(e)})
			}
		}
		c.tellLoss(f)
	}
	c.commit(f)
}

func (c *Core) flowBy(is func(*flow) bool) *flow {
	for _, f := range c.flows {
		if is(f) {
			return f
		}
	}
	return nil
}

func (c *Core) ended(in Ended) {
	f := c.flowBy(func(f *flow) bool { return f.delivery == in.Token })
	if f == nil {
		return // cancelled
	}
	number := f.delivering
	f.delivery, f.delivering = 0, 0
	if in.Err == "" {
		f.cursor, f.told = max(f.cursor, number), number
		f.failures, f.nextTry, f.fault = 0, 0, ""
		f.deliveredAt = c.now
		if c.ending {
			f.commitAt = c.now
		}
		return
	}
	if !c.running {
		return // it is tried again by whoever leads
	}
	if f.failures == 0 {
		f.failingSince = c.now
	}
	f.failures++
	f.fault = in.Err
	pause := LastRetry
	if f.failures < 20 {
		pause = min(FirstRetry<<(f.failures-1), LastRetry)
	}
	f.nextTry = c.now + pause
	c.giveUp(f)
}

// giveUp what has been waiting for too long, after a try that has failed. A way that is only slow gives nothing up.
func (c *Core) giveUp(f *flow) {
	limit := giveUpAfter(f.notifier)
	for {
		e := c.head(f)
		if e == nil {
			return
		}
		due := max(c.seenAt(e.GetNumber()), f.failingSince) + limit
		if c.now < due {
			f.nextTry = min(f.nextTry, due) // its last chance
			return
		}
		f.gaveUp.add(e.GetNumber(), e.GetNotifier() == "")
		f.gaveUp.why = f.fault
		f.cursor, f.told = e.GetNumber(), e.GetNumber()
	}
}

// tellLoss makes events of what was given up or is not there.
func (c *Core) tellLoss(f *flow) {
	if len(f.noted) == 0 {
		name := f.notifier.GetName()
		event := func(code string, l loss, what, why string) {
			if l.matters {
				f.noted = append(f.noted, &v1.Event{
					Severity: v1.Severity_SEVERITY_ERROR, Code: code, Notifier: name,
					Message: fmt.Sprintf("notifier %s %s %s%s", name, what, l, why),
				})
			}
		}
		event("notifier.gave-up", f.gaveUp, "could not tell", fmt.Sprintf(" within %v: %s", giveUpAfter(f.notifier), f.gaveUp.why))
		event("notifier.skipped", f.skipped, "was not asked about", ": the leader does not have them any more")
		f.gaveUp, f.skipped = loss{}, loss{}
	}
	if len(f.noted) > 0 && f.note == 0 && c.now >= f.noteAt {
		f.note = c.next()
		c.out.Propose = append(c.out.Propose, Proposal{Token: f.note, Command: &statepb.Command{Change: &statepb.Command_Note{Note: &statepb.Note{Events: cloned(f.noted)}}}})
	}
}

func cloned(events []*v1.Event) (out []*v1.Event) {
	for _, e := range events {
		out = append(out, proto.CloneOf(e))
	}
	return out
}

func (l loss) String() string {
	switch {
	case l.count == 1:
		return fmt.Sprintf("event #%d", l.first)
	case l.count == l.last-l.first+1:
		return fmt.Sprintf("events #%d to #%d", l.first, l.last)
	}
	return fmt.Sprintf("%d events from #%d to #%d", l.count, l.first, l.last)
}

// unsaid: there is something to commit.
func (c *Core) unsaid(f *flow) bool {
	done := c.view.Done[f.notifier.GetName()]
	return f.fresh || f.told > done || f.cursor >= done+quietCommit
}

// commit how far the notifier is (T3).
func (c *Core) commit(f *flow) {
	if _, known := c.view.Done[f.notifier.GetName()]; known {
		f.fresh = false
	}
	if !c.unsaid(f) || f.commit != 0 || c.now < f.commitAt {
		return
	}
	f.commit, f.commitAt = c.next(), c.now+CommitEvery
	c.out.Propose = append(c.out.Propose, Proposal{Token: f.commit, Command: &statepb.Command{Change: &statepb.Command_Notified{
		Notified: &statepb.Notified{Notifier: f.notifier.GetName(), Event: f.cursor},
	}}})
}

func (c *Core) proposed(in Proposed) {
	for _, f := range c.flows {
		switch in.Token {
		case f.commit:
			f.commit = 0
			if !in.Committed {
				f.commitAt = c.now + CommitEvery
			}
		case f.note:
			f.note = 0
			if in.Committed {
				f.noted = nil
			} else {
				f.noteAt = c.now + CommitEvery
			}
		}
	}
}

func (c *Core) fetched(in Fetched) {
	if f := c.flowBy(func(f *flow) bool { return f.fetch == in.Token }); f != nil {
		// An answer without an end would be asked for again for ever.
		f.fetch, f.fetched, f.through = 0, in.Events, max(in.Through, f.cursor+1)
	}
}

// wake is when the next step is due.
func (c *Core) wake() (at time.Duration) {
	want := func(t time.Duration) {
		if t = max(t, c.now+1); at == 0 || t < at {
			at = t
		}
	}
	if c.leading && !c.running {
		want(c.since + Handover)
	}
	if c.ending && c.busy {
		want(c.endingSince + finishWithin)
	}
	for _, f := range c.flows {
		switch {
		case !c.leading:
			want(c.since + finishWithin)
		case c.running && !c.ending && f.delivery == 0 && f.fetch == 0 && f.failures > 0 && f.cursor < c.view.Newest:
			want(f.nextTry)
		}
		if f.commit == 0 && c.unsaid(f) {
			want(f.commitAt)
		}
		if c.running && f.note == 0 && len(f.noted) > 0 {
			want(f.noteAt)
		}
	}
	return at
}
