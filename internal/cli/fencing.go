package cli

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

func (a *app) fenceCommand() *cobra.Command {
	list := a.withOutput(&cobra.Command{
		Use: "list", Short: "List how each node can be switched off, and who depends on it", Args: args(0, 0),
		RunE: a.run(func(ctx context.Context, c *client, _ []string) error {
			m, err := call(ctx, c, c.fence.List, &v1.ListFenceRequest{})
			if err != nil {
				return err
			}
			return a.show("fence/1", m, func(w io.Writer) { writeFence(w, m) })
		}),
	})
	history := a.withOutput(&cobra.Command{
		Use: "history [NODE]", Short: "List the attempts to switch nodes off, newest first", Args: args(0, 1), ValidArgsFunction: a.complete(nodeNames),
		RunE: a.run(func(ctx context.Context, c *client, args []string) error {
			m, err := call(ctx, c, c.fence.History, &v1.FenceHistoryRequest{Node: strings.Join(args, "")})
			if err != nil {
				return err
			}
			return a.show("fence-history/1", m, func(w io.Writer) {
				heading(w, m.GetSource())
				rows := [][]string{{"NUMBER", "NODE", "STARTED", "ENDED", "BY", "RESULT", "MESSAGE"}}
				for _, op := range m.GetOperations() {
					ended := "-"
					if op.GetEndedMs() != 0 {
						ended = clock(op.GetEndedMs())
					}
					rows = append(rows, []string{strconv.FormatUint(op.GetNumber(), 10), op.GetNode(), clock(op.GetStartedMs()), ended, op.GetBy(), word(op.GetResult()), op.GetMessage()})
				}
				table(w, rows...)
			})
		}),
	})
	test := a.withOutput(&cobra.Command{
		Use: "test NODE", Short: "Look at the fence devices of a node, from the node that is asked; nothing is switched", Args: args(1, 1), ValidArgsFunction: a.complete(nodeNames),
		RunE: a.run(func(ctx context.Context, c *client, args []string) error {
			m, err := call(ctx, c, c.fence.Test, &v1.TestFenceRequest{Node: args[0]})
			if err != nil {
				return err
			}
			faults := 0
			for _, t := range m.GetTests() {
				if t.GetFault() != "" {
					faults++
				}
			}
			err = a.show("fence-test/1", m, func(w io.Writer) {
				heading(w, m.GetSource())
				rows := [][]string{{"LEVEL", "DEVICE", "AGENT", "POWER", "FAULT"}}
				for _, t := range m.GetTests() {
					rows = append(rows, []string{strconv.Itoa(int(t.GetLevel())), t.GetDevice(), t.GetAgent(), t.GetPower(), t.GetFault()})
				}
				table(w, rows...)
			})
			if err == nil && faults > 0 {
				err = &Exit{Status: 1, Err: fmt.Errorf("%d of %d devices of %s can't be used from %s", faults, len(m.GetTests()), args[0], m.GetSource().GetNode())}
			}
			return err
		}),
	})
	return grouped(&cobra.Command{Use: "fence", Short: "Fencing: switching lost nodes off"}, list, history, test)
}

func writeFence(w io.Writer, m *v1.ListFenceResponse) {
	heading(w, m.GetSource())
	rows := [][]string{{"NODE", "LEVELS", "REQUIRED BY", "WAITING"}}
	for _, n := range m.GetNodes() {
		var levels []string
		for _, l := range n.GetLevels() {
			levels = append(levels, strings.Join(l.GetDevices(), "+"))
		}
		rows = append(rows, []string{n.GetNode(), strings.Join(levels, ", "), strings.Join(n.GetRequiredBy(), ", "), strings.Join(n.GetWaiting(), ", ")})
	}
	table(w, rows...)
	if len(m.GetFaults()) > 0 {
		fmt.Fprintf(w, "\nFaults of devices on %s\n", m.GetSource().GetNode())
	}
	for _, f := range m.GetFaults() {
		fmt.Fprintf(w, "  %s\n", f)
	}
}

func (a *app) nodeConfirmDownCommand() *cobra.Command {
	var yes bool
	c := a.withOutput(&cobra.Command{
		Use: "confirm-down NODE --yes", Short: "Say that a lost node is down, so that its groups start elsewhere", Args: args(1, 1), ValidArgsFunction: a.complete(nodeNames),
		Long: `Say that a lost node is down: its groups are started elsewhere at once, whatever
they require.

WARNING: go and look first. If the node is alive, or comes back to life (a paused
virtual machine), two nodes write the same data and destroy it. Only "it has no
power" and "it was restarted" count; "it does not answer" does not. Your word is
recorded (holdfast fence history).`,
		Example: "  holdfast node confirm-down n2 --yes",
		RunE: a.run(func(ctx context.Context, c *client, args []string) error {
			if !yes {
				return usage("if %s is alive after all, data will be destroyed. Make sure that it has no power or was restarted; then: holdfast node confirm-down %s --yes", args[0], args[0])
			}
			if _, err := call(ctx, c, c.fence.ConfirmDown, &v1.ConfirmDownRequest{Node: args[0]}); err != nil {
				return err
			}
			return a.did(args[0], args[0]+" counts as down; its groups start elsewhere")
		}),
	})
	c.Flags().BoolVar(&yes, "yes", false, "the node is down: somebody has looked")
	return c
}
