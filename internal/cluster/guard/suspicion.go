package guard

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
	"github.com/holdfast-ha/holdfast/internal/cluster/timers"
)

// suspicion of a peer. While raised the peer is not acknowledged (L5).
type suspicion struct {
	raised bool
	// Of the suspected, by the view at the time.
	raftID, stays uint64
	reason        string
	goodbye       uint64 // number of its goodbye, 0: none
	byGoodbye     bool   // its heartbeats go on
	heardAgain    bool   // told the engine so
}

// watchSilence suspects p when it has been silent for too long (H3).
func (c *Core) watchSilence(p *peer) {
	q := &p.suspicion
	if q.raised {
		if q.heardAgain && p.down {
			q.heardAgain = false // silent once more: the statement stands
			c.state(p)
		}
		return
	}
	if !p.down || p.raftID == 0 || c.raftID == 0 || c.now < p.silenceEnd {
		return
	}
	on := "its link"
	switch n := len(p.links); {
	case n == 2:
		on = "both links"
	case n > 2:
		on = fmt.Sprintf("all %d links", n)
	}
	c.suspect(p, suspicion{reason: fmt.Sprintf("silent on %s for %v", on, (c.now - p.heardAt).Round(time.Millisecond))})
}

// heardGoodbye takes what a heartbeat that says stopped proves.
func (c *Core) heardGoodbye(p *peer, hb *Heartbeat) {
	g := hb.Goodbye
	q := &p.suspicion
	switch {
	case g.Sequence == 0 || g.RaftID == 0:
		return
	case p.bye != stamp{hb.Incarnation, g.Sequence}:
		p.bye, p.byeAt = stamp{hb.Incarnation, g.Sequence}, c.now
	}
	switch {
	case p.young.incarnation > hb.Incarnation, p.young.incarnation == hb.Incarnation && p.young.sequence > g.Sequence:
		// This node acknowledged later numbers: it is not the goodbye that it seems (L7).
	case q.raised && q.raftID == g.RaftID && q.stays <= g.Stays:
		if q.goodbye == 0 {
			q.goodbye, q.reason = g.Sequence, q.reason+"; then its guard said goodbye"
			q.byGoodbye, q.heardAgain = true, false // a new word: that it is heard again is said after it
			c.acknowledgedUpTo(p, hb)
			c.saveDue = true
			c.state(p)
		}
	case !q.raised && p.raftID == g.RaftID && p.stays <= g.Stays && c.raftID != 0:
		c.acknowledgedUpTo(p, hb)
		c.suspect(p, suspicion{reason: "its guard said goodbye", goodbye: g.Sequence, byGoodbye: true})
	}
}

// acknowledgedUpTo bounds what this node, or the guard before this one, may have
// acknowledged of the incarnation that says goodbye: not a number above it.
func (c *Core) acknowledgedUpTo(p *peer, hb *Heartbeat) {
	if p.young.incarnation != hb.Incarnation {
		p.young = stamp{hb.Incarnation, hb.Goodbye.Sequence}
	}
}

func (c *Core) suspect(p *peer, q suspicion) {
	q.raised, q.raftID, q.stays = true, p.raftID, p.stays
	p.suspicion = q
	c.saveDue, c.peersDirty = true, true
	c.state(p)
}

// state sends this node's word about p to the engine. It is the word of the
// incarnation that raised the suspicion: with another one it ends (newIdentity), and must
// not be taken for what that one has stated.
func (c *Core) state(p *peer) {
	q := &p.suspicion
	c.toEngine(&guardpb.FromGuard{Body: &guardpb.FromGuard_Suspect{Suspect: &guardpb.Suspect{
		Reason: q.reason,
		Statement: &statepb.Statement{
			Voter: c.cfg.Node, VoterRaftId: c.identity, VoterGuardIncarnation: c.cfg.Incarnation,
			About: p.node, AboutRaftId: q.raftID, Stays: q.stays,
			Age:              durationpb.New(c.age(p)),
			YoungestSequence: p.young.sequence, AboutGuardIncarnation: p.young.incarnation,
			GoodbyeSequence: q.goodbye,
		},
	}}})
}

// age of the youngest heartbeat of p that this node may have acknowledged (L6).
// An announced silence counts like a heartbeat whose lease ends with it.
func (c *Core) age(p *peer) time.Duration {
	at := p.youngAt
	if p.silenceEnd != 0 {
		at = max(at, p.silenceEnd-timers.Lease(c.inact))
	}
	return max(c.now-at, 0)
}

// heardSuspect tells the engine that a suspected peer is alive. After a goodbye
// nothing runs there any more, and evicting it is the quickest way to start its groups
// elsewhere: the engine hears of its heartbeats only when it is still a voter after peerinact.
func (c *Core) heardSuspect(p *peer) {
	q := &p.suspicion
	if !q.raised || q.heardAgain || !c.engineUp || p.raftID != q.raftID || q.byGoodbye && c.now-p.byeAt < c.inact {
		return
	}
	q.heardAgain = true
	c.toEngine(&guardpb.FromGuard{Body: &guardpb.FromGuard_HeardAgain{HeardAgain: &guardpb.HeardAgain{Node: p.node, RaftId: q.raftID}}})
}

// endSuspicion lets p count as just heard and acknowledged.
func (c *Core) endSuspicion(p *peer) {
	p.suspicion = suspicion{}
	p.heardAt, p.youngAt, p.down = c.now, c.now, false
	c.saveDue, c.peersDirty = true, true
}
