package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/protoyaml"
)

func (a *app) nodeCommand() *cobra.Command {
	list := a.withOutput(&cobra.Command{
		Use: "list", Short: "List nodes", Args: args(0, 0),
		RunE: a.run(func(ctx context.Context, c *client, _ []string) error {
			m, err := call(ctx, c, c.nodes.List, &v1.ListNodesRequest{})
			if err != nil {
				return err
			}
			return a.show("nodes/1", m, func(w io.Writer) {
				heading(w, m.GetSource())
				rows := [][]string{{"NODE", "STATE", "LEADER", "LINKS", "GROUPS", "ADDRESSES"}}
				loaded := anyLoad(m.GetNodes())
				if loaded {
					rows[0] = append(rows[0], "LEFT")
				}
				for _, n := range m.GetNodes() {
					var addresses []string
					for _, l := range n.GetLinks() {
						addresses = append(addresses, l.GetAddress())
					}
					row := []string{n.GetName(), nodeState(n), yes(n.GetLeader()), nodeLinks(n), few(n.GetGroups(), 5), strings.Join(addresses, " ")}
					if loaded {
						row = append(row, left(n))
					}
					rows = append(rows, row)
				}
				table(w, rows...)
			})
		}),
	})
	show := a.withOutput(&cobra.Command{
		Use: "show NODE", Short: "Show all that is known of a node", Args: args(1, 1), ValidArgsFunction: a.complete(nodeNames),
		RunE: a.run(func(ctx context.Context, c *client, args []string) error {
			m, err := call(ctx, c, c.nodes.Show, &v1.ShowNodeRequest{Node: args[0]})
			if err != nil {
				return err
			}
			return a.show("node/1", m, func(w io.Writer) { writeNode(w, m) })
		}),
	})
	return grouped(&cobra.Command{Use: "node", Short: "Nodes: the machines of the cluster"},
		append(a.membershipCommands(), list, show, a.nodeFreezeCommand(), a.nodeUnfreezeCommand(), a.nodeEvacuateCommand(), a.nodeLoadCommand(),
			a.nodeStopCommand(), a.nodeSilenceCommand(), a.nodeConfirmDownCommand())...)
}

// simple is a command that does one thing at once to what it names.
func (a *app) simple(use, short string, names func(*v1.Configuration) []string, done string, do func(context.Context, *client, string) error) *cobra.Command {
	return a.withOutput(&cobra.Command{
		Use: use, Short: short, Args: args(1, 1), ValidArgsFunction: a.complete(names),
		RunE: a.run(func(ctx context.Context, c *client, args []string) error {
			if err := do(ctx, c, args[0]); err != nil {
				return err
			}
			return a.did(args[0], args[0]+" "+done)
		}),
	})
}

func writeNode(w io.Writer, m *v1.ShowNodeResponse) {
	heading(w, m.GetSource())
	n := m.GetNode()
	role := "member"
	switch {
	case n.GetLeader():
		role = "leader"
	case n.GetPhase() != v1.NodePhase_NODE_PHASE_RUNNING && n.GetPhase() != v1.NodePhase_NODE_PHASE_LEAVING:
		role = ""
	}
	links := word(n.GetLinkState())
	if n.GetSelf() {
		links = "(this node)"
	}
	pairs(w, [2]string{"Node", n.GetName()}, [2]string{"State", nodeState(n)}, [2]string{"Role", role}, [2]string{"Site", n.GetSite()}, [2]string{"Links", links},
		[2]string{"Incarnation", fmt.Sprintf("raft id %d, guard %d", n.GetRaftId(), n.GetGuardIncarnation())}, [2]string{"Waits", n.GetWaitingForProof()},
		[2]string{"Reset", n.GetReset_()})
	writeHolds(w, n.GetHolds())
	rows := [][]string{{"LINK", "ADDRESS", "STATE", "ROUND TRIP", "LOSS", "HEARD"}}
	for i, l := range n.GetLinks() {
		row := []string{l.GetName(), l.GetAddress(), "", "", "", ""}
		if i < len(n.GetLinkStates()) && !n.GetSelf() {
			row[2] = word(n.GetLinkStates()[i])
		}
		for _, k := range m.GetLinks() {
			if k.GetLink() == l.GetName() {
				row[3], row[4], row[5] = roundTrip(k), loss(k), heard(k)
			}
		}
		rows = append(rows, row)
	}
	section(w, "Links", rows...)
	rows = [][]string{{"GROUP", "STATE", "ONLINE", "NOTE"}}
	for _, g := range m.GetGroups() {
		rows = append(rows, []string{g.GetGroup(), word(g.GetStatus().GetState()), onlineOf(g.GetStatus()), placeNote(g.GetStatus())})
	}
	section(w, "Groups that may run here", rows...)
	section(w, "Load", loadRows(n.GetLoad())...)
}

func onlineOf(g *v1.GroupOnNodeInfo) string {
	return fmt.Sprintf("%d of %d", g.GetOnline(), g.GetTotal())
}

