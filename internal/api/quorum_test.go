package api_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/api"
	"github.com/holdfast-ha/holdfast/internal/api/apifake"
	"github.com/holdfast-ha/holdfast/internal/arbiter"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// token of the arbiter with a number.
func token(n byte) string {
	return arbiter.Token{Address: fmt.Sprintf("192.0.2.%d:7947", n), Fingerprint: [arbiter.FingerprintSize]byte{n}, Instance: [arbiter.InstanceSize]byte{n},
		Expires: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)}.String()
}

func arbiterSpec(name string, n byte) *v1.PointSpec {
	return &v1.PointSpec{Name: name, Kind: &v1.PointSpec_ArbiterToken{ArbiterToken: token(n)}}
}

func diskSpec(name, path string) *v1.PointSpec {
	return &v1.PointSpec{Name: name, Kind: &v1.PointSpec_LockDisk{LockDisk: &v1.LockDiskSpec{Path: path}}}
}

// faultsOf an error, one line each.
func faultsOf(t *testing.T, err error) string {
	t.Helper()
	var e *connect.Error
	if !errors.As(err, &e) {
		t.Fatalf("not an answer: %v", err)
	}
	var lines []string
	for _, d := range e.Details() {
		if v, err := d.Value(); err == nil {
			for _, f := range v.(*v1.ErrorDetail).GetFaults() {
				lines = append(lines, strings.TrimSuffix(f.GetPath()+": "+f.GetProblem()+"; "+f.GetFix(), "; "))
			}
		}
	}
	return strings.Join(lines, "\n")
}

