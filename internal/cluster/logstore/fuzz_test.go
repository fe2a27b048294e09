package logstore

import (
	"path/filepath"
	"testing"
)

// FuzzRecords feeds every decoder. None may panic, and what a decoder accepts
// as a record must have the right sum.
func FuzzRecords(f *testing.F) {
	f.Add([]byte("tail"), sealRecord(keyTail, kindTail, tail{1, 2, 3, 4, 5, 6}.encode()))
	f.Add([]byte("owner"), sealRecord(keyOwner, kindOwner, encodeOwner(us, 3)))
	f.Add(entryKey(1), []byte{})
	f.Fuzz(func(t *testing.T, key, b []byte) {
		for kind := byte(1); kind <= 5; kind++ {
			if p, err := openRecord(key, kind, b); err == nil && string(sealRecord(key, kind, p)) != string(b) {
				t.Fatalf("accepted %x, would write %x", b, sealRecord(key, kind, p))
			}
		}
		if v, err := decodeTail(b); err == nil && string(v.encode()) != string(b) {
			t.Fatal("tail does not survive")
		}
		if o, id, err := decodeOwner(b); err == nil && string(encodeOwner(o, id)) != string(b) {
			t.Fatal("owner does not survive")
		}
		_, _ = openEntry(key, b)
		_, _ = decodeEntry(1, b)
		_, _ = decodeSnapshot(key, b)
	})
}

// FuzzFile changes a file in one place. Whatever passes the check must be safe
// for bbolt to walk; shielded would hide a crash from the operator, but a loop
// or an overflow of the stack could not be hidden.
func FuzzFile(f *testing.F) {
	path := filepath.Join(f.TempDir(), "raft.db")
	s, err := Open(path, us)
	if err != nil {
		f.Fatal(err)
	}
	mustSave(f, s, Batch{Entries: entries(1, 250, 1), HardState: hard(1, 0, 3)})
	want := contentOf(f, s)
	_ = s.Close()
	good := fileBytes(f, path)
	f.Add(uint32(4096*2+10), []byte{0xff})
	f.Add(uint32(0), []byte{})
	f.Fuzz(func(t *testing.T, at uint32, b []byte) {
		file := append([]byte(nil), good...)
		copy(file[int(at)%len(file):], b)
		p := filepath.Join(t.TempDir(), "raft.db")
		writeFile(t, p, file)
		s, err := Open(p, us)
		if err != nil {
			return
		}
		defer s.Close()
		if l, err := s.Load(); err == nil && text(l) != want {
			t.Fatalf("damage passed for data: %s", text(l))
		}
	})
}
