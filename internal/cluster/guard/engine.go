package guard

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/timers"
)

// EngineConn tells that an engine has connected, or that the one that was
// connected is dead: not only its connection, but its process. (Guard says goodbye on
// the strength of it.)
func (c *Core) EngineConn(now time.Duration, up bool) {
	c.begin(now)
	c.engineUp, c.engineSince, c.killed = up, c.now, false
	c.change.calls = nil
	c.stop.quietBy = 0
	if up {
		w := &guardpb.Welcome{
			GuardIncarnation: c.cfg.Incarnation,
			Conditions:       c.conditions,
			Rebooted:         c.rebooted,
		}
		for _, p := range c.protected {
			w.Protected = append(w.Protected, proto.CloneOf(p))
		}
		for _, p := range c.detached {
			w.Detached = append(w.Detached, proto.CloneOf(p))
		}
		if c.conf != nil {
			w.Configured = proto.CloneOf(c.conf)
		}
		c.toEngine(&guardpb.FromGuard{Body: &guardpb.FromGuard_Welcome{Welcome: w}})
		c.tellLease()
		c.stateAll()
		c.peersDirty = true
	} else {
		c.leader = ""
		c.stop.quiet = c.lease.state != leaseHeld
	}
	c.settle()
	c.schedule()
}

// Configured is what the engine configured last and the core runs by, nil before
// the first time. It must not be changed; another configuration is another message.
func (c *Core) Configured() *guardpb.Configure { return c.conf }

// stateAll repeats every statement.
func (c *Core) stateAll() {
	for _, p := range c.peers {
		if p.suspicion.raised {
			p.suspicion.heardAgain = false
			c.state(p)
		}
	}
}

// Engine takes a frame of the engine. A frame that can't be used changes nothing;
// its call is answered with an error.
func (c *Core) Engine(now time.Duration, m *guardpb.ToGuard) {
	c.begin(now)
	var err error
	answered := false
	switch b := m.GetBody().(type) {
	case *guardpb.ToGuard_Configure:
		if err = checkConfigure(c.cfg.Node, b.Configure); err == nil {
			c.configure(proto.CloneOf(b.Configure))
			if answered = m.GetCall() != 0; answered {
				c.answerConfigure(m.GetCall())
			}
		}
	case *guardpb.ToGuard_Tick:
		err = c.tick(b.Tick)
	case *guardpb.ToGuard_Appended:
		// Lower than before is possible: an entry that never was committed is gone from
		// the log. What is applied is in the log for good (L2).
		if epoch := max(b.Appended.GetEpoch(), c.epoch); epoch != c.appended {
			c.appended, c.saveDue = epoch, true
		}
	case *guardpb.ToGuard_Protect:
		err = c.protect(b.Protect)
	case *guardpb.ToGuard_Leaving:
		answered = true
		if b.Leaving.GetDetach() {
			c.detach(m.GetCall())
			break
		}
		c.stop.quiet, c.stop.left = true, true
		reason := b.Leaving.GetReason()
		if reason == "" {
			reason = "the node leaves the cluster"
		}
		c.leave(m.GetCall(), reason)
	case *guardpb.ToGuard_Extend:
		err = c.extend(b.Extend)
	case *guardpb.ToGuard_StatsRequest:
		s := c.stats()
		s.Call = m.GetCall()
		c.toEngine(&guardpb.FromGuard{Body: &guardpb.FromGuard_Stats{Stats: s}})
		answered = true
	case *guardpb.ToGuard_Quiet:
		c.stop.quiet = c.lease.state != leaseHeld
	case *guardpb.ToGuard_Reset_:
		c.reset(b.Reset_)
	case *guardpb.ToGuard_StopDetached:
		err = c.stopDetached(b.StopDetached.GetReason())
	case *guardpb.ToGuard_WitnessAcked:
		c.witnessAcked(b.WitnessAcked)
	default:
		err = errors.New("guard: a frame of a kind that this guard does not know: guard and clusterd must be of the same release")
	}
	if m.GetCall() != 0 && !answered {
		c.done(m.GetCall(), err)
	}
	c.settle()
	c.schedule()
}

func (c *Core) done(call uint64, err error) {
	d := &guardpb.Done{Call: call}
	if err != nil {
		d.Error = err.Error()
	}
	c.toEngine(&guardpb.FromGuard{Body: &guardpb.FromGuard_Done{Done: d}})
}

