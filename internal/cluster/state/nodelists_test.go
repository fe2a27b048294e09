package state

import (
	"maps"
	"slices"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	pb "github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
	"github.com/holdfast-ha/holdfast/internal/schema"
)

// A package for all nodes is for those that join later, too, and no longer for
// those that are removed, which nobody needs to ask for.
func TestPackagesForAllNodes(t *testing.T) {
	s := three(t)
	s.Groups["web"].SystemList = []string{"n1", "n2"}
	all := func(name string, nodes ...string) *v1.Group {
		return &v1.Group{Name: name, SystemList: []string{"n1", "n2", "n3"}, AutoStartList: []string{"n1", "n2", "n3"}, Package: &v1.Package{Name: name, NodeName: nodes}}
	}
	s.Groups["every"], s.Groups["star"] = all("every"), all("star", "*")
	s.Groups["some"] = all("some", "n1", "n2", "n3")
	s.Groups["some"].DisabledNodes, s.Groups["some"].SystemZones = []string{"n3", "n1"}, map[string]uint32{"n1": 1, "n3": 2}
	s.Groups["some"].Resources = []*v1.Resource{{Name: "r", NodeAttributes: map[string]*v1.Values{"n3": {}, "n2": {}}}}
	do(s, invitation("i", "n0", "x"))
	wants(t, "enroll", do(s, enrolls("i", 1)), "")
	for name, want := range map[string]int{"every": 4, "star": 4, "some": 3, "web": 2} {
		g := s.Groups[name]
		if len(g.SystemList) != want || name != "web" && !slices.Equal(g.SystemList, g.AutoStartList) || !slices.IsSorted(g.SystemList) {
			t.Errorf("%s: %v, %v", name, g.SystemList, g.AutoStartList)
		}
	}
	s.View.Members = s.View.Members[:2]
	remove := func(groups bool) string {
		return do(s, &pb.Command{Change: &pb.Command_RemoveNode{RemoveNode: &pb.RemoveNode{Node: "n3", FromGroups: groups}}})
	}
	wants(t, "it is listed", remove(false), "n3 is on the system list of some:")
	wants(t, "from groups", remove(true), "")
	for name, g := range s.Groups {
		if slices.Contains(g.SystemList, "n3") || slices.Contains(g.AutoStartList, "n3") || slices.Contains(g.DisabledNodes, "n3") || slices.Contains(g.GetPackage().GetNodeName(), "n3") {
			t.Errorf("%s: %v", name, g)
		}
	}
	g := s.Groups["some"]
	if len(g.SystemZones) != 1 || len(g.Resources[0].NodeAttributes) != 1 || len(g.Package.NodeName) != 2 || len(g.DisabledNodes) != 1 || !slices.Equal(s.Groups["star"].Package.NodeName, []string{"*"}) {
		t.Errorf("%v, %v", g, s.Groups["star"])
	}
}

// What the schema says can't be changed while a group runs is refused: each of it.
func TestFixedFields(t *testing.T) {
	var fixed []protoreflect.FullName
	for _, object := range []string{"Group", "Package", "Resource", "Node", "Cluster"} {
		fields := schema.Object(object).Fields()
		for i := range fields.Len() {
			if schema.Of(fields.Get(i)).GetFixed() {
				fixed = append(fixed, fields.Get(i).FullName())
			}
		}
	}
	slices.Sort(fixed)
	changes := map[protoreflect.FullName]func(*v1.Group){
		"holdfast.v1.Group.hybrid":   func(g *v1.Group) { g.Hybrid = true },
		"holdfast.v1.Group.parallel": func(g *v1.Group) { g.Parallel = true },
		"holdfast.v1.Package.type":   func(g *v1.Group) { g.Package.Type = v1.PackageType_PACKAGE_TYPE_MULTI_NODE },
	}
	if want := slices.Sorted(maps.Keys(changes)); !slices.Equal(fixed, want) {
		t.Fatalf("fixed are %v; refused are changes of %v", fixed, want)
	}
	for _, online := range []bool{true, false} {
		for _, field := range fixed {
			s := three(t)
			s.Groups["web"].Package = &v1.Package{Name: "web"}
			for i, node := range []string{"n1", "n2", "n3"} {
				is := v1.ResourceState_RESOURCE_STATE_OFFLINE
				if online && i == 0 {
					is = v1.ResourceState_RESOURCE_STATE_ONLINE
				}
				report(t, s, node, is, uint64(1+i))
			}
			apply := func(change func(*v1.Group)) string {
				c := Configuration(s)
				change(c.Groups[0])
				o := Apply(s, &pb.Command{Change: &pb.Command_Configure{Configure: &pb.Configure{BaseRevision: s.ConfigRevision, Configuration: c}}})
				if o.Refused != nil {
					return o.Refused.Message
				}
				return ""
			}
			// To write out what is so anyway is no change.
			wants(t, "its own type", apply(func(g *v1.Group) { g.Package.Type = v1.PackageType_PACKAGE_TYPE_FAILOVER }), "")
			want := ""
			if online {
				want = "can't become another kind of group"
			}
			wants(t, string(field), apply(changes[field]), want)
		}
	}
}
