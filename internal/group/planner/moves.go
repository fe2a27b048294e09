package planner

import (
	"fmt"
	"slices"

	"github.com/holdfast-ha/holdfast/internal/cluster/state"
)

// Moves of what is online: away from a node that is evacuated, home again
// (failback), and off a node where somebody else needs the room.

// moveAway moves an instance that is well where it is, if something speaks for it.
func (w *work) moveAway(h *spot) {
	l, leaving := w.leaving[h.node]
	if !h.member || h.order != nil || w.run != nil && !w.departing(h) {
		return
	}
	if leaving && l.stays {
		if h.confirmed() {
			w.evacuate(h)
		}
	} else if !leaving {
		w.failBack(h)
	}
}

// departing: preoffline runs on the node that it is on, or is about to.
func (w *work) departing(h *spot) bool {
	return w.newRun != 0 && h == w.home() || w.run.GetTrigger() == preOffline && w.run.GetNode() == h.node
}

// evacuate moves the instance off a node that stays, if another one can take it.
func (w *work) evacuate(h *spot) {
	g := w.g.GetName()
	stays := func(why string) {
		w.evacuations[h.node].staying = append(w.evacuations[h.node].staying, fmt.Sprintf("%s stays: %s", g, why))
	}
	switch {
	case w.g.GetParallel():
		return // it runs everywhere, and moves nowhere
	case !w.attr.evacuate:
		stays("evacuate of " + g + " is off")
		return
	case w.switchedOff() != "":
		stays(w.switchedOff())
		return
	}
	c := w.choose(w.byFailOver(w.others(h), "system list"), false)
	if c.to == nil {
		stays(or(c.sentence(), "it has no other node on its system list"))
		return
	}
	if !w.mayGoOff(h, "evacuate") {
		w.ledger.claim(w, c.to.node)
		return
	}
	w.book.Cause = h.node + " is being evacuated"
	w.takeOff(h, w.book.Cause, c.why)
}

// others are the nodes of the instance but for that one.
func (w *work) others(h *spot) []string {
	return slices.DeleteFunc(slices.Clone(w.systemList()), func(n string) bool { return n == h.node })
}

// failBack moves an instance home that a fault had moved: as soon as the first
// node of its list can take it, and it has stayed for a while where it is.
func (w *work) failBack(h *spot) {
	b := w.book
	nodes := w.systemList()
	if !w.attr.failsBack || !b.FailedOver || !b.Online || b.Active != h.node || nodes[0] == h.node || w.switchedOff() != "" || !w.env.Seeded {
		return
	}
	home := w.spot(nodes[0])
	if w.reject(home, false) != nil || w.blocked(h) != "" || len(h.moving) > 0 {
		return
	}
	if !w.due(b.PlacedMs + w.residenceMs()) {
		return
	}
	if !w.mayGoOff(h, "failback") {
		w.ledger.claim(w, home.node)
		return
	}
	b.BoundFor = home.node
	b.Cause = fmt.Sprintf("%s can take %s again, and is the first node of its system list", home.node, w.g.GetName())
	w.takeOff(h, b.Cause, "failback is automatic")
}

// makeRoom pushes groups of lower drag priority off a node, for an instance that
// would be online there if there were room. It says whether the instance now waits for room.
func (w *work) makeRoom(c *choice) bool {
	if w.g.GetDragPriority() == 0 {
		return false
	}
	var best []holder
	at := ""
	for _, no := range c.rejected {
		if !no.room {
			continue
		}
		if w.ledger.lacks(w, no.node, true) == nil { // what is going offline there is enough
			best, at = nil, no.node
			break
		}
		if victims := w.victims(no.node); victims != nil && (best == nil || cheaper(victims, best)) {
			best, at = victims, no.node
		}
	}
	if at == "" {
		return false
	}
	g := w.g.GetName()
	for _, v := range best {
		if !v.w.mayGoOff(v.sp, "displaced") {
			continue
		}
		v.w.book.GivesWayTo = g
		v.w.book.Cause = fmt.Sprintf("%s makes room on %s for %s, which has the higher drag priority (%d, it has %d)",
			v.w.g.GetName(), at, g, w.g.GetDragPriority(), v.w.g.GetDragPriority())
		v.w.takeOff(v.sp, v.w.book.Cause)
		if v.w.home() == nil {
			v.w.book.Waiting = v.w.notClear(v.sp)
		}
	}
	w.ledger.claim(w, at)
	w.book.Waiting = fmt.Sprintf("room is made for %s on %s", g, at)
	return true
}

// victims are the instances that have to leave a node so that there is room for
// this one: the least important ones, and no more than needed. Nil: it cannot be done.
func (w *work) victims(node string) []holder {
	a := w.ledger.accounts[node]
	var may []holder
	for _, h := range a.holders {
		if w.mayDisplace(h) {
			may = append(may, h)
		}
	}
	slices.SortStableFunc(may, func(x, y holder) int { return int(x.w.g.GetDragPriority()) - int(y.w.g.GetDragPriority()) })
	var out []holder
	for _, h := range may {
		if out = append(out, h); w.fitsWithout(node, out) {
			break
		}
	}
	if !w.fitsWithout(node, out) {
		return nil
	}
	for i := len(out) - 1; i >= 0; i-- { // who does not help stays, the most important first
		less := slices.Delete(slices.Clone(out), i, i+1)
		if w.fitsWithout(node, less) {
			out = less
		}
	}
	return out
}

// mayDisplace: a group may be pushed off for one of higher drag priority.
func (w *work) mayDisplace(h holder) bool {
	v := h.w
	return v.g.GetDragPriority() < w.g.GetDragPriority() && h.sp.want() == wantOnline && h.sp.confirmed() &&
		v.held == "" && v.frozen() == "" && v.switchedOff() == "" && len(h.sp.stuck) == 0
}

// fitsWithout: there is room once what is going offline has gone, and these too.
func (w *work) fitsWithout(node string, these []holder) bool {
	a := w.ledger.accounts[node]
	for _, name := range state.SortedKeys(w.g.GetPrerequisites()) {
		used := a.add().prerequisites[name] - a.add().goingPrerequisites[name]
		for _, h := range these {
			used -= h.w.g.GetPrerequisites()[name]
		}
		if w.g.GetPrerequisites()[name] > a.node.GetLimits()[name]-used {
			return false
		}
	}
	for _, dim := range state.SortedKeys(w.g.GetLoad()) {
		limit, bounded := a.capacity(dim)
		if !bounded {
			continue
		}
		used := a.used(dim)
		if _, measured := a.measured[dim]; !measured { // else nobody knows what their leaving brings
			used -= a.add().going[dim]
			for _, h := range these {
				used -= h.w.g.GetLoad()[dim]
			}
		}
		if w.g.GetLoad()[dim] > limit-used {
			return false
		}
	}
	return true
}

// cheaper: the most important of these is less important than that of those, or there are fewer.
func cheaper(these, those []holder) bool {
	most := func(hs []holder) (p uint32) {
		for _, h := range hs {
			p = max(p, h.w.g.GetDragPriority())
		}
		return p
	}
	if x, y := most(these), most(those); x != y {
		return x < y
	}
	return len(these) < len(those)
}
