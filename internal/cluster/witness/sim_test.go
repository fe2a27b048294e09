package witness

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-ha/holdfast/internal/cluster/witness/witnesspb"
)

// A world of several nodes' clients and one or three points under virtual
// time. Requests are delayed, lost before or after they had their effect, and
// carried out late; replies come twice; points crash with what they kept, nodes
// crash with nothing.
type world struct {
	t      *testing.T
	rng    *rand.Rand
	now    time.Duration
	events events
	serial int
	points map[string]*simPoint
	nodes  []*simNode
	faults bool

	chosen  map[string]*chosenValue // by ballot
	history []porcupine.Operation
	renewed []simRenewal
	stated  []simStatement
	seen    map[string]int
}

type simPoint struct {
	kept  *witnesspb.Kept
	point *Point
	down  bool
}

// simNode drives a client: one message at a time, so that the history is clear.
type simNode struct {
	w      *world
	name   string
	id     uint64
	client *Client
	life   int // raised by each crash
	wake   time.Duration

	message *raftpb.Message // under way
	called  time.Duration
	stays   uint64
	term    uint64
	// What the message under way makes of the register was tried to be accepted
	// under so many ballots, and the last time this one was to be promised next.
	accepts map[uint64]bool
	next    *witnesspb.Ballot
}

type chosenValue struct {
	ballot   *witnesspb.Ballot
	value    *witnesspb.Register
	accepted map[string]bool
}

type simRenewal struct {
	node  string
	id    uint64
	stays uint64
	since time.Duration
}

type simStatement struct {
	Statement
	at time.Duration
}

type event struct {
	at     time.Duration
	serial int
	do     func()
}
type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].serial < e[j].serial
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	old := *e
	last := old[len(old)-1]
	*e = old[:len(old)-1]
	return last
}

const simRegister = 9

func newWorld(t *testing.T, seed uint64, nodes, points int) *world {
	w := &world{t: t, rng: rand.New(rand.NewPCG(seed, 2)), points: map[string]*simPoint{}, faults: true, chosen: map[string]*chosenValue{}, seen: map[string]int{}}
	for i := range points {
		w.points[fmt.Sprintf("p%d", i+1)] = &simPoint{point: NewPoint(0)}
	}
	for i := range nodes {
		n := &simNode{w: w, name: fmt.Sprintf("n%d", i+1), id: uint64(i + 1)}
		w.nodes = append(w.nodes, n)
		n.start()
	}
	return w
}

func (w *world) after(d time.Duration, do func()) {
	w.serial++
	heap.Push(&w.events, event{w.now + d, w.serial, do})
}

func (w *world) upTo(d time.Duration) time.Duration { return time.Duration(w.rng.Int64N(int64(d) + 1)) }

func (w *world) run(until time.Duration) {
	for len(w.events) > 0 && w.events[0].at <= until {
		e := heap.Pop(&w.events).(event)
		w.now = e.at
		e.do()
	}
	w.now = until
}

func (n *simNode) start() {
	cfg := Config{Cluster: "c", Register: simRegister, Node: n.name, RaftID: n.id, Proposer: n.w.rng.Uint64() | 1, Peerinact: time.Second}
	for i := range len(n.w.points) {
		cfg.Points = append(cfg.Points, PointInfo{fmt.Sprintf("p%d", i+1), Arbiter})
	}
	n.client = New(cfg)
	n.client.Tick(n.w.now)
	n.take()
}

// crash and come back: what was under way has an unknown end.
func (n *simNode) crash() {
	n.life++
	n.done(false, nil)
	n.start()
}

// take what the client wants done.
func (n *simNode) take() {
	w, out, life := n.w, n.client.Take(), n.life
	for _, r := range out.Requests {
		w.send(n, r)
	}
	for _, r := range out.Renewed {
		w.seen["renewed"]++
		w.renewed = append(w.renewed, simRenewal{n.name, n.id, n.stays, r.Since})
	}
	w.seen["renewal refused"] += len(out.RenewRefused)
	for _, s := range out.Statements {
		w.seen["statement"]++
		w.stated = append(w.stated, simStatement{s, w.now})
	}
	if len(out.Lost) > 0 {
		w.seen["lost"]++
		n.done(false, nil)
	} else if n.message != nil && n.client.round == nil && len(n.client.queue) == 0 {
		n.done(true, out.Responses)
	}
	if n.wake != out.Wake {
		n.wake = out.Wake
		w.after(max(0, out.Wake-w.now), func() {
			if n.life == life && n.wake == out.Wake {
				n.wake = 0
				n.client.Tick(w.now)
				n.take()
			}
		})
	}
}

