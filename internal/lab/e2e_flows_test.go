package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

// The flows of faults, with real programs that misbehave (samples/flow.sh), in
// one lab: each flow has a group of its own.

type flows struct {
	*site
	dir string
}

// flow is one group with one resource, g-r, unless more are written.
type flow struct {
	*flows
	t    *testing.T
	name string
}

// group applies a group; more are lines of the group, limits are of each resource.
func (f *flows) group(t *testing.T, name, more, limits string, resources ...string) *flow {
	t.Helper()
	if len(resources) == 0 {
		resources = []string{"r"}
	}
	for key, value := range map[string]string{"monitorInterval": "100ms", "offlineMonitorInterval": "100ms", "restartLimit": "0",
		"onlineTimeout": "1s", "offlineTimeout": "1s", "cleanTimeout": "1s", "monitorTimeout": "300ms"} {
		if !strings.Contains(limits, key) {
			limits += ", " + key + ": " + value
		}
	}
	limits = strings.TrimPrefix(limits, ", ")
	var b strings.Builder
	fmt.Fprintf(&b, "kind: Group\nname: %s\nsystemList: [n1, n2]\n%s\nresources:\n", name, more)
	for _, r := range resources {
		r, extra, _ := strings.Cut(r, " ")
		full := name + "-" + r
		sh := func(verb string) string { return fmt.Sprintf("/bin/sh %s/flow.sh %s %s %s", f.dir, verb, full, f.dir) }
		fmt.Fprintf(&b, "- name: %s\n  type: Application\n  attributes:\n    StartProgram: %s\n    StopProgram: %s\n    MonitorProgram: %s\n    CleanProgram: %s\n"+
			"  limits: {%s}\n",
			full, sh("start"), sh("stop"), sh("monitor"), sh("clean"), limits)
		if extra != "" {
			fmt.Fprintf(&b, "  %s\n", strings.ReplaceAll(extra, "; ", "\n  "))
		}
	}
	file := filepath.Join(f.dir, name+".yaml")
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	x := &flow{f, t, name}
	x.do("apply", "-f", file)
	x.is("probed", func(g *v1.GroupInfo) bool { // before that an operation is refused
		return !slices.ContainsFunc(g.GetNodes(), func(n *v1.GroupOnNodeInfo) bool { return !n.GetProbed() })
	})
	return x
}

// do runs a command on the third node, which never runs anything.
func (x *flow) do(args ...string) string {
	x.t.Helper()
	s := *x.site
	s.t = x.t
	return s.cli("n3", args...)
}

// behave makes a verb of the group's resource misbehave from now on: "r.start.hang.n1".
func (x *flow) behave(how string) {
	x.t.Helper()
	if err := os.WriteFile(filepath.Join(x.dir, x.name+"-"+how), nil, 0o600); err != nil {
		x.t.Fatal(err)
	}
}

func (x *flow) heal(how string) {
	x.t.Helper()
	if err := os.Remove(filepath.Join(x.dir, x.name+"-"+how)); err != nil {
		x.t.Fatal(err)
	}
}

// die takes the resource away on a node behind everybody's back; rise puts it there.
func (x *flow) die(node, r string)  { x.run(node, "rm", "/run/flow-"+x.name+"-"+r) }
func (x *flow) rise(node, r string) { x.run(node, "touch", "/run/flow-"+x.name+"-"+r) }

func (x *flow) run(node string, argv ...string) {
	x.t.Helper()
	if out, err := x.Output(x.ctx, node, argv...); err != nil {
		x.t.Fatalf("%v on %s: %v\n%s", argv, node, err, out)
	}
}

