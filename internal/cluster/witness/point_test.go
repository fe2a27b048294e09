package witness

import (
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/holdfast-ha/holdfast/internal/cluster/witness/witnesspb"
)

// A desk is a point with its disk.
type desk struct {
	t     *testing.T
	now   time.Duration
	kept  *witnesspb.Kept
	point *Point
}

func newDesk(t *testing.T) *desk { return &desk{t: t, point: NewPoint(0)} }

// ask on behalf of a node whose raft id is its number.
func (d *desk) ask(node int, register, seen uint64, r *witnesspb.Request) *witnesspb.Reply {
	d.t.Helper()
	r.Cluster, r.Register, r.SeenSequence, r.Node, r.RaftId = "c", register, seen, fmt.Sprintf("n%d", node), uint64(node)
	next, reply := d.point.Do(d.now, d.kept, r)
	if next != nil {
		d.kept = next
	}
	if reply.GetSequence() != d.kept.GetSequence() {
		d.t.Fatalf("the reply has number %d, what is kept %d", reply.GetSequence(), d.kept.GetSequence())
	}
	return reply
}

func (d *desk) reason(node int, register, seen uint64, r *witnesspb.Request) witnesspb.Refused_Reason {
	d.t.Helper()
	f := d.ask(node, register, seen, r).GetRefused()
	if f != nil && f.GetMessage() == "" {
		d.t.Fatal("refused without a word")
	}
	return f.GetReason()
}

func prepare(counter uint64) *witnesspb.Request {
	return &witnesspb.Request{Body: &witnesspb.Request_Prepare{Prepare: &witnesspb.Prepare{Ballot: &witnesspb.Ballot{Counter: counter, Proposer: 1}}}}
}

func accept(counter uint64, value *witnesspb.Register) *witnesspb.Request {
	return &witnesspb.Request{Body: &witnesspb.Request_Accept{Accept: &witnesspb.Accept{
		Ballot: &witnesspb.Ballot{Counter: counter, Proposer: 1}, Value: value, Next: &witnesspb.Ballot{Counter: counter + 1, Proposer: 1},
	}}}
}

func renew(stays, epoch uint64) *witnesspb.Request {
	return &witnesspb.Request{Body: &witnesspb.Request_Renew{Renew: &witnesspb.Renew{Stays: stays, Epoch: epoch}}}
}

func suspectOf(node string, raftID, stays uint64) *witnesspb.Request {
	return &witnesspb.Request{Body: &witnesspb.Request_Suspect{Suspect: &witnesspb.Suspect{About: node, AboutRaftId: raftID, Stays: stays}}}
}

func look() *witnesspb.Request {
	return &witnesspb.Request{Body: &witnesspb.Request_Look{Look: &witnesspb.Look{}}}
}

// TestPointPromises: W5 request by request.
func TestPointPromises(t *testing.T) {
	d := newDesk(t)
	value := &witnesspb.Register{Term: 3, Vote: 1}
	if r := d.ask(1, 5, 0, prepare(4)); r.GetPromised() == nil || r.GetPromised().GetValue() != nil {
		t.Fatalf("got %v", r)
	}
	if r := d.ask(2, 5, 0, prepare(3)); r.GetRejected().GetPromised().GetCounter() != 4 {
		t.Fatalf("got %v", r)
	}
	sequence := d.kept.GetSequence()
	if r := d.ask(1, 5, 0, prepare(4)); r.GetPromised() == nil || d.kept.GetSequence() != sequence {
		t.Fatalf("the same promise again: %v, and %v is kept", r, d.kept)
	}
	if r := d.ask(1, 5, 0, accept(3, value)); r.GetRejected() == nil {
		t.Fatalf("got %v", r)
	}
	if r := d.ask(1, 5, 0, accept(4, value)); r.GetAccepted() == nil {
		t.Fatalf("got %v", r)
	}
	if r := d.ask(1, 5, 0, accept(4, value)); r.GetRejected().GetPromised().GetCounter() != 5 {
		t.Fatalf("a late double of it: %v", r)
	}
	if r := d.ask(2, 5, 0, prepare(9)); r.GetPromised().GetAccepted().GetCounter() != 4 || !proto.Equal(r.GetPromised().GetValue(), value) {
		t.Fatalf("got %v", r)
	}
}