// do something with the client.
func (n *simNode) do(f func(c *Client)) {
	f(n.client)
	n.take()
}

func (n *simNode) step(m *raftpb.Message) {
	if n.message != nil {
		return
	}
	n.message, n.called, n.accepts = m, n.w.now, map[uint64]bool{}
	n.do(func(c *Client) { c.Step(n.w.now, m) })
}

// done records how the message under way ended.
func (n *simNode) done(known bool, answers []*raftpb.Message) {
	if n.message == nil {
		return
	}
	// Each try may have had its effect, as if the network had doubled the message.
	tries := len(n.accepts)
	if !known || tries > 0 && Compare(n.next, n.client.held.ballot) == 0 {
		tries-- // counted below
	}
	for range tries {
		n.w.seen["maybe twice"]++
		n.w.history = append(n.w.history, porcupine.Operation{ClientId: len(n.w.history), Input: n.message, Call: int64(n.called), Output: wildcard, Return: int64(time.Hour)})
	}
	op := porcupine.Operation{ClientId: len(n.w.history), Input: n.message, Call: int64(n.called), Output: wildcard, Return: int64(time.Hour)}
	if known {
		n.w.seen["answered"]++
		// A pre-vote is judged by what may be lost again: anything goes.
		op.Return = int64(n.w.now)
		if n.message.GetType() != raftpb.MsgPreVote {
			op.Output = texts(answers)
		}
	}
	n.w.history = append(n.w.history, op)
	n.message = nil
}

const wildcard = "?"

func texts(messages []*raftpb.Message) string {
	var all []string
	for _, m := range messages {
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
		if err != nil {
			panic(err)
		}
		all = append(all, string(b))
	}
	return strings.Join(all, "|")
}

// model is the register as one voter that takes one message after the other.
var model = porcupine.Model{
	Init: func() any { return (*witnesspb.Register)(nil) },
	Step: func(state, input, output any) (bool, any) {
		reg := state.(*witnesspb.Register)
		next, resp := Step(reg, simRegister, input.(*raftpb.Message))
		if next == nil {
			next = reg
		}
		if output == wildcard {
			return true, next
		}
		var answers []*raftpb.Message
		if resp != nil {
			answers = append(answers, resp)
		}
		return texts(answers) == output, next
	},
	Equal: func(a, b any) bool { return proto.Equal(a.(*witnesspb.Register), b.(*witnesspb.Register)) },
}

// send a request to a point, with all that can go wrong.
func (w *world) send(n *simNode, r Request) {
	life := n.life
	if a := r.Request.GetAccept(); a != nil {
		n.accepts[a.GetBallot().GetCounter()], n.next = true, a.GetNext()
	}
	answer := func(d time.Duration, reply *witnesspb.Reply, problem string) {
		w.after(d, func() {
			if n.life == life {
				n.do(func(c *Client) { c.Reply(w.now, r.Point, r.Call, reply, problem) })
			}
		})
	}
	delay := w.upTo(5 * time.Millisecond)
	if w.faults {
		switch w.rng.IntN(20) {
		case 0: // lost, and nobody says so
			return
		case 1:
			answer(delay, nil, "connection refused")
			return
		case 2: // late: after the client has given it up
			delay += w.upTo(time.Second)
		}
	}
	w.after(delay, func() {
		p := w.points[r.Point]
		if p.down {
			answer(0, nil, "down")
			return
		}
		before := proto.CloneOf(p.kept)
		next, reply := p.point.Do(w.now, p.kept, r.Request)
		w.kept(p, before, next)
		if next != nil {
			p.kept = next
			if a := r.Request.GetAccept(); a != nil && reply.GetAccepted() != nil {
				w.accepted(r.Point, a)
			}
		}
		if f := reply.GetRefused(); f != nil {
			w.seen[f.GetReason().String()]++
		}
		if reply.GetRejected() != nil {
			w.seen["rejected"]++
		}
		if w.faults && w.rng.IntN(20) == 0 {
			return // the reply is lost
		}
		answer(w.upTo(5*time.Millisecond), reply, "")
		if w.faults && w.rng.IntN(20) == 0 {
			answer(w.upTo(50*time.Millisecond), reply, "")
		}
	})
}

