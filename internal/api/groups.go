package api

import (
	"context"
	"slices"
	"strings"

	"connectrpc.com/connect"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
	"github.com/holdfast-ha/holdfast/internal/config"
)

type groupServer struct{ *server }

func (s *groupServer) List(ctx context.Context, _ *connect.Request[v1.ListGroupsRequest]) (*connect.Response[v1.ListGroupsResponse], error) {
	l, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.ListGroupsResponse{Source: l.source(), Groups: l.groupInfos()}), nil
}

func (s *groupServer) Show(ctx context.Context, req *connect.Request[v1.ShowGroupRequest]) (*connect.Response[v1.ShowGroupResponse], error) {
	l, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	g, err := l.group(req.Msg.GetGroup())
	if err != nil {
		return nil, err
	}
	resp := &v1.ShowGroupResponse{Source: l.source(), Group: l.groupInfo(g), Configuration: g}
	for _, r := range g.GetResources() {
		resp.Resources = append(resp.Resources, l.resourceInfo(g, r))
	}
	return connect.NewResponse(resp), nil
}

// begin checks the names of an operation on a group and starts it.
func (s *server) begin(ctx context.Context, op *v1.Operation) (*v1.Operation, error) {
	l, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	g, err := l.group(op.GetGroup())
	if err != nil {
		return nil, err
	}
	if err := l.anyNode(op.GetNode()); err != nil {
		return nil, err
	}
	if err := l.inSystemList(g, op.GetNode()); err != nil && op.GetKind() != v1.OperationKind_OPERATION_KIND_GROUP_OFFLINE {
		return nil, err
	}
	if op.GetKind() == v1.OperationKind_OPERATION_KIND_GROUP_SWITCH && g.GetParallel() && !g.GetHybrid() {
		return nil, fail(CodeConflict, "take one instance offline and another online: holdfast group offline "+g.GetName()+" --node NODE",
			"group %s is parallel: it runs on all of its nodes, so that there is nowhere to move it", g.GetName())
	}
	return s.operate(ctx, op)
}

func (l *look) inSystemList(g *v1.Group, node string) error {
	if node == "" || slices.Contains(g.GetSystemList(), node) {
		return nil
	}
	return fail(CodeConflict, "name one of them, or add the node to the system list with holdfast apply",
		"group %s may not run on %s: its system list is %s", g.GetName(), node, strings.Join(g.GetSystemList(), ", "))
}

func (s *groupServer) Online(ctx context.Context, req *connect.Request[v1.OnlineGroupRequest]) (*connect.Response[v1.OnlineGroupResponse], error) {
	m := req.Msg
	op, err := s.begin(ctx, &v1.Operation{Kind: v1.OperationKind_OPERATION_KIND_GROUP_ONLINE, Group: m.GetGroup(), Node: m.GetNode(), Propagate: m.GetPropagate()})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.OnlineGroupResponse{Operation: op}), nil
}

func (s *groupServer) Offline(ctx context.Context, req *connect.Request[v1.OfflineGroupRequest]) (*connect.Response[v1.OfflineGroupResponse], error) {
	m := req.Msg
	op, err := s.begin(ctx, &v1.Operation{Kind: v1.OperationKind_OPERATION_KIND_GROUP_OFFLINE, Group: m.GetGroup(), Node: m.GetNode(),
		Propagate: m.GetPropagate(), Force: m.GetForce()})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.OfflineGroupResponse{Operation: op}), nil
}

func (s *groupServer) Switch(ctx context.Context, req *connect.Request[v1.SwitchGroupRequest]) (*connect.Response[v1.SwitchGroupResponse], error) {
	m := req.Msg
	op, err := s.begin(ctx, &v1.Operation{Kind: v1.OperationKind_OPERATION_KIND_GROUP_SWITCH, Group: m.GetGroup(), Node: m.GetNode(), Propagate: m.GetPropagate()})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.SwitchGroupResponse{Operation: op}), nil
}

func (s *groupServer) Freeze(ctx context.Context, req *connect.Request[v1.FreezeGroupRequest]) (*connect.Response[v1.FreezeGroupResponse], error) {
	m := req.Msg
	if m.GetGroup() == "" {
		return nil, fail(CodeBadRequest, "", "name a group")
	}
	if err := s.freeze(ctx, &statepb.SetFrozen{Group: m.GetGroup()}, m); err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.FreezeGroupResponse{}), nil
}

func (s *groupServer) Unfreeze(ctx context.Context, req *connect.Request[v1.UnfreezeGroupRequest]) (*connect.Response[v1.UnfreezeGroupResponse], error) {
	if req.Msg.GetGroup() == "" {
		return nil, fail(CodeBadRequest, "", "name a group")
	}
	if err := s.unfreeze(ctx, &statepb.SetFrozen{Group: req.Msg.GetGroup()}); err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.UnfreezeGroupResponse{}), nil
}

func (s *groupServer) Clear(ctx context.Context, req *connect.Request[v1.ClearGroupRequest]) (*connect.Response[v1.ClearGroupResponse], error) {
	m := req.Msg
	if err := s.onGroup(ctx, m.GetGroup(), m.GetNode(), &statepb.Command{
		Change: &statepb.Command_Clear{Clear: &statepb.Clear{Group: m.GetGroup(), Node: m.GetNode()}}}); err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.ClearGroupResponse{}), nil
}

