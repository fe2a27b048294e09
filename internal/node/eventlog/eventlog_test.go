package eventlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

const cluster = "00112233445566778899aabbccddeeff"

func event(n uint64) *v1.Event {
	return &v1.Event{Number: n, TimeMs: 1_700_000_000_000 + int64(n)*1000, Severity: v1.Severity_SEVERITY_WARNING, Code: "group.faulted", Epoch: 3, Message: fmt.Sprintf("event %d", n)}
}

func events(first, last uint64) (all []*v1.Event) {
	for n := first; n <= last; n++ {
		all = append(all, event(n))
	}
	return all
}

func options(dir string) Options {
	return Options{Dir: dir, ClusterUUID: cluster, free: func(string) (uint64, uint64, error) { return 1 << 40, 1 << 41, nil }}
}

// closed writes what was offered.
func closed(t *testing.T, l *Log) {
	t.Helper()
	l.Close()
	<-l.done
}

// kept is what a log has, as "1-5 9-12".
func kept(t *testing.T, l *Log) string {
	t.Helper()
	all, err := l.Kept(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, r := range all {
		out = append(out, fmt.Sprintf("%d-%d", r.First, r.Last))
	}
	return strings.Join(out, " ")
}

// all events that a log has, checked against what they were.
func all(t *testing.T, l *Log) (numbers []uint64) {
	t.Helper()
	err := l.Read(context.Background(), Query{Last: 1 << 60}, func(e *v1.Event) bool {
		if want := event(e.GetNumber()); !proto.Equal(e, want) {
			t.Errorf("read %v, want %v", e, want)
		}
		numbers = append(numbers, e.GetNumber())
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return numbers
}

func files(t *testing.T, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestKeepsAndReads(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "events")
	l := Open(options(dir))
	l.Offer(events(1, 700))
	l.Offer(events(500, 900)) // some again
	closed(t, l)
	l = Open(options(dir))
	defer closed(t, l)
	if got := kept(t, l); got != "1-900" {
		t.Errorf("it has %s", got)
	}
	if n := len(all(t, l)); n != 900 {
		t.Errorf("%d events", n)
	}
	var got []uint64
	err := l.Read(context.Background(), Query{First: 10, Last: 800, Backward: true}, func(e *v1.Event) bool {
		got = append(got, e.GetNumber())
		return len(got) < 3
	})
	if err != nil || !slices.Equal(got, []uint64{800, 799, 798}) {
		t.Errorf("backward %v, %v", got, err)
	}
	if l.Fault() != "" {
		t.Error(l.Fault())
	}
}

func TestGapsAreSeen(t *testing.T) {
	dir := t.TempDir()
	l := Open(options(dir))
	l.Offer(events(5, 8))
	l.Offer(events(20, 25))
	l.Offer(append(events(26, 27), events(40, 41)...))
	closed(t, l)
	l = Open(options(dir))
	defer closed(t, l)
	if got := kept(t, l); got != "5-8 20-27 40-41" {
		t.Errorf("it has %s", got)
	}
	// What is missing in between is not filled in out of order.
	l.Offer(events(7, 42))
	closed(t, l)
	if got := kept(t, l); got != "5-8 20-27 40-42" {
		t.Errorf("it has %s", got)
	}
}

// E3.
func TestBounds(t *testing.T) {
	for name, bound := range map[string]Options{"events": {Events: 1000}, "bytes": {Bytes: 64 << 10}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir := t.TempDir()
				o := options(dir)
				o.Events, o.Bytes = bound.Events, bound.Bytes
				l := Open(o)
				for n := uint64(1); n < 20000; n += 100 {
					l.Offer(events(n, n+99))
					synctest.Wait()
					var size int64
					for _, f := range files(t, dir) {
						info, err := os.Stat(f)
						if err != nil {
							t.Fatal(err)
						}
						size += info.Size()
					}
					r, err := l.Kept(context.Background())
					if err != nil || len(r) != 1 || r[0].Last+1-r[0].First > uint64(l.o.Events) || size > l.o.Bytes || r[0].Last != n+99 {
						t.Fatalf("%s, %d bytes, %v", kept(t, l), size, err)
					}
				}
				closed(t, l)
				if n := len(all(t, l)); name == "events" && n < 900 || n < 400 {
					t.Errorf("only %d are kept", n)
				}
			})
		})
	}
}

