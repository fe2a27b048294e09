package agents

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// probeTime is how long an owner of an address is given to answer: on a network that is worth moving addresses on an
// answer takes less than a millisecond.
const probeTime = 30 * time.Millisecond

// announceAt is when neighbours are told again: packets get lost, and switches may still be learning.
var announceAt = []time.Duration{100 * time.Millisecond, 500 * time.Millisecond, 2 * time.Second, 10 * time.Second}

const (
	etherARP  = 0x0806
	etherIPv6 = 0x86dd
)

var broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// wire sends and receives frames on one network card. The card of a loopback device, or of any other kind without
// hardware addresses, has no neighbours; then all of it does nothing.
type wire struct {
	fd    int
	index int
	mac   net.HardwareAddr
}

func openWire(link netlink.Link) (*wire, error) {
	at := link.Attrs()
	if at.RawFlags&(unix.IFF_LOOPBACK|unix.IFF_NOARP) != 0 || len(at.HardwareAddr) != 6 {
		return &wire{fd: -1}, nil
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("a packet socket on %s: %w", at.Name, err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: swap16(etherARP), Ifindex: at.Index}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("a packet socket on %s: %w", at.Name, err)
	}
	return &wire{fd: fd, index: at.Index, mac: at.HardwareAddr}, nil
}

func (w *wire) close() {
	if w.fd >= 0 {
		unix.Close(w.fd)
	}
}

func swap16(v uint16) uint16 { return v<<8 | v>>8 }

func (w *wire) send(to net.HardwareAddr, ether uint16, payload []byte) error {
	frame := make([]byte, 0, 14+len(payload))
	frame = append(frame, to...)
	frame = append(frame, w.mac...)
	frame = binary.BigEndian.AppendUint16(frame, ether)
	frame = append(frame, payload...)
	return unix.Sendto(w.fd, frame, 0, &unix.SockaddrLinklayer{Protocol: swap16(ether), Ifindex: w.index, Halen: 6})
}

// probe asks who has an IPv4 address, as RFC 5227 says, and returns the hardware address of whoever answers for it; nil
// if nobody does within probeTime. IPv6 is not asked for.
func (w *wire) probe(ctx context.Context, a netip.Addr) (net.HardwareAddr, error) {
	if w.fd < 0 || !a.Is4() {
		return nil, nil
	}
	if err := w.send(broadcast, etherARP, arp(1, w.mac, netip.IPv4Unspecified(), nil, a)); err != nil {
		return nil, err
	}
	end := time.Now().Add(probeTime)
	buf := make([]byte, 256)
	for {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		// On a busy machine the time may be over before this runs again: an answer that is there by then counts.
		left := max(0, time.Until(end))
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(w.fd), Events: unix.POLLIN}}, int((left+time.Millisecond-1)/time.Millisecond))
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return nil, err
		case n == 0 && time.Now().Before(end):
			continue
		case n == 0:
			return nil, nil
		}
		n, _, err = unix.Recvfrom(w.fd, buf, unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if who := w.claims(buf[:n], a); who != nil {
			return who, nil
		}
	}
}

// claims: the frame says that somebody else has the address, or is about to take it.
func (w *wire) claims(frame []byte, a netip.Addr) net.HardwareAddr {
	if len(frame) < 14+28 || binary.BigEndian.Uint16(frame[12:]) != etherARP {
		return nil
	}
	p := frame[14:]
	if binary.BigEndian.Uint16(p) != 1 || binary.BigEndian.Uint16(p[2:]) != 0x0800 || p[4] != 6 || p[5] != 4 {
		return nil
	}
	from := net.HardwareAddr(append([]byte(nil), p[8:14]...))
	sender, target := netip.AddrFrom4([4]byte(p[14:18])), netip.AddrFrom4([4]byte(p[24:28]))
	probes := sender.IsUnspecified() && target == a
	if from.String() == w.mac.String() || sender != a && !probes {
		return nil
	}
	return from
}

