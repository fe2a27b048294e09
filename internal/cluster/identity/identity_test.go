package identity

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/logstore"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
)

func configuration(nodes ...string) *v1.Configuration {
	c := &v1.Configuration{Cluster: &v1.Cluster{Name: "demo"}}
	for i, n := range nodes {
		c.Nodes = append(c.Nodes, &v1.Node{Name: n, Links: []*v1.Link{{Name: "a", Address: fmt.Sprintf("10.1.0.%d", i+1)}, {Name: "b", Address: fmt.Sprintf("10.2.0.%d:9000", i+1)}}})
	}
	return c
}

// made is a cluster written to a directory.
func made(t *testing.T, now func() time.Time, nodes ...string) (*Plan, string) {
	t.Helper()
	p, err := Init(Spec{Configuration: configuration(nodes...), Now: now})
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "out")
	if err := p.WriteNodeDirs(out); err != nil {
		t.Fatal(err)
	}
	return p, out
}

func load(t *testing.T, dir string) *Identity {
	t.Helper()
	id, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestInitMakesEverythingANodeNeeds(t *testing.T) {
	p, out := made(t, nil, "n2", "n1", "n10")
	for i, n := range []string{"n1", "n10", "n2"} { // in name order
		id := load(t, filepath.Join(out, n))
		if id.Node != n || id.ClusterName != "demo" || len(id.ClusterUUID) != 32 || len(id.Nodes) != 3 || id.Self().GetLinks()[1].GetAddress() == "" {
			t.Fatalf("%+v", id)
		}
		if d := time.Until(id.Expires()); d < certificateLife-2*time.Hour || d > certificateLife {
			t.Errorf("expires in %v", d)
		}
		s, err := logstore.Open(id.LogPath(), logstore.Owner{ClusterUUID: id.ClusterUUID, Node: n})
		if err != nil {
			t.Fatal(err)
		}
		l, err := s.Load()
		_ = s.Close()
		if err != nil {
			t.Fatal(err)
		}
		st, err := state.Unmarshal(l.Snapshot.GetData())
		if err != nil {
			t.Fatal(err)
		}
		if m := state.MemberOf(st, n); l.RaftID != uint64(i)+1 || m.GetRaftId() != l.RaftID || st.GetCluster().GetUuid() != id.ClusterUUID {
			t.Errorf("node %s: raft id %d, member %v of %s", n, l.RaftID, m, st.GetCluster().GetUuid())
		}
		md := l.Snapshot.GetMetadata()
		if md.GetIndex() != 1 || md.GetTerm() != 1 || fmt.Sprint(md.GetConfState().GetVoters()) != "[1 2 3]" || l.HardState.GetCommit() != 1 {
			t.Errorf("snapshot %v, hard state %v", md, l.HardState)
		}
		filepath.WalkDir(filepath.Join(out, n), func(path string, d fs.DirEntry, _ error) error {
			info, err := d.Info()
			if err != nil || info.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s: %v, %v", path, info.Mode(), err)
			}
			return nil
		})
	}
	if err := p.WriteNodeDirs(out); !errors.Is(err, fs.ErrExist) {
		t.Errorf("written twice: %v", err)
	}
	q, _ := made(t, nil, "n1")
	if q.Configuration.GetCluster().GetUuid() == p.Configuration.GetCluster().GetUuid() {
		t.Error("two clusters have one uuid")
	}
}

