//go:build linux

package clusterd

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/api"
	"github.com/holdfast-ha/holdfast/internal/arbiter"
	"github.com/holdfast-ha/holdfast/internal/cluster/lockdisk"
	"github.com/holdfast-ha/holdfast/internal/cluster/lockdisk/device"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
	"github.com/holdfast-ha/holdfast/internal/cluster/witness"
	"github.com/holdfast-ha/holdfast/internal/cluster/witness/witnesspb"
	"github.com/holdfast-ha/holdfast/internal/node/points"
)

// What a node does before coordination points are used: it has them make a
// place for the cluster, and says whether it can use them.

// apiDial is how long one link to another node's API may take.
const apiDial = 1500 * time.Millisecond

// tellLimit is how long one arbiter may take to hear of new authorities.
const tellLimit = 5 * time.Second

// PreparePoint implements api.Backend.
func (b *backend) PreparePoint(ctx context.Context, spec *v1.PointSpec, register uint64) (*v1.CoordinationPoint, error) {
	p := &v1.CoordinationPoint{Name: spec.GetName()}
	switch k := spec.GetKind().(type) {
	case *v1.PointSpec_ArbiterToken:
		a, err := arbiter.Register(ctx, arbiter.Registration{
			Token: k.ArbiterToken, ClusterUUID: b.n.id.ClusterUUID, ClusterName: b.n.id.ClusterName,
			Authorities: b.n.id.AuthoritiesPEM(), Identity: b.n.id.PeerTLS(), Register: register,
		})
		if err != nil {
			return nil, err
		}
		p.Kind = &v1.CoordinationPoint_Arbiter{Arbiter: a}
		return p, nil
	case *v1.PointSpec_LockDisk:
		d := &v1.LockDiskPoint{Path: k.LockDisk.GetPath(), Paths: k.LockDisk.GetPaths()}
		if err := b.n.claimSlot(ctx, d); err != nil {
			return nil, err
		}
		p.Kind = &v1.CoordinationPoint_LockDisk{LockDisk: d}
		return p, nil
	}
	return nil, fmt.Errorf("a point of a kind that %s does not know: upgrade it", b.n.id.Node)
}

// TryPoint implements api.Backend.
func (b *backend) TryPoint(ctx context.Context, node string, q *v1.TryPointRequest) (*v1.TryPointResponse, error) {
	s, err := b.State(ctx)
	if err != nil {
		return nil, err
	}
	if node == "" || node == b.n.id.Node {
		return b.n.tryPoint(ctx, s, q), nil
	}
	c, err := b.n.apiOf(s, node)
	if err != nil {
		return nil, err
	}
	defer c.CloseIdleConnections()
	resp, err := v1.NewQuorumServiceClient(c, "https://"+apiHost).TryPoint(ctx, connect.NewRequest(q))
	if err != nil {
		var answer *connect.Error
		if errors.As(err, &answer) {
			err = errors.New(answer.Message())
		}
		return nil, err
	}
	return resp.Msg, nil
}

// tryPoint from this node.
func (n *node) tryPoint(ctx context.Context, s *statepb.State, q *v1.TryPointRequest) *v1.TryPointResponse {
	m := state.MemberOf(s, n.id.Node)
	if m == nil {
		m = s.GetLearners()[n.id.Node]
	}
	if m == nil {
		return &v1.TryPointResponse{Problem: "this node is not in the cluster at the moment"}
	}
	look := &witnesspb.Request{Cluster: n.id.ClusterUUID, Register: q.GetRegister(), Node: n.id.Node, RaftId: m.GetRaftId(),
		Body: &witnesspb.Request_Look{Look: &witnesspb.Look{}}}
	switch k := q.GetPoint().GetKind().(type) {
	case *v1.CoordinationPoint_Arbiter:
		c := arbiter.Dial(k.Arbiter, n.id.PeerTLS())
		defer c.Close()
		if err := c.Warm(ctx); err != nil {
			return &v1.TryPointResponse{Problem: err.Error(), Other: errors.Is(err, arbiter.ErrInstance) || errors.Is(err, arbiter.ErrWrongKey)}
		}
		return lookAt(ctx, c, look)
	case *v1.CoordinationPoint_LockDisk:
		c, err := points.OpenDisk(k.LockDisk, n.id, s.GetNodeStatus()[n.id.Node].GetNumber(), m.GetRaftId())
		if err != nil {
			return &v1.TryPointResponse{Problem: err.Error()}
		}
		defer c.Close()
		if no := n.sameDisk(ctx, c, s, q); no != nil {
			return no
		}
		return lookAt(ctx, c, look)
	}
	return &v1.TryPointResponse{Problem: "it is of a kind that this version does not know: upgrade this node"}
}

// claimSlot on a lock disk, and fill in which one it is. A disk that hangs is not waited for.
func (n *node) claimSlot(ctx context.Context, d *v1.LockDiskPoint) error {
	cluster, err := lockdisk.ParseID(n.id.ClusterUUID)
	if err != nil {
		return err
	}
	path := points.DiskPath(d, n.id.Node)
	type claimed struct {
		disk lockdisk.Header
		slot int
		err  error
	}
	done := make(chan claimed, 1)
	go func() {
		h, slot, err := device.Claim(ctx, path, cluster)
		done <- claimed{h, slot, err}
	}()
	select {
	case c := <-done:
		d.Disk, d.Slot = c.disk.Disk.String(), uint32(c.slot)
		return c.err
	case <-ctx.Done():
		return fmt.Errorf("lock disk %s has not answered in time", path)
	}
}

