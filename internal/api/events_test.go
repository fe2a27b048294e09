package api_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"connectrpc.com/connect"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/api"
	"github.com/holdfast-ha/holdfast/internal/api/apifake"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// past makes events first to last, a second apart, of alternating kinds.
func past(first, last uint64) (all []*v1.Event) {
	for n := first; n <= last; n++ {
		e := &v1.Event{Number: n, TimeMs: int64(n) * 1000, Severity: v1.Severity_SEVERITY_INFORMATION, Code: "node.joined", Node: "n1"}
		if n%2 == 0 {
			e.Severity, e.Code, e.Group, e.Resource = v1.Severity_SEVERITY_ERROR, "resource.faulted", "web", "ip"
		}
		all = append(all, e)
	}
	return all
}

// remembers events in the state, and others on the disk.
func remembers(n *apifake.Node, state, disk []*v1.Event) {
	n.OldEvents(disk...)
	n.Change(func(s *statepb.State, _ *api.Local) {
		s.Events = state
		s.NextEvent = 0
		if len(state) > 0 {
			s.NextEvent = state[len(state)-1].GetNumber()
		}
	})
}

// numbers of events, as "1-3 7".
func numbers(events []*v1.Event) string {
	var out []string
	for i := 0; i < len(events); {
		j := i
		for j+1 < len(events) && events[j+1].GetNumber() == events[j].GetNumber()+1 {
			j++
		}
		if text := fmt.Sprint(events[i].GetNumber()); j > i {
			out = append(out, fmt.Sprintf("%s-%d", text, events[j].GetNumber()))
		} else {
			out = append(out, text)
		}
		i = j + 1
	}
	return strings.Join(out, " ")
}

func gapNumbers(gaps []*v1.EventGap) string {
	var out []string
	for _, g := range gaps {
		out = append(out, fmt.Sprintf("%d-%d", g.GetFirst(), g.GetLast()))
	}
	return strings.Join(out, " ")
}

// The state has 81 to 100, the disk 11 to 20 and 31 to 90.
func TestListReachesBackToTheDisk(t *testing.T) {
	n, client, url := serve(t)
	remembers(n, past(81, 100), append(past(11, 20), past(31, 90)...))
	c := v1.NewEventServiceClient(client, url)
	for _, test := range []struct {
		name         string
		q            *v1.ListEventsRequest
		events, gaps string
	}{
		{"all", &v1.ListEventsRequest{}, "11-20 31-100", "1-10 21-30"},
		{"newest", &v1.ListEventsRequest{Limit: 5}, "96-100", ""},
		{"newest across the border", &v1.ListEventsRequest{Limit: 25}, "76-100", ""},
		{"after a number", &v1.ListEventsRequest{After: 15}, "16-20 31-100", "21-30"},
		{"after a number in a gap", &v1.ListEventsRequest{After: 25}, "31-100", "26-30"},
		{"before a number", &v1.ListEventsRequest{Before: 34, Limit: 4}, "20 31-33", "21-30"},
		{"nothing after", &v1.ListEventsRequest{After: 100}, "", ""},
		{"nothing before", &v1.ListEventsRequest{Before: 1}, "", ""},
		{"of a time", &v1.ListEventsRequest{SinceMs: 78_000, UntilMs: 84_000}, "78-83", ""},
		{"of the time of a gap", &v1.ListEventsRequest{SinceMs: 25_000, UntilMs: 32_000}, "31", "21-30"},
		{"of a time before all", &v1.ListEventsRequest{UntilMs: 5_000}, "", "1-10"},
		{"errors", &v1.ListEventsRequest{AtLeast: v1.Severity_SEVERITY_WARNING, Limit: 3}, "96 98 100", ""},
		{"of a group", &v1.ListEventsRequest{Group: "web", After: 90}, "92 94 96 98 100", ""},
		{"of a resource", &v1.ListEventsRequest{Resource: "ip", After: 96}, "98 100", ""},
		{"of a code", &v1.ListEventsRequest{Codes: []string{"node."}, After: 94}, "95 97 99", ""},
		{"of codes", &v1.ListEventsRequest{Codes: []string{"node.joined", "resource.f"}, After: 97}, "98-100", ""},
		{"of no code", &v1.ListEventsRequest{Codes: []string{"nodes"}}, "", "1-10 21-30"},
	} {
		r, err := c.List(t.Context(), connect.NewRequest(test.q))
		if err != nil {
			t.Fatal(err)
		}
		if got := numbers(r.Msg.GetEvents()); got != test.events || gapNumbers(r.Msg.GetGaps()) != test.gaps || r.Msg.GetMoreBefore() != 0 {
			t.Errorf("%s: %s without %s, more before %d; want %s without %s", test.name, got, gapNumbers(r.Msg.GetGaps()), r.Msg.GetMoreBefore(), test.events, test.gaps)
		}
	}
}

// Answers are bounded; all can be asked for one after the other.
func TestListInParts(t *testing.T) {
	n, client, url := serve(t)
	remembers(n, past(24_001, 25_000), past(1, 24_000))
	c := v1.NewEventServiceClient(client, url)
	q := &v1.ListEventsRequest{}
	total, parts := 0, 0
	for {
		r, err := c.List(t.Context(), connect.NewRequest(q))
		if err != nil {
			t.Fatal(err)
		}
		total, parts = total+len(r.Msg.GetEvents()), parts+1
		if len(r.Msg.GetGaps()) > 0 {
			t.Errorf("gaps %v", r.Msg.GetGaps())
		}
		if r.Msg.GetMoreBefore() == 0 {
			break
		}
		if q.Before = r.Msg.GetMoreBefore(); q.Before != r.Msg.GetEvents()[0].GetNumber() {
			t.Errorf("more before %d, the first is %d", q.Before, r.Msg.GetEvents()[0].GetNumber())
		}
	}
	if total != 25_000 || parts != 3 {
		t.Errorf("%d events in %d parts", total, parts)
	}
}

