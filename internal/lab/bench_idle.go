package lab

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

// NodeIdle is what guard and clusterd of one node use when nothing happens.
type NodeIdle struct {
	Node   string `json:"node"`
	Leader bool   `json:"leader,omitempty"`
	// Of one core.
	CPUPercent float64 `json:"cpu_percent"`
	RSSMiB     float64 `json:"rss_mib"`
	PSSMiB     float64 `json:"pss_mib"`
	// Resident memory of each.
	GuardMiB    float64 `json:"guard_mib"`
	ClusterdMiB float64 `json:"clusterd_mib"`
	Resources   int     `json:"resources"`
}

// IdleResources that each node monitors every 10 s in the idle bench.
const IdleResources = 200

// idle needs a lab of its own, as its nodes have many resources.
func (b *bench) idle(ctx context.Context, r *BenchResult) error {
	b.close()
	o := b.o
	o.Options.Tune.Resources = IdleResources
	mine := &bench{o: o, rand: b.rand}
	defer mine.close()
	if err := mine.open(ctx, ""); err != nil {
		return err
	}
	// The prober would wake the active node.
	if err := mine.prober.Close(); err != nil {
		return err
	}
	mine.prober = nil
	st, err := mine.lab.AwaitSettled(ctx)
	if err != nil {
		return err
	}
	settle, measure := 15*time.Second, 60*time.Second
	if b.o.Runs < 10 {
		settle, measure = 5*time.Second, 20*time.Second
	}
	b.o.Progress(fmt.Sprintf("idle: measuring for %v", measure))
	if err := pause(ctx, settle); err != nil {
		return err
	}
	before, err := mine.usages()
	if err != nil {
		return err
	}
	begin := monotonic()
	if err := pause(ctx, measure); err != nil {
		return err
	}
	took := monotonic() - begin
	after, err := mine.usages()
	if err != nil {
		return err
	}
	for i, n := range mine.lab.Nodes() {
		const mib = 1 << 20
		r.Idle = append(r.Idle, NodeIdle{Node: n, Leader: n == st.GetSource().GetLeader(),
			CPUPercent: 100 * float64(after[i].total.cpu-before[i].total.cpu) / float64(took),
			RSSMiB:     float64(after[i].total.rss) / mib, PSSMiB: float64(after[i].total.pss) / mib,
			GuardMiB: float64(after[i].each["guard"].rss) / mib, ClusterdMiB: float64(after[i].each["clusterd"].rss) / mib,
			Resources: IdleResources})
	}
	return nil
}

// OCFResources in all that the ocf bench has monitored.
const OCFResources = 200

// OCFIdle is what one node uses, with all programs that it runs.
type OCFIdle struct {
	Node       string  `json:"node"`
	CPUPercent float64 `json:"cpu_percent"`
	Resources  int     `json:"resources"`
}

// ocf needs a lab of its own, as idle does.
func (b *bench) ocf(ctx context.Context, r *BenchResult) error {
	b.close()
	o := b.o
	o.Options.Tune.OCF = OCFResources
	mine := &bench{o: o, rand: b.rand}
	defer mine.close()
	if err := mine.open(ctx, ""); err != nil {
		return err
	}
	if err := mine.prober.Close(); err != nil {
		return err
	}
	mine.prober = nil
	if _, err := mine.lab.AwaitSettled(ctx); err != nil {
		return err
	}
	settle, measure := 15*time.Second, 60*time.Second
	b.o.Progress(fmt.Sprintf("ocf: measuring for %v", measure))
	if err := pause(ctx, settle); err != nil {
		return err
	}
	nodes := mine.lab.rec.Plan.Nodes
	cpu := func() ([]time.Duration, error) {
		var out []time.Duration
		for i := range nodes {
			used, err := cgroup(nodes[i].Cgroup).cpu()
			if err != nil {
				return nil, err
			}
			out = append(out, used)
		}
		return out, nil
	}
	before, err := cpu()
	if err != nil {
		return err
	}
	begin := monotonic()
	if err := pause(ctx, measure); err != nil {
		return err
	}
	took := monotonic() - begin
	after, err := cpu()
	if err != nil {
		return err
	}
	for i, n := range nodes {
		r.OCF = append(r.OCF, OCFIdle{Node: n.Name, CPUPercent: 100 * float64(after[i]-before[i]) / float64(took), Resources: OCFResources})
	}
	return nil
}

