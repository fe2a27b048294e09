package planner

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// Forecast says how the nodes of a group's system list compare for it now, by
// the numbers that its failover policy goes by: best first, those that can't
// take it last. Of several instances each has a ranking of its own, one behind
// the other. It returns nil when there is no such group. Source is left to the caller.
func Forecast(s *statepb.State, env Env, group string) *v1.ForecastGroupResponse {
	if gr := look(s, env, group); gr != nil {
		return gr.forecast()
	}
	return nil
}

// Forecasts is Forecast of all groups, in the order of their names.
func Forecasts(s *statepb.State, env Env) (out []*v1.ForecastGroupResponse) {
	for _, gr := range lookAll(s, env).groups {
		out = append(out, gr.forecast())
	}
	slices.SortFunc(out, func(a, b *v1.ForecastGroupResponse) int { return strings.Compare(a.GetGroup(), b.GetGroup()) })
	return out
}

func (gr *group) forecast() *v1.ForecastGroupResponse {
	resp := &v1.ForecastGroupResponse{Group: gr.g.GetName()}
	for _, w := range gr.instances {
		r := w.byFailOver(w.systemList(), "system list")
		resp.Policy = r.policy
		resp.Nodes = append(resp.Nodes, w.ranked(r)...)
	}
	for _, n := range resp.Nodes {
		n.Load = gr.ledger.accounts[n.GetNode()].info(gr.pass)
		if a := gr.ledger.accounts[n.GetNode()]; a != nil {
			n.ActiveGroups = uint32(a.add().active)
		}
	}
	return resp
}

// ranked nodes of an instance.
func (w *work) ranked(r ranking) (out []*v1.RankedNode) {
	h := w.home()
	var not []*v1.RankedNode
	for _, n := range r.nodes {
		sp := w.spot(n.node)
		if sp == nil {
			continue
		}
		position := slices.Index(w.g.GetSystemList(), n.node) + 1
		one := &v1.RankedNode{Node: n.node, Position: uint32(position), Current: sp == h, Score: float64(n.score), Measure: n.measure}
		if one.Measure == "" {
			one.Measure = fmt.Sprintf("place %d of its system list", position)
		}
		if no := w.reject(sp, false); no != nil {
			one.Rejected = no.text()
			not = append(not, one)
			continue
		}
		one.Rank = uint32(len(out) + 1)
		out = append(out, one)
	}
	return slices.Concat(out, not)
}

// Loads says what each node has to give, and what of it is taken, as placement
// sees it: by node, dimensions sorted, limits last.
func Loads(s *statepb.State, env Env) map[string][]*v1.LoadInfo {
	p := lookAll(s, env)
	out := make(map[string][]*v1.LoadInfo, len(p.ledger.accounts))
	for name, a := range p.ledger.accounts {
		out[name] = a.info(p)
	}
	return out
}

func (a *account) info(p *pass) (out []*v1.LoadInfo) {
	if a == nil {
		return nil
	}
	dims := map[string]bool{}
	for dim := range a.node.GetCapacity() {
		dims[dim] = true
	}
	for dim := range a.measured {
		dims[dim] = true
	}
	level := int64(value(a.node.LoadWarningLevel, p.unset.node.LoadWarningLevel))
	for _, dim := range slices.Sorted(maps.Keys(dims)) {
		all, reserved := a.node.GetCapacity()[dim], a.node.GetReservedCapacity()[dim]
		_, measured := a.measured[dim]
		i := &v1.LoadInfo{Dimension: dim, Capacity: all, Reserved: reserved, Used: a.used(dim), Measured: measured}
		if limit, bounded := a.capacity(dim); bounded {
			i.Left = limit - i.Used
			i.High = all > 0 && float64(i.Used)*100 > float64(level)*float64(all)
		}
		out = append(out, i)
	}
	for _, name := range state.SortedKeys(a.node.GetLimits()) {
		all, used := a.node.GetLimits()[name], a.add().prerequisites[name]
		out = append(out, &v1.LoadInfo{Dimension: name, Capacity: all, Used: used, Left: all - used, Limit: true})
	}
	return out
}
