package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/group/planner"
	"github.com/holdfast-ha/holdfast/internal/protoyaml"
)

// A drill asks whether a group would come online on a node, without starting
// anything: it asks the planner, then has the agents there look whether each
// resource would find what it needs.

// DrillAction is the check that agents of Holdfast know. Scripts for Veritas
// name theirs NAME.vfd, those for packages and OCF agents validate.
const (
	DrillAction = "drill"
	drillSuffix = ".vfd"
)

var drillActions = []string{DrillAction, "validate", "validate-all"}

const (
	defaultDrill = time.Minute
	maxDrill     = 10 * time.Minute
	// drillAtOnce checks run at a time: the log of operations is short.
	drillAtOnce = 16
)

func (s *groupServer) Drill(ctx context.Context, req *connect.Request[v1.DrillGroupRequest]) (*connect.Response[v1.DrillGroupResponse], error) {
	m := req.Msg
	l, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	g, err := l.group(m.GetGroup())
	if err != nil {
		return nil, err
	}
	if m.GetNode() == "" {
		return nil, fail(CodeBadRequest, "name one with --node", "on which node would group %s have to come online?", g.GetName())
	}
	if _, err := l.node(m.GetNode()); err != nil {
		return nil, err
	}
	if err := l.inSystemList(g, m.GetNode()); err != nil {
		return nil, err
	}
	limit := cmp.Or(m.GetTimeout().AsDuration(), defaultDrill)
	if limit < time.Second || limit > maxDrill {
		return nil, fail(CodeBadRequest, "", "a drill takes 1s to %s, not %s", protoyaml.Duration(maxDrill), protoyaml.Duration(limit))
	}
	d := &drill{server: s.server, look: l, g: g, node: m.GetNode()}
	d.placement(s.env(l))
	if err := d.probed(); err == nil {
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		if err := d.resources(ctx, limit); err != nil {
			return nil, err
		}
	}
	return connect.NewResponse(d.report()), nil
}

type drill struct {
	*server
	*look
	g      *v1.Group
	node   string
	checks []*v1.DrillCheck
}

func (d *drill) found(check, resource, kind string, result v1.DrillResult, message string) {
	d.checks = append(d.checks, &v1.DrillCheck{Resource: resource, Type: kind, Check: check, Result: result, Message: message})
}

// placement asks the planner.
func (d *drill) placement(env planner.Env) {
	for _, n := range planner.Forecast(d.State, env, d.g.GetName()).GetNodes() {
		switch {
		case n.GetNode() != d.node:
		case n.GetRejected() != "":
			d.found("placement", "", "", v1.DrillResult_DRILL_RESULT_FAILED, n.GetRejected())
		default:
			d.found("placement", "", "", v1.DrillResult_DRILL_RESULT_PASSED, fmt.Sprintf("%s can take %s: %s", d.node, d.g.GetName(), n.GetMeasure()))
		}
	}
}

var errNotThere = errors.New("nothing can be asked there")

// probed: the agents of the node know the group.
func (d *drill) probed() error {
	on := d.GetGroupStatus()[d.g.GetName()].GetNodes()[d.node]
	if !d.anyMember([]string{d.node}) || on == nil {
		d.found("probed", "", "", v1.DrillResult_DRILL_RESULT_FAILED, d.node+" is not in the cluster: nothing can be looked at there")
		return errNotThere
	}
	if !on.GetProbed() {
		d.found("probed", "", "", v1.DrillResult_DRILL_RESULT_FAILED, fmt.Sprintf("%s has not yet found out what of %s runs there", d.node, d.g.GetName()))
		return nil
	}
	d.found("probed", "", "", v1.DrillResult_DRILL_RESULT_PASSED, "all resources have been monitored there")
	return nil
}

// actions of a type that look and change nothing.
func (d *drill) actions(r *v1.Resource) (out []string) {
	for _, a := range d.GetTypes()[r.GetType()].GetSupportedActions() {
		if slices.Contains(drillActions, a) || strings.HasSuffix(a, drillSuffix) {
			out = append(out, a)
		}
	}
	return out
}

