package lab

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"regexp"
)

// Mode says how much of a real machine each node of a lab has.
type Mode string

const (
	// Namespaces: every node has its own network, mount, PID, UTS and IPC
	// namespace and control group. Needs root.
	Namespaces Mode = "namespaces"
	// Loopback: plain processes on loopback addresses. Needs nothing.
	Loopback Mode = "loopback"
)

// Missing lists, as full sentences, what a lab of this mode can't do.
func (m Mode) Missing() []string {
	if m == Namespaces {
		return nil
	}
	return []string{
		"No namespaces: all nodes share this machine's network, files and processes.",
		"No IP and NIC resources: the service listens on a loopback address that every node has.",
		"No cut and heal: a loopback network can't be cut. kill, start, pause and resume work.",
		"No control groups: stopping what a node runs relies on process groups.",
	}
}

// Limits of a lab.
const (
	MaxNodes = 9 // addresses and patience
	MaxLinks = 8 // as a cluster
)

// A nodePlan is what one machine of a lab, a node or an arbiter, is made of. All of it is known before
// anything is made, so that it can be recorded and removed again.
type nodePlan struct {
	Name string `json:"name"`
	Dir  string `json:"dir"`
	// It is no node of the cluster but runs holdfast arbiter, here.
	Arbiter netip.AddrPort `json:"arbiter,omitzero"`
	// Netns is the node's network namespace below /run/netns.
	Netns  string `json:"netns,omitempty"`
	Cgroup string `json:"cgroup,omitempty"`
	// Per link, in link order.
	Ports []portPlan `json:"ports"`
}

// A portPlan is a node's place on one link: the veth pair between the switch
// and the node, and the node's address.
type portPlan struct {
	// Switch side, in the switch's namespace.
	Port string `json:"port,omitempty"`
	// Node side, in the node's namespace.
	Device  string       `json:"device,omitempty"`
	MAC     string       `json:"mac,omitempty"`
	Address netip.Prefix `json:"address"`
}

// StateDir holds the node's identity and log; it survives a reboot.
func (n *nodePlan) StateDir() string { return filepath.Join(n.Dir, "state") }

// RunDir is where the node's sockets are found from outside the node: a
// directory in a loopback lab, else a link into the running node.
func (n *nodePlan) RunDir() string { return filepath.Join(n.Dir, "run") }

// LogFile has what guard and clusterd of the node wrote.
func (n *nodePlan) LogFile() string { return filepath.Join(n.Dir, "log") }

// APISocket of the node, as seen from outside of it.
func (n *nodePlan) APISocket() string { return filepath.Join(n.RunDir(), "api.sock") }

var labNames = regexp.MustCompile(`^[a-z][a-z0-9]{0,15}$`)

// CheckName says what is wrong with the name of a lab.
func CheckName(name string) error {
	if !labNames.MatchString(name) {
		return bad("%q is no name for a lab: take 1 to 16 small letters and digits, a letter first", name)
	}
	return nil
}

// A plan is the whole lab before anything of it is made.
type plan struct {
	Name string `json:"name"`
	Dir  string `json:"dir"`
	Mode Mode   `json:"mode"`
	// Number tells loopback labs apart that run at once.
	Number int `json:"number"`
	// Names below /run/netns; namespaces mode only.
	SwitchNetns string `json:"switch_netns,omitempty"`
	ProbeNetns  string `json:"probe_netns,omitempty"`
	// Cgroup directory that holds the nodes' ones.
	Cgroup  string     `json:"cgroup,omitempty"`
	Bridges []string   `json:"bridges,omitempty"`
	Probe   []portPlan `json:"probe,omitempty"`
	Nodes   []nodePlan `json:"nodes"`
	// Coordination points: machines of their own, and disks that all nodes see.
	Arbiters  []nodePlan `json:"arbiters,omitempty"`
	LockDisks []diskPlan `json:"lock_disks,omitempty"`
}

// A diskPlan is a lock disk: one file, opened at the same path by every node.
type diskPlan struct {
	Name string `json:"name"`
	Path string `json:"path"`
}

func netnsName(lab, what string) string { return "hf-" + lab + "-" + what }

// nodeAddresses are a node's name and its address on each link.
type nodeAddresses struct {
	Name  string
	Links []netip.Addr
}

