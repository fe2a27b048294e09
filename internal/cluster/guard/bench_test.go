package guard

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
)

// twoOf is a core that hears a second one over n links, and what that one sends.
func benchCore(nodes, links int) (*Core, func(now time.Duration) (from string, link int, hb Heartbeat)) {
	conf := &guardpb.Configure{Node: "n00", Epoch: 1, RaftId: 1, MayAcknowledge: true, Heartbeat: durationpb.New(100 * time.Millisecond)}
	for i := range nodes {
		p := &guardpb.Peer{Node: fmt.Sprintf("n%02d", i), RaftId: uint64(i + 1), GuardIncarnation: 1}
		for l := range links {
			p.Addresses = append(p.Addresses, fmt.Sprintf("10.0.%d.%d:7801", l, i))
		}
		conf.Peers = append(conf.Peers, p)
	}
	c := New(0, Config{Node: "n00", Incarnation: 1})
	c.Engine(0, &guardpb.ToGuard{Body: &guardpb.ToGuard_Configure{Configure: conf}})
	next := 0
	return c, func(now time.Duration) (string, int, Heartbeat) {
		i := next
		next++
		hb := Heartbeat{
			Incarnation: 1, Sequence: uint64(i/links/(nodes-1) + 1), EchoIncarnation: 1, EchoSequence: c.seq,
			AckIncarnation: 1, Ack: c.seq, RaftID: uint64(i/links%(nodes-1) + 2), Epoch: 1, Appended: 1, Leader: "n00",
		}
		return c.peers[i/links%(nodes-1)+1].node, i % links, hb
	}
}

// H5: a round of heartbeats is received and sent without an allocation.
func TestHeartbeatsAllocateNothing(t *testing.T) {
	const nodes, links = 5, 2
	c, packet := benchCore(nodes, links)
	now := time.Duration(0)
	round := func() {
		now += 100 * time.Millisecond
		c.Tick(now)
		if out := c.Take(); len(out.Send) != (nodes-1)*links {
			t.Fatalf("%d heartbeats sent", len(out.Send))
		}
		for range (nodes - 1) * links {
			from, link, hb := packet(now)
			c.Receive(now+time.Millisecond, link, from, hb)
			c.Take()
		}
	}
	for range 10 {
		round()
	}
	if !c.LeaseHeld(now) {
		t.Fatal("the rounds renew no lease")
	}
	if n := testing.AllocsPerRun(100, round); n != 0 {
		t.Errorf("%v allocations a round", n)
	}
}

func BenchmarkReceive(b *testing.B) {
	for _, nodes := range []int{3, 64} {
		b.Run(fmt.Sprintf("nodes=%d", nodes), func(b *testing.B) {
			c, packet := benchCore(nodes, 2)
			now := time.Duration(0)
			i := 0
			b.ReportAllocs()
			for b.Loop() {
				if i%((nodes-1)*2) == 0 {
					now += 100 * time.Millisecond
					c.Tick(now)
				}
				i++
				from, link, hb := packet(now)
				c.Receive(now, link, from, hb)
				c.Take()
			}
		})
	}
}

func BenchmarkRound(b *testing.B) {
	c, _ := benchCore(64, 2)
	now := time.Duration(0)
	b.ReportAllocs()
	for b.Loop() {
		now += 100 * time.Millisecond
		c.Tick(now)
		c.Take()
	}
}
