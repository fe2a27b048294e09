//go:build linux

package guardd

import (
	"errors"
	"net"
	"net/netip"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/holdfast-ha/holdfast/internal/cluster/link"
)

// rawAddr is an address as the kernel wants it, made once and not per packet.
type rawAddr struct {
	four unix.RawSockaddrInet4
	six  unix.RawSockaddrInet6
	size uintptr // 0: none
	is6  bool
}

func (a *rawAddr) pointer() unsafe.Pointer {
	if a.is6 {
		return unsafe.Pointer(&a.six)
	}
	return unsafe.Pointer(&a.four)
}

func makeRawAddr(ap netip.AddrPort) (a rawAddr, err error) {
	if ap.Addr().Is4() {
		a.four = unix.RawSockaddrInet4{Family: unix.AF_INET, Port: networkOrder(ap.Port()), Addr: ap.Addr().As4()}
		a.size = unix.SizeofSockaddrInet4
		return a, nil
	}
	zone, err := zoneIndex(ap.Addr().Zone())
	if err != nil {
		return a, err
	}
	a.six = unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: networkOrder(ap.Port()), Addr: ap.Addr().As16(), Scope_id: zone}
	a.size, a.is6 = unix.SizeofSockaddrInet6, true
	return a, nil
}

func networkOrder(port uint16) uint16 {
	b := [2]byte{byte(port >> 8), byte(port)}
	return *(*uint16)(unsafe.Pointer(&b))
}

func zoneIndex(zone string) (uint32, error) {
	if zone == "" {
		return 0, nil
	}
	if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
		return uint32(n), nil
	}
	i, err := net.InterfaceByName(zone)
	if err != nil {
		return 0, err
	}
	return uint32(i.Index), nil
}

// linkSocket is this node's end of a link.
type linkSocket struct {
	address string
	fd      int // -1: not bound
	problem string
}

// openLink binds a link's own address.
func openLink(address string) (int, error) {
	// No address that stands for all addresses passes (D4).
	ap, err := link.Parse(address)
	if err != nil {
		return -1, err
	}
	family := unix.AF_INET
	if ap.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	var sa unix.Sockaddr
	if family == unix.AF_INET {
		sa = &unix.SockaddrInet4{Port: int(ap.Port()), Addr: ap.Addr().As4()}
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_RECVERR, 1)
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TOS, 0xc0) // network control
	} else {
		zone, zerr := zoneIndex(ap.Addr().Zone())
		if zerr != nil {
			unix.Close(fd)
			return -1, zerr
		}
		sa = &unix.SockaddrInet6{Port: int(ap.Port()), Addr: ap.Addr().As16(), ZoneId: zone}
		err = errors.Join(unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1),
			unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1))
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_TCLASS, 0xc0)
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PRIORITY, 6)
	if err == nil {
		err = unix.Bind(fd, sa)
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// send b without blocking and without an allocation.
func (s *linkSocket) send(b []byte, to *rawAddr) unix.Errno {
	_, _, e := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(s.fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)),
		unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, uintptr(to.pointer()), to.size)
	return e
}

// receive one packet into b. Who sent it follows from the packet, not from the address.
func (s *linkSocket) receive(b []byte) (int, unix.Errno) {
	n, _, e := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(s.fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)),
		unix.MSG_DONTWAIT|unix.MSG_TRUNC, 0, 0)
	return int(n), e
}

// refusals reads what the network said about packets that were sent: it calls
// refused for each that found no listener.
func (s *linkSocket) refusals(refused func(to netip.AddrPort)) {
	var b [1]byte
	var oob [512]byte
	for range 64 {
		_, n, _, from, err := unix.Recvmsg(s.fd, b[:], oob[:], unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
		if err != nil {
			return
		}
		messages, err := unix.ParseSocketControlMessage(oob[:n])
		if err != nil {
			continue
		}
		for _, m := range messages {
			// struct sock_extended_err begins with the errno.
			if len(m.Data) >= 4 && *(*uint32)(unsafe.Pointer(&m.Data[0])) == uint32(unix.ECONNREFUSED) {
				switch to := from.(type) {
				case *unix.SockaddrInet4:
					refused(netip.AddrPortFrom(netip.AddrFrom4(to.Addr), uint16(to.Port)))
				case *unix.SockaddrInet6:
					refused(netip.AddrPortFrom(netip.AddrFrom16(to.Addr), uint16(to.Port)))
				}
			}
		}
	}
}
