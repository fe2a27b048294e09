package agents

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// mounted is one line of mountinfo.
type mounted struct {
	id           int
	major, minor uint32
	root, point  string
	options      string
	fstype       string
	source       string
	super        string
}

// mountsOf reads a mount table, oldest first: of two at the same point the later one is on top.
func mountsOf(file string) ([]mounted, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readMounts(f)
}

func readMounts(r io.Reader) ([]mounted, error) {
	var out []mounted
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		m, err := parseMount(lines.Text())
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	return out, lines.Err()
}

// parseMount reads one line, as proc(5) says: ID parent major:minor root point options [tags] - type source options.
func parseMount(line string) (mounted, error) {
	own, rest, ok := strings.Cut(line, " - ")
	f, g := strings.Fields(own), strings.Split(rest, " ")
	if !ok || len(f) < 6 || len(g) < 3 {
		return mounted{}, fmt.Errorf("mount table: %q is not understood", line)
	}
	id, err1 := strconv.Atoi(f[0])
	ma, mi, _ := strings.Cut(f[2], ":")
	major, err2 := strconv.ParseUint(ma, 10, 32)
	minor, err3 := strconv.ParseUint(mi, 10, 32)
	if err := errors.Join(err1, err2, err3); err != nil {
		return mounted{}, fmt.Errorf("mount table: %q: %w", line, err)
	}
	return mounted{
		id: id, major: uint32(major), minor: uint32(minor), root: plainPath(f[3]), point: plainPath(f[4]), options: f[5],
		fstype: g[0], source: plainPath(g[1]), super: g[2],
	}, nil
}

// plainPath undoes how the kernel writes blanks and backslashes in tables.
func plainPath(s string) string {
	if !strings.ContainsRune(s, '\\') {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// at returns what is mounted at a point, the topmost last.
func at(all []mounted, point string) []mounted {
	var out []mounted
	for _, m := range all {
		if m.point == point {
			out = append(out, m)
		}
	}
	return out
}

const mountTable = "/proc/self/mountinfo"

// mountWatch tells when something is mounted or unmounted at a watched point: the kernel wakes one goroutine.
type mountWatch struct {
	tell func(key, string)
	log  *slog.Logger

	mu      sync.Mutex
	running bool
	closed  bool
	stop    int
	ended   chan struct{}
	points  map[key]string
	// mounts at each point, by their numbers, when it was last looked at, and how often that was.
	seen  map[string][]int
	looks int
}

func newMountWatch(tell func(key, string), log *slog.Logger) *mountWatch {
	return &mountWatch{tell: tell, log: log, points: map[key]string{}, seen: map[string][]int{}}
}

// begin is called before the table is read for set. The number that it returns tells set whether something has changed
// since; it is negative if nothing can be told.
func (w *mountWatch) begin() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.start() {
		return -1
	}
	return w.looks
}

// set watches a point, at which there was what has been read since begin.
func (w *mountWatch) set(k key, point string, there []mounted, begun int) bool {
	w.mu.Lock()
	if begun < 0 || w.closed {
		w.mu.Unlock()
		return false
	}
	if old, ok := w.points[k]; ok && old != point {
		w.drop(k)
	}
	w.points[k] = point
	late := w.looks != begun
	if _, known := w.seen[point]; !known || !late {
		w.seen[point] = mountIDs(there)
	}
	w.mu.Unlock()
	if late {
		w.tell(k, "")
	}
	return true
}

func mountIDs(ms []mounted) []int {
	var out []int
	for _, m := range ms {
		out = append(out, m.id)
	}
	return out
}

func (w *mountWatch) forget(k key) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.drop(k)
}

func (w *mountWatch) drop(k key) {
	point, ok := w.points[k]
	if !ok {
		return
	}
	delete(w.points, k)
	for _, p := range w.points {
		if p == point {
			return
		}
	}
	delete(w.seen, point)
}

// start begins to wait, unless that was done before. The caller holds mu.
func (w *mountWatch) start() bool {
	if w.running || w.closed {
		return w.running
	}
	table, err := unix.Open(mountTable, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		if w.stop, err = unix.Eventfd(0, unix.EFD_CLOEXEC); err != nil {
			unix.Close(table)
		}
	}
	if err != nil {
		w.log.Warn("mounts are polled only: the kernel does not tell their changes", "error", err)
		return false
	}
	w.running, w.ended = true, make(chan struct{})
	go w.loop(table, w.stop, w.ended)
	return true
}

func (w *mountWatch) loop(table, stop int, ended chan struct{}) {
	defer close(ended)
	defer unix.Close(table)
	polls := []unix.PollFd{{Fd: int32(table), Events: unix.POLLPRI}, {Fd: int32(stop), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(polls, -1)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil || polls[1].Revents != 0:
			return
		}
		w.look()
	}
}

// look tells the resources at whose points something has changed.
func (w *mountWatch) look() {
	all, err := mountsOf(mountTable)
	told := map[key]string{}
	w.mu.Lock()
	now := map[string][]int{}
	for _, m := range all {
		if _, watched := w.seen[m.point]; watched {
			now[m.point] = append(now[m.point], m.id)
		}
	}
	for k, point := range w.points {
		was := w.seen[point]
		switch {
		case err != nil:
			told[k] = ""
		case slices.Equal(was, now[point]):
		case len(now[point]) < len(was):
			told[k] = fmt.Sprintf("%s was unmounted", point)
		default:
			told[k] = fmt.Sprintf("something was mounted at %s", point)
		}
	}
	for point := range w.seen {
		if err == nil {
			w.seen[point] = now[point]
		}
	}
	w.looks++
	w.mu.Unlock()
	for k, what := range told {
		w.tell(k, what)
	}
}

func (w *mountWatch) close() {
	w.mu.Lock()
	running := w.running
	w.closed = true
	w.mu.Unlock()
	if running {
		_, _ = unix.Write(w.stop, []byte{1, 0, 0, 0, 0, 0, 0, 0})
		<-w.ended
		unix.Close(w.stop)
	}
}