func wantedNames(t *testing.T, n *apifake.Node) string {
	t.Helper()
	s, err := n.State(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if s.GetWitness().GetWanted() == nil {
		return "nothing"
	}
	names := []string{}
	for _, p := range s.GetWitness().GetWanted().GetPoints() {
		names = append(names, p.GetName())
	}
	return strings.Join(names, " ")
}

func TestChangePoints(t *testing.T) {
	n, client, url := serve(t)
	q := v1.NewQuorumServiceClient(client, url)
	change := func(m *v1.ChangeQuorumRequest) *v1.ChangeQuorumResponse {
		t.Helper()
		resp, err := q.Change(t.Context(), connect.NewRequest(m))
		if err != nil {
			t.Fatalf("%v\n%s", err, faultsOf(t, err))
		}
		return resp.Msg
	}
	add := &v1.ChangeQuorumRequest{Add: []*v1.PointSpec{arbiterSpec("arb1", 1)}}
	first := change(add)
	if got := wantedNames(t, n); got != "arb1" || first.GetUnchanged() {
		t.Fatalf("wanted: %s, answer %v", got, first)
	}
	if want := []string{"n1/arb1", "n2/arb1", "n3/arb1"}; !slices.Equal(slices.Sorted(slices.Values(n.Tried)), want) || n.Tried[0] != "n1/arb1" {
		t.Errorf("tried %v", n.Tried)
	}
	// Interrupted and repeated: the same answer, while it is wanted and when it is in use.
	if again := change(add); again.GetUnchanged() || again.GetBaseRegister() != first.GetBaseRegister() {
		t.Errorf("repeated: %v", again)
	}
	_, err := q.Change(t.Context(), connect.NewRequest(&v1.ChangeQuorumRequest{Add: []*v1.PointSpec{arbiterSpec("arb2", 2)}}))
	if code := codeOf(t, err); code != api.CodeConflict {
		t.Errorf("another change meanwhile: %s", code)
	}
	if err := n.SetPoints(); err != nil {
		t.Fatal(err)
	}
	if again := change(add); !again.GetUnchanged() {
		t.Errorf("repeated when it is done: %v", again)
	}
	// From one to three.
	change(&v1.ChangeQuorumRequest{Add: []*v1.PointSpec{arbiterSpec("arb2", 2), diskSpec("disk1", "/dev/mapper/lock")}})
	if got := wantedNames(t, n); got != "arb1 arb2 disk1" {
		t.Fatalf("wanted: %s", got)
	}
	if err := n.SetPoints(); err != nil {
		t.Fatal(err)
	}
	// One in the place of another, also under its name.
	for range 2 {
		change(&v1.ChangeQuorumRequest{Remove: []string{"arb1"}, Add: []*v1.PointSpec{arbiterSpec("arb1", 9)}})
	}
	if got := wantedNames(t, n); got != "arb2 disk1 arb1" {
		t.Fatalf("wanted: %s", got)
	}
	if err := n.SetPoints(); err != nil {
		t.Fatal(err)
	}
	if r := change(&v1.ChangeQuorumRequest{Remove: []string{"arb1"}, Add: []*v1.PointSpec{arbiterSpec("arb1", 9)}}); !r.GetUnchanged() {
		t.Errorf("replaced again by the same: %v", r)
	}
	// One that abstains is added anew, by the same arbiter and under its name.
	n.Change(func(_ *statepb.State, l *api.Local) {
		l.Points = []api.PointStatus{{Name: "arb1", Known: true, Abstains: true}}
	})
	if r := change(&v1.ChangeQuorumRequest{Remove: []string{"arb1"}, Add: []*v1.PointSpec{arbiterSpec("arb1", 9)}}); r.GetUnchanged() || wantedNames(t, n) != "arb2 disk1 arb1" {
		t.Errorf("added anew: %v", r)
	}
	if err := n.SetPoints(); err != nil {
		t.Fatal(err)
	}
	change(&v1.ChangeQuorumRequest{Remove: []string{"arb1", "arb2"}})
	if got := wantedNames(t, n); got != "disk1" {
		t.Fatalf("wanted: %s", got)
	}
	if err := n.SetPoints(); err != nil {
		t.Fatal(err)
	}
	change(&v1.ChangeQuorumRequest{Remove: []string{"disk1"}})
	if got := wantedNames(t, n); got != "" {
		t.Fatalf("wanted: %s", got)
	}
}

func TestBadChangesOfPoints(t *testing.T) {
	cut := &v1.ChangeQuorumRequest{Add: []*v1.PointSpec{{Name: "a", Kind: &v1.PointSpec_ArbiterToken{ArbiterToken: token(1)[:20]}}}}
	for name, c := range map[string]struct {
		have   []*v1.PointSpec
		ask    *v1.ChangeQuorumRequest
		code   string
		faults []string
		says   string
	}{
		"nothing": {ask: &v1.ChangeQuorumRequest{}, code: api.CodeBadRequest},
		"two": {ask: &v1.ChangeQuorumRequest{Add: []*v1.PointSpec{arbiterSpec("a", 1), arbiterSpec("b", 2)}}, code: api.CodeConflict,
			says: "this would make 2 coordination points (a, b)"},
		"a second one": {have: []*v1.PointSpec{arbiterSpec("a", 1)}, ask: &v1.ChangeQuorumRequest{Add: []*v1.PointSpec{arbiterSpec("b", 2)}}, code: api.CodeConflict,
			says: "this would make 2 coordination points (a, b)"},
		"the same name": {have: []*v1.PointSpec{arbiterSpec("a", 1)}, ask: &v1.ChangeQuorumRequest{Add: []*v1.PointSpec{arbiterSpec("a", 2)}}, code: api.CodeConflict,
			says: "there is a coordination point a already"},
		"removing none": {have: []*v1.PointSpec{arbiterSpec("arb1", 1)}, ask: &v1.ChangeQuorumRequest{Remove: []string{"arb2"}}, code: api.CodeNotFound,
			says: "there is no coordination point arb2"},
		"replacing none": {have: []*v1.PointSpec{arbiterSpec("arb1", 1)}, ask: &v1.ChangeQuorumRequest{Remove: []string{"arb2"}, Add: []*v1.PointSpec{arbiterSpec("b", 2)}}, code: api.CodeNotFound},
		"two of three": {have: []*v1.PointSpec{arbiterSpec("a", 1), arbiterSpec("b", 2), arbiterSpec("c", 3)}, ask: &v1.ChangeQuorumRequest{Remove: []string{"a"}}, code: api.CodeConflict,
			says: "this would make 2 coordination points (b, c)"},
		"the same arbiter": {have: []*v1.PointSpec{arbiterSpec("a", 1)}, ask: &v1.ChangeQuorumRequest{Add: []*v1.PointSpec{arbiterSpec("b", 1), arbiterSpec("c", 3)}}, code: api.CodePoint,
			faults: []string{"points: a and b are the same arbiter 01000000000000000000000000000000: points must fail independently"}},
		"the same disk": {have: []*v1.PointSpec{diskSpec("a", "/dev/sdb")}, ask: &v1.ChangeQuorumRequest{Remove: []string{"a"}, Add: []*v1.PointSpec{diskSpec("b", "/dev/sdb")}}, code: api.CodePoint,
			faults: []string{"point b: it is the disk of a, which is in use; if it shall be used anew, take it out and format it first"}},
		"a cut token": {ask: cut, code: api.CodeBadRequest},
		"everything": {ask: &v1.ChangeQuorumRequest{Add: []*v1.PointSpec{
			{Name: "a b", Kind: &v1.PointSpec_LockDisk{LockDisk: &v1.LockDiskSpec{Path: "lock", Paths: map[string]string{"n9": "/dev/sdb", "n2": "sdc"}}}}, {Name: "x"}, diskSpec("x", "/dev/sdd")}},
			code: api.CodeBadRequest, faults: []string{
				`point a b, name: "a b" is no name; use letters, digits, '-', '_' and '.', beginning with a letter or digit, at most 63 of them`,
				`point a b, lock disk: the path, "lock", is not absolute; write it from / on; names that stay the same after a restart are under /dev/disk/by-id`,
				`point a b, lock disk: the path on n2, "sdc", is not absolute; write it from / on; names that stay the same after a restart are under /dev/disk/by-id`,
				`point a b, lock disk: there is no node "n9"; did you mean n1?`,
				`point x: is neither an arbiter nor a lock disk; give a token of an arbiter, or the path of a formatted lock disk`,
				`point x: is named twice; give each point a name of its own`}},
	} {
		t.Run(name, func(t *testing.T) {
			n, client, url := serve(t)
			q := v1.NewQuorumServiceClient(client, url)
			if c.have != nil {
				if _, err := q.Change(t.Context(), connect.NewRequest(&v1.ChangeQuorumRequest{Add: c.have})); err != nil {
					t.Fatal(err)
				}
				if err := n.SetPoints(); err != nil {
					t.Fatal(err)
				}
			}
			_, err := q.Change(t.Context(), connect.NewRequest(c.ask))
			if code := codeOf(t, err); code != c.code || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s: %v", code, err)
			}
			if got := faultsOf(t, err); c.faults != nil && got != strings.Join(c.faults, "\n") {
				t.Errorf("faults\n%s\nwant\n%s", got, strings.Join(c.faults, "\n"))
			}
			if got := wantedNames(t, n); got != "nothing" {
				t.Errorf("wanted: %s", got)
			}
		})
	}
}

