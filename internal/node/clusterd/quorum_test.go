//go:build linux

package clusterd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/arbiter"
	"github.com/holdfast-ha/holdfast/internal/arbiter/arbiterd"
	"github.com/holdfast-ha/holdfast/internal/arbiter/arbiterpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/identity"
	"github.com/holdfast-ha/holdfast/internal/cluster/lockdisk/device"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
	"github.com/holdfast-ha/holdfast/internal/node/points"
)

func (m *machine) quorum() v1.QuorumServiceClient {
	return v1.NewQuorumServiceClient(m.client(), "http://node")
}

// anArbiter serves on this machine until stop is called.
type anArbiter struct {
	t    *testing.T
	dir  string
	stop func()
}

func newArbiter(t *testing.T) *anArbiter {
	t.Helper()
	a := &anArbiter{t: t, dir: t.TempDir() + "/arbiter"}
	nextNet.Lock()
	nextNet.n++
	address := fmt.Sprintf("127.23.%d.1:7947", nextNet.n%250)
	nextNet.Unlock()
	if _, err := arbiterd.Make(arbiterd.Init{Dir: a.dir, Listen: address}); err != nil {
		t.Fatal(err)
	}
	a.start()
	t.Cleanup(func() { a.stop() })
	return a
}

func (a *anArbiter) start() {
	a.t.Helper()
	s, err := arbiterd.Open(arbiterd.Options{Dir: a.dir})
	if err != nil {
		a.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx) }()
	a.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			a.t.Error(err)
		}
	})
}

func (a *anArbiter) token() string {
	a.t.Helper()
	m, err := arbiterd.Ask(a.t.Context(), a.dir, &arbiterpb.ToControl{Body: &arbiterpb.ToControl_MakeToken{MakeToken: &arbiterpb.MakeToken{ValidSeconds: 3600}}})
	if err != nil {
		a.t.Fatal(err)
	}
	return m.GetTokenMade().GetToken()
}

func byToken(name, token string) *v1.PointSpec {
	return &v1.PointSpec{Name: name, Kind: &v1.PointSpec_ArbiterToken{ArbiterToken: token}}
}

// follow a change until the points are in use.
func (m *machine) follow(begun *v1.ChangeQuorumResponse) *v1.WatchQuorumResponse {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), patience)
	defer cancel()
	stream, err := m.quorum().Watch(ctx, connect.NewRequest(&v1.WatchQuorumRequest{BaseRegister: begun.GetBaseRegister()}))
	if err != nil {
		m.t.Fatal(err)
	}
	defer stream.Close()
	for stream.Receive() {
		if stream.Msg().GetDone() {
			return stream.Msg()
		}
	}
	m.t.Fatalf("the change did not end: %v", stream.Err())
	return nil
}

// sees waits until a node's view of the points is as wanted: "arb1 reachable".
func (m *machine) sees(want string) *v1.ShowQuorumResponse {
	m.t.Helper()
	var got string
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		q, err := try(m.t, m.quorum().Show, &v1.ShowQuorumRequest{})
		if err != nil {
			continue
		}
		var parts []string
		for _, p := range q.GetPoints() {
			parts = append(parts, p.GetPoint().GetName()+map[bool]string{true: " reachable", false: " away"}[p.GetReachable()])
		}
		if got = strings.Join(parts, ", "); got == want {
			return q
		}
	}
	m.t.Fatalf("%s sees %q, not %q", m.name, got, want)
	return nil
}

