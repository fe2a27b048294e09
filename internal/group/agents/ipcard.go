package agents

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// cardFor returns the network card that an address without one belongs on:
// that which has it, else that in whose network it is. Of several the one with
// the smallest network that has a link; "" if there is none.
func cardFor(address netip.Addr) (string, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return "", fmt.Errorf("network cards: %w", err)
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return "", fmt.Errorf("addresses: %w", err)
	}
	best, rank := "", -1
	for _, l := range links {
		for _, a := range addrs {
			ip, ok := netip.AddrFromSlice(a.IP)
			if a.LinkIndex != l.Attrs().Index || !ok {
				continue
			}
			if ip.Unmap() == address {
				return l.Attrs().Name, nil
			}
			ones, _ := a.Mask.Size()
			network, err := ip.Unmap().Prefix(ones)
			if err != nil || !network.Contains(address) {
				continue
			}
			r := ones
			if linkUp(l.Attrs().RawFlags) {
				r += 1000
			}
			if r > rank {
				best, rank = l.Attrs().Name, r
			}
		}
	}
	return best, nil
}
