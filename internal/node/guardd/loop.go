//go:build linux

package guardd

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	holdfastv1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/guard"
	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/link"
	"github.com/holdfast-ha/holdfast/internal/cluster/timers"
)

const (
	// rebindEvery is how often a link whose address is not there is tried again.
	rebindEvery = 250 * time.Millisecond
	// burst bounds how many packets of one link are taken before other things are looked at.
	burst = 512

	timerToken = -1
	inboxToken = -2
)

// loop owns the core.
type loop struct {
	o          Options
	log        *slog.Logger
	core       *guard.Core
	page       *leasePage
	epoll      int
	epollFile  *os.File // owns epoll once the loop runs
	timer      int
	event      int
	links      []*linkSocket
	sealer     *guard.Sealer
	opener     *guard.Opener
	peers      map[string]*destination
	supervisor *supervisor
	engines    *engineServer
	stopper    *stopper
	feeder     *feeder // nil: no watchdog was asked for

	mu    sync.Mutex
	inbox []func(now time.Duration)

	packet    []byte
	sealed    []byte
	due       time.Duration // of the next Tick
	armed     time.Duration // what the timer is set to; -1: it has fired
	rebindAt  time.Duration // 0: all links are bound
	standing  []string      // conditions that do not change
	exit      bool
	fatal     error
	saveError string
	dogSays   string // condition of the watchdog
	detached  bool   // the state directory has, or may have, a file of what was left running
}

// destination of heartbeats to a peer, by link.
type destination struct {
	configured []string
	addresses  [guard.MaxLinks]rawAddr
	resolved   [guard.MaxLinks]netip.AddrPort
}

func newLoop(o Options, cfg guard.Config, page *leasePage, conditions []string, f *feeder) (*loop, error) {
	l := &loop{
		o: o, log: o.Log, page: page, epoll: -1, timer: -1, event: -1,
		peers: map[string]*destination{}, standing: conditions,
		packet: make([]byte, guard.ReceiveBuffer), sealed: make([]byte, 0, guard.ReceiveBuffer),
		feeder: f,
	}
	if err := l.open(); err != nil {
		l.close()
		return nil, err
	}
	l.core, l.detached = guard.New(now(), cfg), true // until it is known that there is none
	l.bindOwn(o.Identity.Links)
	if c := l.core.Configured(); c != nil {
		l.configured(c)
	}
	return l, nil
}

func (l *loop) open() (err error) {
	salt, err := newSalt()
	if err != nil {
		return fmt.Errorf("guardd: %w", err)
	}
	id := l.o.Identity
	if l.sealer, err = guard.NewSealer(id.Secret, id.ClusterUUID, id.Node, salt); err != nil {
		return err
	}
	if l.opener, err = guard.NewOpener(id.ClusterUUID, id.Node, append([][]byte{id.Secret}, id.Accept...)...); err != nil {
		return err
	}
	if l.stopper, err = newStopper(l.log); err != nil {
		return err
	}
	if l.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("guardd: epoll: %w", err)
	}
	if l.timer, err = unix.TimerfdCreate(unix.CLOCK_BOOTTIME, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC); err != nil {
		return fmt.Errorf("guardd: timerfd: %w", err)
	}
	if l.event, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
		return fmt.Errorf("guardd: eventfd: %w", err)
	}
	if err := errors.Join(l.watch(l.timer, timerToken), l.watch(l.event, inboxToken)); err != nil {
		return err
	}
	l.supervisor = newSupervisor(l.o.Engine, l.o.RunDir, l.log)
	if l.engines, err = newEngineServer(l, socketPath(l.o.RunDir)); err != nil {
		return err
	}
	return nil
}

func (l *loop) watch(fd int, token int32) error {
	e := unix.EpollEvent{Events: unix.EPOLLIN, Fd: token}
	if err := unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, fd, &e); err != nil {
		return fmt.Errorf("guardd: epoll: %w", err)
	}
	return nil
}

func (l *loop) close() {
	l.feeder.end(false)
	if l.engines != nil {
		l.engines.close()
	}
	for _, s := range l.links {
		l.unbind(s)
	}
	for _, fd := range []int{l.timer, l.event} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	if l.epollFile != nil {
		l.epollFile.Close()
	} else if l.epoll >= 0 {
		unix.Close(l.epoll)
	}
	l.page.close()
	if l.stopper != nil {
		l.stopper.close()
	}
}

