package sim

import (
	"slices"
	"strings"
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/group/agent"
)

// A host is a machine's agents and what they start. What it starts lives on
// when the engine ends, and dies with the machine, by guard's hand, or by
// itself. Calls under way outlive the engine too, until the next engine starts
// and ends them first; guard's kill ends them with the rest of their group.
type host struct {
	n     *node
	procs map[string]*service // by resource name; names are unique in a cluster
	calls map[uint64]*call    // of the engine that runs, by token
	left  []*call             // of engines that have ended
}

// A service is what one resource consists of on one machine.
type service struct {
	group, resource string
	alive           bool
	behaviour       behaviour
}

// behaviour is how a resource's entry points go wrong. The zero value is a
// good agent.
type behaviour struct {
	onlineFails     bool // says so, and nothing runs
	onlineHangs     bool // never answers; what it started runs
	onlineDead      bool // says that it went well, and nothing runs
	onlineHalf      bool // fails, but something runs
	offlineFails    bool // says so, and it runs on
	offlineHangs    bool
	offlineDead     bool // says that it went well, and it runs on
	monitorUnknown  bool
	monitorTimesOut bool
	cleanFails      bool
	slow            time.Duration // added to every entry point
	flaky           float64       // chance of any of the above per call
}

type call struct {
	agent.Call
	h     *host
	event []*simEvent // what it will still do
	ended bool
}

func newHost(n *node) *host {
	return &host{n: n, procs: map[string]*service{}, calls: map[uint64]*call{}}
}

func (h *host) service(group, resource string) *service {
	s := h.procs[resource]
	if s == nil {
		s = &service{group: group, resource: resource}
		h.procs[resource] = s
	}
	return s
}

// alive says whether anything of a group runs here.
func (h *host) alive(group string) bool {
	for _, s := range h.procs {
		if s.group == group && s.alive && !persistent(s.resource) {
			return true
		}
	}
	return false
}

// persistent resources are not brought online by anyone.
func persistent(resource string) bool { return strings.HasPrefix(resource, "nic") }

func (h *host) set(s *service, alive bool, why string) {
	if s.alive == alive {
		return
	}
	s.alive = alive
	if alive {
		h.n.tell("%s runs (%s)", s.resource, why)
	} else {
		h.n.tell("%s has stopped (%s)", s.resource, why)
		// Process notification tells the engine that runs, soon.
		h.n.notice(agent.Notice{Group: s.group, Resource: s.resource, What: why})
	}
	h.n.c.check.processes(s.group)
}

// run a call of the engine. Its parts happen at random points of its time.
func (h *host) run(x agent.Call) {
	w := h.n.c.World
	s := h.service(x.Group, x.Resource)
	c := &call{Call: x, h: h}
	h.calls[x.Token] = c
	w.count("call." + x.Entry.String())
	if g := h.n.guard; x.Starts && g != nil && g.LeaseHeld(h.n.local()) && !g.Protects(x.Group) {
		h.n.c.fail("N7", "%s of %s begins on %s, and guard would not stop it at the end of the lease", x.Entry, x.Resource, h.n.name)
	}
	b := s.behaviour
	if b.flaky > 0 && w.chance(b.flaky) {
		b = randomBehaviour(w)
		w.count("call.misbehaved")
	} else if b.flaky > 0 {
		b = behaviour{slow: b.slow}
	}
	var took time.Duration
	switch x.Entry {
	case agent.Monitor:
		took = w.between(100*time.Microsecond, 5*time.Millisecond)
	case agent.Online:
		took = w.between(2*time.Millisecond, 300*time.Millisecond)
	case agent.Offline:
		took = w.between(time.Millisecond, 200*time.Millisecond)
	default:
		took = w.between(time.Millisecond, 50*time.Millisecond)
	}
	took += b.slow
	acts := w.upTo(took)
	switch x.Entry {
	case agent.Monitor:
		c.monitor(s, b, acts, took)
	case agent.Online:
		c.at(acts, func() {
			if !b.onlineFails && !b.onlineDead {
				h.set(s, true, "online")
			}
		})
		switch {
		case b.onlineHangs:
			c.hang()
		case b.onlineFails, b.onlineHalf:
			c.answer(took, agent.Result{Err: "online failed"})
		default:
			c.answer(took, agent.Result{})
		}
	case agent.Offline:
		c.at(acts, func() {
			if !b.offlineFails && !b.offlineDead && !b.offlineHangs {
				h.set(s, false, "offline")
			}
		})
		switch {
		case b.offlineHangs:
			c.hang()
		case b.offlineFails:
			c.answer(took, agent.Result{Err: "offline failed"})
		default:
			c.answer(took, agent.Result{})
		}
	case agent.Clean:
		c.at(acts, func() {
			if !b.cleanFails {
				h.set(s, false, "clean")
			}
		})
		if b.cleanFails {
			c.answer(took, agent.Result{Err: "clean failed"})
		} else {
			c.answer(took, agent.Result{})
		}
	default:
		c.answer(took, agent.Result{})
	}
}

