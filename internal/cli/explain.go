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
	node := ""
	resource := a.withOutput(&cobra.Command{
		Use: "resource RESOURCE [--node NODE]", Short: "Say why a resource is in its state, and what it waits for", Args: args(1, 1), ValidArgsFunction: a.complete(resourceNames),
		RunE: a.run(func(ctx context.Context, c *client, args []string) error {
			m, err := call(ctx, c, c.explain.Resource, &v1.ExplainResourceRequest{Resource: args[0], Node: node})
			if err != nil {
				return err
			}
			return a.show("explained-resource/1", m, func(w io.Writer) { writeResourceExplanation(w, m) })
		}),
	})
	a.nodeFlag(resource, &node, "node", "on this node only")
	machine := a.withOutput(&cobra.Command{
		Use: "node NODE", Short: "Say what runs on a node and why, what it would take, and what its loss would do", Args: args(1, 1), ValidArgsFunction: a.complete(nodeNames),
		RunE: a.run(func(ctx context.Context, c *client, args []string) error {
			m, err := call(ctx, c, c.explain.Node, &v1.ExplainNodeRequest{Node: args[0]})
			if err != nil {
				return err
			}
			return a.show("explained-node/1", m, func(w io.Writer) { writeNodeExplanation(w, m) })
		}),
	})
	event := a.withOutput(&cobra.Command{
		Use: "event NUMBER", Short: "Say what came of an event, or what it came of, and what would have changed that", Args: args(1, 1), ValidArgsFunction: cobra.NoFileCompletions,
		Long:    "Say which decision an event came of or led to, what was known then, why not otherwise,\nand what would have changed it. holdfast events lists the numbers.",
		Example: "  holdfast explain event 4711",
		RunE: a.run(func(ctx context.Context, c *client, args []string) error {
			n, err := strconv.ParseUint(strings.TrimPrefix(args[0], "#"), 10, 64)
			if err != nil || n == 0 {
				return usage("%q is no number of an event; holdfast events lists them", args[0])
			}
			m, err := call(ctx, c, c.explain.Event, &v1.ExplainEventRequest{Number: n})
			if err != nil {
				return err
			}
			return a.show("explained-event/1", m, func(w io.Writer) { writeEventExplanation(w, m) })
		}),
	})
	return grouped(&cobra.Command{Use: "explain", Short: "Say why things are as they are"}, group, resource, machine, event)
}

func writeExplanation(w io.Writer, m *v1.ExplainGroupResponse) {
	heading(w, m.GetSource())
	fmt.Fprintln(w, m.GetSummary())
	writeHolds(w, m.GetHolds())
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
	for _, i := range d.GetInputs() {
		fmt.Fprintf(w, "      from %s\n", i)
	}
	for _, r := range d.GetRejections() {
		fmt.Fprintf(w, "      not there: %s\n", about(r))
	}
}

func writeResourceExplanation(w io.Writer, m *v1.ExplainResourceResponse) {
	heading(w, m.GetSource())
	fmt.Fprintln(w, m.GetSummary())
	for _, n := range m.GetNodes() {
		bullets(w, "On "+n.GetNode()+": "+resourceState(n.GetStatus()), n.GetReasons())
		if len(n.GetChain()) > 0 {
			fmt.Fprintln(w, "  What it waits for")
		}
		for i, c := range n.GetChain() {
			fmt.Fprintf(w, "  %s- %s\n", strings.Repeat("  ", i+1), c)
		}
		for _, h := range n.GetHolds() {
			fmt.Fprintf(w, "  Held: %s; %s\n", holdWord(h, false), h.GetLift())
		}
	}
	writeEvents(w, "Events, newest first", m.GetEvents())
	if len(m.GetDecisions()) > 0 {
		fmt.Fprintln(w, "\nDecisions about its group, newest first")
	}
	for _, d := range m.GetDecisions() {
		fmt.Fprintf(w, "  #%d  %s  %s\n", d.GetNumber(), clock(d.GetTimeMs()), d.GetAction())
	}
}

func writeEvents(w io.Writer, heading string, list []*v1.Event) {
	var lines []string
	for _, e := range list {
		lines = append(lines, eventLine(e))
	}
	bullets(w, heading, lines)
}

func writeNodeExplanation(w io.Writer, m *v1.ExplainNodeResponse) {
	heading(w, m.GetSource())
	fmt.Fprintln(w, m.GetSummary())
	bullets(w, "Why", m.GetReasons())
	for _, list := range []struct {
		heading string
		groups  []*v1.GroupReason
	}{{"What runs there", m.GetRuns()}, {"What it could take", m.GetCouldTake()}, {"What it could not take", m.GetCouldNotTake()}} {
		var lines []string
		for _, g := range list.groups {
			lines = append(lines, g.GetGroup()+": "+g.GetReason())
		}
		bullets(w, list.heading, lines)
	}
	bullets(w, "If it failed", m.GetWhatIf())
	section(w, "Load", loadRows(m.GetLoad())...)
	writeEvents(w, "Events, newest first", m.GetEvents())
}

func writeEventExplanation(w io.Writer, m *v1.ExplainEventResponse) {
	heading(w, m.GetSource())
	fmt.Fprintln(w, eventLine(m.GetEvent()))
	fmt.Fprintln(w, m.GetSummary())
	if d := m.GetDecision(); d != nil {
		title := "The decision that it came of"
		if m.GetLedTo() {
			title = "The decision that it led to"
		}
		fmt.Fprintf(w, "\n%s\n", title)
		writeDecision(w, d, fmt.Sprintf("#%d  %s  ", d.GetNumber(), clock(d.GetTimeMs())))
	}
	bullets(w, "What would have changed it", m.GetWouldChange())
	writeEvents(w, "Before", m.GetBefore())
	writeEvents(w, "After", m.GetAfter())
}
