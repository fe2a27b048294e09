package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

// binaryDir holds the real binary, once it is built; removed after all tests.
var binaryDir string

// holdfast builds the real binary, once for all tests.
var holdfast = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "holdfast-e2e-")
	if err != nil {
		return "", err
	}
	binaryDir = dir
	if err := os.Chmod(dir, 0o755); err != nil { // other users run it too
		return "", err
	}
	binary := filepath.Join(dir, "holdfast")
	build := exec.Command("go", "build", "-o", binary, "../../cmd/holdfast")
	if out, err := build.CombinedOutput(); err != nil {
		return binary, fmt.Errorf("build holdfast: %w\n%s", err, out)
	}
	return binary, nil
})

// A site is a lab with a cluster, the prober outside of it, and a watcher that
// sees into every node.
type site struct {
	t *testing.T
	*Lab
	prober  *Prober
	watcher *watcher
	ctx     context.Context
}

// newSite makes a lab and waits until its service answers.
func newSite(t *testing.T, o Options) *site {
	t.Helper()
	binary, err := holdfast()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 150*time.Second)
	t.Cleanup(cancel)
	o.Name, o.Dir, o.Attached, o.Binary = testName(t), filepath.Join(t.TempDir(), "lab"), true, binary
	l, err := Make(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, Lab: l, ctx: ctx}
	t.Cleanup(func() {
		s.watcher.close()
		s.watcher.report(t)
		if t.Failed() {
			s.dump()
		}
		if s.prober != nil {
			s.prober.Close()
		}
		if err := l.Down(); err != nil {
			t.Error(err)
		}
		checkNothingLeft(t, l)
	})
	is := isWeb
	if o.Sample != "" {
		is = isFront
	}
	s.watcher = watch(l, is)
	// Patient, as other tests may keep the cores busy: what is refused or broken fails all the same.
	if s.prober, err = l.startProber(l.Service(), 10*time.Millisecond, time.Second); err != nil {
		t.Fatal(err)
	}
	s.settle()
	s.must(l.AddPoints(ctx))
	return s
}

// dump shows what the nodes have logged.
func (s *site) dump() {
	for _, n := range s.rec.Plan.Nodes {
		b, _ := os.ReadFile(n.LogFile())
		s.t.Logf("log of %s, its last part:\n%s", n.Name, b[max(0, len(b)-6000):])
	}
}

func (s *site) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// settle waits until the running nodes are members and the service is steady,
// and returns who serves.
func (s *site) settle() string {
	s.t.Helper()
	_, err := s.AwaitSettled(s.ctx)
	s.must(err)
	return s.steady()
}

func (s *site) steady() string {
	s.t.Helper()
	node, err := s.prober.AwaitSteady(s.ctx, 10)
	s.must(err)
	return node
}

func (s *site) status() *v1.StatusResponse {
	s.t.Helper()
	st, err := s.AwaitStatus(s.ctx, func(st *v1.StatusResponse) string {
		if !st.GetSource().GetQuorum() {
			return "no quorum"
		}
		return ""
	})
	s.must(err)
	return st
}

// noneFailed checks the probes since the last Take.
func (s *site) noneFailed() {
	s.t.Helper()
	probes := s.prober.Take()
	if bad := failures(probes); bad > 0 {
		s.t.Errorf("%d of %d probes failed", bad, len(probes))
	}
	for _, p := range probes {
		if !p.Good() {
			s.t.Logf("%v after the first: failed within %v", p.Begin-probes[0].Begin, p.End-p.Begin)
		}
	}
}

// others than the named nodes, in order.
func (s *site) others(not ...string) []string {
	return slices.DeleteFunc(s.Nodes(), func(n string) bool { return slices.Contains(not, n) })
}

// outage waits for the service to come back after a fault, on another node
// than the given one.
func (s *site) outage(fault time.Duration, not string) Outage {
	s.t.Helper()
	o, err := s.prober.AwaitOutage(s.ctx, fault, 200*time.Millisecond)
	s.must(err)
	if o.Node == not {
		s.t.Errorf("after the fault %s answers again", o.Node)
	}
	s.t.Logf("outage %v, %d probes failed, now on %s", o.Recovery, o.Failed, o.Node)
	return o
}

