package api

import (
	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/group/planner"
)

// loadOf a node: its capacities and limits, and what is left of them, as the
// planner adds them up.
func (l *look) loadOf(n *v1.Node) []*v1.LoadInfo {
	if l.loads == nil {
		l.loads = planner.Loads(l.State, planner.Env{ClockMs: l.clockMs()})
	}
	return l.loads[n.GetName()]
}