// A follower whom the state has outrun gets the rest from the disk, and is told what is nowhere.
func TestSlowFollower(t *testing.T) {
	n, client, url := serve(t)
	remembers(n, past(1, 10), nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := v1.NewEventServiceClient(client, url).Follow(ctx, connect.NewRequest(&v1.FollowEventsRequest{Filter: &v1.ListEventsRequest{Limit: 2}}))
	if err != nil {
		t.Fatal(err)
	}
	next := func() *v1.FollowEventsResponse {
		t.Helper()
		if !stream.Receive() {
			t.Fatal(stream.Err())
		}
		return stream.Msg()
	}
	if got := numbers(next().GetEvents()); got != "9-10" {
		t.Errorf("it begins with %s", got)
	}
	remembers(n, past(1900, 2000), append(past(1, 10), past(15, 1990)...))
	var all []*v1.Event
	missed, gaps := uint64(0), ""
	for len(all) == 0 || all[len(all)-1].GetNumber() < 2000 {
		m := next()
		if len(m.GetEvents()) > 500 {
			t.Errorf("%d events in one message", len(m.GetEvents()))
		}
		all, missed, gaps = append(all, m.GetEvents()...), missed+m.GetMissed(), gaps+gapNumbers(m.GetGaps())
	}
	if got := numbers(all); got != "15-2000" || missed != 4 || gaps != "11-14" {
		t.Errorf("then %s, missed %d: %s", got, missed, gaps)
	}
}

func notifierClient(client *http.Client, url string) v1.NotifierServiceClient {
	return v1.NewNotifierServiceClient(client, url)
}

func TestNotifiers(t *testing.T) {
	n, client, url := serve(t)
	c := notifierClient(client, url)
	if r, err := c.List(t.Context(), connect.NewRequest(&v1.ListNotifiersRequest{})); err != nil || len(r.Msg.GetNotifiers()) != 0 {
		t.Fatalf("%v, %v", r, err)
	}
	remembers(n, past(1, 10), nil)
	n.Change(func(s *statepb.State, _ *api.Local) {
		s.Cluster.Uuid = "00112233445566778899aabbccddeeff"
		s.Cluster.Notifiers = []*v1.Notifier{
			{Name: "mail", Way: &v1.Notifier_Mail{Mail: &v1.MailNotifier{Server: "mx", To: []string{"ops@example.com"}}}},
			{Name: "hook", Severity: v1.Severity_SEVERITY_INFORMATION, Codes: []string{"node."}, Way: &v1.Notifier_Webhook{Webhook: &v1.WebhookNotifier{Url: "https://hooks.example.com/s3cret"}}},
		}
		s.Notified = map[string]uint64{"mail": 4, "hook": 3}
	})
	n.NotifierStates = []*v1.NotifierStatus{{Name: "mail", Done: 6, LastDeliveryMs: 77, Failures: 2, Error: "no route", FailingSinceMs: 78, NextTryMs: 79}}
	r, err := c.List(t.Context(), connect.NewRequest(&v1.ListNotifiersRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	mail, hook := r.Msg.GetNotifiers()[0], r.Msg.GetNotifiers()[1]
	if mail.GetWay() != "mail" || mail.GetTo() != "ops@example.com by mx" || mail.GetSeverity() != v1.Severity_SEVERITY_WARNING || mail.GetDone() != 6 || mail.GetPending() != 2 ||
		mail.GetLastDeliveryMs() != 77 || mail.GetFailures() != 2 || mail.GetError() != "no route" || mail.GetFailingSinceMs() != 78 || mail.GetNextTryMs() != 79 {
		t.Errorf("mail: %v", mail)
	}
	if hook.GetTo() != "https://hooks.example.com" || hook.GetDone() != 3 || hook.GetPending() != 3 || hook.GetError() != "" {
		t.Errorf("hook: %v", hook)
	}
	if id := r.Msg.GetSnmpEngineId(); id != "80001f880500112233445566778899aabbccddeeff" {
		t.Errorf("engine id %s", id)
	}
	n.NotifierFault = errors.New("the leader does not answer")
	n.NotifierStates = nil
	if r, err = c.List(t.Context(), connect.NewRequest(&v1.ListNotifiersRequest{})); err != nil || r.Msg.GetUnknown() != "the leader does not answer" || r.Msg.GetNotifiers()[0].GetPending() != 3 {
		t.Errorf("%v, %v", r, err)
	}
	n.NotifierFaults = map[string]string{"mail": "connection refused"}
	test, err := c.Test(t.Context(), connect.NewRequest(&v1.TestNotifierRequest{Name: "mail"}))
	if err != nil || test.Msg.GetDelivered() || test.Msg.GetError() != "connection refused" || test.Msg.GetNode() != "n1" {
		t.Errorf("%v, %v", test, err)
	}
	_, err = c.Test(t.Context(), connect.NewRequest(&v1.TestNotifierRequest{Name: "mial"}))
	if code := codeOf(t, err); code != api.CodeNotFound {
		t.Errorf("%v", err)
	}
	n.Change(func(_ *statepb.State, l *api.Local) { l.Leader = "" })
	_, err = c.Test(t.Context(), connect.NewRequest(&v1.TestNotifierRequest{Name: "mail"}))
	if code := codeOf(t, err); code != api.CodeNoQuorum {
		t.Errorf("%v", err)
	}
}
