package identity

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// connects says whether two nodes accept each other, in both roles.
func connects(t *testing.T, a, b *Identity) error {
	t.Helper()
	_, s1, c1 := handshake(t, a.ServerTLS(), b.ClientTLS())
	_, s2, c2 := handshake(t, b.ServerTLS(), a.ClientTLS())
	return errors.Join(s1, c1, s2, c2)
}

// The authority is replaced on two nodes, one step after the other in any
// order that the log allows: they accept each other at every moment.
func TestAuthorityRotation(t *testing.T) {
	p, out := made(t, nil, "n1", "n2")
	n1, n2 := load(t, filepath.Join(out, "n1")), load(t, filepath.Join(out, "n2"))
	oldClient := filepath.Join(t.TempDir(), "alice")
	if err := p.Authority.WriteClient("alice", oldClient); err != nil {
		t.Fatal(err)
	}
	next, err := n1.NextAuthority(2)
	if err != nil {
		t.Fatal(err)
	}
	key, err := next.Key()
	if err != nil {
		t.Fatal(err)
	}
	keep := func(n *Identity) error {
		a, err := n.ParseAuthority(next.Certificate(), key)
		if err != nil {
			return err
		}
		return n.KeepAuthority(a)
	}
	steps := []struct {
		name string
		do   func() error
	}{
		{"n1 keeps", func() error { return keep(n1) }}, {"n2 keeps", func() error { return keep(n2) }},
		{"n2 uses", n2.UseAuthority}, {"n2 uses again", n2.UseAuthority}, {"n1 uses", n1.UseAuthority},
		{"n1 forgets", n1.ForgetAuthorities}, {"n2 forgets", n2.ForgetAuthorities},
	}
	for _, s := range steps {
		if err := s.do(); err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		if err := connects(t, n1, n2); err != nil {
			t.Fatalf("after %s: %v", s.name, err)
		}
		if err := connects(t, load(t, n1.Dir), load(t, n2.Dir)); err != nil {
			t.Fatalf("after %s and a restart: %v", s.name, err)
		}
	}
	if newest, signer := n1.Authorities(); newest != 2 || signer != 2 {
		t.Errorf("trusts %d, signed by %d", newest, signer)
	}
	cfg, err := LoadClient(oldClient)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, clientErr := handshake(t, n1.ServerTLS(), cfg); !errors.Is(clientErr, ErrForeign) {
		t.Errorf("a client of the old authority: %v", clientErr)
	}
	if _, err := n1.ParseAuthority(next.Certificate(), []byte("x")); err == nil {
		t.Error("a key that does not fit was taken")
	}
}

