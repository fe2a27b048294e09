// Package device carries out on real disks what package lockdisk decides:
// block devices and files, opened past the page cache. It also formats them,
// gives their slots to clusters, and shows and checks what is on them.
//
//	V1  one I/O is under way at a time. A caller may give up waiting for one that hangs, the next request may not
//	V2  a node's block is locked through the same open file that is written to; while a write hangs in the
//	    kernel, even of a killed process, the next run of the node on this machine waits
//	V3  nothing is written on a disk whose header does not say that it is a lock disk, except by Format
//	V4  Format refuses a disk on which it finds anything, unless it is forced, and one that is in use even then
//	V5  a disk that fails is closed and opened anew: its path may lead to it by another way by then
//
// Two clusters that claim a slot at the same time: see Claim.
package device

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-ha/holdfast/internal/cluster/lockdisk"
	"github.com/holdfast-ha/holdfast/internal/cluster/witness/witnesspb"
)

const (
	// lockLimit is how long a request waits for an earlier run's I/O to leave the kernel.
	lockLimit = 30 * time.Second
	lockPoll  = 20 * time.Millisecond
)

var errClosed = errors.New("lock disk: it has been closed")

// Disk is a node's hand on a slot of a lock disk.
type Disk struct {
	path string
	cfg  lockdisk.Config
	// turn is held by the request that is under way (V1). It owns the fields below.
	turn chan struct{}
	m    *lockdisk.Machine
	f    *file

	mu     sync.Mutex
	doing  string // what the request under way is at
	closed bool
}

// Open makes a Disk. The disk itself is opened by the first request: it may be
// away now, and come later. A Run of 0 is drawn.
func Open(path string, cfg lockdisk.Config) (*Disk, error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("lock disk: the path %q is not absolute", path)
	}
	for cfg.Run == 0 {
		cfg.Run = random()
	}
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	return &Disk{path: path, cfg: cfg, turn: make(chan struct{}, 1), m: lockdisk.NewMachine(cfg)}, nil
}

func random() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return binary.LittleEndian.Uint64(b[:])
}

// Do carries out a request. When ctx ends before that, the request may take
// effect all the same; an answer that nobody heard binds nobody but this node.
func (d *Disk) Do(ctx context.Context, r *witnesspb.Request) (*witnesspb.Reply, error) {
	out, err := d.do(ctx, func(now time.Duration) { d.m.Start(now, r) })
	return out.Reply, err
}

// Mark writes a nonce into this node's block (nil: it stays) and returns those
// of all nodes. Nodes that see each other's are at the same disk.
func (d *Disk) Mark(ctx context.Context, nonce []byte) ([]lockdisk.Mark, error) {
	out, err := d.do(ctx, func(now time.Duration) { d.m.StartMark(now, nonce) })
	return out.Marks, err
}

// Close gives the disk up. What still hangs is waited for in the background.
func (d *Disk) Close() error {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	end := func() {
		d.f.close()
		d.f = nil
		<-d.turn // those who wait are told that it is closed
	}
	select {
	case d.turn <- struct{}{}:
		end()
	default:
		go func() {
			d.turn <- struct{}{}
			end()
		}()
	}
	return nil
}

func (d *Disk) do(ctx context.Context, start func(time.Duration)) (lockdisk.Out, error) {
	select {
	case d.turn <- struct{}{}:
	case <-ctx.Done():
		return lockdisk.Out{}, d.late(ctx)
	}
	result := make(chan lockdisk.Out, 1)
	go func() {
		out := d.run(start)
		d.at("")
		<-d.turn
		result <- out
	}()
	select {
	case out := <-result:
		return out, out.Err
	case <-ctx.Done():
		return lockdisk.Out{}, d.late(ctx)
	}
}

func (d *Disk) late(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	what := "it has not answered in time"
	if d.doing != "" {
		what = "it is still " + d.doing
	}
	return fmt.Errorf("lock disk %s: %s: %w", d.path, what, context.Cause(ctx))
}

func (d *Disk) at(doing string) {
	d.mu.Lock()
	d.doing = doing
	d.mu.Unlock()
}

// run a request to its end.
func (d *Disk) run(start func(time.Duration)) lockdisk.Out {
	d.mu.Lock()
	closed := d.closed
	d.mu.Unlock()
	if closed {
		return lockdisk.Out{Err: errClosed}
	}
	if err := d.open(); err != nil {
		return lockdisk.Out{Err: fmt.Errorf("lock disk: %w", err)}
	}
	start(boottime())
	for {
		out := d.m.Take()
		if out.IO == nil {
			return out
		}
		if out.IO.Write != nil {
			d.at("writing")
		} else {
			d.at("reading")
		}
		r := d.f.perform(out.IO)
		if r.Err != nil {
			d.drop()
		}
		d.m.Done(boottime(), r)
	}
}

// drop the open file: the next request opens the disk anew (V5).
func (d *Disk) drop() {
	d.f.close()
	d.f = nil
	d.m.Reopened()
}

func (d *Disk) open() error {
	if d.f != nil && !d.f.current() {
		d.drop()
	}
	if d.f != nil {
		return nil
	}
	d.at("opening it")
	f, err := openFile(d.path, forWriting)
	if err != nil {
		return err
	}
	if err := d.lock(f); err != nil {
		f.close()
		return err
	}
	d.f = f
	return nil
}

// lock the node's own block (V2).
func (d *Disk) lock(f *file) error {
	at := lockdisk.RecordAddress(d.cfg.Slot, int(d.cfg.Number), 0, 0)
	for deadline := boottime() + lockLimit; ; time.Sleep(lockPoll) {
		err := f.lock(at, lockdisk.PageSize)
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EACCES):
			return fmt.Errorf("locking block %d of %s: %w", d.cfg.Number, d.path, err)
		case boottime() >= deadline:
			return fmt.Errorf("something on this machine still uses block %d of %s: if it is a process that has been killed, its I/O hangs in the kernel; mend the disk's path, or restart the machine", d.cfg.Number, d.path)
		}
		d.at("waiting for something on this machine that uses the same block")
		d.mu.Lock()
		closed := d.closed
		d.mu.Unlock()
		if closed {
			return errClosed
		}
	}
}

// boottime is CLOCK_BOOTTIME.
func boottime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(fmt.Sprintf("lock disk: CLOCK_BOOTTIME: %v", err))
	}
	return time.Duration(ts.Nano())
}
