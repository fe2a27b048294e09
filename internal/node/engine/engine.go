package engine

import (
	"fmt"
	"slices"
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/consensus"
	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/peer/peerpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
	"github.com/holdfast-ha/holdfast/internal/cluster/view"
	"github.com/holdfast-ha/holdfast/internal/cluster/witness/witnesspb"
	"github.com/holdfast-ha/holdfast/internal/group/agent"
)

// Config of an engine.
type Config struct {
	Node string
	// RaftID with which the log in Saved was written; 0: that of the node in the snapshot's first view.
	RaftID uint64
	Saved  consensus.Saved
	// Peers as this node knew them last; used until a state is there.
	Peers []*v1.Node
	// Logf takes one line per decision. Nil: silent.
	Logf func(format string, args ...any)
	// Proposer is a random number that no run of an engine has used before: rounds at coordination points and requests to
	// join carry it.
	Proposer uint64
	// Trace takes raft's own lines. Nil: silent.
	Trace func(format string, args ...any)
}

// Input is an event.
type Input interface{ input() }

type (
	// Tick says that time has passed.
	Tick struct{}
	// FromPeer is a message of the node whose certificate the sender has.
	FromPeer struct {
		Node    string
		Message *peerpb.Message
	}
	// PeerConn says whether messages can be sent to a node now.
	PeerConn struct {
		Node string
		Up   bool
	}
	// PeerDropped is a message that could not be sent.
	PeerDropped struct {
		Node    string
		Message *peerpb.Message
	}
	// FromGuard is a frame of this node's guard.
	FromGuard struct{ Frame *guardpb.FromGuard }
	// GuardConn says whether guard is connected; false also ends the lease as far as the engine knows.
	GuardConn struct{ Up bool }
	// Persisted: the outstanding batch is durable.
	Persisted struct{}
	// Propose a command. Token names it in Out.Results.
	Propose struct {
		Token   uint64
		Command *statepb.Command
	}
	// Busy: the driver is in the middle of something that only the leader does. A leader that leaves does so after it;
	// the driver sees to it that it ends.
	Busy struct{ On bool }
	// Forget a proposal whose caller has gone. Whether it will be committed is not known.
	Forget struct{ Token uint64 }
	// Silence asks for an announced silence of this node.
	Silence struct {
		Token  uint64
		Length time.Duration
	}
	// CallDone is the outcome of a call.
	CallDone struct{ agent.Done }
	// Notice of a process or a device.
	Notice struct{ agent.Notice }
	// TriggerEnded is how the program of a TriggerCall ended.
	TriggerEnded struct {
		Number uint64
		// -1: it could not be run, or was killed; Message says why.
		Status  int32
		Message string
	}
	// FromPoint answers a ToPoint. Reply is nil if there was none; Err says why.
	FromPoint struct {
		Point string
		Call  uint64
		Reply *witnesspb.Reply
		Err   string
	}
	// Protected: guard knows what it has to stop of a group. Err: it could not be told.
	Protected struct {
		Group string
		Err   string
	}
)

func (Tick) input()        {}
func (FromPeer) input()    {}
func (PeerConn) input()    {}
func (PeerDropped) input() {}
func (FromGuard) input()   {}
func (GuardConn) input()   {}
func (Persisted) input()   {}
func (Propose) input()     {}
func (Busy) input()        {}
func (Forget) input()      {}
func (Silence) input()     {}
func (CallDone) input()    {}
func (Notice) input()      {}
func (Protected) input()   {}
func (FromPoint) input()   {}

func (TriggerEnded) input() {}

// Out is what the caller must do now.
type Out struct {
	// Messages that may leave at once, in order.
	ToPeers []ToPeer
	ToGuard []*guardpb.ToGuard
	// Requests for coordination points; each is answered with FromPoint.
	ToPoints []ToPoint
	// Not nil: these are the coordination points from now on.
	Points *Points
	// Not nil: make durable, then feed Persisted.
	Persist *Batch
	// Groups of which guard must be told what it would have to stop; answer with Protected.
	Protect []string
	// Groups of which nothing runs any more.
	Gone   []string
	Cancel []uint64
	Calls  []agent.Call
	// Trigger programs to be ended early, by number, and to be run; each of the latter is answered with TriggerEnded.
	CancelTriggers []uint64
	Triggers       []TriggerCall
	// Not nil: these are the signals of this node from now on, by name. They must not be changed.
	Signals map[string]*statepb.SignalValue
	// Proposals that have been answered.
	Results []Result
	// Events that have just been applied, for the log.
	Events []*v1.Event
	// The nodes' addresses have changed.
	Peers []*v1.Node
	// The applied state has changed.
	Changed bool
	// Not empty: this node has left or can't go on, for this reason; the process ends once guard has ended.
	Exit string
	// With Exit: it left by an administrator's wish.
	Left bool
	// Time of the next Tick.
	Wake time.Duration
}

