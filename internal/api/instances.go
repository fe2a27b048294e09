package api

import (
	"cmp"
	"slices"
	"strconv"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
)

// This file sums up groups by their instances: a failover group has one, a
// parallel one has one for each node, a hybrid one has one for each zone.

func kindOf(g *v1.Group) v1.GroupKind {
	switch {
	case g.GetHybrid():
		return v1.GroupKind_GROUP_KIND_HYBRID
	case g.GetParallel():
		return v1.GroupKind_GROUP_KIND_PARALLEL
	}
	return v1.GroupKind_GROUP_KIND_FAILOVER
}

// several: the group may run on more than one node.
func several(g *v1.Group) bool { return g.GetParallel() || g.GetHybrid() }

// instanceKeys of a group in the order of its places; zones by their number.
func (l *look) instanceKeys(g *v1.Group) (keys []string) {
	for _, n := range l.placesOf(g) {
		if k := state.InstanceAt(g, n); !slices.Contains(keys, k) {
			keys = append(keys, k)
		}
	}
	if len(keys) == 0 && !several(g) {
		keys = []string{""}
	}
	if g.GetHybrid() {
		slices.SortFunc(keys, func(a, b string) int {
			x, _ := strconv.ParseUint(a, 10, 32) // written by state.InstanceAt
			y, _ := strconv.ParseUint(b, 10, 32)
			return cmp.Compare(x, y)
		})
	}
	return keys
}

// nodeOf an instance that can be on one node only; else "".
func nodeOf(g *v1.Group, key string) string {
	if g.GetParallel() && !g.GetHybrid() {
		return key
	}
	return ""
}

// instanceFlag names an instance on a command line.
func (l *look) instanceFlag(g *v1.Group, key string) string {
	switch {
	case g.GetHybrid():
		for _, n := range l.placesOf(g) {
			if state.InstanceAt(g, n) == key {
				return " --node " + n
			}
		}
	case g.GetParallel():
		return " --node " + key
	}
	return ""
}

// label names a group, or an instance of several.
func label(g *v1.GroupInfo, i *v1.InstanceInfo) string {
	switch g.GetKind() {
	case v1.GroupKind_GROUP_KIND_HYBRID:
		return "zone " + i.GetInstance() + " of group " + g.GetName()
	case v1.GroupKind_GROUP_KIND_PARALLEL:
		return "instance " + i.GetInstance() + " of group " + g.GetName()
	}
	return "group " + g.GetName()
}

func (l *look) groupInfo(g *v1.Group) *v1.GroupInfo {
	gs := l.GetGroupStatus()[g.GetName()]
	info := &v1.GroupInfo{
		Name: g.GetName(), Frozen: g.GetFrozen() || gs.GetFreeze() != nil, HeldOffline: state.HeldOffline(gs), Kind: kindOf(g), Holds: l.groupHolds(g),
	}
	for _, n := range l.placesOf(g) {
		on := l.groupOnNode(g, n)
		info.Nodes = append(info.Nodes, on)
		info.Holds = append(info.Holds, on.GetHolds()...)
		if active(on.GetState()) || on.GetDetached() {
			info.ActiveOn = append(info.ActiveOn, n)
		}
	}
	for _, key := range l.instanceKeys(g) {
		info.Instances = append(info.Instances, l.instanceInfo(g, key, info.Nodes))
	}
	l.overall(g, info)
	info.PackageState = l.packageOf(g, info)
	return info
}

