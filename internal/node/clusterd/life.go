//go:build linux

package clusterd

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"maps"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/api"
	"github.com/holdfast-ha/holdfast/internal/cluster/identity"
	"github.com/holdfast-ha/holdfast/internal/cluster/peer"
	"github.com/holdfast-ha/holdfast/internal/cluster/peer/peerpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
	"github.com/holdfast-ha/holdfast/internal/node/engine"
)

// What a node does for the life of its cluster: it takes in machines that were
// invited, refuses who was removed, says how it stands, and ends with a cluster
// that is given up. Keys and certificates are in rotate.go of this package.

// retryLife is how often something that has failed, or was not answered, is tried again.
const (
	retryLife  = time.Second
	retryFetch = 200 * time.Millisecond
)

type life struct {
	keys    identity.Keys
	guarded guarded
	// Standing that was proposed last.
	stood   *statepb.Standing
	round   uint64 // of certificates that this node has carried out
	refused map[string]uint64
	asked   int  // of whom a secret was asked last
	tell    bool // arbiters that an authority is trusted no more
	making  int  // secrets that are made and not yet named by the log
	busy    bool // files are being changed
	wake    time.Duration
	fault   string
	wiping  bool
	wipeAt  time.Duration
}

// lifeOn follows the applied state.
func (n *node) lifeOn() {
	s := n.engine.State()
	if s == nil || n.ending != "" || n.peers == nil {
		return
	}
	if !maps.Equal(n.life.refused, s.GetCertificates()) {
		n.life.refused = maps.Clone(s.GetCertificates())
		n.id.Refuse(n.life.refused)
		n.peers.Recheck()
	}
	n.peers.Speak(s.GetProtocol())
	n.openAPI(s)
	n.rotateOn(s)
	n.stand(s)
	n.destroyOn(s)
}

// lifeTick tries again what is overdue.
func (n *node) lifeTick() {
	if n.life.wake != 0 && n.now() >= n.life.wake {
		n.life.wake = 0
		n.lifeOn()
		n.fencingOn()
	}
}

func (n *node) lifeAgain(in time.Duration) {
	if at := n.now() + in; n.life.wake == 0 || at < n.life.wake {
		n.life.wake = at
	}
}

// stand says how this node stands, when that is not what the log has.
func (n *node) stand(s *statepb.State) {
	m := state.MemberOf(s, n.id.Node)
	if m == nil {
		m = s.GetLearners()[n.id.Node]
	}
	if m == nil || !n.life.guarded.known {
		return
	}
	newest, signer := n.id.Authorities()
	now := &statepb.Standing{
		RaftId: m.GetRaftId(), ProtocolMin: peer.ProtocolMin, ProtocolMax: peer.ProtocolMax, Version: n.o.Version,
		HeartbeatAccepts: n.life.guarded.accepts, HeartbeatSends: n.life.guarded.sends, AuthorityTrusts: newest, AuthorityUses: signer,
		CertificateRound: n.life.round, CertificateEndsMs: n.id.Expires().UnixMilli(),
	}
	if proto.Equal(now, s.GetStandings()[n.id.Node]) || proto.Equal(now, n.life.stood) {
		return
	}
	n.life.stood = now
	n.local = append(n.local, engine.Propose{Command: &statepb.Command{Change: &statepb.Command_Stand{Stand: &statepb.Stand{Node: n.id.Node, Standing: now}}}})
}

// destroyOn ends this node with its cluster. The leader waits until the others
// have gone, so that they hear of it.
func (n *node) destroyOn(s *statepb.State) {
	const others = 3 * time.Second
	if !s.GetDestroyed() || n.life.wiping {
		return
	}
	if n.life.wipeAt == 0 {
		n.life.wipeAt = n.now()
		if n.engine.Leader() == n.id.Node && len(s.GetView().GetMembers()) > 1 {
			n.life.wipeAt += others
		}
	}
	if n.now() < n.life.wipeAt {
		n.lifeAgain(n.life.wipeAt - n.now())
		return
	}
	n.life.wiping = true
	n.giveUp("the cluster was destroyed")
}

// wiped forgets the cluster, once guard has ended.
func (n *node) wiped() error {
	if n.notifying.log != nil {
		n.notifying.log.Close()
	}
	if err := identity.Wipe(n.id.Dir); err != nil {
		return fmt.Errorf("clusterd: the cluster was destroyed, but not everything of it could be removed: %w", err)
	}
	n.log.Warn("this node has forgotten the destroyed cluster", "state_dir", n.id.Dir)
	return nil
}

// enroll makes a machine a node, if it was invited.
func (b *backend) enroll(ctx context.Context, own *x509.Certificate, r *peerpb.EnrollRequest) *peerpb.EnrollReply {
	reply, err := b.enrolled(ctx, own, r)
	if err == nil {
		return reply
	}
	var elsewhere bool
	switch err.(type) {
	case *state.Refused, *api.Refusal:
	default:
		elsewhere = true
	}
	return &peerpb.EnrollReply{Refused: err.Error(), Elsewhere: elsewhere}
}

