package api

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/link"
	"github.com/holdfast-ha/holdfast/internal/cluster/peer"
	"github.com/holdfast-ha/holdfast/internal/cluster/peer/peerpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
	"github.com/holdfast-ha/holdfast/internal/config"
	"github.com/holdfast-ha/holdfast/internal/group/agents"
)

// Bounds of a token's life.
const (
	MinTokenLife     = time.Minute
	MaxTokenLife     = 30 * 24 * time.Hour
	defaultTokenLife = time.Hour
)

func (s *nodeServer) Add(ctx context.Context, req *connect.Request[v1.AddNodeRequest]) (*connect.Response[v1.AddNodeResponse], error) {
	n := req.Msg.GetNode()
	resp, err := s.change(ctx, 0, commit, func(l *look) (*v1.Configuration, []config.Fault) {
		if l.GetNodes()[n.GetName()] != nil {
			return nil, []config.Fault{{Path: "node " + n.GetName(), Problem: "there is a node of that name already"}}
		}
		return withNode(l.State, n), nil
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.AddNodeResponse{ConfigRevision: resp.GetConfigRevision()}), nil
}

func withNode(s *statepb.State, n *v1.Node) *v1.Configuration {
	cfg := state.Configuration(s)
	cfg.Nodes = append(cfg.Nodes, n)
	return cfg
}

// Invite makes a token. Only its hash is kept; the token itself is in the answer and nowhere else.
func (s *nodeServer) Invite(ctx context.Context, req *connect.Request[v1.InviteNodeRequest]) (*connect.Response[v1.InviteNodeResponse], error) {
	l, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	node, valid := req.Msg.GetNode(), req.Msg.GetValid().AsDuration()
	if req.Msg.GetValid() == nil {
		valid = defaultTokenLife
	}
	if valid < MinTokenLife || valid > MaxTokenLife {
		return nil, fail(CodeBadRequest, "", "a token is good for %s to %s, not for %s", MinTokenLife, MaxTokenLife, valid)
	}
	if node, err = l.invited(node); err != nil {
		return nil, err
	}
	id, secret := make([]byte, 4), make([]byte, 24)
	if _, err := rand.Read(id); err != nil {
		return nil, answered(err)
	}
	if _, err := rand.Read(secret); err != nil {
		return nil, answered(err)
	}
	hash := sha256.Sum256(secret)
	ends := s.now().Add(valid).UnixMilli()
	inv := &statepb.Invitation{Id: hex.EncodeToString(id), Node: node, SecretHash: hash[:], ExpiresMs: ends}
	token, err := peer.Token(&peerpb.Invitation{
		Id: inv.Id, Secret: secret, ClusterUuid: l.GetCluster().GetUuid(), Node: node.GetName(), Addresses: l.memberAddresses(),
		Authority: l.local.Authority, ExpiresMs: ends,
	})
	if err != nil {
		return nil, answered(err)
	}
	if err := s.submit(ctx, &statepb.Command{Change: &statepb.Command_Invite{Invite: &statepb.Invite{Invitation: inv}}}); err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.InviteNodeResponse{Token: token, Id: inv.Id, ExpiresMs: ends}), nil
}

// invited is the node as it will be configured.
func (l *look) invited(n *v1.Node) (*v1.Node, error) {
	name := n.GetName()
	if have := l.GetNodes()[name]; have != nil {
		if len(n.GetLinks()) > 0 {
			return nil, fail(CodeConflict, "leave the links out, or change the configuration first", "node %s is configured already", name)
		}
		return have, nil
	}
	if len(n.GetLinks()) == 0 {
		var links []string
		for _, k := range l.GetNodes()[l.local.Node].GetLinks() {
			links = append(links, "--link "+k.GetName()+"=ADDRESS")
		}
		return nil, fail(CodeBadRequest, "give it the same links as the other nodes: "+strings.Join(links, " "), "node %s is not configured yet, and no links are given", name)
	}
	if err := CheckNode(l.State, n); err != nil {
		return nil, err
	}
	return n, nil
}

// CheckNode says what is wrong with a configuration that a node is added to.
func CheckNode(s *statepb.State, n *v1.Node) error {
	types := agents.Types()
	if faults := config.Check(config.Complete(withNode(s, n), types), types, agents.Check); len(faults) > 0 {
		return badConfig(faults)
	}
	return nil
}

