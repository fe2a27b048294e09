package cli

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/api"
	"github.com/holdfast-ha/holdfast/internal/api/apifake"
	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
	"github.com/holdfast-ha/holdfast/internal/config"
	"github.com/holdfast-ha/holdfast/internal/group/agents"
)

var rewrite = flag.Bool("rewrite", false, "write golden files instead of comparing with them")

func TestMain(m *testing.M) {
	time.Local = time.UTC // times are printed in the local zone
	os.Unsetenv("HOLDFAST_API")
	os.Exit(m.Run())
}

// someTypes stand for the bundled ones where output is compared, so that a new
// attribute there does not matter here.
func someTypes() []*v1.ResourceType {
	limits := &v1.Limits{MonitorInterval: durationpb.New(10 * time.Second)}
	device := &v1.Attribute{Name: "Device", Kind: v1.AttributeKind_ATTRIBUTE_KIND_STRING, Required: true, Description: "Network card."}
	return []*v1.ResourceType{
		{Name: "IP", Operations: v1.Operations_OPERATIONS_ON_OFF, Bundled: true, Limits: limits, Description: "An address. It moves.", Attributes: []*v1.Attribute{
			{Name: "Address", Kind: v1.AttributeKind_ATTRIBUTE_KIND_PREFIX, Required: true, Unique: true, Description: "With prefix length."}, device}},
		{Name: "NIC", Operations: v1.Operations_OPERATIONS_NONE, Bundled: true, Description: "A network card.", Attributes: []*v1.Attribute{device}},
		{Name: "Process", Operations: v1.Operations_OPERATIONS_ON_OFF, Bundled: true, Limits: limits, Description: "A process.", Attributes: []*v1.Attribute{
			{Name: "PathName", Kind: v1.AttributeKind_ATTRIBUTE_KIND_PATH, Required: true, Description: "Program."},
			{Name: "Arguments", Kind: v1.AttributeKind_ATTRIBUTE_KIND_STRING}}},
	}
}

// site is a node behind a real unix socket.
type site struct {
	*apifake.Node
	socket string
	// Close ends its API.
	Close func() error
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := siteOf(t, "testdata/cluster.yaml", someTypes())
	s.Change(func(st *statepb.State, _ *api.Local) {
		apifake.Runs(st, "web", "n1")
		apifake.Runs(st, "db", "n2")
		st.Events = []*v1.Event{
			{Number: 1, TimeMs: s.Now - 3_600_000, Severity: v1.Severity_SEVERITY_INFORMATION, Code: "group.online", Group: "web", Node: "n1", Message: "web is online on n1"},
			{Number: 2, TimeMs: s.Now - 60_000, Severity: v1.Severity_SEVERITY_WARNING, Code: "node.evicted", Node: "n3", Message: "n3 was evicted: silent on both links for 1.002s"},
		}
		st.NextEvent = 2
		st.Decisions = []*v1.Decision{{Number: 1, TimeMs: s.Now, Group: "web", Node: "n1", Action: "online web on n1",
			Reasons: []string{"n1 comes first in the autoStartList"}, Rejections: []*v1.Rejection{{Node: "n2", Reason: "n1 comes first"}}}}
	})
	return s
}

// siteOf a configuration, with types in place of the bundled ones.
func siteOf(t *testing.T, file string, types []*v1.ResourceType) *site {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	docs := config.Parse(config.File{Name: file, Text: text})
	if f := docs.Check(nil, agents.Types(), false, agents.Check); len(f) > 0 {
		t.Fatal(f)
	}
	cfg := config.Complete(docs.Configuration(), types)
	cfg.Cluster.Uuid = "00112233445566778899aabbccddeeff"
	n, err := apifake.New("n1", cfg)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "hf")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &site{Node: n, socket: filepath.Join(dir, "api.sock")}
	l, err := net.Listen("unix", s.socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: api.NewHandlerAt(n, api.Root, func() time.Time { return time.UnixMilli(n.Now) })}
	s.Close = srv.Close
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	return s
}

// run a command line; what it prints and its exit status in one text.
func (s *site) run(t *testing.T, args ...string) string {
	t.Helper()
	return run(t, append([]string{"--api", s.socket}, args...)...)
}

