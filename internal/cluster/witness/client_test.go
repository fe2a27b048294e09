package witness

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/holdfast-ha/holdfast/internal/cluster/witness/witnesspb"
)

// hand drives one client by hand: the test answers its requests.
type hand struct {
	t *testing.T
	c *Client
	// All that it wanted so far.
	got Out
	// Not answered yet.
	open []Request
}

func newHand(t *testing.T, points ...PointInfo) *hand {
	h := &hand{t: t, c: New(Config{Cluster: "c", Register: 9, Node: "n1", RaftID: 1, Proposer: 7, Points: points, Peerinact: time.Second})}
	h.tick(0)
	h.open = nil // the first looks
	return h
}

func arbiters(n int) (all []PointInfo) {
	for i := range n {
		all = append(all, PointInfo{fmt.Sprint("p", i+1), Arbiter})
	}
	return all
}

func (h *hand) take() {
	out := h.c.Take()
	h.open = append(h.open, out.Requests...)
	h.got.Requests = append(h.got.Requests, out.Requests...)
	h.got.Responses = append(h.got.Responses, out.Responses...)
	h.got.Lost = append(h.got.Lost, out.Lost...)
	h.got.Renewed = append(h.got.Renewed, out.Renewed...)
	h.got.RenewRefused = append(h.got.RenewRefused, out.RenewRefused...)
	h.got.Statements = append(h.got.Statements, out.Statements...)
	h.got.Wake = out.Wake
}

func (h *hand) tick(now time.Duration) { h.c.Tick(now); h.take() }

// answer the oldest open request to a point.
func (h *hand) answer(now time.Duration, point string, r *witnesspb.Reply) *witnesspb.Request {
	h.t.Helper()
	i := slices.IndexFunc(h.open, func(r Request) bool { return r.Point == point })
	if i < 0 {
		h.t.Fatalf("nothing is asked of %s", point)
	}
	q := h.open[i]
	h.open = slices.Delete(h.open, i, i+1)
	problem := ""
	if r == nil {
		problem = "connection refused"
	}
	h.c.Reply(now, point, q.Call, r, problem)
	h.take()
	return q.Request
}

func to9(kind raftpb.MessageType, term, index, logTerm uint64, entries ...uint64) *raftpb.Message {
	m := &raftpb.Message{Type: kind.Enum(), From: new(uint64(1)), To: new(uint64(9)), Term: &term, Index: &index, LogTerm: &logTerm}
	for i, t := range entries {
		m.Entries = append(m.Entries, &raftpb.Entry{Index: new(index + 1 + uint64(i)), Term: new(t)})
	}
	return m
}

func reply(sequence uint64, body any) *witnesspb.Reply {
	r := &witnesspb.Reply{Sequence: sequence}
	switch b := body.(type) {
	case *witnesspb.Promised:
		r.Body = &witnesspb.Reply_Promised{Promised: b}
	case *witnesspb.Accepted:
		r.Body = &witnesspb.Reply_Accepted{Accepted: b}
	case *witnesspb.Renewed:
		r.Body = &witnesspb.Reply_Renewed{Renewed: b}
	case *witnesspb.Refused:
		r.Body = &witnesspb.Reply_Refused{Refused: b}
	case time.Duration:
		r.Body = &witnesspb.Reply_Suspected{Suspected: &witnesspb.Suspected{Age: durationpb.New(b)}}
	}
	return r
}

func TestASlowPointHoldsNothingUp(t *testing.T) {
	h := newHand(t, arbiters(3)...)
	for round := range 3 {
		h.c.Step(0, to9(raftpb.MsgVote, uint64(round+1), 0, 0))
		h.take()
		if round == 0 {
			h.answer(0, "p1", reply(1, &witnesspb.Promised{}))
			h.answer(0, "p2", reply(1, &witnesspb.Promised{}))
		}
		for _, p := range []string{"p1", "p2"} {
			if q := h.answer(0, p, reply(uint64(round+2), &witnesspb.Accepted{})); q.GetAccept().GetValue().GetTerm() != uint64(round+1) || q.GetSeenSequence() != uint64(round+1) {
				t.Fatalf("round %d: %v", round, q)
			}
		}
	}
	if len(h.got.Responses) != 3 || len(h.open) != 1 || h.open[0].Point != "p3" {
		t.Fatalf("%d answers, open: %v", len(h.got.Responses), h.open)
	}
	h.tick(250 * time.Millisecond)
	st := h.c.Status()
	if !st[0].Reachable || st[2].Reachable || st[2].Error != "no answer within 250ms" || st[2].Since != 250*time.Millisecond {
		t.Errorf("status: %+v", st)
	}
}

