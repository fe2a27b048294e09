package witness

import (
	"maps"
	"slices"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/holdfast-ha/holdfast/internal/cluster/witness/witnesspb"
)

// Kind of a coordination point.
type Kind int

const (
	Arbiter Kind = iota + 1
	LockDisk
)

// PointInfo names a coordination point.
type PointInfo struct {
	Name string // unique in a configuration
	Kind Kind
}

// Config of a Client.
type Config struct {
	Cluster string // its UUID
	// Register is the raft id of the witness.
	Register uint64
	Node     string
	RaftID   uint64
	// Proposer is random, not 0, and drawn anew for every Client: two that
	// shared it could accept two values under one ballot (W3).
	Proposer uint64
	Points   []PointInfo // one or three
	// Peerinact is the timer of that name; the time limits follow it.
	Peerinact time.Duration
}

const (
	// arbiterLook is how often an arbiter is looked at that nobody needs.
	arbiterLook = 10 * time.Second
	// minLimit of a round, however short peerinact is.
	minLimit = 50 * time.Millisecond
	// maxMerged entries of appends that wait.
	maxMerged = 4096
)

// Client executes the witness's part of raft, and its acknowledgement of
// leases, on the points: what every node's engine runs. See the package comment
// for what its caller owes it.
type Client struct {
	cfg    Config
	limit  time.Duration // of a round, a renewal and every call but looks
	points []*point
	calls  uint64
	out    Out

	// Messages for the next round, at most one of a kind.
	queue   []*raftpb.Message
	round   *round
	held    *promise
	chosen  *witnesspb.Ballot // under which this client's last change was chosen
	counter uint64            // highest ballot counter used or met
	rounds  uint64

	renewal     *renewal
	wanted      *renewal // follows renewal
	suspicions  map[string]*suspecting
	withheldTil time.Duration
}

// Out is what a Client wants done. Each request is carried out on its own, and
// answered by one Reply; a point gets at most one of each kind at a time.
type Out struct {
	Requests []Request
	// Responses of the witness, for raft.
	Responses []*raftpb.Message
	// Lost messages have had no effect that anybody may count on: raft is told
	// that the witness could not be reached.
	Lost []*raftpb.Message
	// Renewed renewals, and those that were refused for a reason that time does not heal.
	Renewed      []Renewal
	RenewRefused []RenewRefusal
	Statements   []Statement
	// Wake is when Tick is due, unless something else is called before.
	Wake time.Duration
}

// Request to a point.
type Request struct {
	Point   string
	Call    uint64
	Request *witnesspb.Request
	// Timeout after which an answer is of no use.
	Timeout time.Duration
}

// Renewal that the witness has acknowledged.
type Renewal struct {
	// Since is the time at which it was asked for: the lease counts from there.
	Since time.Duration
}

// RenewRefusal tells why the witness acknowledges this node's lease no more.
type RenewRefusal struct {
	Since time.Duration // when the renewal was asked for
	// Reason is REASON_SUSPECTED or REASON_OLD_VIEW.
	Reason witnesspb.Refused_Reason
	// Stays of the suspicion: a higher one ends it.
	Stays uint64
}

// Statement of the witness that it suspects an incarnation: it acknowledges its
// lease no more while it shows no higher stays.
type Statement struct {
	About         string
	RaftID, Stays uint64
	// Age of the youngest acknowledgement that the witness may have given, when
	// the statement was taken out.
	Age time.Duration
}

// PointStatus is how a point is doing, for people.
type PointStatus struct {
	Name string
	Kind Kind
	// Known: it has answered, or failed to, at least once.
	Known     bool
	Reachable bool
	// Since when it is reachable, or not.
	Since time.Duration
	// Refused is why it refuses to serve, if that is what it does, and Error
	// what it said, or what went wrong.
	Refused witnesspb.Refused_Reason
	Error   string
	// Seen at it, LookedAt.
	Seen     []*witnesspb.Seen
	LookedAt time.Duration
}

// New makes a client that has asked for nothing yet. Call Tick to begin.
func New(cfg Config) *Client {
	c := &Client{cfg: cfg, limit: max(cfg.Peerinact/4, minLimit), suspicions: map[string]*suspecting{}}
	for i, info := range cfg.Points {
		c.points = append(c.points, &point{index: i, PointStatus: PointStatus{Name: info.Name, Kind: info.Kind}})
	}
	return c
}

// Step takes a raft message that is addressed to the witness, without payloads
// (see the function Step). It waits while a round is under way; a newer one of
// its kind takes its place then, except that appends which follow on each other
// become one.
func (c *Client) Step(now time.Duration, m *raftpb.Message) {
	if m == nil || m.GetTo() != c.cfg.Register {
		return
	}
	if i := slices.IndexFunc(c.queue, func(q *raftpb.Message) bool { return q.GetType() == m.GetType() }); i >= 0 {
		old := c.queue[i]
		c.queue = slices.Delete(c.queue, i, i+1)
		if merged := merge(old, m); merged != nil {
			m = merged
		} else {
			c.out.Lost = append(c.out.Lost, old)
		}
	}
	c.queue = append(c.queue, m)
	c.run(now)
}

