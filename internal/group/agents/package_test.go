package agents

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/group/agent"
)

// A service: started in the foreground, any end is a failure and is told with its verdict, restarts are counted in its
// environment, and it is stopped politely as long as HaltTimeout lasts.
func TestPackageService(t *testing.T) {
	inBothModes(t, func(t *testing.T, r *rig) {
		out := filepath.Join(t.TempDir(), "restarts")
		a := map[string]string{"Command": script(t, `echo "$HOLDFAST_RESTARTS $A" >>`+out, "exec sleep 1000"), "Environment": "A=b"}
		if res := r.wantState("PackageService", a, isOffline); res.Verdict != 0 {
			t.Errorf("a service that never ran has verdict %s", res.Verdict)
		}
		r.do("PackageService", agent.Online, a)
		r.do("PackageService", agent.Online, a)
		res := r.call(agent.Call{Type: "PackageService", Entry: agent.Monitor, Attributes: a, Watch: true})
		if res.State != isOnline || !res.Watched {
			t.Fatalf("%+v", res)
		}
		until(t, "it has begun", func() bool { b, _ := os.ReadFile(out); return len(b) > 0 })
		pid := r.members()[0].Pid
		if err := unix.Kill(pid, unix.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if n := r.notice(); n.What != fmt.Sprintf("process %d was killed by signal 15", pid) {
			t.Errorf("notice %q", n.What)
		}
		if res := r.wantState("PackageService", a, isOffline); res.Verdict != v1.Verdict_VERDICT_NOT_HERE || !strings.Contains(res.Message, "was killed by signal 15") {
			t.Errorf("%+v", res)
		}
		fast := map[string]string{"Command": a["Command"], "Environment": "A=b", "ServiceFailFast": "true"}
		if res := r.wantState("PackageService", fast, isOffline); res.Verdict != v1.Verdict_VERDICT_RESET {
			t.Errorf("%+v", res)
		}
		r.do("PackageService", agent.Clean, a)
		if res := r.call(agent.Call{Type: "PackageService", Entry: agent.Online, Attributes: a, Restarts: 3}); res.Err != "" {
			t.Fatal(res.Err)
		}
		until(t, "both runs have said how often it was restarted", func() bool { b, _ := os.ReadFile(out); return string(b) == "0 b\n3 b\n" })
		r.reopen()
		r.wantState("PackageService", a, isOnline)
		r.do("PackageService", agent.Offline, a)
		if res := r.wantState("PackageService", a, isOffline); res.Verdict != 0 || len(r.members()) != 0 {
			t.Errorf("%+v, %v", res, r.members())
		}
	})
}

// Status 0 is a failure too, even if something was left in the background; clean kills that.
func TestPackageServiceThatForks(t *testing.T) {
	inBothModes(t, func(t *testing.T, r *rig) {
		a := map[string]string{"Command": script(t, "sleep 1000 &", "exit 0")}
		r.do("PackageService", agent.Online, a)
		until(t, "it has failed", func() bool {
			res := r.do("PackageService", agent.Monitor, a)
			return res.State == isFaulted && res.Verdict == v1.Verdict_VERDICT_NOT_HERE && strings.Contains(res.Message, "exited with status 0")
		})
		r.do("PackageService", agent.Clean, a)
		if m := r.members(); len(m) != 0 {
			t.Errorf("%v are left", m)
		}
	})
}

// HaltTimeout decides how long a service may take to end.
func TestPackageServiceHalt(t *testing.T) {
	r := newRig(t, "sessions")
	said := filepath.Join(t.TempDir(), "said")
	command := script(t, "trap 'echo bye >"+said+"; exit 0' TERM", "touch "+said, "while :; do sleep 1000 & wait; done")
	for timeout, want := range map[string]string{"1m": "bye\n", "0s": ""} {
		_ = os.Remove(said)
		a := map[string]string{"Command": command, "HaltTimeout": timeout}
		r.do("PackageService", agent.Online, a)
		until(t, "it waits for signals", func() bool { _, err := os.Stat(said); return err == nil })
		began := time.Now()
		r.do("PackageService", agent.Offline, a)
		// Within 0s it may still manage to answer; that it does within a minute is sure.
		if got := string(must(os.ReadFile(said))); got != want && timeout != "0s" || time.Since(began) > 30*time.Second {
			t.Errorf("with %s it said %q after %s", timeout, got, time.Since(began))
		}
		if m := r.members(); len(m) != 0 {
			t.Errorf("%v are left", m)
		}
	}
}

// packageScriptFor writes a script whose behaviour is in files: it appends its argument to log, and ends as the file of that name
// beside it says.
func packageScriptFor(t *testing.T) (name, dir string) {
	dir = t.TempDir()
	return script(t, `echo "$1 $SG_PACKAGE $SG_NODE $PEV_X" >>`+dir+"/log", `[ -f `+dir+`/$1 ] && . `+dir+`/$1`, "exit 0"), dir
}

func logged(t *testing.T, dir string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestPackageScript(t *testing.T) {
	inBothModes(t, func(t *testing.T, r *rig) {
		name, dir := packageScriptFor(t)
		a := map[string]string{"Script": name, "Environment": "PEV_X=y"}
		if err := os.WriteFile(filepath.Join(dir, "start"), []byte("sleep 1000 &"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "validate"), []byte("echo fine"), 0o600); err != nil {
			t.Fatal(err)
		}
		r.wantState("PackageScript", a, isOffline)
		r.do("PackageScript", agent.Offline, a)
		r.do("PackageScript", agent.Online, a)
		r.do("PackageScript", agent.Online, a)
		r.reopen()
		r.wantState("PackageScript", a, isOnline)
		if m := r.members(); len(m) != 1 {
			t.Errorf("what start left running: %v", m)
		}
		if res := r.call(agent.Call{Type: "PackageScript", Entry: agent.Action, Name: "validate", Attributes: a}); res.Err != "" || res.Output != "fine" {
			t.Errorf("%+v", res)
		}
		if res := r.call(agent.Call{Type: "PackageScript", Entry: agent.Action, Name: "dance", Attributes: a}); res.Err == "" {
			t.Errorf("%+v", res)
		}
		r.do("PackageScript", agent.Offline, a)
		r.wantState("PackageScript", a, isOffline)
		if m := r.members(); len(m) != 0 {
			t.Errorf("%v are left", m)
		}
		if got := logged(t, dir); got != "start web n1 y\nvalidate web n1 y\nstop web n1 y\n" {
			t.Errorf("calls:\n%s", got)
		}
	})
}

// The table of SG-122 and SG-123 as far as it is the agent's.
func TestPackageScriptVerdicts(t *testing.T) {
	const (
		start = agent.Online
		stop  = agent.Offline
	)
	for i, test := range []struct {
		entry            agent.EntryPoint
		does             string
		failFast, legacy bool
		verdict          v1.Verdict
		timedOut         bool
		after            v1.ResourceState // as a clean leaves it
	}{
		{entry: start, does: "exit 1", verdict: v1.Verdict_VERDICT_NOWHERE, after: isOffline},
		{entry: start, does: "exit 1", failFast: true, verdict: v1.Verdict_VERDICT_NOWHERE, after: isOffline},
		{entry: start, does: "exit 2", verdict: v1.Verdict_VERDICT_NOT_HERE, after: isOffline},
		{entry: start, does: "exit 2", failFast: true, verdict: v1.Verdict_VERDICT_RESET, after: isOffline},
		{entry: start, does: "kill -9 $$", failFast: true, verdict: v1.Verdict_VERDICT_NOT_HERE, after: isOffline},
		{entry: start, does: "sleep 1000", timedOut: true, verdict: v1.Verdict_VERDICT_NOWHERE, after: isOffline},
		{entry: start, does: "sleep 1000", timedOut: true, failFast: true, verdict: v1.Verdict_VERDICT_RESET, after: isOffline},
		{entry: stop, does: "exit 1", verdict: v1.Verdict_VERDICT_HALT_ABORTED, after: isOnline},
		{entry: stop, does: "exit 1", legacy: true, failFast: true, verdict: v1.Verdict_VERDICT_NOWHERE, after: isOffline},
		{entry: stop, does: "sleep 1000", timedOut: true, verdict: v1.Verdict_VERDICT_HALT_ABORTED, after: isOnline},
		{entry: stop, does: "sleep 1000", timedOut: true, legacy: true, verdict: v1.Verdict_VERDICT_NOWHERE, after: isOffline},
		{entry: stop, does: "sleep 1000", timedOut: true, failFast: true, verdict: v1.Verdict_VERDICT_RESET, after: isOnline},
	} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			r := newRig(t, "sessions")
			name, dir := packageScriptFor(t)
			a := map[string]string{"Script": name, "NodeFailFast": fmt.Sprint(test.failFast), "AbortHalt": fmt.Sprint(!test.legacy)}
			verb, reason := "start", agent.OnlineIneffective
			if test.entry == stop {
				verb, reason = "stop", agent.OfflineIneffective
				r.do("PackageScript", start, a)
			}
			if err := os.WriteFile(filepath.Join(dir, verb), []byte("sleep 1000 &\n"+test.does), 0o600); err != nil {
				t.Fatal(err)
			}
			limit := 20 * time.Second
			if test.timedOut {
				limit = 300 * time.Millisecond
			}
			res := r.call(agent.Call{Type: "PackageScript", Entry: test.entry, Attributes: a, Timeout: limit})
			if res.Err == "" || res.Verdict != test.verdict || res.TimedOut != test.timedOut {
				t.Errorf("%+v", res)
			}
			if res := r.call(agent.Call{Type: "PackageScript", Entry: agent.Clean, CleanReason: reason, Attributes: a, Timeout: limit}); (res.Err == "") != (test.after == isOffline) {
				t.Errorf("clean: %+v", res)
			}
			r.wantState("PackageScript", a, test.after)
			if test.entry == start {
				if m := r.members(); len(m) != 0 {
					t.Errorf("%v are left", m)
				}
				if strings.Contains(logged(t, dir), "stop") {
					t.Error("stop was called after a start that failed")
				}
				return
			}
			// Repaired, the halt ends.
			if err := os.Remove(filepath.Join(dir, "stop")); err != nil {
				t.Fatal(err)
			}
			r.do("PackageScript", agent.Offline, a)
			r.wantState("PackageScript", a, isOffline)
		})
	}
	r := newRig(t, "sessions")
	if res := r.call(agent.Call{Type: "PackageScript", Entry: start, Attributes: map[string]string{"Script": "/does/not/exist"}}); res.Verdict != v1.Verdict_VERDICT_NOT_HERE {
		t.Errorf("%+v", res)
	}
}

