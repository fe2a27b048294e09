package agents

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// fileWatch tells when files appear or go: one inotify instance for the directories of all of them.
type fileWatch struct {
	tell func(key, string)
	log  *slog.Logger

	mu     sync.Mutex
	file   *os.File // nil until something is watched
	fd     int      // of file; File.Fd would make its reads block for ever
	ended  chan struct{}
	closed bool
	dirs   map[string]*watchedDir
	byWd   map[int32]*watchedDir
	files  map[key]string
}

type watchedDir struct {
	name string
	wd   int32
	// keys by the name of the file in the directory.
	files map[string]map[key]bool
}

func newFileWatch(tell func(key, string), log *slog.Logger) *fileWatch {
	return &fileWatch{tell: tell, log: log, dirs: map[string]*watchedDir{}, byWd: map[int32]*watchedDir{}, files: map[key]string{}}
}

const fileEvents = unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR

// set watches a file for a resource; false if its directory can't be watched.
func (w *fileWatch) set(k key, name string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.files[k] == name {
		return true
	}
	w.drop(k)
	if !w.start() {
		return false
	}
	dir, base := filepath.Split(filepath.Clean(name))
	d := w.dirs[dir]
	if d == nil {
		wd, err := unix.InotifyAddWatch(w.fd, dir, fileEvents)
		if err != nil {
			return false
		}
		if d = w.byWd[int32(wd)]; d == nil {
			d = &watchedDir{name: dir, wd: int32(wd), files: map[string]map[key]bool{}}
			w.dirs[dir], w.byWd[d.wd] = d, d
		} // else the same directory under another name: the watch is shared, but found by its number only
	}
	if d.files[base] == nil {
		d.files[base] = map[key]bool{}
	}
	d.files[base][k] = true
	w.files[k] = name
	return true
}

// forget ends the watch of a resource.
func (w *fileWatch) forget(k key) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.drop(k)
}

func (w *fileWatch) drop(k key) {
	name, ok := w.files[k]
	if !ok {
		return
	}
	delete(w.files, k)
	base := filepath.Base(filepath.Clean(name))
	for _, d := range w.byWd {
		if !d.files[base][k] {
			continue
		}
		delete(d.files[base], k)
		if len(d.files[base]) == 0 {
			delete(d.files, base)
		}
		if len(d.files) == 0 {
			w.dropDir(d)
			_, _ = unix.InotifyRmWatch(w.fd, uint32(d.wd))
		}
		return
	}
}

func (w *fileWatch) dropDir(d *watchedDir) {
	delete(w.dirs, d.name)
	delete(w.byWd, d.wd)
}

// start opens the inotify instance, unless that was done before. The caller holds mu.
func (w *fileWatch) start() bool {
	if w.file != nil || w.closed {
		return w.file != nil
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		w.log.Warn("files are polled only: the kernel does not tell their changes", "error", err)
		return false
	}
	w.fd, w.file, w.ended = fd, os.NewFile(uintptr(fd), "inotify"), make(chan struct{})
	go w.loop(w.file, w.ended)
	return true
}

func (w *fileWatch) loop(f *os.File, ended chan struct{}) {
	defer close(ended)
	buf := make([]byte, 64<<10)
	for {
		n, err := f.Read(buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return
		}
		for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
			wd := int32(binary.NativeEndian.Uint32(b))
			mask, size := binary.NativeEndian.Uint32(b[4:]), int(binary.NativeEndian.Uint32(b[12:]))
			name := b[unix.SizeofInotifyEvent : unix.SizeofInotifyEvent+size]
			w.event(wd, mask, string(bytes.TrimRight(name, "\x00")))
			b = b[unix.SizeofInotifyEvent+size:]
		}
	}
}

func (w *fileWatch) event(wd int32, mask uint32, name string) {
	told := map[key]string{}
	w.mu.Lock()
	d := w.byWd[wd]
	switch {
	case mask&unix.IN_Q_OVERFLOW != 0:
		for k := range w.files {
			told[k] = ""
		}
	case d == nil: // of a watch that was ended meanwhile
	case mask&(unix.IN_DELETE_SELF|unix.IN_MOVE_SELF|unix.IN_UNMOUNT|unix.IN_IGNORED) != 0:
		// Its files are no longer where they were; the next monitors watch anew.
		for _, keys := range d.files {
			for k := range keys {
				told[k] = fmt.Sprintf("directory %s has gone", filepath.Clean(d.name))
				delete(w.files, k)
			}
		}
		w.dropDir(d)
		if mask&unix.IN_IGNORED == 0 {
			_, _ = unix.InotifyRmWatch(w.fd, uint32(wd))
		}
	default:
		what := fmt.Sprintf("%s was removed", filepath.Join(d.name, name))
		if mask&(unix.IN_CREATE|unix.IN_MOVED_TO) != 0 {
			what = fmt.Sprintf("%s has appeared", filepath.Join(d.name, name))
		}
		for k := range d.files[name] {
			told[k] = what
		}
	}
	w.mu.Unlock()
	for k, what := range told {
		w.tell(k, what)
	}
}

func (w *fileWatch) close() {
	w.mu.Lock()
	w.closed = true
	f, ended := w.file, w.ended
	w.mu.Unlock()
	if f != nil {
		_ = f.Close()
		<-ended
	}
}
