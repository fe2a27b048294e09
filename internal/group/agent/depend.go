package agent

import (
	"fmt"
	"slices"
	"strings"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

// What resources of a group mean to each other. A resource requires others
// (needs, all of them), and at least so many of several (quorums).

// quorum is one v1.AtLeast. Members that don't exist count for nothing.
type quorum struct {
	of    []*resource
	count int
}

func (q quorum) String() string { return fmt.Sprintf("at least %d of %s", q.count, names(q.of)) }

// edge leads from what is required to what requires it.
type edge struct {
	r *resource
	// all: it is one of needs; else of quorums only.
	all bool
}

// connect finds the dependencies of the group's resources by their names.
func (g *group) connect() {
	for _, x := range g.resources {
		x.needs, x.quorums, x.above, x.missing = nil, nil, nil, ""
	}
	for _, x := range g.resources {
		requires := slices.Clone(x.config.GetRequires())
		slices.Sort(requires)
		for _, name := range slices.Compact(requires) {
			n := g.byName[name]
			if n == nil || n == x {
				x.missing = name + ", which does not exist"
				continue
			}
			x.needs = append(x.needs, n)
			n.above = append(n.above, edge{x, true})
		}
		for _, a := range x.config.GetRequiresAtLeast() {
			q := quorum{count: int(a.GetCount())}
			for _, name := range a.GetOf() {
				if n := g.byName[name]; n != nil && n != x && !slices.Contains(q.of, n) {
					q.of = append(q.of, n)
					if !slices.ContainsFunc(n.above, func(e edge) bool { return e.r == x }) {
						n.above = append(n.above, edge{x, false})
					}
				}
			}
			if len(q.of) < q.count {
				x.missing = fmt.Sprintf("at least %d of %s, of which %d exist", q.count, strings.Join(a.GetOf(), ", "), len(q.of))
			}
			x.quorums = append(x.quorums, q)
		}
	}
}

// below calls do with everything that x requires.
func (x *resource) below(do func(*resource)) {
	for _, n := range x.needs {
		do(n)
	}
	for _, q := range x.quorums {
		for _, n := range q.of {
			do(n)
		}
	}
}

// lost: what requires it can't stay online with it alone, and why.
func (x *resource) lost() (string, bool) {
	switch {
	case x.managed() && x.phase == steady && x.state == faulted && !x.uncleaned && x.propagates():
		return ", which is faulted", true
	case x.want == v1.Want_WANT_OFFLINE:
		return ", which is to be offline", true
	}
	return "", false
}

// propagates: its fault takes along what requires it.
func (x *resource) propagates() bool {
	g, t := x.g.Config, x.typ
	return (g.FaultPropagation == nil || g.GetFaultPropagation()) && (t == nil || t.FaultPropagation == nil || t.GetFaultPropagation())
}

// refresh works out what is wanted of it. What can't have all that it requires goes offline: a fault takes along
// everything above it.
func (x *resource) refresh() {
	x.want, x.pulledBy = x.orderedWant(), ""
	if x.want != v1.Want_WANT_ONLINE {
		return
	}
	for _, n := range x.needs {
		if why, lost := n.lost(); lost {
			x.pull(n.name + why)
			return
		}
	}
	for _, q := range x.quorums {
		if len(q.of) < q.count {
			continue // it is never started; what runs is left alone
		}
		left := 0
		for _, n := range q.of {
			if _, lost := n.lost(); !lost {
				left++
			}
		}
		if left < q.count {
			x.pull(q.String())
			return
		}
	}
}

// pull: it can't be online without by.
func (x *resource) pull(by string) {
	x.want, x.pulledBy = v1.Want_WANT_OFFLINE, by
	if !x.stoppable() {
		x.want = v1.Want_WANT_NOTHING
	}
}

// supplied: all that it requires is online.
func (x *resource) supplied() bool {
	for _, n := range x.needs {
		if !n.ready() {
			return false
		}
	}
	for _, q := range x.quorums {
		if q.ready() < q.count {
			return false
		}
	}
	return x.missing == ""
}

// ready counts the members that are online to stay.
func (q quorum) ready() int {
	n := 0
	for _, m := range q.of {
		if m.ready() {
			n++
		}
	}
	return n
}

// waitsFor says what keeps a resource that is wanted online from being started; empty: nothing.
func (x *resource) waitsFor(mayAct bool) string {
	if x.missing != "" {
		return "waits for " + x.missing
	}
	for _, n := range x.needs {
		switch {
		case n.ready():
		case !n.enabled:
			return fmt.Sprintf("waits for %s, which is not enabled", n.name)
		case n.adminWait != 0:
			return fmt.Sprintf("waits for %s, which waits for an administrator", n.name)
		case n.config.GetMonitorOnly():
			return fmt.Sprintf("waits for %s, which is only monitored", n.name)
		case n.intentional:
			return fmt.Sprintf("waits for %s, which was taken offline on purpose", n.name)
		case n.want == v1.Want_WANT_NOTHING && n.config.AutoStart != nil && !n.config.GetAutoStart():
			return fmt.Sprintf("waits for %s, which is not brought online with its group", n.name)
		default:
			return fmt.Sprintf("waits for %s", n.name)
		}
	}
	for _, q := range x.quorums {
		if q.ready() < q.count {
			return "waits for " + q.String()
		}
	}
	switch {
	case x.g.unprobed > 0:
		return "waits until all resources of the group have been probed"
	case !mayAct:
		return "waits for this node's lease"
	}
	return ""
}

// leavesAfter names what has to go offline before it; nil: nothing.
func (x *resource) leavesAfter() *resource {
	for _, e := range x.above {
		switch {
		case e.r.quiet():
		case e.all:
			return e.r
		default:
			for _, q := range e.r.quorums {
				if slices.Contains(q.of, x) && q.ready() < q.count {
					return e.r
				}
			}
		}
	}
	return nil
}

// names joins the names of resources, the first few of many.
func names(of []*resource) string {
	const most = 8
	var s []string
	for _, n := range of[:min(len(of), most)] {
		s = append(s, n.name)
	}
	if len(of) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(s, ", "), len(of)-most)
	}
	return strings.Join(s, ", ")
}
