//go:build linux

package guardd

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-ha/holdfast/internal/cluster/guard"
	"github.com/holdfast-ha/holdfast/internal/cluster/identity"
	"github.com/holdfast-ha/holdfast/internal/node/guardclient"
)

// Identity of the node, as far as guard needs it.
type Identity struct {
	Node        string
	ClusterUUID string
	// Links has the node's own addresses as a configuration has them, in link order.
	// They are bound until the engine has configured others.
	Links []string
	// Secret of the heartbeats, guard.SecretSize bytes.
	Secret []byte
	// Accept these secrets too: one is taking the place of another.
	Accept [][]byte
}

// Options of [Run].
type Options struct {
	// StateDir holds the node's identity and survives reboots.
	StateDir string
	// RunDir holds what does not.
	RunDir string
	// Engine is the command line of clusterd. Empty: this program's own.
	Engine []string
	// Identity of the node. Nil: it is read from StateDir.
	Identity *Identity
	// Watchdog to arm: the path of a device, "auto", or "off" (and empty).
	Watchdog string
	// MayRestart allows guard to restart this machine when a package demands it (fail-fast). Without it the node only leaves.
	MayRestart bool
	// Log, nil: slog.Default.
	Log *slog.Logger

	// In tests, instead of a device.
	armWatchdog func(path string, timeout time.Duration) (watchdog, error)
	restart     func() error
}

// ErrRunning: another guard uses the run directory.
var ErrRunning = errors.New("guardd: another guard runs already")

// shutdownLimit is how long an orderly end may take before guard gives up on it.
const shutdownLimit = 10 * time.Second

// Run is guard. It returns nil when the engine asked it to end, or after an
// orderly shutdown when ctx is done: everything protected stopped, goodbye said.
func Run(ctx context.Context, o Options) error {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	o, err := o.complete()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(o.RunDir, 0o700); err != nil {
		return fmt.Errorf("guardd: run directory: %w", err)
	}
	lock, err := lockRunDir(o.RunDir)
	if err != nil {
		return err
	}
	defer lock.Close()
	kept, err := loadState(o.RunDir)
	if err != nil {
		o.Log.Error("what an earlier guard kept can't be used; no lease is taken over", "error", err)
	}
	if kept, err = loadDetached(o.StateDir, kept); err != nil {
		return err
	}
	page, err := openLeasePage(o.RunDir, kept.sameBoot)
	if err != nil {
		return err
	}
	incarnation, err := nextIncarnation(o.StateDir, kept.saved.GetIncarnation())
	if err != nil {
		return err
	}
	cfg := guard.Config{
		Node: o.Identity.Node, Incarnation: incarnation,
		Saved: kept.saved, LeaseUntil: page.until(), Rebooted: !kept.sameBoot,
	}
	debug.SetGCPercent(25)
	debug.SetMemoryLimit(24 << 20)
	feeder := newFeeder(o) // before anything that it starts would inherit priority
	privileges := takePrivileges()
	for _, c := range privileges {
		o.Log.Warn(c)
	}
	l, err := newLoop(o, cfg, page, privileges, feeder)
	if err != nil {
		return err
	}
	defer l.close()
	o.Log.Info("guard started", "node", cfg.Node, "incarnation", incarnation, "rebooted", cfg.Rebooted)

	ended := make(chan struct{})
	defer close(ended)
	go func() {
		select {
		case <-ended:
			return
		case <-ctx.Done():
		}
		l.post(func(now time.Duration) { l.core.Shutdown(now, "guard is told to end") })
		select {
		case <-ended:
		case <-time.After(shutdownLimit):
			l.post(func(time.Duration) {
				l.fatal = fmt.Errorf("guardd: not everything has stopped within %v; ending without a goodbye", shutdownLimit)
			})
		}
	}()
	err = l.run()
	l.feeder.end(l.exit) // clusterd may take longer to end than the time-out
	alone := endAlone
	if ctx.Err() != nil {
		alone = 0
	}
	l.supervisor.end(l.engines.close(), alone)
	return err
}

// restartMachine at once, as a crash would: what programs have not written is lost.
// What the kernel has not written must not be: it could land on disks that others use by now.
func restartMachine() error {
	err := unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	if err == nil {
		return nil
	}
	// Where that is forbidden (a container with a namespace of its own, say) the kernel may still take it from here.
	return errors.Join(err, os.WriteFile("/proc/sysrq-trigger", []byte("b"), 0))
}

func (o Options) complete() (Options, error) {
	if o.Identity == nil {
		id, err := identity.Load(o.StateDir)
		if err != nil {
			return o, fmt.Errorf("guardd: %w", err)
		}
		keys, err := id.Keys()
		if err != nil {
			return o, fmt.Errorf("guardd: %w", err)
		}
		own := &Identity{Node: id.Node, ClusterUUID: id.ClusterUUID}
		own.keys(keys)
		for _, link := range id.Self().GetLinks() {
			own.Links = append(own.Links, link.GetAddress())
		}
		o.Identity = own
	}
	if o.restart == nil {
		o.restart = restartMachine
	}
	if len(o.Engine) == 0 {
		self, err := os.Executable()
		if err != nil {
			return o, fmt.Errorf("guardd: the own program: %w", err)
		}
		o.Engine = []string{self, "clusterd", "--state-dir", o.StateDir, "--run-dir", o.RunDir}
	}
	return o, nil
}

// lockRunDir makes sure that this is the only guard (D6). The lock ends with the process.
func lockRunDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "guard.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("guardd: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		pid := make([]byte, 20)
		n, _ := f.ReadAt(pid, 0)
		f.Close()
		return nil, fmt.Errorf("%w: process %s uses %s; stop it first, or give this one another --run-dir", ErrRunning, strings.TrimSpace(string(pid[:n])), dir)
	}
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	return f, nil
}

// nextIncarnation raises D/guard.incarnation, durably (D1). It never goes below
// what a guard of this boot has used.
func nextIncarnation(dir string, used uint64) (uint64, error) {
	path := filepath.Join(dir, "guard.incarnation")
	var last uint64
	raw, err := os.ReadFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return 0, fmt.Errorf("guardd: %w", err)
	default:
		if last, err = strconv.ParseUint(strings.TrimSpace(string(raw)), 10, 64); err != nil {
			return 0, fmt.Errorf("guardd: %s holds no number (%q): restore it, or let the node rejoin as new", path, raw)
		}
	}
	next := max(last, used) + 1
	if err := writeFile(path, []byte(strconv.FormatUint(next, 10)+"\n"), true); err != nil {
		return 0, fmt.Errorf("guardd: raise the guard's incarnation: %w", err)
	}
	return next, nil
}

// writeFile replaces path atomically, and durably if asked for.
func writeFile(path string, content []byte, durable bool) error {
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil && durable {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil || !durable {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func newSalt() (salt [guard.SaltSize]byte, err error) {
	_, err = rand.Read(salt[:])
	return salt, err
}

// now is CLOCK_BOOTTIME.
func now() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(fmt.Sprintf("guardd: CLOCK_BOOTTIME: %v", err))
	}
	return time.Duration(ts.Nano())
}

// socketPath of the engine's socket.
func socketPath(dir string) string { return filepath.Join(dir, guardclient.SocketName) }
