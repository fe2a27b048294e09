package api

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
	"github.com/holdfast-ha/holdfast/internal/protoyaml"
)

// This file sums up the applied state: what is of each node, group and resource.

func sortedValues[V any](m map[string]V) []V {
	var out []V
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, m[k])
	}
	return out
}

func (l *look) peer(node string) *guardpb.PeerState {
	for _, p := range l.local.Peers.GetPeers() {
		if p.GetNode() == node {
			return p
		}
	}
	return nil
}

// linkState of guard and of the API have the same numbers; a test holds that.
func linkState(s guardpb.LinkState) v1.LinkState { return v1.LinkState(s) }

func (l *look) nodeInfo(n *v1.Node) *v1.NodeInfo {
	name := n.GetName()
	st := l.GetNodeStatus()[name]
	info := &v1.NodeInfo{
		Name: name, Phase: v1.NodePhase(st.GetPhase()), Leader: l.local.Leader == name, Frozen: n.GetFrozen() || st.GetFreeze() != nil,
		Silence: st.GetSilence() != nil, Links: n.GetLinks(), Self: l.local.Node == name,
		Holds: l.nodeHolds(n), Load: l.loadOf(n), Site: n.GetSite(), Detaching: st.GetDetach(), Reset_: st.GetReset_(),
	}
	if m := state.MemberOf(l.State, name); m != nil {
		info.RaftId, info.GuardIncarnation = m.GetRaftId(), m.GetGuardIncarnation()
	} else if m := l.GetLearners()[name]; m != nil {
		info.RaftId, info.GuardIncarnation = m.GetRaftId(), m.GetGuardIncarnation()
	}
	if f := st.GetFence(); f != nil {
		info.WaitingForProof = "its groups are not started elsewhere before it is proven that it has stopped: its guard says so, or " +
			protoyaml.Duration(f.GetWait().AsDuration()) + " have passed since its eviction"
		if wait := state.Unproven(l.State, name); len(wait) > 0 {
			info.WaitingForProof = name + " is not proven to be off, for which " + strings.Join(wait, ", ") + " must wait (holdfast explain group " + wait[0] + ")"
		}
	}
	for range n.GetLinks() {
		info.LinkStates = append(info.LinkStates, v1.LinkState_LINK_STATE_UNSPECIFIED)
	}
	if p := l.peer(name); p != nil {
		info.LinkState, info.EngineDown, info.Suspected = linkState(p.GetState()), p.GetEngineDown(), p.GetSuspected()
		for i, s := range p.GetLinks() {
			if i < len(info.LinkStates) {
				info.LinkStates[i] = linkState(s)
			}
		}
	}
	if info.Self {
		info.LinkState = v1.LinkState_LINK_STATE_UP
		for i := range info.LinkStates {
			info.LinkStates[i] = v1.LinkState_LINK_STATE_UP
		}
	}
	for _, g := range sortedValues(l.GetGroups()) {
		if on := l.GetGroupStatus()[g.GetName()].GetNodes()[name]; on != nil && (active(l.stateOn(g, name)) || on.GetDetached()) {
			info.Groups = append(info.Groups, g.GetName())
		}
	}
	return info
}

func (l *look) nodeInfos() (out []*v1.NodeInfo) {
	for _, n := range sortedValues(l.GetNodes()) {
		out = append(out, l.nodeInfo(n))
	}
	return out
}

// active says that something of a group runs, or is about to.
func active(s v1.GroupState) bool {
	switch s {
	case v1.GroupState_GROUP_STATE_ONLINE, v1.GroupState_GROUP_STATE_PARTIAL, v1.GroupState_GROUP_STATE_STARTING, v1.GroupState_GROUP_STATE_STOPPING:
		return true
	}
	return false
}

func (l *look) operations(r *v1.Resource) v1.Operations {
	return l.GetTypes()[r.GetType()].GetOperations()
}

// counts says whether a resource makes its group online: persistent ones and
// those that only start do not.
func (l *look) counts(r *v1.Resource) bool {
	op := l.operations(r)
	return state.Enabled(r) && op != v1.Operations_OPERATIONS_NONE && op != v1.Operations_OPERATIONS_ON_ONLY
}

func online(st *v1.ResourceStatus) bool {
	return st.GetState() == v1.ResourceState_RESOURCE_STATE_ONLINE
}

// wantOf a resource on a node: its own, else its group's.
func wantOf(on *statepb.GroupOnNode, name string) v1.Want {
	if w := on.GetResourceWants()[name]; w != v1.Want_WANT_UNSPECIFIED {
		return w
	}
	if slices.Contains(on.GetHeldResources(), name) && on.GetWant() == v1.Want_WANT_ONLINE {
		return v1.Want_WANT_OFFLINE
	}
	return on.GetWant()
}

