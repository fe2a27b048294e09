package api

import (
	"context"
	"fmt"
	"strings"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
	"github.com/holdfast-ha/holdfast/internal/config"
	"github.com/holdfast-ha/holdfast/internal/group/agents"
	"github.com/holdfast-ha/holdfast/internal/protoyaml"
)

// snapshotSchema is the first key of a snapshot (docs/formats/snapshot.md).
const snapshotSchema = "snapshot/1"

// Snapshot writes what a simulation needs of a state as YAML: no users, keys,
// invitations, certificates or parameters of fence devices, and nothing of the past.
func Snapshot(s *statepb.State) []byte {
	c := &statepb.State{
		Format: s.GetFormat(), Cluster: proto.CloneOf(s.GetCluster()), Nodes: s.GetNodes(), Types: s.GetTypes(), Groups: s.GetGroups(),
		ConfigRevision: s.GetConfigRevision(), View: s.GetView(), NextRaftId: s.GetNextRaftId(), NodeStatus: s.GetNodeStatus(), GroupStatus: brief(s.GetGroupStatus()),
		NextOperation: s.GetNextOperation(), NextIntent: s.GetNextIntent(), PlanRevision: s.GetPlanRevision(), ClockMs: s.GetClockMs(), Signals: s.GetSignals(),
	}
	for _, d := range c.GetCluster().GetFenceDevices() {
		d.Parameters = nil
	}
	if w := s.GetWitness(); w.GetVotes() {
		c.Witness = &statepb.Witness{Votes: true}
	}
	for _, op := range s.GetOperations() {
		if op.GetState() == v1.OperationState_OPERATION_STATE_RUNNING {
			c.Operations = append(c.Operations, op)
		}
	}
	return protoyaml.Options{First: []protoyaml.Pair{{Key: "schema", Value: snapshotSchema}}}.YAML(c)
}

// brief leaves out of the statuses of resources what no decision is made from:
// in a large cluster they are most of a snapshot.
func brief(all map[string]*statepb.GroupStatus) map[string]*statepb.GroupStatus {
	out := make(map[string]*statepb.GroupStatus, len(all))
	for name, gs := range all {
		gs = proto.CloneOf(gs)
		for _, on := range gs.GetNodes() {
			for _, st := range on.GetResources() {
				st.ChangedMs, st.Confidence, st.Info = 0, 0, nil
				if st.GetActivity() == v1.ResourceActivity_RESOURCE_ACTIVITY_NONE {
					st.Activity = v1.ResourceActivity_RESOURCE_ACTIVITY_UNSPECIFIED
				}
			}
		}
		out[name] = gs
	}
	return out
}

// FromSnapshot reads a snapshot, or a backup. What is wrong with it is told in
// one error.
func FromSnapshot(name string, raw []byte) (*statepb.State, error) {
	s, err := state.FromBackup(raw)
	if err != nil {
		if s, err = readSnapshot(name, raw); err != nil {
			return nil, err
		}
	}
	return s, checkSnapshot(name, s)
}

func readSnapshot(name string, raw []byte) (*statepb.State, error) {
	d := &protoyaml.Decoder{}
	docs := d.Split(name, raw)
	if len(docs) == 1 && docs[0].Field("schema") != snapshotSchema && len(d.Faults()) == 0 {
		return nil, fmt.Errorf("%s is neither a snapshot (its first key is not schema: %s) nor a backup", name, snapshotSchema)
	}
	c := &statepb.State{}
	if len(docs) == 1 {
		d.Decode(docs[0], c, protoyaml.Path{}, "schema")
	}
	switch faults := d.Faults(); {
	case len(faults) > 0:
		var lines []string
		for _, f := range faults {
			lines = append(lines, f.String())
		}
		return nil, fmt.Errorf("%s", strings.Join(lines, "\n"))
	case len(docs) != 1:
		return nil, fmt.Errorf("%s has %d documents: a snapshot is one", name, len(docs))
	}
	return state.Unmarshal(state.Marshal(c))
}

// checkSnapshot: somebody may have changed it, so it is looked at as closely as
// a configuration.
func checkSnapshot(name string, s *statepb.State) error {
	types := agents.Types()
	if faults := config.Check(config.Complete(state.Configuration(s), types), types, agents.Check); len(faults) > 0 {
		return fmt.Errorf("the configuration in %s has faults: %s", name, faults[0])
	}
	if len(s.GetView().GetMembers()) == 0 {
		return fmt.Errorf("%s has no members (view.members): a simulation begins with at least one", name)
	}
	seen := map[string]bool{}
	for _, m := range s.GetView().GetMembers() {
		if s.GetNodes()[m.GetNode()] == nil || seen[m.GetNode()] {
			return fmt.Errorf("%s: member %q (view.members) is no node, or named twice", name, m.GetNode())
		}
		seen[m.GetNode()] = true
	}
	for _, n := range state.SortedKeys(s.GetNodeStatus()) {
		if s.GetNodes()[n] == nil {
			return fmt.Errorf("%s: there is no node %q (nodeStatus)", name, n)
		}
	}
	for _, g := range state.SortedKeys(s.GetGroupStatus()) {
		if s.GetGroups()[g] == nil {
			return fmt.Errorf("%s: there is no group %q (groupStatus)", name, g)
		}
		for _, n := range state.SortedKeys(s.GetGroupStatus()[g].GetNodes()) {
			if s.GetNodes()[n] == nil {
				return fmt.Errorf("%s: there is no node %q (groupStatus.%s)", name, n, g)
			}
		}
	}
	return nil
}

// Started is a cluster that has just been started with a configuration: all
// nodes are members, and nothing runs yet. Faults are those of the configuration.
func Started(cfg *v1.Configuration) (*statepb.State, error) {
	cfg, err := merged(nil, cfg, false)
	if err != nil {
		return nil, err
	}
	s, err := state.Initial(cfg)
	if err != nil {
		return nil, fail(CodeBadConfig, "", "%v", err)
	}
	return s, nil
}

func (s *clusterServer) Snapshot(ctx context.Context, _ *connect.Request[v1.SnapshotRequest]) (*connect.Response[v1.SnapshotResponse], error) {
	l, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	text := Snapshot(l.State)
	if len(text) > protoyaml.MaxBytes {
		return nil, fail(CodeConflict, "holdfast cluster backup FILE writes one that simulations read, too",
			"this cluster is too large for a snapshot as text: it would have %d MiB", len(text)>>20)
	}
	return connect.NewResponse(&v1.SnapshotResponse{Source: l.source(), Snapshot: text}), nil
}