func TestARoundWithoutAMajorityIsLost(t *testing.T) {
	h := newHand(t, arbiters(3)...)
	h.c.Step(0, to9(raftpb.MsgVote, 1, 0, 0))
	h.take()
	h.answer(0, "p1", nil)
	h.answer(0, "p2", reply(0, &witnesspb.Refused{Reason: witnesspb.Refused_REASON_ABSTAINS, Message: "forgot"}))
	if h.got.Wake <= 0 || h.got.Wake > 250*time.Millisecond {
		t.Errorf("wakes at %v", h.got.Wake)
	}
	for now := h.got.Wake; len(h.got.Lost) == 0; now = h.got.Wake {
		if now > 250*time.Millisecond {
			t.Fatalf("still at it at %v", now)
		}
		h.tick(now)
	}
	st := h.c.Status()
	if st[0].Reachable || st[0].Error != "connection refused" || st[1].Reachable || st[1].Refused != witnesspb.Refused_REASON_ABSTAINS || st[1].Error != "forgot" {
		t.Errorf("status: %+v", st)
	}
	if len(h.got.Requests) > 30 {
		t.Errorf("%d requests in 250ms", len(h.got.Requests))
	}
}

func TestWaitingAppendsBecomeOne(t *testing.T) {
	h := newHand(t, arbiters(1)...)
	h.c.Step(0, to9(raftpb.MsgVote, 1, 0, 0))
	h.c.Step(0, to9(raftpb.MsgApp, 1, 0, 0, 1, 1))
	h.c.Step(0, to9(raftpb.MsgApp, 1, 2, 1, 1))
	h.take()
	if len(h.got.Lost) != 0 {
		t.Fatalf("lost: %v", h.got.Lost)
	}
	h.c.Step(0, to9(raftpb.MsgHeartbeat, 1, 0, 0))
	h.c.Step(0, to9(raftpb.MsgHeartbeat, 1, 0, 0))
	h.take()
	if len(h.got.Lost) != 1 {
		t.Fatalf("lost: %v", h.got.Lost)
	}
	h.answer(0, "p1", reply(1, &witnesspb.Promised{}))
	h.answer(0, "p1", reply(2, &witnesspb.Accepted{}))
	h.answer(0, "p1", reply(3, &witnesspb.Accepted{}))
	if n := len(h.got.Responses); n != 3 || h.got.Responses[1].GetIndex() != 3 {
		t.Fatalf("answers: %v", h.got.Responses)
	}
	// A gap can't be closed: the newer one counts.
	h.c.Step(0, to9(raftpb.MsgHeartbeat, 1, 0, 0))
	h.c.Step(0, to9(raftpb.MsgApp, 1, 3, 1, 1))
	h.c.Step(0, to9(raftpb.MsgApp, 1, 7, 1, 1))
	h.take()
	if len(h.got.Lost) != 2 || h.got.Lost[1].GetIndex() != 3 {
		t.Fatalf("lost: %v", h.got.Lost)
	}
}

