package planner

import (
	"fmt"
	"slices"
	"strings"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// Dependencies between groups. A group (the parent) depends on another (its
// child): where the child must be online for it, or must not be, and what
// becomes of it when that changes. All kinds are made of four rules:
//
//   - a parent is ordered online only where its dependencies hold ([work.unmet]);
//   - what a child takes from its parents on its way offline leaves first: the child
//     parts, that is, it keeps running until they are gone ([work.part]);
//   - a parent that no longer holds leaves, and is started again where it holds ([work.deserted]);
//   - a child follows a parent that may drag it ([work.dragged]).
//
// Groups are decided about in the order of their depth: children first, so that
// their parents see what has just been decided of them.

// dependency of a group on a child.
type dependency struct {
	*v1.GroupDependency
	parent, child *group
	// The child depends on the parent in the same way: they exclude each other.
	mutual bool
}

func (d dependency) offline() bool {
	return d.GetCategory() == v1.GroupDependency_OFFLINE
}

func (d dependency) local() bool {
	return d.GetLocation() == v1.GroupDependency_LOCATION_UNSPECIFIED || d.GetLocation() == v1.GroupDependency_LOCAL
}

func (d dependency) soft() bool { return d.GetRigidity() == v1.GroupDependency_SOFT }

// drags: the child is moved for the parent's sake (spec: hard dependencies of
// Cluster Server, dragging by priority of Serviceguard).
func (d dependency) drags() bool {
	if d.offline() || !d.local() || d.parent.several() || d.child.several() {
		return false
	}
	return d.GetRigidity() == v1.GroupDependency_HARD ||
		d.parent.g.GetDragPriority() > d.child.g.GetDragPriority()
}

// leads: the order of the parent's system list counts for both, and not the child's.
func (d dependency) leads() bool {
	return d.drags() && d.parent.g.GetDragPriority() > d.child.g.GetDragPriority()
}

// deepest is how deep a tree of groups may be; deeper ones, which no valid
// configuration has, are not looked into further.
const deepest = 8

// link finds the dependencies of all groups, and what follows from them for the
// order of the pass.
func (p *pass) link() {
	byName := map[string]*group{}
	for _, gr := range p.groups {
		byName[gr.g.GetName()] = gr
	}
	for _, gr := range p.groups {
		for _, d := range gr.g.GetDependsOn() {
			child := byName[d.GetGroup()]
			if child == nil || child == gr {
				continue
			}
			dep := dependency{d, gr, child, mutual(gr, child)}
			if dep.mutual && dep.offline() && gr.g.GetDragPriority() > child.g.GetDragPriority() {
				continue // of two that exclude each other the more important one does not give way
			}
			gr.children = append(gr.children, dep)
			child.parents = append(child.parents, dep)
		}
	}
	for range deepest {
		for _, gr := range p.groups {
			for _, d := range gr.children {
				if d.equals() {
					continue
				}
				gr.depth = max(gr.depth, min(d.child.depth+1, deepest))
			}
		}
	}
	for _, gr := range p.groups {
		gr.weight = gr.g.GetDragPriority()
	}
	for range deepest {
		for _, gr := range p.groups {
			for _, d := range gr.children {
				if d.offline() {
					continue
				}
				d.child.weight = max(d.child.weight, gr.weight)
			}
		}
	}
}

// mutual: the groups exclude each other (Serviceguard's exclusion, SG-111).
func mutual(a, b *group) bool {
	excludes := func(one, other *group) bool {
		return slices.ContainsFunc(one.g.GetDependsOn(), func(d *v1.GroupDependency) bool {
			return d.GetGroup() == other.g.GetName() && d.GetCategory() == v1.GroupDependency_OFFLINE
		})
	}
	return excludes(a, b) && excludes(b, a)
}

// equals: they exclude each other and neither is more important: whoever is there stays.
func (d dependency) equals() bool {
	return d.offline() && d.mutual && d.parent.g.GetDragPriority() == d.child.g.GetDragPriority()
}

// matches says whether a child that is on node is where the dependency wants it for a parent on at.
func (d dependency) matches(node, at string) bool {
	switch d.GetLocation() {
	case v1.GroupDependency_GLOBAL:
		return true
	case v1.GroupDependency_REMOTE:
		return node != at
	case v1.GroupDependency_SITE:
		site := d.parent.s.GetNodes()[at].GetSite()
		return site != "" && d.parent.s.GetNodes()[node].GetSite() == site
	}
	return node == at
}

// stays: the instance is ordered online on a member, and not on its way from there.
func (w *work) stays(h *spot) bool {
	return h != nil && h.member && h.fence == nil && w.book.GetParting() == ""
}

// held: a child is online, or about to be, where the parent needs it on node.
// ready: it must be completely online. without, if not nil, does not count.
func (d dependency) held(node string, ready bool, without *work) bool {
	for _, c := range d.child.instances {
		h := c.home()
		if c == without || !c.stays(h) || ready && !c.book.GetOnline() {
			continue
		}
		if d.matches(h.node, node) {
			return true
		}
	}
	return false
}

// inTheWay is a node on which the child of an offline dependency is or is about
// to be, and where or because of which the parent may not be on node; empty: none.
func (d dependency) inTheWay(node string) string {
	for _, c := range d.child.instances {
		if c.claims != "" && d.matches(c.claims, node) {
			return c.claims
		}
		for _, sp := range c.spots {
			if sp.member && (sp.want() == wantOnline || sp.runs()) && d.matches(sp.node, node) {
				return sp.node
			}
		}
	}
	return ""
}

// unmet says which dependency keeps the group from being ordered online on a node; empty: none.
func (w *work) unmet(sp *spot) string { return or(w.givesWay(sp), w.childless(sp)) }

// givesWay says which child of an offline dependency keeps the group from a node; empty: none.
func (w *work) givesWay(sp *spot) string {
	for _, d := range w.children {
		if !d.offline() {
			continue
		}
		if at := d.inTheWay(sp.node); at != "" {
			return fmt.Sprintf("%s gives way to %s, which is on %s", w.g.GetName(), d.child.g.GetName(), at)
		}
	}
	return ""
}

// childless says which child is not online where a node needs it; empty: all are.
func (w *work) childless(sp *spot) string {
	g := w.g.GetName()
	for _, d := range w.children {
		c := d.child.g.GetName()
		if d.offline() || d.held(sp.node, true, nil) {
			continue
		}
		switch d.GetLocation() {
		case v1.GroupDependency_GLOBAL:
			return fmt.Sprintf("%s requires %s, which is online nowhere", g, c)
		case v1.GroupDependency_REMOTE:
			return fmt.Sprintf("%s requires %s on another node than %s", g, c, sp.node)
		case v1.GroupDependency_SITE:
			return fmt.Sprintf("%s requires %s, which is not online in the site of %s", g, c, sp.node)
		}
		return fmt.Sprintf("%s requires %s, which is not online on %s", g, c, sp.node)
	}
	return ""
}

// awaitsChildren says what the group waits for when its dependencies hold on
// none of the nodes; empty: they do on one at least.
func (w *work) awaitsChildren(r ranking) string {
	first := ""
	for _, n := range r.nodes {
		sp := w.spot(n.node)
		if sp == nil {
			continue
		}
		why := w.unmet(sp)
		if why == "" {
			return ""
		}
		if first == "" {
			first = why
		}
	}
	if first == "" || w.op.GetPropagate() {
		return first
	}
	for _, d := range w.children {
		if !d.offline() && !slices.ContainsFunc(d.child.instances, func(c *work) bool { return c.home() != nil || c.book.GetIntentOnline() }) {
			c := d.child.g.GetName()
			return fmt.Sprintf("%s requires %s, which is offline", w.g.GetName(), c)
		}
	}
	return first
}

// givenUp says which child, which an operation brings online with this group,
// is not going to be; empty: there is hope.
func (w *work) givenUp(sp *spot) string {
	for _, d := range w.children {
		if d.offline() || d.held(sp.node, true, nil) {
			continue
		}
		c := d.child
		coming := func(i *work) bool {
			if i.home() == nil {
				return i.book.GetIntentOnline() && !i.book.GetNoTarget()
			}
			return !i.book.GetOnline()
		}
		if !slices.ContainsFunc(c.instances, coming) {
			return w.childless(sp)
		}
	}
	return ""
}

// bringThem says what to do about children that are not where they are needed.
func (w *work) bringThem() string {
	if w.requirements() == "" {
		return ""
	}
	return fmt.Sprintf(": bring %s online there first, or add --propagate", w.requirements())
}

// relied says which group has to leave before this instance may go offline on
// a node; empty: none. Soft parents only if they are leaving anyway; frozen ones are left alone.
func (w *work) relied(sp *spot) string {
	for _, d := range w.parents {
		if d.offline() || d.parent.frozen() != "" {
			continue
		}
		for _, p := range d.parent.instances {
			for _, at := range p.spots {
				// What runs somewhere without an order (flushed, started by hand) may stay there for ever.
				up := at == p.home() || at.want() == wantOffline && (at.runs() || !at.confirmed())
				if !at.member || !up || !d.matches(sp.node, at.node) || d.held(at.node, false, w) {
					continue
				}
				if len(at.stuck) > 0 {
					return p.stuckSentence(at)
				}
				if !d.soft() || at.want() == wantOffline || p.book.GetParting() != "" {
					return fmt.Sprintf("%s, which requires %s, goes offline on %s first", d.parent.g.GetName(), w.g.GetName(), at.node)
				}
			}
		}
	}
	return ""
}

// part lets the instance keep running where it is until those who depend on it
// there have left. It returns false if nobody does: then it may go at once.
func (w *work) part(sp *spot, reasons []string) bool {
	b := w.book
	if sp.want() != wantOnline || sp != w.home() {
		return false
	}
	if b.GetParting() != "" {
		return true
	}
	b.Parting, b.PartingMs = reasons[0], w.nowMs
	first := w.relied(sp)
	if first == "" {
		b.Parting, b.PartingMs = "", 0
		return false
	}
	b.Online, b.Waiting = false, first
	w.decided("offline "+w.g.GetName()+" on "+sp.node+" after those that require it", sp.node, nil, append(slices.Clone(reasons), first)...)
	return true
}

// parts goes on with what part has begun, and says whether there is nothing else to do.
func (w *work) parts(h *spot) bool {
	b := w.book
	if b.GetParting() == "" {
		return false
	}
	first := w.relied(h)
	if limit := w.g.GetSuccessorHaltTimeout(); first != "" && limit != nil && w.due(b.GetPartingMs()+limit.AsDuration().Milliseconds()) {
		first = ""
	}
	if first != "" {
		b.Waiting = first
		return true
	}
	why := b.GetParting()
	b.Parting, b.PartingMs, b.Waiting = "", 0, ""
	w.parted = true
	w.goOff(h, why)
	if h.node == b.Active && w.runningOperation().GetKind() != opSwitch { // which remembers by it where it comes from
		b.Active = ""
	}
	return true
}

// runningOperation is what the notebook says is being carried out, also before
// this pass has taken it up.
func (w *work) runningOperation() *v1.Operation {
	if w.book.GetOperation() == 0 {
		return nil
	}
	for _, op := range w.ops[w.g.GetName()] {
		if op.GetId() == w.book.GetOperation() {
			return op
		}
	}
	return nil
}

// deserted says why the group may not stay on h by its dependencies; empty: it may.
func (w *work) deserted(h *spot) string {
	g := w.g.GetName()
	for _, d := range w.children {
		c := d.child.g.GetName()
		switch {
		case d.equals() && g < c: // the other one goes
		case d.offline():
			if at := d.inTheWay(h.node); at != "" {
				return fmt.Sprintf("%s gives way to %s on %s", g, c, at)
			}
		case d.held(h.node, false, nil):
		case !d.soft():
			return d.lostSentence(h.node)
		case d.local() || d.GetLocation() == v1.GroupDependency_REMOTE:
			if to := w.follows(d, h); to != nil {
				return fmt.Sprintf("%s, which %s requires, is online on %s by now", c, g, d.at())
			}
		}
	}
	return ""
}

// lostSentence says how a parent on node has lost its child.
func (d dependency) lostSentence(node string) string {
	c := d.child.g.GetName()
	for _, w := range d.child.instances {
		if p := w.book.GetParting(); p != "" && w.home() != nil && d.matches(w.home().node, node) {
			return fmt.Sprintf("%s requires %s, which goes offline: %s", d.parent.g.GetName(), c, p)
		}
	}
	if d.GetLocation() == v1.GroupDependency_REMOTE && d.at() != "" {
		return fmt.Sprintf("%s requires %s on another node, and it is on %s", d.parent.g.GetName(), c, d.at())
	}
	return fmt.Sprintf("%s requires %s, which is not online there any more", d.parent.g.GetName(), c)
}

// at is a node on which the child stays; empty: none.
func (d dependency) at() string {
	for _, w := range d.child.instances {
		if h := w.home(); w.stays(h) {
			return h.node
		}
	}
	return ""
}

// follows returns where a parent of a soft dependency may follow its child to, once that is online; nil: nowhere.
func (w *work) follows(d dependency, h *spot) *spot {
	for _, sp := range w.spots {
		if sp != h && d.held(sp.node, true, nil) && w.reject(sp, false) == nil {
			return sp
		}
	}
	return nil
}

// dragged says why the instance leaves h for a parent that may drag it and cannot
// run there, but could elsewhere together with it; empty: it stays. What an
// administrator does by hand drags nobody.
func (w *work) dragged(h *spot) string {
	if !w.failsOver() || w.book.GetOperation() != 0 {
		return ""
	}
	for _, d := range w.parents {
		if !d.drags() || d.parent.frozen() != "" || len(d.parent.instances) == 0 {
			continue
		}
		p := d.parent.instances[0]
		if !p.book.GetIntentOnline() || p.home() != nil || p.book.GetOperation() != 0 {
			continue
		}
		at := p.spot(h.node)
		why := ""
		if at != nil {
			why = p.unfit(at, false).sentence()
		} else {
			why = p.notListed(h.node)
		}
		if why == "" {
			continue
		}
		for _, sp := range w.spots {
			if sp == h || p.spot(sp.node) == nil {
				continue
			}
			if w.unfit(sp, false) == nil && w.unmet(sp) == "" && p.unfit(p.spot(sp.node), false) == nil {
				return fmt.Sprintf("%s, which requires it, can run on %s and not on %s: %s", d.parent.g.GetName(), sp.node, h.node, why)
			}
		}
	}
	return ""
}

// together puts nodes first on which the parents that may drag this group can
// run, too; where such a parent leads, in the order of its system list.
func (w *work) together(r ranking) ranking {
	if i := slices.IndexFunc(r.nodes, func(n ranked) bool { return n.node == w.asked() }); i >= 0 {
		r.nodes = []ranked{r.nodes[i]}
		return r
	}
	for _, d := range w.parents {
		if !d.drags() || len(d.parent.instances) == 0 || !d.parent.instances[0].book.GetIntentOnline() {
			continue
		}
		p := d.parent.instances[0]
		fits := func(node string) bool {
			sp := p.spot(node)
			return sp != nil && p.unfit(sp, false) == nil
		}
		if d.leads() {
			list := p.systemList()
			slices.SortStableFunc(r.nodes, func(a, b ranked) int { return rankIn(list, a.node) - rankIn(list, b.node) })
		}
		fit := slices.DeleteFunc(slices.Clone(r.nodes), func(n ranked) bool { return !fits(n.node) })
		rest := slices.DeleteFunc(slices.Clone(r.nodes), func(n ranked) bool { return fits(n.node) })
		r.nodes = append(fit, rest...)
	}
	return r
}

func rankIn(list []string, node string) int {
	if i := slices.Index(list, node); i >= 0 {
		return i
	}
	return len(list)
}

// asked is the node to which an administrator brings a parent with all that it
// requires there; empty: none.
func (w *work) asked() string {
	for _, d := range w.parents {
		if d.offline() || !d.local() {
			continue
		}
		for _, p := range d.parent.instances {
			op := p.runningOperation()
			if op.GetPropagate() && op.GetNode() != "" && (op.GetKind() == opOnline || op.GetKind() == opSwitch) {
				return op.GetNode()
			}
			if at := p.asked(); at != "" {
				return at
			}
		}
	}
	return ""
}

// evicting says which parents have to leave before the group may come to a
// node: those that give way to it, and those that must not be where it is.
func (w *work) evicting(to *spot) string {
	for _, d := range w.parents {
		remote := d.GetLocation() == v1.GroupDependency_REMOTE && !d.offline() && !d.soft()
		if !d.offline() && !remote || d.parent.frozen() != "" || d.equals() {
			continue
		}
		for _, p := range d.parent.instances {
			for _, sp := range p.spots {
				if !sp.member || sp.want() != wantOnline && !sp.runs() {
					continue
				}
				if d.offline() && d.matches(to.node, sp.node) || remote && sp.node == to.node {
					w.claims = to.node
					return fmt.Sprintf("%s leaves %s first", d.parent.g.GetName(), sp.node)
				}
			}
		}
	}
	return ""
}

// refuseForDependents says why an operation would break what others rely on;
// empty: it does not, or takes care of them.
func (w *work) refuseForDependents(op *v1.Operation) string {
	h := w.home()
	if h == nil || op.GetPropagate() || op.GetForce() {
		return ""
	}
	for _, d := range w.parents {
		if d.offline() || d.soft() && !(op.GetKind() == opSwitch && d.local()) {
			continue
		}
		for _, p := range d.parent.instances {
			ph := p.home()
			if ph == nil || !d.matches(h.node, ph.node) || d.held(ph.node, false, w) {
				continue
			}
			return fmt.Sprintf("%s requires it and is online on %s: take %s offline first, or add --propagate", d.parent.g.GetName(), ph.node, d.parent.g.GetName())
		}
	}
	return ""
}

// propagate carries an operation to the groups that are concerned with this
// one: children are brought up, parents are taken down.
func (w *work) propagate(depth int) {
	op := w.op
	if !op.GetPropagate() || depth > deepest {
		return
	}
	switch op.GetKind() {
	case opOnline:
		w.wantChildren(fmt.Sprintf("an administrator brought %s online with all that it requires", w.g.GetName()), depth)
	case opSwitch:
		w.moveChildren(fmt.Sprintf("an administrator switched %s to %s with all that it requires", w.g.GetName(), op.GetNode()), op.GetNode(), depth)
	case opOffline:
		w.dropParents(fmt.Sprintf("an administrator took %s offline with all that requires it", w.g.GetName()), depth)
	}
}

func (w *work) wantChildren(why string, depth int) {
	for _, d := range w.children {
		if d.offline() || depth > deepest {
			continue
		}
		for _, c := range d.child.instances {
			if c.home() == nil && !c.book.GetIntentOnline() {
				b := c.book
				b.IntentOnline, b.HeldOffline, b.Tried, b.WaitsForNode, b.Cause = true, false, nil, "", why
			}
			c.wantChildren(why, depth+1)
		}
	}
}

func (w *work) moveChildren(why, to string, depth int) {
	for _, d := range w.children {
		if d.offline() || !d.local() || depth > deepest {
			continue
		}
		for _, c := range d.child.instances {
			if h := c.home(); h != nil && h.node != to && !d.child.several() {
				c.book.Cause = why
				c.takeOff(h, why)
			}
			c.moveChildren(why, to, depth+1)
		}
	}
}

func (w *work) dropParents(why string, depth int) {
	for _, d := range w.parents {
		if d.offline() || depth > deepest {
			continue
		}
		for _, p := range d.parent.instances {
			h := p.home()
			p.dropParents(why, depth+1)
			if h == nil && !p.book.GetIntentOnline() {
				continue
			}
			p.unwant(why)
			if h != nil && h.member && h.fence == nil {
				p.takeOff(h, why)
			}
		}
	}
}

// clearParents takes faults off parents when the group has come online
// (OnlineClearParent): they may be tried again.
func (w *work) clearParents() {
	if !w.g.GetOnlineClearParent() {
		return
	}
	for _, d := range w.parents {
		if !slices.ContainsFunc(d.parent.instances, func(p *work) bool { return len(p.faulted) > 0 }) {
			continue
		}
		for _, p := range d.parent.instances {
			p.book.Tried = nil
		}
		w.plan.Clears = append(w.plan.Clears, &statepb.Clear{Group: d.parent.g.GetName()})
	}
}

// requirements names the groups that this one depends on, for people.
func (gr *group) requirements() string {
	var names []string
	for _, d := range gr.children {
		if !d.offline() {
			names = append(names, d.child.g.GetName())
		}
	}
	return strings.Join(names, ", ")
}
