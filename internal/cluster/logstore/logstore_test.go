package logstore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

var us = Owner{ClusterUUID: "00112233445566778899aabbccddeeff", Node: "n1"}

func hard(term, vote, commit uint64) *raftpb.HardState {
	return &raftpb.HardState{Term: &term, Vote: &vote, Commit: &commit}
}

func entry(index, term uint64, data string) *raftpb.Entry {
	return &raftpb.Entry{Index: &index, Term: &term, Type: raftpb.EntryNormal.Enum(), Data: []byte(data)}
}

func entries(first, last, term uint64) (out []*raftpb.Entry) {
	for i := first; i <= last; i++ {
		out = append(out, entry(i, term, fmt.Sprintf("entry %d of term %d", i, term)))
	}
	return out
}

func snap(index, term uint64, data string) *raftpb.Snapshot {
	return &raftpb.Snapshot{Data: []byte(data), Metadata: &raftpb.SnapshotMetadata{
		Index: &index, Term: &term, ConfState: &raftpb.ConfState{Voters: []uint64{1, 2, 3}, AutoLeave: new(false)},
	}}
}

func mustOpen(t testing.TB, path string) *Store {
	t.Helper()
	s, err := Open(path, us)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func mustSave(t testing.TB, s *Store, b Batch) {
	t.Helper()
	if err := s.Save(b); err != nil {
		t.Fatal(err)
	}
}

func reopen(t testing.TB, s *Store) *Store {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return mustOpen(t, s.Path())
}

// text of everything in the store.
func text(s Saved) string {
	var b strings.Builder
	fmt.Fprintf(&b, "id %d term %d vote %d commit %d snapshot %d/%d %q voters %v", s.RaftID, s.HardState.GetTerm(), s.HardState.GetVote(), s.HardState.GetCommit(),
		s.Snapshot.GetMetadata().GetIndex(), s.Snapshot.GetMetadata().GetTerm(), s.Snapshot.GetData(), s.Snapshot.GetMetadata().GetConfState().GetVoters())
	for _, e := range s.Entries {
		fmt.Fprintf(&b, " %d/%d%q", e.GetIndex(), e.GetTerm(), e.GetData())
	}
	return b.String()
}

func contentOf(t testing.TB, s *Store) string {
	t.Helper()
	got, err := s.Load()
	if err != nil {
		t.Fatal(err)
	}
	return text(got)
}

func TestNewStoreIsEmptyAndWithoutRaftID(t *testing.T) {
	path := filepath.Join(t.TempDir(), "raft.db")
	s := mustOpen(t, path)
	got, err := s.Load()
	if err != nil {
		t.Fatal(err)
	}
	if got.RaftID != 0 || !raft.IsEmptyHardState(got.HardState) || !raft.IsEmptySnap(got.Snapshot) || len(got.Entries) != 0 {
		t.Fatalf("new store holds %s", text(got))
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
}

func TestCreateHoldsWhatInitMakes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "raft.db")
	want := Saved{RaftID: 2, HardState: hard(1, 0, 1), Snapshot: snap(1, 1, "state")}
	if err := Create(path, us, want); err != nil {
		t.Fatal(err)
	}
	if err := Create(path, us, want); !errors.Is(err, fs.ErrExist) {
		t.Fatalf("second Create: %v", err)
	}
	if got := contentOf(t, mustOpen(t, path)); got != text(want) {
		t.Fatalf("got %s\nwant %s", got, text(want))
	}
	if _, err := os.Stat(path + ".new"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("temporary file is left: %v", err)
	}
}

func TestSaveKeepsEverythingAcrossReopen(t *testing.T) {
	s := mustOpen(t, filepath.Join(t.TempDir(), "raft.db"))
	if err := s.Reset(7); err != nil {
		t.Fatal(err)
	}
	mustSave(t, s, Batch{Snapshot: snap(4, 2, "four"), Entries: entries(5, 9, 2), HardState: hard(2, 3, 4), MustSync: true})
	mustSave(t, s, Batch{Entries: entries(8, 10, 3), HardState: hard(3, 0, 7)})
	want := Saved{RaftID: 7, HardState: hard(3, 0, 7), Snapshot: snap(4, 2, "four"), Entries: append(entries(5, 7, 2), entries(8, 10, 3)...)}
	if got := contentOf(t, reopen(t, s)); got != text(want) {
		t.Fatalf("got  %s\nwant %s", got, text(want))
	}
}

