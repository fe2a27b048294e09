package engine

import (
	"slices"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/consensus"
	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
	"github.com/holdfast-ha/holdfast/internal/group/agent"
)

// solo is the engine of a cluster of one node that runs group web, with a guard and agents
// that answer when the test says so.
type solo struct {
	t   *testing.T
	now time.Duration
	e   *Engine
	// What has been asked, in order: "protect web", "gone web", "online r", "monitor r".
	asked []string
	calls map[string]uint64
	// Guard, once it has read all that it was told, protects the group.
	protects bool
	// Monitors find it offline.
	offline bool
	wall    int64
	// What else came out.
	token       uint64
	results     map[uint64]error
	triggers    []string
	lastTrigger TriggerCall
	cancelled   []uint64
	signals     map[string]*statepb.SignalValue
	resets      []*guardpb.Reset
	quiet       bool
}

func newSolo(t *testing.T) *solo {
	s, err := state.Initial(&v1.Configuration{
		Cluster: &v1.Cluster{Name: "c", Uuid: "u"},
		Nodes:   []*v1.Node{{Name: "n1", Links: []*v1.Link{{Name: "a", Address: "10.0.0.1"}}}},
		Types:   []*v1.ResourceType{{Name: "T", Operations: v1.Operations_OPERATIONS_ON_OFF, SupportedActions: []string{"rotate", "fail"}}},
		Groups: []*v1.Group{{
			Name: "web", SystemList: []string{"n1"}, AutoStartList: []string{"n1"},
			Resources: []*v1.Resource{{Name: "r", Type: "T"}},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	e, err := New(0, 0, Config{Node: "n1", Proposer: 1, Saved: consensus.Saved{
		HardState: &raftpb.HardState{Term: proto.Uint64(1), Commit: proto.Uint64(1)},
		Snapshot: &raftpb.Snapshot{Data: state.Marshal(s), Metadata: &raftpb.SnapshotMetadata{
			Index: proto.Uint64(1), Term: proto.Uint64(1), ConfState: &raftpb.ConfState{Voters: []uint64{1}},
		}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	w := &solo{t: t, e: e, calls: map[string]uint64{}, token: 1000, results: map[uint64]error{}}
	w.step(GuardConn{Up: true})
	w.guard(&guardpb.FromGuard{Body: &guardpb.FromGuard_Welcome{Welcome: &guardpb.Welcome{GuardIncarnation: 1, Rebooted: true}}})
	w.guard(&guardpb.FromGuard{Body: &guardpb.FromGuard_Peers{Peers: &guardpb.Peers{Seeded: true, Cold: true}}})
	w.lease(true)
	w.until("monitor r")
	w.done("monitor r", v1.ResourceState_RESOURCE_STATE_OFFLINE)
	return w
}

func (w *solo) step(in Input) {
	w.e.Step(w.now, w.wall, in)
	for {
		out := w.e.Take()
		w.rest(out)
		if out.Exit != "" {
			w.t.Fatal(out.Exit)
		}
		for _, f := range out.ToGuard {
			if f.GetCall() != 0 {
				w.e.Step(w.now, 0, FromGuard{&guardpb.FromGuard{Body: &guardpb.FromGuard_Done{Done: &guardpb.Done{Call: f.GetCall()}}}})
			}
		}
		for _, g := range out.Protect {
			w.asked, w.protects = append(w.asked, "protect "+g), true
		}
		for _, g := range out.Gone {
			w.asked, w.protects = append(w.asked, "gone "+g), false
		}
		opens := false
		for _, c := range out.Calls {
			if c.Entry == agent.Open {
				opens = true
				w.e.Step(w.now, 0, CallDone{agent.Done{Token: c.Token}})
				continue
			}
			what := c.Entry.String() + " " + c.Resource
			w.asked = append(w.asked, what)
			w.calls[what] = c.Token
			if c.Starts && !w.protects {
				w.t.Fatalf("%s: guard would not stop it", what)
			}
		}
		if out.Persist != nil {
			w.e.Step(w.now, 0, Persisted{})
		} else if len(out.ToGuard) == 0 && !opens {
			return
		}
	}
}

// rest of what comes out, for tests that look at it.
func (w *solo) rest(out Out) {
	for _, r := range out.Results {
		w.results[r.Token] = r.Err
	}
	for _, c := range out.Triggers {
		w.triggers, w.lastTrigger = append(w.triggers, itoa(c.Number)+" "+c.Trigger), c
	}
	w.cancelled = append(w.cancelled, out.CancelTriggers...)
	if out.Signals != nil {
		w.signals = out.Signals
	}
	for _, f := range out.ToGuard {
		if r := f.GetReset_(); r != nil {
			w.resets = append(w.resets, r)
		}
		w.quiet = w.quiet || f.GetQuiet() != nil
	}
}

func (w *solo) guard(f *guardpb.FromGuard) { w.step(FromGuard{f}) }

func (w *solo) lease(held bool) {
	w.guard(&guardpb.FromGuard{Body: &guardpb.FromGuard_Lease{Lease: &guardpb.Lease{Held: held, Stopped: !held}}})
}

func (w *solo) protected() { w.step(Protected{Group: "web"}) }

func (w *solo) done(what string, found v1.ResourceState) {
	w.step(CallDone{agent.Done{Token: w.calls[what], Result: agent.Result{State: found}}})
}

// until something is asked; what was asked before it is forgotten.
func (w *solo) until(what string) {
	w.t.Helper()
	for range 10_000 {
		if i := slices.Index(w.asked, what); i >= 0 {
			w.asked = w.asked[i+1:]
			return
		}
		w.now += 10 * time.Millisecond
		w.step(Tick{})
		if w.offline && slices.Contains(w.asked, "monitor r") {
			w.done("monitor r", v1.ResourceState_RESOURCE_STATE_OFFLINE)
		}
	}
	w.t.Fatalf("never asked: %s (but %v)", what, w.asked)
}

// An answer of guard that is on its way when the last of a group is gone protects nothing that is started after it.
func TestProtectionEndsWithTheGroup(t *testing.T) {
	for _, again := range []bool{true, false} {
		w := newSolo(t)
		w.until("protect web")
		if slices.Contains(w.asked, "online r") {
			t.Fatal("started before guard knew of it")
		}
		w.protected()
		w.until("online r")
		w.done("online r", 0)
		w.until("monitor r")
		w.done("monitor r", v1.ResourceState_RESOURCE_STATE_ONLINE)

		w.lease(false) // guard has stopped it
		w.protects = false
		w.until("monitor r")
		if !again {
			w.step(Propose{Token: 1, Command: &statepb.Command{Change: &statepb.Command_SetFrozen{SetFrozen: &statepb.SetFrozen{Group: "web", Frozen: true}}}})
		}
		w.lease(true)
		w.until("protect web") // whatever may still run
		w.done("monitor r", v1.ResourceState_RESOURCE_STATE_OFFLINE)
		if !w.protects {
			t.Fatal("guard is told that it is gone, and its answer to the word before is still to come")
		}
		w.protected()
		if again {
			w.until("online r")
		} else {
			w.until("gone web")
		}
	}
}

// When guard could not be told what to stop, the start fails, and the next one asks anew.
func TestProtectionFails(t *testing.T) {
	w := newSolo(t)
	w.until("protect web")
	w.step(Protected{Group: "web", Err: "no cgroup"})
	for range 2 {
		w.offline = true
		w.until("clean r")
		w.done("clean r", 0)
		w.until("gone web")
		w.step(Propose{Token: 1, Command: &statepb.Command{Change: &statepb.Command_Clear{Clear: &statepb.Clear{Group: "web"}}}})
		w.step(Propose{Token: 2, Command: &statepb.Command{Change: &statepb.Command_Operate{Operate: &statepb.Operate{
			Operation: &v1.Operation{Kind: v1.OperationKind_OPERATION_KIND_GROUP_ONLINE, Group: "web"},
		}}}})
		w.until("protect web")
		w.step(Protected{Group: "web", Err: "no cgroup"})
	}
}
