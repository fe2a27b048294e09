package sim

import (
	"fmt"
	"io"
	"runtime/debug"
	"strings"
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	pb "github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// A Result is what came of a run.
type Result struct {
	Options Options
	Failure *Failure // nil: nothing was broken
	Excused string   // not empty: the second phase was not judged, and why
	Cover   map[string]int
	Virtual time.Duration
	Hash    uint64 // of the whole story
	Tail    string // its last lines
}

// Run a cluster by options. verbose, if not nil, gets the whole story.
func Run(o Options, verbose io.Writer) (r Result) {
	defer useSeed(o.Seed)()
	c := newCluster(o)
	c.verbose, c.raftLines = verbose, verbose
	defer func() {
		if p := recover(); p != nil {
			c.fail("N6", "panic: %v\n%s", p, shortStack(debug.Stack()))
		}
		r = Result{Options: o, Failure: c.failed, Excused: r.Excused, Cover: c.cover, Virtual: c.now, Hash: c.hash, Tail: c.tail(200)}
	}()
	c.tell("--", "seed %d: %d nodes, %d links, %d groups, %d coordination points (%d lock disks), peerinact %v, clocks ±%d ppm, sync %v", o.Seed, o.Nodes, o.Links, o.Groups, o.Points, o.LockDisks, o.Peerinact, o.Drift, o.DiskSync)
	for _, f := range o.Schedule {
		c.at(f.At, func() {
			verb, _, _ := strings.Cut(f.Line, " ")
			if err := c.do(f.Line); err != nil {
				c.tell("--", "not now: %s: %v", f.Line, err)
				return
			}
			c.tell("--", "%s", f.Line)
			c.count("fault." + verb)
		})
	}
	c.runUntil(o.Chaos)
	c.heal()
	r.Excused = c.recover()
	return r
}

// runUntil the time t, or a failure.
func (c *cluster) runUntil(t time.Duration) {
	last, still := c.now, 0
	for c.failed == nil && c.step(t) {
		if c.now != last {
			last, still = c.now, 0
		} else if still++; still > 100_000 {
			c.fail("N6", "time stands still: the cores always want something at once")
		}
	}
}

// patience of the second phase.
func (c *cluster) patience() time.Duration { return 40*time.Second + 20*c.longestPeerinact() }

// recover is the second phase: administrators put right what is theirs to put
// right, and wait.
func (c *cluster) recover() (excused string) {
	end := c.now + c.patience()
	round := time.Duration(0)
	for c.failed == nil && c.now < end {
		c.runUntil(c.now + time.Second)
		if c.failed != nil {
			return ""
		}
		if c.check.hopeless() {
			return "a majority of disks is gone"
		}
		why := c.check.settled()
		if why == "" {
			c.tell("--", "settled")
			c.final()
			return ""
		}
		if c.now >= round {
			round = c.now + 10*time.Second
			c.mend()
		}
	}
	if c.failed == nil {
		rule := "L2"
		why := c.check.settled()
		if !strings.Contains(why, "group") && !strings.Contains(why, "believes") {
			rule = "L1"
		}
		c.standing()
		c.fail(rule, "after %v without faults: %s", c.patience(), why)
	}
	return ""
}

// mend does what administrators do after a bad day.
func (c *cluster) mend() {
	for _, n := range c.nodes {
		_ = n.boot() // if it left, it is started again
	}
	s := c.check.newest
	if s == nil {
		return
	}
	for _, n := range c.nodes {
		if s.GetNodes()[n.name].GetFrozen() {
			_ = c.do("unfreeze " + n.name)
		}
	}
	for _, g := range c.config.GetGroups() {
		if s.GetGroups()[g.GetName()].GetFrozen() {
			_ = c.do("unfreeze " + g.GetName())
		}
		if c.online(s, g) {
			continue
		}
		_ = c.do("clear " + g.GetName())
		if !busy(s, g.GetName()) {
			_ = c.do("online " + g.GetName())
		}
	}
}

// online: the state says that all of a group is online somewhere.
func (c *cluster) online(s *pb.State, g *v1.Group) bool {
	for _, on := range s.GetGroupStatus()[g.GetName()].GetNodes() {
		n := 0
		for _, r := range g.GetResources() {
			if on.GetResources()[r.GetName()].GetState() == v1.ResourceState_RESOURCE_STATE_ONLINE {
				n++
			}
		}
		if n == len(g.GetResources()) {
			return true
		}
	}
	return false
}

func busy(s *pb.State, group string) bool {
	for _, op := range s.GetOperations() {
		if op.GetGroup() == group && op.GetState() == v1.OperationState_OPERATION_STATE_RUNNING {
			return true
		}
	}
	return false
}

// final checks of a cluster at rest.
func (c *cluster) final() {
	for _, n := range c.nodes {
		c.check.promises(n)
	}
	c.check.once()
	c.check.allProcesses()
}

// shortStack leaves the frames of the cores and the simulator.
func shortStack(stack []byte) string {
	var keep []string
	lines := strings.Split(string(stack), "\n")
	for i := 0; i+1 < len(lines); i++ {
		if strings.Contains(lines[i+1], "/internal/") && strings.HasPrefix(lines[i+1], "\t") {
			file := lines[i+1][strings.Index(lines[i+1], "/internal/")+1:]
			file, _, _ = strings.Cut(file, " +0x")
			keep = append(keep, "  "+file)
		}
	}
	return strings.Join(keep, "\n")
}

// Report of a failed run, with the way to see it again.
func (r Result) Report() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", r.Tail)
	fmt.Fprintf(&b, "\nseed %d broke %s after %s: %s\n", r.Options.Seed, r.Failure.Rule, seconds(r.Failure.At), r.Failure.Message)
	fmt.Fprintf(&b, "replay: make sim SEED=%d\n", r.Options.Seed)
	return b.String()
}

