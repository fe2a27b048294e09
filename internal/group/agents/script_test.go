package agents

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/group/agent"
)

// scripts makes a directory of entry points, each a few lines of shell. $D in them is a directory for notes.
func scripts(t *testing.T, r *rig, entries map[string]string) (p programmed, notes string) {
	t.Helper()
	dir, notes := t.TempDir(), t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "actions"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range entries {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\nD="+notes+"\n"+text+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return programmed{rig: r, typ: &v1.ResourceType{
		Name: "Foo", Operations: v1.Operations_OPERATIONS_ON_OFF,
		Agent: &v1.ResourceType_Script{Script: &v1.ScriptAgent{Directory: dir}},
		Attributes: []*v1.Attribute{
			{Name: "Path", Kind: path}, {Name: "Count", Kind: v1.AttributeKind_ATTRIBUTE_KIND_INTEGER, Default: "5"}, {Name: "Really", Kind: flag},
			{Name: "Disks", Kind: v1.AttributeKind_ATTRIBUTE_KIND_LIST}, {Name: "Options", Kind: v1.AttributeKind_ATTRIBUTE_KIND_MAP},
		},
		SupportedActions: []string{"check", "fail", "gone"},
	}}, notes
}

// told reads what an entry point has written into a file, line by line.
func told(t *testing.T, parts ...string) []string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(parts...))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
}

const tellArguments = `printf '%s\n' "$@" >$D/$(basename $0)`

// An agent of the field, from open to close, with and without control groups.
func TestScriptLife(t *testing.T) {
	inBothModes(t, func(t *testing.T, r *rig) {
		p, _ := scripts(t, r, map[string]string{
			"open": "echo open >>$D/log", "close": "echo close >>$D/log",
			"online":  "test -s $D/pid && exit 0\nsetsid sleep 1000 </dev/null >/dev/null 2>&1 &\necho $! >$D/pid",
			"offline": "test -s $D/pid || exit 0\nkill $(cat $D/pid)\nrm $D/pid\nexit 1",
			"monitor": "test -s $D/pid && grep -qs sleep /proc/$(cat $D/pid)/cmdline && exit 110\nexit 100",
			"clean":   "echo clean $2 >>$D/log\nrm -f $D/pid",
		})
		for range 2 {
			p.must(agent.Open)
		}
		p.want(isOffline)
		p.must(agent.Online)
		if res := p.want(isOnline); res.Confidence != 100 || !res.WatchedPartly || res.Watched {
			t.Errorf("%+v", res)
		}
		m := r.members()
		if len(m) != 1 {
			t.Fatalf("%d members", len(m))
		}
		p.must(agent.Online)
		p.want(isOnline)
		if res := p.must(agent.Offline); res.Wait != time.Second {
			t.Errorf("%+v", res)
		}
		until(t, "it is offline", func() bool { return p.must(agent.Monitor).State == isOffline })
		if res := p.must(agent.Offline); res.Wait != 0 {
			t.Errorf("%+v", res)
		}
		// The end of what runs is told.
		p.must(agent.Online)
		p.want(isOnline)
		m = r.members()
		if err := m[0].signal(9); err != nil {
			t.Fatal(err)
		}
		if n := r.notice(); !strings.HasPrefix(n.What, fmt.Sprintf("process %d ", m[0].Pid)) {
			t.Errorf("%+v", n)
		}
		until(t, "init has reaped it", func() bool { return p.must(agent.Monitor).State == isOffline })
		// Clean ends what the script does not.
		p.must(agent.Online)
		if res := p.ask(agent.Call{Entry: agent.Clean, CleanReason: agent.UnexpectedOffline}); res.Err != "" {
			t.Fatalf("%+v", res)
		}
		if m := r.members(); len(m) != 0 {
			t.Fatalf("clean left %v", m)
		}
		p.must(agent.Close)
	})
}

