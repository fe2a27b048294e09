package device

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-ha/holdfast/internal/cluster/lockdisk"
	"github.com/holdfast-ha/holdfast/internal/cluster/witness/witnesspb"
)

var cluster = lockdisk.ID{1, 1, 2, 3, 5, 8}

// image makes a file of zeros for so many slots.
func image(t *testing.T, slots int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "lock.img")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		err = errors.Join(f.Truncate(lockdisk.Size(slots)), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// loop is a block device with sectors of so many bytes.
func loop(t *testing.T, path string, sector int) string {
	t.Helper()
	out, err := exec.Command("losetup", "--find", "--show", "--sector-size", fmt.Sprint(sector), path).Output()
	if err != nil {
		t.Fatalf("losetup: %v", err)
	}
	dev := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "--detach", dev).CombinedOutput(); err != nil {
			t.Errorf("losetup: %v: %s", err, out)
		}
	})
	return dev
}

func format(t *testing.T, path string) lockdisk.Header {
	t.Helper()
	h, err := Format(path, FormatOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func open(t *testing.T, path string, h lockdisk.Header, slot, number int) *Disk {
	t.Helper()
	d, err := Open(path, lockdisk.Config{Disk: h.Disk, Cluster: cluster, Slot: slot, Number: uint32(number), Node: fmt.Sprintf("n%d", number), RaftID: uint64(100 + number)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func request(d *Disk, body *witnesspb.Request) *witnesspb.Request {
	body.Cluster, body.Register, body.Node, body.RaftId = cluster.String(), 7, d.cfg.Node, d.cfg.RaftID
	return body
}

func look(d *Disk) *witnesspb.Request {
	return request(d, &witnesspb.Request{Body: &witnesspb.Request_Look{Look: &witnesspb.Look{}}})
}

func prepare(d *Disk, counter uint64) *witnesspb.Request {
	return request(d, &witnesspb.Request{Body: &witnesspb.Request_Prepare{Prepare: &witnesspb.Prepare{Ballot: &witnesspb.Ballot{Counter: counter, Proposer: uint64(d.cfg.Number)}}}})
}

func do(t *testing.T, d *Disk, r *witnesspb.Request) *witnesspb.Reply {
	t.Helper()
	reply, err := d.Do(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return reply
}

// TestDisk: the whole way on a file and on block devices with either size of sectors.
func TestDisk(t *testing.T) {
	for name, device := range map[string]func(t *testing.T) string{
		"file":       func(t *testing.T) string { return image(t, 2) },
		"loop, 512":  func(t *testing.T) string { return loop(t, image(t, 2), 512) },
		"loop, 4096": func(t *testing.T) string { return loop(t, image(t, 2), 4096) },
	} {
		t.Run(name, func(t *testing.T) {
			path := device(t)
			h := format(t, path)
			if h.Slots != 2 {
				t.Fatal(h)
			}
			got, slot, err := claim(t.Context(), path, cluster, time.Millisecond)
			if err != nil || got != h {
				t.Fatal(got, err)
			}
			a, b := open(t, path, h, slot, 1), open(t, path, h, slot, 64)
			if do(t, a, prepare(a, 1)).GetPromised() == nil || do(t, b, prepare(b, 2)).GetPromised() == nil || do(t, a, prepare(a, 1)).GetRejected() == nil {
				t.Fatal("the promises are not as they should be")
			}
			if _, err := a.Mark(t.Context(), []byte("mark of n1")); err != nil {
				t.Fatal(err)
			}
			marks, err := b.Mark(t.Context(), nil)
			if err != nil || len(marks) != 2 || string(marks[0].Nonce) != "mark of n1" {
				t.Fatal(marks, err)
			}
			if _, err := Format(path, FormatOptions{Force: true}); !errors.As(err, new(*RefusedError)) || !strings.Contains(err.Error(), "used by a node that runs") {
				t.Fatal(err)
			}
			r, err := Check(t.Context(), path, CheckOptions{})
			if err != nil || len(r.GetView().GetProblems()) > 0 || r.GetWrite().AsDuration() <= 0 || name == "loop, 4096" && r.GetLogicalSector() != 4096 {
				t.Fatal(r, err)
			}
			nodes := r.GetView().GetUsed()[0].GetNodes()
			if len(nodes) != 2 || nodes[1].GetNode() != "n64" || nodes[1].GetPromised() != "2.40" || nodes[0].GetRegister() != 7 {
				t.Fatal(nodes)
			}
			_ = a.Close()
			if _, err := a.Do(t.Context(), look(a)); !errors.Is(err, errClosed) {
				t.Fatal(err)
			}
			// The next run takes over.
			a = open(t, path, h, slot, 1)
			if reply := do(t, a, prepare(a, 1)); reply.GetRejected().GetPromised().GetCounter() != 2 {
				t.Fatal(reply)
			}
		})
	}
}

// TestFormatRefuses what holds something, and what can't be a lock disk.
func TestFormatRefuses(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, size int64, at int64, text string) string {
		path := filepath.Join(dir, name)
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.WriteAt([]byte(text), at)
		if err := errors.Join(err, f.Truncate(size), f.Close()); err != nil {
			t.Fatal(err)
		}
		return path
	}
	size := lockdisk.Size(1)
	for _, s := range signatures {
		if _, err := Format(write("signature", size, s.at, s.magic), FormatOptions{}); !errors.As(err, new(*RefusedError)) || !strings.Contains(err.Error(), "there is "+s.what) || !strings.Contains(err.Error(), "--force") {
			t.Errorf("%s: %v", s.what, err)
		}
	}
	for says, path := range map[string]string{
		"data of an unknown kind (at byte 2000000)": write("data", size, 2000000, "x"),
		"data of an unknown kind (at byte 8388600)": write("tail", 8<<20, 8388600, "x"),
		"is too small: it has 3000000 bytes":        write("small", 3000000, 0, ""),
		"no such file":                              filepath.Join(dir, "none"),
		"neither a block device nor a regular file": dir,
	} {
		if _, err := Format(path, FormatOptions{}); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", says, err)
		}
	}
	if _, err := Format(write("slots", size, 0, ""), FormatOptions{Slots: 9}); err == nil || !strings.Contains(err.Error(), "9 slots need") {
		t.Error(err)
	}
	if _, err := Format("/dev/holdfast-no-such-disk", FormatOptions{Create: true}); err == nil || !strings.Contains(err.Error(), "below /dev") {
		t.Error(err)
	}
	// Forced, and formatted before.
	path := write("forced", size, 0x438, "\x53\xef")
	if _, err := Format(path, FormatOptions{Force: true}); err != nil {
		t.Error(err)
	}
	if _, err := Format(path, FormatOptions{}); err == nil || !strings.Contains(err.Error(), "that no cluster uses") {
		t.Error(err)
	}
	if _, _, err := claim(t.Context(), path, cluster, time.Millisecond); err != nil {
		t.Error(err)
	}
	if _, err := Format(path, FormatOptions{}); err == nil || !strings.Contains(err.Error(), "with a slot that a cluster uses") {
		t.Error(err)
	}
	h, err := Format(filepath.Join(dir, "made"), FormatOptions{Create: true, Slots: 3})
	if err != nil || h.Slots != 3 {
		t.Error(h, err)
	}
	// Mounted.
	dev := loop(t, write("mounted", 16<<20, 0, ""), 512)
	mnt := t.TempDir()
	for _, argv := range [][]string{{"mkfs.ext4", "-q", dev}, {"mount", dev, mnt}} {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", argv, err, out)
		}
	}
	t.Cleanup(func() {
		if err := unix.Unmount(mnt, 0); err != nil {
			t.Error(err)
		}
	})
	if _, err := Format(dev, FormatOptions{Force: true}); err == nil || !strings.Contains(err.Error(), "is in use") {
		t.Error(err)
	}
}

// TestHalfFormatted disks are told as such, by everybody.
func TestHalfFormatted(t *testing.T) {
	path := image(t, 1)
	h := format(t, path)
	f, err := openFile(path, forWriting)
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	half := h
	half.Ready = false
	for c := range lockdisk.Copies {
		if err := f.pwrite(half.Encode(c), lockdisk.HeaderAddress(c)); err != nil {
			t.Fatal(err)
		}
	}
	_, showErr := Show(t.Context(), path, 0)
	_, _, claimErr := Claim(t.Context(), path, cluster)
	_, formatErr := Format(path, FormatOptions{})
	for _, err := range []error{showErr, claimErr, formatErr} {
		if err == nil || !strings.Contains(err.Error(), "interrupted") {
			t.Error(err)
		}
	}
	if reply := do(t, open(t, path, h, 0, 1), look(open(t, path, h, 0, 1))); reply.GetRefused().GetReason() != witnesspb.Refused_REASON_WRONG_CLUSTER {
		t.Error(reply)
	}
}

// TestWrongDisk: what is at the path is another disk, or a shorter one, or nothing.
func TestWrongDisk(t *testing.T) {
	path := image(t, 2)
	format(t, path)
	h, slot, err := claim(t.Context(), path, cluster, time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	d := open(t, path, h, slot, 1)
	do(t, d, look(d))
	// Another disk comes to be at the path.
	other := image(t, 2)
	format(t, other)
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Do(t.Context(), look(d)); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if err := os.Rename(other, path); err != nil {
		t.Fatal(err)
	}
	if reply := do(t, d, look(d)); reply.GetRefused().GetReason() != witnesspb.Refused_REASON_WRONG_CLUSTER || !strings.Contains(reply.GetRefused().GetMessage(), "the path leads to the lock disk") {
		t.Error(reply)
	}
	if err := os.Rename(path+".away", path); err != nil {
		t.Fatal(err)
	}
	if reply := do(t, d, look(d)); reply.GetLooked() == nil {
		t.Error(reply)
	}
	if err := os.Truncate(path, lockdisk.Size(1)/2); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Do(t.Context(), prepare(d, 3)); err == nil {
		t.Error("a disk that was cut off was used")
	}
	if _, _, err := Claim(t.Context(), path, cluster); err == nil || !strings.Contains(err.Error(), "made smaller") {
		t.Error(err)
	}
	v, err := Show(t.Context(), path, 0)
	if err != nil || !strings.Contains(strings.Join(v.GetProblems(), ""), "made smaller") {
		t.Error(v, err)
	}
	for _, cfg := range []lockdisk.Config{{}, {Disk: h.Disk, Cluster: cluster, Number: 99, Node: "n", RaftID: 1}} {
		if _, err := Open(path, cfg); err == nil {
			t.Errorf("%v was taken", cfg)
		}
	}
	if _, err := Open("lock.img", d.cfg); err == nil || !strings.Contains(err.Error(), "not absolute") {
		t.Error(err)
	}
}

// TestNotShared: two copies of one disk look the same, but nobody is seen at the other one.
func TestNotShared(t *testing.T) {
	path := image(t, 1)
	format(t, path)
	h, slot, err := claim(t.Context(), path, cluster, time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	copied := path + ".copy"
	if err := os.WriteFile(copied, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	a, b := open(t, path, h, slot, 1), open(t, copied, h, slot, 2)
	if _, err := a.Mark(t.Context(), []byte("a")); err != nil {
		t.Fatal(err)
	}
	marks, err := b.Mark(t.Context(), []byte("b"))
	if err != nil || len(marks) != 1 || marks[0].Node != "n2" {
		t.Errorf("%v, %v", marks, err)
	}
	// Only the node at this disk is seen to write.
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := uint64(1); ; i++ {
			select {
			case <-stop:
				return
			default:
				_, _ = a.Do(context.Background(), prepare(a, i))
			}
		}
	})
	r, err := Check(t.Context(), path, CheckOptions{Expect: []string{"n1", "n2"}, Patience: 600 * time.Millisecond})
	close(stop)
	wg.Wait()
	if err != nil || !slices.Equal(r.GetMoved(), []string{"n1"}) || !slices.Equal(r.GetSilent(), []string{"n2"}) {
		t.Error(r, err)
	}
}

// TestClaim: the same slot for the same cluster, others for others, and none when all are taken.
func TestClaim(t *testing.T) {
	path := image(t, 3)
	h := format(t, path)
	slots := map[int]bool{}
	for _, c := range []lockdisk.ID{{0: 1}, {0: 1, 15: 1}, {0: 1, 15: 2}} { // all begin at one slot
		_, slot, err := claim(t.Context(), path, c, time.Millisecond)
		if err != nil || slots[slot] {
			t.Fatal(slot, err)
		}
		slots[slot] = true
		if _, again, err := claim(t.Context(), path, c, time.Millisecond); err != nil || again != slot {
			t.Fatal(again, err)
		}
	}
	if _, _, err := Claim(t.Context(), path, cluster); err == nil || !strings.Contains(err.Error(), "none of its 3 slots is free") {
		t.Fatal(err)
	}
	// A claim that was interrupted is finished by the same cluster, and nobody else takes it.
	f, err := openFile(path, forWriting)
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	_, slot, _ := claim(t.Context(), path, lockdisk.ID{0: 1}, time.Millisecond)
	if err := f.pwrite(make([]byte, lockdisk.PageSize), lockdisk.SlotAddress(slot, 1)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Claim(t.Context(), path, cluster); err == nil {
		t.Fatal("half a claim was ignored")
	}
	if _, again, err := claim(t.Context(), path, lockdisk.ID{0: 1}, time.Millisecond); err != nil || again != slot {
		t.Fatal(again, err)
	}
	if got, err := lockdisk.ReadOwner(f.page, h.Disk, slot); err != nil || got != (lockdisk.ID{0: 1}) {
		t.Fatal(got, err)
	}
}

// TestClaimRace: clusters that claim at the same time, and one whose write comes late.
func TestClaimRace(t *testing.T) {
	path := image(t, 8)
	h := format(t, path)
	var wg sync.WaitGroup
	got := make([]int, 4)
	for i := range got {
		wg.Go(func() {
			_, slot, err := claim(t.Context(), path, lockdisk.ID{0: 1, 15: byte(i)}, 300*time.Millisecond)
			if err != nil {
				t.Error(err)
			}
			got[i] = slot
		})
	}
	wg.Wait()
	sorted := slices.Sorted(slices.Values(got))
	if len(slices.Compact(sorted)) != len(got) {
		t.Fatalf("two clusters have one slot: %v", got)
	}
	// The claim of another cluster lands after this one was sure of its slot.
	_, slot, err := claim(t.Context(), path, cluster, time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	d := open(t, path, h, slot, 1)
	do(t, d, prepare(d, 1))
	f, err := openFile(path, forWriting)
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	other := lockdisk.ID{7: 7}
	for i, p := range lockdisk.Claimed(h.Disk, other, slot) {
		if err := f.pwrite(p.Data, p.Address); err != nil {
			t.Fatal(err)
		}
		if reply := do(t, d, prepare(d, uint64(2+i))); reply.GetRefused() == nil {
			t.Fatalf("copy %d of the header names another cluster: %v", i, reply)
		}
	}
	b, err := Open(path, lockdisk.Config{Disk: h.Disk, Cluster: other, Slot: slot, Number: 2, Node: "m2", RaftID: 5})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	q := look(b)
	q.Cluster = other.String()
	if reply := do(t, b, q); reply.GetRefused().GetReason() != witnesspb.Refused_REASON_DAMAGED {
		t.Errorf("records of the other cluster count as nothing: %v", reply)
	}
}

// TestHang: a caller may give up, the next request may not begin before the
// hanging I/O has ended (V1, V2).
func TestHang(t *testing.T) {
	path := image(t, 1)
	format(t, path)
	h, slot, err := claim(t.Context(), path, cluster, time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestHelper$")
	cmd.Env = append(os.Environ(), "HOLDFAST_TEST_DISK="+path, "HOLDFAST_TEST_ID="+h.Disk.String())
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	first := make([]byte, 512)
	if n, err := out.Read(first); err != nil || string(first[:n]) != "x" { // it has the block now
		t.Fatalf("%v: the other process says: %s", err, first[:n])
	}
	d := open(t, path, h, slot, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = d.Do(ctx, prepare(d, 1))
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "waiting for something on this machine that uses the same block") {
		t.Errorf("%v", err)
	}
	if _, err = d.Do(ctx, prepare(d, 1)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	next := make(chan error, 1)
	go func() {
		reply, err := d.Do(context.Background(), prepare(d, 9))
		if err == nil && reply.GetPromised() == nil {
			err = fmt.Errorf("%v", reply)
		}
		next <- err
	}()
	select {
	case err := <-next:
		t.Errorf("it did not wait: %v", err)
	default:
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	if err := <-next; err != nil {
		t.Error(err)
	}
	// One that nobody waits for any more does not keep Close.
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

// TestHelper is the other process of TestHang.
func TestHelper(t *testing.T) {
	path := os.Getenv("HOLDFAST_TEST_DISK")
	if path == "" {
		return
	}
	id, err := lockdisk.ParseID(os.Getenv("HOLDFAST_TEST_ID"))
	if err != nil {
		t.Fatal(err)
	}
	d := open(t, path, lockdisk.Header{Disk: id}, 0, 1)
	do(t, d, look(d))
	fmt.Print("x")
	_, _ = os.Stdin.Read(make([]byte, 1)) // until it is killed
}

// TestReadError: what can't be read at once is read page by page.
func TestReadError(t *testing.T) {
	path := image(t, 1)
	f, err := openFile(path, forReading)
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	end := lockdisk.Size(1)
	r := f.perform(&lockdisk.IO{Read: []lockdisk.Range{{Address: 0, Bytes: lockdisk.PageSize}, {Address: end - 2*lockdisk.PageSize, Bytes: 4 * lockdisk.PageSize}}})
	if r.Err != nil || len(r.Unreadable) != 2 || r.Unreadable[end] == nil || r.Unreadable[end+lockdisk.PageSize] == nil {
		t.Error(r.Err, r.Unreadable)
	}
	r = f.perform(&lockdisk.IO{Read: []lockdisk.Range{{Address: end, Bytes: 4 * lockdisk.PageSize}}})
	if r.Err == nil || !strings.Contains(r.Err.Error(), "too small") {
		t.Error(r.Err)
	}
}
