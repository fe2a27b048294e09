package wire

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"io"
	"math/rand"
	"runtime"
	"testing"
	"testing/iotest"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// golden is the frame of StringValue("holdfast"). It must never change for version 1.
const golden = "48660100" + "0a000000" + "9a4e0a40" + "0a08" + "686f6c6466617374"

func frame(t testing.TB, m proto.Message) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := WriteFrame(&b, m); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func read(b []byte, m proto.Message, max int) error {
	return ReadFrame(bufio.NewReader(bytes.NewReader(b)), m, max)
}

func TestGoldenBytes(t *testing.T) {
	if got := hex.EncodeToString(frame(t, wrapperspb.String("holdfast"))); got != golden {
		t.Errorf("frame changed:\n got %s\nwant %s", got, golden)
	}
	b, _ := hex.DecodeString(golden)
	var m wrapperspb.StringValue
	if err := read(b, &m, 64); err != nil || m.Value != "holdfast" {
		t.Errorf("read %q, %v", m.Value, err)
	}
}

// Frames of all sizes around the reader's buffer arrive in order, whole, in whatever
// pieces the stream delivers them.
func TestStream(t *testing.T) {
	rng := rand.New(rand.NewSource(1))
	var stream bytes.Buffer
	var want [][]byte
	for _, n := range []int{0, 1, 3, 16, 17, 100, 4080, 4096, 4097, 70000} {
		body := make([]byte, n)
		rng.Read(body)
		want = append(want, body)
		if err := WriteFrame(&stream, wrapperspb.Bytes(body)); err != nil {
			t.Fatal(err)
		}
	}
	for name, src := range map[string]io.Reader{
		"whole":    bytes.NewReader(stream.Bytes()),
		"one byte": iotest.OneByteReader(bytes.NewReader(stream.Bytes())),
		"data+EOF": iotest.DataErrReader(bytes.NewReader(stream.Bytes())),
	} {
		r := bufio.NewReaderSize(src, 4096)
		var got []*wrapperspb.BytesValue
		for {
			m := new(wrapperspb.BytesValue)
			err := ReadFrame(r, m, 1<<20)
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			got = append(got, m)
		}
		// Compared only now: a message must not alias the reader's buffer.
		if len(got) != len(want) {
			t.Fatalf("%s: %d frames, want %d", name, len(got), len(want))
		}
		for i := range want {
			if !bytes.Equal(got[i].Value, want[i]) {
				t.Errorf("%s: frame %d differs", name, i)
			}
		}
	}
}

