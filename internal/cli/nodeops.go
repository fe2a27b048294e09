package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

// freezing flags of node freeze and group freeze.
type freezing struct {
	temporary bool
	reason    string
	until     time.Duration
}

func (f *freezing) flags(c *cobra.Command) {
	c.Flags().BoolVar(&f.temporary, "temporary", false, "no part of the configuration: it ends with --until, or with the cluster")
	c.Flags().StringVar(&f.reason, "reason", "", "why, for those who find it frozen")
	c.Flags().DurationVar(&f.until, "until", 0, "it ends by itself after so long; only with --temporary")
	must(c.RegisterFlagCompletionFunc("reason", cobra.NoFileCompletions))
}

// length of the freeze; nil: it does not end by itself.
func (f *freezing) length(c *cobra.Command) (*durationpb.Duration, error) {
	switch {
	case f.until == 0:
		return nil, nil
	case !f.temporary:
		return nil, usage("--until %s: only a freeze with --temporary ends by itself", spanOf(f.until)).hint(c)
	case f.until < 0:
		return nil, usage("--until %s: write how long it lasts, such as 30m", f.until).hint(c)
	}
	return durationpb.New(f.until), nil
}

// text says how long a freeze lasts.
func (f *freezing) text() string {
	switch {
	case f.until > 0:
		return ", for " + spanOf(f.until)
	case f.temporary:
		return ", until it is unfrozen or the cluster ends"
	}
	return ""
}

func (a *app) nodeFreezeCommand() *cobra.Command {
	f, w := &freezing{}, &waiting{}
	evacuate := false
	c := a.withOutput(&cobra.Command{
		Use: "freeze NODE [--temporary [--until TIME]] [--evacuate]", Short: "Let no group come to a node; what runs there stays", Args: args(1, 1), ValidArgsFunction: a.complete(nodeNames),
		Long: `Let no group come to a node. What runs there stays, and may leave; with --evacuate
it is moved away first.`,
		Example: "  holdfast node freeze n2 --temporary --until 2h --reason \"new disks\" --evacuate",
	})
	c.RunE = a.run(func(ctx context.Context, cl *client, args []string) error {
		length, err := f.length(c)
		if err != nil {
			return err
		}
		m, err := call(ctx, cl, cl.nodes.Freeze, &v1.FreezeNodeRequest{Node: args[0], Temporary: f.temporary, Reason: f.reason, Length: length, Evacuate: evacuate})
		if err != nil {
			return err
		}
		text := args[0] + " is frozen: no group comes to it" + f.text()
		if m.GetOperation() != nil {
			fmt.Fprintln(a.Err, text)
			return a.finish(ctx, cl, m.GetOperation(), w, "")
		}
		return a.did(args[0], text)
	})
	f.flags(c)
	c.Flags().BoolVar(&evacuate, "evacuate", false, "move its groups to other nodes first")
	w.flags(c)
	return c
}

func (a *app) nodeUnfreezeCommand() *cobra.Command {
	dry := false
	c := a.withOutput(&cobra.Command{
		Use: "unfreeze NODE", Short: "Let groups come to a node again; says what follows", Args: args(1, 1), ValidArgsFunction: a.complete(nodeNames),
		RunE: a.run(func(ctx context.Context, c *client, args []string) error {
			return a.unfreeze(ctx, c, &v1.FreezeName{Node: args[0]}, dry, func() error {
				_, err := call(ctx, c, c.nodes.Unfreeze, &v1.UnfreezeNodeRequest{Node: args[0]})
				return err
			})
		}),
	})
	dryFlag(c, &dry)
	return c
}

// unfreeze says what will follow, then does it unless dry.
func (a *app) unfreeze(ctx context.Context, c *client, what *v1.FreezeName, dry bool, do func() error) error {
	step := &v1.SimulateStep{Step: &v1.SimulateStep_Freeze{Freeze: what}}
	if dry {
		return a.preview(ctx, c, step)
	}
	plan, err := call(ctx, c, c.simulate.Simulate, &v1.SimulateRequest{Steps: []*v1.SimulateStep{step}})
	if err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	name := what.GetGroup() + what.GetNode()
	if a.output == "json" || a.output == "yaml" {
		return a.did(name, name+" is not frozen any more")
	}
	fmt.Fprintln(a.Out, name+" is not frozen any more")
	writeFollows(a.Out, plan)
	return nil
}

