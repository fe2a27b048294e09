package agents

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// A machine that was paused, or only lost its links, still has the address when
// it is back, until its guard has taken it away a few milliseconds later. One
// packet of it in that time, an old connection's retransmission say, and the
// neighbours send to it for many seconds. So whoever has the address by right
// listens for others that claim it, and then tells the neighbours again
// (RFC 5227, 2.4): at once, and again as after coming online.

// defendBurst claims are answered at once, then one every defendPause: another
// machine that insists must not make the network busy.
const (
	defendBurst = 10
	defendPause = 10 * time.Second
	// Two claims in one breath get one answer.
	defendGap = 20 * time.Millisecond
)

// defence is a packet socket that hears only claims of others to one address.
type defence struct {
	file *os.File
	mac  net.HardwareAddr
	addr netip.Addr
}

// openDefence returns nil where there are no neighbours.
func openDefence(link netlink.Link, a netip.Addr) (*defence, error) {
	at := link.Attrs()
	if at.RawFlags&(unix.IFF_LOOPBACK|unix.IFF_NOARP) != 0 || len(at.HardwareAddr) != 6 {
		return nil, nil
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	ether, program := uint16(etherIPv6), neighbourClaims(at.HardwareAddr)
	if a.Is4() {
		ether, program = etherARP, arpClaims(at.HardwareAddr, a)
	}
	raw, err := bpf.Assemble(program)
	if err == nil {
		filter := make([]unix.SockFilter, len(raw))
		for i, r := range raw {
			filter[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
		}
		err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
	}
	if err == nil { // only now does it hear anything
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: swap16(ether), Ifindex: at.Index})
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return &defence{file: os.NewFile(uintptr(fd), "claims to "+a.String()), mac: at.HardwareAddr, addr: a}, nil
}

// arpClaims passes ARP packets whose sender address is a, from another card.
func arpClaims(mac net.HardwareAddr, a netip.Addr) []bpf.Instruction {
	b := a.As4()
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: 14 + 14, Size: 4}, // sender address
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: binary.BigEndian.Uint32(b[:]), SkipTrue: 5},
		bpf.LoadAbsolute{Off: 14 + 8, Size: 4}, // sender card
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: binary.BigEndian.Uint32(mac[:4]), SkipTrue: 2},
		bpf.LoadAbsolute{Off: 14 + 12, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(binary.BigEndian.Uint16(mac[4:])), SkipTrue: 1},
		bpf.RetConstant{Val: 256},
		bpf.RetConstant{Val: 0},
	}
}

// neighbourClaims passes neighbour solicitations and advertisements from
// another card; claims looks at their addresses.
func neighbourClaims(mac net.HardwareAddr) []bpf.Instruction {
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: 14 + 6, Size: 1}, // next header
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_ICMPV6, SkipTrue: 8},
		bpf.LoadAbsolute{Off: 14 + 40, Size: 1}, // type
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 135, SkipTrue: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 136, SkipTrue: 5},
		bpf.LoadAbsolute{Off: 6, Size: 4}, // Ethernet source
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: binary.BigEndian.Uint32(mac[:4]), SkipTrue: 2},
		bpf.LoadAbsolute{Off: 10, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(binary.BigEndian.Uint16(mac[4:])), SkipTrue: 1},
		bpf.RetConstant{Val: 256},
		bpf.RetConstant{Val: 0},
	}
}

// claims says whether a frame that passed the filter claims the address.
func (d *defence) claims(frame []byte) bool {
	if d.addr.Is4() {
		return true
	}
	if len(frame) < 14+40+24 {
		return false
	}
	source, target := netip.AddrFrom16([16]byte(frame[14+8:14+24])), netip.AddrFrom16([16]byte(frame[14+48:14+64]))
	return source == d.addr || frame[14+40] == 136 && target == d.addr
}

// next waits for a claim and returns the card it came from; an error when the socket was closed.
func (d *defence) next() (net.HardwareAddr, error) {
	buf := make([]byte, 256)
	for {
		n, err := d.file.Read(buf)
		if err != nil {
			return nil, err
		}
		if n >= 14 && d.claims(buf[:n]) {
			return net.HardwareAddr(append([]byte(nil), buf[6:12]...)), nil
		}
	}
}

// defend announces an address whenever another machine claims it, until stop.
func (n *announcer) defend(link netlink.Link, a netip.Addr, stop chan struct{}) {
	d, err := openDefence(link, a)
	if err != nil {
		n.log.Warn("others that claim an address are not noticed", "address", a, "device", link.Attrs().Name, "error", err)
		return
	}
	if d == nil {
		return
	}
	claimed := make(chan net.HardwareAddr, 1)
	n.background(func() {
		for {
			who, err := d.next()
			if err != nil {
				return
			}
			select {
			case claimed <- who:
			default: // one is waiting already
			}
		}
	})
	defer d.file.Close()
	left, refill := defendBurst, time.Now()
	for {
		select {
		case who := <-claimed:
			if since := time.Since(refill); since > defendPause {
				left = min(defendBurst, left+int(since/defendPause))
				refill = time.Now()
			}
			if left == 0 {
				continue
			}
			left--
			if !hasAddress(link, a) {
				continue // taken away a moment ago, perhaps because the other one has the right to it
			}
			n.log.Warn("another machine claims an address that is online here; the neighbours are told again",
				"address", a, "device", link.Attrs().Name, "machine", who.String())
			n.tell(link, a)
			// What it sends in the next moment is already on its way.
			select {
			case <-time.After(defendGap):
				if hasAddress(link, a) {
					n.tell(link, a)
				}
			case <-stop:
				return
			case <-n.stop:
				return
			}
		case <-stop:
			return
		case <-n.stop:
			return
		}
	}
}

func hasAddress(link netlink.Link, a netip.Addr) bool {
	all, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	return err == nil && slices.ContainsFunc(all, func(n netlink.Addr) bool {
		ip, ok := netip.AddrFromSlice(n.IP)
		return ok && ip.Unmap() == a
	})
}

func (n *announcer) tell(link netlink.Link, a netip.Addr) {
	if err := announceOnce(link, a); err != nil {
		n.log.Warn("neighbours can't be told where an address is", "address", a, "device", link.Attrs().Name, "error", err)
	}
}