// memberAddresses, first links first.
func (l *look) memberAddresses() (all []string) {
	for i := range 8 {
		for _, m := range l.GetView().GetMembers() {
			links := l.GetNodes()[m.GetNode()].GetLinks()
			if i >= len(links) {
				continue
			}
			if a, err := link.Parse(links[i].GetAddress()); err == nil {
				all = append(all, a.String())
			}
		}
	}
	return all
}

func (s *nodeServer) ListInvitations(ctx context.Context, _ *connect.Request[v1.ListInvitationsRequest]) (*connect.Response[v1.ListInvitationsResponse], error) {
	l, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	resp := &v1.ListInvitationsResponse{Source: l.source()}
	for _, inv := range sortedValues(l.GetInvitations()) {
		resp.Invitations = append(resp.Invitations, &v1.InvitationInfo{Id: inv.GetId(), Node: inv.GetNode().GetName(), ExpiresMs: inv.GetExpiresMs(), Used: len(inv.GetUsedBy()) > 0})
	}
	return connect.NewResponse(resp), nil
}

func (s *nodeServer) Withdraw(ctx context.Context, req *connect.Request[v1.WithdrawInvitationRequest]) (*connect.Response[v1.WithdrawInvitationResponse], error) {
	if err := s.submit(ctx, &statepb.Command{Change: &statepb.Command_Withdraw{Withdraw: &statepb.Withdraw{Id: req.Msg.GetId()}}}); err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.WithdrawInvitationResponse{}), nil
}

func (s *nodeServer) Remove(ctx context.Context, req *connect.Request[v1.RemoveNodeRequest]) (*connect.Response[v1.RemoveNodeResponse], error) {
	l, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := l.node(req.Msg.GetNode()); err != nil {
		return nil, err
	}
	c := &statepb.Command{Change: &statepb.Command_RemoveNode{RemoveNode: &statepb.RemoveNode{Node: req.Msg.GetNode(), FromGroups: req.Msg.GetFromGroups()}}}
	trial := state.Clone(l.State)
	if r := state.Apply(trial, c).Refused; r != nil {
		return nil, answered(&Refusal{Code: r.Code, Message: r.Message})
	}
	types := agents.Types()
	if faults := config.Check(config.Complete(state.Configuration(trial), types), types, agents.Check); len(faults) > 0 {
		return nil, badConfig(faults)
	}
	if err := s.submit(ctx, c); err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.RemoveNodeResponse{}), nil
}

func (s *clusterServer) Destroy(ctx context.Context, req *connect.Request[v1.DestroyClusterRequest]) (*connect.Response[v1.DestroyClusterResponse], error) {
	if err := s.submit(ctx, &statepb.Command{Change: &statepb.Command_Destroy{Destroy: &statepb.Destroy{Name: req.Msg.GetName()}}}); err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.DestroyClusterResponse{}), nil
}

// Seed says in the asked node's name that the cluster has started. Only a
// quorum can commit that, so that an override of the count overrides no more.
func (s *clusterServer) Seed(ctx context.Context, _ *connect.Request[v1.SeedClusterRequest]) (*connect.Response[v1.SeedClusterResponse], error) {
	l, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	if by := l.GetStartedBy(); by != nil {
		now := state.MemberOf(l.State, by.GetNode())
		if now != nil && now.GetRaftId() == by.GetRaftId() && now.GetGuardIncarnation() == by.GetGuardIncarnation() {
			return nil, fail(CodeConflict, "holdfast explain group GROUP says why a group does not run", "the cluster has started already")
		}
	}
	m := state.MemberOf(l.State, l.local.Node)
	if m.GetGuardIncarnation() == 0 {
		return nil, fail(CodeConflict, "ask a member", "%s is not a member", l.local.Node)
	}
	c := &statepb.ClusterStarted{Node: m.GetNode(), RaftId: m.GetRaftId(), GuardIncarnation: m.GetGuardIncarnation()}
	if err := s.submit(ctx, &statepb.Command{Change: &statepb.Command_ClusterStarted{ClusterStarted: c}}); err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.SeedClusterResponse{}), nil
}

