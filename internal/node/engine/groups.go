package engine

import (
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
	"github.com/holdfast-ha/holdfast/internal/group/agent"
	"github.com/holdfast-ha/holdfast/internal/group/planner"
)

// The planner on the leader, the agents on every node.

type groupsInfo struct {
	node    string
	runtime *agent.Runtime
	// This node has applied an entry of the present leader's term since it
	// started: what it has applied is recent enough to act on (E2).
	caughtUp bool
	// The agents have seen this incarnation's place in the state.
	met bool
	// Plan revision at which the state was last compared with what was reported.
	compared uint64
	// Transitions that are not on their way yet, by group.
	reports map[string]*statepb.GroupReport
	// Calls that wait for guard's answer, by group, and what guard knows.
	held      map[string][]agent.Call
	protected map[string]bool
	// Nothing of them runs any more, but guard has yet to answer that it protects them. Told before
	// that, it would forget them, and its answer would be taken for the protection of what is started next.
	goneLater map[string]bool
	// All that is active was announced in this lease.
	announced bool
	// Calls under way that may start something.
	starting map[uint64]string
	// Plan revision that was planned from last, and when the planner wants to be asked again even so.
	planned  uint64
	planWake time.Duration
	// Guard has held a lease as this incarnation.
	leased  bool
	desired desiredFrom
	silence *silence
	actions actionsInfo
	// Events that are to be told, in order.
	events []*v1.Event
	wake   time.Duration
}

// desiredFrom is what the last Desire was made from.
type desiredFrom struct {
	valid        bool
	planRevision uint64
	incarnation  uint64
	mayAct       bool
}

type silence struct {
	token  uint64
	length time.Duration
	since  time.Duration
	asked  bool
}

func (g *groupsInfo) init(node string) {
	g.node = node
	g.runtime = agent.New(node)
	g.reports = map[string]*statepb.GroupReport{}
	g.held = map[string][]agent.Call{}
	g.protected = map[string]bool{}
	g.goneLater = map[string]bool{}
	g.starting = map[uint64]string{}
}

// reset for a new incarnation. Calls under way stay known: they get their Done.
func (g *groupsInfo) reset() {
	g.caughtUp, g.met, g.planned, g.compared, g.silence = false, false, 0, 0, nil
	g.planWake, g.leased = 0, false
	g.actions, g.events = actionsInfo{}, nil
	g.reports = map[string]*statepb.GroupReport{}
	g.desired = desiredFrom{}
}

func (e *Engine) groupsOn() {
	g := &e.groups
	if e.raft != nil && e.s != nil {
		st := e.raft.Status()
		if st.Leader != 0 && e.appliedTerm == st.Term && e.applied >= st.Commit {
			g.caughtUp = true
		}
		e.planOn(st.Term)
	}
	e.desire()
	e.actionsOn()
	g.runtime.Tick(e.now)
	for range 10 { // calls that are answered at once lead to others
		g.wake = e.takeActions()
		if g.wake == 0 || g.wake > e.now {
			break
		}
		g.runtime.Tick(e.now)
	}
	e.announce()
	e.retell()
	e.report()
	e.triggersOn()
	e.tellOn()
	e.silenceOn()
}

// announce to guard, once in each lease, whatever runs: guard has forgotten what
// it stopped at the end of the lease before, and something may have come up since.
func (e *Engine) announce() {
	g := &e.groups
	if g.announced || !e.guard.connected || !e.guard.lease.GetHeld() {
		return
	}
	g.announced = true
	for _, name := range g.runtime.Active() {
		if _, asked := g.protected[name]; !asked {
			e.protect(name)
		}
	}
}

func (e *Engine) planOn(term uint64) {
	g := &e.groups
	if !e.raft.IsLeader() || e.appliedTerm != term || !e.seeded() {
		g.planned, g.planWake = 0, 0
		return
	}
	due := g.planWake != 0 && e.now >= g.planWake
	if e.waiting.has("plan") || g.planned == e.s.GetPlanRevision() && !due {
		return
	}
	g.planned, g.planWake = e.s.GetPlanRevision(), 0
	plan, wake := planner.Plan(e.s, planner.Env{Seeded: true, ClockMs: e.ClockMs(), NowMs: e.wall})
	if wake > 0 {
		g.planWake = e.now + wake
	}
	if plan == nil {
		return
	}
	e.submitAsLeader("plan", &statepb.Command{Change: &statepb.Command_Plan{Plan: plan}})
}

