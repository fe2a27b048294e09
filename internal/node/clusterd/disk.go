//go:build linux

package clusterd

import (
	"github.com/holdfast-ha/holdfast/internal/cluster/logstore"
	"github.com/holdfast-ha/holdfast/internal/node/engine"
)

// writeBatches is the disk's goroutine (N1). It may hang; the loop does not.
func (n *node) writeBatches() {
	for {
		select {
		case b := <-n.batches:
			err := n.write(b)
			n.post(func() { n.written(err) })
		case <-n.done:
			return
		}
	}
}

func (n *node) write(b *engine.Batch) error {
	if b.Reset {
		if err := n.store.Reset(b.RaftID); err != nil {
			return err
		}
		if b.HardState == nil && b.Snapshot == nil && len(b.Entries) == 0 {
			return nil
		}
	}
	// Compaction comes with the snapshot: the store keeps no entries that one covers.
	return n.store.Save(logstore.Batch{HardState: b.HardState, Snapshot: b.Snapshot, Entries: b.Entries, MustSync: true})
}

func (n *node) written(err error) {
	n.writing = false
	if err != nil {
		// What was on its way to the disk may be there or not: raft must not go on in either case.
		n.giveUp(err.Error())
		return
	}
	n.step(engine.Persisted{})
}
