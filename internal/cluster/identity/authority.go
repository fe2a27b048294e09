package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

const (
	// FileAuthorityKey is the authority's key, in the directory of the authority and of each node.
	FileAuthorityKey = "ca.key"
	// FileClientCertificate and FileClientKey belong to a client of the API.
	FileClientCertificate = "client.pem"
	FileClientKey         = "client.key"

	authorityLife   = 10 * 365 * 24 * time.Hour
	certificateLife = 5 * 365 * 24 * time.Hour
	// Certificates begin in the past: clocks of other machines are never quite the same.
	backdate = time.Hour
)

// Authority signs the certificates of one cluster.
type Authority struct {
	ClusterUUID string
	// Generation counts from 1; a new one takes the place of the one before.
	Generation uint64

	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	now  func() time.Time
}

// pair is a certificate with its key, PEM-encoded.
type pair struct{ cert, key []byte }

func newAuthority(uuid string, generation uint64, now func() time.Time) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	t, err := template(now(), authorityLife)
	if err != nil {
		return nil, err
	}
	t.Subject = pkix.Name{CommonName: "authority of cluster " + uuid, Organization: []string{"Holdfast"}}
	t.URIs = []*url.URL{{Scheme: "holdfast", Host: uuid, Path: "/authority", RawQuery: generationQuery(generation, 1)}}
	t.IsCA, t.BasicConstraintsValid, t.MaxPathLenZero = true, true, true
	t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &Authority{uuid, generation, cert, key, now}, err
}

func template(now time.Time, life time.Duration) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	return &x509.Certificate{SerialNumber: serial, NotBefore: now.Add(-backdate), NotAfter: now.Add(life)}, nil
}

func (a *Authority) issue(p Principal) (pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return pair{}, err
	}
	cert, err := a.Sign(p, key.Public())
	if err != nil {
		return pair{}, err
	}
	keyPEM, err := keyPEM(key)
	return pair{cert, keyPEM}, err
}

// Sign the public key of p and return its certificate, PEM. Its owner must have
// shown that it has the private one.
func (a *Authority) Sign(p Principal, public crypto.PublicKey) ([]byte, error) {
	if err := checkName(p.Name); err != nil {
		return nil, err
	}
	switch k := public.(type) {
	case *ecdsa.PublicKey:
		if k.Curve.Params().BitSize < 256 {
			return nil, errors.New("the key is too short: P-256 and longer ones are signed")
		}
	case ed25519.PublicKey:
	default:
		return nil, fmt.Errorf("keys of type %T are not signed: ECDSA and Ed25519 ones are", public)
	}
	p.ClusterUUID = a.ClusterUUID
	t, err := template(a.now(), certificateLife)
	if err != nil {
		return nil, err
	}
	if t.NotAfter.After(a.cert.NotAfter) {
		t.NotAfter = a.cert.NotAfter
	}
	t.Subject = pkix.Name{CommonName: p.Name, Organization: []string{"Holdfast"}, OrganizationalUnit: []string{string(p.Kind)}}
	t.URIs = []*url.URL{p.URI()}
	t.KeyUsage = x509.KeyUsageDigitalSignature
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if p.Kind == KindNode {
		t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, public, a.key)
	if err != nil {
		return nil, err
	}
	return certPEM(der), nil
}

// Fingerprint of an authority: SHA-256 of its public key.
func Fingerprint(authority *x509.Certificate) []byte {
	sum := sha256.Sum256(authority.RawSubjectPublicKeyInfo)
	return sum[:]
}

func certPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func keyPEM(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), err
}

// Write the authority into a new directory.
func (a *Authority) Write(dir string) error {
	key, err := keyPEM(a.key)
	if err != nil {
		return err
	}
	return writeDir(dir, map[string][]byte{FileAuthority: certPEM(a.cert.Raw), FileAuthorityKey: key}, nil)
}

// LoadAuthority reads the directory that Write has made.
func LoadAuthority(dir string) (*Authority, error) { return loadAuthorityAt(dir, time.Now) }

func loadAuthorityAt(dir string, now func() time.Time) (*Authority, error) {
	c, err := loadPair(dir, FileAuthority, FileAuthorityKey)
	if err != nil {
		return nil, err
	}
	return authorityOf(c, dir, now)
}

