package consensus

import (
	"errors"
	"fmt"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
	"google.golang.org/protobuf/proto"
)

// TickEvery is the time between ticks.
const TickEvery = 250 * time.Millisecond

// In ticks. Links notice a dead leader long before; an idle cluster should be quiet.
const (
	electionTicks  = 6
	heartbeatTicks = 2
)

// ElectionTimeout is after how long without a majority's answers a leader leads no more.
const ElectionTimeout = electionTicks * TickEvery

// maxMessage bounds the entries of one append.
const maxMessage = 1 << 20

// Saved is what a disk holds.
type Saved struct {
	HardState *raftpb.HardState
	Snapshot  *raftpb.Snapshot
	Entries   []*raftpb.Entry
}

// Batch has to become durable as a whole, in one step.
type Batch struct {
	// Set: all that is stored goes away first (a new incarnation).
	Reset     bool
	HardState *raftpb.HardState
	// Replaces what is stored from the first of them on.
	Entries []*raftpb.Entry
	// Replaces all entries up to its index, and, when it came from the leader (Install), the rest too.
	Snapshot *raftpb.Snapshot
	Install  bool
	// Not 0: entries up to it may be forgotten.
	Compact uint64
}

// Config of a node.
type Config struct {
	RaftID uint64
	Saved  Saved
	// State returns what has been applied and up to which index, for a node
	// that has to start from it. The state in Saved's snapshot counts as applied.
	State func() (index uint64, state []byte)
	Logf  func(format string, args ...any) // nil: silent
}

// Node is one incarnation's raft.
type Node struct {
	id      uint64
	raw     *raft.RawNode
	storage *storage
	// The Ready whose batch is outstanding.
	pending *raft.Ready
	// Hard state that need not be durable by itself yet: a commit index.
	lazy      *raftpb.HardState
	confState *raftpb.ConfState
	applied   uint64
	// Of the newest entry that was in a Ready; messages tell of no later one.
	known   uint64
	reads   reads
	warn    func(format string, args ...any)
	refused string // why a message was, last
	// Between Persisted and Applied: state and configuration may not match.
	applying bool
}

// Ready is what has to happen next, in the order of its fields.
type Ready struct {
	// May leave at once.
	Early []*raftpb.Message
	// Nil: nothing has to be durable; Persisted may be called at once.
	Batch *Batch
	// Entries of the batch, for a caller that has to act before they are acknowledged.
	Appended []*raftpb.Entry
	// A snapshot of the leader in the batch.
	Installed *raftpb.Snapshot
}

// Done is what a durable batch allows.
type Done struct {
	Messages []*raftpb.Message
	// To apply, in order. Each configuration change must be answered by ApplyConfChange or be rejected.
	Committed []*raftpb.Entry
	// A state to start from anew, before Committed.
	Snapshot *raftpb.Snapshot
}

// New starts from what a disk holds.
func New(cfg Config) (*Node, error) {
	n := &Node{id: cfg.RaftID, confState: &raftpb.ConfState{}}
	n.storage = &storage{MemoryStorage: raft.NewMemoryStorage(), node: n, state: cfg.State}
	if s := cfg.Saved.Snapshot; s != nil && !raft.IsEmptySnap(s) {
		if err := n.storage.ApplySnapshot(s); err != nil {
			return nil, fmt.Errorf("consensus: stored snapshot: %w", err)
		}
		n.applied = s.GetMetadata().GetIndex()
		n.confState = s.GetMetadata().GetConfState()
	}
	if hs := cfg.Saved.HardState; hs != nil {
		if err := n.storage.SetHardState(hs); err != nil {
			return nil, fmt.Errorf("consensus: stored hard state: %w", err)
		}
	}
	if err := n.storage.Append(cfg.Saved.Entries); err != nil {
		return nil, fmt.Errorf("consensus: stored entries: %w", err)
	}
	if err := check(n.storage, cfg.Saved.HardState); err != nil {
		return nil, err
	}
	raw, err := raft.NewRawNode(&raft.Config{
		ID:                        cfg.RaftID,
		ElectionTick:              electionTicks,
		HeartbeatTick:             heartbeatTicks,
		Storage:                   n.storage,
		Applied:                   n.applied,
		MaxSizePerMsg:             maxMessage,
		MaxUncommittedEntriesSize: 64 << 20,
		MaxInflightMsgs:           256,
		CheckQuorum:               true,
		PreVote:                   true,
		StepDownOnRemoval:         true,
		DisableProposalForwarding: true, // proposals travel as commands, with an answer
		Logger:                    logger(cfg.Logf),
	})
	if err != nil {
		return nil, fmt.Errorf("consensus: %w", err)
	}
	n.raw = raw
	n.known, _ = n.storage.LastIndex()
	n.warn = logger(cfg.Logf).Warningf
	return n, nil
}