// All nodes' reasons are told at once; a node that is down can be left out by force, one that says no can't.
func TestPointsThatNotAllReach(t *testing.T) {
	n, client, url := serve(t)
	q := v1.NewQuorumServiceClient(client, url)
	ask := func(force bool, add ...*v1.PointSpec) (*v1.ChangeQuorumResponse, error) {
		resp, err := q.Change(t.Context(), connect.NewRequest(&v1.ChangeQuorumRequest{Add: add, Force: force}))
		if err != nil {
			return nil, err
		}
		return resp.Msg, nil
	}
	n.Unprepared = map[string]error{"arb1": errors.New("token is not accepted: it was used")}
	_, err := ask(true, arbiterSpec("arb1", 1))
	if codeOf(t, err) != api.CodePoint || faultsOf(t, err) != "point arb1: token is not accepted: it was used" {
		t.Errorf("%v\n%s", err, faultsOf(t, err))
	}
	n.Unprepared = nil
	n.Trials = map[string]apifake.Trial{
		"n2/disk1": {Answer: &v1.TryPointResponse{Problem: "/dev/sdb is another disk than on n1", Other: true}},
		"n2/arb1":  {Answer: &v1.TryPointResponse{Problem: "192.0.2.1:7947: connection refused"}},
		"n3/arb1":  {Err: errors.New("n3 does not answer")},
	}
	for _, force := range []bool{false, true} {
		want := []string{
			"node n2, point arb1: 192.0.2.1:7947: connection refused",
			"node n2, point disk1: /dev/sdb is another disk than on n1; if this node has the disk under another path: --path disk1:n2=PATH",
		}
		if !force {
			want = append(want, "node n3, point arb1: the node can't be asked whether it reaches the point: n3 does not answer; start it, or go on without its word with --force")
		}
		_, err = ask(force, arbiterSpec("arb1", 1), diskSpec("disk1", "/dev/sdb"), arbiterSpec("arb2", 2))
		if got := faultsOf(t, err); codeOf(t, err) != api.CodePoint || got != strings.Join(want, "\n") {
			t.Errorf("force %v: %v\n%s\nwant\n%s", force, err, got, strings.Join(want, "\n"))
		}
	}
	if got := wantedNames(t, n); got != "nothing" {
		t.Errorf("wanted: %s", got)
	}
	delete(n.Trials, "n2/arb1")
	resp, err := ask(true, arbiterSpec("arb1", 1))
	if err != nil || !slices.Equal(resp.GetNotAsked(), []string{"n3"}) || wantedNames(t, n) != "arb1" {
		t.Errorf("by force: %v, %v", resp, err)
	}
	// Without a word of this node nobody else is asked.
	n2, client, url := serve(t)
	n2.Trials = map[string]apifake.Trial{"n1/disk1": {Answer: &v1.TryPointResponse{Problem: "no such file"}}}
	_, err = v1.NewQuorumServiceClient(client, url).Change(t.Context(), connect.NewRequest(&v1.ChangeQuorumRequest{Add: []*v1.PointSpec{diskSpec("disk1", "/dev/sdb")}, Force: true}))
	if faultsOf(t, err) != "node n1, point disk1: no such file" || len(n2.Tried) != 1 {
		t.Errorf("%v, tried %v", err, n2.Tried)
	}
}

