package state

import (
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	pb "github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// Codes of refusals. They are stable; docs/codes.md lists them.
const (
	CodeStale    = "HF2001" // made from a state that is no longer current: look again and repeat
	CodeNotFound = "HF2002" // names something that does not exist
	CodeInvalid  = "HF2003" // could not be carried out on any state
	CodeConflict = "HF2004" // something else has to happen first
)

// Refused says why a command changed nothing.
type Refused struct {
	Code    string
	Message string
}

func (r *Refused) Error() string { return r.Message }

func refuse(code, format string, args ...any) *Refused {
	return &Refused{Code: code, Message: fmt.Sprintf(format, args...)}
}

// Outcome is what came of a command.
type Outcome struct {
	// Nil: it was applied.
	Refused *Refused
	// The view has changed: epoch, members, or a learner.
	ViewChanged bool
	// Number of the operation that was started.
	Operation uint64
}

// ConfChange says whether a command must stand in the context of a raft
// configuration change (S3), and never elsewhere.
func ConfChange(c *pb.Command) bool {
	switch c.GetChange().(type) {
	case *pb.Command_Evict, *pb.Command_Leave, *pb.Command_Join, *pb.Command_Promote, *pb.Command_SetPoints:
		return true
	}
	return false
}

// Apply carries out one command of the log on s. After a refusal s is as it
// was, but for the note that the request was seen.
func Apply(s *pb.State, c *pb.Command) Outcome {
	if seen(s, c) {
		return Outcome{}
	}
	a := applier{s: s, c: c}
	refused := a.change()
	if refused == nil {
		a.audited()
		a.advance()
		a.settleFences()
		fitGroupStatus(s)
		a.leaveRunning()
		a.fitTriggers()
	}
	a.out.Refused = refused
	return a.out
}

// seen remembers the request of a command and says whether it had been there.
func seen(s *pb.State, c *pb.Command) bool {
	if c.GetProposer() == "" || c.GetRequest() == 0 {
		return false
	}
	r := s.Requests[c.GetProposer()]
	if r == nil {
		r = &pb.Requests{}
		s.Requests[c.GetProposer()] = r
	}
	if slices.Contains(r.Applied, c.GetRequest()) {
		return true
	}
	r.Applied = append(r.Applied, c.GetRequest())
	if n := len(r.Applied) - keepRequests; n > 0 {
		r.Applied = slices.Delete(r.Applied, 0, n)
	}
	return false
}

type applier struct {
	s   *pb.State
	c   *pb.Command
	out Outcome
	// What was said is what was known: nothing that anybody would look for in the log of events.
	same bool
}

func (a *applier) change() *Refused {
	switch c := a.c.GetChange().(type) {
	case *pb.Command_Configure:
		return a.configure(c.Configure)
	case *pb.Command_GuardStarted:
		return a.guardStarted(c.GuardStarted)
	case *pb.Command_Evict:
		return a.evict(c.Evict)
	case *pb.Command_Stays:
		return a.stays(c.Stays)
	case *pb.Command_Leave:
		return a.leave(c.Leave)
	case *pb.Command_Join:
		return a.join(c.Join)
	case *pb.Command_Promote:
		return a.promote(c.Promote)
	case *pb.Command_Proven:
		return a.proven(c.Proven)
	case *pb.Command_Report:
		return a.report(c.Report)
	case *pb.Command_Plan:
		return a.plan(c.Plan)
	case *pb.Command_Operate:
		return a.operate(c.Operate)
	case *pb.Command_SetFrozen:
		return a.setFrozen(c.SetFrozen)
	case *pb.Command_Clear:
		return a.clear(c.Clear)
	case *pb.Command_Flush:
		return a.flush(c.Flush)
	case *pb.Command_Probe:
		return a.probe(c.Probe)
	case *pb.Command_AnnounceSilence:
		return a.announceSilence(c.AnnounceSilence)
	case *pb.Command_SilenceOver:
		return a.silenceOver(c.SilenceOver)
	case *pb.Command_TimersSettled:
		return a.timersSettled(c.TimersSettled)
	case *pb.Command_ClusterStarted:
		return a.clusterStarted(c.ClusterStarted)
	case *pb.Command_WantPoints:
		return a.wantPoints(c.WantPoints)
	case *pb.Command_Steady:
		return a.steady(c.Steady)
	case *pb.Command_SetPoints:
		return a.setPoints(c.SetPoints)
	case *pb.Command_FenceStarted:
		return a.fenceStarted(c.FenceStarted)
	case *pb.Command_FenceDone:
		return a.fenceDone(c.FenceDone)
	case *pb.Command_ConfirmDown:
		return a.confirmDown(c.ConfirmDown)
	case *pb.Command_TriggerDone:
		return a.triggerDone(c.TriggerDone)
	case *pb.Command_Notified:
		return a.notified(c.Notified)
	case *pb.Command_SetSignal:
		return a.setSignal(c.SetSignal)
	case *pb.Command_SetLoad:
		return a.setLoad(c.SetLoad)
	case *pb.Command_Enable:
		return a.enable(c.Enable)
	case *pb.Command_SetSwitching:
		return a.setSwitching(c.SetSwitching)
	case *pb.Command_ClearAdminWait:
		return a.clearAdminWait(c.ClearAdminWait)
	case *pb.Command_SetMaintenance:
		return a.setMaintenance(c.SetMaintenance)
	case *pb.Command_OperationDone:
		return a.operationDone(c.OperationDone)
	case *pb.Command_Note:
		for _, e := range c.Note.GetEvents() {
			a.event(e)
			if e.GetCode() == "node.jeopardy" {
				a.jeopardyTrigger(e.GetNode())
			}
		}
		return nil
	}
	return a.life()
}

// event numbers e and puts it into the log.
func (a *applier) event(e *v1.Event) {
	a.s.NextEvent++
	e.Number = a.s.NextEvent
	if e.TimeMs == 0 {
		e.TimeMs = a.c.GetTimeMs()
	}
	e.Epoch = a.s.GetView().GetEpoch()
	a.s.Events = keepLast(append(a.s.Events, e), keepEvents)
}

func (a *applier) nodeEvent(sev v1.Severity, code, node, format string, args ...any) {
	a.event(&v1.Event{Severity: sev, Code: code, Node: node, Message: fmt.Sprintf(format, args...)})
}

// planChanged: the planner may now decide differently.
func (a *applier) planChanged() { a.s.PlanRevision++ }

func keepLast[T any](s []T, n int) []T {
	if over := len(s) - n; over > n/4 { // in steps, so that not every entry moves all
		return slices.Delete(s, 0, over)
	}
	return s
}

// fitGroupStatus gives every group a status on every member of its system
// list, and takes away what belongs to nothing any more. A node that has been
// evicted but is not yet proven to have stopped keeps its place (S4).
func fitGroupStatus(s *pb.State) {
	for _, name := range SortedKeys(s.Groups) { // sorted, since new places are numbered
		g, gs := s.Groups[name], s.GroupStatus[name]
		if gs == nil {
			gs = &pb.GroupStatus{SwitchingOff: initialSwitching(g)}
			s.GroupStatus[name] = gs
		}
		if gs.Nodes == nil {
			gs.Nodes = map[string]*pb.GroupOnNode{}
		}
		for _, node := range g.GetSystemList() {
			if MemberOf(s, node) != nil && gs.Nodes[node] == nil {
				gs.Nodes[node] = newGroupOnNode(s)
			}
		}
	}
	for name, gs := range s.GroupStatus {
		g := s.Groups[name]
		if g == nil {
			delete(s.GroupStatus, name)
			continue
		}
		for node, on := range gs.Nodes {
			if MemberOf(s, node) == nil && s.NodeStatus[node].GetFence() == nil {
				delete(gs.Nodes, node)
				continue
			}
			on.Disabled = disabledOn(g, gs, node)
			fitResources(g, on)
		}
		for node := range gs.Disabled {
			if !contains(g.GetSystemList(), node) {
				delete(gs.Disabled, node)
			}
		}
	}
}

// disabledOn: why a group may not run on a node; empty: it may.
func disabledOn(g *v1.Group, gs *pb.GroupStatus, node string) string {
	if why := gs.GetDisabled()[node]; why != "" {
		return why
	}
	if contains(g.GetDisabledNodes(), node) {
		return byConfiguration
	}
	return ""
}

func newGroupOnNode(s *pb.State) *pb.GroupOnNode {
	s.NextIntent++
	return &pb.GroupOnNode{Want: v1.Want_WANT_NOTHING, Intent: s.NextIntent}
}

// fitResources forgets resources that are gone and sees whether all have been probed.
func fitResources(g *v1.Group, on *pb.GroupOnNode) {
	probed := true
	known := map[string]bool{}
	for _, r := range g.GetResources() {
		known[r.GetName()] = true
		st := on.GetResources()[r.GetName()].GetState()
		if Enabled(r) && (st == v1.ResourceState_RESOURCE_STATE_UNSPECIFIED || st == v1.ResourceState_RESOURCE_STATE_UNKNOWN) {
			probed = false
		}
	}
	for name := range on.Resources {
		if !known[name] {
			delete(on.Resources, name)
		}
	}
	for name := range on.ResourceWants {
		if !known[name] {
			delete(on.ResourceWants, name)
		}
	}
	on.Probed = (on.Probed || probed) && !on.Detached // what was left running has to be looked at again
}

func maxDuration(a *durationpb.Duration, b time.Duration) *durationpb.Duration {
	return durationpb.New(max(a.AsDuration(), b))
}