// tick of the engine: only a counter that moves is a sign of life.
func (c *Core) tick(m *guardpb.Tick) error {
	if len(m.GetLeader()) > MaxName {
		return fmt.Errorf("guard: a leader's name of %d bytes: at most %d", len(m.GetLeader()), MaxName)
	}
	c.leader = m.GetLeader()
	if m.GetCounter() != c.engineTick {
		c.engineTick, c.engineAlive = m.GetCounter(), c.now
	}
	return nil
}

// engineSilence is how long an engine may be late before it counts as down.
// It ticks every second.
func (c *Core) engineSilence() time.Duration { return max(c.inact, 3*time.Second) }

// watchEngine asks for the end of an engine that does not tick, so that the next
// one is there before the limit: and of one that does not become quiet, so that this
// node can say goodbye.
func (c *Core) watchEngine() {
	if !c.engineUp || c.killed {
		return
	}
	switch {
	case c.now >= c.killAt():
		c.killed = true
		c.out.KillEngine = fmt.Sprintf("it has not ticked for %v", (c.now - c.engineAlive).Round(time.Millisecond))
	case c.stop.quietBy != 0 && c.now >= c.stop.quietBy && !c.stop.quiet:
		c.killed = true
		c.out.KillEngine = "the lease has ended, and it does not say that it is quiet"
	}
}

// killAt is when an engine that does not tick is ended.
func (c *Core) killAt() time.Duration {
	return max(c.engineAlive, c.engineSince) + max(c.downLimit/2, c.engineSilence())
}

func (c *Core) engineDown() bool {
	return !c.engineUp || c.now-c.engineAlive >= c.engineSilence()
}

// downFor is what heartbeats say: 0 while the engine works.
func (c *Core) downFor() time.Duration {
	if !c.engineDown() {
		return 0
	}
	return max(c.now-c.engineAlive, 1)
}

// maxTime bounds every duration that the engine may set.
const maxTime = time.Hour

// checkConfigure says what is wrong with m.
func checkConfigure(self string, m *guardpb.Configure) error {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("guard: configure: "+format, args...))
	}
	if m.GetNode() != self {
		bad("it is for node %q, this is %q", m.GetNode(), self)
	}
	if n := len(m.GetPeers()); n > MaxPeers {
		bad("%d nodes, at most %d", n, MaxPeers)
	}
	for _, t := range []struct {
		name string
		d    *durationpb.Duration
	}{
		{"heartbeat", m.GetHeartbeat()}, {"peertrouble", m.GetPeertrouble()},
		{"peerinact", m.GetPeerinact()}, {"engine_down_limit", m.GetEngineDownLimit()},
	} {
		if t.d != nil && (t.d.CheckValid() != nil || t.d.AsDuration() < 0 || t.d.AsDuration() > maxTime) {
			bad("%s is %v, it may be up to %v", t.name, t.d.AsDuration(), maxTime)
		}
	}
	if inact := or(m.GetPeerinact(), timers.DefaultPeerinact); or(m.GetHeartbeat(), inact/10) >= inact {
		bad("heartbeat %v is not below peerinact %v", m.GetHeartbeat().AsDuration(), inact)
	}
	own := uint64(0)
	ids := map[uint64]string{}
	for i, p := range m.GetPeers() {
		name := p.GetNode()
		if i > 0 && m.Peers[i-1].GetNode() >= name || name == "" || len(name) > MaxName {
			bad("node %q: names are sorted, unique, and 1 to %d bytes long", name, MaxName)
		}
		if n := len(p.GetAddresses()); n > MaxLinks {
			bad("node %s has %d links, at most %d", name, n, MaxLinks)
		}
		if id := p.GetRaftId(); id != 0 {
			if other, used := ids[id]; used {
				bad("raft id %d is of %s and of %s", id, other, name)
			}
			ids[id] = name
		}
		if s := p.GetSilence(); s != nil && (s.CheckValid() != nil || s.AsDuration() < 0 || s.AsDuration() > maxTime) {
			bad("node %s: a silence of %v, it may be up to %v", name, s.AsDuration(), maxTime)
		}
		if name == self {
			own = p.GetRaftId()
		}
	}
	if id := m.GetWitnessRaftId(); id != 0 && ids[id] != "" {
		bad("raft id %d is of the coordination points and of %s", id, ids[id])
	}
	if own != m.GetRaftId() {
		bad("the own raft id is %d, and %d in the list of nodes", m.GetRaftId(), own)
	}
	return errors.Join(errs...)
}