// Messages and suspicions wait for the other side; the own lease goes on.
func TestWithhold(t *testing.T) {
	h := newHand(t, arbiters(1)...)
	h.c.Step(0, to9(raftpb.MsgVote, 1, 0, 0))
	h.take()
	h.open = nil
	h.c.Withhold(0, time.Second)
	h.c.Step(0, to9(raftpb.MsgApp, 1, 0, 0, 1))
	h.c.Suspect(time.Millisecond, "n2", 2, 0)
	h.c.Renew(time.Millisecond, &witnesspb.Renew{})
	h.take()
	h.answer(2*time.Millisecond, "p1", reply(1, &witnesspb.Renewed{}))
	if len(h.got.Renewed) != 1 {
		t.Fatal("a node that withholds does not renew its own lease")
	}
	h.tick(999 * time.Millisecond)
	if len(h.open) != 0 || h.got.Wake != time.Second {
		t.Fatalf("asked while it withholds: %v; wakes at %v", h.open, h.got.Wake)
	}
	h.tick(time.Second)
	h.answer(time.Second, "p1", reply(1, &witnesspb.Promised{}))
	h.answer(time.Second, "p1", reply(1, 500*time.Millisecond))
	h.answer(time.Second, "p1", reply(1, &witnesspb.Accepted{}))
	if len(h.got.Responses) != 2 || len(h.got.Lost) != 0 || len(h.got.Statements) != 1 {
		t.Fatalf("got %+v", h.got)
	}
}

// A view change that was refused when it was applied keeps nobody's lease from
// being renewed: who has applied it knows. One that is newer than that does.
func TestARefusedViewChangeIsNoNewerView(t *testing.T) {
	reg := &witnesspb.Register{LastIndex: 9, Views: []*witnesspb.ViewAt{{Index: 7, Epoch: 4}}}
	for _, c := range []struct {
		epoch, applied uint64
		old            bool
	}{{3, 6, true}, {3, 7, false}, {4, 0, false}, {3, 0, true}} {
		if OldView(reg, &witnesspb.Renew{Epoch: c.epoch, Applied: c.applied}) != c.old {
			t.Errorf("W9: view %d, log applied up to %d: want old %v", c.epoch, c.applied, c.old)
		}
	}
	if OldView(nil, &witnesspb.Renew{}) {
		t.Error("W9: an empty register knows no views")
	}
}

func TestRenewals(t *testing.T) {
	h := newHand(t, arbiters(3)...)
	h.c.Renew(10, &witnesspb.Renew{Stays: 4, Epoch: 2})
	h.c.Renew(20, &witnesspb.Renew{Stays: 4, Epoch: 2})
	h.c.Renew(30, &witnesspb.Renew{Stays: 5, Epoch: 3})
	h.take()
	if len(h.open) != 3 {
		t.Fatalf("open: %v", h.open)
	}
	h.answer(40, "p1", reply(1, &witnesspb.Renewed{}))
	if len(h.got.Renewed) != 0 {
		t.Fatal("one of three is no majority")
	}
	h.answer(40, "p2", reply(1, &witnesspb.Renewed{}))
	if len(h.got.Renewed) != 1 || h.got.Renewed[0].Since != 10 {
		t.Fatalf("got %+v", h.got.Renewed)
	}
	// The newest wish follows at once; p3 has not answered yet and gets it later.
	if q := h.answer(50, "p1", reply(1, &witnesspb.Refused{Reason: witnesspb.Refused_REASON_SUSPECTED, Stays: 6, Message: "s"})); q != nil && (q.GetRenew().GetStays() != 4 && q.GetRenew().GetStays() != 5) {
		t.Fatalf("got %v", q)
	}
	h.answer(50, "p3", reply(1, &witnesspb.Renewed{})) // too late for the first
	h.answer(50, "p2", reply(1, &witnesspb.Refused{Reason: witnesspb.Refused_REASON_OLD_VIEW, Message: "v"}))
	if len(h.got.Renewed) != 1 || len(h.got.RenewRefused) != 1 || h.got.RenewRefused[0] != (RenewRefusal{Since: 30, Reason: witnesspb.Refused_REASON_SUSPECTED, Stays: 6}) {
		t.Fatalf("got %+v, refused %+v", h.got.Renewed, h.got.RenewRefused)
	}
	for _, p := range h.c.Status() {
		if !p.Reachable {
			t.Errorf("%s does its work: %+v", p.Name, p)
		}
	}
}