// check refuses a log on which the library would panic.
func check(s *storage, hs *raftpb.HardState) error {
	last, err := s.LastIndex()
	if err != nil {
		return err
	}
	first, err := s.FirstIndex()
	if err != nil {
		return err
	}
	if hs.GetCommit() > last || hs.GetCommit()+1 < first && hs.GetCommit() != 0 {
		return fmt.Errorf("consensus: the stored log holds entries %d to %d, but entry %d was committed: the log is damaged, so that this node must rejoin as new", first, last, hs.GetCommit())
	}
	return nil
}

// storage is the log in memory. A snapshot for another node is made of the
// state as it is now: an older one would not know a node that has joined since.
type storage struct {
	*raft.MemoryStorage
	node  *Node
	state func() (uint64, []byte)
}

// Snapshot for a node that needs one. The library asks again later if it can't
// be made now.
func (s *storage) Snapshot() (*raftpb.Snapshot, error) {
	if s.node.applying || s.state == nil {
		return nil, raft.ErrSnapshotTemporarilyUnavailable
	}
	index, state := s.state()
	term, err := s.Term(index)
	if err != nil {
		return nil, raft.ErrSnapshotTemporarilyUnavailable
	}
	return &raftpb.Snapshot{Data: state, Metadata: &raftpb.SnapshotMetadata{
		Index: &index, Term: &term, ConfState: proto.CloneOf(s.node.confState),
	}}, nil
}

// Tick is called every TickEvery.
func (n *Node) Tick() { n.raw.Tick() }

// Step takes a message of a peer. What does not fit is ignored (C7).
func (n *Node) Step(m *raftpb.Message) {
	if err := n.impossible(m); err != nil {
		if err.Error() != n.refused {
			n.refused = err.Error()
			n.warn("a %s of %d is ignored: %v", m.GetType(), m.GetFrom(), err)
		}
		return
	}
	_ = n.raw.Step(m) // refusals concern messages of removed peers and lost proposals: both are answered elsewhere
}

// Nudge has a leader send heartbeats now rather than at the next tick that is
// due for them: somebody is there who was not.
func (n *Node) Nudge() {
	if n.IsLeader() {
		n.raw.ReadIndex([]byte{0}) // asks all for an answer; the answer to the read itself is not used
	}
}

// Propose an entry. An error means that nothing was proposed.
func (n *Node) Propose(data []byte) error { return n.raw.Propose(data) }

// ProposeConfChange proposes a change with its context. See C5.
func (n *Node) ProposeConfChange(cc *raftpb.ConfChangeV2) error { return n.raw.ProposeConfChange(cc) }

// ForgetLeader after suspecting it (C3).
func (n *Node) ForgetLeader() { _ = n.raw.ForgetLeader() }

// Campaign for leadership, by a pre-vote first.
func (n *Node) Campaign() { _ = n.raw.Campaign() }

// TransferLeader to another voter; only a leader does.
func (n *Node) TransferLeader(to uint64) { n.raw.TransferLeader(to) }

// Dropped tells that a message could not be sent (C4).
func (n *Node) Dropped(m *raftpb.Message) {
	switch m.GetType() {
	case raftpb.MsgSnap:
		n.raw.ReportSnapshot(m.GetTo(), raft.SnapshotFailure)
	case raftpb.MsgApp, raftpb.MsgHeartbeat:
		n.raw.ReportUnreachable(m.GetTo())
	}
}

// Disconnected tells that what was on its way to a node may be lost. A snapshot
// that has arrived is known by the answer to it, never by having been sent: the
// library would send the next one while the receiver still stores the first.
func (n *Node) Disconnected(id uint64) {
	n.raw.ReportUnreachable(id)
	n.raw.ReportSnapshot(id, raft.SnapshotFailure)
}

// Ready returns what has to happen next; ok is false while a batch is
// outstanding or when there is nothing to do.
func (n *Node) Ready() (r Ready, ok bool) {
	if n.pending != nil || !n.raw.HasReady() {
		return Ready{}, false
	}
	rd := n.raw.Ready()
	n.pending = &rd
	for _, m := range rd.Messages {
		n.reads.sent(m)
	}
	if n.IsLeader() {
		// The leader replicates while it writes: its own entry counts only after Persisted.
		var late []*raftpb.Message
		for _, m := range rd.Messages {
			if t := m.GetType(); t == raftpb.MsgApp || t == raftpb.MsgHeartbeat {
				r.Early = append(r.Early, m)
			} else {
				late = append(late, m)
			}
		}
		n.pending.Messages = late
	}
	if rd.HardState != nil {
		n.lazy = rd.HardState
	}
	switch {
	case len(rd.Entries) > 0:
		n.known = rd.Entries[len(rd.Entries)-1].GetIndex()
	case !raft.IsEmptySnap(rd.Snapshot):
		n.known = rd.Snapshot.GetMetadata().GetIndex()
	}
	if len(rd.Entries) > 0 || rd.MustSync || !raft.IsEmptySnap(rd.Snapshot) {
		r.Batch = &Batch{HardState: n.lazy, Entries: rd.Entries}
		n.lazy = nil
		r.Appended = rd.Entries
		if !raft.IsEmptySnap(rd.Snapshot) {
			r.Batch.Snapshot, r.Batch.Install = rd.Snapshot, true
			r.Installed = rd.Snapshot
		}
	}
	return r, true
}

