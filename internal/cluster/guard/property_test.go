package guard

import (
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
	"github.com/holdfast-ha/holdfast/internal/cluster/timers"
)

// A judge collects the statements of a world and looks, after everything that
// happens, whether a node holds a lease that it must not hold.
type judge struct {
	t *rapid.T
	w *world
	// By voter and suspected.
	statements map[[2]string]judged
	covered    map[string]bool // how far the test got: it must not pass by doing nothing
}

type judged struct {
	*statepb.Statement
	at time.Duration
}

func (j *judge) stated(n *node, s *guardpb.Suspect) {
	j.statements[[2]string{n.name, s.Statement.About}] = judged{s.Statement, j.w.now}
}

// valid statements about node, as the cluster would count them.
func (j *judge) valid(node string) []judged {
	var valid []judged
	about := j.w.peer(node)
	for _, v := range j.w.conf.Peers {
		s, ok := j.statements[[2]string{v.Node, node}]
		if ok && s.VoterRaftId == v.RaftId && s.VoterGuardIncarnation == v.GuardIncarnation && s.AboutRaftId == about.RaftId && s.Stays == about.Stays {
			valid = append(valid, s)
		}
	}
	return valid
}

// check that no node holds a lease that a majority has seen the end of.
func (j *judge) check() {
	majority := len(j.w.names)/2 + 1
	for _, name := range j.w.names {
		n := j.w.nodes[name]
		if n.core != nil && n.core.LeaseHeld(j.w.now) {
			j.covered["lease"] = true
		}
		valid := j.valid(name)
		if len(valid) < majority {
			continue
		}
		j.covered["majority"] = true
		// Any majority of them will do, so each choice is judged: enough of them are over.
		over, goodbye, covered := 0, uint64(0), 0
		for _, s := range valid {
			if j.w.now >= s.at-s.Age.AsDuration()+timers.Lease(n.inact()) {
				over++
			}
			goodbye = max(goodbye, s.GoodbyeSequence)
		}
		for _, s := range valid {
			if goodbye != 0 && s.YoungestSequence != 0 && s.YoungestSequence <= goodbye && s.AboutGuardIncarnation == j.saidBy(valid, goodbye) {
				covered++
			}
		}
		switch {
		case over >= majority:
			j.covered["time"] = true
		case covered >= majority:
			j.covered["goodbye"] = true
		default:
			continue
		}
		// A guard that is down holds what it kept for the next one.
		held := n.up && n.core.LeaseHeld(j.w.now) || !n.up && n.leaseUntil > j.w.now
		if held {
			j.t.Fatalf("%v: %s holds a lease, although %d of %d voters have stated that it is over\n%s", j.w.now, name, max(over, covered), len(j.w.names), j.w.log.String())
		}
	}
}

// saidBy is the incarnation whose goodbye has that number.
func (j *judge) saidBy(valid []judged, goodbye uint64) uint64 {
	for _, s := range valid {
		if s.GoodbyeSequence == goodbye {
			return s.AboutGuardIncarnation
		}
	}
	return 0
}

func (n *node) inact() time.Duration {
	if n.core == nil {
		return timers.DefaultPeerinact
	}
	return n.core.inact
}

