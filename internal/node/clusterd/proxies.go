//go:build linux

package clusterd

import (
	"context"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
	"github.com/holdfast-ha/holdfast/internal/group/agents"
)

// look tells an agent the state of another resource as this node has applied it. Not to be called by the loop.
func (n *node) look(ctx context.Context, t agents.Target) (v1.ResourceState, error) {
	var found v1.ResourceState
	if err := (&backend{n}).ask(ctx, func() { found = stateOf(n.engine.State(), t) }); err != nil {
		return v1.ResourceState_RESOURCE_STATE_UNSPECIFIED, err // the loop may be about to write found
	}
	return found, nil
}

// stateOf is UNSPECIFIED if nothing is known of it.
func stateOf(s *statepb.State, t agents.Target) v1.ResourceState {
	return s.GetGroupStatus()[t.Group].GetNodes()[t.Node].GetResources()[t.Resource].GetState()
}

// proxiesOn tells agents that look at other resources what has changed.
func (n *node) proxiesOn() {
	s := n.engine.State()
	n.host.StatesChanged(func(t agents.Target) v1.ResourceState { return stateOf(s, t) })
}
