//go:build linux

package fence

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

// describes itself: an agent with the parameters that most have.
const describes = `metadata) cat <<'X'
<?xml version="1.0" ?>
<resource-agent name="fence_test" shortdesc="test">
<parameters>
  <parameter name="action" required="1"><content type="string" default="off"/></parameter>
  <parameter name="ip" required="1" obsoletes="ipaddr"><content type="string"/><shortdesc>address</shortdesc></parameter>
  <parameter name="ipaddr" required="1" deprecated="1"><content type="string"/></parameter>
  <parameter name="passwd" required="0"><content type="string"/></parameter>
  <parameter name="plug" required="1" obsoletes="port"><content type="string"/></parameter>
  <parameter name="power_wait" required="0"><content type="second" default="0"/></parameter>
</parameters>
<actions><action name="on"/><action name="off"/><action name="reboot"/><action name="status"/><action name="monitor"/></actions>
</resource-agent>
X
exit 0;;`

// agent writes a program that reads its input into shell variables and $in, and
// then does what cases says for each action. $D is its directory.
func agent(t *testing.T, cases string) (dir, path string) {
	t.Helper()
	dir = t.TempDir()
	path = filepath.Join(dir, "fence_test")
	script := "#!/bin/sh\nD=" + dir + `
while IFS= read -r line; do
  in="$in$line
"
  case "$line" in *=*) eval "p_${line%%=*}=\"\${line#*=}\"";; esac
done
echo "$p_action $p_plug" >> $D/calls
printf '%s' "$in" > $D/input.$p_action
tr '\0' '\n' < /proc/$$/environ > $D/environ
tr '\0' '\n' < /proc/$$/cmdline > $D/cmdline
case "$p_action" in
` + cases + `
esac
echo "no such action" >&2; exit 1
`
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir, path
}

// works switches as told, and remembers in $D/power.
const works = describes + `
off) echo off > $D/power; echo "Success: Powered OFF"; exit 0;;
on) echo on > $D/power; exit 0;;
reboot) exit 0;;
monitor) exit 0;;
status) [ "$(cat $D/power 2>/dev/null)" = off ] && exit 2; exit 0;;`

