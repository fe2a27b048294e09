//go:build linux

package clusterd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/api"
	"github.com/holdfast-ha/holdfast/internal/cluster/consensus"
	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/identity"
	"github.com/holdfast-ha/holdfast/internal/cluster/logstore"
	"github.com/holdfast-ha/holdfast/internal/cluster/peer/peerpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
	"github.com/holdfast-ha/holdfast/internal/group/agent"
	"github.com/holdfast-ha/holdfast/internal/node/engine"
)

// bench is a driver between scripted parts. Everything that the parts see is
// written to one story, in order.
type bench struct {
	*node
	t      *testing.T
	cancel context.CancelFunc
	result chan error

	mu    sync.Mutex
	story []string
	// What the engine says next, one Out for each Step.
	script []engine.Out
	state  *statepb.State
	// The disk answers as long as this is nil.
	diskGate chan struct{}
	diskErr  error
	refuse   bool // peers take nothing
	lease    time.Duration
	conns    chan *fakeGuard
	running  map[uint64]func(agent.Result)
	stops    chan error // what stopAll returns; nil channel: at once
}

func (b *bench) say(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.story = append(b.story, fmt.Sprintf(format, args...))
}

// told returns the story since the last call, after everything has settled.
func (b *bench) told() string {
	synctest.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	s := strings.Join(b.story, "; ")
	b.story = nil
	return s
}

func (b *bench) want(story string) {
	b.t.Helper()
	if got := b.told(); got != story {
		b.t.Fatalf("told %q\nwant %q", got, story)
	}
}

// next is what the engine says after its next input.
func (b *bench) next(o engine.Out) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.script = append(b.script, o)
}

type fakeEngine struct{ b *bench }

func (e fakeEngine) Step(_ time.Duration, _ int64, in engine.Input) {
	s := strings.TrimPrefix(fmt.Sprintf("%T", in), "engine.")
	switch in := in.(type) {
	case engine.FromPeer:
		s += " " + in.Node
	case engine.PeerDropped:
		s += " " + in.Node
	case engine.GuardConn:
		s += fmt.Sprint(" ", in.Up)
	case engine.Protected:
		s += fmt.Sprintf(" %s %q", in.Group, in.Err)
	case engine.CallDone:
		s += fmt.Sprint(" ", in.Token, " ", in.Result.Err)
	case engine.Propose:
		s += fmt.Sprint(" ", in.Token)
	case engine.Forget:
		s += fmt.Sprint(" ", in.Token)
	case engine.Silence:
		s += fmt.Sprint(" ", in.Token, " ", in.Length)
	case engine.FromGuard:
		s = fmt.Sprintf("from guard %T", in.Frame.GetBody())
		if l := in.Frame.GetLease(); l != nil {
			s = fmt.Sprintf("from guard lease held=%v stopped=%v", l.GetHeld(), l.GetStopped())
		}
	}
	e.b.say("%s", s)
}

func (e fakeEngine) Take() engine.Out {
	e.b.mu.Lock()
	defer e.b.mu.Unlock()
	if len(e.b.script) == 0 {
		return engine.Out{}
	}
	o := e.b.script[0]
	e.b.script = e.b.script[1:]
	return o
}
func (e fakeEngine) State() *statepb.State { return e.b.state }
func (e fakeEngine) AppliedIndex() uint64  { return 7 }
func (e fakeEngine) Leader() string        { return "n2" }

type fakeDisk struct{ b *bench }

func (d fakeDisk) Save(b logstore.Batch) error {
	d.b.say("disk begins %d", len(b.Entries))
	if d.b.diskGate != nil {
		<-d.b.diskGate
	}
	d.b.say("disk ends")
	return d.b.diskErr
}
func (d fakeDisk) Reset(id uint64) error { d.b.say("disk reset %d", id); return d.b.diskErr }
func (d fakeDisk) Close() error          { return nil }

type fakePeers struct{ b *bench }