func (l *look) groupOnNode(g *v1.Group, node string) *v1.GroupOnNodeInfo {
	info := l.countOn(g, node)
	info.Holds = l.holdsOn(g, node)
	info.PackageState = l.packageOn(g, node, info)
	if z, ok := g.GetSystemZones()[node]; ok {
		info.Zone = &z
	}
	return info
}

// stateOn is the state of a group on a node.
func (l *look) stateOn(g *v1.Group, node string) v1.GroupState { return l.countOn(g, node).GetState() }

// countOn is a group on a node by the states of its resources.
func (l *look) countOn(g *v1.Group, node string) *v1.GroupOnNodeInfo {
	on := l.GetGroupStatus()[g.GetName()].GetNodes()[node]
	info := &v1.GroupOnNodeInfo{Node: node, Want: on.GetWant(), Faulted: on.GetFaulted(), Probed: on.GetProbed(), Detached: on.GetDetached()}
	var missing, problems []string
	for _, r := range g.GetResources() {
		st := on.GetResources()[r.GetName()]
		if problem := problemOf(st); problem != "" && state.Enabled(r) {
			problems = append(problems, r.GetName()+" "+problem)
		}
		if !l.counts(r) {
			continue
		}
		info.Total++
		switch {
		case online(st):
			info.Online++
			if c := st.GetConfidence(); c > 0 && (info.Confidence == 0 || c < info.Confidence) {
				info.Confidence = c
			}
		case wantOf(on, r.GetName()) == v1.Want_WANT_ONLINE:
			missing = append(missing, r.GetName())
		}
	}
	info.Message = strings.Join(problems, "; ")
	switch phase := l.GetNodeStatus()[node].GetPhase(); {
	case on.GetDetached():
		info.State, info.Message = v1.GroupState_GROUP_STATE_UNKNOWN, detachedText(node)
		return info
	case on.GetAutoDisabled() != "":
		info.State, info.Message = v1.GroupState_GROUP_STATE_UNKNOWN, on.GetAutoDisabled()
		return info
	case l.GetNodeStatus()[node].GetFence() != nil && (on != nil || l.GetNodeStatus()[node].GetFence().GetProven() == statepb.Proof_PROOF_UNSPECIFIED):
		info.State = v1.GroupState_GROUP_STATE_UNKNOWN
		info.Message = "it is not proven yet that " + node + " has stopped"
		return info
	case phase == statepb.NodePhase_NODE_PHASE_DOWN || phase == statepb.NodePhase_NODE_PHASE_FAULTED || on == nil:
		info.State, info.Online = v1.GroupState_GROUP_STATE_OFFLINE, 0
		return info
	}
	info.State = groupState(on, info, len(missing) > 0)
	return info
}

// detachedText says what there is to say of a group where it is detached.
func detachedText(node string) string {
	return "detached: it goes on without the cluster since " + node + " left"
}

// groupState of a group on a node that is up.
func groupState(on *statepb.GroupOnNode, info *v1.GroupOnNodeInfo, missing bool) v1.GroupState {
	all := info.Online == info.Total
	switch {
	case !on.GetProbed():
		return v1.GroupState_GROUP_STATE_UNKNOWN
	case on.GetWant() == v1.Want_WANT_ONLINE && missing:
		return v1.GroupState_GROUP_STATE_STARTING
	case on.GetWant() == v1.Want_WANT_OFFLINE && info.Online > 0:
		return v1.GroupState_GROUP_STATE_STOPPING
	case all && (info.Total > 0 || on.GetWant() == v1.Want_WANT_ONLINE):
		return v1.GroupState_GROUP_STATE_ONLINE
	case info.Online > 0:
		return v1.GroupState_GROUP_STATE_PARTIAL
	case on.GetFaulted():
		return v1.GroupState_GROUP_STATE_FAULTED
	}
	return v1.GroupState_GROUP_STATE_OFFLINE
}

// problemOf a resource in words, "" if there is none.
func problemOf(st *v1.ResourceStatus) string {
	why := ""
	if st.GetMessage() != "" {
		why = ": " + st.GetMessage()
	}
	switch {
	case st.GetAdminWait() != 0:
		return adminWait(st.GetAdminWait()) + ", and waits for an administrator" + why
	case st.GetUnableToOffline():
		return "can't be taken offline" + why
	case st.GetState() == v1.ResourceState_RESOURCE_STATE_FAULTED:
		return "faulted" + why
	case st.GetMonitorTimedOut():
		return "does not answer its monitor" + why
	}
	return ""
}

