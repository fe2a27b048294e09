package lockdisk

import (
	"cmp"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"time"

	"github.com/holdfast-ha/holdfast/internal/cluster/witness/witnesspb"
)

// What a scan reads. The header of the slot is always among it.
type extent int

const (
	// scanKnown reads the blocks that are known to be in use.
	scanKnown extent = iota
	// scanFull reads what has to be read before anything is answered (D5). The first run of
	// a node takes area 0, so a block whose area 0 is empty was never used.
	scanFull
	// scanAll reads every page of the slot, and the headers of the disk.
	scanAll
)

const (
	// rereads of copies that are bad: somebody may be writing them. The waits
	// double, so that 15 ms have passed after the last one.
	rereads   = 4
	firstWait = time.Millisecond
	// Pages that lie so close are read at once, together with what is between them.
	maxGap   = 8 * PageSize
	maxRange = 1 << 20
)

// scan under way.
type scan struct {
	extent  extent
	tries   int
	then    func(time.Duration)
	copies  [MaxNodes + 1][Areas][Copies]*page
	slots   [Copies]owner
	headers [Copies]head
}

// page as it was read: a record, or why there is none.
type page struct {
	record *Record
	err    error
	sum    uint32
}

func (p *page) bad() bool { return p.err != nil && !errors.Is(p.err, ErrEmpty) }

type owner struct {
	cluster ID
	err     error
}

type head struct {
	header Header
	err    error
}

// found is what a scan has come to, apart from records.
type found struct {
	refusal    *witnesspb.Refused // by what the headers say
	superseded error
	forgot     []string
	damaged    []string
	repairs    []Page
}

// Headers are pages without a number; those of the disk have no slot either.
func headerPlace(copy int) place     { return place{slot: -1, copy: copy} }
func slotPlace(slot, copy int) place { return place{slot: slot, copy: copy} }

func (p place) page() int64 {
	switch {
	case p.slot < 0:
		return HeaderAddress(p.copy)
	case p.number == 0:
		return SlotAddress(p.slot, p.copy)
	}
	return p.address()
}

// scan the disk, mend what of the own block is broken, and go on unless
// something is wrong that ends the request.
func (m *Machine) scan(_ time.Duration, e extent, then func(time.Duration)) {
	s := &scan{extent: e, then: then}
	var want []place
	for c := range Copies {
		if e == scanAll {
			want = append(want, headerPlace(c))
		}
		want = append(want, slotPlace(m.cfg.Slot, c))
		for n := 1; n <= MaxNodes; n++ {
			for a := range Areas {
				if e == scanAll || m.known[n] || e == scanFull && a == 0 {
					want = append(want, place{m.cfg.Slot, n, a, c})
				}
			}
		}
	}
	m.read(s, want, 0)
}

// read pages and look at what is there.
func (m *Machine) read(s *scan, want []place, wait time.Duration) {
	slices.SortFunc(want, func(a, b place) int { return cmp.Compare(a.page(), b.page()) })
	var ranges []Range
	for _, p := range want {
		at := p.page()
		if n := len(ranges); n > 0 {
			last := &ranges[n-1]
			if end := last.Address + int64(last.Bytes); at-end <= maxGap && at+PageSize-last.Address <= maxRange {
				last.Bytes = int(at + PageSize - last.Address)
				continue
			}
		}
		ranges = append(ranges, Range{at, PageSize})
	}
	m.out.IO = &IO{Wait: wait, Read: ranges}
	m.then = func(now time.Duration, res Result) {
		if res.Err != nil {
			m.verified = false
			m.end(Out{Err: fmt.Errorf("lock disk: reading: %w", res.Err)})
			return
		}
		i := 0
		for _, p := range want {
			for p.page() >= ranges[i].Address+int64(ranges[i].Bytes) {
				i++
			}
			from := p.page() - ranges[i].Address
			m.take(s, p, res.Data[i][from:from+PageSize], res.Unreadable[p.page()])
		}
		m.look(now, s)
	}
}

// take one page in.
func (m *Machine) take(s *scan, p place, b []byte, unreadable error) {
	switch {
	case p.slot < 0:
		h := &s.headers[p.copy]
		if h.header, h.err = DecodeHeader(b, p.copy); unreadable != nil {
			h.err = unreadable
		}
	case p.number == 0:
		o := &s.slots[p.copy]
		if o.cluster, o.err = DecodeSlot(b, m.cfg.Disk, p.slot, p.copy); unreadable != nil {
			o.err = unreadable
		}
	default:
		g := &page{err: unreadable}
		if unreadable == nil {
			if g.record, g.err = decodeRecord(b, m.cfg.Disk, m.cfg.Cluster, p); g.bad() {
				g.sum = crc32.Checksum(b, castagnoli)
			}
		}
		s.copies[p.number][p.area][p.copy] = g
	}
}

