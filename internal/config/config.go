// Package config is the configuration of a cluster as administrators write it:
// YAML documents of the objects of api/holdfast/v1, what makes them wrong, how
// two of them differ, and how one is written down again.
//
// It is pure: bytes and objects in, objects and faults out. What depends on
// what runs at the moment (a node that can't be removed while it is a member)
// is not judged here but when the change is applied.
//
// The caller owes it the resource types that have an agent; [Complete] puts
// them into a configuration, and [Export] leaves them out again.
//
//	F1  all faults are found in one go, and nothing that follows from another fault is reported with it
//	F2  Check and Lint change nothing; WithDefaults and Merge return copies
//	F3  what Export writes, Parse reads back as the same configuration
//	F4  Diff is empty exactly for equal configurations (revisions aside)
//	F5  a package is a group that was written down otherwise: it is checked as one, and exported and compared as a package
//	F6  a configuration without faults can be applied: groups have nodes, names are names, numbers are in range
//
// docs/configuration.md shows all objects.
package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/group/packages"
	"github.com/holdfast-ha/holdfast/internal/protoyaml"
)

// A Fault is one thing that is wrong, or with Note set, one to look at.
type Fault = protoyaml.Fault

// A File is a text with its name.
type File struct {
	Name string
	Text []byte
}

// Kinds of documents, as they are written.
const (
	KindCluster = "Cluster"
	KindNode    = "Node"
	KindType    = "ResourceType"
	KindGroup   = "Group"
	KindPackage = "Package"
)

var kinds = []string{KindCluster, KindNode, KindType, KindGroup, KindPackage}

// Documents is what one or more files say.
type Documents struct {
	cfg   *v1.Configuration
	dec   protoyaml.Decoder
	order map[string]int // of files, by name
	lost  bool           // a document could not be read at all
}

// Parse reads files. Faults of reading come from Faults or Check; what could
// be read is there all the same.
func Parse(files ...File) *Documents {
	d := &Documents{cfg: &v1.Configuration{}, order: map[string]int{}}
	seen := map[string]string{}
	for i, f := range files {
		d.order[f.Name] = i
		before := len(d.dec.Faults())
		docs := d.dec.Split(f.Name, f.Text)
		for _, doc := range docs {
			d.document(doc, seen)
		}
		if len(docs) == 0 && len(d.dec.Faults()) == before {
			d.dec.Add(Fault{File: f.Name, Problem: "has no documents", Fix: "holdfast export shows what documents look like"})
		}
	}
	d.lost = d.lost || d.dec.Lost()
	return d
}

func (d *Documents) document(doc protoyaml.Document, seen map[string]string) {
	kind := doc.Field("kind")
	if !slices.Contains(kinds, kind) {
		f := Fault{Problem: fmt.Sprintf("%q is no kind of document", kind), Fix: protoyaml.DidYouMean(kind, kinds, "kinds")}
		if kind == "" {
			f.Problem, f.Fix = "a document has no kind", "begin it with kind: Cluster, kind: Node, kind: ResourceType, kind: Group or kind: Package"
		}
		d.dec.Add(doc.Fault("kind", f))
		// Read it as what it was probably meant to be.
		if kind = protoyaml.Suggest(kind, kinds); kind == "" {
			d.lost = true
			return
		}
	}
	name := doc.Field("name")
	var m proto.Message
	var number int
	switch kind {
	case KindCluster:
		m = &v1.Cluster{}
	case KindNode:
		m, number = &v1.Node{}, nameless(d.cfg.Nodes)
	case KindType:
		m, number = &v1.ResourceType{}, nameless(d.cfg.Types)
	case KindGroup:
		m, number = &v1.Group{}, nameless(d.cfg.Groups)
	case KindPackage:
		m, number = &v1.Package{}, nameless(d.cfg.Groups)
	}
	path := objectPath(kind, name, number)
	key := path.String()
	if kind == KindPackage {
		key = objectPath(KindGroup, name, number).String() // it becomes one
	}
	if first, twice := seen[key]; twice {
		f := doc.Fault("name", Fault{Path: path.Field("name").String(), Problem: "is defined twice, first in " + first, Fix: "remove one, or give it another name"})
		d.dec.Add(f)
		return
	}
	if doc.Has("package") && kind == KindGroup {
		d.dec.Add(doc.Fault("package", Fault{Path: path.Field("package").String(), Problem: "is no key of a group", Fix: "write a document of kind: Package: it becomes a group"}))
	}
	d.dec.Decode(doc, m, path, except(kind)...)
	at := doc.Fault("name", Fault{})
	seen[key] = fmt.Sprintf("%s:%d", at.File, at.Line)
	switch m := m.(type) {
	case *v1.Cluster:
		d.cfg.Cluster = m
	case *v1.Node:
		d.cfg.Nodes = append(d.cfg.Nodes, m)
	case *v1.ResourceType:
		d.cfg.Types = append(d.cfg.Types, m)
	case *v1.Group:
		d.cfg.Groups = append(d.cfg.Groups, m)
	case *v1.Package:
		d.cfg.Groups = append(d.cfg.Groups, packages.Wrap(m))
	}
}

