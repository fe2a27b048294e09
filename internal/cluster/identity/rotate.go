package identity

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// What comes before and after while a secret is being replaced. Each file is
// complete in itself, and each step is one rename (I4).
const (
	fileNextSecret    = "cluster.key.next"
	fileOldSecret     = "cluster.key.old"
	fileNextAuthority = "ca-next.pem" // certificate and key
	fileOldAuthority  = "ca-old.pem"
)

// Key is one generation of the heartbeats' secret.
type Key struct {
	Generation uint64
	Secret     []byte
}

// Fingerprint by which the log names a key.
func (k Key) Fingerprint() []byte {
	sum := sha256.Sum256(append([]byte("holdfast heartbeat key\x00"), k.Secret...))
	return sum[:]
}

// Keys of the heartbeats. All are accepted, Current is sent with.
type Keys struct {
	Current Key
	// Generation 0: there is none.
	Next, Old Key
}

// NewKey makes one.
func NewKey(generation uint64) (Key, error) {
	k := Key{generation, make([]byte, SecretSize)}
	_, err := rand.Read(k.Secret)
	return k, err
}

// encode: the secret, then from the second generation on its number.
func (k Key) encode() []byte {
	if k.Generation <= 1 {
		return k.Secret
	}
	return binary.BigEndian.AppendUint64(bytes.Clone(k.Secret), k.Generation)
}

func loadKey(dir, name string) (Key, error) {
	raw, err := secretFile(dir, name)
	if err != nil {
		return Key{}, err
	}
	switch len(raw) {
	case SecretSize:
		return Key{1, raw}, nil
	case SecretSize + 8:
		return Key{binary.BigEndian.Uint64(raw[SecretSize:]), raw[:SecretSize]}, nil
	}
	return Key{}, incomplete(dir, name, fmt.Sprintf("%d bytes, %d expected", len(raw), SecretSize))
}

// LoadKeys of the heartbeats from a state directory.
func LoadKeys(dir string) (Keys, error) {
	var ks Keys
	var err error
	if ks.Current, err = loadKey(dir, FileSecret); err != nil {
		return ks, err
	}
	for name, k := range map[string]*Key{fileNextSecret: &ks.Next, fileOldSecret: &ks.Old} {
		if _, err := os.Lstat(filepath.Join(dir, name)); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if *k, err = loadKey(dir, name); err != nil {
			return ks, err
		}
	}
	return ks, nil
}

// Keys of the heartbeats as they are on disk.
func (id *Identity) Keys() (Keys, error) { return LoadKeys(id.Dir) }

// settle what a crash between two renames has left.
func settle(dir string) error {
	_, err := os.Lstat(filepath.Join(dir, FileSecret))
	_, nerr := os.Lstat(filepath.Join(dir, fileNextSecret))
	if errors.Is(err, fs.ErrNotExist) && nerr == nil {
		return rename(dir, fileNextSecret, FileSecret)
	}
	return nil
}

func rename(dir, from, to string) error {
	if err := os.Rename(filepath.Join(dir, from), filepath.Join(dir, to)); err != nil {
		return err
	}
	return syncDir(dir)
}

func remove(dir, name string) error {
	if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return syncDir(dir)
}

// KeepKey as the next one: accepted, not yet sent with.
func (id *Identity) KeepKey(k Key) error {
	return replaceFile(filepath.Join(id.Dir, fileNextSecret), k.encode(), 0o600)
}

// UseKey makes the next one the current one; the one before is still accepted.
func (id *Identity) UseKey() error {
	if err := rename(id.Dir, FileSecret, fileOldSecret); err != nil {
		return err
	}
	return rename(id.Dir, fileNextSecret, FileSecret)
}

// ForgetKeys but the current one.
func (id *Identity) ForgetKeys() error {
	return errors.Join(remove(id.Dir, fileOldSecret), remove(id.Dir, fileNextSecret))
}

// Authority of this node. Fails if this node has no key of it.
func (id *Identity) Authority() (*Authority, error) {
	key, err := secretFile(id.Dir, FileAuthorityKey)
	if err != nil {
		return nil, fmt.Errorf("this node can't sign certificates: %w", err)
	}
	// Between the two steps of UseAuthority the key is newer than the certificate beside it.
	for _, name := range []string{FileAuthority, fileNextAuthority} {
		cert, err := os.ReadFile(filepath.Join(id.Dir, name))
		if err != nil {
			continue
		}
		if c, err := tls.X509KeyPair(cert, key); err == nil {
			if c.Leaf, err = x509.ParseCertificate(c.Certificate[0]); err != nil {
				return nil, err
			}
			return authorityOf(c, id.Dir, id.now)
		}
	}
	return nil, incomplete(id.Dir, FileAuthorityKey, "it is not the key of the authority beside it")
}

// Authorities that are trusted: their newest generation, and the one that has
// signed this node's certificate; both 0 if that can't be told.
func (id *Identity) Authorities() (newest, signer uint64) {
	id.live.mu.RLock()
	defer id.live.mu.RUnlock()
	for _, ca := range id.authorities {
		g, err := generationOf(ca.URIs[0], 1)
		if err != nil {
			continue
		}
		newest = max(newest, g)
		if id.certificate.Leaf.CheckSignatureFrom(ca) == nil {
			signer = g
		}
	}
	return newest, signer
}

