package agents

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/group/agent"
)

// Files are told when they appear and when they go, as long as somebody wants to know.
func TestFilesAreWatched(t *testing.T) {
	r := newRig(t, "sessions")
	dir := filepath.Join(t.TempDir(), "d")
	name := filepath.Join(dir, "f")
	a := map[string]string{"PathName": name}
	monitor := func(typ, resource string, watch bool) agent.Result {
		t.Helper()
		res := r.call(agent.Call{Type: typ, Resource: resource, Entry: agent.Monitor, Attributes: a, Watch: watch})
		if res.Err != "" {
			t.Fatal(res.Err)
		}
		return res
	}
	check := func(online, watched bool) {
		t.Helper()
		for typ, want := range map[string]bool{"FileOnOff": online, "FileOnOnly": online, "FileNone": online, "ElifNone": !online} {
			if res := monitor(typ, typ, true); (res.State == isOnline) != want || res.Watched != watched {
				t.Fatalf("%s: %+v", typ, res)
			}
		}
	}
	notices := func(n int, what string) {
		t.Helper()
		seen := map[string]bool{}
		for len(seen) < n {
			got := r.notice()
			if got.What != what {
				t.Fatalf("notice %q, not %q", got.What, what)
			}
			seen[got.Resource] = true
		}
	}
	check(false, false) // there is no directory to be watched
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	check(false, true)
	r.do("FileOnOnly", agent.Online, a)
	notices(4, name+" has appeared")
	check(true, true)
	if res := monitor("FileNone", "FileNone", false); res.Watched {
		t.Error("it is watched although nobody wants that")
	}
	if err := os.WriteFile(filepath.Join(dir, "another"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	notices(3, name+" was removed")
	check(false, true)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	notices(4, "directory "+dir+" has gone")
	check(false, false)
	for _, typ := range []string{"FileOnOff", "FileOnOnly", "FileNone", "ElifNone"} {
		r.call(agent.Call{Type: typ, Resource: typ, Entry: agent.Close, Attributes: a})
	}
	if n := len(r.h.files.files) + len(r.h.files.dirs) + len(r.h.files.byWd); n != 0 {
		t.Errorf("%d things are kept of what nobody watches", n)
	}
}

func TestPhantom(t *testing.T) {
	r := newRig(t, "sessions")
	r.wantState("Phantom", nil, isOffline)
	for range 2 {
		r.do("Phantom", agent.Online, nil)
		r.reopen()
		r.wantState("Phantom", nil, isOnline)
	}
	for range 2 {
		r.do("Phantom", agent.Offline, nil)
		r.wantState("Phantom", nil, isOffline)
	}
	r.do("Phantom", agent.Online, nil)
	r.do("Phantom", agent.Clean, nil)
	r.wantState("Phantom", nil, isOffline)
}

func TestProxy(t *testing.T) {
	r := newRig(t, "sessions")
	a := map[string]string{"TargetGroup": "net", "TargetResName": "nic"}
	monitor := func(attributes map[string]string, watch bool) agent.Result {
		return r.call(agent.Call{Type: "Proxy", Entry: agent.Monitor, Attributes: attributes, Watch: watch})
	}
	if res := monitor(a, true); res.Err == "" {
		t.Errorf("without anybody who knows: %+v", res)
	}
	states := map[Target]v1.ResourceState{}
	r.h.look = func(_ context.Context, t Target) (v1.ResourceState, error) { return states[t], nil }
	here, there := Target{"net", "nic", "n1"}, Target{"net", "nic", "n2"}
	for state, want := range map[v1.ResourceState]v1.ResourceState{
		isOnline: isOnline, isOffline: isOffline, v1.ResourceState_RESOURCE_STATE_FAULTED: isOffline,
		v1.ResourceState_RESOURCE_STATE_UNKNOWN: v1.ResourceState_RESOURCE_STATE_UNKNOWN, 0: v1.ResourceState_RESOURCE_STATE_UNKNOWN,
	} {
		states[here] = state
		if res := monitor(a, false); res.State != want || res.Watched || res.Err != "" {
			t.Errorf("%s: %+v", state, res)
		}
	}
	if res := monitor(map[string]string{"TargetGroup": "web", "TargetResName": "nic"}, false); !strings.Contains(res.Err, "same group") {
		t.Errorf("%+v", res)
	}
	// Only what a proxy looks at is looked up, and only its changes are told.
	states[here], states[there] = isOffline, isOnline
	a["TargetSysName"] = "n2"
	asked := 0
	look := func(t Target) v1.ResourceState { asked++; return states[t] }
	r.h.StatesChanged(look)
	if res := monitor(a, true); res.State != isOnline || !res.Watched {
		t.Errorf("%+v", res)
	}
	r.h.StatesChanged(look)
	r.notice()
	r.h.StatesChanged(look)
	states[there] = v1.ResourceState_RESOURCE_STATE_FAULTED
	r.h.StatesChanged(look)
	if n := r.notice(); n.Resource != "app" || asked != 3 {
		t.Errorf("%+v after %d questions", n, asked)
	}
	r.do("Proxy", agent.Close, a)
	r.h.StatesChanged(look)
	if asked != 3 {
		t.Error("it is still looked at")
	}
}
