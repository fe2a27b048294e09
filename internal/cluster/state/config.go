package state

import (
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	pb "github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// configure takes a whole configuration (S6). That it makes sense in itself
// was checked before it was proposed; here stands only what depends on what
// runs.
func (a *applier) configure(c *pb.Configure) *Refused {
	s, cfg := a.s, c.GetConfiguration()
	if c.GetBaseRevision() != s.GetConfigRevision() {
		return refuse(CodeStale, "the configuration is at revision %d by now, and this change was made from %d: export it again, repeat the change and apply that",
			s.GetConfigRevision(), c.GetBaseRevision())
	}
	nodes := map[string]*v1.Node{}
	for _, n := range cfg.GetNodes() {
		nodes[n.GetName()] = proto.CloneOf(n)
	}
	types := map[string]*v1.ResourceType{}
	for _, t := range cfg.GetTypes() {
		types[t.GetName()] = proto.CloneOf(t)
	}
	groups := map[string]*v1.Group{}
	for _, g := range cfg.GetGroups() {
		groups[g.GetName()] = proto.CloneOf(g)
	}
	if err := a.mayReplace(nodes, types, groups); err != nil {
		return err
	}
	if err := a.maintained(groups); err != nil {
		return err
	}
	cluster := proto.CloneOf(cfg.GetCluster())
	if cluster == nil {
		cluster = &v1.Cluster{}
	}
	cluster.Name, cluster.Uuid = s.GetCluster().GetName(), s.GetCluster().GetUuid()
	before := Peerinact(s)
	s.Cluster, s.Nodes, s.Types, s.Groups = cluster, nodes, types, groups
	for name := range s.NodeStatus {
		if nodes[name] == nil {
			delete(s.NodeStatus, name)
		}
	}
	for _, name := range SortedKeys(nodes) {
		a.status(name)
	}
	numberNodes(s)
	fitNotified(s)
	a.fitSignals()
	s.LongestPeerinact = maxDuration(maxDuration(s.GetLongestPeerinact(), before), Peerinact(s))
	a.configChanged()
	a.out.ViewChanged = true // addresses or timers may have changed
	a.event(&v1.Event{Severity: v1.Severity_SEVERITY_INFORMATION, Code: "config.changed", Message: "the configuration was changed"})
	return nil
}

func (a *applier) configChanged() {
	a.s.ConfigRevision++
	a.planChanged()
}

// mayReplace refuses to take away what is in use.
func (a *applier) mayReplace(nodes map[string]*v1.Node, types map[string]*v1.ResourceType, groups map[string]*v1.Group) *Refused {
	s := a.s
	for _, name := range SortedKeys(s.Nodes) {
		inUse := MemberOf(s, name) != nil || s.Learners[name] != nil || s.NodeStatus[name].GetFence() != nil
		if nodes[name] == nil && inUse {
			return refuse(CodeConflict, "node %s can't be removed while it is in the cluster: stop it first with holdfast node stop %s", name, name)
		}
	}
	for _, name := range SortedKeys(s.Groups) {
		gs := s.GroupStatus[name]
		for _, node := range SortedKeys(gs.GetNodes()) {
			on := gs.Nodes[node]
			if Settled(s, s.Groups[name], on) {
				continue
			}
			if groups[name] == nil {
				return refuse(CodeConflict, "group %s can't be removed while it is not offline on %s: holdfast group offline %s", name, node, name)
			}
			if on.GetWant() == v1.Want_WANT_ONLINE && !contains(groups[name].GetSystemList(), node) {
				return refuse(CodeConflict, "node %s can't be taken off the system list of group %s while the group runs there: switch it first", node, name)
			}
			if err := formKept(s.Groups[name], groups[name], node); err != nil {
				return err
			}
			if err := resourcesKept(s.Groups[name], groups[name], on, node); err != nil {
				return err
			}
		}
	}
	for _, name := range SortedKeys(groups) {
		for _, r := range groups[name].GetResources() {
			if types[r.GetType()] == nil {
				return refuse(CodeNotFound, "resource %s of group %s is of type %s, which is not defined", r.GetName(), name, r.GetType())
			}
		}
		for _, node := range groups[name].GetSystemList() {
			if nodes[node] == nil {
				return refuse(CodeNotFound, "group %s lists node %s, which is not configured", name, node)
			}
		}
	}
	return nil
}

// resourcesKept: a resource that is not offline keeps its name and its type.
func resourcesKept(old, now *v1.Group, on *pb.GroupOnNode, node string) *Refused {
	for _, r := range old.GetResources() {
		st := on.GetResources()[r.GetName()].GetState()
		if st != v1.ResourceState_RESOURCE_STATE_ONLINE {
			continue
		}
		kept := false
		for _, n := range now.GetResources() {
			kept = kept || n.GetName() == r.GetName() && n.GetType() == r.GetType()
		}
		if !kept {
			return refuse(CodeConflict, "resource %s of group %s can't be removed or change its type while it is online on %s: take it offline first with holdfast resource offline %s",
				r.GetName(), old.GetName(), node, r.GetName())
		}
	}
	return nil
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

func (a *applier) timersSettled(c *pb.TimersSettled) *Refused {
	if c.GetConfigRevision() != a.s.GetConfigRevision() {
		return refuse(CodeStale, "the configuration has changed again")
	}
	a.s.LongestPeerinact = durationpb.New(Peerinact(a.s))
	return nil
}
