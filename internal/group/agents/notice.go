package agents

import (
	"sync"

	"github.com/holdfast-ha/holdfast/internal/group/agent"
)

// unwatch ends all watches of a resource that is not managed any more.
func (h *Host) unwatch(k key) {
	h.watcher.set(k, nil)
	h.net.forget(k)
	h.files.forget(k)
	h.mounts.forget(k)
	h.signals.forget(k)
	h.proxies.forget(k)
	h.cards.forget(k)
	h.bus.forget(k)
	h.bus.manages(k, "")
	h.records.forget(k)
}

// mailbox holds notices until they are fetched, one per resource: a second one would only cause the same monitor.
type mailbox struct {
	out  chan agent.Notice
	wake chan struct{}
	done chan struct{}

	mu      sync.Mutex
	waiting []agent.Notice
	of      map[key]bool // the resources that waiting is about
}

func newMailbox() *mailbox {
	m := &mailbox{out: make(chan agent.Notice), wake: make(chan struct{}, 1), done: make(chan struct{}), of: map[key]bool{}}
	go m.deliver()
	return m
}

func (m *mailbox) put(n agent.Notice) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k := key{n.Group, n.Resource}
	if m.of[k] {
		return
	}
	m.of[k] = true
	m.waiting = append(m.waiting, n)
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

func (m *mailbox) deliver() {
	defer close(m.out)
	for {
		select {
		case <-m.wake:
		case <-m.done:
			return
		}
		for {
			m.mu.Lock()
			if len(m.waiting) == 0 {
				m.mu.Unlock()
				break
			}
			n := m.waiting[0]
			m.waiting = m.waiting[1:]
			delete(m.of, key{n.Group, n.Resource})
			m.mu.Unlock()
			select {
			case m.out <- n:
			case <-m.done:
				return
			}
		}
	}
}

func (m *mailbox) close() { close(m.done) }