// Trusts is how many authorities are trusted.
func (id *Identity) Trusts() int {
	id.live.mu.RLock()
	defer id.live.mu.RUnlock()
	return len(id.authorities)
}

// AuthorityCertificate is that of the authority that signs here.
func (id *Identity) AuthorityCertificate() *x509.Certificate {
	id.live.mu.RLock()
	defer id.live.mu.RUnlock()
	return id.authorities[0]
}

// AuthoritiesPEM are the certificates of all that are trusted.
func (id *Identity) AuthoritiesPEM() []byte {
	id.live.mu.RLock()
	defer id.live.mu.RUnlock()
	var all []byte
	for _, ca := range id.authorities {
		all = append(all, certPEM(ca.Raw)...)
	}
	return all
}

// NextAuthority makes the one that takes this one's place.
func (id *Identity) NextAuthority(generation uint64) (*Authority, error) {
	return newAuthority(id.ClusterUUID, generation, id.now)
}

// Certificate of the authority, DER.
func (a *Authority) Certificate() []byte { return a.cert.Raw }

// Key of the authority, PEM.
func (a *Authority) Key() ([]byte, error) { return keyPEM(a.key) }

// ParseAuthority of which another node has sent the key.
func (id *Identity) ParseAuthority(certificate, key []byte) (*Authority, error) {
	c, err := tls.X509KeyPair(certPEM(certificate), key)
	if err != nil {
		return nil, fmt.Errorf("identity: a new authority: %w", err)
	}
	if c.Leaf, err = x509.ParseCertificate(c.Certificate[0]); err != nil {
		return nil, err
	}
	a, err := authorityOf(c, "what was sent", id.now)
	if err == nil && a.ClusterUUID != id.ClusterUUID {
		err = fmt.Errorf("%w: a new authority of cluster %s", ErrForeign, a.ClusterUUID)
	}
	return a, err
}

// NextAuthorityKept is the next authority, if there is one here.
func (id *Identity) NextAuthorityKept() (*Authority, error) {
	c, err := loadPair(id.Dir, fileNextAuthority, fileNextAuthority)
	if err != nil {
		return nil, err
	}
	return authorityOf(c, filepath.Join(id.Dir, fileNextAuthority), id.now)
}

// KeepAuthority as the next one: trusted, not yet used.
func (id *Identity) KeepAuthority(a *Authority) error {
	key, err := keyPEM(a.key)
	if err != nil {
		return err
	}
	if err := replaceFile(filepath.Join(id.Dir, fileNextAuthority), append(certPEM(a.cert.Raw), key...), 0o600); err != nil {
		return err
	}
	return id.reload()
}

// UseAuthority makes the next one the one that signs, and renews this node's
// certificate by it. The one before is still trusted.
func (id *Identity) UseAuthority() error {
	if _, err := os.Lstat(filepath.Join(id.Dir, fileNextAuthority)); err == nil {
		if err := id.promoteAuthority(); err != nil {
			return err
		}
	}
	if err := id.reload(); err != nil {
		return err
	}
	return id.Renew()
}

// promoteAuthority: whatever step a crash follows, the key fits one of the certificates, and all are trusted.
func (id *Identity) promoteAuthority() error {
	next, err := id.NextAuthorityKept()
	if err != nil {
		return err
	}
	key, err := keyPEM(next.key)
	if err != nil {
		return err
	}
	old, err := os.ReadFile(filepath.Join(id.Dir, FileAuthority))
	if err != nil {
		return err
	}
	if !bytes.Equal(old, certPEM(next.cert.Raw)) {
		if err := replaceFile(filepath.Join(id.Dir, fileOldAuthority), old, 0o600); err != nil {
			return err
		}
	}
	if err := replaceFile(filepath.Join(id.Dir, FileAuthorityKey), key, 0o600); err != nil {
		return err
	}
	if err := replaceFile(filepath.Join(id.Dir, FileAuthority), certPEM(next.cert.Raw), 0o600); err != nil {
		return err
	}
	return remove(id.Dir, fileNextAuthority)
}

// ForgetAuthorities but the one that signs.
func (id *Identity) ForgetAuthorities() error {
	if err := errors.Join(remove(id.Dir, fileOldAuthority), remove(id.Dir, fileNextAuthority)); err != nil {
		return err
	}
	return id.reload()
}

// Renew this node's certificate and key. Connections that are made from now on use it.
func (id *Identity) Renew() error {
	a, err := id.Authority()
	if err != nil {
		return err
	}
	p, err := principal(id.own().Leaf)
	if err != nil {
		return err
	}
	if err := a.renewNode(p, id.Dir); err != nil {
		return err
	}
	return id.reload()
}

// reload what is on disk now.
func (id *Identity) reload() error {
	authorities, err := loadAuthorities(id.Dir, id.ClusterUUID)
	if err != nil {
		return err
	}
	c, err := loadPair(id.Dir, FileCertificate, FileKey)
	if err != nil {
		return err
	}
	id.trustIn(authorities)
	id.live.mu.Lock()
	defer id.live.mu.Unlock()
	id.certificate = c
	return nil
}
