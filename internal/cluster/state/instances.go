package state

import (
	"strconv"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	pb "github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// InstanceAt is the key of the instance of a group that runs on a node, if any
// of it does: a failover group has one instance, "", for all nodes; a parallel
// group one for each node, by its name; a hybrid group one for each zone, by its number.
func InstanceAt(g *v1.Group, node string) string {
	switch {
	case g.GetHybrid():
		return strconv.FormatUint(uint64(g.GetSystemZones()[node]), 10)
	case g.GetParallel():
		return node
	}
	return ""
}

// Book is the planner's notebook about an instance. It is never nil; a group of
// which nothing is known yet has an empty one.
func Book(gs *pb.GroupStatus, instance string) *pb.Instance {
	if b := gs.GetInstances()[instance]; b != nil {
		return b
	}
	return &pb.Instance{}
}

// HeldOffline says whether an administrator has taken all of a group offline.
func HeldOffline(gs *pb.GroupStatus) bool {
	for b := range values(gs.GetInstances()) {
		if !b.GetHeldOffline() {
			return false
		}
	}
	return len(gs.GetInstances()) > 0
}

// Switches says whether a group starts and moves by itself as far as its switches
// go (auto_run of a package, or an administrator); else why not.
func Switches(gs *pb.GroupStatus) (why string, on bool) {
	return gs.GetSwitchingOff(), gs.GetSwitchingOff() == ""
}