// TestPointRegisters: a higher register is a fresh one, a lower one is gone for
// good, and suspicions are of incarnations, not of registers.
func TestPointRegisters(t *testing.T) {
	d := newDesk(t)
	d.ask(1, 5, 0, accept(4, &witnesspb.Register{Term: 3}))
	d.ask(1, 5, 0, suspectOf("n2", 2, 0))
	if d.ask(1, 6, 0, look()).GetLooked() == nil || d.kept.GetRegister() != 5 {
		t.Fatal("a look changed something")
	}
	if r := d.ask(1, 6, 0, prepare(1)); r.GetPromised() == nil || r.GetPromised().GetValue() != nil {
		t.Fatalf("got %v", r)
	}
	if r := d.reason(1, 5, 0, renew(0, 0)); r != witnesspb.Refused_REASON_OLD_REGISTER {
		t.Fatalf("got %v", r)
	}
	if r := d.reason(2, 6, 0, renew(0, 0)); r != witnesspb.Refused_REASON_SUSPECTED {
		t.Fatalf("got %v", r)
	}
}

// TestPointLeases: W6, W7 and W9.
func TestPointLeases(t *testing.T) {
	d := newDesk(t)
	age := func(node string, raftID, stays uint64) time.Duration {
		t.Helper()
		s := d.ask(1, 5, 0, suspectOf(node, raftID, stays)).GetSuspected()
		if s == nil {
			t.Fatal("no statement")
		}
		return s.GetAge().AsDuration()
	}
	d.now = time.Second
	if r := d.ask(2, 5, 0, renew(0, 0)); r.GetRenewed() == nil {
		t.Fatalf("got %v", r)
	}
	d.now = 3 * time.Second
	if got := age("n2", 2, 0); got != 2*time.Second {
		t.Errorf("age %v", got)
	}
	if got := age("n3", 3, 0); got != 3*time.Second {
		t.Errorf("age %v of one that never came: since the point runs it is 3s", got)
	}
	if r := d.reason(2, 5, 0, renew(0, 0)); r != witnesspb.Refused_REASON_SUSPECTED {
		t.Errorf("W6: got %v", r)
	}
	if d.ask(2, 5, 0, renew(1, 0)).GetRenewed() == nil {
		t.Error("it stays, and gets no lease")
	}
	if got := age("n2", 2, 0); got != 0 {
		t.Errorf("W7: age %v right after a renewal", got)
	}
	// An older suspicion does not replace a newer one, nor the other way round in effect.
	age("n2", 2, 7)
	age("n2", 2, 3)
	age("n2", 1, 100)
	if r := d.ask(2, 5, 0, renew(7, 0)).GetRefused(); r.GetReason() != witnesspb.Refused_REASON_SUSPECTED || r.GetStays() != 7 {
		t.Errorf("W6: got %v", r)
	}
	age("n2", 20, 0) // a later incarnation: the older ones can't be
	if r := d.reason(2, 5, 0, renew(8, 0)); r != witnesspb.Refused_REASON_SUSPECTED {
		t.Errorf("W6: an incarnation that has a successor: %v", r)
	}
	// A restart: everyone counts as just acknowledged, suspicions stay.
	d.now, d.point = 10*time.Second, NewPoint(10*time.Second)
	if got := age("n9", 9, 0); got != 0 {
		t.Errorf("W7: age %v after a restart", got)
	}
	if r := d.reason(2, 5, 0, renew(8, 0)); r != witnesspb.Refused_REASON_SUSPECTED {
		t.Errorf("W6: after a restart: %v", r)
	}
	// A view that is in the log.
	d.ask(1, 5, 0, accept(4, &witnesspb.Register{Term: 3, Runs: []*witnesspb.Run{{FirstIndex: 1, Term: 3}}, LastIndex: 8, Views: []*witnesspb.ViewAt{{Index: 7, Epoch: 4}}}))
	if r := d.reason(1, 5, 0, renew(0, 3)); r != witnesspb.Refused_REASON_OLD_VIEW {
		t.Errorf("W9: got %v", r)
	}
	if d.ask(1, 5, 0, renew(0, 4)).GetRenewed() == nil {
		t.Error("W9: refused by its own view")
	}
}

