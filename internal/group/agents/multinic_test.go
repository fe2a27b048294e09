package agents

import (
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/group/agent"
)

func TestJudgeCards(t *testing.T) {
	// Letters per card: l no link; a asked and answered, A asked in vain; h heard, b heard by another, p probed in vain;
	// r received something. Wanted: + healthy, - broken, ? unclear.
	for in, want := range map[string]string{
		".":             "+",  // its link is all that counts
		"l .":           "-+", //
		"a a":           "++",
		"a A":           "+-",
		"A A":           "--", // hosts that answer nobody are as good as no network
		"l A":           "--",
		"ph phb":        "++", // one direction that works is enough
		"pb ph":         "++",
		"p p":           "??", // which of them it is nobody knows
		"pr p":          "+-",
		"p pr":          "-+",
		"pr pr":         "++",
		"p phb phb":     "-++", // the others hear each other
		"pr phb phb":    "-++",
		"p p p":         "???",
		"p pr p":        "-+-",
		"l p":           "-?",
		"l pr":          "-+",
		"phb l phb":     "+-+",
		"lr p":          "-?", // what is left of a card without a link says nothing
		"phb phb phb p": "+++-",
	} {
		var all []evidence
		for _, f := range strings.Fields(in) {
			has := func(s string) bool { return strings.Contains(f, s) }
			all = append(all, evidence{
				link: !has("l"), asked: has("a") || has("A"), answered: has("a"), probed: has("p"), heard: has("h"), heardBy: has("b"), received: has("r"),
			})
		}
		got := ""
		for _, h := range judgeCards(all) {
			got += string("?+-"[h])
		}
		if got != want {
			t.Errorf("%s: %s, not %s", in, got, want)
		}
	}
}

// lan is a network namespace with a bridge, and the cards of this one that are plugged into it.
type lan struct {
	*peer
	bridge netlink.Link
	ports  map[string]netlink.Link
}

func newLan(t *testing.T, cards ...string) *lan {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	own := must(netns.Get())
	defer own.Close()
	p := &peer{t: t}
	// IPv6 says things by itself, now and then.
	const quiet = "/proc/sys/net/ipv6/conf/default/disable_ipv6"
	if err := os.WriteFile(quiet, []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	p.ns = func() netns.NsHandle { // made on a thread of its own, which is put back
		h := must(netns.New())
		for _, name := range []string{quiet, "/proc/sys/net/ipv4/conf/all/arp_ignore"} { // a port without the bridge answers for nobody
			if err := os.WriteFile(name, []byte("1"), 0); err != nil {
				t.Fatal(err)
			}
		}
		if err := netns.Set(own); err != nil {
			t.Fatal(err)
		}
		return h
	}()
	p.nl = must(netlink.NewHandleAt(p.ns))
	l := &lan{peer: p, ports: map[string]netlink.Link{}}
	if err := p.nl.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}); err != nil {
		t.Fatal(err)
	}
	l.bridge = must(p.nl.LinkByName("br0"))
	for _, c := range cards {
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: c}, PeerName: c, PeerNamespace: netlink.NsFd(p.ns)}); err != nil {
			t.Fatal(err)
		}
		l.ports[c] = must(p.nl.LinkByName(c))
		l.plug(c, true)
		l.power(c, true)
		if err := netlink.LinkSetUp(must(netlink.LinkByName(c))); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.nl.LinkSetUp(l.bridge); err != nil {
		t.Fatal(err)
	}
	if err := p.nl.AddrAdd(l.bridge, must(netlink.ParseAddr("192.0.2.2/24"))); err != nil {
		t.Fatal(err)
	}
	for _, c := range cards {
		until(t, c+" has a carrier", func() bool { return linkUp(must(netlink.LinkByName(c)).Attrs().RawFlags) })
	}
	return l
}