// overall is what there is to say of a group over all of its instances.
func (l *look) overall(g *v1.Group, info *v1.GroupInfo) {
	if !several(g) {
		i := info.GetInstances()[0]
		info.State, info.Node, info.LastOnline, info.Operation, info.Message = i.GetState(), i.GetNode(), i.GetLastOnline(), i.GetOperation(), i.GetMessage()
		return
	}
	count := map[v1.GroupState]int{}
	could := 0
	for _, i := range info.GetInstances() {
		count[i.GetState()]++
		if active(i.GetState()) || l.anyMember(i.GetNodes()) && !i.GetHeldOffline() {
			could++
		}
		if info.Operation == 0 {
			info.Operation = i.GetOperation()
		}
		if info.Message == "" && i.GetMessage() != "" && (active(i.GetState()) || l.anyMember(i.GetNodes())) {
			info.Message = label(info, i) + ": " + i.GetMessage()
		}
	}
	online, partial := count[v1.GroupState_GROUP_STATE_ONLINE], count[v1.GroupState_GROUP_STATE_PARTIAL]
	switch {
	case online > 0 && online >= could:
		info.State = v1.GroupState_GROUP_STATE_ONLINE
	case count[v1.GroupState_GROUP_STATE_STARTING] > 0:
		info.State = v1.GroupState_GROUP_STATE_STARTING
	case count[v1.GroupState_GROUP_STATE_STOPPING] > 0:
		info.State = v1.GroupState_GROUP_STATE_STOPPING
	case online+partial > 0:
		info.State = v1.GroupState_GROUP_STATE_PARTIAL
	case count[v1.GroupState_GROUP_STATE_FAULTED] > 0:
		info.State = v1.GroupState_GROUP_STATE_FAULTED
	case count[v1.GroupState_GROUP_STATE_UNKNOWN] > 0:
		info.State = v1.GroupState_GROUP_STATE_UNKNOWN
	default:
		info.State = v1.GroupState_GROUP_STATE_OFFLINE
	}
	if len(info.GetActiveOn()) == 1 {
		info.Node = info.GetActiveOn()[0]
	}
}

func (l *look) anyMember(nodes []string) bool {
	return slices.ContainsFunc(nodes, func(n string) bool { return state.MemberOf(l.State, n) != nil })
}

func (l *look) instanceInfo(g *v1.Group, key string, nodes []*v1.GroupOnNodeInfo) *v1.InstanceInfo {
	b := state.Book(l.GetGroupStatus()[g.GetName()], key)
	i := &v1.InstanceInfo{
		Instance: key, State: v1.GroupState_GROUP_STATE_OFFLINE, HeldOffline: b.GetHeldOffline(), LastOnline: b.GetLastOnline(),
		Operation: b.GetOperation(), Message: b.GetWaiting(), Cause: b.GetCause(), FailedOver: b.GetFailedOver(),
	}
	for _, on := range nodes {
		n := on.GetNode()
		if state.InstanceAt(g, n) != key {
			continue
		}
		i.Nodes = append(i.Nodes, n)
		// The node that matters most: where it runs, else where it failed, else where it is not known.
		if rank(on.GetState()) > rank(i.State) || rank(on.GetState()) == rank(i.State) && n == b.GetActive() {
			i.State, i.Node = on.GetState(), n
			if !active(on.GetState()) && !on.GetDetached() {
				i.Node = ""
			}
		}
		if i.Message == "" && on.GetMessage() != "" && !(active(i.State) && on.GetFaulted()) {
			i.Message = on.GetMessage()
			if nodeOf(g, key) == "" {
				i.Message += " (on " + n + ")"
			}
		}
	}
	if held := l.held(g.GetName(), i.GetNode()); i.Message == "" && i.State == v1.GroupState_GROUP_STATE_PARTIAL && held != "" {
		i.Message = "an administrator took " + held + " offline"
	}
	switch {
	case i.Message != "" || active(i.State):
	case nodeOf(g, key) != "" && !l.anyMember(i.Nodes):
		i.Message = key + " is not in the cluster"
	case b.GetIntentOnline() && l.anyMember(i.Nodes):
		i.Message = "it should be online"
	}
	i.PackageState = l.packageOfInstance(g, b, i, nodes)
	return i
}

// dependents of a group that are active now.
func (l *look) activeDependents(name string) (out []string) {
	for _, up := range neighbours(l.GetGroups(), name, false, true) {
		for _, n := range l.placesOf(l.GetGroups()[up]) {
			if active(l.stateOn(l.GetGroups()[up], n)) && !slices.Contains(out, up) {
				out = append(out, up)
			}
		}
	}
	return out
}