// TestNoLeaseAfterStatements: over random cuts, delays, pauses, restarts of guards and
// machines, and commits that nodes apply at different times.
func TestNoLeaseAfterStatements(t *testing.T) {
	total := map[string]bool{}
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		j := &judge{t: t, w: w, statements: map[[2]string]judged{}, covered: total}
		w.stated = j.stated
		w.links = rapid.IntRange(1, 2).Draw(t, "links")
		w.add([]string{"a", "b", "c", "d", "e"}[:rapid.IntRange(3, 5).Draw(t, "nodes")])
		seed := rapid.Uint64().Draw(t, "delays")
		slow := rapid.SampledFrom([]time.Duration{time.Millisecond, 50 * time.Millisecond, 400 * time.Millisecond, 1500 * time.Millisecond}).Draw(t, "slowest")
		w.delay = func() time.Duration {
			seed = seed*6364136223846793005 + 1442695040888963407
			return time.Millisecond + time.Duration(seed>>33)%slow
		}
		for _, name := range w.names {
			w.nodes[name].conf = &w.conf
			w.nodes[name].start(true)
		}
		j.run(950 * time.Millisecond)
		node := rapid.SampledFrom(w.names)
		for range rapid.IntRange(1, 25).Draw(t, "steps") {
			a := node.Draw(t, "node")
			n := w.nodes[a]
			switch what := rapid.SampledFrom([]string{"cut", "cut", "cut one way", "heal", "heal", "pause", "resume", "resume timers first",
				"kill guard", "start guard", "reboot", "commit guard", "stays", "stays", "engine", "slow stop", "appended", "wait", "wait"}).Draw(t, "what"); what {
			case "cut":
				w.cut("", []string{rapid.SampledFrom([]string{a, a + "-" + node.Draw(t, "peer")}).Draw(t, "cut")}, true)
			case "cut one way":
				w.cut("", []string{a + ">" + node.Draw(t, "peer")}, true)
			case "heal":
				clear(w.cuts)
			case "pause":
				if n.up {
					n.paused = true
				}
			case "resume", "resume timers first":
				if n.paused {
					n.resume(what != "resume")
				}
			case "kill guard":
				n.up, n.paused, n.waiting = false, false, nil
			case "start guard":
				if !n.up {
					n.start(false)
				}
			case "reboot":
				n.up, n.leaseUntil = false, 0
				n.start(true)
			case "commit guard":
				w.peer(a).GuardIncarnation = n.incarnation
				j.apply()
			case "stays":
				w.peer(a).Stays++
				j.apply()
			case "engine":
				if n.up && !n.paused {
					w.engineVerb(n, rapid.SampledFrom([]string{"down", "up"}).Draw(t, "engine"))
				}
			case "slow stop":
				n.stopTakes = rapid.SampledFrom([]time.Duration{0, 20 * time.Millisecond, 2 * time.Second}).Draw(t, "stop")
			case "appended":
				// Somebody's log holds a view that was never committed, or no longer.
				n.send(&guardpb.ToGuard{Body: &guardpb.ToGuard_Appended{Appended: &guardpb.Appended{Epoch: rapid.Uint64Range(1, 2).Draw(t, "epoch")}}})
			}
			j.check()
			j.run(time.Duration(rapid.Int64Range(0, int64(2*time.Second)).Draw(t, "time")))
		}
	})
	for _, what := range []string{"lease", "majority", "time", "goodbye"} {
		if !total[what] {
			t.Errorf("no schedule got as far as %q: the test proves nothing", what)
		}
	}
}

// apply what was committed, on each node after a while of its own.
func (j *judge) apply() {
	conf := proto.CloneOf(&j.w.conf)
	for _, name := range j.w.names {
		n := j.w.nodes[name]
		lag := time.Duration(rapid.Int64Range(0, int64(1500*time.Millisecond)).Draw(j.t, "lag"))
		core := n.core
		j.w.after(lag, func() {
			// Logs are applied in order.
			if n.up && n.core == core && n.conf != nil && newer(conf, n.conf) {
				n.configure(conf)
			}
		})
	}
}

// newer says whether a was committed after b.
func newer(a, b *guardpb.Configure) bool {
	for i, p := range a.Peers {
		if p.Stays < b.Peers[i].Stays || p.GuardIncarnation < b.Peers[i].GuardIncarnation {
			return false
		}
	}
	return true
}

func (j *judge) run(d time.Duration) {
	until := j.w.now + d
	for j.w.now < until {
		next := until
		if len(j.w.queue) > 0 && j.w.queue[0].at < until {
			next = j.w.queue[0].at
		}
		j.w.run(max(next, j.w.now+1))
		j.check()
	}
}
