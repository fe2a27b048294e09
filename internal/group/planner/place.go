package planner

import (
	"fmt"
	"slices"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
)

// The second phase of a pass: places for what shall be online and is not. Groups
// come in the order of the pass ([pass.inOrder]), and each sees in the ledger what
// those before it have been given.

// automatic does what happens to an instance by itself when no operation is carried out on it.
func (w *work) automatic() {
	h := w.home()
	switch {
	case w.held != "":
		if h == nil && w.book.IntentOnline {
			w.book.Waiting = w.held
		}
	case h != nil:
		w.moveAway(h)
		if w.home() == nil {
			w.place()
		}
	case !w.found():
		w.place()
	}
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
			w.violated(sp, also)
		}
	}
	if no := w.blocked(best); no != "" {
		b.Waiting = why + ", but " + no
		return true
	}
	if w.flushedInPart(best) {
		b.Waiting = fmt.Sprintf("%s runs on %s in part, or faulted, since it was flushed: holdfast group online %s, or holdfast group offline %s", g, best.node, g, g)
		return true
	}
	if !w.attr.ifPartial && !b.IntentOnline && !w.wholly(best) {
		b.Waiting = fmt.Sprintf("%s, and autoStartIfPartial is off: holdfast group online %s brings up the rest, holdfast group offline %s takes it down", why, g, g)
		return true
	}
	second := "a group that runs already is kept where it is"
	if w.attr.pulledUp && !b.IntentOnline {
		second = "externalStateChange has the rest of " + g + " follow"
	}
	w.bring(best, nil, why, second)
	return true
}

// flushed: an administrator made the agents forget what they were to do, and
// has taken the matter over.
func (w *work) flushed() {
	b, g := w.book, w.g.GetName()
	if best := w.bestFound(); best != nil {
		if w.flushedInPart(best) {
			w.unwant("it was flushed")
		}
		return
	}
	if sp := w.spot(b.Active); b.Active != "" && sp != nil && sp.on.GetFlushed() {
		w.unwant("it was flushed")
		b.Waiting = fmt.Sprintf("%s was flushed on %s: bring it online with holdfast group online %s", g, sp.node, g)
	}
}

