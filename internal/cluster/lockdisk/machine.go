package lockdisk

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/holdfast-ha/holdfast/internal/cluster/lockdisk/lockdiskpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/witness"
	"github.com/holdfast-ha/holdfast/internal/cluster/witness/witnesspb"
)

// SignOfLife is how often a node that only looks at a disk writes, so that the others see that it is there.
const SignOfLife = 5 * time.Second

// ErrSuperseded ends a Machine: another incarnation of its node uses the disk (D8).
var ErrSuperseded = errors.New("another run of this node uses the lock disk")

// Config of a Machine: one run of one incarnation of a node.
type Config struct {
	Disk, Cluster ID
	Slot          int
	// Number of the node, 1 to MaxNodes.
	Number uint32
	Node   string
	RaftID uint64
	// Run is random and not 0, drawn for every Machine.
	Run uint64
}

// Check says what is wrong with a configuration.
func (c *Config) Check() error {
	switch {
	case c.Disk == (ID{}) || c.Cluster == (ID{}):
		return errors.New("lock disk: the identity of the disk or of the cluster is missing")
	case c.Slot < 0 || c.Slot >= MaxSlots:
		return fmt.Errorf("lock disk: there is no slot %d", c.Slot)
	case c.Number < 1 || c.Number > MaxNodes:
		return fmt.Errorf("lock disk: node number %d is not among 1 to %d", c.Number, MaxNodes)
	case c.Node == "" || c.RaftID == 0 || c.Run == 0:
		return errors.New("lock disk: the node's name, raft id or run is missing")
	}
	return nil
}

// IO is wanted of the disk. Exactly one of Read and Write is set.
type IO struct {
	// Wait so long before it is begun.
	Wait  time.Duration
	Read  []Range
	Write *Page
}

// Range of whole pages.
type Range struct {
	Address int64
	Bytes   int
}

// Result of an IO.
type Result struct {
	// Data that was read, by Range. It is not kept.
	Data [][]byte
	// Unreadable pages within Data, by address.
	Unreadable map[int64]error
	// Err: the I/O failed as a whole. A write may have been done, in part, or come about later.
	Err error
}

// Out is what a Machine wants, or how a request has ended: with a reply or marks, or with an error.
type Out struct {
	IO    *IO
	Reply *witnesspb.Reply
	Marks []Mark
	Err   error
}

// Mark of a node: what it has written for others to find.
type Mark struct {
	Number int
	Node   string
	Nonce  []byte
}

// Machine is one node's hand on one slot of a lock disk. See the package
// comment for what its caller owes it.
type Machine struct {
	cfg Config
	out Out
	// then takes the outcome of the I/O that is under way.
	then    func(time.Duration, Result)
	busy    bool
	request *witnesspb.Request // nil: marks are wanted
	stopped error

	// claimed: the own area is this run's, and its record is complete.
	claimed bool
	// verified: the disk is the right one, as of the last I/O that failed.
	verified bool
	claim    uint64
	area     int
	sequence uint64
	own      *lockdiskpb.Contents
	written  time.Duration

	// As last read.
	known   [MaxNodes + 1]bool
	records [MaxNodes + 1][Areas]*Record
	sights  [MaxNodes + 1][Areas]sight
	// floors are the newest records that were complete.
	floors [MaxNodes + 1][Areas]*Record
	// gaveUp are checksums of pages that reading again does not mend, by address.
	gaveUp map[int64]uint32
	found  found
	// since when there are observations.
	since    time.Duration
	observes bool
	looks    int
}

// sight of a record: when its counter, and when anything of it, was first seen as it is.
type sight struct {
	counter, any time.Duration
	// moved: it has changed since it was first seen.
	moved bool
}

// NewMachine makes one that has done nothing yet. The configuration has been checked.
func NewMachine(cfg Config) *Machine {
	return &Machine{cfg: cfg, gaveUp: map[int64]uint32{}}
}

// Start a request. There is none under way.
func (m *Machine) Start(now time.Duration, r *witnesspb.Request) {
	m.start()
	if err := witness.CheckRequest(r); err != nil {
		m.refuse(witnesspb.Refused_REASON_MALFORMED, err.Error())
		return
	}
	m.request = r
	cluster, err := ParseID(r.GetCluster())
	switch {
	case err != nil || cluster != m.cfg.Cluster:
		m.refuse(witnesspb.Refused_REASON_WRONG_CLUSTER, "the lock disk was opened for another cluster")
	case r.GetNode() != m.cfg.Node || r.GetRaftId() != m.cfg.RaftID:
		m.refuse(witnesspb.Refused_REASON_MALFORMED, "the lock disk was opened for another node, or another incarnation of it")
	default:
		m.begin(now)
	}
}

