package engine

import (
	"encoding/binary"
	"slices"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/consensus"
	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
	"github.com/holdfast-ha/holdfast/internal/cluster/witness"
	"github.com/holdfast-ha/holdfast/internal/cluster/witness/witnesspb"
)

// The coordination points as seen by one node: raft's messages to their vote,
// renewals of this node's lease at them, and, on the leader, their statements.
// docs/witness.md has the rules.

type points struct {
	client *witness.Client
	// What client was made from.
	register, raftID uint64
	number           uint32
	given            []*v1.CoordinationPoint
	// Renewals that were asked for, oldest first.
	wanted []wantedRenewal
	// Members that guard found silent when it asked: since when, and when last.
	silent map[string]silentSince
	// Until when this node, on the side that should lose, leaves the points alone.
	withheld time.Duration
	// Leader: the points take part in commits, because the members alone can't.
	needed bool
	// Members whose log does not follow: since when, and where it stood.
	behind map[uint64]behind
	asked  map[string]time.Duration
	wake   time.Duration
}

type wantedRenewal struct {
	at   time.Duration
	what *guardpb.WitnessWanted
	// Of guard, by which it counts.
	incarnation uint64
}

// behindLimit leaves time for a heartbeat and its answer before raft takes leadership from a node whom no majority
// answers: if the points took part only after that, it would begin anew for ever.
const behindLimit = consensus.ElectionTimeout / 2

type silentSince struct{ first, last time.Duration }

type behind struct {
	match uint64
	since time.Duration
}

func (p *points) init() {
	p.silent, p.behind, p.asked = map[string]silentSince{}, map[uint64]behind{}, map[string]time.Duration{}
}

// ToPoint is a request for a coordination point. It is answered with FromPoint;
// no answer within Timeout is an answer too.
type ToPoint struct {
	Point   string
	Call    uint64
	Request *witnesspb.Request
	Timeout time.Duration
}

// Points of the cluster, for the driver to connect to.
type Points struct {
	Points []*v1.CoordinationPoint
	// Block of this node on lock disks.
	Number uint32
	RaftID uint64
}

// PointStatus tells how this node finds the coordination points; empty: there are none.
func (e *Engine) PointStatus() []witness.PointStatus {
	if e.points.client == nil {
		return nil
	}
	return e.points.client.Status()
}

// pointsOn keeps the client of the points as the state wants it, and carries
// between it, raft, guard and the keeper.
func (e *Engine) pointsOn() {
	p := &e.points
	e.fitPoints()
	p.wake = 0
	if p.client == nil {
		return
	}
	e.lookWhoIsNeeded()
	e.takeSides()
	e.askStatements()
	p.client.Tick(e.now)
	out := p.client.Take()
	for _, r := range out.Requests {
		e.out.ToPoints = append(e.out.ToPoints, ToPoint{Point: r.Point, Call: r.Call, Request: r.Request, Timeout: r.Timeout})
	}
	for _, m := range out.Responses {
		if e.raft != nil && m.GetTo() == e.RaftID() {
			e.raft.Step(m)
		}
	}
	for _, m := range out.Lost {
		if e.raft == nil {
			continue
		}
		e.raft.Dropped(m)
		if m.GetType() == raftpb.MsgApp && p.needed {
			e.beatPoints()
		}
	}
	for _, r := range out.Renewed {
		e.renewed(r.Since)
	}
	for _, st := range out.Statements {
		e.logf("engine: the coordination points suspect %s, which they have acknowledged last %v ago", st.About, st.Age.Round(time.Millisecond))
		e.keeper.Stated(e.now, &statepb.Statement{
			Voter: state.WitnessName, VoterRaftId: p.register, About: st.About, AboutRaftId: st.RaftID,
			Stays: st.Stays, Age: durationpb.New(st.Age),
		})
	}
	p.wake = out.Wake
	if p.withheld > e.now && (p.wake == 0 || p.withheld < p.wake) {
		p.wake = p.withheld
	}
}