// is waits until what is said of the group holds.
func (x *flow) is(what string, ok func(*v1.GroupInfo) bool) {
	x.t.Helper()
	var last *v1.GroupInfo
	ctx, cancel := context.WithTimeout(x.ctx, patience)
	defer cancel()
	_, err := x.AwaitStatus(ctx, func(st *v1.StatusResponse) string {
		for _, g := range st.GetGroups() {
			if g.GetName() == x.name {
				if last = g; ok(g) {
					return ""
				}
			}
		}
		return x.name + " is not " + what
	})
	if err != nil {
		x.t.Fatalf("%v; last seen: %v", err, last)
	}
}

func (x *flow) online(node string) {
	x.t.Helper()
	x.is("online on "+node, func(g *v1.GroupInfo) bool {
		return g.GetState() == v1.GroupState_GROUP_STATE_ONLINE && g.GetNode() == node
	})
}

func (x *flow) state(s v1.GroupState) {
	x.t.Helper()
	x.is(s.String(), func(g *v1.GroupInfo) bool { return g.GetState() == s })
}

// starts are the nodes on which a resource was started, in order.
func (x *flow) starts(r string) string {
	b, _ := os.ReadFile(filepath.Join(x.dir, x.name+"-"+r+".starts"))
	return strings.Join(strings.Fields(string(b)), " ")
}

func (x *flow) started(r, want string) {
	x.t.Helper()
	if got := x.starts(r); got != want {
		x.t.Errorf("%s-%s was started on %q, not on %q", x.name, r, got, want)
	}
}

// event waits until there is one with that code about the group, whose message holds text.
func (x *flow) event(code, text string) {
	x.t.Helper()
	var last string
	for end := time.Now().Add(patience); time.Now().Before(end); {
		last = x.do("events", "--group", x.name)
		if slices.ContainsFunc(strings.Split(last, "\n"), func(l string) bool { return strings.Contains(l, code) && strings.Contains(l, text) }) {
			return
		}
		if err := pause(x.ctx, 50*time.Millisecond); err != nil {
			break
		}
	}
	x.t.Fatalf("no event %s with %q; there are:\n%s", code, text, last)
}

// patience of each wait.
const patience = 15 * time.Second

const (
	auto   = "autoStartList: [n1]"
	online = v1.GroupState_GROUP_STATE_ONLINE
)

