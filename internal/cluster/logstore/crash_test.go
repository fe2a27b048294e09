package logstore

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
)

// script is a short life of a log: appends, conflicts, own and received
// snapshots, a new incarnation.
func script() []func(*Store) error {
	save := func(b Batch) func(*Store) error { return func(s *Store) error { return s.Save(b) } }
	big := strings.Repeat("snapshot ", 3000)
	return []func(*Store) error{
		func(s *Store) error { return s.Reset(3) },
		save(Batch{Snapshot: snap(1, 1, "initial"), HardState: hard(1, 0, 1), MustSync: true}),
		save(Batch{Entries: entries(2, 60, 1), HardState: hard(1, 2, 1)}),
		save(Batch{Entries: entries(61, 400, 1), HardState: hard(1, 2, 50)}),
		save(Batch{Entries: entries(300, 310, 2), HardState: hard(2, 0, 290)}),
		save(Batch{Snapshot: snap(280, 1, big)}),
		save(Batch{Entries: entries(311, 311, 2), HardState: hard(2, 1, 311), MustSync: true}),
		save(Batch{Snapshot: snap(900, 3, big+big), HardState: hard(3, 0, 900)}),
		save(Batch{Entries: entries(901, 1000, 3)}),
		func(s *Store) error { return s.Reset(9) },
		save(Batch{Snapshot: snap(1100, 4, big), Entries: entries(1101, 1110, 4), HardState: hard(4, 0, 1100)}),
	}
}

// TestPowerCutAtEveryWrite builds the files that a power cut may leave while a
// batch is being written: any part of the sectors of the new pages, and of the
// meta page all or nothing. Each must open as the state before the batch, or
// as the one after it if the meta page was written last.
func TestPowerCutAtEveryWrite(t *testing.T) {
	const sector = 512
	dir := t.TempDir()
	rng := rand.New(rand.NewPCG(1, 2))
	path := filepath.Join(dir, "raft.db")
	s := mustOpen(t, path)
	torn := 0
	for i, step := range script() {
		before, beforeText := fileBytes(t, path), contentOf(t, s)
		if err := step(s); err != nil {
			t.Fatal(err)
		}
		after, afterText := fileBytes(t, path), contentOf(t, s)
		check := func(file []byte, want string) {
			t.Helper()
			p := filepath.Join(dir, "cut")
			writeFile(t, p, file)
			cut, err := Open(p, us)
			if err != nil {
				t.Fatalf("step %d: %v", i, err)
			}
			if got := contentOf(t, cut); got != want {
				t.Fatalf("step %d:\ngot  %s\nwant %s", i, got, want)
			}
			// It must go on working.
			last := uint64(0)
			if l, _ := cut.Load(); len(l.Entries) > 0 {
				last = l.Entries[len(l.Entries)-1].GetIndex()
			} else {
				last = l.Snapshot.GetMetadata().GetIndex()
			}
			mustSave(t, cut, Batch{Entries: entries(last+1, last+20, 9), MustSync: true})
			if err := cut.Close(); err != nil {
				t.Fatal(err)
			}
			torn++
		}
		page := os.Getpagesize()
		grown := make([]byte, len(after))
		copy(grown, before)
		for try := range 12 {
			file := append([]byte(nil), grown...)
			for at := 2 * page; at < len(after); at += sector {
				if try == 0 || rng.IntN(2) == 0 {
					copy(file[at:at+sector], after[at:])
				}
			}
			check(file, beforeText)
		}
		// Everything but the meta page is on disk; then it is written too.
		file := append(append([]byte(nil), grown[:2*page]...), after[2*page:]...)
		check(file, beforeText)
		copy(file[:2*page], after)
		check(file, afterText)
		if beforeText == afterText {
			t.Fatalf("step %d changes nothing", i)
		}
	}
	if torn < 140 {
		t.Fatalf("only %d files tried", torn)
	}
}

// Sizes within a page of bbolt, and its mark of branches.
const pageHeader, pageElement, pageBranch = 16, 16, 1

