package arbiterd

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/holdfast-ha/holdfast/internal/arbiter"
	"github.com/holdfast-ha/holdfast/internal/arbiter/arbiterpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/witness"
	"github.com/holdfast-ha/holdfast/internal/cluster/witness/witnesspb"
)

func (w *world) path() string { return filepath.Join(w.dir, FileStore) }

// put bytes into the file that is there, as cp does.
func put(t *testing.T, path string, b []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC|os.O_CREATE, 0o600)
	must(t, err)
	_, err = f.Write(b)
	must(t, errors.Join(err, f.Close()))
}

func TestMake(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a")
	made, err := Make(Init{Dir: dir})
	must(t, err)
	host, _ := os.Hostname()
	if made.Listen != ":7947" || made.Address != host+":7947" || len(made.Instance) != 32 || len(made.KeyFingerprint) != 64 {
		t.Error(made)
	}
	info, err := os.Stat(filepath.Join(dir, FileStore))
	must(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Error(info.Mode())
	}
	_, err = Make(Init{Dir: dir})
	wantErr(t, "twice", err, os.ErrExist, "nothing was changed")
	for _, i := range []Init{{Listen: "x"}, {Listen: "1.2.3.4:1", Address: "host"}, {Address: ":1"}, {Address: "a b:1"}} {
		i.Dir = filepath.Join(t.TempDir(), "b")
		if _, err := Make(i); err == nil {
			t.Errorf("%+v", i)
		}
		if _, err := os.Stat(i.Dir); err == nil {
			t.Errorf("%+v: a directory was made", i)
		}
	}
	open := filepath.Join(t.TempDir(), "open")
	must(t, os.Mkdir(open, 0o755))
	if _, err := Make(Init{Dir: open}); err == nil || !strings.Contains(err.Error(), "chmod 700") {
		t.Error(err)
	}
	_, err = Open(Options{Dir: filepath.Join(t.TempDir(), "none")})
	wantErr(t, "nothing there", err, ErrNoStore, "holdfast arbiter init")
}

func TestDamage(t *testing.T) {
	w := newWorld(t)
	for i := range 30 {
		n := w.registered(fmt.Sprint(i))
		w.do(n, n.Accept("n1", 5, 2, 1))
	}
	w.stop()
	good := read(t, w.path())
	reopened := func(b []byte) error {
		put(t, w.path(), b)
		s, err := openStore(w.path(), false)
		if err == nil {
			must(t, s.close())
		}
		return err
	}
	must(t, reopened(good))
	rng := rand.New(rand.NewPCG(1, 2))
	refused := 0
	for range 1000 {
		b := bytes.Clone(good)
		b[rng.IntN(len(b))] ^= byte(1 + rng.IntN(255))
		if err := reopened(b); err != nil {
			refused++
			if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNewer) || strings.Contains(err.Error(), "freepages") {
				t.Fatalf("not found before bbolt met it: %v", err)
			}
		}
	}
	if refused < 150 { // the rest lies in pages that are free
		t.Errorf("only %d damaged files were refused", refused)
	}
	for _, b := range [][]byte{nil, good[:4096], good[:len(good)/2], bytes.Repeat([]byte("x"), 70000)} {
		wantErr(t, fmt.Sprint(len(b)), reopened(b), ErrDamaged, "restore a backup")
	}
	// The newest meta page alone: bbolt would go on with the transaction before.
	for page := range 2 {
		b := bytes.Clone(good)
		b[page*4096+30] ^= 1
		wantErr(t, "meta page", reopened(b), ErrDamaged, "")
	}
	must(t, reopened(good))

	must(t, os.Chmod(w.path(), 0o644))
	if _, err := openStore(w.path(), false); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Error(err)
	}
	must(t, os.Chmod(w.path(), 0o600))
	edit := func(fn func(*tables) error) error {
		put(t, w.path(), good)
		s, err := openStore(w.path(), false)
		must(t, err)
		must(t, errors.Join(s.update(fn), s.close()))
		_, err = openStore(w.path(), false)
		return err
	}
	var id uuid
	var kept *witnesspb.Kept
	wantErr(t, "a record of a later format", edit(func(tt *tables) error {
		return tt.each(func(i uuid, r *arbiterpb.Registration, k *witnesspb.Kept, _ int) error {
			id, kept = i, k
			b, err := sealRecord(i[:], kindRegistration, r)
			b[5] = recordFormat + 1
			copy(b, fmt.Appendf(nil, "%s", le32(sum(i[:], b[4:]))))
			return errors.Join(err, tt.tx.Bucket(bucketClusters).Put(i[:], b))
		})
	}), ErrNewer, "run the release of holdfast that wrote it")
	wantErr(t, "promises of a later format", edit(func(tt *tables) error {
		k := proto.CloneOf(kept)
		k.Format = witness.Format + 1
		return tt.putKept(id, k)
	}), ErrNewer, "")
	wantErr(t, "promises that are none", edit(func(tt *tables) error {
		k := proto.CloneOf(kept)
		k.Promised = nil
		return tt.putKept(id, k)
	}), ErrDamaged, "promises to cluster")
	wantErr(t, "promises without a cluster", edit(func(tt *tables) error { return tt.putKept(uuid{1}, kept) }), ErrDamaged, "")
	wantErr(t, "a cluster without promises", edit(func(tt *tables) error { return tt.tx.Bucket(bucketKept).Delete(id[:]) }), ErrDamaged, "missing")
	wantErr(t, "records exchanged", edit(func(tt *tables) error {
		b := bytes.Clone(tt.tx.Bucket(bucketKept).Get(id[:]))
		return tt.tx.Bucket(bucketClusters).Put(id[:], b)
	}), ErrDamaged, "kind")
	wantErr(t, "no table", edit(func(tt *tables) error { return tt.tx.DeleteBucket(bucketTokens) }), ErrDamaged, "tokens")
}

