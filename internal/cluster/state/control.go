package state

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	pb "github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// What administrators say of groups beside orders: where they may run, whether
// they start and move by themselves, maintenance, and the end of a wait for an administrator.

// byConfiguration is why a group is disabled on a node that its configuration names.
const byConfiguration = "the configuration says so (disabledNodes)"

// maxReason bounds why somebody says that something is so, in bytes.
const maxReason = 1 << 10

func (a *applier) enable(c *pb.Enable) *Refused {
	g, gs := a.s.Groups[c.GetGroup()], a.s.GroupStatus[c.GetGroup()]
	if g == nil {
		return noGroup(c.GetGroup())
	}
	nodes := g.GetSystemList()
	if n := c.GetNode(); n != "" {
		if !slices.Contains(nodes, n) && gs.Nodes[n] == nil {
			return refuse(CodeNotFound, "node %s is not on the system list of group %s", n, c.GetGroup())
		}
		nodes = []string{n}
	}
	switch {
	case c.GetAutoEnable() && c.GetDisabled() != "":
		return refuse(CodeInvalid, "a group is either enabled or disabled")
	case len(c.GetDisabled()) > maxReason:
		return refuse(CodeInvalid, "a reason has at most %d bytes", maxReason)
	case c.GetAutoEnable():
		return a.autoEnable(c, nodes)
	}
	changed := false
	for _, n := range nodes {
		changed = a.setDisabled(c.GetGroup(), n, c.GetDisabled()) || changed
	}
	if !changed {
		return nil
	}
	if c.GetDisabled() == "" {
		kept := slices.DeleteFunc(slices.Clone(g.GetDisabledNodes()), func(n string) bool { return slices.Contains(nodes, n) })
		if len(kept) != len(g.GetDisabledNodes()) {
			g.DisabledNodes = kept
			a.configChanged()
		}
		a.groupEvent(v1.Severity_SEVERITY_INFORMATION, "group.enabled", c.GetGroup(), c.GetNode(), "group %s may run on %s again", c.GetGroup(), strings.Join(nodes, ", "))
	} else {
		a.groupEvent(v1.Severity_SEVERITY_WARNING, "group.disabled", c.GetGroup(), c.GetNode(), "group %s may not run on %s: %s", c.GetGroup(), strings.Join(nodes, ", "), c.GetDisabled())
	}
	a.planChanged()
	return nil
}

// setDisabled of a group on a node, and say whether that changed anything; an empty reason enables it.
func (a *applier) setDisabled(group, node, why string) bool {
	g, gs := a.s.Groups[group], a.s.GroupStatus[group]
	was, known := gs.Disabled[node]
	if why == "" {
		delete(gs.Disabled, node)
		return known || slices.Contains(g.GetDisabledNodes(), node)
	}
	if gs.Disabled == nil {
		gs.Disabled = map[string]string{}
	}
	gs.Disabled[node] = why
	return was != why
}

// autoEnable takes an administrator's word that a group does not run on nodes of which nobody knows it.
func (a *applier) autoEnable(c *pb.Enable, nodes []string) *Refused {
	gs := a.s.GroupStatus[c.GetGroup()]
	var done []string
	for _, n := range nodes {
		on := gs.Nodes[n]
		switch {
		case on == nil:
			continue
		case on.GetDetached() && MemberOf(a.s, n) == nil:
			if a.s.Learners[n] != nil {
				return refuse(CodeConflict, "node %s is just coming back: wait until it has looked what runs there", n)
			}
			delete(gs.Nodes, n)
		case on.GetAutoDisabled() != "":
			on.AutoDisabled, on.Vouched = "", true
		default:
			continue
		}
		done = append(done, n)
	}
	if len(done) == 0 {
		return refuse(CodeConflict, "of group %s it is known where it runs: there is nothing to be auto-enabled", c.GetGroup())
	}
	a.planChanged()
	a.groupEvent(v1.Severity_SEVERITY_WARNING, "group.autoenabled", c.GetGroup(), c.GetNode(), "an administrator said that group %s does not run on %s", c.GetGroup(), strings.Join(done, ", "))
	return nil
}

func (a *applier) groupEvent(sev v1.Severity, code, group, node, format string, args ...any) {
	a.event(&v1.Event{Severity: sev, Code: code, Group: group, Node: node, Message: fmt.Sprintf(format, args...)})
}

