package agent

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// What agents say is bounded, and never such that it can't be stored.
func TestInfoFits(t *testing.T) {
	if i := makeInfo(map[string]string{}); i.get() != nil {
		t.Errorf("%v", i)
	}
	said := map[string]string{"a": strings.Repeat("x", 3000), "b": strings.Repeat("y", 2000), "c": "\xff\xfe bad", "d": strings.Repeat("é", 3000)}
	got := makeInfo(said).get()
	if !slices.Equal(slices.Sorted(maps.Keys(got)), []string{"a", "c"}) || got["c"] != "\uFFFD bad" {
		t.Errorf("%v", got)
	}
	room := 0
	for k, v := range makeInfo(map[string]string{"long": strings.Repeat("é", 5000)}).get() {
		room += len(k) + len(v)
	}
	if room > maxInfo {
		t.Errorf("%d bytes", room)
	}
}

func TestFit(t *testing.T) {
	for _, c := range []struct {
		in   string
		n    int
		want string
	}{{"abc", 3, "abc"}, {"abcd", 3, "abc"}, {"aéé", 4, "aé"}, {"é", 1, ""}, {"\xffb", 10, "\uFFFDb"}} {
		if got := fit(c.in, c.n); got != c.want || !utf8.ValidString(got) {
			t.Errorf("%q in %d: %q, not %q", c.in, c.n, got, c.want)
		}
	}
}

// Every field of a status that is reported is compared with what is known, or a change of it alone would never be told again.
func TestKnownAs(t *testing.T) {
	s := &status{state: online}
	fields := s.proto().ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if f.Name() == "changed_ms" {
			continue // by another clock
		}
		k := s.proto()
		m := k.ProtoReflect()
		switch f.Kind() {
		case protoreflect.BoolKind:
			m.Set(f, protoreflect.ValueOfBool(true))
		case protoreflect.EnumKind:
			m.Set(f, protoreflect.ValueOfEnum(2))
		case protoreflect.Uint32Kind:
			m.Set(f, protoreflect.ValueOfUint32(7))
		case protoreflect.StringKind:
			m.Set(f, protoreflect.ValueOfString("m"))
		case protoreflect.MessageKind:
			m.Mutable(f).Map().Set(protoreflect.ValueOfString("a").MapKey(), protoreflect.ValueOfString("b"))
		default:
			t.Fatalf("%s is of a new kind", f.Name())
		}
		if s.knownAs(k) {
			t.Errorf("%s is not compared", f.Name())
		}
	}
	if !s.knownAs(s.proto()) {
		t.Error("it is not even known as what it is")
	}
}

func TestClock(t *testing.T) {
	if after(time.Hour, never) != never || after(never-1, 2) != never || after(1, 2) != 3 {
		t.Error("after")
	}
	if times(1<<32-1, 24*365*time.Hour) != never || times(3, time.Second) != 3*time.Second || times(0, never) != 0 {
		t.Error("times")
	}
}
