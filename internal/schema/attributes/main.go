// Command attributes writes docs/attributes.md: every field of every object of
// the configuration, from the .proto files and the rules in them.
//
//	go run ./internal/schema/attributes          # from the module root: write
//	go run ./internal/schema/attributes -check   # exit 1 when the committed page is stale
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/bufbuild/protocompile"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/holdfast-ha/holdfast/internal/protoyaml"
	"github.com/holdfast-ha/holdfast/internal/schema"
)

const page = "docs/attributes.md"

func main() {
	check := flag.Bool("check", false, "compare instead of writing")
	flag.Parse()
	if err := run(context.Background(), *check); err != nil {
		fmt.Fprintln(os.Stderr, "attributes:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, check bool) error {
	want, err := Page(ctx, ".")
	if err != nil {
		return err
	}
	if !check {
		return os.WriteFile(page, want, 0o644)
	}
	if have, err := os.ReadFile(page); err != nil || !bytes.Equal(have, want) {
		return errors.New(page + " is not current: run make generate")
	}
	return nil
}

const head = `# Attributes

Every key of every object of the configuration, with its name in Veritas Cluster Server or Serviceguard where it has one.
This page is written from the schema (` + "`make generate`" + `), and so are defaults, checks and completion.
[configuration.md](configuration.md) is the introduction, [packages.md](packages.md) is for those who come from Serviceguard.

*unset* is what holds where a key is not written; without an entry it is nothing, or what the description says. *rule* names the
numbered requirement behind it: plain numbers are those of the cluster, SG those of packages. Durations are written with a unit: 300ms, 5s, 1m30s, 2h.

`

// roots are the documents; what they hold follows each.
var roots = []string{"Cluster", "Node", "Group", "ResourceType", "Package"}

// Page returns the page for the .proto files below root.
func Page(ctx context.Context, root string) ([]byte, error) {
	g := &generator{comments: map[protoreflect.FullName]string{}, seen: map[protoreflect.FullName]bool{}}
	compiler := protocompile.Compiler{
		Resolver:       protocompile.WithStandardImports(&protocompile.SourceResolver{ImportPaths: []string{root}}),
		SourceInfoMode: protocompile.SourceInfoStandard,
	}
	for _, name := range []string{"groups.proto", "objects.proto"} {
		files, err := compiler.Compile(ctx, filepath.ToSlash(filepath.Join("api/holdfast/v1", name)))
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			g.remember(f)
		}
	}
	for _, name := range roots {
		g.roots = append(g.roots, schema.Object(name))
	}
	for _, m := range g.roots {
		g.names(m)
	}
	clear(g.seen)
	g.b.WriteString(head)
	for _, m := range g.roots {
		fmt.Fprintf(&g.b, "- [%s](#%s)\n", m.Name(), anchor(m))
	}
	for _, m := range g.roots {
		g.object(m)
	}
	return g.b.Bytes(), nil
}

type generator struct {
	b        bytes.Buffer
	roots    []protoreflect.MessageDescriptor
	comments map[protoreflect.FullName]string
	seen     map[protoreflect.FullName]bool
	// written is how names of the schema that have a line in them are written in YAML.
	written []string
}

// remember the comments of a file.
func (g *generator) remember(f protoreflect.FileDescriptor) {
	comment := func(d protoreflect.Descriptor) {
		text := f.SourceLocations().ByDescriptor(d).LeadingComments
		g.comments[d.FullName()] = strings.Join(strings.Fields(text), " ")
	}
	enums := func(list protoreflect.EnumDescriptors) {
		for i := range list.Len() {
			comment(list.Get(i))
			for j := range list.Get(i).Values().Len() {
				comment(list.Get(i).Values().Get(j))
			}
		}
	}
	enums(f.Enums())
	for i := range f.Messages().Len() {
		m := f.Messages().Get(i)
		comment(m)
		enums(m.Enums())
		for j := range m.Fields().Len() {
			comment(m.Fields().Get(j))
		}
	}
}

// names collects how fields and enum values are written.
func (g *generator) names(m protoreflect.MessageDescriptor) {
	if g.seen[m.FullName()] {
		return
	}
	g.seen[m.FullName()] = true
	add := func(from, to string) {
		if strings.Contains(from, "_") && from != to {
			g.written = append(g.written, from, to)
		}
	}
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		add(string(f.Name()), f.JSONName())
		if f.Enum() != nil {
			for j := range f.Enum().Values().Len() {
				v := f.Enum().Values().Get(j)
				add(string(v.Name()), protoyaml.EnumWord(v))
				if _, short, ok := strings.Cut(string(v.Name()), screaming(string(f.Enum().Name()))+"_"); ok {
					add(short, protoyaml.EnumWord(v))
				}
			}
		}
		if of := block(f); of != nil {
			g.names(of)
		}
	}
}

var capital = regexp.MustCompile(`(.)([A-Z])`)

func screaming(s string) string { return strings.ToUpper(capital.ReplaceAllString(s, "${1}_$2")) }

// block is the message that a field, or an entry of it, is; nil if it is a value.
func block(f protoreflect.FieldDescriptor) protoreflect.MessageDescriptor {
	if f.IsMap() {
		f = f.MapValue()
	}
	if m := f.Message(); m != nil && m.FullName() != "google.protobuf.Duration" && m.Name() != "Values" {
		return m
	}
	return nil
}

