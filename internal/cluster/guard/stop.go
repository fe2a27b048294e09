package guard

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/timers"
)

// minQuiet is the least time that an engine has to become quiet.
const minQuiet = 2 * time.Second

// stopping is the way from the end of a lease to nothing running.
type stopping struct {
	underWay bool          // the driver is at it
	retryAt  time.Duration // after a failure; 0: no retry is due
	// The engine starts nothing before the next lease (Quiet, or it is dead). What it
	// started before is stopped by a stop that began after.
	quiet      bool
	quietBy    time.Duration // 0: it need not say anything
	beganQuiet bool          // the running stop began after quiet
	// Since the end of the lease no stop has been confirmed, or the newest one failed.
	unconfirmed bool
	// Groups that the running stop covers.
	covered []*guardpb.Protect

	leaving     bool   // this guard ends
	restart     bool   // and the machine is restarted
	left        bool   // the engine said that it has stopped all
	leavingCall uint64 // of the engine, to be answered
}

// goodbye of this node: nothing runs, and numbers up to sequence earn nothing (L7).
type goodbye struct {
	said          bool
	sequence      uint64
	raftID, stays uint64
	rounds        int
}

func (c *Core) beginStop() {
	c.stop.underWay, c.stop.retryAt, c.stop.beganQuiet = true, 0, c.stop.quiet
	c.stop.covered = slices.Clone(c.protected)
	c.out.Stop = &Stop{Reason: c.lease.reason, Within: timers.Stop(c.inact)}
	for _, p := range c.protected {
		c.out.Stop.Protected = append(c.out.Stop.Protected, proto.CloneOf(p))
	}
}

// Stopped answers Stop: everything has ended, or err says what may still run.
func (c *Core) Stopped(now time.Duration, took time.Duration, err error) {
	c.begin(now)
	if !c.stop.underWay {
		return
	}
	c.stop.underWay, c.stop.unconfirmed = false, err != nil
	if err != nil {
		c.out.Restart = c.stop.restart
		c.stop.retryAt = c.now + max(timers.Stop(c.inact), c.heartbeat)
		f := c.leaseFrame()
		f.Reason = fmt.Sprintf("%s; after %v not all is stopped: %v", c.lease.reason, took.Round(time.Millisecond), err)
		c.toEngine(&guardpb.FromGuard{Body: &guardpb.FromGuard_Lease{Lease: f}})
		c.soonest(c.stop.retryAt)
		return
	}
	// What was stopped is forgotten once nothing can be started any more. Until
	// then an engine that was held up may still do what it had decided: it is
	// stopped again and again.
	if c.stop.beganQuiet {
		c.protected = slices.DeleteFunc(c.protected, func(p *guardpb.Protect) bool { return slices.Contains(c.stop.covered, p) })
	} else {
		c.forgetProcessGroups()
		if len(c.protected) > 0 {
			c.stop.retryAt = c.now + c.heartbeat
			c.soonest(c.stop.retryAt)
		}
	}
	c.saveDue = true
	c.stop.covered = nil
	c.finishStop()
	c.soonest(c.nextBeat)
}

// forgetProcessGroups that were killed: their numbers may be used again by
// somebody else, unlike a control group's name.
func (c *Core) forgetProcessGroups() {
	for i, p := range c.protected {
		if slices.Contains(c.stop.covered, p) && len(p.GetProcessGroups()) > 0 {
			c.protected[i] = proto.CloneOf(p)
			c.protected[i].ProcessGroups = nil
		}
	}
}

// Harmless says whether this node may go on as it is: it holds its lease, or what it
// ran is confirmed to have stopped. A watchdog is fed only while it is (docs/fencing.md).
func (c *Core) Harmless(now time.Duration) bool {
	if c.lease.state == leaseHeld {
		return now < c.lease.until
	}
	return !c.stop.unconfirmed
}

