package api

import (
	"cmp"
	"context"
	"encoding/hex"

	"connectrpc.com/connect"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/notify"
	"github.com/holdfast-ha/holdfast/internal/notify/deliver"
)

type notifierServer struct{ *server }

func (s *notifierServer) List(ctx context.Context, req *connect.Request[v1.ListNotifiersRequest]) (*connect.Response[v1.ListNotifiersResponse], error) {
	l, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	resp := &v1.ListNotifiersResponse{Source: l.source(), Notifiers: l.notifiers(), SnmpEngineId: hex.EncodeToString(deliver.EngineID(l.GetCluster().GetUuid()))}
	if len(resp.Notifiers) == 0 {
		return connect.NewResponse(resp), nil
	}
	running, err := s.b.Notifiers(ctx, req.Msg.GetHere())
	if err != nil {
		resp.Unknown = err.Error()
	}
	for _, r := range running {
		for _, n := range resp.Notifiers {
			if n.GetName() == r.GetName() {
				n.Done = max(n.GetDone(), r.GetDone())
				n.LastDeliveryMs, n.Error, n.Failures, n.FailingSinceMs, n.NextTryMs = r.GetLastDeliveryMs(), r.GetError(), r.GetFailures(), r.GetFailingSinceMs(), r.GetNextTryMs()
			}
		}
	}
	l.countPending(resp.Notifiers)
	return connect.NewResponse(resp), nil
}

// notifiers as the replicated state has them.
func (l *look) notifiers() (all []*v1.NotifierStatus) {
	for _, n := range l.GetCluster().GetNotifiers() {
		way, to := deliver.Name(n)
		all = append(all, &v1.NotifierStatus{Name: n.GetName(), Way: way, To: to, Severity: cmp.Or(n.GetSeverity(), notify.DefaultSeverity), Codes: n.GetCodes(), Done: l.GetNotified()[n.GetName()]})
	}
	return all
}

func (l *look) countPending(all []*v1.NotifierStatus) {
	for i, n := range l.GetCluster().GetNotifiers() {
		for _, e := range l.GetEvents() {
			if e.GetNumber() > all[i].GetDone() && notify.Tells(n, e) {
				all[i].Pending++
			}
		}
	}
}

func (s *notifierServer) Test(ctx context.Context, req *connect.Request[v1.TestNotifierRequest]) (*connect.Response[v1.TestNotifierResponse], error) {
	l, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	name := req.Msg.GetName()
	known := map[string]bool{}
	for _, n := range l.GetCluster().GetNotifiers() {
		known[n.GetName()] = true
	}
	if !known[name] {
		return nil, notFound("notifier", name, known)
	}
	if !req.Msg.GetHere() && l.local.Leader == "" {
		return nil, fail(CodeNoQuorum, "holdfast link list shows who is missing; holdfast notifier test "+name+" --here sends it from this node", "no node leads at the moment: notifiers are run by the leader")
	}
	resp, err := s.b.TestNotifier(ctx, name, req.Msg.GetHere())
	if err != nil {
		return nil, answered(err)
	}
	return connect.NewResponse(resp), nil
}