func TestPointsWithoutQuorum(t *testing.T) {
	n, client, url := serve(t)
	n.Change(func(_ *statepb.State, l *api.Local) { l.Lease = api.Lease{} })
	_, err := v1.NewQuorumServiceClient(client, url).Change(t.Context(), connect.NewRequest(&v1.ChangeQuorumRequest{Add: []*v1.PointSpec{arbiterSpec("a", 1)}}))
	if code := codeOf(t, err); code != api.CodeNoQuorum || len(n.Tried) > 0 {
		t.Errorf("%s, tried %v", code, n.Tried)
	}
}

func TestWatchPoints(t *testing.T) {
	n, client, url := serve(t)
	q := v1.NewQuorumServiceClient(client, url)
	begun, err := q.Change(t.Context(), connect.NewRequest(&v1.ChangeQuorumRequest{Add: []*v1.PointSpec{arbiterSpec("arb1", 1)}}))
	if err != nil {
		t.Fatal(err)
	}
	stream, err := q.Watch(t.Context(), connect.NewRequest(&v1.WatchQuorumRequest{BaseRegister: begun.Msg.GetBaseRegister()}))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for stream.Receive() {
		got = append(got, fmt.Sprintf("%v %s", stream.Msg().GetDone(), stream.Msg().GetProgress()))
		switch len(got) {
		case 1:
			n.Change(func(_ *statepb.State, l *api.Local) { l.Leader = "" })
		case 2:
			if err := n.SetPoints(); err != nil {
				t.Fatal(err)
			}
		}
	}
	want := []string{"false waiting for n1 to begin a view with arb1", "false waiting for a leader", "true in use: arb1"}
	if err := stream.Err(); err != nil || !slices.Equal(got, want) {
		t.Errorf("%v\n%s", err, strings.Join(got, "\n"))
	}
}

