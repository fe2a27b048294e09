package arbiterd

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/holdfast-ha/holdfast/internal/arbiter"
	"github.com/holdfast-ha/holdfast/internal/arbiter/arbiterpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/witness"
	"github.com/holdfast-ha/holdfast/internal/cluster/witness/witnesspb"
)

const (
	clusterNameMax = 255
	tokenLifeMax   = 30 * 24 * time.Hour
	// tokensMax are kept at a time; expired ones go when a new one is made.
	tokensMax  = 100_000
	sweepEvery = time.Minute
)

// commit one change and wait for it.
func (t *table) commit(apply func(*tables) error) error {
	done := make(chan struct{})
	t.committer.put(change{apply: apply, done: func() { close(done) }})
	return t.committer.wait(done)
}

// unwritten, as nodes are told.
func unwritten() *arbiterpb.Refusal {
	return refuse(arbiterpb.Refusal_CODE_BUSY, "the arbiter can't write its store: see its log")
}

// makeToken for a cluster of this name (empty: any).
func (t *table) makeToken(name, address string, valid time.Duration) (arbiter.Token, error) {
	self := t.store.self
	if address == "" {
		address = self.GetAddress()
	}
	switch {
	case valid < time.Second || valid > tokenLifeMax:
		return arbiter.Token{}, fmt.Errorf("a token may be valid for 1 s to %v", tokenLifeMax)
	case len(name) > clusterNameMax:
		return arbiter.Token{}, errors.New("the cluster's name is too long")
	}
	if err := arbiter.CheckAddress(address); err != nil {
		return arbiter.Token{}, err
	}
	c, err := x509.ParseCertificate(self.GetCertificate())
	if err != nil {
		return arbiter.Token{}, err
	}
	now := time.Now()
	tok := arbiter.Token{Address: address, Fingerprint: arbiter.Fingerprint(c), Expires: now.Add(valid).Truncate(time.Second)}
	instance, err := hex.DecodeString(self.GetInstance())
	if err != nil || len(instance) != arbiter.InstanceSize {
		return arbiter.Token{}, damaged("the arbiter's instance is %q", self.GetInstance())
	}
	copy(tok.Instance[:], instance)
	copy(tok.Secret[:], random(arbiter.SecretSize))

	t.admin.Lock()
	defer t.admin.Unlock()
	expired, err := t.expiredTokens(now)
	if err != nil {
		return arbiter.Token{}, err
	}
	if t.tokens >= tokensMax {
		return arbiter.Token{}, fmt.Errorf("%d tokens are kept already: wait until some have expired", t.tokens)
	}
	hash := sha256.Sum256(tok.Secret[:])
	m := &arbiterpb.Token{Made: now.UnixMilli(), Expires: tok.Expires.UnixMilli(), Name: name}
	if err := t.commit(func(tt *tables) error {
		for _, h := range expired {
			if err := tt.deleteToken(h); err != nil {
				return err
			}
		}
		return tt.putToken(hash[:], m)
	}); err != nil {
		return arbiter.Token{}, err
	}
	t.tokens++
	t.log.Info("arbiter: token made", "name", name, "expires", tok.Expires)
	return tok, nil
}

// expiredTokens are looked for now and then: many may be made in a row. The
// admin lock is held.
func (t *table) expiredTokens(now time.Time) (expired [][]byte, err error) {
	if now.Sub(t.swept) < sweepEvery {
		return nil, nil
	}
	t.tokens, t.swept = 0, now
	err = t.store.view(func(tt *tables) error {
		return tt.eachToken(func(h []byte, m *arbiterpb.Token) error {
			if now.UnixMilli() > m.GetExpires() {
				expired = append(expired, bytes.Clone(h))
			} else {
				t.tokens++
			}
			return nil
		})
	})
	return expired, err
}

