package sim

import (
	"math/rand/v2"
	"time"
)

// A World is what a run takes place in: virtual time, the network between
// nodes, chance and the story of what happened.
type World struct {
	queue
	trace
	seed  uint64
	luck  *rand.Rand // everything but the network and the schedule of faults
	net   *network
	recv  netReceiver
	cover map[string]int
	// calm: chance always draws the middle, so that a script's story changes
	// only when the cores do.
	calm bool
}

func newWorld(seed uint64) *World {
	return &World{seed: seed, luck: newRand(seed, "world"), cover: map[string]int{}}
}

// count that something happened; RequireSeen asks for it.
func (w *World) count(what string) { w.cover[what]++ }

func (w *World) chance(p float64) bool { return !w.calm && w.luck.Float64() < p }

func (w *World) upTo(d time.Duration) time.Duration { return w.between(0, d) }

func (w *World) between(lo, hi time.Duration) time.Duration {
	if w.calm {
		return (lo + hi) / 2
	}
	return between(w.luck, lo, hi)
}

// tell a line of the story.
func (w *World) tell(who, format string, args ...any) { w.add(w.now, who, format, args...) }
