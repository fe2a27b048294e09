//go:build linux

package clusterd

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cli"
	"github.com/holdfast-ha/holdfast/internal/cluster/identity"
	"github.com/holdfast-ha/holdfast/internal/cluster/peer"
)

func (m *machine) nodes() v1.NodeServiceClient {
	return v1.NewNodeServiceClient(m.client(), "http://node")
}
func (m *machine) clusters() v1.ClusterServiceClient {
	return v1.NewClusterServiceClient(m.client(), "http://node")
}
func (m *machine) users() v1.UserServiceClient {
	return v1.NewUserServiceClient(m.client(), "http://node")
}

// ask one thing of a node, which must answer.
func ask[Q, R any](t *testing.T, f func(context.Context, *connect.Request[Q]) (*connect.Response[R], error), q *Q) *R {
	t.Helper()
	r, err := try(t, f, q)
	if err != nil {
		t.Fatalf("%T: %v", q, err)
	}
	return r
}

func try[Q, R any](t *testing.T, f func(context.Context, *connect.Request[Q]) (*connect.Response[R], error), q *Q) (*R, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r, err := f(ctx, connect.NewRequest(q))
	if err != nil {
		return nil, err
	}
	return r.Msg, nil
}

// gone waits for the end of guard.
func (m *machine) gone() {
	m.t.Helper()
	select {
	case <-m.ended:
	case <-time.After(patience):
		m.t.Fatalf("guard of %s goes on", m.name)
	}
}

// another machine in the same network, which is no node yet.
func another(t *testing.T, like *machine, short string) (*machine, *v1.Node) {
	t.Helper()
	id, err := identity.Load(like.state)
	if err != nil {
		t.Fatal(err)
	}
	name := strings.Replace(like.name, strings.SplitN(like.name, "-", 2)[0], short, 1)
	last := short[len(short)-1:]
	n := &v1.Node{Name: name}
	for _, l := range id.Self().GetLinks() {
		prefix := l.GetAddress()[:strings.LastIndex(l.GetAddress(), ".")]
		n.Links = append(n.Links, &v1.Link{Name: l.GetName(), Address: prefix + "." + last + ":7946"})
	}
	dir := t.TempDir()
	m := &machine{t: t, name: name, state: filepath.Join(dir, "state"), run: filepath.Join(dir, "run"), log: logFile(filepath.Join(dir, "log"))}
	if err := os.Mkdir(m.run, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.destroy)
	return m, n
}

func events(t *testing.T, m *machine, code string) (found []string) {
	t.Helper()
	r := ask(t, v1.NewEventServiceClient(m.client(), "http://node").List, &v1.ListEventsRequest{})
	for _, e := range r.GetEvents() {
		if e.GetCode() == code {
			found = append(found, e.GetMessage())
		}
	}
	return found
}

