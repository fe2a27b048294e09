package cli

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/holdfast-ha/holdfast/internal/api"
	"github.com/holdfast-ha/holdfast/internal/cluster/identity"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
	"github.com/holdfast-ha/holdfast/internal/config"
	"github.com/holdfast-ha/holdfast/internal/group/agents"
	"google.golang.org/protobuf/proto"
)

// TestApply runs the files of testdata/apply one after another against one
// cluster. Whatever is wrong with one, all of it is reported and nothing changes.
func TestApply(t *testing.T) {
	s := newSite(t)
	files, err := filepath.Glob("testdata/apply/*.yaml")
	if err != nil || len(files) < 5 {
		t.Fatal(files, err)
	}
	var b strings.Builder
	for _, f := range files {
		before, _ := s.State(t.Context())
		dry := s.run(t, "apply", "--dry-run", "-f", f)
		if now, _ := s.State(t.Context()); !proto.Equal(before, now) {
			t.Errorf("%s: a dry run has changed the state", f)
		}
		got := s.run(t, "apply", "-f", f)
		fmt.Fprintf(&b, "$ holdfast apply -f %s\n%s\n", f, got)
		after, _ := s.State(t.Context())
		if changed := !proto.Equal(state.Configuration(before), state.Configuration(after)); changed != strings.Contains(got, "applied: revision") {
			t.Errorf("%s: changed %v:\n%s", f, changed, got)
		}
		if _, refusal, refused := strings.Cut(got, "stderr:\n"); refused && !strings.HasSuffix(dry, refusal) {
			t.Errorf("%s: a dry run says\n%s\nbut it is\n%s", f, dry, refusal)
		}
	}
	golden(t, "apply", b.String())
}

