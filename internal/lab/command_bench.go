package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

// benchName is the lab of a bench that was given no name.
const benchName = "bench"

func (c *commandLine) bench() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure a cluster in a lab of its own, which is removed afterwards",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(c.benchFailover(), c.benchStress())
	return cmd
}

// benchOptions of a bench, whose lab is not the one people play with.
func (c *commandLine) benchOptions(cmd *cobra.Command) BenchOptions {
	o := c.options(cmd)
	if !cmd.Flags().Changed("name") {
		o.Name = benchName
	}
	return BenchOptions{Options: o, Progress: o.Progress}
}

func (c *commandLine) benchFailover() *cobra.Command {
	var runs int
	var output string
	var peerInact time.Duration
	var tests []string
	cmd := &cobra.Command{
		Use:   "failover --runs N",
		Short: "Measure how long users are without the service after each kind of fault",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			ctx, stop := interruptible(cmd)
			defer stop()
			o := c.benchOptions(cmd)
			o.Runs, o.PeerInact, o.Tests = runs, peerInact, tests
			return reportBench(cmd.OutOrStdout(), output, func(done func(*BenchResult)) error { return Failover(ctx, o, done) })
		},
	}
	cmd.Flags().IntVar(&runs, "runs", 10, "measurements of each test; for the 95th percentile 20 at least")
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table or json (one result a line)")
	cmd.Flags().DurationVar(&peerInact, "peerinact", 0, "time after which a silent peer is given up (default the cluster's, 1s)")
	cmd.Flags().StringSliceVar(&tests, "tests", nil, "only these: "+strings.Join(benchOrder, ", ")+" (default all)")
	return cmd
}

func (c *commandLine) benchStress() *cobra.Command {
	var duration, peerInact time.Duration
	var load int
	var output string
	cmd := &cobra.Command{
		Use:   "stress --duration D",
		Short: "Keep all cores busy by other programs and check that nobody is evicted",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			ctx, stop := interruptible(cmd)
			defer stop()
			o := c.benchOptions(cmd)
			o.PeerInact = peerInact
			return reportBench(cmd.OutOrStdout(), output, func(done func(*BenchResult)) error {
				r, err := Stress(ctx, o, duration, load)
				if err == nil {
					done(r)
				}
				return err
			})
		},
	}
	cmd.Flags().DurationVar(&duration, "duration", 10*time.Minute, "how long")
	cmd.Flags().DurationVar(&peerInact, "peerinact", 0, "time after which a silent peer is given up (default the cluster's, 1s)")
	cmd.Flags().IntVar(&load, "load", 4, "number of busy loops")
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	return cmd
}

// reportBench runs a bench and prints its results, in a table at its end or
// as JSON lines at once. A result that misses what it must not miss is an error.
func reportBench(w io.Writer, output string, run func(done func(*BenchResult)) error) error {
	var results []*BenchResult
	var missed []error
	err := run(func(r *BenchResult) {
		results = append(results, r)
		if e := r.Check(); e != nil {
			missed = append(missed, fmt.Errorf("%s: %w", r.Test, e))
		}
		if output == "json" {
			missed = append(missed, json.NewEncoder(w).Encode(r))
		}
	})
	if output == "table" && len(results) > 0 {
		missed = append(missed, benchTable(w, results))
	}
	return errors.Join(append([]error{err}, missed...)...)
}

// benchTable prints results for people, as the tables in docs/benchmarks.md.
func benchTable(w io.Writer, results []*BenchResult) error {
	t := tabwriter.NewWriter(w, 0, 0, 1, ' ', tabwriter.AlignRight|tabwriter.Debug)
	header := false
	for _, r := range results {
		if r.Summary == nil {
			continue
		}
		if !header {
			fmt.Fprintln(t, "test\tpeerinact\truns\tmin\tmedian\tp95\tmax\tfailed probes\tto three nodes\t")
			header = true
		}
		s, failed := r.Summary, 0
		for _, run := range r.Runs {
			failed += run.Failed
		}
		ratio := ""
		if r.Ratio > 0 {
			ratio = fmt.Sprintf("%.2f of %s", r.Ratio, r.Baseline)
		}
		fmt.Fprintf(t, "%s\t%v\t%d\t%s\t%s\t%s\t%s\t%d\t%s\t\n", r.Test, r.PeerInact, s.N, millis(s.Min), millis(s.Median), millis(s.P95), millis(s.Max), failed, ratio)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, r := range results {
		if r.OwnStart > 0 {
			fmt.Fprintf(w, "\n%s: the web server itself starts in %.1f ms and stops in %.1f ms (median of %d)\n", r.Test, float64(r.OwnStart)/1e6, float64(r.OwnStop)/1e6, ownRuns)
		}
		if r.Baseline != "" && strings.HasSuffix(r.Test, "split") {
			fmt.Fprintf(w, "\n%s: %s\n", r.Test, servedAfter(r.Runs))
		}
		if len(r.Idle) > 0 {
			fmt.Fprintf(w, "\nidle, %d monitored resources a node (clusterd and guard):\n", IdleResources)
			t := tabwriter.NewWriter(w, 0, 0, 1, ' ', tabwriter.AlignRight|tabwriter.Debug)
			fmt.Fprintln(t, "node\tCPU % of a core\tRSS MiB\tPSS MiB\tguard MiB\tclusterd MiB\t")
			for _, n := range r.Idle {
				name := n.Node
				if n.Leader {
					name += " (leader)"
				}
				fmt.Fprintf(t, "%s\t%.2f\t%.1f\t%.1f\t%.1f\t%.1f\t\n", name, n.CPUPercent, n.RSSMiB, n.PSSMiB, n.GuardMiB, n.ClusterdMiB)
			}
			if err := t.Flush(); err != nil {
				return err
			}
		}
		if len(r.OCF) > 0 {
			fmt.Fprintf(w, "\nocf, %d resources in all, CPU with all programs, in %% of a core:", OCFResources)
			for _, n := range r.OCF {
				fmt.Fprintf(w, " %s %.2f", n.Node, n.CPUPercent)
			}
			fmt.Fprintln(w)
		}
		if s := r.Stress; s != nil {
			fmt.Fprintf(w, "\nstress, %v with %d busy loops: epoch %d before, %d after; %d of %d probes failed; %d changes of leader\n",
				s.Duration, s.Load, s.EpochBefore, s.EpochAfter, s.Failed, s.Probes, s.Leaders)
		}
	}
	return nil
}

// servedAfter says which side of a split served in how many of the runs.
func servedAfter(runs []BenchRun) string {
	stayed, to := 0, map[string]int{}
	for _, r := range runs {
		if r.Stayed {
			stayed++
		}
		to[r.To]++
	}
	var parts []string
	for _, node := range slices.Sorted(maps.Keys(to)) {
		parts = append(parts, fmt.Sprintf("%s %d", node, to[node]))
	}
	return fmt.Sprintf("of %d runs the service moved in %d and stayed in %d; served afterwards: %s", len(runs), len(runs)-stayed, stayed, strings.Join(parts, ", "))
}
