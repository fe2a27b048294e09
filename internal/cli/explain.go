package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

func (a *app) explainCommand() *cobra.Command {
	group := a.withOutput(&cobra.Command{
		Use: "group GROUP", Short: "Say why a group is where it is, why not elsewhere, and what would happen", Args: args(1, 1), ValidArgsFunction: a.complete(groupNames),
		RunE: a.run(func(ctx context.Context, c *client, args []string) error {
			m, err := call(ctx, c, c.explain.Group, &v1.ExplainGroupRequest{Group: args[0]})
			if err != nil {
				return err
			}
			return a.show("explanation/1", m, func(w io.Writer) { writeExplanation(w, m) })
		}),
	})
	return grouped(&cobra.Command{Use: "explain", Short: "Say why things are as they are"}, group)
}

func writeExplanation(w io.Writer, m *v1.ExplainGroupResponse) {
	heading(w, m.GetSource())
	fmt.Fprintln(w, m.GetSummary())
	bullets(w, "Why", m.GetReasons())
	var not []string
	for _, r := range m.GetNotThere() {
		not = append(not, about(r))
	}
	bullets(w, "Why not elsewhere", not)
	bullets(w, "What if", m.GetWhatIf())
	if len(m.GetDecisions()) > 0 {
		fmt.Fprintln(w, "\nDecisions, newest first")
	}
	for _, d := range m.GetDecisions() {
		writeDecision(w, d, fmt.Sprintf("#%d  %s  ", d.GetNumber(), clock(d.GetTimeMs())))
	}
}

// about is a rejection as a sentence that names its node.
func about(r *v1.Rejection) string {
	if strings.HasPrefix(r.GetReason(), r.GetNode()+" ") {
		return r.GetReason()
	}
	return r.GetNode() + ": " + r.GetReason()
}

func bullets(w io.Writer, heading string, lines []string) {
	if len(lines) == 0 {
		return
	}
	fmt.Fprintf(w, "\n%s\n", heading)
	for _, l := range lines {
		fmt.Fprintf(w, "  - %s\n", l)
	}
}

func writeDecision(w io.Writer, d *v1.Decision, prefix string) {
	fmt.Fprintf(w, "  %s%s\n", prefix, d.GetAction())
	for _, r := range d.GetReasons() {
		fmt.Fprintf(w, "      because %s\n", r)
	}
	for _, r := range d.GetRejections() {
		fmt.Fprintf(w, "      not there: %s\n", about(r))
	}
}

// stepFlag appends a step each time it is given, so that the order of the
// command line is the order of the simulation.
type stepFlag struct {
	steps *[]*v1.SimulateStep
	make  func(name, node string) *v1.SimulateStep
	what  string
}

func (f *stepFlag) String() string { return "" }
func (f *stepFlag) Type() string   { return f.what }

func (f *stepFlag) Set(text string) error {
	name, node, _ := strings.Cut(text, "@")
	if name == "" {
		return fmt.Errorf("write %s", f.what)
	}
	*f.steps = append(*f.steps, f.make(name, node))
	return nil
}

