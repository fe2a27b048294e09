package guard

import (
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/timers"
)

const (
	// MaxLinks and MaxPeers bound a configuration.
	MaxLinks = 8
	MaxPeers = 64

	// quickRounds goodbyes follow each other at quickGap, so that losing one costs little.
	quickRounds = 3
	quickGap    = 10 * time.Millisecond
	// graceBeats heartbeats pass after a gap before silence counts (H3).
	graceBeats = 2
	// Calls that are so many heartbeats apart, and a quarter of peerinact, have a gap between them.
	gapBeats = 3
)

// Saved is what a guard leaves to the next one of the same boot.
type Saved = guardpb.Saved

// Config of a new [Core].
type Config struct {
	// Node is the own name.
	Node string
	// Incarnation of this guard: above 0, and above any that this node has used before.
	Incarnation uint64
	// Saved by an earlier guard of this boot, nil if there was none.
	Saved *Saved
	// LeaseUntil of that guard, as its driver kept it. 0: unknown, no lease.
	LeaseUntil time.Duration
	// Rebooted: no guard ran before this one since the machine started.
	Rebooted bool
}

// Send is one heartbeat to put on a link.
type Send struct {
	Link int
	To   string
	// Index of To in the configuration, for the nonce.
	Index     int
	Heartbeat Heartbeat
}

// Stop asks the driver to end everything that is protected, at once.
type Stop struct {
	Reason string
	// Protected is what to kill and which addresses to remove. May be empty.
	Protected []*guardpb.Protect
	// Within is the share of peerinact in which it should be done.
	Within time.Duration
}

// Out is what the caller has to do, in the order of the fields. Slices and what
// they refer to are valid until the next call of the core.
type Out struct {
	// Save replaces what was kept before. The rest waits for it.
	Save *Saved
	// Stop begins now, and is answered by [Core.Stopped].
	Stop *Stop
	// KillEngine, if not empty: the engine's process is to be killed, for this reason.
	// The driver starts another one in any case when one has ended.
	KillEngine string
	Engine     []*guardpb.FromGuard
	Send       []Send
	// Restart the machine at once, if this guard may: fail-fast. Without Exit not everything has stopped.
	Restart bool
	// Exit: this guard has nothing more to do.
	Exit bool
	// Wake is when Tick is due at the latest.
	Wake time.Duration
}

type leaseState int

const (
	leaseNone     leaseState = iota // nothing runs here
	leaseHeld                       // this node may act
	leaseStopping                   // ended; something may still run
)

// Core is the guard of one node. It is not safe for concurrent use.
type Core struct {
	cfg Config
	now time.Duration

	// What the engine configured last; nil before the first time.
	conf      *guardpb.Configure
	heartbeat time.Duration
	trouble   time.Duration
	inact     time.Duration
	downLimit time.Duration
	peers     []*peer // as configured, self included
	byName    map[string]*peer
	self      *peer // nil: not configured
	raftID    uint64
	// Newest own raft id, as a voter or while catching up. What was suspected before it is void.
	identity uint64
	// The last one that was not 0: what a goodbye is of.
	lastRaftID uint64
	epoch      uint64
	appended   uint64
	mayAck     bool
	voters     int // the coordination points included
	witness    witness

	// Rounds.
	seq      uint64
	ownAcked uint64          // newest number that this node's own voice acknowledged (L2)
	sentAt   []time.Duration // by sequence, a ring
	lastBeat time.Duration
	nextBeat time.Duration
	quick    int // quick rounds still to send
	graceEnd time.Duration

	lease  lease
	stop   stopping
	change change
	bye    goodbye

	// The engine.
	engineUp    bool
	engineTick  uint64
	engineAlive time.Duration // of the last tick
	engineSince time.Duration // it connected, or was found dead
	killed      bool          // asked for the end of this engine
	leader      string

	seeded, cold bool
	rebooted     bool               // and no guard has been committed since
	protected    []*guardpb.Protect // sorted by group
	detached     []*guardpb.Protect // what goes on without a lease (L11)
	conditions   []string
	watchdog     time.Duration      // as Peers tells it
	strangers    [MaxLinks]counters // packets of nobody that is configured

	// Gathered for Take.
	out        Out
	saveDue    bool
	peersDirty bool
	scratch    []uint64
}

