// Package identity says who a node is: its name, its cluster, the keys that
// prove both, and the state directory that holds them.
//
// [Init] makes a cluster. It is the only place that bootstraps a log: all nodes
// begin with the same snapshot at index 1, and whoever comes later joins.
// [Load] reads what a node has, and refuses anything that does not fit together.
//
//	I1  the authority's key is where init ran and in the state directories of nodes, and
//	    leaves them only towards nodes and invited machines; any node can therefore sign
//	I2  who is at the other end of a connection follows from its certificate
//	    alone: the authority's signature, the cluster's uuid and the name in it
//	I3  files that hold secrets are readable by their owner only, or refused
//	I4  what replaces certificates and keys is in place as a whole or not at all, after a crash too
//
// The directory is described in docs/formats/statedir.md.
package identity

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

// Files of a state directory.
const (
	FileIdentity    = "identity.json"
	FileNodes       = "nodes.json"
	FileAuthority   = "ca.pem"
	FileCertificate = "node.pem"
	FileKey         = "node.key"
	FileSecret      = "cluster.key"
	FileLog         = "raft.db"
	// DirEvents holds the events that the node has kept.
	DirEvents = "events"
)

// SecretSize is the length of the heartbeat secret in bytes.
const SecretSize = 32

const format = 1

// Classes of errors. Each error's text names the file and says what to do.
var (
	// ErrNoIdentity: the directory holds no identity at all.
	ErrNoIdentity = errors.New("this node is in no cluster")
	// ErrIncomplete: a file is missing or can't be understood.
	ErrIncomplete = errors.New("state directory is incomplete")
	// ErrPermissions: somebody else could read or change a secret.
	ErrPermissions = errors.New("wrong permissions")
	// ErrForeign: a certificate is of another cluster, or of another node.
	ErrForeign = errors.New("certificate of another cluster or node")
	// ErrExpired: a certificate is not valid at this time.
	ErrExpired = errors.New("certificate is not valid now")
	// ErrRevoked: the name was taken from the holder.
	ErrRevoked = errors.New("certificate was taken back")
)

// Identity of a node.
type Identity struct {
	// Dir is the state directory.
	Dir         string
	Node        string
	ClusterName string
	ClusterUUID string
	// Nodes of the cluster as this node knew them last, itself included, sorted by name.
	Nodes []*v1.Node
	// Lineage of the cluster that this node belongs to; empty: the first one.
	Lineage string
	// Secret of the heartbeats as it was when this was loaded; Keys has all.
	Secret []byte

	trust
}

// file is identity.json.
type file struct {
	Format      int    `json:"format"`
	Node        string `json:"node"`
	ClusterName string `json:"cluster_name"`
	ClusterUUID string `json:"cluster_uuid"`
	Lineage     string `json:"lineage,omitempty"`
}

// Load reads a node's identity and checks that everything fits together and
// that the certificate is valid now.
func Load(dir string) (*Identity, error) { return LoadAt(dir, time.Now) }

// LoadAt is Load with another clock, which also judges the peers' certificates.
func LoadAt(dir string, now func() time.Time) (*Identity, error) {
	raw, err := os.ReadFile(filepath.Join(dir, FileIdentity))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s does not exist; run holdfast cluster init, or put here the directory that it made for this node", ErrNoIdentity, filepath.Join(dir, FileIdentity))
	}
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	var f file
	if err := strictJSON(raw, &f); err != nil {
		return nil, incomplete(dir, FileIdentity, err.Error())
	}
	switch {
	case f.Format > format:
		return nil, incomplete(dir, FileIdentity, fmt.Sprintf("it has format %d, this version knows up to %d: run the version of holdfast that wrote it, or a later one", f.Format, format))
	case f.Format < 1 || f.Node == "" || f.ClusterUUID == "":
		return nil, incomplete(dir, FileIdentity, "format, node and cluster_uuid must be set")
	}
	id := &Identity{Dir: dir, Node: f.Node, ClusterName: f.ClusterName, ClusterUUID: f.ClusterUUID, Lineage: f.Lineage}
	if id.Nodes, err = loadNodes(dir); err != nil {
		return nil, err
	}
	if id.Self() == nil {
		return nil, incomplete(dir, FileNodes, fmt.Sprintf("node %s is not among its nodes", f.Node))
	}
	if err := settle(dir); err != nil {
		return nil, err
	}
	keys, err := id.Keys()
	if err != nil {
		return nil, err
	}
	id.Secret = keys.Current.Secret
	if id.trust, err = loadTrust(dir, f.ClusterUUID, now); err != nil {
		return nil, err
	}
	certificate, err := loadPair(dir, FileCertificate, FileKey)
	if err != nil {
		return nil, err
	}
	id.certificate = certificate
	p, err := id.check(certificate.Leaf)
	if err == nil && (p.Kind != KindNode || p.Name != f.Node) {
		err = fmt.Errorf("%w: it is of %s, not of node %q", ErrForeign, p, f.Node)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w; put back the certificate and key that the cluster's authority issued for this node", filepath.Join(dir, FileCertificate), err)
	}
	return id, nil
}