// A machine joins with a token, a second one can't use it, the node is removed
// after its death and refused from then on, and another machine takes its name.
func TestJoinRemoveAndJoinAgain(t *testing.T) {
	ms := cluster(t, nil, "n1", "n2")
	for _, m := range ms {
		m.start()
	}
	n1 := ms["n1"]
	n1.until("a healthy cluster", healthy(2, ""))
	ms["n2"].until("a healthy cluster", healthy(2, ""))
	third, node := another(t, n1, "n3")
	if _, err := try(t, n1.nodes().Invite, &v1.InviteNodeRequest{Node: &v1.Node{Name: node.Name, Links: node.Links[:1]}}); err == nil {
		t.Error("a node with one link of two is invited")
	}
	token := ask(t, n1.nodes().Invite, &v1.InviteNodeRequest{Node: node}).GetToken()
	if n, c, err := cli.JoinCluster(t.Context(), token, third.state); err != nil || n != node.Name || c != "test" {
		t.Fatal(n, c, err)
	}
	if _, _, err := cli.JoinCluster(t.Context(), token, filepath.Join(t.TempDir(), "s")); err == nil || !strings.Contains(err.Error(), "another machine has used this token") {
		t.Errorf("the token is good twice: %v", err)
	}
	third.start()
	n1.until("three members", healthy(3, ""))
	third.until("three members", healthy(3, ""))
	if _, err := try(t, n1.nodes().Remove, &v1.RemoveNodeRequest{Node: node.Name}); err == nil || !strings.Contains(err.Error(), "it is a member") {
		t.Errorf("a member is removed: %v", err)
	}

	// It dies, is evicted, and is removed.
	_ = third.guard.Process.Kill()
	for _, pid := range third.clusterd() {
		_ = exec.Command("kill", "-9", fmt.Sprint(pid)).Run()
	}
	third.gone()
	n1.until("its end to be proven", func(s *v1.StatusResponse) bool {
		for _, n := range s.GetNodes() {
			if n.GetName() == node.Name {
				return n.GetPhase() == v1.NodePhase_NODE_PHASE_FAULTED && n.GetWaitingForProof() == ""
			}
		}
		return false
	})
	ask(t, n1.nodes().Remove, &v1.RemoveNodeRequest{Node: node.Name})
	n1.until("it to be gone", func(s *v1.StatusResponse) bool { return len(s.GetNodes()) == 2 })
	third.start()
	n1.until("the removed node to be told that it is refused", func(*v1.StatusResponse) bool { return strings.Contains(third.log.String(), "taken back") })
	_ = third.guard.Process.Kill()
	for _, pid := range third.clusterd() {
		_ = exec.Command("kill", "-9", fmt.Sprint(pid)).Run()
	}
	third.gone()

	// Another machine takes its name and its addresses; withdrawn and old tokens are void.
	old := ask(t, n1.nodes().Invite, &v1.InviteNodeRequest{Node: node})
	ask(t, n1.nodes().Withdraw, &v1.WithdrawInvitationRequest{Id: old.GetId()})
	again, _ := another(t, n1, "n3")
	if _, _, err := cli.JoinCluster(t.Context(), old.GetToken(), again.state); err == nil || !strings.Contains(err.Error(), "withdrawn") {
		t.Errorf("a withdrawn token: %v", err)
	}
	token = ask(t, ms["n2"].nodes().Invite, &v1.InviteNodeRequest{Node: node, Valid: durationpb.New(time.Minute)}).GetToken()
	if _, _, err := cli.JoinCluster(t.Context(), token, again.state); err != nil {
		t.Fatal(err)
	}
	again.start()
	n1.until("three members again", healthy(3, ""))
	// What was done can be seen.
	if got := events(t, n1, "audit.done"); len(got) < 4 || !strings.Contains(strings.Join(got, "\n"), "NodeService/Remove node "+node.Name) {
		t.Errorf("audit: %q", got)
	}
}

func TestTokenOfAnotherClusterAndDamagedTokens(t *testing.T) {
	a, b := cluster(t, nil, "n1")["n1"], cluster(t, nil, "n1")["n1"]
	a.start()
	b.start()
	a.until("a healthy cluster", healthy(1, ""))
	b.until("a healthy cluster", healthy(1, ""))
	_, node := another(t, a, "n2")
	inv, err := peer.ParseToken(ask(t, a.nodes().Invite, &v1.InviteNodeRequest{Node: node}).GetToken())
	if err != nil {
		t.Fatal(err)
	}
	other, err := identity.Load(b.state)
	if err != nil {
		t.Fatal(err)
	}
	inv.Addresses = nil
	for _, l := range other.Self().GetLinks() {
		inv.Addresses = append(inv.Addresses, l.GetAddress())
	}
	token, err := peer.Token(inv)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "state")
	if _, _, err := cli.JoinCluster(t.Context(), token, dir); err == nil || !strings.Contains(err.Error(), "another authority") {
		t.Errorf("an impostor gets the secret: %v", err)
	}
	for _, text := range []string{"", "x", token[:len(token)-3], token + "x", "holdfast-join-1.", "holdfast-join-1.AAAA"} {
		if _, _, err := cli.JoinCluster(t.Context(), text, dir); err == nil {
			t.Errorf("%q is a token", text)
		}
	}
	if _, err := os.Lstat(dir); err == nil {
		t.Error("something was written")
	}
}

