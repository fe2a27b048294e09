package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// BenchSchema names the form of a bench's JSON output: one result a line.
const BenchSchema = "holdfast-lab-bench/1"

// A BenchResult is what one test of a bench has measured. Times are
// nanoseconds.
type BenchResult struct {
	Schema string `json:"schema"`
	Test   string `json:"test"`
	// What the runs measured, for people.
	What      string        `json:"what"`
	PeerInact time.Duration `json:"peerinact"`
	// The cluster, if it is another one than three nodes without coordination points.
	Cluster string `json:"cluster,omitempty"`
	// Of the runs in which the service failed; of a split, moved.
	Summary *Summary `json:"summary,omitempty"`
	// A test of this bench that measured the like with three nodes without coordination
	// points, and this test's median as a multiple of that one's.
	Baseline string     `json:"baseline,omitempty"`
	Ratio    float64    `json:"ratio,omitempty"`
	Runs     []BenchRun `json:"runs,omitempty"`
	// The service's own times, to compare with.
	OwnStart time.Duration `json:"own_start,omitempty"`
	OwnStop  time.Duration `json:"own_stop,omitempty"`
	Idle     []NodeIdle    `json:"idle,omitempty"`
	OCF      []OCFIdle     `json:"ocf,omitempty"`
	Stress   *StressResult `json:"stress,omitempty"`
	// What was not as it should be.
	Faults []string `json:"faults,omitempty"`
}

// A BenchRun is one measurement.
type BenchRun struct {
	Time   time.Duration `json:"time"`
	Failed int           `json:"failed_probes"`
	From   string        `json:"from,omitempty"`
	To     string        `json:"to,omitempty"`
	// The node that failed led the cluster.
	Leader bool `json:"leader,omitempty"`
	// The service's side of the split won, and it went on.
	Stayed bool `json:"stayed,omitempty"`
	// What was not as it should be.
	Fault string `json:"fault,omitempty"`
}

// BenchOptions of a failover bench.
type BenchOptions struct {
	Runs int
	// Of the cluster; 0: its default.
	PeerInact time.Duration
	// Names of failoverTests; empty: all.
	Tests    []string
	Progress func(string)
	Options  Options // of the lab; name and directory may be set
}

// A benchTest measures one thing; run is called once for each run.
type benchTest struct {
	what string
	run  func(*bench, context.Context) (BenchRun, error)
	// Replaces run: measures everything itself.
	all func(*bench, context.Context, *BenchResult) error
	// The cluster, and the test of three nodes without points to compare with.
	shape    shape
	baseline string
}

// In the order in which they run.
var benchOrder = []string{"switch", "process", "clusterd", "crash", "leader", "partition", "cold",
	"arbiter-crash", "arbiter-partition", "arbiter-split", "disk-crash", "disk-partition", "disk-split", "preferred-split", "idle", "ocf"}

var benchTests = map[string]benchTest{
	"crash":     {what: "the active node loses network and power: to the first answer of another", run: (*bench).crash},
	"leader":    {what: "as crash, and the active node leads the cluster", run: (*bench).crashLeader},
	"partition": {what: "the active node loses its network: to the first answer of another", run: (*bench).partition},
	"process":   {what: "all processes of the service are killed: to the first answer", run: (*bench).process},
	"clusterd":  {what: "clusterd of the active node is killed: time without an answer", run: (*bench).clusterd},
	"switch":    {what: "planned move: longest time between two answers", run: (*bench).planned},
	"cold":      {what: "three nodes boot at once: to the first answer", run: (*bench).cold},
	"idle":      {what: "guard and clusterd of a node with 200 monitored resources", all: (*bench).idle},
	"ocf":       {what: "nodes that monitor 200 OCF resources in all every 10 s, programs included", all: (*bench).ocf},

	"arbiter-crash":     {what: "two nodes and an arbiter: as crash", run: (*bench).crash, shape: withArbiter, baseline: "crash"},
	"arbiter-partition": {what: "two nodes and an arbiter: as partition, from the arbiter too", run: (*bench).partition, shape: withArbiter, baseline: "partition"},
	"arbiter-split": {what: "two nodes and an arbiter: they don't hear each other, the leader is the other one; to its first answer",
		run: (*bench).split, shape: withArbiter, baseline: "partition"},
	"disk-crash":     {what: "two nodes and a lock disk: as crash", run: (*bench).crash, shape: withLockDisk, baseline: "crash"},
	"disk-partition": {what: "two nodes and a lock disk: as partition, and the disk is lost", run: (*bench).partition, shape: withLockDisk, baseline: "partition"},
	"disk-split": {what: "two nodes and a lock disk: they don't hear each other, the leader is the other one; to its first answer",
		run: (*bench).split, shape: withLockDisk, baseline: "partition"},
	"preferred-split": {what: "four nodes at two sites and an arbiter: split, the service is not at the preferred site; to the first answer from there",
		run: (*bench).splitPreferred, shape: withPreferred, baseline: "partition"},
}

