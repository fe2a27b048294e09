package agents

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/group/agent"
)

const (
	// ocfRoot is where OCF agents and their libraries are.
	ocfRoot = "/usr/lib/ocf"
	// ocfState is the directory that is emptied by a reboot and in which agents keep what runs.
	ocfState = "/run/resource-agents"
	// ocfReason precedes the reason of a failure in what an agent prints.
	ocfReason = "ocf-exit-reason:"
	// ocfCheckLevel is the attribute that says how deep a deep monitor goes.
	ocfCheckLevel = "OCF_CHECK_LEVEL"
)

// Exit statuses of OCF agents.
const (
	ocfSuccess          = 0
	ocfGeneric          = 1
	ocfArguments        = 2
	ocfUnimplemented    = 3
	ocfPermission       = 4
	ocfNotInstalled     = 5
	ocfNotConfigured    = 6
	ocfNotRunning       = 7
	ocfPromoted         = 8
	ocfFailedPromoted   = 9
	ocfDegraded         = 190
	ocfDegradedPromoted = 191
)

var ocfWords = map[int]string{
	ocfSuccess: "success", ocfGeneric: "error", ocfArguments: "parameters not valid on this node", ocfUnimplemented: "not implemented",
	ocfPermission: "not permitted", ocfNotInstalled: "not installed", ocfNotConfigured: "not configured", ocfNotRunning: "not running",
	ocfPromoted: "running promoted", ocfFailedPromoted: "failed while promoted", ocfDegraded: "degraded", ocfDegradedPromoted: "degraded while promoted",
}

// ocfVerdict is what a failure means beyond itself: hard errors bar the node, fatal ones all nodes.
func ocfVerdict(status int) v1.Verdict {
	switch status {
	case ocfArguments, ocfUnimplemented, ocfPermission, ocfNotInstalled:
		return v1.Verdict_VERDICT_NOT_HERE
	case ocfNotConfigured:
		return v1.Verdict_VERDICT_NOWHERE
	}
	return v1.Verdict_VERDICT_UNSPECIFIED
}

// ocfAgent carries out calls by a resource agent of the Open Cluster Framework.
type ocfAgent struct {
	adapter
	program string
}

func runOCF(ctx context.Context, h *Host, c agent.Call) agent.Result {
	def := c.Definition.GetOcf()
	if !plainFile(def.GetProvider()) || !plainFile(def.GetAgent()) {
		return failed(fmt.Errorf("type %s: provider %q and agent %q are no plain names", c.Type, def.GetProvider(), def.GetAgent()))
	}
	o := ocfAgent{program: filepath.Join(h.ocfRoot, "resource.d", def.GetProvider(), def.GetAgent())}
	o.adapter = adapter{place: place{h: h, group: c.Group, resource: c.Resource}, call: c}
	switch c.Entry {
	case agent.Monitor:
		return o.monitor(ctx)
	case agent.Online:
		return o.online(ctx)
	case agent.Offline:
		return o.offline(ctx)
	case agent.Clean:
		return o.clean(ctx)
	case agent.Action:
		return o.action(ctx)
	case agent.AttrChanged:
		return o.reload(ctx)
	case agent.Close:
		o.h.watcher.set(o.key(), nil)
		o.forgetAll()
	}
	return agent.Result{}
}

// ocfAddresses are the attributes with the address that agents of provider heartbeat bring up.
var ocfAddresses = map[string]string{"IPaddr": "ip", "IPaddr2": "ip", "IPv6addr": "ipv6addr"}

// learnAddress remembers the address that the resource brings up, for Protect: there is no process that guard could kill.
// It says whether that is another one than before.
func (o ocfAgent) learnAddress() bool {
	def := o.call.Definition.GetOcf()
	attribute, ok := ocfAddresses[def.GetAgent()]
	if !ok || def.GetProvider() != "heartbeat" {
		return false
	}
	bare, _, _ := strings.Cut(o.call.Attributes[attribute], "/")
	ip, err := netip.ParseAddr(bare)
	if err != nil {
		return false // the agent will say so
	}
	address := netip.PrefixFrom(ip.WithZone(""), ip.BitLen()).String()
	if o.recall().address == address {
		return false
	}
	o.remember(func(a *adapted) { a.address = address })
	return true
}