// safeBuffer may be written to and read at the same time.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func run(t *testing.T, args ...string) string {
	t.Helper()
	var out, errs safeBuffer
	status := Main(t.Context(), Streams{In: strings.NewReader(""), Out: &out, Err: &errs}, args)
	text := out.String()
	if e := errs.String(); e != "" {
		text += "stderr:\n" + e
	}
	return fmt.Sprintf("%sexit %d\n", text, status)
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	name = filepath.Join("testdata", name+".golden")
	if *rewrite {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != got {
		t.Errorf("%s differs (go test ./internal/cli -rewrite writes it):\n%s\nwant\n%s", name, got, want)
	}
}

// troubled makes the cluster of the example: a link down, a fault, an
// operation, a frozen node.
func troubled(s *statepb.State, l *api.Local) {
	for _, p := range l.Peers.Peers {
		if p.GetNode() == "n3" {
			p.Links[0], p.State = guardpb.LinkState_LINK_STATE_DOWN, guardpb.LinkState_LINK_STATE_JEOPARDY
		}
	}
	var links []*guardpb.LinkStats
	for _, k := range l.Links {
		if k.GetNode() == "n3" && k.GetLink() == "net1" {
			k = &guardpb.LinkStats{Node: "n3", Link: "net1", State: guardpb.LinkState_LINK_STATE_DOWN, SinceHeard: durationpb.New(4200 * time.Millisecond), Forged: 3, Replayed: 1}
		}
		links = append(links, k)
	}
	l.Links = links
	s.Nodes["n2"].Frozen = true
	on := s.GroupStatus["db"].Nodes["n2"]
	on.Faulted = true
	on.Resources["db-server"] = &v1.ResourceStatus{State: v1.ResourceState_RESOURCE_STATE_FAULTED, Message: "process 812 was killed by signal 9", Restarts: 2, ChangedMs: 1_700_000_000_000}
	on.Want = v1.Want_WANT_OFFLINE
	s.GroupStatus["db"].Instances[""].NoTarget = true
	s.Operations = append(s.Operations, &v1.Operation{Id: 7, Kind: v1.OperationKind_OPERATION_KIND_GROUP_SWITCH, Group: "web", Node: "n2",
		State: v1.OperationState_OPERATION_STATE_RUNNING, Message: "web is going offline on n1", StartedMs: 1_700_000_000_000})
	s.NextOperation = 7
	l.Conditions = []api.Condition{{Code: "no-realtime", Warning: true, Message: "heartbeats run without real-time priority: not permitted"}}
}

func TestReads(t *testing.T) {
	s := newSite(t)
	for _, c := range []string{
		"status", "cluster show", "node list", "node show n2", "link list", "group list", "group show web", "resource list", "resource list --group db",
		"resource show web-ip", "type list", "type show IP", "export", "events", "events --severity warning", "events --since #1",
	} {
		golden(t, "well/"+strings.ReplaceAll(c, " ", "_"), "$ holdfast "+c+"\n"+s.run(t, strings.Fields(c)...))
	}
	s.Change(troubled)
	for _, c := range []string{
		"status", "node list", "link list", "group list", "group show db", "resource show db-server", "operation show 7",
		"status -o json", "status -o yaml", "link list -o json", "group show db -o json", "node list -o json", "cluster show -o json",
		"resource list -o json", "type list -o json", "events -o json", "export -o json", "operation show 7 -o json",
	} {
		golden(t, "troubled/"+strings.ReplaceAll(c, " ", "_"), "$ holdfast "+c+"\n"+s.run(t, strings.Fields(c)...))
	}
	s.Change(func(_ *statepb.State, l *api.Local) {
		l.Leader, l.Lease = "", api.Lease{Reason: "n2 and n3 silent for 1.2s"}
	})
	for _, c := range []string{"status", "group list", "group online web", "group online web -o json"} {
		golden(t, "noquorum/"+strings.ReplaceAll(c, " ", "_"), "$ holdfast "+c+"\n"+s.run(t, strings.Fields(c)...))
	}
}

