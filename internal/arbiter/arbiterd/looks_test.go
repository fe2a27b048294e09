package arbiterd

import (
	"crypto/rand"
	"fmt"
	"net"
	"testing"
	"time"

	"golang.org/x/net/ipv6"

	"github.com/holdfast-ha/holdfast/internal/arbiter"
	"github.com/holdfast-ha/holdfast/internal/arbiter/arbiterbench/testcluster"
	"github.com/holdfast-ha/holdfast/internal/cluster/witness/witnesspb"
)

// passOf a node, as it would get it in a welcome.
func (w *world) passOf(n *node) (key [arbiter.PassKeySize]byte, cluster [16]byte, expires int64) {
	id, err := arbiter.ParseUUID(n.UUID)
	must(w.t, err)
	expires = time.Now().Add(time.Hour).Unix()
	return arbiter.PassKey(w.s.store.self.GetPassSecret(), id, n.name, expires), id, expires
}

func randomNonce() (n [24]byte) {
	_, _ = rand.Read(n[:])
	return n
}

// datagrams that were received, by result.
func (w *world) datagrams() map[string]int {
	w.t.Helper()
	families, err := w.s.metrics.registry.Gather()
	must(w.t, err)
	got := map[string]int{}
	for _, f := range families {
		if f.GetName() != "holdfast_arbiter_datagrams_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			got[m.GetLabel()[0].GetValue()] = int(m.GetCounter().GetValue())
		}
	}
	return got
}

func (w *world) waitDatagrams(want map[string]int) {
	w.t.Helper()
	for end := time.Now().Add(10 * time.Second); ; {
		got := w.datagrams()
		if fmt.Sprint(got) == fmt.Sprint(want) {
			return
		}
		if time.Now().After(end) {
			w.t.Fatalf("datagrams %v, want %v", got, want)
		}
		time.Sleep(5 * time.Millisecond) // nothing announces a packet that is dropped
	}
}

func TestLookByDatagram(t *testing.T) {
	w := newWorld(t)
	n := w.registered("shop")
	w.do(n, n.Prepare("n1", 1))
	for range 3 {
		n.Rest()
		r := w.do(n, n.Look("n1"))
		if s := r.GetLooked().GetSeen(); len(s) != 1 || s[0].GetNode() != "n1" || r.GetSequence() != 2 {
			t.Fatal(r)
		}
	}
	// Nodes of IPv4 and IPv6, and after a restart: the pass stays good.
	w.restart()
	n.Rest()
	w.do(n, n.Look("n1"))
	if got := w.datagrams()["ok"]; got != 1 {
		t.Errorf("%d looks came by datagram after the restart", got)
	}
	if got := w.s.open(); got != 0 {
		t.Errorf("%d connections of a node that only looks", got)
	}
}

// TestLookOverAConnection: where no datagram gets through, and where the answer is too long for one.
func TestLookOverAConnection(t *testing.T) {
	w := newWorld(t)
	n := w.registered("shop")
	w.do(n, n.Look("n1"))
	for i := range 60 { // names enough for more than a datagram
		m := w.sibling(n, fmt.Sprintf("a-node-with-a-long-name-%d", i))
		w.do(m, m.Look(m.name))
	}
	n.Rest()
	if got := len(w.do(n, n.Look("n1")).GetLooked().GetSeen()); got != 61 {
		t.Errorf("%d nodes seen", got)
	}
	b := w.registered("bank")
	w.do(b, b.Look("n1"))
	b.Rest()
	_ = w.s.packets.Close()
	for i := range 4 {
		if w.do(b, b.Look("n1")).GetLooked() == nil {
			t.Error("no look without datagrams")
		}
		// One that is lost means little; after some the connection is kept.
		if id, _ := arbiter.ParseUUID(b.UUID); i == 3 {
			c := w.s.table.cluster(id)
			c.mu.Lock()
			if len(c.conns) != 1 {
				t.Errorf("%d connections of a node whose datagrams don't get through", len(c.conns))
			}
			c.mu.Unlock()
		}
	}
}

func TestGather(t *testing.T) {
	for _, c := range []struct {
		rate float64
		room int
		want time.Duration
	}{{50, 1000, 0}, {200, 100_000, gather}, {2000, 320, 40 * time.Millisecond}, {1e6, 320, 80 * time.Microsecond}} {
		if got := gatherFor(c.rate, c.room); got != c.want {
			t.Errorf("%v per second, room for %d: %v, want %v", c.rate, c.room, got, c.want)
		}
	}
}

