package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast-ha/holdfast/internal/config"
)

// Tuning changes the default cluster.
type Tuning struct {
	// 0: the cluster's default.
	PeerInact time.Duration
	// Restarts in place of the web server; 0: as often as it dies, -1: none.
	RestartLimit int
	// Resources of a second group on each node, for the idle bench.
	Resources int
	// OCF resources in groups beside the web server, spread over the nodes.
	OCF int
	// Use the binary's own web server even if nginx is installed.
	OwnWeb bool
	// Use it and have it record its life.
	Lives bool
	// Of the nodes in turn, and which one should win an even split.
	Sites         []string
	PreferredSite string
	// Nodes can be switched off, and the service is started elsewhere only when that was done.
	Fencing bool
}

// defaultGroup is the default cluster's group.
const defaultGroup = "web"

// apiVariable is where the CLI looks for the address of the API.
const apiVariable = "HOLDFAST_API"

// apiAddress of a node, as seen from outside of it.
func apiAddress(p *nodePlan) string { return "unix:" + p.APISocket() }

// A clusterSpec is the cluster that a lab runs.
type clusterSpec struct {
	number  int
	nodes   []nodeAddresses
	service string
	// Documents for `holdfast cluster init`.
	yaml string
	// Files below the lab's directory that the resources use.
	files map[string]string
	// The lab is a test of itself and runs no cluster.
	none bool
}

// newClusterSpec reads the given configuration or makes the default one.
func newClusterSpec(o Options, mode Mode, number int, dir string) (*clusterSpec, error) {
	c := &clusterSpec{number: number, none: len(o.Command) > 0}
	if len(o.Config) > 0 {
		if o.Nodes != 0 {
			return nil, bad("--nodes does not go with -f: the file says which nodes there are")
		}
		c.yaml = string(o.Config)
		var err error
		c.nodes, err = nodesOf(o.Config)
		return c, err
	}
	if o.Nodes == 0 {
		o.Nodes = 3
	}
	c.nodes = defaultAddresses(mode, number, o.Nodes)
	p, err := newPlan(o.Name, dir, mode, number, c.nodes, "/")
	if err != nil {
		return nil, err
	}
	c.service = p.service().String()
	binary := o.Binary
	if binary == "" {
		if binary, err = os.Executable(); err != nil {
			return nil, err
		}
	}
	if o.Sample != "" {
		groups, files, err := sampleGroups(o.Sample, binary, mode, p)
		c.yaml, c.files = clusterAndNodes(o, p)+groups, files
		return c, err
	}
	web := webServer(o, mode, p, binary)
	c.files = web.files
	types := ""
	if o.Tune.OCF > 0 {
		if types, err = ocfTypes(binary, "heartbeat:Dummy"); err != nil {
			return nil, err
		}
	}
	c.yaml = clusterAndNodes(o, p) + types + defaultGroups(o, p, web)
	return c, nil
}

// nodesOf finds the names and addresses of a configuration's nodes. All other
// faults are left to `holdfast cluster init`, which tells them all.
func nodesOf(text []byte) ([]nodeAddresses, error) {
	docs := config.Parse(config.File{Name: "the cluster file", Text: text})
	var out []nodeAddresses
	for _, n := range docs.Configuration().GetNodes() {
		node := nodeAddresses{Name: n.GetName()}
		for _, l := range n.GetLinks() {
			a, err := netip.ParseAddr(l.GetAddress())
			if ap, err2 := netip.ParseAddrPort(l.GetAddress()); err2 == nil {
				a, err = ap.Addr(), nil
			}
			if err != nil {
				return nil, bad("node %s, link %s: %w", n.GetName(), l.GetName(), err)
			}
			node.Links = append(node.Links, a)
		}
		out = append(out, node)
	}
	if len(out) == 0 {
		for _, f := range docs.Faults() {
			return nil, bad("%s", f)
		}
		return nil, bad("the cluster file has no nodes: holdfast lab up without -f makes a cluster, and holdfast export shows it")
	}
	return out, nil
}

// A webService is the default cluster's server.
type webService struct {
	program   string
	arguments string
	files     map[string]string
}

const nginxConf = `# The lab's web server: it answers with the name of the node.
daemon off;
worker_processes 1;
pid %s;
error_log stderr;
events { worker_connections 1024; }
http {
	access_log off;
	server {
		listen %s;
		location / { default_type text/plain; return 200 "$hostname\n"; }
	}
}
`

