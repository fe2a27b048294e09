package arbiterd

import (
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-ha/holdfast/internal/arbiter"
	"github.com/holdfast-ha/holdfast/internal/arbiter/arbiterpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/witness"
	"github.com/holdfast-ha/holdfast/internal/cluster/witness/witnesspb"
)

// table of the clusters, and the only place that decides for them.
type table struct {
	store     *store
	committer *committer
	log       *slog.Logger
	metrics   *metrics
	// On the monotonic clock that counts suspended time.
	now   func() time.Duration
	start time.Duration

	admin  sync.Mutex // one registration, token or removal at a time
	tokens int        // kept, as of swept and those made since
	swept  time.Time

	lookers atomic.Int64 // nodes that look by datagram

	mu       sync.RWMutex
	clusters map[uuid]*cluster
}

// cluster as it is known while the arbiter runs.
type cluster struct {
	id uuid

	mu        sync.Mutex
	name      string
	forgotten bool
	kept      *witnesspb.Kept // newest, perhaps not durable yet; nil: as in the store
	point     *witness.Point
	undurable int // changes that the committer has
	asked     time.Time
	conns     map[*conn]struct{}
	lookers   map[string]*looker
}

// bootTime is CLOCK_BOOTTIME.
func bootTime() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) // fails for no clock that exists
	return time.Duration(ts.Nano())
}

func newTable(s *store, c *committer, log *slog.Logger, m *metrics, now func() time.Duration) (*table, error) {
	t := &table{store: s, committer: c, log: log, metrics: m, now: now, start: now(), clusters: map[uuid]*cluster{}}
	err := s.view(func(tt *tables) error {
		return tt.each(func(id uuid, r *arbiterpb.Registration, _ *witnesspb.Kept, _ int) error {
			t.clusters[id] = &cluster{id: id, name: r.GetName(), forgotten: r.GetForgotten() != 0}
			return nil
		})
	})
	return t, err
}

// cluster with this uuid, nil: none.
func (t *table) cluster(id uuid) *cluster {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.clusters[id]
}

// do decides a request of a node of cluster c (A2). The reply is returned if it
// may leave at once; nil: the committer gives it to later, once it may (A1).
func (t *table) do(c *cluster, r *witnesspb.Request, later func(*witnesspb.Reply)) *witnesspb.Reply {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.forgotten {
		return refused(witnesspb.Refused_REASON_WRONG_CLUSTER, "this arbiter was told to forget the cluster: replace the coordination point")
	}
	before, err := t.load(c)
	if err != nil {
		t.log.Error("arbiter: what is kept of a cluster can't be read", "cluster", c.id, "error", err)
		return refused(witnesspb.Refused_REASON_DAMAGED, "what the arbiter keeps of this cluster can't be read: see its log")
	}
	c.asked = time.Now()
	next, reply := c.point.Do(t.now(), before, r)
	if next == nil && c.undurable == 0 {
		return reply
	}
	ch := change{done: func() {
		c.mu.Lock()
		c.undurable--
		c.mu.Unlock()
		if next != nil {
			t.tell(c, before, next, r)
		}
		later(reply)
	}}
	if next != nil {
		c.kept = next
		ch.apply = func(tt *tables) error { return tt.putKept(c.id, next) }
	}
	c.undurable++
	t.committer.put(ch) // before the lock goes: changes stand in the order of decisions
	return nil
}

// load what is kept of c. Its lock is held.
func (t *table) load(c *cluster) (*witnesspb.Kept, error) {
	if c.kept == nil {
		if err := t.store.view(func(tt *tables) (err error) { c.kept, err = tt.kept(c.id); return err }); err != nil {
			c.kept = nil
			return nil, err
		}
	}
	if c.point == nil {
		// Nobody was answered since the arbiter runs.
		c.point = witness.NewPoint(t.start)
	}
	return c.kept, nil
}

// tell the log what was decided: one line for each decision that binds.
func (t *table) tell(c *cluster, before, next *witnesspb.Kept, r *witnesspb.Request) {
	log := t.log.With("cluster", c.id, "name", c.name, "node", r.GetNode(), "register", next.GetRegister())
	if before.GetRegister() != next.GetRegister() {
		log.Info("arbiter: a new register is used", "before", before.GetRegister())
	}
	a, b := before.GetValue(), next.GetValue()
	if a.GetTerm() != b.GetTerm() || a.GetVote() != b.GetVote() {
		log.Info("arbiter: vote", "term", b.GetTerm(), "vote", b.GetVote(), "last_index", b.GetLastIndex())
	}
	if s := r.GetSuspect(); s != nil {
		log.Info("arbiter: suspected", "about", s.GetAbout(), "raft_id", s.GetAboutRaftId(), "stays", s.GetStays())
	}
	if next.GetAbstains() && !before.GetAbstains() {
		log.Warn("arbiter: promises were forgotten: the cluster has seen a later state than is kept here; abstaining", "kept_sequence", before.GetSequence(), "seen_sequence", r.GetSeenSequence())
	}
}

func refused(reason witnesspb.Refused_Reason, message string) *witnesspb.Reply {
	return &witnesspb.Reply{Body: &witnesspb.Reply_Refused{Refused: &witnesspb.Refused{Reason: reason, Message: message}}}
}

// checkAsker: a node asks for its cluster and in its own name (A3).
func checkAsker(c *cluster, node string, r *witnesspb.Request) *witnesspb.Reply {
	switch {
	case r.GetCluster() != c.id.String():
		return refused(witnesspb.Refused_REASON_WRONG_CLUSTER, fmt.Sprintf("the certificate is of cluster %s, the request for %q", c.id, r.GetCluster()))
	case r.GetNode() != node:
		return refused(witnesspb.Refused_REASON_MALFORMED, fmt.Sprintf("the certificate is of node %q, the request of %q", node, r.GetNode()))
	}
	return nil
}

// Bounds of what a cluster may hold in memory.
const (
	connsPerNode    = 4
	connsPerCluster = 160
	lookersMax      = 128
)

// enter adds a connection; those that it takes the place of are returned.
func (c *cluster) enter(k *conn) (old []*conn, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.forgotten {
		return nil, false
	}
	if c.conns == nil {
		c.conns = map[*conn]struct{}{}
	}
	same, oldest, any := 0, (*conn)(nil), (*conn)(nil)
	for o := range c.conns {
		if o.node == k.node {
			if same++; oldest == nil || o.number < oldest.number {
				oldest = o
			}
		}
		if any == nil || o.number < any.number {
			any = o
		}
	}
	switch {
	case same >= connsPerNode:
		old = append(old, oldest)
	case len(c.conns) >= connsPerCluster:
		old = append(old, any)
	}
	c.conns[k] = struct{}{}
	return old, true
}

func (c *cluster) leave(k *conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.conns, k)
	if len(c.conns) == 0 {
		c.conns = nil
	}
}

func (c *cluster) closeOthers(k *conn) {
	c.mu.Lock()
	conns := maps.Clone(c.conns)
	c.mu.Unlock()
	for o := range conns {
		if o != k {
			o.close()
		}
	}
}

// all clusters.
func (t *table) all() map[uuid]*cluster {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return maps.Clone(t.clusters)
}

// looker is a node that looks by datagram.
type looker struct {
	expires int64
	key     [arbiter.PassKeySize]byte
	number  uint64 // highest so far: a repetition counts nothing
	at      int64  // seconds since 1970
}