// post has f run by the loop.
func (l *loop) post(f func(now time.Duration)) {
	l.mu.Lock()
	first := len(l.inbox) == 0
	l.inbox = append(l.inbox, f)
	l.mu.Unlock()
	if first {
		one := [8]byte{1}
		_, _ = unix.Write(l.event, one[:])
	}
}

func (l *loop) takeInbox() []func(time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	in := l.inbox
	l.inbox = nil
	return in
}

// run until the core says exit.
func (l *loop) run() error {
	wait, err := l.waiter()
	if err != nil {
		return err
	}
	l.supervisor.start()
	l.engines.start()
	l.carryOut()
	var drain [8]byte
	for !l.exit && l.fatal == nil {
		events, err := wait()
		if err != nil {
			return err
		}
		for _, e := range events {
			switch e.Fd {
			case timerToken:
				_, _ = unix.Read(l.timer, drain[:])
				l.armed = -1
			case inboxToken:
				_, _ = unix.Read(l.event, drain[:])
			default:
				l.readLink(int(e.Fd), e.Events)
			}
		}
		for _, f := range l.takeInbox() {
			f(now())
		}
		t := now()
		if l.rebindAt != 0 && t >= l.rebindAt {
			l.rebind(t)
		}
		if t >= l.due {
			l.core.Tick(t)
		}
		l.carryOut()
	}
	return l.fatal
}

// waiter returns a function that waits until something happens. It parks the
// goroutine in the runtime's poller, which watches the epoll descriptor in its turn: a
// blocking epoll_wait would keep the runtime's monitor thread awake, at twenty
// times the cost of everything else that guard does when nothing happens.
func (l *loop) waiter() (func() ([]unix.EpollEvent, error), error) {
	if err := unix.SetNonblock(l.epoll, true); err != nil {
		return nil, fmt.Errorf("guardd: epoll: %w", err)
	}
	f := os.NewFile(uintptr(l.epoll), "epoll")
	conn, err := f.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("guardd: epoll: %w", err)
	}
	l.epollFile = f
	var events [16]unix.EpollEvent
	var n int
	var failed error
	look := func(fd uintptr) bool {
		n, failed = unix.EpollWait(int(fd), events[:], 0)
		return n > 0 || failed != nil && failed != unix.EINTR
	}
	return func() ([]unix.EpollEvent, error) {
		if err := conn.Read(look); err != nil || failed != nil {
			return nil, fmt.Errorf("guardd: epoll: %w", errors.Join(err, failed))
		}
		return events[:n], nil
	}, nil
}

// readLink takes what has arrived on a link.
func (l *loop) readLink(link int, events uint32) {
	if link >= len(l.links) || l.links[link].fd < 0 {
		return
	}
	s := l.links[link]
	if events&unix.EPOLLERR != 0 {
		s.refusals(func(to netip.AddrPort) { l.refused(link, to) })
	}
	for range burst {
		n, errno := s.receive(l.packet)
		if errno == unix.EAGAIN {
			return
		}
		if errno != 0 {
			continue // an error of a packet that was sent: it is taken with this call
		}
		if n > len(l.packet) {
			l.core.Dropped(link, "", guard.DropMalformed)
			continue
		}
		from, hb, err := l.opener.Open(link, l.packet[:n])
		if err != nil {
			l.core.Dropped(link, from, guard.Reason(err))
			continue
		}
		l.core.Receive(now(), link, from, *hb)
	}
}

func (l *loop) refused(link int, to netip.AddrPort) {
	for node, d := range l.peers {
		if d.resolved[link] == to {
			l.core.Refused(now(), link, node)
			return
		}
	}
}

