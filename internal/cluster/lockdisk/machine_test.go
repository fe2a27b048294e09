package lockdisk

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/internal/cluster/witness/witnesspb"
)

// rig is a disk and its nodes, without chance.
type rig struct {
	t    *testing.T
	disk *diskModel
	now  time.Duration
	runs uint64
}

func newRig(t *testing.T) *rig {
	return &rig{t: t, disk: newDisk(seeded(1), testDisk, testCluster, 2), now: time.Hour}
}

// node starts a run of a node.
func (r *rig) node(number int) *hand {
	r.runs++
	return &hand{d: r.disk, number: number, m: NewMachine(Config{
		Disk: testDisk, Cluster: testCluster, Slot: 2, Number: uint32(number), Node: fmt.Sprintf("n%d", number), RaftID: uint64(100 + number), Run: r.runs,
	})}
}

func (r *rig) request(h *hand, register uint64, body *witnesspb.Request) *witnesspb.Request {
	return &witnesspb.Request{Cluster: testCluster.String(), Register: register, Node: h.m.cfg.Node, RaftId: h.m.cfg.RaftID, SeenSequence: body.GetSeenSequence(), Body: body.GetBody()}
}

func (r *rig) out(h *hand, register uint64, body *witnesspb.Request) Out {
	h.m.Start(r.now, r.request(h, register, body))
	return h.run(&r.now)
}

func (r *rig) do(h *hand, body *witnesspb.Request) *witnesspb.Reply {
	r.t.Helper()
	out := r.out(h, 7, body)
	if out.Err != nil || out.Reply == nil {
		r.t.Fatalf("%s: %v", h.m.cfg.Node, out)
	}
	return out.Reply
}

// refused expects a refusal that says something.
func (r *rig) refused(h *hand, body *witnesspb.Request, reason witnesspb.Refused_Reason, says string) {
	r.t.Helper()
	reply := r.do(h, body)
	if f := reply.GetRefused(); f.GetReason() != reason || !strings.Contains(f.GetMessage(), says) {
		r.t.Fatalf("%s: %v; want %v, %q", h.m.cfg.Node, reply, reason, says)
	}
}

func number(counter uint64) *witnesspb.Ballot {
	return &witnesspb.Ballot{Counter: counter, Proposer: 1}
}

func prepare(n uint64) *witnesspb.Request {
	return &witnesspb.Request{Body: &witnesspb.Request_Prepare{Prepare: &witnesspb.Prepare{Ballot: number(n)}}}
}

func accept(n, term, next uint64) *witnesspb.Request {
	return &witnesspb.Request{Body: &witnesspb.Request_Accept{Accept: &witnesspb.Accept{Ballot: number(n), Value: &witnesspb.Register{Term: term}, Next: number(next)}}}
}

func renew(stays, epoch uint64) *witnesspb.Request {
	return &witnesspb.Request{Body: &witnesspb.Request_Renew{Renew: &witnesspb.Renew{Stays: stays, Epoch: epoch}}}
}

func suspect(about int, stays uint64) *witnesspb.Request {
	return &witnesspb.Request{Body: &witnesspb.Request_Suspect{Suspect: &witnesspb.Suspect{About: fmt.Sprintf("n%d", about), AboutRaftId: uint64(100 + about), Stays: stays}}}
}

func look() *witnesspb.Request {
	return &witnesspb.Request{Body: &witnesspb.Request_Look{Look: &witnesspb.Look{}}}
}

func (r *rig) page(n, area, c int) int64 { return RecordAddress(2, n, area, c) }

func (r *rig) damage(at ...int64) {
	for _, at := range at {
		b := slices.Clone(r.disk.get(at))
		b[200] ^= 1
		r.disk.pages[at] = b
	}
}