// E1: after any damage what is read is what was offered, and what comes later is kept.
func TestDamage(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		dir := t.TempDir()
		o := options(dir)
		o.Events = 320 // files of 20
		l := Open(o)
		l.Offer(events(1, 100))
		closed(t, l)
		names := files(t, dir)
		name := names[r.IntN(len(names))]
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		at := r.IntN(len(raw))
		what := "flipped"
		switch r.IntN(4) {
		case 0:
			raw, what = raw[:at], "cut"
		case 1:
			clear(raw[at:])
			what = "zeroed"
		case 2:
			raw = append(raw, raw[:r.IntN(100)]...)
			what = "longer"
		default:
			raw[at] ^= byte(1 + r.IntN(255))
		}
		if err := os.WriteFile(name, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		l = Open(o)
		before := all(t, l)
		if len(before) < 79 || !slices.IsSorted(before) {
			t.Errorf("seed %d: %s of 100 after %s was %s at %d", seed, kept(t, l), filepath.Base(name), what, at)
		}
		l.Offer(events(60, 130)) // what the state still has
		closed(t, l)
		after := all(t, l)
		if len(after) < len(before)+30 || after[len(after)-1] != 130 || !slices.IsSorted(after) {
			t.Errorf("seed %d: %d then %s after %s was %s at %d", seed, len(before), kept(t, l), filepath.Base(name), what, at)
		}
		// What a crash may have cut off is no damage; anything else is told.
		if len(before) < 100 && what != "cut" && what != "longer" && name != names[len(names)-1] && l.Fault() == "" {
			t.Errorf("seed %d: %d events are lost after %s was %s at %d, and nothing is said of it", seed, 100-len(before), filepath.Base(name), what, at)
		}
		l = Open(o) // and once more
		if again := all(t, l); !slices.Equal(after, again) {
			t.Errorf("seed %d: %v, then %v", seed, after, again)
		}
		closed(t, l)
	}
}

func TestFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		dir := t.TempDir()
		o := options(dir)
		o.Log = slog.New(slog.NewTextHandler(&out, nil))
		var full atomic.Bool
		o.write = func(f *os.File, b []byte, at int64) error {
			if full.Load() {
				_, _ = f.WriteAt(b[:len(b)/2], at) // a part gets there
				return unix.ENOSPC
			}
			_, err := f.WriteAt(b, at)
			return err
		}
		l := Open(o)
		l.Offer(events(1, 10))
		synctest.Wait()
		full.Store(true)
		l.Offer(events(11, 20))
		synctest.Wait()
		if f := l.Fault(); !strings.Contains(f, "no space left") {
			t.Errorf("fault %q", f)
		}
		if got := all(t, l); len(got) != 10 {
			t.Errorf("it has %s", kept(t, l))
		}
		// More than waits is dropped, the oldest first; then it is tried again.
		for n := uint64(21); n <= 20+2*maxPending; n += 1000 {
			l.Offer(events(n, n+999))
		}
		full.Store(false)
		time.Sleep(retryEvery + time.Second)
		synctest.Wait()
		if l.Fault() != "" {
			t.Error(l.Fault())
		}
		closed(t, l)
		if got := kept(t, l); got != fmt.Sprintf("1-10 %d-%d", 21+maxPending, 20+2*maxPending) {
			t.Errorf("it has %s", got)
		}
		_ = all(t, l)
		if text := out.String(); strings.Count(text, "not kept") != 1 || strings.Count(text, "kept on this node's disk again") != 1 {
			t.Errorf("it said %s", text)
		}
	})
}

// The last space of a file system is left to others, which the cluster needs.
func TestReserve(t *testing.T) {
	o := options(t.TempDir())
	free := uint64(1 << 20)
	o.free = func(string) (uint64, uint64, error) { return free, 1 << 40, nil }
	l := Open(o)
	l.Offer(events(1, 10))
	closed(t, l)
	if f := l.Fault(); !strings.Contains(f, "only 1 MiB are free") || len(files(t, o.Dir)) != 0 {
		t.Errorf("fault %q, files %v", f, files(t, o.Dir))
	}
	// A small file system has a small reserve.
	o.free = func(string) (uint64, uint64, error) { return free, 16 << 20, nil }
	l = Open(o)
	l.Offer(events(1, 10))
	closed(t, l)
	if got := kept(t, l); got != "1-10" || l.Fault() != "" {
		t.Errorf("it has %s, %s", got, l.Fault())
	}
}