func device(path string) *v1.FenceDevice {
	return &v1.FenceDevice{
		Name: "pdu", Agent: path, Parameters: map[string]string{"ip": "192.0.2.1"},
		Plugs: map[string]string{"n1": "7"}, Timeout: durationpb.New(20 * time.Second),
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestOffIsVerified(t *testing.T) {
	dir, path := agent(t, works)
	r := &Runner{}
	d := device(path)
	ctx := t.Context()
	if p, err := r.Status(ctx, d, "n1"); p != PowerOn || err != nil {
		t.Fatalf("status %v, %v", p, err)
	}
	said, err := r.Off(ctx, d, "n1")
	if err != nil || said != "has switched it off, and sees it off" {
		t.Fatalf("off: %q, %v", said, err)
	}
	if p, err := r.Status(ctx, d, "n1"); p != PowerOff || err != nil {
		t.Fatalf("status %v, %v", p, err)
	}
	if got, want := read(t, filepath.Join(dir, "input.off")), "action=off\nplug=7\nnodename=n1\nip=192.0.2.1\n"; got != want {
		t.Errorf("the agent has read %q, want %q", got, want)
	}
	if got, want := read(t, filepath.Join(dir, "calls")), "metadata \nstatus 7\noff 7\nstatus 7\nstatus 7\n"; got != want {
		t.Errorf("calls %q, want %q", got, want)
	}
	if err := r.On(ctx, d, "n1"); err != nil {
		t.Error(err)
	}
	if err := r.Monitor(ctx, d); err != nil {
		t.Error(err)
	}
	if _, err := r.Off(ctx, d, "n2"); err == nil || !strings.Contains(err.Error(), "no plug for node n2") {
		t.Errorf("a node without a plug: %v", err)
	}
	d.Action = "reboot"
	if said, err := r.Off(ctx, d, "n1"); err != nil || !strings.Contains(said, "by the agent's word alone") {
		t.Errorf("reboot: %q, %v", said, err)
	}
}

// An agent that says off but whose status says something else is not believed.
func TestOffThatIsNotOff(t *testing.T) {
	for _, c := range []struct{ name, cases, want string }{
		{"still on", describes + "off) exit 0;;\nstatus) exit 0;;", "try 1: agent AGENT said that it is off, but its status is on; try 2: agent AGENT said that it is off, but its status is on"},
		{"unknown", describes + "off) exit 0;;\nstatus) echo 'Connection lost' >&2; exit 1;;", "said that it is off, but its status is not known: agent AGENT, action status: status 1: Connection lost"},
		{"bad arguments", describes + "off) exit 0;;\nstatus) echo 'Usage: fence_test' >&2; exit 2;;", "is not known: agent AGENT, action status: status 2: Usage: fence_test"},
		{"fails", describes + "off) echo 'Unable to connect' >&2; exit 3;;", "agent AGENT, action off: status 3: Unable to connect"},
		{"crashes", describes + "off) kill -SEGV $$; sleep 10;;", "it was ended by a signal"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, path := agent(t, c.cases)
			_, err := (&Runner{}).Off(t.Context(), device(path), "n1")
			if err == nil || !strings.Contains(strings.ReplaceAll(err.Error(), path, "AGENT"), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
			if n := strings.Count(read(t, filepath.Join(dir, "calls")), "off 7"); n != DefaultTries {
				t.Errorf("tried %d times, want %d", n, DefaultTries)
			}
		})
	}
}

// A run that hangs is ended with all that it has started.
func TestHangingAgent(t *testing.T) {
	dir, path := agent(t, describes+`
off) trap '' TERM; (echo $$ > $D/parent; exec sleep 1000) & echo $! > $D/child; echo "waiting for the device" >&2; wait; exit 0;;`)
	d := device(path)
	d.Timeout, d.Tries = durationpb.New(300*time.Millisecond), 1
	begin := time.Now()
	_, err := (&Runner{}).Off(t.Context(), d, "n1")
	if err == nil || !strings.Contains(err.Error(), "did not end within 300ms and was killed: waiting for the device") {
		t.Errorf("error %v", err)
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(read(t, filepath.Join(dir, "child"))))
	if err != nil {
		t.Fatal(err)
	}
	awaitGone(t, pid)
}

// What an agent leaves behind when it ends goes too.
func TestLeftBehind(t *testing.T) {
	dir, path := agent(t, describes+`
off) sleep 1000 > /dev/null 2>&1 < /dev/null & echo $! > $D/child; exit 0;;
status) exit 2;;`)
	if _, err := (&Runner{}).Off(t.Context(), device(path), "n1"); err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(read(t, filepath.Join(dir, "child"))))
	if err != nil {
		t.Fatal(err)
	}
	awaitGone(t, pid)
}

// awaitGone waits for the end of a process that is no child of the test.
func awaitGone(t *testing.T, pid int) {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return // it has ended
	}
	defer unix.Close(fd)
	if n, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 5000); n == 0 {
		_ = unix.Kill(pid, unix.SIGKILL)
		t.Errorf("process %d is still there", pid)
	}
}

func TestCancelled(t *testing.T) {
	_, path := agent(t, describes+"off) exec sleep 1000;;")
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	d := device(path)
	if _, err := (&Runner{}).Off(ctx, d, "n1"); err == nil {
		t.Error("no error")
	}
}

const password = "s3cret-of-the-pdu"

