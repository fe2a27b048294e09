package device

import (
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/holdfast-ha/holdfast/internal/cluster/lockdisk"
	"github.com/holdfast-ha/holdfast/internal/cluster/lockdisk/lockdiskpb"
)

// Show describes a lock disk by two looks at it with some time between; 0: by
// one. It changes nothing.
func Show(ctx context.Context, path string, between time.Duration) (*lockdiskpb.View, error) {
	f, err := openFile(path, forReading)
	if err != nil {
		return nil, err
	}
	defer f.close()
	return f.show(ctx, between)
}

func (f *file) show(ctx context.Context, between time.Duration) (*lockdiskpb.View, error) {
	v, err := f.view()
	if err != nil || between <= 0 {
		return v, err
	}
	select {
	case <-time.After(between):
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	next, err := f.view()
	if err == nil {
		compare(v, next)
	}
	return next, err
}

// view of the disk now.
func (f *file) view() (*lockdiskpb.View, error) {
	h, problems, err := lockdisk.ReadHeader(f.page)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.path, err)
	}
	v := &lockdiskpb.View{Path: f.path, Disk: h.Disk.String(), Slots: uint32(h.Slots), Bytes: uint64(f.size), Problems: problems}
	if need := lockdisk.Size(h.Slots); f.size < need {
		v.Problems = append(v.Problems, fmt.Sprintf("it has %d bytes, and %d slots need %d: it was made smaller, or is a copy", f.size, h.Slots, need))
	}
	for slot := range h.Slots {
		if s := lockdisk.ViewSlot(f.page, h.Disk, slot); s != nil {
			v.Used = append(v.Used, s)
		}
	}
	return v, nil
}

// compare marks the nodes of next that have written since before.
func compare(before, next *lockdiskpb.View) {
	type key struct{ slot, number uint32 }
	old := map[key]uint64{}
	for _, s := range before.GetUsed() {
		for _, n := range s.GetNodes() {
			old[key{s.GetSlot(), n.GetNumber()}] = n.GetSequence()
		}
	}
	for _, s := range next.GetUsed() {
		for _, n := range s.GetNodes() {
			n.Moved = n.Moved || old[key{s.GetSlot(), n.GetNumber()}] != n.GetSequence()
		}
	}
}

// CheckOptions of Check.
type CheckOptions struct {
	// ReadOnly: nothing is written, so it is not known how long a write takes.
	ReadOnly bool
	// Expect these nodes to write: each that runs does so every few seconds, and
	// is seen to if this is the same disk.
	Expect []string
	// Patience with them; 0: two signs of life.
	Patience time.Duration
}

// scratchAddress is a page that holds nothing; writes are tried there.
const scratchAddress = 2 * lockdisk.PageSize

// Check tries what a node needs of a lock disk.
func Check(ctx context.Context, path string, o CheckOptions) (*lockdiskpb.CheckResult, error) {
	flags := forWriting
	if o.ReadOnly {
		flags = forReading
	}
	f, err := openFile(path, flags)
	if err != nil {
		return nil, err
	}
	defer f.close()
	v, err := f.view()
	if err != nil {
		return nil, err
	}
	r := &lockdiskpb.CheckResult{View: v, LogicalSector: uint32(f.logical), PhysicalSector: uint32(f.physical)}
	began := time.Now()
	if _, err := f.page(scratchAddress); err != nil {
		return nil, err
	}
	r.Read = durationpb.New(time.Since(began))
	if !o.ReadOnly {
		began = time.Now()
		if err := f.pwrite(make([]byte, lockdisk.PageSize), scratchAddress); err != nil {
			return nil, err
		}
		r.Write = durationpb.New(time.Since(began))
	}
	return r, f.expect(ctx, r, o)
}

// expect nodes to write.
func (f *file) expect(ctx context.Context, r *lockdiskpb.CheckResult, o CheckOptions) error {
	if o.Patience == 0 {
		o.Patience = 2 * lockdisk.SignOfLife
	}
	r.Silent = slices.Clone(o.Expect)
	for deadline := time.Now().Add(o.Patience); len(r.Silent) > 0 && time.Now().Before(deadline); {
		select {
		case <-time.After(min(o.Patience, 250*time.Millisecond)):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		next, err := f.view()
		if err != nil {
			return err
		}
		compare(r.View, next)
		for _, s := range next.GetUsed() {
			for _, n := range s.GetNodes() {
				if i := slices.Index(r.Silent, n.GetNode()); i >= 0 && n.GetMoved() {
					r.Silent = slices.Delete(r.Silent, i, i+1)
					r.Moved = append(r.Moved, n.GetNode())
				}
			}
		}
		if len(r.Silent) == 0 || !time.Now().Before(deadline) {
			r.View = next
		}
	}
	slices.Sort(r.Moved)
	return nil
}
