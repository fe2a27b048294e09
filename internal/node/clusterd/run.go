//go:build linux

package clusterd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-ha/holdfast/internal/api"
	"github.com/holdfast-ha/holdfast/internal/cluster/consensus"
	"github.com/holdfast-ha/holdfast/internal/cluster/identity"
	"github.com/holdfast-ha/holdfast/internal/cluster/logstore"
	"github.com/holdfast-ha/holdfast/internal/cluster/peer"
	"github.com/holdfast-ha/holdfast/internal/group/agents"
	"github.com/holdfast-ha/holdfast/internal/node/engine"
	"github.com/holdfast-ha/holdfast/internal/node/eventlog"
	"github.com/holdfast-ha/holdfast/internal/node/guardclient"
)

// APISocket is the name of the API's socket in the run directory.
const APISocket = "api.sock"

// Options of [Run].
type Options struct {
	// StateDir holds the node's identity and log.
	StateDir string
	// RunDir is shared with guard.
	RunDir string
	// Version of the program, for people. Empty: from the build.
	Version string
	// Log; nil: slog.Default.
	Log *slog.Logger
}

// StatusGivenUp is the exit status of a clusterd that can't go on (N5).
const StatusGivenUp = 10

// ErrGivenUp marks the end of a node that can't go on. Starting it again does
// not help before an administrator has acted.
var ErrGivenUp = errors.New("this node can't go on")

// ErrRunning: another clusterd uses the run directory.
var ErrRunning = errors.New("another clusterd runs already")

// Status is the exit status for what Run returned.
func Status(err error) int {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, ErrGivenUp):
		return StatusGivenUp
	}
	return 1
}

// Run is clusterd. It returns nil when this node has left the cluster or ctx has ended.
func Run(ctx context.Context, o Options) error {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Version == "" {
		o.Version = buildVersion()
	}
	runDir, err := filepath.Abs(o.RunDir)
	if err != nil {
		return fmt.Errorf("clusterd: run directory: %w", err)
	}
	o.RunDir = runDir
	lock, err := lockRunDir(o.RunDir)
	if err != nil {
		return fmt.Errorf("clusterd: %w", err)
	}
	defer lock.Close()
	if err := usualScheduling(); err != nil {
		o.Log.Warn("clusterd may run with guard's priority", "error", err)
	}
	// The state is small and garbage of plans and snapshots large: collecting often costs little.
	// One goroutine decides, all others wait for files and sockets. A second processor would
	// mostly be woken to find nothing to do: it doubles what an idle node costs.
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(40)

	id, err := identity.Load(o.StateDir)
	if err != nil {
		return fmt.Errorf("clusterd: %w", err)
	}
	n := newNode(o, id)
	err = n.prepare()
	if n.store != nil {
		defer closing(o.Log, n.store)
	}
	switch {
	case permanent(err):
		// Guard may protect services that an earlier clusterd has started here.
		n.giveUp(err.Error())
	case err != nil:
		return fmt.Errorf("clusterd: %w", err)
	default:
		stop, err := n.open(ctx)
		defer stop()
		if err != nil {
			return fmt.Errorf("clusterd: %w", err)
		}
		o.Log.Info("clusterd started", "node", id.Node, "cluster", id.ClusterName, "version", o.Version)
	}
	return n.run(ctx)
}

// permanent: trying again would end in the same way.
func permanent(err error) bool {
	for _, class := range []error{logstore.ErrDamaged, logstore.ErrForeign, logstore.ErrNewer, errEngine} {
		if errors.Is(err, class) {
			return true
		}
	}
	return false
}

var errEngine = errors.New("the engine does not start")

