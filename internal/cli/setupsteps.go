package cli

// The steps of an unattended set-up. Each sees whether it is done already.

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/api"
	"github.com/holdfast-ha/holdfast/internal/cluster/identity"
	"github.com/holdfast-ha/holdfast/internal/cluster/peer"
	"github.com/holdfast-ha/holdfast/internal/config"
	"github.com/holdfast-ha/holdfast/internal/group/agents"
	"github.com/holdfast-ha/holdfast/internal/protoyaml"
	"github.com/holdfast-ha/holdfast/internal/setup"
)

const (
	unit = "holdfast.service"
	// askAgain is how long to wait before a node that is not ready is asked again.
	askAgain = 200 * time.Millisecond
	// startLimit is how long systemd may take.
	startLimit = time.Minute
)

// makeState makes this machine a node.
func (s *setupRun) makeState(ctx context.Context) error {
	dir := s.GetStateDir()
	switch {
	case s.Own != nil:
		s.say("%s is there: %s of cluster %s", dir, s.Own.Node, s.Own.ClusterName)
		return nil
	case s.GetJoin() != nil:
		node, cluster, err := JoinCluster(ctx, s.JoinToken, dir)
		if err != nil {
			return joinFailure(err)
		}
		s.done("joined: this machine is %s of cluster %s; its state is in %s", node, cluster, dir)
		if want := s.GetCluster(); want != "" && want != cluster {
			return &failure{code: api.CodeConflict, message: fmt.Sprintf("the token was for cluster %s, not %s", cluster, want),
				next: "correct the response file, or remove the node there (holdfast node remove " + node + ") and move " + dir + " away"}
		}
		return nil
	}
	return s.makeCluster(dir)
}

func (s *setupRun) makeCluster(dir string) error {
	cfg := &v1.Configuration{Cluster: &v1.Cluster{Name: s.GetCluster()}, Nodes: s.GetNodes()}
	if s.GetTokensInto() != "" {
		cfg.Nodes = []*v1.Node{s.Self()}
	}
	plan, err := identity.Init(identity.Spec{Configuration: config.Complete(cfg, agents.Types())})
	if err != nil {
		return &failure{code: api.CodeBadConfig, message: err.Error()}
	}
	var made []string
	write := func(node, dir string) error {
		err := plan.WriteNodeDir(node, dir)
		if err == nil {
			made = append(made, dir)
		}
		return err
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) { // an empty one, which would be in the way
		return err
	}
	if s.GetDirectoriesInto() != "" {
		for _, n := range s.Others() {
			if err == nil {
				err = write(n.GetName(), filepath.Join(s.GetDirectoriesInto(), n.GetName()))
			}
		}
	}
	if err == nil {
		err = write(s.GetNode(), dir) // last: from then on the cluster is made
	}
	if err != nil {
		for _, d := range made {
			err = errors.Join(err, os.RemoveAll(d))
		}
		return err
	}
	s.done("made cluster %s, %s; its state is in %s", s.GetCluster(), plan.Configuration.GetCluster().GetUuid(), dir)
	for _, d := range made[:len(made)-1] {
		s.say("%s: move it to %s as its state directory", d, filepath.Base(d))
	}
	return nil
}

// status of the node, which must be this one.
func (s *setupRun) status(ctx context.Context) (*v1.StatusResponse, error) {
	m, err := call(ctx, s.c, s.c.cluster.Status, &v1.StatusRequest{})
	if err != nil {
		return nil, err
	}
	if node := m.GetSource().GetNode(); node != s.GetNode() {
		return nil, &failure{code: api.CodeUsage, message: fmt.Sprintf("the daemon at %s is that of node %s", s.c.address, node), next: "name another run-dir"}
	}
	return m, nil
}

// codeOf an error of a call.
func codeOf(err error) string {
	f := new(failure)
	_ = errors.As(err, &f)
	return f.code
}

// notReady are what a node answers that is on its way: one that joins has no state yet.
var notReady = []string{api.CodeUnreachable, api.CodeConflict, api.CodeNoQuorum, api.CodeUnknown}

