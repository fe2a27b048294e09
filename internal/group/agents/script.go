package agents

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/group/agent"
)

// maxOutput of an action, and of info.
const (
	maxOutput = 64 << 10
	maxInfo   = 4<<10 - 64
)

// shellFunctions is what entry points in shell source.
//
//go:embed vcs/ag_i18n_inc.sh
var shellFunctions []byte

// scriptAgent carries out calls by a directory with one program per entry point.
type scriptAgent struct {
	adapter
	dir string
}

func runScript(ctx context.Context, h *Host, c agent.Call) agent.Result {
	s := scriptAgent{dir: c.Definition.GetScript().GetDirectory()}
	s.adapter = adapter{place: place{h: h, group: c.Group, resource: c.Resource}, call: c, env: h.scriptEnv(c)}
	if !filepath.IsAbs(s.dir) {
		return failed(fmt.Errorf("type %s: %q is not an absolute directory", c.Type, s.dir))
	}
	if err := h.makeScriptHome(); err != nil {
		return failed(err)
	}
	switch c.Entry {
	case agent.Monitor:
		return s.monitor(ctx)
	case agent.Online:
		return s.online(ctx)
	case agent.Offline:
		return s.offline(ctx)
	case agent.Clean:
		return s.clean(ctx)
	case agent.Action:
		return s.action(ctx)
	case agent.Info:
		return s.info(ctx)
	case agent.AttrChanged:
		return s.attrChanged(ctx)
	case agent.Open:
		return s.optional(ctx, "open")
	case agent.Close:
		s.h.watcher.set(s.key(), nil)
		s.forgetAll()
		return s.optional(ctx, "close")
	}
	return agent.Result{}
}

func (h *Host) scriptHome() string { return filepath.Join(h.runDir, "vcs") }

// makeScriptHome makes what VCS_HOME names.
func (h *Host) makeScriptHome() error {
	bin := filepath.Join(h.scriptHome(), "bin")
	functions := filepath.Join(bin, "ag_i18n_inc.sh")
	if st, err := os.Stat(functions); err == nil && st.Size() == int64(len(shellFunctions)) {
		return nil
	}
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return err
	}
	// Another call may be about to read it.
	next := functions + ".new"
	if err := os.WriteFile(next, shellFunctions, 0o644); err != nil {
		return err
	}
	return os.Rename(next, functions)
}

func (h *Host) scriptEnv(c agent.Call) []string {
	deep := "0"
	if c.Deep {
		deep = "1"
	}
	return []string{
		"VCS_HOME=" + h.scriptHome(), "VCS_LOG=" + h.runDir, "VCS_HOST=" + h.node,
		"VCSAG_LOG_AGENT_NAME=" + c.Type, "VCSAG_LOG_SCRIPT_NAME=" + c.Entry.String(), "VCSAG_LOG_RESOURCE_NAME=" + c.Resource,
		"VCSAG_MONITOR_LEVEL_ONE=1", "VCSAG_MONITOR_LEVEL_TWO=" + deep,
		"HOLDFAST_TYPE=" + c.Type, "HOLDFAST_ENTRY_POINT=" + c.Entry.String(), "HOLDFAST_DEEP=" + deep,
	}
}

// arguments are the attributes as the field passes them: name, count and values of each, or only values.
func (s scriptAgent) arguments() ([]string, error) {
	t := s.call.Definition
	declared := map[string]*v1.Attribute{}
	order := t.GetArgList()
	for _, a := range t.GetAttributes() {
		declared[a.GetName()] = a
		if len(t.GetArgList()) == 0 {
			order = append(order, a.GetName())
		}
	}
	var out []string
	for _, name := range order {
		a := declared[name]
		if a == nil {
			return nil, fmt.Errorf("type %s has no attribute %s, which its argList names", t.GetName(), name)
		}
		values, counted, err := scriptValues(a, s.call.Attributes[name])
		if err != nil {
			return nil, faultOf(name, "%w", err)
		}
		if !t.GetScript().GetBareValues() {
			out = append(out, name)
			counted = true
		}
		if counted {
			out = append(out, strconv.Itoa(len(values)))
		}
		out = append(out, values...)
	}
	return out, nil
}

