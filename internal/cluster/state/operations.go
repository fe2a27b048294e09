package state

import (
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	pb "github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

const (
	// maxText bounds what programs of nodes may have put into the state, in bytes.
	maxText = 4 << 10
	// maxArguments of an action, and their length together.
	maxArguments     = 64
	maxArgumentBytes = 16 << 10
)

// clip what a program has said to what the state keeps: the end of it, where the trouble usually stands.
func clip(text string) string {
	return strings.TrimSpace(strings.ToValidUTF8(text[max(0, len(text)-maxText):], ""))
}

// endOperation moves an operation on; state RUNNING changes only its message.
func (a *applier) endOperation(op *v1.Operation, st v1.OperationState, message string) {
	op.State, op.Message = st, message
	if st != v1.OperationState_OPERATION_STATE_RUNNING {
		op.EndedMs = a.c.GetTimeMs()
	}
	if node := a.s.NodeStatus[op.GetNode()]; st == v1.OperationState_OPERATION_STATE_FAILED && op.GetKind() == v1.OperationKind_OPERATION_KIND_NODE_STOP &&
		node.GetPhase() == pb.NodePhase_NODE_PHASE_LEAVING {
		node.Phase, node.Evacuate, node.Detach = pb.NodePhase_NODE_PHASE_RUNNING, false, false // it stays
	}
}

func (a *applier) operate(c *pb.Operate) *Refused {
	op := proto.CloneOf(c.GetOperation())
	if err := a.mayOperate(op); err != nil {
		return err
	}
	switch op.GetKind() {
	case v1.OperationKind_OPERATION_KIND_NODE_STOP:
		st := a.s.NodeStatus[op.GetNode()]
		st.Phase, st.Evacuate, st.Detach = pb.NodePhase_NODE_PHASE_LEAVING, op.GetEvacuate(), op.GetDetach()
		how := "is being stopped by an administrator"
		if op.GetDetach() {
			how = "is being detached by an administrator: what runs there goes on"
		}
		a.nodeEvent(v1.Severity_SEVERITY_INFORMATION, "node.leaving", op.GetNode(), "%s %s", op.GetNode(), how)
	case v1.OperationKind_OPERATION_KIND_NODE_EVACUATE:
		a.nodeEvent(v1.Severity_SEVERITY_INFORMATION, "node.evacuating", op.GetNode(), "the groups of %s are being moved away by an administrator", op.GetNode())
	}
	a.begin(op)
	return nil
}

func (a *applier) mayOperate(op *v1.Operation) *Refused {
	switch op.GetKind() {
	case v1.OperationKind_OPERATION_KIND_NODE_STOP:
		return a.mayStop(op)
	case v1.OperationKind_OPERATION_KIND_NODE_EVACUATE:
		return a.mayEvacuate(op.GetNode())
	case v1.OperationKind_OPERATION_KIND_UNSPECIFIED:
		return refuse(CodeInvalid, "the operation has no kind")
	}
	g := a.s.Groups[op.GetGroup()]
	if g == nil {
		return noGroup(op.GetGroup())
	}
	if n := op.GetNode(); n != "" && a.s.Nodes[n] == nil {
		return noNode(n)
	}
	if r := op.GetResource(); r != "" && !hasResource(g, r) {
		return noResource(g.GetName(), r)
	}
	if op.GetKind() == v1.OperationKind_OPERATION_KIND_RESOURCE_ACTION {
		return a.mayAct(op, g)
	}
	return nil
}

func (a *applier) mayStop(op *v1.Operation) *Refused {
	node := op.GetNode()
	switch {
	case a.s.Nodes[node] == nil:
		return noNode(node)
	case MemberOf(a.s, node) == nil:
		return refuse(CodeConflict, "node %s is not in the cluster", node)
	case a.s.NodeStatus[node].GetPhase() == pb.NodePhase_NODE_PHASE_LEAVING:
		return refuse(CodeConflict, "node %s is being stopped already", node)
	case op.GetDetach() && op.GetEvacuate():
		return refuse(CodeInvalid, "either the groups of %s move away, or they go on there: name one of the two", node)
	case op.GetDetach():
		return a.mayDetach(node)
	}
	return nil
}

func (a *applier) mayEvacuate(node string) *Refused {
	switch {
	case a.s.Nodes[node] == nil:
		return noNode(node)
	case MemberOf(a.s, node) == nil:
		return refuse(CodeConflict, "node %s is not in the cluster: there is nothing to move away from it", node)
	case a.s.NodeStatus[node].GetPhase() == pb.NodePhase_NODE_PHASE_LEAVING:
		return refuse(CodeConflict, "node %s is being stopped already", node)
	case a.running(v1.OperationKind_OPERATION_KIND_NODE_EVACUATE, node):
		return refuse(CodeConflict, "the groups of %s are being moved away already: holdfast operation list shows how far it is", node)
	}
	return nil
}

// mayAct: an action is run by one node, which must be able to.
func (a *applier) mayAct(op *v1.Operation, g *v1.Group) *Refused {
	i := slices.IndexFunc(g.GetResources(), func(r *v1.Resource) bool { return r.GetName() == op.GetResource() })
	length := len(op.GetAction())
	for _, arg := range op.GetArguments() {
		length += len(arg)
	}
	switch {
	case i < 0:
		return refuse(CodeInvalid, "name the resource of which an action is run")
	case op.GetAction() == "":
		return refuse(CodeInvalid, "name the action that is run")
	case op.GetNode() == "":
		return refuse(CodeInvalid, "name the node on which %s of %s is run", op.GetAction(), op.GetResource())
	case len(op.GetArguments()) > maxArguments || length > maxArgumentBytes:
		return refuse(CodeInvalid, "an action takes at most %d arguments of %d bytes together", maxArguments, maxArgumentBytes)
	case MemberOf(a.s, op.GetNode()) == nil || a.s.GroupStatus[g.GetName()].GetNodes()[op.GetNode()] == nil:
		return refuse(CodeConflict, "group %s has no place on node %s: the node is down or not in its system list", g.GetName(), op.GetNode())
	}
	known := a.s.Types[g.Resources[i].GetType()].GetSupportedActions()
	if len(known) > 0 && !slices.Contains(known, op.GetAction()) {
		return refuse(CodeNotFound, "resources of type %s know no action %s, but %s", g.Resources[i].GetType(), op.GetAction(), strings.Join(known, ", "))
	}
	return nil
}

func (a *applier) running(kind v1.OperationKind, node string) bool {
	return slices.ContainsFunc(a.s.Operations, func(op *v1.Operation) bool {
		return op.GetKind() == kind && op.GetNode() == node && op.GetState() == v1.OperationState_OPERATION_STATE_RUNNING
	})
}

// begin an operation that may begin.
func (a *applier) begin(op *v1.Operation) {
	a.s.NextOperation++
	op.Id, op.State, op.StartedMs, op.EndedMs = a.s.NextOperation, v1.OperationState_OPERATION_STATE_RUNNING, a.c.GetTimeMs(), 0
	a.out.Operation = op.Id
	a.s.Operations = a.keepRunning(append(a.s.Operations, op))
	a.planChanged()
}

// keepRunning forgets the oldest operations that have ended.
func (a *applier) keepRunning(ops []*v1.Operation) []*v1.Operation {
	over := len(ops) - keepOperations
	kept := ops[:0]
	for _, op := range ops {
		if over > 0 && op.GetState() != v1.OperationState_OPERATION_STATE_RUNNING {
			over--
			continue
		}
		kept = append(kept, op)
	}
	return kept
}

func (a *applier) operationDone(c *pb.OperationDone) *Refused {
	i := slices.IndexFunc(a.s.Operations, func(op *v1.Operation) bool { return op.GetId() == c.GetId() })
	if i < 0 || a.s.Operations[i].GetState() != v1.OperationState_OPERATION_STATE_RUNNING {
		return refuse(CodeStale, "operation %d is not running", c.GetId())
	}
	op := a.s.Operations[i]
	switch m := MemberOf(a.s, c.GetNode()); {
	case op.GetKind() != v1.OperationKind_OPERATION_KIND_RESOURCE_ACTION || op.GetNode() != c.GetNode():
		return refuse(CodeInvalid, "operation %d is not carried out by node %s", c.GetId(), c.GetNode())
	case m == nil || m.GetRaftId() != c.GetRaftId():
		return refuse(CodeStale, "raft id %d of node %s is not in the view", c.GetRaftId(), c.GetNode())
	}
	end := v1.OperationState_OPERATION_STATE_DONE
	if c.GetFailed() {
		end = v1.OperationState_OPERATION_STATE_FAILED
	}
	a.endOperation(op, end, clip(c.GetMessage()))
	return nil
}

// endActions of a node that was lost, or has left: nobody will say any more how they went.
func (a *applier) endActions(node string) {
	for _, op := range a.s.Operations {
		if op.GetState() != v1.OperationState_OPERATION_STATE_RUNNING || op.GetNode() != node {
			continue
		}
		switch op.GetKind() {
		case v1.OperationKind_OPERATION_KIND_RESOURCE_ACTION:
			a.endOperation(op, v1.OperationState_OPERATION_STATE_FAILED, node+" was lost or left before it was known how "+op.GetAction()+" went")
		case v1.OperationKind_OPERATION_KIND_NODE_EVACUATE:
			a.endOperation(op, v1.OperationState_OPERATION_STATE_FAILED, node+" was lost or left before all groups had moved away")
		}
	}
}
