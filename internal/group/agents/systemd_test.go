package agents

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/group/agent"
)

// fakeSystemd is as much of systemd as the agent needs, on a bus of its own.
type fakeSystemd struct {
	t       *testing.T
	address string
	daemon  *exec.Cmd
	conn    *dbus.Conn

	mu    sync.Mutex
	units map[string]*fakeUnit
	jobs  uint32
	calls []string
}

type fakeUnit struct {
	load, active, sub, file, result string
	kind, restart, slice, cgroup    string
	remain                          bool
	code, status                    int32
	job                             uint32
	jobType                         string
	// start and stop are how such a job ends: done, failed, …; "hang": it never does.
	start, stop string
}

func newFakeSystemd(t *testing.T, units map[string]*fakeUnit) *fakeSystemd {
	t.Helper()
	f := &fakeSystemd{t: t, address: "unix:path=" + filepath.Join(t.TempDir(), "bus"), units: units}
	for _, u := range units {
		f.complete(u)
	}
	t.Cleanup(func() { f.crash() })
	f.begin()
	return f
}

func (f *fakeSystemd) complete(u *fakeUnit) {
	for _, d := range []struct {
		field     *string
		otherwise string
	}{
		{&u.load, "loaded"}, {&u.active, "inactive"}, {&u.sub, "dead"}, {&u.file, "disabled"}, {&u.result, "success"},
		{&u.kind, "simple"}, {&u.restart, "no"}, {&u.slice, "system.slice"}, {&u.start, "done"}, {&u.stop, "done"},
	} {
		if *d.field == "" {
			*d.field = d.otherwise
		}
	}
}

// begin starts the bus and systemd on it.
func (f *fakeSystemd) begin() {
	f.t.Helper()
	conf := filepath.Join(f.t.TempDir(), "bus.conf")
	if err := os.WriteFile(conf, []byte(`<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>session</type><listen>`+f.address+`</listen><policy context="default">
<allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>`), 0o600); err != nil {
		f.t.Fatal(err)
	}
	f.daemon = exec.Command("dbus-daemon", "--config-file="+conf, "--nofork", "--nopidfile")
	if err := f.daemon.Start(); err != nil {
		f.t.Fatal(err)
	}
	socket := strings.TrimPrefix(f.address, "unix:path=")
	until(f.t, "the bus is there", func() bool {
		c, err := net.Dial("unix", socket)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	f.appear()
}

// appear takes the name of systemd.
func (f *fakeSystemd) appear() {
	f.t.Helper()
	conn, err := dbus.Connect(f.address)
	if err != nil {
		f.t.Fatal(err)
	}
	f.conn = conn
	if err := conn.Export(fakeManager{f}, systemdPath, systemdManager); err != nil {
		f.t.Fatal(err)
	}
	for name := range f.units {
		if err := conn.Export(fakeProperties{f, name}, unitPath(name), busProperties); err != nil {
			f.t.Fatal(err)
		}
	}
	if r, err := conn.RequestName(systemdName, dbus.NameFlagDoNotQueue); err != nil || r != dbus.RequestNameReplyPrimaryOwner {
		f.t.Fatal(r, err)
	}
}

// crash ends the bus and all that is on it.
func (f *fakeSystemd) crash() {
	_ = f.conn.Close()
	_ = f.daemon.Process.Kill()
	_ = f.daemon.Wait()
	_ = os.Remove(strings.TrimPrefix(f.address, "unix:path="))
}

func unitPath(name string) dbus.ObjectPath {
	var b strings.Builder
	for _, c := range []byte(name) {
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "_%02x", c)
		}
	}
	return dbus.ObjectPath("/org/freedesktop/systemd1/unit/" + b.String())
}

func jobPath(n uint32) dbus.ObjectPath {
	return dbus.ObjectPath(fmt.Sprintf("/org/freedesktop/systemd1/job/%d", n))
}

func (f *fakeSystemd) emit(path dbus.ObjectPath, name string, values ...any) {
	if err := f.conn.Emit(path, name, values...); err != nil {
		f.t.Error(err)
	}
}

// turn gives a unit another state, and tells it as systemd does: more than once.
func (f *fakeSystemd) turn(name, active, sub, result string) {
	f.mu.Lock()
	u := f.units[name]
	u.active, u.sub, u.result = active, sub, result
	f.mu.Unlock()
	for range 2 {
		f.emit(unitPath(name), busProperties+".PropertiesChanged", systemdUnit,
			map[string]dbus.Variant{"ActiveState": dbus.MakeVariant(active), "SubState": dbus.MakeVariant(sub)}, []string{})
	}
}

