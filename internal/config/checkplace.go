package config

import (
	"fmt"
	"slices"
	"strings"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/protoyaml"
)

// capacity of a node: what is kept back must be there.
func (c *checker) capacity(p protoyaml.Path, n *v1.Node) {
	for _, m := range []struct {
		field  string
		values map[string]int64
	}{{"capacity", n.GetCapacity()}, {"limits", n.GetLimits()}} {
		for _, k := range sortedKeys(m.values) {
			c.word(p.Field(m.field).Field(k), k)
		}
	}
	at := p.Field("reservedCapacity")
	for _, k := range sortedKeys(n.GetReservedCapacity()) {
		have, ok := n.GetCapacity()[k]
		switch reserved := n.GetReservedCapacity()[k]; {
		case !ok:
			fix := protoyaml.DidYouMean(k, sortedKeys(n.GetCapacity()), "capacities of the node")
			c.add(Fault{Path: at.Field(k).String(), OnKey: true, Problem: "is kept back from a capacity that the node does not have", Fix: fix})
		case reserved >= have:
			c.fault(at.Field(k), fmt.Sprintf("is %d of %d: nothing would be left", reserved, have), fmt.Sprintf("write less than %d", have))
		}
	}
}

// A demand is what has to find room on one node.
type demand struct {
	prerequisites, load map[string]int64
}

func demandOf(groups ...*v1.Group) demand {
	d := demand{map[string]int64{}, map[string]int64{}}
	for _, g := range groups {
		for k, v := range g.GetPrerequisites() {
			d.prerequisites[k] += v
		}
		for k, v := range g.GetLoad() {
			d.load[k] += v
		}
	}
	return d
}

// lacks says what a node that runs nothing else lacks for a demand, "" if nothing.
func (d demand) lacks(n *v1.Node) string {
	for _, k := range sortedKeys(d.prerequisites) {
		if need, have := d.prerequisites[k], n.GetLimits()[k]; need > have {
			return fmt.Sprintf("%s has %d of %s in limits, not %d", n.GetName(), have, k, need)
		}
	}
	for _, k := range sortedKeys(d.load) {
		have, bounded := n.GetCapacity()[k]
		if have -= n.GetReservedCapacity()[k]; bounded && d.load[k] > have {
			return fmt.Sprintf("%s has a capacity of %d %s, not %d", n.GetName(), have, k, d.load[k])
		}
	}
	return ""
}

// nowhere lists what each of the nodes lacks; "" if one of them lacks nothing.
func (c *checker) nowhere(d demand, nodes []string) string {
	var reasons []string
	for _, name := range nodes {
		n := c.nodes[name]
		if n == nil {
			return "" // a fault that was said
		}
		why := d.lacks(n)
		if why == "" {
			return ""
		}
		reasons = append(reasons, why)
	}
	const most = 5
	if len(reasons) > most {
		reasons = append(reasons[:most], "…")
	}
	return strings.Join(reasons, ", ")
}

// room checks that some node has room for a group alone.
func (c *checker) room(p protoyaml.Path, g *v1.Group) {
	d := demandOf(g)
	if why := c.nowhere(demand{prerequisites: d.prerequisites}, g.GetSystemList()); why != "" {
		c.fault(p.Field("prerequisites"), "can't be satisfied by any node of systemList: "+why, "write more under limits: of a node, or require less")
		return
	}
	if why := c.nowhere(d, g.GetSystemList()); why != "" {
		c.fault(p.Field("load"), "fits on no node of systemList: "+why, "write more under capacity: of a node, or declare less")
	}
}

// lintPlacement notes policies that have nothing to go by, or that work against each other.
func lintPlacement(cfg *v1.Configuration, p protoyaml.Path, g *v1.Group, note func(p protoyaml.Path, problem, fix string)) {
	nodes := slices.DeleteFunc(slices.Clone(cfg.GetNodes()), func(n *v1.Node) bool { return !slices.Contains(g.GetSystemList(), n.GetName()) })
	var sites, bounded []string
	for _, n := range nodes {
		if n.GetSite() != "" && !slices.Contains(sites, n.GetSite()) {
			sites = append(sites, n.GetSite())
		}
		bounded = append(bounded, sortedKeys(n.GetCapacity())...)
	}
	slices.Sort(bounded)
	bounded = slices.Compact(bounded)
	for _, k := range sortedKeys(g.GetLoad()) {
		if g.GetPackage() == nil && !slices.Contains(bounded, k) {
			fix := "write it under capacity: of the nodes"
			if s := protoyaml.Suggest(k, bounded); s != "" {
				fix = "did you mean " + s + "?"
			}
			note(p.Field("load").Field(k), "has no effect: no node of systemList has a capacity of "+k, fix)
		}
	}
	many := g.GetParallel() || g.GetHybrid()
	auto := g.GetFailback() == v1.Failback_FAILBACK_AUTOMATIC
	policy := g.GetFailOverPolicy()
	at := p.Field("failOverPolicy")
	word := protoyaml.EnumName(policy)
	switch {
	case policy == v1.FailOverPolicy_FAIL_OVER_POLICY_UNSPECIFIED:
	case g.GetParallel():
		note(at, "has no effect: a parallel group runs on all nodes of systemList", "remove the line")
	case (policy == v1.FailOverPolicy_FAIL_OVER_POLICY_LOAD || policy == v1.FailOverPolicy_FAIL_OVER_POLICY_BIGGEST_AVAILABLE) && len(bounded) == 0:
		note(at, fmt.Sprintf("is %s, but no node of systemList has a capacity: it ranks like priority", word), "write capacity: in the documents of the nodes")
	case policy == v1.FailOverPolicy_FAIL_OVER_POLICY_LOAD && len(g.GetLoad()) == 0:
		note(at, "is load, but the group declares none: placing it leaves every node as free as before", "write load: with what it needs")
	case policy == v1.FailOverPolicy_FAIL_OVER_POLICY_SITE_PREFERRED && len(sites) < 2:
		note(at, "is sitePreferred, but the nodes of systemList are not at two sites: it ranks like priority", "write site: in the documents of the nodes")
	}
	switch {
	case !auto:
	case many:
		note(p.Field("failback"), "has no effect: the group has more than one instance", "remove the line")
	case policy == v1.FailOverPolicy_FAIL_OVER_POLICY_ROUND_ROBIN, policy == v1.FailOverPolicy_FAIL_OVER_POLICY_LOAD, policy == v1.FailOverPolicy_FAIL_OVER_POLICY_BIGGEST_AVAILABLE:
		note(p.Field("failback"), fmt.Sprintf("is automatic, to the first node of systemList, and failOverPolicy is %s: what the policy has spread goes back there", word),
			"write failback: manual, or failOverPolicy: priority")
	}
	if g.GetAutoStartPolicy() != v1.AutoStartPolicy_AUTO_START_POLICY_UNSPECIFIED && len(g.GetAutoStartList()) == 0 {
		note(p.Field("autoStartPolicy"), "has no effect: autoStartList is empty, so the group waits for an administrator", "write autoStartList")
	}
	if g.GetHybrid() {
		first, one := uint32(0), true
		for i, n := range sortedKeys(g.GetSystemZones()) {
			if i == 0 {
				first = g.GetSystemZones()[n]
			}
			one = one && g.GetSystemZones()[n] == first
		}
		if one && len(g.GetSystemZones()) > 0 {
			note(p.Field("systemZones"), "has one zone: a hybrid group is then as any other", "")
		}
	}
}
