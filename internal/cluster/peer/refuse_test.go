package peer

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"hash/crc32"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/internal/cluster/identity"
	"github.com/holdfast-ha/holdfast/internal/wire"
)

func TestIncompatibleVersionsAreRefusedOnBothSides(t *testing.T) {
	ids, _ := identities(t, nil, "n1", "n2")
	a := start(t, Options{Identity: ids["n1"], ProtocolMin: 3, ProtocolMax: 4})
	b := start(t, Options{Identity: ids["n2"]})
	a.SetPeers(map[string][]string{"n2": b.addrs})
	b.SetPeers(map[string][]string{"n1": a.addrs})
	for _, n := range []*node{a, b} {
		n.waitLog("incoming connection refused", "upgrade node n2")
		n.waitLog("no connection", "upgrade node n2")
	}
	if a.Counters()["n2"].Refused == 0 || b.Refused() == 0 {
		t.Errorf("not counted: %+v, %d", a.Counters()["n2"], b.Refused())
	}
	if len(a.events)+len(b.events) != 0 {
		t.Error("the handlers heard of it")
	}
}

func TestEachSideJudgesVersionsByItself(t *testing.T) {
	ids, _ := identities(t, nil, "n1", "n2")
	b := start(t, Options{Identity: ids["n2"], ProtocolMin: 3, ProtocolMax: 5})
	for _, c := range []struct {
		min, max uint32
		refused  string
	}{{1, 2, "upgrade node n1"}, {6, 9, "upgrade node n2"}, {1, 3, ""}, {5, 9, ""}, {4, 4, ""}} {
		a := New(Options{Identity: ids["n1"], ProtocolMin: c.min, ProtocolMax: c.max})
		h := dialPeer(t, ids["n1"], b.addrs[0]).hello(&node{Transport: a})
		if (h.GetRefused() == "") != (c.refused == "") || !strings.Contains(h.GetRefused(), c.refused) {
			t.Errorf("versions %d to %d: %q", c.min, c.max, h.GetRefused())
		}
	}
}

func TestOverlappingVersionsAreFine(t *testing.T) {
	ids, _ := identities(t, nil, "n1", "n2")
	a := start(t, Options{Identity: ids["n1"], ProtocolMin: 1, ProtocolMax: 4})
	b := start(t, Options{Identity: ids["n2"]})
	a.SetPeers(map[string][]string{"n2": b.addrs})
	a.wait("up n2")
	a.waitLog("connected", "protocol=1")
}

func TestRefusedIsNotAskedAgainAtOnce(t *testing.T) {
	ids, _ := identities(t, nil, "n1", "n2")
	a := start(t, Options{Identity: ids["n1"], ProtocolMin: 3, ProtocolMax: 4})
	b := start(t, Options{Identity: ids["n2"]})
	began := time.Now()
	a.SetPeers(map[string][]string{"n2": b.addrs})
	for range time.Tick(5 * time.Millisecond) {
		a.Kick("n2") // its heartbeats say that it is there: no reason to ask again
		if a.Counters()["n2"].Refused >= 3 {
			break
		}
		if time.Since(began) > patience {
			t.Fatal("it gave up")
		}
	}
	if took := time.Since(began); took < 2*backoffRefused {
		t.Errorf("asked three times within %v", took)
	}
}

func TestAnotherClustersNodeIsRefusedOnBothSides(t *testing.T) {
	ids, _ := identities(t, nil, "n1", "n2")
	others, _ := identities(t, nil, "n1", "n2")
	a, b := start(t, Options{Identity: ids["n1"]}), start(t, Options{Identity: others["n2"]})
	a.SetPeers(map[string][]string{"n2": b.addrs})
	a.waitLog("no connection", "it is refused", others["n2"].ClusterUUID, "it refuses this node too", ids["n1"].ClusterUUID)
	b.waitLog("incoming connection refused", "it is refused", ids["n1"].ClusterUUID, "it refuses this node too")
}

func TestExpiredCertificateIsRefusedOnBothSides(t *testing.T) {
	ids, _ := identities(t, func() time.Time { return time.Now().AddDate(-6, 0, 0) }, "n1", "n2")
	// n2's clock runs right, n1's is six years behind and finds nothing wrong.
	ids["n2"].SetClock(time.Now)
	b := start(t, Options{Identity: ids["n2"]})
	a := start(t, Options{Identity: ids["n1"]})
	a.SetPeers(map[string][]string{"n2": b.addrs})
	b.waitLog("incoming connection refused", "certificate is not valid now", "node \\\"n1\\\"", "valid until")
	a.waitLog("no connection", "it refuses this node", "certificate is not valid now", "valid until")
}

func TestWrongNodeAtAnAddressIsRefused(t *testing.T) {
	ids, _ := identities(t, nil, "n1", "n2", "n3")
	a, b := start(t, Options{Identity: ids["n1"]}), start(t, Options{Identity: ids["n2"]})
	a.SetPeers(map[string][]string{"n3": b.addrs})
	a.waitLog("no connection", `node \"n3\" was expected here, the certificate is of node \"n2\"`)
	b.waitLog("refused", "was expected here")
}