// New core of a guard that starts now.
func New(now time.Duration, cfg Config) *Core {
	c := &Core{
		cfg: cfg, now: now,
		byName: map[string]*peer{},
		sentAt: make([]time.Duration, sentRing),
		// Until the engine says otherwise.
		engineAlive: now, nextBeat: now,
	}
	c.setTimers(nil)
	c.cfg.Saved = nil
	c.rebooted = cfg.Rebooted || cfg.Saved.GetLeft()
	if s := cfg.Saved; s != nil && !c.rebooted {
		c.restore(s)
	}
	c.saveDue = true
	c.schedule()
	return c
}

// restore takes over from the guard before.
func (c *Core) restore(s *Saved) {
	c.rebooted = s.GetRebooted()
	c.seeded = s.GetSeeded() // that the cluster started from cold was said by the guard before
	c.lease.extendNumber = s.GetExtendNumber()
	c.appended, c.identity = s.GetAppended(), s.GetIdentity()
	for _, p := range s.GetProtected() {
		c.protected = append(c.protected, proto.CloneOf(p))
	}
	for _, p := range s.GetDetached() {
		c.detached = append(c.detached, proto.CloneOf(p))
	}
	if s.GetConfigured() != nil {
		conf := proto.CloneOf(s.GetConfigured())
		conf.MayAcknowledge = false // this guard is not committed yet
		if err := checkConfigure(c.cfg.Node, conf); err == nil {
			c.configure(conf)
		}
	}
	for _, q := range s.GetSuspicions() {
		if p := c.byName[q.GetNode()]; p != nil && p != c.self {
			p.suspicion = suspicion{
				raised: true, raftID: q.GetRaftId(), stays: q.GetStays(), reason: q.GetReason(),
				goodbye: q.GetGoodbyeSequence(),
			}
			p.young = stamp{q.GetAboutGuardIncarnation(), q.GetYoungestSequence()}
			p.youngAt = min(q.GetYoungestAt().AsDuration(), c.now)
		}
	}
	if c.cfg.LeaseUntil > c.now && c.raftID != 0 {
		c.lease.state, c.lease.raftID = leaseHeld, c.raftID
		c.lease.inherited = min(c.cfg.LeaseUntil, c.now+c.longestLease(s))
		if until := s.GetExtendedUntil().AsDuration(); until <= c.cfg.LeaseUntil {
			c.lease.extended = until
		}
		c.lease.until = c.lease.inherited
		c.change.leaseEnd = c.lease.inherited // by which timers is not known
	} else if len(c.protected) > 0 {
		c.endLease("the lease ended before this guard was started")
	}
}

// longestLease that a guard before this one can have left behind.
func (c *Core) longestLease(s *Saved) time.Duration {
	return max(timers.Lease(c.inact), s.GetExtendedUntil().AsDuration()-c.now)
}

// begin is the first thing that every call does: the clock first, then the lease (L4).
func (c *Core) begin(now time.Duration) {
	now = max(now, c.now)
	if now-c.now > max(gapBeats*c.heartbeat, c.inact/4) {
		c.graceEnd = now + graceBeats*c.heartbeat
		if c.engineUp {
			c.engineAlive += now - c.now // it could not have told either
		}
	}
	c.now = now
	if c.lease.state == leaseHeld && now >= c.lease.until {
		c.renew()
		if now >= c.lease.until {
			c.endLease(c.whyNoLease())
		}
	}
}

// Tick lets time pass. It is due at Out.Wake.
func (c *Core) Tick(now time.Duration) {
	c.begin(now)
	c.settle()
	if c.now >= c.nextBeat {
		c.round()
	}
	c.schedule()
}

