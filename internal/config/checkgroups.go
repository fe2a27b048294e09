package config

import (
	"fmt"
	"maps"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/protoyaml"
	"github.com/holdfast-ha/holdfast/internal/schema"
)

func (c *checker) groups() {
	names := map[string]bool{}
	count := 0
	for i, g := range c.cfg.GetGroups() {
		p := groupPath(c.cfg.Groups, i)
		c.name(p, g.GetName())
		if names[g.GetName()] {
			c.fault(p.Field("name"), "is the name of two groups", "rename one")
		}
		names[g.GetName()] = true
		c.group(p, g)
		count += len(g.GetResources())
	}
	c.packagesTogether()
	if n := len(names); n > MaxGroups {
		c.fault(protoyaml.Path{}, fmt.Sprintf("the configuration has %d groups", n), fmt.Sprintf("write at most %d", MaxGroups))
	}
	limit := ResourceLimit(c.cfg.GetCluster())
	if count > limit {
		c.fault(objectPath(KindCluster, "", 0).Field("resourceLimit"), fmt.Sprintf("the configuration has %d resources, more than %d", count, limit), "raise it, or remove resources")
	}
}

// ResourceLimit is how many resources a cluster may have.
func ResourceLimit(cl *v1.Cluster) int {
	if cl != nil && cl.ResourceLimit != nil {
		return int(cl.GetResourceLimit())
	}
	v, _ := schema.Default((&v1.Cluster{}).ProtoReflect().Descriptor().Fields().ByName("resource_limit"))
	return int(v.Uint())
}

// group checks what can be said of it without the others.
func (c *checker) group(p protoyaml.Path, g *v1.Group) {
	if g.GetPackage() != nil {
		c.pkg(p, g)
	} else {
		c.rules(p, g.ProtoReflect())
		c.systemLists(p, g)
		c.zones(p, g)
		c.path(p.Field("triggerPath"), g.GetTriggerPath())
		if strings.ContainsAny(g.GetOwner(), "\r\n\x00") {
			c.fault(p.Field("owner"), "has more than one line", "write it in one line")
		}
	}
	all := map[string]bool{}
	for _, r := range g.GetResources() {
		all[r.GetName()] = true
	}
	for i, r := range g.GetResources() {
		c.resource(p, g, i, r, all)
	}
	c.cycles(p, g)
}

func (c *checker) systemLists(p protoyaml.Path, g *v1.Group) {
	if len(g.GetSystemList()) == 0 {
		c.fault(p.Field("systemList"), "is empty: the group could run nowhere", "list the nodes that may run it, most wanted first")
	}
	among := func(at protoyaml.Path, list []string) {
		for i, n := range list {
			if !slices.Contains(g.GetSystemList(), n) && c.nodes[n] != nil {
				c.fault(at.Index(i), fmt.Sprintf("node %s is not in systemList", n), "add it there, or remove it here")
			}
		}
	}
	among(p.Field("autoStartList"), g.GetAutoStartList())
	among(p.Field("disabledNodes"), g.GetDisabledNodes())
}

// zones, and what instances a group has.
func (c *checker) zones(p protoyaml.Path, g *v1.Group) {
	at := p.Field("systemZones")
	zones := g.GetSystemZones()
	for _, n := range sortedKeys(zones) {
		if !slices.Contains(g.GetSystemList(), n) && c.nodes[n] != nil {
			c.add(Fault{Path: at.Field(n).String(), OnKey: true, Problem: fmt.Sprintf("node %s is not in systemList", n), Fix: "add it there, or remove it here"})
		}
	}
	if len(zones) > 0 {
		for _, n := range g.GetSystemList() {
			if !hasKey(zones, n) && c.nodes[n] != nil {
				c.fault(at, fmt.Sprintf("has no zone for node %s", n), "write a zone for each node of systemList, or for none")
			}
		}
	}
	if g.GetHybrid() && g.GetParallel() {
		c.fault(p.Field("hybrid"), "can't stand beside parallel", "write parallel: true for an instance on each node, hybrid: true for one in each zone")
	} else if g.GetHybrid() && len(zones) == 0 {
		c.fault(p.Field("hybrid"), "needs systemZones: it has one instance in each zone", "write systemZones: {n1: 0, n2: 1} with the zone of each node")
	}
	if g.GetAutoFailOver() == 2 && len(zones) == 0 {
		for _, n := range g.GetSystemList() {
			if c.nodes[n] != nil && c.site(n) == "" {
				c.fault(p.Field("autoFailOver"), fmt.Sprintf("is 2, within the zone or site, but there are no systemZones and node %s has no site", n),
					"write systemZones, or site: in the documents of the nodes, or autoFailOver: 1")
				return
			}
		}
	}
}