func TestStatements(t *testing.T) {
	h := newHand(t, arbiters(3)...)
	h.c.Suspect(0, "n2", 2, 1)
	h.c.Suspect(0, "n3", 3, 1)
	h.take()
	if len(h.open) != 3 {
		t.Fatalf("one of each kind at a time: %v", h.open)
	}
	h.answer(0, "p1", reply(1, 100*time.Millisecond))
	h.answer(0, "p2", nil)
	h.answer(0, "p3", nil)
	at := 20 * time.Millisecond
	for h.tick(at); len(h.got.Statements) == 0; h.tick(at) {
		at += 10 * time.Millisecond
		if at > 240*time.Millisecond {
			t.Fatalf("no statement; open: %v", h.open)
		}
		for len(h.open) > 0 && len(h.got.Statements) == 0 {
			if q := h.open[0]; q.Request.GetSuspect().GetAbout() == "n2" && q.Point == "p1" {
				t.Fatal("asked again what it has promised")
			}
			h.answer(at, h.open[0].Point, reply(2, time.Second))
		}
	}
	s := h.got.Statements[0]
	if s.About == "n2" && s.Age != 100*time.Millisecond+at || s.About == "n3" && s.Age < time.Second {
		t.Fatalf("W7: at %v: %+v", at, s)
	}
	// It is not asked for ever.
	h = newHand(t, arbiters(1)...)
	h.c.Suspect(0, "n2", 2, 1)
	for now := time.Duration(0); now < 3*time.Second; now += 10 * time.Millisecond {
		h.tick(now)
		if len(h.open) > 0 {
			if now > time.Second+300*time.Millisecond {
				t.Fatalf("still asked at %v", now)
			}
			h.answer(now, "p1", nil)
		}
	}
}

// TestLooks: a lock disk is looked at every quarter of peerinact, an arbiter every ten seconds.
func TestLooks(t *testing.T) {
	h := &hand{t: t, c: New(Config{Register: 9, Node: "n1", RaftID: 1, Proposer: 7, Peerinact: time.Second, Points: []PointInfo{{"arb", Arbiter}, {"disk", LockDisk}}})}
	count := map[string]int{}
	for now := time.Duration(0); now < time.Minute; now = max(h.got.Wake, now+1) {
		h.tick(now)
		for len(h.open) > 0 {
			count[h.open[0].Point]++
			h.answer(now, h.open[0].Point, &witnesspb.Reply{Body: &witnesspb.Reply_Looked{Looked: &witnesspb.Looked{Seen: []*witnesspb.Seen{{Node: "n2"}}}}})
		}
	}
	if count["arb"] < 6 || count["arb"] > 8 || count["disk"] < 240 || count["disk"] > 280 {
		t.Errorf("looks in a minute: %v", count)
	}
	if st := h.c.Status(); !st[0].Known || len(st[1].Seen) != 1 || st[1].Kind != LockDisk {
		t.Errorf("status: %+v", st)
	}
}

// TestNoPoints: nothing to ask is nothing to get.
func TestNoPoints(t *testing.T) {
	h := newHand(t)
	h.c.Step(0, to9(raftpb.MsgVote, 1, 0, 0))
	h.c.Renew(0, &witnesspb.Renew{Stays: 0, Epoch: 0})
	h.c.Suspect(0, "n2", 2, 0)
	for now := time.Duration(0); now < 2*time.Second; now += 10 * time.Millisecond {
		h.tick(now)
	}
	if len(h.got.Lost) != 1 || len(h.got.Renewed)+len(h.got.Statements)+len(h.got.Responses) != 0 {
		t.Errorf("got %+v", h.got)
	}
}

// TestAnswersThatDoNotFit are no answers.
func TestAnswersThatDoNotFit(t *testing.T) {
	h := newHand(t, arbiters(1)...)
	h.c.Step(0, to9(raftpb.MsgVote, 1, 0, 0))
	h.take()
	h.answer(0, "p1", reply(1, &witnesspb.Renewed{}))
	if st := h.c.Status(); st[0].Reachable || st[0].Error == "" || len(h.got.Responses) != 0 {
		t.Errorf("status %+v, answers %v", st, h.got.Responses)
	}
}

