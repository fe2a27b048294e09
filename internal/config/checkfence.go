package config

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/protoyaml"
)

// preferred checks which side of a split should win.
func (c *checker) preferred(p protoyaml.Path, cl *v1.Cluster) {
	var sites []string
	for _, n := range c.cfg.GetNodes() {
		if s := n.GetSite(); s != "" && !slices.Contains(sites, s) {
			sites = append(sites, s)
		}
	}
	at := p.Field("preferredSite")
	known := protoyaml.Known(sites, "sites")
	if len(sites) == 0 {
		known = "no node has a site: write site: NAME in the documents of the nodes"
	}
	switch site := cl.GetPreferredSite(); {
	case site == "" && cl.GetPreferredFencing() == v1.PreferredFencing_PREFERRED_FENCING_SITE:
		c.fault(p.Field("preferredFencing"), "is site, but preferredSite does not say which one", "write preferredSite: NAME; "+known)
	case site != "" && !slices.Contains(sites, site):
		if s := protoyaml.Suggest(site, sites); s != "" {
			known = "did you mean " + s + "?"
		}
		c.fault(at, fmt.Sprintf("no node is at site %q", site), known)
	}
}

var (
	// fenceAgent is a program's name without a path.
	fenceAgent = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]*$`)
	// fenceParameter is the name of an agent's parameter.
	fenceParameter = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)
	// secretParameters of agents, with the one that takes the same from a file.
	secretParameters = map[string]string{
		"passwd": "passwd_file", "password": "passwd_file", "snmp_priv_passwd": "snmp_priv_passwd_script",
	}
	// setParameters are those that Holdfast itself gives to an agent.
	setParameters = map[string]string{
		"action": "write action: beside parameters", "option": "write action: beside parameters",
		"plug": "write plugs: with what the device calls each node", "port": "write plugs: with what the device calls each node",
		"nodename": "write plugs: with what the device calls each node",
	}
)

func (c *checker) fenceDevices(p protoyaml.Path, cl *v1.Cluster) {
	names := map[string]bool{}
	for i, d := range cl.GetFenceDevices() {
		name := d.GetName()
		if name == "" {
			name = fmt.Sprintf("number %d", i+1)
		}
		at := p.Object("fenceDevice", name)
		c.name(at, d.GetName())
		if d.GetName() != "" && names[d.GetName()] {
			c.fault(at.Field("name"), "is the name of two devices", "rename one")
		}
		names[d.GetName()] = true
		c.fenceDevice(at, d)
	}
}

func (c *checker) fenceDevice(p protoyaml.Path, d *v1.FenceDevice) {
	const agents = "write the name of a program of the fence-agents standard, such as fence_ipmilan, or an absolute path"
	switch a := d.GetAgent(); {
	case a == "":
		c.fault(p.Field("agent"), "is missing", agents)
	case !path.IsAbs(a) && !fenceAgent.MatchString(a):
		c.fault(p.Field("agent"), fmt.Sprintf("%q is neither a program's name nor an absolute path", a), agents)
	case path.IsAbs(a) && path.Clean(a) != a:
		c.fault(p.Field("agent"), fmt.Sprintf("%q is not a plain path", a), "write "+path.Clean(a))
	}
	at := p.Field("parameters")
	for _, k := range sortedKeys(d.GetParameters()) {
		file, secret := secretParameters[k]
		instead, set := setParameters[k]
		switch {
		case set:
			c.add(Fault{Path: at.Field(k).String(), OnKey: true, Problem: "is given to the agent by Holdfast itself", Fix: instead})
		case secret:
			c.add(Fault{Path: at.Field(k).String(), OnKey: true, Problem: "would be readable in exports, backups and the log",
				Fix: "put it into a file that only root can read, the same on all nodes, and write " + file + ": with its path"})
		case !fenceParameter.MatchString(k):
			c.add(Fault{Path: at.Field(k).String(), OnKey: true, Problem: fmt.Sprintf("%q is no name of a parameter", k), Fix: "use letters, digits, '_' and '-', as the agent's metadata does"})
		}
		c.oneLine(at.Field(k), d.GetParameters()[k])
	}
	c.plugs(p.Field("plugs"), d)
}

// oneLine refuses what would become another parameter on the agent's standard input.
func (c *checker) oneLine(p protoyaml.Path, value string) {
	if strings.ContainsAny(value, "\r\n\x00") {
		c.fault(p, "has more than one line", "write it in one line")
	}
}

func (c *checker) plugs(p protoyaml.Path, d *v1.FenceDevice) {
	nodes := c.nodeNames()
	taken := map[string]string{}
	if len(d.GetPlugs()) == 0 {
		c.fault(p, "is empty: the device could switch no node off", "write what the device calls each node: n1: plug")
	}
	for _, n := range sortedKeys(d.GetPlugs()) {
		at, plug := p.Field(n), d.GetPlugs()[n]
		c.oneLine(at, plug)
		if !slices.Contains(nodes, n) {
			continue // said already
		}
		switch other := taken[plug]; {
		case plug == "":
			c.fault(at, "is empty", "write what the device calls this node (with one plug for one machine, its own name will do)")
		case other != "":
			c.fault(at, fmt.Sprintf("is %q, as for node %s: whoever switches one off would hit the other", plug, other), "give each node its own plug")
		default:
			taken[plug] = n
		}
	}
}

func (c *checker) nodeNames() (names []string) {
	for _, n := range c.cfg.GetNodes() {
		names = append(names, n.GetName())
	}
	return names
}

// fencing of one node: site, and how it can be switched off.
func (c *checker) fencing(p protoyaml.Path, n *v1.Node) {
	if s := n.GetSite(); s != "" {
		c.word(p.Field("site"), s)
	}
	devices := map[string]*v1.FenceDevice{}
	var names []string
	for _, d := range c.cfg.GetCluster().GetFenceDevices() {
		devices[d.GetName()] = d
		names = append(names, d.GetName())
	}
	for i, l := range n.GetFenceLevels() {
		at := p.Object("fenceLevel", fmt.Sprintf("number %d", i+1)).Field("devices")
		if len(l.GetDevices()) == 0 {
			c.fault(at, "is empty: the level would succeed without switching anything off", "list devices, or remove the level")
		}
		for j, name := range l.GetDevices() {
			d := devices[name]
			switch {
			case d == nil:
				fix := protoyaml.DidYouMean(name, names, "devices")
				if len(names) == 0 {
					fix = "write fenceDevices: in the document of the cluster first"
				}
				c.fault(at.Index(j), fmt.Sprintf("there is no fence device %q", name), fix)
			case slices.Index(l.GetDevices(), name) < j:
				c.fault(at.Index(j), fmt.Sprintf("device %s is listed twice", name), "remove one")
			case !hasKey(d.GetPlugs(), n.GetName()):
				c.fault(at.Index(j), fmt.Sprintf("device %s does not know node %s", name, n.GetName()),
					fmt.Sprintf("write what it calls the node under plugs of fenceDevice %s, or remove it here", name))
			}
		}
	}
}

func hasKey[V any](m map[string]V, k string) bool {
	_, ok := m[k]
	return ok
}

func lintFencing(cfg *v1.Configuration, note func(p protoyaml.Path, problem, fix string)) {
	cl := cfg.GetCluster()
	p := objectPath(KindCluster, "", 0)
	rule := cl.GetPreferredFencing()
	none := rule == v1.PreferredFencing_PREFERRED_FENCING_UNSPECIFIED || rule == v1.PreferredFencing_PREFERRED_FENCING_NONE
	if cl.GetPreferredSite() != "" && rule != v1.PreferredFencing_PREFERRED_FENCING_SITE {
		note(p.Field("preferredSite"), "has no effect: preferredFencing is not site", "write preferredFencing: site, or remove the line")
	}
	if cl.GetPreferredFencingDelay() != nil && none {
		note(p.Field("preferredFencingDelay"), "has no effect without preferredFencing", "write preferredFencing: nodeWeight, groupPriority or site, or remove the line")
	}
	used := map[string]bool{}
	levels := map[string]bool{}
	for _, n := range cfg.GetNodes() {
		levels[n.GetName()] = len(n.GetFenceLevels()) > 0
		for _, l := range n.GetFenceLevels() {
			for _, d := range l.GetDevices() {
				used[d] = true
			}
		}
	}
	for _, d := range cl.GetFenceDevices() {
		if !used[d.GetName()] {
			note(p.Object("fenceDevice", d.GetName()), "is used by no node", "name it in fenceLevels of the nodes that it can switch off")
		}
	}
	for i, g := range cfg.GetGroups() {
		if g.GetTakeover() != v1.Takeover_TAKEOVER_POWER {
			continue
		}
		without := slices.DeleteFunc(slices.Clone(g.GetSystemList()), func(n string) bool { return levels[n] })
		if len(without) > 0 && len(g.GetSystemList()) > 1 {
			at := objectPath(KindGroup, g.GetName(), nameless(cfg.Groups[:i]))
			note(at.Field("takeover"), fmt.Sprintf("is power, but nothing can switch off %s: if that is lost, the group is not started elsewhere", strings.Join(without, ", ")),
				"write fenceLevels for it")
		}
	}
}
