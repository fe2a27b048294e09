package engine

import (
	"slices"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-ha/holdfast/internal/cluster/consensus"
	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/peer/peerpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

const (
	// A log longer than this many bytes or entries is folded into a snapshot.
	compactBytes   = 8 << 20
	compactEntries = 5000
	keepEntries    = 1000
)

func (e *Engine) load(cfg Config) error {
	if snap := cfg.Saved.Snapshot; snap.GetMetadata().GetIndex() != 0 {
		s, err := state.Unmarshal(snap.GetData())
		if err != nil {
			return err
		}
		e.s, e.applied = s, snap.GetMetadata().GetIndex()
	}
	id := cfg.RaftID
	if id == 0 {
		id = state.MemberOf(e.s, cfg.Node).GetRaftId()
	}
	e.nextRaftTick = e.now + consensus.TickEvery
	if id == 0 {
		return nil // no log: this node has to join
	}
	r, err := consensus.New(consensus.Config{RaftID: id, Saved: cfg.Saved, State: e.encoded, Logf: cfg.Trace})
	if err != nil {
		return err
	}
	e.raft = r
	for _, ent := range cfg.Saved.Entries {
		e.logSize += len(ent.GetData())
	}
	e.noteAppended(cfg.Saved.Entries)
	if len(e.appendedView) > 0 {
		// An engine before this one may have ended when the disk had them and guard had not (E1).
		e.lateGuard, e.guard.appended = e.guard.newCall(), e.appendedEpoch()
	}
	if e.s != nil {
		e.keeper.State(e.now, e.s)
		e.signalsOn()
	}
	return nil
}

// encoded state as it is applied.
func (e *Engine) encoded() (uint64, []byte) { return e.applied, state.Marshal(e.s) }

func (e *Engine) ticks() {
	if e.now < e.nextRaftTick {
		return
	}
	// After a pause time has passed for the peers too: to make up for all of it
	// at once would only start an election that nobody wants.
	if e.raft != nil {
		e.raft.Tick()
	}
	e.nextRaftTick = max(e.nextRaftTick+consensus.TickEvery, e.now+consensus.TickEvery/2)
}

// ready takes raft one step further, if nothing is outstanding.
func (e *Engine) ready() {
	for e.fatal == nil && e.raft != nil && e.stage == idle && e.resetting == 0 && !e.compacting {
		r, ok := e.raft.Ready()
		if !ok {
			e.maybeCompact()
			return
		}
		e.sendRaft(r.Early)
		e.stage = writing
		epochBefore := e.appendedEpoch()
		if r.Batch != nil {
			e.lateBatch = true
			e.out.Persist = &Batch{Batch: *r.Batch}
		}
		if r.Installed != nil {
			e.noteInstalled(r.Installed)
		}
		e.noteAppended(r.Appended)
		if epoch := e.appendedEpoch(); epoch != epochBefore {
			e.lateGuard = e.guard.newCall()
			e.guard.appended = epoch
			e.toGuard(&guardpb.ToGuard{Call: e.lateGuard, Body: &guardpb.ToGuard_Appended{Appended: &guardpb.Appended{Epoch: epoch}}})
		}
		e.advance()
	}
}

// noteInstalled puts the view of a snapshot in the place of the whole log
// before it. Entries that follow may come in the same batch.
func (e *Engine) noteInstalled(snap *raftpb.Snapshot) {
	e.appendedView = nil
	if s, err := state.Unmarshal(snap.GetData()); err == nil {
		e.appendedView = []appendedView{{snap.GetMetadata().GetIndex(), s.GetView().GetEpoch()}}
	}
}

// noteAppended keeps track of view changes in the log that are not applied yet.
func (e *Engine) noteAppended(entries []*raftpb.Entry) {
	if len(entries) == 0 {
		return
	}
	from := entries[0].GetIndex()
	e.appendedView = slices.DeleteFunc(e.appendedView, func(v appendedView) bool { return v.index >= from })
	for _, ent := range entries {
		if c := viewCommand(ent); c != nil {
			e.appendedView = append(e.appendedView, appendedView{ent.GetIndex(), baseEpoch(c) + 1})
		}
	}
}

// dropAppended forgets view changes up to an index that has been applied.
func (e *Engine) dropAppended(index uint64) {
	e.appendedView = slices.DeleteFunc(e.appendedView, func(v appendedView) bool { return v.index <= index })
}

// viewCommand returns the command in the context of a configuration change
// that makes a new view, nil if ent is none.
func viewCommand(ent *raftpb.Entry) *statepb.Command {
	_, c := confChange(ent)
	if baseEpoch(c) == 0 {
		return nil
	}
	return c
}

func baseEpoch(c *statepb.Command) uint64 {
	switch c := c.GetChange().(type) {
	case *statepb.Command_Evict:
		return c.Evict.GetBaseEpoch()
	case *statepb.Command_Leave:
		return c.Leave.GetBaseEpoch()
	case *statepb.Command_Promote:
		return c.Promote.GetBaseEpoch()
	case *statepb.Command_SetPoints:
		return c.SetPoints.GetBaseEpoch()
	}
	return 0
}

func confChange(ent *raftpb.Entry) (*raftpb.ConfChangeV2, *statepb.Command) {
	if ent.GetType() != raftpb.EntryConfChangeV2 {
		return nil, nil
	}
	cc := &raftpb.ConfChangeV2{}
	if proto.Unmarshal(ent.GetData(), cc) != nil || len(cc.GetContext()) == 0 {
		return cc, nil
	}
	c := &statepb.Command{}
	if proto.Unmarshal(cc.GetContext(), c) != nil {
		return cc, nil
	}
	return cc, c
}

// appendedEpoch is the highest epoch in the log, applied or not (E1).
func (e *Engine) appendedEpoch() uint64 {
	epoch := e.s.GetView().GetEpoch()
	for _, v := range e.appendedView {
		epoch = max(epoch, v.epoch)
	}
	return epoch
}

func (e *Engine) persisted() {
	switch {
	case e.resetting != 0:
		e.resetDone()
	case e.compacting:
		e.compacting = false
	default:
		e.lateBatch = false
		e.advance()
	}
}

// advance lets the outstanding Ready take effect once its batch is durable and
// guard has answered.
func (e *Engine) advance() {
	if e.stage != writing || e.lateBatch || e.lateGuard != 0 {
		return
	}
	d, err := e.raft.Persisted()
	if err != nil {
		e.fail("raft: %v", err)
		return
	}
	e.stage = idle
	e.sendRaft(d.Messages)
	if d.Snapshot != nil {
		e.install(d.Snapshot)
	}
	for _, ent := range d.Committed {
		e.apply(ent)
		if e.fatal != nil {
			return
		}
	}
	e.raft.Applied()
}

func (e *Engine) install(snap *raftpb.Snapshot) {
	s, err := state.Unmarshal(snap.GetData())
	if err != nil {
		e.fail("snapshot at %d: %v", snap.GetMetadata().GetIndex(), err)
		return
	}
	e.s, e.applied, e.appliedTerm = s, snap.GetMetadata().GetIndex(), snap.GetMetadata().GetTerm()
	e.logSize = 0
	e.dropAppended(e.applied)
	e.viewApplied()
	e.signalsOn()
	e.out.Changed = true
}

// apply one committed entry.
func (e *Engine) apply(ent *raftpb.Entry) {
	e.applied, e.appliedTerm = ent.GetIndex(), ent.GetTerm()
	e.logSize += len(ent.GetData())
	e.dropAppended(e.applied)
	var c *statepb.Command
	cc, inContext := confChange(ent)
	switch {
	case cc != nil && inContext == nil: // the library leaves a joint configuration by itself
		e.applyConfChange(cc)
		e.lead.confChange = false
		return
	case cc != nil:
		c = inContext
	case len(ent.GetData()) == 0: // a new leader's first entry, or what became of a configuration change (C5)
		e.lead.confChange = false
		return
	default:
		c = &statepb.Command{}
		if err := proto.Unmarshal(ent.GetData(), c); err != nil {
			e.fail("entry %d of the log is damaged: %v", ent.GetIndex(), err)
			return
		}
	}
	if c.GetFormat() > state.Format {
		e.fail("entry %d of the log has format %d, this version knows up to %d: upgrade this node", ent.GetIndex(), c.GetFormat(), state.Format)
		return
	}
	if (cc != nil) != state.ConfChange(c) {
		e.fail("entry %d of the log is a %T in the wrong kind of entry", ent.GetIndex(), c.GetChange())
		return
	}
	events := e.s.GetNextEvent()
	o := state.Apply(e.s, c)
	e.leaving() // an administrator's wish and the leave that follows may come in one batch
	if cc != nil {
		e.lead.confChange = false
		if o.Refused == nil {
			e.applyConfChange(cc)
		}
	}
	if o.Refused == nil {
		e.happened(events)
		e.appliedCommand(c)
		e.out.Changed = true
	}
	if o.ViewChanged {
		e.viewApplied()
	}
	e.resolve(c, o)
}

func (e *Engine) applyConfChange(cc *raftpb.ConfChangeV2) {
	if err := e.raft.ApplyConfChange(cc); err != nil {
		e.fail("entry %d of the log: %v", e.applied, err)
	}
}

// happened hands out the events since number.
func (e *Engine) happened(number uint64) {
	for _, ev := range e.s.GetEvents() {
		if ev.GetNumber() > number {
			e.out.Events = append(e.out.Events, proto.CloneOf(ev))
		}
	}
}

func (e *Engine) sendRaft(ms []*raftpb.Message) {
	for _, m := range ms {
		if w := e.s.GetWitness().GetRaftId(); w != 0 && m.GetTo() == w {
			e.toWitness(m)
			continue
		}
		name := e.nameOf(m.GetTo())
		if name == "" || e.peers[name] == nil || !e.peers[name].connected {
			e.raft.Dropped(m)
			continue
		}
		raw, err := proto.Marshal(m)
		if err != nil {
			e.fail("raft message: %v", err)
			return
		}
		e.send(name, &peerpb.Message{Body: &peerpb.Message_Raft{Raft: raw}})
	}
}

func (e *Engine) maybeCompact() {
	if e.applied-min(e.applied, e.raft.FirstIndex()) < compactEntries && e.logSize < compactBytes {
		return
	}
	b, err := e.raft.Compact(state.Marshal(e.s), keepEntries)
	if err != nil {
		e.logf("engine: the log stays as it is: %v", err)
		e.logSize = 0 // try again after as much again
		return
	}
	e.logSize = 0
	e.compacting = true
	e.out.Persist = &Batch{Batch: *b}
}
