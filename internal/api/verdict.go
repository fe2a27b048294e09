package api

import (
	"fmt"
	"slices"
	"strings"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
)

// This file says in words how the cluster is, and what the next failure would do.

// finding is one thing that is not as it should be.
type finding struct {
	failed bool
	text   string
}

// judge returns the verdict over what a status shows.
func (l *look) judge(st *v1.StatusResponse) (v1.Health, string) {
	found := slices.Concat(l.judgeNodes(st.GetNodes()), l.judgeGroups(st.GetGroups()), judgeLinks(st.GetNodes()), l.judgePoints())
	if !l.quorum() {
		text := "no quorum: " + l.local.Node + " runs nothing and changes nothing"
		if l.local.Lease.Reason != "" {
			text += " (" + l.local.Lease.Reason + ")"
		}
		if l.local.Lease.Held {
			text = "no leader: nothing can be changed at the moment"
		}
		found = append([]finding{{!l.local.Lease.Held, text}}, found...)
	}
	failed := slices.ContainsFunc(found, func(f finding) bool { return f.failed })
	// What has failed comes first.
	slices.SortStableFunc(found, func(a, b finding) int {
		switch {
		case a.failed == b.failed:
			return 0
		case a.failed:
			return -1
		}
		return 1
	})
	outlook := l.outlook(st.GetNodes())
	switch {
	case failed && !l.quorum():
		return v1.Health_HEALTH_FAILED, "failed: " + enumerate(found)
	case failed:
		return v1.Health_HEALTH_FAILED, "failed: " + enumerate(found) + "; " + outlook
	case len(found) > 0:
		return v1.Health_HEALTH_DEGRADED, "degraded: " + enumerate(found) + "; " + outlook
	default:
		return v1.Health_HEALTH_HEALTHY, fmt.Sprintf("healthy: %s; %s", l.allWell(st), outlook)
	}
}

func enumerate(found []finding) string {
	const most = 3
	var parts []string
	for _, f := range found[:min(most, len(found))] {
		parts = append(parts, f.text)
	}
	if n := len(found) - most; n > 0 {
		parts = append(parts, fmt.Sprintf("%d more", n))
	}
	return strings.Join(parts, "; ")
}

