// Package lab runs whole clusters on one machine, from the same binary as
// production: nodes in namespaces of their own, links that can be cut, a
// prober outside of them, and benchmarks.
//
// The caller gives each lab a name. Everything that a lab makes outside its
// directory carries that name, so that several labs run at once.
//
//	L1  what a lab makes is in its lab.json before it is made, and whoever
//	    removes the lab removes all of it
//	L2  a lab whose maker was killed half-way, or whose owner has died, is
//	    removed by the next lab that is made or removed
//	L3  Kill cuts the network of a node before it ends a process of it
//
// The physical model: one switch namespace with a bridge per link, one veth
// pair per node and link, and for each node its own network, mount, PID, UTS,
// IPC and cgroup namespace, with a small lab-init as first process. Without
// root, nodes are plain processes on loopback addresses (see Mode).
package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Options of a new lab.
type Options struct {
	Name string
	// Directory of its own; empty: DefaultDir. Must be new or empty.
	Dir string
	// Number of nodes of the default cluster; 0: three. Not with Config.
	Nodes int
	// Coordination points: 0, 1 or 3 in all.
	Arbiters, LockDisks int
	// Groups that the default cluster has instead of a web server: one of sampleNames. Empty: none.
	Sample string
	// A configuration in YAML that replaces the default cluster.
	Config []byte
	// Remove the lab when this process ends, should it not do so itself.
	Attached bool
	// Force loopback mode, which is otherwise taken without root.
	Loopback bool
	// The holdfast binary; empty: the one that runs.
	Binary string
	// What each node runs instead of a cluster, for tests of the lab itself.
	Command []string
	// Changes of the default cluster, applied to its YAML.
	Tune Tuning
	// Called with each step, for people.
	Progress func(string)
}

// A Lab that exists. Not safe for concurrent use within one process; several
// processes may use one lab.
type Lab struct {
	reg   registry
	rec   *record
	owner *os.File
}

// Name of the lab.
func (l *Lab) Name() string { return l.rec.Plan.Name }

// Dir is the lab's directory.
func (l *Lab) Dir() string { return l.rec.Plan.Dir }

// Mode of the lab.
func (l *Lab) Mode() Mode { return l.rec.Plan.Mode }

// Service is the host:port of the default cluster's web service; empty if the
// lab was given a configuration.
func (l *Lab) Service() string { return l.rec.Service }

// Nodes are the names of the nodes, in order.
func (l *Lab) Nodes() []string { return l.machineNames()[:len(l.rec.Plan.Nodes)] }

// Arbiters are the names of the arbiters, in order. What can be done to a
// node, as a machine, can be done to an arbiter.
func (l *Lab) Arbiters() []string { return l.machineNames()[len(l.rec.Plan.Nodes):] }

func (l *Lab) machineNames() []string {
	var out []string
	for _, m := range l.rec.Plan.machines() {
		out = append(out, m.Name)
	}
	return out
}

// Open finds a lab by its name, or by its directory if that is given.
func Open(name, dir string) (*Lab, error) {
	reg, err := openRegistry()
	if err != nil {
		return nil, err
	}
	if dir == "" {
		if err := CheckName(name); err != nil {
			return nil, err
		}
		var ok bool
		if dir, ok = reg.dirOf(name); !ok {
			_ = os.Remove(string(reg)) // if openRegistry has just made it
			return nil, fmt.Errorf("%w named %s is up: holdfast lab up makes one", errNoLab, name)
		}
	} else if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	rec, err := loadRecord(dir)
	if err != nil {
		return nil, err
	}
	return &Lab{reg: reg, rec: rec}, nil
}

