package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What the commands print is applied as it is, and resources of the types are checked by them.
func TestTypeImport(t *testing.T) {
	s := newSite(t)
	dir := filepath.Join(t.TempDir(), "Foo")
	if err := os.MkdirAll(filepath.Join(dir, "actions"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{"online", "offline", "monitor", "actions/check"} {
		if err := os.WriteFile(filepath.Join(dir, n), []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "FooTypes.cf"), []byte(
		"type Foo (\n static int MonitorInterval = 20\n static str ArgList[] = { Path, Disks, State }\n str Path\n str Disks[] = { \"a b\", c }\n)\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "doc.yaml")
	apply := func(text string) string {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return s.run(t, "apply", "-f", file)
	}
	for _, line := range [][]string{
		{"type", "import-ocf", "heartbeat:Dummy"}, {"type", "import-ocf", "IPaddr2"}, {"type", "import-ocf", "heartbeat:nginx"},
		{"type", "import-ocf", "--plain", "heartbeat:pgsql"}, {"type", "import-script", dir},
	} {
		out := run(t, line...)
		text, ok := strings.CutSuffix(out, "exit 0\n")
		if !ok {
			t.Fatalf("%s:\n%s", line, out)
		}
		if got := apply(text); !strings.Contains(got, "applied: revision") {
			t.Errorf("%s:\n%s\n%s", line, text, got)
		}
	}
	const group = `kind: Group
name: imported
systemList: [n1, n2]
resources:
  - name: imported-ip
    type: ocf-IPaddr2
    attributes: {ip: 10.9.9.9, nic: eth0}
  - name: imported-foo
    type: Foo
    attributes: {Path: /x, Disks: "d 'e f'"}
`
	if got := apply(group); !strings.Contains(got, "applied: revision") {
		t.Error(got)
	}
	for wrong, want := range map[string]string{
		strings.Replace(group, "ip: 10.9.9.9, ", "", 1):      "type ocf-IPaddr2 requires it",
		strings.Replace(group, "nic:", "nick:", 1):           "type ocf-IPaddr2 has no attribute nick",
		strings.Replace(group, "'e f'", "'e f", 1):           "quote",
		strings.Replace(group, "type: Foo", "type: Fooo", 1): `no type "Fooo"`,
	} {
		if got := apply(wrong); !strings.Contains(got, want) || !strings.Contains(got, "nothing was changed") {
			t.Errorf("want %q:\n%s", want, got)
		}
	}
	for _, c := range []struct{ line, want string }{
		{"type import-ocf heartbeat:Stateful", "say so with --plain"},
		{"type import-ocf heartbeat:Dumy", "there is Dummy"},
		{"type import-script /nowhere", "is no directory"},
		{"type import-script " + dir + " --attributes A --types x", "give one"},
	} {
		if got := run(t, strings.Fields(c.line)...); !strings.Contains(got, c.want) || !strings.HasSuffix(got, "exit 2\n") {
			t.Errorf("%s:\n%s", c.line, got)
		}
	}
	// What is gone is missed when the type is changed, and not when something else is.
	if err := os.Remove(filepath.Join(dir, "monitor")); err != nil {
		t.Fatal(err)
	}
	if got := apply(strings.Replace(group, "/x", "/y", 1)); !strings.Contains(got, "applied: revision") {
		t.Error(got)
	}
	changed := "kind: ResourceType\nname: Foo\nscript:\n  directory: " + dir + "\nattributes:\n- name: Path\n- name: Disks\n  kind: list\n"
	if got := apply(changed); !strings.Contains(got, file+":4:14: type Foo, script.directory: entry point monitor can't be called: "+dir+"/monitor does not exist") {
		t.Error(got)
	}
	if got := run(t, "type", "import-ocf", "--plain", "Stateful"); !strings.HasPrefix(got, "# Note: it can be promoted; Holdfast uses it in its plain mode only and never promotes it.\n") {
		t.Error(got)
	}
}
