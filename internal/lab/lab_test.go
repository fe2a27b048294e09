package lab

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The test binary stands in for holdfast: lab starts it as `holdfast lab …`.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "lab" {
		switch os.Args[2] { // for use on a node
		case "get": // one probe
			fmt.Println(cmp.Or(probeOnce(os.Args[3], 300*time.Millisecond), "-"))
			return
		case "hold": // a connection, and tell how it ends
			hold(os.Args[3])
			return
		case "hear": // one datagram
			hear(os.Args[3])
			return
		}
		c := Command()
		c.SetArgs(os.Args[2:])
		if c.Execute() != nil {
			os.Exit(1)
		}
		return
	}
	status := m.Run()
	_ = os.RemoveAll(binaryDir)
	os.Exit(status)
}

func hear(addr string) {
	c, err := net.ListenPacket("udp", addr)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("ready")
	_ = c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	if _, _, err := c.ReadFrom(make([]byte, 10)); err != nil {
		fmt.Println("-")
		return
	}
	fmt.Println("heard")
}

// hold keeps a connection open until the server closes it, or for 200 ms from
// when its standard input ends.
func hold(addr string) {
	c, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("connected")
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	}()
	if _, err = c.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		fmt.Println("silence")
		return
	}
	fmt.Println(err)
}

// testLab makes a lab whose nodes run a web server each and no cluster.
func testLab(t *testing.T, o Options) *Lab {
	t.Helper()
	if os.Getuid() != 0 && !o.Loopback {
		t.Fatal("this test makes namespaces: run it as root")
	}
	me, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	o.Name = testName(t)
	o.Dir = filepath.Join(t.TempDir(), "lab")
	o.Attached = true
	if o.Command == nil {
		o.Command = []string{me, "lab", webCommand, "0.0.0.0:80"}
	}
	l, err := Make(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Down(); err != nil {
			t.Error(err)
		}
		checkNothingLeft(t, l)
	})
	return l
}

func testName(t *testing.T) string {
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r | 0x20
		}
		return -1
	}, strings.TrimPrefix(t.Name(), "Test"))
	return fmt.Sprintf("%.8s%d", name, os.Getpid()%1000000)
}

// checkNothingLeft checks that a removed lab has left no trace.
func checkNothingLeft(t *testing.T, l *Lab) {
	t.Helper()
	name := l.Name()
	if left := netnsesOf(name); len(left) > 0 {
		t.Errorf("network namespaces left: %v", left)
	}
	mounts, _ := os.ReadFile("/proc/self/mounts")
	for _, what := range []string{l.Dir(), netnsName(name, "")} {
		if strings.Contains(string(mounts), what) {
			t.Errorf("a mount of %s is left", what)
		}
	}
	if backing, _ := filepath.Glob("/sys/block/loop*/loop/backing_file"); len(backing) > 0 {
		for _, f := range backing {
			if b, _ := os.ReadFile(f); strings.HasPrefix(string(b), l.Dir()) {
				t.Errorf("a loop device is left: %s", f)
			}
		}
	}
	paths := []string{l.Dir(), filepath.Join(string(l.reg), name), filepath.Join(string(l.reg), name+".lock"), filepath.Join(string(l.reg), name+".owner")}
	if l.rec.Plan.Cgroup != "" {
		paths = append(paths, l.rec.Plan.Cgroup)
	}
	for _, p := range paths {
		if _, err := os.Lstat(p); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left", p)
		}
	}
	if left := marked(marker(name, "")); len(left) > 0 {
		t.Errorf("processes left: %v", left)
	}
}

// get asks addr from a node, or from the probe namespace if node is empty.
func get(t *testing.T, l *Lab, node, addr string) string {
	t.Helper()
	var out strings.Builder
	me, err := os.Executable() // not the binary of the lab, which may be the real one
	if err != nil {
		t.Fatal(err)
	}
	cmd := &exec.Cmd{Path: me, Args: []string{"holdfast", "lab", "get", addr}, Stdout: &out}
	if node == "" {
		err = startInNetns(l.rec.Plan.ProbeNetns, cmd.Start)
	} else {
		err = l.StartOn(node, cmd)
	}
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out.String())
}

// awaitGet asks until the answer is as wanted: servers start by themselves.
func awaitGet(t *testing.T, l *Lab, node, addr, want string) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		got := get(t, l, node, addr)
		if got == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s, asked from %q, says %q, not %q", addr, node, got, want)
		}
	}
}

func web(l *Lab, node, link int) string {
	return net.JoinHostPort(l.rec.Plan.Nodes[node].Ports[link].Address.Addr().String(), "80")
}