func (p fakePeers) Send(node string, m *peerpb.Message) bool {
	if p.b.refuse {
		return false
	}
	p.b.say("send %s", node)
	return true
}
func (p fakePeers) Listen(a []string) error               { p.b.say("listen %v", a); return nil }
func (p fakePeers) SetPeers(m map[string][]string)        { p.b.say("peers %v", m) }
func (p fakePeers) LinkState(node string, l int, up bool) { p.b.say("link %s %d %v", node, l, up) }
func (p fakePeers) Kick(node string)                      { p.b.say("kick %s", node) }

type fakeHost struct{ b *bench }

func (h fakeHost) Run(c agent.Call, done func(agent.Result)) {
	h.b.say("run %d", c.Token)
	h.b.mu.Lock()
	defer h.b.mu.Unlock()
	h.b.running[c.Token] = done
}
func (h fakeHost) Cancel(token uint64) { h.b.say("cancel %d", token) }
func (h fakeHost) Protect(g *v1.Group) (*guardpb.Protect, error) {
	return &guardpb.Protect{Group: g.GetName(), Cgroup: "/cg/" + g.GetName()}, nil
}
func (h fakeHost) Release(group string)         { h.b.say("release %s", group) }
func (h fakeHost) Notices() <-chan agent.Notice { return nil }
func (h fakeHost) Close()                       { h.b.say("host closed") }

// finish a call.
func (b *bench) finish(token uint64, err string) {
	b.mu.Lock()
	done := b.running[token]
	b.mu.Unlock()
	go done(agent.Result{Err: err})
}

type fakeGuard struct {
	b      *bench
	frames chan *guardpb.FromGuard
	once   sync.Once
	calls  chan uint64
}

func (g *fakeGuard) Frames() <-chan *guardpb.FromGuard { return g.frames }
func (g *fakeGuard) Err() error                        { return errors.New("gone") }
func (g *fakeGuard) Close() error                      { g.once.Do(func() { close(g.frames) }); return nil }
func (g *fakeGuard) Send(f *guardpb.ToGuard) error {
	s := strings.TrimPrefix(fmt.Sprintf("%T", f.GetBody()), "*guardpb.ToGuard_")
	if p := f.GetProtect(); p != nil {
		s += " " + p.GetGroup() + " " + p.GetCgroup()
	}
	if l := f.GetLeaving(); l != nil {
		s += " " + l.GetReason()
	}
	g.b.say("guard gets %s", s)
	if f.GetCall() != 0 {
		g.calls <- f.GetCall()
	}
	return nil
}

// answer the oldest call.
func (g *fakeGuard) answer(err string) {
	g.frames <- &guardpb.FromGuard{Body: &guardpb.FromGuard_Done{Done: &guardpb.Done{Call: <-g.calls, Error: err}}}
}

// guardComes connects a new guard.
func (b *bench) guardComes() *fakeGuard {
	g := &fakeGuard{b: b, frames: make(chan *guardpb.FromGuard), calls: make(chan uint64, 10)}
	b.conns <- g
	return g
}

func newBench(t *testing.T) *bench {
	ctx, cancel := context.WithCancel(context.Background())
	b := &bench{t: t, cancel: cancel, result: make(chan error, 1), conns: make(chan *fakeGuard), running: map[uint64]func(agent.Result){}}
	nodes := []*v1.Node{
		{Name: "n1", Links: []*v1.Link{{Address: "10.0.0.1"}}},
		{Name: "n2", Links: []*v1.Link{{Address: "10.0.0.2:99"}}},
	}
	b.node = newNode(Options{Log: slog.New(slog.DiscardHandler)}, &identity.Identity{Node: "n1", Nodes: nodes})
	start := time.Now()
	b.now = func() time.Duration { return time.Since(start) + time.Hour }
	b.dial = func() (guardConn, error) {
		select {
		case g := <-b.conns:
			return g, nil
		default:
			return nil, errors.New("no guard")
		}
	}
	b.conns = make(chan *fakeGuard, 1)
	b.leaseOf = func() (time.Duration, error) {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.lease, nil
	}
	b.stopAll = func(what []*guardpb.Protect, _ time.Duration) error {
		for _, p := range what {
			b.say("kill %s", p.GetGroup())
		}
		if b.stops != nil {
			return <-b.stops
		}
		return nil
	}
	b.engine, b.store, b.peers, b.host = fakeEngine{b}, fakeDisk{b}, fakePeers{b}, fakeHost{b}
	go func() { b.result <- b.run(ctx) }()
	b.want("listen [10.0.0.1:7946]; peers map[n1:[10.0.0.1:7946] n2:[10.0.0.2:99]]")
	return b
}

