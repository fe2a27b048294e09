//go:build linux

package fence

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unsafe"
)

const testCluster = "6f4e2a0c000040008000000000000001"

func mustKey(t *testing.T, raftID uint64) Key {
	t.Helper()
	k, err := MakeKey(testCluster, raftID)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestKey(t *testing.T) {
	k := mustKey(t, 7)
	if k.RaftID() != 7 || !k.Of(testCluster) || k.Of("another") || k == mustKey(t, 8) || k == 7 {
		t.Errorf("key %v", k)
	}
	if k.String() != "0x24a4dcad00000007" {
		t.Errorf("keys of raft id 7 are %v now: disks hold the old ones", k)
	}
	for _, id := range []uint64{0, 1 << 32} {
		if _, err := MakeKey(testCluster, id); err == nil {
			t.Errorf("raft id %d has a key", id)
		}
	}
}

// Numbers and layouts that are the kernel's.
func TestKernelInterface(t *testing.T) {
	iow := func(direction, nr, size uintptr) uintptr { return direction<<30 | size<<16 | 'p'<<8 | nr }
	for _, c := range []struct{ have, want uintptr }{
		{iocRegister, iow(1, 200, unsafe.Sizeof(prRegistration{}))},
		{iocReserve, iow(1, 201, unsafe.Sizeof(prReservation{}))},
		{iocRelease, iow(1, 202, unsafe.Sizeof(prReservation{}))},
		{iocPreempt, iow(1, 203, unsafe.Sizeof(prPreempt{}))},
		{iocPreemptAbort, iow(1, 204, unsafe.Sizeof(prPreempt{}))},
		{iocClear, iow(1, 205, unsafe.Sizeof(prClear{}))},
		{iocReadKeys, iow(3, 206, unsafe.Sizeof(prReadKeys{}))},
		{iocReadReservation, iow(2, 207, unsafe.Sizeof(prReadReservation{}))},
		{unsafe.Sizeof(sgHeader{}), 88},
		{unsafe.Offsetof(sgHeader{}.status), 64},
	} {
		if c.have != c.want {
			t.Errorf("0x%x, want 0x%x", c.have, c.want)
		}
	}
}

func keysAnswer(generation, length uint32, keys ...uint64) []byte {
	b := binary.BigEndian.AppendUint32(nil, generation)
	b = binary.BigEndian.AppendUint32(b, length)
	for _, k := range keys {
		b = binary.BigEndian.AppendUint64(b, k)
	}
	return b
}

func TestParseKeys(t *testing.T) {
	k, err := parseKeys(append(keysAnswer(3, 16, 5, 6), make([]byte, 100)...))
	if err != nil || k.Generation != 3 || !slices.Equal(k.Keys, []Key{5, 6}) {
		t.Errorf("%+v, %v", k, err)
	}
	for _, b := range [][]byte{nil, {1, 2, 3}, keysAnswer(1, 7, 1), keysAnswer(1, 16, 1), keysAnswer(1, 0xfffffff8, 1)} {
		if k, err := parseKeys(b); err == nil {
			t.Errorf("%x gives %+v", b, k)
		}
	}
}

func TestParseReservation(t *testing.T) {
	held := append(keysAnswer(9, 16, 5), 0, 0, 0, 0, 0, 5, 0, 0)
	r, err := parseReservation(held)
	if err != nil || r != (Reservation{Key: 5, Type: WriteExclusiveRegistrantsOnly, Generation: 9}) {
		t.Errorf("%+v, %v", r, err)
	}
	if r, err := parseReservation(keysAnswer(9, 0)); err != nil || r.Key != 0 || r.Type.String() != "none" {
		t.Errorf("%+v, %v", r, err)
	}
	held[21] = 4
	for _, b := range [][]byte{nil, keysAnswer(9, 16, 5), held} {
		if r, err := parseReservation(b); err == nil {
			t.Errorf("%x gives %+v", b, r)
		}
	}
}

func FuzzPersistentReserveIn(f *testing.F) {
	f.Add(keysAnswer(3, 16, 5, 6))
	f.Fuzz(func(t *testing.T, b []byte) {
		if k, err := parseKeys(b); err == nil && 8*len(k.Keys) > len(b) {
			t.Error("more keys than bytes")
		}
		_, _ = parseReservation(b)
	})
}

// memDisk is a disk in memory; memPath one machine's path to it.
type memDisk struct {
	generation uint32
	keys       map[string]Key // by path
	holder     string
	kind       ReservationType
	// raced is called before the first preemption.
	raced func()
}

type memPath struct {
	d    *memDisk
	name string
}

func (p memPath) check(own Key) error {
	if own == 0 || p.d.keys[p.name] != own {
		return ErrReservationConflict
	}
	return nil
}

func (p memPath) Register(own Key) error { p.d.keys[p.name] = own; p.d.generation++; return nil }

func (p memPath) Unregister(own Key) error {
	if err := p.check(own); err != nil {
		return err
	}
	p.d.drop(p.name)
	return nil
}

func (d *memDisk) drop(path string) {
	delete(d.keys, path)
	if d.holder == path {
		d.holder = ""
	}
	d.generation++
}

func (p memPath) Reserve(own Key) error {
	if err := p.check(own); err != nil || p.d.holder != "" && p.d.holder != p.name {
		return ErrReservationConflict
	}
	p.d.holder, p.d.kind = p.name, WriteExclusiveRegistrantsOnly
	return nil
}

func (p memPath) Preempt(own, victim Key) error {
	if raced := p.d.raced; raced != nil {
		p.d.raced = nil
		raced()
	}
	if err := p.check(own); err != nil {
		return err
	}
	for path, k := range p.d.keys {
		if k == victim {
			if p.d.holder == path {
				p.d.holder = p.name
			}
			delete(p.d.keys, path)
		}
	}
	p.d.generation++
	return nil
}

func (p memPath) PreemptAbort(own, victim Key) error { return p.Preempt(own, victim) }
func (p memPath) Release(own Key) error              { p.d.holder = ""; return p.check(own) }
func (p memPath) Clear(Key) error                    { p.d.keys, p.d.holder = map[string]Key{}, ""; return nil }
func (p memPath) Close() error                       { return nil }

func (p memPath) ReadKeys() (Keys, error) {
	k := Keys{Generation: p.d.generation}
	for _, name := range sortedKeys(p.d.keys) {
		k.Keys = append(k.Keys, p.d.keys[name])
	}
	return k, nil
}

func (p memPath) ReadReservation() (Reservation, error) {
	if p.d.holder == "" {
		return Reservation{}, nil
	}
	return Reservation{Key: p.d.keys[p.d.holder], Type: p.d.kind}, nil
}

func TestFenceDisk(t *testing.T) {
	a, b, c := mustKey(t, 1), mustKey(t, 2), mustKey(t, 3)
	fresh := func() (*memDisk, memPath) {
		d := &memDisk{keys: map[string]Key{"a": a, "b": b, "b2": b, "c": c}}
		return d, memPath{d, "a"}
	}
	d, p := fresh()
	if err := memPath.Reserve(memPath{d, "b"}, b); err != nil {
		t.Fatal(err)
	}
	if err := FenceDisk(p, a, []Key{b, mustKey(t, 9)}); err != nil {
		t.Fatal(err)
	}
	if len(d.keys) != 2 || d.holder != "a" {
		t.Errorf("keys %v, holder %q", d.keys, d.holder)
	}
	if err := FenceDisk(p, a, []Key{b}); err != nil {
		t.Errorf("again: %v", err)
	}
	// Whoever has no key any more has lost.
	if err := FenceDisk(memPath{d, "b"}, b, []Key{a}); !errors.Is(err, ErrReservationConflict) || !strings.Contains(err.Error(), "not registered") {
		t.Errorf("the fenced one fences: %v", err)
	}
	// Both at once: one of them is told.
	d, p = fresh()
	d.raced = func() { _ = memPath{d, "b"}.Preempt(b, a) }
	if err := FenceDisk(p, a, []Key{b}); !errors.Is(err, ErrReservationConflict) {
		t.Errorf("the slower one: %v", err)
	}
	d, p = fresh()
	d.holder, d.kind = "c", ExclusiveAccess
	if err := FenceDisk(p, a, []Key{b}); !errors.Is(err, ErrReservationConflict) || !strings.Contains(err.Error(), "something else") {
		t.Errorf("a foreign reservation: %v", err)
	}
	if err := FenceDisk(p, a, []Key{a}); err == nil {
		t.Error("a node fences itself")
	}
}

func TestOpenDiskRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{file: "it is no block device", "/dev/null": "it is no block device", file + ".none": "no such file"} {
		if d, err := OpenDisk(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, %v", path, d, err)
		}
	}
}

