package agents

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/holdfast-ha/holdfast/internal/group/agent"
)

// drillAction is the action by which a resource is looked at where it is
// offline: would it find there what it needs? It starts and changes nothing.
const drillAction = "drill"

// drills of the types that have one. Each tells what it found.
var drills = map[string]func(ctx context.Context, a map[string]string, d *findings){
	"Application":    drillApplication,
	"ElifNone":       drillFile,
	"FileOnOff":      drillFile,
	"FileOnOnly":     drillFile,
	"IP":             drillIP,
	"Mount":          drillMount,
	"PackageScript":  drillPackageScript,
	"PackageService": drillPackageService,
	"Process":        drillProcess,
}

// withDrills has the types that have a drill know the action.
func withDrills(list []kind) []kind {
	for i := range list {
		k := &list[i]
		if drills[k.typ.GetName()] == nil {
			continue
		}
		k.typ.SupportedActions = append(k.typ.SupportedActions, drillAction)
		run := k.run
		k.run = func(ctx context.Context, h *Host, c agent.Call) agent.Result {
			if c.Entry == agent.Action && c.Name == drillAction {
				return runDrill(ctx, c)
			}
			return run(ctx, h, c)
		}
	}
	return list
}

// findings of a drill.
type findings struct {
	good, bad []string
}

func (d *findings) ok(format string, args ...any) {
	d.good = append(d.good, fmt.Sprintf(format, args...))
}
func (d *findings) missing(format string, args ...any) {
	d.bad = append(d.bad, fmt.Sprintf(format, args...))
}

// runDrill answers the action of a type that has a drill.
func runDrill(ctx context.Context, c agent.Call) agent.Result {
	d := &findings{}
	drills[c.Type](ctx, c.Attributes, d)
	if len(d.bad) > 0 {
		return agent.Result{Err: strings.Join(d.bad, "; "), Output: strings.Join(append(d.bad, d.good...), "\n")}
	}
	return agent.Result{Output: strings.Join(d.good, "\n")}
}

// program that a command line begins with; empty: there is none.
func (d *findings) program(what, line string) {
	if line == "" {
		return
	}
	argv, err := command(line)
	if err != nil {
		d.missing("%s: %v", what, err)
		return
	}
	d.executable(what, argv[0])
}

func (d *findings) executable(what, name string) {
	st, err := os.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		d.missing("%s: there is no %s", what, name)
	case err != nil:
		d.missing("%s: %v", what, err)
	case st.IsDir():
		d.missing("%s: %s is a directory", what, name)
	case st.Mode()&0o111 == 0:
		d.missing("%s: %s is not executable", what, name)
	default:
		d.ok("%s is there and executable", name)
	}
}

func (d *findings) directory(what, name string) {
	if name == "" {
		return
	}
	st, err := os.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		d.missing("%s: there is no directory %s", what, name)
	case err != nil:
		d.missing("%s: %v", what, err)
	case !st.IsDir():
		d.missing("%s: %s is no directory", what, name)
	default:
		d.ok("directory %s is there", name)
	}
}

func (d *findings) user(name string) {
	if name == "" {
		return
	}
	if _, _, err := credential(name); err != nil {
		d.missing("User: %v", err)
		return
	}
	d.ok("user %s exists", name)
}

func drillProcess(_ context.Context, a map[string]string, d *findings) {
	d.executable("PathName", a["PathName"])
	d.user(a["User"])
	d.directory("WorkDir", a["WorkDir"])
	if p := a["PidFile"]; p != "" {
		d.directory("PidFile", filepath.Dir(p))
	}
}

func drillApplication(_ context.Context, a map[string]string, d *findings) {
	for _, what := range []string{"StartProgram", "StopProgram", "MonitorProgram", "CleanProgram"} {
		d.program(what, a[what])
	}
	d.user(a["User"])
	d.directory("WorkDir", a["WorkDir"])
}

func drillPackageService(_ context.Context, a map[string]string, d *findings) {
	d.program("Command", a["Command"])
	d.user(a["User"])
}

func drillPackageScript(_ context.Context, a map[string]string, d *findings) {
	d.executable("Script", a["Script"])
}

func drillFile(_ context.Context, a map[string]string, d *findings) {
	d.directory("PathName", filepath.Dir(a["PathName"]))
}

