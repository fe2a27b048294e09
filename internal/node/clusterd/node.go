//go:build linux

package clusterd

import (
	"context"
	"log/slog"
	"sync"
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/identity"
	"github.com/holdfast-ha/holdfast/internal/cluster/logstore"
	"github.com/holdfast-ha/holdfast/internal/cluster/peer/peerpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
	"github.com/holdfast-ha/holdfast/internal/cluster/witness"
	"github.com/holdfast-ha/holdfast/internal/group/agent"
	"github.com/holdfast-ha/holdfast/internal/group/agents"
	"github.com/holdfast-ha/holdfast/internal/node/engine"
	"github.com/holdfast-ha/holdfast/internal/node/guardclient"
)

// What the driver needs of its parts; tests put others in their place.
type (
	core interface {
		Step(now time.Duration, wallMs int64, in engine.Input)
		Take() engine.Out
		State() *statepb.State
		AppliedIndex() uint64
		ClockMs() int64
		Leader() string
		PointStatus() []witness.PointStatus
	}
	disk interface {
		Save(logstore.Batch) error
		Reset(raftID uint64) error
		Close() error
	}
	network interface {
		Send(node string, m *peerpb.Message) bool
		Listen(addresses []string) error
		SetPeers(map[string][]string)
		LinkState(node string, link int, up bool)
		Kick(node string)
		Recheck()
		Speak(version uint32)
	}
	runner interface {
		Run(c agent.Call, done func(agent.Result))
		Cancel(token uint64)
		Protect(group *v1.Group) (*guardpb.Protect, error)
		Release(group string)
		StatesChanged(look func(agents.Target) v1.ResourceState)
		SetSignals(map[string]agents.Signal)
		Notices() <-chan agent.Notice
		RunProgram(ctx context.Context, p agents.Program) agents.ProgramResult
		Close()
	}
)

// node is the driver. What is not said to be otherwise belongs to the loop's goroutine.
type node struct {
	o    Options
	id   *identity.Identity
	log  *slog.Logger
	in   chan func()   // inbox, for everybody
	done chan struct{} // closed by quit
	once sync.Once
	wg   sync.WaitGroup

	// Clocks and the way to guard, replaced in tests.
	now     func() time.Duration
	wall    func() time.Time
	dial    func() (guardConn, error)
	leaseOf func() (time.Duration, error)
	stopAll func(protected []*guardpb.Protect, within time.Duration) error

	engine core
	store  disk
	peers  network
	host   runner

	local     []engine.Input // inputs that carrying out has caused
	wake      time.Duration
	batches   chan *engine.Batch
	toKeep    chan *v1.Configuration // nodes and their addresses
	writing   bool
	guard     guardSide
	groups    map[string]*v1.Group // last known configuration of protected groups
	starting  map[uint64]bool      // calls under way that may start something
	triggers  map[uint64]func()    // ends programs of triggers under way
	ending    string               // not empty: why this node ends
	givenUp   bool
	mayEnd    bool // nothing can be started any more
	leaveCall uint64
	finished  bool

	requests    map[uint64]chan engine.Result // proposals by token
	nextToken   uint64
	watchers    map[chan struct{}]bool
	cloned      *statepb.State // what State hands out, nil: to be made
	revision    uint64         // of the configuration that addresses were taken from
	addressed   bool
	own         []string // this node's addresses
	listenFault string
	listenAt    time.Duration // when listening is tried again, 0: not
	decision    uint64        // newest one that was logged
	life        life
	api         *apiSocket
	fencing     fencing
	notifying   notifying
	points      pointsInUse
	asking      int // requests under way at points
	started     time.Time
}

// inbox is long enough that a burst does not stop the readers.
const inbox = 1024

func newNode(o Options, id *identity.Identity) *node {
	n := &node{
		o: o, id: id, log: o.Log, in: make(chan func(), inbox), done: make(chan struct{}),
		now: guardclient.Boottime, wall: time.Now,
		batches: make(chan *engine.Batch, 1), toKeep: make(chan *v1.Configuration, 1), groups: map[string]*v1.Group{}, starting: map[uint64]bool{}, triggers: map[uint64]func(){},
		requests: map[uint64]chan engine.Result{}, watchers: map[chan struct{}]bool{}, started: time.Now(),
	}
	n.dial = func() (guardConn, error) { return guardclient.Dial(o.RunDir) }
	n.leaseOf = func() (time.Duration, error) { return guardclient.LeaseUntil(o.RunDir) }
	n.stopAll = stopAll(o.Log)
	n.guard.init()
	return n
}

// post puts something into the loop's inbox; false: the loop has ended.
func (n *node) post(f func()) bool {
	select {
	case n.in <- f:
		return true
	case <-n.done:
		return false
	}
}

func (n *node) quit() { n.once.Do(func() { close(n.done) }) }

func (n *node) background(f func()) { n.wg.Go(f) }

