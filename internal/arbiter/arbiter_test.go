package arbiter

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/holdfast-ha/holdfast/internal/cluster/witness/witnesspb"
)

func goldenToken() Token {
	t := Token{Address: "arbiter.example.com:7947", Expires: time.Unix(1_900_000_000, 0).UTC()}
	for i := range t.Fingerprint {
		t.Fingerprint[i] = byte(i)
	}
	for i := range t.Instance {
		t.Instance[i], t.Secret[i] = byte(0x20+i), byte(0x40+i)
	}
	return t
}

// TestGoldenToken: this token is in docs/formats/arbiter.md.
func TestGoldenToken(t *testing.T) {
	const want = "hfa-ASAhIiMkJSYnKCkqKywtLi8AAQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eH0BBQkNERUZHSElKS0xNTk8Asz9xAAAAABhhcmJpdGVyLmV4YW1wbGUuY29tOjc5NDfaQoSa"
	if got := goldenToken().String(); got != want {
		t.Errorf("token\n%s, want\n%s", got, want)
	}
	got, err := ParseToken(" " + want + "\n")
	if err != nil || got != goldenToken() {
		t.Errorf("%+v, %v", got, err)
	}
}

func FuzzToken(f *testing.F) {
	f.Add(goldenToken().String())
	f.Add("hfa-")
	f.Fuzz(func(t *testing.T, s string) {
		tok, err := ParseToken(s)
		if err != nil {
			if !errors.Is(err, ErrToken) {
				t.Error(err)
			}
			return
		}
		if again, err := ParseToken(tok.String()); err != nil || again != tok {
			t.Errorf("%+v becomes %+v, %v", tok, again, err)
		}
	})
}

var (
	goldenCluster = [16]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
	goldenNonce   = [nonceSize]byte{23: 1}
)

func goldenLook() (key [PassKeySize]byte, b []byte) {
	key = PassKey([]byte("secret"), goldenCluster, "n1", 1_900_000_000)
	b, err := SealLook(key, goldenCluster, 1_900_000_000, "n1", goldenNonce, 77, &witnesspb.Request{
		Cluster: "000102030405060708090a0b0c0d0e0f", Register: 7, Node: "n1", RaftId: 3, Body: &witnesspb.Request_Look{Look: &witnesspb.Look{}},
	})
	if err != nil {
		panic(err)
	}
	return key, b
}

// TestGoldenLook: these bytes are in docs/formats/arbiter.md.
func TestGoldenLook(t *testing.T) {
	key, b := goldenLook()
	const wantKey = "0241a14575f9112fcfdb8431a79c629b6f5db72c9e30b965504c8ebc233941fe"
	if got := fmt.Sprintf("%x", key); got != wantKey {
		t.Errorf("key %s, want %s", got, wantKey)
	}
	const want = "486c0101000102030405060708090a0b0c0d0e0f00b33f7100000000026e31" +
		"000000000000000000000000000000000000000000000001" +
		"d9575405453d05fa167a2441087f4937b3ff094b30858066ea1c83eefb3b29dd33ab50e6a5cc1aecce7affd4bdd461f584251c9bf3d22dbb5192101ef72fb1c457b34805"
	if got := fmt.Sprintf("%x", b); got != want {
		t.Errorf("look\n%s, want\n%s", got, want)
	}
	h, err := ParseLook(b)
	if err != nil || string(h.Node) != "n1" || h.Cluster != goldenCluster || h.Expires != 1_900_000_000 || LookNonce(h, b) != goldenNonce {
		t.Fatal(h, err)
	}
	r := new(witnesspb.Request)
	if n, err := OpenLook(key, h, bytes.Clone(b), r); err != nil || n != 77 || r.GetRaftId() != 3 || r.GetLook() == nil {
		t.Error(n, r, err)
	}
	reply := &witnesspb.Reply{Sequence: 5, Body: &witnesspb.Reply_Looked{Looked: &witnesspb.Looked{}}}
	a := AppendAnswer([]byte("before"), key, goldenNonce, [nonceSize]byte{22: 9}, 30, reply)[len("before"):]
	const wantAnswer = "486c0102" + "000000000000000000000000000000000000000000000900" + "eb2925aecafa526b9c2d7aee7f409dd33460767bfe33"
	if got := fmt.Sprintf("%x", a); got != wantAnswer {
		t.Errorf("answer\n%s, want\n%s", got, wantAnswer)
	}
	if every, got, err := OpenAnswer(key, goldenNonce, a); err != nil || every != 30 || !proto.Equal(got, reply) {
		t.Error(every, got, err)
	}
	// C2: it answers this look and no other.
	if _, _, err := OpenAnswer(key, [nonceSize]byte{1}, a); !errors.Is(err, ErrLook) {
		t.Error("an answer to another look was taken:", err)
	}
	for i := range a {
		bad := bytes.Clone(a)
		bad[i] ^= 4
		if _, _, err := OpenAnswer(key, goldenNonce, bad); !errors.Is(err, ErrLook) {
			t.Errorf("byte %d changed: %v", i, err)
		}
	}
	for i := range b {
		bad := bytes.Clone(b)
		bad[i] ^= 4
		h, err := ParseLook(bad)
		if err == nil {
			_, err = OpenLook(PassKey([]byte("secret"), h.Cluster, string(h.Node), h.Expires), h, bad, r)
		}
		if !errors.Is(err, ErrLook) {
			t.Errorf("byte %d of the look changed: %v", i, err)
		}
	}
	long := &witnesspb.Reply{Body: &witnesspb.Reply_Refused{Refused: &witnesspb.Refused{Message: string(make([]byte, LookMax))}}}
	a = AppendAnswer(nil, key, goldenNonce, goldenNonce, 30, long)
	if _, _, err := OpenAnswer(key, goldenNonce, a); len(a) > LookMax || !errors.Is(err, ErrConnect) {
		t.Error("a reply that is too long:", len(a), err)
	}
}

