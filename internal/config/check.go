package config

import (
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/link"
	"github.com/holdfast-ha/holdfast/internal/cluster/timers"
	"github.com/holdfast-ha/holdfast/internal/protoyaml"
	"github.com/holdfast-ha/holdfast/internal/schema"
)

const (
	// MaxNodes of a cluster.
	MaxNodes = 64
	// MaxLinks of a node.
	MaxLinks = 8
	// MaxGroups of a cluster: ten times what the planner is measured with.
	MaxGroups = 10_000
	// MaxTypes that administrators define.
	MaxTypes = 1000

	maxName = 63
)

// A Judge finds what is wrong with a resource beyond what its type declares:
// its agent knows. Errors that begin with an attribute's name and a colon are
// about that attribute. It is asked only about resources that are right so far.
type Judge func(*v1.Resource) []error

type checker struct {
	cfg    *v1.Configuration
	judges []Judge
	// types that resources can have; those in given have an agent that the judges know.
	types  map[string]*v1.ResourceType
	given  map[string]bool
	faults []Fault
	// nodes by name, and known names of objects by kind.
	nodes map[string]*v1.Node
	known map[string][]string
	// taken addresses: what has them.
	taken map[netip.Addr]string
	// unique attribute values by type, attribute and value: what has them.
	unique map[[3]string]string
	// resources by name: their group.
	resources map[string]string
}

// Check returns all faults of a whole configuration. types are those of bundled
// agents; types of the configuration with the same name don't count.
func Check(cfg *v1.Configuration, types []*v1.ResourceType, judges ...Judge) []Fault {
	cfg = expand(cfg)
	c := &checker{
		cfg: cfg, judges: judges, types: map[string]*v1.ResourceType{}, taken: map[netip.Addr]string{},
		unique: map[[3]string]string{}, resources: map[string]string{}, given: map[string]bool{}, known: map[string][]string{}, nodes: map[string]*v1.Node{},
	}
	for _, n := range cfg.GetNodes() {
		c.nodes[n.GetName()] = n
	}
	for _, t := range types {
		c.types[t.GetName()], c.given[t.GetName()] = t, true
	}
	c.cluster()
	c.allNodes()
	c.ownTypes()
	c.groups()
	c.dependencies()
	return inPackages(cfg, c.faults)
}

func (c *checker) fault(p protoyaml.Path, problem, fix string) {
	c.add(Fault{Path: p.String(), Problem: problem, Fix: fix})
}

func (c *checker) add(f Fault) {
	if len(c.faults) < protoyaml.MaxFaults {
		c.faults = append(c.faults, f)
	}
}

// name checks the syntax that all names have.
func (c *checker) name(p protoyaml.Path, name string) {
	at := p.Field("name")
	if name == "" {
		c.fault(at, "is missing", "give it a name: "+nameRule)
		return
	}
	c.word(at, name)
}

const nameRule = "letters, digits, '-', '_' and '.', beginning with a letter or digit, at most 63 of them"

// word checks what has the syntax of a name.
func (c *checker) word(at protoyaml.Path, name string) {
	for i, r := range name {
		letter := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
		if !letter && (i == 0 || !strings.ContainsRune("-_.", r)) {
			c.fault(at, fmt.Sprintf("%q has %q in it", name, r), "use "+nameRule)
			return
		}
	}
	if len(name) > maxName {
		c.fault(at, fmt.Sprintf("has %d characters", len(name)), "use at most 63")
	}
}

func (c *checker) cluster() {
	p := objectPath(KindCluster, "", 0)
	cl := c.cfg.GetCluster()
	if cl == nil {
		c.fault(p, "is missing", "add a document with kind: Cluster and a name")
		return
	}
	c.name(p, cl.GetName())
	if u := cl.GetUuid(); u != "" && (len(u) != 32 || strings.Trim(u, "0123456789abcdef") != "") {
		c.fault(p.Field("uuid"), "is not 32 hexadecimal digits", "remove the line: cluster init makes one")
	}
	c.timers(p.Field("timers"), cl.GetTimers())
	if n := len(c.cfg.GetNodes()); n > 0 && int(cl.GetSeedNodes()) > n {
		c.fault(p.Field("seedNodes"), fmt.Sprintf("is %d, more than all nodes (%d): groups would never start", cl.GetSeedNodes(), n),
			fmt.Sprintf("write at most %d, or remove the line (a majority, %d)", n, n/2+1))
	}
	c.rules(p, cl.ProtoReflect())
	c.path(p.Field("triggerPath"), cl.GetTriggerPath())
	c.preferred(p, cl)
	c.fenceDevices(p, cl)
	c.notifiers(p, cl)
}

// path checks an absolute path, if there is one.
func (c *checker) path(at protoyaml.Path, name string) {
	switch {
	case name == "":
	case !path.IsAbs(name):
		c.fault(at, fmt.Sprintf("%q is not an absolute path", name), "begin it with /")
	case path.Clean(name) != name:
		c.fault(at, fmt.Sprintf("%q is not a plain path", name), "write "+path.Clean(name))
	}
}

// inRange says whether the schema's rule for a field holds; if not, that was said.
func inRange(m proto.Message, field protoreflect.Name) bool {
	r := m.ProtoReflect()
	f := r.Descriptor().Fields().ByName(field)
	problem := ""
	if r.Has(f) {
		problem, _ = schema.Problem(f, r.Get(f))
	}
	return problem == ""
}