// withPoints is a cluster of so many members that has these points, all reachable.
func withPoints(t *testing.T, members int, points ...*v1.PointSpec) (*apifake.Node, v1.QuorumServiceClient, v1.ClusterServiceClient) {
	t.Helper()
	n, client, url := serve(t)
	q := v1.NewQuorumServiceClient(client, url)
	if len(points) > 0 {
		if _, err := q.Change(t.Context(), connect.NewRequest(&v1.ChangeQuorumRequest{Add: points})); err != nil {
			t.Fatal(err)
		}
	}
	n.Change(func(s *statepb.State, l *api.Local) {
		for len(s.View.Members) > members {
			gone := s.View.Members[len(s.View.Members)-1].GetNode()
			s.View.Members = s.View.Members[:len(s.View.Members)-1]
			delete(s.Nodes, gone)
			delete(s.NodeStatus, gone)
			l.Peers.Peers = l.Peers.Peers[:len(l.Peers.Peers)-1]
		}
	})
	if len(points) > 0 {
		if err := n.SetPoints(); err != nil {
			t.Fatal(err)
		}
	}
	return n, q, v1.NewClusterServiceClient(client, url)
}

func TestQuorumConditions(t *testing.T) {
	away := func(name string, d time.Duration) func(*api.Local) {
		return func(l *api.Local) {
			for i := range l.Points {
				if l.Points[i].Name == name {
					l.Points[i].Reachable, l.Points[i].For, l.Points[i].Error = false, d, "connection refused"
				}
			}
		}
	}
	three := []*v1.PointSpec{arbiterSpec("a", 1), arbiterSpec("b", 2), diskSpec("d", "/dev/sdb")}
	for name, c := range map[string]struct {
		members int
		points  []*v1.PointSpec
		change  []func(*api.Local)
		codes   string
		verdict string
	}{
		"no points, three nodes": {members: 3, verdict: "healthy: all 3 nodes up, 1 of 1 group online; any one node may fail"},
		"no points, two nodes": {members: 2, codes: "no-coordination-points",
			verdict: "healthy: all 2 nodes up, 1 of 1 group online; the next node failure stops all groups: the other one can't tell who is left"},
		"two nodes and an arbiter": {members: 2, points: three[:1], verdict: "healthy: all 2 nodes up, 1 of 1 group online; either node may fail"},
		"just gone": {members: 2, points: three[:1], change: []func(*api.Local){away("a", 9*time.Second)},
			verdict: "healthy: all 2 nodes up, 1 of 1 group online; the next node failure stops all groups: the other one can't tell who is left"},
		"gone": {members: 2, points: three[:1], change: []func(*api.Local){away("a", 10*time.Second)}, codes: "point-unreachable no-arbitration",
			verdict: "degraded: the coordination point a can't be used; the next node failure stops all groups: the other one can't tell who is left"},
		"one of three gone": {members: 2, points: three, change: []func(*api.Local){away("b", time.Minute)}, codes: "point-unreachable",
			verdict: "degraded: the coordination point b can't be used; either node may fail"},
		"two of three gone": {members: 3, points: three, change: []func(*api.Local){away("b", time.Minute), away("d", time.Hour)}, codes: "point-unreachable point-unreachable no-arbitration",
			verdict: "degraded: the coordination points b and d can't be used; any one node may fail"},
		"abstains": {members: 2, points: three[:1], change: []func(*api.Local){func(l *api.Local) { l.Points[0].Abstains = true }}, codes: "point-abstains no-arbitration",
			verdict: "degraded: the coordination point a can't be used; the next node failure stops all groups: the other one can't tell who is left"},
		"not shared": {members: 2, points: three, change: []func(*api.Local){func(l *api.Local) { l.Points[2].NotSeen = []string{"n2"} }}, codes: "lockdisk-not-shared",
			verdict: "healthy: all 2 nodes up, 1 of 1 group online; either node may fail"},
	} {
		t.Run(name, func(t *testing.T) {
			n, q, cluster := withPoints(t, c.members, c.points...)
			n.Change(func(_ *statepb.State, l *api.Local) {
				l.Points = slices.Clone(l.Points)
				for _, f := range c.change {
					f(l)
				}
			})
			st, err := cluster.Status(t.Context(), connect.NewRequest(&v1.StatusRequest{}))
			if err != nil {
				t.Fatal(err)
			}
			if got := st.Msg.GetVerdict(); got != c.verdict {
				t.Errorf("verdict\n%s\nwant\n%s", got, c.verdict)
			}
			show, err := q.Show(t.Context(), connect.NewRequest(&v1.ShowQuorumRequest{}))
			if err != nil {
				t.Fatal(err)
			}
			for what, list := range map[string][]*v1.Condition{"status": st.Msg.GetConditions(), "quorum show": show.Msg.GetConditions()} {
				var codes []string
				for _, x := range list {
					codes = append(codes, x.GetCode())
				}
				if got := strings.Join(codes, " "); got != c.codes {
					t.Errorf("%s: %s, want %s", what, got, c.codes)
				}
			}
		})
	}
}

