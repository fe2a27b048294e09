package agents

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/group/agent"
)

// Options of a Host.
type Options struct {
	// Node is the name of this node.
	Node string
	// RunDir holds logs and records; it is gone after a reboot. No other node may use it.
	RunDir string
	// CgroupRoot is the control group (version 2) below which holdfast-NODE is made. Empty: that of this process.
	CgroupRoot string
	// Changed is called when the answer of Protect for a group has changed: without control groups the processes of a
	// group are known only once they run. May be nil. It must not call the Host.
	Changed func(group string)
	// Look returns the state of any resource that the cluster has recorded, for proxies. May be nil: then there are none.
	// It may wait.
	Look func(context.Context, Target) (v1.ResourceState, error)
	Log  *slog.Logger
}

// Host carries out calls on this machine. It is safe for concurrent use.
type Host struct {
	node, runDir string
	cgroup       string
	// direct: programs can be born in their control group; fresh are those in which they can.
	direct bool
	fresh  freshDirs
	// ordinary: this process has the scheduling and the protection from the out-of-memory killer that programs shall have.
	ordinary  bool
	log       *slog.Logger
	onChange  func(string)
	watcher   *watcher
	net       *netWatch
	files     *fileWatch
	mounts    *mountWatch
	signals   *signalBoard
	proxies   *proxies
	bus       *systemBus
	cards     *cardBoard
	records   records
	look      func(context.Context, Target) (v1.ResourceState, error)
	announcer *announcer
	notices   *mailbox
	ctx       context.Context
	stop      context.CancelFunc
	running   sync.WaitGroup
	// ocfRoot is the constant of that name, except in tests.
	ocfRoot string
	// kindOf finds an agent, and giveUpAfter is stuckTime, except in tests.
	kindOf      func(string) *kind
	giveUpAfter time.Duration

	// dirs keeps Release from removing a control group that something is about to enter.
	dirs sync.RWMutex

	mu    sync.Mutex
	pool  *pool
	calls map[uint64]context.CancelFunc
	stuck map[key]bool
	// adapted is what agents that are programs remember, by resource.
	adapted map[key]adapted
	closed  bool
}