// TestViews: what is kept of view changes, and what is not.
func TestViews(t *testing.T) {
	view := func(m *raftpb.Message, i int, epoch byte) *raftpb.Message {
		m.Entries[i].Type = raftpb.EntryConfChangeV2.Enum()
		m.Entries[i].Data = []byte{0, 0, 0, 0, 0, 0, 0, epoch}
		return m
	}
	var reg *witnesspb.Register
	do := func(m *raftpb.Message, commit, epoch uint64, views int) {
		t.Helper()
		m.Commit = &commit
		if next, _ := Step(reg, 9, m); next != nil {
			reg = next
		}
		if Epoch(reg) != epoch || len(reg.GetViews()) != views {
			t.Fatalf("W9: view %d of %v; it should be %d of %d", Epoch(reg), reg.GetViews(), epoch, views)
		}
	}
	do(view(to9(raftpb.MsgApp, 1, 0, 0, 1, 1), 0, 4), 2, 4, 1)
	do(view(to9(raftpb.MsgApp, 1, 2, 1, 1), 0, 5), 2, 5, 2)
	do(to9(raftpb.MsgApp, 2, 2, 1, 2), 2, 4, 1) // it was never committed
	do(view(to9(raftpb.MsgApp, 2, 3, 2, 2, 2), 1, 6), 4, 6, 2)
	do(to9(raftpb.MsgApp, 2, 5, 2), 5, 6, 1)
	bad := view(to9(raftpb.MsgApp, 2, 5, 2, 2), 0, 7)
	bad.Entries[0].Data = []byte("not stripped")
	do(bad, 6, 6, 1)
	if reg.GetLastIndex() != 5 {
		t.Error("took what was not stripped")
	}
	// More terms than there is room for: as if the append had been shorter.
	var terms []uint64
	for i := range uint64(MaxRuns + 10) {
		terms = append(terms, 10+i)
	}
	m := to9(raftpb.MsgApp, 200, 5, 2, terms...)
	next, resp := Step(reg, 9, m)
	if len(next.GetRuns()) != MaxRuns || resp.GetReject() || resp.GetIndex() != next.GetLastIndex() || next.GetLastIndex() != 5+MaxRuns-1 {
		t.Errorf("%d runs, last %d, answered %v", len(next.GetRuns()), next.GetLastIndex(), resp)
	}
	m.Commit = new(uint64(1000))
	if next, resp = Step(reg, 9, m); len(next.GetRuns()) != 1 || resp.GetIndex() != 5+MaxRuns+10 {
		t.Errorf("committed ones need no room: %v, answered %v", next, resp)
	}
}

// A lock disk shows what somebody wrote and was then refused. To answer by it
// would let two candidates have the vote of one term: n2 wrote its vote under
// ballot 1 and was refused, and so was n1 under ballot 2; each finds its own.
func TestWhatADiskShowsMayNotBeChosen(t *testing.T) {
	h := newHand(t, PointInfo{"d", LockDisk})
	vote := &raftpb.Message{Type: raftpb.MsgVote.Enum(), From: new(uint64(1)), To: new(uint64(9)), Term: new(uint64(2))}
	h.c.Step(0, vote)
	h.take()
	mine := &witnesspb.Register{Term: 2, Vote: 1}
	h.answer(0, "d", &witnesspb.Reply{Body: &witnesspb.Reply_Promised{Promised: &witnesspb.Promised{
		Accepted: &witnesspb.Ballot{Counter: 2, Proposer: 1}, Value: mine,
	}}})
	if len(h.got.Responses) != 0 {
		t.Fatalf("answered %v by a value that nobody may have chosen", h.got.Responses)
	}
	if q := h.answer(0, "d", &witnesspb.Reply{Body: &witnesspb.Reply_Accepted{Accepted: &witnesspb.Accepted{}}}); q.GetAccept() == nil {
		t.Fatalf("asked %v, want the value accepted anew", q)
	}
	if len(h.got.Responses) != 1 || h.got.Responses[0].GetReject() {
		t.Fatalf("answered %v", h.got.Responses)
	}
}