// plug connects a card to the others, or not; its link stays.
func (l *lan) plug(card string, in bool) {
	l.t.Helper()
	err := l.nl.LinkSetNoMaster(l.ports[card])
	if in {
		err = l.nl.LinkSetMaster(l.ports[card], l.bridge)
	}
	if err != nil {
		l.t.Fatal(err)
	}
}

// power gives a card a carrier, or not.
func (l *lan) power(card string, on bool) {
	l.t.Helper()
	err := l.nl.LinkSetDown(l.ports[card])
	if on {
		err = l.nl.LinkSetUp(l.ports[card])
	}
	if err != nil {
		l.t.Fatal(err)
	}
}

// where is an address; the names of the cards that have it.
func where(t *testing.T, a string) string {
	t.Helper()
	var on []string
	for _, l := range must(netlink.LinkList()) {
		for _, n := range must(netlink.AddrList(l, netlink.FAMILY_ALL)) {
			if n.IPNet.String() == a {
				on = append(on, l.Attrs().Name)
			}
		}
	}
	return strings.Join(on, " ")
}

// The node's own address moves between the cards, with its routes, and comes back only if it shall.
func TestMultiNIC(t *testing.T) {
	if !inNetwork(t) {
		return
	}
	l := newLan(t, "eth0", "eth1")
	r := newRig(t, "sessions")
	a := map[string]string{
		"Devices": "eth0 eth1", "BaseAddresses": "192.0.2.1/24", "NetworkHosts": "192.0.2.2 192.0.2.1", "OfflineTestRepeatCount": "2", "OnlineTestRepeatCount": "2",
		"NetworkTimeout": "150ms",
	}
	look := func(state v1.ResourceState, confidence int, on, message string) {
		t.Helper()
		res := r.monitor("MultiNIC", a)
		if res.State != state || res.Confidence != confidence || where(t, "192.0.2.1/24") != on || !strings.Contains(res.Message, message) || res.Watched {
			t.Fatalf("address on %q, %+v", where(t, "192.0.2.1/24"), res)
		}
	}
	look(isOnline, 100, "eth0", "")
	route := &netlink.Route{Dst: must(netlink.ParseIPNet("198.51.100.0/24")), Gw: must(netlink.ParseAddr("192.0.2.2/32")).IP, LinkIndex: must(netlink.LinkByName("eth0")).Attrs().Index}
	if err := netlink.RouteAdd(route); err != nil {
		t.Fatal(err)
	}
	look(isOnline, 100, "eth0", "")
	// The switch behind eth0 fails: its link stays. One look is not enough.
	l.plug("eth0", false)
	look(isOnline, 100, "eth0", "")
	look(isOnline, 50, "eth1", "eth1 is used; no answer through eth0 from 192.0.2.2")
	routes := must(netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Dst: route.Dst}, netlink.RT_FILTER_DST))
	if len(routes) != 1 || routes[0].LinkIndex != must(netlink.LinkByName("eth1")).Attrs().Index {
		t.Errorf("routes %v", routes)
	}
	// It comes back: nothing moves.
	l.plug("eth0", true)
	look(isOnline, 50, "eth1", "")
	look(isOnline, 100, "eth1", "")
	// A new engine remembers which card it was.
	r.reopen()
	look(isOnline, 100, "eth1", "")
	// The loss of the link counts at once, and is told.
	for len(r.h.Notices()) > 0 {
		r.notice()
	}
	l.power("eth1", false)
	for n := r.notice(); n.What != "link of eth1 went down"; n = r.notice() {
	}
	look(isOnline, 50, "eth0", "link of eth1 is down")
	// Nothing works any more; the address stays where it is.
	l.power("eth0", false)
	until(t, "all links are seen down", func() bool { return !linkUp(must(netlink.LinkByName("eth0")).Attrs().RawFlags) })
	look(isOffline, 0, "eth0", "link of eth0 is down; link of eth1 is down")
	for _, c := range []string{"eth0", "eth1"} {
		l.power(c, true)
		until(t, "the link is back", func() bool { return linkUp(must(netlink.LinkByName(c)).Attrs().RawFlags) })
	}
	look(isOffline, 0, "eth0", "") // not for one look only
	look(isOnline, 100, "eth0", "")
	// To the first card, if it shall be so.
	a["Devices"], a["Failback"] = "eth1 eth0", "true"
	look(isOnline, 100, "eth1", "")
	// A card that is taken out altogether.
	a["OfflineTestRepeatCount"] = "100"
	if err := netlink.LinkDel(must(netlink.LinkByName("eth1"))); err != nil {
		t.Fatal(err)
	}
	look(isOnline, 50, "eth0", "there is no network card eth1")
}