func TestNodeIsAMachine(t *testing.T) {
	l := testLab(t, Options{Nodes: 2})
	awaitGet(t, l, "", web(l, 1, 0), "n2")
	awaitGet(t, l, "n1", web(l, 1, 1), "n2")

	script := `hostname; echo $$; cat /proc/self/cgroup; ls /sys/class/net; ls -d /var/lib/holdfast/mark; ls /run; ls /run/netns | wc -l; stat -f -c %T /sys/fs/cgroup; mkdir /sys/fs/cgroup/x && cat /sys/fs/cgroup/x/cgroup.kill; ls /sys/fs/cgroup/x`
	if err := os.WriteFile(filepath.Join(l.rec.Plan.Nodes[0].StateDir(), "mark"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := l.Output(t.Context(), "n1", "sh", "-c", script)
	text := string(out)
	for _, want := range []string{"n1\n", "\n0::/\n", "eth0\neth1\nlo\n", "/var/lib/holdfast/mark\n", "holdfast\n", "cgroup2fs\n", "cgroup.kill\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("n1 does not say %q: %v\n%s", want, err, text)
		}
	}
	if api, err := os.Stat(l.rec.Plan.Nodes[0].RunDir()); err != nil || !api.IsDir() {
		t.Errorf("the run directory can't be reached from outside: %v", err)
	}
}

func TestKillAndStart(t *testing.T) {
	l := testLab(t, Options{Nodes: 2})
	awaitGet(t, l, "", web(l, 0, 0), "n1")
	if _, err := l.Output(t.Context(), "n1", "sh", "-c", "touch /run/x /var/lib/holdfast/x"); err != nil {
		t.Fatal(err)
	}
	// A process of its own session must die with the node too.
	if _, err := l.Output(t.Context(), "n1", "sh", "-c", "setsid -f sleep 1000 >/dev/null 2>&1"); err != nil {
		t.Fatal(err)
	}
	before := monotonic()
	at, err := l.Kill("n1")
	if err != nil {
		t.Fatal(err)
	}
	if at < before || at > monotonic() {
		t.Errorf("killed at %v, not after %v", at, before)
	}
	if s, _ := l.State("n1"); s != Off {
		t.Errorf("a killed node is %s", s)
	}
	if pids := cgroup(l.rec.Plan.Nodes[0].Cgroup).processes(); len(pids) > 0 {
		t.Errorf("processes %v outlived their node", pids)
	}
	if got := get(t, l, "", web(l, 0, 0)); got != "-" {
		t.Errorf("a killed node answers %q", got)
	}
	if _, err := l.Kill("n1"); err != nil {
		t.Errorf("killed again: %v", err)
	}
	if _, err := l.Output(t.Context(), "n1", "true"); err == nil || !strings.Contains(err.Error(), "holdfast lab start n1") {
		t.Errorf("a command on a killed node: %v", err)
	}
	for range 2 { // the second finds it running
		if err := l.Start("n1"); err != nil {
			t.Fatal(err)
		}
	}
	awaitGet(t, l, "", web(l, 0, 0), "n1")
	if _, err := l.Output(t.Context(), "n1", "sh", "-c", "test ! -e /run/x && test -e /var/lib/holdfast/x"); err != nil {
		t.Errorf("after a reboot /run must be fresh and the state as it was: %v", err)
	}
}

// heard says whether a datagram to addr, an address of a node, comes through.
func heard(t *testing.T, l *Lab, from, to, addr string) bool {
	t.Helper()
	hear := l.Command(t.Context(), l.rec.Binary, "lab", "hear", addr+":9999")
	out, err := hear.StdoutPipe()
	if err == nil {
		err = l.StartOn(to, hear)
	}
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	if !lines.Scan() || lines.Text() != "ready" {
		t.Fatalf("%s can't listen: %s", to, lines.Text())
	}
	if _, err := l.Output(t.Context(), from, "bash", "-c", "echo x > /dev/udp/"+addr+"/9999"); err != nil {
		t.Fatal(err)
	}
	lines.Scan()
	said := lines.Text()
	_ = hear.Wait()
	return said == "heard"
}

// Invariant L3: the peers of a killed node get no RST and no FIN from it.
func TestKillIsSilent(t *testing.T) {
	l := testLab(t, Options{Nodes: 1})
	awaitGet(t, l, "", web(l, 0, 0), "n1")
	cmd := &exec.Cmd{Path: l.rec.Binary, Args: []string{"holdfast", "lab", "hold", web(l, 0, 0)}}
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, startInNetns(l.rec.Plan.ProbeNetns, cmd.Start)); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	if !lines.Scan() || lines.Text() != "connected" {
		t.Fatal(lines.Text())
	}
	if _, err := l.Kill("n1"); err != nil {
		t.Fatal(err)
	}
	in.Close()
	if !lines.Scan() || lines.Text() != "silence" {
		t.Errorf("the peer of a killed node saw: %s", lines.Text())
	}
	_ = cmd.Wait()
}

