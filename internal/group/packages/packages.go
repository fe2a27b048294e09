// Package packages turns packages, as Serviceguard's administrators write them,
// into groups: the planner and the agents know groups only, and behave by the
// rules of a package where a group carries one.
//
// It is pure. The caller owes it packages that have passed the rules of the
// schema (ranges, words, names that exist) where it wants a group that is right
// in itself; what is wrong makes a fault, never a panic.
//
//	K1  equal packages and nodes give equal groups
//	K2  a group made of a package carries the package, so that nothing of what was written is lost
//	K3  resources go online in the order of SG-120, and offline in the reverse
//	K4  a package without faults makes a group without faults: what the agents find wrong with an attribute is said of the
//	    line of the package that it came from (Places)
//
// docs/packages.md says what each parameter becomes.
package packages

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/protoyaml"
)

const (
	// DragPriority of a group is this less the priority of its package, of which lower ones are more important.
	dragBase = 3001
	// unlimited stands for no limit: of restarts, and for no_timeout.
	unlimitedRestarts = 1_000_000
	unlimitedTime     = 24 * time.Hour
	// packageLimit is the capacity that every package takes one of unless it says otherwise.
	packageLimit = "package_limit"
	maxName      = 63
)

// Types of the resources that packages are made of.
const (
	typeScript      = "PackageScript"
	typeMount       = "Mount"
	typeIP          = "IP"
	typeService     = "PackageService"
	typeSubnet      = "Subnet"
	typeSignal      = "GenericResource"
	typeSignalFirst = "PersistentGenericResource"
)

// Of returns the package of a group as it is written down: with what was
// changed on the group since. nil for groups that are no packages.
func Of(g *v1.Group) *v1.Package {
	if g.GetPackage() == nil {
		return nil
	}
	p := proto.CloneOf(g.GetPackage())
	p.Frozen, p.FrozenReason = g.GetFrozen(), g.GetFrozenReason()
	return p
}

// Wrap returns the group that stands for a package until it is known among
// which nodes: it has the package and what Of takes from the group.
func Wrap(p *v1.Package) *v1.Group {
	return &v1.Group{Name: p.GetName(), Package: proto.CloneOf(p), Frozen: p.GetFrozen(), FrozenReason: p.GetFrozenReason()}
}

// Group turns a package into the group of the same name. nodes are those of
// the cluster, in the order that "*" stands for. Faults with Note set are
// things to look at.
func Group(p *v1.Package, nodes []string) (*v1.Group, []protoyaml.Fault) {
	t := translate(p, nodes)
	return t.g, t.faults
}

// Places says what in a package a path in its group came from: "resource
// billing-app, attributes.Command" is "service app, cmd". The longest match counts.
func Places(p *v1.Package, nodes []string) map[string]string { return translate(p, nodes).places }

type translation struct {
	p      *v1.Package
	at     protoyaml.Path
	g      *v1.Group
	faults []protoyaml.Fault
	places map[string]string
	// stage is what the next resources require: those of the stage before.
	stage, next []string
}

func translate(p *v1.Package, nodes []string) *translation {
	t := &translation{p: p, at: Path(p.GetName()), g: Wrap(p), places: map[string]string{
		"systemList": "nodeName", "load": "weights", "failOverPolicy": "failoverPolicy", "failback": "failbackPolicy",
	}}
	t.nodes(nodes)
	t.policies()
	t.weights()
	t.dependencies()
	t.variables()
	// What must be so before anything is started.
	t.subnets()
	t.signals(true)
	t.then()
	t.scripts("pre", "externalPreScript", p.GetExternalPreScript())
	t.groups()
	t.mounts()
	t.addresses()
	t.then()
	t.scripts("script", "externalScript", p.GetExternalScript())
	t.services()
	t.then()
	t.signals(false)
	return t
}

// Path of a package in faults.
func Path(name string) protoyaml.Path {
	if name == "" {
		name = "without a name"
	}
	return protoyaml.Object("package", name)
}

func (t *translation) fault(at protoyaml.Path, problem, fix string) {
	t.faults = append(t.faults, protoyaml.Fault{Path: at.String(), Problem: problem, Fix: fix})
}

func (t *translation) note(at protoyaml.Path, problem, fix string) {
	t.faults = append(t.faults, protoyaml.Fault{Path: at.String(), Problem: problem, Fix: fix, Note: true})
}

// many says that a package runs on several nodes at once.
func many(p *v1.Package) bool {
	return p.GetType() == v1.PackageType_PACKAGE_TYPE_MULTI_NODE || p.GetType() == v1.PackageType_PACKAGE_TYPE_SYSTEM_MULTI_NODE
}

func system(p *v1.Package) bool {
	return p.GetType() == v1.PackageType_PACKAGE_TYPE_SYSTEM_MULTI_NODE
}

