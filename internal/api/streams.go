package api

import (
	"context"
	"errors"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/group/planner"
)

type eventServer struct{ *server }

// wanted events of the log, oldest first.
func (l *look) wanted(f *v1.ListEventsRequest) (out []*v1.Event) {
	for _, e := range l.GetEvents() {
		if e.GetNumber() > f.GetAfter() && e.GetTimeMs() >= f.GetSinceMs() && e.GetSeverity() >= f.GetAtLeast() &&
			(f.GetGroup() == "" || e.GetGroup() == f.GetGroup()) && (f.GetNode() == "" || e.GetNode() == f.GetNode()) {
			out = append(out, e)
		}
	}
	if n := int(f.GetLimit()); n > 0 && len(out) > n {
		out = out[len(out)-n:]
	}
	return out
}

func (s *eventServer) List(ctx context.Context, req *connect.Request[v1.ListEventsRequest]) (*connect.Response[v1.ListEventsResponse], error) {
	l, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.ListEventsResponse{Source: l.source(), Events: l.wanted(req.Msg)}), nil
}

func (s *eventServer) Follow(ctx context.Context, req *connect.Request[v1.FollowEventsRequest], out *connect.ServerStream[v1.FollowEventsResponse]) error {
	filter := &v1.ListEventsRequest{}
	if req.Msg.GetFilter() != nil {
		filter = proto.CloneOf(req.Msg.GetFilter())
	}
	first := true
	return s.follow(ctx, func(l *look) (bool, error) {
		msg := &v1.FollowEventsResponse{Events: l.wanted(filter)}
		if all := l.GetEvents(); len(all) > 0 {
			if oldest := all[0].GetNumber(); !first && oldest > filter.GetAfter()+1 {
				msg.Missed = oldest - filter.GetAfter() - 1
			}
			filter.After = max(filter.GetAfter(), all[len(all)-1].GetNumber())
		}
		// The first message is sent even without an event: it opens the stream.
		empty := len(msg.Events) == 0 && msg.Missed == 0 && !first
		filter.Limit, first = 0, false
		if empty {
			return false, nil
		}
		return false, out.Send(msg)
	})
}

// follow calls see with each new state until it says done or ctx ends.
func (s *server) follow(ctx context.Context, see func(*look) (done bool, err error)) error {
	ticks, err := s.b.Watch(ctx)
	if err != nil {
		return answered(err)
	}
	for {
		l, err := s.look(ctx)
		if err != nil {
			return err
		}
		if done, err := see(l); done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ended(ctx)
		case _, ok := <-ticks:
			if !ok {
				return ended(ctx)
			}
		}
	}
}

// ended tells a stream's end by its caller's limit from one without a reason.
func ended(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return connect.NewError(connect.CodeDeadlineExceeded, ctx.Err())
	}
	return nil
}

type operationServer struct{ *server }

func (l *look) operation(id uint64) (*v1.Operation, error) {
	for _, op := range l.GetOperations() {
		if op.GetId() == id {
			return op, nil
		}
	}
	if id > 0 && id <= l.GetNextOperation() {
		return nil, fail(CodeNotFound, "", "operation %d ended long ago and is forgotten", id)
	}
	return nil, fail(CodeNotFound, "holdfast status lists those that run", "there is no operation %d", id)
}

func (s *operationServer) Get(ctx context.Context, req *connect.Request[v1.GetOperationRequest]) (*connect.Response[v1.GetOperationResponse], error) {
	l, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	op, err := l.operation(req.Msg.GetId())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.GetOperationResponse{Source: l.source(), Operation: op, Progress: l.progress(op)}), nil
}

