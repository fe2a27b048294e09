package sim

import (
	"math/rand/v2"
	"time"
)

// A network joins nodes by links. Each direction of each link between each pair
// is a path of its own, with its own faults.
type network struct {
	w       *World
	r       *rand.Rand
	nodes   int
	links   int
	paths   []path // by pathIndex
	streams map[[2]int]*stream
}

// A path is one direction of one link between two nodes.
type path struct {
	cut    int // how many faults cut it
	delay  time.Duration
	jitter time.Duration
	loss   float64
	dup    float64
}

// Sends of datagrams and messages end up in these.
type netReceiver interface {
	datagram(to, from, link int, payload any)
	// streamUp tells a side of a new stream; what it sends from now on travels there.
	streamUp(node, peer int)
	streamDown(node, peer int)
	message(to, from int, m any)
	// dropped tells the sender that m was not sent and will not be.
	droppedMessage(node, peer int, m any)
	// reachable says whether the node's engine can accept or make connections.
	reachable(node int) bool
	processOf(node int) *process
	// machinePaused: its kernel answers nobody.
	machinePaused(node int) bool
}

func newNetwork(w *World, nodes, links int) *network {
	n := &network{w: w, r: newRand(w.seed, "network"), nodes: nodes, links: links, streams: map[[2]int]*stream{}}
	n.paths = make([]path, nodes*nodes*links)
	for i := range n.paths {
		n.paths[i] = path{delay: 200 * time.Microsecond, jitter: 300 * time.Microsecond}
	}
	return n
}

func (n *network) upTo(d time.Duration) time.Duration { return n.between(0, d) }

func (n *network) between(lo, hi time.Duration) time.Duration {
	if n.w.calm {
		return (lo + hi) / 2
	}
	return between(n.r, lo, hi)
}

func (n *network) path(from, to, link int) *path {
	return &n.paths[(from*n.nodes+to)*n.links+link]
}

// send a datagram. It arrives late, twice, or not at all; jitter reorders.
func (n *network) send(from, to, link int, payload any) {
	p := n.path(from, to, link)
	n.w.count("net.sent")
	if p.cut > 0 || (p.loss > 0 && n.r.Float64() < p.loss) {
		n.w.count("net.lost")
		return
	}
	copies := 1
	if p.dup > 0 && n.r.Float64() < p.dup {
		copies = 2
		n.w.count("net.duplicated")
	}
	for range copies {
		n.w.after(p.delay+n.upTo(p.jitter), func() {
			if n.path(from, to, link).cut == 0 {
				n.w.recv.datagram(to, from, link, payload)
			}
		})
	}
}

// A stream is a connection between two engines over one link: ordered, and
// whole until it breaks. A cut, or a peer's machine that is paused, stalls it,
// and breaks it when it lasts; each side learns of that when it learns of it,
// and what was under way is lost.
type stream struct {
	n      *network
	side   [2]streamSide // 0 is the lower node
	link   int
	broken bool
	dir    [2]direction // from side i
	limit  int          // messages under way in a direction; more are dropped and reported
}

// A direction of a stream: what is under way, oldest first.
type direction struct {
	fifo   []underWay
	pump   *simEvent
	giveUp time.Duration // while stalled
}

type underWay struct {
	at time.Duration // arrives then, unless something older is late
	m  any
}

type streamSide struct {
	was  bool // up once
	node int
	up   bool
	proc *process // the engine's, at the time of the connection
}

const (
	dialLowest   = 5 * time.Millisecond
	dialHighest  = 300 * time.Millisecond
	breakLowest  = 300 * time.Millisecond // a stalled stream is given up after
	breakHighest = 4 * time.Second
)

// dialer keeps trying to connect a and b, a < b, as long as the run lasts.
func (n *network) dialer(a, b int) {
	again := func(lo, hi time.Duration) { n.w.after(n.between(lo, hi), func() { n.dialer(a, b) }) }
	s := n.streams[[2]int{a, b}]
	if s != nil && !s.broken && s.side[0].up && s.side[1].up {
		again(dialLowest, dialHighest)
		return
	}
	if s != nil && !s.broken && s.side[0].up != s.side[1].up {
		// The side that knows that it is down dials anew; the other learns it from the new connection.
		s.breakNow("replaced")
	}
	if s == nil || s.broken {
		for _, link := range n.r.Perm(n.links) {
			pa, pb := n.path(a, b, link), n.path(b, a, link)
			if pa.cut > 0 || pb.cut > 0 || !n.w.recv.reachable(a) || !n.w.recv.reachable(b) {
				continue
			}
			n.open(a, b, link)
			break
		}
	}
	again(dialLowest, dialHighest)
}

func (n *network) open(a, b, link int) {
	if old := n.streams[[2]int{a, b}]; old != nil {
		for i := range old.side {
			old.down(i)
		}
	}
	s := &stream{n: n, link: link, limit: 64 + n.r.IntN(2000)}
	s.side[0] = streamSide{node: a, proc: n.w.recv.processOf(a)}
	s.side[1] = streamSide{node: b, proc: n.w.recv.processOf(b)}
	n.streams[[2]int{a, b}] = s
	for i := range s.side {
		n.w.after(n.path(a, b, link).delay+n.upTo(2*time.Millisecond), func() {
			side := &s.side[i]
			if s.broken || !side.proc.alive {
				return
			}
			side.up, side.was = true, true
			side.proc.do(false, func() { n.w.recv.streamUp(side.node, s.side[1-i].node) })
		})
	}
}

