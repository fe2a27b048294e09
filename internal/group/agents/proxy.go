package agents

import (
	"context"
	"errors"
	"fmt"
	"sync"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/group/agent"
)

var proxyKind = kind{
	typ: &v1.ResourceType{
		Name: "Proxy", Operations: v1.Operations_OPERATIONS_NONE, Bundled: true,
		Description: "Has the state of a resource of another group, so that a network card, say, is monitored once for all groups that need it. A change is noticed at once.",
		Attributes: []*v1.Attribute{
			{Name: "TargetGroup", Kind: text, Required: required, Description: "Group of the resource."},
			{Name: "TargetResName", Kind: text, Required: required, Description: "Name of the resource."},
			{Name: "TargetSysName", Kind: text, Description: "Node on which its state counts; the node of the proxy if not given."},
		},
		Limits: &v1.Limits{MonitorInterval: seconds(60), OfflineMonitorInterval: seconds(60), MonitorTimeout: seconds(30)},
	},
	notes: "The state is that which the cluster has recorded. Faulted is offline; as long as the state is unknown that of the proxy is, too. A target in the group of the proxy itself is refused on the same node.",
	run:   runProxy,
}

// Target is a resource on a node that a proxy looks at.
type Target struct{ Group, Resource, Node string }

// proxies are the resources that have the state of another one.
type proxies struct {
	tell func(key, string)

	mu    sync.Mutex
	seen  map[Target]v1.ResourceState
	heard map[key]Target
	of    map[Target]map[key]bool
}

func newProxies(tell func(key, string)) *proxies {
	return &proxies{tell: tell, seen: map[Target]v1.ResourceState{}, heard: map[key]Target{}, of: map[Target]map[key]bool{}}
}

func (p *proxies) set(k key, t Target) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.heard[k] == t {
		return
	}
	p.drop(k)
	p.heard[k] = t
	if p.of[t] == nil {
		p.of[t] = map[key]bool{}
	}
	p.of[t][k] = true
}

func (p *proxies) forget(k key) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drop(k)
}

func (p *proxies) drop(k key) {
	t, ok := p.heard[k]
	if !ok {
		return
	}
	delete(p.heard, k)
	if delete(p.of[t], k); len(p.of[t]) == 0 {
		delete(p.of, t)
		delete(p.seen, t)
	}
}

// StatesChanged tells the host that states which the cluster has recorded have changed. It calls look, before it returns,
// for what proxies look at; Options.Look is not called.
func (h *Host) StatesChanged(look func(Target) v1.ResourceState) {
	var told []key
	p := h.proxies
	p.mu.Lock()
	for t, keys := range p.of {
		if now := look(t); now != p.seen[t] {
			p.seen[t] = now
			for k := range keys {
				told = append(told, k)
			}
		}
	}
	p.mu.Unlock()
	for _, k := range told {
		p.tell(k, "")
	}
}

func runProxy(ctx context.Context, h *Host, c agent.Call) agent.Result {
	k := key{c.Group, c.Resource}
	t := Target{c.Attributes["TargetGroup"], c.Attributes["TargetResName"], c.Attributes["TargetSysName"]}
	if t.Node == "" {
		t.Node = h.node
	}
	if c.Entry != agent.Monitor {
		return agent.Result{}
	}
	switch {
	case h.look == nil:
		return failed(errors.New("nobody here knows the states of other resources"))
	case t.Group == c.Group && t.Node == h.node:
		return failed(fmt.Errorf("%s is in the same group: require it instead", t.Resource))
	}
	if c.Watch {
		h.proxies.set(k, t)
	} else {
		h.proxies.forget(k)
	}
	state, err := h.look(ctx, t)
	where := fmt.Sprintf("%s of %s on %s", t.Resource, t.Group, t.Node)
	switch {
	case err != nil:
		return failed(fmt.Errorf("%s: %w", where, err))
	case state == v1.ResourceState_RESOURCE_STATE_ONLINE:
		return found(true, c.Watch, "")
	case state == v1.ResourceState_RESOURCE_STATE_OFFLINE:
		return found(false, c.Watch, where+" is offline")
	case state == v1.ResourceState_RESOURCE_STATE_FAULTED:
		return found(false, c.Watch, where+" has failed")
	}
	return agent.Result{State: v1.ResourceState_RESOURCE_STATE_UNKNOWN, Message: where + " is unknown", Watched: c.Watch}
}
