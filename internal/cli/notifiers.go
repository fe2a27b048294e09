package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/api"
)

func (a *app) notifierCommand() *cobra.Command {
	here := false
	list := a.withOutput(&cobra.Command{
		Use: "list", Short: "List who is told of events, and how far each is", Args: args(0, 0),
		RunE: a.run(func(ctx context.Context, c *client, _ []string) error {
			m, err := call(ctx, c, c.notifiers.List, &v1.ListNotifiersRequest{Here: here})
			if err != nil {
				return err
			}
			return a.show("notifiers/1", m, func(w io.Writer) { writeNotifiers(w, m) })
		}),
	})
	list.Flags().BoolVar(&here, "here", false, "what the asked node itself knows, instead of the leader")
	there := false
	test := a.withOutput(&cobra.Command{
		Use: "test NAME", Short: "Have an event told that exists only for that", Args: args(1, 1), ValidArgsFunction: a.complete(notifierNames),
		Long: `Have an event of code notifier.test told by a notifier, from the leader, and say what
came of it. It goes round the queue of real events, and is not in the log.`,
		RunE: a.run(func(ctx context.Context, c *client, args []string) error {
			m, err := call(ctx, c, c.notifiers.Test, &v1.TestNotifierRequest{Name: args[0], Here: there})
			if err != nil {
				return err
			}
			if !m.GetDelivered() {
				return &failure{code: api.CodeFailed, message: fmt.Sprintf("%s could not be told by %s: %s", args[0], m.GetNode(), m.GetError()), next: "mend the cause and test it again"}
			}
			return a.show("notifier-test/1", m, func(w io.Writer) {
				fmt.Fprintf(w, "%s was told by %s\n", args[0], m.GetNode())
			})
		}),
	})
	test.Flags().BoolVar(&there, "here", false, "by the asked node itself, instead of the leader")
	return grouped(&cobra.Command{Use: "notifier", Short: "Notifiers: who is told of events"}, list, test)
}

func notifierNames(c *v1.Configuration) []string { return namesOf(c.GetCluster().GetNotifiers()) }

func writeNotifiers(w io.Writer, m *v1.ListNotifiersResponse) {
	heading(w, m.GetSource())
	if m.GetUnknown() != "" {
		fmt.Fprintf(w, "only numbers are known: %s\n\n", m.GetUnknown())
	}
	rows := [][]string{{"NOTIFIER", "WAY", "TO", "FROM", "CODES", "DONE", "PENDING", "LAST TOLD", "TROUBLE"}}
	for _, n := range m.GetNotifiers() {
		trouble := n.GetError()
		if n.GetFailures() > 0 {
			trouble = fmt.Sprintf("%d failed since %s, next try %s: %s", n.GetFailures(), clock(n.GetFailingSinceMs()), clock(n.GetNextTryMs()), n.GetError())
		}
		rows = append(rows, []string{n.GetName(), n.GetWay(), n.GetTo(), word(n.GetSeverity()), strings.Join(n.GetCodes(), " "), fmt.Sprint(n.GetDone()), fmt.Sprint(n.GetPending()),
			clock(n.GetLastDeliveryMs()), trouble})
	}
	table(w, rows...)
	snmp := slices.ContainsFunc(m.GetNotifiers(), func(n *v1.NotifierStatus) bool { return n.GetWay() == "snmp" })
	if id := m.GetSnmpEngineId(); id != "" && snmp {
		fmt.Fprintf(w, "\nSNMP engine id of this cluster: %s\n", id)
	}
}
