package witness

import (
	"slices"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/holdfast-ha/holdfast/internal/cluster/witness/witnesspb"
)

// round brings all messages that waited into the register, in one change of it.
type round struct {
	messages []*raftpb.Message
	deadline time.Duration
	tries    int
	resume   time.Duration // of the next try, while ask is nil

	ask       *ask
	ballot    *witnesspb.Ballot
	accepting bool
	// The change that is being accepted, and under which ballot.
	change  change
	accepts *witnesspb.Ballot
}

// promise of a majority to this client that stands unless somebody else has
// intervened: nothing below the ballot is accepted any more, and the register's
// value, as far as the ballots below go, is this one.
type promise struct {
	ballot *witnesspb.Ballot // nothing was accepted under it yet
	value  *witnesspb.Register
}

// change of the register by messages.
type change struct {
	value   *witnesspb.Register
	changed bool
	answers []*raftpb.Message
}

func (c *Client) apply(value *witnesspb.Register, messages []*raftpb.Message) change {
	ch := change{value: value}
	for _, m := range messages {
		next, resp := Step(ch.value, c.cfg.Register, m)
		if next != nil {
			ch.value, ch.changed = next, true
		}
		if resp != nil {
			ch.answers = append(ch.answers, resp)
		}
	}
	return ch
}

// ballot above all that this client has used or met.
func (c *Client) ballot() *witnesspb.Ballot {
	c.counter++
	return &witnesspb.Ballot{Counter: c.counter, Proposer: c.cfg.Proposer}
}

func (c *Client) runRound(now time.Duration) {
	for {
		if c.round == nil {
			if len(c.queue) == 0 {
				return
			}
			c.rounds++
			c.round = &round{messages: c.queue, deadline: now + c.limit}
			c.queue = nil
			c.begin()
		}
		r := c.round
		if r.ask == nil && now >= r.resume {
			c.prepare(c.ballot())
		}
		if r.ask != nil {
			c.evaluate(now)
		}
		if c.round == r {
			if now < r.deadline {
				if r.ask != nil {
					c.pose(now, r.ask)
				}
				return
			}
			c.out.Lost = append(c.out.Lost, r.messages...)
			c.round = nil
		}
	}
}

// begin with the promise that stands, if there is one: a change needs one
// exchange with a majority then, and so does an answer that changes nothing.
func (c *Client) begin() {
	h := c.held
	c.held = nil
	if h == nil {
		return
	}
	if ch := c.apply(h.value, c.round.messages); ch.changed {
		c.accept(h.ballot, ch)
	} else {
		c.prepare(h.ballot)
	}
}

func (c *Client) prepare(b *witnesspb.Ballot) {
	c.round.ballot, c.round.accepting = b, false
	c.round.ask = c.newAsk(forRegister, &witnesspb.Request{Body: &witnesspb.Request_Prepare{Prepare: &witnesspb.Prepare{Ballot: b}}})
}

func (c *Client) accept(b *witnesspb.Ballot, ch change) {
	r := c.round
	r.change, r.accepting, r.accepts = ch, true, b
	r.ballot = c.ballot() // promised next
	r.ask = c.newAsk(forRegister, &witnesspb.Request{Body: &witnesspb.Request_Accept{Accept: &witnesspb.Accept{Ballot: b, Value: ch.value, Next: r.ballot}}})
}

func accepted(r *witnesspb.Reply) bool { return r.GetAccepted() != nil }
func promised(r *witnesspb.Reply) bool { return r.GetPromised() != nil }

// evaluate the replies to what is being asked.
func (c *Client) evaluate(now time.Duration) {
	r := c.round
	for _, reply := range r.ask.replies {
		c.counter = max(c.counter, reply.GetRejected().GetPromised().GetCounter())
	}
	yes := promised
	if r.accepting {
		yes = accepted
	}
	switch {
	case r.ask.count(yes) >= c.majority():
		if r.accepting {
			c.finish(r.change)
		} else {
			c.prepared()
		}
	case c.hopeless(r.ask, yes):
		r.ask = nil
		r.tries++
		r.resume = now + c.backoff(c.rounds<<8|uint64(r.tries))
	}
}

// prepared: a majority has promised. The value accepted under the highest
// ballot is the register's, if any majority ever had one.
func (c *Client) prepared() {
	r := c.round
	var newest *witnesspb.Promised
	for _, reply := range r.ask.replies {
		if p := reply.GetPromised(); p != nil && (newest == nil || Compare(p.GetAccepted(), newest.GetAccepted()) > 0) {
			newest = p
		}
	}
	// That a majority shows one ballot does not prove that its value was chosen: a
	// lock disk shows what was written, also if it was refused afterwards. Only
	// who got a majority's word for it knows.
	chosen := c.chosen != nil && Compare(newest.GetAccepted(), c.chosen) == 0
	ch := c.apply(newest.GetValue(), r.messages)
	// What was merely found at one point may be lost again: an answer by it
	// would speak of a state that never was (W4). A pre-vote binds nobody.
	binding := slices.ContainsFunc(r.messages, func(m *raftpb.Message) bool { return m.GetType() != raftpb.MsgPreVote })
	if !ch.changed && (chosen || !binding) {
		c.finish(ch)
		return
	}
	c.accept(r.ballot, ch)
}

// finish the round: its change is chosen, or it changed nothing.
func (c *Client) finish(ch change) {
	if c.round.accepting {
		c.chosen = c.round.accepts
	}
	c.held = &promise{ballot: c.round.ballot, value: ch.value}
	c.out.Responses = append(c.out.Responses, ch.answers...)
	c.round = nil
}
