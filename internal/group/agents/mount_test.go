package agents

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-ha/holdfast/internal/group/agent"
)

// withMounts runs the calling test with mounts of its own, which nobody else sees.
func withMounts(t *testing.T) bool {
	t.Helper()
	if !inNamespaces(t, syscall.CLONE_NEWNS) {
		return false
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	return true
}

// runs runs a program that must succeed, and returns its output.
func runs(t *testing.T, argv ...string) string {
	t.Helper()
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", argv, err, out)
	}
	return strings.TrimSpace(string(out))
}

// disk returns a block device with an empty ext4. The kernel takes it away when nothing uses it any more.
func disk(t *testing.T) string {
	t.Helper()
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 32<<20); err != nil {
		t.Fatal(err)
	}
	runs(t, "/sbin/mkfs.ext4", "-q", "-F", "-b", "1024", image)
	dev := runs(t, "/sbin/losetup", "--find", "--show", image)
	open, err := os.Open(dev)
	runs(t, "/sbin/losetup", "--detach", dev) // once nobody has it open any more, this process included
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = open.Close() })
	return dev
}

// using starts a program that uses a file system, and returns once it does.
func using(t *testing.T, lines ...string) *exec.Cmd {
	t.Helper()
	ready := filepath.Join(t.TempDir(), "ready")
	cmd := exec.CommandContext(t.Context(), script(t, append(lines, "touch "+ready, "while :; do sleep 1000 & wait; done")...))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL) })
	go func() { _ = cmd.Wait() }()
	until(t, "it uses the file system", func() bool { _, err := os.Stat(ready); return err == nil })
	return cmd
}

func (r *rig) wantErr(c agent.Call, want string) {
	r.t.Helper()
	if res := r.call(c); !strings.Contains(res.Err, want) || res.Err == "" {
		r.t.Errorf("%s: %+v, not %q", c.Entry, res, want)
	}
}

