package sim

import (
	"errors"
	"time"

	"github.com/holdfast-ha/holdfast/internal/cluster/lockdisk"
	"github.com/holdfast-ha/holdfast/internal/cluster/witness/witnesspb"
)

// A lockDisk is shared by all nodes. Pages that are being written when their
// node's machine stops are lost, torn, or land later.
type lockDisk struct {
	*point
	id    lockdisk.ID
	pages map[int64][]byte
	// Writes that have not landed, by node: a new process of the same boot waits for them.
	inFlight map[*node]int
}

const sector = 512

var errNoDisk = errors.New("input/output error")

func newLockDisk(p *point) *lockDisk {
	d := &lockDisk{point: p, pages: map[int64][]byte{}, inFlight: map[*node]int{}}
	copy(d.id[:], "lock disk "+p.name+"..........")
	cluster, err := lockdisk.ParseID(p.c.config.GetCluster().GetUuid())
	if err != nil {
		panic(err)
	}
	for _, page := range append(lockdisk.Formatted(d.id, 1), lockdisk.Claimed(d.id, cluster, 0)...) {
		d.pages[page.Address] = page.Data
	}
	return d
}

func (d *lockDisk) read(ranges []lockdisk.Range) [][]byte {
	var all [][]byte
	for _, r := range ranges {
		b := make([]byte, r.Bytes)
		for at := 0; at < r.Bytes; at += lockdisk.PageSize {
			copy(b[at:], d.pages[r.Address+int64(at)])
		}
		all = append(all, b)
	}
	return all
}

// land a write, or of a torn one some sectors.
func (d *lockDisk) land(page *lockdisk.Page, torn bool) {
	was := make([]byte, lockdisk.PageSize)
	copy(was, d.pages[page.Address])
	for at := 0; at < lockdisk.PageSize; at += sector {
		if !torn || d.r.IntN(2) == 0 {
			copy(was[at:at+sector], page.Data[at:])
		}
	}
	d.pages[page.Address] = was
}

// A hand is one run of an engine on a lock disk.
type hand struct {
	d     *lockDisk
	n     *node
	p     *process
	boot  int
	m     *lockdisk.Machine
	queue []diskAsk
	busy  bool
}

type diskAsk struct {
	request *witnesspb.Request
	answer  func(*witnesspb.Reply, string)
}

// hand of the engine that runs on n now, made when it is first needed. Another
// incarnation is another one.
func (n *node) hand(d *lockDisk) *hand {
	h := n.hands[d.name]
	if h != nil && h.p == n.proc {
		return h
	}
	h = &hand{d: d, n: n, p: n.proc, boot: n.boots}
	n.hands[d.name] = h
	return h
}

// newHands: the engine has become another incarnation, or begins.
func (n *node) newHands() { n.hands = map[string]*hand{} }

func (h *hand) ask(r *witnesspb.Request, answer func(*witnesspb.Reply, string)) {
	h.queue = append(h.queue, diskAsk{r, answer})
	h.next()
}

func (h *hand) next() {
	if h.busy || len(h.queue) == 0 {
		return
	}
	h.busy = true
	if h.m == nil {
		if h.d.inFlight[h.n] > 0 { // as the lock that the kernel holds until then
			h.p.post(time.Millisecond, func() { h.busy = false; h.next() })
			return
		}
		r := h.queue[0].request
		cluster, _ := lockdisk.ParseID(r.GetCluster())
		run := h.n.c.luck.Uint64() | 1
		h.m = lockdisk.NewMachine(lockdisk.Config{Disk: h.d.id, Cluster: cluster, Number: uint32(h.n.index + 1), Node: h.n.name, RaftID: r.GetRaftId(), Run: run})
	}
	h.m.Start(h.n.local(), h.queue[0].request)
	h.carryOut()
}

func (h *hand) carryOut() {
	out := h.m.Take()
	switch {
	case out.IO != nil:
		h.io(out.IO)
	case out.Err != nil:
		h.end(nil, out.Err.Error())
	default:
		h.end(out.Reply, "")
	}
}

func (h *hand) end(reply *witnesspb.Reply, err string) {
	if refused := reply.GetRefused(); refused != nil {
		h.n.c.count("lockdisk.refused." + refused.GetReason().String())
	}
	done := h.queue[0]
	h.queue, h.busy = h.queue[1:], false
	h.n.c.count("lockdisk.asked")
	done.answer(reply, err)
	h.next()
}

func (h *hand) io(io *lockdisk.IO) {
	d := h.d
	done := func(r lockdisk.Result) {
		h.p.do(false, func() {
			h.m.Done(h.n.local(), r)
			h.carryOut()
		})
	}
	h.p.post(io.Wait, func() {
		late := d.latency()
		switch {
		case !d.up || !d.reach(h.n):
			if io.Write != nil && !d.c.calm && d.r.IntN(4) == 0 {
				d.stray(io.Write) // it may get through yet
			}
			h.p.post(late, func() { done(lockdisk.Result{Err: errNoDisk}) })
		case io.Write != nil:
			d.inFlight[h.n]++
			d.c.after(late, func() {
				d.inFlight[h.n]--
				if !h.n.up || h.n.boots != h.boot { // the machine stopped meanwhile
					d.stray(io.Write)
					return
				}
				d.land(io.Write, false)
				done(lockdisk.Result{})
			})
		default:
			d.c.after(late, func() { done(lockdisk.Result{Data: d.read(io.Read)}) })
		}
	})
}

// stray is a write whose machine does not wait for it any more.
func (d *lockDisk) stray(page *lockdisk.Page) {
	switch d.r.IntN(4) {
	case 0:
		d.c.count("lockdisk.torn")
		d.land(page, true)
	case 1:
		d.land(page, false)
	case 2:
		d.c.count("lockdisk.late")
		d.c.after(upTo(d.r, 3*time.Second), func() { d.land(page, false) })
	}
}
