package api

import (
	"context"
	"net/http"
	"time"

	"connectrpc.com/connect"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
	"github.com/holdfast-ha/holdfast/internal/protoyaml"
)

const (
	// MaxRequest bounds a request; a configuration of the largest size fits.
	MaxRequest = 32 << 20
	// submitFor is how long a change may take to be committed when its caller
	// sets no shorter limit.
	submitFor = 15 * time.Second
)

// NewHandler serves all services for b. who says who makes a request; the
// listeners have proved it.
func NewHandler(b Backend, who func(*http.Request) Caller) http.Handler {
	return NewHandlerAt(b, who, time.Now)
}

// NewHandlerAt is NewHandler with a clock.
func NewHandlerAt(b Backend, who func(*http.Request) Caller, now func() time.Time) http.Handler {
	s := &server{b: b, now: now}
	mux := http.NewServeMux()
	opts := []connect.HandlerOption{connect.WithReadMaxBytes(MaxRequest), connect.WithRecover(recovered), connect.WithInterceptors(&access{s: s})}
	mux.Handle(v1.NewClusterServiceHandler(&clusterServer{s}, opts...))
	mux.Handle(v1.NewUserServiceHandler(&userServer{s}, opts...))
	mux.Handle(v1.NewNodeServiceHandler(&nodeServer{s}, opts...))
	mux.Handle(v1.NewLinkServiceHandler(&linkServer{s}, opts...))
	mux.Handle(v1.NewQuorumServiceHandler(&quorumServer{s}, opts...))
	mux.Handle(v1.NewFenceServiceHandler(&fenceServer{s}, opts...))
	mux.Handle(v1.NewGroupServiceHandler(&groupServer{s}, opts...))
	mux.Handle(v1.NewResourceServiceHandler(&resourceServer{s}, opts...))
	mux.Handle(v1.NewSignalServiceHandler(&signalServer{s}, opts...))
	mux.Handle(v1.NewTypeServiceHandler(&typeServer{s}, opts...))
	mux.Handle(v1.NewConfigServiceHandler(&configServer{s}, opts...))
	mux.Handle(v1.NewEventServiceHandler(&eventServer{s}, opts...))
	mux.Handle(v1.NewNotifierServiceHandler(&notifierServer{s}, opts...))
	mux.Handle(v1.NewExplainServiceHandler(&explainServer{s}, opts...))
	mux.Handle(v1.NewSimulateServiceHandler(&simulateServer{s}, opts...))
	mux.Handle(v1.NewOperationServiceHandler(&operationServer{s}, opts...))
	return withCaller(who, mux)
}

func recovered(_ context.Context, spec connect.Spec, _ http.Header, r any) error {
	return fail(CodeInternal, "", "%s: %v", spec.Procedure, r)
}

type server struct {
	b   Backend
	now func() time.Time
}

// look is one consistent view for the answer to a read.
type look struct {
	*statepb.State
	local *Local
	// now, by the clock of this node.
	now time.Time
	// loads of all nodes, once somebody has asked.
	loads map[string][]*v1.LoadInfo
}

func (s *server) look(ctx context.Context) (*look, error) {
	st, err := s.b.State(ctx)
	if err != nil {
		return nil, answered(err)
	}
	local, err := s.b.Local(ctx)
	if err != nil {
		return nil, answered(err)
	}
	return &look{State: st, local: local, now: s.now()}, nil
}

// quorum says whether what this node has applied is how things are (S3).
func (l *look) quorum() bool { return l.local.Lease.Held && l.local.Leader != "" }

func (l *look) source() *v1.Source {
	src := &v1.Source{
		Node: l.local.Node, AppliedIndex: l.local.AppliedIndex, Quorum: l.quorum(), Leader: l.local.Leader, Version: l.local.Version,
	}
	if !src.Quorum {
		src.Note = "no quorum: this is what " + l.local.Node + " last knew"
		if l.local.Lease.Held {
			src.Note = "no leader at the moment: this is what " + l.local.Node + " last knew"
		}
	}
	return src
}

func noQuorum(local *Local) error {
	why := ""
	if local.Lease.Reason != "" {
		why = ": " + local.Lease.Reason
	}
	return fail(CodeNoQuorum, "holdfast link list shows who is missing; or ask a node of the other side", "no quorum: %s can't change anything now%s", local.Node, why)
}

// submit has a command committed (S1).
func (s *server) submit(ctx context.Context, c *statepb.Command) error {
	local, err := s.b.Local(ctx)
	if err != nil {
		return answered(err)
	}
	if !local.Lease.Held {
		return noQuorum(local)
	}
	ctx, cancel := context.WithTimeout(ctx, submitFor)
	defer cancel()
	c.TimeMs = s.now().UnixMilli()
	c.Audit, _ = ctx.Value(auditKey{}).(*statepb.Audit)
	return answered(s.b.Submit(ctx, c))
}

// operate starts an operation and returns it with its number.
func (s *server) operate(ctx context.Context, op *v1.Operation) (*v1.Operation, error) {
	before, err := s.b.State(ctx)
	if err != nil {
		return nil, answered(err)
	}
	c := &statepb.Command{Change: &statepb.Command_Operate{Operate: &statepb.Operate{Operation: op}}}
	if err := s.submit(ctx, c); err != nil {
		return nil, err
	}
	after, err := s.b.State(ctx)
	if err != nil {
		return nil, answered(err)
	}
	// Of several like it, begun at the same moment, any one will do.
	var mine *v1.Operation
	for _, o := range after.GetOperations() {
		if o.GetId() > before.GetNextOperation() && o.GetKind() == op.GetKind() && o.GetGroup() == op.GetGroup() &&
			o.GetResource() == op.GetResource() && o.GetNode() == op.GetNode() {
			mine = o
		}
	}
	if mine == nil {
		return nil, fail(CodeInternal, "holdfast status shows whether it runs", "the operation was committed, but is not in the log of operations")
	}
	return mine, nil
}

// notFound says that a name does not exist, and which one was perhaps meant.
func notFound[V any](what, name string, all map[string]V) error {
	var names []string
	for n := range all {
		names = append(names, n)
	}
	return fail(CodeNotFound, protoyaml.DidYouMean(name, names, what+"s"), "there is no %s %q", what, name)
}

func (l *look) node(name string) (*v1.Node, error) {
	if n := l.GetNodes()[name]; n != nil {
		return n, nil
	}
	return nil, notFound("node", name, l.GetNodes())
}

// anyNode is like node, but the name may be empty.
func (l *look) anyNode(name string) error {
	if name == "" {
		return nil
	}
	_, err := l.node(name)
	return err
}

func (l *look) group(name string) (*v1.Group, error) {
	if g := l.GetGroups()[name]; g != nil {
		return g, nil
	}
	return nil, notFound("group", name, l.GetGroups())
}

// resource finds a resource; the group may be left out.
func (l *look) resource(group, name string) (*v1.Group, *v1.Resource, error) {
	all := map[string]bool{}
	for _, g := range sortedValues(l.GetGroups()) {
		if group != "" && g.GetName() != group {
			continue
		}
		for _, r := range g.GetResources() {
			if r.GetName() == name {
				return g, r, nil
			}
			all[r.GetName()] = true
		}
	}
	if group != "" {
		if _, err := l.group(group); err != nil {
			return nil, nil, err
		}
	}
	return nil, nil, notFound("resource", name, all)
}
