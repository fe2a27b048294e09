package sim

import "time"

// A disk holds one process's log. Writes are batches that become durable as a
// whole (the store is transactional), one after the other. A crash keeps
// everything that was synced, and the batch in flight as luck wills: its last
// page reached the platter, or did not.
type disk struct {
	w       *World
	latency time.Duration // of a sync
	spread  time.Duration // random addition
	hung    bool          // syncs do not come back
	full    bool          // syncs fail
	stuck   []func()      // what waits for a hung disk

	inflight func() // makes the batch in flight durable
}

// sync writes a batch: apply makes it durable, done answers. Both belong to
// process p; a crash between them is drawn in crash.
func (d *disk) sync(p *process, apply func(), done func(ok bool)) {
	d.inflight = apply
	finish := func() {
		if !p.alive {
			return
		}
		d.inflight = nil
		if !d.full {
			apply()
		}
		ok := !d.full
		p.do(false, func() { done(ok) })
	}
	d.w.after(d.latency+d.w.upTo(d.spread), func() {
		if d.hung {
			d.stuck = append(d.stuck, finish)
			return
		}
		finish()
	})
}

func (d *disk) hang() { d.hung = true }

// recover lets a hung disk answer again.
func (d *disk) recover() {
	d.hung, d.full = false, false
	stuck := d.stuck
	d.stuck = nil
	for _, f := range stuck {
		f()
	}
}

// crash ends the process that writes: the batch in flight is kept or lost.
func (d *disk) crash() {
	if d.inflight != nil {
		kept := d.w.chance(0.5) && !d.full
		if kept {
			d.inflight()
		}
		d.w.count("disk.torn")
	}
	d.inflight = nil
	d.stuck = nil
}
