//go:build linux

package clusterd

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-ha/holdfast/internal/api"
	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/identity"
	"github.com/holdfast-ha/holdfast/internal/cluster/peer/peerpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// Keys and certificates follow the log one step at a time: a file is changed in
// the background, guard or the transport is told, and then this node says in the
// log how far it is. What it lacks it fetches from other nodes.

// guarded is what guard has confirmed of the heartbeat keys.
type guarded struct {
	known          bool
	accepts, sends uint64
	call           uint64 // under way, 0: none
}

// rotateOn does the next step that is due.
func (n *node) rotateOn(s *statepb.State) {
	if n.life.busy || n.life.keys.Current.Generation == 0 {
		return
	}
	n.life.round = max(n.life.round, s.GetStandings()[n.id.Node].GetCertificateRound())
	step, fetch := n.keyStep(s.GetHeartbeatKey())
	if step == nil && fetch == nil {
		step, fetch = n.authorityStep(s.GetAuthority())
	}
	if step == nil && fetch == nil && n.life.round < s.GetCertificateRound() {
		round := s.GetCertificateRound()
		step = func() (func(), error) { return func() { n.life.round = round }, n.id.Renew() }
	}
	if step == nil && fetch == nil && n.life.tell {
		arbiters := n.arbiters()
		step = func() (func(), error) {
			return func() { n.life.tell = false }, tellAuthorities(arbiters, n.id.AuthoritiesPEM())
		}
	}
	if fetch != nil {
		nodes := state.SortedKeys(s.GetNodes())
		n.life.asked++ // another one each time: not all have it
		for i := range nodes {
			node := nodes[(i+n.life.asked)%len(nodes)]
			if node != n.id.Node && n.peers.Send(node, &peerpb.Message{Body: &peerpb.Message_SecretRequest{SecretRequest: fetch}}) {
				break
			}
		}
		n.lifeAgain(retryFetch)
	}
	n.change(step)
}

// change files in the background, then go on. What step returns is done in the loop.
func (n *node) change(step func() (after func(), err error)) {
	if step == nil {
		return
	}
	n.life.busy = true
	n.background(func() {
		after, err := step()
		n.post(func() {
			n.life.busy = false
			if err != nil {
				if n.life.fault != err.Error() {
					n.log.Error("this node can't follow a change of keys or certificates; it tries again", "error", err)
				}
				n.life.fault = err.Error()
				n.lifeAgain(retryLife)
				return
			}
			n.life.fault = ""
			if after != nil {
				after()
			}
			n.lifeOn()
			n.notify()
		})
	})
}

// keyStep of the heartbeat key: something to do, or something to ask for.
func (n *node) keyStep(r *statepb.Rotation) (step func() (func(), error), fetch *peerpb.SecretRequest) {
	keys := n.life.keys
	ask := func(g uint64) *peerpb.SecretRequest {
		return &peerpb.SecretRequest{Kind: peerpb.SecretKind_SECRET_KIND_HEARTBEAT_KEY, Generation: g}
	}
	current, next := state.Generation(r), r.GetNext().GetGeneration()
	idle := r.GetPhase() == statepb.RotationPhase_ROTATION_PHASE_UNSPECIFIED
	switch {
	case keys.Current.Generation < current && keys.Next.Generation == current && fitsSecret(r.GetCurrent(), keys.Next.Fingerprint()):
		return func() (func(), error) { return n.keysChanged, n.id.UseKey() }, nil
	case keys.Current.Generation < current:
		return nil, ask(current)
	case next != 0 && (keys.Next.Generation != next || !fitsSecret(r.GetNext(), keys.Next.Fingerprint())):
		return nil, ask(next)
	case idle && n.life.making == 0 && (keys.Old.Generation != 0 || keys.Next.Generation != 0):
		return func() (func(), error) { return n.keysChanged, n.id.ForgetKeys() }, nil
	}
	return nil, nil
}

func (n *node) authorityStep(r *statepb.Rotation) (step func() (func(), error), fetch *peerpb.SecretRequest) {
	if r == nil {
		return nil, nil
	}
	ask := func(g uint64) *peerpb.SecretRequest {
		return &peerpb.SecretRequest{Kind: peerpb.SecretKind_SECRET_KIND_AUTHORITY, Generation: g}
	}
	newest, signer := n.id.Authorities()
	current, next := state.Generation(r), r.GetNext().GetGeneration()
	kept := func(g uint64) bool {
		a, err := n.id.NextAuthorityKept()
		return err == nil && a.Generation == g
	}
	signs := func(g uint64) bool {
		a, err := n.id.Authority()
		return err == nil && a.Generation == g
	}
	switch {
	case signer < current && (kept(current) || signs(current)):
		arbiters := n.arbiters()
		return func() (func(), error) {
			// Afterwards they would take none of this node's certificates.
			if err := tellAuthorities(arbiters, n.id.AuthoritiesPEM()); err != nil {
				return nil, err
			}
			return nil, n.id.UseAuthority()
		}, nil
	case signer < current:
		return nil, ask(current)
	case next != 0 && (newest < next || !kept(next)):
		return nil, ask(next)
	case r.GetPhase() == statepb.RotationPhase_ROTATION_PHASE_UNSPECIFIED && n.life.making == 0 && n.id.Trusts() > 1:
		return func() (func(), error) {
			return func() {
				n.life.tell = true
				n.peers.Recheck()
			}, n.id.ForgetAuthorities()
		}, nil
	}
	return nil, nil
}