func (s *clusterServer) Backup(ctx context.Context, _ *connect.Request[v1.BackupRequest]) (*connect.Response[v1.BackupResponse], error) {
	l, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.BackupResponse{Source: l.source(), Backup: state.Backup(l.State)}), nil
}

func (s *clusterServer) Rotate(ctx context.Context, req *connect.Request[v1.RotateRequest]) (*connect.Response[v1.RotateResponse], error) {
	what, ok := map[v1.Rotatable]statepb.Rotate_What{
		v1.Rotatable_ROTATABLE_HEARTBEAT_KEY: statepb.Rotate_WHAT_HEARTBEAT_KEY,
		v1.Rotatable_ROTATABLE_AUTHORITY:     statepb.Rotate_WHAT_AUTHORITY,
		v1.Rotatable_ROTATABLE_CERTIFICATES:  statepb.Rotate_WHAT_CERTIFICATES,
	}[req.Msg.GetWhat()]
	if !ok {
		return nil, fail(CodeBadRequest, "", "say what to rotate: the heartbeat key, the authority, or the nodes' certificates")
	}
	l, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	c := &statepb.Rotate{What: what, Node: l.local.Node}
	if r := rotationOf(l.State, what); what != statepb.Rotate_WHAT_CERTIFICATES {
		if r.GetPhase() != statepb.RotationPhase_ROTATION_PHASE_UNSPECIFIED {
			return nil, fail(CodeConflict, "holdfast cluster security shows how far it is", "a rotation is under way already")
		}
		if !l.quorum() {
			return nil, fail(CodeNoQuorum, "", "no quorum: %s can't change anything now", l.local.Node)
		}
		if c.Next, err = s.b.MakeSecret(ctx, what, state.Generation(r)+1); err != nil {
			return nil, answered(err)
		}
	}
	if err := s.submit(ctx, &statepb.Command{Change: &statepb.Command_Rotate{Rotate: c}}); err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.RotateResponse{}), nil
}

func rotationOf(s *statepb.State, what statepb.Rotate_What) *statepb.Rotation {
	if what == statepb.Rotate_WHAT_AUTHORITY {
		return s.GetAuthority()
	}
	return s.GetHeartbeatKey()
}

func (s *clusterServer) Security(ctx context.Context, _ *connect.Request[v1.SecurityRequest]) (*connect.Response[v1.SecurityResponse], error) {
	l, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	resp := &v1.SecurityResponse{
		Source: l.source(), Protocol: max(l.GetProtocol(), 1), Lineage: l.GetLineage(),
		HeartbeatKey:         l.rotation(statepb.Rotate_WHAT_HEARTBEAT_KEY),
		Authority:            l.rotation(statepb.Rotate_WHAT_AUTHORITY),
		AuthorityFingerprint: hex.EncodeToString(l.local.Authority),
	}
	if !l.local.AuthorityEnds.IsZero() {
		resp.AuthorityEndsMs = l.local.AuthorityEnds.UnixMilli()
	}
	for _, name := range state.SortedKeys(l.GetNodes()) {
		st := l.GetStandings()[name]
		resp.Nodes = append(resp.Nodes, &v1.NodeSecurity{
			Node: name, Version: st.GetVersion(), ProtocolMin: st.GetProtocolMin(), ProtocolMax: st.GetProtocolMax(),
			HeartbeatKey: st.GetHeartbeatSends(), Authority: st.GetAuthorityUses(), CertificateEndsMs: st.GetCertificateEndsMs(),
		})
	}
	return connect.NewResponse(resp), nil
}

func (l *look) rotation(what statepb.Rotate_What) *v1.RotationInfo {
	r := rotationOf(l.State, what)
	info := &v1.RotationInfo{Generation: state.Generation(r)}
	waits := strings.Join(state.RotationWaitsFor(l.State, what), ", ")
	switch r.GetPhase() {
	case statepb.RotationPhase_ROTATION_PHASE_SPREADING:
		info.Progress = fmt.Sprintf("generation %d is being handed out; waiting for %s", r.GetNext().GetGeneration(), waits)
	case statepb.RotationPhase_ROTATION_PHASE_SWITCHING:
		info.Progress = fmt.Sprintf("generation %d takes the place of generation %d; waiting for %s", r.GetCurrent().GetGeneration(), r.GetPrevious().GetGeneration(), waits)
	}
	return info
}