func (a *app) simulateCommand() *cobra.Command {
	var steps []*v1.SimulateStep
	c := a.withOutput(&cobra.Command{
		Use: "simulate", Short: "Say what would happen if; nothing is changed", Args: args(0, 0),
		Long: `Say what would happen if. The steps are taken in the order of the command line on
a copy of the present state, each after the one before has settled; agents
succeed at everything.`,
		Example: "  holdfast simulate --fail n1\n  holdfast simulate --fail n1,n2 --join n1 --switch web@n1\n  holdfast simulate --fault web-server",
		RunE: a.run(func(ctx context.Context, c *client, _ []string) error {
			if len(steps) == 0 {
				return usage("say what happens, for example --fail NODE; holdfast simulate --help lists the steps")
			}
			m, err := call(ctx, c, c.simulate.Simulate, &v1.SimulateRequest{Steps: steps})
			if err != nil {
				return err
			}
			return a.show("simulation/1", m, func(w io.Writer) { writeSimulation(w, m) })
		}),
	})
	step := func(name, what, help string, make func(name, node string) *v1.SimulateStep) *pflag.Flag {
		c.Flags().Var(&stepFlag{&steps, make, what}, name, help)
		return c.Flags().Lookup(name)
	}
	on := func(group, node string) *v1.GroupOnNodeName { return &v1.GroupOnNodeName{Group: group, Node: node} }
	step("fail", "NODE[,NODE]", "nodes that fail, at the same moment", func(n, _ string) *v1.SimulateStep {
		return &v1.SimulateStep{Step: &v1.SimulateStep_FailNodes{FailNodes: &v1.NodeNames{Nodes: strings.Split(n, ",")}}}
	})
	step("join", "NODE", "a node that comes back", func(n, _ string) *v1.SimulateStep {
		return &v1.SimulateStep{Step: &v1.SimulateStep_JoinNode{JoinNode: n}}
	})
	step("stop", "NODE", "a node that is stopped", func(n, _ string) *v1.SimulateStep {
		return &v1.SimulateStep{Step: &v1.SimulateStep_StopNode{StopNode: &v1.StopNodeName{Node: n}}}
	})
	step("evacuate", "NODE", "a node that is stopped after its groups have moved away", func(n, _ string) *v1.SimulateStep {
		return &v1.SimulateStep{Step: &v1.SimulateStep_StopNode{StopNode: &v1.StopNodeName{Node: n, Evacuate: true}}}
	})
	step("online", "GROUP[@NODE]", "a group that is brought online", func(g, n string) *v1.SimulateStep {
		return &v1.SimulateStep{Step: &v1.SimulateStep_Online{Online: on(g, n)}}
	})
	step("offline", "GROUP[@NODE]", "a group that is taken offline", func(g, n string) *v1.SimulateStep {
		return &v1.SimulateStep{Step: &v1.SimulateStep_Offline{Offline: on(g, n)}}
	})
	step("switch", "GROUP[@NODE]", "a group that is moved", func(g, n string) *v1.SimulateStep {
		return &v1.SimulateStep{Step: &v1.SimulateStep_Switch{Switch: on(g, n)}}
	})
	step("clear", "GROUP[@NODE]", "a group whose faults are cleared", func(g, n string) *v1.SimulateStep {
		return &v1.SimulateStep{Step: &v1.SimulateStep_Clear{Clear: on(g, n)}}
	})
	step("fault", "RESOURCE[@NODE]", "a resource that faults", func(r, n string) *v1.SimulateStep {
		return &v1.SimulateStep{Step: &v1.SimulateStep_Fault{Fault: &v1.ResourceOnNodeName{Resource: r, Node: n}}}
	})
	for _, frozen := range []bool{true, false} {
		verb, past := "freeze", "frozen"
		if !frozen {
			verb, past = "unfreeze", "unfrozen"
		}
		step(verb+"-group", "GROUP", "a group that is "+past, func(g, _ string) *v1.SimulateStep {
			return &v1.SimulateStep{Step: &v1.SimulateStep_Freeze{Freeze: &v1.FreezeName{Group: g, Frozen: frozen}}}
		})
		step(verb+"-node", "NODE", "a node that is "+past, func(n, _ string) *v1.SimulateStep {
			return &v1.SimulateStep{Step: &v1.SimulateStep_Freeze{Freeze: &v1.FreezeName{Node: n, Frozen: frozen}}}
		})
	}
	c.Flags().SortFlags = false
	for flag, names := range map[string]func(*v1.Configuration) []string{
		"fail": nodeNames, "join": nodeNames, "stop": nodeNames, "evacuate": nodeNames, "freeze-node": nodeNames, "unfreeze-node": nodeNames,
		"online": groupNames, "offline": groupNames, "switch": groupNames, "clear": groupNames, "freeze-group": groupNames, "unfreeze-group": groupNames,
		"fault": resourceNames,
	} {
		complete := a.complete(names)
		must(c.RegisterFlagCompletionFunc(flag, func(c *cobra.Command, _ []string, s string) ([]string, cobra.ShellCompDirective) {
			return complete(c, nil, s)
		}))
	}
	return c
}

func writeSimulation(w io.Writer, m *v1.SimulateResponse) {
	heading(w, m.GetSource())
	for _, s := range m.GetSteps() {
		fmt.Fprintln(w, s.GetStep())
		if s.GetNote() != "" {
			fmt.Fprintf(w, "  %s\n", s.GetNote())
		}
		for _, d := range s.GetDecisions() {
			writeDecision(w, d, "")
		}
	}
	rows := [][]string{{"GROUP", "BEFORE", "AFTER", "WHY"}}
	for _, g := range m.GetGroups() {
		why := ""
		if g.GetBefore() != g.GetAfter() || g.GetAfter() == "" {
			why = g.GetReason()
		}
		rows = append(rows, []string{g.GetGroup(), g.GetBefore(), g.GetAfter(), why})
	}
	section(w, "In the end", rows...)
	fmt.Fprintf(w, "\n%s\n", m.GetVerdict())
}
