//go:build linux

package clusterd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/holdfast-ha/holdfast/internal/api"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
	"github.com/holdfast-ha/holdfast/internal/node/engine"
)

func TestSubmit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		defer b.end()
		api1 := &backend{b.node}
		submit := func(ctx context.Context, c *statepb.Command) chan error {
			r := make(chan error, 1)
			go func() { r <- api1.Submit(ctx, c) }()
			synctest.Wait()
			return r
		}
		for i, result := range []error{nil, &state.Refused{Code: "HF2001", Message: "stale"}, engine.ErrForgotten} {
			token := uint64(i) + 1
			r := submit(t.Context(), &statepb.Command{})
			b.want(fmt.Sprint("Propose ", token))
			b.next(engine.Out{Results: []engine.Result{{Token: token, Err: result}}})
			b.input()
			err := <-r
			var refusal *api.Refusal
			switch {
			case result == nil && err != nil:
				t.Errorf("applied: %v", err)
			case i == 1 && (!errors.As(err, &refusal) || refusal.Code != "HF2001"):
				t.Errorf("refused: %v", err)
			case i == 2 && !errors.Is(err, engine.ErrForgotten):
				t.Errorf("forgotten: %v", err)
			}
			b.told()
		}
		// A caller that goes.
		ctx, cancel := context.WithCancel(t.Context())
		r := submit(ctx, &statepb.Command{})
		b.told()
		cancel()
		if err := <-r; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		b.want("Forget 4")
		if len(b.requests) != 0 {
			t.Errorf("left: %v", b.requests)
		}
		// A silence is the node's own affair.
		silence := func(node string) *statepb.Command {
			return &statepb.Command{Change: &statepb.Command_AnnounceSilence{AnnounceSilence: &statepb.AnnounceSilence{Node: node}}}
		}
		submit(t.Context(), silence("n1"))
		if got := b.told(); !strings.HasPrefix(got, "Silence 5 0s") {
			t.Errorf("told %q", got)
		}
		var refusal *api.Refusal
		if err := <-submit(t.Context(), silence("n2")); !errors.As(err, &refusal) {
			t.Errorf("another node's silence: %v", err)
		}
	})
}

func TestStateIsACopyAndWatchersHearOfChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.id.Dir = t.TempDir()
		defer b.end()
		be := &backend{b.node}
		var refusal *api.Refusal
		if _, err := be.State(t.Context()); !errors.As(err, &refusal) {
			t.Errorf("without a state: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ticks, err := be.Watch(ctx)
		if err != nil {
			t.Fatal(err)
		}
		b.state = &statepb.State{NextEvent: 1}
		b.next(engine.Out{Changed: true})
		b.input()
		<-ticks
		first, err := be.State(t.Context())
		if err != nil || first == b.state || first.GetNextEvent() != 1 {
			t.Fatal(first, err)
		}
		if again, _ := be.State(t.Context()); again != first {
			t.Error("copied again without a change")
		}
		b.state.NextEvent = 2
		b.next(engine.Out{Changed: true})
		b.input()
		<-ticks
		if now, _ := be.State(t.Context()); now.GetNextEvent() != 2 || first.GetNextEvent() != 1 {
			t.Error("the copy has changed, or the news is missing")
		}
		cancel()
		if _, open := <-ticks; open {
			t.Error("the channel is still open")
		}
	})
}