// seeded: enough nodes have seen each other, and what follows from a cold
// start has been committed.
func (e *Engine) seeded() bool {
	if !e.guard.peers.GetSeeded() {
		return false
	}
	return !e.guard.peers.GetCold() || e.s.GetNodeStatus()[e.node].GetColdGuard() == e.guard.incarnation
}

// desire hands the applied state to the agents, if anything in it or about
// this node's right to act has changed.
func (e *Engine) desire() {
	g := &e.groups
	if !g.caughtUp {
		return // a state from before may say that things run which have been moved since
	}
	m := e.self()
	if m != nil && !g.met && !e.ofThisBoot(m) {
		return
	}
	from := desiredFrom{valid: true, planRevision: e.s.GetPlanRevision(), incarnation: m.GetRaftId(), mayAct: e.mayAct()}
	if from == g.desired {
		return
	}
	g.desired, g.met = from, m != nil
	d := agent.Desired{Incarnation: from.incarnation, MayAct: from.mayAct}
	if m != nil {
		for _, name := range state.SortedKeys(e.s.GetGroupStatus()) {
			gs := e.s.GroupStatus[name]
			on := gs.GetNodes()[e.node]
			if on == nil {
				continue
			}
			// The agents keep what they get, and the state goes on changing.
			config, place := proto.CloneOf(e.s.Groups[name]), proto.CloneOf(on)
			last := state.Book(gs, state.InstanceAt(config, e.node)).GetLastOnline()
			types := map[string]*v1.ResourceType{}
			for _, r := range config.GetResources() {
				types[r.GetType()] = e.s.Types[r.GetType()] // replaced as a whole, never changed
			}
			d.Groups = append(d.Groups, agent.Group{
				Config: config, Types: types, Intent: place.GetIntent(), Want: place.GetWant(),
				ResourceWants: place.GetResourceWants(), Known: place.GetResources(), KnownIntent: place.GetReportedIntent(),
				Takeover: last != "" && last != e.node,
			})
		}
	}
	g.runtime.Desire(e.now, e.wall, d)
}

// ofThisBoot: what the state says of this node is not from before its machine was
// restarted. The agents would take what ran then for what has just gone, and
// what they report would be forgotten when the restart is committed.
func (e *Engine) ofThisBoot(m *statepb.Member) bool {
	return e.guard.incarnation != 0 && (!e.guard.rebooted || m.GetGuardIncarnation() >= e.guard.incarnation)
}

// mayAct is E2.
func (e *Engine) mayAct() bool {
	return e.self() != nil && !e.outside.removed && e.guard.connected && e.guard.lease.GetHeld() && e.groups.caughtUp
}

func (e *Engine) takeActions() time.Duration {
	g := &e.groups
	a := g.runtime.Take()
	for _, name := range a.Protect {
		if ok, asked := g.protected[name]; !asked || !ok {
			e.protect(name)
		}
	}
	for _, c := range a.Calls {
		switch {
		case !c.Starts:
			e.out.Calls = append(e.out.Calls, c)
		case !e.mayAct():
			g.runtime.Done(e.now, e.wall, agent.Done{Token: c.Token, Result: agent.Result{Err: "this node has no lease"}})
			a.Wake = e.now
		case !g.protected[c.Group]:
			if _, asked := g.protected[c.Group]; !asked {
				e.protect(c.Group)
			}
			g.held[c.Group] = append(g.held[c.Group], c)
		default:
			e.start(c)
		}
	}
	e.out.Cancel = append(e.out.Cancel, a.Cancel...)
	for _, r := range a.Reports {
		have := g.reports[r.GetGroup()]
		if have == nil {
			g.reports[r.GetGroup()] = proto.CloneOf(r)
			continue
		}
		have.Intent = max(have.GetIntent(), r.GetIntent())
		if have.Resources == nil {
			have.Resources = map[string]*v1.ResourceStatus{}
		}
		for name, st := range r.GetResources() {
			have.Resources[name] = st
		}
	}
	for _, name := range a.Gone {
		e.gone(name)
	}
	for _, d := range a.Acted {
		e.actionEnded(d)
	}
	e.tell(a.Events...)
	return a.Wake
}

