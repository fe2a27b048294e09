package lockdisk

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/holdfast-ha/holdfast/internal/cluster/witness"
	"github.com/holdfast-ha/holdfast/internal/cluster/witness/witnesspb"
)

// world is several nodes on one slot, each with a proposer of its own, under
// random schedules. A value is a register whose term is unique; lineage says
// which value it was made from.
type world struct {
	t     *testing.T
	seed  uint64
	rng   *rand.Rand
	disk  *diskModel
	now   time.Duration
	nodes []*testNode
	// zombies are runs that have been replaced and do not know it.
	zombies  []*testNode
	register uint64
	stays    []uint64 // by node

	values  uint64
	parent  map[uint64]uint64
	made    map[uint64]uint64   // for which register
	chosen  map[uint64][]uint64 // by register
	answers []answered
	renewed []renewal
	stated  []statement
	stats   map[string]int
	// harsh: both copies of an area may go bad. Then nothing may be done any more, and nothing wrong.
	harsh bool
}

// answered is a promise (or the register's use): nothing lower may begin later and succeed.
type answered struct {
	register uint64
	ballot   *witnesspb.Ballot
	at       int
}

type renewal struct {
	node  int
	stays uint64
	begun time.Duration
}

type statement struct {
	about int
	stays uint64
	// No renewal that was acknowledged may have begun later than this.
	bound time.Duration
}

type testNode struct {
	hand
	index    int
	name     string
	offset   time.Duration // of its clock
	proposer uint64
	counter  uint64
	seen     uint64
	register uint64

	request *witnesspb.Request
	begun   time.Duration
	step0   int
	// of a round
	held   *witnesspb.Ballot
	value  *witnesspb.Register
	ballot *witnesspb.Ballot
	zombie bool
}

var steps int // of the world under test; tests are not parallel

func newWorld(t *testing.T, seed uint64, nodes int) *world {
	w := &world{t: t, seed: seed, rng: seeded(seed), register: 7, parent: map[uint64]uint64{}, made: map[uint64]uint64{}, chosen: map[uint64][]uint64{}, stats: map[string]int{}}
	w.disk = newDisk(w.rng, testDisk, testCluster, 2)
	for i := range nodes {
		n := &testNode{index: i, name: fmt.Sprintf("n%d", i+1), offset: time.Duration(w.rng.IntN(1e9))}
		n.d, n.number = w.disk, []int{1, 2, 17, 64}[i]
		w.stays = append(w.stays, 1)
		w.nodes = append(w.nodes, n)
		w.boot(n)
	}
	return w
}

func (w *world) fail(format string, args ...any) {
	w.t.Helper()
	w.t.Fatalf("seed %d, step %d: %s", w.seed, steps, fmt.Sprintf(format, args...))
}

// boot a new run of a node.
func (w *world) boot(n *testNode) {
	n.claims++
	w.disk.landLate(n.number, n.claims)
	cfg := Config{Disk: testDisk, Cluster: testCluster, Slot: 2, Number: uint32(n.number), Node: n.name, RaftID: uint64(100 + n.index), Run: w.rng.Uint64() | 1}
	if err := cfg.Check(); err != nil {
		w.fail("%v", err)
	}
	n.m, n.io, n.begun, n.hand.begun = NewMachine(cfg), nil, 0, false
	n.proposer, n.counter, n.seen, n.register = w.rng.Uint64()|1, 0, 0, w.register
	n.request, n.held, n.value, n.ballot = nil, nil, nil, nil
}

func (w *world) crash(n *testNode) {
	w.stats["crash"]++
	if n.io != nil && n.io.Write != nil && n.hand.begun {
		w.disk.abandon(n.io.Write.Address)
		w.stats["crash while writing"]++
	}
	w.boot(n)
}