// look whether more has to be read: blocks that nobody has used before, and
// copies that are bad.
func (m *Machine) look(now time.Duration, s *scan) {
	var more, again []place
	for n := 1; n <= MaxNodes; n++ {
		for a := range Areas {
			pair := &s.copies[n][a]
			if pair[0] == nil {
				continue
			}
			if !m.known[n] && (!errors.Is(pair[0].err, ErrEmpty) || !errors.Is(pair[1].err, ErrEmpty)) {
				m.known[n] = true
				for other := range Areas {
					if s.copies[n][other][0] == nil {
						more = append(more, place{m.cfg.Slot, n, other, 0}, place{m.cfg.Slot, n, other, 1})
					}
				}
			}
			for c, g := range pair {
				p := place{m.cfg.Slot, n, a, c}
				if !g.bad() {
					continue
				}
				if sum, same := m.gaveUp[p.address()]; same && sum == g.sum && !pair[1-c].bad() {
					continue
				}
				again = append(again, place{m.cfg.Slot, n, a, 0}, place{m.cfg.Slot, n, a, 1})
				break
			}
		}
	}
	switch {
	case len(more) > 0:
		m.read(s, more, 0)
	case len(again) > 0 && s.tries < rereads:
		s.tries++
		m.read(s, again, firstWait<<(s.tries-1))
	default:
		m.settle(now, s)
		m.judge(now, s.then)
	}
}

// settle what every area holds (D3, D4).
func (m *Machine) settle(now time.Duration, s *scan) {
	m.found = found{refusal: m.checkHeaders(s)}
	if m.found.refusal != nil {
		m.verified = false // nothing is written until it is the right one again
		return
	}
	for n := 1; n <= MaxNodes; n++ {
		for a := range Areas {
			if pair := &s.copies[n][a]; pair[0] != nil {
				m.settleArea(now, n, a, pair)
			}
		}
	}
	if !m.observes && s.extent == scanAll {
		m.observes, m.since = true, now
	}
}

func (m *Machine) settleArea(now time.Duration, n, a int, pair *[Copies]*page) {
	var best *Record
	for c, g := range pair {
		p := place{m.cfg.Slot, n, a, c}
		delete(m.gaveUp, p.address())
		if g.bad() {
			m.gaveUp[p.address()] = g.sum
		} else if g.record.newer(best) {
			best = g.record
		}
	}
	own, before := n == int(m.cfg.Number), m.records[n][a]
	if own && m.own != nil && best != nil && m.alien(best) {
		m.found.superseded = fmt.Errorf("%w: block %d is claimed by run %x of node %s now (claim %d), this is run %x (claim %d)",
			ErrSuperseded, n, best.Run, best.GetNode(), best.Claim, m.cfg.Run, m.claim)
		return
	}
	if pair[0].bad() && pair[1].bad() {
		if own && before != nil { // this run knows what it held
			if m.claimed {
				m.repair(before, 0, 1)
			}
			return
		}
		name := ""
		if r := m.latest(n); r != nil {
			name = " (node " + r.GetNode() + ")"
		}
		m.found.damaged = append(m.found.damaged, fmt.Sprintf("both copies of area %d of block %d%s: copy 0 %v, copy 1 %v", a, n, name, pair[0].err, pair[1].err))
		return
	}
	if m.floors[n][a].newer(best) {
		m.found.forgot = append(m.found.forgot, fmt.Sprintf("block %d held claim %d, sequence %d", n, m.floors[n][a].Claim, m.floors[n][a].Sequence))
		return
	}
	if best == nil {
		return
	}
	if same(pair[0].record, pair[1].record) {
		m.floors[n][a] = best
	}
	m.records[n][a] = best
	m.see(now, before, best)
	if own && m.claimed {
		for c, g := range pair {
			if !same(g.record, best) {
				m.repair(best, c)
			}
		}
	}
}

// alien: a record in the own block that this run has not written, and that is
// not of an earlier run (D8).
func (m *Machine) alien(r *Record) bool {
	switch {
	case r.Claim != m.claim:
		return r.Claim > m.claim
	case r.Run != m.cfg.Run:
		return true
	}
	return r.Sequence > m.sequence
}

func same(a, b *Record) bool {
	return a != nil && b != nil && a.Claim == b.Claim && a.Sequence == b.Sequence && a.Run == b.Run
}

func (m *Machine) repair(r *Record, copies ...int) {
	pages, err := r.pages()
	if err != nil {
		return // it was read from a page, so it fits
	}
	for _, c := range copies {
		m.found.repairs = append(m.found.repairs, pages[c])
	}
}

