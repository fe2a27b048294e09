package cli

import (
	"fmt"
	"strings"
	"testing"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/api"
	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// A node is lost, its device fails, an administrator goes and looks.
func TestFencing(t *testing.T) {
	s := newSite(t)
	var b strings.Builder
	do := func(args ...string) {
		t.Helper()
		fmt.Fprintf(&b, "$ holdfast %s\n%s\n", strings.Join(args, " "), s.run(t, args...))
	}
	apply := func(st *statepb.State, c *statepb.Command) {
		t.Helper()
		c.Format, c.TimeMs = state.Format, s.Now
		if r := state.Apply(st, c).Refused; r != nil {
			t.Fatal(r)
		}
	}
	do("fence", "list")
	do("fence", "history")
	do("fence", "test", "n2")
	s.Change(func(st *statepb.State, l *api.Local) {
		st.Groups["db"].Takeover = v1.Takeover_TAKEOVER_POWER
		l.FenceFaults = []string{"fence device pdu: agent fence_apc is not on this node"}
	})
	do("status")
	s.Change(func(st *statepb.State, l *api.Local) {
		st.Cluster.FenceDevices = []*v1.FenceDevice{{Name: "pdu", Agent: "fence_apc", Plugs: map[string]string{"n2": "7"}}, {Name: "bmc", Agent: "fence_ipmilan", Plugs: map[string]string{"n2": ""}}}
		st.Nodes["n2"].FenceLevels = []*v1.FenceLevel{{Devices: []string{"bmc"}}, {Devices: []string{"pdu", "bmc"}}}
	})
	s.FenceFaults = map[string]string{"bmc": "agent fence_ipmilan, action status: status 1: Unable to connect"}
	do("fence", "list")
	do("fence", "test", "n2")
	do("fence", "test", "n9")
	do("node", "confirm-down", "n2", "--yes") // a member
	s.Change(func(st *statepb.State, l *api.Local) {
		for _, p := range l.Peers.GetPeers() {
			if p.GetNode() == "n2" {
				p.State = guardpb.LinkState_LINK_STATE_UP
			}
		}
		v := st.View
		for i, m := range v.Members {
			if m.Node == "n2" {
				st.NodeStatus["n2"].Fence = &statepb.Fence{RaftId: m.RaftId, Epoch: v.Epoch + 1, Proven: statepb.Proof_PROOF_TIME}
				v.Members = append(v.Members[:i:i], v.Members[i+1:]...)
				break
			}
		}
		v.Epoch++
		st.NodeStatus["n2"].Phase = statepb.NodePhase_NODE_PHASE_FAULTED
		id := st.NodeStatus["n2"].Fence.RaftId
		apply(st, &statepb.Command{Change: &statepb.Command_FenceStarted{FenceStarted: &statepb.FenceStarted{Node: "n2", RaftId: id, By: "n1", ByRaftId: 1}}})
		apply(st, &statepb.Command{Change: &statepb.Command_FenceDone{FenceDone: &statepb.FenceDone{Number: 1, Result: v1.FenceResult_FENCE_RESULT_LIED,
			Message: "level 1: device bmc: try 1: status 1: Unable to connect; level 2: device pdu has switched it off, and sees it off, but the node is alive: its heartbeats still arrive at n1"}}})
		apply(st, &statepb.Command{Change: &statepb.Command_FenceStarted{FenceStarted: &statepb.FenceStarted{Node: "n2", RaftId: id, By: "n1", ByRaftId: 1}}})
	})
	do("fence", "list")
	do("fence", "history", "n2")
	do("status")
	do("explain", "group", "db")
	do("node", "confirm-down", "n2")
	do("node", "confirm-down", "n2", "--yes") // it is heard
	s.Change(func(_ *statepb.State, l *api.Local) {
		for _, p := range l.Peers.GetPeers() {
			p.State = guardpb.LinkState_LINK_STATE_DOWN
		}
	})
	do("node", "confirm-down", "n2", "--yes")
	do("node", "confirm-down", "n2", "--yes")
	do("fence", "history", "-o", "yaml")
	golden(t, "fencing", b.String())
}
