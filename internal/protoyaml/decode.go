package protoyaml

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
)

const (
	// MaxBytes of one text.
	MaxBytes = 8 << 20
	// maxNodes of one text with its aliases written out: keeps a text of
	// aliases to aliases from growing without end.
	maxNodes = 1 << 20
	maxDepth = 50
	// MaxFaults that are reported of one decoder.
	MaxFaults = 200
)

// A Document is one YAML document.
type Document struct {
	root *yaml.Node
	file string
}

// A Decoder turns documents into messages and collects faults. The zero value
// is ready.
type Decoder struct {
	faults         []Fault
	places         map[string]place
	nodes          int
	depth          int
	overflow, full bool
	lost           bool
	file           string
}

type place struct {
	file       string
	key, value position
}

type position struct{ line, column int }

// Split parses a text into its documents. What can't be parsed is a fault.
func (d *Decoder) Split(file string, text []byte) []Document {
	d.file = file
	switch {
	case len(text) > MaxBytes:
		d.lost = true
		d.add(Fault{Problem: fmt.Sprintf("has %d bytes, more than %d", len(text), MaxBytes)})
		return nil
	case !utf8.Valid(text):
		d.lost = true
		bad := firstInvalid(text)
		line := 1 + bytes.Count(text[:bad], []byte("\n"))
		column := bad - bytes.LastIndexByte(text[:bad], '\n')
		d.add(Fault{Line: line, Column: column, Problem: "is not UTF-8 here", Fix: "save the file as UTF-8 text"})
		return nil
	}
	var docs []Document
	dec := yaml.NewDecoder(bytes.NewReader(text))
	for {
		var n yaml.Node
		err := dec.Decode(&n)
		if errors.Is(err, io.EOF) {
			return docs
		}
		if err != nil {
			d.syntax(err)
			return docs
		}
		if len(n.Content) == 1 && !isNull(n.Content[0]) {
			docs = append(docs, Document{root: n.Content[0], file: file})
		}
	}
}

func firstInvalid(text []byte) int {
	for i := 0; i < len(text); {
		r, n := utf8.DecodeRune(text[i:])
		if r == utf8.RuneError && n <= 1 {
			return i
		}
		i += n
	}
	return len(text)
}

var yamlLine = regexp.MustCompile(`^(?:line (\d+): )?(.*)$`)

// Lost says that a part of a text could not be read at all.
func (d *Decoder) Lost() bool { return d.lost }

func (d *Decoder) syntax(err error) {
	d.lost = true
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	m := yamlLine.FindStringSubmatch(strings.SplitN(text, "\n", 2)[0])
	line, _ := strconv.Atoi(m[1])
	d.add(Fault{Line: line, Column: min(line, 1), Problem: "is not YAML: " + m[2], Fix: "check indentation, colons and quotes here and in the line above"})
}

// Add appends a fault that the caller has found; its place is looked up.
func (d *Decoder) Add(faults ...Fault) {
	for _, f := range d.Locate(faults) {
		d.add(f)
	}
}

// Faults returns all faults so far, in the order of the text.
func (d *Decoder) Faults() []Fault { return d.faults }

func (d *Decoder) add(f Fault) {
	switch {
	case len(d.faults) < MaxFaults:
		if f.File == "" {
			f.File = d.file
		}
		d.faults = append(d.faults, f)
	case !d.full:
		d.full = true
		d.faults = append(d.faults, Fault{File: d.file, Problem: "more faults follow", Fix: "mend these first"})
	}
}

func (d *Decoder) at(n *yaml.Node, p Path, problem, fix string) {
	d.add(Fault{Line: n.Line, Column: n.Column, Path: p.String(), Problem: problem, Fix: fix})
}

// Locate fills in the places of faults that have none: that of the path, else
// that of the nearest object around it.
func (d *Decoder) Locate(faults []Fault) []Fault {
	out := slices.Clone(faults)
	for i := range out {
		f := &out[i]
		if f.Line != 0 {
			continue
		}
		for path := f.Path; path != ""; path = ParentOf(path) {
			if at, ok := d.places[path]; ok {
				pos := at.value
				if f.OnKey && at.key.line > 0 {
					pos = at.key
				}
				f.File, f.Line, f.Column = at.file, pos.line, pos.column
				break
			}
		}
	}
	return out
}

