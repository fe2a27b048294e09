package lab

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestCheckTests(t *testing.T) {
	if !slices.Equal(slices.Sorted(slices.Values(benchOrder)), slices.Sorted(maps.Keys(benchTests))) {
		t.Error("some test would never run")
	}
	// What a test is compared with runs before it.
	got, err := CheckTests([]string{"disk-split", "arbiter-crash"})
	if want := []string{"crash", "partition", "arbiter-crash", "disk-split"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v %v, not %v", got, err, want)
	}
	for name, test := range benchTests {
		if base := test.baseline; (base != "") != (test.shape != "") || base != "" && benchTests[base].shape != "" {
			t.Errorf("%s is compared with %q", name, base)
		}
	}
	if _, err := CheckTests([]string{"crush"}); err == nil || !strings.Contains(err.Error(), "preferred-split") {
		t.Errorf("an unknown test: %v", err)
	}
}

// A bench prints how results stand to their baselines, and who served after a split.
func TestReportComparison(t *testing.T) {
	results := []*BenchResult{
		{Test: "crash", Summary: &Summary{N: 1, Median: 1000 * ms}},
		{Test: "arbiter-crash", Baseline: "crash", Summary: &Summary{N: 1, Median: 1100 * ms}},
		{Test: "arbiter-split", Baseline: "partition", Summary: &Summary{N: 1, Median: 1100 * ms},
			Runs: []BenchRun{{Time: time.Second, From: "n1", To: "n2"}, {From: "n1", To: "n1", Stayed: true}}, Faults: []string{"wrong side"}},
	}
	for i, r := range results {
		r.compare(results[:i])
	}
	if r := results[1].Ratio; r != 1.1 || results[2].Ratio != 0 {
		t.Errorf("ratios %v and %v", r, results[2].Ratio)
	}
	for _, form := range []string{"table", "json"} {
		var out strings.Builder
		err := reportBench(&out, form, func(done func(*BenchResult)) error {
			for _, r := range results {
				done(r)
			}
			return nil
		})
		if err == nil || !strings.Contains(err.Error(), "wrong side") {
			t.Errorf("the fault is not reported: %v", err)
		}
		if form == "table" {
			for _, want := range []string{"1.10 of crash", "moved in 1 and stayed in 1; served afterwards: n1 1, n2 1"} {
				if !strings.Contains(out.String(), want) {
					t.Errorf("the table does not say %q:\n%s", want, out.String())
				}
			}
			continue
		}
		d := json.NewDecoder(strings.NewReader(out.String()))
		for range results {
			var r BenchResult
			if err := d.Decode(&r); err != nil {
				t.Fatal(err)
			}
		}
	}
}
