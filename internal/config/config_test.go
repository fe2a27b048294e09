package config

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"pgregory.net/rapid"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/group/agents"
	"github.com/holdfast-ha/holdfast/internal/group/packages"
	"github.com/holdfast-ha/holdfast/internal/protoyaml"
)

// someTypes stand for the bundled ones, with an attribute of every kind.
func someTypes() []*v1.ResourceType {
	attr := func(name string, kind v1.AttributeKind) *v1.Attribute {
		return &v1.Attribute{Name: name, Kind: kind}
	}
	address := &v1.Attribute{Name: "Address", Kind: v1.AttributeKind_ATTRIBUTE_KIND_PREFIX, Required: true, Unique: true, Description: "The address that moves, with prefix length."}
	device := &v1.Attribute{Name: "Device", Kind: v1.AttributeKind_ATTRIBUTE_KIND_STRING, Required: true, Description: "Network card."}
	program := &v1.Attribute{Name: "StartProgram", Kind: v1.AttributeKind_ATTRIBUTE_KIND_COMMAND, Required: true}
	user := &v1.Attribute{Name: "User", Kind: v1.AttributeKind_ATTRIBUTE_KIND_STRING, Default: "root"}
	return []*v1.ResourceType{
		{Name: "Application", Operations: v1.Operations_OPERATIONS_ON_OFF, Bundled: true, Attributes: []*v1.Attribute{
			program, user,
			attr("PidFile", v1.AttributeKind_ATTRIBUTE_KIND_PATH),
			attr("Priority", v1.AttributeKind_ATTRIBUTE_KIND_INTEGER),
			attr("Restart", v1.AttributeKind_ATTRIBUTE_KIND_BOOLEAN),
			attr("Grace", v1.AttributeKind_ATTRIBUTE_KIND_DURATION),
		}},
		{Name: "IP", Operations: v1.Operations_OPERATIONS_ON_OFF, Bundled: true, Attributes: []*v1.Attribute{address, device},
			Limits: &v1.Limits{MonitorInterval: durationpb.New(10 * time.Second)}},
		{Name: "NIC", Operations: v1.Operations_OPERATIONS_NONE, Bundled: true, Attributes: []*v1.Attribute{device}},
	}
}

// TestScripts runs testdata/scripts: "check" prints what is wrong with documents,
// "apply" what is wrong with them on top of the last good ones and else what
// they change, "export" writes the last good ones, "defaults" with all that is unset,
// and "groups" writes packages as the groups that they become.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/scripts", func(t *testing.T, path string) {
		base := &v1.Configuration{}
		types, judges := someTypes(), []Judge(nil)
		if filepath.Base(path) == "packages" {
			// Packages are made of what is bundled.
			types, judges = agents.Types(), []Judge{agents.Check}
		}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			docs := Parse(File{Name: "cluster.yaml", Text: []byte(d.Input + "\n")})
			var on *v1.Configuration
			prune := d.HasArg("prune")
			switch d.Cmd {
			case "check":
			case "apply":
				on = base
			case "export":
				return string(Export(base))
			case "defaults":
				return string(Export(WithDefaults(base, types)))
			case "groups":
				// As they are planned with.
				out := &v1.Configuration{Groups: proto.CloneOf(base).Groups}
				for _, g := range out.Groups {
					g.Package = nil
				}
				return string(Export(out))
			default:
				t.Fatalf("no such verb: %s", d.Cmd)
			}
			if faults := docs.Check(on, types, prune, judges...); len(faults) > 0 {
				return lines(faults)
			}
			now, _ := Merge(on, docs.Configuration(), prune)
			now = Complete(now, types)
			changes := Diff(base, now)
			out := ""
			if d.Cmd == "apply" {
				out = Render(changes)
			}
			base = now
			return out + lines(docs.Locate(append(LintQuorum(now, 0), Lint(now, types)...))) + "no faults\n"
		})
	})
}

func lines(faults []Fault) string {
	var b strings.Builder
	for _, f := range faults {
		fmt.Fprintln(&b, f)
	}
	return b.String()
}