// Persisted says that the batch of the last Ready is durable.
func (n *Node) Persisted() (Done, error) {
	if n.pending == nil {
		return Done{}, errors.New("consensus: no batch is outstanding")
	}
	rd := *n.pending
	n.pending = nil
	if rd.HardState != nil {
		if err := n.storage.SetHardState(rd.HardState); err != nil {
			return Done{}, err
		}
	}
	d := Done{Messages: rd.Messages, Committed: rd.CommittedEntries}
	if !raft.IsEmptySnap(rd.Snapshot) {
		if err := n.storage.ApplySnapshot(rd.Snapshot); err != nil {
			return Done{}, err
		}
		d.Snapshot = rd.Snapshot
		n.applied = rd.Snapshot.GetMetadata().GetIndex()
		n.confState = rd.Snapshot.GetMetadata().GetConfState()
	}
	if err := n.storage.Append(rd.Entries); err != nil {
		return Done{}, err
	}
	if k := len(rd.CommittedEntries); k > 0 {
		n.applied = rd.CommittedEntries[k-1].GetIndex()
	}
	// The caller applies Committed before it calls anything else, so that
	// configuration changes are in force when Advance looks at them.
	n.pending, n.applying = &raft.Ready{}, true
	return d, nil
}

// Applied says that what Persisted returned has been applied.
func (n *Node) Applied() {
	n.pending, n.applying = nil, false
	n.raw.Advance(raft.Ready{})
}

// ApplyConfChange puts a committed change into force. A change that its
// context refuses is simply not put into force. An error means that the change
// makes no sense, so that the log is not to be trusted.
func (n *Node) ApplyConfChange(cc *raftpb.ConfChangeV2) error {
	if err := n.checkConfChange(cc); err != nil {
		return fmt.Errorf("consensus: the change %v of configuration %v: %w", cc.GetChanges(), n.confState, err)
	}
	n.confState = n.raw.ApplyConfChange(cc)
	return nil
}

// Compact makes a snapshot of state, which holds everything up to the applied
// index, and a batch that stores it and forgets all but the last keep entries.
func (n *Node) Compact(state []byte, keep uint64) (*Batch, error) {
	snap, err := n.storage.CreateSnapshot(n.applied, n.confState, state)
	if err != nil {
		return nil, fmt.Errorf("consensus: snapshot at %d: %w", n.applied, err)
	}
	// A commit index that was not written yet must not lie before the snapshot.
	b := &Batch{Snapshot: proto.CloneOf(snap), HardState: n.raw.BasicStatus().HardState}
	n.lazy = nil
	if n.applied > keep {
		b.Compact = n.applied - keep
		if err := n.storage.Compact(b.Compact); err != nil && !errors.Is(err, raft.ErrCompacted) {
			return nil, fmt.Errorf("consensus: compaction to %d: %w", b.Compact, err)
		}
	}
	return b, nil
}

// FirstIndex of the log that is kept.
func (n *Node) FirstIndex() uint64 {
	i, _ := n.storage.FirstIndex() // a MemoryStorage never fails
	return i
}

// Status of a node.
type Status struct {
	RaftID  uint64
	Leader  uint64 // 0: none known
	Term    uint64
	Commit  uint64
	Applied uint64
	// Of the newest entry that is durable here.
	LastIndex, LastTerm uint64
	State               raft.StateType
	Transferring        bool
	// Voters of both halves while the configuration is joint.
	Joint bool
}

// Status tells where the node stands.
func (n *Node) Status() Status {
	b := n.raw.BasicStatus()
	last, _ := n.storage.LastIndex()
	term, err := n.storage.Term(last)
	if err != nil {
		term = 0
	}
	return Status{
		RaftID: n.id, Leader: b.Lead, Term: b.GetTerm(), Commit: b.GetCommit(), Applied: n.applied,
		LastIndex: last, LastTerm: term, State: b.RaftState, Transferring: b.LeadTransferee != 0,
		Joint: len(n.confState.GetVotersOutgoing()) > 0,
	}
}

// IsLeader by its own light.
func (n *Node) IsLeader() bool { return n.raw.BasicStatus().RaftState == raft.StateLeader }

// Match returns, on a leader, the index up to which a peer's log is known to
// equal this one, and whether the peer is being sent a snapshot.
func (n *Node) Match(id uint64) (index uint64, snapshot, known bool) {
	n.raw.WithProgress(func(p uint64, _ raft.ProgressType, pr tracker.Progress) {
		if p == id {
			index, snapshot, known = pr.Match, pr.State == tracker.StateSnapshot, true
		}
	})
	return index, snapshot, known
}

// ConfState that is in force.
func (n *Node) ConfState() *raftpb.ConfState { return n.confState }
