package agent

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// Runtime runs the resources of one node. It is not safe for concurrent use.
type Runtime struct {
	node        string
	incarnation uint64
	mayAct      bool
	groups      map[string]*group
	// voided is the newest intent of each group when guard stopped everything. It outlives incarnations.
	voided map[string]uint64
	// protected says what guard has been told; a group that is not in it has not been mentioned yet.
	protected map[string]bool

	queue queue
	calls map[uint64]*underWay
	// busy has the call under way of each resource, also of one that was forgotten since.
	busy      map[key]uint64
	lastToken uint64
	lastSeq   uint64
	// dirty resources are looked at before control returns to the caller.
	dirty   []*resource
	changed []*resource
	touched []*group
	out     Actions
	// wallOffset + now is the time of day in milliseconds.
	wallOffset int64
}

type key struct{ group, resource string }

type underWay struct {
	key   key
	entry EntryPoint
	// x is nil once the resource has been forgotten.
	x *resource
}

// New returns a runtime for the node with that name that knows nothing yet.
func New(node string) *Runtime {
	return &Runtime{
		node: node, groups: map[string]*group{}, voided: map[string]uint64{}, protected: map[string]bool{},
		calls: map[uint64]*underWay{}, busy: map[key]uint64{},
	}
}

// Desire tells what the newest applied state says about this node; to be called after each change of it. wallMs is the
// time of day in Unix milliseconds; it goes into statuses and decides nothing.
func (r *Runtime) Desire(now time.Duration, wallMs int64, d Desired) {
	r.setWall(now, wallMs)
	if d.Incarnation != r.incarnation {
		for _, name := range slices.Sorted(maps.Keys(r.groups)) {
			r.forgetGroup(r.groups[name])
		}
		r.incarnation = d.Incarnation
	}
	if d.MayAct != r.mayAct {
		r.mayAct = d.MayAct
		for _, name := range slices.Sorted(maps.Keys(r.groups)) {
			r.markAll(r.groups[name])
		}
	}
	present := make(map[string]bool, len(d.Groups))
	for i := range d.Groups {
		name := d.Groups[i].Config.GetName()
		present[name] = true
		r.desireGroup(now, d.Groups[i])
	}
	for _, name := range slices.Sorted(maps.Keys(r.groups)) {
		if !present[name] {
			r.forgetGroup(r.groups[name])
			if r.protected[name] {
				r.out.Gone = append(r.out.Gone, name)
			}
			delete(r.protected, name)
			delete(r.voided, name)
		}
	}
	r.settle(now)
}

func (r *Runtime) desireGroup(now time.Duration, d Group) {
	name := d.Config.GetName()
	g := r.groups[name]
	if g == nil {
		g = &group{byName: map[string]*resource{}, voidOnline: r.voided[name]}
		r.groups[name] = g
	}
	sameConfig := g.Config == d.Config && maps.Equal(g.Types, d.Types)
	sameOrder := g.Intent == d.Intent && g.Want == d.Want && maps.Equal(g.ResourceWants, d.ResourceWants)
	g.Group = d
	if !sameConfig {
		r.configure(now, g)
	}
	if !sameConfig || !sameOrder {
		r.touch(g)
		r.markAll(g)
	}
}

// configure makes the resources of the group those of its configuration.
func (r *Runtime) configure(now time.Duration, g *group) {
	present := map[string]bool{}
	for _, c := range g.Config.GetResources() {
		present[c.GetName()] = true
		x := g.byName[c.GetName()]
		if x != nil && x.config.GetType() != c.GetType() {
			r.forget(x)
			x = nil
		}
		if x == nil {
			x = r.meet(now, g, c)
		}
		r.adapt(now, x, c)
	}
	for _, x := range slices.Clone(g.resources) {
		if !present[x.name] {
			r.forget(x)
		}
	}
	for _, x := range g.resources {
		x.needs, x.neededBy, x.missing = nil, nil, ""
	}
	for _, x := range g.resources {
		requires := slices.Clone(x.config.GetRequires())
		slices.Sort(requires)
		for _, name := range slices.Compact(requires) {
			n := g.byName[name]
			if n == nil || n == x {
				x.missing = name
				continue
			}
			x.needs = append(x.needs, n)
			n.neededBy = append(n.neededBy, x)
		}
	}
}

