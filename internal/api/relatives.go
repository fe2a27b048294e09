package api

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"connectrpc.com/connect"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/group/planner"
)

// relatives of a group: with down those that it depends on, with up those that
// depend on it, directly or not; sorted, without itself.
func relatives(groups map[string]*v1.Group, name string, down, up bool) []string {
	found := map[string]bool{}
	var walk func(string)
	walk = func(at string) {
		for _, next := range neighbours(groups, at, down, up) {
			if !found[next] && next != name {
				found[next] = true
				walk(next)
			}
		}
	}
	walk(name)
	return slices.Sorted(maps.Keys(found))
}

func neighbours(groups map[string]*v1.Group, name string, down, up bool) (out []string) {
	if down {
		for _, d := range groups[name].GetDependsOn() {
			if groups[d.GetGroup()] != nil && d.GetCategory() != v1.GroupDependency_OFFLINE {
				out = append(out, d.GetGroup())
			}
		}
	}
	if up {
		for _, g := range sortedValues(groups) {
			for _, d := range g.GetDependsOn() {
				if d.GetGroup() == name && d.GetCategory() != v1.GroupDependency_OFFLINE {
					out = append(out, g.GetName())
				}
			}
		}
	}
	return out
}

// completed fills in the defaults of a dependency.
func completed(d *v1.GroupDependency) *v1.GroupDependency {
	return &v1.GroupDependency{
		Group: d.GetGroup(), Category: cmp.Or(d.GetCategory(), v1.GroupDependency_ONLINE),
		Location: cmp.Or(d.GetLocation(), v1.GroupDependency_LOCAL), Rigidity: cmp.Or(d.GetRigidity(), v1.GroupDependency_FIRM),
	}
}

// needs says in words what a dependency demands; d is complete.
func needs(d *v1.GroupDependency) string {
	if d.GetCategory() == v1.GroupDependency_OFFLINE {
		where := "on the same node"
		if d.GetLocation() != v1.GroupDependency_LOCAL {
			where = "on all nodes"
		}
		return "gives way to " + d.GetGroup() + " " + where
	}
	where := map[v1.GroupDependency_Location]string{
		v1.GroupDependency_LOCAL: "on the same node", v1.GroupDependency_GLOBAL: "on any node",
		v1.GroupDependency_REMOTE: "on another node", v1.GroupDependency_SITE: "in the same site",
	}[d.GetLocation()]
	return fmt.Sprintf("needs %s online %s, %s", d.GetGroup(), where, strings.ToLower(d.GetRigidity().String()))
}

// brokenBy says why a dependency of an active parent is not kept now; empty: it
// is, or the parent is offline.
func (l *look) brokenBy(parent, child *v1.GroupInfo, d *v1.GroupDependency) string {
	site := func(n string) string { return l.GetNodes()[n].GetSite() }
	for _, at := range parent.GetActiveOn() {
		here := slices.Contains(child.GetActiveOn(), at)
		elsewhere := slices.ContainsFunc(child.GetActiveOn(), func(n string) bool { return n != at })
		name := d.GetGroup()
		switch {
		case d.GetCategory() == v1.GroupDependency_OFFLINE:
			switch {
			case here:
				return fmt.Sprintf("%s and %s are both active on %s", parent.GetName(), name, at)
			case d.GetLocation() != v1.GroupDependency_LOCAL && elsewhere:
				return fmt.Sprintf("%s is active on %s, and %s on %s", parent.GetName(), at, name, strings.Join(child.GetActiveOn(), ", "))
			}
		case len(child.GetActiveOn()) == 0:
			return fmt.Sprintf("%s is active on %s, and %s is online nowhere", parent.GetName(), at, name)
		case d.GetLocation() == v1.GroupDependency_LOCAL && !here, d.GetLocation() == v1.GroupDependency_REMOTE && !elsewhere,
			d.GetLocation() == v1.GroupDependency_SITE && !slices.ContainsFunc(child.GetActiveOn(), func(n string) bool { return site(n) == site(at) }):
			return fmt.Sprintf("%s is active on %s, and %s on %s", parent.GetName(), at, name, strings.Join(child.GetActiveOn(), ", "))
		}
	}
	return ""
}

func (s *groupServer) Dependencies(ctx context.Context, req *connect.Request[v1.GroupDependenciesRequest]) (*connect.Response[v1.GroupDependenciesResponse], error) {
	l, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	var only map[string]bool
	if name := req.Msg.GetGroup(); name != "" {
		if _, err := l.group(name); err != nil {
			return nil, err
		}
		only = map[string]bool{name: true}
		for _, n := range linked(l.GetGroups(), name) {
			only[n] = true
		}
	}
	resp := &v1.GroupDependenciesResponse{Source: l.source()}
	infos := map[string]*v1.GroupInfo{}
	info := func(name string) *v1.GroupInfo {
		if infos[name] == nil {
			infos[name] = l.groupInfo(l.GetGroups()[name])
		}
		return infos[name]
	}
	for _, g := range sortedValues(l.GetGroups()) {
		if only != nil && !only[g.GetName()] {
			continue
		}
		for _, d := range g.GetDependsOn() {
			if l.GetGroups()[d.GetGroup()] == nil {
				continue
			}
			d = completed(d)
			resp.Dependencies = append(resp.Dependencies, &v1.DependencyInfo{
				Parent: g.GetName(), Dependency: d, Text: needs(d), Broken: l.brokenBy(info(g.GetName()), info(d.GetGroup()), d)})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(infos)) {
		resp.Groups = append(resp.Groups, infos[name])
	}
	return connect.NewResponse(resp), nil
}

// linked are all groups of the same tree of dependencies, of any category.
func linked(groups map[string]*v1.Group, name string) []string {
	found := map[string]bool{name: true}
	for grew := true; grew; {
		grew = false
		for _, g := range groups {
			for _, d := range g.GetDependsOn() {
				if a, b := found[g.GetName()], found[d.GetGroup()]; a != b && groups[d.GetGroup()] != nil {
					found[g.GetName()], found[d.GetGroup()], grew = true, true, true
				}
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}

func (s *groupServer) Forecast(ctx context.Context, req *connect.Request[v1.ForecastGroupRequest]) (*connect.Response[v1.ForecastGroupResponse], error) {
	l, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	g, err := l.group(req.Msg.GetGroup())
	if err != nil {
		return nil, err
	}
	resp := planner.Forecast(l.State, s.env(l), g.GetName())
	resp.Source = l.source()
	return connect.NewResponse(resp), nil
}