// carryOut what the core asks for, in its order (D2).
func (l *loop) carryOut() {
	out := l.core.Take()
	if out.Save != nil {
		l.save(out.Save)
	}
	l.page.set(l.core.LeaseUntil())
	for _, f := range out.Engine {
		l.tell(f) // never waits; the engine should know why things end before it sees them end
	}
	if out.Stop != nil {
		l.stop(out.Stop)
	}
	if out.KillEngine != "" {
		l.log.Error("clusterd is killed", "reason", out.KillEngine)
		l.engines.kill()
	}
	for i := range out.Send {
		l.send(&out.Send[i])
	}
	if out.Restart {
		l.restart(out.Exit)
	}
	if out.Exit {
		l.exit = true
	}
	if l.feeder != nil {
		t := now()
		l.feeder.feed(t, l.core.Harmless(t))
		l.tellWatchdog(t)
	}
	l.setTimer(out.Wake)
}

// tellWatchdog passes on what has changed of it; it goes out with the next step.
func (l *loop) tellWatchdog(t time.Duration) {
	l.core.Watchdog(t, l.feeder.told())
	if c := l.feeder.condition(); c != l.dogSays {
		l.dogSays = c
		l.conditions()
	}
}

// restart the machine, if this guard may. stopped: nothing runs here any more.
func (l *loop) restart(stopped bool) {
	if !l.o.MayRestart {
		if stopped {
			l.log.Warn("this machine should be restarted (fail-fast), and this guard may not do that (--allow-restart): the node leaves the cluster until it is started again")
		}
		return
	}
	l.log.Error("this machine is restarted: fail-fast", "stopped", stopped)
	if err := l.o.restart(); err != nil {
		l.log.Error("this machine can't be restarted; the node leaves the cluster until it is started again", "error", err)
	}
}

func (l *loop) save(s *guard.Saved) {
	err := errors.Join(l.saveDetached(s), saveState(l.o.RunDir, s))
	text := ""
	if err != nil {
		// Going on is right: what is lost is a quick restart of guard, not safety.
		text = fmt.Sprintf("guard can't keep its state: %v; a restart of guard would stop what runs here", err)
		l.log.Error(text)
	}
	if text != l.saveError {
		l.saveError = text
		l.conditions()
	}
}

func (l *loop) stop(s *guard.Stop) {
	l.log.Warn("stopping everything", "reason", s.Reason, "groups", len(s.Protected))
	go func() {
		begin := now()
		err := l.stopper.stop(s)
		took := now() - begin
		if err != nil {
			l.log.Error("not everything has stopped", "took", took, "error", err)
		} else {
			l.log.Warn("everything is stopped", "took", took)
		}
		l.post(func(now time.Duration) { l.core.Stopped(now, took, err) })
	}()
}

// saveDetached when that has changed, before anything relies on it.
func (l *loop) saveDetached(s *guard.Saved) error {
	if len(s.GetDetached()) == 0 && !l.detached {
		return nil
	}
	l.detached = true // also after an error: it is tried again
	err := saveDetached(l.o.StateDir, s)
	if err == nil {
		l.detached = len(s.GetDetached()) > 0
	}
	return err
}

// tell the engine, and the log what is worth it.
func (l *loop) tell(f *guardpb.FromGuard) {
	switch b := f.Body.(type) {
	case *guardpb.FromGuard_Lease:
		l.log.Info("lease", "held", b.Lease.Held, "stopped", b.Lease.Stopped, "reason", b.Lease.Reason)
	case *guardpb.FromGuard_Suspect:
		l.log.Warn("suspected", "node", b.Suspect.Statement.About, "reason", b.Suspect.Reason, "acknowledged_ago", b.Suspect.Statement.Age.AsDuration())
	case *guardpb.FromGuard_HeardAgain:
		l.log.Info("heard again", "node", b.HeardAgain.Node)
	}
	l.engines.send(f)
}

func (l *loop) send(s *guard.Send) {
	d := l.peers[s.To]
	if d == nil || s.Link >= len(l.links) || l.links[s.Link].fd < 0 || d.addresses[s.Link].size == 0 {
		l.core.SendFailed(s.Link, s.To)
		return
	}
	link := l.links[s.Link]
	l.sealed = l.sealer.Seal(l.sealed[:0], s.Link, s.Index, s.To, &s.Heartbeat)
	e := link.send(l.sealed, &d.addresses[s.Link])
	for range 3 {
		if e != unix.ECONNREFUSED && e != unix.EHOSTUNREACH {
			break
		}
		// It tells of an earlier packet, perhaps to somebody else, and is gone now.
		e = link.send(l.sealed, &d.addresses[s.Link])
	}
	if e != 0 {
		l.core.SendFailed(s.Link, s.To)
	}
}