// placesOf a group: its system list, then other nodes that know something of it.
func (l *look) placesOf(g *v1.Group) []string {
	places := slices.Clone(g.GetSystemList())
	for _, n := range slices.Sorted(maps.Keys(l.GetGroupStatus()[g.GetName()].GetNodes())) {
		if !slices.Contains(places, n) {
			places = append(places, n)
		}
	}
	return places
}

// held names the resources of a group that an administrator keeps offline on the node where the group runs; "": none.
func (l *look) held(group, node string) string {
	on := l.GetGroupStatus()[group].GetNodes()[node]
	if on.GetWant() != v1.Want_WANT_ONLINE {
		return ""
	}
	return strings.Join(on.GetHeldResources(), ", ")
}

func rank(s v1.GroupState) int {
	return slices.Index([]v1.GroupState{
		v1.GroupState_GROUP_STATE_OFFLINE, v1.GroupState_GROUP_STATE_UNKNOWN, v1.GroupState_GROUP_STATE_FAULTED, v1.GroupState_GROUP_STATE_PARTIAL,
		v1.GroupState_GROUP_STATE_STOPPING, v1.GroupState_GROUP_STATE_STARTING, v1.GroupState_GROUP_STATE_ONLINE,
	}, s)
}

func (l *look) groupInfos() (out []*v1.GroupInfo) {
	for _, g := range sortedValues(l.GetGroups()) {
		out = append(out, l.groupInfo(g))
	}
	return out
}

func (l *look) resourceInfo(g *v1.Group, r *v1.Resource) *v1.ResourceInfo {
	info := &v1.ResourceInfo{Group: g.GetName(), Resource: r, Operations: l.operations(r)}
	for _, n := range l.placesOf(g) {
		on := l.GetGroupStatus()[g.GetName()].GetNodes()[n]
		info.Nodes = append(info.Nodes, &v1.ResourceOnNode{Node: n, Status: on.GetResources()[r.GetName()], Want: wantOf(on, r.GetName())})
	}
	return info
}

// failed resources: what needs somebody's eyes, sorted by group, resource and node.
func (l *look) failed() (out []*v1.FailedResource) {
	for _, g := range sortedValues(l.GetGroups()) {
		for _, r := range g.GetResources() {
			for _, n := range l.placesOf(g) {
				st := l.GetGroupStatus()[g.GetName()].GetNodes()[n].GetResources()[r.GetName()]
				if problemOf(st) != "" && state.Enabled(r) {
					out = append(out, &v1.FailedResource{Group: g.GetName(), Resource: r.GetName(), Type: r.GetType(), Node: n, Status: st})
				}
			}
		}
	}
	return out
}

// progress of an operation in words: what is being done where.
func (l *look) progress(op *v1.Operation) string {
	var groups []*v1.Group
	if g := l.GetGroups()[op.GetGroup()]; g != nil {
		groups = append(groups, g)
	}
	if op.GetKind() == v1.OperationKind_OPERATION_KIND_NODE_STOP {
		for _, name := range state.BusyGroups(l.State, op.GetNode()) {
			groups = append(groups, l.GetGroups()[name])
		}
	}
	var parts []string
	for _, g := range groups {
		for _, n := range l.placesOf(g) {
			on := l.groupOnNode(g, n)
			verb := map[v1.GroupState]string{v1.GroupState_GROUP_STATE_STARTING: "starting", v1.GroupState_GROUP_STATE_STOPPING: "stopping"}[on.GetState()]
			if verb == "" {
				continue
			}
			part := fmt.Sprintf("%s %s on %s: %d of %d online", g.GetName(), verb, n, on.GetOnline(), on.GetTotal())
			if busy := l.busy(g, n); len(busy) > 0 {
				part += ", " + strings.Join(busy, ", ")
			}
			parts = append(parts, part)
		}
	}
	return cmp.Or(strings.Join(parts, "; "), op.GetMessage())
}

// busy names resources that agents work on, and how.
func (l *look) busy(g *v1.Group, node string) (out []string) {
	words := map[v1.ResourceActivity]string{
		v1.ResourceActivity_RESOURCE_ACTIVITY_ONLINE:     "going online",
		v1.ResourceActivity_RESOURCE_ACTIVITY_OFFLINE:    "going offline",
		v1.ResourceActivity_RESOURCE_ACTIVITY_CLEAN:      "being cleaned",
		v1.ResourceActivity_RESOURCE_ACTIVITY_RESTARTING: "restarting",
	}
	for _, r := range g.GetResources() {
		st := l.GetGroupStatus()[g.GetName()].GetNodes()[node].GetResources()[r.GetName()]
		if w := words[st.GetActivity()]; w != "" {
			out = append(out, r.GetName()+" "+w)
		}
	}
	return out
}
