package agents

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/group/agent"
)

var mountKind = kind{
	typ: &v1.ResourceType{
		Name: "Mount", Operations: v1.Operations_OPERATIONS_ON_OFF, Bundled: true,
		Description: "A file system that is mounted: on a block device, from a server, in memory, or a directory that appears in a second place. " +
			"That it is mounted or unmounted by somebody else is noticed at once.",
		Attributes: []*v1.Attribute{
			{Name: "MountPoint", Kind: path, Required: required, Description: "Directory to mount it at. Nothing else may be mounted there."},
			{Name: "BlockDevice", Kind: text, Required: required, Description: "What is mounted: /dev/vg/data, UUID=…, LABEL=…, server:/export, a directory with FSType bind, any name with FSType tmpfs."},
			{Name: "FSType", Kind: text, Required: required, Description: "Type of the file system: ext4, xfs, btrfs, nfs, tmpfs, bind …"},
			{Name: "MountOpt", Kind: text, Description: "Options, separated by commas, as mount(8) has them: noatime,ro."},
			{Name: "Fsck", Kind: text, Default: "on_failure", Words: []string{"never", "on_failure", "always"}, Description: "When fsck.FSTYPE is run: before a second attempt if it can't be mounted, before every attempt, or never."},
			{Name: "FsckOpt", Kind: text, Default: "-y", Description: "Arguments of fsck.FSTYPE. They must hold -y, -n, -p or -a, so that nobody is asked."},
			{Name: "CreateMountPoint", Kind: flag, Default: "false", Description: "Whether the directory is made if it does not exist."},
			{Name: "KillUsers", Kind: flag, Default: "true", Description: "Whether processes that keep it from being unmounted are ended. They are in any case when it is forced down."},
			{Name: "UmountRetries", Kind: whole, Default: "5", Description: "How often it is tried again, after ending processes that use it. It is never detached while something uses it: the device would stay in use."},
			{Name: "TermWait", Kind: span, Default: "5s", Description: "Time between SIGTERM to those processes and SIGKILL."},
		},
		Limits: &v1.Limits{
			MonitorInterval: seconds(10), OfflineMonitorInterval: seconds(60), OnlineTimeout: seconds(300), OfflineTimeout: seconds(300),
			MonitorTimeout: seconds(30), CleanTimeout: seconds(60), OnlineWaitLimit: proto.Uint32(0),
		},
	},
	notes: "It is not brought online while the device is mounted elsewhere on the node, or anything else at the mount point. A file system that has become read-only by itself after an error " +
		"is a fault. A file system of the node that another mount namespace still holds counts as online. The deep monitor reads the directory, so that a server that no longer answers is noticed. " +
		"Types that need more than the kernel (nfs, cifs, fuse …) are mounted by their mount.FSTYPE program. A node that loses its lease does not unmount: a group that writes to a shared device needs a takeover of storage or power.",
	check: checkMount,
	run:   runMount,
}

func checkMount(a map[string]string) []error {
	var errs []error
	if p := a["MountPoint"]; p == "/" || filepath.Clean(p) != p {
		errs = append(errs, faultOf("MountPoint", "%q can't be mounted at; write the plain path of a directory", p))
	}
	if t := a["FSType"]; strings.ContainsAny(t, "/ \t\n,\x00") || strings.HasPrefix(t, "-") {
		errs = append(errs, faultOf("FSType", "%q can't be the type of a file system", t))
	}
	dev := a["BlockDevice"]
	switch {
	case strings.ContainsAny(dev, "\x00\n") || strings.HasPrefix(dev, "-"):
		errs = append(errs, faultOf("BlockDevice", "%q can't be mounted", dev))
	case a["FSType"] == "bind" && (!filepath.IsAbs(dev) || filepath.Clean(dev) != dev):
		errs = append(errs, faultOf("BlockDevice", "%q is not the plain path of a directory, which FSType bind needs", dev))
	}
	if _, err := parseMountOptions(a["MountOpt"]); err != nil {
		errs = append(errs, faultOf("MountOpt", "%w", err))
	}
	opts, err := words(a["FsckOpt"])
	if err != nil {
		errs = append(errs, faultOf("FsckOpt", "%w", err))
	} else if !slices.ContainsFunc(opts, func(o string) bool { return slices.Contains([]string{"-y", "-n", "-p", "-a"}, o) }) {
		errs = append(errs, faultOf("FsckOpt", "%q holds none of -y, -n, -p and -a: it would wait for answers", a["FsckOpt"]))
	}
	if n, err := strconv.ParseInt(a["UmountRetries"], 10, 64); err == nil && (n < 0 || n > 1000) {
		errs = append(errs, faultOf("UmountRetries", "%d is not between 0 and 1000", n))
	}
	return errs
}