// The arguments of all entry points, in the form of today and in that of old agents.
func TestScriptArguments(t *testing.T) {
	r := newRig(t, "sessions")
	entries := map[string]string{"actions/check": tellArguments}
	for _, e := range []string{"monitor", "online", "offline", "clean", "open", "close", "info"} {
		entries[e] = tellArguments
	}
	entries["attr_changed"] = `printf '%s\n' "$@" >>$D/attr_changed`
	p, notes := scripts(t, r, entries)
	p.attributes = map[string]string{"Path": "/a b", "Really": "true", "Disks": "sda 'sd b' \"\"", "Options": "rw=yes 'name=a b' empty="}
	tuples := []string{
		"Path", "1", "/a b", "Count", "1", "5", "Really", "1", "1", "Disks", "3", "sda", "sd b", "", "Options", "6", "rw", "yes", "name", "a b", "empty", "",
	}
	bare := []string{"/a b", "5", "1", "3", "sda", "sd b", "", "6", "rw", "yes", "name", "a b", "empty", ""}
	check := func(attributes []string) {
		t.Helper()
		for _, c := range []struct {
			call  agent.Call
			file  string
			first []string
			last  []string
		}{
			{agent.Call{Entry: agent.Monitor}, "monitor", nil, nil},
			{agent.Call{Entry: agent.Online}, "online", nil, nil},
			{agent.Call{Entry: agent.Offline}, "offline", nil, nil},
			{agent.Call{Entry: agent.Open}, "open", nil, nil},
			{agent.Call{Entry: agent.Close}, "close", nil, nil},
			{agent.Call{Entry: agent.Clean, CleanReason: agent.MonitorHung}, "clean", []string{"5"}, nil},
			{agent.Call{Entry: agent.Info}, "info", []string{"1"}, nil},
			{agent.Call{Entry: agent.Action, Name: "check", Arguments: []string{"x y", "z"}}, "check", nil, []string{"2", "x y", "z"}},
			{agent.Call{Entry: agent.Action, Name: "check"}, "check", nil, []string{"0"}},
		} {
			p.ask(c.call)
			want := slices.Concat([]string{"app"}, c.first, attributes, c.last)
			if got := told(t, notes, c.file); !slices.Equal(got, want) {
				t.Errorf("%s got %q, not %q", c.file, got, want)
			}
		}
	}
	check(tuples)
	p.typ.GetScript().BareValues = true
	check(bare)
	p.typ.ArgList = []string{"Really", "Path"}
	check([]string{"1", "/a b"})
	p.typ.GetScript().BareValues = false
	check([]string{"Really", "1", "1", "Path", "1", "/a b"})
	p.attributes = map[string]string{"Disks": ""}
	check([]string{"Really", "1", "0", "Path", "1", ""})
	p.typ.ArgList = []string{"Disks", "Options"}
	check([]string{"Disks", "0", "Options", "0"})

	p.attributes = map[string]string{"Path": "/new", "Disks": "a b"}
	if res := p.ask(agent.Call{Entry: agent.AttrChanged, Changed: []string{"Path", "Disks", "Unheard"}}); res.Err != "" {
		t.Errorf("%+v", res)
	}
	if got, want := told(t, notes, "attr_changed"), []string{"app", "app", "Path", "/new", "app", "app", "Disks", "a", "b"}; !slices.Equal(got, want) {
		t.Errorf("attr_changed got %q, not %q", got, want)
	}
	p.typ.ArgList = []string{"Nothing"}
	if res := p.ask(agent.Call{Entry: agent.Online}); !strings.Contains(res.Err, "no attribute Nothing") {
		t.Errorf("%+v", res)
	}
}