// scriptValues of an attribute. counted: also agents that get bare values get their number before them.
func scriptValues(a *v1.Attribute, value string) (values []string, counted bool, err error) {
	switch a.GetKind() {
	case v1.AttributeKind_ATTRIBUTE_KIND_LIST:
		values, err = words(value)
		return values, true, err
	case v1.AttributeKind_ATTRIBUTE_KIND_MAP:
		pairs, err := variables(value)
		for _, p := range pairs {
			name, v, _ := strings.Cut(p, "=")
			values = append(values, name, v)
		}
		return values, true, err
	case v1.AttributeKind_ATTRIBUTE_KIND_BOOLEAN:
		// The field's booleans are numbers.
		switch value {
		case "true":
			value = "1"
		case "false", "":
			value = "0"
		}
	}
	return []string{value}, false, nil
}

// program prepares an entry point. extra come between the name of the resource and the attributes.
func (s scriptAgent) program(name string, extra ...string) (launch, error) {
	attributes, err := s.arguments()
	if err != nil {
		return launch{}, err
	}
	argv := slices.Concat([]string{filepath.Join(s.dir, name), s.resource}, extra, attributes)
	for _, a := range argv {
		if strings.ContainsRune(a, 0) {
			return launch{}, fmt.Errorf("an attribute has a zero byte in it, which no program can be given")
		}
	}
	l := s.launch(argv...)
	l.dir = s.dir
	return l, nil
}

func (s scriptAgent) monitor(ctx context.Context) agent.Result {
	s.trimLog()
	l, err := s.program("monitor")
	if err != nil {
		return failed(err)
	}
	o, err := s.run(ctx, l)
	if err != nil {
		return failed(err)
	}
	said := lastLines(o.output)
	switch {
	case o.status == 100, o.status == 200 && s.call.Definition.GetIntentionalOffline():
		was := s.recall()
		s.watch(false)
		if was.stopping {
			if err := s.stop(ctx, nil, leftoverGrace); err != nil {
				return failed(err)
			}
		}
		s.offlineNow()
		r := found(false, false, said)
		r.Intentional = o.status == 200
		return r
	case o.status > 100 && o.status <= 110:
		s.remember(func(a *adapted) { a.online = true })
		r := found(true, false, "")
		r.WatchedPartly = s.watch(true)
		r.Confidence = (o.status - 100) * 10
		return r
	case o.status == 99:
		return agent.Result{State: v1.ResourceState_RESOURCE_STATE_UNKNOWN, Message: said}
	}
	return agent.Result{State: v1.ResourceState_RESOURCE_STATE_UNKNOWN, Message: o.failure(l).Error()}
}

// waiting is the result of an online or offline script: its exit status is the time to wait before the first monitor.
func waiting(o outcome, l launch) agent.Result {
	if o.status < 0 {
		return failed(o.failure(l))
	}
	return agent.Result{Wait: time.Duration(o.status) * time.Second}
}

func (s scriptAgent) online(ctx context.Context) agent.Result {
	l, err := s.program("online")
	if err != nil {
		return failed(err)
	}
	s.remember(func(a *adapted) { a.stopping, a.informed = false, false })
	o, err := s.begin(ctx, l, func(o outcome) bool { return o.status >= 0 })
	if err != nil {
		return failed(err)
	}
	return waiting(o, l)
}

func (s scriptAgent) offline(ctx context.Context) agent.Result {
	l, err := s.program("offline")
	if err != nil {
		return failed(err)
	}
	s.h.watcher.set(s.key(), nil)
	o, err := s.runCall(ctx, "offline", l)
	if err != nil {
		return failed(err)
	}
	// It may only have asked: the monitor says when it is offline.
	s.remember(func(a *adapted) { *a = adapted{stopping: true} })
	return waiting(o, l)
}

// clean calls the script, if there is one, and kills what it leaves in any case.
func (s scriptAgent) clean(ctx context.Context) agent.Result {
	l, err := s.program("clean", strconv.Itoa(int(s.call.CleanReason)))
	if err != nil {
		return failed(err)
	}
	if !missing(l.argv[0]) {
		part, cancel := half(ctx)
		defer cancel()
		o, rerr := s.runCall(part, "clean", l)
		switch {
		case rerr != nil && part.Err() != nil && ctx.Err() == nil:
			err = fmt.Errorf("%s did not end within half of the time for clean: %w", l.argv[0], rerr)
		case rerr != nil:
			err = rerr
		case o.status != 0:
			err = o.failure(l)
		}
	}
	s.offlineNow()
	if err = errors.Join(err, s.end(ctx, nil)); err != nil {
		return failed(err)
	}
	return agent.Result{}
}

