package lab

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

// Bounds after a fault within which the losing side's processes are gone, with
// the default peerinact of a second (docs/lease.md).
const (
	// Power is gone.
	goneAtOnce = 100 * time.Millisecond
	// It reaches nobody: lease and stop.
	goneByLease = 850 * time.Millisecond
	// It still reached the coordination points, until the other side suspected it there.
	goneBySuspicion = time.Second + 350*time.Millisecond + goneByLease
)

// newPointSite makes a lab with coordination points, whose service records its lives.
func newPointSite(t *testing.T, o Options) *site {
	t.Helper()
	o.Tune.Lives = true
	s := newSite(t, o)
	t.Cleanup(s.checkLives) // before the lab is removed
	return s
}

// checkLives fails the test for processes of the service that lived on two nodes at once.
func (s *site) checkLives() {
	lives, err := s.lives()
	if err != nil {
		s.t.Error(err)
	}
	for _, pair := range together(lives) {
		s.t.Errorf("the service ran on two nodes at once: %+v", pair)
	}
}

// whole waits until all machines run as a whole cluster again.
func (s *site) whole() string {
	s.t.Helper()
	_, err := s.AwaitSettled(s.ctx)
	s.must(err)
	s.must(s.AwaitPoints(s.ctx))
	return s.steady()
}

// takeover makes a fault, waits until somebody else than the losers serves, and
// checks when the service of the losers ended.
func (s *site) takeover(what string, losers []string, bound time.Duration, fault func() (time.Duration, error)) string {
	s.t.Helper()
	at, err := fault()
	s.must(err)
	return s.taken(what, at, losers, bound)
}

// taken waits until somebody else than the losers serves, and checks by the
// word of its processes when the service of the losers ended.
func (s *site) taken(what string, at time.Duration, losers []string, bound time.Duration) string {
	s.t.Helper()
	o, err := s.prober.AwaitMove(s.ctx, at, losers, 300*time.Millisecond)
	s.must(err)
	lives, err := s.lives()
	s.must(err)
	var last life
	first := life{Start: -1}
	for _, l := range lives {
		switch {
		case slices.Contains(losers, l.Node):
			last = l
		case l.Start > at && first.Start < 0:
			first = l
		}
	}
	if first.Start < 0 || last.Last == 0 {
		s.t.Fatalf("%s: no end or no start is recorded: %+v", what, lives)
	}
	if last.Last >= first.Start {
		s.t.Errorf("%s: %s was alive %v after the fault, %s started after %v", what, last.Node, last.Last-at, first.Node, first.Start-at)
	}
	if gone := last.Last - at; gone > bound {
		s.t.Errorf("%s: the service on %s was gone %v after the fault only, not within %v", what, last.Node, gone, bound)
	}
	s.t.Logf("%s: gone from %s after %v, started on %s after %v, answers after %v", what, last.Node, last.Last-at, first.Node, first.Start-at, o.Recovery)
	return o.Node
}

// parted cuts the links between two nodes, which still reach the points, and
// checks that the one that goes on serves. It should be the leader, but the
// other one may be quicker.
func (s *site) parted(active, leader string) {
	s.t.Helper()
	at, err := s.Split([]string{active}, []string{leader}, false)
	s.must(err)
	st, err := s.AwaitStatus(s.ctx, func(st *v1.StatusResponse) string {
		if !st.GetSource().GetQuorum() || !slices.ContainsFunc(st.Nodes, func(n *v1.NodeInfo) bool { return n.Phase == v1.NodePhase_NODE_PHASE_FAULTED }) {
			return "neither node has evicted the other"
		}
		return ""
	})
	s.must(err)
	if winner := st.GetSource().GetNode(); winner == active {
		s.t.Logf("the link between the nodes: %s, which did not lead, goes on", active)
		s.awaitRunning(active)
	} else {
		s.taken("the link between the nodes", at, []string{active}, goneBySuspicion)
	}
}

