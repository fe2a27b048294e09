package engine

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// plan lets the leader commit a plan of the test's own.
func (w *solo) plan(p *statepb.Plan) {
	w.t.Helper()
	p.BasePlanRevision = w.e.State().GetPlanRevision()
	w.propose(&statepb.Command{Change: &statepb.Command_Plan{Plan: p}})
}

func (w *solo) propose(c *statepb.Command) {
	w.t.Helper()
	w.token++
	w.step(Propose{Token: w.token, Command: c})
	if err, ok := w.results[w.token]; !ok || err != nil {
		w.t.Fatalf("%v: answered %v: %v", c, ok, err)
	}
}

func triggers(names ...string) *statepb.Plan {
	p := &statepb.Plan{}
	for _, n := range names {
		blocking := strings.HasPrefix(n, "pre")
		p.Triggers = append(p.Triggers, &statepb.TriggerRun{Trigger: n, Node: "n1", Group: "web", Blocking: blocking})
		if blocking {
			p.GroupChanges = append(p.GroupChanges, &statepb.GroupChange{Group: "web", Book: &statepb.Instance{}, NewTrigger: uint32(len(p.Triggers))})
		}
	}
	return p
}

// settledSolo is one of which the planner does nothing of its own any more.
func settledSolo(t *testing.T) *solo {
	w := newSolo(t)
	w.until("protect web")
	w.protected()
	w.until("online r")
	w.done("online r", 0)
	w.until("monitor r")
	w.done("monitor r", v1.ResourceState_RESOURCE_STATE_ONLINE)
	w.propose(&statepb.Command{Change: &statepb.Command_SetFrozen{SetFrozen: &statepb.SetFrozen{Group: "web", Frozen: true}}})
	return w
}

func TestTriggers(t *testing.T) {
	w := settledSolo(t)
	w.plan(triggers("preonline"))
	if !slices.Equal(w.triggers, []string{"1 preonline"}) {
		t.Fatalf("begun: %v", w.triggers)
	}
	c := w.lastTrigger
	var in map[string]any
	if err := json.Unmarshal(c.Input, &in); err != nil || in["schema"] != "holdfast.trigger/1" || in["trigger"] != "preonline" || in["node"] != "n1" || in["group"] != "web" {
		t.Fatalf("%v, %s", err, c.Input)
	}
	if c.Program != "/etc/holdfast/triggers/preonline" || c.Timeout != defaultTriggerTimeout || c.Arguments[0] != "preonline" || c.Arguments[2] != "web" {
		t.Fatalf("%+v", c)
	}
	w.step(TriggerEnded{Number: 1, Status: 2, Message: "no"})
	if r := state.Trigger(w.e.State(), 1); !r.GetEnded() || r.GetExitStatus() != 2 || r.GetMessage() != "no" {
		t.Fatalf("%v", r)
	}
	w.step(Tick{})
	if len(w.triggers) != 1 {
		t.Fatalf("begun again: %v", w.triggers)
	}
}

func TestTriggersAtOnce(t *testing.T) {
	w := settledSolo(t)
	w.plan(triggers(slices.Repeat([]string{"postonline"}, triggersAtOnce+2)...))
	w.plan(triggers("preonline")) // late, and first to follow
	if len(w.triggers) != triggersAtOnce {
		t.Fatalf("%d run at once: %v", len(w.triggers), w.triggers)
	}
	w.triggers = nil
	w.step(TriggerEnded{Number: 3})
	if want := fmt.Sprintf("%d preonline", triggersAtOnce+3); !slices.Equal(w.triggers, []string{want}) {
		t.Fatalf("%v, want %s", w.triggers, want)
	}
	// One that the planner does not wait for any more is ended, and its end is told to nobody.
	n := w.lastTrigger.Number
	w.plan(&statepb.Plan{TriggersSeen: []uint64{n}, GroupChanges: []*statepb.GroupChange{{Group: "web", Book: &statepb.Instance{}}}})
	if !slices.Equal(w.cancelled, []uint64{n}) {
		t.Fatalf("cancelled: %v", w.cancelled)
	}
	at := w.e.State().GetNextEvent()
	w.step(TriggerEnded{Number: n, Status: -1, Message: "killed"})
	if w.e.State().GetNextEvent() != at {
		t.Fatal("the end of what was taken back is told")
	}
}

