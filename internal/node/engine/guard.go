package engine

import (
	"slices"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/link"
	"github.com/holdfast-ha/holdfast/internal/cluster/peer/peerpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
	"github.com/holdfast-ha/holdfast/internal/cluster/timers"
)

// What guard is told and what it says.

type guardInfo struct {
	connected   bool
	incarnation uint64 // 0: no Welcome yet
	rebooted    bool
	calls       uint64
	appended    uint64
	configured  *guardpb.Configure
	// What an engine before this one has configured; nil once this one knows as much.
	before *guardpb.Configure
	// What configured was made from: while that is the same, so is it.
	madeFrom configuredFrom
	// Answered Configure frames: by these guard runs.
	configureCall           uint64
	askedEpoch, askedConf   uint64
	runsEpoch, runsRevision uint64
	peers                   *guardpb.Peers
	lease                   *guardpb.Lease
	statements              map[string]stated
	heardAgain              []string
	heardSent               map[string]time.Duration
	ticks                   uint64
	nextTick                time.Duration
	persistSince            time.Duration
	leaveCall               uint64
	reset                   bool // it was told to
	jeopardyAgain           time.Duration
	sawLeaving              bool
	quiet                   bool
}

// stated is a binding statement of this node's guard, and when it came.
type stated struct {
	statement *statepb.Statement
	at        time.Duration
}

const (
	tickEvery = time.Second
	// A batch that is outstanding for longer counts as a hanging disk: the engine is not alive then.
	diskLimit = 5 * time.Second
)

func (g *guardInfo) init() {
	g.statements, g.heardSent = map[string]stated{}, map[string]time.Duration{}
}

func (g *guardInfo) newCall() uint64 {
	g.calls++
	return g.calls
}

func (g *guardInfo) peer(node string) *guardpb.PeerState {
	for _, p := range g.peers.GetPeers() {
		if p.GetNode() == node {
			return p
		}
	}
	return nil
}

func (g *guardInfo) state(node string) guardpb.LinkState { return g.peer(node).GetState() }

// heard: its heartbeats arrive.
func (g *guardInfo) heard(node string) bool {
	switch g.state(node) {
	case guardpb.LinkState_LINK_STATE_UP, guardpb.LinkState_LINK_STATE_JEOPARDY:
		return true
	}
	return false
}

// allStopped: there is no lease, and nothing runs that would need one.
func (g *guardInfo) allStopped() bool {
	return g.connected && g.incarnation != 0 && g.configured != nil && g.configured.GetRaftId() == 0 && !g.lease.GetHeld() && (g.lease == nil || g.lease.GetStopped())
}

func (g *guardInfo) forgetHeard(about string) {
	g.heardAgain = slices.DeleteFunc(g.heardAgain, func(n string) bool { return n == about })
	delete(g.heardSent, about)
}

// forgetVoid drops statements that have ended.
func (g *guardInfo) forgetVoid(s *statepb.State) {
	for about, st := range g.statements {
		if state.Over(s, about, st.statement.GetAboutRaftId()) || s.GetNodeStatus()[about].GetStays() > st.statement.GetStays() {
			delete(g.statements, about)
			g.forgetHeard(about)
		}
	}
}

// statement about a peer, aged to now.
func (e *Engine) statement(about string) (*statepb.Statement, bool) {
	st, ok := e.guard.statements[about]
	if !ok {
		return nil, false
	}
	aged := proto.CloneOf(st.statement)
	aged.Age = durationpb.New(aged.GetAge().AsDuration() + e.now - st.at)
	return aged, true
}

func (e *Engine) toGuard(f *guardpb.ToGuard) {
	if e.guard.connected && e.guard.incarnation != 0 {
		e.out.ToGuard = append(e.out.ToGuard, f)
	}
}

func (e *Engine) guardConn(up bool) {
	g := &e.guard
	g.connected = up
	g.incarnation, g.configured, g.runsEpoch, g.runsRevision = 0, nil, 0, 0
	g.peers, g.lease, g.quiet = nil, nil, false
	g.leaveCall, g.reset, e.outside.apart.stopping = 0, false, false // another guard is asked anew
}