// ToPeer is a message for a node.
type ToPeer struct {
	Node    string
	Message *peerpb.Message
}

// Batch for the disk. RaftID belongs to a Reset.
type Batch struct {
	consensus.Batch
	RaftID uint64
}

// Result of a proposal.
type Result struct {
	Token uint64
	// Nil: applied. *state.Refused: refused by the state. Others: it is not known whether it will be applied.
	Err       error
	Operation uint64
}

// Engine of one node.
type Engine struct {
	node  string
	logf  func(string, ...any)
	trace func(string, ...any)
	now   time.Duration
	wall  int64
	out   Out
	fatal error

	// Log and state. raft is nil while this node has no raft id.
	raft         *consensus.Node
	s            *statepb.State
	applied      uint64
	appliedTerm  uint64
	logSize      int
	stage        stage
	lateBatch    bool
	lateGuard    uint64 // guard's call that it waits for (E1)
	resetting    uint64 // raft id of a new incarnation that is being stored
	compacting   bool
	nextRaftTick time.Duration
	appendedView []appendedView

	peers    map[string]*peerInfo
	seeds    []*v1.Node
	keeper   *view.Keeper
	election election
	lead     leading
	outside  outside
	guard    guardInfo
	waiting  proposals
	groups   groupsInfo
	triggers triggersInfo
	clock    clock
	points   points
	// Of this run: no other run of an engine has it. Clients of the points count on from there.
	run, proposer uint64
}

// appendedView is a view change in the part of the log that is not applied yet.
type appendedView struct{ index, epoch uint64 }

// stage of the engine's pending Ready.
type stage int

const (
	idle stage = iota
	writing
)

type peerInfo struct {
	connected bool
	hello     *peerpb.Hello
}

// New engine from what the disk of its node holds.
func New(now time.Duration, wallMs int64, cfg Config) (*Engine, error) {
	e := &Engine{
		node: cfg.Node, logf: cfg.Logf, trace: cfg.Trace, now: now, wall: wallMs,
		peers: map[string]*peerInfo{}, seeds: cfg.Peers, keeper: view.New(),
	}
	if e.logf == nil {
		e.logf = func(string, ...any) {}
	}
	e.election.leaderless = map[string]leaderless{}
	e.outside.resigned = map[string]uint64{}
	e.guard.init()
	e.waiting.init()
	e.groups.init(cfg.Node)
	e.triggers.init()
	e.points.init()
	e.run, e.proposer = cfg.Proposer, cfg.Proposer
	if err := e.load(cfg); err != nil {
		return nil, err
	}
	e.finish()
	return e, nil
}

// Step takes one input. now is CLOCK_BOOTTIME and never goes back; wallMs is
// the time of day, which only goes into texts.
func (e *Engine) Step(now time.Duration, wallMs int64, in Input) {
	e.now, e.wall = max(e.now, now), wallMs
	switch in := in.(type) {
	case Tick:
	case FromPeer:
		e.fromPeer(in.Node, in.Message)
	case PeerConn:
		e.peerConn(in.Node, in.Up)
	case PeerDropped:
		e.peerDropped(in.Node, in.Message)
	case FromGuard:
		e.fromGuard(in.Frame)
	case GuardConn:
		e.guardConn(in.Up)
	case Persisted:
		e.persisted()
	case Propose:
		e.propose(in.Token, in.Command)
	case Busy:
		e.lead.busy = in.On
	case Forget:
		e.waiting.forget(in.Token)
		if sil := e.groups.silence; sil != nil && sil.token == in.Token && !sil.asked {
			e.groups.silence = nil
		}
	case Silence:
		e.askSilence(in.Token, in.Length)
	case CallDone:
		e.callDone(in.Done)
	case Notice:
		e.groups.runtime.Notify(e.now, in.Notice)
	case Protected:
		e.protected(in.Group, in.Err)
	case TriggerEnded:
		e.triggerEnded(in)
	case FromPoint:
		e.fromPoint(in)
	}
	e.finish()
}

