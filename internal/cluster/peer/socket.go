package peer

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A dead peer must not hold a connection for long: unanswered data ends it
// after userTimeout, silence after three probes.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 2 * time.Second, Interval: time.Second, Count: 3}

func control(listening bool) func(network, address string, c syscall.RawConn) error {
	return func(network, _ string, c syscall.RawConn) error {
		var err error
		cerr := c.Control(func(fd uintptr) {
			if listening {
				// A link that has no address yet gets one later.
				level, option := unix.SOL_IP, unix.IP_FREEBIND
				if network == "tcp6" {
					level, option = unix.SOL_IPV6, unix.IPV6_FREEBIND
				}
				err = unix.SetsockoptInt(int(fd), level, option, 1)
			}
			if err == nil {
				err = unix.SetsockoptInt(int(fd), unix.SOL_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout.Milliseconds()))
			}
		})
		if cerr != nil {
			return cerr
		}
		return err
	}
}

func listen(ctx context.Context, address string) (net.Listener, error) {
	lc := net.ListenConfig{Control: control(true), KeepAliveConfig: keepAlive}
	lc.SetMultipathTCP(false)
	return lc.Listen(ctx, network(address), address)
}

// network pins the family: an address is of one, and "tcp" would listen on both for "::".
func network(address string) string {
	if ap, err := netip.ParseAddrPort(address); err == nil && ap.Addr().Is6() && !ap.Addr().Is4In6() {
		return "tcp6"
	}
	return "tcp4"
}

// dial address from this node's own address on the same link, so that the
// connection takes that link.
func dial(ctx context.Context, own, address string) (net.Conn, error) {
	d := net.Dialer{Control: control(false), KeepAliveConfig: keepAlive}
	d.SetMultipathTCP(false)
	if ap, err := netip.ParseAddrPort(own); err == nil && !ap.Addr().IsUnspecified() && network(own) == network(address) {
		d.LocalAddr = &net.TCPAddr{IP: ap.Addr().AsSlice(), Zone: ap.Addr().Zone()}
	}
	return d.DialContext(ctx, network(address), address)
}

// stalled says that data on a connection is being sent again and again.
func stalled(c net.Conn) bool {
	if tc, ok := c.(*tls.Conn); ok {
		c = tc.NetConn()
	}
	sc, ok := c.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return true
	}
	again := false
	err = raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.SOL_TCP, unix.TCP_INFO)
		again = err != nil || info.Unacked > 0 && info.Retransmits > 0
	})
	return again || err != nil
}