// A secret reaches the agent and nothing else.
func TestSecrets(t *testing.T) {
	dir, path := agent(t, describes+`
off) echo "login with $p_passwd failed" >&2; echo "$p_passwd"; exit 1;;`)
	file := filepath.Join(dir, "secret")
	if err := os.WriteFile(file, []byte(password+"\nsecond line\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := device(path)
	d.Parameters["passwd_file"] = file
	r := &Runner{}
	if err := r.Validate(t.Context(), d); err != nil {
		t.Errorf("validate: %v", err)
	}
	var steps []string
	out := r.Fence(t.Context(), Request{Node: nodeWith([]string{"pdu"}), Devices: []*v1.FenceDevice{d}, Tell: func(s string) { steps = append(steps, s) }})
	if out.Off || !strings.Contains(out.Message, "login with *** failed") {
		t.Errorf("outcome %+v", out)
	}
	if got := read(t, filepath.Join(dir, "input.off")); !strings.Contains(got, "\npasswd="+password+"\n") || strings.Contains(got, "second") || strings.Contains(got, "passwd_file") {
		t.Errorf("the agent has read %q", got)
	}
	for _, text := range append(steps, out.Message, read(t, filepath.Join(dir, "environ")), read(t, filepath.Join(dir, "cmdline"))) {
		if strings.Contains(text, password) {
			t.Errorf("the secret is in %q", text)
		}
	}
	if err := os.Chmod(file, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Off(t.Context(), d, "n1"); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a file that others can read: %v", err)
	}
	d.Parameters["passwd_file"] = file + ".none"
	if _, err := r.Off(t.Context(), d, "n1"); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("a file that is not there: %v", err)
	}
}

// All faults of a device come at once.
func TestValidate(t *testing.T) {
	_, path := agent(t, works)
	r := &Runner{}
	d := &v1.FenceDevice{
		Name: "pdu", Agent: path, Action: "explode", Timeout: durationpb.New(time.Hour), Tries: 99,
		Parameters: map[string]string{"power-wait": "1", "passwd": password, "plug": "7", "debug_file": "/tmp/x", "nonsense": "a\nb"},
		Plugs:      map[string]string{"n1": ""},
	}
	err := r.Validate(t.Context(), d)
	for _, want := range []string{
		"timeout is 1h0m0s: 1s to 10m0s are possible", "tries is 99", `action is "explode"`, "has no parameter power-wait: do you mean power_wait?",
		"parameter passwd is a secret", "set passwd_file", "parameter plug is set by Holdfast", "debug_file would have", "has no parameter nonsense",
		"holds a line break", "has no action explode", "needs parameter ip (address)", "the plug of node n1 is empty",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in:\n%v", want, err)
		}
	}
	if err != nil && strings.Contains(err.Error(), password) {
		t.Error("the secret is in the error")
	}
	for _, c := range []struct{ agent, want string }{
		{"", "no agent is named"},
		{"fence_nonsense", "is not on this node: there is no /usr/sbin/fence_nonsense and no /usr/lib/holdfast/fence-agents/fence_nonsense (Debian: package fence-agents)"},
		{"dir/fence_x", "neither a name nor an absolute path"},
		{t.TempDir(), "no program that can be run"},
		{"/bin/true", "its metadata can't be read"},
		{"/bin/false", "it ended with status 1"},
	} {
		d := device(c.agent)
		if err := r.Validate(t.Context(), d); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("agent %q: %v, want %q", c.agent, err, c.want)
		}
	}
	plain := filepath.Join(t.TempDir(), "agent")
	if err := os.WriteFile(plain, []byte("#!/bin/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := r.Validate(t.Context(), device(plain)); err == nil || !strings.Contains(err.Error(), "no program that can be run") {
		t.Errorf("a file that can't be run: %v", err)
	}
	d = device(path)
	delete(d.Parameters, "ip")
	d.Parameters["ipaddr"] = "192.0.2.1" // by its old name
	if err := r.Validate(t.Context(), d); err != nil {
		t.Error(err)
	}
}

func nodeWith(levels ...[]string) *v1.Node {
	n := &v1.Node{Name: "n1"}
	for _, l := range levels {
		n.FenceLevels = append(n.FenceLevels, &v1.FenceLevel{Devices: l})
	}
	return n
}

func TestLevels(t *testing.T) {
	_, good := agent(t, works)
	_, bad := agent(t, describes+"off) echo 'no route' >&2; exit 1;;")
	named := func(name, path string) *v1.FenceDevice {
		d := device(path)
		d.Name, d.Tries = name, 1
		return d
	}
	devices := []*v1.FenceDevice{named("bmc", bad), named("psu1", good), named("psu2", good)}
	r := &Runner{}
	out := r.Fence(t.Context(), Request{Node: nodeWith([]string{"bmc"}, []string{"psu1", "psu2"}), Devices: devices})
	if !out.Off || out.Level != 2 || !strings.Contains(out.Message, "level 1: device bmc: try 1: agent "+bad+", action off: status 1: no route; level 2: device psu1 has") {
		t.Errorf("%+v", out)
	}
	// One of two power supplies is not off.
	out = r.Fence(t.Context(), Request{Node: nodeWith([]string{"psu1", "bmc"}), Devices: devices})
	if out.Off || out.Level != 0 {
		t.Errorf("%+v", out)
	}
	for _, levels := range [][][]string{nil, {{}}, {{"nobody"}}} {
		out = r.Fence(t.Context(), Request{Node: nodeWith(levels...), Devices: devices})
		if out.Off || out.Message == "" {
			t.Errorf("levels %q: %+v", levels, out)
		}
	}
}

