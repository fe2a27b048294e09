package witness

import (
	"fmt"
	"time"

	"github.com/holdfast-ha/holdfast/internal/cluster/witness/witnesspb"
)

// kinds of what points are asked for. Each point has at most one call of each
// under way, so that a slow one gets no queue.
type kind int

const (
	forRegister kind = iota
	forRenewal
	forSuspicion
	forLook
	kinds
)

// point as the client sees it.
type point struct {
	PointStatus
	index    int
	sequence uint64 // highest seen
	calls    [kinds]*call
	nextLook time.Duration // 0: never looked
}

type call struct {
	number   uint64
	ask      *ask // nil for a look
	deadline time.Duration
}

// ask puts one question to all points.
type ask struct {
	kind    kind
	request *witnesspb.Request // its body
	// By point.
	sent    []bool
	replies []*witnesspb.Reply
	failed  []bool
}

func (c *Client) newAsk(k kind, body *witnesspb.Request) *ask {
	n := len(c.points)
	return &ask{kind: k, request: body, sent: make([]bool, n), replies: make([]*witnesspb.Reply, n), failed: make([]bool, n)}
}

// pose the question to all points that have not got it and are free.
func (c *Client) pose(now time.Duration, a *ask) {
	for _, p := range c.points {
		if !a.sent[p.index] && p.calls[a.kind] == nil {
			a.sent[p.index] = true
			c.call(now, p, a.kind, a, a.request, c.limit)
		}
	}
}

func (c *Client) call(now time.Duration, p *point, k kind, a *ask, body *witnesspb.Request, timeout time.Duration) {
	c.calls++
	p.calls[k] = &call{number: c.calls, ask: a, deadline: now + timeout}
	c.out.Requests = append(c.out.Requests, Request{Point: p.Name, Call: c.calls, Timeout: timeout, Request: &witnesspb.Request{
		Cluster: c.cfg.Cluster, Register: c.cfg.Register, Node: c.cfg.Node, RaftId: c.cfg.RaftID, SeenSequence: p.sequence, Body: body.GetBody(),
	}})
}

// count the replies for which yes holds.
func (a *ask) count(yes func(*witnesspb.Reply) bool) (n int) {
	for _, r := range a.replies {
		if r != nil && yes(r) {
			n++
		}
	}
	return n
}

// hopeless: no majority can say yes any more.
func (c *Client) hopeless(a *ask, yes func(*witnesspb.Reply) bool) bool {
	no := 0
	for i, r := range a.replies {
		if a.failed[i] || r != nil && !yes(r) {
			no++
		}
	}
	return len(c.points)-no < c.majority()
}

func (c *Client) majority() int { return len(c.points)/2 + 1 }

// Reply is how a request ended: with a reply, or with what went wrong.
func (c *Client) Reply(now time.Duration, name string, number uint64, r *witnesspb.Reply, problem string) {
	for _, p := range c.points {
		if p.Name != name {
			continue
		}
		for k := range p.calls {
			if cl := p.calls[k]; cl != nil && cl.number == number {
				p.calls[k] = nil
				c.answered(now, p, kind(k), cl.ask, r, problem)
			}
		}
	}
	c.run(now)
}

func (c *Client) answered(now time.Duration, p *point, k kind, a *ask, r *witnesspb.Reply, problem string) {
	reason := witnesspb.Refused_REASON_UNSPECIFIED
	if problem == "" {
		problem = check(k, r)
	}
	if problem == "" {
		p.sequence = max(p.sequence, r.GetSequence())
		if f := r.GetRefused(); f != nil && !healthy(f.GetReason()) {
			reason, problem = f.GetReason(), f.GetMessage()
		}
	}
	if up := problem == ""; !p.Known || p.Reachable != up {
		p.Known, p.Reachable, p.Since = true, up, now
	}
	p.Error, p.Refused = problem, reason
	switch {
	case k == forLook && problem == "":
		p.Seen, p.LookedAt = r.GetLooked().GetSeen(), now
	case a == nil: // a look that failed
	case problem == "":
		a.replies[p.index] = r
	default:
		a.failed[p.index] = true
	}
}

// healthy refusals are answers of a point that does its work.
func healthy(r witnesspb.Refused_Reason) bool {
	return r == witnesspb.Refused_REASON_SUSPECTED || r == witnesspb.Refused_REASON_OLD_VIEW
}

// check that a reply fits what was asked for; "" if it does.
func check(k kind, r *witnesspb.Reply) string {
	fits := false
	switch b := r.GetBody().(type) {
	case *witnesspb.Reply_Refused:
		fits = b.Refused.GetReason() != 0 && (k == forRenewal || !healthy(b.Refused.GetReason()))
	case *witnesspb.Reply_Promised:
		if err := CheckRegister(b.Promised.GetValue()); err != nil {
			return err.Error()
		}
		fits = k == forRegister && (b.Promised.GetAccepted() == nil) == (b.Promised.GetValue() == nil)
	case *witnesspb.Reply_Accepted:
		fits = k == forRegister
	case *witnesspb.Reply_Rejected:
		fits = k == forRegister && checkBallot(b.Rejected.GetPromised()) == nil
	case *witnesspb.Reply_Renewed:
		fits = k == forRenewal
	case *witnesspb.Reply_Suspected:
		fits = k == forSuspicion
	case *witnesspb.Reply_Looked:
		fits = k == forLook
	}
	if !fits {
		return "the coordination point answers something else than it was asked for: is it of another release?"
	}
	return ""
}

