package state

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	pb "github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// A backup is a line that says so, SHA-256 of what follows, and a State
// without its past (docs/formats/state.md). It holds no keys.
const backupHeader = "holdfast-backup-1\n"

// ErrBackup: what was read is no backup, or a damaged one.
var ErrBackup = errors.New("this is no backup of a cluster")

// Backup of what a cluster is: configuration, intents, users.
func Backup(s *pb.State) []byte {
	b := proto.CloneOf(s)
	b.Invitations, b.Requests, b.Standings, b.Events, b.Decisions, b.Operations, b.Triggers = nil, nil, nil, nil, nil, nil, nil
	raw := Marshal(b)
	sum := sha256.Sum256(raw)
	return append(append([]byte(backupHeader), sum[:]...), raw...)
}

// FromBackup reads one.
func FromBackup(raw []byte) (*pb.State, error) {
	rest, ok := bytes.CutPrefix(raw, []byte(backupHeader))
	if !ok || len(rest) < sha256.Size {
		return nil, fmt.Errorf("%w: it does not begin with %q", ErrBackup, backupHeader[:len(backupHeader)-1])
	}
	if sum := sha256.Sum256(rest[sha256.Size:]); !bytes.Equal(sum[:], rest[:sha256.Size]) {
		return nil, fmt.Errorf("%w: it is damaged or cut off", ErrBackup)
	}
	return Unmarshal(rest[sha256.Size:])
}

// Anew is the state with which one node begins a new lineage from what is left
// of a cluster: it is the only member, by a raft id that was never used, nothing
// is known to run anywhere, and what the administrators wanted is kept.
func Anew(s *pb.State, node, lineage string) (*pb.State, error) {
	if s.GetNodes()[node] == nil {
		return nil, fmt.Errorf("the cluster has no node %s", node)
	}
	n := Clone(s)
	n.Lineage = lineage
	n.NextRaftId = max(n.NextRaftId, 1)
	// The epoch leaps, so that no view of the old lineage can have the same one.
	n.View = &pb.View{Epoch: n.View.GetEpoch() + 1<<20, Members: []*pb.Member{{Node: node, RaftId: n.NextRaftId}}}
	n.NextRaftId++
	n.Learners, n.Standings, n.Requests, n.Invitations, n.StartedBy = map[string]*pb.Member{}, nil, map[string]*pb.Requests{}, nil, nil
	n.Witness = nil  // its register belongs to the old lineage
	n.Triggers = nil // nobody is left who waits for them
	for _, name := range SortedKeys(n.Nodes) {
		number := n.NodeStatus[name].GetNumber()
		n.NodeStatus[name] = &pb.NodeStatus{Phase: pb.NodePhase_NODE_PHASE_DOWN, Number: number}
		if name != node { // they rejoin as new machines
			n.Certificates = refusedFrom(n.Certificates, name)
		}
	}
	n.NodeStatus[node].Phase = pb.NodePhase_NODE_PHASE_RUNNING
	for _, name := range SortedKeys(n.Groups) {
		old := n.GroupStatus[name]
		n.GroupStatus[name] = &pb.GroupStatus{SwitchingOff: old.GetSwitchingOff(), Freeze: old.GetFreeze(), Disabled: old.GetDisabled(), Instances: map[string]*pb.Instance{}}
		for key, b := range old.GetInstances() {
			n.GroupStatus[name].Instances[key] = &pb.Instance{
				HeldOffline: b.GetHeldOffline(), AutoStarted: b.GetHeldOffline(), LastOnline: b.GetLastOnline(),
			}
		}
	}
	for _, op := range n.Operations {
		if op.GetState() == v1.OperationState_OPERATION_STATE_RUNNING {
			op.State, op.Message = v1.OperationState_OPERATION_STATE_FAILED, "the quorum was given up meanwhile"
		}
	}
	n.PlanRevision++
	n.ConfigRevision++
	fitGroupStatus(n)
	return n, nil
}

func refusedFrom(all map[string]uint64, node string) map[string]uint64 {
	if all == nil {
		all = map[string]uint64{}
	}
	all[CertificateOf(node)]++
	return all
}
