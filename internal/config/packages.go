package config

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/group/packages"
	"github.com/holdfast-ha/holdfast/internal/protoyaml"
)

// clusterNodes in the order that "*" of a package stands for.
func clusterNodes(cfg *v1.Configuration) (names []string) {
	for _, n := range cfg.GetNodes() {
		names = append(names, n.GetName())
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// expand returns a copy of cfg in which packages are the groups that they
// become on its nodes.
func expand(cfg *v1.Configuration) *v1.Configuration {
	out := proto.CloneOf(cfg)
	nodes := clusterNodes(cfg)
	for i, g := range out.GetGroups() {
		if p := packages.Of(g); p != nil {
			p.Name = g.GetName()
			out.Groups[i], _ = packages.Group(p, nodes)
		}
	}
	return out
}

// pkg checks a package by itself: as the document that it is, and what can't
// be translated.
func (c *checker) pkg(path protoyaml.Path, g *v1.Group) {
	p := g.GetPackage()
	c.rules(path, p.ProtoReflect())
	_, found := packages.Group(p, clusterNodes(c.cfg))
	for _, f := range found {
		if !f.Note {
			c.add(f)
		}
	}
	for _, k := range sortedKeys(p.GetWeights()) {
		has := func(n string) bool { return hasKey(c.nodes[n].GetCapacity(), k) }
		if len(g.GetSystemList()) > 0 && !slices.ContainsFunc(g.GetSystemList(), has) {
			var known []string
			for _, n := range g.GetSystemList() {
				known = append(known, sortedKeys(c.nodes[n].GetCapacity())...)
			}
			slices.Sort(known)
			c.add(Fault{Path: path.Field("weights").Field(k).String(), OnKey: true, Problem: fmt.Sprintf("no node of nodeName has a capacity of %s", k),
				Fix: protoyaml.DidYouMean(k, slices.Compact(known), "capacities")})
		}
	}
}

// packagesTogether checks what packages are to each other, and to everything else.
func (c *checker) packagesTogether() {
	var all []*v1.Package
	plain := map[string]bool{}
	for _, g := range c.cfg.GetGroups() {
		if p := g.GetPackage(); p != nil {
			all = append(all, p)
		} else {
			plain[g.GetName()] = true
		}
	}
	for _, f := range packages.Check(all) {
		c.add(f)
	}
	for _, p := range all {
		path := packages.Path(p.GetName())
		if group, taken := c.resources[p.GetName()]; taken && p.GetName() != "" {
			c.fault(path.Field("name"), "is also the name of a resource of group "+group, "rename one: names of packages and resources are unique in the cluster")
		}
		for i, d := range p.GetDependencies() {
			if plain[d.GetPackage()] {
				c.fault(path.Object("dependency", protoyaml.ElementName(d.GetName(), i)).Field("package"), fmt.Sprintf("%s is a group and no package", d.GetPackage()),
					"write it as a package, or this one as a group")
			}
		}
	}
}

// inPackages puts what was found at the group of a package where it stands in
// the package. What moves to a place that has a fault already is left out: both
// were looked at for the same reason.
func inPackages(cfg *v1.Configuration, faults []Fault) []Fault {
	byPath := map[string]*v1.Package{}
	for _, g := range cfg.GetGroups() {
		if p := g.GetPackage(); p != nil {
			byPath[packages.Path(g.GetName()).String()] = p
		}
	}
	if len(byPath) == 0 {
		return faults
	}
	nodes := clusterNodes(cfg)
	places := map[string]map[string]string{}
	taken := map[string]bool{}
	var out []Fault
	for _, f := range faults {
		object, rest, _ := strings.Cut(f.Path, ", ")
		if p := byPath[object]; p != nil && rest != "" {
			if places[object] == nil {
				places[object] = packages.Places(p, nodes)
			}
			to := placed(places[object], rest)
			f.Path = object + ", " + to
			if to != rest && taken[f.Path] {
				continue
			}
		}
		taken[f.Path] = true
		out = append(out, f)
	}
	return out
}

// placed is where a path in a group stands in its package: by the longest part that is known.
func placed(places map[string]string, path string) string {
	for part := path; part != ""; part = protoyaml.ParentOf(part) {
		if to, ok := places[part]; ok {
			return to + path[len(part):]
		}
	}
	return path
}

// apartPackages splits groups into those that were written as groups, and packages.
func apartPackages(list []*v1.Group) (groups []*v1.Group, pkgs []*v1.Package) {
	for _, g := range list {
		if p := packages.Of(g); p != nil {
			pkgs = append(pkgs, p)
		} else {
			groups = append(groups, g)
		}
	}
	return groups, pkgs
}

// packageGroups shows where an unchanged package becomes another group: on
// other nodes, or by a newer version.
func (d *differ) packageGroups(old, new []*v1.Group) {
	byName := map[string]*v1.Group{}
	for _, g := range old {
		byName[g.GetName()] = g
	}
	for _, g := range new {
		was := byName[g.GetName()]
		if g.GetPackage() == nil || was.GetPackage() == nil || !proto.Equal(packages.Of(was), packages.Of(g)) || waiting(was) || waiting(g) {
			continue
		}
		a, b := proto.CloneOf(was), proto.CloneOf(g)
		a.Package, b.Package = nil, nil
		d.message(packages.Path(g.GetName()), a.ProtoReflect(), b.ProtoReflect())
	}
}

// waiting to be expanded.
func waiting(g *v1.Group) bool { return proto.Equal(g, packages.Wrap(packages.Of(g))) }
