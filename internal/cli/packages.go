package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

// Groups in the words of Serviceguard: the same services, other names.

func (a *app) packageCommand() *cobra.Command {
	list := a.withOutput(&cobra.Command{
		Use: "list", Short: "List packages: every group is one", Args: args(0, 0),
		RunE: a.run(func(ctx context.Context, c *client, _ []string) error {
			m, err := call(ctx, c, c.groups.List, &v1.ListGroupsRequest{})
			if err != nil {
				return err
			}
			return a.show("groups/1", m, func(w io.Writer) {
				heading(w, m.GetSource())
				rows := [][]string{{"PACKAGE", "STATUS", "STATE", "AUTO_RUN", "NODE", "NOTE"}}
				for _, g := range m.GetGroups() {
					rows = append(rows, packageRows(g)...)
				}
				table(w, rows...)
			})
		}),
	})
	show := a.withOutput(&cobra.Command{
		Use: "show PACKAGE", Short: "Show a package: where it is, where it may be, and why not", Args: args(1, 1), ValidArgsFunction: a.complete(groupNames),
		RunE: a.run(func(ctx context.Context, c *client, args []string) error {
			m, err := call(ctx, c, c.groups.Show, &v1.ShowGroupRequest{Group: args[0]})
			if err != nil {
				return err
			}
			return a.show("group/1", m, func(w io.Writer) { writePackage(w, m) })
		}),
	})
	run := a.groupOperation("run PACKAGE", "Run a package", "node", "on this node (default: the first that can)",
		`Run a package. As with cmrunpkg nothing else is halted or moved for it, and it does
not switch on that it starts by itself: holdfast package enable does.`, false,
		func(ctx context.Context, c *client, group string, o *operationFlags) (*v1.Operation, error) {
			m, err := call(ctx, c, c.groups.Online, &v1.OnlineGroupRequest{Group: group, Node: o.node, Propagate: o.propagate})
			return m.GetOperation(), err
		},
		func(at *v1.GroupOnNodeName) *v1.SimulateStep {
			return &v1.SimulateStep{Step: &v1.SimulateStep_Online{Online: at}}
		})
	halt := a.groupOperation("halt PACKAGE", "Halt a package", "node", "on this node only",
		`Halt a package. As with cmhaltpkg a package that was made from one of Serviceguard
neither starts nor moves by itself afterwards, until holdfast package enable.`, true,
		func(ctx context.Context, c *client, group string, o *operationFlags) (*v1.Operation, error) {
			m, err := call(ctx, c, c.groups.Offline, &v1.OfflineGroupRequest{Group: group, Node: o.node, Propagate: o.propagate, Force: o.force})
			return m.GetOperation(), err
		},
		func(at *v1.GroupOnNodeName) *v1.SimulateStep {
			return &v1.SimulateStep{Step: &v1.SimulateStep_Offline{Offline: at}}
		})
	return grouped(&cobra.Command{Use: "package", Short: "Packages: groups in the words of Serviceguard"},
		list, show, run, halt, a.packageSwitch(true), a.packageSwitch(false))
}

// packageSwitch is enable and disable: of the package as a whole, or on single nodes.
func (a *app) packageSwitch(on bool) *cobra.Command {
	var nodes []string
	reason := ""
	use, short := "enable PACKAGE [--node NODE]...", "Let a package start and move by itself; with --node, let it run there"
	if !on {
		use, short = "disable PACKAGE [--node NODE]...", "Keep a package from starting and moving by itself; with --node, from running there"
	}
	c := a.withOutput(&cobra.Command{
		Use: use, Short: short, Args: args(1, 1), ValidArgsFunction: a.complete(groupNames),
		Long: short + ".\n\nThese are the two switches of Serviceguard: AUTO_RUN of the whole package (holdfast\ngroup switching), and that of each node (holdfast group enable, disable).",
		RunE: a.run(func(ctx context.Context, c *client, args []string) error {
			if len(nodes) == 0 {
				if _, err := call(ctx, c, c.groups.SetSwitching, &v1.SetGroupSwitchingRequest{Group: args[0], On: on, Reason: reason}); err != nil {
					return err
				}
				return a.did(args[0], args[0]+map[bool]string{true: " starts and moves by itself", false: " neither starts nor moves by itself"}[on])
			}
			for _, n := range nodes {
				var err error
				if on {
					_, err = call(ctx, c, c.groups.Enable, &v1.EnableGroupRequest{Group: args[0], Node: n})
				} else {
					_, err = call(ctx, c, c.groups.Disable, &v1.DisableGroupRequest{Group: args[0], Node: n, Reason: reason})
				}
				if err != nil {
					return err
				}
			}
			return a.did(args[0], args[0]+map[bool]string{true: " may run on ", false: " may not come online on "}[on]+strings.Join(nodes, ", "))
		}),
	})
	c.Flags().StringArrayVar(&nodes, "node", nil, "on this node only; may be given more than once")
	names := a.complete(nodeNames)
	must(c.RegisterFlagCompletionFunc("node", func(c *cobra.Command, _ []string, s string) ([]string, cobra.ShellCompDirective) {
		return names(c, nil, s)
	}))
	if !on {
		reasonFlag(c, &reason)
	}
	return c
}

