package planner

import (
	"fmt"
	"maps"
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
// requires it and was not taken offline by itself; -1: none.
func (w *work) criticalAbove(sp *spot, i int) int {
	if w.res[i].critical {
		return i
	}
	down := w.dependants([]int{i})
	for j := range w.res {
		if down[j] && w.res[j].critical && !slices.Contains(sp.held(), w.res[j].name) {
			return j
		}
	}
	return -1
}

// dependants marks roots and all that requires one of them, directly or not.
func (w *work) dependants(roots []int) []bool {
	marked := make([]bool, len(w.res))
	for _, i := range roots {
		marked[i] = true
	}
	for again := true; again; {
		again = false
		for i := range w.res {
			if marked[i] {
				continue
			}
			for _, j := range w.res[i].requires {
				if marked[j] {
					marked[i], again = true, true
					break
				}
			}
		}
	}
	return marked
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
	var roots []int
	var keep []string
	for i := range w.res {
		if slices.Contains(held, w.res[i].name) || slices.Contains(f.tolerated, i) {
			roots, keep = append(roots, i), append(keep, w.res[i].name)
		}
	}
	roots = append(roots, f.tolerable...)
	if len(roots) == 0 {
		return nil, nil
	}
	wants := map[string]v1.Want{}
	for i, off := range w.dependants(roots) {
		if off && !w.res[i].persistent() {
			wants[w.res[i].name] = wantOffline
		}
	}
	return wants, keep
}

// expected: the resource shall be online there when the group is.
func (w *work) expected(sp *spot, i int) bool {
	return !w.res[i].persistent() && sp.resourceWants()[w.res[i].name] != wantOffline
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

func sameWants(a, b map[string]v1.Want) bool { return maps.Equal(a, b) }
