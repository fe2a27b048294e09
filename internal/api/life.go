package api

import (
	"context"

	"connectrpc.com/connect"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

func (s *clusterServer) Security(context.Context, *connect.Request[v1.SecurityRequest]) (*connect.Response[v1.SecurityResponse], error) {
	return nil, fail(CodeInternal, "", "not served yet")
}
func (s *clusterServer) Rotate(context.Context, *connect.Request[v1.RotateRequest]) (*connect.Response[v1.RotateResponse], error) {
	return nil, fail(CodeInternal, "", "not served yet")
}
func (s *clusterServer) Destroy(context.Context, *connect.Request[v1.DestroyClusterRequest]) (*connect.Response[v1.DestroyClusterResponse], error) {
	return nil, fail(CodeInternal, "", "not served yet")
}
func (s *clusterServer) Backup(context.Context, *connect.Request[v1.BackupRequest]) (*connect.Response[v1.BackupResponse], error) {
	return nil, fail(CodeInternal, "", "not served yet")
}
func (s *nodeServer) Add(context.Context, *connect.Request[v1.AddNodeRequest]) (*connect.Response[v1.AddNodeResponse], error) {
	return nil, fail(CodeInternal, "", "not served yet")
}
func (s *nodeServer) Invite(context.Context, *connect.Request[v1.InviteNodeRequest]) (*connect.Response[v1.InviteNodeResponse], error) {
	return nil, fail(CodeInternal, "", "not served yet")
}
func (s *nodeServer) ListInvitations(context.Context, *connect.Request[v1.ListInvitationsRequest]) (*connect.Response[v1.ListInvitationsResponse], error) {
	return nil, fail(CodeInternal, "", "not served yet")
}
func (s *nodeServer) Withdraw(context.Context, *connect.Request[v1.WithdrawInvitationRequest]) (*connect.Response[v1.WithdrawInvitationResponse], error) {
	return nil, fail(CodeInternal, "", "not served yet")
}
func (s *nodeServer) Remove(context.Context, *connect.Request[v1.RemoveNodeRequest]) (*connect.Response[v1.RemoveNodeResponse], error) {
	return nil, fail(CodeInternal, "", "not served yet")
}