// packageState is a state as Serviceguard writes it.
func packageState(s v1.PackageState) string { return strings.ReplaceAll(word(s), " ", "_") }

// packageStatus is the coarse status that goes with a state.
func packageStatus(s v1.PackageState) string {
	switch s {
	case v1.PackageState_PACKAGE_STATE_RUNNING, v1.PackageState_PACKAGE_STATE_MAINTENANCE, v1.PackageState_PACKAGE_STATE_HALT_WAIT, v1.PackageState_PACKAGE_STATE_FAIL_WAIT:
		return "up"
	case v1.PackageState_PACKAGE_STATE_HALTED, v1.PackageState_PACKAGE_STATE_FAILED, v1.PackageState_PACKAGE_STATE_BLOCKED,
		v1.PackageState_PACKAGE_STATE_RELOCATE_WAIT, v1.PackageState_PACKAGE_STATE_START_WAIT:
		return "down"
	case v1.PackageState_PACKAGE_STATE_HALT_ABORTED:
		return "partially_down"
	case v1.PackageState_PACKAGE_STATE_UNSPECIFIED:
		return "unknown"
	}
	return packageState(s)
}

// autoRun of a package.
func autoRun(g *v1.GroupInfo) string {
	if slices.ContainsFunc(g.GetHolds(), func(h *v1.Hold) bool { return h.GetKind() == v1.HoldKind_HOLD_KIND_SWITCHING_OFF }) {
		return "disabled"
	}
	return "enabled"
}

func packageRows(g *v1.GroupInfo) (rows [][]string) {
	if !several(g) {
		s := g.GetPackageState()
		return [][]string{{g.GetName(), packageStatus(s), packageState(s), autoRun(g), g.GetNode(), groupNote(g)}}
	}
	for _, i := range g.GetInstances() {
		s := i.GetPackageState()
		rows = append(rows, []string{g.GetName(), packageStatus(s), packageState(s), autoRun(g), instancePlace(g, i), instanceNote(g, i)})
	}
	return rows
}

func packageType(cfg *v1.Group, g *v1.GroupInfo) string {
	if t := cfg.GetPackage().GetType(); t != 0 {
		return strings.ReplaceAll(word(t), " ", "_")
	}
	if several(g) {
		return "multi_node"
	}
	return "failover"
}

func writePackage(w io.Writer, m *v1.ShowGroupResponse) {
	heading(w, m.GetSource())
	g, cfg := m.GetGroup(), m.GetConfiguration()
	state := packageStatus(g.GetPackageState()) + "/" + packageState(g.GetPackageState())
	if on := g.GetActiveOn(); len(on) > 0 {
		state += " on " + strings.Join(on, ", ")
	}
	policy := cfg.GetPackage().GetFailoverPolicy()
	priority := ""
	if p := cfg.GetPackage().GetPriority(); p > 0 {
		priority = fmt.Sprint(p)
	}
	var needs []string
	for _, d := range cfg.GetDependsOn() {
		needs = append(needs, d.GetGroup())
	}
	pairs(w, [2]string{"Package", g.GetName()}, [2]string{"Type", packageType(cfg, g)}, [2]string{"State", state}, [2]string{"AUTO_RUN", autoRun(g)},
		[2]string{"Note", g.GetMessage()}, [2]string{"Order", strings.Join(cfg.GetSystemList(), " > ")}, [2]string{"failover_policy", policy},
		[2]string{"failback_policy", cfg.GetPackage().GetFailbackPolicy()}, [2]string{"priority", priority}, [2]string{"Depends on", strings.Join(needs, ", ")})
	writeHolds(w, g.GetHolds())
	rows := [][]string{{"NODE", "STATUS", "STATE", "SWITCHING", "NOTE"}}
	for _, n := range g.GetNodes() {
		switching := "enabled"
		if slices.ContainsFunc(n.GetHolds(), func(h *v1.Hold) bool { return h.GetKind() == v1.HoldKind_HOLD_KIND_DISABLED }) {
			switching = "disabled"
		}
		rows = append(rows, []string{n.GetNode(), packageStatus(n.GetPackageState()), packageState(n.GetPackageState()), switching, placeNote(n)})
	}
	section(w, "Nodes", rows...)
	section(w, "Resources", resourceRows(m.GetResources(), false)...)
}
