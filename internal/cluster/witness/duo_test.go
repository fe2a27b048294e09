package witness

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-ha/holdfast/internal/cluster/witness/witnesspb"
)

// Two data nodes and the witness, with the rule that engines follow: appends go
// to the witness only while the data nodes that are live cannot commit alone.
// Without it (rule false) the acceptor would be an ordinary voter.
type duo struct {
	t        *testing.T
	rule     bool
	schedule string
	nodes    map[uint64]*dataNode
	down     map[uint64]bool
	cut      bool
	// Whom a node takes for live.
	live     map[uint64]bool // by the node that thinks so
	register *witnesspb.Register
	queues   map[[2]uint64][]*raftpb.Message
	log      map[uint64]uint64 // committed anywhere
	leaders  map[uint64]uint64
}

const (
	a = uint64(1)
	b = uint64(2)
	w = uint64(witnessID)
)

func newDuo(t *testing.T, rule bool) *duo {
	d := &duo{t: t, rule: rule, nodes: map[uint64]*dataNode{}, down: map[uint64]bool{}, live: map[uint64]bool{a: true, b: true},
		queues: map[[2]uint64][]*raftpb.Message{}, log: map[uint64]uint64{}, leaders: map[uint64]uint64{}}
	for _, id := range []uint64{a, b} {
		d.nodes[id] = newDataNode(id, []uint64{a, b, w}, true)
	}
	d.register = &witnesspb.Register{Term: 1, Runs: []*witnesspb.Run{{FirstIndex: 1, Term: 1}}, LastIndex: 1, Commit: 1}
	_ = d.nodes[a].raw.Campaign()
	d.settle(4)
	if !d.nodes[a].leads() || d.nodes[b].raw.BasicStatus().GetCommit() != 2 {
		t.Fatal("the first node does not lead")
	}
	return d
}

// drain sends what the nodes want to send, as far as the rule allows.
func (d *duo) drain() {
	for _, id := range []uint64{a, b} {
		n := d.nodes[id]
		if d.down[id] {
			continue
		}
		for _, m := range n.drain() {
			if m.GetTo() == w && d.rule && d.live[id] && (m.GetType() == raftpb.MsgApp || m.GetType() == raftpb.MsgSnap) {
				n.raw.ReportUnreachable(w)
				continue
			}
			key := [2]uint64{id, m.GetTo()}
			d.queues[key] = append(d.queues[key], m)
		}
		if n.leads() {
			term := n.raw.BasicStatus().GetTerm()
			if other := d.leaders[term]; other != 0 && other != id {
				d.t.Fatalf("%s: two leaders in term %d", d.schedule, term)
			}
			d.leaders[term] = id
			// A leader has every entry that was committed before.
			for index, term := range d.log {
				if t, err := n.storage.Term(index); err == nil && t != term {
					d.t.Fatalf("%s: node %d leads with another entry %d", d.schedule, id, index)
				} else if last, _ := n.storage.LastIndex(); index > last && n.raw.BasicStatus().GetTerm() >= term && d.newest(id) {
					d.t.Fatalf("%s: node %d leads without entry %d, which was committed", d.schedule, id, index)
				}
			}
		}
		for index, term := range n.committed {
			if t, known := d.log[index]; known && t != term {
				d.t.Fatalf("%s: entry %d was committed twice", d.schedule, index)
			}
			d.log[index] = term
		}
		clear(n.committed)
	}
}

// newest: nobody leads in a later term.
func (d *duo) newest(id uint64) bool {
	for term := range d.leaders {
		if term > d.nodes[id].raw.BasicStatus().GetTerm() {
			return false
		}
	}
	return true
}

// deliver the oldest message between two.
func (d *duo) deliver(from, to uint64) bool {
	key := [2]uint64{from, to}
	q := d.queues[key]
	if len(q) == 0 {
		return false
	}
	m := q[0]
	d.queues[key] = q[1:]
	switch {
	case d.down[to] || d.cut && from != w && to != w:
	case to == w:
		next, resp := Step(d.register, w, stripped(m))
		if next != nil {
			d.register = next
		}
		if resp != nil {
			back := [2]uint64{w, from}
			d.queues[back] = append(d.queues[back], resp)
		}
		for d.deliver(w, from) {
		}
	default:
		_ = d.nodes[to].raw.Step(proto.CloneOf(m))
	}
	d.drain()
	return true
}

// settle: everything is delivered, and time passes.
func (d *duo) settle(ticks int) {
	for range ticks {
		d.drain()
		for again := true; again; {
			again = false
			for _, p := range [][2]uint64{{a, b}, {b, a}, {a, w}, {b, w}} {
				again = d.deliver(p[0], p[1]) || again
			}
		}
		for _, id := range []uint64{a, b} {
			if !d.down[id] {
				d.nodes[id].raw.Tick()
			}
		}
	}
}

