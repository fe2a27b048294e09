package agent

import (
	"cmp"
	"fmt"
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

// Done tells the outcome of a call. One that nobody waits for any more only makes room for the next call.
func (r *Runtime) Done(now time.Duration, wallMs int64, d Done) {
	r.setWall(now, wallMs)
	u := r.calls[d.Token]
	if u == nil {
		return
	}
	delete(r.calls, d.Token)
	delete(r.busy, u.key)
	x := u.x
	if x == nil {
		if g := r.groups[u.key.group]; g != nil && g.byName[u.key.resource] != nil {
			r.mark(g.byName[u.key.resource])
		}
		r.settle(now)
		return
	}
	x.call = 0
	switch {
	case x.void:
		x.void = false
		if x.managed() {
			r.setDue(x, now)
		}
	case u.entry == Monitor:
		r.monitored(x, now, d.Result)
		if x.again && x.phase != cleaning {
			r.look(x, now)
		}
	case x.flushed && !d.TimedOut:
		r.breakOff(x, now)
	case u.entry == Online:
		r.broughtOnline(x, now, d.Result)
	case u.entry == Offline:
		r.takenOffline(x, now, d.Result)
	case u.entry == Clean:
		x.phase, x.tries = cleaned, 0
		x.failure = d.failure(x, Clean)
		x.cleanOK = x.failure == ""
		r.setDue(x, now)
		if x.cleanOK && x.reason == MonitorHung {
			r.cleanSucceeded(x, now) // the monitor would only hang once more
		}
	}
	x.again = false
	r.mark(x)
	r.settle(now)
}

// failure puts into words that an entry point failed; empty: it did not.
func (d Done) failure(x *resource, e EntryPoint) string {
	switch {
	case d.TimedOut:
		return fmt.Sprintf("%s did not end within %s", e, x.limits.timeout(e))
	case d.Err != "":
		return fmt.Sprintf("%s failed: %s", e, d.Err)
	}
	return ""
}

func (r *Runtime) broughtOnline(x *resource, now time.Duration, res Result) {
	x.failure = Done{Result: res}.failure(x, Online)
	if res.TimedOut {
		r.needClean(x, now, OnlineHung, thenRetry, x.failure)
		return
	}
	x.phase, x.tries = appearing, 0
	first := now + max(0, res.Wait)
	x.deadline = first + time.Duration(x.limits.onlineWait)*x.limits.monitorInterval
	if res.Err != "" {
		x.deadline = first // nothing to wait for
	}
	r.setDue(x, first)
}

func (r *Runtime) takenOffline(x *resource, now time.Duration, res Result) {
	x.failure = Done{Result: res}.failure(x, Offline)
	if res.TimedOut {
		r.needClean(x, now, OfflineHung, thenOffline, x.failure)
		return
	}
	x.phase, x.tries = vanishing, 0
	first := now + max(0, res.Wait)
	x.deadline = first + time.Duration(x.limits.offlineWait)*x.limits.monitorInterval
	if res.Err != "" {
		x.deadline = first
	}
	r.setDue(x, first)
}

// monitored takes in what a monitor has found.
func (r *Runtime) monitored(x *resource, now time.Duration, res Result) {
	found := res.State
	if res.TimedOut || res.Err != "" || found != online && found != offline && found != faulted {
		found = unknown
	}
	x.heard = true
	x.timedOut = res.TimedOut
	if found == unknown {
		if x.note == "" {
			x.note = unsureNote(x, res)
		}
	} else {
		x.note = ""
		x.watched = res.Watched
		if found == online && res.Confidence > 0 && res.Confidence < 100 {
			x.note = fmt.Sprintf("online with a confidence of %d%%", res.Confidence)
		}
	}
	switch x.phase {
	case appearing:
		r.monitoredAppearing(x, now, found, res)
	case vanishing:
		r.monitoredVanishing(x, now, found)
	case cleaned:
		r.monitoredCleaned(x, now, found, res)
	default:
		r.monitoredSteady(x, now, found, res)
	}
}

func unsureNote(x *resource, res Result) string {
	switch {
	case res.TimedOut:
		return fmt.Sprintf("monitor did not end within %s", x.limits.monitorTimeout)
	case res.Err != "":
		return "monitor failed: " + res.Err
	case res.Message != "":
		return "monitor could not tell: " + res.Message
	}
	return "monitor could not tell its state"
}

func (r *Runtime) monitoredAppearing(x *resource, now time.Duration, found v1.ResourceState, res Result) {
	switch {
	case found == online:
		if !x.restarting {
			x.message = ""
		}
		r.becomeOnline(x, now)
	case now >= x.patience(found):
		why := x.failure
		if why == "" {
			why = "online had no effect"
		}
		if detail := cmp.Or(x.notice, res.Message); detail != "" {
			why += ": " + detail
		}
		r.needClean(x, now, OnlineIneffective, thenRetry, why)
	default:
		r.lookAgainSoon(x, now)
	}
}

func (r *Runtime) monitoredVanishing(x *resource, now time.Duration, found v1.ResourceState) {
	switch {
	case found == offline:
		r.becomeOffline(x, now)
	case now >= x.patience(found):
		why := x.failure
		if why == "" {
			why = "offline had no effect"
		}
		r.needClean(x, now, OfflineIneffective, thenOffline, why)
	default:
		r.lookAgainSoon(x, now)
	}
}

// patience is how long a resource may take to show up or to vanish. A monitor that can't tell gets one interval more to find out.
func (x *resource) patience(found v1.ResourceState) time.Duration {
	if found == unknown && x.failure == "" {
		return x.deadline + x.limits.monitorInterval
	}
	return x.deadline
}

func (r *Runtime) lookAgainSoon(x *resource, now time.Duration) {
	r.setDue(x, now+retry(quickRetries, x.tries, x.limits.monitorInterval))
	x.tries++
}

func (r *Runtime) monitoredCleaned(x *resource, now time.Duration, found v1.ResourceState, res Result) {
	switch {
	case found == online:
		r.setState(x, now, online)
		if x.failure == "" {
			x.failure = "it is still online after clean"
		}
		r.cleanFailed(x, now)
	case found != offline && !res.TimedOut && x.tries < 3:
		r.lookAgainSoon(x, now)
	case !x.cleanOK:
		r.cleanFailed(x, now)
	default:
		// A monitor that can't tell, or calls it broken, even now: clean's word counts.
		x.note = ""
		r.cleanSucceeded(x, now)
	}
}

func (r *Runtime) monitoredSteady(x *resource, now time.Duration, found v1.ResourceState, res Result) {
	first := !x.probed
	if found != unknown {
		x.probed = true
		x.tries = 0
	}
	if x.state == online && now-x.calmSince >= x.limits.confInterval {
		if x.restarts > 0 {
			x.message = ""
		}
		x.restarts, x.tolerated, x.hung = 0, 0, 0
	}
	if !res.TimedOut {
		x.hung = 0
	}
	switch {
	case res.TimedOut && x.state == online && x.probed && !x.uncleaned:
		r.monitorHung(x, now)
		return
	case found == online:
		r.foundOnline(x, now, first)
	case found == offline && first:
		r.foundOfflineAtFirst(x, now, res)
		return
	case found == offline:
		r.foundOffline(x, now, res)
		return
	case found == faulted:
		r.foundBroken(x, now, res, first)
		return
	}
	r.schedule(x, now)
}

func (r *Runtime) foundOnline(x *resource, now time.Duration, first bool) {
	x.uncleaned, x.unable, x.tolerated, x.notice = false, false, 0, ""
	switch {
	case first && x.stopped != "":
		x.message = "still online after guard stopped everything: " + x.stopped
	case x.state == online:
	case first || x.persistent():
		x.message = ""
	default:
		x.message = "came online by itself"
	}
	x.stopped = ""
	if x.state != online {
		x.calmSince = now
	}
	r.setState(x, now, online)
}

// foundOfflineAtFirst compares the first probe with what was known before.
func (r *Runtime) foundOfflineAtFirst(x *resource, now time.Duration, res Result) {
	switch {
	case x.persistent():
		x.message = x.detail(res)
		r.setState(x, now, faulted)
	case x.stopped != "":
		x.message, x.stopped = x.stopped, ""
		r.setState(x, now, offline)
	case x.expect == online:
		r.setState(x, now, online)
		r.foundOffline(x, now, res)
		return
	case x.expect == faulted && x.leftover:
		x.leftover = false
		r.needClean(x, now, OfflineIneffective, thenFaulted, x.message)
		return
	case x.expect == faulted:
		r.setState(x, now, faulted)
	case x.leftover:
		x.leftover = false
		r.needClean(x, now, OnlineHung, thenOffline, "something may be left of an interrupted start")
		return
	default:
		r.setState(x, now, offline)
	}
	r.schedule(x, now)
}

// foundOffline is the spec's unexpected offline, unless it was to go offline anyway.
func (r *Runtime) foundOffline(x *resource, now time.Duration, res Result) {
	switch {
	case x.uncleaned, x.state != online && !(x.persistent() && x.state == unknown):
		r.schedule(x, now)
	case x.want == v1.Want_WANT_OFFLINE:
		x.message = ""
		r.becomeOffline(x, now)
	case x.tolerated < x.limits.tolerance:
		x.tolerated++
		x.calmSince = now
		x.note = fmt.Sprintf("%s; tolerated (%d of %d)", x.detail(res), x.tolerated, x.limits.tolerance)
		r.schedule(x, now)
	case x.persistent():
		x.message = x.detail(res)
		r.setState(x, now, faulted)
		r.schedule(x, now)
	default:
		r.needClean(x, now, UnexpectedOffline, thenRestart, x.detail(res))
	}
}

// foundBroken: something of it is there and does not work. That is a fault like an unexpected offline, but it is never
// taken for offline before it has been cleaned (A4).
func (r *Runtime) foundBroken(x *resource, now time.Duration, res Result, first bool) {
	why := cmp.Or(x.notice, res.Message, "the monitor found it broken")
	switch {
	case x.persistent():
		x.message = why
		r.setState(x, now, faulted)
		r.schedule(x, now)
	case first && x.expect != online:
		after := thenOffline
		if x.expect == faulted {
			after = thenFaulted
		}
		x.leftover, x.stopped = false, ""
		r.needClean(x, now, UnexpectedOffline, after, why)
	case x.uncleaned, x.state != online:
		x.note = why // as good as a monitor that can't tell
		r.schedule(x, now)
	case x.tolerated < x.limits.tolerance:
		x.tolerated++
		x.calmSince = now
		x.note = fmt.Sprintf("%s; tolerated (%d of %d)", why, x.tolerated, x.limits.tolerance)
		r.schedule(x, now)
	default:
		r.needClean(x, now, UnexpectedOffline, thenRestart, why)
	}
}

func (r *Runtime) monitorHung(x *resource, now time.Duration) {
	if x.hung == 0 || now-x.hungSince >= hungMonitorMemory {
		x.hung, x.hungSince = 0, now
	}
	x.hung++
	x.calmSince = now
	limit := x.limits.faultOnMonitorTimeouts
	why := fmt.Sprintf("%d monitors in a row did not end within %s", x.hung, x.limits.monitorTimeout)
	switch {
	case limit == 0 || x.hung < limit || !r.allowed(x):
		r.schedule(x, now)
	case x.persistent():
		x.hung, x.message, x.note = 0, why, ""
		r.setState(x, now, faulted)
		r.schedule(x, now)
	default:
		x.hung = 0
		r.needClean(x, now, MonitorHung, thenRestart, why)
	}
}

// detail is what is known of why it went offline.
func (x *resource) detail(res Result) string {
	switch {
	case x.notice != "":
		return x.notice
	case res.Message != "":
		return res.Message
	}
	return "the monitor found it offline"
}

func (r *Runtime) becomeOnline(x *resource, now time.Duration) {
	x.phase, x.restarting, x.attempts = steady, false, 0
	x.tolerated, x.hung, x.notice, x.failure = 0, 0, "", ""
	x.calmSince = now
	r.setState(x, now, online)
	x.scattered = true
	r.schedule(x, now)
}

func (r *Runtime) becomeOffline(x *resource, now time.Duration) {
	x.phase, x.restarting, x.attempts = steady, false, 0
	x.unable, x.uncleaned, x.cleanFails = false, false, 0
	x.tolerated, x.hung, x.notice, x.failure, x.note = 0, 0, "", "", ""
	x.restarts = 0
	r.setState(x, now, offline)
	r.schedule(x, now)
}

// needClean has the resource forced down, or remembers to do so once that is allowed.
func (r *Runtime) needClean(x *resource, now time.Duration, reason CleanReason, after then, why string) {
	x.reason, x.then, x.cleanFails, x.message, x.note = reason, after, 0, why, ""
	x.flushed = false
	x.phase = cleaning
	r.setDue(x, now)
	if !r.allowed(x) {
		r.postponeClean(x, now)
	}
}

func (r *Runtime) postponeClean(x *resource, now time.Duration) {
	x.phase, x.uncleaned, x.restarting = steady, true, false
	switch {
	case x.then == thenOffline && x.state == online:
	case x.reason != UnexpectedOffline || x.unable:
		r.setState(x, now, unknown)
	case r.mayAct:
		// Frozen: the fault is shown, not handled. Without a lease it is guard that stopped it, most likely; Stopped will tell.
		r.setState(x, now, faulted)
	}
	r.schedule(x, now)
}

func (r *Runtime) cleanFailed(x *resource, now time.Duration) {
	x.cleanFails++
	if x.cleanFails > x.limits.cleanRetry {
		x.unable = true
		x.note = x.failure
		if x.state == offline {
			r.setState(x, now, unknown)
		}
	}
	x.phase = cleaning
	r.setDue(x, now+retry(slowRetries, int(x.cleanFails)-1, x.limits.monitorInterval))
}

func (r *Runtime) cleanSucceeded(x *resource, now time.Duration) {
	x.unable, x.uncleaned, x.cleanFails, x.note = false, false, 0, ""
	wanted := x.mayRun()
	switch {
	case x.then == thenOffline:
		r.becomeOffline(x, now)
		return
	case x.then == thenRetry && wanted && x.attempts <= x.limits.onlineRetry:
		r.setState(x, now, offline)
		x.phase = starting
		r.setDue(x, never)
		return
	case x.then == thenRestart && wanted && x.restarts < x.limits.restart:
		x.restarts++
		x.attempts = 0
		x.restarting = true
		r.setState(x, now, offline)
		x.phase = starting
		r.setDue(x, never)
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
