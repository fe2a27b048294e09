package planner

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// Simulate says what the planner would do if the steps happened one after
// another. It works on a copy of s in which what is under way first comes to
// its end, agents succeed at everything, and lost nodes are proven to have
// stopped. Source is left to the caller.
func Simulate(s *statepb.State, env Env, req *v1.SimulateRequest) *v1.SimulateResponse {
	return SimulateWith(s, env, req, func(_, _ *v1.Configuration, _ bool) (*v1.Configuration, error) {
		return nil, errors.New("this simulation does not know how documents are checked")
	})
}

// A Merge makes the configuration that comes of applying documents to one, with
// prune without what they do not name, and checks it.
type Merge func(have, documents *v1.Configuration, prune bool) (*v1.Configuration, error)

// SimulateWith is Simulate, with steps that apply documents.
func SimulateWith(s *statepb.State, env Env, req *v1.SimulateRequest, merge Merge) *v1.SimulateResponse {
	c := copyState(s)
	settle(c, env)
	sim := &simulation{s: c, env: env, merge: merge, first: places(c)}
	resp := &v1.SimulateResponse{}
	for _, st := range req.GetSteps() {
		resp.Steps = append(resp.Steps, sim.step(st))
	}
	last := sim.places()
	moved, down := 0, 0
	for _, g := range state.SortedKeys(c.GetGroups()) {
		resp.Groups = append(resp.Groups, sim.group(g, sim.first[g], last[g], nil))
		if last[g] != "" && slices.ContainsFunc(strings.Split(last[g], ", "), func(n string) bool { return !slices.Contains(strings.Split(sim.first[g], ", "), n) }) {
			moved++
		}
		if sim.first[g] != "" && last[g] == "" {
			down++
		}
	}
	resp.Verdict = fmt.Sprintf("%s of %d start elsewhere, %s no longer online anywhere", groups(moved), len(resp.Groups), groups(down))
	return resp
}

func groups(n int) string {
	if n == 1 {
		return "1 group"
	}
	return fmt.Sprintf("%d groups", n)
}

// copyState leaves out what planning does not look at.
func copyState(s *statepb.State) *statepb.State {
	c := state.Clone(s)
	c.Events, c.Decisions = nil, nil
	for n := range c.GetNodes() {
		if c.NodeStatus[n] == nil {
			c.NodeStatus[n] = &statepb.NodeStatus{}
		}
	}
	return c
}

type simulation struct {
	s     *statepb.State
	env   Env
	merge Merge
	first map[string]string
	// Why nothing runs any more, empty: it does.
	over string
}

func (m *simulation) step(st *v1.SimulateStep) *v1.SimulatedStep {
	out := &v1.SimulatedStep{}
	before := m.places()
	if m.over != "" {
		out.Note = m.over
		out.Step, _ = title(st)
		return out
	}
	var node string
	out.Step, node = title(st)
	ops := m.s.GetNextOperation()
	out.Note = m.happen(st, node)
	out.Decisions = settle(m.s, m.env)
	if stop := st.GetStopNode(); stop != nil && out.Note == "" {
		out.Note = m.left(stop.GetNode())
		out.Decisions = append(out.Decisions, settle(m.s, m.env)...)
	}
	for _, op := range m.s.GetOperations() {
		if op.GetId() > ops && op.GetState() != done && out.Note == "" && op.GetKind() != v1.OperationKind_OPERATION_KIND_NODE_STOP {
			out.Note = op.GetMessage()
		}
	}
	after := m.places()
	for _, g := range state.SortedKeys(m.s.GetGroups()) {
		if before[g] != after[g] {
			out.Moves = append(out.Moves, m.group(g, before[g], after[g], out.Decisions))
		}
	}
	return out
}

