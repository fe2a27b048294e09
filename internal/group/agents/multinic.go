package agents

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/group/agent"
)

var multiNICKind = kind{
	typ: &v1.ResourceType{
		Name: "MultiNIC", Operations: v1.Operations_OPERATIONS_NONE, Bundled: true,
		Description: "Several network cards of one network, of which one is active and the others stand by. The addresses of the node move to another card, and those of resources of type " +
			"IPMultiNIC follow, before any group has to leave the node. It is online while one of the cards works. A change of a link is noticed at once.",
		Attributes: []*v1.Attribute{
			{Name: "Devices", Kind: list, Required: required, Description: "The cards, the one to be used first: eth0 eth1. All are in the same network, by whatever switches."},
			{Name: "BaseAddresses", Kind: list, Description: "The node's own addresses with prefix length that are to be on the active card, with the routes through it. They differ from node to node."},
			{Name: "NetworkHosts", Kind: list, Description: "IPv4 addresses in the network that are asked through each card by ARP. A card through which none answers has failed. Without any, the cards listen for each other."},
			{Name: "NetworkTimeout", Kind: span, Default: "300ms", Description: "Time within which something must be heard through each card; everything is sent three times."},
			{Name: "PeerPolling", Kind: flag, Default: "true", Description: "Whether the cards listen for each other if no hosts are given. If false only their links count."},
			{Name: "OfflineTestRepeatCount", Kind: whole, Default: "3", Description: "So many looks in a row must find nothing before a card has failed. The loss of its link counts at once."},
			{Name: "OnlineTestRepeatCount", Kind: whole, Default: "3", Description: "So many looks in a row must find a failed card working before it is used again."},
			{Name: "Failback", Kind: flag, Default: "false", Description: "Whether everything goes back to the first card that works, or stays."},
		},
		Limits: &v1.Limits{MonitorInterval: seconds(2), OfflineMonitorInterval: seconds(2), MonitorTimeout: seconds(30)},
	},
	notes: "Two cards that do not hear each other say only that one of them has failed. Then the one that has received something meanwhile is the one that works; if that does not tell them apart either, nothing changes. " +
		"A card stays good while it hears or is heard; only when both fail it has failed. Hosts that answer through no card at all make it offline, as does the loss of all links. With a card lost its confidence is 50.",
	check: checkMultiNIC,
	run: func(ctx context.Context, h *Host, c agent.Call) agent.Result {
		if c.Entry != agent.Monitor {
			return agent.Result{}
		}
		return monitorMultiNIC(ctx, h, c)
	},
}

func checkMultiNIC(a map[string]string) []error {
	var errs []error
	devices, err := words(a["Devices"])
	if err != nil {
		errs = append(errs, faultOf("Devices", "%w", err))
	}
	for i, d := range devices {
		for range checkDevice(d) {
			errs = append(errs, faultOf("Devices", "%q can't be the name of a network card", d))
		}
		if slices.Contains(devices[:i], d) {
			errs = append(errs, faultOf("Devices", "%s is named twice", d))
		}
	}
	if len(devices) > maxHosts {
		errs = append(errs, faultOf("Devices", "%d are too many: give at most %d", len(devices), maxHosts))
	}
	if _, err := prefixes(a["BaseAddresses"]); err != nil {
		errs = append(errs, faultOf("BaseAddresses", "%w", err))
	}
	targets, err := hosts(a["NetworkHosts"])
	if err != nil {
		errs = append(errs, faultOf("NetworkHosts", "%w", err))
	}
	for _, t := range targets {
		if !t.Is4() {
			errs = append(errs, faultOf("NetworkHosts", "%s is not an IPv4 address: only those can be asked through a card that has no address itself", t))
		}
	}
	for _, name := range []string{"OfflineTestRepeatCount", "OnlineTestRepeatCount"} {
		if n, err := strconv.ParseInt(a[name], 10, 64); err == nil && (n < 1 || n > 1000) {
			errs = append(errs, faultOf(name, "%d is not between 1 and 1000", n))
		}
	}
	return errs
}

// prefixes reads a list of addresses with prefix length.
func prefixes(s string) ([]netip.Prefix, error) {
	all, err := words(s)
	if err != nil {
		return nil, err
	}
	var out []netip.Prefix
	for _, f := range all {
		p, err := netip.ParsePrefix(f)
		if err != nil || p.Addr().IsUnspecified() || p.Addr().IsMulticast() || p.Addr().Is4In6() || p.Bits() == 0 {
			return nil, fmt.Errorf("%q is not an address with prefix length such as 10.0.0.9/24", f)
		}
		out = append(out, p)
	}
	return out, nil
}

