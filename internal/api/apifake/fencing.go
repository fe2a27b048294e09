package apifake

import (
	"context"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

// TestFence implements api.Backend: all machines are on, except where FenceFaults (by device) says otherwise.
func (n *Node) TestFence(_ context.Context, node *v1.Node, devices []*v1.FenceDevice) (tests []*v1.FenceTest) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i, level := range node.GetFenceLevels() {
		for _, name := range level.GetDevices() {
			t := &v1.FenceTest{Level: uint32(i + 1), Device: name, Power: "on", Fault: n.FenceFaults[name]}
			for _, d := range devices {
				if d.GetName() == name {
					t.Agent = d.GetAgent()
				}
			}
			if t.Fault != "" {
				t.Power = "unknown"
			}
			tests = append(tests, t)
		}
	}
	return tests
}
