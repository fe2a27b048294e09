package arbiterd

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/arbiter"
	"github.com/holdfast-ha/holdfast/internal/arbiter/arbiterpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/identity"
	"github.com/holdfast-ha/holdfast/internal/cluster/witness/witnesspb"
	"github.com/holdfast-ha/holdfast/internal/wire"
)

func TestPromisesSurviveARestart(t *testing.T) {
	w := newWorld(t)
	n := w.registered("shop")
	if w.do(n, n.Prepare("n1", 5)).GetPromised() == nil {
		t.Fatal("not promised")
	}
	if w.do(n, n.Accept("n1", 7, 3, 42)).GetAccepted() == nil {
		t.Fatal("not accepted")
	}
	suspect := n.Request("n1")
	suspect.Body = &witnesspb.Request_Suspect{Suspect: &witnesspb.Suspect{About: "n2", AboutRaftId: 2, Stays: 4}}
	if w.do(n, suspect).GetSuspected() == nil {
		t.Fatal("not suspected")
	}
	w.restart()
	n2 := w.sibling(n, "n2")
	renew := n2.Request("n2")
	renew.RaftId = 2
	renew.Body = &witnesspb.Request_Renew{Renew: &witnesspb.Renew{Stays: 4}}
	r := w.do(n2, renew)
	wantRefused(t, "the suspected", r, witnesspb.Refused_REASON_SUSPECTED)
	if r.GetSequence() != 4 { // registration, and three changes
		t.Errorf("sequence %d", r.GetSequence())
	}
	if got := w.do(n2, n2.Prepare("n2", 6)).GetRejected().GetPromised().GetCounter(); got != 7 {
		t.Errorf("promised ballot %d after the restart", got)
	}
	p := w.do(n2, n2.Prepare("n2", 8)).GetPromised()
	if p.GetAccepted().GetCounter() != 7 || p.GetValue().GetTerm() != 3 || p.GetValue().GetVote() != 42 {
		t.Errorf("after the restart: %v", p)
	}
	for _, line := range []string{"vote", "suspected", "a new register is used", "cluster registered"} {
		if !strings.Contains(w.log.String(), "arbiter: "+line) {
			t.Errorf("no line %q in the log:\n%s", line, w.log)
		}
	}
}

// TestIdentity: the certificates that clusters really have.
func TestIdentity(t *testing.T) {
	w := newWorld(t)
	plan, err := identity.Init(identity.Spec{Configuration: &v1.Configuration{
		Cluster: &v1.Cluster{Name: "real"},
		Nodes:   []*v1.Node{{Name: "a", Links: []*v1.Link{{Name: "l", Address: "127.0.0.1:1"}}}},
	}})
	must(t, err)
	dir := t.TempDir() + "/a"
	must(t, plan.WriteNodeDir("a", dir))
	id, err := identity.Load(dir)
	must(t, err)
	ca := t.TempDir() + "/ca"
	must(t, plan.Authority.Write(ca))
	pem := read(t, dir+"/"+identity.FileAuthority)
	p, err := arbiter.Register(w.ctx(), arbiter.Registration{Token: w.token("real"), ClusterUUID: id.ClusterUUID, ClusterName: "real", Authorities: pem, Identity: id.PeerTLS(), Register: 9})
	must(t, err)
	c := arbiter.Dial(p, id.PeerTLS())
	defer c.Close()
	r, err := c.Do(w.ctx(), &witnesspb.Request{Cluster: id.ClusterUUID, Register: 9, Node: "a", RaftId: 1, Body: &witnesspb.Request_Look{Look: &witnesspb.Look{}}})
	must(t, err)
	if r.GetLooked() == nil {
		t.Error(r)
	}
}

