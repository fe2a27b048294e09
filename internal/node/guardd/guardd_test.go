//go:build linux

package guardd

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/holdfast-ha/holdfast/internal/cluster/guard"
	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
	"github.com/holdfast-ha/holdfast/internal/node/guardclient"
)

// Guards under test are processes of their own, as they are in life: this test
// program, started again in a role.
const (
	roleVariable = "HOLDFAST_TEST_ROLE"
	planVariable = "HOLDFAST_TEST_PLAN"
)

// plan of a process in a role.
type plan struct {
	State, Run string
	Engine     []string
	Identity   *Identity
	// Loopback is an address that the guard's network namespace gets first.
	Loopback string
	// Report is a socket of the test: a fake engine tells there what it sees, a relay
	// passes frames on.
	Report string
	// Watchdog of the guard: a device, or with Fake the socket of a fake one.
	Watchdog string
	Fake     bool
	// Restart: the guard may restart its machine, for which it makes a file of this name.
	Restart string

	listener net.Listener
}

func TestMain(m *testing.M) {
	role := os.Getenv(roleVariable)
	if role == "" {
		os.Exit(m.Run())
	}
	var p plan
	err := json.Unmarshal([]byte(os.Getenv(planVariable)), &p)
	if err == nil {
		err = map[string]func(plan) error{"guard": guardRole, "engine": engineRole, "relay": relayRole}[role](p)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func guardRole(p plan) error {
	if p.Loopback != "" {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(lo); err != nil {
			return err
		}
		a, err := netlink.ParseAddr(p.Loopback)
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(lo, a); err != nil {
			return err
		}
	}
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	o := Options{StateDir: p.State, RunDir: p.Run, Engine: p.Engine, Identity: p.Identity, Watchdog: p.Watchdog}
	if p.Fake {
		o.armWatchdog = dialFake
	}
	o.MayRestart = p.Restart != ""
	o.restart = func() error { return os.WriteFile(p.Restart, nil, 0o600) }
	return Run(ctx, o)
}

// engineRole is a clusterd that only connects, ticks and tells.
func engineRole(p plan) error {
	lock, err := os.OpenFile(filepath.Join(p.Run, guardclient.LockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("a second engine was started: %w", err)
	}
	report, err := net.Dial("unix", p.Report)
	if err != nil {
		return err
	}
	tell := func(format string, args ...any) {
		fmt.Fprintf(report, "%d %s\n", os.Getpid(), fmt.Sprintf(format, args...))
	}
	policy, _, _ := unix.Syscall(unix.SYS_SCHED_GETSCHEDULER, 0, 0, 0)
	tell("policy %d", policy)
	for {
		c, err := guardclient.Dial(p.Run)
		if err != nil {
			time.Sleep(20 * time.Millisecond)
			continue
		}
		welcome := false
		for f := range c.Frames() {
			if w := f.GetWelcome(); w != nil {
				welcome = true
				tell("welcome incarnation=%d rebooted=%v", w.GuardIncarnation, w.Rebooted)
			}
		}
		if welcome { // else a guard that was just dying took the connection
			tell("disconnected")
		}
	}
}

// relayRole is a clusterd whose thinking is done by the test: it passes bytes on,
// from guard to the test and back.
func relayRole(p plan) error {
	lock, err := os.OpenFile(filepath.Join(p.Run, guardclient.LockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("a second engine was started: %w", err)
	}
	for {
		if _, err := os.Stat(p.Report); err != nil {
			return nil // the test is over
		}
		g, err := net.Dial("unix", socketPath(p.Run))
		if err != nil {
			time.Sleep(10 * time.Millisecond)
			continue
		}
		first := make([]byte, 1)
		if _, err := io.ReadFull(g, first); err != nil {
			g.Close() // a guard that was just dying took the connection
			continue
		}
		c, err := net.Dial("unix", p.Report)
		if err != nil {
			return nil
		}
		_, _ = c.Write(first)
		go func() {
			_, _ = io.Copy(g, c)
			g.Close()
		}()
		_, _ = io.Copy(c, g)
		c.Close()
	}
}

// daemon is a process in a role.
type daemon struct {
	t    *testing.T
	cmd  *exec.Cmd
	out  *bytes.Buffer
	done chan struct{}
}

func startRole(t *testing.T, role string, p plan, attr *syscall.SysProcAttr) *daemon {
	t.Helper()
	raw, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	d := &daemon{t: t, cmd: exec.Command("/proc/self/exe"), out: new(bytes.Buffer), done: make(chan struct{})}
	d.cmd.Env = append(os.Environ(), roleVariable+"="+role, planVariable+"="+string(raw))
	d.cmd.Stdout, d.cmd.Stderr, d.cmd.SysProcAttr = d.out, d.out, attr
	// A clusterd that outlives its guard holds the pipe; its output is of no interest then.
	d.cmd.WaitDelay = 100 * time.Millisecond
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = d.cmd.Wait()
		close(d.done)
	}()
	t.Cleanup(func() {
		_ = d.cmd.Process.Kill()
		<-d.done
		if t.Failed() {
			t.Logf("%s %s wrote:\n%s", role, p.Run, d.out)
		}
	})
	return d
}

// ended waits for the process and returns its exit status.
func (d *daemon) ended() int {
	d.t.Helper()
	select {
	case <-d.done:
	case <-time.After(15 * time.Second):
		d.t.Fatalf("the process does not end")
	}
	return d.cmd.ProcessState.ExitCode()
}

// kill with SIGKILL, and wait.
func (d *daemon) kill() {
	_ = d.cmd.Process.Kill()
	<-d.done
}

// testPlan for a node with these links. Its engine is a relay to the test.
func testPlan(t *testing.T, node string, links ...string) plan {
	t.Helper()
	dir := t.TempDir()
	p := plan{State: filepath.Join(dir, "state"), Run: filepath.Join(dir, "run"), Report: filepath.Join(dir, "report")}
	if err := os.Mkdir(p.State, 0o700); err != nil {
		t.Fatal(err)
	}
	p.Identity = &Identity{Node: node, ClusterUUID: "6f4e2a0c-0000-4000-8000-000000000001", Links: links, Secret: bytes.Repeat([]byte{7}, guard.SecretSize)}
	var err error
	if p.listener, err = net.Listen("unix", p.Report); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.listener.Close() })
	p.engine(t, "relay")
	return p
}

// engine sets the command line of the node's engine.
func (p *plan) engine(t *testing.T, role string) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	p.Engine = []string{"/usr/bin/env", roleVariable + "=" + role, planVariable + "=" + string(raw), exe}
}

