package peer

import (
	"strings"
	"testing"

	"github.com/holdfast-ha/holdfast/internal/cluster/identity"
	"github.com/holdfast-ha/holdfast/internal/cluster/peer/peerpb"
)

func TestHelloOfAnotherLineageOrTooOld(t *testing.T) {
	tr := New(Options{Identity: &identity.Identity{Node: "n1", ClusterUUID: "u", Lineage: "l2"}})
	defer tr.Close()
	h := func(lineage string, highest uint32) *peerpb.Hello {
		return &peerpb.Hello{ProtocolMin: 1, ProtocolMax: highest, ClusterUuid: "u", Node: "n2", Lineage: lineage}
	}
	if err := tr.checkHello("n2", h("l2", 1)); err != nil {
		t.Error(err)
	}
	for _, l := range []string{"", "l1"} {
		if err := tr.checkHello("n2", h(l, 1)); err == nil || !strings.Contains(err.Error(), "rejoins with a new token") {
			t.Errorf("lineage %q: %v", l, err)
		}
	}
	tr.Speak(2)
	if err := tr.checkHello("n2", h("l2", 1)); err == nil || !strings.Contains(err.Error(), "upgrade node n2") {
		t.Errorf("version 1: %v", err)
	}
	if err := tr.checkHello("n2", h("l2", 2)); err != nil {
		t.Error(err)
	}
}

func FuzzToken(f *testing.F) {
	text, err := Token(&peerpb.Invitation{Id: "i", Node: "n", Secret: []byte("s"), Addresses: []string{"1.2.3.4:5"}, Authority: make([]byte, 32)})
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range []string{"", text, text[:len(text)-1], tokenPrefix, tokenPrefix + "AAAAAAAA"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		i, err := ParseToken(s)
		if err == nil && (i.GetNode() == "" || len(i.GetAuthority()) != 32) {
			t.Errorf("%q is a token: %v", s, i)
		}
	})
}
