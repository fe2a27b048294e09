package schema

import (
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

// R1, and that rules are rules of fields that can have them.
func TestRules(t *testing.T) {
	n := 0
	eachField(func(f protoreflect.FieldDescriptor) {
		r := Of(f)
		if r == nil {
			return
		}
		n++
		if d := r.GetDefault(); d != "" {
			v, ok := Default(f)
			if !ok {
				t.Errorf("%s: no default", f.FullName())
			} else if !f.IsList() {
				if problem, _ := Problem(f, v); problem != "" {
					t.Errorf("%s: the default %s", f.FullName(), problem)
				}
			}
			if !f.HasPresence() && f.Kind() == protoreflect.BoolKind {
				t.Errorf("%s: false is not told from unset, so that the default %s can't be overridden", f.FullName(), d)
			}
		}
		if r.GetNames() != "" {
			names(&v1.Configuration{}, r.GetNames())
		}
		value := f
		if f.IsMap() {
			value = f.MapValue()
		}
		number := slices.Contains([]protoreflect.Kind{protoreflect.Uint32Kind, protoreflect.Int32Kind, protoreflect.Int64Kind}, value.Kind())
		if bounded := r.GetMin() != 0 || r.GetMax() != 0; bounded && (r.GetMin() > r.GetMax() || !number && !isDuration(value)) {
			t.Errorf("%s: a range of %d to %d", f.FullName(), r.GetMin(), r.GetMax())
		}
		if l := r.GetLeast(); l != "" {
			if d, err := time.ParseDuration(l); err != nil || d <= 0 || !isDuration(value) || r.GetMax() == 0 {
				t.Errorf("%s: at least %s", f.FullName(), l)
			}
		}
		if len(r.GetWords()) > 0 && value.Kind() != protoreflect.StringKind {
			t.Errorf("%s: words of what is no text", f.FullName())
		}
		if r.GetMost() > 0 && !f.IsList() && !f.IsMap() {
			t.Errorf("%s: at most %d of one", f.FullName(), r.GetMost())
		}
	})
	if n < 100 {
		t.Errorf("only %d rules found", n)
	}
}

func TestSetDefaults(t *testing.T) {
	g := &v1.Group{AutoFailOver: proto.Uint32(0), Resources: []*v1.Resource{{Critical: proto.Bool(false)}},
		DependsOn: []*v1.GroupDependency{{Location: v1.GroupDependency_GLOBAL}}, Package: &v1.Package{Services: []*v1.PackageService{{Restart: 3}}}}
	SetDefaults(g)
	r, d, p := g.Resources[0], g.DependsOn[0], g.Package
	switch {
	case g.GetAutoFailOver() != 0 || !g.GetAutoStart() || g.GetFailOverPolicy() != v1.FailOverPolicy_FAIL_OVER_POLICY_PRIORITY || g.GetPreOnlineTimeout().AsDuration() != 5*time.Minute,
		r.GetCritical() || !r.GetEnabled() || r.Limits != nil,
		d.GetLocation() != v1.GroupDependency_GLOBAL || d.GetCategory() != v1.GroupDependency_ONLINE,
		!slices.Equal(p.GetNodeName(), []string{"*"}) || p.GetFailoverPolicy() != "configured_node" || p.Services[0].GetHaltTimeout() == nil:
		t.Errorf("%v", g)
	}
	// R2.
	g.PreOnlineTimeout.Seconds, g.Package.NodeName[0] = 7, "n1"
	again := &v1.Group{Package: &v1.Package{}}
	SetDefaults(again)
	if again.GetPreOnlineTimeout().AsDuration() != 5*time.Minute || again.GetPackage().GetNodeName()[0] != "*" {
		t.Errorf("a default was changed by whom it was given to: %v", again)
	}
}

func TestProblem(t *testing.T) {
	for _, c := range []struct {
		object, key string
		value       any
		want        string
	}{
		{"Limits", "toleranceLimit", uint32(1000), ""},
		{"Limits", "toleranceLimit", uint32(1001), "is 1001; write 0 to 1000"},
		{"Limits", "monitorInterval", 50 * time.Millisecond, ""},
		{"Limits", "monitorInterval", time.Duration(0), "is 0s; write 50ms to 24h"},
		{"Limits", "monitorInterval", 25 * time.Hour, "is 25h; write 50ms to 24h"},
		{"Limits", "offlineMonitorInterval", time.Duration(0), ""},
		{"Limits", "offlineMonitorInterval", time.Millisecond, "is 1ms; write 50ms to 24h, or 0s"},
		{"Cluster", "minimumResidence", -time.Second, "is -1s; write 0s to 168h"},
		{"PackageService", "restart", int32(-1), ""},
		{"PackageService", "restart", int32(-2), "is -2; write -1 to 100000"},
		{"Group", "load", int64(-2), "is -2; write 0 to 1000000000000"},
		{"Package", "failoverPolicy", "min_package_node", ""},
		{"Package", "failoverPolicy", "min_package_nodes", `"min_package_nodes" is none of its values; did you mean min_package_node?`},
		{"Group", "owner", "anybody", ""},
	} {
		f := Field(Object(c.object), c.key)
		var v protoreflect.Value
		if d, ok := c.value.(time.Duration); ok {
			v = protoreflect.ValueOfMessage(durationpb.New(d).ProtoReflect())
		} else {
			v = protoreflect.ValueOf(c.value)
		}
		problem, fix := Problem(f, v)
		if got := strings.TrimSuffix(problem+"; "+fix, "; "); got != c.want {
			t.Errorf("%s.%s = %v: %q, want %q", c.object, c.key, c.value, got, c.want)
		}
	}
}

func TestCompletion(t *testing.T) {
	cfg := &v1.Configuration{Nodes: []*v1.Node{{Name: "n2"}, {Name: "n1"}}, Groups: []*v1.Group{{Name: "web", Resources: []*v1.Resource{{Name: "ip"}}}}}
	for key, want := range map[string]string{
		"Group.systemList":                "n1 n2",
		"Group.failOverPolicy":            "priority roundRobin load biggestAvailable sitePreferred",
		"Group.autoStart":                 "true false",
		"Group.onlineRetryLimit":          "0",
		"GroupDependency.group":           "web",
		"Resource.requires":               "ip",
		"Resource.limits.monitorInterval": "1m",
		"Package.location":                "-",
		"Cluster.timers.peerinact":        "1s",
		"Group.owner":                     "",
	} {
		object, key, _ := strings.Cut(key, ".")
		f := Field(Object(object), key)
		if f == nil {
			if want != "-" {
				t.Errorf("%s has no %s", object, key)
			}
			continue
		}
		if got := strings.Join(Values(f, cfg), " "); got != want {
			t.Errorf("%s.%s: %q, want %q", object, key, got, want)
		}
		if !slices.Contains(Keys(Object(object)), key) {
			t.Errorf("%s is no key of %s: %q", key, object, Keys(Object(object)))
		}
	}
	if Object("Nothing") != nil || Field(Object("Group"), "systemList.x") != nil || Field(Object("Resource"), "limits.x") != nil {
		t.Error("there is what there is not")
	}
}
