package guard

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
)

// Two ends that are not like a leave: a node that is detached goes on without a
// lease, and one that is to be reset leaves nothing behind (docs/lease.md).

// detach gives the lease up and stops nothing: the cluster has committed that
// what runs here is nobody else's. No goodbye is said, which would be a proof of the contrary (L11).
// After the end of the lease it is too late: then everything stops as ever.
func (c *Core) detach(call uint64) {
	if c.lease.state != leaseHeld || len(c.protected) == 0 {
		c.stop.quiet, c.stop.left = true, true
		c.leave(call, "the node leaves the cluster")
		return
	}
	c.detached, c.protected = c.protected, nil
	floor, extendNumber := max(c.seq, 1), c.lease.extendNumber
	c.lease = lease{floor: floor, extendNumber: extendNumber, reason: "the node was detached: what runs here goes on without the cluster"}
	c.stop.leaving, c.saveDue = true, true
	c.stop.leavingCall = call
	c.finishLeaving()
}

// takeUp what was left running by a detach: from now on it runs under the lease.
func (c *Core) takeUp() {
	for _, p := range c.detached {
		if !c.Protects(p.GetGroup()) {
			c.protected = append(c.protected, p)
		}
	}
	c.detached, c.saveDue = nil, true
	c.sortProtected()
}

// stopDetached ends what was left running, since the cluster does not count on it.
func (c *Core) stopDetached(reason string) error {
	switch {
	case len(c.detached) == 0:
		return nil
	case c.lease.state == leaseHeld:
		return fmt.Errorf("guard: what was left running is under the lease of this node")
	}
	c.takeUp()
	c.endLease(reason)
	return nil
}

// reset is fail-fast: all is stopped, and this guard ends.
func (c *Core) reset(m *guardpb.Reset) {
	c.stop.restart = c.stop.restart || m.GetRestart()
	if c.stop.leaving {
		return
	}
	c.takeUp()
	c.leave(0, m.GetReason())
}

// protectDetached keeps the record of what was left running true, without a lease.
func (c *Core) protectDetached(m *guardpb.Protect) (known bool) {
	i := slices.IndexFunc(c.detached, func(p *guardpb.Protect) bool { return p.GetGroup() == m.GetGroup() })
	switch {
	case i < 0:
		return false
	case m.GetGone():
		c.detached = slices.Delete(c.detached, i, i+1)
	default:
		c.detached[i] = proto.CloneOf(m)
	}
	c.saveDue = true
	return true
}

func (c *Core) sortProtected() {
	slices.SortFunc(c.protected, func(a, b *guardpb.Protect) int { return strings.Compare(a.GetGroup(), b.GetGroup()) })
}
