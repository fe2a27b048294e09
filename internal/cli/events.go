package cli

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/notify/eventcode"
	"github.com/holdfast-ha/holdfast/internal/protoyaml"
)

func (a *app) eventsCommand() *cobra.Command {
	var follow bool
	var since, until, level string
	var limited func() bool
	q := &v1.ListEventsRequest{}
	c := a.withOutput(&cobra.Command{
		Use: "events", Short: "Show what happened, oldest first", Args: args(0, 0),
		Long: `Show what happened, oldest first: the newest 1000 events, or all of the time that is asked
for. Each node keeps many more on its own disk than the cluster does together; where one
was away, a line says which are missing there.`,
		Example: "  holdfast events --since 2h --severity error\n  holdfast events --code node. --limit 20\n  holdfast events --group web --follow",
		RunE: a.run(func(ctx context.Context, c *client, _ []string) error {
			if err := eventFilter(q, since, until, level, time.Now()); err != nil {
				return err
			}
			if since == "" && until == "" && !limited() {
				q.Limit = newestEvents
			}
			if follow {
				if until != "" {
					return usage("--follow goes on until it is ended: leave out --until")
				}
				return a.followEvents(ctx, c, q)
			}
			m, err := allEvents(ctx, c, q)
			if err != nil {
				return err
			}
			return a.show("events/1", m, func(w io.Writer) { writeEventLog(w, m) })
		}),
	})
	f := c.Flags()
	limited = func() bool { return f.Changed("limit") }
	f.BoolVar(&follow, "follow", false, "go on showing what happens")
	f.StringVar(&since, "since", "", "from this time on (10m, 2026-01-31T12:00:00Z), or after this number (120)")
	f.StringVar(&level, "severity", "", "at least: information, warning, error or critical")
	f.StringVar(&until, "until", "", "before this time (10m, 2026-01-31T12:00:00Z), or before this number (120)")
	f.StringArrayVar(&q.Codes, "code", nil, "whose code begins so (resource.faulted, audit); may be given more than once")
	f.StringVar(&q.Group, "group", "", "of this group only")
	f.StringVar(&q.Resource, "resource", "", "of this resource only")
	a.namesFlag(c, "group", groupNames)
	a.namesFlag(c, "resource", resourceNames)
	must(c.RegisterFlagCompletionFunc("code", cobra.FixedCompletions(eventcode.Beginnings(), cobra.ShellCompDirectiveNoFileComp)))
	a.nodeFlag(c, &q.Node, "node", "of this node only")
	f.Uint32VarP(&q.Limit, "limit", "n", 0, "the newest so many; 0: all that are kept (default 1000, or all with --since or --until)")
	a.fieldFlag(c, "severity", "Notifier", "severity")
	return c
}

// newestEvents are shown when nothing else is asked for.
const newestEvents = 1000

// allEvents that were asked for, in as many answers as that takes.
func allEvents(ctx context.Context, c *client, q *v1.ListEventsRequest) (*v1.ListEventsResponse, error) {
	m, err := call(ctx, c, c.events.List, q)
	for err == nil && m.GetMoreBefore() != 0 && (q.GetLimit() == 0 || len(m.GetEvents()) < int(q.GetLimit())) {
		before := proto.CloneOf(q)
		before.Before = m.GetMoreBefore()
		if q.GetLimit() != 0 {
			before.Limit = q.GetLimit() - uint32(len(m.GetEvents()))
		}
		var older *v1.ListEventsResponse
		if older, err = call(ctx, c, c.events.List, before); err == nil {
			m.Events, m.Gaps = append(older.GetEvents(), m.GetEvents()...), append(older.GetGaps(), m.GetGaps()...)
			m.MoreBefore = older.GetMoreBefore()
		}
	}
	return m, err
}

// writeEventLog has a line per event, and one where events are missing.
func writeEventLog(w io.Writer, m *v1.ListEventsResponse) {
	heading(w, m.GetSource())
	gaps := m.GetGaps()
	tell := func(before uint64) {
		for len(gaps) > 0 && (before == 0 || gaps[0].GetFirst() < before) {
			fmt.Fprintf(w, "-   events %d to %d are not kept on %s\n", gaps[0].GetFirst(), gaps[0].GetLast(), m.GetSource().GetNode())
			gaps = gaps[1:]
		}
	}
	for _, e := range m.GetEvents() {
		tell(e.GetNumber())
		fmt.Fprintln(w, eventLine(e))
	}
	tell(0)
}

// eventFilter reads --since, --until and --severity.
func eventFilter(q *v1.ListEventsRequest, since, until, level string, now time.Time) error {
	var err error
	if q.SinceMs, q.After, err = pointInLog("--since", since, now); err != nil {
		return err
	}
	if q.UntilMs, q.Before, err = pointInLog("--until", until, now); err != nil {
		return err
	}
	if level == "" {
		return nil
	}
	for n := range v1.Severity_name {
		if s := v1.Severity(n); n != 0 && protoyaml.EnumName(s) == level {
			q.AtLeast = s
			return nil
		}
	}
	return usage("--severity %s: there are information, warning, error and critical", level)
}

// pointInLog is a time, or the number of an event.
func pointInLog(flag, text string, now time.Time) (ms int64, number uint64, err error) {
	if text == "" {
		return 0, 0, nil
	}
	if n, err := strconv.ParseUint(strings.TrimPrefix(text, "#"), 10, 64); err == nil {
		return 0, n, nil
	}
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return now.Add(-d).UnixMilli(), 0, nil
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t.UnixMilli(), 0, nil
	}
	return 0, 0, usage("%s %s: write how long ago (10m), a time (2026-01-31T12:00:00Z), or the number of an event (120)", flag, text)
}

func eventLine(e *v1.Event) string {
	return fmt.Sprintf("#%d  %s  %-11s  %s  %s", e.GetNumber(), clock(e.GetTimeMs()), word(e.GetSeverity()), e.GetCode(), e.GetMessage())
}

// followEvents prints events as they come, for programs one JSON object per
// line. When the daemon restarts it goes on after the last one shown.
func (a *app) followEvents(ctx context.Context, c *client, q *v1.ListEventsRequest) error {
	connected := false
	for {
		stream, err := c.events.Follow(ctx, connect.NewRequest(&v1.FollowEventsRequest{Filter: q}))
		if err == nil {
			for stream.Receive() {
				connected = true
				if err := a.writeEvents(stream.Msg(), q); err != nil {
					return err
				}
			}
			err = stream.Err()
			stream.Close()
		}
		switch {
		case ctx.Err() != nil:
			return nil // ended by whoever called it
		case err != nil && !connected:
			return c.failed(err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(reconnect):
		}
	}
}

func (a *app) writeEvents(m *v1.FollowEventsResponse, q *v1.ListEventsRequest) error {
	for _, g := range m.GetGaps() {
		fmt.Fprintf(a.Err, "events %d to %d can't be shown: this node does not have them\n", g.GetFirst(), g.GetLast())
	}
	opts := protoyaml.Options{First: []protoyaml.Pair{{Key: "schema", Value: "event/1"}}, Full: true}
	for _, e := range m.GetEvents() {
		var line []byte
		switch a.output {
		case "json":
			line = opts.JSONLine(e)
		case "yaml":
			line = append([]byte("---\n"), opts.YAML(e)...)
		default:
			line = []byte(eventLine(e) + "\n")
		}
		if _, err := a.Out.Write(line); err != nil {
			return err
		}
		q.After = max(q.GetAfter(), e.GetNumber())
	}
	q.Limit = 0
	return nil
}
