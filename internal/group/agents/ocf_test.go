package agents

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/group/agent"
)

const (
	isUnknown = v1.ResourceState_RESOURCE_STATE_UNKNOWN
	isBroken  = v1.ResourceState_RESOURCE_STATE_FAULTED
)

// programmed is a resource of a type that is carried out by programs.
type programmed struct {
	*rig
	typ        *v1.ResourceType
	attributes map[string]string
}

// imported is a resource of a type of the package of agents.
func imported(t *testing.T, r *rig, name string, attributes map[string]string) programmed {
	t.Helper()
	typ, _, err := ImportOCF(t.Context(), name, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(r.h.stateDir()); err != nil {
			t.Error(err)
		}
	})
	return programmed{rig: r, typ: typ, attributes: attributes}
}

func (p programmed) ask(c agent.Call) agent.Result {
	p.t.Helper()
	c.Type, c.Definition = p.typ.GetName(), p.typ
	c.Attributes = map[string]string{}
	for _, a := range p.typ.GetAttributes() {
		if a.GetDefault() != "" {
			c.Attributes[a.GetName()] = a.GetDefault()
		}
	}
	for k, v := range p.attributes {
		c.Attributes[k] = v
	}
	return p.call(c)
}

func (p programmed) must(e agent.EntryPoint) agent.Result {
	p.t.Helper()
	r := p.ask(agent.Call{Entry: e, Watch: true})
	if r.Err != "" || r.TimedOut {
		p.t.Fatalf("%s: %+v", e, r)
	}
	return r
}

func (p programmed) want(state v1.ResourceState) agent.Result {
	p.t.Helper()
	r := p.must(agent.Monitor)
	if r.State != state {
		p.t.Fatalf("monitor says %s, not %s: %s", r.State, state, r.Message)
	}
	return r
}

// life goes through what is asked of every agent: all entry points may be repeated.
func (p programmed) life() {
	p.t.Helper()
	p.want(isOffline)
	for range 2 {
		p.must(agent.Online)
		p.want(isOnline)
	}
	for range 2 {
		p.must(agent.Offline)
		p.want(isOffline)
	}
	p.must(agent.Online)
	p.want(isOnline)
	for range 2 {
		p.must(agent.Clean)
		p.want(isOffline)
	}
}

// The template agent, from its description to its death, with and without control groups.
func TestOCFDummy(t *testing.T) {
	inBothModes(t, func(t *testing.T, r *rig) {
		p := imported(t, r, "heartbeat:Dummy", nil)
		p.life()
		p.must(agent.Online)
		state := filepath.Join(r.h.stateDir(), "Dummy-app.state")
		if _, err := os.Stat(state); err != nil {
			t.Fatalf("its state is elsewhere: %v", err)
		}
		p.want(isOnline)
		if err := os.Remove(state); err != nil {
			t.Fatal(err)
		}
		// No probe: it was online, so the agent says why it is not any more.
		if r := p.want(isOffline); r.Message != "Dummy monitor: not running (7): No process state file found" {
			t.Errorf("message %q", r.Message)
		}
		if r := p.want(isOffline); r.Message != "Dummy monitor: not running (7)" {
			t.Errorf("message of a probe %q", r.Message)
		}
		if r := p.ask(agent.Call{Entry: agent.Action, Name: "validate-all"}); r.Err != "" {
			t.Errorf("%+v", r)
		}
		for _, name := range []string{"start", "promote", "../Dummy", ""} {
			if r := p.ask(agent.Call{Entry: agent.Action, Name: name}); !strings.Contains(r.Err, "has no action") {
				t.Errorf("action %q: %+v", name, r)
			}
		}
		p.attributes = map[string]string{"state": "/nowhere/state", "fake": "x"}
		if r := p.ask(agent.Call{Entry: agent.Action, Name: "validate-all"}); !strings.Contains(r.Err, "parameters not valid on this node (2): State file \"/nowhere/state\" is not writable") {
			t.Errorf("%+v", r)
		}
		if r := p.ask(agent.Call{Entry: agent.Online}); !strings.Contains(r.Err, "Dummy start: ") || r.TimedOut {
			t.Errorf("%+v", r)
		}
		if r := p.ask(agent.Call{Entry: agent.AttrChanged, Changed: []string{"fake"}}); r.Err != "" {
			t.Errorf("%+v", r)
		}
	})
}

