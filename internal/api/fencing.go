package api

import (
	"context"
	"slices"
	"strings"

	"connectrpc.com/connect"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// FenceBackend is what a node does about fence devices.
type FenceBackend interface {
	// TestFence looks at the devices of a node from this one. Nothing is switched.
	TestFence(ctx context.Context, node *v1.Node, devices []*v1.FenceDevice) []*v1.FenceTest
}

type fenceServer struct{ *server }

func (s *fenceServer) List(ctx context.Context, _ *connect.Request[v1.ListFenceRequest]) (*connect.Response[v1.ListFenceResponse], error) {
	l, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	resp := &v1.ListFenceResponse{Source: l.source(), Devices: l.GetCluster().GetFenceDevices(), Faults: l.local.FenceFaults}
	for _, n := range sortedValues(l.GetNodes()) {
		resp.Nodes = append(resp.Nodes, &v1.FenceNodeInfo{
			Node: n.GetName(), Levels: n.GetFenceLevels(), RequiredBy: l.requirePower(n.GetName()), Waiting: state.Unproven(l.State, n.GetName()),
		})
	}
	return connect.NewResponse(resp), nil
}

// requirePower are the groups that may run on a node and that time does not suffice.
func (l *look) requirePower(node string) (groups []string) {
	for _, g := range sortedValues(l.GetGroups()) {
		if slices.Contains(g.GetSystemList(), node) && !state.Suffices(state.Requirement(g), statepb.Proof_PROOF_TIME) {
			groups = append(groups, g.GetName())
		}
	}
	return groups
}

func (s *fenceServer) History(ctx context.Context, req *connect.Request[v1.FenceHistoryRequest]) (*connect.Response[v1.FenceHistoryResponse], error) {
	l, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	resp := &v1.FenceHistoryResponse{Source: l.source()}
	for _, op := range slices.Backward(l.GetFenceOperations()) { // a node may have been removed since
		if req.Msg.GetNode() == "" || op.GetNode() == req.Msg.GetNode() {
			resp.Operations = append(resp.Operations, op)
		}
	}
	return connect.NewResponse(resp), nil
}

func (s *fenceServer) Test(ctx context.Context, req *connect.Request[v1.TestFenceRequest]) (*connect.Response[v1.TestFenceResponse], error) {
	l, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	n, err := l.node(req.Msg.GetNode())
	if err != nil {
		return nil, err
	}
	if len(n.GetFenceLevels()) == 0 {
		return nil, fail(CodeConflict, "write fenceLevels into its document and apply it (docs/fencing.md)", "%s has no fence levels: it can't be switched off", n.GetName())
	}
	return connect.NewResponse(&v1.TestFenceResponse{Source: l.source(), Tests: s.b.TestFence(ctx, n, l.GetCluster().GetFenceDevices())}), nil
}

func (s *fenceServer) ConfirmDown(ctx context.Context, req *connect.Request[v1.ConfirmDownRequest]) (*connect.Response[v1.ConfirmDownResponse], error) {
	l, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	name := req.Msg.GetNode()
	if _, err := l.node(name); err != nil {
		return nil, err
	}
	switch l.peer(name).GetState() {
	case guardpb.LinkState_LINK_STATE_UP, guardpb.LinkState_LINK_STATE_JEOPARDY, guardpb.LinkState_LINK_STATE_TROUBLE:
		return nil, fail(CodeConflict, "switch it off, or cut it off from everything that its groups write, and repeat", "%s is not down: %s hears it", name, l.local.Node)
	}
	by := "root"
	if audit, _ := ctx.Value(auditKey{}).(*statepb.Audit); audit.GetWho() != "" {
		by = audit.GetWho()
	}
	c := &statepb.ConfirmDown{Node: name, RaftId: l.GetNodeStatus()[name].GetFence().GetRaftId(), By: by}
	if err := s.submit(ctx, &statepb.Command{Change: &statepb.Command_ConfirmDown{ConfirmDown: c}}); err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.ConfirmDownResponse{}), nil
}

// fenceConditions are about nodes that may have to be switched off.
func (l *look) fenceConditions() (out []*v1.Condition) {
	warn := func(code, node, message string) {
		out = append(out, &v1.Condition{Code: code, Severity: v1.Severity_SEVERITY_WARNING, Node: node, Message: message})
	}
	for _, n := range sortedValues(l.GetNodes()) {
		name := n.GetName()
		if groups := l.requirePower(name); len(groups) > 0 && len(n.GetFenceLevels()) == 0 {
			warn("no-fence-levels", name, strings.Join(groups, ", ")+" may run on "+name+" and must know that a lost node is off, but nothing can switch "+name+" off: if it is lost they wait for holdfast node confirm-down "+name)
		}
		if len(state.Unproven(l.State, name)) == 0 {
			continue
		}
		if op, _ := state.FenceOf(l.State, name, l.GetNodeStatus()[name].GetFence().GetRaftId()); op.GetResult() == v1.FenceResult_FENCE_RESULT_LIED {
			warn("fence-lied", name, "fence agents say that "+name+" is off, but it is alive: look at the plugs of its devices")
		}
	}
	for _, fault := range l.local.FenceFaults {
		warn("fence-device", l.local.Node, fault)
	}
	return out
}