func (w *work) flushedInPart(sp *spot) bool {
	return sp.on.GetFlushed() && (!w.wholly(sp) || w.faults(sp).group)
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
		if w.res[i].starts && !w.res[i].persistent() && w.status(sp, i).GetState() != v1.ResourceState_RESOURCE_STATE_ONLINE {
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

// relax has the agents of a group that follows what is started outside
// (externalStateChange) leave alone what they see, once it is offline.
func (w *work) relax() {
	b := w.book
	starts := w.startsItself() && !b.AutoStarted && !b.HeldOffline && b.WaitsForNode == ""
	if !w.attr.pulledUp || w.op != nil || w.held != "" || w.home() != nil || w.bestFound() != nil || b.IntentOnline || starts {
		return
	}
	for _, sp := range w.spots {
		if sp.want() == wantOffline && sp.order == nil && sp.member && sp.confirmed() && !sp.runs() && sp.alone() == "" {
			w.order(sp, wantNothing, nil, nil)
			w.decided("watch "+w.g.GetName()+" on "+sp.node, sp.node, nil, "externalStateChange has "+w.g.GetName()+" follow when something of it is started there")
		}
	}
}

const notSeeded = "too few nodes have been seen together since the cluster started: groups start by themselves once seedNodes of them have"

// startsItself: the group starts by itself, on its AutoStartList.
func (w *work) startsItself() bool {
	return w.attr.autoStart && len(w.autoStartList()) > 0
}

// stranding is a search for a node that has found none.
type stranding struct {
	rank func() ranking
	// It has been online, or an administrator wants it to be; else it would only have started by itself.
	wanted bool
}

// place finds a node for an instance that shall be online and is not.
func (w *work) place() {
	b, g := w.book, w.g.GetName()
	if b.Active != "" {
		w.lost()
	}
	w.returned()
	if w.g.GetPackage() != nil && b.HeldOffline && w.off == "" {
		// Switching on starts a package that was halted.
		b.HeldOffline, b.IntentOnline, b.Cause = false, true, "switching of "+g+" was switched on"
	}
	search := stranding{wanted: b.IntentOnline, rank: func() ranking { return w.together(w.byFailOver(w.systemList(), "system list")) }}
	switch {
	case b.IntentOnline:
	case !b.AutoStarted && !b.HeldOffline && b.WaitsForNode == "" && !w.startsItself():
		b.Waiting = ""
		return
	case b.AutoStarted, b.HeldOffline, b.WaitsForNode != "":
		return
	default:
		search.rank = func() ranking { return w.together(w.byAutoStart()) }
	}
	if !w.env.Seeded {
		b.Waiting = notSeeded
		return
	}
	if why := w.switchedOff(); why != "" {
		b.Waiting = why
		return
	}
	if why := w.blocked(nil); why != "" {
		b.Waiting = why
		return
	}
	if !search.wanted && !w.allUp() {
		return
	}
	w.recovered()
	r := search.rank()
	if why := w.awaitsChildren(r); why != "" {
		b.Waiting = why
		return
	}
	c := w.choose(r, false)
	if c.to == nil && len(w.evacuations) > 0 {
		w.mayReturn = true
		c = w.choose(r, false)
	}
	if c.to == nil {
		if !w.makeRoom(&c) {
			w.stranded = &search
		}
		return
	}
	if why := w.evicting(c.to); why != "" {
		b.Waiting = why
		return
	}
	cause := b.Cause
	if b.GivesWayTo != "" {
		cause = fmt.Sprintf("%s had made room for %s", g, b.GivesWayTo)
	}
	if cause == "" {
		cause = g + " shall be online and is online nowhere"
		if !search.wanted {
			cause = g + " starts by itself when the cluster has started"
		}
	}
	w.arrive(&c, true, cause, "")
}

// arrive brings the instance to the node that was chosen, after preonline has
// been run there; it says whether it did.
func (w *work) arrive(c *choice, byItself bool, why, second string) bool {
	facts := map[string]string{state.FactWhy: "manual", state.FactFrom: w.book.GetLastOnline()}
	if byItself {
		facts[state.FactWhy] = "auto"
	}
	if g := w.before(preOnline, c.to.node, facts); g.waits != "" {
		w.ledger.enter(w, c.to)
		w.book.Waiting = g.waits
		return false
	}
	if second == "" {
		second = c.why
	}
	w.bring(c.to, c.rejections(), why, second)
	w.plan.Decisions[len(w.plan.Decisions)-1].Inputs = c.inputs
	w.book.FailedOver = byItself
	return true
}

// allUp: all nodes of the AutoStartList are there, or have had their time. Only
// a group that is to start where most capacity is left waits for that.
func (w *work) allUp() bool {
	b := w.book
	if w.attr.startPolicy != v1.AutoStartPolicy_AUTO_START_POLICY_LOAD {
		return true
	}
	var missing []string
	for _, n := range w.autoStartList() {
		if sp := w.spot(n); sp == nil || !sp.member {
			missing = append(missing, n)
		}
	}
	switch {
	case len(missing) == 0:
		b.WaitsSinceMs = 0
		return true
	case b.WaitsSinceMs == 0:
		b.WaitsSinceMs = max(w.nowMs, 1)
	}
	if !w.due(b.WaitsSinceMs + autoStartWaitMs) {
		b.Waiting = fmt.Sprintf("it starts where most capacity is left, and waits a while for %s", list(missing))
		return false
	}
	return true
}

// autoStartWaitMs is how long a group that starts by load waits for the nodes
// of its list (the field's AutoStartTimeout).
const autoStartWaitMs = 150_000

// strand writes down, at the end of the pass, why no node could be found.
func (w *work) strand() {
	if w.stranded == nil {
		return
	}
	c := w.choose(w.stranded.rank(), false) // as all have been placed by now
	if w.stranded.wanted {
		w.noTarget(&c)
		return
	}
	w.book.Waiting = fmt.Sprintf("no node of its autoStartList can run it: %s", c.sentence())
}

// noTarget: the instance stays down until a node can take it.
func (w *work) noTarget(c *choice) {
	b, g := w.book, w.g.GetName()
	none := "no node can run " + g
	switch {
	case w.g.GetParallel():
		none = fmt.Sprintf("%s cannot run on %s", g, w.instance)
	case w.g.GetHybrid():
		none = fmt.Sprintf("no node of %s can run %s", w.title(), g)
	}
	b.Waiting = fmt.Sprintf("%s: %s", none, c.sentence())
	if w.g.GetParallel() && !w.hasMember() { // a parallel instance comes and goes with its node
		b.NoTarget = false
		return
	}
	w.noteDown()
	if b.NoTarget {
		return
	}
	b.NoTarget = true
	w.decided("keep "+g+" offline", "", c.rejections(), none, b.Cause)
	w.noFailover("", b.Waiting)
}

// noteDown remembers where persistent resources are down, and gives up where
// their return shall not bring the group back (autoRestart).
func (w *work) noteDown() {
	b, g := w.book, w.g.GetName()
	var down []string
	for _, sp := range w.spots {
		if sp.member && len(sp.down) > 0 {
			down = append(down, sp.node)
		}
	}
	if len(down) == 0 {
		return
	}
	switch w.attr.autoRestart {
	case 0:
		b.IntentOnline, b.AutoStarted, b.Active = false, true, ""
		b.Waiting += fmt.Sprintf("; autoRestart of %s is off: bring it online with holdfast group online %s", g, g)
	case 2:
		for _, n := range down {
			b.PersistentDown = add(b.PersistentDown, n)
		}
	}
}

// recovered makes nodes eligible again where a persistent resource is back,
// whatever else has faulted there (autoRestart 2).
func (w *work) recovered() {
	b := w.book
	b.PersistentDown = slices.DeleteFunc(b.PersistentDown, func(n string) bool {
		sp := w.spot(n)
		if sp == nil || len(sp.down) > 0 {
			return sp == nil
		}
		if w.faultyAt(sp) {
			w.clear(sp)
			w.decided("clear "+w.g.GetName()+" on "+n, n, nil, "what was down on "+n+" is back, and autoRestart has "+w.g.GetName()+" try it again there")
		}
		b.Tried = slices.DeleteFunc(b.Tried, func(t string) bool { return t == n })
		return true
	})
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
	if w.startsItself() {
		b.Waiting = ""
	}
}

// lost: the node that the instance was ordered to be online on knows nothing of
// that any more; it left, or was started anew.
func (w *work) lost() {
	b := w.book
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