// writeFollows lists what a plan decides.
func writeFollows(w io.Writer, m *v1.SimulateResponse) {
	var made []*v1.Decision
	for _, s := range m.GetSteps() {
		made = append(made, s.GetDecisions()...)
	}
	if len(made) == 0 {
		fmt.Fprintln(w, "nothing follows from that")
		return
	}
	fmt.Fprintln(w, "what follows")
	for _, d := range made {
		writeDecision(w, d, "")
	}
}

func dryFlag(c *cobra.Command, dry *bool) {
	c.Flags().BoolVar(dry, "dry-run", false, "only say what would follow, and change nothing")
}

// preview says what would follow from steps; nothing is changed.
func (a *app) preview(ctx context.Context, c *client, steps ...*v1.SimulateStep) error {
	m, err := call(ctx, c, c.simulate.Simulate, &v1.SimulateRequest{Steps: steps})
	if err != nil {
		return err
	}
	return a.show("simulation/1", m, func(w io.Writer) { writeSimulation(w, m) })
}

func (a *app) nodeEvacuateCommand() *cobra.Command {
	w := &waiting{}
	dry := false
	c := a.withOutput(&cobra.Command{
		Use: "evacuate NODE", Short: "Move the groups of a node to other nodes; the node stays", Args: args(1, 1), ValidArgsFunction: a.complete(nodeNames),
		Long: `Move the groups of a node to other nodes. The node stays a member, and groups may
come to it again: freeze it (holdfast node freeze NODE --evacuate) if they shall not.`,
		RunE: a.run(func(ctx context.Context, c *client, args []string) error {
			if dry {
				return a.preview(ctx, c, &v1.SimulateStep{Step: &v1.SimulateStep_EvacuateNode{EvacuateNode: args[0]}})
			}
			m, err := call(ctx, c, c.nodes.Evacuate, &v1.EvacuateNodeRequest{Node: args[0]})
			if err != nil {
				return err
			}
			return a.finish(ctx, c, m.GetOperation(), w, "")
		}),
	})
	dryFlag(c, &dry)
	w.flags(c)
	return c
}

func (a *app) nodeLoadCommand() *cobra.Command {
	none := false
	c := a.withOutput(&cobra.Command{
		Use: "load NODE (DIMENSION=AMOUNT... | --none)", Short: "Say what is measured on a node; it takes the place of what groups declare", Args: args(1, 65),
		ValidArgsFunction: a.complete(nodeNames),
		Long: `Say what is measured on a node, in the dimensions of its capacity. It takes the
place of what groups declare, until it is said anew. A dimension that is not
named is not measured any more.`,
		Example: "  holdfast node load n1 cpu=50 memory=12288\n  holdfast node load n1 --none",
	})
	c.RunE = a.run(func(ctx context.Context, cl *client, args []string) error {
		load := map[string]int64{}
		for _, word := range args[1:] {
			dim, text, ok := strings.Cut(word, "=")
			n, err := strconv.ParseInt(text, 10, 64)
			if !ok || dim == "" || err != nil || n < 0 {
				return usage("%q: write DIMENSION=AMOUNT, such as cpu=50", word).hint(c)
			}
			if _, twice := load[dim]; twice {
				return usage("%s is named twice", dim).hint(c)
			}
			load[dim] = n
		}
		if none != (len(load) == 0) {
			return usage("name what is measured, such as cpu=50, or give --none").hint(c)
		}
		if _, err := call(ctx, cl, cl.nodes.SetLoad, &v1.SetNodeLoadRequest{Node: args[0], Load: load}); err != nil {
			return err
		}
		if none {
			return a.did(args[0], "nothing is measured on "+args[0]+" any more: what groups declare counts")
		}
		return a.did(args[0], "load of "+args[0]+": "+strings.Join(args[1:], " "))
	})
	c.Flags().BoolVar(&none, "none", false, "nothing is measured there any more")
	return c
}

