package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

// A Client asks one node of a lab over its API socket.
type Client struct {
	node      string
	cluster   v1.ClusterServiceClient
	quorum    v1.QuorumServiceClient
	groups    v1.GroupServiceClient
	nodes     v1.NodeServiceClient
	explain   v1.ExplainServiceClient
	events    v1.EventServiceClient
	operation v1.OperationServiceClient
}

// Client of a node. The node need not run yet; a connection is made per call.
func (l *Lab) Client(node string) (*Client, error) {
	p, err := l.rec.Plan.node(node)
	if err != nil {
		return nil, err
	}
	socket := p.APISocket()
	t := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	h := &http.Client{Transport: t}
	const base = "http://holdfast" // the name is not looked up
	return &Client{
		node:      node,
		cluster:   v1.NewClusterServiceClient(h, base),
		quorum:    v1.NewQuorumServiceClient(h, base),
		groups:    v1.NewGroupServiceClient(h, base),
		nodes:     v1.NewNodeServiceClient(h, base),
		explain:   v1.NewExplainServiceClient(h, base),
		events:    v1.NewEventServiceClient(h, base),
		operation: v1.NewOperationServiceClient(h, base),
	}, nil
}

// callLimit is how long a node may take for one answer.
const callLimit = 5 * time.Second

// Status of the cluster as the node knows it.
func (c *Client) Status(ctx context.Context) (*v1.StatusResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	r, err := c.cluster.Status(ctx, connect.NewRequest(&v1.StatusRequest{}))
	if err != nil {
		return nil, fmt.Errorf("node %s: %w", c.node, err)
	}
	return r.Msg, nil
}

// Quorum as the node sees it: the coordination points and what the cluster survives.
func (c *Client) Quorum(ctx context.Context) (*v1.ShowQuorumResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	r, err := c.quorum.Show(ctx, connect.NewRequest(&v1.ShowQuorumRequest{}))
	if err != nil {
		return nil, fmt.Errorf("node %s: %w", c.node, err)
	}
	return r.Msg, nil
}

// Explain says why a group is where it is.
func (c *Client) Explain(ctx context.Context, group string) (*v1.ExplainGroupResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	r, err := c.explain.Group(ctx, connect.NewRequest(&v1.ExplainGroupRequest{Group: group}))
	if err != nil {
		return nil, fmt.Errorf("node %s: %w", c.node, err)
	}
	return r.Msg, nil
}

// Events that the cluster keeps, newer than the given number.
func (c *Client) Events(ctx context.Context, after uint64) ([]*v1.Event, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	r, err := c.events.List(ctx, connect.NewRequest(&v1.ListEventsRequest{After: after}))
	if err != nil {
		return nil, fmt.Errorf("node %s: %w", c.node, err)
	}
	return r.Msg.Events, nil
}

// Switch moves a group and waits until that is done.
func (c *Client) Switch(ctx context.Context, group, to string) error {
	r, err := c.groups.Switch(ctx, connect.NewRequest(&v1.SwitchGroupRequest{Group: group, Node: to}))
	if err != nil {
		return fmt.Errorf("switch %s to %s: %w", group, to, err)
	}
	return c.follow(ctx, r.Msg.Operation)
}

// Clear takes a group's faults off on all nodes.
func (c *Client) Clear(ctx context.Context, group string) error {
	_, err := c.groups.Clear(ctx, connect.NewRequest(&v1.ClearGroupRequest{Group: group}))
	return err
}

// StopNode lets a node leave the cluster cleanly, its groups moved away first.
func (c *Client) StopNode(ctx context.Context, node string) error {
	r, err := c.nodes.Stop(ctx, connect.NewRequest(&v1.StopNodeRequest{Node: node, Evacuate: true}))
	if err != nil {
		return fmt.Errorf("stop node %s: %w", node, err)
	}
	return c.follow(ctx, r.Msg.Operation)
}