func TestWriteNodeDirsWritesAllOrNothing(t *testing.T) {
	p, err := Init(Spec{Configuration: configuration("n1", "n2")})
	if err != nil {
		t.Fatal(err)
	}
	out := t.TempDir()
	if err := os.Mkdir(filepath.Join(out, "n2"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := p.WriteNodeDirs(out); !errors.Is(err, fs.ErrExist) {
		t.Fatal(err)
	}
	left, _ := os.ReadDir(out)
	if len(left) != 1 {
		t.Fatalf("left behind: %v", left)
	}
}

func TestInitRefusesWhatCantWork(t *testing.T) {
	for _, c := range []struct {
		change func(*v1.Configuration)
		want   string
	}{
		{func(c *v1.Configuration) { c.Cluster = nil }, "no name"},
		{func(c *v1.Configuration) { c.Cluster.Uuid = "00" }, "uuid"},
		{func(c *v1.Configuration) { c.Nodes = nil }, "no nodes"},
		{func(c *v1.Configuration) { c.Nodes[0].Name = "../n1" }, "can't be a name"},
		{func(c *v1.Configuration) { c.Nodes[0].Name = c.Nodes[1].Name }, "twice"},
		{func(c *v1.Configuration) { c.Nodes[1].Links = nil }, "no links"},
		{func(c *v1.Configuration) {
			for len(c.Nodes) <= NodesMax {
				c.Nodes = append(c.Nodes, c.Nodes[0])
			}
		}, "at most 64"},
	} {
		cfg := configuration("n1", "n2")
		c.change(cfg)
		if _, err := Init(Spec{Configuration: cfg}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("want %q, got %v", c.want, err)
		}
	}
}

func TestLoadRefusesWhatDoesNotFit(t *testing.T) {
	_, other := made(t, nil, "n1")
	sub := func(dir, name string) string { return filepath.Join(dir, name) }
	copyFrom := func(from, name string) func(string) error {
		return func(dir string) error {
			b, err := os.ReadFile(sub(from, name))
			if err == nil {
				err = os.WriteFile(sub(dir, name), b, 0o600)
			}
			return err
		}
	}
	write := func(name, content string) func(string) error {
		return func(dir string) error { return os.WriteFile(sub(dir, name), []byte(content), 0o600) }
	}
	remove := func(name string) func(string) error {
		return func(dir string) error { return os.Remove(sub(dir, name)) }
	}
	otherNode := sub(other, "n1")
	for _, c := range []struct {
		name  string
		spoil func(dir string) error
		want  error
		text  string
	}{
		{"nothing there", remove(FileIdentity), ErrNoIdentity, "cluster init"},
		{"no nodes", remove(FileNodes), ErrIncomplete, FileNodes},
		{"no authority", remove(FileAuthority), ErrIncomplete, FileAuthority},
		{"no certificate", remove(FileCertificate), ErrIncomplete, FileCertificate},
		{"no key", remove(FileKey), ErrIncomplete, FileKey},
		{"no secret", remove(FileSecret), ErrIncomplete, FileSecret},
		{"empty secret", write(FileSecret, ""), ErrIncomplete, "32 expected"},
		{"garbage identity", write(FileIdentity, "{"), ErrIncomplete, FileIdentity},
		{"unknown key", write(FileIdentity, `{"format":1,"node":"n1","cluster_uuid":"u","x":1}`), ErrIncomplete, `"x"`},
		{"newer format", write(FileIdentity, `{"format":2,"node":"n1","cluster_uuid":"u"}`), ErrIncomplete, "later one"},
		{"garbage authority", write(FileAuthority, "x"), ErrIncomplete, FileAuthority},
		{"garbage certificate", write(FileCertificate, "x"), ErrIncomplete, FileCertificate},
		{"garbage nodes", write(FileNodes, "{}}"), ErrIncomplete, FileNodes},
		{"not among the nodes", write(FileNodes, "{}"), ErrIncomplete, "not among"},
		{"another cluster's authority", copyFrom(otherNode, FileAuthority), ErrForeign, "authority of cluster"},
		{"another cluster's key", copyFrom(otherNode, FileKey), ErrIncomplete, "does not match"},
		{"another cluster's pair", func(dir string) error {
			return errors.Join(copyFrom(otherNode, FileKey)(dir), copyFrom(otherNode, FileCertificate)(dir))
		}, ErrForeign, "it is of node \"n1\" of cluster"},
		{"another node's pair", func(dir string) error {
			n2 := sub(filepath.Dir(dir), "n2")
			return errors.Join(copyFrom(n2, FileKey)(dir), copyFrom(n2, FileCertificate)(dir))
		}, ErrForeign, "not of node \"n1\""},
		{"readable key", func(dir string) error { return os.Chmod(sub(dir, FileKey), 0o640) }, ErrPermissions, "chmod 600"},
		{"readable secret", func(dir string) error { return os.Chmod(sub(dir, FileSecret), 0o604) }, ErrPermissions, "chmod 600"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, out := made(t, nil, "n1", "n2")
			dir := sub(out, "n1")
			load(t, dir)
			if err := c.spoil(dir); err != nil {
				t.Fatal(err)
			}
			_, err := Load(dir)
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) || !strings.Contains(err.Error(), dir) {
				t.Fatalf("got %v, want %v with %q", err, c.want, c.text)
			}
		})
	}
}