// TestDatagramsThatCountNothing: each is dropped without an answer.
func TestDatagramsThatCountNothing(t *testing.T) {
	w := newWorld(t)
	n := w.registered("shop")
	key, id, expires := w.passOf(n)
	s, err := net.Dial("udp", w.addr)
	must(t, err)
	defer s.Close()
	seal := func(key [32]byte, id [16]byte, expires int64, number uint64, r *witnesspb.Request) []byte {
		b, err := arbiter.SealLook(key, id, expires, "n1", randomNonce(), number, r)
		must(t, err)
		return b
	}
	send := func(b []byte) {
		_, err := s.Write(b)
		must(t, err)
	}
	good := seal(key, id, expires, 10, n.Look("n1"))
	again := append([]byte(nil), good...)
	send(good)
	w.waitDatagrams(map[string]int{"ok": 1})
	answer := make([]byte, 2000)
	_ = s.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := s.Read(answer); err != nil {
		t.Fatal(err)
	}
	forged := append([]byte(nil), good...)
	forged[len(forged)-1] ^= 1
	old, next := time.Now().Add(-time.Minute).Unix(), expires+1
	other := newCluster(t, "other")
	otherID, _ := arbiter.ParseUUID(other.UUID)
	passAt := func(at int64) [32]byte {
		return arbiter.PassKey(w.s.store.self.GetPassSecret(), id, "n1", at)
	}
	for _, b := range [][]byte{
		again, // once more
		seal(key, id, expires, 9, n.Look("n1")),
		forged,
		[]byte("garbage"), nil, make([]byte, 1500),
		seal(passAt(old), id, old, 11, n.Look("n1")),
		seal(passAt(expires+1e6), id, expires+1e6, 11, n.Look("n1")),
		seal(key, id, next, 11, n.Look("n1")), // the key of another pass
		seal(key, otherID, expires, 11, n.Look("n1")),
		seal(key, id, expires, 12, n.Prepare("n1", 5)), // only looks
		seal(key, id, expires, 13, n.Look("n2")),
		seal(key, id, expires, 14, other.Look("n1")),
	} {
		send(b)
	}
	want := map[string]int{"ok": 1, "repeated": 2, "forged": 2, "malformed": 6, "expired": 2, "unknown": 1}
	w.waitDatagrams(want)
	if _, err := w.s.table.forget("shop"); err != nil {
		t.Fatal(err)
	}
	send(seal(key, id, expires, 20, n.Look("n1")))
	want["repeated"]++
	w.waitDatagrams(want)
	// None of them was answered: the next answer is that to a good one.
	m := w.registered("bank")
	mk, mid, mexp := w.passOf(m)
	b, err := arbiter.SealLook(mk, mid, mexp, "n1", randomNonce(), 1, m.Look("n1"))
	must(t, err)
	send(b)
	_ = s.SetReadDeadline(time.Now().Add(10 * time.Second))
	k, err := s.Read(answer)
	must(t, err)
	h, err := arbiter.ParseLook(b)
	must(t, err)
	if _, r, err := arbiter.OpenAnswer(mk, arbiter.LookNonce(h, b), answer[:k]); err != nil || r.GetLooked() == nil {
		t.Errorf("answer %v, %v", r, err)
	}
}

// TestLookThatBinds: what a look shows to have been forgotten is kept before it is answered.
func TestLookThatBinds(t *testing.T) {
	w := newWorld(t)
	n := w.registered("shop")
	w.do(n, n.Prepare("n1", 1))
	n.Rest()
	r := w.do(n, with(n.Look("n1"), func(r *witnesspb.Request) { r.SeenSequence = 99 }))
	wantRefused(t, "a look by somebody who has seen more", r, witnesspb.Refused_REASON_ABSTAINS)
	if w.datagrams()["ok"] != 1 {
		t.Error("it did not come by datagram")
	}
	w.restart()
	m := w.sibling(n, "n2")
	wantRefused(t, "prepare", w.do(m, m.Prepare("n2", 9)), witnesspb.Refused_REASON_ABSTAINS)
	if w.do(m, inRegister(m.Prepare("n2", 9), 2)).GetPromised() == nil {
		t.Error("admitted anew, and abstains still")
	}
}

// BenchmarkLook: what one look costs, without the network.
func BenchmarkLook(b *testing.B) {
	w := &world{dir: b.TempDir() + "/a", log: &logBuffer{}}
	if _, err := Make(Init{Dir: w.dir, Listen: "127.0.0.1:0", Address: "127.0.0.1:1"}); err != nil {
		b.Fatal(err)
	}
	s, err := Open(Options{Dir: w.dir, Listen: "127.0.0.1:0"})
	if err != nil {
		b.Fatal(err)
	}
	defer s.closeListeners()
	c, err := testcluster.New("x")
	if err != nil {
		b.Fatal(err)
	}
	id, _ := arbiter.ParseUUID(c.UUID)
	s.table.clusters[id] = &cluster{id: id, kept: &witnesspb.Kept{Format: 1, Sequence: 3, Register: 1, Promised: &witnesspb.Ballot{Counter: 1, Proposer: 1}}}
	expires := time.Now().Add(time.Hour).Unix()
	l := &looks{s: s}
	var datagrams [2][]ipv6.Message
	for n := range datagrams {
		name := fmt.Sprintf("n%d", n+1)
		key := arbiter.PassKey(s.store.self.GetPassSecret(), id, name, expires)
		for i := range b.N {
			d, err := arbiter.SealLook(key, id, expires, name, [24]byte{1, byte(i)}, uint64(i+1), c.Look(name))
			if err != nil {
				b.Fatal(err)
			}
			datagrams[n] = append(datagrams[n], ipv6.Message{Buffers: [][]byte{d}, N: len(d)})
		}
	}
	out := make([]byte, 0, 2000)
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		if got := l.answer(out, &datagrams[i%2][i]); len(got) == 0 {
			b.Fatal("no answer")
		}
	}
}