func TestRefusals(t *testing.T) {
	good := frame(t, wrapperspb.String("holdfast"))
	change := func(f func(b []byte)) []byte {
		b := bytes.Clone(good)
		f(b)
		return b
	}
	resum := func(f func(b []byte)) []byte {
		b := change(f)
		v, l := b[2], uint32(b[4])|uint32(b[5])<<8|uint32(b[6])<<16|uint32(b[7])<<24
		z := b[3]
		putHeader(b[:HeaderSize], l)
		if v != Version || z != 0 {
			b[2], b[3] = v, z
			s := crcOf(b[:8])
			b[8], b[9], b[10], b[11] = byte(s), byte(s>>8), byte(s>>16), byte(s>>24)
		}
		return b
	}
	for _, c := range []struct {
		name  string
		bytes []byte
		max   int
		want  error
	}{
		{"nothing", nil, 64, io.EOF},
		{"half a header", good[:7], 64, io.ErrUnexpectedEOF},
		{"header alone", good[:HeaderSize], 64, io.ErrUnexpectedEOF},
		{"half a body", good[:len(good)-1], 64, io.ErrUnexpectedEOF},
		{"other protocol", []byte("GET / HTTP/1.1\r\n\r\n"), 64, ErrMagic},
		{"length damaged", change(func(b []byte) { b[7] = 0x7f }), 64, ErrSum},
		{"sum damaged", change(func(b []byte) { b[8] ^= 1 }), 64, ErrSum},
		{"newer version", resum(func(b []byte) { b[2] = 2 }), 64, ErrVersion},
		{"reserved byte used", resum(func(b []byte) { b[3] = 1 }), 64, ErrVersion},
		{"one byte too long", good, 9, ErrTooLarge},
		{"4 GiB announced", resum(func(b []byte) { b[4], b[5], b[6], b[7] = 255, 255, 255, 255 }), 1 << 20, ErrTooLarge},
		{"no message", change(func(b []byte) { b[12] = 0xff }), 64, ErrBody},
	} {
		t.Run(c.name, func(t *testing.T) {
			var m wrapperspb.StringValue
			if err := read(c.bytes, &m, c.max); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
	// Exactly as long as allowed passes.
	if err := read(good, new(wrapperspb.StringValue), 10); err != nil {
		t.Error(err)
	}
}

// A damaged message costs only itself.
func TestAfterDamagedMessage(t *testing.T) {
	bad := frame(t, wrapperspb.String("holdfast"))
	bad[12] = 0xff
	r := bufio.NewReader(bytes.NewReader(append(bad, frame(t, wrapperspb.String("next"))...)))
	var m wrapperspb.StringValue
	if err := ReadFrame(r, &m, 64); !errors.Is(err, ErrBody) {
		t.Fatal(err)
	}
	if err := ReadFrame(r, &m, 64); err != nil || m.Value != "next" {
		t.Fatalf("%q, %v", m.Value, err)
	}
}

// onlyOnce fails a second Write.
type onlyOnce struct{ n int }

func (w *onlyOnce) Write(b []byte) (int, error) {
	w.n++
	if w.n > 1 {
		return 0, errors.New("second write")
	}
	return len(b), nil
}

func TestSingleWrite(t *testing.T) {
	if err := WriteFrame(new(onlyOnce), wrapperspb.Bytes(make([]byte, 100_000))); err != nil {
		t.Fatal(err)
	}
	if err := WriteFrame(&onlyOnce{n: 1}, wrapperspb.Bool(true)); err == nil {
		t.Error("a failed write went unnoticed")
	}
}

func crcOf(b []byte) uint32 {
	var h [HeaderSize]byte
	copy(h[:], b)
	return crc32.Checksum(h[:8], castagnoli)
}

// Whatever arrives, reading neither panics nor allocates beyond the bound, and what
// was accepted is written again as it came, if it came in the canonical encoding.
func FuzzReadFrame(f *testing.F) {
	g, _ := hex.DecodeString(golden)
	f.Add(g)
	f.Add(append(bytes.Clone(g), g...))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Add(g[:13])
	f.Fuzz(func(t *testing.T, b []byte) {
		const max = 1 << 10
		r := bufio.NewReaderSize(bytes.NewReader(b), 64)
		for {
			var m wrapperspb.BytesValue
			err := ReadFrame(r, &m, max)
			if errors.Is(err, ErrBody) {
				continue
			}
			if err != nil {
				return
			}
			if len(m.Value) > max {
				t.Fatalf("%d bytes passed a bound of %d", len(m.Value), max)
			}
			again := new(wrapperspb.BytesValue)
			if err := read(frame(t, &m), again, 2*max); err != nil || !proto.Equal(&m, again) {
				t.Fatalf("a second round differs: %v", err)
			}
		}
	})
}

// The bound holds for the allocation too, not only for the error.
func TestBoundedAllocation(t *testing.T) {
	h := make([]byte, HeaderSize)
	putHeader(h, 1<<31)
	r := bytes.NewReader(h)
	br := bufio.NewReaderSize(r, 64)
	m := new(wrapperspb.BytesValue)
	var before, after runtime.MemStats
	const rounds = 100
	runtime.ReadMemStats(&before)
	for range rounds {
		r.Reset(h)
		br.Reset(r)
		if err := ReadFrame(br, m, 1<<20); !errors.Is(err, ErrTooLarge) {
			t.Fatal(err)
		}
	}
	runtime.ReadMemStats(&after)
	if n := (after.TotalAlloc - before.TotalAlloc) / rounds; n > 1024 {
		t.Errorf("%d bytes allocated to refuse a frame", n)
	}
}

func BenchmarkFrame(b *testing.B) {
	m := wrapperspb.Bytes(make([]byte, 200))
	got := new(wrapperspb.BytesValue)
	var stream bytes.Buffer
	r := bufio.NewReader(&stream)
	b.ReportAllocs()
	for b.Loop() {
		if err := WriteFrame(&stream, m); err != nil {
			b.Fatal(err)
		}
		if err := ReadFrame(r, got, 1<<20); err != nil {
			b.Fatal(err)
		}
	}
}