func (a *applier) setSwitching(c *pb.SetSwitching) *Refused {
	gs := a.s.GroupStatus[c.GetGroup()]
	switch {
	case gs == nil:
		return noGroup(c.GetGroup())
	case len(c.GetOff()) > maxReason:
		return refuse(CodeInvalid, "a reason has at most %d bytes", maxReason)
	case c.GetOff() == "" && gs.GetMaintenance() != "":
		return refuse(CodeConflict, "group %s is in maintenance on %s: end that first with holdfast group maintenance off %s", c.GetGroup(), gs.GetMaintenance(), c.GetGroup())
	case gs.GetSwitchingOff() == c.GetOff():
		return nil
	}
	gs.SwitchingOff = c.GetOff()
	a.planChanged()
	if c.GetOff() == "" {
		a.groupEvent(v1.Severity_SEVERITY_INFORMATION, "group.switching-on", c.GetGroup(), "", "group %s starts and moves by itself again", c.GetGroup())
	} else {
		a.groupEvent(v1.Severity_SEVERITY_WARNING, "group.switching-off", c.GetGroup(), "", "group %s does not start or move by itself: %s", c.GetGroup(), c.GetOff())
	}
	return nil
}

// initialSwitching of a group that is first configured, or of a package when the cluster starts.
func initialSwitching(g *v1.Group) string {
	if p := g.GetPackage(); p != nil && p.AutoRun != nil && !p.GetAutoRun() {
		return "auto_run is no"
	}
	return ""
}

func (a *applier) setMaintenance(c *pb.SetMaintenance) *Refused {
	g, gs := a.s.Groups[c.GetGroup()], a.s.GroupStatus[c.GetGroup()]
	if g == nil {
		return noGroup(c.GetGroup())
	}
	if c.GetNode() == "" {
		if gs.GetMaintenance() == "" {
			return refuse(CodeConflict, "group %s is not in maintenance", c.GetGroup())
		}
		if why := a.unhealthy(g, gs.Nodes[gs.GetMaintenance()]); why != "" {
			return refuse(CodeConflict, "%s on %s: bring all of group %s online there, or all of it offline, before its maintenance ends", why, gs.GetMaintenance(), c.GetGroup())
		}
		a.endMaintenance(c.GetGroup(), "an administrator ended it")
		return nil
	}
	if err := a.mayMaintain(g, gs, c.GetNode()); err != nil {
		return err
	}
	gs.Maintenance = c.GetNode()
	a.planChanged()
	a.groupEvent(v1.Severity_SEVERITY_WARNING, "group.maintenance", c.GetGroup(), c.GetNode(), "group %s is in maintenance on %s: its faults there are ignored, and nothing is done with it by itself", c.GetGroup(), c.GetNode())
	return nil
}

func (a *applier) mayMaintain(g *v1.Group, gs *pb.GroupStatus, node string) *Refused {
	switch {
	case gs.GetMaintenance() != "":
		return refuse(CodeConflict, "group %s is in maintenance on %s already", g.GetName(), gs.GetMaintenance())
	case a.s.Nodes[node] == nil:
		return noNode(node)
	case !slices.Contains(g.GetSystemList(), node):
		return refuse(CodeConflict, "node %s is not on the system list of group %s", node, g.GetName())
	case MemberOf(a.s, node) == nil || a.s.NodeStatus[node].GetPhase() != pb.NodePhase_NODE_PHASE_RUNNING:
		return refuse(CodeConflict, "node %s is not an active member of the cluster: start it first", node)
	case gs.GetSwitchingOff() == "":
		return refuse(CodeConflict, "group %s still starts and moves by itself: holdfast group switching off %s comes first", g.GetName(), g.GetName())
	}
	for _, name := range SortedKeys(a.s.Groups) {
		parent := a.s.Groups[name]
		if !dependsOn(parent, g.GetName()) {
			continue
		}
		if active(a.s.GroupStatus[name]) {
			return refuse(CodeConflict, "group %s depends on %s and is not offline: holdfast group offline %s comes first", name, g.GetName(), name)
		}
		if _, on := Switches(a.s.GroupStatus[name]); on {
			return refuse(CodeConflict, "group %s depends on %s and still starts and moves by itself: holdfast group switching off %s comes first", name, g.GetName(), name)
		}
	}
	return nil
}

// dependsOn: parent needs child to be online.
func dependsOn(parent *v1.Group, child string) bool {
	return slices.ContainsFunc(parent.GetDependsOn(), func(d *v1.GroupDependency) bool {
		return d.GetGroup() == child && d.GetCategory() != v1.GroupDependency_OFFLINE
	})
}

