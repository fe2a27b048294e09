package api

import (
	"context"
	"errors"
	"time"

	"connectrpc.com/connect"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
	"github.com/holdfast-ha/holdfast/internal/config"
	"github.com/holdfast-ha/holdfast/internal/group/agents"
	"github.com/holdfast-ha/holdfast/internal/group/planner"
)

type simulateServer struct{ *server }

// maxSteps of one simulation.
const maxSteps = 100

func (s *simulateServer) Simulate(ctx context.Context, req *connect.Request[v1.SimulateRequest]) (*connect.Response[v1.SimulateResponse], error) {
	l, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	resp, err := simulate(l, s.env(l), req.Msg)
	if err != nil {
		return nil, err
	}
	resp.Source = l.source()
	return connect.NewResponse(resp), nil
}

// Simulate answers a request about a state that nobody serves: a snapshot, or a
// configuration that is not in use. Errors are as those of calls.
func Simulate(s *statepb.State, now time.Time, req *v1.SimulateRequest) (*v1.SimulateResponse, error) {
	l := &look{State: s, local: &Local{}, now: now}
	return simulate(l, planner.Env{Seeded: true, ClockMs: s.GetClockMs(), NowMs: now.UnixMilli()}, req)
}

func simulate(l *look, env planner.Env, req *v1.SimulateRequest) (*v1.SimulateResponse, error) {
	steps := req.GetSteps()
	if len(steps) == 0 || len(steps) > maxSteps {
		return nil, fail(CodeBadRequest, "", "a simulation has 1 to %d steps, not %d", maxSteps, len(steps))
	}
	names := l
	for _, st := range steps {
		if err := names.checkStep(st); err != nil {
			return nil, err
		}
		if a := st.GetApply(); a != nil {
			cfg, err := merged(state.Configuration(names.State), a.GetDocuments(), a.GetPrune())
			if err != nil {
				return nil, err
			}
			names = &look{State: namesOf(cfg), local: l.local, now: l.now}
		}
	}
	return planner.SimulateWith(l.State, env, req, func(have, documents *v1.Configuration, prune bool) (*v1.Configuration, error) {
		cfg, err := merged(have, documents, prune)
		var e *connect.Error
		if errors.As(err, &e) {
			return nil, errors.New(e.Message())
		}
		return cfg, err
	}), nil
}

// merged is the configuration that comes of applying documents, if it has no faults.
func merged(have, documents *v1.Configuration, prune bool) (*v1.Configuration, error) {
	cfg, faults := config.Merge(have, documents, prune)
	types := agents.Types()
	cfg = config.Complete(cfg, types)
	faults = append(faults, config.Check(cfg, types, agents.Check)...)
	if len(faults) > 0 {
		return nil, badConfig(faults)
	}
	return cfg, nil
}

// namesOf a configuration, as a state that has them and nothing else.
func namesOf(cfg *v1.Configuration) *statepb.State {
	s := &statepb.State{Cluster: cfg.GetCluster(), Nodes: map[string]*v1.Node{}, Types: map[string]*v1.ResourceType{}, Groups: map[string]*v1.Group{}}
	for _, n := range cfg.GetNodes() {
		s.Nodes[n.GetName()] = n
	}
	for _, t := range cfg.GetTypes() {
		s.Types[t.GetName()] = t
	}
	for _, g := range cfg.GetGroups() {
		s.Groups[g.GetName()] = g
	}
	return s
}

// checkStep checks the names in a step, and fills in what can be left out.
func (l *look) checkStep(st *v1.SimulateStep) error {
	onGroup := func(group, node string) error {
		if _, err := l.group(group); err != nil {
			return err
		}
		return l.anyNode(node)
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
		return onGroup(x.Online.GetGroup(), x.Online.GetNode())
	case *v1.SimulateStep_Offline:
		return onGroup(x.Offline.GetGroup(), x.Offline.GetNode())
	case *v1.SimulateStep_Switch:
		return onGroup(x.Switch.GetGroup(), x.Switch.GetNode())
	case *v1.SimulateStep_Clear:
		return onGroup(x.Clear.GetGroup(), x.Clear.GetNode())
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
		if g := x.Freeze.GetGroup(); l.GetGroups()[g] == nil && l.GetNodes()[g] != nil {
			x.Freeze.Group, x.Freeze.Node = "", g // a name that only a node has
		}
		if x.Freeze.GetGroup() != "" {
			return onGroup(x.Freeze.GetGroup(), "")
		}
		return node(x.Freeze.GetNode())
	}
	return l.checkChange(st)
}

func (l *look) checkChange(st *v1.SimulateStep) error {
	switch x := st.GetStep().(type) {
	case *v1.SimulateStep_Apply:
		if x.Apply == nil {
			break
		}
		return nil // checked as a whole
	case *v1.SimulateStep_EvacuateNode:
		_, err := l.node(x.EvacuateNode)
		return err
	case *v1.SimulateStep_Enable:
		return l.groupAndNode(x.Enable.GetGroup(), x.Enable.GetNode())
	case *v1.SimulateStep_Switching:
		return l.groupAndNode(x.Switching.GetGroup(), "")
	case *v1.SimulateStep_Maintenance:
		g, err := l.group(x.Maintenance.GetGroup())
		if err != nil {
			return err
		}
		x.Maintenance.Node, err = l.maintained(g, x.Maintenance.GetNode())
		return err
	case *v1.SimulateStep_EndMaintenance:
		return l.groupAndNode(x.EndMaintenance.GetGroup(), "")
	case *v1.SimulateStep_Load:
		_, err := l.node(x.Load.GetNode())
		return err
	}
	return fail(CodeBadRequest, "", "a step is empty, or of a newer version")
}

// groupAndNode checks two names; that of the node may be empty.
func (l *look) groupAndNode(group, node string) error {
	if _, err := l.group(group); err != nil {
		return err
	}
	return l.anyNode(node)
}