// T-15: two cards that only have each other never both fail because they don't hear each other.
func TestCardsListenForEachOther(t *testing.T) {
	if !inNetwork(t) {
		return
	}
	l := newLan(t, "eth0", "eth1")
	r := newRig(t, "sessions")
	a := map[string]string{"Devices": "eth0 eth1", "BaseAddresses": "192.0.2.1/24", "OfflineTestRepeatCount": "2", "OnlineTestRepeatCount": "1", "NetworkTimeout": "90ms"}
	look := func(confidence int, on string) {
		t.Helper()
		if res := r.monitor("MultiNIC", a); res.State != isOnline || res.Confidence != confidence || where(t, "192.0.2.1/24") != on {
			t.Fatalf("address on %q, %+v", where(t, "192.0.2.1/24"), res)
		}
	}
	look(100, "eth0")
	look(100, "eth0")
	l.plug("eth0", false)
	for range 5 {
		look(100, "eth0") // nobody knows which of them it is
	}
	// Somebody speaks: it is heard through eth1 only.
	speak := func() {
		l.within(func() {
			if err := announceOnce(must(netlink.LinkByName("br0")), netip.MustParseAddr("192.0.2.2")); err != nil {
				t.Error(err)
			}
		})
	}
	speak()
	look(100, "eth0")
	speak()
	look(50, "eth1")
	look(50, "eth1") // silence again proves nothing
	l.plug("eth0", true)
	until(t, "they hear each other", func() bool { return r.monitor("MultiNIC", a).Confidence == 100 })
	look(100, "eth1")
	// Without listening, only links count.
	a["PeerPolling"] = "false"
	l.plug("eth1", false)
	speak()
	look(100, "eth1")
}