var (
	names = rapid.StringMatching(`[a-zA-Z0-9][a-zA-Z0-9_.-]{0,8}`)
	texts = rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"true", "yes", "~", "", "1", "0x1f", "1e3", "null", " a", "a: b", "# c", "- d", "a\nb\n", "\t", "'", `"`, "2001-01-01", "<<", "&a", "*a", "!!str"}))
	spans = rapid.Custom(func(t *rapid.T) *durationpb.Duration {
		return durationpb.New(time.Duration(rapid.Int64Range(0, int64(24*time.Hour)).Draw(t, "span")))
	})
)

// drawMessage fills a message at random; lists of messages have distinct names.
func drawMessage(t *rapid.T, m protoreflect.Message) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		label := string(f.FullName())
		if f == protoyaml.NameField(m.Descriptor()) {
			m.Set(f, protoreflect.ValueOfString(names.Draw(t, label)))
			continue
		}
		if f.Name() == "bundled" || f.FullName() == "holdfast.v1.Group.package" || rapid.IntRange(0, 2).Draw(t, label+"?") == 0 {
			continue
		}
		switch {
		case f.ContainingOneof() != nil && m.WhichOneof(f.ContainingOneof()) != nil:
		case f.IsMap():
			for _, k := range rapid.SliceOfNDistinct(texts, 0, 4, rapid.ID).Draw(t, label) {
				v := m.Mutable(f).Map().NewValue()
				if f.MapValue().Message() != nil {
					drawMessage(t, v.Message())
				} else {
					v = drawScalar(t, f.MapValue(), label)
				}
				m.Mutable(f).Map().Set(protoreflect.ValueOfString(k).MapKey(), v)
			}
		case f.IsList() && f.Message() != nil:
			seen := map[string]bool{}
			for range rapid.IntRange(0, 3).Draw(t, label) {
				e := m.Mutable(f).List().NewElement()
				drawMessage(t, e.Message())
				named := protoyaml.NameField(f.Message())
				name := ""
				if named != nil {
					name = e.Message().Get(named).String()
				}
				if named == nil || !seen[name] {
					m.Mutable(f).List().Append(e)
				}
				seen[name] = true
			}
		case f.IsList():
			for _, s := range rapid.SliceOfN(texts, 0, 3).Draw(t, label) {
				m.Mutable(f).List().Append(protoreflect.ValueOfString(s))
			}
		case f.Message() != nil && f.Message().Name() == "Duration":
			m.Set(f, protoreflect.ValueOfMessage(spans.Draw(t, label).ProtoReflect()))
		case f.Message() != nil:
			drawMessage(t, m.Mutable(f).Message())
		default:
			m.Set(f, drawScalar(t, f, label))
		}
	}
}

func drawScalar(t *rapid.T, f protoreflect.FieldDescriptor, label string) protoreflect.Value {
	switch f.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(texts.Draw(t, label))
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(rapid.Bool().Draw(t, label))
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(rapid.IntRange(1, f.Enum().Values().Len()-1).Draw(t, label)))
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(rapid.Uint32().Draw(t, label))
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(rapid.Int32().Draw(t, label))
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(rapid.Int64().Draw(t, label))
	}
	t.Fatalf("no generator for %s", f.FullName())
	return protoreflect.Value{}
}

// anyConfiguration is well-formed as objects, though not free of faults.
var anyConfiguration = rapid.Custom(func(t *rapid.T) *v1.Configuration {
	cfg := &v1.Configuration{}
	if rapid.Bool().Draw(t, "cluster") {
		cfg.Cluster = &v1.Cluster{}
		drawMessage(t, cfg.Cluster.ProtoReflect())
	}
	cfg.Nodes = distinct(t, func() *v1.Node { return &v1.Node{} })
	cfg.Types = distinct(t, func() *v1.ResourceType { return &v1.ResourceType{} })
	cfg.Groups = distinct(t, func() *v1.Group { return &v1.Group{} })
	for i, g := range cfg.Groups {
		if rapid.Bool().Draw(t, "package") {
			p := &v1.Package{}
			drawMessage(t, p.ProtoReflect())
			p.Name = g.Name
			cfg.Groups[i] = packages.Wrap(p)
		}
	}
	return cfg
})

func distinct[T named](t *rapid.T, make func() T) (out []T) {
	seen := map[string]bool{}
	for range rapid.IntRange(0, 3).Draw(t, "objects") {
		o := make()
		drawMessage(t, o.ProtoReflect())
		if !seen[o.GetName()] {
			out = append(out, o)
		}
		seen[o.GetName()] = true
	}
	return out
}