// kept checks W5 at a point.
func (w *world) kept(p *simPoint, before, next *witnesspb.Kept) {
	if !proto.Equal(before, p.kept) {
		w.t.Fatalf("Do changed its argument: %v became %v", before, p.kept)
	}
	if next == nil {
		return
	}
	if err := CheckKept(next); err != nil {
		w.t.Fatal(err)
	}
	if next.GetSequence() != before.GetSequence()+1 || next.GetRegister() < before.GetRegister() ||
		next.GetRegister() == before.GetRegister() && (Compare(next.GetPromised(), before.GetPromised()) < 0 || Compare(next.GetAccepted(), before.GetAccepted()) < 0) {
		w.t.Fatalf("W5: %v became %v", before, next)
	}
}

// accepted checks W3, and with the values that became chosen W1.
func (w *world) accepted(point string, a *witnesspb.Accept) {
	key := a.GetBallot().String()
	v := w.chosen[key]
	if v == nil {
		v = &chosenValue{ballot: a.GetBallot(), value: a.GetValue(), accepted: map[string]bool{}}
		w.chosen[key] = v
	}
	if !proto.Equal(v.value, a.GetValue()) {
		w.t.Fatalf("W3: ballot %v has %v and %v", a.GetBallot(), v.value, a.GetValue())
	}
	v.accepted[point] = true
}

// chain of the values that were chosen, in the order of their ballots.
func (w *world) chain() (all []*chosenValue) {
	for _, v := range w.chosen {
		if len(v.accepted) > len(w.points)/2 {
			all = append(all, v)
		}
	}
	slices.SortFunc(all, func(a, b *chosenValue) int { return Compare(a.ballot, b.ballot) })
	return all
}

// verify everything at the end.
func (w *world) verify() {
	for _, n := range w.nodes {
		n.done(false, nil)
	}
	var last *witnesspb.Register
	for _, v := range w.chain() {
		if v.value.GetTerm() < last.GetTerm() || v.value.GetTerm() == last.GetTerm() && last.GetVote() != 0 && v.value.GetVote() != last.GetVote() || v.value.GetCommit() < last.GetCommit() {
			w.t.Fatalf("W1: %v was chosen after %v", v.value, last)
		}
		last = v.value
	}
	switch res := porcupine.CheckOperationsTimeout(model, w.history, 20*time.Second); res {
	case porcupine.Illegal:
		for _, op := range w.history {
			w.t.Logf("%v..%v %v -> %q", time.Duration(op.Call), time.Duration(op.Return), op.Input, op.Output)
		}
		w.t.Fatal("W4: the register is not linearizable")
	case porcupine.Unknown:
		w.seen["too long to judge"]++
	}
	for _, s := range w.stated {
		for _, r := range w.renewed {
			if r.node == s.About && r.id == s.RaftID && r.stays <= s.Stays && r.since > s.at-s.Age {
				w.t.Fatalf("W6, W7: %v since %v was acknowledged although %+v was stated at %v", r.node, r.since, s.Statement, s.at)
			}
		}
	}
}

// message of this node to the witness: as a candidate or leader of some term.
func (n *simNode) random() *raftpb.Message {
	rng := n.w.rng
	n.term = max(n.term, n.client.held.reg().GetTerm())
	m := &raftpb.Message{From: new(n.id), To: new(uint64(simRegister)), Term: new(n.term), Commit: new(uint64(0))}
	index, term := n.client.held.reg().GetLastIndex(), uint64(0)
	if runs := n.client.held.reg().GetRuns(); len(runs) > 0 {
		term = runs[len(runs)-1].GetTerm()
	}
	m.Index, m.LogTerm = &index, &term
	switch rng.IntN(6) {
	case 0:
		m.Type, m.Term = raftpb.MsgPreVote.Enum(), new(n.term+1)
	case 1, 2:
		n.term++
		m.Type, m.Term = raftpb.MsgVote.Enum(), new(n.term)
	case 3:
		m.Type = raftpb.MsgHeartbeat.Enum()
		m.Commit = new(rng.Uint64N(index + 1))
	default:
		m.Type = raftpb.MsgApp.Enum()
		for i := range rng.Uint64N(3) {
			m.Entries = append(m.Entries, &raftpb.Entry{Index: new(index + 1 + i), Term: new(n.term)})
		}
		m.Commit = new(rng.Uint64N(index + 3))
	}
	if n.term == 0 {
		n.term, m.Term = 1, new(uint64(1))
	}
	return m
}

func (h *promise) reg() *witnesspb.Register {
	if h == nil {
		return nil
	}
	return h.value
}

