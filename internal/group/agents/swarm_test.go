package agents

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/group/agent"
)

// tinyProgram writes a program that does nothing but wait, and needs next to no memory.
func tinyProgram(tb testing.TB) string {
	tb.Helper()
	if runtime.GOARCH != "amd64" {
		tb.Fatal("the tiny program is for amd64 only")
	}
	const base = 0x400000
	code := []byte{
		0xb8, 0x22, 0, 0, 0, // mov eax, 34 (pause)
		0x0f, 0x05, // syscall
		0xeb, 0xf7, // jmp to the beginning
	}
	le := binary.LittleEndian
	elf := []byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	elf = le.AppendUint16(elf, 2) // executable
	elf = le.AppendUint16(elf, 62)
	elf = le.AppendUint32(elf, 1)
	elf = le.AppendUint64(elf, base+64+56) // entry
	elf = le.AppendUint64(elf, 64)         // program headers
	elf = le.AppendUint64(elf, 0)
	elf = le.AppendUint32(elf, 0)
	for _, v := range []uint16{64, 56, 1, 0, 0, 0} {
		elf = le.AppendUint16(elf, v)
	}
	elf = le.AppendUint32(elf, 1) // load
	elf = le.AppendUint32(elf, 5) // readable and executable
	for _, v := range []uint64{0, base, base, uint64(64 + 56 + len(code)), uint64(64 + 56 + len(code)), 0x1000} {
		elf = le.AppendUint64(elf, v)
	}
	name := filepath.Join(tb.TempDir(), "tiny")
	if err := os.WriteFile(name, append(elf, code...), 0o755); err != nil {
		tb.Fatal(err)
	}
	return name
}

// swarm is many processes under one runtime and host.
type swarm struct {
	*engine
	statuses map[string]map[string]*v1.ResourceStatus
	counts   map[v1.ResourceState]int
	reported map[agent.Notice]bool // has stopped being simply online
}

func usedCPU() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// pump runs the engine until ok.
func (s *swarm) pump(what string, limit time.Duration, ok func() bool) {
	s.t.Helper()
	deadline := time.After(limit)
	for {
		a := s.rt.Take()
		for _, g := range a.Protect {
			for _, d := range s.desired.Groups {
				if d.Config.Name == g {
					if _, err := s.h.Protect(d.Config); err != nil {
						s.t.Fatal(err)
					}
				}
			}
		}
		for _, c := range a.Calls {
			s.h.Run(c, func(r agent.Result) { s.done <- agent.Done{Token: c.Token, Result: r} })
		}
		for _, rep := range a.Reports {
			for name, st := range rep.Resources {
				if s.statuses[rep.Group] == nil {
					s.statuses[rep.Group] = map[string]*v1.ResourceStatus{}
				}
				s.note(s.statuses[rep.Group][name], -1)
				s.note(st, 1)
				s.statuses[rep.Group][name] = st
				if s.reported != nil && (st.State != isOnline || st.Activity != v1.ResourceActivity_RESOURCE_ACTIVITY_NONE) {
					s.reported[agent.Notice{Group: rep.Group, Resource: name}] = true
				}
			}
		}
		if ok() {
			return
		}
		wake := time.NewTimer(max(0, a.Wake-s.now()))
		if a.Wake == 0 {
			wake.Stop()
		}
		select {
		case d := <-s.done:
			s.rt.Done(s.now(), time.Now().UnixMilli(), d)
		case n := <-s.h.Notices():
			s.rt.Notify(s.now(), n)
		case <-wake.C:
			s.rt.Tick(s.now())
		case <-deadline:
			s.t.Fatalf("not within %s: %s", limit, what)
		}
		wake.Stop()
	}
}

// note counts resources of which nothing is on its way, by state.
func (s *swarm) note(st *v1.ResourceStatus, by int) {
	if st.GetActivity() == v1.ResourceActivity_RESOURCE_ACTIVITY_NONE {
		s.counts[st.GetState()] += by
	}
}

// BenchmarkSwarm has 5,000 resources of type Process, each with a real process, on one node. It measures what watching
// them costs while nothing happens, and how soon the death of all at once is noticed and reported.
func BenchmarkSwarm(b *testing.B) {
	const groups, each = 50, 100
	own, err := ownCgroup()
	if err != nil {
		b.Fatal(err)
	}
	tiny := tinyProgram(b)
	var idle, told, busy time.Duration
	for range b.N {
		h, err := NewHost(Options{Node: "bench", RunDir: b.TempDir(), CgroupRoot: own})
		if err != nil {
			b.Fatal(err)
		}
		s := &swarm{engine: newEngine(b, h, &v1.Group{Name: "none"}), statuses: map[string]map[string]*v1.ResourceStatus{}, counts: map[v1.ResourceState]int{}}
		types := s.desired.Groups[0].Types
		s.desired.Groups = nil
		for g := range groups {
			conf := &v1.Group{Name: fmt.Sprintf("g%d", g)}
			for i := range each {
				conf.Resources = append(conf.Resources, &v1.Resource{
					Name: fmt.Sprintf("r%d", i), Type: "Process", Attributes: map[string]string{"PathName": tiny, "Arguments": fmt.Sprint(g*each + i)},
					Limits: &v1.Limits{RestartLimit: proto.Uint32(0)},
				})
			}
			s.desired.Groups = append(s.desired.Groups, agent.Group{Config: conf, Types: types, Intent: 1, Want: v1.Want_WANT_ONLINE})
		}
		s.rt.Desire(s.now(), time.Now().UnixMilli(), s.desired)
		s.pump("all online", 10*time.Minute, func() bool { return s.counts[isOnline] == groups*each })

		// Nothing happens: one full round of monitors at least.
		cpu, end := usedCPU(), time.Now().Add(time.Minute)
		s.pump("a quiet minute", 2*time.Minute, func() bool { return time.Now().After(end) })
		idle += usedCPU() - cpu

		var victims []process
		for _, g := range s.desired.Groups {
			for _, r := range g.Config.Resources {
				victims = append(victims, place{h: h, group: g.Config.Name, resource: r.Name}.record().Main)
			}
		}
		s.reported = map[agent.Notice]bool{}
		killed, cpu := s.now(), usedCPU()
		go func() {
			for _, v := range victims {
				_ = unix.Kill(v.Pid, unix.SIGKILL)
			}
		}()
		s.pump("all deaths reported", time.Minute, func() bool { return len(s.reported) == groups*each })
		told += s.now() - killed
		s.pump("all faulted", time.Minute, func() bool { return s.counts[isFaulted] == groups*each })
		busy += usedCPU() - cpu
		for _, g := range s.desired.Groups {
			h.Release(g.Config.Name)
		}
		if err := unix.Rmdir(h.cgroup); err != nil {
			b.Error(err)
		}
		h.Close()
	}
	n := float64(b.N)
	b.ReportMetric(idle.Seconds()/60/n*100, "%core-idle")
	b.ReportMetric(told.Seconds()*1000/n, "ms/reported")
	b.ReportMetric(busy.Seconds()*1000/n, "cpu-ms/cleaned")
}