func (e *Engine) fromGuard(f *guardpb.FromGuard) {
	g := &e.guard
	switch b := f.GetBody().(type) {
	case *guardpb.FromGuard_Welcome:
		g.incarnation, g.rebooted = b.Welcome.GetGuardIncarnation(), b.Welcome.GetRebooted()
		g.before = b.Welcome.GetConfigured()
		g.statements = map[string]stated{} // guard repeats those that stand
		g.heardAgain = nil
		g.nextTick = e.now
		if e.lateGuard != 0 {
			e.toGuard(&guardpb.ToGuard{Call: e.lateGuard, Body: &guardpb.ToGuard_Appended{Appended: &guardpb.Appended{Epoch: g.appended}}})
		} else if epoch := e.appendedEpoch(); epoch != 0 {
			g.appended = epoch
			e.toGuard(&guardpb.ToGuard{Body: &guardpb.ToGuard_Appended{Appended: &guardpb.Appended{Epoch: epoch}}})
		}
		e.everyone(e.hello())
	case *guardpb.FromGuard_Peers:
		e.jeopardy(g.peers, b.Peers)
		g.peers = b.Peers
	case *guardpb.FromGuard_Lease:
		g.lease = b.Lease
		if !b.Lease.GetHeld() {
			e.leaseEnded(b.Lease)
		} else {
			g.quiet = false
			e.groups.protected, e.groups.announced = map[string]bool{}, false
		}
	case *guardpb.FromGuard_Suspect:
		e.suspected(proto.CloneOf(b.Suspect.GetStatement()), b.Suspect.GetReason())
	case *guardpb.FromGuard_HeardAgain:
		// Said of a suspicion that has ended meanwhile it would end the next one.
		if g.statements[b.HeardAgain.GetNode()].statement.GetAboutRaftId() == b.HeardAgain.GetRaftId() {
			g.heardAgain = addSet(g.heardAgain, b.HeardAgain.GetNode())
		}
	case *guardpb.FromGuard_WitnessWanted:
		e.witnessWanted(b.WitnessWanted)
	case *guardpb.FromGuard_Done:
		e.guardDone(b.Done)
	}
}

func (e *Engine) guardDone(d *guardpb.Done) {
	g := &e.guard
	switch d.GetCall() {
	case 0:
	case e.lateGuard:
		e.lateGuard = 0
		e.advance()
	case g.configureCall:
		g.runsEpoch, g.runsRevision = g.askedEpoch, g.askedConf
	case g.leaveCall:
		e.out.Exit, e.out.Left = "this node has left the cluster", true
	}
}

// leaseEnded: cancel whatever could still start something, and tell guard.
func (e *Engine) leaseEnded(l *guardpb.Lease) {
	e.cancelStarts()
	if l.GetStopped() {
		e.groups.runtime.Stopped(e.now, l.GetReason())
	}
}

func (e *Engine) guardOn() {
	g := &e.guard
	if e.out.Persist != nil && g.persistSince == 0 {
		g.persistSince = e.now
	}
	if !e.lateBatch && e.resetting == 0 && !e.compacting {
		g.persistSince = 0
	}
	if !g.connected || g.incarnation == 0 {
		g.nextTick = 0
		return
	}
	e.configureGuard()
	if epoch := e.appendedEpoch(); e.lateGuard == 0 && epoch < g.appended {
		// The view change that guard was told of was refused, or is gone from
		// the log: without this word no lease would be acknowledged any more.
		g.appended = epoch
		e.toGuard(&guardpb.ToGuard{Body: &guardpb.ToGuard_Appended{Appended: &guardpb.Appended{Epoch: epoch}}})
	}
	if e.now >= g.nextTick {
		g.nextTick = e.now + tickEvery
		if g.persistSince == 0 || e.now < g.persistSince+diskLimit {
			g.ticks++
			var term uint64
			if e.raft != nil {
				term = e.raft.Status().Term
			}
			e.toGuard(&guardpb.ToGuard{Body: &guardpb.ToGuard_Tick{Tick: &guardpb.Tick{Counter: g.ticks, Term: term, Leader: e.Leader()}}})
		}
	}
	if !g.lease.GetHeld() && g.lease != nil && !g.quiet && len(e.groups.starting)+len(e.triggers.runs) == 0 {
		g.quiet = true
		e.toGuard(&guardpb.ToGuard{Body: &guardpb.ToGuard_Quiet{Quiet: &guardpb.Quiet{}}})
	}
	e.register()
	e.resetOn()
	e.apartOn()
	e.passOnHeardAgain()
	e.leaveOn()
}

