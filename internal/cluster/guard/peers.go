package guard

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
)

// sentRing is for how many rounds send times are kept: a lease of the longest
// peerinact at the shortest heartbeat fits.
const sentRing = 8192

// stamp names a heartbeat of a node.
type stamp struct{ incarnation, sequence uint64 }

func (a stamp) newer(b stamp) bool {
	return a.incarnation > b.incarnation || a.incarnation == b.incarnation && a.sequence > b.sequence
}

// peer is a configured node.
type peer struct {
	node      string
	addresses []string
	linkNames []string
	links     []link

	// By the applied view: 0 if not a voter.
	raftID      uint64
	incarnation uint64
	stays       uint64

	newest    stamp         // newest heartbeat, fresh or not
	infoStamp stamp         // heartbeat that info is of
	info      Heartbeat     // what its newest fresh heartbeat said
	heardAt   time.Duration // newest fresh heartbeat on any link; at first: when this peer was configured
	since     time.Duration // configured
	backAt    time.Duration // its first link came up again
	everHeard bool
	down      bool // silent on all links for peerinact
	state     guardpb.LinkState

	// What this node acknowledges of it (L6).
	young   stamp
	youngAt time.Duration

	// What it acknowledges of this node.
	acked  uint64 // newest number that counts
	newAck ack    // newest that arrived, whether it counts or not

	suspicion suspicion
	// Its newest goodbye, and when it was first heard. A change of the view is no news of it.
	bye   stamp
	byeAt time.Duration

	silenceNumber uint64
	silenceEnd    time.Duration
}

// ack is an acknowledgement as it arrived.
type ack struct {
	sequence    uint64
	incarnation uint64 // of the guard that gave it
	raftID      uint64
	appended    uint64
}

// link to one peer.
type link struct {
	last      stamp // newest packet
	lastAt    time.Duration
	heardAt   time.Duration // newest fresh packet
	everHeard bool
	state     guardpb.LinkState
	counters
}

// Receive takes an authenticated heartbeat of peer from that arrived on link.
// Replays are found here.
func (c *Core) Receive(now time.Duration, linkIndex int, from string, hb Heartbeat) {
	c.begin(now)
	p := c.byName[from]
	if p == nil || p == c.self || linkIndex < 0 || linkIndex >= len(p.links) {
		c.Dropped(linkIndex, from, DropForeign)
		return
	}
	l := &p.links[linkIndex]
	st := stamp{hb.Incarnation, hb.Sequence}
	switch {
	case st.incarnation == 0 || st.sequence == 0 || hb.AckIncarnation == c.cfg.Incarnation && hb.Ack > c.seq:
		l.malformed++
		return
	case !st.newer(l.last) || st.incarnation < p.newest.incarnation: // H2
		l.replayed++
		return
	}
	if l.last.incarnation == st.incarnation {
		l.lost += st.sequence - l.last.sequence - 1
		l.arrival.add(c.now - l.lastAt)
	}
	l.received++
	l.last, l.lastAt = st, c.now
	if st.newer(p.newest) {
		p.newest = st
	}
	sent, ok := c.sentTime(hb.EchoSequence)
	if hb.EchoIncarnation != c.cfg.Incarnation || !ok || c.now-sent > c.echoLimit() {
		return // H1
	}
	l.roundTrip.add(c.now - sent - hb.EchoDelay)
	c.heard(p, l)
	if st.newer(p.infoStamp) {
		c.take(p, st, &hb)
	}
	c.heardSuspect(p)
}

// echoLimit is how old the number that a packet echoes may be. It allows for what
// is lost on the way before the link shows trouble anyhow.
func (c *Core) echoLimit() time.Duration {
	return min(c.inact, max(c.trouble, 3*c.heartbeat))
}

// sentTime of an own round, if it is still known.
func (c *Core) sentTime(seq uint64) (time.Duration, bool) {
	if seq == 0 || seq > c.seq || c.seq-seq >= sentRing {
		return 0, false
	}
	return c.sentAt[seq%sentRing], true
}

// heard: p is alive, and l works both ways.
func (c *Core) heard(p *peer, l *link) {
	l.heardAt = c.now
	p.heardAt, p.down = c.now, false
	if l.state != guardpb.LinkState_LINK_STATE_UP {
		l.everHeard, p.everHeard = true, true
		l.state = guardpb.LinkState_LINK_STATE_UP
		c.peersDirty = true
		if c.linksUp(p) == 1 {
			p.backAt = c.now
			c.soonest(c.now + graceBeats*c.heartbeat)
		}
		c.sumUp(p)
		c.soonest(c.now + c.trouble)
	}
}

func (c *Core) linksUp(p *peer) (n int) {
	for i := range p.links {
		if p.links[i].state == guardpb.LinkState_LINK_STATE_UP {
			n++
		}
	}
	return n
}

