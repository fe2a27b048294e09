package config

import (
	"fmt"
	"slices"
	"strings"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/protoyaml"
)

// MaxDependencyDepth is how many groups may stand in a chain of dependencies.
const MaxDependencyDepth = 5

// A web of groups that depend on each other.
type web struct {
	c      *checker
	groups map[string]*v1.Group
	paths  map[string]protoyaml.Path
	// depth of a group, and the nodes on which it and all that it needs beside
	// it may run, with those groups.
	depth  map[string]int
	nodes  map[string][]string
	beside map[string][]string
	// wrong groups: what follows from them is not reported.
	wrong map[string]bool
}

// dependencies checks how groups depend on each other (sections 10.1 to 10.5).
func (c *checker) dependencies() {
	w := &web{c: c, groups: map[string]*v1.Group{}, paths: map[string]protoyaml.Path{}, depth: map[string]int{},
		nodes: map[string][]string{}, beside: map[string][]string{}, wrong: map[string]bool{}}
	for i, g := range c.cfg.GetGroups() {
		if w.groups[g.GetName()] == nil {
			w.groups[g.GetName()], w.paths[g.GetName()] = g, groupPath(c.cfg.Groups, i)
		}
	}
	for _, g := range c.cfg.GetGroups() {
		before := len(c.faults)
		for i, d := range g.GetDependsOn() {
			w.legal(g, i, d)
		}
		c.room(w.paths[g.GetName()], g)
		w.wrong[g.GetName()] = w.wrong[g.GetName()] || len(c.faults) > before
	}
	w.cycles()
	for _, g := range c.cfg.GetGroups() {
		w.visit(g.GetName())
	}
}

// groupPath is that of the document that a group was written as.
func groupPath(groups []*v1.Group, i int) protoyaml.Path {
	g := groups[i]
	kind := KindGroup
	if g.GetPackage() != nil {
		kind = KindPackage
	}
	return objectPath(kind, g.GetName(), nameless(groups[:i]))
}

// at is the place of a dependency.
func (w *web) at(g *v1.Group, d *v1.GroupDependency) protoyaml.Path {
	return w.paths[g.GetName()].Object("dependsOn", d.GetGroup())
}

func many(g *v1.Group) bool { return g.GetParallel() || g.GetHybrid() }

func offline(d *v1.GroupDependency) bool { return d.GetCategory() == v1.GroupDependency_OFFLINE }

// local says that both run on the same node, remote that they must not.
func local(d *v1.GroupDependency) bool {
	return !offline(d) && (d.GetLocation() == v1.GroupDependency_LOCAL || d.GetLocation() == v1.GroupDependency_LOCATION_UNSPECIFIED)
}

func apart(d *v1.GroupDependency) bool {
	return offline(d) || d.GetLocation() == v1.GroupDependency_REMOTE
}

// words of a dependency, as the field says them.
func words(d *v1.GroupDependency) string {
	var out []string
	category, location := d.GetCategory(), d.GetLocation()
	if category == v1.GroupDependency_CATEGORY_UNSPECIFIED {
		category = v1.GroupDependency_ONLINE
	}
	if location == v1.GroupDependency_LOCATION_UNSPECIFIED {
		location = v1.GroupDependency_LOCAL
	}
	out = append(out, protoyaml.EnumName(category), protoyaml.EnumName(location))
	if r := d.GetRigidity(); r != v1.GroupDependency_RIGIDITY_UNSPECIFIED {
		out = append(out, protoyaml.EnumName(r))
	}
	return strings.Join(out, " ")
}

// legal checks one dependency by itself.
func (w *web) legal(g *v1.Group, i int, d *v1.GroupDependency) {
	c, at, child := w.c, w.at(g, d), w.groups[d.GetGroup()]
	hard := d.GetRigidity() == v1.GroupDependency_HARD
	first := slices.IndexFunc(g.GetDependsOn(), func(o *v1.GroupDependency) bool { return o.GetGroup() == d.GetGroup() })
	switch {
	case d.GetGroup() == "":
		c.fault(w.paths[g.GetName()].Object("dependsOn", protoyaml.ElementName("", i)).Field("group"), "is missing", "write the name of the group that must be online first")
		return
	case d.GetGroup() == g.GetName():
		c.fault(at, "it depends on itself", "remove it")
		return
	case first < i:
		c.fault(at, fmt.Sprintf("group %s is listed twice", d.GetGroup()), "remove one")
		return
	case child == nil:
		w.wrong[g.GetName()] = true // said by the rules of the field
		return
	}
	if g.GetPackage() != nil {
		return // packages have their own rules; they may also exclude each other on all nodes
	}
	if offline(d) {
		if l := d.GetLocation(); l != v1.GroupDependency_LOCATION_UNSPECIFIED && l != v1.GroupDependency_LOCAL {
			c.fault(at.Field("location"), "of an offline dependency can only be local", "write location: local: the child must not run where the parent does")
		}
		if d.GetRigidity() != v1.GroupDependency_RIGIDITY_UNSPECIFIED {
			c.fault(at.Field("rigidity"), "has no meaning with category: offline: there is nothing that could fault", "remove the line")
		}
		return
	}
	switch {
	case hard && (!local(d) || many(g) || many(child)):
		c.fault(at.Field("rigidity"), "can be hard only with online local, between groups that run on one node at a time", "write rigidity: firm or soft")
	case local(d) && many(g) && !many(child):
		c.fault(at.Field("location"), fmt.Sprintf("can't be local: %s runs on several nodes, and %s on one of them", g.GetName(), child.GetName()), "write location: global or remote")
	case !local(d) && many(g) && many(child):
		c.fault(at.Field("location"), fmt.Sprintf("can only be local: %s and %s both run on several nodes", g.GetName(), child.GetName()), "write location: local")
	case d.GetLocation() == v1.GroupDependency_SITE:
		w.sites(at, g, child)
	}
}

