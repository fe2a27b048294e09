package cli

import (
	"fmt"
	"os"
	"strings"
	"testing"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/api"
	"github.com/holdfast-ha/holdfast/internal/api/apifake"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// newWide is a site with a parallel and a hybrid group, dependencies,
// capacities, and a type that knows actions.
func newWide(t *testing.T) *site {
	t.Helper()
	types := someTypes()
	for _, typ := range types {
		if typ.GetName() == "Process" {
			typ.SupportedActions = []string{"drill", "program.vfd", "checkpoint"}
		}
	}
	s := siteOf(t, "testdata/wide.yaml", types)
	s.Change(func(st *statepb.State, _ *api.Local) {
		apifake.Runs(st, "shop", "n1")
		apifake.Runs(st, "db", "n2")
		apifake.Runs(st, "watch", "n1", "n2", "n3")
		apifake.Runs(st, "cache", "n1", "n3")
		st.Decisions = []*v1.Decision{
			{Number: 1, TimeMs: s.Now - 60_000, Group: "db", Node: "n2", Action: "online db on n2", Reasons: []string{"n2 is the first node of its autoStartList that can run it"}},
			{Number: 2, TimeMs: s.Now - 59_000, Group: "shop", Node: "n1", Action: "online shop on n1", Reasons: []string{"n1 is the first node of its autoStartList that can run it"},
				Inputs: []string{"the order of its autoStartList"}, Rejections: []*v1.Rejection{{Node: "n3", Reason: "n3 is frozen: holdfast node unfreeze n3"}}},
		}
		st.NextDecision = 2
	})
	return s
}

// transcript of commands.
type transcript struct {
	t *testing.T
	s *site
	b strings.Builder
}

func (r *transcript) do(commands ...string) {
	r.t.Helper()
	for _, c := range commands {
		fmt.Fprintf(&r.b, "$ holdfast %s\n%s\n", c, r.s.run(r.t, fields(c)...))
	}
}

// fields of a command line; words in double quotes are one.
func fields(line string) (out []string) {
	for i, part := range strings.Split(line, `"`) {
		if i%2 == 1 {
			out = append(out, part)
			continue
		}
		out = append(out, strings.Fields(part)...)
	}
	return out
}

// say what is changed behind the API's back.
func (r *transcript) change(what string, f func(st *statepb.State)) {
	fmt.Fprintf(&r.b, "# %s\n\n", what)
	r.s.Change(func(st *statepb.State, _ *api.Local) { f(st) })
}

func (r *transcript) golden(name string) {
	r.t.Helper()
	golden(r.t, name, r.b.String())
}

func TestSeveralInstances(t *testing.T) {
	r := &transcript{t: t, s: newWide(t)}
	r.do("status", "group list", "group show cache", "group show watch", "group show shop --forecast", "group dependencies", "group dependencies db",
		"group dependencies cache", "node list", "node show n1", "package list", "package show cache")
	r.change("an instance on n3 faults, and zone 2 has no node that can take it; n2 is lost", func(st *statepb.State) {
		on := st.GroupStatus["cache"].Nodes["n3"]
		on.Faulted, on.Want = true, v1.Want_WANT_OFFLINE
		on.Resources["cache-server"] = &v1.ResourceStatus{State: v1.ResourceState_RESOURCE_STATE_FAULTED, Message: "it crashed", ChangedMs: r.s.Now}
		st.GroupStatus["cache"].Instances["2"].NoTarget = true
		st.GroupStatus["cache"].Instances["2"].Waiting = "no node of zone 2 can run cache"
		st.NodeStatus["n2"].Phase = statepb.NodePhase_NODE_PHASE_FAULTED
		st.View.Members = []*statepb.Member{st.View.Members[0], st.View.Members[2]}
		delete(st.GroupStatus["watch"].Nodes, "n2")
		apifake.Runs(st, "db", "")
		st.GroupStatus["db"].Instances[""].IntentOnline = true
		st.GroupStatus["db"].Instances[""].Waiting = "db waits for room on n3"
	})
	r.do("status", "group list", "group show cache", "group dependencies shop", "package list")
	r.golden("instances")
}

func TestHolds(t *testing.T) {
	r := &transcript{t: t, s: newWide(t)}
	r.do(`group freeze shop --temporary --until 30m --reason "schema change"`, `group freeze db --reason "new disks"`, "node freeze n3 --temporary", "status", "group show shop", "group show db",
		"node show n3", "node freeze n3 --until 5m", "group freeze shop --until -5m --temporary", "group freeze shop --temporary --until 1000h", "group unfreeze shop --dry-run", "group unfreeze shop",
		"group unfreeze db -o json", "node unfreeze n3")
	r.do(`group disable db --node n3 --reason "no licence"`, "group disable cache", "group list", "group show db", "group enable db --node n3", "group enable cache --dry-run", "group enable cache", "group disable db --node n1")
	r.do(`group switching off shop --reason "night shift"`, "status", "package list", "group switching on shop", "group switching on shop --reason x", "group switching maybe shop")
	r.do("group maintenance on shop", "group switching off shop", "group maintenance on shop", "status", "package show shop", "group maintenance on watch", "group maintenance on watch --node n2", "group maintenance off watch", "group maintenance off shop --node n1", "group maintenance off shop")
	r.change("nobody can tell whether db runs on n2", func(st *statepb.State) {
		apifake.Runs(st, "db", "")
		st.GroupStatus["db"].Nodes["n2"].AutoDisabled = "n2 left the cluster without stopping db"
	})
	r.do("status", "group show db", "group autoenable db", "group autoenable db --node n9", "group autoenable db --node n1", "group autoenable db --node n2")
	r.change("n2 was detached, and db goes on there", func(st *statepb.State) {
		apifake.Runs(st, "db", "n2")
		st.GroupStatus["db"].Nodes["n2"].Detached = true
		st.NodeStatus["n2"].Phase = statepb.NodePhase_NODE_PHASE_DOWN
	})
	r.do("status", "group list", "package show db")
	r.golden("holds")
}

func TestAdminWait(t *testing.T) {
	r := &transcript{t: t, s: newWide(t)}
	r.do("group clear-admin-wait shop", "resource clear-admin-wait shop-server", "group clear-admin-wait nothing")
	r.change("shop-server waits for an administrator", func(st *statepb.State) {
		st.GroupStatus["shop"].Nodes["n1"].Resources["shop-server"] = &v1.ResourceStatus{State: v1.ResourceState_RESOURCE_STATE_UNKNOWN,
			AdminWait: v1.AdminWait_ADMIN_WAIT_MONITOR_HUNG, Message: "no answer in 1m", ChangedMs: r.s.Now}
	})
	r.do("status", "group show shop", "resource show shop-server", "group flush shop", "group flush shop --node n2", "group clear-admin-wait shop-server --node n2",
		"group clear-admin-wait shop-server --node n1 --fault", "group flush shop --force")
	r.golden("adminwait")
}

func TestNodeOperations(t *testing.T) {
	r := &transcript{t: t, s: newWide(t)}
	r.do("node load n1 cpu=95 memory=100", "node list", "node show n1", "status", "node load n1", "node load n1 cpu", "node load n1 cpu=-1", "node load n1 cpu=1 cpu=2", "node load n1 --none", "node load n9 cpu=1",
		"node evacuate n1 --dry-run", "node evacuate n1 --no-wait", "node evacuate n1 --no-wait", "node evacuate n9", "operation list", "node stop n2 --detach --evacuate", "node stop n2 --dry-run --evacuate", "node stop n2 --detach --no-wait",
		"node freeze n3 --evacuate --no-wait", "operation list --all -o json")
	r.change("n2 has left, n3 was evicted", func(st *statepb.State) {
		st.NodeStatus["n2"].Phase, st.NodeStatus["n3"].Phase = statepb.NodePhase_NODE_PHASE_DOWN, statepb.NodePhase_NODE_PHASE_FAULTED
		st.View.Members = st.View.Members[:1]
		st.Events = append(st.Events,
			&v1.Event{Number: st.NextEvent + 1, TimeMs: r.s.Now + 900, Code: "node.left", Node: "n2", Message: "n2 has left the cluster"},
			&v1.Event{Number: st.NextEvent + 2, TimeMs: r.s.Now + 950, Code: "node.evicted", Node: "n3", Severity: v1.Severity_SEVERITY_ERROR, Message: "n3 was evicted: silent on both links for 1.002s"})
		st.NextEvent += 2
	})
	r.do("node list", "node show n2", "explain node n3")
	r.golden("nodeops")
}

func TestGroupOperations(t *testing.T) {
	r := &transcript{t: t, s: newWide(t)}
	r.do("group switch shop --any --dry-run", "group switch shop --to n2 --any", "group switch watch --to n1", "group offline db --propagate --dry-run", "group offline shop --force --no-wait", "group online shop --node n9",
		"group online shop --node n2 --propagate --no-wait -o json", "package run db --node n3 --no-wait", "package halt cache --node n3 --no-wait", "package disable db", "package disable db --node n2 --node n3 --reason audit",
		"package show db", "package enable db --node n3", "package enable db -o yaml", "operation list")
	r.golden("groupops")
}

func TestSignals(t *testing.T) {
	r := &transcript{t: t, s: newWide(t)}
	r.do("signal list", "signal set disk up --ttl 30s", "signal set disk down --node n2", "signal set slots 12", "signal list", "signal list disk", "signal list dusk", "signal set disk 3 --node n3", "signal set disk maybe",
		"signal set disk 0", "signal set slots 4294967296", `signal set "two words" up`, "signal set disk up --ttl 1ms", "signal clear disk --node n3", "signal clear disk --node n2", "signal clear slots", "signal clear slots", "signal list -o json")
	r.s.Now += 31_000
	r.do("signal list")
	r.golden("signals")
}

// An agent that answers actions at once.
func answering(s *site, answer func(op *v1.Operation) (failed bool, message string)) {
	s.Submitted = func(c *statepb.Command) {
		if c.GetOperate().GetOperation().GetKind() != v1.OperationKind_OPERATION_KIND_RESOURCE_ACTION {
			return
		}
		s.Change(func(st *statepb.State, _ *api.Local) {
			op := st.Operations[len(st.Operations)-1]
			failed, message := answer(op)
			op.State, op.Message, op.EndedMs = v1.OperationState_OPERATION_STATE_DONE, message, op.GetStartedMs()+5
			if failed {
				op.State = v1.OperationState_OPERATION_STATE_FAILED
			}
		})
	}
}

func TestActions(t *testing.T) {
	r := &transcript{t: t, s: newWide(t)}
	answering(r.s, func(op *v1.Operation) (bool, string) {
		return strings.Join(op.GetArguments(), " ") == "bad", fmt.Sprintf("ran %s of %s on %s with %q", op.GetAction(), op.GetResource(), op.GetNode(), op.GetArguments())
	})
	r.do("resource action shop-server checkpoint", "resource action shop-server checkpoint bad", "resource action shop-server checkpoint --node n2 -- -v full", "resource action shop-server checkpoints",
		"resource action shop-ip checkpoint", "resource action watch-server checkpoint", "resource action shop-server", "resource info shop-server")
	r.change("the agent has told something", func(st *statepb.State) {
		st.GroupStatus["shop"].Nodes["n1"].Resources["shop-server"].Info = map[string]string{"connections": "12", "version": "1.27"}
		st.GroupStatus["shop"].Nodes["n1"].Resources["shop-server"].Confidence = 80
	})
	r.do("resource info shop-server", "resource info shop-server --node n2", "resource info shop-server --node n9", "resource list --group shop", "type show Process")
	r.golden("actions")
}

func TestDrill(t *testing.T) {
	r := &transcript{t: t, s: newWide(t)}
	answering(r.s, func(op *v1.Operation) (bool, string) {
		if op.GetNode() == "n3" && op.GetAction() == "drill" {
			return true, "/usr/sbin/nginx is not there"
		}
		return false, "/usr/sbin/nginx is there"
	})
	r.do("group drill shop --node n2", "group drill shop --node n3", "group drill shop", "group drill shop --node n9", "group drill shop --node n2 --timeout 1h", "group drill db --node n1")
	r.s.Submitted = nil // nobody answers
	r.do("group drill shop --node n2 --timeout 1s -o json")
	r.golden("drill")
}

func TestExplanations(t *testing.T) {
	r := &transcript{t: t, s: newWide(t)}
	r.do("explain group shop", "explain resource shop-server", "explain node n1", "explain node n3")
	r.change("shop-server faults on n1", func(st *statepb.State) {
		on := st.GroupStatus["shop"].Nodes["n1"]
		on.Faulted = true
		on.Resources["shop-server"] = &v1.ResourceStatus{State: v1.ResourceState_RESOURCE_STATE_FAULTED, Message: "process 812 was killed by signal 9", Restarts: 2, ChangedMs: r.s.Now}
		on.Want = v1.Want_WANT_OFFLINE
		to := st.GroupStatus["shop"].Nodes["n2"]
		to.Want = v1.Want_WANT_ONLINE
		to.Resources["shop-ip"].Activity = v1.ResourceActivity_RESOURCE_ACTIVITY_ONLINE
		st.Events = []*v1.Event{
			{Number: 1, TimeMs: r.s.Now - 300, Code: "node.load", Node: "n3", Severity: v1.Severity_SEVERITY_WARNING, Message: "n3 is loaded"},
			{Number: 2, TimeMs: r.s.Now - 200, Code: "resource.restarted", Group: "shop", Resource: "shop-server", Node: "n1", Severity: v1.Severity_SEVERITY_WARNING, Message: "shop-server was restarted on n1"},
			{Number: 3, TimeMs: r.s.Now, Code: "resource.faulted", Group: "shop", Resource: "shop-server", Node: "n1", Severity: v1.Severity_SEVERITY_ERROR, Message: "shop-server is faulted on n1"},
			{Number: 4, TimeMs: r.s.Now + 10, Code: "group.faulted", Group: "shop", Node: "n1", Severity: v1.Severity_SEVERITY_ERROR, Message: "shop is faulted on n1", Decision: 3},
			{Number: 5, TimeMs: r.s.Now + 10, Code: "audit.done", Severity: v1.Severity_SEVERITY_INFORMATION, Message: "root from n1: GroupService/Clear group web"},
		}
		st.NextEvent = 5
		st.Decisions = append(st.Decisions, &v1.Decision{Number: 3, TimeMs: r.s.Now + 10, Group: "shop", Node: "n2", Action: "online shop on n2",
			Reasons: []string{"shop-server faulted on n1", "n2 is the node with the most capacity left of those that can run it: 50 of cpu 90 left"}, Inputs: []string{"failOverPolicy load", "n2: 50 of cpu 90 left"},
			Rejections: []*v1.Rejection{{Node: "n3", Reason: "n3 is frozen: holdfast node unfreeze n3"}}})
	})
	r.do("explain resource shop-server", "explain resource shop-server --node n3", "explain resource shop-ip --node n2", "explain event 3", "explain event 4", "explain event #2", "explain event 5", "explain event 1", "explain event 99", "explain event x",
		"explain event 3 -o json", "explain node n1 -o json", "explain resource shop-server --node n1 -o yaml")
	r.change("db-server is half sure on n2, and was taken offline on purpose on n3", func(st *statepb.State) {
		st.GroupStatus["db"].Nodes["n2"].Resources["db-server"].Confidence = 60
		st.GroupStatus["db"].Nodes["n3"].Resources["db-server"].Intentional = true
	})
	r.do("explain resource db-server")
	r.change("shop-ip goes offline on n1, which shop-server forbids; db-server is disabled", func(st *statepb.State) {
		apifake.Runs(st, "shop", "n1")
		on := st.GroupStatus["shop"].Nodes["n1"]
		on.ResourceWants = map[string]v1.Want{"shop-ip": v1.Want_WANT_OFFLINE}
		no := false
		st.Groups["db"].Resources[0].Enabled = &no
	})
	r.do("explain resource shop-ip --node n1", "explain resource db-server --node n2", "explain resource nothing", "explain node n9")
	r.golden("explanations")
}

func TestSimulations(t *testing.T) {
	r := &transcript{t: t, s: newWide(t)}
	back, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	bundled, err := os.ReadFile("testdata/bundled.yaml")
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	write := func(name, text string) {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("add.yaml", "kind: Group\nname: extra\nsystemList: [n3, n1]\nautoStartList: [n3]\nresources:\n- {name: extra-file, type: FileOnOff, attributes: {PathName: /run/extra}}\n")
	write("bad.yaml", "kind: Group\nname: extra\nsystemList: [n7]\n")
	write("bundled.yaml", string(bundled))
	write("broken.yaml", "kind: Group\nnane: extra\n")
	r.do("simulate --fail n2", "simulate --fail n2 --join n2 --switch shop@n2 --freeze n3 --freeze shop --fail n1 --unfreeze shop", "simulate --fault shop-server --clear shop@n1", "simulate --offline watch@n2 --online watch@n2",
		"simulate --stop n3 --evacuate n2", "simulate --apply add.yaml --fail n3 --switch extra@n1", "simulate --apply bad.yaml", "simulate --apply broken.yaml", "simulate --apply none.yaml", "simulate --switch extra",
		"simulate --freeze nobody", "simulate --disable db@n3 --switching-off shop --fail n2")
	r.do("cluster snapshot snap.yaml", "cluster snapshot snap.yaml", "cluster backup snap.bin", "simulate --snapshot snap.yaml --fail n1,n2 -o json", "simulate --snapshot snap.yaml -f add.yaml --fail n1", "simulate --snapshot add.yaml --fail n1")
	live := r.s.run(t, "simulate", "--fail", "n2", "--switch", "shop")
	r.s.Close()
	for _, snap := range []string{"snap.yaml", "snap.bin"} {
		if got := run(t, "simulate", "--snapshot", snap, "--fail", "n2", "--switch", "shop"); got != live {
			t.Errorf("on %s:\n%s\nlive:\n%s", snap, got, live)
		}
	}
	text, err := os.ReadFile("snap.yaml")
	if err != nil {
		t.Fatal(err)
	}
	write("gone.yaml", strings.Replace(string(text), "node: n2\n", "node: n7\n", 1))
	write("cut.yaml", string(text[:len(text)/2])+"\n  nonsense")
	write("other.yaml", strings.Replace(string(text), "snapshot/1", "snapshot/9", 1))
	r.do("simulate --snapshot gone.yaml --fail n1", "simulate --snapshot other.yaml --fail n1", "simulate --snapshot nowhere.yaml --fail n1")
	if got := run(t, "simulate", "--snapshot", "cut.yaml", "--fail", "n1"); !strings.Contains(got, "cut.yaml") || !strings.HasSuffix(got, "exit 2\n") {
		t.Errorf("half a snapshot:\n%s", got)
	}
	r.do("simulate -f bundled.yaml --fail n1 --join n1")
	t.Chdir(back)
	r.golden("simulations")
}

func TestNotifiers(t *testing.T) {
	r := &transcript{t: t, s: newWide(t)}
	r.do("notifier list", "notifier test pager")
	r.change("two notifiers are configured; one of them fails", func(st *statepb.State) {
		st.Cluster.Notifiers = []*v1.Notifier{
			{Name: "pager", Codes: []string{"resource.", "group."}, Way: &v1.Notifier_Program{Program: &v1.ProgramNotifier{Command: "/usr/local/bin/page"}}},
			{Name: "ops", Severity: v1.Severity_SEVERITY_ERROR, Way: &v1.Notifier_Mail{Mail: &v1.MailNotifier{Server: "mail:25", From: "a@b", To: []string{"ops@b"}}}},
		}
		st.Notified = map[string]uint64{"pager": 3, "ops": 1}
		st.NextEvent = 4
	})
	r.do("notifier list", "notifier test pager", "notifier test pagr", "notifier list --here -o json")
	r.s.NotifierFaults = map[string]string{"ops": "mail:25: connection refused"}
	r.s.NotifierStates = []*v1.NotifierStatus{{Name: "ops", Way: "mail", Error: "mail:25: connection refused", Failures: 3, FailingSinceMs: r.s.Now, NextTryMs: r.s.Now + 60_000, Done: 1}}
	r.do("notifier list", "notifier test ops")
	r.golden("notifiers")
}
