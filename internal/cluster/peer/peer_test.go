package peer

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/identity"
	"github.com/holdfast-ha/holdfast/internal/cluster/peer/peerpb"
	"github.com/holdfast-ha/holdfast/internal/wire"
)

const patience = 20 * time.Second

// identities of a new cluster.
func identities(t testing.TB, now func() time.Time, names ...string) (map[string]*identity.Identity, *identity.Plan) {
	t.Helper()
	cfg := &v1.Configuration{Cluster: &v1.Cluster{Name: "test"}}
	for _, n := range names {
		cfg.Nodes = append(cfg.Nodes, &v1.Node{Name: n, Links: []*v1.Link{{Name: "a", Address: "127.0.0.1"}}})
	}
	p, err := identity.Init(identity.Spec{Configuration: cfg, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "nodes")
	if err := p.WriteNodeDirs(out); err != nil {
		t.Fatal(err)
	}
	ids := map[string]*identity.Identity{}
	for _, n := range names {
		if ids[n], err = identity.LoadAt(filepath.Join(out, n), orNow(now)); err != nil {
			t.Fatal(err)
		}
	}
	return ids, p
}

func orNow(now func() time.Time) func() time.Time {
	if now == nil {
		return time.Now
	}
	return now
}

// recorder keeps what a handler was told, as text: "up n2", "down n2", "n2: 5", "dropped n2: 5".
type recorder struct {
	events chan string
	// Messages wait for it, if it is not nil; those that are not "quick".
	block chan struct{}
}

func (r *recorder) Message(node string, m *peerpb.Message) {
	if r.block != nil && payload(m) != "quick" {
		<-r.block
	}
	r.events <- node + ": " + payload(m)
}
func (r *recorder) Connected(node string, up bool) {
	r.events <- map[bool]string{true: "up ", false: "down "}[up] + node
}
func (r *recorder) Dropped(node string, m *peerpb.Message) {
	r.events <- "dropped " + node + ": " + payload(m)
}

func payload(m *peerpb.Message) string {
	raw := m.GetRaft()
	if len(raw) > 20 {
		return fmt.Sprintf("%d bytes", len(raw))
	}
	return string(raw)
}

func message(s string) *peerpb.Message {
	return &peerpb.Message{Body: &peerpb.Message_Raft{Raft: []byte(s)}}
}

// logText collects log lines.
type logText struct {
	mu    sync.Mutex
	text  strings.Builder
	wrote chan struct{}
}

func (l *logText) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Write(b)
	select {
	case l.wrote <- struct{}{}:
	default:
	}
	return len(b), nil
}

