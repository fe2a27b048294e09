//go:build linux

// Package guardclient is clusterd's end of the connection to guard.
//
// A [Conn] carries frames both ways until it breaks; then its channel is closed, and
// the caller dials again when it likes: guard, or the guard after it, is there again
// soon. [LeaseUntil] tells how long this node may act even when guard does not answer.
//
// The frames are docs/formats/guard.md.
package guardclient

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
	"github.com/holdfast-ha/holdfast/internal/wire"
)

const (
	// SocketName of guard's socket in the run directory.
	SocketName = "guard.sock"
	// LockName is locked (flock) by clusterd as long as it runs: guard starts no second one.
	LockName = "clusterd.lock"

	// LeaseName is the file in the run directory in which guard keeps the end of the lease.
	LeaseName = "guard.lease"
	// LeaseMagic begins it.
	LeaseMagic = "HfLease1"
	// LeaseOffset of the end of the lease: CLOCK_BOOTTIME in nanoseconds, little-endian; 0: no lease.
	LeaseOffset = 8
	LeaseSize   = 64

	// MaxFrame bounds a frame in either direction, in bytes.
	MaxFrame = 1 << 20
	// writeLimit: a guard that takes nothing for so long is as good as gone.
	writeLimit = 5 * time.Second
	queued     = 256
)

// Conn is a connection to guard.
type Conn struct {
	c      net.Conn
	frames chan *guardpb.FromGuard
	mu     sync.Mutex // one frame at a time is written
	err    error      // why frames was closed; set before
	once   sync.Once
	closed chan struct{}
}

// Dial connects to the guard of a run directory. It does not wait for one.
func Dial(runDir string) (*Conn, error) {
	c, err := net.DialTimeout("unix", filepath.Join(runDir, SocketName), writeLimit)
	if err != nil {
		return nil, fmt.Errorf("guardclient: %w", err)
	}
	return New(c), nil
}

// New takes a connection that somebody else has made.
func New(c net.Conn) *Conn {
	conn := &Conn{c: c, frames: make(chan *guardpb.FromGuard, queued), closed: make(chan struct{})}
	go conn.read()
	return conn
}

func (c *Conn) read() {
	defer close(c.frames)
	r := bufio.NewReader(c.c)
	for {
		f := new(guardpb.FromGuard)
		if err := wire.ReadFrame(r, f, MaxFrame); err != nil {
			if errors.Is(err, io.EOF) {
				err = errors.New("guard has closed the connection")
			}
			c.err = fmt.Errorf("guardclient: %w", err)
			return
		}
		select {
		case c.frames <- f:
		case <-c.closed:
			c.err = errors.New("guardclient: closed")
			return
		}
	}
}

// Frames of guard, the first of them a Welcome. The channel is closed when the
// connection breaks; [Conn.Err] says why.
func (c *Conn) Frames() <-chan *guardpb.FromGuard { return c.frames }

// Err is why Frames was closed. It must be called only after that.
func (c *Conn) Err() error { return c.err }

// Send a frame. After an error the connection is closed.
func (c *Conn) Send(f *guardpb.ToGuard) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.c.SetWriteDeadline(time.Now().Add(writeLimit))
	if err := wire.WriteFrame(c.c, f); err != nil {
		c.Close()
		return fmt.Errorf("guardclient: %w", err)
	}
	return nil
}

// Close the connection.
func (c *Conn) Close() error {
	err := net.ErrClosed
	c.once.Do(func() {
		close(c.closed)
		err = c.c.Close()
	})
	return err
}

// LeaseUntil is the end of this node's lease as guard has left it in the run
// directory (CLOCK_BOOTTIME): 0 if there is none. It stands still when guard is dead.
func LeaseUntil(runDir string) (time.Duration, error) {
	raw, err := os.ReadFile(filepath.Join(runDir, LeaseName))
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("guardclient: %w", err)
	}
	if len(raw) < LeaseSize || string(raw[:len(LeaseMagic)]) != LeaseMagic {
		return 0, fmt.Errorf("guardclient: %s is not guard's", LeaseName)
	}
	return time.Duration(binary.LittleEndian.Uint64(raw[LeaseOffset:])), nil
}

// Boottime is the clock that guard's times are of.
func Boottime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(fmt.Sprintf("guardclient: CLOCK_BOOTTIME: %v", err))
	}
	return time.Duration(ts.Nano())
}
