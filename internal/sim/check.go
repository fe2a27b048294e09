package sim

import (
	"fmt"
	"slices"
	"strings"
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	pb "github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
	"github.com/holdfast-ha/holdfast/internal/node/engine"
)

// A checker holds what a run must never break (the labels of the package
// comment).
type checker struct {
	c        *cluster
	views    map[uint64]string // N1: members by epoch
	digests  map[uint64]string // N3: state by applied index
	digestBy map[uint64]string
	acks     []ack             // N4
	members  map[string]uint64 // raft id of each node's newest incarnation in a view
	fenced   map[string]uint64 // evicted incarnations that are not proven to have stopped
	proven   map[string]uint64 // the newest incarnation of each node that is (N5)
	left     map[string]uint64 // the newest that has left by order
	events   uint64            // number of the newest event that was looked at
	newest   *pb.State
	newestAt uint64
	diskLost int
}

// An ack is what somebody was promised.
type ack struct {
	index uint64 // it is in every state from this one on
	by    string
	what  string
	holds func(*pb.State) bool
}

func newChecker(c *cluster) *checker {
	return &checker{c: c, views: map[uint64]string{}, digests: map[uint64]string{}, digestBy: map[uint64]string{},
		members: map[string]uint64{}, fenced: map[string]uint64{}, proven: map[string]uint64{}, left: map[string]uint64{}}
}

// applied looks at the state that a node has reached.
func (k *checker) applied(n *node) {
	s := n.engine.State()
	if s == nil {
		return
	}
	index := n.engine.AppliedIndex()
	var members []string
	for _, m := range s.GetView().GetMembers() {
		members = append(members, fmt.Sprintf("%s:%d", m.GetNode(), m.GetRaftId()))
	}
	epoch, view := s.GetView().GetEpoch(), strings.Join(members, " ")
	if was := k.views[epoch]; was == "" {
		k.views[epoch] = view
		k.c.tell("--", "view %d: %s", epoch, view)
		k.c.count("view")
	} else if was != view {
		k.c.fail("N1", "view %d is %s on %s, and was %s", epoch, view, n.name, was)
	}
	if n.maxEpoch > epoch && n.engine.RaftID() == n.maxEpochID {
		k.c.fail("N1", "%s went back from view %d to %d", n.name, n.maxEpoch, epoch)
	}
	n.maxEpoch, n.maxEpochID = epoch, n.engine.RaftID()
	digest := state.Digest(s)
	if was := k.digests[index]; was == "" {
		k.digests[index], k.digestBy[index] = digest, n.name
	} else if was != digest {
		k.c.fail("N3", "after entry %d the state of %s is %s, and that of %s was %s", index, n.name, digest, k.digestBy[index], was)
	}
	k.clockRuns(s, index)
	if index > k.newestAt {
		k.newest, k.newestAt = s, index
		k.proofs(s)
	}
}

// proofs follows which incarnations are said to have stopped: evicted ones, by
// their proof or by the word of the next incarnation, and those that resigned because
// their log is lost. One that leaves by order may hold its lease until it hears
// of it, but runs nothing.
func (k *checker) proofs(s *pb.State) {
	left := map[string]bool{}
	for _, e := range s.GetEvents() {
		if e.GetNumber() > k.events {
			k.events = e.GetNumber()
			left[e.GetNode()] = left[e.GetNode()] || e.GetCode() == "node.left"
		}
	}
	for _, n := range k.c.nodes {
		st, id, was := s.GetNodeStatus()[n.name], uint64(0), k.members[n.name]
		m := state.MemberOf(s, n.name)
		switch {
		case st.GetFence() != nil:
			k.fenced[n.name] = st.GetFence().GetRaftId()
		case k.fenced[n.name] != 0:
			if len(state.DetachedOn(s, n.name)) == 0 { // else it has come back with what it was left running
				id = k.fenced[n.name]
			}
			delete(k.fenced, n.name)
		case was != 0 && m.GetRaftId() != was:
			id = was
		}
		if m != nil {
			k.members[n.name] = m.GetRaftId()
		}
		if id <= k.proven[n.name] || id <= k.left[n.name] {
			continue
		}
		if left[n.name] {
			k.left[n.name] = id
		} else {
			k.proven[n.name] = id
			k.c.count("proven")
			k.lease(n)
		}
		for _, g := range k.c.config.GetGroups() {
			if n.up && n.host.alive(g.GetName()) && n.excused() <= k.c.now && n.leaseID == id {
				k.c.fail("N5", "incarnation %d of %s is proven to have stopped, but processes of %s are alive there", id, n.name, g.GetName())
			}
		}
	}
}

