package sim

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/holdfast-ha/holdfast/internal/cluster/guard"
	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/timers"
	"github.com/holdfast-ha/holdfast/internal/node/engine"
)

// A node is one machine: a clock, a disk, agents, and the two daemons.
type node struct {
	c     *cluster
	index int
	name  string
	clock clock
	up    bool // the machine runs
	boots int
	left  bool // guard has ended by itself: the node waits for an administrator

	machine *process // what lives as long as the machine does
	disk    *disk
	host    *host
	store   *store
	paused  map[string]int // reasons by "", "engine", "guard"

	// On disk, beside the log.
	incarnation uint64
	// In memory of the machine (/run): gone after a reboot.
	saved      *guard.Saved
	leaseUntil time.Duration
	guardRan   bool

	guardProc *process
	guard     *guard.Core
	guardTick *simEvent
	guardLate *simEvent // init starts it again
	hadLease  bool
	leaseID   uint64 // raft id by which it was taken

	proc         *process // clusterd
	engine       *engine.Engine
	engineSince  time.Duration
	engineCrash  int
	tickEvent    *simEvent
	nextTick     time.Duration
	engineTicks  rate
	guardTicks   rate
	driverCalls  uint64
	protectCalls map[uint64]string
	exiting      bool
	link         *socket // between the two
	fallback     *simEvent
	hands        map[string]*hand // on lock disks

	// N2: until then processes here may be stale.
	wokeUntil time.Duration

	maxEpoch, maxEpochID uint64
	triggers             map[uint64]*simEvent // running programs of the engine that runs
	signals              map[string]int64     // as agents know them
	// Fence operations that this run of the engine has begun.
	fenced     map[uint64]bool
	wallOffset time.Duration
}

// A socket joins guard and clusterd of one machine: ordered, and quick.
type socket struct {
	g, e *process
	up   bool
	last [2]time.Duration
}

func newNode(c *cluster, index int, name string) *node {
	n := &node{c: c, index: index, name: name, store: &store{}, paused: map[string]int{}}
	n.disk = &disk{w: c.World, latency: c.o.DiskSync, spread: c.o.DiskSync}
	n.host = newHost(n)
	n.wallOffset = c.between(-2*time.Second, 2*time.Second)
	return n
}

func (n *node) tell(format string, args ...any) { n.c.tell(n.name, format, args...) }

// wall is this machine's time of day in Unix milliseconds.
func (n *node) wall() int64 {
	return (1_700_000_000*time.Second + n.c.now + n.wallOffset).Milliseconds()
}

func (n *node) local() time.Duration { return n.clock.read(n.c.now) }

func (n *node) engineProcess() *process {
	if n.proc == nil {
		n.proc = &process{q: &n.c.queue}
	}
	return n.proc
}

// boot a machine, or start the daemons of one that runs.
func (n *node) boot() error {
	switch {
	case n.up && n.left:
		n.left = false
		n.startGuard()
		return nil
	case n.up:
		return fmt.Errorf("%s is up", n.name)
	}
	n.up, n.left = true, false
	n.boots++
	n.machine = n.c.newProcess()
	n.paused = map[string]int{}
	ppm := int64(0)
	if d := n.c.o.Drift; d > 0 {
		ppm = n.c.luck.Int64N(2*d+1) - d
	}
	n.clock = clock{start: n.c.now, offset: time.Second + n.c.upTo(time.Hour), ppm: ppm}
	n.saved, n.leaseUntil, n.guardRan = nil, 0, false
	n.tell("machine starts")
	n.startGuard()
	return nil
}

// crash the machine: processes are gone, and what was not synced as luck wills.
func (n *node) crash() error {
	if !n.up {
		return fmt.Errorf("%s is down", n.name)
	}
	n.tell("machine stops")
	n.up = false
	n.endGuard()
	n.endEngine(true)
	n.machine.kill()
	n.disk.crash()
	n.host.machineEnded()
	n.c.cancel(n.guardLate)
	return nil
}

// loseDisk: what is started after end finds an identity, but no log.
func (n *node) loseDisk(end func() error) error {
	newest := n.c.check.newest
	if newest == nil || state.MemberOf(newest, n.name) != nil {
		if n.c.check.diskLost > 0 || len(newest.GetView().GetMembers()) < 3 || !n.othersKnow(newest.GetView().GetEpoch()) {
			return fmt.Errorf("only an administrator could help then")
		}
		n.c.check.diskLost++
	}
	if n.up {
		_ = end() // it may have ended by itself
	}
	n.tell("the log is lost")
	*n.store = store{}
	return nil
}

// othersKnow says whether another node knows that this view alone counts. Until
// then the view before it votes, too: a node and the coordination points may have
// been its majority, and the node's log is the only one that they let win.
func (n *node) othersKnow(epoch uint64) bool {
	for _, o := range n.c.nodes {
		if o != n && o.engine != nil && o.proc.alive && o.engine.State().GetView().GetEpoch() == epoch && !o.engine.Joint() {
			return true
		}
	}
	return false
}

