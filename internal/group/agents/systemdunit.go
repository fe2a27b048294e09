package agents

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/godbus/dbus/v5"
	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/group/agent"
)

var systemdUnitKind = kind{
	typ: &v1.ResourceType{
		Name: "SystemdUnit", Operations: v1.Operations_OPERATIONS_ON_OFF, Bundled: true,
		Description: "A unit of systemd, which the cluster starts and stops over the system bus. A change of its state is noticed at once.",
		Attributes: []*v1.Attribute{
			{Name: "Unit", Kind: text, Required: required, Description: "Name of the unit: nginx.service, getty@tty3.service. Without an ending .service is meant."},
		},
		Limits: &v1.Limits{
			MonitorInterval: seconds(30), OfflineMonitorInterval: seconds(60), OnlineTimeout: seconds(120), OfflineTimeout: seconds(120),
			MonitorTimeout: seconds(30), CleanTimeout: seconds(60), OnlineWaitLimit: proto.Uint32(0),
		},
	},
	notes: "It is online while systemd calls it active or reloading. While systemd starts or stops it, or has a job for it, nothing is concluded. " +
		"Three things keep it from being brought online, because the cluster could not keep its word then: that it is enabled, so that systemd would start it at boot (systemctl disable UNIT); a setting Restart= other than " +
		"no, as systemd would start it again after it was killed because the node's lease had ended (a drop-in with [Service] and Restart=no; the cluster restarts it within RestartLimit); " +
		"and Type=oneshot without RemainAfterExit=yes, which is never active. The cluster writes no drop-ins. A resource type with an agent systemd does the same, with an attribute Unit of its own.",
	check: func(a map[string]string) []error {
		if err := checkUnit(unitName(a["Unit"])); err != nil {
			return []error{faultOf("Unit", "%w", err)}
		}
		return nil
	},
	run: runSystemdUnit,
}

// unitKinds are the endings of units that can be started and stopped.
var unitKinds = map[string]string{
	".service": "Service", ".socket": "Socket", ".target": "Target", ".timer": "Timer", ".mount": "Mount", ".automount": "Automount", ".path": "Path", ".swap": "Swap",
}

func unitName(s string) string {
	if s != "" && unitKinds[filepath.Ext(s)] == "" {
		return s + ".service"
	}
	return s
}

func checkUnit(s string) error {
	stem := strings.TrimSuffix(s, filepath.Ext(s))
	switch {
	case len(s) > 255 || stem == "" || strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:-_.\\@") != "":
		return fmt.Errorf("%q can't be the name of a unit", s)
	case strings.HasSuffix(stem, "@"):
		return fmt.Errorf("%q is a template: name one of its instances, such as %sa%s", s, stem, filepath.Ext(s))
	case strings.HasPrefix(s, "@"):
		return fmt.Errorf("%q can't be the name of a unit", s)
	}
	return nil
}

// unit is a resource of type SystemdUnit.
type unit struct {
	h    *Host
	key  key
	name string
}

func runSystemdUnit(ctx context.Context, h *Host, c agent.Call) agent.Result {
	u := unit{h: h, key: key{c.Group, c.Resource}, name: unitName(c.Attributes["Unit"])}
	if err := checkUnit(u.name); err != nil {
		return failed(err)
	}
	h.bus.manages(u.key, u.name)
	var err error
	switch c.Entry {
	case agent.Monitor:
		return u.monitor(ctx, c.Watch)
	case agent.Online:
		err = u.online(ctx)
	case agent.Offline:
		err = u.offline(ctx)
	case agent.Clean:
		err = u.clean(ctx)
	}
	if err != nil {
		return failed(err)
	}
	return agent.Result{}
}

// unitState is what systemd says of a unit.
type unitState struct {
	unit map[string]dbus.Variant
	own  map[string]dbus.Variant // of its kind; only if it was asked for
}

func word(m map[string]dbus.Variant, name string) string {
	s, _ := m[name].Value().(string)
	return s
}

func (s unitState) active() string { return word(s.unit, "ActiveState") }

func (u unit) load(ctx context.Context) (path dbus.ObjectPath, err error) {
	return path, u.wrong(u.h.bus.manager(ctx, "LoadUnit", u.name).Store(&path))
}