// mountOptions are options of mount(8) as the kernel wants them.
type mountOptions struct {
	flags uintptr
	data  string
}

var mountFlags = map[string]struct {
	flag  uintptr
	clear bool
}{
	"ro": {unix.MS_RDONLY, false}, "rw": {unix.MS_RDONLY, true}, "nosuid": {unix.MS_NOSUID, false}, "suid": {unix.MS_NOSUID, true},
	"nodev": {unix.MS_NODEV, false}, "dev": {unix.MS_NODEV, true}, "noexec": {unix.MS_NOEXEC, false}, "exec": {unix.MS_NOEXEC, true},
	"sync": {unix.MS_SYNCHRONOUS, false}, "async": {unix.MS_SYNCHRONOUS, true}, "dirsync": {unix.MS_DIRSYNC, false},
	"noatime": {unix.MS_NOATIME, false}, "atime": {unix.MS_NOATIME, true}, "nodiratime": {unix.MS_NODIRATIME, false},
	"diratime": {unix.MS_NODIRATIME, true}, "relatime": {unix.MS_RELATIME, false}, "norelatime": {unix.MS_RELATIME, true},
	"strictatime": {unix.MS_STRICTATIME, false}, "lazytime": {unix.MS_LAZYTIME, false}, "nolazytime": {unix.MS_LAZYTIME, true},
	"nosymfollow": {unix.MS_NOSYMFOLLOW, false}, "silent": {unix.MS_SILENT, false}, "rbind": {unix.MS_REC, false},
	// Only for other programs than this one.
	"defaults": {}, "auto": {}, "noauto": {}, "user": {}, "nouser": {}, "users": {}, "owner": {}, "group": {}, "nofail": {}, "_netdev": {}, "bind": {},
}

func parseMountOptions(s string) (mountOptions, error) {
	var o mountOptions
	var data []string
	for _, f := range strings.Split(s, ",") {
		name, _, _ := strings.Cut(f, "=")
		known, ok := mountFlags[f]
		switch {
		case f == "":
		case strings.ContainsAny(f, " \t\n\x00"):
			return o, fmt.Errorf("%q: options are separated by commas, without blanks", s)
		case name == "loop" || name == "remount" || name == "move" || name == "offset" || name == "sizelimit":
			return o, fmt.Errorf("%q is not for a resource: name the device itself", f)
		case ok && known.clear:
			o.flags &^= known.flag
		case ok:
			o.flags |= known.flag
		case strings.HasPrefix(f, "x-") || strings.HasPrefix(f, "comment="):
		default:
			data = append(data, f)
		}
	}
	o.data = strings.Join(data, ",")
	return o, nil
}

// fileSystem is a resource of type Mount.
type fileSystem struct {
	place
	point, device, fstype string
	options               mountOptions
	a                     map[string]string
	retries               int
}

func runMount(ctx context.Context, h *Host, c agent.Call) agent.Result {
	options, err := parseMountOptions(c.Attributes["MountOpt"])
	if err != nil {
		return failed(err)
	}
	m := fileSystem{
		place: place{h: h, group: c.Group, resource: c.Resource}, point: c.Attributes["MountPoint"], device: deviceFile(c.Attributes["BlockDevice"]),
		fstype: c.Attributes["FSType"], options: options, a: c.Attributes,
	}
	m.retries, _ = strconv.Atoi(c.Attributes["UmountRetries"])
	switch c.Entry {
	case agent.Monitor:
		return m.monitor(c.Watch, c.Deep)
	case agent.Online:
		err = m.online(ctx)
	case agent.Offline:
		err = m.offline(ctx, c.Attributes["KillUsers"] != "false", duration(c.Attributes["TermWait"]))
	case agent.Clean:
		err = m.offline(ctx, true, 0)
	}
	if err != nil {
		return failed(err)
	}
	return agent.Result{}
}

