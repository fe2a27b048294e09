package api

import (
	"context"
	"errors"
	"fmt"

	"connectrpc.com/connect"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
	"github.com/holdfast-ha/holdfast/internal/config"
	"github.com/holdfast-ha/holdfast/internal/group/agents"
)

// attempts of a change that names no base revision, when others change the
// configuration at the same moment.
const attempts = 5

// How far a change goes.
type howFar int

const (
	compare howFar = iota // only say what differs
	tryOut                // also ask whether it would be refused now
	commit
)

// change checks a new configuration made from the present one and has it
// committed in its place. Nothing is committed when nothing differs.
func (s *server) change(ctx context.Context, base uint64, far howFar, make func(*look) (*v1.Configuration, []config.Fault)) (*v1.ApplyResponse, error) {
	for attempt := 1; ; attempt++ {
		l, err := s.look(ctx)
		if err != nil {
			return nil, err
		}
		if base != 0 && base != l.GetConfigRevision() {
			return nil, fail(CodeStale, "look at the present one with: holdfast export, repeat your change on it, and apply that",
				"the change was made from revision %d of the configuration, and somebody has changed it since: it is at revision %d", base, l.GetConfigRevision())
		}
		cfg, faults := make(l)
		types := agents.Types()
		cfg = config.Complete(cfg, types)
		faults = append(faults, config.Check(cfg, types, agents.Check)...)
		faults = append(faults, typeFiles(state.Configuration(l.State), cfg)...)
		if len(faults) > 0 {
			return nil, badConfig(faults)
		}
		resp := &v1.ApplyResponse{
			Changes: config.Diff(state.Configuration(l.State), cfg), Notes: wireFaults(append(config.LintQuorum(cfg, len(l.GetWitness().GetPoints())), config.Lint(cfg, types)...)), ConfigRevision: l.GetConfigRevision(),
		}
		if far == compare || len(resp.Changes) == 0 {
			return resp, nil
		}
		c := &statepb.Command{Change: &statepb.Command_Configure{
			Configure: &statepb.Configure{BaseRevision: l.GetConfigRevision(), Configuration: cfg}}}
		if far == tryOut {
			return resp, tryOn(l.State, c)
		}
		err = s.submit(ctx, c)
		var refused *connect.Error
		if base == 0 && attempt < attempts && errors.As(err, &refused) && refused.Code() == connect.CodeAborted {
			continue
		}
		if err != nil {
			return nil, err
		}
		after, err := s.b.State(ctx)
		if err != nil {
			return nil, answered(err)
		}
		resp.ConfigRevision = after.GetConfigRevision()
		return resp, nil
	}
}

// tryOn applies a command to a copy.
func tryOn(s *statepb.State, c *statepb.Command) error {
	trial, err := state.Unmarshal(state.Marshal(s))
	if err != nil {
		return answered(err)
	}
	c.Format = state.Format
	if r := state.Apply(trial, c).Refused; r != nil {
		return answered(&Refusal{Code: r.Code, Message: r.Message})
	}
	return nil
}

func wireFaults(faults []config.Fault) (out []*v1.Fault) {
	for _, f := range faults {
		out = append(out, &v1.Fault{Path: f.Path, Problem: f.Problem, Fix: f.Fix, Note: f.Note})
	}
	return out
}

func badConfig(faults []config.Fault) error {
	what := fmt.Sprintf("the configuration has %s; nothing was changed", count(len(faults), "fault"))
	return failWith(&v1.ErrorDetail{Code: CodeBadConfig, Faults: wireFaults(faults)}, what)
}

type configServer struct{ *server }

func (s *configServer) Apply(ctx context.Context, req *connect.Request[v1.ApplyRequest]) (*connect.Response[v1.ApplyResponse], error) {
	m := req.Msg
	far := commit
	if m.GetDryRun() {
		far = tryOut
	}
	resp, err := s.change(ctx, m.GetBaseRevision(), far, func(l *look) (*v1.Configuration, []config.Fault) {
		return config.Merge(state.Configuration(l.State), m.GetDocuments(), m.GetPrune())
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(resp), nil
}

func (s *configServer) Diff(ctx context.Context, req *connect.Request[v1.DiffRequest]) (*connect.Response[v1.DiffResponse], error) {
	l, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	resp, err := s.change(ctx, 0, compare, func(l *look) (*v1.Configuration, []config.Fault) {
		return config.Merge(state.Configuration(l.State), req.Msg.GetDocuments(), req.Msg.GetPrune())
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.DiffResponse{Source: l.source(), Changes: resp.GetChanges(), Notes: resp.GetNotes(), ConfigRevision: resp.GetConfigRevision()}), nil
}

func (s *configServer) Export(ctx context.Context, _ *connect.Request[v1.ExportRequest]) (*connect.Response[v1.ExportResponse], error) {
	l, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.ExportResponse{Source: l.source(), Configuration: state.Configuration(l.State)}), nil
}

type typeServer struct{ *server }

func (s *typeServer) List(ctx context.Context, _ *connect.Request[v1.ListTypesRequest]) (*connect.Response[v1.ListTypesResponse], error) {
	l, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.ListTypesResponse{Source: l.source(), Types: sortedValues(l.GetTypes())}), nil
}

func (s *typeServer) Show(ctx context.Context, req *connect.Request[v1.ShowTypeRequest]) (*connect.Response[v1.ShowTypeResponse], error) {
	l, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	t := l.GetTypes()[req.Msg.GetType()]
	if t == nil {
		return nil, notFound("type", req.Msg.GetType(), l.GetTypes())
	}
	return connect.NewResponse(&v1.ShowTypeResponse{Source: l.source(), Type: t, EffectiveLimits: config.EffectiveLimits(t, nil)}), nil
}
