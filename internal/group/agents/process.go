package agents

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/group/agent"
)

var processKind = kind{
	typ: &v1.ResourceType{
		Name: "Process", Operations: v1.Operations_OPERATIONS_ON_OFF, Bundled: true,
		Description: "One daemon: a program that stays in the foreground, or one that forks into the background. Its end is noticed at once.",
		Attributes: []*v1.Attribute{
			{Name: "PathName", Kind: path, Required: required, Description: "Absolute path of the program."},
			{Name: "Arguments", Kind: text, Description: "Its arguments, split into words as a shell does; no shell is run."},
			{Name: "PidFile", Kind: path, Description: "File into which a daemon that forks writes its process number. Without it the daemon is found by its control group."},
			{Name: "User", Kind: text, Description: "User to run it as; the user of the cluster's daemons if not given."},
			{Name: "WorkDir", Kind: path, Default: "/", Description: "Directory to run it in."},
			{Name: "Environment", Kind: text, Description: "Variables, NAME=value, separated by blanks. Nothing else is inherited."},
			{Name: "StopWait", Kind: span, Default: "30s", Description: "Time between the polite request to end (SIGTERM) and the kill."},
		},
		Limits: &v1.Limits{
			MonitorInterval: seconds(10), OfflineMonitorInterval: seconds(60), OnlineTimeout: seconds(60), OfflineTimeout: seconds(120),
			MonitorTimeout: seconds(30), CleanTimeout: seconds(30), OnlineWaitLimit: proto.Uint32(0), RestartLimit: proto.Uint32(2),
		},
	},
	check: checkProcess,
	run:   runProcess,
}

func checkProcess(a map[string]string) []error {
	var errs []error
	if _, err := words(a["Arguments"]); err != nil {
		errs = append(errs, faultOf("Arguments", "%w", err))
	}
	if _, err := variables(a["Environment"]); err != nil {
		errs = append(errs, faultOf("Environment", "%w", err))
	}
	return errs
}

// daemon is a resource of type Process.
type daemon struct {
	place
	argv     []string
	env      []string
	a        map[string]string
	stopWait time.Duration
}

func runProcess(ctx context.Context, h *Host, c agent.Call) agent.Result {
	args, err := words(c.Attributes["Arguments"])
	if err != nil {
		return failed(err)
	}
	env, err := variables(c.Attributes["Environment"])
	if err != nil {
		return failed(err)
	}
	d := daemon{
		place: place{h: h, group: c.Group, resource: c.Resource}, a: c.Attributes, env: env,
		argv: append([]string{c.Attributes["PathName"]}, args...), stopWait: duration(c.Attributes["StopWait"]),
	}
	switch c.Entry {
	case agent.Monitor:
		return d.monitor(c.Watch)
	case agent.Online:
		err = d.online(ctx)
	case agent.Offline:
		err = d.offline(ctx)
	case agent.Clean:
		err = d.clean(ctx)
	}
	if err != nil {
		return failed(err)
	}
	return agent.Result{}
}

// duration of an attribute that was checked; 0 if it is empty.
func duration(s string) time.Duration {
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0
	}
	return d
}

func (d daemon) online(ctx context.Context) error {
	if procs, _, _, _ := d.find(); len(procs) > 0 {
		return nil
	}
	return d.begin(ctx)
}

// begin starts the program.
func (d daemon) begin(ctx context.Context) error {
	// Whatever is left of an earlier run would stand in the way of this one.
	if err := d.kill(ctx); err != nil {
		return err
	}
	if err := d.save(record{Starting: true}); err != nil {
		return err
	}
	c, err := d.start(launch{argv: d.argv, dir: d.a["WorkDir"], user: d.a["User"], env: d.env, service: true}, false)
	if err != nil {
		_ = d.forgetRecord()
		return err
	}
	defer c.release()
	st, err := readStat(c.pid)
	if err != nil {
		return err
	}
	// From here on the watcher reaps it.
	if err := d.h.watcher.child(st.process, d.key()); err != nil {
		return err
	}
	return d.save(record{Main: st.process, Session: st.session})
}

func (p place) key() key { return key{p.group, p.resource} }

func (d daemon) monitor(watch bool) agent.Result {
	d.trimLog()
	procs, left, why, err := d.find()
	if err != nil {
		return failed(err)
	}
	watched := d.watch(watch, procs)
	if len(procs) > 0 {
		return found(true, watched, "")
	}
	return leftovers(found(false, false, d.lastWords(why)), left)
}

// leftovers turns a monitor's offline into faulted if processes of the service are left: it does not work, but it may not
// be started elsewhere either.
func leftovers(r agent.Result, left int) agent.Result {
	if left > 0 {
		r.State = v1.ResourceState_RESOURCE_STATE_FAULTED
		r.Message += fmt.Sprintf("; %d of its processes are left", left)
	}
	return r
}