// deviceFile returns the name under which udev shows a device that is given by what is on it.
func deviceFile(s string) string {
	for tag, dir := range map[string]string{"UUID": "by-uuid", "LABEL": "by-label", "PARTUUID": "by-partuuid", "PARTLABEL": "by-partlabel", "ID": "by-id"} {
		if v, ok := strings.CutPrefix(s, tag+"="); ok {
			return filepath.Join("/dev/disk", dir, strings.Trim(v, `"`))
		}
	}
	return s
}

// found of a mount table for one resource.
type mountFinding struct {
	stack []mounted // at the mount point
	own   int       // index of the newest of stack that is this file system; -1: none
	other []mounted // this file system at other points
	block bool      // it is on a block device
}

func (f mountFinding) top() bool { return f.own >= 0 && f.own == len(f.stack)-1 }

// look finds the file system in the mount table.
func (m fileSystem) look() (mountFinding, error) {
	all, err := mountsOf(mountTable)
	if err != nil {
		return mountFinding{}, err
	}
	f := mountFinding{stack: at(all, m.point), own: -1}
	is, block, err := m.recognise(all)
	if err != nil {
		return f, err
	}
	f.block = block
	for i, x := range f.stack {
		if is(x) {
			f.own = i
		}
	}
	if block {
		for _, x := range all {
			if x.point != m.point && is(x) {
				f.other = append(f.other, x)
			}
		}
	}
	return f, nil
}

// recognise returns how to tell this file system from others, and whether it is on a block device of this node.
func (m fileSystem) recognise(all []mounted) (is func(mounted) bool, block bool, err error) {
	if m.fstype == "bind" {
		return m.recogniseBind(all), false, nil
	}
	var st unix.Stat_t
	if strings.HasPrefix(m.device, "/") {
		err := unix.Stat(m.device, &st)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return nil, false, fmt.Errorf("%s: %w", m.device, err)
		}
		if err == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK {
			name, _ := filepath.EvalSymlinks(m.device)
			return func(x mounted) bool {
				if x.major != 0 {
					return x.major == unix.Major(st.Rdev) && x.minor == unix.Minor(st.Rdev)
				}
				// Some file systems (btrfs) show a number of their own.
				source, err := filepath.EvalSymlinks(x.source)
				return err == nil && source == name && strings.HasPrefix(source, "/dev/")
			}, true, nil
		}
	}
	sources := []string{m.device, m.a["BlockDevice"]}
	return func(x mounted) bool {
		return slices.Contains(sources, x.source) && (x.fstype == m.fstype || strings.HasPrefix(x.fstype, "nfs") && strings.HasPrefix(m.fstype, "nfs"))
	}, false, nil
}

// recogniseBind: a directory in a second place is the same part of the same file system.
func (m fileSystem) recogniseBind(all []mounted) func(mounted) bool {
	dir, err := filepath.EvalSymlinks(m.device)
	if err != nil {
		dir = m.device
	}
	var home mounted
	for _, x := range all {
		if (x.point == "/" || dir == x.point || strings.HasPrefix(dir, x.point+"/")) && len(x.point) >= len(home.point) {
			home = x
		}
	}
	below, err := filepath.Rel(home.point, dir)
	if err != nil {
		return func(mounted) bool { return false }
	}
	root := filepath.Join(home.root, below)
	return func(x mounted) bool {
		return x.id != home.id && x.major == home.major && x.minor == home.minor && x.root == root
	}
}

