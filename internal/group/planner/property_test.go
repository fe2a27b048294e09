package planner

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
)

// TestAnythingAnywhere is the property test: safety at every step, and when
// things calm down every group that shall be online and can be, is, exactly once.
func TestAnythingAnywhere(t *testing.T) {
	seen := map[string]int{}
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(rt)
		for range rapid.IntRange(30, 200).Draw(rt, "steps") {
			w.happen()
		}
		w.calm()
		w.frozenUntouched()
		w.heal()
		w.calm()
		for _, g := range w.cfg.Groups {
			w.mustBeOnline(g, false)
			w.operate(&v1.Operation{Kind: opOnline, Group: g.Name, Propagate: len(g.DependsOn) > 0})
		}
		w.out.Reset()
		w.calm()
		for _, g := range w.cfg.Groups {
			w.mustBeOnline(g, true)
		}
		for _, op := range w.s.Operations {
			if op.State == running {
				rt.Fatalf("an operation never ended: %v", op)
			}
			seen[fmt.Sprint(op.Kind, op.State)]++
		}
		for k := range w.seen {
			seen[k]++
		}
	})
	// No hollow pass.
	want := []string{"evict", "rejoin", "leave", fmt.Sprint(opOnline, done), fmt.Sprint(opOnline, failed), fmt.Sprint(opOffline, done)}
	for _, k := range want {
		if seen[k] == 0 {
			t.Errorf("never seen: %s", k)
		}
	}
	t.Log(seen)
}

// TestAnythingSaid is TestAnythingAnywhere with groups of all kinds, and with
// everything that can be said of them.
func TestAnythingSaid(t *testing.T) {
	seen := map[string]int{}
	said := func(rt *rapid.T) {
		w := richWorld(rt)
		for range rapid.IntRange(30, 200).Draw(rt, "steps") {
			w.happen()
		}
		w.settled()
		w.frozenUntouched()
		w.heal()
		w.healRich()
		w.settled()
		for _, g := range w.cfg.Groups {
			w.operate(&v1.Operation{Kind: opOnline, Group: g.Name})
		}
		w.out.Reset()
		w.settled()
		w.onlineOrNoRoom()
		for _, op := range w.s.Operations {
			if op.State == running {
				rt.Fatalf("an operation never ended: %v", op)
			}
			seen[fmt.Sprint(op.Kind, op.State)]++
		}
		for _, d := range w.s.Decisions {
			for _, word := range []string{"room", "failback", "evacuated", "onlineRetryLimit", "autoClearLimit", "on purpose", "autoRestart"} {
				if len(d.Reasons) > 0 && strings.Contains(strings.Join(d.Reasons, " "), word) {
					seen[word]++
				}
			}
		}
		seen["trigger"] += int(w.s.NextTrigger)
	}
	for range 2 { // of so many possibilities, more than the usual number is tried
		rapid.Check(t, said)
	}
	for _, k := range []string{"evacuated", "trigger", fmt.Sprint(v1.OperationKind_OPERATION_KIND_NODE_EVACUATE, done)} {
		if seen[k] == 0 {
			t.Errorf("never seen: %s", k)
		}
	}
	t.Log(seen)
}

// onlineOrNoRoom: every instance is online, or there is no room for it anywhere.
func (w *world) onlineOrNoRoom() {
	p := newPass(w.s, w.env)
	p.openLedger()
	for _, gr := range p.groups {
		for _, i := range gr.instances {
			if h := i.home(); h != nil && h.member && i.complete(h) || !i.hasMember() {
				continue
			}
			for _, sp := range i.spots {
				if no := i.reject(sp, true); i.home() != nil || no == nil || !no.room && sp.member {
					w.t.Fatalf("%s %s is not online though %s could run it (%v): %v\n%v", gr.g.GetName(), i.instance, sp.node, no, gr.st, w.s.Operations)
				}
			}
		}
	}
}