// byOrder says that the order of nodes decides where a package runs (configured_node).
func byOrder(p *v1.Package) bool {
	return !many(p) && !slices.Contains([]string{"min_package_node", "site_preferred", "site_preferred_manual"}, p.GetFailoverPolicy())
}

func (t *translation) nodes(all []string) {
	at, list := t.at.Field("nodeName"), t.p.GetNodeName()
	star := len(list) == 0
	for i, n := range list {
		if n == "*" {
			star = true
			if len(list) > 1 {
				t.fault(at.Index(i), `"*" is all nodes and can't stand beside others`, "write nodeName: [\"*\"], or only names")
			}
		}
	}
	if star {
		list = all
	} else if system(t.p) {
		for _, n := range all {
			if !slices.Contains(list, n) {
				t.fault(at, fmt.Sprintf("lacks node %s: a system multi-node package runs on all nodes", n), "write nodeName: [\"*\"]")
				break
			}
		}
	}
	t.g.SystemList = slices.Clone(list)
	t.g.AutoStartList = slices.Clone(list)
	t.g.Parallel = many(t.p)
}

func (t *translation) policies() {
	p := t.p
	at := func(field string) protoyaml.Path { return t.at.Field(field) }
	if system(p) {
		if p.AutoRun != nil && !p.GetAutoRun() {
			t.fault(at("autoRun"), "is false: a system multi-node package starts with the cluster", "write autoRun: true, or remove the line")
		}
		if !p.GetNodeFailFastEnabled() {
			t.fault(at("nodeFailFastEnabled"), "is not true: a node can't be without a system multi-node package", "write nodeFailFastEnabled: true")
		}
	}
	if many(p) {
		for _, f := range []struct {
			set   bool
			field string
		}{{p.GetFailoverPolicy() != "", "failoverPolicy"}, {p.GetFailbackPolicy() != "", "failbackPolicy"}, {p.GetPriority() != 0, "priority"}} {
			if f.set {
				t.fault(at(f.field), "is of failover packages only: this one runs on several nodes at once", "remove the line")
			}
		}
		if len(p.GetIpAddress()) > 0 {
			t.fault(at("ipAddress"), "can't be in a multi-node package: an address is on one node at a time", "remove the lines, or write type: failover")
		}
	} else {
		switch p.GetFailoverPolicy() {
		case "min_package_node":
			t.g.FailOverPolicy = v1.FailOverPolicy_FAIL_OVER_POLICY_ROUND_ROBIN
		case "site_preferred", "site_preferred_manual":
			t.g.FailOverPolicy = v1.FailOverPolicy_FAIL_OVER_POLICY_SITE_PREFERRED
		}
		if p.GetFailbackPolicy() == "automatic" {
			t.g.Failback = v1.Failback_FAILBACK_AUTOMATIC
			if p.GetFailoverPolicy() == "min_package_node" {
				t.note(at("failbackPolicy"), "is automatic, to the first node of nodeName: with min_package_node what was spread goes back there", "write failbackPolicy: manual for a rotating standby")
			}
		}
		if p.GetPriority() != 0 && !byOrder(p) {
			t.fault(at("priority"), "is of packages with failoverPolicy configured_node only", "remove one of the two")
		}
	}
	if n := p.GetPriority(); n > 0 && n < dragBase {
		t.g.DragPriority = dragBase - n
	}
	if d := p.GetSuccessorHaltTimeout(); d != nil {
		t.g.SuccessorHaltTimeout = proto.CloneOf(d)
	}
}

func (t *translation) weights() {
	w := t.p.GetWeights()
	at := t.at.Field("weights")
	if system(t.p) {
		if len(w) > 0 {
			t.fault(at, "can't be in a system multi-node package: it runs on every node, whatever is left there", "remove it")
		}
		return
	}
	if _, ok := w[packageLimit]; ok && len(w) > 1 {
		t.fault(at.Field(packageLimit), "excludes all other weights", "write either package_limit, or weights of your own")
	}
	t.g.Load = map[string]int64{packageLimit: 1}
	for k, v := range w {
		t.g.Load[k] = v
	}
}

