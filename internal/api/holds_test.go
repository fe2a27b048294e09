package api

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// What is kept of a reason as one text is found in it again, whatever it says.
func TestStamps(t *testing.T) {
	at := time.Date(2024, 2, 29, 12, 0, 1, 0, time.UTC)
	s := &server{now: func() time.Time { return at }}
	for _, reason := range []string{"", "new disks", "a; b", "by hand at noon", "x; by eve at 2020-01-01T00:00:00Z", strings.Repeat("ü", maxReason)} {
		for _, who := range []string{"root", "user al at home", "node n2"} {
			ctx := context.WithValue(t.Context(), callerKey{}, Caller{Who: who})
			text, err := s.stamp(ctx, reason)
			if err != nil {
				t.Fatal(err)
			}
			if r, by, ms := unstamp(text); r != reason || by != who || ms != at.UnixMilli() {
				t.Errorf("%q by %q became %q: %q by %q at %d", reason, who, text, r, by, ms)
			}
		}
	}
	for _, bad := range []string{strings.Repeat("x", maxReason+1), "two\nlines", "bell\a"} {
		if _, err := s.stamp(t.Context(), bad); err == nil {
			t.Errorf("%q is taken for a reason", bad)
		}
	}
	// What the planner has written is a reason as it stands.
	if r, by, ms := unstamp("run script failed with status 2"); r != "run script failed with status 2" || by != "" || ms != 0 {
		t.Errorf("%q %q %d", r, by, ms)
	}
}

