package sim

import (
	"crypto/rand"
	"fmt"
	"math/big"
	"slices"
	"testing"
	"time"
)

// A toy is a node that writes down what it gets.
type toy struct {
	w       *World
	procs   []*process
	paused  []bool
	grams   map[string]int
	got     map[[2]int][]int // by (to, from)
	dropped map[[2]int][]int // by (from, to)
	up      map[[2]int]bool
}

func newToy(seed uint64, nodes, links int) *toy {
	w := newWorld(seed)
	y := &toy{w: w, grams: map[string]int{}, got: map[[2]int][]int{}, dropped: map[[2]int][]int{}, up: map[[2]int]bool{}, paused: make([]bool, nodes)}
	w.recv = y
	for range nodes {
		y.procs = append(y.procs, w.newProcess())
	}
	w.net = newNetwork(w, nodes, links)
	for a := range nodes {
		for b := a + 1; b < nodes; b++ {
			w.net.dialer(a, b)
		}
	}
	return y
}

func (y *toy) datagram(to, from, link int, payload any) {
	y.grams[fmt.Sprintf("%d<-%d/%d %s", to, from, link, payload)]++
	y.w.tell(fmt.Sprint(to), "datagram from %d: %s", from, payload)
}
func (y *toy) streamUp(node, peer int) {
	y.up[[2]int{node, peer}] = true
	y.w.tell(fmt.Sprint(node), "stream to %d up", peer)
}
func (y *toy) streamDown(node, peer int) {
	y.up[[2]int{node, peer}] = false
	y.w.tell(fmt.Sprint(node), "stream to %d down", peer)
}
func (y *toy) message(to, from int, m any) {
	y.got[[2]int{to, from}] = append(y.got[[2]int{to, from}], m.(int))
	y.w.tell(fmt.Sprint(to), "message from %d: %d", from, m)
}

func (y *toy) droppedMessage(node, peer int, m any) {
	k := [2]int{node, peer}
	y.dropped[k] = append(y.dropped[k], m.(int))
}
func (y *toy) reachable(node int) bool     { return y.procs[node].alive && y.procs[node].frozen == 0 }
func (y *toy) processOf(node int) *process { return y.procs[node] }
func (y *toy) machinePaused(node int) bool { return y.paused[node] }
func (y *toy) run(d time.Duration) {
	w := y.w
	end := w.now + d
	for w.step(end) {
	}
}

// TestStreamOrder: through cuts, losses and breaks a stream delivers a
// subsequence of what was sent, in order, each once; with a whole network all.
func TestStreamOrder(t *testing.T) {
	cover := map[string]int{}
	for seed := range uint64(200) {
		y := newToy(seed, 2, 2)
		w := y.w
		for l := range 2 {
			w.net.path(0, 1, l).loss = 0.1
			w.net.path(0, 1, l).jitter = 20 * time.Millisecond
		}
		y.run(time.Second)
		for i := range 300 {
			w.net.sendMessage(0, 1, i)
			y.run(w.upTo(20 * time.Millisecond))
			link := w.luck.IntN(2)
			if p := w.net.path(0, 1, link); w.chance(0.01) && p.cut == 0 {
				w.net.cut(0, 1, link)
				w.after(w.upTo(2*time.Second), func() { w.net.heal(0, 1, link) })
			}
		}
		y.run(20 * time.Second)
		got := y.got[[2]int{1, 0}]
		if !slices.IsSorted(got) || len(slices.Compact(slices.Clone(got))) != len(got) {
			t.Fatalf("seed %d: out of order: %v", seed, got)
		}
		for _, m := range y.dropped[[2]int{0, 1}] {
			if slices.Contains(got, m) {
				t.Fatalf("seed %d: %d was reported as dropped and arrived", seed, m)
			}
		}
		if len(got) < 60 {
			t.Errorf("seed %d: only %d of 300 arrived", seed, len(got))
		}
		if !y.up[[2]int{0, 1}] || !y.up[[2]int{1, 0}] {
			t.Errorf("seed %d: no stream after the network is whole", seed)
		}
		for k, v := range w.cover {
			cover[k] += v
		}
	}
	for _, k := range []string{"stream.stalled", "stream.broken", "stream.dropped", "stream.lost"} {
		if cover[k] == 0 {
			t.Errorf("%s never happened", k)
		}
	}
}

