package api

import (
	"maps"
	"slices"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
)

// defaultWarningLevel is Node.load_warning_level where it is unset, in percent.
const defaultWarningLevel = 80

// loadOf a node: its capacities and limits, and what is left of them.
func (l *look) loadOf(n *v1.Node) (out []*v1.LoadInfo) {
	measured := l.GetNodeStatus()[n.GetName()].GetDynamicLoad()
	used, taken := l.declaredOn(n.GetName())
	dims := maps.Clone(n.GetCapacity())
	if dims == nil {
		dims = map[string]int64{}
	}
	for dim := range measured {
		dims[dim] += 0
	}
	level := int64(defaultWarningLevel)
	if n.LoadWarningLevel != nil {
		level = int64(n.GetLoadWarningLevel())
	}
	for _, dim := range slices.Sorted(maps.Keys(dims)) {
		i := &v1.LoadInfo{Dimension: dim, Capacity: n.GetCapacity()[dim], Reserved: n.GetReservedCapacity()[dim], Used: used[dim]}
		if v, ok := measured[dim]; ok {
			i.Used, i.Measured = v, true
		}
		if i.Capacity > 0 {
			i.Left = i.Capacity - i.Reserved - i.Used
			i.High = i.Used*100 > i.Capacity*level
		}
		out = append(out, i)
	}
	for _, name := range slices.Sorted(maps.Keys(n.GetLimits())) {
		i := &v1.LoadInfo{Dimension: name, Capacity: n.GetLimits()[name], Used: taken[name], Limit: true}
		i.Left = i.Capacity - i.Used
		out = append(out, i)
	}
	return out
}

// declaredOn sums up what groups on a node, or on their way there, declare of
// capacities and of limits.
func (l *look) declaredOn(node string) (load, limits map[string]int64) {
	load, limits = map[string]int64{}, map[string]int64{}
	for _, name := range state.SortedKeys(l.GetGroups()) {
		g := l.GetGroups()[name]
		if len(g.GetLoad())+len(g.GetPrerequisites()) == 0 {
			continue
		}
		on := l.GetGroupStatus()[name].GetNodes()[node]
		if on.GetWant() != v1.Want_WANT_ONLINE && (on == nil || !active(l.stateOn(g, node))) {
			continue
		}
		for dim, v := range g.GetLoad() {
			load[dim] += v
		}
		for dim, v := range g.GetPrerequisites() {
			limits[dim] += v
		}
	}
	return load, limits
}
