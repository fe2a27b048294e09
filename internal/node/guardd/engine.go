//go:build linux

package guardd

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
	"github.com/holdfast-ha/holdfast/internal/node/guardclient"
	"github.com/holdfast-ha/holdfast/internal/wire"
)

const (
	// An engine whose connection has broken has so long to end or to connect again
	// before it is killed (D3).
	engineGrace = 2 * time.Second
	// Frames that wait for the engine; an engine that falls further behind is disconnected.
	engineQueue = 1024
	// engineWrite: an engine that takes nothing for so long is disconnected.
	engineWrite = 10 * time.Second
)

// engineServer is guard's end of guard.sock. At most one engine is connected.
type engineServer struct {
	l        *loop
	listener *net.UnixListener

	mu      sync.Mutex
	current *engineConn
	ended   bool
}

// engineConn is one connection of an engine.
type engineConn struct {
	c   *net.UnixConn
	pid int
	// pidfd of the process, -1 if it is already gone.
	pidfd int
	out   chan *guardpb.FromGuard
	last  chan struct{} // closed when nothing more will come into out
	gone  chan struct{} // closed when the connection has broken
	once  sync.Once
}

func newEngineServer(l *loop, path string) (*engineServer, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("guardd: %w", err)
	}
	old := unix.Umask(0o177)
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	unix.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("guardd: %w", err)
	}
	return &engineServer{l: l, listener: listener}, nil
}

func (s *engineServer) start() { go s.accept() }

// close tells the engine what there is still to tell, and nothing after that.
// It returns a pidfd of the engine's process, -1 if there is none.
func (s *engineServer) close() (pidfd int) {
	s.mu.Lock()
	e, ended := s.current, s.ended
	s.ended = true
	s.mu.Unlock()
	if ended {
		return -1
	}
	s.listener.Close()
	if e == nil {
		return -1
	}
	close(e.last)
	select {
	case <-e.gone:
	case <-time.After(time.Second):
		e.close()
	}
	fd, err := unix.PidfdOpen(e.pid, 0)
	if err != nil || !e.alive() {
		return -1
	}
	return fd
}

func (s *engineServer) accept() {
	for {
		c, err := s.listener.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			s.l.log.Error("guard.sock", "error", err)
			time.Sleep(100 * time.Millisecond)
			continue
		}
		e, err := admit(c)
		if err == nil {
			err = s.take(e)
		}
		if err != nil {
			s.l.log.Warn("a connection to guard.sock was refused", "error", err)
			c.Close()
		}
	}
}

// admit checks who connects: root, or guard's own user.
func admit(c *net.UnixConn) (*engineConn, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	var cerr error
	if err := raw.Control(func(fd uintptr) { cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil || cerr != nil {
		return nil, errors.Join(err, cerr)
	}
	if cred.Uid != 0 && int(cred.Uid) != os.Geteuid() {
		return nil, fmt.Errorf("user %d may not speak for this node", cred.Uid)
	}
	e := &engineConn{c: c, pid: int(cred.Pid), pidfd: -1, out: make(chan *guardpb.FromGuard, engineQueue), last: make(chan struct{}), gone: make(chan struct{})}
	if cred.Pid > 0 {
		fd, err := unix.PidfdOpen(int(cred.Pid), 0)
		if err != nil && err != unix.ESRCH {
			return nil, fmt.Errorf("watch process %d: %w", cred.Pid, err)
		}
		if err == nil {
			e.pidfd = fd
		}
	}
	return e, nil
}

// take e as the engine, unless another process is it.
func (s *engineServer) take(e *engineConn) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return errors.New("guard ends")
	}
	if old := s.current; old != nil {
		if old.pid != e.pid && old.alive() {
			return fmt.Errorf("process %d asks to be the engine, but process %d is it and lives", e.pid, old.pid)
		}
		old.close()
		if old.pid != e.pid {
			s.l.post(func(now time.Duration) { s.l.core.EngineConn(now, false) })
		}
	}
	s.current = e
	s.l.log.Info("clusterd is connected", "pid", e.pid)
	s.l.post(func(now time.Duration) { s.l.core.EngineConn(now, true) })
	go s.write(e)
	go s.read(e)
	return nil
}

