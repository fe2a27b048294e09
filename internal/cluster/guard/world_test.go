package guard

import (
	"container/heap"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
)

// world runs several guards against each other under virtual time. It plays their
// drivers, their engines (which tick, answer, and apply what the script says) and
// the network. One world of one script, or of one series of random choices,
// always does the same.
type world struct {
	now    time.Duration
	nodes  map[string]*node
	names  []string
	links  int
	delay  func() time.Duration
	cuts   map[string]bool // "a>b/0"
	queue  eventQueue
	order  int
	log    strings.Builder
	quiet  bool // no log
	conf   guardpb.Configure
	stated func(n *node, s *guardpb.Suspect)
	// Last packet per direction and link, for replays.
	packets map[string]Heartbeat
}

// node of a world.
type node struct {
	name        string
	w           *world
	core        *Core
	wake        int // number of the newest wake-up; older ones are void
	up          bool
	paused      bool
	incarnation uint64
	saved       *Saved
	leaseUntil  time.Duration
	engine      bool // runs
	hung        bool // runs, but says nothing
	slow        bool // does not answer a lost lease
	tickNo      uint64
	stopTakes   time.Duration
	stopFails   bool
	waiting     []func() // while paused
	conf        *guardpb.Configure
	table       *guardpb.Peers
	lease       *guardpb.Lease
	answers     map[uint64]string
	call        uint64
	exited      bool
}

type event struct {
	at    time.Duration
	order int
	do    func()
}

type eventQueue []event

func (q eventQueue) Len() int { return len(q) }
func (q eventQueue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].order < q[j].order
}
func (q eventQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *eventQueue) Push(x any)   { *q = append(*q, x.(event)) }
func (q *eventQueue) Pop() any {
	old := *q
	e := old[len(old)-1]
	*q = old[:len(old)-1]
	return e
}

func newWorld() *world {
	return &world{
		nodes: map[string]*node{}, links: 2, cuts: map[string]bool{}, packets: map[string]Heartbeat{},
		delay: func() time.Duration { return time.Millisecond },
	}
}

func (w *world) after(d time.Duration, do func()) {
	w.order++
	heap.Push(&w.queue, event{w.now + d, w.order, do})
}

// run until t.
func (w *world) run(t time.Duration) {
	for len(w.queue) > 0 && w.queue[0].at <= t {
		e := heap.Pop(&w.queue).(event)
		w.now = e.at
		e.do()
	}
	w.now = t
}

func (w *world) printf(format string, args ...any) {
	if !w.quiet {
		fmt.Fprintf(&w.log, "%8.3fs  %s\n", w.now.Seconds(), fmt.Sprintf(format, args...))
	}
}

// add nodes, all of them voters of the first view.
func (w *world) add(names []string) {
	w.names = names
	for i, name := range names {
		w.nodes[name] = &node{name: name, w: w, engine: true, stopTakes: 20 * time.Millisecond}
		p := &guardpb.Peer{Node: name, RaftId: uint64(i + 1), GuardIncarnation: 1}
		for l := range w.links {
			p.Addresses = append(p.Addresses, fmt.Sprintf("10.0.%d.%d:7801", l, i+1))
			p.LinkNames = append(p.LinkNames, fmt.Sprintf("net%d", l))
		}
		w.conf.Peers = append(w.conf.Peers, p)
	}
	w.conf.Epoch = 1
}

func (w *world) peer(name string) *guardpb.Peer {
	for _, p := range w.conf.Peers {
		if p.Node == name {
			return p
		}
	}
	panic("no node " + name)
}

// start the guard of n, and its engine with it.
func (n *node) start(reboot bool) {
	if reboot {
		n.saved, n.leaseUntil = nil, 0
	}
	n.incarnation++
	n.up, n.paused, n.waiting, n.exited = true, false, nil, false
	n.table, n.lease, n.answers = nil, nil, map[uint64]string{}
	n.core = New(n.w.now, Config{Node: n.name, Incarnation: n.incarnation, Saved: n.saved, LeaseUntil: n.leaseUntil, Rebooted: reboot})
	n.carryOut()
	if n.engine {
		n.connect()
	}
}

func (n *node) connect() {
	n.do(func() { n.core.EngineConn(n.w.now, true) })
	if n.conf != nil {
		n.configure(n.conf)
	}
	n.tickEngine(n.core)
}

