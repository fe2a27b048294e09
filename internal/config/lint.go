package config

import (
	"fmt"
	"slices"
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/link"
	"github.com/holdfast-ha/holdfast/internal/cluster/timers"
	"github.com/holdfast-ha/holdfast/internal/group/packages"
	"github.com/holdfast-ha/holdfast/internal/protoyaml"
)

// Lint returns notes on a configuration without faults: what can be applied
// and will probably disappoint.
func Lint(cfg *v1.Configuration, types []*v1.ResourceType) []Fault {
	var notes []Fault
	cfg = expand(cfg)
	note := func(p protoyaml.Path, problem, fix string) {
		notes = append(notes, Fault{Path: p.String(), Problem: problem, Fix: fix, Note: true})
	}
	lintCluster(cfg, note)
	lintFencing(cfg, note)
	byName := map[string]*v1.ResourceType{}
	for _, t := range slices.Concat(cfg.GetTypes(), types) {
		byName[t.GetName()] = t
	}
	groups, needed := map[string]*v1.Group{}, map[string]bool{}
	for _, g := range cfg.GetGroups() {
		groups[g.GetName()] = g
		for _, d := range g.GetDependsOn() {
			needed[d.GetGroup()] = true
		}
	}
	for i, g := range cfg.GetGroups() {
		p := groupPath(cfg.Groups, i)
		if len(g.GetResources()) == 0 {
			note(p.Field("resources"), "has no resources: there is nothing to run", "add some")
		} else if !slices.ContainsFunc(g.GetResources(), func(r *v1.Resource) bool { return r.Critical == nil || r.GetCritical() }) {
			note(p.Field("resources"), "has no critical resource: no fault of one will move it", "let at least one be critical")
		}
		if len(g.GetSystemList()) == 1 && len(cfg.GetNodes()) > 1 {
			note(p.Field("systemList"), "has one node: nothing can take the group over", "list another node")
		}
		if pkg := packages.Of(g); pkg != nil {
			_, found := packages.Group(pkg, clusterNodes(cfg))
			for _, f := range found {
				if f.Note {
					notes = append(notes, f)
				}
			}
		}
		lintPlacement(cfg, p, g, note)
		lintDependencies(groups, p, g, note)
		lintGroup(p, g, needed[g.GetName()], note)
		for _, r := range g.GetResources() {
			lintResource(p.Object("resource", r.GetName()), g, r, byName[r.GetType()], note)
		}
	}
	return inPackages(cfg, notes)
}

// lintGroup notes what has no effect; needed says that other groups depend on it.
func lintGroup(p protoyaml.Path, g *v1.Group, needed bool, note func(p protoyaml.Path, problem, fix string)) {
	idle := func(set bool, field, why, fix string) {
		if set {
			note(p.Field(field), "has no effect: "+why, fix)
		}
	}
	enabled := func(trigger string) bool { return slices.Contains(g.GetTriggersEnabled(), trigger) }
	idle(g.OnlineRetryInterval != nil && g.GetOnlineRetryLimit() == 0, "onlineRetryInterval", "there are no attempts on the same node", "write onlineRetryLimit, or remove the line")
	idle(g.AutoClearInterval != nil && g.GetAutoClearLimit() == 0, "autoClearInterval", "faults are not cleared by themselves", "write autoClearLimit, or remove the line")
	idle(g.PreOnlineTimeout != nil && !enabled("preonline"), "preOnlineTimeout", "preonline is not among triggersEnabled", "add it there, or remove the line")
	idle(g.PreOfflineTimeout != nil && !enabled("preoffline"), "preOfflineTimeout", "preoffline is not among triggersEnabled", "add it there, or remove the line")
	idle(g.PreSwitchTimeout != nil && !enabled("preswitch"), "preSwitchTimeout", "preswitch is not among triggersEnabled", "add it there, or remove the line")
	idle(g.GetOnlineClearParent() && !needed, "onlineClearParent", "no group depends on this one", "remove the line")
	idle(g.SuccessorHaltTimeout != nil && !needed && g.GetPackage() == nil, "successorHaltTimeout", "no group depends on this one", "remove the line")
	idle(len(g.GetAutoStartList()) > 0 && g.AutoStart != nil && !g.GetAutoStart(), "autoStartList", "autoStart is false", "remove one of the two")
	if n := len(g.GetDisabledNodes()); n > 0 && n == len(g.GetSystemList()) {
		note(p.Field("disabledNodes"), "has all nodes of systemList: the group can run nowhere until one is enabled", "")
	}
}

