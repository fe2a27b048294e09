package sim

import (
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	pb "github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
	"github.com/holdfast-ha/holdfast/internal/node/engine"
)

// Power fencing. Some groups of a run require it; agents take their time, fail,
// or say that a node is off that is heard all the same. Who is switched off starts again
// some time later, as a machine does whose board is told to.

// power sets what groups of a run require. It draws nothing.
func power(o Options, cfg *v1.Configuration) {
	if !o.Power {
		return
	}
	cfg.Cluster.FenceDevices = []*v1.FenceDevice{{Name: "pdu", Agent: "fence_sim", Plugs: map[string]string{}}}
	for _, n := range cfg.GetNodes() {
		cfg.Cluster.FenceDevices[0].Plugs[n.Name] = n.Name
		n.FenceLevels = []*v1.FenceLevel{{Devices: []string{"pdu"}}}
	}
	for i, g := range cfg.GetGroups() {
		if i%2 == 0 {
			g.Takeover = v1.Takeover_TAKEOVER_POWER
		}
	}
}

// fencing is what the driver does when the log asks this node to switch another off.
func (n *node) fencing() {
	s := n.engine.State()
	for _, op := range s.GetFenceOperations() {
		if op.GetResult() != v1.FenceResult_FENCE_RESULT_RUNNING || op.GetBy() != n.name || op.GetByRaftId() != n.engine.RaftID() || n.fenced[op.GetNumber()] {
			continue
		}
		n.fenced[op.GetNumber()] = true
		done := &pb.FenceDone{Number: op.GetNumber(), Result: v1.FenceResult_FENCE_RESULT_FAILED, Message: "the agent fails"}
		say := func() {
			n.step(engine.Propose{Command: &pb.Command{Change: &pb.Command_FenceDone{FenceDone: done}}})
		}
		if s.GetNodeStatus()[op.GetNode()].GetFence().GetRaftId() != op.GetRaftId() {
			n.proc.post(0, say)
			continue
		}
		n.proc.post(n.c.between(20*time.Millisecond, 3*time.Second), func() {
			target := n.c.byName[op.GetNode()]
			switch {
			case n.c.chance(0.15):
				n.c.count("fence.failed")
			case n.c.chance(0.1):
				done.Result = v1.FenceResult_FENCE_RESULT_LIED
				n.c.count("fence.lied")
			default:
				done.Result, done.Level = v1.FenceResult_FENCE_RESULT_OFF, 1
				n.c.count("fence.off")
				if target.up {
					n.tell("switches %s off", target.name)
					_ = target.crash()
					n.c.after(n.c.upTo(20*time.Second), func() { _ = target.boot() })
				}
			}
			n.proc.post(n.c.upTo(2*n.peerinact()), say) // it listens whether the node is heard
		})
	}
}

// requiresPower: no excuse counts for such a group, since a machine without power does not wake.
func (c *cluster) requiresPower(group string) bool {
	for _, g := range c.config.GetGroups() {
		if g.GetName() == group {
			return g.GetTakeover() == v1.Takeover_TAKEOVER_POWER
		}
	}
	return false
}