// drillIP: the network card is there and has a link, and the address is not
// on this node already. Whether others answer for it is not asked: where the group
// is online somebody does.
func drillIP(_ context.Context, a map[string]string, d *findings) {
	p, err := netip.ParsePrefix(a["Address"])
	if err != nil {
		d.missing("Address: %v", err)
		return
	}
	card := a["Device"]
	if card == "" {
		if card, err = cardFor(p.Addr()); err != nil {
			d.missing("%v", err)
			return
		}
		if card == "" {
			d.missing("Device: no network card has an address in the network of %s", p)
			return
		}
	}
	link, err := netlink.LinkByName(card)
	var none netlink.LinkNotFoundError
	switch {
	case errors.As(err, &none):
		d.missing("Device: there is no network card %s", card)
		return
	case err != nil:
		d.missing("Device: %s: %v", card, err)
		return
	case link.Attrs().RawFlags&unix.IFF_UP == 0:
		d.missing("Device: %s is down", card)
	case !linkUp(link.Attrs().RawFlags):
		d.missing("Device: %s has no carrier", card)
	default:
		d.ok("network card %s is up", card)
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		d.missing("addresses: %v", err)
		return
	}
	for _, have := range addrs {
		if ip, ok := netip.AddrFromSlice(have.IP); ok && ip.Unmap() == p.Addr() {
			d.missing("Address: %s is on this node already", p.Addr())
			return
		}
	}
	d.ok("%s is free on this node", p.Addr())
}

func drillMount(_ context.Context, a map[string]string, d *findings) {
	point, fstype := a["MountPoint"], a["FSType"]
	if a["CreateMountPoint"] == "true" {
		if _, err := os.Stat(point); errors.Is(err, fs.ErrNotExist) {
			d.ok("%s will be made", point)
		} else {
			d.directory("MountPoint", point)
		}
	} else {
		d.directory("MountPoint", point)
	}
	m := fileSystem{point: point, device: deviceFile(a["BlockDevice"]), fstype: fstype, a: a}
	switch {
	case fstype == "bind":
		d.directory("BlockDevice", m.device)
	case strings.HasPrefix(m.device, "/"):
		d.device(m.device)
	}
	found, err := m.look()
	switch {
	case err != nil:
		d.missing("%v", err)
	case found.own >= 0:
		d.ok("it is mounted there already")
	case len(found.stack) > 0:
		d.missing("MountPoint: %s is mounted there", found.stack[len(found.stack)-1].source)
	case len(found.other) > 0:
		d.missing("BlockDevice: %s is mounted at %s", m.device, found.other[0].point)
	default:
		d.ok("nothing is mounted at %s", point)
	}
	d.fileSystem(fstype)
	if a["Fsck"] == "always" {
		d.anyOf("Fsck", "fsck."+fstype)
	}
}

func (d *findings) device(name string) {
	var st unix.Stat_t
	switch err := unix.Stat(name, &st); {
	case errors.Is(err, unix.ENOENT):
		d.missing("BlockDevice: there is no %s", name)
	case err != nil:
		d.missing("BlockDevice: %s: %v", name, err)
	case st.Mode&unix.S_IFMT != unix.S_IFBLK:
		d.missing("BlockDevice: %s is no block device", name)
	default:
		d.ok("%s is there", name)
	}
}

// fileSystem: the kernel knows the type, or a program that mounts it is there, or a module may be.
func (d *findings) fileSystem(fstype string) {
	if fstype == "bind" {
		return
	}
	raw, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		d.missing("FSType: %v", err)
		return
	}
	for line := range strings.Lines(string(raw)) {
		if f := strings.Fields(line); len(f) > 0 && f[len(f)-1] == fstype {
			d.ok("the kernel knows %s", fstype)
			return
		}
	}
	if slices.ContainsFunc(programDirs, func(dir string) bool { return runnable(filepath.Join(dir, "mount."+fstype)) }) {
		d.ok("mount.%s is there", fstype)
		return
	}
	if modules, err := filepath.Glob("/lib/modules/*/kernel/fs/" + fstype); err == nil && len(modules) > 0 {
		d.ok("the kernel has a module for %s", fstype)
		return
	}
	d.missing("FSType: nothing is known of %s: the kernel has it not loaded, and there is neither a module nor mount.%s", fstype, fstype)
}

var programDirs = []string{"/sbin", "/usr/sbin", "/bin", "/usr/bin"}

func runnable(name string) bool {
	st, err := os.Stat(name)
	return err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0
}

func (d *findings) anyOf(what, program string) {
	if slices.ContainsFunc(programDirs, func(dir string) bool { return runnable(filepath.Join(dir, program)) }) {
		d.ok("%s is there", program)
		return
	}
	d.missing("%s: there is no %s", what, program)
}
