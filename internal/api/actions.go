package api

import (
	"context"
	"slices"
	"strings"

	"connectrpc.com/connect"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/protoyaml"
)

func (s *resourceServer) Action(ctx context.Context, req *connect.Request[v1.ResourceActionRequest]) (*connect.Response[v1.ResourceActionResponse], error) {
	m := req.Msg
	g, r, l, err := s.one(ctx, m.GetGroup(), m.GetResource(), m.GetNode())
	if err != nil {
		return nil, err
	}
	if err := l.knowsAction(r, m.GetAction()); err != nil {
		return nil, err
	}
	node := m.GetNode()
	if node == "" {
		switch on := l.groupInfo(g).GetActiveOn(); len(on) {
		case 1:
			node = on[0]
		case 0:
			return nil, fail(CodeBadRequest, "name a node with --node", "group %s runs nowhere: say on which node %s of %s shall be run", g.GetName(), m.GetAction(), r.GetName())
		default:
			return nil, fail(CodeBadRequest, "name a node with --node", "group %s runs on %s: say on which node %s of %s shall be run",
				g.GetName(), strings.Join(on, ", "), m.GetAction(), r.GetName())
		}
	}
	op, err := s.operate(ctx, &v1.Operation{Kind: v1.OperationKind_OPERATION_KIND_RESOURCE_ACTION, Group: g.GetName(), Resource: r.GetName(), Node: node,
		Action: m.GetAction(), Arguments: m.GetArguments()})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.ResourceActionResponse{Operation: op}), nil
}

// knowsAction: only what a type says that it supports is run.
func (l *look) knowsAction(r *v1.Resource, action string) error {
	known := l.GetTypes()[r.GetType()].GetSupportedActions()
	switch {
	case action == "":
		return fail(CodeBadRequest, "holdfast type show "+r.GetType()+" lists those that it knows", "name an action")
	case slices.Contains(known, action):
		return nil
	case len(known) == 0:
		return fail(CodeConflict, "a type of scripts names its actions in supportedActions", "resource %s is of type %s, which knows no actions", r.GetName(), r.GetType())
	}
	return fail(CodeNotFound, protoyaml.DidYouMean(action, known, "actions"), "resource %s is of type %s, which knows no action %q", r.GetName(), r.GetType(), printable(action))
}
