// Package view decides, on the leader, when the view has to change and how.
//
// A [Keeper] collects what voters state about members that they suspect, what
// members confirm, and how long things have been as they are. [Keeper.Next]
// names the one change that is due. It decides nothing by itself: the change
// becomes true when its entry is applied, and package state checks it there
// once more. A Keeper holds no timer; the caller asks again after every event
// and at the time that Next names.
//
// Every node keeps one, so that a new leader knows at once what was stated.
//
//	V1  a statement counts from the voter that it is of, from its present guard, about the present incarnation
//	V2  at most one configuration change is under way (the caller asks again only after it was applied)
//	V3  a member joins only after the view before was confirmed by every member that can be heard,
//	    and its own guard has begun to acknowledge the others: joining costs nobody a lease
package view

import (
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	pb "github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
	"github.com/holdfast-ha/holdfast/internal/cluster/timers"
)

// Keeper of what is known about the members of the current view.
type Keeper struct {
	// By the suspected and the voter.
	statements map[string]map[string]received
	// Nodes of the state that was looked at last.
	known map[string]bool
	epoch uint64
	// When this node applied the view.
	viewAt time.Duration
	// Epoch and configuration revision that each member has confirmed, by raft id.
	confirmed map[uint64]confirmation
	// When this node applied a silence, by its number.
	silenceAt map[uint64]time.Duration
	// When this node saw a fence appear, by raft id.
	fenceAt map[uint64]time.Duration
	// When this node saw a node's evictions become more, and a member appear, by raft id.
	evictions map[string]evictions
	memberAt  map[uint64]time.Duration
	// When this node saw that the newest attempt to switch a node off had ended, by its number.
	fenceEnded map[uint64]time.Duration
}

type evictions struct {
	count uint32
	last  time.Duration
}

type received struct {
	statement *pb.Statement
	at        time.Duration
}

type confirmation struct {
	epoch, revision uint64
	// When the first word of this incarnation came.
	since time.Duration
}

// maxStrangers is how many nodes that the state does not know may be suspected.
const maxStrangers = 64

// New keeper.
func New() *Keeper {
	return &Keeper{
		statements: map[string]map[string]received{},
		confirmed:  map[uint64]confirmation{},
		silenceAt:  map[uint64]time.Duration{},
		fenceAt:    map[uint64]time.Duration{},
		evictions:  map[string]evictions{},
		memberAt:   map[uint64]time.Duration{},
		fenceEnded: map[uint64]time.Duration{},
	}
}

// State tells that s is the applied state now. Called after every apply that
// changed the view.
func (k *Keeper) State(now time.Duration, s *pb.State) {
	if e := s.GetView().GetEpoch(); e != k.epoch {
		k.epoch, k.viewAt = e, now
	}
	k.known = make(map[string]bool, len(s.GetNodes()))
	for name := range s.GetNodes() {
		k.known[name] = true
	}
	silences, fences, members := map[uint64]time.Duration{}, map[uint64]time.Duration{}, map[uint64]time.Duration{}
	for _, m := range s.GetView().GetMembers() {
		members[m.GetRaftId()] = since(k.memberAt, m.GetRaftId(), now)
	}
	k.memberAt = members
	for name, st := range s.GetNodeStatus() {
		if n := st.GetEvictions(); n != k.evictions[name].count {
			k.evictions[name] = evictions{n, now}
		}
		if sil := st.GetSilence(); sil != nil {
			silences[sil.GetNumber()] = since(k.silenceAt, sil.GetNumber(), now)
		}
		if f := st.GetFence(); f != nil {
			fences[f.GetRaftId()] = since(k.fenceAt, f.GetRaftId(), now)
		}
		for voter, r := range k.statements[name] {
			if state.Over(s, name, r.statement.GetAboutRaftId()) || r.statement.GetStays() < st.GetStays() {
				delete(k.statements[name], voter)
			}
		}
	}
	k.silenceAt, k.fenceAt = silences, fences
	for id := range k.confirmed {
		if !hasRaftID(s, id) {
			delete(k.confirmed, id)
		}
	}
}