func (s *groupServer) Flush(ctx context.Context, req *connect.Request[v1.FlushGroupRequest]) (*connect.Response[v1.FlushGroupResponse], error) {
	m := req.Msg
	if err := s.mayFlush(ctx, m); err != nil {
		return nil, err
	}
	if err := s.onGroup(ctx, m.GetGroup(), m.GetNode(), &statepb.Command{
		Change: &statepb.Command_Flush{Flush: &statepb.Flush{Group: m.GetGroup(), Node: m.GetNode()}}}); err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.FlushGroupResponse{}), nil
}

// onGroup checks the names of a command and has it committed.
func (s *server) onGroup(ctx context.Context, group, node string, c *statepb.Command) error {
	l, err := s.look(ctx)
	if err != nil {
		return err
	}
	if _, err := l.group(group); err != nil {
		return err
	}
	if err := l.anyNode(node); err != nil {
		return err
	}
	return s.submit(ctx, c)
}

type resourceServer struct{ *server }

func (s *resourceServer) List(ctx context.Context, req *connect.Request[v1.ListResourcesRequest]) (*connect.Response[v1.ListResourcesResponse], error) {
	l, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	groups := sortedValues(l.GetGroups())
	if name := req.Msg.GetGroup(); name != "" {
		g, err := l.group(name)
		if err != nil {
			return nil, err
		}
		groups = []*v1.Group{g}
	}
	resp := &v1.ListResourcesResponse{Source: l.source()}
	for _, g := range groups {
		for _, r := range g.GetResources() {
			resp.Resources = append(resp.Resources, l.resourceInfo(g, r))
		}
	}
	return connect.NewResponse(resp), nil
}

func (s *resourceServer) Show(ctx context.Context, req *connect.Request[v1.ShowResourceRequest]) (*connect.Response[v1.ShowResourceResponse], error) {
	l, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	g, r, err := l.resource(req.Msg.GetGroup(), req.Msg.GetResource())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.ShowResourceResponse{
		Source: l.source(), Resource: l.resourceInfo(g, r), EffectiveLimits: config.EffectiveLimits(l.GetTypes()[r.GetType()], r)}), nil
}

// one finds the resource that a request names; node may be empty.
func (s *server) one(ctx context.Context, group, resource, node string) (*v1.Group, *v1.Resource, *look, error) {
	l, err := s.look(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	g, r, err := l.resource(group, resource)
	if err != nil {
		return nil, nil, nil, err
	}
	return g, r, l, l.anyNode(node)
}

func (s *server) beginResource(ctx context.Context, kind v1.OperationKind, group, resource, node string) (*v1.Operation, error) {
	g, r, l, err := s.one(ctx, group, resource, node)
	if err != nil {
		return nil, err
	}
	if l.operations(r) == v1.Operations_OPERATIONS_NONE {
		return nil, fail(CodeConflict, "", "resource %s is of type %s, which is only watched: it can't be brought online or offline", r.GetName(), r.GetType())
	}
	if err := l.inSystemList(g, node); err != nil {
		return nil, err
	}
	return s.operate(ctx, &v1.Operation{Kind: kind, Group: g.GetName(), Resource: r.GetName(), Node: node})
}

func (s *resourceServer) Online(ctx context.Context, req *connect.Request[v1.OnlineResourceRequest]) (*connect.Response[v1.OnlineResourceResponse], error) {
	m := req.Msg
	op, err := s.beginResource(ctx, v1.OperationKind_OPERATION_KIND_RESOURCE_ONLINE, m.GetGroup(), m.GetResource(), m.GetNode())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.OnlineResourceResponse{Operation: op}), nil
}

func (s *resourceServer) Offline(ctx context.Context, req *connect.Request[v1.OfflineResourceRequest]) (*connect.Response[v1.OfflineResourceResponse], error) {
	m := req.Msg
	op, err := s.beginResource(ctx, v1.OperationKind_OPERATION_KIND_RESOURCE_OFFLINE, m.GetGroup(), m.GetResource(), m.GetNode())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.OfflineResourceResponse{Operation: op}), nil
}

func (s *resourceServer) Probe(ctx context.Context, req *connect.Request[v1.ProbeResourceRequest]) (*connect.Response[v1.ProbeResourceResponse], error) {
	m := req.Msg
	g, r, _, err := s.one(ctx, m.GetGroup(), m.GetResource(), m.GetNode())
	if err != nil {
		return nil, err
	}
	if err := s.submit(ctx, &statepb.Command{Change: &statepb.Command_Probe{
		Probe: &statepb.Probe{Group: g.GetName(), Resource: r.GetName(), Node: m.GetNode()}}}); err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.ProbeResourceResponse{}), nil
}

func (s *resourceServer) Clear(ctx context.Context, req *connect.Request[v1.ClearResourceRequest]) (*connect.Response[v1.ClearResourceResponse], error) {
	m := req.Msg
	g, r, _, err := s.one(ctx, m.GetGroup(), m.GetResource(), m.GetNode())
	if err != nil {
		return nil, err
	}
	if err := s.submit(ctx, &statepb.Command{Change: &statepb.Command_Clear{
		Clear: &statepb.Clear{Group: g.GetName(), Resource: r.GetName(), Node: m.GetNode()}}}); err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.ClearResourceResponse{}), nil
}
