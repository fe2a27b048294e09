package planner

import (
	"fmt"
	"slices"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// What scripts say about a fault beyond itself, and how faults end without an administrator.

// verdict of faulted resources there, the worst first: what a fault of the
// group means beyond itself.
func (w *work) verdict(sp *spot, among []int) (worst v1.Verdict, at int) {
	rank := []v1.Verdict{v1.Verdict_VERDICT_RESET, v1.Verdict_VERDICT_NOWHERE, v1.Verdict_VERDICT_NOT_HERE}
	for _, v := range rank {
		for _, i := range among {
			if w.status(sp, i).GetVerdict() == v && w.criticalAbove(sp, i) >= 0 {
				return v, i
			}
		}
	}
	return v1.Verdict_VERDICT_UNSPECIFIED, -1
}

// heed the verdict about a fault of the group on a node, once.
func (w *work) heed(sp *spot) v1.Verdict {
	v, i := w.verdict(sp, slices.Concat(sp.faulted, sp.down))
	if i < 0 {
		return v
	}
	why := w.faultSentence(sp, i, i)
	switch v {
	case v1.Verdict_VERDICT_NOWHERE:
		w.switchOff(why + ", and by the word of its script may not start elsewhere")
	case v1.Verdict_VERDICT_NOT_HERE:
		w.disable(sp, why)
	case v1.Verdict_VERDICT_RESET:
		w.disable(sp, why)
		if w.reset(sp.node) == "" {
			if w.plan.Resets == nil {
				w.plan.Resets = map[string]string{}
			}
			w.plan.Resets[sp.node] = fmt.Sprintf("%s of %s demands it", why, w.g.GetName())
		}
	}
	return v
}

// reset says why a node is to be reset; empty: it is not.
func (p *pass) reset(node string) string {
	return or(p.s.GetNodeStatus()[node].GetReset_(), p.plan.GetResets()[node])
}

// judgeElsewhere heeds verdicts about faults on nodes on which the instance is
// not wanted online: a halt that failed.
func (w *work) judgeElsewhere(home *spot) {
	for _, sp := range w.spots {
		if sp == home || !sp.member || sp.on == nil || slices.Contains(w.faulted, sp.node) || len(sp.faulted) == 0 {
			continue
		}
		if v, _ := w.verdict(sp, sp.faulted); v == v1.Verdict_VERDICT_UNSPECIFIED {
			continue
		}
		w.heed(sp)
		w.faulted = add(w.faulted, sp.node)
		slices.Sort(w.faulted)
	}
}

// clear takes the faults of the instance off a node. They count as gone in this very pass.
func (w *work) clear(sp *spot) {
	w.plan.Clears = append(w.plan.Clears, &statepb.Clear{Group: w.g.GetName(), Node: sp.node})
	sp.faulted = nil
	w.faulted = slices.DeleteFunc(w.faulted, func(n string) bool { return n == sp.node })
}

// faultyAt: the instance counts as faulted there.
func (w *work) faultyAt(sp *spot) bool {
	return len(sp.faulted) > 0 || slices.Contains(w.faulted, sp.node)
}

// clearFaults clears what needs no administrator: faults of packages, of which the verdict is all
// that remains (switching), and with autoClearLimit those of any group after a while.
func (w *work) clearFaults() {
	home := w.home()
	for _, sp := range w.spots {
		if sp == home || !sp.member || sp.on == nil || !sp.on.GetProbed() || !w.faultyAt(sp) || len(sp.stuck) > 0 || sp.runs() || !sp.confirmed() {
			continue
		}
		switch {
		case w.g.GetPackage() != nil:
			w.clear(sp)
		case w.retrying(sp):
			w.clear(sp) // it is tried there once more (onlineRetryLimit)
		case w.book.GetClears() >= w.attr.autoClearLimit:
		case sp.on.GetFaulted() && w.due(sp.on.GetFaultedMs()+w.attr.clearIntervalMs):
			w.clear(sp)
			w.book.Clears++
			w.book.ClearedMs = w.nowMs
			w.book.Tried = slices.DeleteFunc(w.book.Tried, func(n string) bool { return n == sp.node })
			w.decided("clear "+w.g.GetName()+" on "+sp.node, sp.node, nil,
				fmt.Sprintf("autoClearLimit has faults of %s cleared, for the %s of %d times", w.g.GetName(), ordinal(int(w.book.GetClears())), w.attr.autoClearLimit))
		}
	}
}

func ordinal(n int) string {
	switch {
	case n%10 == 1 && n%100 != 11:
		return fmt.Sprintf("%dst", n)
	case n%10 == 2 && n%100 != 12:
		return fmt.Sprintf("%dnd", n)
	case n%10 == 3 && n%100 != 13:
		return fmt.Sprintf("%drd", n)
	}
	return fmt.Sprintf("%dth", n)
}

// retrying: the group is to be tried on that node once more after a fault there.
func (w *work) retrying(sp *spot) bool {
	b := w.book
	return b.GetBoundFor() == sp.node && b.GetRetries() > 0 && b.GetRetriedMs() >= b.GetPlacedMs()
}

// tryAgain says whether the group is tried on the same node once more after a
// fault (onlineRetryLimit), and notes that it is.
func (w *work) tryAgain(h *spot, v v1.Verdict) bool {
	b, a := w.book, &w.attr
	window := a.retryIntervalMs
	if window == 0 {
		window = w.residenceMs()
	}
	since := w.nowMs - b.GetRetriedMs()
	switch {
	case a.onlineRetryLimit == 0, v != v1.Verdict_VERDICT_UNSPECIFIED, w.switchedOff() != "":
		return false
	case b.GetRetries() > 0 && since >= window:
		b.Retries = 0 // it has been well for so long that this is a new trouble
	case b.GetRetries() > 0 && a.retryIntervalMs > 0:
		return false // it came up, and has failed again too soon
	case b.GetRetries() >= a.onlineRetryLimit:
		return false
	}
	b.Retries++
	b.RetriedMs = w.nowMs
	b.BoundFor = h.node
	return true
}