func since(known map[uint64]time.Duration, key uint64, now time.Duration) time.Duration {
	if t, ok := known[key]; ok {
		return t
	}
	return now
}

func hasRaftID(s *pb.State, id uint64) bool {
	for _, m := range s.GetView().GetMembers() {
		if m.GetRaftId() == id {
			return true
		}
	}
	for _, l := range s.GetLearners() {
		if l.GetRaftId() == id {
			return true
		}
	}
	return false
}

// Stated takes a statement. A later one of the same voter replaces it.
func (k *Keeper) Stated(now time.Duration, st *pb.Statement) {
	about := k.statements[st.GetAbout()]
	if about == nil {
		if !k.known[st.GetAbout()] && k.strangers() >= maxStrangers {
			return
		}
		about = map[string]received{}
		k.statements[st.GetAbout()] = about
	}
	about[st.GetVoter()] = received{proto.CloneOf(st), now}
}

// strangers counts the names that the state did not know when it was looked at last. Words
// about them are kept, since the state may be older than the word, but not about any number of them.
func (k *Keeper) strangers() int {
	n := 0
	for name := range k.statements {
		if !k.known[name] {
			n++
		}
	}
	return n
}

// Confirmed takes the word of a member, or of a learner, that its guard runs by
// a view and a configuration.
func (k *Keeper) Confirmed(now time.Duration, raftID, epoch, revision uint64) {
	since := now
	if c, ok := k.confirmed[raftID]; ok {
		since = c.since
	}
	k.confirmed[raftID] = confirmation{epoch, revision, since}
}

// Probation is how long a node must still wait before it may join again.
func (k *Keeper) Probation(now time.Duration, s *pb.State, node string) time.Duration {
	return max(0, k.evictions[node].last+state.Probation(s, node)-now)
}

// Suspecting returns the voters that suspect the present incarnation of node,
// as far as it is known here, sorted. The coordination points are named state.WitnessName.
func (k *Keeper) Suspecting(s *pb.State, node string) []string {
	var who []string
	m, stays := state.MemberOf(s, node), s.GetNodeStatus()[node].GetStays()
	for _, voter := range state.SortedKeys(k.statements[node]) {
		st := k.statements[node][voter].statement
		v := state.MemberOf(s, voter)
		id := v.GetRaftId()
		if v.GetGuardIncarnation() > st.GetVoterGuardIncarnation() {
			continue // void: the guard that has come since says it again if it still does
		}
		if voter == state.WitnessName {
			id = state.WitnessID(s)
		}
		if st.GetAboutRaftId() == m.GetRaftId() && st.GetStays() == stays && id == st.GetVoterRaftId() && id != 0 {
			who = append(who, voter)
		}
	}
	return who
}

// Sight is what the leader's own guard and raft see, beyond the state.
type Sight struct {
	// Members that are silent for so long that a suspicion is near.
	Trouble func(node string) bool
	// Members whose heartbeats arrive.
	Heard func(node string) bool
	// Whose suspicion by somebody may end: they are heard again by whoever suspected them.
	HeardAgain func(node string) bool
	// CaughtUp: the learner's log is as long as the leader's.
	CaughtUp func(raftID uint64) bool
	// The leader's own name.
	Self string
	// Resigned: the node says that this incarnation of it has ended.
	Resigned func(node string, raftID uint64) bool
}

// batchWait is how long an eviction waits, as a share of peerinact, for another
// member that is in trouble: two that fail together are evicted together, so
// that the second takeover does not have to wait for leases by the view between.
const batchWait = 4

// acknowledgeBeats heartbeats after a learner's guard was configured all members
// have heard it acknowledge them, or the links are worse than a lease bears anyhow.
const acknowledgeBeats = 3

