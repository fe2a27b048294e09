package agents

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/group/agent"
)

var subnetKind = kind{
	typ: &v1.ResourceType{
		Name: "Subnet", Operations: v1.Operations_OPERATIONS_NONE, Bundled: true,
		Description: "Subnets that a package needs where it runs. One is up while a network card with an address in it has a link, and, if hosts are given, one of them answers. " +
			"Changes of links and addresses are noticed at once.",
		Attributes: []*v1.Attribute{
			{Name: "Subnets", Kind: list, Required: required, Description: "Subnets, separated by blanks: 10.1.2.0/24 2001:db8:7::/64 (monitored_subnet)."},
			{Name: "Access", Kind: text, Default: "FULL", Words: []string{"FULL", "PARTIAL"}, Description: "FULL: all of them must be up. PARTIAL: a node may lack some of them; those that it has must be up, and it must have one (monitored_subnet_access)."},
			{Name: "NetworkHosts", Kind: list, Description: "Addresses in these subnets, separated by blanks, that are asked by ICMP echo (POLLING_TARGET). A subnet of which none answers is down; one without is judged by its link."},
			{Name: "NetworkTimeout", Kind: span, Default: "1s", Description: "Time within which one of them must answer; each is asked three times."},
			{Name: "NodeFailFast", Kind: flag, Default: "false", Description: "The node is reset when the package loses its subnet (node_fail_fast_enabled)."},
		},
		Limits: &v1.Limits{MonitorInterval: seconds(2), OfflineMonitorInterval: seconds(2), MonitorTimeout: seconds(30)},
	},
	check: func(a map[string]string) []error {
		var errs []error
		nets, err := subnets(a["Subnets"])
		if err != nil {
			errs = append(errs, faultOf("Subnets", "%w", err))
		}
		targets, terr := hosts(a["NetworkHosts"])
		if terr != nil {
			errs = append(errs, faultOf("NetworkHosts", "%w", terr))
		}
		for _, t := range targets {
			if err == nil && len(within(nets, t)) == 0 {
				errs = append(errs, faultOf("NetworkHosts", "%s is in none of the subnets: a host behind a router says nothing about them", t))
			}
		}
		return errs
	},
	run: func(ctx context.Context, h *Host, c agent.Call) agent.Result {
		if c.Entry != agent.Monitor {
			return agent.Result{}
		}
		return monitorSubnets(ctx, h, c)
	},
}

// subnets splits a list of them.
func subnets(s string) ([]netip.Prefix, error) {
	all, err := words(s)
	if err != nil {
		return nil, err
	}
	var out []netip.Prefix
	for _, f := range all {
		p, err := netip.ParsePrefix(f)
		switch {
		case err != nil:
			return nil, fmt.Errorf("%q is not a subnet such as 10.1.2.0/24 or 2001:db8:7::/64", f)
		case p.Masked() != p:
			return nil, fmt.Errorf("%s is an address in a subnet; the subnet is %s", p, p.Masked())
		case p.Bits() == 0:
			return nil, fmt.Errorf("%s is everything, not a subnet", p)
		}
		out = append(out, p)
	}
	switch {
	case len(out) == 0:
		return nil, fmt.Errorf("%q names no subnet", s)
	case len(out) > maxHosts:
		return nil, fmt.Errorf("%d subnets are too many: give at most %d", len(out), maxHosts)
	}
	return out, nil
}

func within(nets []netip.Prefix, a netip.Addr) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range nets {
		if p.Contains(a) {
			out = append(out, p)
		}
	}
	return out
}

func monitorSubnets(ctx context.Context, h *Host, c agent.Call) agent.Result {
	nets, err := subnets(c.Attributes["Subnets"])
	if err != nil {
		return failed(err)
	}
	targets, err := hosts(c.Attributes["NetworkHosts"])
	if err != nil {
		return failed(err)
	}
	k := key{c.Group, c.Resource}
	told := h.net.everything(c.Watch, k)
	watched := told && len(targets) == 0
	cards, err := cardsOf(nets)
	if err != nil {
		return failed(err)
	}
	partial, has := c.Attributes["Access"] == "PARTIAL", 0
	var why []string
	for _, n := range nets {
		asked := targets[:0:0]
		for _, t := range targets {
			if n.Contains(t) {
				asked = append(asked, t)
			}
		}
		if len(cards[n]) == 0 {
			if !partial {
				why = append(why, fmt.Sprintf("no network card has an address in %s", n))
			}
			continue
		}
		has++
		reason := ""
		for _, card := range cards[n] {
			if reason, err = deaf(ctx, card, asked, c.Attributes["NetworkTimeout"]); err != nil {
				return failed(err)
			}
			if reason == "" {
				break
			}
		}
		if reason != "" {
			why = append(why, fmt.Sprintf("subnet %s is down: %s", n, reason))
		}
	}
	if has == 0 && partial {
		why = append(why, "this node has none of the subnets")
	}
	r := found(len(why) == 0, watched, strings.Join(why, "; "))
	r.WatchedPartly = told && !watched
	if len(why) > 0 && c.Attributes["NodeFailFast"] == "true" {
		r.Verdict = v1.Verdict_VERDICT_RESET
	}
	return r
}

// cardsOf returns the network cards that have an address in each subnet.
func cardsOf(nets []netip.Prefix) (map[netip.Prefix][]netlink.Link, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("network cards: %w", err)
	}
	byIndex := map[int]netlink.Link{}
	for _, l := range links {
		byIndex[l.Attrs().Index] = l
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("addresses: %w", err)
	}
	out := map[netip.Prefix][]netlink.Link{}
	for _, a := range addrs {
		ip, ok := netip.AddrFromSlice(a.IP)
		link := byIndex[a.LinkIndex]
		if !ok || link == nil {
			continue
		}
		ones, _ := a.Mask.Size()
		p, err := ip.Unmap().Prefix(ones)
		if err != nil {
			continue
		}
		for _, n := range nets {
			if n == p {
				out[n] = append(out[n], link)
			}
		}
	}
	return out, nil
}

// deaf says why nothing comes through a network card; empty: something does.
func deaf(ctx context.Context, card netlink.Link, targets []netip.Addr, patience string) (string, error) {
	if !linkUp(card.Attrs().RawFlags) {
		return "link of " + card.Attrs().Name + " is down", nil
	}
	return silent(ctx, card.Attrs().Name, targets, duration(patience))
}
