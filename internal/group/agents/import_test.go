package agents

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

// fooDirectory has the scripts of an agent.
func fooDirectory(t *testing.T, names ...string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "Foo")
	if err := os.MkdirAll(filepath.Join(dir, "actions"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		if err := os.WriteFile(filepath.Join(dir, n), []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestImportScripts(t *testing.T) {
	dir := fooDirectory(t, "online", "offline", "monitor", "actions/check", "actions/more", "imf_init")
	got, notes, err := ImportScripts(ScriptImport{Dir: dir, TypesFile: "testdata/import/FooTypes.cf"})
	if err != nil {
		t.Fatal(err)
	}
	want := &v1.ResourceType{}
	text := `name: "Foo" operations: OPERATIONS_ON_OFF description: "By the scripts in DIR." script { directory: "DIR" }
		attributes { name: "PathName" kind: ATTRIBUTE_KIND_STRING }
		attributes { name: "Port" kind: ATTRIBUTE_KIND_INTEGER default: "80" registered: true }
		attributes { name: "Debug" kind: ATTRIBUTE_KIND_BOOLEAN default: "false" }
		attributes { name: "Disks" kind: ATTRIBUTE_KIND_LIST default: "sda 'sd b' 'it'\\''s'" registered: true }
		attributes { name: "Options" kind: ATTRIBUTE_KIND_MAP default: "rw=yes 'name=a b'" }
		attributes { name: "Users" kind: ATTRIBUTE_KIND_LIST default: "'a\"b'" }
		limits { monitor_interval { seconds: 30 } offline_monitor_interval {} online_timeout { seconds: 400 } restart_limit: 2 imf_mode: 3 imf_monitor_freq: 5 }
		intentional_offline: true num_threads: 4 script_priority: -5 supported_actions: ["check", "more"]
		arg_list: ["PathName", "Port", "Debug", "Disks", "Options"]`
	if err := prototext.Unmarshal([]byte(strings.ReplaceAll(text, "DIR", dir)), want); err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", prototext.Format(got), prototext.Format(want))
	}
	wantNotes := []string{
		`ToleranceLimit is left out: "none" is no number that it can have`,
		"AgentDirectory is left out: there is nothing like it in Holdfast",
		"Strange of IMF is left out: there is nothing like it in Holdfast",
		"Now is temporary and left out",
		"State of ArgList is not passed: it is no attribute of the type",
		"action gone.vfd is left out: there is no program actions/gone.vfd",
		"it has no clean: forcing a resource down means to kill what its online has left running",
		"imf_init is not called: the end of processes that online has left running is noticed without it",
	}
	if !slices.Equal(notes, wantNotes) {
		t.Errorf("notes %q", notes)
	}
	if values, err := words(got.Attributes[3].Default); err != nil || !slices.Equal(values, []string{"sda", "sd b", "it's"}) {
		t.Errorf("the list is read as %q, %v", values, err)
	}
}

func TestImportScriptsWithoutTypes(t *testing.T) {
	dir := fooDirectory(t, "online", "offline", "monitor", "clean")
	got, notes, err := ImportScripts(ScriptImport{Dir: dir, Attributes: []string{"B", "A"}, BareValues: true})
	if err != nil || len(notes) != 0 || len(got.Attributes) != 2 || got.Attributes[0].Name != "B" || !got.GetScript().GetBareValues() {
		t.Errorf("%v, %q, %v", got, notes, err)
	}
	if _, notes, err = ImportScripts(ScriptImport{Dir: dir}); err != nil || len(notes) != 1 || !strings.Contains(notes[0], "--attributes") {
		t.Errorf("%q, %v", notes, err)
	}
	// The file that lies there is taken.
	text := "type Foo ( static str AgentFile = \"/opt/VRTSvcs/bin/ScriptAgent\"\n static str ArgList[] = { A }\n str A )\n"
	if err := os.WriteFile(filepath.Join(dir, "some.cf"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, _, err = ImportScripts(ScriptImport{Dir: dir}); err != nil || !got.GetScript().GetBareValues() || len(got.Attributes) != 1 {
		t.Errorf("%v, %v", got, err)
	}
}

func TestImportScriptsRefuses(t *testing.T) {
	good := fooDirectory(t, "online", "offline", "monitor")
	file := filepath.Join(t.TempDir(), "x.cf")
	for _, c := range []struct {
		in    ScriptImport
		types string
		want  string
	}{
		{ScriptImport{Dir: "/nowhere"}, "", "is no directory"},
		{ScriptImport{Dir: fooDirectory(t, "online")}, "", "entry point offline can't be called"},
		{ScriptImport{Dir: good, Attributes: []string{"a b"}}, "", `"a b" can't be the name of an attribute`},
		{ScriptImport{Dir: good, TypesFile: "/nowhere"}, "", "no such file"},
		{ScriptImport{Dir: good}, "", "it defines no type"},
		{ScriptImport{Dir: good}, "type A ( ) type B ( )", "none of which is named like the directory, Foo: A, B"},
		{ScriptImport{Dir: good}, "type Foo (", "no closing parenthesis"},
		{ScriptImport{Dir: good}, "type Foo ( str )", `")" where the name of an attribute should be`},
		{ScriptImport{Dir: good}, "type Foo ( float x )", `"float" is no kind of attribute`},
		{ScriptImport{Dir: good}, "type Foo (\n str x = \"abc\n )", "line 2: a quoted value has no end"},
		{ScriptImport{Dir: good}, "type Foo ( str x = )", "a value should be"},
		{ScriptImport{Dir: good}, "type Foo ( int x = abc )", `x: "abc" is not a whole number`},
		{ScriptImport{Dir: good}, "type Foo ( str x[] = { a, ", "a value should be"},
		{ScriptImport{Dir: good}, "type Foo ( str x{} = { a } )", "= should be"},
		{ScriptImport{Dir: good}, "type Foo ( str x str x )", "defines x twice"},
		{ScriptImport{Dir: good}, "type Foo ( static str Operations = Maybe )", "none of OnOff, OnOnly and None"},
		{ScriptImport{Dir: good, BareValues: true}, "type Foo ( static str ArgList[] = { State } )", "count on its place"},
		{ScriptImport{Dir: good}, "/* type", "has no end"},
		{ScriptImport{Dir: good}, strings.Repeat(" ", maxTypesFile+1), "longer than"},
	} {
		if c.types != "" || c.want == "it defines no type" {
			if err := os.WriteFile(file, []byte(c.types), 0o600); err != nil {
				t.Fatal(err)
			}
			c.in.TypesFile = file
		}
		if _, _, err := ImportScripts(c.in); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.60q: %v", c.types, err)
		}
	}
}

// The description of an agent of version 1.1, with what that version has added.
func TestParseOCF(t *testing.T) {
	m, err := parseOCF([]byte(`<?xml version="1.0" encoding="ISO-8859-1"?>
<!DOCTYPE resource-agent SYSTEM "ra-api-1.dtd">
<resource-agent name="example" version="2"><version>1.1</version>
<longdesc lang="de">Ein Beispiel</longdesc><longdesc lang="en">An example.
  It does nothing.</longdesc><shortdesc>Example</shortdesc>
<parameters>
 <parameter name="address" unique-group="place" required="1" reloadable="0"><longdesc>W` + "\xfc" + `hl</longdesc><content type="string"/></parameter>
 <parameter name="port" unique-group="place" reloadable="1"><shortdesc>Port</shortdesc><content type="integer" default="403"/></parameter>
 <parameter name="mode" required="true" reloadable="1"><content type="select" default="live"><option value="live"/><option value="dry-run"/></content></parameter>
 <parameter name="config" unique-group="config"><content type="string" default="/etc/x"/></parameter>
 <parameter name="old"><deprecated/><content type="boolean" default="0"/></parameter>
 <parameter name="time"><content type="integer" default="60s"/></parameter>
 <parameter name="a=b"><content type="string"/></parameter>
 <parameter name="port"><content type="string"/></parameter>
</parameters>
<actions>
 <action name="start" timeout="2min"/><action name="stop" timeout="30"/>
 <action name="monitor" depth="0" timeout="20s" interval="15000ms"/><action name="monitor" depth="20" timeout="1h" interval="2h"/>
 <action name="monitor" depth="10" timeout="x"/>
 <action name="reload-agent" timeout="7s"/><action name="reload"/><action name="meta-data"/>
</actions></resource-agent>
trailing`))
	if err != nil {
		t.Fatal(err)
	}
	got, notes := m.resourceType("test", "example")
	want := &v1.ResourceType{}
	if err := prototext.Unmarshal([]byte(`name: "ocf-test-example" operations: OPERATIONS_ON_OFF
		description: "Example. An example. It does nothing." ocf { provider: "test" agent: "example" }
		attributes { name: "address" kind: ATTRIBUTE_KIND_STRING required: true description: "Wühl." }
		attributes { name: "port" kind: ATTRIBUTE_KIND_INTEGER description: "Port. By default 403." registered: true }
		attributes { name: "mode" kind: ATTRIBUTE_KIND_STRING words: ["live", "dry-run"] description: "By default live." registered: true }
		attributes { name: "config" kind: ATTRIBUTE_KIND_STRING description: "By default /etc/x." unique: true }
		attributes { name: "old" kind: ATTRIBUTE_KIND_STRING description: "Deprecated. A boolean. By default 0." }
		attributes { name: "time" kind: ATTRIBUTE_KIND_STRING description: "By default 60s." }
		attributes { name: "OCF_CHECK_LEVEL" kind: ATTRIBUTE_KIND_INTEGER default: "10" words: ["10", "20"] description: "How deep a monitor looks when levelTwoMonitorFreq makes it a deep one." }
		limits { monitor_interval { seconds: 15 } online_timeout { seconds: 120 } offline_timeout { seconds: 30 } monitor_timeout { seconds: 3600 } clean_timeout { seconds: 70 } attr_changed_timeout { seconds: 7 } }
		supported_actions: ["reload-agent", "reload"]`), want); err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", prototext.Format(got), prototext.Format(want))
	}
	wantNotes := []string{
		`parameter "a=b" is left out: it can't be the name of an attribute`,
		"parameter port is declared twice; the first counts",
		"no two resources may have the same values of address, port together; that is not checked",
	}
	if !slices.Equal(notes, wantNotes) {
		t.Errorf("notes %q", notes)
	}
}

func FuzzParseOCF(f *testing.F) {
	for _, name := range []string{"Dummy", "IPaddr2", "nginx", "Filesystem", "pgsql"} {
		file := filepath.Join(ocfRoot, "resource.d", "heartbeat", name)
		if b, err := describeOCF(f.Context(), ocfRoot, file, "heartbeat", name); err == nil {
			f.Add(b)
		}
	}
	f.Add([]byte(`<resource-agent><parameters><parameter name="a" unique="1"><content type="select"><option value=" "/></content></parameter></parameters></resource-agent>`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseOCF(b)
		if err != nil {
			return
		}
		typ, _ := m.resourceType("p", "agent")
		checkImported(t, typ)
		m.promotable()
	})
}

func FuzzParseTypes(f *testing.F) {
	f.Add(string(must(os.ReadFile("testdata/import/FooTypes.cf"))))
	f.Add("type T ( str a{} = { \"\" = b } )")
	f.Fuzz(func(t *testing.T, text string) {
		types, err := parseTypes(text)
		if err != nil {
			return
		}
		for _, ft := range types {
			typ := &v1.ResourceType{Limits: &v1.Limits{}, Agent: &v1.ResourceType_Script{Script: &v1.ScriptAgent{}}}
			if ft.into(typ, func(string, ...any) {}) != nil {
				continue
			}
			for i, a := range typ.Attributes {
				if a.Default == "" {
					continue
				}
				if err := checkValue(a.Kind, a.Default); err != nil {
					t.Errorf("%s: %v", a.Name, err)
				}
				if a.Kind == v1.AttributeKind_ATTRIBUTE_KIND_LIST {
					own := slices.DeleteFunc(slices.Clone(ft.attributes), func(o fieldAttribute) bool { return o.name != a.Name || o.static || o.temp })
					if values, err := words(a.Default); err != nil || !slices.Equal(values, own[0].values) {
						t.Errorf("attribute %d: %q became %q, %v", i, own[0].values, values, err)
					}
				}
			}
		}
	})
}
