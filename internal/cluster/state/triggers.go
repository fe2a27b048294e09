package state

import (
	"fmt"
	"path"
	"slices"

	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	pb "github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// Trigger programs: a plan adds runs, a node carries them out and says how they
// ended (docs/triggers.md).

// MostTriggers are kept; of more, the oldest ones that nobody waits for are dropped. (Who waits for one is an
// instance of a group, and waits for one at a time.)
const MostTriggers = 1000

// Trigger programs are looked for here if nothing else is configured.
const triggerPath = "/etc/holdfast/triggers"

// Facts of a trigger that its program gets as arguments.
const (
	FactSystem    = "system"    // the node that it is about, if it is not the one that runs it
	FactWhy       = "why"       // why it is brought online or offline: manual, fault, auto …
	FactFrom      = "from"      // the node that it comes from
	FactTo        = "to"        // the node that it goes to
	FactWas       = "was"       // the state of a resource before
	FactIs        = "is"        // and now
	FactRestarts  = "restarts"  // in place, this one included
	FactReason    = "reason"    // why it waits for an administrator: 0 to 5, as clean counts them
	FactState     = "state"     // of the node
	FactAvailable = "available" // capacity that is left
)

// arguments of triggers after the trigger's name and a node, in the field's
// order: "group", "resource", or a fact.
var arguments = map[string][]string{
	"preonline":    {"group", FactWhy, FactFrom},
	"preoffline":   {"group", FactWhy},
	"preswitch":    {"group", FactTo},
	"postonline":   {"group"},
	"postoffline":  {"group"},
	"resfault":     {"resource", FactWas},
	"resnotoff":    {"resource"},
	"resrestart":   {"resource", FactRestarts},
	"resadminwait": {"resource", FactReason},
	"nofailover":   {"group"},
	"violation":    {"group"},
	"injeopardy":   {FactState},
	"loadwarning":  {FactAvailable},
	"sysoffline":   {FactState},
	"sysup":        {FactState},
	"sysjoin":      {FactState},

	"resstatechange": {"resource", FactWas, FactIs},
}

// TriggerArguments are those of the program of a run.
func TriggerArguments(t *pb.TriggerRun) []string {
	about := t.GetNode()
	if other := t.GetFacts()[FactSystem]; other != "" {
		about = other
	}
	args := []string{t.GetTrigger(), about}
	for _, what := range arguments[t.GetTrigger()] {
		switch what {
		case "group":
			args = append(args, t.GetGroup())
		case "resource":
			args = append(args, t.GetResource())
		default:
			args = append(args, t.GetFacts()[what])
		}
	}
	return args
}

// TriggerProgram is the program of a trigger of a group, or of the cluster if g is nil.
func TriggerProgram(s *pb.State, g *v1.Group, trigger string) string {
	dir := triggerPath
	if p := s.GetCluster().GetTriggerPath(); p != "" {
		dir = p
	}
	if p := g.GetTriggerPath(); p != "" {
		dir = p
	}
	return path.Join(dir, trigger)
}

// Trigger is the run with that number, nil if it is not known any more.
func Trigger(s *pb.State, number uint64) *pb.TriggerRun {
	if i := triggerAt(s, number); i >= 0 {
		return s.Triggers[i]
	}
	return nil
}

func triggerAt(s *pb.State, number uint64) int {
	return slices.IndexFunc(s.GetTriggers(), func(t *pb.TriggerRun) bool { return t.GetNumber() == number && number != 0 })
}

// addTriggers of a plan. They are numbered here, and are of the present incarnations of their nodes.
func (a *applier) addTriggers(runs []*pb.TriggerRun) {
	for _, t := range runs {
		t = proto.CloneOf(t)
		a.s.NextTrigger++
		t.Number, t.RaftId, t.Ended, t.ExitStatus, t.Message = a.s.NextTrigger, MemberOf(a.s, t.GetNode()).GetRaftId(), false, 0, ""
		if t.GetClockMs() == 0 {
			t.ClockMs = a.s.GetClockMs()
		}
		a.s.Triggers = append(a.s.Triggers, t)
	}
	over := len(a.s.Triggers) - MostTriggers
	dropped := 0
	a.s.Triggers = slices.DeleteFunc(a.s.Triggers, func(t *pb.TriggerRun) bool {
		drop := dropped < over && !t.GetBlocking()
		if drop {
			dropped++
		}
		return drop
	})
	if dropped > 0 {
		a.event(&v1.Event{Severity: v1.Severity_SEVERITY_WARNING, Code: "trigger.dropped",
			Message: fmt.Sprintf("%d trigger programs will not be run any more: more than %d were waiting", dropped, MostTriggers)})
	}
}

func (a *applier) triggerDone(c *pb.TriggerDone) *Refused {
	t := Trigger(a.s, c.GetNumber())
	switch {
	case t == nil || t.GetEnded():
		return refuse(CodeStale, "trigger %d is not being run", c.GetNumber())
	case t.GetNode() != c.GetNode() || t.GetRaftId() != c.GetRaftId():
		return refuse(CodeStale, "trigger %d is not run by raft id %d of node %s", c.GetNumber(), c.GetRaftId(), c.GetNode())
	}
	a.endTrigger(t, c.GetExitStatus(), clip(c.GetMessage()))
	return nil
}

func (a *applier) endTrigger(t *pb.TriggerRun, status int32, message string) {
	t.Ended, t.ExitStatus, t.Message = true, status, message
	if status != 0 {
		how := message
		if status > 0 {
			how = fmt.Sprintf("exit status %d", status) + because(message)
		}
		a.event(&v1.Event{Severity: v1.Severity_SEVERITY_WARNING, Code: "trigger.failed", Node: t.GetNode(), Group: t.GetGroup(), Resource: t.GetResource(),
			Message: fmt.Sprintf("trigger %s on %s: %s", t.GetTrigger(), t.GetNode(), how)})
	}
	if t.GetBlocking() {
		a.planChanged()
	}
}

// seenTriggers: the planner has taken note of these, or does not wait for them any more.
func (a *applier) seenTriggers(numbers []uint64) {
	for _, n := range numbers {
		if i := triggerAt(a.s, n); i >= 0 {
			a.s.Triggers = slices.Delete(a.s.Triggers, i, i+1)
		}
	}
}

// ofCluster: it tells of something that any member can tell of, so that it
// passes on to another one when its node is lost. All others are about their node, and lost with it.
func ofCluster(trigger string) bool {
	switch trigger {
	case "sysoffline", "sysup", "sysjoin", "nofailover":
		return true
	}
	return false
}

// fitTriggers ends or moves runs whose node is not there any more, and forgets those that nobody waits for.
func (a *applier) fitTriggers() {
	if len(a.s.GetTriggers()) == 0 {
		return
	}
	for _, t := range a.s.Triggers {
		m := MemberOf(a.s, t.GetNode())
		if t.GetEnded() || m != nil && m.GetRaftId() == t.GetRaftId() {
			continue
		}
		if heir := a.heir(); !t.GetBlocking() && ofCluster(t.GetTrigger()) && heir != nil {
			if t.GetFacts()[FactSystem] == "" {
				if t.Facts == nil {
					t.Facts = map[string]string{}
				}
				t.Facts[FactSystem] = t.GetNode()
			}
			t.Node, t.RaftId = heir.GetNode(), heir.GetRaftId()
			continue
		}
		a.endTrigger(t, -1, t.GetNode()+" left the cluster before it was known how it went")
	}
	a.s.Triggers = slices.DeleteFunc(a.s.Triggers, func(t *pb.TriggerRun) bool {
		gone := t.GetGroup() != "" && a.s.Groups[t.GetGroup()] == nil
		return gone || t.GetEnded() && !(t.GetBlocking() && a.awaited(t))
	})
}

// heir is the first member that stays.
func (a *applier) heir() *pb.Member {
	for _, m := range a.s.GetView().GetMembers() {
		if a.s.NodeStatus[m.GetNode()].GetPhase() == pb.NodePhase_NODE_PHASE_RUNNING {
			return m
		}
	}
	return nil
}

// awaited by an instance of its group.
func (a *applier) awaited(t *pb.TriggerRun) bool {
	for _, b := range a.s.GroupStatus[t.GetGroup()].GetInstances() {
		if b.GetTrigger() == t.GetNumber() {
			return true
		}
	}
	return false
}