// A sight is what the watcher saw of the service on one node.
type sight struct {
	address, program, awake bool
}

// running says whether something of the service is there that may act.
func (s sight) running() bool { return (s.address || s.program) && s.awake }

// A watcher looks into all nodes from outside, every few milliseconds: is the
// service's address there, and a process of its program? Two awake nodes that
// have either at the same time are an overlap.
type watcher struct {
	nodes []nodePlan
	// is recognises the service's program.
	is    func([]string) bool
	stop  chan struct{}
	ended chan struct{}

	mu       sync.Mutex
	overlaps []string
	// When the sight of a node last changed, and to what.
	seen map[string][]sighted
}

type sighted struct {
	at time.Duration
	sight
}

func watch(l *Lab, is func([]string) bool) *watcher {
	w := &watcher{is: is, nodes: slices.Clone(l.rec.Plan.Nodes), stop: make(chan struct{}), ended: make(chan struct{}), seen: map[string][]sighted{}}
	go w.run()
	return w
}

func (w *watcher) run() {
	defer close(w.ended)
	tick := time.NewTicker(4 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-w.stop:
			return
		case <-tick.C:
		}
		now := w.look()
		// A move between two looks is no overlap: look again.
		if on := running(now); len(on) > 1 {
			if again := running(w.look()); len(again) > 1 {
				w.mu.Lock()
				w.overlaps = append(w.overlaps, fmt.Sprintf("%v: the service was on %v at once: %+v", monotonic(), again, now))
				w.mu.Unlock()
			}
		}
	}
}

func running(sights map[string]sight) []string {
	var on []string
	for n, s := range sights {
		if s.running() {
			on = append(on, n)
		}
	}
	slices.Sort(on)
	return on
}

func (w *watcher) look() map[string]sight {
	out := map[string]sight{}
	for i := range w.nodes {
		p := &w.nodes[i]
		s := sight{address: hasServiceAddress(p), program: hasProgram(p, w.is), awake: true}
		if frozen, err := cgroup(p.Cgroup).event("frozen"); err == nil && frozen {
			s.awake = false
		}
		out[p.Name] = s
		w.mu.Lock()
		if seen := w.seen[p.Name]; len(seen) == 0 || seen[len(seen)-1].sight != s {
			w.seen[p.Name] = append(seen, sighted{monotonic(), s})
		}
		w.mu.Unlock()
	}
	return out
}

// hasServiceAddress looks for the default cluster's address in a node's network.
func hasServiceAddress(p *nodePlan) (has bool) {
	_ = inNetns(p.Netns, func(h *netlink.Handle, _ netns.NsHandle) error {
		addrs, err := h.AddrList(nil, netlink.FAMILY_V4)
		for _, a := range addrs {
			has = has || a.IP.String() == "10.77.1.100"
		}
		return err
	})
	return has
}

// hasProgram looks for a live process of the web server on a node.
func hasProgram(p *nodePlan, is func([]string) bool) bool {
	return slices.ContainsFunc(cgroup(p.Cgroup).processes(), func(pid int) bool { return is(commandLineOf(pid)) })
}

func (w *watcher) close() {
	if w != nil {
		close(w.stop)
		<-w.ended
	}
}

// report fails the test for every overlap.
func (w *watcher) report(t *testing.T) {
	if w == nil {
		return
	}
	for i, o := range w.overlaps {
		if i < 5 {
			t.Error(o)
		}
	}
}

// gone returns when the service was last seen to disappear from a node, after
// the given time.
func (w *watcher) gone(node string, after time.Duration) (time.Duration, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := w.seen[node]
	for i := len(seen) - 1; i >= 0; i-- {
		if s := seen[i]; s.address || s.program {
			if i+1 < len(seen) && seen[i+1].at > after {
				return seen[i+1].at, true
			}
			return 0, false
		}
	}
	return 0, false
}

// came returns when the service first appeared on a node after the given time.
func (w *watcher) came(node string, after time.Duration) (time.Duration, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.seen[node] {
		if s.at > after && (s.address || s.program) {
			return s.at, true
		}
	}
	return 0, false
}

