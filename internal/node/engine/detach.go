package engine

import (
	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/peer/peerpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// Two ways out of the cluster beside leaving and being lost: a node that is
// detached leaves its groups running, and one that is to be reset leaves nothing
// behind (docs/lease.md, docs/lifecycle.md).

// apart is what is known, outside of the view, of what this node was left running.
type apart struct {
	// The cluster counts it as running here, by the newest view that was told of.
	counted bool
	epoch   uint64
	// Guard was told to stop it.
	stopping bool
}

// tell takes somebody's word, or that of the own state. Of one view only this can change: it is not counted any more.
func (a *apart) tell(epoch uint64, counted bool) {
	switch {
	case epoch > a.epoch:
		a.epoch, a.counted = epoch, counted
	case epoch == a.epoch:
		a.counted = a.counted && counted
	}
}

// detachedThere: the state counts groups as running on a node that is no member.
func detachedThere(s *statepb.State, node string) bool {
	return state.MemberOf(s, node) == nil && len(state.DetachedOn(s, node)) > 0
}

// detaching: this node is out, by a leave that leaves its groups running. Guard must not be told so
// by a configuration: it would stop them.
func (e *Engine) detaching() bool {
	return e.outside.removed && e.outside.apart.counted && e.leaving()
}

// mayJoin is E3.
func (e *Engine) mayJoin() bool { return e.guard.allStopped() || e.comesBack() }

// comesBack with what it was left running, and the cluster still counts on that.
func (e *Engine) comesBack() bool {
	g := &e.guard
	return e.outside.removed && e.outside.apart.counted && !e.outside.apart.stopping &&
		g.connected && g.incarnation != 0 && g.configured != nil && g.configured.GetRaftId() == 0 && g.lease.GetDetached()
}

// apartOn has guard stop what it was left with, if nobody counts on it: others may run that by now. Without
// its log this node does not know what it was.
func (e *Engine) apartOn() {
	a := &e.outside.apart
	if a.stopping || e.inside() || !e.guard.lease.GetDetached() || e.raft != nil && a.counted {
		return
	}
	a.stopping = true
	why := "the cluster does not count it as running here any more"
	if e.raft == nil {
		why = "this node has lost its log, and with it what it was left with"
	}
	e.logf("engine: what goes on here since this node was detached is stopped: %s", why)
	e.toGuard(&guardpb.ToGuard{Body: &guardpb.ToGuard_StopDetached{StopDetached: &guardpb.StopDetached{Reason: why}}})
}

// notCounted answers a node that wants to come back with what it was left running.
func (e *Engine) notCounted(node string, m *peerpb.JoinRequest) {
	e.send(node, &peerpb.Message{Body: &peerpb.Message_NotMember{NotMember: &peerpb.NotMember{RaftId: m.GetOldRaftId(), Epoch: e.s.GetView().GetEpoch()}}})
}

// takenUp: guard has held a lease as this incarnation, so that what was left running is under it. Before that it must
// not be reported on: the report would make the end of a lease a proof (state S7).
func (e *Engine) takenUp() bool {
	g := &e.guard
	// An incarnation begins without a lease: what guard says of one after that is about this one.
	e.groups.leased = e.groups.leased || g.connected && g.lease.GetHeld() && g.configured.GetRaftId() == e.RaftID()
	return e.groups.leased || len(state.DetachedOn(e.s, e.node)) == 0
}

// resetOn has guard carry out a fail-fast of this incarnation.
func (e *Engine) resetOn() {
	g := &e.guard
	m, why := e.self(), e.s.GetNodeStatus()[e.node].GetReset_()
	if m == nil || why == "" || g.reset || !e.ofThisBoot(m) {
		return
	}
	g.reset = true
	e.logf("engine: this node is reset: %s", why)
	e.toGuard(&guardpb.ToGuard{Body: &guardpb.ToGuard_Reset_{Reset_: &guardpb.Reset{
		Reason:  "fail-fast: " + why,
		Restart: e.s.GetCluster().GetFailFastAction() != v1.FailFastAction_FAIL_FAST_ACTION_STOP,
	}}})
}
