package api

import (
	"cmp"
	"slices"
	"strings"
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// This file gathers what holds groups, resources and nodes: each with why,
// since when, by whom, and the command that ends it.

// clockMs is the reading of the cluster's clock as far as this node knows.
func (l *look) clockMs() int64 { return max(l.local.ClockMs, l.GetClockMs()) }

// until is the time of day at which the cluster's clock will read that; 0 for 0.
func (l *look) until(clockMs int64) int64 {
	if clockMs == 0 {
		return 0
	}
	return l.now.UnixMilli() + clockMs - l.clockMs()
}

// done finds the newest call of a procedure about an object in the log of
// events: who made it, and when.
func (l *look) done(procedure, object string) (by string, ms int64) {
	want := ": " + procedure + " " + object
	for _, e := range slices.Backward(l.GetEvents()) {
		who, called, ok := strings.Cut(e.GetMessage(), " from ")
		if e.GetCode() != "audit.done" || !ok {
			continue
		}
		if i := strings.Index(called, want); i >= 0 {
			if rest := called[i+len(want):]; rest == "" || strings.HasPrefix(rest, ",") {
				return who, e.GetTimeMs()
			}
		}
	}
	return "", 0
}

// told fills in what a stamped text says, else what the log of events knows.
func (l *look) told(h *v1.Hold, text, procedure, object string) *v1.Hold {
	h.Reason, h.By, h.SinceMs = unstamp(text)
	if h.By == "" && procedure != "" {
		h.By, h.SinceMs = l.done(procedure, object)
	}
	return h
}

func temporary(h *v1.Hold, f *statepb.Freeze, until int64) *v1.Hold {
	h.Reason, h.By, h.SinceMs, h.UntilMs = f.GetReason(), f.GetBy(), f.GetSinceMs(), until
	return h
}

// groupHolds are what holds a group as a whole, and each instance of it.
func (l *look) groupHolds(g *v1.Group) (out []*v1.Hold) {
	name := g.GetName()
	gs := l.GetGroupStatus()[name]
	hold := func(kind v1.HoldKind, lift string) *v1.Hold {
		h := &v1.Hold{Kind: kind, Group: name, Lift: lift}
		out = append(out, h)
		return h
	}
	if g.GetFrozen() {
		l.told(hold(v1.HoldKind_HOLD_KIND_FROZEN, "holdfast group unfreeze "+name), g.GetFrozenReason(), "GroupService/Freeze", "group "+name)
	}
	if f := gs.GetFreeze(); f != nil {
		temporary(hold(v1.HoldKind_HOLD_KIND_FROZEN, "holdfast group unfreeze "+name), f, l.until(f.GetUntilClockMs()))
	}
	if why, on := state.Switches(gs); !on {
		l.told(hold(v1.HoldKind_HOLD_KIND_SWITCHING_OFF, "holdfast group switching on "+name), why, "GroupService/SetSwitching", "group "+name)
	}
	if n := gs.GetMaintenance(); n != "" {
		h := hold(v1.HoldKind_HOLD_KIND_MAINTENANCE, "holdfast group maintenance off "+name)
		h.Node = n
		h.By, h.SinceMs = l.done("GroupService/SetMaintenance", "group "+name)
	}
	for _, key := range l.instanceKeys(g) {
		b := state.Book(gs, key)
		at := l.instanceFlag(g, key)
		switch {
		case b.GetHeldOffline():
			h := hold(v1.HoldKind_HOLD_KIND_HELD_OFFLINE, "holdfast group online "+name+at)
			h.Node = nodeOf(g, key)
			h.By, h.SinceMs = l.done("GroupService/Offline", "group "+name)
		case b.GetWaitsForNode() != "":
			h := hold(v1.HoldKind_HOLD_KIND_WAITS_FOR_NODE, "holdfast group online "+name+at)
			h.Node, h.Reason = nodeOf(g, key), b.GetWaitsForNode()+" has not returned"
		}
	}
	return out
}

// holdsOn are what holds a group on one node, its resources there included.
func (l *look) holdsOn(g *v1.Group, node string) (out []*v1.Hold) {
	name := g.GetName()
	on := l.GetGroupStatus()[name].GetNodes()[node]
	hold := func(kind v1.HoldKind, resource, lift string) *v1.Hold {
		h := &v1.Hold{Kind: kind, Group: name, Node: node, Resource: resource, Lift: lift}
		out = append(out, h)
		return h
	}
	at := " --node " + node
	if text := cmp.Or(on.GetDisabled(), l.GetGroupStatus()[name].GetDisabled()[node]); text != "" || slices.Contains(g.GetDisabledNodes(), node) {
		if text == "" {
			text = "the configuration says so (disabledNodes)"
		}
		l.told(hold(v1.HoldKind_HOLD_KIND_DISABLED, "", "holdfast group enable "+name+at), text, "GroupService/Disable", "group "+name)
	}
	if why := on.GetAutoDisabled(); why != "" {
		hold(v1.HoldKind_HOLD_KIND_AUTO_DISABLED, "", "holdfast group autoenable "+name+at).Reason = why
	}
	if on.GetDetached() {
		hold(v1.HoldKind_HOLD_KIND_DETACHED, "", "start the node again: systemctl start holdfast on "+node).Reason = detachedText(node)
	}
	if on.GetFaulted() {
		h := hold(v1.HoldKind_HOLD_KIND_FAULTED, "", "holdfast group clear "+name+at)
		for _, r := range g.GetResources() {
			if st := on.GetResources()[r.GetName()]; st.GetState() == v1.ResourceState_RESOURCE_STATE_FAULTED {
				h.Resource, h.Reason, h.SinceMs = r.GetName(), strings.TrimSpace(r.GetName()+" "+problemOf(st)), st.GetChangedMs()
				break
			}
		}
	}
	if on.GetFlushed() && on.GetWant() == v1.Want_WANT_NOTHING {
		h := hold(v1.HoldKind_HOLD_KIND_FLUSHED, "", "holdfast group online "+name+at)
		h.By, h.SinceMs = l.done("GroupService/Flush", "group "+name)
	}
	for _, r := range g.GetResources() {
		l.resourceHolds(r, on, node, hold)
	}
	return out
}

func (l *look) resourceHolds(r *v1.Resource, on *statepb.GroupOnNode, node string, hold func(v1.HoldKind, string, string) *v1.Hold) {
	name := r.GetName()
	at := " --node " + node
	st := on.GetResources()[name]
	if w := st.GetAdminWait(); w != 0 {
		h := hold(v1.HoldKind_HOLD_KIND_ADMIN_WAIT, name, "holdfast resource clear-admin-wait "+name+at)
		h.Reason, h.SinceMs = name+" "+adminWait(w), st.GetChangedMs()
	}
	if st.GetUnableToOffline() {
		h := hold(v1.HoldKind_HOLD_KIND_UNABLE_TO_OFFLINE, name, "make sure that nothing of it runs on "+node+", then: holdfast resource clear "+name+at)
		h.Reason, h.SinceMs = strings.TrimSpace(name+" "+problemOf(st)), st.GetChangedMs()
	}
	if on.GetWant() == v1.Want_WANT_ONLINE && slices.Contains(on.GetHeldResources(), name) {
		h := hold(v1.HoldKind_HOLD_KIND_RESOURCE_OFFLINE, name, "holdfast resource online "+name+at)
		h.By, h.SinceMs = l.done("ResourceService/Offline", "resource "+name)
		if h.By == "" {
			h.Reason = "it was taken offline alone, or faulted without taking its group along"
		}
	}
}

// adminWait says in words what a resource waits for a person with.
func adminWait(w v1.AdminWait) string {
	return map[v1.AdminWait]string{
		v1.AdminWait_ADMIN_WAIT_OFFLINE_HUNG:        "did not go offline in its time",
		v1.AdminWait_ADMIN_WAIT_OFFLINE_INEFFECTIVE: "is still online after it was taken offline",
		v1.AdminWait_ADMIN_WAIT_ONLINE_HUNG:         "did not come online in its time",
		v1.AdminWait_ADMIN_WAIT_ONLINE_INEFFECTIVE:  "is not online after it was brought online",
		v1.AdminWait_ADMIN_WAIT_UNEXPECTED_OFFLINE:  "went offline by itself",
		v1.AdminWait_ADMIN_WAIT_MONITOR_HUNG:        "does not answer its monitor",
	}[w]
}

// nodeHolds are what holds a node.
func (l *look) nodeHolds(n *v1.Node) (out []*v1.Hold) {
	name := n.GetName()
	switch l.GetNodeStatus()[name].GetPhase() {
	case statepb.NodePhase_NODE_PHASE_DOWN:
		h := &v1.Hold{Kind: v1.HoldKind_HOLD_KIND_STOPPED, Node: name, Lift: "start it again: systemctl start holdfast on " + name}
		if e := l.lastOf(name, "node.left", "node.removed"); e != nil {
			h.Reason, h.SinceMs = e.GetMessage(), e.GetTimeMs()
			if by, ms := l.done("NodeService/Stop", "node "+name); ms <= h.SinceMs {
				h.By = by
			}
		} else if l.GetStandings()[name] == nil {
			h.Reason, h.Lift = "it has not joined yet", "holdfast node token "+name
		}
		out = append(out, h)
	case statepb.NodePhase_NODE_PHASE_FAULTED:
		h := &v1.Hold{Kind: v1.HoldKind_HOLD_KIND_EVICTED, Node: name, Lift: "mend it and start it again: systemctl start holdfast on " + name}
		if e := l.lastOf(name, "node.evicted"); e != nil {
			h.Reason, h.SinceMs = e.GetMessage(), e.GetTimeMs()
		}
		out = append(out, h)
	}
	lift := "holdfast node unfreeze " + name
	if n.GetFrozen() {
		out = append(out, l.told(&v1.Hold{Kind: v1.HoldKind_HOLD_KIND_FROZEN, Node: name, Lift: lift}, n.GetFrozenReason(), "NodeService/Freeze", "node "+name))
	}
	if f := l.GetNodeStatus()[name].GetFreeze(); f != nil {
		out = append(out, temporary(&v1.Hold{Kind: v1.HoldKind_HOLD_KIND_FROZEN, Node: name, Lift: lift}, f, l.until(f.GetUntilClockMs())))
	}
	return out
}

// lastOf is the newest event about a node with one of these codes; nil: none is kept.
func (l *look) lastOf(node string, codes ...string) *v1.Event {
	for _, e := range slices.Backward(l.GetEvents()) {
		if e.GetNode() == node && slices.Contains(codes, e.GetCode()) {
			return e
		}
	}
	return nil
}

// holdText says a hold in words: "frozen since … by root: kernel patch".
func holdText(h *v1.Hold) string {
	text := map[v1.HoldKind]string{
		v1.HoldKind_HOLD_KIND_FROZEN: "frozen", v1.HoldKind_HOLD_KIND_HELD_OFFLINE: "taken offline by an administrator",
		v1.HoldKind_HOLD_KIND_DISABLED: "disabled", v1.HoldKind_HOLD_KIND_AUTO_DISABLED: "disabled by the cluster",
		v1.HoldKind_HOLD_KIND_SWITCHING_OFF: "switching off", v1.HoldKind_HOLD_KIND_MAINTENANCE: "in maintenance",
		v1.HoldKind_HOLD_KIND_ADMIN_WAIT: "waiting for an administrator", v1.HoldKind_HOLD_KIND_DETACHED: "detached",
		v1.HoldKind_HOLD_KIND_FAULTED: "faulted", v1.HoldKind_HOLD_KIND_UNABLE_TO_OFFLINE: "unable to offline",
		v1.HoldKind_HOLD_KIND_WAITS_FOR_NODE: "waiting for its node", v1.HoldKind_HOLD_KIND_RESOURCE_OFFLINE: "left offline",
		v1.HoldKind_HOLD_KIND_FLUSHED: "flushed",
	}[h.GetKind()]
	if h.GetNode() != "" && h.GetGroup() != "" {
		text += " on " + h.GetNode()
	}
	if h.GetSinceMs() != 0 {
		text += " since " + time.UnixMilli(h.GetSinceMs()).UTC().Format("2006-01-02 15:04:05 UTC")
	}
	if h.GetBy() != "" {
		text += " by " + h.GetBy()
	}
	if h.GetReason() != "" {
		text += ": " + h.GetReason()
	}
	return text
}
