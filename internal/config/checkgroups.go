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

	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/protoyaml"
)

func (c *checker) groups() {
	names := map[string]bool{}
	count := 0
	for i, g := range c.cfg.GetGroups() {
		p := objectPath(KindGroup, g.GetName(), nameless(c.cfg.Groups[:i]))
		c.name(p, g.GetName())
		if names[g.GetName()] {
			c.fault(p.Field("name"), "is the name of two groups", "rename one")
		}
		names[g.GetName()] = true
		c.systemLists(p, g)
		c.priority(p, g)
		all := map[string]bool{}
		for _, r := range g.GetResources() {
			all[r.GetName()] = true
		}
		for i, r := range g.GetResources() {
			c.resource(p, g, i, r, all)
		}
		c.cycles(p, g)
		count += len(g.GetResources())
	}
	if n := len(names); n > MaxGroups {
		c.fault(protoyaml.Path{}, fmt.Sprintf("the configuration has %d groups", n), fmt.Sprintf("write at most %d", MaxGroups))
	}
	if count > MaxResources {
		c.fault(protoyaml.Path{}, fmt.Sprintf("the configuration has %d resources", count), fmt.Sprintf("write at most %d", MaxResources))
	}
}

func (c *checker) systemLists(p protoyaml.Path, g *v1.Group) {
	nodes := c.nodeNames()
	at := p.Field("systemList")
	if len(g.GetSystemList()) == 0 {
		c.fault(at, "is empty: the group could run nowhere", "list the nodes that may run it, most wanted first")
	}
	for i, n := range g.GetSystemList() {
		if !slices.Contains(nodes, n) {
			c.fault(at.Index(i), fmt.Sprintf("there is no node %q", n), protoyaml.DidYouMean(n, nodes, "nodes"))
		} else if slices.Index(g.GetSystemList(), n) < i {
			c.fault(at.Index(i), fmt.Sprintf("node %s is listed twice", n), "remove one")
		}
	}
	at = p.Field("autoStartList")
	for i, n := range g.GetAutoStartList() {
		switch {
		case slices.Index(g.GetAutoStartList(), n) < i:
			c.fault(at.Index(i), fmt.Sprintf("node %s is listed twice", n), "remove one")
		case slices.Contains(g.GetSystemList(), n):
		case !slices.Contains(nodes, n):
			c.fault(at.Index(i), fmt.Sprintf("there is no node %q", n), protoyaml.DidYouMean(n, nodes, "nodes"))
		default:
			c.fault(at.Index(i), fmt.Sprintf("node %s is not in systemList", n), "add it there, or remove it here")
		}
	}
}

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
		c.attributes(p, r, t)
	}
	if len(c.faults) == before && t != nil {
		c.judge(p.Field("attributes"), r)
	}
	c.requires(p, g, r, all)
	c.limits(p.Field("limits"), r.GetLimits())
}

func (c *checker) attributes(p protoyaml.Path, r *v1.Resource, t *v1.ResourceType) {
	at := p.Field("attributes")
	declared := map[string]*v1.Attribute{}
	var names []string
	for _, a := range t.GetAttributes() {
		declared[a.GetName()] = a
		names = append(names, a.GetName())
	}
	meant := map[string]bool{} // given, under a wrong name
	for _, name := range sortedKeys(r.GetAttributes()) {
		value := r.GetAttributes()[name]
		a := declared[name]
		if a == nil {
			c.add(Fault{Path: at.Field(name).String(), OnKey: true,
				Problem: fmt.Sprintf("type %s has no attribute %s", t.GetName(), name), Fix: protoyaml.DidYouMean(name, names, "attributes")})
			meant[protoyaml.Suggest(name, names)] = true
			continue
		}
		problem, fix := checkValue(a.GetKind(), value)
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
	for _, a := range t.GetAttributes() {
		if _, given := r.GetAttributes()[a.GetName()]; a.GetRequired() && a.GetDefault() == "" && !given && !meant[a.GetName()] {
			c.fault(at.Field(a.GetName()), fmt.Sprintf("is missing: type %s requires it", t.GetName()), describe(a))
		}
	}
}

// judge asks those who know more.
func (c *checker) judge(at protoyaml.Path, r *v1.Resource) {
	for _, j := range c.judges {
		for _, err := range j(r) {
			name, problem, ok := strings.Cut(err.Error(), ": ")
			if _, given := r.GetAttributes()[name]; ok && given {
				c.fault(at.Field(name), problem, "")
			} else {
				c.fault(at, err.Error(), "")
			}
		}
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
	if who, taken := c.unique[id]; taken {
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
}

// cycles reports each knot of resources that require each other once, by one
// of its cycles.
func (c *checker) cycles(p protoyaml.Path, g *v1.Group) {
	requires := map[string][]string{}
	for _, r := range g.GetResources() {
		requires[r.GetName()] = r.GetRequires()
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

// limits checks ranges; only offlineMonitorInterval may be 0 (never).
func (c *checker) limits(p protoyaml.Path, l *v1.Limits) {
	const least, most, mostCount = 50 * time.Millisecond, 24 * time.Hour, 1000
	m := l.ProtoReflect()
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if !m.Has(f) {
			continue
		}
		at := p.Field(f.JSONName())
		if f.Message() != nil {
			d := m.Get(f).Message().Interface().(*durationpb.Duration)
			c.span(at, d, least, most, f.JSONName() == "offlineMonitorInterval")
		} else if n := m.Get(f).Uint(); n > mostCount {
			c.fault(at, fmt.Sprintf("is %d", n), fmt.Sprintf("write 0 to %d", mostCount))
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