func (c *checker) site(node string) string { return c.nodes[node].GetSite() }

func (c *checker) resource(group protoyaml.Path, g *v1.Group, i int, r *v1.Resource, all map[string]bool) {
	name := r.GetName()
	if name == "" {
		name = fmt.Sprintf("number %d", i+1)
	}
	p := group.Object("resource", name)
	c.name(p, r.GetName())
	if other, taken := c.resources[r.GetName()]; taken && r.GetName() != "" {
		where := "of group " + other
		if other == g.GetName() {
			where = "of this group"
		}
		c.fault(p.Field("name"), "is also the name of a resource "+where, "rename one: names of resources are unique in the cluster")
	}
	c.resources[r.GetName()] = g.GetName()

	t := c.types[r.GetType()]
	switch {
	case r.GetType() == "":
		c.fault(p.Field("type"), "is missing", protoyaml.Known(c.typeNames(), "types"))
	case t == nil:
		c.fault(p.Field("type"), fmt.Sprintf("there is no type %q", r.GetType()), protoyaml.DidYouMean(r.GetType(), c.typeNames(), "types"))
		// Its attributes are judged as those of the type that it was probably meant to have.
		t = c.types[protoyaml.Suggest(r.GetType(), c.typeNames())]
	}
	before := len(c.faults)
	if t != nil {
		c.attributes(p, g, r, t)
	}
	if len(c.faults) == before && t != nil && c.given[t.GetName()] {
		c.judge(p, g, r)
	}
	c.requires(p, g, r, all)
}

func (c *checker) attributes(p protoyaml.Path, g *v1.Group, r *v1.Resource, t *v1.ResourceType) {
	at := p.Field("attributes")
	meant := map[string]bool{} // given, under a wrong name
	c.values(at, p, r.GetAttributes(), t, meant)
	local := p.Field("nodeAttributes")
	for _, node := range sortedKeys(r.GetNodeAttributes()) {
		if !slices.Contains(g.GetSystemList(), node) && c.nodes[node] != nil {
			c.add(Fault{Path: local.Field(node).String(), OnKey: true, Problem: fmt.Sprintf("node %s is not in systemList", node), Fix: "add it there, or remove it here"})
		}
		c.values(local.Field(node), p, r.GetNodeAttributes()[node].GetValues(), t, meant)
	}
	for _, a := range t.GetAttributes() {
		if !a.GetRequired() || a.GetDefault() != "" || hasKey(r.GetAttributes(), a.GetName()) || meant[a.GetName()] {
			continue
		}
		lacking := slices.DeleteFunc(slices.Clone(g.GetSystemList()), func(n string) bool {
			return r.GetNodeAttributes()[n].GetValues()[a.GetName()] != ""
		})
		switch {
		case len(lacking) > 0 && len(lacking) < len(g.GetSystemList()):
			c.fault(local, fmt.Sprintf("has no %s for node %s: type %s requires it", a.GetName(), lacking[0], t.GetName()), describe(a)+", or for each node")
		case len(lacking) > 0 || len(g.GetSystemList()) == 0:
			c.fault(at.Field(a.GetName()), fmt.Sprintf("is missing: type %s requires it", t.GetName()), describe(a))
		}
	}
}