// The engine dies while the script starts: the next one undoes that by stop, before it says that the package is offline.
func TestPackageScriptCutOff(t *testing.T) {
	inBothModes(t, func(t *testing.T, r *rig) {
		name, dir := packageScriptFor(t)
		a := map[string]string{"Script": name}
		begun := filepath.Join(dir, "begun")
		if err := os.WriteFile(filepath.Join(dir, "start"), []byte("touch "+begun+"; sleep 1000"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "stop"), []byte("exit 1"), 0o600); err != nil {
			t.Fatal(err)
		}
		r.begin(agent.Call{Type: "PackageScript", Entry: agent.Online, Attributes: a})
		until(t, "it has begun", func() bool { _, err := os.Stat(begun); return err == nil })
		r.reopen()
		if res := r.do("PackageScript", agent.Monitor, a); res.State != v1.ResourceState_RESOURCE_STATE_UNKNOWN || !strings.Contains(res.Message, "cut off") {
			t.Errorf("%+v", res)
		}
		if err := os.Remove(filepath.Join(dir, "stop")); err != nil {
			t.Fatal(err)
		}
		r.wantState("PackageScript", a, isOffline)
		if got := strings.ReplaceAll(logged(t, dir), " web n1 \n", " "); got != "start stop stop " || len(r.members()) != 0 {
			t.Errorf("calls: %q; left: %v", got, r.members())
		}
	})
}

