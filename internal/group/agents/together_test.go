package agents

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/group/agent"
)

// engine is as much of an engine as a runtime and a host need.
type engine struct {
	t       testing.TB
	h       *Host
	rt      *agent.Runtime
	began   time.Time
	done    chan agent.Done
	desired agent.Desired
	status  map[string]*v1.ResourceStatus
	intent  uint64
}

func newEngine(t testing.TB, h *Host, g *v1.Group) *engine {
	types := map[string]*v1.ResourceType{}
	for _, typ := range Types() {
		types[typ.Name] = typ
	}
	e := &engine{t: t, h: h, rt: agent.New("n1"), began: time.Now(), done: make(chan agent.Done, 100), status: map[string]*v1.ResourceStatus{}}
	e.desired = agent.Desired{Incarnation: 1, MayAct: true, Groups: []agent.Group{{Config: g, Types: types}}}
	return e
}

func (e *engine) now() time.Duration { return time.Since(e.began) + 1 }

func (e *engine) order(intent uint64, want v1.Want) {
	e.desired.Groups[0].Intent, e.desired.Groups[0].Want = intent, want
	e.rt.Desire(e.now(), time.Now().UnixMilli(), e.desired)
}

// until runs the engine until ok.
func (e *engine) until(what string, ok func() bool) {
	e.t.Helper()
	deadline := time.After(time.Minute)
	for {
		a := e.rt.Take()
		for _, g := range a.Protect {
			for _, d := range e.desired.Groups {
				if d.Config.Name == g {
					if _, err := e.h.Protect(d.Config); err != nil {
						e.t.Fatal(err)
					}
				}
			}
		}
		for _, token := range a.Cancel {
			e.h.Cancel(token)
		}
		for _, c := range a.Calls {
			e.h.Run(c, func(r agent.Result) { e.done <- agent.Done{Token: c.Token, Result: r} })
		}
		for _, rep := range a.Reports {
			for name, s := range rep.Resources {
				e.status[name] = s
			}
			e.intent = rep.Intent
		}
		for _, g := range a.Gone {
			e.h.Release(g)
		}
		if ok() {
			return
		}
		wake := time.NewTimer(max(0, a.Wake-e.now()))
		if a.Wake == 0 {
			wake.Stop()
		}
		select {
		case d := <-e.done:
			e.rt.Done(e.now(), time.Now().UnixMilli(), d)
		case n := <-e.h.Notices():
			e.rt.Notify(e.now(), n)
		case <-wake.C:
			e.rt.Tick(e.now())
		case <-deadline:
			e.t.Fatalf("never: %s; %v", what, e.status)
		}
		wake.Stop()
	}
}

func (e *engine) all(s v1.ResourceState) func() bool {
	return func() bool {
		for _, r := range e.desired.Groups[0].Config.Resources {
			if st := e.status[r.Name]; st.GetState() != s || st.GetActivity() != v1.ResourceActivity_RESOURCE_ACTIVITY_NONE {
				return false
			}
		}
		return e.intent == e.desired.Groups[0].Intent
	}
}

func sleepers() *v1.Group {
	sleeper := map[string]string{"PathName": "/bin/sleep", "Arguments": "1000"}
	return &v1.Group{Name: "web", Resources: []*v1.Resource{
		{Name: "app", Type: "Process", Attributes: sleeper},
		{Name: "web", Type: "Process", Attributes: sleeper, Requires: []string{"app"}, Limits: &v1.Limits{RestartLimit: proto.Uint32(0)}},
	}}
}

// Runtime and host together: a process that is killed is restarted in place because its death is told (its monitor is
// seconds away); a second host and runtime adopt it; a fault without restarts left; offline leaves nothing.
func TestRuntimeAndHost(t *testing.T) {
	inBothModes(t, func(t *testing.T, r *rig) {
		e := newEngine(t, r.h, sleepers())
		e.order(1, v1.Want_WANT_ONLINE)
		e.until("online", e.all(isOnline))
		pid := r.members()[0].Pid
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		e.until("restarted", func() bool { return e.status["app"].GetRestarts() == 1 && e.all(isOnline)() })
		if m := r.members(); len(m) != 1 || m[0].Pid == pid {
			t.Fatalf("%v", m)
		}

		known := e.status
		r.reopen()
		e = newEngine(t, r.h, sleepers())
		e.desired.Groups[0].Known = known
		pid = r.members()[0].Pid
		e.order(1, v1.Want_WANT_ONLINE)
		e.until("adopted", e.all(isOnline))
		if m := r.members(); len(m) != 1 || m[0].Pid != pid {
			t.Fatalf("it was started anew: %v", m)
		}

		other := place{h: r.h, group: "web", resource: "web"}
		m, err := other.members()
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Kill(m[0].Pid, unix.SIGTERM); err != nil {
			t.Fatal(err)
		}
		e.until("faulted", func() bool {
			return e.status["web"].GetState() == v1.ResourceState_RESOURCE_STATE_FAULTED && e.status["app"].GetState() == isOnline
		})
		e.order(2, v1.Want_WANT_OFFLINE)
		e.until("offline", func() bool { return e.intent == 2 && e.status["app"].GetState() == isOffline })
		if m := r.members(); len(m) != 0 {
			t.Fatalf("%v are left", m)
		}
	})
}

// BenchmarkRestart measures from the kill of a process until its successor is known to be online.
func BenchmarkRestart(b *testing.B) {
	own, err := ownCgroup()
	if err != nil {
		b.Fatal(err)
	}
	h, err := NewHost(Options{Node: "bench", RunDir: b.TempDir(), CgroupRoot: own})
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		h.Release("web")
		if err := unix.Rmdir(h.cgroup); err != nil {
			b.Error(err)
		}
		h.Close()
	}()
	g := &v1.Group{Name: "web", Resources: []*v1.Resource{{
		Name: "app", Type: "Process", Attributes: map[string]string{"PathName": "/bin/sleep", "Arguments": "1000"},
		Limits: &v1.Limits{RestartLimit: proto.Uint32(1 << 30)},
	}}}
	e := newEngine(b, h, g)
	e.order(1, v1.Want_WANT_ONLINE)
	e.until("online", e.all(isOnline))
	p := place{h: h, group: "web", resource: "app"}
	for i := uint32(1); b.Loop(); i++ {
		if err := p.record().Main.signal(unix.SIGKILL); err != nil {
			b.Fatal(err)
		}
		e.until("restarted", func() bool { return e.status["app"].GetRestarts() == i && e.all(isOnline)() })
	}
	e.order(2, v1.Want_WANT_OFFLINE)
	e.until("offline", e.all(isOffline))
}
