package lab

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// A shape is the kind of cluster that a test needs; empty: three nodes
// without coordination points.
type shape string

const (
	withArbiter   shape = "two nodes and an arbiter"
	withLockDisk  shape = "two nodes and a lock disk"
	withPreferred shape = "two sites of two nodes, one preferred, and an arbiter"
)

// Sites of a cluster withPreferred.
const (
	otherSite     = "east"
	preferredSite = "west"
)

// options of a lab of this shape.
func (s shape) options(o Options) Options {
	switch s {
	case withArbiter:
		o.Nodes, o.Arbiters = 2, 1
	case withLockDisk:
		o.Nodes, o.LockDisks = 2, 1
	case withPreferred:
		o.Nodes, o.Arbiters = 4, 1
		o.Tune.Sites = []string{otherSite, otherSite, preferredSite, preferredSite}
		o.Tune.PreferredSite = preferredSite
	}
	return o
}

// cutOff cuts the active node from everything, lock disks too.
func (b *bench) cutOff(active string) (time.Duration, error) {
	at, err := b.lab.Cut(active)
	for _, d := range b.lab.rec.Plan.LockDisks {
		if _, e := b.lab.CutDisk(d.Name, active); e != nil {
			err = errors.Join(err, e)
		}
	}
	return at, err
}

// moveTo switches the service to one of the nodes unless it is on one.
func (b *bench) moveTo(ctx context.Context, nodes []string) (active, leader string, err error) {
	for range 10 {
		if active, leader, err = b.active(ctx); err != nil || slices.Contains(nodes, active) {
			return active, leader, err
		}
		c, err := b.lab.Client(leader)
		if err != nil {
			return "", "", err
		}
		to := nodes[b.rand.IntN(len(nodes))]
		if err := within(ctx, outageLimit, "the switch", func(ctx context.Context) error { return c.Switch(ctx, defaultGroup, to) }); err != nil {
			return "", "", err
		}
	}
	return "", "", fmt.Errorf("the service does not stay on one of %v", nodes)
}

// split cuts the links between two nodes, both of which still reach the
// coordination points. The service is on the node that does not lead: the
// leader's side has a head start.
func (b *bench) split(ctx context.Context) (BenchRun, error) {
	_, leader, err := b.active(ctx)
	if err != nil {
		return BenchRun{}, err
	}
	nodes := b.lab.Nodes()
	active, leader, err := b.moveTo(ctx, slices.DeleteFunc(slices.Clone(nodes), func(n string) bool { return n == leader }))
	if err != nil {
		return BenchRun{}, err
	}
	rest := slices.DeleteFunc(slices.Clone(nodes), func(n string) bool { return n == active })
	return b.sides(ctx, []string{active}, rest, active, leader)
}

// splitPreferred cuts two sites from each other; the service is at the one
// that is not preferred.
func (b *bench) splitPreferred(ctx context.Context) (BenchRun, error) {
	nodes := b.lab.Nodes()
	east, west := nodes[:2], nodes[2:]
	active, leader, err := b.moveTo(ctx, east)
	if err != nil {
		return BenchRun{}, err
	}
	run, err := b.sides(ctx, east, west, active, leader)
	if err == nil && !slices.Contains(west, run.To) {
		run.Fault = fmt.Sprintf("%s serves after the split, which is not at the preferred site", run.To)
	}
	return run, err
}

// stayTime after a split, if it still answers then: the service's side has won.
const stayTime = 5 * time.Second

// sides splits the nodes and finds who serves afterwards.
func (b *bench) sides(ctx context.Context, a, z []string, active, leader string) (BenchRun, error) {
	run := BenchRun{From: active, Leader: active == leader}
	at, err := b.lab.Split(a, z, false)
	if err != nil {
		return run, err
	}
	err = within(ctx, outageLimit, "recovery", func(ctx context.Context) error {
		probes, err := b.prober.Await(ctx, at-gapLead, func(probes []Probe) bool {
			o, ok := movedTo(probes, at, a)
			run.Time, run.Failed, run.To = o.Recovery, o.Failed, o.Node
			return ok && monotonic()-at-o.Recovery > steadyTime || monotonic()-at > stayTime && steady(probes, 50)
		})
		if err == nil && run.To == "" {
			run.Stayed, run.To = true, probes[len(probes)-1].Node
		}
		return err
	})
	if err != nil {
		return run, err
	}
	for _, n := range a {
		if err := b.lab.Heal(n); err != nil {
			return run, err
		}
	}
	return run, nil
}

// compare fills in how a result stands to that of its baseline.
func (r *BenchResult) compare(results []*BenchResult) {
	i := slices.IndexFunc(results, func(o *BenchResult) bool { return o.Test == r.Baseline })
	if r.Baseline == "" || i < 0 || r.Summary == nil || results[i].Summary == nil || results[i].Summary.Median == 0 {
		return
	}
	r.Ratio = float64(r.Summary.Median) / float64(results[i].Summary.Median)
}
