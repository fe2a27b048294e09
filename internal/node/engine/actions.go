package engine

import (
	"strings"
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
	"github.com/holdfast-ha/holdfast/internal/group/agent"
)

// Actions of resources that administrators asked for, and what this node tells
// the log of events.

type actionsInfo struct {
	// Operations that the agents were asked for, or that were found when this engine began.
	asked map[uint64]bool
	// Plan revision that was looked at last; 0: none yet by this engine, as this incarnation.
	looked uint64
}

// actionsOn has agents carry out what was asked for since this engine began. Of what was asked for before, an engine
// before this one may have begun it: to do it twice may be worse than not to do it.
func (e *Engine) actionsOn() {
	g := &e.groups
	a := &g.actions
	if e.self() == nil || !g.met || a.looked == e.s.GetPlanRevision() {
		return
	}
	found := a.looked == 0
	a.looked = e.s.GetPlanRevision()
	asked := map[uint64]bool{}
	for _, op := range e.s.GetOperations() {
		if op.GetKind() != v1.OperationKind_OPERATION_KIND_RESOURCE_ACTION || op.GetNode() != e.node || op.GetState() != v1.OperationState_OPERATION_STATE_RUNNING {
			continue
		}
		asked[op.GetId()] = true
		switch {
		case a.asked[op.GetId()]:
		case found:
			e.actionEnded(agent.Acted{Token: op.GetId(), Err: "clusterd of " + e.node + " was started again meanwhile: it is not known whether " + op.GetAction() + " was carried out; look, and repeat it if not"})
		default:
			g.runtime.Act(e.now, op.GetId(), op.GetGroup(), op.GetResource(), op.GetAction(), op.GetArguments())
		}
	}
	a.asked = asked
}

func (e *Engine) actionEnded(d agent.Acted) {
	m := e.self()
	if m == nil {
		return // whoever removed it has ended its operations
	}
	message := d.Output
	if d.Err != "" {
		message = strings.TrimSpace(d.Err + "\n" + d.Output)
	}
	e.submitOnce("operation "+itoa(d.Token), &statepb.Command{Change: &statepb.Command_OperationDone{OperationDone: &statepb.OperationDone{
		Id: d.Token, Node: e.node, RaftId: m.GetRaftId(), Failed: d.Err != "", Message: message,
	}}})
}

// maxTold bounds the events that wait while none can be committed; the newest are kept.
const maxTold = 100

// tell the log of events.
func (e *Engine) tell(events ...*v1.Event) {
	g := &e.groups
	g.events = append(g.events, events...)
	g.events = g.events[max(0, len(g.events)-maxTold):]
}

func (e *Engine) tellOn() {
	g := &e.groups
	if len(g.events) == 0 || e.self() == nil || e.waiting.has("events") {
		return
	}
	e.submitOnce("events", &statepb.Command{Change: &statepb.Command_Note{Note: &statepb.Note{Events: g.events}}})
	g.events = nil
}

// jeopardyEvery bounds how often a link that comes and goes is told of.
const jeopardyEvery = time.Minute

// jeopardy tells once when this node comes to reach some peer over its last link.
func (e *Engine) jeopardy(was, is *guardpb.Peers) {
	g := &e.guard
	in := func(t *guardpb.Peers) (names []string) {
		for _, p := range t.GetPeers() {
			if p.GetState() == guardpb.LinkState_LINK_STATE_JEOPARDY {
				names = append(names, p.GetNode())
			}
		}
		return names
	}
	peers := in(is)
	if len(peers) == 0 || len(in(was)) > 0 || e.now < g.jeopardyAgain {
		return
	}
	g.jeopardyAgain = e.now + jeopardyEvery
	e.tell(&v1.Event{Severity: v1.Severity_SEVERITY_WARNING, Code: "node.jeopardy", Node: e.node, TimeMs: e.wall,
		Message: e.node + " reaches " + strings.Join(peers, ", ") + " over its last link: when that fails, too, one side is lost"})
}
