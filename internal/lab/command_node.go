package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// onNode is a subcommand that does one thing to one node.
func (c *commandLine) onNode(use, short string, do func(*Lab, string) error) *cobra.Command {
	return &cobra.Command{
		Use: use + " NODE", Short: short, Args: cobra.ExactArgs(1), ValidArgsFunction: c.completeNode,
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := c.open()
			if err != nil {
				return err
			}
			return do(l, args[0])
		},
	}
}

func (c *commandLine) completeNode(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	l, err := c.open()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return l.machineNames(), cobra.ShellCompDirectiveNoFileComp
}

func (c *commandLine) kill() *cobra.Command {
	return c.onNode("kill", "Cut a node's network and kill all that it runs, at once", func(l *Lab, n string) error {
		_, err := l.Kill(n)
		return err
	})
}

func (c *commandLine) start() *cobra.Command {
	return c.onNode("start", "Boot a node that is off; on one that runs, start guard if it was stopped", (*Lab).Start)
}

func (c *commandLine) pause() *cobra.Command {
	var answering bool
	cmd := c.onNode("pause", "Stop every process of a node where it is, and its network", func(l *Lab, n string) error { return l.Pause(n, answering) })
	cmd.Flags().BoolVar(&answering, "answering", false, "the node's kernel still answers on the network: only its processes hang")
	return cmd
}

func (c *commandLine) resume() *cobra.Command {
	return c.onNode("resume", "Let a paused node go on", (*Lab).Resume)
}

func (c *commandLine) heal() *cobra.Command {
	return c.onNode("heal", "End all cuts of a node, an arbiter or a lock disk", func(l *Lab, name string) error {
		if _, disk := l.rec.Plan.lockDisk(name); disk {
			return l.HealDisk(name)
		}
		return l.Heal(name)
	})
}

// running lists the nodes that are on.
func (l *Lab) running() []string {
	return slices.DeleteFunc(l.Nodes(), func(n string) bool { s, err := l.State(n); return err != nil || s == Off })
}

// cutSides cuts two sides from each other, where lock disks may be on one of them.
func (l *Lab) cutSides(from, names []string, oneWay bool, links []int) error {
	isDisk := func(name string) bool { _, ok := l.rec.Plan.lockDisk(name); return ok }
	for _, side := range [][2][]string{{from, names}, {names, from}} {
		for _, disk := range side[0] {
			if !isDisk(disk) {
				continue
			}
			if _, err := l.CutDisk(disk, side[1]...); err != nil {
				return err
			}
		}
	}
	from, names = slices.DeleteFunc(from, isDisk), slices.DeleteFunc(names, isDisk)
	if len(from) == 0 || len(names) == 0 {
		return nil
	}
	_, err := l.Split(from, names, oneWay, links...)
	return err
}

func (c *commandLine) cut() *cobra.Command {
	var from string
	var oneWay bool
	var links []int
	cmd := &cobra.Command{
		Use:   "cut NODE[,NODE…] [--from NODE[,NODE…] [--one-way]] [--link N]",
		Short: "Cut a node's network, or what it and some others send each other",
		Long: `Cut a node's network: its ports in the switch go down.
With --from only these nodes don't hear each other any more; with --one-way
too, only what --from sends does not reach NODE. Neighbour discovery still works
between such a pair.

Arbiters are cut in the same way: "cut a1", "cut n1 --from a1". Of a lock disk d1
"cut n1 --from d1" takes it from one node and "cut d1" from all nodes that are on:
reads and writes fail at once.`,
		Example: `  holdfast lab cut n1
  holdfast lab cut n1,n2 --from n3,n4`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: c.completeNode,
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := c.open()
			if err != nil {
				return err
			}
			names := strings.Split(args[0], ",")
			switch {
			case from != "":
				return l.cutSides(strings.Split(from, ","), names, oneWay, links)
			case oneWay:
				return bad("--one-way needs --from NODE")
			}
			for _, name := range names {
				if _, disk := l.rec.Plan.lockDisk(name); disk {
					_, err = l.CutDisk(name, l.running()...)
				} else {
					_, err = l.Cut(name, links...)
				}
				if err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "the other node of the pair, or the other side")
	cmd.Flags().BoolVar(&oneWay, "one-way", false, "NODE does not hear --from, which still hears NODE")
	cmd.Flags().IntSliceVar(&links, "link", nil, "only these links, from 0 (default all)")
	_ = cmd.RegisterFlagCompletionFunc("from", c.completeNode)
	return cmd
}

func (c *commandLine) exec() *cobra.Command {
	return &cobra.Command{
		Use:     "exec NODE -- COMMAND [ARGUMENT…]",
		Short:   "Run a command on a node",
		Example: "  holdfast lab exec n1 -- ip addr",
		Args:    cobra.MinimumNArgs(2), ValidArgsFunction: c.completeNode,
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := c.open()
			if err != nil {
				return err
			}
			run := l.Command(context.Background(), args[1:]...)
			run.Stdin, run.Stdout, run.Stderr = os.Stdin, os.Stdout, os.Stderr
			if err := l.StartOn(args[0], run); err != nil {
				return err
			}
			// Ctrl-C goes to the command, which shares the terminal.
			signal.Ignore(unix.SIGINT, unix.SIGQUIT)
			err = run.Wait()
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				os.Exit(max(1, exit.ExitCode())) // the command has said why
			}
			return err
		},
	}
}

func (c *commandLine) env() *cobra.Command {
	return c.onNode("env", "Print shell exports with which plain holdfast commands talk to a node", func(l *Lab, n string) error {
		p, err := l.rec.Plan.node(n)
		if err != nil {
			return err
		}
		fmt.Printf("export %s=%s\n", apiVariable, shellQuote(apiAddress(p)))
		return nil
	})
}

func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

func (c *commandLine) logs() *cobra.Command {
	var follow bool
	var lines int
	cmd := c.onNode("logs", "Show what guard and clusterd of a node, or an arbiter, have logged", func(l *Lab, n string) error {
		p, err := l.rec.Plan.machine(n)
		if err != nil {
			return err
		}
		argv := []string{"tail", "-n", "+1", p.LogFile()}
		if lines > 0 {
			argv[2] = strconv.Itoa(lines)
		}
		if follow {
			argv = append(argv, "-F")
		}
		tail := exec.Command(argv[0], argv[1:]...)
		tail.Stdout, tail.Stderr = os.Stdout, os.Stderr
		return tail.Run()
	})
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on showing what is logged")
	cmd.Flags().IntVarP(&lines, "lines", "n", 0, "only the last lines (default all)")
	return cmd
}
