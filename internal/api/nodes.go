package api

import (
	"context"
	"slices"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
	"github.com/holdfast-ha/holdfast/internal/protoyaml"
)

// Bounds of an announced silence.
const (
	MinSilence = time.Second
	MaxSilence = 10 * time.Minute
)

type nodeServer struct{ *server }

func (s *nodeServer) List(ctx context.Context, _ *connect.Request[v1.ListNodesRequest]) (*connect.Response[v1.ListNodesResponse], error) {
	l, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.ListNodesResponse{Source: l.source(), Nodes: l.nodeInfos()}), nil
}

func (s *nodeServer) Show(ctx context.Context, req *connect.Request[v1.ShowNodeRequest]) (*connect.Response[v1.ShowNodeResponse], error) {
	l, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	n, err := l.node(req.Msg.GetNode())
	if err != nil {
		return nil, err
	}
	resp := &v1.ShowNodeResponse{Source: l.source(), Node: l.nodeInfo(n)}
	for _, link := range l.local.Links {
		if link.GetNode() == n.GetName() {
			resp.Links = append(resp.Links, linkInfo(link))
		}
	}
	for _, g := range sortedValues(l.GetGroups()) {
		for _, place := range l.placesOf(g) {
			if place == n.GetName() {
				resp.Groups = append(resp.Groups, &v1.GroupOnNodeEntry{Group: g.GetName(), Status: l.groupOnNode(g, place)})
			}
		}
	}
	return connect.NewResponse(resp), nil
}

func (s *nodeServer) Freeze(ctx context.Context, req *connect.Request[v1.FreezeNodeRequest]) (*connect.Response[v1.FreezeNodeResponse], error) {
	m := req.Msg
	if err := s.freeze(ctx, &statepb.SetFrozen{Node: m.GetNode(), Evacuate: m.GetEvacuate()}, m); err != nil {
		return nil, err
	}
	resp := &v1.FreezeNodeResponse{}
	if m.GetEvacuate() {
		op, err := s.newest(ctx, v1.OperationKind_OPERATION_KIND_NODE_EVACUATE, m.GetNode())
		if err != nil {
			return nil, err
		}
		resp.Operation = op
	}
	return connect.NewResponse(resp), nil
}

func (s *nodeServer) Unfreeze(ctx context.Context, req *connect.Request[v1.UnfreezeNodeRequest]) (*connect.Response[v1.UnfreezeNodeResponse], error) {
	if err := s.unfreeze(ctx, &statepb.SetFrozen{Node: req.Msg.GetNode()}); err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.UnfreezeNodeResponse{}), nil
}

// Bounds of a temporary freeze that ends by itself.
const (
	MinFreeze = time.Second
	MaxFreeze = 30 * 24 * time.Hour
)

// freezing is a request to freeze something.
type freezing interface {
	GetTemporary() bool
	GetReason() string
	GetLength() *durationpb.Duration
}

// freeze a group, else a node, with what the request says of it.
func (s *server) freeze(ctx context.Context, c *statepb.SetFrozen, how freezing) error {
	l, err := s.frozenOne(ctx, c)
	if err != nil {
		return err
	}
	why, err := s.stamp(ctx, how.GetReason())
	if err != nil {
		return err
	}
	c.Frozen, c.Reason = true, why
	length := how.GetLength().AsDuration()
	switch {
	case how.GetLength() != nil && !how.GetTemporary():
		return fail(CodeBadRequest, "ask for a temporary freeze", "a freeze that is part of the configuration does not end by itself")
	case how.GetLength() != nil && (length < MinFreeze || length > MaxFreeze):
		return fail(CodeBadRequest, "", "a freeze lasts %s to %s, not %s", protoyaml.Duration(MinFreeze), protoyaml.Duration(MaxFreeze), protoyaml.Duration(length))
	case how.GetTemporary():
		c.Reason = ""
		c.Temporary = &statepb.Freeze{By: callerOf(ctx).Who, Reason: how.GetReason(), SinceMs: s.now().UnixMilli()}
		if length > 0 {
			c.Temporary.UntilClockMs = l.clockMs() + length.Milliseconds()
		}
	}
	return s.submit(ctx, &statepb.Command{Change: &statepb.Command_SetFrozen{SetFrozen: c}})
}

func (s *server) unfreeze(ctx context.Context, c *statepb.SetFrozen) error {
	if _, err := s.frozenOne(ctx, c); err != nil {
		return err
	}
	return s.submit(ctx, &statepb.Command{Change: &statepb.Command_SetFrozen{SetFrozen: c}})
}

func (s *server) frozenOne(ctx context.Context, c *statepb.SetFrozen) (*look, error) {
	l, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	if c.GetGroup() != "" {
		_, err = l.group(c.GetGroup())
	} else {
		_, err = l.node(c.GetNode())
	}
	return l, err
}

// newest operation of that kind on a node.
func (s *server) newest(ctx context.Context, kind v1.OperationKind, node string) (*v1.Operation, error) {
	l, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	for _, op := range slices.Backward(l.GetOperations()) {
		if op.GetKind() == kind && op.GetNode() == node {
			return op, nil
		}
	}
	return nil, fail(CodeInternal, "holdfast status shows whether it runs", "the operation was committed, but is not in the log of operations")
}

// maxLoads is how many dimensions a node may be measured in.
const maxLoads = 64