// protect a group: guard is asked to.
func (e *Engine) protect(name string) {
	e.groups.protected[name] = false
	delete(e.groups.goneLater, name)
	e.out.Gone = slices.DeleteFunc(e.out.Gone, func(n string) bool { return n == name }) // the driver would say it after this
	e.out.Protect = append(e.out.Protect, name)
}

// gone: nothing of the group runs any more.
func (e *Engine) gone(name string) {
	g := &e.groups
	if ok, asked := g.protected[name]; asked && !ok && e.guard.connected {
		g.goneLater[name] = true
		return
	}
	delete(g.protected, name)
	e.out.Gone = append(e.out.Gone, name)
}

// start a call that may start something.
func (e *Engine) start(c agent.Call) {
	e.groups.starting[c.Token] = c.Group
	e.out.Calls = append(e.out.Calls, c)
}

func (e *Engine) protected(group, err string) {
	g := &e.groups
	held := g.held[group]
	delete(g.held, group)
	if g.protected[group] = true; err != "" {
		delete(g.protected, group) // whatever is started next asks anew
	}
	if g.goneLater[group] {
		delete(g.goneLater, group)
		delete(g.protected, group)
		e.out.Gone = append(e.out.Gone, group)
	}
	for _, c := range held {
		switch {
		case err != "":
			g.runtime.Done(e.now, e.wall, agent.Done{Token: c.Token, Result: agent.Result{Err: "guard could not be told what to stop: " + err}})
		case !e.mayAct():
			g.runtime.Done(e.now, e.wall, agent.Done{Token: c.Token, Result: agent.Result{Err: "this node has no lease"}})
		default:
			e.start(c)
		}
	}
}

// cancelStarts ends what could still start something: the lease is over.
func (e *Engine) cancelStarts() {
	g := &e.groups
	e.out.Cancel = append(e.out.Cancel, slices.Sorted(maps.Keys(g.starting))...)
	for _, name := range state.SortedKeys(g.held) {
		e.protected(name, "the lease has ended")
	}
	g.protected = map[string]bool{} // guard removes what it kills: each group is announced anew
	g.desired.valid, g.announced = false, false
}

func (e *Engine) callDone(d agent.Done) {
	if group, ok := e.groups.starting[d.Token]; ok && !e.guard.lease.GetHeld() && e.guard.connected {
		e.out.Protect = append(e.out.Protect, group) // it ended after guard had looked: let guard look again
	}
	delete(e.groups.starting, d.Token)
	e.groups.runtime.Done(e.now, e.wall, d)
}

// retell what the state has forgotten, once nothing is on its way that it has yet to learn.
func (e *Engine) retell() {
	g := &e.groups
	if !g.desired.valid || g.compared == g.desired.planRevision || len(g.reports) > 0 || e.waiting.has("report") {
		return
	}
	g.compared = g.desired.planRevision
	g.runtime.Retell()
	g.wake = e.takeActions()
}

// report what the agents have seen, one report at a time (E4).
func (e *Engine) report() {
	g := &e.groups
	m := e.self()
	if m == nil || len(g.reports) == 0 || e.waiting.has("report") || !e.takenUp() {
		return
	}
	r := &statepb.Report{Node: e.node, RaftId: m.GetRaftId()}
	for _, name := range state.SortedKeys(g.reports) {
		r.Groups = append(r.Groups, g.reports[name])
	}
	g.reports = map[string]*statepb.GroupReport{}
	e.submitOnce("report", &statepb.Command{Change: &statepb.Command_Report{Report: r}})
}