// stateDir is ocfState for this node alone: there may be several on one machine, in a lab.
func (h *Host) stateDir() string {
	id := fnv.New32a()
	id.Write([]byte(h.runDir))
	return filepath.Join(ocfState, fmt.Sprintf("holdfast-%08x", id.Sum32()))
}

func (h *Host) makeStateDir() error {
	if _, err := os.Stat(h.stateDir()); err == nil {
		return nil
	}
	for _, dir := range []string{ocfState, h.stateDir()} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		// As the package makes it: agents that change their user keep files there.
		if err := os.Chmod(dir, 0o755|os.ModeSticky); err != nil {
			return err
		}
	}
	return nil
}

// prepare makes the launch of an action. interval of the monitor that this is; 0: a probe, or no monitor.
func (o ocfAgent) prepare(action string, timeout, interval time.Duration) (launch, error) {
	if err := o.h.makeStateDir(); err != nil {
		return launch{}, err
	}
	def := o.call.Definition.GetOcf()
	env := []string{
		"OCF_ROOT=" + o.h.ocfRoot, "OCF_RA_VERSION_MAJOR=1", "OCF_RA_VERSION_MINOR=1", "OCF_EXIT_REASON_PREFIX=" + ocfReason,
		"OCF_RESOURCE_INSTANCE=" + o.resource, "OCF_RESOURCE_TYPE=" + def.GetAgent(), "OCF_RESOURCE_PROVIDER=" + def.GetProvider(),
		"HA_RSCTMP=" + o.h.stateDir(), "HA_debug=0",
		"OCF_RESKEY_CRM_meta_name=" + action, "OCF_RESKEY_CRM_meta_on_node=" + o.h.node,
		"OCF_RESKEY_CRM_meta_timeout=" + strconv.FormatInt(timeout.Milliseconds(), 10),
		"OCF_RESKEY_CRM_meta_interval=" + strconv.FormatInt(interval.Milliseconds(), 10),
	}
	if action == "monitor" {
		level := "0"
		if o.call.Deep {
			level = o.call.Attributes[ocfCheckLevel]
			if level == "" {
				level = "10"
			}
		}
		// Without messages in other languages: it is what they set themselves, and the shell begins sooner.
		env = append(env, ocfCheckLevel+"="+level, "LANG=C")
	}
	for _, name := range sortedKeys(o.call.Attributes) {
		value := o.call.Attributes[name]
		switch {
		case value == "", name == ocfCheckLevel: // what is not given is for the agent's own default
		case strings.ContainsAny(name, "=\x00") || strings.ContainsRune(value, 0):
			return launch{}, faultOf(name, "can't be passed to an agent: it has a zero byte in it, or its name an equals sign")
		default:
			env = append(env, "OCF_RESKEY_"+name+"="+value)
		}
	}
	l := o.launch(o.program, action)
	l.env = env
	return l, nil
}

// saying puts an outcome into words: "IPaddr2 start: not installed (5): couldn't find command: ip".
func (o ocfAgent) saying(action string, out outcome) string {
	what := out.how
	if out.status >= 0 {
		what = fmt.Sprintf("status %d", out.status)
		if w, known := ocfWords[out.status]; known {
			what = fmt.Sprintf("%s (%d)", w, out.status)
		}
	}
	s := fmt.Sprintf("%s %s: %s", o.call.Definition.GetOcf().GetAgent(), action, what)
	if r := ocfReasonOf(out.output); r != "" {
		s += ": " + r
	}
	return s
}