// Heartbeat key, certificates and authority are replaced while everything runs:
// no node is suspected, and what was used before is refused afterwards.
func TestRotations(t *testing.T) {
	ms := cluster(t, []*v1.Group{service("n1", "n2", "n3")}, "n1", "n2", "n3")
	for _, m := range ms {
		m.start()
	}
	for _, m := range ms {
		m.until("a healthy cluster", healthy(3, "web"))
	}
	n1 := ms["n1"]
	security := func() *v1.SecurityResponse { return ask(t, n1.clusters().Security, &v1.SecurityRequest{}) }
	await := func(what string, ok func(*v1.SecurityResponse) bool) {
		t.Helper()
		end := time.Now().Add(patience)
		for range time.Tick(20 * time.Millisecond) {
			s := security()
			if ok(s) {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("waited for %s: %v", what, s)
			}
		}
	}
	everybody := func(f func(*v1.NodeSecurity) bool) func(*v1.SecurityResponse) bool {
		return func(s *v1.SecurityResponse) bool {
			for _, n := range s.GetNodes() {
				if !f(n) {
					return false
				}
			}
			return s.GetHeartbeatKey().GetProgress() == "" && s.GetAuthority().GetProgress() == ""
		}
	}
	await("the nodes to say how they stand", everybody(func(n *v1.NodeSecurity) bool { return n.GetHeartbeatKey() == 1 && n.GetAuthority() == 1 }))
	epoch := n1.until("a healthy cluster", healthy(3, "web")).GetEpoch()
	first, err := identity.Load(n1.state)
	if err != nil {
		t.Fatal(err)
	}

	ask(t, n1.clusters().Rotate, &v1.RotateRequest{What: v1.Rotatable_ROTATABLE_HEARTBEAT_KEY})
	await("the next heartbeat key", everybody(func(n *v1.NodeSecurity) bool { return n.GetHeartbeatKey() == 2 }))
	ask(t, ms["n2"].clusters().Rotate, &v1.RotateRequest{What: v1.Rotatable_ROTATABLE_CERTIFICATES})
	before := map[string]int64{}
	for _, n := range security().GetNodes() {
		before[n.GetNode()] = n.GetCertificateEndsMs()
	}
	ask(t, ms["n3"].clusters().Rotate, &v1.RotateRequest{What: v1.Rotatable_ROTATABLE_AUTHORITY})
	await("the next authority", everybody(func(n *v1.NodeSecurity) bool { return n.GetAuthority() == 2 }))

	if s := n1.until("a healthy cluster", healthy(3, "web")); s.GetEpoch() != epoch {
		t.Errorf("the view has changed: epoch %d, was %d", s.GetEpoch(), epoch)
	}
	for _, code := range []string{"node.evicted", "node.stays", "resource.faulted"} {
		if got := events(t, n1, code); len(got) > 0 {
			t.Errorf("%s: %q", code, got)
		}
	}
	// What was used before is forgotten soon after.
	var secret []byte
	for _, m := range ms {
		var id *identity.Identity
		m.until("only the newest keys", func(*v1.StatusResponse) bool {
			if id, err = identity.Load(m.state); err != nil {
				return false // in the middle of a change
			}
			keys, err := id.Keys()
			return err == nil && keys.Current.Generation == 2 && keys.Old.Generation == 0 && keys.Next.Generation == 0 && id.Trusts() == 1
		})
		if secret == nil {
			secret = id.Secret
		}
		if string(id.Secret) != string(secret) || string(secret) == string(first.Secret) {
			t.Errorf("%s has another key", m.name)
		}
	}
	// A node that is started again finds its place with the new keys.
	n2 := ms["n2"]
	_ = n2.guard.Process.Kill()
	for _, pid := range n2.clusterd() {
		_ = exec.Command("kill", "-9", fmt.Sprint(pid)).Run()
	}
	for _, pid := range n2.services() {
		_ = exec.Command("kill", "-9", fmt.Sprint(pid)).Run()
	}
	n2.gone()
	n2.start()
	n2.until("the node to be back", healthy(3, "web"))
}

