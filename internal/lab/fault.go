package lab

import (
	"slices"
	"time"
)

// errLoopback explains why a loopback network can't be cut.
func (l *Lab) errLoopback() error {
	return refused("lab %s runs on loopback addresses, where the network can't be cut: run the lab as root for that, or try holdfast lab kill or pause", l.Name())
}

// Cut switches the node's ports off, on all links or on the given ones
// (numbers from 0). It returns the time (CLOCK_MONOTONIC) just before.
func (l *Lab) Cut(name string, links ...int) (time.Duration, error) {
	var at time.Duration
	err := l.port(name, links, func(p *nodePlan, r *nodeRecord, links []int) error {
		at = monotonic()
		if err := setPorts(&l.rec.Plan, p, links, false); err != nil {
			return err
		}
		r.Cut = slices.Compact(slices.Sorted(slices.Values(append(r.Cut, links...))))
		return nil
	})
	return at, err
}

// Heal ends all cuts of a node: its ports go on, and nobody's frames to or
// from it are dropped any more.
func (l *Lab) Heal(name string) error {
	return l.port(name, nil, func(p *nodePlan, r *nodeRecord, links []int) error {
		if err := setPorts(&l.rec.Plan, p, links, true); err != nil {
			return err
		}
		r.Cut = nil
		for _, disk := range slices.Clone(r.CutDisks) {
			if err := l.setDisks(disk, []string{name}, true); err != nil {
				return err
			}
		}
		for i, other := range l.rec.Plan.machines() {
			or := l.rec.records()[i]
			for link, from := range or.Blocked {
				if other.Name == name {
					from = nil
				}
				from = slices.DeleteFunc(slices.Clone(from), func(s string) bool { return s == name })
				if err := l.block(other, or, link, from); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// CutPair makes a and b not hear each other, on all links or on the given
// ones; one way, only b does not hear a.
func (l *Lab) CutPair(a, b string, oneWay bool, links ...int) error {
	_, err := l.Split([]string{a}, []string{b}, oneWay, links...)
	return err
}

// Split makes no machine of a hear one of b and, unless one way, none of b hear one
// of a, on all links or on the given ones. Everybody else hears both
// sides. It returns the time (CLOCK_MONOTONIC) just before.
func (l *Lab) Split(a, b []string, oneWay bool, links ...int) (time.Duration, error) {
	for _, name := range a {
		if slices.Contains(b, name) {
			return 0, bad("%s can't be cut from itself", name)
		}
	}
	var at time.Duration
	err := l.change(func() error {
		for _, name := range slices.Concat(a, b) {
			if _, _, err := l.plugged(name, links); err != nil {
				return err
			}
		}
		at = monotonic()
		for _, to := range b {
			if err := l.deafen(to, a, links); err != nil {
				return err
			}
		}
		if oneWay {
			return nil
		}
		for _, to := range a {
			if err := l.deafen(to, b, links); err != nil {
				return err
			}
		}
		return nil
	})
	return at, err
}

// deafen makes one machine not hear some others, beside those that it does not hear already.
func (l *Lab) deafen(to string, from []string, links []int) error {
	p, r, err := l.rec.machine(to)
	if err != nil {
		return err
	}
	if r.Blocked == nil {
		r.Blocked = map[int][]string{}
	}
	if len(links) == 0 {
		links = allLinks(p)
	}
	for _, link := range links {
		r.Blocked[link] = slices.Compact(slices.Sorted(slices.Values(slices.Concat(r.Blocked[link], from))))
	}
	return setRules(&l.rec.Plan, p, r)
}

// block sets who is not heard by a node on a link.
func (l *Lab) block(p *nodePlan, r *nodeRecord, link int, senders []string) error {
	if r.Blocked == nil {
		r.Blocked = map[int][]string{}
	}
	r.Blocked[link] = senders
	if len(senders) == 0 {
		delete(r.Blocked, link)
	}
	return setRules(&l.rec.Plan, p, r)
}

// port runs f with a machine whose ports exist.
func (l *Lab) port(name string, links []int, f func(*nodePlan, *nodeRecord, []int) error) error {
	return l.change(func() error {
		p, r, err := l.plugged(name, links)
		if err != nil {
			return err
		}
		if len(links) == 0 {
			links = allLinks(p)
		}
		return f(p, r, links)
	})
}

// plugged finds a machine whose ports exist, the given links among them.
func (l *Lab) plugged(name string, links []int) (*nodePlan, *nodeRecord, error) {
	p, r, err := l.rec.machine(name)
	if err != nil {
		return nil, nil, err
	}
	if p.Netns == "" {
		return nil, nil, l.errLoopback()
	}
	if l.state(p, r) == Off {
		return nil, nil, refused("node %s is off: holdfast lab start %s", name, name)
	}
	for _, i := range links {
		if i < 0 || i >= len(p.Ports) {
			return nil, nil, absent("there is no link %d: node %s has links 0 to %d", i, name, len(p.Ports)-1)
		}
	}
	return p, r, nil
}