// except are keys that are not read into the object.
func except(kind string) []string {
	if kind == KindGroup {
		return []string{"kind", "package"}
	}
	return []string{"kind"}
}

// Configuration returns what the documents say, as far as it could be read.
func (d *Documents) Configuration() *v1.Configuration { return d.cfg }

// Faults returns what was found while reading.
func (d *Documents) Faults() []Fault { return d.sorted(d.dec.Faults()) }

// Locate puts faults that were found elsewhere in their places.
func (d *Documents) Locate(faults []Fault) []Fault { return d.sorted(d.dec.Locate(faults)) }

// Check returns all faults of reading the documents and of the configuration
// that base becomes with them, each in its place. What only follows from a
// fault of reading is left out. base may be nil: the documents stand alone.
func (d *Documents) Check(base *v1.Configuration, types []*v1.ResourceType, prune bool, judges ...Judge) []Fault {
	reading := d.dec.Faults()
	merged, found := Merge(base, d.cfg, prune)
	found = append(found, Check(merged, types, judges...)...)
	all := slices.Clone(reading)
	for _, f := range d.dec.Locate(found) {
		follows := slices.ContainsFunc(reading, func(r Fault) bool { return below(f.Path, r.Path) })
		if !follows && (f.Line > 0 || !d.lost) {
			all = append(all, f)
		}
	}
	return d.sorted(all)
}

// below says whether path is at or inside other.
func below(path, other string) bool {
	rest, ok := strings.CutPrefix(path, other)
	return ok && other != "" && (rest == "" || strings.HasPrefix(rest, ", ") || strings.HasPrefix(rest, ".") || strings.HasPrefix(rest, "["))
}