// TestRegister: one register by the hands of two nodes.
func TestRegister(t *testing.T) {
	r := newRig(t)
	a, b := r.node(1), r.node(2)
	if p := r.do(a, prepare(1)).GetPromised(); p == nil || p.Accepted != nil {
		t.Fatal(p)
	}
	if r.do(a, accept(1, 11, 2)).GetAccepted() == nil {
		t.Fatal("not accepted")
	}
	if got := r.do(b, prepare(1)).GetRejected().GetPromised().GetCounter(); got != 2 {
		t.Fatal(got)
	}
	p := r.do(b, prepare(3)).GetPromised()
	if p.GetAccepted().GetCounter() != 1 || p.GetValue().GetTerm() != 11 {
		t.Fatal(p)
	}
	if got := r.do(a, accept(2, 12, 4)).GetRejected().GetPromised().GetCounter(); got != 3 {
		t.Fatal(got)
	}
	// What a wrote last is a value that was not chosen, under a ballot below 3.
	if r.do(b, accept(3, 13, 5)).GetRejected().GetPromised().GetCounter() != 4 {
		t.Fatal("a has promised 4 to itself")
	}
	if p := r.do(b, prepare(6)).GetPromised(); p.GetValue().GetTerm() != 13 {
		t.Fatal(p)
	}
	// A new run of a knows all that was promised.
	a = r.node(1)
	if r.do(a, prepare(3)).GetRejected() == nil {
		t.Fatal("the promise is forgotten")
	}
	// A new register is empty, and the old one is over for everybody.
	if out := r.out(b, 8, prepare(1)); out.Reply.GetPromised() == nil || out.Reply.GetPromised().GetValue() != nil {
		t.Fatal(out)
	}
	r.refused(a, prepare(9), witnesspb.Refused_REASON_OLD_REGISTER, "register 8 has replaced 7")
	r.refused(a, look(), witnesspb.Refused_REASON_OLD_REGISTER, "")
}

// TestLease: suspicion, age, the end of it, and old views.
func TestLease(t *testing.T) {
	r := newRig(t)
	a, b := r.node(1), r.node(2)
	if r.do(a, renew(1, 1)).GetRenewed() == nil {
		t.Fatal("not renewed")
	}
	r.do(b, look()) // sees the counter for the first time
	r.now += 10 * time.Second
	r.do(b, look())
	age := r.do(b, suspect(1, 1)).GetSuspected().GetAge().AsDuration()
	if age < 10*time.Second || age > 11*time.Second {
		t.Fatal(age)
	}
	before := len(r.disk.writesOf(1))
	r.refused(a, renew(1, 1), witnesspb.Refused_REASON_SUSPECTED, "n1 is suspected")
	reply := r.do(a, renew(1, 1))
	if reply.GetRefused().GetStays() != 1 || len(r.disk.writesOf(1)) != before {
		t.Fatal(reply)
	}
	// The try that found out has raised the counter; those that follow do not.
	if age := r.do(b, suspect(1, 1)).GetSuspected().GetAge().AsDuration(); age > time.Second {
		t.Fatal(age)
	}
	r.now += 5 * time.Second
	r.do(a, renew(1, 1))
	if age := r.do(b, suspect(1, 1)).GetSuspected().GetAge().AsDuration(); age < 5*time.Second {
		t.Fatal(age)
	}
	// The suspicion survives its maker's next run, and ends with a higher number of stays.
	b = r.node(2)
	r.do(b, look())
	a = r.node(1)
	r.refused(a, renew(1, 1), witnesspb.Refused_REASON_SUSPECTED, "")
	if r.do(a, renew(2, 1)).GetRenewed() == nil {
		t.Fatal("n1 stays")
	}
	// One who has never looked has not seen anything old.
	if age := r.do(r.node(3), suspect(1, 2)).GetSuspected().GetAge().AsDuration(); age > 0 && age > time.Second {
		t.Fatal(age)
	}
	value := &witnesspb.Register{Term: 1, LastIndex: 4, Commit: 4, Runs: []*witnesspb.Run{{FirstIndex: 1, Term: 1}}, Views: []*witnesspb.ViewAt{{Index: 2, Epoch: 6}}}
	acc := &witnesspb.Request{Body: &witnesspb.Request_Accept{Accept: &witnesspb.Accept{Ballot: number(1), Value: value, Next: number(1)}}}
	if r.do(b, acc).GetAccepted() == nil {
		t.Fatal("not accepted")
	}
	r.refused(b, renew(1, 5), witnesspb.Refused_REASON_OLD_VIEW, "view 6 is in the log")
	if r.do(b, renew(1, 6)).GetRenewed() == nil {
		t.Fatal("not renewed")
	}
}

