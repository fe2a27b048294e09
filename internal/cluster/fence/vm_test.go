//go:build linux && vm

package fence

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// These tests run in a virtual machine (make test-vm): they need the kernel's SCSI
// target. A disk in memory is seen over three I_T nexuses, as if by three machines.

const target = "/sys/kernel/config/target"

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0); err != nil {
		t.Fatal(err)
	}
}

func mkdir(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
}

// backstore of the SCSI target: 16 MiB in memory.
func backstore(t *testing.T, nr int) string {
	dir := fmt.Sprintf("%s/core/rd_mcp_%d/disk", target, nr)
	mkdir(t, dir)
	put(t, dir+"/control", "rd_pages=4096\n")
	put(t, dir+"/enable", "1\n")
	put(t, dir+"/wwn/vpd_unit_serial", fmt.Sprintf("holdfast-%d\n", nr))
	return dir
}

// nexus makes an initiator that sees a backstore, and returns its block device.
func nexus(t *testing.T, disk string, nr int) string {
	t.Helper()
	tpg := fmt.Sprintf("%s/loopback/naa.50014050000000%02x/tpgt_1", target, nr)
	mkdir(t, tpg)
	put(t, tpg+"/nexus", fmt.Sprintf("naa.60014050000000%02x\n", nr))
	mkdir(t, tpg+"/lun/lun_0")
	if err := os.Symlink(disk, tpg+"/lun/lun_0/port"); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(tpg + "/address")
	if err != nil {
		t.Fatal(err)
	}
	blocks := fmt.Sprintf("/sys/bus/scsi/devices/%s:0/block/*", strings.TrimSpace(string(raw)))
	for range 500 { // the disk is found asynchronously
		if found, _ := filepath.Glob(blocks); len(found) == 1 {
			path := "/dev/" + filepath.Base(found[0])
			if fd, err := unix.Open(path, unix.O_RDONLY, 0); err == nil {
				unix.Close(fd)
				return path
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatalf("no disk at %s", blocks)
	return ""
}

type view struct {
	*Disk
	t    *testing.T
	path string
	key  Key
}

func open(t *testing.T, path string, key Key) view {
	t.Helper()
	d, err := OpenDisk(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return view{d, t, path, key}
}

// io does one direct transfer of 4 KiB.
func (v view) io(write bool) error {
	flags := unix.O_DIRECT | unix.O_SYNC
	if write {
		flags |= unix.O_RDWR
	}
	fd, err := unix.Open(v.path, flags, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	mem, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return err
	}
	defer unix.Munmap(mem)
	if !write {
		_, err = unix.Pread(fd, mem, 0)
		return err
	}
	*(*uint64)(unsafe.Pointer(&mem[0])) = uint64(v.key)
	_, err = unix.Pwrite(fd, mem, 0)
	return err
}

func (v view) mayWrite() {
	v.t.Helper()
	if err := v.io(true); err != nil {
		v.t.Errorf("key %v, %s: write: %v", v.key, v.path, err)
	}
}

func (v view) mayNotWrite() {
	v.t.Helper()
	if err := v.io(true); !errors.Is(err, unix.EBADE) {
		v.t.Errorf("key %v, %s: write: %v, want a reservation conflict (%v)", v.key, v.path, err, unix.EBADE)
	}
	if err := v.io(false); err != nil {
		v.t.Errorf("key %v, %s: everybody may read: %v", v.key, v.path, err)
	}
}

func (v view) wantKeys(want ...Key) {
	v.t.Helper()
	k, err := v.ReadKeys()
	slices.Sort(k.Keys)
	slices.Sort(want)
	if err != nil || !slices.Equal(k.Keys, want) {
		v.t.Errorf("%s: keys %v, %v; want %v", v.path, k.Keys, err, want)
	}
}

func (v view) wantHolder(want Key) {
	v.t.Helper()
	r, err := v.ReadReservation()
	if err != nil || r.Key != want || want != 0 && r.Type != WriteExclusiveRegistrantsOnly {
		v.t.Errorf("%s: reserved by %v as %v, %v; want %v", v.path, r.Key, r.Type, err, want)
	}
}

// PreemptAbort is Preempt here: the loopback target of the kernel waits for itself
// in PREEMPT AND ABORT (core_tmr_lun_reset flushes the queue that it runs in).
func (v view) PreemptAbort(own, victim Key) error { return v.Preempt(own, victim) }

func (v view) must(err error) {
	v.t.Helper()
	if err != nil {
		v.t.Fatal(err)
	}
}

func TestVMReservations(t *testing.T) {
	mkdir(t, "/var/target/pr") // where the target keeps what has to survive a power cut
	disk := backstore(t, 0)
	mkdir(t, target+"/loopback")
	a := open(t, nexus(t, disk, 1), mustKey(t, 1))
	b := open(t, nexus(t, disk, 2), mustKey(t, 2))
	c := open(t, nexus(t, disk, 3), mustKey(t, 3))

	a.wantKeys()
	a.wantHolder(0)
	for _, v := range []view{a, b, c} {
		v.mayWrite()
	}
	if err := a.Reserve(a.key); err == nil || errors.Is(err, ErrNoReservations) {
		t.Errorf("reserved without a registration: %v", err)
	}
	a.must(a.Register(a.key))
	a.must(a.Register(a.key)) // again: an earlier incarnation has done it
	a.must(a.Reserve(a.key))
	a.must(a.Reserve(a.key))
	b.must(b.Register(b.key))
	a.wantKeys(a.key, b.key)
	b.wantHolder(a.key)
	if err := b.Reserve(b.key); !errors.Is(err, ErrReservationConflict) {
		t.Errorf("reserved a second time: %v", err)
	}
	a.mayWrite()
	b.mayWrite()    // a registrant
	c.mayNotWrite() // not one

	// B takes over from A.
	if err := c.Preempt(c.key, a.key); !errors.Is(err, ErrReservationConflict) {
		t.Errorf("preempted without a registration: %v", err)
	}
	b.must(b.Preempt(b.key, a.key))
	b.wantKeys(b.key)
	b.wantHolder(b.key)
	b.mayWrite()
	a.mayNotWrite()
	if err := a.Preempt(a.key, b.key); !errors.Is(err, ErrReservationConflict) {
		t.Errorf("the preempted one preempts: %v", err)
	}

	// A new incarnation of A comes in with another key, and C.
	a.key = mustKey(t, 4)
	a.must(a.Register(a.key))
	a.mayWrite()
	c.must(c.Register(c.key))
	c.mayWrite()
	a.must(FenceDisk(a, a.key, []Key{b.key, mustKey(t, 1)}))
	a.wantKeys(a.key, c.key)
	a.wantHolder(a.key)
	b.mayNotWrite()
	c.mayWrite()
	if err := FenceDisk(b, b.key, []Key{a.key}); !errors.Is(err, ErrReservationConflict) {
		t.Errorf("the fenced one fences: %v", err)
	}
	// One that does not hold the reservation loses its key only.
	a.must(a.PreemptAbort(a.key, c.key))
	a.wantKeys(a.key)
	c.mayNotWrite()

	a.must(a.Release(a.key))
	a.wantHolder(0)
	c.mayWrite()
	a.must(a.Reserve(a.key))
	c.must(c.Register(c.key))
	a.must(a.Unregister(a.key)) // and with it its reservation
	c.wantKeys(c.key)
	c.wantHolder(0)
	c.must(c.Clear(c.key))
	c.wantKeys()
}

// A disk without reservations says so.
func TestVMReservationsUnsupported(t *testing.T) {
	disk := backstore(t, 1)
	mkdir(t, target+"/loopback")
	put(t, disk+"/attrib/emulate_pr", "0\n")
	v := open(t, nexus(t, disk, 9), mustKey(t, 1))
	if err := v.Register(v.key); !errors.Is(err, ErrNoReservations) {
		t.Errorf("register: %v", err)
	}
	if _, err := v.ReadKeys(); !errors.Is(err, ErrNoReservations) {
		t.Errorf("read keys: %v", err)
	}
	v.mayWrite()
}
