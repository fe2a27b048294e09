package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strings"
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
}

func (p Principal) String() string {
	return fmt.Sprintf("%s %q of cluster %s", p.Kind, p.Name, p.ClusterUUID)
}

// URI as certificates carry it: holdfast://UUID/node/NAME.
func (p Principal) URI() *url.URL {
	return &url.URL{Scheme: "holdfast", Host: p.ClusterUUID, Path: "/" + string(p.Kind) + "/" + p.Name}
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
		return Principal{Kind(kind), name, u.Host}, nil
	}
	return Principal{}, fmt.Errorf("%w: it names no holder in a Holdfast cluster (subject %q)", ErrForeign, c.Subject)
}

// trust is what judges certificates: one cluster's authority.
type trust struct {
	uuid  string
	roots *x509.CertPool
	now   func() time.Time
}

func loadTrust(dir, uuid string, now func() time.Time) (trust, error) {
	ca, err := loadCertificate(dir, FileAuthority)
	if err != nil {
		return trust{}, err
	}
	if !ca.IsCA || len(ca.URIs) != 1 || ca.URIs[0].Host != uuid {
		return trust{}, fmt.Errorf("%s/%s: %w: it is not the certificate of the authority of cluster %s", dir, FileAuthority, ErrForeign, uuid)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	return trust{uuid, pool, now}, nil
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
	_, err = c.Verify(x509.VerifyOptions{Roots: t.roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	var invalid x509.CertificateInvalidError
	switch {
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
// neither is judged during the handshake.
func (t *trust) peerTLS(c tls.Certificate) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{c},
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
func (id *Identity) PeerTLS() *tls.Config { return id.peerTLS(id.certificate) }

// ServerTLS refuses everybody but nodes and clients of this cluster.
func (id *Identity) ServerTLS() *tls.Config { return id.strict(id.peerTLS(id.certificate)) }

// ClientTLS refuses every server but nodes and clients of this cluster.
func (id *Identity) ClientTLS() *tls.Config { return id.strict(id.peerTLS(id.certificate)) }

// SetClock replaces the clock that judges certificates.
func (t *trust) SetClock(now func() time.Time) { t.now = now }
