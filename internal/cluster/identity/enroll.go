package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// Applicant is a machine that has no identity yet: a key of its own and a
// certificate that it has signed itself, to prove that it has the key.
type Applicant struct {
	key  *ecdsa.PrivateKey
	cert tls.Certificate
}

// NewApplicant makes a key.
func NewApplicant() (*Applicant, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	t, err := template(time.Now(), 24*time.Hour)
	if err != nil {
		return nil, err
	}
	t.Subject = pkix.Name{CommonName: "applicant", Organization: []string{"Holdfast"}}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return &Applicant{key, tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}}, nil
}

// TLS towards a member of the cluster whose authority has this fingerprint. The
// handshake fails with anybody else.
func (a *Applicant) TLS(clusterUUID string, authority []byte) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{a.cert}, SessionTicketsDisabled: true,
		InsecureSkipVerify: true, // a node is known by its name, not by a host's
		VerifyConnection: func(cs tls.ConnectionState) error {
			if len(cs.PeerCertificates) < 2 {
				return fmt.Errorf("%w: it does not show its authority", ErrForeign)
			}
			for _, ca := range cs.PeerCertificates[1:] {
				if string(Fingerprint(ca)) != string(authority) {
					continue
				}
				pool := x509.NewCertPool()
				pool.AddCert(ca)
				t := trust{uuid: clusterUUID, now: time.Now, live: &live{roots: pool}}
				_, err := t.PeerName(cs)
				return err
			}
			return fmt.Errorf("%w: it shows another authority than the token names", ErrForeign)
		},
	}
}

// Enrolled is what a member gives to a machine that joins.
type Enrolled struct {
	Node, ClusterName, ClusterUUID, Lineage string
	// PEM.
	Certificate, Authority, AuthorityKey []byte
	Key                                  Key
	// nodes.json.
	Nodes []byte
	// The first incarnation of its guard is above this: that of an earlier machine of the name was lower.
	GuardIncarnation uint64
}

// Write the state directory of the new node. dir must not exist, or be empty.
func (a *Applicant) Write(dir string, e Enrolled) error {
	id, err := json.MarshalIndent(file{Format: format, Node: e.Node, ClusterName: e.ClusterName, ClusterUUID: e.ClusterUUID, Lineage: e.Lineage}, "", "  ")
	if err != nil {
		return err
	}
	key, err := keyPEM(a.key)
	if err != nil {
		return err
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) { // only an empty one can be
		return fmt.Errorf("%s is not empty: this machine may be a node already; nothing was changed", dir)
	}
	files := map[string][]byte{
		FileIdentity: append(id, '\n'), FileNodes: e.Nodes, FileSecret: e.Key.encode(),
		FileAuthority: firstPEM(e.Authority), FileAuthorityKey: e.AuthorityKey, FileCertificate: e.Certificate, FileKey: key,
		fileIncarnation: []byte(strconv.FormatUint(e.GuardIncarnation, 10) + "\n"),
	}
	if more := e.Authority[len(firstPEM(e.Authority)):]; len(more) > 0 {
		files[fileOldAuthority] = more // trusted, while they are being replaced
	}
	return writeDir(dir, files, func(tmp string) error {
		_, err := Load(tmp)
		return err
	})
}

func firstPEM(all []byte) []byte {
	_, rest := pem.Decode(all)
	return all[:len(all)-len(rest)]
}

// fileIncarnation is guard's (docs/formats/guard.md).
const fileIncarnation = "guard.incarnation"

// NodesFile is nodes.json as this node has it.
func (id *Identity) NodesFile() ([]byte, error) {
	return os.ReadFile(filepath.Join(id.Dir, FileNodes))
}

// Wipe the identity of a node that is in no cluster any more: keys,
// certificates, log. The directory and what does not belong to Holdfast stay.
func Wipe(dir string) error {
	var all error
	for _, name := range []string{
		FileIdentity, FileSecret, fileNextSecret, fileOldSecret, FileAuthorityKey, fileNextAuthority, fileOldAuthority, FileAuthority,
		FileKey, FileCertificate, FileLog, FileNodes, fileIncarnation,
	} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			all = errors.Join(all, err)
		}
	}
	all = errors.Join(all, os.RemoveAll(filepath.Join(dir, DirEvents)))
	return errors.Join(all, syncDir(dir))
}