// An address in a network of its own, also one that others have taken away.
func TestOCFIPaddr2(t *testing.T) {
	if !inNetwork(t) {
		return
	}
	newPeer(t)
	link := must(netlink.LinkByName("eth0"))
	if err := netlink.AddrAdd(link, must(netlink.ParseAddr("192.0.2.1/24"))); err != nil {
		t.Fatal(err)
	}
	r := newRig(t, "cgroups")
	changed := map[string]bool{}
	r.h.onChange = func(group string) { changed[group] = true }
	p := imported(t, r, "IPaddr2", map[string]string{"ip": "192.0.2.40"})
	has := func() bool {
		all := must(netlink.AddrList(link, netlink.FAMILY_V4))
		return slices.ContainsFunc(all, func(a netlink.Addr) bool { return a.IPNet.String() == "192.0.2.40/24" })
	}
	p.life()
	p.must(agent.Online)
	if !has() {
		t.Fatal("the address is not there")
	}
	p.want(isOnline)
	// Guard can take it down, wherever it is.
	protect := must(r.h.Protect(&v1.Group{Name: "web", Resources: []*v1.Resource{{Name: "app", Type: p.typ.GetName()}}}))
	if !slices.Equal(protect.GetAddresses(), []string{"192.0.2.40/32 "}) || len(changed) != 0 {
		t.Errorf("guard is told %v, of changes in %v", protect, changed)
	}
	// A host that begins anew and finds it online has guard told.
	r.reopen()
	r.h.onChange = func(group string) { changed[group] = true }
	if p.want(isOnline); !changed["web"] {
		t.Error("guard is not told")
	}
	if err := netlink.AddrDel(link, must(netlink.ParseAddr("192.0.2.40/24"))); err != nil {
		t.Fatal(err)
	}
	p.want(isOffline)
	p.must(agent.Clean)
	p.attributes = map[string]string{"ip": "not an address"}
	if r := p.ask(agent.Call{Entry: agent.Online}); !strings.Contains(r.Err, "IPaddr2 start: ") || r.Verdict == v1.Verdict_VERDICT_UNSPECIFIED {
		t.Errorf("%+v", r)
	}
	p.attributes = nil
	if r := p.ask(agent.Call{Entry: agent.Online}); !strings.Contains(r.Err, "ip is missing") {
		t.Errorf("%+v", r)
	}
}

// A file system of the kernel: mounted, unmounted although somebody is in it, and taken away by others.
func TestOCFFilesystem(t *testing.T) {
	if !inNamespaces(t, syscall.CLONE_NEWNS) {
		return
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	r := newRig(t, "cgroups")
	dir := t.TempDir()
	p := imported(t, r, "Filesystem", map[string]string{"device": "holdfast-test", "directory": dir, "fstype": "tmpfs"})
	mounted := func() bool {
		b := must(os.ReadFile("/proc/self/mounts"))
		return strings.Contains(string(b), "holdfast-test "+dir+" tmpfs")
	}
	p.life()
	p.must(agent.Online)
	if !mounted() {
		t.Fatal("it is not mounted")
	}
	user := exec.Command("/bin/sleep", "1000")
	user.Dir = dir
	if err := user.Start(); err != nil {
		t.Fatal(err)
	}
	p.must(agent.Offline)
	if err := user.Wait(); err == nil || mounted() {
		t.Fatalf("%v; mounted: %v", err, mounted())
	}
	p.must(agent.Online)
	p.want(isOnline)
	if err := unix.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
	p.want(isOffline)
	p.attributes["directory"] = "/proc/self/no"
	if r := p.ask(agent.Call{Entry: agent.Online}); r.Err == "" {
		t.Errorf("%+v", r)
	}
}

// A daemon: it runs in the control group of its resource, its death is told, and its deep monitor asks it.
func TestOCFNginx(t *testing.T) {
	r := newRig(t, "cgroups")
	dir := t.TempDir()
	l := must(net.Listen("tcp", "127.0.0.1:0"))
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "nginx.conf")
	text := fmt.Sprintf("daemon on;\npid %s/pid;\nerror_log %s/log;\nworker_processes 1;\nevents {}\nhttp {\n access_log off;\n server {\n  listen %s;\n  location /nginx_status { stub_status; }\n }\n}\n", dir, dir, address)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	_, port, _ := strings.Cut(address, ":")
	p := imported(t, r, "nginx", map[string]string{
		"configfile": config, "httpd": "/usr/sbin/nginx", "port": port, "status10url": "http://" + address + "/nginx_status",
	})
	p.life()
	p.must(agent.Online)
	p.want(isOnline)
	m := r.members()
	if len(m) < 2 {
		t.Fatalf("%d processes in its control group", len(m))
	}
	if res := p.ask(agent.Call{Entry: agent.Monitor, Deep: true, Watch: true}); res.State != isOnline {
		t.Fatalf("%+v", res)
	}
	resp, err := http.Get("http://" + address + "/nginx_status")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	main := roots(m)
	if len(main) != 1 {
		t.Fatalf("%d processes lead the others", len(main))
	}
	if err := main[0].signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if n := r.notice(); n.What != fmt.Sprintf("process %d has ended", main[0].Pid) {
		t.Fatalf("%+v", n)
	}
	until(t, "the agent sees it, once init has reaped it", func() bool {
		res := p.ask(agent.Call{Entry: agent.Monitor, Watch: true})
		return res.State == isOffline || res.State == isBroken
	})
	p.must(agent.Clean)
	if m := r.members(); len(m) != 0 {
		t.Fatalf("clean left %v", m)
	}
	p.want(isOffline)
	if err := os.WriteFile(config, []byte("this is no configuration"), 0o644); err != nil {
		t.Fatal(err)
	}
	if res := p.ask(agent.Call{Entry: agent.Online}); res.Err == "" {
		t.Errorf("%+v", res)
	}
}

