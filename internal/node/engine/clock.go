package engine

import "time"

// clock is the cluster's own clock as this node reckons it: the last reading
// that was committed, and what has passed here since that was applied. It counts by
// CLOCK_BOOTTIME, so that nobody's time of day moves it; a new leader goes on where the
// one before it was, to within the time in which an entry of the log spreads.
type clock struct {
	read bool
	ms   int64
	at   time.Duration
}

// clockOn takes note of a reading that was applied.
func (e *Engine) clockOn() {
	if ms := e.s.GetClockMs(); ms != e.clock.ms || !e.clock.read {
		e.clock = clock{true, ms, e.now}
	}
}

// ClockMs is the reading of the cluster's clock. What the leader reads counts, once it is committed in a plan.
func (e *Engine) ClockMs() int64 {
	return e.clock.ms + max(e.now-e.clock.at, 0).Milliseconds()
}