// unhealthy says what of a group is neither as when it is online nor as when it is offline; empty: nothing is.
func (a *applier) unhealthy(g *v1.Group, on *pb.GroupOnNode) string {
	if on == nil {
		return ""
	}
	var up, down string
	for _, r := range g.GetResources() {
		kind := a.s.Types[r.GetType()].GetOperations()
		if !Enabled(r) || kind != v1.Operations_OPERATIONS_ON_OFF && kind != v1.Operations_OPERATIONS_UNSPECIFIED {
			continue
		}
		st := on.GetResources()[r.GetName()]
		switch {
		case st.GetUnableToOffline():
			return r.GetName() + " can't be taken offline"
		case !quiet(st):
			return r.GetName() + " is on its way"
		case st.GetState() == v1.ResourceState_RESOURCE_STATE_ONLINE:
			up = r.GetName()
		case st.GetState() == v1.ResourceState_RESOURCE_STATE_OFFLINE:
			down = r.GetName()
		case st.GetState() == v1.ResourceState_RESOURCE_STATE_FAULTED:
			return r.GetName() + " is faulted"
		default:
			return "the state of " + r.GetName() + " is not known"
		}
	}
	if up != "" && down != "" {
		return up + " is online and " + down + " is offline"
	}
	return ""
}

func quiet(st *v1.ResourceStatus) bool {
	return st.GetActivity() == v1.ResourceActivity_RESOURCE_ACTIVITY_NONE || st.GetActivity() == v1.ResourceActivity_RESOURCE_ACTIVITY_UNSPECIFIED
}

func (a *applier) endMaintenance(group, why string) {
	gs := a.s.GroupStatus[group]
	node := gs.GetMaintenance()
	gs.Maintenance = ""
	a.planChanged()
	a.groupEvent(v1.Severity_SEVERITY_INFORMATION, "group.maintained", group, node, "the maintenance of group %s on %s is over: %s", group, node, why)
}

// endMaintenances on a node that is not what it was.
func (a *applier) endMaintenances(node, why string) {
	for _, name := range SortedKeys(a.s.GroupStatus) {
		if a.s.GroupStatus[name].GetMaintenance() == node {
			a.endMaintenance(name, why)
		}
	}
}

// maintained: a group in maintenance is not reconfigured, and gets no new dependents.
func (a *applier) maintained(groups map[string]*v1.Group) *Refused {
	for _, name := range SortedKeys(a.s.GroupStatus) {
		node := a.s.GroupStatus[name].GetMaintenance()
		if node == "" {
			continue
		}
		if !sameGroup(a.s.Groups[name], groups[name]) {
			return refuse(CodeConflict, "group %s is in maintenance on %s and can't be changed: end that first with holdfast group maintenance off %s", name, node, name)
		}
		for _, other := range SortedKeys(groups) {
			if dependsOn(groups[other], name) && !dependsOn(a.s.Groups[other], name) {
				return refuse(CodeConflict, "group %s can't depend on %s while that is in maintenance on %s: end that first with holdfast group maintenance off %s", other, name, node, name)
			}
		}
	}
	return nil
}

func (a *applier) clearAdminWait(c *pb.ClearAdminWait) *Refused {
	places, err := a.places(c.GetGroup(), c.GetResource(), c.GetNode())
	if err != nil {
		return err
	}
	waited := false
	for _, on := range places {
		for name, st := range on.Resources { // in any order: one has nothing to do with another
			if w := st.GetAdminWait(); w != v1.AdminWait_ADMIN_WAIT_UNSPECIFIED && (c.GetResource() == "" || c.GetResource() == name) {
				waited = true
				a.endAdminWait(st, c.GetFault())
			}
		}
	}
	if !waited {
		return refuse(CodeConflict, "nothing of group %s waits for an administrator there: holdfast group show %s", c.GetGroup(), c.GetGroup())
	}
	a.planChanged()
	a.event(&v1.Event{Severity: v1.Severity_SEVERITY_INFORMATION, Code: "group.admin-wait-cleared", Group: c.GetGroup(), Resource: c.GetResource(), Node: c.GetNode(),
		Message: "an administrator ended what group " + c.GetGroup() + " was waiting for"})
	return nil
}

func (a *applier) endAdminWait(st *v1.ResourceStatus, fault bool) {
	why := st.GetAdminWait()
	st.AdminWait = v1.AdminWait_ADMIN_WAIT_UNSPECIFIED
	switch {
	case !fault: // it is monitored again, and that is reported
	case why == v1.AdminWait_ADMIN_WAIT_OFFLINE_HUNG || why == v1.AdminWait_ADMIN_WAIT_OFFLINE_INEFFECTIVE:
		st.UnableToOffline = true
	default:
		st.State, st.ChangedMs = v1.ResourceState_RESOURCE_STATE_FAULTED, a.c.GetTimeMs()
	}
}

// sameGroup but for what is switched by commands of its own.
func sameGroup(x, y *v1.Group) bool {
	x, y = proto.CloneOf(x), proto.CloneOf(y)
	for _, g := range []*v1.Group{x, y} {
		if g != nil {
			g.Frozen, g.FrozenReason, g.DisabledNodes = false, "", nil
		}
	}
	return proto.Equal(x, y)
}