// Other agents of the package that need nothing of the machine.
func TestOCFOthers(t *testing.T) {
	r := newRig(t, "cgroups")
	for name, attributes := range map[string]map[string]string{
		"Delay":    {"startdelay": "0", "stopdelay": "0", "mondelay": "0"},
		"anything": {"binfile": "/bin/sleep", "cmdline_options": "1000", "pidfile": filepath.Join(t.TempDir(), "pid")},
		"symlink":  {"link": filepath.Join(t.TempDir(), "link"), "target": "/etc/hostname"},
	} {
		t.Run(name, func(t *testing.T) {
			p := imported(t, r, name, attributes)
			p.t = t
			p.life()
		})
	}
}

// Nothing is left in the control groups and on the machine, whatever was done.
func TestOCFLeavesNothing(t *testing.T) {
	r := newRig(t, "cgroups")
	p := imported(t, r, "anything", map[string]string{"binfile": "/bin/sleep", "cmdline_options": "1000", "pidfile": filepath.Join(t.TempDir(), "pid")})
	p.must(agent.Online)
	m := r.members()
	p.must(agent.Offline)
	for _, m := range m {
		if m.alive() {
			t.Errorf("process %d is still there", m.Pid)
		}
	}
	files := must(os.ReadDir(r.h.recordsDir()))
	if len(files) != 0 {
		t.Errorf("records are left: %v", files)
	}
	if len(r.h.adapted) != 0 {
		t.Errorf("remembered: %v", r.h.adapted)
	}
	p = imported(t, r, "IPaddr2", map[string]string{"ip": "192.0.2.9"})
	p.ask(agent.Call{Entry: agent.Monitor})
	if p.must(agent.Close); len(r.h.adapted) != 0 {
		t.Errorf("remembered: %v", r.h.adapted)
	}
}

// fakeOCF makes an agent of a shell script. The action is $1.
func fakeOCF(t *testing.T, r *rig, lines ...string) programmed {
	t.Helper()
	root := t.TempDir()
	dir := filepath.Join(root, "resource.d", "test")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "fake"), []byte("#!/bin/sh\n"+strings.Join(lines, "\n")+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	r.h.ocfRoot = root
	t.Cleanup(func() { _ = os.RemoveAll(r.h.stateDir()) })
	return programmed{rig: r, typ: &v1.ResourceType{
		Name: "ocf-test-fake", Agent: &v1.ResourceType_Ocf{Ocf: &v1.OcfAgent{Provider: "test", Agent: "fake"}},
		Attributes:       []*v1.Attribute{{Name: "a"}, {Name: "b"}, {Name: ocfCheckLevel, Default: "20"}},
		Limits:           &v1.Limits{MonitorInterval: seconds(7)},
		SupportedActions: []string{"validate-all", "reload"},
	}}
}

