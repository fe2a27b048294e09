package config

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"pgregory.net/rapid"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/group/agents"
	"github.com/holdfast-ha/holdfast/internal/schema"
)

// goodPackages are right in themselves and beside each other.
var goodPackages = rapid.Custom(func(t *rapid.T) *v1.Configuration {
	cfg := &v1.Configuration{Cluster: &v1.Cluster{Name: "c"}}
	for i := range rapid.IntRange(1, 3).Draw(t, "nodes") {
		cfg.Nodes = append(cfg.Nodes, &v1.Node{Name: fmt.Sprintf("n%d", i+1), Site: "s", Capacity: map[string]int64{"cpu": 8},
			Links: []*v1.Link{{Name: "a", Address: fmt.Sprintf("10.0.0.%d", i+1)}, {Name: "b", Address: fmt.Sprintf("10.0.1.%d", i+1)}}})
	}
	some := func(name string) int { return rapid.IntRange(0, 2).Draw(t, name) }
	yes := func(name string) bool { return rapid.Bool().Draw(t, name) }
	for i := range rapid.IntRange(1, 4).Draw(t, "packages") {
		p := &v1.Package{Name: fmt.Sprintf("p%d", i), NodeFailFastEnabled: yes("nff")}
		switch rapid.IntRange(0, 4).Draw(t, "type") {
		case 0:
			p.Type = v1.PackageType_PACKAGE_TYPE_MULTI_NODE
		case 1:
			p.Type, p.NodeFailFastEnabled = v1.PackageType_PACKAGE_TYPE_SYSTEM_MULTI_NODE, true
		case 2:
			p.FailoverPolicy = rapid.SampledFrom([]string{"min_package_node", "site_preferred", "site_preferred_manual"}).Draw(t, "policy")
		default:
			p.FailbackPolicy = rapid.SampledFrom([]string{"", "manual", "automatic"}).Draw(t, "failback")
			if yes("priority") {
				p.Priority = uint32(1 + i)
			}
		}
		failover := p.Type == v1.PackageType_PACKAGE_TYPE_UNSPECIFIED
		if failover || p.Type == v1.PackageType_PACKAGE_TYPE_MULTI_NODE {
			if yes("weights") {
				p.Weights = map[string]int64{"cpu": int64(some("cpu"))}
			}
		}
		for j := range some("services") {
			p.Services = append(p.Services, &v1.PackageService{Name: fmt.Sprintf("s%d", j), Cmd: "/bin/x 'a b'", Restart: rapid.Int32Range(-1, 9).Draw(t, "restart"),
				FailFastEnabled: yes("sff"), HaltTimeout: durationpb.New(time.Duration(some("halt")) * time.Second)})
		}
		for j := range some("signals") {
			p.GenericResources = append(p.GenericResources, &v1.PackageGenericResource{Name: fmt.Sprintf("g%d", j), BeforeStart: yes("before"), UpCriteria: "> 5"})
		}
		for j := range some("mounts") {
			p.Mounts = append(p.Mounts, &v1.PackageMount{Name: fmt.Sprintf("/dev/d%d-%d", i, j), Directory: fmt.Sprintf("/srv/%d/%d", i, j), Type: "ext4", MountOpt: "noatime"})
		}
		for j := range some("subnets") {
			p.MonitoredSubnets = append(p.MonitoredSubnets, &v1.PackageSubnet{Subnet: fmt.Sprintf("10.%d.0.0/16", j+1), Partial: yes("partial")})
		}
		for j := range some("scripts") {
			p.ExternalScript = append(p.ExternalScript, fmt.Sprintf("/etc/pkg/%d/run", j))
			p.ExternalPreScript = append(p.ExternalPreScript, fmt.Sprintf("/etc/pkg/%d/run", j))
			p.Pev = map[string]string{"x": "it's \"me\" $HOME \\"}
		}
		if failover {
			for j := range some("addresses") {
				p.IpAddress = append(p.IpAddress, fmt.Sprintf("10.1.%d.%d/16", i, j+1))
			}
		}
		for j, other := range cfg.Groups {
			many := other.GetPackage().GetType() != v1.PackageType_PACKAGE_TYPE_UNSPECIFIED
			if many && yes("dependency") || !many && failover && p.FailoverPolicy == "" && yes("dependency on a failover package") {
				p.Dependencies = append(p.Dependencies, &v1.PackageDependency{Name: fmt.Sprintf("d%d", j), Package: other.GetName()})
			}
		}
		cfg.Groups = append(cfg.Groups, &v1.Group{Name: p.Name, Package: p})
	}
	return cfg
})

