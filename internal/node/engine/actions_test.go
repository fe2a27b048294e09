package engine

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
	"github.com/holdfast-ha/holdfast/internal/group/agent"
)

func act(name string) *statepb.Command {
	return &statepb.Command{Change: &statepb.Command_Operate{Operate: &statepb.Operate{Operation: &v1.Operation{
		Kind: v1.OperationKind_OPERATION_KIND_RESOURCE_ACTION, Group: "web", Resource: "r", Node: "n1", Action: name, Arguments: []string{"x"},
	}}}}
}

func (w *solo) lastOperation() *v1.Operation {
	ops := w.e.State().GetOperations()
	return ops[len(ops)-1]
}

func TestActions(t *testing.T) {
	w := settledSolo(t)
	w.asked = nil
	w.propose(act("rotate"))
	w.until("action r")
	w.step(CallDone{agent.Done{Token: w.calls["action r"], Result: agent.Result{Output: "turned"}}})
	if op := w.lastOperation(); op.GetState() != v1.OperationState_OPERATION_STATE_DONE || op.GetMessage() != "turned" {
		t.Fatalf("%v", op)
	}
	w.propose(act("fail"))
	w.until("action r")
	w.step(CallDone{agent.Done{Token: w.calls["action r"], Result: agent.Result{Err: "exit status 3", Output: "no"}}})
	if op := w.lastOperation(); op.GetState() != v1.OperationState_OPERATION_STATE_FAILED || op.GetMessage() != "exit status 3\nno" {
		t.Fatalf("%v", op)
	}
	w.now += time.Minute
	w.step(Tick{})
	for _, a := range w.asked {
		if strings.HasPrefix(a, "action") {
			t.Fatal("it is run again")
		}
	}
}

// An action that an engine before this one may have begun is not begun again.
func TestActionFromBefore(t *testing.T) {
	w := settledSolo(t)
	w.propose(act("rotate"))
	w.e.groups.actions = actionsInfo{} // as of an engine that has just begun
	w.step(Tick{})
	if op := w.lastOperation(); op.GetState() != v1.OperationState_OPERATION_STATE_FAILED || !strings.Contains(op.GetMessage(), "not known") {
		t.Fatalf("%v", op)
	}
}

func TestJeopardyIsToldOnce(t *testing.T) {
	w := settledSolo(t)
	last := &guardpb.Peers{Seeded: true, Cold: true, Peers: []*guardpb.PeerState{{Node: "n2", State: guardpb.LinkState_LINK_STATE_JEOPARDY}}}
	both := &guardpb.Peers{Seeded: true, Cold: true, Peers: []*guardpb.PeerState{{Node: "n2", State: guardpb.LinkState_LINK_STATE_UP}}}
	say := func(p *guardpb.Peers) (told int) {
		at := w.e.State().GetNextEvent()
		w.guard(&guardpb.FromGuard{Body: &guardpb.FromGuard_Peers{Peers: proto.CloneOf(p)}})
		for _, e := range w.e.State().GetEvents() {
			if e.GetNumber() > at && e.GetCode() == "node.jeopardy" && e.GetNode() == "n1" && strings.Contains(e.GetMessage(), "n2") {
				told++
			}
		}
		return told
	}
	for i, c := range []struct {
		peers *guardpb.Peers
		want  int
	}{{last, 1}, {last, 0}, {both, 0}, {last, 0}} { // the last one within a minute
		if got := say(c.peers); got != c.want {
			t.Errorf("%d: told %d times", i, got)
		}
	}
	w.now += jeopardyEvery
	say(both)
	if got := say(last); got != 1 {
		t.Errorf("told %d times a minute later", got)
	}
}

// What can't be told for long does not pile up.
func TestEventsAreBounded(t *testing.T) {
	w := settledSolo(t)
	for range 10 * maxTold {
		w.e.tell(&v1.Event{Code: "x.y"})
	}
	if n := len(w.e.groups.events); n != maxTold {
		t.Fatalf("%d wait", n)
	}
}
