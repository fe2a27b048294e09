package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/protoyaml"
)

// Diff returns what makes old into new, object by object in the order cluster,
// nodes, types, groups, packages, each sorted by name. Revisions and types that are part
// of Holdfast are left out. An object that is on one side only is one change
// with the object as YAML.
func Diff(old, new *v1.Configuration) []*v1.Change {
	d := &differ{}
	var a, b []*v1.Cluster
	if old.GetCluster() != nil {
		a = append(a, old.Cluster)
	}
	if new.GetCluster() != nil {
		b = append(b, new.Cluster)
	}
	if len(a)+len(b) == 2 {
		d.message(objectPath(KindCluster, "", 0), a[0].ProtoReflect(), b[0].ProtoReflect())
	} else {
		objects(d, KindCluster, a, b)
	}
	objects(d, KindNode, old.GetNodes(), new.GetNodes())
	objects(d, KindType, own(old.GetTypes()), own(new.GetTypes()))
	oldGroups, oldPackages := apartPackages(old.GetGroups())
	newGroups, newPackages := apartPackages(new.GetGroups())
	objects(d, KindGroup, oldGroups, newGroups)
	objects(d, KindPackage, oldPackages, newPackages)
	d.packageGroups(old.GetGroups(), new.GetGroups())
	return d.changes
}

func own(types []*v1.ResourceType) (out []*v1.ResourceType) {
	for _, t := range types {
		if !t.GetBundled() {
			out = append(out, t)
		}
	}
	return out
}

type differ struct{ changes []*v1.Change }

func (d *differ) add(kind v1.ChangeKind, p protoyaml.Path, old, new string) {
	d.changes = append(d.changes, &v1.Change{Kind: kind, Path: p.String(), Old: old, New: new})
}

// side records something that only one side has.
func (d *differ) side(p protoyaml.Path, removed bool, text string) {
	if removed {
		d.add(v1.ChangeKind_CHANGE_KIND_REMOVED, p, text, "")
	} else {
		d.add(v1.ChangeKind_CHANGE_KIND_ADDED, p, "", text)
	}
}

func objects[T named](d *differ, kind string, old, new []T) {
	byName := func(list []T) map[string]T {
		m := map[string]T{}
		for _, o := range list {
			m[o.GetName()] = o
		}
		return m
	}
	a, b := byName(old), byName(new)
	for _, name := range unionKeys(a, b) {
		p := objectPath(kind, name, 0)
		x, inA := a[name]
		y, inB := b[name]
		switch {
		case inA && inB:
			d.message(p, x.ProtoReflect(), y.ProtoReflect())
		case inA:
			d.side(p, true, yamlOf(x))
		default:
			d.side(p, false, yamlOf(y))
		}
	}
}

func unionKeys[V any](a, b map[string]V) []string {
	return slices.Compact(slices.Sorted(func(yield func(string) bool) {
		for _, m := range []map[string]V{a, b} {
			for k := range m {
				if !yield(k) {
					return
				}
			}
		}
	}))
}

func yamlOf(m proto.Message) string { return string(protoyaml.Options{}.YAML(m)) }

func (d *differ) message(p protoyaml.Path, a, b protoreflect.Message) {
	if f := protoyaml.BareMap(a.Descriptor()); f != nil {
		d.mapping(p, f, a.Get(f).Map(), b.Get(f).Map())
		return
	}
	fields := a.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		at := p.Field(f.JSONName())
		switch {
		case f.IsMap():
			d.mapping(at, f, a.Get(f).Map(), b.Get(f).Map())
		case f.IsList() && f.Message() != nil:
			d.list(p, at, f, a.Get(f).List(), b.Get(f).List())
		case !f.IsList() && f.Message() != nil && f.Message().FullName() != "google.protobuf.Duration":
			// A block that is not there and one without anything set mean the
			// same; only what is set in it is compared. Of alternatives it
			// matters which one is there.
			if one := f.ContainingOneof(); one != nil && a.Has(f) != b.Has(f) {
				m := a
				if b.Has(f) {
					m = b
				}
				d.side(at, a.Has(f), yamlOf(m.Get(f).Message().Interface()))
				continue
			}
			d.message(at, a.Get(f).Message(), b.Get(f).Message())
		default:
			d.field(at, f, a, b)
		}
	}
}

func (d *differ) field(p protoyaml.Path, f protoreflect.FieldDescriptor, a, b protoreflect.Message) {
	old, new := protoyaml.FieldText(a, f), protoyaml.FieldText(b, f)
	absent := f.HasPresence() || !f.IsList() && f.Kind() != protoreflect.BoolKind // not set is not the same as a value
	switch {
	case a.Has(f) == b.Has(f) && old == new:
	case !b.Has(f) && absent:
		d.side(p, true, old)
	case !a.Has(f) && absent:
		d.side(p, false, new)
	default:
		d.add(v1.ChangeKind_CHANGE_KIND_CHANGED, p, old, new)
	}
}

