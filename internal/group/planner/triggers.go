package planner

import (
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// Triggers that the planner has run. Those about transitions of resources and
// nodes are added where these are applied (package state), since the planner sees no transitions.

const (
	preOnline   = "preonline"
	preOffline  = "preoffline"
	preSwitch   = "preswitch"
	postOnline  = "postonline"
	postOffline = "postoffline"
	noFailover  = "nofailover"
	violation   = "violation"
	loadWarning = "loadwarning"
)

// tellTimeout is how long a trigger may run that nobody waits for.
const tellTimeout = 5 * time.Minute

func (gr *group) enables(trigger string) bool {
	return slices.Contains(gr.g.GetTriggersEnabled(), trigger)
}

// tell runs a trigger that nobody waits for.
func (gr *group) tell(trigger, node string, facts map[string]string) {
	if node == "" || !gr.enables(trigger) {
		return
	}
	gr.plan.Triggers = append(gr.plan.Triggers, &statepb.TriggerRun{
		Trigger: trigger, Node: node, Group: gr.g.GetName(), Facts: facts,
		Program: state.TriggerProgram(gr.s, gr.g, trigger), Timeout: durationpb.New(tellTimeout), ClockMs: gr.nowMs,
	})
}

// lowest is the member that runs what any member can run.
func (p *pass) lowest() string {
	for _, m := range p.s.GetView().GetMembers() {
		if p.s.GetNodeStatus()[m.GetNode()].GetPhase() == statepb.NodePhase_NODE_PHASE_RUNNING {
			return m.GetNode()
		}
	}
	return ""
}

// timeout of a trigger that is waited for.
func (gr *group) timeout(trigger string) *durationpb.Duration {
	own, unset := gr.g.GetPreOnlineTimeout(), gr.unset.group.GetPreOnlineTimeout()
	switch trigger {
	case preOffline:
		own, unset = gr.g.GetPreOfflineTimeout(), gr.unset.group.GetPreOfflineTimeout()
	case preSwitch:
		own, unset = gr.g.GetPreSwitchTimeout(), gr.unset.group.GetPreSwitchTimeout()
	}
	if own != nil {
		return own
	}
	return unset
}

// A gate is how a trigger stands that is run before something is done.
type gate struct {
	// What is waited for; empty: it is over.
	waits string
	// It ended well.
	passed bool
	// How it ended, if not well.
	why string
}

// before runs a trigger on a node and waits for its end or its time-out. It is called in
// each pass until then, and a run of which it is not called any more is forgotten ([work.forgetRun]): what it was run for is not due any more.
func (w *work) before(trigger, node string, facts map[string]string) gate {
	if !w.enables(trigger) {
		return gate{passed: true}
	}
	w.gated = true
	waits := fmt.Sprintf("%s of %s runs on %s", trigger, w.g.GetName(), node)
	run := w.run
	if run.GetTrigger() != trigger || run.GetNode() != node {
		if w.newRun == 0 {
			w.dropRun()
			w.plan.Triggers = append(w.plan.Triggers, &statepb.TriggerRun{
				Trigger: trigger, Node: node, Group: w.g.GetName(), Facts: facts, Blocking: true,
				Program: state.TriggerProgram(w.s, w.g, trigger), Timeout: w.timeout(trigger), ClockMs: w.nowMs,
			})
			w.newRun = uint32(len(w.plan.Triggers))
		}
		return gate{waits: waits}
	}
	if !run.GetEnded() {
		if !w.due(run.GetClockMs() + w.timeout(trigger).AsDuration().Milliseconds()) {
			return gate{waits: waits}
		}
		w.dropRun()
		return gate{why: fmt.Sprintf("%s of %s took too long on %s", trigger, w.g.GetName(), node)}
	}
	w.dropRun()
	if run.GetExitStatus() == 0 {
		return gate{passed: true}
	}
	return gate{why: fmt.Sprintf("%s of %s failed on %s (exit status %d): %s", trigger, w.g.GetName(), node, run.GetExitStatus(), run.GetMessage())}
}

// dropRun: the run that was waited for is over.
func (w *work) dropRun() {
	if w.book.GetTrigger() != 0 {
		w.plan.TriggersSeen = append(w.plan.TriggersSeen, w.book.GetTrigger())
	}
	w.book.Trigger, w.run = 0, nil
}

// forgetRun: nobody has asked in this pass for the trigger that was waited for.
func (w *work) forgetRun() {
	if !w.gated && w.book.GetTrigger() != 0 {
		w.dropRun()
	}
}

// bound: preonline runs there, and then the instance is brought online there.
func (w *work) bound(sp *spot) bool {
	return w.run.GetTrigger() == preOnline && w.run.GetNode() == sp.node
}

// mayGoOff says whether preoffline is over, so that the instance can be taken offline there.
func (w *work) mayGoOff(sp *spot, why string) bool {
	if !sp.member {
		return true
	}
	if g := w.before(preOffline, sp.node, map[string]string{state.FactWhy: why}); g.waits != "" {
		w.book.Waiting = g.waits
		return false
	}
	return true
}

// wentOff runs postoffline where the instance has gone offline.
func (w *work) wentOff() {
	w.book.GoingOff = slices.DeleteFunc(w.book.GoingOff, func(n string) bool {
		sp := w.spot(n)
		if sp == nil || !sp.member || sp.want() != wantOffline {
			return true
		}
		if sp.runs() || !sp.confirmed() {
			return false
		}
		w.tell(postOffline, n, nil)
		return true
	})
}

// violated tells of something that runs where it must not.
func (w *work) violated(sp *spot, why string) {
	w.event(v1.Severity_SEVERITY_CRITICAL, "group.violation", sp.node, why)
	w.tell(violation, sp.node, nil)
}