// anyLoad: some node has a capacity or a limit, or is measured.
func anyLoad(nodes []*v1.NodeInfo) bool {
	return slices.ContainsFunc(nodes, func(n *v1.NodeInfo) bool { return len(n.GetLoad()) > 0 })
}

// left says what is left of a node that groups could come to.
func left(n *v1.NodeInfo) string {
	if n.GetPhase() != v1.NodePhase_NODE_PHASE_RUNNING {
		return ""
	}
	return loadLeft(n.GetLoad())
}

// loadLeft says in one cell what is left of each dimension.
func loadLeft(list []*v1.LoadInfo) string {
	var parts []string
	for _, i := range list {
		if i.GetCapacity() == 0 && !i.GetLimit() {
			parts = append(parts, fmt.Sprintf("%s no bound", i.GetDimension()))
			continue
		}
		parts = append(parts, fmt.Sprintf("%s %d of %d", i.GetDimension(), i.GetLeft(), i.GetCapacity()))
	}
	return strings.Join(parts, ", ")
}

func loadRows(list []*v1.LoadInfo) [][]string {
	rows := [][]string{{"WHAT", "CAPACITY", "RESERVED", "USED", "LEFT", "NOTE"}}
	for _, i := range list {
		row := []string{i.GetDimension(), fmt.Sprint(i.GetCapacity()), fmt.Sprint(i.GetReserved()), fmt.Sprint(i.GetUsed()), fmt.Sprint(i.GetLeft()), ""}
		if i.GetCapacity() == 0 && !i.GetLimit() {
			row[1], row[2], row[4] = "no bound", "", ""
		}
		var notes []string
		if i.GetLimit() {
			notes = append(notes, "limit")
		}
		if i.GetMeasured() {
			notes = append(notes, "measured")
		}
		if i.GetHigh() {
			notes = append(notes, "high")
		}
		row[5] = strings.Join(notes, ", ")
		rows = append(rows, row)
	}
	return rows
}

func (a *app) nodeStopCommand() *cobra.Command {
	w := &waiting{}
	evacuate, detach, dry := false, false, false
	c := a.withOutput(&cobra.Command{
		Use: "stop NODE", Short: "Take a node's groups offline and let it leave the cluster", Args: args(1, 1), ValidArgsFunction: a.complete(nodeNames),
		Long: `Take a node's groups offline and let it leave the cluster.
With --evacuate its groups are moved to other nodes first; without, they stay
offline until the node is back or somebody brings them online elsewhere.

With --detach what runs there goes on, without the cluster: nobody watches it,
and it is started nowhere else, until the node is started again.`,
		RunE: a.run(func(ctx context.Context, c *client, args []string) error {
			if evacuate && detach {
				return usage("what is detached goes on where it is: give either --evacuate or --detach")
			}
			if dry {
				if detach {
					return usage("--dry-run says what moves, and with --detach nothing does")
				}
				return a.preview(ctx, c, &v1.SimulateStep{Step: &v1.SimulateStep_StopNode{StopNode: &v1.StopNodeName{Node: args[0], Evacuate: evacuate}}})
			}
			n, err := call(ctx, c, c.nodes.Show, &v1.ShowNodeRequest{Node: args[0]})
			if err != nil {
				return err
			}
			m, err := call(ctx, c, c.nodes.Stop, &v1.StopNodeRequest{Node: args[0], Evacuate: evacuate, Detach: detach})
			if err != nil {
				return err
			}
			gone := ""
			if n.GetNode().GetSelf() {
				gone = args[0]
			}
			return a.finish(ctx, c, m.GetOperation(), w, gone)
		}),
	})
	c.Flags().BoolVar(&evacuate, "evacuate", false, "move its groups to other nodes first")
	c.Flags().BoolVar(&detach, "detach", false, "leave running what runs there, without the cluster")
	dryFlag(c, &dry)
	w.flags(c)
	return c
}
