package arbiterd

import (
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/internal/arbiter"
	"github.com/holdfast-ha/holdfast/internal/arbiter/arbiterpb"
)

// holder of a certificate as it says itself.
type holder struct {
	cluster uuid
	node    string
}

// refuse makes a refusal.
func refuse(code arbiterpb.Refusal_Code, format string, args ...any) *arbiterpb.Refusal {
	return &arbiterpb.Refusal{Code: code, Message: fmt.Sprintf(format, args...)}
}

// holderOf a node's certificate: its URI is holdfast://UUID/node/NAME.
func holderOf(c *x509.Certificate) (holder, *arbiterpb.Refusal) {
	for _, u := range c.URIs {
		if u.Scheme != "holdfast" {
			continue
		}
		name, ok := strings.CutPrefix(u.Path, "/node/")
		id, err := arbiter.ParseUUID(u.Host)
		if !ok || err != nil || name == "" || len(name) > arbiter.NameMax || strings.Contains(name, "/") {
			return holder{}, refuse(arbiterpb.Refusal_CODE_CERTIFICATE, "it is for %q: only nodes of clusters may ask", u)
		}
		return holder{id, name}, nil
	}
	return holder{}, refuse(arbiterpb.Refusal_CODE_CERTIFICATE, "it names no node of a Holdfast cluster (subject %q)", c.Subject)
}

// judge a node's certificate by its cluster's authorities.
func judge(c *x509.Certificate, h holder, authorities []*x509.Certificate, now time.Time) *arbiterpb.Refusal {
	roots := x509.NewCertPool()
	for _, a := range authorities {
		roots.AddCert(a)
	}
	_, err := c.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	var invalid x509.CertificateInvalidError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		when := "the certificate of the cluster's authority is not"
		if now.After(c.NotAfter) || now.Before(c.NotBefore) {
			when = fmt.Sprintf("it is from %s to %s", c.NotBefore.UTC().Format(time.RFC3339), c.NotAfter.UTC().Format(time.RFC3339))
		}
		return refuse(arbiterpb.Refusal_CODE_EXPIRED, "certificate of node %q of cluster %s: %s, and the arbiter's clock says %s; renew the certificate, or set the clock",
			h.node, h.cluster, when, now.UTC().Format(time.RFC3339))
	}
	return refuse(arbiterpb.Refusal_CODE_CERTIFICATE, "certificate of node %q: it is not signed by an authority that is registered for cluster %s (%v); after a rotation, tell the arbiter the new authority before the old one goes, or register the cluster again with a token",
		h.node, h.cluster, err)
}

// parseAuthorities of a cluster, and check that they are.
func parseAuthorities(id uuid, der [][]byte) ([]*x509.Certificate, *arbiterpb.Refusal) {
	if len(der) == 0 || len(der) > arbiter.AuthoritiesMax {
		return nil, refuse(arbiterpb.Refusal_CODE_MALFORMED, "%d authorities; 1 to %d are possible", len(der), arbiter.AuthoritiesMax)
	}
	var all []*x509.Certificate
	for _, b := range der {
		c, err := x509.ParseCertificate(b)
		switch {
		case len(b) > arbiter.AuthorityBytesMax:
			return nil, refuse(arbiterpb.Refusal_CODE_MALFORMED, "an authority's certificate of %d bytes; %d are possible", len(b), arbiter.AuthorityBytesMax)
		case err != nil:
			return nil, refuse(arbiterpb.Refusal_CODE_MALFORMED, "an authority's certificate: %v", err)
		case !c.IsCA || len(c.URIs) != 1 || c.URIs[0].Scheme != "holdfast" || c.URIs[0].Host != id.String() || c.URIs[0].Path != "/authority":
			return nil, refuse(arbiterpb.Refusal_CODE_AUTHORITY, "a certificate (subject %q) is not that of an authority of cluster %s", c.Subject, id)
		}
		all = append(all, c)
	}
	return all, nil
}