// CheckTests returns the tests in the order of their runs, all if none are named.
func CheckTests(names []string) ([]string, error) {
	if len(names) == 0 {
		return benchOrder, nil
	}
	for _, n := range names {
		if _, ok := benchTests[n]; !ok {
			return nil, bad("there is no test %q; there are %s", n, strings.Join(slices.Sorted(maps.Keys(benchTests)), ", "))
		}
	}
	for _, n := range names { // what it is compared with belongs to it
		if base := benchTests[n].baseline; base != "" {
			names = append(names, base)
		}
	}
	return slices.DeleteFunc(slices.Clone(benchOrder), func(n string) bool { return !slices.Contains(names, n) }), nil
}

// bench is one lab with a prober, in which tests run one after the other.
type bench struct {
	o      BenchOptions
	shape  shape
	lab    *Lab
	prober *Prober
	rand   *rand.Rand
}

// Limits of a bench's waits.
const (
	settleLimit = 60 * time.Second
	outageLimit = 60 * time.Second
	// A service that answers for so long after an outage is back.
	steadyTime = 300 * time.Millisecond
)

// Failover runs a bench and gives each result to done as soon as it is there.
func Failover(ctx context.Context, o BenchOptions, done func(*BenchResult)) error {
	tests, err := CheckTests(o.Tests)
	if err != nil {
		return err
	}
	if o.Runs < 1 {
		return bad("--runs must be 1 at least")
	}
	b := &bench{o: o, rand: rand.New(rand.NewPCG(1, 2))}
	defer b.close()
	var results []*BenchResult
	for _, name := range tests {
		test := benchTests[name]
		r := &BenchResult{Schema: BenchSchema, Test: name, What: test.what, PeerInact: o.PeerInact, Cluster: string(test.shape), Baseline: test.baseline}
		if r.PeerInact == 0 {
			r.PeerInact = time.Second
		}
		if test.all != nil {
			err = test.all(b, ctx, r)
		} else {
			err = b.repeat(ctx, test, r)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		r.compare(results)
		results = append(results, r)
		done(r)
	}
	return nil
}

// open makes the lab, if it is not there yet.
func (b *bench) open(ctx context.Context, s shape) error {
	if b.lab != nil && b.shape == s {
		return nil
	}
	b.close()
	b.shape = s
	o := s.options(b.o.Options)
	o.Attached, o.Progress = true, b.o.Progress
	o.Tune.PeerInact = b.o.PeerInact
	l, err := Make(ctx, o)
	if err != nil {
		return err
	}
	b.lab = l
	if b.prober, err = l.StartProber(l.Service()); err != nil {
		return err
	}
	return within(ctx, settleLimit, "starting", func(ctx context.Context) error {
		if _, err := l.AwaitSettled(ctx); err != nil {
			return err
		}
		if err := l.AddPoints(ctx); err != nil {
			return err
		}
		return b.settle(ctx)
	})
}

// close removes the lab; it is made again by the next open.
func (b *bench) close() {
	if b.prober != nil {
		_ = b.prober.Close()
		b.prober = nil
	}
	if b.lab != nil {
		if err := b.lab.Down(); err != nil {
			b.o.Progress("remove the lab: " + err.Error())
		}
		b.lab = nil
	}
}

func within(ctx context.Context, limit time.Duration, what string, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("%s took more than %v", what, limit))
	defer cancel()
	return f(ctx)
}