// writesOf a node: its pages that are not empty, as text.
func (d *diskModel) writesOf(n int) map[string]bool {
	all := map[string]bool{}
	for a := range Areas {
		for c := range Copies {
			all[string(d.get(RecordAddress(2, n, a, c)))] = true
		}
	}
	return all
}

// TestDamage: one bad copy is made up for and mended; of two nobody knows anything, except for the run that has written them.
func TestDamage(t *testing.T) {
	for name, tt := range map[string]struct {
		copies []int
		same   bool // the run that wrote them still runs
		want   witnesspb.Refused_Reason
	}{
		"copy 0":                  {copies: []int{0}},
		"copy 1":                  {copies: []int{1}},
		"both, writer runs":       {copies: []int{0, 1}, same: true},
		"both, writer is away":    {copies: []int{0, 1}, want: witnesspb.Refused_REASON_DAMAGED},
		"copy 0, writer runs":     {copies: []int{0}, same: true},
		"copy 1, its node is new": {copies: []int{1}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			a, b := r.node(1), r.node(2)
			r.do(a, prepare(5))
			r.do(b, look())
			for _, c := range tt.copies {
				r.damage(r.page(1, 0, c))
			}
			if tt.same {
				r.do(a, look())
			}
			for _, h := range []*hand{b, r.node(3)} {
				reply := r.do(h, prepare(4))
				if tt.want == 0 && reply.GetRejected().GetPromised().GetCounter() != 5 || reply.GetRefused().GetReason() != tt.want {
					t.Fatal(reply)
				}
			}
			if tt.want != 0 {
				r.refused(r.node(1), prepare(9), tt.want, "both copies of area 0 of block 1")
				return
			}
			a = r.node(1)
			r.do(a, look()) // the next run mends what the last one left
			for c := range Copies {
				if _, err := DecodeRecord(r.disk.get(r.page(1, 0, c)), testDisk, testCluster, 2, 1, 0, c); err != nil {
					t.Errorf("copy %d is still bad: %v", c, err)
				}
			}
			if r.do(a, prepare(4)).GetRejected() == nil {
				t.Error("the promise is forgotten")
			}
		})
	}
}

// TestForgot: a disk that has lost complete records is not used for that register any more, by anybody (D9).
func TestForgot(t *testing.T) {
	for name, forget := range map[string]func(r *rig, before map[int64][]byte){
		"restored from a copy": func(r *rig, before map[int64][]byte) { r.disk.pages = before },
		"zeroed block": func(r *rig, _ map[int64][]byte) {
			for a := range Areas {
				delete(r.disk.pages, r.page(1, a, 0))
				delete(r.disk.pages, r.page(1, a, 1))
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			a, b := r.node(1), r.node(2)
			r.do(a, prepare(3))
			r.do(b, look())
			before := maps.Clone(r.disk.pages)
			r.do(a, prepare(5))
			r.do(b, prepare(4)) // sees it
			forget(r, before)
			r.refused(b, prepare(6), witnesspb.Refused_REASON_ABSTAINS, "has forgotten what was written")
			// Those who know nothing of it find out, also after a restart of everybody.
			r.refused(r.node(3), prepare(6), witnesspb.Refused_REASON_ABSTAINS, "a node has found out")
			r.refused(r.node(1), renew(1, 1), witnesspb.Refused_REASON_ABSTAINS, "")
			if out := r.out(r.node(3), 8, prepare(1)); out.Reply.GetPromised() == nil {
				t.Fatal(out)
			}
		})
	}
	// The asker has seen more than there is.
	r := newRig(t)
	a := r.node(1)
	sequence := r.do(a, prepare(1)).GetSequence()
	body := prepare(2)
	body.SeenSequence = sequence + 1
	r.refused(a, body, witnesspb.Refused_REASON_ABSTAINS, "sequence 3 of this node, where 2 is")
	r.refused(r.node(2), look(), witnesspb.Refused_REASON_ABSTAINS, "")
}

