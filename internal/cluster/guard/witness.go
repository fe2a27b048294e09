package guard

import (
	"slices"
	"time"

	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/timers"
)

// witnessName stands for the coordination points among voters; no node has it.
const witnessName = ""

// askBeats is how many heartbeats old the quorum's newest acknowledgement may be
// before the coordination points are asked for theirs: one that travels both
// ways is up to two heartbeats old. The leader asks first, and with every heartbeat
// until the members suffice again: in a split it is to have the points suspect
// the silent before they acknowledge them once more, which it would have to wait for.
const (
	askBeats       = 4
	askBeatsLeader = 3
)

// silentFor without a heartbeat a peer is the reason for asking, as far as can be told.
func (c *Core) silentFor() time.Duration { return c.heartbeat * 3 / 2 }

// witness is all coordination points as one voter. They are asked only while
// the members' acknowledgements do not suffice, through the engine: guard itself
// waits for no server and no disk.
type witness struct {
	raftID uint64 // 0: does not vote
	acked  uint64
}

// configure says whether it votes. What another one acknowledged is void.
func (w *witness) configure(raftID uint64) bool {
	if raftID != w.raftID {
		*w = witness{raftID: raftID}
	}
	return raftID != 0
}

// askWitness for its acknowledgement of the heartbeat that was just sent.
func (c *Core) askWitness() {
	beats, until := time.Duration(askBeats), c.earned()
	if c.leader == c.cfg.Node {
		beats, until = askBeatsLeader, c.earnedWith(0)
	}
	if c.witness.raftID == 0 || c.raftID == 0 || c.bye.said || c.stop.leaving || c.lease.state == leaseStopping ||
		until > c.now+timers.Lease(c.inact)-beats*c.heartbeat {
		return
	}
	m := &guardpb.WitnessWanted{Number: c.seq, Epoch: c.epoch, RaftId: c.raftID, Stays: c.ownStays(), WitnessRaftId: c.witness.raftID}
	for _, p := range c.peers {
		if p != c.self && p.raftID != 0 && c.now-p.heardAt >= c.silentFor() {
			m.Silent = append(m.Silent, p.node)
		}
	}
	slices.Sort(m.Silent)
	c.toEngine(&guardpb.FromGuard{Body: &guardpb.FromGuard_WitnessWanted{WitnessWanted: m}})
}

// witnessAcked counts like the acknowledgement of a member (L1).
func (c *Core) witnessAcked(m *guardpb.WitnessAcked) {
	if m.GetWitnessRaftId() != c.witness.raftID || c.witness.raftID == 0 || m.GetRaftId() != c.raftID ||
		m.GetGuardIncarnation() != c.cfg.Incarnation || m.GetNumber() > c.seq {
		return
	}
	c.witness.acked = max(c.witness.acked, m.GetNumber())
}
