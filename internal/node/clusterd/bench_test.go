//go:build linux

package clusterd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/consensus"
	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/identity"
	"github.com/holdfast-ha/holdfast/internal/cluster/logstore"
	"github.com/holdfast-ha/holdfast/internal/cluster/peer/peerpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
	"github.com/holdfast-ha/holdfast/internal/cluster/witness"
	"github.com/holdfast-ha/holdfast/internal/group/agent"
	"github.com/holdfast-ha/holdfast/internal/group/agents"
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
	refuse   bool       // peers take nothing
	listens  chan error // what Listen returns; nil channel: no error
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
	case engine.TriggerEnded:
		s += fmt.Sprint(" ", in.Number, " ", in.Status)
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
func (e fakeEngine) ClockMs() int64        { return 0 }
func (e fakeEngine) Leader() string        { return "n2" }

func (e fakeEngine) PointStatus() []witness.PointStatus { return nil }

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
func (p fakePeers) Listen(a []string) error {
	p.b.say("listen %v", a)
	if p.b.listens != nil {
		return <-p.b.listens
	}
	return nil
}
func (p fakePeers) SetPeers(m map[string][]string)        { p.b.say("peers %v", m) }
func (p fakePeers) LinkState(node string, l int, up bool) { p.b.say("link %s %d %v", node, l, up) }
func (p fakePeers) Recheck()                              {}
func (p fakePeers) Speak(uint32)                          {}
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
func (h fakeHost) StatesChanged(look func(agents.Target) v1.ResourceState) {
	if s := look(agents.Target{Group: "web", Resource: "app", Node: "n2"}); s != 0 {
		h.b.say("web/app on n2 is %s", s)
	}
}
func (h fakeHost) Release(group string)         { h.b.say("release %s", group) }
func (h fakeHost) Notices() <-chan agent.Notice { return nil }
func (h fakeHost) RunProgram(ctx context.Context, p agents.Program) agents.ProgramResult {
	h.b.say("program %s", strings.Join(p.Argv, " "))
	if strings.HasSuffix(p.Argv[0], "hangs") {
		<-ctx.Done()
		return agents.ProgramResult{Status: -1, Message: "it was ended early"}
	}
	return agents.ProgramResult{}
}
func (h fakeHost) SetSignals(s map[string]agents.Signal) {
	for _, name := range slices.Sorted(maps.Keys(s)) {
		h.b.say("signal %s is %d", name, s[name].Value)
	}
}
func (h fakeHost) Close() { h.b.say("host closed") }

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