// look asks systemd, also for what is particular to the kind of unit if all is set or it has failed.
func (u unit) look(ctx context.Context, path dbus.ObjectPath, all bool) (s unitState, err error) {
	if s.unit, err = u.h.bus.properties(ctx, path, systemdUnit); err == nil && (all || s.active() == "failed") {
		s.own, err = u.h.bus.properties(ctx, path, systemdName+"."+unitKinds[filepath.Ext(u.name)])
	}
	return s, u.wrong(err)
}

func (u unit) lookUp(ctx context.Context) (unitState, error) {
	path, err := u.load(ctx)
	if err != nil {
		return unitState{}, err
	}
	return u.look(ctx, path, true)
}

func (u unit) wrong(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("systemd, about %s: %w", u.name, err)
}

func (u unit) monitor(ctx context.Context, watch bool) agent.Result {
	path, err := u.load(ctx)
	if err != nil {
		return failed(err)
	}
	watched := false
	if watch {
		watched = u.h.bus.watch(u.key, path) // before it is asked, so that nothing is missed
	} else {
		u.h.bus.forget(u.key)
	}
	s, err := u.look(ctx, path, false)
	if err != nil {
		return failed(err)
	}
	now := s.active() + " (" + word(s.unit, "SubState") + ")"
	unsettled := agent.Result{State: v1.ResourceState_RESOURCE_STATE_UNKNOWN, Message: fmt.Sprintf("%s is %s", u.name, now), Watched: watched}
	switch s.active() {
	case "active", "reloading", "refreshing":
		message := ""
		if word(s.unit, "UnitFileState") == "enabled" {
			message = u.enabled()
		}
		return found(true, watched, message)
	case "inactive":
		if job := u.jobType(ctx, s); job != "" {
			unsettled.Message += ", and systemd is about to " + job + " it"
			return unsettled
		}
		if load := word(s.unit, "LoadState"); load != "loaded" {
			return found(false, watched, fmt.Sprintf("%s is %s", u.name, load))
		}
		return found(false, watched, fmt.Sprintf("%s is inactive", u.name))
	case "failed":
		return found(false, watched, u.failure(s))
	case "activating":
		if word(s.unit, "SubState") == "auto-restart" {
			return found(false, watched, fmt.Sprintf("%s has ended, and systemd is about to restart it", u.name))
		}
	}
	return unsettled
}

// jobType of what systemd is about to do with the unit; empty: nothing that would make it active.
func (u unit) jobType(ctx context.Context, s unitState) string {
	pair, _ := s.unit["Job"].Value().([]any)
	if len(pair) != 2 {
		return ""
	}
	number, _ := pair[0].(uint32)
	path, _ := pair[1].(dbus.ObjectPath)
	if number == 0 || !path.IsValid() {
		return ""
	}
	job, err := u.h.bus.properties(ctx, path, systemdName+".Job")
	if err != nil {
		return "" // it is over
	}
	switch t := word(job, "JobType"); t {
	case "start", "restart", "try-restart", "reload-or-start":
		return t
	}
	return ""
}

func (u unit) enabled() string {
	return fmt.Sprintf("%s is enabled, so that systemd starts it at boot, whatever the cluster wants: systemctl disable %s", u.name, u.name)
}

// failure says what systemd knows of the end of a unit.
func (u unit) failure(s unitState) string {
	why := fmt.Sprintf("%s has failed", u.name)
	if r := word(s.own, "Result"); r != "" && r != "success" {
		why += ": " + r
	}
	code, _ := s.own["ExecMainCode"].Value().(int32)
	status, _ := s.own["ExecMainStatus"].Value().(int32)
	switch code {
	case 1: // CLD_EXITED
		why += fmt.Sprintf(" (its main process exited with status %d)", status)
	case 2, 3: // CLD_KILLED, CLD_DUMPED
		why += fmt.Sprintf(" (its main process was killed by signal %d)", status)
	}
	return why
}

