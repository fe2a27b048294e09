//go:build linux

package clusterd

import (
	"context"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/fence"
	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
	"github.com/holdfast-ha/holdfast/internal/node/engine"
)

const (
	// checkDevices is how often this node looks whether it could use the fence devices.
	checkDevices = 5 * time.Minute
	// listenEvery is how often guard is asked whether a node is heard that should be off.
	listenEvery = 50 * time.Millisecond
	// testLimit bounds all devices of a test together; each has its own limit too.
	testLimit = 25 * time.Second
)

// fencing is what this node does about switching others off: it runs the agents
// when the log says that it shall, and says what came of it.
type fencing struct {
	runner *fence.Runner
	// Operations that this run of clusterd has begun.
	begun map[uint64]bool
	// Devices that are configured, as they were looked at last.
	devices  []*v1.FenceDevice
	faults   []string
	checking bool
	checkAt  time.Duration
}

// fencingOn follows the applied state.
func (n *node) fencingOn() {
	s := n.engine.State()
	if s == nil || n.ending != "" {
		return
	}
	f := &n.fencing
	if f.runner == nil {
		f.runner, f.begun = &fence.Runner{}, map[uint64]bool{}
	}
	own := state.MemberOf(s, n.id.Node).GetRaftId()
	for _, op := range s.GetFenceOperations() {
		mine := op.GetResult() == v1.FenceResult_FENCE_RESULT_RUNNING && op.GetBy() == n.id.Node && op.GetByRaftId() == own
		if !mine {
			delete(f.begun, op.GetNumber())
		} else if !f.begun[op.GetNumber()] {
			// One that an earlier run of clusterd has begun is done again: off is off.
			f.begun[op.GetNumber()] = true
			if s.GetNodeStatus()[op.GetNode()].GetFence().GetRaftId() != op.GetRaftId() {
				n.fenceDone(&statepb.FenceDone{Number: op.GetNumber(), Result: v1.FenceResult_FENCE_RESULT_FAILED, Message: "it is not needed any more"})
				continue
			}
			n.switchOff(op.GetNumber(), proto.CloneOf(s.GetNodes()[op.GetNode()]), s)
		}
	}
	same := slices.EqualFunc(f.devices, s.GetCluster().GetFenceDevices(), func(a, b *v1.FenceDevice) bool { return proto.Equal(a, b) })
	if !same || len(f.devices) > 0 && n.now() >= f.checkAt {
		n.checkDevices(s.GetCluster().GetFenceDevices())
	}
}

func cloneDevices(devices []*v1.FenceDevice) (out []*v1.FenceDevice) {
	for _, d := range devices {
		out = append(out, proto.CloneOf(d))
	}
	return out
}

// switchOff runs the agents of a node. Its configuration may be gone: that is a failure like others.
func (n *node) switchOff(number uint64, target *v1.Node, s *statepb.State) {
	runner, peerinact := n.fencing.runner, state.Peerinact(s)
	q := fence.Request{
		Node: target, Devices: cloneDevices(s.GetCluster().GetFenceDevices()),
		Alive: func(ctx context.Context) (string, bool) { return n.heardAfter(ctx, target.GetName(), peerinact) },
		Tell:  func(step string) { n.log.Warn("switching a node off", "node", target.GetName(), "step", step) },
	}
	n.background(func() {
		ctx, cancel := n.whileRunning()
		defer cancel()
		out := runner.Fence(ctx, q)
		if ctx.Err() != nil {
			return // the next run of clusterd begins again
		}
		done := &statepb.FenceDone{Number: number, Result: v1.FenceResult_FENCE_RESULT_FAILED, Level: uint32(out.Level), Message: out.Message}
		switch {
		case out.Off:
			done.Result = v1.FenceResult_FENCE_RESULT_OFF
		case out.Lied:
			done.Result = v1.FenceResult_FENCE_RESULT_LIED
		}
		n.post(func() { n.fenceDone(done) })
	})
}

