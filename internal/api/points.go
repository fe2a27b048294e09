package api

import (
	"context"
	"fmt"
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

// PointBackend is what a node does about coordination points.
type PointBackend interface {
	// PreparePoint makes a place for this cluster: it registers at the arbiter,
	// with register as the lowest register number that will be used there, or
	// claims a slot on the lock disk. It can be repeated, and undoing it is not needed.
	PreparePoint(ctx context.Context, spec *v1.PointSpec, register uint64) (*v1.CoordinationPoint, error)
	// TryPoint has a node open a point and look at it; an empty name: this one.
	// An error: the node could not be asked, or has not answered.
	TryPoint(ctx context.Context, node string, q *v1.TryPointRequest) (*v1.TryPointResponse, error)
}

// PointStatus is a coordination point as this node sees it.
type PointStatus struct {
	Name string
	// Known: it has answered, or failed to, at least once.
	Known, Reachable bool
	// For is how long it has been so.
	For       time.Duration
	RoundTrip time.Duration
	// Error is why it can't be used, or what went wrong last.
	Error string
	// Abstains: it has forgotten what it promised.
	Abstains bool
	// NotSeen are the members that this node has never seen alive at a lock disk.
	NotSeen []string
}

// pointGrace is how long a point may be away before people are told.
const pointGrace = 10 * time.Second

func (l *look) pointStatus(name string) *PointStatus {
	for i := range l.local.Points {
		if l.local.Points[i].Name == name {
			return &l.local.Points[i]
		}
	}
	return nil
}

// reachable points: those that do what they are asked, as this node sees it.
func (l *look) reachable() (names []string) {
	for _, p := range l.GetWitness().GetPoints() {
		if st := l.pointStatus(p.GetName()); st != nil && st.Reachable && !st.Abstains {
			names = append(names, p.GetName())
		}
	}
	return names
}

// liveMembers of the view: those that this node hears, itself included.
func (l *look) liveMembers() (names []string) {
	for _, m := range l.GetView().GetMembers() {
		p := l.peer(m.GetNode())
		heard := p != nil && !p.GetSuspected() && linkState(p.GetState()) != v1.LinkState_LINK_STATE_DOWN && linkState(p.GetState()) != v1.LinkState_LINK_STATE_CONNECTING
		if m.GetNode() == l.local.Node || l.local.Peers == nil || heard {
			names = append(names, m.GetNode())
		}
	}
	return names
}

// tolerance of the present view, as if all its members were there.
func (l *look) tolerance() tolerance {
	return tolerates(len(l.GetView().GetMembers()), len(l.GetWitness().GetPoints()), len(l.reachable()))
}

// where a point is, for people.
func where(p *v1.CoordinationPoint, node string) string {
	if a := p.GetArbiter(); a != nil {
		return "arbiter " + a.GetAddress()
	}
	d := p.GetLockDisk()
	path := d.GetPath()
	if own := d.GetPaths()[node]; own != "" {
		path = own
	}
	return fmt.Sprintf("disk %s, slot %d", path, d.GetSlot())
}

// awayPoints are those that have not been usable for longer than the grace.
func (l *look) awayPoints() (names []string) {
	for _, p := range l.GetWitness().GetPoints() {
		if st := l.pointStatus(p.GetName()); st != nil && (st.Abstains || st.Known && !st.Reachable && st.For >= pointGrace) {
			names = append(names, p.GetName())
		}
	}
	return names
}

// quorumConditions of this node.
func (l *look) quorumConditions() (out []*v1.Condition) {
	add := func(severity v1.Severity, code, format string, args ...any) {
		out = append(out, &v1.Condition{Code: code, Severity: severity, Node: l.local.Node, Message: fmt.Sprintf(format, args...)})
	}
	const warning = v1.Severity_SEVERITY_WARNING
	points := l.GetWitness().GetPoints()
	if len(points) == 0 {
		if len(l.GetNodes()) == 2 {
			add(v1.Severity_SEVERITY_INFORMATION, "no-coordination-points",
				"two nodes and no coordination point: when one fails, the other stops its groups (holdfast quorum add makes a point)")
		}
		return out
	}
	for _, p := range points {
		st := l.pointStatus(p.GetName())
		switch {
		case st == nil:
		case st.Abstains:
			add(warning, "point-abstains", "coordination point %s has forgotten what it promised and does nothing until it is added anew: holdfast quorum replace %s NAME, with a new token or another disk",
				p.GetName(), p.GetName())
		case st.Known && !st.Reachable && st.For >= pointGrace:
			why := ""
			if st.Error != "" {
				why = ": " + st.Error
			}
			add(warning, "point-unreachable", "coordination point %s (%s) can't be used from %s, for %s now%s", p.GetName(), where(p, l.local.Node), l.local.Node, st.For.Round(time.Second), why)
		case len(st.NotSeen) > 0:
			add(warning, "lockdisk-not-shared", "%s has never seen %s at the lock disk %s: look there whether it is the same disk (holdfast lockdisk show)", l.local.Node, list(st.NotSeen), p.GetName())
		}
	}
	if away := l.awayPoints(); len(points)-len(away) < len(points)/2+1 {
		add(warning, "no-arbitration", "of %s %s can't be used: nothing stops while the nodes see each other, but the next failure of a node, or a split, may stop everything",
			count(len(points), "coordination point"), list(away))
	}
	return out
}

// judgePoints says that less can fail than should.
func (l *look) judgePoints() []finding {
	away := l.awayPoints()
	if len(away) == 0 {
		return nil
	}
	return []finding{{false, fmt.Sprintf("the coordination %s %s can't be used", plural(away, "point", "points"), list(away))}}
}
