package state

import (
	"slices"

	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

// onAllNodes says that a package is for all nodes of the cluster, those to come
// included.
func onAllNodes(g *v1.Group) bool {
	p := g.GetPackage()
	return p != nil && (len(p.GetNodeName()) == 0 || slices.Equal(p.GetNodeName(), []string{"*"}))
}

// welcomeNode puts a new node on the lists of the packages that are for all
// nodes, where the configuration would list it.
func (a *applier) welcomeNode(name string) {
	insert := func(list []string) []string {
		if slices.Contains(list, name) {
			return list
		}
		i, _ := slices.BinarySearch(list, name)
		return slices.Insert(slices.Clone(list), i, name)
	}
	for _, g := range SortedKeys(a.s.Groups) {
		if !onAllNodes(a.s.Groups[g]) {
			continue
		}
		group := proto.CloneOf(a.s.Groups[g])
		group.SystemList, group.AutoStartList = insert(group.SystemList), insert(group.AutoStartList)
		a.s.Groups[g] = group
	}
}

// forgetNode takes a node off everything that a group says of it.
func forgetNode(g *v1.Group, name string) *v1.Group {
	without := func(list []string) []string {
		return slices.DeleteFunc(slices.Clone(list), func(n string) bool { return n == name })
	}
	g = proto.CloneOf(g)
	g.SystemList, g.AutoStartList, g.DisabledNodes = without(g.SystemList), without(g.AutoStartList), without(g.DisabledNodes)
	delete(g.SystemZones, name)
	for _, r := range g.Resources {
		delete(r.NodeAttributes, name)
	}
	if p := g.GetPackage(); p != nil {
		p.NodeName = without(p.NodeName)
	}
	return g
}

// formKept: a group that is not offline keeps its form, which says how many
// instances it has and what a package of it is.
func formKept(old, now *v1.Group, node string) *Refused {
	form := func(g *v1.Group) [4]bool {
		t := g.GetPackage().GetType()
		return [4]bool{g.GetParallel(), g.GetHybrid(), t == v1.PackageType_PACKAGE_TYPE_MULTI_NODE, t == v1.PackageType_PACKAGE_TYPE_SYSTEM_MULTI_NODE}
	}
	if form(old) == form(now) {
		return nil
	}
	return refuse(CodeConflict, "group %s can't become another kind of group (parallel, hybrid, or the type of a package) while it is not offline on %s: holdfast group offline %s",
		old.GetName(), node, old.GetName())
}
