package identity

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-ha/holdfast/internal/cluster/logstore"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// A lineage is what a cluster's log descends from. When a quorum is lost for
// good, an administrator can begin a new one with what a single node knows;
// nodes of the one before are refused by then, and rejoin as new machines.

// Suffix of what a reseed replaces.
const beforeReseed = ".before-reseed"

func newLineage(now time.Time) (string, error) {
	random := make([]byte, 4)
	if _, err := rand.Read(random); err != nil {
		return "", err
	}
	return now.UTC().Format("20060102T150405Z") + "-" + hex.EncodeToString(random), nil
}

// Reseeded says what a new lineage began with.
type Reseeded struct {
	Node, Cluster, Lineage string
	// Index of the last entry of the log; those that were not known to be committed count too.
	Index, Committed uint64
	// Nodes that have to rejoin.
	Others []string
}

// Reseed begins a new lineage in a node's state directory, while no daemon uses
// it. It is an override: what the other nodes have committed and this one has
// not heard of is lost, and if they still run, both sides act. The caller has
// made sure that they do not.
func Reseed(dir string, now time.Time) (*Reseeded, error) {
	id, saved, s, last, err := lastKnown(dir)
	if err != nil {
		return nil, err
	}
	owner := logstore.Owner{ClusterUUID: id.ClusterUUID, Node: id.Node}
	lineage, err := newLineage(now)
	if err != nil {
		return nil, err
	}
	n, err := state.Anew(s, id.Node, lineage)
	if err != nil {
		return nil, err
	}
	raftID := state.MemberOf(n, id.Node).GetRaftId()
	term := saved.HardState.GetTerm() + 1
	next := filepath.Join(dir, FileLog+".reseed")
	if err := os.Remove(next); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	keys, err := id.Keys()
	if err != nil {
		return nil, err
	}
	key, err := NewKey(keys.Current.Generation + 1)
	if err != nil {
		return nil, err
	}
	n.HeartbeatKey = &statepb.Rotation{Current: &statepb.Secret{Generation: key.Generation, Fingerprint: key.Fingerprint()}, Node: id.Node, StartedMs: now.UnixMilli()}
	err = logstore.Create(next, owner, logstore.Saved{
		RaftID:    raftID,
		HardState: &raftpb.HardState{Term: &term, Vote: new(uint64(0)), Commit: &last},
		Snapshot: &raftpb.Snapshot{Data: state.Marshal(n), Metadata: &raftpb.SnapshotMetadata{
			Index: &last, Term: &term, ConfState: &raftpb.ConfState{Voters: []uint64{raftID}, AutoLeave: new(false)},
		}},
	})
	if err != nil {
		return nil, err
	}
	// From here on a crash leaves something that a second run completes: the old log stays until the last step.
	if err := writeIdentity(dir, file{Format: format, Node: id.Node, ClusterName: id.ClusterName, ClusterUUID: id.ClusterUUID, Lineage: lineage}); err != nil {
		return nil, err
	}
	if err := replaceFile(filepath.Join(dir, FileSecret), key.encode(), 0o600); err != nil {
		return nil, err
	}
	if err := id.ForgetKeys(); err != nil {
		return nil, err
	}
	old := id.LogPath() + beforeReseed
	if err := os.Remove(old); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if err := os.Link(id.LogPath(), old); err != nil {
		return nil, err
	}
	if err := rename(dir, FileLog+".reseed", FileLog); err != nil {
		return nil, err
	}
	r := &Reseeded{Node: id.Node, Cluster: id.ClusterName, Lineage: lineage, Index: last, Committed: saved.HardState.GetCommit()}
	for _, name := range state.SortedKeys(n.Nodes) {
		if name != id.Node {
			r.Others = append(r.Others, name)
		}
	}
	return r, nil
}

// LastKnown is who a node is and the newest that it knows of its cluster, while
// no daemon uses its state directory.
func LastKnown(dir string) (*Identity, *statepb.State, error) {
	id, _, s, _, err := lastKnown(dir)
	return id, s, err
}

