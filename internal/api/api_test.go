package api_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/api"
	"github.com/holdfast-ha/holdfast/internal/api/apifake"
	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
	"github.com/holdfast-ha/holdfast/internal/group/agents"
)

var rewrite = flag.Bool("rewrite", false, "write golden files instead of comparing with them")

func testConfig() *v1.Configuration {
	cfg := &v1.Configuration{
		Cluster: &v1.Cluster{Name: "shop"},
		Types:   agents.Types(),
		Groups: []*v1.Group{{Name: "web", SystemList: []string{"n1", "n2"}, AutoStartList: []string{"n1"}, Resources: []*v1.Resource{
			{Name: "nic", Type: "NIC", Attributes: map[string]string{"Device": "eth0"}},
			{Name: "app", Type: "FileOnOff", Attributes: map[string]string{"PathName": "/run/app"}, Requires: []string{"nic"}},
		}}},
	}
	for i := 1; i <= 3; i++ {
		cfg.Nodes = append(cfg.Nodes, &v1.Node{Name: fmt.Sprintf("n%d", i), Links: []*v1.Link{
			{Name: "net1", Address: fmt.Sprintf("10.0.1.%d", i)}, {Name: "net2", Address: fmt.Sprintf("10.0.2.%d", i)},
		}})
	}
	return cfg
}

// serve starts a server for node n1 on which web runs.
func serve(t *testing.T) (*apifake.Node, *http.Client, string) {
	t.Helper()
	n, err := apifake.New("n1", testConfig())
	if err != nil {
		t.Fatal(err)
	}
	n.Change(func(s *statepb.State, _ *api.Local) { apifake.Runs(s, "web", "n1") })
	srv := httptest.NewServer(api.NewHandler(n, api.Root))
	t.Cleanup(srv.Close)
	return n, srv.Client(), srv.URL
}

// codeOf an error that a call was answered with (S2).
func codeOf(t *testing.T, err error) string {
	t.Helper()
	var e *connect.Error
	if !errors.As(err, &e) {
		t.Fatalf("not an answer: %v", err)
	}
	for _, d := range e.Details() {
		v, err := d.Value()
		if err != nil {
			t.Fatal(err)
		}
		if d, ok := v.(*v1.ErrorDetail); ok {
			if api.CodeOf(d.GetCode()).Meaning == "" {
				t.Errorf("code %s is not in the table", d.GetCode())
			}
			return d.GetCode()
		}
	}
	t.Fatalf("an answer without a code: %v", err)
	return ""
}