// A node that was down during a change of the heartbeat key gets it when it comes back.
func TestKeyRotationWithoutAMember(t *testing.T) {
	ms := cluster(t, nil, "n1", "n2", "n3")
	for _, m := range ms {
		m.start()
	}
	for _, m := range ms {
		m.until("a healthy cluster", healthy(3, ""))
	}
	n1, n3 := ms["n1"], ms["n3"]
	ask(t, n1.nodes().Stop, &v1.StopNodeRequest{Node: n3.name})
	n3.gone()
	n1.until("two members", healthy(2, ""))
	end := time.Now().Add(patience)
	ask(t, n1.clusters().Rotate, &v1.RotateRequest{What: v1.Rotatable_ROTATABLE_HEARTBEAT_KEY})
	for range time.Tick(20 * time.Millisecond) {
		if s := ask(t, n1.clusters().Security, &v1.SecurityRequest{}); s.GetHeartbeatKey().GetGeneration() == 2 && s.GetHeartbeatKey().GetProgress() == "" {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the key does not change")
		}
	}
	n3.start()
	n1.until("three members", healthy(3, ""))
	n3.until("three members", healthy(3, ""))
}

// curlAs another system user.
func curlAs(t *testing.T, user string, m *machine, procedure, body string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c := exec.CommandContext(ctx, "setpriv", "--reuid="+user, "--clear-groups", "curl", "-sS", "--unix-socket", filepath.Join(m.run, APISocket),
		"-H", "Content-Type: application/json", "-d", body, "http://node/holdfast.v1."+procedure)
	out, err := c.CombinedOutput()
	return string(out), err
}

func TestUsersOnSocketAndByCertificate(t *testing.T) {
	ms := cluster(t, []*v1.Group{service("n1")}, "n1")
	m := ms["n1"]
	m.start()
	m.until("the service", healthy(1, "web"))
	// The run directory of a test is below a private one.
	for dir := filepath.Dir(m.run); strings.HasPrefix(dir, os.TempDir()+"/"); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	const daemon = "daemon" // a user that every system has
	if out, err := curlAs(t, daemon, m, "ClusterService/Status", "{}"); err == nil {
		t.Errorf("without any users the socket is open: %s", out)
	}
	ask(t, m.users().Set, &v1.SetUserRequest{User: &v1.User{Name: daemon, Groups: map[string]v1.Role{"web": v1.Role_ROLE_OPERATOR}}})
	m.until("the socket to be open", func(*v1.StatusResponse) bool {
		info, err := os.Stat(filepath.Join(m.run, APISocket))
		return err == nil && info.Mode().Perm() == 0o666
	})
	for _, private := range []string{"guard.sock", "guard.lock"} {
		if info, err := os.Stat(filepath.Join(m.run, private)); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %v, %v", private, info.Mode(), err)
		}
	}
	if out, err := curlAs(t, daemon, m, "ClusterService/Status", "{}"); err != nil || !strings.Contains(out, `"verdict"`) {
		t.Errorf("a user sees no status: %s %v", out, err)
	}
	if out, err := curlAs(t, daemon, m, "GroupService/Freeze", `{"group":"web"}`); err != nil || strings.Contains(out, "code") {
		t.Errorf("an operator can't freeze the group: %s %v", out, err)
	}
	for procedure, body := range map[string]string{
		"NodeService/Stop": `{"node":"` + m.name + `"}`, "UserService/Set": `{"user":{"name":"daemon","role":"ROLE_ADMINISTRATOR"}}`, "ConfigService/Export": "{}",
	} {
		if out, _ := curlAs(t, daemon, m, procedure, body); !strings.Contains(out, "permission_denied") {
			t.Errorf("%s is allowed: %s", procedure, out)
		}
	}
	if out, _ := curlAs(t, "nobody", m, "ClusterService/Status", "{}"); !strings.Contains(out, "is no user of this cluster") {
		t.Errorf("nobody is somebody: %s", out)
	}
	m.until("the refusals to be noted", func(*v1.StatusResponse) bool { return len(events(t, m, "audit.refused")) > 0 })
	if got := strings.Join(events(t, m, "audit.done"), "\n"); !strings.Contains(got, "user daemon from "+m.name+": GroupService/Freeze group web") {
		t.Errorf("audit: %s", got)
	}

	// By a certificate, from elsewhere.
	id, err := identity.Load(m.state)
	if err != nil {
		t.Fatal(err)
	}
	address := id.Self().GetLinks()[0].GetAddress()
	dir := filepath.Join(t.TempDir(), "alice")
	run := func(args ...string) string {
		var out strings.Builder
		cli.Main(t.Context(), cli.Streams{In: strings.NewReader(""), Out: &out, Err: &out}, args)
		return out.String()
	}
	socket := filepath.Join(m.run, APISocket)
	if out := run("--api", socket, "user", "cert", "alice", "--out", dir); !strings.Contains(out, "there is no user") {
		t.Errorf("a certificate for nobody: %s", out)
	}
	run("--api", socket, "user", "add", "alice", "--role", "guest")
	if out := run("--api", socket, "user", "cert", "alice", "--out", dir); !strings.Contains(out, "made") {
		t.Fatal(out)
	}
	remote := []string{"--api", "https://" + address, "--client-dir", dir}
	if out := run(append(remote, "user", "whoami")...); out != "user alice: guest\n" {
		t.Errorf("whoami: %q", out)
	}
	if out := run(append(remote, "group", "offline", "web")...); !strings.Contains(out, "HF4003") {
		t.Errorf("a guest takes a group offline: %s", out)
	}
	run("--api", socket, "user", "delete", "alice")
	if out := run(append(remote, "status")...); !strings.Contains(out, "HF4") {
		t.Errorf("after the deletion: %s", out)
	}
	run("--api", socket, "user", "add", "alice", "--role", "administrator")
	if out := run(append(remote, "status")...); !strings.Contains(out, "HF4") && !strings.Contains(out, "certificate") {
		t.Errorf("an old certificate of a new user: %s", out)
	}
}

