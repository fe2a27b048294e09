package identity

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/logstore"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// logOf a node, which nobody has open.
func logOf(t *testing.T, id *Identity) logstore.Saved {
	t.Helper()
	s, err := logstore.Open(id.LogPath(), logstore.Owner{ClusterUUID: id.ClusterUUID, Node: id.Node})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	saved, err := s.Load()
	if err != nil {
		t.Fatal(err)
	}
	return saved
}

func TestReseed(t *testing.T) {
	_, out := made(t, nil, "n1", "n2", "n3")
	n1 := load(t, filepath.Join(out, "n1"))
	// An entry that is not known to be committed.
	store, err := logstore.Open(n1.LogPath(), logstore.Owner{ClusterUUID: n1.ClusterUUID, Node: "n1"})
	if err != nil {
		t.Fatal(err)
	}
	c := &statepb.Command{Format: 1, Change: &statepb.Command_SetUser{SetUser: &statepb.SetUser{User: &v1.User{Name: "alice", Role: v1.Role_ROLE_GUEST}}}}
	entry := &raftpb.Entry{Index: new(uint64(2)), Term: new(uint64(4)), Type: raftpb.EntryNormal.Enum(), Data: state.Marshal(c)}
	batch := logstore.Batch{HardState: &raftpb.HardState{Term: new(uint64(4)), Vote: new(uint64(1)), Commit: new(uint64(1))}, Entries: []*raftpb.Entry{entry}, MustSync: true}
	if err := store.Save(batch); err != nil {
		t.Fatal(err)
	}
	// In use: nothing happens.
	if _, err := Reseed(n1.Dir, time.Now()); !errors.Is(err, logstore.ErrInUse) {
		t.Errorf("in use: %v", err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	secret := n1.Secret
	r, err := Reseed(n1.Dir, time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC))
	if err != nil {
		t.Fatal(err)
	}
	if r.Index != 2 || r.Committed != 1 || strings.Join(r.Others, " ") != "n2 n3" || !strings.HasPrefix(r.Lineage, "20300102T030405Z-") {
		t.Errorf("%+v", r)
	}
	n1 = load(t, n1.Dir)
	keys, err := n1.Keys()
	if err != nil || n1.Lineage != r.Lineage || bytes.Equal(n1.Secret, secret) || keys.Current.Generation != 2 {
		t.Errorf("%s, key %d, %v", n1.Lineage, keys.Current.Generation, err)
	}
	saved := logOf(t, n1)
	s, err := state.Unmarshal(saved.Snapshot.GetData())
	if err != nil {
		t.Fatal(err)
	}
	if s.GetUsers()["alice"] == nil || len(s.GetView().GetMembers()) != 1 || saved.RaftID != 4 || s.GetLineage() != r.Lineage ||
		saved.HardState.GetTerm() != 5 || saved.Snapshot.GetMetadata().GetIndex() != 2 || len(saved.Snapshot.GetMetadata().GetConfState().GetVoters()) != 1 {
		t.Errorf("state %v, saved %v %v %v", s.GetView(), saved.RaftID, saved.HardState, saved.Snapshot.GetMetadata())
	}
	if !bytes.Equal(s.GetHeartbeatKey().GetCurrent().GetFingerprint(), keys.Current.Fingerprint()) {
		t.Error("the log names another key")
	}
	// The others' certificates are refused, as clusterd will do it.
	n1.Refuse(s.GetCertificates())
	if err := connects(t, n1, load(t, filepath.Join(out, "n2"))); !errors.Is(err, ErrRevoked) {
		t.Errorf("a node of the old lineage: %v", err)
	}
	// Again: the log of before can still be looked at.
	if _, err := os.Stat(n1.LogPath() + beforeReseed); err != nil {
		t.Error(err)
	}
	if _, err := Reseed(n1.Dir, time.Now()); err != nil {
		t.Errorf("again: %v", err)
	}
}

func TestRestore(t *testing.T) {
	p, out := made(t, nil, "n1", "n2")
	s, err := state.Unmarshal(logOf(t, load(t, filepath.Join(out, "n1"))).Snapshot.GetData())
	if err != nil {
		t.Fatal(err)
	}
	again, err := Restore(s, "n2", nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "n2")
	if err := again.WriteNodeDir("n2", dir); err != nil {
		t.Fatal(err)
	}
	if err := again.WriteNodeDir("n1", filepath.Join(t.TempDir(), "n1")); err == nil {
		t.Error("a second node begins")
	}
	n2 := load(t, dir)
	if n2.ClusterUUID == p.Configuration.GetCluster().GetUuid() || n2.Lineage == "" || len(n2.Nodes) != 2 {
		t.Errorf("%+v", n2)
	}
	if err := connects(t, n2, load(t, filepath.Join(out, "n1"))); !errors.Is(err, ErrForeign) {
		t.Errorf("a node of the old cluster: %v", err)
	}
	if saved := logOf(t, n2); saved.RaftID != 3 {
		t.Errorf("raft id %d", saved.RaftID)
	}
	if _, err := Restore(s, "n9", nil); err == nil {
		t.Error("a node that is not in the backup begins")
	}
	if _, err := Reseed(t.TempDir(), time.Now()); !errors.Is(err, ErrNoIdentity) || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no node: %v", err)
	}
}