// appliedCommand: what a command means for this node beyond the state.
func (e *Engine) appliedCommand(c *statepb.Command) {
	rt := e.groups.runtime
	here := func(node string) bool { return node == "" || node == e.node }
	switch c := c.GetChange().(type) {
	case *statepb.Command_Clear:
		if here(c.Clear.GetNode()) {
			rt.Clear(e.now, c.Clear.GetGroup(), c.Clear.GetResource())
		}
	case *statepb.Command_Plan:
		for _, cl := range c.Plan.GetClears() {
			if here(cl.GetNode()) {
				rt.Clear(e.now, cl.GetGroup(), cl.GetResource())
			}
		}
	case *statepb.Command_SetSignal, *statepb.Command_RemoveNode:
		e.signalsOn()
	case *statepb.Command_Flush:
		if here(c.Flush.GetNode()) {
			rt.Flush(e.now, c.Flush.GetGroup(), c.Flush.GetForce())
		}
	case *statepb.Command_ClearAdminWait:
		if here(c.ClearAdminWait.GetNode()) {
			rt.ClearAdminWait(e.now, c.ClearAdminWait.GetGroup(), c.ClearAdminWait.GetResource(), c.ClearAdminWait.GetFault())
		}
	case *statepb.Command_Probe:
		if here(c.Probe.GetNode()) {
			rt.Probe(e.now, c.Probe.GetGroup(), c.Probe.GetResource())
		}
	case *statepb.Command_Configure:
		e.out.Peers = e.nodes()
		e.signalsOn()
	case *statepb.Command_Stays:
		e.lead.forgetHeard(c.Stays.GetNode())
	case *statepb.Command_Evict:
		for _, v := range c.Evict.GetEvictees() {
			e.lead.forgetHeard(v.GetNode())
		}
	case *statepb.Command_Leave:
		delete(e.outside.resigned, c.Leave.GetNode())
	case *statepb.Command_Join:
		if e.IsLeader() {
			e.answerJoin(c.Join.GetNode())
		}
	case *statepb.Command_AnnounceSilence:
		e.silenceApplied(c.AnnounceSilence)
	}
}

// askSilence: this node will be silent for a while. Leadership moves away
// first; the lease is extended once that is committed, counted from now on.
func (e *Engine) askSilence(token uint64, length time.Duration) {
	switch {
	case e.groups.silence != nil:
		e.out.Results = append(e.out.Results, Result{Token: token, Err: &state.Refused{Code: state.CodeConflict, Message: "this node has asked for a silence already"}})
	case e.self() == nil:
		e.out.Results = append(e.out.Results, Result{Token: token, Err: &state.Refused{Code: state.CodeConflict, Message: "this node is not a member of the cluster"}})
	default:
		e.groups.silence = &silence{token: token, length: length}
	}
}

func (e *Engine) silenceOn() {
	sil := e.groups.silence
	if sil == nil || sil.asked || e.raft == nil || e.self() == nil {
		return
	}
	alone := len(e.s.GetView().GetMembers()) == 1
	if e.IsLeader() && !alone || e.raft.Status().Leader == 0 {
		return // leadOn hands leadership over
	}
	sil.asked, sil.since = true, e.now
	e.submit(&proposal{token: sil.token, done: func(o state.Outcome) {
		if o.Refused != nil {
			e.groups.silence = nil
		}
	}, command: &statepb.Command{Change: &statepb.Command_AnnounceSilence{AnnounceSilence: &statepb.AnnounceSilence{
		Node: e.node, RaftId: e.RaftID(), Length: durationpb.New(sil.length),
	}}}})
}

func (e *Engine) silenceApplied(c *statepb.AnnounceSilence) {
	sil := e.groups.silence
	if c.GetNode() != e.node || sil == nil || !sil.asked {
		return
	}
	e.groups.silence = nil
	e.toGuard(&guardpb.ToGuard{Body: &guardpb.ToGuard_Extend{Extend: &guardpb.Extend{
		Number: e.s.GetNodeStatus()[e.node].GetSilence().GetNumber(),
		Since:  durationpb.New(sil.since), Length: c.GetLength(),
	}}})
}