// defaultAddresses of a lab that was given no cluster file: nodes n1 to nN on two links.
func defaultAddresses(mode Mode, number, nodes int) []nodeAddresses {
	out := make([]nodeAddresses, nodes)
	for i := range out {
		out[i] = nodeAddresses{Name: fmt.Sprintf("n%d", i+1)}
		for link := range 2 {
			out[i].Links = append(out[i].Links, linkHost(mode, number, link, i+1))
		}
	}
	return out
}

// linkHost is the address of host number host on a link: 10.77.LINK.HOST, or
// 127.77.10*number+LINK.HOST on loopback; links count from 1 there.
func linkHost(mode Mode, number, link, host int) netip.Addr {
	if mode == Loopback {
		return netip.AddrFrom4([4]byte{127, 77, byte(10*number + link + 1), byte(host)})
	}
	return netip.AddrFrom4([4]byte{10, 77, byte(link + 1), byte(host)})
}

// Host numbers with a meaning.
const (
	serviceHost = 100
	appHost     = 101 // of a sample
	arbiterHost = 200 // that of a1 is the next one
	probeHost   = 250
)

// arbiterPort is where a lab's arbiters listen, TCP and UDP.
const arbiterPort = 7947

// newPlan lays a lab out. cgroupRoot is where control groups are mounted,
// empty in loopback mode.
func newPlan(name, dir string, mode Mode, number int, nodes []nodeAddresses, cgroupRoot string) (*plan, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	if len(nodes) < 1 || len(nodes) > MaxNodes {
		return nil, bad("a lab has 1 to %d nodes, not %d", MaxNodes, len(nodes))
	}
	links := len(nodes[0].Links)
	if links < 1 || links > MaxLinks {
		return nil, bad("node %s has %d links; a lab has 1 to %d", nodes[0].Name, links, MaxLinks)
	}
	p := &plan{Name: name, Dir: dir, Mode: mode, Number: number}
	if mode == Namespaces {
		p.SwitchNetns = netnsName(name, "-switch") // no node's name starts with a dash
		p.ProbeNetns = netnsName(name, "-probe")
		p.Cgroup = filepath.Join(cgroupRoot, "holdfast-lab", name)
	}
	seen := map[netip.Addr]string{}
	for link := range links {
		prefix, err := linkPrefix(nodes, link, mode)
		if err != nil {
			return nil, err
		}
		if mode == Namespaces {
			p.Bridges = append(p.Bridges, fmt.Sprintf("br%d", link))
			if host, ok := hostIn(prefix, probeHost); ok {
				p.Probe = append(p.Probe, portPlan{Port: fmt.Sprintf("probe-%d", link), Device: fmt.Sprintf("eth%d", link),
					MAC: mac(link, probeHost), Address: netip.PrefixFrom(host, prefix.Bits())})
			}
		}
		for i, n := range nodes {
			if len(n.Links) != links {
				return nil, bad("node %s has %d links, node %s has %d; all nodes have the same", n.Name, len(n.Links), nodes[0].Name, links)
			}
			if i >= len(p.Nodes) {
				node := nodePlan{Name: n.Name, Dir: filepath.Join(dir, "nodes", n.Name)}
				if mode == Namespaces {
					node.Netns, node.Cgroup = netnsName(name, n.Name), filepath.Join(p.Cgroup, n.Name)
				}
				p.Nodes = append(p.Nodes, node)
			}
			a := n.Links[link]
			if other, ok := seen[a]; ok {
				return nil, bad("nodes %s and %s both have address %s", other, n.Name, a)
			}
			seen[a] = n.Name
			port := portPlan{Address: netip.PrefixFrom(a, prefix.Bits())}
			if mode == Namespaces {
				port.Port, port.Device = fmt.Sprintf("p%d-%d", i+1, link), fmt.Sprintf("eth%d", link)
				port.MAC = mac(link, i+1)
			}
			p.Nodes[i].Ports = append(p.Nodes[i].Ports, port)
		}
	}
	return p, nil
}

// linkPrefix is the network of a link: the /24 (IPv6: /64) that all nodes share.
func linkPrefix(nodes []nodeAddresses, link int, mode Mode) (netip.Prefix, error) {
	var prefix netip.Prefix
	for _, n := range nodes {
		if link >= len(n.Links) {
			continue // reported by the caller
		}
		a := n.Links[link]
		if loop := a.IsLoopback(); loop != (mode == Loopback) {
			if loop {
				return prefix, bad("node %s has the loopback address %s, but as root each node has a network of its own: take addresses like %s", n.Name, a, linkHost(mode, 0, link, 1))
			}
			return prefix, bad("node %s has address %s, which needs a network of its own: run the lab as root, or take addresses like %s", n.Name, a, linkHost(mode, 0, link, 1))
		}
		bits := 24
		if a.Is6() {
			bits = 64
		}
		p, err := a.Prefix(bits)
		if err != nil {
			return prefix, bad("node %s: address %s: %w", n.Name, a, err)
		}
		if prefix.IsValid() && p != prefix {
			return prefix, bad("node %s has %s, outside of %s where %s is: a lab's link is one network (IPv4 /24, IPv6 /64)", n.Name, a, prefix, nodes[0].Name)
		}
		prefix = p
	}
	return prefix, nil
}

