package agents

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/group/agent"
)

var ipMultiNICKind = kind{
	typ: &v1.ResourceType{
		Name: "IPMultiNIC", Operations: v1.Operations_OPERATIONS_ON_OFF, Bundled: true,
		Description: "An address that moves with its group, on whichever card of a MultiNIC is active. When another card becomes active it is restarted in place there; what requires it goes on.",
		Attributes: []*v1.Attribute{
			{Name: "Address", Kind: prefix, Required: required, Unique: true, Description: "IPv4 or IPv6 address with prefix length: 10.0.0.9/24."},
			{Name: "MultiNIC", Kind: text, Required: required, Description: "Name of the resource of type MultiNIC."},
			{Name: "MultiNICGroup", Kind: text, Description: "Group of that resource; the same group if not given."},
		},
		Limits: &v1.Limits{
			MonitorInterval: seconds(10), OfflineMonitorInterval: seconds(60), OnlineTimeout: seconds(30), OfflineTimeout: seconds(30),
			MonitorTimeout: seconds(30), CleanTimeout: seconds(30), OnlineWaitLimit: proto.Uint32(0), RestartLimit: proto.Uint32(1000),
		},
	},
	notes: "Let it require the MultiNIC, or a Proxy of it if that is in another group: if no card works, those are what fails. Before it is added somebody else who answers for it is looked for, as by the type IP.",
	check: func(a map[string]string) []error {
		return ipKind.check(map[string]string{"Address": a["Address"], "Device": "eth0"})
	},
	run: runIPMultiNIC,
}

func runIPMultiNIC(ctx context.Context, h *Host, c agent.Call) agent.Result {
	p, err := netip.ParsePrefix(c.Attributes["Address"])
	if err != nil {
		return failed(err)
	}
	ip := address{h: h, prefix: p, key: key{c.Group, c.Resource}}
	of := key{c.Attributes["MultiNICGroup"], c.Attributes["MultiNIC"]}
	if of.group == "" {
		of.group = c.Group
	}
	active, known := h.cards.activeOf(of)
	switch c.Entry {
	case agent.Monitor:
		return ip.monitorCards(c.Watch, of)
	case agent.Online:
		switch {
		case !known:
			return failed(fmt.Errorf("the cards of %s have not been looked at on this node", of.resource))
		case active == "":
			return failed(fmt.Errorf("no card of %s works", of.resource))
		}
		if err = ip.removeFromOthers(active); err == nil {
			ip.device = active
			err = ip.online(ctx)
		}
	case agent.Offline, agent.Clean:
		err = ip.removeFromOthers("")
	}
	if err != nil {
		return failed(err)
	}
	return agent.Result{}
}

// cardsWith returns the names of the cards that have the address.
func (a address) cardsWith() ([]string, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("network cards: %w", err)
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("addresses: %w", err)
	}
	var out []string
	for _, l := range links {
		if slices.ContainsFunc(addrs, func(n netlink.Addr) bool {
			ip, ok := netip.AddrFromSlice(n.IP)
			return ok && n.LinkIndex == l.Attrs().Index && ip.Unmap() == a.prefix.Addr()
		}) {
			out = append(out, l.Attrs().Name)
		}
	}
	return out, nil
}

// monitorCards: on the active card it is online, on another one it does not work, and on none it is offline.
func (a address) monitorCards(watch bool, of key) agent.Result {
	a.h.net.address(watch, a.key, onDevice{address: a.prefix.Addr(), unsure: true})
	followed := a.h.cards.follow(watch, a.key, of)
	active, _ := a.h.cards.activeOf(of)
	on, err := a.cardsWith()
	switch {
	case err != nil:
		return failed(err)
	case len(on) == 0:
		a.h.announcer.end(a.key)
		watched := a.h.net.address(watch, a.key, onDevice{address: a.prefix.Addr(), absent: true})
		return found(false, watched && followed, fmt.Sprintf("%s is on no network card", a.prefix.Addr()))
	case active != "" && (len(on) > 1 || on[0] != active):
		return agent.Result{
			State:   v1.ResourceState_RESOURCE_STATE_FAULTED,
			Message: fmt.Sprintf("%s is on %s, but %s of %s is active", a.prefix.Addr(), strings.Join(on, " and "), active, of.resource),
		}
	}
	a.device = on[0]
	r := a.monitor(watch)
	r.Watched = r.Watched && followed
	return r
}

// removeFromOthers removes the address from all cards but one; empty: from all.
func (a address) removeFromOthers(but string) error {
	on, err := a.cardsWith()
	if err != nil {
		return err
	}
	a.h.announcer.end(a.key)
	a.h.net.forget(a.key)
	for _, device := range on {
		if device != but {
			a.device = device
			err = errors.Join(err, a.remove())
		}
	}
	return err
}
