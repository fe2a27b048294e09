// Package apifake is a node in memory for tests of the API and of those who
// speak to it. Commands go through the real replicated state machine; there is
// no raft, no guard and no agent: a test changes what those would report.
//
// Time stands still: all commands bear the same time unless the test moves it.
package apifake

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/api"
	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// A Node implements api.Backend.
type Node struct {
	mu       sync.Mutex
	state    *statepb.State
	local    *api.Local
	watchers map[chan struct{}]bool
	request  uint64
	// Now is the time of commands, Unix milliseconds.
	Now int64
	// Submitted, if set, is called after each command that was applied.
	Submitted func(*statepb.Command)
	// Unprepared points, by name: why they make no place.
	Unprepared map[string]error
	// Trials of points that do not end well, by "node/point".
	Trials map[string]Trial
	// FenceFaults of devices that can't be used, by name.
	FenceFaults map[string]string
	// Tried so far, as "node/point".
	Tried []string
	// NotifierStates are what the leader says of its notifiers, or NotifierFault why it says nothing.
	NotifierStates []*v1.NotifierStatus
	NotifierFault  error
	// NotifierFaults of notifiers that can't tell anything, by name.
	NotifierFaults map[string]string
	// Events on the disk.
	old []*v1.Event
}

var _ api.Backend = (*Node)(nil)

// New returns the node of that name in a cluster that has just started: all
// nodes are members, all links are up, nothing is probed yet.
func New(name string, cfg *v1.Configuration) (*Node, error) {
	s, err := state.Initial(cfg)
	if err != nil {
		return nil, err
	}
	n := &Node{state: s, watchers: map[chan struct{}]bool{}, Now: 1_700_000_000_000}
	n.local = &api.Local{Node: name, Version: "1.0.0", Leader: cfg.GetNodes()[0].GetName(), AppliedIndex: 1,
		Lease: api.Lease{Held: true, Remaining: 500 * time.Millisecond}, Peers: &guardpb.Peers{Seeded: true}}
	var own *v1.Node
	for _, node := range cfg.GetNodes() {
		if node.GetName() == name {
			own = node
		}
	}
	if own == nil {
		return nil, fmt.Errorf("apifake: no node %s", name)
	}
	for i, node := range cfg.GetNodes() {
		if node == own {
			continue
		}
		p := &guardpb.PeerState{Node: node.GetName(), State: guardpb.LinkState_LINK_STATE_UP, RaftId: uint64(i + 1), HoldsLease: true}
		for j, link := range node.GetLinks() {
			p.Links = append(p.Links, guardpb.LinkState_LINK_STATE_UP)
			n.local.Links = append(n.local.Links, &guardpb.LinkStats{
				Node: node.GetName(), Link: link.GetName(), State: guardpb.LinkState_LINK_STATE_UP, Sent: 1000, Received: 998, Lost: 2,
				SinceHeard: durationpb.New(40 * time.Millisecond), RoundTripP50: durationpb.New(210 * time.Microsecond), RoundTripP99: durationpb.New(900 * time.Microsecond),
				LocalAddress: own.GetLinks()[j].GetAddress(), PeerAddress: link.GetAddress(),
			})
		}
		n.local.Peers.Peers = append(n.local.Peers.Peers, p)
	}
	return n, nil
}

// Change lets f change what the node knows, and tells watchers. f must replace
// what it changes in local, or be called before anybody reads.
func (n *Node) Change(f func(s *statepb.State, local *api.Local)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.state = clone(n.state)
	local := *n.local
	local.Peers = proto.CloneOf(n.local.Peers)
	f(n.state, &local)
	n.local = &local
	n.changed()
}

func (n *Node) changed() {
	n.local.AppliedIndex++
	for ch := range n.watchers {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
}

// State implements api.Backend.
func (n *Node) State(context.Context) (*statepb.State, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.state, nil
}

// Local implements api.Backend.
func (n *Node) Local(context.Context) (*api.Local, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	local := *n.local
	return &local, nil
}

// Submit implements api.Backend.
func (n *Node) Submit(_ context.Context, c *statepb.Command) error {
	f, err := n.apply(c)
	if err == nil && f != nil {
		f(c)
	}
	return err
}

func (n *Node) apply(c *statepb.Command) (submitted func(*statepb.Command), err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	next := clone(n.state)
	n.request++
	c.Format, c.Proposer, c.Request, c.TimeMs = 1, n.local.Node, n.request, n.Now
	if refused := state.Apply(next, c).Refused; refused != nil {
		return nil, &api.Refusal{Code: refused.Code, Message: refused.Message}
	}
	n.state = next
	local := *n.local
	n.local = &local
	n.changed()
	return n.Submitted, nil
}

// Watch implements api.Backend.
func (n *Node) Watch(ctx context.Context) (<-chan struct{}, error) {
	ch := make(chan struct{}, 1)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.watchers[ch] = true
	context.AfterFunc(ctx, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.watchers, ch)
		close(ch)
	})
	return ch, nil
}

// Runs makes a group known as probed everywhere and online on nodes; with an
// empty node it is offline everywhere.
func Runs(s *statepb.State, group string, nodes ...string) {
	gs := s.GroupStatus[group]
	gs.Instances = map[string]*statepb.Instance{}
	for name := range gs.GetNodes() {
		gs.Instances[state.InstanceAt(s.Groups[group], name)] = &statepb.Instance{}
	}
	for name, on := range gs.GetNodes() {
		on.Probed, on.ReportedIntent = true, on.GetIntent()
		on.Want = v1.Want_WANT_OFFLINE
		st := v1.ResourceState_RESOURCE_STATE_OFFLINE
		if slices.Contains(nodes, name) {
			gs.Instances[state.InstanceAt(s.Groups[group], name)] = &statepb.Instance{Active: name, IntentOnline: true, Online: true, LastOnline: name}
			on.Want, st = v1.Want_WANT_ONLINE, v1.ResourceState_RESOURCE_STATE_ONLINE
		}
		on.Resources = map[string]*v1.ResourceStatus{}
		for _, r := range s.Groups[group].GetResources() {
			of := st
			if s.Types[r.GetType()].GetOperations() == v1.Operations_OPERATIONS_NONE {
				of = v1.ResourceState_RESOURCE_STATE_ONLINE
			}
			on.Resources[r.GetName()] = &v1.ResourceStatus{State: of, Activity: v1.ResourceActivity_RESOURCE_ACTIVITY_NONE}
		}
	}
}

// clone has all maps made, as apply wants them.
func clone(s *statepb.State) *statepb.State {
	c, err := state.Unmarshal(state.Marshal(s))
	if err != nil {
		panic(fmt.Sprintf("apifake: %v", err))
	}
	return c
}