func (f *fakeSystemd) called() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := strings.Join(f.calls, "; ")
	f.calls = nil
	return s
}

func (f *fakeSystemd) note(call string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, call)
}

type fakeManager struct{ f *fakeSystemd }

func noSuchUnit(name string) *dbus.Error {
	return dbus.NewError(systemdName+".NoSuchUnit", []any{"Unit " + name + " not loaded."})
}

func (m fakeManager) Subscribe() *dbus.Error { return nil }

func (m fakeManager) LoadUnit(name string) (dbus.ObjectPath, *dbus.Error) {
	m.f.mu.Lock()
	defer m.f.mu.Unlock()
	if m.f.units[name] == nil {
		u := &fakeUnit{load: "not-found"}
		m.f.complete(u)
		m.f.units[name] = u
		if err := m.f.conn.Export(fakeProperties{m.f, name}, unitPath(name), busProperties); err != nil {
			return "", dbus.MakeFailedError(err)
		}
	}
	return unitPath(name), nil
}

func (m fakeManager) job(what, name, mode string) (dbus.ObjectPath, *dbus.Error) {
	f := m.f
	f.note(what + " " + name + " " + mode)
	f.mu.Lock()
	u := f.units[name]
	if u == nil || u.load != "loaded" {
		f.mu.Unlock()
		return "", noSuchUnit(name)
	}
	f.jobs++
	job := f.jobs
	how := u.start
	if what == "stop" {
		how = u.stop
	}
	f.mu.Unlock()
	end := func(result string) {
		f.emit(systemdPath, systemdManager+".JobRemoved", job, jobPath(job), name, result)
	}
	cancelled := make(chan struct{})
	if err := f.conn.Export(fakeJob{f, name, cancelled}, jobPath(job), systemdName+".Job"); err != nil {
		return "", dbus.MakeFailedError(err)
	}
	act := func() {
		f.emit(systemdPath, systemdManager+".JobRemoved", job+1000, jobPath(job+1000), name, "canceled") // another job's, in the same instant
		switch {
		case how == "hang":
			<-cancelled
			end("canceled")
			return
		case how == "done" && what == "start":
			f.turn(name, "active", "running", "success")
		case how == "failed" && what == "start":
			f.turn(name, "failed", "failed", "exit-code")
		case how == "done":
			f.turn(name, "inactive", "dead", "success")
		}
		f.emit(systemdPath, systemdManager+".JobRemoved", job, jobPath(job), name, how)
	}
	if how == "hang" {
		go act()
	} else {
		act() // the signal is on its way before the answer is
	}
	return jobPath(job), nil
}

func (m fakeManager) StartUnit(name, mode string) (dbus.ObjectPath, *dbus.Error) {
	return m.job("start", name, mode)
}
func (m fakeManager) StopUnit(name, mode string) (dbus.ObjectPath, *dbus.Error) {
	return m.job("stop", name, mode)
}

func (m fakeManager) KillUnit(name, who string, signal int32) *dbus.Error {
	m.f.note(fmt.Sprintf("kill %s %s %d", name, who, signal))
	return nil
}

func (m fakeManager) ResetFailedUnit(name string) *dbus.Error {
	m.f.note("reset " + name)
	m.f.mu.Lock()
	u := m.f.units[name]
	known := u != nil && u.load == "loaded"
	failed := known && u.active == "failed"
	m.f.mu.Unlock()
	if !known {
		return noSuchUnit(name)
	}
	if failed {
		m.f.turn(name, "inactive", "dead", "success")
	}
	return nil
}

type fakeJob struct {
	f         *fakeSystemd
	unit      string
	cancelled chan struct{}
}

func (j fakeJob) Cancel() *dbus.Error {
	j.f.note("cancel " + j.unit)
	close(j.cancelled)
	return nil
}

type fakeProperties struct {
	f    *fakeSystemd
	name string
}