// The end of the lease ends programs, before guard is told that nothing is begun any more; a new lease begins them again.
func TestTriggersNeedALease(t *testing.T) {
	w := settledSolo(t)
	w.plan(triggers("postonline"))
	w.quiet = false
	w.guard(&guardpb.FromGuard{Body: &guardpb.FromGuard_Lease{Lease: &guardpb.Lease{Reason: "cut off"}}})
	if !slices.Equal(w.cancelled, []uint64{1}) || w.quiet {
		t.Fatalf("cancelled: %v; guard was told that all is quiet: %v", w.cancelled, w.quiet)
	}
	w.step(TriggerEnded{Number: 1, Status: -1, Message: "it was ended early"})
	if !w.quiet {
		t.Fatal("guard waits for the word that all is quiet")
	}
	w.triggers = nil
	w.lease(true)
	if !slices.Equal(w.triggers, []string{"1 postonline"}) {
		t.Fatalf("begun: %v", w.triggers)
	}
	w.step(TriggerEnded{Number: 1})
	if len(w.e.State().GetTriggers()) != 0 {
		t.Fatalf("%v", w.e.State().GetTriggers())
	}
}

func TestSignalsAreToldWhenTheyChange(t *testing.T) {
	w := settledSolo(t)
	if w.signals == nil || len(w.signals) != 0 {
		t.Fatalf("at the start: %v", w.signals)
	}
	set := func(node string, v *statepb.SignalValue) {
		w.signals = nil
		w.propose(&statepb.Command{Change: &statepb.Command_SetSignal{SetSignal: &statepb.SetSignal{Name: "s", Node: node, Value: v}}})
	}
	up := &statepb.SignalValue{State: v1.SignalState_SIGNAL_STATE_UP, SetMs: 1}
	if set("n1", up); w.signals["s"].GetState() != v1.SignalState_SIGNAL_STATE_UP {
		t.Fatalf("%v", w.signals)
	}
	if set("n1", up); w.signals != nil {
		t.Fatal("told, and nothing has changed")
	}
	if set("n1", &statepb.SignalValue{State: v1.SignalState_SIGNAL_STATE_UP, SetMs: 2}); w.signals == nil {
		t.Fatal("that it was set again is not told, so that it would expire")
	}
	if set("n1", nil); w.signals == nil || len(w.signals) != 0 {
		t.Fatalf("%v", w.signals)
	}
}

func TestFailFast(t *testing.T) {
	for _, c := range []struct {
		action  v1.FailFastAction
		restart bool
	}{{v1.FailFastAction_FAIL_FAST_ACTION_UNSPECIFIED, true}, {v1.FailFastAction_FAIL_FAST_ACTION_STOP, false}} {
		w := settledSolo(t)
		conf := state.Configuration(w.e.State())
		conf.Cluster.FailFastAction = c.action
		w.propose(&statepb.Command{Change: &statepb.Command_Configure{Configure: &statepb.Configure{BaseRevision: conf.GetRevision(), Configuration: conf}}})
		w.plan(&statepb.Plan{Resets: map[string]string{"n1": "web failed"}})
		if len(w.resets) != 1 || w.resets[0].GetRestart() != c.restart || !strings.Contains(w.resets[0].GetReason(), "web failed") {
			t.Fatalf("%v", w.resets)
		}
		w.step(Tick{})
		if len(w.resets) != 1 {
			t.Fatal("said again")
		}
		// A guard that was started again has not done it; one of a restarted machine need not.
		w.step(GuardConn{})
		w.step(GuardConn{Up: true})
		w.guard(&guardpb.FromGuard{Body: &guardpb.FromGuard_Welcome{Welcome: &guardpb.Welcome{GuardIncarnation: 2}}})
		if len(w.resets) != 2 {
			t.Fatalf("%v", w.resets)
		}
		w.step(GuardConn{})
		w.step(GuardConn{Up: true})
		w.guard(&guardpb.FromGuard{Body: &guardpb.FromGuard_Welcome{Welcome: &guardpb.Welcome{GuardIncarnation: 3, Rebooted: true}}})
		w.now += time.Minute
		w.step(Tick{})
		if len(w.resets) != 2 || w.e.State().GetNodeStatus()["n1"].GetReset_() != "" {
			t.Fatalf("%v", w.resets)
		}
	}
}

// The cluster's clock goes on with the leader's boot clock, whatever the time of day does.
func TestClock(t *testing.T) {
	w := settledSolo(t)
	was := w.e.ClockMs()
	for _, wall := range []int64{-1 << 40, 1 << 50, 0} {
		w.now += 3 * time.Second
		w.wall = wall
		w.step(Tick{})
		if got := w.e.ClockMs(); got != was+3000 {
			t.Fatalf("after 3s the clock has gone on by %d ms", got-was)
		}
		was += 3000
	}
	w.plan(&statepb.Plan{ClockMs: was + 500})
	if got := w.e.ClockMs(); got != was+500 {
		t.Fatalf("%d, committed was %d", got, was+500)
	}
	w.plan(&statepb.Plan{ClockMs: 1})
	if got := w.e.ClockMs(); got != was+500 {
		t.Fatalf("it went back to %d", got)
	}
}
