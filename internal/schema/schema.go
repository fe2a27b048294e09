// Package schema reads what the options of rules.proto say about the fields of
// the configuration: what an unset field stands for, what it may hold, what it
// names. It is the only reader of these options: checks, defaults, completion
// and docs/attributes.md all come from here.
//
// It is pure, and knows single fields only: what two fields mean together is
// the business of internal/config.
//
//	R1  the default of every field satisfies the field's own rule (checked by a test, so that it can be relied on)
//	R2  what is handed out may be changed by its receiver
package schema

import (
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/protoyaml"
)

// Files of the configuration.
var files = []protoreflect.FileDescriptor{v1.File_api_holdfast_v1_groups_proto, v1.File_api_holdfast_v1_objects_proto}

// Of returns the rule of a field; nil if it has none.
func Of(f protoreflect.FieldDescriptor) *v1.Rule {
	r, _ := proto.GetExtension(f.Options(), v1.E_Rule).(*v1.Rule)
	return r
}

// defaults of all fields that have one, by full name.
var defaults = sync.OnceValue(func() map[protoreflect.FullName]protoreflect.Value {
	out := map[protoreflect.FullName]protoreflect.Value{}
	eachField(func(f protoreflect.FieldDescriptor) {
		d := Of(f).GetDefault()
		if d == "" {
			return
		}
		v, faults := parse(f, d)
		if len(faults) > 0 {
			panic(fmt.Sprintf("schema: the default of %s: %v", f.FullName(), faults[0])) // of the source, not of any input
		}
		out[f.FullName()] = v
	})
	return out
})

func eachField(do func(protoreflect.FieldDescriptor)) {
	var messages func(protoreflect.MessageDescriptors)
	messages = func(list protoreflect.MessageDescriptors) {
		for i := range list.Len() {
			m := list.Get(i)
			for j := range m.Fields().Len() {
				do(m.Fields().Get(j))
			}
			messages(m.Messages())
		}
	}
	for _, f := range files {
		messages(f.Messages())
	}
}

// parse a value as it is written in YAML.
func parse(f protoreflect.FieldDescriptor, text string) (protoreflect.Value, []protoyaml.Fault) {
	t, err := messageType(f.ContainingMessage())
	if err != nil {
		return protoreflect.Value{}, []protoyaml.Fault{{Problem: err.Error()}}
	}
	m := t.New()
	var d protoyaml.Decoder
	for _, doc := range d.Split("", []byte(f.JSONName()+": "+text)) {
		d.Decode(doc, m.Interface(), protoyaml.Path{})
	}
	return m.Get(f), d.Faults()
}

// Default returns what a field stands for where it is unset.
func Default(f protoreflect.FieldDescriptor) (protoreflect.Value, bool) {
	v, ok := defaults()[f.FullName()]
	if ok && f.IsList() {
		// A list belongs to its message: hand out that of a new one.
		v, _ = parse(f, Of(f).GetDefault())
	} else if ok && f.Message() != nil {
		v = protoreflect.ValueOfMessage(proto.Clone(v.Message().Interface()).ProtoReflect())
	}
	return v, ok
}

// SetDefaults sets what is unset in m, and in the messages in it, and has a default.
func SetDefaults(m proto.Message) { setDefaults(m.ProtoReflect()) }

func setDefaults(m protoreflect.Message) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if !m.Has(f) {
			if v, ok := Default(f); ok {
				m.Set(f, v)
			}
			continue
		}
		switch {
		case isDuration(f):
		case f.IsMap():
			if f.MapValue().Message() != nil {
				m.Get(f).Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
					setDefaults(v.Message())
					return true
				})
			}
		case f.Message() == nil:
		case f.IsList():
			for j := range m.Get(f).List().Len() {
				setDefaults(m.Get(f).List().Get(j).Message())
			}
		default:
			setDefaults(m.Get(f).Message())
		}
	}
}

// Problem says what a field's rule has against one value (of a list or a map:
// against one of its values), "" if nothing, and what to write instead.
func Problem(f protoreflect.FieldDescriptor, v protoreflect.Value) (problem, fix string) {
	r := Of(f)
	if f.IsMap() {
		f = f.MapValue()
	}
	switch {
	case r == nil:
	case isDuration(f):
		d, _ := v.Message().Interface().(*durationpb.Duration)
		least, most := spans(r)
		switch {
		case !d.IsValid() || d.AsDuration() < 0:
			return "is " + protoyaml.Duration(d.AsDuration()), "write " + Range(r, true)
		case r.GetZero() && d.AsDuration() == 0 || most == 0:
		case d.AsDuration() < least || d.AsDuration() > most:
			return "is " + protoyaml.Duration(d.AsDuration()), "write " + Range(r, true)
		}
	case f.Kind() == protoreflect.StringKind:
		if words := r.GetWords(); len(words) > 0 && !slices.Contains(words, v.String()) {
			return fmt.Sprintf("%q is none of its values", v.String()), protoyaml.DidYouMean(v.String(), words, "values")
		}
	case f.Kind() == protoreflect.Uint32Kind, f.Kind() == protoreflect.Int32Kind, f.Kind() == protoreflect.Int64Kind:
		n := v.Interface()
		var i int64
		switch n := n.(type) {
		case uint32:
			i = int64(n)
		case int32:
			i = int64(n)
		case int64:
			i = n
		}
		if (r.GetMin() != 0 || r.GetMax() != 0) && (i < r.GetMin() || i > r.GetMax()) && !(r.GetZero() && i == 0) {
			return fmt.Sprintf("is %d", i), "write " + Range(r, false)
		}
	}
	return "", ""
}

// spans are the bounds of a duration.
func spans(r *v1.Rule) (least, most time.Duration) {
	least = time.Duration(r.GetMin()) * time.Second
	if r.GetLeast() != "" {
		least, _ = time.ParseDuration(r.GetLeast()) // that it can be read is tested
	}
	return least, time.Duration(r.GetMax()) * time.Second
}

// Range is what a rule allows, in words: "1 to 10", "50ms to 24h, or 0s"; "" if it sets no bounds.
func Range(r *v1.Rule, duration bool) string {
	if r.GetMin() == 0 && r.GetMax() == 0 && r.GetLeast() == "" {
		return ""
	}
	least, most, zero := strconv.FormatInt(r.GetMin(), 10), strconv.FormatInt(r.GetMax(), 10), "0"
	if duration {
		l, m := spans(r)
		least, most, zero = protoyaml.Duration(l), protoyaml.Duration(m), "0s"
	}
	text := least + " to " + most
	if r.GetZero() {
		text += ", or " + zero
	}
	return text
}

func isDuration(f protoreflect.FieldDescriptor) bool {
	return f.Message() != nil && f.Message().FullName() == "google.protobuf.Duration"
}
