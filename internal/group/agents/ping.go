package agents

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// maxHosts bounds how many hosts one resource asks.
const maxHosts = 32

// hosts reads a list of addresses.
func hosts(s string) ([]netip.Addr, error) {
	all, err := words(s)
	if err != nil {
		return nil, err
	}
	var out []netip.Addr
	for _, f := range all {
		a, err := netip.ParseAddr(f)
		switch {
		case err != nil:
			return nil, fmt.Errorf("%q is not an address: names would need another service to be resolved", f)
		case a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() || a.Is4In6() || a.Zone() != "":
			return nil, fmt.Errorf("%s can't tell whether a network works", a)
		}
		out = append(out, a)
	}
	if len(out) > maxHosts {
		return nil, fmt.Errorf("%d addresses are too many: give at most %d", len(out), maxHosts)
	}
	return out, nil
}

// silent says that none of the hosts answers through a network card; empty: one does, or there are none.
func silent(ctx context.Context, card string, hosts []netip.Addr, patience time.Duration) (string, error) {
	if len(hosts) == 0 {
		return "", nil
	}
	others, err := strangers(hosts)
	if err != nil {
		return "", err
	}
	if len(others) == 0 {
		return "", fmt.Errorf("%s are all addresses of this node, which would answer itself: give others", addressList(hosts))
	}
	who, err := ping(ctx, card, others, patience)
	if err != nil || who.IsValid() {
		return "", err
	}
	return fmt.Sprintf("no answer through %s from %s", card, addressList(others)), nil
}

// strangers are the hosts that are not this machine: one list serves all nodes.
func strangers(hosts []netip.Addr) ([]netip.Addr, error) {
	own, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("addresses: %w", err)
	}
	return slices.DeleteFunc(slices.Clone(hosts), func(h netip.Addr) bool {
		return slices.ContainsFunc(own, func(a netlink.Addr) bool { return a.IP.Equal(h.AsSlice()) })
	}), nil
}

func addressList(as []netip.Addr) string {
	var out []string
	for _, a := range as {
		out = append(out, a.String())
	}
	return strings.Join(out, ", ")
}

// echoTries is how often each host is asked.
const echoTries = 3

// ping asks hosts by ICMP echo through a network card, and returns the first one that answers; none if nobody does
// within patience.
func ping(ctx context.Context, device string, hosts []netip.Addr, patience time.Duration) (netip.Addr, error) {
	e := echo{fds: map[bool]int{}, hosts: hosts}
	defer e.close()
	var id [2]byte
	_, _ = rand.Read(id[:]) // never fails
	e.id = binary.BigEndian.Uint16(id[:])
	for _, h := range hosts {
		if err := e.open(device, h.Is6()); err != nil {
			return netip.Addr{}, err
		}
	}
	var sendErr error
	for try := range echoTries {
		sent := 0
		for _, h := range hosts {
			if err := e.send(h, uint16(try)); err != nil {
				sendErr = fmt.Errorf("echo request to %s through %s: %w", h, device, err)
			} else {
				sent++
			}
		}
		if sent == 0 && hopeless(sendErr) {
			return netip.Addr{}, nil // no route, no link: the network does not work
		}
		who, err := e.wait(ctx, patience/echoTries)
		if err != nil || who.IsValid() {
			return who, err
		}
	}
	return netip.Addr{}, nil
}

// hopeless: asking again at once would end the same way.
func hopeless(err error) bool {
	return errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.ENETDOWN) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EADDRNOTAVAIL)
}

// echo is one round of questions. Sockets by whether they are of IPv6.
type echo struct {
	fds   map[bool]int
	id    uint16
	hosts []netip.Addr
}

func (e *echo) open(device string, six bool) error {
	if _, ok := e.fds[six]; ok {
		return nil
	}
	family, protocol := unix.AF_INET, unix.IPPROTO_ICMP
	if six {
		family, protocol = unix.AF_INET6, unix.IPPROTO_ICMPV6
	}
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return fmt.Errorf("a socket for echo requests: %w", err)
	}
	e.fds[six] = fd
	if err := unix.BindToDevice(fd, device); err != nil {
		return fmt.Errorf("a socket for echo requests on %s: %w", device, err)
	}
	return nil
}

func (e *echo) close() {
	for _, fd := range e.fds {
		unix.Close(fd)
	}
}

func (e *echo) send(to netip.Addr, try uint16) error {
	kind := byte(8)
	if to.Is6() {
		kind = 128 // the kernel adds the checksum
	}
	b := []byte{kind, 0, 0, 0}
	b = binary.BigEndian.AppendUint16(b, e.id)
	b = binary.BigEndian.AppendUint16(b, try)
	b = append(b, "holdfast"...)
	if to.Is4() {
		binary.BigEndian.PutUint16(b[2:], checksum(b))
		return unix.Sendto(e.fds[false], b, 0, &unix.SockaddrInet4{Addr: to.As4()})
	}
	return unix.Sendto(e.fds[true], b, 0, &unix.SockaddrInet6{Addr: to.As16()})
}

// wait for an answer.
func (e *echo) wait(ctx context.Context, patience time.Duration) (netip.Addr, error) {
	end := time.Now().Add(patience)
	var polls []unix.PollFd
	for _, fd := range e.fds {
		polls = append(polls, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
	}
	for {
		if ctx.Err() != nil {
			return netip.Addr{}, ctx.Err()
		}
		left := time.Until(end)
		n, err := unix.Poll(polls, min(pollTime(ctx), int(max(0, left+time.Millisecond-1)/time.Millisecond)))
		if err != nil && !errors.Is(err, unix.EINTR) {
			return netip.Addr{}, err
		}
		if n == 0 && left <= 0 {
			return netip.Addr{}, nil
		}
		for six, fd := range e.fds {
			if who := e.read(fd, six); who.IsValid() {
				return who, nil
			}
		}
	}
}

// read takes what has come to a socket, and returns who answered.
func (e *echo) read(fd int, six bool) netip.Addr {
	buf := make([]byte, 512)
	for {
		n, from, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return netip.Addr{}
		}
		b, kind := buf[:n], byte(0)
		var who netip.Addr
		switch from := from.(type) {
		case *unix.SockaddrInet4:
			who = netip.AddrFrom4(from.Addr)
			if n < 20 || int(b[0]&15)*4 > n {
				continue
			}
			b = b[int(b[0]&15)*4:]
		case *unix.SockaddrInet6:
			who, kind = netip.AddrFrom16(from.Addr), 129
		}
		if len(b) < 8 || b[0] != kind || binary.BigEndian.Uint16(b[4:]) != e.id {
			continue
		}
		for _, h := range e.hosts {
			if h == who {
				return who
			}
		}
	}
}
