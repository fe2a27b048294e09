package agent

import (
	"fmt"
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

// What is done about faults: clean, restart, or wait for an administrator.

// fault deals with a resource that was online and has gone by itself, or is taken for gone.
func (r *Runtime) fault(x *resource, now time.Duration, reason CleanReason, why string) {
	switch {
	case !x.persistent():
		r.needClean(x, now, reason, thenRestart, why)
	case x.faultsManaged():
		x.message = why
		r.setState(x, now, faulted)
		r.schedule(x, now)
	default:
		x.reason, x.then, x.message, x.note = reason, thenFaulted, why, ""
		r.leaveToAdmin(x, now)
	}
}

// needClean has the resource forced down, or remembers to do so once that is allowed.
func (r *Runtime) needClean(x *resource, now time.Duration, reason CleanReason, next then, why string) {
	x.reason, x.then, x.cleanFails, x.message, x.note = reason, next, 0, why, ""
	x.flushed, x.forced, x.recheck = false, false, false
	if !x.faultsManaged() {
		r.leaveToAdmin(x, now)
		return
	}
	x.phase, x.due = cleaning, now
	if !r.allowed(x) {
		r.postponeClean(x, now)
	}
}

func (r *Runtime) postponeClean(x *resource, now time.Duration) {
	x.phase, x.uncleaned, x.restarting = steady, true, false
	switch {
	case x.then == thenOffline && x.state == online:
	case x.reason != UnexpectedOffline || x.unable || !x.gone:
		r.setState(x, now, unknown) // A4
	case r.mayAct:
		// Frozen: the fault is shown, not handled. Without a lease it is guard that stopped it, most likely; Stopped will tell.
		r.setState(x, now, faulted)
	}
	r.schedule(x, now)
}

func (r *Runtime) wasCleaned(x *resource, now time.Duration, d Done) {
	x.phase, x.tries, x.due = cleaned, 0, now
	x.failure = d.failure(x, Clean)
	x.cleanOK = x.failure == ""
	switch {
	case x.cleanOK && x.reason == MonitorHung:
		r.cleanSucceeded(x, now) // the monitor would only hang once more
	case !x.cleanOK && d.Verdict != 0:
		if x.verdict = d.Verdict; d.Verdict == v1.Verdict_VERDICT_HALT_ABORTED && x.then == thenOffline {
			x.message = x.failure
			r.giveUp(x, now)
		}
	}
}

func (r *Runtime) cleanFailed(x *resource, now time.Duration) {
	x.cleanFails++
	limit := x.limits.cleanRetry
	x.phase = cleaning
	x.due = now + retry(slowRetries, int(min(x.cleanFails, 100))-1, x.limits.monitorInterval)
	if limit > 0 && x.cleanFails < limit {
		return
	}
	x.unable = true
	x.note = x.failure
	if x.state == offline {
		r.setState(x, now, unknown)
	}
	if limit > 0 {
		r.waitForAdmin(x)
	}
}

func (r *Runtime) cleanSucceeded(x *resource, now time.Duration) {
	x.unable, x.uncleaned, x.forced, x.cleanFails, x.note = false, false, false, 0, ""
	wanted := x.mayRun()
	switch {
	case x.then == thenOffline:
		x.failure = ""
		r.wentOffline(x, now)
		return
	case x.then == thenRetry && wanted && x.attempts <= x.limits.onlineRetry:
		x.phase, x.due = starting, never
		r.setState(x, now, offline)
		return
	case x.then == thenRestart && wanted && x.restarts < x.limits.restart:
		x.restarts++
		x.attempts = 0
		x.restarting = true
		x.phase, x.due = starting, never
		r.setState(x, now, offline)
		return
	}
	x.phase, x.restarting, x.attempts = steady, false, 0
	x.notice, x.failure = "", ""
	if x.then == thenRestart && x.limits.restart > 0 && x.restarts >= x.limits.restart {
		x.message = fmt.Sprintf("%s; restarted %d times in %s before", x.message, x.restarts, x.limits.confInterval)
	}
	r.setState(x, now, faulted)
	r.schedule(x, now)
}

// leaveToAdmin is what happens instead of a clean where a person deals with faults. Without a lease it is guard that
// stopped it, most likely: then the fault is left to be found again.
func (r *Runtime) leaveToAdmin(x *resource, now time.Duration) {
	switch {
	case r.mayAct:
		r.waitForAdmin(x)
	case x.phase == steady && x.probed && x.state == online && x.then != thenOffline:
		x.note = x.message
		r.schedule(x, now)
	default:
		started, expect := x.reason == OnlineHung || x.reason == OnlineIneffective, x.expect
		r.breakOff(x, now)
		x.leftover = started || x.then == thenFaulted
		if x.then == thenFaulted {
			x.expect = expect
		}
		r.schedule(x, now)
	}
}

// waitForAdmin keeps the state that the resource has; nothing more is done with it until ClearAdminWait (A8).
func (r *Runtime) waitForAdmin(x *resource) {
	x.adminWait = v1.AdminWait(x.reason) + 1 // the field's numbers, plus one
	x.phase, x.uncleaned, x.restarting, x.flushed, x.attempts = steady, false, false, false, 0
	x.notice, x.recheck = "", false
	x.due = never
}

// giveUp: the way offline was broken off, and goes on by another order or when it is cleared.
func (r *Runtime) giveUp(x *resource, now time.Duration) {
	x.phase, x.unable, x.stuck, x.stuckAt = steady, true, true, x.g.Intent
	x.flushed, x.note = false, ""
	x.scattered = true
	r.schedule(x, now)
	if x.state != online { // it had not shown yet
		r.setState(x, now, unknown)
		r.look(x, now)
	}
}

// givenUp: the order that counts now does not take it offline any more.
func (x *resource) givenUp() bool { return x.stuck && x.g.Intent <= x.stuckAt }

// calmAt is when what is counted of a resource that is online is forgotten, never if there is nothing to forget.
func (x *resource) calmAt() time.Duration {
	if x.forgotten || !x.managed() || !x.settled() || x.state != online || x.restarts == 0 && x.tolerated == 0 && x.hung == 0 {
		return never
	}
	return after(x.calmSince, x.limits.confInterval)
}

// calmDown forgets what was counted of a resource that has been online without trouble for ConfInterval.
func (r *Runtime) calmDown(x *resource, now time.Duration) {
	if x.calmAt() > now {
		return
	}
	if x.restarts > 0 {
		x.message = ""
	}
	x.restarts, x.tolerated, x.hung = 0, 0, 0
}