func (d *Decoder) place(p Path, key, value *yaml.Node) {
	if d.places == nil {
		d.places = map[string]place{}
	}
	if _, taken := d.places[p.String()]; taken {
		return
	}
	at := place{file: d.file, value: position{value.Line, value.Column}}
	if key != nil {
		at.key = position{key.Line, key.Column}
	}
	d.places[p.String()] = at
}

// Field returns the text of a top-level key of the document, "" if it has none.
func (doc Document) Field(name string) string {
	if _, v := find(doc.root, name); v != nil && v.Kind == yaml.ScalarNode {
		return v.Value
	}
	return ""
}

// Has says whether the document has a top-level key.
func (doc Document) Has(name string) bool {
	key, _ := find(doc.root, name)
	return key != nil
}

// Fault about a top-level key of the document, or about the document.
func (doc Document) Fault(key string, f Fault) Fault {
	n := doc.root
	if _, v := find(doc.root, key); v != nil {
		n = v
	}
	f.File, f.Line, f.Column = doc.file, n.Line, n.Column
	return f
}

func find(n *yaml.Node, name string) (key, value *yaml.Node) {
	if n.Kind != yaml.MappingNode {
		return nil, nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			return n.Content[i], n.Content[i+1]
		}
	}
	return nil, nil
}

// Decode puts a document into m, whose path is p; the keys in except are the
// caller's. What is at fault is left out of m.
func (d *Decoder) Decode(doc Document, m proto.Message, p Path, except ...string) {
	d.file = doc.file
	d.place(p, nil, doc.root)
	d.message(doc.root, m.ProtoReflect(), p, except)
}

// enter counts nodes and depth; a false result ends the branch.
func (d *Decoder) enter(n *yaml.Node, p Path) (*yaml.Node, bool) {
	d.nodes++
	d.depth++
	if !d.overflow && (d.nodes > maxNodes || d.depth > maxDepth) {
		d.overflow = true // said once; the rest of the text is ignored
		d.at(n, p, "is too deep or, with its aliases, too large", "write it out without aliases")
	}
	if d.overflow {
		return nil, false
	}
	if n.Kind == yaml.AliasNode {
		return n.Alias, n.Alias != nil
	}
	return n, true
}

func (d *Decoder) leave() { d.depth-- }

func (d *Decoder) message(n *yaml.Node, m protoreflect.Message, p Path, except []string) {
	n, ok := d.enter(n, p)
	defer d.leave()
	if !ok {
		return
	}
	if f := BareMap(m.Descriptor()); f != nil {
		d.mapping(n, m.Mutable(f).Map(), f, p)
		return
	}
	if n.Kind != yaml.MappingNode {
		d.at(n, p, "is "+describe(n)+", but must have keys", "write \"key: value\" lines, indented below it")
		return
	}
	fields := m.Descriptor().Fields()
	var known []string
	for i := range fields.Len() {
		known = append(known, fields.Get(i).JSONName())
	}
	present := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		present[n.Content[i].Value] = true
	}
	seen := map[string]*yaml.Node{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if !d.key(key, p, seen) || slices.Contains(except, key.Value) {
			continue
		}
		field := fields.ByJSONName(key.Value)
		if field == nil {
			d.at(key, p.Field(clip(key.Value)), "there is no such key", DidYouMean(key.Value, slices.Concat(known, except), "keys"))
			// Read it as what it was probably meant to be, so that nothing
			// else is reported for want of it.
			meant := Suggest(key.Value, known)
			if meant == "" || present[meant] {
				continue
			}
			present[meant] = true
			field = fields.ByJSONName(meant)
		}
		d.field(key, value, m, field, p)
	}
}