func (l *look) allWell(st *v1.StatusResponse) string {
	up := 0
	for _, g := range st.GetGroups() {
		if g.GetState() == v1.GroupState_GROUP_STATE_ONLINE {
			up++
		}
	}
	text := fmt.Sprintf("all %s up", count(len(st.GetNodes()), "node"))
	if n := len(st.GetGroups()); n > 0 {
		text += fmt.Sprintf(", %d of %s online", up, count(n, "group"))
		if up < n {
			text += " (the others are not meant to be)"
		}
	}
	return text
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func (l *look) judgeNodes(nodes []*v1.NodeInfo) (found []finding) {
	for _, n := range nodes {
		text := ""
		switch {
		case n.GetWaitingForProof() != "":
			text = "node " + n.GetName() + " has failed, and it is not proven yet that it has stopped"
		case n.GetPhase() == v1.NodePhase_NODE_PHASE_FAULTED:
			text = "node " + n.GetName() + " has failed"
		case n.GetPhase() == v1.NodePhase_NODE_PHASE_DOWN:
			text = "node " + n.GetName() + " is stopped"
		case n.GetPhase() == v1.NodePhase_NODE_PHASE_JOINING:
			text = "node " + n.GetName() + " is joining"
		case n.GetPhase() == v1.NodePhase_NODE_PHASE_LEAVING:
			text = "node " + n.GetName() + " is leaving"
		case n.GetSuspected():
			text = "node " + n.GetName() + " is silent"
		case n.GetEngineDown():
			text = "the engine of node " + n.GetName() + " is down"
		}
		if text != "" {
			found = append(found, finding{false, text})
		}
	}
	return found
}

func (l *look) judgeGroups(groups []*v1.GroupInfo) (found []finding) {
	for _, g := range groups {
		for _, i := range g.GetInstances() {
			if f := l.judgeInstance(g, i); f.text != "" {
				found = append(found, f)
			}
		}
	}
	return found
}

// judgeInstance of a group; without a text all is as it should be.
func (l *look) judgeInstance(g *v1.GroupInfo, i *v1.InstanceInfo) finding {
	b := state.Book(l.GetGroupStatus()[g.GetName()], i.GetInstance())
	name, why := label(g, i), ""
	if i.GetMessage() != "" {
		why = ": " + i.GetMessage()
	}
	switch s := i.GetState(); {
	case l.detachedOn(g, i) != "":
		return finding{false, fmt.Sprintf("%s goes on, detached, on %s", name, l.detachedOn(g, i))}
	case s == v1.GroupState_GROUP_STATE_UNKNOWN && l.unknownOn(g, i) != "":
		return finding{b.GetIntentOnline(), fmt.Sprintf("nobody can tell whether %s runs on %s%s", name, l.unknownOn(g, i), why)}
	case s == v1.GroupState_GROUP_STATE_ONLINE, i.GetHeldOffline() && s == v1.GroupState_GROUP_STATE_OFFLINE:
		if i.GetMessage() != "" {
			return finding{false, name + why}
		}
	case s == v1.GroupState_GROUP_STATE_PARTIAL && l.held(g.GetName(), i.GetNode()) != "":
		return finding{false, fmt.Sprintf("%s is partial on %s%s", name, i.GetNode(), why)}
	case !active(s) && (i.GetHeldOffline() || b.GetWaitsForNode() != ""):
		// As an administrator wanted it, whatever went wrong before.
		if i.GetHeldOffline() {
			return finding{false, name + ", which an administrator took offline, is " + word(s) + why}
		}
		return finding{false, name + " is offline" + why}
	case s == v1.GroupState_GROUP_STATE_STARTING, s == v1.GroupState_GROUP_STATE_STOPPING:
		return finding{false, fmt.Sprintf("%s is %s on %s%s", name, word(s), i.GetNode(), why)}
	case g.GetKind() == v1.GroupKind_GROUP_KIND_PARALLEL && !active(s) && !l.anyMember(i.GetNodes()):
		// The node is lost, and that is told of the node.
	case s == v1.GroupState_GROUP_STATE_FAULTED, s == v1.GroupState_GROUP_STATE_PARTIAL, b.GetNoTarget(), b.GetIntentOnline():
		where := ""
		if i.GetNode() != "" {
			where = " on " + i.GetNode()
		}
		return finding{true, fmt.Sprintf("%s is %s%s%s", name, word(s), where, why)}
	}
	return finding{}
}

// unknownOn is the node of which nobody can tell whether an instance runs there; "": none.
func (l *look) unknownOn(g *v1.GroupInfo, i *v1.InstanceInfo) string {
	for _, n := range i.GetNodes() {
		if l.GetGroupStatus()[g.GetName()].GetNodes()[n].GetAutoDisabled() != "" {
			return n
		}
	}
	return ""
}

// detachedOn is the node on which an instance goes on without the cluster; "": none.
func (l *look) detachedOn(g *v1.GroupInfo, i *v1.InstanceInfo) string {
	for _, n := range i.GetNodes() {
		if l.GetGroupStatus()[g.GetName()].GetNodes()[n].GetDetached() {
			return n
		}
	}
	return ""
}

func word(s v1.GroupState) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "GROUP_STATE_"))
}

// judgeLinks lists links that are not up, of nodes that are members.
func judgeLinks(nodes []*v1.NodeInfo) (found []finding) {
	for _, n := range nodes {
		if n.GetSelf() || n.GetPhase() != v1.NodePhase_NODE_PHASE_RUNNING {
			continue
		}
		for i, s := range n.GetLinkStates() {
			if s == v1.LinkState_LINK_STATE_DOWN || s == v1.LinkState_LINK_STATE_TROUBLE {
				how := map[v1.LinkState]string{v1.LinkState_LINK_STATE_DOWN: "down", v1.LinkState_LINK_STATE_TROUBLE: "in trouble"}[s]
				found = append(found, finding{false, fmt.Sprintf("link %s to %s is %s", n.GetLinks()[i].GetName(), n.GetName(), how)})
			}
		}
	}
	return found
}

// upLinks of a peer, and how many links it has.
func upLinks(n *v1.NodeInfo) (up, all int) {
	for _, s := range n.GetLinkStates() {
		if s == v1.LinkState_LINK_STATE_UP || s == v1.LinkState_LINK_STATE_TROUBLE {
			up++
		}
	}
	return up, len(n.GetLinkStates())
}

// outlook says what the next failure would do.
func (l *look) outlook(nodes []*v1.NodeInfo) string {
	var last []string
	for _, n := range nodes {
		if up, all := upLinks(n); !n.GetSelf() && n.GetPhase() == v1.NodePhase_NODE_PHASE_RUNNING && up == 1 && all > 1 {
			last = append(last, n.GetName())
		}
	}
	members := len(l.GetView().GetMembers())
	switch {
	case len(last) > 0:
		return "the next link failure would lose " + strings.Join(last, ", ")
	case members == 1:
		return "this one node is all there is"
	case l.tolerance().atOnce == 0:
		return "the next node failure stops all groups: the other one can't tell who is left"
	case members == 2:
		return "either node may fail"
	case l.tolerance().atOnce == 1:
		return "any one node may fail"
	default:
		return fmt.Sprintf("any %d nodes may fail at once", l.tolerance().atOnce)
	}
}