// A file system in memory: idempotent, watched both ways, and nothing is mounted over something else.
func TestMount(t *testing.T) {
	if !withMounts(t) {
		return
	}
	r := newRig(t, "sessions")
	point := filepath.Join(t.TempDir(), "a b", "c")
	a := map[string]string{"MountPoint": point, "BlockDevice": "scratch", "FSType": "tmpfs", "MountOpt": "nosuid,size=1m,x-what=ever"}
	online := agent.Call{Type: "Mount", Entry: agent.Online, Attributes: a}
	watch := agent.Call{Type: "Mount", Entry: agent.Monitor, Attributes: a, Watch: true}
	if res := r.call(watch); res.State != isOffline || !res.Watched {
		t.Fatalf("%+v", res)
	}
	r.wantErr(online, "does not exist")
	a["CreateMountPoint"] = "true"
	for range 2 {
		r.do("Mount", agent.Online, a)
	}
	all := at(must(mountsOf(mountTable)), point)
	if len(all) != 1 || !strings.Contains(all[0].options, "nosuid") || !strings.Contains(all[0].super, "size=1024k") || all[0].source != "scratch" {
		t.Fatalf("%+v", all)
	}
	if n := r.notice(); n.What != "something was mounted at "+point {
		t.Errorf("%+v", n)
	}
	r.reopen()
	if res := r.call(watch); res.State != isOnline || !res.Watched {
		t.Fatalf("%+v", res)
	}
	// A mount elsewhere is none of its business; an unmount by somebody else is.
	other := t.TempDir()
	if err := unix.Mount("x", other, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(other, 0)
	if err := unix.Unmount(point, 0); err != nil {
		t.Fatal(err)
	}
	if n := r.notice(); n.What != point+" was unmounted" {
		t.Errorf("%+v", n)
	}
	r.wantState("Mount", a, isOffline)
	// Something else at the mount point: neither online nor touched.
	if err := unix.Mount("y", point, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	if res := r.wantState("Mount", a, isOffline); res.Message != fmt.Sprintf("y is mounted at %s, not scratch", point) {
		t.Errorf("%+v", res)
	}
	r.wantErr(online, "y is mounted at "+point+" already")
	r.do("Mount", agent.Offline, a)
	if len(at(must(mountsOf(mountTable)), point)) != 1 {
		t.Error("somebody else's mount has gone")
	}
	if err := unix.Unmount(point, 0); err != nil {
		t.Fatal(err)
	}
	// Something mounted over it: nobody may believe that it is offline.
	r.do("Mount", agent.Online, a)
	if err := unix.Mount("y", point, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	for _, e := range []agent.EntryPoint{agent.Monitor, agent.Offline, agent.Online, agent.Clean} {
		r.wantErr(agent.Call{Type: "Mount", Entry: e, Attributes: a}, "y is mounted over it")
	}
	if err := unix.Unmount(point, 0); err != nil {
		t.Fatal(err)
	}
	if res := r.call(agent.Call{Type: "Mount", Entry: agent.Monitor, Attributes: a, Deep: true}); res.State != isOnline {
		t.Errorf("%+v", res)
	}
	for range 2 {
		r.do("Mount", agent.Offline, a)
		r.wantState("Mount", a, isOffline)
	}
	r.do("Mount", agent.Close, a)
	if n := len(r.h.mounts.points) + len(r.h.mounts.seen); n != 0 {
		t.Errorf("%d points are still watched", n)
	}
}

// A block device: not twice, repaired if it has to be, and a fault when it goes read-only.
func TestMountDevice(t *testing.T) {
	if !withMounts(t) {
		return
	}
	dev := disk(t)
	r := newRig(t, "sessions")
	point, elsewhere := t.TempDir(), t.TempDir()
	a := map[string]string{"MountPoint": point, "BlockDevice": dev, "FSType": "ext4"}
	online := agent.Call{Type: "Mount", Entry: agent.Online, Attributes: a}
	if err := unix.Mount(dev, elsewhere, "ext4", 0, ""); err != nil {
		t.Fatal(err)
	}
	r.wantErr(online, dev+" is mounted at "+elsewhere+" already")
	if res := r.wantState("Mount", a, isOffline); res.Message != fmt.Sprintf("%s is mounted at %s, not at %s", dev, elsewhere, point) {
		t.Errorf("%+v", res)
	}
	if err := unix.Unmount(elsewhere, 0); err != nil {
		t.Fatal(err)
	}
	r.do("Mount", agent.Online, a)
	r.wantState("Mount", a, isOnline)
	// It goes read-only, as after an error of the disk.
	if err := unix.Mount("", point, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if res := r.wantState("Mount", a, isFaulted); res.Message != point+" has become read-only" {
		t.Errorf("%+v", res)
	}
	r.wantErr(online, "is read-only: unmount it")
	r.do("Mount", agent.Clean, a)
	r.wantState("Mount", a, isOffline)
	// Mounted so by hand it is there, and nobody calls it offline.
	if err := unix.Mount(dev, point, "ext4", unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if res := r.wantState("Mount", a, isOnline); res.Confidence != 50 {
		t.Errorf("%+v", res)
	}
	r.do("Mount", agent.Offline, a)

	// Its superblock is lost: fsck finds another one.
	spoil := func() {
		t.Helper()
		f := must(os.OpenFile(dev, os.O_WRONLY|unix.O_SYNC, 0))
		defer f.Close()
		if _, err := f.WriteAt(make([]byte, 1024), 1024); err != nil {
			t.Fatal(err)
		}
	}
	spoil()
	a["Fsck"] = "never"
	r.wantErr(online, "there is no ext4 on it")
	a["Fsck"], a["FsckOpt"] = "on_failure", "-n"
	r.wantErr(online, "/sbin/fsck.ext4 exited with status")
	a["FsckOpt"] = "-y"
	r.do("Mount", agent.Online, a)
	r.wantState("Mount", a, isOnline)
	r.do("Mount", agent.Offline, a)
	a["Fsck"] = "always"
	r.do("Mount", agent.Online, a)
	r.do("Mount", agent.Offline, a)

	a["FSType"] = "nosuchfs"
	a["Fsck"] = "never"
	r.wantErr(online, "the kernel knows no file system nosuchfs")
	a["BlockDevice"] = "/dev/nosuchdisk"
	r.wantErr(online, "/dev/nosuchdisk can't be mounted")
	a["BlockDevice"] = "/dev/null"
	r.wantErr(online, "/dev/null is not a block device")
	a["BlockDevice"] = "UUID=1-2"
	r.wantErr(online, "UUID=1-2 can't be mounted")
}

// Whoever keeps it from being unmounted: named, asked, killed, as far as that is wanted; it is never just detached.
func TestBusyMount(t *testing.T) {
	if !withMounts(t) {
		return
	}
	dev := disk(t)
	r := newRig(t, "sessions")
	point := t.TempDir()
	a := map[string]string{"MountPoint": point, "BlockDevice": dev, "FSType": "ext4", "KillUsers": "false", "TermWait": "30s"}
	offline := agent.Call{Type: "Mount", Entry: agent.Offline, Attributes: a}
	r.do("Mount", agent.Online, a)

	polite := using(t, "cd "+point)
	r.wantErr(offline, fmt.Sprintf(": %d (program: works in it)", polite.Process.Pid))
	r.wantState("Mount", a, isOnline)
	// SIGTERM is enough for these.
	a["KillUsers"] = "true"
	began := time.Now()
	r.do("Mount", agent.Offline, a)
	if d := time.Since(began); d > 25*time.Second {
		t.Errorf("it took %s although nobody resisted", d)
	}
	r.wantState("Mount", a, isOffline)

	// These ignore it: one has a file open, one a root in it, one is a program on it.
	for _, how := range []string{"exec 5>" + point + "/file", "cp /bin/sleep " + point + "/sleep; " + point + "/sleep 1000 &"} {
		r.do("Mount", agent.Online, a)
		using(t, "trap '' TERM", how)
		a["TermWait"] = "100ms"
		r.do("Mount", agent.Offline, a)
		r.wantState("Mount", a, isOffline)
	}
	// Forced down it is at once, even if an ordinary offline would not.
	r.do("Mount", agent.Online, a)
	using(t, "trap '' TERM", "cd "+point)
	a["KillUsers"], a["TermWait"] = "false", "1h"
	r.do("Mount", agent.Clean, a)
	r.wantState("Mount", a, isOffline)

	// Neither a mount below it nor the cluster itself is removed.
	a["KillUsers"] = "true"
	r.do("Mount", agent.Online, a)
	below := filepath.Join(point, "below")
	if err := os.Mkdir(below, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("x", below, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	r.wantErr(offline, below+" is mounted below it")
	if err := unix.Unmount(below, 0); err != nil {
		t.Fatal(err)
	}
	own := must(os.Open(point))
	r.wantErr(offline, fmt.Sprintf("may not be freed: used by %d", os.Getpid()))
	if err := own.Close(); err != nil {
		t.Fatal(err)
	}
	// No process: a loop device on a file of it.
	image := filepath.Join(point, "image")
	if err := os.WriteFile(image, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	loop := runs(t, "/sbin/losetup", "--find", "--show", image)
	a["UmountRetries"] = "2"
	r.wantErr(offline, "no process uses it")
	runs(t, "/sbin/losetup", "--detach", loop)
	r.do("Mount", agent.Offline, a)
	r.wantState("Mount", a, isOffline)
}

// Another mount namespace keeps the device in use: it is not offline until that has gone.
func TestMountLingers(t *testing.T) {
	if !withMounts(t) {
		return
	}
	dev := disk(t)
	r := newRig(t, "sessions")
	point := t.TempDir()
	a := map[string]string{"MountPoint": point, "BlockDevice": dev, "FSType": "ext4"}
	r.do("Mount", agent.Online, a)
	ready := filepath.Join(t.TempDir(), "ready")
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", "touch "+ready+"; exec sleep 1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	until(t, "there is another namespace", func() bool { _, err := os.Stat(ready); return err == nil })
	where := fmt.Sprintf("%s is still mounted at %s in the mount namespace of process %d", dev, point, cmd.Process.Pid)
	r.wantErr(agent.Call{Type: "Mount", Entry: agent.Offline, Attributes: a}, where)
	if res := r.wantState("Mount", a, isOnline); !strings.Contains(res.Message, where) {
		t.Errorf("%+v", res)
	}
	r.wantErr(agent.Call{Type: "Mount", Entry: agent.Clean, Attributes: a}, where)
	r.wantErr(agent.Call{Type: "Mount", Entry: agent.Online, Attributes: a}, where)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	until(t, "it is offline", func() bool { return r.do("Mount", agent.Monitor, a).State == isOffline })
	r.do("Mount", agent.Offline, a)
	r.do("Mount", agent.Online, a)
	r.do("Mount", agent.Offline, a)
}

func TestBindMount(t *testing.T) {
	if !withMounts(t) {
		return
	}
	r := newRig(t, "sessions")
	from, point := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(from, "f"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	a := map[string]string{"MountPoint": point, "BlockDevice": from, "FSType": "bind", "MountOpt": "ro"}
	r.wantState("Mount", a, isOffline)
	r.do("Mount", agent.Online, a)
	r.wantState("Mount", a, isOnline)
	if _, err := os.Stat(filepath.Join(point, "f")); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(point, "g"), nil, 0o600); err == nil {
		t.Error("it is writable")
	}
	// The file system below belongs to all: only who uses it through this mount is in the way.
	bystander := using(t, "cd "+from)
	user := using(t, "cd "+point)
	r.do("Mount", agent.Offline, a)
	r.wantState("Mount", a, isOffline)
	until(t, "the user has ended", func() bool { _, err := readStat(user.Process.Pid); return err != nil })
	if st, err := readStat(bystander.Process.Pid); err != nil || st.zombie {
		t.Error("a process that only used the directory itself was ended")
	}
}

func TestParseMount(t *testing.T) {
	m, err := parseMount(`36 35 98:7 /mnt1 /mnt\0402 rw,noatime master:1 - ext3 /dev/ro\134ot rw,errors=continue`)
	want := mounted{36, 98, 7, "/mnt1", "/mnt 2", "rw,noatime", "ext3", `/dev/ro\ot`, "rw,errors=continue"}
	if err != nil || m != want {
		t.Errorf("%+v, %v", m, err)
	}
	if m, err := parseMount("1 1 0:2 / /x rw - tmpfs  rw"); err != nil || m.source != "" || m.super != "rw" {
		t.Errorf("an empty source: %+v, %v", m, err)
	}
	for _, s := range []string{"", "36 35 98:7 /mnt1 /mnt2 rw", "a 35 98:7 / / rw - ext3 x rw", "36 35 98 / / rw - ext3 x rw", "36 35 98:7 / - ext3 x rw"} {
		if m, err := parseMount(s); err == nil {
			t.Errorf("%q: %+v", s, m)
		}
	}
}
