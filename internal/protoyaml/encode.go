package protoyaml

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
)

// A Pair is put before the fields of an encoded message.
type Pair struct{ Key, Value string }

// Options of encoding.
type Options struct {
	// First stands before the message's own fields.
	First []Pair
	// Full writes fields without presence even where they are empty, for
	// programs that should not have to guess.
	Full bool
}

// YAML encodes a message as one document. Equal messages give equal bytes.
func (o Options) YAML(m proto.Message) []byte {
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(o.node(m)); err != nil {
		panic(fmt.Sprintf("protoyaml: encoding a tree of plain nodes: %v", err))
	}
	return b.Bytes()
}

// JSON encodes a message as one indented object with a line end. Equal
// messages give equal bytes.
func (o Options) JSON(m proto.Message) []byte {
	var raw, out bytes.Buffer
	writeJSON(&raw, o.node(m))
	if err := json.Indent(&out, raw.Bytes(), "", "  "); err != nil {
		panic(fmt.Sprintf("protoyaml: own JSON: %v", err))
	}
	out.WriteByte('\n')
	return out.Bytes()
}

// JSONLine encodes a message as JSON in one line.
func (o Options) JSONLine(m proto.Message) []byte {
	var raw bytes.Buffer
	writeJSON(&raw, o.node(m))
	raw.WriteByte('\n')
	return raw.Bytes()
}

func (o Options) node(m proto.Message) *yaml.Node {
	n := o.message(m.ProtoReflect())
	var first []*yaml.Node
	for _, p := range o.First {
		first = append(first, text(p.Key), text(p.Value))
	}
	n.Content = slices.Concat(first, n.Content)
	if len(first) > 0 {
		n.Style = 0
	}
	return n
}

func (o Options) message(m protoreflect.Message) *yaml.Node {
	if f := BareMap(m.Descriptor()); f != nil {
		return o.value(f, m.Get(f))
	}
	n := &yaml.Node{Kind: yaml.MappingNode}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if !m.Has(f) && (!o.Full || f.HasPresence()) {
			continue
		}
		n.Content = append(n.Content, text(f.JSONName()), o.value(f, m.Get(f)))
	}
	if len(n.Content) == 0 {
		n.Style = yaml.FlowStyle
	}
	return n
}

func (o Options) value(f protoreflect.FieldDescriptor, v protoreflect.Value) *yaml.Node {
	switch {
	case f.IsMap():
		n := &yaml.Node{Kind: yaml.MappingNode}
		var keys []string
		v.Map().Range(func(k protoreflect.MapKey, _ protoreflect.Value) bool {
			keys = append(keys, k.String())
			return true
		})
		slices.Sort(keys)
		for _, k := range keys {
			n.Content = append(n.Content, text(k), o.single(f.MapValue(), v.Map().Get(protoreflect.ValueOfString(k).MapKey())))
		}
		if len(keys) == 0 {
			n.Style = yaml.FlowStyle
		}
		return n
	case f.IsList():
		n := &yaml.Node{Kind: yaml.SequenceNode}
		if f.Message() == nil || v.List().Len() == 0 {
			n.Style = yaml.FlowStyle
		}
		for i := range v.List().Len() {
			n.Content = append(n.Content, o.single(f, v.List().Get(i)))
		}
		return n
	}
	return o.single(f, v)
}

func (o Options) single(f protoreflect.FieldDescriptor, v protoreflect.Value) *yaml.Node {
	if isDuration(f) {
		return text(durationText(v.Message()))
	}
	switch f.Kind() {
	case protoreflect.MessageKind:
		return o.message(v.Message())
	case protoreflect.StringKind:
		return text(v.String())
	case protoreflect.EnumKind:
		if e := f.Enum().Values().ByNumber(v.Enum()); e != nil {
			return text(EnumWord(e))
		}
		return text(strconv.Itoa(int(v.Enum()))) // of a newer version
	case protoreflect.BoolKind:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: strconv.FormatBool(v.Bool())}
	case protoreflect.DoubleKind, protoreflect.FloatKind:
		value := strconv.FormatFloat(v.Float(), 'f', -1, 64)
		if !strings.ContainsAny(value, ".IN") {
			value += ".0" // without it YAML sees an integer, and the tag would have to be written
		}
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!float", Value: value}
	default:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!int", Value: v.String()}
	}
}

