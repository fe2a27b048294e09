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
	"github.com/holdfast-ha/holdfast/internal/protoyaml"
)

func (a *app) eventsCommand() *cobra.Command {
	var follow bool
	var since, until, level string
	q := &v1.ListEventsRequest{}
	c := a.withOutput(&cobra.Command{
		Use: "events", Short: "Show what happened, oldest first", Args: args(0, 0),
		Example: "  holdfast events --since 10m\n  holdfast events --group web --follow",
		RunE: a.run(func(ctx context.Context, c *client, _ []string) error {
			if err := eventFilter(q, since, until, level, time.Now()); err != nil {
				return err
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
	f.BoolVar(&follow, "follow", false, "go on showing what happens")
	f.StringVar(&since, "since", "", "from this time on (10m, 2026-01-31T12:00:00Z), or after this number (#120)")
	f.StringVar(&level, "severity", "", "at least: information, warning, error or critical")
	f.StringVar(&until, "until", "", "before this time (10m, 2026-01-31T12:00:00Z)")
	f.StringArrayVar(&q.Codes, "code", nil, "whose code begins so (resource.faulted, audit); may be given more than once")
	f.StringVar(&q.Group, "group", "", "of this group only")
	f.StringVar(&q.Resource, "resource", "", "of this resource only")
	a.namesFlag(c, "group", groupNames)
	a.namesFlag(c, "resource", resourceNames)
	must(c.RegisterFlagCompletionFunc("code", cobra.NoFileCompletions))
	a.nodeFlag(c, &q.Node, "node", "of this node only")
	f.Uint32VarP(&q.Limit, "lines", "n", 0, "the newest so many (default: all that are kept)")
	a.fieldFlag(c, "severity", "Notifier", "severity")
	return c
}

// allEvents that were asked for, in as many answers as that takes.
func allEvents(ctx context.Context, c *client, q *v1.ListEventsRequest) (*v1.ListEventsResponse, error) {
	m, err := call(ctx, c, c.events.List, q)
	for err == nil && m.GetMoreBefore() != 0 && q.GetLimit() == 0 {
		before := proto.CloneOf(q)
		before.Before = m.GetMoreBefore()
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
	if d, err := time.ParseDuration(until); err == nil && d >= 0 {
		q.UntilMs = now.Add(-d).UnixMilli()
	} else if t, err := time.Parse(time.RFC3339, until); err == nil {
		q.UntilMs = t.UnixMilli()
	} else if until != "" {
		return usage("--until %s: write how long ago (10m), or a time (2026-01-31T12:00:00Z)", until)
	}
	if n, ok := strings.CutPrefix(since, "#"); ok {
		v, err := strconv.ParseUint(n, 10, 64)
		if err != nil {
			return usage("--since %s: write # and the number of an event", since)
		}
		q.After = v
	} else if d, err := time.ParseDuration(since); err == nil && d >= 0 {
		q.SinceMs = now.Add(-d).UnixMilli()
	} else if t, err := time.Parse(time.RFC3339, since); err == nil {
		q.SinceMs = t.UnixMilli()
	} else if since != "" {
		return usage("--since %s: write how long ago (10m), a time (2026-01-31T12:00:00Z), or # and the number of an event", since)
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
	if m.GetMissed() > 0 {
		fmt.Fprintf(a.Err, "%d events happened too quickly to be shown\n", m.GetMissed())
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