func (d *Decoder) key(key *yaml.Node, p Path, seen map[string]*yaml.Node) bool {
	switch {
	case key.Kind != yaml.ScalarNode:
		d.at(key, p, "has a key that is "+describe(key), "keys are plain words")
		return false
	case key.Tag == "!!merge":
		d.at(key, p, "merge keys (<<) are not supported", "write the keys out")
		return false
	case seen[key.Value] != nil:
		d.at(key, p.Field(clip(key.Value)), fmt.Sprintf("is written twice, first in line %d", seen[key.Value].Line), "remove one")
		return false
	}
	seen[key.Value] = key
	return true
}

func (d *Decoder) field(key, value *yaml.Node, m protoreflect.Message, f protoreflect.FieldDescriptor, parent Path) {
	p := parent.Field(f.JSONName())
	d.place(p, key, value)
	if isNull(value) {
		d.at(key, p, "has no value", "write one, or remove the key")
		return
	}
	if one := f.ContainingOneof(); one != nil && !one.IsSynthetic() {
		if other := m.WhichOneof(one); other != nil {
			d.at(key, p, "can't stand beside "+other.JSONName(), "write only one of "+alternatives(one))
			return
		}
	}
	switch {
	case f.IsMap():
		d.mapping(value, m.Mutable(f).Map(), f, p)
	case f.IsList():
		d.list(value, m, f, parent, p)
	case f.Message() != nil && !isDuration(f):
		d.message(value, m.Mutable(f).Message(), p, nil)
	default:
		if v, ok := d.scalar(value, f, p); ok {
			m.Set(f, v)
		}
	}
}

// alternatives of which one can be given.
func alternatives(one protoreflect.OneofDescriptor) string {
	var names []string
	for i := range one.Fields().Len() {
		names = append(names, one.Fields().Get(i).JSONName())
	}
	return strings.Join(names, ", ")
}

// mapping reads a map with text keys. Text values may be written as any plain
// value: what they are is said by somebody else (the type of a resource).
func (d *Decoder) mapping(n *yaml.Node, m protoreflect.Map, f protoreflect.FieldDescriptor, p Path) {
	n, ok := d.enter(n, p)
	defer d.leave()
	if !ok {
		return
	}
	if n.Kind != yaml.MappingNode {
		d.at(n, p, "is "+describe(n)+", but must have keys", "write \"Name: value\" lines, indented below it")
		return
	}
	of := f.MapValue()
	seen := map[string]*yaml.Node{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if !d.key(key, p, seen) {
			continue
		}
		at := p.Field(key.Value)
		d.place(at, key, value)
		k := protoreflect.ValueOfString(key.Value).MapKey()
		if value.Kind == yaml.AliasNode && value.Alias != nil {
			value = value.Alias
		}
		switch {
		case isNull(value):
			fix := "write one, or remove the key"
			if of.Kind() == protoreflect.StringKind {
				fix = "write one (\"\" for an empty text), or remove the key"
			}
			d.at(key, at, "has no value", fix)
		case of.Message() != nil && !isDuration(of):
			v := m.NewValue()
			d.message(value, v.Message(), at, nil)
			m.Set(k, v)
		case of.Kind() != protoreflect.StringKind:
			if v, ok := d.scalar(value, of, at); ok {
				m.Set(k, v)
			}
		case value.Kind != yaml.ScalarNode:
			d.at(value, at, "is "+describe(value)+", but must be one value", "write it in one line")
		default:
			m.Set(k, protoreflect.ValueOfString(value.Value))
		}
	}
}