func (m fileSystem) monitor(watch, deep bool) agent.Result {
	begun := -1
	if watch {
		begun = m.h.mounts.begin()
	} else {
		m.h.mounts.forget(m.key())
	}
	f, err := m.look()
	if err != nil {
		return failed(err)
	}
	watched := watch && m.h.mounts.set(m.key(), m.point, f.stack, begun)
	stage := m.record().Stage
	switch {
	case f.own < 0 && stage == lingering:
		where, err := m.elsewhere()
		if err != nil {
			return failed(err)
		}
		if where != "" {
			return found(true, false, where)
		}
		return found(false, watched, "")
	case f.own < 0 && len(f.stack) > 0:
		return found(false, watched, fmt.Sprintf("%s is mounted at %s, not %s", f.stack[len(f.stack)-1].source, m.point, m.device))
	case f.own < 0 && len(f.other) > 0:
		return found(false, watched, fmt.Sprintf("%s is mounted at %s, not at %s", m.device, f.other[0].point, m.point))
	case f.own < 0:
		return found(false, watched, fmt.Sprintf("nothing is mounted at %s", m.point))
	case !f.top():
		return agent.Result{Err: m.hidden(f).Error()}
	}
	own := f.stack[f.own]
	if how := spoiled(own); how != "" && m.options.flags&unix.MS_RDONLY == 0 {
		if stage == started {
			return agent.Result{State: v1.ResourceState_RESOURCE_STATE_FAULTED, Message: fmt.Sprintf("%s has become %s", m.point, how), Watched: watched}
		}
		// Somebody else mounted it like this: it is there.
		r := found(true, watched, fmt.Sprintf("%s is %s", m.point, how))
		r.Confidence = 50
		return r
	}
	if deep {
		if err := readable(m.point); err != nil {
			return agent.Result{State: v1.ResourceState_RESOURCE_STATE_FAULTED, Message: fmt.Sprintf("%s can't be read: %v", m.point, err), Watched: watched}
		}
	}
	return found(true, watched, "")
}

// spoiled says why nothing can be written to a file system, by its options; empty: it can.
func spoiled(x mounted) string {
	for _, o := range append(strings.Split(x.super, ","), strings.Split(x.options, ",")...) {
		switch o {
		case "ro", "emergency_ro":
			return "read-only"
		case "shutdown":
			return "unusable after an error"
		}
	}
	return ""
}

func readable(point string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(point, &st); err != nil {
		return err
	}
	d, err := os.Open(point)
	if err != nil {
		return err
	}
	defer d.Close()
	if _, err := d.Readdirnames(1); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

func (m fileSystem) hidden(f mountFinding) error {
	return fmt.Errorf("%s is mounted at %s, but %s is mounted over it: unmount that", m.device, m.point, f.stack[len(f.stack)-1].source)
}

func (m fileSystem) online(ctx context.Context) error {
	f, err := m.look()
	switch {
	case err != nil:
		return err
	case f.top() && spoiled(f.stack[f.own]) != "" && m.options.flags&unix.MS_RDONLY == 0:
		return fmt.Errorf("%s is mounted at %s already, but is %s: unmount it", m.device, m.point, spoiled(f.stack[f.own]))
	case f.top():
		return m.save(record{Stage: started})
	case f.own >= 0:
		return m.hidden(f)
	case len(f.stack) > 0:
		return fmt.Errorf("%s is mounted at %s already: unmount it first", f.stack[len(f.stack)-1].source, m.point)
	case len(f.other) > 0:
		return fmt.Errorf("%s is mounted at %s already: unmount it there first", m.device, f.other[0].point)
	}
	if err := m.ready(f); err != nil {
		return err
	}
	if m.a["Fsck"] == "always" {
		if err := m.fsck(ctx); err != nil {
			return err
		}
	}
	err = m.mount(ctx)
	if err != nil && m.a["Fsck"] == "on_failure" && f.block && ctx.Err() == nil && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENODEV) {
		if ferr := m.fsck(ctx); ferr != nil {
			return errors.Join(err, ferr)
		}
		err = m.mount(ctx)
	}
	if err != nil {
		return err
	}
	return m.save(record{Stage: started})
}

