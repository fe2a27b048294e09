package logstore

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"pgregory.net/rapid"
)

// model is the naive twin: everything in memory.
type model struct {
	id     uint64
	hs     *raftpb.HardState
	snap   *raftpb.Snapshot
	ents   []*raftpb.Entry
	synced uint64 // commit index that a crash must leave
}

func newModel() *model {
	return &model{hs: hard(0, 0, 0), snap: raftpb.EnsureSnapshot(nil)}
}

func (m *model) last() (index, term uint64) {
	if n := len(m.ents); n > 0 {
		return m.ents[n-1].GetIndex(), m.ents[n-1].GetTerm()
	}
	return m.snap.GetMetadata().GetIndex(), m.snap.GetMetadata().GetTerm()
}

func (m *model) save(b Batch) {
	if s := b.Snapshot; s != nil {
		index := s.GetMetadata().GetIndex()
		var keep []*raftpb.Entry
		for i, e := range m.ents {
			if e.GetIndex() == index && e.GetTerm() == s.GetMetadata().GetTerm() {
				keep = m.ents[i+1:]
			}
		}
		m.snap, m.ents = s, keep
		m.hs = hard(m.hs.GetTerm(), m.hs.GetVote(), max(m.hs.GetCommit(), index))
	}
	for _, e := range b.Entries {
		for len(m.ents) > 0 && m.ents[len(m.ents)-1].GetIndex() >= e.GetIndex() {
			m.ents = m.ents[:len(m.ents)-1]
		}
		m.ents = append(m.ents[:len(m.ents):len(m.ents)], e)
	}
	hs := m.hs
	if b.HardState != nil {
		hs = b.HardState
	}
	if b.MustSync || b.Snapshot != nil || len(b.Entries) > 0 || hs.GetTerm() != m.hs.GetTerm() || hs.GetVote() != m.hs.GetVote() {
		m.synced = hs.GetCommit()
	}
	m.hs = hs
}

func (m *model) saved() Saved {
	return Saved{RaftID: m.id, HardState: m.hs, Snapshot: m.snap, Entries: m.ents}
}

// batch draws one that keeps the rules.
func (m *model) batch(t *rapid.T) Batch {
	var b Batch
	term := max(m.hs.GetTerm(), 1) + rapid.Uint64Range(0, 1).Draw(t, "newer term")
	last, _ := m.last()
	base, commit := m.snap.GetMetadata().GetIndex(), m.hs.GetCommit()
	switch rapid.IntRange(0, 5).Draw(t, "kind") {
	case 0: // own snapshot
		if commit > base {
			at := rapid.Uint64Range(base+1, commit).Draw(t, "at")
			b.Snapshot = snap(at, m.ents[at-base-1].GetTerm(), fmt.Sprint("own ", at))
		}
	case 1: // the leader's
		at := last + rapid.Uint64Range(1, 30).Draw(t, "ahead")
		b.Snapshot = snap(at, term, fmt.Sprint("leader's ", at))
		last, commit = at, at
	default:
		first := rapid.Uint64Range(commit+1, last+1).Draw(t, "first")
		n := rapid.Uint64Range(0, 40).Draw(t, "count")
		for i := first; i < first+n; i++ {
			b.Entries = append(b.Entries, entry(i, term, string(make([]byte, rapid.IntRange(0, 300).Draw(t, "size")))))
		}
		if n > 0 {
			last = first + n - 1
		}
	}
	if rapid.Bool().Draw(t, "hard state") || b.Snapshot != nil {
		vote := uint64(0)
		if term == m.hs.GetTerm() {
			vote = m.hs.GetVote()
		}
		if vote == 0 {
			vote = rapid.Uint64Range(0, 3).Draw(t, "vote")
		}
		b.HardState = hard(term, vote, rapid.Uint64Range(commit, last).Draw(t, "commit"))
	} else if len(b.Entries) > 0 && term != m.hs.GetTerm() {
		b.HardState = hard(term, 0, commit)
	}
	b.MustSync = rapid.Bool().Draw(t, "must sync")
	return b
}

func TestRandomOperationsAgainstNaiveTwin(t *testing.T) {
	dir := t.TempDir()
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		path := filepath.Join(dir, fmt.Sprint(run))
		s, err := Open(path, us)
		if err != nil {
			rt.Fatal(err)
		}
		defer os.Remove(path)
		defer func() { s.Close() }()
		m := newModel()
		step := func(err error) {
			if err != nil {
				rt.Fatal(err)
			}
		}
		for range rapid.IntRange(1, 25).Draw(rt, "steps") {
			switch rapid.IntRange(0, 9).Draw(rt, "step") {
			case 0:
				step(s.Close())
				s, err = Open(path, us)
				step(err)
			case 1: // the machine crashes: what was not synced may be gone
				step(s.db.Close())
				s, err = Open(path, us)
				step(err)
				m.hs = hard(m.hs.GetTerm(), m.hs.GetVote(), m.synced)
			case 2:
				m = &model{id: m.id + 1, hs: hard(0, 0, 0), snap: raftpb.EnsureSnapshot(nil)}
				step(s.Reset(m.id))
			default:
				b := m.batch(rt)
				step(s.Save(b))
				m.save(b)
			}
			got, err := s.Load()
			step(err)
			if text(got) != text(m.saved()) {
				rt.Fatalf("got  %s\nwant %s", text(got), text(m.saved()))
			}
			startsRaft(rt, got)
		}
	})
}

// startsRaft checks that raft accepts what was loaded.
func startsRaft(t *rapid.T, s Saved) {
	ms := raft.NewMemoryStorage()
	if !raft.IsEmptySnap(s.Snapshot) {
		if err := ms.ApplySnapshot(s.Snapshot); err != nil {
			t.Fatal(err)
		}
	}
	if err := ms.Append(s.Entries); err != nil {
		t.Fatal(err)
	}
	if err := ms.SetHardState(s.HardState); err != nil {
		t.Fatal(err)
	}
	if _, err := raft.NewRawNode(&raft.Config{ID: 1, ElectionTick: 10, HeartbeatTick: 1, Storage: ms, MaxInflightMsgs: 8, MaxSizePerMsg: 1 << 20, Logger: quiet{}}); err != nil {
		t.Fatal(err)
	}
}

// quiet panics as raft expects of its logger, and is silent otherwise.
type quiet struct{}

func (quiet) Debug(...any)              {}
func (quiet) Debugf(string, ...any)     {}
func (quiet) Info(...any)               {}
func (quiet) Infof(string, ...any)      {}
func (quiet) Warning(...any)            {}
func (quiet) Warningf(string, ...any)   {}
func (quiet) Error(...any)              {}
func (quiet) Errorf(string, ...any)     {}
func (quiet) Fatal(v ...any)            { panic(fmt.Sprint(v...)) }
func (quiet) Fatalf(f string, v ...any) { panic(fmt.Sprintf(f, v...)) }
func (quiet) Panic(v ...any)            { panic(fmt.Sprint(v...)) }
func (quiet) Panicf(f string, v ...any) { panic(fmt.Sprintf(f, v...)) }