// webServer is nginx where it is installed and nodes have files of their own.
func webServer(o Options, mode Mode, p *plan, binary string) webService {
	if path := nginxPath(); path != "" && mode == Namespaces && !o.Tune.OwnWeb && !o.Tune.Lives {
		return webService{program: path, arguments: "-e stderr -c " + filepath.Join(p.Dir, "nginx.conf"), files: map[string]string{
			"nginx.conf":     fmt.Sprintf(nginxConf, "/run/nginx.pid", p.service()),
			"nginx-own.conf": fmt.Sprintf(nginxConf, "/run/nginx-own.pid", ownAddr),
		}}
	}
	web := webService{program: binary, arguments: "lab " + webCommand + " " + p.service().String()}
	if o.Tune.Lives {
		web.arguments += " " + livesDir(p.Dir)
	}
	return web
}

func nginxPath() string {
	if path, err := exec.LookPath("nginx"); err == nil {
		return path
	}
	const debian = "/usr/sbin/nginx"
	if _, err := os.Stat(debian); err == nil {
		return debian
	}
	return ""
}

// clusterAndNodes is the configuration of a lab that was given none, without its groups.
func clusterAndNodes(o Options, p *plan) string {
	var b strings.Builder
	fmt.Fprintf(&b, "kind: Cluster\nname: %s\n", p.Name)
	if o.Tune.PeerInact > 0 {
		fmt.Fprintf(&b, "timers: {peerinact: %v}\n", o.Tune.PeerInact)
	}
	if o.Tune.PreferredSite != "" {
		fmt.Fprintf(&b, "preferredFencing: site\npreferredSite: %s\n", o.Tune.PreferredSite)
	}
	if o.Tune.Fencing {
		fmt.Fprintf(&b, "fenceDevices:\n- name: switch\n  agent: %s\n  timeout: 30s\n  plugs: {", FenceAgent(p.Dir))
		for i, n := range p.Nodes {
			fmt.Fprintf(&b, "%s%s: %s", strings.Repeat(", ", min(i, 1)), n.Name, n.Name)
		}
		b.WriteString("}\n")
	}
	for i, n := range p.Nodes {
		fmt.Fprintf(&b, "---\nkind: Node\nname: %s\n", n.Name)
		if i < len(o.Tune.Sites) {
			fmt.Fprintf(&b, "site: %s\n", o.Tune.Sites[i])
		}
		if o.Tune.Fencing {
			b.WriteString("fenceLevels: [{devices: [switch]}]\n")
		}
		fmt.Fprintf(&b, "links:\n")
		for i, port := range n.Ports {
			fmt.Fprintf(&b, "- {name: link%d, address: %s}\n", i, port.Address.Addr())
		}
	}
	return b.String()
}

// defaultGroups are a web server and, for the idle bench, many resources.
func defaultGroups(o Options, p *plan, web webService) string {
	var b strings.Builder
	var names []string
	for _, n := range p.Nodes {
		names = append(names, n.Name)
	}
	list := "[" + strings.Join(names, ", ") + "]"
	fmt.Fprintf(&b, "---\nkind: Group\nname: %s\nsystemList: %s\nautoStartList: %s\n", defaultGroup, list, list)
	if o.Tune.Fencing {
		b.WriteString("takeover: power\n")
	}
	b.WriteString("resources:\n")
	requires := ""
	if p.Mode == Namespaces {
		fmt.Fprintf(&b, "- name: web-ip\n  type: IP\n  attributes: {Address: %s/24, Device: eth0}\n", p.service().Addr())
		requires = "  requires: [web-ip]\n"
	}
	fmt.Fprintf(&b, "- name: web-server\n  type: Process\n%s  attributes:\n    PathName: %s\n    Arguments: %s\n  limits: {restartLimit: %d}\n",
		requires, web.program, web.arguments, max(0, cmp.Or(o.Tune.RestartLimit, 1000)))
	if o.Tune.Resources > 0 {
		for _, name := range names {
			idleGroup(&b, name, o.Tune.Resources)
		}
	}
	for i, name := range names {
		if n := o.Tune.OCF / len(names); n > 0 {
			if i < o.Tune.OCF%len(names) {
				n++
			}
			ocfGroup(&b, name, n)
		}
	}
	return b.String()
}

// idleGroup is a group of many resources that runs on one node only.
func idleGroup(b *strings.Builder, node string, resources int) {
	fmt.Fprintf(b, "---\nkind: Group\nname: idle-%s\nsystemList: [%s]\nautoStartList: [%s]\nresources:\n", node, node, node)
	for i := range resources {
		fmt.Fprintf(b, "- name: %s-%d\n  type: FileOnOff\n  attributes: {PathName: /run/%s-%d}\n  limits: {monitorInterval: 10s}\n", node, i, node, i)
	}
}