// hostIn is host number host of a network.
func hostIn(prefix netip.Prefix, host int) (netip.Addr, bool) {
	b := prefix.Addr().AsSlice()
	b[len(b)-1] = byte(host)
	return netip.AddrFromSlice(b)
}

// mac is a locally administered address that tells link and host.
func mac(link, host int) string {
	return net.HardwareAddr{0x02, 'h', 'f', 0, byte(link), byte(host)}.String()
}

// service is where the default cluster's web service answers.
func (p *plan) service() netip.AddrPort {
	port := uint16(80)
	if p.Mode == Loopback {
		port = 8077
	}
	return netip.AddrPortFrom(linkHost(p.Mode, p.Number, 0, serviceHost), port)
}

// addPoints adds coordination points to a lab that is laid out.
func (p *plan) addPoints(arbiters, lockDisks int) error {
	if n := arbiters + lockDisks; arbiters < 0 || lockDisks < 0 || n != 0 && n != 1 && n != 3 {
		return bad("a cluster has 1 or 3 coordination points or none, not %d arbiters and %d lock disks", arbiters, lockDisks)
	}
	taken := func(name string) error {
		if _, err := p.machine(name); err == nil {
			return bad("a node is called %s, as is a coordination point of the lab: rename the node", name)
		}
		return nil
	}
	seen := map[netip.Addr]string{}
	for _, n := range p.Nodes {
		for _, port := range n.Ports {
			seen[port.Address.Addr()] = n.Name
		}
	}
	for i := range arbiters {
		name := fmt.Sprintf("a%d", i+1)
		if err := taken(name); err != nil {
			return err
		}
		a := nodePlan{Name: name, Dir: filepath.Join(p.Dir, "arbiters", name)}
		if p.Mode == Namespaces {
			a.Netns, a.Cgroup = netnsName(p.Name, name), filepath.Join(p.Cgroup, name)
		}
		for link, beside := range p.Nodes[0].Ports {
			host, ok := hostIn(beside.Address.Masked(), arbiterHost+i+1)
			if by, used := seen[host]; used || !ok {
				return bad("node %s has address %s, where the lab's arbiter %s would be: take another one", by, host, name)
			}
			port := portPlan{Address: netip.PrefixFrom(host, beside.Address.Bits())}
			if p.Mode == Namespaces {
				port.Port, port.Device = fmt.Sprintf("a%d-%d", i+1, link), fmt.Sprintf("eth%d", link)
				port.MAC = mac(link, arbiterHost+i+1)
			}
			a.Ports = append(a.Ports, port)
		}
		a.Arbiter = netip.AddrPortFrom(a.Ports[0].Address.Addr(), arbiterPort)
		p.Arbiters = append(p.Arbiters, a)
	}
	for i := range lockDisks {
		name := fmt.Sprintf("d%d", i+1)
		if err := taken(name); err != nil {
			return err
		}
		p.LockDisks = append(p.LockDisks, diskPlan{Name: name, Path: filepath.Join(p.Dir, "disks", name)})
	}
	return nil
}

// machines are the nodes and the arbiters.
func (p *plan) machines() []*nodePlan {
	var out []*nodePlan
	for i := range p.Nodes {
		out = append(out, &p.Nodes[i])
	}
	for i := range p.Arbiters {
		out = append(out, &p.Arbiters[i])
	}
	return out
}

// machine finds a node or an arbiter.
func (p *plan) machine(name string) (*nodePlan, error) {
	names := ""
	for _, m := range p.machines() {
		if m.Name == name {
			return m, nil
		}
		names += " " + m.Name
	}
	return nil, absent("lab %s has no node %q; it has%s", p.Name, name, names)
}

// node finds a node.
func (p *plan) node(name string) (*nodePlan, error) {
	m, err := p.machine(name)
	if err == nil && m.Arbiter.IsValid() {
		return nil, absent("%s is an arbiter, no node of the cluster", name)
	}
	return m, err
}
