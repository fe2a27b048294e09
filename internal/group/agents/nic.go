package agents

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/group/agent"
)

var nicKind = kind{
	typ: &v1.ResourceType{
		Name: "NIC", Operations: v1.Operations_OPERATIONS_NONE, Bundled: true,
		Description: "A network card, which is only monitored. A change of its link is noticed at once; hosts that must answer through it are asked at each monitor.",
		Attributes: []*v1.Attribute{
			{Name: "Device", Kind: text, Required: required, Description: "Name of the network card: eth0, bond0."},
			{Name: "CheckCarrier", Kind: flag, Default: "true", Description: "Whether it must have a carrier, or only be up."},
			{Name: "NetworkHosts", Kind: list, Description: "Addresses, separated by blanks, that are asked by ICMP echo through the card. It is offline if none answers. Without any its link decides."},
			{Name: "NetworkTimeout", Kind: span, Default: "1s", Description: "Time within which one of them must answer; each is asked three times."},
		},
		Limits: &v1.Limits{MonitorInterval: seconds(10), OfflineMonitorInterval: seconds(10), MonitorTimeout: seconds(30)},
	},
	check: func(a map[string]string) []error {
		errs := checkDevice(a["Device"])
		if _, err := hosts(a["NetworkHosts"]); err != nil {
			errs = append(errs, faultOf("NetworkHosts", "%w", err))
		}
		return errs
	},
	run: func(ctx context.Context, h *Host, c agent.Call) agent.Result {
		if c.Entry != agent.Monitor {
			return agent.Result{}
		}
		return monitorNIC(ctx, h, c)
	},
}

func checkDevice(name string) []error {
	if len(name) >= unix.IFNAMSIZ || name == "." || name == ".." {
		return []error{faultOf("Device", "%q can't be the name of a network card", name)}
	}
	for _, r := range name {
		if r == '/' || r == ':' || r <= ' ' {
			return []error{faultOf("Device", "%q can't be the name of a network card", name)}
		}
	}
	return nil
}

func monitorNIC(ctx context.Context, h *Host, c agent.Call) agent.Result {
	targets, err := hosts(c.Attributes["NetworkHosts"])
	if err != nil {
		return failed(err)
	}
	told := h.net.device(c.Watch, key{c.Group, c.Resource}, c.Attributes["Device"])
	why, err := wrongWithNIC(ctx, c.Attributes, targets)
	if err != nil {
		return failed(err)
	}
	// Whether a host still answers is not told by anybody.
	r := found(why == "", told && len(targets) == 0, why)
	r.WatchedPartly = told && !r.Watched
	return r
}

// wrongWithNIC says why a network card does not work; empty: it does.
func wrongWithNIC(ctx context.Context, a map[string]string, targets []netip.Addr) (string, error) {
	name := a["Device"]
	link, err := netlink.LinkByName(name)
	var missing netlink.LinkNotFoundError
	switch {
	case errors.As(err, &missing):
		return fmt.Sprintf("there is no network card %s", name), nil
	case err != nil:
		return "", err
	}
	flags := link.Attrs().RawFlags
	switch {
	case flags&unix.IFF_UP == 0:
		return fmt.Sprintf("%s is switched off", name), nil
	case a["CheckCarrier"] != "false" && !linkUp(flags):
		return fmt.Sprintf("%s has no carrier", name), nil
	}
	return silent(ctx, name, targets, duration(a["NetworkTimeout"]))
}
