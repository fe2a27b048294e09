package agents

import (
	"bytes"
	"encoding/binary"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// send puts a frame on the wire as if it came from another card.
func (p *peer) send(from net.HardwareAddr, ether uint16, payload []byte) {
	p.t.Helper()
	frame := append(append(append([]byte{}, broadcast...), from...), byte(ether>>8), byte(ether))
	to := &unix.SockaddrLinklayer{Protocol: swap16(ether), Ifindex: p.far.Attrs().Index, Halen: 6}
	if err := unix.Sendto(p.fd, append(frame, payload...), 0, to); err != nil {
		p.t.Fatal(err)
	}
}

// Whoever claims an address that is online here is contradicted, by ARP and by
// neighbour advertisements; all others, and this machine itself, are not.
func TestDefend(t *testing.T) {
	if !inNetwork(t) {
		return
	}
	p := newPeer(t)
	link := must(netlink.LinkByName("eth0"))
	mac, stranger := link.Attrs().HardwareAddr, net.HardwareAddr{2, 0, 0, 0, 0, 9}
	n := newAnnouncer(slog.New(slog.DiscardHandler))
	defer n.close()
	four, six := netip.MustParseAddr("192.0.2.9"), netip.MustParseAddr("2001:db8::9")
	for _, a := range []string{"192.0.2.9/24", "2001:db8::9/64"} {
		addr := must(netlink.ParseAddr(a))
		addr.Flags = unix.IFA_F_NODAD
		if err := netlink.AddrAdd(link, addr); err != nil {
			t.Fatal(err)
		}
	}
	n.keep(key{"g", "four"}, link, four)
	n.keep(key{"g", "six"}, link, six)
	own := func(b []byte) bool { return bytes.Equal(b[6:12], mac) }
	told4 := func(b []byte) bool {
		return own(b) && isARP(2)(b) && netip.AddrFrom4([4]byte(b[28:32])) == four && bytes.Equal(b[:6], broadcast)
	}
	told6 := func(b []byte) bool {
		return own(b) && len(b) >= 78 && binary.BigEndian.Uint16(b[12:]) == etherIPv6 && b[54] == 136 && b[0] == 0x33 &&
			netip.AddrFrom16([16]byte(b[62:78])) == six
	}
	// What is no claim, then one: only one answer comes, so everything before it was let pass. Claims are sent until
	// the defence listens.
	p.send(stranger, etherARP, arp(1, stranger, netip.MustParseAddr("192.0.2.7"), nil, four))
	p.send(mac, etherARP, arp(2, mac, four, broadcast, four))
	p.send(stranger, etherIPv6, advertisement(stranger, netip.MustParseAddr("2001:db8::7")))
	for _, c := range []struct {
		claim func()
		told  func([]byte) bool
	}{
		{func() { p.send(stranger, etherARP, arp(1, stranger, four, nil, netip.MustParseAddr("192.0.2.250"))) }, told4},
		{func() { p.send(stranger, etherARP, arp(2, stranger, four, broadcast, four)) }, told4},
		{func() { p.send(stranger, etherIPv6, advertisement(stranger, six)) }, told6},
	} {
		answered := make(chan struct{})
		go func() {
			p.frame(c.told)
			p.frame(c.told) // and once more a moment later
			close(answered)
		}()
		for waiting := true; waiting; {
			c.claim()
			select {
			case <-answered:
				waiting = false
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
	// An address that is not here any more is not defended, nor one whose resource is offline.
	if err := netlink.AddrDel(link, must(netlink.ParseAddr("192.0.2.9/24"))); err != nil {
		t.Fatal(err)
	}
	n.end(key{"g", "six"})
	for range 3 {
		p.send(stranger, etherARP, arp(1, stranger, four, nil, four))
		p.send(stranger, etherIPv6, advertisement(stranger, six))
	}
	quiet := time.Now().Add(100 * time.Millisecond)
	for time.Now().Before(quiet) {
		buf := make([]byte, 2048)
		if k, _, err := unix.Recvfrom(p.fd, buf, unix.MSG_DONTWAIT); err == nil && (told4(buf[:k]) || told6(buf[:k])) {
			if time.Until(quiet) < 60*time.Millisecond { // answers to earlier claims may still have been on their way
				t.Errorf("% x", buf[:k])
			}
		}
	}
}
