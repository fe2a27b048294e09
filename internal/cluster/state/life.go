package state

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	pb "github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// The life of a cluster: who may join, who is gone for good, who may do what.
// Rotations of what all nodes share are in rotate.go.

// MostInvitations that are open at a time, and MostUsers.
const (
	MostInvitations = 128
	MostUsers       = 1024
)

// CertificateOf a node, and of a client, in State.certificates.
func CertificateOf(node string) string         { return "node/" + node }
func ClientCertificateOf(client string) string { return "client/" + client }

func (a *applier) life() *Refused {
	switch c := a.c.GetChange().(type) {
	case *pb.Command_Invite:
		return a.invite(c.Invite)
	case *pb.Command_Enroll:
		return a.enroll(c.Enroll)
	case *pb.Command_Withdraw:
		return a.withdraw(c.Withdraw)
	case *pb.Command_RemoveNode:
		return a.removeNode(c.RemoveNode)
	case *pb.Command_SetUser:
		return a.setUser(c.SetUser)
	case *pb.Command_DeleteUser:
		return a.deleteUser(c.DeleteUser)
	case *pb.Command_Stand:
		return a.stand(c.Stand)
	case *pb.Command_Rotate:
		return a.rotate(c.Rotate)
	case *pb.Command_Destroy:
		return a.destroy(c.Destroy)
	}
	return refuse(CodeInvalid, "the command has no change in it")
}

// audited makes an event of who has asked for a command that was applied.
func (a *applier) audited() {
	if by := a.c.GetAudit(); by != nil && !a.same {
		a.event(AuditEvent(by, ""))
	}
}

// AuditEvent is the event of a command, or with a reason of its refusal.
func AuditEvent(by *pb.Audit, refused string) *v1.Event {
	what := strings.TrimSpace(by.GetProcedure() + " " + by.GetObject())
	if refused != "" {
		return &v1.Event{Severity: v1.Severity_SEVERITY_WARNING, Code: "audit.refused", Message: fmt.Sprintf("%s from %s was refused %s: %s", by.GetWho(), by.GetFrom(), what, refused)}
	}
	return &v1.Event{Severity: v1.Severity_SEVERITY_INFORMATION, Code: "audit.done", Message: fmt.Sprintf("%s from %s: %s", by.GetWho(), by.GetFrom(), what)}
}

func (a *applier) invite(c *pb.Invite) *Refused {
	inv := proto.CloneOf(c.GetInvitation())
	name := inv.GetNode().GetName()
	switch {
	case inv.GetId() == "" || name == "" || len(inv.GetSecretHash()) != sha256.Size || inv.GetExpiresMs() == 0:
		return refuse(CodeInvalid, "an invitation has an id, a node, the hash of a secret and an end")
	case a.s.Invitations[inv.GetId()] != nil:
		return refuse(CodeStale, "there is an invitation %s already", inv.GetId())
	}
	if err := a.mayEnroll(name); err != nil {
		return err
	}
	for _, id := range SortedKeys(a.s.GetInvitations()) {
		old := a.s.Invitations[id]
		if old.GetNode().GetName() == name || old.GetExpiresMs() < a.c.GetTimeMs() { // by a clock, which only tidies up here
			delete(a.s.Invitations, id)
		}
	}
	if len(a.s.Invitations) >= MostInvitations {
		return refuse(CodeConflict, "there are %d open invitations: withdraw some with holdfast node withdraw ID", len(a.s.Invitations))
	}
	if a.s.Invitations == nil {
		a.s.Invitations = map[string]*pb.Invitation{}
	}
	inv.Certificate, inv.UsedBy = a.s.GetCertificates()[CertificateOf(name)]+1, nil
	a.s.Invitations[inv.GetId()] = inv
	a.nodeEvent(v1.Severity_SEVERITY_INFORMATION, "node.invited", name, "a machine may join as %s with token %s", name, inv.GetId())
	return nil
}

// mayEnroll: nobody of that name runs anything here. One that is still catching
// up does not, and is replaced when the next one asks to join.
func (a *applier) mayEnroll(name string) *Refused {
	switch {
	case MemberOf(a.s, name) != nil:
		return refuse(CodeConflict, "%s is a member: nobody else can join by that name before it has left (holdfast node stop %s)", name, name)
	case a.s.NodeStatus[name].GetFence() != nil:
		return refuse(CodeConflict, "%s was evicted and is not yet proven to have stopped: nobody else can join by that name before that", name)
	}
	return nil
}

