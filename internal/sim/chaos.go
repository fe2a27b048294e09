package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

// Options of one run, drawn from its seed. Each seed leaves some kinds of
// faults out, so that rare mixtures are not drowned by common ones.
type Options struct {
	Seed      uint64
	Nodes     int
	Links     int
	Groups    int
	Points    int  // coordination points: 0, 1 or 3
	LockDisks int  // so many of them are lock disks, the others arbiters
	Power     bool // some groups require that a lost node is switched off
	// Which side of a split should win.
	Preferred     v1.PreferredFencing
	PreferredSite string
	Peerinact     time.Duration
	Drift         int64         // clocks are up to so many ppm wrong
	DiskSync      time.Duration // usual time of a sync
	Hiccups       bool          // the engine may be held up between deciding on a call and doing it
	Calm          bool          // for scripts: nothing is left to chance
	Chaos         time.Duration // length of the first phase
	Schedule      []Fault
}

// A Fault is a line of the language, and when it happens.
type Fault struct {
	At   time.Duration
	Line string
}

func (f Fault) String() string { return fmt.Sprintf("%s %s", seconds(f.At), f.Line) }

// A kind of fault makes lines.
type kind struct {
	name   string
	weight int
	lines  func(o *Options, r *rand.Rand) []string
}

// Swarm draws the options of a seed.
func Swarm(seed uint64) Options {
	r := newRand(seed, "swarm")
	o := Options{
		Seed:      seed,
		Nodes:     pick(r, 1, 2, 2, 3, 3, 3, 3, 3, 3, 4, 4, 5, 5, 5, 7, 9),
		Links:     pick(r, 1, 2, 2, 2),
		Groups:    1 + r.IntN(4),
		Peerinact: pick(r, 200*time.Millisecond, 300*time.Millisecond, time.Second, time.Second, time.Second, 4*time.Second),
		Drift:     pick(r, int64(0), 50, 200, 1000),
		Hiccups:   r.IntN(3) == 0,
		DiskSync:  pick(r, 100*time.Microsecond, time.Millisecond, 8*time.Millisecond),
		Chaos:     between(r, 20*time.Second, 60*time.Second),
	}
	if o.Nodes > 5 {
		o.Chaos /= 2 // runs of all sizes cost about the same
	}
	var used []kind
	for _, k := range kinds {
		if r.IntN(2) == 0 {
			used = append(used, k)
		}
	}
	r2 := newRand(seed, "points")
	if o.Points = pick(r2, 0, 1, 1, 3); o.Points > 0 {
		o.LockDisks = r2.IntN(o.Points + 1)
		o.Preferred = v1.PreferredFencing(r2.IntN(4))
		o.PreferredSite = pick(r2, "", "", "", "a", "b")
		for _, k := range pointKinds {
			if r2.IntN(2) == 0 {
				used = append(used, k)
			}
		}
	}
	o.Power = newRand(seed, "power").IntN(3) == 0
	every := pick(r, 300*time.Millisecond, time.Second, 3*time.Second)
	at := 3 * time.Second
	if r.IntN(4) == 0 {
		at = 0 // while the cluster starts
	}
	total := 0
	for _, k := range used {
		total += k.weight
	}
	for total > 0 {
		at += time.Duration(float64(every) * r.ExpFloat64())
		if at >= o.Chaos {
			break
		}
		n := r.IntN(total)
		for _, k := range used {
			if n -= k.weight; n < 0 {
				for _, line := range k.lines(&o, r) {
					o.Schedule = append(o.Schedule, Fault{at, line})
					at += upTo(r, 200*time.Millisecond)
				}
				break
			}
		}
	}
	o.Schedule = append(o.Schedule, o.apart()...)
	slices.SortStableFunc(o.Schedule, func(a, b Fault) int { return int(a.At - b.At) })
	return o
}

func pick[T any](r *rand.Rand, from ...T) T { return from[r.IntN(len(from))] }

func aNode(o *Options, r *rand.Rand) string { return fmt.Sprintf("n%d", 1+r.IntN(o.Nodes)) }

func aGroup(o *Options, r *rand.Rand) string { return fmt.Sprintf("g%d", 1+r.IntN(o.Groups)) }

// aWhile draws lengths that matter: around peerinact, and far from it.
func aWhile(o *Options, r *rand.Rand) string {
	d := time.Duration(float64(o.Peerinact) * pick(r, 0.2, 0.5, 0.9, 1.0, 1.1, 1.5, 2, 4, 10) * (0.8 + 0.4*r.Float64()))
	return d.Round(time.Microsecond).String()
}

func one(format string, args ...any) []string { return []string{fmt.Sprintf(format, args...)} }