// expire calls that were never answered.
func (c *Client) expire(now time.Duration, p *point) {
	for k, cl := range p.calls {
		if cl != nil && now >= cl.deadline {
			p.calls[k] = nil
			c.answered(now, p, kind(k), cl.ask, nil, fmt.Sprintf("no answer within %v", c.timeout(kind(k))))
		}
	}
}

func (c *Client) timeout(k kind) time.Duration {
	if k == forLook {
		return max(c.cfg.Peerinact, time.Second)
	}
	return c.limit
}

// runLook looks at a point when it is time. Lock disks are looked at often
// because what was seen long ago is what a statement's age is made of.
func (c *Client) runLook(now time.Duration, p *point) {
	every := arbiterLook
	if p.Kind == LockDisk {
		every = c.limit
	}
	if now < p.nextLook || p.calls[forLook] != nil {
		return
	}
	p.nextLook = now + every - c.jitter(c.calls, every/8)
	c.call(now, p, forLook, nil, &witnesspb.Request{Body: &witnesspb.Request_Look{Look: &witnesspb.Look{}}}, c.timeout(forLook))
}

// renewal of this node's lease.
type renewal struct {
	since, deadline time.Duration
	body            *witnesspb.Renew
	ask             *ask
}

func renewed(r *witnesspb.Reply) bool { return r.GetRenewed() != nil }

func (c *Client) runRenewal(now time.Duration) {
	if r := c.renewal; r != nil {
		c.endRenewal(now, r)
	}
	if c.renewal == nil && c.wanted != nil {
		r := c.wanted
		c.renewal, c.wanted = r, nil
		r.deadline = now + c.limit
		r.ask = c.newAsk(forRenewal, &witnesspb.Request{Body: &witnesspb.Request_Renew{Renew: r.body}})
	}
	if c.renewal != nil {
		c.pose(now, c.renewal.ask)
	}
}

func (c *Client) endRenewal(now time.Duration, r *renewal) {
	switch {
	case r.ask.count(renewed) >= c.majority():
		c.out.Renewed = append(c.out.Renewed, Renewal{Since: r.since})
	case c.hopeless(r.ask, renewed) || now >= r.deadline:
		refusal := RenewRefusal{Since: r.since}
		for _, reply := range r.ask.replies {
			if f := reply.GetRefused(); f != nil && (refusal.Reason == 0 || f.GetReason() < refusal.Reason || f.GetStays() > refusal.Stays) {
				refusal.Reason, refusal.Stays = f.GetReason(), max(refusal.Stays, f.GetStays())
			}
		}
		if refusal.Reason != 0 {
			c.out.RenewRefused = append(c.out.RenewRefused, refusal)
		}
	default:
		return
	}
	c.renewal = nil
}

// suspecting is a statement in the making.
type suspecting struct {
	about         string
	raftID, stays uint64
	began         time.Duration
	resume        time.Duration
	ask           *ask
	ages          []*age // by point: it has made its promise
}

// age as a point stated it, and when that arrived here. What has passed since
// adds to it.
type age struct{ stated, arrived time.Duration }

func (c *Client) runSuspicion(now time.Duration, s *suspecting) {
	if a := s.ask; a != nil {
		for i, r := range a.replies {
			if r.GetSuspected() != nil && s.ages[i] == nil {
				s.ages[i] = &age{stated: max(0, r.GetSuspected().GetAge().AsDuration()), arrived: now}
			}
		}
		if c.hopeless(a, func(r *witnesspb.Reply) bool { return r.GetSuspected() != nil }) {
			s.ask = nil
			s.resume = now + c.backoff(c.calls)
		}
	}
	youngest, count := time.Duration(-1), 0
	for _, g := range s.ages {
		if g != nil {
			if old := g.stated + now - g.arrived; count == 0 || old < youngest {
				youngest = old
			}
			count++
		}
	}
	switch {
	case count >= c.majority():
		c.out.Statements = append(c.out.Statements, Statement{About: s.about, RaftID: s.raftID, Stays: s.stays, Age: youngest})
		delete(c.suspicions, s.about)
		return
	case now >= s.began+c.patience():
		delete(c.suspicions, s.about)
		return
	case s.ask == nil && now >= s.resume:
		s.ask = c.newAsk(forSuspicion, &witnesspb.Request{Body: &witnesspb.Request_Suspect{Suspect: &witnesspb.Suspect{
			About: s.about, AboutRaftId: s.raftID, Stays: s.stays,
		}}})
		for i, g := range s.ages {
			s.ask.sent[i] = g != nil
		}
	}
	if s.ask != nil {
		c.pose(now, s.ask)
	}
}
