package api

import (
	"context"
	"crypto/x509"
	"regexp"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

type userServer struct{ *server }

// userName is what system users and certificates can be called.
var userName = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,31}$`)

func (s *userServer) List(ctx context.Context, _ *connect.Request[v1.ListUsersRequest]) (*connect.Response[v1.ListUsersResponse], error) {
	l, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.ListUsersResponse{Source: l.source(), Users: sortedValues(l.GetUsers())}), nil
}

func (s *userServer) Set(ctx context.Context, req *connect.Request[v1.SetUserRequest]) (*connect.Response[v1.SetUserResponse], error) {
	l, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	u := proto.CloneOf(req.Msg.GetUser())
	switch {
	case !userName.MatchString(u.GetName()):
		return nil, fail(CodeBadRequest, "", "%q can't be a user's name: take up to 32 letters, digits, hyphens, underscores and dots", u.GetName())
	case u.GetName() == "root":
		return nil, fail(CodeBadRequest, "", "root of a node is an administrator always, and nobody else can be called so")
	case !known(u.GetRole()):
		return nil, fail(CodeBadRequest, "", "there is no role %d", u.GetRole())
	}
	for g, r := range u.GetGroups() {
		if _, err := l.group(g); err != nil {
			return nil, err
		}
		if !known(r) || r == v1.Role_ROLE_UNSPECIFIED {
			return nil, fail(CodeBadRequest, "", "there is no role %d", r)
		}
	}
	if have := l.GetUsers()[u.GetName()]; req.Msg.GetAdd() && have != nil {
		if u.GetRole() == v1.Role_ROLE_UNSPECIFIED {
			u.Role = have.GetRole()
		}
		for g, r := range have.GetGroups() {
			if _, named := u.GetGroups()[g]; !named {
				if u.Groups == nil {
					u.Groups = map[string]v1.Role{}
				}
				u.Groups[g] = r
			}
		}
	}
	if u.GetRole() == v1.Role_ROLE_UNSPECIFIED && len(u.GetGroups()) == 0 {
		return nil, fail(CodeBadRequest, "", "user %s gets no role: name one, in the cluster or of a group", u.GetName())
	}
	if err := s.submit(ctx, &statepb.Command{Change: &statepb.Command_SetUser{SetUser: &statepb.SetUser{User: u}}}); err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.SetUserResponse{User: u}), nil
}

func known(r v1.Role) bool { return r >= v1.Role_ROLE_UNSPECIFIED && r <= v1.Role_ROLE_ADMINISTRATOR }

func (s *userServer) Delete(ctx context.Context, req *connect.Request[v1.DeleteUserRequest]) (*connect.Response[v1.DeleteUserResponse], error) {
	if err := s.submit(ctx, &statepb.Command{Change: &statepb.Command_DeleteUser{DeleteUser: &statepb.DeleteUser{Name: req.Msg.GetName()}}}); err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.DeleteUserResponse{}), nil
}

func (s *userServer) Certificate(ctx context.Context, req *connect.Request[v1.UserCertificateRequest]) (*connect.Response[v1.UserCertificateResponse], error) {
	l, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	name := req.Msg.GetName()
	if l.GetUsers()[name] == nil {
		return nil, notFound("user", name, l.GetUsers())
	}
	public, err := x509.ParsePKIXPublicKey(req.Msg.GetPublicKey())
	if err != nil {
		return nil, fail(CodeBadRequest, "", "the public key can't be read: %v", err)
	}
	// Signed only after it is known that it was asked for.
	audit, _ := ctx.Value(auditKey{}).(*statepb.Audit)
	note := &v1.Event{Severity: v1.Severity_SEVERITY_INFORMATION, Code: "user.certificate", Message: "a certificate is issued for user " + name}
	if audit == nil {
		return nil, fail(CodeInternal, "", "nobody has asked for this certificate")
	}
	if err := s.submit(ctx, &statepb.Command{Change: &statepb.Command_Note{Note: &statepb.Note{Events: []*v1.Event{note}}}}); err != nil {
		return nil, err
	}
	cert, authorities, err := s.b.Sign(ctx, name, l.GetCertificates()[state.ClientCertificateOf(name)], public)
	if err != nil {
		return nil, answered(err)
	}
	return connect.NewResponse(&v1.UserCertificateResponse{Certificate: cert, Authority: authorities}), nil
}

func (s *userServer) Whoami(ctx context.Context, _ *connect.Request[v1.WhoamiRequest]) (*connect.Response[v1.WhoamiResponse], error) {
	l, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	caller := callerOf(ctx)
	resp := &v1.WhoamiResponse{Source: l.source(), Who: caller.Who}
	if !caller.Trusted {
		resp.User = l.GetUsers()[caller.User]
	}
	return connect.NewResponse(resp), nil
}
