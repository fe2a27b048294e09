package lab

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// Hidden subcommands: processes that a lab starts from its own binary.
const (
	initCommand  = "node-init"
	probeCommand = "probe"
	webCommand   = "web"
)

// A command line, as far as all subcommands share it.
type commandLine struct{ name, dir string }

func (c *commandLine) open() (*Lab, error) { return Open(c.name, c.dir) }

// Command is `holdfast lab`.
func Command() *cobra.Command {
	c := &commandLine{}
	root := &cobra.Command{
		Use:   "lab",
		Short: "Run a whole cluster on this machine",
		Long: `Run a whole cluster on this machine, to try it, test it or measure it.

As root each node gets a network, processes, mounts and a host name of its own,
and links between nodes can be cut. Without root the nodes are plain processes
on loopback addresses.`,
		Example: `  holdfast lab up
  eval "$(holdfast lab env n1)"
  holdfast status
  holdfast lab kill n1
  holdfast lab down`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.PersistentFlags().StringVar(&c.name, "name", DefaultName, "name of the lab")
	root.PersistentFlags().StringVar(&c.dir, "dir", "", "directory of the lab (default "+DefaultDir("NAME")+")")
	root.AddCommand(c.up(), c.status(), c.down(), c.kill(), c.start(), c.cut(), c.heal(), c.pause(), c.resume(),
		c.exec(), c.env(), c.logs(), c.demo(), c.bench())
	root.AddCommand(
		&cobra.Command{Use: initCommand + " SPEC", Hidden: true, Args: cobra.ExactArgs(1),
			RunE: func(_ *cobra.Command, args []string) error { return runInit(args[0]) }},
		&cobra.Command{Use: probeCommand + " HOST:PORT EVERY TIMEOUT", Hidden: true, Args: cobra.ExactArgs(3),
			RunE: func(_ *cobra.Command, args []string) error {
				every, err1 := time.ParseDuration(args[1])
				timeout, err2 := time.ParseDuration(args[2])
				if err := errors.Join(err1, err2); err != nil || every <= 0 || timeout <= 0 {
					return fmt.Errorf("prober: %v, %v: %w", args[1], args[2], err)
				}
				return runProber(args[0], every, timeout, os.Stdin, os.Stdout)
			}},
		&cobra.Command{Use: powerCommand, Hidden: true, Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				ctx, stop := interruptible(cmd)
				defer stop()
				return runPower(ctx, c.name, c.dir)
			}},
		&cobra.Command{Use: agentCommand, Hidden: true, Args: cobra.NoArgs,
			RunE: func(*cobra.Command, []string) error {
				dir := c.dir
				if dir == "" {
					dir = DefaultDir(c.name)
				}
				os.Exit(runAgent(dir, os.Stdin, os.Stdout, os.Stderr))
				return nil
			}},
		&cobra.Command{Use: webCommand + " HOST:PORT [DIR]", Hidden: true, Args: cobra.RangeArgs(1, 2),
			RunE: func(_ *cobra.Command, args []string) error { return runWeb(args[0], strings.Join(args[1:], "")) }},
	)
	return root
}

// interruptible ends the context on Ctrl-C and SIGTERM, so that what was begun
// is removed.
func interruptible(cmd *cobra.Command) (context.Context, func()) {
	ctx := cmd.Context()
	if ctx == nil {
		ctx = context.Background()
	}
	return signal.NotifyContext(ctx, unix.SIGINT, unix.SIGTERM)
}

// progress prints steps for people.
func progress(w io.Writer) func(string) {
	return func(s string) { fmt.Fprintln(w, s) }
}

func (c *commandLine) options(cmd *cobra.Command) Options {
	return Options{Name: c.name, Dir: c.dir, Progress: progress(cmd.ErrOrStderr())}
}