func (u unit) online(ctx context.Context) error {
	s, err := u.lookUp(ctx)
	if err != nil {
		return err
	}
	if a := s.active(); a == "active" || a == "reloading" || a == "refreshing" {
		return nil
	}
	if err := u.fit(s); err != nil {
		return err
	}
	// A unit that has failed too often would be refused; how often is the cluster's business.
	if err := u.h.bus.manager(ctx, "ResetFailedUnit", u.name).Err; err != nil && !isBusError(err, "NoSuchUnit") {
		return u.wrong(err)
	}
	result, err := u.h.bus.job(ctx, "StartUnit", u.name)
	if err != nil {
		return u.wrong(err)
	}
	if result == "done" {
		return nil
	}
	if s, lerr := u.lookUp(ctx); lerr == nil && s.active() == "failed" {
		return errors.New(u.failure(s))
	}
	return fmt.Errorf("systemd did not start %s: %s", u.name, result)
}

// fit says why a unit can't be left to the cluster.
func (u unit) fit(s unitState) error {
	switch load := word(s.unit, "LoadState"); load {
	case "loaded":
	case "not-found":
		return fmt.Errorf("there is no unit %s on this node", u.name)
	case "masked":
		return fmt.Errorf("%s is masked: systemctl unmask %s", u.name, u.name)
	default:
		return fmt.Errorf("systemd could not load %s: %s", u.name, load)
	}
	if word(s.unit, "UnitFileState") == "enabled" {
		return errors.New(u.enabled())
	}
	stays, _ := s.own["RemainAfterExit"].Value().(bool)
	restart := word(s.own, "Restart")
	switch {
	case word(s.own, "Type") == "oneshot" && !stays:
		return fmt.Errorf("%s is oneshot and does not remain after exit, so it is never active: set RemainAfterExit=yes", u.name)
	case restart != "" && restart != "no":
		return fmt.Errorf("%s has Restart=%s, so that systemd would restart it even where the cluster has ended it: set Restart=no in a drop-in; the cluster restarts it within RestartLimit", u.name, restart)
	}
	return nil
}

func (u unit) offline(ctx context.Context) error {
	result, err := u.h.bus.job(ctx, "StopUnit", u.name)
	switch {
	case isBusError(err, "NoSuchUnit"):
		return nil
	case err != nil:
		return u.wrong(err)
	case result != "done":
		return fmt.Errorf("systemd did not stop %s: %s", u.name, result)
	}
	return nil
}

// clean kills all of it, and then has systemd tidy up.
func (u unit) clean(ctx context.Context) error {
	const sigkill = int32(9)
	if err := u.h.bus.manager(ctx, "KillUnit", u.name, "all", sigkill).Err; err != nil && !isBusError(err, "NoSuchUnit") {
		// Nothing to kill is said in different words by different versions; what matters is whether it stops.
		u.h.log.Debug("a unit was not killed", "unit", u.name, "error", err)
	}
	if err := u.offline(ctx); err != nil {
		return err
	}
	if err := u.h.bus.manager(ctx, "ResetFailedUnit", u.name).Err; err != nil && !isBusError(err, "NoSuchUnit") {
		return u.wrong(err)
	}
	return nil
}

// cgroup returns the directory of the control group that the unit has while it is active; empty for kinds that have none.
func (u unit) cgroup(ctx context.Context) (string, error) {
	if ext := filepath.Ext(u.name); ext != ".service" && ext != ".socket" && ext != ".mount" && ext != ".swap" {
		return "", nil
	}
	s, err := u.lookUp(ctx)
	if err != nil {
		return "", err
	}
	where := word(s.own, "ControlGroup")
	if where == "" {
		slice := word(s.own, "Slice")
		if slice == "" {
			slice = "system.slice"
		}
		where = filepath.Join(sliceDir(slice), u.name)
	}
	return cgroupDir(where)
}

// sliceDir is where a slice is in the tree: a-b.slice is /a.slice/a-b.slice, and -.slice the root.
func sliceDir(slice string) string {
	stem := strings.TrimSuffix(slice, ".slice")
	if stem == "-" || stem == "" {
		return "/"
	}
	dir, parts := "/", strings.Split(stem, "-")
	for i := range parts {
		dir = filepath.Join(dir, strings.Join(parts[:i+1], "-")+".slice")
	}
	return dir
}
