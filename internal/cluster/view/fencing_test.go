package view

import (
	"testing"
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	pb "github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// unproven is a desk whose n5 was lost with a group that has to know that it is off.
func unproven(t *testing.T) *desk {
	d := newDesk(t)
	d.s.Nodes["n5"].FenceLevels = []*v1.FenceLevel{{Devices: []string{"pdu"}}}
	d.s.Groups["db"] = &v1.Group{Name: "db", SystemList: []string{"n1", "n5"}, Takeover: v1.Takeover_TAKEOVER_POWER}
	d.s.GroupStatus["db"] = &pb.GroupStatus{Nodes: map[string]*pb.GroupOnNode{"n5": {Want: v1.Want_WANT_ONLINE, Intent: 1}}}
	d.silent("n5", "n1", "n2", "n3")
	c, _ := d.next()
	if c.GetEvict() == nil {
		t.Fatalf("next %v", c)
	}
	d.apply(c)
	return d
}

// by says who is to run the agents now, and applies it.
func (d *desk) by() string {
	d.t.Helper()
	c, _ := d.next()
	if c.GetFenceStarted() == nil {
		d.t.Fatalf("next %v, want the start of an attempt", c)
	}
	d.apply(c)
	return c.GetFenceStarted().GetBy()
}

func (d *desk) ended(r v1.FenceResult) {
	d.t.Helper()
	d.apply(&pb.Command{Change: &pb.Command_FenceDone{FenceDone: &pb.FenceDone{Number: d.s.NextFenceOperation, Result: r}}})
}

func TestFencingTakesTurns(t *testing.T) {
	d := unproven(t)
	if by := d.by(); by != "n1" {
		t.Errorf("first %s", by)
	}
	if c, _ := d.next(); c != nil {
		t.Errorf("while somebody is at it: %v", c)
	}
	d.down["n2"] = true
	for _, want := range []string{"n3", "n4", "n1", "n3"} {
		d.ended(v1.FenceResult_FENCE_RESULT_FAILED)
		c, wake := d.next()
		if c != nil || wake != d.now+retryFence {
			t.Fatalf("just after a failure: %v, wake %v", c, wake-d.now)
		}
		d.now = wake
		if by := d.by(); by != want {
			t.Errorf("next %s, want %s", by, want)
		}
	}
	d.ended(v1.FenceResult_FENCE_RESULT_OFF)
	if c, _ := d.next(); c != nil || d.s.NodeStatus["n5"].Fence != nil {
		t.Errorf("after it is off: %v", c)
	}
}

// A member that is lost while it runs the agents.
func TestFencingByALostMember(t *testing.T) {
	d := unproven(t)
	d.by()
	d.ended(v1.FenceResult_FENCE_RESULT_FAILED)
	d.next()
	d.now += retryFence
	if by := d.by(); by != "n2" {
		t.Fatalf("by %s", by)
	}
	d.now += time.Hour
	d.silent("n2", "n1", "n3", "n4")
	c, _ := d.next()
	if c.GetEvict() == nil {
		t.Fatalf("next %v", c)
	}
	d.apply(c)
	c, _ = d.next()
	if c.GetFenceDone().GetResult() != v1.FenceResult_FENCE_RESULT_FAILED {
		t.Fatalf("next %v", c)
	}
	d.apply(c)
	if by := d.by(); by == "n2" {
		t.Errorf("by %s", by)
	}
	if op, before := state.FenceOf(d.s, "n5", 5); op.GetNumber() != 3 || before != 2 {
		t.Errorf("attempt %v after %d", op, before)
	}
}
