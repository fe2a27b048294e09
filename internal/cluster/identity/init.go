package identity

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/logstore"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
)

// NodesMax is how many nodes a cluster may have.
const NodesMax = 64

// Spec of a new cluster.
type Spec struct {
	// Configuration to begin with, checked by package config. Its uuid must be empty.
	Configuration *v1.Configuration
	// Now tells the time; nil: the clock.
	Now func() time.Time
}

// Plan is a cluster that has been made but not written anywhere.
type Plan struct {
	Configuration *v1.Configuration
	Authority     *Authority

	secret   []byte
	nodes    []*v1.Node
	pairs    map[string]pair
	raftIDs  map[string]uint64
	lineage  string
	snapshot *raftpb.Snapshot
}

// Init makes a cluster: uuid, authority, a certificate for each node, the
// heartbeats' secret, and the log that all nodes begin with.
func Init(spec Spec) (*Plan, error) {
	if spec.Now == nil {
		spec.Now = time.Now
	}
	cfg := proto.CloneOf(spec.Configuration)
	if err := checkConfiguration(cfg); err != nil {
		return nil, fmt.Errorf("make a cluster: %w", err)
	}
	secrets := make([]byte, 16+SecretSize)
	if _, err := rand.Read(secrets); err != nil {
		return nil, err
	}
	cfg.Cluster.Uuid = hex.EncodeToString(secrets[:16])
	slices.SortFunc(cfg.Nodes, func(a, b *v1.Node) int { return strings.Compare(a.GetName(), b.GetName()) })
	s, err := state.Initial(cfg)
	if err != nil {
		return nil, fmt.Errorf("make a cluster: %w", err)
	}
	a, err := newAuthority(cfg.Cluster.Uuid, 1, spec.Now)
	if err != nil {
		return nil, fmt.Errorf("make the cluster's authority: %w", err)
	}
	p := &Plan{Configuration: cfg, Authority: a, secret: secrets[16:], nodes: cfg.Nodes, pairs: map[string]pair{}, raftIDs: map[string]uint64{}}
	conf := &raftpb.ConfState{AutoLeave: new(false)}
	for i, n := range cfg.Nodes {
		conf.Voters = append(conf.Voters, uint64(i)+1)
		p.raftIDs[n.GetName()] = uint64(i) + 1
		if p.pairs[n.GetName()], err = a.issue(Principal{Kind: KindNode, Name: n.GetName()}); err != nil {
			return nil, fmt.Errorf("make the certificate of node %s: %w", n.GetName(), err)
		}
	}
	p.snapshot = &raftpb.Snapshot{
		Data:     state.Marshal(s),
		Metadata: &raftpb.SnapshotMetadata{Index: new(uint64(1)), Term: new(uint64(1)), ConfState: conf},
	}
	return p, nil
}

func checkConfiguration(cfg *v1.Configuration) error {
	switch {
	case cfg.GetCluster().GetName() == "":
		return errors.New("the cluster has no name: add a Cluster document with a name")
	case cfg.GetCluster().GetUuid() != "":
		return errors.New("the configuration has a cluster uuid already: leave it out, init makes a new one")
	case len(cfg.GetNodes()) == 0:
		return errors.New("there are no nodes: add a Node document for each machine")
	case len(cfg.GetNodes()) > NodesMax:
		return fmt.Errorf("there are %d nodes, at most %d are possible", len(cfg.GetNodes()), NodesMax)
	}
	for _, n := range cfg.GetNodes() {
		if err := checkName(n.GetName()); err != nil {
			return err
		}
		if len(n.GetLinks()) == 0 {
			return fmt.Errorf("node %s has no links: give it an address", n.GetName())
		}
	}
	return nil
}

// checkName refuses what can't be a part of a path and of a URI.
func checkName(name string) error {
	ok := name != "" && len(name) <= 64 && !strings.HasPrefix(name, ".") && !strings.HasPrefix(name, "-")
	for _, r := range name {
		ok = ok && (r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r == '.')
	}
	if !ok {
		return fmt.Errorf("%q can't be a name: take up to 64 letters, digits, hyphens, underscores and dots, beginning with a letter or digit", name)
	}
	return nil
}

// Nodes of the new cluster, sorted by name.
func (p *Plan) Nodes() []string {
	var names []string
	for _, n := range p.nodes {
		names = append(names, n.GetName())
	}
	return names
}

// WriteNodeDirs writes out/NODE for each node, ready to become that node's
// state directory. It changes nothing if one of them exists.
func (p *Plan) WriteNodeDirs(out string) error {
	for _, n := range p.Nodes() {
		if _, err := os.Lstat(filepath.Join(out, n)); err == nil {
			return fmt.Errorf("%s exists already; nothing was changed: choose another directory or move it away: %w", filepath.Join(out, n), fs.ErrExist)
		}
	}
	for i, n := range p.Nodes() {
		if err := p.WriteNodeDir(n, filepath.Join(out, n)); err != nil {
			for _, done := range p.Nodes()[:i] {
				err = errors.Join(err, os.RemoveAll(filepath.Join(out, done)))
			}
			return err
		}
	}
	return nil
}

// WriteNodeDir writes the state directory of one node to dir, which must not exist.
func (p *Plan) WriteNodeDir(node, dir string) error {
	raftID := p.raftIDs[node]
	if raftID == 0 {
		return fmt.Errorf("node %q is not among those that this cluster begins with", node)
	}
	c := p.Configuration.GetCluster()
	id, err := json.MarshalIndent(file{Format: format, Node: node, ClusterName: c.GetName(), ClusterUUID: c.GetUuid(), Lineage: p.lineage}, "", "  ")
	if err != nil {
		return err
	}
	nodes, err := EncodeNodes(p.nodes)
	if err != nil {
		return err
	}
	authorityKey, err := keyPEM(p.Authority.key)
	if err != nil {
		return err
	}
	files := map[string][]byte{
		FileAuthorityKey: authorityKey,
		FileIdentity:     append(id, '\n'), FileNodes: nodes, FileSecret: p.secret,
		FileAuthority: certPEM(p.Authority.cert.Raw), FileCertificate: p.pairs[node].cert, FileKey: p.pairs[node].key,
	}
	err = writeDir(dir, files, func(tmp string) error {
		return logstore.Create(filepath.Join(tmp, FileLog), logstore.Owner{ClusterUUID: c.GetUuid(), Node: node}, logstore.Saved{
			RaftID:    raftID,
			HardState: &raftpb.HardState{Term: new(uint64(1)), Vote: new(uint64(0)), Commit: new(uint64(1))},
			Snapshot:  p.snapshot,
		})
	})
	if err != nil {
		return fmt.Errorf("write the state directory of node %s: %w", node, err)
	}
	return nil
}
