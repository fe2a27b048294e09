//go:build linux

package clusterd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/identity"
	"github.com/holdfast-ha/holdfast/internal/group/agents"
	"github.com/holdfast-ha/holdfast/internal/node/guardd"
)

const (
	asEnv    = "CLUSTERD_TEST_AS" // "guard" or "clusterd", with the two directories
	patience = 60 * time.Second
)

// TestMain runs this binary as the daemons too.
func TestMain(m *testing.M) {
	as, stateDir, runDir := os.Getenv(asEnv), os.Getenv("CLUSTERD_TEST_STATE"), os.Getenv("CLUSTERD_TEST_RUN")
	if as == "" {
		os.Exit(m.Run())
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if size := os.Getenv("CLUSTERD_TEST_DISK"); size != "" && as == "guard" {
		if err := smallDisk(stateDir, size); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(99)
		}
	}
	if as == "scheduling" {
		os.Exit(schedulingChild())
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("as", as)
	var err error
	if as == "guard" {
		err = guardd.Run(ctx, guardd.Options{StateDir: stateDir, RunDir: runDir, Engine: []string{"/usr/bin/env", asEnv + "=clusterd", os.Args[0]}, Log: log})
	} else {
		err = Run(ctx, Options{StateDir: stateDir, RunDir: runDir, Log: log, Version: "test"})
	}
	if err != nil {
		log.Error(err.Error())
	}
	os.Exit(Status(err))
}

// schedulingChild was started with real-time priority.
func schedulingChild() int {
	if attr, err := unix.SchedGetAttr(0, 0); err != nil || attr.Policy != unix.SCHED_RR {
		fmt.Println("not begun with real-time priority", err)
		return 1
	}
	if err := usualScheduling(); err != nil {
		fmt.Println(err)
		return 1
	}
	tasks, _ := os.ReadDir("/proc/self/task")
	for _, task := range tasks {
		tid, _ := strconv.Atoi(task.Name())
		if attr, err := unix.SchedGetAttr(tid, 0); err != nil || attr.Policy != unix.SCHED_NORMAL {
			fmt.Println("thread", tid, attr, err)
			return 1
		}
	}
	fmt.Println("ordinary")
	return 0
}

// smallDisk puts a file system of the given size under the state directory, in a
// mount namespace that this process has of its own.
func smallDisk(dir, size string) error {
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		return err
	}
	content := map[string][]byte{}
	for _, f := range files {
		if content[f], err = os.ReadFile(f); err != nil {
			return err
		}
	}
	if err := syscall.Mount("none", dir, "tmpfs", 0, "mode=700,size="+size); err != nil {
		return err
	}
	for f, b := range content {
		if err := os.WriteFile(f, b, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// machine is one node of a cluster on this machine.
type machine struct {
	t     *testing.T
	name  string
	state string
	run   string
	guard *exec.Cmd
	ended chan error
	log   logFile
	disk  string // size of its file system, empty: the machine's
	// Program of this node, empty: this test's own.
	program string
}

// logFile is a file, not a pipe: clusterd may outlive the guard that a test waits for.
type logFile string

func (l logFile) String() string {
	b, _ := os.ReadFile(string(l))
	return string(b)
}

// port of a test: guard and clusterd of all nodes use one number on addresses of their own.
var nextNet = struct {
	sync.Mutex
	n int
}{n: os.Getpid() % 100}

func cluster(t *testing.T, groups []*v1.Group, names ...string) map[string]*machine {
	t.Helper()
	nextNet.Lock()
	nextNet.n++
	third := nextNet.n % 250
	nextNet.Unlock()
	cfg := &v1.Configuration{Types: agents.Types(), Cluster: &v1.Cluster{Name: "test", Timers: &v1.Timers{Peerinact: durationpb.New(2 * time.Second)}}, Groups: groups}
	// Control groups are named after nodes, and other tests have nodes too.
	full := func(n string) string { return fmt.Sprintf("%s-%d-%d", n, os.Getpid(), third) }
	for _, g := range groups {
		for i, n := range g.SystemList {
			g.SystemList[i] = full(n)
		}
	}
	for i, n := range names {
		cfg.Nodes = append(cfg.Nodes, &v1.Node{Name: full(n), Links: []*v1.Link{
			{Name: "a", Address: fmt.Sprintf("127.21.%d.%d:7946", third, i+1)},
			{Name: "b", Address: fmt.Sprintf("127.22.%d.%d:7946", third, i+1)},
		}})
	}
	plan, err := identity.Init(identity.Spec{Configuration: cfg})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := plan.WriteNodeDirs(filepath.Join(dir, "state")); err != nil {
		t.Fatal(err)
	}
	all := map[string]*machine{}
	for i, short := range names {
		n := cfg.Nodes[i].GetName()
		all[short] = &machine{t: t, name: n, state: filepath.Join(dir, "state", n), run: filepath.Join(dir, "run-"+n), log: logFile(filepath.Join(dir, n+".log"))}
		if err := os.Mkdir(all[short].run, 0o700); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(all[short].destroy)
	}
	return all
}

func byName(ms map[string]*machine, name string) *machine {
	for _, m := range ms {
		if m.name == name {
			return m
		}
	}
	return nil
}

func (m *machine) start() {
	m.t.Helper()
	m.guard = exec.Command(os.Args[0])
	m.guard.Env = append(os.Environ(), asEnv+"=guard", "CLUSTERD_TEST_STATE="+m.state, "CLUSTERD_TEST_RUN="+m.run)
	if m.program != "" {
		m.guard = exec.Command(m.program, "guard", "--state-dir", m.state, "--run-dir", m.run)
		m.guard.Env = append(os.Environ(), "CLUSTERD_TEST_RUN="+m.run)
	}
	log, err := os.OpenFile(string(m.log), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		m.t.Fatal(err)
	}
	defer log.Close()
	m.guard.Stderr = log
	m.guard.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if m.disk != "" {
		m.guard.Env = append(m.guard.Env, "CLUSTERD_TEST_DISK="+m.disk)
		m.guard.SysProcAttr.Unshareflags = syscall.CLONE_NEWNS
	}
	if err := m.guard.Start(); err != nil {
		m.t.Fatal(err)
	}
	m.ended = make(chan error, 1)
	go func(c *exec.Cmd, ended chan error) { ended <- c.Wait() }(m.guard, m.ended)
}

// destroy whatever is left.
func (m *machine) destroy() {
	if m.guard != nil {
		_ = m.guard.Process.Kill()
	}
	for _, pid := range m.clusterd() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	for _, pid := range m.services() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	for _, dir := range m.cgroups() {
		_ = os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0)
		for range time.Tick(10 * time.Millisecond) {
			inner, _ := filepath.Glob(filepath.Join(dir, "*", "*", "cgroup.procs"))
			outer, _ := filepath.Glob(filepath.Join(dir, "*", "cgroup.procs"))
			for _, f := range append(inner, outer...) {
				_ = os.Remove(filepath.Dir(f))
			}
			if err := os.Remove(dir); err == nil || !errors.Is(err, syscall.EBUSY) {
				break
			}
		}
	}
	if m.t.Failed() {
		m.t.Logf("%s:\n%s", m.name, m.log)
	}
}

// cgroups that this node's agents have made.
func (m *machine) cgroups() []string {
	own, _ := os.ReadFile("/proc/self/cgroup")
	path := "/"
	for line := range strings.Lines(string(own)) {
		if p, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			path = p
		}
	}
	var found []string
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		for _, below := range []string{"", "clusterd"} {
			dirs, _ := filepath.Glob(filepath.Join(root, path, below, "holdfast-"+m.name))
			found = append(found, dirs...)
		}
	}
	return found
}