// Make makes a lab and boots its nodes. On failure nothing is left.
func Make(ctx context.Context, o Options) (*Lab, error) {
	if err := CheckName(o.Name); err != nil {
		return nil, err
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	reg, err := openRegistry()
	if err != nil {
		return nil, err
	}
	if err := Sweep(o.Progress); err != nil { // of other labs: no reason not to make this one
		o.Progress("what an earlier lab has left can't be removed: " + err.Error())
	}
	lock, err := reg.lock(o.Name, "lock", false)
	if errors.Is(err, errHeld) {
		return nil, refused("lab %s is being changed by another command: try again when that has ended", o.Name)
	}
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	if dir, ok := reg.dirOf(o.Name); ok {
		return nil, refused("lab %s exists in %s: remove it with holdfast lab down --name %s, or choose another --name", o.Name, dir, o.Name)
	}
	rec, cluster, err := newRecord(o, reg)
	if err != nil {
		return nil, errors.Join(err, reg.forget(o.Name))
	}
	l := &Lab{reg: reg, rec: rec}
	if err := l.make(ctx, o, cluster); err != nil {
		if left := l.remove(); left != nil {
			err = fmt.Errorf("%w\nand what was made could not be removed (holdfast lab down tries again): %w", err, left)
		}
		return nil, err
	}
	return l, nil
}

// newRecord plans a lab and makes its directory.
func newRecord(o Options, reg registry) (*record, *clusterSpec, error) {
	rec := &record{Schema: recordSchema, Phase: Making, Boot: bootID(), Attached: o.Attached, Command: o.Command}
	var err error
	if rec.Binary = o.Binary; rec.Binary == "" {
		if rec.Binary, err = os.Executable(); err != nil {
			return nil, nil, err
		}
	}
	mode, root := Loopback, ""
	if os.Getuid() == 0 && !o.Loopback {
		mode = Namespaces
		if root, err = cgroupMount(); err != nil {
			return nil, nil, err
		}
	}
	dir := cmp.Or(o.Dir, DefaultDir(o.Name))
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, nil, err
	}
	cluster, err := newClusterSpec(o, mode, reg.freeNumber(), dir)
	if err != nil {
		return nil, nil, err
	}
	p, err := newPlan(o.Name, dir, mode, cluster.number, cluster.nodes, root)
	if err != nil {
		return nil, nil, err
	}
	if err := p.addPoints(o.Arbiters, o.LockDisks); err != nil {
		return nil, nil, err
	}
	rec.Plan, rec.Service = *p, cluster.service
	rec.Nodes, rec.Arbiters = make([]nodeRecord, len(p.Nodes)), make([]nodeRecord, len(p.Arbiters))
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return nil, nil, refused("%s is not empty: give --dir a new directory", dir)
	}
	for d := dir; ; d = filepath.Dir(d) {
		if _, err := os.Stat(d); err == nil || d == filepath.Dir(d) {
			break
		}
		rec.MadeDirs = append([]string{d}, rec.MadeDirs...)
	}
	if o.Dir == "" {
		if err := privateDir(filepath.Dir(dir)); err != nil {
			return nil, nil, err
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, err
	}
	return rec, cluster, nil
}

// freeNumber is the lowest number that no registered lab has.
func (r registry) freeNumber() int {
	used := map[int]bool{}
	for _, name := range r.names() {
		if dir, ok := r.dirOf(name); ok {
			if rec, err := loadRecord(dir); err == nil {
				used[rec.Plan.Number] = true
			}
		}
	}
	n := 0
	for used[n] {
		n++
	}
	return n
}

