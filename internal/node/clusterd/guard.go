//go:build linux

package clusterd

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/timers"
	"github.com/holdfast-ha/holdfast/internal/node/engine"
	"github.com/holdfast-ha/holdfast/internal/node/guardd"
)

const (
	// driverCall marks the numbers of calls that are the driver's; the others are the engine's.
	driverCall = 1 << 63

	guardRetryMin = 10 * time.Millisecond
	guardRetryMax = 250 * time.Millisecond
	guardQueue    = 1024
	leaseCheck    = 20 * time.Millisecond
	// Guard's word that the lease is over takes less than this to come, mostly.
	guardWordPause = time.Millisecond
	// Guard has so long to stop everything and say goodbye.
	endLimit = 15 * time.Second
)

// guardConn is the connection as guardclient has it.
type guardConn interface {
	Frames() <-chan *guardpb.FromGuard
	Err() error
	Send(*guardpb.ToGuard) error
	Close() error
}

// guardLink is one connection; frames for it are written by a goroutine of its own.
type guardLink struct {
	conn guardConn
	out  chan *guardpb.ToGuard
}

// guardSide is what the loop knows of guard.
type guardSide struct {
	link  *guardLink // nil: not connected
	calls uint64
	// What the driver's calls are about, by number.
	protecting map[uint64]string
	stats      map[uint64]chan *guardpb.Stats
	// What guard was told, by group: without guard it is for this process to stop.
	protected map[string]*guardpb.Protect

	// What guard leaves running without a lease; with a lease it is protected like everything else.
	detached []*guardpb.Protect

	welcome *guardpb.Welcome
	peers   *guardpb.Peers
	lease   *guardpb.Lease

	wake     time.Duration // when the lease or the end is looked at again, 0: not
	stop     stopping
	deadline time.Duration // of the end
}

// stopping is how far this process is with stopping everything itself (N4).
type stopping int

const (
	notStopping stopping = iota
	// The lease is over; calls that could start something are being ended.
	stopsStarts
	// Killing; what began meanwhile is killed again.
	kills
	allStopped
)

func (g *guardSide) init() {
	g.protecting, g.stats, g.protected = map[uint64]string{}, map[uint64]chan *guardpb.Stats{}, map[string]*guardpb.Protect{}
}

// send a frame, if there is a connection. A guard that does not read is as good as gone.
func (g *guardSide) send(f *guardpb.ToGuard) bool {
	if g.link == nil {
		return false
	}
	select {
	case g.link.out <- f:
		return true
	default:
		_ = g.link.conn.Close()
		return false
	}
}

func (g *guardSide) newCall() uint64 {
	g.calls++
	return driverCall | g.calls
}

// connectGuard connects again whenever the connection breaks.
func (n *node) connectGuard() {
	retry := guardRetryMin
	for {
		conn, err := n.dial()
		if err != nil {
			select {
			case <-time.After(retry):
			case <-n.done:
				return
			}
			retry = min(2*retry, guardRetryMax)
			continue
		}
		retry = guardRetryMin
		l := &guardLink{conn: conn, out: make(chan *guardpb.ToGuard, guardQueue)}
		gone := make(chan struct{})
		n.background(func() {
			for {
				select {
				case f := <-l.out:
					if conn.Send(f) != nil {
						return
					}
				case <-gone:
					return
				case <-n.done:
					_ = conn.Close()
					return
				}
			}
		})
		n.post(func() { n.guardUp(l) })
		for f := range conn.Frames() {
			n.post(func() { n.fromGuard(l, f) })
		}
		close(gone)
		_ = conn.Close()
		n.post(func() { n.guardDown(l, conn.Err()) })
		select {
		case <-n.done:
			return
		default:
		}
	}
}

func (n *node) guardUp(l *guardLink) {
	g := &n.guard
	g.link, g.wake = l, 0
	n.log.Info("guard is connected")
	n.step(engine.GuardConn{Up: true})
	n.guardKeys() // it may have been started while they were being changed
	n.askToEnd()
}

func (n *node) guardDown(l *guardLink, why error) {
	g := &n.guard
	if g.link != l {
		return
	}
	g.link, g.peers = nil, nil
	calls := g.protecting
	g.protecting = map[uint64]string{}
	if n.ending != "" && n.leaveCall != 0 {
		n.finished = true // guard has ended, as it was asked to
		return
	}
	if n.ending != "" && n.leavesCleanly() {
		n.finished = true
		return
	}
	n.log.Warn("guard is not connected", "error", why)
	n.step(engine.GuardConn{Up: false})
	for _, group := range calls {
		n.step(engine.Protected{Group: group, Err: "guard is not connected"})
	}
	for call, c := range g.stats {
		close(c)
		delete(g.stats, call)
	}
	g.stop = notStopping
	g.wake = n.now()
	n.notify()
}

