package engine

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/peer/peerpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// Commands on their way. Each has a request number that is unique for this
// node; it is proposed to whoever leads until it is seen applied, and applied
// once however often it was proposed (state remembers requests).

const (
	retryProposal = 500 * time.Millisecond
	retryRefused  = 20 * time.Millisecond
	// Commands that somebody waits for, at most: without a quorum all of them would wait.
	maxAsked      = 512
	maxAskedBytes = 16 << 20
)

// ErrForgotten ends a proposal of an incarnation that has ended: it is not
// known whether it was or will be applied.
var ErrForgotten = errors.New("this node's place in the cluster ended while the command was on its way: look whether it was applied, and repeat it if not")

type proposals struct {
	next      uint64
	open      map[uint64]*proposal
	nextRetry time.Duration
	// To whom open commands were proposed last.
	leader, term uint64
}

type proposal struct {
	token   uint64
	command *statepb.Command
	bytes   []byte
	sentAt  time.Duration
	sent    bool
	done    func(state.Outcome) // of the engine's own commands
	// Not empty: there is at most one open proposal of this key.
	key string
	// Only the leader says this: it ends with its leadership.
	asLeader bool
}

func (p *proposals) init() { p.open = map[uint64]*proposal{} }

func (p *proposals) forget(token uint64) {
	for r, one := range p.open {
		if one.token == token && token != 0 {
			delete(p.open, r)
		}
	}
}

// asked counts what callers of this node wait for. What the engine itself says is bounded by what there is to say.
func (p *proposals) asked() (n, bytes int) {
	for _, one := range p.open {
		if one.token != 0 {
			n++
			bytes += len(one.bytes)
		}
	}
	return n, bytes
}

func (p *proposals) has(key string) bool {
	for _, one := range p.open {
		if one.key == key {
			return true
		}
	}
	return false
}

// leadershipLost ends what only a leader says.
func (p *proposals) leadershipLost() {
	maps.DeleteFunc(p.open, func(_ uint64, one *proposal) bool { return one.asLeader })
}

func (p *proposals) resend() {
	for _, one := range p.open {
		one.sent = false
	}
}

// refused: the node that was asked does not lead. It is asked again soon, not
// at once: until both have heard of the next leader it would refuse again.
func (p *proposals) refused(now time.Duration, request uint64) {
	if one := p.open[request]; one != nil {
		one.sentAt = now - retryProposal + retryRefused
	}
}

func (e *Engine) propose(token uint64, c *statepb.Command) {
	if n, bytes := e.waiting.asked(); n >= maxAsked || bytes+proto.Size(c) > maxAskedBytes && n > 0 {
		e.out.Results = append(e.out.Results, Result{Token: token, Err: &state.Refused{Code: state.CodeConflict, Message: fmt.Sprintf(
			"%d commands of this node wait already, so that this one was not even begun: holdfast status shows whether there is a quorum; repeat it later", n)}})
		return
	}
	e.submit(&proposal{token: token, command: proto.CloneOf(c)})
}

// submit puts a command on its way.
func (e *Engine) submit(p *proposal) {
	p.command.Proposer, p.command.Request = e.node, e.requestNumber()
	p.command.Format = max(p.command.GetFormat(), state.Format)
	if p.command.GetTimeMs() == 0 {
		p.command.TimeMs = e.wall
	}
	p.bytes = state.Marshal(p.command)
	e.waiting.open[p.command.Request] = p
}

// submitOnce proposes a command of this node unless one of that key is open.
func (e *Engine) submitOnce(key string, c *statepb.Command) {
	if !e.waiting.has(key) {
		e.submit(&proposal{command: c, key: key})
	}
}

func (e *Engine) submitAsLeader(key string, c *statepb.Command) {
	if !e.waiting.has(key) {
		e.submit(&proposal{command: c, key: key, asLeader: true})
	}
}

// requestNumber is the time of day in milliseconds with a counter, and never
// goes back while this engine runs; a clock that was set back only makes a
// report refused until it is made again.
func (e *Engine) requestNumber() uint64 {
	last := e.waiting.next
	e.waiting.next = max(last+1, uint64(e.wall)<<16, e.lastReport()+1)
	return e.waiting.next
}

func (e *Engine) lastReport() uint64 { return e.s.GetNodeStatus()[e.node].GetLastReport() }

