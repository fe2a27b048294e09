package arbiter

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/arbiter/arbiterpb"
)

// Registration of a cluster at an arbiter.
type Registration struct {
	// Token that holdfast arbiter token has printed on the arbiter's machine.
	Token string
	// ClusterUUID and ClusterName of the cluster.
	ClusterUUID string
	ClusterName string
	// Authorities (PEM) of the cluster: the one that has signed the certificate of Identity, and others.
	Authorities []byte
	// Identity shows the certificate of a node, as identity.PeerTLS does.
	Identity *tls.Config
	// Register: the arbiter answers only for registers (raft ids of the witness)
	// with this number or a higher one. The next raft id that the cluster would
	// give is right: it is above all that were ever used. It must be stated
	// where the arbiter was told to forget the cluster. 0: any.
	Register uint64
}

// Register makes an arbiter know a cluster, and returns it as a coordination
// point. Doing it again does no harm: also with the same token, as long as it
// is valid and for the same cluster.
func Register(ctx context.Context, r Registration) (*v1.ArbiterPoint, error) {
	t, err := ParseToken(r.Token)
	if err != nil {
		return nil, err
	}
	if time.Now().After(t.Expires.Add(time.Hour)) { // clocks differ; the arbiter has the last word
		return nil, fmt.Errorf("%w: it was valid until %s: run holdfast arbiter token again", ErrToken, t.Expires.Format(time.RFC3339))
	}
	if _, err := ParseUUID(r.ClusterUUID); err != nil {
		return nil, err
	}
	der, err := ParseAuthorities(r.Authorities)
	if err != nil {
		return nil, err
	}
	if r.Identity == nil {
		return nil, errors.New("registration at an arbiter: the node's identity is missing")
	}
	point := &v1.ArbiterPoint{Address: t.Address, KeyFingerprint: t.FingerprintText(), Instance: t.InstanceText()}
	c := Dial(point, r.Identity)
	defer c.Close()
	answer, err := c.ask(ctx, &arbiterpb.ToArbiter{Body: &arbiterpb.ToArbiter_Register{Register: &arbiterpb.Register{
		Secret: t.Secret[:], Cluster: r.ClusterUUID, Name: r.ClusterName, Authorities: der, Register: r.Register,
	}}}, true)
	if err != nil {
		return nil, err
	}
	if err := c.expect(answer, answer.GetRegistered() != nil); err != nil {
		return nil, err
	}
	return point, nil
}
