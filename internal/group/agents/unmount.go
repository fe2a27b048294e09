package agents

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// lingering: it is unmounted here, but another mount namespace held it when it was last looked at.
const lingering stage = "lingering"

// offline unmounts; afterwards nothing on this node uses the device any more, or there is an error.
func (m fileSystem) offline(ctx context.Context, kill bool, termWait time.Duration) error {
	did, err := m.unmountAll(ctx, kill, termWait)
	if err != nil {
		return err
	}
	if !did && m.record().Stage == "" {
		return nil
	}
	where, err := m.elsewhere()
	if err != nil {
		return err
	}
	if where != "" {
		return errors.Join(errors.New(where), m.save(record{Stage: lingering}))
	}
	return m.forgetRecord()
}

// unmountAll unmounts until nothing of it is left at the mount point, and says whether anything was.
func (m fileSystem) unmountAll(ctx context.Context, kill bool, termWait time.Duration) (did bool, err error) {
	for try := 0; ; {
		f, err := m.look()
		switch {
		case err != nil:
			return did, err
		case f.own < 0:
			return did, nil
		case !f.top():
			return did, m.hidden(f)
		case ctx.Err() != nil:
			return did, ctx.Err()
		}
		flags := unix.UMOUNT_NOFOLLOW
		if kill && termWait == 0 && !f.block && m.fstype != "bind" {
			flags |= unix.MNT_FORCE // ends what waits for a server
		}
		err = unix.Unmount(m.point, flags)
		switch {
		case err == nil:
			did = true
			continue
		case !errors.Is(err, unix.EBUSY):
			return did, fmt.Errorf("%s can't be unmounted: %w", m.point, err)
		}
		if err := m.free(ctx, f, kill && try < m.retries, termWait); err != nil {
			return did, err
		}
		if try++; try > 1 {
			termWait = 0
		}
	}
}

// free makes processes let go of a busy file system, or says why it can't.
func (m fileSystem) free(ctx context.Context, f mountFinding, kill bool, termWait time.Duration) error {
	all, err := mountsOf(mountTable)
	if err != nil {
		return err
	}
	for _, x := range all {
		if strings.HasPrefix(x.point, m.point+"/") {
			return fmt.Errorf("%s is busy: %s is mounted below it", m.point, x.point)
		}
	}
	users, err := m.users(f)
	if err != nil {
		return err
	}
	if len(users) == 0 {
		if !kill {
			return fmt.Errorf("%s is busy, though no process uses it: a swap file, a loop device or an export of it?", m.point)
		}
		pause := time.NewTimer(100 * time.Millisecond) // whoever it was may just be ending
		defer pause.Stop()
		select {
		case <-pause.C:
		case <-ctx.Done():
		}
		return nil
	}
	var names []string
	for _, u := range users[:min(len(users), 10)] {
		names = append(names, fmt.Sprintf("%d (%s: %s)", u.Pid, u.name, u.how))
	}
	who := strings.Join(names, ", ")
	switch {
	case !kill:
		return fmt.Errorf("%s is busy: used by %d processes: %s", m.point, len(users), who)
	case slices.ContainsFunc(users, func(u mountUser) bool { return u.spared }):
		return fmt.Errorf("%s is busy, and may not be freed: used by %s", m.point, who)
	}
	m.h.log.Warn("processes are ended because they keep a file system from being unmounted", "group", m.group, "resource", m.resource, "mountpoint", m.point, "processes", who)
	signal := unix.SIGTERM
	if termWait == 0 {
		signal, termWait = unix.SIGKILL, killTime
	}
	for _, u := range users {
		if err := u.signal(signal); err != nil {
			return err
		}
	}
	patient, cancel := context.WithTimeout(ctx, termWait)
	defer cancel()
	for _, u := range users {
		if err := u.waitGone(patient); err != nil && ctx.Err() != nil {
			return err
		}
	}
	return nil
}

// mountUser is a process that uses a file system.
type mountUser struct {
	process
	name, how string
	// spared: the cluster itself, or the first process of the machine.
	spared bool
}