// F3.
func TestExportIsReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := anyConfiguration.Draw(t, "configuration")
		text := Export(cfg)
		if len(text) == 0 {
			return // of nothing; a file with nothing in it is refused
		}
		docs := Parse(File{Name: "x.yaml", Text: text})
		if f := docs.Faults(); len(f) > 0 {
			t.Fatalf("%s\n%s", lines(f), text)
		}
		if !proto.Equal(cfg, docs.Configuration()) {
			t.Fatalf("written:\n%s\nread back:\n%s", text, Export(docs.Configuration()))
		}
		if d := Diff(cfg, docs.Configuration()); len(d) > 0 {
			t.Fatalf("differs by %v", d)
		}
	})
}

// F4, for configurations close to each other.
func TestDiffSeesEveryChange(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := anyConfiguration.Draw(t, "a")
		b := anyConfiguration.Draw(t, "b")
		// Take some objects of a into b, so that many are equal.
		merged, _ := Merge(b, &v1.Configuration{Nodes: a.Nodes, Groups: a.Groups[:len(a.Groups)/2]}, rapid.Bool().Draw(t, "prune"))
		if merged.Cluster == nil || rapid.Bool().Draw(t, "same cluster") {
			merged.Cluster = a.Cluster
		}
		for _, other := range []*v1.Configuration{b, merged} {
			equal := string(sortedExport(a)) == string(sortedExport(other))
			if changes := Diff(a, other); (len(changes) == 0) != equal {
				t.Fatalf("equal: %v, changes: %v\n%s\n%s", equal, changes, sortedExport(a), sortedExport(other))
			}
		}
	})
}

// Of alternatives it matters which one is there, also where nothing is set in it.
func TestDiffSeesAlternatives(t *testing.T) {
	none := &v1.Configuration{Types: []*v1.ResourceType{{Name: "T"}}}
	systemd := &v1.Configuration{Types: []*v1.ResourceType{{Name: "T", Agent: &v1.ResourceType_Systemd{Systemd: &v1.SystemdAgent{}}}}}
	script := &v1.Configuration{Types: []*v1.ResourceType{{Name: "T", Agent: &v1.ResourceType_Script{Script: &v1.ScriptAgent{}}}}}
	for _, pair := range [][2]*v1.Configuration{{none, systemd}, {systemd, none}, {systemd, script}, {script, none}} {
		if len(Diff(pair[0], pair[1])) == 0 {
			t.Errorf("no difference between %v and %v", pair[0], pair[1])
		}
	}
	if d := Diff(systemd, systemd); len(d) > 0 {
		t.Errorf("%v", d)
	}
}

// sortedExport has objects sorted and no empty blocks: two configurations that
// mean the same have the same.
func sortedExport(cfg *v1.Configuration) []byte {
	base := &v1.Configuration{Cluster: cfg.GetCluster()}
	out := proto.CloneOf(cfg)
	out.Nodes, out.Groups, out.Types = sorted(out.Nodes), sorted(out.Groups), sorted(out.Types)
	out.Cluster = proto.CloneOf(base.Cluster)
	dropEmpty(out.ProtoReflect())
	return Export(out)
}

func sorted[T named](list []T) []T {
	m := map[string]T{}
	for _, o := range list {
		m[o.GetName()] = o
	}
	var out []T
	for _, k := range sortedKeys(m) {
		out = append(out, m[k])
	}
	return out
}

// dropEmpty removes blocks that have nothing set; durations stay.
func dropEmpty(m protoreflect.Message) (empty bool) {
	empty = true
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap() && f.MapValue().Message() != nil:
			v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
				dropEmpty(v.Message())
				return true
			})
			empty = false
		case f.IsMap() || f.Message() == nil || f.Message().Name() == "Duration":
			empty = false
		case f.IsList():
			for i := range v.List().Len() {
				dropEmpty(v.List().Get(i).Message())
			}
			empty = false
		case dropEmpty(v.Message()) && f.ContainingOneof() == nil:
			m.Clear(f)
		default:
			empty = false
		}
		return true
	})
	return empty
}

