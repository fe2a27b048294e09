package guard

import (
	"time"

	"github.com/holdfast-ha/holdfast/internal/cluster/timers"
)

// change of the timers of a running cluster. The nodes do not take it at one
// moment, and heartbeats that were sent by the timers before are still the newest
// for a while: nobody is suspected and no lease is lost for that.
type change struct {
	// A lease that was earned by longer timers may run until then. The engine is
	// not told before that this node runs by the new ones (L10).
	leaseEnd time.Duration
	calls    []uint64
	// Rounds stay as frequent as they were until then, for peers that go by the shorter timers still.
	heartbeat time.Duration
	until     time.Duration
}

// changeTimers from peerinact and heartbeat as they were; earned is what the
// lease was worth by them.
func (c *Core) changeTimers(inact, heartbeat, earned time.Duration) {
	switch {
	case c.heartbeat < heartbeat:
		c.graceEnd = max(c.graceEnd, c.now+graceBeats*heartbeat)
	case c.heartbeat > heartbeat:
		c.change.heartbeat, c.change.until = heartbeat, c.now+c.inact
	}
	if c.lease.state == leaseHeld && timers.Lease(c.inact) < timers.Lease(inact) {
		c.lease.carried = max(c.lease.carried, earned)
		c.change.leaseEnd = max(c.change.leaseEnd, c.lease.carried, c.lease.inherited)
	}
}

// roundEvery is the present interval between rounds.
func (c *Core) roundEvery() time.Duration {
	if c.now < c.change.until {
		return min(c.change.heartbeat, c.heartbeat)
	}
	return c.heartbeat
}

// answerConfigure at once, or when the last lease by longer timers is over.
func (c *Core) answerConfigure(call uint64) {
	c.change.calls = append(c.change.calls, call)
	c.finishChange()
}

func (c *Core) finishChange() {
	if c.now < c.change.leaseEnd && c.lease.state == leaseHeld {
		c.soonest(c.change.leaseEnd)
		return
	}
	for _, call := range c.change.calls {
		c.done(call, nil)
	}
	c.change.calls, c.change.leaseEnd = nil, 0
}
