package arbiterd

import (
	"bytes"
	"crypto/sha256"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/internal/arbiter"
	"github.com/holdfast-ha/holdfast/internal/arbiter/arbiterpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/witness/witnesspb"
)

func TestTokens(t *testing.T) {
	w := newWorld(t)
	a, b := newCluster(t, "a"), newCluster(t, "b")
	ida, err := a.Node("n1", time.Hour)
	must(t, err)
	idb, err := b.Node("n1", time.Hour)
	must(t, err)

	tok := w.token("a")
	_, err = w.register(b, idb, tok, 1)
	wantErr(t, "another name", err, arbiter.ErrToken, `for a cluster named "a", not "b"`)
	must(t, second(w.register(a, ida, tok, 1)))
	must(t, second(w.register(a, ida, tok, 1))) // the answer may have been lost
	_, err = w.register(b, idb, tok, 1)
	wantErr(t, "used", err, arbiter.ErrToken, "it was used at")
	must(t, a.NewAuthority())
	idn, err := a.Node("n1", time.Hour)
	must(t, err)
	_, err = w.register(a, idn, tok, 1)
	wantErr(t, "used, and now another authority", err, arbiter.ErrToken, "it was used at")

	parsed, err := arbiter.ParseToken(w.token(""))
	must(t, err)
	expired := parsed
	parsed.Secret[0] ^= 1
	_, err = w.register(b, idb, parsed.String(), 1)
	wantErr(t, "unknown", err, arbiter.ErrToken, "not known here")
	hash := sha256.Sum256(expired.Secret[:])
	must(t, w.s.table.commit(func(tt *tables) error {
		m, err := tt.token(hash[:])
		if err != nil {
			return err
		}
		m.Expires = time.Now().Add(-time.Second).UnixMilli()
		return tt.putToken(hash[:], m)
	}))
	_, err = w.register(b, idb, expired.String(), 1)
	wantErr(t, "expired", err, arbiter.ErrToken, "it has expired")
	expired.Expires = time.Now().Add(-24 * time.Hour)
	_, err = w.register(b, idb, expired.String(), 1)
	wantErr(t, "long expired", err, arbiter.ErrToken, "run holdfast arbiter token again")
	for _, s := range []string{"", "hfa-", "hfa-!", tok[:len(tok)-3], tok + "AAAA", strings.Replace(tok, "A", "B", 1)} {
		_, err = w.register(b, idb, s, 1)
		wantErr(t, s, err, arbiter.ErrToken, "copy the whole line")
	}

	// Nobody but the holder of a token gets it: the store holds no secret.
	whole := read(t, filepath.Join(w.dir, FileStore))
	last, err := arbiter.ParseToken(w.token(""))
	must(t, err)
	if bytes.Contains(whole, last.Secret[:]) || strings.Contains(w.log.String(), last.String()) {
		t.Error("the secret of a token was written down")
	}
	// Expired ones go when others are made.
	w.s.table.swept = time.Time{}
	w.token("")
	must(t, w.s.store.view(func(tt *tables) error {
		if m, err := tt.token(hash[:]); m != nil || err != nil {
			t.Errorf("expired token is kept: %v, %v", m, err)
		}
		return nil
	}))
	for _, valid := range []time.Duration{0, -time.Hour, 1000 * time.Hour} {
		if _, err := w.s.table.makeToken("", "", valid); err == nil {
			t.Errorf("a token valid for %v", valid)
		}
	}
}

func TestRegisterAgain(t *testing.T) {
	w := newWorld(t)
	n := w.registered("shop")
	w.do(n, n.Accept("n1", 5, 2, 1))
	must(t, second(w.register(n.Cluster, n.tls, w.token("shop"), 1)))
	if got := w.do(n, n.Prepare("n1", 6)).GetPromised().GetAccepted().GetCounter(); got != 5 {
		t.Errorf("accepted ballot %d: registering again has changed what was promised", got)
	}
	n.Name = "market" // renamed
	must(t, second(w.register(n.Cluster, n.tls, w.token("market"), 1)))
	if _, err := w.s.table.find("market"); err != nil {
		t.Error(err)
	}
	// With a certificate that is not the cluster's, or of another cluster.
	b := newCluster(t, "b")
	idb, err := b.Node("n1", time.Hour)
	must(t, err)
	_, err = w.register(n.Cluster, idb, w.token(""), 1)
	wantErr(t, "another cluster's certificate", err, arbiter.ErrCertificate, "")
	_, err = arbiter.Register(w.ctx(), arbiter.Registration{Token: w.token(""), ClusterUUID: b.UUID, ClusterName: "b", Authorities: n.Authority(), Identity: idb})
	wantErr(t, "another cluster's authority", err, arbiter.ErrCertificate, "not that of an authority of cluster")
	for _, pem := range []string{"", "nonsense", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", strings.Repeat(string(b.Authority()), arbiter.AuthoritiesMax+1)} {
		if _, err = arbiter.Register(w.ctx(), arbiter.Registration{Token: w.token(""), ClusterUUID: b.UUID, ClusterName: "b", Authorities: []byte(pem), Identity: idb}); err == nil {
			t.Errorf("registered with authorities %.40q", pem)
		}
	}
}