// fenceDone is proposed as soon as the engine's present turn is over.
func (n *node) fenceDone(done *statepb.FenceDone) {
	n.local = append(n.local, engine.Propose{Command: &statepb.Command{Change: &statepb.Command_FenceDone{FenceDone: done}}})
}

// whileRunning is a context that ends with this node.
func (n *node) whileRunning() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		select {
		case <-n.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// heardAfter says whether guard goes on hearing a node that should be off. A
// machine without power is silent at once: guard says so when its last heartbeat is peerinact old.
func (n *node) heardAfter(ctx context.Context, node string, peerinact time.Duration) (string, bool) {
	limit := time.NewTimer(2*peerinact + time.Second)
	defer limit.Stop()
	again := time.NewTicker(listenEvery)
	defer again.Stop()
	for {
		heard := make(chan bool, 1)
		if !n.post(func() { heard <- n.hears(node) }) {
			return "", false
		}
		select {
		case h := <-heard:
			if !h {
				return "", false
			}
		case <-ctx.Done():
			return "", false
		case <-n.done:
			return "", false
		}
		select {
		case <-limit.C:
			return "its heartbeats still arrive at " + n.id.Node, true
		case <-again.C:
		case <-ctx.Done():
			return "", false
		}
	}
}

func (n *node) hears(node string) bool {
	for _, p := range n.guard.peers.GetPeers() {
		if p.GetNode() == node {
			switch p.GetState() {
			case guardpb.LinkState_LINK_STATE_UP, guardpb.LinkState_LINK_STATE_JEOPARDY, guardpb.LinkState_LINK_STATE_TROUBLE:
				return true
			}
		}
	}
	return false
}

// checkDevices looks whether this node could use the devices.
func (n *node) checkDevices(devices []*v1.FenceDevice) {
	f := &n.fencing
	if f.checking {
		return
	}
	f.devices, f.checkAt = cloneDevices(devices), n.now()+checkDevices
	if len(f.devices) == 0 {
		f.faults = nil
		return
	}
	f.checking = true
	runner, all := f.runner, f.devices
	n.lifeAgain(checkDevices)
	n.background(func() {
		ctx, cancel := n.whileRunning()
		defer cancel()
		var faults []string
		for _, d := range all {
			if err := runner.Validate(ctx, d); err != nil {
				faults = append(faults, strings.Split(err.Error(), "\n")...)
			}
		}
		n.post(func() {
			n.fencing.checking, n.fencing.faults = false, faults
			for _, text := range faults {
				n.log.Warn("a fence device can't be used from here", "fault", text)
			}
			n.notify()
			n.fencingOn() // they may have changed meanwhile
		})
	})
}

// TestFence implements api.Backend.
func (b *backend) TestFence(ctx context.Context, target *v1.Node, devices []*v1.FenceDevice) []*v1.FenceTest {
	ctx, cancel := context.WithTimeout(ctx, testLimit)
	defer cancel()
	runner := &fence.Runner{}
	var tests []*v1.FenceTest
	for i, level := range target.GetFenceLevels() {
		for _, name := range level.GetDevices() {
			t := &v1.FenceTest{Level: uint32(i + 1), Device: name, Power: fence.PowerUnknown.String()}
			tests = append(tests, t)
			at := slices.IndexFunc(devices, func(d *v1.FenceDevice) bool { return d.GetName() == name })
			if at < 0 {
				t.Fault = "there is no device of that name"
				continue
			}
			d := devices[at]
			t.Agent = d.GetAgent()
			if _, ok := d.GetPlugs()[target.GetName()]; !ok {
				t.Fault = "it has no plug for node " + target.GetName()
				continue
			}
			err := runner.Validate(ctx, d)
			if err == nil {
				var power fence.Power
				power, err = runner.Status(ctx, d, target.GetName())
				t.Power = power.String()
			}
			if err != nil {
				t.Fault = strings.ReplaceAll(err.Error(), "\n", "; ")
			}
		}
	}
	return tests
}
