// Package testcluster makes clusters as an arbiter sees them, for measurements and tests.
package testcluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"net/url"
	"time"

	"github.com/holdfast-ha/holdfast/internal/cluster/witness/witnesspb"
)

// Cluster as an arbiter sees one: an authority, and nodes with its certificates.
type Cluster struct {
	UUID, Name string
	cert       *x509.Certificate
	key        *ecdsa.PrivateKey
}

// New cluster of this name.
func New(name string) (*Cluster, error) {
	id := make([]byte, 16)
	_, _ = rand.Read(id) // never fails
	c := &Cluster{UUID: hex.EncodeToString(id), Name: name}
	return c, c.NewAuthority()
}

// NewAuthority takes the place of the one before.
func (c *Cluster) NewAuthority() (err error) {
	if c.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return err
	}
	t := template("authority", "/authority", c.UUID, time.Hour)
	t.IsCA, t.BasicConstraintsValid, t.KeyUsage = true, true, x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, t, t, c.key.Public(), c.key)
	if err != nil {
		return err
	}
	c.cert, err = x509.ParseCertificate(der)
	return err
}

// Authority of the cluster, PEM.
func (c *Cluster) Authority() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.cert.Raw})
}

// Node shows a certificate that is valid for life from now on; a negative life has ended.
func (c *Cluster) Node(name string, life time.Duration) (*tls.Config, error) {
	return c.Holder("/node/"+name, life)
}

// Holder of a certificate with another path than a node's.
func (c *Cluster) Holder(path string, life time.Duration) (*tls.Config, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	t := template("holder", path, c.UUID, life)
	t.KeyUsage, t.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	der, err := x509.CreateCertificate(rand.Reader, t, c.cert, key.Public(), c.key)
	if err != nil {
		return nil, err
	}
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, nil
}

func template(name, path, uuid string, life time.Duration) *x509.Certificate {
	serial := make([]byte, 15)
	_, _ = rand.Read(serial)
	return &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial), Subject: pkix.Name{CommonName: name, Organization: []string{"Holdfast"}},
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(life),
		URIs: []*url.URL{{Scheme: "holdfast", Host: uuid, Path: path}},
	}
}

// Request of a node with raft id 1 in register 1.
func (c *Cluster) Request(node string) *witnesspb.Request {
	return &witnesspb.Request{Cluster: c.UUID, Register: 1, Node: node, RaftId: 1}
}

// Look of a node.
func (c *Cluster) Look(node string) *witnesspb.Request {
	r := c.Request(node)
	r.Body = &witnesspb.Request_Look{Look: &witnesspb.Look{}}
	return r
}

// Prepare a ballot.
func (c *Cluster) Prepare(node string, counter uint64) *witnesspb.Request {
	r := c.Request(node)
	r.Body = &witnesspb.Request_Prepare{Prepare: &witnesspb.Prepare{Ballot: &witnesspb.Ballot{Counter: counter, Proposer: 1}}}
	return r
}

// Accept a vote for raft id vote in the given term, and promise the next ballot.
func (c *Cluster) Accept(node string, counter, term, vote uint64) *witnesspb.Request {
	r := c.Request(node)
	r.Body = &witnesspb.Request_Accept{Accept: &witnesspb.Accept{
		Ballot: &witnesspb.Ballot{Counter: counter, Proposer: 1}, Next: &witnesspb.Ballot{Counter: counter, Proposer: 1},
		Value: &witnesspb.Register{Term: term, Vote: vote, LastIndex: 100, Commit: 90, Runs: []*witnesspb.Run{{FirstIndex: 1, Term: 1}}},
	}}
	return r
}