// An operation with propagate acts on the groups of its tree: whoever asks for it needs a role for all of them.
func TestPropagateNeedsAllGroups(t *testing.T) {
	on := func(groups ...string) (out []*v1.GroupDependency) {
		for _, g := range groups {
			out = append(out, &v1.GroupDependency{Group: g})
		}
		return out
	}
	s := &statepb.State{Groups: map[string]*v1.Group{
		"web": {Name: "web", DependsOn: on("app")}, "app": {Name: "app", DependsOn: on("db")}, "db": {Name: "db"}, "report": {Name: "report", DependsOn: on("db")},
		"test": {Name: "test", DependsOn: []*v1.GroupDependency{{Group: "db", Category: v1.GroupDependency_OFFLINE}}},
	}}
	for name, c := range map[string]struct {
		request any
		want    string
	}{
		"online":        {&v1.OnlineGroupRequest{Group: "app"}, "app"},
		"online down":   {&v1.OnlineGroupRequest{Group: "app", Propagate: true}, "app db"},
		"offline up":    {&v1.OfflineGroupRequest{Group: "app", Propagate: true}, "app web"},
		"offline child": {&v1.OfflineGroupRequest{Group: "db", Propagate: true}, "db app report web"},
		"switch both":   {&v1.SwitchGroupRequest{Group: "app", Propagate: true}, "app db report web"},
		"switch alone":  {&v1.SwitchGroupRequest{Group: "app"}, "app"},
	} {
		groups, ok := groupsOf(s, c.request)
		if got := strings.Join(groups, " "); !ok || got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	u := &v1.User{Name: "ann", Groups: map[string]v1.Role{"app": operator}}
	need := permissionFor("GroupService/Online")
	if !may(s, u, need, &v1.OnlineGroupRequest{Group: "app"}) || may(s, u, need, &v1.OnlineGroupRequest{Group: "app", Propagate: true}) {
		t.Error("an operator of one group can act on others by --propagate, or not even on its own")
	}
}

// A group in the words of Serviceguard; docs/explain.md has the table.
func TestPackageStates(t *testing.T) {
	type world struct {
		g  *v1.Group
		s  *statepb.State
		on *statepb.GroupOnNode
		b  *statepb.Instance
	}
	online := func(w world) {
		w.on.Want = v1.Want_WANT_ONLINE
		w.on.Resources["r"].State = v1.ResourceState_RESOURCE_STATE_ONLINE
		*w.b = statepb.Instance{Active: "n1", IntentOnline: true, Online: true, LastOnline: "n1"}
	}
	fault := func(w world) {
		w.on.Faulted = true
		w.on.Resources["r"].State = v1.ResourceState_RESOURCE_STATE_FAULTED
	}
	op := func(w world, kind v1.OperationKind) {
		w.s.Operations = append(w.s.Operations, &v1.Operation{Id: 1, Kind: kind, Group: "g", State: v1.OperationState_OPERATION_STATE_RUNNING})
		w.b.Operation = 1
	}
	depends := func(w world) { // an active group that depends on it
		w.s.Groups["up"] = &v1.Group{Name: "up", SystemList: []string{"n1"}, DependsOn: []*v1.GroupDependency{{Group: "g"}}, Resources: []*v1.Resource{{Name: "u", Type: "T"}}}
		w.s.GroupStatus["up"] = &statepb.GroupStatus{Nodes: map[string]*statepb.GroupOnNode{"n1": {Probed: true, Want: v1.Want_WANT_ONLINE,
			Resources: map[string]*v1.ResourceStatus{"u": {State: v1.ResourceState_RESOURCE_STATE_ONLINE}}}}}
	}
	for name, c := range map[string]struct {
		make func(world)
		want v1.PackageState
	}{
		"never started":            {func(world) {}, v1.PackageState_PACKAGE_STATE_HALTED},
		"online":                   {online, v1.PackageState_PACKAGE_STATE_RUNNING},
		"coming online":            {func(w world) { w.on.Want = v1.Want_WANT_ONLINE }, v1.PackageState_PACKAGE_STATE_STARTING},
		"waiting for a child":      {func(w world) { w.b.IntentOnline, w.b.Waiting = true, "it waits" }, v1.PackageState_PACKAGE_STATE_START_WAIT},
		"asked for, waiting":       {func(w world) { op(w, v1.OperationKind_OPERATION_KIND_GROUP_ONLINE) }, v1.PackageState_PACKAGE_STATE_START_WAIT},
		"going offline":            {func(w world) { online(w); w.on.Want = v1.Want_WANT_OFFLINE }, v1.PackageState_PACKAGE_STATE_HALTING},
		"going offline by a fault": {func(w world) { online(w); w.on.Want = v1.Want_WANT_OFFLINE; w.on.Faulted = true }, v1.PackageState_PACKAGE_STATE_FAILING},
		"giving way":               {func(w world) { online(w); w.on.Want = v1.Want_WANT_OFFLINE; w.b.GivesWayTo = "db" }, v1.PackageState_PACKAGE_STATE_FAILING},
		"halting, a parent is up":  {func(w world) { online(w); depends(w); op(w, v1.OperationKind_OPERATION_KIND_GROUP_OFFLINE) }, v1.PackageState_PACKAGE_STATE_HALT_WAIT},
		"failed, a parent is up": {func(w world) {
			online(w)
			depends(w)
			op(w, v1.OperationKind_OPERATION_KIND_GROUP_OFFLINE)
			w.on.Faulted = true
		}, v1.PackageState_PACKAGE_STATE_FAIL_WAIT},
		"taken offline":       {func(w world) { w.b.HeldOffline, w.b.LastOnline = true, "n1" }, v1.PackageState_PACKAGE_STATE_HALTED},
		"unable to offline":   {func(w world) { online(w); w.on.Resources["r"].UnableToOffline = true }, v1.PackageState_PACKAGE_STATE_HALT_ABORTED},
		"halt script says so": {func(w world) { w.on.Resources["r"].Verdict = v1.Verdict_VERDICT_HALT_ABORTED }, v1.PackageState_PACKAGE_STATE_HALT_ABORTED},
		"faulted":             {fault, v1.PackageState_PACKAGE_STATE_FAILED},
		"no target":           {func(w world) { fault(w); w.b.IntentOnline, w.b.NoTarget = true, true }, v1.PackageState_PACKAGE_STATE_FAILED},
		"looking for a place": {func(w world) { fault(w); w.b.IntentOnline, w.b.Cause = true, "r faulted" }, v1.PackageState_PACKAGE_STATE_RELOCATE_WAIT},
		"failed, switching off": {func(w world) {
			w.b.IntentOnline, w.b.Cause, w.s.GroupStatus["g"].SwitchingOff = true, "r faulted", "night"
		}, v1.PackageState_PACKAGE_STATE_FAILED},
		"in maintenance":        {func(w world) { online(w); w.s.GroupStatus["g"].Maintenance = "n1" }, v1.PackageState_PACKAGE_STATE_MAINTENANCE},
		"detached":              {func(w world) { online(w); w.on.Detached = true }, v1.PackageState_PACKAGE_STATE_DETACHED},
		"not probed":            {func(w world) { w.on.Probed = false }, v1.PackageState_PACKAGE_STATE_UNKNOWN},
		"nobody can tell":       {func(w world) { w.on.AutoDisabled = "n1 was lost" }, v1.PackageState_PACKAGE_STATE_UNKNOWN},
		"multi-node, never ran": {func(w world) { w.g.Parallel = true; w.s.GroupStatus["g"].Instances = map[string]*statepb.Instance{} }, v1.PackageState_PACKAGE_STATE_BLOCKED},
		"multi-node, all run": {func(w world) {
			w.g.Parallel = true
			online(w)
			w.s.GroupStatus["g"].Instances = map[string]*statepb.Instance{"n1": w.b, "n2": {}}
			w.s.GroupStatus["g"].Nodes["n2"] = proto.CloneOf(w.on)
		}, v1.PackageState_PACKAGE_STATE_RUNNING},
		"multi-node, they differ": {func(w world) {
			w.g.Parallel = true
			online(w)
			w.s.GroupStatus["g"].Instances = map[string]*statepb.Instance{"n1": w.b, "n2": {}}
		}, v1.PackageState_PACKAGE_STATE_CHANGING},
	} {
		on := func() *statepb.GroupOnNode {
			return &statepb.GroupOnNode{Probed: true, Resources: map[string]*v1.ResourceStatus{"r": {State: v1.ResourceState_RESOURCE_STATE_OFFLINE}}}
		}
		w := world{g: &v1.Group{Name: "g", SystemList: []string{"n1", "n2"}, Resources: []*v1.Resource{{Name: "r", Type: "T"}}}, on: on(), b: &statepb.Instance{}}
		w.s = &statepb.State{
			Nodes: map[string]*v1.Node{"n1": {Name: "n1"}, "n2": {Name: "n2"}}, Groups: map[string]*v1.Group{"g": w.g}, Types: map[string]*v1.ResourceType{"T": {Name: "T", Operations: v1.Operations_OPERATIONS_ON_OFF}},
			View:        &statepb.View{Members: []*statepb.Member{{Node: "n1"}, {Node: "n2"}}},
			NodeStatus:  map[string]*statepb.NodeStatus{"n1": {Phase: statepb.NodePhase_NODE_PHASE_RUNNING}, "n2": {Phase: statepb.NodePhase_NODE_PHASE_RUNNING}},
			GroupStatus: map[string]*statepb.GroupStatus{"g": {Nodes: map[string]*statepb.GroupOnNode{"n1": w.on, "n2": on()}, Instances: map[string]*statepb.Instance{"": w.b}}},
		}
		c.make(w)
		l := &look{State: w.s, local: &Local{Node: "n1"}, now: time.UnixMilli(0)}
		if got := l.groupInfo(w.g).GetPackageState(); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
	// Every state but those that need a change of the configuration to take time is reached above.
	if n := len(v1.PackageState_name) - 1; n != 18 {
		t.Errorf("%d states: this test knows 18", n)
	}
}

// What a snapshot keeps it gives back, and it keeps no secrets.
func TestSnapshots(t *testing.T) {
	cfg := &v1.Configuration{
		Cluster: &v1.Cluster{Name: "shop", Uuid: strings.Repeat("0", 32), FenceDevices: []*v1.FenceDevice{{Name: "ipmi", Agent: "fence_ipmilan", Parameters: map[string]string{"login": "hunter2"}, Plugs: map[string]string{"n1": "1"}}}},
		Nodes:   []*v1.Node{{Name: "n1", Links: []*v1.Link{{Name: "net1", Address: "10.0.0.1"}}}, {Name: "n2", Links: []*v1.Link{{Name: "net1", Address: "10.0.0.2"}}}},
		Groups:  []*v1.Group{{Name: "g", SystemList: []string{"n1", "n2"}, AutoStartList: []string{"n1"}, Resources: []*v1.Resource{{Name: "r", Type: "FileOnOff", Attributes: map[string]string{"PathName": "/run/r"}}}}},
	}
	s, err := Started(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s.Users = map[string]*v1.User{"ann": {Name: "ann"}}
	s.Invitations = map[string]*statepb.Invitation{"x": {Id: "x", SecretHash: []byte("secret")}}
	s.HeartbeatKey = &statepb.Rotation{Current: &statepb.Secret{Generation: 3, Fingerprint: []byte("print")}}
	s.Events = []*v1.Event{{Number: 1, Message: "past"}}
	s.ClockMs = 77
	s.GroupStatus["g"].Instances = map[string]*statepb.Instance{"": {Active: "n1", IntentOnline: true, PlacedMs: 5}}
	s.GroupStatus["g"].Nodes["n1"].Resources = map[string]*v1.ResourceStatus{"r": {State: v1.ResourceState_RESOURCE_STATE_FAULTED, Message: "it: crashed", Restarts: 2}}
	s.GroupStatus["g"].Freeze = &statepb.Freeze{By: "root", Reason: `quo"tes: and # more`}
	s.Signals = map[string]*statepb.Signal{"disk": {Nodes: map[string]*statepb.SignalValue{"n1": {Value: 12}}}}
	text := Snapshot(s)
	for _, secret := range []string{"hunter2", "ann", "secret", "print", "past"} {
		if strings.Contains(string(text), secret) {
			t.Errorf("the snapshot has %q:\n%s", secret, text)
		}
	}
	back, err := FromSnapshot("file", text)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	for what, pair := range map[string][2]proto.Message{
		"group status": {s.GroupStatus["g"], back.GroupStatus["g"]}, "node": {s.Nodes["n1"], back.Nodes["n1"]}, "node status": {s.NodeStatus["n2"], back.NodeStatus["n2"]},
		"view": {s.View, back.View}, "signal": {s.Signals["disk"], back.Signals["disk"]}, "group": {s.Groups["g"], back.Groups["g"]},
	} {
		if !proto.Equal(pair[0], pair[1]) {
			t.Errorf("%s\n%v\nbecame\n%v", what, pair[0], pair[1])
		}
	}
	if back.ClockMs != 77 || back.PlanRevision != s.PlanRevision || back.Cluster.GetName() != "shop" {
		t.Errorf("clock %d, revision %d", back.ClockMs, back.PlanRevision)
	}
	if s.Cluster.FenceDevices[0].Parameters["login"] != "hunter2" {
		t.Error("the state itself was changed")
	}
	// The reader of a backup is the same.
	if b, err := FromSnapshot("file", state.Backup(s)); err != nil || b.GetUsers()["ann"] == nil {
		t.Errorf("a backup: %v", err)
	}
}

// Whatever a file holds that somebody changed: an error or an answer, never a panic.
func FuzzSnapshot(f *testing.F) {
	s, err := Started(&v1.Configuration{
		Cluster: &v1.Cluster{Name: "c"}, Nodes: []*v1.Node{{Name: "n1", Links: []*v1.Link{{Name: "l", Address: "10.0.0.1"}}}, {Name: "n2", Links: []*v1.Link{{Name: "l", Address: "10.0.0.2"}}}, {Name: "n3", Links: []*v1.Link{{Name: "l", Address: "10.0.0.3"}}}},
		Groups: []*v1.Group{{Name: "g", SystemList: []string{"n1", "n2"}, Resources: []*v1.Resource{{Name: "r", Type: "FileOnOff", Attributes: map[string]string{"PathName": "/run/r"}}}}},
	})
	if err != nil {
		f.Fatal(err)
	}
	text := string(Snapshot(s))
	f.Add(text)
	f.Add(strings.ReplaceAll(text, "n2", "n9"))
	f.Add(strings.Replace(text, "groupStatus:", "groupStatus:\n  x: {}\n#", 1))
	f.Add(strings.Replace(text, "nodeStatus:", "nodeStatus: {}\n#", 1))
	f.Add(text[:len(text)/2])
	f.Add("schema: snapshot/1\n")
	f.Add("schema: snapshot/1\nformat: 1\nview: {members: [{node: n1}, {node: n1}]}\n")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := FromSnapshot("file", []byte(text))
		if err != nil {
			return
		}
		_, _ = Simulate(s, time.UnixMilli(0), &v1.SimulateRequest{Steps: []*v1.SimulateStep{
			{Step: &v1.SimulateStep_FailNodes{FailNodes: &v1.NodeNames{Nodes: []string{"n1"}}}}, {Step: &v1.SimulateStep_JoinNode{JoinNode: "n1"}},
			{Step: &v1.SimulateStep_Online{Online: &v1.GroupOnNodeName{Group: "g"}}}, {Step: &v1.SimulateStep_StopNode{StopNode: &v1.StopNodeName{Node: "n2", Evacuate: true}}},
		}})
	})
}

// A freeze ends by the cluster's clock, as the asked node reckons it now: the state has only its last committed reading.
func TestFreezesEndByTheClusterClock(t *testing.T) {
	s := &statepb.State{ClockMs: 1000, Groups: map[string]*v1.Group{"g": {Name: "g"}}, GroupStatus: map[string]*statepb.GroupStatus{"g": {Freeze: &statepb.Freeze{UntilClockMs: 605_000}}}}
	l := &look{State: s, local: &Local{ClockMs: 5000}, now: time.UnixMilli(1_700_000_000_000)}
	if got := l.clockMs(); got != 5000 {
		t.Errorf("the clock reads %d", got)
	}
	holds := l.groupHolds(s.Groups["g"])
	if len(holds) != 1 || holds[0].GetUntilMs() != 1_700_000_600_000 {
		t.Errorf("%v", holds)
	}
	l.local.ClockMs = 0 // a node that has just started knows no better than the state
	if got := l.clockMs(); got != 1000 {
		t.Errorf("the clock reads %d", got)
	}
}