// sites that both groups have nodes at.
func (w *web) sites(at protoyaml.Path, parent, child *v1.Group) {
	have := map[string]bool{}
	for _, n := range child.GetSystemList() {
		have[w.c.site(n)] = true
	}
	common := false
	for _, g := range []*v1.Group{parent, child} {
		for _, n := range g.GetSystemList() {
			if w.c.nodes[n] != nil && w.c.site(n) == "" {
				w.c.fault(at.Field("location"), fmt.Sprintf("is site, but node %s of group %s is at none", n, g.GetName()), "write site: in its document, or another location")
				return
			}
			common = common || g == parent && have[w.c.site(n)]
		}
	}
	if !common {
		w.c.fault(at.Field("location"), fmt.Sprintf("is site, but %s and %s have no nodes at the same site", parent.GetName(), child.GetName()), "change a systemList, or write location: global")
	}
}

// exclusion says that two packages exclude each other: both say so, and it is no cycle.
func (w *web) exclusion(g *v1.Group, d *v1.GroupDependency) bool {
	child := w.groups[d.GetGroup()]
	return offline(d) && child != g && g.GetPackage() != nil && child.GetPackage() != nil &&
		slices.ContainsFunc(child.GetDependsOn(), func(o *v1.GroupDependency) bool { return offline(o) && o.GetGroup() == g.GetName() })
}

// cycles reports each knot of groups that depend on each other, by one of its cycles.
func (w *web) cycles() {
	const unseen, open, done = 0, 1, 2
	mark := map[string]int{}
	var stack []string
	var visit func(string) bool
	visit = func(name string) bool {
		mark[name] = open
		stack = append(stack, name)
		defer func() { mark[name] = done; stack = stack[:len(stack)-1] }()
		g := w.groups[name]
		for _, d := range g.GetDependsOn() {
			next := d.GetGroup()
			switch {
			case w.groups[next] == nil || next == name || w.exclusion(g, d):
			case mark[next] == open:
				cycle := append(slices.Clone(stack[slices.Index(stack, next):]), next)
				for _, n := range cycle {
					w.wrong[n] = true
				}
				w.c.fault(w.at(g, d), "dependencies form a cycle: "+strings.Join(cycle, " depends on "), "remove one of them: none of these groups could ever be the first to start")
				return true
			case mark[next] == unseen && visit(next):
				return true
			}
		}
		return false
	}
	for _, g := range w.c.cfg.GetGroups() {
		if mark[g.GetName()] == unseen {
			visit(g.GetName())
		}
	}
}

// visit works out where a group can run with all that must run beside it,
// children first. Of a group that is being visited already (there is a cycle)
// nothing is known yet, and nothing follows.
func (w *web) visit(name string) {
	if w.depth[name] > 0 {
		return
	}
	g := w.groups[name]
	w.depth[name] = 1
	nodes, beside := g.GetSystemList(), []string{name}
	for _, d := range g.GetDependsOn() {
		child := d.GetGroup()
		if w.groups[child] == nil || child == name || w.exclusion(g, d) {
			continue
		}
		w.visit(child)
		w.wrong[name] = w.wrong[name] || w.wrong[child]
		w.depth[name] = max(w.depth[name], w.depth[child]+1)
		if w.wrong[name] {
			continue
		}
		if w.depth[child] == MaxDependencyDepth {
			w.report(g, d, fmt.Sprintf("makes a chain of %d groups that depend on each other", MaxDependencyDepth+1), fmt.Sprintf("let it have at most %d", MaxDependencyDepth))
			continue
		}
		if local(d) {
			left := slices.DeleteFunc(slices.Clone(nodes), func(n string) bool { return !slices.Contains(w.nodes[child], n) })
			if len(left) == 0 && len(nodes) > 0 && len(w.nodes[child]) > 0 {
				w.report(g, d, fmt.Sprintf("can never hold: %s could run on %s, and %s only on %s", name, strings.Join(nodes, ", "), child, strings.Join(w.nodes[child], ", ")),
					"give both systemLists a node in common, or write location: global")
				continue
			}
			nodes = left
			beside = append(beside, w.beside[child]...)
		}
	}
	slices.Sort(beside)
	w.nodes[name], w.beside[name] = nodes, slices.Compact(beside)
	if w.wrong[name] {
		return
	}
	w.contradictions(g)
	w.cornered(g)
	w.together(g)
}

