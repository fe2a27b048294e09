package agents

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/group/agent"
)

const (
	isOnline  = v1.ResourceState_RESOURCE_STATE_ONLINE
	isOffline = v1.ResourceState_RESOURCE_STATE_OFFLINE
	isFaulted = v1.ResourceState_RESOURCE_STATE_FAULTED
)

// rig is a host under test.
type rig struct {
	t     *testing.T
	h     *Host
	opts  Options
	token uint64
}

// inBothModes runs a test with control groups and without.
func inBothModes(t *testing.T, test func(t *testing.T, r *rig)) {
	for _, mode := range []string{"cgroups", "sessions"} {
		t.Run(mode, func(t *testing.T) { test(t, newRig(t, mode)) })
	}
}

func newRig(t *testing.T, mode string) *rig {
	t.Helper()
	opts := Options{Node: "n1", RunDir: t.TempDir(), CgroupRoot: t.TempDir()} // the latter: not a control group
	if mode == "cgroups" {
		own, err := ownCgroup()
		if err != nil {
			t.Fatal(err)
		}
		opts.CgroupRoot = filepath.Join(own, fmt.Sprintf("holdfast-test-%d-%s", os.Getpid(), fileName(t.Name())))
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), killTime)
			defer cancel()
			if err := killCgroup(ctx, opts.CgroupRoot); err != nil {
				t.Error(err)
			}
			removeCgroups(t, opts.CgroupRoot)
		})
	}
	r := &rig{t: t, opts: opts}
	r.open()
	if (r.h.cgroup != "") != (mode == "cgroups") {
		t.Fatalf("control group %q in mode %s", r.h.cgroup, mode)
	}
	t.Cleanup(func() {
		for _, f := range must(filepath.Glob(filepath.Join(r.h.recordsDir(), "*.json"))) {
			group, resource, _ := strings.Cut(strings.TrimSuffix(filepath.Base(f), ".json"), ".")
			p := place{h: r.h, group: plainName(group), resource: plainName(resource)}
			if err := p.kill(context.Background()); err != nil {
				t.Error(err)
			}
		}
		r.h.Close()
	})
	return r
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func removeCgroups(t *testing.T, dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Error(err)
	}
	for _, e := range entries {
		if e.IsDir() {
			removeCgroups(t, filepath.Join(dir, e.Name()))
		}
	}
	if err := os.Remove(dir); err != nil {
		t.Error(err)
	}
}

func (r *rig) open() {
	r.t.Helper()
	h, err := NewHost(r.opts)
	if err != nil {
		r.t.Fatal(err)
	}
	r.h = h
}

// reopen replaces the host by a new one, as after a crash of the engine.
func (r *rig) reopen() {
	r.t.Helper()
	r.h.Close()
	r.open()
}

func (r *rig) begin(c agent.Call) <-chan agent.Result {
	r.token++
	c.Token = r.token
	if c.Group == "" {
		c.Group = "web"
	}
	if c.Resource == "" {
		c.Resource = "app"
	}
	if c.Timeout == 0 {
		c.Timeout = 20 * time.Second
	}
	full := map[string]string{}
	if k := r.h.kindOf(c.Type); k != nil {
		for _, a := range k.typ.GetAttributes() {
			full[a.Name] = a.Default
		}
	}
	for k, v := range c.Attributes {
		full[k] = v
	}
	c.Attributes = full
	out := make(chan agent.Result, 1)
	r.h.Run(c, func(res agent.Result) { out <- res })
	return out
}

func (r *rig) call(c agent.Call) agent.Result {
	r.t.Helper()
	select {
	case res := <-r.begin(c):
		return res
	case <-time.After(time.Minute):
		r.t.Fatalf("%s was never answered", c.Entry)
		return agent.Result{}
	}
}

func (r *rig) do(typ string, e agent.EntryPoint, attributes map[string]string) agent.Result {
	r.t.Helper()
	res := r.call(agent.Call{Type: typ, Entry: e, Attributes: attributes})
	if res.Err != "" || res.TimedOut {
		r.t.Fatalf("%s: %+v", e, res)
	}
	return res
}

func (r *rig) wantState(typ string, attributes map[string]string, want v1.ResourceState) agent.Result {
	r.t.Helper()
	res := r.do(typ, agent.Monitor, attributes)
	if res.State != want {
		r.t.Fatalf("monitor says %s, not %s: %s", res.State, want, res.Message)
	}
	return res
}

// monitor looks, and has changes told from then on.
func (r *rig) monitor(typ string, attributes map[string]string) agent.Result {
	r.t.Helper()
	res := r.call(agent.Call{Type: typ, Entry: agent.Monitor, Attributes: attributes, Watch: true})
	if res.Err != "" || res.TimedOut {
		r.t.Fatalf("monitor: %+v", res)
	}
	return res
}

// watchState is wantState with a watch.
func (r *rig) watchState(typ string, attributes map[string]string, want v1.ResourceState) agent.Result {
	r.t.Helper()
	res := r.monitor(typ, attributes)
	if res.State != want {
		r.t.Fatalf("monitor says %s, not %s: %s", res.State, want, res.Message)
	}
	return res
}