// replace a node's run by another one, while the old one sleeps.
func (w *world) replace(n *testNode) {
	if !n.m.claimed {
		return // the operating system's lock
	}
	w.stats["replaced while it sleeps"]++
	z := *n
	z.zombie, z.buffer = true, nil
	z.data, z.todo = nil, append([]int64(nil), n.todo...)
	if z.io != nil && z.io.Read != nil {
		z.hand.begun = false // it reads anew: as slow as can be
	}
	n.buffer = nil
	w.zombies = append(w.zombies, &z)
	w.boot(n)
}

func (w *world) clock(n *testNode) time.Duration { return w.now + n.offset }

func (n *testNode) next() *witnesspb.Ballot {
	n.counter++
	return &witnesspb.Ballot{Counter: n.counter, Proposer: n.proposer}
}

func (w *world) newValue(register uint64, from *witnesspb.Register) *witnesspb.Register {
	if id := from.GetTerm(); id != 0 && w.made[id] != register {
		w.fail("value %d of register %d has come up in register %d", id, w.made[id], register)
	}
	w.values++
	w.made[w.values] = register
	w.parent[w.values] = from.GetTerm()
	return &witnesspb.Register{Term: w.values}
}

// ask something new.
func (w *world) ask(n *testNode) {
	r := &witnesspb.Request{Cluster: testCluster.String(), Register: n.register, Node: n.name, RaftId: uint64(100 + n.index), SeenSequence: n.seen}
	switch k := w.rng.IntN(12); {
	case n.ballot != nil || k < 5: // a round of the register goes on, or begins
		if n.ballot == nil && n.held != nil && w.rng.IntN(3) > 0 {
			n.ballot = n.held
			n.held = nil
			n.value = w.newValue(n.register, n.value)
			w.accept(n, r)
			break
		}
		if n.ballot == nil {
			n.ballot = n.next()
			if n.held != nil && w.rng.IntN(2) == 0 {
				n.ballot = n.held
			}
			n.held = nil
			r.Body = &witnesspb.Request_Prepare{Prepare: &witnesspb.Prepare{Ballot: n.ballot}}
			break
		}
		w.accept(n, r)
	case k < 8:
		r.Body = &witnesspb.Request_Renew{Renew: &witnesspb.Renew{Stays: w.stays[n.index]}}
	case k < 10:
		about := w.rng.IntN(len(w.nodes))
		if about == n.index {
			return
		}
		r.Body = &witnesspb.Request_Suspect{Suspect: &witnesspb.Suspect{About: w.nodes[about].name, AboutRaftId: uint64(100 + about), Stays: w.stays[about]}}
	default:
		r.Body = &witnesspb.Request_Look{Look: &witnesspb.Look{}}
	}
	n.request, n.begun, n.step0 = r, w.now, steps
	n.m.Start(w.clock(n), r)
}

func (w *world) accept(n *testNode, r *witnesspb.Request) {
	n.held = n.next()
	r.Body = &witnesspb.Request_Accept{Accept: &witnesspb.Accept{Ballot: n.ballot, Value: n.value, Next: n.held}}
}

// turn of a node: one step of what it is at.
func (w *world) turn(n *testNode, faults bool) {
	if n.io != nil {
		fail := faults && !n.zombie && w.rng.IntN(60) == 0
		if r, done := n.step(fail); done {
			n.io = nil
			n.m.Done(w.clock(n), r)
		}
		return
	}
	out := n.m.Take()
	switch {
	case out.IO != nil:
		n.io, n.hand.begun = out.IO, false
	case out.Err != nil:
		w.ended(n, out.Err)
	case out.Reply != nil:
		r := n.request
		n.request = nil
		if proto.Size(out.Reply) == 0 {
			w.fail("an empty reply to %v", r)
		}
		w.check(n, r, out.Reply)
	case n.request == nil:
		if n.zombie || w.rng.IntN(3) == 0 {
			w.ask(n)
		}
	default:
		w.fail("%s neither wants anything nor answers", n.name)
	}
}

