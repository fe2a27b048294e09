package planner

import (
	"slices"

	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

const (
	running = v1.OperationState_OPERATION_STATE_RUNNING
	done    = v1.OperationState_OPERATION_STATE_DONE
	failed  = v1.OperationState_OPERATION_STATE_FAILED
)

// write puts what was decided of the instance into the plan.
func (w *work) write() {
	nodes := make([]string, 0, len(w.spots))
	for _, sp := range w.spots {
		nodes = append(nodes, sp.node)
		if sp.order != nil {
			w.plan.Orders = append(w.plan.Orders, sp.order)
		}
		if sp.place != nil {
			w.plan.Places = append(w.plan.Places, sp.place)
		}
	}
	if w.newRun == 0 && proto.Equal(w.book, state.Book(w.st, w.instance)) && slices.Equal(w.faulted, w.wereFaulted()) {
		return
	}
	w.plan.GroupChanges = append(w.plan.GroupChanges, &statepb.GroupChange{
		Group: w.g.GetName(), Instance: w.instance, Book: w.book, Faulted: w.faulted, Nodes: nodes, NewTrigger: w.newRun,
	})
}

// tidy takes notebooks of instances out that have no nodes any more.
func (gr *group) tidy() {
	for _, key := range state.SortedKeys(gr.st.GetInstances()) {
		if !slices.ContainsFunc(gr.instances, func(w *work) bool { return w.instance == key }) {
			gr.plan.GroupChanges = append(gr.plan.GroupChanges, &statepb.GroupChange{Group: gr.g.GetName(), Instance: key})
		}
	}
}

// hasMember: one of the nodes of the instance is a member.
func (w *work) hasMember() bool {
	return slices.ContainsFunc(w.spots, func(sp *spot) bool { return sp.member })
}

// wereFaulted are the nodes on which the group was faulted before this pass, sorted.
func (w *work) wereFaulted() (nodes []string) {
	for _, sp := range w.spots {
		if sp.on.GetFaulted() {
			nodes = append(nodes, sp.node)
		}
	}
	slices.Sort(nodes)
	return nodes
}

// order replaces what is wanted of the group on a node. A later order of the
// same pass replaces an earlier one.
func (w *work) order(sp *spot, want v1.Want, wants map[string]v1.Want, held []string) {
	sp.order = &statepb.Order{Group: w.g.GetName(), Node: sp.node, Want: want, ResourceWants: wants, HeldResources: held}
}

// decided writes down a decision; reasons are full sentences, the deciding one first.
func (gr *group) decided(action, node string, rejections []*v1.Rejection, reasons ...string) {
	gr.plan.Decisions = append(gr.plan.Decisions, &v1.Decision{
		TimeMs:     gr.env.NowMs,
		Epoch:      gr.s.GetView().GetEpoch(),
		Group:      gr.g.GetName(),
		Action:     action,
		Node:       node,
		Reasons:    slices.DeleteFunc(reasons, func(r string) bool { return r == "" }),
		Rejections: rejections,
	})
	gr.decision = uint64(len(gr.plan.Decisions))
}

// event tells the world, in connection with the group's latest decision of this plan.
func (gr *group) event(sev v1.Severity, code, node, message string) {
	gr.plan.Events = append(gr.plan.Events, &v1.Event{
		TimeMs: gr.env.NowMs, Severity: sev, Code: code, Group: gr.g.GetName(), Node: node, Message: message, Decision: gr.decision,
	})
}

// endOperation, with the state running, only tells how far it is.
func (p *pass) endOperation(op *v1.Operation, st v1.OperationState, message string) {
	if st == running && op.GetMessage() == message {
		return
	}
	p.plan.Operations = append(p.plan.Operations, &statepb.OperationChange{Id: op.GetId(), State: st, Message: message})
}

// end ends the instance's part of the operation. The operation itself ends
// with the last of its parts ([group.endOperations]).
func (w *work) end(st v1.OperationState, message string) {
	w.op, w.book.Outcome, w.book.OutcomeFailed = nil, message, st == failed
}

// progress says what the operation waits for.
func (w *work) progress(message string) { w.awaits = message }

// bring orders the instance online on a node. The caller has seen to P2.
func (w *work) bring(sp *spot, rejections []*v1.Rejection, reasons ...string) {
	wants, held := w.exceptions(sp, w.notStarted(sp))
	w.order(sp, wantOnline, wants, held)
	w.ledger.enter(w, sp)
	w.decided("online "+w.g.GetName()+" on "+sp.node, sp.node, rejections, reasons...)
	b := w.book
	b.IntentOnline, b.AutoStarted, b.HeldOffline = true, true, false
	b.Active, b.Online, b.Waiting, b.WaitsForNode, b.NoTarget = sp.node, false, w.hindrance(sp), "", false
	b.Parting, b.PartingMs = "", 0
	b.BoundFor, b.GivesWayTo, b.WaitsSinceMs, b.PlacedMs = "", "", 0, w.nowMs
}

// takeOff orders the instance offline on a node, whatever for; preoffline, where it
// is due, has been run ([work.mayGoOff]). Groups that require it there leave first. What happens then is in the notebook.
func (w *work) takeOff(sp *spot, reasons ...string) {
	if w.part(sp, reasons) {
		return
	}
	w.goOff(sp, reasons...)
	if sp.node == w.book.Active {
		w.book.Active, w.book.Online = "", false
	}
}

// goOff is the only place where an instance is ordered offline.
func (w *work) goOff(sp *spot, reasons ...string) {
	if (sp.runs() || w.book.GetOnline() && w.book.GetActive() == sp.node) && w.enables(postOffline) {
		w.book.GoingOff = add(w.book.GoingOff, sp.node)
	}
	w.order(sp, wantOffline, nil, nil)
	w.ledger.changed(sp)
	w.decided("offline "+w.g.GetName()+" on "+sp.node, sp.node, nil, reasons...)
}