// Two real nodes take an arbiter, go on when one of them dies, and put another in its place.
func TestArbiterIsAddedAndReplaced(t *testing.T) {
	ms := cluster(t, nil, "n1", "n2")
	n1, n2 := ms["n1"], ms["n2"]
	for _, m := range ms {
		m.start()
	}
	n1.until("a healthy cluster", healthy(2, ""))
	n2.until("a healthy cluster", healthy(2, ""))
	first := newArbiter(t)
	token := first.token()
	add := &v1.ChangeQuorumRequest{Add: []*v1.PointSpec{byToken("arb1", token)}}
	begun := ask(t, n1.quorum().Change, add)
	if done := n1.follow(begun); !done.GetVotes() || len(done.GetPoints()) != 1 {
		t.Fatalf("in use: %v", done)
	}
	if again := ask(t, n1.quorum().Change, add); !again.GetUnchanged() {
		t.Errorf("added again: %v", again)
	}
	for _, m := range ms {
		q := m.sees("arb1 reachable")
		if got := q.GetSurvives(); len(got) == 0 || got[0] != "Either node, or the arbiter arb1, but not both at once." || q.GetMajority() != 2 || q.GetVoters() != 3 {
			t.Errorf("%s: %v", m.name, q)
		}
	}
	if _, err := try(t, n2.quorum().Change, &v1.ChangeQuorumRequest{Add: []*v1.PointSpec{byToken("a", token), byToken("b", token)}}); err == nil {
		t.Error("one arbiter is taken for two points")
	}

	// The arbiter dies: nothing stops, and another takes its place.
	first.stop()
	n2.sees("arb1 away")
	second := newArbiter(t)
	begun = ask(t, n2.quorum().Change, &v1.ChangeQuorumRequest{Remove: []string{"arb1"}, Add: []*v1.PointSpec{byToken("arb2", second.token())}})
	n2.follow(begun)
	n1.sees("arb2 reachable")
	n2.sees("arb2 reachable")

	// A node dies: the other one goes on, with the arbiter's help.
	_ = n2.guard.Process.Kill()
	for _, pid := range n2.clusterd() {
		_ = exec.Command("kill", "-9", fmt.Sprint(pid)).Run()
	}
	n1.until("the end of n2", ended(n2.name))
	// Points can't be tried by a node that is down; force goes on without it.
	third := newArbiter(t)
	change := &v1.ChangeQuorumRequest{Remove: []string{"arb2"}, Add: []*v1.PointSpec{byToken("arb3", third.token())}}
	if _, err := try(t, n1.quorum().Change, change); err == nil {
		t.Error("a node that is down has tried an arbiter")
	}
	change.Force = true
	begun = ask(t, n1.quorum().Change, change)
	if got := begun.GetNotAsked(); len(got) != 1 || got[0] != n2.name {
		t.Errorf("not asked: %v", got)
	}
	if done := n1.follow(begun); done.GetVotes() {
		t.Error("the points vote beside one member")
	}
}

// A lock disk is added once all nodes have proven that it is the same one; a
// copy of it and another one are found out.
func TestLockDiskIsAdded(t *testing.T) {
	ms := cluster(t, nil, "n1", "n2")
	n1, n2 := ms["n1"], ms["n2"]
	for _, m := range ms {
		m.start()
	}
	n1.until("a healthy cluster", healthy(2, ""))
	n2.until("a healthy cluster", healthy(2, ""))
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"lock", "other"} {
		if _, err := device.Format(path(name), device.FormatOptions{Create: true}); err != nil {
			t.Fatal(err)
		}
	}
	byPath := func(own, others string) *v1.ChangeQuorumRequest {
		d := &v1.LockDiskSpec{Path: own}
		if others != "" {
			d.Paths = map[string]string{n2.name: others}
		}
		return &v1.ChangeQuorumRequest{Force: true, Add: []*v1.PointSpec{{Name: "lock", Kind: &v1.PointSpec_LockDisk{LockDisk: d}}}}
	}
	for _, c := range [][2]string{{"nothing", "no such file"}, {"other", "leads to the lock disk"}, {"copy", "is a copy of the lock disk"}} {
		if c[0] == "copy" { // of a disk on which the cluster has its slot by now
			raw, err := os.ReadFile(path("lock"))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path("copy"), raw, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		_, err := try(t, n1.quorum().Change, byPath(path("lock"), path(c[0])))
		if err == nil {
			t.Fatalf("%s is taken for %s", c[0], path("lock"))
		}
		if got := faults(err); !strings.HasPrefix(got, "node "+n2.name+", point lock: ") || !strings.Contains(got, c[1]) || strings.Count(got, "\n") != 1 {
			t.Errorf("%s: %s", c[0], got)
		}
	}
	if _, err := try(t, n1.quorum().Change, byPath(path("nothing"), "")); err == nil || !strings.Contains(faults(err), "point lock: ") {
		t.Errorf("a disk that is not there: %v\n%s", err, faults(err))
	}
	n1.follow(ask(t, n1.quorum().Change, byPath(path("lock"), "")))
	for _, m := range ms {
		if got := m.sees("lock reachable").GetSurvives(); got[0] != "Either node, or the lock disk lock, but not both at once." {
			t.Errorf("%s: %s", m.name, got)
		}
	}
	if again := ask(t, n2.quorum().Change, byPath(path("lock"), "")); !again.GetUnchanged() {
		t.Errorf("added again: %v", again)
	}
	// A node dies: the other one goes on, with the disk's help.
	_ = n2.guard.Process.Kill()
	for _, pid := range n2.clusterd() {
		_ = exec.Command("kill", "-9", fmt.Sprint(pid)).Run()
	}
	n1.until("the end of n2", ended(n2.name))
}

