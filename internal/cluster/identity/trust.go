package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Kind of a certificate's holder.
type Kind string

const (
	// KindNode is a node of the cluster.
	KindNode Kind = "node"
	// KindClient is a person or a program that uses the API from elsewhere.
	KindClient Kind = "client"
)

// Principal is who holds a certificate.
type Principal struct {
	Kind        Kind
	Name        string
	ClusterUUID string
	// Generation of the certificate: earlier ones are refused once the name was given to somebody else.
	Generation uint64
}

func (p Principal) String() string {
	return fmt.Sprintf("%s %q of cluster %s", p.Kind, p.Name, p.ClusterUUID)
}

// URI as certificates carry it: holdfast://UUID/node/NAME, and ?generation=2 from the second generation on.
func (p Principal) URI() *url.URL {
	return &url.URL{Scheme: "holdfast", Host: p.ClusterUUID, Path: "/" + string(p.Kind) + "/" + p.Name, RawQuery: generationQuery(p.Generation, 0)}
}

// generationQuery is left out for the first generation.
func generationQuery(generation, first uint64) string {
	if generation <= first {
		return ""
	}
	return "generation=" + strconv.FormatUint(generation, 10)
}

func generationOf(u *url.URL, first uint64) (uint64, error) {
	if u.RawQuery == "" {
		return first, nil
	}
	number, ok := strings.CutPrefix(u.RawQuery, "generation=")
	g, err := strconv.ParseUint(number, 10, 64)
	if !ok || err != nil || g <= first {
		return 0, fmt.Errorf("%w: it is for %q", ErrForeign, u)
	}
	return g, nil
}

// principal of a certificate, whoever has signed it.
func principal(c *x509.Certificate) (Principal, error) {
	for _, u := range c.URIs {
		if u.Scheme != "holdfast" {
			continue
		}
		kind, name, ok := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
		if !ok || name == "" || strings.Contains(name, "/") || (kind != string(KindNode) && kind != string(KindClient)) {
			return Principal{}, fmt.Errorf("%w: it is for %q", ErrForeign, u)
		}
		g, err := generationOf(u, 0)
		return Principal{Kind(kind), name, u.Host, g}, err
	}
	return Principal{}, fmt.Errorf("%w: it names no holder in a Holdfast cluster (subject %q)", ErrForeign, c.Subject)
}

// trust is what judges certificates: one cluster's authority, or two of them
// while one takes the place of the other.
type trust struct {
	uuid string
	now  func() time.Time
	*live
}

// live is what changes while connections are being made.
type live struct {
	mu          sync.RWMutex
	authorities []*x509.Certificate // the one that signs first
	roots       *x509.CertPool
	refused     map[string]uint64 // lowest generation that is accepted, by "kind/name"
	certificate tls.Certificate   // of this node
}

func (l *live) trustIn(authorities []*x509.Certificate) {
	pool := x509.NewCertPool()
	for _, ca := range authorities {
		pool.AddCert(ca)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.authorities, l.roots = authorities, pool
}

func (l *live) pool() *x509.CertPool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.roots
}

func (l *live) own() tls.Certificate {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.certificate
}

func (l *live) lowest(p Principal) uint64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.refused[string(p.Kind)+"/"+p.Name]
}

// Refuse certificates whose generation is below the one that is given for
// their holder, by "node/NAME" or "client/NAME".
func (t *trust) Refuse(below map[string]uint64) {
	t.live.mu.Lock()
	defer t.live.mu.Unlock()
	t.refused = maps.Clone(below)
}

func loadTrust(dir, uuid string, now func() time.Time) (trust, error) {
	t := trust{uuid: uuid, now: now, live: &live{}}
	authorities, err := loadAuthorities(dir, uuid)
	if err == nil {
		t.trustIn(authorities)
	}
	return t, err
}