func TestSnapshotDropsWhatItCovers(t *testing.T) {
	s := mustOpen(t, filepath.Join(t.TempDir(), "raft.db"))
	mustSave(t, s, Batch{Entries: entries(1, 9, 1), HardState: hard(1, 1, 6)})
	mustSave(t, s, Batch{Snapshot: snap(5, 1, "own")})
	got, _ := s.Load()
	if len(got.Entries) != 4 || got.Entries[0].GetIndex() != 6 {
		t.Fatalf("after an own snapshot: %s", text(got))
	}
	mustSave(t, s, Batch{Snapshot: snap(20, 2, "leader's"), HardState: hard(2, 0, 20)})
	got, _ = s.Load()
	if len(got.Entries) != 0 || got.Snapshot.GetMetadata().GetIndex() != 20 {
		t.Fatalf("after the leader's snapshot: %s", text(got))
	}
	mustSave(t, s, Batch{Entries: entries(21, 22, 2)})
	if err := s.Save(Batch{Snapshot: snap(20, 2, "again")}); err != nil {
		t.Fatalf("the same snapshot again: %v", err)
	}
}

func TestSnapshotRaisesCommit(t *testing.T) {
	s := mustOpen(t, filepath.Join(t.TempDir(), "raft.db"))
	mustSave(t, s, Batch{Snapshot: snap(4, 2, "four")})
	got, _ := s.Load()
	if got.HardState.GetCommit() != 4 {
		t.Fatalf("raft would refuse to start: %s", text(got))
	}
}

func TestBatchesThatBreakTheRulesAreRefusedAndChangeNothing(t *testing.T) {
	for _, c := range []struct {
		name string
		b    Batch
	}{
		{"hole after the log", Batch{Entries: entries(11, 12, 3)}},
		{"hole in the batch", Batch{Entries: []*raftpb.Entry{entry(10, 3, ""), entry(12, 3, "")}}},
		{"entry covered by the snapshot", Batch{Entries: entries(4, 4, 3)}},
		{"entry that replaces a committed one", Batch{Entries: entries(6, 6, 3)}},
		{"snapshot goes back", Batch{Snapshot: snap(3, 2, "three")}},
		{"snapshot contradicts the committed log", Batch{Snapshot: snap(6, 3, "six")}},
		{"term goes back", Batch{HardState: hard(1, 0, 6)}},
		{"second vote", Batch{HardState: hard(2, 1, 6)}},
		{"commit goes back", Batch{HardState: hard(2, 3, 5)}},
		{"commit beyond the log", Batch{HardState: hard(2, 3, 10)}},
		{"good entries, bad hard state", Batch{Entries: entries(10, 11, 2), HardState: hard(1, 0, 11)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := mustOpen(t, filepath.Join(t.TempDir(), "raft.db"))
			mustSave(t, s, Batch{Snapshot: snap(4, 2, "four"), Entries: entries(5, 9, 2), HardState: hard(2, 3, 6)})
			before := contentOf(t, s)
			if err := s.Save(c.b); !errors.Is(err, ErrRefused) {
				t.Fatalf("got %v", err)
			}
			if after := contentOf(t, s); after != before {
				t.Fatalf("changed to %s", after)
			}
			mustSave(t, s, Batch{Entries: entries(10, 10, 2)})
		})
	}
}

func TestRepeatedBatchChangesNothing(t *testing.T) {
	s := mustOpen(t, filepath.Join(t.TempDir(), "raft.db"))
	b := Batch{Snapshot: snap(4, 2, "four"), Entries: entries(5, 9, 2), HardState: hard(2, 3, 6), MustSync: true}
	mustSave(t, s, b)
	before := contentOf(t, s)
	mustSave(t, s, b)
	if after := contentOf(t, s); after != before {
		t.Fatalf("changed to %s", after)
	}
}

