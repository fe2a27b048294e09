package agents

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/group/agent"
)

var packageScriptKind = kind{
	typ: &v1.ResourceType{
		Name: "PackageScript", Operations: v1.Operations_OPERATIONS_ON_OFF, Bundled: true, SupportedActions: []string{"validate"},
		Description: "An external script of a package: called with start when the package is run and with stop when it is halted, and with validate as an action. " +
			"It is online from a start that succeeded to a stop that succeeded; nothing else is looked at.",
		Attributes: []*v1.Attribute{
			{Name: "Script", Kind: path, Required: required, Description: "The script (external_script, external_pre_script). What its start leaves running belongs to the resource, and is killed when it goes offline."},
			{Name: "Environment", Kind: table, Description: "Variables, NAME=value, separated by blanks: PEV_ and what else it needs. SG_PACKAGE and SG_NODE are added."},
			{Name: "NodeFailFast", Kind: flag, Default: "false", Description: "The node is reset when start ends with status 2 or has no end, or when stop has none (node_fail_fast_enabled)."},
			{Name: "AbortHalt", Kind: flag, Default: "true", Description: "A stop that fails stops the halt of the package there until it succeeds (halt_aborted). If false the halt goes on, as that of a legacy package, and the package is not run elsewhere by itself."},
		},
		Limits: &v1.Limits{
			MonitorInterval: seconds(60), OfflineMonitorInterval: seconds(300), OnlineTimeout: seconds(300), OfflineTimeout: seconds(300),
			MonitorTimeout: seconds(300), CleanTimeout: seconds(300), OnlineWaitLimit: proto.Uint32(0),
		},
	},
	notes: "Status 0 of start is success; 2, a signal, and a script that can't be started mean that this node can't run the package but others may; " +
		"any other status, and no end within OnlineTimeout, that none can. After a start that failed what it left running is killed, and stop is not called. A start that " +
		"was cut off because the cluster's daemon died is undone by stop. run_script_timeout is OnlineTimeout, halt_script_timeout OfflineTimeout.",
	run: runPackageScript,
}

// packageScript is a resource of type PackageScript.
type packageScript struct {
	place
	script          string
	env             []string
	failFast, abort bool
}

func runPackageScript(ctx context.Context, h *Host, c agent.Call) agent.Result {
	env, err := variables(c.Attributes["Environment"])
	if err != nil {
		return failed(err)
	}
	s := packageScript{
		place: place{h: h, group: c.Group, resource: c.Resource}, script: c.Attributes["Script"],
		env:      append([]string{"SG_PACKAGE=" + c.Group, "SG_NODE=" + h.node}, env...),
		failFast: c.Attributes["NodeFailFast"] == "true", abort: c.Attributes["AbortHalt"] != "false",
	}
	switch c.Entry {
	case agent.Monitor:
		return s.monitor(ctx)
	case agent.Online:
		return s.online(ctx)
	case agent.Offline:
		return s.offline(ctx)
	case agent.Clean:
		if s.abort && !c.Forced && (c.CleanReason == agent.OfflineHung || c.CleanReason == agent.OfflineIneffective) {
			return s.offline(ctx)
		}
		if err := s.end(ctx, nil); err != nil {
			return failed(err)
		}
	case agent.Action:
		return s.action(ctx, c.Name)
	}
	return agent.Result{}
}

func (s packageScript) launch(what string) launch {
	return launch{argv: []string{s.script, what}, env: s.env, service: what == "start"}
}

func (s packageScript) monitor(ctx context.Context) agent.Result {
	s.trimLog()
	switch s.record().Stage {
	case started:
		return found(true, false, "")
	case halfStarted:
		// Only one call at a time: whoever began that start is dead.
		if r := s.offline(ctx); r.Err != "" {
			return agent.Result{State: v1.ResourceState_RESOURCE_STATE_UNKNOWN, Message: "its start was cut off, and can't be undone: " + r.Err}
		}
		return found(false, false, "its start was cut off, and was undone")
	}
	return found(false, false, "")
}

func (s packageScript) online(ctx context.Context) agent.Result {
	switch s.record().Stage {
	case started:
		return agent.Result{}
	case halfStarted:
		if r := s.offline(ctx); r.Err != "" {
			return r
		}
	}
	if err := errors.Join(s.kill(ctx), s.save(record{Stage: halfStarted})); err != nil {
		return failed(err)
	}
	l := s.launch("start")
	o, err := s.run(ctx, l)
	if err == nil && o.status == 0 {
		r := record{Stage: started}
		members, err := s.members()
		if len(members) > 0 {
			r.Session = members[0].session
		}
		if err := errors.Join(err, s.save(r)); err != nil {
			return failed(err)
		}
		return agent.Result{}
	}
	var r agent.Result
	switch {
	case err == nil && (o.status == 2 || o.status < 0):
		r = agent.Result{Err: o.failure(l).Error(), Verdict: s.verdict(o.status == 2, v1.Verdict_VERDICT_NOT_HERE)}
	case err == nil:
		r = agent.Result{Err: o.failure(l).Error(), Verdict: v1.Verdict_VERDICT_NOWHERE}
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		r = agent.Result{Err: err.Error(), Verdict: s.verdict(true, v1.Verdict_VERDICT_NOWHERE)}
	case ctx.Err() != nil:
		return failed(err) // cancelled: the next monitor undoes it
	default:
		r = agent.Result{Err: err.Error(), Verdict: v1.Verdict_VERDICT_NOT_HERE}
	}
	if err := s.forgetRecord(); err != nil {
		r.Err += "; " + err.Error()
	}
	return r
}

// verdict is otherwise, or that the node is reset if it may be.
func (s packageScript) verdict(grave bool, otherwise v1.Verdict) v1.Verdict {
	if grave && s.failFast {
		return v1.Verdict_VERDICT_RESET
	}
	return otherwise
}

func (s packageScript) offline(ctx context.Context) agent.Result {
	if s.record().Stage == "" {
		if err := s.end(ctx, nil); err != nil {
			return failed(err)
		}
		return agent.Result{}
	}
	verdict := v1.Verdict_VERDICT_NOWHERE
	if s.abort {
		verdict = v1.Verdict_VERDICT_HALT_ABORTED
	}
	l := s.launch("stop")
	o, err := s.run(ctx, l)
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return agent.Result{Err: fmt.Sprintf("%s stop did not end in time", s.script), Verdict: s.verdict(true, verdict)}
	case ctx.Err() != nil:
		return failed(ctx.Err())
	case err == nil && o.status != 0:
		err = o.failure(l)
	}
	if err != nil {
		return agent.Result{Err: err.Error(), Verdict: verdict}
	}
	if err := s.end(ctx, nil); err != nil {
		return failed(err)
	}
	return agent.Result{}
}

func (s packageScript) action(ctx context.Context, name string) agent.Result {
	if name != "validate" {
		return failed(fmt.Errorf("PackageScript knows no action %q; its only one is validate", name))
	}
	l := s.launch("validate")
	o, err := s.run(ctx, l)
	if err == nil && o.status != 0 {
		err = o.failure(l)
	}
	if err != nil {
		return failed(err)
	}
	return agent.Result{Output: o.output}
}
