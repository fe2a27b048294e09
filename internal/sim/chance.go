package sim

import (
	crand "crypto/rand"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"time"
)

// newRand makes the one source of a run from its seed. name separates sources:
// what the schedule of faults draws must not depend on how many packets flew.
func newRand(seed uint64, name string) *rand.Rand {
	h := seed ^ 14695981039346656037
	for i := range len(name) {
		h = (h ^ uint64(name[i])) * 1099511628211
	}
	return rand.New(rand.NewPCG(seed, h))
}

// upTo draws a duration below d; 0 for none.
func upTo(r *rand.Rand, d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return time.Duration(r.Int64N(int64(d)))
}

// between draws a duration of [lo, hi).
func between(r *rand.Rand, lo, hi time.Duration) time.Duration {
	return lo + upTo(r, hi-lo)
}

// randReader stands in for crypto/rand.Reader, from which raft draws.
type randReader struct{ r *rand.Rand }

func (s randReader) Read(p []byte) (int, error) {
	var word [8]byte
	for i := 0; i < len(p); i += 8 {
		binary.LittleEndian.PutUint64(word[:], s.r.Uint64())
		copy(p[i:], word[:])
	}
	return len(p), nil
}

var _ io.Reader = randReader{}

// useSeed puts randReader in the place of crypto/rand.Reader; the result puts
// the real one back. Runs of one process are therefore sequential.
func useSeed(seed uint64) (restore func()) {
	real := crand.Reader
	crand.Reader = randReader{newRand(seed, "raft")}
	return func() { crand.Reader = real }
}
