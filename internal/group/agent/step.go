package agent

import (
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

// settle looks at every resource that something has happened to, and at those next to it, until nothing changes any more.
func (r *Runtime) settle(now time.Duration) {
	for i := 0; i < len(r.dirty); i++ {
		x := r.dirty[i]
		x.inDirty = false
		if x.forgotten {
			continue
		}
		r.refresh(x)
		r.step(x, now)
		r.count(x)
		r.change(x)
		r.touch(x.g)
		if o := x.outlook(); o != x.seen {
			x.seen = o
			for _, n := range x.needs {
				r.mark(n)
			}
			for _, p := range x.neededBy {
				r.refresh(p)
				r.mark(p)
			}
		}
	}
	r.dirty = r.dirty[:0]
}

// refresh works out anew what is wanted of x, and of what requires it if that changes.
func (r *Runtime) refresh(x *resource) {
	before := x.want
	x.refresh()
	if x.want != before {
		for _, p := range x.neededBy {
			r.refresh(p)
			r.mark(p)
		}
	}
}

// allowed: entry points that change something may be called.
func (r *Runtime) allowed(x *resource) bool { return r.mayAct && !x.g.Config.GetFrozen() }

// mayStart is A2.
func (r *Runtime) mayStart(x *resource) bool {
	if !x.mayRun() || !r.allowed(x) || x.g.unprobed > 0 || x.missing != "" {
		return false
	}
	for _, n := range x.needs {
		if !n.ready() {
			return false
		}
	}
	return true
}

// mayStop is A3.
func (r *Runtime) mayStop(x *resource) bool {
	return x.want == v1.Want_WANT_OFFLINE && r.allowed(x) && x.leavesAfter() == ""
}

// startsNow: a steady resource is to be brought online, and may be.
func (r *Runtime) startsNow(x *resource) bool {
	return x.phase == steady && x.probed && !x.uncleaned && x.state == offline && x.want == v1.Want_WANT_ONLINE && r.mayStart(x)
}

// stopsNow: a resource is to be taken offline, and may be.
func (r *Runtime) stopsNow(x *resource) bool {
	return (x.phase == steady && x.probed && !x.uncleaned && x.state == online || x.phase == appearing) && r.mayStop(x)
}

// step does with one resource what can be done now.
func (r *Runtime) step(x *resource, now time.Duration) {
	if !x.managed() {
		return
	}
	if x.call != 0 {
		// A monitor that hangs must not hold up an order.
		if x.entry == Monitor && (r.startsNow(x) || r.stopsNow(x)) {
			r.dropCall(x)
		}
		return
	}
	if r.busy[x.key()] != 0 {
		r.queue.drop(x) // A1: looked at again when that call has ended
		return
	}
	r.turn(x, now)
	switch x.phase {
	case starting:
		if r.mayStart(x) {
			r.begin(x, Online)
		}
	case stopping:
		r.begin(x, Offline)
	case cleaning:
		if x.due <= now {
			r.begin(x, Clean)
		}
	case steady, appearing, vanishing, cleaned:
		if x.due <= now {
			r.begin(x, Monitor)
		}
	}
}

// turn changes the phase of a resource without a call under way, if it is to go another way now.
func (r *Runtime) turn(x *resource, now time.Duration) {
	switch {
	case r.startsNow(x):
		x.phase, x.attempts, x.restarting, x.message = starting, 0, false, ""
		r.setDue(x, never)
	case r.stopsNow(x):
		x.phase = stopping
		x.restarting = false
		if x.pulledBy != "" {
			x.message = "taken offline: it needs " + x.pulledBy
		} else {
			x.message = ""
		}
		r.setDue(x, never)
	case x.phase == starting && (!x.mayRun() || x.want != v1.Want_WANT_ONLINE && !r.mayStart(x)):
		r.settleDown(x, now) // what is not wanted online does not wait to be restarted
	case x.phase == stopping && !r.allowed(x):
		r.settleDown(x, now)
		r.setDue(x, now)
	case x.phase == cleaning && !r.allowed(x):
		r.postponeClean(x, now)
	case x.phase == steady && x.uncleaned && r.allowed(x):
		x.uncleaned = false
		if x.state == faulted {
			r.setState(x, now, unknown)
		}
		x.phase = cleaning
		r.setDue(x, now)
	}
}

// begin makes a call. The caller has checked that it may.
func (r *Runtime) begin(x *resource, e EntryPoint) {
	r.lastToken++
	x.call, x.entry, x.void, x.again = r.lastToken, e, false, false
	r.calls[x.call] = &underWay{key: x.key(), entry: e, x: x}
	r.busy[x.key()] = x.call
	r.setDue(x, never)
	c := Call{
		Token: x.call, Group: x.g.Config.GetName(), Resource: x.name, Type: x.config.GetType(), Entry: e,
		Attributes: x.attributes, Timeout: x.limits.timeout(e),
	}
	switch e {
	case Monitor:
		c.Watch = true
	case Online:
		c.Starts = true
		c.Takeover = x.g.Takeover && !x.restarting
		c.Restarts = x.restarts
		x.attempts++
	case Clean:
		c.CleanReason = x.reason
	}
	r.out.Calls = append(r.out.Calls, c)
}

// settleDown ends going online or offline where it stands.
func (r *Runtime) settleDown(x *resource, now time.Duration) {
	x.phase, x.restarting, x.flushed = steady, false, false
	x.scattered = true
	r.schedule(x, now)
}

// breakOff ends going online or offline at a point where nobody knows how far it got: it is probed anew.
func (r *Runtime) breakOff(x *resource, now time.Duration) {
	r.settleDown(x, now)
	x.probed, x.expect, x.tries = false, offline, 0
	r.count(x)
	r.look(x, now)
}

// look has the resource monitored as soon as possible.
func (r *Runtime) look(x *resource, now time.Duration) {
	switch {
	case !x.managed():
	case x.call != 0:
		x.again = x.entry == Monitor
	case x.phase == steady, x.phase == appearing, x.phase == vanishing, x.phase == cleaned:
		r.setDue(x, now)
		r.mark(x)
	}
}

// schedule sets the time of the next monitor of a steady resource.
func (r *Runtime) schedule(x *resource, now time.Duration) {
	interval := x.limits.monitorInterval
	switch {
	case x.uncleaned:
	case !x.probed:
		interval = retry(slowRetries, x.tries, interval)
		x.tries++
		r.setDue(x, now+interval)
		return
	case x.state == online, x.state == unknown, x.persistent():
	case x.limits.offlineMonitorInterval == 0:
		r.setDue(x, never)
		return
	default:
		interval = x.limits.offlineMonitorInterval
	}
	switch {
	case x.hung > 0 || x.tolerated > 0:
	case x.scattered:
		interval = interval/4 + interval*3/4/1024*spread(x.g.Config.GetName(), x.name)
	case x.watched:
		interval *= watchedFactor
	}
	x.scattered = false
	r.setDue(x, together(now+interval, interval))
}

// together moves a monitor a little forward, to a moment at which others are
// due as well: on an idle node waking up costs more than the monitors do.
func together(at, interval time.Duration) time.Duration {
	step := min(interval/32, 250*time.Millisecond)
	if step <= 0 {
		return at
	}
	return at / step * step
}

func (r *Runtime) setDue(x *resource, at time.Duration) {
	x.due = at
	r.queue.arrange(x)
}

func (r *Runtime) setState(x *resource, now time.Duration, s v1.ResourceState) {
	if x.state == s {
		return
	}
	x.state = s
	x.changedMs = now.Milliseconds() + r.wallOffset
	x.scattered = true
}

func (r *Runtime) mark(x *resource) {
	if !x.inDirty && !x.forgotten {
		x.inDirty = true
		r.dirty = append(r.dirty, x)
	}
}

// markAll has every resource of the group looked at, with wants that are right from the start.
func (r *Runtime) markAll(g *group) {
	for _, x := range g.resources {
		r.refresh(x)
		r.mark(x)
	}
}

func (r *Runtime) change(x *resource) {
	if !x.inChanged {
		x.inChanged = true
		r.changed = append(r.changed, x)
	}
}

func (r *Runtime) touch(g *group) {
	if !g.touched {
		g.touched = true
		r.touched = append(r.touched, g)
	}
}

// count keeps the counts of the group true.
func (r *Runtime) count(x *resource) {
	adjust := func(counted *bool, is bool, n *int) {
		if is && !*counted {
			*n++
		} else if !is && *counted {
			*n--
		}
		*counted = is
	}
	waiting := x.g.unprobed > 0
	adjust(&x.countedUnprobed, x.enabled && !x.probed, &x.g.unprobed)
	adjust(&x.countedUnheard, x.managed() && !x.heard, &x.g.unheard)
	adjust(&x.countedActive, x.active(), &x.g.active)
	r.touch(x.g)
	if waiting && x.g.unprobed == 0 {
		for _, o := range x.g.resources {
			r.mark(o)
		}
	}
}