func TestStatusOfTheKernel(t *testing.T) {
	d := &Disk{path: "/dev/sdz"}
	for _, c := range []struct {
		status int
		is     error
	}{{0x18, ErrReservationConflict}, {0x83, ErrReservationConflict}, {0x4083, ErrReservationConflict}, {0x4001, ErrNoReservations}} {
		if err := d.failed("try", c.status, 0); !errors.Is(err, c.is) || !strings.HasPrefix(err.Error(), "fence: /dev/sdz: try: ") {
			t.Errorf("status 0x%x: %v", c.status, err)
		}
	}
	if err := d.failed("try", 0x70000, 0); err == nil || errors.Is(err, ErrReservationConflict) {
		t.Errorf("a path that fails: %v", err)
	}
	if err := d.failed("try", 0, 0); err != nil {
		t.Error(err)
	}
}

func TestWatchdogThatIsNone(t *testing.T) {
	for path, want := range map[string]string{
		"/dev/nonsense": "there is no watchdog /dev/nonsense", "/dev/null": "/dev/null is no watchdog", t.TempDir(): "is no watchdog",
	} {
		if w, err := ArmWatchdog(path, 1); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, %v", path, w, err)
		}
	}
	if _, err := WatchdogPath(t.Context(), "watchdog"); err == nil || !strings.Contains(err.Error(), "absolute path") {
		t.Errorf("a relative path: %v", err)
	}
	if p, err := WatchdogPath(t.Context(), "/dev/watchdog7"); p != "/dev/watchdog7" || err != nil {
		t.Errorf("%q, %v", p, err)
	}
	class := t.TempDir()
	if err := os.MkdirAll(filepath.Join(class, "watchdog0"), 0o755); err != nil {
		t.Fatal(err)
	}
	for file, content := range map[string]string{"nowayout": "1\n", "min_timeout": "2\n", "max_timeout": "30\n"} {
		if err := os.WriteFile(filepath.Join(class, "watchdog0", file), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	least, most := limits(class, "/dev/watchdog")
	if !noWayOut(class, "/dev/watchdog") || noWayOut(class, "/dev/watchdog1") || least != 2 || most != 30 {
		t.Errorf("nowayout %v, %d to %d seconds", noWayOut(class, "/dev/watchdog"), least, most)
	}
}