// What the exit status of a monitor means.
func TestScriptMonitorStatuses(t *testing.T) {
	r := newRig(t, "sessions")
	p, notes := scripts(t, r, map[string]string{"monitor": "echo said\nread n <$D/status\ntest $n = kill && kill -9 $$\nexit $n"})
	for _, row := range []struct {
		status      string
		intentional bool
		state       v1.ResourceState
		confidence  int
		message     string
	}{
		{"100", false, isOffline, 0, "said"},
		{"101", false, isOnline, 10, ""},
		{"105", false, isOnline, 50, ""},
		{"110", false, isOnline, 100, ""},
		{"99", false, isUnknown, 0, "said"},
		{"200", true, isOffline, 0, "said"},
		{"200", false, isUnknown, 0, "exited with status 200: said"},
		{"0", false, isUnknown, 0, "exited with status 0: said"},
		{"1", false, isUnknown, 0, "exited with status 1: said"},
		{"111", true, isUnknown, 0, "exited with status 111: said"},
		{"kill", false, isUnknown, 0, "was killed by signal 9: said"},
	} {
		if err := os.WriteFile(filepath.Join(notes, "status"), []byte(row.status+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		p.typ.IntentionalOffline = row.intentional
		res := p.ask(agent.Call{Entry: agent.Monitor})
		if res.State != row.state || res.Confidence != row.confidence || !strings.HasSuffix(res.Message, row.message) ||
			res.Intentional != (row.status == "200" && row.intentional) || res.Err != "" {
			t.Errorf("%s: %+v", row.status, res)
		}
	}
}

// The exit status of online and offline is a time to wait; only what kills them is a failure. Clean and actions fail.
func TestScriptOutcomes(t *testing.T) {
	r := newRig(t, "sessions")
	p, notes := scripts(t, r, map[string]string{
		"online": "read n <$D/status\ntest $n = kill && kill -9 $$\nexit $n", "offline": "exit 7", "clean": "echo no; exit 1",
		"monitor": "exit 100", "actions/check": "echo out; echo err >&2", "actions/fail": "echo why; exit 3",
		"info": "echo some text; test $2 = 1",
	})
	for status, want := range map[string]agent.Result{
		"0": {}, "3": {Wait: 3 * time.Second}, "255": {Wait: 255 * time.Second},
		"kill": {Err: filepath.Join(p.typ.GetScript().GetDirectory(), "online") + " was killed by signal 9"},
	} {
		if err := os.WriteFile(filepath.Join(notes, "status"), []byte(status+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if res := p.ask(agent.Call{Entry: agent.Online}); res.Err != want.Err || res.Wait != want.Wait {
			t.Errorf("online %s: %+v", status, res)
		}
	}
	if res := p.ask(agent.Call{Entry: agent.Offline}); res.Wait != 7*time.Second || res.Err != "" {
		t.Errorf("%+v", res)
	}
	if res := p.ask(agent.Call{Entry: agent.Clean}); !strings.Contains(res.Err, "exited with status 1: no") {
		t.Errorf("%+v", res)
	}
	if res := p.ask(agent.Call{Entry: agent.Action, Name: "check"}); res.Err != "" || res.Output != "out\nerr" {
		t.Errorf("%+v", res)
	}
	if res := p.ask(agent.Call{Entry: agent.Action, Name: "fail"}); !strings.Contains(res.Err, "exited with status 3") || res.Output != "why" {
		t.Errorf("%+v", res)
	}
	if res := p.ask(agent.Call{Entry: agent.Action, Name: "gone"}); !strings.Contains(res.Err, "does not exist") {
		t.Errorf("%+v", res)
	}
	for _, name := range []string{"other", "../online", "", "."} {
		if res := p.ask(agent.Call{Entry: agent.Action, Name: name}); res.Err == "" {
			t.Errorf("action %q: %+v", name, res)
		}
	}
	// Info says 1 when it comes for the first time, 2 later.
	p.typ.GetAttributes()[0].Default = ""
	mon := filepath.Join(p.typ.GetScript().GetDirectory(), "monitor")
	if err := os.WriteFile(mon, []byte("#!/bin/sh\nexit 110\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	p.want(isOnline)
	for _, want := range []string{"Valid", "Invalid"} {
		if res := p.ask(agent.Call{Entry: agent.Info}); res.Info["State"] != want || res.Info["Msg"] != "some text" {
			t.Errorf("%+v", res)
		}
	}
}

// Offline may only ask. What it leaves is left alone until the monitor says that it is offline, and ended then.
func TestScriptSlowOffline(t *testing.T) {
	inBothModes(t, func(t *testing.T, r *rig) {
		p, notes := scripts(t, r, map[string]string{
			"online": "setsid sleep 1000 </dev/null >/dev/null 2>&1 &", "offline": "exit 0",
			"monitor": "test -e $D/down && exit 100\nexit 110",
		})
		p.must(agent.Online)
		p.want(isOnline)
		p.must(agent.Offline)
		p.want(isOnline)
		if len(r.members()) != 1 {
			t.Fatal("what was asked to stop was killed")
		}
		if err := os.WriteFile(filepath.Join(notes, "down"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		p.want(isOffline)
		if m := r.members(); len(m) != 0 {
			t.Fatalf("%v are left", m)
		}
		// One that is offline by itself is for clean: nothing is touched before.
		p.must(agent.Online)
		p.want(isOffline)
		if len(r.members()) != 1 {
			t.Fatal("a monitor has killed something")
		}
		p.must(agent.Clean)
		if m := r.members(); len(m) != 0 {
			t.Fatalf("%v are left", m)
		}
	})
}

// Entry points that need not be there are not missed; of the others it is said.
func TestScriptMissing(t *testing.T) {
	r := newRig(t, "sessions")
	p, _ := scripts(t, r, nil)
	for _, e := range []agent.EntryPoint{agent.Open, agent.Close, agent.Info, agent.AttrChanged, agent.Clean} {
		if res := p.ask(agent.Call{Entry: e, Changed: []string{"Path"}}); res.Err != "" {
			t.Errorf("%s: %+v", e, res)
		}
	}
	for _, e := range []agent.EntryPoint{agent.Monitor, agent.Online, agent.Offline} {
		if res := p.ask(agent.Call{Entry: e}); !strings.Contains(res.Err, e.String()+" does not exist on this node") {
			t.Errorf("%s: %+v", e, res)
		}
	}
	p.typ.GetScript().Directory = "relative"
	if res := p.ask(agent.Call{Entry: agent.Online}); !strings.Contains(res.Err, "absolute") {
		t.Errorf("%+v", res)
	}
}

func TestCheckScripts(t *testing.T) {
	r := newRig(t, "sessions")
	p, _ := scripts(t, r, map[string]string{"monitor": "", "open": "", "actions/check": "", "actions/fail": ""})
	dir := p.typ.GetScript().GetDirectory()
	if err := os.Chmod(filepath.Join(dir, "open"), 0o644); err != nil {
		t.Fatal(err)
	}
	say := func() string {
		var out []string
		for _, e := range CheckType(p.typ) {
			out = append(out, strings.ReplaceAll(e.Error(), dir, "DIR"))
		}
		return strings.Join(out, "\n")
	}
	want := `entry point online can't be called: DIR/online does not exist
entry point offline can't be called: DIR/offline does not exist
entry point open can't be called: DIR/open is not an executable file
action gone can't be called: DIR/actions/gone does not exist`
	if got := say(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	p.typ.Operations, p.typ.SupportedActions = v1.Operations_OPERATIONS_NONE, nil
	if err := os.Chmod(filepath.Join(dir, "open"), 0o755); err != nil {
		t.Fatal(err)
	}
	if got := say(); got != "" {
		t.Errorf("got %s", got)
	}
	p.typ.GetScript().Directory = "/nowhere"
	if got := say(); got != "" {
		t.Errorf("a machine without the directory says %s", got)
	}
}

// The functions that entry points in shell source.
func TestScriptFunctions(t *testing.T) {
	r := newRig(t, "sessions")
	p, notes := scripts(t, r, map[string]string{"monitor": `
. ${VCS_HOME:-/opt/VRTSvcs}/bin/ag_i18n_inc.sh
RESNAME=$1; shift
VCSAG_SET_ENVS "$RESNAME"
{
for a in "Path -1 1" "Disks -1 2" "Disks -1 3" "Disks -1 0" "Nothing -1 1" "any 1 1"; do
	VCSAG_GET_ATTR_VALUE $a "$@"; echo $? "$VCSAG_ATTR_VALUE"
done
VCSAG_GET_MONITOR_LEVEL
echo $VCSAG_MONITOR_LEVEL_ONE $VCSAG_MONITOR_LEVEL_TWO $VCSAG_LOG_RESOURCE_NAME $VCSAG_LOG_SCRIPT_NAME
VCSAG_SQUEEZE_SPACES "  a   b "; echo "[$VCSAG_SQUEEZE_SPACES]"
pwd
} >$D/out 2>&1
VCSAG_LOGDBG_MSG 1 "not said"
VCSAG_LOG_MSG W "some warning" 12
exit $VCSAG_RES_UNKNOWN`})
	p.attributes = map[string]string{"Path": "/a  b", "Disks": "x 'y z'"}
	if res := p.ask(agent.Call{Entry: agent.Monitor, Deep: true}); res.State != isUnknown || res.Message != "warning: some warning" {
		t.Errorf("%+v", res)
	}
	want := []string{"0 /a  b", "0 y z", "1 ", "1 ", "1 ", "0 5", "1 1 app monitor", "[a b]", p.typ.GetScript().GetDirectory()}
	if got := told(t, notes, "out"); !slices.Equal(got, want) {
		t.Errorf("got %q, not %q", got, want)
	}
}