// lastWords adds the end of its log to why it does not run.
func (p place) lastWords(why string) string {
	if out := p.logSince(0); out != "" && why != "" {
		lines := strings.Split(out, "\n")
		why += fmt.Sprintf("; its last output: %q", lines[len(lines)-1])
	}
	return why
}

// watch has the end of procs told, or, unless wanted, nothing any more; it says whether it does.
func (p place) watch(wanted bool, procs []process) bool {
	if !wanted {
		procs = nil
	}
	return p.h.watcher.set(p.key(), procs)
}

// find returns the processes on which the service stands; none if it does not run, and then how many others of it are
// left, and the reason.
func (d daemon) find() (procs []process, left int, why string, err error) {
	r := d.record()
	mainAlive := r.Main.alive()
	if f := d.a["PidFile"]; f != "" {
		p, why, ok := fromPidFile(f)
		switch {
		case ok:
			return []process{p}, 0, "", nil
		case mainAlive:
			return []process{r.Main}, 0, "", nil // it has not written the file yet
		}
		members, err := d.members()
		return nil, len(members), d.ending(r, why), err
	}
	if mainAlive {
		return []process{r.Main}, 0, "", nil
	}
	members, err := d.members()
	if err != nil {
		return nil, 0, "", err
	}
	status, known := d.h.watcher.exitOf(r.Main)
	switch {
	case len(members) == 0 && d.h.cgroup == "":
		procs, why, err := d.adopt(r)
		return procs, 0, why, err
	case len(members) == 0:
	case r.Main.Pid == 0 || known && status.Exited() && status.ExitStatus() == 0:
		// What was started has ended well and left something: it has gone into the background. If one process leads the
		// others the service stands on that one, else on any of them.
		top := roots(members)
		if i := slices.IndexFunc(top, func(p process) bool { return isCommand(p.Pid, d.argv) }); i >= 0 && r.Main.Pid == 0 {
			top = top[i : i+1]
		}
		next := record{Session: r.Session, Forked: true}
		if len(top) == 1 {
			next.Main = top[0]
		}
		if next != r {
			if err := d.save(next); err != nil {
				return nil, 0, "", err
			}
		}
		return top, 0, "", nil
	}
	return nil, len(members), d.ending(r, ""), nil
}

// adopt finds a program that nothing marks as this service, by its command line. Only without control groups.
func (d daemon) adopt(r record) ([]process, string, error) {
	var out []process
	err := eachProcess(func(st procStat) {
		if isCommand(st.Pid, d.argv) && isStranger(st.Pid) {
			out = append(out, st.process)
		}
	})
	if len(out) > 0 {
		return out[:1], "", err
	}
	return nil, d.ending(r, ""), err
}

// ending says how the main process ended, if that is known.
func (d daemon) ending(r record, otherwise string) string {
	if status, known := d.h.watcher.exitOf(r.Main); known {
		return fmt.Sprintf("process %d %s", r.Main.Pid, describeExit(status))
	}
	switch {
	case otherwise != "":
		return otherwise
	case r.Main.Pid != 0:
		return fmt.Sprintf("process %d has ended", r.Main.Pid)
	}
	return fmt.Sprintf("no process of %s", d.argv[0])
}

func (d daemon) offline(ctx context.Context) error {
	procs, _, _, err := d.find()
	if err != nil {
		return err
	}
	return d.stop(ctx, procs, d.stopWait)
}

// stop asks procs to end, and then whatever they leave (or all, if procs is empty), and kills what is left after patience.
func (p place) stop(ctx context.Context, procs []process, patience time.Duration) error {
	patient, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := p.endBySelf(patient, procs)
	if err == nil {
		var left []process
		if left, err = p.all(); err == nil {
			err = p.endBySelf(patient, left)
		}
	}
	// Only that patience is over is no reason to give up.
	if err != nil && (patient.Err() == nil || ctx.Err() != nil) {
		return err
	}
	return p.end(ctx, procs)
}

func (p place) all() ([]process, error) {
	members, err := p.members()
	out := make([]process, 0, len(members))
	for _, m := range members {
		out = append(out, m.process)
	}
	return out, err
}

// endBySelf asks procs to end and waits for them.
func (p place) endBySelf(ctx context.Context, procs []process) error {
	for _, m := range procs {
		if err := m.signal(unix.SIGTERM); err != nil {
			return err
		}
	}
	for _, m := range procs {
		if err := m.waitGone(ctx); err != nil {
			return err
		}
	}
	return nil
}

// end kills procs and all members, and forgets the service.
func (p place) end(ctx context.Context, procs []process) error {
	if err := p.kill(ctx); err != nil {
		return err
	}
	for _, m := range procs {
		if err := m.signal(unix.SIGKILL); err != nil {
			return err
		}
		if err := m.waitGone(ctx); err != nil {
			return err
		}
	}
	p.h.watcher.set(p.key(), nil)
	return p.forgetRecord()
}

func (d daemon) clean(ctx context.Context) error {
	procs, _, _, err := d.find()
	if err != nil {
		return err
	}
	return d.end(ctx, procs)
}