// fitPoints makes a client for the present register.
func (e *Engine) fitPoints() {
	p := &e.points
	w, number := e.s.GetWitness(), e.s.GetNodeStatus()[e.node].GetNumber()
	id := e.RaftID()
	if len(w.GetPoints()) == 0 || e.self() == nil {
		if p.client != nil || p.given != nil {
			*p = points{}
			p.init()
			e.out.Points = &Points{}
		}
		return
	}
	if p.client != nil && p.register == w.GetRaftId() && p.raftID == id && p.number == number {
		return
	}
	withheld := p.withheld
	*p = points{register: w.GetRaftId(), raftID: id, number: number, given: w.GetPoints(), withheld: withheld}
	p.init()
	cfg := witness.Config{
		Cluster: e.s.GetCluster().GetUuid(), Register: w.GetRaftId(), Node: e.node, RaftID: id,
		Proposer: e.proposer, Peerinact: state.Peerinact(e.s),
	}
	give := &Points{Number: number, RaftID: id}
	for _, point := range w.GetPoints() {
		kind := witness.Arbiter
		if point.GetLockDisk() != nil {
			kind = witness.LockDisk
		}
		cfg.Points = append(cfg.Points, witness.PointInfo{Name: point.GetName(), Kind: kind})
		give.Points = append(give.Points, proto.CloneOf(point))
	}
	e.proposer += 0x9e3779b97f4a7c15 // of each client its own, as random as the first
	p.client = witness.New(cfg)
	if withheld > e.now {
		p.client.Withhold(e.now, withheld)
	}
	e.out.Points = give
}

func (e *Engine) fromPoint(in FromPoint) {
	if e.points.client != nil {
		e.points.client.Reply(e.now, in.Point, in.Call, in.Reply, in.Err)
	}
}

// toWitness takes a message of raft that is for the points' vote. A leader's
// reach them only while they are needed: points that know more than the member
// that survives would keep it from leading.
func (e *Engine) toWitness(m *raftpb.Message) {
	p := &e.points
	switch t := m.GetType(); t {
	case raftpb.MsgPreVote, raftpb.MsgVote:
	case raftpb.MsgApp, raftpb.MsgHeartbeat, raftpb.MsgSnap:
		if !p.needed && p.client != nil {
			e.lookWhoIsNeeded() // this node may have begun to lead just now
		}
		if !p.needed {
			if t != raftpb.MsgHeartbeat {
				e.raft.Dropped(m)
			}
			return
		}
	default:
		return
	}
	if p.client == nil || p.register != m.GetTo() {
		e.raft.Dropped(m)
		return
	}
	p.client.Step(e.now, positions(m))
}

// positions of m's entries, without what is in them; of those that begin a
// view its epoch remains.
func positions(m *raftpb.Message) *raftpb.Message {
	slim := &raftpb.Message{
		Type: m.Type, To: m.To, From: m.From, Term: m.Term, LogTerm: m.LogTerm, Index: m.Index,
		Commit: m.Commit, Context: m.Context, Reject: m.Reject,
	}
	for _, ent := range m.GetEntries() {
		one := &raftpb.Entry{Type: ent.Type, Term: ent.Term, Index: ent.Index}
		if c := viewCommand(ent); c != nil {
			one.Data = epochBytes(baseEpoch(c) + 1)
		}
		slim.Entries = append(slim.Entries, one)
	}
	if snap := m.GetSnapshot(); snap != nil {
		slim.Snapshot = &raftpb.Snapshot{Metadata: snap.GetMetadata()}
		if s, err := state.Unmarshal(snap.GetData()); err == nil {
			slim.Snapshot.Data = epochBytes(s.GetView().GetEpoch())
		}
	}
	return slim
}

func epochBytes(epoch uint64) []byte { return binary.BigEndian.AppendUint64(nil, epoch) }

// lookWhoIsNeeded: where the nodes whose logs follow this leader's are no majority
// of the voters, the points are needed. By raft's configuration, which may
// still be joint when the view has changed.
func (e *Engine) lookWhoIsNeeded() {
	p := &e.points
	if !e.IsLeader() {
		p.needed = false
		clear(p.behind)
		return
	}
	conf := e.raft.ConfState()
	now, before := e.pointsDecide(conf.GetVoters()), e.pointsDecide(conf.GetVotersOutgoing())
	was := p.needed
	if p.needed = now || before; p.needed && !was {
		e.logf("engine: the coordination points take part in commits: too few members follow")
		e.beatPoints()
	}
}

// beatPoints has the points answer a heartbeat now: the library sends them no other
// append before it hears from them, and its own next heartbeat may come too late
// for a leader of whom nobody else is heard.
func (e *Engine) beatPoints() {
	if e.points.client == nil {
		return
	}
	id, to, term := e.RaftID(), e.points.register, e.raft.Status().Term
	e.points.client.Step(e.now, &raftpb.Message{Type: raftpb.MsgHeartbeat.Enum(), From: &id, To: &to, Term: &term})
}