// StartMark writes a nonce into the own block, or none if it is nil, and finds those of all nodes.
func (m *Machine) StartMark(now time.Duration, nonce []byte) {
	m.start()
	m.request = nil
	m.withClaim(now, func(now time.Duration) {
		c := m.next()
		if nonce != nil {
			c.Nonce = slices.Clone(nonce)
		}
		m.put(c, now, false, func(now time.Duration) {
			m.scan(now, scanFull, func(time.Duration) { m.end(Out{Marks: m.marks()}) })
		})
	})
}

// Take returns what is wanted since the last Take. Zero: a result is being waited for, or a request.
func (m *Machine) Take() Out {
	out := m.out
	m.out = Out{}
	return out
}

// Done reports how the I/O ended.
func (m *Machine) Done(now time.Duration, r Result) {
	then := m.then
	m.then = nil
	then(now, r)
}

// Reopened: the disk is looked for anew, so that it may be another one.
func (m *Machine) Reopened() { m.verified = false }

func (m *Machine) start() {
	if m.busy {
		panic("lockdisk: a request while another one is under way")
	}
	m.busy = true
}

func (m *Machine) end(out Out) {
	m.busy, m.then, m.out = false, nil, out
}

func (m *Machine) reply(r *witnesspb.Reply) {
	r.Sequence = m.sequence
	m.end(Out{Reply: r})
}

func (m *Machine) refuse(reason witnesspb.Refused_Reason, message string) {
	m.reply(&witnesspb.Reply{Body: &witnesspb.Reply_Refused{Refused: &witnesspb.Refused{Reason: reason, Message: message}}})
}

// refuseRequest does so where there is one; marks end with an error.
func (m *Machine) refuseRequest(reason witnesspb.Refused_Reason, message string) {
	if m.request == nil {
		m.end(Out{Err: errors.New("lock disk: " + message)})
		return
	}
	m.refuse(reason, message)
}

func (m *Machine) stop(err error) {
	m.stopped = err
	m.end(Out{Err: err})
}

// withClaim goes on when an area of the right disk is this run's.
func (m *Machine) withClaim(now time.Duration, then func(time.Duration)) {
	switch {
	case m.stopped != nil:
		m.end(Out{Err: m.stopped})
	case m.claimed && m.verified:
		then(now)
	default:
		m.verified = true // unless the scan says otherwise
		m.scan(now, scanAll, func(now time.Duration) {
			if m.claimed {
				then(now)
				return
			}
			m.takeArea(now, then)
		})
	}
}

// takeArea begins this run, or begins it anew after a write has failed (D1, D7).
func (m *Machine) takeArea(now time.Duration, then func(time.Duration)) {
	mine := int(m.cfg.Number)
	c := &lockdiskpb.Contents{}
	if m.own != nil {
		c = proto.CloneOf(m.own)
	}
	area, lowest := 0, uint64(maxClaim)
	for a, r := range m.records[mine] {
		if r != nil {
			m.claim, m.sequence = max(m.claim, r.Claim), max(m.sequence, r.Sequence)
			if !carry(c, r.Contents) {
				m.refuseRequest(witnesspb.Refused_REASON_FULL, "this node's earlier records on the lock disk do not fit into one: replace the coordination point by a fresh one")
				return
			}
		}
		// An area in which a write has failed is not written at once again (D7),
		// but a block's first area is its first, or nobody would find the others.
		failed := m.own != nil && a == m.area && m.records[mine][0] != nil
		if claim := r.claimed(); claim < lowest && !failed {
			area, lowest = a, claim
		}
	}
	if len(m.found.forgot) > 0 {
		c.Abstains = max(c.Abstains, m.newest(c.Register))
	}
	m.area = area
	m.claim++
	c.Node, c.RaftId = m.cfg.Node, m.cfg.RaftID
	m.known[mine] = true
	m.put(c, now, true, func(now time.Duration) {
		m.claimed = true
		then(now)
	})
}

func (r *Record) claimed() uint64 {
	if r == nil {
		return 0
	}
	return r.Claim
}