func anchor(m protoreflect.MessageDescriptor) string { return strings.ToLower(string(m.Name())) }

func (g *generator) object(m protoreflect.MessageDescriptor) {
	if g.seen[m.FullName()] {
		return
	}
	g.seen[m.FullName()] = true
	level := "###"
	if slices.Contains(g.roots, m) {
		level = "##"
	}
	fmt.Fprintf(&g.b, "\n%s %s\n\n%s\n", level, m.Name(), g.words(g.comments[m.FullName()]))
	if m.Fields().Len() == 0 {
		return
	}
	g.b.WriteString("\n| key | field's name | holds | unset | range | what it is | rule |\n|---|---|---|---|---|---|---|\n")
	var enums []protoreflect.FieldDescriptor
	var blocks []protoreflect.MessageDescriptor
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		of := block(f)
		if slices.Contains(g.roots, of) {
			continue // a group's package is written as a document of its own
		}
		g.row(f)
		if f.Enum() != nil {
			enums = append(enums, f)
		}
		if of != nil {
			blocks = append(blocks, of)
		}
	}
	for _, f := range enums {
		fmt.Fprintf(&g.b, "\nValues of `%s`:\n\n", f.JSONName())
		for i := range f.Enum().Values().Len() {
			v := f.Enum().Values().Get(i)
			if v.Number() == 0 {
				continue
			}
			text := g.words(g.comments[v.FullName()])
			if text != "" {
				text = ": " + text
			}
			fmt.Fprintf(&g.b, "- `%s`%s\n", protoyaml.EnumWord(v), text)
		}
	}
	for _, of := range blocks {
		g.object(of)
	}
}

func (g *generator) row(f protoreflect.FieldDescriptor) {
	r := schema.Of(f)
	value := f
	if f.IsMap() {
		value = f.MapValue()
	}
	unset, words := "", ""
	if d := r.GetDefault(); d != "" {
		unset = "`" + d + "`"
	}
	if len(r.GetWords()) > 0 {
		words = " Values: `" + strings.Join(r.GetWords(), "`, `") + "`."
	}
	if r.GetFixed() {
		words += " Can't be changed while the group runs."
	}
	limits := schema.Range(r, value.Message() != nil)
	if n := r.GetMost(); n > 0 {
		if limits != "" {
			limits += "; "
		}
		limits += fmt.Sprintf("at most %d", n)
	}
	if one := f.ContainingOneof(); one != nil && !one.IsSynthetic() {
		words += " One of these: " + alternatives(one) + "."
	}
	about := g.comments[f.FullName()]
	if about == "" { // then what it is made of says it
		if f.Enum() != nil {
			about = g.comments[f.Enum().FullName()]
		} else if of := block(f); of != nil {
			about = g.comments[of.FullName()]
		}
	}
	text := strings.TrimSpace(g.words(about) + words)
	fmt.Fprintf(&g.b, "| `%s` | %s | %s | %s | %s | %s | %s |\n", f.JSONName(), cell(r.GetField()), cell(holds(f)), unset, limits, cell(text), r.GetSection())
}

func alternatives(one protoreflect.OneofDescriptor) string {
	var names []string
	for i := range one.Fields().Len() {
		names = append(names, "`"+one.Fields().Get(i).JSONName()+"`")
	}
	return strings.Join(names, ", ")
}

func cell(s string) string { return strings.ReplaceAll(s, "|", "\\|") }

// holds says what a field may hold.
func holds(f protoreflect.FieldDescriptor) string {
	switch {
	case f.IsMap():
		keys := "text"
		if kind := schema.Of(f).GetNames(); kind != "" {
			keys = kind
		}
		return keys + ": " + one(f.MapValue(), "")
	case f.IsList():
		return "list of " + plural(one(f, schema.Of(f).GetNames()))
	}
	return one(f, schema.Of(f).GetNames())
}

func plural(s string) string {
	if strings.HasPrefix(s, "[") || s == "text" {
		return s
	}
	return s + "s"
}

func one(f protoreflect.FieldDescriptor, names string) string {
	switch {
	case names != "":
		return names
	case block(f) != nil:
		return fmt.Sprintf("[%s](#%s)", f.Message().Name(), anchor(f.Message()))
	case f.Message() != nil && f.Message().Name() == "Duration":
		return "duration"
	case f.Message() != nil:
		return "text: text"
	}
	switch f.Kind() {
	case protoreflect.StringKind:
		return "text"
	case protoreflect.BoolKind:
		return "true or false"
	case protoreflect.EnumKind:
		return "word"
	}
	return "number"
}

var (
	namedDoc = regexp.MustCompile(`\bdocs/([A-Za-z0-9_-]+\.md)\b`)
	snake    = regexp.MustCompile(`\b[A-Za-z0-9]+(?:_[A-Za-z0-9]+)+\b`)
)

// words turns a comment of the schema into one of the page: names as they are
// written in YAML, links from where the page stands.
func (g *generator) words(text string) string {
	text = namedDoc.ReplaceAllString(text, "[$1]($1)")
	return snake.ReplaceAllStringFunc(text, func(name string) string {
		for i := 0; i+1 < len(g.written); i += 2 {
			if g.written[i] == name {
				return "`" + g.written[i+1] + "`"
			}
		}
		return name
	})
}
