package api

import (
	"context"
	"errors"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

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
	return nil, fail(CodeNotFound, "holdfast operation list --all lists those that are kept", "there is no operation %d", id)
}

func (s *operationServer) List(ctx context.Context, req *connect.Request[v1.ListOperationsRequest]) (*connect.Response[v1.ListOperationsResponse], error) {
	l, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	resp := &v1.ListOperationsResponse{Source: l.source()}
	for _, op := range l.GetOperations() {
		if req.Msg.GetAll() || op.GetState() == v1.OperationState_OPERATION_STATE_RUNNING {
			resp.Operations = append(resp.Operations, op)
		}
	}
	return connect.NewResponse(resp), nil
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