func TestCutAndHeal(t *testing.T) {
	l := testLab(t, Options{Nodes: 3})
	for i := range 3 {
		awaitGet(t, l, "n1", web(l, i, 0), fmt.Sprintf("n%d", i+1))
	}
	step := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	expect := func(from string, to, link int, up bool) {
		t.Helper()
		if up {
			awaitGet(t, l, from, web(l, to, link), fmt.Sprintf("n%d", to+1))
		} else if got := get(t, l, from, web(l, to, link)); got != "-" {
			t.Errorf("from %s to n%d over link %d: %q answers", from, to+1, link, got)
		}
	}
	_, err := l.Cut("n1")
	step(err)
	expect("n1", 1, 0, false)
	expect("n2", 0, 1, false)
	expect("n2", 2, 0, true)
	step(l.Heal("n1"))
	awaitGet(t, l, "n1", web(l, 1, 0), "n2")

	_, err = l.Cut("n1", 0)
	step(err)
	expect("n1", 1, 0, false)
	expect("n1", 1, 1, true)
	step(l.Heal("n1"))

	// One pair: the third node still reaches both.
	step(l.CutPair("n1", "n2", false))
	expect("n1", 1, 0, false)
	expect("n2", 0, 1, false)
	expect("n1", 2, 0, true)
	expect("n3", 1, 1, true)
	step(l.CutPair("n1", "n3", false))
	expect("n1", 2, 0, false)
	expect("n3", 1, 0, true)
	step(l.Heal("n3"))
	expect("n1", 2, 0, true)
	expect("n1", 1, 0, false)
	step(l.Heal("n1"))
	expect("n1", 1, 0, true)

	// One way: n2 does not hear n1, n1 hears n2.
	out, err := l.Output(t.Context(), "n2", "ip", "neigh")
	step(err)
	if !strings.Contains(string(out), mac(0, 1)) {
		t.Fatalf("n2 does not know n1: %s", out)
	}
	step(l.CutPair("n1", "n2", true))
	if heard(t, l, "n1", "n2", "10.77.1.2") || heard(t, l, "n1", "n2", "10.77.2.2") {
		t.Error("n2 hears n1")
	}
	if !heard(t, l, "n2", "n1", "10.77.1.1") || !heard(t, l, "n2", "n1", "10.77.2.1") {
		t.Error("n1 does not hear n2")
	}
	expect("n1", 1, 0, false)
	expect("n3", 1, 0, true)
	if got := l.rec.Nodes[1].Blocked; len(got) != 2 || !slices.Equal(got[0], []string{"n1"}) || len(l.rec.Nodes[0].Blocked) != 0 {
		t.Errorf("one way, but blocked: %v, %v", got, l.rec.Nodes[0].Blocked)
	}
	step(l.Heal("n2"))
	expect("n1", 1, 0, true)

	if err := l.CutPair("n1", "n1", false); err == nil {
		t.Error("a node was cut from itself")
	}
	if _, err := l.Cut("n9"); err == nil || !strings.Contains(err.Error(), "n1 n2 n3") {
		t.Errorf("an unknown node: %v", err)
	}
	if _, err := l.Cut("n1", 7); err == nil {
		t.Error("an unknown link was cut")
	}
}

func TestPauseAndResume(t *testing.T) {
	l := testLab(t, Options{Nodes: 1})
	awaitGet(t, l, "", web(l, 0, 0), "n1")
	for range 2 {
		if err := l.Pause("n1", false); err != nil {
			t.Fatal(err)
		}
	}
	if s, _ := l.State("n1"); s != Paused {
		t.Errorf("a paused node is %s", s)
	}
	if got := get(t, l, "", web(l, 0, 0)); got != "-" {
		t.Errorf("a paused node answers %q", got)
	}
	arping := func() error {
		cmd := exec.Command("arping", "-c", "1", "-w", "1", "-I", "eth0", "10.77.1.1")
		if err := startInNetns(l.rec.Plan.ProbeNetns, cmd.Start); err != nil {
			t.Fatal(err)
		}
		return cmd.Wait()
	}
	if arping() == nil {
		t.Error("the kernel of a paused machine answers")
	}
	if err := l.Pause("n1", true); err != nil {
		t.Fatal(err)
	}
	if err := arping(); err != nil {
		t.Errorf("the kernel does not answer though only the processes hang: %v", err)
	}
	if err := l.Start("n1"); err == nil {
		t.Error("a paused node was started")
	}
	if err := l.Resume("n1"); err != nil {
		t.Fatal(err)
	}
	awaitGet(t, l, "", web(l, 0, 0), "n1")
	if err := l.Pause("n1", false); err != nil { // must not hinder removal
		t.Fatal(err)
	}
}

