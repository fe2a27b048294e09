package view

import (
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	pb "github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// retryFence is how long after an attempt that failed a node is tried to be switched off again.
const retryFence = 15 * time.Second

// abandoned ends an attempt whose member was lost while it ran the agents.
func abandoned(s *pb.State) *pb.Command {
	for _, op := range s.GetFenceOperations() {
		if op.GetResult() == v1.FenceResult_FENCE_RESULT_RUNNING && state.MemberOf(s, op.GetBy()).GetRaftId() != op.GetByRaftId() {
			return &pb.Command{Format: state.Format, Change: &pb.Command_FenceDone{FenceDone: &pb.FenceDone{
				Number: op.GetNumber(), Result: v1.FenceResult_FENCE_RESULT_FAILED, Message: op.GetBy() + ", which ran the agents, was lost",
			}}}
		}
	}
	return nil
}

// power returns what is due about switching an evicted node off. The leader
// itself runs the agents, if it may; after a failure other members take turns: a device
// may be out of reach of one of them.
func (k *Keeper) power(now time.Duration, s *pb.State, node string, sight Sight, sooner func(time.Duration)) *pb.Command {
	f := s.GetNodeStatus()[node].GetFence()
	op, before := state.FenceOf(s, node, f.GetRaftId())
	if !state.PowerWanted(s, node) {
		return nil
	}
	turn := 0
	if op != nil {
		turn = before + 1
		if _, seen := k.fenceEnded[op.GetNumber()]; !seen {
			k.fenceEnded[op.GetNumber()] = now
		}
		lost := state.MemberOf(s, op.GetBy()).GetRaftId() != op.GetByRaftId()
		if due := k.fenceEnded[op.GetNumber()] + retryFence; now < due && !lost {
			sooner(due)
			return nil
		}
	}
	var able []*pb.Member // the leader first
	for _, m := range s.GetView().GetMembers() {
		switch {
		case m.GetNode() == sight.Self:
			able = append([]*pb.Member{m}, able...)
		case sight.Heard(m.GetNode()) && s.GetNodeStatus()[m.GetNode()].GetPhase() == pb.NodePhase_NODE_PHASE_RUNNING:
			able = append(able, m)
		}
	}
	if len(able) == 0 {
		return nil
	}
	by := able[turn%len(able)]
	return &pb.Command{Format: state.Format, Change: &pb.Command_FenceStarted{FenceStarted: &pb.FenceStarted{
		Node: node, RaftId: f.GetRaftId(), By: by.GetNode(), ByRaftId: by.GetRaftId(),
	}}}
}