func (n *node) fromGuard(l *guardLink, f *guardpb.FromGuard) {
	g := &n.guard
	if g.link != l {
		return
	}
	switch b := f.GetBody().(type) {
	case *guardpb.FromGuard_Welcome:
		g.welcome, g.detached = b.Welcome, b.Welcome.GetDetached()
		for _, p := range b.Welcome.GetProtected() {
			if g.protected[p.GetGroup()] == nil {
				g.protected[p.GetGroup()] = p
			}
		}
		n.notify()
	case *guardpb.FromGuard_Peers:
		n.links(g.peers, b.Peers)
		g.peers = b.Peers
		n.notify()
	case *guardpb.FromGuard_Lease:
		if b.Lease.GetHeld() != g.lease.GetHeld() || b.Lease.GetReason() != "" {
			n.logLease(b.Lease)
		}
		g.lease = b.Lease
		if g.lease.GetHeld() {
			for _, p := range g.detached {
				if g.protected[p.GetGroup()] == nil {
					g.protected[p.GetGroup()] = p
				}
			}
			g.detached = nil
		}
		n.notify()
	case *guardpb.FromGuard_Stats:
		if c := g.stats[b.Stats.GetCall()]; c != nil {
			delete(g.stats, b.Stats.GetCall())
			c <- b.Stats
		}
		return
	case *guardpb.FromGuard_Done:
		if b.Done.GetCall()&driverCall != 0 {
			n.guardAnswered(b.Done)
			return
		}
	}
	n.step(engine.FromGuard{Frame: f})
}

func (n *node) logLease(l *guardpb.Lease) {
	epoch := n.epoch()
	switch {
	case l.GetHeld():
		n.log.Info("this node holds its lease", "epoch", epoch)
	case l.GetStopped():
		n.log.Warn("this node's lease is over, everything is stopped", "epoch", epoch, "reason", l.GetReason())
	default:
		n.log.Warn("this node's lease is over", "epoch", epoch, "reason", l.GetReason())
	}
}

func (n *node) guardAnswered(d *guardpb.Done) {
	if d.GetCall() == n.leaveCall {
		n.finished = true
		return
	}
	if n.guardHasKeys(d) {
		return
	}
	if group, ok := n.guard.protecting[d.GetCall()]; ok {
		delete(n.guard.protecting, d.GetCall())
		n.step(engine.Protected{Group: group, Err: d.GetError()})
	}
}

// protect tells guard what it would have to stop of a group. asked: the engine
// waits for the answer.
func (n *node) protect(group string, asked bool) {
	if n.engine == nil || n.ending != "" {
		return
	}
	cfg := n.engine.State().GetGroups()[group]
	if cfg == nil {
		cfg = n.groups[group]
	}
	if cfg == nil {
		cfg = &v1.Group{Name: group}
	}
	cfg = proto.CloneOf(cfg) // the state goes on changing
	n.groups[group] = cfg
	// It looks through processes: not in the loop.
	n.background(func() {
		p, err := n.host.Protect(cfg)
		n.post(func() { n.protectFound(group, p, err, asked) })
	})
}

func (n *node) protectFound(group string, p *guardpb.Protect, err error, asked bool) {
	g := &n.guard
	f := &guardpb.ToGuard{Body: &guardpb.ToGuard_Protect{Protect: p}}
	if asked {
		f.Call = g.newCall()
	}
	switch {
	case err != nil:
		n.log.Error("what a group runs can't be found out", "group", group, "error", err)
	case !g.send(f):
		err = errors.New("guard is not connected")
	default:
		g.protected[group] = p
		if asked {
			g.protecting[f.Call] = group
		}
		return
	}
	if asked {
		n.step(engine.Protected{Group: group, Err: err.Error()})
	}
}

func (n *node) unprotect(group string) {
	n.guard.send(&guardpb.ToGuard{Body: &guardpb.ToGuard_Protect{Protect: &guardpb.Protect{Group: group, Gone: true}}})
	delete(n.guard.protected, group)
	delete(n.groups, group)
	n.background(func() { n.host.Release(group) })
}

// guardTick looks after a node without guard (N4), and after its end.
func (n *node) guardTick() {
	g := &n.guard
	if g.wake == 0 || n.now() < g.wake {
		return
	}
	g.wake = 0
	if n.ending != "" && g.deadline != 0 && n.now() >= g.deadline {
		n.log.Error("guard does not answer")
		n.finished = true
		return
	}
	if g.link == nil && g.stop == notStopping {
		until, err := n.leaseOf()
		switch {
		case err != nil:
			n.log.Error("the end of the lease is not known; it counts as over", "error", err)
			fallthrough
		case n.now() >= until:
			n.stopWithoutGuard()
		default:
			g.wake = min(until, n.now()+leaseCheck)
		}
	}
	if g.deadline != 0 && (g.wake == 0 || g.deadline < g.wake) {
		g.wake = g.deadline
	}
}