// sameDisk proves that this node has the disk that the writer means: the writer
// writes a nonce into its block, and the others find it there. Nil: it is so.
func (n *node) sameDisk(ctx context.Context, d *device.Disk, s *statepb.State, q *v1.TryPointRequest) *v1.TryPointResponse {
	var write []byte
	if q.GetWriter() == n.id.Node {
		write = q.GetNonce()
	}
	marks, err := d.Mark(ctx, write)
	if err != nil {
		return &v1.TryPointResponse{Problem: err.Error()}
	}
	number := int(s.GetNodeStatus()[q.GetWriter()].GetNumber())
	for _, m := range marks {
		if m.Number == number && len(q.GetNonce()) > 0 && bytes.Equal(m.Nonce, q.GetNonce()) {
			return nil
		}
	}
	return &v1.TryPointResponse{Other: true, Problem: fmt.Sprintf("%s is a copy of the lock disk, not the one that %s sees: what %s has just written is not there",
		points.DiskPath(q.GetPoint().GetLockDisk(), n.id.Node), q.GetWriter(), q.GetWriter())}
}

// arbiters that this node is connected to, by the name of the point. In the loop.
func (n *node) arbiters() map[string]*arbiter.Client {
	all := map[string]*arbiter.Client{}
	for name, p := range n.points.open {
		if c, ok := p.(*arbiter.Client); ok {
			all[name] = c
		}
	}
	return all
}

// tellAuthorities to arbiters, which judge nodes by them. One that takes
// nothing from this node any more is none that could be told.
func tellAuthorities(arbiters map[string]*arbiter.Client, authorities []byte) error {
	var all []error
	for _, name := range state.SortedKeys(arbiters) {
		ctx, cancel := context.WithTimeout(context.Background(), tellLimit)
		err := arbiters[name].SetAuthorities(ctx, authorities)
		cancel()
		lost := false
		for _, class := range []error{arbiter.ErrCertificate, arbiter.ErrNotRegistered, arbiter.ErrForgotten, arbiter.ErrInstance, arbiter.ErrWrongKey} {
			lost = lost || errors.Is(err, class)
		}
		if err != nil && !lost {
			all = append(all, fmt.Errorf("coordination point %s does not know the cluster's authorities yet: %w; if it is gone for good: holdfast quorum replace %s NAME", name, err, name))
		}
	}
	return errors.Join(all...)
}

// lookAt a point that is open.
func lookAt(ctx context.Context, p points.Point, look *witnesspb.Request) *v1.TryPointResponse {
	began := time.Now()
	reply, err := p.Do(ctx, look)
	took := time.Since(began)
	switch {
	case err != nil:
		return &v1.TryPointResponse{Problem: err.Error()}
	case reply.GetLooked() == nil && reply.GetRefused() != nil:
		return &v1.TryPointResponse{Problem: reply.GetRefused().GetMessage()}
	case reply.GetLooked() == nil:
		return &v1.TryPointResponse{Problem: fmt.Sprintf("it answers with something else than a look: %T", reply.GetBody())}
	}
	return &v1.TryPointResponse{RoundTrip: durationpb.New(took)}
}

// apiHost stands for the node in a request to its API; its certificate says who it is.
const apiHost = "node.invalid"

// apiOf another node, over the first of its links that answers, with this
// node's certificate. The caller closes idle connections.
func (n *node) apiOf(s *statepb.State, name string) (*http.Client, error) {
	one := s.GetNodes()[name]
	if one == nil {
		return nil, fmt.Errorf("there is no node %s", name)
	}
	addresses, err := endpoints(one)
	if err != nil {
		return nil, err
	}
	cfg := n.id.ClientTLS()
	cfg.NextProtos = []string{"http/1.1"}
	cfg.VerifyConnection = func(cs tls.ConnectionState) error {
		who, err := n.id.PeerName(cs)
		if err == nil && who != name {
			err = fmt.Errorf("node %s answers at the address of %s", who, name)
		}
		return err
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var all []error
		for _, a := range addresses {
			c, err := dialTLS(ctx, a, cfg)
			if err == nil {
				return c, nil
			}
			all = append(all, fmt.Errorf("%s: %w", a, err))
		}
		return nil, errors.Join(all...)
	}
	return &http.Client{Transport: &http.Transport{DialTLSContext: dial}}, nil
}

func dialTLS(ctx context.Context, address string, cfg *tls.Config) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, apiDial)
	defer cancel()
	return (&tls.Dialer{Config: cfg}).DialContext(ctx, "tcp", address)
}

// pointStatus of all points, in the loop.
func (n *node) pointStatus() (out []api.PointStatus) {
	now := n.now()
	for _, p := range n.engine.PointStatus() {
		st := api.PointStatus{
			Name: p.Name, Known: p.Known, Reachable: p.Reachable, For: max(now-p.Since, 0), Error: p.Error, RoundTrip: n.points.took[p.Name],
			Abstains: p.Refused == witnesspb.Refused_REASON_ABSTAINS,
		}
		if p.Kind == witness.LockDisk && p.Reachable && st.For >= lockDiskGrace {
			st.NotSeen = notSeen(n.engine.State(), n.id.Node, p.Seen)
		}
		out = append(out, st)
	}
	return out
}

// lockDiskGrace is how long members may take to write to a lock disk for the first time.
const lockDiskGrace = 30 * time.Second

// notSeen are the members of the view that have never written to a lock disk, as far as this node can read it.
func notSeen(s *statepb.State, own string, seen []*witnesspb.Seen) (names []string) {
	for _, m := range s.GetView().GetMembers() {
		found := slices.ContainsFunc(seen, func(x *witnesspb.Seen) bool { return x.GetNode() == m.GetNode() })
		if m.GetNode() != own && !found {
			names = append(names, m.GetNode())
		}
	}
	return names
}