// pause a process or, with an empty name, the machine.
func (n *node) pause(what string) {
	n.paused[what]++
	for _, p := range n.processes(what) {
		p.freeze()
	}
}

// resume what was paused in the boot with that number.
func (n *node) resume(what string, boot int) {
	if n.boots != boot || n.paused[what] == 0 {
		return
	}
	n.paused[what]--
	if n.paused[what] == 0 {
		n.woke()
	}
	// The order in which processes get the processor is anybody's guess.
	ps := n.processes(what)
	n.c.luck.Shuffle(len(ps), func(i, j int) { ps[i], ps[j] = ps[j], ps[i] })
	for _, p := range ps {
		p.thaw()
	}
}

func (n *node) processes(what string) []*process {
	var ps []*process
	if what != "engine" && n.guardProc != nil {
		ps = append(ps, n.guardProc)
	}
	if what != "guard" && n.proc != nil {
		ps = append(ps, n.proc)
	}
	if what == "" {
		ps = append(ps, n.machine)
	}
	return ps
}

// pausedReasons that a process born now would have.
func (n *node) pausedReasons(what string) int { return n.paused[""] + n.paused[what] }

// woke: from now on whoever has to end what should have ended has the time for
// it; an engine that wakes may do what it had decided before.
func (n *node) woke() {
	n.wokeUntil = max(n.wokeUntil, n.c.now+timers.Stop(n.c.longestPeerinact())+timers.Margin(n.c.longestPeerinact()))
	n.c.after(0, n.c.check.allProcesses)
}

// excused says until when processes of this node may be stale (N2).
func (n *node) excused() time.Duration {
	switch {
	case n.paused[""] > 0, n.paused["guard"] > 0:
		return forever
	case n.left: // what goes on there, goes on by the cluster's word
		return n.wokeUntil
	case n.guardProc == nil || !n.guardProc.alive:
		if n.proc == nil || !n.proc.alive || n.paused["engine"] > 0 {
			return forever // nobody is left to stop anything: only a watchdog could
		}
	}
	return n.wokeUntil
}

// startGuard as init does.
func (n *node) startGuard() {
	n.incarnation++
	n.guardProc = n.c.newProcess()
	for range n.pausedReasons("guard") {
		n.guardProc.freeze()
	}
	if n.guardRan {
		n.woke()
	}
	n.guardProc.post(n.c.between(time.Millisecond, 20*time.Millisecond), func() {
		n.guard = guard.New(n.local(), guard.Config{
			Node: n.name, Incarnation: n.incarnation, Saved: proto.CloneOf(n.saved), LeaseUntil: n.leaseUntil, Rebooted: !n.guardRan,
		})
		n.guardRan = true
		n.tell("guard %d runs", n.incarnation)
		n.guardOut()
		if n.proc != nil && n.proc.alive && n.engine != nil {
			n.proc.post(n.c.upTo(100*time.Millisecond), n.connect)
		} else if n.proc == nil || !n.proc.alive {
			n.startEngine()
		}
	})
}

// killGuard ends guard; init starts it again.
func (n *node) killGuard(why string) error {
	if n.guardProc == nil || !n.guardProc.alive {
		return fmt.Errorf("guard of %s does not run", n.name)
	}
	n.tell("guard ends (%s)", why)
	n.endGuard()
	late := n.c.between(20*time.Millisecond, 400*time.Millisecond)
	if n.c.chance(0.2) {
		late = n.c.upTo(3 * time.Second)
	}
	n.guardLate = n.machine.post(late, func() {
		if !n.left && (n.guardProc == nil || !n.guardProc.alive) {
			n.startGuard()
		}
	})
	return nil
}

func (n *node) endGuard() {
	if n.guardProc != nil {
		n.guardProc.kill()
	}
	n.guard = nil
	n.c.cancel(n.guardTick)
	n.disconnect()
	if n.up {
		n.guardless()
	}
	n.c.check.allProcesses()
}

// guardless: clusterd waits for a new guard until the lease that the old one
// left behind has ended; then it stops everything itself.
func (n *node) guardless() {
	if n.proc == nil || !n.proc.alive {
		return
	}
	p := n.proc
	n.c.cancel(n.fallback)
	n.fallback = n.c.at(n.clock.when(n.leaseUntil), func() {
		p.do(false, func() {
			if n.guardProc != nil && n.guardProc.alive && n.guard != nil {
				return
			}
			n.tell("no guard at the end of the lease: clusterd stops everything")
			n.c.count("guardless.stop")
			for _, g := range n.c.config.GetGroups() {
				p.post(n.c.upTo(timers.Stop(n.peerinact())), func() { n.host.kill(g.GetName(), "by clusterd, without guard") })
			}
		})
	})
}

