package guard

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/timers"
)

// lease of this node.
type lease struct {
	state leaseState
	until time.Duration // while held: when it ends unless renewed
	// Numbers up to floor never count (L4, L7).
	floor uint64
	// Ends of leases that are held although nobody acknowledges them any more; 0: none.
	inherited time.Duration // from the guard before, by the view that it knew
	carried   time.Duration // from the view before (L8)
	extended  time.Duration // announced silence (L9)
	// Number of the newest announced silence that was used.
	extendNumber uint64
	reason       string // why it ended
	// Raft id that it was taken by; 0: none was taken by the present one.
	raftID uint64
}

// LeaseHeld says whether this node may act at now.
func (c *Core) LeaseHeld(now time.Duration) bool {
	return c.lease.state == leaseHeld && now < c.lease.until
}

// LeaseUntil is when the lease ends unless it is renewed; 0: not held.
func (c *Core) LeaseUntil() time.Duration {
	if c.lease.state != leaseHeld {
		return 0
	}
	return c.lease.until
}

// eligible says whether the newest acknowledgement of p counts (L1, L2).
func (c *Core) eligible(p *peer) bool {
	a := &p.newAck
	return p.raftID != 0 && p.incarnation != 0 && a.sequence != 0 &&
		a.incarnation == p.incarnation &&
		(a.raftID == p.raftID || a.raftID == 0) &&
		a.appended <= c.epoch &&
		!p.suspicion.raised
}

// count the newest acknowledgement of p, and say whether that made a difference.
func (c *Core) count(p *peer) bool {
	if !c.eligible(p) || p.newAck.sequence <= p.acked {
		return false
	}
	p.acked = p.newAck.sequence
	return true
}

// ownVoice says whether this node's own acknowledgement counts (L2).
func (c *Core) ownVoice() bool {
	return c.raftID != 0 && c.mayAck && c.appended <= c.epoch
}

// earned is the end of the lease by the acknowledgements that count; 0: none.
func (c *Core) earned() time.Duration { return c.earnedWith(c.witness.acked) }

// earnedWith that acknowledgement of the coordination points.
func (c *Core) earnedWith(points uint64) time.Duration {
	if c.raftID == 0 || c.voters == 0 {
		return 0
	}
	numbers := c.scratch[:0]
	for _, p := range c.peers {
		switch {
		case p.raftID == 0:
		case p != c.self:
			numbers = append(numbers, p.acked)
		case c.ownVoice():
			if c.voters == 1 {
				// No other view can exist without an entry in this node's own log.
				return c.now + timers.Lease(c.inact)
			}
			numbers = append(numbers, c.seq)
		default: // what it said while it had one stands, like a peer's acknowledgement
			numbers = append(numbers, c.ownAcked)
		}
	}
	if c.witness.raftID != 0 {
		numbers = append(numbers, points)
	}
	c.scratch = numbers
	need := c.voters/2 + 1
	if len(numbers) < need {
		return 0
	}
	slices.Sort(numbers)
	number := numbers[len(numbers)-need]
	sent, ok := c.sentTime(number)
	if !ok || number <= c.lease.floor {
		return 0
	}
	return sent + timers.Lease(c.inact) // L3
}

// renew sets the end of a lease that is held.
func (c *Core) renew() {
	if c.lease.state == leaseHeld {
		c.lease.until = max(c.earned(), c.lease.inherited, c.lease.carried, c.lease.extended)
	}
}

// updateLease takes, renews or ends the lease as the acknowledgements say.
func (c *Core) updateLease() {
	switch c.lease.state {
	case leaseHeld:
		c.renew()
		switch {
		case c.now >= c.engineAlive+c.downLimit:
			c.endLease(fmt.Sprintf("the engine has been down for %v", (c.now - c.engineAlive).Round(time.Millisecond)))
		case c.now >= c.lease.until:
			c.endLease(c.whyNoLease())
		}
	case leaseNone:
		if until := c.earned(); until > c.now && c.mayTake() {
			c.lease.state, c.lease.until, c.lease.reason, c.lease.raftID = leaseHeld, until, "", c.raftID
			c.takeUp()
			c.tellLease()
			c.soonest(until)
		}
	}
}

// mayTake says whether a lease may begin.
func (c *Core) mayTake() bool {
	return !c.bye.said && !c.stop.leaving && c.now < c.engineAlive+c.downLimit && c.conf != nil
}

// endLease begins the stop. Whatever arrives later renews nothing (L4).
func (c *Core) endLease(reason string) {
	if c.lease.state == leaseHeld {
		c.stop.quiet = !c.engineUp || c.stop.left
	}
	c.lease.state, c.lease.reason, c.stop.unconfirmed = leaseStopping, reason, true
	c.lease.until, c.lease.inherited, c.lease.carried, c.lease.extended = 0, 0, 0, 0
	c.saveDue = true
	if !c.stop.quiet {
		c.stop.quietBy = c.now + max(timers.Stop(c.inact), minQuiet)
	}
	c.tellLease()
	c.beginStop()
}