func TestVerdicts(t *testing.T) {
	linkDown := func(l *api.Local, node string, link int) {
		for _, p := range l.Peers.Peers {
			if p.GetNode() == node {
				p.Links[link] = guardpb.LinkState_LINK_STATE_DOWN
				p.State = guardpb.LinkState_LINK_STATE_JEOPARDY
			}
		}
	}
	second := func(s *statepb.State) { // a group of which a part can run
		s.Groups["web"].Resources = append(s.Groups["web"].Resources, &v1.Resource{Name: "log", Type: "FileOnOff"})
		apifake.Runs(s, "web", "n1")
	}
	for name, c := range map[string]struct {
		change func(*statepb.State, *api.Local)
		want   string
	}{
		"all well": {func(*statepb.State, *api.Local) {}, "healthy: all 3 nodes up, 1 of 1 group online; any one node may fail"},
		"a link down": {func(_ *statepb.State, l *api.Local) { linkDown(l, "n3", 0) },
			"degraded: link net1 to n3 is down; the next link failure would lose n3"},
		"a node evicted": {func(s *statepb.State, _ *api.Local) {
			s.NodeStatus["n3"].Phase = statepb.NodePhase_NODE_PHASE_FAULTED
			s.View.Members = s.View.Members[:2]
		}, "degraded: node n3 has failed; the next node failure stops all groups: the other one can't tell who is left"},
		"not proven": {func(s *statepb.State, _ *api.Local) {
			s.NodeStatus["n1"].Phase = statepb.NodePhase_NODE_PHASE_FAULTED
			s.NodeStatus["n1"].Fence = &statepb.Fence{Wait: durationpb.New(time.Second)}
			s.View.Members = s.View.Members[1:]
		}, "failed: group web is unknown: it is not proven yet that n1 has stopped (on n1); node n1 has failed, and it is not proven yet that it has stopped; the next node failure stops all groups: the other one can't tell who is left"},
		"faulted": {func(s *statepb.State, _ *api.Local) {
			apifake.Runs(s, "web", "")
			s.GroupStatus["web"].Nodes["n1"].Faulted = true
			s.GroupStatus["web"].Instances[""].NoTarget = true
			s.GroupStatus["web"].Nodes["n1"].Resources["app"] = &v1.ResourceStatus{State: v1.ResourceState_RESOURCE_STATE_FAULTED, Message: "it crashed"}
		}, "failed: group web is faulted: app faulted: it crashed (on n1); any one node may fail"},
		"starting": {func(s *statepb.State, _ *api.Local) {
			s.GroupStatus["web"].Nodes["n1"].Resources["app"].State = v1.ResourceState_RESOURCE_STATE_OFFLINE
		}, "degraded: group web is starting on n1; any one node may fail"},
		"no quorum": {func(_ *statepb.State, l *api.Local) {
			l.Lease = api.Lease{Reason: "n2 and n3 silent for 1.2s"}
			l.Leader = ""
		}, "failed: no quorum: n1 runs nothing and changes nothing (n2 and n3 silent for 1.2s)"},
		"a resource held offline": {func(s *statepb.State, _ *api.Local) {
			second(s)
			on := s.GroupStatus["web"].Nodes["n1"]
			on.Want, on.HeldResources = v1.Want_WANT_ONLINE, []string{"app"}
			on.Resources["app"].State = v1.ResourceState_RESOURCE_STATE_OFFLINE
		}, "degraded: group web is partial on n1: an administrator took app offline; any one node may fail"},
		"a part missing that nobody took offline": {func(s *statepb.State, _ *api.Local) {
			second(s)
			on := s.GroupStatus["web"].Nodes["n1"]
			on.Want = v1.Want_WANT_NOTHING
			on.Resources["app"].State = v1.ResourceState_RESOURCE_STATE_OFFLINE
		}, "failed: group web is partial on n1; any one node may fail"},
		"its node was stopped": {func(s *statepb.State, _ *api.Local) {
			apifake.Runs(s, "web", "")
			b := s.GroupStatus["web"].Instances[""]
			b.WaitsForNode, b.Waiting = "n1", "n1 was stopped, and web with it"
			s.GroupStatus["web"].Nodes["n2"].Faulted = true
			s.NodeStatus["n1"].Phase = statepb.NodePhase_NODE_PHASE_DOWN
			s.View.Members = s.View.Members[1:]
		}, "degraded: node n1 is stopped; group web is offline: n1 was stopped, and web with it; the next node failure stops all groups: the other one can't tell who is left"},
		"held offline after a fault": {func(s *statepb.State, _ *api.Local) {
			apifake.Runs(s, "web", "")
			s.GroupStatus["web"].Instances[""].HeldOffline = true
			s.GroupStatus["web"].Nodes["n2"].Faulted = true
			s.GroupStatus["web"].Nodes["n2"].Resources["app"] = &v1.ResourceStatus{State: v1.ResourceState_RESOURCE_STATE_FAULTED, Message: "it crashed"}
		}, "degraded: group web, which an administrator took offline, is faulted: app faulted: it crashed (on n2); any one node may fail"},
		"held offline": {func(s *statepb.State, _ *api.Local) {
			apifake.Runs(s, "web", "")
			s.GroupStatus["web"].Instances[""].HeldOffline = true
		}, "healthy: all 3 nodes up, 0 of 1 group online (the others are not meant to be); any one node may fail"},
	} {
		t.Run(name, func(t *testing.T) {
			n, client, url := serve(t)
			n.Change(c.change)
			st, err := v1.NewClusterServiceClient(client, url).Status(t.Context(), connect.NewRequest(&v1.StatusRequest{}))
			if err != nil {
				t.Fatal(err)
			}
			if got := st.Msg.GetVerdict(); got != c.want {
				t.Errorf("verdict\n%s\nwant\n%s", got, c.want)
			}
			if want := strings.ToUpper("HEALTH_" + strings.SplitN(c.want, ":", 2)[0]); st.Msg.GetHealth().String() != want {
				t.Errorf("health %v, want %v", st.Msg.GetHealth(), want)
			}
		})
	}
}