// act out one letter of a schedule.
func (d *duo) act(c byte) {
	switch c {
	case 'p':
		_ = d.nodes[a].raw.Propose([]byte("x"))
	case '>':
		d.deliver(a, b)
	case '<':
		d.deliver(b, a)
	case 'w':
		d.deliver(a, w)
	case 't':
		d.nodes[a].raw.Tick()
	case 'x': // a crash of the leader that it survives with its disk
		d.nodes[a].start(true)
	}
	d.drain()
}

// fail in one of the ways that leave a majority.
func (d *duo) fail(c byte) {
	switch c {
	case 'A':
		d.down[a] = true
	case 'B':
		d.down[b] = true
	case 'L':
		d.cut = true
	case 'W':
		d.down[w] = true
	}
	if c != 'W' {
		d.live = map[uint64]bool{} // they notice
		delete(d.queues, [2]uint64{a, b})
		delete(d.queues, [2]uint64{b, a})
	}
}

// elect: somebody leads, and commits something new.
func (d *duo) elect() bool {
	for range 40 {
		for _, id := range []uint64{b, a} {
			if n := d.nodes[id]; !d.down[id] && !d.nodes[a].leads() && !d.nodes[b].leads() {
				_ = n.raw.ForgetLeader()
				_ = n.raw.Campaign()
				d.settle(2)
			}
		}
		d.settle(3)
		for _, id := range []uint64{a, b} {
			if n := d.nodes[id]; !d.down[id] && n.leads() {
				before := n.raw.BasicStatus().GetCommit()
				_ = n.raw.Propose([]byte("y"))
				d.settle(3)
				if n.raw.BasicStatus().GetCommit() > before {
					return true
				}
			}
		}
	}
	return false
}

// TestAnySingleFailureLeavesASurvivor: while two data nodes are in step, at any
// moment of any schedule either of them, the witness or the link between the
// nodes may fail, and what is left elects a leader that has all that was
// committed and commits more.
func TestAnySingleFailureLeavesASurvivor(t *testing.T) {
	for _, schedule := range schedules(5) {
		for _, failure := range "ABWL" {
			for _, late := range []bool{false, true} {
				survive(t, schedule, byte(failure), late)
			}
		}
	}
	rng := rand.New(rand.NewPCG(3, 3))
	for range 1000 {
		var long strings.Builder
		for range 6 + rng.IntN(40) {
			long.WriteByte("ppp>>>><<<<wwtx"[rng.IntN(15)])
		}
		survive(t, long.String(), "ABWL"[rng.IntN(4)], rng.IntN(2) == 0)
	}
}

// survive a failure after a schedule. Late: what the failed leader had sent to
// the witness arrives there after all others have noticed.
func survive(t *testing.T, schedule string, failure byte, late bool) {
	t.Helper()
	d := newDuo(t, true)
	d.schedule = fmt.Sprintf("%s, then %c fails, late %v", schedule, failure, late)
	for i := range len(schedule) {
		d.act(schedule[i])
	}
	d.fail(failure)
	if !late {
		delete(d.queues, [2]uint64{a, w})
	}
	if !d.elect() {
		t.Fatalf("%s: nobody is elected; witness: %v", d.schedule, d.register)
	}
}

// schedules of all lengths up to n.
func schedules(n int) []string {
	all := []string{""}
	for begin := 0; n > 0; n-- {
		end := len(all)
		for _, s := range all[begin:end] {
			for _, c := range "p><wt" {
				all = append(all, s+string(c))
			}
		}
		begin = end
	}
	return all
}

// TestAWitnessThatIsFasterBlocks is why there is a rule: an ordinary voter that
// has acknowledged what the survivor never got refuses it for ever.
func TestAWitnessThatIsFasterBlocks(t *testing.T) {
	for _, rule := range []bool{false, true} {
		d := newDuo(t, rule)
		for _, c := range []byte("pwww") {
			d.act(c)
		}
		d.fail('A')
		if got := d.elect(); got != rule {
			t.Errorf("rule %v: elected %v; witness: %v", rule, got, d.register)
		}
	}
}

// TestANodeThatWasBehindNeverWins: the leader went on with the witness alone,
// and died. The other node comes back and must wait for it.
func TestANodeThatWasBehindNeverWins(t *testing.T) {
	for _, schedule := range schedules(4) {
		d := newDuo(t, true)
		d.schedule = schedule + ", alone"
		for i := range len(schedule) {
			d.act(schedule[i])
		}
		d.fail('B')
		before := d.nodes[a].raw.BasicStatus().GetCommit()
		_ = d.nodes[a].raw.Propose([]byte("alone"))
		d.settle(3)
		if d.nodes[a].raw.BasicStatus().GetCommit() <= before {
			t.Fatalf("%s: the leader can't go on with the witness", schedule)
		}
		d.down = map[uint64]bool{a: true}
		d.nodes[b].start(true)
		if d.elect() {
			t.Fatalf("%s: the node that was behind leads", schedule)
		}
		d.down = map[uint64]bool{}
		d.nodes[a].start(true)
		if !d.elect() {
			t.Fatalf("%s: nobody leads after the other came back", schedule)
		}
	}
}
