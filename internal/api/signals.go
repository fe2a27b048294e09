package api

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
	"github.com/holdfast-ha/holdfast/internal/protoyaml"
)

type signalServer struct{ *server }

// Bounds of signals.
const (
	maxSignal       = 2147483647
	minSignalLife   = time.Second
	maxSignalLife   = 30 * 24 * time.Hour
	signalNameWords = "letters, digits, and . _ - ; at most 63 of them"
)

var signalName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

func (s *signalServer) List(ctx context.Context, _ *connect.Request[v1.ListSignalsRequest]) (*connect.Response[v1.ListSignalsResponse], error) {
	l, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	resp := &v1.ListSignalsResponse{Source: l.source()}
	needed := map[string][]string{}
	for _, g := range sortedValues(l.GetGroups()) {
		for _, r := range g.GetPackage().GetGenericResources() {
			needed[r.GetName()] = append(needed[r.GetName()], g.GetName())
		}
	}
	names := state.SortedKeys(l.GetSignals())
	for _, n := range state.SortedKeys(needed) {
		if l.GetSignals()[n] == nil {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		info := &v1.SignalInfo{Name: name, Groups: needed[name]}
		for _, node := range state.SortedKeys(l.GetSignals()[name].GetNodes()) {
			info.Nodes = append(info.Nodes, signalOnNode(node, l.GetSignals()[name].GetNodes()[node], s.now()))
		}
		resp.Signals = append(resp.Signals, info)
	}
	return connect.NewResponse(resp), nil
}

func signalOnNode(node string, v *statepb.SignalValue, now time.Time) *v1.SignalOnNode {
	out := &v1.SignalOnNode{Node: node, State: v.GetState(), Value: v.GetValue(), Source: v.GetSource(), SetMs: v.GetSetMs(), TimeToLive: v.GetTimeToLive()}
	if life := v.GetTimeToLive().AsDuration(); life > 0 && now.After(time.UnixMilli(v.GetSetMs()).Add(life)) {
		out.Expired, out.State = true, v1.SignalState_SIGNAL_STATE_UNKNOWN
	}
	return out
}

func (s *signalServer) Set(ctx context.Context, req *connect.Request[v1.SetSignalRequest]) (*connect.Response[v1.SetSignalResponse], error) {
	l, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	m := req.Msg
	node := m.GetNode()
	if node == "" {
		node = l.local.Node
	}
	if err := l.checkSignal(m, node); err != nil {
		return nil, err
	}
	v := &statepb.SignalValue{State: m.GetState(), Value: m.GetValue(), Source: callerOf(ctx).Who, SetMs: s.now().UnixMilli(), TimeToLive: m.GetTimeToLive()}
	if err := s.setSignal(ctx, m.GetName(), node, v); err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.SetSignalResponse{Node: node}), nil
}

func (s *server) setSignal(ctx context.Context, name, node string, v *statepb.SignalValue) error {
	return s.submit(ctx, &statepb.Command{Change: &statepb.Command_SetSignal{SetSignal: &statepb.SetSignal{Name: name, Node: node, Value: v}}})
}

// checkSignal: a signal is simple everywhere, or extended everywhere.
func (l *look) checkSignal(m *v1.SetSignalRequest, node string) error {
	if !signalName.MatchString(m.GetName()) {
		return fail(CodeBadRequest, "", "%q is no name of a signal: it has %s", printable(m.GetName()), signalNameWords)
	}
	if _, err := l.node(node); err != nil {
		return err
	}
	simple := m.GetState() >= v1.SignalState_SIGNAL_STATE_UNKNOWN && m.GetState() <= v1.SignalState_SIGNAL_STATE_DOWN
	switch life := m.GetTimeToLive().AsDuration(); {
	case simple == (m.GetValue() != 0):
		return fail(CodeBadRequest, "", "a signal is up, down or unknown, or a number from 1 to %d", maxSignal)
	case m.GetValue() < 0 || m.GetValue() > maxSignal:
		return fail(CodeBadRequest, "", "the value of a signal is 1 to %d", maxSignal)
	case m.GetTimeToLive() != nil && (life < minSignalLife || life > maxSignalLife):
		return fail(CodeBadRequest, "", "a signal lives %s to %s, not %s", protoyaml.Duration(minSignalLife), protoyaml.Duration(maxSignalLife), protoyaml.Duration(life))
	}
	was := l.GetSignals()[m.GetName()]
	for _, n := range state.SortedKeys(was.GetNodes()) {
		if n != node && (was.GetNodes()[n].GetValue() != 0) == simple {
			kind := map[bool]string{true: "up or down", false: "a number"}[!simple]
			return fail(CodeConflict, "set it the same way, or take it out first: holdfast signal clear "+m.GetName(),
				"signal %s is %s on %s: a signal is of one kind on all nodes", m.GetName(), kind, n)
		}
	}
	return nil
}

func (s *signalServer) Clear(ctx context.Context, req *connect.Request[v1.ClearSignalRequest]) (*connect.Response[v1.ClearSignalResponse], error) {
	l, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	m := req.Msg
	sig := l.GetSignals()[m.GetName()]
	if sig == nil {
		return nil, notFound("signal", m.GetName(), l.GetSignals())
	}
	if err := l.anyNode(m.GetNode()); err != nil {
		return nil, err
	}
	nodes := state.SortedKeys(sig.GetNodes())
	if n := m.GetNode(); n != "" {
		if sig.GetNodes()[n] == nil {
			return nil, fail(CodeNotFound, "it is set on "+strings.Join(nodes, ", "), "signal %s is not set on %s", m.GetName(), n)
		}
		nodes = []string{n}
	}
	for _, n := range nodes {
		if err := s.setSignal(ctx, m.GetName(), n, nil); err != nil {
			return nil, err
		}
	}
	return connect.NewResponse(&v1.ClearSignalResponse{}), nil
}