// A directory that can't be made stops nobody.
func TestNoDirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l := Open(options(filepath.Join(file, "events")))
	l.Offer(events(1, 10))
	closed(t, l)
	if l.Fault() == "" || kept(t, l) != "" {
		t.Errorf("fault %q, kept %s", l.Fault(), kept(t, l))
	}
}

func TestOtherCluster(t *testing.T) {
	dir := t.TempDir()
	l := Open(options(dir))
	l.Offer(events(1, 10))
	closed(t, l)
	o := options(dir)
	o.ClusterUUID = strings.Repeat("ab", 16)
	l = Open(o)
	if got := kept(t, l); got != "" || len(files(t, dir)) != 0 {
		t.Errorf("it has %s, files %v", got, files(t, dir))
	}
	closed(t, l)
}

// E4: what was offered last is how it was.
func TestOtherHistory(t *testing.T) {
	dir := t.TempDir()
	o := options(dir)
	o.Events = 320
	l := Open(o)
	l.Offer(events(1, 75))
	closed(t, l)
	l = Open(o)
	defer closed(t, l)
	other := events(30, 60)
	for _, e := range other[20:] { // from 50 on
		e.Code = "node.left"
	}
	l.Offer(other)
	closed(t, l)
	if got := kept(t, l); got != "1-60" {
		t.Errorf("it has %s", got)
	}
	err := l.Read(context.Background(), Query{Last: 100}, func(e *v1.Event) bool {
		if want := e.GetNumber() >= 50; (e.GetCode() == "node.left") != want {
			t.Errorf("%v", e)
		}
		return true
	})
	if err != nil {
		t.Error(err)
	}
}

// A crash between a file's making and its first record leaves nothing behind.
func TestEmptyFiles(t *testing.T) {
	dir := t.TempDir()
	l := Open(options(dir))
	l.Offer(events(1, 3))
	closed(t, l)
	for n, text := range map[uint64]string{4: "", 9: string(header(l.cluster, 9))} {
		if err := os.WriteFile(segmentPath(dir, n), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l = Open(options(dir))
	l.Offer(events(4, 12))
	closed(t, l)
	if got := kept(t, l); got != "1-12" || l.Fault() != "" {
		t.Errorf("it has %s, %s", got, l.Fault())
	}
	if _, err := os.Stat(segmentPath(dir, 9)); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestTimes(t *testing.T) {
	o := options(t.TempDir())
	o.Events = 320
	l := Open(o)
	l.Offer(events(1, 200))
	closed(t, l)
	var got []uint64
	err := l.Read(context.Background(), Query{Last: 1 << 60, SinceMs: event(100).TimeMs, UntilMs: event(110).TimeMs}, func(e *v1.Event) bool {
		got = append(got, e.GetNumber())
		return true
	})
	if err != nil || len(got) > 40 || got[0] > 100 || got[len(got)-1] < 109 {
		t.Errorf("%v, %v", got, err)
	}
}

func TestLongMessage(t *testing.T) {
	l := Open(options(t.TempDir()))
	e := event(1)
	e.Message = strings.Repeat("ü", maxRecord)
	odd := event(2)
	odd.Group = strings.Repeat("x", 2*maxRecord)
	l.Offer([]*v1.Event{e, odd})
	closed(t, l)
	var got []*v1.Event
	if err := l.Read(context.Background(), Query{Last: 9}, func(e *v1.Event) bool { got = append(got, e); return true }); err != nil || len(got) != 2 {
		t.Fatalf("%d events, %v", len(got), err)
	}
	if !strings.HasSuffix(got[0].GetMessage(), "ü…") || !strings.Contains(got[1].GetMessage(), "too long") {
		t.Errorf("%.20s… and %s", got[0].GetMessage(), got[1].GetMessage())
	}
}

func FuzzLoad(f *testing.F) {
	dir := f.TempDir()
	l := Open(options(dir))
	l.Offer(events(1, 5))
	l.Close()
	raw, err := os.ReadFile(segmentPath(dir, 1))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add(raw[:headerSize])
	f.Fuzz(func(t *testing.T, raw []byte) {
		path := segmentPath(t.TempDir(), 1)
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		s, _, err := load(path, l.cluster)
		if err == nil && (s.size > int64(max(len(raw), headerSize)) || s.last+1 < s.first) {
			t.Errorf("%+v of %d bytes", s, len(raw))
		}
	})
}