// TestDamageIsNoticed changes bytes of a good file. It must be refused, or
// still give exactly what was saved: bytes of unused pages may change.
func TestDamageIsNoticed(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "raft.db")
	s := mustOpen(t, path)
	for _, step := range script()[:7] {
		if err := step(s); err != nil {
			t.Fatal(err)
		}
	}
	want := contentOf(t, s)
	_ = s.Close()
	good := fileBytes(t, path)
	rng := rand.New(rand.NewPCG(3, 4))
	refused := 0
	try := func(what string, file []byte) {
		t.Helper()
		p := filepath.Join(dir, "bad")
		writeFile(t, p, file)
		bad, err := Open(p, us)
		var got Saved
		if err == nil {
			got, err = bad.Load()
			_ = bad.Close()
		}
		switch {
		case err == nil && text(got) != want:
			t.Fatalf("%s: damage passed for data:\n%s", what, text(got))
		case err == nil:
		case errors.Is(err, ErrDamaged) || errors.Is(err, ErrForeign):
			if !strings.Contains(err.Error(), p) || !strings.Contains(err.Error(), "move") {
				t.Fatalf("%s: unhelpful: %v", what, err)
			}
			refused++
		default:
			t.Fatalf("%s: %v", what, err)
		}
	}
	for range 700 {
		file := append([]byte(nil), good...)
		at := rng.IntN(len(file))
		switch rng.IntN(3) {
		case 0:
			file[at] ^= 1 << rng.IntN(8)
			try(fmt.Sprintf("bit in byte %d", at), file)
		case 1: // headers and elements of pages are where the tree could go wrong
			at = at/4096*4096 + rng.IntN(64)
			file[at] = byte(rng.Uint32())
			try(fmt.Sprintf("header byte %d", at), file)
		case 2:
			at = at / 512 * 512
			clear(file[at : at+512])
			try(fmt.Sprintf("zeroed sector at %d", at), file)
		}
	}
	for n := 0; n < len(good); n += 4999 {
		try(fmt.Sprintf("cut to %d bytes", n), good[:n])
	}
	// A page in the place of another, as a misdirected write leaves it.
	for range 150 {
		file := append([]byte(nil), good...)
		a, b := rng.IntN(len(file)/4096), rng.IntN(len(file)/4096)
		copy(file[a*4096:a*4096+4096], good[b*4096:])
		try(fmt.Sprintf("page %d in the place of %d", b, a), file)
	}
	if refused < 200 { // the layout of the file differs a little from run to run
		t.Fatalf("only %d files were refused", refused)
	}
}

// Entries that are gone with everything else intact, as from a page that was
// written long ago.
func TestLostTailIsNoticed(t *testing.T) {
	for _, lost := range []uint64{1, 150, 300} {
		path := filepath.Join(t.TempDir(), "raft.db")
		s := mustOpen(t, path)
		mustSave(t, s, Batch{Entries: entries(1, 300, 1), HardState: hard(1, 0, 0)})
		if err := s.update(func(tb *tables) error { return tb.dropEntries(lost, lost) }); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Load(); !errors.Is(err, ErrDamaged) {
			t.Errorf("without entry %d: %v", lost, err)
		}
	}
}

// A tree that leads back to itself would keep bbolt busy for ever.
func TestPageReferredToTwiceIsNoticed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "raft.db")
	s := mustOpen(t, path)
	mustSave(t, s, Batch{Entries: entries(1, 3000, 1), HardState: hard(1, 0, 0)})
	_ = s.Close()
	good := fileBytes(t, path)
	tried := 0
	for id := 2; (id+1)*4096 <= len(good); id++ {
		page := good[id*4096:]
		if binary.LittleEndian.Uint16(page[8:]) != pageBranch || binary.LittleEndian.Uint64(page) != uint64(id) {
			continue
		}
		sibling := binary.LittleEndian.Uint64(page[pageHeader+8:])
		for _, to := range []uint64{uint64(id), sibling, 0, 1, 1 << 40} {
			bad := append([]byte(nil), good...)
			binary.LittleEndian.PutUint64(bad[id*4096+pageHeader+pageElement+8:], to)
			if err := checkBytes(bad); !errors.Is(err, ErrDamaged) {
				t.Errorf("page %d with a reference to %d: %v", id, to, err)
			}
			tried++
		}
	}
	if tried == 0 {
		t.Fatal("no branch page in the file")
	}
}

// A meta page of long ago beside a new one.
func TestMetaPagesMustBeConsecutive(t *testing.T) {
	path := filepath.Join(t.TempDir(), "raft.db")
	s := mustOpen(t, path)
	var files [][]byte
	for i := range uint64(8) {
		mustSave(t, s, Batch{Entries: entries(i+1, i+1, 1), HardState: hard(1, 0, 0)})
		files = append(files, fileBytes(t, path))
	}
	for slot := range 2 {
		bad := append([]byte(nil), files[7]...)
		copy(bad[slot*4096:slot*4096+4096], files[2][slot*4096:])
		if err := checkBytes(bad); !errors.Is(err, ErrDamaged) {
			t.Errorf("old page in slot %d: %v", slot, err)
		}
	}
	if err := checkBytes(files[7]); err != nil {
		t.Error(err)
	}
}