func FuzzLook(f *testing.F) {
	key, b := goldenLook()
	f.Add(b)
	f.Add([]byte("Hl"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, _, err := OpenAnswer(key, goldenNonce, b); err == nil {
			t.Error("somebody without the key has answered")
		}
		h, err := ParseLook(b)
		if err != nil {
			return
		}
		_ = LookNonce(h, b)
		_, _ = OpenLook(key, h, b, new(witnesspb.Request))
	})
}

// TestRememberedLook: C4.
func TestRememberedLook(t *testing.T) {
	look := &witnesspb.Request{Register: 3, Body: &witnesspb.Request_Look{Look: &witnesspb.Look{}}}
	reply := &witnesspb.Reply{Sequence: 8, Body: &witnesspb.Reply_Looked{Looked: &witnesspb.Looked{Seen: []*witnesspb.Seen{{Node: "n2", Age: durationpb.New(time.Second)}}}}}
	c := &Client{}
	if c.remembered(look) != nil {
		t.Error("a look that never was")
	}
	c.setLookEvery(60)
	c.remember(look, reply)
	c.looked.at = time.Now().Add(-20 * time.Second)
	r := c.remembered(look)
	if age := r.GetLooked().GetSeen()[0].GetAge().AsDuration(); age < 21*time.Second || age > 30*time.Second {
		t.Error("age", age)
	}
	for what, change := range map[string]func(){
		"time has passed":         func() { c.looked.at = time.Now().Add(-time.Minute + lookSlack) },
		"something has changed":   func() { c.seen = 9 },
		"another register":        func() { look = &witnesspb.Request{Register: 4, Body: look.Body} },
		"the last one has failed": func() { c.remember(look, nil) },
		"the last one was refused": func() {
			c.remember(look, &witnesspb.Reply{Body: &witnesspb.Reply_Refused{Refused: &witnesspb.Refused{}}})
		},
		"not asked to look less":      func() { c.setLookEvery(0); c.remember(look, reply) },
		"asked to look never, nearly": func() { c.setLookEvery(1 << 30); c.remember(look, reply); c.looked.at = time.Now().Add(-lookEveryMax) },
	} {
		c.seen = 8
		look.Register = 3
		c.setLookEvery(60)
		c.remember(look, reply)
		if c.remembered(look) == nil {
			t.Fatal("not remembered")
		}
		change()
		if r := c.remembered(look); r != nil {
			t.Errorf("%s: answered from memory", what)
		}
	}
}