// resources runs the checks of all resources that are not online there.
func (d *drill) resources(ctx context.Context, limit time.Duration) error {
	type run struct {
		r      *v1.Resource
		action string
	}
	var runs []run
	for _, r := range d.g.GetResources() {
		st := d.GetGroupStatus()[d.g.GetName()].GetNodes()[d.node].GetResources()[r.GetName()]
		actions := d.actions(r)
		switch {
		case r.Enabled != nil && !r.GetEnabled():
			d.found("", r.GetName(), r.GetType(), v1.DrillResult_DRILL_RESULT_NONE, "it is disabled")
		case online(st) && d.operations(r) == v1.Operations_OPERATIONS_NONE:
			d.found("monitor", r.GetName(), r.GetType(), v1.DrillResult_DRILL_RESULT_PASSED, "it is there")
		case d.operations(r) == v1.Operations_OPERATIONS_NONE:
			d.found("monitor", r.GetName(), r.GetType(), v1.DrillResult_DRILL_RESULT_FAILED, cmp.Or(st.GetMessage(), "it is "+stateWord(st.GetState())+" there"))
		case online(st):
			d.found("monitor", r.GetName(), r.GetType(), v1.DrillResult_DRILL_RESULT_PASSED, "it is online there already")
		case len(actions) == 0:
			d.found("", r.GetName(), r.GetType(), v1.DrillResult_DRILL_RESULT_NONE, "its type knows no check (an action called "+strings.Join(drillActions, " or ")+", or ending in "+drillSuffix+")")
		}
		if d.operations(r) == v1.Operations_OPERATIONS_NONE || online(st) || r.Enabled != nil && !r.GetEnabled() {
			continue
		}
		for _, a := range actions {
			runs = append(runs, run{r, a})
		}
	}
	for batch := range slices.Chunk(runs, drillAtOnce) {
		begun := map[uint64]run{}
		var ids []uint64
		for _, one := range batch {
			op, err := d.operate(ctx, &v1.Operation{Kind: v1.OperationKind_OPERATION_KIND_RESOURCE_ACTION, Group: d.g.GetName(), Resource: one.r.GetName(),
				Node: d.node, Action: one.action})
			if err != nil {
				if ctx.Err() == nil {
					return err
				}
				d.found(one.action, one.r.GetName(), one.r.GetType(), v1.DrillResult_DRILL_RESULT_UNKNOWN, "the time was over before it was run")
				continue
			}
			begun[op.GetId()] = one
			ids = append(ids, op.GetId())
		}
		ended, err := d.await(ctx, ids)
		if err != nil {
			return err
		}
		for _, id := range ids {
			one, op := begun[id], ended[id]
			switch op.GetState() {
			case v1.OperationState_OPERATION_STATE_DONE:
				d.found(one.action, one.r.GetName(), one.r.GetType(), v1.DrillResult_DRILL_RESULT_PASSED, op.GetMessage())
			case v1.OperationState_OPERATION_STATE_FAILED:
				d.found(one.action, one.r.GetName(), one.r.GetType(), v1.DrillResult_DRILL_RESULT_FAILED, op.GetMessage())
			default:
				d.found(one.action, one.r.GetName(), one.r.GetType(), v1.DrillResult_DRILL_RESULT_UNKNOWN, "it did not end within "+protoyaml.Duration(limit))
			}
		}
	}
	return nil
}

// await the end of operations, or that of ctx; those that have ended.
func (d *drill) await(ctx context.Context, ids []uint64) (map[uint64]*v1.Operation, error) {
	ended := map[uint64]*v1.Operation{}
	err := d.follow(ctx, func(l *look) (bool, error) {
		for _, op := range l.GetOperations() {
			if slices.Contains(ids, op.GetId()) && op.GetState() != v1.OperationState_OPERATION_STATE_RUNNING {
				ended[op.GetId()] = op
			}
		}
		return len(ended) == len(ids), nil
	})
	if err != nil && ctx.Err() == nil {
		return nil, err
	}
	return ended, nil
}

func stateWord(s v1.ResourceState) string {
	if s <= v1.ResourceState_RESOURCE_STATE_UNKNOWN {
		return "in no known state"
	}
	return strings.ToLower(strings.TrimPrefix(s.String(), "RESOURCE_STATE_"))
}

func (d *drill) report() *v1.DrillGroupResponse {
	by := map[v1.DrillResult]int{}
	var first string
	for _, c := range d.checks {
		by[c.GetResult()]++
		if c.GetResult() == v1.DrillResult_DRILL_RESULT_FAILED && first == "" {
			first = strings.TrimPrefix(c.GetResource()+": "+c.GetMessage(), ": ")
		}
	}
	failed, passed := by[v1.DrillResult_DRILL_RESULT_FAILED], by[v1.DrillResult_DRILL_RESULT_PASSED]
	unknown, none := by[v1.DrillResult_DRILL_RESULT_UNKNOWN], by[v1.DrillResult_DRILL_RESULT_NONE]
	resp := &v1.DrillGroupResponse{Source: d.source(), Group: d.g.GetName(), Node: d.node, Checks: d.checks, Would: failed == 0 && unknown == 0}
	rest := ""
	if none > 0 {
		rest = fmt.Sprintf("; %s could not be looked at", count(none, "resource"))
	}
	switch {
	case failed > 0:
		resp.Verdict = fmt.Sprintf("%s would not come online on %s: %s%s", d.g.GetName(), d.node, first, rest)
		if failed > 1 {
			resp.Verdict += fmt.Sprintf("; and %s more", count(failed-1, "check"))
		}
	case unknown > 0:
		resp.Verdict = fmt.Sprintf("it is not known whether %s would come online on %s: %s did not end%s", d.g.GetName(), d.node, count(unknown, "check"), rest)
	default:
		resp.Verdict = fmt.Sprintf("%s would come online on %s, as far as %s can tell%s", d.g.GetName(), d.node, count(passed, "check"), rest)
	}
	return resp
}