// merge two appends into one that has the effect of both in turn; nil: there is none.
func merge(a, b *raftpb.Message) *raftpb.Message {
	index, term := a.GetIndex(), a.GetLogTerm()
	if n := len(a.GetEntries()); n > 0 {
		index, term = a.GetEntries()[n-1].GetIndex(), a.GetEntries()[n-1].GetTerm()
	}
	if a.GetType() != raftpb.MsgApp || a.GetFrom() != b.GetFrom() || a.GetTerm() != b.GetTerm() ||
		b.GetIndex() != index || b.GetLogTerm() != term || len(a.GetEntries())+len(b.GetEntries()) > maxMerged {
		return nil
	}
	return &raftpb.Message{
		Type: raftpb.MsgApp.Enum(), To: b.To, From: b.From, Term: b.Term, Index: a.Index, LogTerm: a.LogTerm,
		Entries: slices.Concat(a.GetEntries(), b.GetEntries()), Commit: new(max(a.GetCommit(), b.GetCommit())),
	}
}

// Renew asks for an acknowledgement of this node's lease, which counts from
// now. The newest wish waits while an earlier renewal is under way.
func (c *Client) Renew(now time.Duration, m *witnesspb.Renew) {
	c.wanted = &renewal{since: now, body: m}
	c.run(now)
}

// Suspect asks for a statement about an incarnation: raftID and stays are those
// of the state that this node has applied. It is given up after peerinact; ask
// again as long as it is wanted. What a point has promised meanwhile stands.
func (c *Client) Suspect(now time.Duration, about string, raftID, stays uint64) {
	if s := c.suspicions[about]; s == nil || s.raftID != raftID || s.stays != stays {
		c.suspicions[about] = &suspecting{about: about, raftID: raftID, stays: stays, began: now, ages: make([]*age, len(c.points))}
	}
	c.run(now)
}

// Withhold holds messages and suspicions back until then: the other side of a
// split is to be first. The last call counts; a time that has passed ends it.
// What was under way is given up, and waits. Renewals go on: without them the
// services of a side whose other side has died would stop for nothing.
func (c *Client) Withhold(now, until time.Duration) {
	c.withheldTil = until
	if now < until {
		if r := c.round; r != nil {
			c.round = nil
			for _, m := range r.messages {
				if !slices.ContainsFunc(c.queue, func(q *raftpb.Message) bool { return q.GetType() == m.GetType() }) {
					c.queue = append(c.queue, m)
				} else {
					c.out.Lost = append(c.out.Lost, m)
				}
			}
		}
		for _, s := range c.suspicions {
			s.ask = nil
		}
	}
	c.run(now)
}

// Tick lets time pass.
func (c *Client) Tick(now time.Duration) { c.run(now) }

// Take returns what is to be done since the last Take. The order within is free.
func (c *Client) Take() Out {
	out := c.out
	c.out = Out{Wake: out.Wake}
	return out
}

// Status of the points, in the order of the configuration.
func (c *Client) Status() []PointStatus {
	var all []PointStatus
	for _, p := range c.points {
		all = append(all, p.PointStatus)
	}
	return all
}

// run does all that is due, and says when to come again.
func (c *Client) run(now time.Duration) {
	for _, p := range c.points {
		c.expire(now, p)
	}
	c.runRenewal(now)
	if now >= c.withheldTil {
		c.runRound(now)
		for _, about := range slices.Sorted(maps.Keys(c.suspicions)) {
			c.runSuspicion(now, c.suspicions[about])
		}
	}
	for _, p := range c.points {
		c.runLook(now, p)
	}
	c.out.Wake = c.wake(now)
}

func (c *Client) wake(now time.Duration) time.Duration {
	at := now + arbiterLook
	soon := func(t time.Duration) {
		if t > now {
			at = min(at, t)
		}
	}
	soon(c.withheldTil)
	for _, p := range c.points {
		soon(p.nextLook)
		for _, call := range p.calls {
			if call != nil {
				soon(call.deadline)
			}
		}
	}
	if r := c.round; r != nil {
		soon(r.deadline)
		soon(r.resume)
	}
	if r := c.renewal; r != nil {
		soon(r.deadline)
	}
	for _, s := range c.suspicions {
		soon(s.began + c.patience())
		soon(s.resume)
	}
	return at
}

// patience with a suspicion.
func (c *Client) patience() time.Duration { return max(c.cfg.Peerinact, 4*c.limit) }

// jitter in [0, n), the same for the same proposer and number.
func (c *Client) jitter(number uint64, n time.Duration) time.Duration {
	x := c.cfg.Proposer + number*0x9e3779b97f4a7c15 // splitmix64
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	x ^= x >> 31
	return time.Duration(x % uint64(max(n, 1)))
}

// backoff before a try that follows others. Growing from try to try would only
// let those starve who had bad luck: rounds are over soon, one way or the other.
func (c *Client) backoff(number uint64) time.Duration { return c.jitter(number, c.limit/16) }