// lab-init starts what fails again, and leaves stopped what ended as told.
func TestInitKeepsItsProgramRunning(t *testing.T) {
	l := testLab(t, Options{Nodes: 1, Command: []string{"sh", "-c",
		`echo run >> /var/lib/holdfast/runs; (sleep 0.01 &) ; n=$(wc -l < /var/lib/holdfast/runs); case $n in 1) exit 3;; 2) kill -9 $$;; 4) exec sleep 1000;; esac`}})
	runs := filepath.Join(l.rec.Plan.Nodes[0].StateDir(), "runs")
	await := func(n int, log string) {
		t.Helper()
		deadline := time.Now().Add(20 * time.Second)
		for {
			b, _ := os.ReadFile(runs)
			said, _ := os.ReadFile(l.rec.Plan.Nodes[0].LogFile())
			if strings.Count(string(b), "run") == n && strings.Contains(string(said), log) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%q runs, not %d; log without %q:\n%s", b, n, log, said)
			}
			time.Sleep(time.Millisecond)
		}
	}
	await(3, "ended as told")
	b, _ := os.ReadFile(l.rec.Plan.Nodes[0].LogFile())
	for _, want := range []string{"ended with status 3", "was killed by signal 9"} {
		if !strings.Contains(string(b), want) {
			t.Errorf("the log does not say %q:\n%s", want, b)
		}
	}
	if err := l.Start("n1"); err != nil {
		t.Fatal(err)
	}
	await(4, "")
	for _, pid := range cgroup(l.rec.Plan.Nodes[0].Cgroup).processes() {
		if st, err := readStat(pid); err == nil && st.state == 'Z' {
			t.Errorf("process %d (%s) was not reaped", pid, st.comm)
		}
	}
}

func TestOrphansAreRemoved(t *testing.T) {
	l := testLab(t, Options{Nodes: 1})
	// Two orphans: one whose owner has died, one whose maker was killed half-way.
	for i, breakIt := range []func(o *Lab){
		func(o *Lab) { o.owner.Close() },
		func(o *Lab) { o.rec.Phase = Making; o.rec.Nodes[0].Init = process{}; _ = o.rec.save() },
	} {
		orphan, err := Make(t.Context(), Options{Name: fmt.Sprintf("%sx%d", l.Name(), i), Dir: filepath.Join(t.TempDir(), "lab"),
			Nodes: 2, Attached: true, Command: l.rec.Command, Binary: l.rec.Binary})
		if err != nil {
			t.Fatal(err)
		}
		breakIt(orphan)
		var said []string
		if err := Sweep(func(s string) { said = append(said, s) }); err != nil {
			t.Fatal(err)
		}
		checkNothingLeft(t, orphan)
		if len(said) != 1 || !strings.Contains(said[0], orphan.Name()) {
			t.Errorf("removed: %q", said)
		}
	}
	// The living one stayed.
	awaitGet(t, l, "", web(l, 0, 0), "n1")
}