func (n *node) tickEngine(of *Core) {
	if !n.up || n.core != of || !n.engine {
		return
	}
	if !n.hung && !n.paused {
		n.tickNo++
		n.send(&guardpb.ToGuard{Body: &guardpb.ToGuard_Tick{Tick: &guardpb.Tick{Counter: n.tickNo, Leader: n.w.names[0]}}})
	}
	n.w.after(100*time.Millisecond, func() { n.tickEngine(of) })
}

// do something with the core now, or when the node wakes.
func (n *node) do(f func()) {
	core := n.core
	switch {
	case !n.up:
	case n.paused:
		n.waiting = append(n.waiting, func() {
			if n.core == core {
				n.do(f)
			}
		})
	default:
		f()
		n.carryOut()
	}
}

func (n *node) send(m *guardpb.ToGuard) {
	n.do(func() { n.core.Engine(n.w.now, m) })
}

// ask sends m as a call and returns what was answered.
func (n *node) ask(m *guardpb.ToGuard) string {
	n.call++
	m.Call = n.call
	n.send(m)
	a, ok := n.answers[n.call]
	if !ok {
		return "no answer yet"
	}
	return a
}

// configure gives n what w says, as n's own engine would.
func (n *node) configure(conf *guardpb.Configure) {
	c := proto.CloneOf(conf)
	c.Node, c.RaftId, c.MayAcknowledge = n.name, 0, false
	for _, p := range c.Peers {
		if p.Node == n.name {
			c.RaftId = p.RaftId
			c.MayAcknowledge = p.GuardIncarnation == n.incarnation
		}
	}
	n.conf = proto.CloneOf(c)
	if n.engine && !n.hung {
		n.send(&guardpb.ToGuard{Body: &guardpb.ToGuard_Configure{Configure: c}})
	}
}

func (w *world) configureAll() {
	for _, name := range w.names {
		if n := w.nodes[name]; n.up {
			n.configure(&w.conf)
		}
	}
}

// carryOut what the core asks for, as a driver does.
func (n *node) carryOut() {
	core := n.core
	out := core.Take()
	if out.Save != nil {
		n.saved = out.Save
	}
	if out.Stop != nil {
		n.w.printf("%s stops %s: %s", n.name, protects(out.Stop.Protected), out.Stop.Reason)
		var err error
		if n.stopFails {
			err = errors.New("pid 4711 does not end")
		}
		n.w.after(n.stopTakes, func() {
			if n.core == core {
				n.do(func() { core.Stopped(n.w.now, n.stopTakes, err) })
			}
		})
	}
	n.leaseUntil = core.LeaseUntil()
	if out.KillEngine != "" {
		n.w.printf("%s engine is killed: %s", n.name, out.KillEngine)
		n.w.after(time.Millisecond, func() {
			n.engine, n.hung, n.slow = false, false, false
			n.do(func() { n.core.EngineConn(n.w.now, false) })
			n.w.after(50*time.Millisecond, func() { n.engine, n.table = true, nil; n.connect() })
		})
	}
	for _, s := range out.Send {
		n.w.transmit(n.name, s)
	}
	if out.Restart {
		n.w.printf("%s restarts the machine, if it may", n.name)
	}
	if out.Exit && !n.exited {
		n.exited = true
		n.w.printf("%s guard exits", n.name)
		n.w.after(0, func() {
			if n.core == core {
				n.up = false
			}
		})
	}
	n.wake++
	no := n.wake
	n.w.after(max(out.Wake-n.w.now, 0), func() {
		if n.wake == no && n.core == core {
			n.do(func() { core.Tick(n.w.now) })
		}
	})
	for _, f := range out.Engine {
		n.fromGuard(f)
	}
}

