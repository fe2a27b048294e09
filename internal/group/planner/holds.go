package planner

import (
	"fmt"
	"slices"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// What keeps the planner from doing what it would do: freezes, places that are
// disabled, switching that is off, maintenance, and resources that wait for a person.

// holds: a temporary freeze holds. One that has run out has ended in this very pass.
func (p *pass) holds(f *statepb.Freeze) bool {
	return f != nil && (f.GetUntilClockMs() == 0 || !p.due(f.GetUntilClockMs()))
}

// frozen says why nothing is done with the group; empty: it is not frozen (P5).
func (gr *group) frozen() string {
	g := gr.g.GetName()
	switch {
	case gr.g.GetFrozen():
		return fmt.Sprintf("%s is frozen: holdfast group unfreeze %s", g, g)
	case gr.holds(gr.st.GetFreeze()):
		return fmt.Sprintf("%s is frozen for a time: holdfast group unfreeze %s", g, g)
	}
	return ""
}

func (p *pass) frozenNode(node string) bool {
	return p.s.GetNodes()[node].GetFrozen() || p.holds(p.s.GetNodeStatus()[node].GetFreeze())
}

// thawNodes takes temporary freezes of nodes out that have run out.
func (p *pass) thawNodes() {
	for _, node := range state.SortedKeys(p.s.GetNodeStatus()) {
		if f := p.s.GetNodeStatus()[node].GetFreeze(); f != nil && !p.holds(f) {
			p.plan.NodesUnfrozen = append(p.plan.NodesUnfrozen, node)
		}
	}
}

// writeFlags writes down what was decided of the whole group.
func (gr *group) writeFlags() {
	thawed := gr.st.GetFreeze() != nil && !gr.holds(gr.st.GetFreeze())
	if !thawed && gr.off == gr.st.GetSwitchingOff() {
		return
	}
	gr.plan.Flags = append(gr.plan.Flags, &statepb.GroupFlags{Group: gr.g.GetName(), SwitchingOff: gr.off, Unfreeze: thawed})
}

// switchOff ends that the group starts and moves by itself.
func (gr *group) switchOff(why string) {
	if gr.off == "" {
		gr.off = why
	}
}

// switchedOff says that the group neither starts nor moves by itself, and why; empty: it does.
func (gr *group) switchedOff() string {
	if gr.off == "" {
		return ""
	}
	return fmt.Sprintf("switching of %s is off (%s): holdfast group switching on %s", gr.g.GetName(), gr.off, gr.g.GetName())
}

// disabledOn says why the group may not run on that node; empty: it may.
func (w *work) disabledOn(sp *spot) string {
	if why := w.st.GetDisabled()[sp.node]; why != "" {
		return why
	}
	if sp.place != nil && sp.place.GetDisabled() != "" {
		return sp.place.GetDisabled()
	}
	if slices.Contains(w.g.GetDisabledNodes(), sp.node) {
		return "disabledNodes"
	}
	return ""
}

// disable keeps the group from running there until an administrator allows it again.
func (w *work) disable(sp *spot, why string) {
	if w.disabledOn(sp) == "" {
		w.placeChange(sp).Disabled = why
	}
}

func (w *work) placeChange(sp *spot) *statepb.PlaceChange {
	if sp.place == nil {
		sp.place = &statepb.PlaceChange{Group: w.g.GetName(), Node: sp.node, Disabled: w.st.GetDisabled()[sp.node], AutoDisabled: sp.on.GetAutoDisabled()}
	}
	return sp.place
}

// tellUnknown says, beside the place, that nobody knows whether the group runs
// there, so that it is started nowhere else (the field's AutoDisabled). It ends when that is
// known, or with an administrator's word ([spot.vouched]).
func (w *work) tellUnknown(sp *spot) {
	why := ""
	switch {
	case sp.on == nil || sp.on.GetVouched():
		return
	case sp.on.GetDetached():
		why = w.detached(sp)
	case sp.fence != nil:
		why = fmt.Sprintf("%s was evicted and is not yet proven to have stopped", sp.node)
	case sp.member && !sp.on.GetProbed():
		why = w.notProbed(sp)
	case w.leftRunning(sp):
		why = w.leftRunningSentence(sp)
	}
	if why != sp.on.GetAutoDisabled() {
		w.placeChange(sp).AutoDisabled = why
	}
}

// inMaintenance: somebody works on the group there.
func (w *work) inMaintenance(sp *spot) bool {
	return sp.member && w.st.GetMaintenance() == sp.node
}

// mustWait says that something of the group waits for a person there; empty:
// nothing does. Nothing is ordered of it there before.
func (w *work) mustWait(sp *spot) string {
	switch {
	case !sp.member:
	case len(sp.waiting) > 0:
		r := w.res[sp.waiting[0]].name
		return fmt.Sprintf("%s on %s waits for an administrator (%s): holdfast resource clear-admin-wait %s --node %s",
			r, sp.node, adminWaits[w.status(sp, sp.waiting[0]).GetAdminWait()], r, sp.node)
	case len(sp.aborted) > 0:
		return fmt.Sprintf("taking %s offline on %s stopped half-way at %s: see to it, then holdfast group offline %s --node %s --force",
			w.g.GetName(), sp.node, w.res[sp.aborted[0]].name, w.g.GetName(), sp.node)
	}
	return ""
}

var adminWaits = map[v1.AdminWait]string{
	v1.AdminWait_ADMIN_WAIT_OFFLINE_HUNG:        "offline took too long",
	v1.AdminWait_ADMIN_WAIT_OFFLINE_INEFFECTIVE: "offline had no effect",
	v1.AdminWait_ADMIN_WAIT_ONLINE_HUNG:         "online took too long",
	v1.AdminWait_ADMIN_WAIT_ONLINE_INEFFECTIVE:  "online had no effect",
	v1.AdminWait_ADMIN_WAIT_UNEXPECTED_OFFLINE:  "it went offline by itself",
	v1.AdminWait_ADMIN_WAIT_MONITOR_HUNG:        "its monitor took too long",
}

// hold says why nothing is done with the instance by itself; empty: nothing keeps the planner from it.
func (w *work) hold() string {
	for _, sp := range w.spots {
		if w.inMaintenance(sp) {
			return fmt.Sprintf("%s is in maintenance on %s: faults are ignored and nothing is done by itself", w.g.GetName(), sp.node)
		}
	}
	return w.waitsForPerson()
}

// waitsForPerson says what of the instance waits for a person; empty: nothing does.
func (w *work) waitsForPerson() string {
	for _, sp := range w.spots {
		if why := w.mustWait(sp); why != "" {
			return why
		}
	}
	return ""
}
