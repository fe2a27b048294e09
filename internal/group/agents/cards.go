package agents

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// health of a network card.
type health uint8

const (
	unclear health = iota
	healthy
	broken
)

// evidence is what one look has found of one of several cards of the same network.
type evidence struct {
	link bool
	// asked and answered: hosts were asked through it, and one has answered.
	asked, answered bool
	// heard and heardBy: frames of other cards have come, and its own have come to others. They speak only if probed is set.
	probed, heard, heardBy bool
	// received: it has received something since the last look, from whomever.
	received bool
}

// judgeCards weighs what was found of all cards of a network. Two cards that do not hear each other are never both
// broken because of that: which of them it is has to be told by something else, or stays unclear.
func judgeCards(all []evidence) []health {
	exchange, answers, receives := false, false, 0
	for _, e := range all {
		exchange = exchange || e.link && (e.heard || e.heardBy)
		answers = answers || e.link && e.answered
		if e.link && e.received {
			receives++
		}
	}
	out := make([]health, len(all))
	for i, e := range all {
		switch {
		case !e.link:
			out[i] = broken
		case e.asked:
			// Hosts that answer nobody are as good as no network.
			out[i] = broken
			if e.answered {
				out[i] = healthy
			}
		case !e.probed, e.heard || e.heardBy:
			// Both directions have to fail: one that works says that the card does.
			out[i] = healthy
		case exchange:
			out[i] = broken // the others hear each other
		case e.received:
			out[i] = healthy
		case receives > 0:
			out[i] = broken
		}
	}
	return out
}

// etherProbe is the type of frames by which cards of a node find each other: one for local experiments, by IEEE 802.
const etherProbe = 0x88b5

// probeCards sends frames from each card to all others, and asks hosts by ARP through each. It takes no longer than patience.
func probeCards(ctx context.Context, links []netlink.Link, hosts []netip.Addr, peers bool, patience time.Duration) ([]evidence, error) {
	found := make([]evidence, len(links))
	var up []int
	for i, l := range links {
		if l != nil && linkUp(l.Attrs().RawFlags) {
			found[i].link = true
			up = append(up, i)
		}
	}
	if len(hosts) == 0 && (!peers || len(up) < 2) {
		return found, nil
	}
	p := cardProbe{links: links, found: found, fds: map[int]int{}, hosts: hosts}
	_, _ = rand.Read(p.id[:]) // never fails
	defer p.close()
	for _, i := range up {
		found[i].asked = len(hosts) > 0
		found[i].probed = len(hosts) == 0
		if err := p.open(i); err != nil {
			return nil, err
		}
	}
	for range echoTries {
		for _, i := range up {
			p.send(i)
		}
		if done, err := p.wait(ctx, patience/echoTries); done || err != nil {
			return found, err
		}
	}
	return found, nil
}

// cardProbe is one look at several cards. Sockets by the index of the card in links.
type cardProbe struct {
	id    [8]byte
	links []netlink.Link
	found []evidence
	fds   map[int]int
	hosts []netip.Addr
}

func (p *cardProbe) open(i int) error {
	at := p.links[i].Attrs()
	if len(at.HardwareAddr) != 6 {
		return fmt.Errorf("%s has no hardware address: it can't stand in for another card", at.Name)
	}
	protocol := uint16(etherProbe)
	if len(p.hosts) > 0 {
		protocol = etherARP
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("a packet socket on %s: %w", at.Name, err)
	}
	p.fds[i] = fd
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: swap16(protocol), Ifindex: at.Index}); err != nil {
		return fmt.Errorf("a packet socket on %s: %w", at.Name, err)
	}
	return nil
}

func (p *cardProbe) close() {
	for _, fd := range p.fds {
		unix.Close(fd)
	}
}

// send asks everybody. A card that can't send has failed, which shows by what does not come.
func (p *cardProbe) send(i int) {
	at := p.links[i].Attrs()
	w := wire{fd: p.fds[i], index: at.Index, mac: at.HardwareAddr}
	for _, h := range p.hosts {
		_ = w.send(broadcast, etherARP, arp(1, at.HardwareAddr, netip.IPv4Unspecified(), nil, h))
	}
	if len(p.hosts) == 0 {
		payload := append([]byte("holdfast"), p.id[:]...)
		payload = binary.BigEndian.AppendUint32(payload, uint32(i))
		_ = w.send(broadcast, etherProbe, append(payload, make([]byte, 46-len(payload))...))
	}
}

func (p *cardProbe) wait(ctx context.Context, patience time.Duration) (done bool, err error) {
	end := time.Now().Add(patience)
	var polls []unix.PollFd
	for _, fd := range p.fds {
		polls = append(polls, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
	}
	for {
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		left := time.Until(end)
		n, err := unix.Poll(polls, min(pollTime(ctx), int(max(0, left+time.Millisecond-1)/time.Millisecond)))
		if err != nil && !errors.Is(err, unix.EINTR) {
			return false, err
		}
		for i, fd := range p.fds {
			p.read(i, fd)
		}
		if p.complete() {
			return true, nil
		}
		if n == 0 && left <= 0 {
			return false, nil
		}
	}
}

// complete: nothing more can be learnt.
func (p *cardProbe) complete() bool {
	for i := range p.fds {
		e := p.found[i]
		if e.asked && !e.answered || e.probed && !(e.heard && e.heardBy) {
			return false
		}
	}
	return true
}

func (p *cardProbe) read(i, fd int) {
	buf := make([]byte, 512)
	for {
		n, _, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return
		}
		p.frame(i, buf[:n])
	}
}

func (p *cardProbe) frame(i int, b []byte) {
	if len(b) < 14+20 {
		return
	}
	switch binary.BigEndian.Uint16(b[12:]) {
	case etherProbe:
		from := int(binary.BigEndian.Uint32(b[14+16:]))
		if string(b[14:22]) != "holdfast" || [8]byte(b[22:30]) != p.id || from == i || from < 0 || from >= len(p.found) {
			return
		}
		p.found[i].heard = true
		p.found[from].heardBy = true
	case etherARP:
		if len(b) < 14+28 || binary.BigEndian.Uint16(b[20:]) != 2 || net.HardwareAddr(b[32:38]).String() != p.links[i].Attrs().HardwareAddr.String() {
			return
		}
		sender := netip.AddrFrom4([4]byte(b[28:32]))
		for _, h := range p.hosts {
			if h == sender {
				p.found[i].answered = true
			}
		}
	}
}