// A cluster of any size fits one screen, as long as not much is wrong.
func TestLargeStatusFitsAScreen(t *testing.T) {
	m := &v1.StatusResponse{Source: &v1.Source{Node: "n1", Leader: "n1"}, Verdict: "degraded"}
	for i := range 64 {
		n := &v1.NodeInfo{Name: fmt.Sprint("n", i), Phase: v1.NodePhase_NODE_PHASE_RUNNING, LinkState: v1.LinkState_LINK_STATE_UP}
		if i == 7 {
			n.Phase = v1.NodePhase_NODE_PHASE_FAULTED
		}
		m.Nodes = append(m.Nodes, n)
	}
	for i := range 1000 {
		g := &v1.GroupInfo{Name: fmt.Sprint("g", i), State: v1.GroupState_GROUP_STATE_ONLINE, Node: "n1"}
		if i == 500 {
			g.State = v1.GroupState_GROUP_STATE_STARTING
		}
		m.Groups = append(m.Groups, g)
	}
	var b strings.Builder
	writeStatus(&b, m, false)
	text := b.String()
	for _, want := range []string{"n7 ", "63 nodes are well (--all lists them)", "g500 ", "999 groups are online (--all lists them)"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	if n := strings.Count(text, "\n"); n > 15 {
		t.Errorf("%d lines", n)
	}
}

// C2: every machine output begins with its schema.
func TestSchemaFirst(t *testing.T) {
	s := newSite(t)
	for _, c := range []string{"status", "cluster show", "node list", "node show n1", "link list", "group list", "group show web", "resource list",
		"resource show web-ip", "type list", "type show IP", "events", "explain group web", "simulate --fail n1", "export", "diff -f testdata/cluster.yaml"} {
		out := s.run(t, append(strings.Fields(c), "-o", "json")...)
		if !strings.HasPrefix(out, "{\n  \"schema\": \"") || !strings.HasSuffix(out, "exit 0\n") {
			t.Errorf("%s -o json:\n%s", c, out)
		}
	}
}

func TestRefusalsAndMistakes(t *testing.T) {
	s := newSite(t)
	var b strings.Builder
	for _, c := range []string{
		"grup list", "group lst", "group online", "group list extra", "status -o xml", "status --nodes", "node silence n1", "node silence n1 --for 1h",
		"group online wep", "group switch web --to n9", "group switch web --to n3", "resource online web-nic", "resource show wep-ip", "node stop n7", "type show Ip",
		"operation show x", "operation show 99", "events --since yesterday", "events --severity bad", "simulate", "simulate --fail n9", "simulate --online web@n9",
		"cluster set", "cluster set --peerinact 100ms", "cluster set --heartbeat fast", "cluster set --heartbeat 500ms", "cluster set --seed-nodes many",
		"cluster set --peerinact 2s --base-revision 99", "apply", "apply -f testdata/none.yaml", "diff -f testdata/cluster.yaml -o table extra",
		"--api ftp://x status", "--api https://localhost:1 status", "--api /nowhere/api.sock status", "cluster init -f testdata/cluster.yaml",
	} {
		fmt.Fprintf(&b, "$ holdfast %s\n%s\n", c, s.run(t, strings.Fields(c)...))
	}
	golden(t, "refusals", b.String())
}

func TestChanges(t *testing.T) {
	s := newSite(t)
	var b strings.Builder
	do := func(c string) {
		fmt.Fprintf(&b, "$ holdfast %s\n%s\n", c, s.run(t, strings.Fields(c)...))
	}
	do("node freeze n2")
	do("node unfreeze n2")
	do("group freeze web")
	do("group unfreeze web")
	do("group clear web")
	do("group clear web --on n1")
	do("group flush db")
	do("resource probe web-ip")
	do("resource clear web-ip --on n1")
	do("node silence n2 --for 20s")
	do("cluster set --peerinact 300ms --seed-nodes 3")
	do("cluster set --peerinact default")
	do("group switch web --to n2 --no-wait")
	do("group switch web --no-wait -o json")
	golden(t, "changes", b.String())
	st, err := s.State(t.Context())
	if err != nil || len(st.GetOperations()) != 2 || st.GetCluster().GetSeedNodes() != 3 {
		t.Errorf("state afterwards: %v, %v", st.GetOperations(), err)
	}
}

func contextWithCancel(t *testing.T) (context.Context, func()) {
	return context.WithCancel(t.Context())
}

func durationOf(d time.Duration) *durationpb.Duration { return durationpb.New(d) }

// quiet is a log for what is expected to go wrong.
func quiet() *log.Logger { return log.New(io.Discard, "", 0) }