// TestSuperseded: of two runs of a node the older one stops, whatever it was
// about to do, and has done no harm (D8).
func TestSuperseded(t *testing.T) {
	r := newRig(t)
	old, other := r.node(1), r.node(2)
	r.do(old, prepare(1))
	// It sleeps before it accepts under its ballot.
	old.m.Start(r.now, r.request(old, 7, accept(1, 11, 2)))
	sleeping := old.m.Take()
	if sleeping.IO.Write == nil {
		t.Fatal("it should write")
	}
	young := r.node(1)
	if r.do(young, prepare(3)).GetPromised().GetValue() != nil || r.do(other, prepare(4)).GetPromised().GetValue() != nil {
		t.Fatal("nothing was accepted yet")
	}
	if r.do(other, accept(4, 14, 4)).GetAccepted() == nil {
		t.Fatal("not accepted")
	}
	// It wakes up: both its writes land now.
	r.disk.land(&pending{page: *sleeping.IO.Write})
	old.m.Done(r.now, Result{})
	if out := old.run(&r.now); !errors.Is(out.Err, ErrSuperseded) {
		t.Fatal(out)
	}
	if out := r.out(old, 7, look()); !errors.Is(out.Err, ErrSuperseded) {
		t.Fatal(out)
	}
	if p := r.do(young, prepare(9)).GetPromised(); p.GetAccepted().GetCounter() != 4 || p.GetValue().GetTerm() != 14 {
		t.Fatal(p)
	}
	// Two machines with one number: whoever claims last has it.
	first, second := r.node(5), r.node(5)
	r.do(first, look())
	r.do(second, look())
	r.now += SignOfLife
	if out := r.out(first, 7, look()); !errors.Is(out.Err, ErrSuperseded) || !strings.Contains(out.Err.Error(), "block 5") {
		t.Fatal(out)
	}
}

// TestPause: a renewal whose writer sleeps after the write, and one that sleeps before it.
func TestPause(t *testing.T) {
	r := newRig(t)
	a, b := r.node(1), r.node(2)
	r.do(a, look())
	r.do(b, look())
	a.m.Start(r.now, r.request(a, 7, renew(1, 1)))
	out := a.m.Take()
	r.now += time.Minute
	age := r.do(b, suspect(1, 1)).GetSuspected().GetAge().AsDuration()
	if age < time.Minute {
		t.Fatal(age) // nothing was acknowledged before, and nothing is later
	}
	r.disk.land(&pending{page: *out.IO.Write})
	a.m.Done(r.now, Result{})
	if out := a.run(&r.now); out.Reply.GetRefused().GetReason() != witnesspb.Refused_REASON_SUSPECTED {
		t.Fatal(out)
	}
}