// register this guard, and that the cluster starts from cold, by commands.
func (e *Engine) register() {
	g := &e.guard
	m := e.incarnation()
	if m == nil {
		return
	}
	dog := g.peers.GetWatchdog()
	if m.GetGuardIncarnation() < g.incarnation || m.GetGuardIncarnation() == g.incarnation && g.peers != nil && dog.AsDuration() != m.GetWatchdog().AsDuration() {
		e.submitOnce("guard "+itoa(g.incarnation)+" "+dog.AsDuration().String(), &statepb.Command{Change: &statepb.Command_GuardStarted{GuardStarted: &statepb.GuardStarted{
			Node: e.node, RaftId: m.GetRaftId(), GuardIncarnation: g.incarnation, Rebooted: g.rebooted, Watchdog: dog,
		}}})
		return
	}
	if g.peers.GetCold() && e.self() != nil && e.groups.caughtUp && e.s.GetNodeStatus()[e.node].GetColdGuard() != g.incarnation {
		e.submitOnce("cold", &statepb.Command{Change: &statepb.Command_ClusterStarted{ClusterStarted: &statepb.ClusterStarted{
			Node: e.node, RaftId: m.GetRaftId(), GuardIncarnation: g.incarnation,
		}}})
	}
}

// passOnHeardAgain to the leader, until the suspicion has ended.
func (e *Engine) passOnHeardAgain() {
	leader := e.Leader()
	if leader == "" || leader == e.node {
		return // a leader looks at guard.heardAgain itself
	}
	for _, node := range e.guard.heardAgain {
		st, ok := e.guard.statements[node]
		if !ok || e.now < e.guard.heardSent[node]+retryProposal && e.guard.heardSent[node] != 0 || !e.peer(leader).connected {
			continue
		}
		e.guard.heardSent[node] = e.now
		e.send(leader, &peerpb.Message{Body: &peerpb.Message_HeardAgain{HeardAgain: &peerpb.HeardAgain{Node: node, RaftId: st.statement.GetAboutRaftId()}}})
	}
}

// leaveOn ends guard once this node is out by an administrator's wish.
func (e *Engine) leaveOn() {
	g := &e.guard
	if g.leaveCall != 0 || !e.leaving() {
		return
	}
	out := e.outside.removed || e.self() == nil
	last := e.self() != nil && len(e.s.GetView().GetMembers()) == 1 && state.MayLeave(e.s, e.node) == "" && !e.lead.busy
	if out || last {
		g.leaveCall = g.newCall()
		detach := e.detaching() || last && e.s.GetNodeStatus()[e.node].GetDetach()
		e.toGuard(&guardpb.ToGuard{Call: g.leaveCall, Body: &guardpb.ToGuard_Leaving{Leaving: &guardpb.Leaving{Detach: detach}}})
	}
}

func (e *Engine) timers() (heartbeat, peertrouble, peerinact time.Duration) {
	return timers.Effective(e.s.GetCluster().GetTimers())
}

// configuredFrom is all that guardConfiguration looks at. Most steps change
// nothing of it, and to make and compare a Configure in each costs more than
// all else that an idle engine does.
type configuredFrom struct {
	state       *statepb.State
	applied     uint64
	raftID      uint64
	incarnation uint64
	removed     bool
}

