package agents

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/internal/group/agent"
)

// drilled has a type look with attributes; what it answers.
func drilled(t *testing.T, kind string, attributes map[string]string) agent.Result {
	t.Helper()
	k := kindOf(kind)
	for _, a := range k.typ.GetAttributes() {
		if _, set := attributes[a.GetName()]; !set {
			attributes[a.GetName()] = a.GetDefault()
		}
	}
	return k.run(t.Context(), nil, agent.Call{Group: "g", Resource: "r", Type: kind, Entry: agent.Action, Name: drillAction, Attributes: attributes, Timeout: time.Minute})
}

func TestDrills(t *testing.T) {
	dir := t.TempDir()
	program, text := filepath.Join(dir, "program"), filepath.Join(dir, "text")
	for name, mode := range map[string]os.FileMode{program: 0o755, text: 0o644} {
		if err := os.WriteFile(name, []byte("#!/bin/sh\n"), mode); err != nil {
			t.Fatal(err)
		}
	}
	none := filepath.Join(dir, "none")
	type attributes = map[string]string
	for name, c := range map[string]struct {
		kind       string
		attributes attributes
		bad        string // empty: it passes
	}{
		"process":              {"Process", attributes{"PathName": program, "WorkDir": dir, "User": "root"}, ""},
		"no program":           {"Process", attributes{"PathName": none}, "PathName: there is no " + none},
		"a text":               {"Process", attributes{"PathName": text}, "PathName: " + text + " is not executable"},
		"no user":              {"Process", attributes{"PathName": program, "User": "nobody-of-that-name"}, "user nobody-of-that-name does not exist"},
		"no place for its pid": {"Process", attributes{"PathName": program, "PidFile": none + "/pid"}, "PidFile: there is no directory " + none},
		"two faults":           {"Process", attributes{"PathName": none, "WorkDir": none}, "PathName: there is no " + none + "; WorkDir: there is no directory " + none},
		"application":          {"Application", attributes{"StartProgram": program + " start", "StopProgram": program + " stop"}, ""},
		"no stop":              {"Application", attributes{"StartProgram": program + " start", "StopProgram": none + " stop"}, "StopProgram: there is no " + none},
		"service":              {"PackageService", attributes{"Command": program}, ""},
		"no service":           {"PackageService", attributes{"Command": none}, "Command: there is no " + none},
		"script":               {"PackageScript", attributes{"Script": dir}, "Script: " + dir + " is a directory"},
		"file":                 {"FileOnOff", attributes{"PathName": none}, ""},
		"no directory":         {"FileOnOff", attributes{"PathName": none + "/x"}, "PathName: there is no directory " + none},
		"tmpfs":                {"Mount", attributes{"MountPoint": dir, "BlockDevice": "tmpfs", "FSType": "tmpfs"}, ""},
		"no mount point":       {"Mount", attributes{"MountPoint": none, "BlockDevice": "tmpfs", "FSType": "tmpfs"}, "MountPoint: there is no directory " + none},
		"one that is made":     {"Mount", attributes{"MountPoint": none, "BlockDevice": "tmpfs", "FSType": "tmpfs", "CreateMountPoint": "true"}, ""},
		"no device":            {"Mount", attributes{"MountPoint": dir, "BlockDevice": "UUID=0", "FSType": "tmpfs"}, "BlockDevice: there is no /dev/disk/by-uuid/0"},
		"a file for a device":  {"Mount", attributes{"MountPoint": dir, "BlockDevice": text, "FSType": "tmpfs"}, "BlockDevice: " + text + " is no block device"},
		"occupied":             {"Mount", attributes{"MountPoint": "/proc", "BlockDevice": "tmpfs", "FSType": "tmpfs"}, "is mounted there"},
		"unknown type":         {"Mount", attributes{"MountPoint": dir, "BlockDevice": "x", "FSType": "nosuchfs"}, "FSType: nothing is known of nosuchfs"},
		"no card":              {"IP", attributes{"Address": "192.0.2.9/24", "Device": "nosuchcard"}, "Device: there is no network card nosuchcard"},
		"own address":          {"IP", attributes{"Address": "127.0.0.1/8", "Device": "lo"}, "Address: 127.0.0.1 is on this node already"},
		"an address":           {"IP", attributes{"Address": "127.99.0.1/8", "Device": "lo"}, ""},
	} {
		r := drilled(t, c.kind, c.attributes)
		if c.bad == "" && (r.Err != "" || r.Output == "") || c.bad != "" && !strings.Contains(r.Err, c.bad) {
			t.Errorf("%s: %q, want %q; it said\n%s", name, r.Err, c.bad, r.Output)
		}
	}
	if _, err := os.Stat(none); err == nil {
		t.Error("a drill has made something")
	}
}

// Every drill belongs to a bundled type, which says that it knows the action.
func TestDrillsAreKnown(t *testing.T) {
	known := map[string]bool{}
	for _, typ := range Types() {
		for _, a := range typ.GetSupportedActions() {
			if a == drillAction {
				known[typ.GetName()] = true
			}
		}
	}
	for name := range drills {
		if !known[name] {
			t.Errorf("type %s has a drill, and does not know the action", name)
		}
		delete(known, name)
	}
	if len(known) > 0 {
		t.Errorf("types that know the action and have no drill: %v", known)
	}
}
