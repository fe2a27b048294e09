package agents

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/group/agent"
)

var applicationKind = kind{
	typ: &v1.ResourceType{
		Name: "Application", Operations: v1.Operations_OPERATIONS_ON_OFF, Bundled: true,
		Description: "An application that is started, stopped, monitored and cleaned up by programs. It is online if everything says so that is given of " +
			"MonitorProgram, PidFiles and MonitorProcesses.",
		Attributes: []*v1.Attribute{
			{Name: "StartProgram", Kind: program, Required: required, Description: "Starts it and ends, with status 0 if that worked. What it leaves running is the application."},
			{Name: "StopProgram", Kind: program, Description: "Stops it, or asks it to stop. Without it all of its processes get SIGTERM. What still runs after StopWait is killed."},
			{Name: "MonitorProgram", Kind: program, Description: "Exit status 0 or 110: online, 101 to 109: online with a confidence of 10 to 90 percent, 1 or 100: offline, anything else: can't tell."},
			{Name: "CleanProgram", Kind: program, Description: "Forces it down; afterwards all of its processes are killed anyway. The first argument is the reason: 0 offline hung, 1 offline ineffective, 2 online hung, 3 online ineffective, 4 unexpected offline, 5 monitor hung."},
			{Name: "PidFiles", Kind: text, Description: "Files with the numbers of processes that must run, separated by blanks."},
			{Name: "MonitorProcesses", Kind: text, Description: "Command lines of processes that must run, separated by semicolons."},
			{Name: "User", Kind: text, Description: "User to run the programs as; the user of the cluster's daemons if not given."},
			{Name: "WorkDir", Kind: path, Default: "/", Description: "Directory to run them in."},
			{Name: "Environment", Kind: text, Description: "Variables, NAME=value, separated by blanks. Nothing else is inherited."},
			{Name: "StopWait", Kind: span, Default: "30s", Description: "Time that its processes are given to end before they are killed."},
		},
		Limits: &v1.Limits{
			MonitorInterval: seconds(30), OfflineMonitorInterval: seconds(300), OnlineTimeout: seconds(300), OfflineTimeout: seconds(300),
			MonitorTimeout: seconds(60), CleanTimeout: seconds(60), OnlineWaitLimit: proto.Uint32(2), RestartLimit: proto.Uint32(2),
		},
	},
	check: checkApplication,
	run:   runApplication,
}

func checkApplication(a map[string]string) []error {
	var errs []error
	if a["MonitorProgram"] == "" && a["PidFiles"] == "" && a["MonitorProcesses"] == "" {
		errs = append(errs, errors.New("one of MonitorProgram, PidFiles and MonitorProcesses is needed to tell whether it runs"))
	}
	if _, err := variables(a["Environment"]); err != nil {
		errs = append(errs, faultOf("Environment", "%w", err))
	}
	if _, err := pidFiles(a["PidFiles"]); err != nil {
		errs = append(errs, faultOf("PidFiles", "%w", err))
	}
	if _, err := commandLines(a["MonitorProcesses"]); err != nil {
		errs = append(errs, faultOf("MonitorProcesses", "%w", err))
	}
	return errs
}

func pidFiles(s string) ([]string, error) {
	files, err := words(s)
	for _, f := range files {
		if !strings.HasPrefix(f, "/") {
			return nil, fmt.Errorf("%q is not an absolute path", f)
		}
	}
	return files, err
}

func commandLines(s string) ([][]string, error) {
	var out [][]string
	for _, part := range strings.FieldsFunc(s, func(r rune) bool { return r == ';' || r == '\n' }) {
		argv, err := words(part)
		if err != nil {
			return nil, err
		}
		if len(argv) > 0 {
			out = append(out, argv)
		}
	}
	return out, nil
}

// application is a resource of type Application.
type application struct {
	place
	a        map[string]string
	env      []string
	files    []string
	commands [][]string
}

func runApplication(ctx context.Context, h *Host, c agent.Call) agent.Result {
	app := application{place: place{h: h, group: c.Group, resource: c.Resource}, a: c.Attributes}
	var err1, err2, err3 error
	app.env, err1 = variables(c.Attributes["Environment"])
	app.files, err2 = pidFiles(c.Attributes["PidFiles"])
	app.commands, err3 = commandLines(c.Attributes["MonitorProcesses"])
	err := errors.Join(err1, err2, err3)
	if err != nil {
		return failed(err)
	}
	switch c.Entry {
	case agent.Monitor:
		return app.monitor(ctx, c.Watch)
	case agent.Online:
		err = app.online(ctx)
	case agent.Offline:
		err = app.offline(ctx)
	case agent.Clean:
		err = app.clean(ctx, c.CleanReason)
	}
	if err != nil {
		return failed(err)
	}
	return agent.Result{}
}

// launch prepares a program of the application; nil if it has none of that kind.
func (a application) launch(attribute string, args ...string) (*launch, error) {
	if a.a[attribute] == "" {
		return nil, nil
	}
	argv, err := command(a.a[attribute])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", attribute, err)
	}
	return &launch{argv: append(argv, args...), dir: a.a["WorkDir"], user: a.a["User"], env: a.env}, nil
}