func second2[A, B any](_ A, _ B, err error) error { return err }

func le32(v uint32) []byte { return []byte{byte(v), byte(v >> 8), byte(v >> 16), byte(v >> 24)} }

// TestOldCopy: what was put back by hand is found out as far as it can be.
func TestOldCopy(t *testing.T) {
	w := newWorld(t)
	n := w.registered("shop")
	w.do(n, n.Prepare("n1", 5))
	w.stop()
	old := read(t, w.path())
	w.start()
	w.do(n, n.Accept("n1", 7, 3, 1))
	stranger := w.sibling(n, "n2") // has seen nothing
	w.stop()

	// As a file of its own: at the start.
	aside := filepath.Join(t.TempDir(), "aside")
	must(t, os.Rename(w.path(), aside))
	put(t, w.path(), old)
	err := w.open()
	wantErr(t, "another file", err, ErrCopy, "holdfast arbiter moved --dir "+w.dir)
	if !strings.Contains(err.Error(), "holdfast arbiter restore") {
		t.Error(err)
	}
	// The right file, moved away and back, is not suspected.
	must(t, os.Rename(aside, w.path()))
	w.start()
	w.stop()

	// Into the file that was there: when anybody asks who has seen more.
	put(t, w.path(), old)
	w.start()
	wantRefused(t, "who has seen more", w.do(n, n.Prepare("n1", 9)), witnesspb.Refused_REASON_ABSTAINS)
	wantRefused(t, "who has not", w.do(stranger, stranger.Prepare("n2", 10)), witnesspb.Refused_REASON_ABSTAINS)
	w.restart()
	wantRefused(t, "after a restart", w.do(stranger, stranger.Prepare("n2", 10)), witnesspb.Refused_REASON_ABSTAINS)
	if !strings.Contains(w.log.String(), "promises were forgotten") {
		t.Error(w.log)
	}
	if w.do(stranger, inRegister(stranger.Prepare("n2", 1), 2)).GetPromised() == nil {
		t.Error("a new register is not served")
	}

	// Moved, as its administrator says.
	w.stop()
	moved := read(t, w.path())
	must(t, os.Remove(w.path()))
	put(t, aside, nil) // so that the inode is not given again
	put(t, w.path(), moved)
	wantErr(t, "moved", w.open(), ErrCopy, "")
	must(t, Moved(w.dir))
	w.start()
	if w.do(stranger, inRegister(stranger.Prepare("n2", 2), 2)).GetPromised() == nil {
		t.Error("not served after the move")
	}
}