// freePort on an address, for UDP.
func freePort(t *testing.T, address string) string {
	t.Helper()
	c, err := net.ListenPacket("udp", net.JoinHostPort(address, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.LocalAddr().String()
}

// engine is the test in the role of a node's engine.
type engine struct {
	t       *testing.T
	c       *guardclient.Conn
	welcome *guardpb.Welcome
	calls   uint64
	seen    []*guardpb.FromGuard
}

// dial waits until the node's relay has connected guard with the test.
func dial(t *testing.T, p plan) *engine {
	t.Helper()
	_ = p.listener.(*net.UnixListener).SetDeadline(time.Now().Add(10 * time.Second))
	c, err := p.listener.Accept()
	if err != nil {
		t.Fatalf("no engine connects to the guard in %s: %v", p.Run, err)
	}
	e := &engine{t: t, c: guardclient.New(c)}
	t.Cleanup(func() { e.c.Close() })
	e.welcome = e.await("Welcome", func(f *guardpb.FromGuard) bool { return f.GetWelcome() != nil }).GetWelcome()
	return e
}

// await the next frame that is wanted.
func (e *engine) await(what string, want func(*guardpb.FromGuard) bool) *guardpb.FromGuard {
	e.t.Helper()
	limit := time.After(10 * time.Second)
	for {
		select {
		case f, ok := <-e.c.Frames():
			if !ok {
				e.t.Fatalf("waiting for %s: %v", what, e.c.Err())
			}
			e.seen = append(e.seen, f)
			if l := f.GetLease(); l != nil && !l.Held && !l.Stopped {
				e.send(&guardpb.ToGuard{Body: &guardpb.ToGuard_Quiet{Quiet: &guardpb.Quiet{}}})
			}
			if want(f) {
				return f
			}
		case <-limit:
			for _, f := range e.seen {
				e.t.Log(f)
			}
			e.t.Fatalf("no %s came", what)
		}
	}
}

func (e *engine) send(f *guardpb.ToGuard) {
	e.t.Helper()
	if err := e.c.Send(f); err != nil {
		e.t.Fatal(err)
	}
}

// call sends f and waits for its answer.
func (e *engine) call(f *guardpb.ToGuard) string {
	e.t.Helper()
	e.calls++
	f.Call = e.calls
	e.send(f)
	return e.await("answer", func(f *guardpb.FromGuard) bool { return f.GetDone().GetCall() == e.calls }).GetDone().GetError()
}

func (e *engine) configure(c *guardpb.Configure) {
	e.t.Helper()
	if msg := e.call(&guardpb.ToGuard{Body: &guardpb.ToGuard_Configure{Configure: c}}); msg != "" {
		e.t.Fatal(msg)
	}
}

func (e *engine) awaitLease(held, stopped bool) *guardpb.Lease {
	e.t.Helper()
	return e.await(fmt.Sprintf("lease held=%v stopped=%v", held, stopped), func(f *guardpb.FromGuard) bool {
		l := f.GetLease()
		return l != nil && l.Held == held && l.Stopped == stopped
	}).GetLease()
}

func (e *engine) stats() *guardpb.Stats {
	e.t.Helper()
	e.calls++
	e.send(&guardpb.ToGuard{Call: e.calls, Body: &guardpb.ToGuard_StatsRequest{StatsRequest: &guardpb.StatsRequest{}}})
	return e.await("stats", func(f *guardpb.FromGuard) bool { return f.GetStats().GetCall() == e.calls }).GetStats()
}

// configuration of a view of all these nodes, for each of them.
func configurations(peerinact time.Duration, plans []plan, engines []*engine) []*guardpb.Configure {
	c := &guardpb.Configure{Epoch: 1, MayAcknowledge: true, Heartbeat: durationpb.New(50 * time.Millisecond), Peerinact: durationpb.New(peerinact)}
	for i, p := range plans {
		peer := &guardpb.Peer{Node: p.Identity.Node, RaftId: uint64(i + 1), GuardIncarnation: engines[i].welcome.GuardIncarnation, Addresses: p.Identity.Links}
		for l := range p.Identity.Links {
			peer.LinkNames = append(peer.LinkNames, fmt.Sprintf("net%d", l))
		}
		c.Peers = append(c.Peers, peer)
	}
	var all []*guardpb.Configure
	for i, p := range plans {
		own := proto.CloneOf(c)
		own.Node, own.RaftId = p.Identity.Node, uint64(i+1)
		all = append(all, own)
	}
	return all
}

// pair starts two guards that see each other over two links, IPv4 and IPv6, and
// waits until both hold a lease.
func pair(t *testing.T, peerinact time.Duration) (plans []plan, daemons []*daemon, engines []*engine) {
	t.Helper()
	plans = []plan{
		testPlan(t, "a", freePort(t, "127.0.71.1"), freePort(t, "::1")),
		testPlan(t, "b", freePort(t, "127.0.71.2"), freePort(t, "::1")),
	}
	for _, p := range plans {
		daemons = append(daemons, startRole(t, "guard", p, nil))
		engines = append(engines, dial(t, p))
	}
	for i, c := range configurations(peerinact, plans, engines) {
		engines[i].configure(c)
	}
	for _, e := range engines {
		e.awaitLease(true, false)
	}
	return plans, daemons, engines
}

func upOnBothLinks(f *guardpb.FromGuard) bool {
	p := f.GetPeers().GetPeers()
	return len(p) == 1 && p[0].State == guardpb.LinkState_LINK_STATE_UP && len(p[0].Links) == 2 &&
		p[0].Links[0] == guardpb.LinkState_LINK_STATE_UP && p[0].Links[1] == guardpb.LinkState_LINK_STATE_UP
}

// Two guards hear each other over IPv4 and IPv6; strangers' packets are counted; the
// death of one is noticed.
func TestTwoGuards(t *testing.T) {
	const peerinact = time.Second
	plans, daemons, engines := pair(t, peerinact)
	a := engines[0]
	if !a.welcome.Rebooted || a.welcome.GuardIncarnation != 1 {
		t.Errorf("welcome %v", a.welcome)
	}
	if until, err := guardclient.LeaseUntil(plans[0].Run); err != nil || until <= guardclient.Boottime() {
		t.Errorf("guard.lease says %v at %v, %v", until, guardclient.Boottime(), err)
	}
	// Noise, a packet under another secret, one of another cluster.
	to, err := net.Dial("udp", plans[0].Identity.Links[0])
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	hb := &guard.Heartbeat{Incarnation: 1, Sequence: 1 << 40}
	forger, _ := guard.NewSealer(bytes.Repeat([]byte{8}, guard.SecretSize), plans[0].Identity.ClusterUUID, "b", [guard.SaltSize]byte{})
	foreigner, _ := guard.NewSealer(plans[0].Identity.Secret, "another", "b", [guard.SaltSize]byte{})
	for _, packet := range [][]byte{[]byte("noise"), make([]byte, 4000), forger.Seal(nil, 0, 0, "a", hb), foreigner.Seal(nil, 0, 0, "a", hb)} {
		if _, err := to.Write(packet); err != nil {
			t.Fatal(err)
		}
	}
	deadline := time.Now().Add(5 * time.Second)
	for {
		s := a.stats()
		var fromB, fromNobody *guardpb.LinkStats
		for _, l := range s.Links {
			switch {
			case l.Node == "b" && l.Link == "net0":
				fromB = l
			case l.Node == "" && l.Link == "net0":
				fromNobody = l
			}
		}
		if fromB.GetForged() == 1 && fromNobody.GetMalformed() == 2 && fromNobody.GetForeign() == 1 && fromB.GetReceived() > 3 && fromB.GetRoundTripP50().AsDuration() > 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("counted %v", s)
		}
	}
	daemons[1].kill()
	f := a.await("suspicion", func(f *guardpb.FromGuard) bool { return f.GetSuspect() != nil })
	if st := f.GetSuspect().Statement; st.About != "b" || st.AboutRaftId != 2 || st.Age.AsDuration() < peerinact || st.Age.AsDuration() > 2*peerinact || st.GoodbyeSequence != 0 {
		t.Errorf("stated %v", f)
	}
	for _, l := range a.stats().Links {
		if l.Node == "b" && l.Refused == 0 {
			t.Errorf("nobody listens on %s of b, and that was not counted: %v", l.Link, l)
		}
	}
}

// An orderly shutdown is heard as a goodbye, long before silence would be.
func TestShutdownSaysGoodbye(t *testing.T) {
	plans, daemons, engines := pair(t, 20*time.Second)
	cmd := exec.Command("sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	b := engines[1]
	protect := &guardpb.Protect{Group: "web", ProcessGroups: []int32{int32(cmd.Process.Pid)}}
	if msg := b.call(&guardpb.ToGuard{Body: &guardpb.ToGuard_Protect{Protect: protect}}); msg != "" {
		t.Fatal(msg)
	}
	if err := daemons[1].cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	b.awaitLease(false, true)
	st := engines[0].await("suspicion", func(f *guardpb.FromGuard) bool { return f.GetSuspect() != nil }).GetSuspect().Statement
	if st.GoodbyeSequence == 0 || st.YoungestSequence > st.GoodbyeSequence {
		t.Errorf("stated %v", st)
	}
	if code := daemons[1].ended(); code != 0 {
		t.Errorf("exit status %d", code)
	}
	select {
	case <-ended:
	case <-time.After(time.Second):
		t.Error("what was protected still runs")
	}
	if until, err := guardclient.LeaseUntil(plans[1].Run); err != nil || until != 0 {
		t.Errorf("guard.lease says %v, %v", until, err)
	}
}

// Guard is killed and started again: same boot, next incarnation, the lease goes on.
func TestGuardRestart(t *testing.T) {
	plans, daemons, engines := pair(t, 20*time.Second)
	if msg := engines[1].call(&guardpb.ToGuard{Body: &guardpb.ToGuard_Protect{Protect: &guardpb.Protect{Group: "web"}}}); msg != "" {
		t.Fatal(msg)
	}
	daemons[1].kill()
	startRole(t, "guard", plans[1], nil)
	e := dial(t, plans[1])
	w := e.welcome
	if w.GuardIncarnation != 2 || w.Rebooted || len(w.Protected) != 1 || w.Protected[0].Group != "web" || w.Configured.GetRaftId() != 2 {
		t.Errorf("welcome %v", w)
	}
	e.await("lease", func(f *guardpb.FromGuard) bool {
		if l := f.GetLease(); l != nil && !l.Held {
			t.Fatalf("the lease was not taken over: %v", l)
		}
		return f.GetLease().GetHeld()
	})
}

func TestSecondGuardIsRefused(t *testing.T) {
	p := testPlan(t, "a", freePort(t, "127.0.71.1"))
	first := startRole(t, "guard", p, nil)
	dial(t, p)
	second := startRole(t, "guard", p, nil)
	if code := second.ended(); code != 1 || !strings.Contains(second.out.String(), fmt.Sprintf("process %d uses %s", first.cmd.Process.Pid, p.Run)) {
		t.Errorf("exit status %d: %s", code, second.out)
	}
}

// A killed clusterd is started again, without guard's priority. It outlives a killed
// guard, and the next guard does not start a second one.
func TestSupervision(t *testing.T) {
	p := testPlan(t, "a", freePort(t, "127.0.71.1"))
	p.engine(t, "engine")
	lines := make(chan string, 100)
	go func() {
		for {
			c, err := p.listener.Accept()
			if err != nil {
				return
			}
			go func() {
				for s := bufio.NewScanner(c); s.Scan(); {
					lines <- s.Text()
				}
			}()
		}
	}()
	next := func(format string) (pid int) {
		t.Helper()
		select {
		case l := <-lines:
			if n, err := fmt.Sscanf(l, "%d "+format, &pid); n != 1 || l != fmt.Sprintf("%d ", pid)+format {
				t.Fatalf("engine says %q (%v), expected %q", l, err, format)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("engine does not say %q", format)
		}
		return pid
	}
	g := startRole(t, "guard", p, nil)

	first := next("policy 0")
	next("welcome incarnation=1 rebooted=true")
	if err := unix.Kill(first, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	second := next("policy 0")
	if second == first {
		t.Fatal("the same process again")
	}
	t.Cleanup(func() { _ = unix.Kill(second, unix.SIGKILL) })
	next("welcome incarnation=1 rebooted=true")

	g.kill()
	if pid := next("disconnected"); pid != second {
		t.Fatalf("process %d was disconnected, not %d", pid, second)
	}
	g = startRole(t, "guard", p, nil)
	if pid := next("welcome incarnation=2 rebooted=true"); pid != second {
		t.Fatalf("process %d is connected, not %d", pid, second)
	}
	// It goes on watching the one that it did not start.
	if err := unix.Kill(second, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	next("policy 0")
	third := next("welcome incarnation=2 rebooted=true")

	// An orderly end takes clusterd along.
	if err := g.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := g.ended(); code != 0 {
		t.Errorf("exit status %d", code)
	}
	if err := unix.Kill(third, 0); err != unix.ESRCH {
		t.Errorf("clusterd %d has outlived an orderly end: %v", third, err)
	}
	select {
	case l := <-lines:
		if l != fmt.Sprintf("%d disconnected", third) {
			t.Errorf("engine says %q after the end", l)
		}
	default:
	}
}