// prepare opens the log and makes the engine.
func (n *node) prepare() error {
	store, err := logstore.Open(n.id.LogPath(), logstore.Owner{ClusterUUID: n.id.ClusterUUID, Node: n.id.Node})
	if err != nil {
		return err
	}
	n.store = store
	if n.life.keys, err = n.id.Keys(); err != nil {
		return err
	}
	saved, err := store.Load()
	if err != nil {
		return err
	}
	cfg := engine.Config{
		Node: n.id.Node, RaftID: saved.RaftID, Peers: n.id.Nodes, Proposer: newProposer(),
		Saved: consensus.Saved{HardState: saved.HardState, Snapshot: saved.Snapshot, Entries: saved.Entries},
		Logf:  func(format string, args ...any) { n.log.Info(fmt.Sprintf(format, args...)) },
	}
	if n.log.Enabled(context.Background(), slog.LevelDebug) {
		cfg.Trace = func(format string, args ...any) { n.log.Debug(strings.TrimSpace(fmt.Sprintf(format, args...))) }
	}
	e, err := engine.New(guardclient.Boottime(), time.Now().UnixMilli(), cfg)
	if err != nil {
		return fmt.Errorf("%s: %w: %w", n.id.LogPath(), errEngine, err)
	}
	n.engine = e
	return nil
}

// open makes everything around the engine. stop is to be called in any case.
func (n *node) open(ctx context.Context) (stop func(), err error) {
	var stops []func()
	stop = func() {
		n.quit() // nobody waits for the inbox any more
		for i := len(stops) - 1; i >= 0; i-- {
			stops[i]()
		}
	}
	host, err := agents.NewHost(agents.Options{
		Node: n.id.Node, RunDir: n.o.RunDir, Log: n.log,
		Changed: func(group string) { n.post(func() { n.protect(group, false) }) },
		Look:    n.look,
	})
	if err != nil {
		return stop, err
	}
	n.host = host
	stops = append(stops, host.Close)
	n.notifying.log = eventlog.Open(eventlog.Options{Dir: filepath.Join(n.id.Dir, identity.DirEvents), ClusterUUID: n.id.ClusterUUID, Log: n.log})
	stops = append(stops, n.notifying.log.Close)
	handler := api.NewHandler(&backend{n}, n.caller)
	transport := peer.New(peer.Options{Identity: n.id, Handler: fromPeers{n}, API: handler, Enroll: (&backend{n}).enroll, Log: n.log})
	n.peers = transport
	stops = append(stops, transport.Close)
	if n.api, err = serveAPI(ctx, filepath.Join(n.o.RunDir, APISocket), handler); err != nil {
		return stop, err
	}
	stops = append(stops, n.api.close)
	n.background(n.notices)
	return stop, nil
}

func closing(log *slog.Logger, c io.Closer) {
	if err := c.Close(); err != nil {
		log.Error("the raft log was not closed cleanly", "error", err)
	}
}

// lockRunDir is N3. A predecessor that is just ending is waited for.
func lockRunDir(dir string) (*os.File, error) {
	path := filepath.Join(dir, guardclient.LockName)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for end := time.Now().Add(2 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(end) {
			_ = f.Close()
			return nil, fmt.Errorf("%w: %s is locked (%w); stop that one first, or give this one another --run-dir", ErrRunning, path, err)
		}
	}
}

// usualScheduling takes guard's priority off every thread of this process. A
// thread that is born meanwhile has its parent's, so it looks again until all are usual.
func usualScheduling() error {
	for range 10 {
		changed, err := usualThreads()
		if err != nil || !changed {
			return err
		}
	}
	return errors.New("threads keep coming with guard's priority")
}

func usualThreads() (changed bool, err error) {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return changed, err
	}
	for _, t := range tasks {
		tid, err := strconv.Atoi(t.Name())
		if err != nil {
			continue
		}
		attr, err := unix.SchedGetAttr(tid, 0)
		if err == nil && attr.Policy != unix.SCHED_NORMAL {
			changed = true
			err = unix.SchedSetAttr(tid, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL}, 0)
		}
		if err != nil && !errors.Is(err, unix.ESRCH) {
			return changed, err
		}
	}
	return changed, nil
}

func buildVersion() string {
	if b, ok := debug.ReadBuildInfo(); ok && b.Main.Version != "" {
		return b.Main.Version
	}
	return "unknown"
}
