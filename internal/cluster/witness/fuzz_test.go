package witness

import (
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-ha/holdfast/internal/cluster/witness/witnesspb"
)

func encoded(f *testing.F, m proto.Message) []byte {
	f.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		f.Fatal(err)
	}
	return b
}

// FuzzPoint: whatever is kept and asked, a point answers without a panic, and
// what it then keeps is as good as what it kept.
func FuzzPoint(f *testing.F) {
	kept := &witnesspb.Kept{Format: 1, Sequence: 4, Register: 5, Promised: &witnesspb.Ballot{Counter: 4, Proposer: 1}}
	for _, r := range []*witnesspb.Request{prepare(5), accept(5, &witnesspb.Register{Term: 1, LastIndex: 1, Runs: []*witnesspb.Run{{FirstIndex: 1, Term: 1}}}), renew(1, 1), suspectOf("n2", 2, 0), look()} {
		r.Node, r.RaftId, r.Register = "n1", 1, 5
		f.Add(encoded(f, kept), encoded(f, r))
		f.Add([]byte{}, encoded(f, r))
	}
	f.Fuzz(func(t *testing.T, keptBytes, requestBytes []byte) {
		kept, r := &witnesspb.Kept{}, &witnesspb.Request{}
		if proto.Unmarshal(keptBytes, kept) != nil || proto.Unmarshal(requestBytes, r) != nil {
			return
		}
		p := NewPoint(0)
		for now := range 2 * time.Nanosecond {
			next, reply := p.Do(now, kept, r)
			if reply.GetBody() == nil {
				t.Fatal("no answer")
			}
			if CheckKept(kept) != nil && next != nil {
				t.Fatal("what was damaged was changed")
			}
			if next != nil {
				if err := CheckKept(next); err != nil {
					t.Fatalf("%v became %v: %v", kept, next, err)
				}
				kept = next
			}
		}
	})
}

// FuzzStep: no message panics, or makes a good register bad, or lets one fall.
func FuzzStep(f *testing.F) {
	reg := &witnesspb.Register{Term: 3, Runs: []*witnesspb.Run{{FirstIndex: 4, Term: 2}, {FirstIndex: 6, Term: 3}}, LastIndex: 8, Commit: 5, Views: []*witnesspb.ViewAt{{Index: 7, Epoch: 2}}}
	num := func(n uint64) *uint64 { return &n }
	for _, m := range []*raftpb.Message{
		{Type: raftpb.MsgVote.Enum(), Term: num(4), LogTerm: num(3), Index: num(8)},
		{Type: raftpb.MsgApp.Enum(), Term: num(4), LogTerm: num(2), Index: num(5), Entries: []*raftpb.Entry{{Term: num(4), Index: num(6), Type: raftpb.EntryConfChangeV2.Enum(), Data: make([]byte, 8)}}},
		{Type: raftpb.MsgSnap.Enum(), Term: num(4), Snapshot: &raftpb.Snapshot{Data: make([]byte, 8), Metadata: &raftpb.SnapshotMetadata{Index: num(20), Term: num(4)}}},
		{Type: raftpb.MsgHeartbeat.Enum(), Term: num(3), Commit: num(7)},
	} {
		m.From, m.To = num(1), num(9)
		f.Add(encoded(f, reg), encoded(f, m))
		f.Add([]byte{}, encoded(f, m))
	}
	f.Fuzz(func(t *testing.T, regBytes, messageBytes []byte) {
		reg, m := &witnesspb.Register{}, &raftpb.Message{}
		if proto.Unmarshal(regBytes, reg) != nil || proto.Unmarshal(messageBytes, m) != nil || CheckRegister(reg) != nil {
			return
		}
		next, _ := Step(reg, 9, m)
		if next == nil {
			return
		}
		if err := CheckRegister(next); err != nil {
			t.Fatalf("%v: %v became %v by %v", err, reg, next, m)
		}
		if next.GetTerm() < reg.GetTerm() || next.GetCommit() < reg.GetCommit() {
			t.Fatalf("%v became %v by %v", reg, next, m)
		}
	})
}

// FuzzReply: a client takes whatever a point may say.
func FuzzReply(f *testing.F) {
	for _, r := range []*witnesspb.Reply{
		{Body: &witnesspb.Reply_Promised{Promised: &witnesspb.Promised{}}},
		{Body: &witnesspb.Reply_Accepted{Accepted: &witnesspb.Accepted{}}},
		{Body: &witnesspb.Reply_Rejected{Rejected: &witnesspb.Rejected{Promised: &witnesspb.Ballot{Counter: 9, Proposer: 9}}}},
		{Body: &witnesspb.Reply_Renewed{}}, {Body: &witnesspb.Reply_Suspected{}}, {Body: &witnesspb.Reply_Looked{}}, {Body: &witnesspb.Reply_Refused{}},
	} {
		f.Add(encoded(f, r))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := &witnesspb.Reply{}
		if proto.Unmarshal(b, r) != nil {
			return
		}
		c := New(Config{Register: 9, Node: "n1", RaftID: 1, Proposer: 7, Points: []PointInfo{{"p1", Arbiter}}, Peerinact: time.Second})
		c.Step(0, &raftpb.Message{Type: raftpb.MsgVote.Enum(), From: new(uint64(1)), To: new(uint64(9)), Term: new(uint64(2))})
		c.Renew(0, &witnesspb.Renew{Stays: 0, Epoch: 0})
		c.Suspect(0, "n2", 2, 0)
		for range 3 {
			for _, q := range c.Take().Requests {
				c.Reply(0, q.Point, q.Call, r, "")
				c.Reply(0, q.Point, q.Call, nil, "")
			}
		}
		c.Tick(time.Hour)
		c.Status()
	})
}
