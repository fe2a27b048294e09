package planner

import (
	"fmt"
	"maps"
	"slices"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
)

const (
	opOnline          = v1.OperationKind_OPERATION_KIND_GROUP_ONLINE
	opOffline         = v1.OperationKind_OPERATION_KIND_GROUP_OFFLINE
	opSwitch          = v1.OperationKind_OPERATION_KIND_GROUP_SWITCH
	opResourceOnline  = v1.OperationKind_OPERATION_KIND_RESOURCE_ONLINE
	opResourceOffline = v1.OperationKind_OPERATION_KIND_RESOURCE_OFFLINE
)

// describe names an operation for people.
func (gr *group) describe(op *v1.Operation) string {
	g := op.GetGroup()
	at := ""
	if op.GetNode() != "" {
		at = " on " + op.GetNode()
	}
	switch op.GetKind() {
	case opOnline:
		return "online " + g + at
	case opOffline:
		return "offline " + g + at
	case opSwitch:
		if op.GetNode() == "" {
			return "switch " + g
		}
		return "switch " + g + " to " + op.GetNode()
	case opResourceOnline:
		return "online " + op.GetResource() + at
	case opResourceOffline:
		return "offline " + op.GetResource() + at
	}
	return "operation on " + g
}

// refuse says why an operation cannot be begun, and what to do; empty: it can.
func (w *work) refuse(op *v1.Operation) string {
	w.bringsChildren = op.GetPropagate()
	defer func() { w.bringsChildren = w.op.GetPropagate() }()
	switch op.GetKind() {
	case opOnline:
		return w.refuseOnline(op)
	case opSwitch:
		return w.refuseSwitch(op)
	case opOffline:
		return w.refuseOffline(op)
	case opResourceOnline, opResourceOffline:
		return w.refuseResource(op)
	}
	return fmt.Sprintf("operation kind %d is not known to this version", op.GetKind())
}

// refuseManual: what no operation on the group gets past.
func (w *work) refuseManual(op *v1.Operation) string {
	if g := w.g.GetName(); !w.attr.manualOps {
		return fmt.Sprintf("manualOps of %s is off: it is brought online and offline by itself only", g)
	}
	if op.GetForce() && op.GetKind() == opOffline && !w.personWaits() {
		return ""
	}
	return w.waitsForPerson()
}

// personWaits: a resource of the instance waits for an administrator, which no force overrides.
func (w *work) personWaits() bool {
	return slices.ContainsFunc(w.spots, func(sp *spot) bool { return sp.member && len(sp.waiting) > 0 })
}

func (w *work) refuseOnline(op *v1.Operation) string {
	g, h := w.g.GetName(), w.home()
	if why := w.refuseManual(op); why != "" {
		return why
	}
	if h != nil && (op.GetNode() == "" || op.GetNode() == h.node) {
		if !h.member {
			return fmt.Sprintf("%s: %s moves by itself when that is proven", w.notClear(h), g)
		}
		if _, leaving := w.leaving[h.node]; leaving {
			return h.node + " is being stopped, and " + g + " runs there"
		}
		return w.rival(h)
	}
	if h != nil {
		return fmt.Sprintf("%s is wanted online on %s already: to move it, holdfast group switch %s --to %s", g, h.node, g, op.GetNode())
	}
	for _, sp := range w.spots {
		if len(sp.stuck) > 0 {
			return w.stuckSentence(sp) + w.stuckAdvice(sp)
		}
		if sp.member && len(sp.online) > 0 && sp.want() != wantOffline && op.GetNode() != "" && sp.node != op.GetNode() {
			return fmt.Sprintf("%s online on %s: take that offline first with holdfast group offline %s", w.areNames(sp.online), sp.node, g)
		}
		if r := sp.alone(); sp.member && r != "" && op.GetNode() != "" && sp.node != op.GetNode() {
			return fmt.Sprintf("%s is wanted online on %s by itself: take it offline first with holdfast resource offline %s --node %s", r, sp.node, r, sp.node)
		}
	}
	return w.refuseTarget(op, "")
}

func (w *work) refuseSwitch(op *v1.Operation) string {
	g, h := w.g.GetName(), w.home()
	if why := w.refuseManual(op); why != "" {
		return why
	}
	switch {
	case w.g.GetParallel():
		return fmt.Sprintf("%s runs on all of its nodes at once: it cannot be switched", g)
	case h == nil:
		return fmt.Sprintf("%s is not online: holdfast group online %s", g, g)
	case !h.member || h.fence != nil:
		return fmt.Sprintf("%s: %s moves by itself when that is proven", w.notClear(h), g)
	case op.GetNode() == h.node:
		return fmt.Sprintf("%s is wanted online on %s already", g, h.node)
	case op.GetPropagate() && op.GetNode() == "":
		return "say where all of it shall go, with --to"
	case len(h.stuck) > 0:
		return w.stuckSentence(h) + w.stuckAdvice(h)
	}
	if why := w.refuseForDependents(op); why != "" {
		return why
	}
	return w.refuseTarget(op, h.node)
}

