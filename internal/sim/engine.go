package sim

import (
	"fmt"
	"strings"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-ha/holdfast/internal/cluster/consensus"
	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/peer/peerpb"
	"github.com/holdfast-ha/holdfast/internal/group/agent"
	"github.com/holdfast-ha/holdfast/internal/node/engine"
)

// driverCall marks numbers of calls to guard that are the driver's own; the
// rest belong to the engine.
const driverCall = 1 << 63

// startEngine is what guard does with clusterd, and clusterd's first steps.
func (n *node) startEngine() {
	n.proc = n.c.newProcess()
	for range n.pausedReasons("engine") {
		n.proc.freeze()
	}
	n.engineSince = n.c.now
	n.proc.post(n.c.between(time.Millisecond, 20*time.Millisecond), func() {
		n.host.engineStarted()
		e, err := engine.New(n.clock.read(n.c.now), n.wall(), engine.Config{
			Node: n.name, RaftID: n.store.raftID, Saved: n.store.saved(), Peers: n.c.config.GetNodes(), Logf: n.tell, Trace: n.raftTrace(), Proposer: n.c.luck.Uint64() | 1,
		})
		if err != nil {
			n.c.fail("N6", "%s: the engine does not start: %v", n.name, err)
			return
		}
		n.engine, n.maxEpoch, n.fenced = e, 0, map[uint64]bool{}
		n.protectCalls, n.triggers, n.signals = map[uint64]string{}, map[uint64]*simEvent{}, nil
		n.carryOut()
		n.connect()
	})
}

// raftTrace goes to the whole story only.
func (n *node) raftTrace() func(string, ...any) {
	if n.c.raftLines == nil {
		return nil
	}
	return func(format string, args ...any) {
		fmt.Fprintf(n.c.raftLines, "%11s %-4s %s\n", seconds(n.c.now), n.name, strings.TrimSpace(fmt.Sprintf(format, args...)))
	}
}

// step feeds an input to the engine and carries out what it says.
func (n *node) step(in engine.Input) {
	if n.engine == nil {
		return
	}
	n.engine.Step(n.clock.read(n.c.now), n.wall(), in)
	n.carryOut()
}

func (n *node) carryOut() {
	out := n.engine.Take()
	for _, m := range out.ToPeers {
		raw, err := proto.Marshal(m.Message)
		if err != nil {
			n.c.fail("N6", "%s: a message does not marshal: %v", n.name, err)
			return
		}
		n.c.mixInt(uint64(len(raw)))
		n.c.net.sendMessage(n.index, n.c.byName[m.Node].index, raw)
	}
	for _, f := range out.ToGuard {
		n.toGuard(f)
	}
	if out.Points != nil {
		n.newHands()
	}
	for _, r := range out.ToPoints {
		n.askPoint(r)
	}
	if out.Persist != nil {
		b := out.Persist
		n.disk.sync(n.proc, func() { n.store.put(b) }, func(ok bool) {
			if !ok {
				n.tell("the disk is full: the engine ends")
				n.c.count("disk.full")
				_ = n.killEngine("its disk is full")
				return
			}
			n.step(engine.Persisted{})
		})
	}
	for _, g := range out.Protect {
		n.driverCalls++
		call := driverCall | n.driverCalls
		n.protectCalls[call] = g
		n.toGuard(&guardpb.ToGuard{Call: call, Body: &guardpb.ToGuard_Protect{Protect: &guardpb.Protect{Group: g, Cgroup: "/" + g}}})
	}
	for _, g := range out.Gone {
		n.toGuard(&guardpb.ToGuard{Body: &guardpb.ToGuard_Protect{Protect: &guardpb.Protect{Group: g, Gone: true}}})
	}
	for _, t := range out.Cancel {
		n.host.cancel(t)
	}
	for _, call := range out.Calls {
		// Between deciding and doing the process may be held up.
		if n.c.o.Hiccups && (n.c.chance(0.003) || call.Starts && n.c.chance(0.1)) {
			was := n.boots
			n.pause("engine")
			n.c.count("hiccup")
			n.c.after(time.Duration(float64(2*n.c.o.Peerinact)*n.c.luck.Float64()), func() { n.resume("engine", was) })
		}
		n.proc.post(n.c.upTo(2*time.Millisecond), func() { n.host.run(call) })
	}
	n.runTriggers(out)
	for _, r := range out.Results {
		n.c.answered(n, r)
	}
	for _, ev := range out.Events {
		if ev.GetNumber() > n.c.told { // each is told by the first node to apply it
			n.c.told = ev.GetNumber()
			n.tell("%s: %s", ev.GetCode(), ev.GetMessage())
			n.c.count("event." + ev.GetCode())
		}
	}
	if out.Changed || out.Exit != "" {
		n.c.check.applied(n)
		n.fencing()
	}
	if out.Exit != "" && !n.exiting {
		n.exiting = true
		n.tell("engine: %s", out.Exit)
		if !out.Left {
			n.c.fail("N6", "the engine of %s gives up: %s", n.name, out.Exit)
		}
	}
	n.wakeAt(out.Wake)
}

