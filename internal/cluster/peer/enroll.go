package peer

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/holdfast-ha/holdfast/internal/cluster/identity"
	"github.com/holdfast-ha/holdfast/internal/cluster/peer/peerpb"
	"github.com/holdfast-ha/holdfast/internal/wire"
)

// EnrollProtocol is the name in TLS (ALPN) of the exchange by which a machine
// becomes a node: one EnrollRequest, one EnrollReply. The machine knows the
// authority's fingerprint from its token, and shows a certificate that it has
// signed itself; the secret in the token says that it is wanted.
const EnrollProtocol = "holdfast-enroll/1"

const (
	tokenPrefix = "holdfast-join-1."
	// A member may have to wait for a quorum.
	enrollLimit = 20 * time.Second
	enrollMax   = 1 << 20
)

// ErrToken: a text is no join token.
var ErrToken = errors.New("this is no join token")

// Token is the text of an invitation. Whoever has it can join, once.
func Token(i *peerpb.Invitation) (string, error) {
	raw, err := proto.Marshal(i)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(raw)
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(append(raw, sum[:4]...)), nil
}

// ParseToken reads what Token has written.
func ParseToken(text string) (*peerpb.Invitation, error) {
	encoded, ok := strings.CutPrefix(strings.TrimSpace(text), tokenPrefix)
	if !ok {
		return nil, fmt.Errorf("%w: it does not begin with %s", ErrToken, tokenPrefix)
	}
	raw, err := base64.RawURLEncoding.DecodeString(encoded)
	if err != nil || len(raw) < 4 {
		return nil, fmt.Errorf("%w: it is damaged; copy the whole line", ErrToken)
	}
	raw, have := raw[:len(raw)-4], raw[len(raw)-4:]
	if sum := sha256.Sum256(raw); string(sum[:4]) != string(have) {
		return nil, fmt.Errorf("%w: it is damaged or cut off; copy the whole line", ErrToken)
	}
	i := new(peerpb.Invitation)
	if err := proto.Unmarshal(raw, i); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrToken, err)
	}
	if i.GetId() == "" || i.GetNode() == "" || len(i.GetSecret()) == 0 || len(i.GetAddresses()) == 0 || len(i.GetAuthority()) != sha256.Size {
		return nil, fmt.Errorf("%w: it lacks something", ErrToken)
	}
	return i, nil
}

// enroll answers a machine that wants to become a node.
func (t *Transport) enroll(c *tls.Conn) error {
	_ = c.SetDeadline(time.Now().Add(enrollLimit))
	own := c.ConnectionState().PeerCertificates
	if len(own) == 0 || own[0].CheckSignature(own[0].SignatureAlgorithm, own[0].RawTBSCertificate, own[0].Signature) != nil {
		return errors.New("an applicant's certificate is not signed by its own key")
	}
	r := new(peerpb.EnrollRequest)
	if err := wire.ReadFrame(bufio.NewReader(c), r, firstFrameMax); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(t.ctx, enrollLimit)
	defer cancel()
	reply := t.o.Enroll(ctx, own[0], r)
	if err := wire.WriteFrame(c, reply); err != nil {
		return err
	}
	if why := reply.GetRefused(); why != "" {
		_ = c.CloseWrite()
		return fmt.Errorf("an applicant with token %q was refused: %s", r.GetId(), why)
	}
	return nil
}

// Enroll asks the members that a token names, one after the other, to make the
// applicant a node. A member that refuses ends the search.
func Enroll(ctx context.Context, i *peerpb.Invitation, a *identity.Applicant) (*peerpb.EnrollReply, error) {
	var all error
	for _, address := range i.GetAddresses() {
		reply, err := enrollAt(ctx, address, i, a)
		switch {
		case errors.Is(err, errElsewhere):
			all = errors.Join(all, err)
			continue
		case err != nil:
			return nil, err
		}
		return reply, nil
	}
	return nil, all
}

// errElsewhere: another member may answer.
var errElsewhere = errors.New("no answer")

func enrollAt(ctx context.Context, address string, i *peerpb.Invitation, a *identity.Applicant) (*peerpb.EnrollReply, error) {
	ctx, cancel := context.WithTimeout(ctx, enrollLimit+handshakeLimit)
	defer cancel()
	elsewhere := func(err error) error { return fmt.Errorf("%s: %w: %w", address, errElsewhere, err) }
	raw, err := (&net.Dialer{Timeout: handshakeLimit}).DialContext(ctx, network(address), address)
	if err != nil {
		return nil, elsewhere(err)
	}
	defer raw.Close()
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	defer stop()
	cfg := a.TLS(i.GetClusterUuid(), i.GetAuthority())
	cfg.NextProtos = []string{EnrollProtocol}
	c := tls.Client(raw, cfg)
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, elsewhere(err)
	}
	r := &peerpb.EnrollRequest{Id: i.GetId(), Secret: i.GetSecret(), ProtocolMin: ProtocolMin, ProtocolMax: ProtocolMax}
	if err := wire.WriteFrame(c, r); err != nil {
		return nil, elsewhere(err)
	}
	reply := new(peerpb.EnrollReply)
	if err := wire.ReadFrame(bufio.NewReader(c), reply, enrollMax); err != nil {
		return nil, elsewhere(err)
	}
	if reply.GetElsewhere() {
		return nil, elsewhere(errors.New(reply.GetRefused()))
	}
	if why := reply.GetRefused(); why != "" {
		return nil, fmt.Errorf("%w: the member at %s says: %s", ErrRefused, address, why)
	}
	return reply, nil
}
