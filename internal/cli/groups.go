package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

func (a *app) groupCommand() *cobra.Command {
	list := a.withOutput(&cobra.Command{
		Use: "list", Short: "List groups", Args: args(0, 0),
		RunE: a.run(func(ctx context.Context, c *client, _ []string) error {
			m, err := call(ctx, c, c.groups.List, &v1.ListGroupsRequest{})
			if err != nil {
				return err
			}
			return a.show("groups/1", m, func(w io.Writer) {
				heading(w, m.GetSource())
				rows := [][]string{{"GROUP", "STATE", "NODE", "NOTE"}}
				for _, g := range m.GetGroups() {
					rows = append(rows, []string{g.GetName(), word(g.GetState()), g.GetNode(), groupNote(g)})
				}
				table(w, rows...)
			})
		}),
	})
	show := a.withOutput(&cobra.Command{
		Use: "show GROUP", Short: "Show a group, where it is, and its resources", Args: args(1, 1), ValidArgsFunction: a.complete(groupNames),
		RunE: a.run(func(ctx context.Context, c *client, args []string) error {
			m, err := call(ctx, c, c.groups.Show, &v1.ShowGroupRequest{Group: args[0]})
			if err != nil {
				return err
			}
			return a.show("group/1", m, func(w io.Writer) { writeGroup(w, m) })
		}),
	})
	online := a.groupOperation("online GROUP", "Bring a group online", "on", "on this node (default: the best one)",
		func(ctx context.Context, c *client, group, node string) (*v1.Operation, error) {
			m, err := call(ctx, c, c.groups.Online, &v1.OnlineGroupRequest{Group: group, Node: node})
			return m.GetOperation(), err
		})
	offline := a.groupOperation("offline GROUP", "Take a group offline; it stays so until it is brought online", "on", "on this node only",
		func(ctx context.Context, c *client, group, node string) (*v1.Operation, error) {
			m, err := call(ctx, c, c.groups.Offline, &v1.OfflineGroupRequest{Group: group, Node: node})
			return m.GetOperation(), err
		})
	sw := a.groupOperation("switch GROUP", "Move a group to another node", "to", "to this node (default: the best other one)",
		func(ctx context.Context, c *client, group, node string) (*v1.Operation, error) {
			m, err := call(ctx, c, c.groups.Switch, &v1.SwitchGroupRequest{Group: group, Node: node})
			return m.GetOperation(), err
		})
	freeze := a.simple("freeze GROUP", "Do nothing about a group, whatever happens; it is still watched", groupNames, "is frozen: nothing is done about it",
		func(ctx context.Context, c *client, name string) error {
			_, err := call(ctx, c, c.groups.Freeze, &v1.FreezeGroupRequest{Group: name})
			return err
		})
	unfreeze := a.simple("unfreeze GROUP", "Look after a group again", groupNames, "is not frozen any more",
		func(ctx context.Context, c *client, name string) error {
			_, err := call(ctx, c, c.groups.Unfreeze, &v1.UnfreezeGroupRequest{Group: name})
			return err
		})
	clear := a.onNode("clear GROUP", "Take the faults off a group after their cause was mended", groupNames, "has no faults any more",
		func(ctx context.Context, c *client, name, node string) error {
			_, err := call(ctx, c, c.groups.Clear, &v1.ClearGroupRequest{Group: name, Node: node})
			return err
		})
	flush := a.onNode("flush GROUP", "Forget what is being done with a group; kills nothing", groupNames, "has nothing under way any more",
		func(ctx context.Context, c *client, name, node string) error {
			_, err := call(ctx, c, c.groups.Flush, &v1.FlushGroupRequest{Group: name, Node: node})
			return err
		})
	return grouped(&cobra.Command{Use: "group", Short: "Groups: what runs together on one node"},
		list, show, online, offline, sw, freeze, unfreeze, clear, flush)
}

// groupOperation is a command that starts an operation on a group and waits.
func (a *app) groupOperation(use, short, flag, help string, begin func(ctx context.Context, c *client, group, node string) (*v1.Operation, error)) *cobra.Command {
	w := &waiting{}
	node := ""
	c := a.withOutput(&cobra.Command{
		Use: use + " [--" + flag + " NODE]", Short: short, Args: args(1, 1), ValidArgsFunction: a.complete(groupNames),
		RunE: a.run(func(ctx context.Context, c *client, args []string) error {
			op, err := begin(ctx, c, args[0], node)
			if err != nil {
				return err
			}
			return a.finish(ctx, c, op, w, "")
		}),
	})
	a.nodeFlag(c, &node, flag, help)
	w.flags(c)
	return c
}

// onNode is a simple command that may be limited to one node.
func (a *app) onNode(use, short string, names func(*v1.Configuration) []string, done string, do func(ctx context.Context, c *client, name, node string) error) *cobra.Command {
	node := ""
	c := a.simple(use+" [--on NODE]", short, names, done, func(ctx context.Context, c *client, name string) error { return do(ctx, c, name, node) })
	a.nodeFlag(c, &node, "on", "on this node only")
	return c
}

func writeGroup(w io.Writer, m *v1.ShowGroupResponse) {
	heading(w, m.GetSource())
	g, cfg := m.GetGroup(), m.GetConfiguration()
	state := word(g.GetState())
	if g.GetNode() != "" {
		state += " on " + g.GetNode()
	}
	failOver := ""
	if cfg.AutoFailOver != nil && cfg.GetAutoFailOver() == 0 {
		failOver = "only by an administrator"
	}
	pairs(w, [2]string{"Group", g.GetName()}, [2]string{"State", state}, [2]string{"Note", groupNote(g)},
		[2]string{"May run on", strings.Join(cfg.GetSystemList(), ", ")}, [2]string{"Starts itself on", strings.Join(cfg.GetAutoStartList(), ", ")},
		[2]string{"Moves", failOver}, [2]string{"Last online on", g.GetLastOnline()})
	rows := [][]string{{"NODE", "STATE", "ONLINE", "WANTED", "NOTE"}}
	for _, n := range g.GetNodes() {
		note := n.GetMessage()
		if n.GetFaulted() {
			note = strings.TrimSuffix("faulted here; "+note, "; ")
		}
		rows = append(rows, []string{n.GetNode(), word(n.GetState()), onlineOf(n), wanted(n.GetWant()), note})
	}
	section(w, "Nodes", rows...)
	section(w, "Resources", resourceRows(m.GetResources(), false)...)
}

func wanted(want v1.Want) string {
	if want == v1.Want_WANT_NOTHING {
		return ""
	}
	return word(want)
}

// resourceRows has one row per resource and node.
func resourceRows(list []*v1.ResourceInfo, withGroup bool) [][]string {
	head := []string{"RESOURCE", "TYPE", "NODE", "STATE", "NOTE"}
	if withGroup {
		head = []string{"RESOURCE", "GROUP", "TYPE", "NODE", "STATE", "NOTE"}
	}
	rows := [][]string{head}
	for _, r := range list {
		for _, n := range r.GetNodes() {
			note := n.GetStatus().GetMessage()
			if k := n.GetStatus().GetRestarts(); k > 0 {
				note = strings.TrimSuffix(fmt.Sprintf("restarted %d times; %s", k, note), "; ")
			}
			row := []string{r.GetResource().GetName(), r.GetResource().GetType(), n.GetNode(), resourceState(n.GetStatus()), note}
			if withGroup {
				row = append([]string{row[0], r.GetGroup()}, row[1:]...)
			}
			rows = append(rows, row)
		}
	}
	return rows
}
