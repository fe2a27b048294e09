package api

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// Every procedure has a row, every row a procedure; what changes something needs
// more than a guest, and streams, which are admitted before their request is
// read, need no more than any role.
func TestEveryProcedureHasAPermission(t *testing.T) {
	seen := map[string]bool{}
	var services []protoreflect.ServiceDescriptor
	for _, f := range []protoreflect.FileDescriptor{v1.File_api_holdfast_v1_services_proto, v1.File_api_holdfast_v1_fencing_proto, v1.File_api_holdfast_v1_notifiers_proto} {
		for i := range f.Services().Len() {
			services = append(services, f.Services().Get(i))
		}
	}
	for _, service := range services {
		methods := service.Methods()
		for j := range methods.Len() {
			m := methods.Get(j)
			name := string(service.Name()) + "/" + string(m.Name())
			seen[name] = true
			p, ok := permissions[name]
			if !ok {
				t.Errorf("%s has no row in access.go: only administrators may call it", name)
				continue
			}
			reads := m.Options().(*descriptorpb.MethodOptions).GetIdempotencyLevel() == descriptorpb.MethodOptions_NO_SIDE_EFFECTS
			if !reads && !m.IsStreamingServer() && p.role < operator {
				t.Errorf("%s changes something, and a guest may call it", name)
			}
			if m.IsStreamingServer() && p != (permission{guest, someone}) {
				t.Errorf("%s is a stream: it is admitted without its request", name)
			}
			if p.scope == group && !aboutGroups(m.Input()) {
				t.Errorf("%s is given for groups, but its request names none", name)
			}
		}
	}
	for name := range permissions {
		if !seen[name] {
			t.Errorf("there is no procedure %s", name)
		}
	}
}

func aboutGroups(m protoreflect.MessageDescriptor) bool {
	return m.Fields().ByName("group") != nil || m.Name() == "ApplyRequest"
}

func TestMay(t *testing.T) {
	s := &statepb.State{Groups: map[string]*v1.Group{
		"web": {Name: "web", Resources: []*v1.Resource{{Name: "ip"}, {Name: "both"}}}, "db": {Name: "db", Resources: []*v1.Resource{{Name: "both"}}},
	}}
	user := func(role v1.Role, groups ...v1.Role) *v1.User {
		u := &v1.User{Name: "u", Role: role, Groups: map[string]v1.Role{}}
		for i, g := range groups {
			u.Groups[[]string{"web", "db"}[i]] = g
		}
		return u
	}
	groups := func(names ...string) *v1.ApplyRequest {
		a := &v1.ApplyRequest{Documents: &v1.Configuration{}}
		for _, n := range names {
			a.Documents.Groups = append(a.Documents.Groups, &v1.Group{Name: n})
		}
		return a
	}
	prune, node, cl := groups("web"), groups("web"), groups("web")
	prune.Prune = true
	node.Documents.Nodes = []*v1.Node{{Name: "n1"}}
	cl.Documents.Cluster = &v1.Cluster{}
	none := v1.Role_ROLE_UNSPECIFIED
	for _, c := range []struct {
		name      string
		user      *v1.User
		procedure string
		request   any
		want      bool
	}{
		{"guest reads", user(guest), "ClusterService/Status", &v1.StatusRequest{}, true},
		{"guest of a group reads", user(none, guest), "ClusterService/Status", &v1.StatusRequest{}, true},
		{"nobody reads", user(none), "ClusterService/Status", &v1.StatusRequest{}, false},
		{"guest switches", user(guest), "GroupService/Switch", &v1.SwitchGroupRequest{Group: "web"}, false},
		{"operator switches", user(operator), "GroupService/Switch", &v1.SwitchGroupRequest{Group: "web"}, true},
		{"operator of web switches web", user(none, operator), "GroupService/Switch", &v1.SwitchGroupRequest{Group: "web"}, true},
		{"operator of web switches db", user(none, operator), "GroupService/Switch", &v1.SwitchGroupRequest{Group: "db"}, false},
		{"operator of web, a resource of it", user(none, operator), "ResourceService/Online", &v1.OnlineResourceRequest{Resource: "ip"}, true},
		{"a name that two groups have", user(none, operator), "ResourceService/Online", &v1.OnlineResourceRequest{Resource: "both"}, false},
		{"a resource of nobody", user(none, operator), "ResourceService/Online", &v1.OnlineResourceRequest{Resource: "x"}, false},
		{"operator stops a node", user(operator), "NodeService/Stop", &v1.StopNodeRequest{Node: "n1"}, false},
		{"administrator stops a node", user(administrator), "NodeService/Stop", &v1.StopNodeRequest{Node: "n1"}, true},
		{"administrator of web applies web", user(none, administrator), "ConfigService/Apply", groups("web"), true},
		{"administrator of web applies both", user(none, administrator), "ConfigService/Apply", groups("web", "db"), false},
		{"administrator of web makes a group", user(none, administrator), "ConfigService/Apply", groups("new"), false},
		{"administrator of web prunes", user(none, administrator), "ConfigService/Apply", prune, false},
		{"administrator of web changes a node", user(none, administrator), "ConfigService/Apply", node, false},
		{"administrator of web changes the cluster", user(none, administrator), "ConfigService/Apply", cl, false},
		{"administrator of web applies nothing", user(none, administrator), "ConfigService/Apply", groups(), false},
		{"operator of web applies web", user(guest, operator), "ConfigService/Apply", groups("web"), false},
		{"guest of a group exports", user(none, administrator), "ConfigService/Export", &v1.ExportRequest{}, false},
		{"a procedure without a row", user(operator), "NewService/Do", nil, false},
		{"user makes itself administrator", user(operator), "UserService/Set", &v1.SetUserRequest{}, false},
	} {
		if got := may(s, c.user, permissionFor(c.procedure), c.request); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	if got := objectOf(&v1.StopNodeRequest{Node: "n1\n" + strings.Repeat("x", 200)}); strings.Contains(got, "\n") || len(got) > objectMax+8 {
		t.Errorf("%q", got)
	}
}
