package packages

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/protoyaml"
)

// TestScripts runs testdata: "group" prints the group that a package becomes
// on nodes n1, n2 and n3 with what is wrong with it, "together" what is wrong
// between packages.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			all := read(t, d.Input)
			var b strings.Builder
			say := func(faults []protoyaml.Fault) {
				for _, f := range faults {
					fmt.Fprintln(&b, f)
				}
			}
			switch d.Cmd {
			case "group":
				for _, p := range all {
					g, faults := Group(p, []string{"n1", "n2", "n3"})
					g.Package = nil // is what stands above
					say(faults)
					if !d.HasArg("faults") {
						b.Write(protoyaml.Options{}.YAML(g))
					}
				}
			case "together":
				say(Check(all))
			default:
				t.Fatalf("no such verb: %s", d.Cmd)
			}
			if b.Len() == 0 {
				return "no faults\n"
			}
			return b.String()
		})
	})
}

func read(t *testing.T, text string) (all []*v1.Package) {
	t.Helper()
	var d protoyaml.Decoder
	for _, doc := range d.Split("test", []byte(text+"\n")) {
		p := &v1.Package{}
		d.Decode(doc, p, protoyaml.Path{})
		all = append(all, p)
	}
	if f := d.Faults(); len(f) > 0 {
		t.Fatal(f)
	}
	return all
}

var words = rapid.SampledFrom([]string{"a", "b", "c-d", "", "/x", "10.0.0.1/24", "10.0.0.0/24", "fd00::1/64", "*", "n1", "/a b", ">= 5", strings.Repeat("x", 60)})

// anyPackage of which nothing needs to be right.
var anyPackage = rapid.Custom(func(t *rapid.T) *v1.Package {
	list := rapid.SliceOfN(words, 0, 3)
	p := &v1.Package{
		Name: rapid.SampledFrom([]string{"p", "q", "r", ""}).Draw(t, "name"), Type: v1.PackageType(rapid.IntRange(0, 4).Draw(t, "type")),
		NodeName: list.Draw(t, "nodes"), IpAddress: list.Draw(t, "addresses"), ExternalScript: list.Draw(t, "scripts"), ExternalPreScript: list.Draw(t, "pre"),
		Priority: rapid.Uint32Range(0, 4).Draw(t, "priority"), FailoverPolicy: rapid.SampledFrom([]string{"", "configured_node", "min_package_node", "x"}).Draw(t, "policy"),
		Pev: rapid.MapOfN(words, words, 0, 2).Draw(t, "pev"), Weights: rapid.MapOfN(words, rapid.Int64(), 0, 2).Draw(t, "weights"),
	}
	for range rapid.IntRange(0, 3).Draw(t, "parts") {
		name := words.Draw(t, "part")
		p.Services = append(p.Services, &v1.PackageService{Name: name, Cmd: words.Draw(t, "cmd"), Restart: rapid.Int32Range(-2, 3).Draw(t, "restart")})
		p.GenericResources = append(p.GenericResources, &v1.PackageGenericResource{Name: name, BeforeStart: rapid.Bool().Draw(t, "before"), UpCriteria: words.Draw(t, "criteria")})
		p.Mounts = append(p.Mounts, &v1.PackageMount{Name: name, Directory: words.Draw(t, "directory"), Type: "ext4"})
		p.MonitoredSubnets = append(p.MonitoredSubnets, &v1.PackageSubnet{Subnet: words.Draw(t, "subnet"), Partial: rapid.Bool().Draw(t, "partial")})
		p.Dependencies = append(p.Dependencies, &v1.PackageDependency{Name: name, Package: rapid.SampledFrom([]string{"p", "q", "r", "s", ""}).Draw(t, "on"),
			Down: rapid.Bool().Draw(t, "down"), Location: rapid.SampledFrom([]string{"", "same_node", "any_node", "different_node", "all_nodes", "x"}).Draw(t, "location")})
	}
	return p
})

// K1, K2 and K3 hold also of packages that are wrong.
func TestAnyPackageIsTranslated(t *testing.T) {
	nodes := []string{"n1", "n2"}
	rapid.Check(t, func(t *rapid.T) {
		p := anyPackage.Draw(t, "package")
		before := proto.CloneOf(p)
		g, faults := Group(p, nodes)
		again, _ := Group(Of(g), nodes)
		if !proto.Equal(p, before) || !proto.Equal(g, again) || !proto.Equal(g.GetPackage(), p) {
			t.Fatalf("%v\n%v\n%v", p, g, again)
		}
		for _, f := range faults {
			if f.Problem == "" || !strings.HasPrefix(f.Path, Path(p.GetName()).String()) {
				t.Fatalf("%+v", f)
			}
		}
		// What is required comes before what requires it: no cycles, and nothing that is not there.
		var seen []string
		for _, r := range g.GetResources() {
			for _, q := range r.GetRequires() {
				if !slices.Contains(seen, q) {
					t.Fatalf("%s requires %s: %v", r.GetName(), q, seen)
				}
			}
			seen = append(seen, r.GetName())
		}
		Check([]*v1.Package{p, anyPackage.Draw(t, "another")})
	})
}

// A package of a group has what was done to the group.
func TestOf(t *testing.T) {
	g := Wrap(&v1.Package{Name: "p"})
	g.Frozen, g.FrozenReason = true, "work on the roof"
	if p := Of(g); !p.GetFrozen() || p.GetFrozenReason() != g.FrozenReason || g.Package.GetFrozen() {
		t.Errorf("%v of %v", p, g)
	}
	if Of(&v1.Group{Name: "g"}) != nil {
		t.Error("a group became a package")
	}
}

// Entries of one name, as they can come by the API: files with them are refused when they are read.
func TestEntriesOfOneName(t *testing.T) {
	p := &v1.Package{Name: "p",
		Services:         []*v1.PackageService{{Name: "a", Cmd: "/a"}, {Name: "a", Cmd: "/b"}},
		GenericResources: []*v1.PackageGenericResource{{Name: "s"}, {Name: "s", BeforeStart: true}},
		Mounts:           []*v1.PackageMount{{Name: "/dev/a", Directory: "/a", Type: "xfs"}, {Name: "/dev/a", Directory: "/b", Type: "xfs"}},
		Dependencies:     []*v1.PackageDependency{{Name: "d", Package: "x"}, {Name: "d", Package: "y"}},
	}
	_, faults := Group(p, []string{"n1"})
	var got []string
	for _, f := range faults {
		got = append(got, f.Path+": "+f.Problem)
	}
	want := []string{
		"package p, dependency d, name: is the name of two dependencies",
		"package p, genericResource s, name: is the name of two generic resources",
		"package p, mount /dev/a, name: is mounted twice",
		"package p, service a, name: is the name of two services",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}