func TestLoneCommitStaysInMemoryUntilTheNextSave(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, filepath.Join(dir, "raft.db"))
	mustSave(t, s, Batch{Entries: entries(1, 9, 1), HardState: hard(1, 1, 3), MustSync: true})
	before := fileBytes(t, s.Path())
	mustSave(t, s, Batch{HardState: hard(1, 1, 7)})
	if string(fileBytes(t, s.Path())) != string(before) {
		t.Error("a lone commit index was written")
	}
	if got, _ := s.Load(); got.HardState.GetCommit() != 7 {
		t.Errorf("Load: %s", text(got))
	}
	mustSave(t, s, Batch{Entries: entries(10, 10, 1)})
	writeFile(t, filepath.Join(dir, "copy"), fileBytes(t, s.Path()))
	if got, _ := mustOpen(t, filepath.Join(dir, "copy")).Load(); got.HardState.GetCommit() != 7 {
		t.Errorf("after the next Save: %s", text(got))
	}
	// A term, a vote and MustSync are written at once.
	for _, b := range []Batch{{HardState: hard(2, 0, 7)}, {HardState: hard(2, 3, 7)}, {HardState: hard(2, 3, 8), MustSync: true}} {
		before := fileBytes(t, s.Path())
		mustSave(t, s, b)
		if string(fileBytes(t, s.Path())) == string(before) {
			t.Errorf("%v was not written", b.HardState)
		}
	}
	mustSave(t, s, Batch{HardState: hard(2, 3, 9)})
	if got, _ := reopen(t, s).Load(); got.HardState.GetCommit() != 9 {
		t.Errorf("after Close: %s", text(got))
	}
}

func TestResetBeginsAnewUnderAHigherID(t *testing.T) {
	s := mustOpen(t, filepath.Join(t.TempDir(), "raft.db"))
	mustSave(t, s, Batch{Snapshot: snap(4, 2, "four"), Entries: entries(5, 9, 2), HardState: hard(2, 3, 6)})
	if err := s.Reset(5); err != nil {
		t.Fatal(err)
	}
	s = reopen(t, s)
	if got := contentOf(t, s); got != text(Saved{RaftID: 5, HardState: hard(0, 0, 0), Snapshot: raftpb.EnsureSnapshot(nil)}) {
		t.Fatalf("after Reset: %s", got)
	}
	for _, id := range []uint64{0, 4, 5} {
		if err := s.Reset(id); !errors.Is(err, ErrRefused) {
			t.Errorf("Reset(%d): %v", id, err)
		}
	}
	mustSave(t, s, Batch{Entries: entries(1, 1, 1)})
}

func TestOpenRefusesAForeignFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "raft.db")
	_ = mustOpen(t, path).Close()
	for _, o := range []Owner{{us.ClusterUUID, "n2"}, {"ffffffffffffffffffffffffffffffff", "n1"}} {
		if _, err := Open(path, o); !errors.Is(err, ErrForeign) || !strings.Contains(err.Error(), path) {
			t.Errorf("opened as %v: %v", o, err)
		}
	}
}

func TestOpenRefusesAFileInUse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "raft.db")
	mustOpen(t, path)
	if _, err := Open(path, us); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), path) {
		t.Fatal(err)
	}
}

func TestOpenRefusesANewerFormat(t *testing.T) {
	path := filepath.Join(t.TempDir(), "raft.db")
	s := mustOpen(t, path)
	err := s.update(func(tb *tables) error {
		r := sealRecord(keyTail, kindTail, tail{}.encode())
		r[5] = recordFormat + 1
		sum := recordSum(keyTail, r)
		r[0], r[1], r[2], r[3] = byte(sum), byte(sum>>8), byte(sum>>16), byte(sum>>24)
		return tb.state.Put(keyTail, r)
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Load(); !errors.Is(err, ErrNewer) {
		t.Fatal(err)
	}
}

// The bytes of records are a promise to later versions.
func TestRecordsHaveTheirDocumentedBytes(t *testing.T) {
	for _, c := range []struct {
		got  []byte
		want string
	}{
		{sealRecord(keyTail, kindTail, tail{1, 2, 3, 4, 5, 6}.encode()), "189808cc0201010000000000000002000000000000000300000000000000040000000000000005000000000000000600000000000000"},
		{sealRecord(keyOwner, kindOwner, encodeOwner(Owner{"ab", "n1"}, 7)), "f0a41a88010107000000000000000200616202006e31"},
	} {
		if got := fmt.Sprintf("%x", c.got); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
}

func TestClosedStoreSaysSo(t *testing.T) {
	s := mustOpen(t, filepath.Join(t.TempDir(), "raft.db"))
	_ = s.Close()
	if err := s.Save(Batch{}); !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
	if _, err := s.Load(); !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{256, 4096} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			s, err := Open(filepath.Join(b.TempDir(), "raft.db"), us)
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			data := strings.Repeat("x", size)
			b.SetBytes(int64(size))
			for i := uint64(1); b.Loop(); i++ {
				batch := Batch{Entries: []*raftpb.Entry{entry(i, 1, data)}, MustSync: true}
				if i%5000 == 0 {
					batch = Batch{Entries: batch.Entries, Snapshot: snap(i-100, 1, data)}
				}
				mustSave(b, s, batch)
			}
		})
	}
}

func fileBytes(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func writeFile(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}
