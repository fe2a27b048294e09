package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
)

// An Outage is what users of the service saw of one fault.
type Outage struct {
	// From the fault to the end of the first good probe that began after the
	// first failed one. 0 if no probe failed.
	Recovery time.Duration
	// Longest time between two good answers around the fault.
	Gap time.Duration
	// Probes that failed.
	Failed int
	// Who answered first afterwards.
	Node string
}

// movedTo measures how a service moved from some nodes to others: the outage
// ends with the first answer from elsewhere. A side that lost may answer for a
// while after the fault, and its single probes may fail for other reasons.
func movedTo(probes []Probe, fault time.Duration, from []string) (o Outage, ok bool) {
	recovered := time.Duration(math.MaxInt64)
	for _, p := range probes {
		switch {
		case p.Begin < fault:
		case !p.Good():
			o.Failed++
		case !slices.Contains(from, p.Node) && p.End < recovered:
			recovered, o.Node, ok = p.End, p.Node, true
		}
	}
	if ok {
		o.Recovery, o.Gap = recovered-fault, longestGap(probes)
	}
	return o, ok
}

// AwaitMove waits until the service answers from elsewhere than the given nodes, and
// has done so for settle.
func (p *Prober) AwaitMove(ctx context.Context, fault time.Duration, from []string, settle time.Duration) (Outage, error) {
	var o Outage
	_, err := p.Await(ctx, fault-gapLead, func(probes []Probe) bool {
		var ok bool
		o, ok = movedTo(probes, fault, from)
		return ok && monotonic()-fault-o.Recovery > settle
	})
	if err != nil {
		err = fmt.Errorf("the service does not answer elsewhere than on %v, %d probes failed: %w", from, o.Failed, err)
	}
	return o, err
}

// before the fault so many probes count for the gap.
const gapLead = 500 * time.Millisecond

// outageOf measures the outage after a fault; ok is false while the service
// has not failed and recovered yet. probes may be in any order.
func outageOf(probes []Probe, fault time.Duration) (o Outage, ok bool) {
	probes = slices.Clone(probes)
	slices.SortFunc(probes, func(a, b Probe) int { return cmp.Compare(a.Begin, b.Begin) })
	firstBad := -1
	for i, p := range probes {
		if p.Begin >= fault && !p.Good() {
			if firstBad < 0 {
				firstBad = i
			}
			o.Failed++
		}
	}
	if firstBad < 0 {
		return o, false
	}
	recovered := time.Duration(math.MaxInt64)
	for _, p := range probes[firstBad+1:] {
		// A later probe may well end earlier: a lost packet of the first is sent again only after a while.
		if p.Good() && p.Begin > probes[firstBad].Begin && p.End < recovered {
			recovered, o.Node, ok = p.End, p.Node, true
		}
	}
	if !ok {
		return o, false
	}
	o.Recovery = recovered - fault
	o.Gap = longestGap(probes)
	return o, true
}

// longestGap is the longest time between the ends of two good probes.
func longestGap(probes []Probe) time.Duration {
	var ends []time.Duration
	for _, p := range probes {
		if p.Good() {
			ends = append(ends, p.End)
		}
	}
	slices.Sort(ends)
	var gap time.Duration
	for i := 1; i < len(ends); i++ {
		gap = max(gap, ends[i]-ends[i-1])
	}
	return gap
}

func failures(probes []Probe) int {
	n := 0
	for _, p := range probes {
		if !p.Good() {
			n++
		}
	}
	return n
}

// AwaitOutage waits until the service has failed after the fault, answered
// again, and gone on answering for settle.
func (p *Prober) AwaitOutage(ctx context.Context, fault, settle time.Duration) (Outage, error) {
	var o Outage
	_, err := p.Await(ctx, fault-gapLead, func(probes []Probe) bool {
		var ok bool
		o, ok = outageOf(probes, fault)
		return ok && monotonic()-fault-o.Recovery > settle
	})
	switch {
	case err == nil:
		return o, nil
	case o.Failed == 0:
		return o, fmt.Errorf("no probe failed after the fault: %w", err)
	}
	return o, fmt.Errorf("the service did not come back, %d probes failed: %w", o.Failed, err)
}

// Summary of several measurements of one thing.
type Summary struct {
	N      int           `json:"n"`
	Min    time.Duration `json:"min"`
	Median time.Duration `json:"median"`
	// By nearest rank: below 20 measurements it is the maximum.
	P95 time.Duration `json:"p95"`
	Max time.Duration `json:"max"`
}

// summarize needs one measurement at least.
func summarize(d []time.Duration) (Summary, error) {
	if len(d) == 0 {
		return Summary{}, errors.New("nothing was measured")
	}
	d = slices.Sorted(slices.Values(d))
	n := len(d)
	median := d[n/2]
	if n%2 == 0 {
		median = (d[n/2-1] + d[n/2]) / 2
	}
	return Summary{N: n, Min: d[0], Median: median, P95: d[nearestRank(n, 0.95)], Max: d[n-1]}, nil
}

// nearestRank is the index of a percentile in n sorted values.
func nearestRank(n int, p float64) int {
	return max(0, int(math.Ceil(p*float64(n)))-1)
}