func (l *loop) setTimer(wake time.Duration) {
	l.due = wake
	if l.rebindAt != 0 {
		wake = min(wake, l.rebindAt)
	}
	if wake == l.armed {
		return
	}
	l.armed = wake
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(max(int64(wake), 1))}
	if err := unix.TimerfdSettime(l.timer, unix.TFD_TIMER_ABSTIME, &spec, nil); err != nil {
		l.fatal = fmt.Errorf("guardd: timer: %w", err)
	}
}

// configured takes addresses from a configuration that the core has accepted.
func (l *loop) configured(c *guardpb.Configure) {
	peers := make(map[string]*destination, len(c.GetPeers()))
	for _, p := range c.GetPeers() {
		if p.GetNode() == l.o.Identity.Node {
			if len(p.GetAddresses()) > 0 {
				l.bindOwn(p.GetAddresses())
			}
			continue
		}
		if d := l.peers[p.GetNode()]; d != nil && slices.Equal(d.configured, p.GetAddresses()) {
			peers[p.GetNode()] = d
			continue
		}
		d := &destination{configured: p.GetAddresses()}
		for i, a := range p.GetAddresses() {
			if i >= guard.MaxLinks || a == "" {
				continue
			}
			ap, err := link.Parse(a)
			if err == nil {
				d.resolved[i] = netip.AddrPortFrom(ap.Addr().WithZone(""), ap.Port())
				d.addresses[i], err = makeRawAddr(ap)
			}
			if err != nil {
				l.log.Error("a peer's link can't be used", "node", p.GetNode(), "link", i, "error", err)
			}
		}
		peers[p.GetNode()] = d
	}
	l.peers = peers
	_, _, peerinact := timers.Effective(&holdfastv1.Timers{Peerinact: c.GetPeerinact()})
	l.feeder.configured(now(), peerinact, c.GetWatchdog().AsDuration())
}

// bindOwn makes these the own ends of the links. Links that stay are not touched.
func (l *loop) bindOwn(addresses []string) {
	if len(addresses) > guard.MaxLinks {
		addresses = addresses[:guard.MaxLinks]
	}
	addresses = slices.Clone(addresses)
	for i, a := range addresses {
		if ap, err := link.Parse(a); err == nil {
			addresses[i] = ap.String() // with the port, however it was written
		}
	}
	for i, s := range l.links {
		if i >= len(addresses) || s.address != addresses[i] {
			l.unbind(s)
		}
	}
	l.links = l.links[:min(len(l.links), len(addresses))]
	for i, a := range addresses {
		if i == len(l.links) {
			l.links = append(l.links, &linkSocket{address: a, fd: -1})
		} else if l.links[i].address != a {
			l.links[i] = &linkSocket{address: a, fd: -1}
		}
	}
	l.rebind(now())
}

func (l *loop) unbind(s *linkSocket) {
	if s.fd >= 0 {
		unix.Close(s.fd) // this also takes it out of epoll
		s.fd = -1
	}
}

// rebind tries the links that are not bound.
func (l *loop) rebind(t time.Duration) {
	l.rebindAt = 0
	for i, s := range l.links {
		if s.fd >= 0 {
			continue
		}
		fd, err := openLink(s.address)
		if err == nil {
			if err = l.watch(fd, int32(i)); err != nil {
				unix.Close(fd)
			}
		}
		if err != nil {
			s.problem = fmt.Sprintf("link %d: the own address %s can't be bound: %v; it is tried again", i, s.address, err)
			l.rebindAt = t + rebindEvery
			continue
		}
		s.fd, s.problem = fd, ""
		l.log.Info("link bound", "link", i, "address", s.address)
	}
	l.conditions()
}

// conditions for people, as they are now.
func (l *loop) conditions() {
	all := slices.Clone(l.standing)
	for _, s := range l.links {
		if s.problem != "" {
			all = append(all, s.problem)
		}
	}
	if l.saveError != "" {
		all = append(all, l.saveError)
	}
	if l.dogSays != "" {
		all = append(all, l.dogSays)
	}
	l.core.Conditions(now(), all)
}