// values checks given attributes; those that were meant are noted.
func (c *checker) values(at, p protoyaml.Path, values map[string]string, t *v1.ResourceType, meant map[string]bool) {
	declared := map[string]*v1.Attribute{}
	var names []string
	for _, a := range t.GetAttributes() {
		declared[a.GetName()] = a
		names = append(names, a.GetName())
	}
	for _, name := range sortedKeys(values) {
		value := values[name]
		a := declared[name]
		if a == nil {
			c.add(Fault{Path: at.Field(name).String(), OnKey: true,
				Problem: fmt.Sprintf("type %s has no attribute %s", t.GetName(), name), Fix: protoyaml.DidYouMean(name, names, "attributes")})
			meant[protoyaml.Suggest(name, names)] = true
			continue
		}
		problem, fix := checkAttribute(a, value)
		switch {
		case value == "" && a.GetRequired():
			c.fault(at.Field(name), "is empty, but required", describe(a))
		case value == "": // as if not given
		case problem != "":
			c.fault(at.Field(name), problem, fix)
		default:
			c.uniqueValue(at.Field(name), p, t, a, value)
		}
	}
}

// judge asks those who know more: about the resource as it is where nothing is
// said of a node, and as it is on each node of which something is said.
func (c *checker) judge(p protoyaml.Path, g *v1.Group, r *v1.Resource) {
	said := map[string]bool{}
	ask := func(r *v1.Resource, node string) {
		local := r.GetNodeAttributes()[node].GetValues()
		if len(local) > 0 {
			r = proto.CloneOf(r)
			if r.Attributes == nil {
				r.Attributes = map[string]string{}
			}
			maps.Copy(r.Attributes, local)
		}
		for _, j := range c.judges {
			for _, err := range j(r) {
				at, problem := p.Field("attributes"), err.Error()
				name, rest, ok := strings.Cut(problem, ": ")
				if ok && hasKey(local, name) {
					at, problem = p.Field("nodeAttributes").Field(node).Field(name), rest
				} else if ok && hasKey(r.GetAttributes(), name) {
					at, problem = at.Field(name), rest
				}
				if !said[at.String()+problem] {
					c.fault(at, problem, "")
				}
				said[at.String()+problem] = true
			}
		}
	}
	for _, node := range g.GetSystemList() {
		ask(r, node)
		if len(r.GetNodeAttributes()) == 0 {
			return // the same everywhere
		}
	}
	if len(g.GetSystemList()) == 0 {
		ask(r, "")
	}
}

// describe says what to write for an attribute.
func describe(a *v1.Attribute) string {
	if d := strings.TrimSuffix(a.GetDescription(), "."); d != "" {
		return "write it under attributes: " + d
	}
	return "write it under attributes"
}

// uniqueValue finds values that two resources must not share, and service
// addresses that are those of a link.
func (c *checker) uniqueValue(at, p protoyaml.Path, t *v1.ResourceType, a *v1.Attribute, value string) {
	key := value
	if prefix, err := netip.ParsePrefix(value); err == nil && a.GetKind() == v1.AttributeKind_ATTRIBUTE_KIND_PREFIX {
		key = prefix.Addr().Unmap().String() // the same address with another prefix length is the same address
		if who, taken := c.taken[prefix.Addr().Unmap()]; taken && a.GetUnique() {
			c.fault(at, fmt.Sprintf("%s is the address of %s", prefix.Addr(), who), "give the service an address of its own: it moves between nodes")
		}
	}
	if !a.GetUnique() {
		return
	}
	id := [3]string{t.GetName(), a.GetName(), key}
	if who, taken := c.unique[id]; taken && who == p.String() {
		return // on another node
	} else if taken {
		c.fault(at, fmt.Sprintf("%s is also the %s of %s", key, a.GetName(), who), "give each its own")
		return
	}
	c.unique[id] = p.String()
}

