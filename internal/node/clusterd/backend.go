//go:build linux

package clusterd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/api"
	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/identity"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
	"github.com/holdfast-ha/holdfast/internal/node/engine"
)

// statsLimit is how long a reader waits for guard's counters.
const statsLimit = 500 * time.Millisecond

// A certificate that ends sooner is a condition.
const certificateWarning = 30 * 24 * time.Hour

var (
	errEnding  = errors.New("clusterd is ending")
	errNoState = &api.Refusal{Code: api.CodeConflict, Message: "this node has no state of the cluster yet: it is joining; ask another node, or again in a moment"}
)

// No certificate outlives the authority: it is replaced a while before.
const authorityWarning = 180 * 24 * time.Hour

// backend answers the API from the loop.
type backend struct{ n *node }

// ask runs f in the loop.
func (b *backend) ask(ctx context.Context, f func()) error {
	did := make(chan struct{})
	select {
	case b.n.in <- func() { f(); close(did) }:
	case <-b.n.done:
		return errEnding
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-did:
		return nil
	case <-b.n.done:
		return errEnding
	}
}

// State is a copy that is made at most once for each change that somebody asks about.
func (b *backend) State(ctx context.Context) (s *statepb.State, err error) {
	err = b.ask(ctx, func() {
		if b.n.cloned == nil {
			if now := b.n.engine.State(); now != nil {
				b.n.cloned = proto.CloneOf(now)
			}
		}
		s = b.n.cloned
	})
	if err == nil && s == nil {
		err = errNoState
	}
	return s, err
}

func (b *backend) Local(ctx context.Context) (*api.Local, error) {
	n := b.n
	var l *api.Local
	stats := make(chan *guardpb.Stats, 1)
	err := b.ask(ctx, func() {
		l = n.localView()
		call := n.guard.newCall()
		if n.guard.send(&guardpb.ToGuard{Call: call, Body: &guardpb.ToGuard_StatsRequest{StatsRequest: &guardpb.StatsRequest{}}}) {
			n.guard.stats[call] = stats
		} else {
			close(stats)
		}
	})
	if err != nil {
		return nil, err
	}
	limit := time.NewTimer(statsLimit)
	defer limit.Stop()
	select {
	case s := <-stats:
		l.Links = s.GetLinks()
	case <-limit.C:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return l, nil
}

// localView of this node, in the loop.
func (n *node) localView() *api.Local {
	l := &api.Local{Node: n.id.Node, Version: n.o.Version, Leader: n.engine.Leader(), AppliedIndex: n.engine.AppliedIndex(), ClockMs: n.engine.ClockMs()}
	g := &n.guard
	if g.link == nil {
		l.Lease.Reason = "guard is not connected"
	} else {
		l.Peers = proto.CloneOf(g.peers)
		l.Lease.Held, l.Lease.Reason = g.lease.GetHeld(), g.lease.GetReason()
		if until, err := n.leaseOf(); err == nil && l.Lease.Held {
			l.Lease.Remaining = max(until-n.now(), 0)
		}
	}
	ca := n.id.AuthorityCertificate()
	l.Authority, l.AuthorityEnds = identity.Fingerprint(ca), ca.NotAfter
	l.Points = n.pointStatus()
	l.FenceFaults = n.fencing.faults
	l.Conditions = n.conditions()
	return l
}

func (n *node) conditions() []api.Condition {
	var cs []api.Condition
	told := n.guard.welcome.GetConditions()
	if n.guard.peers != nil { // newer
		told = n.guard.peers.GetConditions()
	}
	for _, c := range told {
		code := "guard"
		switch {
		case strings.Contains(c, "watchdog is armed"):
			cs = append(cs, api.Condition{Code: "watchdog-armed", Message: c})
			continue
		case strings.Contains(c, "watchdog"):
			code = "watchdog-not-armed"
		case strings.Contains(c, "real-time"):
			code = "no-realtime"
		case strings.Contains(c, "locked"):
			code = "memory-not-locked"
		}
		cs = append(cs, api.Condition{Code: code, Warning: true, Message: c})
	}
	if n.guard.link == nil {
		cs = append(cs, api.Condition{Code: "no-guard", Warning: true, Message: "guard is not connected: this node has no lease"})
	}
	if n.listenFault != "" {
		cs = append(cs, api.Condition{Code: "not-listening", Warning: true, Message: n.listenFault})
	}
	if left := n.id.Expires().Sub(n.wall()); left < certificateWarning {
		cs = append(cs, api.Condition{Code: "certificate-ends", Warning: true, Message: fmt.Sprintf("this node's certificate ends on %s: holdfast cluster rotate-certs renews those of all nodes", n.id.Expires().Format(time.DateOnly))})
	}
	if ends := n.id.AuthorityCertificate().NotAfter; ends.Sub(n.wall()) < authorityWarning {
		cs = append(cs, api.Condition{Code: "authority-ends", Warning: true, Message: fmt.Sprintf("the cluster's authority ends on %s: holdfast cluster rotate-authority replaces it", ends.Format(time.DateOnly))})
	}
	if n.life.fault != "" {
		cs = append(cs, api.Condition{Code: "rotation-fault", Warning: true, Message: "this node can't follow a change of keys or certificates: " + n.life.fault})
	}
	return append(cs, n.eventConditions()...)
}

// Submit proposes a command and waits until it is applied here.
func (b *backend) Submit(ctx context.Context, c *statepb.Command) error {
	n := b.n
	if a := c.GetAnnounceSilence(); a != nil && a.GetNode() != n.id.Node {
		return &api.Refusal{Code: api.CodeConflict, Message: fmt.Sprintf("a silence is announced by the node itself: run this command on %s, or name the API of %s with --api", a.GetNode(), a.GetNode())}
	}
	answer := make(chan engine.Result, 1)
	var token uint64
	err := b.ask(ctx, func() {
		if n.ending != "" {
			answer <- engine.Result{Err: errEnding}
			return
		}
		n.nextToken++
		token = n.nextToken
		n.requests[token] = answer
		n.step(n.proposal(token, c))
	})
	if err != nil {
		return err
	}
	select {
	case r := <-answer:
		var refused *state.Refused
		if errors.As(r.Err, &refused) {
			return &api.Refusal{Code: refused.Code, Message: refused.Message}
		}
		return r.Err
	case <-n.done:
		return errEnding
	case <-ctx.Done():
		n.post(func() {
			delete(n.requests, token)
			n.step(engine.Forget{Token: token})
		})
		return ctx.Err()
	}
}

// proposal of a command. An announced silence is more than its command:
// leadership moves away first, and the lease is extended.
func (n *node) proposal(token uint64, c *statepb.Command) engine.Input {
	if a := c.GetAnnounceSilence(); a != nil {
		return engine.Silence{Token: token, Length: a.GetLength().AsDuration()}
	}
	return engine.Propose{Token: token, Command: c}
}

// answer whoever waits for a proposal.
func (n *node) answer(r engine.Result) {
	if n.notifyAnswered(r) {
		return
	}
	if c := n.requests[r.Token]; c != nil {
		delete(n.requests, r.Token)
		c <- r
	}
}

func (n *node) failRequests() {
	for token, c := range n.requests {
		delete(n.requests, token)
		c <- engine.Result{Token: token, Err: errEnding}
	}
}

// Watch ticks after changes; the channel holds one tick, so a slow reader gets
// the last one.
func (b *backend) Watch(ctx context.Context) (<-chan struct{}, error) {
	n := b.n
	c := make(chan struct{}, 1)
	if err := b.ask(ctx, func() { n.watchers[c] = true }); err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() {
		n.post(func() {
			if n.watchers[c] {
				delete(n.watchers, c)
				close(c)
			}
		})
	})
	return c, nil
}