func TestDatagrams(t *testing.T) {
	y := newToy(1, 2, 1)
	p := y.w.net.path(0, 1, 0)
	p.dup = 1
	y.w.net.send(0, 1, 0, []byte("twice"))
	y.run(time.Second)
	p.dup, p.loss = 0, 1
	y.w.net.send(0, 1, 0, []byte("lost"))
	p.loss = 0
	y.w.net.send(0, 1, 0, []byte("under way"))
	y.w.net.cut(0, 1, 0)
	y.w.net.send(1, 0, 0, []byte("other way"))
	y.run(time.Second)
	want := map[string]int{"1<-0/0 twice": 2, "0<-1/0 other way": 1}
	if fmt.Sprint(y.grams) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", y.grams, want)
	}
}

func TestProcessFreeze(t *testing.T) {
	w := newWorld(1)
	p := w.newProcess()
	var got []int
	p.freeze()
	for i := range 3 {
		p.post(time.Duration(i), func() { got = append(got, i) })
	}
	for w.step(time.Second) {
	}
	if len(got) != 0 {
		t.Fatal("a frozen process did something")
	}
	p.thaw()
	if fmt.Sprint(got) != "[0 1 2]" {
		t.Fatalf("after the thaw: %v", got)
	}
	p.post(1, func() { got = nil })
	p.kill()
	for w.step(2 * time.Second) {
	}
	if got == nil {
		t.Error("a dead process did something")
	}
}

func TestDisk(t *testing.T) {
	kept, lost := 0, 0
	for seed := range uint64(50) {
		w := newWorld(seed)
		d := &disk{w: w, latency: time.Millisecond}
		p := w.newProcess()
		var durable []int
		var told []int
		write := func(n int) {
			d.sync(p, func() { durable = append(durable, n) }, func(ok bool) { told = append(told, n) })
		}
		write(1)
		for w.step(10 * time.Millisecond) {
		}
		write(2)
		p.kill()
		d.crash()
		for w.step(time.Second) {
		}
		switch fmt.Sprint(durable, told) {
		case "[1] [1]":
			lost++
		case "[1 2] [1]":
			kept++
		default:
			t.Fatalf("seed %d: durable %v, told %v", seed, durable, told)
		}
	}
	if kept == 0 || lost == 0 {
		t.Errorf("of batches in flight %d were kept, %d lost", kept, lost)
	}
}

func TestClock(t *testing.T) {
	w := newWorld(7)
	for range 10000 {
		c := clock{start: w.upTo(time.Hour), offset: w.upTo(time.Hour), ppm: w.luck.Int64N(2001) - 1000}
		local := c.offset + w.upTo(time.Hour)
		at := c.when(local)
		if c.read(at) < local || c.read(at-1) >= local {
			t.Fatalf("%+v: %v is shown at %v, but then it is %v", c, local, at, c.read(at))
		}
	}
	c := clock{ppm: 1000}
	if got := c.read(1000 * time.Second); got != 1001*time.Second {
		t.Errorf("0.1%% too fast: %v", got)
	}
}

// TestRandReader: what raft draws from crypto/rand.Reader comes from the seed.
func TestRandReader(t *testing.T) {
	draw := func() (s string) {
		defer useSeed(99)()
		for range 20 {
			n, err := rand.Int(rand.Reader, big.NewInt(10))
			if err != nil {
				t.Fatal(err)
			}
			s += n.String()
		}
		return s
	}
	if a, b := draw(), draw(); a != b {
		t.Errorf("%s and %s", a, b)
	}
}