// An address of a group follows the active card by a restart in place; what guard has to remove is known without a card.
func TestIPMultiNIC(t *testing.T) {
	if !inNetwork(t) {
		return
	}
	l := newLan(t, "eth0", "eth1")
	r := newRig(t, "sessions")
	cards := agent.Call{Type: "MultiNIC", Group: "net", Resource: "cards", Entry: agent.Monitor, Watch: true, Attributes: map[string]string{"Devices": "eth0 eth1", "PeerPolling": "false"}}
	ip := map[string]string{"Address": "192.0.2.9/24", "MultiNIC": "cards", "MultiNICGroup": "net"}
	online := agent.Call{Type: "IPMultiNIC", Entry: agent.Online, Attributes: ip}
	r.watchState("IPMultiNIC", ip, isOffline)
	r.wantErr(online, "have not been looked at")
	if res := r.call(cards); res.State != isOnline || !res.Watched {
		t.Fatalf("%+v", res)
	}
	r.do("IPMultiNIC", agent.Online, ip)
	if res := r.watchState("IPMultiNIC", ip, isOnline); !res.Watched || where(t, "192.0.2.9/24") != "eth0" {
		t.Fatalf("%+v on %s", res, where(t, "192.0.2.9/24"))
	}
	l.power("eth0", false)
	until(t, "another card is active", func() bool {
		r.notice()
		r.call(cards)
		active, _ := r.h.cards.activeOf(key{"net", "cards"})
		return active == "eth1"
	})
	until(t, "the address is told", func() bool { return r.notice().Resource == "app" })
	if res := r.watchState("IPMultiNIC", ip, isFaulted); res.Message != "192.0.2.9 is on eth0, but eth1 of cards is active" {
		t.Errorf("%+v", res)
	}
	r.do("IPMultiNIC", agent.Clean, ip)
	r.watchState("IPMultiNIC", ip, isOffline)
	r.do("IPMultiNIC", agent.Online, ip)
	r.watchState("IPMultiNIC", ip, isOnline)
	// By hand on both: the next online leaves one.
	if err := netlink.AddrAdd(must(netlink.LinkByName("eth0")), must(netlink.ParseAddr("192.0.2.9/24"))); err != nil {
		t.Fatal(err)
	}
	r.watchState("IPMultiNIC", ip, isFaulted)
	r.do("IPMultiNIC", agent.Online, ip)
	r.watchState("IPMultiNIC", ip, isOnline)
	if on := where(t, "192.0.2.9/24"); on != "eth1" {
		t.Errorf("it is on %s", on)
	}
	// No card works: that is for the MultiNIC to say.
	l.power("eth1", false)
	until(t, "no card is active", func() bool {
		r.call(cards)
		active, known := r.h.cards.activeOf(key{"net", "cards"})
		return active == "" && known
	})
	r.watchState("IPMultiNIC", ip, isOnline)
	r.wantErr(online, "no card of cards works")
	r.do("IPMultiNIC", agent.Offline, ip)
	r.watchState("IPMultiNIC", ip, isOffline)
	p, err := r.h.Protect(&v1.Group{Name: "web", Resources: []*v1.Resource{{Name: "ip", Type: "IPMultiNIC", Attributes: ip}}})
	if err != nil || len(p.Addresses) != 1 || p.Addresses[0] != "192.0.2.9/24 " {
		t.Errorf("%v, %v", p, err)
	}
}

// The whole way, by runtime and host: the link of the active card is lost, the address is restarted in place on the other
// one, and what requires it notices nothing.
func TestAddressFollowsTheCards(t *testing.T) {
	if !inNetwork(t) {
		return
	}
	l := newLan(t, "eth0", "eth1")
	r := newRig(t, "sessions")
	e := newEngine(t, r.h, &v1.Group{Name: "web", Resources: []*v1.Resource{
		{Name: "cards", Type: "MultiNIC", Attributes: map[string]string{"Devices": "eth0 eth1", "PeerPolling": "false"}},
		{Name: "ip", Type: "IPMultiNIC", Attributes: map[string]string{"Address": "192.0.2.9/24", "MultiNIC": "cards"}, Requires: []string{"cards"}},
		{Name: "file", Type: "FileOnOff", Attributes: map[string]string{"PathName": t.TempDir() + "/f"}, Requires: []string{"ip"}},
	}})
	e.order(1, v1.Want_WANT_ONLINE)
	e.until("online", e.all(isOnline))
	if on := where(t, "192.0.2.9/24"); on != "eth0" {
		t.Fatalf("it is on %s", on)
	}
	changed := e.status["file"].GetChangedMs()
	l.power("eth0", false)
	e.until("the address has moved", func() bool {
		return where(t, "192.0.2.9/24") == "eth1" && e.status["ip"].GetRestarts() == 1 && e.all(isOnline)()
	})
	if e.status["file"].GetChangedMs() != changed || e.status["cards"].GetConfidence() != 50 {
		t.Errorf("%v", e.status)
	}
	l.power("eth1", false)
	e.until("the cards have failed", func() bool { return e.status["cards"].GetState() == isFaulted })
	if st := e.status["ip"]; st.GetState() != isOnline {
		t.Errorf("the address: %v", st)
	}
	e.order(2, v1.Want_WANT_OFFLINE)
	e.until("offline", func() bool {
		return e.status["ip"].GetState() == isOffline && e.status["file"].GetState() == isOffline && where(t, "192.0.2.9/24") == ""
	})
}