// cardBoard knows which card of each MultiNIC is active, and tells those that follow.
type cardBoard struct {
	tell func(key, string)

	mu        sync.Mutex
	sets      map[key]*cardSet
	followers map[key]key
}

// cardSet is what is known of the cards of a MultiNIC.
type cardSet struct {
	cards  []*card
	active string // empty: none works
	// routes through the active card when it last worked, that somebody has set.
	routes []netlink.Route
}

type card struct {
	name   string
	health health
	// streak of looks that contradict health.
	streak   int
	received uint64
	why      string
}

func newCardBoard(tell func(key, string)) *cardBoard {
	return &cardBoard{tell: tell, sets: map[key]*cardSet{}, followers: map[key]key{}}
}

// activeOf returns the active card of a MultiNIC; empty if none works, false if it was not looked at yet.
func (b *cardBoard) activeOf(k key) (string, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.sets[k]
	if s == nil {
		return "", false
	}
	return s.active, true
}

// follow has changes of the active card told, if that is wanted.
func (b *cardBoard) follow(wanted bool, k, of key) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if wanted {
		b.followers[k] = of
	} else {
		delete(b.followers, k)
	}
	return wanted
}

func (b *cardBoard) forget(k key) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.followers, k)
	delete(b.sets, k)
}

// take replaces what is known of a MultiNIC.
func (b *cardBoard) take(k key, s *cardSet) {
	b.mu.Lock()
	old := b.sets[k]
	b.sets[k] = s
	var told []key
	if old == nil || old.active != s.active {
		for f, of := range b.followers {
			if of == k {
				told = append(told, f)
			}
		}
	}
	b.mu.Unlock()
	for _, f := range told {
		b.tell(f, "")
	}
}

func monitorMultiNIC(ctx context.Context, h *Host, c agent.Call) agent.Result {
	a := c.Attributes
	if errs := checkMultiNIC(a); len(errs) > 0 {
		return failed(errors.Join(errs...))
	}
	devices, _ := words(a["Devices"])
	base, _ := prefixes(a["BaseAddresses"])
	targets, _ := hosts(a["NetworkHosts"])
	k := key{c.Group, c.Resource}
	p := place{h: h, group: c.Group, resource: c.Resource}
	told := h.net.everything(c.Watch, k)
	if len(targets) > 0 {
		var err error
		if targets, err = strangers(targets); err == nil && len(targets) == 0 {
			err = fmt.Errorf("%s are all addresses of this node: give others", a["NetworkHosts"])
		}
		if err != nil {
			return failed(err)
		}
	}
	links := make([]netlink.Link, len(devices))
	for i, d := range devices {
		l, err := netlink.LinkByName(d)
		var missing netlink.LinkNotFoundError
		if err != nil && !errors.As(err, &missing) {
			return failed(fmt.Errorf("%s: %w", d, err))
		}
		if err == nil {
			links[i] = l
		}
	}
	peers := a["PeerPolling"] != "false"
	found, err := probeCards(ctx, links, targets, peers, duration(a["NetworkTimeout"]))
	if err != nil {
		return failed(err)
	}
	next := h.cards.next(k, devices, p.record().Card)
	next.weigh(links, found, a)
	was := next.active
	next.choose(a["Failback"] == "true")
	if err := next.settle(h, links, base, was); err != nil {
		return failed(err)
	}
	if next.active != "" && next.active != was {
		if err := p.save(record{Card: next.active}); err != nil {
			return failed(err)
		}
		h.log.Warn("another network card is used", "group", c.Group, "resource", c.Resource, "card", next.active, "before", was)
	}
	h.cards.take(k, next)
	r := next.result()
	r.Watched = told && len(targets) == 0 && (!peers || len(devices) < 2)
	r.WatchedPartly = told && !r.Watched
	return r
}

// result puts the state of all cards into words.
func (s *cardSet) result() agent.Result {
	var why []string
	for _, c := range s.cards {
		if c.health == broken {
			why = append(why, c.why)
		}
	}
	r := found(s.active != "", false, strings.Join(why, "; "))
	if s.active != "" {
		r.Confidence = 100
		if len(why) > 0 {
			r.Confidence = 50
			r.Message = fmt.Sprintf("%s is used; %s", s.active, r.Message)
		}
	}
	return r
}

// next is what is known so far, to be changed by what is found now.
func (b *cardBoard) next(k key, devices []string, remembered string) *cardSet {
	b.mu.Lock()
	defer b.mu.Unlock()
	old := b.sets[k]
	s := &cardSet{}
	if old != nil {
		s.active, s.routes = old.active, slices.Clone(old.routes)
	} else {
		s.active = remembered
	}
	for _, d := range devices {
		one := card{name: d}
		if old != nil {
			if i := slices.IndexFunc(old.cards, func(c *card) bool { return c.name == d }); i >= 0 {
				one = *old.cards[i]
			}
		}
		s.cards = append(s.cards, &one)
	}
	if !slices.Contains(devices, s.active) {
		s.active = ""
	}
	return s
}