// fromGuard is n's engine.
func (n *node) fromGuard(f *guardpb.FromGuard) {
	if !n.engine || n.hung {
		return
	}
	w := n.w
	switch b := f.Body.(type) {
	case *guardpb.FromGuard_Welcome:
		if len(b.Welcome.Protected) > 0 {
			w.printf("%s engine finds %s protected", n.name, protects(b.Welcome.Protected))
		}
		if len(b.Welcome.Detached) > 0 {
			w.printf("%s engine finds %s left running", n.name, protects(b.Welcome.Detached))
		}
	case *guardpb.FromGuard_Lease:
		switch l := b.Lease; {
		case l.Held:
			w.printf("%s lease held until %.3fs", n.name, l.Until.AsDuration().Seconds())
		case !l.Stopped && strings.Contains(l.Reason, "not all is stopped"):
			w.printf("%s lease ended: %s", n.name, l.Reason)
		case !l.Stopped:
			w.printf("%s lease ended", n.name)
			if !n.slow {
				n.w.after(0, func() {
					n.send(&guardpb.ToGuard{Body: &guardpb.ToGuard_Quiet{Quiet: &guardpb.Quiet{}}})
				})
			}
		case n.lease != nil && !n.lease.Stopped:
			w.printf("%s all is stopped", n.name)
		}
		n.lease = b.Lease
	case *guardpb.FromGuard_Suspect:
		s := b.Suspect.Statement
		extra := ""
		if s.GoodbyeSequence != 0 {
			extra = ", goodbye"
			if s.YoungestSequence <= s.GoodbyeSequence {
				extra = ", goodbye covers it"
			}
		}
		w.printf("%s suspects %s: %s (acknowledged %v ago%s)", n.name, s.About, b.Suspect.Reason, s.Age.AsDuration().Round(time.Millisecond), extra)
		if w.stated != nil {
			w.stated(n, b.Suspect)
		}
	case *guardpb.FromGuard_HeardAgain:
		w.printf("%s hears %s again", n.name, b.HeardAgain.Node)
	case *guardpb.FromGuard_Done:
		n.answers[b.Done.Call] = b.Done.Error
		if n.exited || b.Done.Error != "" {
			w.printf("%s answers: %s", n.name, orOK(b.Done.Error))
		}
	case *guardpb.FromGuard_Peers:
		n.tableChanged(b.Peers)
	}
}

func (n *node) tableChanged(t *guardpb.Peers) {
	for i, p := range t.Peers {
		was := "connecting"
		if n.table != nil && i < len(n.table.Peers) {
			was = short(n.table.Peers[i].State)
		}
		if is := short(p.State); is != was {
			n.w.printf("%s sees %s %s", n.name, p.Node, is)
		}
		if p.EngineDown && (n.table == nil || i < len(n.table.Peers) && !n.table.Peers[i].EngineDown) {
			n.w.printf("%s sees the engine of %s down", n.name, p.Node)
		}
	}
	if t.Seeded && !n.table.GetSeeded() {
		how := "heard a seeded node"
		if t.Cold {
			how = "counted enough nodes"
		}
		n.w.printf("%s seeded: %s", n.name, how)
	}
	n.table = proto.CloneOf(t)
}

func short(s guardpb.LinkState) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "LINK_STATE_"))
}

func orOK(s string) string {
	if s == "" {
		return "ok"
	}
	return s
}

func protects(ps []*guardpb.Protect) string {
	var names []string
	for _, p := range ps {
		names = append(names, p.Group)
	}
	if len(names) == 0 {
		return "nothing"
	}
	return strings.Join(names, " ")
}

// transmit a heartbeat, through the codec.
func (w *world) transmit(from string, s Send) {
	dir := fmt.Sprintf("%s>%s/%d", from, s.To, s.Link)
	var hb Heartbeat
	if err := DecodeHeartbeat(AppendHeartbeat(nil, &s.Heartbeat), &hb); err != nil {
		panic(err)
	}
	hb.Sequence = s.Heartbeat.Sequence
	w.packets[dir] = hb
	if w.cuts[dir] {
		return
	}
	to := w.nodes[s.To]
	w.after(w.delay(), func() {
		to.do(func() { to.core.Receive(w.now, s.Link, from, hb) })
	})
}

// resume a paused node: what waited in its sockets and timers arrives now, in that order.
func (n *node) resume(timersFirst bool) {
	n.paused = false
	waiting := n.waiting
	n.waiting = nil
	if timersFirst {
		n.do(func() { n.core.Tick(n.w.now) })
	}
	for _, f := range waiting {
		f()
	}
	n.do(func() { n.core.Tick(n.w.now) })
}

func (w *world) silence(name string, length time.Duration, number uint64) *guardpb.ToGuard {
	p := w.peer(name)
	p.Silence, p.SilenceNumber = durationpb.New(length), number
	return &guardpb.ToGuard{Body: &guardpb.ToGuard_Extend{Extend: &guardpb.Extend{
		Number: number, Since: durationpb.New(w.now), Length: durationpb.New(length),
	}}}
}

// leases of all nodes, for scripts.
func (w *world) leases() string {
	var b strings.Builder
	for _, name := range w.names {
		n := w.nodes[name]
		switch {
		case !n.up:
			fmt.Fprintf(&b, "%s is off\n", name)
		case n.core.LeaseHeld(w.now):
			fmt.Fprintf(&b, "%s holds its lease for %v more\n", name, (n.core.LeaseUntil() - w.now).Round(time.Millisecond))
		default:
			fmt.Fprintf(&b, "%s holds none\n", name)
		}
	}
	return b.String()
}