// run is the loop. It returns when this node has ended or ctx has.
func (n *node) run(ctx context.Context) error {
	defer n.wg.Wait()
	defer n.closePoints()
	defer n.quit()
	n.background(n.connectGuard)
	n.background(n.writeBatches)
	n.background(n.keepNodes)
	if n.engine != nil && n.ending == "" {
		if s := n.engine.State(); s != nil {
			for _, d := range s.GetDecisions() {
				n.decision = max(n.decision, d.GetNumber())
			}
		}
		n.addresses()
		n.lifeOn()
		n.fencingOn()
		n.eventsOn(true)
		n.carryOut()
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for !n.finished {
		for len(n.local) > 0 && n.ending == "" {
			in := n.local[0]
			n.local = n.local[1:]
			n.step(in)
			if len(n.in) > 0 {
				break // others have a right to their turn
			}
		}
		timer.Reset(n.untilWake())
		select {
		case f := <-n.in:
			f()
		case <-timer.C:
			n.tick()
		case <-ctx.Done():
			n.log.Info("clusterd ends as told; services go on")
			return nil
		}
	}
	return n.outcome()
}

// untilWake is at least a millisecond: a core that wants its tick at once must
// not keep others from their turn.
func (n *node) untilWake() time.Duration {
	if len(n.local) > 0 {
		return 0
	}
	wake := n.guard.wake
	if n.ending == "" {
		for _, w := range []time.Duration{n.wake, n.listenAt, n.life.wake, n.notifying.due()} {
			if w != 0 && (wake == 0 || w < wake) {
				wake = w
			}
		}
	}
	if wake == 0 {
		return time.Hour
	}
	return max(wake-n.now(), time.Millisecond)
}

func (n *node) tick() {
	n.guardTick()
	if n.listenAt != 0 && n.now() >= n.listenAt {
		n.listen()
	}
	if n.ending == "" {
		n.lifeTick()
		n.notifyTick()
	}
	if n.ending == "" && n.wake != 0 && n.now() >= n.wake {
		n.step(engine.Tick{})
	}
}

// step feeds the engine and carries out what it says.
func (n *node) step(in engine.Input) {
	if n.engine == nil || n.ending != "" && !n.leavesCleanly() {
		return
	}
	n.engine.Step(n.now(), n.wall().UnixMilli(), in)
	n.carryOut()
}

// leavesCleanly: the engine itself has asked guard to end.
func (n *node) leavesCleanly() bool { return !n.givenUp }

// carryOut does what the engine says, in the order of the fields (N2).
func (n *node) carryOut() {
	out := n.engine.Take()
	for _, m := range out.ToPeers {
		if !n.peers.Send(m.Node, m.Message) {
			n.local = append(n.local, engine.PeerDropped(m))
		}
	}
	for _, f := range out.ToGuard {
		n.guard.send(f)
	}
	if out.Points != nil {
		n.usePoints(out.Points)
	}
	for _, r := range out.ToPoints {
		n.askPoint(r)
	}
	if out.Persist != nil {
		if n.writing {
			panic("clusterd: the engine wants a second batch on disk before the first is there")
		}
		n.writing = true
		n.batches <- out.Persist
	}
	for _, g := range out.Protect {
		n.protect(g, true)
	}
	for _, g := range out.Gone {
		n.unprotect(g)
	}
	for _, token := range out.Cancel {
		n.host.Cancel(token)
	}
	for _, c := range out.Calls {
		n.call(c)
	}
	for _, number := range out.CancelTriggers {
		n.cancelTrigger(number)
	}
	for _, t := range out.Triggers {
		n.runTrigger(t)
	}
	if out.Signals != nil {
		n.setSignals(out.Signals)
	}
	for _, r := range out.Results {
		n.answer(r)
	}
	if out.Changed {
		n.cloned = nil
		n.addresses()
		n.proxiesOn()
		n.lifeOn()
		n.fencingOn()
		n.decisions()
		n.notify()
	}
	for _, e := range out.Events {
		n.logEvent(e)
	}
	n.eventsOn(out.Changed)
	n.wake = out.Wake
	if out.Exit != "" {
		n.exit(out.Exit, out.Left)
	}
}

// call runs one entry point.
func (n *node) call(c agent.Call) {
	if c.Starts {
		n.starting[c.Token] = true
	}
	n.host.Run(c, func(r agent.Result) {
		n.post(func() {
			delete(n.starting, c.Token)
			n.startsEnded()
			done := engine.CallDone{Done: agent.Done{Token: c.Token, Result: r}}
			if r.State == v1.ResourceState_RESOURCE_STATE_ONLINE {
				n.step(done)
				return
			}
			n.afterGuard(done)
		})
	})
}

// afterGuard gives the engine something that may say that a service has ended.
// Guard tells that the lease is over before it ends what runs, but an end may be
// seen here before that word is: then it would be taken for a fault.
func (n *node) afterGuard(in engine.Input) {
	if n.guard.link != nil && n.guard.lease.GetHeld() {
		if until, err := n.leaseOf(); err == nil && n.now() >= until {
			n.background(func() {
				select {
				case <-time.After(guardWordPause):
					n.post(func() { n.afterGuard(in) })
				case <-n.done:
				}
			})
			return
		}
	}
	n.step(in)
}

func (n *node) notices() {
	for {
		select {
		case notice, ok := <-n.host.Notices():
			if !ok || !n.post(func() { n.afterGuard(engine.Notice{Notice: notice}) }) {
				return
			}
		case <-n.done:
			return
		}
	}
}
