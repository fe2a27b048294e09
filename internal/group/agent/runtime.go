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
	busy map[key]uint64
	// ghosts are forgotten resources of which close has yet to be called.
	ghosts map[key]*resource
	// pools of calls by type; those in short have resources that wait.
	pools     map[string]*pool
	short     []*pool
	lastToken uint64
	lastSeq   uint64
	// dirty resources are looked at before control returns to the caller.
	dirty   []*resource
	changed []*resource
	touched []*group
	out     Actions
	// untold events stand behind the last one in out.
	untold int
	// wallOffset + now is the time of day in milliseconds.
	wallOffset int64
}

type key struct{ group, resource string }

type underWay struct {
	key   key
	entry EntryPoint
	pool  *pool
	// x is nil once the resource has been forgotten.
	x *resource
	// Of an action, and of attr_changed.
	act     *act
	changed []string
}

// New returns a runtime for the node with that name that knows nothing yet.
func New(node string) *Runtime {
	return &Runtime{
		node: node, groups: map[string]*group{}, voided: map[string]uint64{}, protected: map[string]bool{},
		calls: map[uint64]*underWay{}, busy: map[key]uint64{}, ghosts: map[key]*resource{}, pools: map[string]*pool{},
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
	g.connect()
}

// meet makes the record of a resource that is new to this runtime.
func (r *Runtime) meet(now time.Duration, g *group, c *v1.Resource) *resource {
	r.lastSeq++
	x := &resource{
		g: g, name: c.GetName(), seq: r.lastSeq, slot: -1, due: now, infoDue: now, at: never,
		state: unknown, expect: offline, calmSince: now, steps: 1,
	}
	if known := g.Known[x.name]; known != nil {
		r.recall(x, known)
	}
	g.resources = append(g.resources, x)
	g.byName[x.name] = x
	r.inherit(x, c)
	return x
}

// recall takes over what was known of a resource before this runtime met it.
func (r *Runtime) recall(x *resource, known *v1.ResourceStatus) {
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
	case v1.ResourceActivity_RESOURCE_ACTIVITY_NONE:
		if known.GetUnableToOffline() && known.GetAdminWait() == 0 && x.state == online {
			x.unable, x.stuck, x.stuckAt = true, true, x.g.KnownIntent
		}
	}
	x.leftover = x.leftover || known.GetUnableToOffline()
	x.verdict, x.confidence = known.GetVerdict(), int(known.GetConfidence())
	x.intentional, x.leftAt = known.GetIntentional(), x.g.KnownIntent
	if x.state == online && len(known.GetInfo()) > 0 {
		x.info = makeInfo(known.GetInfo())
	}
	if w := known.GetAdminWait(); w != 0 { // nothing is looked at before the administrator has said so
		x.probed, x.heard, x.unable = true, true, known.GetUnableToOffline()
		x.timedOut = known.GetMonitorTimedOut()
		x.reason, x.then = CleanReason(w-1), thenRestart
		switch x.reason {
		case OfflineHung, OfflineIneffective:
			x.then = thenOffline
		case OnlineHung, OnlineIneffective:
			x.then = thenRetry
		}
		r.waitForAdmin(x)
	}
}

// inherit takes over that open was called for a resource of the same name and type, if close was not called yet.
func (r *Runtime) inherit(x *resource, c *v1.Resource) {
	ghost := r.ghosts[x.key()]
	if ghost == nil || ghost.config.GetType() != c.GetType() {
		return
	}
	if u := r.calls[r.busy[x.key()]]; u != nil && u.entry == Open {
		return // it was cut off
	}
	delete(r.ghosts, x.key())
	r.leave(ghost)
	x.opened, x.openNote = ghost.opened, ghost.openNote
	ghost.opened = nil
}

// adapt gives a resource its (new) configuration. What runs goes on; the next call uses the new attributes.
func (r *Runtime) adapt(now time.Duration, x *resource, c *v1.Resource) {
	wasManaged := x.config != nil && x.managed()
	before, attributes := x.limits, x.attributes
	x.config, x.typ = c, x.g.Types[c.GetType()]
	x.limits = effectiveLimits(x.typ.GetLimits(), c.GetLimits())
	x.enabled = c.Enabled == nil || c.GetEnabled()
	x.problem = ""
	if x.typ == nil {
		x.problem = fmt.Sprintf("its type %q is not defined", c.GetType())
	} else {
		r.poolOf(c.GetType()).threads = threads(x.typ)
	}
	x.attributes = r.attributesOf(c, x.typ)
	switch {
	case !x.managed():
		r.dropCall(x)
		x.reset()
		x.state, x.expect, x.leftover = unknown, offline, false
		x.due = never
	case !wasManaged:
		x.due = now
		if x.adminWait != 0 {
			x.due = never
		}
	default:
		if x.state == online && x.probed {
			x.mustTell(registered(x.typ, attributes, x.attributes))
		}
		if x.limits.imfMode != before.imfMode {
			x.unwatched = 0
			r.look(x, now)
		} else if x.phase == steady && x.call == 0 && x.limits.monitorInterval < before.monitorInterval {
			x.scattered = true
			r.schedule(x, now)
		}
		if x.limits.infoInterval < before.infoInterval || before.infoInterval == 0 {
			x.infoDue = now
		}
	}
	r.count(x)
	r.mark(x)
}

// attributesOf a resource on this node: the defaults of its type, its own, and those of this node.
func (r *Runtime) attributesOf(c *v1.Resource, t *v1.ResourceType) map[string]string {
	out := make(map[string]string, len(c.GetAttributes()))
	for _, a := range t.GetAttributes() {
		if a.GetDefault() != "" {
			out[a.GetName()] = a.GetDefault()
		}
	}
	maps.Copy(out, c.GetAttributes())
	maps.Copy(out, c.GetNodeAttributes()[r.node].GetValues())
	return out
}

// registered attributes that differ.
func registered(t *v1.ResourceType, before, now map[string]string) []string {
	var out []string
	for _, a := range t.GetAttributes() {
		if a.GetRegistered() && before[a.GetName()] != now[a.GetName()] {
			out = append(out, a.GetName())
		}
	}
	return out
}

// forget drops the record of a resource. Its call under way is ended, and A1 holds for whoever gets its name next.
func (r *Runtime) forget(x *resource) {
	if x.call != 0 {
		u := r.calls[x.call]
		if u.x = nil; u.entry != Close && !x.void {
			r.out.Cancel = append(r.out.Cancel, x.call)
		}
		x.call = 0
	}
	r.leave(x)
	x.enabled = false
	r.count(x)
	x.forgotten, x.at = true, never
	r.queue.arrange(x)
	r.dropActs(x, 0)
	if x.opened != nil {
		r.ghosts[x.key()] = x
		r.mark(x)
	}
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
	for len(r.queue) > 0 && r.queue[0].at <= now {
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
		out.Wake = max(1, r.queue[0].at)
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

func (r *Runtime) setWall(now time.Duration, wallMs int64) {
	r.wallOffset = wallMs - now.Milliseconds()
}