// F2: looking changes nothing, whatever is looked at.
func TestLookingChangesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := anyConfiguration.Draw(t, "configuration")
		before := proto.CloneOf(cfg)
		Check(cfg, someTypes())
		Lint(cfg, someTypes())
		WithDefaults(cfg, someTypes())
		Complete(cfg, someTypes())
		Merge(cfg, anyConfiguration.Draw(t, "documents"), true)
		if !proto.Equal(cfg, before) {
			t.Fatalf("changed: %v", Diff(before, cfg))
		}
	})
}

// A file of one fault has one fault: nothing that follows is reported with it.
func TestApplyKeepsFrozen(t *testing.T) {
	base := &v1.Configuration{Cluster: &v1.Cluster{Name: "c"}, Groups: []*v1.Group{{Name: "web", Frozen: true}}, Nodes: []*v1.Node{{Name: "n1", Frozen: true}}}
	out, _ := Merge(base, &v1.Configuration{Groups: []*v1.Group{{Name: "web"}}, Nodes: []*v1.Node{{Name: "n1"}}}, true)
	if !out.Groups[0].Frozen || !out.Nodes[0].Frozen {
		t.Errorf("unfrozen by an apply: %v", out)
	}
}

func TestCompleteReplacesBundledTypes(t *testing.T) {
	cfg := &v1.Configuration{Types: []*v1.ResourceType{{Name: "IP", Bundled: true, Description: "older"}, {Name: "Gone", Bundled: true}}}
	out := Complete(cfg, someTypes())
	if len(out.Types) != len(someTypes()) || out.Types[1].GetDescription() == "older" {
		t.Errorf("types: %v", out.Types)
	}
	if got := string(Export(out)); got != "" {
		t.Errorf("bundled types are exported:\n%s", got)
	}
}

func TestHugeInputsAreRefused(t *testing.T) {
	var bomb strings.Builder
	bomb.WriteString("kind: Group\nname: g\nresources:\n- &a {name: r, requires: &r [x, x, x, x, x, x, x, x, x, x]}\n")
	for range 300_000 {
		bomb.WriteString("- *a\n")
	}
	for name, text := range map[string]string{
		"too long": "# " + strings.Repeat("x", 9<<20),
		"aliases":  bomb.String(),
		"not utf8": "kind: Group\nname: \xff\n",
		"deep":     strings.Repeat("[", 20_000),
	} {
		faults := Parse(File{Name: "x.yaml", Text: []byte(text)}).Check(nil, someTypes(), false)
		if len(faults) == 0 || len(faults) > 500 {
			t.Errorf("%s: %d faults", name, len(faults))
			continue
		}
		t.Logf("%s: %v", name, faults[0])
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("kind: Cluster\nname: c\ntimers: {peerinact: 1s}\n---\nkind: Node\nname: n1\nlinks: [{name: a, address: 10.0.0.1}]\n"))
	f.Add([]byte("kind: Group\nname: g\nsystemList: [n1]\nresources:\n- {name: r, type: IP, attributes: {Address: 1.2.3.4/24}, requires: [r]}\n"))
	f.Add([]byte("kind: Package\nname: p\nnodeName: [\"*\"]\nservices: [{name: s, cmd: /bin/x, restart: -1}]\ndependencies: [{name: d, package: p, down: true}]\n"))
	f.Add([]byte("kind: ResourceType\nname: T\nscript: {directory: /x}\nattributes: [{name: A, kind: list}]\nargList: [A]\n"))
	f.Add([]byte("a: &a [*a]\n<<: *a\n? [x]\n: y\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		docs := Parse(File{Name: "f.yaml", Text: text})
		faults := docs.Check(nil, someTypes(), false)
		for _, x := range faults {
			if x.Problem == "" {
				t.Fatalf("fault without a problem: %+v", x)
			}
			_ = x.String()
		}
		cfg := docs.Configuration()
		Lint(cfg, someTypes())
		if len(faults) > 0 {
			return
		}
		again := Parse(File{Name: "g.yaml", Text: Export(cfg)})
		if f := again.Check(nil, someTypes(), false); len(f) > 0 || !proto.Equal(cfg, again.Configuration()) {
			t.Fatalf("%s\n%s", lines(f), Export(cfg))
		}
	})
}