// refuseTarget: no node, or not the one that was asked for, can take the group.
func (w *work) refuseTarget(op *v1.Operation, source string) string {
	if f := w.bestFound(); f != nil && source == "" && (op.GetNode() == "" || op.GetNode() == f.node) {
		if no := w.reject(f, true); no == nil || no.room {
			return "" // it runs there in part
		}
	}
	targets := w.targets(op, source)
	if why := w.awaitsChildren(targets); why != "" && !op.GetPropagate() {
		return why + w.bringThem()
	}
	if c := w.choose(targets, true); c.to == nil {
		if op.GetNode() != "" {
			return c.rejected[0].text()
		}
		if len(c.rejected) == 0 {
			return fmt.Sprintf("%s has no other node on its system list", w.g.GetName())
		}
		return fmt.Sprintf("no node can run %s: %s", w.g.GetName(), c.sentence())
	}
	return ""
}

// targets are the nodes to which an operation may bring the group.
func (w *work) targets(op *v1.Operation, source string) ranking {
	const list = "system list"
	if op.GetNode() != "" {
		return w.inOrder([]string{op.GetNode()}, list)
	}
	for _, sp := range w.spots {
		if sp.member && sp.alone() != "" {
			return w.inOrder([]string{sp.node}, list) // where some of it is online by itself
		}
	}
	return w.byFailOver(slices.DeleteFunc(slices.Clone(w.systemList()), func(n string) bool { return n == source }), list)
}

func (w *work) refuseOffline(op *v1.Operation) string {
	g := w.g.GetName()
	if why := w.refuseManual(op); why != "" {
		return why
	}
	if op.GetNode() == "" {
		return w.refuseForDependents(op)
	}
	sp := w.spot(op.GetNode())
	if sp == nil {
		return w.notListed(op.GetNode())
	}
	if h := w.home(); h != nil && h != sp && !sp.runs() {
		return fmt.Sprintf("%s is not online on %s: it is wanted online on %s", g, sp.node, h.node)
	}
	return w.refuseForDependents(op)
}

func (w *work) stuckAdvice(sp *spot) string {
	r := w.res[sp.stuck[0]].name
	return fmt.Sprintf(": see to it on %s that nothing of it runs, then holdfast resource clear %s --node %s", sp.node, r, sp.node)
}

// begin does what an operation does once.
func (w *work) begin() {
	b := w.book
	b.Operation, b.Outcome, b.OutcomeFailed = w.op.GetId(), "", false
	h := w.home()
	switch w.op.GetKind() {
	case opOffline:
		if h == nil || w.op.GetForce() || !w.enables(preOffline) {
			w.wantOffline()
		}
		if w.g.GetPackage() != nil && (h == nil || w.concerns(h)) {
			w.switchOff(byHand)
		}
		for _, sp := range w.spots {
			if w.op.GetForce() && sp.member && len(sp.aborted) > 0 && w.concerns(sp) {
				w.takeOff(sp, "an administrator had the halt that had stopped half-way go on")
			}
		}
	case opSwitch:
		b.Tried = nil
		w.leaveSource(h)
	case opOnline:
		b.Tried, b.Retries, b.Clears = nil, 0, 0
		if h != nil {
			w.complement(h)
		}
	case opResourceOnline, opResourceOffline:
		w.orderResource()
	}
	w.propagate(0)
}

const byHand = "an administrator took it offline"

// concerns: the operation is about that node, too.
func (w *work) concerns(sp *spot) bool { return w.op.GetNode() == "" || w.op.GetNode() == sp.node }

// wantOffline: an administrator takes the instance offline where it is.
func (w *work) wantOffline() {
	if h := w.home(); h != nil && !w.concerns(h) {
		return // it is online elsewhere, and stays there
	}
	b := w.book
	w.unwant(byHand)
	b.Tried, b.WaitsForNode, b.Waiting = nil, "", ""
}