// Shrink leaves faults out as long as the run breaks the same rule.
func Shrink(r Result, progress func(left int)) Result {
	for size := max(1, len(r.Options.Schedule)/2); ; {
		smaller := false
		for i := 0; i < len(r.Options.Schedule); {
			o := r.Options
			end := min(len(o.Schedule), i+size)
			o.Schedule = append(append([]Fault{}, o.Schedule[:i]...), o.Schedule[end:]...)
			if x := Run(o, nil); x.Failure != nil && x.Failure.Rule == r.Failure.Rule {
				r, smaller = x, true
				progress(len(o.Schedule))
				continue
			}
			i = end
		}
		if size == 1 && !smaller {
			return r
		}
		size = max(1, size/2)
	}
}

// mustSee lists what a hundred seeds have to bring about, or the simulator
// tests less than it says.
var mustSee = []string{
	"net.lost", "net.duplicated", "stream.broken", "stream.stalled", "stream.dropped", "disk.torn",
	"view", "ack", "proven", "hiccup", "guardless.stop", "event.node.evicted", "event.node.joined", "event.node.left", "event.node.stays", "event.node.stopped",
	"call.online", "call.offline", "call.clean", "call.hung", "call.misbehaved",
	"lease.ended", "stale.processes", "goodbye",
	"fault.crash", "fault.boot", "fault.kill", "fault.pause", "fault.cut", "fault.flap", "fault.split", "fault.net", "fault.disk",
	"fault.point-down", "fault.unreach", "point.asked", "point.refused.REASON_SUSPECTED", "lockdisk.asked", "lockdisk.late",
	"fault.die", "fault.agents", "fault.stop", "fault.silence", "fault.set",
	"event.node.detached", "event.group.attached", "event.node.reset", "restart", "trigger.run", "trigger.cancelled", "fault.signal",
}

// Unseen returns what did not happen though it should have.
func Unseen(cover map[string]int) (missing []string) {
	for _, k := range mustSee {
		if cover[k] == 0 {
			missing = append(missing, k)
		}
	}
	return missing
}

// standing tells where every node stands.
func (c *cluster) standing() {
	for _, n := range c.nodes {
		switch {
		case !n.up:
			n.tell("is down")
		case n.guard == nil:
			n.tell("has no guard (left: %v)", n.left)
		case n.engine == nil:
			n.tell("has no engine")
		default:
			e := n.engine
			m := state.MemberOf(e.State(), n.name)
			n.tell("raft id %d (in the view %d, learner %d), applied %d, view %d, leader %q, lease %v, phase %v, disk hung %v full %v", e.RaftID(),
				m.GetRaftId(), e.State().GetLearners()[n.name].GetRaftId(), e.AppliedIndex(), e.State().GetView().GetEpoch(), e.Leader(), n.guard.LeaseHeld(n.local()),
				e.State().GetNodeStatus()[n.name].GetPhase(), n.disk.hung, n.disk.full)
		}
	}
	for _, key := range c.net.pairs() {
		if s := c.net.streams[key]; s == nil || s.broken || !s.side[0].up || !s.side[1].up {
			c.tell("net", "no stream between n%d and n%d", key[0]+1, key[1]+1)
		}
	}
}