// mapping compares two maps key by key.
func (d *differ) mapping(p protoyaml.Path, f protoreflect.FieldDescriptor, a, b protoreflect.Map) {
	values := func(m protoreflect.Map) map[string]protoreflect.Value {
		out := map[string]protoreflect.Value{}
		m.Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
			out[k.String()] = v
			return true
		})
		return out
	}
	text := func(v protoreflect.Value) string {
		if f.MapValue().Message() != nil {
			return yamlOf(v.Message().Interface())
		}
		return v.String()
	}
	x, y := values(a), values(b)
	for _, k := range unionKeys(x, y) {
		old, inA := x[k]
		new, inB := y[k]
		switch {
		case !inB:
			d.side(p.Field(k), true, text(old))
		case !inA:
			d.side(p.Field(k), false, text(new))
		case f.MapValue().Message() != nil:
			d.message(p.Field(k), old.Message(), new.Message())
		case !old.Equal(new):
			d.add(v1.ChangeKind_CHANGE_KIND_CHANGED, p.Field(k), text(old), text(new))
		}
	}
}

// list compares entries by name, then their order; entries without names by their place.
func (d *differ) list(parent, p protoyaml.Path, f protoreflect.FieldDescriptor, a, b protoreflect.List) {
	name := protoyaml.NameField(f.Message())
	if name == nil {
		d.places(parent, f, a, b)
		return
	}
	index := func(l protoreflect.List) (names []string, m map[string]protoreflect.Message) {
		m = map[string]protoreflect.Message{}
		for i := range l.Len() {
			n := l.Get(i).Message().Get(name).String()
			names = append(names, n)
			m[n] = l.Get(i).Message()
		}
		return names, m
	}
	oldNames, x := index(a)
	newNames, y := index(b)
	kind := protoyaml.Singular(f)
	for _, n := range unionKeys(x, y) {
		at := parent.Object(kind, n)
		switch {
		case y[n] == nil:
			d.side(at, true, yamlOf(x[n].Interface()))
		case x[n] == nil:
			d.side(at, false, yamlOf(y[n].Interface()))
		default:
			d.message(at, x[n], y[n])
		}
	}
	if !slices.Equal(common(oldNames, y), common(newNames, x)) {
		order := func(names []string) string { return "[" + strings.Join(names, ", ") + "]" }
		d.add(v1.ChangeKind_CHANGE_KIND_CHANGED, p, order(oldNames), order(newNames))
	}
}

// places compares two lists whose entries have no names.
func (d *differ) places(parent protoyaml.Path, f protoreflect.FieldDescriptor, a, b protoreflect.List) {
	kind := protoyaml.Singular(f)
	for i := range max(a.Len(), b.Len()) {
		at := parent.Object(kind, fmt.Sprintf("number %d", i+1))
		switch {
		case i >= b.Len():
			d.side(at, true, yamlOf(a.Get(i).Message().Interface()))
		case i >= a.Len():
			d.side(at, false, yamlOf(b.Get(i).Message().Interface()))
		default:
			d.message(at, a.Get(i).Message(), b.Get(i).Message())
		}
	}
}

// common returns the names that the other side has too, in order.
func common(names []string, other map[string]protoreflect.Message) []string {
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return other[n] == nil })
}

// Render writes changes for people, one or more lines each.
func Render(changes []*v1.Change) string {
	var b strings.Builder
	for _, c := range changes {
		switch c.GetKind() {
		case v1.ChangeKind_CHANGE_KIND_ADDED:
			renderSide(&b, "+", c.GetPath(), c.GetNew())
		case v1.ChangeKind_CHANGE_KIND_REMOVED:
			renderSide(&b, "-", c.GetPath(), c.GetOld())
		default:
			fmt.Fprintf(&b, "~ %s: %s -> %s\n", c.GetPath(), quoteEmpty(c.GetOld()), quoteEmpty(c.GetNew()))
		}
	}
	return b.String()
}

func renderSide(b *strings.Builder, sign, path, text string) {
	if !strings.HasSuffix(text, "\n") {
		fmt.Fprintf(b, "%s %s: %s\n", sign, path, quoteEmpty(text))
		return
	}
	fmt.Fprintf(b, "%s %s\n", sign, path)
	for line := range strings.Lines(text) {
		fmt.Fprintf(b, "%s     %s", sign, line)
	}
}

func quoteEmpty(s string) string { return cmp.Or(s, `""`) }
