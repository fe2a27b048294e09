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
		Use: "list", Short: "List groups, one line per instance", Args: args(0, 0),
		RunE: a.run(func(ctx context.Context, c *client, _ []string) error {
			m, err := call(ctx, c, c.groups.List, &v1.ListGroupsRequest{})
			if err != nil {
				return err
			}
			return a.show("groups/1", m, func(w io.Writer) {
				heading(w, m.GetSource())
				rows := [][]string{{"GROUP", "STATE", "NODE", "NOTE"}}
				for _, g := range m.GetGroups() {
					rows = append(rows, groupRows(g)...)
				}
				table(w, rows...)
			})
		}),
	})
	online := a.groupOperation("online GROUP", "Bring a group online", "node", "on this node (default: the best one)",
		`Bring a group online: on the node that is named, else on the best one, of a parallel
group on all nodes. With --propagate the groups that it depends on come first.`, false,
		func(ctx context.Context, c *client, group string, o *operationFlags) (*v1.Operation, error) {
			m, err := call(ctx, c, c.groups.Online, &v1.OnlineGroupRequest{Group: group, Node: o.node, Propagate: o.propagate})
			return m.GetOperation(), err
		},
		func(at *v1.GroupOnNodeName) *v1.SimulateStep {
			return &v1.SimulateStep{Step: &v1.SimulateStep_Online{Online: at}}
		})
	offline := a.groupOperation("offline GROUP", "Take a group offline; it stays so until it is brought online", "node", "on this node only",
		`Take a group offline, everywhere or on one node. It stays so until it is brought
online. With --propagate the groups that depend on it go offline first. --force does
not wait for its preoffline trigger, and goes over a halt that was aborted.`, true,
		func(ctx context.Context, c *client, group string, o *operationFlags) (*v1.Operation, error) {
			m, err := call(ctx, c, c.groups.Offline, &v1.OfflineGroupRequest{Group: group, Node: o.node, Propagate: o.propagate, Force: o.force})
			return m.GetOperation(), err
		},
		func(at *v1.GroupOnNodeName) *v1.SimulateStep {
			return &v1.SimulateStep{Step: &v1.SimulateStep_Offline{Offline: at}}
		})
	sw := a.groupOperation("switch GROUP", "Move a group to another node", "to", "to this node (default: the best other one)",
		`Move a group to another node: offline where it is, then online there. With
--propagate all groups that it depends on, and that depend on it, move along.`, false,
		func(ctx context.Context, c *client, group string, o *operationFlags) (*v1.Operation, error) {
			m, err := call(ctx, c, c.groups.Switch, &v1.SwitchGroupRequest{Group: group, Node: o.node, Propagate: o.propagate})
			return m.GetOperation(), err
		},
		func(at *v1.GroupOnNodeName) *v1.SimulateStep {
			return &v1.SimulateStep{Step: &v1.SimulateStep_Switch{Switch: at}}
		})
	clear := a.onNode("clear GROUP", "Take the faults off a group after their cause was mended", groupNames, "has no faults any more",
		func(ctx context.Context, c *client, name, node string) error {
			_, err := call(ctx, c, c.groups.Clear, &v1.ClearGroupRequest{Group: name, Node: node})
			return err
		})
	force := false
	flush := a.onNode("flush GROUP", "Forget what is being done with a group; kills nothing", groupNames, "has nothing under way any more",
		func(ctx context.Context, c *client, name, node string) error {
			_, err := call(ctx, c, c.groups.Flush, &v1.FlushGroupRequest{Group: name, Node: node, Force: force})
			return err
		})
	flush.Flags().BoolVar(&force, "force", false, "also while a resource is being cleaned, can't be taken offline, or waits for an administrator")
	return grouped(&cobra.Command{Use: "group", Short: "Groups: what runs together on one node, or on several"},
		append([]*cobra.Command{list, a.groupShowCommand(), online, offline, sw, clear, flush}, a.groupFlagCommands()...)...)
}

// operationFlags of a command that starts an operation on a group.
type operationFlags struct {
	node                       string
	any, propagate, force, dry bool
	waiting
}

