package planner

import (
	"fmt"
	"slices"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

// fault is what is broken of a group on one node, and what that takes down.
type fault struct {
	// The whole group is faulted there.
	group bool
	// It is so because of persistent resources only: it ends by itself when they are back.
	persistent bool
	// Position of the resource that faults the group, and a sentence about it.
	root int
	why  string
	// Positions of faulted resources that do not fault the group.
	tolerated []int
	// Positions of persistent resources that are down and do not fault the group.
	tolerable []int
}

// faults judges what the agents report: a resource that faults takes down all
// that requires it; if one of these is critical, the group.
func (w *work) faults(sp *spot) fault {
	f := fault{root: -1}
	for _, i := range sp.faulted {
		if c := w.criticalAbove(sp, i); c >= 0 {
			if f.root < 0 {
				f.group, f.root, f.why = true, i, w.faultSentence(sp, i, c)
			}
			continue
		}
		f.tolerated = append(f.tolerated, i)
	}
	for _, i := range sp.down {
		if c := w.criticalAbove(sp, i); c >= 0 {
			if f.root < 0 {
				f.group, f.persistent, f.root, f.why = true, true, i, w.faultSentence(sp, i, c)
			}
			continue
		}
		f.tolerable = append(f.tolerable, i)
	}
	return f
}

// criticalAbove returns i if it is critical, else a critical resource that
// requires it and was not taken offline by itself; -1: none, or the fault goes no further.
func (w *work) criticalAbove(sp *spot, i int) int {
	if !w.res[i].propagates {
		return -1
	}
	down := w.dependants([]int{i}, w.broken(sp))
	if w.res[i].critical && !w.spared(i, down) {
		return i
	}
	for j := range w.res {
		if j != i && down[j] && w.res[j].critical && !slices.Contains(sp.held(), w.res[j].name) {
			return j
		}
	}
	return -1
}

// broken are resources that do not serve there: faulted, down, or held offline.
func (w *work) broken(sp *spot) []bool {
	no := make([]bool, len(w.res))
	for _, i := range sp.faulted {
		no[i] = true
	}
	for _, i := range sp.down {
		no[i] = true
	}
	for i := range w.res {
		no[i] = no[i] || slices.Contains(sp.held(), w.res[i].name)
	}
	return no
}

// spared: the resource is one of several of which enough are left for all that
// require some of them, and nothing requires it itself.
func (w *work) spared(i int, down []bool) bool {
	one := false
	for j := range w.res {
		if slices.Contains(w.res[j].requires, i) {
			return false
		}
		for _, set := range w.res[j].atLeast {
			if slices.Contains(set.of, i) {
				if down[j] {
					return false
				}
				one = true
			}
		}
	}
	return one
}

// dependants marks roots and all that can't do without one of them, directly or
// not. Of several of which some are required, those that are broken do not count.
func (w *work) dependants(roots []int, broken []bool) []bool {
	marked := make([]bool, len(w.res))
	for _, i := range roots {
		marked[i] = true
	}
	for again := true; again; {
		again = false
		for i := range w.res {
			if !marked[i] && w.lacks(&w.res[i], marked, broken) {
				marked[i], again = true, true
			}
		}
	}
	return marked
}

// lacks: what the resource requires is marked, or so many of several that too few are left.
func (w *work) lacks(r *resource, marked, broken []bool) bool {
	if slices.ContainsFunc(r.requires, func(j int) bool { return marked[j] }) {
		return true
	}
	for _, set := range r.atLeast {
		left, hit := 0, false
		for _, j := range set.of {
			if hit = hit || marked[j]; !marked[j] && !broken[j] {
				left++
			}
		}
		if hit && left < set.count {
			return true
		}
	}
	return false
}

func (w *work) faultSentence(sp *spot, i, critical int) string {
	verb := "faulted"
	if w.res[i].persistent() {
		verb = "went down"
	}
	s := fmt.Sprintf("%s %s on %s", w.res[i].name, verb, sp.node)
	if m := w.status(sp, i).GetMessage(); m != "" {
		s += " (" + m + ")"
	}
	if critical != i {
		s += fmt.Sprintf(", and %s, which requires it, is critical", w.res[critical].name)
	}
	return s
}

func (w *work) downSentence(sp *spot, i int) string {
	s := fmt.Sprintf("%s is down on %s", w.res[i].name, sp.node)
	if m := w.status(sp, i).GetMessage(); m != "" {
		s += " (" + m + ")"
	}
	return s
}

// exceptions returns the wants of single resources, for a node on which the
// group is wanted online: what is held there, faulted or cut off stays offline.
// Faulted resources are held from then on.
func (w *work) exceptions(sp *spot, held []string) (map[string]v1.Want, []string) {
	f := w.faults(sp)
	var roots, alone []int
	var keep []string
	for i := range w.res {
		if slices.Contains(held, w.res[i].name) || slices.Contains(f.tolerated, i) {
			keep = append(keep, w.res[i].name)
			roots, alone = w.reaches(i, roots, alone)
		}
	}
	for _, i := range f.tolerable {
		roots, alone = w.reaches(i, roots, alone)
	}
	if len(roots)+len(alone) == 0 {
		return nil, nil
	}
	wants := map[string]v1.Want{}
	off := w.dependants(roots, w.broken(sp))
	for _, i := range alone {
		off[i] = true
	}
	for i := range w.res {
		if off[i] && !w.res[i].persistent() {
			wants[w.res[i].name] = wantOffline
		}
	}
	return wants, keep
}

// missed are resources that somebody took offline there on purpose, and that were to be online.
func (w *work) missed(sp *spot) (at []int) {
	for _, i := range sp.absent {
		if sp.resourceWants()[w.res[i].name] != wantOffline {
			at = append(at, i)
		}
	}
	return at
}

// lasting are the exceptions where the group is online already: what somebody
// took offline there on purpose is left as it is, too, until it is ordered online anew.
func (w *work) lasting(sp *spot, held []string) (map[string]v1.Want, []string) {
	wants, keep := w.exceptions(sp, held)
	for _, i := range w.missed(sp) {
		name := w.res[i].name
		if !sp.confirmed() && sp.resourceWants()[name] != wantNothing || wants[name] == wantOffline {
			continue
		}
		if wants == nil {
			wants = map[string]v1.Want{}
		}
		wants[name] = wantNothing
	}
	return wants, keep
}

// reaches puts a resource that stays offline to those that take along what
// requires them, or to those that do not.
func (w *work) reaches(i int, roots, alone []int) ([]int, []int) {
	if w.res[i].propagates {
		return append(roots, i), alone
	}
	return roots, append(alone, i)
}

// notStarted are the resources that do not come online with the group there:
// they wait for an administrator, or for somebody outside, and stay if they are online already.
func (w *work) notStarted(sp *spot) (held []string) {
	for i := range w.res {
		if r := &w.res[i]; !r.starts && !r.persistent() && w.status(sp, i).GetState() != v1.ResourceState_RESOURCE_STATE_ONLINE {
			held = append(held, r.name)
		}
	}
	return held
}

// expected: the resource shall be online there when the group is.
func (w *work) expected(sp *spot, i int) bool {
	if w.res[i].persistent() {
		return false
	}
	want, single := sp.resourceWants()[w.res[i].name]
	return !single || want == wantOnline
}

// complete: all that shall be online of the group there is, by its newest order.
func (w *work) complete(sp *spot) bool {
	if !sp.member || sp.on == nil || !sp.on.GetProbed() || !sp.confirmed() {
		return false
	}
	for i := range w.res {
		if w.expected(sp, i) && (w.status(sp, i).GetState() != v1.ResourceState_RESOURCE_STATE_ONLINE || !idle(w.status(sp, i))) {
			return false
		}
	}
	return true
}

// stopped returns a resource that is wanted online but offline, and that
// nobody will start by the present order; -1: none.
func (w *work) stopped(sp *spot) int {
	if !sp.confirmed() || !sp.on.GetProbed() || len(sp.moving)+len(sp.stuck) > 0 {
		return -1
	}
	at := -1
	for i := range w.res {
		if w.res[i].persistent() {
			continue
		}
		if !idle(w.status(sp, i)) {
			return -1
		}
		if at < 0 && w.expected(sp, i) && w.status(sp, i).GetState() == v1.ResourceState_RESOURCE_STATE_OFFLINE {
			at = i
		}
	}
	return at
}