func (l *logText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

type node struct {
	*Transport
	*recorder
	log   *logText
	t     testing.TB
	addrs []string
}

func start(t testing.TB, o Options, addresses ...string) *node {
	t.Helper()
	n := &node{recorder: &recorder{events: make(chan string, 10000)}, log: &logText{wrote: make(chan struct{}, 1)}, t: t}
	if o.Handler == nil {
		o.Handler = n.recorder
	} else {
		n.recorder = o.Handler.(*recorder)
	}
	o.Log = slog.New(slog.NewTextHandler(n.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	n.Transport = New(o)
	t.Cleanup(n.Close)
	if len(addresses) == 0 {
		addresses = []string{"127.0.0.1:0"}
	}
	if err := n.Listen(addresses); err != nil {
		t.Fatal(err)
	}
	n.addrs = n.Addresses()
	return n
}

// wait for an event; others before it are returned.
func (n *node) wait(want string) (before []string) {
	n.t.Helper()
	limit := time.After(patience)
	for {
		select {
		case e := <-n.events:
			if e == want {
				return before
			}
			before = append(before, e)
		case <-limit:
			n.t.Fatalf("%s: waited for %q, got %q\n%s", n.o.Identity.Node, want, before, n.log)
		}
	}
}

func (n *node) waitLog(parts ...string) {
	n.t.Helper()
	limit := time.After(patience)
	for {
		for _, line := range strings.Split(n.log.String(), "\n") {
			all := true
			for _, p := range parts {
				all = all && strings.Contains(line, p)
			}
			if all {
				return
			}
		}
		select {
		case <-n.log.wrote:
		case <-limit:
			n.t.Fatalf("%s: waited for a line with %q in\n%s", n.o.Identity.Node, parts, n.log)
		}
	}
}

// sendAll sends, and fails the test if one is not taken.
func (n *node) sendAll(to string, texts ...string) {
	n.t.Helper()
	for _, s := range texts {
		if !n.Send(to, message(s)) {
			n.t.Fatalf("%s was not taken", s)
		}
	}
}

// pair of nodes that are connected both ways.
func pairOf(t testing.TB, links ...string) (a, b *node) {
	t.Helper()
	ids, _ := identities(t, nil, "n1", "n2")
	a, b = start(t, Options{Identity: ids["n1"]}, links...), start(t, Options{Identity: ids["n2"]}, links...)
	peers := map[string][]string{"n1": a.addrs, "n2": b.addrs}
	a.SetPeers(peers)
	b.SetPeers(peers)
	a.wait("up n2")
	b.wait("up n1")
	return a, b
}

func TestMessagesArriveInOrder(t *testing.T) {
	a, b := pairOf(t)
	const count = 5000 // fits into the queue
	for i := range count {
		a.sendAll("n2", fmt.Sprint(i))
	}
	for i := range count {
		if before := b.wait(fmt.Sprint("n1: ", i)); len(before) != 0 {
			t.Fatalf("before message %d: %q", i, before)
		}
	}
	b.sendAll("n1", "back")
	a.wait("n2: back")
	if a.Send("n3", message("x")) {
		t.Error("a message for nobody was taken")
	}
	if c := a.Counters()["n2"]; !c.Connected || c.Sent != count || c.Received != 1 || c.Connections != 1 {
		t.Errorf("%+v", c)
	}
}

func TestReconnectsAfterAConnectionWasKilled(t *testing.T) {
	a, b := pairOf(t)
	for i := range 5 {
		b.Transport.mu.Lock()
		in := b.in["n1"]
		b.Transport.mu.Unlock()
		_ = in.conn.(*tls.Conn).NetConn().Close()
		a.wait("down n2")
		a.wait("up n2")
		a.sendAll("n2", fmt.Sprint("after kill ", i))
		b.wait(fmt.Sprint("n1: after kill ", i))
	}
}

func TestRestartedPeerIsFoundAgain(t *testing.T) {
	ids, _ := identities(t, nil, "n1", "n2")
	a, b := start(t, Options{Identity: ids["n1"]}), start(t, Options{Identity: ids["n2"]})
	peers := map[string][]string{"n1": a.addrs, "n2": b.addrs}
	a.SetPeers(peers)
	a.wait("up n2")
	b.Close()
	a.wait("down n2")
	if a.Send("n2", message("x")) {
		t.Error("a message was taken without a connection")
	}
	b = start(t, Options{Identity: ids["n2"]}, b.addrs...)
	a.Kick("n2")
	a.wait("up n2")
	a.sendAll("n2", "hello again")
	b.wait("n1: hello again")
}

// What may have been lost with a connection is reported (P2).
func TestLostMessagesAreReported(t *testing.T) {
	ids, _ := identities(t, nil, "n1", "n2")
	slow := &recorder{events: make(chan string, 100), block: make(chan struct{})}
	a, b := start(t, Options{Identity: ids["n1"]}), start(t, Options{Identity: ids["n2"], Handler: slow})
	a.SetPeers(map[string][]string{"n2": b.addrs})
	a.wait("up n2")
	big := strings.Repeat("x", 8<<20)
	sent := 0
	for a.Send("n2", message(big)) { // until the queue is full
		sent++
	}
	if sent < 5 || sent > 40 {
		t.Fatalf("%d messages of 8 MiB were taken", sent)
	}
	b.Transport.mu.Lock()
	in := b.in["n1"]
	b.Transport.mu.Unlock()
	_ = in.conn.(*tls.Conn).NetConn().Close()
	close(slow.block)
	a.wait("down n2")
	for range sent - 3 { // some may be in the sockets, or be counted as written
		a.wait("dropped n2: 8388608 bytes")
	}
}

func TestMovesToAnotherLink(t *testing.T) {
	a, b := pairOf(t, "127.0.0.1:0", "127.0.0.2:0")
	first := a.Counters()["n2"].Link
	a.LinkState("n2", first, false)
	a.wait("down n2")
	a.wait("up n2")
	if now := a.Counters()["n2"].Link; now == first {
		t.Fatalf("still on link %d", now)
	}
	a.sendAll("n2", "other link")
	b.wait("n1: other link")
	b.Transport.mu.Lock()
	from := b.in["n1"].conn.RemoteAddr().String()
	b.Transport.mu.Unlock()
	if want := fmt.Sprintf("127.0.0.%d:", 2-first); !strings.HasPrefix(from, want) {
		t.Errorf("connection comes from %s", from)
	}
	// With no link up the connection stays: TCP knows best then.
	a.LinkState("n2", 1-first, false)
	a.sendAll("n2", "still")
	b.wait("n1: still")
}

func TestTriesTheOtherLinkWhenOneIsDead(t *testing.T) {
	ids, _ := identities(t, nil, "n1", "n2")
	a, b := start(t, Options{Identity: ids["n1"]}, "127.0.0.1:0", "127.0.0.2:0"), start(t, Options{Identity: ids["n2"]})
	a.SetPeers(map[string][]string{"n2": {"127.0.0.9:1", b.addrs[0]}})
	a.wait("up n2")
}

func TestChangedAddressesAreFollowed(t *testing.T) {
	ids, _ := identities(t, nil, "n1", "n2")
	a, b := start(t, Options{Identity: ids["n1"]}), start(t, Options{Identity: ids["n2"]})
	a.SetPeers(map[string][]string{"n2": b.addrs})
	a.wait("up n2")
	if err := b.Listen([]string{"127.0.0.3:0"}); err != nil {
		t.Fatal(err)
	}
	a.SetPeers(map[string][]string{"n2": b.Addresses()})
	a.wait("down n2")
	a.wait("up n2")
	a.SetPeers(nil)
	a.wait("down n2")
	if a.Send("n2", message("x")) {
		t.Error("a message for a node that is no peer any more was taken")
	}
}

// A node that is behind may not know the leader's address yet.
func TestUnknownNodeOfTheClusterIsAnswered(t *testing.T) {
	ids, _ := identities(t, nil, "n1", "n2")
	a, b := start(t, Options{Identity: ids["n1"]}), start(t, Options{Identity: ids["n2"]})
	a.SetPeers(map[string][]string{"n2": b.addrs})
	a.wait("up n2")
	b.wait("up n1")
	b.sendAll("n1", "who are you")
	a.wait("n2: who are you")
}

func TestNewerConnectionReplacesTheOlder(t *testing.T) {
	a, b := pairOf(t)
	old := dialPeer(t, a.o.Identity, b.addrs[0])
	old.hello(a)
	a.wait("down n2") // the new one has replaced a's own
	a.wait("up n2")   // and now the other way round
	if _, err := old.Read(make([]byte, 1)); err == nil {
		t.Error("the replaced connection is still there")
	}
	a.sendAll("n2", "one")
	b.wait("n1: one")
}

// What the older connection has brought is delivered before anything of the newer one (P1).
func TestOrderAcrossConnections(t *testing.T) {
	ids, _ := identities(t, nil, "n1", "n2")
	slow := &recorder{events: make(chan string, 100), block: make(chan struct{})}
	a, b := start(t, Options{Identity: ids["n1"]}), start(t, Options{Identity: ids["n2"], Handler: slow})
	b.SetPeers(map[string][]string{"n1": {"127.0.0.9:1"}})
	for _, s := range []string{"slow", "quick"} {
		p := dialPeer(t, ids["n1"], b.addrs[0])
		p.hello(a)
		if err := wire.WriteFrame(p, message(s)); err != nil {
			t.Fatal(err)
		}
		for b.Counters()["n1"].Received == 0 {
			runtime.Gosched()
		}
	}
	select {
	case e := <-b.events:
		t.Errorf("%q came first", e)
	case <-time.After(200 * time.Millisecond): // long enough for a wrong order to show
	}
	close(slow.block)
	b.wait("n1: slow")
	b.wait("n1: quick")
}

// rawPeer speaks the protocol by hand.
type rawPeer struct {
	*tls.Conn
	t testing.TB
}

func dialPeer(t testing.TB, id *identity.Identity, address string) *rawPeer {
	t.Helper()
	cfg := id.PeerTLS()
	cfg.NextProtos = []string{Protocol}
	c, err := tls.Dial("tcp", address, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return &rawPeer{c, t}
}

func (p *rawPeer) hello(as *node) *peerpb.Hello {
	p.t.Helper()
	m := as.hello()
	m.GetHello().Addresses = nil
	if err := wire.WriteFrame(p, m); err != nil {
		p.t.Fatal(err)
	}
	return p.answer()
}

func (p *rawPeer) answer() *peerpb.Hello {
	p.t.Helper()
	h, err := readHello(bufio.NewReader(p))
	if err != nil {
		p.t.Fatal(err)
	}
	return h
}

func (p *rawPeer) mustEnd() {
	p.t.Helper()
	if _, err := io.Copy(io.Discard, p); err != nil && strings.Contains(err.Error(), "timeout") {
		p.t.Error("the connection was not ended")
	}
}

func TestAPIOnTheSamePort(t *testing.T) {
	ids, plan := identities(t, nil, "n1")
	api := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "%s over %s", r.URL.Path, r.Proto) })
	a := start(t, Options{Identity: ids["n1"], API: api})
	dir := filepath.Join(t.TempDir(), "alice")
	if err := plan.Authority.WriteClient("alice", dir); err != nil {
		t.Fatal(err)
	}
	for _, h2 := range []bool{true, false} {
		cfg, err := identity.LoadClient(dir)
		if err != nil {
			t.Fatal(err)
		}
		want := "/x over HTTP/1.1"
		tr := &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: h2}
		if h2 {
			want = "/x over HTTP/2.0"
		}
		res, err := (&http.Client{Transport: tr, Timeout: patience}).Get("https://" + a.addrs[0] + "/x")
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		tr.CloseIdleConnections()
		if string(body) != want {
			t.Errorf("got %q, want %q", body, want)
		}
	}
	// Nobody else gets that far.
	others, _ := identities(t, nil, "n1")
	cfg := others["n1"].PeerTLS()
	res, err := (&http.Client{Transport: &http.Transport{TLSClientConfig: cfg}, Timeout: patience}).Get("https://" + a.addrs[0] + "/x")
	if err == nil {
		_ = res.Body.Close()
		t.Error("a stranger used the API")
	}
	a.waitLog("refused", others["n1"].ClusterUUID)
}

