package planner

import (
	"fmt"
	"strings"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// Steps of a simulation that change what the planner goes by.

func titleOfChange(st *v1.SimulateStep) (title, node string) {
	switch x := st.GetStep().(type) {
	case *v1.SimulateStep_Apply:
		return "apply " + objects(x.Apply.GetDocuments()), ""
	case *v1.SimulateStep_EvacuateNode:
		return "evacuate " + x.EvacuateNode, x.EvacuateNode
	case *v1.SimulateStep_Enable:
		verb, node := "disable ", x.Enable.GetNode()
		if x.Enable.GetEnabled() {
			verb = "enable "
		}
		return verb + x.Enable.GetGroup() + onNode(node), node
	case *v1.SimulateStep_Switching:
		return "switch switching of " + x.Switching.GetGroup() + map[bool]string{true: " on", false: " off"}[x.Switching.GetOn()], ""
	case *v1.SimulateStep_Maintenance:
		return "begin maintenance of " + x.Maintenance.GetGroup() + onNode(x.Maintenance.GetNode()), x.Maintenance.GetNode()
	case *v1.SimulateStep_EndMaintenance:
		return "end maintenance of " + x.EndMaintenance.GetGroup(), ""
	case *v1.SimulateStep_Load:
		var parts []string
		for _, dim := range state.SortedKeys(x.Load.GetLoad()) {
			parts = append(parts, fmt.Sprintf("%s=%d", dim, x.Load.GetLoad()[dim]))
		}
		return strings.TrimSuffix("load of "+x.Load.GetNode()+": "+strings.Join(parts, " "), ": "), x.Load.GetNode()
	}
	return "nothing", ""
}

func onNode(node string) string {
	if node == "" {
		return ""
	}
	return " on " + node
}

// objects that documents have, in words.
func objects(d *v1.Configuration) string {
	var names []string
	if d.GetCluster() != nil {
		names = append(names, "cluster")
	}
	for _, o := range d.GetNodes() {
		names = append(names, "node "+o.GetName())
	}
	for _, o := range d.GetTypes() {
		names = append(names, "type "+o.GetName())
	}
	for _, o := range d.GetGroups() {
		names = append(names, "group "+o.GetName())
	}
	if len(names) == 0 {
		return "no documents"
	}
	return list(names)
}

// change makes such a step happen; it says why it cannot.
func (m *simulation) change(st *v1.SimulateStep) string {
	switch x := st.GetStep().(type) {
	case *v1.SimulateStep_Apply:
		cfg, err := m.merge(state.Configuration(m.s), x.Apply.GetDocuments(), x.Apply.GetPrune())
		if err != nil {
			return err.Error()
		}
		why := m.apply(&statepb.Command{Change: &statepb.Command_Configure{Configure: &statepb.Configure{BaseRevision: m.s.GetConfigRevision(), Configuration: cfg}}})
		for name := range m.s.GetNodes() {
			if m.s.NodeStatus[name] == nil {
				m.s.NodeStatus[name] = &statepb.NodeStatus{}
			}
		}
		return why
	case *v1.SimulateStep_EvacuateNode:
		return m.ask(&v1.Operation{Kind: v1.OperationKind_OPERATION_KIND_NODE_EVACUATE, Node: x.EvacuateNode})
	case *v1.SimulateStep_Enable:
		c := &statepb.Enable{Group: x.Enable.GetGroup(), Node: x.Enable.GetNode()}
		if !x.Enable.GetEnabled() {
			c.Disabled = "simulated"
		}
		return m.apply(&statepb.Command{Change: &statepb.Command_Enable{Enable: c}})
	case *v1.SimulateStep_Switching:
		c := &statepb.SetSwitching{Group: x.Switching.GetGroup()}
		if !x.Switching.GetOn() {
			c.Off = "simulated"
		}
		return m.apply(&statepb.Command{Change: &statepb.Command_SetSwitching{SetSwitching: c}})
	case *v1.SimulateStep_Maintenance:
		return m.apply(&statepb.Command{Change: &statepb.Command_SetMaintenance{SetMaintenance: &statepb.SetMaintenance{Group: x.Maintenance.GetGroup(), Node: x.Maintenance.GetNode()}}})
	case *v1.SimulateStep_EndMaintenance:
		return m.apply(&statepb.Command{Change: &statepb.Command_SetMaintenance{SetMaintenance: &statepb.SetMaintenance{Group: x.EndMaintenance.GetGroup()}}})
	case *v1.SimulateStep_Load:
		return m.apply(&statepb.Command{Change: &statepb.Command_SetLoad{SetLoad: &statepb.SetLoad{Node: x.Load.GetNode(), Load: x.Load.GetLoad()}}})
	}
	return "this version does not know the step"
}

// noMajority says that the nodes that are left can't decide anything; empty:
// they can. The coordination points are taken to be there.
func (m *simulation) noMajority(left, members int) string {
	voters, alive := members, left
	if m.s.GetWitness().GetVotes() {
		voters, alive = members+1, left+1
	}
	if left > 0 && alive >= state.Majority(voters) {
		return ""
	}
	return fmt.Sprintf("%d of %d nodes would be left, which is no majority: what runs there stops within its lease, and nothing starts", left, members)
}