type nodeUsage struct {
	total usage
	each  map[string]usage
}

func (b *bench) usages() ([]nodeUsage, error) {
	var out []nodeUsage
	for _, n := range b.lab.Nodes() {
		total, each, err := b.lab.daemonUsage(n)
		if err != nil {
			return nil, err
		}
		out = append(out, nodeUsage{total, each})
	}
	return out, nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// A StressResult is what a run with all cores kept busy has shown.
type StressResult struct {
	Duration time.Duration `json:"duration"`
	// Busy loops of normal priority that ran meanwhile.
	Load int `json:"load"`
	// Epochs of the view before and after: equal if nobody was evicted.
	EpochBefore uint64 `json:"epoch_before"`
	EpochAfter  uint64 `json:"epoch_after"`
	Probes      int    `json:"probes"`
	Failed      int    `json:"failed_probes"`
	// Changes of leader, as far as sampling every second shows.
	Leaders int `json:"leader_changes"`
}

// Stress keeps all cores busy for a while and watches that nothing happens.
func Stress(ctx context.Context, o BenchOptions, duration time.Duration, load int) (*BenchResult, error) {
	b := &bench{o: o}
	defer b.close()
	if err := b.open(ctx, ""); err != nil {
		return nil, err
	}
	st, err := b.lab.AwaitSettled(ctx)
	if err != nil {
		return nil, err
	}
	r := &BenchResult{Schema: BenchSchema, Test: "stress", What: "busy loops on all cores: nobody may be evicted", PeerInact: o.PeerInact,
		Stress: &StressResult{Duration: duration, Load: load, EpochBefore: st.Epoch}}
	if r.PeerInact == 0 {
		r.PeerInact = time.Second
	}
	stop, err := startLoad(load)
	if err != nil {
		return nil, err
	}
	defer stop()
	b.prober.Take()
	begin := monotonic()
	leader := st.GetSource().GetLeader()
	for next := time.Minute; monotonic()-begin < duration; {
		if err := pause(ctx, min(time.Second, duration-(monotonic()-begin))); err != nil {
			return nil, err
		}
		if s, err := b.lab.AwaitStatus(ctx, func(*v1.StatusResponse) string { return "" }); err == nil {
			if now := s.GetSource().GetLeader(); now != leader && now != "" {
				leader = now
				r.Stress.Leaders++
			}
		}
		b.tally(r.Stress)
		if t := monotonic() - begin; t > next {
			b.o.Progress(fmt.Sprintf("stress: %v of %v, %d of %d probes failed", t.Round(time.Second), duration, r.Stress.Failed, r.Stress.Probes))
			next += time.Minute
		}
	}
	stop()
	if st, err = b.lab.AwaitSettled(ctx); err != nil {
		return nil, err
	}
	b.tally(r.Stress)
	r.Stress.EpochAfter = st.Epoch
	if r.Stress.EpochAfter != r.Stress.EpochBefore {
		r.Faults = append(r.Faults, "the view changed though no node had failed")
	}
	return r, nil
}

// tally moves the finished probes into the result.
func (b *bench) tally(s *StressResult) {
	probes := b.prober.Take()
	s.Probes += len(probes)
	s.Failed += failures(probes)
}

// startLoad starts busy loops; the result ends them.
func startLoad(n int) (stop func(), err error) {
	var loops []*exec.Cmd
	stop = func() {
		for _, c := range loops {
			_ = c.Process.Kill()
			_ = c.Wait()
		}
		loops = nil
	}
	for range n {
		c := exec.Command("sh", "-c", "while :; do :; done")
		if err := c.Start(); err != nil {
			stop()
			return nil, err
		}
		loops = append(loops, c)
	}
	return stop, nil
}

// Check returns an error if a result misses what it must not miss.
func (r *BenchResult) Check() error {
	var errs []error
	for _, f := range r.Faults {
		errs = append(errs, errors.New(f))
	}
	if r.Test == "clusterd" && slices.ContainsFunc(r.Runs, func(run BenchRun) bool { return run.Failed > 0 }) {
		errs = append(errs, errors.New("probes failed though only clusterd was killed"))
	}
	return errors.Join(errs...)
}