// ocfGroup is a group of many resources of a resource agent that does next to nothing.
func ocfGroup(b *strings.Builder, node string, resources int) {
	fmt.Fprintf(b, "---\nkind: Group\nname: ocf-%s\nsystemList: [%s]\nautoStartList: [%s]\nresources:\n", node, node, node)
	for i := range resources {
		fmt.Fprintf(b, "- name: ocf-%s-%d\n  type: ocf-Dummy\n  attributes: {state: /run/ocf-%s-%d}\n  limits: {monitorInterval: 10s, monitorTimeout: 20s}\n", node, i, node, i)
	}
}

// prepare writes the files and makes the nodes' state directories.
func (c *clusterSpec) prepare(ctx context.Context, rec *record) error {
	if c.none {
		return nil
	}
	p := &rec.Plan
	for name, text := range c.files {
		// Read by the web server, which may have given up its rights.
		if err := os.WriteFile(filepath.Join(p.Dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	if err := os.Mkdir(livesDir(p.Dir), 0o700); err != nil {
		return err
	}
	file := filepath.Join(p.Dir, "cluster.yaml")
	if err := os.WriteFile(file, []byte(c.yaml), 0o600); err != nil {
		return err
	}
	out := filepath.Join(p.Dir, "init")
	init := exec.CommandContext(ctx, rec.Binary, "cluster", "init", "-f", file, "--out", out)
	if said, err := init.CombinedOutput(); err != nil {
		return fmt.Errorf("holdfast cluster init: %w\n%s", err, strings.TrimSpace(string(said)))
	}
	for i := range p.Nodes {
		if err := os.Rename(filepath.Join(out, p.Nodes[i].Name), p.Nodes[i].StateDir()); err != nil {
			return err
		}
	}
	// For holdfast cluster client: what signs certificates of this cluster.
	if err := os.Rename(filepath.Join(out, "authority"), filepath.Join(p.Dir, "authority")); err != nil {
		return err
	}
	return os.Remove(out)
}

// ownAddr is where the service's own start and stop are timed, in the probe's namespace.
const ownAddr = "127.0.0.1:80"

// ownRuns of start and stop are timed; the median counts.
const ownRuns = 9

// ownTimes measures how long the service's program itself takes from fork to
// the first answer, and from SIGTERM to its end, on an otherwise idle machine.
func (l *Lab) ownTimes(ctx context.Context) (start, stop time.Duration, err error) {
	argv := []string{l.rec.Binary, "lab", webCommand, ownAddr}
	if conf := filepath.Join(l.Dir(), "nginx-own.conf"); exists(conf) {
		argv = []string{nginxPath(), "-e", "stderr", "-c", conf}
	}
	addr := ownAddr
	if l.Mode() == Loopback {
		addr = netip.AddrPortFrom(linkHost(Loopback, l.rec.Plan.Number, 0, probeHost), 8077).String()
		argv[len(argv)-1] = addr
	}
	var starts, stops []time.Duration
	for range ownRuns {
		a, z, err := l.ownTime(ctx, argv, addr)
		if err != nil {
			return 0, 0, fmt.Errorf("time the web server itself: %w", err)
		}
		starts, stops = append(starts, a), append(stops, z)
	}
	a, err1 := summarize(starts)
	z, err2 := summarize(stops)
	return a.Median, z.Median, errors.Join(err1, err2)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func (l *Lab) ownTime(ctx context.Context, argv []string, addr string) (start, stop time.Duration, err error) {
	var said strings.Builder
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stderr = &said
	inside := func(f func() error) error { return f() }
	if name := l.rec.Plan.ProbeNetns; name != "" {
		inside = func(f func() error) error { return startInNetns(name, f) }
	}
	err = inside(func() error { // this thread's sockets are in the namespace too
		begin := monotonic()
		if err := cmd.Start(); err != nil {
			return err
		}
		for probeOnce(addr, time.Second) == "" {
			if monotonic()-begin > 10*time.Second {
				return errors.New("it does not answer")
			}
		}
		start = monotonic() - begin
		return nil
	})
	if cmd.Process == nil {
		return 0, 0, err
	}
	begin := monotonic()
	_ = cmd.Process.Signal(syscall.SIGTERM)
	waitErr := cmd.Wait()
	stop = monotonic() - begin
	if err == nil && waitErr != nil {
		err = waitErr
	}
	if err != nil {
		err = fmt.Errorf("%w: %s", err, said.String())
	}
	return start, stop, err
}