func (d *Decoder) list(n *yaml.Node, m protoreflect.Message, f protoreflect.FieldDescriptor, parent, p Path) {
	n, ok := d.enter(n, p)
	defer d.leave()
	if !ok {
		return
	}
	if n.Kind != yaml.SequenceNode {
		fix := "write each entry in a line that begins with \"- \""
		if n.Kind == yaml.ScalarNode {
			fix = fmt.Sprintf("write [%s]", n.Value)
		}
		d.at(n, p, "is "+describe(n)+", but must be a list", fix)
		if n.Kind != yaml.ScalarNode || f.Message() != nil {
			return
		}
		n = &yaml.Node{Kind: yaml.SequenceNode, Line: n.Line, Column: n.Column, Content: []*yaml.Node{n}} // probably meant
	}
	list := m.Mutable(f).List()
	first := map[string]*yaml.Node{}
	for i, entry := range n.Content {
		if f.Message() == nil {
			at := p.Index(i)
			d.place(at, nil, entry)
			if v, ok := d.scalar(entry, f, at); ok {
				list.Append(v)
			}
			continue
		}
		at := parent.Object(Singular(f), elementName(f, entry, list.Len()))
		if before := first[at.String()]; before != nil {
			d.at(entry, at.Field(NameField(f.Message()).JSONName()), fmt.Sprintf("is defined twice, first in line %d", before.Line), "remove one, or give it another name")
			continue
		}
		first[at.String()] = entry
		d.place(at, nil, entry)
		v := list.NewElement()
		d.message(entry, v.Message(), at, nil)
		list.Append(v)
	}
}

// NameField is the field by which entries of a list are told from each other:
// their name, else the group that they are about; nil if there is none.
func NameField(m protoreflect.MessageDescriptor) protoreflect.FieldDescriptor {
	if f := m.Fields().ByName("name"); f != nil {
		return f
	}
	return m.Fields().ByName("group")
}

// elementName is the name of an entry of a list, else its number from 1.
func elementName(f protoreflect.FieldDescriptor, n *yaml.Node, i int) string {
	if n.Kind == yaml.AliasNode && n.Alias != nil {
		n = n.Alias
	}
	if name := NameField(f.Message()); name != nil {
		if _, v := find(n, name.JSONName()); v != nil && v.Kind == yaml.ScalarNode {
			return ElementName(v.Value, i)
		}
	}
	return ElementName("", i)
}

// ElementName is how an entry of a list is called in a path: by its name, else
// by its number, given from 0.
func ElementName(name string, i int) string {
	if name == "" {
		return fmt.Sprintf("number %d", i+1)
	}
	return name
}

// Singular is what one entry of a list of blocks is called.
func Singular(f protoreflect.FieldDescriptor) string {
	if s, ok := strings.CutSuffix(f.JSONName(), "ies"); ok {
		return s + "y"
	}
	return strings.TrimSuffix(f.JSONName(), "s")
}

func (d *Decoder) scalar(n *yaml.Node, f protoreflect.FieldDescriptor, p Path) (none protoreflect.Value, ok bool) {
	n, ok = d.enter(n, p)
	defer d.leave()
	if !ok {
		return none, false
	}
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		d.at(n, p, "is "+describe(n)+", but must be "+expected(f), "")
		return none, false
	}
	switch {
	case isDuration(f):
		return d.duration(n, p)
	case f.Kind() == protoreflect.StringKind:
		if n.Tag != "!!str" {
			// Taken all the same, so that nothing else is reported for want of it.
			d.at(n, p, "is "+describe(n)+", but must be text", fmt.Sprintf("write %q", n.Value))
		}
		return protoreflect.ValueOfString(n.Value), true
	case f.Kind() == protoreflect.BoolKind:
		if n.Tag != "!!bool" {
			d.at(n, p, "is "+describe(n)+", but must be true or false", "write "+boolean(n.Value))
			return none, false
		}
		return protoreflect.ValueOfBool(strings.EqualFold(n.Value, "true")), true
	case f.Kind() == protoreflect.EnumKind:
		return d.enum(n, f, p)
	default:
		return d.integer(n, f, p)
	}
}

func boolean(s string) string {
	switch strings.ToLower(s) {
	case "yes", "y", "on", "1":
		return "true"
	case "no", "n", "off", "0":
		return "false"
	}
	return "true or false"
}

func (d *Decoder) duration(n *yaml.Node, p Path) (none protoreflect.Value, ok bool) {
	v, err := time.ParseDuration(n.Value)
	if err == nil {
		return protoreflect.ValueOfMessage(durationpb.New(v).ProtoReflect()), true
	}
	fix := "write a number with a unit: 300ms, 5s, 1m30s, 2h"
	if n.Tag == "!!int" || n.Tag == "!!float" {
		fix = fmt.Sprintf("write %ss for seconds or %sms for milliseconds", n.Value, n.Value)
	}
	d.at(n, p, fmt.Sprintf("%q is not a duration", clip(n.Value)), fix)
	return none, false
}

