package agents

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// key names a resource.
type key struct{ group, resource string }

// watcher tells when processes end: one goroutine waits for the pidfds of all of them.
type watcher struct {
	epoll, stop int
	ended       chan struct{}
	tell        func(key, string)

	mu     sync.Mutex
	byFd   map[int32]*watched
	byProc map[process]*watched
	byKey  map[key][]process
	// exits of own children that have ended, for the monitors that ask; order forgets the oldest.
	exits map[process]syscall.WaitStatus
	order []process
}

type watched struct {
	process
	fd int
	// child of this process: it has to be reaped.
	child bool
	keys  map[key]bool
}

// maxExits is how many ends of children are remembered: more than a node has resources.
const maxExits = 16384

func newWatcher(tell func(key, string)) (*watcher, error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	stop, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err == nil {
		err = unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, stop, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(stop)})
	}
	if err != nil {
		unix.Close(ep)
		return nil, fmt.Errorf("epoll: %w", err)
	}
	w := &watcher{
		epoll: ep, stop: stop, ended: make(chan struct{}), tell: tell,
		byFd: map[int32]*watched{}, byProc: map[process]*watched{}, byKey: map[key][]process{}, exits: map[process]syscall.WaitStatus{},
	}
	go w.loop()
	return w, nil
}

func (w *watcher) close() {
	_, _ = unix.Write(w.stop, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	<-w.ended
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.byFd {
		unix.Close(e.fd)
	}
	unix.Close(w.epoll)
	unix.Close(w.stop)
}

// set makes procs the processes whose end is told for k, and says whether all of them are watched. One that has ended
// already is told at once.
func (w *watcher) set(k key, procs []process) bool {
	w.mu.Lock()
	for _, p := range w.byKey[k] {
		if e := w.byProc[p]; e != nil && !slices.Contains(procs, p) {
			delete(e.keys, k)
			if len(e.keys) == 0 && !e.child {
				w.drop(e)
			}
		}
	}
	if len(procs) == 0 {
		delete(w.byKey, k)
	} else {
		w.byKey[k] = slices.Clone(procs)
	}
	all, gone := len(procs) > 0, ""
	for _, p := range procs {
		switch err := w.add(p, k, false); {
		case errors.Is(err, unix.ESRCH):
			gone = fmt.Sprintf("process %d has ended", p.Pid)
		case err != nil:
			all = false
		}
	}
	w.mu.Unlock()
	if gone != "" {
		w.tell(k, gone)
	}
	return all
}

// child has an own child reaped when it ends.
func (w *watcher) child(p process, k key) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.add(p, k, true)
}

func (w *watcher) add(p process, k key, child bool) error {
	if e := w.byProc[p]; e != nil {
		e.keys[k] = true
		e.child = e.child || child
		return nil
	}
	fd, err := p.open()
	if err != nil {
		return err
	}
	if err := unix.EpollCtl(w.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}); err != nil {
		unix.Close(fd)
		return err
	}
	e := &watched{process: p, fd: fd, child: child, keys: map[key]bool{k: true}}
	w.byFd[int32(fd)], w.byProc[p] = e, e
	return nil
}

func (w *watcher) drop(e *watched) {
	delete(w.byFd, int32(e.fd))
	delete(w.byProc, e.process)
	unix.Close(e.fd) // also leaves the epoll set
}

// exitOf tells how an own child ended.
func (w *watcher) exitOf(p process) (syscall.WaitStatus, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	status, known := w.exits[p]
	return status, known
}

func (w *watcher) loop() {
	defer close(w.ended)
	events := make([]unix.EpollEvent, 64)
	for {
		n, err := unix.EpollWait(w.epoll, events, -1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return
		}
		for _, ev := range events[:n] {
			if int(ev.Fd) == w.stop {
				return
			}
			w.gone(ev.Fd)
		}
	}
}

// gone handles the end of one process.
func (w *watcher) gone(fd int32) {
	w.mu.Lock()
	e := w.byFd[fd]
	if e == nil {
		w.mu.Unlock()
		return
	}
	what := fmt.Sprintf("process %d has ended", e.Pid)
	if e.child {
		// Not reaped yet, so the number can't belong to another process.
		var ws unix.WaitStatus
		if pid, err := unix.Wait4(e.Pid, &ws, unix.WNOHANG, nil); err == nil && pid == e.Pid {
			status := syscall.WaitStatus(ws)
			what = fmt.Sprintf("process %d %s", e.Pid, describeExit(status))
			w.exits[e.process] = status
			if w.order = append(w.order, e.process); len(w.order) > maxExits {
				delete(w.exits, w.order[0])
				w.order = w.order[1:]
			}
		}
	}
	w.drop(e)
	keys := make([]key, 0, len(e.keys))
	for k := range e.keys {
		keys = append(keys, k)
	}
	w.mu.Unlock()
	for _, k := range keys {
		w.tell(k, what)
	}
}
