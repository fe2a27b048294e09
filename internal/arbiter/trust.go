package arbiter

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

// Fingerprint of a server's key: SHA-256 of its SubjectPublicKeyInfo.
func Fingerprint(c *x509.Certificate) [FingerprintSize]byte {
	return sha256.Sum256(c.RawSubjectPublicKeyInfo)
}

// ParseUUID of a cluster: 32 hexadecimal digits.
func ParseUUID(s string) (id [16]byte, err error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(id) || strings.ToLower(s) != s {
		return id, fmt.Errorf("%q is no cluster uuid: 32 hexadecimal digits in lower case are expected", s)
	}
	copy(id[:], b)
	return id, nil
}

// ParseAuthorities reads the certificates (PEM) of a cluster's authority, or
// authorities while one replaces another.
func ParseAuthorities(raw []byte) (der [][]byte, err error) {
	for {
		var block *pem.Block
		if block, raw = pem.Decode(raw); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("the cluster's authorities: a block %q among certificates", block.Type)
		}
		der = append(der, block.Bytes)
	}
	if len(der) == 0 {
		return nil, errors.New("the cluster's authorities: no certificate found")
	}
	return der, nil
}

// clientTLS is base as a client of one arbiter uses it: the server is known by
// its key only.
func clientTLS(base *tls.Config, fingerprint [FingerprintSize]byte) *tls.Config {
	cfg := base.Clone()
	cfg.MinVersion = tls.VersionTLS13
	cfg.NextProtos = []string{ALPN}
	cfg.InsecureSkipVerify = true // what is verified is the key, below
	cfg.VerifyPeerCertificate = nil
	cfg.ClientSessionCache = nil
	cfg.VerifyConnection = func(cs tls.ConnectionState) error {
		if len(cs.PeerCertificates) == 0 {
			return fmt.Errorf("%w: it shows none", ErrWrongKey)
		}
		if got := Fingerprint(cs.PeerCertificates[0]); got != fingerprint {
			return fmt.Errorf("%w: %x, the cluster's configuration says %x; somebody else answers at this address, or the arbiter was made anew: compare with holdfast arbiter status on its machine, and replace the coordination point if it is right", ErrWrongKey, got, fingerprint)
		}
		if cs.NegotiatedProtocol != ALPN {
			return fmt.Errorf("%w: %s was not agreed on; upgrade the arbiter or this node", ErrVersion, ALPN)
		}
		return nil
	}
	return cfg
}
