package notify

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

// chaos drives a world by chance and keeps what it promises: T1, T2 and T4.
type chaos struct {
	*world
	r    *rand.Rand
	told map[string]map[uint64]int // how often, by notifier and event
	// Highest number that was told through a notifier by the present leader.
	high map[string]uint64
	// Numbers above this may have been told by a leader that has crashed since.
	again map[string]uint64
	start map[string]uint64
	dups  int
}

func (c *chaos) tell(node, name string, ok bool) error {
	d := c.onWay[node+"/"+name]
	n := d.Event.GetNumber()
	if !ok {
		c.end(node, name, "no")
		return nil
	}
	if node == c.leader {
		if n <= c.high[name] {
			return fmt.Errorf("%s tells #%d after #%d", name, n, c.high[name])
		}
		c.high[name] = n
	}
	c.told[name][n]++
	if c.told[name][n] > 1 {
		c.dups++
		if n <= c.again[name] {
			return fmt.Errorf("%s tells #%d again, but #%d was committed before the last crash", name, n, c.again[name])
		}
	}
	c.end(node, name, "")
	return nil
}

func (c *chaos) turn(node string, crash bool) {
	if crash {
		for name := range c.told {
			c.again[name] = c.done[name]
		}
	}
	c.former[node] = !crash && c.leader != node && c.leader != ""
	if crash {
		delete(c.cores, c.leader)
		delete(c.wakes, c.leader)
		for key := range c.onWay {
			if strings.HasPrefix(key, c.leader+"/") {
				delete(c.onWay, key)
			}
		}
	}
	if node != c.leader || crash {
		c.high = map[string]uint64{}
	}
	c.leader = node
	c.core(node)
	c.stepAll()
}

func (c *chaos) round(crashes bool) error {
	switch k := c.r.IntN(100); {
	case k < 30:
		for range 1 + c.r.IntN(4) {
			c.event(&v1.Event{Severity: v1.Severity(1 + c.r.IntN(4))})
		}
		c.stepAll()
	case k < 34:
		c.turn([]string{"n1", "n2", "n3"}[c.r.IntN(3)], crashes && c.r.IntN(2) == 0)
		if !crashes { // an orderly change takes its time
			return c.pass(Handover + time.Second)
		}
	case k < 60:
		c.advance(time.Duration(c.r.IntN(3000)) * time.Millisecond)
	default:
		for _, key := range sortedKeys(c.onWay) {
			node, name, _ := strings.Cut(key, "/")
			if c.r.IntN(2) == 0 {
				if err := c.tell(node, name, c.r.IntN(3) > 0); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// pass some time in which deliveries end.
func (c *chaos) pass(d time.Duration) error {
	for end := c.now + d; c.now < end; c.advance(100 * time.Millisecond) {
		for _, key := range sortedKeys(c.onWay) {
			node, name, _ := strings.Cut(key, "/")
			if err := c.tell(node, name, c.r.IntN(4) > 0); err != nil {
				return err
			}
		}
	}
	return nil
}

func sortedKeys(m map[string]Delivery) (keys []string) {
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func runChaos(seed uint64, crashes bool) (c *chaos, err error) {
	c = &chaos{world: newWorld(), r: rand.New(rand.NewPCG(seed, 1)), told: map[string]map[uint64]int{}, high: map[string]uint64{}, again: map[string]uint64{}, start: map[string]uint64{}}
	c.keep = 5 + c.r.IntN(50)
	for i, s := range []v1.Severity{1, 3} {
		name := []string{"all", "bad"}[i]
		c.notifiers = append(c.notifiers, &v1.Notifier{Name: name, Severity: s, GiveUpAfter: durationpb.New(1000 * time.Hour)})
		c.told[name] = map[uint64]int{}
	}
	c.turn("n1", false)
	for range 300 {
		if err := c.round(crashes); err != nil {
			return c, err
		}
	}
	// Everything works from here on.
	for range 10000 {
		all := c.cores[c.leader].Status()
		if len(all) > 0 && !slices.ContainsFunc(all, func(s Status) bool { return s.Done < c.newest() }) {
			break
		}
		for _, key := range sortedKeys(c.onWay) {
			node, name, _ := strings.Cut(key, "/")
			if err := c.tell(node, name, true); err != nil {
				return c, err
			}
		}
		c.advance(10 * time.Minute)
	}
	for _, n := range c.notifiers {
		for _, e := range c.events {
			if Tells(n, e) && c.told[n.GetName()][e.GetNumber()] == 0 {
				return c, fmt.Errorf("%s has never told #%d of %d", n.GetName(), e.GetNumber(), c.newest())
			}
		}
	}
	return c, nil
}

func TestChaos(t *testing.T) {
	dups := 0
	for seed := range uint64(150) {
		for _, crashes := range []bool{false, true} {
			c, err := runChaos(seed, crashes)
			if err != nil {
				t.Fatalf("seed %d, crashes %v: %v\n%s", seed, crashes, err, c.log.String())
			}
			if !crashes && c.dups > 0 {
				t.Fatalf("seed %d: %d events were told twice without a crash\n%s", seed, c.dups, c.log.String())
			}
			dups += c.dups
		}
	}
	if dups == 0 {
		t.Error("no crash has made anything be told again: this test has not been where it should")
	}
}

// The memory of when events were seen is bounded, and never makes one older than it is.
func TestMarksAreBounded(t *testing.T) {
	c := &Core{}
	for i := range 10 * maxMarks {
		c.Step(time.Duration(i)*time.Second, View{Leading: true, Newest: uint64(i + 1)}, nil)
	}
	if len(c.marks) > maxMarks {
		t.Errorf("%d marks", len(c.marks))
	}
	for i := range 10 * maxMarks {
		if at := c.seenAt(uint64(i + 1)); at < time.Duration(i)*time.Second {
			t.Fatalf("#%d was seen at %v, remembered at %v", i+1, time.Duration(i)*time.Second, at)
		}
	}
}