// A cluster that is destroyed leaves nothing.
func TestDestroy(t *testing.T) {
	ms := cluster(t, []*v1.Group{service("n1", "n2")}, "n1", "n2", "n3")
	for _, m := range ms {
		m.start()
	}
	for _, m := range ms {
		m.until("a healthy cluster", healthy(3, "web"))
	}
	n1 := ms["n1"]
	if _, err := try(t, n1.clusters().Destroy, &v1.DestroyClusterRequest{Name: "test"}); err == nil || !strings.Contains(err.Error(), "not offline") {
		t.Errorf("destroyed while web runs: %v", err)
	}
	var out strings.Builder
	args := []string{"--api", filepath.Join(n1.run, APISocket), "cluster", "destroy", "--yes-destroy"}
	streams := cli.Streams{In: strings.NewReader(""), Out: &out, Err: &out}
	if status := cli.Main(t.Context(), streams, append(args, "tset")); status != 2 {
		t.Errorf("another name: status %d: %s", status, out.String())
	}
	if status := cli.Main(t.Context(), streams, append(args, "test")); status != 0 {
		t.Fatalf("status %d: %s", status, out.String())
	}
	for _, m := range ms {
		select {
		case err := <-m.ended:
			if err != nil {
				t.Errorf("guard of %s ended with %v", m.name, err)
			}
		case <-time.After(patience):
			t.Fatalf("%s goes on", m.name)
		}
		if left, _ := os.ReadDir(m.state); len(left) > 0 {
			t.Errorf("%s still has %v", m.name, left)
		}
		if s := m.services(); len(s) > 0 {
			t.Errorf("%s still runs %v", m.name, s)
		}
	}
}