func nextFailure(n *v1.NodeInfo) string {
	up, all := upLinks(n)
	switch {
	case n.GetPhase() != v1.NodePhase_NODE_PHASE_RUNNING && up == 0:
		return "it is not in the cluster, and not heard"
	case up == 0:
		return "it is not heard over any link"
	case up == 1 && all == 1:
		return "it has one link only: when that fails, the node is lost"
	case up == 1:
		return "jeopardy: when its last link fails, the node is lost"
	case up == 2:
		return "when one link fails it stays, in jeopardy"
	default:
		return fmt.Sprintf("when one link fails it stays, over %d others", up-1)
	}
}

// holdConditions are those of what holds groups that would be forgotten if
// nobody was told of them again and again; and what is said of them.
var holdConditions = map[v1.HoldKind]struct{ code, format string }{
	v1.HoldKind_HOLD_KIND_FROZEN:        {"group-frozen", "nothing is done about group %s: it is %s"},
	v1.HoldKind_HOLD_KIND_SWITCHING_OFF: {"switching-off", "group %s neither starts nor moves by itself: %s"},
	v1.HoldKind_HOLD_KIND_MAINTENANCE:   {"maintenance", "faults of group %s are ignored: it is %s"},
	v1.HoldKind_HOLD_KIND_AUTO_DISABLED: {"auto-disabled", "group %s is started nowhere: it is %s"},
	v1.HoldKind_HOLD_KIND_ADMIN_WAIT:    {"admin-wait", "group %s needs a person: it is %s"},
	v1.HoldKind_HOLD_KIND_DETACHED:      {"detached", "group %s is not looked after: it is %s"},
}

// conditions of this node and of what it sees.
func (l *look) conditions(nodes []*v1.NodeInfo, groups []*v1.GroupInfo) (out []*v1.Condition) {
	for _, c := range l.local.Conditions {
		sev := v1.Severity_SEVERITY_INFORMATION
		if c.Warning {
			sev = v1.Severity_SEVERITY_WARNING
		}
		out = append(out, &v1.Condition{Code: c.Code, Severity: sev, Node: l.local.Node, Message: c.Message})
	}
	warn := func(code, node, format string, args ...any) {
		out = append(out, &v1.Condition{Code: code, Severity: v1.Severity_SEVERITY_WARNING, Node: node, Message: fmt.Sprintf(format, args...)})
	}
	if l.local.Peers == nil {
		warn("no-guard", l.local.Node, "guard is not connected: nothing is known of the links")
	}
	for _, n := range nodes {
		switch {
		case n.GetLinkState() == v1.LinkState_LINK_STATE_JEOPARDY:
			warn("jeopardy", n.GetName(), "%s is reachable over its last link only", n.GetName())
		case n.GetWaitingForProof() != "":
			warn("unproven", n.GetName(), "%s", n.GetWaitingForProof())
		}
		if n.GetSilence() {
			warn("silence", n.GetName(), "%s has announced a silence: nobody evicts it meanwhile", n.GetName())
		}
		if n.GetEngineDown() {
			warn("engine-down", n.GetName(), "the engine of %s is down: its services go on, for a while", n.GetName())
		}
		if n.GetReset_() != "" {
			warn("node-reset", n.GetName(), "%s is to be reset: %s", n.GetName(), n.GetReset_())
		}
		for _, h := range n.GetHolds() {
			if h.GetKind() != v1.HoldKind_HOLD_KIND_FROZEN {
				continue // told of the node itself
			}
			warn("node-frozen", n.GetName(), "no group comes to %s: it is %s (%s)", n.GetName(), holdText(h), h.GetLift())
		}
		for _, i := range n.GetLoad() {
			if i.GetHigh() {
				warn("load", n.GetName(), "%s of %s: %d of %d is in use", i.GetDimension(), n.GetName(), i.GetUsed(), i.GetCapacity())
			}
		}
	}
	for _, g := range groups {
		for _, h := range g.GetHolds() {
			if h.GetKind() == v1.HoldKind_HOLD_KIND_AUTO_DISABLED && len(g.GetActiveOn()) > 0 {
				continue // it runs where it is known to
			}
			if c := holdConditions[h.GetKind()]; c.code != "" {
				warn(c.code, h.GetNode(), c.format+" (%s)", g.GetName(), holdText(h), h.GetLift())
			}
		}
	}
	out = append(out, l.quorumConditions()...)
	out = append(out, l.fenceConditions()...)
	if l.local.Peers != nil && !l.local.Peers.GetSeeded() {
		warn("not-seeded", l.local.Node, "groups are not started before %d nodes have been seen together", l.seedNodes())
	}
	return out
}