func (a *app) nodeSilenceCommand() *cobra.Command {
	var length time.Duration
	var over bool
	c := a.withOutput(&cobra.Command{
		Use: "silence NODE (--for TIME | --end)", Short: "Announce that a node will not be heard for a while", Args: args(1, 1), ValidArgsFunction: a.complete(nodeNames),
		Long: `Announce that a node will not be heard for a while (it is about to be paused or
migrated). Nobody evicts it meanwhile; its groups are not taken over before the
silence has ended, even if the node is lost.`,
		Example: "  holdfast node silence n2 --for 20s",
		RunE: a.run(func(ctx context.Context, c *client, args []string) error {
			if over == (length != 0) {
				return usage("give either --for TIME or --end")
			}
			if length < 0 {
				return usage("--for %s: a silence takes 1s to 10m", length)
			}
			if _, err := call(ctx, c, c.nodes.Silence, &v1.SilenceNodeRequest{Node: args[0], Length: durationpb.New(length)}); err != nil {
				return err
			}
			text := args[0] + " may be silent for " + length.String()
			if over {
				text = "the silence of " + args[0] + " has ended"
			}
			return a.did(args[0], text)
		}),
	})
	c.Flags().DurationVar(&length, "for", 0, "length of the silence, 1s to 10m")
	c.Flags().BoolVar(&over, "end", false, "end a silence that was announced")
	return c
}

func (a *app) linkCommand() *cobra.Command {
	list := a.withOutput(&cobra.Command{
		Use: "list", Short: "List the links to all nodes, and what the next failure of one would do", Args: args(0, 0),
		Long: `List the links to all nodes as the asked node sees them: state, round trip
(median/99th percentile), heartbeats lost, time since the last heartbeat; and in
words what the next failure of a link would do.`,
		RunE: a.run(func(ctx context.Context, c *client, _ []string) error {
			m, err := call(ctx, c, c.links.List, &v1.ListLinksRequest{})
			if err != nil {
				return err
			}
			return a.show("links/1", m, func(w io.Writer) { writeLinks(w, m) })
		}),
	})
	return grouped(&cobra.Command{Use: "link", Short: "Links: the paths between nodes"}, list)
}

func writeLinks(w io.Writer, m *v1.ListLinksResponse) {
	heading(w, m.GetSource())
	head := []string{"NODE"}
	for _, name := range m.GetLinkNames() {
		head = append(head, strings.ToUpper(name))
	}
	rows := [][]string{head}
	for _, o := range m.GetOutlooks() {
		row := []string{o.GetNode()}
		for _, name := range m.GetLinkNames() {
			cell := "unknown"
			for _, k := range m.GetLinks() {
				if k.GetNode() == o.GetNode() && k.GetLink() == name {
					cell = linkCell(k)
				}
			}
			row = append(row, cell)
		}
		rows = append(rows, row)
	}
	fmt.Fprintf(w, "Links as %s sees them: state, round trip p50/p99, heartbeats lost, last heard\n", m.GetSource().GetNode())
	table(w, rows...)
	fmt.Fprintln(w)
	for _, o := range m.GetOutlooks() {
		fmt.Fprintf(w, "%s: %s\n", o.GetNode(), o.GetNextFailure())
	}
	rows = [][]string{{"NODE", "LINK", "FORGED", "REPLAYED", "MALFORMED", "REFUSED", "SEND ERRORS"}}
	for _, k := range m.GetLinks() {
		if k.GetForged()+k.GetReplayed()+k.GetMalformed()+k.GetRefused()+k.GetSendErrors() > 0 {
			rows = append(rows, []string{k.GetNode(), k.GetLink(), fmt.Sprint(k.GetForged()), fmt.Sprint(k.GetReplayed()), fmt.Sprint(k.GetMalformed()),
				fmt.Sprint(k.GetRefused()), fmt.Sprint(k.GetSendErrors())})
		}
	}
	section(w, "Dropped", rows...)
}

func linkCell(k *v1.LinkInfo) string {
	parts := []string{word(k.GetState())}
	if rt := roundTrip(k); rt != "" {
		parts = append(parts, rt)
	}
	if l := loss(k); l != "" {
		parts = append(parts, l)
	}
	if h := heard(k); h != "" {
		parts = append(parts, h+" ago")
	}
	return strings.Join(parts, ", ")
}

func roundTrip(k *v1.LinkInfo) string {
	if k.GetRoundTripP50() == nil {
		return ""
	}
	return span(k.GetRoundTripP50()) + "/" + span(k.GetRoundTripP99())
}

func loss(k *v1.LinkInfo) string {
	if k.GetReceived()+k.GetLost() == 0 {
		return ""
	}
	return fmt.Sprintf("%.1f%%", k.GetLossPercent())
}

func heard(k *v1.LinkInfo) string {
	if k.GetSinceHeard() == nil {
		return ""
	}
	return protoyaml.Duration(k.GetSinceHeard().AsDuration().Round(time.Millisecond))
}
