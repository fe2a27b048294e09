package packages

import (
	"fmt"
	"slices"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/protoyaml"
)

// Check returns the faults that packages have between each other: priorities,
// dependencies (SG-111, SG-112), signals. Cycles are found with those of all
// groups, and so are packages that don't exist.
func Check(all []*v1.Package) []protoyaml.Fault {
	b := &between{byName: map[string]*v1.Package{}}
	for _, p := range all {
		if b.byName[p.GetName()] == nil {
			b.byName[p.GetName()] = p
		}
	}
	b.priorities(all)
	b.signals(all)
	for _, p := range all {
		for i, d := range p.GetDependencies() {
			if other := b.byName[d.GetPackage()]; other != nil && other != p {
				b.dependency(p, d, other, Path(p.GetName()).Object("dependency", protoyaml.ElementName(d.GetName(), i)))
			}
		}
	}
	return b.faults
}

type between struct {
	byName map[string]*v1.Package
	faults []protoyaml.Fault
}

func (b *between) fault(at protoyaml.Path, problem, fix string) {
	b.faults = append(b.faults, protoyaml.Fault{Path: at.String(), Problem: problem, Fix: fix})
}

// priorities are unique (SG-90).
func (b *between) priorities(all []*v1.Package) {
	taken := map[uint32]string{}
	for _, p := range all {
		n := p.GetPriority()
		if other, ok := taken[n]; ok && n != 0 {
			b.fault(Path(p.GetName()).Field("priority"), fmt.Sprintf("%d is also the priority of package %s", n, other), "give each its own; steps of 20 leave room between them")
			continue
		}
		taken[n] = p.GetName()
	}
}

// signals are simple everywhere or extended everywhere (SG-136).
func (b *between) signals(all []*v1.Package) {
	first := map[string]string{}
	extended := map[string]bool{}
	for _, p := range all {
		for i, s := range p.GetGenericResources() {
			name, is := s.GetName(), s.GetUpCriteria() != ""
			switch other, ok := first[name]; {
			case name == "":
			case !ok:
				first[name], extended[name] = p.GetName(), is
			case extended[name] != is:
				b.fault(Path(p.GetName()).Object("genericResource", protoyaml.ElementName(name, i)),
					fmt.Sprintf("is %s here and %s in package %s", kind(is), kind(!is), other), "write upCriteria in both or in none")
			}
		}
	}
}

func kind(extended bool) string {
	if extended {
		return "a number (it has upCriteria)"
	}
	return "simply up or down (it has no upCriteria)"
}

func (b *between) dependency(p *v1.Package, d *v1.PackageDependency, other *v1.Package, at protoyaml.Path) {
	location := d.GetLocation()
	if location == "" {
		location = "same_node"
	}
	at, where := at.Field("package"), at.Field("location")
	if d.GetDown() {
		b.exclusion(p, d, other, location, at)
		return
	}
	switch {
	case many(p) && !many(other):
		b.fault(at, fmt.Sprintf("%s is a failover package: a multi-node package can depend on multi-node packages only", other.GetName()), "remove the dependency, or let it be the other way round")
	case many(p) && location != "same_node":
		b.fault(where, fmt.Sprintf("is %s: a multi-node package depends on what runs on the same node", location), "write same_node, or remove the line")
	case p.GetFailoverPolicy() == "min_package_node" && !many(other):
		b.fault(at, fmt.Sprintf("%s is a failover package: one with failoverPolicy min_package_node can depend on multi-node packages only", other.GetName()),
			"write failoverPolicy: configured_node, or remove the dependency")
	case location == "same_node":
	case !byOrder(p) || !byOrder(other):
		b.fault(where, fmt.Sprintf("is %s: for that both must be failover packages with failoverPolicy configured_node", location), "write same_node, or change the policies")
	default:
		// Its order of nodes dominates: it must not be less important than those who depend on it.
		for _, dependent := range append([]*v1.Package{p}, b.dependents(p)...) {
			if more(dependent, other) {
				b.fault(where, fmt.Sprintf("is %s: for that %s must not be less important than %s (priority %s, %s)", location, other.GetName(), dependent.GetName(),
					number(other), number(dependent)), "give "+other.GetName()+" a lower number, or write same_node")
				return
			}
		}
	}
}

// exclusion (DOWN) is said by both, and one of them wins.
func (b *between) exclusion(p *v1.Package, d *v1.PackageDependency, other *v1.Package, location string, at protoyaml.Path) {
	i := slices.IndexFunc(other.GetDependencies(), func(o *v1.PackageDependency) bool { return o.GetDown() && o.GetPackage() == p.GetName() })
	if i >= 0 && other.GetName() < p.GetName() {
		return // said there
	}
	if !byOrder(p) || !byOrder(other) {
		b.fault(at, fmt.Sprintf("to exclude each other %s and %s must both be failover packages with failoverPolicy configured_node", p.GetName(), other.GetName()), "change the policies, or remove the dependency")
		return
	}
	if i < 0 {
		b.fault(at, fmt.Sprintf("%s does not exclude %s in turn", other.GetName(), p.GetName()),
			fmt.Sprintf("write a dependency with package: %s, down: true and location: %s in package %s", p.GetName(), location, other.GetName()))
		return
	}
	theirs := other.GetDependencies()[i].GetLocation()
	if theirs == "" {
		theirs = "same_node"
	}
	switch {
	case theirs != location:
		b.fault(at, fmt.Sprintf("%s excludes %s with location %s, and this is %s", other.GetName(), p.GetName(), theirs, location), "write the same location in both")
	case p.GetPriority() == 0 && other.GetPriority() == 0:
		b.fault(at, fmt.Sprintf("neither %s nor %s has a priority: nobody would know which one runs", p.GetName(), other.GetName()), "write priority: in at least one of them")
	}
}

// dependents of a package that must be up for them, also through others.
func (b *between) dependents(p *v1.Package) []*v1.Package {
	seen := map[string]bool{p.GetName(): true}
	open, out := []string{p.GetName()}, []*v1.Package(nil)
	for len(open) > 0 {
		var next []string
		for _, name := range sortedKeys(b.byName) {
			o := b.byName[name]
			needs := slices.ContainsFunc(o.GetDependencies(), func(d *v1.PackageDependency) bool {
				return !d.GetDown() && slices.Contains(open, d.GetPackage())
			})
			if needs && !seen[name] {
				seen[name] = true
				next, out = append(next, name), append(out, o)
			}
		}
		open = next
	}
	return out
}

// more important: a lower number, and any number before none.
func more(a, b *v1.Package) bool {
	if a.GetPriority() == 0 || b.GetPriority() == 0 {
		return a.GetPriority() != 0 && b.GetPriority() == 0
	}
	return a.GetPriority() < b.GetPriority()
}

func number(p *v1.Package) string {
	if p.GetPriority() == 0 {
		return "none"
	}
	return fmt.Sprint(p.GetPriority())
}
