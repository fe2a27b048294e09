package witness

import (
	"time"

	"github.com/holdfast-ha/holdfast/internal/cluster/witness/witnesspb"
)

// Seen is what a look would show, for those who may see it without being a node.
func (p *Point) Seen(now time.Duration, kept *witnesspb.Kept) []*witnesspb.Seen {
	return p.look(now, kept).GetSeen()
}