// NewHost returns a host that has undone what an earlier one on this node left unfinished. Services that run are left
// alone: monitors find them.
func NewHost(o Options) (*Host, error) {
	if o.Node == "" || !filepath.IsAbs(o.RunDir) {
		return nil, fmt.Errorf("agents: a host needs the node's name (%q) and an absolute run directory (%q)", o.Node, o.RunDir)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	h := &Host{
		node: o.Node, runDir: filepath.Clean(o.RunDir), log: o.Log, onChange: o.Changed, look: o.Look, notices: newMailbox(), records: records{all: map[key]record{}},
		pool: newPool(cpus()), calls: map[uint64]context.CancelFunc{}, stuck: map[key]bool{}, adapted: map[key]adapted{}, ocfRoot: ocfRoot, kindOf: kindOf, giveUpAfter: stuckTime,
	}
	for _, dir := range []string{"agents", "log"} {
		if err := os.MkdirAll(filepath.Join(h.runDir, dir), 0o700); err != nil {
			return nil, fmt.Errorf("agents: %w", err)
		}
	}
	var why string
	if h.cgroup, why = findCgroup(o.Node, o.CgroupRoot); h.cgroup == "" {
		h.log.Warn("services run without control groups: what leaves its session and clears its environment can't be found", "reason", why)
	}
	h.fresh.dirs = map[string]bool{}
	h.direct = h.cgroup != "" && bornInside(h.cgroup)
	h.ordinary = isOrdinary()
	var err error
	if h.watcher, err = newWatcher(h.notice); err != nil {
		return nil, fmt.Errorf("agents: %w", err)
	}
	h.net = newNetWatch(h.notice, h.log)
	h.files, h.mounts = newFileWatch(h.notice, h.log), newMountWatch(h.notice, h.log)
	h.signals, h.proxies = newSignalBoard(h.notice), newProxies(h.notice)
	h.bus, h.cards = newSystemBus(h.notice, h.log), newCardBoard(h.notice)
	h.announcer = newAnnouncer(h.log)
	h.ctx, h.stop = context.WithCancel(context.Background())
	h.undo()
	return h, nil
}

// undo is H3.
func (h *Host) undo() {
	ctx, cancel := context.WithTimeout(h.ctx, 2*killTime)
	defer cancel()
	if h.cgroup != "" {
		calls, err := filepath.Glob(filepath.Join(h.cgroup, "*", "*.call"))
		if err != nil {
			h.log.Error("calls of an earlier engine can't be listed", "error", err)
		}
		for _, dir := range calls {
			if err := killCgroup(ctx, dir); err != nil {
				h.log.Error("a call of an earlier engine can't be ended", "cgroup", dir, "error", err)
			}
		}
	} else {
		own := h.runDir + "//"
		if err := eachProcess(func(st procStat) {
			if strings.HasPrefix(environ(st.Pid, callVariable), own) {
				if err := errors.Join(st.signal(9), st.waitGone(ctx)); err != nil {
					h.log.Error("a call of an earlier engine can't be ended", "pid", st.Pid, "error", err)
				}
			}
		}); err != nil {
			h.log.Error("calls of an earlier engine can't be listed", "error", err)
		}
	}
	files, err := filepath.Glob(filepath.Join(h.recordsDir(), "*.json"))
	if err != nil {
		h.log.Error("records of services can't be listed", "error", err)
	}
	for _, f := range files {
		group, resource, ok := strings.Cut(strings.TrimSuffix(filepath.Base(f), ".json"), ".")
		p := place{h: h, group: plainName(group), resource: plainName(resource)}
		if !ok || !p.record().Starting {
			continue
		}
		h.log.Info("an unfinished online of an earlier engine is undone", "group", p.group, "resource", p.resource)
		if err := errors.Join(p.kill(ctx), p.forgetRecord()); err != nil {
			h.log.Error("an unfinished online can't be undone", "group", p.group, "resource", p.resource, "error", err)
		}
	}
}

// Notices tells what process notification sees. It is closed by Close.
func (h *Host) Notices() <-chan agent.Notice { return h.notices.out }

func (h *Host) notice(k key, what string) {
	h.notices.put(agent.Notice{Group: k.group, Resource: k.resource, What: what})
}

func (h *Host) changed(group string) {
	if h.onChange != nil {
		h.onChange(group)
	}
}

// Release removes the control groups of a group of which nothing runs any more. What still runs keeps its own.
func (h *Host) Release(group string) {
	dir := h.groupDir(group)
	if dir == "" {
		return
	}
	h.dirs.Lock()
	defer h.dirs.Unlock()
	below, err := filepath.Glob(filepath.Join(dir, "*", "cgroup.procs"))
	if err != nil {
		return
	}
	for _, f := range below {
		_ = os.Remove(filepath.Dir(f)) // refused while something runs there, which is right
		h.fresh.forget(filepath.Dir(f))
	}
	_ = os.Remove(dir)
}

// Close ends calls under way and process notification. Services go on.
func (h *Host) Close() {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return
	}
	h.closed = true
	waiting := h.pool.withdrawAll()
	h.mu.Unlock()
	h.stop()
	h.refuse(waiting, "the engine is stopping")
	h.running.Wait()
	h.announcer.close()
	h.net.close()
	h.files.close()
	h.mounts.close()
	h.signals.close()
	h.bus.close()
	h.watcher.close()
	h.notices.close()
}

// plainName undoes fileName.
func plainName(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		var c byte
		if s[i] == '%' && i+2 < len(s) {
			if _, err := fmt.Sscanf(s[i+1:i+3], "%02X", &c); err == nil {
				b.WriteByte(c)
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
