package agents

import (
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/holdfast-ha/holdfast/internal/group/agent"
)

// An address without a card goes where its network is, and comes off wherever it is.
func TestIPFindsItsCard(t *testing.T) {
	if !inNetwork(t) {
		return
	}
	newPeer(t)
	r := newRig(t, "sessions")
	a := map[string]string{"Address": "192.0.2.9/24"}
	r.watchState("IP", a, isOffline)
	r.do("IP", agent.Offline, a)
	const none = "no network card has an address in the network of 192.0.2.9"
	if res := r.call(agent.Call{Type: "IP", Entry: agent.Online, Attributes: a, Takeover: true}); !strings.Contains(res.Err, none) {
		t.Fatalf("%+v", res)
	}
	eth0, lo := must(netlink.LinkByName("eth0")), must(netlink.LinkByName("lo"))
	add := func(link netlink.Link, address string) {
		t.Helper()
		if err := netlink.AddrAdd(link, must(netlink.ParseAddr(address))); err != nil {
			t.Fatal(err)
		}
	}
	// The smallest network decides, and a link that is up counts more.
	add(lo, "192.0.2.100/25")
	add(eth0, "192.0.2.1/24")
	r.do("IP", agent.Online, a)
	r.watchState("IP", a, isOnline)
	if n := len(must(netlink.AddrList(eth0, netlink.FAMILY_V4))); n != 2 {
		t.Errorf("eth0 has %d addresses", n)
	}
	// It stays known where it is when nothing else points there any more.
	if err := netlink.AddrDel(eth0, must(netlink.ParseAddr("192.0.2.1/24"))); err != nil {
		t.Fatal(err)
	}
	r.do("IP", agent.Offline, a)
	r.watchState("IP", a, isOffline)
	if n := len(must(netlink.AddrList(eth0, netlink.FAMILY_V4))); n != 0 {
		t.Errorf("eth0 has %d addresses", n)
	}
}