// TestSlot: nothing is written into what is not this cluster's (D10).
func TestSlot(t *testing.T) {
	other := ID{5, 5, 5}
	for name, tt := range map[string]struct {
		change func(d *diskModel)
		reason witnesspb.Refused_Reason
		says   string
	}{
		"another cluster's": {func(d *diskModel) {
			for _, p := range Claimed(testDisk, other, 2) {
				d.pages[p.Address] = p.Data
			}
		}, witnesspb.Refused_REASON_WRONG_CLUSTER, "belongs to cluster 0505"},
		"nobody's": {func(d *diskModel) { delete(d.pages, SlotAddress(2, 0)); delete(d.pages, SlotAddress(2, 1)) },
			witnesspb.Refused_REASON_WRONG_CLUSTER, "belongs to no cluster"},
		"claimed at once": {func(d *diskModel) { d.pages[SlotAddress(2, 1)] = Claimed(testDisk, other, 2)[1].Data },
			witnesspb.Refused_REASON_DAMAGED, "have claimed it at the same time"},
		"half claimed": {func(d *diskModel) { delete(d.pages, SlotAddress(2, 1)) },
			witnesspb.Refused_REASON_DAMAGED, "was interrupted"},
		"damaged": {func(d *diskModel) {
			for c := range Copies {
				b := slices.Clone(d.get(SlotAddress(2, c)))
				b[50] ^= 1
				d.pages[SlotAddress(2, c)] = b
			}
		}, witnesspb.Refused_REASON_DAMAGED, "both copies of its header are damaged"},
		"another disk": {func(d *diskModel) {
			for _, p := range append(Formatted(other, 3), Claimed(other, testCluster, 2)...) {
				d.pages[p.Address] = p.Data
			}
		}, 0, ""},
		"not a lock disk": {func(d *diskModel) { clear(d.pages) }, witnesspb.Refused_REASON_WRONG_CLUSTER, ""},
	} {
		t.Run(name, func(t *testing.T) {
			for _, running := range []bool{false, true} {
				r := newRig(t)
				a := r.node(1)
				if running {
					r.do(a, look())
				}
				tt.change(r.disk)
				if running {
					a.m.Reopened() // as the driver says when the path has come to lead elsewhere
				}
				before := maps.Clone(r.disk.pages)
				reply := r.do(a, prepare(1))
				if tt.reason != 0 && reply.GetRefused().GetReason() != tt.reason || reply.GetRefused() == nil || !strings.Contains(reply.GetRefused().GetMessage(), tt.says) {
					t.Errorf("running %v: %v", running, reply)
				}
				r.do(a, prepare(1))
				for at, b := range r.disk.pages {
					if string(before[at]) != string(b) {
						t.Errorf("running %v: the page at %d was written", running, at)
					}
				}
			}
		})
	}
	t.Run("while it runs", func(t *testing.T) {
		r := newRig(t)
		a := r.node(1)
		r.do(a, look())
		for _, p := range Claimed(testDisk, other, 2) {
			r.disk.pages[p.Address] = p.Data
		}
		r.refused(a, prepare(1), witnesspb.Refused_REASON_WRONG_CLUSTER, "belongs to cluster")
		before := maps.Clone(r.disk.pages)
		r.refused(a, prepare(2), witnesspb.Refused_REASON_WRONG_CLUSTER, "belongs to cluster")
		if len(before) != len(r.disk.pages) {
			t.Error("it has gone on writing")
		}
	})
	t.Run("records of another cluster", func(t *testing.T) {
		r := newRig(t)
		foreign := &Record{Disk: testDisk, Cluster: other, Slot: 2, Number: 4, Claim: 1, Run: 1, Sequence: 1, Contents: goldenRecord().Contents}
		pages, err := foreign.pages()
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range pages {
			r.disk.pages[p.Address] = p.Data
		}
		r.refused(r.node(1), prepare(1), witnesspb.Refused_REASON_DAMAGED, "belongs to another disk or cluster")
	})
}