// groupOperation is a command that starts an operation on a group and waits.
func (a *app) groupOperation(use, short, flag, help, long string, mayForce bool,
	begin func(ctx context.Context, c *client, group string, o *operationFlags) (*v1.Operation, error), step func(*v1.GroupOnNodeName) *v1.SimulateStep) *cobra.Command {
	o := &operationFlags{}
	c := a.withOutput(&cobra.Command{
		Use: use + " [--" + flag + " NODE]", Short: short, Long: long, Args: args(1, 1), ValidArgsFunction: a.complete(groupNames),
		RunE: a.run(func(ctx context.Context, c *client, args []string) error {
			switch {
			case o.any && o.node != "":
				return usage("--any leaves the choice to the cluster: leave out --%s %s", flag, o.node)
			case o.dry:
				return a.preview(ctx, c, step(&v1.GroupOnNodeName{Group: args[0], Node: o.node, Propagate: o.propagate}))
			}
			op, err := begin(ctx, c, args[0], o)
			if err != nil {
				return err
			}
			return a.finish(ctx, c, op, &o.waiting, "")
		}),
	})
	a.nodeFlag(c, &o.node, flag, help)
	if flag == "node" {
		alias(c, "on", &o.node)
	}
	if mayForce {
		c.Flags().BoolVar(&o.force, "force", false, "do not wait for triggers, and go over a halt that was aborted")
	} else {
		c.Flags().BoolVar(&o.any, "any", false, "let the cluster choose the node, as it does without this flag")
	}
	c.Flags().BoolVar(&o.propagate, "propagate", false, "also the groups that depend on it, or that it depends on, as needed")
	dryFlag(c, &o.dry)
	o.waiting.flags(c)
	return c
}

// alias is an older name of a flag, which still works.
func alias(c *cobra.Command, name string, to *string) {
	c.Flags().StringVar(to, name, "", "")
	must(c.Flags().MarkHidden(name))
}

// onNode is a simple command that may be limited to one node.
func (a *app) onNode(use, short string, names func(*v1.Configuration) []string, done string, do func(ctx context.Context, c *client, name, node string) error) *cobra.Command {
	node := ""
	c := a.simple(use+" [--node NODE]", short, names, done, func(ctx context.Context, c *client, name string) error { return do(ctx, c, name, node) })
	a.nodeFlag(c, &node, "node", "on this node only")
	alias(c, "on", &node)
	return c
}

func (a *app) groupShowCommand() *cobra.Command {
	forecast := false
	c := a.withOutput(&cobra.Command{
		Use: "show GROUP", Short: "Show a group, where it is, what holds it, and its resources", Args: args(1, 1), ValidArgsFunction: a.complete(groupNames),
		Long: `Show a group, where it is, what holds it and the commands that end that, and its
resources. With --forecast: how the nodes compare for it now, by the numbers that
its policy goes by.`,
		RunE: a.run(func(ctx context.Context, c *client, args []string) error {
			if forecast {
				m, err := call(ctx, c, c.groups.Forecast, &v1.ForecastGroupRequest{Group: args[0]})
				if err != nil {
					return err
				}
				return a.show("forecast/1", m, func(w io.Writer) { writeForecast(w, m) })
			}
			m, err := call(ctx, c, c.groups.Show, &v1.ShowGroupRequest{Group: args[0]})
			if err != nil {
				return err
			}
			return a.show("group/1", m, func(w io.Writer) { writeGroup(w, m) })
		}),
	})
	c.Flags().BoolVar(&forecast, "forecast", false, "rank the nodes for it as its policy sees them now")
	return c
}

func writeForecast(w io.Writer, m *v1.ForecastGroupResponse) {
	heading(w, m.GetSource())
	fmt.Fprintf(w, "Nodes for group %s by %s\n", m.GetGroup(), m.GetPolicy())
	rows := [][]string{{"RANK", "NODE", "MEASURE", "ACTIVE", "LEFT", "NOTE"}}
	for _, n := range m.GetNodes() {
		rank, note := "", n.GetRejected()
		if n.GetRank() > 0 {
			rank = fmt.Sprint(n.GetRank())
		}
		if n.GetCurrent() {
			note = strings.TrimSuffix("it is here; "+note, "; ")
		}
		rows = append(rows, []string{rank, n.GetNode(), n.GetMeasure(), fmt.Sprint(n.GetActiveGroups()), loadLeft(n.GetLoad()), note})
	}
	table(w, rows...)
}