// chaos for a while.
func (w *world) chaos(operations int, pause time.Duration) {
	for range operations {
		n := w.nodes[w.rng.IntN(len(w.nodes))]
		switch w.rng.IntN(24) {
		case 0:
			n.crash()
		case 1:
			p := w.points[fmt.Sprintf("p%d", 1+w.rng.IntN(len(w.points)))]
			p.down = !p.down
			p.point = NewPoint(w.now) // what it kept in memory is gone
		case 2, 3:
			if other := w.nodes[w.rng.IntN(len(w.nodes))]; other != n {
				n.do(func(c *Client) { c.Suspect(w.now, other.name, other.id, other.stays) })
			}
		case 4:
			if w.rng.IntN(4) == 0 {
				n.stays++ // committed: it goes on
			}
		case 5:
			if w.rng.IntN(8) == 0 {
				n.do(func(c *Client) { c.Withhold(w.now, w.now+w.upTo(time.Second)) })
			}
		case 6, 7, 8, 9, 10, 11:
			n.do(func(c *Client) { c.Renew(w.now, &witnesspb.Renew{Stays: n.stays, Epoch: 0}) })
		default:
			n.step(n.random())
		}
		w.run(w.now + w.upTo(pause))
	}
}

// TestRegister: W1 to W7 under random schedules, with one point and with three.
func TestRegister(t *testing.T) {
	seen := map[string]int{}
	for seed := range simSeeds {
		w := newWorld(t, seed, 2+int(seed/2%2), 1+2*int(seed%2))
		w.chaos(80, 30*time.Millisecond)
		w.verify()
		for k, v := range w.seen {
			seen[k] += v
		}
		seen["chosen"] += len(w.chain())
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	t.Log(seen)
	for _, k := range []string{"answered", "lost", "rejected", "renewed", "renewal refused", "statement", "chosen"} {
		if seen[k] < 100 {
			t.Errorf("%s: seen %d times only", k, seen[k])
		}
	}
	if seen["too long to judge"] > 4 {
		t.Errorf("%d histories were too long to judge", seen["too long to judge"])
	}
}

// TestContention: all nodes want the register all the time, and all get their
// turn within the time limit of a round nearly always.
func TestContention(t *testing.T) {
	for seed := range uint64(4) {
		w := newWorld(t, seed, 3, 3)
		w.faults = false
		for w.now < 10*time.Second {
			for _, n := range w.nodes {
				n.step(n.random())
			}
			w.run(w.now + time.Millisecond)
		}
		if w.seen["lost"]*25 > w.seen["answered"] || w.seen["answered"] < 300 {
			t.Errorf("seed %d: %d rounds were answered, %d lost", seed, w.seen["answered"], w.seen["lost"])
		}
	}
}

// TestSoleUserNeedsOneExchange: without a rival, a change is one request per
// point, and so is an answer that changes nothing.
func TestSoleUserNeedsOneExchange(t *testing.T) {
	w := newWorld(t, 1, 1, 3)
	w.faults = false
	n := w.nodes[0]
	vote := &raftpb.Message{Type: raftpb.MsgVote.Enum(), From: new(n.id), To: new(uint64(simRegister)), Term: new(uint64(1))}
	n.step(vote)
	w.run(w.now + time.Second)
	for i, m := range []*raftpb.Message{
		{Type: raftpb.MsgApp.Enum(), From: new(n.id), To: new(uint64(simRegister)), Term: new(uint64(1)), Entries: []*raftpb.Entry{{Index: new(uint64(1)), Term: new(uint64(1))}}},
		{Type: raftpb.MsgHeartbeat.Enum(), From: new(n.id), To: new(uint64(simRegister)), Term: new(uint64(1))},
		{Type: raftpb.MsgPreVote.Enum(), From: new(n.id), To: new(uint64(simRegister)), Term: new(uint64(2)), Index: new(uint64(1)), LogTerm: new(uint64(1))},
	} {
		before := w.seen["answered"]
		n.message, n.called, n.accepts = m, w.now, map[uint64]bool{}
		n.client.Step(w.now, m)
		if out := n.client.Take(); len(out.Requests) != 3 {
			t.Fatalf("message %d takes %d requests", i, len(out.Requests))
		} else {
			for _, r := range out.Requests {
				w.send(n, r)
			}
		}
		w.run(w.now + 11*time.Millisecond)
		if w.seen["answered"] != before+1 {
			t.Fatalf("message %d was not answered after one exchange", i)
		}
	}
}

// simSeeds of a usual run; more are for a night.
const simSeeds = uint64(400)
