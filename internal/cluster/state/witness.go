package state

import (
	"fmt"
	"path/filepath"
	"slices"

	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	pb "github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// The coordination points, which together are one voter.

// WitnessName stands for the coordination points where voters have names; no node has it.
const WitnessName = ""

// WitnessID is the raft id of the coordination points where they vote, else 0.
func WitnessID(s *pb.State) uint64 {
	if w := s.GetWitness(); w.GetVotes() {
		return w.GetRaftId()
	}
	return 0
}

// Voters of the view, the coordination points included.
func Voters(s *pb.State) int {
	n := len(s.GetView().GetMembers())
	if WitnessID(s) != 0 {
		n++
	}
	return n
}

// WitnessVotes says whether points vote in a view with so many members: exactly
// where the number is even, so that healthy nodes alone are always a majority.
func WitnessVotes(points []*v1.CoordinationPoint, members int) bool {
	return len(points) > 0 && members%2 == 0
}

// MaxNodes of a cluster; also the number of blocks on a lock disk.
const MaxNodes = 64

// numberNodes gives every node without one the lowest number that is free.
func numberNodes(s *pb.State) {
	used := map[uint32]bool{}
	for _, st := range s.NodeStatus {
		used[st.GetNumber()] = true
	}
	next := uint32(1)
	for _, name := range SortedKeys(s.NodeStatus) {
		if st := s.NodeStatus[name]; st.GetNumber() == 0 {
			for used[next] {
				next++
			}
			st.Number, used[next] = next, true
		}
	}
}

// CheckPoints says what is wrong with a set of coordination points.
func CheckPoints(points []*v1.CoordinationPoint) *Refused {
	if n := len(points); n != 0 && n != 1 && n != 3 {
		return refuse(CodeInvalid, "%d coordination points: one or three are possible (of two, the loss of either would stop them all)", n)
	}
	names, places := map[string]bool{}, map[string]string{}
	for _, p := range points {
		name := p.GetName()
		var place string
		switch k := p.GetKind().(type) {
		case *v1.CoordinationPoint_Arbiter:
			if k.Arbiter.GetAddress() == "" || len(k.Arbiter.GetKeyFingerprint()) != 64 || k.Arbiter.GetInstance() == "" {
				return refuse(CodeInvalid, "coordination point %s needs the arbiter's address, key fingerprint and instance: holdfast quorum add takes them from a token of the arbiter", name)
			}
			place = "arbiter " + k.Arbiter.GetInstance()
		case *v1.CoordinationPoint_LockDisk:
			if !filepath.IsAbs(k.LockDisk.GetPath()) || len(k.LockDisk.GetDisk()) != 32 {
				return refuse(CodeInvalid, "coordination point %s needs an absolute path and the identity of a formatted lock disk", name)
			}
			place = "lock disk " + k.LockDisk.GetDisk()
		default:
			return refuse(CodeInvalid, "coordination point %s is neither an arbiter nor a lock disk", name)
		}
		switch other := places[place]; {
		case name == "":
			return refuse(CodeInvalid, "a coordination point has no name")
		case names[name]:
			return refuse(CodeConflict, "there are two coordination points named %s", name)
		case other != "":
			return refuse(CodeConflict, "%s and %s are the same %s: points must fail independently", other, name, place)
		}
		names[name], places[place] = true, name
	}
	return nil
}

func (a *applier) wantPoints(c *pb.WantPoints) *Refused {
	w := a.s.GetWitness()
	if c.GetBaseRaftId() != w.GetRaftId() || w.GetWanted() != nil {
		return refuse(CodeStale, "the coordination points have changed meanwhile, or are being changed: look again with holdfast quorum show")
	}
	if err := CheckPoints(c.GetPoints()); err != nil {
		return err
	}
	if w == nil {
		w = &pb.Witness{}
		a.s.Witness = w
	}
	w.Wanted = &pb.Points{}
	for _, p := range c.GetPoints() {
		w.Wanted.Points = append(w.Wanted.Points, proto.CloneOf(p))
	}
	a.out.ViewChanged = true
	return nil
}

// setPoints begins a view in which the wanted points vote, if any do.
func (a *applier) setPoints(c *pb.SetPoints) *Refused {
	if err := a.checkBase(c.GetBaseEpoch()); err != nil {
		return err
	}
	w := a.s.GetWitness()
	switch {
	case w.GetWanted() == nil:
		return refuse(CodeStale, "no other coordination points are wanted")
	case c.GetRaftId() != a.s.NextRaftId:
		return refuse(CodeStale, "the next raft id is %d, not %d", a.s.NextRaftId, c.GetRaftId())
	}
	a.s.NextRaftId++
	var names []string
	for _, p := range w.Wanted.GetPoints() {
		names = append(names, p.GetName())
	}
	slices.Sort(names)
	w.RaftId, w.Points, w.Wanted = c.GetRaftId(), w.Wanted.GetPoints(), nil
	a.nextView(nil, nil)
	text := "there are no coordination points any more"
	if len(names) > 0 {
		text = fmt.Sprintf("the coordination points are %v", names)
	}
	a.event(&v1.Event{Severity: v1.Severity_SEVERITY_INFORMATION, Code: "quorum.changed", Message: text})
	return nil
}
