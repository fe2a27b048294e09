package agents

import (
	"fmt"
	"log/slog"
	"net/netip"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// netWatch tells when a watched address goes away or a watched link changes, from the kernel's messages.
type netWatch struct {
	tell func(key, string)
	log  *slog.Logger

	mu      sync.Mutex
	stop    chan struct{}
	running bool
	closed  bool
	// watched addresses and devices per resource, and resources to which all of them matter; states of the links, by name.
	addresses map[key]onDevice
	devices   map[key]string
	all       map[key]bool
	links     map[string]bool
}

type onDevice struct {
	address netip.Addr
	device  string
	// absent: its coming is to be told, not its going.
	absent bool
	// unsure: both, until it is known whether it is there.
	unsure bool
}

func newNetWatch(tell func(key, string), log *slog.Logger) *netWatch {
	return &netWatch{
		tell: tell, log: log, stop: make(chan struct{}),
		addresses: map[key]onDevice{}, devices: map[key]string{}, all: map[key]bool{}, links: map[string]bool{},
	}
}

// address watches an address and the link that it is on if that is wanted, and ends the watch if not; false if it is not
// watched, as the kernel's messages can't be had.
func (n *netWatch) address(wanted bool, k key, at onDevice) bool {
	if !wanted {
		n.forget(k)
		return false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.addresses[k], n.devices[k] = at, at.device
	return n.start()
}

// device watches a link if that is wanted.
func (n *netWatch) device(wanted bool, k key, name string) bool {
	if !wanted {
		n.forget(k)
		return false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.devices[k] = name
	return n.start()
}

// everything watches all links and addresses if that is wanted.
func (n *netWatch) everything(wanted bool, k key) bool {
	if !wanted {
		n.forget(k)
		return false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.all[k] = true
	return n.start()
}

func (n *netWatch) forget(k key) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.addresses, k)
	delete(n.devices, k)
	delete(n.all, k)
}

// start subscribes, unless that was done before. The caller holds mu.
func (n *netWatch) start() bool {
	if n.running || n.closed {
		return n.running
	}
	stop := make(chan struct{})
	links, addrs := make(chan netlink.LinkUpdate, 64), make(chan netlink.AddrUpdate, 64)
	lost := func(err error) { n.lost(stop, err) }
	if err := netlink.LinkSubscribeWithOptions(links, stop, netlink.LinkSubscribeOptions{ErrorCallback: lost}); err != nil {
		n.log.Warn("links are polled only: the kernel's messages can't be had", "error", err)
		return false
	}
	if err := netlink.AddrSubscribeWithOptions(addrs, stop, netlink.AddrSubscribeOptions{ErrorCallback: lost}); err != nil {
		close(stop)
		n.log.Warn("addresses are polled only: the kernel's messages can't be had", "error", err)
		return false
	}
	n.stop, n.running = stop, true
	go func() {
		for u := range links {
			n.link(u)
		}
	}()
	go func() {
		for u := range addrs {
			n.addr(u)
		}
	}()
	return true
}

// lost: messages were missed, so everything has to be looked at. The next monitor subscribes again.
func (n *netWatch) lost(stop chan struct{}, err error) {
	n.mu.Lock()
	if n.closed || !n.running || n.stop != stop {
		n.mu.Unlock()
		return
	}
	n.running = false
	close(stop)
	keys := make([]key, 0, len(n.devices))
	for k := range n.devices {
		keys = append(keys, k)
	}
	for k := range n.all {
		keys = append(keys, k)
	}
	n.mu.Unlock()
	n.log.Warn("messages of the kernel about links and addresses were lost", "error", err)
	for _, k := range keys {
		n.tell(k, "")
	}
}

func (n *netWatch) link(u netlink.LinkUpdate) {
	name := u.Attrs().Name
	up := u.Header.Type == unix.RTM_NEWLINK && linkUp(u.Attrs().RawFlags)
	n.mu.Lock()
	was, known := n.links[name]
	n.links[name] = up
	var keys []key
	if !known || was != up {
		for k, d := range n.devices {
			if d == name {
				keys = append(keys, k)
			}
		}
		for k := range n.all {
			keys = append(keys, k)
		}
	}
	n.mu.Unlock()
	what := fmt.Sprintf("link of %s went down", name)
	switch {
	case up:
		what = ""
	case u.Header.Type == unix.RTM_DELLINK:
		what = fmt.Sprintf("%s was removed", name)
	}
	for _, k := range keys {
		n.tell(k, what)
	}
}

func (n *netWatch) addr(u netlink.AddrUpdate) {
	a, ok := netip.AddrFromSlice(u.LinkAddress.IP)
	if !ok {
		return
	}
	a = a.Unmap()
	n.mu.Lock()
	var keys []key
	for k, at := range n.addresses {
		if at.address == a && (at.absent == u.NewAddr || at.unsure) {
			keys = append(keys, k)
		}
	}
	for k := range n.all {
		keys = append(keys, k)
	}
	n.mu.Unlock()
	what := fmt.Sprintf("address %s was removed", a)
	if u.NewAddr {
		what = ""
	}
	for _, k := range keys {
		n.tell(k, what)
	}
}

func (n *netWatch) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed = true
	if n.running {
		n.running = false
		close(n.stop)
	}
}

// linkUp: the administrator wants it up, and it has a carrier (or is of a kind that has none).
func linkUp(flags uint32) bool {
	return flags&unix.IFF_UP != 0 && flags&unix.IFF_RUNNING != 0
}