func (l *Lab) make(ctx context.Context, o Options, cluster *clusterSpec) error {
	p := &l.rec.Plan
	if err := l.rec.save(); err != nil {
		return err
	}
	if err := l.register(); err != nil {
		return err
	}
	if o.Attached {
		var err error
		if l.owner, err = l.reg.lock(p.Name, "owner", false); err != nil {
			return err
		}
	}
	for _, m := range p.machines() {
		if err := os.MkdirAll(m.Dir, 0o700); err != nil {
			return err
		}
	}
	o.Progress(fmt.Sprintf("lab %s in %s: %d nodes, %d links%s, %s", p.Name, p.Dir, len(p.Nodes), len(p.Nodes[0].Ports), p.pointsText(), p.Mode))
	if err := cluster.prepare(ctx, l.rec); err != nil {
		return err
	}
	if err := l.rec.preparePoints(ctx); err != nil {
		return err
	}
	if p.Mode == Namespaces {
		if err := cgroup(p.Cgroup).make(); err != nil {
			return err
		}
		if err := makeSwitch(p); err != nil {
			return err
		}
		if err := plugIn(p, p.ProbeNetns, p.Probe); err != nil {
			return err
		}
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if o.Tune.Fencing {
		if err := l.startPower(); err != nil {
			return err
		}
	}
	if err := l.bootAll(); err != nil {
		return err
	}
	l.rec.Phase = Up
	return l.rec.save()
}

// Down removes the lab and all that it made. It is fine if part of it is gone.
func (l *Lab) Down() error {
	lock, err := l.reg.lock(l.Name(), "lock", true)
	if err != nil {
		return err
	}
	defer lock.Close()
	return l.remove()
}

// remove does it; the caller holds the lock. It goes on after a failure, and
// keeps the record then.
func (l *Lab) remove() error {
	p := &l.rec.Plan
	l.rec.Phase = Removing
	if err := l.rec.save(); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var errs []error
	if l.rec.Boot == bootID() {
		l.stopPower()
		for i, m := range p.machines() {
			errs = append(errs, l.powerOff(m, l.rec.records()[i]))
		}
		if p.Mode == Namespaces {
			errs = append(errs, removeByName(p))
		}
	}
	errs = append(errs, emptyDir(p.Dir))
	if err := errors.Join(errs...); err != nil {
		_ = l.rec.save()
		return err
	}
	for i, dir := range slices.Backward(l.rec.MadeDirs) {
		if err := os.Remove(dir); err != nil && i == len(l.rec.MadeDirs)-1 {
			return err
		}
	}
	if l.owner != nil {
		l.owner.Close()
		l.owner = nil
	}
	return l.reg.leave(p.Name)
}

// register enters the lab into the registry and makes what all labs share.
func (l *Lab) register() error {
	all, err := l.reg.lock("all", "labs", true)
	if err != nil {
		return err
	}
	defer all.Close()
	if err := l.reg.enter(l.Name(), l.Dir()); err != nil {
		return err
	}
	if l.Mode() == Namespaces {
		return makeStateMount(l.reg)
	}
	return nil
}

// removeByName removes namespaces and control groups that carry the lab's
// name, whether or not its record tells of them.
func removeByName(p *plan) error {
	var errs []error
	for _, name := range netnsesOf(p.Name) {
		errs = append(errs, removeNetns(name))
	}
	errs = append(errs, cgroup(p.Cgroup).remove())
	_ = os.Remove(filepath.Dir(p.Cgroup)) // when it was the last lab
	return errors.Join(errs...)
}

// emptyDir removes what is in a lab's directory, lab.json last: until then the
// lab can be found and its removal repeated.
func emptyDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if e.Name() != filepath.Base(recordFile(dir)) {
			errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	err = os.Remove(recordFile(dir))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return err
}

// Sweep removes labs that nobody will remove: made or removed half-way by a
// process that died, attached to an owner that died, or from before a reboot.
func Sweep(progress func(string)) error {
	reg, err := openRegistry()
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range reg.names() {
		lock, err := reg.lock(name, "lock", false)
		if err != nil {
			continue // somebody is at it
		}
		dir, ok := reg.dirOf(name)
		if !ok {
			lock.Close()
			continue
		}
		rec, err := loadRecord(dir)
		switch {
		case errors.Is(err, errNoLab):
			errs = append(errs, forgetLost(reg, name))
		case err != nil:
			errs = append(errs, fmt.Errorf("lab %s: %w", name, err))
		case rec.Phase != Up || rec.Boot != bootID() || rec.Attached && reg.free(name, "owner"):
			progress(fmt.Sprintf("removing lab %s, which an earlier command has left in %s", name, dir))
			errs = append(errs, (&Lab{reg: reg, rec: rec}).remove())
		}
		lock.Close()
	}
	return errors.Join(errs...)
}

// removeNamed removes what carries the name of a lab that is not registered.
func removeNamed(name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	reg, err := openRegistry()
	if err != nil {
		return err
	}
	lock, err := reg.lock(name, "lock", true)
	if err != nil {
		return err
	}
	defer lock.Close()
	return forgetLost(reg, name)
}

// forgetLost removes a lab whose directory is gone.
func forgetLost(reg registry, name string) error {
	var errs []error
	if os.Getuid() == 0 {
		if root, err := cgroupMount(); err == nil {
			p := &plan{Name: name, Cgroup: filepath.Join(root, "holdfast-lab", name)}
			errs = append(errs, removeByName(p))
		}
	}
	for _, pid := range marked(marker(name, "")) {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	return errors.Join(append(errs, reg.leave(name))...)
}

// change runs f under the lab's lock with its newest record, and saves that.
func (l *Lab) change(f func() error) error {
	lock, err := l.reg.lock(l.Name(), "lock", true)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := l.Reload(); err != nil {
		return err
	}
	if l.rec.Phase != Up {
		return fmt.Errorf("lab %s is not complete: holdfast lab down --name %s removes it", l.Name(), l.Name())
	}
	err = f()
	return errors.Join(err, l.rec.save())
}

// Reload reads what other processes have done to the lab.
func (l *Lab) Reload() error {
	rec, err := loadRecord(l.Dir())
	if err == nil {
		l.rec = rec
	}
	return err
}

// monotonic is CLOCK_MONOTONIC, which all namespaces of a machine share.
func monotonic() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return time.Duration(ts.Nano())
}
