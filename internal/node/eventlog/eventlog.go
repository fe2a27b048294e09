package eventlog

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

const (
	// DefaultEvents and DefaultBytes bound a log.
	DefaultEvents = 100_000
	DefaultBytes  = 64 << 20
	// parts is how many full files a full log has.
	parts = 16
	// maxPending bounds the events that wait for the disk.
	maxPending = 5000
	// batch is how many are written at a time.
	batch = 500
	// syncEvery is after how many events a file is flushed: while the state still has them.
	syncEvery = 250
	// retryEvery is how often a disk that has failed is tried again.
	retryEvery = 10 * time.Second
	// reserve is left free of a file system, or a 20th of it if that is less: the raft log may be there too.
	reserve = 128 << 20
	// maxFiles bounds the number of files, for each gap begins one.
	maxFiles = 1000
)

// Options of [Open].
type Options struct {
	// Dir is made if it is not there. It holds nothing else.
	Dir string
	// ClusterUUID whose events these are; files of others are removed.
	ClusterUUID string
	// Events and Bytes bound the log, 0: the defaults.
	Events int
	Bytes  int64
	Log    *slog.Logger

	// Replaced in tests.
	write func(f *os.File, b []byte, at int64) error
	free  func(dir string) (free, all uint64, err error)
}

// Range is a run of events that are kept.
type Range struct {
	First, Last uint64
	// Times of the first and the last one, Unix milliseconds.
	FirstMs, LastMs int64
}

// Query says what [Log.Read] reads.
type Query struct {
	// First and Last number.
	First, Last uint64
	// Times in Unix milliseconds: whole files outside of these are left out, single events are not. 0: any.
	SinceMs, UntilMs int64
	// Newest first.
	Backward bool
}

// A Log may be used by several goroutines.
type Log struct {
	o       Options
	cluster [16]byte
	opened  chan struct{}
	wake    chan struct{}
	quit    chan struct{}
	done    chan struct{}
	once    sync.Once
	readers chan struct{}

	mu       sync.Mutex
	pending  []*v1.Event
	segments []*segment // each with events, in their order
	useless  []*segment // files of which nothing can be read
	fault    string

	// Of the writer.
	file     *os.File
	unsynced int
	// Sums of events that may be offered again, from a number on; nil: none.
	stored     map[uint64]uint32
	storedFrom uint64
}

// Open a log. It is read in the background.
func Open(o Options) *Log {
	if o.Events <= 0 {
		o.Events = DefaultEvents
	}
	if o.Bytes <= 0 {
		o.Bytes = DefaultBytes
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.write == nil {
		o.write = func(f *os.File, b []byte, at int64) error { _, err := f.WriteAt(b, at); return err }
	}
	if o.free == nil {
		o.free = freeSpace
	}
	l := &Log{o: o, opened: make(chan struct{}), wake: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{}), readers: make(chan struct{}, 2)}
	if raw, err := hex.DecodeString(o.ClusterUUID); err == nil && len(raw) == len(l.cluster) {
		copy(l.cluster[:], raw)
	}
	go l.run()
	return l
}

// Close writes what was offered, if that takes no longer than a moment.
func (l *Log) Close() {
	l.once.Do(func() { close(l.quit) })
	select {
	case <-l.done:
	case <-time.After(time.Second): // a disk that hangs
	}
}

// Offer events in the order of their numbers. Those that the log has are left out.
// The caller does not change them afterwards.
func (l *Log) Offer(events []*v1.Event) {
	if len(events) == 0 {
		return
	}
	l.mu.Lock()
	l.pending = append(l.pending, events...)
	if over := len(l.pending) - maxPending; over > 0 {
		l.pending = slices.Delete(l.pending, 0, over)
	}
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Fault says what is wrong; empty: nothing.
func (l *Log) Fault() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fault != "" {
		return l.fault
	}
	for _, s := range slices.Concat(l.useless, l.segments) {
		if s.damage != "" {
			return fmt.Sprintf("%s %s: what followed is lost here, other nodes may have it; when the file is removed, or old, this ends", s.path, s.damage)
		}
	}
	return ""
}