// clusterd finds the processes of this node's clusterd.
func (m *machine) clusterd() (pids []int) {
	procs, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, p := range procs {
		env, err := os.ReadFile(p)
		as, _ := os.ReadFile(filepath.Join(filepath.Dir(p), "cmdline"))
		isClusterd := strings.Contains(string(env), asEnv+"=clusterd\x00") || strings.Contains(string(as), "\x00clusterd\x00")
		if err == nil && isClusterd && strings.Contains(string(env), "CLUSTERD_TEST_RUN="+m.run+"\x00") {
			var pid int
			if _, err := fmt.Sscanf(p, "/proc/%d/", &pid); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

func (m *machine) client() *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(m.run, APISocket))
	}}}
}

func (m *machine) status() (*v1.StatusResponse, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	r, err := v1.NewClusterServiceClient(m.client(), "http://node").Status(ctx, connect.NewRequest(&v1.StatusRequest{}))
	if err != nil {
		return nil, err
	}
	return r.Msg, nil
}

// until asks again and again until ok is content.
func (m *machine) until(what string, ok func(*v1.StatusResponse) bool) *v1.StatusResponse {
	m.t.Helper()
	var last *v1.StatusResponse
	var err error
	end := time.Now().Add(patience)
	for range time.Tick(20 * time.Millisecond) {
		if last, err = m.status(); err == nil && ok(last) {
			return last
		}
		if time.Now().After(end) {
			m.t.Fatalf("%s: waited for %s; last answer %v, %v", m.name, what, last, err)
		}
	}
	return nil
}

