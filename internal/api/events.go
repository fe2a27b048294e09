package api

import (
	"context"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

// EventBackend is what a node has of events beside the replicated state.
type EventBackend interface {
	// KeptEvents are the runs of events on this node's own disk, oldest first.
	KeptEvents(ctx context.Context) ([]EventRange, error)
	// ReadEvents hands those events to see, until it returns false. It may hand out some outside of the given times.
	ReadEvents(ctx context.Context, q EventQuery, see func(*v1.Event) (more bool)) error
	// Notifiers is what the leader knows of its notifiers, or this node if here is set: nil if it does not lead.
	Notifiers(ctx context.Context, here bool) ([]*v1.NotifierStatus, error)
	// TestNotifier has the leader, or this node if here is set, tell a test event.
	TestNotifier(ctx context.Context, name string, here bool) (*v1.TestNotifierResponse, error)
}

// EventRange is a run of events, with the times of the first and the last one in Unix milliseconds.
type EventRange struct {
	First, Last     uint64
	FirstMs, LastMs int64
}

// EventQuery selects events by number and, roughly, by time.
type EventQuery struct {
	First, Last      uint64
	SinceMs, UntilMs int64
	// Newest first.
	Backward bool
}

type eventServer struct{ *server }

const (
	// maxEvents in one answer.
	maxEvents = 10_000
	// maxSent in one message of a stream.
	maxSent = 500
	// readEventsFor bounds how long a disk is waited for.
	readEventsFor = 10 * time.Second
)

func wanted(f *v1.ListEventsRequest, e *v1.Event) bool {
	return e.GetNumber() > f.GetAfter() && (f.GetBefore() == 0 || e.GetNumber() < f.GetBefore()) &&
		e.GetTimeMs() >= f.GetSinceMs() && (f.GetUntilMs() == 0 || e.GetTimeMs() < f.GetUntilMs()) && e.GetSeverity() >= f.GetAtLeast() &&
		(f.GetGroup() == "" || e.GetGroup() == f.GetGroup()) && (f.GetNode() == "" || e.GetNode() == f.GetNode()) &&
		(f.GetResource() == "" || e.GetResource() == f.GetResource()) &&
		(len(f.GetCodes()) == 0 || slices.ContainsFunc(f.GetCodes(), func(c string) bool { return strings.HasPrefix(e.GetCode(), c) }))
}

// eventLog is the events of the state and, before those, what the node has on its disk.
type eventLog struct {
	s      *server
	recent []*v1.Event
	newest uint64
	// Of the disk, up to where recent begins.
	kept []EventRange
}

func (l *look) newestEvent() uint64 {
	if n := len(l.GetEvents()); n > 0 {
		return l.GetEvents()[n-1].GetNumber()
	}
	return l.GetNextEvent()
}

func (s *server) eventLog(ctx context.Context, l *look) (*eventLog, error) {
	g := &eventLog{s: s, recent: l.GetEvents(), newest: l.newestEvent()}
	kept, err := s.b.KeptEvents(ctx)
	if err != nil {
		return nil, answered(err)
	}
	begin := g.begin()
	for _, r := range kept {
		if r.First < begin {
			r.Last = min(r.Last, begin-1)
			g.kept = append(g.kept, r)
		}
	}
	return g, nil
}

// begin is the number from which on the state has events.
func (g *eventLog) begin() uint64 {
	if len(g.recent) > 0 {
		return g.recent[0].GetNumber()
	}
	return g.newest + 1
}

// read events with numbers first to last, in either direction.
func (g *eventLog) read(ctx context.Context, q EventQuery, see func(*v1.Event) bool) error {
	more := true
	each := func(e *v1.Event) bool {
		more = see(e)
		return more
	}
	recent := func() {
		from := max(q.First, g.begin()) - g.begin()
		to := min(max(q.Last+1, g.begin())-g.begin(), uint64(len(g.recent)))
		if from >= to {
			return
		}
		part := g.recent[from:to]
		if q.Backward {
			part = slices.Clone(part)
			slices.Reverse(part)
		}
		for _, e := range part {
			if !more || !each(e) {
				return
			}
		}
	}
	disk := func() error {
		of := q
		of.Last = min(of.Last, g.begin()-1)
		if !more || len(g.kept) == 0 || of.First > of.Last {
			return nil
		}
		ctx, cancel := context.WithTimeout(ctx, readEventsFor)
		defer cancel()
		return g.s.b.ReadEvents(ctx, of, each)
	}
	if q.Backward {
		recent()
		return disk()
	}
	if err := disk(); err != nil {
		return err
	}
	recent()
	return nil
}

// gaps are the events with numbers first to last, and perhaps of the given times, that this node does not have.
func (g *eventLog) gaps(first, last uint64, f *v1.ListEventsRequest) (out []*v1.EventGap) {
	have := slices.Clone(g.kept)
	if n := len(g.recent); n > 0 {
		r := EventRange{First: g.begin(), Last: g.newest, FirstMs: g.recent[0].GetTimeMs(), LastMs: g.recent[n-1].GetTimeMs()}
		have = append(have, r)
	}
	next, before := first, int64(0)
	note := func(to uint64, after int64) {
		// What is missing happened between what stands before and after it.
		if next <= to && after >= f.GetSinceMs() && (f.GetUntilMs() == 0 || before < f.GetUntilMs()) {
			out = append(out, &v1.EventGap{First: next, Last: to})
		}
	}
	for _, r := range have {
		if r.First > last {
			break
		}
		if r.First > next {
			note(r.First-1, r.FirstMs)
		}
		next, before = max(next, r.Last+1), r.LastMs
	}
	return out
}

func (s *eventServer) List(ctx context.Context, req *connect.Request[v1.ListEventsRequest]) (*connect.Response[v1.ListEventsResponse], error) {
	l, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	g, err := s.eventLog(ctx, l)
	if err != nil {
		return nil, err
	}
	resp := &v1.ListEventsResponse{Source: l.source()}
	if resp.Events, resp.Gaps, resp.MoreBefore, err = g.list(ctx, req.Msg); err != nil {
		return nil, err
	}
	return connect.NewResponse(resp), nil
}

// list the newest events that are wanted, in their order.
func (g *eventLog) list(ctx context.Context, f *v1.ListEventsRequest) (events []*v1.Event, gaps []*v1.EventGap, before uint64, err error) {
	first, last := f.GetAfter()+1, g.newest
	if f.GetBefore() != 0 {
		last = min(last, f.GetBefore()-1)
	}
	if first > last {
		return nil, nil, 0, nil
	}
	limit := int(f.GetLimit())
	if limit == 0 || limit > maxEvents {
		limit = maxEvents
	}
	seen := first
	err = g.read(ctx, EventQuery{First: first, Last: last, SinceMs: f.GetSinceMs(), UntilMs: f.GetUntilMs(), Backward: true}, func(e *v1.Event) bool {
		if wanted(f, e) {
			events = append(events, e)
			if len(events) == limit {
				seen = e.GetNumber()
				return false
			}
		}
		return true
	})
	if err != nil {
		return nil, nil, 0, answered(err)
	}
	if seen > first && limit != int(f.GetLimit()) {
		before = seen
	}
	slices.Reverse(events)
	return events, g.gaps(seen, last, f), before, nil
}

func (s *eventServer) Follow(ctx context.Context, req *connect.Request[v1.FollowEventsRequest], out *connect.ServerStream[v1.FollowEventsResponse]) error {
	filter := &v1.ListEventsRequest{}
	if req.Msg.GetFilter() != nil {
		filter = proto.CloneOf(req.Msg.GetFilter())
	}
	first := true
	return s.follow(ctx, func(l *look) (bool, error) {
		if !first && l.newestEvent() <= filter.GetAfter() {
			return false, nil
		}
		g, err := s.eventLog(ctx, l)
		if err != nil {
			return true, err
		}
		if first {
			first = false
			err = s.begin(ctx, g, filter, out)
		} else {
			err = s.goOn(ctx, g, filter, out)
		}
		filter.After = max(filter.GetAfter(), g.newest)
		return err != nil, err
	})
}

// begin a stream with what List would answer. A message is sent even without an event: it opens the stream.
func (s *eventServer) begin(ctx context.Context, g *eventLog, f *v1.ListEventsRequest, out *connect.ServerStream[v1.FollowEventsResponse]) error {
	events, gaps, _, err := g.list(ctx, f)
	if err != nil {
		return err
	}
	f.Limit = 0
	for {
		n := min(len(events), maxSent)
		if err := out.Send(&v1.FollowEventsResponse{Events: events[:n], Gaps: gaps}); err != nil {
			return err
		}
		if events, gaps = events[n:], nil; len(events) == 0 {
			return nil
		}
	}
}

// goOn with what has happened since. What the state has no more, for a slow reader, is read from the disk.
func (s *eventServer) goOn(ctx context.Context, g *eventLog, f *v1.ListEventsRequest, out *connect.ServerStream[v1.FollowEventsResponse]) error {
	first := f.GetAfter() + 1
	msg := &v1.FollowEventsResponse{Gaps: g.gaps(first, g.newest, &v1.ListEventsRequest{})}
	for _, gap := range msg.Gaps {
		msg.Missed += gap.GetLast() + 1 - gap.GetFirst()
	}
	var failed error
	err := g.read(ctx, EventQuery{First: first, Last: g.newest}, func(e *v1.Event) bool {
		if wanted(f, e) {
			msg.Events = append(msg.Events, e)
		}
		if len(msg.Events) == maxSent {
			failed = out.Send(msg)
			msg = &v1.FollowEventsResponse{}
		}
		return failed == nil
	})
	switch {
	case failed != nil:
		return failed
	case err != nil:
		return answered(err)
	case len(msg.Events) > 0 || msg.Missed > 0:
		return out.Send(msg)
	}
	return nil
}