// TestPointForgetsSafely: who asked is remembered within bounds, and what is
// forgotten counts as acknowledged when it was (W7). Suspicions are never forgotten.
func TestPointForgetsSafely(t *testing.T) {
	d := newDesk(t)
	d.now = time.Second
	d.ask(1, 5, 0, renew(0, 0))
	for i := range maxSeen {
		d.now += time.Millisecond
		d.ask(2+i, 5, 0, look())
	}
	if len(d.point.seen) != maxSeen {
		t.Errorf("%d are remembered", len(d.point.seen))
	}
	if got := d.ask(2, 5, 0, suspectOf("n1", 1, 0)).GetSuspected().GetAge().AsDuration(); got > d.now-time.Second {
		t.Errorf("W7: age %v, and the renewal is %v old", got, d.now-time.Second)
	}
	for i := range MaxSuspicions - 1 {
		d.ask(1, 5, 0, suspectOf(fmt.Sprint("m", i), 1, 0))
	}
	if r := d.reason(2, 5, 0, suspectOf("more", 1, 0)); r != witnesspb.Refused_REASON_FULL {
		t.Errorf("got %v", r)
	}
	if d.ask(2, 5, 0, suspectOf("m7", 2, 0)).GetSuspected() == nil || len(d.kept.GetSuspicions()) != MaxSuspicions {
		t.Error("a name that is known needs no more room")
	}
}

// TestPointAbstains: W8.
func TestPointAbstains(t *testing.T) {
	d := newDesk(t)
	var backup *witnesspb.Kept
	for i := range uint64(5) {
		if i == 2 {
			backup = d.kept
		}
		d.ask(1, 5, d.kept.GetSequence(), prepare(i+1))
	}
	seen := d.kept.GetSequence()
	d.kept = backup
	if d.ask(2, 5, 0, renew(0, 0)).GetRenewed() == nil {
		t.Fatal("nobody can know yet")
	}
	if r := d.reason(1, 5, seen, look()); r != witnesspb.Refused_REASON_ABSTAINS {
		t.Fatalf("got %v", r)
	}
	d.point = NewPoint(0)
	for _, r := range []*witnesspb.Request{prepare(9), accept(9, &witnesspb.Register{Term: 1}), renew(9, 9), suspectOf("n2", 2, 0), look()} {
		if got := d.reason(2, 5, 0, r); got != witnesspb.Refused_REASON_ABSTAINS {
			t.Errorf("%v: got %v", r, got)
		}
	}
	if d.ask(2, 6, 0, prepare(1)).GetPromised() == nil {
		t.Error("added again, it abstains still")
	}
	// A backup from before the register that is asked about: it has forgotten that one.
	d.kept = backup
	if r := d.reason(1, 6, seen, prepare(1)); r != witnesspb.Refused_REASON_ABSTAINS {
		t.Errorf("got %v", r)
	}
	if r := d.reason(2, 6, 0, prepare(1)); r != witnesspb.Refused_REASON_ABSTAINS {
		t.Errorf("got %v", r)
	}
}

