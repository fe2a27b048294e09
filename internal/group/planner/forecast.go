package planner

import (
	"fmt"
	"slices"
	"strings"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// Forecast says how the nodes of a group's system list compare for it now: best
// first, those that can't take it last. It returns nil when there is no such
// group. Source is left to the caller.
func Forecast(s *statepb.State, env Env, group string) *v1.ForecastGroupResponse {
	why := Explain(s, env, group)
	if why == nil {
		return nil
	}
	resp := &v1.ForecastGroupResponse{Group: group, Policy: "the order of its system list"}
	var not []*v1.RankedNode
	for i, node := range s.GetGroups()[group].GetSystemList() {
		n := &v1.RankedNode{Node: node, Position: uint32(i + 1), Current: true, Measure: fmt.Sprintf("place %d of its system list", i+1)}
		for _, r := range why.GetNotThere() {
			if r.GetNode() == node {
				n.Current = false
				if !strings.HasPrefix(r.GetReason(), node+" could run "+group) {
					n.Rejected = r.GetReason()
				}
			}
		}
		if n.Rejected != "" {
			not = append(not, n)
			continue
		}
		n.Rank = uint32(len(resp.Nodes) + 1)
		resp.Nodes = append(resp.Nodes, n)
	}
	resp.Nodes = slices.Concat(resp.Nodes, not)
	return resp
}