// plainLines is text that a YAML block shows as it is, without doubt about
// indentation, line ends or invisible characters.
var plainLines = regexp.MustCompile(`^([!-~]([ -~]*[!-~])?\n)+$`)

func text(s string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s}
	odd := strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || !unicode.IsPrint(r) })
	if odd && !plainLines.MatchString(s) {
		n.Style = yaml.DoubleQuotedStyle
	}
	return n
}

func durationText(m protoreflect.Message) string {
	if d, ok := m.Interface().(*durationpb.Duration); ok {
		return Duration(d.AsDuration())
	}
	return ""
}

// Duration writes d as people do: "1m", not "1m0s".
func Duration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// EnumName is the short name of an enum value: "onOff" for OPERATIONS_ON_OFF.
func EnumName(e protoreflect.Enum) string {
	if v := e.Descriptor().Values().ByNumber(e.Number()); v != nil {
		return EnumWord(v)
	}
	return strconv.Itoa(int(e.Number()))
}

// EnumWord is EnumName of a value by its descriptor.
func EnumWord(v protoreflect.EnumValueDescriptor) string {
	enum := v.Parent().(protoreflect.EnumDescriptor)
	short := strings.TrimPrefix(string(v.Name()), screaming(string(enum.Name()))+"_")
	var b strings.Builder
	for i, word := range strings.Split(strings.ToLower(short), "_") {
		if i > 0 && word != "" {
			word = strings.ToUpper(word[:1]) + word[1:]
		}
		b.WriteString(word)
	}
	return b.String()
}

// screaming turns AttributeKind into ATTRIBUTE_KIND.
func screaming(s string) string {
	var b strings.Builder
	for i, r := range s {
		if i > 0 && 'A' <= r && r <= 'Z' {
			b.WriteByte('_')
		}
		b.WriteRune(r)
	}
	return strings.ToUpper(b.String())
}

func writeJSON(b *bytes.Buffer, n *yaml.Node) {
	switch {
	case n.Kind == yaml.MappingNode:
		b.WriteByte('{')
		for i := 0; i+1 < len(n.Content); i += 2 {
			if i > 0 {
				b.WriteByte(',')
			}
			writeJSON(b, n.Content[i])
			b.WriteByte(':')
			writeJSON(b, n.Content[i+1])
		}
		b.WriteByte('}')
	case n.Kind == yaml.SequenceNode:
		b.WriteByte('[')
		for i, e := range n.Content {
			if i > 0 {
				b.WriteByte(',')
			}
			writeJSON(b, e)
		}
		b.WriteByte(']')
	case n.Tag == "!!str":
		enc := json.NewEncoder(b)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(n.Value); err != nil {
			panic(fmt.Sprintf("protoyaml: a string as JSON: %v", err))
		}
		b.Truncate(b.Len() - 1) // the encoder's line end
	default:
		b.WriteString(n.Value)
	}
}

// FieldText is the value of a scalar or list field in one line; its default's
// if it is not set.
func FieldText(m protoreflect.Message, f protoreflect.FieldDescriptor) string {
	if f.Message() != nil && !f.IsList() && !m.Has(f) {
		return ""
	}
	n := Options{}.value(f, m.Get(f))
	if n.Kind != yaml.SequenceNode {
		return n.Value
	}
	var parts []string
	for _, e := range n.Content {
		parts = append(parts, e.Value)
	}
	return "[" + strings.Join(parts, ", ") + "]"
}