// see takes note of when a record was first seen as it is (D11).
func (m *Machine) see(now time.Duration, before, r *Record) {
	at := &m.sights[r.Number][r.Area]
	switch {
	case same(before, r):
		return
	case before == nil || before.Claim != r.Claim || before.Run != r.Run || before.GetCounter() != r.GetCounter() || before.GetStays() != r.GetStays():
		at.counter = now
	}
	if before != nil && before.GetNode() != r.GetNode() {
		m.since = now // what the block's former owner did last is not known any more
	}
	at.any = now
	at.moved = m.observes
}

// checkHeaders says whether this is the right disk, and the slot this cluster's (D10).
func (m *Machine) checkHeaders(s *scan) *witnesspb.Refused {
	wrong := func(format string, args ...any) *witnesspb.Refused {
		return &witnesspb.Refused{Reason: witnesspb.Refused_REASON_WRONG_CLUSTER, Message: fmt.Sprintf(format, args...)}
	}
	if s.extent == scanAll {
		h, err := JoinHeaders(s.headers[0].header, s.headers[0].err, s.headers[1].header, s.headers[1].err)
		switch {
		case err != nil:
			return wrong("this is not the lock disk %v: %v", m.cfg.Disk, err)
		case h.Disk != m.cfg.Disk:
			return wrong("the path leads to the lock disk %v, not to %v: correct the path, or replace the coordination point", h.Disk, m.cfg.Disk)
		case m.cfg.Slot >= h.Slots:
			return wrong("the lock disk has %d slots, and none with the number %d", h.Slots, m.cfg.Slot)
		}
	}
	cluster, err := SlotOwner(s.slots[0].cluster, s.slots[0].err, s.slots[1].cluster, s.slots[1].err)
	switch {
	case errors.Is(err, ErrEmpty):
		return wrong("slot %d of the lock disk belongs to no cluster: was the disk formatted again? Take the coordination point out and add it again", m.cfg.Slot)
	case err != nil:
		return &witnesspb.Refused{Reason: witnesspb.Refused_REASON_DAMAGED, Message: fmt.Sprintf("slot %d of the lock disk: %v", m.cfg.Slot, err)}
	case cluster != m.cfg.Cluster:
		return wrong("slot %d of the lock disk belongs to cluster %v: take the coordination point out and add it again", m.cfg.Slot, cluster)
	}
	return nil
}

// SlotOwner joins the copies of a slot's header. ErrEmpty: it is free, if
// nothing else is in it. Any other error: nobody may use it.
func SlotOwner(a ID, errA error, b ID, errB error) (ID, error) {
	emptyA, emptyB := errors.Is(errA, ErrEmpty), errors.Is(errB, ErrEmpty)
	switch {
	case emptyA && emptyB:
		return ID{}, ErrEmpty
	case errA == nil && errB == nil && a == b, errA == nil && errB != nil && !emptyB:
		return a, nil
	case errB == nil && errA != nil && !emptyA:
		return b, nil
	case errA == nil && errB == nil:
		return ID{}, fmt.Errorf("clusters %v and %v have claimed it at the same time, and nobody has got it", a, b)
	case errA != nil && errB != nil:
		return ID{}, fmt.Errorf("both copies of its header are damaged: copy 0 %w, copy 1 %w", errA, errB)
	}
	return ID{}, errors.New("the claim of it was interrupted: the same cluster may repeat it")
}

// judge by what was found whether the request goes on.
func (m *Machine) judge(now time.Duration, then func(time.Duration)) {
	f := &m.found
	switch {
	case f.refusal != nil:
		m.refuseRequest(f.refusal.GetReason(), f.refusal.GetMessage())
	case f.superseded != nil:
		m.stop(f.superseded)
	case len(f.repairs) > 0:
		pages := f.repairs
		f.repairs = nil
		m.write(pages, func(now time.Duration) { m.judge(now, then) })
	case len(f.forgot) > 0 && m.claimed:
		c := m.next()
		c.Abstains = max(c.Abstains, m.newest(c.Register))
		m.put(c, now, false, func(time.Duration) { m.abstain(sentence(f.forgot)) })
	case len(f.damaged) > 0:
		m.refuseRequest(witnesspb.Refused_REASON_DAMAGED,
			sentence(f.damaged)+". The node whose block it is mends it if it runs; else take the coordination point out and add a fresh one")
	default:
		then(now)
	}
}

func (m *Machine) abstain(what string) {
	m.refuseRequest(witnesspb.Refused_REASON_ABSTAINS,
		"the lock disk has forgotten what was written ("+what+"): it was restored or replaced; take the coordination point out and add it again")
}