// An agent that lies: the node is heard after it was said to be off.
func TestLyingAgent(t *testing.T) {
	_, path := agent(t, works)
	second := device(path)
	second.Name = "psu"
	asked := 0
	r := &Runner{}
	q := Request{Node: nodeWith([]string{"pdu"}, []string{"psu"}), Devices: []*v1.FenceDevice{device(path), second}, Alive: func(context.Context) (string, bool) {
		asked++
		return "a heartbeat came 80ms later", asked == 1
	}}
	out := r.Fence(t.Context(), q)
	if !out.Off || out.Level != 2 || !out.Lied || !strings.Contains(out.Message, "level 1: device pdu has switched it off, and sees it off, but the node is alive: a heartbeat came 80ms later") {
		t.Errorf("%+v", out)
	}
	asked = -10
	q.Alive = func(context.Context) (string, bool) { return "it is heard", true }
	if out = r.Fence(t.Context(), q); out.Off || !out.Lied {
		t.Errorf("%+v", out)
	}
}

// The agents that people have: Debian's package, with the dummy in it.
func TestFenceDummy(t *testing.T) {
	r := &Runner{}
	status := filepath.Join(t.TempDir(), "status")
	if err := os.WriteFile(status, []byte("on"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := &v1.FenceDevice{Name: "dummy", Agent: "fence_dummy", Parameters: map[string]string{"status_file": status}, Plugs: map[string]string{"n1": ""}}
	if err := r.Validate(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	m, err := r.Metadata(t.Context(), "fence_dummy")
	if err != nil || m.Name != "fence_dummy" || !m.Has("off") || !m.Has("status") || m.Parameters["status_file"].Default != "/tmp/fence_dummy.status" {
		t.Errorf("metadata %+v, %v", m, err)
	}
	if p, err := r.Status(t.Context(), d, "n1"); p != PowerOn || err != nil {
		t.Errorf("status %v, %v", p, err)
	}
	said, err := r.Off(t.Context(), d, "n1")
	if err != nil || said != "has switched it off, and sees it off" || read(t, status) != "off" {
		t.Errorf("off: %q, %v; the file says %q", said, err, read(t, status))
	}
	// One machine only: it has no plugs.
	d.Plugs["n2"] = "2"
	if err := r.Validate(t.Context(), d); err == nil || !strings.Contains(err.Error(), "switches one machine only") {
		t.Errorf("two nodes: %v", err)
	}
	d = &v1.FenceDevice{Name: "dummy", Agent: "fence_dummy", Tries: 1, Parameters: map[string]string{"status_file": filepath.Join(status, "nowhere"), "nonsense": "1"}, Plugs: map[string]string{"n1": ""}}
	if err := r.Validate(t.Context(), d); err == nil || !strings.Contains(err.Error(), "has no parameter nonsense") {
		t.Errorf("validate: %v", err)
	}
}

// Other agents of the package: their metadata can be read.
func TestMetadataOfOthers(t *testing.T) {
	r := &Runner{}
	for _, name := range []string{"fence_ipmilan", "fence_apc", "fence_virsh", "fence_scsi"} {
		m, err := r.Metadata(t.Context(), name)
		if err != nil || !m.Has("off") || len(m.Parameters) < 5 {
			t.Errorf("%s: %+v, %v", name, m, err)
		}
	}
	d := &v1.FenceDevice{Name: "apc", Agent: "fence_apc", Parameters: map[string]string{"ip": "192.0.2.1"}, Plugs: map[string]string{"n1": "1", "n2": "2"}}
	err := r.Validate(t.Context(), d)
	if err == nil || strings.Contains(err.Error(), "needs parameter ip") || !strings.Contains(err.Error(), "needs parameter username") {
		t.Errorf("a device without a user: %v", err)
	}
	d.Parameters["username"] = "apc"
	if err := r.Validate(t.Context(), d); err != nil {
		t.Errorf("a device that is complete: %v", err)
	}
}

func FuzzMetadata(f *testing.F) {
	f.Add([]byte(`<?xml version="1.0"?><resource-agent name="x"><parameters><parameter name="a" required="1"/></parameters><actions><action name="off"/></actions></resource-agent>`))
	f.Add([]byte("warning\n<?xml"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := parseMetadata(b); err == nil && len(m.Actions) == 0 {
			t.Error("no actions")
		}
	})
}

func TestOutputIsBounded(t *testing.T) {
	_, path := agent(t, describes+`
off) head -c 3000000 /dev/zero | tr '\0' 'x'; echo "the end" >&2; exit 1;;`)
	d := device(path)
	d.Tries = 1
	_, err := (&Runner{}).Off(t.Context(), d, "n1")
	if err == nil || len(err.Error()) > 2*maxMessage || !strings.HasSuffix(err.Error(), "the end") {
		t.Errorf("error of %d bytes: %.200s", len(fmt.Sprint(err)), err)
	}
}