// S3, S1: without a quorum reads say so, and changes are refused.
func TestNoQuorum(t *testing.T) {
	n, client, url := serve(t)
	n.Change(func(_ *statepb.State, l *api.Local) { l.Lease, l.Leader = api.Lease{}, "" })
	list, err := v1.NewGroupServiceClient(client, url).List(t.Context(), connect.NewRequest(&v1.ListGroupsRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	if src := list.Msg.GetSource(); src.GetQuorum() || src.GetNote() != "no quorum: this is what n1 last knew" {
		t.Errorf("source %v", src)
	}
	_, err = v1.NewGroupServiceClient(client, url).Offline(t.Context(), connect.NewRequest(&v1.OfflineGroupRequest{Group: "web"}))
	if code := codeOf(t, err); code != api.CodeNoQuorum {
		t.Errorf("refused with %s", code)
	}
}

func TestRefusals(t *testing.T) {
	_, client, url := serve(t)
	ctx := t.Context()
	groups, nodes, resources := v1.NewGroupServiceClient(client, url), v1.NewNodeServiceClient(client, url), v1.NewResourceServiceClient(client, url)
	clusters, configs := v1.NewClusterServiceClient(client, url), v1.NewConfigServiceClient(client, url)
	for name, c := range map[string]struct {
		call func() error
		code string
	}{
		"group": {func() error {
			_, err := groups.Show(ctx, connect.NewRequest(&v1.ShowGroupRequest{Group: "wep"}))
			return err
		}, api.CodeNotFound},
		"outside its list": {func() error {
			_, err := groups.Switch(ctx, connect.NewRequest(&v1.SwitchGroupRequest{Group: "web", Node: "n3"}))
			return err
		}, api.CodeConflict},
		"node": {func() error {
			_, err := nodes.Stop(ctx, connect.NewRequest(&v1.StopNodeRequest{Node: ""}))
			return err
		}, api.CodeNotFound},
		"silence": {func() error {
			_, err := nodes.Silence(ctx, connect.NewRequest(&v1.SilenceNodeRequest{Node: "n2", Length: durationpb.New(time.Hour)}))
			return err
		}, api.CodeBadRequest},
		"no silence": {func() error {
			_, err := nodes.Silence(ctx, connect.NewRequest(&v1.SilenceNodeRequest{Node: "n2"}))
			return err
		}, api.CodeConflict},
		"persistent": {func() error {
			_, err := resources.Offline(ctx, connect.NewRequest(&v1.OfflineResourceRequest{Resource: "nic"}))
			return err
		}, api.CodeConflict},
		"nothing to set": {func() error {
			_, err := clusters.Set(ctx, connect.NewRequest(&v1.SetClusterRequest{}))
			return err
		}, api.CodeBadRequest},
		"bad timers": {func() error {
			_, err := clusters.Set(ctx, connect.NewRequest(&v1.SetClusterRequest{Heartbeat: durationpb.New(time.Second)}))
			return err
		}, api.CodeBadConfig},
		"stale": {func() error {
			_, err := configs.Apply(ctx, connect.NewRequest(&v1.ApplyRequest{BaseRevision: 99, Documents: &v1.Configuration{}}))
			return err
		}, api.CodeStale},
		"in use": {func() error {
			_, err := configs.Apply(ctx, connect.NewRequest(&v1.ApplyRequest{Prune: true, Documents: &v1.Configuration{Nodes: testConfig().Nodes}}))
			return err
		}, api.CodeConflict},
	} {
		t.Run(name, func(t *testing.T) {
			err := c.call()
			if code := codeOf(t, err); code != c.code {
				t.Errorf("%s: %v", code, err)
			}
		})
	}
}

func TestSetChangesTimers(t *testing.T) {
	n, client, url := serve(t)
	resp, err := v1.NewClusterServiceClient(client, url).Set(t.Context(), connect.NewRequest(&v1.SetClusterRequest{Peerinact: durationpb.New(300 * time.Millisecond)}))
	if err != nil {
		t.Fatal(err)
	}
	s, _ := n.State(t.Context())
	if got := s.GetCluster().GetTimers().GetPeerinact().AsDuration(); got != 300*time.Millisecond {
		t.Errorf("peerinact %v", got)
	}
	if resp.Msg.GetConfigRevision() != s.GetConfigRevision() || len(resp.Msg.GetChanges()) != 1 {
		t.Errorf("answer %v, revision %d", resp.Msg, s.GetConfigRevision())
	}
	// 0 takes it back to the default.
	if _, err := v1.NewClusterServiceClient(client, url).Set(t.Context(), connect.NewRequest(&v1.SetClusterRequest{Peerinact: durationpb.New(0)})); err != nil {
		t.Fatal(err)
	}
	if s, _ = n.State(t.Context()); s.GetCluster().GetTimers() != nil {
		t.Errorf("timers %v", s.GetCluster().GetTimers())
	}
}

// Changes of others between looking and committing: without a base revision
// the change is made again.
func TestApplyRetries(t *testing.T) {
	n, client, url := serve(t)
	var racing bool
	racer := &raceBackend{Node: n, race: func() {
		if !racing {
			racing = true
			n.Change(func(s *statepb.State, _ *api.Local) { s.ConfigRevision++ })
		}
	}}
	srv := httptest.NewServer(api.NewHandler(racer, api.Root))
	t.Cleanup(srv.Close)
	_, _ = client, url
	docs := &v1.Configuration{Nodes: []*v1.Node{{Name: "n4", Links: []*v1.Link{{Name: "net1", Address: "10.0.1.4"}, {Name: "net2", Address: "10.0.2.4"}}}}}
	resp, err := v1.NewConfigServiceClient(srv.Client(), srv.URL).Apply(t.Context(), connect.NewRequest(&v1.ApplyRequest{Documents: docs}))
	if err != nil {
		t.Fatal(err)
	}
	if s, _ := n.State(t.Context()); s.GetNodes()["n4"] == nil || resp.Msg.GetConfigRevision() != s.GetConfigRevision() || !racing {
		t.Errorf("revision %d, answer %v", s.GetConfigRevision(), resp.Msg)
	}
}

type raceBackend struct {
	*apifake.Node
	race func()
}

func (b *raceBackend) Submit(ctx context.Context, c *statepb.Command) error {
	b.race()
	return b.Node.Submit(ctx, c)
}

func TestWatchOperation(t *testing.T) {
	n, client, url := serve(t)
	begun, err := v1.NewGroupServiceClient(client, url).Offline(t.Context(), connect.NewRequest(&v1.OfflineGroupRequest{Group: "web"}))
	if err != nil {
		t.Fatal(err)
	}
	id := begun.Msg.GetOperation().GetId()
	stream, err := v1.NewOperationServiceClient(client, url).Watch(t.Context(), connect.NewRequest(&v1.WatchOperationRequest{Id: id}))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for stream.Receive() {
		m := stream.Msg()
		got = append(got, fmt.Sprintf("%s %q", strings.TrimPrefix(m.GetOperation().GetState().String(), "OPERATION_STATE_"), m.GetProgress()))
		n.Change(func(s *statepb.State, _ *api.Local) {
			on := s.GroupStatus["web"].Nodes["n1"]
			switch {
			case on.GetWant() == v1.Want_WANT_ONLINE:
				on.Want = v1.Want_WANT_OFFLINE
				on.Resources["app"].Activity = v1.ResourceActivity_RESOURCE_ACTIVITY_OFFLINE
			default:
				apifake.Runs(s, "web", "")
				op := s.Operations[len(s.Operations)-1]
				op.State, op.Message = v1.OperationState_OPERATION_STATE_DONE, "web is offline"
			}
		})
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	want := []string{`RUNNING ""`, `RUNNING "web stopping on n1: 1 of 1 online, app going offline"`, `DONE "web is offline"`}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("watched\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	_, err = v1.NewOperationServiceClient(client, url).Get(t.Context(), connect.NewRequest(&v1.GetOperationRequest{Id: 77}))
	if code := codeOf(t, err); code != api.CodeNotFound {
		t.Errorf("unknown operation: %s", code)
	}
}

func TestFollowEvents(t *testing.T) {
	n, client, url := serve(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := v1.NewEventServiceClient(client, url).Follow(ctx, connect.NewRequest(&v1.FollowEventsRequest{Filter: &v1.ListEventsRequest{}}))
	if err != nil {
		t.Fatal(err)
	}
	note := func(numbers ...uint64) {
		n.Change(func(s *statepb.State, _ *api.Local) {
			s.Events = nil
			for _, i := range numbers {
				s.Events = append(s.Events, &v1.Event{Number: i, Message: fmt.Sprint("event ", i)})
			}
		})
	}
	next := func() *v1.FollowEventsResponse {
		if !stream.Receive() {
			t.Fatal(stream.Err())
		}
		return stream.Msg()
	}
	if e := next(); len(e.GetEvents()) != 0 {
		t.Errorf("before the first event: %v", e)
	}
	note(1, 2)
	first := next()
	if e := first.GetEvents(); len(e) != 2 || e[1].GetNumber() != 2 || first.GetMissed() != 0 {
		t.Errorf("first: %v", first)
	}
	note(1, 2, 3)
	if e := next().GetEvents(); len(e) != 1 || e[0].GetNumber() != 3 {
		t.Errorf("second: %v", e)
	}
	note(7, 8) // 4 to 6 were dropped before anybody looked
	third := next()
	if e := third.GetEvents(); len(e) != 2 || third.GetMissed() != 3 {
		t.Errorf("third: %v", third)
	}
}

func TestExplainAndSimulate(t *testing.T) {
	_, client, url := serve(t)
	why, err := v1.NewExplainServiceClient(client, url).Group(t.Context(), connect.NewRequest(&v1.ExplainGroupRequest{Group: "web"}))
	if err != nil {
		t.Fatal(err)
	}
	if why.Msg.GetGroup() != "web" || why.Msg.GetSource().GetNode() != "n1" || why.Msg.GetSummary() == "" {
		t.Errorf("explanation %v", why.Msg)
	}
	sim := v1.NewSimulateServiceClient(client, url)
	what, err := sim.Simulate(t.Context(), connect.NewRequest(&v1.SimulateRequest{Steps: []*v1.SimulateStep{
		{Step: &v1.SimulateStep_FailNodes{FailNodes: &v1.NodeNames{Nodes: []string{"n1"}}}}}}))
	if err != nil {
		t.Fatal(err)
	}
	if g := what.Msg.GetGroups(); len(g) != 1 || g[0].GetBefore() != "n1" || g[0].GetAfter() != "n2" {
		t.Errorf("simulation %v", what.Msg)
	}
	for _, bad := range []*v1.SimulateRequest{
		{}, {Steps: []*v1.SimulateStep{{}}}, {Steps: []*v1.SimulateStep{{Step: &v1.SimulateStep_FailNodes{}}}},
	} {
		_, err := sim.Simulate(t.Context(), connect.NewRequest(bad))
		if code := codeOf(t, err); code != api.CodeBadRequest {
			t.Errorf("%v: %s", bad, code)
		}
	}
}

func TestLinkStatesAndPhasesMatch(t *testing.T) {
	for n, name := range guardpb.LinkState_name {
		if v1.LinkState_name[n] != name {
			t.Errorf("link state %d is %s at guard and %s in the API", n, name, v1.LinkState_name[n])
		}
	}
	for n, name := range statepb.NodePhase_name {
		if v1.NodePhase_name[n] != name {
			t.Errorf("phase %d is %s in the state and %s in the API", n, name, v1.NodePhase_name[n])
		}
	}
}

// S2: docs/codes.md has the table. It is written by this test, and read by people.
func TestCodesAreDocumented(t *testing.T) {
	var b bytes.Buffer
	b.WriteString(codesIntro)
	b.WriteString("| status | meaning |\n|---|---|\n")
	for i, s := range api.ExitStatuses {
		if i > 0 && s.Status <= api.ExitStatuses[i-1].Status {
			t.Errorf("exit status %d stands behind %d", s.Status, api.ExitStatuses[i-1].Status)
		}
		fmt.Fprintf(&b, "| %d | %s |\n", s.Status, s.Meaning)
	}
	b.WriteString(codesErrors)
	b.WriteString("| code | exit | meaning | what to do |\n|---|---|---|---|\n")
	seen := map[string]bool{}
	for _, c := range api.Codes {
		if seen[c.Code] {
			t.Errorf("%s stands twice in the table", c.Code)
		}
		seen[c.Code] = true
		fmt.Fprintf(&b, "| %s | %d | %s | %s |\n", c.Code, c.Exit, c.Meaning, c.Do)
	}
	const name = "../../docs/codes.md"
	if *rewrite {
		if err := os.WriteFile(name, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(have, b.Bytes()) {
		t.Errorf("%s is not current: go test ./internal/api -rewrite", name)
	}
}

// S2: a code that is used anywhere stands in the table.
func TestCodesAreInTheTable(t *testing.T) {
	code := regexp.MustCompile(`"(HF[0-9]{4})"`)
	found := 0
	err := filepath.WalkDir("../..", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return err
		}
		raw, err := os.ReadFile(name)
		for _, m := range code.FindAllSubmatch(raw, -1) {
			found++
			if api.CodeOf(string(m[1])).Meaning == "" {
				t.Errorf("%s uses %s, which is not in the table in codes.go", name, m[1])
			}
		}
		return err
	})
	if err != nil || found < 10 {
		t.Errorf("%d codes found: %v", found, err)
	}
}

const codesIntro = `# Exit statuses and error codes

Written by a test from the tables in ` + "`internal/api/codes.go`" + `. Both are stable: programs may
rely on them. A number is never given another meaning, and never used again.

## Exit statuses of ` + "`holdfast`" + `

`

const codesErrors = `
## Error codes

Commands print the code in brackets at the end of an error; over the API it is in the
` + "`ErrorDetail`" + ` that goes with each refused call. HF1xxx: the request is wrong. HF2xxx: the
replicated state refuses it. HF3xxx: quorum and time. HF4xxx: connection. HF9xxx: a fault of Holdfast.

`