// leaveSource takes the instance off the node that it is switched away from,
// after preswitch has been run on the one that it goes to, and preoffline here. The
// source is known by book.active until a target has been ordered.
func (w *work) leaveSource(h *spot) {
	b, g := w.book, w.g.GetName()
	if w.enables(preSwitch) && w.run.GetTrigger() != preOffline {
		target := b.BoundFor
		if target == "" {
			c := w.choose(w.targets(w.op, h.node), true)
			if c.to == nil {
				w.giveUp(c.sentence())
				return
			}
			target = c.to.node
			b.BoundFor = target
		}
		gate := w.before(preSwitch, target, map[string]string{state.FactTo: target})
		switch {
		case gate.waits != "":
			w.progress(gate.waits)
			return
		case !gate.passed:
			b.BoundFor = ""
			w.end(failed, fmt.Sprintf("%s stays on %s: %s", g, h.node, gate.why))
			return
		}
	}
	if !w.mayGoOff(h, "manual") {
		w.progress(b.Waiting)
		return
	}
	source := h.node
	b.Cause = fmt.Sprintf("an administrator switched %s away from %s", g, source)
	w.takeOff(h, b.Cause)
	b.Active = source
	w.progress(w.notClear(h))
}

// complement brings online what was left out where the group runs already.
func (w *work) complement(h *spot) {
	wants, held := w.exceptions(h, w.notStarted(h))
	if maps.Equal(wants, h.on.GetResourceWants()) && slices.Equal(held, h.on.GetHeldResources()) {
		return
	}
	w.order(h, wantOnline, wants, held)
	w.decided("online "+w.g.GetName()+" on "+h.node, h.node, nil, "an administrator brought it online, with all that had been left out")
}

// operate carries the operation on, and says whether what happens by itself
// may happen too.
func (w *work) operate() bool {
	if w.op == nil {
		return true
	}
	switch w.op.GetKind() {
	case opOffline:
		return w.operateOffline()
	case opOnline, opSwitch:
		return w.operateOnline()
	default:
		return w.operateResource()
	}
}