func lastKnown(dir string) (*Identity, logstore.Saved, *statepb.State, uint64, error) {
	none := logstore.Saved{}
	id, err := Load(dir)
	if err != nil {
		return nil, none, nil, 0, err
	}
	store, err := logstore.Open(id.LogPath(), logstore.Owner{ClusterUUID: id.ClusterUUID, Node: id.Node})
	if err != nil {
		return nil, none, nil, 0, err
	}
	saved, err := store.Load()
	if err = errors.Join(err, store.Close()); err != nil {
		return nil, none, nil, 0, err
	}
	s, last, err := replay(saved)
	if err != nil {
		return nil, none, nil, 0, fmt.Errorf("%s: %w", id.LogPath(), err)
	}
	return id, saved, s, last, nil
}

func writeIdentity(dir string, f file) error {
	raw, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return err
	}
	return replaceFile(filepath.Join(dir, FileIdentity), append(raw, '\n'), 0o600)
}

// replay a log from its snapshot to its end. What is not known to be committed
// counts: it may have been, and nobody else will say.
func replay(saved logstore.Saved) (*statepb.State, uint64, error) {
	if len(saved.Snapshot.GetData()) == 0 {
		return nil, 0, errors.New("this node has never had a state of the cluster: choose another node")
	}
	s, err := state.Unmarshal(saved.Snapshot.GetData())
	if err != nil {
		return nil, 0, err
	}
	last := saved.Snapshot.GetMetadata().GetIndex()
	for _, ent := range saved.Entries {
		last = max(last, ent.GetIndex())
		raw := ent.GetData()
		if ent.GetType() == raftpb.EntryConfChangeV2 {
			cc := &raftpb.ConfChangeV2{}
			if err := proto.Unmarshal(raw, cc); err != nil {
				return nil, 0, fmt.Errorf("entry %d is damaged: %w", ent.GetIndex(), err)
			}
			raw = cc.GetContext()
		}
		if len(raw) == 0 {
			continue
		}
		c := &statepb.Command{}
		if err := proto.Unmarshal(raw, c); err != nil {
			return nil, 0, fmt.Errorf("entry %d is damaged: %w", ent.GetIndex(), err)
		}
		if c.GetFormat() > state.Format {
			return nil, 0, fmt.Errorf("entry %d has format %d, this version knows up to %d: use the version of holdfast that wrote it", ent.GetIndex(), c.GetFormat(), state.Format)
		}
		state.Apply(s, c)
	}
	return s, last, nil
}

// Restore makes a cluster anew from what a backup has: one node begins, with a
// uuid, an authority and keys of its own, so that nothing of the old cluster is
// taken for a part of it.
func Restore(backup *statepb.State, node string, now func() time.Time) (*Plan, error) {
	if now == nil {
		now = time.Now
	}
	secrets := make([]byte, 16+SecretSize)
	if _, err := rand.Read(secrets); err != nil {
		return nil, err
	}
	lineage, err := newLineage(now())
	if err != nil {
		return nil, err
	}
	s, err := state.Anew(backup, node, lineage)
	if err != nil {
		return nil, err
	}
	s.Cluster.Uuid = hex.EncodeToString(secrets[:16])
	s.Certificates, s.HeartbeatKey, s.Authority, s.CertificateRound, s.Destroyed = nil, nil, nil, 0, false
	cfg := state.Configuration(s)
	a, err := newAuthority(cfg.Cluster.Uuid, 1, now)
	if err != nil {
		return nil, fmt.Errorf("make the cluster's authority: %w", err)
	}
	raftID := state.MemberOf(s, node).GetRaftId()
	p := &Plan{
		Configuration: cfg, Authority: a, lineage: lineage, secret: secrets[16:], nodes: cfg.Nodes, pairs: map[string]pair{}, raftIDs: map[string]uint64{node: raftID},
		snapshot: &raftpb.Snapshot{Data: state.Marshal(s), Metadata: &raftpb.SnapshotMetadata{
			Index: new(uint64(1)), Term: new(uint64(1)), ConfState: &raftpb.ConfState{Voters: []uint64{raftID}, AutoLeave: new(false)},
		}},
	}
	p.pairs[node], err = a.issue(Principal{Kind: KindNode, Name: node})
	return p, err
}
