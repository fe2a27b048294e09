package state

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"iter"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	pb "github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
	"github.com/holdfast-ha/holdfast/internal/cluster/timers"
)

// Format is the newest format of commands and states that this version writes
// and the highest that it applies.
const Format = 1

// How much of the past is kept.
const (
	keepEvents     = 1000
	keepDecisions  = 300
	keepOperations = 200
	keepRequests   = 64
)

// Initial returns the state with which a new cluster starts: all configured
// nodes are members of view 1, with raft ids 1, 2, … in the order of their
// names. Nothing of the configuration is checked here beyond what would make
// such a view impossible.
func Initial(cfg *v1.Configuration) (*pb.State, error) {
	if len(cfg.GetNodes()) == 0 {
		return nil, fmt.Errorf("a cluster needs at least one node: add a Node document for each machine")
	}
	s := &pb.State{
		Format:         Format,
		Cluster:        proto.CloneOf(cfg.GetCluster()),
		Nodes:          map[string]*v1.Node{},
		Types:          map[string]*v1.ResourceType{},
		Groups:         map[string]*v1.Group{},
		ConfigRevision: 1,
		View:           &pb.View{Epoch: 1},
		Learners:       map[string]*pb.Member{},
		NodeStatus:     map[string]*pb.NodeStatus{},
		GroupStatus:    map[string]*pb.GroupStatus{},
		Requests:       map[string]*pb.Requests{},
		PlanRevision:   1,
	}
	for _, n := range cfg.GetNodes() {
		if s.Nodes[n.GetName()] != nil {
			return nil, fmt.Errorf("node %s is defined twice", n.GetName())
		}
		s.Nodes[n.GetName()] = proto.CloneOf(n)
	}
	for _, t := range cfg.GetTypes() {
		s.Types[t.GetName()] = proto.CloneOf(t)
	}
	for _, g := range cfg.GetGroups() {
		s.Groups[g.GetName()] = proto.CloneOf(g)
	}
	for _, name := range SortedKeys(s.Nodes) {
		s.NextRaftId++
		s.View.Members = append(s.View.Members, &pb.Member{Node: name, RaftId: s.NextRaftId})
		s.NodeStatus[name] = &pb.NodeStatus{Phase: pb.NodePhase_NODE_PHASE_RUNNING}
	}
	s.NextRaftId++
	numberNodes(s)
	s.LongestPeerinact = durationpb.New(Peerinact(s))
	fitNotified(s)
	fitGroupStatus(s)
	return s, nil
}

// Marshal encodes a state or a command. Equal messages have equal bytes.
func Marshal(m proto.Message) []byte {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		panic(fmt.Sprintf("state: a message that we made does not marshal: %v", err)) // invalid UTF-8 is refused where it comes in
	}
	return b
}

// Unmarshal decodes a state, for example from a snapshot.
func Unmarshal(b []byte) (*pb.State, error) {
	s := &pb.State{}
	if err := proto.Unmarshal(b, s); err != nil {
		return nil, fmt.Errorf("state: damaged: %w", err)
	}
	if s.GetFormat() == 0 || s.GetFormat() > Format {
		return nil, fmt.Errorf("state: format %d is not known to this version (it knows 1 to %d): upgrade this node", s.GetFormat(), Format)
	}
	fillMaps(s)
	return s, nil
}

// Clone a state. (proto.Clone would lose the empty maps that Apply writes to.)
func Clone(s *pb.State) *pb.State {
	c := proto.CloneOf(s)
	fillMaps(c)
	return c
}

// fillMaps: a map without entries is decoded, and cloned, as nil.
func fillMaps(s *pb.State) {
	if s.Nodes == nil {
		s.Nodes = map[string]*v1.Node{}
	}
	if s.Types == nil {
		s.Types = map[string]*v1.ResourceType{}
	}
	if s.Groups == nil {
		s.Groups = map[string]*v1.Group{}
	}
	if s.Learners == nil {
		s.Learners = map[string]*pb.Member{}
	}
	if s.NodeStatus == nil {
		s.NodeStatus = map[string]*pb.NodeStatus{}
	}
	if s.GroupStatus == nil {
		s.GroupStatus = map[string]*pb.GroupStatus{}
	}
	if s.Requests == nil {
		s.Requests = map[string]*pb.Requests{}
	}
	if s.View == nil {
		s.View = &pb.View{}
	}
}

// Digest is a short name for the content of a state.
func Digest(s *pb.State) string {
	sum := sha256.Sum256(Marshal(s))
	return hex.EncodeToString(sum[:8])
}

// MemberOf returns the member that is node in the current view, nil if none.
func MemberOf(s *pb.State, node string) *pb.Member {
	for _, m := range s.GetView().GetMembers() {
		if m.GetNode() == node {
			return m
		}
	}
	return nil
}

// Majority of n voters.
func Majority(n int) int { return n/2 + 1 }

// Configuration returns a copy of what administrators define, sorted by name.
func Configuration(s *pb.State) *v1.Configuration {
	c := &v1.Configuration{Revision: s.GetConfigRevision(), Cluster: proto.CloneOf(s.GetCluster())}
	for n := range values(s.GetNodes()) {
		c.Nodes = append(c.Nodes, proto.CloneOf(n))
	}
	for t := range values(s.GetTypes()) {
		c.Types = append(c.Types, proto.CloneOf(t))
	}
	for g := range values(s.GetGroups()) {
		c.Groups = append(c.Groups, proto.CloneOf(g))
	}
	return c
}

// Enabled says whether a resource is monitored and managed.
func Enabled(r *v1.Resource) bool { return r.Enabled == nil || r.GetEnabled() }

// SortedKeys of a map: the order in which cores walk it.
func SortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func values[V any](m map[string]V) iter.Seq[V] {
	return func(yield func(V) bool) {
		for _, k := range SortedKeys(m) {
			if !yield(m[k]) {
				return
			}
		}
	}
}

// Peerinact of the current configuration.
func Peerinact(s *pb.State) time.Duration {
	_, _, p := timers.Effective(s.GetCluster().GetTimers())
	return p
}