const guardlessReason = "guard is gone and the lease that it left has ended"

// stopWithoutGuard is N4: first nothing more may be started.
func (n *node) stopWithoutGuard() {
	g := &n.guard
	if len(g.protected) == 0 && len(n.starting) == 0 {
		g.stop = allStopped
		return
	}
	n.log.Error("everything that runs here is being stopped", "epoch", n.epoch(), "reason", guardlessReason)
	g.stop = stopsStarts
	n.step(engine.FromGuard{Frame: &guardpb.FromGuard{Body: &guardpb.FromGuard_Lease{Lease: &guardpb.Lease{Reason: guardlessReason}}}})
	n.kill()
}

// kill does not wait for calls that are being ended: what they have started is
// killed again when they have.
func (n *node) kill() {
	g := &n.guard
	var what []*guardpb.Protect
	for _, p := range g.protected {
		what = append(what, p)
	}
	again := len(n.starting) > 0
	if !again {
		g.stop = kills
	}
	within := timers.Stop(n.peerinact())
	n.background(func() {
		err := n.stopAll(what, within)
		n.post(func() { n.killed(err, again) })
	})
}

// startsEnded goes on with the stop once no call can start anything any more.
func (n *node) startsEnded() {
	if n.guard.stop == stopsStarts && len(n.starting) == 0 {
		n.kill()
	}
}

func (n *node) killed(err error, again bool) {
	g := &n.guard
	if err != nil {
		n.log.Error("not everything has stopped", "error", err)
		if g.link == nil {
			n.background(func() {
				select {
				case <-time.After(leaseCheck):
					n.post(n.kill)
				case <-n.done:
				}
			})
		}
		return
	}
	if again || g.stop != kills || g.link != nil {
		return
	}
	g.stop = allStopped
	n.log.Warn("everything is stopped", "epoch", n.epoch(), "reason", guardlessReason)
	n.step(engine.FromGuard{Frame: &guardpb.FromGuard{Body: &guardpb.FromGuard_Lease{Lease: &guardpb.Lease{
		Reason: guardlessReason, Stopped: true, Until: durationpb.New(0),
	}}}})
}

func (n *node) peerinact() time.Duration {
	var t *v1.Timers
	if n.engine != nil {
		t = n.engine.State().GetCluster().GetTimers()
	}
	_, _, peerinact := timers.Effective(t)
	return peerinact
}

func (n *node) epoch() uint64 {
	if n.engine == nil {
		return 0
	}
	return n.engine.State().GetView().GetEpoch()
}

// exit: the engine has ended. After a clean leave guard ends by itself, and
// this process with it.
func (n *node) exit(why string, left bool) {
	switch {
	case n.ending != "":
	case left:
		n.ending = why
		n.log.Info(why, "epoch", n.epoch())
		n.guard.deadline = n.now() + endLimit
		n.guard.wake = n.guard.deadline
		if n.guard.link == nil {
			n.finished = true
		}
	default:
		n.giveUp(why)
	}
}

// giveUp is N5.
func (n *node) giveUp(why string) {
	if n.ending != "" {
		return
	}
	n.ending, n.givenUp = why, true
	n.log.Error("this node can't go on: it stops its groups and ends; start it again when the cause is removed", "epoch", n.epoch(), "reason", why)
	n.guard.deadline = n.now() + endLimit
	n.guard.wake = n.guard.deadline
	if n.guard.link == nil {
		n.guard.wake = n.now()
	}
	n.failRequests()
	closed := make(chan struct{})
	n.background(func() {
		if n.host != nil {
			n.host.Close() // guard must not be told that nothing starts any more before that is so
		}
		close(closed)
	})
	n.background(func() {
		select {
		case <-closed:
		case <-time.After(5 * time.Second):
		case <-n.done:
			return
		}
		n.post(func() {
			n.mayEnd = true
			n.askToEnd()
		})
	})
}

func (n *node) askToEnd() {
	g := &n.guard
	if g.link == nil || !n.givenUp || !n.mayEnd {
		return
	}
	call := g.newCall()
	if g.send(&guardpb.ToGuard{Call: call, Body: &guardpb.ToGuard_Leaving{Leaving: &guardpb.Leaving{Reason: n.ending}}}) {
		n.leaveCall = call
	}
}

// stopAll as guard would do it.
func stopAll(log *slog.Logger) func([]*guardpb.Protect, time.Duration) error {
	return func(what []*guardpb.Protect, within time.Duration) error {
		return guardd.StopProtected(log, what, within)
	}
}

// outcome of the loop.
func (n *node) outcome() error {
	if n.life.wiping {
		return n.wiped()
	}
	if n.givenUp {
		return fmt.Errorf("clusterd: %w: %s", ErrGivenUp, n.ending)
	}
	return nil
}