// pointsDecide: they are among the voters, and the others that follow are no majority.
func (e *Engine) pointsDecide(voters []uint64) bool {
	if !slices.Contains(voters, e.points.register) {
		return false
	}
	live := 0
	for _, id := range voters {
		if id == e.RaftID() || id != e.points.register && e.follows(id) {
			live++
		}
	}
	return live < state.Majority(len(voters))
}

// follows says, on a leader, whether a voter's log keeps up.
func (e *Engine) follows(id uint64) bool {
	p := &e.points
	match, _, _ := e.raft.Match(id)
	was, lagging := p.behind[id]
	switch {
	case match >= e.raft.Status().LastIndex:
		delete(p.behind, id)
	case !lagging || match > was.match:
		p.behind[id] = behind{match, e.now}
	}
	name := e.nameOf(id)
	if _, suspected := e.guard.statements[name]; suspected {
		return false
	}
	if state.MemberOf(e.s, name).GetRaftId() != id {
		return match >= e.raft.Status().LastIndex // in a joint configuration there may be some that have been evicted
	}
	b, lagging := p.behind[id]
	return !lagging || e.now < b.since+min(state.Peerinact(e.s), behindLimit)
}

// witnessWanted: guard asks for the points' acknowledgement.
func (e *Engine) witnessWanted(m *guardpb.WitnessWanted) {
	p := &e.points
	for _, name := range m.GetSilent() {
		s, ok := p.silent[name]
		if !ok || e.now >= s.last+state.Peerinact(e.s) {
			s.first = e.now
		}
		s.last = e.now
		p.silent[name] = s
	}
	if p.client == nil || m.GetWitnessRaftId() != p.register || m.GetRaftId() != p.raftID {
		return
	}
	if n := len(p.wanted); n > 0 && p.wanted[n-1].at == e.now {
		p.wanted = p.wanted[:n-1] // one renewal for each moment
	}
	p.wanted = append(p.wanted, wantedRenewal{e.now, m, e.guard.incarnation})
	if n := len(p.wanted) - 64; n > 0 {
		p.wanted = p.wanted[n:]
	}
	r := &witnesspb.Renew{Stays: m.GetStays(), Epoch: m.GetEpoch()}
	if m.GetEpoch() == e.s.GetView().GetEpoch() {
		r.Applied = e.applied // the view that guard goes by is the newest up to here
	}
	p.client.Renew(e.now, r)
}

// renewed: a majority of the points acknowledge what was asked at since.
func (e *Engine) renewed(since time.Duration) {
	p := &e.points
	for len(p.wanted) > 0 && p.wanted[0].at < since {
		p.wanted = p.wanted[1:]
	}
	if len(p.wanted) == 0 || p.wanted[0].at != since || p.wanted[0].incarnation != e.guard.incarnation {
		return
	}
	w := p.wanted[0].what
	e.toGuard(&guardpb.ToGuard{Body: &guardpb.ToGuard_WitnessAcked{WitnessAcked: &guardpb.WitnessAcked{
		Number: w.GetNumber(), RaftId: w.GetRaftId(), WitnessRaftId: w.GetWitnessRaftId(), GuardIncarnation: e.guard.incarnation,
	}}})
}

// pointsHearAgain: the points' word about a member may be taken back, since
// guard has not found it silent for a while.
func (e *Engine) pointsHearAgain(node string) bool {
	s, ok := e.points.silent[node]
	return e.guard.heard(node) && (!ok || e.now >= s.last+state.Peerinact(e.s))
}

// askStatements: a leader asks the points to suspect whom guard finds silent,
// if their word is what an eviction lacks. It does so before guard itself
// suspects: the time for which the points have not acknowledged counts from then.
func (e *Engine) askStatements() {
	p := &e.points
	if !e.IsLeader() || state.WitnessID(e.s) == 0 {
		clear(p.asked)
		return
	}
	inact := state.Peerinact(e.s)
	for _, m := range e.s.GetView().GetMembers() {
		name := m.GetNode()
		silent, ok := p.silent[name]
		_, suspected := e.guard.statements[name]
		if name == e.node || !suspected && (!ok || e.now >= silent.last+inact/2) {
			delete(p.asked, name)
			continue
		}
		who := e.keeper.Suspecting(e.s, name)
		if len(who) > 0 && who[0] == state.WitnessName {
			continue
		}
		need := state.Majority(state.Voters(e.s))
		if suspected && len(who) >= need || e.now < p.asked[name] {
			continue
		}
		p.asked[name] = e.now + inact/4
		p.client.Suspect(e.now, name, m.GetRaftId(), e.s.GetNodeStatus()[name].GetStays())
	}
}

