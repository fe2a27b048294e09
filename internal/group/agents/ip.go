package agents

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/group/agent"
)

var ipKind = kind{
	typ: &v1.ResourceType{
		Name: "IP", Operations: v1.Operations_OPERATIONS_ON_OFF, Bundled: true,
		Description: "An address that moves with its group. Before it is added somebody else who answers for it is looked for; afterwards all neighbours are told.",
		Attributes: []*v1.Attribute{
			{Name: "Address", Kind: prefix, Required: required, Unique: true, Description: "IPv4 or IPv6 address with prefix length: 10.0.0.9/24."},
			{Name: "Device", Kind: text, Description: "Network card that gets the address. Empty: the one with an address in the network that it is in."},
		},
		Limits: &v1.Limits{
			MonitorInterval: seconds(10), OfflineMonitorInterval: seconds(60), OnlineTimeout: seconds(30), OfflineTimeout: seconds(30),
			MonitorTimeout: seconds(30), CleanTimeout: seconds(30), OnlineWaitLimit: proto.Uint32(0),
		},
	},
	check: func(a map[string]string) []error {
		errs := checkDevice(a["Device"])
		p, err := netip.ParsePrefix(a["Address"])
		switch {
		case err != nil:
			errs = append(errs, faultOf("Address", "%w", err))
		case p.Addr().IsUnspecified() || p.Addr().IsMulticast() || p.Addr().IsLoopback() && p.Addr().Is6() || p.Addr().Is4In6():
			errs = append(errs, faultOf("Address", "%s can't be given to a network card", p.Addr()))
		case p.Addr().Is6() && p.Addr().IsLinkLocalUnicast():
			errs = append(errs, faultOf("Address", "%s is link-local: it means something else on each network card", p.Addr()))
		case p.Bits() == 0:
			errs = append(errs, faultOf("Address", "a prefix length of 0 would make everything a neighbour"))
		}
		return errs
	},
	run: runIP,
}

func runIP(ctx context.Context, h *Host, c agent.Call) agent.Result {
	p, err := netip.ParsePrefix(c.Attributes["Address"])
	if err != nil {
		return failed(err)
	}
	ip := address{h: h, prefix: p, device: c.Attributes["Device"], key: key{c.Group, c.Resource}}
	if ip.device == "" {
		if ip.device, err = cardFor(p.Addr()); err != nil {
			return failed(err)
		}
	}
	switch c.Entry {
	case agent.Monitor:
		return ip.monitor(c.Watch)
	case agent.Online:
		err = ip.online(ctx)
	case agent.Offline, agent.Clean:
		err = ip.remove()
	}
	if err != nil {
		return failed(err)
	}
	return agent.Result{}
}

// address is a resource of type IP.
type address struct {
	h      *Host
	prefix netip.Prefix
	device string
	key    key
}

func (a address) netlinkAddr() *netlink.Addr {
	bits := a.prefix.Addr().BitLen()
	n := &netlink.Addr{IPNet: &net.IPNet{IP: a.prefix.Addr().AsSlice(), Mask: net.CIDRMask(a.prefix.Bits(), bits)}}
	if a.prefix.Addr().Is6() {
		// Duplicate address detection would keep the address unusable for a second, or for ever if the old owner is slow to
		// let go. Whether it may be taken over has been decided by then.
		n.Flags = unix.IFA_F_NODAD
	}
	return n
}

// lookup returns the link, and the addresses on it that are this one: more than one if the prefix lengths differ. The
// link is nil if there is none.
func (a address) lookup() (netlink.Link, []netlink.Addr, error) {
	if a.device == "" {
		return nil, nil, nil
	}
	link, err := netlink.LinkByName(a.device)
	var missing netlink.LinkNotFoundError
	switch {
	case errors.As(err, &missing):
		return nil, nil, nil
	case err != nil:
		return nil, nil, fmt.Errorf("%s: %w", a.device, err)
	}
	family := netlink.FAMILY_V4
	if a.prefix.Addr().Is6() {
		family = netlink.FAMILY_V6
	}
	all, err := netlink.AddrList(link, family)
	if err != nil {
		return nil, nil, fmt.Errorf("addresses of %s: %w", a.device, err)
	}
	var own []netlink.Addr
	for _, n := range all {
		if ip, ok := netip.AddrFromSlice(n.IP); ok && ip.Unmap() == a.prefix.Addr() {
			own = append(own, n)
		}
	}
	return link, own, nil
}