func (w *work) operateOffline() bool {
	op, g := w.op, w.g.GetName()
	var wait, stuck string
	for _, sp := range w.spots {
		if !w.concerns(sp) {
			continue
		}
		up := sp.want() == wantOnline || sp.alone() != "" || sp.want() == wantNothing && len(sp.running()) > 0
		if up && sp.member && sp.on != nil && sp.fence == nil {
			if sp.want() == wantOnline && !op.GetForce() && !w.mayGoOff(sp, "manual") {
				wait = w.book.Waiting
				continue
			}
			w.wantOffline()
			w.takeOff(sp, byHand)
		}
		why := w.notClear(sp)
		switch {
		case why == "":
		case w.mustWait(sp) != "" && sp.confirmed():
			stuck = why
		case sp.fence == nil && len(sp.stuck) > 0 && len(sp.moving) == 0 && sp.confirmed():
			stuck = why + w.stuckAdvice(sp)
		case wait == "":
			wait = why
		}
	}
	others := op.GetNode() != "" && w.home() != nil && !w.concerns(w.home())
	switch {
	case wait != "":
		w.progress(wait)
		return others
	case stuck != "":
		w.end(failed, stuck)
	default:
		message := g + " is offline"
		switch {
		case op.GetNode() != "" || w.g.GetParallel():
			message += " on " + or(op.GetNode(), w.instance)
		case w.g.GetHybrid():
			message += " in " + w.title()
		}
		w.event(v1.Severity_SEVERITY_INFORMATION, "group.offline", op.GetNode(), message)
		w.end(done, message)
	}
	return true
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// operateOnline carries online and switch on: take off the source, wait until
// all is clear, order the target, wait until it is online.
func (w *work) operateOnline() bool {
	op, b, g := w.op, w.book, w.g.GetName()
	if b.GetParting() != "" {
		w.progress(b.GetWaiting())
		return false
	}
	if h := w.home(); h != nil {
		switch {
		case op.GetKind() == opSwitch && b.Trigger != 0 && h.order == nil && h.member: // it has not left the source yet
			w.leaveSource(h)
		case op.GetKind() == opSwitch && w.newRun != 0: // begun a moment ago
		default:
			w.operateArrival()
		}
		return w.op == nil
	}
	if sp := w.departed(); sp != nil && !w.parted && state.Book(w.st, w.instance).GetOperation() == op.GetId() && !w.leftByOrder() {
		w.endArrival(sp.node)
		return true
	}
	source := ""
	if op.GetKind() == opSwitch {
		source = b.Active
	}
	if op.GetKind() == opSwitch && w.off != w.st.GetSwitchingOff() { // the halt has said so
		w.giveUp(w.off)
		return true
	}
	targets := w.targets(op, source)
	w.bringsChildren = op.GetPropagate() && w.awaitsChildren(targets) != ""
	if f := w.bestFound(); f != nil && op.GetNode() != "" && f.node != op.GetNode() {
		w.giveUp(fmt.Sprintf("%s found online on %s", w.wereNames(f.online), f.node))
		return true
	} else if f != nil {
		no := w.reject(f, true)
		switch {
		case no == nil || no.room: // what runs there has its room
		case op.GetNode() == "" && w.unfit(f, true) == nil: // it may run elsewhere with what it depends on
			w.takeOff(f, fmt.Sprintf("%s running there in part, where %s", w.areNames(f.running()), no.why))
			w.progress(w.notClear(f))
			return false
		default:
			w.giveUp(no.text())
			return true
		}
	}
	for _, sp := range w.spots {
		if sp.fence == nil && sp.member && len(sp.stuck) > 0 && len(sp.moving) == 0 {
			w.giveUp(w.stuckSentence(sp) + w.stuckAdvice(sp))
			return true
		}
	}
	if why := w.waitsForPerson(); why != "" {
		w.giveUp(why)
		return true
	}
	c := w.choose(targets, true)
	found := w.bestFound()
	if found != nil { // partly online where it is asked for
		c.to, c.why = found, fmt.Sprintf("%s online on %s already", w.areNames(found.online), found.node)
	}
	if c.to == nil {
		w.giveUp(c.sentence())
		return true
	}
	except := w.ownParts(c.to)
	if c.to == found {
		except = found
	}
	if why := w.blocked(except); why != "" {
		b.Waiting = ""
		w.progress(why)
		return false
	}
	if why := w.givenUp(c.to); why != "" {
		w.giveUp(why)
		return true
	}
	if w.g.GetPackage() != nil && w.evicting(c.to) != "" { // SG-114
		why := w.evicting(c.to)
		w.claims = ""
		w.giveUp(fmt.Sprintf("%s would have to make room on %s (%s), and a package that is run by hand displaces nobody: halt the other one first", g, c.to.node, why))
		return true
	}
	if why := or(w.unmet(c.to), w.evicting(c.to)); why != "" {
		b.Waiting = ""
		w.progress(why)
		return false
	}
	b.Tried = nil
	why := fmt.Sprintf("an administrator brought %s online", g)
	if op.GetKind() == opSwitch {
		why = fmt.Sprintf("an administrator switched %s", g)
	}
	second := ""
	if op.GetNode() != "" {
		second = "it was asked for on " + c.to.node
	}
	if !w.arrive(&c, false, why, second) {
		w.progress(b.Waiting)
		return false
	}
	w.progress(fmt.Sprintf("bringing %s online on %s", g, c.to.node))
	return false
}

// leftByOrder: the switch itself has taken the instance off its source in this pass.
func (w *work) leftByOrder() bool {
	return w.op.GetKind() == opSwitch && w.book.Active != "" && w.departed().node == w.book.Active
}

// ownParts returns sp if single resources are online there by order: they may
// stay when the whole group comes to that node.
func (w *work) ownParts(sp *spot) *spot {
	if sp.alone() != "" && sp.confirmed() && len(sp.moving)+len(sp.stuck)+len(sp.unknown) == 0 {
		return sp
	}
	return nil
}

// giveUp ends an online or switch that has no target any more. A switched
// group then finds a node as after a fault, its source included.
func (w *work) giveUp(why string) {
	if w.op.GetKind() == opSwitch {
		w.book.Active, w.book.BoundFor = "", ""
	}
	w.end(failed, why)
}

// departed is the node from which the group is taken off in this pass.
func (w *work) departed() *spot {
	for _, sp := range w.spots {
		if sp.on.GetWant() == wantOnline && sp.want() != wantOnline {
			return sp
		}
	}
	return nil
}

// endArrival ends an online or switch whose target could not be held.
func (w *work) endArrival(node string) {
	why := w.book.Cause
	if why == "" {
		why = w.book.Waiting
	}
	if w.op.GetKind() == opSwitch && (w.run != nil || w.book.GetBoundFor() != "") {
		w.book.BoundFor = ""
		w.end(failed, fmt.Sprintf("%s left %s before it could be switched: %s", w.g.GetName(), node, why))
		return
	}
	w.end(failed, fmt.Sprintf("%s could not be brought online on %s: %s", w.g.GetName(), node, why))
}

// operateArrival watches the target of online and switch.
func (w *work) operateArrival() {
	g, h := w.g.GetName(), w.home()
	switch {
	case !h.member || h.fence != nil:
		w.end(failed, fmt.Sprintf("%s was lost while %s was being brought online there", h.node, g))
	case w.complete(h):
		w.end(done, g+" is online on "+h.node)
	case w.book.Waiting != "":
		w.progress(w.book.Waiting)
	default:
		w.progress(fmt.Sprintf("bringing %s online on %s", g, h.node))
	}
}