func (n *node) notify() {
	for c := range n.watchers {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// logEvent writes what has been committed. What an engine that has just started
// applies again is old news.
func (n *node) logEvent(e *v1.Event) {
	attrs := []any{"epoch", e.GetEpoch(), "code", e.GetCode(), "event", e.GetNumber()}
	for _, a := range [][2]string{{"node", e.GetNode()}, {"group", e.GetGroup()}, {"resource", e.GetResource()}} {
		if a[1] != "" {
			attrs = append(attrs, a[0], a[1])
		}
	}
	if e.GetDecision() != 0 {
		attrs = append(attrs, "decision", e.GetDecision())
	}
	switch {
	case e.GetTimeMs() < n.started.Add(-10*time.Second).UnixMilli():
		n.log.Debug(e.GetMessage(), attrs...)
	case e.GetSeverity() >= v1.Severity_SEVERITY_ERROR:
		n.log.Error(e.GetMessage(), attrs...)
	case e.GetSeverity() == v1.Severity_SEVERITY_WARNING:
		n.log.Warn(e.GetMessage(), attrs...)
	default:
		n.log.Info(e.GetMessage(), attrs...)
	}
}

// decisions logs what the planner has decided, and why.
func (n *node) decisions() {
	last := n.decision
	for _, d := range n.engine.State().GetDecisions() {
		if d.GetNumber() <= last {
			continue
		}
		n.decision = max(n.decision, d.GetNumber())
		n.log.Info("decision: "+d.GetAction(), "epoch", d.GetEpoch(), "decision", d.GetNumber(), "group", d.GetGroup(), "reason", strings.Join(d.GetReasons(), " "))
	}
}