func (w *world) ended(n *testNode, err error) {
	n.request, n.ballot, n.held = nil, nil, nil
	switch {
	case errors.Is(err, ErrSuperseded):
		if !n.zombie {
			w.fail("%s: %v", n.name, err)
		}
		w.stats["superseded"]++
		for i, z := range w.zombies {
			if z == n {
				w.zombies = append(w.zombies[:i], w.zombies[i+1:]...)
				break
			}
		}
	case errors.Is(err, errModel):
	default:
		w.fail("%s: %v", n.name, err)
	}
}

func (w *world) check(n *testNode, r *witnesspb.Request, reply *witnesspb.Reply) {
	n.seen = max(n.seen, reply.GetSequence())
	// Nothing below what was promised before this request began may succeed.
	refusedBelow := func(b *witnesspb.Ballot) {
		for _, a := range w.answers {
			if a.at < n.step0 && (a.register > r.GetRegister() || a.register == r.GetRegister() && b != nil && witness.Compare(a.ballot, b) > 0) {
				w.fail("%s: register %d, ballot %v has succeeded after register %d, ballot %v was promised", n.name, r.GetRegister(), b, a.register, a.ballot)
			}
		}
	}
	promised := func(b *witnesspb.Ballot) { w.answers = append(w.answers, answered{r.GetRegister(), b, steps}) }
	switch b := reply.GetBody().(type) {
	case *witnesspb.Reply_Promised:
		w.stats["promised"]++
		refusedBelow(n.ballot)
		promised(n.ballot)
		n.value = w.newValue(r.GetRegister(), b.Promised.GetValue())
	case *witnesspb.Reply_Rejected:
		w.stats["rejected"]++
		n.counter = max(n.counter, b.Rejected.GetPromised().GetCounter())
		n.ballot, n.held = nil, nil
	case *witnesspb.Reply_Accepted:
		w.stats["accepted"]++
		refusedBelow(n.ballot)
		promised(n.held)
		w.choose(r.GetRegister(), n.value.GetTerm())
		n.ballot = nil
	case *witnesspb.Reply_Renewed:
		w.stats["renewed"]++
		refusedBelow(nil)
		w.renewed = append(w.renewed, renewal{n.index, r.GetRenew().GetStays(), n.begun})
		for _, s := range w.stated {
			w.checkLease(s, w.renewed[len(w.renewed)-1])
		}
	case *witnesspb.Reply_Suspected:
		about := 0
		for i, o := range w.nodes {
			if o.name == r.GetSuspect().GetAbout() {
				about = i
			}
		}
		age := b.Suspected.GetAge().AsDuration()
		if age > 0 {
			w.stats["suspected with an age"]++
		}
		s := statement{about, r.GetSuspect().GetStays(), w.now - age}
		w.stated = append(w.stated, s)
		for _, o := range w.renewed {
			w.checkLease(s, o)
		}
	case *witnesspb.Reply_Looked:
		w.stats["looked"]++
	case *witnesspb.Reply_Refused:
		reason := b.Refused.GetReason()
		w.stats[reason.String()]++
		switch reason {
		case witnesspb.Refused_REASON_SUSPECTED:
		case witnesspb.Refused_REASON_OLD_REGISTER:
			n.ballot, n.held, n.register = nil, nil, w.register
		case witnesspb.Refused_REASON_DAMAGED:
			n.ballot, n.held = nil, nil
		default:
			w.fail("%s: %v", n.name, b.Refused)
		}
	}
}

func (w *world) checkLease(s statement, r renewal) {
	if r.node == s.about && r.stays <= s.stays && r.begun > s.bound {
		w.fail("a renewal of node %d (stays %d) that was asked for at %v was acknowledged, and a statement (stays %d) says that none was after %v", r.node, r.stays, r.begun, s.stays, s.bound)
	}
}

// choose: every two values that were chosen descend from each other.
func (w *world) choose(register, id uint64) {
	for _, other := range w.chosen[register] {
		if !w.descends(id, other) && !w.descends(other, id) {
			w.fail("values %d and %d are both chosen", id, other)
		}
	}
	w.chosen[register] = append(w.chosen[register], id)
}