func (s *setupRun) startDaemon(ctx context.Context) error {
	_, err := s.status(ctx)
	switch {
	case err == nil, codeOf(err) == api.CodeConflict: // it joins
		s.say("it runs")
		return nil
	case codeOf(err) != api.CodeUnreachable:
		return err
	}
	command := fmt.Sprintf("holdfast guard --state-dir %s --run-dir %s", s.GetStateDir(), s.GetRunDir())
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	hasUnit := s.Defaults() && exec.CommandContext(ctx, "systemctl", "cat", unit).Run() == nil
	if hasUnit {
		command = "systemctl start " + unit
	}
	switch {
	case s.Start != nil && !s.GetStart():
		s.say("it is not started (start: false); start it with: %s", command)
		return errLater
	case !hasUnit:
		s.say("there is no unit %s for these directories; start it with: %s", unit, command)
		return nil
	}
	if out, err := exec.CommandContext(ctx, "systemctl", "start", unit).CombinedOutput(); err != nil {
		return &failure{code: api.CodeFailed, message: fmt.Sprintf("%s: %v: %s", command, err, clipped(strings.TrimSpace(string(out)), 500)), next: "journalctl -u " + unit + " says more"}
	}
	s.done("started: %s", command)
	return nil
}

// await asks the node until it is as wanted: missing returns what is missing, in words.
func (s *setupRun) await(ctx context.Context, missing func(*v1.StatusResponse) string) error {
	limit := s.Waiting()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	p := &progress{a: s.app}
	defer p.end()
	for {
		m, err := s.status(ctx)
		why := "the daemon does not answer yet"
		switch {
		case err == nil:
			why = missing(m)
		case ctx.Err() != nil, codeOf(err) == api.CodeUnreachable:
		case slices.Contains(notReady, codeOf(err)):
			why = err.Error()
		default:
			return err
		}
		if why == "" {
			return nil
		}
		p.show(why)
		select {
		case <-time.After(askAgain):
			continue
		case <-ctx.Done():
		}
		p.end()
		if errors.Is(ctx.Err(), context.Canceled) {
			return ctx.Err()
		}
		return &failure{code: api.CodeWaitedTooLong, message: fmt.Sprintf("waited %s in vain: %s", protoyaml.Duration(limit), why)}
	}
}

func (s *setupRun) awaitMember(ctx context.Context) error {
	err := s.await(ctx, func(m *v1.StatusResponse) string {
		i := slices.IndexFunc(m.GetNodes(), func(n *v1.NodeInfo) bool { return n.GetName() == s.GetNode() })
		switch {
		case !m.GetSource().GetQuorum():
			return "the node is not part of a quorum yet: start the other nodes"
		case i < 0 || m.GetNodes()[i].GetPhase() != v1.NodePhase_NODE_PHASE_RUNNING:
			return "the node is not a member yet"
		}
		return ""
	})
	if err == nil {
		s.say("%s is a member", s.GetNode())
	}
	return err
}

func (s *setupRun) awaitOthers(ctx context.Context) error {
	missing := func(m *v1.StatusResponse) string {
		var names []string
		for _, n := range s.Others() {
			if !slices.ContainsFunc(m.GetNodes(), func(i *v1.NodeInfo) bool {
				return i.GetName() == n.GetName() && i.GetPhase() == v1.NodePhase_NODE_PHASE_RUNNING
			}) {
				names = append(names, n.GetName())
			}
		}
		if len(names) == 0 {
			return ""
		}
		return "not members yet: " + strings.Join(names, ", ")
	}
	if len(s.NewPoints) == 0 {
		s.say("nothing needs them")
		return nil
	}
	if s.noWait {
		m, err := s.status(ctx)
		if err != nil {
			return err
		}
		if why := missing(m); why != "" {
			s.say("%s", why)
			return errLater
		}
	}
	err := s.await(ctx, missing)
	if err == nil {
		s.say("all are members")
	}
	return err
}

// configure the other nodes, and apply the configuration file.
func (s *setupRun) configure(ctx context.Context) error {
	m, err := call(ctx, s.c, s.c.config.Export, &v1.ExportRequest{})
	if err != nil {
		return err
	}
	docs := config.Parse()
	if s.Documents != nil {
		docs = s.Documents
	}
	want := proto.CloneOf(docs.Configuration())
	named := func(list []*v1.Node, name string) bool {
		return slices.ContainsFunc(list, func(n *v1.Node) bool { return n.GetName() == name })
	}
	for _, n := range m.GetConfiguration().GetNodes() {
		i := slices.IndexFunc(s.GetNodes(), func(r *v1.Node) bool { return r.GetName() == n.GetName() })
		if i >= 0 && !slices.EqualFunc(n.GetLinks(), s.GetNodes()[i].GetLinks(), func(a, b *v1.Link) bool { return proto.Equal(a, b) }) {
			s.say("note: %s is configured with other links than the response file has; holdfast apply changes them", n.GetName())
		}
	}
	for _, n := range s.Others() {
		if !named(m.GetConfiguration().GetNodes(), n.GetName()) && !named(want.GetNodes(), n.GetName()) {
			want.Nodes = append(want.Nodes, n)
		}
	}
	limited, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	d, err := s.c.config.Diff(limited, connect.NewRequest(&v1.DiffRequest{Documents: want}))
	if err != nil {
		return s.c.located(err, docs)
	}
	s.notes(docs, d.Msg.GetNotes())
	if len(d.Msg.GetChanges()) == 0 {
		s.say("there is nothing to change")
		return nil
	}
	r, err := s.c.config.Apply(limited, connect.NewRequest(&v1.ApplyRequest{Documents: want, BaseRevision: m.GetConfiguration().GetRevision()}))
	if err != nil {
		return s.c.located(err, docs)
	}
	for line := range strings.Lines(config.Render(r.Msg.GetChanges())) {
		s.say("%s", strings.TrimRight(line, "\n"))
	}
	s.done("applied: revision %d", r.Msg.GetConfigRevision())
	return nil
}