// several: a group that has more than one instance, or could have.
func several(g *v1.GroupInfo) bool {
	return g.GetKind() == v1.GroupKind_GROUP_KIND_PARALLEL || g.GetKind() == v1.GroupKind_GROUP_KIND_HYBRID
}

// groupRows are a line per instance: group, state, node, note.
func groupRows(g *v1.GroupInfo) (rows [][]string) {
	if !several(g) {
		return [][]string{{g.GetName(), word(g.GetState()), g.GetNode(), groupNote(g)}}
	}
	for _, i := range g.GetInstances() {
		rows = append(rows, []string{g.GetName(), word(i.GetState()), instancePlace(g, i), instanceNote(g, i)})
	}
	return rows
}

// instancePlace says where an instance is, or which one it is while it is nowhere.
func instancePlace(g *v1.GroupInfo, i *v1.InstanceInfo) string {
	switch {
	case g.GetKind() == v1.GroupKind_GROUP_KIND_PARALLEL:
		return i.GetInstance()
	case i.GetNode() != "":
		return i.GetNode() + " (zone " + i.GetInstance() + ")"
	}
	return "(zone " + i.GetInstance() + ")"
}

// holdWord says in few words what holds something; where is said of those on single nodes.
func holdWord(h *v1.Hold, where bool) string {
	text := map[v1.HoldKind]string{
		v1.HoldKind_HOLD_KIND_FROZEN: "frozen", v1.HoldKind_HOLD_KIND_HELD_OFFLINE: "taken offline by an administrator",
		v1.HoldKind_HOLD_KIND_DISABLED: "disabled", v1.HoldKind_HOLD_KIND_AUTO_DISABLED: "not known", v1.HoldKind_HOLD_KIND_SWITCHING_OFF: "switching off",
		v1.HoldKind_HOLD_KIND_MAINTENANCE: "in maintenance", v1.HoldKind_HOLD_KIND_ADMIN_WAIT: "waits for an administrator: " + h.GetResource(),
		v1.HoldKind_HOLD_KIND_DETACHED: "detached", v1.HoldKind_HOLD_KIND_FAULTED: "faulted", v1.HoldKind_HOLD_KIND_UNABLE_TO_OFFLINE: "unable to offline: " + h.GetResource(),
		v1.HoldKind_HOLD_KIND_WAITS_FOR_NODE: "waits for its node", v1.HoldKind_HOLD_KIND_RESOURCE_OFFLINE: "left offline: " + h.GetResource(), v1.HoldKind_HOLD_KIND_FLUSHED: "flushed",
		v1.HoldKind_HOLD_KIND_STOPPED: "stopped", v1.HoldKind_HOLD_KIND_EVICTED: "evicted",
	}[h.GetKind()]
	if h.GetUntilMs() != 0 {
		text += " until " + clock(h.GetUntilMs())
	}
	if where && h.GetNode() != "" {
		text += " on " + h.GetNode()
	}
	return text
}

// noted: a line of a list names a hold, unless what it says already tells of it.
func noted(h *v1.Hold, said string) bool {
	k := h.GetKind()
	return k != v1.HoldKind_HOLD_KIND_FAULTED && k != v1.HoldKind_HOLD_KIND_WAITS_FOR_NODE && (h.GetReason() == "" || !strings.Contains(said, h.GetReason()))
}

func groupNote(g *v1.GroupInfo) string {
	var notes []string
	for _, h := range g.GetHolds() {
		if noted(h, g.GetMessage()) {
			notes = append(notes, holdWord(h, true))
		}
	}
	return joinNotes(notes, g.GetOperation(), g.GetMessage())
}