// notice waits for the next notice.
func (r *rig) notice() agent.Notice {
	r.t.Helper()
	select {
	case n := <-r.h.Notices():
		return n
	case <-time.After(time.Minute):
		r.t.Fatal("no notice came")
		return agent.Notice{}
	}
}

// script writes an executable shell script.
func script(t *testing.T, lines ...string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(name, []byte("#!/bin/sh\n"+strings.Join(lines, "\n")+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return name
}

func (r *rig) members() []procStat {
	r.t.Helper()
	m, err := place{h: r.h, group: "web", resource: "app"}.members()
	if err != nil {
		r.t.Fatal(err)
	}
	return m
}

// until repeats a condition that must come true by events that the test can't wait for otherwise.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	end := time.Now().Add(time.Minute)
	for !ok() {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
		unix.Nanosleep(&unix.Timespec{Nsec: 1e6}, nil)
	}
}

func TestFileOnOff(t *testing.T) {
	r := newRig(t, "sessions")
	a := map[string]string{"PathName": filepath.Join(t.TempDir(), "there")}
	r.wantState("FileOnOff", a, isOffline)
	for range 2 {
		r.do("FileOnOff", agent.Online, a)
		r.wantState("FileOnOff", a, isOnline)
	}
	for range 2 {
		r.do("FileOnOff", agent.Offline, a)
		r.wantState("FileOnOff", a, isOffline)
	}
	r.do("FileOnOff", agent.Online, a)
	r.do("FileOnOff", agent.Clean, a)
	r.wantState("FileOnOff", a, isOffline)
}

func TestBadCalls(t *testing.T) {
	r := newRig(t, "sessions")
	for _, c := range []agent.Call{
		{Type: "Prozess", Entry: agent.Monitor},
		{Type: "FileOnOff", Entry: agent.Online, Attributes: map[string]string{"PathName": "relative"}},
		{Type: "FileOnOff", Entry: agent.Monitor},
		{Type: "Process", Entry: agent.Online, Attributes: map[string]string{"PathName": "/bin/sleep", "Arguments": "'5"}},
		{Type: "Process", Entry: agent.Online, Attributes: map[string]string{"PathName": "/does/not/exist"}},
		{Type: "Process", Entry: agent.Online, Attributes: map[string]string{"PathName": "/bin/sleep", "User": "no-such-user"}},
		{Type: "IP", Entry: agent.Online, Attributes: map[string]string{"Address": "192.0.2.9/24", "Device": "no-such-card"}},
	} {
		if res := r.call(c); res.Err == "" || res.TimedOut {
			t.Errorf("%s of %s %v: %+v", c.Entry, c.Type, c.Attributes, res)
		}
	}
}

// A call that hangs in the kernel is answered, and so are the monitors after it (H5); other resources don't notice.
func TestStuckCall(t *testing.T) {
	r := newRig(t, "sessions")
	release := make(chan struct{})
	defer close(release)
	r.h.giveUpAfter = time.Millisecond
	r.h.kindOf = func(string) *kind {
		return &kind{typ: &v1.ResourceType{Name: "Stuck"}, run: func(_ context.Context, _ *Host, c agent.Call) agent.Result {
			if c.Resource == "app" {
				<-release
			}
			return agent.Result{State: isOnline}
		}}
	}
	for range 2 {
		if res := r.call(agent.Call{Type: "Stuck", Entry: agent.Monitor, Timeout: time.Millisecond}); !res.TimedOut {
			t.Fatalf("%+v", res)
		}
	}
	if res := r.call(agent.Call{Type: "Stuck", Resource: "other", Entry: agent.Monitor, Timeout: time.Second}); res.State != isOnline {
		t.Fatalf("%+v", res)
	}
}

// Monitors that hang never keep an offline waiting.
func TestMonitorsDoNotBlockActions(t *testing.T) {
	r := newRig(t, "sessions")
	r.h.kindOf = func(string) *kind {
		return &kind{typ: &v1.ResourceType{Name: "Slow"}, run: func(ctx context.Context, _ *Host, c agent.Call) agent.Result {
			if c.Entry == agent.Monitor {
				<-ctx.Done()
				return failed(ctx.Err())
			}
			return agent.Result{}
		}}
	}
	var hung []<-chan agent.Result
	for i := range 3 * r.h.pool.lanes[0].places {
		hung = append(hung, r.begin(agent.Call{Type: "Slow", Resource: fmt.Sprint(i), Entry: agent.Monitor, Timeout: time.Hour}))
	}
	if res := r.call(agent.Call{Type: "Slow", Entry: agent.Offline}); res.Err != "" {
		t.Fatalf("%+v", res)
	}
	r.h.Cancel(uint64(len(hung))) // one that has not begun
	r.h.Cancel(1)
	for _, i := range []int{0, len(hung) - 1} {
		if res := <-hung[i]; !strings.Contains(res.Err, "cancelled") || res.TimedOut {
			t.Fatalf("%+v", res)
		}
	}
}

func TestFileNames(t *testing.T) {
	for _, s := range []string{"web", "..", "a/b", "cgroup.procs", "ümlaut", "100%", "%41", ""} {
		f := fileName(s)
		if strings.ContainsAny(f, "/.") || plainName(f) != s {
			t.Errorf("%q becomes %q and then %q", s, f, plainName(f))
		}
	}
}
