// Package protoyaml converts between protobuf messages and the YAML (and JSON)
// that people and their programs read and write: field names in lowerCamelCase,
// durations as "300ms", enum values by their own short names ("onOff"). A
// message that is nothing but a map named values is written as that map.
//
// Decoding is strict and goes on after a fault, so that everything wrong with a
// text is reported at once, each with its place and with what to write instead.
// It reads bytes and nothing else.
//
//	Y1  Decode(Encode(m)) = m
//	Y2  no input makes it panic, loop, or take memory out of proportion to its size
//	Y3  a fault says where: file, line, column, and the path of the object
//	Y4  an ignored key does not exist: what is not understood is a fault
package protoyaml

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// BareMap is the only field of a message that stands for its map, else nil.
func BareMap(m protoreflect.MessageDescriptor) protoreflect.FieldDescriptor {
	if m.Fields().Len() != 1 {
		return nil
	}
	if f := m.Fields().Get(0); f.IsMap() && f.Name() == "values" {
		return f
	}
	return nil
}

// A Fault is one thing that is wrong with a text or with what it describes.
type Fault struct {
	// File, Line and Column, from 1; Line 0: the place is not known.
	File         string
	Line, Column int
	// Path of the object: "group web, resource web-ip, attributes.Address".
	Path string
	// Problem, without a full stop.
	Problem string
	// Fix says what to write instead; may be empty.
	Fix string
	// OnKey: the place is the key's, not the value's.
	OnKey bool
	// Note marks what can be used all the same.
	Note bool
}

func (f Fault) String() string {
	var b strings.Builder
	if f.File != "" {
		b.WriteString(f.File)
		if f.Line > 0 {
			fmt.Fprintf(&b, ":%d:%d", f.Line, f.Column)
		}
		b.WriteString(": ")
	}
	if f.Note {
		b.WriteString("note: ")
	}
	if f.Path != "" {
		b.WriteString(f.Path)
		b.WriteString(": ")
	}
	b.WriteString(f.Problem)
	if f.Fix != "" {
		b.WriteString("; ")
		b.WriteString(f.Fix)
	}
	return b.String()
}

// A Path names a place in a configuration in the words of its reader.
type Path struct {
	text  string
	field bool // ends in a field: the next field follows after a dot
}

// Object is the path of an object: "group web".
func Object(kind, name string) Path { return Path{}.Object(kind, name) }

// Object appends an object inside p: "…, resource web-ip".
func (p Path) Object(kind, name string) Path {
	s := strings.TrimSpace(kind + " " + name)
	if p.text != "" {
		s = p.text + ", " + s
	}
	return Path{text: s}
}

// Field appends a field: "…, limits", then "….monitorInterval".
func (p Path) Field(name string) Path {
	switch {
	case p.text == "":
		return Path{text: name, field: true}
	case p.field:
		return Path{text: p.text + "." + name, field: true}
	default:
		return Path{text: p.text + ", " + name, field: true}
	}
}

// Index appends the place in a list, from 0.
func (p Path) Index(i int) Path {
	return Path{text: fmt.Sprintf("%s[%d]", p.text, i), field: true}
}

func (p Path) String() string { return p.text }

// ParentOf cuts the last step off a path; "" has none.
func ParentOf(path string) string {
	cut := max(strings.LastIndex(path, ", "), strings.LastIndex(path, "."), strings.LastIndex(path, "["))
	return path[:max(cut, 0)]
}
