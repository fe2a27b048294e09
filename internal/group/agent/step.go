package agent

import (
	"slices"
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

// settle looks at every resource that something has happened to, and at those next to it, until nothing changes any more;
// then it has the most urgent calls begin.
func (r *Runtime) settle(now time.Duration) {
	for i := 0; i < len(r.dirty); i++ {
		x := r.dirty[i]
		x.inDirty = false
		if x.forgotten {
			if x.opened != nil {
				r.step(x, now)
			}
			continue
		}
		r.refresh(x)
		r.step(x, now)
		r.count(x)
		r.change(x)
		r.touch(x.g)
		if o := x.outlook(); o != x.seen {
			x.seen = o
			r.spread(x)
		}
	}
	r.dirty = r.dirty[:0]
	r.dispatch(now)
}

// spread has everything looked at that may go another way for what has become of x.
func (r *Runtime) spread(x *resource) {
	x.below(r.mark)
	for _, e := range x.above {
		r.refresh(e.r)
		r.mark(e.r)
		if !e.all {
			e.r.below(r.mark) // with x back another one may go
		}
	}
}

// refresh works out anew what is wanted of x, and of what requires it if that changes.
func (r *Runtime) refresh(x *resource) {
	before := x.want
	x.refresh()
	if x.want != before {
		for _, e := range x.above {
			r.refresh(e.r)
			r.mark(e.r)
		}
	}
}

// dispatch has calls begin, as many as NumThreads allows, the most urgent first (A7).
func (r *Runtime) dispatch(now time.Duration) {
	kept := r.short[:0]
	for _, p := range r.short {
		for x := p.pick(); x != nil; x = p.pick() {
			p.remove(x)
			if e, _ := r.next(x, now); e != 0 {
				r.begin(x, p, e)
				r.arm(x, now)
			}
		}
		if p.listed = p.waiting > 0; p.listed {
			kept = append(kept, p)
		}
	}
	r.short = kept
}

// allowed: entry points that change something may be called.
func (r *Runtime) allowed(x *resource) bool { return r.mayAct && !x.g.Config.GetFrozen() }

// mayStart is A2.
func (r *Runtime) mayStart(x *resource) bool {
	return x.mayRun() && r.allowed(x) && x.g.unprobed == 0 && x.supplied()
}

// mayStop is A3.
func (r *Runtime) mayStop(x *resource) bool {
	return x.want == v1.Want_WANT_OFFLINE && r.allowed(x) && x.leavesAfter() == nil
}

// startsNow: a resource is to be brought online, and may be.
func (r *Runtime) startsNow(x *resource) bool {
	return x.settled() && x.state == offline && x.want == v1.Want_WANT_ONLINE && r.mayStart(x)
}

// stopsNow: a resource is to be taken offline, and may be.
func (r *Runtime) stopsNow(x *resource) bool {
	return (x.settled() && x.state == online && !x.givenUp() || x.phase == appearing) && r.mayStop(x)
}

// cleansNow: a clean was put off, and may be done.
func (r *Runtime) cleansNow(x *resource) bool {
	return x.phase == steady && x.uncleaned && r.allowed(x)
}

// step does with one resource what can be done now.
func (r *Runtime) step(x *resource, now time.Duration) {
	r.dropActs(x, now)
	r.calmDown(x, now)
	switch {
	case x.call != 0:
		r.leave(x)
		r.hurry(x)
	case r.taken(x):
		r.leave(x)
	default:
		if !x.forgotten && x.managed() {
			r.turn(x, now)
		}
		if e, c := r.next(x, now); e != 0 {
			r.await(x, c)
		} else {
			r.leave(x)
		}
	}
	r.arm(x, now)
}

// taken is A1: a call for what had this name before has not ended, or its close has yet to be made. Then it is looked at again.
func (r *Runtime) taken(x *resource) bool {
	k := x.key()
	ghost := r.ghosts[k]
	return r.busy[k] != 0 || ghost != nil && ghost != x
}

// hurry ends a call that must not hold up what is to be done next.
func (r *Runtime) hurry(x *resource) {
	switch x.entry {
	case Monitor:
	case Info:
		if x.again {
			r.dropCall(x)
		}
	case Action, AttrChanged:
		if !r.mayAct {
			r.dropCall(x)
		}
	default:
		return
	}
	if x.managed() && (r.startsNow(x) || r.stopsNow(x) || r.cleansNow(x)) {
		r.dropCall(x)
	}
}

// turn changes the phase of a resource without a call under way, if it is to go another way now.
func (r *Runtime) turn(x *resource, now time.Duration) {
	if x.unable && x.stuck && x.phase == steady && x.want == v1.Want_WANT_ONLINE {
		x.unable, x.stuck, x.verdict = false, false, 0 // it is where it is wanted
	}
	if x.want == v1.Want_WANT_ONLINE {
		x.intentional = false // by a newer order
	}
	switch {
	case x.adminWait != 0:
	case x.config.GetMonitorOnly() && (x.phase != steady || x.uncleaned):
		x.uncleaned = false
		r.breakOff(x, now)
	case r.startsNow(x):
		x.phase, x.attempts, x.restarting, x.message, x.verdict = starting, 0, false, "", 0
		x.due = never
	case r.stopsNow(x):
		x.phase, x.restarting, x.stuck = stopping, false, false
		if x.pulledBy != "" {
			x.message = "taken offline: it needs " + x.pulledBy
		} else {
			x.message = ""
		}
		x.due = never
	case x.phase == starting && (!x.mayRun() || x.want != v1.Want_WANT_ONLINE && !r.mayStart(x)):
		r.settleDown(x, now) // what is not wanted online does not wait to be restarted
	case x.phase == stopping && !r.mayStop(x) && x.state != online:
		r.breakOff(x, now) // it was still appearing
	case x.phase == stopping && !r.mayStop(x):
		r.settleDown(x, now)
		x.due = now
	case (x.phase == cleaning || x.phase == steady && x.uncleaned) && !x.faultsManaged() && r.mayAct:
		if x.state == faulted {
			r.setState(x, now, online) // shown as a fault while it was frozen
		}
		r.waitForAdmin(x)
	case x.phase == cleaning && !r.allowed(x):
		r.postponeClean(x, now)
	case r.cleansNow(x):
		x.uncleaned = false
		if x.state == faulted {
			r.setState(x, now, unknown)
		}
		x.phase = cleaning
		x.due = now
	}
}

// next is the call that has to be made of a resource without one, and how urgent it is; 0: none.
func (r *Runtime) next(x *resource, now time.Duration) (EntryPoint, class) {
	switch {
	case x.forgotten || !x.managed():
		if x.opened != nil {
			return Close, soon
		}
		return 0, 0
	case x.opened == nil:
		return Open, soon
	}
	monitor := x.due <= now && x.adminWait == 0
	switch x.phase {
	case starting:
		if r.mayStart(x) {
			return Online, starts
		}
		return 0, 0
	case stopping:
		return Offline, stops
	case cleaning:
		if x.due <= now {
			return Clean, stops
		}
		return 0, 0
	case vanishing, cleaned:
		if monitor {
			return Monitor, stops // nothing has stopped before that is known
		}
		return 0, 0
	case appearing:
		if monitor {
			return Monitor, soon
		}
		return 0, 0
	}
	switch {
	case monitor && !x.periodic():
		return Monitor, soon
	case len(x.changed) > 0 && r.mayTell(x):
		return AttrChanged, soon
	case len(x.acts) > 0:
		return Action, soon
	case monitor:
		return Monitor, routine
	case x.infoWanted() && x.infoDue <= now:
		return Info, extra
	}
	return 0, 0
}

// periodic: the next monitor is one of a row at intervals.
func (x *resource) periodic() bool { return x.phase == steady && x.probed && !x.urgent }

// begin makes a call. The caller has checked that it may.
func (r *Runtime) begin(x *resource, p *pool, e EntryPoint) {
	r.lastToken++
	p.running++
	u := &underWay{key: x.key(), entry: e, x: x, pool: p}
	c := Call{
		Token: r.lastToken, Group: u.key.group, Resource: x.name, Type: x.config.GetType(), Entry: e,
		Attributes: x.attributes, Timeout: x.limits.timeouts[e], Definition: x.typ,
	}
	r.calls[c.Token], r.busy[u.key] = u, c.Token
	x.call, x.entry, x.void, x.again = c.Token, e, false, false
	switch e {
	case Monitor:
		if x.periodic() {
			c.Deep = x.deepens()
		}
		x.asked = x.wantsWatch()
		c.Watch = x.asked
		x.urgent = false
		x.due = never
	case Online:
		c.Starts = true
		c.Takeover = x.g.Takeover && !x.restarting
		c.Restarts = x.restarts
		x.attempts++
		x.watched = false
		x.due = never
	case Offline:
		x.watched = false
		x.due = never
	case Clean:
		c.CleanReason, c.Forced = x.reason, x.forced
		x.watched = false
		x.due = never
	case Open:
		x.opened = x.typ
	case Close:
		c.Definition = x.opened
		x.opened = nil
		if x.forgotten {
			delete(r.ghosts, u.key)
			x.call, u.x = 0, nil
		}
	case Action:
		u.act = x.acts[0]
		x.acts = slices.Delete(x.acts, 0, 1)
		c.Name, c.Arguments = u.act.name, u.act.arguments
	case Info:
		x.infoDue = never
	case AttrChanged:
		u.changed = x.changed
		c.Changed, x.changed = u.changed, nil
	}
	r.out.Calls = append(r.out.Calls, c)
}

// settleDown ends going online or offline where it stands.
func (r *Runtime) settleDown(x *resource, now time.Duration) {
	x.phase, x.restarting, x.flushed = steady, false, false
	x.scattered = true
	r.schedule(x, now)
}

// breakOff ends what is on its way at a point where nobody knows how far it got: it is probed anew.
func (r *Runtime) breakOff(x *resource, now time.Duration) {
	r.settleDown(x, now)
	x.probed, x.expect, x.leftover, x.tries = false, offline, false, 0
	x.unable, x.stuck, x.cleanFails, x.recheck = false, false, 0, false
	x.message, x.note = "", ""
	r.count(x)
	r.look(x, now)
}

// look has the resource monitored as soon as possible.
func (r *Runtime) look(x *resource, now time.Duration) {
	switch {
	case !x.managed() || x.adminWait != 0:
	case x.call != 0:
		switch x.entry {
		case Monitor, Action, Info, AttrChanged:
			x.again = true
			r.mark(x)
		}
	case x.phase == steady, x.phase == appearing, x.phase == vanishing, x.phase == cleaned:
		x.urgent, x.due = true, now
		r.mark(x)
	}
}

// schedule sets the time of the next monitor of a steady resource.
func (r *Runtime) schedule(x *resource, now time.Duration) {
	interval := x.limits.monitorInterval
	x.steps = 1
	switch {
	case x.adminWait != 0:
		x.due = never
		return
	case x.uncleaned:
	case !x.probed, x.recheck:
		interval = retry(slowRetries, x.tries, interval)
		x.tries++
		x.due = now + interval
		return
	case x.asked != x.wantsWatch() && (x.watched || !x.asked):
		// A watch has yet to begin, or to end. Not at once: what changes all the time would have no pause.
		x.urgent = true
		x.due = now + quickRetries[0]
		return
	case x.state == online, x.state == unknown, x.persistent():
	case x.limits.offlineMonitorInterval == 0 && x.unsure: // a notice has to be followed up
	case x.limits.offlineMonitorInterval == 0:
		x.due = never
		return
	default:
		interval = x.limits.offlineMonitorInterval
	}
	unpolled := x.watched && x.limits.imfMonitorFreq == 0
	switch {
	case x.hung > 0 || x.tolerated > 0:
	case x.scattered && !unpolled:
		interval = x.share(interval)
	case x.watched:
		interval = times(x.untilNext(), interval)
	}
	x.scattered = false
	x.due = together(after(now, interval), interval)
}

// untilNext is how many intervals a resource whose changes are told may go without a monitor.
func (x *resource) untilNext() uint32 {
	const forever = 1<<32 - 1
	x.steps = x.limits.imfMonitorFreq
	if x.steps == 0 {
		x.steps = forever
	}
	if freq := x.limits.deepFreq; freq > 0 && x.state == online {
		x.steps = min(x.steps, max(1, freq-min(freq, x.cycles)))
	}
	return x.steps
}

// deepens counts periodic monitors while it is online, and says whether this one is a deep one.
func (x *resource) deepens() bool {
	freq := x.limits.deepFreq
	if freq == 0 || x.state != online {
		return false
	}
	if x.cycles += x.steps; x.cycles < freq {
		return false
	}
	x.cycles = 0
	return true
}

// together moves a monitor a little forward, to a moment at which others are
// due as well: on an idle node waking up costs more than the monitors do.
func together(at, interval time.Duration) time.Duration {
	step := min(interval/32, 250*time.Millisecond)
	if step <= 0 || at == never {
		return at
	}
	return at / step * step
}

// arm sets when x has to be looked at next if nothing happens before. What is due already has begun, or waits for
// something else.
func (r *Runtime) arm(x *resource, now time.Duration) {
	at := never
	if x.due > now && !x.forgotten {
		at = x.due
	}
	if x.infoDue > now && x.infoWanted() {
		at = min(at, x.infoDue)
	}
	if calm := x.calmAt(); calm > now {
		at = min(at, calm)
	}
	for _, a := range x.acts {
		at = min(at, max(now+1, a.until))
	}
	if at != x.at {
		x.at = at
		r.queue.arrange(x)
	} else if at != never && x.slot < 0 {
		r.queue.arrange(x)
	}
}

func (r *Runtime) setState(x *resource, now time.Duration, s v1.ResourceState) {
	if x.state == s {
		return
	}
	x.state = s
	x.changedMs = now.Milliseconds() + r.wallOffset
	x.scattered = true
	x.unwatched, x.cycles = 0, 0
	x.confidence, x.info, x.changed = 0, nil, nil
	x.infoDue = never
	if s == online {
		x.infoDue = now
	}
}

func (r *Runtime) mark(x *resource) {
	if !x.inDirty && (!x.forgotten || x.opened != nil) {
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