func (p fakeProperties) GetAll(of string) (map[string]dbus.Variant, *dbus.Error) {
	p.f.mu.Lock()
	defer p.f.mu.Unlock()
	u := p.f.units[p.name]
	all := map[string]any{}
	switch of {
	case systemdUnit:
		all = map[string]any{
			"Id": p.name, "LoadState": u.load, "ActiveState": u.active, "SubState": u.sub, "UnitFileState": u.file,
			"Job": struct {
				Number uint32
				Path   dbus.ObjectPath
			}{u.job, jobPath(u.job)},
		}
	case systemdName + ".Service":
		all = map[string]any{
			"Type": u.kind, "RemainAfterExit": u.remain, "Restart": u.restart, "Result": u.result, "Slice": u.slice, "ControlGroup": u.cgroup,
			"ExecMainCode": u.code, "ExecMainStatus": u.status,
		}
	case systemdName + ".Timer":
		all["Result"] = u.result
	case systemdName + ".Job":
		all["JobType"] = u.jobType
	default:
		return nil, dbus.MakeFailedError(fmt.Errorf("%s has no interface %s", p.name, of))
	}
	out := map[string]dbus.Variant{}
	for k, v := range all {
		out[k] = dbus.MakeVariant(v)
	}
	return out, nil
}

func newSystemdRig(t *testing.T, f *fakeSystemd) *rig {
	r := newRig(t, "sessions")
	r.h.bus.dial = func(o dbus.ConnOption) (*dbus.Conn, error) { return dbus.Connect(f.address, o) }
	return r
}

func TestSystemdUnit(t *testing.T) {
	f := newFakeSystemd(t, map[string]*fakeUnit{"web.service": {}, "other.service": {}, "tick.timer": {}})
	r := newSystemdRig(t, f)
	a := map[string]string{"Unit": "web"}
	watch := agent.Call{Type: "SystemdUnit", Entry: agent.Monitor, Attributes: a, Watch: true}
	if res := r.call(watch); res.State != isOffline || !res.Watched || res.Message != "web.service is inactive" {
		t.Fatalf("%+v", res)
	}
	r.do("SystemdUnit", agent.Online, a)
	if got := f.called(); got != "reset web.service; start web.service replace" {
		t.Errorf("calls: %s", got)
	}
	r.do("SystemdUnit", agent.Online, a)
	if got := f.called(); got != "" {
		t.Errorf("calls of an online that was: %s", got)
	}
	r.notice() // it was watched
	if res := r.call(watch); res.State != isOnline || !res.Watched || res.Message != "" {
		t.Fatalf("%+v", res)
	}
	// It dies; units that nobody watches do not matter, and one change is told once.
	f.mu.Lock()
	f.units["web.service"].code, f.units["web.service"].status = 2, 11
	f.mu.Unlock()
	f.turn("other.service", "failed", "failed", "exit-code")
	f.turn("web.service", "failed", "failed", "signal")
	if n := r.notice(); n.What != "the unit is now failed (failed)" || n.Resource != "app" {
		t.Errorf("%+v", n)
	}
	if res := r.call(watch); res.State != isOffline || res.Message != "web.service has failed: signal (its main process was killed by signal 11)" {
		t.Errorf("%+v", res)
	}
	r.do("SystemdUnit", agent.Clean, a)
	if got := f.called(); got != "kill web.service all 9; stop web.service replace; reset web.service" {
		t.Errorf("calls: %s", got)
	}
	r.wantState("SystemdUnit", a, isOffline)
	// Without a watch nothing is told any more.
	f.turn("web.service", "active", "running", "success")
	r.wantState("SystemdUnit", a, isOnline)
	if len(r.h.bus.watched)+len(r.h.bus.states) != 0 {
		t.Error("it is still watched")
	}
	r.do("SystemdUnit", agent.Offline, a)
	r.wantState("SystemdUnit", a, isOffline)
	f.called()

	// Another kind of unit, and one that there is not.
	timer := map[string]string{"Unit": "tick.timer"}
	r.do("SystemdUnit", agent.Online, timer)
	r.wantState("SystemdUnit", timer, isOnline)
	none := map[string]string{"Unit": "none"}
	if res := r.wantState("SystemdUnit", none, isOffline); res.Message != "none.service is not-found" {
		t.Errorf("%+v", res)
	}
	r.wantErr(agent.Call{Type: "SystemdUnit", Entry: agent.Online, Attributes: none}, "there is no unit none.service")
	r.do("SystemdUnit", agent.Offline, none)
	r.do("SystemdUnit", agent.Clean, none)
}