func TestFlows(t *testing.T) {
	s := newSite(t, Options{})
	f := &flows{s, filepath.Join(s.Dir(), "flows")}
	if err := os.Mkdir(f.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	script, err := samples.ReadFile("samples/flow.sh")
	s.must(err)
	s.must(os.WriteFile(filepath.Join(f.dir, "flow.sh"), script, 0o755))
	for name, test := range map[string]func(*testing.T, *flows){
		"fault": flowFault, "online-hangs": flowOnlineHangs, "online-ineffective": flowOnlineIneffective, "clean-fails": flowCleanFails,
		"monitor-hangs": flowMonitorHangs, "admin-wait": flowAdminWait, "group-retries": flowGroupRetries, "uncritical": flowUncritical,
		"propagation": flowPropagation, "violation": flowViolation, "frozen": flowFrozen, "flush": flowFlush, "engine-dies": flowEngineDies,
		"triggers": flowTriggers, "disabled": flowDisabled, "auto-clear": flowAutoClear, "persistent": flowPersistent, "two-levels": flowDependent,
	} {
		t.Run(name, func(t *testing.T) { test(t, f) })
	}
}

// Spec 11.1: tolerated once, restarted once in place, then the group moves; cleared, it may come back.
func flowFault(t *testing.T, f *flows) {
	x := f.group(t, "fault", auto, ", toleranceLimit: 1, restartLimit: 1")
	x.online("n1")
	x.die("n1", "r")
	x.event("resource.online", "fault-r")
	for end := time.Now().Add(patience); x.starts("r") != "n1 n1" && time.Now().Before(end); {
		s := pause(x.ctx, 20*time.Millisecond)
		x.must(s)
	}
	x.online("n1")
	x.die("n1", "r")
	x.online("n2")
	x.started("r", "n1 n1 n2")
	x.event("group.faulted", "n1")
	x.do("group", "clear", "fault")
	x.do("group", "switch", "fault", "--to", "n1")
	x.online("n1")
}

// Spec 6.6: online hangs, is killed and cleaned up after, and the group moves.
func flowOnlineHangs(t *testing.T, f *flows) {
	x := f.group(t, "ohang", "", "")
	x.behave("r.start.hang.n1")
	x.do("group", "online", "ohang", "--no-wait")
	x.online("n2")
	x.started("r", "n2")
	x.event("resource.faulted", "n1")
}

// Spec 6.6: online says that it worked, but nothing is there; it is tried again in place, then elsewhere.
func flowOnlineIneffective(t *testing.T, f *flows) {
	x := f.group(t, "oline", "", ", onlineRetryLimit: 1, onlineWaitLimit: 1")
	x.behave("r.start.lie.n1")
	x.do("group", "online", "oline", "--no-wait")
	x.online("n2")
	x.event("resource.faulted", "n1")
}

// Spec 6.4, 6.7: what can't be taken down blocks everything else until it is gone.
func flowCleanFails(t *testing.T, f *flows) {
	x := f.group(t, "cfail", auto, "")
	x.online("n1")
	x.behave("r.stop.lie.n1")
	x.behave("r.clean.fail.n1")
	x.do("group", "switch", "cfail", "--no-wait")
	x.is("stuck", func(g *v1.GroupInfo) bool { return strings.Contains(g.GetMessage(), "can't be taken offline") })
	x.started("r", "n1")
	x.heal("r.clean.fail.n1")
	x.heal("r.stop.lie.n1")
	x.do("group", "clear", "cfail")
	x.is("free again", func(g *v1.GroupInfo) bool { return !strings.Contains(g.GetMessage(), "can't be taken offline") })
}

// Spec 6.9: so many monitors in a row that hang are a fault.
func flowMonitorHangs(t *testing.T, f *flows) {
	x := f.group(t, "mhang", auto, ", faultOnMonitorTimeouts: 2")
	x.online("n1")
	x.behave("r.monitor.hang.n1")
	x.heal2(t, "r.monitor.hang.n1", func() { x.event("resource.faulted", "n1") })
	x.online("n2")
}

// heal2 heals once wait has returned: clean needs a monitor that answers.
func (x *flow) heal2(t *testing.T, how string, wait func()) {
	t.Helper()
	time.AfterFunc(1500*time.Millisecond, func() { _ = os.Remove(filepath.Join(x.dir, x.name+"-"+how)) })
	wait()
}

// Spec 6.11: nobody cleans or restarts; the resource waits for a person.
func flowAdminWait(t *testing.T, f *flows) {
	x := f.group(t, "await", auto+"\nmanageFaults: none", "")
	x.online("n1")
	x.die("n1", "r")
	x.event("resource.admin-wait", "await-r")
	x.started("r", "n1")
	x.rise("n1", "r")
	x.do("group", "clear-admin-wait", "await", "--node", "n1")
	x.online("n1")
	x.started("r", "n1")
}

// Spec 7.3, OnlineRetryLimit: the group is tried on the same node once more before it moves.
func flowGroupRetries(t *testing.T, f *flows) {
	x := f.group(t, "retry", auto+"\nonlineRetryLimit: 1", "")
	x.online("n1")
	x.die("n1", "r")
	for end := time.Now().Add(patience); x.starts("r") != "n1 n1" && time.Now().Before(end); {
		x.must(pause(x.ctx, 20*time.Millisecond))
	}
	x.online("n1")
	x.die("n1", "r")
	x.online("n2")
	x.started("r", "n1 n1 n2")
}

// Spec 8.3: the fault of a leaf that is not critical costs the leaf only.
func flowUncritical(t *testing.T, f *flows) {
	x := f.group(t, "leaf", auto, "", "r", "l critical: false")
	x.online("n1")
	x.die("n1", "l")
	x.event("resource.faulted", "leaf-l")
	x.is("still on n1", func(g *v1.GroupInfo) bool { return g.GetNode() == "n1" })
	x.started("r", "n1")
}

// Spec 8.3: a fault below takes down what requires it, and with it the group.
func flowPropagation(t *testing.T, f *flows) {
	x := f.group(t, "tree", auto, "", "a critical: false", "b requires: [tree-a]")
	x.online("n1")
	x.die("n1", "a")
	x.online("n2")
	x.started("b", "n1 n2")
}

// Spec 8.9, scenario 18: what is started by hand on a second node is taken down there within a second.
func flowViolation(t *testing.T, f *flows) {
	x := f.group(t, "twice", auto, "")
	x.online("n1")
	at := monotonic()
	x.rise("n2", "r")
	x.event("group.violation", "n2")
	for x.exists("n2", "r") {
		x.must(pause(x.ctx, 5*time.Millisecond))
	}
	took := monotonic() - at
	t.Logf("taken offline after %v", took)
	if !x.exists("n1", "r") {
		t.Error("the instance that was there first is gone")
	}
}

func (x *flow) exists(node, r string) bool {
	_, err := x.Output(x.ctx, node, "test", "-e", "/run/flow-"+x.name+"-"+r)
	return err == nil
}

// Spec 8.4, scenario 17: nothing is done about a frozen group; after that it is.
func flowFrozen(t *testing.T, f *flows) {
	x := f.group(t, "ice", auto, "")
	x.online("n1")
	x.do("group", "freeze", "ice", "--temporary", "--reason", "maintenance of its disk")
	x.die("n1", "r")
	x.is("seen down", func(g *v1.GroupInfo) bool { return g.GetState() != online })
	x.started("r", "n1")
	x.do("group", "unfreeze", "ice")
	x.is("online again", func(g *v1.GroupInfo) bool { return g.GetState() == online })
}

// Spec 8.5: a group that hangs on its way is let go of.
func flowFlush(t *testing.T, f *flows) {
	x := f.group(t, "flush", "", ", onlineTimeout: 1m")
	x.behave("r.start.hang")
	x.do("group", "online", "flush", "--no-wait")
	x.state(v1.GroupState_GROUP_STATE_STARTING)
	x.do("group", "flush", "flush")
	x.heal("r.start.hang")
	x.run("n1", "pkill", "-f", "flow.sh start flush-r|sleep 1000")
	x.is("let go of", func(g *v1.GroupInfo) bool { return g.GetState() != v1.GroupState_GROUP_STATE_STARTING })
	x.do("group", "online", "flush", "--node", "n2")
	x.online("n2")
}

// Scenario 10: the engine dies in the middle of an online; what was begun comes to its end, once.
func flowEngineDies(t *testing.T, f *flows) {
	x := f.group(t, "dies", "", ", onlineTimeout: 30s")
	x.behave("r.start.hang.n1")
	x.do("group", "online", "dies", "--node", "n1", "--no-wait")
	x.state(v1.GroupState_GROUP_STATE_STARTING)
	n, _, err := x.KillProcesses("n1", isDaemon("clusterd"))
	x.must(err)
	if n == 0 { // for a moment there are two: one is about to become a program of a resource
		t.Fatalf("%d processes of clusterd", n)
	}
	x.heal("r.start.hang.n1")
	x.online("n1")
	x.started("r", "n1")
}

// Spec 12.3: triggers run where and when they should; one that hangs is not waited for for ever (scenario 19).
func flowTriggers(t *testing.T, f *flows) {
	dir := filepath.Join(f.dir, "triggers")
	f.must(os.Mkdir(dir, 0o755))
	for _, name := range []string{"postonline", "postoffline", "resfault", "nofailover"} {
		f.must(os.WriteFile(filepath.Join(dir, name), []byte(fmt.Sprintf("#!/bin/sh\necho \"$(hostname) $*\" >>%s/said.%s\n", f.dir, name)), 0o755))
	}
	f.must(os.WriteFile(filepath.Join(dir, "preonline"), []byte("#!/bin/sh\nexec sleep 1000\n"), 0o755))
	x := f.group(t, "trig", auto+"\ntriggersEnabled: [preonline, postonline, postoffline, resfault, nofailover]\npreOnlineTimeout: 1s\ntriggerPath: "+dir, "")
	x.online("n1")
	x.said("postonline", "n1")
	x.die("n1", "r")
	x.said("resfault", "n1")
	x.online("n2")
	x.said("postoffline", "n1")
	x.die("n2", "r")
	x.said("nofailover", "")
}

// said waits until a trigger has run on a node.
func (x *flow) said(trigger, node string) {
	x.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); {
		b, _ := os.ReadFile(filepath.Join(x.dir, "said."+trigger))
		if len(b) > 0 && strings.Contains(string(b), node) {
			return
		}
		x.must(pause(x.ctx, 20*time.Millisecond))
	}
	x.t.Fatalf("trigger %s has not run on %s", trigger, node)
}