// meet makes the record of a resource that is new to this runtime.
func (r *Runtime) meet(now time.Duration, g *group, c *v1.Resource) *resource {
	r.lastSeq++
	x := &resource{
		g: g, name: c.GetName(), seq: r.lastSeq, slot: -1, due: never,
		state: unknown, expect: offline, calmSince: now,
	}
	if known := g.Known[x.name]; known != nil {
		x.restarts, x.message, x.changedMs = known.GetRestarts(), known.GetMessage(), known.GetChangedMs()
		switch known.GetState() {
		case online, faulted:
			x.state, x.expect = known.GetState(), known.GetState()
		case offline:
			x.state = offline
		}
		switch known.GetActivity() {
		case v1.ResourceActivity_RESOURCE_ACTIVITY_ONLINE, v1.ResourceActivity_RESOURCE_ACTIVITY_RESTARTING,
			v1.ResourceActivity_RESOURCE_ACTIVITY_CLEAN:
			x.leftover = true
		}
		x.leftover = x.leftover || known.GetUnableToOffline()
	}
	g.resources = append(g.resources, x)
	g.byName[x.name] = x
	r.setDue(x, now)
	return x
}

// adapt gives a resource its (new) configuration. What runs goes on; the next call uses the new attributes.
func (r *Runtime) adapt(now time.Duration, x *resource, c *v1.Resource) {
	wasManaged := x.config != nil && x.managed()
	oldInterval := x.limits.monitorInterval
	x.config, x.typ = c, x.g.Types[c.GetType()]
	x.limits = effectiveLimits(x.typ.GetLimits(), c.GetLimits())
	x.enabled = c.Enabled == nil || c.GetEnabled()
	x.problem = ""
	if x.typ == nil {
		x.problem = fmt.Sprintf("its type %q is not defined", c.GetType())
	}
	x.attributes = make(map[string]string, len(c.GetAttributes()))
	for _, a := range x.typ.GetAttributes() {
		if a.GetDefault() != "" {
			x.attributes[a.GetName()] = a.GetDefault()
		}
	}
	maps.Copy(x.attributes, c.GetAttributes())
	switch {
	case !x.managed():
		r.dropCall(x)
		x.reset()
		x.state, x.expect, x.leftover = unknown, offline, false
		r.setDue(x, never)
	case !wasManaged:
		r.setDue(x, now)
	case x.phase == steady && x.call == 0 && x.limits.monitorInterval < oldInterval:
		x.scattered = true
		r.schedule(x, now)
	}
	r.count(x)
	r.mark(x)
}

// reset ends whatever is on its way; the next monitor is a first probe again.
func (x *resource) reset() {
	x.phase, x.probed, x.heard, x.again = steady, false, false, false
	x.restarting, x.uncleaned, x.unable, x.timedOut, x.watched = false, false, false, false, false
	x.attempts, x.cleanFails, x.tolerated, x.hung, x.tries = 0, 0, 0, 0, 0
	x.notice, x.note, x.stopped = "", "", ""
}

// forget drops the record of a resource. Its call under way is ended, and A1 holds for whoever gets its name next.
func (r *Runtime) forget(x *resource) {
	if x.call != 0 {
		r.out.Cancel = append(r.out.Cancel, x.call)
		r.calls[x.call].x = nil
	}
	r.setDue(x, never)
	x.enabled = false
	r.count(x)
	x.forgotten = true
	delete(x.g.byName, x.name)
	x.g.resources = slices.DeleteFunc(x.g.resources, func(o *resource) bool { return o == x })
}

func (r *Runtime) forgetGroup(g *group) {
	for _, x := range slices.Clone(g.resources) {
		r.forget(x)
	}
	g.forgotten = true
	delete(r.groups, g.Config.GetName())
}

// dropCall ends the call under way; its outcome will not count.
func (r *Runtime) dropCall(x *resource) {
	if x.call != 0 && !x.void {
		x.void = true
		r.out.Cancel = append(r.out.Cancel, x.call)
	}
}

// Clear takes the fault off a resource (or, with an empty name, off all resources of the group). If it is still wanted
// online it is started again; a resource that is unable to offline is cleaned again at once.
func (r *Runtime) Clear(now time.Duration, groupName, resourceName string) {
	r.each(groupName, resourceName, func(x *resource) {
		switch {
		case !x.managed():
			return
		case x.persistent():
		case x.phase == cleaning && x.call == 0:
			r.setDue(x, now)
			return
		case x.phase == steady && x.probed && x.state == faulted:
			r.setState(x, now, offline)
			x.message, x.note, x.notice = "", "", ""
			x.restarts, x.attempts, x.uncleaned = 0, 0, false
			r.mark(x)
		default:
			return
		}
		r.look(x, now)
	})
	r.settle(now)
}

