package api

import (
	"slices"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// This file says how groups are in the words of Serviceguard (the table stands
// in docs/explain.md). A configuration is changed by one committed entry, so
// that nothing is ever reconfiguring.

// packageOn is a package on one node.
func (l *look) packageOn(g *v1.Group, node string, info *v1.GroupOnNodeInfo) v1.PackageState {
	gs := l.GetGroupStatus()[g.GetName()]
	on := gs.GetNodes()[node]
	b := state.Book(gs, state.InstanceAt(g, node))
	failing := info.GetFaulted() || b.GetGivesWayTo() != "" || hasFault(on)
	switch s := info.GetState(); {
	case on.GetDetached():
		return v1.PackageState_PACKAGE_STATE_DETACHED
	case gs.GetMaintenance() == node && active(s):
		return v1.PackageState_PACKAGE_STATE_MAINTENANCE
	case haltAborted(on):
		return v1.PackageState_PACKAGE_STATE_HALT_ABORTED
	case s == v1.GroupState_GROUP_STATE_UNKNOWN:
		return v1.PackageState_PACKAGE_STATE_UNKNOWN
	case s == v1.GroupState_GROUP_STATE_STARTING:
		return v1.PackageState_PACKAGE_STATE_STARTING
	case s == v1.GroupState_GROUP_STATE_STOPPING && failing:
		return v1.PackageState_PACKAGE_STATE_FAILING
	case s == v1.GroupState_GROUP_STATE_STOPPING:
		return v1.PackageState_PACKAGE_STATE_HALTING
	case active(s) && l.waitsToHalt(g) && failing:
		return v1.PackageState_PACKAGE_STATE_FAIL_WAIT
	case active(s) && l.waitsToHalt(g):
		return v1.PackageState_PACKAGE_STATE_HALT_WAIT
	case active(s):
		return v1.PackageState_PACKAGE_STATE_RUNNING
	case s == v1.GroupState_GROUP_STATE_FAULTED:
		return v1.PackageState_PACKAGE_STATE_FAILED
	case g.GetParallel() && state.MemberOf(l.State, node) != nil && !b.GetHeldOffline() && b.GetLastOnline() == "":
		return v1.PackageState_PACKAGE_STATE_BLOCKED
	}
	return v1.PackageState_PACKAGE_STATE_HALTED
}

func hasFault(on *statepb.GroupOnNode) bool {
	for _, st := range on.GetResources() {
		if st.GetState() == v1.ResourceState_RESOURCE_STATE_FAULTED {
			return true
		}
	}
	return false
}

func haltAborted(on *statepb.GroupOnNode) bool {
	for _, st := range on.GetResources() {
		if st.GetUnableToOffline() || st.GetVerdict() == v1.Verdict_VERDICT_HALT_ABORTED {
			return true
		}
	}
	return false
}

// waitsToHalt: the group is to go offline, and groups that depend on it are still active.
func (l *look) waitsToHalt(g *v1.Group) bool {
	for _, op := range l.GetOperations() {
		if op.GetState() == v1.OperationState_OPERATION_STATE_RUNNING && op.GetGroup() == g.GetName() &&
			(op.GetKind() == v1.OperationKind_OPERATION_KIND_GROUP_OFFLINE || op.GetKind() == v1.OperationKind_OPERATION_KIND_GROUP_SWITCH) {
			return len(l.activeDependents(g.GetName())) > 0
		}
	}
	return false
}

// packageOfInstance is one instance of a package: as on the node that has it,
// else what it is waiting for.
func (l *look) packageOfInstance(g *v1.Group, b *statepb.Instance, i *v1.InstanceInfo, nodes []*v1.GroupOnNodeInfo) v1.PackageState {
	failed := false
	for _, on := range nodes {
		if on.GetNode() == i.GetNode() {
			return on.GetPackageState()
		}
		if !slices.Contains(i.GetNodes(), on.GetNode()) {
			continue
		}
		switch on.GetPackageState() {
		case v1.PackageState_PACKAGE_STATE_HALT_ABORTED, v1.PackageState_PACKAGE_STATE_UNKNOWN:
			return on.GetPackageState()
		case v1.PackageState_PACKAGE_STATE_FAILED:
			failed = true
		}
	}
	switch {
	case b.GetHeldOffline(), several(g) && !l.anyMember(i.GetNodes()):
		return v1.PackageState_PACKAGE_STATE_HALTED
	case b.GetNoTarget(), l.switchedOff(g) && (failed || b.GetCause() != ""):
		return v1.PackageState_PACKAGE_STATE_FAILED
	case b.GetIntentOnline() && (failed || b.GetCause() != ""):
		return v1.PackageState_PACKAGE_STATE_RELOCATE_WAIT
	case b.GetIntentOnline() || b.GetOperation() != 0:
		return v1.PackageState_PACKAGE_STATE_START_WAIT
	case failed:
		return v1.PackageState_PACKAGE_STATE_FAILED
	case g.GetParallel() && b.GetLastOnline() == "" && l.anyMember(i.GetNodes()):
		return v1.PackageState_PACKAGE_STATE_BLOCKED
	}
	return v1.PackageState_PACKAGE_STATE_HALTED
}

// switchedOff: it does not look for a place by itself.
func (l *look) switchedOff(g *v1.Group) bool {
	_, on := state.Switches(l.GetGroupStatus()[g.GetName()])
	return !on
}

// packageOf is a package over all of its instances: their state, or changing
// when they differ.
func (l *look) packageOf(g *v1.Group, info *v1.GroupInfo) v1.PackageState {
	var of v1.PackageState
	for _, i := range info.GetInstances() {
		switch s := i.GetPackageState(); {
		case several(g) && !l.anyMember(i.GetNodes()) && s == v1.PackageState_PACKAGE_STATE_HALTED:
			// Its node is down: that is no difference.
		case of == 0:
			of = s
		case of != s:
			return v1.PackageState_PACKAGE_STATE_CHANGING
		}
	}
	if of == 0 {
		return v1.PackageState_PACKAGE_STATE_HALTED
	}
	return of
}