// finishStop says goodbye once nothing runs and nothing can be started.
func (c *Core) finishStop() {
	s := &c.stop
	switch {
	case c.lease.state != leaseStopping || s.underWay:
	case s.quiet && !s.beganQuiet:
		c.beginStop()
	case s.retryAt != 0 && c.now < s.retryAt:
	case s.retryAt != 0, len(c.protected) > 0:
		c.beginStop()
	case s.quiet:
		c.lease.state = leaseNone
		c.sayGoodbye()
		c.tellLease()
	}
}

func (c *Core) sayGoodbye() {
	c.lease.floor = max(c.seq, 1)
	if len(c.detached) > 0 {
		return // L11
	}
	c.bye = goodbye{said: true, sequence: c.lease.floor, raftID: cmp.Or(c.lease.raftID, c.raftID, c.lastRaftID), stays: c.ownStays()}
	c.quick, c.nextBeat = quickRounds-1, c.now
	c.saveDue = true
	c.soonest(c.now)
}

// endGoodbye when the cluster has taken note of it: this incarnation stays, or
// there is a new one, or there is nobody else to take note.
func (c *Core) endGoodbye() {
	if c.bye.said && !c.stop.leaving && c.raftID != 0 && (c.raftID != c.bye.raftID || c.ownStays() > c.bye.stays || c.voters == 1) {
		c.bye = goodbye{}
		c.lease.floor = c.seq
	}
}

func (c *Core) ownStays() uint64 {
	if c.self == nil {
		return 0
	}
	return c.self.stays
}

// Shutdown ends this guard: it stops everything, says goodbye and asks for Exit.
func (c *Core) Shutdown(now time.Duration, reason string) {
	c.begin(now)
	c.leave(0, reason)
	c.settle()
	c.soonest(c.now)
}

// leave begins the end of this guard. An engine that asks for it starts nothing any more.
func (c *Core) leave(call uint64, reason string) {
	c.stop.leaving, c.saveDue = true, true
	if call != 0 {
		c.stop.leavingCall = call
	}
	switch {
	case c.lease.state == leaseHeld || c.lease.state == leaseNone && len(c.protected) > 0:
		c.endLease(reason)
	case c.lease.state == leaseNone && !c.bye.said:
		c.sayGoodbye()
	}
	c.finishLeaving()
}

// finishLeaving answers the engine once the goodbye was sent often enough.
func (c *Core) finishLeaving() {
	goesOn := len(c.detached) > 0 && c.lease.state == leaseNone
	if !c.stop.leaving || !c.bye.said && !goesOn {
		return
	}
	if c.bye.rounds < quickRounds && !goesOn {
		c.quick = max(c.quick, quickRounds-1-c.bye.rounds)
		return
	}
	if c.stop.leavingCall != 0 {
		c.done(c.stop.leavingCall, nil)
		c.stop.leavingCall = 0
	}
	c.out.Exit, c.out.Restart = true, c.stop.restart
}

// protect records what runs for a group, and refuses it without a lease: it is
// recorded all the same, and stopped, since it may run already.
// Protects says whether a group would be stopped at the end of the lease.
func (c *Core) Protects(group string) bool {
	return slices.ContainsFunc(c.protected, func(p *guardpb.Protect) bool { return p.GetGroup() == group })
}

func (c *Core) protect(m *guardpb.Protect) error {
	if m.GetGroup() == "" {
		return fmt.Errorf("guard: a protected group needs a name")
	}
	if c.protectDetached(m) {
		return fmt.Errorf("guard: group %s goes on without a lease, nothing of it may be started", m.GetGroup())
	}
	c.saveDue = true
	c.protected = slices.DeleteFunc(c.protected, func(p *guardpb.Protect) bool { return p.GetGroup() == m.GetGroup() })
	if m.GetGone() {
		return nil
	}
	c.protected = append(c.protected, proto.CloneOf(m))
	c.sortProtected()
	if c.lease.state == leaseHeld {
		return nil
	}
	if c.lease.state == leaseNone {
		c.endLease(fmt.Sprintf("group %s is to be started without a lease", m.GetGroup()))
	}
	return fmt.Errorf("guard: this node holds no lease, nothing of group %s may be started", m.GetGroup())
}