// takeSides: while members are silent, the side that should lose leaves the
// points to the other for a while (preferred fencing).
func (e *Engine) takeSides() {
	p, c := &e.points, e.s.GetCluster()
	inact := state.Peerinact(e.s)
	var here, there []string
	var first time.Duration
	for _, m := range e.s.GetView().GetMembers() {
		name := m.GetNode()
		silent, ok := p.silent[name]
		stated, suspected := e.guard.statements[name]
		switch {
		case ok && e.now < silent.last+inact/2:
			there = append(there, name)
			first = max(first, silent.first)
		case suspected:
			there = append(there, name)
			first = max(first, stated.at-inact)
		default:
			here = append(here, name)
		}
	}
	if len(there) == 0 || !outweighs(e.s, there, here) {
		return
	}
	delay := inact / 2
	if d := c.GetPreferredFencingDelay(); d != nil {
		delay = d.AsDuration()
	}
	if until := first + inact + delay; until > e.now && until > p.withheld {
		e.logf("engine: %v should win a split against %v: the coordination points are left to them for %v", there, here, (until - e.now).Round(time.Millisecond))
		p.withheld = until
		p.client.Withhold(e.now, until)
	}
}

// outweighs says whether there should rather go on than here.
func outweighs(s *statepb.State, there, here []string) bool {
	return weight(s, there) > weight(s, here)
}

// runsOn: an instance of the group is online on one of the nodes.
func runsOn(gs *statepb.GroupStatus, nodes map[string]bool) bool {
	for _, b := range gs.GetInstances() {
		if b.GetOnline() && nodes[b.GetActive()] {
			return true
		}
	}
	return false
}

func weight(s *statepb.State, side []string) uint64 {
	var sum uint64
	on := map[string]bool{}
	for _, name := range side {
		on[name] = true
	}
	switch c := s.GetCluster(); c.GetPreferredFencing() {
	case v1.PreferredFencing_PREFERRED_FENCING_NODE_WEIGHT:
		for _, name := range side {
			w := uint64(1)
			if n := s.GetNodes()[name]; n != nil && n.Weight != nil {
				w = uint64(n.GetWeight())
			}
			sum += w
		}
	case v1.PreferredFencing_PREFERRED_FENCING_GROUP_PRIORITY:
		for _, name := range state.SortedKeys(s.GetGroupStatus()) {
			gs, g := s.GroupStatus[name], s.Groups[name]
			if !runsOn(gs, on) {
				continue
			}
			w := uint64(1)
			if g.Priority != nil {
				w = uint64(g.GetPriority())
			}
			sum += w
		}
	case v1.PreferredFencing_PREFERRED_FENCING_SITE:
		for _, name := range side {
			if s.GetNodes()[name].GetSite() == c.GetPreferredSite() && c.GetPreferredSite() != "" {
				sum++
			}
		}
	}
	return sum
}

// witnessVote is the change of raft's configuration by which the points vote,
// or stop voting, in the view that follows c.
func (e *Engine) witnessVote(c *statepb.Command) (remove, add uint64) {
	members := len(e.s.GetView().GetMembers())
	w := e.s.GetWitness()
	pointsThen, idThen := w.GetPoints(), w.GetRaftId()
	switch c := c.GetChange().(type) {
	case *statepb.Command_Evict:
		members -= len(c.Evict.GetEvictees())
	case *statepb.Command_Leave:
		members--
	case *statepb.Command_Promote:
		members++
	case *statepb.Command_SetPoints:
		pointsThen, idThen = w.GetWanted().GetPoints(), c.SetPoints.GetRaftId()
	default:
		return 0, 0
	}
	now, then := state.WitnessID(e.s), uint64(0)
	if state.WitnessVotes(pointsThen, members) {
		then = idThen
	}
	if now == then {
		return 0, 0
	}
	return now, then
}