func (s *engineServer) isCurrent(e *engineConn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current == e
}

func (s *engineServer) read(e *engineConn) {
	r := bufio.NewReader(e.c)
	var err error
	for {
		m := new(guardpb.ToGuard)
		if err = wire.ReadFrame(r, m, guardclient.MaxFrame); err != nil {
			break
		}
		s.l.post(func(now time.Duration) {
			if s.isCurrent(e) {
				s.l.fromEngine(now, m)
			}
		})
	}
	e.close()
	s.lost(e, err)
}

// lost waits until the engine's process has ended, or has connected again, and
// helps after a while (D3).
func (s *engineServer) lost(e *engineConn, why error) {
	deadline := time.Now().Add(engineGrace)
	for e.alive() && s.isCurrent(e) {
		left := time.Until(deadline)
		if left <= 0 {
			s.l.log.Error("clusterd has left guard.sock and does not come back: it is killed", "pid", e.pid, "error", why)
			e.signal(unix.SIGKILL)
			left = engineGrace
			deadline = time.Now().Add(left)
		}
		fds := []unix.PollFd{{Fd: int32(e.pidfd), Events: unix.POLLIN}}
		_, _ = unix.Poll(fds, int(min(left, 50*time.Millisecond)/time.Millisecond)+1)
	}
	s.mu.Lock()
	mine := s.current == e
	if mine {
		s.current = nil
	}
	s.mu.Unlock()
	if mine {
		s.l.log.Warn("clusterd has ended", "pid", e.pid, "connection", why)
		s.l.supervisor.kick()
		s.l.post(func(now time.Duration) {
			if !s.anyEngine() {
				s.l.core.EngineConn(now, false)
			}
		})
	}
	e.release()
}

func (s *engineServer) anyEngine() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current != nil
}

func (s *engineServer) write(e *engineConn) {
	defer e.close()
	one := func(f *guardpb.FromGuard) error {
		_ = e.c.SetWriteDeadline(time.Now().Add(engineWrite))
		return wire.WriteFrame(e.c, f)
	}
	for {
		select {
		case f := <-e.out:
			if one(f) != nil {
				return
			}
		case <-e.last:
			for len(e.out) > 0 {
				if one(<-e.out) != nil {
					return
				}
			}
			return
		case <-e.gone:
			return
		}
	}
}

// send never blocks.
func (s *engineServer) send(f *guardpb.FromGuard) {
	s.mu.Lock()
	e := s.current
	s.mu.Unlock()
	if e == nil {
		return
	}
	select {
	case e.out <- f:
	default:
		s.l.log.Error("clusterd does not read what guard says: it is disconnected", "pid", e.pid)
		e.close()
	}
}

// kill the engine that is connected.
func (s *engineServer) kill() {
	s.mu.Lock()
	e := s.current
	s.mu.Unlock()
	if e != nil {
		e.signal(unix.SIGKILL)
	}
}

func (e *engineConn) close() {
	e.once.Do(func() {
		close(e.gone)
		e.c.Close()
	})
}

// alive: the process has not ended. A zombie has.
func (e *engineConn) alive() bool {
	if e.pidfd < 0 {
		return false
	}
	fds := []unix.PollFd{{Fd: int32(e.pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err != nil || n == 0
}

func (e *engineConn) signal(sig unix.Signal) {
	if e.pidfd >= 0 {
		_ = unix.PidfdSendSignal(e.pidfd, sig, nil, 0)
	}
}

func (e *engineConn) release() {
	if e.pidfd >= 0 {
		unix.Close(e.pidfd)
	}
}

// fromEngine gives a frame to the core, and keeps the addresses in it.
func (l *loop) fromEngine(now time.Duration, m *guardpb.ToGuard) {
	if m.GetReloadKeys() != nil {
		l.reloadKeys(m.GetCall())
		return
	}
	before := l.core.Configured()
	l.core.Engine(now, m)
	if c := l.core.Configured(); c != before {
		l.configured(c)
	}
}