func TestSetPreferredFencing(t *testing.T) {
	n, _, cluster := withPoints(t, 2)
	set := func(q *v1.SetClusterRequest) error {
		_, err := cluster.Set(t.Context(), connect.NewRequest(q))
		return err
	}
	site := "north"
	err := set(&v1.SetClusterRequest{PreferredFencing: v1.PreferredFencing_PREFERRED_FENCING_SITE, PreferredSite: &site, PreferredFencingDelay: durationpb.New(2 * time.Minute)})
	if got := faultsOf(t, err); codeOf(t, err) != api.CodeBadConfig || strings.Count(got, "\n") != 1 || !strings.Contains(got, `no node is at site "north"`) || !strings.Contains(got, "preferredFencingDelay: is 2m") {
		t.Errorf("%v\n%s", err, got)
	}
	check := func(q *v1.SetClusterRequest, want string) {
		t.Helper()
		if err := set(q); err != nil {
			t.Fatal(err)
		}
		s, _ := n.State(t.Context())
		c := s.GetCluster()
		delay := "default"
		if c.PreferredFencingDelay != nil {
			delay = c.GetPreferredFencingDelay().AsDuration().String()
		}
		if got := fmt.Sprint(c.GetPreferredFencing(), " ", delay); got != want {
			t.Errorf("%v, want %v", got, want)
		}
	}
	check(&v1.SetClusterRequest{PreferredFencing: v1.PreferredFencing_PREFERRED_FENCING_NODE_WEIGHT, PreferredFencingDelay: durationpb.New(0)}, "PREFERRED_FENCING_NODE_WEIGHT 0s")
	check(&v1.SetClusterRequest{PreferredFencingDelay: durationpb.New(-1)}, "PREFERRED_FENCING_NODE_WEIGHT default")
	check(&v1.SetClusterRequest{PreferredFencing: v1.PreferredFencing_PREFERRED_FENCING_NONE}, "PREFERRED_FENCING_UNSPECIFIED default")
}