func (c *commandLine) up() *cobra.Command {
	var nodes, arbiters, lockDisks int
	var fencing bool
	var sample string
	var file string
	cmd := &cobra.Command{
		Use:   "up [--nodes N | -f CLUSTER.yaml] [--arbiters A] [--lock-disks D]",
		Short: "Make a lab, start its nodes and wait until its groups are online",
		Long: `Make a lab, start its nodes and wait until its groups are online.

With --arbiters or --lock-disks (1 or 3 in all) it has coordination points too: arbiters
are machines a1, a2 …, which can be killed, cut and paused as nodes can; lock
disks are files d1, d2 … that all nodes see.`,
		Example: `  holdfast lab up
  holdfast lab up --nodes 2 --arbiters 1
  holdfast lab up --nodes 4 --arbiters 2 --lock-disks 1
  holdfast lab up --sample tiers`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := interruptible(cmd)
			defer stop()
			ctx, cancel := context.WithTimeoutCause(ctx, upLimit, fmt.Errorf("it took more than %v", upLimit))
			defer cancel()
			o := c.options(cmd)
			if cmd.Flags().Changed("nodes") {
				if o.Nodes = nodes; nodes < 1 {
					return bad("--nodes must be 1 to %d", MaxNodes)
				}
			}
			o.Arbiters, o.LockDisks, o.Tune.Fencing = arbiters, lockDisks, fencing
			if o.Sample = sample; sample != "" && (file != "" || fencing) {
				return bad("--sample does not go with -f or --fencing")
			}
			if fencing && file != "" {
				return bad("--fencing does not go with -f, which says itself how nodes can be switched off")
			}
			if file != "" {
				text, err := os.ReadFile(file)
				if err != nil {
					return bad("%w", err)
				}
				if o.Config = text; len(text) == 0 {
					return bad("%s is empty", file)
				}
			}
			l, err := Bring(ctx, o)
			if err != nil {
				return err
			}
			for _, missing := range l.Mode().Missing() {
				fmt.Fprintln(cmd.ErrOrStderr(), missing)
			}
			if l.Service() != "" {
				fmt.Fprintf(cmd.ErrOrStderr(), "The group %s answers at http://%s/ (seen from the nodes).\n", defaultGroup, l.Service())
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "Next: eval \"$(holdfast lab env %s%s)\"; holdfast status\n", l.Nodes()[0], c.flags())
			return nil
		},
	}
	cmd.Flags().IntVar(&nodes, "nodes", 3, "number of nodes of the default cluster")
	cmd.Flags().StringVarP(&file, "file", "f", "", "configuration of the cluster, instead of the default one")
	cmd.Flags().IntVar(&arbiters, "arbiters", 0, "number of arbiters")
	cmd.Flags().BoolVar(&fencing, "fencing", false, "with a power switch: the service is started elsewhere only when a lost node was switched off")
	cmd.Flags().IntVar(&lockDisks, "lock-disks", 0, "number of lock disks")
	cmd.Flags().StringVar(&sample, "sample", "", "groups instead of one web server: "+strings.Join(sampleNames, ", "))
	return cmd
}

// flags that find this lab again, for hints.
func (c *commandLine) flags() string {
	s := ""
	if c.name != DefaultName {
		s += " --name " + c.name
	}
	if c.dir != "" {
		s += " --dir " + c.dir
	}
	return s
}

func (c *commandLine) down() *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "Remove the lab and all that it has made",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			say := progress(cmd.ErrOrStderr())
			if err := Sweep(say); err != nil {
				return err
			}
			l, err := c.open()
			if errors.Is(err, errNoLab) {
				if c.dir == "" {
					err = removeNamed(c.name)
				} else {
					err = nil
				}
				if err == nil {
					say("there is no lab " + c.name)
				}
				return err
			}
			if err != nil {
				return err
			}
			if err := l.Down(); err != nil {
				return err
			}
			say("removed lab " + l.Name())
			return nil
		},
	}
}

// StatusSchema names the form of `holdfast lab status -o json`.
const StatusSchema = "holdfast-lab-status/1"

// A Status is what `holdfast lab status` tells.
type Status struct {
	Schema  string       `json:"schema"`
	Name    string       `json:"name"`
	Dir     string       `json:"dir"`
	Mode    Mode         `json:"mode"`
	Phase   Phase        `json:"phase"`
	Service string       `json:"service,omitempty"`
	Nodes   []NodeStatus `json:"nodes"`
	// Coordination points, arbiters first.
	Points []PointStatus `json:"points,omitempty"`
}

// PointStatus of one coordination point.
type PointStatus struct {
	// "arbiter", "lock disk"; of the latter only the name and what the cluster says.
	Kind string `json:"kind"`
	// Of a lock disk.
	Path string `json:"path,omitempty"`
	NodeStatus
}

// NodeStatus of one node.
type NodeStatus struct {
	Name      string    `json:"name"`
	State     NodeState `json:"state"`
	Init      int       `json:"init,omitempty"`
	Addresses []string  `json:"addresses"`
	Boots     int       `json:"boots"`
	// Links (from 0) whose port is off, and who is not heard on a link.
	Cut     []int            `json:"cut,omitempty"`
	Blocked map[int][]string `json:"blocked,omitempty"`
	// Lock disks that it has lost.
	CutDisks []string `json:"cut_disks,omitempty"`
	// What the node says of the cluster, in one sentence.
	Cluster string `json:"cluster,omitempty"`
}