// title names a step for people.
func title(st *v1.SimulateStep) (string, string) {
	at := func(node string) string {
		if node == "" {
			return ""
		}
		return " on " + node
	}
	switch x := st.GetStep().(type) {
	case *v1.SimulateStep_FailNodes:
		if n := x.FailNodes.GetNodes(); len(n) > 1 {
			return strings.Join(n[:len(n)-1], ", ") + " and " + n[len(n)-1] + " fail at once", ""
		}
		return strings.Join(x.FailNodes.GetNodes(), "") + " fails", ""
	case *v1.SimulateStep_Online:
		return "online " + x.Online.GetGroup() + at(x.Online.GetNode()), x.Online.GetNode()
	case *v1.SimulateStep_Offline:
		return "offline " + x.Offline.GetGroup() + at(x.Offline.GetNode()), x.Offline.GetNode()
	case *v1.SimulateStep_Switch:
		to := ""
		if n := x.Switch.GetNode(); n != "" {
			to = " to " + n
		}
		return "switch " + x.Switch.GetGroup() + to, x.Switch.GetNode()
	case *v1.SimulateStep_Fault:
		return x.Fault.GetResource() + " of " + x.Fault.GetGroup() + " faults" + at(x.Fault.GetNode()), x.Fault.GetNode()
	case *v1.SimulateStep_JoinNode:
		return x.JoinNode + " joins", x.JoinNode
	case *v1.SimulateStep_StopNode:
		if x.StopNode.GetEvacuate() {
			return "stop " + x.StopNode.GetNode() + " after its groups have moved away", x.StopNode.GetNode()
		}
		return "stop " + x.StopNode.GetNode(), x.StopNode.GetNode()
	case *v1.SimulateStep_Freeze:
		verb := "unfreeze "
		if x.Freeze.GetFrozen() {
			verb = "freeze "
		}
		return verb + x.Freeze.GetGroup() + x.Freeze.GetNode(), x.Freeze.GetNode()
	case *v1.SimulateStep_Clear:
		return "clear " + x.Clear.GetGroup() + at(x.Clear.GetNode()), x.Clear.GetNode()
	}
	return titleOfChange(st)
}

// happen makes the event of a step happen; it says why it cannot.
func (m *simulation) happen(st *v1.SimulateStep, node string) string {
	switch x := st.GetStep().(type) {
	case *v1.SimulateStep_FailNodes:
		return m.fail(x.FailNodes.GetNodes())
	case *v1.SimulateStep_JoinNode:
		return m.join(node)
	case *v1.SimulateStep_Fault:
		return m.fault(x.Fault)
	case *v1.SimulateStep_Online:
		return m.ask(&v1.Operation{Kind: opOnline, Group: x.Online.GetGroup(), Node: node, Propagate: x.Online.GetPropagate()})
	case *v1.SimulateStep_Offline:
		return m.ask(&v1.Operation{Kind: opOffline, Group: x.Offline.GetGroup(), Node: node, Propagate: x.Offline.GetPropagate()})
	case *v1.SimulateStep_Switch:
		return m.ask(&v1.Operation{Kind: opSwitch, Group: x.Switch.GetGroup(), Node: node, Propagate: x.Switch.GetPropagate()})
	case *v1.SimulateStep_StopNode:
		return m.ask(&v1.Operation{Kind: v1.OperationKind_OPERATION_KIND_NODE_STOP, Node: node, Evacuate: x.StopNode.GetEvacuate()})
	case *v1.SimulateStep_Freeze:
		return m.apply(&statepb.Command{Change: &statepb.Command_SetFrozen{SetFrozen: &statepb.SetFrozen{
			Group: x.Freeze.GetGroup(), Node: x.Freeze.GetNode(), Frozen: x.Freeze.GetFrozen()}}})
	case *v1.SimulateStep_Clear:
		return m.apply(&statepb.Command{Change: &statepb.Command_Clear{Clear: &statepb.Clear{Group: x.Clear.GetGroup(), Node: node}}})
	}
	return m.change(st)
}

func (m *simulation) apply(c *statepb.Command) string {
	c.Format = 1
	if r := state.Apply(m.s, c).Refused; r != nil {
		return r.Message
	}
	return ""
}

func (m *simulation) ask(op *v1.Operation) string {
	return m.apply(&statepb.Command{Change: &statepb.Command_Operate{Operate: &statepb.Operate{Operation: op}}})
}

// fail loses nodes at one moment: they are evicted and proven to have stopped,
// if those that are left are a majority.
func (m *simulation) fail(nodes []string) string {
	members := len(m.s.GetView().GetMembers())
	var lost []string
	for _, n := range nodes {
		switch {
		case m.s.GetNodes()[n] == nil:
			return "there is no node " + n
		case state.MemberOf(m.s, n) == nil:
			return n + " is not in the cluster"
		case !slices.Contains(lost, n):
			lost = append(lost, n)
		}
	}
	left := members - len(lost)
	if why := m.noMajority(left, members); why != "" {
		m.over = why
		return m.over
	}
	m.remove(lost, statepb.NodePhase_NODE_PHASE_FAULTED)
	return ""
}

func (m *simulation) remove(nodes []string, phase statepb.NodePhase) {
	v := m.s.GetView()
	if phase == statepb.NodePhase_NODE_PHASE_FAULTED {
		for _, n := range nodes {
			m.s.NodeStatus[n].Fence = &statepb.Fence{RaftId: state.MemberOf(m.s, n).GetRaftId(), Epoch: v.GetEpoch() + 1}
		}
	}
	v.Members = slices.DeleteFunc(v.Members, func(x *statepb.Member) bool { return slices.Contains(nodes, x.GetNode()) })
	v.Epoch++
	for _, n := range nodes {
		m.s.NodeStatus[n].Phase, m.s.NodeStatus[n].Evacuate = phase, false
		forgetNode(m.s, n)
	}
	m.refit()
}