// Spec 8.7: a group that is disabled on a node does not go there.
func flowDisabled(t *testing.T, f *flows) {
	x := f.group(t, "able", auto, "")
	x.online("n1")
	x.do("group", "disable", "able", "--node", "n2")
	x.die("n1", "r")
	x.event("group.nofailover", "n2")
	x.do("group", "enable", "able", "--node", "n2")
	x.online("n2")
}

// Spec 7.3, AutoClearLimit: the fault is cleared by itself, once.
func flowAutoClear(t *testing.T, f *flows) {
	x := f.group(t, "clear", auto+"\nautoClearLimit: 1\nautoClearInterval: 500ms\nautoFailOver: 0", "")
	x.online("n1")
	x.die("n1", "r")
	x.event("group.faulted", "n1")
	x.is("cleared", func(g *v1.GroupInfo) bool {
		return !slices.ContainsFunc(g.GetNodes(), func(n *v1.GroupOnNodeInfo) bool { return n.GetFaulted() })
	})
	if out := x.do("explain", "group", "clear"); !strings.Contains(out, "autoClearLimit") {
		t.Errorf("the explanation does not say what cleared it:\n%s", out)
	}
}

// Spec 5.9: a persistent resource that goes down moves the group, and keeps it from coming back.
func flowPersistent(t *testing.T, f *flows) {
	path := "/run/flow-persist"
	f2 := &flow{f, t, "persist"}
	for _, n := range []string{"n1", "n2"} {
		f2.run(n, "touch", path)
	}
	yaml := "kind: Group\nname: persist\nsystemList: [n1, n2]\nautoStartList: [n1]\nresources:\n" +
		"- name: persist-p\n  type: FileNone\n  attributes: {PathName: " + path + "}\n  limits: {monitorInterval: 100ms}\n" +
		"- name: persist-f\n  type: FileOnOff\n  requires: [persist-p]\n  attributes: {PathName: /run/flow-persist-f}\n"
	file := filepath.Join(f.dir, "persist.yaml")
	f.must(os.WriteFile(file, []byte(yaml), 0o600))
	f2.do("apply", "-f", file)
	f2.online("n1")
	f2.run("n1", "rm", path)
	f2.online("n2")
	f2.run("n2", "rm", path)
	f2.event("group.nofailover", "")
	f2.run("n1", "touch", path)
	f2.online("n1")
}

// Spec 10.3: of a firm pair the parent goes down first, the child moves, and the parent follows.
func flowDependent(t *testing.T, f *flows) {
	c := f.group(t, "child", auto, "")
	p := f.group(t, "parent", auto+"\ndependsOn:\n- {group: child, location: local, rigidity: firm}", "")
	c.online("n1")
	p.online("n1")
	c.die("n1", "r")
	c.online("n2")
	p.online("n2")
	c.started("r", "n1 n2")
	p.started("r", "n1 n2")
}
