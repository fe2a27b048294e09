package agents

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/group/agent"
)

// cpuTime that this process, or its children that have ended, have used.
func cpuTime(b *testing.B, who int) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(who, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkOCFMonitor is one monitor of a resource that is online: the template agent of the package, and one that does
// nothing, so that what is left is the way there. host-µs is the processor time of this process, agent-µs that of the
// program and all that it starts. shell: without control groups that a program can be born in.
func BenchmarkOCFMonitor(b *testing.B) {
	for _, agentName := range []string{"Dummy", "nothing"} {
		for _, way := range []string{"born", "shell"} {
			b.Run(agentName+"/"+way, func(b *testing.B) { benchMonitor(b, agentName, way) })
		}
	}
}

func benchMonitor(b *testing.B, agentName, way string) {
	own, err := ownCgroup()
	if err != nil {
		b.Fatal(err)
	}
	root := filepath.Join(own, "holdfast-bench")
	if err := os.MkdirAll(root, 0o755); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { removeCgroup(root) })
	h, err := NewHost(Options{Node: "n1", RunDir: b.TempDir(), CgroupRoot: root})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		h.Close()
		h.Release("bench")
		removeCgroup(h.cgroup)
		_ = os.RemoveAll(h.stateDir())
	})
	if h.cgroup == "" || !h.direct {
		b.Fatal("programs can't be born in a control group here")
	}
	h.direct = way == "born"
	typ := &v1.ResourceType{Name: "nothing", Agent: &v1.ResourceType_Ocf{Ocf: &v1.OcfAgent{Provider: "test", Agent: "nothing"}}}
	if agentName == "nothing" {
		h.ocfRoot = b.TempDir()
		dir := filepath.Join(h.ocfRoot, "resource.d", "test")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "nothing"), []byte("#!/bin/sh\n"), 0o755); err != nil {
			b.Fatal(err)
		}
	} else if typ, _, err = ImportOCF(b.Context(), agentName, false); err != nil {
		b.Fatal(err)
	}
	token := uint64(0)
	ask := func(e agent.EntryPoint) agent.Result {
		token++
		answer := make(chan agent.Result, 1)
		h.Run(agent.Call{
			Token: token, Group: "bench", Resource: "r", Type: typ.GetName(), Definition: typ, Entry: e, Timeout: 20 * time.Second, Watch: true,
		}, func(r agent.Result) { answer <- r })
		return <-answer
	}
	if r := ask(agent.Online); r.Err != "" {
		b.Fatal(r.Err)
	}
	self, children := cpuTime(b, unix.RUSAGE_SELF), cpuTime(b, unix.RUSAGE_CHILDREN)
	for b.Loop() {
		if r := ask(agent.Monitor); r.State != v1.ResourceState_RESOURCE_STATE_ONLINE {
			b.Fatalf("%+v", r)
		}
	}
	perCall := func(d time.Duration) float64 { return float64(d.Microseconds()) / float64(b.N) }
	b.ReportMetric(perCall(cpuTime(b, unix.RUSAGE_SELF)-self), "host-µs/op")
	b.ReportMetric(perCall(cpuTime(b, unix.RUSAGE_CHILDREN)-children), "agent-µs/op")
}
