package device

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-ha/holdfast/internal/cluster/lockdisk"
)

// settleTime is how long a claim is looked at again after it was written.
const settleTime = 2 * time.Second

// Claim returns the slot of a lock disk that belongs to a cluster. If there is
// none, it takes a free one. It can be repeated, by any node of the cluster.
//
// A disk that can only read and write does not tell two clusters that claim at
// the same time apart. A claim is written, and after some seconds it must still be
// there; each cluster begins to look for a free slot elsewhere. That makes it rare
// that two have the same slot. That it is harmless follows from the rules of
// package lockdisk: a node reads the slot's header with every request, uses a slot
// only while both copies name its cluster, and takes a record of another cluster for
// damage, never for nothing. Of two such clusters one at most can use the slot, and perhaps none.
func Claim(ctx context.Context, path string, cluster lockdisk.ID) (lockdisk.Header, int, error) {
	return claim(ctx, path, cluster, settleTime)
}

func claim(ctx context.Context, path string, cluster lockdisk.ID, settle time.Duration) (lockdisk.Header, int, error) {
	f, err := openFile(path, forWriting)
	if err != nil {
		return lockdisk.Header{}, 0, err
	}
	defer f.close()
	h, _, err := lockdisk.ReadHeader(f.page)
	if err != nil {
		return h, 0, fmt.Errorf("%s: %w", path, err)
	}
	if need := lockdisk.Size(h.Slots); f.size < need {
		return h, 0, fmt.Errorf("%s has %d bytes, and its header tells of %d slots, which need %d: it was made smaller, or is a copy", path, f.size, h.Slots, need)
	}
	for {
		slot, state, err := f.findSlot(h, cluster)
		switch {
		case err != nil:
			return h, 0, fmt.Errorf("%s: %w", path, err)
		case state == ours:
			return h, slot, nil
		}
		for _, p := range lockdisk.Claimed(h.Disk, cluster, slot) {
			if err := f.pwrite(p.Data, p.Address); err != nil {
				return h, 0, err
			}
		}
		select {
		case <-time.After(settle):
		case <-ctx.Done():
			return h, 0, context.Cause(ctx)
		}
	}
}

type slotState int

const (
	free slotState = iota
	ours
	halfOurs
)

// findSlot of the cluster, or one that it can take. The search begins where the cluster's identity says.
func (f *file) findSlot(h lockdisk.Header, cluster lockdisk.ID) (slot int, state slotState, err error) {
	first := int(binary.LittleEndian.Uint64(cluster[:8]) % uint64(h.Slots))
	found, taken := -1, 0
	for i := range h.Slots {
		slot := (first + i) % h.Slots
		owner, err := lockdisk.ReadOwner(f.page, h.Disk, slot)
		switch {
		case err == nil && owner == cluster:
			return slot, ours, nil
		case err != nil && f.halfOurs(h, cluster, slot):
			return slot, halfOurs, nil
		case !errors.Is(err, lockdisk.ErrEmpty):
			taken++
		case found < 0:
			blank, err := f.blank(slot)
			if err != nil {
				return 0, free, err
			}
			if blank {
				found = slot
			}
		}
	}
	if found < 0 {
		return 0, free, fmt.Errorf("none of its %d slots is free (%d belong to clusters; holdfast lockdisk show lists them): use another disk", h.Slots, taken)
	}
	return found, free, nil
}

// halfOurs: one copy names the cluster, the other one nobody: a claim of its own
// that was interrupted.
func (f *file) halfOurs(h lockdisk.Header, cluster lockdisk.ID, slot int) bool {
	own, blank := 0, 0
	for c := range lockdisk.Copies {
		b, err := f.page(lockdisk.SlotAddress(slot, c))
		if err != nil {
			return false
		}
		owner, err := lockdisk.DecodeSlot(b, h.Disk, slot, c)
		switch {
		case err == nil && owner == cluster:
			own++
		case errors.Is(err, lockdisk.ErrEmpty):
			blank++
		}
	}
	return own == 1 && blank == 1
}

// blank: nobody has ever written into the slot.
func (f *file) blank(slot int) (bool, error) {
	b := make([]byte, lockdisk.SlotAddress(slot, 1)-lockdisk.SlotAddress(slot, 0))
	for c := range lockdisk.Copies {
		if err := f.load(b, lockdisk.SlotAddress(slot, c)); err != nil {
			return false, err
		}
		if firstNonZero(b) >= 0 {
			return false, nil
		}
	}
	return true, nil
}