// Kept events, oldest first.
func (l *Log) Kept(ctx context.Context) (all []Range, err error) {
	if err := l.ready(ctx); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.segments {
		switch n := len(all); {
		case n > 0 && all[n-1].Last+1 == s.first:
			all[n-1].Last, all[n-1].LastMs = s.last, s.lastMs
		default:
			all = append(all, Range{First: s.first, Last: s.last, FirstMs: s.firstMs, LastMs: s.lastMs})
		}
	}
	return all, nil
}

func (l *Log) ready(ctx context.Context) error {
	select {
	case <-l.opened:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Read hands events to see until it returns false. A disk that hangs is not
// waited for longer than ctx.
func (l *Log) Read(ctx context.Context, q Query, see func(*v1.Event) (more bool)) error {
	if err := l.ready(ctx); err != nil {
		return err
	}
	l.mu.Lock()
	var files []segment
	for _, s := range l.segments {
		if s.last >= q.First && s.first <= q.Last && (q.SinceMs == 0 || s.maxMs >= q.SinceMs) && (q.UntilMs == 0 || s.minMs < q.UntilMs) {
			files = append(files, *s)
		}
	}
	l.mu.Unlock()
	if q.Backward {
		slices.Reverse(files)
	}
	for _, s := range files {
		events, err := l.readFile(ctx, s, q)
		if err != nil {
			return err
		}
		if q.Backward {
			slices.Reverse(events)
		}
		for _, e := range events {
			if !see(e) {
				return nil
			}
		}
	}
	return nil
}

func (l *Log) readFile(ctx context.Context, s segment, q Query) ([]*v1.Event, error) {
	select {
	case l.readers <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	type result struct {
		events []*v1.Event
		err    error
	}
	got := make(chan result, 1)
	go func() {
		defer func() { <-l.readers }()
		raw, err := os.ReadFile(s.path)
		if errors.Is(err, fs.ErrNotExist) {
			got <- result{} // it got too old meanwhile
			return
		}
		var events []*v1.Event
		if err == nil {
			raw = raw[:min(int64(len(raw)), s.size)]
			if len(raw) < headerSize {
				err = fmt.Errorf("%s is shorter than it was", s.path)
			} else {
				_, err = walk(raw, s.first, func(_ int64, e *v1.Event) {
					if n := e.GetNumber(); n >= q.First && n <= q.Last {
						events = append(events, e)
					}
				})
			}
		}
		got <- result{events, err}
	}()
	select {
	case r := <-got:
		return r.events, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func freeSpace(dir string) (free, all uint64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, 0, err
	}
	return st.Bavail * uint64(st.Bsize), st.Blocks * uint64(st.Bsize), nil
}

// run is the writer.
func (l *Log) run() {
	defer close(l.done)
	l.setFault(l.open())
	close(l.opened)
	defer l.closeFile()
	for {
		var retry <-chan time.Time
		if !l.work() {
			retry = time.After(retryEvery)
		}
		select {
		case <-l.wake:
		case <-retry:
		case <-l.quit:
			l.work()
			return
		}
	}
}

func (l *Log) setFault(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	l.mu.Lock()
	before := l.fault
	l.fault = text
	l.mu.Unlock()
	switch {
	case text != "" && before == "":
		l.o.Log.Warn("events are not kept on this node's disk at the moment", "error", text)
	case text == "" && before != "":
		l.o.Log.Info("events are kept on this node's disk again")
	}
}

// open reads what is there.
func (l *Log) open() error {
	if err := os.MkdirAll(l.o.Dir, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(l.o.Dir)
	if err != nil {
		return err
	}
	entries = slices.DeleteFunc(entries, func(e fs.DirEntry) bool { _, ours := numberOf(e.Name()); return !ours })
	var all, useless []*segment
	for i, e := range entries { // sorted by name, and so by number
		first, _ := numberOf(e.Name())
		path := filepath.Join(l.o.Dir, e.Name())
		s, foreign, err := load(path, l.cluster)
		if err != nil {
			s = &segment{path: path, first: first, last: first - 1, damage: "can't be read: " + err.Error()}
		}
		if s.torn && s.damage == "" && s.count() > 0 {
			// A crash can have cut off the last file only; what it has left is taken away.
			if i < len(entries)-1 {
				s.damage = fmt.Sprintf("%v: it ends after event #%d, in the middle of a record", errDamaged, s.last)
			} else if err := os.Truncate(path, s.size); err != nil {
				l.o.Log.Warn("a file of events can't be shortened", "error", err)
			}
		}
		if s.damage != "" {
			l.o.Log.Warn("a file of events is damaged: what followed is lost here", "path", path, "damage", s.damage)
		}
		switch n := len(all); {
		case foreign, s.count() == 0 && s.damage == "", n > 0 && s.first <= all[n-1].last:
			if err := os.Remove(path); err != nil {
				l.o.Log.Warn("a file of events can't be removed", "error", err)
			}
		case s.count() == 0:
			useless = append(useless, s)
		default:
			all = append(all, s)
		}
	}
	l.mu.Lock()
	l.segments, l.useless = all, useless
	l.mu.Unlock()
	return nil
}

// work writes what is pending; true: all of it.
func (l *Log) work() bool {
	for {
		l.mu.Lock()
		todo := slices.Clone(l.pending[:min(len(l.pending), batch)])
		l.mu.Unlock()
		if len(todo) == 0 {
			return true
		}
		err := l.append(todo)
		l.setFault(err)
		if err != nil {
			return false
		}
		l.mu.Lock()
		// Others may have been dropped meanwhile, from the front.
		last := todo[len(todo)-1]
		if i := slices.Index(l.pending, last); i >= 0 {
			l.pending = slices.Delete(l.pending, 0, i+1)
		}
		if len(l.pending) == 0 {
			l.pending = nil
		}
		l.mu.Unlock()
	}
}

func (l *Log) newest() *segment {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.segments); n > 0 {
		return l.segments[n-1]
	}
	return nil
}

// append events. Those that the log has are left out; if they differ, what is here is given up (E4).
func (l *Log) append(events []*v1.Event) error {
	for len(events) > 0 {
		s := l.newest()
		e := events[0]
		switch {
		case s != nil && e.GetNumber() <= s.last:
			same, err := l.has(e)
			if err != nil {
				return err
			}
			if !same {
				if err := l.cut(e.GetNumber()); err != nil {
					return err
				}
				continue
			}
			events = events[1:]
		default:
			l.stored = nil
			n := 1
			for n < len(events) && events[n].GetNumber() == events[n-1].GetNumber()+1 {
				n++
			}
			wrote, err := l.appendRun(events[:n])
			if err != nil {
				return err
			}
			events = events[wrote:]
		}
	}
	return nil
}

func digest(e *v1.Event) uint32 {
	b, _ := proto.MarshalOptions{Deterministic: true}.Marshal(&v1.Event{Number: e.GetNumber(), TimeMs: e.GetTimeMs(), Epoch: e.GetEpoch(), Code: e.GetCode()})
	return crc32.Checksum(b, castagnoli)
}

// has says whether an event is here as it is offered. One that is missing here
// in between is not filled in: that would be out of order.
func (l *Log) has(e *v1.Event) (bool, error) {
	if l.stored == nil || e.GetNumber() < l.storedFrom {
		stored := map[uint64]uint32{}
		err := l.Read(context.Background(), Query{First: e.GetNumber(), Last: ^uint64(0)}, func(have *v1.Event) bool {
			stored[have.GetNumber()] = digest(have)
			return true
		})
		if err != nil {
			return false, err
		}
		l.stored, l.storedFrom = stored, e.GetNumber()
	}
	have, known := l.stored[e.GetNumber()]
	return !known || have == digest(e), nil
}

// cut off everything from a number on.
func (l *Log) cut(from uint64) error {
	l.o.Log.Warn("events of a history that was given up are removed from this node's disk", "from", from)
	l.stored = nil
	l.closeFile()
	for {
		s := l.newest()
		if s == nil || s.last < from {
			return nil
		}
		if s.first >= from {
			if err := l.drop(s); err != nil {
				return err
			}
			continue
		}
		raw, err := os.ReadFile(s.path)
		if err != nil {
			return err
		}
		size := s.size
		if _, err := walk(raw[:min(int64(len(raw)), s.size)], s.first, func(offset int64, e *v1.Event) {
			if e.GetNumber() == from {
				size = offset
			}
		}); err != nil {
			return err
		}
		if err := os.Truncate(s.path, size); err != nil {
			return err
		}
		l.mu.Lock()
		s.size, s.last = size, from-1
		l.mu.Unlock()
		return nil
	}
}

func (l *Log) drop(s *segment) error {
	if err := os.Remove(s.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	l.mu.Lock()
	is := func(o *segment) bool { return o == s }
	l.segments, l.useless = slices.DeleteFunc(l.segments, is), slices.DeleteFunc(l.useless, is)
	l.mu.Unlock()
	return nil
}

// appendRun writes events with consecutive numbers, as many as fit into one file.
func (l *Log) appendRun(events []*v1.Event) (int, error) {
	if free, all, err := l.o.free(l.o.Dir); err != nil {
		return 0, err
	} else if free < min(reserve, all/20) {
		return 0, fmt.Errorf("only %d MiB are free on the file system of %s: make room", free>>20, l.o.Dir)
	}
	s, err := l.current(events[0].GetNumber())
	if err != nil {
		return 0, err
	}
	var b []byte
	n := 0
	for n < len(events) && (n == 0 || s.size+int64(len(b)) < l.o.Bytes/parts && s.count()+n < max(l.o.Events/parts, 1)) {
		b = appendRecord(b, s.first, events[n])
		n++
	}
	if err := l.o.write(l.file, b, s.size); err != nil {
		l.closeFile() // what has got there is cut off when it is opened again
		if s.count() == 0 {
			_ = os.Remove(s.path)
		}
		return 0, err
	}
	l.mu.Lock()
	if s.count() == 0 {
		l.segments = append(l.segments, s)
		l.useless = slices.DeleteFunc(l.useless, func(o *segment) bool { return o.path == s.path })
	}
	for _, e := range events[:n] {
		s.add(e)
	}
	s.size += int64(len(b))
	l.mu.Unlock()
	if l.unsynced += n; l.unsynced >= syncEvery {
		l.unsynced = 0
		if err := l.file.Sync(); err != nil {
			l.closeFile()
			return n, err
		}
	}
	return n, l.trim()
}

// current is the file that an event belongs into, open for writing.
func (l *Log) current(number uint64) (*segment, error) {
	s := l.newest()
	full := s != nil && (s.size >= l.o.Bytes/parts || s.count() >= max(l.o.Events/parts, 1))
	if s == nil || full || s.damage != "" || s.last+1 != number {
		l.closeFile()
		if err := os.MkdirAll(l.o.Dir, 0o700); err != nil {
			return nil, err
		}
		s = &segment{path: segmentPath(l.o.Dir, number), first: number, last: number - 1, size: headerSize}
		f, err := os.OpenFile(s.path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
		if err != nil {
			return nil, err
		}
		if err := l.o.write(f, header(l.cluster, number), 0); err != nil {
			_ = f.Close()
			_ = os.Remove(s.path)
			return nil, err
		}
		l.file = f
		return s, nil
	}
	if l.file == nil {
		f, err := os.OpenFile(s.path, os.O_RDWR, 0o600)
		if err != nil {
			return nil, err
		}
		if err := f.Truncate(s.size); err != nil {
			_ = f.Close()
			return nil, err
		}
		l.file = f
	}
	return s, nil
}

func (l *Log) closeFile() {
	if l.file == nil {
		return
	}
	_ = l.file.Sync()
	_ = l.file.Close()
	l.file, l.unsynced = nil, 0
}

// trim removes the oldest files until the log is within its bounds (E3).
func (l *Log) trim() error {
	for {
		l.mu.Lock()
		var events int
		var bytes int64
		for _, s := range l.segments {
			events += s.count()
			bytes += s.size
		}
		n := len(l.segments)
		var oldest *segment
		switch {
		case len(l.useless) > 0 && n > 0 && l.useless[0].first+uint64(l.o.Events) <= l.segments[n-1].last:
			oldest = l.useless[0]
		case n > 1 && (events > l.o.Events || bytes > l.o.Bytes || n > maxFiles):
			oldest = l.segments[0]
		}
		l.mu.Unlock()
		if oldest == nil {
			return nil
		}
		if err := l.drop(oldest); err != nil {
			return err
		}
	}
}