func TestCloseEndsEverything(t *testing.T) {
	a, b := pairOf(t)
	a.Close()
	a.Close()
	b.wait("down n1")
	if a.Send("n2", message("x")) {
		t.Error("taken after Close")
	}
	if err := a.Listen([]string{"127.0.0.1:0"}); err == nil {
		t.Error("listens after Close")
	}
	a.SetPeers(map[string][]string{"n2": b.addrs})
}

func TestListenSaysWhatIsWrong(t *testing.T) {
	ids, _ := identities(t, nil, "n1", "n2")
	a := start(t, Options{Identity: ids["n1"]})
	b := start(t, Options{Identity: ids["n2"]})
	if err := b.Listen(a.addrs); err == nil || !strings.Contains(err.Error(), a.addrs[0]) {
		t.Errorf("got %v", err)
	}
	// An address that the machine does not have (yet).
	if err := b.Listen([]string{"203.0.113.7:0", "[2001:db8::7]:0"}); err != nil {
		t.Errorf("absent addresses: %v", err)
	}
}

func BenchmarkSend(b *testing.B) {
	x, y := pairOf(b)
	for _, n := range []*node{x, y} {
		go func() {
			for range n.events {
			}
		}()
	}
	m := message(strings.Repeat("x", 200))
	b.SetBytes(200)
	for b.Loop() {
		for !x.Send("n2", m) {
			runtime.Gosched() // the queue is full
		}
	}
}