func TestForget(t *testing.T) {
	w := newWorld(t)
	n := w.registered("shop")
	w.do(n, inRegister(n.Prepare("n1", 5), 7))
	_, err := w.s.table.forget("nobody")
	wantErr(t, "unknown", err, ErrUnknownCluster, "holdfast arbiter list")
	f, err := w.s.table.forget("shop")
	must(t, err)
	if f.GetRegister() != 7 || f.GetUuid() != n.UUID {
		t.Error(f)
	}
	if _, err := w.s.table.forget(n.UUID); err == nil {
		t.Error("forgotten twice")
	}
	for _, when := range []string{"at once", "after a restart"} {
		for _, register := range []uint64{7, 8, 99} {
			_, err := n.Do(w.ctx(), inRegister(n.Prepare("n1", 9), register))
			wantErr(t, when, err, arbiter.ErrForgotten, "holdfast arbiter token")
		}
		w.restart()
	}
	for _, register := range []uint64{0, 1, 7} {
		_, err := w.register(n.Cluster, n.tls, w.token(""), register)
		wantErr(t, "registered for an old register", err, arbiter.ErrForgotten, "register 7 was in use")
	}
	// Even with a new authority: whoever has a token was trusted by the administrator.
	must(t, n.NewAuthority())
	id, err := n.Cluster.Node("n1", time.Hour)
	must(t, err)
	must(t, second(w.register(n.Cluster, id, w.token(""), 12)))
	m := w.node(n.Cluster, "n1", id, n.point)
	for _, restarted := range []bool{false, true} {
		for register, reason := range map[uint64]witnesspb.Refused_Reason{7: witnesspb.Refused_REASON_OLD_REGISTER, 10: witnesspb.Refused_REASON_OLD_REGISTER, 11: witnesspb.Refused_REASON_ABSTAINS} {
			wantRefused(t, "a stale asker", w.do(m, inRegister(m.Prepare("n1", 9), register)), reason)
		}
		if !restarted {
			w.restart()
		}
	}
	if w.do(m, inRegister(m.Prepare("n1", 1), 12)).GetPromised() == nil {
		t.Error("not served after it was registered again")
	}
}

// TestForgetWhileAsked: from the moment at which it is forgotten nothing is answered.
func TestForgetWhileAsked(t *testing.T) {
	w := newWorld(t)
	n := w.registered("shop")
	done := make(chan struct{})
	highest := uint64(0)
	go func() {
		defer close(done)
		for i := uint64(1); ; i++ {
			r, err := n.Do(w.ctx(), n.Prepare("n1", i))
			if err != nil || r.GetPromised() == nil {
				return
			}
			highest = r.GetSequence()
		}
	}()
	for w.s.metrics.total.Load() < 50 {
		time.Sleep(time.Millisecond) // until it is busy
	}
	must(t, second(w.s.table.forget("shop")))
	<-done
	l, err := w.s.list([]string{n.UUID})
	must(t, err)
	if k := l.GetClusters()[0].GetKept(); k.GetSequence() <= highest || k.GetPromised() != nil || !k.GetAbstains() {
		t.Errorf("kept %v, answered up to sequence %d", k, highest)
	}
}

