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

// A point is a coordination point as nodes reach it, or don't.
type point struct {
	c    *cluster
	r    *rand.Rand
	name string
	up   bool
	runs int   // how often it was started
	cut  []int // by node: how many faults cut it off
	slow time.Duration

	// One of the two.
	arbiter *arbiter
	disk    *lockDisk
}

// An arbiter is the core of the server, with what it keeps on disk. Its clock is
// the world's.
type arbiter struct {
	*point
	kept *witnesspb.Kept
	core *witness.Point
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
		p := &point{c: c, r: newRand(c.o.Seed, fmt.Sprintf("arbiter %d", i)), name: pointName(i), cut: make([]int, c.o.Nodes)}
		cp := &v1.CoordinationPoint{Name: p.name}
		if i < c.o.LockDisks {
			p.disk = newLockDisk(p)
			cp.Kind = &v1.CoordinationPoint_LockDisk{LockDisk: &v1.LockDiskPoint{Path: "/dev/" + p.name, Disk: p.disk.id.String()}}
		} else {
			p.arbiter = &arbiter{point: p}
			cp.Kind = &v1.CoordinationPoint_Arbiter{Arbiter: &v1.ArbiterPoint{Address: p.name}}
		}
		p.start()
		c.points = append(c.points, p)
		w.Points = append(w.Points, cp)
	}
	w.Votes = state.WitnessVotes(w.Points, len(s.GetView().GetMembers()))
	s.Witness = w
}

func pointName(i int) string { return fmt.Sprintf("p%d", i+1) }

func (c *cluster) point(name string) *point {
	for _, p := range c.points {
		if p.name == name {
			return p
		}
	}
	return nil
}

func (p *point) start() {
	if p.up {
		return
	}
	p.up = true
	p.runs++
	if p.arbiter != nil {
		p.arbiter.core = witness.NewPoint(p.c.now)
	}
}

func (p *point) stop() { p.up = false }

// latency of one way between a node and a point.
func (a *point) latency() time.Duration {
	if a.c.calm {
		return time.Millisecond
	}
	d := between(a.r, 100*time.Microsecond, 2*time.Millisecond)
	if a.r.IntN(100) == 0 {
		d += upTo(a.r, a.c.o.Peerinact/2)
	}
	return d + a.slow
}

// reach says whether anything between a node and this point arrives.
func (a *point) reach(n *node) bool { return a.cut[n.index] == 0 }

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
	request := proto.CloneOf(r.Request)
	at := n.c.point(r.Point)
	switch {
	case at == nil:
		return
	case at.disk != nil:
		n.hand(at.disk).ask(request, answer)
		return
	case !at.reach(n):
		return
	}
	a := at.arbiter
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
		next, answer := a.core.Do(a.c.now, a.kept, r)
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
	a := c.point(args[len(args)-1])
	if a == nil {
		return fmt.Errorf("no coordination point %q", args[len(args)-1])
	}
	switch verb {
	case "point-down":
		a.stop()
		undo(a.start)
	case "point-slow":
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
	{"point-down", 3, func(o *Options, r *rand.Rand) []string {
		return one("point-down %s for %s", aPoint(o, r), aWhile(o, r))
	}},
	{"point-slow", 1, func(o *Options, r *rand.Rand) []string {
		return one("point-slow %s for %s", aPoint(o, r), aWhile(o, r))
	}},
	{"unreach", 3, func(o *Options, r *rand.Rand) []string {
		return one("unreach %s %s for %s", aNode(o, r), aPoint(o, r), aWhile(o, r))
	}},
	{"island", 3, func(o *Options, r *rand.Rand) []string { // a node alone in the world
		n, d := aNode(o, r), aWhile(o, r)
		lines := one("cut %s for %s", n, d)
		for i := range o.Points {
			lines = append(lines, fmt.Sprintf("unreach %s %s for %s", n, pointName(i), d))
		}
		return lines
	}},
}

func aPoint(o *Options, r *rand.Rand) string { return pointName(r.IntN(o.Points)) }
