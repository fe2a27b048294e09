package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/api"
)

// What holds groups, and what asks about them.
func (a *app) groupFlagCommands() []*cobra.Command {
	return []*cobra.Command{
		a.groupFreezeCommand(), a.groupUnfreezeCommand(), a.enableCommand(), a.disableCommand(), a.autoEnableCommand(),
		a.switchingCommand(), a.maintenanceCommand(), a.adminWaitCommand("clear-admin-wait (GROUP | RESOURCE)", true), a.dependenciesCommand(), a.drillCommand(),
	}
}

func (a *app) groupFreezeCommand() *cobra.Command {
	f := &freezing{}
	c := a.withOutput(&cobra.Command{
		Use: "freeze GROUP [--temporary [--until TIME]]", Short: "Do nothing about a group, whatever happens; it is still watched", Args: args(1, 1), ValidArgsFunction: a.complete(groupNames),
		Long: `Do nothing about a group, whatever happens: no failover, no clean, no command. It is
still watched. A freeze is part of the configuration, unless it is --temporary.`,
		Example: "  holdfast group freeze web --temporary --until 30m --reason \"schema change\"",
	})
	c.RunE = a.run(func(ctx context.Context, cl *client, args []string) error {
		length, err := f.length(c)
		if err != nil {
			return err
		}
		if _, err := call(ctx, cl, cl.groups.Freeze, &v1.FreezeGroupRequest{Group: args[0], Temporary: f.temporary, Reason: f.reason, Length: length}); err != nil {
			return err
		}
		return a.did(args[0], args[0]+" is frozen: nothing is done about it"+f.text())
	})
	f.flags(c)
	return c
}

func (a *app) groupUnfreezeCommand() *cobra.Command {
	dry := false
	c := a.withOutput(&cobra.Command{
		Use: "unfreeze GROUP", Short: "Look after a group again; says what follows", Args: args(1, 1), ValidArgsFunction: a.complete(groupNames),
		RunE: a.run(func(ctx context.Context, c *client, args []string) error {
			return a.unfreeze(ctx, c, &v1.FreezeName{Group: args[0]}, dry, func() error {
				_, err := call(ctx, c, c.groups.Unfreeze, &v1.UnfreezeGroupRequest{Group: args[0]})
				return err
			})
		}),
	})
	dryFlag(c, &dry)
	return c
}

func (a *app) enableCommand() *cobra.Command {
	node, dry := "", false
	c := a.withOutput(&cobra.Command{
		Use: "enable GROUP [--node NODE]", Short: "Let a group run on a node again, or everywhere", Args: args(1, 1), ValidArgsFunction: a.complete(groupNames),
		RunE: a.run(func(ctx context.Context, c *client, args []string) error {
			if dry {
				return a.preview(ctx, c, &v1.SimulateStep{Step: &v1.SimulateStep_Enable{Enable: &v1.EnableName{Group: args[0], Node: node, Enabled: true}}})
			}
			if _, err := call(ctx, c, c.groups.Enable, &v1.EnableGroupRequest{Group: args[0], Node: node}); err != nil {
				return err
			}
			return a.did(args[0], args[0]+" may run "+onNodeOr(node, "everywhere")+" again")
		}),
	})
	a.nodeFlag(c, &node, "node", "on this node (default: everywhere)")
	dryFlag(c, &dry)
	return c
}

func onNodeOr(node, else_ string) string {
	if node == "" {
		return else_
	}
	return "on " + node
}

func (a *app) disableCommand() *cobra.Command {
	var node, reason string
	c := a.withOutput(&cobra.Command{
		Use: "disable GROUP [--node NODE]", Short: "Forbid a group to run on a node, or anywhere; what runs there stays", Args: args(1, 1), ValidArgsFunction: a.complete(groupNames),
		RunE: a.run(func(ctx context.Context, c *client, args []string) error {
			if _, err := call(ctx, c, c.groups.Disable, &v1.DisableGroupRequest{Group: args[0], Node: node, Reason: reason}); err != nil {
				return err
			}
			return a.did(args[0], args[0]+" may not come online "+onNodeOr(node, "anywhere"))
		}),
	})
	a.nodeFlag(c, &node, "node", "on this node (default: everywhere)")
	reasonFlag(c, &reason)
	return c
}

func reasonFlag(c *cobra.Command, to *string) {
	c.Flags().StringVar(to, "reason", "", "why, for those who find it so")
	must(c.RegisterFlagCompletionFunc("reason", cobra.NoFileCompletions))
}