func (d *Decoder) enum(n *yaml.Node, f protoreflect.FieldDescriptor, p Path) (none protoreflect.Value, ok bool) {
	values := f.Enum().Values()
	var known []string
	for i := range values.Len() {
		v := values.Get(i)
		if v.Number() == 0 {
			continue // "unspecified" is said by leaving the key out
		}
		if EnumWord(v) == n.Value {
			return protoreflect.ValueOfEnum(v.Number()), true
		}
		known = append(known, EnumWord(v))
	}
	d.at(n, p, fmt.Sprintf("%q is none of its values", clip(n.Value)), DidYouMean(n.Value, known, "values"))
	return none, false
}

func (d *Decoder) integer(n *yaml.Node, f protoreflect.FieldDescriptor, p Path) (none protoreflect.Value, ok bool) {
	if n.Tag != "!!int" {
		d.at(n, p, "is "+describe(n)+", but must be "+expected(f), number(n))
		return none, false
	}
	var err error
	var v protoreflect.Value
	fix := "write a whole number, in decimal digits"
	switch f.Kind() {
	case protoreflect.Int32Kind:
		var i int64
		i, err = strconv.ParseInt(n.Value, 10, 32)
		v = protoreflect.ValueOfInt32(int32(i))
	case protoreflect.Uint32Kind:
		var u uint64
		u, err = strconv.ParseUint(n.Value, 10, 32)
		fix = "write a whole number from 0, in decimal digits"
		v = protoreflect.ValueOfUint32(uint32(u))
	case protoreflect.Uint64Kind:
		var u uint64
		u, err = strconv.ParseUint(n.Value, 10, 64)
		fix = "write a whole number from 0, in decimal digits"
		v = protoreflect.ValueOfUint64(u)
	case protoreflect.Int64Kind:
		var i int64
		i, err = strconv.ParseInt(n.Value, 10, 64)
		v = protoreflect.ValueOfInt64(i)
	default:
		err = fmt.Errorf("kind %v", f.Kind())
	}
	if err != nil {
		d.at(n, p, clip(n.Value)+" is out of range", fix)
		return none, false
	}
	return v, true
}

// number says what to write where a number is wanted and something else stands
// that means one.
func number(n *yaml.Node) string {
	switch {
	case n.Tag == "!!bool":
		return "write 1 for true, 0 for false"
	case n.Tag == "!!str":
		if _, err := strconv.ParseInt(n.Value, 10, 64); err == nil {
			return "write " + n.Value + " without quotes"
		}
		switch boolean(n.Value) {
		case "true":
			return "write 1"
		case "false":
			return "write 0"
		}
	}
	return ""
}

func expected(f protoreflect.FieldDescriptor) string {
	switch {
	case isDuration(f):
		return "a duration such as 300ms or 5s"
	case f.Kind() == protoreflect.StringKind:
		return "text"
	case f.Kind() == protoreflect.BoolKind:
		return "true or false"
	case f.Kind() == protoreflect.EnumKind:
		return "one word"
	}
	return "a whole number"
}

// describe says what a node is, for "is …, but must be …".
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a block of keys"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	}
	switch n.Tag {
	case "!!null":
		return "empty"
	case "!!int", "!!float":
		return "the number " + clip(n.Value)
	case "!!bool":
		return "the truth value " + clip(n.Value)
	case "!!str":
		return fmt.Sprintf("the text %q", clip(n.Value))
	}
	return fmt.Sprintf("%q with the tag %s", clip(n.Value), clip(n.Tag))
}

func clip(s string) string {
	if r := []rune(s); len(r) > 60 {
		return string(r[:60]) + "…"
	}
	return s
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

func isDuration(f protoreflect.FieldDescriptor) bool {
	return f.Message() != nil && f.Message().FullName() == "google.protobuf.Duration"
}