func TestTruncationOfAnOpenFileIsAnError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "raft.db")
	s := mustOpen(t, path)
	mustSave(t, s, Batch{Entries: entries(1, 300, 1), HardState: hard(1, 0, 0)})
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Load(); !errors.Is(err, ErrDamaged) {
		t.Fatalf("Load: %v", err)
	}
	if err := s.Save(Batch{Entries: entries(301, 302, 1)}); !errors.Is(err, ErrFailed) {
		t.Fatalf("Save after the failure: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	if _, err := Open(path, us); !errors.Is(err, ErrDamaged) {
		t.Fatalf("Open: %v", err)
	}
}

const childEnv = "LOGSTORE_TEST_CHILD"

// TestMain runs this binary as a child too: one that is killed while it
// writes, and one with a small disk of its own.
func TestMain(m *testing.M) {
	switch what, path, _ := strings.Cut(os.Getenv(childEnv), ":"); what {
	case "":
		os.Exit(m.Run())
	case "append":
		childAppends(path)
	case "full":
		childFillsDisk(path)
	}
}

func childCommand(what, path string) *exec.Cmd {
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), childEnv+"="+what+":"+path)
	c.Stderr = os.Stderr
	return c
}

func die(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func childAppends(path string) {
	s, err := Open(path, us)
	if err != nil {
		die(err)
	}
	l, err := s.Load()
	if err != nil {
		die(err)
	}
	next := l.Snapshot.GetMetadata().GetIndex() + uint64(len(l.Entries)) + 1
	for ; ; next += 3 {
		b := Batch{Entries: entries(next, next+2, 1), HardState: hard(1, 1, next)}
		if next%40 < 3 && next > 10 {
			b.Snapshot = snap(next-5, 1, strings.Repeat("x", 9000))
		}
		if err := s.Save(b); err != nil {
			die(err)
		}
		fmt.Println(next + 2)
	}
}

func TestKilledWhileWriting(t *testing.T) {
	path := filepath.Join(t.TempDir(), "raft.db")
	rng := rand.New(rand.NewPCG(5, 6))
	acked := uint64(0)
	for range 8 {
		c := childCommand("append", path)
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for range 1 + rng.IntN(60) {
			if !lines.Scan() {
				break
			}
			if _, err := fmt.Sscan(lines.Text(), &acked); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		for lines.Scan() { // what it said before it died
			_, _ = fmt.Sscan(lines.Text(), &acked)
		}
		_ = c.Wait()
		s := mustOpen(t, path)
		l, err := s.Load()
		if err != nil {
			t.Fatal(err)
		}
		last := l.Snapshot.GetMetadata().GetIndex() + uint64(len(l.Entries))
		if last < acked || last > acked+3 || last%3 != 0 {
			t.Fatalf("acknowledged up to %d, found up to %d", acked, last)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if acked < 50 {
		t.Fatalf("the child wrote only up to %d", acked)
	}
}

// TestDiskFull runs on a file system of its own, in a mount namespace that
// ends with the child.
func TestDiskFull(t *testing.T) {
	c := childCommand("full", t.TempDir())
	c.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	if uid := os.Getuid(); uid != 0 {
		c.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER
		c.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
	}
	out, err := c.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}

func childFillsDisk(dir string) {
	if err := syscall.Mount("none", dir, "tmpfs", 0, "size=512k"); err != nil {
		die(err)
	}
	path := filepath.Join(dir, "raft.db")
	s, err := Open(path, us)
	if err != nil {
		die(err)
	}
	payload := strings.Repeat("x", 900)
	next := uint64(1)
	batch := func() Batch { return Batch{Entries: []*raftpb.Entry{entry(next, 1, payload)}, MustSync: true} }
	for err == nil {
		if err = s.Save(batch()); err == nil {
			next++
		}
	}
	full := err
	if !errors.Is(err, ErrNoSpace) || !strings.Contains(err.Error(), path) || next < 20 {
		die(fmt.Errorf("after %d entries: %w", next-1, err))
	}
	mustHold := func(want uint64) {
		l, err := s.Load()
		if err == nil && uint64(len(l.Entries)) != want {
			err = fmt.Errorf("%d entries, want %d", len(l.Entries), want)
		}
		if err != nil {
			die(err)
		}
	}
	mustHold(next - 1)
	if err := s.Save(batch()); !errors.Is(err, ErrNoSpace) {
		die(fmt.Errorf("second try: %w", err))
	}
	// It opens on the full disk, and the same batch goes in once there is room.
	if err = s.Close(); err == nil {
		s, err = Open(path, us)
	}
	if err != nil {
		die(err)
	}
	mustHold(next - 1)
	if err := syscall.Mount("none", dir, "", syscall.MS_REMOUNT, "size=2m"); err != nil {
		die(err)
	}
	if err := s.Save(batch()); err != nil {
		die(err)
	}
	mustHold(next)
	fmt.Printf("full after %d entries: %v\n", next-1, full)
}