func TestSubnet(t *testing.T) {
	if !inNetwork(t) {
		return
	}
	p := newPeer(t)
	link := must(netlink.LinkByName("eth0"))
	for _, a := range []string{"192.0.2.1/24", "2001:db8::1/64"} {
		addr := must(netlink.ParseAddr(a))
		addr.Flags = unix.IFA_F_NODAD
		if err := netlink.AddrAdd(link, addr); err != nil {
			t.Fatal(err)
		}
	}
	for _, a := range []string{"192.0.2.2/24", "2001:db8::2/64"} {
		addr := must(netlink.ParseAddr(a))
		addr.Flags = unix.IFA_F_NODAD
		if err := p.nl.AddrAdd(p.far, addr); err != nil {
			t.Fatal(err)
		}
	}
	r := newRig(t, "sessions")
	for _, test := range []struct {
		nets, access, hosts, want string // want: part of the message; empty: online
	}{
		{"192.0.2.0/24", "FULL", "", ""},
		{"192.0.2.0/24 2001:db8::/64", "FULL", "192.0.2.2 2001:db8::2", ""},
		{"192.0.2.0/24", "FULL", "192.0.2.9 192.0.2.2", ""},
		{"192.0.2.0/24", "FULL", "192.0.2.9 192.0.2.1", "no answer through eth0 from 192.0.2.9"},
		{"192.0.2.0/24 2001:db8::/64", "FULL", "2001:db8::9", "subnet 2001:db8::/64 is down"},
		{"192.0.2.0/24 198.51.100.0/24", "FULL", "", "no network card has an address in 198.51.100.0/24"},
		{"192.0.2.0/25", "FULL", "", "no network card has an address in 192.0.2.0/25"},
		{"192.0.2.0/24 198.51.100.0/24", "PARTIAL", "", ""},
		{"198.51.100.0/24 203.0.113.0/24", "PARTIAL", "", "this node has none of the subnets"},
		{"192.0.2.0/24 2001:db8::/64", "PARTIAL", "192.0.2.9", "subnet 192.0.2.0/24 is down"},
	} {
		a := map[string]string{"Subnets": test.nets, "Access": test.access, "NetworkHosts": test.hosts, "NodeFailFast": "true", "NetworkTimeout": "150ms"}
		res := r.do("Subnet", agent.Monitor, a)
		if (res.State == isOnline) != (test.want == "") || !strings.Contains(res.Message, test.want) || (res.Verdict == v1.Verdict_VERDICT_RESET) != (test.want != "") || res.Watched {
			t.Errorf("%v: %+v", test, res)
		}
	}
	if res := r.call(agent.Call{Type: "Subnet", Entry: agent.Monitor, Attributes: map[string]string{"Subnets": "192.0.2.0/24", "NetworkHosts": "192.0.2.1"}}); !strings.Contains(res.Err, "addresses of this node") {
		t.Errorf("%+v", res)
	}
	// The loss of the link is told, and so is that of the address.
	a := map[string]string{"Subnets": "192.0.2.0/24"}
	watch := agent.Call{Type: "Subnet", Entry: agent.Monitor, Attributes: a, Watch: true}
	if res := r.call(watch); res.State != isOnline || !res.Watched {
		t.Fatalf("%+v", res)
	}
	p.set(false)
	for n := r.notice(); n.What != "link of eth0 went down"; n = r.notice() {
	}
	if res := r.call(watch); res.State != isOffline || res.Message != "subnet 192.0.2.0/24 is down: link of eth0 is down" || res.Verdict != 0 {
		t.Errorf("%+v", res)
	}
	p.set(true)
	until(t, "it is up again after a notice", func() bool {
		r.notice()
		return r.call(watch).State == isOnline
	})
	if err := netlink.AddrDel(link, must(netlink.ParseAddr("192.0.2.1/24"))); err != nil {
		t.Fatal(err)
	}
	for n := r.notice(); n.What != "address 192.0.2.1 was removed"; n = r.notice() {
	}
	r.wantState("Subnet", a, isOffline)
}