// What export prints applies back unchanged.
func TestExportApplies(t *testing.T) {
	s := newSite(t)
	name := filepath.Join(t.TempDir(), "all.yaml")
	text := s.run(t, "export")
	if err := os.WriteFile(name, []byte(strings.TrimSuffix(text, "exit 0\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	got := s.run(t, "apply", "-f", name, "--prune", "--base-revision", "1")
	if got != "nothing to change: revision 1\nexit 0\n" {
		t.Errorf("%s\n%s", text, got)
	}
	s.Change(func(st *statepb.State, _ *api.Local) { st.ConfigRevision++ })
	if got := s.run(t, "apply", "-f", name, "--base-revision", "1"); !strings.HasSuffix(got, "exit 4\n") || !strings.Contains(got, api.CodeStale) {
		t.Error(got)
	}
}

// Faults of reading are told even when no daemon answers.
func TestApplyWithoutADaemon(t *testing.T) {
	name := filepath.Join(t.TempDir(), "x.yaml")
	if err := os.WriteFile(name, []byte("kind: Grup\nname: web\nsystemList: n1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got := run(t, "--api", "/nowhere/api.sock", "apply", "-f", name)
	for _, want := range []string{name + ":1:7:", name + ":3:13:", "[HF1002]", "what depends on its configuration was not checked", "exit 2"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in\n%s", want, got)
		}
	}
}

func TestClusterInit(t *testing.T) {
	out := filepath.Join(t.TempDir(), "new")
	got := run(t, "cluster", "init", "-f", "testdata/cluster.yaml", "--out", out)
	if !strings.HasPrefix(got, "made cluster shop, ") || !strings.HasSuffix(got, "exit 0\n") {
		t.Fatal(got)
	}
	for _, n := range []string{"n1", "n2", "n3"} {
		id, err := identity.Load(filepath.Join(out, n))
		if err != nil || id.Node != n {
			t.Errorf("%s: %v", n, err)
		}
	}
	if got := run(t, "cluster", "init", "-f", "testdata/cluster.yaml", "--out", out); !strings.HasSuffix(got, "exit 2\n") || !strings.Contains(got, "nothing was changed") {
		t.Error(got)
	}
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	if err := os.WriteFile(bad, []byte("kind: Cluster\nname: c\nspeed: 9\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	nowhere := filepath.Join(t.TempDir(), "nowhere")
	if got := run(t, "cluster", "init", "-f", bad, "--out", nowhere); !strings.Contains(got, bad+":3:1:") || !strings.Contains(got, "has 0 nodes") || !strings.HasSuffix(got, "exit 2\n") {
		t.Error(got)
	}
	if _, err := os.Stat(nowhere); err == nil {
		t.Error("a bad configuration has made a directory")
	}
	overHTTPS(t, out)
}

// overHTTPS asks a node over TLS, with a client certificate of its cluster and
// with one of another.
func overHTTPS(t *testing.T, out string) {
	id, err := identity.Load(filepath.Join(out, "n1"))
	if err != nil {
		t.Fatal(err)
	}
	s := newSite(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: api.NewHandler(s.Node, api.Root), TLSConfig: id.ServerTLS(), ErrorLog: quiet()}
	go srv.ServeTLS(l, "", "")
	t.Cleanup(func() { srv.Close() })

	client := filepath.Join(t.TempDir(), "alice")
	if got := run(t, "cluster", "client", "alice", "--authority", filepath.Join(out, "authority"), "--out", client); !strings.HasSuffix(got, "exit 0\n") {
		t.Fatal(got)
	}
	url := "https://" + l.Addr().String()
	if got := run(t, "--api", url, "--client-dir", client, "group", "list"); !strings.Contains(got, "web    online") {
		t.Error(got)
	}
	other := filepath.Join(t.TempDir(), "other")
	run(t, "cluster", "init", "-f", "testdata/cluster.yaml", "--out", other)
	foreign := filepath.Join(t.TempDir(), "mallory")
	run(t, "cluster", "client", "mallory", "--authority", filepath.Join(other, "authority"), "--out", foreign)
	if got := run(t, "--api", url, "--client-dir", foreign, "group", "list"); !strings.HasSuffix(got, "exit 7\n") {
		t.Errorf("with a certificate of another cluster:\n%s", got)
	}
}

func TestCompletion(t *testing.T) {
	s := newSite(t)
	for line, want := range map[string]string{
		"group online":          "db web",
		"node show":             "n1 n2 n3",
		"resource show":         "db-server web-nic web-ip web-server",
		"type show":             "IP NIC Process",
		"group switch web":      "",
		"group switch --to":     "n1 n2 n3",
		"events --severity":     "information warning error critical",
		"simulate --fail":       "n1 n2 n3",
		"resource list --group": "db web",
	} {
		args := append([]string{"__complete", "--api", s.socket}, append(strings.Fields(line), "")...)
		got := strings.Fields(strings.Split(run(t, args...), ":4")[0])
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %q, want %q", line, got, want)
		}
	}
	if got := run(t, "completion", "bash"); !strings.Contains(got, "exit 0") {
		t.Error(got)
	}
}

// The examples of the manual are right.
func TestManualExamples(t *testing.T) {
	text, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllSubmatch(text, -1)
	if len(blocks) < 3 {
		t.Fatalf("only %d examples", len(blocks))
	}
	var base = []byte(nil)
	for i, b := range blocks {
		docs := config.Parse(config.File{Name: fmt.Sprintf("example %d", i+1), Text: b[1]})
		var on = config.Parse(config.File{Name: "example 1", Text: base}).Configuration()
		if i == 0 {
			on, base = nil, b[1]
		}
		for _, f := range docs.Check(on, agents.Types(), false, agents.Check) {
			t.Error(f)
		}
	}
	timeline, err := os.ReadFile("../cluster/timers/testdata/timeline.txt")
	if err != nil {
		t.Fatal(err)
	}
	if first, _, _ := strings.Cut(string(timeline), "\n\npeerinact 300ms"); !strings.Contains(string(text), first) {
		t.Error("docs/configuration.md does not show the timeline of internal/cluster/timers")
	}
}