func (b *backend) enrolled(ctx context.Context, own *x509.Certificate, r *peerpb.EnrollRequest) (*peerpb.EnrollReply, error) {
	n := b.n
	s, err := b.State(ctx)
	if err != nil {
		return nil, fmt.Errorf("this member has no state: %w", err)
	}
	key := sha256.Sum256(own.RawSubjectPublicKeyInfo)
	inv, refused := state.CheckEnroll(s, r.GetId(), r.GetSecret(), key[:])
	switch {
	case refused != nil && refused.Code == state.CodeNotFound && n.engineBehind(ctx):
		return nil, fmt.Errorf("this member is not part of a quorum: %w", refused)
	case refused != nil:
		return nil, refused
	case n.wall().UnixMilli() > inv.GetExpiresMs():
		return nil, &api.Refusal{Code: api.CodeConflict, Message: fmt.Sprintf("this token was good until %s; make a new one with holdfast node token", time.UnixMilli(inv.GetExpiresMs()).UTC().Format(time.RFC3339))}
	case r.GetProtocolMax() < s.GetProtocol() || r.GetProtocolMin() > max(s.GetProtocol(), peer.ProtocolMax):
		return nil, &api.Refusal{Code: api.CodeConflict, Message: fmt.Sprintf("the cluster speaks protocol version %d, this machine %d to %d: install the version of holdfast that the cluster runs", max(s.GetProtocol(), 1), r.GetProtocolMin(), r.GetProtocolMax())}
	}
	if s.GetNodes()[inv.GetNode().GetName()] == nil {
		if err := api.CheckNode(s, inv.GetNode()); err != nil {
			return nil, &api.Refusal{Code: api.CodeConflict, Message: "the configuration has changed since the token was made, and the node does not fit any more: " + err.Error()}
		}
	}
	authority, err := n.id.Authority()
	if err != nil {
		return nil, err
	}
	if err := b.Submit(ctx, &statepb.Command{TimeMs: n.wall().UnixMilli(), Change: &statepb.Command_Enroll{Enroll: &statepb.Enroll{Id: r.GetId(), Key: key[:]}}}); err != nil {
		return nil, err
	}
	if s, err = b.State(ctx); err != nil {
		return nil, err
	}
	name := inv.GetNode().GetName()
	cert, err := authority.Sign(identity.Principal{Kind: identity.KindNode, Name: name, Generation: inv.GetCertificate()}, own.PublicKey)
	if err != nil {
		return nil, err
	}
	authorityKey, err := authority.Key()
	if err != nil {
		return nil, err
	}
	keys, err := n.id.Keys()
	if err != nil {
		return nil, err
	}
	var nodes []*v1.Node
	for _, one := range state.SortedKeys(s.GetNodes()) {
		nodes = append(nodes, s.GetNodes()[one])
	}
	file, err := identity.EncodeNodes(nodes)
	if err != nil {
		return nil, err
	}
	n.log.Info("a machine has become a node", "node", name, "token", r.GetId())
	return &peerpb.EnrollReply{
		ClusterName: s.GetCluster().GetName(), ClusterUuid: n.id.ClusterUUID, Lineage: n.id.Lineage, Node: name,
		Certificate: cert, Authority: n.id.AuthoritiesPEM(), AuthorityKey: authorityKey, AuthorityGeneration: authority.Generation,
		HeartbeatKey: keys.Current.Secret, HeartbeatKeyGeneration: keys.Current.Generation,
		Nodes: file, GuardIncarnation: uint64(n.wall().Unix()),
	}, nil
}

// engineBehind: what this node does not know another one may.
func (n *node) engineBehind(ctx context.Context) bool {
	l, err := (&backend{n}).Local(ctx)
	return err != nil || !l.Lease.Held || l.Leader == ""
}

// Sign implements api.Backend.
func (b *backend) Sign(_ context.Context, user string, generation uint64, public crypto.PublicKey) (certificate, authorities []byte, err error) {
	a, err := b.n.id.Authority()
	if err != nil {
		return nil, nil, &api.Refusal{Code: api.CodeConflict, Message: err.Error() + "; ask another node"}
	}
	certificate, err = a.Sign(identity.Principal{Kind: identity.KindClient, Name: user, Generation: generation}, public)
	if err != nil {
		return nil, nil, &api.Refusal{Code: api.CodeInvalid, Message: err.Error()}
	}
	return certificate, b.n.id.AuthoritiesPEM(), nil
}

// secretReply to a node that asks for what the log names. Read outside of the loop.
func (n *node) secretReply(r *peerpb.SecretRequest) *peerpb.SecretReply {
	reply := &peerpb.SecretReply{Kind: r.GetKind(), Generation: r.GetGeneration()}
	switch r.GetKind() {
	case peerpb.SecretKind_SECRET_KIND_HEARTBEAT_KEY:
		keys, err := n.id.Keys()
		if err != nil {
			return nil
		}
		for _, k := range []identity.Key{keys.Current, keys.Next, keys.Old} {
			if k.Generation == r.GetGeneration() && len(k.Secret) > 0 {
				reply.Secret = k.Secret
				return reply
			}
		}
	case peerpb.SecretKind_SECRET_KIND_AUTHORITY:
		for _, get := range []func() (*identity.Authority, error){n.id.Authority, n.id.NextAuthorityKept} {
			a, err := get()
			if err != nil || a.Generation != r.GetGeneration() {
				continue
			}
			if reply.Secret, err = a.Key(); err != nil {
				continue
			}
			reply.Certificate = a.Certificate()
			return reply
		}
	}
	return nil
}

// fitsSecret: what has come is what the log names.
func fitsSecret(want *statepb.Secret, fingerprint []byte) bool {
	return len(want.GetFingerprint()) == 0 || bytes.Equal(want.GetFingerprint(), fingerprint)
}
