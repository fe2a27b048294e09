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
	u.pool.running--
	if u.act != nil {
		r.acted(u, d)
	}
	x := u.x
	if x == nil {
		if g := r.groups[u.key.group]; g != nil && g.byName[u.key.resource] != nil {
			r.mark(g.byName[u.key.resource])
		}
		if ghost := r.ghosts[u.key]; ghost != nil {
			r.mark(ghost)
		}
		r.settle(now)
		return
	}
	x.call = 0
	switch {
	case x.void:
		x.void = false
		r.unfinished(x, now, u)
	case u.entry == Monitor:
		r.monitored(x, now, d.Result)
	case u.entry == Open:
		x.openNote = d.failure(x, Open)
	case u.entry == AttrChanged:
		x.note = d.failure(x, AttrChanged)
	case u.entry == Info:
		r.informed(x, now, d)
	case u.entry == Action, u.entry == Close:
	case x.flushed && (!d.TimedOut || u.entry == Clean):
		r.breakOff(x, now)
	case u.entry == Online:
		r.broughtOnline(x, now, d.Result)
	case u.entry == Offline:
		r.takenOffline(x, now, d.Result)
	case u.entry == Clean:
		r.wasCleaned(x, now, d)
	}
	// What a notice told has been seen if it was found offline, and must not count twice.
	if x.again && x.phase != cleaning && x.tolerated == 0 {
		r.look(x, now)
	}
	x.again = false
	r.mark(x)
	r.settle(now)
}

// unfinished: a call was ended early, and what it says does not count.
func (r *Runtime) unfinished(x *resource, now time.Duration, u *underWay) {
	if !x.managed() {
		return
	}
	switch u.entry {
	case Monitor, Online, Offline, Clean:
		x.urgent, x.due = true, now
	case Open:
		x.opened = nil
	case Info:
		x.infoDue = now
	case AttrChanged:
		if x.state == online {
			x.mustTell(u.changed)
		}
	}
}

// failure puts into words that an entry point failed; empty: it did not.
func (d Done) failure(x *resource, e EntryPoint) string {
	switch {
	case d.TimedOut && d.Message != "":
		return fmt.Sprintf("%s did not end within %s: %s", e, x.limits.timeouts[e], d.Message)
	case d.TimedOut:
		return fmt.Sprintf("%s did not end within %s", e, x.limits.timeouts[e])
	case d.Err != "":
		return fmt.Sprintf("%s failed: %s", e, d.Err)
	}
	return ""
}

func (r *Runtime) broughtOnline(x *resource, now time.Duration, res Result) {
	x.failure, x.verdict = Done{Result: res}.failure(x, Online), 0
	if x.failure != "" {
		x.verdict = res.Verdict
	}
	if res.TimedOut {
		r.needClean(x, now, OnlineHung, thenRetry, x.failure)
		return
	}
	x.phase, x.tries = appearing, 0
	first := after(now, max(0, res.Wait))
	x.deadline = after(first, times(x.limits.onlineWait, x.limits.monitorInterval))
	if res.Err != "" {
		x.deadline = first // nothing to wait for
	}
	x.due = first
}

func (r *Runtime) takenOffline(x *resource, now time.Duration, res Result) {
	x.failure, x.verdict = Done{Result: res}.failure(x, Offline), 0
	if x.failure != "" {
		x.verdict = res.Verdict
	}
	if x.verdict == v1.Verdict_VERDICT_HALT_ABORTED {
		x.message = x.failure
		r.giveUp(x, now)
		return
	}
	if res.TimedOut {
		r.needClean(x, now, OfflineHung, thenOffline, x.failure)
		return
	}
	x.phase, x.tries = vanishing, 0
	first := after(now, max(0, res.Wait))
	x.deadline = after(first, times(x.limits.offlineWait, x.limits.monitorInterval))
	if res.Err != "" {
		x.deadline = first
	}
	x.due = first
}