func (a *app) autoEnableCommand() *cobra.Command {
	node := ""
	c := a.withOutput(&cobra.Command{
		Use: "autoenable GROUP --node NODE", Short: "Override: say that a group does not run on a node of which nobody can tell", Args: args(1, 1), ValidArgsFunction: a.complete(groupNames),
		Long: `Say that a group does not run on a node of which nobody can tell, so that it may be
started elsewhere. If it does run there, it then runs twice and may destroy its
data: look at the node first.`,
	})
	c.RunE = a.run(func(ctx context.Context, cl *client, args []string) error {
		if node == "" {
			return usage("name the node on which it does not run with --node").hint(c)
		}
		if _, err := call(ctx, cl, cl.groups.AutoEnable, &v1.AutoEnableGroupRequest{Group: args[0], Node: node}); err != nil {
			return err
		}
		return a.did(args[0], args[0]+" is taken for not running on "+node)
	})
	a.nodeFlag(c, &node, "node", "where it does not run")
	return c
}

// onOff is a command whose first word is on or off.
func (a *app) onOff(use, short, long string, do func(ctx context.Context, c *client, group string, on bool) (string, error)) *cobra.Command {
	c := a.withOutput(&cobra.Command{Use: use, Short: short, Long: long, Args: args(2, 2),
		ValidArgsFunction: a.complete(func(*v1.Configuration) []string { return []string{"on", "off"} }, groupNames)})
	c.RunE = a.run(func(ctx context.Context, cl *client, args []string) error {
		if args[0] != "on" && args[0] != "off" {
			return usage("%q: say on or off, then the group", args[0]).hint(c)
		}
		text, err := do(ctx, cl, args[1], args[0] == "on")
		if err != nil {
			return err
		}
		return a.did(args[1], text)
	})
	return c
}

func (a *app) switchingCommand() *cobra.Command {
	reason := ""
	c := a.onOff("switching (on | off) GROUP", "Switch on or off that a group starts and moves by itself",
		"Switch on or off that a group starts and moves by itself. What runs stays, and commands\nwork as ever.",
		func(ctx context.Context, c *client, group string, on bool) (string, error) {
			if on && reason != "" {
				return "", usage("--reason goes with off")
			}
			if _, err := call(ctx, c, c.groups.SetSwitching, &v1.SetGroupSwitchingRequest{Group: group, On: on, Reason: reason}); err != nil {
				return "", err
			}
			if on {
				return group + " starts and moves by itself again", nil
			}
			return group + " neither starts nor moves by itself", nil
		})
	reasonFlag(c, &reason)
	return c
}

func (a *app) maintenanceCommand() *cobra.Command {
	node := ""
	c := a.onOff("maintenance (on | off) GROUP [--node NODE]", "Have faults of a group ignored while somebody works on it",
		"Have faults of a group on a node ignored, and nothing done by itself, while somebody\nworks on it there. It ends with off; without --node it begins where the group runs.",
		func(ctx context.Context, c *client, group string, on bool) (string, error) {
			if !on && node != "" {
				return "", usage("--node goes with on: a group is maintained on one node at a time")
			}
			if _, err := call(ctx, c, c.groups.SetMaintenance, &v1.SetGroupMaintenanceRequest{Group: group, On: on, Node: node}); err != nil {
				return "", err
			}
			if on {
				return group + " is in maintenance: its faults are ignored " + onNodeOr(node, "where it runs"), nil
			}
			return "maintenance of " + group + " has ended", nil
		})
	a.nodeFlag(c, &node, "node", "where somebody works (default: where it runs)")
	return c
}

// adminWaitCommand ends the wait of a resource for an administrator; of a
// group's, with groups, a name may be either.
func (a *app) adminWaitCommand(use string, groups bool) *cobra.Command {
	node, fault := "", false
	names := resourceNames
	if groups {
		names = func(c *v1.Configuration) []string { return append(groupNames(c), resourceNames(c)...) }
	}
	c := a.withOutput(&cobra.Command{
		Use: use, Short: "End the wait of resources for an administrator", Args: args(1, 1), ValidArgsFunction: a.complete(names),
		Long: `End the wait of resources for an administrator, after you have seen to them. They are
monitored again and go on from what is found; with --fault they are taken for
faulted, or for unable to go offline, as they would have been without the wait.`,
		RunE: a.run(func(ctx context.Context, c *client, args []string) error {
			q := &v1.ClearAdminWaitRequest{Resource: args[0], Node: node, Fault: fault}
			if groups {
				q = &v1.ClearAdminWaitRequest{Group: args[0], Node: node, Fault: fault}
			}
			_, err := call(ctx, c, c.resources.ClearAdminWait, q)
			if f := new(failure); groups && errors.As(err, &f) && f.code == api.CodeNotFound {
				var other error
				if _, other = call(ctx, c, c.resources.ClearAdminWait, &v1.ClearAdminWaitRequest{Resource: args[0], Node: node, Fault: fault}); other == nil || !errors.As(other, &f) || f.code != api.CodeNotFound {
					err = other
				}
			}
			if err != nil {
				return err
			}
			return a.did(args[0], args[0]+" does not wait for an administrator any more")
		}),
	})
	a.nodeFlag(c, &node, "node", "on this node only")
	c.Flags().BoolVar(&fault, "fault", false, "take them for faulted, or unable to go offline")
	return c
}