// carry everything of an earlier record into c; not ok: it is too much.
func carry(c, from *lockdiskpb.Contents) (ok bool) {
	if from.GetRegister() > c.GetRegister() {
		c.Register, c.Promised, c.Accepted, c.Value = from.Register, nil, nil, nil
	}
	if from.GetRegister() == c.GetRegister() {
		if witness.Compare(from.GetPromised(), c.GetPromised()) > 0 {
			c.Promised = proto.CloneOf(from.GetPromised())
		}
		if witness.Compare(from.GetAccepted(), c.GetAccepted()) > 0 {
			c.Accepted, c.Value = proto.CloneOf(from.GetAccepted()), proto.CloneOf(from.GetValue())
		}
	}
	c.Counter = max(c.Counter, from.GetCounter())
	c.Abstains = max(c.Abstains, from.GetAbstains())
	for _, s := range from.GetSuspicions() {
		c.Suspicions, ok = witness.AddSuspicion(c.Suspicions, &witnesspb.Suspect{About: s.GetNode(), AboutRaftId: s.GetRaftId(), Stays: s.GetStays()})
		if !ok {
			return false
		}
	}
	return true
}

// kept is what an arbiter would keep of c.
func kept(c *lockdiskpb.Contents) *witnesspb.Kept {
	return &witnesspb.Kept{Format: witness.Format, Promised: c.GetPromised(), Accepted: c.GetAccepted(), Value: c.GetValue(), Suspicions: c.GetSuspicions()}
}

// next contents, to be changed.
func (m *Machine) next() *lockdiskpb.Contents { return proto.CloneOf(m.own) }

// newest register that is known here.
func (m *Machine) newest(register uint64) uint64 {
	register = max(register, m.request.GetRegister())
	m.each(func(r *Record) { register = max(register, r.GetRegister()) })
	return register
}

// put contents into the own record and go on when that is complete (D2). What
// is there already is not written again, unless always.
func (m *Machine) put(c *lockdiskpb.Contents, now time.Duration, always bool, then func(time.Duration)) {
	if !always && proto.Equal(c, m.own) {
		then(now)
		return
	}
	r := &Record{
		Disk: m.cfg.Disk, Cluster: m.cfg.Cluster, Slot: m.cfg.Slot, Number: int(m.cfg.Number),
		Area: m.area, Claim: m.claim, Run: m.cfg.Run, Sequence: m.sequence + 1, Contents: c,
	}
	pages, err := r.pages()
	if err != nil {
		m.refuseRequest(witnesspb.Refused_REASON_FULL, "this node's record on the lock disk is full (long node names, many of them suspected): replace the coordination point by a fresh one")
		return
	}
	m.own, m.sequence = c, r.Sequence
	m.write(pages, func(now time.Duration) {
		m.floors[r.Number][r.Area], m.records[r.Number][r.Area] = r, r
		m.written = now
		then(now)
	})
}

func (r *Record) pages() (pages []Page, err error) {
	for c := range Copies {
		b, err := r.Encode(c)
		if err != nil {
			return nil, err
		}
		pages = append(pages, Page{RecordAddress(r.Slot, r.Number, r.Area, c), b})
	}
	return pages, nil
}

// write pages one after the other.
func (m *Machine) write(pages []Page, then func(time.Duration)) {
	m.out.IO = &IO{Write: &pages[0]}
	m.then = func(now time.Duration, res Result) {
		switch {
		case res.Err != nil:
			m.claimed, m.verified = false, false
			m.end(Out{Err: fmt.Errorf("lock disk: writing: %w", res.Err)})
		case len(pages) > 1:
			m.write(pages[1:], then)
		default:
			then(now)
		}
	}
}

// each record that counts, in the order of blocks and areas.
func (m *Machine) each(visit func(*Record)) {
	for n := range m.records {
		for _, r := range m.records[n] {
			if r != nil {
				visit(r)
			}
		}
	}
}

// of this run.
func (m *Machine) mine(r *Record) bool { return r.Number == int(m.cfg.Number) && r.Area == m.area }

func (m *Machine) marks() (marks []Mark) {
	for n := range m.records {
		if r := m.latest(n); r != nil {
			marks = append(marks, Mark{Number: n, Node: r.GetNode(), Nonce: r.GetNonce()})
		}
	}
	return marks
}

// latest record of a block; nil: none.
func (m *Machine) latest(number int) (r *Record) {
	for _, o := range m.records[number] {
		if o.newer(r) {
			r = o
		}
	}
	return r
}

func sentence(parts []string) string { return strings.Join(parts, "; ") }