// TestRequests that are not for this machine.
func TestRequests(t *testing.T) {
	r := newRig(t)
	a := r.node(1)
	for name, tt := range map[string]struct {
		change func(q *witnesspb.Request)
		want   witnesspb.Refused_Reason
	}{
		"no body":      {func(q *witnesspb.Request) { q.Body = nil }, witnesspb.Refused_REASON_MALFORMED},
		"cluster":      {func(q *witnesspb.Request) { q.Cluster = testDisk.String() }, witnesspb.Refused_REASON_WRONG_CLUSTER},
		"node":         {func(q *witnesspb.Request) { q.Node = "n2" }, witnesspb.Refused_REASON_MALFORMED},
		"incarnation":  {func(q *witnesspb.Request) { q.RaftId++ }, witnesspb.Refused_REASON_MALFORMED},
		"not an ident": {func(q *witnesspb.Request) { q.Cluster = "x" }, witnesspb.Refused_REASON_WRONG_CLUSTER},
	} {
		q := r.request(a, 7, look())
		tt.change(q)
		a.m.Start(r.now, q)
		if out := a.run(&r.now); out.Reply.GetRefused().GetReason() != tt.want {
			t.Errorf("%s: %v", name, out)
		}
	}
	for name, change := range map[string]func(c *Config){
		"disk": func(c *Config) { c.Disk = ID{} }, "slot": func(c *Config) { c.Slot = -1 }, "number": func(c *Config) { c.Number = 65 },
		"no number": func(c *Config) { c.Number = 0 }, "run": func(c *Config) { c.Run = 0 }, "node": func(c *Config) { c.Node = "" },
	} {
		c := Config{Disk: testDisk, Cluster: testCluster, Number: 1, Node: "n1", RaftID: 1, Run: 1}
		if change(&c); c.Check() == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// TestSeen: nodes give signs of life; who has not moved is not seen.
func TestSeen(t *testing.T) {
	r := newRig(t)
	a, b := r.node(1), r.node(2)
	r.do(a, look())
	names := func(reply *witnesspb.Reply) (s []string) {
		for _, one := range reply.GetLooked().GetSeen() {
			s = append(s, fmt.Sprintf("%s %v %v", one.GetNode(), one.GetAge().AsDuration().Round(time.Second), one.GetSuspected()))
		}
		return s
	}
	if got := names(r.do(b, look())); !slices.Equal(got, []string{"n2 0s false"}) {
		t.Error(got)
	}
	r.now += SignOfLife
	r.do(a, look())
	if got := names(r.do(b, look())); !slices.Equal(got, []string{"n1 0s false", "n2 0s false"}) {
		t.Error(got)
	}
	r.do(b, suspect(1, 1))
	r.now += time.Minute
	if got := names(r.do(b, look())); !slices.Equal(got, []string{"n1 1m0s true", "n2 0s false"}) {
		t.Error(got)
	}
	// A node that is new in the cluster is found by the looks that read further.
	r.do(r.node(64), look())
	for range fullLook {
		r.do(b, look())
	}
	if got := names(r.do(b, look())); !slices.Contains(got, "n64 0s false") {
		t.Error(got)
	}
}

// TestMark: nodes at one disk see each other's marks.
func TestMark(t *testing.T) {
	r := newRig(t)
	a, b := r.node(1), r.node(2)
	mark := func(h *hand, nonce []byte) []Mark {
		h.m.StartMark(r.now, nonce)
		out := h.run(&r.now)
		if out.Err != nil {
			t.Fatal(out.Err)
		}
		return out.Marks
	}
	mark(a, []byte("here"))
	got := mark(b, []byte("and here"))
	if len(got) != 2 || got[0].Node != "n1" || string(got[0].Nonce) != "here" || string(got[1].Nonce) != "and here" {
		t.Fatal(got)
	}
	if got := mark(a, nil); len(got) != 2 || string(got[0].Nonce) != "here" {
		t.Fatal(got)
	}
	r.damage(r.page(2, 0, 0), r.page(2, 0, 1))
	a.m.StartMark(r.now, nil)
	if out := a.run(&r.now); out.Err == nil || !strings.Contains(out.Err.Error(), "both copies") {
		t.Error(out)
	}
}

// TestAreas: runs take the areas in turn, a block's first run takes its first,
// and what the first one said stands after its area was taken again.
func TestAreas(t *testing.T) {
	r := newRig(t)
	defer func() {
		r.refused(r.node(3), renew(1, 1), witnesspb.Refused_REASON_SUSPECTED, "")
		if p := r.do(r.node(3), prepare(8)).GetPromised(); p.GetValue().GetTerm() != 11 || r.do(r.node(4), prepare(7)).GetRejected() == nil {
			t.Error(p)
		}
	}()
	for run := range 6 {
		h := r.node(9)
		r.do(h, look())
		if run == 0 {
			r.do(h, suspect(3, 1))
			r.do(h, accept(5, 11, 6))
		}
		if h.m.area != run%Areas || h.m.claim != uint64(run+1) {
			t.Errorf("run %d has area %d, claim %d", run, h.m.area, h.m.claim)
		}
	}
}

// TestUnreadable: a bad sector costs a copy, a disk that is away the request.
func TestUnreadable(t *testing.T) {
	r := newRig(t)
	a, b := r.node(1), r.node(2)
	r.do(a, prepare(5))
	b.m.Start(r.now, r.request(b, 7, prepare(4)))
	var out Out
	for {
		if out = b.m.Take(); out.IO == nil {
			break
		}
		res := Result{}
		b.io, b.begun = out.IO, false
		for done := false; !done; {
			res, done = b.step(false)
		}
		res.Unreadable = map[int64]error{r.page(1, 0, 1): errModel, r.page(1, 2, 0): errModel}
		b.m.Done(r.now, res)
	}
	if out.Reply.GetRejected().GetPromised().GetCounter() != 5 {
		t.Fatal(out)
	}
	b.m.Start(r.now, r.request(b, 7, prepare(9)))
	b.m.Take()
	b.m.Done(r.now, Result{Err: errModel})
	if out := b.m.Take(); !errors.Is(out.Err, errModel) {
		t.Fatal(out)
	}
	claim := b.m.claim
	if r.do(b, prepare(9)).GetPromised() == nil || b.m.claim != claim+1 {
		t.Errorf("after a failed write another area is claimed (claim %d, then %d)", claim, b.m.claim)
	}
}
