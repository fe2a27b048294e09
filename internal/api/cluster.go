package api

import (
	"context"
	"slices"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/timers"
	"github.com/holdfast-ha/holdfast/internal/config"
)

type clusterServer struct{ *server }

func (s *clusterServer) Status(ctx context.Context, _ *connect.Request[v1.StatusRequest]) (*connect.Response[v1.StatusResponse], error) {
	l, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	resp := &v1.StatusResponse{
		Source: l.source(), Cluster: l.GetCluster().GetName(), Epoch: l.GetView().GetEpoch(), ConfigRevision: l.GetConfigRevision(),
		Nodes: l.nodeInfos(), Groups: l.groupInfos(), Failed: l.failed(),
	}
	resp.Conditions = l.conditions(resp.Nodes, resp.Groups)
	for _, op := range l.GetOperations() {
		if op.GetState() == v1.OperationState_OPERATION_STATE_RUNNING {
			resp.Operations = append(resp.Operations, op)
		}
	}
	resp.Health, resp.Verdict = l.judge(resp)
	return connect.NewResponse(resp), nil
}

func (l *look) seedNodes() uint32 { return config.SeedNodes(state.Configuration(l.State)) }

func (s *clusterServer) Show(ctx context.Context, _ *connect.Request[v1.ShowClusterRequest]) (*connect.Response[v1.ShowClusterResponse], error) {
	l, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	_, _, inact := timers.Effective(l.GetCluster().GetTimers())
	resp := &v1.ShowClusterResponse{
		Source: l.source(), Cluster: l.GetCluster(), EffectiveTimers: config.EffectiveTimers(l.GetCluster()), EffectiveSeedNodes: l.seedNodes(),
		EffectiveEngineDownLimit: durationpb.New(timers.EngineDownLimit(l.GetCluster())),
		Lease:                    durationpb.New(timers.Lease(inact)), Stop: durationpb.New(timers.Stop(inact)), Margin: durationpb.New(timers.Margin(inact)),
		Epoch: l.GetView().GetEpoch(), ConfigRevision: l.GetConfigRevision(), Tolerates: uint32(l.tolerance().atOnce),
	}
	for _, m := range l.GetView().GetMembers() {
		resp.Members = append(resp.Members, m.GetNode())
	}
	slices.Sort(resp.Members)
	return connect.NewResponse(resp), nil
}

func (s *clusterServer) Set(ctx context.Context, req *connect.Request[v1.SetClusterRequest]) (*connect.Response[v1.SetClusterResponse], error) {
	m := req.Msg
	preferred := m.GetPreferredFencing() != v1.PreferredFencing_PREFERRED_FENCING_UNSPECIFIED || m.PreferredSite != nil || m.PreferredFencingDelay != nil
	if m.Heartbeat == nil && m.Peertrouble == nil && m.Peerinact == nil && m.SeedNodes == nil && m.EngineDownLimit == nil && !preferred {
		return nil, fail(CodeBadRequest, "", "nothing to set: name heartbeat, peertrouble, peerinact, seed nodes, the engine-down limit, or what preferred fencing shall be")
	}
	out, err := s.change(ctx, m.GetBaseRevision(), commit, func(l *look) (*v1.Configuration, []config.Fault) {
		cfg := state.Configuration(l.State)
		c := cfg.Cluster
		if c.Timers == nil {
			c.Timers = &v1.Timers{}
		}
		set(&c.Timers.Heartbeat, m.Heartbeat)
		set(&c.Timers.Peertrouble, m.Peertrouble)
		set(&c.Timers.Peerinact, m.Peerinact)
		set(&c.EngineDownLimit, m.EngineDownLimit)
		if m.SeedNodes != nil {
			c.SeedNodes = m.GetSeedNodes()
		}
		setPreferred(c, m)
		if proto.Equal(c.Timers, &v1.Timers{}) {
			c.Timers = nil
		}
		return cfg, nil
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.SetClusterResponse{ConfigRevision: out.GetConfigRevision(), Changes: out.GetChanges(), Notes: out.GetNotes()}), nil
}

// setPreferred sets which side of a split should win.
func setPreferred(c *v1.Cluster, m *v1.SetClusterRequest) {
	if p := m.GetPreferredFencing(); p != v1.PreferredFencing_PREFERRED_FENCING_UNSPECIFIED {
		c.PreferredFencing = p
		if p == v1.PreferredFencing_PREFERRED_FENCING_NONE {
			c.PreferredFencing = v1.PreferredFencing_PREFERRED_FENCING_UNSPECIFIED
		}
	}
	if m.PreferredSite != nil {
		c.PreferredSite = m.GetPreferredSite()
	}
	if d := m.PreferredFencingDelay; d != nil {
		c.PreferredFencingDelay = d
		if d.AsDuration() < 0 {
			c.PreferredFencingDelay = nil
		}
	}
}

// set a setting, or with 0 take it back to its default.
func set(to **durationpb.Duration, v *durationpb.Duration) {
	switch {
	case v == nil:
	case v.AsDuration() == 0:
		*to = nil
	default:
		*to = v
	}
}