func (b *bench) end() {
	b.cancel()
	<-b.result
}

// input as a peer's message brings it.
func (b *bench) input() { b.post(func() { b.step(engine.FromPeer{Node: "n2"}) }) }

func batchOut() engine.Out {
	return engine.Out{Persist: &engine.Batch{Batch: consensus.Batch{}}}
}

func TestEngineHearsOfABatchOnlyWhenItIsDurable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		defer b.end()
		b.diskGate = make(chan struct{})
		out := batchOut()
		out.ToPeers = []engine.ToPeer{{Node: "n2"}}
		b.next(out)
		b.next(engine.Out{})
		b.next(engine.Out{ToPeers: []engine.ToPeer{{Node: "n2"}, {Node: "n2"}}})
		b.input()
		b.want("FromPeer n2; send n2; disk begins 0")
		// The disk hangs; the loop goes on.
		b.input()
		b.want("FromPeer n2")
		close(b.diskGate)
		b.want("disk ends; Persisted; send n2; send n2")
	})
}

func TestResetIsItsOwnBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		defer b.end()
		b.next(engine.Out{Persist: &engine.Batch{Batch: consensus.Batch{Reset: true}, RaftID: 9}})
		b.input()
		b.want("FromPeer n2; disk reset 9; Persisted")
	})
}

func TestOutIsCarriedOutInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		defer b.end()
		b.guardComes()
		time.Sleep(time.Second)
		b.want("GuardConn true")
		b.next(engine.Out{
			Calls: []agent.Call{{Token: 5}}, Cancel: []uint64{3}, ToPeers: []engine.ToPeer{{Node: "n2"}},
			Results: []engine.Result{{Token: 99}}, // of somebody who has gone
		})
		b.input()
		b.want("FromPeer n2; send n2; cancel 3; run 5")
		b.finish(5, "x")
		b.want("CallDone 5 x")
	})
}

func TestDroppedMessagesComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		defer b.end()
		b.refuse = true
		b.next(engine.Out{ToPeers: []engine.ToPeer{{Node: "n2"}, {Node: "n3"}}})
		b.input()
		b.want("FromPeer n2; PeerDropped n2; PeerDropped n3")
	})
}

func TestTicksComeWhenTheEngineWantsThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		defer b.end()
		b.next(engine.Out{Wake: b.now() + 100*time.Millisecond})
		b.input()
		b.want("FromPeer n2")
		time.Sleep(99 * time.Millisecond)
		b.want("")
		time.Sleep(2 * time.Millisecond)
		b.want("Tick")
		time.Sleep(time.Minute)
		b.want("")
		// One that wants it at once, always, does not keep others from their turn.
		for range 500 {
			b.next(engine.Out{Wake: 1})
		}
		b.input()
		time.Sleep(100 * time.Millisecond)
		b.input()
		if n := strings.Count(b.told(), "Tick"); n < 50 || n > 110 {
			t.Errorf("%d ticks in 100 ms", n)
		}
	})
}