// ended: a node was evicted, and there is a quorum.
func ended(name string) func(*v1.StatusResponse) bool {
	return func(s *v1.StatusResponse) bool {
		for _, n := range s.GetNodes() {
			if n.GetName() == name {
				return n.GetPhase() == v1.NodePhase_NODE_PHASE_FAULTED && s.GetSource().GetQuorum()
			}
		}
		return false
	}
}

// faults that a call was refused for, one line each.
func faults(err error) string {
	var b strings.Builder
	var e *connect.Error
	if errors.As(err, &e) {
		for _, d := range e.Details() {
			if v, err := d.Value(); err == nil {
				for _, f := range v.(*v1.ErrorDetail).GetFaults() {
					fmt.Fprintf(&b, "%s: %s\n", f.GetPath(), f.GetProblem())
				}
			}
		}
	}
	return b.String()
}

// The authority is replaced: arbiters hear of it before nodes show certificates
// of the new one, and a rotation waits for an arbiter that is away.
func TestArbiterFollowsTheAuthority(t *testing.T) {
	ms := cluster(t, nil, "n1", "n2")
	n1, n2 := ms["n1"], ms["n2"]
	for _, m := range ms {
		m.start()
	}
	n1.until("a healthy cluster", healthy(2, ""))
	n2.until("a healthy cluster", healthy(2, ""))
	a := newArbiter(t)
	n1.follow(ask(t, n1.quorum().Change, &v1.ChangeQuorumRequest{Add: []*v1.PointSpec{byToken("arb1", a.token())}}))
	n1.sees("arb1 reachable")
	n2.sees("arb1 reachable")
	authority := func(want uint64) {
		t.Helper()
		n1.until(fmt.Sprint("authority ", want), func(*v1.StatusResponse) bool {
			s := ask(t, n1.clusters().Security, &v1.SecurityRequest{})
			for _, n := range s.GetNodes() {
				if n.GetAuthority() != want {
					return false
				}
			}
			return len(s.GetNodes()) == 2 && s.GetAuthority().GetProgress() == ""
		})
	}
	authority(1)
	a.stop()
	ask(t, n1.clusters().Rotate, &v1.RotateRequest{What: v1.Rotatable_ROTATABLE_AUTHORITY})
	for _, m := range ms {
		m.until("the rotation to wait for the arbiter", func(s *v1.StatusResponse) bool {
			for _, c := range s.GetConditions() {
				if c.GetCode() == "rotation-fault" && strings.Contains(c.GetMessage(), "arb1 does not know") {
					return true
				}
			}
			return false
		})
	}
	a.start()
	authority(2)
	// A new connection, on which the arbiter sees the new certificates.
	a.stop()
	n1.sees("arb1 away")
	n2.sees("arb1 away")
	a.start()
	n1.sees("arb1 reachable")
	n2.sees("arb1 reachable")
}