// ready checks what a file system is to be mounted at, and what is to be mounted.
func (m fileSystem) ready(f mountFinding) error {
	st, err := os.Stat(m.point)
	if errors.Is(err, fs.ErrNotExist) && m.a["CreateMountPoint"] == "true" {
		if err := os.MkdirAll(m.point, 0o755); err != nil {
			return err
		}
		st, err = os.Stat(m.point)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("the mount point %s does not exist", m.point)
	case err != nil:
		return err
	case !st.IsDir() && m.fstype != "bind":
		return fmt.Errorf("the mount point %s is not a directory", m.point)
	}
	if !f.block {
		if strings.HasPrefix(m.device, "/dev/") {
			if _, err := os.Stat(m.device); err != nil {
				return fmt.Errorf("%s can't be mounted: %w", m.a["BlockDevice"], err)
			}
			return fmt.Errorf("%s is not a block device", m.device)
		}
		return nil
	}
	// Exclusive use is refused while anything holds the device: a mount in another mount namespace, a volume on it.
	fd, err := unix.Open(m.device, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.EBUSY) {
		where, _ := m.elsewhere()
		if where == "" {
			where = fmt.Sprintf("%s is in use: by a volume on it, or by a swap area", m.device)
		}
		return errors.New(where)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", m.device, err)
	}
	return unix.Close(fd)
}

func (m fileSystem) mount(ctx context.Context) error {
	if m.fstype == "bind" {
		return m.bind()
	}
	helper := findProgram("mount." + m.fstype)
	if helper == "" {
		if err := unix.Mount(m.device, m.point, m.fstype, m.options.flags&^unix.MS_REC, m.options.data); err != nil {
			return fmt.Errorf("%s can't be mounted at %s: %w%s", m.device, m.point, err, explainMount(err, m.fstype))
		}
		return nil
	}
	l := launch{argv: []string{helper, m.device, m.point}}
	if m.a["MountOpt"] != "" {
		l.argv = append(l.argv, "-o", m.a["MountOpt"])
	}
	o, err := m.run(ctx, l)
	if err == nil && o.status != 0 {
		err = o.failure(l)
	}
	return err
}

func explainMount(err error, fstype string) string {
	switch {
	case errors.Is(err, unix.ENODEV):
		return fmt.Sprintf(": the kernel knows no file system %s", fstype)
	case errors.Is(err, unix.EINVAL):
		return fmt.Sprintf(": there is no %s on it, or an option is wrong", fstype)
	case errors.Is(err, unix.EBUSY):
		return ": it is in use"
	}
	return ""
}

func (m fileSystem) bind() error {
	if err := unix.Mount(m.device, m.point, "", unix.MS_BIND|m.options.flags&unix.MS_REC, ""); err != nil {
		return fmt.Errorf("%s can't be mounted at %s: %w", m.device, m.point, err)
	}
	if rest := m.options.flags &^ unix.MS_REC; rest != 0 {
		if err := unix.Mount("", m.point, "", unix.MS_REMOUNT|unix.MS_BIND|rest, ""); err != nil {
			return errors.Join(fmt.Errorf("options of %s: %w", m.point, err), unix.Unmount(m.point, unix.UMOUNT_NOFOLLOW))
		}
	}
	return nil
}

// findProgram looks where programs of the system are; empty: it is nowhere.
func findProgram(name string) string {
	for _, dir := range []string{"/sbin", "/usr/sbin", "/bin", "/usr/bin"} {
		if p := filepath.Join(dir, name); executable(p) == nil {
			return p
		}
	}
	return ""
}

// fsck checks and repairs the file system.
func (m fileSystem) fsck(ctx context.Context) error {
	name := findProgram("fsck." + m.fstype)
	if name == "" {
		return fmt.Errorf("%s can't be checked: there is no program fsck.%s", m.device, m.fstype)
	}
	opts, err := words(m.a["FsckOpt"])
	if err != nil {
		return err
	}
	l := launch{argv: append(append([]string{name}, opts...), m.device)}
	began := time.Now()
	o, err := m.run(ctx, l)
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", name, err)
	case o.status == 0 || o.status == 1: // clean, or repaired
		m.h.log.Info("file system checked", "group", m.group, "resource", m.resource, "device", m.device, "repaired", o.status == 1, "took", time.Since(began))
		return nil
	}
	return o.failure(l)
}
