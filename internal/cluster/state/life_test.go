package state

import (
	"crypto/sha256"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	pb "github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// do applies a change and returns why it was refused, empty: it was not.
func do(s *pb.State, c *pb.Command) string {
	before := Digest(s)
	o := Apply(s, c)
	if o.Refused == nil {
		return ""
	}
	if Digest(s) != before {
		panic("a refused command has changed the state: " + o.Refused.Message)
	}
	return o.Refused.Message
}

func invitation(id, node string, secret string) *pb.Command {
	hash := sha256.Sum256([]byte(secret))
	return &pb.Command{TimeMs: 1000, Change: &pb.Command_Invite{Invite: &pb.Invite{Invitation: &pb.Invitation{
		Id: id, Node: &v1.Node{Name: node, Links: []*v1.Link{{Name: "a", Address: "10.9.9.9"}}}, SecretHash: hash[:], ExpiresMs: 5000}}}}
}

func enrolls(id string, key byte) *pb.Command {
	return &pb.Command{Change: &pb.Command_Enroll{Enroll: &pb.Enroll{Id: id, Key: append([]byte{key}, make([]byte, 31)...)}}}
}

func wants(t *testing.T, what, got, want string) {
	t.Helper()
	if want == "" && got != "" || want != "" && !strings.Contains(got, want) {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

func TestInvitations(t *testing.T) {
	s := three(t)
	wants(t, "a member's name", do(s, invitation("i0", "n1", "x")), "it has left")
	wants(t, "invite", do(s, invitation("i1", "n4", "x")), "")
	wants(t, "the same id", do(s, invitation("i1", "n5", "x")), "already")
	wants(t, "another for the node", do(s, invitation("i2", "n4", "y")), "")
	if s.Invitations["i1"] != nil || s.Nodes["n4"] != nil {
		t.Error("the older token is still good, or the node is configured before anybody has joined")
	}
	if _, err := CheckEnroll(s, "i2", []byte("x"), make([]byte, 32)); err == nil {
		t.Error("a wrong secret is good")
	}
	if _, err := CheckEnroll(s, "i2", []byte("y"), make([]byte, 32)); err != nil {
		t.Error(err)
	}
	revision := s.GetConfigRevision()
	wants(t, "enroll", do(s, enrolls("i2", 1)), "")
	wants(t, "the same key again", do(s, enrolls("i2", 1)), "")
	wants(t, "another key", do(s, enrolls("i2", 2)), "another machine")
	if s.Nodes["n4"] == nil || s.ConfigRevision != revision+1 || s.Certificates["node/n4"] != 1 || s.NodeStatus["n4"].GetNumber() == 0 {
		t.Errorf("enrolled: %v, revision %d, certificates %v", s.Nodes["n4"], s.ConfigRevision, s.Certificates)
	}
	wants(t, "withdraw", do(s, &pb.Command{Change: &pb.Command_Withdraw{Withdraw: &pb.Withdraw{Id: "i2"}}}), "")
	wants(t, "withdraw again", do(s, &pb.Command{Change: &pb.Command_Withdraw{Withdraw: &pb.Withdraw{Id: "i2"}}}), "no invitation")
	if _, err := CheckEnroll(s, "i2", []byte("y"), append([]byte{1}, make([]byte, 31)...)); err == nil {
		t.Error("a withdrawn token is good")
	}
	for i := range MostInvitations {
		if msg := do(s, invitation("m"+string(rune('0'+i%10))+string(rune('a'+i/10)), "m"+string(rune('0'+i%10))+string(rune('a'+i/10)), "x")); msg != "" {
			t.Fatal(i, msg)
		}
	}
	wants(t, "one too many", do(s, invitation("more", "more", "x")), "withdraw some")
	late := invitation("more", "more", "x")
	late.TimeMs = 6000
	wants(t, "after the others' end", do(s, late), "")
}

func TestRemoveNode(t *testing.T) {
	s := three(t)
	remove := func(n string, groups bool) string {
		return do(s, &pb.Command{Change: &pb.Command_RemoveNode{RemoveNode: &pb.RemoveNode{Node: n, FromGroups: groups}}})
	}
	wants(t, "a member", remove("n3", true), "it is a member")
	wants(t, "nobody", remove("n9", true), "no node n9")
	s.View.Members = s.View.Members[:2]
	s.NodeStatus["n3"] = &pb.NodeStatus{Phase: pb.NodePhase_NODE_PHASE_FAULTED, Fence: &pb.Fence{RaftId: 3}}
	wants(t, "not proven to have stopped", remove("n3", true), "not yet proven")
	s.NodeStatus["n3"].Fence = nil
	s.Learners["n3"] = &pb.Member{Node: "n3", RaftId: 7}
	wants(t, "joining", remove("n3", true), "it is joining")
	wants(t, "another machine in its place", do(s, invitation("j", "n3", "x")), "")
	delete(s.Learners, "n3")
	s.Groups["web"].SystemList = []string{"n1", "n3"}
	wants(t, "on a system list", remove("n3", false), "--from-groups")
	s.Groups["web"].SystemList = []string{"n3"}
	wants(t, "the only node of a group", remove("n3", true), "only node of group web")
	s.Groups["web"].SystemList = []string{"n1", "n3"}
	s.Groups["web"].AutoStartList = []string{"n3"}
	wants(t, "remove", remove("n3", true), "")
	if s.Nodes["n3"] != nil || s.NodeStatus["n3"] != nil || s.Certificates["node/n3"] != 1 || len(s.Groups["web"].SystemList) != 1 || len(s.Groups["web"].AutoStartList) != 0 {
		t.Errorf("removed: %v %v %v", s.Nodes["n3"], s.Certificates, s.Groups["web"])
	}
	wants(t, "another machine of the name", do(s, invitation("i", "n3", "x")), "")
	if s.Invitations["i"].GetCertificate() != 2 || s.Invitations["j"] != nil {
		t.Errorf("generation %d", s.Invitations["i"].GetCertificate())
	}
}

func TestUsers(t *testing.T) {
	s := three(t)
	set := func(u *v1.User) string {
		return do(s, &pb.Command{Change: &pb.Command_SetUser{SetUser: &pb.SetUser{User: u}}})
	}
	wants(t, "no name", set(&v1.User{}), "has a name")
	wants(t, "no such group", set(&v1.User{Name: "a", Groups: map[string]v1.Role{"x": 1}}), "no group x")
	wants(t, "set", set(&v1.User{Name: "a", Role: v1.Role_ROLE_GUEST, Groups: map[string]v1.Role{"web": v1.Role_ROLE_OPERATOR}}), "")
	if got := RolesOf(s.Users["a"]); got != "guest, operator of group web" {
		t.Error(got)
	}
	c := &pb.Command{TimeMs: 7, Audit: &pb.Audit{Who: "root", From: "n1", Procedure: "UserService/Delete", Object: "a"},
		Change: &pb.Command_DeleteUser{DeleteUser: &pb.DeleteUser{Name: "a"}}}
	wants(t, "delete", do(s, proto.CloneOf(c)), "")
	if e := s.Events[len(s.Events)-1]; e.GetCode() != "audit.done" || e.GetMessage() != "root from n1: UserService/Delete a" || e.GetTimeMs() != 7 {
		t.Errorf("%v", e)
	}
	n := len(s.Events)
	wants(t, "delete again", do(s, c), "no user a")
	if len(s.Events) != n || s.Certificates["client/a"] != 1 {
		t.Errorf("%d events, were %d; %v", len(s.Events), n, s.Certificates)
	}
}

func standing(s *pb.State, node string, change func(*pb.Standing)) *pb.Command {
	st := &pb.Standing{RaftId: MemberOf(s, node).GetRaftId(), ProtocolMin: 1, ProtocolMax: 1, HeartbeatAccepts: 1, HeartbeatSends: 1, AuthorityTrusts: 1, AuthorityUses: 1}
	change(st)
	return &pb.Command{Change: &pb.Command_Stand{Stand: &pb.Stand{Node: node, Standing: st}}}
}

// A key is used only when all accept it, and dropped only when all use the next.
func TestRotationPhases(t *testing.T) {
	s := three(t)
	at := func(accepts, sends uint64) func(*pb.Standing) {
		return func(st *pb.Standing) { st.HeartbeatAccepts, st.HeartbeatSends = accepts, sends }
	}
	phase := func() string {
		r := s.GetHeartbeatKey()
		return strings.ToLower(strings.TrimPrefix(r.GetPhase().String(), "ROTATION_PHASE_")) + " " + strings.Join(RotationWaitsFor(s, pb.Rotate_WHAT_HEARTBEAT_KEY), ",")
	}
	rotate := func(g uint64) string {
		return do(s, &pb.Command{Change: &pb.Command_Rotate{Rotate: &pb.Rotate{What: pb.Rotate_WHAT_HEARTBEAT_KEY, Node: "n1", Next: &pb.Secret{Generation: g, Fingerprint: make([]byte, 32)}}}})
	}
	wants(t, "generation 3", rotate(3), "at generation 1")
	wants(t, "generation 2", rotate(2), "")
	wants(t, "twice", rotate(2), "already")
	for _, step := range []struct {
		node           string
		accepts, sends uint64
		want           string
	}{
		{"n1", 2, 1, "spreading n2,n3"}, {"n2", 2, 1, "spreading n3"}, {"n3", 1, 1, "spreading n3"}, {"n3", 2, 1, "switching n1,n2,n3"},
		{"n1", 2, 2, "switching n2,n3"}, {"n3", 2, 2, "switching n2"},
	} {
		wants(t, "stand", do(s, standing(s, step.node, at(step.accepts, step.sends))), "")
		if got := phase(); got != step.want {
			t.Errorf("%s: %s, want %s", step.node, got, step.want)
		}
	}
	// A word of an earlier incarnation does not count.
	wants(t, "an earlier incarnation", do(s, standing(s, "n2", func(st *pb.Standing) { st.RaftId, st.HeartbeatSends = 99, 2 })), "another incarnation")
	// The one that is waited for is evicted: nobody waits for it any more.
	s.View.Members = s.View.Members[:1]
	wants(t, "stand", do(s, standing(s, "n1", at(2, 2))), "")
	if got := phase(); got != "unspecified " || Generation(s.GetHeartbeatKey()) != 2 || s.GetHeartbeatKey().GetPrevious() != nil {
		t.Error(got, s.GetHeartbeatKey())
	}
}

func TestProtocolRisesWithTheLastMember(t *testing.T) {
	s := three(t)
	speaks := func(node string, highest uint32) uint32 {
		t.Helper()
		wants(t, "stand", do(s, standing(s, node, func(st *pb.Standing) { st.ProtocolMax = highest })), "")
		return s.GetProtocol()
	}
	for _, step := range []struct {
		node    string
		highest uint32
		want    uint32
	}{{"n1", 3, 0}, {"n2", 2, 0}, {"n3", 1, 0}, {"n3", 2, 2}, {"n1", 2, 2}, {"n2", 1, 2}} {
		if got := speaks(step.node, step.highest); got != step.want {
			t.Errorf("after %s speaks %d: version %d, want %d", step.node, step.highest, got, step.want)
		}
	}
}

func TestBackupAndNewLineage(t *testing.T) {
	s := three(t)
	wants(t, "user", do(s, &pb.Command{Change: &pb.Command_SetUser{SetUser: &pb.SetUser{User: &v1.User{Name: "a", Role: v1.Role_ROLE_GUEST}}}}), "")
	wants(t, "invite", do(s, invitation("i1", "n4", "x")), "")
	s.GroupStatus["web"].Instances = map[string]*pb.Instance{"": {HeldOffline: true}}
	raw := Backup(s)
	back, err := FromBackup(raw)
	if err != nil || back.GetUsers()["a"] == nil || len(back.GetInvitations()) != 0 || len(back.GetEvents()) != 0 {
		t.Fatal(err, back)
	}
	for name, bad := range map[string][]byte{"nothing": nil, "cut": raw[:len(raw)-1], "changed": append([]byte(nil), append(raw[:60:60], append([]byte{raw[60] ^ 1}, raw[61:]...)...)...), "another": []byte("x")} {
		if _, err := FromBackup(bad); err == nil {
			t.Errorf("%s is a backup", name)
		}
	}
	before := Digest(back)
	n, err := Anew(back, "n2", "l1")
	if err != nil || Digest(back) != before {
		t.Fatal(err)
	}
	if m := n.View.Members; len(m) != 1 || m[0].GetNode() != "n2" || m[0].GetRaftId() != s.NextRaftId || n.NextRaftId != s.NextRaftId+1 || n.View.Epoch <= s.View.Epoch {
		t.Errorf("view %v", n.View)
	}
	if n.Certificates["node/n1"] != 1 || n.Certificates["node/n2"] != 0 || !HeldOffline(n.GroupStatus["web"]) || n.Lineage != "l1" {
		t.Errorf("%v %v", n.Certificates, n.GroupStatus["web"])
	}
	if _, err := Anew(back, "n9", "l1"); err == nil {
		t.Error("a node that is not configured begins")
	}
	if again, err := Unmarshal(Marshal(n)); err != nil || Digest(again) != Digest(n) {
		t.Error(err)
	}
}

func TestDestroy(t *testing.T) {
	s := three(t)
	destroy := func(name string) string {
		return do(s, &pb.Command{Change: &pb.Command_Destroy{Destroy: &pb.Destroy{Name: name}}})
	}
	wants(t, "another", destroy("x"), "name the cluster")
	wants(t, "not known to be offline", destroy(s.GetCluster().GetName()), "not offline")
	s.GroupStatus = map[string]*pb.GroupStatus{}
	wants(t, "destroy", destroy(s.GetCluster().GetName()), "")
	if !s.Destroyed {
		t.Error("it is not")
	}
}