// down tells one side, once.
func (s *stream) down(i int) {
	side := &s.side[i]
	if side.up {
		side.up = false
		side.proc.do(false, func() { s.n.w.recv.streamDown(side.node, s.side[1-i].node) })
	}
}

// breakNow ends the stream for the network; the sides learn it within a while.
func (s *stream) breakNow(why string) {
	if s.broken {
		return
	}
	s.broken = true
	s.n.w.count("stream.broken")
	s.n.w.tell("net", "stream %d-%d over link %d breaks (%s)", s.side[0].node+1, s.side[1].node+1, s.link, why)
	for i := range s.side {
		s.n.w.after(s.n.upTo(500*time.Millisecond), func() { s.down(i) })
	}
}

// sendMessage over the stream to a peer; without one the message is dropped and
// the sender told.
func (n *network) sendMessage(from, to int, m any) {
	key, i := [2]int{from, to}, 0
	if from > to {
		key, i = [2]int{to, from}, 1
	}
	s := n.streams[key]
	if s == nil || !s.side[i].up {
		n.w.count("stream.dropped")
		n.tellDropped(from, to, m)
		return
	}
	if s.broken {
		n.w.count("stream.lost") // the sender believes in the connection
		return
	}
	d := &s.dir[i]
	if len(d.fifo) >= s.limit {
		n.w.count("stream.dropped")
		n.tellDropped(from, to, m)
		return
	}
	p := n.path(from, to, s.link)
	at := n.w.now + p.delay + n.upTo(p.jitter)
	if p.loss > 0 && n.r.Float64() < p.loss {
		at += n.between(10*time.Millisecond, 250*time.Millisecond) // sent again
	}
	d.fifo = append(d.fifo, underWay{at, m})
	if len(d.fifo) == 1 {
		d.pump = n.w.at(at, func() { s.arrive(i) })
	}
}

func (n *network) tellDropped(from, to int, m any) {
	p := n.w.recv.processOf(from)
	p.post(0, func() { n.w.recv.droppedMessage(from, to, m) })
}

// blocked says that nothing passes in the direction from side i.
func (s *stream) blocked(i int) bool {
	from, to := s.side[i].node, s.side[1-i].node
	return s.n.path(from, to, s.link).cut > 0 || s.n.w.recv.machinePaused(from) || s.n.w.recv.machinePaused(to)
}

// arrive delivers the oldest message in the direction from side i, or stalls.
func (s *stream) arrive(i int) {
	d := &s.dir[i]
	d.pump = nil
	if s.broken || len(d.fifo) == 0 {
		return
	}
	if t := &s.side[1-i]; !t.up && !t.was && t.proc.alive {
		d.pump = s.n.w.after(100*time.Microsecond, func() { s.arrive(i) }) // the other side has not yet accepted the connection
		return
	}
	if s.blocked(i) {
		switch {
		case d.giveUp == 0:
			s.n.w.count("stream.stalled")
			d.giveUp = s.n.w.now + s.n.between(breakLowest, breakHighest)
		case s.n.w.now >= d.giveUp:
			s.breakNow("stalled too long")
			return
		}
		d.pump = s.n.w.after(s.n.between(20*time.Millisecond, 400*time.Millisecond), func() { s.arrive(i) })
		return
	}
	d.giveUp = 0
	m := d.fifo[0].m
	d.fifo = d.fifo[1:]
	if len(d.fifo) > 0 {
		d.pump = s.n.w.at(d.fifo[0].at, func() { s.arrive(i) })
	}
	to := &s.side[1-i]
	if !to.proc.alive {
		s.breakNow("peer's process has ended")
		return
	}
	to.proc.do(false, func() {
		if to.up { // a side that gave the connection up reads no more of it
			s.n.w.recv.message(to.node, s.side[i].node, m)
		}
	})
}

// processEnded breaks the streams of a node whose engine, or machine, is gone.
// The kernel of a machine that runs on tells the peers at once if it can reach
// them; a dead machine tells nobody, and peers give up by themselves.
func (n *network) processEnded(node int, machine bool) {
	for peer := range n.nodes {
		key := [2]int{min(node, peer), max(node, peer)}
		s := n.streams[key]
		if s == nil || peer == node {
			continue
		}
		mine, theirs := 0, 1
		if peer < node {
			mine, theirs = 1, 0
		}
		s.side[mine].up = false
		p := n.path(node, peer, s.link)
		switch {
		case s.broken:
		case machine || p.cut > 0:
			s.broken = true
			n.w.after(n.between(breakLowest, breakHighest), func() { s.down(theirs) })
		default:
			s.broken = true
			n.w.after(p.delay+n.upTo(p.jitter), func() { s.down(theirs) })
		}
	}
}

// cut and heal a path; each cut needs its heal.
func (n *network) cut(from, to, link int)  { n.path(from, to, link).cut++ }
func (n *network) heal(from, to, link int) { n.path(from, to, link).cut-- }

// whole takes all faults off the network.
func (n *network) whole() {
	for i := range n.paths {
		n.paths[i] = path{delay: 200 * time.Microsecond, jitter: 300 * time.Microsecond}
	}
}

// pairs of nodes, in order.
func (n *network) pairs() (all [][2]int) {
	for a := range n.nodes {
		for b := a + 1; b < n.nodes; b++ {
			all = append(all, [2]int{a, b})
		}
	}
	return all
}