// ocfReasonOf is the last reason that an agent gave, or else the end of what it printed.
func ocfReasonOf(output string) string {
	if _, after, ok := cutLast(output, ocfReason); ok {
		reason, _, _ := strings.Cut(after, "\n")
		return lastLines(reason)
	}
	return lastLines(output)
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

func (o ocfAgent) monitor(ctx context.Context) agent.Result {
	learned := o.learnAddress()
	expected := o.recall().online
	interval := time.Duration(0)
	if expected {
		interval = o.call.Definition.GetLimits().GetMonitorInterval().AsDuration()
		if interval < time.Millisecond {
			interval = time.Minute
		}
	}
	l, err := o.prepare("monitor", o.call.Timeout, interval)
	if err != nil {
		return failed(err)
	}
	out, err := o.run(ctx, l)
	if err != nil {
		return failed(err)
	}
	r := o.judge(out, expected)
	r.WatchedPartly = o.watch(r.State == v1.ResourceState_RESOURCE_STATE_ONLINE)
	if learned && r.State == v1.ResourceState_RESOURCE_STATE_ONLINE {
		o.h.changed(o.group) // what is not online is of no interest to guard before it is to be started
	}
	o.remember(func(a *adapted) {
		switch r.State {
		case v1.ResourceState_RESOURCE_STATE_ONLINE:
			a.online = true
		case v1.ResourceState_RESOURCE_STATE_OFFLINE:
			a.online = false
		}
	})
	return r
}

// judge tells what the outcome of a monitor means.
func (o ocfAgent) judge(out outcome, expected bool) agent.Result {
	switch out.status {
	case -1:
		return agent.Result{State: v1.ResourceState_RESOURCE_STATE_UNKNOWN, Message: o.saying("monitor", out)}
	case ocfSuccess:
		return found(true, false, "")
	case ocfPromoted:
		return found(true, false, o.saying("monitor", out))
	case ocfDegraded, ocfDegradedPromoted:
		r := found(true, false, o.saying("monitor", out))
		r.Confidence = 50
		return r
	case ocfNotRunning:
		return found(false, false, o.saying("monitor", out))
	case ocfNotInstalled:
		if !expected {
			// What is not installed does not run. That matters only once it shall be started here.
			return agent.Result{State: v1.ResourceState_RESOURCE_STATE_OFFLINE, Message: o.saying("monitor", out), Verdict: ocfVerdict(out.status)}
		}
	case ocfArguments, ocfUnimplemented, ocfPermission, ocfNotConfigured:
		if !expected {
			// The agent has not even looked. To stop it would fail in the same way, so it waits for a person to mend that.
			return agent.Result{State: v1.ResourceState_RESOURCE_STATE_UNKNOWN, Message: o.saying("monitor", out), Verdict: ocfVerdict(out.status)}
		}
	}
	return agent.Result{State: v1.ResourceState_RESOURCE_STATE_FAULTED, Message: o.saying("monitor", out), Verdict: ocfVerdict(out.status)}
}

func (o ocfAgent) online(ctx context.Context) agent.Result {
	l, err := o.prepare("start", o.call.Timeout, 0)
	if err != nil {
		return failed(err)
	}
	if o.learnAddress() {
		o.h.changed(o.group)
	}
	out, err := o.begin(ctx, l, func(out outcome) bool { return out.status == ocfSuccess })
	switch {
	case err != nil:
		return failed(err)
	case out.status != ocfSuccess:
		return agent.Result{Err: o.saying("start", out), Verdict: ocfVerdict(out.status)}
	}
	o.remember(func(a *adapted) { a.online = true })
	return agent.Result{}
}

// halt runs stop once.
func (o ocfAgent) halt(ctx context.Context, timeout time.Duration) error {
	l, err := o.prepare("stop", timeout, 0)
	if err != nil {
		return err
	}
	out, err := o.runCall(ctx, "stop", l)
	if err == nil && out.status != ocfSuccess {
		err = errors.New(o.saying("stop", out))
	}
	return err
}

func (o ocfAgent) offline(ctx context.Context) agent.Result {
	o.h.watcher.set(o.key(), nil)
	if err := o.halt(ctx, o.call.Timeout); err != nil {
		return failed(err)
	}
	o.offlineNow()
	// The agent has stopped all that it knows. What it has left must not go on beside the service on another node.
	if err := o.stop(ctx, nil, leftoverGrace); err != nil {
		return failed(err)
	}
	return agent.Result{}
}

// clean stops by the agent, and kills what is left. If the agent can't stop it while processes are in its way, it gets a
// second try without them. Only the agent knows of mounts, addresses and locks, so its word decides.
func (o ocfAgent) clean(ctx context.Context) agent.Result {
	o.h.watcher.set(o.key(), nil)
	var first error
	if o.call.CleanReason != agent.OfflineHung && o.call.CleanReason != agent.OfflineIneffective {
		part, cancel := half(ctx)
		defer cancel()
		first = o.halt(part, timeLeft(part))
		if first == nil {
			o.offlineNow()
			if err := o.end(ctx, nil); err != nil {
				return failed(err)
			}
			return agent.Result{}
		}
	}
	if err := o.end(ctx, nil); err != nil {
		return failed(errors.Join(first, err))
	}
	if err := o.halt(ctx, timeLeft(ctx)); err != nil {
		return failed(err)
	}
	o.offlineNow()
	return agent.Result{}
}

func timeLeft(ctx context.Context) time.Duration {
	end, ok := ctx.Deadline()
	if !ok {
		return time.Minute
	}
	return max(time.Second, time.Until(end))
}

// ocfOwnActions are carried out by the calls of their own, or not at all.
var ocfOwnActions = []string{"start", "stop", "promote", "demote", "notify", "migrate_to", "migrate_from"}

func (o ocfAgent) action(ctx context.Context) agent.Result {
	name := o.call.Name
	if !slices.Contains(o.call.Definition.GetSupportedActions(), name) {
		return failed(fmt.Errorf("type %s has no action %s%s", o.call.Type, name, oneOf(o.call.Definition.GetSupportedActions())))
	}
	if slices.Contains(ocfOwnActions, name) {
		return failed(fmt.Errorf("%s is no action for people: bring the resource online or offline", name))
	}
	l, err := o.prepare(name, o.call.Timeout, 0)
	if err != nil {
		return failed(err)
	}
	l.argv = append(l.argv, o.call.Arguments...)
	l.output = maxOutput
	out, err := o.runCall(ctx, name, l)
	r := agent.Result{Output: out.output}
	switch {
	case err != nil:
		r.Err = err.Error()
	case out.status != ocfSuccess:
		r.Err = o.saying(name, out)
	}
	return r
}

// reload tells the agent of changed attributes, if it can be told.
func (o ocfAgent) reload(ctx context.Context) agent.Result {
	actions := o.call.Definition.GetSupportedActions()
	name := "reload-agent"
	if !slices.Contains(actions, name) {
		name = "reload"
		if !slices.Contains(actions, name) {
			return agent.Result{}
		}
	}
	l, err := o.prepare(name, o.call.Timeout, 0)
	if err != nil {
		return failed(err)
	}
	out, err := o.runCall(ctx, name, l)
	switch {
	case err != nil:
		return failed(err)
	case out.status != ocfSuccess:
		return agent.Result{Err: o.saying(name, out)}
	}
	return agent.Result{}
}

// checkOCF finds actions that an OCF agent must not be asked for.
func checkOCF(t *v1.ResourceType) (errs []error) {
	for _, name := range t.GetSupportedActions() {
		if slices.Contains(ocfOwnActions, name) {
			errs = append(errs, fmt.Errorf("%s is no action for people: the cluster calls it, or nobody", name))
		}
	}
	return errs
}