// settle waits until the cluster is whole and the service steady.
func (b *bench) settle(ctx context.Context) error {
	return within(ctx, settleLimit, "settling", func(ctx context.Context) error {
		if _, err := b.lab.AwaitSettled(ctx); err != nil {
			return err
		}
		if err := b.lab.AwaitPoints(ctx); err != nil {
			return err
		}
		_, err := b.prober.AwaitSteady(ctx, 20)
		return err
	})
}

// active settles, then waits a random part of two heartbeats' time so that
// runs are spread over all phases, and tells who serves and who leads.
func (b *bench) active(ctx context.Context) (node, leader string, err error) {
	if err := b.settle(ctx); err != nil {
		return "", "", err
	}
	st, err := b.lab.AwaitSettled(ctx)
	if err != nil {
		return "", "", err
	}
	select {
	case <-ctx.Done():
		return "", "", context.Cause(ctx)
	case <-time.After(200*time.Millisecond + time.Duration(b.rand.Int64N(int64(250*time.Millisecond)))):
	}
	b.prober.Take()
	node, err = b.prober.AwaitSteady(ctx, 5)
	return node, st.GetSource().GetLeader(), err
}

func (b *bench) repeat(ctx context.Context, test benchTest, r *BenchResult) error {
	if err := b.open(ctx, test.shape); err != nil {
		return err
	}
	if r.Test == "process" || r.Test == "switch" {
		var err error
		if r.OwnStart, r.OwnStop, err = b.lab.ownTimes(ctx); err != nil {
			return err
		}
	}
	var times []time.Duration
	for i := range b.o.Runs {
		run, err := test.run(b, ctx)
		if err != nil {
			return fmt.Errorf("run %d: %w", i+1, err)
		}
		b.o.Progress(fmt.Sprintf("%s %d of %d: %s", r.Test, i+1, b.o.Runs, millis(run.Time)))
		r.Runs = append(r.Runs, run)
		if run.Fault != "" {
			r.Faults = append(r.Faults, run.Fault)
		}
		if !run.Stayed {
			times = append(times, run.Time)
		}
	}
	if len(times) == 0 {
		return nil // nobody noticed anything
	}
	s, err := summarize(times)
	r.Summary = &s
	return err
}

func millis(d time.Duration) string { return fmt.Sprintf("%.0f ms", float64(d)/1e6) }

// outage measures what a fault does to the service.
func (b *bench) outage(ctx context.Context, fault func() (time.Duration, error)) (o Outage, err error) {
	at, err := fault()
	if err != nil {
		return o, err
	}
	err = within(ctx, outageLimit, "recovery", func(ctx context.Context) error {
		o, err = b.prober.AwaitOutage(ctx, at, steadyTime)
		return err
	})
	return o, err
}

func (b *bench) crash(ctx context.Context) (BenchRun, error) {
	active, leader, err := b.active(ctx)
	if err != nil {
		return BenchRun{}, err
	}
	o, err := b.outage(ctx, func() (time.Duration, error) { return b.lab.Kill(active) })
	if err != nil {
		return BenchRun{}, err
	}
	run := BenchRun{Time: o.Recovery, Failed: o.Failed, From: active, To: o.Node, Leader: active == leader}
	return run, b.lab.Start(active)
}

// crashLeader has the service moved to the leader before that crashes.
func (b *bench) crashLeader(ctx context.Context) (BenchRun, error) {
	for range 10 {
		active, leader, err := b.active(ctx)
		if err != nil || active == leader {
			if err != nil {
				return BenchRun{}, err
			}
			return b.crash(ctx)
		}
		c, err := b.lab.Client(leader)
		if err != nil {
			return BenchRun{}, err
		}
		if err := within(ctx, outageLimit, "the switch", func(ctx context.Context) error { return c.Switch(ctx, defaultGroup, leader) }); err != nil {
			return BenchRun{}, err
		}
	}
	return BenchRun{}, errors.New("leadership does not stay where the service is")
}

