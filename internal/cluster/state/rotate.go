package state

import (
	"crypto/sha256"
	"fmt"

	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	pb "github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// Rotation of what all nodes share: the heartbeat key and the authority. The
// secret itself goes from node to node; here stands only how far everybody is.
//
//	spreading   all get the next one and accept it; it is not used yet
//	switching   everybody has it: it is used as soon as a node knows this; the one before is still accepted
//	done        everybody uses it: the one before is forgotten
//
// So at no moment somebody uses what somebody else does not accept.

// Generation of a rotation's current secret.
func Generation(r *pb.Rotation) uint64 { return max(r.GetCurrent().GetGeneration(), 1) }

func (a *applier) rotation(what pb.Rotate_What) **pb.Rotation {
	switch what {
	case pb.Rotate_WHAT_HEARTBEAT_KEY:
		return &a.s.HeartbeatKey
	case pb.Rotate_WHAT_AUTHORITY:
		return &a.s.Authority
	}
	return nil
}

func (a *applier) rotate(c *pb.Rotate) *Refused {
	if c.GetWhat() == pb.Rotate_WHAT_CERTIFICATES {
		a.s.CertificateRound++
		a.event(&v1.Event{Severity: v1.Severity_SEVERITY_INFORMATION, Code: "certificates.renewed", Message: "all nodes renew their certificates"})
		return nil
	}
	r := a.rotation(c.GetWhat())
	if r == nil {
		return refuse(CodeInvalid, "%v can't be rotated by this version", c.GetWhat())
	}
	name := rotated(c.GetWhat())
	switch {
	case (*r).GetPhase() != pb.RotationPhase_ROTATION_PHASE_UNSPECIFIED:
		return refuse(CodeConflict, "%s is being rotated already: holdfast cluster security shows how far it is", name)
	case c.GetNext().GetGeneration() != Generation(*r)+1:
		return refuse(CodeStale, "%s is at generation %d by now", name, Generation(*r))
	case len(c.GetNext().GetFingerprint()) != sha256.Size || c.GetWhat() == pb.Rotate_WHAT_AUTHORITY && len(c.GetNext().GetCertificate()) == 0:
		return refuse(CodeInvalid, "the next generation of %s is incomplete", name)
	}
	current := (*r).GetCurrent()
	if current == nil {
		current = &pb.Secret{Generation: 1}
	}
	*r = &pb.Rotation{Phase: pb.RotationPhase_ROTATION_PHASE_SPREADING, Current: current, Next: proto.CloneOf(c.GetNext()), Node: c.GetNode(), StartedMs: a.c.GetTimeMs()}
	a.event(&v1.Event{Severity: v1.Severity_SEVERITY_INFORMATION, Code: "rotation.started", Node: c.GetNode(), Message: fmt.Sprintf("generation %d of %s is being handed out", c.GetNext().GetGeneration(), name)})
	return nil
}

func rotated(what pb.Rotate_What) string {
	if what == pb.Rotate_WHAT_AUTHORITY {
		return "the authority"
	}
	return "the heartbeat key"
}

// stand takes a node's word about itself.
func (a *applier) stand(c *pb.Stand) *Refused {
	if a.s.Nodes[c.GetNode()] == nil || c.GetStanding() == nil {
		return refuse(CodeStale, "%s is not configured", c.GetNode())
	}
	m := MemberOf(a.s, c.GetNode())
	if m == nil {
		m = a.s.Learners[c.GetNode()]
	}
	if m.GetRaftId() != c.GetStanding().GetRaftId() {
		return refuse(CodeStale, "%s is another incarnation by now", c.GetNode())
	}
	if a.s.Standings == nil {
		a.s.Standings = map[string]*pb.Standing{}
	}
	a.s.Standings[c.GetNode()] = proto.CloneOf(c.GetStanding())
	return nil
}

// advance what was waiting for somebody's word, or for somebody to leave.
func (a *applier) advance() {
	a.advanceRotation(pb.Rotate_WHAT_HEARTBEAT_KEY)
	a.advanceRotation(pb.Rotate_WHAT_AUTHORITY)
	if p := commonProtocol(a.s); p > max(a.s.GetProtocol(), 1) {
		a.s.Protocol = p
		a.out.ViewChanged = true
		a.event(&v1.Event{Severity: v1.Severity_SEVERITY_INFORMATION, Code: "protocol.raised",
			Message: fmt.Sprintf("all members speak version %d of the protocol: the cluster does so from now on, and nodes that do not are refused", p)})
	}
}

func (a *applier) advanceRotation(what pb.Rotate_What) {
	p := a.rotation(what)
	r := *p
	if r.GetPhase() == pb.RotationPhase_ROTATION_PHASE_UNSPECIFIED || len(RotationWaitsFor(a.s, what)) > 0 {
		return
	}
	switch r.GetPhase() {
	case pb.RotationPhase_ROTATION_PHASE_SPREADING:
		*p = &pb.Rotation{Phase: pb.RotationPhase_ROTATION_PHASE_SWITCHING, Current: r.GetNext(), Previous: r.GetCurrent(), Node: r.GetNode(), StartedMs: r.GetStartedMs()}
		a.event(&v1.Event{Severity: v1.Severity_SEVERITY_INFORMATION, Code: "rotation.switching",
			Message: fmt.Sprintf("all nodes have generation %d of %s and begin to use it", r.GetNext().GetGeneration(), rotated(what))})
	case pb.RotationPhase_ROTATION_PHASE_SWITCHING:
		*p = &pb.Rotation{Current: r.GetCurrent(), Node: r.GetNode(), StartedMs: r.GetStartedMs()}
		a.event(&v1.Event{Severity: v1.Severity_SEVERITY_INFORMATION, Code: "rotation.done",
			Message: fmt.Sprintf("all nodes use generation %d of %s; the one before is refused from now on", r.GetCurrent().GetGeneration(), rotated(what))})
	}
}

// RotationWaitsFor names the nodes that keep a rotation from going on. For the
// heartbeat key these are members: who comes later gets the key when it connects.
// For the authority it is every node that ever was here: one that missed the
// change could not prove who it is any more.
func RotationWaitsFor(s *pb.State, what pb.Rotate_What) (missing []string) {
	r := s.GetHeartbeatKey()
	if what == pb.Rotate_WHAT_AUTHORITY {
		r = s.GetAuthority()
	}
	for _, name := range SortedKeys(s.GetNodes()) {
		st, m := s.GetStandings()[name], MemberOf(s, name)
		if m == nil && (what == pb.Rotate_WHAT_HEARTBEAT_KEY || st == nil) {
			continue
		}
		if m != nil && st.GetRaftId() != m.GetRaftId() {
			missing = append(missing, name)
			continue
		}
		has, uses := st.GetHeartbeatAccepts(), st.GetHeartbeatSends()
		if what == pb.Rotate_WHAT_AUTHORITY {
			has, uses = st.GetAuthorityTrusts(), st.GetAuthorityUses()
		}
		if r.GetPhase() == pb.RotationPhase_ROTATION_PHASE_SPREADING && has < r.GetNext().GetGeneration() ||
			r.GetPhase() == pb.RotationPhase_ROTATION_PHASE_SWITCHING && uses < r.GetCurrent().GetGeneration() {
			missing = append(missing, name)
		}
	}
	return missing
}

// commonProtocol is the highest version that all members speak, 0: somebody has not said yet.
func commonProtocol(s *pb.State) uint32 {
	var lowest uint32
	for _, m := range s.GetView().GetMembers() {
		st := s.GetStandings()[m.GetNode()]
		if st.GetRaftId() != m.GetRaftId() || st.GetProtocolMax() == 0 {
			return 0
		}
		if lowest == 0 || st.GetProtocolMax() < lowest {
			lowest = st.GetProtocolMax()
		}
	}
	return lowest
}