// Next returns the change that is due, nil if none, and when to ask again at
// the latest (0: after the next event).
func (k *Keeper) Next(now time.Duration, s *pb.State, sight Sight) (*pb.Command, time.Duration) {
	var wake time.Duration
	sooner := func(t time.Duration) {
		if t > now && (wake == 0 || t < wake) {
			wake = t
		}
	}
	if c := k.evict(now, s, sight, sooner); c != nil {
		return &pb.Command{Format: state.Format, Change: &pb.Command_Evict{Evict: c}}, 0
	}
	if c := abandoned(s); c != nil {
		return c, 0
	}
	for _, node := range state.SortedKeys(s.GetNodeStatus()) {
		st := s.NodeStatus[node]
		if f := st.GetFence(); f != nil && f.GetProven() == pb.Proof_PROOF_UNSPECIFIED {
			due := k.fenceAt[f.GetRaftId()] + f.GetWait().AsDuration()
			if now >= due {
				return &pb.Command{Format: state.Format, Change: &pb.Command_Proven{Proven: &pb.Proven{Node: node, RaftId: f.GetRaftId(), Proof: pb.Proof_PROOF_TIME}}}, 0
			}
			sooner(due)
		}
		m := state.MemberOf(s, node)
		if m == nil {
			if c := k.power(now, s, node, sight, sooner); c != nil {
				return c, 0
			}
			continue
		}
		if sight.Resigned(node, m.GetRaftId()) {
			return &pb.Command{Format: state.Format, Change: &pb.Command_Leave{Leave: &pb.Leave{BaseEpoch: k.epoch, Node: node, ResignedRaftId: m.GetRaftId()}}}, 0
		}
		if len(k.Suspecting(s, node)) > 0 && sight.HeardAgain(node) {
			return &pb.Command{Format: state.Format, Change: &pb.Command_Stays{Stays: &pb.Stays{Node: node, RaftId: m.GetRaftId()}}}, 0
		}
		if st.GetEvictions() > 0 {
			due := k.memberAt[m.GetRaftId()] + state.SteadyAfter
			if now >= due {
				return &pb.Command{Format: state.Format, Change: &pb.Command_Steady{Steady: &pb.Steady{Node: node, RaftId: m.GetRaftId()}}}, 0
			}
			sooner(due)
		}
		if sil := st.GetSilence(); sil != nil {
			due := k.silenceAt[sil.GetNumber()] + sil.GetLength().AsDuration()
			if now >= due && sight.Heard(node) {
				return &pb.Command{Format: state.Format, Change: &pb.Command_SilenceOver{SilenceOver: &pb.SilenceOver{Node: node, Number: sil.GetNumber()}}}, 0
			}
			sooner(due)
		}
		if st.GetPhase() == pb.NodePhase_NODE_PHASE_LEAVING && node != sight.Self && len(s.View.Members) > 1 && state.MayLeave(s, node) == "" && (st.GetDetach() || !stopPending(s, node)) {
			return &pb.Command{Format: state.Format, Change: &pb.Command_Leave{Leave: &pb.Leave{BaseEpoch: k.epoch, Node: node}}}, 0
		}
	}
	if s.GetLongestPeerinact().AsDuration() > state.Peerinact(s) && k.allConfirmed(s, func(c confirmation) bool { return c.revision >= s.GetConfigRevision() }, nil) {
		return &pb.Command{Format: state.Format, Change: &pb.Command_TimersSettled{TimersSettled: &pb.TimersSettled{ConfigRevision: s.GetConfigRevision()}}}, 0
	}
	if s.GetWitness().GetWanted() != nil {
		return &pb.Command{Format: state.Format, Change: &pb.Command_SetPoints{SetPoints: &pb.SetPoints{BaseEpoch: k.epoch, RaftId: s.GetNextRaftId()}}}, 0
	}
	for _, node := range state.SortedKeys(s.GetLearners()) {
		l := s.Learners[node]
		confirmed := k.allConfirmed(s, func(c confirmation) bool { return c.epoch >= k.epoch }, sight.Heard)
		own, ok := k.confirmed[l.GetRaftId()]
		if !ok || !confirmed || l.GetGuardIncarnation() == 0 || !sight.Heard(node) || !sight.CaughtUp(l.GetRaftId()) {
			continue
		}
		// Its vote counts for everybody's lease from then on: it has to be acknowledging by then.
		heartbeat, _, _ := timers.Effective(s.GetCluster().GetTimers())
		if due := own.since + acknowledgeBeats*heartbeat; now < due {
			sooner(due)
		} else {
			return &pb.Command{Format: state.Format, Change: &pb.Command_Promote{Promote: &pb.Promote{BaseEpoch: k.epoch, Node: node, RaftId: l.GetRaftId()}}}, 0
		}
	}
	return nil, wake
}