// K4 of internal/group/packages, with what is bundled: a package without
// faults makes a group without faults. And F5: it can be written down, read
// back and completed again without becoming another one.
func TestGoodPackagesAreGoodGroups(t *testing.T) {
	types := agents.Types()
	rapid.Check(t, func(t *rapid.T) {
		cfg := Complete(goodPackages.Draw(t, "packages"), types)
		if faults := Check(cfg, types, agents.Check); len(faults) > 0 {
			t.Fatalf("%s\n%s", lines(faults), Export(cfg))
		}
		docs := Parse(File{Name: "x.yaml", Text: Export(cfg)})
		again, faults := Merge(cfg, docs.Configuration(), true)
		again = Complete(again, types)
		if len(docs.Faults())+len(faults) > 0 || len(Diff(cfg, again)) > 0 || !proto.Equal(cfg, again) {
			t.Fatalf("%s%s%s", lines(docs.Faults()), lines(faults), Render(Diff(cfg, again)))
		}
	})
}

func TestPackagesStayFrozen(t *testing.T) {
	nodes := []*v1.Node{{Name: "n1", Frozen: true, FrozenReason: "old"}}
	base := Complete(&v1.Configuration{Nodes: nodes, Groups: []*v1.Group{{Name: "p", Package: &v1.Package{Name: "p"}, Frozen: true, FrozenReason: "roof"}}}, nil)
	docs := Parse(File{Name: "x.yaml", Text: []byte("kind: Package\nname: p\nautoRun: false\n---\nkind: Node\nname: n1\nfrozenReason: new\n")})
	now, _ := Merge(base, docs.Configuration(), false)
	now = Complete(now, nil)
	g := now.Groups[0]
	if !g.GetFrozen() || g.GetFrozenReason() != "roof" || g.GetPackage().GetAutoRun() || !now.Nodes[0].GetFrozen() || now.Nodes[0].GetFrozenReason() != "new" {
		t.Errorf("%v", now)
	}
	if got := Render(Diff(base, now)); got != "~ node n1, frozenReason: old -> new\n+ package p, autoRun: false\n" {
		t.Errorf("%s", got)
	}
}

// The examples of docs/packages.md are right, and show what they are said to show.
func TestPackageExamples(t *testing.T) {
	text, err := os.ReadFile("../../docs/packages.md")
	if err != nil {
		t.Fatal(err)
	}
	cfg := &v1.Configuration{Cluster: &v1.Cluster{Name: "c"}}
	for i := range 3 {
		cfg.Nodes = append(cfg.Nodes, &v1.Node{Name: fmt.Sprintf("n%d", i+1), Capacity: map[string]int64{"memory": 64},
			Links: []*v1.Link{{Name: "a", Address: fmt.Sprintf("10.0.0.%d", i+1)}, {Name: "b", Address: fmt.Sprintf("10.0.1.%d", i+1)}}})
	}
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllSubmatch(text, -1)
	if len(blocks) < 2 {
		t.Fatalf("%d examples", len(blocks))
	}
	for i, b := range blocks {
		docs := Parse(File{Name: fmt.Sprintf("example %d", i+1), Text: b[1]})
		for _, f := range docs.Check(cfg, agents.Types(), false, agents.Check) {
			t.Error(f)
		}
		cfg, _ = Merge(cfg, docs.Configuration(), false)
	}
	for _, note := range Lint(Complete(cfg, agents.Types()), agents.Types()) {
		t.Error(note)
	}
	// Every parameter of a package is in the table.
	var rows strings.Builder
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "|") {
			rows.WriteString(line)
		}
	}
	for _, object := range []string{"Package", "PackageService", "PackageDependency", "PackageSubnet", "PackageGenericResource", "PackageMount"} {
		fields := schema.Object(object).Fields()
		for i := range fields.Len() {
			f := fields.Get(i)
			if !strings.Contains(rows.String(), "`"+f.JSONName()+"`") && !strings.Contains(rows.String(), "`"+f.JSONName()+":") && !strings.HasPrefix(f.JSONName(), "frozen") {
				t.Errorf("%s of %s is not in the table of parameters", f.JSONName(), object)
			}
		}
	}
}

// The name of the group counts, whoever wrote another one into its package.
func TestPackageOfAnotherName(t *testing.T) {
	cfg := Complete(&v1.Configuration{Groups: []*v1.Group{{Name: "g", Package: &v1.Package{Name: "x"}}}}, nil)
	if g := cfg.Groups[0]; g.GetName() != "g" || g.GetPackage().GetName() != "g" {
		t.Errorf("%v", g)
	}
}
