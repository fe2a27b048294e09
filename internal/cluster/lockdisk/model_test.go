package lockdisk

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"time"
)

// diskModel is a disk as bad as disks are: what is being written reads as the
// old, the new or a mixture of their sectors; a write that fails or whose writer
// dies has happened, or not, or in part, or happens later.
type diskModel struct {
	rng    *rand.Rand
	pages  map[int64][]byte
	writes map[int64]*pending
	late   []*pending
	stats  map[string]int
}

// pending is a write under way, or one that comes late.
type pending struct {
	page   Page
	number int
	claims int // of that node when it was issued
}

func newDisk(rng *rand.Rand, disk, cluster ID, slot int) *diskModel {
	d := &diskModel{rng: rng, pages: map[int64][]byte{}, writes: map[int64]*pending{}, stats: map[string]int{}}
	for _, p := range append(Formatted(disk, slot+1), Claimed(disk, cluster, slot)...) {
		d.pages[p.Address] = p.Data
	}
	return d
}

func (d *diskModel) get(at int64) []byte {
	if b := d.pages[at]; b != nil {
		return b
	}
	return zeros[:]
}

// mix of two versions of a page, sector by sector.
func (d *diskModel) mix(a, b []byte) []byte {
	out := make([]byte, PageSize)
	for s := 0; s < PageSize; s += 512 {
		from := a
		if d.rng.IntN(2) == 0 {
			from = b
		}
		copy(out[s:s+512], from[s:s+512])
	}
	return out
}

func (d *diskModel) read(at int64, into []byte) {
	b := d.get(at)
	if w := d.writes[at]; w != nil {
		switch d.rng.IntN(3) {
		case 0:
			b = w.page.Data
		case 1:
			b = d.mix(b, w.page.Data)
			d.stats["read a page that is being written"]++
		}
	}
	copy(into, b)
}

func (d *diskModel) begin(p Page, number, claims int) {
	if d.writes[p.Address] != nil {
		d.land(d.writes[p.Address]) // of a run that is superseded and does not know
	}
	d.writes[p.Address] = &pending{Page{p.Address, append([]byte(nil), p.Data...)}, number, claims}
}

func (d *diskModel) land(w *pending) {
	d.pages[w.page.Address] = w.page.Data
	if d.writes[w.page.Address] == w {
		delete(d.writes, w.page.Address)
	}
}

// abandon a write: nobody will hear how it ended.
func (d *diskModel) abandon(at int64) {
	w := d.writes[at]
	if w == nil {
		return
	}
	delete(d.writes, at)
	switch d.rng.IntN(4) {
	case 0:
		d.pages[at] = d.mix(d.get(at), w.page.Data)
		d.stats["torn write"]++
	case 1:
		d.pages[at] = w.page.Data
	case 2:
		d.late = append(d.late, w)
		d.stats["late write"]++
	}
}

// landLate lets a late write land; those of a node that is about to claim for
// the third time since at the latest.
func (d *diskModel) landLate(number, claims int) {
	kept := d.late[:0]
	for _, w := range d.late {
		if w.number == number && claims >= w.claims+3 || number == 0 && d.rng.IntN(3) == 0 {
			d.pages[w.page.Address] = w.page.Data
			d.stats["late write landed"]++
		} else {
			kept = append(kept, w)
		}
	}
	d.late = kept
}

// hand carries out the I/O of one machine on the model, in steps.
type hand struct {
	d      *diskModel
	m      *Machine
	number int
	claims int
	io     *IO
	todo   []int64 // pages still to be read
	data   [][]byte
	buffer []byte
	begun  bool
}

var errModel = errors.New("the disk says no")

// step carries the I/O on; done: it has ended.
func (h *hand) step(fail bool) (r Result, done bool) {
	if h.io.Write != nil {
		at := h.io.Write.Address
		switch {
		case !h.begun:
			h.d.begin(*h.io.Write, h.number, h.claims)
			h.begun = true
			return r, false
		case fail:
			h.d.abandon(at)
			h.d.stats["failed write"]++
			return Result{Err: errModel}, true
		}
		if w := h.d.writes[at]; w != nil {
			h.d.land(w)
		} else {
			h.d.land(&pending{page: *h.io.Write})
		}
		return r, true
	}
	if !h.begun {
		h.begun = true
		h.data, h.todo = nil, h.todo[:0]
		total := 0
		for _, g := range h.io.Read {
			total += g.Bytes
		}
		if len(h.buffer) < total {
			h.buffer = make([]byte, total)
		}
		free := h.buffer
		for _, g := range h.io.Read {
			h.data, free = append(h.data, free[:g.Bytes]), free[g.Bytes:]
			for at := g.Address; at < g.Address+int64(g.Bytes); at += PageSize {
				h.todo = append(h.todo, at)
			}
		}
		if h.d.rng.IntN(4) == 0 { // the order is nobody's promise
			h.d.rng.Shuffle(len(h.todo), func(i, j int) { h.todo[i], h.todo[j] = h.todo[j], h.todo[i] })
		}
	}
	if fail {
		h.d.stats["failed read"]++
		return Result{Err: errModel}, true
	}
	n := len(h.todo)
	if h.d.rng.IntN(2) == 0 {
		n = h.d.rng.IntN(n) + 1
	}
	for _, at := range h.todo[:n] {
		for i, g := range h.io.Read {
			if at >= g.Address && at < g.Address+int64(g.Bytes) {
				h.d.read(at, h.data[i][at-g.Address:at-g.Address+PageSize])
			}
		}
	}
	h.todo = h.todo[n:]
	return Result{Data: h.data}, len(h.todo) == 0
}

// run a machine's request to its end without faults; now moves by what is waited for.
func (h *hand) run(now *time.Duration) Out {
	for {
		out := h.m.Take()
		if out.IO == nil {
			return out
		}
		h.io, h.begun = out.IO, false
		*now += out.IO.Wait + time.Millisecond
		for {
			if r, done := h.step(false); done {
				h.m.Done(*now, r)
				break
			}
		}
	}
}

var (
	testDisk    = ID{1, 2, 3, 4}
	testCluster = ID{9, 8, 7}
)

func seeded(seed uint64) *rand.Rand {
	var b [32]byte
	binary.LittleEndian.PutUint64(b[:], seed)
	return rand.New(rand.NewChaCha8(b))
}
