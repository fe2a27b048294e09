package state

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	pb "github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// Triggers about transitions of resources and nodes. The planner decides all
// others; it sees states, and not how they came about.

// transitionTimeout is how long a trigger about a transition may run.
const transitionTimeout = 5 * time.Minute

// resourceTriggers of a change of a resource's status on a node.
func (a *applier) resourceTriggers(node string, g *v1.Group, resource string, was, is *v1.ResourceStatus) {
	run := func(trigger string, facts map[string]string) {
		if enablesTrigger(g, resource, trigger) {
			a.addTriggers([]*pb.TriggerRun{{Trigger: trigger, Node: node, Group: g.GetName(), Resource: resource, Facts: facts,
				Program: TriggerProgram(a.s, g, trigger), Timeout: durationpb.New(transitionTimeout)}})
		}
	}
	before, now := stateWord(was.GetState()), stateWord(is.GetState())
	if before != now {
		run("resstatechange", map[string]string{FactWas: before, FactIs: now})
		if is.GetState() == v1.ResourceState_RESOURCE_STATE_FAULTED {
			run("resfault", map[string]string{FactWas: before})
		}
	}
	if is.GetUnableToOffline() && !was.GetUnableToOffline() {
		run("resnotoff", nil)
	}
	if is.GetRestarts() > was.GetRestarts() {
		run("resrestart", map[string]string{FactRestarts: strconv.FormatUint(uint64(is.GetRestarts()), 10)})
	}
	if w := is.GetAdminWait(); w != v1.AdminWait_ADMIN_WAIT_UNSPECIFIED && w != was.GetAdminWait() {
		run("resadminwait", map[string]string{FactReason: strconv.Itoa(int(w) - 1)})
	}
}

// enablesTrigger: the group, or the resource for itself, has the trigger run.
func enablesTrigger(g *v1.Group, resource, trigger string) bool {
	if slices.Contains(g.GetTriggersEnabled(), trigger) {
		return true
	}
	for _, r := range g.GetResources() {
		if r.GetName() == resource {
			return slices.Contains(r.GetTriggersEnabled(), trigger)
		}
	}
	return false
}

// stateWord is a state as trigger programs know it; what was never monitored is UNKNOWN.
func stateWord(st v1.ResourceState) string {
	if st == v1.ResourceState_RESOURCE_STATE_UNSPECIFIED {
		st = v1.ResourceState_RESOURCE_STATE_UNKNOWN
	}
	return strings.TrimPrefix(st.String(), "RESOURCE_STATE_")
}

// nodeTrigger tells that a node has joined or left, on the first member that stays.
func (a *applier) nodeTrigger(trigger, node, nodeState string) {
	heir := a.heir()
	if heir == nil || !slices.Contains(a.s.GetCluster().GetTriggersEnabled(), trigger) {
		return
	}
	a.addTriggers([]*pb.TriggerRun{{Trigger: trigger, Node: heir.GetNode(), Facts: map[string]string{FactSystem: node, FactState: nodeState},
		Program: TriggerProgram(a.s, nil, trigger), Timeout: durationpb.New(transitionTimeout)}})
}

// jeopardyTrigger tells on a node that it reaches some other over its last link.
func (a *applier) jeopardyTrigger(node string) {
	if MemberOf(a.s, node) == nil || !slices.Contains(a.s.GetCluster().GetTriggersEnabled(), "injeopardy") {
		return
	}
	a.addTriggers([]*pb.TriggerRun{{Trigger: "injeopardy", Node: node, Facts: map[string]string{FactState: "RUNNING"},
		Program: TriggerProgram(a.s, nil, "injeopardy"), Timeout: durationpb.New(transitionTimeout)}})
}