func TestBackupAndRestore(t *testing.T) {
	w := newWorld(t)
	n := w.registered("shop")
	w.do(n, inRegister(n.Accept("n1", 5, 2, 1), 3))
	gone := w.registered("gone")
	must(t, second(w.s.table.forget("gone")))
	unused := w.token("")
	backup := filepath.Join(t.TempDir(), "backup")
	must(t, Backup(w.ctx(), w.dir, backup))
	info, err := os.Stat(backup)
	must(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Error(info.Mode())
	}
	if err := Backup(w.ctx(), w.dir, backup); !errors.Is(err, os.ErrExist) {
		t.Error("a backup was overwritten:", err)
	}
	w.do(n, inRegister(n.Accept("n1", 6, 7, 2), 4)) // not in the backup
	w.stop()
	// Of one that does not run; and whatever the number of its transactions is.
	for i := range 3 {
		again := fmt.Sprint(backup, i)
		must(t, Backup(w.ctx(), w.dir, again))
		dir := filepath.Join(t.TempDir(), "again")
		must(t, second2(Restore(again, dir)))
		must(t, Moved(dir))
		s, err := openStore(w.path(), false)
		must(t, err)
		must(t, errors.Join(s.update(func(*tables) error { return nil }), s.close()))
	}

	_, _, err = Restore(backup, w.dir)
	wantErr(t, "over an arbiter", err, os.ErrExist, "nothing was changed")
	_, _, err = Restore(backup, filepath.Join(t.TempDir(), "x", "y", "nope")+"\x00")
	if err == nil {
		t.Error("restored to nowhere")
	}
	junk := filepath.Join(t.TempDir(), "junk")
	put(t, junk, []byte("junk"))
	_, _, err = Restore(junk, filepath.Join(t.TempDir(), "new"))
	wantErr(t, "junk", err, ErrDamaged, "restore "+junk)

	before := n.point
	must(t, os.Remove(w.path()))
	made, clusters, err := Restore(backup, w.dir)
	must(t, err)
	if clusters != 2 || made.KeyFingerprint != before.GetKeyFingerprint() || made.Instance == before.GetInstance() {
		t.Error(clusters, made)
	}
	w.start()
	for what, m := range map[string]*node{"who has asked": n, "who has not": w.sibling(n, "n2")} {
		_, err := m.Ask(w.ctx(), inRegister(m.Prepare(m.name, 9), 4))
		wantErr(t, what, err, arbiter.ErrInstance, "holdfast quorum replace")
	}
	_, err = w.register(n.Cluster, n.tls, unused, 5)
	wantErr(t, "a token of before", err, arbiter.ErrInstance, "")
	// Whoever would get past that abstains still.
	p := proto.CloneOf(n.point)
	p.Instance = made.Instance
	m := w.node(n.Cluster, "n1", n.tls, p)
	wantRefused(t, "the register of the backup", w.do(m, inRegister(m.Prepare("n1", 9), 3)), witnesspb.Refused_REASON_ABSTAINS)
	st, err := w.s.status()
	must(t, err)
	if st.GetAbstaining() != 1 || st.GetForgotten() != 1 {
		t.Error(st)
	}
	_, err = gone.Do(w.ctx(), gone.Prepare("n1", 1))
	wantErr(t, "forgotten before", err, arbiter.ErrInstance, "")
	// Admitted again: with a token of the restored one, for a higher register.
	p, err = w.register(n.Cluster, n.tls, w.token("shop"), 5)
	must(t, err)
	m = w.node(n.Cluster, "n1", n.tls, p)
	if w.do(m, inRegister(m.Prepare("n1", 1), 5)).GetPromised() == nil {
		t.Error("not served after it was admitted again")
	}
}

func TestInUse(t *testing.T) {
	w := newWorld(t)
	_, err := Open(Options{Dir: w.dir, Listen: "127.0.0.1:0"})
	wantErr(t, "twice", err, ErrInUse, "--dir "+w.dir)
	wantErr(t, "moved while it runs", Moved(w.dir), ErrInUse, "")
}

// TestDiskFull: what can't be written is not promised, and the arbiter ends
// instead of going on with what it does not know.
func TestDiskFull(t *testing.T) {
	w := newWorld(t)
	n := w.registered("shop")
	w.do(n, n.Prepare("n1", 5))
	w.fails = ErrWrite
	w.s.committer.put(change{apply: func(*tables) error { return syscall.ENOSPC }, done: func() { t.Error("done") }})
	<-w.s.committer.ended
	if _, err := n.Do(w.ctx(), n.Prepare("n1", 9)); err == nil {
		t.Error("promised without a store")
	}
	if err := w.s.table.commit(func(*tables) error { return nil }); !errors.Is(err, ErrWrite) {
		t.Error(err)
	}
}