// weigh takes in what was found.
func (s *cardSet) weigh(links []netlink.Link, found []evidence, a map[string]string) {
	for i, c := range s.cards {
		if links[i] == nil {
			c.received = 0
			continue
		}
		if st := links[i].Attrs().Statistics; st != nil {
			found[i].received = c.health != unclear && st.RxPackets > c.received
			c.received = st.RxPackets
		}
	}
	bad, _ := strconv.Atoi(a["OfflineTestRepeatCount"])
	good, _ := strconv.Atoi(a["OnlineTestRepeatCount"])
	for i, is := range judgeCards(found) {
		c := s.cards[i]
		switch {
		case is == unclear && c.health == unclear:
			c.health = healthy // until something says otherwise
		case is == unclear || is == c.health:
			c.streak = 0
		default:
			c.streak++
			first, lost := c.health == unclear, !found[i].link
			if first || lost || is == broken && c.streak >= bad || is == healthy && c.streak >= good {
				c.health, c.streak = is, 0
			}
		}
		if c.health == broken && is == broken {
			c.why = reasonOf(c.name, links[i], found[i], a["NetworkHosts"])
		}
	}
}

// reasonOf says on which level a card has failed: that of its link, or that of the network behind it.
func reasonOf(name string, link netlink.Link, e evidence, hosts string) string {
	switch {
	case link == nil:
		return "there is no network card " + name
	case !e.link:
		return "link of " + name + " is down"
	case e.asked:
		return fmt.Sprintf("no answer through %s from %s", name, hosts)
	}
	return "nothing is heard through " + name + " of the other cards"
}

// choose the active card.
func (s *cardSet) choose(failback bool) {
	best := ""
	for _, c := range s.cards {
		if c.health != healthy {
			continue
		}
		if best == "" {
			best = c.name
		}
		if c.name == s.active && !failback {
			return
		}
	}
	s.active = best
}

// settle sees to it that the node's own addresses are on the active card, and takes the routes along.
func (s *cardSet) settle(h *Host, links []netlink.Link, base []netip.Prefix, was string) error {
	var active netlink.Link
	for _, l := range links {
		if l != nil && l.Attrs().Name == s.active {
			active = l
		}
	}
	if active == nil {
		return nil
	}
	moved := false
	for _, p := range base {
		m, err := h.moveTo(active, links, p)
		if err != nil {
			return err
		}
		moved = moved || m
	}
	if len(base) == 0 {
		return nil
	}
	if moved && was != "" && was != s.active {
		for _, r := range s.routes {
			r.LinkIndex = active.Attrs().Index
			if err := netlink.RouteReplace(&r); err != nil && !errors.Is(err, unix.EEXIST) {
				return fmt.Errorf("route to %v through %s: %w", r.Dst, s.active, err)
			}
		}
	}
	routes, err := netlink.RouteList(active, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("routes through %s: %w", s.active, err)
	}
	s.routes = slices.DeleteFunc(routes, func(r netlink.Route) bool {
		return r.Protocol == unix.RTPROT_KERNEL || r.Protocol == unix.RTPROT_RA || r.Table != unix.RT_TABLE_MAIN
	})
	return nil
}

// moveTo puts an address of the node on a card, and takes it off the others.
func (h *Host) moveTo(card netlink.Link, all []netlink.Link, p netip.Prefix) (moved bool, err error) {
	own := address{prefix: p, device: card.Attrs().Name}
	_, there, err := own.lookup()
	if err != nil {
		return false, err
	}
	for _, l := range all {
		if l == nil || l.Attrs().Index == card.Attrs().Index {
			continue
		}
		from := address{prefix: p, device: l.Attrs().Name}
		_, left, err := from.lookup()
		if err != nil {
			return false, err
		}
		for _, n := range left {
			if err := remove(l, n); err != nil {
				return false, err
			}
			moved = true
		}
	}
	if len(there) > 0 && !moved {
		return false, nil
	}
	if len(there) == 0 {
		if err := netlink.AddrAdd(card, own.netlinkAddr()); err != nil && !errors.Is(err, unix.EEXIST) {
			return false, fmt.Errorf("%s can't be added to %s: %w", p, card.Attrs().Name, err)
		}
	}
	h.announcer.repeat(card, p.Addr(), nil)
	return true, announceOnce(card, p.Addr())
}