func (w *world) descends(id, from uint64) bool {
	for ; id != 0; id = w.parent[id] {
		if id == from {
			return true
		}
	}
	return false
}

// run so many steps.
func (w *world) run(count int, faults bool) {
	for range count {
		steps++
		w.now += time.Duration(w.rng.IntN(3)) * time.Millisecond
		all := append(append([]*testNode(nil), w.nodes...), w.zombies...)
		n := all[w.rng.IntN(len(all))]
		w.turn(n, faults)
		if !faults {
			continue
		}
		switch k := w.rng.IntN(2000); {
		case k < 6:
			w.crash(w.nodes[w.rng.IntN(len(w.nodes))])
		case k < 9 && len(w.zombies) < 2:
			w.replace(w.nodes[w.rng.IntN(len(w.nodes))])
		case k < 15:
			w.disk.landLate(0, 0)
		case k < 27:
			w.stays[w.rng.IntN(len(w.stays))]++
		case k == 27:
			w.register++
		case k < 32:
			w.rot()
		case k == 32 && w.harsh:
			w.rotBoth()
		case k < 35: // a long pause of everybody, so that ages grow
			w.now += time.Duration(w.rng.IntN(1000)) * time.Millisecond
		}
	}
}

// rotBoth copies of an area: whatever was in it is gone.
func (w *world) rotBoth() {
	n := w.nodes[w.rng.IntN(len(w.nodes))]
	area := w.rng.IntN(Areas)
	for c := range Copies {
		at := RecordAddress(2, n.number, area, c)
		bad := append([]byte(nil), w.disk.get(at)...)
		bad[w.rng.IntN(PageSize)] ^= 0x10
		w.disk.pages[at] = bad
	}
	w.stats["rot of both copies"]++
}

// rot one copy of a record whose other copy is complete.
func (w *world) rot() {
	n := w.nodes[w.rng.IntN(len(w.nodes))]
	area, c := w.rng.IntN(Areas), w.rng.IntN(Copies)
	at, twin := RecordAddress(2, n.number, area, c), RecordAddress(2, n.number, area, 1-c)
	if w.disk.writes[at] != nil || w.disk.writes[twin] != nil {
		return
	}
	a, errA := DecodeRecord(w.disk.get(at), testDisk, testCluster, 2, n.number, area, c)
	b, errB := DecodeRecord(w.disk.get(twin), testDisk, testCluster, 2, n.number, area, 1-c)
	if errA != nil || errB != nil || !same(a, b) {
		return
	}
	bad := append([]byte(nil), w.disk.get(at)...)
	bad[w.rng.IntN(PageSize)] ^= 0x10
	w.disk.pages[at] = bad
	w.stats["rot"]++
}

var seeds = flag.Uint64("seeds", 12, "random schedules that TestSafety tries")

// TestSafety: registers and leases under everything that disks and processes do (D1 to D11).
func TestSafety(t *testing.T) {
	stats := map[string]int{}
	for seed := range *seeds {
		steps = 0
		w := newWorld(t, seed, 2+int(seed%3))
		w.harsh = seed%4 == 3
		w.run(8000, true)
		w.zombies = nil
		before := len(w.renewed) + len(w.answers)
		w.run(2000, false)
		if w.stats[witnesspb.Refused_REASON_DAMAGED.String()] == 0 && len(w.renewed)+len(w.answers) == before {
			w.fail("nothing gets done any more")
		}
		for _, m := range []map[string]int{w.stats, w.disk.stats} {
			for k, v := range m {
				stats[k] += v
			}
		}
	}
	t.Log(stats)
	for _, want := range []string{
		"promised", "rejected", "accepted", "renewed", "looked", "suspected with an age", "crash while writing", "torn write",
		"late write landed", "failed write", "failed read", "superseded", "rot", "rot of both copies", "REASON_DAMAGED", "read a page that is being written", "REASON_SUSPECTED", "REASON_OLD_REGISTER",
	} {
		if stats[want] == 0 {
			t.Errorf("%q never happened: the test proves nothing", want)
		}
	}
}
