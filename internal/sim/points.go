package sim

import (
	"fmt"
	"math/rand/v2"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	pb "github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
	"github.com/holdfast-ha/holdfast/internal/cluster/witness"
	"github.com/holdfast-ha/holdfast/internal/cluster/witness/witnesspb"
	"github.com/holdfast-ha/holdfast/internal/node/engine"
)

// An arbiter is a coordination point: the core of the server, with what it
// keeps on disk. Its clock is the world's.
type arbiter struct {
	c     *cluster
	r     *rand.Rand
	name  string
	up    bool
	runs  int // how often it was started
	kept  *witnesspb.Kept
	point *witness.Point
	cut   []int // by node: how many faults cut it off
	slow  time.Duration
	// When the disk is done with what was written before.
	diskFree time.Duration
}

// addPoints gives the cluster of an initial state coordination points, as
// quorum add does, and returns the voters that come with it.
func (c *cluster) addPoints(s *pb.State) {
	if c.o.Points == 0 {
		return
	}
	w := &pb.Witness{RaftId: s.NextRaftId}
	s.NextRaftId++
	for i := range c.o.Points {
		a := &arbiter{c: c, r: newRand(c.o.Seed, fmt.Sprintf("arbiter %d", i)), name: fmt.Sprintf("a%d", i+1), cut: make([]int, c.o.Nodes)}
		a.start()
		c.arbiters = append(c.arbiters, a)
		w.Points = append(w.Points, &v1.CoordinationPoint{Name: a.name, Kind: &v1.CoordinationPoint_Arbiter{Arbiter: &v1.ArbiterPoint{Address: a.name}}})
	}
	w.Votes = state.WitnessVotes(w.Points, len(s.GetView().GetMembers()))
	s.Witness = w
}

func (c *cluster) arbiter(name string) *arbiter {
	for _, a := range c.arbiters {
		if a.name == name {
			return a
		}
	}
	return nil
}

func (a *arbiter) start() {
	if a.up {
		return
	}
	a.up = true
	a.runs++
	a.point = witness.NewPoint(a.c.now)
}

func (a *arbiter) stop() { a.up = false }

// latency of one way between a node and an arbiter.
func (a *arbiter) latency() time.Duration {
	if a.c.calm {
		return time.Millisecond
	}
	d := between(a.r, 100*time.Microsecond, 2*time.Millisecond)
	if a.r.IntN(100) == 0 {
		d += upTo(a.r, a.c.o.Peerinact/2)
	}
	return d + a.slow
}

// reach says whether a packet between a node and this arbiter arrives.
func (a *arbiter) reach(n *node) bool { return a.cut[n.index] == 0 }

// askPoint carries a request out for the engine that runs on n now.
func (n *node) askPoint(r engine.ToPoint) {
	n.c.count("point.asked")
	p := n.proc
	answered := false
	answer := func(reply *witnesspb.Reply, err string) {
		if !answered {
			answered = true
			p.do(false, func() { n.step(engine.FromPoint{Point: r.Point, Call: r.Call, Reply: reply, Err: err}) })
		}
	}
	n.c.after(r.Timeout, func() { answer(nil, "no answer") })
	a := n.c.arbiter(r.Point)
	if a == nil || !a.reach(n) {
		return
	}
	request := proto.CloneOf(r.Request)
	n.c.after(a.latency(), func() {
		if !a.up || !a.reach(n) {
			return
		}
		a.do(request, func(reply *witnesspb.Reply) {
			n.c.after(a.latency(), func() {
				if a.reach(n) && n.up {
					answer(reply, "")
				}
			})
		})
	})
}

// do what an arbiter does: one request after the other, durable before it answers.
func (a *arbiter) do(r *witnesspb.Request, reply func(*witnesspb.Reply)) {
	run := a.runs
	begin := max(a.c.now, a.diskFree)
	a.diskFree = begin + a.c.o.DiskSync // the next one waits for this one's sync
	a.c.at(begin, func() {
		if !a.up || a.runs != run {
			return
		}
		next, answer := a.point.Do(a.c.now, a.kept, r)
		if refused := answer.GetRefused(); refused != nil {
			a.c.count("point.refused." + refused.GetReason().String())
		}
		if next == nil {
			reply(answer)
			return
		}
		// A crash from here on may keep it or lose it; the answer leaves only after it is kept.
		kept := a.kept
		a.kept = next
		a.c.after(a.c.o.DiskSync, func() {
			switch {
			case a.up && a.runs == run:
				reply(answer)
			case a.kept == next && !a.c.calm && a.r.IntN(2) == 0:
				a.kept = kept // it had not reached the disk
			}
		})
	})
}

// doPoint carries out faults of coordination points.
func (c *cluster) doPoint(verb string, args []string, undo func(func())) error {
	if len(args) == 0 {
		return fmt.Errorf("%s: which coordination point?", verb)
	}
	a := c.arbiter(args[len(args)-1])
	if a == nil {
		return fmt.Errorf("no coordination point %q", args[len(args)-1])
	}
	switch verb {
	case "arbiter-down":
		a.stop()
		undo(a.start)
	case "arbiter-slow":
		d := c.o.Peerinact / 2
		a.slow += d
		undo(func() { a.slow -= d })
	case "unreach":
		n := c.byName[args[0]]
		if n == nil {
			return fmt.Errorf("no node %q", args[0])
		}
		a.cut[n.index]++
		undo(func() { a.cut[n.index]-- })
	}
	return nil
}

// pointKinds of faults; drawn beside the others, so that a seed's other faults stay what they are.
var pointKinds = []kind{
	{"arbiter-down", 3, func(o *Options, r *rand.Rand) []string {
		return one("arbiter-down %s for %s", anArbiter(o, r), aWhile(o, r))
	}},
	{"arbiter-slow", 1, func(o *Options, r *rand.Rand) []string {
		return one("arbiter-slow %s for %s", anArbiter(o, r), aWhile(o, r))
	}},
	{"unreach", 3, func(o *Options, r *rand.Rand) []string {
		return one("unreach %s %s for %s", aNode(o, r), anArbiter(o, r), aWhile(o, r))
	}},
	{"island", 3, func(o *Options, r *rand.Rand) []string { // a node alone in the world
		n, d := aNode(o, r), aWhile(o, r)
		lines := one("cut %s for %s", n, d)
		for i := range o.Points {
			lines = append(lines, fmt.Sprintf("unreach %s a%d for %s", n, i+1, d))
		}
		return lines
	}},
}

func anArbiter(o *Options, r *rand.Rand) string { return fmt.Sprintf("a%d", 1+r.IntN(o.Points)) }