func TestCertificatesHaveTheirTime(t *testing.T) {
	start := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(d time.Duration) func() time.Time { return func() time.Time { return start.Add(d) } }
	p, out := made(t, at(0), "n1")
	dir := filepath.Join(out, "n1")
	if _, err := LoadAt(dir, at(-30*time.Minute)); err != nil {
		t.Errorf("a clock that is a little behind: %v", err)
	}
	if _, err := LoadAt(dir, at(-2*time.Hour)); !errors.Is(err, ErrExpired) || !strings.Contains(err.Error(), "valid from 2029-12-31T23:00:00Z") {
		t.Errorf("before its time: %v", err)
	}
	if _, err := LoadAt(dir, at(certificateLife+time.Second)); !errors.Is(err, ErrExpired) || !strings.Contains(err.Error(), "valid until 2034") {
		t.Errorf("after its time: %v", err)
	}
	// Renewed by the authority.
	caDir := filepath.Join(t.TempDir(), "ca")
	if err := p.Authority.Write(caDir); err != nil {
		t.Fatal(err)
	}
	later := at(certificateLife + time.Hour)
	a, err := loadAuthorityAt(caDir, later)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.RenewNode("n1", dir); err != nil {
		t.Fatal(err)
	}
	if id, err := LoadAt(dir, later); err != nil || id.Expires().After(start.Add(authorityLife)) {
		t.Errorf("renewed: %v", err)
	}
	if _, err := loadAuthorityAt(caDir, at(authorityLife+time.Hour)); !errors.Is(err, ErrExpired) {
		t.Errorf("authority after its time: %v", err)
	}
}

// handshake returns what each side's handshake (and first read) says.
func handshake(t *testing.T, server, client *tls.Config) (state tls.ConnectionState, serverErr, clientErr error) {
	t.Helper()
	a, b := net.Pipe()
	deadline := time.Now().Add(10 * time.Second)
	_, _ = a.SetDeadline(deadline), b.SetDeadline(deadline)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s := tls.Server(a, server)
		if serverErr = s.Handshake(); serverErr == nil {
			state = s.ConnectionState()
			_, serverErr = s.Write([]byte("x"))
		}
		_ = s.Close()
		_ = a.Close()
	}()
	c := tls.Client(b, client)
	_, clientErr = c.Read(make([]byte, 1))
	if clientErr == nil {
		go io.Copy(io.Discard, c)
	}
	<-done
	_ = b.Close()
	return state, serverErr, clientErr
}

func TestNodesKnowEachOther(t *testing.T) {
	_, out := made(t, nil, "n1", "n2")
	n1, n2 := load(t, filepath.Join(out, "n1")), load(t, filepath.Join(out, "n2"))
	cs, serverErr, clientErr := handshake(t, n1.ServerTLS(), n2.ClientTLS())
	if serverErr != nil || clientErr != nil {
		t.Fatal(serverErr, clientErr)
	}
	if name, err := n1.PeerName(cs); name != "n2" || err != nil {
		t.Fatal(name, err)
	}
	if cs.Version != tls.VersionTLS13 {
		t.Fatalf("version %x", cs.Version)
	}
	old := n2.ClientTLS()
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if _, serverErr, _ := handshake(t, n1.ServerTLS(), old); serverErr == nil {
		t.Error("TLS 1.2 was accepted")
	}
	naked := n2.ClientTLS()
	naked.GetClientCertificate = nil
	if _, serverErr, _ := handshake(t, n1.ServerTLS(), naked); serverErr == nil {
		t.Error("a client without a certificate was accepted")
	}
}