// checkValue says what is wrong with an attribute's value, "" if nothing is.
func checkValue(kind v1.AttributeKind, value string) (problem, fix string) {
	quoted := strconv.Quote(value)
	if strings.ContainsRune(value, 0) {
		return "has a zero byte in it", "remove it"
	}
	switch kind {
	case v1.AttributeKind_ATTRIBUTE_KIND_INTEGER:
		if _, err := strconv.ParseInt(value, 10, 64); err != nil {
			return quoted + " is not a whole number", "write decimal digits only"
		}
	case v1.AttributeKind_ATTRIBUTE_KIND_BOOLEAN:
		if value != "true" && value != "false" {
			return quoted + " is neither true nor false", "write true or false"
		}
	case v1.AttributeKind_ATTRIBUTE_KIND_DURATION:
		if d, err := time.ParseDuration(value); err != nil || d < 0 {
			return quoted + " is not a duration", "write a number with a unit: 300ms, 5s, 1m30s, 2h"
		}
	case v1.AttributeKind_ATTRIBUTE_KIND_PATH:
		if !path.IsAbs(value) {
			return quoted + " is not an absolute path", "begin it with /"
		}
	case v1.AttributeKind_ATTRIBUTE_KIND_COMMAND:
		return checkCommand(value)
	case v1.AttributeKind_ATTRIBUTE_KIND_LIST, v1.AttributeKind_ATTRIBUTE_KIND_MAP:
		return checkWords(value, kind == v1.AttributeKind_ATTRIBUTE_KIND_MAP)
	case v1.AttributeKind_ATTRIBUTE_KIND_PREFIX:
		p, err := netip.ParsePrefix(value)
		if err != nil {
			if a, err := netip.ParseAddr(value); err == nil {
				length := "24"
				if a.Is6() {
					length = "64"
				}
				return quoted + " has no prefix length", "write " + value + "/" + length + " if that is the network's"
			}
			return quoted + " is not an address with prefix length", "write it like 10.0.0.9/24 or fd00::9/64"
		}
		if p.Addr().IsUnspecified() || p.Addr().IsMulticast() {
			return quoted + " is not the address of one machine", "write the service's own address"
		}
	}
	return "", ""
}

// checkWords wants balanced quotes, and in a map a name before each value.
func checkWords(value string, isMap bool) (problem, fix string) {
	words, err := splitCommand(value)
	if err != nil {
		return err.Error(), "close the quote; a quote itself is written \\\" or in the other kind of quotes"
	}
	for _, w := range words {
		if name, _, ok := strings.Cut(w, "="); isMap && (!ok || name == "") {
			return fmt.Sprintf("%q is not of the form NAME=value", w), "write NAME=value, separated by blanks"
		}
	}
	return "", ""
}

// checkCommand wants a program by its absolute path and balanced quotes.
func checkCommand(value string) (problem, fix string) {
	words, err := splitCommand(value)
	switch {
	case err != nil:
		return err.Error(), "close the quote; a quote itself is written \\\" or in the other kind of quotes"
	case len(words) == 0:
		return "is empty", "write a program with its arguments: /usr/sbin/nginx -g 'daemon off;'"
	case !path.IsAbs(words[0]):
		return fmt.Sprintf("%q is not an absolute path", words[0]), "begin the command with the program's full path (no shell looks it up): /usr/sbin/nginx"
	}
	return "", ""
}