// wakeAt asks for a Tick, which comes a little late as on any machine.
func (n *node) wakeAt(local time.Duration) {
	n.content("engine", &n.engineTicks)
	if local == 0 || n.nextTick == local && n.tickEvent != nil && n.tickEvent.index >= 0 {
		return
	}
	n.c.cancel(n.tickEvent)
	n.nextTick = local
	p := n.proc
	at := max(n.clock.when(local), n.c.now) + n.c.upTo(time.Millisecond)
	n.tickEvent = n.c.at(at, func() {
		p.do(false, func() { n.step(engine.Tick{}) })
	})
}

// callDone and notice are what the host tells the engine that runs.
func (n *node) callDone(d agent.Done) {
	if n.proc != nil {
		n.proc.do(false, func() { n.step(engine.CallDone{Done: d}) })
	}
}

func (n *node) notice(x agent.Notice) {
	if n.proc != nil && n.engine != nil {
		n.proc.post(n.c.upTo(5*time.Millisecond), func() { n.step(engine.Notice{Notice: x}) })
	}
}

// frameFromGuard reached clusterd: the driver keeps what answers its own calls.
func (n *node) frameFromGuard(f *guardpb.FromGuard) {
	if d := f.GetDone(); d != nil && d.GetCall()&driverCall != 0 {
		if g, ok := n.protectCalls[d.GetCall()]; ok {
			delete(n.protectCalls, d.GetCall())
			n.step(engine.Protected{Group: g, Err: d.GetError()})
		}
		return
	}
	n.step(engine.FromGuard{Frame: f})
}

// A store is what of a node's log is durable.
type store struct {
	raftID  uint64
	hard    *raftpb.HardState
	snap    *raftpb.Snapshot
	entries []*raftpb.Entry
}

func (s *store) saved() consensus.Saved {
	x := consensus.Saved{HardState: proto.CloneOf(s.hard), Snapshot: proto.CloneOf(s.snap)}
	for _, e := range s.entries {
		x.Entries = append(x.Entries, proto.CloneOf(e))
	}
	return x
}

// put makes a batch durable, as package logstore does.
func (s *store) put(b *engine.Batch) {
	if b.Reset {
		*s = store{raftID: b.RaftID}
	}
	if b.HardState != nil {
		s.hard = proto.CloneOf(b.HardState)
	}
	if sn := b.Snapshot; sn != nil {
		s.snap = proto.CloneOf(sn)
		if b.Install {
			s.entries = nil
		}
		for len(s.entries) > 0 && s.entries[0].GetIndex() <= sn.GetMetadata().GetIndex() {
			s.entries = s.entries[1:]
		}
	}
	for _, e := range b.Entries {
		s.truncate(e.GetIndex())
		s.entries = append(s.entries, proto.CloneOf(e))
	}
}

// truncate everything from index on.
func (s *store) truncate(index uint64) {
	for i, e := range s.entries {
		if e.GetIndex() >= index {
			s.entries = s.entries[:i]
			return
		}
	}
}

func decodePeer(raw []byte) (*peerpb.Message, error) {
	m := &peerpb.Message{}
	if err := proto.Unmarshal(raw, m); err != nil {
		return nil, fmt.Errorf("a message between engines does not parse: %w", err)
	}
	return m, nil
}

// A rate counts calls within a second.
type rate struct {
	since time.Duration
	calls int
}

// content fails a core that asks for the time so often that it would burn a
// processor.
func (n *node) content(what string, r *rate) {
	if n.c.now-r.since > time.Second {
		*r = rate{since: n.c.now}
	}
	if r.calls++; r.calls == 3000 {
		n.c.fail("N6", "%s: the %s has asked to be called 3000 times in a second", n.name, what)
	}
}