// secret has come from another node. It is kept if the log names it.
func (n *node) secret(r *peerpb.SecretReply) {
	s := n.engine.State()
	if n.life.busy || s == nil {
		n.lifeAgain(retryLife)
		return
	}
	rotation := s.GetHeartbeatKey()
	if r.GetKind() == peerpb.SecretKind_SECRET_KIND_AUTHORITY {
		rotation = s.GetAuthority()
	}
	var want *statepb.Secret
	for _, one := range []*statepb.Secret{rotation.GetCurrent(), rotation.GetNext()} {
		if one.GetGeneration() == r.GetGeneration() {
			want = one
		}
	}
	if want == nil {
		return
	}
	switch r.GetKind() {
	case peerpb.SecretKind_SECRET_KIND_HEARTBEAT_KEY:
		k := identity.Key{Generation: r.GetGeneration(), Secret: r.GetSecret()}
		if len(k.Secret) == identity.SecretSize && fitsSecret(want, k.Fingerprint()) {
			n.change(func() (func(), error) { return n.keysChanged, n.id.KeepKey(k) })
		}
	case peerpb.SecretKind_SECRET_KIND_AUTHORITY:
		sum := sha256.Sum256(r.GetCertificate())
		if !fitsSecret(want, sum[:]) {
			return
		}
		n.change(func() (func(), error) {
			a, err := n.id.ParseAuthority(r.GetCertificate(), r.GetSecret())
			if err != nil {
				return nil, err
			}
			return nil, n.id.KeepAuthority(a)
		})
	}
}

// keysChanged: look what there is now, and have guard do so too.
func (n *node) keysChanged() {
	keys, err := n.id.Keys()
	if err != nil {
		n.log.Error("the heartbeat keys can't be read", "error", err)
		n.lifeAgain(retryLife)
		return
	}
	n.life.keys = keys
	n.guardKeys()
}

// guardKeys tells guard to read the keys again. Its answer is what this node stands for.
func (n *node) guardKeys() {
	if n.life.keys.Current.Generation == 0 {
		return // there are none to follow
	}
	call := n.guard.newCall()
	if n.guard.send(&guardpb.ToGuard{Call: call, Body: &guardpb.ToGuard_ReloadKeys{ReloadKeys: &guardpb.ReloadKeys{}}}) {
		n.life.guarded.call = call
	}
}

// guardHasKeys takes guard's answer; false: it is none of this.
func (n *node) guardHasKeys(d *guardpb.Done) bool {
	g := &n.life.guarded
	if d.GetCall() != g.call || g.call == 0 {
		return false
	}
	g.call = 0
	if d.GetError() != "" {
		n.log.Error("guard does not take the heartbeat keys", "error", d.GetError())
		n.lifeAgain(retryLife)
		return true
	}
	keys := n.life.keys
	g.known, g.sends, g.accepts = true, keys.Current.Generation, max(keys.Current.Generation, keys.Next.Generation)
	if n.engine != nil {
		n.lifeOn()
	}
	return true
}

// MakeSecret implements api.Backend. It stays here whatever becomes of the
// command that is to name it: an unnamed one is overwritten or forgotten.
func (b *backend) MakeSecret(ctx context.Context, what statepb.Rotate_What, generation uint64) (*statepb.Secret, error) {
	n := b.n
	if err := b.takeTurn(ctx); err != nil {
		return nil, err
	}
	secret, err := n.makeSecret(what, generation)
	aerr := b.ask(context.WithoutCancel(ctx), func() {
		n.life.busy = false
		if what == statepb.Rotate_WHAT_HEARTBEAT_KEY {
			n.keysChanged()
		}
	})
	// The log names it within the time that a command may take, or it is forgotten.
	n.forgetLater(ctx)
	return secret, errors.Join(err, aerr)
}

// takeTurn waits until no file is being changed by this node.
func (b *backend) takeTurn(ctx context.Context) error {
	limit := time.After(turnLimit)
	for {
		var busy bool
		if err := b.ask(ctx, func() {
			if busy = b.n.life.busy || b.n.life.making > 0; !busy {
				b.n.life.busy = true
				b.n.life.making++
			}
		}); err != nil || !busy {
			return err
		}
		select {
		case <-time.After(turnPause):
		case <-limit:
			return &api.Refusal{Code: api.CodeConflict, Message: "keys or certificates are being changed at this moment: try again"}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

const (
	turnPause = 20 * time.Millisecond
	turnLimit = 5 * time.Second
)

func (n *node) forgetLater(ctx context.Context) {
	context.AfterFunc(ctx, func() {
		n.post(func() {
			n.life.making--
			n.lifeOn()
		})
	})
}

func (n *node) makeSecret(what statepb.Rotate_What, generation uint64) (*statepb.Secret, error) {
	switch what {
	case statepb.Rotate_WHAT_HEARTBEAT_KEY:
		k, err := identity.NewKey(generation)
		if err != nil {
			return nil, err
		}
		return &statepb.Secret{Generation: generation, Fingerprint: k.Fingerprint()}, n.id.KeepKey(k)
	case statepb.Rotate_WHAT_AUTHORITY:
		if _, err := n.id.Authority(); err != nil {
			return nil, &api.Refusal{Code: api.CodeConflict, Message: err.Error()}
		}
		a, err := n.id.NextAuthority(generation)
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(a.Certificate())
		return &statepb.Secret{Generation: generation, Fingerprint: sum[:], Certificate: a.Certificate()}, n.id.KeepAuthority(a)
	}
	return nil, fmt.Errorf("clusterd: no secret of kind %v", what)
}