func (c *Core) tellLease() {
	c.toEngine(&guardpb.FromGuard{Body: &guardpb.FromGuard_Lease{Lease: c.leaseFrame()}})
}

func (c *Core) leaseFrame() *guardpb.Lease {
	return &guardpb.Lease{
		Held:    c.lease.state == leaseHeld,
		Stopped: c.lease.state == leaseNone && len(c.detached) == 0, Detached: c.lease.state == leaseNone && len(c.detached) > 0,
		Until:  durationpb.New(c.LeaseUntil()),
		Reason: c.lease.reason,
	}
}

// changeView re-evaluates the lease when another view is applied. Its arguments
// describe the one before: the voters with their raft ids, and the end that was earned by it.
func (c *Core) changeView(epoch uint64, voters map[string]uint64, earned time.Duration) {
	if c.epoch != epoch {
		c.lease.inherited, c.lease.carried = 0, 0
		if c.lease.state == leaseHeld && c.epoch == epoch+1 && c.differBy(voters) <= 1 {
			c.lease.carried = earned // L8
		}
	}
	for _, p := range c.peers {
		id, was := voters[p.node]
		if p == c.self {
			if !was || id != p.raftID {
				c.ownAcked = 0
			}
			continue
		}
		if !was || id != p.raftID {
			p.acked = 0
		}
		c.count(p)
	}
}

// differBy counts the voters by which the view differs from an older one.
func (c *Core) differBy(old map[string]uint64) int {
	n := 0
	for _, p := range c.peers {
		if p.raftID != 0 && old[p.node] != p.raftID {
			n++
		}
	}
	if c.witness.raftID != 0 && old[witnessName] != c.witness.raftID {
		n++
	}
	for node, id := range old {
		if node == witnessName {
			if c.witness.raftID != id {
				n++
			}
		} else if p := c.byName[node]; p == nil || p.raftID != id {
			n++
		}
	}
	return n
}

func (c *Core) voterIDs() map[string]uint64 {
	ids := make(map[string]uint64, c.voters)
	for _, p := range c.peers {
		if p.raftID != 0 {
			ids[p.node] = p.raftID
		}
	}
	if c.witness.raftID != 0 {
		ids[witnessName] = c.witness.raftID
	}
	return ids
}

// extend the lease for an announced silence (L9).
func (c *Core) extend(m *guardpb.Extend) error {
	since, length := m.GetSince().AsDuration(), m.GetLength().AsDuration()
	switch {
	case m.GetNumber() == 0 || length < 0 || length > maxTime || since < 0 || since > c.now:
		return fmt.Errorf("guard: silence %d of %v since %v: the number must not be 0, the length at most %v, and it can't begin after now (%v)", m.GetNumber(), length, since, maxTime, c.now)
	case c.lease.state != leaseHeld:
		return fmt.Errorf("guard: silence %d: this node holds no lease that could be extended: %s", m.GetNumber(), c.lease.reason)
	case m.GetNumber() < c.lease.extendNumber || m.GetNumber() == c.lease.extendNumber && since+length > c.lease.extended:
		return fmt.Errorf("guard: silence %d has been used already", m.GetNumber())
	}
	c.lease.extendNumber, c.lease.extended = m.GetNumber(), since+length
	c.saveDue = true
	c.updateLease()
	return nil
}

// whyNoLease says for people which voters are missing.
func (c *Core) whyNoLease() string {
	var missing []string
	for _, p := range c.peers {
		if p == c.self || p.raftID == 0 {
			continue
		}
		sent, ok := c.sentTime(p.acked)
		if ok && c.now-sent < timers.Lease(c.inact) {
			continue
		}
		why := "does not acknowledge"
		switch {
		case c.now-p.heardAt >= c.trouble:
			why = fmt.Sprintf("silent for %v", (c.now - p.heardAt).Round(time.Millisecond))
		case p.suspicion.raised:
			why = "suspected by this node"
		case p.newAck.sequence != 0 && p.newAck.appended > c.epoch:
			why = fmt.Sprintf("knows a newer view (%d, here %d)", p.newAck.appended, c.epoch)
		case p.incarnation != p.info.Incarnation:
			why = "its guard was started again"
		}
		missing = append(missing, p.node+" "+why)
	}
	if c.witness.raftID != 0 {
		if sent, ok := c.sentTime(c.witness.acked); !ok || c.now-sent >= timers.Lease(c.inact) {
			missing = append(missing, "the coordination points do not acknowledge")
		}
	}
	if !c.ownVoice() {
		why := "a newer view is in its own log"
		if !c.mayAck {
			why = "its guard is not committed yet"
		}
		missing = append(missing, c.cfg.Node+" (this node) has no voice: "+why)
	}
	return fmt.Sprintf("no quorum of voters acknowledged a heartbeat for %v: %s", timers.Lease(c.inact), strings.Join(missing, ", "))
}