func joinNotes(notes []string, operation uint64, message string) string {
	if operation != 0 {
		notes = append(notes, fmt.Sprintf("operation %d", operation))
	}
	if message != "" {
		notes = append(notes, message)
	}
	return strings.Join(notes, "; ")
}

// instanceNote is what holds one of several instances, and what it waits for.
func instanceNote(g *v1.GroupInfo, i *v1.InstanceInfo) string {
	var notes []string
	for _, h := range g.GetHolds() {
		mine := false
		for _, n := range i.GetNodes() {
			mine = mine || n == h.GetNode()
		}
		if noted(h, i.GetMessage()) && (h.GetNode() == "" && h.GetKind() != v1.HoldKind_HOLD_KIND_HELD_OFFLINE || mine) {
			notes = append(notes, holdWord(h, g.GetKind() == v1.GroupKind_GROUP_KIND_HYBRID))
		}
	}
	if i.GetHeldOffline() && g.GetKind() == v1.GroupKind_GROUP_KIND_HYBRID {
		notes = append(notes, "taken offline by an administrator")
	}
	return joinNotes(notes, i.GetOperation(), i.GetMessage())
}

func writeGroup(w io.Writer, m *v1.ShowGroupResponse) {
	heading(w, m.GetSource())
	g, cfg := m.GetGroup(), m.GetConfiguration()
	state := word(g.GetState())
	if len(g.GetActiveOn()) > 0 {
		state += " on " + strings.Join(g.GetActiveOn(), ", ")
	}
	failOver := ""
	if cfg.AutoFailOver != nil && cfg.GetAutoFailOver() == 0 {
		failOver = "only by an administrator"
	}
	kind := ""
	if several(g) {
		kind = word(g.GetKind())
	}
	var needs []string
	for _, d := range cfg.GetDependsOn() {
		needs = append(needs, d.GetGroup())
	}
	pairs(w, [2]string{"Group", g.GetName()}, [2]string{"State", state}, [2]string{"Kind", kind}, [2]string{"Note", groupNote(g)},
		[2]string{"May run on", strings.Join(cfg.GetSystemList(), ", ")}, [2]string{"Starts itself on", strings.Join(cfg.GetAutoStartList(), ", ")},
		[2]string{"Depends on", strings.Join(needs, ", ")}, [2]string{"Moves", failOver}, [2]string{"Last online on", g.GetLastOnline()}, [2]string{"Owner", cfg.GetOwner()})
	writeHolds(w, g.GetHolds())
	rows := [][]string{{"NODE", "STATE", "ONLINE", "WANTED", "NOTE"}}
	for _, n := range g.GetNodes() {
		rows = append(rows, []string{n.GetNode(), word(n.GetState()), onlineOf(n), wanted(n.GetWant()), placeNote(n)})
	}
	section(w, "Nodes", rows...)
	section(w, "Resources", resourceRows(m.GetResources(), false)...)
}

// placeNote is what there is to say of a group on one node.
func placeNote(n *v1.GroupOnNodeInfo) string {
	var notes []string
	if n.GetFaulted() {
		notes = append(notes, "faulted here")
	}
	for _, h := range n.GetHolds() {
		if noted(h, n.GetMessage()) {
			notes = append(notes, holdWord(h, false))
		}
	}
	if c := n.GetConfidence(); c > 0 && c < 100 {
		notes = append(notes, fmt.Sprintf("confidence %d%%", c))
	}
	if n.GetMessage() != "" {
		notes = append(notes, n.GetMessage())
	}
	return strings.Join(notes, "; ")
}

// writeHolds lists what holds something: why, since when, by whom, and what ends it.
func writeHolds(w io.Writer, holds []*v1.Hold) {
	rows := [][]string{{"WHAT", "WHERE", "SINCE", "UNTIL", "BY", "WHY", "ENDS WITH"}}
	for _, h := range holds {
		what := holdWord(&v1.Hold{Kind: h.GetKind(), Resource: h.GetResource()}, false)
		rows = append(rows, []string{what, h.GetNode(), clock(h.GetSinceMs()), clock(h.GetUntilMs()), h.GetBy(), h.GetReason(), h.GetLift()})
	}
	section(w, "Held", rows...)
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