func (a application) online(ctx context.Context) error {
	l, err := a.launch("StartProgram")
	if err != nil {
		return err
	}
	if r := a.monitor(ctx, false); r.State == v1.ResourceState_RESOURCE_STATE_ONLINE {
		return nil
	}
	l.service = true
	if err := a.save(record{Starting: true}); err != nil {
		return err
	}
	o, err := a.run(ctx, *l)
	switch {
	case err != nil:
	case o.status != 0:
		err = o.failure(*l)
	default:
		members, merr := a.members()
		if merr != nil {
			return merr
		}
		r := record{Forked: true}
		if len(members) > 0 {
			r.Session = members[0].session
		}
		return a.save(r)
	}
	return errors.Join(err, a.forgetRecord())
}

func (a application) monitor(ctx context.Context, watch bool) agent.Result {
	a.trimLog()
	var procs []process
	for _, f := range a.files {
		p, why, ok := fromPidFile(f)
		if !ok {
			return a.offlineBecause(why)
		}
		procs = append(procs, p)
	}
	if len(a.commands) > 0 {
		more, missing, err := a.running()
		switch {
		case err != nil:
			return failed(err)
		case missing != "":
			return a.offlineBecause("no process " + missing)
		}
		procs = append(procs, more...)
	}
	l, err := a.launch("MonitorProgram")
	if err != nil {
		return failed(err)
	}
	if l == nil {
		return found(true, a.watch(watch, procs), "")
	}
	if len(procs) == 0 {
		// The end of what it stands on is a good moment to ask the program, though not the only one.
		members, err := a.members()
		if err != nil {
			return failed(err)
		}
		procs = roots(members)
	}
	o, err := a.run(ctx, *l)
	if err != nil {
		return failed(err)
	}
	switch {
	case o.status == 1 || o.status == 100:
		why := o.output
		if why == "" {
			why = fmt.Sprintf("%s %s", l.argv[0], o.how)
		}
		return a.offlineBecause(why)
	case o.status == 0 || o.status > 100 && o.status <= 110:
		r := found(true, false, "")
		r.WatchedPartly = a.watch(watch, procs)
		if o.status > 100 {
			r.Confidence = (o.status - 100) * 10
		}
		return r
	}
	return agent.Result{State: v1.ResourceState_RESOURCE_STATE_UNKNOWN, Message: o.failure(*l).Error()}
}

func (a application) offlineBecause(why string) agent.Result {
	a.watch(false, nil)
	return found(false, false, why)
}

// running finds a process for each of MonitorProcesses; missing is the first that has none.
func (a application) running() (procs []process, missing string, err error) {
	candidates, err := a.members()
	if err != nil {
		return nil, "", err
	}
	byAge := func(a, b procStat) int {
		return cmp.Or(cmp.Compare(a.Start, b.Start), cmp.Compare(a.Pid, b.Pid))
	}
	// The oldest counts: a child looks the same until it becomes another program.
	slices.SortFunc(candidates, byAge)
	for _, argv := range a.commands {
		is := func(st procStat) bool { return isCommand(st.Pid, argv) }
		i := slices.IndexFunc(candidates, is)
		if i < 0 {
			// A start program may have had it started by somebody else, a service manager say.
			if err := eachProcess(func(st procStat) {
				if is(st) && isStranger(st.Pid) {
					candidates = append(candidates, st)
				}
			}); err != nil {
				return nil, "", err
			}
			i = slices.IndexFunc(candidates, is)
		}
		if i < 0 {
			return nil, strings.Join(argv, " "), nil
		}
		procs = append(procs, candidates[i].process)
	}
	return procs, "", nil
}

// known are the processes that pid files name.
func (a application) known() []process {
	var procs []process
	for _, f := range a.files {
		if p, _, ok := fromPidFile(f); ok {
			procs = append(procs, p)
		}
	}
	return procs
}

func (a application) offline(ctx context.Context) error {
	l, err := a.launch("StopProgram")
	if err != nil {
		return err
	}
	if l == nil {
		return a.stop(ctx, a.known(), duration(a.a["StopWait"]))
	}
	o, err := a.run(ctx, *l)
	if err != nil {
		return err
	}
	if o.status != 0 {
		return o.failure(*l)
	}
	// It may only have asked. Offline means that nothing runs any more, whatever a pid file says.
	patient, cancel := context.WithTimeout(ctx, duration(a.a["StopWait"]))
	defer cancel()
	left, err := a.all()
	if err != nil {
		return err
	}
	for _, m := range left {
		if m.waitGone(patient) != nil && ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return a.end(ctx, nil)
}

func (a application) clean(ctx context.Context, reason agent.CleanReason) error {
	procs := a.known()
	l, err := a.launch("CleanProgram", fmt.Sprint(uint8(reason)))
	if err != nil {
		return err
	}
	if l != nil {
		// Half of the time is left for the kill, which does not depend on the program.
		part := ctx
		if end, ok := ctx.Deadline(); ok {
			var cancel context.CancelFunc
			part, cancel = context.WithTimeout(ctx, time.Until(end)/2)
			defer cancel()
		}
		o, err := a.run(part, *l)
		switch {
		case err == nil && o.status != 0:
			err = o.failure(*l)
		case err != nil && part.Err() != nil && ctx.Err() == nil:
			err = fmt.Errorf("%s did not end within half of the time for clean", l.argv[0])
		}
		if err != nil {
			return errors.Join(err, a.end(ctx, procs))
		}
	}
	return a.end(ctx, procs)
}
