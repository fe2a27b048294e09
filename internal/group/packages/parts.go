package packages

import (
	"fmt"
	"maps"
	"math"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/protoyaml"
)

// environment of the package's scripts: its pev_ variables.
func (t *translation) environment() string {
	var out []string
	for _, k := range sortedKeys(t.p.GetPev()) {
		out = append(out, "PEV_"+strings.ToUpper(k)+"="+quoted(t.p.GetPev()[k]))
	}
	return strings.Join(out, " ")
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// quoted for a list that is split as a shell does.
func quoted(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// variables are checked once, whatever scripts there are.
func (t *translation) variables() {
	seen := map[string]string{}
	for _, k := range sortedKeys(t.p.GetPev()) {
		at := t.at.Field("pev").Field(k)
		upper := strings.ToUpper(k)
		switch {
		case k == "" || strings.Trim(upper, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") != "":
			t.fault(at, fmt.Sprintf("%q is no name of a variable", k), "use letters, digits and '_'; PEV_ is put before it")
		case seen[upper] != "":
			t.fault(at, fmt.Sprintf("is the same variable as %s: PEV_%s", seen[upper], upper), "remove one")
		case strings.ContainsRune(t.p.GetPev()[k], 0):
			t.fault(at, "has a zero byte in it", "remove it")
		}
		seen[upper] = k
	}
}

func (t *translation) subnets() {
	seen := map[string]bool{}
	lists := map[bool][]string{}
	for i, s := range t.p.GetMonitoredSubnets() {
		at := t.at.Object("monitoredSubnet", protoyaml.ElementName("", i)).Field("subnet")
		p, err := netip.ParsePrefix(s.GetSubnet())
		switch {
		case s.GetSubnet() == "":
			t.fault(at, "is missing", "write a subnet such as 10.1.2.0/24")
		case err != nil || p.Bits() == 0:
			t.fault(at, fmt.Sprintf("%q is no subnet", s.GetSubnet()), "write it like 10.1.2.0/24 or 2001:db8:7::/64")
		case p.Masked() != p:
			t.fault(at, fmt.Sprintf("%s is an address in a subnet", p), "write "+p.Masked().String())
		case seen[p.String()]:
			t.fault(at, fmt.Sprintf("%s is listed twice", p), "remove one")
		default:
			lists[s.GetPartial()] = append(lists[s.GetPartial()], p.String())
		}
		seen[p.String()] = true
	}
	for _, partial := range []bool{false, true} {
		if len(lists[partial]) == 0 {
			continue
		}
		name, access := "subnets", "FULL"
		if partial {
			name, access = "subnets-partial", "PARTIAL"
		}
		at := t.at.Field("monitoredSubnets")
		t.add(&v1.Resource{Name: name, Type: typeSubnet,
			Attributes: failFast(t.p, map[string]string{"Subnets": strings.Join(lists[partial], " "), "Access": access})}, at, map[string]protoyaml.Path{"Subnets": at})
	}
}

// signals that must be up: before anything is started, or once the services run that may set them.
func (t *translation) signals(first bool) {
	names := map[string]bool{}
	for i, s := range t.p.GetGenericResources() {
		at := t.at.Object("genericResource", protoyaml.ElementName(s.GetName(), i))
		if first {
			t.name(at, s.GetName(), "generic resources", names)
			t.criteria(at.Field("upCriteria"), s.GetUpCriteria())
		}
		if s.GetBeforeStart() != first || s.GetName() == "" {
			continue
		}
		r := &v1.Resource{Name: "signal-" + plain(s.GetName()), Type: typeSignalFirst, Attributes: failFast(t.p, map[string]string{"Signal": s.GetName()})}
		if s.GetUpCriteria() != "" {
			r.Attributes["UpCriteria"] = s.GetUpCriteria()
		}
		if !first {
			r.Type = typeSignal
			if d := t.p.GetRunScriptTimeout(); d != nil {
				r.Limits = &v1.Limits{OnlineTimeout: proto.CloneOf(d)}
			}
		}
		t.add(r, at, map[string]protoyaml.Path{"Signal": at.Field("name"), "UpCriteria": at.Field("upCriteria")})
	}
}

// criteria that always or never hold are refused (SG-135).
func (t *translation) criteria(at protoyaml.Path, text string) {
	if text == "" {
		return
	}
	rest := strings.TrimLeft(text, "=!<>")
	op := strings.TrimSpace(text[:len(text)-len(rest)])
	n, err := strconv.ParseInt(strings.TrimSpace(rest), 10, 64)
	if !slices.Contains([]string{"==", "!=", "<", ">", "<=", ">="}, op) || err != nil || n < 1 || n > math.MaxInt32 {
		t.fault(at, fmt.Sprintf("%q is no criterion", text), `write one of == != < > <= >= and a number from 1 to 2147483647: ">= 10"`)
		return
	}
	never := op == "<" && n == 1 || op == ">" && n == math.MaxInt32
	always := op == ">=" && n == 1 || op == "<=" && n == math.MaxInt32
	switch {
	case never:
		t.fault(at, fmt.Sprintf("%q never holds: values are 1 to 2147483647", text), "write another number")
	case always:
		t.fault(at, fmt.Sprintf("%q always holds: values are 1 to 2147483647", text), "write another number, or remove the generic resource")
	}
}

// groups of volumes need agents for disks.
func (t *translation) groups() {
	if len(t.p.GetVg()) > 0 {
		t.fault(t.at.Field("vg"), "needs an agent for volume groups, which this version does not have", "activate them in an external_pre_script")
	}
}

// mounts follow each other in the order written.
func (t *translation) mounts() {
	dirs := map[string]bool{}
	names := map[string]bool{}
	for i, m := range t.p.GetMounts() {
		at := t.at.Object("mount", protoyaml.ElementName(m.GetName(), i))
		dir := path.Clean(m.GetDirectory())
		switch {
		case m.GetName() == "":
			t.fault(at.Field("name"), "is missing", "write the block device (fs_name)")
		case names[m.GetName()]:
			t.fault(at.Field("name"), "is mounted twice", "remove one")
		}
		switch {
		case m.GetDirectory() == "":
			t.fault(at.Field("directory"), "is missing", "write the absolute path where it is mounted (fs_directory)")
		case !path.IsAbs(m.GetDirectory()): // said of the attribute
		case dir != m.GetDirectory() || dir == "/":
			t.fault(at.Field("directory"), fmt.Sprintf("%q can't be mounted on", m.GetDirectory()), "write a plain path such as /srv/data")
		case dirs[dir]:
			t.fault(at.Field("directory"), fmt.Sprintf("two file systems are mounted on %s", dir), "change one")
		default:
			for other := range dirs {
				if strings.HasPrefix(other, dir+"/") {
					t.fault(at.Field("directory"), fmt.Sprintf("%s would be mounted over %s, which is mounted before it", dir, other), "list this one first")
					break
				}
			}
		}
		if m.GetType() == "" {
			t.fault(at.Field("type"), "is missing", "write the type of the file system (fs_type): ext4, xfs")
		}
		names[m.GetName()], dirs[dir] = true, true
		attributes := map[string]string{"BlockDevice": m.GetName(), "MountPoint": m.GetDirectory(), "FSType": m.GetType()}
		if m.GetMountOpt() != "" {
			attributes["MountOpt"] = m.GetMountOpt()
		}
		t.inTurn(func() {
			t.add(&v1.Resource{Name: "fs" + plain(strings.ReplaceAll(dir, "/", "-")), Type: typeMount, Attributes: attributes}, at,
				map[string]protoyaml.Path{"BlockDevice": at.Field("name"), "MountPoint": at.Field("directory"), "FSType": at.Field("type"), "MountOpt": at.Field("mountOpt")})
		})
	}
}

func (t *translation) addresses() {
	seen := map[netip.Addr]bool{}
	for i, a := range t.p.GetIpAddress() {
		at := t.at.Field("ipAddress").Index(i)
		p, err := netip.ParsePrefix(a)
		if err == nil && seen[p.Addr().Unmap()] {
			t.fault(at, fmt.Sprintf("%s is listed twice", p.Addr()), "remove one")
			continue
		}
		name := plain(a)
		if err == nil {
			seen[p.Addr().Unmap()] = true
			name = plain(p.Addr().String())
		}
		t.add(&v1.Resource{Name: "ip-" + name, Type: typeIP, Attributes: map[string]string{"Address": a}}, at, map[string]protoyaml.Path{"Address": at})
	}
}

// services run beside each other, as they are not waited for.
func (t *translation) services() {
	names := map[string]bool{}
	for i, s := range t.p.GetServices() {
		at := t.at.Object("service", protoyaml.ElementName(s.GetName(), i))
		t.name(at, s.GetName(), "services", names)
		if s.GetCmd() == "" {
			t.fault(at.Field("cmd"), "is missing", "write the program with its arguments (service_cmd)")
		}
		attributes := map[string]string{"Command": s.GetCmd()}
		if d := s.GetHaltTimeout(); d != nil {
			attributes["HaltTimeout"] = protoyaml.Duration(d.AsDuration())
		}
		if s.GetFailFastEnabled() {
			attributes["ServiceFailFast"] = "true"
		}
		r := &v1.Resource{Name: plain(s.GetName()), Type: typeService, Attributes: attributes}
		if restart := s.GetRestart(); restart != 0 {
			n := uint32(unlimitedRestarts)
			if restart > 0 {
				n = uint32(restart)
			} else if s.GetFailFastEnabled() {
				t.note(at.Field("failFastEnabled"), "has no effect: with restart: -1 the service never fails for good", "write a number of restarts")
			}
			r.Limits = &v1.Limits{RestartLimit: proto.Uint32(n), OnlineRetryLimit: proto.Uint32(n)}
		}
		t.add(r, at, map[string]protoyaml.Path{"Command": at.Field("cmd"), "HaltTimeout": at.Field("haltTimeout")})
	}
}