// stopPending: the planner has not yet looked at groups that the node should give up.
func stopPending(s *pb.State, node string) bool {
	for _, gs := range s.GetGroupStatus() {
		if gs.GetNodes()[node].GetWant() == v1.Want_WANT_ONLINE {
			return true
		}
	}
	return false
}

func (k *Keeper) allConfirmed(s *pb.State, ok func(confirmation) bool, heard func(string) bool) bool {
	for _, m := range s.GetView().GetMembers() {
		if heard != nil && !heard(m.GetNode()) {
			continue
		}
		if !ok(k.confirmed[m.GetRaftId()]) {
			return false
		}
	}
	return true
}

// evict names all members that a majority suspects.
func (k *Keeper) evict(now time.Duration, s *pb.State, sight Sight, sooner func(time.Duration)) *pb.Evict {
	e := &pb.Evict{BaseEpoch: k.epoch, ViewAge: durationpb.New(now - k.viewAt)}
	var first time.Duration
	trouble := false
	for _, m := range s.GetView().GetMembers() {
		node := m.GetNode()
		if node == sight.Self {
			continue // those who suspect the leader elect another first (package engine)
		}
		if len(k.statements[node]) == 0 { // the usual case, after every event
			trouble = trouble || sight.Trouble(node)
			continue
		}
		var mine []*pb.Statement
		var newest time.Duration
		for _, voter := range state.SortedKeys(k.statements[node]) {
			r := k.statements[node][voter]
			st := proto.CloneOf(r.statement)
			st.Age = durationpb.New(st.GetAge().AsDuration() + now - r.at)
			mine = append(mine, st)
			newest = max(newest, r.at)
		}
		one := &pb.Evict{BaseEpoch: k.epoch, ViewAge: e.ViewAge, Statements: mine, Evictees: []*pb.Evictee{{
			Node:          node,
			ConfirmedView: k.confirmed[m.GetRaftId()].epoch >= k.epoch,
		}}}
		if sil := s.GetNodeStatus()[node].GetSilence(); sil != nil {
			one.Evictees[0].SilenceAge = durationpb.New(now - k.silenceAt[sil.GetNumber()])
		}
		if _, err := state.CheckEvict(s, one); err != nil {
			trouble = trouble || sight.Trouble(node) || len(mine) > 0 && !sight.Heard(node)
			continue
		}
		if first == 0 || newest < first {
			first = newest
		}
		e.Evictees = append(e.Evictees, one.Evictees...)
		e.Statements = append(e.Statements, mine...)
	}
	if len(e.Evictees) == 0 {
		return nil
	}
	arbitrated := !slices.ContainsFunc(e.Evictees, func(v *pb.Evictee) bool {
		return !slices.Contains(k.Suspecting(s, v.GetNode()), state.WitnessName)
	})
	if most := state.MostEvictees(s, arbitrated); len(e.Evictees) > most {
		// Nodes that reach no one suspect everyone: those that most voters suspect go first.
		slices.SortStableFunc(e.Evictees, func(a, b *pb.Evictee) int {
			return len(k.Suspecting(s, b.GetNode())) - len(k.Suspecting(s, a.GetNode()))
		})
		e.Evictees = e.Evictees[:max(most, 0)]
		if len(e.Evictees) == 0 {
			return nil
		}
	}
	if until := first + state.Peerinact(s)/batchWait; trouble && now < until {
		sooner(until)
		return nil
	}
	return e
}