// awaitRunning waits until the service answers from a node.
func (s *site) awaitRunning(node string) {
	s.t.Helper()
	for now := s.steady(); now != node; now = s.steady() {
		s.pause(10 * time.Millisecond)
	}
}

// undisturbed watches that the service goes on where it is, during something
// that takes its time: the same process, the same address. A probe alone proves
// little: where a packet is lost it is sent again after a second.
func (s *site) undisturbed(what string, something func()) {
	s.t.Helper()
	active := s.steady()
	before := s.newestLife()
	at := monotonic()
	something()
	if now := s.steady(); now != active {
		s.t.Errorf("%s: %s answers, not %s", what, now, active)
	}
	if after := s.newestLife(); after.Start != before.Start {
		s.t.Errorf("%s: the service was started anew on %s, %v after that began", what, after.Node, after.Start-at)
	}
	if gone, ok := s.watcher.gone(active, at); ok {
		s.t.Errorf("%s: the service was gone from %s, %v after that began", what, active, gone-at)
	}
}

// newestLife is that of the process which was started last.
func (s *site) newestLife() life {
	s.t.Helper()
	lives, err := s.lives()
	s.must(err)
	if len(lives) == 0 {
		s.t.Fatal("no process of the service has recorded its life")
	}
	return lives[len(lives)-1]
}

// rejoins heals or starts what was lost, which must not be noticed either.
func (s *site) rejoins(what string, again func() error) {
	s.t.Helper()
	s.undisturbed(what, func() {
		s.must(again())
		s.whole()
	})
}

func (s *site) pause(d time.Duration) { s.must(pause(s.ctx, d)) }

// onFollower moves the service to the node that does not lead.
func (s *site) onFollower() (active, leader string) {
	s.t.Helper()
	for {
		active = s.steady()
		leader = s.status().GetSource().GetLeader()
		if active != leader {
			return active, leader
		}
		c, err := s.Client(leader)
		s.must(err)
		s.must(c.Switch(s.ctx, defaultGroup, s.others(leader)[0]))
	}
}

// losses goes through what one of two nodes can lose: power, everything, the other node.
func (s *site) losses() {
	s.t.Helper()
	active := s.whole()
	s.takeover("power", []string{active}, goneAtOnce, func() (time.Duration, error) { return s.Kill(active) })
	s.rejoins("a node has power again", func() error { return s.Start(active) })

	// The other one is missed by nobody.
	other := active
	s.undisturbed("the idle node has no power", func() {
		_, err := s.Kill(other)
		s.must(err)
		s.pause(3 * time.Second)
	})
	s.rejoins("the idle node has power again", func() error { return s.Start(other) })

	active = s.whole()
	s.takeover("everything", []string{active}, goneByLease, func() (time.Duration, error) {
		at, err := s.Cut(active)
		for _, d := range s.rec.Plan.LockDisks {
			if _, e := s.CutDisk(d.Name, active); e != nil {
				return at, e
			}
		}
		return at, err
	})
	s.rejoins("a node has everything again", func() error { return s.Heal(active) })

	active, leader := s.onFollower()
	s.parted(active, leader)
	s.undisturbed("the nodes are apart", func() { s.pause(time.Second) })
	s.rejoins("the nodes are together", func() error { return s.Heal(active) })
}

func TestTwoNodesAndArbiter(t *testing.T) {
	s := newPointSite(t, Options{Nodes: 2, Arbiters: 1})
	s.losses()

	// Without the arbiter nothing stops while the nodes agree.
	s.lostPoint("a1", func() error { _, err := s.Kill("a1"); return err }, func() error { return s.Start("a1") })
}