func (s *setupRun) addUsers(ctx context.Context) error {
	m, err := call(ctx, s.c, s.c.users.List, &v1.ListUsersRequest{})
	if err != nil {
		return err
	}
	for _, u := range s.Users {
		if i := slices.IndexFunc(m.GetUsers(), func(h *v1.User) bool { return h.GetName() == u.GetName() }); i >= 0 && covers(m.GetUsers()[i], u) {
			s.say("%s is there", u.GetName())
			continue
		}
		if _, err := call(ctx, s.c, s.c.users.Set, &v1.SetUserRequest{User: u, Add: true}); err != nil {
			return err
		}
		s.done("%s was added", u.GetName())
	}
	return nil
}

// covers says whether adding u would change nothing.
func covers(have, u *v1.User) bool {
	for g, r := range u.GetGroups() {
		if have.GetGroups()[g] != r {
			return false
		}
	}
	return u.GetRole() == v1.Role_ROLE_UNSPECIFIED || u.GetRole() == have.GetRole()
}

// makeTokens for nodes that have never joined and have no good token.
func (s *setupRun) makeTokens(ctx context.Context) error {
	security, err := call(ctx, s.c, s.c.cluster.Security, &v1.SecurityRequest{})
	if err != nil {
		return err
	}
	m, err := call(ctx, s.c, s.c.nodes.ListInvitations, &v1.ListInvitationsRequest{})
	if err != nil {
		return err
	}
	status, err := s.status(ctx)
	if err != nil {
		return err
	}
	now := time.Now().UnixMilli()
	for _, n := range s.Others() {
		name := n.GetName()
		file := filepath.Join(s.GetTokensInto(), name+setup.TokenSuffix)
		has := tokenID(file)
		joined := slices.ContainsFunc(security.GetNodes(), func(x *v1.NodeSecurity) bool { return x.GetNode() == name && x.GetCertificateEndsMs() > 0 }) ||
			slices.ContainsFunc(status.GetNodes(), func(x *v1.NodeInfo) bool { return x.GetName() == name && x.GetRaftId() != 0 })
		i := slices.IndexFunc(m.GetInvitations(), func(x *v1.InvitationInfo) bool { return x.GetNode() == name && x.GetId() == has })
		switch {
		case joined:
			s.say("%s has joined", name)
			continue
		case i >= 0 && m.GetInvitations()[i].GetUsed():
			s.say("%s is joining", name)
			continue
		case i >= 0 && m.GetInvitations()[i].GetExpiresMs() > now:
			s.say("%s is there, good until %s", file, moment(m.GetInvitations()[i].GetExpiresMs()))
			continue
		}
		r, err := call(ctx, s.c, s.c.nodes.Invite, &v1.InviteNodeRequest{Node: &v1.Node{Name: name}})
		if err != nil {
			return err
		}
		if err := writeSecret(file, r.GetToken()+"\n"); err != nil {
			return err // the next run makes another token, and this one void
		}
		s.done("%s: bring it to %s; good once until %s", file, name, moment(r.GetExpiresMs()))
	}
	return nil
}

// tokenID of a token in a file; empty: there is none.
func tokenID(file string) string {
	raw, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	inv, err := peer.ParseToken(string(raw))
	if err != nil {
		return ""
	}
	return inv.GetId()
}

// writeSecret replaces a file as a whole.
func writeSecret(file, text string) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

func (s *setupRun) addPoints(ctx context.Context) error {
	have := knownOf(ctx, s.c).Points
	add := slices.DeleteFunc(slices.Clone(s.NewPoints), func(p *v1.PointSpec) bool { return slices.Contains(have, p.GetName()) })
	if len(add) == 0 {
		s.say("they are there: %s", strings.Join(have, ", "))
		return nil
	}
	limited, cancel := context.WithTimeout(ctx, s.Waiting())
	defer cancel()
	s.changes++
	return s.changePoints(limited, s.c, &v1.ChangeQuorumRequest{Add: add}, &waiting{})
}