// refit has the groups' places made for the members that there are now: every
// command that is applied does that.
func (m *simulation) refit() {
	m.s.PlanRevision++
	m.apply(&statepb.Command{Change: &statepb.Command_Note{Note: &statepb.Note{}}})
}

func (m *simulation) join(node string) string {
	switch {
	case m.s.GetNodes()[node] == nil:
		return "there is no node " + node
	case state.MemberOf(m.s, node) != nil:
		return node + " is in the cluster already"
	}
	v := m.s.GetView()
	v.Members = append(v.Members, &statepb.Member{Node: node, RaftId: m.s.GetNextRaftId(), GuardIncarnation: 1})
	slices.SortFunc(v.Members, func(a, b *statepb.Member) int { return strings.Compare(a.GetNode(), b.GetNode()) })
	m.s.NextRaftId++
	v.Epoch++
	delete(m.s.Learners, node)
	m.s.NodeStatus[node].Phase, m.s.NodeStatus[node].Fence = statepb.NodePhase_NODE_PHASE_RUNNING, nil
	forgetNode(m.s, node)
	m.refit()
	return ""
}

// left ends the stop of a node.
func (m *simulation) left(node string) string {
	if busy := state.BusyGroups(m.s, node); len(busy) > 0 {
		return fmt.Sprintf("%s could not leave: %s would still run there", node, list(busy))
	}
	if m.s.GetNodeStatus()[node].GetPhase() != statepb.NodePhase_NODE_PHASE_LEAVING {
		for _, op := range m.s.GetOperations() {
			if op.GetKind() == v1.OperationKind_OPERATION_KIND_NODE_STOP && op.GetNode() == node && op.GetState() == failed {
				return op.GetMessage()
			}
		}
	}
	if len(m.s.GetView().GetMembers()) == 1 {
		m.over = node + " is the last node: the cluster is down"
		return m.over
	}
	m.remove([]string{node}, statepb.NodePhase_NODE_PHASE_DOWN)
	for _, op := range m.s.GetOperations() {
		if op.GetKind() == v1.OperationKind_OPERATION_KIND_NODE_STOP && op.GetNode() == node && op.GetState() == running {
			op.State = done
		}
	}
	return ""
}

func (m *simulation) fault(f *v1.ResourceOnNodeName) string {
	gs := m.s.GetGroupStatus()[f.GetGroup()]
	if gs == nil {
		return "there is no group " + f.GetGroup()
	}
	node := f.GetNode()
	if node == "" {
		node, _, _ = strings.Cut(m.places()[f.GetGroup()], ", ")
	}
	st := gs.GetNodes()[node].GetResources()[f.GetResource()]
	switch {
	case node == "":
		return f.GetGroup() + " is not online: say on which node " + f.GetResource() + " faults"
	case st == nil:
		return fmt.Sprintf("%s knows no resource %s of %s", node, f.GetResource(), f.GetGroup())
	}
	st.State, st.Message = v1.ResourceState_RESOURCE_STATE_FAULTED, "simulated"
	m.s.PlanRevision++
	return ""
}

// places says on which members each group is wanted online: "n1", and of
// several instances "n1, n3".
func places(s *statepb.State) map[string]string {
	at := map[string]string{}
	for name, gs := range s.GetGroupStatus() {
		var nodes []string
		for node, on := range gs.GetNodes() {
			if on.GetWant() == wantOnline && state.MemberOf(s, node) != nil {
				nodes = append(nodes, node)
			}
		}
		slices.Sort(nodes)
		at[name] = strings.Join(nodes, ", ")
	}
	return at
}

func (m *simulation) places() map[string]string {
	if m.over != "" {
		return map[string]string{}
	}
	return places(m.s)
}

func (m *simulation) group(g, before, after string, made []*v1.Decision) *v1.SimulatedGroup {
	out := &v1.SimulatedGroup{Group: g, Before: before, After: after}
	for _, d := range made {
		if d.GetGroup() == g && slices.Contains(strings.Split(after, ", "), d.GetNode()) && len(d.GetReasons()) > 0 {
			out.Reason = strings.Join(d.GetReasons(), "; ")
		}
	}
	switch {
	case m.over != "":
		out.Reason = m.over
	case after == "":
		var whys []string
		for _, w := range look(m.s, m.env, g).instances {
			if why := whyOffline(w.g, w.book); !slices.Contains(whys, why) {
				whys = append(whys, why)
			}
		}
		out.Reason = atMost(whys)
	}
	return out
}