// dependencies become dependencies of groups: firm ones, and exclusions.
func (t *translation) dependencies() {
	names := map[string]bool{}
	targets := map[string]bool{}
	for i, d := range t.p.GetDependencies() {
		at := t.at.Object("dependency", protoyaml.ElementName(d.GetName(), i))
		t.name(at, d.GetName(), "dependencies", names)
		other := d.GetPackage()
		switch {
		case other == "":
			t.fault(at.Field("package"), "is missing", "write the name of the package that this one depends on")
			continue
		case targets[other]:
			t.fault(at.Field("package"), fmt.Sprintf("there are two dependencies on package %s", other), "remove one")
			continue
		}
		targets[other] = true
		location := d.GetLocation()
		if location == "" {
			location = "same_node"
		}
		g := &v1.GroupDependency{Group: other}
		switch {
		case !slices.Contains([]string{"same_node", "different_node", "any_node", "all_nodes"}, location):
			continue // said by the rules of the field
		case !d.GetDown() && location == "same_node":
			g.Rigidity = v1.GroupDependency_FIRM
		case !d.GetDown() && location == "any_node":
			g.Location, g.Rigidity = v1.GroupDependency_GLOBAL, v1.GroupDependency_FIRM
		case !d.GetDown() && location == "different_node":
			g.Location, g.Rigidity = v1.GroupDependency_REMOTE, v1.GroupDependency_FIRM
		case d.GetDown() && location == "same_node":
			g.Category = v1.GroupDependency_OFFLINE
		case d.GetDown() && location == "all_nodes":
			g.Category, g.Location = v1.GroupDependency_OFFLINE, v1.GroupDependency_GLOBAL
		case d.GetDown():
			t.fault(at.Field("location"), fmt.Sprintf("is %s: what must be down must be so on the same node or on all", location), "write same_node or all_nodes")
			continue
		default:
			t.fault(at.Field("location"), fmt.Sprintf("is %s: what must be up can't be so on all nodes", location), "write same_node, different_node or any_node")
			continue
		}
		t.g.DependsOn = append(t.g.DependsOn, g)
		t.place("dependsOn "+other, at)
	}
}

// name checks the name of an entry.
func (t *translation) name(at protoyaml.Path, name, what string, seen map[string]bool) {
	switch {
	case name == "":
		t.fault(at.Field("name"), "is missing", "give it a name")
	case seen[name]:
		t.fault(at.Field("name"), "is the name of two "+what, "rename one")
	case plain(name) != name:
		t.fault(at.Field("name"), fmt.Sprintf("%q is no plain name", name), "use letters, digits, '-', '_' and '.'")
	}
	seen[name] = true
}

// plain makes a part of a resource's name of any text.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("-_.", r) {
			return r
		}
		return '_'
	}, s)
}

// then ends a stage: what follows requires all of it.
func (t *translation) then() {
	if len(t.next) > 0 {
		t.stage, t.next = t.next, nil
	}
}

// add a resource; at is the place in the package that it comes from, fields
// say which of its attributes come from which field there.
func (t *translation) add(r *v1.Resource, at protoyaml.Path, fields map[string]protoyaml.Path) {
	r.Name = t.p.GetName() + "-" + r.Name
	if len(r.GetName()) > maxName {
		t.fault(at, fmt.Sprintf("makes a resource with a name of %d characters, %s", len(r.GetName()), r.GetName()), "choose shorter names: at most 63 together")
	}
	r.Requires = slices.Clone(t.stage)
	t.next = append(t.next, r.GetName())
	t.g.Resources = append(t.g.Resources, r)
	if _, taken := t.places["resource "+r.GetName()]; !taken {
		t.place("resource "+r.GetName(), at)
		for attribute, at := range fields {
			t.place("resource "+r.GetName()+", attributes."+attribute, at)
		}
	}
}

func (t *translation) place(in string, at protoyaml.Path) {
	t.places[in] = strings.TrimPrefix(at.String(), t.at.String()+", ")
}

// inTurn lets each of what is added by do require the one before it.
func (t *translation) inTurn(do func()) {
	t.then()
	do()
	t.then()
}

func failFast(p *v1.Package, attributes map[string]string) map[string]string {
	if p.GetNodeFailFastEnabled() {
		attributes["NodeFailFast"] = "true"
	}
	return attributes
}

func within(d *durationpb.Duration) *durationpb.Duration {
	if d == nil {
		return durationpb.New(unlimitedTime)
	}
	return proto.CloneOf(d)
}

// scripts run one after the other.
func (t *translation) scripts(kind, field string, list []string) {
	names := map[string]int{}
	for i, script := range list {
		at := t.at.Field(field).Index(i)
		if slices.Index(list, script) < i {
			t.fault(at, fmt.Sprintf("%s is listed twice", script), "remove one")
			continue
		}
		// By the program's name and not by its number, so that others can be added before it while it runs.
		name := kind + "-" + plain(path.Base(script))
		if names[name]++; names[name] > 1 {
			name += fmt.Sprintf("-%d", names[name])
		}
		attributes := failFast(t.p, map[string]string{"Script": script})
		if env := t.environment(); env != "" {
			attributes["Environment"] = env
		}
		t.inTurn(func() {
			t.add(&v1.Resource{Name: name, Type: typeScript, Attributes: attributes,
				Limits: &v1.Limits{OnlineTimeout: within(t.p.GetRunScriptTimeout()), OfflineTimeout: within(t.p.GetHaltScriptTimeout())}},
				at, map[string]protoyaml.Path{"Script": at, "Environment": t.at.Field("pev")})
		})
	}
}