// take what the newest heartbeat of p says.
func (c *Core) take(p *peer, st stamp, hb *Heartbeat) {
	was := &p.info
	if was.RaftID != hb.RaftID || was.Incarnation != hb.Incarnation || was.Epoch != hb.Epoch || was.Leader != hb.Leader ||
		(was.EngineDown > 0) != (hb.EngineDown > 0) || was.HoldsLease != hb.HoldsLease {
		c.peersDirty = true
	}
	p.infoStamp, p.info = st, *hb
	if hb.Seeded && !c.seeded {
		c.seed()
	}
	if hb.Stopped {
		c.heardGoodbye(p, hb)
	} else if !p.suspicion.raised {
		p.young, p.youngAt = st, c.now
	}
	p.newAck = ack{}
	if hb.Ack != 0 && hb.AckIncarnation == c.cfg.Incarnation { // L1
		p.newAck = ack{hb.Ack, hb.Incarnation, hb.RaftID, hb.Appended}
		if c.count(p) {
			c.updateLease()
		}
	}
}

// watchPeer follows what silence makes of p and its links.
func (c *Core) watchPeer(p *peer) {
	if c.now < c.graceEnd {
		return // H3
	}
	for i := range p.links {
		l := &p.links[i]
		if state := c.linkState(l); state != l.state {
			l.state = state
			c.peersDirty = true
		}
	}
	p.down = c.now-p.heardAt >= c.inact
	c.sumUp(p)
	c.watchSilence(p)
}

// sumUp the links of p.
func (c *Core) sumUp(p *peer) {
	if state := c.peerState(p); state != p.state {
		p.state = state
		c.peersDirty = true
	}
}

func (c *Core) linkState(l *link) guardpb.LinkState {
	silent := c.now - l.heardAt
	switch {
	case !l.everHeard:
		return guardpb.LinkState_LINK_STATE_CONNECTING
	case silent >= c.inact:
		return guardpb.LinkState_LINK_STATE_DOWN
	case silent >= c.trouble:
		return guardpb.LinkState_LINK_STATE_TROUBLE
	}
	return guardpb.LinkState_LINK_STATE_UP
}

// peerState by the states of the links.
func (c *Core) peerState(p *peer) guardpb.LinkState {
	var up, trouble, connecting int
	for i := range p.links {
		switch p.links[i].state {
		case guardpb.LinkState_LINK_STATE_UP:
			up++
		case guardpb.LinkState_LINK_STATE_TROUBLE:
			trouble++
		case guardpb.LinkState_LINK_STATE_CONNECTING:
			connecting++
		}
	}
	if c.now-p.since < c.inact && up+trouble > 0 {
		up += connecting // links that have just begun are not yet missed
		connecting = 0
	}
	switch {
	case up+trouble == 1 && len(p.links) > 1:
		if up == 0 {
			return guardpb.LinkState_LINK_STATE_TROUBLE
		}
		if c.now < p.backAt+graceBeats*c.heartbeat {
			return guardpb.LinkState_LINK_STATE_UP // the others may come right after it
		}
		return guardpb.LinkState_LINK_STATE_JEOPARDY
	case up > 0:
		return guardpb.LinkState_LINK_STATE_UP
	case trouble > 0:
		return guardpb.LinkState_LINK_STATE_TROUBLE
	case connecting > 0 && !p.everHeard:
		return guardpb.LinkState_LINK_STATE_CONNECTING
	}
	return guardpb.LinkState_LINK_STATE_DOWN
}

// deadline of p: when its silence changes something.
func (p *peer) deadline(c *Core, sooner func(time.Duration)) {
	after := func(t time.Duration) {
		if t = max(t, c.graceEnd); t > c.now {
			sooner(t)
		}
	}
	for i := range p.links {
		switch l := &p.links[i]; l.state {
		case guardpb.LinkState_LINK_STATE_UP:
			after(l.heardAt + c.trouble)
		case guardpb.LinkState_LINK_STATE_TROUBLE:
			after(l.heardAt + c.inact)
		case guardpb.LinkState_LINK_STATE_CONNECTING:
			after(p.since + c.inact)
		}
	}
	after(p.heardAt + c.inact)
	after(p.backAt + graceBeats*c.heartbeat)
	after(p.silenceEnd)
}

func (c *Core) peerTable() *guardpb.Peers {
	t := &guardpb.Peers{Seeded: c.seeded, Cold: c.cold, Conditions: c.conditions}
	if c.watchdog > 0 {
		t.Watchdog = durationpb.New(c.watchdog)
	}
	for _, p := range c.peers {
		if p == c.self {
			continue
		}
		s := &guardpb.PeerState{
			Node: p.node, State: p.state, Suspected: p.suspicion.raised,
			RaftId: p.info.RaftID, GuardIncarnation: p.info.Incarnation, Epoch: p.info.Epoch,
			Leader: p.info.Leader, EngineDown: p.info.EngineDown > 0, HoldsLease: p.info.HoldsLease,
		}
		for i := range p.links {
			s.Links = append(s.Links, p.links[i].state)
		}
		t.Peers = append(t.Peers, s)
	}
	return t
}