// TestKill kills the process at any point, again and again. Whatever it has
// answered it still knows.
func TestKill(t *testing.T) {
	w := newWorld(t)
	const clusters = 8
	var all []*node
	for i := range clusters {
		all = append(all, w.registered(fmt.Sprint("c", i)))
	}
	w.stop()
	// The child takes the port of this world.
	s, err := openStore(w.path(), false)
	must(t, err)
	s.self.Listen = w.addr
	must(t, errors.Join(s.update(func(tt *tables) error { return tt.putSelf(s.self) }), s.close()))

	type answered struct{ promised, accepted, sequence uint64 }
	known := make([]answered, clusters)
	rng := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	rounds, total := 12, 0
	if testing.Short() {
		rounds = 3
	}
	for range rounds {
		cmd := child(t, w.dir)
		for i, n := range all {
			r := w.do(n, n.Look("n1"))
			if k := known[i]; r.GetSequence() < k.sequence {
				t.Fatalf("cluster %d: sequence %d, %d was answered", i, r.GetSequence(), k.sequence)
			}
			if known[i].promised > 0 {
				if got := w.do(n, n.Prepare("n1", 1)).GetRejected().GetPromised().GetCounter(); got < known[i].promised {
					t.Fatalf("cluster %d: ballot %d is promised, %d was answered", i, got, known[i].promised)
				}
			}
			// What was asked and not answered may have been carried out.
			next := max(known[i].promised, known[i].accepted) + 100
			p := w.do(n, n.Prepare("n1", next)).GetPromised()
			if p.GetAccepted().GetCounter() < known[i].accepted || p.GetValue().GetTerm() != p.GetAccepted().GetCounter() {
				t.Fatalf("cluster %d: %v is accepted, ballot %d was answered", i, p, known[i].accepted)
			}
			known[i].promised = next
		}
		stop := make(chan int, clusters)
		for i, n := range all {
			go func() {
				count, k := 0, &known[i]
				defer func() { stop <- count }()
				for b := k.promised + 1; ; b++ {
					r, err := n.Do(w.ctx(), n.Prepare("n1", b))
					if err != nil || r.GetPromised() == nil {
						return
					}
					k.promised, k.sequence = b, r.GetSequence()
					r, err = n.Do(w.ctx(), n.Accept("n1", b, b, 1))
					if err != nil || r.GetAccepted() == nil {
						return
					}
					k.accepted, k.sequence = b, r.GetSequence()
					count++
				}
			}()
		}
		time.Sleep(time.Duration(rng.IntN(150)) * time.Millisecond) // the moment is the point
		must(t, cmd.Process.Kill())
		_ = cmd.Wait()
		for range all {
			total += <-stop
		}
	}
	if total < rounds {
		t.Errorf("only %d rounds were answered", total)
	}
	t.Logf("%d answered elections, %d kills", total, rounds)
}

// TestControlIsPrivate: nobody but root and the arbiter's user is obeyed.
func TestControlIsPrivate(t *testing.T) {
	w := newWorld(t)
	// Even where the directories let him through.
	for d := w.dir; len(d) > len(os.TempDir()); d = filepath.Dir(d) {
		must(t, os.Chmod(d, 0o711))
	}
	must(t, os.Chmod(filepath.Join(w.dir, FileSocket), 0o666))
	program := filepath.Join(os.TempDir(), fmt.Sprintf("holdfast-arbiter-test-%d", os.Getpid()))
	in, err := os.Open(os.Args[0])
	must(t, err)
	defer in.Close()
	out, err := os.OpenFile(program, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	must(t, err)
	defer os.Remove(program)
	_, err = io.Copy(out, in)
	must(t, errors.Join(err, out.Close()))
	for uid, want := range map[uint32]string{0: "true <nil>", 65534: "user 65534 is neither root nor the user of the arbiter"} {
		cmd := exec.Command(program)
		cmd.Env = []string{childUser + "=" + w.dir}
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		got, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(got), want) {
			t.Errorf("user %d: %q, %v", uid, got, err)
		}
	}
}

// TestGoldenRecord: these bytes are in docs/formats/arbiter.md.
func TestGoldenRecord(t *testing.T) {
	id := uuid{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
	b, err := sealRecord(id[:], kindKept, &witnesspb.Kept{Format: 1, Sequence: 3, Register: 7, Promised: &witnesspb.Ballot{Counter: 5, Proposer: 9}})
	must(t, err)
	const want = "8782419f 03 01 0801 1003 1807 220408051009"
	if got := fmt.Sprintf("%x", b); got != strings.ReplaceAll(want, " ", "") {
		t.Errorf("record %s, want %s", got, want)
	}
	m := new(witnesspb.Kept)
	must(t, openRecord(id[:], kindKept, b, m))
	if err := openRecord(id[:8], kindKept, b, m); !errors.Is(err, ErrDamaged) {
		t.Error("under another key:", err)
	}
}

func FuzzRecord(f *testing.F) {
	key := []byte("key")
	good, _ := sealRecord(key, kindRegistration, &arbiterpb.Registration{Name: "x", By: "y"})
	f.Add(good)
	f.Add([]byte{})
	raw, _ := hex.DecodeString("0000000002010a")
	f.Add(raw)
	f.Fuzz(func(t *testing.T, b []byte) {
		m := new(arbiterpb.Registration)
		if err := openRecord(key, kindRegistration, b, m); err != nil && !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNewer) {
			t.Error(err)
		}
	})
}