// lease looks whether a node holds one as an incarnation that is proven to have
// stopped. A paused node's clock counts, so that nothing excuses it.
func (k *checker) lease(n *node) {
	if n.guard == nil || !n.guard.LeaseHeld(n.local()) {
		n.hadLease = false
		return
	}
	if !n.hadLease {
		n.hadLease = true
		n.leaseID = n.guard.Configured().GetRaftId()
	}
	if n.leaseID != 0 && n.leaseID <= k.proven[n.name] {
		k.c.fail("N5", "incarnation %d of %s is proven to have stopped, but holds a lease for %v", n.leaseID, n.name, n.leaseUntil-n.local())
	}
}

// acknowledged: a command was answered; from now on it must not be lost.
func (k *checker) acknowledged(n *node, cmd *pb.Command, r engine.Result) {
	a := ack{index: n.engine.AppliedIndex(), by: n.name}
	switch x := cmd.GetChange().(type) {
	case *pb.Command_Note:
		text := x.Note.GetEvents()[0].GetMessage()
		number := eventNumber(n.engine.State(), text)
		if number == 0 {
			k.c.fail("N4", "%s acknowledged note %q, but has not applied it", n.name, text)
			return
		}
		a.what = "note " + text
		a.holds = func(s *pb.State) bool {
			return eventNumber(s, text) == number || len(s.GetEvents()) > 0 && s.GetEvents()[0].GetNumber() > number
		}
	case *pb.Command_Operate:
		id := r.Operation
		a.what = fmt.Sprintf("operation %d", id)
		a.holds = func(s *pb.State) bool {
			if len(s.GetOperations()) > 0 && s.GetOperations()[0].GetId() > id {
				return true // the log keeps the newest
			}
			return slices.ContainsFunc(s.GetOperations(), func(op *v1.Operation) bool { return op.GetId() == id })
		}
	default:
		return
	}
	k.c.count("ack")
	k.acks = append(k.acks, a)
	k.promises(n)
}

func eventNumber(s *pb.State, text string) uint64 {
	for _, e := range s.GetEvents() {
		if e.GetMessage() == text {
			return e.GetNumber()
		}
	}
	return 0
}

// promises looks whether a node's state holds all that it must.
func (k *checker) promises(n *node) {
	if n.engine == nil || n.engine.State() == nil {
		return
	}
	for _, a := range k.acks {
		if a.index <= n.engine.AppliedIndex() && !a.holds(n.engine.State()) {
			k.c.fail("N4", "%s was acknowledged by %s at entry %d; %s has applied entry %d and does not have it",
				a.what, a.by, a.index, n.name, n.engine.AppliedIndex())
		}
	}
}

// processes looks on which nodes a group runs.
func (k *checker) processes(group string) {
	var awake, all []string
	for _, n := range k.c.nodes {
		if !n.up || !n.host.alive(group) {
			continue
		}
		all = append(all, n.name)
		if excused := n.excused(); excused > k.c.now {
			if excused < forever {
				k.c.at(excused, func() { k.processes(group) })
			}
			continue
		}
		awake = append(awake, n.name)
	}
	if len(all) > 1 {
		k.c.count("stale.processes")
	}
	if len(all) > 1 && k.c.requiresPower(group) {
		k.c.fail("N2", "processes of %s, which requires power, are alive on %s, be they paused or not", group, strings.Join(all, " and "))
	}
	if len(awake) > 1 {
		k.c.fail("N2", "processes of %s are alive on %s", group, strings.Join(awake, " and "))
	}
}

// allProcesses after something that ends an excuse.
func (k *checker) allProcesses() {
	for _, g := range k.c.config.GetGroups() {
		k.processes(g.GetName())
	}
}

const forever = time.Duration(1<<63 - 1)

