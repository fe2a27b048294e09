package agent

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

// Entry points beside those that bring resources online and offline: actions,
// info, attr_changed; and events that follow from no report.

// Bounds of what is asked for by action.
const (
	maxActs      = 4 // that wait for one resource
	maxArguments = 64
	maxArgument  = 4096
	maxOutput    = 64 << 10
	// maxEvents in one Take. What is more is told in one sentence.
	maxEvents = 100
)

// act is an action that was asked for.
type act struct {
	token     uint64
	name      string
	arguments []string
	// until then it has to begin.
	until time.Duration
}

// Act asks for an action of a resource. Its end, also if it is refused, is told once by Actions.Acted with that token. An
// action waits for the calls of its resource, and gives way to an order that takes the resource online or offline.
func (r *Runtime) Act(now time.Duration, token uint64, groupName, resourceName, name string, arguments []string) {
	var x *resource
	if g := r.groups[groupName]; g != nil {
		x = g.byName[resourceName]
	}
	a := &act{token: token, name: name, arguments: slices.Clone(arguments)}
	if why := r.refuses(x, a); why != "" {
		r.out.Acted = append(r.out.Acted, Acted{Token: token, Err: why})
		return
	}
	a.until = after(now, x.limits.timeouts[Action])
	x.acts = append(x.acts, a)
	r.mark(x)
	r.settle(now)
}

// refuses says why an action can't be run; empty: it can.
func (r *Runtime) refuses(x *resource, a *act) string {
	switch {
	case x == nil:
		return "there is no such resource on " + r.node
	case !x.enabled:
		return x.name + " is not enabled"
	case x.problem != "":
		return x.problem
	case x.config.GetMonitorOnly():
		return x.name + " is only monitored"
	case !slices.Contains(x.typ.GetSupportedActions(), a.name):
		return fmt.Sprintf("resources of type %s know no action %q (supportedActions of the type)", x.config.GetType(), a.name)
	case len(a.arguments) > maxArguments:
		return fmt.Sprintf("an action takes at most %d arguments", maxArguments)
	case slices.ContainsFunc(a.arguments, func(s string) bool { return len(s) > maxArgument }):
		return fmt.Sprintf("an argument of an action has at most %d bytes", maxArgument)
	case !r.mayAct:
		return r.node + " has no lease"
	case len(x.acts) >= maxActs:
		return fmt.Sprintf("%d actions of %s wait already", len(x.acts), x.name)
	}
	return ""
}

// dropActs answers actions that can't be run any more, or have waited for as long as they may take.
func (r *Runtime) dropActs(x *resource, now time.Duration) {
	x.acts = slices.DeleteFunc(x.acts, func(a *act) bool {
		var why string
		switch {
		case x.forgotten:
			why = x.name + " has been removed from " + r.node
		case !x.managed():
			why = cmp.Or(x.problem, x.name+" is not enabled")
		case x.config.GetMonitorOnly():
			why = x.name + " is only monitored"
		case !r.mayAct:
			why = r.node + " has no lease"
		case a.until > now:
			return false
		case x.call != 0:
			why = fmt.Sprintf("it did not get its turn within %s: %s of %s has not ended", x.limits.timeouts[Action], x.entry, x.name)
		default:
			why = fmt.Sprintf("it did not get its turn within %s", x.limits.timeouts[Action])
		}
		r.out.Acted = append(r.out.Acted, Acted{Token: a.token, Err: why})
		return true
	})
}

// acted tells the end of an action that was run.
func (r *Runtime) acted(u *underWay, d Done) {
	out := Acted{Token: u.act.token, Output: fit(d.Output, maxOutput)}
	switch x := u.x; {
	case x == nil:
		out.Err = "it was ended: " + u.key.resource + " has been removed from " + r.node
	case x.void && !x.managed():
		out.Err = "it was ended: " + x.name + " is not managed any more"
	case x.void && !r.mayAct:
		out.Err = "it was ended: " + r.node + " has lost its lease"
	case x.void:
		out.Err = "it was ended: " + x.name + " was to be brought online or offline"
	case d.TimedOut:
		out.Err = fmt.Sprintf("it did not end within %s", x.limits.timeouts[Action])
	default:
		out.Err = fit(d.Err, maxMessage)
	}
	r.out.Acted = append(r.out.Acted, out)
}

// infoWanted: info is called at intervals now.
func (x *resource) infoWanted() bool {
	return x.limits.infoInterval > 0 && x.state == online && !x.forgotten && x.managed() && x.settled()
}

func (r *Runtime) informed(x *resource, now time.Duration, d Done) {
	interval := x.limits.infoInterval
	if x.info == nil {
		interval = x.share(interval) // so that resources that came online together are not asked together for ever
	}
	x.infoDue = after(now, interval)
	said := d.Info
	if why := d.failure(x, Info); why != "" {
		said = map[string]string{"error": why}
	}
	if now := makeInfo(said); x.state == online && !maps.Equal(now.get(), x.info.get()) {
		x.info = now
	}
}

// mayTell: attr_changed may be called. It is part of running the resource, so it waits for what an order would.
func (r *Runtime) mayTell(x *resource) bool {
	return x.settled() && x.state == online && x.want != v1.Want_WANT_OFFLINE && r.allowed(x) && !x.config.GetMonitorOnly()
}

// mustTell remembers attributes that attr_changed has to tell of.
func (x *resource) mustTell(attributes []string) {
	x.changed = append(slices.Clone(x.changed), attributes...)
	slices.Sort(x.changed)
	x.changed = slices.Compact(x.changed)
}

// tell puts an event into the log that follows from no report.
func (r *Runtime) tell(now time.Duration, x *resource, code, message string) {
	e := &v1.Event{
		TimeMs: now.Milliseconds() + r.wallOffset, Severity: v1.Severity_SEVERITY_WARNING, Code: code,
		Node: r.node, Group: x.g.Config.GetName(), Resource: x.name, Message: message,
	}
	if n := len(r.out.Events); n == maxEvents {
		r.untold++
		e.Group, e.Resource, e.Message = "", "", fmt.Sprintf("the same of %d more resources on %s", r.untold, r.node)
		r.out.Events[n-1] = e
		return
	}
	r.untold = 1 // the last one of them gives way to the sentence
	r.out.Events = append(r.out.Events, e)
}
