package agents

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/group/agent"
)

// poolRig runs a pool by hand.
type poolRig struct {
	*pool
	last uint64
	runs []*ticket
}

func newPoolRig(places int) *poolRig {
	p := &poolRig{pool: newPool(1)}
	for i := range p.lanes {
		p.lanes[i].places, p.lanes[i].most = places, 2*places
	}
	return p
}

func (p *poolRig) ask(typ string, e agent.EntryPoint) uint64 {
	p.last++
	p.add(&ticket{call: agent.Call{Token: p.last, Type: typ, Resource: fmt.Sprint(p.last), Entry: e}})
	return p.last
}

// begun are the calls that begin now: "type entry".
func (p *poolRig) begun() (out []string) {
	for t := p.next(); t != nil; t = p.next() {
		p.runs = append(p.runs, t)
		out = append(out, t.call.Type+" "+t.call.Entry.String())
	}
	return out
}

func (p *poolRig) finish(typ string) {
	i := slices.IndexFunc(p.runs, func(t *ticket) bool { return t.call.Type == typ && !t.ended })
	p.end(p.runs[i])
}

func wantBegun(t *testing.T, p *poolRig, want ...string) {
	t.Helper()
	if got := p.begun(); !slices.Equal(got, want) {
		t.Fatalf("began %q, not %q", got, want)
	}
}

// P1, P2: monitors and the rest wait apart; clean and offline come first; types take turns.
func TestPoolOrder(t *testing.T) {
	p := newPoolRig(2)
	for range 3 {
		p.ask("a", agent.Monitor)
	}
	p.ask("b", agent.Monitor)
	p.ask("b", agent.Info)
	wantBegun(t, p, "a monitor", "b monitor")
	p.ask("a", agent.Online)
	p.ask("a", agent.Online)
	p.ask("a", agent.Online)
	p.ask("a", agent.Offline)
	p.ask("b", agent.Online)
	p.ask("b", agent.Clean)
	wantBegun(t, p, "a offline", "b clean")
	p.finish("a") // a monitor
	wantBegun(t, p, "a monitor")
	p.end(p.runs[2]) // the offline
	wantBegun(t, p, "a online")
	p.end(p.runs[3]) // the clean
	wantBegun(t, p, "b online")
	p.finish("b")
	p.finish("b")
	wantBegun(t, p, "b info", "a online")
}

// P3: what takes long gives its place to others, to an end.
func TestPoolPatience(t *testing.T) {
	p := newPoolRig(2)
	for range 9 {
		p.ask("a", agent.Monitor)
	}
	wantBegun(t, p, "a monitor", "a monitor")
	p.leave(p.runs[0])
	p.leave(p.runs[0])
	wantBegun(t, p, "a monitor")
	p.leave(p.runs[1])
	p.leave(p.runs[2])
	wantBegun(t, p, "a monitor") // twice the places
	p.leave(p.runs[3])
	wantBegun(t, p)
	p.end(p.runs[0])
	p.end(p.runs[0])
	wantBegun(t, p, "a monitor")
	for _, r := range p.runs[1:] {
		p.end(r)
	}
	wantBegun(t, p, "a monitor", "a monitor")
}

// A call that is taken back never begins, and everything is forgotten in the end.
func TestPoolWithdraw(t *testing.T) {
	p := newPoolRig(1)
	a := p.ask("a", agent.Monitor)
	wantBegun(t, p, "a monitor")
	b := p.ask("a", agent.Monitor)
	c := p.ask("b", agent.Monitor)
	p.ask("b", agent.Monitor)
	if p.withdraw(a) != nil || p.withdraw(b) == nil || p.withdraw(b) != nil || p.withdraw(c) == nil {
		t.Fatal("withdraw tells something else")
	}
	p.finish("a")
	wantBegun(t, p, "b monitor")
	p.ask("c", agent.Offline)
	p.ask("c", agent.Offline)
	if n := len(p.withdrawAll()); n != 2 {
		t.Fatalf("%d withdrawn", n)
	}
	wantBegun(t, p)
	p.finish("b")
	for i, l := range p.lanes {
		if len(l.lines[0])+len(l.lines[1])+len(l.order[0])+len(l.order[1])+l.running+l.taken+len(p.waiting) != 0 {
			t.Errorf("lane %d keeps %+v", i, l)
		}
	}
}

// Thousands of calls that wait hold no goroutine, and each gets its answer when the host is closed.
func TestWaitingCallsAreCheap(t *testing.T) {
	const calls = 10_000
	r := newRig(t, "sessions")
	release := make(chan struct{})
	r.h.kindOf = func(string) *kind {
		return &kind{typ: &v1.ResourceType{Name: "Slow"}, run: func(context.Context, *Host, agent.Call) agent.Result {
			<-release
			return agent.Result{}
		}}
	}
	before := runtime.NumGoroutine()
	answers := make(chan agent.Result, calls)
	for i := range calls {
		r.h.Run(agent.Call{
			Token: uint64(i + 1), Type: "Slow", Group: "g", Resource: fmt.Sprint(i), Entry: agent.Monitor, Timeout: time.Hour,
		}, func(res agent.Result) { answers <- res })
	}
	if n := runtime.NumGoroutine() - before; n > 4*r.h.pool.lanes[0].most {
		t.Errorf("%d goroutines for %d calls", n, calls)
	}
	r.h.Cancel(calls)
	if res := <-answers; res.Err != "cancelled before it began" {
		t.Fatalf("%+v", res)
	}
	close(release)
	r.h.Close()
	stopped := 0
	for range calls - 1 {
		if res := <-answers; res.Err == "the engine is stopping" {
			stopped++
		}
	}
	if stopped == 0 {
		t.Error("none was waiting any more")
	}
}