func TestCopiedStateDirectoryIsNoticed(t *testing.T) {
	ids, _ := identities(t, nil, "n1", "n2")
	a, twin := start(t, Options{Identity: ids["n1"]}), start(t, Options{Identity: ids["n1"]})
	p := dialPeer(t, twin.o.Identity, a.addrs[0])
	if h := p.hello(twin); !strings.Contains(h.GetRefused(), "was its state directory copied") {
		t.Error(h)
	}
}

func TestClientsAreNoPeers(t *testing.T) {
	ids, plan := identities(t, nil, "n1")
	a := start(t, Options{Identity: ids["n1"]})
	dir := filepath.Join(t.TempDir(), "alice")
	if err := plan.Authority.WriteClient("alice", dir); err != nil {
		t.Fatal(err)
	}
	cfg, err := identity.LoadClient(dir)
	if err != nil {
		t.Fatal(err)
	}
	cfg.NextProtos = []string{Protocol}
	c, err := tls.Dial("tcp", a.addrs[0], cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if h := (&rawPeer{c, t}).answer(); !strings.Contains(h.GetRefused(), "is no node") {
		t.Error(h)
	}
}

func TestBadFramesEndTheConnection(t *testing.T) {
	huge := make([]byte, wire.HeaderSize)
	frame, err := wire.AppendFrame(nil, message("x"))
	if err != nil {
		t.Fatal(err)
	}
	copy(huge, frame)
	binary.LittleEndian.PutUint32(huge[4:], FrameMax+1)
	for _, c := range []struct {
		name  string
		hello bool
		bytes []byte
		log   string
	}{
		{"garbage before Hello", false, bytes.Repeat([]byte("garbage "), 100), "not a frame"},
		{"a message before Hello", false, frame, "not a Hello"},
		{"garbage after Hello", true, bytes.Repeat([]byte("garbage "), 100), "not a frame"},
		{"oversized frame", true, resum(huge), "at most 67108864 are allowed"},
		{"damaged body", true, resum(append(append([]byte(nil), frame[:wire.HeaderSize]...), bytes.Repeat([]byte{0xff}, len(frame)-wire.HeaderSize)...)), "damaged message"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ids, _ := identities(t, nil, "n1", "n2")
			a, b := start(t, Options{Identity: ids["n1"]}), start(t, Options{Identity: ids["n2"]})
			p := dialPeer(t, ids["n1"], b.addrs[0])
			if c.hello {
				if h := p.hello(a); h.GetRefused() != "" {
					t.Fatal(h)
				}
			}
			if _, err := p.Write(c.bytes); err != nil {
				t.Fatal(err)
			}
			p.mustEnd()
			b.waitLog("refused", c.log)
			if b.Refused() == 0 {
				t.Error("not counted")
			}
			// The node goes on.
			a.SetPeers(map[string][]string{"n2": b.addrs})
			a.wait("up n2")
		})
	}
}

func crcOf(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// resum puts the right sum into a changed header.
func resum(frame []byte) []byte {
	binary.LittleEndian.PutUint32(frame[8:], crcOf(frame[:8]))
	return frame
}

func TestTooLongMessageIsNotTaken(t *testing.T) {
	a, b := pairOf(t)
	if a.Send("n2", message(strings.Repeat("x", FrameMax+1))) {
		t.Error("taken")
	}
	a.sendAll("n2", strings.Repeat("x", 5<<20), "small")
	b.wait("n1: 5242880 bytes")
	b.wait("n1: small")
}

func TestStrangersCantExhaustHandshakes(t *testing.T) {
	ids, _ := identities(t, nil, "n1", "n2")
	a, b := start(t, Options{Identity: ids["n1"]}, "127.0.0.5:0"), start(t, Options{Identity: ids["n2"]}, "127.0.0.6:0")
	b.SetPeers(map[string][]string{"n1": a.addrs})
	b.wait("up n1")
	// Many who connect and say nothing, from many addresses.
	for host := range 8 {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(host+1))}}
		for range handshakesPerIP + 2 {
			c, err := d.DialContext(context.Background(), "tcp", b.addrs[0])
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
		}
	}
	b.waitLog("too many handshakes")
	a.SetPeers(map[string][]string{"n2": b.addrs})
	began := time.Now()
	a.wait("up n2")
	if took := time.Since(began); took > handshakeLimit/2 {
		t.Errorf("a peer had to wait %v", took)
	}
	b.Transport.mu.Lock()
	defer b.Transport.mu.Unlock()
	if b.strangers > handshakesMax {
		t.Errorf("%d handshakes with strangers at once", b.strangers)
	}
}

func TestOneAddressHasFewHandshakes(t *testing.T) {
	ids, _ := identities(t, nil, "n1", "n2")
	b := start(t, Options{Identity: ids["n2"]}, "127.0.0.6:0")
	b.SetPeers(map[string][]string{"n1": {"127.0.0.1:1"}}) // known, so not limited as a stranger
	var last net.Conn
	for range handshakesPerIP + 1 {
		c, err := net.Dial("tcp", b.addrs[0])
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		last = c
	}
	_ = last.SetReadDeadline(time.Now().Add(handshakeLimit / 2))
	if _, err := last.Read(make([]byte, 1)); err == nil || strings.Contains(err.Error(), "timeout") {
		t.Errorf("one more than allowed: %v", err)
	}
	b.waitLog("too many handshakes")
}