// The quorum is lost for good, and an administrator goes on with one node: a
// node of the old lineage is refused until it has joined anew.
func TestNewLineage(t *testing.T) {
	ms := cluster(t, []*v1.Group{service("n1", "n2", "n3")}, "n1", "n2", "n3")
	for _, m := range ms {
		m.start()
	}
	for _, m := range ms {
		m.until("a healthy cluster", healthy(3, "web"))
	}
	ask(t, ms["n2"].users().Set, &v1.SetUserRequest{User: &v1.User{Name: "alice", Role: v1.Role_ROLE_GUEST}})
	for _, m := range ms {
		_ = m.guard.Process.Kill()
		for _, pid := range append(m.clusterd(), m.services()...) {
			_ = exec.Command("kill", "-9", fmt.Sprint(pid)).Run()
		}
		m.gone()
	}
	n1, n2 := ms["n1"], ms["n2"]
	var out strings.Builder
	run := func(args ...string) int {
		out.Reset()
		return cli.Main(t.Context(), cli.Streams{In: strings.NewReader(""), Out: &out, Err: &out}, args)
	}
	if status := run("cluster", "reseed", "--new-lineage", "--state-dir", n1.state); status != 2 || !strings.Contains(out.String(), "--others-are-down") {
		t.Errorf("without the word that the others are down: %d %s", status, out.String())
	}
	if status := run("cluster", "reseed", "--new-lineage", "--others-are-down", "--state-dir", n1.state); status != 0 {
		t.Fatal(out.String())
	}
	n1.start()
	// It goes on alone, with what was committed.
	n1.until("one member with the service", func(s *v1.StatusResponse) bool { return healthy(1, "web")(s) && onlineOn(s, "web") == n1.name })
	if u := ask(t, n1.users().List, &v1.ListUsersRequest{}).GetUsers(); len(u) != 1 {
		t.Errorf("users %v", u)
	}
	n2.start()
	n1.until("the old node to be told", func(*v1.StatusResponse) bool {
		log := n2.log.String()
		return strings.Contains(log, "taken back") || strings.Contains(log, "lineage")
	})
	_ = n2.guard.Process.Kill()
	for _, pid := range n2.clusterd() {
		_ = exec.Command("kill", "-9", fmt.Sprint(pid)).Run()
	}
	n2.gone()
	if s := n1.until("one member", healthy(1, "web")); len(s.GetNodes()) != 3 {
		t.Errorf("nodes %v", s.GetNodes())
	}
	if err := os.Rename(n2.state, n2.state+".old"); err != nil {
		t.Fatal(err)
	}
	token := ask(t, n1.nodes().Invite, &v1.InviteNodeRequest{Node: &v1.Node{Name: n2.name}}).GetToken()
	if _, _, err := cli.JoinCluster(t.Context(), token, n2.state); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(n2.run); err != nil { // as after a reboot
		t.Fatal(err)
	}
	if err := os.Mkdir(n2.run, 0o700); err != nil {
		t.Fatal(err)
	}
	n2.start()
	n1.until("two members", healthy(2, "web"))
	n2.until("two members", healthy(2, "web"))
}

// A backup becomes a cluster of its own.
func TestBackupIsRestored(t *testing.T) {
	ms := cluster(t, []*v1.Group{service("n1", "n2")}, "n1", "n2")
	for _, m := range ms {
		m.start()
	}
	n1 := ms["n1"]
	for _, m := range ms {
		m.until("a healthy cluster", healthy(2, "web"))
	}
	file, dir := filepath.Join(t.TempDir(), "backup"), t.TempDir()
	var out strings.Builder
	run := func(args ...string) int {
		out.Reset()
		return cli.Main(t.Context(), cli.Streams{In: strings.NewReader(""), Out: &out, Err: &out}, args)
	}
	for _, args := range [][]string{
		{"--api", filepath.Join(n1.run, APISocket), "cluster", "backup", file},
		{"cluster", "restore", file, "--node", ms["n2"].name, "--out", dir},
	} {
		if status := run(args...); status != 0 {
			t.Fatalf("%v: %d: %s", args, status, out.String())
		}
	}
	if status := run("--api", filepath.Join(n1.run, APISocket), "cluster", "backup", file); status == 0 {
		t.Error("a backup is overwritten")
	}
	for _, m := range ms {
		_ = m.guard.Process.Kill()
		for _, pid := range append(m.clusterd(), m.services()...) {
			_ = exec.Command("kill", "-9", fmt.Sprint(pid)).Run()
		}
		m.gone()
	}
	n2 := ms["n2"]
	n2.state = filepath.Join(dir, n2.name)
	if err := os.RemoveAll(n2.run); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(n2.run, 0o700); err != nil {
		t.Fatal(err)
	}
	n2.start()
	// One of two nodes is less than the seed count: an administrator does not wait for the other.
	n2.until("a quorum", func(s *v1.StatusResponse) bool { return s.GetSource().GetQuorum() })
	if status := run("--api", filepath.Join(n2.run, APISocket), "cluster", "seed"); status != 0 {
		t.Errorf("seed: %d: %s", status, out.String())
	}
	n2.until("the restored cluster", func(s *v1.StatusResponse) bool { return healthy(1, "web")(s) && onlineOn(s, "web") == n2.name })
	if status := run("--api", filepath.Join(n2.run, APISocket), "cluster", "seed"); status != 4 {
		t.Errorf("seeded twice: %d: %s", status, out.String())
	}
}
