package config

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/protoyaml"
)

// MaxAttributes of a type.
const MaxAttributes = 256

var (
	// ocfName is a directory or a program below that of the OCF agents.
	ocfName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`)
	// attributeName becomes part of the name of an environment variable.
	attributeName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]*$`)
)

// ownTypes are those that administrators define, each with its agent.
func (c *checker) ownTypes() {
	names := map[string]bool{}
	for i, t := range c.cfg.GetTypes() {
		p := objectPath(KindType, t.GetName(), nameless(c.cfg.Types[:i]))
		if c.given[t.GetName()] {
			if !t.GetBundled() { // from an earlier Complete
				c.fault(p, "is part of Holdfast and can't be changed", "remove the document; limits can be set on resources")
			}
			continue
		}
		c.name(p, t.GetName())
		if t.GetName() != "" && names[t.GetName()] {
			c.fault(p.Field("name"), "is the name of two types", "rename one")
		}
		names[t.GetName()] = true
		if t.GetBundled() {
			c.fault(p.Field("bundled"), "is said of types that are part of Holdfast only", "remove the line")
		}
		c.rules(p, t.ProtoReflect())
		c.agent(p, t)
		c.declarations(p, t)
		c.types[t.GetName()] = t // also with faults, so that none of its resources is reported for want of it
	}
	if len(names) > MaxTypes {
		c.fault(protoyaml.Path{}, fmt.Sprintf("the configuration has %d resource types of its own", len(names)), fmt.Sprintf("write at most %d", MaxTypes))
	}
}

func (c *checker) agent(p protoyaml.Path, t *v1.ResourceType) {
	safe := func(at protoyaml.Path, what, name string) {
		switch {
		case name == "":
			c.fault(at, "is missing", "write "+what)
		case !ocfName.MatchString(name):
			c.fault(at, fmt.Sprintf("%q is no plain name", name), "use letters, digits, '_', '-' and '.': it stands for a file below /usr/lib/ocf/resource.d")
		}
	}
	switch a := t.GetAgent().(type) {
	case *v1.ResourceType_Script:
		at := p.Field("script").Field("directory")
		if a.Script.GetDirectory() == "" {
			c.fault(at, "is missing", "write the directory with the programs online, offline, monitor and clean, the same on every node")
		}
		c.path(at, a.Script.GetDirectory())
	case *v1.ResourceType_Ocf:
		safe(p.Field("ocf").Field("provider"), "the provider, a directory below /usr/lib/ocf/resource.d such as heartbeat", a.Ocf.GetProvider())
		safe(p.Field("ocf").Field("agent"), "the agent, a program in the provider's directory such as IPaddr2", a.Ocf.GetAgent())
	case *v1.ResourceType_Systemd:
		if !slices.ContainsFunc(t.GetAttributes(), func(a *v1.Attribute) bool { return a.GetName() == "Unit" }) {
			c.fault(p.Field("attributes"), "has no attribute Unit, by which resources name their unit", "write attributes: [{name: Unit, required: true}], with a default if it is always the same one")
		}
	default:
		fix := "write script: {directory: /opt/agents/" + t.GetName() + "}, ocf: {provider: heartbeat, agent: " + t.GetName() + "} or systemd: {}"
		if s := protoyaml.Suggest(t.GetName(), c.typeNames()); s != "" {
			fix += ", or use type " + s
		}
		c.fault(p, "has no agent", fix)
	}
}

// declarations of attributes, and what else refers to them.
func (c *checker) declarations(p protoyaml.Path, t *v1.ResourceType) {
	if n := len(t.GetAttributes()); n > MaxAttributes {
		c.fault(p.Field("attributes"), fmt.Sprintf("has %d attributes", n), fmt.Sprintf("write at most %d", MaxAttributes))
	}
	var names []string
	for i, a := range t.GetAttributes() {
		at := p.Object("attribute", protoyaml.ElementName(a.GetName(), i))
		switch {
		case a.GetName() == "":
			c.fault(at.Field("name"), "is missing", "give it a name")
		case !attributeName.MatchString(a.GetName()) || len(a.GetName()) > maxName:
			c.fault(at.Field("name"), fmt.Sprintf("%q is no name of an attribute", a.GetName()), "use letters, digits, '_', '-' and '.', beginning with a letter, at most 63 of them")
		case slices.Contains(names, a.GetName()):
			c.fault(at.Field("name"), "is the name of two attributes", "rename one")
		}
		names = append(names, a.GetName())
		for j, w := range a.GetWords() {
			if problem, fix := checkValue(a.GetKind(), w); problem != "" {
				c.fault(at.Field("words").Index(j), problem, fix)
			}
		}
		if a.GetDefault() == "" {
			continue
		}
		if problem, fix := checkAttribute(a, a.GetDefault()); problem != "" {
			c.fault(at.Field("default"), problem, fix)
		}
	}
	at := p.Field("argList")
	if len(t.GetArgList()) > 0 && t.GetScript() == nil {
		c.fault(at, "is for script agents", "remove it: other agents get attributes by name")
		return
	}
	for i, a := range t.GetArgList() {
		switch {
		case !slices.Contains(names, a):
			c.fault(at.Index(i), fmt.Sprintf("the type has no attribute %s", a), protoyaml.DidYouMean(a, names, "attributes"))
		case slices.Index(t.GetArgList(), a) < i:
			c.fault(at.Index(i), fmt.Sprintf("%s is listed twice", a), "remove one")
		}
	}
	for i, a := range t.GetSupportedActions() {
		if !ocfName.MatchString(a) {
			c.fault(p.Field("supportedActions").Index(i), fmt.Sprintf("%q is no name of an action", a), "use letters, digits, '_', '-' and '.'")
		}
	}
}

// checkAttribute says what is wrong with a value of an attribute.
func checkAttribute(a *v1.Attribute, value string) (problem, fix string) {
	if problem, fix = checkValue(a.GetKind(), value); problem != "" {
		return problem, fix
	}
	if words := a.GetWords(); len(words) > 0 && !slices.Contains(words, value) {
		return fmt.Sprintf("%q is none of its values", value), protoyaml.DidYouMean(value, words, "values")
	}
	return "", ""
}

// plainName of a host: letters, digits and hyphens, in parts.
func plainName(s string) bool {
	for _, part := range strings.Split(strings.TrimSuffix(s, "."), ".") {
		if part == "" || len(part) > 63 || strings.Trim(part, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != "" || part[0] == '-' {
			return false
		}
	}
	return len(s) <= 253
}
