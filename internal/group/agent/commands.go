package agent

import (
	"maps"
	"slices"
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

// What administrators, guard and process notification ask for, beside orders.

// Clear takes the fault off a resource (or, with an empty name, off all resources of the group). If it is still wanted
// online it is started again. A resource that is unable to offline is cleaned again at once, also if its way offline had
// been broken off.
func (r *Runtime) Clear(now time.Duration, groupName, resourceName string) {
	r.each(groupName, resourceName, func(x *resource) {
		switch {
		case !x.managed() || x.adminWait != 0:
			return
		case x.persistent():
		case x.phase == cleaning && x.call == 0:
			x.due = now
			r.mark(x)
			return
		case x.phase == steady && x.stuck:
			r.unstick(x, now)
		case x.phase == steady && x.probed && x.state == faulted:
			r.setState(x, now, offline)
			x.message, x.note, x.notice, x.verdict = "", "", "", 0
			x.restarts, x.attempts, x.uncleaned = 0, 0, false
		default:
			return
		}
		r.mark(x)
		r.look(x, now)
	})
	r.settle(now)
}

// unstick goes on with a way offline that was broken off: by force, where the cluster deals with faults.
func (r *Runtime) unstick(x *resource, now time.Duration) {
	x.unable, x.stuck, x.verdict = false, false, 0
	if x.call == 0 && x.want == v1.Want_WANT_OFFLINE && x.state == online && x.faultsManaged() {
		r.needClean(x, now, OfflineIneffective, thenOffline, x.message)
		x.unable, x.forced = true, true
	}
}

// ClearAdminWait ends the wait for an administrator of a resource (or, with an empty name, of all resources of the group).
// Without fault it is monitored at once, and that counts as any monitor of a resource in its state does: what is found
// gone that was online waits again. With fault it is taken for unable to offline if its way offline had failed, else for
// faulted, without being looked at.
func (r *Runtime) ClearAdminWait(now time.Duration, groupName, resourceName string, fault bool) {
	r.each(groupName, resourceName, func(x *resource) {
		if x.adminWait == 0 {
			return
		}
		failed := x.adminWait
		x.adminWait, x.note, x.cleanFails = 0, "", 0
		switch {
		case fault && (failed == v1.AdminWait_ADMIN_WAIT_OFFLINE_HUNG || failed == v1.AdminWait_ADMIN_WAIT_OFFLINE_INEFFECTIVE):
			r.setState(x, now, online)
			r.giveUp(x, now)
		case fault:
			x.unable = false
			r.setState(x, now, faulted)
			x.asked = x.wantsWatch() // with the next monitor, which has time
			r.schedule(x, now)
		case x.unable:
			x.phase, x.recheck, x.due = cleaned, true, now
		default:
			x.recheck, x.tries = true, 0
			r.look(x, now)
		}
		r.count(x)
		r.mark(x)
	})
	r.settle(now)
}

// Flush makes the group forget what it was waiting to do: the current order is void until the next one. Calls under way
// are not ended, what they did is found by monitors. A clean that fails goes on, unless the flush is forced: then the next
// monitor says what has become of the resource.
func (r *Runtime) Flush(now time.Duration, groupName string, force bool) {
	g := r.groups[groupName]
	if g == nil {
		return
	}
	g.voidOnline, g.voidOffline = max(g.voidOnline, g.Intent), max(g.voidOffline, g.Intent)
	for _, x := range g.resources {
		switch {
		case !x.managed(), x.adminWait != 0, x.phase == steady:
		case (x.phase == cleaning || x.phase == cleaned) && !force:
		case x.call == 0 || x.entry == Monitor:
			r.breakOff(x, now)
		default:
			x.flushed = true
		}
	}
	r.markAll(g)
	r.settle(now)
}

// Probe monitors a resource (or, with an empty name, all of the group) at once.
func (r *Runtime) Probe(now time.Duration, groupName, resourceName string) {
	r.each(groupName, resourceName, func(x *resource) { r.look(x, now) })
	r.settle(now)
}

// Notify tells what process notification has seen.
func (r *Runtime) Notify(now time.Duration, n Notice) {
	r.each(n.Group, n.Resource, func(x *resource) {
		if n.What != "" {
			x.notice = n.What
		}
		r.look(x, now)
	})
	r.settle(now)
}

// Stopped tells that guard has stopped everything, and why. What ran is monitored and reported as offline with that
// reason, and is not started again by the orders that were current.
func (r *Runtime) Stopped(now time.Duration, reason string) {
	for _, name := range slices.Sorted(maps.Keys(r.groups)) {
		g := r.groups[name]
		g.voidOnline = max(g.voidOnline, g.Intent)
		r.voided[name] = g.voidOnline
		for _, x := range g.resources {
			if !x.managed() {
				continue
			}
			wasFaulted, verdict := x.phase == steady && x.state == faulted && !x.uncleaned, x.verdict
			ran := x.active()
			r.dropCall(x)
			x.reset()
			x.expect, x.leftover, x.restarts = offline, false, 0
			switch {
			case wasFaulted:
				x.expect, x.verdict = faulted, verdict
			case ran:
				x.stopped = reason
			}
			r.count(x)
			x.due = now
		}
		r.markAll(g)
	}
	r.settle(now)
}

// each calls do with the resource, or with all of the group if its name is empty.
func (r *Runtime) each(groupName, resourceName string, do func(*resource)) {
	g := r.groups[groupName]
	if g == nil {
		return
	}
	if resourceName != "" {
		if x := g.byName[resourceName]; x != nil {
			do(x)
		}
		return
	}
	for _, x := range g.resources {
		do(x)
	}
}
