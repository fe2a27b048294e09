package planner

import (
	"slices"

	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// resource is a managed resource of a group, as the configuration has it. One
// that is only monitored (monitorOnly), or disabled, is none.
type resource struct {
	name     string
	kind     v1.Operations
	critical bool
	// Its fault reaches what requires it, and the group.
	propagates bool
	// It is brought online with the group.
	starts bool
	// Positions in group.res of what must be online first.
	requires []int
	atLeast  []atLeast
}

// atLeast requires some of several resources.
type atLeast struct {
	of    []int
	count int
}

// counts: the group runs on a node as long as this resource does. Persistent
// resources and those that a group going offline leaves behind do not count.
func (r *resource) counts() bool {
	return r.kind != v1.Operations_OPERATIONS_NONE && r.kind != v1.Operations_OPERATIONS_ON_ONLY
}

func (r *resource) persistent() bool { return r.kind == v1.Operations_OPERATIONS_NONE }

// group is a group during one pass: its configuration as the planner reads it,
// and its instances.
type group struct {
	*pass
	g    *v1.Group
	attr attributes
	st   *statepb.GroupStatus
	// Why the group neither starts nor moves by itself, as it will be; empty: it does.
	off string
	// Enabled resources, in the order of the configuration.
	res []resource
	// Sorted by key: one of a failover group, one per node of a parallel one, one per zone of a hybrid one.
	instances []*work
	// Groups that it depends on, and those that depend on it; depth is 0 without children.
	children, parents []dependency
	depth             int
	// The greatest drag priority of itself and of all that depend on it.
	weight uint32
	// Number within the plan of this group's latest decision.
	decision uint64
}

// work is what is known and decided of one instance of a group during one
// pass. Instances have nothing to do with each other: each has its own nodes,
// is online on one of them at a time (P1, P2), and has its own notebook.
type work struct {
	*group
	// Key of the instance ([state.InstanceAt]).
	instance string
	// The notebook as it will be, and the nodes on which the instance will be faulted, sorted.
	book    *statepb.Instance
	faulted []string
	// Nodes of the instance: those of the system list in its order, then others that know the group, sorted.
	spots []*spot
	// The operation that is being carried out, nil: none.
	op *v1.Operation
	// What the operation waits for.
	awaits string
	// Why nothing is done with it by itself; empty: nothing keeps the planner from it.
	held string
	// The node that others have to leave before the instance comes there, in this pass.
	claims string
	// It may go back to a node that is being evacuated: no other one can take it.
	mayReturn bool
	// It has just left its node, after those that depend on it.
	parted bool
	// What it requires will be brought online with it, so that this does not count yet.
	bringsChildren bool
	// The trigger that it waits for, nil: none; number within the plan of the one that it waits for from now
	// on, 0: none; and whether anything waits for it in this pass.
	run    *statepb.TriggerRun
	newRun uint32
	gated  bool
	// It looks for a node and has found none so far ([work.strand]).
	stranded *stranding
}

// spot is an instance on one node.
type spot struct {
	node   string
	on     *statepb.GroupOnNode // nil: it has no place there
	listed bool
	member bool
	fence  *statepb.Fence
	// Decided in this pass; nil: nothing was.
	order *statepb.Order
	place *statepb.PlaceChange
	facts
}

// facts are positions in group.res, of resources that count unless said otherwise.
type facts struct {
	online  []int
	moving  []int // an entry point is running or awaited
	unknown []int
	stuck   []int // unable to offline
	faulted []int // all but persistent ones
	down    []int // persistent ones
	waiting []int // for an administrator
	aborted []int // going offline stopped half-way
	absent  []int // offline because somebody outside intended it
}

func (p *pass) newGroup(g *v1.Group) *group {
	gr := &group{pass: p, g: g, attr: p.unset.attributes(g), st: p.s.GetGroupStatus()[g.GetName()]}
	gr.off = gr.st.GetSwitchingOff()
	gr.readResources()
	byKey := map[string]*work{}
	add := func(node string, listed bool) {
		key := state.InstanceAt(g, node)
		w := byKey[key]
		if w == nil {
			w = &work{group: gr, instance: key}
			byKey[key] = w
		}
		w.spots = append(w.spots, gr.newSpot(node, listed))
	}
	listed := make(map[string]bool, len(g.GetSystemList()))
	for _, n := range g.GetSystemList() {
		listed[n] = true
		add(n, true)
	}
	var others []string
	for n := range gr.st.GetNodes() {
		if !listed[n] {
			others = append(others, n)
		}
	}
	slices.Sort(others)
	for _, n := range others {
		add(n, false)
	}
	if !gr.several() && len(byKey) == 0 {
		byKey[""] = &work{group: gr}
	}
	for _, key := range state.SortedKeys(byKey) {
		w := byKey[key]
		w.book = proto.CloneOf(state.Book(gr.st, key))
		w.faulted = w.wereFaulted()
		w.run = state.Trigger(p.s, w.book.GetTrigger())
		gr.instances = append(gr.instances, w)
	}
	return gr
}

func (gr *group) readResources() {
	all := gr.g.GetResources()
	index := make(map[string]int, len(all))
	gr.res = make([]resource, 0, len(all))
	for _, r := range all {
		if !state.Enabled(r) || r.GetMonitorOnly() {
			continue
		}
		t := gr.s.GetTypes()[r.GetType()]
		index[r.GetName()] = len(gr.res)
		gr.res = append(gr.res, resource{
			name:       r.GetName(),
			kind:       t.GetOperations(),
			critical:   value(r.Critical, gr.unset.res.Critical),
			propagates: gr.attr.propagates && (t == nil || value(t.FaultPropagation, gr.unset.kind.FaultPropagation)),
			starts:     value(r.AutoStart, gr.unset.res.AutoStart),
		})
	}
	for _, r := range all {
		i, ok := index[r.GetName()]
		if !ok {
			continue
		}
		for _, name := range r.GetRequires() {
			if j, ok := index[name]; ok { // what is not managed cannot be waited for
				gr.res[i].requires = append(gr.res[i].requires, j)
			}
		}
		for _, some := range r.GetRequiresAtLeast() {
			set := atLeast{count: int(some.GetCount())}
			for _, name := range some.GetOf() {
				if j, ok := index[name]; ok {
					set.of = append(set.of, j)
				} else {
					set.count--
				}
			}
			gr.res[i].atLeast = append(gr.res[i].atLeast, set)
		}
	}
	gr.startRequired()
}

// startRequired: what a resource that is brought online with the group requires is brought online, too.
func (gr *group) startRequired() {
	for again := true; again; {
		again = false
		for i := range gr.res {
			if !gr.res[i].starts {
				continue
			}
			for _, j := range gr.res[i].requires {
				if !gr.res[j].starts {
					gr.res[j].starts, again = true, true
				}
			}
		}
	}
}

func (gr *group) newSpot(node string, listed bool) *spot {
	sp := &spot{
		node:   node,
		on:     gr.st.GetNodes()[node],
		listed: listed,
		member: gr.members[node],
		fence:  gr.s.GetNodeStatus()[node].GetFence(),
	}
	if sp.on == nil && sp.fence.GetProven() != statepb.Proof_PROOF_UNSPECIFIED {
		sp.fence = nil // it is about other groups
	}
	if sp.on == nil {
		return sp
	}
	resources := sp.on.GetResources()
	for i := range gr.res {
		sp.note(i, &gr.res[i], resources[gr.res[i].name])
	}
	return sp
}

// several: the group may have more than one instance.
func (gr *group) several() bool { return gr.g.GetParallel() || gr.g.GetHybrid() }

// at returns the instance that runs on a node if any does; nil: none.
func (gr *group) at(node string) *work {
	for _, w := range gr.instances {
		if w.spot(node) != nil {
			return w
		}
	}
	return nil
}

// title names the instance among others of its group: "n1", "zone 2"; empty: it is the only one.
func (w *work) title() string {
	switch {
	case w.g.GetHybrid():
		return "zone " + w.instance
	case w.g.GetParallel():
		return w.instance
	}
	return ""
}

// systemList is the part of the group's system list that belongs to the instance.
func (w *work) systemList() []string { return w.own(w.g.GetSystemList()) }

// autoStartList is the part of the group's AutoStartList that belongs to the instance.
func (w *work) autoStartList() []string { return w.own(w.g.GetAutoStartList()) }

func (w *work) own(nodes []string) []string {
	if !w.several() {
		return nodes
	}
	return slices.DeleteFunc(slices.Clone(nodes), func(n string) bool { return state.InstanceAt(w.g, n) != w.instance })
}

// home is the node on which the instance is ordered online; nil: none. (P1:
// there is one at most, but for a moment after nodes were moved between zones.)
func (w *work) home() (h *spot) {
	for _, sp := range w.spots {
		if sp.want() == wantOnline && (sp.member || sp.fence != nil) && (h == nil || sp.node == w.book.GetActive()) {
			h = sp
		}
	}
	return h
}

func (w *work) spot(node string) *spot {
	for _, sp := range w.spots {
		if sp.node == node {
			return sp
		}
	}
	return nil
}