func authorityOf(c tls.Certificate, from string, now func() time.Time) (*Authority, error) {
	key, ok := c.PrivateKey.(*ecdsa.PrivateKey)
	if !ok || !c.Leaf.IsCA || len(c.Leaf.URIs) != 1 {
		return nil, fmt.Errorf("%w: %s is not the authority of a Holdfast cluster", ErrForeign, from)
	}
	if now().After(c.Leaf.NotAfter) {
		return nil, fmt.Errorf("%w: %s: the authority was valid until %s", ErrExpired, from, c.Leaf.NotAfter.Format(time.RFC3339))
	}
	generation, err := generationOf(c.Leaf.URIs[0], 1)
	return &Authority{c.Leaf.URIs[0].Host, generation, c.Leaf, key, now}, err
}

// WriteClient issues a certificate for a client of the API and writes it, its
// key and the authority's certificate into a new directory.
func (a *Authority) WriteClient(name, dir string) error {
	if err := checkName(name); err != nil {
		return err
	}
	p, err := a.issue(Principal{Kind: KindClient, Name: name})
	if err != nil {
		return err
	}
	return writeDir(dir, map[string][]byte{FileAuthority: certPEM(a.cert.Raw), FileClientCertificate: p.cert, FileClientKey: p.key}, nil)
}

// RenewNode issues a new certificate and key for a node into its state
// directory, in the place of the old ones. Its name must not have been given to
// another machine since (generation 0).
func (a *Authority) RenewNode(node, stateDir string) error {
	return a.renewNode(Principal{Kind: KindNode, Name: node}, stateDir)
}

// renewNode puts both into one file, so that they can't come apart (I4).
func (a *Authority) renewNode(p Principal, stateDir string) error {
	if err := checkName(p.Name); err != nil {
		return err
	}
	made, err := a.issue(p)
	if err != nil {
		return err
	}
	if err := replaceFile(filepath.Join(stateDir, FileCertificate), append(made.cert, made.key...), 0o600); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(stateDir, FileKey)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// LoadClient returns the TLS configuration of a client whose directory
// WriteClient has made. It refuses every server but nodes of its cluster.
func LoadClient(dir string) (*tls.Config, error) {
	c, err := loadPair(dir, FileClientCertificate, FileClientKey)
	if err != nil {
		return nil, err
	}
	p, err := principal(c.Leaf)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, FileClientCertificate), err)
	}
	t, err := loadTrust(dir, p.ClusterUUID, time.Now)
	if err != nil {
		return nil, err
	}
	if _, err := t.check(c.Leaf); err != nil {
		return nil, fmt.Errorf("%s: %w; ask the cluster's administrator for a new one", filepath.Join(dir, FileClientCertificate), err)
	}
	cfg := t.peerTLS(func() tls.Certificate { return c })
	cfg.VerifyConnection = func(cs tls.ConnectionState) error {
		_, err := t.PeerName(cs)
		return err
	}
	return cfg, nil
}

// writeDir makes a directory with everything in it, or nothing. Each file and
// the directory are private.
func writeDir(dir string, files map[string][]byte, more func(dir string) error) error {
	if _, err := os.Lstat(dir); err == nil {
		return fmt.Errorf("%s exists already; nothing was changed: move it away first: %w", dir, fs.ErrExist)
	}
	parent := filepath.Dir(filepath.Clean(dir))
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(parent, "."+filepath.Base(dir)+".new-")
	if err != nil {
		return err
	}
	err = func() error {
		for name, content := range files {
			if err := writeFile(filepath.Join(tmp, name), content, 0o600, os.O_EXCL); err != nil {
				return err
			}
		}
		if more != nil {
			if err := more(tmp); err != nil {
				return err
			}
		}
		if err := syncDir(tmp); err != nil {
			return err
		}
		// Unlike a file, a directory is only replaced by rename if it is empty.
		return os.Rename(tmp, dir)
	}()
	if err != nil {
		return errors.Join(err, os.RemoveAll(tmp))
	}
	return syncDir(parent)
}