func (s *nodeServer) SetLoad(ctx context.Context, req *connect.Request[v1.SetNodeLoadRequest]) (*connect.Response[v1.SetNodeLoadResponse], error) {
	l, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	m := req.Msg
	if _, err := l.node(m.GetNode()); err != nil {
		return nil, err
	}
	if len(m.GetLoad()) > maxLoads {
		return nil, fail(CodeBadRequest, "", "a node is measured in at most %d dimensions", maxLoads)
	}
	for _, dim := range state.SortedKeys(m.GetLoad()) {
		if dim == "" || m.GetLoad()[dim] < 0 {
			return nil, fail(CodeBadRequest, "", "a load has a name, and is 0 or more")
		}
	}
	if err := s.submit(ctx, &statepb.Command{Change: &statepb.Command_SetLoad{SetLoad: &statepb.SetLoad{Node: m.GetNode(), Load: m.GetLoad()}}}); err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.SetNodeLoadResponse{}), nil
}

func (s *nodeServer) Evacuate(ctx context.Context, req *connect.Request[v1.EvacuateNodeRequest]) (*connect.Response[v1.EvacuateNodeResponse], error) {
	l, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := l.node(req.Msg.GetNode()); err != nil {
		return nil, err
	}
	op, err := s.operate(ctx, &v1.Operation{Kind: v1.OperationKind_OPERATION_KIND_NODE_EVACUATE, Node: req.Msg.GetNode()})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.EvacuateNodeResponse{Operation: op}), nil
}

func (s *nodeServer) Stop(ctx context.Context, req *connect.Request[v1.StopNodeRequest]) (*connect.Response[v1.StopNodeResponse], error) {
	l, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := l.node(req.Msg.GetNode()); err != nil {
		return nil, err
	}
	if req.Msg.GetEvacuate() && req.Msg.GetDetach() {
		return nil, fail(CodeBadRequest, "choose one of them", "what is detached goes on where it is: it can't move away, too")
	}
	op, err := s.operate(ctx, &v1.Operation{Kind: v1.OperationKind_OPERATION_KIND_NODE_STOP, Node: req.Msg.GetNode(),
		Evacuate: req.Msg.GetEvacuate(), Detach: req.Msg.GetDetach()})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.StopNodeResponse{Operation: op}), nil
}

func (s *nodeServer) Silence(ctx context.Context, req *connect.Request[v1.SilenceNodeRequest]) (*connect.Response[v1.SilenceNodeResponse], error) {
	l, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	name, length := req.Msg.GetNode(), req.Msg.GetLength().AsDuration()
	if _, err := l.node(name); err != nil {
		return nil, err
	}
	running := l.GetNodeStatus()[name].GetSilence()
	member := state.MemberOf(l.State, name)
	c := &statepb.Command{}
	switch {
	case length == 0 && running == nil:
		return nil, fail(CodeConflict, "", "%s has announced no silence", name)
	case length == 0:
		c.Change = &statepb.Command_SilenceOver{SilenceOver: &statepb.SilenceOver{Node: name, Number: running.GetNumber()}}
	case length < MinSilence || length > MaxSilence:
		return nil, fail(CodeBadRequest, "", "a silence takes 1s to 10m, not %s", length)
	case member == nil:
		return nil, fail(CodeConflict, "", "%s is not in the cluster, so nobody waits for it", name)
	default:
		c.Change = &statepb.Command_AnnounceSilence{AnnounceSilence: &statepb.AnnounceSilence{Node: name, RaftId: member.GetRaftId(), Length: durationpb.New(length)}}
	}
	if err := s.submit(ctx, c); err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.SilenceNodeResponse{}), nil
}

type linkServer struct{ *server }

func linkInfo(k *guardpb.LinkStats) *v1.LinkInfo {
	info := &v1.LinkInfo{
		Node: k.GetNode(), Link: k.GetLink(), State: linkState(k.GetState()), LocalAddress: k.GetLocalAddress(), PeerAddress: k.GetPeerAddress(),
		SinceHeard: k.GetSinceHeard(), RoundTripP50: k.GetRoundTripP50(), RoundTripP99: k.GetRoundTripP99(),
		Sent: k.GetSent(), Received: k.GetReceived(), Lost: k.GetLost(), SendErrors: k.GetSendErrors(), Replayed: k.GetReplayed(),
		Forged: k.GetForged(), Malformed: k.GetMalformed(), Refused: k.GetRefused(),
		ArrivalBounds: k.GetArrivalBounds(), ArrivalCounts: k.GetArrivalCounts(),
	}
	if due := k.GetReceived() + k.GetLost(); due > 0 {
		info.LossPercent = 100 * float64(k.GetLost()) / float64(due)
	}
	return info
}

func (s *linkServer) List(ctx context.Context, _ *connect.Request[v1.ListLinksRequest]) (*connect.Response[v1.ListLinksResponse], error) {
	l, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	resp := &v1.ListLinksResponse{Source: l.source()}
	for _, link := range l.GetNodes()[l.local.Node].GetLinks() {
		resp.LinkNames = append(resp.LinkNames, link.GetName())
	}
	for _, k := range l.local.Links {
		resp.Links = append(resp.Links, linkInfo(k))
	}
	for _, n := range l.nodeInfos() {
		if !n.GetSelf() {
			resp.Outlooks = append(resp.Outlooks, &v1.LinkOutlook{Node: n.GetName(), State: n.GetLinkState(), NextFailure: nextFailure(n)})
		}
	}
	return connect.NewResponse(resp), nil
}