// awaitGone waits until nothing of the service is on a node any more.
func (s *site) awaitGone(node string, after time.Duration) time.Duration {
	s.t.Helper()
	for {
		if at, ok := s.watcher.gone(node, after); ok {
			return at
		}
		if err := pause(s.ctx, 5*time.Millisecond); err != nil {
			s.t.Fatalf("the service is still on %s", node)
		}
	}
}

func TestCrash(t *testing.T) {
	s := newSite(t, Options{})
	active := s.steady()
	fault, err := s.Kill(active)
	s.must(err)
	o := s.outage(fault, active)
	if out := s.cli(o.Node, "explain", "group", defaultGroup); !strings.Contains(out, active) {
		t.Errorf("the explanation does not name %s:\n%s", active, out)
	}
	s.must(s.Start(active))
	if now := s.settle(); now != o.Node {
		t.Errorf("the service went back to %s", now)
	}
	p, _ := s.rec.Plan.node(active)
	if hasServiceAddress(p) || hasProgram(p, isWeb) {
		t.Errorf("%s has something of the service after its reboot", active)
	}
}

// cli runs a command against a node and returns what it printed.
func (s *site) cli(node string, args ...string) string {
	s.t.Helper()
	p, err := s.rec.Plan.node(node)
	s.must(err)
	cmd := exec.CommandContext(s.ctx, s.rec.Binary, args...)
	cmd.Env = append(os.Environ(), apiVariable+"="+apiAddress(p))
	out, err := cmd.CombinedOutput()
	if err != nil {
		s.t.Errorf("holdfast %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func TestPartition(t *testing.T) {
	s := newSite(t, Options{})
	active := s.steady()
	fault, err := s.Cut(active)
	s.must(err)
	o := s.outage(fault, active)
	stopped := s.awaitGone(active, fault)
	started, ok := s.watcher.came(o.Node, fault)
	if !ok || stopped >= started {
		t.Errorf("the cut-off side stopped %v after the cut, the other started after %v (%v)", stopped-fault, started-fault, ok)
	}
	t.Logf("stopped %v after the cut, started after %v", stopped-fault, started-fault)
	s.must(s.Heal(active))
	s.settle()
}

func TestClusterdKilled(t *testing.T) {
	s := newSite(t, Options{})
	active := s.steady()
	web, err := s.find(active, isWeb)
	s.must(err)
	s.prober.Take()
	for range 2 {
		n, at, err := s.KillProcesses(active, isDaemon("clusterd"))
		s.must(err)
		if n != 1 {
			t.Fatalf("%d processes of clusterd", n)
		}
		_, err = s.prober.Await(s.ctx, at, func(p []Probe) bool { return monotonic()-at > 1500*time.Millisecond })
		s.must(err)
		s.settle()
	}
	s.noneFailed()
	if now, _ := s.find(active, isWeb); !slices.Equal(now, web) {
		t.Errorf("the web server was started anew: %v, then %v", web, now)
	}
}

// With one restart allowed, the second death moves the service.
func TestServiceKilled(t *testing.T) {
	o := Options{Name: "x", Tune: Tuning{RestartLimit: 1}}
	s := newSite(t, o)
	active := s.steady()
	before, err := s.find(active, isWeb)
	s.must(err)
	n, _, err := s.KillProcesses(active, isWeb)
	s.must(err)
	if n < 2 {
		t.Fatalf("%d processes of nginx", n)
	}
	// It may be back so soon that no probe has failed.
	s.must(s.untilNew(active, isWeb, before))
	if now := s.settle(); now != active {
		t.Errorf("it was not restarted in place but on %s", now)
	}
	_, at, err := s.KillProcesses(active, isWeb)
	s.must(err)
	s.outage(at, active)
}

// Three nodes, two after a crash, one after a clean stop: it still serves.
func TestShrinkToOne(t *testing.T) {
	s := newSite(t, Options{Tune: Tuning{OwnWeb: true}}) // as where no nginx is installed
	first := s.steady()
	fault, err := s.Kill(first)
	s.must(err)
	second := s.outage(fault, first).Node
	s.settle()
	third := s.others(first, second)[0]
	c, err := s.Client(third)
	s.must(err)
	s.must(c.StopNode(s.ctx, second))
	if now := s.steady(); now != third {
		t.Errorf("after the stop of %s the service is on %s, not on %s", second, now, third)
	}
	epoch := s.status().Epoch
	fault = monotonic()
	_, err = s.prober.Await(s.ctx, fault, func(p []Probe) bool { return monotonic()-fault > 2*time.Second })
	s.must(err)
	if now := s.steady(); now != third || s.status().Epoch != epoch {
		t.Errorf("the last node did not stay as it was: %s serves, epoch %d then %d", now, epoch, s.status().Epoch)
	}
	s.must(s.Start(first))
	s.must(s.Start(second))
	s.settle()
}

// The last of two nodes can't know that the other is dead: it stops.
func TestLoneSurvivorStops(t *testing.T) {
	s := newSite(t, Options{Nodes: 2})
	active := s.steady()
	fault, err := s.Kill(s.others(active)[0])
	s.must(err)
	s.awaitGone(active, fault)
	if got := get(t, s.Lab, "", s.Service()); got != "-" {
		t.Errorf("%s still answers", got)
	}
	s.must(s.Start(s.others(active)[0]))
	s.settle()
}

// The switch is off for a while: nobody has a quorum, everything stops. When
// it is back the service is too, by itself, and as often as that happens.
func TestSwitchOff(t *testing.T) {
	s := newSite(t, Options{})
	for range 2 {
		active := s.steady()
		fault := monotonic()
		for _, n := range s.Nodes() {
			_, err := s.Cut(n)
			s.must(err)
		}
		s.awaitGone(active, fault)
		for _, n := range s.Nodes() {
			s.must(s.Heal(n))
		}
		s.settle()
		for _, g := range s.status().Groups {
			for _, n := range g.Nodes {
				if n.Faulted {
					t.Errorf("%s is faulted on %s: %s", g.Name, n.Node, n.Message)
				}
			}
		}
	}
}

func TestOnePairCut(t *testing.T) {
	s := newSite(t, Options{})
	active := s.steady()
	other := s.others(active)[0]
	epoch := s.status().Epoch
	s.prober.Take()
	s.must(s.CutPair(active, other, false))
	at := monotonic()
	_, err := s.prober.Await(s.ctx, at, func(p []Probe) bool { return monotonic()-at > 4*time.Second })
	s.must(err)
	s.noneFailed()
	if st := s.status(); st.Epoch != epoch {
		t.Errorf("somebody was evicted: epoch %d, then %d", epoch, st.Epoch)
	}
	s.must(s.Heal(active))
	s.settle()
	if st := s.status(); st.Epoch != epoch {
		t.Errorf("somebody was evicted after the cut was healed: epoch %d, then %d", epoch, st.Epoch)
	}
}

// A machine that is paused and wakes believes in its lease: it must stop first.
func TestPausedActiveNode(t *testing.T) {
	s := newSite(t, Options{})
	active := s.steady()
	fault := monotonic()
	s.must(s.Pause(active, false))
	o := s.outage(fault, active)
	s.must(pause(s.ctx, fault+5*time.Second-monotonic()))
	woke := monotonic()
	s.must(s.Resume(active))
	gone := s.awaitGone(active, woke)
	t.Logf("stopped %v after it woke", gone-woke)
	// Until then two awake nodes had it: the wake-up bound that docs/lease.md states.
	s.watcher.forgive(woke, gone)
	if now := s.settle(); now != o.Node {
		t.Errorf("the service went back to %s", now)
	}
	// While it still had the address, old connections of it may have told others so.
	after := s.prober.Since(woke - gapLead)
	if gap := longestGap(after); gap > 2*time.Second {
		t.Errorf("the node that woke cut the service off for %v", gap)
	}
	for _, p := range after {
		if p.Begin > woke && p.Node == active {
			t.Errorf("%s answered %v after it woke", active, p.End-woke)
		}
	}
}

// forgive drops overlaps between two times.
func (w *watcher) forgive(from, to time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.overlaps = slices.DeleteFunc(w.overlaps, func(o string) bool {
		at, _, _ := strings.Cut(o, ":")
		d, err := time.ParseDuration(at)
		return err == nil && d >= from && d <= to+20*time.Millisecond
	})
}