// healthy: this many nodes run, there is a quorum, and the group is online somewhere.
func healthy(running int, group string) func(*v1.StatusResponse) bool {
	return func(s *v1.StatusResponse) bool {
		up := 0
		for _, n := range s.GetNodes() {
			if n.GetPhase() == v1.NodePhase_NODE_PHASE_RUNNING {
				up++
			}
		}
		return s.GetSource().GetQuorum() && up == running && (group == "" || onlineOn(s, group) != "")
	}
}

func onlineOn(s *v1.StatusResponse, group string) string {
	for _, g := range s.GetGroups() {
		if g.GetName() == group && g.GetState() == v1.GroupState_GROUP_STATE_ONLINE {
			return g.GetNode()
		}
	}
	return ""
}

// service is a group of one process that any of the nodes may run.
func service(nodes ...string) *v1.Group {
	return &v1.Group{Name: "web", SystemList: nodes, AutoStartList: nodes, Resources: []*v1.Resource{
		{Name: "daemon", Type: "Process", Attributes: map[string]string{"PathName": "/bin/sleep", "Arguments": "86400"}},
	}}
}

func TestThreeNodes(t *testing.T) {
	ms := cluster(t, []*v1.Group{service("n1", "n2", "n3")}, "n1", "n2", "n3")
	for _, m := range ms {
		m.start()
	}
	var where string
	for _, m := range ms {
		where = onlineOn(m.until("a healthy cluster", healthy(3, "web")), "web")
	}
	active := byName(ms, where)
	var running []int
	active.until("the service's process", func(*v1.StatusResponse) bool {
		running = active.services()
		return len(running) == 1
	})
	if len(running) != 1 {
		t.Fatalf("processes of the service on %s: %v", where, running)
	}

	// A killed clusterd is started again and finds the service running.
	before := active.clusterd()
	if len(before) != 1 {
		t.Fatalf("%d processes of clusterd", len(before))
	}
	_ = syscall.Kill(before[0], syscall.SIGKILL)
	active.until("clusterd to come back", func(s *v1.StatusResponse) bool {
		now := active.clusterd()
		return healthy(3, "web")(s) && len(now) == 1 && now[0] != before[0]
	})
	if after := active.services(); fmt.Sprint(after) != fmt.Sprint(running) {
		t.Errorf("the service was %v, is %v", running, after)
	}

	// Guard and clusterd killed at once: another node takes over.
	_ = active.guard.Process.Kill()
	for _, pid := range active.clusterd() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	for _, m := range ms {
		if m != active {
			s := m.until("a takeover", func(s *v1.StatusResponse) bool {
				on := onlineOn(s, "web")
				return on != "" && on != where
			})
			t.Logf("%s: %s", m.name, s.GetVerdict())
			break
		}
	}
	for _, pid := range running {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	<-active.ended
	active.start()
	active.until("the node to rejoin", healthy(3, "web"))

	// A clean end of guard takes clusterd with it.
	_ = active.guard.Process.Signal(syscall.SIGTERM)
	if err := <-active.ended; err != nil {
		t.Errorf("guard ended with %v", err)
	}
	if left := active.clusterd(); len(left) != 0 {
		t.Errorf("clusterd %v outlives an orderly end", left)
	}
}

// services are the processes of groups of this node.
func (m *machine) services() (pids []int) {
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		cmd, err := os.ReadFile(p)
		if err != nil || string(cmd) != "/bin/sleep\x0086400\x00" {
			continue
		}
		env, err := os.ReadFile(filepath.Join(filepath.Dir(p), "environ"))
		if err == nil && strings.Contains(string(env), m.run) {
			var pid int
			if _, err := fmt.Sscanf(p, "/proc/%d/", &pid); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// A node whose disk is full stops its groups, says goodbye and stays down; the
// others go on with them at once.
func TestFullDisk(t *testing.T) {
	ms := cluster(t, []*v1.Group{service("n1", "n2", "n3")}, "n1", "n2", "n3")
	full := ms["n1"]
	full.disk = "160k"
	for _, m := range ms {
		m.start()
	}
	full.until("the service on n1", func(s *v1.StatusResponse) bool { return onlineOn(s, "web") == full.name })
	other := ms["n2"]
	other.until("a healthy cluster", healthy(3, "web"))
	nodes := v1.NewNodeServiceClient(other.client(), "http://node")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for i := 0; ; i++ {
		select {
		case err := <-full.ended:
			if err != nil {
				t.Errorf("guard ended with %v", err)
			}
		default:
			if _, err := nodes.Freeze(ctx, connect.NewRequest(&v1.FreezeNodeRequest{Node: ms["n3"].name})); err != nil {
				t.Logf("freeze: %v", err)
			}
			if _, err := nodes.Unfreeze(ctx, connect.NewRequest(&v1.UnfreezeNodeRequest{Node: ms["n3"].name})); err != nil {
				t.Logf("unfreeze: %v", err)
			}
			if ctx.Err() != nil {
				t.Fatalf("n1 goes on after %d changes", i)
			}
			continue
		}
		break
	}
	if got := full.services(); len(got) != 0 {
		t.Errorf("%v of the service outlive the node", got)
	}
	if log := full.log.String(); !strings.Contains(log, "this node can't go on") || !strings.Contains(log, "no space left for the raft log") {
		t.Error("no reason is told")
	}
	s := other.until("a takeover", func(s *v1.StatusResponse) bool { on := onlineOn(s, "web"); return on != "" && on != full.name })
	t.Log(s.GetVerdict())
}

func TestDamagedLogEndsTheNode(t *testing.T) {
	ms := cluster(t, nil, "n1")
	m := ms["n1"]
	path := filepath.Join(m.state, identity.FileLog)
	log, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	clear(log[4096:8192]) // the page that says where everything is
	if err := os.WriteFile(path, log, 0o600); err != nil {
		t.Fatal(err)
	}
	m.start()
	select {
	case err := <-m.ended:
		if err != nil {
			t.Errorf("guard ended with %v", err)
		}
	case <-time.After(patience):
		t.Fatal("guard goes on")
	}
	if log := m.log.String(); !strings.Contains(log, "raft log is damaged") || !strings.Contains(log, "move the file away") {
		t.Error("the log does not say what to do")
	}
}

// What guard would hand down must not stay: services would inherit it.
func TestRealTimePriorityIsNotKept(t *testing.T) {
	c := exec.Command("chrt", "--rr", "20", os.Args[0])
	c.Env = append(os.Environ(), asEnv+"=scheduling")
	out, err := c.CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "ordinary" {
		t.Fatalf("%v: %s", err, out)
	}
}

func TestSecondClusterdIsRefused(t *testing.T) {
	dir := t.TempDir()
	lock, err := lockRunDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := Run(t.Context(), Options{StateDir: dir, RunDir: dir}); !errors.Is(err, ErrRunning) || Status(err) != 1 {
		t.Errorf("got %v", err)
	}
}

// Guard is killed and does not come back: clusterd stops everything at the end
// of the lease. The next guard finds it and the service runs again.
func TestGuardKilled(t *testing.T) {
	m := cluster(t, []*v1.Group{service("n1")}, "n1")["n1"]
	m.start()
	m.until("the service", healthy(1, "web"))
	m.until("the service's process", func(*v1.StatusResponse) bool { return len(m.services()) == 1 })
	engine := m.clusterd()
	_ = m.guard.Process.Kill()
	<-m.ended
	began := time.Now()
	for range time.Tick(10 * time.Millisecond) {
		if len(m.services()) == 0 {
			break
		}
		if time.Since(began) > patience {
			t.Fatal("the service runs without a lease")
		}
	}
	// 60 % of peerinact at most, and a share for the stop.
	t.Logf("stopped %v after the death of guard", time.Since(began))
	m.start()
	m.until("the service again", func(s *v1.StatusResponse) bool { return healthy(1, "web")(s) && len(m.services()) == 1 })
	if now := m.clusterd(); fmt.Sprint(now) != fmt.Sprint(engine) {
		t.Errorf("clusterd was %v, is %v", engine, now)
	}
}
