package arbiterd

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/arbiter"
	"github.com/holdfast-ha/holdfast/internal/arbiter/arbiterbench/testcluster"
	"github.com/holdfast-ha/holdfast/internal/cluster/witness/witnesspb"
)

// Environment of the test binary when it is not to run tests.
const (
	childDir  = "HOLDFAST_TEST_ARBITER_DIR"
	childUser = "HOLDFAST_TEST_CONTROL_DIR"
)

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(childDir) != "":
		os.Exit(serveChild(os.Getenv(childDir)))
	case os.Getenv(childUser) != "":
		os.Exit(controlChild(os.Getenv(childUser)))
	}
	os.Exit(m.Run())
}

// serveChild is an arbiter in a process that can be killed.
func serveChild(dir string) int {
	s, err := Open(Options{Dir: dir})
	if err != nil {
		fmt.Println("error:", err)
		return 1
	}
	fmt.Println("serving", s.Addr())
	if err := s.Serve(context.Background()); err != nil {
		fmt.Println("error:", err)
	}
	return 1
}

// child starts an arbiter as a process and waits until it serves.
func child(t *testing.T, dir string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "serving ") {
		t.Fatalf("arbiter did not start: %q, %v", line, err)
	}
	return cmd
}

// world is an arbiter in this process, on a port of its own.
type world struct {
	t    testing.TB
	dir  string
	addr string
	log  *logBuffer
	// How Serve is expected to end.
	fails error

	s    *Server
	stop func()
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newWorld(t testing.TB, set ...func(*Options)) *world {
	t.Helper()
	w := &world{t: t, dir: filepath.Join(t.TempDir(), "arbiter"), log: &logBuffer{}}
	must(t, second(Make(Init{Dir: w.dir, Listen: "127.0.0.1:0", Address: "127.0.0.1:1"})))
	w.start(set...)
	return w
}

// start the arbiter, on the port that it had before.
func (w *world) start(set ...func(*Options)) {
	w.t.Helper()
	if err := w.open(set...); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) open(set ...func(*Options)) error {
	o := Options{Dir: w.dir, Listen: w.addr, Log: slog.New(slog.NewTextHandler(w.log, nil)), Version: "test"}
	for _, fn := range set {
		fn(&o)
	}
	s, err := Open(o)
	if err != nil {
		return err
	}
	w.s, w.addr = s, s.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	var once sync.Once
	w.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; !errors.Is(err, w.fails) {
				w.t.Error(err)
			}
		})
	}
	w.t.Cleanup(w.stop)
	return nil
}

func (w *world) restart() {
	w.t.Helper()
	w.stop()
	w.start()
}

func (w *world) token(name string) string {
	w.t.Helper()
	tok, err := w.s.table.makeToken(name, w.addr, time.Hour)
	must(w.t, err)
	return tok.String()
}

// node of a cluster.
type node struct {
	*testcluster.Cluster
	name string
	tls  *tls.Config
	*arbiter.Client
	point *v1.ArbiterPoint
}

func newCluster(t testing.TB, name string) *testcluster.Cluster {
	t.Helper()
	c, err := testcluster.New(name)
	must(t, err)
	return c
}

func (w *world) register(c *testcluster.Cluster, id *tls.Config, token string, register uint64) (*v1.ArbiterPoint, error) {
	return arbiter.Register(w.ctx(), arbiter.Registration{Token: token, ClusterUUID: c.UUID, ClusterName: c.Name, Authorities: c.Authority(), Identity: id, Register: register})
}

func (w *world) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	w.t.Cleanup(cancel)
	return ctx
}

// registered cluster of this name, with a node n1.
func (w *world) registered(name string) *node {
	w.t.Helper()
	c := newCluster(w.t, name)
	id, err := c.Node("n1", time.Hour)
	must(w.t, err)
	p, err := w.register(c, id, w.token(name), 1)
	must(w.t, err)
	return w.node(c, "n1", id, p)
}

func (w *world) node(c *testcluster.Cluster, name string, id *tls.Config, p *v1.ArbiterPoint) *node {
	n := &node{c, name, id, arbiter.Dial(p, id), p}
	w.t.Cleanup(func() { _ = n.Close() })
	return n
}

// sibling is another node of the same cluster.
func (w *world) sibling(n *node, name string) *node {
	w.t.Helper()
	id, err := n.Cluster.Node(name, time.Hour)
	must(w.t, err)
	return w.node(n.Cluster, name, id, n.point)
}

func (w *world) do(n *node, r *witnesspb.Request) *witnesspb.Reply {
	w.t.Helper()
	reply, err := n.Ask(w.ctx(), r)
	if err != nil {
		w.t.Fatal(err)
	}
	return reply
}

// with changes a request.
func with(r *witnesspb.Request, fn func(*witnesspb.Request)) *witnesspb.Request {
	fn(r)
	return r
}

func inRegister(r *witnesspb.Request, register uint64) *witnesspb.Request {
	return with(r, func(r *witnesspb.Request) { r.Register = register })
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func second[T any](_ T, err error) error { return err }

func wantErr(t *testing.T, what string, err, class error, text string) {
	t.Helper()
	if !errors.Is(err, class) || !strings.Contains(err.Error(), text) {
		t.Errorf("%s: error %v; want class %q with %q in it", what, err, class, text)
	}
}

func wantRefused(t *testing.T, what string, r *witnesspb.Reply, reason witnesspb.Refused_Reason) {
	t.Helper()
	if r.GetRefused().GetReason() != reason || r.GetRefused().GetMessage() == "" {
		t.Errorf("%s: %v; want %v", what, r, reason)
	}
}