// A crash between any two writes of the change leaves a node that loads, signs
// and is accepted.
func TestCrashWhileAuthorityChanges(t *testing.T) {
	_, out := made(t, nil, "n1", "n2")
	n1, n2 := load(t, filepath.Join(out, "n1")), load(t, filepath.Join(out, "n2"))
	next, err := n1.NextAuthority(2)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []*Identity{n1, n2} {
		if err := n.KeepAuthority(next); err != nil {
			t.Fatal(err)
		}
	}
	old, err := os.ReadFile(filepath.Join(n1.Dir, FileAuthority))
	if err != nil {
		t.Fatal(err)
	}
	key, err := next.Key()
	if err != nil {
		t.Fatal(err)
	}
	// As promoteAuthority writes them.
	for name, content := range map[string][]byte{fileOldAuthority: old, FileAuthorityKey: key} {
		if err := replaceFile(filepath.Join(n1.Dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	n1 = load(t, n1.Dir)
	if a, err := n1.Authority(); err != nil || a.Generation != 2 {
		t.Fatalf("%v, %v", a, err)
	}
	if err := connects(t, n1, n2); err != nil {
		t.Fatal(err)
	}
	if err := n1.UseAuthority(); err != nil {
		t.Fatal(err)
	}
	if err := connects(t, load(t, n1.Dir), n2); err != nil {
		t.Fatal(err)
	}
}

func TestKeyRotation(t *testing.T) {
	_, out := made(t, nil, "n1")
	n := load(t, filepath.Join(out, "n1"))
	first, err := n.Keys()
	if err != nil || first.Current.Generation != 1 || first.Next.Generation != 0 || !bytes.Equal(first.Current.Secret, n.Secret) {
		t.Fatalf("%v, %v", first, err)
	}
	second, err := NewKey(2)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.KeepKey(second); err != nil {
		t.Fatal(err)
	}
	if ks, err := n.Keys(); err != nil || ks.Current.Generation != 1 || ks.Next.Generation != 2 || !bytes.Equal(ks.Next.Fingerprint(), second.Fingerprint()) {
		t.Fatalf("%v, %v", ks, err)
	}
	if err := n.UseKey(); err != nil {
		t.Fatal(err)
	}
	if ks, err := LoadKeys(n.Dir); err != nil || ks.Current.Generation != 2 || ks.Old.Generation != 1 || ks.Next.Generation != 0 {
		t.Fatalf("%v, %v", ks, err)
	}
	// A crash between the renames of UseKey.
	third, err := NewKey(3)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.KeepKey(third); err != nil {
		t.Fatal(err)
	}
	if err := rename(n.Dir, FileSecret, fileOldSecret); err != nil {
		t.Fatal(err)
	}
	if again := load(t, n.Dir); !bytes.Equal(again.Secret, third.Secret) {
		t.Error("the next key is not the current one")
	}
	if err := n.ForgetKeys(); err != nil {
		t.Fatal(err)
	}
	if ks, err := n.Keys(); err != nil || ks.Current.Generation != 3 || ks.Old.Generation != 0 {
		t.Fatalf("%v, %v", ks, err)
	}
	if err := os.WriteFile(filepath.Join(n.Dir, fileNextSecret), []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Keys(); !errors.Is(err, ErrIncomplete) {
		t.Errorf("a short key: %v", err)
	}
}

func TestRevokedAndRenewed(t *testing.T) {
	_, out := made(t, nil, "n1", "n2")
	n1, n2 := load(t, filepath.Join(out, "n1")), load(t, filepath.Join(out, "n2"))
	before := n2.own().Leaf.SerialNumber
	if err := n2.Renew(); err != nil {
		t.Fatal(err)
	}
	if n2.own().Leaf.SerialNumber.Cmp(before) == 0 {
		t.Error("the certificate is the old one")
	}
	if err := connects(t, n1, n2); err != nil {
		t.Fatal(err)
	}
	if err := connects(t, n1, load(t, n2.Dir)); err != nil {
		t.Fatal(err)
	}
	n1.Refuse(map[string]uint64{"node/n2": 1})
	if err := connects(t, n1, n2); !errors.Is(err, ErrRevoked) || !strings.Contains(err.Error(), "taken back") {
		t.Errorf("revoked: %v", err)
	}
	// Another machine by that name.
	a, err := n1.Authority()
	if err != nil {
		t.Fatal(err)
	}
	if err := a.renewNode(Principal{Kind: KindNode, Name: "n2", Generation: 1}, n2.Dir); err != nil {
		t.Fatal(err)
	}
	if err := connects(t, n1, load(t, n2.Dir)); err != nil {
		t.Errorf("the second generation: %v", err)
	}
}

func TestEnroll(t *testing.T) {
	_, out := made(t, nil, "n1")
	_, otherOut := made(t, nil, "n1")
	n1, other := load(t, filepath.Join(out, "n1")), load(t, filepath.Join(otherOut, "n1"))
	applicant, err := NewApplicant()
	if err != nil {
		t.Fatal(err)
	}
	fingerprint := Fingerprint(n1.AuthorityCertificate())
	cs, serverErr, clientErr := handshake(t, n1.EnrollTLS(), applicant.TLS(n1.ClusterUUID, fingerprint))
	if serverErr != nil || clientErr != nil {
		t.Fatal(serverErr, clientErr)
	}
	if _, _, clientErr := handshake(t, other.EnrollTLS(), applicant.TLS(n1.ClusterUUID, fingerprint)); !errors.Is(clientErr, ErrForeign) {
		t.Errorf("another cluster passes: %v", clientErr)
	}
	if _, _, clientErr := handshake(t, n1.PeerTLS(), applicant.TLS(n1.ClusterUUID, fingerprint)); !errors.Is(clientErr, ErrForeign) {
		t.Errorf("without its authority it passes: %v", clientErr)
	}
	a, err := n1.Authority()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := a.Sign(Principal{Kind: KindNode, Name: "n2", Generation: 3}, cs.PeerCertificates[0].PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	key, err := a.Key()
	if err != nil {
		t.Fatal(err)
	}
	nodes, err := EncodeNodes(configuration("n1", "n2").Nodes)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := n1.Keys()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "state")
	e := Enrolled{Node: "n2", ClusterName: n1.ClusterName, ClusterUUID: n1.ClusterUUID, Lineage: "l2", Certificate: cert,
		Authority: n1.AuthoritiesPEM(), AuthorityKey: key, Key: keys.Current, Nodes: nodes, GuardIncarnation: 7}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := applicant.Write(dir, e); err != nil {
		t.Fatal(err)
	}
	n2 := load(t, dir)
	if n2.Node != "n2" || n2.Lineage != "l2" || time.Until(n2.Expires()) < time.Hour {
		t.Errorf("%+v", n2)
	}
	if err := connects(t, n1, n2); err != nil {
		t.Fatal(err)
	}
	if err := applicant.Write(dir, e); err == nil || !strings.Contains(err.Error(), "nothing was changed") {
		t.Errorf("written twice: %v", err)
	}
	if err := Wipe(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir); !errors.Is(err, ErrNoIdentity) {
		t.Errorf("after the wipe: %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}