func (d *Documents) sorted(faults []Fault) []Fault {
	out := slices.Clone(faults)
	slices.SortStableFunc(out, func(a, b Fault) int {
		return cmp.Or(cmp.Compare(d.order[a.File], d.order[b.File]), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return slices.CompactFunc(out, func(a, b Fault) bool { return a == b })
}

// objectPath of the object with that name; number is that of one without among
// those without, from 0.
func objectPath(kind, name string, number int) protoyaml.Path {
	if name == "" {
		name = "without a name"
		if number > 0 {
			name += fmt.Sprintf(" (%d)", number+1)
		}
	}
	switch kind {
	case KindCluster:
		return protoyaml.Object("cluster", "")
	case KindType:
		return protoyaml.Object("type", name)
	default:
		return protoyaml.Object(strings.ToLower(kind), name)
	}
}

// nameless counts the objects that have no name.
func nameless[T named](list []T) (n int) {
	for _, o := range list {
		if o.GetName() == "" {
			n++
		}
	}
	return n
}

// Merge returns base with the objects of docs put in place, each replacing the
// one of its kind and name; with prune, objects that docs does not have are
// gone. The cluster's name and uuid can't be changed, which is a fault to try;
// what is frozen stays frozen. The objects of docs come after the others of their
// kind, so that what can't stand beside another is found at them. base may be nil.
func Merge(base, docs *v1.Configuration, prune bool) (*v1.Configuration, []Fault) {
	if base == nil {
		return proto.CloneOf(docs), nil
	}
	var faults []Fault
	out := proto.CloneOf(base)
	if c := docs.GetCluster(); c != nil {
		faults = append(faults, sameCluster(base.GetCluster(), c)...)
		out.Cluster = proto.CloneOf(c)
		out.Cluster.Name, out.Cluster.Uuid = base.GetCluster().GetName(), base.GetCluster().GetUuid()
	}
	out.Nodes = mergeList(out.Nodes, docs.GetNodes(), prune, func(old, new *v1.Node) {
		new.Frozen, new.FrozenReason = stillFrozen(old, new)
	})
	out.Groups = mergeList(out.Groups, docs.GetGroups(), prune, func(old, new *v1.Group) {
		new.Frozen, new.FrozenReason = stillFrozen(old, new)
	})
	out.Types = mergeList(out.Types, docs.GetTypes(), false, func(_, _ *v1.ResourceType) {})
	if prune {
		out.Types = slices.DeleteFunc(out.Types, func(t *v1.ResourceType) bool {
			return !t.GetBundled() && !slices.ContainsFunc(docs.GetTypes(), func(d *v1.ResourceType) bool { return d.GetName() == t.GetName() })
		})
	}
	return out, faults
}

func sameCluster(base, docs *v1.Cluster) (faults []Fault) {
	p := objectPath(KindCluster, "", 0)
	if docs.GetName() != "" && base.GetName() != docs.GetName() {
		faults = append(faults, Fault{Path: p.Field("name").String(), Problem: fmt.Sprintf("is %q, but this is cluster %q", docs.GetName(), base.GetName()),
			Fix: "write name: " + base.GetName() + ", or apply the file to the other cluster"})
	}
	if docs.GetUuid() != "" && base.GetUuid() != docs.GetUuid() {
		faults = append(faults, Fault{Path: p.Field("uuid").String(), Problem: "is that of another cluster",
			Fix: "remove the line, or apply the file to the other cluster"})
	}
	return faults
}

// stillFrozen is what remains of a freeze when an object is replaced.
func stillFrozen(old, new interface {
	GetFrozen() bool
	GetFrozenReason() string
}) (bool, string) {
	if old.GetFrozen() && new.GetFrozenReason() == "" {
		return true, old.GetFrozenReason()
	}
	return new.GetFrozen() || old.GetFrozen(), new.GetFrozenReason()
}

type named interface {
	proto.Message
	GetName() string
}

func mergeList[T named](base, docs []T, prune bool, keep func(old, new T)) []T {
	out := slices.Clone(base)
	if prune {
		out = slices.DeleteFunc(out, func(o T) bool {
			return !slices.ContainsFunc(docs, func(d T) bool { return d.GetName() == o.GetName() })
		})
	}
	for _, d := range docs {
		d = proto.CloneOf(d)
		if i := slices.IndexFunc(out, func(o T) bool { return o.GetName() == d.GetName() && d.GetName() != "" }); i >= 0 {
			keep(out[i], d)
			out = slices.Delete(out, i, i+1)
		}
		out = append(out, d)
	}
	return out
}

// Complete returns cfg with the types that have an agent, in place of those of
// the same name that it may have from before, and with packages as the groups
// that they are on these nodes.
func Complete(cfg *v1.Configuration, types []*v1.ResourceType) *v1.Configuration {
	out := expand(cfg)
	out.Types = slices.DeleteFunc(out.Types, func(t *v1.ResourceType) bool { return t.GetBundled() })
	for _, t := range types {
		out.Types = append(out.Types, proto.CloneOf(t))
	}
	slices.SortStableFunc(out.Types, func(a, b *v1.ResourceType) int { return cmp.Compare(a.GetName(), b.GetName()) })
	return out
}

// Export writes a configuration as YAML documents, without the types that are
// part of Holdfast.
func Export(cfg *v1.Configuration) []byte {
	var b strings.Builder
	if r := cfg.GetRevision(); r != 0 {
		fmt.Fprintf(&b, "# Revision %d of the configuration of cluster %s. An apply that shall be refused if\n"+
			"# somebody else changed it meanwhile: holdfast apply -f FILE --base-revision %d\n", r, cfg.GetCluster().GetName(), r)
	}
	sep := ""
	document := func(kind string, m proto.Message) {
		b.WriteString(sep)
		sep = "---\n"
		b.Write(protoyaml.Options{First: []protoyaml.Pair{{Key: "kind", Value: kind}}}.YAML(m))
	}
	if cfg.GetCluster() != nil {
		document(KindCluster, cfg.Cluster)
	}
	for _, n := range cfg.GetNodes() {
		document(KindNode, n)
	}
	for _, t := range cfg.GetTypes() {
		if !t.GetBundled() {
			document(KindType, t)
		}
	}
	for _, g := range cfg.GetGroups() {
		if p := packages.Of(g); p != nil {
			document(KindPackage, p)
		} else {
			document(KindGroup, g)
		}
	}
	return []byte(b.String())
}