// finish brings everything up to date after an input.
func (e *Engine) finish() {
	if e.fatal != nil {
		return
	}
	e.ticks()
	e.ready()
	e.clockOn()
	e.elect()
	e.pointsOn()
	e.leadOn()
	e.joinOn()
	e.guardOn()
	e.groupsOn()
	e.waitingOn()
	e.ready()
	e.clockOn()
	e.pointsOn() // raft may have had something to say to them
}

// Take returns what is to be done and forgets it.
func (e *Engine) Take() Out {
	out := e.out
	e.out = Out{}
	if e.fatal != nil && out.Exit == "" {
		out.Exit = e.fatal.Error()
	}
	out.Wake = e.wake()
	return out
}

func (e *Engine) wake() time.Duration {
	wake := e.nextRaftTick
	for _, t := range []time.Duration{e.lead.wake, e.groups.wake, e.groups.planWake, e.guard.nextTick, e.waiting.nextRetry, e.outside.nextAsk, e.election.wake, e.points.wake} {
		if t > e.now && (wake == 0 || t < wake) { // what is due was looked at in this very step
			wake = t
		}
	}
	return wake
}

// State that this node has applied, nil if none yet. The caller must not keep
// or change it; [state.Unmarshal] of [state.Marshal] makes a copy.
func (e *Engine) State() *statepb.State { return e.s }

// AppliedIndex of the log.
func (e *Engine) AppliedIndex() uint64 { return e.applied }

// Leader is the name of the leader as this node knows it, empty: none.
func (e *Engine) Leader() string {
	if e.raft == nil || e.s == nil {
		return ""
	}
	return e.nameOf(e.raft.Status().Leader)
}

// IsLeader by this node's own light.
func (e *Engine) IsLeader() bool { return e.raft != nil && e.raft.IsLeader() }

// Joint says whether the votes of the newest view known here count together with those of the view before.
func (e *Engine) Joint() bool { return e.raft != nil && e.raft.Status().Joint }

// RaftID of this incarnation, 0: none yet.
func (e *Engine) RaftID() uint64 {
	if e.raft == nil {
		return 0
	}
	return e.raft.Status().RaftID
}

// self is this incarnation's place in the applied view, nil if it has none.
func (e *Engine) self() *statepb.Member {
	m := state.MemberOf(e.s, e.node)
	if m == nil || m.GetRaftId() != e.RaftID() {
		return nil
	}
	return m
}

// incarnation is this incarnation as a member or as a learner, nil if it is neither.
func (e *Engine) incarnation() *statepb.Member {
	if m := e.self(); m != nil {
		return m
	}
	if l := e.s.GetLearners()[e.node]; l.GetRaftId() == e.RaftID() {
		return l
	}
	return nil
}

// nameOf the node with a raft id, empty: not known.
func (e *Engine) nameOf(raftID uint64) string {
	if raftID == 0 {
		return ""
	}
	for _, m := range e.s.GetView().GetMembers() {
		if m.GetRaftId() == raftID {
			return m.GetNode()
		}
	}
	for name, l := range e.s.GetLearners() {
		if l.GetRaftId() == raftID {
			return name
		}
	}
	for _, name := range state.SortedKeys(e.peers) {
		if e.peers[name].hello.GetRaftId() == raftID {
			return name
		}
	}
	return ""
}

// nodes that this node may talk to, itself included.
func (e *Engine) nodes() []*v1.Node {
	if e.s == nil {
		return e.seeds
	}
	var all []*v1.Node
	for _, name := range state.SortedKeys(e.s.GetNodes()) {
		all = append(all, e.s.Nodes[name])
	}
	return all
}

func (e *Engine) fail(format string, args ...any) {
	if e.fatal == nil {
		e.fatal = fmt.Errorf(format, args...)
		e.logf("engine: %v", e.fatal)
	}
}

func (e *Engine) send(node string, m *peerpb.Message) {
	if node != e.node {
		e.out.ToPeers = append(e.out.ToPeers, ToPeer{node, m})
	}
}

// everyone sends to all connected peers.
func (e *Engine) everyone(m *peerpb.Message) {
	for _, n := range e.connected() {
		e.send(n, m)
	}
}

func (e *Engine) connected() []string {
	var up []string
	for name, p := range e.peers {
		if p.connected {
			up = append(up, name)
		}
	}
	slices.Sort(up)
	return up
}
