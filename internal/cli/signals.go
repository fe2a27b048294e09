package cli

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/protoyaml"
)

func (a *app) signalCommand() *cobra.Command {
	list := a.withOutput(&cobra.Command{
		Use: "list [NAME]", Short: "List signals on all nodes", Args: args(0, 1), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.run(func(ctx context.Context, c *client, args []string) error {
			m, err := call(ctx, c, c.signals.List, &v1.ListSignalsRequest{})
			if err != nil {
				return err
			}
			if len(args) == 1 {
				if m.Signals, err = only(m.GetSignals(), args[0]); err != nil {
					return err
				}
			}
			return a.show("signals/1", m, func(w io.Writer) { writeSignals(w, m) })
		}),
	})
	return grouped(&cobra.Command{Use: "signal", Short: "Signals: what scripts tell the cluster about a node (generic resources)"},
		list, a.signalSetCommand(), a.signalClearCommand())
}

// only the signal of that name.
func only(list []*v1.SignalInfo, name string) ([]*v1.SignalInfo, error) {
	var names []string
	for _, s := range list {
		if s.GetName() == name {
			return []*v1.SignalInfo{s}, nil
		}
		names = append(names, s.GetName())
	}
	return nil, notThere("signal", name, names)
}

func writeSignals(w io.Writer, m *v1.ListSignalsResponse) {
	heading(w, m.GetSource())
	rows := [][]string{{"SIGNAL", "NODE", "VALUE", "SET", "BY", "LIVES", "NEEDED BY"}}
	for _, s := range m.GetSignals() {
		by := strings.Join(s.GetGroups(), ", ")
		if len(s.GetNodes()) == 0 {
			rows = append(rows, []string{s.GetName(), "", "never set", "", "", "", by})
		}
		for _, n := range s.GetNodes() {
			value := word(n.GetState())
			if n.GetValue() != 0 {
				value = strconv.FormatInt(n.GetValue(), 10)
			}
			if n.GetExpired() {
				value += ", expired"
			}
			life := ""
			if n.GetTimeToLive() != nil {
				life = protoyaml.Duration(n.GetTimeToLive().AsDuration())
			}
			rows = append(rows, []string{s.GetName(), n.GetNode(), value, clock(n.GetSetMs()), n.GetSource(), life, by})
		}
	}
	table(w, rows...)
}

func (a *app) signalNames(cmd *cobra.Command, have []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(have) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(commandContext(cmd), completeLimit)
	defer cancel()
	c, err := a.dial()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	m, err := call(ctx, c, c.signals.List, &v1.ListSignalsRequest{})
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return namesOf(m.GetSignals()), cobra.ShellCompDirectiveNoFileComp
}

func (a *app) signalSetCommand() *cobra.Command {
	node := ""
	var life time.Duration
	c := a.withOutput(&cobra.Command{
		Use: "set NAME (up | down | unknown | NUMBER)", Short: "Set a signal on a node", Args: args(2, 2),
		ValidArgsFunction: func(c *cobra.Command, have []string, s string) ([]string, cobra.ShellCompDirective) {
			if len(have) == 1 {
				return []string{"up", "down", "unknown"}, cobra.ShellCompDirectiveNoFileComp
			}
			return a.signalNames(c, have, s)
		},
		Long: `Set a signal on a node: up, down or unknown, or a number from 1 to 2147483647. With
--ttl it counts for unknown when it has not been set again for so long, so that a
script that has died is not believed.`,
		Example: "  holdfast signal set disk_health up --ttl 30s\n  holdfast signal set free_slots 12 --node n2",
	})
	c.RunE = a.run(func(ctx context.Context, cl *client, args []string) error {
		q := &v1.SetSignalRequest{Name: args[0], Node: node}
		switch args[1] {
		case "up":
			q.State = v1.SignalState_SIGNAL_STATE_UP
		case "down":
			q.State = v1.SignalState_SIGNAL_STATE_DOWN
		case "unknown":
			q.State = v1.SignalState_SIGNAL_STATE_UNKNOWN
		default:
			n, err := strconv.ParseInt(args[1], 10, 64)
			if err != nil || n < 1 {
				return usage("%q: a signal is up, down or unknown, or a number from 1", args[1]).hint(c)
			}
			q.Value = n
		}
		if life != 0 {
			q.TimeToLive = durationpb.New(life)
		}
		m, err := call(ctx, cl, cl.signals.Set, q)
		if err != nil {
			return err
		}
		return a.did(args[0], fmt.Sprintf("%s is %s on %s", args[0], args[1], m.GetNode()))
	})
	a.nodeFlag(c, &node, "node", "on this node (default: the one that is asked)")
	c.Flags().DurationVar(&life, "ttl", 0, "it counts for unknown when it is not set again within this time")
	return c
}

func (a *app) signalClearCommand() *cobra.Command {
	node := ""
	c := a.withOutput(&cobra.Command{
		Use: "clear NAME [--node NODE]", Short: "Take a signal out", Args: args(1, 1), ValidArgsFunction: a.signalNames,
		RunE: a.run(func(ctx context.Context, c *client, args []string) error {
			if _, err := call(ctx, c, c.signals.Clear, &v1.ClearSignalRequest{Name: args[0], Node: node}); err != nil {
				return err
			}
			return a.did(args[0], args[0]+" is not set "+onNodeOr(node, "anywhere")+" any more")
		}),
	})
	a.nodeFlag(c, &node, "node", "on this node only")
	return c
}