// settle draws the conclusions that only time brings.
func (c *Core) settle() {
	for _, p := range c.peers {
		if p != c.self {
			c.watchPeer(p)
		}
	}
	c.watchEngine()
	c.endGoodbye()
	c.seed()
	c.updateLease()
	c.finishChange()
	c.finishStop()
}

// Take returns what is to be done since the last Take.
func (c *Core) Take() Out {
	if c.peersDirty && c.engineUp {
		c.toEngine(&guardpb.FromGuard{Body: &guardpb.FromGuard_Peers{Peers: c.peerTable()}})
	}
	c.peersDirty = c.peersDirty && !c.engineUp
	if c.saveDue {
		c.saveDue = false
		c.out.Save = c.saved()
	}
	c.assert()
	out := c.out
	c.out = Out{Engine: c.out.Engine[:0:0], Send: c.out.Send[:0], Wake: c.out.Wake}
	return out
}

// assert what must hold between any two calls. A guard that finds itself wrong
// ends, and the next one starts without a lease of its own.
func (c *Core) assert() {
	if len(c.detached) > 0 && (c.bye.said || c.lease.state == leaseHeld) {
		panic(fmt.Sprintf("guard: L11: %d groups go on without a lease, but a lease is held or a goodbye was said", len(c.detached)))
	}
	if c.lease.state != leaseHeld {
		return
	}
	switch {
	case c.now >= c.lease.until:
		panic(fmt.Sprintf("guard: L4: lease until %v is held at %v", c.lease.until, c.now))
	case c.bye.said:
		panic(fmt.Sprintf("guard: L7: lease is held after the goodbye of number %d", c.bye.sequence))
	case c.raftID == 0:
		panic("guard: lease is held by no voter")
	}
}

// schedule finds the earliest time at which anything changes by itself.
func (c *Core) schedule() {
	wake := c.nextBeat
	sooner := func(t time.Duration) {
		if t < wake {
			wake = t
		}
	}
	if c.lease.state == leaseHeld {
		sooner(c.lease.until)
	}
	if c.stop.retryAt != 0 {
		sooner(c.stop.retryAt)
	}
	if len(c.change.calls) > 0 {
		sooner(c.change.leaseEnd)
	}
	for _, p := range c.peers {
		if p != c.self {
			p.deadline(c, sooner)
		}
	}
	if !c.engineDown() {
		sooner(c.engineAlive + c.engineSilence())
	}
	if c.lease.state == leaseHeld {
		sooner(c.engineAlive + c.downLimit)
	}
	if c.engineUp && !c.killed {
		sooner(c.killAt())
		if c.stop.quietBy != 0 && !c.stop.quiet {
			sooner(c.stop.quietBy)
		}
	}
	c.out.Wake = max(wake, c.now)
}

// soonest lowers the time of the next Tick.
func (c *Core) soonest(t time.Duration) {
	c.out.Wake = max(min(c.out.Wake, t), c.now)
}

// round sends one heartbeat to every configured peer on every link.
func (c *Core) round() {
	c.seq++
	c.sentAt[c.seq%sentRing] = c.now
	if c.ownVoice() {
		c.ownAcked = c.seq
	}
	c.lastBeat = c.now
	down := c.downFor()
	for i, p := range c.peers {
		if p == c.self {
			continue
		}
		for link := range p.links {
			if p.addresses[link] == "" {
				continue
			}
			p.links[link].sent++
			c.out.Send = append(c.out.Send, Send{Link: link, To: p.node, Index: i, Heartbeat: c.heartbeatTo(p, link, down)})
		}
	}
	if c.bye.said {
		c.bye.rounds++
		c.finishLeaving()
	}
	every := c.roundEvery()
	switch {
	case c.quick > 0:
		c.quick--
		c.nextBeat = c.now + min(quickGap, every)
	case c.now-c.nextBeat < every:
		c.nextBeat += every // H4
	default:
		c.nextBeat += (c.now - c.nextBeat) / every * every
		c.nextBeat += every
	}
	c.renew() // this node's own voice is as new as the round
	c.askWitness()
}