// register a cluster whose node h has shown the certificate shown.
func (t *table) register(shown *x509.Certificate, h holder, r *arbiterpb.Register) *arbiterpb.Refusal {
	id, err := arbiter.ParseUUID(r.GetCluster())
	switch {
	case err != nil:
		return refuse(arbiterpb.Refusal_CODE_MALFORMED, "%v", err)
	case id != h.cluster:
		return refuse(arbiterpb.Refusal_CODE_CERTIFICATE, "it is of cluster %s; cluster %s can't be registered with it", h.cluster, uuid(id))
	case len(r.GetSecret()) != arbiter.SecretSize:
		return refuse(arbiterpb.Refusal_CODE_TOKEN, "it is not known here")
	case r.GetName() == "" || len(r.GetName()) > clusterNameMax:
		return refuse(arbiterpb.Refusal_CODE_MALFORMED, "the cluster's name is missing or too long")
	}
	authorities, why := parseAuthorities(id, r.GetAuthorities())
	if why == nil {
		why = judge(shown, h, authorities, time.Now())
	}
	if why != nil {
		return why
	}

	t.admin.Lock()
	defer t.admin.Unlock()
	hash := sha256.Sum256(r.GetSecret())
	var token *arbiterpb.Token
	var old *arbiterpb.Registration
	if err := t.store.view(func(tt *tables) (err error) {
		if token, err = tt.token(hash[:]); err == nil {
			old, err = tt.registration(id)
		}
		return err
	}); err != nil {
		t.log.Error("arbiter: registration", "error", err)
		return refuse(arbiterpb.Refusal_CODE_BUSY, "the arbiter can't read its store: see its log")
	}
	again, why := t.checkToken(token, id, old, r)
	if why != nil {
		t.log.Warn("arbiter: registration refused", "cluster", uuid(id), "name", r.GetName(), "node", h.node, "reason", why.GetMessage())
		return why
	}
	if again {
		return nil
	}
	if old != nil && old.GetForgotten() == 0 && !sharesAuthority(old.GetAuthorities(), shown, h, t) {
		t.log.Warn("arbiter: registration refused", "cluster", uuid(id), "name", r.GetName(), "node", h.node, "reason", "another authority")
		return refuse(arbiterpb.Refusal_CODE_AUTHORITY, "cluster %s is registered with another authority; if its authority was lost, have the arbiter's administrator forget the cluster (holdfast arbiter forget) and register it again", uuid(id))
	}
	return t.admit(id, h, hash[:], token, old, r)
}

// checkToken. again: it was used for this very registration.
func (t *table) checkToken(token *arbiterpb.Token, id uuid, old *arbiterpb.Registration, r *arbiterpb.Register) (again bool, _ *arbiterpb.Refusal) {
	const next = "run holdfast arbiter token on the arbiter's machine"
	switch {
	case token == nil:
		return false, refuse(arbiterpb.Refusal_CODE_TOKEN, "it is not known here: it has expired, or is of another arbiter; %s", next)
	case time.Now().UnixMilli() > token.GetExpires():
		return false, refuse(arbiterpb.Refusal_CODE_TOKEN, "it has expired at %s; %s", when(token.GetExpires()), next)
	case token.GetUsed() != 0:
		// The answer may have been lost: nothing is left to do.
		if token.GetUsedBy() == id.String() && old != nil && old.GetForgotten() == 0 && sameAuthorities(old.GetAuthorities(), r.GetAuthorities()) {
			return true, nil
		}
		return false, refuse(arbiterpb.Refusal_CODE_TOKEN, "it was used at %s; %s", when(token.GetUsed()), next)
	case token.GetName() != "" && token.GetName() != r.GetName():
		return false, refuse(arbiterpb.Refusal_CODE_TOKEN, "it is for a cluster named %q, not %q", token.GetName(), r.GetName())
	}
	return false, nil
}

// sharesAuthority: the certificate shown would be let in already.
func sharesAuthority(der [][]byte, shown *x509.Certificate, h holder, t *table) bool {
	authorities, why := parseAuthorities(h.cluster, der)
	if why != nil {
		t.log.Error("arbiter: authorities of a cluster", "cluster", h.cluster, "error", why.GetMessage())
		return false
	}
	return judge(shown, h, authorities, time.Now()) == nil
}

func sameAuthorities(a, b [][]byte) bool {
	return slices.EqualFunc(a, b, bytes.Equal)
}

// admit the cluster: everything was checked. The admin lock is held.
func (t *table) admit(id uuid, h holder, hash []byte, token *arbiterpb.Token, old *arbiterpb.Registration, r *arbiterpb.Register) *arbiterpb.Refusal {
	c := t.cluster(id)
	var kept *witnesspb.Kept // to be written, nil: stays
	switch {
	case c == nil:
		c = &cluster{id: id}
		kept = unasked(&witnesspb.Kept{Format: witness.Format}, r.GetRegister())
	case old.GetForgotten() != 0:
		c.mu.Lock()
		have, err := t.load(c)
		c.mu.Unlock()
		if err != nil {
			t.log.Error("arbiter: registration", "cluster", id, "error", err)
			return refuse(arbiterpb.Refusal_CODE_BUSY, "the arbiter can't read its store: see its log")
		}
		if r.GetRegister() <= have.GetRegister() {
			return refuse(arbiterpb.Refusal_CODE_FORGOTTEN, "cluster %s was forgotten at %s, when register %d was in use: it can be registered only for a higher one, and %d was stated",
				id, when(old.GetForgotten()), have.GetRegister(), r.GetRegister())
		}
		kept = unasked(have, r.GetRegister())
	}
	now := time.Now().UnixMilli()
	reg := &arbiterpb.Registration{Name: r.GetName(), Authorities: r.GetAuthorities(), Registered: now, By: h.node}
	token = proto.CloneOf(token)
	token.Used, token.UsedBy = now, id.String()
	if t.commit(func(tt *tables) error {
		if err := errors.Join(tt.putToken(hash, token), tt.putRegistration(id, reg)); err != nil || kept == nil {
			return err
		}
		return tt.putKept(id, kept)
	}) != nil {
		return unwritten()
	}
	c.mu.Lock()
	c.name, c.forgotten = reg.GetName(), false
	if kept != nil {
		c.kept = kept
	}
	c.mu.Unlock()
	t.mu.Lock()
	t.clusters[id] = c
	t.mu.Unlock()
	t.log.Info("arbiter: cluster registered", "cluster", id, "name", reg.GetName(), "node", h.node, "again", old != nil, "register_from", r.GetRegister())
	return nil
}

