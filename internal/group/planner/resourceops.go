package planner

import (
	"fmt"
	"maps"
	"slices"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

// resourceSpot returns where a resource operation acts: on its node, or where
// the group is.
func (w *work) resourceSpot(op *v1.Operation) *spot {
	if op.GetNode() != "" {
		return w.spot(op.GetNode())
	}
	if h := w.home(); h != nil {
		return h
	}
	for _, sp := range w.spots {
		if sp.member && sp.alone() != "" {
			return sp
		}
	}
	return nil
}

func (w *work) refuseResource(op *v1.Operation) string {
	g, name := w.g.GetName(), op.GetResource()
	i := w.position(name)
	if i < 0 {
		return fmt.Sprintf("%s has no managed resource %s", g, name)
	}
	if why := w.refuseManual(op); why != "" {
		return why
	}
	sp := w.resourceSpot(op)
	switch {
	case sp == nil && op.GetNode() != "":
		return w.notListed(op.GetNode())
	case sp == nil:
		return fmt.Sprintf("%s is not online: say on which node with --node", g)
	case sp.fence != nil:
		return w.notProven(sp)
	case !sp.member:
		return w.absent(sp.node)
	case sp.on == nil || !sp.on.GetProbed():
		return fmt.Sprintf("%s has not yet found out what of %s runs there", sp.node, g)
	case w.res[i].persistent():
		return fmt.Sprintf("%s is only monitored: it cannot be brought online or offline", name)
	}
	if op.GetKind() == opResourceOffline {
		return w.refuseResourceOffline(sp, i)
	}
	return w.refuseResourceOnline(sp, i)
}

func (w *work) refuseResourceOnline(sp *spot, i int) string {
	g, name := w.g.GetName(), w.res[i].name
	if w.status(sp, i).GetState() == v1.ResourceState_RESOURCE_STATE_FAULTED {
		return fmt.Sprintf("%s is faulted on %s: clear it first: holdfast resource clear %s --node %s", name, sp.node, name, sp.node)
	}
	for _, j := range w.res[i].requires {
		st := w.status(sp, j).GetState()
		if st != v1.ResourceState_RESOURCE_STATE_ONLINE || sp == w.home() && sp.resourceWants()[w.res[j].name] == wantOffline {
			return fmt.Sprintf("%s requires %s, which is not online on %s: bring that online first", name, w.res[j].name, sp.node)
		}
	}
	h := w.home()
	if h == sp {
		return w.rival(h)
	}
	if h != nil {
		return fmt.Sprintf("%s is wanted online on %s: nothing of it may run on %s", g, h.node, sp.node)
	}
	if no := w.reject(sp, true); no != nil {
		return no.text()
	}
	if w.book.IntentOnline {
		return fmt.Sprintf("%s is about to be brought online as a whole: take it offline first with holdfast group offline %s", g, g)
	}
	return w.blocked(sp)
}

func (w *work) refuseResourceOffline(sp *spot, i int) string {
	name := w.res[i].name
	if !w.res[i].counts() {
		return fmt.Sprintf("%s is of a type that is never taken offline", name)
	}
	if len(sp.stuck) > 0 && slices.Contains(sp.stuck, i) {
		return w.stuckSentence(sp) + w.stuckAdvice(sp)
	}
	above := w.dependants([]int{i}, w.broken(sp))
	for j := range w.res {
		if j != i && above[j] && w.res[j].counts() &&
			(w.status(sp, j).GetState() == v1.ResourceState_RESOURCE_STATE_ONLINE || !idle(w.status(sp, j))) {
			return fmt.Sprintf("%s requires %s and is not offline on %s: take that offline first", w.res[j].name, name, sp.node)
		}
	}
	return ""
}

// orderResource gives the order of a resource operation.
func (w *work) orderResource() {
	op := w.op
	sp := w.resourceSpot(op)
	name, on := op.GetResource(), op.GetKind() == opResourceOnline
	why := fmt.Sprintf("an administrator took %s offline by itself", name)
	if on {
		why = fmt.Sprintf("an administrator brought %s online by itself", name)
	}
	if sp == w.home() {
		held := slices.DeleteFunc(slices.Clone(sp.held()), func(n string) bool { return n == name })
		if !on {
			held = append(held, name)
		}
		wants, held := w.lasting(sp, held)
		if on {
			maps.DeleteFunc(wants, func(r string, want v1.Want) bool { return r == name && want == wantNothing }) // somebody outside had taken it offline
		}
		if !on && w.nothingLeft(wants) {
			w.unwant(why)
			w.takeOff(sp, why, "nothing of "+w.g.GetName()+" is left to be online")
			return
		}
		w.order(sp, wantOnline, wants, held)
		w.decided(w.describe(op), sp.node, nil, why)
		return
	}
	// Elsewhere the group as a whole is wanted offline, and single resources are not.
	wants := map[string]v1.Want{}
	for i := range w.res {
		if r := w.res[i].name; sp.resourceWants()[r] == wantOnline || slices.Contains(sp.online, i) && sp.want() == wantNothing {
			wants[r] = wantOnline
		}
	}
	delete(wants, name)
	if on {
		wants[name] = wantOnline
	}
	w.order(sp, wantOffline, w.tenable(sp, wants), nil)
	w.ledger.enter(w, sp)
	w.decided(w.describe(op), sp.node, nil, why)
}

// nothingLeft: no resource that counts is still to be online.
func (w *work) nothingLeft(wants map[string]v1.Want) bool {
	for i := range w.res {
		want, single := wants[w.res[i].name]
		if w.res[i].counts() && (!single || want == wantOnline) {
			return false
		}
	}
	return true
}

// operateResource waits until the resource is where it shall be.
func (w *work) operateResource() bool {
	op := w.op
	name, on := op.GetResource(), op.GetKind() == opResourceOnline
	var sp *spot
	if sp = w.resourceSpot(op); sp == nil && !on {
		for _, x := range w.spots { // it was the last one of its group
			if x.member && x.want() == wantOffline && x.runs() {
				sp = x
			}
		}
	}
	i := w.position(name)
	switch {
	case i < 0:
		w.end(failed, name+" has been removed")
		return true
	case sp == nil && !on:
		w.end(done, name+" is offline")
		return true
	case sp == nil:
		w.end(failed, fmt.Sprintf("%s is not wanted online any more", w.g.GetName()))
		return true
	case !sp.member || sp.fence != nil:
		w.end(failed, fmt.Sprintf("%s was lost meanwhile", sp.node))
		return true
	}
	st := w.status(sp, i)
	online, settled := st.GetState() == v1.ResourceState_RESOURCE_STATE_ONLINE, sp.confirmed() && idle(st)
	off := st.GetState() == v1.ResourceState_RESOURCE_STATE_OFFLINE || st.GetState() == v1.ResourceState_RESOURCE_STATE_FAULTED
	switch {
	case on && st.GetState() == v1.ResourceState_RESOURCE_STATE_FAULTED:
		w.end(failed, fmt.Sprintf("%s faulted on %s: %s", name, sp.node, st.GetMessage()))
	case st.GetUnableToOffline():
		w.end(failed, w.stuckSentence(sp)+w.stuckAdvice(sp))
	case on && settled && online:
		w.end(done, name+" is online on "+sp.node)
	case on && settled && off:
		w.end(failed, fmt.Sprintf("%s did not come online on %s: %s", name, sp.node, st.GetMessage()))
	case !on && settled && off:
		w.end(done, name+" is offline on "+sp.node)
	case on:
		w.progress("bringing " + name + " online on " + sp.node)
	default:
		w.progress("taking " + name + " offline on " + sp.node)
	}
	return true
}