func (c *checker) timers(p protoyaml.Path, t *v1.Timers) {
	if t == nil || !inRange(t, "peerinact") {
		return // the others are judged by it
	}
	hb, trouble, inact := timers.Effective(t)
	because := ""
	if t.GetPeerinact() == nil {
		because = " (its default)"
	}
	most := inact / timers.HeartbeatDivisor
	ok := inRange(t, "heartbeat")
	if ok && hb > most {
		c.fault(p.Field("heartbeat"), fmt.Sprintf("is %s, more than an eighth of peerinact %s%s: a few lost heartbeats would look like a lost node",
			protoyaml.Duration(hb), protoyaml.Duration(inact), because),
			fmt.Sprintf("write at most %s, or raise peerinact to %s, or remove the line (%s)",
				protoyaml.Duration(most), protoyaml.Duration(hb*timers.HeartbeatDivisor), protoyaml.Duration(inact/10)))
	}
	if t.GetPeertrouble() == nil || !inRange(t, "peertrouble") {
		return
	}
	if trouble >= inact {
		c.fault(p.Field("peertrouble"), fmt.Sprintf("is %s, not less than peerinact %s%s: a link would be down before it is in trouble",
			protoyaml.Duration(trouble), protoyaml.Duration(inact), because),
			fmt.Sprintf("write less than %s, or remove the line (%s)", protoyaml.Duration(inact), protoyaml.Duration(inact/2)))
	}
	if ok && hb >= trouble {
		c.fault(p.Field("peertrouble"), fmt.Sprintf("is %s, not more than heartbeat %s: every link would always be in trouble",
			protoyaml.Duration(trouble), protoyaml.Duration(hb)),
			fmt.Sprintf("write more than %s, or remove the line (%s)", protoyaml.Duration(2*hb), protoyaml.Duration(inact/2)))
	}
}

func (c *checker) allNodes() {
	if n := len(c.cfg.GetNodes()); n == 0 || n > MaxNodes {
		c.fault(protoyaml.Path{}, fmt.Sprintf("the configuration has %d nodes", n), fmt.Sprintf("write 1 to %d documents with kind: Node", MaxNodes))
		return
	}
	names := map[string]bool{}
	endpoints := map[netip.AddrPort]string{}
	first := c.cfg.Nodes[0]
	for i, n := range c.cfg.Nodes {
		p := objectPath(KindNode, n.GetName(), nameless(c.cfg.Nodes[:i]))
		c.name(p, n.GetName())
		if names[n.GetName()] {
			c.fault(p.Field("name"), "is the name of two nodes", "rename one")
		}
		names[n.GetName()] = true
		if len(n.GetLinks()) == 0 || len(n.GetLinks()) > MaxLinks {
			c.fault(p.Field("links"), fmt.Sprintf("has %d links", len(n.GetLinks())),
				fmt.Sprintf("write 1 to %d, each with a name and an address; two survive the failure of one", MaxLinks))
		}
		c.rules(p, n.ProtoReflect())
		c.links(p, n, endpoints)
		c.fencing(p, n)
		c.capacity(p, n)
		if n != first {
			c.sameLinks(p, first, n)
		}
	}
}

func (c *checker) links(p protoyaml.Path, n *v1.Node, endpoints map[netip.AddrPort]string) {
	names := map[string]bool{}
	for i, l := range n.GetLinks() {
		name := l.GetName()
		if name == "" {
			name = fmt.Sprintf("number %d", i+1)
		}
		at := p.Object("link", name)
		c.name(at, l.GetName())
		if l.GetName() != "" && names[l.GetName()] {
			c.fault(at.Field("name"), "is the name of two links of the node", "rename one")
		}
		names[l.GetName()] = true
		ep, err := link.Parse(l.GetAddress())
		if err != nil {
			c.fault(at.Field("address"), err.Error(), "write an IP address such as 10.0.1.1 or fd00::1, with a port if it is not 7946: 10.0.1.1:7946, [fd00::1]:7946")
			continue
		}
		who := fmt.Sprintf("link %s of node %s", l.GetName(), n.GetName())
		if other, taken := endpoints[ep]; taken {
			c.fault(at.Field("address"), fmt.Sprintf("%s is also the address of %s", ep, other), "give each link of each node its own address")
			continue
		}
		endpoints[ep] = who
		if _, taken := c.taken[ep.Addr()]; !taken {
			c.taken[ep.Addr()] = who
		}
	}
}

// sameLinks compares the links of a node with those of the first one.
func (c *checker) sameLinks(p protoyaml.Path, first, n *v1.Node) {
	names := func(n *v1.Node) (out []string) {
		for _, l := range n.GetLinks() {
			out = append(out, l.GetName())
		}
		return out
	}
	want, have := names(first), names(n)
	if len(want) == 0 || len(have) == 0 {
		return // said already
	}
	if !slices.Equal(want, have) {
		c.fault(p.Field("links"), fmt.Sprintf("are [%s], but node %s has [%s]", strings.Join(have, ", "), first.GetName(), strings.Join(want, ", ")),
			"give all nodes the same link names in the same order: links of one name form one path")
		return
	}
	for i, l := range n.GetLinks() {
		a, errA := link.Parse(first.GetLinks()[i].GetAddress())
		b, errB := link.Parse(l.GetAddress())
		if errA == nil && errB == nil && a.Addr().Is4() != b.Addr().Is4() {
			c.fault(p.Object("link", l.GetName()).Field("address"),
				fmt.Sprintf("%s and %s of node %s are of different families", b.Addr(), a.Addr(), first.GetName()),
				"use IPv4 or IPv6 addresses for one link on all nodes")
		}
	}
}

func (c *checker) typeNames() (names []string) {
	for name := range c.types {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
