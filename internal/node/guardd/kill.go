//go:build linux

package guardd

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/holdfast-ha/holdfast/internal/cluster/guard"
	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
)

// killEvery is how often what still lives is killed again.
const killEvery = 2 * time.Millisecond

// stopper ends what runs under the lease. Its netlink socket is opened early: at
// the moment of need there may be no descriptor left.
type stopper struct {
	log    *slog.Logger
	handle *netlink.Handle
}

func newStopper(log *slog.Logger) (*stopper, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("guardd: netlink: %w", err)
	}
	return &stopper{log: log, handle: h}, nil
}

func (s *stopper) close() { s.handle.Close() }

// stop everything at once. It returns when all is gone, or when Within is over; then
// the error names what is left.
func (s *stopper) stop(what *guard.Stop) error {
	deadline := time.Now().Add(what.Within)
	var wait sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	try := func(group string, f func() error) {
		wait.Go(func() {
			if err := f(); err != nil {
				mu.Lock()
				errs = append(errs, fmt.Errorf("group %s: %w", group, err))
				mu.Unlock()
			}
		})
	}
	// Addresses are removed one after the other, by one socket, while processes die.
	wait.Go(func() {
		for _, p := range what.Protected {
			for _, a := range p.GetAddresses() {
				if err := s.removeAddress(a); err != nil {
					mu.Lock()
					errs = append(errs, fmt.Errorf("group %s: address %s: %w", p.GetGroup(), a, err))
					mu.Unlock()
				}
			}
		}
	})
	for _, p := range what.Protected {
		if p.GetCgroup() != "" {
			try(p.GetGroup(), func() error { return killCgroup(p.GetCgroup(), deadline) })
		}
		for _, dir := range p.GetOtherCgroups() {
			try(p.GetGroup(), func() error { return killCgroup(dir, deadline) })
		}
		if len(p.GetProcessGroups()) > 0 {
			try(p.GetGroup(), func() error { return killProcessGroups(p, deadline) })
		}
	}
	wait.Wait()
	return errors.Join(errs...)
}

// killCgroup ends every process in a control group and below.
func killCgroup(dir string, deadline time.Time) error {
	if !filepath.IsAbs(dir) {
		return fmt.Errorf("control group %q is no absolute path", dir)
	}
	for {
		// All at once, where the kernel can (5.14); who forks meanwhile dies too.
		_ = os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0)
		pids, err := cgroupProcesses(dir)
		if err != nil {
			return err
		}
		if len(pids) == 0 {
			return nil
		}
		for _, pid := range pids {
			if pid > 0 {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
		if !time.Now().Before(deadline) {
			return fmt.Errorf("processes %v in %s do not end", pids, dir)
		}
		time.Sleep(killEvery)
	}
}

// cgroupProcesses lists a control group and those below it. One that is gone is empty.
func cgroupProcesses(dir string) (pids []int, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			return nil
		}
		var raw []byte
		if err == nil {
			raw, err = os.ReadFile(filepath.Join(path, "cgroup.procs"))
		}
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
			if path == dir {
				return fs.SkipAll
			}
			return nil
		}
		if err != nil {
			return err
		}
		for _, f := range strings.Fields(string(raw)) {
			pid, err := strconv.Atoi(f)
			if err != nil {
				return fmt.Errorf("%s/cgroup.procs holds %q", path, f)
			}
			pids = append(pids, pid)
		}
		return nil
	})
	return pids, err
}

// killProcessGroups ends process groups; of what has left them guard knows nothing.
func killProcessGroups(p *guardpb.Protect, deadline time.Time) error {
	for {
		for _, pg := range p.GetProcessGroups() {
			if pg > 1 {
				_ = unix.Kill(-int(pg), unix.SIGKILL)
			}
		}
		left, err := groupMembers(p.GetProcessGroups())
		if err != nil || len(left) == 0 {
			return err
		}
		if !time.Now().Before(deadline) {
			return fmt.Errorf("processes %v do not end", left)
		}
		time.Sleep(killEvery)
	}
}

// groupMembers finds the processes of process groups that have not ended. Zombies
// have: they only wait for their parent.
func groupMembers(groups []int32) (pids []int, err error) {
	proc, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer proc.Close()
	names, err := proc.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		raw, err := os.ReadFile("/proc/" + name + "/stat")
		if err != nil {
			continue // it has ended
		}
		// "pid (name) state ppid pgrp …"; the name may hold anything.
		end := bytes.LastIndexByte(raw, ')')
		fields := strings.Fields(string(raw[end+1:]))
		if end < 0 || len(fields) < 3 || fields[0] == "Z" || fields[0] == "X" {
			continue
		}
		pg, _ := strconv.Atoi(fields[2])
		for _, g := range groups {
			if g > 1 && int(g) == pg {
				pids = append(pids, pid)
			}
		}
	}
	return pids, nil
}

// removeAddress takes "10.0.0.9/24 eth0" off its interface, and "10.0.0.9/24 " off all. One that is not there is gone.
func (s *stopper) removeAddress(spec string) error {
	prefix, device, ok := strings.Cut(spec, " ")
	ip, network, err := net.ParseCIDR(prefix)
	if !ok || err != nil {
		return errors.New(`not of the form "10.0.0.9/24 eth0"`)
	}
	if device == "" {
		return s.removeEverywhere(ip)
	}
	link, err := s.handle.LinkByName(device)
	var notFound netlink.LinkNotFoundError
	if errors.As(err, &notFound) {
		return nil
	}
	if err != nil {
		return err
	}
	err = s.handle.AddrDel(link, &netlink.Addr{IPNet: &net.IPNet{IP: ip, Mask: network.Mask}})
	if errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

// removeEverywhere is for addresses whose interface was chosen when they were
// added, which nobody needs to remember.
func (s *stopper) removeEverywhere(ip net.IP) error {
	all, err := s.handle.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	for _, a := range all {
		if !a.IP.Equal(ip) {
			continue
		}
		link, err := s.handle.LinkByIndex(a.LinkIndex)
		if err == nil {
			err = s.handle.AddrDel(link, &netlink.Addr{IPNet: a.IPNet})
		}
		var notFound netlink.LinkNotFoundError
		if err != nil && !errors.As(err, &notFound) && !errors.Is(err, unix.EADDRNOTAVAIL) && !errors.Is(err, unix.ENODEV) {
			return err
		}
	}
	return nil
}
