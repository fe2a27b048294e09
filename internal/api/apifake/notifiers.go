package apifake

import (
	"context"
	"slices"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/api"
)

// OldEvents is what the node has on its disk, by number.
func (n *Node) OldEvents(events ...*v1.Event) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.old = events
}

// KeptEvents implements api.Backend.
func (n *Node) KeptEvents(context.Context) (all []api.EventRange, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, e := range n.old {
		if k := len(all); k > 0 && all[k-1].Last+1 == e.GetNumber() {
			all[k-1].Last, all[k-1].LastMs = e.GetNumber(), e.GetTimeMs()
		} else {
			all = append(all, api.EventRange{First: e.GetNumber(), Last: e.GetNumber(), FirstMs: e.GetTimeMs(), LastMs: e.GetTimeMs()})
		}
	}
	return all, nil
}

// ReadEvents implements api.Backend.
func (n *Node) ReadEvents(_ context.Context, q api.EventQuery, see func(*v1.Event) bool) error {
	n.mu.Lock()
	old := slices.Clone(n.old)
	n.mu.Unlock()
	if q.Backward {
		slices.Reverse(old)
	}
	for _, e := range old {
		if e.GetNumber() >= q.First && e.GetNumber() <= q.Last && !see(e) {
			return nil
		}
	}
	return nil
}

// Notifiers implements api.Backend: what NotifierStates has.
func (n *Node) Notifiers(context.Context, bool) ([]*v1.NotifierStatus, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.NotifierStates, n.NotifierFault
}

// TestNotifier implements api.Backend: it is delivered, unless NotifierFaults has a reason.
func (n *Node) TestNotifier(_ context.Context, name string, _ bool) (*v1.TestNotifierResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	fault := n.NotifierFaults[name]
	return &v1.TestNotifierResponse{Node: n.local.Leader, Delivered: fault == "", Error: fault}, nil
}