// configureGuard sends what guard runs by, if it has changed.
func (e *Engine) configureGuard() {
	g := &e.guard
	from := configuredFrom{e.s, e.applied, e.RaftID(), g.incarnation, e.outside.removed}
	if g.configured != nil && from == g.madeFrom || e.detaching() {
		return
	}
	g.madeFrom = from
	c := e.guardConfiguration()
	if b := g.before; b.GetRaftId() != 0 && b.GetRaftId() == e.RaftID() && !e.outside.removed && c.GetEpoch() < b.GetEpoch() {
		return // the engine before this one had applied more: until that is known again its word stands
	}
	g.before = nil
	revision := e.s.GetConfigRevision()
	if proto.Equal(c, g.configured) && (revision == g.askedConf || g.configured == nil) {
		return
	}
	g.configured = c
	g.configureCall, g.askedEpoch, g.askedConf = g.newCall(), c.GetEpoch(), revision
	e.toGuard(&guardpb.ToGuard{Call: g.configureCall, Body: &guardpb.ToGuard_Configure{Configure: c}})
}

func (e *Engine) guardConfiguration() *guardpb.Configure {
	hb, trouble, inact := e.timers()
	nodes := e.nodes()
	c := &guardpb.Configure{
		Node:        e.node,
		ClusterUuid: e.s.GetCluster().GetUuid(),
		Heartbeat:   durationpb.New(hb), Peertrouble: durationpb.New(trouble), Peerinact: durationpb.New(inact),
		EngineDownLimit: durationpb.New(timers.EngineDownLimit(e.s.GetCluster())),
		Epoch:           e.s.GetView().GetEpoch(),
		SeedNodes:       e.s.GetCluster().GetSeedNodes(),
	}
	if c.SeedNodes == 0 {
		c.SeedNodes = uint32(state.Majority(len(nodes)))
	}
	if by := e.s.GetStartedBy(); by.GetNode() == e.node && by.GetRaftId() == e.RaftID() && by.GetGuardIncarnation() == e.guard.incarnation {
		c.SeedNodes = 1 // it was committed in this guard's name: by its count, or by an administrator who does not wait for it
	}
	if !e.outside.removed {
		c.RaftId = e.self().GetRaftId()
		if m := e.incarnation(); m.GetGuardIncarnation() == e.guard.incarnation {
			c.Watchdog = m.GetWatchdog()
		}
		// A learner's word is wanted at once when it becomes a voter: the lease of those who
		// have applied that already may depend on it.
		c.WitnessRaftId = state.WitnessID(e.s)
		if l := e.incarnation(); e.self() == nil && l != nil {
			c.LearnerRaftId = l.GetRaftId()
		}
		c.MayAcknowledge = e.incarnation().GetGuardIncarnation() == e.guard.incarnation
	}
	for _, n := range sortedNodes(nodes) {
		p := &guardpb.Peer{Node: n.GetName()}
		for _, l := range n.GetLinks() {
			p.LinkNames = append(p.LinkNames, l.GetName())
			p.Addresses = append(p.Addresses, link.Endpoint(l.GetAddress()))
		}
		if m := state.MemberOf(e.s, n.GetName()); m != nil && !e.outside.removed {
			p.RaftId, p.GuardIncarnation = m.GetRaftId(), m.GetGuardIncarnation()
			st := e.s.GetNodeStatus()[n.GetName()]
			p.Stays = st.GetStays()
			if sil := st.GetSilence(); sil.GetRaftId() == m.GetRaftId() && sil != nil {
				p.Silence, p.SilenceNumber = sil.GetLength(), sil.GetNumber()
			}
		}
		c.Peers = append(c.Peers, p)
	}
	return c
}

func sortedNodes(nodes []*v1.Node) []*v1.Node {
	sorted := slices.Clone(nodes)
	slices.SortFunc(sorted, func(a, b *v1.Node) int {
		if a.GetName() < b.GetName() {
			return -1
		}
		return 1
	})
	return sorted
}

func itoa(n uint64) string { return strconv.FormatUint(n, 10) }
