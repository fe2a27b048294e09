package schema

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/protoyaml"
)

func messageType(m protoreflect.MessageDescriptor) (protoreflect.MessageType, error) {
	return protoregistry.GlobalTypes.FindMessageByName(m.FullName())
}

// Object returns the descriptor of an object by its name as the kind of a
// document or as a message: "Group", "Limits"; nil if there is none.
func Object(name string) protoreflect.MessageDescriptor {
	for _, f := range files {
		if m := f.Messages().ByName(protoreflect.Name(name)); m != nil {
			return m
		}
	}
	return nil
}

// Field finds a field of an object by its key, with dots for those of blocks
// in it: "limits.monitorInterval". nil if there is none.
func Field(object protoreflect.MessageDescriptor, key string) protoreflect.FieldDescriptor {
	first, rest, deeper := strings.Cut(key, ".")
	f := object.Fields().ByJSONName(first)
	switch {
	case f == nil || !deeper:
		return f
	case f.Message() == nil || f.IsList() || f.IsMap() || isDuration(f):
		return nil
	}
	return Field(f.Message(), rest)
}

// Keys of an object, for completion: those of single values, lists of words
// and maps, with those of blocks in it after a dot.
func Keys(object protoreflect.MessageDescriptor) []string {
	var out []string
	for i := range object.Fields().Len() {
		f := object.Fields().Get(i)
		switch {
		case f.Message() == nil || f.IsMap() || isDuration(f):
			out = append(out, f.JSONName())
		case !f.IsList() && f.Message() != object && !recursive(f.Message()):
			for _, k := range Keys(f.Message()) {
				out = append(out, f.JSONName()+"."+k)
			}
		}
	}
	slices.Sort(out)
	return out
}

// recursive objects have no finite list of keys.
func recursive(m protoreflect.MessageDescriptor) bool {
	for i := range m.Fields().Len() {
		if m.Fields().Get(i).Message() == m {
			return true
		}
	}
	return false
}

// Values that can be written for a field, or for one entry of it, for
// completion: words, enum values, truth values, names of objects of cfg, or
// else its default. cfg may be nil.
func Values(f protoreflect.FieldDescriptor, cfg *v1.Configuration) []string {
	r := Of(f)
	switch {
	case r.GetNames() != "":
		return names(cfg, r.GetNames())
	case len(r.GetWords()) > 0:
		return slices.Clone(r.GetWords())
	case f.IsMap():
		return nil
	case f.Kind() == protoreflect.EnumKind:
		var out []string
		for i := range f.Enum().Values().Len() {
			if v := f.Enum().Values().Get(i); v.Number() != 0 {
				out = append(out, protoyaml.EnumWord(v))
			}
		}
		return out
	case f.Kind() == protoreflect.BoolKind:
		return []string{"true", "false"}
	case r.GetDefault() != "":
		return []string{r.GetDefault()}
	}
	return nil
}

// names of the objects of a kind that cfg has.
func names(cfg *v1.Configuration, kind string) (out []string) {
	switch kind {
	case "node":
		for _, n := range cfg.GetNodes() {
			out = append(out, n.GetName())
		}
	case "group":
		for _, g := range cfg.GetGroups() {
			out = append(out, g.GetName())
		}
	case "type":
		for _, t := range cfg.GetTypes() {
			out = append(out, t.GetName())
		}
	case "resource":
		for _, g := range cfg.GetGroups() {
			for _, r := range g.GetResources() {
				out = append(out, r.GetName())
			}
		}
	default:
		panic(fmt.Sprintf("schema: no objects of kind %q", kind)) // of the source; a test asks for all
	}
	slices.Sort(out)
	return out
}

// Names of the objects of cfg that a field's values can be; ok is false for a
// field that names nothing.
func Names(f protoreflect.FieldDescriptor, cfg *v1.Configuration) (kind string, list []string, ok bool) {
	kind = Of(f).GetNames()
	if kind == "" {
		return "", nil, false
	}
	return kind, names(cfg, kind), true
}