// CheckEnroll says whether an invitation is good for somebody who knows the
// secret and has the key. Whether it has ended is for the caller's clock.
func CheckEnroll(s *pb.State, id string, secret, key []byte) (*pb.Invitation, *Refused) {
	inv := s.GetInvitations()[id]
	if inv == nil {
		return nil, refuse(CodeNotFound, "this token is not known here: it was used, withdrawn or replaced by another one; make a new one with holdfast node token")
	}
	if sum := sha256.Sum256(secret); !bytes.Equal(sum[:], inv.GetSecretHash()) {
		return nil, refuse(CodeConflict, "this token is not the one that was made")
	}
	if used := inv.GetUsedBy(); len(used) > 0 && !bytes.Equal(used, key) {
		return nil, refuse(CodeConflict, "another machine has used this token already; make a new one with holdfast node token, and if that was not you, remove %s", inv.GetNode().GetName())
	}
	return inv, nil
}

func (a *applier) enroll(c *pb.Enroll) *Refused {
	inv := a.s.Invitations[c.GetId()]
	if inv == nil || len(c.GetKey()) != sha256.Size {
		return refuse(CodeNotFound, "there is no invitation %q", c.GetId())
	}
	if bytes.Equal(inv.GetUsedBy(), c.GetKey()) {
		return nil // it asks again: the answer was lost
	}
	if len(inv.GetUsedBy()) > 0 {
		return refuse(CodeConflict, "another machine has used invitation %s already", c.GetId())
	}
	name := inv.GetNode().GetName()
	if err := a.mayEnroll(name); err != nil {
		return err
	}
	inv.UsedBy = bytes.Clone(c.GetKey())
	a.refuseBefore(CertificateOf(name), inv.GetCertificate())
	delete(a.s.Standings, name)
	if a.s.Nodes[name] == nil {
		a.s.Nodes[name] = proto.CloneOf(inv.GetNode())
		a.status(name)
		a.welcomeNode(name)
		numberNodes(a.s)
		a.configChanged()
	}
	a.out.ViewChanged = true // addresses
	a.nodeEvent(v1.Severity_SEVERITY_INFORMATION, "node.enrolled", name, "a machine has got the identity of %s with token %s", name, c.GetId())
	return nil
}

// refuseBefore refuses certificates of earlier generations.
func (a *applier) refuseBefore(whose string, generation uint64) {
	if a.s.Certificates == nil {
		a.s.Certificates = map[string]uint64{}
	}
	a.s.Certificates[whose] = max(a.s.Certificates[whose], generation)
}

func (a *applier) withdraw(c *pb.Withdraw) *Refused {
	inv := a.s.Invitations[c.GetId()]
	if inv == nil {
		return refuse(CodeNotFound, "there is no invitation %s: holdfast node tokens shows all", c.GetId())
	}
	delete(a.s.Invitations, c.GetId())
	a.nodeEvent(v1.Severity_SEVERITY_INFORMATION, "node.uninvited", inv.GetNode().GetName(), "token %s is void", c.GetId())
	return nil
}

func (a *applier) removeNode(c *pb.RemoveNode) *Refused {
	name := c.GetNode()
	if a.s.Nodes[name] == nil {
		return refuse(CodeNotFound, "there is no node %s: holdfast node list shows all", name)
	}
	if err := a.mayEnroll(name); err != nil || a.s.Learners[name] != nil {
		return refuse(CodeConflict, "%s can't be removed: %s", name, notYet(a.s, name))
	}
	var listed []string
	for _, g := range SortedKeys(a.s.Groups) {
		list := a.s.Groups[g].GetSystemList()
		if !slices.Contains(list, name) {
			continue
		}
		if len(list) == 1 {
			return refuse(CodeConflict, "%s is the only node of group %s: give the group another node, or remove the group first", name, g)
		}
		if !onAllNodes(a.s.Groups[g]) { // there nobody has listed it
			listed = append(listed, g)
		}
	}
	if len(listed) > 0 && !c.GetFromGroups() {
		return refuse(CodeConflict, "%s is on the system list of %s: take it off there, or remove it with --from-groups", name, strings.Join(listed, ", "))
	}
	for _, g := range SortedKeys(a.s.Groups) {
		if slices.Contains(a.s.Groups[g].GetSystemList(), name) {
			a.s.Groups[g] = forgetNode(a.s.Groups[g], name)
		}
	}
	delete(a.s.Nodes, name)
	delete(a.s.NodeStatus, name)
	delete(a.s.Standings, name)
	a.fitSignals()
	for _, id := range SortedKeys(a.s.GetInvitations()) {
		if a.s.Invitations[id].GetNode().GetName() == name {
			delete(a.s.Invitations, id)
		}
	}
	a.refuseBefore(CertificateOf(name), a.s.GetCertificates()[CertificateOf(name)]+1)
	a.configChanged()
	a.out.ViewChanged = true
	a.nodeEvent(v1.Severity_SEVERITY_WARNING, "node.removed", name, "%s was removed from the cluster; its certificate is refused from now on", name)
	return nil
}

