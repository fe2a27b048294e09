package witness

import (
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/holdfast-ha/holdfast/internal/cluster/witness/witnesspb"
)

func TestSmoke(t *testing.T) {
	c := New(Config{Cluster: "c", Register: 9, Node: "n1", RaftID: 1, Proposer: 77, Points: []PointInfo{{"a", Arbiter}}, Peerinact: time.Second})
	p := NewPoint(0)
	var kept *witnesspb.Kept
	now := time.Duration(0)
	var got Out
	pump := func() {
		for {
			o := c.Take()
			got.Responses = append(got.Responses, o.Responses...)
			got.Renewed = append(got.Renewed, o.Renewed...)
			got.RenewRefused = append(got.RenewRefused, o.RenewRefused...)
			got.Statements = append(got.Statements, o.Statements...)
			got.Lost = append(got.Lost, o.Lost...)
			if len(o.Requests) == 0 {
				return
			}
			for _, r := range o.Requests {
				next, reply := p.Do(now, kept, r.Request)
				t.Logf("%v -> %v", r.Request, reply)
				if next != nil {
					kept = next
				}
				c.Reply(now, r.Point, r.Call, reply, "")
			}
		}
	}
	c.Tick(now)
	pump()
	c.Step(now, &raftpb.Message{Type: raftpb.MsgVote.Enum(), From: new(uint64(1)), To: new(uint64(9)), Term: new(uint64(2))})
	pump()
	c.Step(now, &raftpb.Message{Type: raftpb.MsgApp.Enum(), From: new(uint64(1)), To: new(uint64(9)), Term: new(uint64(2)), Entries: []*raftpb.Entry{{Index: new(uint64(1)), Term: new(uint64(2))}}})
	c.Renew(now, 0, 0)
	pump()
	now += time.Second
	c.Suspect(now, "n2", 2, 0)
	pump()
	t.Logf("%+v", got)
	if len(got.Responses) != 2 || len(got.Renewed) != 1 || len(got.Statements) != 1 || got.Statements[0].Age != time.Second {
		t.Fatal("wrong")
	}
}