func TestGroupsAreProtectedBeforeTheEngineGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		defer b.end()
		// Without guard the answer is no.
		b.next(engine.Out{Protect: []string{"web"}})
		b.input()
		b.want(`FromPeer n2; Protected web "guard is not connected"`)
		g := b.guardComes()
		time.Sleep(time.Second)
		b.told()
		b.next(engine.Out{Protect: []string{"web"}})
		b.input()
		b.want("FromPeer n2; guard gets Protect web /cg/web")
		g.answer("")
		b.want(`Protected web ""`)
		b.next(engine.Out{Protect: []string{"db"}})
		b.input()
		b.told()
		g.answer("no lease")
		b.want(`Protected db "no lease"`)
		// Guard goes before it has answered.
		b.next(engine.Out{Protect: []string{"mail"}})
		b.input()
		b.told()
		b.mu.Lock()
		b.lease = b.now() + time.Hour
		b.mu.Unlock()
		_ = g.Close()
		b.want(`GuardConn false; Protected mail "guard is not connected"`)
		b.next(engine.Out{Gone: []string{"web"}})
		b.input()
		b.want("FromPeer n2; release web")
	})
}

func TestWithoutGuardEverythingStopsAtTheEndOfTheLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		defer b.end()
		g := b.guardComes()
		time.Sleep(time.Second)
		b.next(engine.Out{Protect: []string{"web"}})
		b.input()
		synctest.Wait()
		g.answer("")
		synctest.Wait()
		b.next(engine.Out{Calls: []agent.Call{{Token: 8, Starts: true}}})
		b.input()
		b.told()
		b.mu.Lock()
		b.lease = b.now() + 600*time.Millisecond
		b.mu.Unlock()
		_ = g.Close()
		b.want("GuardConn false")
		time.Sleep(590 * time.Millisecond)
		b.want("")
		b.next(engine.Out{Cancel: []uint64{8}})
		time.Sleep(11 * time.Millisecond)
		b.want("from guard lease held=false stopped=false; cancel 8; kill web")
		// What the call has started meanwhile is killed too, and only then all counts as stopped.
		b.finish(8, "cancelled")
		got := b.told()
		if got != "CallDone 8 cancelled; kill web; from guard lease held=false stopped=true" && got != "kill web; CallDone 8 cancelled; from guard lease held=false stopped=true" {
			t.Errorf("told %q", got)
		}
		time.Sleep(time.Minute)
		b.want("")
	})
}

func TestGuardThatComesBackInTimeStopsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		defer b.end()
		g := b.guardComes()
		time.Sleep(time.Second)
		g.frames <- &guardpb.FromGuard{Body: &guardpb.FromGuard_Welcome{Welcome: &guardpb.Welcome{Protected: []*guardpb.Protect{{Group: "web"}}}}}
		b.told()
		b.mu.Lock()
		b.lease = b.now() + 600*time.Millisecond
		b.mu.Unlock()
		_ = g.Close()
		time.Sleep(200 * time.Millisecond)
		b.guardComes()
		time.Sleep(time.Hour)
		if got := b.told(); strings.Contains(got, "kill") {
			t.Errorf("told %q", got)
		}
	})
}

func TestKillIsRepeatedUntilEverythingHasStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		defer b.end()
		b.stops = make(chan error, 5)
		b.stops <- errors.New("processes [7] do not end")
		b.stops <- nil
		g := b.guardComes()
		time.Sleep(time.Second)
		g.frames <- &guardpb.FromGuard{Body: &guardpb.FromGuard_Welcome{Welcome: &guardpb.Welcome{Protected: []*guardpb.Protect{{Group: "web"}}}}}
		b.told()
		_ = g.Close()
		time.Sleep(time.Second)
		b.want("GuardConn false; from guard lease held=false stopped=false; kill web; kill web; from guard lease held=false stopped=true")
	})
}

func TestFullDiskEndsTheNodeThroughGuard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		defer b.cancel()
		g := b.guardComes()
		time.Sleep(time.Second)
		b.told()
		b.diskErr = fmt.Errorf("raft.db: %w", logstore.ErrNoSpace)
		b.next(batchOut())
		b.input()
		b.want("FromPeer n2; disk begins 0; disk ends; host closed; guard gets Leaving raft.db: no space left for the raft log")
		b.input() // the engine must not go on
		b.want("")
		g.answer("")
		err := <-b.result
		if !errors.Is(err, ErrGivenUp) || Status(err) != StatusGivenUp || !strings.Contains(err.Error(), "no space left") {
			t.Errorf("ended with %v, status %d", err, Status(err))
		}
	})
}

func TestGivenUpNodeWithoutGuardStopsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		defer b.cancel()
		g := b.guardComes()
		time.Sleep(time.Second)
		g.frames <- &guardpb.FromGuard{Body: &guardpb.FromGuard_Welcome{Welcome: &guardpb.Welcome{Protected: []*guardpb.Protect{{Group: "web"}}}}}
		b.told()
		b.mu.Lock()
		b.lease = b.now() + time.Second
		b.mu.Unlock()
		b.next(engine.Out{Exit: "entry 7 of the log is damaged"})
		_ = g.Close()
		if err := <-b.result; !errors.Is(err, ErrGivenUp) || !strings.Contains(err.Error(), "entry 7") {
			t.Errorf("ended with %v", err)
		}
		b.want("GuardConn false; host closed; kill web")
	})
}

func TestCleanLeaveEndsWithGuard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		defer b.cancel()
		g := b.guardComes()
		time.Sleep(time.Second)
		b.told()
		b.next(engine.Out{Exit: left})
		b.input()
		synctest.Wait()
		select {
		case err := <-b.result:
			t.Fatalf("ended before guard, with %v", err)
		default:
		}
		_ = g.Close()
		if err := <-b.result; err != nil {
			t.Errorf("ended with %v", err)
		}
	})
}

func TestEndAsToldLeavesServicesAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.guardComes()
		time.Sleep(time.Second)
		b.next(engine.Out{Protect: []string{"web"}})
		b.input()
		b.told()
		b.cancel()
		if err := <-b.result; err != nil || Status(err) != 0 {
			t.Errorf("ended with %v", err)
		}
		if got := b.told(); strings.Contains(got, "kill") || strings.Contains(got, "Leaving") {
			t.Errorf("told %q", got)
		}
	})
}

func TestLinksGoToTheTransport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		defer b.end()
		g := b.guardComes()
		time.Sleep(time.Second)
		b.told()
		peers := func(state guardpb.LinkState, links ...guardpb.LinkState) {
			g.frames <- &guardpb.FromGuard{Body: &guardpb.FromGuard_Peers{Peers: &guardpb.Peers{Peers: []*guardpb.PeerState{{Node: "n1"}, {Node: "n2", State: state, Links: links}}}}}
		}
		const up, down, jeopardy, connecting = guardpb.LinkState_LINK_STATE_UP, guardpb.LinkState_LINK_STATE_DOWN, guardpb.LinkState_LINK_STATE_JEOPARDY, guardpb.LinkState_LINK_STATE_CONNECTING
		peers(connecting, connecting, connecting)
		b.want("link n2 0 true; link n2 1 true; from guard *guardpb.FromGuard_Peers")
		peers(jeopardy, up, down)
		b.want("link n2 0 true; link n2 1 false; kick n2; from guard *guardpb.FromGuard_Peers")
		peers(up, up, up)
		b.want("link n2 0 true; link n2 1 true; from guard *guardpb.FromGuard_Peers")
	})
}

func TestChangedConfigurationMovesAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.id.Dir = t.TempDir()
		defer b.end()
		b.state = &statepb.State{ConfigRevision: 2, Nodes: map[string]*v1.Node{
			"n1": {Name: "n1", Links: []*v1.Link{{Address: "10.0.0.1"}}},
			"n3": {Name: "n3", Links: []*v1.Link{{Address: "10.0.0.3"}}},
		}}
		b.next(engine.Out{Changed: true})
		b.input()
		b.want("FromPeer n2; listen [10.0.0.1:7946]; peers map[n1:[10.0.0.1:7946] n3:[10.0.0.3:7946]]")
		b.next(engine.Out{Changed: true})
		b.input()
		b.want("FromPeer n2")
	})
}

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
