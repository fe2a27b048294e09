package planner

import (
	"fmt"
	"maps"
	"slices"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// The first phase of a pass: what runs where, what is broken, and what has to go
// offline because of that. Nothing is brought to a node here, so that the second
// phase finds everything that is on its way down (place.go, operations.go).

// review looks after what the group has.
func (gr *group) review() {
	if gr.frozen() != "" { // P5
		gr.noteFrozen()
		return
	}
	for _, w := range gr.instances {
		w.review()
	}
}

// noteFrozen remembers for groups that are brought online when they are unfrozen that they are frozen.
func (gr *group) noteFrozen() {
	for _, w := range gr.instances {
		w.book.WasFrozen = gr.g.GetOnlineAtUnfreeze()
	}
}

func (w *work) review() {
	w.forget()
	for _, sp := range w.spots {
		w.tellUnknown(sp)
	}
	h := w.home()
	w.wentOff()
	if w.held = w.hold(); w.held != "" {
		if h != nil && !h.member {
			w.gone(h)
		}
		return
	}
	w.judgeElsewhere(h)
	w.clearFaults()
	w.strays()
	if h = w.home(); h != nil {
		w.watch(h) // a fault does not wait for an operation
		w.judgeElsewhere(w.home())
	}
	w.unfrozen()
	if w.home() == nil {
		w.flushed()
	}
}

// forget takes nodes that are gone out of the notebook: they come back as new ones.
func (w *work) forget() {
	b := w.book
	gone := func(n string) bool { return !w.members[n] }
	b.Tried = slices.DeleteFunc(b.Tried, gone)
	if w.home() == nil {
		b.Parting, b.PartingMs = "", 0
	}
	b.PersistentDown = slices.DeleteFunc(b.PersistentDown, gone)
	if b.BoundFor != "" && gone(b.BoundFor) {
		b.BoundFor = ""
	}
	if b.Trigger != 0 && w.run == nil {
		b.Trigger = 0 // it was dropped
	}
}

// unfrozen brings a group online that was frozen and is down (onlineAtUnfreeze).
func (w *work) unfrozen() {
	b, g := w.book, w.g.GetName()
	if !b.WasFrozen {
		return
	}
	b.WasFrozen = false
	if !w.g.GetOnlineAtUnfreeze() || w.home() != nil {
		return
	}
	b.IntentOnline, b.HeldOffline, b.WaitsForNode, b.Tried, b.NoTarget = true, false, "", nil, false
	b.Cause = g + " was unfrozen, and onlineAtUnfreeze brings it online"
}

// strays takes offline what must not run: anything beside the node on which
// the group is ordered online, and anything on a node that leaves, that is not
// on the system list, or where the group is faulted.
func (w *work) strays() {
	h := w.home()
	for _, sp := range w.spots {
		if sp == h || !sp.member || !sp.on.GetProbed() || sp.order != nil {
			continue
		}
		if sp.want() == wantOffline {
			w.single(sp)
			continue // whatever else is online there is on its way down
		}
		l, leaving := w.leaving[sp.node]
		switch {
		case sp.want() == wantOnline:
			w.takeOff(sp, fmt.Sprintf("%s is wanted online on %s, which is of the same zone by now", w.g.GetName(), h.node))
		case len(sp.online)+len(sp.moving) == 0:
		case h != nil:
			why := fmt.Sprintf("%s running on %s although %s is wanted online on %s only", w.areNames(sp.running()), sp.node, w.g.GetName(), h.node)
			w.takeOff(sp, why)
			w.violated(sp, why)
		case leaving && !l.stays && !l.detach && !w.attr.leftRunning:
			w.takeOff(sp, sp.node+" is being stopped")
		case !sp.listed:
			w.takeOff(sp, w.notListed(sp.node))
		case w.givesWay(sp) != "":
			w.takeOff(sp, w.givesWay(sp))
		case !sp.on.GetFlushed():
			if f := w.faults(sp); f.group {
				w.takeOff(sp, f.why, fmt.Sprintf("%s running there nevertheless", w.areNames(sp.running())))
			}
		}
	}
}

// single lets go of resources that were brought online one by one and have
// faulted or lost what they require.
func (w *work) single(sp *spot) {
	if sp.alone() == "" {
		return
	}
	l, leaving := w.leaving[sp.node]
	leaving = leaving && !l.stays && !l.detach
	keep := map[string]v1.Want{}
	way := w.givesWay(sp)
	if !leaving && way == "" {
		keep = w.tenable(sp, sp.resourceWants())
	}
	if maps.Equal(keep, sp.resourceWants()) {
		return
	}
	why := sp.node + " is being stopped"
	if roots := append(slices.Clone(sp.faulted), sp.down...); way != "" {
		why = way
	} else if !leaving && len(roots) > 0 {
		why = w.faultSentence(sp, roots[0], roots[0])
	} else if !leaving {
		why = "the configuration has changed"
	}
	w.order(sp, wantOffline, keep, nil)
	w.decided("offline single resources of "+w.g.GetName()+" on "+sp.node, sp.node, nil, why)
}

// tenable are the resources of wants that may be online one by one: they are
// not faulted, nor is what they require.
func (w *work) tenable(sp *spot, wants map[string]v1.Want) map[string]v1.Want {
	off := w.dependants(append(slices.Clone(sp.faulted), sp.down...), w.broken(sp))
	keep := map[string]v1.Want{}
	for i := range w.res {
		if wants[w.res[i].name] == wantOnline && !off[i] {
			keep[w.res[i].name] = wantOnline
		}
	}
	return keep
}

// watch looks after the instance where it is ordered online.
func (w *work) watch(h *spot) {
	b := w.book
	if h.order != nil {
		return
	}
	if !h.member || h.fence != nil || h.on.GetDetached() {
		w.gone(h)
		return
	}
	if w.parts(h) {
		return
	}
	if l, leaving := w.leaving[h.node]; leaving && !l.stays {
		w.leave(h, l)
		return
	}
	if w.reset(h.node) != "" {
		return // nothing is halted on a node that is reset
	}
	if !h.listed {
		b.Cause = w.notListed(h.node) + " any more"
		w.takeOff(h, b.Cause)
		return
	}
	if f := w.faults(h); f.group {
		if w.mayGoOff(h, "fault") {
			w.fault(h, f)
		}
		return
	}
	if w.takenDown(h) || w.forced(h, or(w.deserted(h), w.dragged(h))) {
		return
	}
	b.Waiting = w.hindrance(h)
	i := w.stopped(h)
	if i < 0 || w.rival(h) == "" { // any fresh order would start what guard has stopped
		if w.adjust(h); h.order != nil {
			return
		}
	}
	if i >= 0 {
		w.restart(h, i)
		return
	}
	if w.complete(h) {
		w.arrived(h)
	}
}

// forced takes the instance off its node where the groups that it depends on, or
// that depend on it, demand that (depends.go says why). It says whether it did.
func (w *work) forced(h *spot, why string) bool {
	if why == "" {
		return false
	}
	if w.mayGoOff(h, "dependency") {
		w.book.Cause = why
		w.takeOff(h, why)
	}
	return true
}

// yield takes the instance off where children have come, or are about to, or from
// where they have gone since its review.
func (w *work) yield() {
	if len(w.children) == 0 || w.held != "" {
		return
	}
	h := w.home()
	if w.stays(h) && h.order == nil {
		w.forced(h, w.deserted(h))
	}
	for _, sp := range w.spots {
		if sp.member && sp.on.GetProbed() && sp.order == nil && sp.want() == wantOffline {
			w.single(sp)
		}
		if sp != h && sp.member && sp.on.GetProbed() && sp.order == nil && sp.want() == wantNothing && len(sp.running()) > 0 && w.givesWay(sp) != "" {
			w.takeOff(sp, w.givesWay(sp))
		}
	}
}

// arrived: the instance is online, and the episode that brought it there is over.
func (w *work) arrived(h *spot) {
	b := w.book
	if !b.Online {
		w.event(v1.Severity_SEVERITY_INFORMATION, "group.online", h.node, w.g.GetName()+" is online on "+h.node)
		w.tell(postOnline, h.node, nil)
		w.clearParents()
	}
	b.Online, b.LastOnline, b.Tried, b.Cause = true, h.node, nil, ""
	b.Site = w.s.GetNodes()[h.node].GetSite()
	b.PersistentDown = nil
}

// gone: the instance's node was evicted or detached, and what ran there may still run.
func (w *work) gone(h *spot) {
	b := w.book
	if h.on.GetDetached() {
		b.Waiting = w.detached(h)
		return
	}
	b.Parting, b.PartingMs = "", 0
	if b.IntentOnline {
		if b.Cause == "" {
			b.Cause = w.loss(h.node)
		}
		b.Waiting = w.notClear(h)
	}
	b.Online = false
}

// takenDown: somebody outside took something of the group offline on purpose.
// Either that is all of it, or externalStateChange has the rest follow.
func (w *work) takenDown(h *spot) bool {
	missed := w.missed(h)
	if len(missed) == 0 || !h.confirmed() {
		return false
	}
	wants, _ := w.lasting(h, h.held())
	why := fmt.Sprintf("%s taken offline on %s on purpose", w.wereNames(missed), h.node)
	switch {
	case w.attr.pulledDown:
		if !w.mayGoOff(h, "external") {
			return true
		}
		w.unwant(why)
		w.takeOff(h, why, "externalStateChange has the rest of "+w.g.GetName()+" follow")
	case w.nothingLeft(wants):
		w.unwant(why)
		w.takeOff(h, why, "nothing of "+w.g.GetName()+" is left to be online")
	default:
		return false
	}
	w.book.Waiting = why
	w.event(v1.Severity_SEVERITY_INFORMATION, "group.offline", h.node, w.g.GetName()+" goes offline: "+why)
	return true
}

// adjust takes offline what hangs on a fault that the group survives, and
// brings back what a persistent resource had taken down.
func (w *work) adjust(h *spot) {
	wants, held := w.lasting(h, h.held())
	if maps.Equal(wants, h.on.GetResourceWants()) && slices.Equal(held, h.on.GetHeldResources()) {
		return
	}
	var why string
	f := w.faults(h)
	if broken := append(slices.Clone(f.tolerated), f.tolerable...); len(broken) > 0 {
		why = w.faultSentence(h, broken[0], broken[0]) + ", which does not fault the group"
	} else if missed := w.missed(h); len(missed) > 0 {
		why = fmt.Sprintf("%s taken offline on %s on purpose", w.wereNames(missed), h.node)
	} else {
		why = "what had faulted or gone down on " + h.node + " is back"
	}
	w.order(h, wantOnline, wants, held)
	w.decided("keep "+w.g.GetName()+" online on "+h.node+" with some resources changed", h.node, nil, why)
}

// restart gives a fresh order after guard has stopped the group: agents start
// nothing by the order that was current then. Nobody else was ordered to start
// it meanwhile, so that others need not be clear (P2); but what is known to run
// there, brought online by hand, goes offline first.
func (w *work) restart(h *spot, i int) {
	b, g := w.book, w.g.GetName()
	b.Online = false
	if !w.env.Seeded {
		b.Waiting = notSeeded
		return
	}
	if why := w.rival(h); why != "" {
		b.Waiting = why
		return
	}
	why := fmt.Sprintf("%s is offline on %s though it is wanted online there, and nothing is starting it", w.res[i].name, h.node)
	if m := w.status(h, i).GetMessage(); m != "" {
		why += " (" + m + ")"
	}
	if no := w.reject(h, true); no != nil && !no.room { // it has its room there
		b.Cause = why
		w.takeOff(h, why, no.why)
		return
	}
	wants, held := w.lasting(h, h.held())
	w.order(h, wantOnline, wants, held)
	w.decided("online "+g+" on "+h.node, h.node, nil, why, h.node+" may run it, so it starts again there")
}

// fault takes the group off a node on which it has faulted.
func (w *work) fault(h *spot, f fault) {
	b, g := w.book, w.g.GetName()
	b.Cause = f.why
	if v := w.heed(h); v == v1.Verdict_VERDICT_RESET {
		b.Tried = add(b.Tried, h.node)
		b.Waiting = fmt.Sprintf("%s is to be reset: %s", h.node, f.why)
		w.event(v1.Severity_SEVERITY_ERROR, "group.faulted", h.node, fmt.Sprintf("%s is faulted on %s: %s", g, h.node, f.why))
		return
	}
	again := false
	if !f.persistent {
		v, _ := w.verdict(h, h.faulted)
		if again = w.tryAgain(h, v); !again {
			w.faulted = add(w.faulted, h.node)
			b.Tried = add(b.Tried, h.node)
			slices.Sort(w.faulted)
		}
	}
	w.takeOff(h, f.why)
	w.event(v1.Severity_SEVERITY_ERROR, "group.faulted", h.node, fmt.Sprintf("%s is faulted on %s: %s", g, h.node, f.why))
	if again || w.failsOver() {
		return
	}
	b.IntentOnline, b.Active = false, ""
	b.Waiting = fmt.Sprintf("%s, and autoFailOver of %s is off: bring it online with holdfast group online %s", f.why, g, g)
	w.noFailover("", b.Waiting)
}

// noFailover tells that the group stays down.
func (w *work) noFailover(node, why string) {
	w.event(v1.Severity_SEVERITY_CRITICAL, "group.nofailover", node, why)
	w.tell(noFailover, w.lowest(), map[string]string{state.FactWhy: why})
}

func (w *work) failsOver() bool { return w.attr.autoFailOver > 0 }

func add(list []string, s string) []string {
	if slices.Contains(list, s) {
		return list
	}
	return append(list, s)
}

// leave takes the instance off a node that is being stopped.
func (w *work) leave(h *spot, l leave) {
	b, g := w.book, w.g.GetName()
	why := h.node + " is being stopped"
	switch {
	case l.detach:
		b.Waiting = fmt.Sprintf("%s is being detached: %s goes on there without the cluster", h.node, g)
		return
	case w.leftRunning(h):
		b.Waiting = w.leftRunningSentence(h)
		return
	case !w.mayGoOff(h, "stop"):
		return
	case l.evacuate && w.attr.evacuate && !w.g.GetParallel():
		b.Cause = why + ", and its groups move away first"
		w.takeOff(h, b.Cause)
		return
	}
	b.Cause = ""
	if l.evacuate && !w.attr.evacuate {
		w.takeOff(h, why+", and evacuate of "+g+" is off")
	} else {
		w.takeOff(h, why+" without moving its groups away")
	}
	w.waitFor(h.node, fmt.Sprintf("%s was stopped, and %s with it", h.node, g))
}

// leftRunning: the node is being stopped, and what runs of the group there goes on (sysDownPolicy).
func (w *work) leftRunning(sp *spot) bool {
	l, leaving := w.leaving[sp.node]
	return leaving && !l.stays && !l.detach && w.attr.leftRunning && sp.want() == wantOnline
}

func (w *work) leftRunningSentence(sp *spot) string {
	return fmt.Sprintf("%s is being stopped, and sysDownPolicy leaves %s running there until it is back", sp.node, w.g.GetName())
}

// waitFor keeps the instance offline until the node is back; then its
// AutoStartList applies.
func (w *work) waitFor(node, why string) {
	b, g := w.book, w.g.GetName()
	b.IntentOnline, b.AutoStarted, b.Active, b.Online, b.Cause = false, false, "", false, ""
	b.WaitsForNode = node
	b.Waiting = fmt.Sprintf("%s: it starts by its autoStartList when %s is back, or with holdfast group online %s", why, node, g)
	if !w.startsItself() {
		b.Waiting = fmt.Sprintf("%s: bring it online with holdfast group online %s", why, g)
	}
}

// unwant: an administrator, or somebody outside, has taken the matter over.
func (w *work) unwant(why string) {
	b := w.book
	b.IntentOnline, b.HeldOffline, b.Active, b.Online, b.Cause, b.NoTarget = false, true, "", false, "", false
	b.BoundFor = ""
	if w.g.GetPackage() != nil {
		w.switchOff(why) // halting a package turns off that it starts and moves by itself
	}
}

// loss says how an instance lost the node that it was ordered to be online on.
func (w *work) loss(node string) string {
	where := "where " + w.g.GetName() + " was online"
	if !w.book.Online {
		where = "where " + w.g.GetName() + " was to be online"
	}
	ns := w.s.GetNodeStatus()[node]
	switch {
	case ns.GetFence() != nil:
		return fmt.Sprintf("%s, %s, was evicted in epoch %d", node, where, ns.GetFence().GetEpoch())
	case w.members[node]:
		return fmt.Sprintf("%s, %s, was started anew", node, where)
	case ns.GetPhase() == statepb.NodePhase_NODE_PHASE_FAULTED:
		return fmt.Sprintf("%s, %s, left the cluster unexpectedly", node, where)
	default:
		return fmt.Sprintf("%s, %s, has left the cluster", node, where)
	}
}