// guardOut carries out what guard says, in the order of the fields.
func (n *node) guardOut() {
	out := n.guard.Take()
	if out.Save != nil {
		n.saved = proto.CloneOf(out.Save)
	}
	n.leaseUntil = n.guard.LeaseUntil()
	n.c.check.lease(n)
	if out.Stop != nil {
		n.stopProtected(out.Stop)
	}
	for _, f := range out.Engine {
		n.toEngine(f)
	}
	for _, s := range out.Send {
		to := n.c.byName[s.To]
		if to == nil {
			continue
		}
		if s.Heartbeat.Stopped {
			n.c.count("goodbye")
		}
		n.c.net.send(n.index, to.index, s.Link, s.Heartbeat)
	}
	if out.KillEngine != "" {
		n.c.count("guard.kills.engine")
		_ = n.killEngine("guard: " + out.KillEngine) // it may have ended by itself
	}
	if out.Exit && out.Restart && (n.c.calm || n.c.chance(0.5)) {
		n.tell("guard restarts the machine")
		n.restart()
		return
	}
	if out.Exit {
		n.tell("guard has nothing more to do and ends; so does clusterd")
		n.left = true
		n.endGuard()
		n.endEngine(false)
		return
	}
	n.content("guard", &n.guardTicks)
	n.c.cancel(n.guardTick)
	p := n.guardProc
	n.guardTick = n.c.at(max(n.c.now, n.clock.when(out.Wake))+n.c.upTo(time.Millisecond), func() {
		p.do(false, func() {
			n.guard.Tick(n.local())
			n.guardOut()
		})
	})
}

// stopProtected ends what guard names within the time that guard allows.
func (n *node) stopProtected(s *guard.Stop) {
	n.tell("guard stops everything: %s", s.Reason)
	n.c.count("lease.ended")
	took := n.c.upTo(s.Within * 9 / 10)
	for _, p := range s.Protected {
		n.guardProc.post(n.c.upTo(took), func() { n.host.kill(p.GetGroup(), "by guard") })
	}
	n.guardProc.post(took, func() {
		n.guard.Stopped(n.local(), took, nil)
		n.guardOut()
	})
}

// startEngine is in engine.go.

// killEngine ends clusterd; guard starts it again.
func (n *node) killEngine(why string) error {
	if n.proc == nil || !n.proc.alive {
		return fmt.Errorf("clusterd of %s does not run", n.name)
	}
	n.tell("clusterd ends (%s)", why)
	n.endEngine(false)
	n.disk.crash()
	n.respawn()
	return nil
}

// respawn by guard, later with each crash that follows soon.
func (n *node) respawn() {
	if n.c.now-n.engineSince > 10*time.Second {
		n.engineCrash = 0
	}
	backoff := min(5*time.Second, time.Duration(n.engineCrash)*100*time.Millisecond)
	n.engineCrash++
	if n.guardProc == nil || !n.guardProc.alive {
		return // a new guard starts it
	}
	n.guardProc.post(backoff, func() {
		if n.guard != nil && (n.proc == nil || !n.proc.alive) && !n.left {
			n.startEngine()
		}
	})
}

func (n *node) endEngine(machine bool) {
	if n.proc == nil || !n.proc.alive {
		return
	}
	n.proc.kill()
	n.engine = nil
	n.exiting = false
	n.c.cancel(n.tickEvent)
	n.c.cancel(n.fallback)
	n.host.engineEnded()
	n.disconnect()
	n.c.net.processEnded(n.index, machine)
	n.c.check.allProcesses()
}

// connect clusterd to guard.
func (n *node) connect() {
	if n.guard == nil || n.engine == nil {
		return
	}
	n.link = &socket{g: n.guardProc, e: n.proc, up: true}
	n.guardProc.do(false, func() {
		n.guard.EngineConn(n.local(), true)
		n.guardOut()
	})
	n.step(engine.GuardConn{Up: true})
}

// disconnect when one of the two has ended; the other notices at once.
func (n *node) disconnect() {
	s := n.link
	if s == nil || !s.up {
		return
	}
	s.up = false
	if s.g.alive {
		s.g.post(0, func() {
			n.guard.EngineConn(n.local(), false)
			n.guardOut()
		})
	}
	if s.e.alive {
		s.e.post(0, func() { n.step(engine.GuardConn{Up: false}) })
	}
}

// pass a frame over the socket in direction i.
func (s *socket) pass(n *node, i int, to *process, run func()) {
	at := max(s.last[i], n.c.now+n.c.upTo(300*time.Microsecond))
	s.last[i] = at
	n.c.at(at, func() {
		to.do(false, func() {
			if s.up && n.link == s {
				run()
			}
		})
	})
}

func (n *node) toGuard(f *guardpb.ToGuard) {
	if s := n.link; s != nil && s.up {
		f = proto.CloneOf(f)
		s.pass(n, 0, s.g, func() {
			n.guard.Engine(n.local(), f)
			if n.c.o.Power && n.guard.Configured() != nil { // armed, and never needed
				n.guard.Watchdog(n.local(), timers.Watchdog(n.guard.Configured().GetPeerinact().AsDuration()))
			}
			n.guardOut()
		})
	}
}

func (n *node) toEngine(f *guardpb.FromGuard) {
	if s := n.link; s != nil && s.up {
		f = proto.CloneOf(f)
		s.pass(n, 1, s.e, func() { n.frameFromGuard(f) })
	}
}