func (c *Client) follow(ctx context.Context, op *v1.Operation) error {
	for op.GetState() == v1.OperationState_OPERATION_STATE_RUNNING || op.GetState() == v1.OperationState_OPERATION_STATE_UNSPECIFIED {
		stream, err := c.operation.Watch(ctx, connect.NewRequest(&v1.WatchOperationRequest{Id: op.GetId()}))
		if err != nil {
			return err
		}
		for stream.Receive() {
			op = stream.Msg().Operation
		}
		err = stream.Err()
		stream.Close()
		if err != nil {
			return fmt.Errorf("operation %d: %w", op.GetId(), err)
		}
	}
	if op.GetState() != v1.OperationState_OPERATION_STATE_DONE {
		return fmt.Errorf("operation %d failed: %s", op.GetId(), op.GetMessage())
	}
	return nil
}

// statusPoll is how often a node is asked while something is waited for.
const statusPoll = 25 * time.Millisecond

// AwaitStatus asks the running nodes in turn until one gives a status that ok
// accepts; ok returns what is still missing, for people, or "".
func (l *Lab) AwaitStatus(ctx context.Context, ok func(*v1.StatusResponse) string) (*v1.StatusResponse, error) {
	return l.awaitStatus(ctx, ok, func(string) {})
}

// awaitStatus tells note whenever something else is missing.
func (l *Lab) awaitStatus(ctx context.Context, ok func(*v1.StatusResponse) string, note func(string)) (*v1.StatusResponse, error) {
	missing, noted := "no node has answered", ""
	for {
		var errs []error
		asked := 0
		for _, name := range l.Nodes() {
			if s, err := l.State(name); err != nil || s != Running {
				continue
			}
			asked++
			c, err := l.Client(name)
			if err != nil {
				return nil, err
			}
			st, err := c.Status(ctx)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			if missing = ok(st); missing == "" {
				return st, nil
			}
		}
		if asked > 0 && len(errs) == asked {
			missing = errs[0].Error()
		}
		if missing != noted {
			note(missing)
			noted = missing
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%s: %w", missing, context.Cause(ctx))
		case <-time.After(statusPoll):
		}
		if err := l.Reload(); err != nil {
			return nil, err
		}
	}
}

// settled says what is missing until all of these nodes are members that hear
// each other and every group is online with nothing under way.
func settled(nodes []string) func(*v1.StatusResponse) string {
	return func(s *v1.StatusResponse) string {
		if !s.GetSource().GetQuorum() {
			return "no quorum yet"
		}
		for _, name := range nodes {
			i := slices.IndexFunc(s.Nodes, func(n *v1.NodeInfo) bool { return n.Name == name })
			switch {
			case i < 0:
				return "the cluster has no node " + name
			case s.Nodes[i].Phase != v1.NodePhase_NODE_PHASE_RUNNING:
				return fmt.Sprintf("%s is %s", name, word(s.Nodes[i].Phase.String(), "NODE_PHASE_"))
			case s.Nodes[i].LinkState != v1.LinkState_LINK_STATE_UP:
				return fmt.Sprintf("%s is heard over %s links", name, word(s.Nodes[i].LinkState.String(), "LINK_STATE_"))
			case s.Nodes[i].EngineDown:
				return "the engine of " + name + " is down"
			}
		}
		for _, g := range s.Groups {
			if g.State != v1.GroupState_GROUP_STATE_ONLINE {
				return strings.TrimSuffix(fmt.Sprintf("%s is %s: %s", g.Name, word(g.State.String(), "GROUP_STATE_"), g.Message), ": ")
			}
			for _, n := range g.Nodes {
				if slices.Contains(nodes, n.Node) && !n.Probed {
					return fmt.Sprintf("%s is not probed on %s", g.Name, n.Node)
				}
			}
		}
		if len(s.Operations) > 0 {
			return "an operation is under way: " + s.Operations[0].Message
		}
		return ""
	}
}

// word is an enum value as people read it.
func word(name, prefix string) string {
	return strings.ToLower(strings.TrimPrefix(name, prefix))
}

// AwaitSettled waits until the running nodes are members and all groups are online.
func (l *Lab) AwaitSettled(ctx context.Context) (*v1.StatusResponse, error) {
	var running []string
	for _, n := range l.Nodes() {
		if s, err := l.State(n); err == nil && s == Running {
			running = append(running, n)
		}
	}
	if len(running) == 0 {
		return nil, errors.New("no node of the lab runs: holdfast lab start NODE")
	}
	return l.AwaitStatus(ctx, settled(running))
}