// loadAuthorities that are trusted, the one that signs first.
func loadAuthorities(dir, uuid string) ([]*x509.Certificate, error) {
	var all []*x509.Certificate
	for _, name := range []string{FileAuthority, fileNextAuthority, fileOldAuthority} {
		cas, err := loadCertificates(dir, name)
		if errors.Is(err, fs.ErrNotExist) && name != FileAuthority {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, ca := range cas {
			if !ca.IsCA || len(ca.URIs) != 1 || ca.URIs[0].Host != uuid {
				return nil, fmt.Errorf("%s/%s: %w: it is not the certificate of the authority of cluster %s", dir, name, ErrForeign, uuid)
			}
			if !slices.ContainsFunc(all, ca.Equal) {
				all = append(all, ca)
			}
		}
	}
	return all, nil
}

// check a certificate: of this cluster, signed by its authority, valid now.
func (t *trust) check(c *x509.Certificate) (Principal, error) {
	p, err := principal(c)
	if err != nil {
		return p, err
	}
	if p.ClusterUUID != t.uuid {
		return p, fmt.Errorf("%w: it is of %s, this is cluster %s", ErrForeign, p, t.uuid)
	}
	now := t.now()
	_, err = c.Verify(x509.VerifyOptions{Roots: t.pool(), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	var invalid x509.CertificateInvalidError
	switch {
	case err == nil && p.Generation < t.lowest(p):
		return p, fmt.Errorf("%w: certificate of %s: it was taken back (generation %d, accepted are %d and later)", ErrRevoked, p, p.Generation, t.lowest(p))
	case err == nil:
		return p, nil
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		when := fmt.Sprintf("it was valid until %s", c.NotAfter.Format(time.RFC3339))
		if now.Before(c.NotBefore) {
			when = fmt.Sprintf("it is valid from %s on", c.NotBefore.Format(time.RFC3339))
		} else if !now.After(c.NotAfter) {
			when = "the certificate of the cluster's authority has expired"
		}
		return p, fmt.Errorf("%w: certificate of %s: %s, and the clock here says %s", ErrExpired, p, when, now.UTC().Format(time.RFC3339))
	}
	return p, fmt.Errorf("%w: certificate of %s: %w", ErrForeign, p, err)
}

// Verify says who is at the other end, or why that is not to be believed. Only
// the result counts for connections made with PeerTLS.
func (t *trust) Verify(cs tls.ConnectionState) (Principal, error) {
	if len(cs.PeerCertificates) == 0 {
		return Principal{}, fmt.Errorf("%w: the other side has shown no certificate", ErrForeign)
	}
	return t.check(cs.PeerCertificates[0])
}

// PeerName is the name of the node at the other end; an error if it is no node of this cluster.
func (t *trust) PeerName(cs tls.ConnectionState) (string, error) {
	p, err := t.Verify(cs)
	if err == nil && p.Kind != KindNode {
		err = fmt.Errorf("%w: %s is no node", ErrForeign, p)
	}
	return p.Name, err
}

// peerTLS for both sides of a connection: TLS 1.3, both show certificates, and
// neither is judged during the handshake. The certificate is asked for at each handshake.
func (t *trust) peerTLS(own func() tls.Certificate) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			c := own()
			return &c, nil
		},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			c := own()
			return &c, nil
		},
		Time:                   t.now,
		SessionTicketsDisabled: true, // a session that is taken up again would be of somebody who was judged long ago
		// Certificates name nodes, not hosts: Verify judges them.
		InsecureSkipVerify: true,
		ClientAuth:         tls.RequireAnyClientCert,
	}
}

// strict judges the other side during the handshake.
func (t *trust) strict(cfg *tls.Config) *tls.Config {
	cfg.VerifyConnection = func(cs tls.ConnectionState) error {
		_, err := t.Verify(cs)
		return err
	}
	return cfg
}

// PeerTLS returns a configuration for both sides that completes the handshake
// with anybody who has some certificate. The caller must call Verify (or
// PeerName) right after the handshake, and may tell the other side why it is
// refused, which TLS itself can't.
func (id *Identity) PeerTLS() *tls.Config { return id.peerTLS(id.own) }

// EnrollTLS is PeerTLS for those who have no certificate of the cluster yet:
// this side also shows the authority's certificate, whose fingerprint they know.
func (id *Identity) EnrollTLS() *tls.Config {
	return id.peerTLS(func() tls.Certificate {
		c := id.own()
		id.live.mu.RLock()
		defer id.live.mu.RUnlock()
		c.Certificate = slices.Clone(c.Certificate)
		for _, ca := range id.authorities {
			c.Certificate = append(c.Certificate, ca.Raw)
		}
		return c
	})
}

// ServerTLS refuses everybody but nodes and clients of this cluster.
func (id *Identity) ServerTLS() *tls.Config { return id.strict(id.PeerTLS()) }

// ClientTLS refuses every server but nodes and clients of this cluster.
func (id *Identity) ClientTLS() *tls.Config { return id.strict(id.PeerTLS()) }

// SetClock replaces the clock that judges certificates.
func (t *trust) SetClock(now func() time.Time) { t.now = now }