func (w *web) report(g *v1.Group, d *v1.GroupDependency, problem, fix string) {
	w.c.fault(w.at(g, d), problem, fix)
	w.wrong[g.GetName()] = true
}

// contradictions: what must run beside a group must not also have to run
// elsewhere than one of them.
func (w *web) contradictions(g *v1.Group) {
	name := g.GetName()
	for _, h := range w.beside[name] {
		for _, d := range w.groups[h].GetDependsOn() {
			other := d.GetGroup()
			if !apart(d) || !slices.Contains(w.beside[name], other) || many(w.groups[other]) || w.wrong[name] {
				continue
			}
			at, problem := d, fmt.Sprintf("can never hold: it is %s, but %s must run where %s runs", words(d), other, name)
			if h != name {
				// Said at the local dependency that brings it in.
				i := slices.IndexFunc(g.GetDependsOn(), func(d *v1.GroupDependency) bool {
					return local(d) && slices.Contains(w.beside[d.GetGroup()], h)
				})
				at = g.DependsOn[i]
				problem = fmt.Sprintf("can never hold: %s and %s must run where %s runs, but %s depends on %s %s", h, other, name, h, other, words(d))
			}
			w.report(g, at, problem, "remove one of these dependencies, or write another location")
		}
	}
}

// cornered: a group that must run elsewhere than another one needs a node for that.
func (w *web) cornered(g *v1.Group) {
	name := g.GetName()
	for _, d := range g.GetDependsOn() {
		child := w.groups[d.GetGroup()]
		if !apart(d) || w.wrong[name] || child == nil || offline(d) && !many(child) {
			continue
		}
		left := slices.DeleteFunc(slices.Clone(w.nodes[name]), func(n string) bool {
			switch {
			case offline(d): // a parallel child is on all its nodes; a hybrid one leaves some free
				return child.GetParallel() && slices.Contains(child.GetSystemList(), n)
			default: // remote: the child needs some other node
				return !slices.ContainsFunc(child.GetSystemList(), func(o string) bool { return o != n })
			}
		})
		if len(left) == 0 && len(w.nodes[name]) > 0 && len(child.GetSystemList()) > 0 {
			w.report(g, d, fmt.Sprintf("can never hold: it is %s, and no node of %s is left for that beside those of %s (%s)",
				words(d), name, d.GetGroup(), strings.Join(child.GetSystemList(), ", ")), "list another node in one of the systemLists")
		}
	}
}

// together: groups that run on one node need room there for all of them.
func (w *web) together(g *v1.Group) {
	name := g.GetName()
	if len(w.beside[name]) == 1 || w.wrong[name] {
		return
	}
	var all []*v1.Group
	for _, n := range w.beside[name] {
		all = append(all, w.groups[n])
	}
	if why := w.c.nowhere(demandOf(all...), w.nodes[name]); why != "" && len(w.nodes[name]) > 0 {
		i := slices.IndexFunc(g.GetDependsOn(), local)
		w.report(g, g.DependsOn[i], fmt.Sprintf("can never hold: there is no room on one node for %s: %s", strings.Join(w.beside[name], " and "), why),
			"write more under limits: or capacity: of a node, or declare less")
	}
}

// lintDependencies notes what will disappoint.
func lintDependencies(groups map[string]*v1.Group, p protoyaml.Path, g *v1.Group, note func(p protoyaml.Path, problem, fix string)) {
	for _, d := range g.GetDependsOn() {
		child := groups[d.GetGroup()]
		at := p.Object("dependsOn", d.GetGroup())
		if child == nil || offline(d) {
			continue
		}
		if len(g.GetAutoStartList()) > 0 && len(child.GetAutoStartList()) == 0 && g.GetPackage() == nil {
			note(at, fmt.Sprintf("is not started by itself (no autoStartList), so neither will %s be", g.GetName()), "write an autoStartList for "+d.GetGroup())
		}
		if !local(d) {
			continue
		}
		var strange []string
		for _, n := range child.GetSystemList() {
			if !slices.Contains(g.GetSystemList(), n) {
				strange = append(strange, n)
			}
		}
		if len(strange) > 0 && !many(child) {
			note(at, fmt.Sprintf("may move to %s, where %s can't follow", strings.Join(strange, ", "), g.GetName()), "")
		}
	}
}
