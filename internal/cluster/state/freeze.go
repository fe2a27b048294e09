package state

import (
	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	pb "github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// A freeze that is part of the configuration lasts until it is taken back; a
// temporary one until then, its expiry (which the planner sees), or the end of the cluster's last node.

func (a *applier) setFrozen(c *pb.SetFrozen) *Refused {
	if t := c.GetTemporary(); t != nil {
		switch until := t.GetUntilClockMs(); {
		case !c.GetFrozen():
			return refuse(CodeInvalid, "only a freeze can be temporary")
		case until != 0 && until <= a.s.GetClockMs():
			return refuse(CodeInvalid, "the freeze would have ended already: give it a longer time")
		}
	}
	switch {
	case c.GetGroup() != "" && c.GetNode() == "":
		return a.freezeGroup(c)
	case c.GetNode() != "" && c.GetGroup() == "":
		return a.freezeNode(c)
	}
	return refuse(CodeInvalid, "name a group or a node")
}

func (a *applier) freezeGroup(c *pb.SetFrozen) *Refused {
	g := a.s.Groups[c.GetGroup()]
	if g == nil {
		return noGroup(c.GetGroup())
	}
	if c.GetEvacuate() {
		return refuse(CodeInvalid, "a node can be evacuated, a group is switched: holdfast group switch %s", c.GetGroup())
	}
	gs := a.s.GroupStatus[c.GetGroup()]
	if a.freeze(c, &g.Frozen, &g.FrozenReason, &gs.Freeze) {
		code, verb := frozen(c, "group.frozen", "group.unfrozen")
		a.event(&v1.Event{Severity: v1.Severity_SEVERITY_INFORMATION, Code: code, Group: c.GetGroup(), Message: "group " + c.GetGroup() + " was " + verb})
	}
	return nil
}

func (a *applier) freezeNode(c *pb.SetFrozen) *Refused {
	n, st := a.s.Nodes[c.GetNode()], a.s.NodeStatus[c.GetNode()]
	switch {
	case n == nil:
		return noNode(c.GetNode())
	case c.GetEvacuate() && !c.GetFrozen():
		return refuse(CodeInvalid, "a node is evacuated when it is frozen, not when it is unfrozen")
	}
	if c.GetEvacuate() {
		if err := a.mayEvacuate(c.GetNode()); err != nil {
			return err
		}
	}
	if a.freeze(c, &n.Frozen, &n.FrozenReason, &st.Freeze) {
		code, verb := frozen(c, "node.frozen", "node.unfrozen")
		a.nodeEvent(v1.Severity_SEVERITY_INFORMATION, code, c.GetNode(), "node %s was %s", c.GetNode(), verb)
	}
	if c.GetEvacuate() {
		a.begin(&v1.Operation{Kind: v1.OperationKind_OPERATION_KIND_NODE_EVACUATE, Node: c.GetNode()})
	}
	return nil
}

func frozen(c *pb.SetFrozen, did, undid string) (code, verb string) {
	switch {
	case !c.GetFrozen():
		return undid, "unfrozen"
	case c.GetTemporary() != nil:
		return did, "frozen temporarily" + because(c.GetTemporary().GetReason())
	}
	return did, "frozen" + because(c.GetReason())
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return ": " + reason
}

// freeze or unfreeze an object of which these are the fields, and say whether that changed anything.
func (a *applier) freeze(c *pb.SetFrozen, lasting *bool, reason *string, temporary **pb.Freeze) bool {
	switch {
	case c.GetTemporary() != nil:
		*temporary = proto.CloneOf(c.GetTemporary())
		(*temporary).SinceMs = a.c.GetTimeMs()
		a.planChanged()
	case *lasting != c.GetFrozen() || c.GetFrozen() && *reason != c.GetReason():
		*lasting, *reason = c.GetFrozen(), c.GetReason()
		a.configChanged()
	case *temporary == nil || c.GetFrozen():
		return false
	}
	if !c.GetFrozen() {
		*reason, *temporary = "", nil
		a.planChanged()
	}
	return true
}

// thaw the temporary freeze of a group that has expired.
func (a *applier) thaw(group string) {
	gs := a.s.GroupStatus[group]
	if gs.Freeze == nil {
		return
	}
	gs.Freeze = nil
	a.event(&v1.Event{Severity: v1.Severity_SEVERITY_INFORMATION, Code: "group.unfrozen", Group: group, Message: "the temporary freeze of group " + group + " has ended"})
}

func (a *applier) thawNode(node string) {
	st := a.s.NodeStatus[node]
	if st.Freeze == nil {
		return
	}
	st.Freeze = nil
	a.nodeEvent(v1.Severity_SEVERITY_INFORMATION, "node.unfrozen", node, "the temporary freeze of node %s has ended", node)
}

func noGroup(name string) *Refused {
	return refuse(CodeNotFound, "there is no group %s: holdfast group list shows all", name)
}

func noNode(name string) *Refused {
	return refuse(CodeNotFound, "there is no node %s: holdfast node list shows all", name)
}