func (a *app) dependenciesCommand() *cobra.Command {
	return a.withOutput(&cobra.Command{
		Use: "dependencies [GROUP]", Short: "Draw which group depends on which, and say where that is not kept", Args: args(0, 1), ValidArgsFunction: a.complete(groupNames),
		RunE: a.run(func(ctx context.Context, c *client, args []string) error {
			m, err := call(ctx, c, c.groups.Dependencies, &v1.GroupDependenciesRequest{Group: strings.Join(args, "")})
			if err != nil {
				return err
			}
			return a.show("dependencies/1", m, func(w io.Writer) { writeDependencies(w, m) })
		}),
	})
}

func writeDependencies(w io.Writer, m *v1.GroupDependenciesResponse) {
	heading(w, m.GetSource())
	if len(m.GetDependencies()) == 0 {
		fmt.Fprintln(w, "no group depends on another one")
		return
	}
	d := &drawing{w: w, below: map[string][]*v1.DependencyInfo{}, state: map[string]string{}, drawn: map[string]bool{}}
	isChild := map[string]bool{}
	for _, dep := range m.GetDependencies() {
		d.below[dep.GetParent()] = append(d.below[dep.GetParent()], dep)
		isChild[dep.GetDependency().GetGroup()] = true
	}
	for _, g := range m.GetGroups() {
		d.state[g.GetName()] = word(g.GetState())
		if on := g.GetActiveOn(); len(on) > 0 {
			d.state[g.GetName()] += " on " + strings.Join(on, ", ")
		}
	}
	for _, g := range m.GetGroups() {
		if !isChild[g.GetName()] {
			d.root(g.GetName())
		}
	}
	for _, g := range m.GetGroups() { // of mutual exclusions nobody is the root
		if !d.drawn[g.GetName()] {
			d.root(g.GetName())
		}
	}
}

// drawing of trees of groups, parents above what they depend on.
type drawing struct {
	w     io.Writer
	below map[string][]*v1.DependencyInfo
	state map[string]string
	drawn map[string]bool
}

func (d *drawing) root(name string) {
	fmt.Fprintf(d.w, "%s (%s)\n", name, d.state[name])
	d.children(name, "")
}

func (d *drawing) children(name, indent string) {
	d.drawn[name] = true
	for i, dep := range d.below[name] {
		branch, next := "├─ ", "│  "
		if i == len(d.below[name])-1 {
			branch, next = "└─ ", "   "
		}
		child := dep.GetDependency().GetGroup()
		again := ""
		if d.drawn[child] && len(d.below[child]) > 0 {
			again = ", drawn above"
		}
		fmt.Fprintf(d.w, "%s%s%s: %s (%s)%s\n", indent, branch, dep.GetText(), child, d.state[child], again)
		if dep.GetBroken() != "" {
			fmt.Fprintf(d.w, "%s%snot kept: %s\n", indent, next, dep.GetBroken())
		}
		if again == "" {
			d.children(child, indent+next)
		}
	}
}

func (a *app) drillCommand() *cobra.Command {
	node := ""
	timeout := time.Minute
	c := a.withOutput(&cobra.Command{
		Use: "drill GROUP --node NODE", Short: "Find out whether a group would come online on a node; starts nothing", Args: args(1, 1), ValidArgsFunction: a.complete(groupNames),
		Long: `Find out whether a group would come online on a node, without starting it: ask the
planner, then have the agents there look whether each resource would find what it
needs (its mount point, device, program, a free address …).`,
		Example: "  holdfast group drill web --node n2",
	})
	c.RunE = a.run(func(ctx context.Context, cl *client, args []string) error {
		if node == "" {
			return usage("name the node with --node").hint(c)
		}
		ctx, cancel := context.WithTimeout(ctx, timeout+callLimit)
		defer cancel()
		r, err := cl.groups.Drill(ctx, connect.NewRequest(&v1.DrillGroupRequest{Group: args[0], Node: node, Timeout: durationpb.New(timeout)}))
		if err != nil {
			return cl.failed(err)
		}
		m := r.Msg
		if err := a.show("drill/1", m, func(w io.Writer) { writeDrill(w, m) }); err != nil {
			return err
		}
		if !m.GetWould() {
			return &failure{code: api.CodeFailed, message: m.GetVerdict(), next: "mend what has failed, and drill again"}
		}
		return nil
	})
	a.nodeFlag(c, &node, "node", "where it would come online")
	c.Flags().DurationVar(&timeout, "timeout", time.Minute, "how long the checks may take together")
	return c
}

func writeDrill(w io.Writer, m *v1.DrillGroupResponse) {
	heading(w, m.GetSource())
	rows := [][]string{{"RESOURCE", "TYPE", "CHECK", "RESULT", "FOUND"}}
	for _, c := range m.GetChecks() {
		rows = append(rows, []string{c.GetResource(), c.GetType(), c.GetCheck(), word(c.GetResult()), strings.ReplaceAll(strings.TrimSpace(c.GetMessage()), "\n", "; ")})
	}
	table(w, rows...)
	fmt.Fprintf(w, "\n%s\n", m.GetVerdict())
}
