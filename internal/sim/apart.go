package sim

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"time"

	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	pb "github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
	"github.com/holdfast-ha/holdfast/internal/node/engine"
)

// What nodes do apart from the cluster's own course: they are detached and come
// back, are reset, run trigger programs, and know signals.

// apartKinds are drawn beside the others, by a third of the seeds.
var apartKinds = []kind{
	{"detach", 4, func(o *Options, r *rand.Rand) []string { return one("stop %s detach", aNode(o, r)) }},
	{"start", 4, func(o *Options, r *rand.Rand) []string { return one("start %s", aNode(o, r)) }},
	{"crash", 2, func(o *Options, r *rand.Rand) []string { return one("crash %s for %s", aNode(o, r), aWhile(o, r)) }},
	{"isolate", 1, func(o *Options, r *rand.Rand) []string { return one("cut %s for %s", aNode(o, r), aWhile(o, r)) }},
	{"confirm", 2, func(o *Options, r *rand.Rand) []string {
		n := aNode(o, r)
		return []string{fmt.Sprintf("crash %s for %s", n, aWhile(o, r)), "confirm " + n}
	}},
	{"reset", 1, func(o *Options, r *rand.Rand) []string { return one("reset %s", aNode(o, r)) }},
	{"trigger", 4, func(o *Options, r *rand.Rand) []string { return one("trigger %s", aNode(o, r)) }},
	{"signal", 2, func(o *Options, r *rand.Rand) []string {
		return one("signal s%d %s %d", r.IntN(3), aNode(o, r), 1+r.IntN(100))
	}},
}

// apart draws what happens beside the other faults, without disturbing them.
func (o *Options) apart() (faults []Fault) {
	r := newRand(o.Seed, "apart")
	if r.IntN(3) > 0 {
		return nil
	}
	total := 0
	for _, k := range apartKinds {
		total += k.weight
	}
	every := pick(r, 500*time.Millisecond, 2*time.Second, 5*time.Second)
	for at := 2 * time.Second; at < o.Chaos; at += time.Duration(float64(every) * r.ExpFloat64()) {
		n := r.IntN(total)
		for _, k := range apartKinds {
			if n -= k.weight; n < 0 {
				for i, line := range k.lines(o, r) {
					faults = append(faults, Fault{at + time.Duration(i)*upTo(r, 2*o.Peerinact), line})
				}
				break
			}
		}
	}
	return faults
}

// confirm that a node is down, as an administrator who has looked.
func (c *cluster) confirm(name string) error {
	n := c.byName[name]
	if n == nil || n.up {
		return fmt.Errorf("%s is not down", name)
	}
	return c.ask(&pb.Command{Change: &pb.Command_ConfirmDown{ConfirmDown: &pb.ConfirmDown{
		Node: name, RaftId: c.check.newest.GetNodeStatus()[name].GetFence().GetRaftId(), By: "root",
	}}})
}

// plan has the leader decide something, if it leads and nothing changes meanwhile.
func (c *cluster) plan(what, name string) error {
	if c.byName[name] == nil {
		return fmt.Errorf("no node %q", name)
	}
	for _, n := range c.nodes {
		if n.engine == nil || !n.proc.alive || !n.engine.IsLeader() || state.MemberOf(n.engine.State(), name) == nil {
			continue
		}
		p := &pb.Plan{BasePlanRevision: n.engine.State().GetPlanRevision(), ClockMs: n.engine.ClockMs()}
		if what == "reset" {
			p.Resets = map[string]string{name: "the chaos wants it"}
		} else {
			p.Triggers = []*pb.TriggerRun{{Trigger: []string{"sysup", "postonline"}[c.luck.IntN(2)], Node: name}}
		}
		n.proc.do(false, func() {
			n.step(engine.Propose{Command: &pb.Command{Format: state.Format, Change: &pb.Command_Plan{Plan: p}}})
		})
		return nil
	}
	return fmt.Errorf("nobody leads, or %s is no member", name)
}

// runTriggers as the driver does: a program takes its time, and one that is ended early ends soon.
func (n *node) runTriggers(out engine.Out) {
	p := n.proc
	for _, t := range out.Triggers {
		n.c.count("trigger.run")
		took := n.c.upTo(2 * time.Second)
		n.triggers[t.Number] = p.post(took, func() { n.triggerEnds(t.Number, int32(n.c.luck.IntN(2))) })
	}
	for _, number := range out.CancelTriggers {
		n.c.count("trigger.cancelled")
		n.c.cancel(n.triggers[number])
		n.triggers[number] = p.post(n.c.upTo(20*time.Millisecond), func() { n.triggerEnds(number, -1) })
	}
	if out.Signals != nil {
		n.signals = map[string]int64{}
		for name, v := range out.Signals {
			n.signals[name] = v.GetValue()
		}
	}
}

func (n *node) triggerEnds(number uint64, status int32) {
	delete(n.triggers, number)
	n.step(engine.TriggerEnded{Number: number, Status: status})
}

// restart the machine: fail-fast.
func (n *node) restart() {
	n.c.count("restart")
	_ = n.crash()
	n.c.after(n.c.between(time.Second, 5*time.Second), func() { _ = n.boot() }) // somebody may have been quicker
}

// clockRuns is N8.
func (k *checker) clockRuns(s *pb.State, index uint64) {
	ms := s.GetClockMs()
	// Clocks may be fast by the drift of the options, and each new leader may have applied the last reading early.
	most := k.c.now.Milliseconds() + k.c.now.Milliseconds()*k.c.o.Drift/1_000_000 + 1
	if ms > most {
		k.c.fail("N8", "the cluster's clock reads %d ms after %d ms", ms, k.c.now.Milliseconds())
	}
	if index > k.newestAt && ms < k.newest.GetClockMs() {
		k.c.fail("N8", "the cluster's clock went from %d to %d", k.newest.GetClockMs(), ms)
	}
}

// apartSettled is L3.
func (k *checker) apartSettled(s *pb.State) string {
	if len(s.GetTriggers()) > 0 {
		return fmt.Sprintf("trigger %v was not run", s.GetTriggers()[0])
	}
	for _, n := range k.c.nodes {
		want := map[string]int64{}
		for name, v := range state.SignalsOf(s, n.name) {
			want[name] = v.GetValue()
		}
		if !maps.Equal(want, n.signals) {
			return fmt.Sprintf("%s knows signals %v, not %v", n.name, n.signals, want)
		}
		if left := state.DetachedOn(s, n.name); len(left) > 0 {
			return fmt.Sprintf("group %s still counts as detached on %s", left[0], n.name)
		}
	}
	return ""
}
