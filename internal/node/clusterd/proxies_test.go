//go:build linux

package clusterd

import (
	"context"
	"testing"
	"testing/synctest"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
	"github.com/holdfast-ha/holdfast/internal/group/agents"
	"github.com/holdfast-ha/holdfast/internal/node/engine"
)

// Agents are told of every new state, and may ask for one at any time.
func TestAgentsSeeOtherResources(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		defer b.end()
		online := v1.ResourceState_RESOURCE_STATE_ONLINE
		b.state = &statepb.State{GroupStatus: map[string]*statepb.GroupStatus{"web": {Nodes: map[string]*statepb.GroupOnNode{
			"n2": {Resources: map[string]*v1.ResourceStatus{"app": {State: online}}},
		}}}}
		b.next(engine.Out{Changed: true})
		b.next(engine.Out{})
		b.input()
		b.input()
		b.want("FromPeer n2; web/app on n2 is RESOURCE_STATE_ONLINE; FromPeer n2")
		for target, want := range map[agents.Target]v1.ResourceState{
			{Group: "web", Resource: "app", Node: "n2"}: online, {Group: "web", Resource: "app", Node: "n1"}: 0,
			{Group: "web", Resource: "db", Node: "n2"}: 0, {Group: "mail", Resource: "app", Node: "n2"}: 0,
		} {
			if got, err := b.look(context.Background(), target); err != nil || got != want {
				t.Errorf("%v: %s, %v", target, got, err)
			}
		}
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		b.quit()
		if _, err := b.look(ended, agents.Target{}); err == nil {
			t.Error("an answer after the end")
		}
	})
}
