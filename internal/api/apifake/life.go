package apifake

import (
	"context"
	"crypto"
	"crypto/sha256"
	"fmt"

	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// Sign implements api.Backend: nothing is signed, the certificate says for whom it would be.
func (n *Node) Sign(_ context.Context, user string, generation uint64, _ crypto.PublicKey) (certificate, authorities []byte, err error) {
	return fmt.Appendf(nil, "certificate of %s, generation %d\n", user, generation), []byte("authority\n"), nil
}

// MakeSecret implements api.Backend.
func (n *Node) MakeSecret(_ context.Context, what statepb.Rotate_What, generation uint64) (*statepb.Secret, error) {
	sum := sha256.Sum256(fmt.Append(nil, what, generation))
	return &statepb.Secret{Generation: generation, Fingerprint: sum[:], Certificate: sum[:]}, nil
}
