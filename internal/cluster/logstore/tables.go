package logstore

import (
	"encoding/binary"
	"fmt"

	"go.etcd.io/bbolt"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

var (
	bucketState = []byte("state")
	bucketLog   = []byte("log")

	keyOwner        = []byte("owner")
	keyTail         = []byte("tail")
	keySnapshotMeta = []byte("snapshot.meta")
	keySnapshotData = []byte("snapshot.data")
)

// tables are the two buckets within one transaction.
type tables struct {
	state, log *bbolt.Bucket
	// Set by save: something besides the commit index has changed.
	changed bool
}

func tablesOf(tx *bbolt.Tx) (*tables, error) {
	t := &tables{state: tx.Bucket(bucketState), log: tx.Bucket(bucketLog)}
	if t.state == nil || t.log == nil {
		return nil, damaged("a table is missing")
	}
	return t, nil
}

// tablesFor makes them in a new file.
func tablesFor(tx *bbolt.Tx) (*tables, error) {
	for _, name := range [][]byte{bucketState, bucketLog} {
		if _, err := tx.CreateBucketIfNotExists(name); err != nil {
			return nil, err
		}
	}
	t, err := tablesOf(tx)
	if err == nil {
		// Entries are appended: pages need no room in their middle.
		t.log.FillPercent = 0.95
	}
	return t, err
}

func (t *tables) get(key []byte, kind byte) ([]byte, error) {
	r := t.state.Get(key)
	if r == nil {
		return nil, damaged("record %q is missing", key)
	}
	return openRecord(key, kind, r)
}

func (t *tables) put(key []byte, kind byte, payload []byte) error {
	return t.state.Put(key, sealRecord(key, kind, payload))
}

func (t *tables) putOwner(o Owner, raftID uint64) error {
	return t.put(keyOwner, kindOwner, encodeOwner(o, raftID))
}

// owner returns the raft id after checking that the file is the owner's.
func (t *tables) owner(want Owner) (uint64, error) {
	b, err := t.get(keyOwner, kindOwner)
	if err != nil {
		return 0, err
	}
	have, raftID, err := decodeOwner(b)
	if err != nil {
		return 0, err
	}
	if have != want {
		return 0, fmt.Errorf("%w: it was made for node %q of cluster %s, this is node %q of cluster %s", ErrForeign, have.Node, have.ClusterUUID, want.Node, want.ClusterUUID)
	}
	return raftID, nil
}

func (t *tables) tail() (tail, error) {
	b, err := t.get(keyTail, kindTail)
	if err != nil {
		return tail{}, err
	}
	return decodeTail(b)
}

func (t *tables) putTail(v tail) error { return t.put(keyTail, kindTail, v.encode()) }

func (t *tables) hardState() (*raftpb.HardState, error) {
	v, err := t.tail()
	if err != nil {
		return nil, err
	}
	return &raftpb.HardState{Term: &v.term, Vote: &v.vote, Commit: &v.commit}, nil
}

// onlyCommitRose says that everything saved in this transaction may be lost.
func (t *tables) onlyCommitRose() bool { return !t.changed }

func (t *tables) clear() error {
	for _, k := range [][]byte{keySnapshotMeta, keySnapshotData} {
		if err := t.state.Delete(k); err != nil {
			return err
		}
	}
	return t.dropEntries(0, ^uint64(0))
}

// save applies a batch: snapshot, entries, hard state.
func (t *tables) save(b Batch) error {
	v, err := t.tail()
	if err != nil {
		return err
	}
	if !raft.IsEmptySnap(b.Snapshot) {
		if err := t.saveSnapshot(&v, b.Snapshot); err != nil {
			return err
		}
	}
	if len(b.Entries) > 0 {
		if err := t.saveEntries(&v, b.Entries); err != nil {
			return err
		}
	}
	if !raft.IsEmptyHardState(b.HardState) {
		if err := t.saveHardState(&v, b.HardState); err != nil {
			return err
		}
	}
	if v.commit > v.last {
		return fmt.Errorf("%w: commit index %d is beyond the last index %d", ErrRefused, v.commit, v.last)
	}
	return t.putTail(v)
}

func (t *tables) saveHardState(v *tail, hs *raftpb.HardState) error {
	term, vote, commit := hs.GetTerm(), hs.GetVote(), hs.GetCommit()
	switch {
	case term < v.term:
		return fmt.Errorf("%w: term goes back from %d to %d", ErrRefused, v.term, term)
	case term == v.term && v.vote != 0 && vote != v.vote:
		return fmt.Errorf("%w: vote in term %d changes from %d to %d", ErrRefused, term, v.vote, vote)
	case commit < v.commit:
		return fmt.Errorf("%w: commit index goes back from %d to %d", ErrRefused, v.commit, commit)
	}
	t.changed = t.changed || term != v.term || vote != v.vote
	v.term, v.vote, v.commit = term, vote, commit
	return nil
}

func (t *tables) saveSnapshot(v *tail, s *raftpb.Snapshot) error {
	index, term := s.GetMetadata().GetIndex(), s.GetMetadata().GetTerm()
	if index < v.snapshot {
		return fmt.Errorf("%w: snapshot goes back from index %d to %d", ErrRefused, v.snapshot, index)
	}
	if index == v.snapshot {
		return nil // the same: a snapshot is determined by its index
	}
	contained, err := t.contains(index, term)
	if err != nil {
		return err
	}
	switch {
	case contained:
		err = t.dropEntries(0, index)
	case index <= v.commit:
		err = fmt.Errorf("%w: snapshot at index %d, term %d contradicts the committed log", ErrRefused, index, term)
	default:
		err = t.dropEntries(0, ^uint64(0))
		v.last, v.lastTerm = index, term
	}
	if err != nil {
		return err
	}
	meta, err := proto.Marshal(s.GetMetadata())
	if err != nil {
		return err
	}
	if err := t.put(keySnapshotMeta, kindSnapshotMeta, meta); err != nil {
		return err
	}
	// What a snapshot covers is committed.
	v.snapshot, v.commit = index, max(v.commit, index)
	t.changed = true
	return t.put(keySnapshotData, kindSnapshotData, encodeSnapshotData(s))
}

func (t *tables) contains(index, term uint64) (bool, error) {
	r := t.log.Get(entryKey(index))
	if r == nil {
		return false, nil
	}
	e, err := openEntry(entryKey(index), r)
	return err == nil && e.GetTerm() == term, err
}

func (t *tables) saveEntries(v *tail, entries []*raftpb.Entry) error {
	first := entries[0].GetIndex()
	switch {
	case first <= v.snapshot:
		return fmt.Errorf("%w: entry %d is covered by the snapshot at index %d", ErrRefused, first, v.snapshot)
	case first > v.last+1:
		return fmt.Errorf("%w: entry %d would leave a hole after index %d", ErrRefused, first, v.last)
	case first <= v.commit:
		if same, err := t.sameCommitted(v.commit, entries); err != nil || !same {
			return fmt.Errorf("%w: entry %d would replace a committed one (commit index %d)", ErrRefused, first, v.commit)
		}
	}
	if err := t.dropEntries(first, ^uint64(0)); err != nil {
		return err
	}
	for i, e := range entries {
		if e.GetIndex() != first+uint64(i) {
			return fmt.Errorf("%w: entry %d follows entry %d", ErrRefused, e.GetIndex(), first+uint64(i)-1)
		}
		payload, err := encodeEntry(e)
		if err != nil {
			return err
		}
		key := entryKey(e.GetIndex())
		if err := t.log.Put(key, sealRecord(key, kindEntry, payload)); err != nil {
			return err
		}
		v.last, v.lastTerm = e.GetIndex(), e.GetTerm()
	}
	t.changed = true
	return nil
}

// sameCommitted says whether the entries up to commit are already stored so:
// raft does not send them again, but a retried batch does.
func (t *tables) sameCommitted(commit uint64, entries []*raftpb.Entry) (bool, error) {
	for i, e := range entries {
		if e.GetIndex() > commit {
			return true, nil
		}
		same, err := t.contains(e.GetIndex(), e.GetTerm())
		if err != nil || !same {
			return false, err
		}
		if i == len(entries)-1 && e.GetIndex() < commit {
			return false, nil // the rest up to commit would be dropped
		}
	}
	return true, nil
}

// dropEntries deletes the entries from first to last, both included.
func (t *tables) dropEntries(first, last uint64) error {
	c := t.log.Cursor()
	for k, _ := c.Seek(entryKey(first)); k != nil; k, _ = c.Seek(entryKey(first)) {
		if len(k) != 8 {
			return damaged("log has a key of %d bytes", len(k))
		}
		if binary.BigEndian.Uint64(k) > last {
			return nil
		}
		if err := c.Delete(); err != nil {
			return err
		}
	}
	return nil
}

func openEntry(key, record []byte) (*raftpb.Entry, error) {
	if len(key) != 8 {
		return nil, damaged("log has a key of %d bytes", len(key))
	}
	payload, err := openRecord(key, kindEntry, record)
	if err != nil {
		return nil, err
	}
	return decodeEntry(binary.BigEndian.Uint64(key), payload)
}

// load reads and checks everything.
func (t *tables) load() (Saved, error) {
	v, err := t.tail()
	if err != nil {
		return Saved{}, err
	}
	out := Saved{
		HardState: &raftpb.HardState{Term: &v.term, Vote: &v.vote, Commit: &v.commit},
		Snapshot:  raftpb.EnsureSnapshot(nil),
	}
	last, lastTerm := uint64(0), uint64(0)
	if v.snapshot != 0 {
		if out.Snapshot, err = t.snapshot(v.snapshot); err != nil {
			return Saved{}, err
		}
		last, lastTerm = v.snapshot, out.Snapshot.GetMetadata().GetTerm()
	}
	c := t.log.Cursor()
	for k, r := c.First(); k != nil; k, r = c.Next() {
		e, err := openEntry(k, r)
		if err != nil {
			return Saved{}, err
		}
		if e.GetIndex() != last+1 || e.GetTerm() < lastTerm {
			return Saved{}, damaged("entry %d of term %d follows entry %d of term %d", e.GetIndex(), e.GetTerm(), last, lastTerm)
		}
		last, lastTerm = e.GetIndex(), e.GetTerm()
		out.Entries = append(out.Entries, e)
	}
	if last != v.last || lastTerm != v.lastTerm {
		return Saved{}, damaged("log ends at index %d, term %d but index %d, term %d was the last one saved", last, lastTerm, v.last, v.lastTerm)
	}
	return out, nil
}

func (t *tables) snapshot(index uint64) (*raftpb.Snapshot, error) {
	meta, err := t.get(keySnapshotMeta, kindSnapshotMeta)
	if err != nil {
		return nil, err
	}
	data, err := t.get(keySnapshotData, kindSnapshotData)
	if err != nil {
		return nil, err
	}
	s, err := decodeSnapshot(meta, data)
	if err == nil && s.GetMetadata().GetIndex() != index {
		err = damaged("snapshot is at index %d, not %d", s.GetMetadata().GetIndex(), index)
	}
	return s, err
}