// What each state of systemd means.
func TestSystemdStates(t *testing.T) {
	f := newFakeSystemd(t, map[string]*fakeUnit{"u.service": {}})
	r := newSystemdRig(t, f)
	a := map[string]string{"Unit": "u.service"}
	unknown := v1.ResourceState_RESOURCE_STATE_UNKNOWN
	for _, test := range []struct {
		unit    fakeUnit
		want    v1.ResourceState
		message string
	}{
		{fakeUnit{active: "active", sub: "running"}, isOnline, ""},
		{fakeUnit{active: "active", sub: "exited", kind: "oneshot", remain: true}, isOnline, ""},
		{fakeUnit{active: "active", sub: "running", file: "enabled"}, isOnline, "systemctl disable u.service"},
		{fakeUnit{active: "reloading", sub: "reload"}, isOnline, ""},
		{fakeUnit{active: "activating", sub: "start-pre"}, unknown, "u.service is activating (start-pre)"},
		{fakeUnit{active: "activating", sub: "auto-restart"}, isOffline, "about to restart it"},
		{fakeUnit{active: "deactivating", sub: "stop-sigterm"}, unknown, "u.service is deactivating (stop-sigterm)"},
		{fakeUnit{active: "inactive"}, isOffline, "u.service is inactive"},
		{fakeUnit{active: "inactive", job: 7, jobType: "restart"}, unknown, "systemd is about to restart it"},
		{fakeUnit{active: "inactive", job: 7, jobType: "stop"}, isOffline, "u.service is inactive"},
		{fakeUnit{active: "inactive", load: "masked"}, isOffline, "u.service is masked"},
		{fakeUnit{active: "failed", result: "exit-code", code: 1, status: 3}, isOffline, "has failed: exit-code (its main process exited with status 3)"},
		{fakeUnit{active: "failed", result: "start-limit-hit"}, isOffline, "has failed: start-limit-hit"},
		{fakeUnit{active: "maintenance"}, unknown, "u.service is maintenance"},
	} {
		f.complete(&test.unit)
		f.mu.Lock()
		*f.units["u.service"] = test.unit
		f.mu.Unlock()
		if test.unit.job != 0 {
			if err := f.conn.Export(fakeProperties{f, "u.service"}, jobPath(test.unit.job), busProperties); err != nil {
				t.Fatal(err)
			}
		}
		if res := r.do("SystemdUnit", agent.Monitor, a); res.State != test.want || !strings.Contains(res.Message, test.message) {
			t.Errorf("%+v: %+v", test.unit, res)
		}
	}
}

// What keeps a unit from being left to the cluster, and how jobs may end.
func TestSystemdOnline(t *testing.T) {
	f := newFakeSystemd(t, map[string]*fakeUnit{"u.service": {}})
	r := newSystemdRig(t, f)
	for _, test := range []struct {
		unit fakeUnit
		want string
	}{
		{fakeUnit{file: "enabled"}, "starts it at boot"},
		{fakeUnit{load: "masked"}, "systemctl unmask u.service"},
		{fakeUnit{load: "bad-setting"}, "could not load u.service: bad-setting"},
		{fakeUnit{kind: "oneshot"}, "RemainAfterExit=yes"},
		{fakeUnit{restart: "on-failure"}, "set Restart=no in a drop-in"},
		{fakeUnit{start: "failed"}, "u.service has failed: exit-code"},
		{fakeUnit{start: "timeout"}, "systemd did not start u.service: timeout"},
		{fakeUnit{start: "dependency"}, "systemd did not start u.service: dependency"},
		{fakeUnit{kind: "oneshot", remain: true}, ""},
		{fakeUnit{file: "enabled", active: "active"}, ""},
		{fakeUnit{file: "static"}, ""},
	} {
		f.complete(&test.unit)
		f.mu.Lock()
		*f.units["u.service"] = test.unit
		f.mu.Unlock()
		res := r.call(agent.Call{Type: "SystemdUnit", Entry: agent.Online, Attributes: map[string]string{"Unit": "u"}})
		if (res.Err == "") != (test.want == "") || !strings.Contains(res.Err, test.want) {
			t.Errorf("%+v: %+v", test.unit, res)
		}
	}
	// A job that does not end is taken back.
	f.mu.Lock()
	*f.units["u.service"] = fakeUnit{start: "hang", stop: "failed"}
	f.complete(f.units["u.service"])
	f.mu.Unlock()
	f.called()
	res := r.call(agent.Call{Type: "SystemdUnit", Entry: agent.Online, Attributes: map[string]string{"Unit": "u"}, Timeout: 200 * time.Millisecond})
	if !res.TimedOut || f.called() != "reset u.service; start u.service replace; cancel u.service" {
		t.Errorf("%+v", res)
	}
	r.wantErr(agent.Call{Type: "SystemdUnit", Entry: agent.Offline, Attributes: map[string]string{"Unit": "u"}}, "systemd did not stop u.service: failed")
	if len(r.h.bus.ended) != 0 || r.h.bus.waiting != 0 {
		t.Errorf("%v of jobs are kept", r.h.bus.ended)
	}
}