// What each exit status means, where the resource is expected online and where it is not.
func TestOCFStatuses(t *testing.T) {
	r := newRig(t, "sessions")
	status := filepath.Join(t.TempDir(), "status")
	p := fakeOCF(t, r, "test \"$1\" = stop && exit 0", "echo ocf-exit-reason:one >&2; echo noise; echo ocf-exit-reason:because >&2; exit $(cat "+status+")")
	set := func(n int) {
		if err := os.WriteFile(status, fmt.Append(nil, n), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const here, nowhere = v1.Verdict_VERDICT_NOT_HERE, v1.Verdict_VERDICT_NOWHERE
	for _, row := range []struct {
		status           int
		probe, monitored v1.ResourceState
		verdict          v1.Verdict
	}{
		{0, isOnline, isOnline, 0},
		{1, isBroken, isBroken, 0},
		{2, isUnknown, isBroken, here},
		{3, isUnknown, isBroken, here},
		{4, isUnknown, isBroken, here},
		{5, isOffline, isBroken, here},
		{6, isUnknown, isBroken, nowhere},
		{7, isOffline, isOffline, 0},
		{8, isOnline, isOnline, 0},
		{9, isBroken, isBroken, 0},
		{127, isBroken, isBroken, 0},
		{190, isOnline, isOnline, 0},
		{191, isOnline, isOnline, 0},
	} {
		for _, expected := range []bool{false, true} {
			set(0)
			if p.must(agent.Offline); expected {
				p.must(agent.Online)
			}
			set(row.status)
			res := p.ask(agent.Call{Entry: agent.Monitor})
			want := row.probe
			if expected {
				want = row.monitored
			}
			if res.State != want || res.Verdict != row.verdict || res.Err != "" {
				t.Errorf("%d, expected online %v: %+v", row.status, expected, res)
			}
			if row.status != 0 && !strings.HasSuffix(res.Message, fmt.Sprintf("(%d): because", row.status)) && !strings.HasSuffix(res.Message, "status 127: because") {
				t.Errorf("%d: message %q", row.status, res.Message)
			}
		}
		set(row.status)
		p.must(agent.Offline)
		if res := p.ask(agent.Call{Entry: agent.Online}); (res.Err == "") != (row.status == 0) || res.Verdict != row.verdict {
			t.Errorf("start %d: %+v", row.status, res)
		}
	}
}

// What an agent is given.
func TestOCFEnvironment(t *testing.T) {
	r := newRig(t, "sessions")
	dir := t.TempDir()
	p := fakeOCF(t, r, "env >"+dir+"/$1", "exit 0")
	p.attributes = map[string]string{"a": "x y'z", "b": ""}
	read := func(action string) map[string]string {
		out := map[string]string{}
		for _, line := range strings.Split(string(must(os.ReadFile(filepath.Join(dir, action)))), "\n") {
			name, value, _ := strings.Cut(line, "=")
			out[name] = value
		}
		return out
	}
	check := func(action string, want map[string]string, unset ...string) {
		t.Helper()
		have := read(action)
		for k, v := range want {
			if have[k] != v {
				t.Errorf("%s: %s is %q, not %q", action, k, have[k], v)
			}
		}
		for _, k := range unset {
			if v, set := have[k]; set {
				t.Errorf("%s: %s is set: %q", action, k, v)
			}
		}
	}
	p.ask(agent.Call{Entry: agent.Monitor, Timeout: 13 * time.Second})
	check("monitor", map[string]string{
		"OCF_ROOT": r.h.ocfRoot, "OCF_RA_VERSION_MAJOR": "1", "OCF_RESOURCE_INSTANCE": "app", "OCF_RESOURCE_TYPE": "fake", "OCF_RESOURCE_PROVIDER": "test",
		"OCF_RESKEY_a": "x y'z", "OCF_CHECK_LEVEL": "0", "OCF_RESKEY_CRM_meta_timeout": "13000", "OCF_RESKEY_CRM_meta_interval": "0",
		"HA_RSCTMP": r.h.stateDir(), "OCF_RESKEY_CRM_meta_on_node": "n1", "HOLDFAST_GROUP": "web",
	}, "OCF_RESKEY_b", "OCF_RESKEY_OCF_CHECK_LEVEL", "LD_LIBRARY_PATH")
	p.ask(agent.Call{Entry: agent.Monitor, Deep: true})
	check("monitor", map[string]string{"OCF_CHECK_LEVEL": "20", "OCF_RESKEY_CRM_meta_interval": "7000"})
	p.ask(agent.Call{Entry: agent.Online})
	check("start", map[string]string{"OCF_RESKEY_CRM_meta_interval": "0", "OCF_RESKEY_CRM_meta_name": "start"}, "OCF_CHECK_LEVEL")
	p.ask(agent.Call{Entry: agent.AttrChanged})
	check("reload", nil)
	p.ask(agent.Call{Entry: agent.Clean, CleanReason: agent.UnexpectedOffline, Timeout: 20 * time.Second})
	check("stop", nil)
	if ms := read("stop")["OCF_RESKEY_CRM_meta_timeout"]; len(ms) != 4 {
		t.Errorf("clean gave stop %s ms of its 20 s", ms)
	}
	p.attributes["a"] = "a\x00b"
	if res := p.ask(agent.Call{Entry: agent.Offline}); !strings.Contains(res.Err, "zero byte") {
		t.Errorf("%+v", res)
	}
}

// Clean: the agent's word decides; where processes are in its way it is asked again without them.
func TestOCFClean(t *testing.T) {
	inBothModes(t, func(t *testing.T, r *rig) {
		dir := t.TempDir()
		p := fakeOCF(t, r,
			"case $1 in",
			"start) setsid sleep 1000 </dev/null >/dev/null 2>&1 & echo $! >"+dir+"/pid;;",
			"stop) echo x >>"+dir+"/stops; ! grep -qs sleep /proc/$(cat "+dir+"/pid)/cmdline || exit 1;;",
			"esac")
		begin := func() {
			t.Helper()
			if err := os.RemoveAll(dir + "/stops"); err != nil {
				t.Fatal(err)
			}
			p.must(agent.Online)
			if len(r.members()) == 0 {
				t.Fatal("nothing runs")
			}
		}
		stops := func() int { return strings.Count(string(must(os.ReadFile(dir+"/stops"))), "x") }
		begin()
		if res := p.ask(agent.Call{Entry: agent.Clean, CleanReason: agent.UnexpectedOffline}); res.Err != "" || stops() != 2 {
			t.Fatalf("%+v, %d stops", res, stops())
		}
		begin()
		if res := p.ask(agent.Call{Entry: agent.Clean, CleanReason: agent.OfflineHung}); res.Err != "" || stops() != 1 {
			t.Fatalf("%+v, %d stops", res, stops())
		}
		begin()
		if res := p.ask(agent.Call{Entry: agent.Offline}); !strings.Contains(res.Err, "fake stop: error (1)") || len(r.members()) == 0 {
			t.Fatalf("%+v", res)
		}
		p.must(agent.Clean)
		if m := r.members(); len(m) != 0 {
			t.Fatalf("%v are left", m)
		}
	})
}

// A stop that fails for good, or hangs, is never called a success.
func TestOCFCleanFails(t *testing.T) {
	r := newRig(t, "sessions")
	p := fakeOCF(t, r, "test $1 != stop || exit 1")
	if res := p.ask(agent.Call{Entry: agent.Clean}); !strings.Contains(res.Err, "error (1)") {
		t.Fatalf("%+v", res)
	}
	p = fakeOCF(t, r, "test $1 != stop || sleep 1000")
	if res := p.ask(agent.Call{Entry: agent.Clean, CleanReason: agent.UnexpectedOffline, Timeout: 400 * time.Millisecond}); !res.TimedOut {
		t.Fatalf("%+v", res)
	}
}

func TestImportOCFRefuses(t *testing.T) {
	for name, want := range map[string]string{
		"heartbeat:Stateful":   "--plain",
		"heartbeat:conntrackd": "runs promoted and demoted only",
		"heartbeat:IPaddr3":    "there is IPaddr, IPaddr2",
		"nobody:IPaddr2":       "resource-agents",
		"heartbeat:../Dummy":   "does not name an agent",
		":":                    "does not name an agent",
		"":                     "does not name an agent",
	} {
		if _, _, err := ImportOCF(t.Context(), name, false); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, notes, err := ImportOCF(t.Context(), "Stateful", true); err != nil || len(notes) != 1 || !strings.Contains(notes[0], "plain mode only") {
		t.Errorf("%v, %v", notes, err)
	}
}

// Every agent of the package can be read, and what comes out is a valid type.
func TestImportOCFAll(t *testing.T) {
	n := 0
	for _, e := range must(os.ReadDir(filepath.Join(ocfRoot, "resource.d", "heartbeat"))) {
		if strings.HasPrefix(e.Name(), ".") || slices.Contains([]string{"conntrackd", "mpathpersist", "sg_persist"}, e.Name()) {
			continue
		}
		typ, _, err := ImportOCF(t.Context(), e.Name(), true)
		if err != nil {
			t.Errorf("%s: %v", e.Name(), err)
			continue
		}
		n++
		checkImported(t, typ)
	}
	if n < 100 {
		t.Errorf("only %d agents", n)
	}
}

func checkImported(t *testing.T, typ *v1.ResourceType) {
	t.Helper()
	seen := map[string]bool{}
	for _, a := range typ.GetAttributes() {
		if seen[a.GetName()] || !ocfParameterName.MatchString(a.GetName()) {
			t.Errorf("%s: attribute %q", typ.GetName(), a.GetName())
		}
		seen[a.GetName()] = true
		for _, v := range append(slices.Clone(a.GetWords()), a.GetDefault()) {
			if err := checkValue(a.GetKind(), v); v != "" && err != nil {
				t.Errorf("%s: %s: %v", typ.GetName(), a.GetName(), err)
			}
		}
		if len(a.GetDescription()) > 3*maxSentence {
			t.Errorf("%s: %s has %d characters of description", typ.GetName(), a.GetName(), len(a.GetDescription()))
		}
	}
	for _, d := range []time.Duration{typ.GetLimits().GetOnlineTimeout().AsDuration(), typ.GetLimits().GetMonitorInterval().AsDuration()} {
		if d < 0 || d > 24*time.Hour || d > 0 && d < time.Second {
			t.Errorf("%s: a limit of %s", typ.GetName(), d)
		}
	}
	if !ocfTypeName.MatchString(typ.GetName()) {
		t.Errorf("type %q", typ.GetName())
	}
}

// Agents that describe themselves badly.
func TestImportOCFBadAgents(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "resource.d", "test")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ script, want string }{
		"silent":  {"#!/bin/sh\n", "printed no meta-data"},
		"failing": {"#!/bin/sh\necho no such thing >&2\nexit 3\n", "exited with status 3: no such thing"},
		"talking": {"#!/bin/sh\necho hello\n", `something else than meta-data: "hello"`},
		"broken":  {"#!/bin/sh\necho '<resource-agent><parameters>'\n", "not well-formed"},
		"endless": {"#!/bin/sh\nexec yes '<resource-agent>'\n", "prints more than 1024 KiB"},
		"bomb":    {"#!/bin/sh\necho '<!DOCTYPE x [<!ENTITY a \"aa\">]><resource-agent><longdesc>&a;</longdesc></resource-agent>'\n", "not well-formed"},
		"foreign": {"#!/bin/sh\necho '<?xml version=\"1.0\" encoding=\"koi8-r\"?><resource-agent/>'\n", "koi8-r"},
		"other":   {"#!/bin/sh\necho '<html/>'\n", "not well-formed"},
		"strange": {"#!/no/such/shell\n", "interpreter"},
		"forking": {"#!/bin/sh\nsleep 1000 &\necho '<resource-agent/>'\n", ""},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(c.script), 0o755); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		_, _, err := importOCF(t.Context(), root, "test:"+name, false)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v", name, err)
		}
		if d := time.Since(begin); d > metadataTime {
			t.Errorf("%s: took %s", name, d)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "hanging"), []byte("#!/bin/sh\nsleep 1000\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, _, err := importOCF(ctx, root, "test:hanging", false); err == nil || !strings.Contains(err.Error(), "does not end") {
		t.Error(err)
	}
	for _, p := range must(filepath.Glob("/proc/[0-9]*/cmdline")) {
		if b, err := os.ReadFile(p); err == nil && strings.Contains(string(b), root) {
			t.Errorf("%s still runs: %q", p, b)
		}
	}
}
