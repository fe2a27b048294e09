package planner

import (
	"fmt"
	"slices"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
)

// ledger is what nodes have to give and what takes of it, as this pass sees
// it: an instance that has been ordered to a node a moment ago takes its load
// there as one that has been online for a year, and one that is going offline
// does until it is known to be.
type ledger struct {
	accounts map[string]*account
}

// account of one node.
type account struct {
	node *v1.Node
	// What is measured, by dimension of capacity; takes the place of what groups declare.
	measured map[string]int64
	// Instances that are there or on their way, in the order of the pass and as they came.
	holders []holder
	// Room that is being made for somebody, and must not be taken by others.
	claims []*work
	// Of the above; nil: to be added up again.
	sums *sums
}

// holder is an instance on the node of the account.
type holder struct {
	w  *work
	sp *spot
}

// sums of what the holders of an account declare.
type sums struct {
	// Of all of them; of those that are not wholly online yet; of those that are going offline.
	load, promised, going             map[string]int64
	prerequisites, goingPrerequisites map[string]int64
	// Instances that are wanted online there.
	active int
}

func (p *pass) openLedger() {
	p.ledger = ledger{accounts: make(map[string]*account, len(p.s.GetNodes()))}
	for name, n := range p.s.GetNodes() {
		p.ledger.accounts[name] = &account{node: n, measured: p.s.GetNodeStatus()[name].GetDynamicLoad()}
	}
	for _, gr := range p.groups {
		for _, w := range gr.instances {
			for _, sp := range w.spots {
				if w.occupies(sp) {
					p.ledger.enter(w, sp)
				}
			}
		}
	}
}

// occupies: the instance takes its load on that node.
func (w *work) occupies(sp *spot) bool {
	if !sp.member {
		return false // nothing is placed on such a node
	}
	return sp.want() == wantOnline || sp.runs() || w.bound(sp) || sp.want() == wantOffline && (!sp.confirmed() || sp.alone() != "")
}

func (l *ledger) enter(w *work, sp *spot) {
	a := l.accounts[sp.node]
	if a == nil {
		return // removed from the configuration
	}
	a.sums = nil
	if !slices.ContainsFunc(a.holders, func(h holder) bool { return h.sp == sp }) {
		a.holders = append(a.holders, holder{w, sp})
	}
}

// claim room on a node for an instance that is to come there, in this pass.
func (l *ledger) claim(w *work, node string) {
	if a := l.accounts[node]; a != nil {
		a.claims, a.sums = append(a.claims, w), nil
	}
}

// changed: what is wanted of an instance there has changed.
func (l *ledger) changed(sp *spot) {
	if a := l.accounts[sp.node]; a != nil {
		a.sums = nil
	}
}

// going: it is on its way off the node.
func (h holder) going() bool { return h.sp.want() == wantOffline && h.sp.alone() == "" }

// promised: what it takes there cannot have been measured yet.
func (h holder) promised() bool {
	return !h.going() && (!h.w.book.GetOnline() || h.w.book.GetActive() != h.sp.node)
}

func (a *account) add() *sums {
	if a.sums != nil {
		return a.sums
	}
	s := &sums{load: map[string]int64{}, promised: map[string]int64{}, going: map[string]int64{}, prerequisites: map[string]int64{}, goingPrerequisites: map[string]int64{}}
	for _, h := range a.holders {
		going := h.going()
		for dim, n := range h.w.g.GetLoad() {
			s.load[dim] += n
			if going {
				s.going[dim] += n
			} else if h.promised() {
				s.promised[dim] += n
			}
		}
		for name, n := range h.w.g.GetPrerequisites() {
			s.prerequisites[name] += n
			if going {
				s.goingPrerequisites[name] += n
			}
		}
		if !going {
			s.active++
		}
	}
	for _, w := range a.claims {
		for dim, n := range w.g.GetLoad() {
			s.load[dim] += n
			s.promised[dim] += n
		}
		for name, n := range w.g.GetPrerequisites() {
			s.prerequisites[name] += n
		}
	}
	a.sums = s
	return s
}

// capacity of the node in a dimension that groups may use.
func (a *account) capacity(dim string) (n int64, bounded bool) {
	n, bounded = a.node.GetCapacity()[dim]
	return n - a.node.GetReservedCapacity()[dim], bounded
}

// used of a dimension: what is measured and what is promised beyond that, or else what is declared.
func (a *account) used(dim string) int64 {
	if m, ok := a.measured[dim]; ok {
		return m + a.add().promised[dim]
	}
	return a.add().load[dim]
}

// declared is what the groups there declare, be anything measured or not.
func (a *account) declared(dim string) int64 { return a.add().load[dim] }

// by is what one instance adds to what is used of a dimension there.
func (a *account) by(w *work, dim string) int64 {
	_, measured := a.measured[dim]
	for _, h := range a.holders {
		if h.w == w && (!measured || h.promised()) {
			return w.g.GetLoad()[dim]
		}
	}
	return 0
}

// holds: the instance is there, or on its way.
func (a *account) holds(w *work) bool {
	return slices.ContainsFunc(a.holders, func(h holder) bool { return h.w == w })
}

// lack is what a node has too little of for an instance.
type lack struct {
	// A sentence that changes with the configuration only, and what was added up.
	why, measure string
}

// lacks says what a node has too little of for an instance; with freed, once
// what is going offline there has gone. Nil: it fits.
func (l *ledger) lacks(w *work, node string, freed bool) *lack {
	a := l.accounts[node]
	if a == nil {
		return nil
	}
	short := func(what, kind string, need, limit, used int64) *lack {
		if need <= limit-used {
			return nil
		}
		return &lack{
			fmt.Sprintf("%s needs %d of %s, and %s does not have that left (%s %d)", w.g.GetName(), need, what, node, kind, limit),
			fmt.Sprintf("%d are in use", used),
		}
	}
	for _, name := range state.SortedKeys(w.g.GetPrerequisites()) {
		need := w.g.GetPrerequisites()[name]
		used := a.add().prerequisites[name]
		if a.holds(w) {
			used -= need
		}
		if freed {
			used -= a.add().goingPrerequisites[name]
		}
		if short := short(name, "limit", need, a.node.GetLimits()[name], used); short != nil {
			return short
		}
	}
	for _, dim := range state.SortedKeys(w.g.GetLoad()) {
		limit, bounded := a.capacity(dim)
		if !bounded {
			continue
		}
		used := a.used(dim) - a.by(w, dim)
		if _, measured := a.measured[dim]; freed && !measured {
			used -= a.add().going[dim]
		}
		if short := short(dim, "capacity", w.g.GetLoad()[dim], limit, used); short != nil {
			return short
		}
	}
	return nil
}