// arp is an ARP packet: op 1 asks, op 2 answers.
func arp(op uint16, mac net.HardwareAddr, sender netip.Addr, targetMAC net.HardwareAddr, target netip.Addr) []byte {
	b := make([]byte, 0, 28)
	b = binary.BigEndian.AppendUint16(b, 1)
	b = binary.BigEndian.AppendUint16(b, 0x0800)
	b = append(b, 6, 4)
	b = binary.BigEndian.AppendUint16(b, op)
	b = append(b, mac...)
	b = append(b, sender.AsSlice()...)
	if targetMAC == nil {
		targetMAC = make(net.HardwareAddr, 6)
	}
	b = append(b, targetMAC...)
	return append(b, target.AsSlice()...)
}

// announce tells all neighbours where the address is now: in both forms of ARP, as some listen to only one of them, or by
// an unsolicited neighbour advertisement.
func (w *wire) announce(a netip.Addr) error {
	if w.fd < 0 {
		return nil
	}
	if a.Is4() {
		return errors.Join(
			w.send(broadcast, etherARP, arp(1, w.mac, a, nil, a)),
			w.send(broadcast, etherARP, arp(2, w.mac, a, broadcast, a)),
		)
	}
	return w.send(net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, etherIPv6, advertisement(w.mac, a))
}

// advertisement is an IPv6 packet to all nodes: an unsolicited neighbour advertisement with the override flag.
func advertisement(mac net.HardwareAddr, a netip.Addr) []byte {
	allNodes := netip.MustParseAddr("ff02::1")
	icmp := []byte{136, 0, 0, 0, 0x20, 0, 0, 0}
	icmp = append(icmp, a.AsSlice()...)
	icmp = append(icmp, 2, 1) // option: target link-layer address
	icmp = append(icmp, mac...)
	pseudo := append(a.AsSlice(), allNodes.AsSlice()...)
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(icmp)))
	pseudo = append(pseudo, 0, 0, 0, 58)
	binary.BigEndian.PutUint16(icmp[2:], checksum(append(pseudo, icmp...)))
	b := []byte{0x60, 0, 0, 0}
	b = binary.BigEndian.AppendUint16(b, uint16(len(icmp)))
	b = append(b, 58, 255)
	b = append(b, a.AsSlice()...)
	b = append(b, allNodes.AsSlice()...)
	return append(b, icmp...)
}

// checksum of the Internet, over an even number of bytes.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// announcer repeats announcements, and defends addresses, until they are removed.
type announcer struct {
	log  *slog.Logger
	stop chan struct{}
	busy sync.WaitGroup

	mu   sync.Mutex
	each map[key]chan struct{}
}

func newAnnouncer(log *slog.Logger) *announcer {
	return &announcer{log: log, stop: make(chan struct{}), each: map[key]chan struct{}{}}
}

// begin announces an address for a while, and defends it until its end.
func (n *announcer) begin(k key, link netlink.Link, a netip.Addr) {
	n.end(k)
	n.repeat(link, a, n.keep(k, link, a))
}

// repeat announces an address a few times more, unless stop is closed.
func (n *announcer) repeat(link netlink.Link, a netip.Addr, stop <-chan struct{}) {
	n.background(func() {
		began := time.Now()
		for _, at := range announceAt {
			t := time.NewTimer(time.Until(began.Add(at)))
			select {
			case <-t.C:
			case <-stop:
				t.Stop()
				return
			case <-n.stop:
				t.Stop()
				return
			}
			n.tell(link, a)
		}
	})
}

// background runs f, unless the announcer is closed.
func (n *announcer) background(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	select {
	case <-n.stop:
	default:
		n.busy.Go(f)
	}
}

// keep defends an address that is online, if it is not defended yet.
func (n *announcer) keep(k key, link netlink.Link, a netip.Addr) chan struct{} {
	n.mu.Lock()
	stop := n.each[k]
	defended := stop != nil
	if !defended {
		stop = make(chan struct{})
		n.each[k] = stop
	}
	n.mu.Unlock()
	if !defended {
		n.background(func() { n.defend(link, a, stop) })
	}
	return stop
}

func announceOnce(link netlink.Link, a netip.Addr) error {
	w, err := openWire(link)
	if err != nil {
		return err
	}
	defer w.close()
	return w.announce(a)
}

func (n *announcer) end(k key) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if stop := n.each[k]; stop != nil {
		close(stop)
		delete(n.each, k)
	}
}

func (n *announcer) close() {
	n.mu.Lock()
	close(n.stop)
	n.mu.Unlock()
	n.busy.Wait()
}
