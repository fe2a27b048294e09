package guard

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var fullHeartbeat = Heartbeat{
	Incarnation: 7, Sequence: 4242,
	EchoIncarnation: 3, EchoSequence: 1001, EchoDelay: 1500 * time.Microsecond,
	AckIncarnation: 3, Ack: 1002,
	RaftID: 11, Epoch: 5, Appended: 6,
	EngineTick: 99, EngineDown: 2 * time.Second,
	Goodbye: Goodbye{Sequence: 4000, RaftID: 11, Stays: 2},
	Leader:  "n2", Seeded: true, Stopped: true, HoldsLease: true,
}

// The bytes of version 1 never change.
const goldenHeartbeat = "0107780002000000" +
	"0700000000000000" + "0300000000000000" + "e903000000000000" + "60e3160000000000" +
	"0300000000000000" + "ea03000000000000" +
	"0b00000000000000" + "0500000000000000" + "0600000000000000" +
	"6300000000000000" + "0094357700000000" +
	"a00f000000000000" + "0b00000000000000" + "0200000000000000" +
	"6e32"

func TestHeartbeatGoldenBytes(t *testing.T) {
	b := AppendHeartbeat(nil, &fullHeartbeat)
	if got := hex.EncodeToString(b); got != goldenHeartbeat {
		t.Errorf("encoding changed:\n got %s\nwant %s", got, goldenHeartbeat)
	}
	want := fullHeartbeat
	want.Sequence = 0 // in the packet's header
	var h Heartbeat
	if err := DecodeHeartbeat(b, &h); err != nil || h != want {
		t.Errorf("decoded %+v, %v", h, err)
	}
}

// A later release appends fields to the fixed part; this one skips them.
func TestHeartbeatGrows(t *testing.T) {
	b := AppendHeartbeat(nil, &fullHeartbeat)
	longer := append(bytes.Clone(b[:heartbeatFixed]), 1, 2, 3, 4, 5, 6, 7, 8)
	longer = append(longer, b[heartbeatFixed:]...)
	longer[2] += 8
	want := fullHeartbeat
	want.Sequence = 0
	var h Heartbeat
	if err := DecodeHeartbeat(longer, &h); err != nil || h != want {
		t.Errorf("decoded %+v, %v", h, err)
	}
}

func TestHeartbeatRefusals(t *testing.T) {
	good := AppendHeartbeat(nil, &fullHeartbeat)
	for name, f := range map[string]func([]byte) []byte{
		"empty":             func(b []byte) []byte { return nil },
		"short":             func(b []byte) []byte { return b[:heartbeatFixed-1] },
		"version":           func(b []byte) []byte { b[0] = 2; return b },
		"name cut":          func(b []byte) []byte { return b[:len(b)-1] },
		"bytes left over":   func(b []byte) []byte { return append(b, 0) },
		"fixed part short":  func(b []byte) []byte { b[2]--; b[4]++; return b },
		"negative duration": func(b []byte) []byte { b[39] = 0x80; return b },
	} {
		if err := DecodeHeartbeat(f(bytes.Clone(good)), new(Heartbeat)); !errors.Is(err, ErrHeartbeat) {
			t.Errorf("%s: %v", name, err)
		}
	}
	long := fullHeartbeat
	long.Leader = strings.Repeat("x", MaxName+1)
	var h Heartbeat
	if err := DecodeHeartbeat(AppendHeartbeat(nil, &long), &h); err != nil || h.Leader != "" {
		t.Errorf("a leader's name that is too long: %q, %v", h.Leader, err)
	}
}

func FuzzDecodeHeartbeat(f *testing.F) {
	good, _ := hex.DecodeString(goldenHeartbeat)
	f.Add(good)
	f.Add(good[:heartbeatFixed])
	f.Fuzz(func(t *testing.T, b []byte) {
		var h, again Heartbeat
		if DecodeHeartbeat(b, &h) != nil {
			return
		}
		if err := DecodeHeartbeat(AppendHeartbeat(nil, &h), &again); err != nil || h != again {
			t.Fatalf("second round: %+v, %+v, %v", h, again, err)
		}
	})
}

var (
	testSecret = bytes.Repeat([]byte{0x42}, SecretSize)
	testSalt   = [SaltSize]byte{1, 2, 3}
)

const testCluster = "6f4e2a0c-0000-4000-8000-000000000001"