func TestStrangersAreRefused(t *testing.T) {
	p, out := made(t, nil, "n1")
	_, foreign := made(t, nil, "n1")
	n1, stranger := load(t, filepath.Join(out, "n1")), load(t, filepath.Join(foreign, "n1"))
	// The stranger checks nothing, so the server's own judgement shows.
	_, serverErr, _ := handshake(t, n1.ServerTLS(), stranger.PeerTLS())
	if !errors.Is(serverErr, ErrForeign) || !strings.Contains(serverErr.Error(), stranger.ClusterUUID) {
		t.Errorf("server: %v", serverErr)
	}
	_, _, clientErr := handshake(t, stranger.PeerTLS(), n1.ClientTLS())
	if !errors.Is(clientErr, ErrForeign) || !strings.Contains(clientErr.Error(), stranger.ClusterUUID) {
		t.Errorf("client: %v", clientErr)
	}
	// An authority that pretends to be this cluster's.
	fake, err := newAuthority(n1.ClusterUUID, 1, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	if err := fake.RenewNode("n1", stranger.Dir); err != nil {
		t.Fatal(err)
	}
	pair, err := loadPair(stranger.Dir, FileCertificate, FileKey)
	if err != nil {
		t.Fatal(err)
	}
	_, serverErr, _ = handshake(t, n1.ServerTLS(), stranger.peerTLS(func() tls.Certificate { return pair }))
	if !errors.Is(serverErr, ErrForeign) || !strings.Contains(serverErr.Error(), "unknown authority") {
		t.Errorf("forged: %v", serverErr)
	}
	// The authority's own certificate is nobody's.
	if _, err := n1.check(p.Authority.cert); !errors.Is(err, ErrForeign) {
		t.Errorf("authority as a peer: %v", err)
	}
}

func TestExpiredPeerIsRefused(t *testing.T) {
	_, out := made(t, func() time.Time { return time.Now().Add(-certificateLife - time.Minute) }, "n1")
	dir := filepath.Join(out, "n1")
	n1, err := LoadAt(dir, func() time.Time { return time.Now().Add(-time.Hour) })
	if err != nil {
		t.Fatal(err)
	}
	now := *n1
	now.now = time.Now
	_, serverErr, _ := handshake(t, now.ServerTLS(), n1.PeerTLS())
	if !errors.Is(serverErr, ErrExpired) || !strings.Contains(serverErr.Error(), "valid until") {
		t.Errorf("server: %v", serverErr)
	}
}

func TestClientsMayUseTheAPIAndAreNoPeers(t *testing.T) {
	p, out := made(t, nil, "n1")
	n1 := load(t, filepath.Join(out, "n1"))
	dir := filepath.Join(t.TempDir(), "alice")
	if err := p.Authority.WriteClient("alice", dir); err != nil {
		t.Fatal(err)
	}
	if err := p.Authority.WriteClient("../alice", dir); err == nil {
		t.Error("a name with a path was taken")
	}
	client, err := LoadClient(dir)
	if err != nil {
		t.Fatal(err)
	}
	cs, serverErr, clientErr := handshake(t, n1.ServerTLS(), client)
	if serverErr != nil || clientErr != nil {
		t.Fatal(serverErr, clientErr)
	}
	if p, err := n1.Verify(cs); err != nil || p.Kind != KindClient || p.Name != "alice" {
		t.Errorf("%v, %v", p, err)
	}
	if _, err := n1.PeerName(cs); !errors.Is(err, ErrForeign) {
		t.Errorf("a client passed for a node: %v", err)
	}
	// Another client can't pose as the cluster.
	if _, _, clientErr := handshake(t, client, client); !errors.Is(clientErr, ErrForeign) {
		t.Errorf("a client passed for a server: %v", clientErr)
	}
}

func TestSaveNodes(t *testing.T) {
	_, out := made(t, nil, "n1", "n2")
	id := load(t, filepath.Join(out, "n1"))
	nodes := configuration("n1", "n2", "n3").Nodes
	if err := id.SaveNodes(nodes); err != nil {
		t.Fatal(err)
	}
	if again := load(t, id.Dir); len(again.Nodes) != 3 || again.Nodes[2].GetLinks()[0].GetAddress() != "10.1.0.3" {
		t.Fatalf("%v", again.Nodes)
	}
}
