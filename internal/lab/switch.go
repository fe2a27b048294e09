package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// The switch is a namespace with a bridge per link. Each node has a veth pair
// per link: its port in the switch, its device in the node's namespace.

// inNetns gives f netlink handles of the named namespace.
func inNetns(name string, f func(*netlink.Handle, netns.NsHandle) error) error {
	ns, err := netns.GetFromPath(netnsPath(name))
	if err != nil {
		return fmt.Errorf("network namespace %s: %w", name, err)
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns)
	if err != nil {
		return fmt.Errorf("network namespace %s: %w", name, err)
	}
	defer h.Close()
	return f(h, ns)
}

// makeSwitch makes the switch's namespace with one bridge per link.
func makeSwitch(p *plan) error {
	if err := makeNetns(p.SwitchNetns); err != nil {
		return err
	}
	return inNetns(p.SwitchNetns, func(h *netlink.Handle, _ netns.NsHandle) error {
		for _, name := range p.Bridges {
			attrs := netlink.NewLinkAttrs()
			attrs.Name = name
			snooping := false // neighbour discovery must pass at once
			if err := h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}); err != nil {
				return fmt.Errorf("make bridge %s: %w", name, err)
			}
			br, err := h.LinkByName(name)
			if err != nil {
				return err
			}
			if err := h.LinkSetUp(br); err != nil {
				return fmt.Errorf("bridge %s: %w", name, err)
			}
		}
		return nil
	})
}

// plugIn makes a namespace with its loopback device up and one port per link.
func plugIn(p *plan, name string, ports []portPlan) error {
	if err := makeNetns(name); err != nil {
		return err
	}
	return inNetns(name, func(inside *netlink.Handle, ns netns.NsHandle) error {
		if lo, err := inside.LinkByName("lo"); err != nil {
			return err
		} else if err := inside.LinkSetUp(lo); err != nil {
			return err
		}
		return inNetns(p.SwitchNetns, func(sw *netlink.Handle, _ netns.NsHandle) error {
			for link, port := range ports {
				if err := plugPort(sw, inside, ns, p.Bridges[link], port); err != nil {
					return fmt.Errorf("plug %s into %s: %w", name, p.Bridges[link], err)
				}
			}
			return nil
		})
	})
}

func plugPort(sw, inside *netlink.Handle, ns netns.NsHandle, bridge string, port portPlan) error {
	br, err := sw.LinkByName(bridge)
	if err != nil {
		return err
	}
	hw, err := net.ParseMAC(port.MAC)
	if err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = port.Port
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: port.Device, PeerHardwareAddr: hw, PeerNamespace: netlink.NsFd(ns)}
	if err := sw.LinkAdd(veth); err != nil {
		return err
	}
	if err := sw.LinkSetMaster(veth, br); err != nil {
		return err
	}
	device, err := inside.LinkByName(port.Device)
	if err != nil {
		return err
	}
	addr := &netlink.Addr{IPNet: ipNet(port.Address)}
	if port.Address.Addr().Is6() {
		addr.Flags = 0x02 // IFA_F_NODAD: usable at once
	}
	if err := inside.AddrAdd(device, addr); err != nil {
		return err
	}
	if err := inside.LinkSetUp(device); err != nil {
		return err
	}
	return sw.LinkSetUp(veth)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// unplug takes a namespace's ports out of the switch and removes the
// namespace. It is fine if any of it is gone already.
func unplug(p *plan, name string, ports []portPlan) error {
	var errs []error
	if _, err := os.Stat(netnsPath(p.SwitchNetns)); err == nil {
		errs = append(errs, inNetns(p.SwitchNetns, func(h *netlink.Handle, _ netns.NsHandle) error {
			for _, port := range ports {
				if link, err := h.LinkByName(port.Port); err == nil {
					if err := h.LinkDel(link); err != nil {
						return fmt.Errorf("remove port %s: %w", port.Port, err)
					}
				}
			}
			return nil
		}))
	}
	return errors.Join(append(errs, removeNetns(name))...)
}

// setPorts switches the node's ports of the given links on or off.
func setPorts(p *plan, n *nodePlan, links []int, up bool) error {
	return inNetns(p.SwitchNetns, func(h *netlink.Handle, _ netns.NsHandle) error {
		for _, i := range links {
			link, err := h.LinkByName(n.Ports[i].Port)
			if err != nil {
				return fmt.Errorf("port %s of node %s: %w", n.Ports[i].Port, n.Name, err)
			}
			set := h.LinkSetDown
			if up {
				set = h.LinkSetUp
			}
			if err := set(link); err != nil {
				return fmt.Errorf("port %s of node %s: %w", n.Ports[i].Port, n.Name, err)
			}
		}
		return nil
	})
}

// setRules makes the node's ports drop what its record says, and nothing else.
func setRules(p *plan, n *nodePlan, r *nodeRecord) error {
	return inNetns(p.SwitchNetns, func(h *netlink.Handle, _ netns.NsHandle) error {
		for i, port := range n.Ports {
			var from []net.HardwareAddr
			for _, name := range r.Blocked[i] {
				s, err := p.machine(name)
				if err != nil {
					return err
				}
				hw, err := net.ParseMAC(s.Ports[i].MAC)
				if err != nil {
					return err
				}
				from = append(from, hw)
			}
			link, err := h.LinkByName(port.Port)
			if err != nil {
				return fmt.Errorf("port %s of node %s: %w", port.Port, n.Name, err)
			}
			if err := setDrop(h, link, from, r.Silent); err != nil {
				return err
			}
		}
		return nil
	})
}