// waitingOn proposes what has not been proposed to the present leader.
func (e *Engine) waitingOn() {
	e.waiting.nextRetry = 0
	if e.raft == nil || e.s == nil || len(e.waiting.open) == 0 {
		return
	}
	st := e.raft.Status()
	leader, name := st.Leader, e.nameOf(st.Leader)
	if w := &e.waiting; w.leader != leader || w.term != st.Term {
		w.leader, w.term = leader, st.Term
		w.resend()
	}
	for _, r := range sortedRequests(e.waiting.open) {
		p := e.waiting.open[r]
		if leader != 0 && (!p.sent || e.now >= p.sentAt+retryProposal) {
			switch {
			case leader == e.RaftID():
				p.sent = e.raft.Propose(p.bytes) == nil
			case e.peers[name] != nil && e.peers[name].connected:
				e.send(name, &peerpb.Message{Body: &peerpb.Message_Proposal{Proposal: &peerpb.Proposal{Command: p.bytes, Request: r}}})
				p.sent = true
			}
			p.sentAt = e.now
		}
		if p.sent && leader != 0 {
			e.waiting.nextRetry = sooner(e.waiting.nextRetry, p.sentAt+retryProposal)
		}
	}
}

func sooner(a, b time.Duration) time.Duration {
	if a == 0 || b < a {
		return b
	}
	return a
}

// proposalOf a peer. Only its own word may be spoken in its name.
func (e *Engine) proposalOf(node string, m *peerpb.Proposal) {
	c := &statepb.Command{}
	ok := e.raft != nil && e.raft.IsLeader() && proto.Unmarshal(m.GetCommand(), c) == nil &&
		c.GetProposer() == node && !state.ConfChange(c) && mayPropose(e.s, node, c)
	if !ok || e.raft.Propose(m.GetCommand()) != nil {
		e.send(node, &peerpb.Message{Body: &peerpb.Message_ProposalResult{ProposalResult: &peerpb.ProposalResult{Request: m.GetRequest(), Error: "not the leader"}}})
	}
}

// mayPropose: what only a leader decides is not taken from others, and a node
// reports only of itself.
func mayPropose(s *statepb.State, node string, c *statepb.Command) bool {
	switch c := c.GetChange().(type) {
	case *statepb.Command_Plan, *statepb.Command_Proven, *statepb.Command_Stays, *statepb.Command_SilenceOver, *statepb.Command_TimersSettled, *statepb.Command_FenceStarted:
		return false
	case *statepb.Command_FenceDone:
		return slices.ContainsFunc(s.GetFenceOperations(), func(op *v1.FenceOperation) bool {
			return op.GetNumber() == c.FenceDone.GetNumber() && op.GetBy() == node
		})
	case *statepb.Command_Report:
		return c.Report.GetNode() == node
	case *statepb.Command_TriggerDone:
		return c.TriggerDone.GetNode() == node
	case *statepb.Command_OperationDone:
		return c.OperationDone.GetNode() == node
	case *statepb.Command_GuardStarted:
		return c.GuardStarted.GetNode() == node
	case *statepb.Command_ClusterStarted:
		return c.ClusterStarted.GetNode() == node
	case *statepb.Command_Stand:
		return c.Stand.GetNode() == node
	case *statepb.Command_AnnounceSilence:
		return c.AnnounceSilence.GetNode() == node
	}
	return true
}

func sortedRequests(open map[uint64]*proposal) []uint64 {
	return slices.Sorted(maps.Keys(open))
}

// resolve answers whoever waits for an applied command.
func (e *Engine) resolve(c *statepb.Command, o state.Outcome) {
	if c.GetProposer() != e.node {
		return
	}
	p := e.waiting.open[c.GetRequest()]
	if p == nil {
		return
	}
	delete(e.waiting.open, c.GetRequest())
	if p.done != nil {
		p.done(o)
	}
	if p.token != 0 {
		r := Result{Token: p.token, Operation: o.Operation}
		if o.Refused != nil {
			r.Err = o.Refused
		}
		e.out.Results = append(e.out.Results, r)
	}
}

// dropProposals when this incarnation has ended.
func (e *Engine) dropProposals() {
	for _, r := range sortedRequests(e.waiting.open) {
		if p := e.waiting.open[r]; p.token != 0 {
			e.out.Results = append(e.out.Results, Result{Token: p.token, Err: ErrForgotten})
		}
	}
	e.waiting.open = map[uint64]*proposal{}
	e.groups.silence = nil
}
