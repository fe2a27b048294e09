package agents

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
)

// protectTime is how long others may take to say where something will run.
const protectTime = killTime

// Protect returns what guard has to stop of a group with this configuration, and makes its control group.
func (h *Host) Protect(group *v1.Group) (*guardpb.Protect, error) {
	out := &guardpb.Protect{Group: group.GetName(), Cgroup: h.groupDir(group.GetName())}
	if out.Cgroup != "" {
		if err := os.MkdirAll(out.Cgroup, 0o755); err != nil {
			return nil, fmt.Errorf("agents: control group of %s: %w", group.GetName(), err)
		}
	}
	for _, r := range group.GetResources() {
		a := maps.Clone(r.GetAttributes())
		if a == nil {
			a = map[string]string{}
		}
		maps.Copy(a, r.GetNodeAttributes()[h.node].GetValues())
		k := key{group.GetName(), r.GetName()}
		name := h.bus.unitOf(k) // also of types of other names; they have been monitored before they are started
		if r.GetType() == systemdUnitKind.typ.GetName() {
			name = unitName(a["Unit"])
		}
		if address := h.addressOf(k); address != "" {
			out.Addresses = append(out.Addresses, address+" ") // on whichever card it is
		}
		var err error
		switch {
		case r.GetType() == ipKind.typ.GetName() || r.GetType() == ipMultiNICKind.typ.GetName():
			// Without a card: on whichever it is.
			out.Addresses = append(out.Addresses, a["Address"]+" "+a["Device"])
		case name != "":
			err = h.protectUnit(out, unit{h: h, key: k, name: name})
		case out.Cgroup == "":
			err = h.protectSessions(out, place{h: h, group: k.group, resource: k.resource})
		}
		if err != nil {
			return nil, fmt.Errorf("agents: what %s of %s runs: %w", r.GetName(), group.GetName(), err)
		}
	}
	return out, nil
}

func (h *Host) protectUnit(out *guardpb.Protect, u unit) error {
	ctx, cancel := context.WithTimeout(h.ctx, protectTime)
	defer cancel()
	dir, err := u.cgroup(ctx)
	if err == nil && dir != "" {
		out.OtherCgroups = append(out.OtherCgroups, dir)
	}
	return err
}

func (h *Host) protectSessions(out *guardpb.Protect, p place) error {
	members, err := p.members()
	if err != nil {
		return err
	}
	seen := map[int]bool{}
	for _, m := range members {
		if !seen[m.session] {
			seen[m.session] = true
			out.ProcessGroups = append(out.ProcessGroups, int32(m.session))
		}
	}
	return nil
}

// cgroupDir is the directory of a control group of version 2 that is named by its place in the whole tree.
func cgroupDir(where string) (string, error) {
	all, err := mountsOf(mountTable)
	if err != nil {
		return "", err
	}
	for _, m := range all {
		if m.fstype != "cgroup2" {
			continue
		}
		if below, err := filepath.Rel(m.root, where); err == nil && below != ".." && !strings.HasPrefix(below, "../") {
			return filepath.Join(m.point, below), nil
		}
	}
	return "", errors.New("no control group file system of version 2 is mounted")
}