var kinds = []kind{
	{"crash", 4, func(o *Options, r *rand.Rand) []string {
		n := aNode(o, r)
		if r.IntN(3) == 0 {
			return one("crash %s", n) // something else boots it
		}
		return one("crash %s for %s", n, aWhile(o, r))
	}},
	{"boot", 2, func(o *Options, r *rand.Rand) []string { return one("boot %s", aNode(o, r)) }},
	{"blackout", 1, func(o *Options, r *rand.Rand) (lines []string) {
		for i := range o.Nodes {
			lines = append(lines, fmt.Sprintf("crash n%d for %s", i+1, aWhile(o, r)))
		}
		return lines
	}},
	{"kill-engine", 4, func(o *Options, r *rand.Rand) []string { return one("kill engine %s", aNode(o, r)) }},
	{"kill-guard", 2, func(o *Options, r *rand.Rand) []string { return one("kill guard %s", aNode(o, r)) }},
	{"pause", 3, func(o *Options, r *rand.Rand) []string { return one("pause %s for %s", aNode(o, r), aWhile(o, r)) }},
	{"pause-engine", 2, func(o *Options, r *rand.Rand) []string {
		return one("pause engine %s for %s", aNode(o, r), aWhile(o, r))
	}},
	{"pause-guard", 2, func(o *Options, r *rand.Rand) []string {
		return one("pause guard %s for %s", aNode(o, r), aWhile(o, r))
	}},
	{"isolate", 3, func(o *Options, r *rand.Rand) []string { return one("cut %s for %s", aNode(o, r), aWhile(o, r)) }},
	{"cut", 4, func(o *Options, r *rand.Rand) []string {
		s := pick(r, "cut %s %s", "cut %s->%s")
		s = fmt.Sprintf(s, aNode(o, r), aNode(o, r))
		if r.IntN(2) == 0 {
			s += fmt.Sprintf(" link %d", r.IntN(o.Links))
		}
		return one("%s for %s", s, aWhile(o, r))
	}},
	{"flap", 2, func(o *Options, r *rand.Rand) []string {
		return one("flap %s %s link %d for %s", aNode(o, r), aNode(o, r), r.IntN(o.Links), aWhile(o, r))
	}},
	{"split", 2, func(o *Options, r *rand.Rand) []string {
		var side [2][]string
		for _, i := range r.Perm(o.Nodes) {
			s := r.IntN(2)
			side[s] = append(side[s], fmt.Sprintf("n%d", i+1))
		}
		if len(side[0]) == 0 || len(side[1]) == 0 {
			return nil
		}
		return one("split %s|%s for %s", strings.Join(side[0], ","), strings.Join(side[1], ","), aWhile(o, r))
	}},
	{"net", 3, func(o *Options, r *rand.Rand) []string {
		where := ""
		if r.IntN(2) == 0 {
			where = fmt.Sprintf("%s->%s ", aNode(o, r), aNode(o, r))
		}
		return one("net %sdelay=%s jitter=%s loss=%.2f dup=%.2f for %s", where,
			upTo(r, o.Peerinact/10).Round(time.Microsecond), upTo(r, o.Peerinact/4).Round(time.Microsecond),
			pick(r, 0, 0.01, 0.1, 0.4), pick(r, 0, 0.1, 0.5), aWhile(o, r))
	}},
	{"disk-slow", 2, func(o *Options, r *rand.Rand) []string {
		return one("disk %s slow=%s for %s", aNode(o, r), upTo(r, 2*time.Second).Round(time.Microsecond), aWhile(o, r))
	}},
	{"disk-hang", 1, func(o *Options, r *rand.Rand) []string { return one("disk %s hang for %s", aNode(o, r), aWhile(o, r)) }},
	{"disk-full", 1, func(o *Options, r *rand.Rand) []string { return one("disk %s full for %s", aNode(o, r), aWhile(o, r)) }},
	{"disk-lose", 1, func(o *Options, r *rand.Rand) []string {
		n := aNode(o, r)
		if r.IntN(2) == 0 {
			return one("disk %s erase", n)
		}
		return []string{"disk " + n + " lose", fmt.Sprintf("crash %s for %s", n, aWhile(o, r))}
	}},
	{"die", 4, func(o *Options, r *rand.Rand) []string {
		return one("die %s-%s %s", aGroup(o, r), pick(r, "a", "b", "c"), aNode(o, r))
	}},
	{"agents", 3, func(o *Options, r *rand.Rand) []string {
		return one("agents %s flaky=%.2f for %s", aNode(o, r), pick(r, 0.05, 0.3, 1), aWhile(o, r))
	}},
	{"move", 4, func(o *Options, r *rand.Rand) []string {
		switch r.IntN(5) {
		case 0:
			return one("offline %s", aGroup(o, r))
		case 1:
			return one("online %s", aGroup(o, r))
		case 2:
			return one("online %s %s", aGroup(o, r), aNode(o, r))
		case 3:
			return one("clear %s", aGroup(o, r))
		}
		return one("switch %s %s", aGroup(o, r), aNode(o, r))
	}},
	{"freeze", 1, func(o *Options, r *rand.Rand) []string {
		what := pick(r, aGroup(o, r), aNode(o, r))
		return []string{pick(r, "freeze ", "unfreeze ", "unfreeze ") + what}
	}},
	{"flush", 1, func(o *Options, r *rand.Rand) []string { return one("%s %s", pick(r, "flush", "probe"), aGroup(o, r)) }},
	{"leave", 2, func(o *Options, r *rand.Rand) []string {
		if r.IntN(2) == 0 {
			return one("start %s", aNode(o, r))
		}
		return one("stop %s%s", aNode(o, r), pick(r, "", " evacuate"))
	}},
	{"silence", 1, func(o *Options, r *rand.Rand) []string {
		n := aNode(o, r)
		length := between(r, o.Peerinact, 6*o.Peerinact)
		return []string{fmt.Sprintf("silence %s %s", n, length.Round(time.Microsecond)),
			fmt.Sprintf("pause %s for %s", n, time.Duration(float64(length)*pick(r, 0.5, 0.9, 1.2)).Round(time.Microsecond))}
	}},
	{"set", 1, func(o *Options, r *rand.Rand) []string {
		return one("set peerinact=%s", pick(r, "200ms", "500ms", "1s", "3s"))
	}},
	{"note", 3, func(o *Options, r *rand.Rand) []string { return one("note %d", r.IntN(1000000)) }},
}
