// Package link reads the addresses of links: one UDP endpoint per node and
// link, whose port over TCP serves control traffic and the API.
package link

import (
	"fmt"
	"net/netip"
)

// DefaultPort of a link whose address names none.
const DefaultPort = 7946

// Parse the address of a link: an IP address with or without a port. The error
// says what is wrong with it.
func Parse(s string) (netip.AddrPort, error) {
	if s == "" {
		return netip.AddrPort{}, fmt.Errorf("is missing")
	}
	ep, err := netip.ParseAddrPort(s)
	if err != nil {
		addr, err := netip.ParseAddr(s)
		if err != nil {
			return netip.AddrPort{}, fmt.Errorf("%q is not an address (names are not looked up)", s)
		}
		ep = netip.AddrPortFrom(addr, DefaultPort)
	}
	switch {
	case ep.Port() == 0:
		return netip.AddrPort{}, fmt.Errorf("%q has port 0", s)
	case ep.Addr().IsUnspecified(), ep.Addr().IsMulticast():
		return netip.AddrPort{}, fmt.Errorf("%q is not the address of one machine", s)
	}
	return netip.AddrPortFrom(ep.Addr().Unmap(), ep.Port()), nil
}

// Endpoint is the address with its port, or s itself if it is no address.
func Endpoint(s string) string {
	ep, err := Parse(s)
	if err != nil {
		return s
	}
	return ep.String()
}
