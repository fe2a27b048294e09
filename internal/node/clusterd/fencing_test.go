//go:build linux

package clusterd

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/identity"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
	"github.com/holdfast-ha/holdfast/internal/node/engine"
)

// switcher is a driver whose engine only collects what is proposed.
type switcher struct {
	fakeEngine
	mu       sync.Mutex
	s        *statepb.State
	proposed chan *statepb.Command
}

func (e *switcher) State() *statepb.State {
	e.mu.Lock()
	defer e.mu.Unlock()
	return state.Clone(e.s)
}

func (e *switcher) Step(_ time.Duration, _ int64, in engine.Input) {
	if p, ok := in.(engine.Propose); ok && p.Command.GetFenceDone() != nil {
		e.proposed <- p.Command
	}
}
func (e *switcher) Take() engine.Out { return engine.Out{} }

// fencer is node n1 in a cluster whose n2 is to be switched off by an agent.
func fencer(t *testing.T, agent string) (*node, *switcher) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fence_test")
	script := "#!/bin/sh\nwhile read -r l; do case $l in action=*) a=${l#action=};; esac; done\ncase $a in\n" + agent + "\nesac\nexit 1\n"
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	s, err := state.Initial(&v1.Configuration{
		Cluster: &v1.Cluster{Name: "c", FenceDevices: []*v1.FenceDevice{{Name: "pdu", Agent: path, Tries: 1, Plugs: map[string]string{"n2": "2"}}}},
		Nodes:   []*v1.Node{{Name: "n1"}, {Name: "n2", FenceLevels: []*v1.FenceLevel{{Devices: []string{"pdu"}}}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.View.Members = s.View.Members[:1]
	s.NodeStatus["n2"].Fence = &statepb.Fence{RaftId: 2}
	s.FenceOperations = []*v1.FenceOperation{
		{Number: 6, Node: "n2", RaftId: 2, By: "n1", ByRaftId: 9, Result: v1.FenceResult_FENCE_RESULT_RUNNING}, // of another incarnation
		{Number: 7, Node: "n2", RaftId: 2, By: "n1", ByRaftId: 1, Result: v1.FenceResult_FENCE_RESULT_RUNNING},
		{Number: 8, Node: "n2", RaftId: 2, By: "n3", ByRaftId: 3, Result: v1.FenceResult_FENCE_RESULT_RUNNING},
	}
	n := newNode(Options{Log: slog.New(slog.DiscardHandler)}, &identity.Identity{Node: "n1"})
	e := &switcher{s: s, proposed: make(chan *statepb.Command, 10)}
	n.engine = e
	return n, e
}

// loop runs what is posted, and nothing else of a node.
func loop(n *node) (end func()) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case f := <-n.in:
				f()
				for len(n.local) > 0 {
					in := n.local[0]
					n.local = n.local[1:]
					n.step(in)
				}
			case <-n.done:
				return
			}
		}
	}()
	return func() {
		n.quit()
		<-ended
		n.wg.Wait()
	}
}

func (e *switcher) outcome(t *testing.T, n *node, heard guardpb.LinkState) *statepb.FenceDone {
	t.Helper()
	n.guard.peers = &guardpb.Peers{Peers: []*guardpb.PeerState{{Node: "n2", State: heard}}}
	defer loop(n)()
	n.post(n.fencingOn)
	select {
	case c := <-e.proposed:
		n.post(n.fencingOn) // the same operation is not begun again
		return c.GetFenceDone()
	case <-time.After(20 * time.Second):
		t.Fatal("nothing is proposed")
		return nil
	}
}

const goodAgent = "off) exit 0;;\nstatus) exit 2;;"

