package agent

import (
	"fmt"
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// Desired is what the newest applied state says about this node.
type Desired struct {
	// Incarnation is the node's raft id. Another one than before: everything is forgotten and probed anew.
	Incarnation uint64
	// MayAct: this node is a member of the view under a lease, and what it has applied is recent (the engine has
	// heard a leader's commit index since it started, and has applied up to it). Without it resources are only monitored.
	MayAct bool
	// Groups that concern this node. The runtime keeps the messages and changes none of them; the caller may pass the same
	// pointers again, which makes an unchanged group cheap.
	Groups []Group
}

// Group is a group as this node shall see it.
type Group struct {
	Config *v1.Group
	// Types of its resources, by name.
	Types map[string]*v1.ResourceType
	// Intent numbers the order that set Want and ResourceWants.
	Intent uint64
	Want   v1.Want
	// ResourceWants of single resources that differ from Want, by name.
	ResourceWants map[string]v1.Want
	// Known are the committed statuses on this node, by resource name. They are read when a resource is met for
	// the first time (a restarted engine adopts what runs), and by Retell. Nothing in them may be from before the
	// machine was restarted.
	Known map[string]*v1.ResourceStatus
	// KnownIntent is the newest order that is known to have been reported on.
	KnownIntent uint64
	// Takeover: it ran elsewhere before.
	Takeover bool
}

// EntryPoint is one thing that an agent can be asked to do with a resource.
type EntryPoint uint8

// The entry points. All of them are idempotent.
const (
	Monitor EntryPoint = iota + 1
	Online
	Offline
	Clean
	// Open is called when a resource begins to be managed, before its first probe, Close when that ends. What they say has
	// no consequence.
	Open
	Close
	// Action is called on demand, Info at intervals, AttrChanged when a registered attribute has changed while online.
	Action
	Info
	AttrChanged
)

func (e EntryPoint) String() string {
	switch e {
	case Monitor:
		return "monitor"
	case Online:
		return "online"
	case Offline:
		return "offline"
	case Clean:
		return "clean"
	case Open:
		return "open"
	case Close:
		return "close"
	case Action:
		return "action"
	case Info:
		return "info"
	case AttrChanged:
		return "attr_changed"
	}
	return fmt.Sprintf("entry point %d", uint8(e))
}

// CleanReason says why a resource is forced down. The numbers are the field's.
type CleanReason uint8

// The reasons.
const (
	OfflineHung CleanReason = iota
	OfflineIneffective
	OnlineHung
	OnlineIneffective
	UnexpectedOffline
	MonitorHung
)

func (c CleanReason) String() string {
	switch c {
	case OfflineHung:
		return "offline hung"
	case OfflineIneffective:
		return "offline ineffective"
	case OnlineHung:
		return "online hung"
	case OnlineIneffective:
		return "online ineffective"
	case UnexpectedOffline:
		return "unexpected offline"
	case MonitorHung:
		return "monitor hung"
	}
	return fmt.Sprintf("clean reason %d", uint8(c))
}

// Call asks for one entry point. Each call gets exactly one Done.
type Call struct {
	// Token names the call in Done and Cancel. Never 0, never used twice by one Runtime.
	Token    uint64
	Group    string
	Resource string
	Type     string
	Entry    EntryPoint
	// Attributes of the resource with the defaults of its type filled in.
	Attributes map[string]string
	// Timeout after which the host ends the call with everything that it started for it, and answers TimedOut.
	Timeout time.Duration
	// CleanReason of a clean.
	CleanReason CleanReason
	// Forced, of a clean: an administrator has asked for it after the way offline had been broken off.
	Forced bool
	// Takeover of an online: the group ran elsewhere before.
	Takeover bool
	// Restarts, of an online: restarts in place so far, this one included.
	Restarts uint32
	// Watch, of a monitor: the agent shall tell changes of what it finds by a Notice from now on if it can (the field's
	// IMF, by the mode of the resource); unset, it shall not, and ends a watch that there is.
	Watch bool
	// Deep, of a monitor: the second level is due.
	Deep bool
	// Name and Arguments of an action.
	Name      string
	Arguments []string
	// Changed names the attributes that have changed, of attr_changed; Attributes has the new values.
	Changed []string
	// Definition of the type, for agents that carry out many types (scripts, OCF).
	Definition *v1.ResourceType
	// Starts: something may run afterwards that guard must be able to stop. Guard must have answered the group's
	// Protect before the call is run; if it refuses, the call is answered with an Err and not run.
	Starts bool
}

// Result is the outcome of a call.
type Result struct {
	// State found by a monitor: ONLINE, OFFLINE, FAULTED (something of it is there but does not work: where it is not known
	// to be offline it is cleaned before anything else), or UNKNOWN (also unset).
	State v1.ResourceState
	// Confidence in ONLINE, 10 to 100 percent; 0: not told. Changes of 10 points and more are reported.
	Confidence int
	// Err: the entry point failed, and why. A monitor that failed found out nothing.
	Err string
	// TimedOut: it was ended because Timeout had passed.
	TimedOut bool
	// Message for people: "no process with pid 812", the last output of a program.
	Message string
	// Wait so long after online or offline before the first monitor.
	Wait time.Duration
	// Watched, of a monitor: a change of what it found will be told by a Notice, so polling may be slow.
	Watched bool
	// WatchedPartly, of a monitor: some changes will be told, but not all. Polling stays as it is, and so does the watch.
	WatchedPartly bool
	// Intentional, of a monitor that says OFFLINE: it was taken offline on purpose (the field's exit code 200). It counts for
	// types with intentional_offline only.
	Intentional bool
	// Verdict, of an entry point that failed or found it offline: what that means beyond itself. HALT_ABORTED, of an offline
	// or clean that failed: nothing more is done with it before the next order, or until it is cleared.
	Verdict v1.Verdict
	// Info, of info: what to show; what goes beyond 4 KiB in all is left out.
	Info map[string]string
	// Output, of an action: at most 64 KiB.
	Output string
}

// Done is the outcome of the call with that token.
type Done struct {
	Token uint64
	Result
}

// Notice says that something happened to what a resource consists of. It
// causes a monitor, whose result counts.
type Notice struct {
	Group    string
	Resource string
	// What happened, for people: "process 812 was killed by signal 9".
	What string
}

// Acted is the end of an action that [Runtime.Act] was asked for.
type Acted struct {
	// Token that was given to Act.
	Token uint64
	// Err: it failed or was not run, and why.
	Err    string
	Output string
}

// Actions are what the caller must carry out now.
type Actions struct {
	// Protect names groups of which something runs from now on, or is about to: guard must be told what it has to stop.
	Protect []string
	// Cancel ends calls early, by token. Each still gets its Done.
	Cancel []uint64
	// Calls to start, in no particular order.
	Calls []Call
	// Reports of transitions, to be proposed in this order until each is committed or the incarnation has ended.
	Reports []*statepb.GroupReport
	// Gone names groups of which nothing runs any more.
	Gone []string
	// Acted has the ends of actions.
	Acted []Acted
	// Events for the log of events that follow from no report; at most maxEvents at a time.
	Events []*v1.Event
	// Wake is the time at which Tick must be called; 0: not needed.
	Wake time.Duration
}
