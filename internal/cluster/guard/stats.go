package guard

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
)

// DropReason says why the driver dropped a packet.
type DropReason int

const (
	// DropForged: it does not authenticate.
	DropForged DropReason = iota
	// DropMalformed: it authenticates or not, but its bytes make no sense.
	DropMalformed
	// DropForeign: of another cluster, or of a node that is not configured.
	DropForeign
)

// counters of one link to one peer since this guard was started.
type counters struct {
	sent, received, sendErrors, lost              uint64
	replayed, forged, malformed, foreign, refused uint64
	arrival, roundTrip                            histogram
}

// histogram with fixed bounds. The zero value is ready.
type histogram struct{ counts [len(bounds) + 1]uint64 }

// bounds of the buckets, inclusive.
var bounds = [...]time.Duration{
	50 * time.Microsecond, 100 * time.Microsecond, 200 * time.Microsecond, 500 * time.Microsecond,
	1 * time.Millisecond, 2 * time.Millisecond, 5 * time.Millisecond, 10 * time.Millisecond, 20 * time.Millisecond,
	30 * time.Millisecond, 50 * time.Millisecond, 75 * time.Millisecond, 100 * time.Millisecond, 110 * time.Millisecond,
	125 * time.Millisecond, 150 * time.Millisecond, 200 * time.Millisecond, 300 * time.Millisecond, 500 * time.Millisecond,
	750 * time.Millisecond, 1 * time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second,
}

func (h *histogram) add(d time.Duration) {
	lo, hi := 0, len(bounds)
	for lo < hi {
		if mid := (lo + hi) / 2; d > bounds[mid] {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	h.counts[lo]++
}

// quantile returns the bound below which the share q of all values lies; 0 if
// there are none, twice the last bound if it lies above all bounds.
func (h *histogram) quantile(q float64) time.Duration {
	var all uint64
	for _, n := range h.counts {
		all += n
	}
	if all == 0 {
		return 0
	}
	rank := uint64(q*float64(all-1)) + 1
	for i, n := range h.counts {
		if n >= rank {
			if i == len(bounds) {
				break
			}
			return bounds[i]
		}
		rank -= n
	}
	return 2 * bounds[len(bounds)-1]
}

func newLink(now time.Duration) link {
	return link{heardAt: now, state: guardpb.LinkState_LINK_STATE_CONNECTING}
}

// countersOf a peer's link, or of strangers; nil: no such link.
func (c *Core) countersOf(linkIndex int, node string) *counters {
	if p := c.byName[node]; p != nil && p != c.self && linkIndex >= 0 && linkIndex < len(p.links) {
		return &p.links[linkIndex].counters
	}
	if linkIndex >= 0 && linkIndex < MaxLinks {
		return &c.strangers[linkIndex]
	}
	return nil
}

// Dropped counts a packet that the driver could not use. From is who it claims
// to be of; nothing is believed.
func (c *Core) Dropped(linkIndex int, from string, why DropReason) {
	n := c.countersOf(linkIndex, from)
	if n == nil {
		return
	}
	switch why {
	case DropForged:
		n.forged++
	case DropMalformed:
		n.malformed++
	case DropForeign:
		n.foreign++
	}
}

// Refused counts that to's machine answered that nobody listens on the port: a
// hint that its guard is gone, never a proof.
func (c *Core) Refused(now time.Duration, linkIndex int, to string) {
	c.begin(now)
	if n := c.countersOf(linkIndex, to); n != nil {
		n.refused++
	}
}

// SendFailed counts a heartbeat that could not be sent.
func (c *Core) SendFailed(linkIndex int, to string) {
	if n := c.countersOf(linkIndex, to); n != nil {
		n.sendErrors++
	}
}

func (c *Core) stats() *guardpb.Stats {
	s := &guardpb.Stats{}
	for _, p := range c.peers {
		if p == c.self {
			continue
		}
		for i := range p.links {
			l := &p.links[i]
			ls := l.counters.frame()
			ls.Node, ls.State, ls.PeerAddress = p.node, l.state, p.addresses[i]
			if i < len(p.linkNames) {
				ls.Link = p.linkNames[i]
			}
			if c.self != nil && i < len(c.self.addresses) {
				ls.LocalAddress = c.self.addresses[i]
			}
			if l.everHeard {
				ls.SinceHeard = durationpb.New(c.now - l.heardAt)
			}
			s.Links = append(s.Links, ls)
		}
	}
	for i := range c.strangers {
		n := &c.strangers[i]
		if n.forged+n.malformed+n.foreign == 0 {
			continue
		}
		ls := &guardpb.LinkStats{Forged: n.forged, Malformed: n.malformed, Foreign: n.foreign}
		if c.self != nil && i < len(c.self.addresses) {
			ls.LocalAddress = c.self.addresses[i]
			if i < len(c.self.linkNames) {
				ls.Link = c.self.linkNames[i]
			}
		}
		s.Links = append(s.Links, ls)
	}
	return s
}

func (n *counters) frame() *guardpb.LinkStats {
	ls := &guardpb.LinkStats{
		Sent: n.sent, Received: n.received, SendErrors: n.sendErrors, Lost: n.lost,
		Replayed: n.replayed, Forged: n.forged, Malformed: n.malformed, Refused: n.refused, Foreign: n.foreign,
		RoundTripP50: durationpb.New(n.roundTrip.quantile(0.5)),
		RoundTripP99: durationpb.New(n.roundTrip.quantile(0.99)),
	}
	for i, count := range n.arrival.counts {
		if i < len(bounds) {
			ls.ArrivalBounds = append(ls.ArrivalBounds, durationpb.New(bounds[i]))
		}
		ls.ArrivalCounts = append(ls.ArrivalCounts, count)
	}
	return ls
}
