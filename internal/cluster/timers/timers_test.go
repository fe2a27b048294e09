package timers

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"pgregory.net/rapid"

	holdfastv1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

var rewrite = flag.Bool("rewrite", false, "write testdata instead of comparing with it")

func TestShares(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64Range(int64(MinPeerinact), int64(MaxPeerinact)).Draw(t, "peerinact"))
		if sum := Lease(d) + Stop(d) + Margin(d); sum != d {
			t.Fatalf("T1: shares of %v add up to %v", d, sum)
		}
		if Lease(d) <= 0 || Stop(d) <= 0 || Margin(d) < d*15/100 {
			t.Fatalf("T3: %v: lease %v stop %v margin %v", d, Lease(d), Stop(d), Margin(d))
		}
		if w := Watchdog(d); w < Stop(d)+Margin(d) || w >= Stop(d)+Margin(d)+time.Second || w%time.Second != 0 {
			t.Fatalf("%v: watchdog %v", d, w)
		}
		hb, pt, pi := Effective(&holdfastv1.Timers{Peerinact: durationpb.New(d)})
		if pi != d || hb != d/10 || pt != d/2 || hb > pi/HeartbeatDivisor {
			t.Fatalf("T2: %v: heartbeat %v peertrouble %v", d, hb, pt)
		}
	})
}

func TestNonsenseCountsAsUnset(t *testing.T) {
	for _, in := range []*holdfastv1.Timers{
		nil,
		{},
		{Peerinact: durationpb.New(-time.Second), Heartbeat: durationpb.New(0)},
	} {
		hb, pt, pi := Effective(in)
		if hb != 100*time.Millisecond || pt != 500*time.Millisecond || pi != time.Second {
			t.Errorf("%v: %v %v %v", in, hb, pt, pi)
		}
	}
	if got := EngineDownLimit(nil); got != time.Minute {
		t.Errorf("engine_down_limit unset: %v", got)
	}
}

// TestTimeline prints, for some values of peerinact, what happens when after a
// node crashes: the table that the manual shows.
func TestTimeline(t *testing.T) {
	var b bytes.Buffer
	for _, d := range []time.Duration{time.Second, 300 * time.Millisecond, 16 * time.Second} {
		hb, pt, pi := Effective(&holdfastv1.Timers{Peerinact: durationpb.New(d)})
		fmt.Fprintf(&b, "peerinact %v: heartbeat %v, peertrouble %v, lease %v, stop %v, margin %v\n\n",
			pi, hb, pt, Lease(pi), Stop(pi), Margin(pi))
		fmt.Fprintf(&b, "  after the last heartbeat that a quorum acknowledged was sent\n")
		for _, row := range []struct {
			at   time.Duration
			what string
		}{
			{0, "all links to the node are cut, or it crashes"},
			{hb, "the first heartbeat is missing"},
			{pt, "its peers show the links in trouble"},
			{Lease(pi), "the node, if it is alive, finds its lease ended and begins to stop everything"},
			{Lease(pi) + Stop(pi), "nothing of its groups runs any more"},
			{pi, "its peers suspect it, evict it and start its groups elsewhere"},
		} {
			fmt.Fprintf(&b, "  %8v  %s\n", row.at, row.what)
		}
		fmt.Fprintln(&b)
	}
	const name = "testdata/timeline.txt"
	if *rewrite {
		if err := os.WriteFile(name, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(want, b.Bytes()) {
		t.Errorf("timeline differs from %s; if it is meant to: go test ./internal/cluster/timers -rewrite\n%s", name, b.Bytes())
	}
}
