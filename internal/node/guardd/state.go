//go:build linux

package guardd

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/holdfast-ha/holdfast/internal/cluster/guard"
	"github.com/holdfast-ha/holdfast/internal/node/guardclient"
	"github.com/holdfast-ha/holdfast/internal/wire"
)

// maxState bounds guard.state, in bytes.
const maxState = 1 << 20

// kept is what an earlier guard has left.
type kept struct {
	saved *guard.Saved
	// A guard has run before in this boot, whether or not what it left can be read.
	sameBoot bool
}

// loadState reads R/guard.state. It is a line with the boot's id, and a frame. A
// file of another boot counts as none.
func loadState(dir string) (kept, error) {
	raw, err := os.ReadFile(filepath.Join(dir, "guard.state"))
	if errors.Is(err, os.ErrNotExist) {
		return kept{}, nil
	}
	if err != nil {
		return kept{sameBoot: true}, err
	}
	boot, frame, ok := bytes.Cut(raw, []byte("\n"))
	if !ok {
		return kept{sameBoot: true}, fmt.Errorf("guard.state: no boot id in its first line")
	}
	if string(boot) != bootID() {
		return kept{}, nil
	}
	s := new(guard.Saved)
	if err := wire.ReadFrame(bufio.NewReader(bytes.NewReader(frame)), s, maxState); err != nil {
		return kept{sameBoot: true}, fmt.Errorf("guard.state: %w", err)
	}
	return kept{saved: s, sameBoot: true}, nil
}

func saveState(dir string, s *guard.Saved) error {
	content, err := wire.AppendFrame([]byte(bootID()+"\n"), s)
	if err != nil {
		return err
	}
	// Not durable on purpose: it must not survive a reboot.
	return writeFile(filepath.Join(dir, "guard.state"), content, false)
}

// detachedName is a file in the state directory, which nobody tidies up: what was left running by a detach
// must be known to the next guard of this boot even if the run directory has gone with the daemons.
const detachedName = "guard.detached"

// saveDetached keeps what goes on without a lease, durably, or that nothing does.
func saveDetached(dir string, s *guard.Saved) error {
	path := filepath.Join(dir, detachedName)
	if len(s.GetDetached()) == 0 {
		if err := os.Remove(path); !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	}
	content, err := wire.AppendFrame([]byte(bootID()+"\n"), &guard.Saved{Incarnation: s.GetIncarnation(), Detached: s.GetDetached()})
	if err != nil {
		return err
	}
	return writeFile(path, content, true)
}

// loadDetached adds to what was kept in the run directory what is only in the state directory any more. An error means
// that it is not known what runs here.
func loadDetached(dir string, k kept) (kept, error) {
	path := filepath.Join(dir, detachedName)
	raw, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) || err == nil && !bytes.HasPrefix(raw, []byte(bootID()+"\n")) {
		return k, nil // of another boot: nothing of that runs
	}
	s := new(guard.Saved)
	if err == nil {
		_, frame, _ := bytes.Cut(raw, []byte("\n"))
		err = wire.ReadFrame(bufio.NewReader(bytes.NewReader(frame)), s, maxState)
	}
	if err != nil {
		return k, fmt.Errorf("guardd: it is not known what was left running here when this node was detached: %w; restart the machine, or stop that and remove %s", err, path)
	}
	if k.saved == nil {
		k = kept{saved: s, sameBoot: true}
	}
	return k, nil
}

func bootID() string {
	raw, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(raw))
}

// leasePage is R/guard.lease, mapped: the end of the lease is written with a store,
// not a system call, and outlives this process.
type leasePage struct {
	mem []byte
}

// openLeasePage maps the file; keep its value only if it is of this boot.
func openLeasePage(dir string, sameBoot bool) (*leasePage, error) {
	f, err := os.OpenFile(filepath.Join(dir, guardclient.LeaseName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("guardd: %w", err)
	}
	defer f.Close()
	if err := f.Truncate(guardclient.LeaseSize); err != nil {
		return nil, fmt.Errorf("guardd: %w", err)
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, guardclient.LeaseSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("guardd: map %s: %w", f.Name(), err)
	}
	p := &leasePage{mem: mem}
	if !sameBoot || string(mem[:len(guardclient.LeaseMagic)]) != guardclient.LeaseMagic {
		p.set(0)
	}
	copy(mem, guardclient.LeaseMagic)
	return p, nil
}

func (p *leasePage) word() *int64 {
	return (*int64)(unsafe.Pointer(&p.mem[guardclient.LeaseOffset]))
}

// until is the end of the lease as it stands; 0: none.
func (p *leasePage) until() time.Duration {
	return time.Duration(int64(binary.LittleEndian.Uint64(p.mem[guardclient.LeaseOffset:])))
}

func (p *leasePage) set(until time.Duration) {
	if until == p.until() {
		return
	}
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], uint64(until))
	atomic.StoreInt64(p.word(), *(*int64)(unsafe.Pointer(&b)))
}

func (p *leasePage) close() {
	if p.mem != nil {
		_ = unix.Munmap(p.mem)
		p.mem = nil
	}
}