func (s *operationServer) Watch(ctx context.Context, req *connect.Request[v1.WatchOperationRequest], out *connect.ServerStream[v1.WatchOperationResponse]) error {
	var last *v1.WatchOperationResponse
	return s.follow(ctx, func(l *look) (bool, error) {
		op, err := l.operation(req.Msg.GetId())
		if err != nil {
			return true, err
		}
		msg := &v1.WatchOperationResponse{Operation: op, Progress: l.progress(op)}
		done := op.GetState() != v1.OperationState_OPERATION_STATE_RUNNING
		if done {
			msg.Progress = op.GetMessage()
		}
		if proto.Equal(msg, last) {
			return false, nil
		}
		last = msg
		return done, out.Send(msg)
	})
}

type explainServer struct {
	*server
	v1.UnimplementedExplainServiceHandler
}

// env is what the planner knows beyond the state.
func (s *server) env(l *look) planner.Env {
	return planner.Env{Seeded: l.local.Peers.GetSeeded(), ClockMs: l.State.GetClockMs(), NowMs: s.now().UnixMilli()}
}

func (s *explainServer) Group(ctx context.Context, req *connect.Request[v1.ExplainGroupRequest]) (*connect.Response[v1.ExplainGroupResponse], error) {
	l, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	g, err := l.group(req.Msg.GetGroup())
	if err != nil {
		return nil, err
	}
	resp := planner.Explain(l.State, s.env(l), g.GetName())
	resp.Source = l.source()
	return connect.NewResponse(resp), nil
}

type simulateServer struct{ *server }

// maxSteps of one simulation.
const maxSteps = 100

func (s *simulateServer) Simulate(ctx context.Context, req *connect.Request[v1.SimulateRequest]) (*connect.Response[v1.SimulateResponse], error) {
	l, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	steps := req.Msg.GetSteps()
	if len(steps) == 0 || len(steps) > maxSteps {
		return nil, fail(CodeBadRequest, "", "a simulation has 1 to %d steps, not %d", maxSteps, len(steps))
	}
	for _, st := range steps {
		if err := l.checkStep(st); err != nil {
			return nil, err
		}
	}
	resp := planner.Simulate(l.State, s.env(l), req.Msg)
	resp.Source = l.source()
	return connect.NewResponse(resp), nil
}

// checkStep checks the names in a step.
func (l *look) checkStep(st *v1.SimulateStep) error {
	onGroup := func(g *v1.GroupOnNodeName) error {
		if _, err := l.group(g.GetGroup()); err != nil {
			return err
		}
		return l.anyNode(g.GetNode())
	}
	node := func(name string) error {
		_, err := l.node(name)
		return err
	}
	switch x := st.GetStep().(type) {
	case *v1.SimulateStep_FailNodes:
		if len(x.FailNodes.GetNodes()) == 0 {
			return fail(CodeBadRequest, "", "name the nodes that fail")
		}
		for _, n := range x.FailNodes.GetNodes() {
			if err := node(n); err != nil {
				return err
			}
		}
		return nil
	case *v1.SimulateStep_Online:
		return onGroup(x.Online)
	case *v1.SimulateStep_Offline:
		return onGroup(x.Offline)
	case *v1.SimulateStep_Switch:
		return onGroup(x.Switch)
	case *v1.SimulateStep_Clear:
		return onGroup(x.Clear)
	case *v1.SimulateStep_Fault:
		g, _, err := l.resource(x.Fault.GetGroup(), x.Fault.GetResource())
		if err != nil {
			return err
		}
		x.Fault.Group = g.GetName()
		return l.anyNode(x.Fault.GetNode())
	case *v1.SimulateStep_JoinNode:
		return node(x.JoinNode)
	case *v1.SimulateStep_StopNode:
		return node(x.StopNode.GetNode())
	case *v1.SimulateStep_Freeze:
		if x.Freeze.GetGroup() != "" {
			return onGroup(&v1.GroupOnNodeName{Group: x.Freeze.GetGroup()})
		}
		return node(x.Freeze.GetNode())
	}
	return fail(CodeBadRequest, "", "a step is empty, or of a newer version")
}