// LintQuorum returns notes on what breaks ties in a cluster with so many
// coordination points, which are no part of a configuration.
func LintQuorum(cfg *v1.Configuration, points int) []Fault {
	if len(cfg.GetNodes()) != 2 || points > 0 {
		return nil
	}
	return []Fault{{Path: objectPath(KindCluster, "", 0).String(), Note: true,
		Problem: "has two nodes and no coordination point: when one fails the other can't tell and stops its groups, too",
		Fix:     "add a coordination point (holdfast quorum add) or a third node; only a clean stop leaves one running"}}
}

func lintCluster(cfg *v1.Configuration, note func(p protoyaml.Path, problem, fix string)) {
	p := objectPath(KindCluster, "", 0)
	nodes := cfg.GetNodes()
	dimensions := map[string]bool{}
	for _, n := range nodes {
		for k := range n.GetCapacity() {
			dimensions[k] = true
		}
	}
	for _, k := range sortedKeys(cfg.GetCluster().GetMeterWeight()) {
		if !dimensions[k] {
			note(p.Field("meterWeight").Field(k), "has no effect: no node has a capacity of "+k, protoyaml.DidYouMean(k, sortedKeys(dimensions), "capacities"))
		}
	}
	for i, n := range cfg.GetCluster().GetNotifiers() {
		if s := n.GetSnmp(); s.GetVersion() == v1.SnmpVersion_SNMP_VERSION_V3 && s.GetAuthFile() == "" {
			note(p.Object("notifier", protoyaml.ElementName(n.GetName(), i)).Field("snmp"), "has no authFile: anybody could send such traps", "write the path of a file with the pass phrase")
		}
	}
	if _, _, inact := timers.Effective(cfg.GetCluster().GetTimers()); inact < 300*time.Millisecond {
		note(p.Field("timers").Field("peerinact"), fmt.Sprintf("is %s: nodes that are merely busy may be evicted", protoyaml.Duration(inact)),
			"measure with holdfast link list under load first")
	}
	if seed := int(SeedNodes(cfg)); seed > len(nodes)/2+1 {
		note(p.Field("seedNodes"), fmt.Sprintf("is %d of %d: after a power cut nothing starts until so many nodes are up", seed, len(nodes)), "")
	}
	for i, n := range nodes {
		at := objectPath(KindNode, n.GetName(), nameless(nodes[:i]))
		if len(n.GetLinks()) == 1 && len(nodes) > 1 {
			note(at.Field("links"), "has one link: its failure is the loss of the node (always in jeopardy)", "add a second link over another switch")
		}
		hosts := map[string]string{}
		for _, l := range n.GetLinks() {
			ep, err := link.Parse(l.GetAddress())
			if err != nil {
				continue
			}
			if other, twice := hosts[ep.Addr().String()]; twice {
				note(at.Object("link", l.GetName()).Field("address"), "is on the same address as link "+other+": both fail together", "use another network card and switch")
			}
			hosts[ep.Addr().String()] = l.GetName()
		}
	}
}

func lintResource(p protoyaml.Path, g *v1.Group, r *v1.Resource, t *v1.ResourceType, note func(p protoyaml.Path, problem, fix string)) {
	l := EffectiveLimits(t, r)
	at := p.Field("limits")
	if d := r.GetLimits().GetOfflineMonitorInterval(); d != nil && d.AsDuration() == 0 {
		note(at.Field("offlineMonitorInterval"), "is 0s: what somebody starts by hand on a standby node goes unnoticed", "")
	}
	const patience = 10 * time.Minute
	if n := l.GetFaultOnMonitorTimeouts(); n > 0 && watched(r.GetLimits()) {
		if d := time.Duration(n) * max(l.GetMonitorTimeout().AsDuration(), l.GetMonitorInterval().AsDuration()); d > patience {
			note(at.Field("monitorTimeout"), fmt.Sprintf("lets a hung resource go unnoticed for %s (%d monitors that time out)", protoyaml.Duration(d), n),
				"lower monitorTimeout, monitorInterval or faultOnMonitorTimeouts")
		}
	}
	if unmanaged(g, r) && (r.GetLimits().GetRestartLimit() > 0 || r.GetLimits().GetOnlineRetryLimit() > 0) {
		note(at, "has restarts that are never tried: with manageFaults none an administrator is waited for", "remove them, or write manageFaults: all")
	}
}

// watched says that limits say how the resource is watched.
func watched(l *v1.Limits) bool {
	return l != nil && (l.MonitorInterval != nil || l.MonitorTimeout != nil || l.FaultOnMonitorTimeouts != nil)
}

func unmanaged(g *v1.Group, r *v1.Resource) bool {
	m := r.GetManageFaults()
	if m == v1.ManageFaults_MANAGE_FAULTS_UNSPECIFIED {
		m = g.GetManageFaults()
	}
	return m == v1.ManageFaults_MANAGE_FAULTS_NONE
}