// lostPoint loses the only coordination point, then a node, and then finds the point again.
func (s *site) lostPoint(point string, lose, find func() error) {
	s.t.Helper()
	epoch := s.status().Epoch
	s.undisturbed(point+" is lost", func() {
		s.must(lose())
		s.pause(2 * time.Second)
		_, err := s.AwaitStatus(s.ctx, func(st *v1.StatusResponse) string {
			if !slices.ContainsFunc(st.Conditions, func(c *v1.Condition) bool { return strings.Contains(c.String(), point) }) {
				return "the status does not tell of " + point
			}
			return ""
		})
		s.must(err)
	})
	if now := s.status().Epoch; now != epoch {
		s.t.Errorf("%s was lost and the view changed: epoch %d, then %d", point, epoch, now)
	}
	// One node of two, and nobody to ask: it can't know, and stops.
	active := s.steady()
	other := s.others(active)[0]
	fault, err := s.Kill(other)
	s.must(err)
	gone := s.awaitGone(active, fault)
	s.t.Logf("%s and a node are lost: stopped after %v", point, gone-fault)
	s.says(active, "coordination point", "status")
	s.says(active, "no quorum", "explain", "group", defaultGroup)
	s.says(active, point, "quorum", "show")
	// With the point it can know.
	s.must(find())
	if now := s.steady(); now != active {
		s.t.Errorf("after the return of %s %s serves, not %s", point, now, active)
	}
	s.rejoins("the node is back too", func() error { return s.Start(other) })
}

// says checks that a command says something, whatever its exit status.
func (s *site) says(node, what string, command ...string) {
	s.t.Helper()
	cmd, err := s.Lab.cli(s.ctx, node, command...)
	s.must(err)
	if out, _ := cmd.CombinedOutput(); !strings.Contains(string(out), what) {
		s.t.Errorf("holdfast %s does not say %q:\n%s", strings.Join(command, " "), what, out)
	}
}

func TestTwoNodesAndLockDisk(t *testing.T) {
	s := newPointSite(t, Options{Nodes: 2, LockDisks: 1})
	s.losses()
	s.lostPoint("d1", func() error { _, err := s.CutDisk("d1", s.Nodes()...); return err }, func() error { return s.HealDisk("d1") })
}

// Two of three points suffice.
func TestTwoNodesAndThreePoints(t *testing.T) {
	s := newPointSite(t, Options{Nodes: 2, Arbiters: 2, LockDisks: 1})
	active := s.whole()
	_, err := s.Kill("a2")
	s.must(err)
	now := s.takeover("power and one point", []string{active}, goneAtOnce, func() (time.Duration, error) { return s.Kill(active) })
	s.rejoins("both are back", func() error { return errors.Join(s.Start(active), s.Start("a2")) })
	_, err = s.CutDisk("d1", s.Nodes()...)
	s.must(err)
	s.takeover("everything and the lock disk", []string{now}, goneByLease, func() (time.Duration, error) { return s.Cut(now) })
	s.rejoins("both are healed", func() error { return errors.Join(s.Heal(now), s.HealDisk("d1")) })
}

// Two sites of two nodes: the preferred one wins, wherever the service and the leader are.
func TestSplitWithPreferredSite(t *testing.T) {
	s := newPointSite(t, Options{Nodes: 4, Arbiters: 1, Tune: Tuning{Sites: []string{"east", "east", "west", "west"}, PreferredSite: "west"}})
	east, west := []string{"n1", "n2"}, []string{"n3", "n4"}
	if active := s.whole(); !slices.Contains(east, active) {
		t.Fatalf("%s serves first", active)
	}
	split := func() (time.Duration, error) { return s.Split(east, west, false) }
	heal := func() error { return errors.Join(s.Heal("n1"), s.Heal("n2")) }
	s.takeover("the link between the sites", east, goneBySuspicion, split)
	s.rejoins("the sites are together", heal)
	// Now the service is where it should stay.
	s.undisturbed("the sites are apart", func() {
		_, err := split()
		s.must(err)
		s.pause(3 * time.Second)
	})
	s.rejoins("the sites are together again", heal)
}
