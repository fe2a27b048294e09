package config

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/holdfast-ha/holdfast/internal/protoyaml"
	"github.com/holdfast-ha/holdfast/internal/schema"
)

// rules checks what the schema says of single fields, of m and of all blocks
// in it: ranges, words, how many, and that what is named exists. What fields
// mean together stands in the other files.
func (c *checker) rules(p protoyaml.Path, m protoreflect.Message) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if !m.Has(f) || elsewhere(f) {
			continue
		}
		at := p.Field(f.JSONName())
		switch {
		case f.IsMap():
			c.mappingRules(at, f, m.Get(f).Map())
		case f.IsList():
			c.listRules(p, at, f, m.Get(f).List())
		case f.Message() != nil && f.Message().FullName() != "google.protobuf.Duration":
			c.rules(at, m.Get(f).Message())
		default:
			c.rule(at, f, m.Get(f))
		}
	}
}

// elsewhere are fields that have a check of their own.
func elsewhere(f protoreflect.FieldDescriptor) bool {
	return schema.Of(f).GetNames() == "type" || schema.Of(f).GetNames() == "resource"
}

// rule checks one value.
func (c *checker) rule(at protoyaml.Path, f protoreflect.FieldDescriptor, v protoreflect.Value) {
	if problem, fix := schema.Problem(f, v); problem != "" {
		// Unset limits are those of the type.
		if d := schema.Of(f).GetDefault(); d != "" && f.Parent().Name() != "Limits" && strings.HasPrefix(fix, "write ") {
			fix += ", or remove the line (" + d + ")"
		}
		c.fault(at, problem, fix)
		return
	}
	if f.Kind() == protoreflect.StringKind && !f.IsMap() {
		c.exists(at, f, v.String(), false)
	}
}

// exists checks that a name is that of something.
func (c *checker) exists(at protoyaml.Path, f protoreflect.FieldDescriptor, name string, onKey bool) bool {
	kind, known, ok := c.names(f)
	all := name == "*" && schema.Of(f).GetDefault() == `["*"]`
	if !ok || all || slices.Contains(known, name) {
		return true
	}
	c.add(Fault{Path: at.String(), OnKey: onKey, Problem: fmt.Sprintf("there is no %s %q", kind, name), Fix: protoyaml.DidYouMean(name, known, kind+"s")})
	return false
}

// names is schema.Names with the lists kept: large clusters ask for the same ones often.
func (c *checker) names(f protoreflect.FieldDescriptor) (kind string, list []string, ok bool) {
	kind = schema.Of(f).GetNames()
	if kind == "" {
		return "", nil, false
	}
	if _, have := c.known[kind]; !have {
		_, c.known[kind], _ = schema.Names(f, c.cfg)
	}
	return kind, c.known[kind], true
}

func (c *checker) listRules(parent, at protoyaml.Path, f protoreflect.FieldDescriptor, l protoreflect.List) {
	c.most(at, f, l.Len())
	seen := map[string]bool{}
	nameField := protoreflect.FieldDescriptor(nil)
	if f.Message() != nil {
		nameField = protoyaml.NameField(f.Message())
	}
	for i := range l.Len() {
		if f.Message() == nil {
			before := len(c.faults)
			c.rule(at.Index(i), f, l.Get(i))
			// Of text that stands for nothing else a second one may be meant.
			r := schema.Of(f)
			if v := l.Get(i).String(); (r.GetNames() != "" || len(r.GetWords()) > 0) && len(c.faults) == before && seen[v] {
				c.fault(at.Index(i), fmt.Sprintf("%s is listed twice", v), "remove one")
			} else {
				seen[v] = true
			}
			continue
		}
		name := ""
		if nameField != nil {
			name = l.Get(i).Message().Get(nameField).String()
		}
		c.rules(parent.Object(protoyaml.Singular(f), protoyaml.ElementName(name, i)), l.Get(i).Message())
	}
}

func (c *checker) mappingRules(at protoyaml.Path, f protoreflect.FieldDescriptor, m protoreflect.Map) {
	c.most(at, f, m.Len())
	values := map[string]protoreflect.Value{}
	m.Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
		values[k.String()] = v
		return true
	})
	for _, k := range sortedKeys(values) {
		if !c.exists(at.Field(k), f, k, true) {
			continue
		}
		switch v := values[k]; {
		case f.MapValue().Message() != nil:
			c.rules(at.Field(k), v.Message())
		default:
			c.rule(at.Field(k), f, v)
		}
	}
}

func (c *checker) most(at protoyaml.Path, f protoreflect.FieldDescriptor, n int) {
	if most := int(schema.Of(f).GetMost()); most > 0 && n > most {
		c.fault(at, fmt.Sprintf("has %d entries", n), fmt.Sprintf("write at most %d", most))
	}
}