// The bus or systemd goes away and comes back: who is watched is told, and the next monitor finds its way.
func TestSystemdReconnects(t *testing.T) {
	f := newFakeSystemd(t, map[string]*fakeUnit{"u.service": {active: "active", sub: "running"}})
	r := newSystemdRig(t, f)
	watch := agent.Call{Type: "SystemdUnit", Entry: agent.Monitor, Attributes: map[string]string{"Unit": "u"}, Watch: true}
	if res := r.call(watch); res.State != isOnline || !res.Watched {
		t.Fatalf("%+v", res)
	}
	// systemd alone, as when it executes itself anew.
	if _, err := f.conn.ReleaseName(systemdName); err != nil {
		t.Fatal(err)
	}
	r.notice()
	if r.call(watch).Err == "" {
		t.Error("a monitor without systemd found something out")
	}
	_ = f.conn.Close()
	f.appear()
	until(t, "it is watched again", func() bool { res := r.call(watch); return res.State == isOnline && res.Watched })
	// The bus with all that is on it.
	f.crash()
	until(t, "a monitor fails after a notice", func() bool {
		r.notice()
		return r.call(watch).Err != ""
	})
	f.begin()
	if res := r.call(watch); res.State != isOnline || !res.Watched {
		t.Fatalf("%+v", res)
	}
	for len(r.h.Notices()) > 0 {
		r.notice()
	}
	f.turn("u.service", "failed", "failed", "signal")
	until(t, "its end is told", func() bool { return r.notice().What == "the unit is now failed (failed)" })
	// systemd read its files again.
	r.call(watch)
	f.emit(systemdPath, systemdManager+".Reloading", true)
	f.emit(systemdPath, systemdManager+".Reloading", false)
	r.notice()
	// A type of another name with this agent.
	own := watch
	own.Type, own.Definition = "Web", &v1.ResourceType{Name: "Web", Agent: &v1.ResourceType_Systemd{Systemd: &v1.SystemdAgent{}}}
	if res := r.call(own); res.State != isOffline || !res.Watched {
		t.Fatalf("%+v", res)
	}
	own.Entry = agent.Close
	r.call(own)
}

// Guard is told the control group of a unit before it is started, also of one whose type has another name.
func TestSystemdIsProtected(t *testing.T) {
	f := newFakeSystemd(t, map[string]*fakeUnit{"a.service": {}, "b.service": {slice: "x-y.slice"}, "c.service": {cgroup: "/else.slice/c.service"}, "d.timer": {}})
	r := newSystemdRig(t, f)
	r.call(agent.Call{Type: "Web", Resource: "c", Entry: agent.Monitor, Attributes: map[string]string{"Unit": "c"},
		Definition: &v1.ResourceType{Name: "Web", Agent: &v1.ResourceType_Systemd{Systemd: &v1.SystemdAgent{}}}})
	g := &v1.Group{Name: "web", Resources: []*v1.Resource{
		{Name: "a", Type: "SystemdUnit", Attributes: map[string]string{"Unit": "zzz"}, NodeAttributes: map[string]*v1.Values{"n1": {Values: map[string]string{"Unit": "a"}}}},
		{Name: "b", Type: "SystemdUnit", Attributes: map[string]string{"Unit": "b.service"}},
		{Name: "c", Type: "Web", Attributes: map[string]string{"Unit": "c"}},
		{Name: "d", Type: "SystemdUnit", Attributes: map[string]string{"Unit": "d.timer"}},
	}}
	p, err := r.h.Protect(g)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"/system.slice/a.service", "/x.slice/x-y.slice/b.service", "/else.slice/c.service"} {
		if dir := must(cgroupDir(want)); i >= len(p.OtherCgroups) || p.OtherCgroups[i] != dir {
			t.Errorf("%v, not %s", p.OtherCgroups, dir)
		}
	}
	if len(p.OtherCgroups) != 3 || len(p.ProcessGroups) != 0 {
		t.Errorf("%v", p)
	}
	f.crash()
	until(t, "nothing is started that can't be stopped", func() bool { _, err := r.h.Protect(g); return err != nil })
	f.begin()
}
