package agent

import (
	"fmt"
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

const (
	unknown = v1.ResourceState_RESOURCE_STATE_UNKNOWN
	offline = v1.ResourceState_RESOURCE_STATE_OFFLINE
	online  = v1.ResourceState_RESOURCE_STATE_ONLINE
	faulted = v1.ResourceState_RESOURCE_STATE_FAULTED
)

// phase is where a resource is on its way.
type phase uint8

const (
	// steady: nothing is on its way; monitored at intervals.
	steady phase = iota
	// starting: online is to be called, or under way.
	starting
	// appearing: online has returned; monitored until it shows.
	appearing
	// stopping: offline is to be called, or under way.
	stopping
	// vanishing: offline has returned; monitored until it is gone.
	vanishing
	// cleaning: clean is to be called (once due), or under way.
	cleaning
	// cleaned: clean has returned; the monitor has the last word.
	cleaned
)

// then is what happens to a resource after it has been cleaned.
type then uint8

const (
	// thenOffline: it is simply offline.
	thenOffline then = iota
	// thenRetry: going online had failed; it is tried again within OnlineRetryLimit.
	thenRetry
	// thenRestart: it had gone by itself; it is restarted within RestartLimit.
	thenRestart
	// thenFaulted: it was faulted before.
	thenFaulted
)

// group is what the runtime knows of a group.
type group struct {
	Group
	// resources by age, which is the order of the configuration when it was first seen.
	resources []*resource
	byName    map[string]*resource
	// unprobed and unheard count enabled resources of which it is not known yet whether they are online, and of those that
	// no monitor has told anything of, not even that it does not know.
	unprobed, unheard int
	// active counts resources of which something runs or may run.
	active int
	// Orders up to these numbers no longer bring anything online, or offline: guard stopped everything, or they were flushed.
	voidOnline, voidOffline uint64
	reportedIntent          uint64
	touched, forgotten      bool
}

// resource is one resource on this node.
type resource struct {
	g       *group
	name    string
	seq     uint64
	config  *v1.Resource
	typ     *v1.ResourceType
	limits  limits
	enabled bool
	// problem is why it can't be handled at all; empty: it can.
	problem    string
	attributes map[string]string
	needs      []*resource
	neededBy   []*resource
	// missing names something that it requires and that does not exist; it is never started then.
	missing string

	// state as it was last found out. Before the first probe: UNKNOWN, or what was committed.
	state  v1.ResourceState
	phase  phase
	probed bool
	heard  bool
	// expect is what the first probe is compared with, and leftover says that something was on its way then.
	expect   v1.ResourceState
	leftover bool
	// stopped is why guard stopped it; the next probe that finds it offline says so.
	stopped string

	// call under way, 0 if none; void: its outcome does not count any more.
	call  uint64
	entry EntryPoint
	void  bool
	// again: monitor once more as soon as the monitor under way has ended.
	again bool
	due   time.Duration
	slot  int

	// want as it follows from the order and the dependencies; pulledBy names what keeps it from being wanted online.
	want     v1.Want
	pulledBy string

	// Of going online, going offline and cleaning.
	tries      int
	deadline   time.Duration
	failure    string
	attempts   uint32
	restarting bool
	// flushed: the order behind the call under way was flushed.
	flushed    bool
	reason     CleanReason
	then       then
	cleanOK    bool
	cleanFails uint32
	// uncleaned: it has to be cleaned, but not now (the group is frozen, or there is no lease).
	uncleaned bool
	// unable: clean has failed more often than CleanRetryLimit.
	unable bool

	// Of being online.
	restarts, tolerated, hung uint32
	hungSince, calmSince      time.Duration
	watched                   bool
	notice                    string

	// scattered: the next steady monitor comes early by a share of the interval that differs between resources.
	scattered bool
	// message explains the state, note the last monitor if that could not tell.
	message, note string
	timedOut      bool
	changedMs     int64

	reported                                       *status
	seen                                           outlook
	inDirty, inChanged, forgotten                  bool
	countedUnprobed, countedUnheard, countedActive bool
}

// status is a v1.ResourceStatus that can be compared.
type status struct {
	state            v1.ResourceState
	activity         v1.ResourceActivity
	unable, timedOut bool
	message          string
	restarts         uint32
	changedMs        int64
}

func (s *status) proto() *v1.ResourceStatus {
	return &v1.ResourceStatus{
		State: s.state, Activity: s.activity, UnableToOffline: s.unable, MonitorTimedOut: s.timedOut,
		Message: s.message, Restarts: s.restarts, ChangedMs: s.changedMs,
	}
}

// knownAs says whether the committed status is this one. Their times are of different clocks.
func (s *status) knownAs(k *v1.ResourceStatus) bool {
	return k.GetState() == s.state && k.GetActivity() == s.activity && k.GetUnableToOffline() == s.unable &&
		k.GetMonitorTimedOut() == s.timedOut && k.GetMessage() == s.message && k.GetRestarts() == s.restarts
}

// outlook is what other resources of the group can see of a resource.
type outlook struct {
	state v1.ResourceState
	phase phase
	want  v1.Want
	ready bool
	quiet bool
}

func (x *resource) operations() v1.Operations {
	if x.typ == nil || x.typ.Operations == v1.Operations_OPERATIONS_UNSPECIFIED {
		return v1.Operations_OPERATIONS_ON_OFF
	}
	return x.typ.Operations
}

func (x *resource) key() key { return key{x.g.Config.GetName(), x.name} }

func (x *resource) persistent() bool { return x.operations() == v1.Operations_OPERATIONS_NONE }

// managed resources are monitored; the others are left entirely alone.
func (x *resource) managed() bool { return x.enabled && x.problem == "" }

// ready: what requires it may be started.
func (x *resource) ready() bool {
	return x.managed() && x.probed && x.state == online && x.phase == steady && !x.uncleaned &&
		x.want != v1.Want_WANT_OFFLINE
}

// tellable: there is something to report. Before the first monitor what is committed may be truer than what is known here.
func (x *resource) tellable() bool { return x.heard || !x.managed() }

// quiet: what it requires may be stopped. A resource that is never taken offline doesn't keep others from it.
func (x *resource) quiet() bool {
	if !x.managed() || x.operations() != v1.Operations_OPERATIONS_ON_OFF {
		return true
	}
	return x.probed && x.phase == steady && (x.state == offline || x.state == faulted) && !x.unable && !x.uncleaned
}

// active: something of it runs, or may run.
func (x *resource) active() bool {
	if !x.managed() || x.persistent() {
		return false
	}
	return x.phase != steady || x.uncleaned || x.unable || x.state == online || x.probed && x.state == unknown
}

// orderedWant is what the order says of it, dependencies aside.
func (x *resource) orderedWant() v1.Want {
	if !x.managed() || x.persistent() {
		return v1.Want_WANT_NOTHING
	}
	w := x.g.Want
	if own, ok := x.g.ResourceWants[x.name]; ok && own != v1.Want_WANT_UNSPECIFIED {
		w = own
	}
	switch {
	case w == v1.Want_WANT_ONLINE && x.g.Intent > x.g.voidOnline:
		return w
	case w == v1.Want_WANT_OFFLINE && x.g.Intent > x.g.voidOffline && x.operations() == v1.Operations_OPERATIONS_ON_OFF:
		return w
	}
	return v1.Want_WANT_NOTHING
}

// refresh works out what is wanted of it. What can't have all that it requires goes offline: a fault takes along
// everything above it.
func (x *resource) refresh() {
	x.want, x.pulledBy = x.orderedWant(), ""
	if x.want != v1.Want_WANT_ONLINE {
		return
	}
	for _, n := range x.needs {
		switch {
		case n.managed() && n.state == faulted && n.phase == steady && !n.uncleaned:
			x.pulledBy = n.name + ", which is faulted"
		case n.want == v1.Want_WANT_OFFLINE:
			x.pulledBy = n.name + ", which is to be offline"
		default:
			continue
		}
		x.want = v1.Want_WANT_OFFLINE
		if x.operations() != v1.Operations_OPERATIONS_ON_OFF {
			x.want = v1.Want_WANT_NOTHING
		}
		return
	}
}

// mayRun: an order that still counts lets it be started or restarted here. An on-only resource is restarted even when its
// group is wanted offline.
func (x *resource) mayRun() bool {
	return x.want == v1.Want_WANT_ONLINE ||
		x.want == v1.Want_WANT_NOTHING && x.operations() == v1.Operations_OPERATIONS_ON_ONLY && x.g.Intent > x.g.voidOnline
}

func (x *resource) outlook() outlook {
	return outlook{state: x.state, phase: x.phase, want: x.want, ready: x.ready(), quiet: x.quiet()}
}

// waitsFor says what keeps a resource that is wanted online from being started; empty: nothing.
func (x *resource) waitsFor(mayAct bool) string {
	if x.missing != "" {
		return fmt.Sprintf("waits for %s, which does not exist", x.missing)
	}
	for _, n := range x.needs {
		switch {
		case n.ready():
		case !n.enabled:
			return fmt.Sprintf("waits for %s, which is not enabled", n.name)
		default:
			return fmt.Sprintf("waits for %s", n.name)
		}
	}
	switch {
	case x.g.unprobed > 0:
		return "waits until all resources of the group have been probed"
	case !mayAct:
		return "waits for this node's lease"
	}
	return ""
}

// leavesAfter names what has to go offline before it; empty: nothing.
func (x *resource) leavesAfter() string {
	for _, p := range x.neededBy {
		if !p.quiet() {
			return p.name
		}
	}
	return ""
}

func (x *resource) status(mayAct bool) status {
	s := status{
		state: x.state, activity: v1.ResourceActivity_RESOURCE_ACTIVITY_NONE,
		unable: x.unable, timedOut: x.timedOut, message: x.message, restarts: x.restarts, changedMs: x.changedMs,
	}
	if x.note != "" {
		s.message = x.note
	}
	if !x.probed && x.state != online {
		s.state = unknown // what was known is too old to be told again (A4)
	}
	switch {
	case !x.enabled:
		s.state, s.message = unknown, "not enabled: neither monitored nor managed"
		return s
	case x.problem != "":
		s.state, s.message = unknown, x.problem
		return s
	}
	switch x.phase {
	case steady:
		switch {
		case !x.probed, x.g.Config.GetFrozen():
		case x.want == v1.Want_WANT_ONLINE && x.state == offline:
			s.activity = v1.ResourceActivity_RESOURCE_ACTIVITY_WAITING_ONLINE
			if w := x.waitsFor(mayAct); w != "" {
				s.message = w
			}
		case x.want == v1.Want_WANT_OFFLINE && x.state == online:
			s.activity = v1.ResourceActivity_RESOURCE_ACTIVITY_WAITING_OFFLINE
			if p := x.leavesAfter(); p != "" {
				s.message = "waits for " + p + " to go offline"
			}
		}
	case starting, appearing:
		s.activity = v1.ResourceActivity_RESOURCE_ACTIVITY_ONLINE
		if x.restarting {
			s.activity = v1.ResourceActivity_RESOURCE_ACTIVITY_RESTARTING
		}
	case stopping, vanishing:
		s.activity = v1.ResourceActivity_RESOURCE_ACTIVITY_OFFLINE
	case cleaning, cleaned:
		s.activity = v1.ResourceActivity_RESOURCE_ACTIVITY_CLEAN
	}
	return s
}