func (c *call) monitor(s *service, b behaviour, looks, took time.Duration) {
	if b.monitorTimesOut {
		c.hang()
		return
	}
	state := v1.ResourceState_RESOURCE_STATE_UNKNOWN
	c.at(looks, func() {
		switch {
		case b.monitorUnknown:
		case s.alive || persistent(s.resource):
			state = v1.ResourceState_RESOURCE_STATE_ONLINE
		default:
			state = v1.ResourceState_RESOURCE_STATE_OFFLINE
		}
	})
	c.at(took, func() {
		c.end(agent.Result{State: state, Watched: c.Watch && state == v1.ResourceState_RESOURCE_STATE_ONLINE})
	})
}

// at does a part of the call, as long as its machine and the call live.
func (c *call) at(d time.Duration, do func()) {
	p := c.h.n.machine
	c.event = append(c.event, p.post(d, func() {
		if !c.ended {
			do()
		}
	}))
}

func (c *call) answer(d time.Duration, r agent.Result) { c.at(d, func() { c.end(r) }) }

func (c *call) hang() {
	c.h.n.c.count("call.hung")
	c.answer(c.Timeout, agent.Result{TimedOut: true, Err: "timed out"})
}

// end the call with an answer to its engine, if that still runs.
func (c *call) end(r agent.Result) {
	c.ended = true
	if c.h.calls[c.Token] != c {
		return
	}
	delete(c.h.calls, c.Token)
	c.h.n.callDone(agent.Done{Token: c.Token, Result: r})
}

// cancel a call: it ends soon, and has done what it has done.
func (h *host) cancel(token uint64) {
	if c := h.calls[token]; c != nil {
		soon := 5 * time.Millisecond
		if h.n.c.chance(0.3) {
			soon = 300 * time.Millisecond
		}
		c.answer(h.n.c.upTo(soon), agent.Result{Err: "cancelled"})
	}
}

// engineEnded orphans the calls under way.
func (h *host) engineEnded() {
	for _, token := range sortedKeys(h.calls) {
		h.left = append(h.left, h.calls[token])
	}
	h.calls = map[uint64]*call{}
}

// engineStarted ends what earlier engines left, before anything else is done.
func (h *host) engineStarted() {
	for _, c := range h.left {
		c.ended = true
	}
	h.left = nil
}

// kill everything of a group, calls under way included.
func (h *host) kill(group, why string) {
	for _, c := range h.left {
		c.ended = c.ended || c.Group == group
	}
	for _, token := range sortedKeys(h.calls) {
		if c := h.calls[token]; c.Group == group && c.Entry != agent.Monitor {
			c.end(agent.Result{Err: "killed"})
		}
	}
	for _, name := range sortedKeys(h.procs) {
		if s := h.procs[name]; s.group == group {
			h.set(s, false, why)
		}
	}
}

// machineEnded: nothing runs on a machine that is down.
func (h *host) machineEnded() {
	h.left, h.calls = nil, map[uint64]*call{}
	for _, name := range sortedKeys(h.procs) {
		if s := h.procs[name]; s.alive {
			s.alive = false
			h.n.c.check.processes(s.group)
		}
	}
}

// randomBehaviour goes wrong in one way.
func randomBehaviour(w *World) behaviour {
	all := []behaviour{
		{onlineFails: true}, {onlineHangs: true}, {onlineDead: true}, {onlineHalf: true},
		{offlineFails: true}, {offlineHangs: true}, {offlineDead: true},
		{monitorUnknown: true}, {monitorTimesOut: true}, {cleanFails: true},
		{slow: w.between(50*time.Millisecond, 3*time.Second)},
	}
	return all[w.luck.IntN(len(all))]
}

func sortedKeys[K interface{ ~string | ~uint64 | ~int }, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