func (b *bench) partition(ctx context.Context) (BenchRun, error) {
	active, leader, err := b.active(ctx)
	if err != nil {
		return BenchRun{}, err
	}
	o, err := b.outage(ctx, func() (time.Duration, error) { return b.cutOff(active) })
	if err != nil {
		return BenchRun{}, err
	}
	run := BenchRun{Time: o.Recovery, Failed: o.Failed, From: active, To: o.Node, Leader: active == leader}
	return run, b.lab.Heal(active)
}

func (b *bench) process(ctx context.Context) (BenchRun, error) {
	active, _, err := b.active(ctx)
	if err != nil {
		return BenchRun{}, err
	}
	o, err := b.outage(ctx, func() (time.Duration, error) {
		n, at, err := b.lab.KillProcesses(active, isWeb)
		if err == nil && n == 0 {
			err = fmt.Errorf("node %s runs no web server", active)
		}
		return at, err
	})
	if err != nil {
		return BenchRun{}, err
	}
	run := BenchRun{Time: o.Recovery, Failed: o.Failed, From: active, To: o.Node}
	c, err := b.lab.Client(active)
	if err != nil {
		return run, err
	}
	return run, c.Clear(ctx, defaultGroup)
}

// clusterdWatch is how long probes are watched after clusterd was killed.
const clusterdWatch = 3 * time.Second

func (b *bench) clusterd(ctx context.Context) (BenchRun, error) {
	active, leader, err := b.active(ctx)
	if err != nil {
		return BenchRun{}, err
	}
	n, at, err := b.lab.KillProcesses(active, isDaemon("clusterd"))
	if err != nil {
		return BenchRun{}, err
	}
	if n != 1 {
		return BenchRun{}, fmt.Errorf("node %s runs %d clusterd, not one", active, n)
	}
	probes, err := b.prober.Await(ctx, at, func(p []Probe) bool { return monotonic()-at > clusterdWatch })
	if err != nil {
		return BenchRun{}, err
	}
	run := BenchRun{Failed: failures(probes), From: active, To: probes[len(probes)-1].Node, Leader: active == leader}
	if o, ok := outageOf(probes, at); ok {
		run.Time = o.Gap
	}
	return run, nil
}

func (b *bench) planned(ctx context.Context) (BenchRun, error) {
	active, leader, err := b.active(ctx)
	if err != nil {
		return BenchRun{}, err
	}
	nodes := b.lab.Nodes()
	to := nodes[(slices.Index(nodes, active)+1)%len(nodes)]
	c, err := b.lab.Client(active)
	if err != nil {
		return BenchRun{}, err
	}
	at := monotonic()
	if err := within(ctx, outageLimit, "the switch", func(ctx context.Context) error { return c.Switch(ctx, defaultGroup, to) }); err != nil {
		return BenchRun{}, err
	}
	if err := within(ctx, outageLimit, "recovery", func(ctx context.Context) error {
		_, err := b.prober.AwaitSteady(ctx, 20)
		return err
	}); err != nil {
		return BenchRun{}, err
	}
	probes := b.prober.Since(at - gapLead)
	slices.SortFunc(probes, func(a, b Probe) int { return cmp.Compare(a.Begin, b.Begin) })
	last := probes[len(probes)-1]
	if last.Node != to {
		return BenchRun{}, fmt.Errorf("%s was switched to %s, but %q answers", defaultGroup, to, last.Node)
	}
	return BenchRun{Time: longestGap(probes), Failed: failures(probes), From: active, To: to, Leader: active == leader}, nil
}

func (b *bench) cold(ctx context.Context) (BenchRun, error) {
	if _, _, err := b.active(ctx); err != nil {
		return BenchRun{}, err
	}
	for _, n := range b.lab.Nodes() {
		if _, err := b.lab.Kill(n); err != nil {
			return BenchRun{}, err
		}
	}
	// What is said of nodes that a probe still waits for must not count.
	quiet := monotonic()
	if _, err := b.prober.Await(ctx, quiet, func(p []Probe) bool { return failures(p) >= 20 }); err != nil {
		return BenchRun{}, err
	}
	o, err := b.outage(ctx, func() (time.Duration, error) {
		at := monotonic()
		return at, b.lab.StartAll()
	})
	return BenchRun{Time: o.Recovery, Failed: o.Failed, To: o.Node}, err
}