func (c *checker) requires(p protoyaml.Path, g *v1.Group, r *v1.Resource, all map[string]bool) {
	at := p.Field("requires")
	for i, n := range r.GetRequires() {
		switch {
		case n == r.GetName():
			c.fault(at.Index(i), "it requires itself", "remove it")
		case slices.Index(r.GetRequires(), n) < i:
			c.fault(at.Index(i), fmt.Sprintf("%s is listed twice", n), "remove one")
		case !all[n]:
			c.fault(at.Index(i), fmt.Sprintf("group %s has no resource %q", g.GetName(), n), protoyaml.DidYouMean(n, sortedKeys(all), "resources of the group"))
		}
	}
	for i, l := range r.GetRequiresAtLeast() {
		at := p.Object("requiresAtLeast", protoyaml.ElementName("", i))
		for j, n := range l.GetOf() {
			switch {
			case n == r.GetName():
				c.fault(at.Field("of").Index(j), "it requires itself", "remove it")
			case slices.Index(l.GetOf(), n) < j:
				c.fault(at.Field("of").Index(j), fmt.Sprintf("%s is listed twice", n), "remove one")
			case !all[n]:
				c.fault(at.Field("of").Index(j), fmt.Sprintf("group %s has no resource %q", g.GetName(), n), protoyaml.DidYouMean(n, sortedKeys(all), "resources of the group"))
			case slices.Contains(r.GetRequires(), n):
				c.fault(at.Field("of").Index(j), n+" is required in any case by requires", "list it in one of the two")
			}
		}
		switch n := len(l.GetOf()); {
		case n == 0:
			c.fault(at.Field("of"), "is empty", "list the resources of which some must be online")
		case l.GetCount() == 0:
			c.fault(at.Field("count"), "is missing", fmt.Sprintf("write how many of them must be online, 1 to %d", n))
		case int(l.GetCount()) > n:
			c.fault(at.Field("count"), fmt.Sprintf("is %d of %d: it could never be online", l.GetCount(), n), fmt.Sprintf("write 1 to %d", n))
		}
	}
}

// cycles reports each knot of resources that require each other once, by one
// of its cycles.
func (c *checker) cycles(p protoyaml.Path, g *v1.Group) {
	requires := map[string][]string{}
	for _, r := range g.GetResources() {
		requires[r.GetName()] = slices.Clone(r.GetRequires())
		for _, l := range r.GetRequiresAtLeast() {
			requires[r.GetName()] = append(requires[r.GetName()], l.GetOf()...)
		}
	}
	const unseen, open, done = 0, 1, 2
	mark := map[string]int{}
	var stack []string
	var visit func(string) bool // true: a cycle was reported
	visit = func(name string) bool {
		mark[name] = open
		stack = append(stack, name)
		defer func() { mark[name] = done; stack = stack[:len(stack)-1] }()
		for _, next := range requires[name] {
			switch {
			case next == name:
				continue // said already
			case mark[next] == open:
				from := slices.Index(stack, next)
				cycle := append(slices.Clone(stack[from:]), next)
				c.fault(p.Object("resource", name).Field("requires"), "requires form a cycle: "+strings.Join(cycle, " requires "),
					"remove one of them: none of these could ever be the first to go online")
				return true
			case mark[next] == unseen && visit(next):
				return true
			}
		}
		return false
	}
	for _, r := range g.GetResources() {
		if mark[r.GetName()] == unseen {
			visit(r.GetName())
		}
	}
}

// splitCommand splits a command into words as a shell would, without anything
// else that a shell does: blanks separate words, single and double quotes keep
// blanks, a backslash keeps the next character (inside single quotes it is
// itself).
func splitCommand(s string) (words []string, err error) {
	var word []rune
	inWord, escaped := false, false
	var quote rune
	for _, r := range s {
		switch {
		case escaped:
			word, escaped = append(word, r), false
		case r == '\\' && quote != '\'':
			inWord, escaped = true, true
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word = append(word, r)
		case r == '\'' || r == '"':
			inWord, quote = true, r
		case r == ' ' || r == '\t' || r == '\n':
			if inWord {
				words = append(words, string(word))
			}
			word, inWord = nil, false
		default:
			word, inWord = append(word, r), true
		}
	}
	if quote != 0 || escaped {
		return nil, fmt.Errorf("%q ends inside a quote", s)
	}
	if inWord {
		words = append(words, string(word))
	}
	return words, nil
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