func TestSwitchesOff(t *testing.T) {
	for _, c := range []struct {
		name, agent string
		heard       guardpb.LinkState
		want        v1.FenceResult
		message     string
	}{
		{"off", goodAgent, guardpb.LinkState_LINK_STATE_DOWN, v1.FenceResult_FENCE_RESULT_OFF, "level 1: device pdu has switched it off, and sees it off"},
		{"failed", "off) echo 'no route' >&2; exit 1;;", guardpb.LinkState_LINK_STATE_DOWN, v1.FenceResult_FENCE_RESULT_FAILED, "no route"},
		{"back", goodAgent, guardpb.LinkState_LINK_STATE_UP, v1.FenceResult_FENCE_RESULT_FAILED, "it is not needed any more"},
		{"lied", goodAgent, guardpb.LinkState_LINK_STATE_UP, v1.FenceResult_FENCE_RESULT_LIED, "but the node is alive: its heartbeats still arrive at n1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n, e := fencer(t, c.agent)
			if c.name == "back" {
				e.s.NodeStatus["n2"].Fence = nil
			}
			d := e.outcome(t, n, c.heard)
			if d.GetNumber() != 7 || d.GetResult() != c.want || !strings.Contains(d.GetMessage(), c.message) {
				t.Errorf("outcome %v", d)
			}
			if len(e.proposed) != 0 {
				t.Errorf("it was done again: %v", <-e.proposed)
			}
		})
	}
}

// A node that was just switched off counts as heard until its silence is peerinact long.
func TestHeardAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		defer b.end()
		set := func(s guardpb.LinkState) {
			b.post(func() { b.guard.peers = &guardpb.Peers{Peers: []*guardpb.PeerState{{Node: "n2", State: s}}} })
		}
		set(guardpb.LinkState_LINK_STATE_TROUBLE)
		time.AfterFunc(time.Second, func() { set(guardpb.LinkState_LINK_STATE_DOWN) })
		begin := time.Now()
		if why, heard := b.heardAfter(t.Context(), "n2", time.Second); heard || time.Since(begin) < time.Second || time.Since(begin) > 2*time.Second {
			t.Errorf("heard %v %q after %v", heard, why, time.Since(begin))
		}
		set(guardpb.LinkState_LINK_STATE_JEOPARDY)
		begin = time.Now()
		if why, heard := b.heardAfter(t.Context(), "n2", time.Second); !heard || why == "" || time.Since(begin) != 3*time.Second {
			t.Errorf("heard %v %q after %v", heard, why, time.Since(begin))
		}
	})
}

// A device that can't be used from here is a fault that this node tells.
func TestDeviceFaults(t *testing.T) {
	n, e := fencer(t, goodAgent) // it does not describe itself
	e.s.FenceOperations = nil
	defer loop(n)()
	told := make(chan struct{}, 1)
	faults := make(chan []string, 1)
	n.post(func() {
		n.watchers[told] = true
		n.fencingOn()
	})
	select {
	case <-told:
	case <-time.After(20 * time.Second):
		t.Fatal("nothing is told")
	}
	n.post(func() { faults <- n.fencing.faults })
	if f := <-faults; len(f) != 1 || !strings.Contains(f[0], "fence device pdu") || !strings.Contains(f[0], "action metadata: it ended with status 1") {
		t.Errorf("faults %q", f)
	}
}

func TestTestFence(t *testing.T) {
	n, e := fencer(t, "metadata) echo '<resource-agent name=\"x\"><parameters><parameter name=\"plug\" required=\"1\"/></parameters><actions><action name=\"off\"/><action name=\"status\"/></actions></resource-agent>'; exit 0;;\nstatus) exit 0;;")
	target := e.s.Nodes["n2"]
	target.FenceLevels = append(target.FenceLevels, &v1.FenceLevel{Devices: []string{"nothing"}})
	tests := (&backend{n}).TestFence(t.Context(), target, e.s.Cluster.FenceDevices)
	if len(tests) != 2 || tests[0].Power != "on" || tests[0].Fault != "" || tests[1].Level != 2 || tests[1].Fault != "there is no device of that name" {
		t.Errorf("%v", tests)
	}
}