func (s scriptAgent) action(ctx context.Context) agent.Result {
	name := s.call.Name
	if !plainFile(name) {
		return failed(fmt.Errorf("%q is no name of an action", name))
	}
	if !slices.Contains(s.call.Definition.GetSupportedActions(), name) {
		return failed(fmt.Errorf("type %s has no action %s%s", s.call.Type, name, oneOf(s.call.Definition.GetSupportedActions())))
	}
	l, err := s.program(filepath.Join("actions", name))
	if err != nil {
		return failed(err)
	}
	l.argv = append(append(l.argv, strconv.Itoa(len(s.call.Arguments))), s.call.Arguments...)
	l.output = maxOutput
	o, err := s.runCall(ctx, "action "+name, l)
	r := agent.Result{Output: o.output}
	switch {
	case err != nil:
		r.Err = err.Error()
	case o.status != 0:
		r.Err = fmt.Sprintf("%s %s", l.argv[0], o.how)
	}
	return r
}

func oneOf(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return "; it has " + strings.Join(names, ", ")
}

// plainFile: the name stands for a file in a directory, and for none elsewhere.
func plainFile(name string) bool {
	return name != "" && name[0] != '.' && !strings.ContainsAny(name, "/\x00")
}

func (s scriptAgent) info(ctx context.Context) agent.Result {
	op := "1"
	if s.recall().informed {
		op = "2"
	}
	l, err := s.program("info", op)
	if err != nil {
		return failed(err)
	}
	if missing(l.argv[0]) {
		return agent.Result{}
	}
	l.output = maxInfo
	o, err := s.run(ctx, l)
	if err != nil {
		return failed(err)
	}
	s.remember(func(a *adapted) { a.informed = a.online })
	r := agent.Result{Info: map[string]string{"State": "Valid", "Msg": o.output}}
	if o.status != 0 {
		r.Info["State"] = "Invalid"
	}
	return r
}

// attrChanged tells the script of each attribute that has changed. Its exit status means nothing.
func (s scriptAgent) attrChanged(ctx context.Context) agent.Result {
	name := filepath.Join(s.dir, "attr_changed")
	if missing(name) {
		return agent.Result{}
	}
	for _, changed := range s.call.Changed {
		i := slices.IndexFunc(s.call.Definition.GetAttributes(), func(a *v1.Attribute) bool { return a.GetName() == changed })
		if i < 0 {
			continue
		}
		values, _, err := scriptValues(s.call.Definition.GetAttributes()[i], s.call.Attributes[changed])
		if err != nil {
			return failed(faultOf(changed, "%w", err))
		}
		l := s.launch(append([]string{name, s.resource, s.resource, changed}, values...)...)
		l.dir = s.dir
		if _, err := s.runCall(ctx, "attr_changed", l); err != nil {
			return failed(err)
		}
	}
	return agent.Result{}
}

// optional runs an entry point that need not be there. Its exit status means nothing.
func (s scriptAgent) optional(ctx context.Context, name string) agent.Result {
	l, err := s.program(name)
	if err != nil {
		return failed(err)
	}
	if missing(l.argv[0]) {
		return agent.Result{}
	}
	if _, err := s.runCall(ctx, name, l); err != nil {
		return failed(err)
	}
	return agent.Result{}
}

// requiredScripts are the entry points that a type needs.
func requiredScripts(o v1.Operations) []string {
	switch o {
	case v1.Operations_OPERATIONS_NONE:
		return []string{"monitor"}
	case v1.Operations_OPERATIONS_ON_ONLY:
		return []string{"online", "monitor"}
	}
	return []string{"online", "offline", "monitor"}
}

// checkScripts finds what is missing in the directory of a script agent. A machine that does not have the directory can't tell.
func checkScripts(t *v1.ResourceType) (errs []error) {
	dir := t.GetScript().GetDirectory()
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) || !filepath.IsAbs(dir) {
		return nil
	}
	for _, name := range requiredScripts(t.GetOperations()) {
		if err := executable(filepath.Join(dir, name)); err != nil {
			errs = append(errs, fmt.Errorf("entry point %s can't be called: %w", name, scriptFault(err)))
		}
	}
	for _, name := range []string{"clean", "open", "close", "info", "attr_changed"} {
		if err := executable(filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("entry point %s can't be called: %w", name, scriptFault(err)))
		}
	}
	for _, name := range t.GetSupportedActions() {
		if !plainFile(name) {
			continue
		}
		if err := executable(filepath.Join(dir, "actions", name)); err != nil {
			errs = append(errs, fmt.Errorf("action %s can't be called: %w", name, scriptFault(err)))
		}
	}
	return errs
}

// scriptFault names the file once and in plain words.
func scriptFault(err error) error {
	var p *os.PathError
	if errors.As(err, &p) && errors.Is(p.Err, syscall.ENOENT) {
		return fmt.Errorf("%s does not exist", p.Path)
	}
	return err
}