func sealer(t testing.TB, cluster, node string, salt [SaltSize]byte) *Sealer {
	t.Helper()
	s, err := NewSealer(testSecret, cluster, node, salt)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func opener(t testing.TB, node string) *Opener {
	t.Helper()
	o, err := NewOpener(testCluster, node, testSecret)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// The sealed bytes of version 1 never change: key derivation, nonce, associated data.
const goldenPacket = "48620101020000012cbf31e99210000000000000010203000000000000000000000000006192a2777d9bb1a45015630320fc4124cd33ce663c95caa73fdd52ff1f3b0cb41caaaff7d0085c786ddf41a7251b7186bd352d56b3a0c8ec94576d29191c1a19caee4d55b1356930c32336a049175aef40dda806dcd8553c6067144dd0a0a2e7526d1408df98328d0d15314257d918406a6ad0e625a50b10b1038bb1d143d5d0e4ec352d275a874bd870d0"

func TestPacketGoldenBytes(t *testing.T) {
	p := sealer(t, testCluster, "a", testSalt).Seal(nil, 1, 2, "c", &fullHeartbeat)
	if got := hex.EncodeToString(p); got != goldenPacket {
		t.Errorf("packet changed:\n got %s\nwant %s", got, goldenPacket)
	}
}

func TestSealOpen(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, _ := NewSealer(testSecret, testCluster, "node-a", [SaltSize]byte(rapid.SliceOfN(rapid.Byte(), SaltSize, SaltSize).Draw(t, "salt")))
		o, _ := NewOpener(testCluster, "node-b", testSecret)
		for range rapid.IntRange(1, 3).Draw(t, "packets") {
			h := Heartbeat{
				Incarnation: rapid.Uint64().Draw(t, "incarnation"), Sequence: rapid.Uint64().Draw(t, "sequence"),
				Ack: rapid.Uint64().Draw(t, "ack"), Leader: rapid.StringN(0, 20, MaxName).Draw(t, "leader"),
				Seeded: rapid.Bool().Draw(t, "seeded"), EngineDown: time.Duration(rapid.Int64Min(0).Draw(t, "down")),
			}
			link := rapid.IntRange(0, MaxLinks-1).Draw(t, "link")
			packet := s.Seal(nil, link, rapid.IntRange(0, MaxPeers-1).Draw(t, "index"), "node-b", &h)
			from, got, err := o.Open(link, packet)
			if err != nil || from != "node-a" || *got != h {
				t.Fatalf("opened %s %+v, %v; want %+v", from, got, err, h)
			}
			i := rapid.IntRange(0, len(packet)-1).Draw(t, "damaged byte")
			packet[i] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
			if _, _, err := o.Open(link, packet); err == nil {
				t.Fatalf("a packet with byte %d damaged was opened", i)
			}
		}
	})
}

func TestForgedAndForeign(t *testing.T) {
	a := sealer(t, testCluster, "a", testSalt)
	toB := a.Seal(nil, 0, 1, "b", &fullHeartbeat)
	o := opener(t, "b")
	if from, _, err := o.Open(0, toB); err != nil || from != "a" {
		t.Fatal(from, err)
	}
	other, err := NewSealer(bytes.Repeat([]byte{0x43}, SecretSize), testCluster, "a", testSalt)
	if err != nil {
		t.Fatal(err)
	}
	asA := sealer(t, testCluster, "x", testSalt).Seal(nil, 0, 1, "b", &fullHeartbeat)
	asA[packetFixed] = 'a'
	renumbered := bytes.Clone(toB)
	renumbered[12]++
	for _, c := range []struct {
		name   string
		packet []byte
		want   error
		reason DropReason
		from   string
	}{
		{"for another node", a.Seal(nil, 0, 1, "c", &fullHeartbeat), ErrForged, DropForged, "a"},
		{"with another secret", other.Seal(nil, 0, 1, "b", &fullHeartbeat), ErrForged, DropForged, "a"},
		{"under another name", asA, ErrForged, DropForged, "a"},
		{"renumbered", renumbered, ErrForged, DropForged, "a"},
		{"for another link", a.Seal(nil, 1, 1, "b", &fullHeartbeat), ErrForeign, DropForeign, "a"},
		{"of another cluster", sealer(t, "other", "a", testSalt).Seal(nil, 0, 1, "b", &fullHeartbeat), ErrForeign, DropForeign, ""},
		{"noise", []byte("HTTP/1.1 400 Bad Request"), ErrHeartbeat, DropMalformed, ""},
		{"of a later version", append([]byte{'H', 'b', 2}, toB[3:]...), ErrHeartbeat, DropMalformed, ""},
	} {
		from, _, err := o.Open(0, c.packet)
		if !errors.Is(err, c.want) || Reason(err) != c.reason || from != c.from {
			t.Errorf("%s: %q, %v", c.name, from, err)
		}
	}
	// A restarted guard has another salt and is known at once.
	if from, _, err := o.Open(0, sealer(t, testCluster, "a", [SaltSize]byte{9}).Seal(nil, 0, 1, "b", &fullHeartbeat)); err != nil || from != "a" {
		t.Error(from, err)
	}
	if _, err := NewSealer(testSecret[:16], testCluster, "a", testSalt); err == nil {
		t.Error("a short secret passed")
	}
}

func FuzzOpen(f *testing.F) {
	s := sealer(f, testCluster, "a", testSalt)
	f.Add(s.Seal(nil, 0, 1, "b", &fullHeartbeat))
	f.Add([]byte("Hb\x01"))
	f.Fuzz(func(t *testing.T, b []byte) {
		o := opener(t, "b")
		genuine := s.Seal(nil, 0, 1, "b", &fullHeartbeat)
		if _, _, err := o.Open(0, b); err == nil && !bytes.Equal(b, genuine) {
			t.Fatalf("opened %x", b)
		}
	})
}

func BenchmarkSealOpen(b *testing.B) {
	s, o := sealer(b, testCluster, "a", testSalt), opener(b, "b")
	h := fullHeartbeat
	buf := make([]byte, 0, MaxPacket)
	b.ReportAllocs()
	for b.Loop() {
		h.Sequence++
		buf = s.Seal(buf[:0], 0, 1, "b", &h)
		if _, _, err := o.Open(0, buf); err != nil {
			b.Fatal(err)
		}
	}
}