// users finds the processes that keep the file system from being unmounted.
func (m fileSystem) users(f mountFinding) ([]mountUser, error) {
	own := f.stack[f.own]
	search := mountSearch{id: uint64(own.id), point: m.point}
	// If the whole file system has to go, so has everybody who uses it from elsewhere; not if it has a second mount here.
	if f.block && len(f.other) == 0 {
		search.devices = append(search.devices, [2]uint32{own.major, own.minor})
		var st unix.Statx_t
		if unix.Statx(unix.AT_FDCWD, m.point, unix.AT_STATX_DONT_SYNC|unix.AT_NO_AUTOMOUNT, unix.STATX_BASIC_STATS, &st) == nil {
			search.devices = append(search.devices, [2]uint32{st.Dev_major, st.Dev_minor})
		}
	}
	var out []mountUser
	err := eachProcess(func(st procStat) {
		if how := search.uses(st.Pid); how != "" {
			name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", st.Pid))
			out = append(out, mountUser{
				process: st.process, name: strings.TrimSpace(string(name)), how: how,
				spared: st.Pid == 1 || st.Pid == os.Getpid() || st.Pid == os.Getppid(),
			})
		}
	})
	return out, err
}

// mountSearch is what to look for in /proc.
type mountSearch struct {
	id      uint64
	point   string
	devices [][2]uint32
}

func (s mountSearch) uses(pid int) string {
	dir := fmt.Sprintf("/proc/%d/", pid)
	for link, how := range map[string]string{"cwd": "works in it", "root": "has its root in it", "exe": "is a program on it"} {
		if s.is(dir + link) {
			return how
		}
	}
	fds, _ := os.ReadDir(dir + "fd")
	for _, e := range fds {
		if s.is(dir + "fd/" + e.Name()) {
			return "has a file open"
		}
	}
	if s.maps(dir) {
		return "has a file in its memory"
	}
	return ""
}

// is looks where a link of /proc leads, without asking servers.
func (s mountSearch) is(link string) bool {
	var st unix.Statx_t
	if unix.Statx(unix.AT_FDCWD, link, unix.AT_STATX_DONT_SYNC|unix.AT_NO_AUTOMOUNT, unix.STATX_BASIC_STATS|unix.STATX_MNT_ID, &st) != nil {
		return false
	}
	return st.Mask&unix.STATX_MNT_ID != 0 && st.Mnt_id == s.id || slices.Contains(s.devices, [2]uint32{st.Dev_major, st.Dev_minor})
}

// maps looks at the files in a process's memory: address permissions offset major:minor inode path.
func (s mountSearch) maps(dir string) bool {
	fd, err := os.Open(dir + "maps")
	if err != nil {
		return false
	}
	defer fd.Close()
	ns, _ := os.Readlink(dir + "ns/mnt")
	own, _ := os.Readlink("/proc/self/ns/mnt")
	lines := bufio.NewScanner(fd)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 6 || f[4] == "0" {
			continue
		}
		ma, mi, _ := strings.Cut(f[3], ":")
		major, err1 := strconv.ParseUint(ma, 16, 32)
		minor, err2 := strconv.ParseUint(mi, 16, 32)
		if err1 == nil && err2 == nil && slices.Contains(s.devices, [2]uint32{uint32(major), uint32(minor)}) || ns == own && strings.HasPrefix(f[5], s.point+"/") {
			return true
		}
	}
	return false
}

// elsewhere says which other mount namespace of this machine has the device mounted; empty: none.
func (m fileSystem) elsewhere() (string, error) {
	var st unix.Stat_t
	if !strings.HasPrefix(m.device, "/") || m.fstype == "bind" {
		return "", nil
	}
	if err := unix.Stat(m.device, &st); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return "", nil
		}
		return "", fmt.Errorf("%s: %w", m.device, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return "", nil
	}
	major, minor := unix.Major(st.Rdev), unix.Minor(st.Rdev)
	own, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return "", err
	}
	seen := map[string]bool{own: true}
	where := ""
	err = eachProcess(func(p procStat) {
		dir := filepath.Join("/proc", strconv.Itoa(p.Pid))
		ns, err := os.Readlink(dir + "/ns/mnt")
		if err != nil || seen[ns] || where != "" {
			return
		}
		seen[ns] = true
		all, err := mountsOf(dir + "/mountinfo")
		if err != nil {
			return
		}
		for _, x := range all {
			if x.major == major && x.minor == minor {
				name, _ := os.ReadFile(dir + "/comm")
				where = fmt.Sprintf("%s is still mounted at %s in the mount namespace of process %d (%s): end that, or let its mounts follow those of the node", m.device, x.point, p.Pid, strings.TrimSpace(string(name)))
				return
			}
		}
	})
	return where, err
}