// monitored takes in what a monitor has found.
func (r *Runtime) monitored(x *resource, now time.Duration, res Result) {
	found := res.State
	if res.TimedOut || res.Err != "" || found != online && found != offline && found != faulted {
		found = unknown
	}
	x.heard, x.gone, x.unsure = true, found == offline, found == unknown
	r.timedOut(x, now, res.TimedOut)
	if found == unknown {
		if x.note == "" {
			x.note = unsureNote(x, res)
		}
		x.watched = false // what is told may have been told already
	} else {
		x.note = ""
		x.watched = x.asked && res.Watched
	}
	// Before what it found is acted on: that may change the state, and with it these begin anew.
	if x.phase == steady && x.asked && found != unknown {
		x.unwatched++
		if x.watched || res.WatchedPartly {
			x.unwatched = 0
		}
	}
	defer x.trust(found, res.Confidence)
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

// timedOut counts monitors that time out in a row, and tells of every so many.
func (r *Runtime) timedOut(x *resource, now time.Duration, is bool) {
	x.timedOut = is
	if !is {
		x.timeouts = 0
		return
	}
	x.timeouts++
	if n := x.limits.alertOnMonitorTimeouts; n > 0 && x.timeouts%n == 0 {
		r.tell(now, x, "resource.monitor-timed-out", fmt.Sprintf("%d monitors of %s in a row did not end within %s on %s",
			x.timeouts, x.name, x.limits.timeouts[Monitor], r.node))
	}
}

// trust takes in the confidence of a monitor. Small changes are not worth a report.
func (x *resource) trust(found v1.ResourceState, confidence int) {
	if found != online || x.state != online {
		return
	}
	now := min(max(0, confidence), 100)
	if change := now - x.confidence; change <= -leastChange || change >= leastChange || now == 0 {
		x.confidence = now
	}
	if x.note == "" && x.confidence > 0 && x.confidence < 100 {
		x.note = fmt.Sprintf("online with a confidence of %d%%", x.confidence)
	}
}

func unsureNote(x *resource, res Result) string {
	switch {
	case res.TimedOut && res.Message != "":
		return fmt.Sprintf("monitor did not end within %s: %s", x.limits.timeouts[Monitor], res.Message)
	case res.TimedOut:
		return fmt.Sprintf("monitor did not end within %s", x.limits.timeouts[Monitor])
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
		if res.Verdict != 0 {
			x.verdict = res.Verdict
		}
		r.needClean(x, now, OnlineIneffective, thenRetry, why)
	default:
		r.lookAgainSoon(x, now)
	}
}

func (r *Runtime) monitoredVanishing(x *resource, now time.Duration, found v1.ResourceState) {
	switch {
	case found == offline:
		r.wentOffline(x, now)
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
		return after(x.deadline, x.limits.monitorInterval)
	}
	return x.deadline
}

func (r *Runtime) lookAgainSoon(x *resource, now time.Duration) {
	x.due = now + retry(quickRetries, x.tries, x.limits.monitorInterval)
	x.tries++
}

func (r *Runtime) monitoredCleaned(x *resource, now time.Duration, found v1.ResourceState, res Result) {
	recheck := x.recheck
	x.recheck = false
	switch {
	case recheck && found == offline:
		r.cleanSucceeded(x, now)
	case recheck:
		x.phase, x.due = cleaning, now
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
	// For nobody knows what it has become, or been, meanwhile.
	anew := first && x.expect != online || x.recheck && x.state != online
	if found != unknown {
		if x.recheck && found == online {
			x.message = ""
		}
		x.probed, x.recheck, x.tries = true, false, 0
	}
	r.calmDown(x, now)
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
		r.foundBroken(x, now, res, anew)
		return
	}
	r.schedule(x, now)
}

func (r *Runtime) foundOnline(x *resource, now time.Duration, first bool) {
	x.uncleaned, x.tolerated, x.notice, x.forced = false, 0, "", false
	if !x.stuck {
		x.unable, x.verdict = false, 0
	}
	switch {
	case first && x.stopped != "":
		x.message = "still online after guard stopped everything: " + x.stopped
	case x.state == online:
	case first || x.persistent() || x.config.GetMonitorOnly():
		x.message = ""
	default:
		x.message = "came online by itself"
	}
	x.stopped = ""
	if x.state != online {
		x.calmSince = now
	}
	r.setState(x, now, online)
	if x.infoDue == never {
		x.infoDue = now
	}
}

// foundOfflineAtFirst compares the first probe with what was known before.
func (r *Runtime) foundOfflineAtFirst(x *resource, now time.Duration, res Result) {
	switch {
	case x.persistent() && x.state == online:
		r.foundOffline(x, now, res)
		return
	case x.persistent():
		x.message = x.detail(res)
		r.setState(x, now, faulted)
	case x.config.GetMonitorOnly():
		r.setState(x, now, offline)
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
	case x.config.GetMonitorOnly() && !x.persistent():
		if x.state == online {
			x.message = x.detail(res)
		}
		r.becomeOffline(x, now)
	case x.state == unknown && !x.uncleaned && !x.persistent():
		r.becomeOffline(x, now)
	case !x.stuck && (x.uncleaned || x.state != online && !(x.persistent() && x.state == unknown)):
		r.schedule(x, now)
	case x.want == v1.Want_WANT_OFFLINE, x.stuck:
		x.message = ""
		r.becomeOffline(x, now)
	case res.Intentional && x.typ.GetIntentionalOffline() && !x.persistent():
		x.message = cmp.Or(res.Message, "taken offline on purpose, by somebody else than the cluster")
		r.becomeOffline(x, now)
		x.intentional, x.leftAt = true, x.g.Intent
	case x.tolerated < x.limits.tolerance:
		x.tolerated++
		x.calmSince = now
		x.note = fmt.Sprintf("%s; tolerated (%d of %d)", x.detail(res), x.tolerated, x.limits.tolerance)
		r.schedule(x, now)
	default:
		x.verdict = res.Verdict
		r.fault(x, now, UnexpectedOffline, x.detail(res))
	}
}

// foundBroken: something of it is there and does not work. That is a fault like an unexpected offline, but it is never
// taken for offline before it has been cleaned (A4).
func (r *Runtime) foundBroken(x *resource, now time.Duration, res Result, anew bool) {
	why := cmp.Or(x.notice, res.Message, "the monitor found it broken")
	switch {
	case x.config.GetMonitorOnly() && !x.persistent():
		if x.note = why; anew {
			r.setState(x, now, unknown)
		}
		r.schedule(x, now)
	case x.persistent() && x.state != online:
		x.message = why
		r.setState(x, now, faulted)
		r.schedule(x, now)
	case anew && !x.persistent():
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
		x.verdict = res.Verdict
		r.fault(x, now, UnexpectedOffline, why)
	}
}

func (r *Runtime) monitorHung(x *resource, now time.Duration) {
	if x.hung == 0 || now-x.hungSince >= hungMonitorMemory {
		x.hung, x.hungSince = 0, now
	}
	x.hung++
	x.calmSince = now
	limit := x.limits.faultOnMonitorTimeouts
	why := fmt.Sprintf("%d monitors in a row did not end within %s", x.hung, x.limits.timeouts[Monitor])
	switch {
	case limit == 0 || x.hung < limit || !r.allowed(x), x.config.GetMonitorOnly(), x.stuck:
		r.schedule(x, now)
	default:
		x.hung, x.note, x.verdict = 0, "", 0
		r.fault(x, now, MonitorHung, why)
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
	x.tolerated, x.hung, x.notice, x.failure, x.verdict = 0, 0, "", "", 0
	x.unable, x.stuck, x.forced = false, false, false
	x.calmSince = now
	r.setState(x, now, online)
	x.scattered = true
	r.schedule(x, now)
}

// wentOffline: it was taken offline, or cleaned because that had failed. A verdict about the failure stands behind a fault.
func (r *Runtime) wentOffline(x *resource, now time.Duration) {
	verdict, why := x.verdict, cmp.Or(x.failure, x.message)
	r.becomeOffline(x, now)
	if verdict != 0 {
		x.verdict, x.message = verdict, why
		r.setState(x, now, faulted)
	}
}

func (r *Runtime) becomeOffline(x *resource, now time.Duration) {
	x.phase, x.restarting, x.attempts = steady, false, 0
	x.unable, x.stuck, x.uncleaned, x.forced, x.cleanFails = false, false, false, false, 0
	x.tolerated, x.hung, x.notice, x.failure, x.note = 0, 0, "", "", ""
	x.restarts, x.verdict = 0, 0
	r.setState(x, now, offline)
	r.schedule(x, now)
}