func (w *world) mustBeOnline(g *v1.Group, asked bool) {
	gs := w.s.GroupStatus[g.Name]
	at := w.online(g.Name)
	if len(at) > 1 {
		w.t.Fatalf("%s is online on %v", g.Name, at)
	}
	if len(at) == 1 {
		return
	}
	for _, gr := range newPass(w.s, w.env).groups {
		if gr.g.GetName() == g.Name && len(gr.children) > 0 && gr.instances[0].awaitsChildren(gr.instances[0].inOrder(g.SystemList, "")) != "" {
			return // a child that is held, or in the way
		}
	}
	if asked {
		w.t.Fatalf("%s is offline though all is well and it was asked for: %v\n%v", g.Name, gs, w.s.Operations)
	}
	if !state.Book(gs, "").GetIntentOnline() {
		return
	}
	for _, node := range g.SystemList {
		if len(g.DependsOn) == 0 && !slices.Contains(state.Book(gs, "").GetTried(), node) {
			w.t.Fatalf("%s is offline though %s could run it: %v", g.Name, node, gs)
		}
	}
}

// frozenUntouched: in calm, nothing is decided of a frozen group.
func (w *world) frozenUntouched() {
	for _, name := range w.groups {
		if g := w.s.Groups[name]; g.Frozen {
			was := proto.CloneOf(w.s.GroupStatus[name])
			w.s.PlanRevision++
			w.decide()
			if !proto.Equal(was, w.s.GroupStatus[name]) {
				w.t.Fatalf("P5: the frozen group %s was changed", name)
			}
		}
	}
}

// TestSimulateNeverTouches: simulation and explanation leave the state alone
// and come to rest whatever the state is.
func TestSimulateNeverTouches(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(rt)
		for range rapid.IntRange(20, 150).Draw(rt, "steps") {
			w.happen()
		}
		was := state.Clone(w.s)
		req := &v1.SimulateRequest{}
		for range rapid.IntRange(1, 4).Draw(rt, "events") {
			req.Steps = append(req.Steps, w.drawStep())
		}
		resp := Simulate(w.s, w.env, req)
		if len(resp.Steps) != len(req.Steps) || len(resp.Groups) != len(w.s.Groups) {
			rt.Fatalf("%v", resp)
		}
		for _, g := range w.cfg.Groups {
			if e := Explain(w.s, w.env, g.Name); e.GetSummary() == "" || len(e.GetReasons()) == 0 && len(w.online(g.Name)) == 0 {
				rt.Fatalf("%v explained by %v", w.s.GroupStatus[g.Name], e)
			}
		}
		if Explain(w.s, w.env, "nothing") != nil {
			rt.Fatal("a group that is not there was explained")
		}
		if !proto.Equal(was, w.s) {
			rt.Fatal("P3: the live state was changed")
		}
	})
}

func (w *world) drawStep() *v1.SimulateStep {
	node := rapid.SampledFrom(append(w.nodes, "n9")).Draw(w.t, "node")
	group := rapid.SampledFrom([]string{"db", "web", "mail"}).Draw(w.t, "group")
	on := &v1.GroupOnNodeName{Group: group, Node: node}
	return rapid.SampledFrom([]*v1.SimulateStep{
		{Step: &v1.SimulateStep_FailNodes{FailNodes: &v1.NodeNames{Nodes: []string{node}}}},
		{Step: &v1.SimulateStep_JoinNode{JoinNode: node}},
		{Step: &v1.SimulateStep_Online{Online: on}},
		{Step: &v1.SimulateStep_Offline{Offline: on}},
		{Step: &v1.SimulateStep_Switch{Switch: on}},
		{Step: &v1.SimulateStep_Clear{Clear: on}},
		{Step: &v1.SimulateStep_Fault{Fault: &v1.ResourceOnNodeName{Group: group, Resource: "app"}}},
		{Step: &v1.SimulateStep_StopNode{StopNode: &v1.StopNodeName{Node: node, Evacuate: true}}},
		{Step: &v1.SimulateStep_Freeze{Freeze: &v1.FreezeName{Group: group, Frozen: true}}},
		{},
	}).Draw(w.t, "step")
}