// hopeless: so many disks are gone that only an administrator could help. The
// newest view may be known to no voter any more who lives; then the one before,
// by which the living must vote, counts. (A learner that knows it can't pass it on.)
func (k *checker) hopeless() bool {
	var living *pb.State
	for _, n := range k.c.nodes {
		if n.engine != nil && state.MemberOf(n.engine.State(), n.name) != nil && n.engine.State().GetView().GetEpoch() > living.GetView().GetEpoch() {
			living = n.engine.State()
		}
	}
	return k.lostMajority(k.newest) || k.lostMajority(living)
}

func (k *checker) lostMajority(s *pb.State) bool {
	if s == nil {
		return false
	}
	have := 0
	members := s.GetView().GetMembers()
	for _, m := range members {
		n := k.c.byName[m.GetNode()]
		id := n.store.raftID
		if id == 0 && n.store.snap != nil { // the first incarnation is named by its snapshot
			id = uint64(n.index + 1)
		}
		if id == m.GetRaftId() {
			have++
		}
	}
	return have < state.Majority(len(members))
}

// settled says what is missing for L1 and L2; empty: nothing.
func (k *checker) settled() string {
	c := k.c
	leaders := 0
	var ref *pb.State
	for _, n := range c.nodes {
		if n.engine == nil || !n.proc.alive || n.engine.State() == nil {
			return n.name + " has no running engine with a state"
		}
		s := n.engine.State()
		if ref == nil {
			ref = s
		}
		if s.GetView().GetEpoch() != ref.GetView().GetEpoch() {
			return fmt.Sprintf("%s is in view %d, n1 in %d", n.name, s.GetView().GetEpoch(), ref.GetView().GetEpoch())
		}
		if n.engine.IsLeader() {
			leaders++
		}
		m := state.MemberOf(s, n.name)
		if m == nil || m.GetRaftId() != n.engine.RaftID() {
			return n.name + " is not a member"
		}
	}
	if leaders != 1 {
		return fmt.Sprintf("%d leaders", leaders)
	}
	if why := k.apartSettled(ref); why != "" {
		return why
	}
	for _, op := range ref.GetOperations() {
		if op.GetState() == v1.OperationState_OPERATION_STATE_RUNNING {
			return fmt.Sprintf("operation %d (%s of %s%s) still runs: %s", op.GetId(), op.GetKind(), op.GetGroup(), op.GetNode(), op.GetMessage())
		}
	}
	for _, g := range c.config.GetGroups() {
		var on []string
		for _, n := range c.nodes {
			up := 0
			total := 0
			for _, r := range g.GetResources() {
				if persistent(r.GetName()) {
					continue
				}
				total++
				if n.host.service(g.GetName(), r.GetName()).alive {
					up++
				}
			}
			if up == total {
				on = append(on, n.name)
			} else if up > 0 {
				return fmt.Sprintf("group %s is partly online on %s", g.GetName(), n.name)
			}
		}
		if len(on) != 1 {
			return fmt.Sprintf("group %s is online on %d nodes", g.GetName(), len(on))
		}
		for _, n := range c.nodes {
			for name, place := range n.engine.State().GetGroupStatus()[g.GetName()].GetNodes() {
				for _, r := range g.GetResources() {
					want := v1.ResourceState_RESOURCE_STATE_OFFLINE
					if name == on[0] || persistent(r.GetName()) {
						want = v1.ResourceState_RESOURCE_STATE_ONLINE
					}
					if got := place.GetResources()[r.GetName()].GetState(); got != want && !(want == v1.ResourceState_RESOURCE_STATE_OFFLINE && got == v1.ResourceState_RESOURCE_STATE_FAULTED) {
						return fmt.Sprintf("%s believes %s to be %s on %s", n.name, r.GetName(), got, name)
					}
				}
			}
		}
	}
	return ""
}

// once: no note was applied twice, however often it was proposed.
func (k *checker) once() {
	seen := map[string]bool{}
	for _, e := range k.newest.GetEvents() {
		if e.GetCode() != "sim.note" {
			continue
		}
		if seen[e.GetMessage()] {
			k.c.fail("N4", "note %s was applied twice", e.GetMessage())
		}
		seen[e.GetMessage()] = true
	}
}
