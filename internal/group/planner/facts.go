package planner

import (
	"fmt"
	"slices"
	"strings"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

const (
	wantOnline  = v1.Want_WANT_ONLINE
	wantOffline = v1.Want_WANT_OFFLINE
	wantNothing = v1.Want_WANT_NOTHING
)

// status of a resource there, as reported; nil: never.
func (w *work) status(sp *spot, i int) *v1.ResourceStatus {
	return sp.on.GetResources()[w.res[i].name]
}

func (sp *spot) note(i int, r *resource, st *v1.ResourceStatus) {
	if r.persistent() {
		if s := st.GetState(); s == v1.ResourceState_RESOURCE_STATE_OFFLINE || s == v1.ResourceState_RESOURCE_STATE_FAULTED {
			sp.down = append(sp.down, i)
		}
		return
	}
	if st.GetState() == v1.ResourceState_RESOURCE_STATE_FAULTED {
		sp.faulted = append(sp.faulted, i)
	}
	if st.GetAdminWait() != v1.AdminWait_ADMIN_WAIT_UNSPECIFIED {
		sp.waiting = append(sp.waiting, i)
	}
	if st.GetVerdict() == v1.Verdict_VERDICT_HALT_ABORTED {
		sp.aborted = append(sp.aborted, i)
	}
	if st.GetIntentional() && st.GetState() == v1.ResourceState_RESOURCE_STATE_OFFLINE && idle(st) {
		sp.absent = append(sp.absent, i)
	}
	if !r.counts() {
		return
	}
	if st.GetUnableToOffline() {
		sp.stuck = append(sp.stuck, i)
	}
	if !idle(st) {
		sp.moving = append(sp.moving, i)
	}
	switch st.GetState() {
	case v1.ResourceState_RESOURCE_STATE_ONLINE:
		sp.online = append(sp.online, i)
	case v1.ResourceState_RESOURCE_STATE_OFFLINE, v1.ResourceState_RESOURCE_STATE_FAULTED:
	default:
		sp.unknown = append(sp.unknown, i)
	}
}

func idle(st *v1.ResourceStatus) bool {
	a := st.GetActivity()
	return a == v1.ResourceActivity_RESOURCE_ACTIVITY_UNSPECIFIED || a == v1.ResourceActivity_RESOURCE_ACTIVITY_NONE
}

// want is what is wanted of the group there, this pass included.
func (sp *spot) want() v1.Want {
	if sp.order != nil {
		return sp.order.GetWant()
	}
	return sp.on.GetWant()
}

func (sp *spot) resourceWants() map[string]v1.Want {
	if sp.order != nil {
		return sp.order.GetResourceWants()
	}
	return sp.on.GetResourceWants()
}

// held are the resources that stay offline there until an administrator says otherwise.
func (sp *spot) held() []string {
	if sp.order != nil {
		return sp.order.GetHeldResources()
	}
	return sp.on.GetHeldResources()
}

// alone returns a resource that is wanted online there though the group is not; empty: none.
func (sp *spot) alone() string {
	if sp.want() == wantOnline {
		return ""
	}
	wants := sp.resourceWants()
	for _, name := range state.SortedKeys(wants) {
		if wants[name] == wantOnline {
			return name
		}
	}
	return ""
}

// confirmed: the node has seen its newest order, and what it reported came after that.
func (sp *spot) confirmed() bool {
	return sp.order == nil && sp.on.GetReportedIntent() == sp.on.GetIntent()
}

// running are the resources that are online there or on their way.
func (sp *spot) running() []int {
	at := append(slices.Clone(sp.online), sp.moving...)
	slices.Sort(at)
	return slices.Compact(at)
}

// runs: something of the group is online there, or may be.
func (sp *spot) runs() bool { return len(sp.online)+len(sp.moving)+len(sp.stuck) > 0 }

func (w *work) position(name string) int {
	for i := range w.res {
		if w.res[i].name == name {
			return i
		}
	}
	return -1
}

// notClear says why something of the group may run on that node, or be
// started there by an order that is on its way; empty: the node is clear (P2).
func (w *work) notClear(sp *spot) string {
	switch {
	case sp.fence != nil:
		return w.notProven(sp)
	case !sp.member:
		return ""
	case sp.on == nil || !sp.on.GetProbed() && !sp.on.GetVouched():
		return w.notProbed(sp)
	case w.mustWait(sp) != "":
		return w.mustWait(sp)
	case len(sp.stuck) > 0:
		return w.stuckSentence(sp)
	case sp.want() == wantOnline:
		return fmt.Sprintf("%s is wanted online on %s", w.g.GetName(), sp.node)
	case sp.alone() != "":
		return fmt.Sprintf("%s is wanted online on %s by itself", sp.alone(), sp.node)
	case sp.want() == wantOffline && (sp.runs() || !sp.confirmed()):
		// One sentence for the whole way down: each new one costs a commit just when time matters.
		return fmt.Sprintf("%s is going offline on %s", w.g.GetName(), sp.node)
	case sp.runs():
		return fmt.Sprintf("%s running on %s", w.areNames(sp.running()), sp.node)
	case len(sp.unknown) > 0 && !sp.on.GetVouched():
		return fmt.Sprintf("%s cannot tell the state of %s", sp.node, w.names(sp.unknown))
	case !sp.confirmed():
		return fmt.Sprintf("%s has not yet confirmed its newest order about %s", sp.node, w.g.GetName())
	}
	return ""
}

// notProven says what is missing of the proof that a lost node runs nothing of the group.
func (w *work) notProven(sp *spot) string {
	node, f := sp.node, sp.fence
	if sp.on.GetDetached() {
		return w.detached(sp)
	}
	need := state.Requirement(w.g)
	if state.Suffices(need, statepb.Proof_PROOF_TIME) {
		return fmt.Sprintf("%s was evicted in epoch %d and is not yet proven to have stopped", node, f.GetEpoch())
	}
	word := strings.ToLower(strings.TrimPrefix(need.String(), "TAKEOVER_"))
	text := fmt.Sprintf("%s was evicted in epoch %d and %s waits until it is proven off: takeover of %s requires %s", node, f.GetEpoch(), w.g.GetName(), w.g.GetName(), word)
	op, _ := state.FenceOf(w.s, node, f.GetRaftId())
	byHand := "; if you are sure that it is off: holdfast node confirm-down " + node
	switch op.GetResult() {
	case v1.FenceResult_FENCE_RESULT_RUNNING:
		return text + "; " + op.GetBy() + " switches it off"
	case v1.FenceResult_FENCE_RESULT_FAILED:
		return text + "; switching it off has failed and is tried again (holdfast fence history)" + byHand
	case v1.FenceResult_FENCE_RESULT_LIED:
		return text + "; its fence agents say that it is off, but it is alive (holdfast fence history)"
	}
	if len(w.s.GetNodes()[node].GetFenceLevels()) == 0 {
		return text + "; it has no fence levels, so that nothing can switch it off" + byHand
	}
	return text
}

// detached says that the group goes on there without the cluster.
func (w *work) detached(sp *spot) string {
	if sp.member {
		return fmt.Sprintf("%s is back and has yet to look at %s, which it was left running", sp.node, w.g.GetName())
	}
	return fmt.Sprintf("%s goes on on %s, which was detached: start it again, or if you are sure that it is off: holdfast node confirm-down %s", w.g.GetName(), sp.node, sp.node)
}

func (w *work) stuckSentence(sp *spot) string {
	return fmt.Sprintf("%s on %s could not be taken offline; something of it may still run", w.res[sp.stuck[0]].name, sp.node)
}

// hindrance is what is in the way of a group on the node where it is wanted online.
func (w *work) hindrance(sp *spot) string {
	if len(sp.stuck) == 0 {
		return ""
	}
	return w.stuckSentence(sp)
}

// blocked returns the first reason for which no node may be ordered online,
// not counting except.
func (w *work) blocked(except *spot) string {
	for _, sp := range w.spots {
		if sp == except {
			continue
		}
		if why := w.notClear(sp); why != "" {
			return why
		}
	}
	return ""
}

// rival says what is known to run of the group on another node than h.
func (w *work) rival(h *spot) string {
	for _, sp := range w.spots {
		if sp != h && (sp.member || sp.fence != nil) && sp.runs() {
			return w.notClear(sp)
		}
	}
	return ""
}

// names joins up to three names of resources.
func (w *work) names(at []int) string {
	var s []string
	for _, i := range at {
		s = append(s, w.res[i].name)
	}
	return list(s)
}

func (w *work) areNames(at []int) string {
	if len(at) == 1 {
		return w.names(at) + " is"
	}
	return w.names(at) + " are"
}

// list joins up to three names as a sentence has them.
func list(names []string) string {
	switch n := len(names); {
	case n <= 1:
		return strings.Join(names, "")
	case n <= 3:
		return strings.Join(names[:n-1], ", ") + " and " + names[n-1]
	default:
		return fmt.Sprintf("%s and %d more", strings.Join(names[:3], ", "), n-3)
	}
}