func (c *Core) heartbeatTo(p *peer, link int, down time.Duration) Heartbeat {
	l := &p.links[link]
	h := Heartbeat{
		Incarnation: c.cfg.Incarnation, Sequence: c.seq,
		EchoIncarnation: l.last.incarnation, EchoSequence: l.last.sequence,
		RaftID: c.raftID, Epoch: c.epoch, Appended: c.appended,
		EngineTick: c.engineTick, EngineDown: down, Leader: c.leader,
		Seeded: c.seeded, HoldsLease: c.lease.state == leaseHeld,
	}
	if h.EchoIncarnation != 0 {
		h.EchoDelay = c.now - l.lastAt
	}
	if c.mayAck && !p.suspicion.raised && p.young.sequence != 0 {
		h.AckIncarnation, h.Ack = p.young.incarnation, p.young.sequence
	}
	if c.bye.said {
		h.Stopped = true
		h.Goodbye = Goodbye{Sequence: c.bye.sequence, RaftID: c.bye.raftID, Stays: c.bye.stays}
	}
	return h
}

func (c *Core) toEngine(f *guardpb.FromGuard) {
	if c.engineUp {
		c.out.Engine = append(c.out.Engine, f)
	}
}

// saved is what the next guard of this boot needs to know.
func (c *Core) saved() *Saved {
	s := &Saved{
		Incarnation: c.cfg.Incarnation, Seeded: c.seeded, Cold: c.cold,
		Left:     c.stop.leaving && c.bye.said,
		Rebooted: c.rebooted,
		Appended: c.appended, Identity: c.identity, ExtendNumber: c.lease.extendNumber, ExtendedUntil: durationpb.New(c.lease.extended),
		Protected: slices.Clone(c.protected), Detached: slices.Clone(c.detached),
	}
	if c.conf != nil {
		s.Configured = proto.CloneOf(c.conf)
	}
	for _, p := range c.peers {
		if q := &p.suspicion; q.raised {
			s.Suspicions = append(s.Suspicions, &guardpb.Suspicion{
				Node: p.node, RaftId: q.raftID, Stays: q.stays, Reason: q.reason, GoodbyeSequence: q.goodbye,
				AboutGuardIncarnation: p.young.incarnation, YoungestSequence: p.young.sequence, YoungestAt: durationpb.New(p.youngAt),
			})
		}
	}
	return s
}

// Watchdog tells the engine which time-out the watchdog has, or is to get; 0: none is armed.
func (c *Core) Watchdog(now time.Duration, timeout time.Duration) {
	c.begin(now)
	if timeout != c.watchdog {
		c.watchdog, c.peersDirty = timeout, true
	}
}

// Conditions tells the core what the driver wants people to know: "heartbeats run
// without real-time priority: …". It replaces what was told before.
func (c *Core) Conditions(now time.Duration, conditions []string) {
	c.begin(now)
	sorted := slices.Sorted(slices.Values(conditions))
	if !slices.Equal(sorted, c.conditions) {
		c.conditions = sorted
		c.peersDirty = true
	}
}

// seed decides whether enough nodes have been seen together.
func (c *Core) seed() {
	if c.seeded || c.conf == nil {
		return
	}
	heard := 1
	for _, p := range c.peers {
		if p == c.self {
			continue
		}
		if p.state != guardpb.LinkState_LINK_STATE_UP && p.state != guardpb.LinkState_LINK_STATE_JEOPARDY {
			continue
		}
		heard++
		if p.info.Seeded {
			c.seeded, c.saveDue, c.peersDirty = true, true, true
			return
		}
	}
	if heard >= int(c.conf.GetSeedNodes()) {
		c.seeded, c.cold, c.saveDue, c.peersDirty = true, true, true, true
	}
}
