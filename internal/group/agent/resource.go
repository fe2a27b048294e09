package agent

import (
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
	// Dependencies, see depend.go. missing is what it requires and does not exist; it is never started then.
	needs   []*resource
	quorums []quorum
	above   []edge
	missing string

	// state as it was last found out. Before the first probe: UNKNOWN, or what was committed.
	state  v1.ResourceState
	phase  phase
	probed bool
	heard  bool
	// gone: the last monitor has found it offline; unsure: it could not tell.
	gone, unsure bool
	// expect is what the first probe is compared with, and leftover says that something was on its way then.
	expect   v1.ResourceState
	leftover bool
	// stopped is why guard stopped it; the next probe that finds it offline says so.
	stopped string

	// call under way, 0 if none; void: its outcome does not count any more.
	call  uint64
	entry EntryPoint
	void  bool
	// again: monitor once more as soon as the call under way has ended.
	again bool
	// due is when the phase goes on (a monitor, a clean), infoDue when info is called; urgent: the next monitor is none of the
	// periodic ones. at is when it has to be looked at for any reason, slot its place in the queue.
	due, infoDue, at time.Duration
	urgent           bool
	slot             int
	wait             waiter

	// opened is the type as it was when open was called, nil before; openNote is what went wrong then.
	opened   *v1.ResourceType
	openNote string
	// acts wait to be run; changed are registered attributes of which attr_changed has yet to tell.
	acts    []*act
	changed []string
	info    *info
	// Periods of the monitor interval since the last deep monitor, and until the next monitor.
	cycles, steps uint32

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
	forced     bool
	cleanOK    bool
	cleanFails uint32
	// recheck: an administrator has ended its wait, and nothing is done before it has been looked at.
	recheck bool
	// uncleaned: it has to be cleaned, but not now (the group is frozen, or there is no lease).
	uncleaned bool
	// unable: clean has failed; stuck: and nothing more is done with it by the order with that number.
	unable, stuck bool
	stuckAt       uint64
	// adminWait is the situation in which it waits for an administrator; 0: it does not.
	adminWait v1.AdminWait
	verdict   v1.Verdict
	// intentional: somebody outside took it offline on purpose; orders up to leftAt don't bring it online.
	intentional bool
	leftAt      uint64

	// Of being online.
	restarts, tolerated, hung uint32
	hungSince, calmSince      time.Duration
	confidence                int
	notice                    string
	// timeouts of monitors in a row.
	timeouts uint32
	// watched: changes are told; asked: the last monitor was to see to that; unwatched: so many in a row could not.
	watched, asked bool
	unwatched      uint32

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

// stoppable resources are taken offline when they are not wanted; others keep nothing waiting for that.
func (x *resource) stoppable() bool {
	return x.operations() == v1.Operations_OPERATIONS_ON_OFF && !x.config.GetMonitorOnly()
}

// managed resources are monitored; the others are left entirely alone.
func (x *resource) managed() bool { return x.enabled && x.problem == "" }

// faultsManaged: the cluster deals with its faults; else a person does.
func (x *resource) faultsManaged() bool {
	m := x.config.GetManageFaults()
	if m == v1.ManageFaults_MANAGE_FAULTS_UNSPECIFIED {
		m = x.g.Config.GetManageFaults()
	}
	return m != v1.ManageFaults_MANAGE_FAULTS_NONE
}

// settled: nothing is on its way, and its state is what the last monitor said.
func (x *resource) settled() bool {
	return x.phase == steady && x.probed && !x.uncleaned && x.adminWait == 0 && !x.recheck
}

// ready: what requires it may be started.
func (x *resource) ready() bool {
	return x.managed() && x.settled() && x.state == online && x.want != v1.Want_WANT_OFFLINE
}

// tellable: there is something to report. Before the first monitor what is committed may be truer than what is known here.
func (x *resource) tellable() bool { return x.heard || !x.managed() }

// quiet: what it requires may be stopped. A resource that is never taken offline doesn't keep others from it.
func (x *resource) quiet() bool {
	return !x.managed() || !x.stoppable() || x.settled() && (x.state == offline || x.state == faulted) && !x.unable
}

// active: something of it runs, or may run.
func (x *resource) active() bool {
	if !x.managed() || x.persistent() {
		return false
	}
	return x.phase != steady || x.uncleaned || x.unable || x.adminWait != 0 || x.recheck ||
		x.state == online || x.probed && x.state == unknown
}

// orderedWant is what the order says of it, dependencies aside.
func (x *resource) orderedWant() v1.Want {
	if !x.managed() || x.persistent() || x.config.GetMonitorOnly() {
		return v1.Want_WANT_NOTHING
	}
	w, alone := x.g.Want, false
	if own, ok := x.g.ResourceWants[x.name]; ok && own != v1.Want_WANT_UNSPECIFIED {
		w, alone = own, true
	}
	switch {
	case w == v1.Want_WANT_ONLINE && x.g.Intent > x.g.voidOnline:
		switch {
		case x.intentional && x.g.Intent <= x.leftAt:
			return v1.Want_WANT_NOTHING
		case x.config.AutoStart != nil && !x.config.GetAutoStart() && !alone && x.state != online && !x.restarting:
			return v1.Want_WANT_NOTHING // it is not brought online with its group, but goes on and off with it
		}
		return w
	case w == v1.Want_WANT_OFFLINE && x.g.Intent > x.g.voidOffline && x.stoppable():
		return w
	}
	return v1.Want_WANT_NOTHING
}

// mayRun: an order that still counts lets it be started or restarted here. An on-only resource is restarted even when its
// group is wanted offline.
func (x *resource) mayRun() bool {
	return x.want == v1.Want_WANT_ONLINE ||
		x.want == v1.Want_WANT_NOTHING && x.operations() == v1.Operations_OPERATIONS_ON_ONLY && !x.config.GetMonitorOnly() &&
			x.g.Intent > x.g.voidOnline
}

func (x *resource) outlook() outlook {
	return outlook{state: x.state, phase: x.phase, want: x.want, ready: x.ready(), quiet: x.quiet()}
}

// wantsWatch: the next monitor shall see to it that changes are told. On the way anything is a change that is waited for;
// with a mode of online or offline resources only, it has to be known first which of them it is.
func (x *resource) wantsWatch() bool {
	const whenOffline, whenOnline = 1, 2
	mode := x.limits.imfMode
	switch {
	case mode == whenOffline|whenOnline && !x.settled():
		return true
	case !x.settled() || x.unwatched >= x.limits.imfRetry:
		return false
	case x.state == online:
		return mode&whenOnline != 0
	case x.state == offline, x.state == faulted:
		return mode&whenOffline != 0
	}
	return mode == whenOffline|whenOnline
}

// reset ends whatever is on its way; the next monitor is a first probe again.
func (x *resource) reset() {
	x.phase, x.probed, x.heard, x.again = steady, false, false, false
	x.restarting, x.flushed, x.uncleaned, x.unable, x.stuck, x.forced, x.recheck = false, false, false, false, false, false, false
	x.timedOut, x.watched, x.intentional = false, false, false
	x.attempts, x.cleanFails, x.tolerated, x.hung, x.timeouts, x.unwatched, x.tries = 0, 0, 0, 0, 0, 0, 0
	x.adminWait, x.verdict, x.confidence, x.info, x.changed = 0, 0, 0, nil, nil
	x.infoDue = never
	x.notice, x.note, x.stopped = "", "", ""
}