// Self is this node among Nodes, nil if it is not one of them any more.
func (id *Identity) Self() *v1.Node {
	for _, n := range id.Nodes {
		if n.GetName() == id.Node {
			return n
		}
	}
	return nil
}

// Expires says when the node's certificate ends.
func (id *Identity) Expires() time.Time { return id.own().Leaf.NotAfter }

// LogPath of the raft log.
func (id *Identity) LogPath() string { return filepath.Join(id.Dir, FileLog) }

// SaveNodes keeps the cluster's nodes for a start without a log. Nodes of this
// Identity stay as they were loaded.
func (id *Identity) SaveNodes(nodes []*v1.Node) error {
	raw, err := EncodeNodes(nodes)
	if err != nil {
		return err
	}
	if err := replaceFile(filepath.Join(id.Dir, FileNodes), raw, 0o600); err != nil {
		return fmt.Errorf("keep the nodes' addresses: %w", err)
	}
	return nil
}

// EncodeNodes as nodes.json has them.
func EncodeNodes(nodes []*v1.Node) ([]byte, error) {
	raw, err := protojson.Marshal(&v1.Configuration{Nodes: nodes})
	if err != nil {
		return nil, err
	}
	// protojson varies its white space on purpose.
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		return nil, err
	}
	raw, err = json.MarshalIndent(v, "", "  ")
	return append(raw, '\n'), err
}

func loadNodes(dir string) ([]*v1.Node, error) {
	raw, err := os.ReadFile(filepath.Join(dir, FileNodes))
	if err != nil {
		return nil, incomplete(dir, FileNodes, err.Error())
	}
	c := new(v1.Configuration)
	if err := protojson.Unmarshal(raw, c); err != nil {
		return nil, incomplete(dir, FileNodes, err.Error())
	}
	return c.GetNodes(), nil
}

func strictJSON(raw []byte, v any) error {
	d := json.NewDecoder(strings.NewReader(string(raw)))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if d.More() {
		return errors.New("something follows after the object")
	}
	return nil
}

func incomplete(dir, name, why string) error {
	return fmt.Errorf("%w: %s: %s; put back the file that holdfast cluster init made for this node", ErrIncomplete, filepath.Join(dir, name), why)
}

// secretFile reads a file that nobody else may read (I3).
func secretFile(dir, name string) ([]byte, error) {
	path := filepath.Join(dir, name)
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, incomplete(dir, name, err.Error())
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, incomplete(dir, name, err.Error())
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%w: %s has mode %04o, so others may read it: chmod 600 %s, and replace the key if they should not know it", ErrPermissions, path, info.Mode().Perm(), path)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return nil, fmt.Errorf("%w: %s belongs to user %d: chown %d %s", ErrPermissions, path, st.Uid, os.Geteuid(), path)
	}
	b, err := io.ReadAll(io.LimitReader(f, 1<<20))
	if err != nil {
		return nil, incomplete(dir, name, err.Error())
	}
	return b, nil
}

// loadPair of a certificate and its key, which is in the same file if it was renewed (I4).
func loadPair(dir, certName, keyName string) (tls.Certificate, error) {
	certPEM, err := os.ReadFile(filepath.Join(dir, certName))
	if err != nil {
		return tls.Certificate{}, incomplete(dir, certName, err.Error())
	}
	if bytes.Contains(certPEM, []byte("PRIVATE KEY")) {
		keyName = certName
	}
	keyPEM, err := secretFile(dir, keyName)
	if err != nil {
		return tls.Certificate{}, err
	}
	c, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return c, fmt.Errorf("%w: %s and %s: %w; put back the pair that was issued for this node", ErrIncomplete, filepath.Join(dir, certName), keyName, err)
	}
	if c.Leaf == nil {
		c.Leaf, err = x509.ParseCertificate(c.Certificate[0])
	}
	return c, err
}

// loadCertificates of a file, at least one.
func loadCertificates(dir, name string) ([]*x509.Certificate, error) {
	raw, err := os.ReadFile(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w (%w)", incomplete(dir, name, "it does not exist"), fs.ErrNotExist)
	}
	if err != nil {
		return nil, incomplete(dir, name, err.Error())
	}
	var all []*x509.Certificate
	for block, rest := pem.Decode(raw); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, incomplete(dir, name, err.Error())
		}
		all = append(all, c)
	}
	if len(all) == 0 {
		return nil, incomplete(dir, name, "it holds no certificate")
	}
	return all, nil
}

// replaceFile writes a file as a whole, so that a crash leaves the old or the new one.
func replaceFile(path string, content []byte, mode fs.FileMode) error {
	tmp := path + ".new"
	if err := writeFile(tmp, content, mode, os.O_TRUNC); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func writeFile(path string, content []byte, mode fs.FileMode, flag int) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|flag, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