func (a address) noCard() string {
	if a.device == "" {
		return fmt.Sprintf("no network card has an address in the network of %s", a.prefix.Addr())
	}
	return "there is no network card " + a.device
}

func (a address) monitor(watch bool) agent.Result {
	// It is watched before it is looked at, so that nothing is missed.
	at := onDevice{address: a.prefix.Addr(), device: a.device, unsure: true}
	a.h.net.address(watch, a.key, at)
	link, own, err := a.lookup()
	at.unsure, at.absent = err != nil, len(own) == 0
	watched := a.h.net.address(watch, a.key, at)
	switch {
	case err != nil:
		return failed(err)
	case link == nil:
		return found(false, watched, a.noCard())
	case len(own) == 0:
		a.h.announcer.end(a.key)
		return found(false, watched, fmt.Sprintf("%s is not on %s", a.prefix.Addr(), a.device))
	case link.Attrs().RawFlags&unix.IFF_UP == 0:
		return found(false, watched, fmt.Sprintf("%s is switched off", a.device))
	}
	for _, n := range own {
		ones, _ := n.Mask.Size()
		switch {
		case ones != a.prefix.Bits():
			return found(false, watched, fmt.Sprintf("%s is on %s with prefix length %d instead of %d", a.prefix.Addr(), a.device, ones, a.prefix.Bits()))
		case n.Flags&unix.IFA_F_DADFAILED != 0:
			return found(false, watched, fmt.Sprintf("%s is in use by another machine, says duplicate address detection", a.prefix.Addr()))
		}
	}
	a.h.announcer.keep(a.key, link, a.prefix.Addr()) // it may have been online before this process
	return found(true, watched, "")
}

func (a address) online(ctx context.Context) error {
	link, own, err := a.lookup()
	switch {
	case err != nil:
		return err
	case link == nil:
		return errors.New(a.noCard())
	case link.Attrs().RawFlags&unix.IFF_UP == 0:
		return fmt.Errorf("%s is switched off", a.device)
	}
	has := false
	for _, n := range own {
		if ones, _ := n.Mask.Size(); ones == a.prefix.Bits() {
			has = true
		} else if err := remove(link, n); err != nil {
			return err
		}
	}
	w, err := openWire(link)
	if err != nil {
		return err
	}
	defer w.close()
	if !has {
		who, err := w.probe(ctx, a.prefix.Addr())
		switch {
		case err != nil:
			return fmt.Errorf("nobody could be asked whether %s is in use: %w", a.prefix.Addr(), err)
		case who != nil:
			return fmt.Errorf("%s is in use by the machine with hardware address %s on the network of %s", a.prefix.Addr(), who, a.device)
		}
		if err := netlink.AddrAdd(link, a.netlinkAddr()); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("%s can't be added to %s: %w", a.prefix, a.device, err)
		}
	}
	if err := w.announce(a.prefix.Addr()); err != nil {
		return fmt.Errorf("%s is on %s, but the neighbours can't be told: %w", a.prefix.Addr(), a.device, err)
	}
	a.h.announcer.begin(a.key, link, a.prefix.Addr())
	return nil
}

func (a address) remove() error {
	a.h.announcer.end(a.key)
	a.h.net.forget(a.key)
	link, own, err := a.lookup()
	if err != nil || link == nil {
		return err
	}
	for _, n := range own {
		if err := remove(link, n); err != nil {
			return err
		}
	}
	return nil
}

func remove(link netlink.Link, n netlink.Addr) error {
	err := netlink.AddrDel(link, &netlink.Addr{IPNet: n.IPNet})
	if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("%s can't be removed from %s: %w", n.IPNet, link.Attrs().Name, err)
	}
	return nil
}