// A lab whose directory has vanished is found by its name.
func TestLabWithoutDirectory(t *testing.T) {
	o, err := Make(t.Context(), Options{Name: testName(t), Dir: filepath.Join(t.TempDir(), "lab"), Nodes: 1, Command: []string{"sleep", "1000"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(o.Dir()); err != nil {
		t.Fatal(err)
	}
	if err := Sweep(func(string) {}); err != nil {
		t.Fatal(err)
	}
	checkNothingLeft(t, o)
}

func TestMakeRefuses(t *testing.T) {
	l := testLab(t, Options{Nodes: 1})
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "precious"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	name := l.Name() + "x"
	for _, c := range []struct {
		o    Options
		want string
	}{
		{Options{Name: l.Name(), Nodes: 1}, "holdfast lab down"},
		{Options{Name: "No Name", Nodes: 1}, "small letters"},
		{Options{Name: name, Nodes: 10}, "1 to 9"},
		{Options{Name: name, Nodes: 1, Dir: full}, "not empty"},
		{Options{Name: name, Nodes: 1, Dir: filepath.Join(t.TempDir(), "lab"), Command: []string{"x"}, Binary: "/nonexistent"}, "no such file"},
	} {
		o, err := Make(t.Context(), c.o)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, not %q", c.o, err, c.want)
		}
		if err == nil {
			_ = o.Down()
		}
	}
	if _, err := os.Stat(filepath.Join(full, "precious")); err != nil {
		t.Error(err)
	}
	if left := netnsesOf(name); len(left) > 0 {
		t.Errorf("a failed lab left %v", left)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Make(ctx, Options{Name: name, Nodes: 1, Dir: filepath.Join(t.TempDir(), "lab")}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled, but %v", err)
	}
}

func TestLoopback(t *testing.T) {
	me, _ := os.Executable()
	// The server's parent ends, so that the server itself becomes an orphan.
	l := testLab(t, Options{Nodes: 2, Loopback: true, Command: []string{"sh", "-c",
		`(setsid ` + me + ` lab web $(echo $HOLDFAST_LAB | sed 's/.*n/127.77.99./'):8077 &) ; exec sleep 1000`}})
	ask := func(want string) {
		t.Helper()
		deadline := time.Now().Add(20 * time.Second)
		for got := ""; got != want; {
			if time.Now().After(deadline) {
				t.Fatalf("%q, not %q", got, want)
			}
			got = probeOnce("127.77.99.2:8077", time.Second)
		}
	}
	ask("n2")
	if _, err := l.Cut("n2"); err == nil || !strings.Contains(err.Error(), "as root") {
		t.Errorf("cut in loopback mode: %v", err)
	}
	if err := l.Pause("n2", false); err != nil {
		t.Fatal(err)
	}
	if s, _ := l.State("n2"); s != Paused {
		t.Errorf("a paused node is %s", s)
	}
	if got := probeOnce("127.77.99.2:8077", 50*time.Millisecond); got != "" {
		t.Errorf("a paused node answers %q", got)
	}
	if err := l.Resume("n2"); err != nil {
		t.Fatal(err)
	}
	ask("n2")
	if _, err := l.Kill("n2"); err != nil {
		t.Fatal(err)
	}
	ask("")
	if left := marked(marker(l.Name(), "n2")); len(left) > 0 {
		t.Errorf("processes %v outlived their node", left)
	}
	if err := l.Start("n2"); err != nil {
		t.Fatal(err)
	}
	ask("n2")
	if out, err := l.Output(t.Context(), "n2", "sh", "-c", "echo $HOLDFAST_API"); err != nil || !strings.Contains(string(out), "n2/run/api.sock") {
		t.Errorf("%v %s", err, out)
	}
	if _, err := l.Kill("n1"); err != nil {
		t.Fatal(err)
	}
}

func TestProberSeesAnOutage(t *testing.T) {
	l := testLab(t, Options{Nodes: 1})
	awaitGet(t, l, "", web(l, 0, 0), "n1")
	p, err := l.StartProber(web(l, 0, 0))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if node, err := p.AwaitSteady(ctx, 20); err != nil || node != "n1" {
		t.Fatal(node, err)
	}
	fault, err := l.Cut("n1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Await(ctx, fault, func(ps []Probe) bool { return failures(ps) >= 20 }); err != nil {
		t.Fatal(err)
	}
	healed := monotonic()
	if err := l.Heal("n1"); err != nil {
		t.Fatal(err)
	}
	// The kernel may take a second to act on a carrier that is back.
	o, err := p.AwaitOutage(ctx, fault, 100*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	if o.Recovery < healed-fault || o.Recovery > healed-fault+3*time.Second || o.Node != "n1" || o.Failed < 20 || o.Gap < healed-fault {
		t.Errorf("%+v after a cut of %v", o, healed-fault)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

// The kernel must know of no process of a killed lab's first one.
func TestProcessIdentity(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p, err := processOf(cmd.Process.Pid)
	if err != nil || !p.alive() {
		t.Fatal(err, p)
	}
	if (process{p.PID, p.Start + 1}).alive() || (process{}).alive() {
		t.Error("a process with another start time is alive")
	}
	_ = unix.Kill(p.PID, unix.SIGKILL)
	var info unix.Siginfo
	if err := unix.Waitid(unix.P_PID, p.PID, &info, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	if p.alive() {
		t.Error("a zombie is alive")
	}
	_ = cmd.Wait()
}
