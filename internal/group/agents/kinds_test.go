package agents

import (
	"slices"
	"strings"
	"testing"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

func TestTypes(t *testing.T) {
	types := Types()
	if !slices.IsSortedFunc(types, func(a, b *v1.ResourceType) int { return strings.Compare(a.Name, b.Name) }) || len(types) != len(kinds) {
		t.Fatalf("%d types", len(types))
	}
	for _, typ := range types {
		if !typ.Bundled || typ.Description == "" || typ.Limits.GetMonitorInterval().AsDuration() <= 0 {
			t.Errorf("%s is not described", typ.Name)
		}
		seen := map[string]bool{}
		for _, a := range typ.Attributes {
			if a.Kind == v1.AttributeKind_ATTRIBUTE_KIND_UNSPECIFIED || a.Description == "" || seen[a.Name] || a.Required && a.Default != "" {
				t.Errorf("%s.%s is not described", typ.Name, a.Name)
			}
			seen[a.Name] = true
			if a.Default != "" {
				if err := checkValue(a.Kind, a.Default); err != nil {
					t.Errorf("%s.%s: default: %v", typ.Name, a.Name, err)
				}
			}
		}
	}
	types[0].Name = "changed"
	if Types()[0].Name == "changed" {
		t.Error("the caller can change the bundled types")
	}
}

func TestCheck(t *testing.T) {
	for _, test := range []struct {
		typ  string
		attr map[string]string
		want string // part of the only fault; empty: none
	}{
		{"Process", map[string]string{"PathName": "/usr/sbin/nginx", "Arguments": `-g "daemon off;"`}, ""},
		{"Process", map[string]string{}, "PathName is missing"},
		{"Process", map[string]string{"PathName": "nginx"}, "not an absolute path"},
		{"Process", map[string]string{"PathName": "/x", "Arguments": `"a`}, "is not closed"},
		{"Process", map[string]string{"PathName": "/x", "Environment": "A"}, "NAME=value"},
		{"Process", map[string]string{"PathName": "/x", "StopWait": "soon"}, "not a duration"},
		{"Process", map[string]string{"PathName": "/x", "Argument": "1"}, "not an attribute of type Process"},
		{"Application", map[string]string{"StartProgram": "/x", "MonitorProgram": "/y z"}, ""},
		{"Application", map[string]string{"StartProgram": "/x"}, "is needed to tell whether it runs"},
		{"Application", map[string]string{"StartProgram": "x y", "PidFiles": "/p"}, "no search path"},
		{"Application", map[string]string{"StartProgram": "/x", "PidFiles": "p"}, "not an absolute path"},
		{"Application", map[string]string{"StartProgram": "/x", "MonitorProcesses": "/a 'b"}, "is not closed"},
		{"IP", map[string]string{"Address": "10.0.0.9/24", "Device": "eth0"}, ""},
		{"IP", map[string]string{"Address": "2001:db8::9/64", "Device": "eth0.7"}, ""},
		{"IP", map[string]string{"Address": "10.0.0.9", "Device": "eth0"}, "prefix length"},
		{"IP", map[string]string{"Address": "10.0.0.9/33", "Device": "eth0"}, "prefix length"},
		{"IP", map[string]string{"Address": "224.0.0.1/24", "Device": "eth0"}, "can't be given"},
		{"IP", map[string]string{"Address": "fe80::1/64", "Device": "eth0"}, "link-local"},
		{"IP", map[string]string{"Address": "10.0.0.9/0", "Device": "eth0"}, "prefix length of 0"},
		{"IP", map[string]string{"Address": "10.0.0.9/24", "Device": "a-very-long-name"}, "can't be the name"},
		{"NIC", map[string]string{"Device": "eth 0"}, "can't be the name"},
		{"NIC", map[string]string{"Device": "eth0", "CheckCarrier": "yes"}, "neither true nor false"},
		{"FileOnOff", map[string]string{"PathName": "/tmp/x"}, ""},
		{"NIC", map[string]string{"Device": "eth0", "NetworkHosts": "10.0.0.1 2001:db8::1"}, ""},
		{"NIC", map[string]string{"Device": "eth0", "NetworkHosts": "router"}, "not an address"},
		{"NIC", map[string]string{"Device": "eth0", "NetworkHosts": "127.0.0.1"}, "can't tell whether"},
		{"Mount", map[string]string{"MountPoint": "/srv", "BlockDevice": "LABEL=data", "FSType": "ext4", "MountOpt": "noatime,data=ordered"}, ""},
		{"Mount", map[string]string{"MountPoint": "/", "BlockDevice": "/dev/sda", "FSType": "ext4"}, "can't be mounted at"},
		{"Mount", map[string]string{"MountPoint": "/srv/", "BlockDevice": "/dev/sda", "FSType": "ext4"}, "can't be mounted at"},
		{"Mount", map[string]string{"MountPoint": "/srv", "BlockDevice": "data", "FSType": "bind"}, "which FSType bind needs"},
		{"Mount", map[string]string{"MountPoint": "/srv", "BlockDevice": "/dev/sda", "FSType": "-o"}, "can't be the type"},
		{"Mount", map[string]string{"MountPoint": "/srv", "BlockDevice": "/dev/sda", "FSType": "ext4", "MountOpt": "ro, noatime"}, "without blanks"},
		{"Mount", map[string]string{"MountPoint": "/srv", "BlockDevice": "/i", "FSType": "ext4", "MountOpt": "loop"}, "name the device itself"},
		{"Mount", map[string]string{"MountPoint": "/srv", "BlockDevice": "/dev/sda", "FSType": "ext4", "FsckOpt": "-f"}, "wait for answers"},
		{"Mount", map[string]string{"MountPoint": "/srv", "BlockDevice": "/dev/sda", "FSType": "ext4", "Fsck": "sometimes"}, "none of never, on_failure, always"},
		{"Mount", map[string]string{"MountPoint": "/srv", "BlockDevice": "/dev/sda", "FSType": "ext4", "UmountRetries": "-1"}, "is not between"},
		{"FileNone", map[string]string{"PathName": "x"}, "not an absolute path"},
		{"Phantom", nil, ""},
		{"Proxy", map[string]string{"TargetGroup": "net"}, "TargetResName is missing"},
		{"GenericResource", map[string]string{"Signal": "s"}, ""},
		{"GenericResource", map[string]string{"Signal": "s", "UpCriteria": "< 1"}, "never holds"},
		{"PersistentGenericResource", map[string]string{"Signal": "s", "UpCriteria": ">= 1"}, "always holds"},
		{"GenericResource", map[string]string{"Signal": "s", "Hysteresis": "1"}, "it needs UpCriteria"},
		{"GenericResource", map[string]string{"Signal": "s", "UpCriteria": "> 5", "Hysteresis": "-1"}, "is not between"},
		{"GenericResource", map[string]string{"Signal": "s", "UnknownIs": "maybe"}, "none of down, up, unknown"},
		{"PackageService", map[string]string{"Command": "/x 1 2", "Environment": "A=b"}, ""},
		{"PackageService", map[string]string{"Command": "x"}, "not an absolute path"},
		{"PackageService", map[string]string{"Command": "/x", "Environment": "A"}, "NAME=value"},
		{"PackageScript", map[string]string{"Script": "/x"}, ""},
		{"PackageScript", map[string]string{"Script": "/x", "AbortHalt": "1"}, "neither true nor false"},
		{"Subnet", map[string]string{"Subnets": "10.1.0.0/16 2001:db8::/64", "NetworkHosts": "10.1.0.1"}, ""},
		{"Subnet", map[string]string{"Subnets": "10.1.0.1/16"}, "the subnet is 10.1.0.0/16"},
		{"Subnet", map[string]string{"Subnets": "10.1.0.0"}, "is not a subnet"},
		{"Subnet", map[string]string{"Subnets": "10.1.0.0/16", "NetworkHosts": "10.2.0.1"}, "is in none of the subnets"},
		{"Subnet", map[string]string{"Subnets": "10.1.0.0/16", "Access": "SOME"}, "none of FULL, PARTIAL"},
		{"MultiNIC", map[string]string{"Devices": "eth0 eth1", "BaseAddresses": "10.0.0.9/24 2001:db8::9/64", "NetworkHosts": "10.0.0.1"}, ""},
		{"MultiNIC", map[string]string{"Devices": "eth0 eth0"}, "named twice"},
		{"MultiNIC", map[string]string{"Devices": "eth0 e/1"}, "can't be the name"},
		{"MultiNIC", map[string]string{"Devices": "eth0", "BaseAddresses": "10.0.0.9"}, "prefix length"},
		{"MultiNIC", map[string]string{"Devices": "eth0", "NetworkHosts": "2001:db8::1"}, "not an IPv4 address"},
		{"MultiNIC", map[string]string{"Devices": "eth0", "OnlineTestRepeatCount": "0"}, "is not between"},
		{"IPMultiNIC", map[string]string{"Address": "10.0.0.9/24", "MultiNIC": "cards"}, ""},
		{"IPMultiNIC", map[string]string{"Address": "fe80::1/64", "MultiNIC": "cards"}, "link-local"},
		{"SystemdUnit", map[string]string{"Unit": "nginx"}, ""},
		{"SystemdUnit", map[string]string{"Unit": "getty@tty3.service"}, ""},
		{"SystemdUnit", map[string]string{"Unit": "getty@.service"}, "is a template"},
		{"SystemdUnit", map[string]string{"Unit": "a b"}, "can't be the name of a unit"},
		{"SystemdUnit", map[string]string{"Unit": ".service"}, "can't be the name of a unit"},
		{"Datei", nil, "no agent"},
	} {
		errs := Check(&v1.Resource{Name: "r", Type: test.typ, Attributes: test.attr})
		switch {
		case test.want == "" && len(errs) > 0:
			t.Errorf("%s %v: %v", test.typ, test.attr, errs)
		case test.want != "" && (len(errs) != 1 || !strings.Contains(errs[0].Error(), test.want)):
			t.Errorf("%s %v: %v, not %q", test.typ, test.attr, errs, test.want)
		}
	}
}

func TestWords(t *testing.T) {
	for in, want := range map[string][]string{
		"":                        nil,
		"  a  b\tc\n":             {"a", "b", "c"},
		`a 'b  c' "d e"`:          {"a", "b  c", "d e"},
		`a\ b '' ""`:              {"a b", "", ""},
		`x'y'"z"\"`:               {`xyz"`},
		`"\$HOME \a \\ \"" $PATH`: {`$HOME \a \ "`, "$PATH"},
	} {
		if got, err := words(in); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
	for _, in := range []string{`'a`, `"a`, `a\`, "a\x00b", `"\`} {
		if got, err := words(in); err == nil {
			t.Errorf("%q: %q", in, got)
		}
	}
}

// quote is a naive inverse of words.
func quote(argv []string) string {
	var out []string
	for _, a := range argv {
		out = append(out, "'"+strings.ReplaceAll(a, "'", `'\''`)+"'")
	}
	return strings.Join(out, " ")
}

func FuzzWords(f *testing.F) {
	for _, s := range []string{"", "a 'b c' \"d\\\"\"", `\`, "'"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		argv, err := words(s)
		if err != nil {
			return
		}
		if again, err := words(quote(argv)); err != nil || !slices.Equal(again, argv) {
			t.Fatalf("%q: %q, then %q, %v", s, argv, again, err)
		}
	})
}
