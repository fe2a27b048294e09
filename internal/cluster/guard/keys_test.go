package guard

import (
	"bytes"
	"errors"
	"testing"
)

// While one secret takes the place of another packets by both are read, in any
// order and of the same sender; afterwards only those by the new one.
func TestTwoSecrets(t *testing.T) {
	first, second := bytes.Repeat([]byte{1}, SecretSize), bytes.Repeat([]byte{2}, SecretSize)
	seal := func(secret []byte, salt byte) *Sealer {
		s, err := NewSealer(secret, testCluster, "node-a", [SaltSize]byte{salt})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	a, b := seal(first, 1), seal(second, 2)
	o, err := NewOpener(testCluster, "node-b", first)
	if err != nil {
		t.Fatal(err)
	}
	sequence := uint64(0)
	open := func(s *Sealer) error {
		sequence++
		from, hb, err := o.Open(0, s.Seal(nil, 0, 1, "node-b", &Heartbeat{Incarnation: 1, Sequence: sequence}))
		if err == nil && (from != "node-a" || hb.Sequence != sequence) {
			t.Errorf("%s, %d", from, hb.Sequence)
		}
		return err
	}
	for _, step := range []struct {
		accept    [][]byte
		old, next error
	}{
		{[][]byte{first}, nil, ErrForged},
		{[][]byte{first, second}, nil, nil},
		{[][]byte{second, first}, nil, nil},
		{[][]byte{second}, ErrForged, nil},
	} {
		if err := o.Accept(step.accept...); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := open(a); !errors.Is(err, step.old) {
				t.Errorf("by the old one: %v, want %v", err, step.old)
			}
			if err := open(b); !errors.Is(err, step.next) {
				t.Errorf("by the new one: %v, want %v", err, step.next)
			}
		}
	}
	if err := o.Accept(); err == nil {
		t.Error("no secret is accepted")
	}
	if err := o.Accept([]byte("short")); err == nil || open(b) != nil {
		t.Error("a short secret is accepted, or the one before is lost")
	}
}
