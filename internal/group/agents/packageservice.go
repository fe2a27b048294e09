package agents

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/group/agent"
)

var packageServiceKind = kind{
	typ: &v1.ResourceType{
		Name: "PackageService", Operations: v1.Operations_OPERATIONS_ON_OFF, Bundled: true,
		Description: "A service of a package: a command that stays in the foreground. Its end is its failure, whatever its status, and is noticed at once; " +
			"once its restarts are used up the package is not run on this node any more until an administrator enables that.",
		Attributes: []*v1.Attribute{
			{Name: "Command", Kind: program, Required: required, Description: "The command (service_cmd), an absolute path with arguments; no shell is run. It must not go into the background."},
			{Name: "HaltTimeout", Kind: span, Default: "0s", Description: "Time between SIGTERM and SIGKILL when it is halted (service_halt_timeout); with 0s the kill follows at once."},
			{Name: "ServiceFailFast", Kind: flag, Default: "false", Description: "The node is reset when the service has failed for good (service_fail_fast_enabled)."},
			{Name: "Environment", Kind: table, Description: "Variables, NAME=value, separated by blanks. HOLDFAST_RESTARTS, the number of restarts in place so far, is added."},
			{Name: "User", Kind: text, Description: "User to run it as; the user of the cluster's daemons if not given."},
		},
		Limits: &v1.Limits{
			MonitorInterval: seconds(10), OfflineMonitorInterval: seconds(60), OnlineTimeout: seconds(60), OfflineTimeout: seconds(4500),
			MonitorTimeout: seconds(30), CleanTimeout: seconds(30), OnlineWaitLimit: proto.Uint32(0), RestartLimit: proto.Uint32(0),
		},
	},
	notes: "service_restart is the resource's RestartLimit; a service that ends before its first monitor counts against OnlineRetryLimit, " +
		"so set both. Restarts are counted within ConfInterval.",
	run: runPackageService,
}

// service is a resource of type PackageService.
type service struct {
	daemon
	failure v1.Verdict
}

func runPackageService(ctx context.Context, h *Host, c agent.Call) agent.Result {
	argv, err1 := command(c.Attributes["Command"])
	env, err2 := variables(c.Attributes["Environment"])
	if err := errors.Join(err1, err2); err != nil {
		return failed(err)
	}
	s := service{failure: v1.Verdict_VERDICT_NOT_HERE, daemon: daemon{
		place: place{h: h, group: c.Group, resource: c.Resource}, argv: argv, a: c.Attributes,
		env: append(slices.Clip(env), fmt.Sprintf("HOLDFAST_RESTARTS=%d", c.Restarts)), stopWait: duration(c.Attributes["HaltTimeout"]),
	}}
	if c.Attributes["ServiceFailFast"] == "true" {
		s.failure = v1.Verdict_VERDICT_RESET
	}
	var err error
	switch c.Entry {
	case agent.Monitor:
		return s.monitor(c.Watch)
	case agent.Online:
		if err = s.online(ctx); err != nil && ctx.Err() == nil {
			return agent.Result{Err: err.Error(), Verdict: v1.Verdict_VERDICT_NOT_HERE}
		}
	case agent.Offline:
		var main []process
		if main, _, err = s.find(); err == nil {
			err = s.stop(ctx, main, s.stopWait)
		}
	case agent.Clean:
		err = s.end(ctx, nil)
	}
	if err != nil {
		return failed(err)
	}
	return agent.Result{}
}

func (s service) online(ctx context.Context) error {
	if main, _, err := s.find(); err != nil || len(main) > 0 {
		return err
	}
	return s.begin(ctx)
}

func (s service) monitor(watch bool) agent.Result {
	s.trimLog()
	main, ran, err := s.find()
	if err != nil {
		return failed(err)
	}
	if len(main) > 0 {
		return found(true, s.watch(watch, main), "")
	}
	s.watch(false, nil)
	left, err := s.members()
	if err != nil {
		return failed(err)
	}
	r := leftovers(found(false, false, s.lastWords(s.ending(s.record(), ""))), len(left))
	if ran {
		r.Verdict = s.failure
	}
	return r
}

// find returns the process that was started, if it runs; else whether there was one. What it leaves behind is not the service.
func (s service) find() (main []process, ran bool, err error) {
	r := s.record()
	if r.Main.Pid != 0 {
		if r.Main.alive() {
			return []process{r.Main}, true, nil
		}
		return nil, true, nil
	}
	// The record is lost, or its writer died between the start and the record: then what was started leads the others.
	members, err := s.members()
	if err != nil {
		return nil, false, err
	}
	for _, p := range roots(members) {
		if isCommand(p.Pid, s.argv) {
			return []process{p}, true, s.save(record{Main: p, Session: r.Session})
		}
	}
	return nil, false, nil
}
