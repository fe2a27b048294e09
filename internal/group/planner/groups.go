package planner

import (
	"fmt"
	"slices"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// decide about one group.
func (gr *group) decide() {
	ops := gr.ops[gr.g.GetName()]
	if gr.g.GetFrozen() { // P5
		for _, op := range ops {
			gr.endOperation(op, failed, fmt.Sprintf("%s is frozen: holdfast group unfreeze %s", gr.g.GetName(), gr.g.GetName()))
		}
		gr.noteBusy()
		return
	}
	for _, w := range gr.instances {
		w.forget()
		w.strays()
		if h := w.home(); h != nil {
			w.watch(h) // a fault does not wait for an operation
		}
	}
	gr.takeOperations(ops)
	for _, w := range gr.instances {
		if w.operate() {
			w.automatic()
		}
	}
	gr.endOperations(ops)
	gr.noteBusy()
}

// write puts what was decided of the group into the plan. Groups that are decided
// about later may have had a word in it: this comes last.
func (gr *group) write() {
	if gr.g.GetFrozen() {
		return
	}
	for _, w := range gr.instances {
		w.write()
	}
	gr.tidy()
}

// forget takes nodes that are gone out of the notebook: they come back as new ones.
func (w *work) forget() {
	b := w.book
	b.Tried = slices.DeleteFunc(b.Tried, func(n string) bool { return !w.members[n] })
	if w.home() == nil {
		b.Parting, b.PartingMs = "", 0
	}
}

// returned ends the wait for a node that is back, or that cannot come back.
func (w *work) returned() {
	b := w.book
	sp := w.spot(b.WaitsForNode)
	_, leaving := w.leaving[b.WaitsForNode]
	removed := sp == nil || !sp.listed
	if b.WaitsForNode == "" || !removed && (!sp.member || leaving || !sp.on.GetProbed()) {
		return
	}
	b.WaitsForNode = ""
	if len(w.autoStartList()) > 0 {
		b.Waiting = ""
	}
}

// automatic finds a place for the group if it has none.
func (w *work) automatic() {
	if w.home() == nil && !w.found() {
		w.place()
	}
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
		_, leaving := w.leaving[sp.node]
		switch {
		case sp.want() == wantOnline:
			w.takeOff(sp, fmt.Sprintf("%s is wanted online on %s, which is of the same zone by now", w.g.GetName(), h.node))
		case len(sp.online)+len(sp.moving) == 0:
		case h != nil:
			why := fmt.Sprintf("%s running on %s although %s is wanted online on %s only", w.areNames(sp.running()), sp.node, w.g.GetName(), h.node)
			w.takeOff(sp, why)
			w.event(v1.Severity_SEVERITY_CRITICAL, "group.violation", sp.node, why)
		case leaving:
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
	_, leaving := w.leaving[sp.node]
	keep := map[string]v1.Want{}
	if !leaving {
		keep = w.tenable(sp, sp.resourceWants())
	}
	if sameWants(keep, sp.resourceWants()) {
		return
	}
	why := sp.node + " is being stopped"
	if roots := append(slices.Clone(sp.faulted), sp.down...); !leaving && len(roots) > 0 {
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
	off := w.dependants(append(slices.Clone(sp.faulted), sp.down...))
	keep := map[string]v1.Want{}
	for i := range w.res {
		if wants[w.res[i].name] == wantOnline && !off[i] {
			keep[w.res[i].name] = wantOnline
		}
	}
	return keep
}

// watch looks after the group where it is ordered online.
func (w *work) watch(h *spot) {
	b, g := w.book, w.g.GetName()
	if h.order != nil {
		return
	}
	if !h.member || h.fence != nil {
		w.gone(h)
		return
	}
	if w.parts(h) {
		return
	}
	if l, leaving := w.leaving[h.node]; leaving {
		w.leave(h, l)
		return
	}
	if !h.listed {
		b.Cause = w.notListed(h.node) + " any more"
		w.takeOff(h, b.Cause)
		return
	}
	if f := w.faults(h); f.group {
		w.fault(h, f)
		return
	}
	if why := or(w.deserted(h), w.dragged(h)); why != "" {
		b.Cause = why
		w.takeOff(h, why)
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
		if !b.Online {
			w.event(v1.Severity_SEVERITY_INFORMATION, "group.online", h.node, g+" is online on "+h.node)
			w.clearParents()
		}
		b.Online, b.LastOnline, b.Tried, b.Cause = true, h.node, nil, ""
	}
}

// gone: the group's node was evicted, and what ran there may still run.
func (w *work) gone(h *spot) {
	b := w.book
	b.Parting, b.PartingMs = "", 0
	if b.IntentOnline {
		if b.Cause == "" {
			b.Cause = w.loss(h.node)
		}
		b.Waiting = w.notClear(h)
	}
	b.Online = false
}

// adjust takes offline what hangs on a fault that the group survives, and
// brings back what a persistent resource had taken down.
func (w *work) adjust(h *spot) {
	wants, held := w.exceptions(h, h.held())
	if sameWants(wants, h.on.GetResourceWants()) && slices.Equal(held, h.on.GetHeldResources()) {
		return
	}
	var why string
	f := w.faults(h)
	if broken := append(slices.Clone(f.tolerated), f.tolerable...); len(broken) > 0 {
		why = w.faultSentence(h, broken[0], broken[0]) + ", which does not fault the group"
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
	if no := w.reject(h, true); no != "" {
		b.Cause = why
		w.takeOff(h, why, no)
		return
	}
	wants, held := w.exceptions(h, h.held())
	w.order(h, wantOnline, wants, held)
	w.decided("online "+g+" on "+h.node, h.node, nil, why, h.node+" may run it, so it starts again there")
}

// leave takes the group off a node that is being stopped.
func (w *work) leave(h *spot, l leave) {
	b := w.book
	why := h.node + " is being stopped"
	if l.evacuate {
		b.Cause = why + ", and its groups move away first"
		w.takeOff(h, b.Cause)
		return
	}
	b.Cause = ""
	w.takeOff(h, why+" without moving its groups away")
	w.waitFor(h.node, fmt.Sprintf("%s was stopped, and %s with it", h.node, w.g.GetName()))
}

// waitFor keeps the group offline until the node is back; then its
// AutoStartList applies.
func (w *work) waitFor(node, why string) {
	b, g := w.book, w.g.GetName()
	b.IntentOnline, b.AutoStarted, b.Active, b.Online, b.Cause = false, false, "", false, ""
	b.WaitsForNode = node
	b.Waiting = fmt.Sprintf("%s: it starts by its autoStartList when %s is back, or with holdfast group online %s", why, node, g)
	if len(w.autoStartList()) == 0 {
		b.Waiting = fmt.Sprintf("%s: bring it online with holdfast group online %s", why, g)
	}
}

// fault takes the group off a node on which it has faulted.
func (w *work) fault(h *spot, f fault) {
	b, g := w.book, w.g.GetName()
	b.Cause = f.why
	if !f.persistent {
		w.faulted = add(w.faulted, h.node)
		b.Tried = add(b.Tried, h.node)
		slices.Sort(w.faulted)
	}
	w.takeOff(h, f.why)
	w.event(v1.Severity_SEVERITY_ERROR, "group.faulted", h.node, fmt.Sprintf("%s is faulted on %s: %s", g, h.node, f.why))
	if w.failsOver() {
		return
	}
	b.IntentOnline, b.Active = false, ""
	b.Waiting = fmt.Sprintf("%s, and autoFailOver of %s is off: bring it online with holdfast group online %s", f.why, g, g)
	w.event(v1.Severity_SEVERITY_CRITICAL, "group.nofailover", h.node, b.Waiting)
}

func (w *work) failsOver() bool { return w.g.AutoFailOver == nil || w.g.GetAutoFailOver() > 0 }

func add(list []string, s string) []string {
	if slices.Contains(list, s) {
		return list
	}
	return append(list, s)
}

// found takes over what runs already: a group that is found online, whole or
// in part, is kept there rather than moved.
func (w *work) found() bool {
	best := w.bestFound()
	if best == nil {
		return false
	}
	b, g := w.book, w.g.GetName()
	why := fmt.Sprintf("%s found online on %s", w.wereNames(best.online), best.node)
	for _, sp := range w.spots { // P1: what runs elsewhere too goes down first
		if sp != best && sp.member && sp.on.GetProbed() && sp.want() == wantNothing && len(sp.online) > 0 {
			also := fmt.Sprintf("%s online on %s although %s also runs on %s", w.areNames(sp.online), sp.node, g, best.node)
			w.takeOff(sp, also)
			w.event(v1.Severity_SEVERITY_CRITICAL, "group.violation", sp.node, also)
		}
	}
	if no := w.blocked(best); no != "" {
		b.Waiting = why + ", but " + no
		return true
	}
	if best.on.GetFlushed() && (!w.wholly(best) || w.faults(best).group) {
		b.Waiting = fmt.Sprintf("%s runs on %s in part, or faulted, since it was flushed: holdfast group online %s, or holdfast group offline %s", g, best.node, g, g)
		w.unwant()
		return true
	}
	w.bring(best, nil, why, "a group that runs already is kept where it is")
	return true
}

// bestFound prefers the node that the group was ordered to, then the last one,
// then the one with most of it.
func (w *work) bestFound() *spot {
	var best *spot
	rank := func(sp *spot) int {
		n := len(sp.online)
		if sp.node == w.book.LastOnline {
			n += len(w.res) + 1
		}
		if sp.node == w.book.Active {
			n += 2 * (len(w.res) + 1)
		}
		return n
	}
	for _, sp := range w.spots {
		if !sp.member || !sp.on.GetProbed() || sp.order != nil || sp.want() != wantNothing || len(sp.online) == 0 {
			continue
		}
		if best == nil || rank(sp) > rank(best) {
			best = sp
		}
	}
	return best
}

func (w *work) wholly(sp *spot) bool {
	for i := range w.res {
		if !w.res[i].persistent() && w.status(sp, i).GetState() != v1.ResourceState_RESOURCE_STATE_ONLINE {
			return false
		}
	}
	return true
}

func (w *work) wereNames(at []int) string {
	if len(at) == 1 {
		return w.names(at) + " was"
	}
	return w.names(at) + " were"
}

// unwant: an administrator has taken the matter over.
func (w *work) unwant() {
	b := w.book
	b.IntentOnline, b.HeldOffline, b.Active, b.Online, b.Cause, b.NoTarget = false, true, "", false, "", false
}

const notSeeded = "too few nodes have been seen together since the cluster started: groups start by themselves once seedNodes of them have"

// place finds a node for a group that shall be online and is not.
func (w *work) place() {
	b, g := w.book, w.g.GetName()
	if b.Active != "" {
		w.lost()
	}
	w.returned()
	nodes, reason := w.systemList(), "system list"
	switch {
	case b.IntentOnline:
	case !b.AutoStarted && !b.HeldOffline && b.WaitsForNode == "" && len(w.autoStartList()) == 0:
		b.Waiting = ""
		return
	case b.AutoStarted, b.HeldOffline, b.WaitsForNode != "":
		return
	default:
		nodes, reason = w.autoStartList(), "autoStartList"
	}
	if !w.env.Seeded {
		b.Waiting = notSeeded
		return
	}
	if why := w.blocked(nil); why != "" {
		b.Waiting = why
		return
	}
	nodes = w.together(nodes)
	if why := w.awaitsChildren(nodes); why != "" {
		b.Waiting = why
		return
	}
	c := w.choose(nodes, false)
	switch {
	case c.to != nil && w.evicting(c.to) != "":
		b.Waiting = w.evicting(c.to)
	case c.to != nil:
		cause := b.Cause
		if cause == "" {
			cause = g + " shall be online and is online nowhere"
			if !b.IntentOnline {
				cause = g + " starts by itself when the cluster has started"
			}
		}
		w.bring(c.to, c.rejections, cause, w.first(c.to, reason))
	case b.IntentOnline:
		w.noTarget(c.rejections)
	default:
		b.Waiting = fmt.Sprintf("no node of its autoStartList can run it: %s", sentence(c.rejections))
	}
}

// first says why it was the first of the nodes that were considered.
func (w *work) first(sp *spot, of string) string {
	switch {
	case w.g.GetParallel():
		return w.g.GetName() + " runs on all nodes of its system list at once"
	case w.g.GetHybrid():
		return fmt.Sprintf("%s is the first node of %s on its %s that can run it", sp.node, w.title(), of)
	}
	return fmt.Sprintf("%s is the first node of its %s that can run it", sp.node, of)
}

// noTarget: the group stays down until a node can take it.
func (w *work) noTarget(rs []*v1.Rejection) {
	b, g := w.book, w.g.GetName()
	none := "no node can run " + g
	switch {
	case w.g.GetParallel():
		none = fmt.Sprintf("%s cannot run on %s", g, w.instance)
	case w.g.GetHybrid():
		none = fmt.Sprintf("no node of %s can run %s", w.title(), g)
	}
	b.Waiting = fmt.Sprintf("%s: %s", none, sentence(rs))
	if w.g.GetParallel() && !w.hasMember() { // a parallel instance comes and goes with its node
		b.NoTarget = false
		return
	}
	if b.NoTarget {
		return
	}
	b.NoTarget = true
	w.decided("keep "+g+" offline", "", rs, none, b.Cause)
	w.event(v1.Severity_SEVERITY_CRITICAL, "group.nofailover", "", b.Waiting)
}

// lost: the node that the group was ordered to be online on knows nothing of
// that any more; it left, or was started anew, or an administrator flushed the group.
func (w *work) lost() {
	b := w.book
	sp := w.spot(b.Active)
	if sp != nil && sp.on.GetFlushed() {
		w.unwant()
		b.Waiting = fmt.Sprintf("%s was flushed on %s: bring it online with holdfast group online %s", w.g.GetName(), sp.node, w.g.GetName())
		return
	}
	if b.Cause == "" {
		b.Cause = w.loss(b.Active)
	}
	b.Online = false
	if !b.IntentOnline {
		b.Active = ""
		return
	}
	if !w.failsOver() && !w.g.GetParallel() {
		w.waitFor(b.Active, b.Cause+", and autoFailOver of "+w.g.GetName()+" is off")
	}
}

// loss says how a group lost the node that it was ordered to be online on.
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