// Flush makes the group forget what it was waiting to do: the current order is void until the next one. Calls under way
// are not ended, what they did is found by monitors; a clean that fails goes on.
func (r *Runtime) Flush(now time.Duration, groupName string) {
	g := r.groups[groupName]
	if g == nil {
		return
	}
	g.voidOnline, g.voidOffline = max(g.voidOnline, g.Intent), max(g.voidOffline, g.Intent)
	for _, x := range g.resources {
		switch {
		case !x.managed():
		case x.phase == appearing, x.phase == vanishing, x.phase == starting && x.call == 0, x.phase == stopping && x.call == 0:
			r.breakOff(x, now)
		case x.phase == starting, x.phase == stopping:
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
			wasFaulted := x.phase == steady && x.state == faulted && !x.uncleaned
			ran := x.active()
			r.dropCall(x)
			x.reset()
			x.expect, x.leftover, x.restarts = offline, false, 0
			switch {
			case wasFaulted:
				x.expect = faulted
			case ran:
				x.stopped = reason
			}
			r.count(x)
			r.setDue(x, now)
		}
		r.markAll(g)
	}
	r.settle(now)
}

// Retell reports once more what the newest Desired does not know as it was reported. It is for a caller that has no report
// on its way: a command that was applied since may have forgotten what was reported (the node was restarted, a fault was
// cleared, a place was taken away and given back), or a report was refused.
func (r *Runtime) Retell() {
	for _, name := range slices.Sorted(maps.Keys(r.groups)) {
		g := r.groups[name]
		if g.reportedIntent == g.Intent && g.KnownIntent != g.Intent {
			g.reportedIntent = 0
			r.touch(g)
		}
		for _, x := range g.resources {
			if x.reported != nil && !x.reported.knownAs(g.Known[x.name]) {
				x.reported = nil
				r.change(x)
				r.touch(g)
			}
		}
	}
}

// Active returns the groups of which something runs or may run, sorted: those that guard has to protect.
func (r *Runtime) Active() []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(r.protected)) {
		if r.protected[name] {
			names = append(names, name)
		}
	}
	return names
}

// Tick tells that time has passed.
func (r *Runtime) Tick(now time.Duration) {
	for len(r.queue) > 0 && r.queue[0].due <= now {
		x := r.queue[0]
		r.queue.drop(x)
		r.mark(x)
	}
	r.settle(now)
}

// Take returns what the caller must carry out now, and forgets it.
func (r *Runtime) Take() Actions {
	slices.SortFunc(r.touched, func(a, b *group) int { return strings.Compare(a.Config.GetName(), b.Config.GetName()) })
	reports := map[*group]*statepb.GroupReport{}
	for _, x := range r.changed {
		x.inChanged = false
		if x.forgotten || !x.tellable() {
			continue
		}
		s := x.status(r.mayAct)
		if x.reported != nil && *x.reported == s {
			continue
		}
		x.reported = &s
		rep := reports[x.g]
		if rep == nil {
			rep = &statepb.GroupReport{Resources: map[string]*v1.ResourceStatus{}}
			reports[x.g] = rep
		}
		rep.Resources[x.name] = s.proto()
	}
	for _, g := range r.touched {
		g.touched = false
		if g.forgotten {
			continue
		}
		name := g.Config.GetName()
		r.protect(name, g)
		// Only once everything has been looked at is the whole report about that order: until then committed statuses may be
		// older than the order, and the planner must not take them for its outcome.
		intent := g.reportedIntent
		if g.unheard == 0 {
			intent = g.Intent
		}
		rep := reports[g]
		if rep == nil && intent != g.reportedIntent {
			rep = &statepb.GroupReport{}
		}
		if rep != nil {
			rep.Group, rep.Intent = name, intent
			g.reportedIntent = intent
			r.out.Reports = append(r.out.Reports, rep)
		}
	}
	r.changed, r.touched = nil, nil
	out := r.out
	r.out = Actions{}
	if len(r.queue) > 0 {
		out.Wake = max(1, r.queue[0].due)
	}
	return out
}

// protect keeps guard's list of groups true.
func (r *Runtime) protect(name string, g *group) {
	told, known := r.protected[name]
	switch {
	case g.active > 0 && !told:
		r.protected[name] = true
		r.out.Protect = append(r.out.Protect, name)
	case g.active == 0 && g.unprobed == 0 && (told || !known):
		r.protected[name] = false
		r.out.Gone = append(r.out.Gone, name)
	}
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

func (r *Runtime) setWall(now time.Duration, wallMs int64) {
	r.wallOffset = wallMs - now.Milliseconds()
}