// Status of the lab and, in a word each, of the cluster as its nodes see it.
func (l *Lab) Status(ctx context.Context) Status {
	s := Status{Schema: StatusSchema, Name: l.Name(), Dir: l.Dir(), Mode: l.Mode(), Phase: l.rec.Phase, Service: l.Service()}
	for i := range l.rec.Nodes {
		p := &l.rec.Plan.Nodes[i]
		n := l.machineStatus(p, &l.rec.Nodes[i])
		if c, err := l.Client(p.Name); n.State == Running && err == nil {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			if st, err := c.Status(ctx); err != nil {
				n.Cluster = "its API does not answer"
			} else if n.Cluster = st.Verdict; n.Cluster == "" {
				n.Cluster = word(st.Health.String(), "HEALTH_")
			}
			cancel()
		}
		s.Nodes = append(s.Nodes, n)
	}
	s.Points = l.pointStatus(ctx)
	return s
}

func (l *Lab) machineStatus(p *nodePlan, r *nodeRecord) NodeStatus {
	n := NodeStatus{Name: p.Name, State: l.state(p, r), Boots: r.Boots, Cut: r.Cut, Blocked: r.Blocked, CutDisks: r.CutDisks}
	for _, port := range p.Ports {
		n.Addresses = append(n.Addresses, port.Address.Addr().String())
	}
	if n.State != Off {
		n.Init = r.Init.PID
	}
	return n
}

// pointStatus tells of the points, and what the first node that answers says of them.
func (l *Lab) pointStatus(ctx context.Context) []PointStatus {
	p := &l.rec.Plan
	var out []PointStatus
	for i := range p.Arbiters {
		out = append(out, PointStatus{Kind: arbiterKind, NodeStatus: l.machineStatus(&p.Arbiters[i], &l.rec.Arbiters[i])})
	}
	for _, d := range p.LockDisks {
		out = append(out, PointStatus{Kind: lockDiskKind, Path: d.Path, NodeStatus: NodeStatus{Name: d.Name, State: Running}})
	}
	if len(out) == 0 {
		return nil
	}
	for _, node := range l.Nodes() {
		c, err := l.Client(node)
		if s, _ := l.State(node); s != Running || err != nil {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		q, err := c.Quorum(ctx)
		cancel()
		if err != nil {
			continue
		}
		for i := range out {
			out[i].Cluster = cmp.Or(usable(q, []string{out[i].Name}), "in use, seen from "+node)
		}
		break
	}
	return out
}

func (c *commandLine) status() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the lab and its nodes",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			l, err := c.open()
			if err != nil {
				return err
			}
			s := l.Status(cmd.Context())
			w := cmd.OutOrStdout()
			if output == "json" {
				return json.NewEncoder(w).Encode(s)
			}
			fmt.Fprintf(w, "lab %s, %s, %s, in %s\n", s.Name, s.Mode, s.Phase, s.Dir)
			if s.Service != "" {
				fmt.Fprintf(w, "service %s at http://%s/\n", defaultGroup, s.Service)
			}
			t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
			fmt.Fprintln(t, "NODE\tSTATE\tNETWORK\tADDRESSES\tCLUSTER")
			for _, n := range s.Nodes {
				fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", n.Name, n.State, n.network(), strings.Join(n.Addresses, " "), n.Cluster)
			}
			for _, p := range s.Points {
				if p.Kind == lockDiskKind {
					fmt.Fprintf(t, "%s\t-\t-\t%s\t%s\n", p.Name, p.Path, p.Cluster)
				} else {
					fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", p.Name, p.State, p.network(), strings.Join(p.Addresses, " "), p.Cluster)
				}
			}
			return t.Flush()
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	return cmd
}

func checkOutput(o string) error {
	if o != "table" && o != "json" {
		return bad("-o %s is unknown here: table or json", o)
	}
	return nil
}

func (n *NodeStatus) network() string {
	var cuts []string
	if len(n.Cut) == len(n.Addresses) {
		cuts = append(cuts, "cut")
	} else {
		for _, link := range n.Cut {
			cuts = append(cuts, fmt.Sprintf("link%d cut", link))
		}
	}
	for link := range n.Addresses {
		if from := n.Blocked[link]; len(from) > 0 {
			cuts = append(cuts, fmt.Sprintf("link%d deaf to %s", link, strings.Join(from, " ")))
		}
	}
	for _, disk := range n.CutDisks {
		cuts = append(cuts, disk+" cut")
	}
	if n.State == Off {
		return "-"
	}
	return cmp.Or(strings.Join(cuts, ", "), "ok")
}

func (c *commandLine) demo() *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "Show a service that survives the loss of its node; leaves the lab to play with",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := interruptible(cmd)
			defer stop()
			o := c.options(cmd)
			o.Progress = nil
			w := cmd.OutOrStdout()
			return Demo(ctx, w, o, func(node string, args ...string) error {
				l, err := c.open()
				if err != nil {
					return err
				}
				p, err := l.rec.Plan.node(node)
				if err != nil {
					return err
				}
				run := exec.CommandContext(ctx, l.rec.Binary, args...)
				run.Env = append(os.Environ(), apiVariable+"="+apiAddress(p))
				run.Stdout, run.Stderr = w, w
				return run.Run()
			})
		},
	}
}
