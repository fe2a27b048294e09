//go:build linux

package clusterd

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
	"github.com/holdfast-ha/holdfast/internal/group/agents"
	"github.com/holdfast-ha/holdfast/internal/node/engine"
	"github.com/holdfast-ha/holdfast/internal/node/eventlog"
	"github.com/holdfast-ha/holdfast/internal/notify"
)

// applying is an engine that commits what is proposed at once. It belongs to the loop's goroutine.
type applying struct {
	fakeEngine
	s      *statepb.State
	leader string
	out    engine.Out
	n      uint64
}

func (e *applying) State() *statepb.State { return e.s }
func (e *applying) Leader() string        { return e.leader }
func (e *applying) Take() engine.Out      { out := e.out; e.out = engine.Out{}; return out }

func (e *applying) Step(_ time.Duration, wall int64, in engine.Input) {
	p, ok := in.(engine.Propose)
	if !ok {
		return
	}
	e.n++
	p.Command.TimeMs, p.Command.Proposer, p.Command.Request = wall, "n1", e.n
	r := engine.Result{Token: p.Token}
	if refused := state.Apply(e.s, p.Command).Refused; refused != nil {
		r.Err = refused
	}
	e.out.Changed = true
	e.out.Results = append(e.out.Results, r)
}

// teller is a bench whose node tells events by a program. What it is told goes into the story.
type teller struct {
	*bench
	e     *applying
	guard *fakeGuard
	mu    sync.Mutex
	fault string // what the program ends with
	gate  chan struct{}
}

// tellerHost runs programs that tell.
type tellerHost struct {
	fakeHost
	w *teller
}

func (h tellerHost) RunProgram(ctx context.Context, p agents.Program) agents.ProgramResult {
	var got struct {
		Number uint64
		Code   string
	}
	if err := json.Unmarshal(p.Input, &got); err != nil {
		h.w.t.Error(err)
	}
	h.w.say("%s %d %s", strings.Join(p.Argv, " "), got.Number, got.Code)
	h.w.mu.Lock()
	gate, fault := h.w.gate, h.w.fault
	h.w.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			h.w.say("cancelled")
			return agents.ProgramResult{Status: -1, Message: "it was ended early"}
		}
	}
	if fault != "" {
		return agents.ProgramResult{Status: 1, Message: fault}
	}
	return agents.ProgramResult{}
}

