package cli

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

func (a *app) actionCommand() *cobra.Command {
	w := &waiting{}
	node := ""
	c := a.withOutput(&cobra.Command{
		Use: "action RESOURCE ACTION [ARGUMENT...] --node NODE", Short: "Run an action of a resource on a node, and print what it says", Args: args(2, 66),
		ValidArgsFunction: a.actionNames,
		Long: `Run an action of a resource on a node, wait for its end, and print what it says.
holdfast type show lists the actions that resources of a type know. Arguments that
begin with - go behind --.`,
		Example: "  holdfast resource action web-db checkpoint --node n1\n  holdfast resource action web-db dump --node n1 -- -v full",
		RunE: a.run(func(ctx context.Context, c *client, args []string) error {
			m, err := call(ctx, c, c.resources.Action, &v1.ResourceActionRequest{Resource: args[0], Node: node, Action: args[1], Arguments: args[2:]})
			if err != nil {
				return err
			}
			return a.finish(ctx, c, m.GetOperation(), w, "")
		}),
	})
	a.nodeFlag(c, &node, "node", "where it is run (default: where its group is)")
	w.flags(c)
	return c
}

// actionNames completes a resource, then the actions of its type.
func (a *app) actionNames(cmd *cobra.Command, have []string, s string) ([]string, cobra.ShellCompDirective) {
	if len(have) == 0 {
		return a.complete(resourceNames)(cmd, have, s)
	}
	return a.complete(noNames, func(c *v1.Configuration) []string {
		for _, g := range c.GetGroups() {
			for _, r := range g.GetResources() {
				for _, t := range c.GetTypes() {
					if r.GetName() == have[0] && t.GetName() == r.GetType() {
						return t.GetSupportedActions()
					}
				}
			}
		}
		return nil
	})(cmd, have, s)
}

func (a *app) infoCommand() *cobra.Command {
	node := ""
	c := a.withOutput(&cobra.Command{
		Use: "info RESOURCE [--node NODE]", Short: "Show what the info entry point of a resource last said", Args: args(1, 1), ValidArgsFunction: a.complete(resourceNames),
		Long: "Show what the info entry point of a resource last said. Agents ask it every\ninfoInterval, while the resource is online.",
		RunE: a.run(func(ctx context.Context, c *client, args []string) error {
			m, err := call(ctx, c, c.resources.Show, &v1.ShowResourceRequest{Resource: args[0]})
			if err != nil {
				return err
			}
			if node != "" {
				var names []string
				for _, n := range m.GetResource().GetNodes() {
					names = append(names, n.GetNode())
				}
				if !slices.Contains(names, node) {
					return notThere("node", node, names)
				}
				m.Resource.Nodes = slices.DeleteFunc(m.Resource.Nodes, func(n *v1.ResourceOnNode) bool { return n.GetNode() != node })
			}
			return a.show("resource/1", m, func(w io.Writer) { writeInfo(w, m) })
		}),
	})
	a.nodeFlag(c, &node, "node", "on this node only")
	return c
}

func writeInfo(w io.Writer, m *v1.ShowResourceResponse) {
	heading(w, m.GetSource())
	rows := [][]string{{"NODE", "WHAT", "VALUE"}}
	for _, n := range m.GetResource().GetNodes() {
		info := n.GetStatus().GetInfo()
		for _, k := range slices.Sorted(maps.Keys(info)) {
			rows = append(rows, []string{n.GetNode(), k, strings.TrimSpace(info[k])})
		}
	}
	if len(rows) == 1 {
		every := m.GetEffectiveLimits().GetInfoInterval().AsDuration()
		if every == 0 {
			fmt.Fprintf(w, "%s is not asked for information: its infoInterval is 0\n", m.GetResource().GetResource().GetName())
			return
		}
		fmt.Fprintf(w, "%s has told nothing yet; while it is online it is asked every %s\n", m.GetResource().GetResource().GetName(), spanOf(every))
		return
	}
	table(w, rows...)
}