// TestRotation: an authority takes the place of another while the cluster is served.
func TestRotation(t *testing.T) {
	w := newWorld(t)
	n := w.registered("shop")
	old := n.Authority()
	oldNode := w.sibling(n, "n2")
	w.do(oldNode, oldNode.Look("n2"))
	must(t, n.NewAuthority())
	id, err := n.Cluster.Node("n1", time.Hour)
	must(t, err)
	m := w.node(n.Cluster, "n1", id, n.point)
	_, err = m.Do(w.ctx(), m.Prepare("n1", 1))
	wantErr(t, "an authority that the arbiter was not told", err, arbiter.ErrCertificate, "after a rotation")
	err = n.SetAuthorities(w.ctx(), n.Authority())
	wantErr(t, "without the own authority", err, arbiter.ErrCertificate, "lock itself out")
	other := newCluster(t, "other")
	err = n.SetAuthorities(w.ctx(), append(bytes.Clone(old), other.Authority()...))
	wantErr(t, "another cluster's authority", err, arbiter.ErrCertificate, "not that of an authority of cluster")
	must(t, n.SetAuthorities(w.ctx(), append(bytes.Clone(old), n.Authority()...)))
	for i := range uint64(2) {
		if w.do(m, m.Prepare("n1", 2*i+1)).GetPromised() == nil || w.do(oldNode, oldNode.Prepare("n2", 2*i+2)).GetPromised() == nil {
			t.Error("during the rotation both are served")
		}
		w.restart()
	}
	must(t, m.SetAuthorities(w.ctx(), n.Authority()))
	if w.do(m, m.Prepare("n1", 9)).GetPromised() == nil {
		t.Error("not served")
	}
	_, err = oldNode.Ask(w.ctx(), oldNode.Prepare("n2", 10))
	wantErr(t, "the old authority", err, arbiter.ErrCertificate, "not signed by")
	u := newCluster(t, "u")
	uid, err := u.Node("n1", time.Hour)
	must(t, err)
	err = w.node(u, "n1", uid, n.point).SetAuthorities(w.ctx(), u.Authority())
	wantErr(t, "not registered", err, arbiter.ErrNotRegistered, "")
}

func TestShow(t *testing.T) {
	w := newWorld(t)
	n := w.registered("shop")
	w.registered("bank")
	w.do(n, n.Accept("n1", 5, 2, 1))
	a, err := Ask(w.ctx(), w.dir, &arbiterpb.ToControl{Body: &arbiterpb.ToControl_List{List: &arbiterpb.List{}}})
	must(t, err)
	if l := a.GetClusters().GetClusters(); len(l) != 2 || l[0].GetName() != "bank" || l[0].GetLastAsked() != 0 {
		t.Error(l)
	}
	a, err = Ask(w.ctx(), w.dir, &arbiterpb.ToControl{Body: &arbiterpb.ToControl_List{List: &arbiterpb.List{Clusters: []string{"shop"}}}})
	must(t, err)
	c := a.GetClusters().GetClusters()[0]
	if c.GetKept().GetValue().GetTerm() != 2 || len(c.GetSeen()) != 1 || c.GetConnections() != 1 || c.GetRegisteredBy() != "n1" || c.GetSize() < 300 || c.GetLastAsked() == 0 {
		t.Error(c)
	}
	_, err = Ask(w.ctx(), w.dir, &arbiterpb.ToControl{Body: &arbiterpb.ToControl_List{List: &arbiterpb.List{Clusters: []string{"x"}}}})
	wantErr(t, "unknown", err, ErrUnknownCluster, "")
	_, err = Ask(w.ctx(), w.dir, &arbiterpb.ToControl{})
	if err == nil || !strings.Contains(err.Error(), "does not know") {
		t.Error(err)
	}
	a, err = Ask(w.ctx(), w.dir, &arbiterpb.ToControl{Body: &arbiterpb.ToControl_Status{Status: &arbiterpb.Status{}}})
	must(t, err)
	if st := a.GetStatus(); st.GetClusters() != 2 || st.GetRuns() != 1 || st.GetKeyFingerprint() != n.point.GetKeyFingerprint() || st.GetTokens() != 0 || st.GetAbstaining() != 0 || st.GetVersion() != "test" {
		t.Error(st)
	}
	w.stop()
	_, err = Ask(w.ctx(), w.dir, &arbiterpb.ToControl{})
	wantErr(t, "stopped", err, ErrNotRunning, "holdfast arbiter serve --dir "+w.dir)
	if _, err := os.Stat(filepath.Join(w.dir, FileSocket)); !os.IsNotExist(err) {
		t.Errorf("the socket stays: %v", err)
	}
}