// Another node than the one that is asked for is not believed, whatever its certificate.
func TestAPIOfANodeIsThatNodes(t *testing.T) {
	ms := cluster(t, nil, "n1", "n2")
	for _, m := range ms {
		m.start()
	}
	ms["n1"].until("a healthy cluster", healthy(2, ""))
	ms["n2"].until("a healthy cluster", healthy(2, ""))
	id, err := identity.Load(ms["n1"].state)
	if err != nil {
		t.Fatal(err)
	}
	n := &node{id: id}
	s := &statepb.State{Nodes: map[string]*v1.Node{}}
	for _, one := range id.Nodes {
		s.Nodes[one.GetName()] = one
	}
	point := &v1.CoordinationPoint{Name: "x", Kind: &v1.CoordinationPoint_Arbiter{Arbiter: &v1.ArbiterPoint{Address: "127.0.0.1:1", KeyFingerprint: strings.Repeat("0", 2*arbiter.FingerprintSize), Instance: "x"}}}
	tryOn := func(name string) (*v1.TryPointResponse, error) {
		c, err := n.apiOf(s, name)
		if err != nil {
			return nil, err
		}
		defer c.CloseIdleConnections()
		return try(t, v1.NewQuorumServiceClient(c, "https://"+apiHost).TryPoint, &v1.TryPointRequest{Point: point, Register: 9})
	}
	if r, err := tryOn(ms["n2"].name); err != nil || !strings.Contains(r.GetProblem(), "can't be reached") {
		t.Errorf("%v, %v", r, err)
	}
	s.Nodes[ms["n2"].name].Links, s.Nodes[ms["n1"].name].Links = s.Nodes[ms["n1"].name].GetLinks(), nil
	if _, err := tryOn(ms["n2"].name); err == nil || !strings.Contains(err.Error(), "answers at the address of") {
		t.Errorf("another node answers: %v", err)
	}
	if _, err := tryOn("n9"); err == nil {
		t.Error("there is no such node")
	}
}

// A node that is about to go on alone hears from the points that the other one lives.
func TestPointsTellWhoLives(t *testing.T) {
	ms := cluster(t, nil, "n1", "n2")
	n1, n2 := ms["n1"], ms["n2"]
	for _, m := range ms {
		m.start()
	}
	n1.until("a healthy cluster", healthy(2, ""))
	n2.until("a healthy cluster", healthy(2, ""))
	arb := newArbiter(t)
	path := filepath.Join(t.TempDir(), "disk")
	if _, err := device.Format(path, device.FormatOptions{Create: true}); err != nil {
		t.Fatal(err)
	}
	third := newArbiter(t)
	n1.follow(ask(t, n1.quorum().Change, &v1.ChangeQuorumRequest{Add: []*v1.PointSpec{byToken("arb1", arb.token()),
		{Name: "disk1", Kind: &v1.PointSpec_LockDisk{LockDisk: &v1.LockDiskSpec{Path: path}}}, byToken("arb2", third.token())}}))
	n2.sees("arb1 reachable, disk1 reachable, arb2 reachable")
	third.stop()
	n2.destroy()
	id, s, err := identity.LastKnown(n2.state)
	if err != nil {
		t.Fatal(err)
	}
	signs, unasked := points.OthersAlive(t.Context(), id, s, points.ArbiterMemory)
	if len(signs) != 2 || signs[0].Point != "arb1" || signs[0].Node != n1.name || signs[1].Point != "disk1" || signs[1].Node != n1.name ||
		len(unasked) != 1 || unasked[0].Point != "arb2" {
		t.Errorf("while n1 lives: %v, not asked: %v", signs, unasked)
	}
	n1.destroy()
	if signs, unasked = points.OthersAlive(t.Context(), id, s, time.Nanosecond); len(signs) != 0 || len(unasked) != 1 {
		t.Errorf("nobody lives: %v, not asked: %v", signs, unasked)
	}
}