func TestWhoMayAsk(t *testing.T) {
	w := newWorld(t)
	n := w.registered("shop")
	other := w.registered("bank")
	ask := func(id *tls.Config, r *witnesspb.Request) (*witnesspb.Reply, error) {
		c := arbiter.Dial(n.point, id)
		defer c.Close()
		return c.Do(w.ctx(), r)
	}

	t.Run("an authority that is not the cluster's", func(t *testing.T) {
		forged := newCluster(t, "shop")
		forged.UUID = n.UUID
		must(t, forged.NewAuthority())
		id, err := forged.Node("n1", time.Hour)
		must(t, err)
		_, err = ask(id, n.Look("n1"))
		wantErr(t, "ask", err, arbiter.ErrCertificate, "not signed by an authority that is registered")
		_, err = w.register(forged, id, w.token(""), 1)
		wantErr(t, "register", err, arbiter.ErrCertificate, "registered with another authority")
	})
	t.Run("expired", func(t *testing.T) {
		id, err := n.Cluster.Node("n1", -time.Minute)
		must(t, err)
		_, err = ask(id, n.Look("n1"))
		wantErr(t, "ask", err, arbiter.ErrExpired, "renew the certificate")
		_, err = w.register(n.Cluster, id, w.token(""), 1)
		wantErr(t, "register", err, arbiter.ErrExpired, "")
	})
	t.Run("no node", func(t *testing.T) {
		for _, path := range []string{"/client/n1", "/node/", "/node/a/b", "/authority", ""} {
			id, err := n.Holder(path, time.Hour)
			must(t, err)
			_, err = ask(id, n.Look("n1"))
			wantErr(t, path, err, arbiter.ErrCertificate, "")
		}
	})
	t.Run("not registered", func(t *testing.T) {
		c := newCluster(t, "new")
		id, err := c.Node("n1", time.Hour)
		must(t, err)
		_, err = ask(id, c.Look("n1"))
		wantErr(t, "ask", err, arbiter.ErrNotRegistered, "holdfast arbiter token")
	})
	t.Run("for another cluster or node", func(t *testing.T) {
		r, err := ask(n.tls, other.Prepare("n1", 1))
		must(t, err)
		wantRefused(t, "another cluster", r, witnesspb.Refused_REASON_WRONG_CLUSTER)
		r, err = ask(n.tls, n.Prepare("n2", 1))
		must(t, err)
		wantRefused(t, "another node", r, witnesspb.Refused_REASON_MALFORMED)
		if got := w.do(other, other.Prepare("n1", 1)).GetPromised().GetAccepted(); got != nil {
			t.Error("something was changed:", got)
		}
	})
}

func TestWrongArbiter(t *testing.T) {
	w, elsewhere := newWorld(t), newWorld(t)
	n := w.registered("shop")
	change := func(fn func(*v1.ArbiterPoint)) error {
		p := proto.CloneOf(n.point)
		fn(p)
		c := arbiter.Dial(p, n.tls)
		defer c.Close()
		_, err := c.Do(w.ctx(), n.Look("n1"))
		return err
	}
	wantErr(t, "another key", change(func(p *v1.ArbiterPoint) { p.Address = elsewhere.addr }), arbiter.ErrWrongKey, "holdfast arbiter status")
	wantErr(t, "another instance", change(func(p *v1.ArbiterPoint) { p.Instance = strings.Repeat("0", 32) }), arbiter.ErrInstance, "holdfast quorum replace")
	for what, p := range map[string]*v1.ArbiterPoint{
		"fingerprint": {Address: w.addr, KeyFingerprint: "12", Instance: n.point.Instance},
		"instance":    {Address: w.addr, KeyFingerprint: n.point.KeyFingerprint},
		"HOST:PORT":   {Address: "nonsense", KeyFingerprint: n.point.KeyFingerprint, Instance: n.point.Instance},
	} {
		c := arbiter.Dial(p, n.tls)
		if _, err := c.Do(w.ctx(), n.Look("n1")); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("configuration without %s: %v", what, err)
		}
	}

	// Somebody with the right key who names another instance is not believed either.
	l, err := tls.Listen("tcp", "127.0.0.1:0", w.s.tls)
	must(t, err)
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				r := bufio.NewReader(c)
				_ = wire.ReadFrame(r, new(arbiterpb.ToArbiter), arbiter.FrameMax)
				_ = wire.WriteFrame(c, &arbiterpb.FromArbiter{Body: &arbiterpb.FromArbiter_Welcome{Welcome: &arbiterpb.Welcome{Protocol: 1, Instance: "other", Registered: true}}})
				_ = wire.WriteFrame(c, &arbiterpb.FromArbiter{Id: 1, Body: &arbiterpb.FromArbiter_Reply{Reply: &witnesspb.Reply{Body: &witnesspb.Reply_Accepted{Accepted: &witnesspb.Accepted{}}}}})
				_, _ = io.Copy(io.Discard, c)
			}()
		}
	}()
	wantErr(t, "a liar", change(func(p *v1.ArbiterPoint) { p.Address = l.Addr().String() }), arbiter.ErrInstance, "instance other")

	// Nobody, and somebody who speaks something else.
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	_ = dead.Close()
	wantErr(t, "nobody", change(func(p *v1.ArbiterPoint) { p.Address = dead.Addr().String() }), arbiter.ErrUnreachable, "is holdfast arbiter serve running")
	web := &http.Server{}
	wl, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	go func() { _ = web.Serve(wl) }()
	defer web.Close()
	wantErr(t, "a web server", change(func(p *v1.ArbiterPoint) { p.Address = wl.Addr().String() }), arbiter.ErrUnreachable, "TLS")
}