// TestPointRefusesNonsense, and keeps what it has.
func TestPointRefusesNonsense(t *testing.T) {
	long := &witnesspb.Register{Term: 100, LastIndex: 100}
	for i := range uint64(MaxRuns + 1) {
		long.Runs = append(long.Runs, &witnesspb.Run{FirstIndex: i + 1, Term: i + 1})
	}
	bare := prepare(1)
	bare.GetPrepare().Ballot = nil
	falling := accept(4, &witnesspb.Register{})
	falling.GetAccept().Next = &witnesspb.Ballot{Counter: 3, Proposer: 1}
	for i, r := range []*witnesspb.Request{
		{}, bare, prepare(0), prepare(maxCounter + 1), accept(1, nil), accept(1, long), falling,
		accept(1, &witnesspb.Register{Term: 1, LastIndex: 4}),
		accept(1, &witnesspb.Register{Term: 1, Commit: 1}),
		accept(1, &witnesspb.Register{Term: 1, LastIndex: 4, Runs: []*witnesspb.Run{{FirstIndex: 2, Term: 1}}}),
		accept(1, &witnesspb.Register{Term: 1, LastIndex: 4, Runs: []*witnesspb.Run{{FirstIndex: 1, Term: 2}}}),
		accept(1, &witnesspb.Register{Term: 1, LastIndex: 4, Runs: []*witnesspb.Run{{FirstIndex: 1, Term: 1}}, Views: []*witnesspb.ViewAt{{Index: 5, Epoch: 1}}}),
		suspectOf("", 1, 1), suspectOf("n1", 0, 1), suspectOf(strings.Repeat("x", MaxName+1), 1, 1),
		{Body: &witnesspb.Request_Renew{}}, {Body: &witnesspb.Request_Suspect{}}, {Body: &witnesspb.Request_Prepare{}}, {Body: &witnesspb.Request_Accept{}},
	} {
		d := newDesk(t)
		if got := d.reason(1, 5, 0, r); got != witnesspb.Refused_REASON_MALFORMED || d.kept != nil {
			t.Errorf("%d: %v: got %v, and %v is kept", i, r, got, d.kept)
		}
	}
	d := newDesk(t)
	if got := d.reason(1, 0, 0, look()); got != witnesspb.Refused_REASON_MALFORMED {
		t.Errorf("no register: got %v", got)
	}
	if _, reply := d.point.Do(0, nil, nil); reply.GetRefused().GetReason() != witnesspb.Refused_REASON_MALFORMED {
		t.Errorf("nothing: got %v", reply)
	}
	d.kept = &witnesspb.Kept{Format: 2}
	if got := d.reason(1, 5, 0, look()); got != witnesspb.Refused_REASON_DAMAGED {
		t.Errorf("of a later release: got %v", got)
	}
}

// goldenKept is written down in docs/formats/witness.md.
const goldenKept = "0801" + "1010" + "1809" + "22040805104d" + "2a040804104d" +
	"3222" + "0803" + "1001" + "1a0408281002" + "1a0408321003" + "203c" + "2832" + "3001" + "3a0408281004" + "3a0408371005" +
	"3a0a" + "0802" + "1001" + "1a046e6f6432"

func TestGolden(t *testing.T) {
	k := &witnesspb.Kept{
		Format: 1, Sequence: 16, Register: 9,
		Promised: &witnesspb.Ballot{Counter: 5, Proposer: 77}, Accepted: &witnesspb.Ballot{Counter: 4, Proposer: 77},
		Value: &witnesspb.Register{
			Term: 3, Vote: 1, Runs: []*witnesspb.Run{{FirstIndex: 40, Term: 2}, {FirstIndex: 50, Term: 3}}, LastIndex: 60, Commit: 50, Leader: 1,
			Views: []*witnesspb.ViewAt{{Index: 40, Epoch: 4}, {Index: 55, Epoch: 5}},
		},
		Suspicions: []*witnesspb.Suspicion{{RaftId: 2, Stays: 1, Node: "nod2"}},
	}
	if err := CheckKept(k); err != nil {
		t.Fatal(err)
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(k)
	if err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(b); got != goldenKept {
		t.Errorf("encoded: %s", got)
	}
	old, err := hex.DecodeString(goldenKept)
	if err != nil {
		t.Fatal(err)
	}
	back := &witnesspb.Kept{}
	if err := proto.Unmarshal(old, back); err != nil || !proto.Equal(back, k) {
		t.Errorf("decoded: %v, %v", back, err)
	}
	// The bound that lock disks and arbiters reserve.
	big := &witnesspb.Register{Term: 1 << 63, Vote: 1 << 63, LastIndex: 1 << 63, Commit: 1 << 63, Leader: 1 << 63}
	for i := range uint64(MaxRuns) {
		big.Runs = append(big.Runs, &witnesspb.Run{FirstIndex: 1<<63 - 100 + i, Term: 1<<63 - 100 + i})
	}
	for i := range uint64(MaxViews) {
		big.Views = append(big.Views, &witnesspb.ViewAt{Index: 1<<63 - 100 + i, Epoch: 1 << 63})
	}
	if n := proto.Size(big); n > MaxRegisterBytes || CheckRegister(big) != nil {
		t.Errorf("a register of %d bytes; the bound is %d; %v", n, MaxRegisterBytes, CheckRegister(big))
	}
}