// notYet says why a node is still in the cluster.
func notYet(s *pb.State, name string) string {
	switch {
	case MemberOf(s, name) != nil:
		return fmt.Sprintf("it is a member; holdfast node stop %s lets it leave, and a dead one is evicted by itself", name)
	case s.Learners[name] != nil:
		return "it is joining; let it become a member and leave, or let another machine join by its name (holdfast node token " + name + ")"
	}
	return "it is not yet proven to have stopped; holdfast node show " + name + " says what is waited for"
}

func (a *applier) setUser(c *pb.SetUser) *Refused {
	u := proto.CloneOf(c.GetUser())
	switch {
	case u.GetName() == "":
		return refuse(CodeInvalid, "a user has a name")
	case a.s.Users[u.GetName()] == nil && len(a.s.Users) >= MostUsers:
		return refuse(CodeConflict, "there are %d users, more are not possible", len(a.s.Users))
	}
	for _, g := range SortedKeys(u.GetGroups()) {
		if a.s.Groups[g] == nil {
			return refuse(CodeNotFound, "there is no group %s: holdfast group list shows all", g)
		}
	}
	if a.s.Users == nil {
		a.s.Users = map[string]*v1.User{}
	}
	a.s.Users[u.GetName()] = u
	a.event(&v1.Event{Severity: v1.Severity_SEVERITY_INFORMATION, Code: "user.set", Message: "user " + u.GetName() + " is " + RolesOf(u)})
	return nil
}

// RolesOf a user in words.
func RolesOf(u *v1.User) string {
	var all []string
	if u.GetRole() != v1.Role_ROLE_UNSPECIFIED {
		all = append(all, RoleName(u.GetRole()))
	}
	for _, g := range SortedKeys(u.GetGroups()) {
		all = append(all, RoleName(u.GetGroups()[g])+" of group "+g)
	}
	if len(all) == 0 {
		return "nobody"
	}
	return strings.Join(all, ", ")
}

// RoleName as people write it.
func RoleName(r v1.Role) string { return strings.ToLower(strings.TrimPrefix(r.String(), "ROLE_")) }

func (a *applier) deleteUser(c *pb.DeleteUser) *Refused {
	if a.s.Users[c.GetName()] == nil {
		return refuse(CodeNotFound, "there is no user %s: holdfast user list shows all", c.GetName())
	}
	delete(a.s.Users, c.GetName())
	whose := ClientCertificateOf(c.GetName())
	a.refuseBefore(whose, a.s.GetCertificates()[whose]+1)
	a.event(&v1.Event{Severity: v1.Severity_SEVERITY_INFORMATION, Code: "user.deleted", Message: "user " + c.GetName() + " was deleted; certificates of that name are refused from now on"})
	return nil
}

func (a *applier) destroy(c *pb.Destroy) *Refused {
	if c.GetName() != a.s.GetCluster().GetName() {
		return refuse(CodeInvalid, "this is cluster %q, not %q: name the cluster that is to be destroyed", a.s.GetCluster().GetName(), c.GetName())
	}
	for _, m := range a.s.View.GetMembers() {
		if busy := BusyGroups(a.s, m.GetNode()); len(busy) > 0 {
			return refuse(CodeConflict, "%s is not offline on %s: a cluster can be destroyed when nothing runs in it", strings.Join(busy, ", "), m.GetNode())
		}
	}
	a.s.Destroyed = true
	a.out.ViewChanged = true
	a.event(&v1.Event{Severity: v1.Severity_SEVERITY_CRITICAL, Code: "cluster.destroyed", Message: "the cluster is given up: its nodes forget it"})
	return nil
}