func TestVersions(t *testing.T) {
	w := newWorld(t)
	n := w.registered("shop")
	for _, h := range []*arbiterpb.Hello{
		{ProtocolMin: 2, ProtocolMax: 3, Instance: n.point.Instance},
		{Instance: n.point.Instance},
	} {
		c := w.dial(n.tls)
		must(t, wire.WriteFrame(c, &arbiterpb.ToArbiter{Body: &arbiterpb.ToArbiter_Hello{Hello: h}}))
		m := new(arbiterpb.FromArbiter)
		must(t, wire.ReadFrame(bufio.NewReader(c), m, arbiter.FrameMax))
		if r := m.GetWelcome().GetRefused(); r.GetCode() != arbiterpb.Refusal_CODE_VERSION || !strings.Contains(r.GetMessage(), "upgrade") {
			t.Errorf("%v: %v", h, m)
		}
	}
}

// dial without a client's manners.
func (w *world) dial(id *tls.Config) *tls.Conn {
	w.t.Helper()
	cfg := id.Clone()
	cfg.InsecureSkipVerify, cfg.NextProtos = true, []string{arbiter.ALPN}
	c, err := tls.Dial("tcp", w.addr, cfg)
	must(w.t, err)
	w.t.Cleanup(func() { _ = c.NetConn().Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

// hello over a raw connection, and its welcome.
func (w *world) hello(id *tls.Config, p *v1.ArbiterPoint) (*tls.Conn, *bufio.Reader) {
	w.t.Helper()
	c := w.dial(id)
	must(w.t, wire.WriteFrame(c, &arbiterpb.ToArbiter{Body: &arbiterpb.ToArbiter_Hello{Hello: &arbiterpb.Hello{ProtocolMin: 1, ProtocolMax: 1, Instance: p.GetInstance()}}}))
	r := bufio.NewReader(c)
	m := new(arbiterpb.FromArbiter)
	must(w.t, wire.ReadFrame(r, m, arbiter.FrameMax))
	if m.GetWelcome() == nil || m.GetWelcome().GetRefused() != nil {
		w.t.Fatal(m)
	}
	return c, r
}

func TestGarbage(t *testing.T) {
	w := newWorld(t)
	n := w.registered("shop")
	frame, err := wire.AppendFrame(nil, &arbiterpb.ToArbiter{Id: 1, Body: &arbiterpb.ToArbiter_Request{Request: n.Look("n1")}})
	must(t, err)
	large, err := wire.AppendFrame(nil, &arbiterpb.ToArbiter{Id: 1, Body: &arbiterpb.ToArbiter_Register{Register: &arbiterpb.Register{Secret: make([]byte, arbiter.FrameMax)}}})
	must(t, err)
	ended := func(c net.Conn) {
		t.Helper()
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.Copy(io.Discard, c); isTimeout(err) {
			t.Error("the connection stays")
		}
	}
	for _, b := range [][]byte{[]byte("GET / HTTP/1.0\r\n\r\n"), make([]byte, 4096), frame} {
		c, err := net.Dial("tcp", w.addr)
		must(t, err)
		_, _ = c.Write(b)
		_ = c.(*net.TCPConn).CloseWrite()
		ended(c)
	}
	// Before the hello, and after it.
	for _, b := range [][]byte{[]byte(strings.Repeat("garbage!", 99)), frame, large} {
		c := w.dial(n.tls)
		_, _ = c.Write(b)
		ended(c)
	}
	for _, b := range [][]byte{[]byte(strings.Repeat("garbage!", 99)), large} {
		c, _ := w.hello(n.tls, n.point)
		_, _ = c.Write(b)
		ended(c)
	}
	// A frame that says nothing is refused, and what follows is served.
	c, r := w.hello(n.tls, n.point)
	must(t, wire.WriteFrame(c, &arbiterpb.ToArbiter{Id: 7}))
	_, err = c.Write(frame)
	must(t, err)
	m := new(arbiterpb.FromArbiter)
	must(t, wire.ReadFrame(r, m, arbiter.FrameMax))
	if m.GetId() != 7 || m.GetRefusal().GetCode() != arbiterpb.Refusal_CODE_MALFORMED {
		t.Error(m)
	}
	must(t, wire.ReadFrame(r, m, arbiter.FrameMax))
	if m.GetId() != 1 || m.GetReply().GetLooked() == nil {
		t.Error(m)
	}
	if w.do(n, n.Prepare("n1", 1)).GetPromised() == nil {
		t.Error("the arbiter serves no more")
	}
}

// TestSlowNode: who asks and does not listen holds up nobody (A6).
func TestSlowNode(t *testing.T) {
	const limit = time.Second
	w := newWorld(t, func(o *Options) { o.FrameLimit = limit })
	n := w.registered("shop")
	slow, _ := w.hello(n.tls, n.point)
	frame, err := wire.AppendFrame(nil, &arbiterpb.ToArbiter{Id: 1, Body: &arbiterpb.ToArbiter_Request{Request: n.Prepare("n1", 3)}})
	must(t, err)
	stuck := make(chan struct{})
	go func() {
		defer close(stuck)
		b := make([]byte, 0, 1<<20)
		for len(b) < 1<<20 {
			b = append(b, frame...)
		}
		_ = slow.SetWriteDeadline(time.Time{})
		for {
			if _, err := slow.Write(b); err != nil {
				return
			}
		}
	}()
	other := w.registered("bank")
	sibling := w.sibling(n, "n2")
	for i := range uint64(200) {
		if w.do(other, other.Prepare("n1", i+1)).GetPromised() == nil || w.do(sibling, sibling.Prepare("n2", i+10)).GetPromised() == nil {
			t.Fatal("not promised")
		}
	}
	for _, k := range w.s.connections() {
		if got := len(k.slots); got > arbiter.InFlight {
			t.Errorf("%d requests in flight", got)
		}
	}
	// It is given up after a while.
	select {
	case <-stuck:
	case <-time.After(time.Minute): // it goes by the time limit of the server, but a busy machine takes its time
		t.Error("a node that does not listen keeps its connection")
	}
}

// TestConnectionsAreBounded: new ones take the place of those that are idle, and
// of no others.
func TestConnectionsAreBounded(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.ConnectionsMax = 3 })
	n := w.registered("shop")
	var all []*node
	for i := range 3 {
		m := w.sibling(n, fmt.Sprintf("m%d", i))
		w.do(m, m.Prepare(m.name, uint64(i)+1))
		all = append(all, m)
	}
	busy := make(chan struct{})
	var wg sync.WaitGroup
	for i, m := range all[1:] {
		wg.Go(func() {
			for b := uint64(10); ; b++ {
				select {
				case <-busy:
					return
				default:
				}
				if _, err := m.Ask(w.ctx(), m.Look(m.name)); err != nil {
					t.Error(i, err)
					return
				}
			}
		})
	}
	late := w.sibling(n, "late")
	for end := time.Now().Add(10 * evictIdle); ; {
		_, err := late.Do(w.ctx(), late.Prepare("late", 100))
		if got := w.s.open(); got > 3 {
			t.Errorf("%d connections are open", got)
		}
		if err == nil {
			break
		}
		if !errors.Is(err, arbiter.ErrUnreachable) || time.Now().After(end) {
			t.Fatal(err)
		}
	}
	close(busy)
	wg.Wait()
	// The first one was idle: it connects again, as soon as there is room.
	_ = late.Close()
	for end := time.Now().Add(10 * evictIdle); ; {
		if _, err := all[0].Do(w.ctx(), all[0].Prepare("m0", 200)); err == nil {
			break
		} else if time.Now().After(end) {
			t.Fatal(err)
		}
	}

	// One node alone can't take all of its cluster's.
	w2 := newWorld(t)
	n2 := w2.registered("shop")
	var conns []*tls.Conn
	for range 3 * connsPerNode {
		c, r := w2.hello(n2.tls, n2.point)
		must(t, wire.WriteFrame(c, &arbiterpb.ToArbiter{Id: 1, Body: &arbiterpb.ToArbiter_Request{Request: n2.Look("n1")}}))
		must(t, wire.ReadFrame(r, new(arbiterpb.FromArbiter), arbiter.FrameMax))
		conns = append(conns, c)
	}
	if _, err := conns[0].Read(make([]byte, 1)); err == nil || isTimeout(err) {
		t.Errorf("the oldest connection stays: %v", err)
	}
	if got := w2.s.open(); got > connsPerNode+1 {
		t.Errorf("%d connections of one node", got)
	}
}

func TestMetrics(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.Metrics = "127.0.0.1:0" })
	n := w.registered("shop")
	w.do(n, n.Prepare("n1", 5))
	w.do(n, n.Prepare("n1", 4))
	_, _ = w.register(n.Cluster, n.tls, "hfa-x", 1)
	resp, err := http.Get("http://" + w.s.MetricsAddr().String() + "/metrics")
	must(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	must(t, err)
	for _, want := range []string{
		`holdfast_arbiter_requests_total{kind="prepare",result="ok"} 1`, `holdfast_arbiter_requests_total{kind="prepare",result="rejected"} 1`,
		`holdfast_arbiter_clusters 1`, `holdfast_arbiter_connections_total{result="ok"} 2`, `holdfast_arbiter_request_seconds_count{kind="prepare"} 2`,
		`holdfast_arbiter_commit_changes_count 3`, `holdfast_arbiter_open_connections 1`,
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	_, err = Open(Options{Dir: w.dir, Metrics: "0.0.0.0:0"})
	wantErr(t, "twice", err, ErrInUse, "another holdfast arbiter serve")
	w.stop()
	if _, err := Open(Options{Dir: w.dir, Metrics: "0.0.0.0:0"}); err == nil || !strings.Contains(err.Error(), "loopback") {
		t.Errorf("metrics for everybody: %v", err)
	}
}

// TestAnswersWaitForTheDisk: A1, for those too that change nothing themselves.
func TestAnswersWaitForTheDisk(t *testing.T) {
	w := newWorld(t)
	n := w.registered("shop")
	w.stop()
	s, err := openStore(w.dir+"/"+FileStore, false)
	must(t, err)
	defer s.close()
	c := newCommitter(s, func(int) {})
	tab, err := newTable(s, c, w.s.log, newMetrics(), bootTime)
	must(t, err)
	id, err := arbiter.ParseUUID(n.UUID)
	must(t, err)
	cl := tab.cluster(id)
	var got []string
	ask := func(name string, r *witnesspb.Request) {
		if tab.do(cl, r, func(*witnesspb.Reply) { got = append(got, name) }) != nil {
			got = append(got, name)
		}
	}
	ask("look", n.Look("n1"))
	if fmt.Sprint(got) != "[look]" {
		t.Fatal("a look waits for nothing, got", got)
	}
	ask("prepare", n.Prepare("n1", 3))
	ask("look again", n.Look("n1"))
	ask("rejected", n.Prepare("n1", 2)) // by a promise that is not durable yet
	if len(got) != 1 {
		t.Fatal("answered before anything was written:", got)
	}
	batch := c.take()
	must(t, c.commit(batch))
	for _, ch := range batch {
		ch.done()
	}
	if fmt.Sprint(got) != "[look prepare look again rejected]" {
		t.Error("answers", got)
	}
}

// TestOneAtATime: the promises of a cluster form one order, whoever asks (A2).
func TestOneAtATime(t *testing.T) {
	w := newWorld(t)
	n := w.registered("shop")
	suspected := make(chan struct{})
	var wg sync.WaitGroup
	for i := range 4 {
		m := w.sibling(n, fmt.Sprintf("m%d", i))
		wg.Go(func() {
			for range 50 {
				var before bool
				select {
				case <-suspected:
					before = true
				default:
				}
				r := m.Request(m.name)
				r.Body = &witnesspb.Request_Renew{Renew: &witnesspb.Renew{Stays: 1}}
				reply, err := m.Do(w.ctx(), r)
				if err != nil {
					t.Error(err)
					return
				}
				if before && reply.GetRenewed() != nil {
					t.Error("renewed after the suspicion was answered")
				}
			}
		})
	}
	wg.Go(func() {
		for i := range 4 {
			r := n.Request("n1")
			r.Body = &witnesspb.Request_Suspect{Suspect: &witnesspb.Suspect{About: fmt.Sprintf("m%d", i), AboutRaftId: 1, Stays: 1}}
			if reply, err := n.Do(w.ctx(), r); err != nil || reply.GetSuspected() == nil {
				t.Error(reply, err)
			}
		}
		close(suspected)
	})
	wg.Wait()
}

func TestPipelining(t *testing.T) {
	w := newWorld(t)
	n := w.registered("shop")
	must(t, n.Warm(w.ctx()))
	var wg sync.WaitGroup
	for i := range uint64(300) {
		wg.Go(func() {
			r, err := n.Do(w.ctx(), n.Prepare("n1", i+1))
			if err != nil {
				t.Error(err)
			} else if p := r.GetRejected(); p != nil && p.GetPromised().GetCounter() <= i+1 {
				t.Errorf("answer of another request: %v to ballot %d", r, i+1)
			}
		})
	}
	wg.Wait()
	if got := w.s.open(); got != 1 {
		t.Errorf("%d connections", got)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := n.Do(ctx, n.Prepare("n1", 1)); err == nil {
		t.Error("asked although the caller has given up")
	}
	must(t, n.Close())
	if _, err := n.Do(w.ctx(), n.Prepare("n1", 1)); err == nil {
		t.Error("asked although the client is closed")
	}
}

// TestNotTheKeyOfTheCertificate: a store whose parts don't fit is refused.
func TestNotTheKeyOfTheCertificate(t *testing.T) {
	self := &arbiterpb.Self{Instance: "x"}
	must(t, makeKey(self))
	_, err := serverTLS(self)
	must(t, err)
	again := &arbiterpb.Self{Instance: "x"}
	must(t, makeKey(again))
	again.Certificate = self.Certificate
	_, err = serverTLS(again)
	wantErr(t, "another key", err, ErrDamaged, "not that of its certificate")
}

// FuzzConnection: whatever a node sends after its hello, the next one is served.
func FuzzConnection(f *testing.F) {
	frame := func(m *arbiterpb.ToArbiter) []byte {
		b, err := wire.AppendFrame(nil, m)
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	f.Add(frame(&arbiterpb.ToArbiter{Id: 1, Body: &arbiterpb.ToArbiter_Request{Request: &witnesspb.Request{Register: 1, Node: "n1", RaftId: 1}}}))
	f.Add(frame(&arbiterpb.ToArbiter{Body: &arbiterpb.ToArbiter_Request{}}))
	f.Add(frame(&arbiterpb.ToArbiter{Body: &arbiterpb.ToArbiter_Register{}}))
	f.Add(frame(&arbiterpb.ToArbiter{Body: &arbiterpb.ToArbiter_SetAuthorities{SetAuthorities: &arbiterpb.SetAuthorities{Authorities: [][]byte{{1}}}}}))
	f.Add(frame(&arbiterpb.ToArbiter{Body: &arbiterpb.ToArbiter_Hello{}}))
	f.Add([]byte("Hf"))
	w := newWorld(f)
	n := w.registered("shop")
	all := w
	f.Fuzz(func(t *testing.T, b []byte) {
		mine := *all
		mine.t = t
		w := &mine
		// As it is, and as the body of a frame.
		for _, b := range [][]byte{b, withHeader(b)} {
			c, _ := w.hello(n.tls, n.point)
			_, _ = c.Write(b)
			_ = c.CloseWrite()
			_, _ = io.Copy(io.Discard, c)
			_ = c.NetConn().Close()
		}
		if w.do(n, n.Look("n1")).GetSequence() == 0 {
			t.Error("not served any more")
		}
	})
}

// withHeader makes a frame of a body that may be no message.
func withHeader(body []byte) []byte {
	b := []byte{'H', 'f', wire.Version, 0}
	b = binary.LittleEndian.AppendUint32(b, uint32(len(body)))
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	return append(b, body...)
}