// configure applies a configuration that was checked. The core keeps m.
func (c *Core) configure(m *guardpb.Configure) {
	if c.lease.state == leaseHeld && m.GetRaftId() != c.raftID {
		c.endLease("this node is not a member of the view any more")
	}
	voters, earned := c.voterIDs(), c.earned()
	oldEpoch, oldRaftID := c.epoch, c.raftID
	c.conf = m
	inact, heartbeat := c.inact, c.heartbeat
	c.setTimers(m)
	c.changeTimers(inact, heartbeat, earned)
	old := c.byName
	c.byName, c.peers, c.self, c.voters = map[string]*peer{}, nil, nil, 0
	for _, from := range m.GetPeers() {
		p := old[from.GetNode()]
		if p == nil {
			p = &peer{node: from.GetNode(), heardAt: c.now, since: c.now, youngAt: c.now, state: guardpb.LinkState_LINK_STATE_CONNECTING}
		}
		c.byName[p.node] = p
		c.peers = append(c.peers, p)
		if p.node == c.cfg.Node {
			c.self = p
		}
		c.configurePeer(p, from)
		if p.raftID != 0 {
			c.voters++
		}
	}
	if c.witness.configure(m.GetWitnessRaftId()) {
		c.voters++
	}
	c.raftID, c.epoch = m.GetRaftId(), m.GetEpoch()
	c.appended = max(c.appended, c.epoch)
	c.mayAck = m.GetMayAcknowledge() && (c.self == nil || c.self.incarnation == 0 || c.self.incarnation == c.cfg.Incarnation)
	c.rebooted = c.rebooted && !c.mayAck
	if c.raftID != oldRaftID {
		c.newRaftID(oldRaftID)
	}
	if id := max(c.raftID, m.GetLearnerRaftId()); id > c.identity {
		c.newIdentity(id)
	}
	c.changeView(oldEpoch, voters, earned)
	c.saveDue, c.peersDirty = true, true
}

func (c *Core) configurePeer(p *peer, from *guardpb.Peer) {
	addresses := from.GetAddresses()
	if !slices.Equal(addresses, p.addresses) {
		links := make([]link, len(addresses))
		for i := range links {
			if i < len(p.links) && p.addresses[i] == addresses[i] {
				links[i] = p.links[i]
			} else {
				links[i] = newLink(c.now)
			}
		}
		p.links, p.addresses = links, addresses
	}
	p.linkNames = from.GetLinkNames()
	id := from.GetRaftId()
	if id != 0 && p.raftID == 0 && p != c.self {
		p.heardAt = max(p.heardAt, c.now) // a voter from now on: its silence counts from now on (H3)
	}
	p.raftID, p.incarnation, p.stays = id, from.GetGuardIncarnation(), from.GetStays()
	if q := &p.suspicion; q.raised && (id == q.raftID && p.stays > q.stays || id > q.raftID) {
		c.endSuspicion(p)
	}
	switch {
	case from.GetSilence() == nil:
		p.silenceNumber, p.silenceEnd = 0, 0
	case from.GetSilenceNumber() != p.silenceNumber || p.silenceEnd == 0:
		p.silenceNumber, p.silenceEnd = from.GetSilenceNumber(), c.now+from.GetSilence().AsDuration()
	}
	c.sumUp(p)
}

// newRaftID: this node is another voter than before, or none. What others
// acknowledged to it as the old one is void.
func (c *Core) newRaftID(old uint64) {
	if old != 0 {
		c.lastRaftID = old
	}
	c.lease.floor = max(c.lease.floor, c.seq)
	if c.lease.state == leaseNone {
		c.lease.raftID = 0
	}
}

// newIdentity: this node is another incarnation, and what it stated as an
// earlier one is void with that. It must know before it votes: a member whose lease
// will depend on it has to be acknowledged by then. (An engine that was started
// again may know less for a while; what was stated binds.)
func (c *Core) newIdentity(id uint64) {
	c.identity = id
	for _, p := range c.peers {
		if p.suspicion.raised {
			c.endSuspicion(p)
		}
	}
}

// setTimers takes timers that are not set as the defaults. The next round comes
// early if rounds have become more frequent.
func (c *Core) setTimers(m *guardpb.Configure) {
	c.inact = or(m.GetPeerinact(), timers.DefaultPeerinact)
	c.heartbeat = max(or(m.GetHeartbeat(), c.inact/10), time.Millisecond)
	c.trouble = or(m.GetPeertrouble(), c.inact/2)
	c.downLimit = or(m.GetEngineDownLimit(), timers.DefaultEngineDownLimit)
	c.nextBeat = min(c.nextBeat, max(c.lastBeat+c.heartbeat, c.now))
}

func or(d *durationpb.Duration, unset time.Duration) time.Duration {
	if v := d.AsDuration(); v > 0 {
		return v
	}
	return unset
}