// unasked: what is kept of a cluster that may use registers from the given
// number on, and has used none of them. Below, the point abstains.
func unasked(before *witnesspb.Kept, register uint64) *witnesspb.Kept {
	k := &witnesspb.Kept{Format: witness.Format, Sequence: before.GetSequence() + 1, Suspicions: before.GetSuspicions(), Abstains: true}
	if register > 0 {
		k.Register = register - 1
	}
	return k
}

// setAuthorities of a cluster whose node has shown a certificate.
func (t *table) setAuthorities(shown *x509.Certificate, h holder, der [][]byte) *arbiterpb.Refusal {
	authorities, why := parseAuthorities(h.cluster, der)
	if why == nil && judge(shown, h, authorities, time.Now()) != nil {
		why = refuse(arbiterpb.Refusal_CODE_AUTHORITY, "none of the new authorities has signed the certificate of node %q: the cluster would lock itself out", h.node)
	}
	if why != nil {
		return why
	}
	t.admin.Lock()
	defer t.admin.Unlock()
	var reg *arbiterpb.Registration
	if err := t.store.view(func(tt *tables) (err error) { reg, err = tt.registration(h.cluster); return err }); err != nil || reg == nil || reg.GetForgotten() != 0 {
		return refuse(arbiterpb.Refusal_CODE_NOT_REGISTERED, "cluster %s is not registered here any more", h.cluster)
	}
	if sameAuthorities(reg.GetAuthorities(), der) {
		return nil
	}
	reg.Authorities = der
	if t.commit(func(tt *tables) error { return tt.putRegistration(h.cluster, reg) }) != nil {
		return unwritten()
	}
	t.log.Info("arbiter: authorities changed", "cluster", h.cluster, "name", reg.GetName(), "node", h.node, "authorities", fingerprints(der))
	return nil
}

func fingerprints(der [][]byte) (list []string) {
	for _, b := range der {
		sum := sha256.Sum256(b)
		list = append(list, hex.EncodeToString(sum[:]))
	}
	return list
}

// find a cluster by name or uuid.
func (t *table) find(name string) (*cluster, error) {
	if id, err := arbiter.ParseUUID(name); err == nil {
		if c := t.cluster(id); c != nil {
			return c, nil
		}
	}
	var found *cluster
	for _, c := range t.all() {
		c.mu.Lock()
		match := c.name == name
		c.mu.Unlock()
		if match && found != nil {
			return nil, fmt.Errorf("several clusters are named %q: say the uuid (holdfast arbiter list)", name)
		}
		if match {
			found = c
		}
	}
	if found == nil {
		return nil, &told{fmt.Sprintf("no cluster %q is registered here (holdfast arbiter list shows which are)", name), ErrUnknownCluster}
	}
	return found, nil
}

// forget a cluster, but for its register number (A4).
func (t *table) forget(name string) (*arbiterpb.Forgotten, error) {
	t.admin.Lock()
	defer t.admin.Unlock()
	c, err := t.find(name)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	if c.forgotten {
		c.mu.Unlock()
		return nil, fmt.Errorf("cluster %q was forgotten already", name)
	}
	kept, err := t.load(c)
	if err != nil {
		c.mu.Unlock()
		return nil, err
	}
	// From here on nothing is answered, whether or not it is durable yet.
	c.forgotten = true
	rest := &witnesspb.Kept{Format: witness.Format, Sequence: kept.GetSequence() + 1, Register: kept.GetRegister(), Suspicions: kept.GetSuspicions(), Abstains: true}
	c.kept = rest
	conns := c.conns
	t.lookers.Add(-int64(len(c.lookers)))
	c.conns, c.lookers = nil, nil
	answer := &arbiterpb.Forgotten{Uuid: c.id.String(), Name: c.name, Register: rest.GetRegister()}
	done := make(chan struct{})
	t.committer.put(change{
		apply: func(tt *tables) error {
			return errors.Join(tt.putKept(c.id, rest), tt.putRegistration(c.id, &arbiterpb.Registration{Name: answer.GetName(), Forgotten: time.Now().UnixMilli()}))
		},
		done: func() { close(done) },
	})
	c.mu.Unlock()
	for k := range conns {
		k.close()
	}
	if err := t.committer.wait(done); err != nil {
		return nil, err
	}
	t.log.Warn("arbiter: cluster forgotten", "cluster", c.id, "name", answer.GetName(), "register", rest.GetRegister())
	return answer, nil
}

func when(ms int64) string { return time.UnixMilli(ms).UTC().Format(time.RFC3339) }