func newTeller(t *testing.T, leader string) *teller {
	s, err := state.Initial(&v1.Configuration{
		Cluster: &v1.Cluster{Name: "c", Notifiers: []*v1.Notifier{{Name: "prog", Way: &v1.Notifier_Program{Program: &v1.ProgramNotifier{Command: "/bin/true x"}}}}},
		Nodes:   []*v1.Node{{Name: "n1", Links: []*v1.Link{{Address: "10.0.0.1"}}}, {Name: "n2", Links: []*v1.Link{{Address: "10.0.0.2"}}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	w := &teller{bench: newBench(t)}
	w.id.Dir = t.TempDir()
	w.id.ClusterName, w.id.ClusterUUID = "c", "00112233445566778899aabbccddeeff"
	w.e = &applying{fakeEngine: fakeEngine{w.bench}, s: s, leader: leader}
	w.post(func() {
		w.node.engine, w.host = w.e, tellerHost{fakeHost{w.bench}, w}
		w.notifying.log = eventlog.Open(eventlog.Options{Dir: filepath.Join(w.id.Dir, "events"), ClusterUUID: w.id.ClusterUUID})
	})
	w.post(func() {
		w.e.out.Changed = true
		w.step(engine.Tick{})
	})
	w.guard = w.guardComes()
	time.Sleep(time.Second)
	w.guard.frames <- &guardpb.FromGuard{Body: &guardpb.FromGuard_Lease{Lease: &guardpb.Lease{Held: true}}}
	w.told()
	return w
}

func (w *teller) end() {
	w.bench.end()
	w.notifying.log.Close()
}

// happen makes events, as one command does.
func (w *teller) happen(codes ...string) {
	w.post(func() {
		var note statepb.Note
		for _, c := range codes {
			note.Events = append(note.Events, &v1.Event{Severity: v1.Severity_SEVERITY_ERROR, Code: c, Message: c})
		}
		w.step(engine.Propose{Command: &statepb.Command{Change: &statepb.Command_Note{Note: &note}}})
	})
}

// in the loop.
func (w *teller) in(f func()) {
	done := make(chan struct{})
	w.post(func() { f(); close(done) })
	<-done
}

func (w *teller) wantDone(n uint64) {
	w.t.Helper()
	w.in(func() {
		if got := w.e.s.GetNotified()["prog"]; got != n {
			w.t.Errorf("committed up to #%d, want #%d", got, n)
		}
	})
}

func TestLeaderTellsEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTeller(t, "n1")
		defer w.end()
		w.happen("group.faulted", "node.left", "group.online")
		w.want("/bin/true x 1 group.faulted; /bin/true x 2 node.left; /bin/true x 3 group.online")
		w.wantDone(1)
		time.Sleep(notify.CommitEvery)
		synctest.Wait()
		w.wantDone(3)
		// A failure is repeated, and is a condition after a while.
		w.mu.Lock()
		w.fault = "no paper"
		w.mu.Unlock()
		w.happen("group.faulted")
		time.Sleep(12 * time.Second)
		if got := w.told(); got != strings.Repeat("/bin/true x 4 group.faulted; ", 3)+"/bin/true x 4 group.faulted" {
			t.Errorf("told %q", got)
		}
		var all []*v1.NotifierStatus
		var err error
		var conditions string
		all, err = (&backend{w.node}).Notifiers(t.Context(), false)
		w.in(func() { conditions = fmt.Sprint(w.eventConditions()) })
		if err != nil || len(all) != 1 || all[0].GetFailures() != 4 || !strings.Contains(all[0].GetError(), "no paper") || all[0].GetDone() != 3 {
			t.Errorf("%v, %v", all, err)
		}
		if !strings.Contains(conditions, "notifier-failing") || !strings.Contains(conditions, "no paper") {
			t.Errorf("conditions %s", conditions)
		}
		test, err := (&backend{w.node}).TestNotifier(t.Context(), "prog", true)
		if err != nil || test.GetDelivered() || !strings.Contains(test.GetError(), "no paper") || w.told() != "/bin/true x 0 notifier.test" {
			t.Errorf("%v, %v", test, err)
		}
	})
}

func TestOnlyTheLeaderTellsEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTeller(t, "n2")
		defer w.end()
		w.happen("group.faulted")
		w.want("")
		if all, err := (&backend{w.node}).Notifiers(t.Context(), true); err != nil || len(all) != 0 {
			t.Errorf("%v, %v", all, err)
		}
		// A test can be sent from any node.
		if test, err := (&backend{w.node}).TestNotifier(t.Context(), "prog", true); err != nil || !test.GetDelivered() || test.GetNode() != "n1" {
			t.Errorf("%v, %v", test, err)
		}
		w.want("/bin/true x 0 notifier.test")
		// It takes over from n2, which is still a member and may be telling something yet.
		w.post(func() { w.e.leader = "n1"; w.step(engine.Tick{}) })
		time.Sleep(notify.Handover - time.Millisecond)
		w.want("")
		time.Sleep(2 * time.Millisecond)
		w.want("/bin/true x 1 group.faulted")
		// Without a lease it may be that others lead already.
		w.guard.frames <- &guardpb.FromGuard{Body: &guardpb.FromGuard_Lease{Lease: &guardpb.Lease{Held: false}}}
		w.told()
		w.happen("node.left")
		w.want("")
	})
}

func TestTakeoverFromTheDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTeller(t, "n2")
		defer w.end()
		w.happen("group.faulted")
		w.post(func() { w.e.leader = ""; w.step(engine.Tick{}) })
		w.post(func() { w.e.leader = "n1"; w.step(engine.Tick{}) })
		w.want("")
		w.post(func() { w.e.s.View.Members = w.e.s.View.Members[:1] })
		w.happen("node.evicted")
		w.want("/bin/true x 1 group.faulted; /bin/true x 2 node.evicted")
	})
}

func TestFormerLeaderEndsWhatItHasBegun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTeller(t, "n1")
		defer w.end()
		w.gate = make(chan struct{})
		w.happen("group.faulted", "node.left")
		w.want("/bin/true x 1 group.faulted")
		w.post(func() { w.e.leader = "n2"; w.step(engine.Tick{}) })
		time.Sleep(time.Second)
		w.gate <- struct{}{}
		w.want("")
		w.wantDone(1)
		// One that does not end is cut off before the next leader begins.
		w.post(func() { w.e.leader = "n1"; w.e.s.View.Members = w.e.s.View.Members[:1]; w.step(engine.Tick{}) })
		w.want("/bin/true x 2 node.left")
		w.post(func() { w.e.leader = "n2"; w.step(engine.Tick{}) })
		time.Sleep(notify.Handover - 500*time.Millisecond)
		w.want("cancelled")
		w.wantDone(1)
	})
}

// What the state has no more comes from the own disk, for notifiers and for readers.
func TestEventsAreKeptOnDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTeller(t, "n2")
		defer w.end()
		b := &backend{w.node}
		w.happen("group.faulted", "group.online", "node.left")
		w.told()
		forget := func(n int) {
			w.post(func() { w.e.s.Events = w.e.s.Events[n:]; w.step(engine.Tick{}) })
		}
		forget(2)
		// A snapshot brings later ones only.
		w.post(func() {
			w.e.s.Events = []*v1.Event{{Number: 10, Code: "node.joined", Severity: v1.Severity_SEVERITY_ERROR}}
			w.e.s.NextEvent = 10
			w.e.out.Changed = true
			w.step(engine.Tick{})
		})
		w.happen("node.joined")
		w.told()
		kept, err := b.KeptEvents(t.Context())
		if err != nil || len(kept) != 2 || kept[0].First != 1 || kept[0].Last != 3 || kept[1].First != 10 || kept[1].Last != 11 {
			t.Errorf("%v, %v", kept, err)
		}
		w.post(func() { w.e.leader = "n1"; w.step(engine.Tick{}) })
		time.Sleep(notify.Handover + time.Second)
		w.want("/bin/true x 1 group.faulted; /bin/true x 2 group.online; /bin/true x 3 node.left; /bin/true x 10 node.joined; /bin/true x 11 node.joined")
		time.Sleep(2 * time.Second)
		w.in(func() {
			last := w.e.s.GetEvents()[len(w.e.s.GetEvents())-1]
			if last.GetCode() != "notifier.skipped" || !strings.Contains(last.GetMessage(), "#4 to #9") {
				t.Errorf("the last event is %v", last)
			}
		})
	})
}

func TestNotifiersAreLookedAt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTeller(t, "n2")
		defer w.end()
		look := func() (text string) {
			time.Sleep(time.Second)
			w.in(func() { text = fmt.Sprint(w.eventConditions()) })
			return text
		}
		if got := look(); got != "[]" {
			t.Errorf("conditions %s", got)
		}
		w.post(func() {
			w.e.s.Cluster.Notifiers[0].GetProgram().Command = "/no/such/program"
			w.e.out.Changed = true
			w.step(engine.Tick{})
		})
		if got := look(); !strings.Contains(got, "notifier-unusable") || !strings.Contains(got, "/no/such/program") {
			t.Errorf("conditions %s", got)
		}
		w.post(func() {
			w.e.s.Cluster.Notifiers = nil
			w.e.out.Changed = true
			w.step(engine.Tick{})
		})
		if got := look(); got != "[]" {
			t.Errorf("conditions %s", got)
		}
	})
}
