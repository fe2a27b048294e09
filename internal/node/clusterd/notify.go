//go:build linux

package clusterd

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/api"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
	"github.com/holdfast-ha/holdfast/internal/group/agents"
	"github.com/holdfast-ha/holdfast/internal/node/engine"
	"github.com/holdfast-ha/holdfast/internal/node/eventlog"
	"github.com/holdfast-ha/holdfast/internal/notify"
	"github.com/holdfast-ha/holdfast/internal/notify/deliver"
)

// What a node does with events: it keeps them on its own disk, and tells them
// to notifiers while it leads.

const (
	// checkNotifiers is how often this node looks whether it could use the notifiers.
	checkNotifiers = 5 * time.Minute
	// fetchLimit is how long the own disk is waited for.
	fetchLimit = 10 * time.Second
	// failingFor is how long a notifier may fail before that is a condition.
	failingFor = 10 * time.Second
	// askLeaderFor bounds how long the leader is waited for.
	askLeaderFor = 5 * time.Second
	// notifierTestLimit bounds a test; each way has its own limit too.
	notifierTestLimit = 25 * time.Second
)

type notifying struct {
	// Nil in tests that have none.
	log *eventlog.Log
	// Newest event that the log was offered.
	offered uint64
	core    notify.Core
	wake    time.Duration
	// As of the last step, so that a change of it makes one.
	view notifyView
	busy bool
	// Last leader that was known, and who led before this node does.
	last, former string
	cancel       map[uint64]context.CancelFunc // deliveries by the core's token
	asked        map[uint64]uint64             // proposals: the core's token by the engine's
	// Why notifiers can't be used from here, as it was looked at last.
	checked  []*v1.Notifier
	faults   []string
	checking bool
	checkAt  time.Duration
}

type notifyView struct {
	leading, former, ending bool
}

// eventsOn follows the applied state and who leads. changed: the state has changed.
func (n *node) eventsOn(changed bool) {
	k := &n.notifying
	s := n.engine.State()
	if s == nil || n.ending != "" {
		return
	}
	if changed {
		n.keepEvents(s)
		n.checkNotifiers(s.GetCluster().GetNotifiers())
	}
	if v := n.leads(s); changed || v != k.view {
		k.view = v
		n.notifyStep(nil)
	}
}

// leads says whether this node runs the notifiers, and follows who did before.
func (n *node) leads(s *statepb.State) notifyView {
	k := &n.notifying
	leader := n.engine.Leader()
	if leader != "" && leader != k.last {
		if leader == n.id.Node {
			k.former = k.last
		}
		k.last = leader
	}
	return notifyView{
		leading: leader == n.id.Node && n.guard.link != nil && n.guard.lease.GetHeld(),
		former:  k.former != "" && state.MemberOf(s, k.former) != nil,
		ending:  s.GetNodeStatus()[n.id.Node].GetPhase() == statepb.NodePhase_NODE_PHASE_LEAVING,
	}
}

// keepEvents gives the own log what it was not offered yet.
func (n *node) keepEvents(s *statepb.State) {
	k, events := &n.notifying, s.GetEvents()
	if k.log == nil {
		return
	}
	if s.GetNextEvent() < k.offered {
		k.offered = 0 // this node begins anew: the log compares
	}
	i, _ := slices.BinarySearchFunc(events, k.offered+1, func(e *v1.Event, number uint64) int {
		return int(min(max(int64(e.GetNumber()-number), -1), 1))
	})
	if i < len(events) {
		k.log.Offer(slices.Clone(events[i:]))
	}
	k.offered = s.GetNextEvent()
}

// notifyStep lets the core of the notifiers see how things are, and does what it says.
func (n *node) notifyStep(in notify.Input) {
	k, s := &n.notifying, n.engine.State()
	if s == nil || n.ending != "" {
		return
	}
	k.core.Step(n.now(), notify.View{
		Leading: k.view.leading, Former: k.view.former, Ending: k.view.ending,
		Notifiers: s.GetCluster().GetNotifiers(), Done: s.GetNotified(), Events: s.GetEvents(), Newest: s.GetNextEvent(),
	}, in)
	out := k.core.Take()
	k.wake = out.Wake
	if busy := k.core.Busy(); busy != k.busy {
		k.busy = busy
		n.local = append(n.local, engine.Busy{On: busy})
	}
	for _, token := range out.Cancel {
		if cancel := k.cancel[token]; cancel != nil {
			cancel()
		}
	}
	for _, p := range out.Propose {
		if k.asked == nil {
			k.asked = map[uint64]uint64{}
		}
		n.nextToken++
		k.asked[n.nextToken] = p.Token
		n.local = append(n.local, engine.Propose{Token: n.nextToken, Command: p.Command})
	}
	for _, f := range out.Fetch {
		n.fetchEvents(f)
	}
	for _, d := range out.Deliver {
		n.deliver(d)
	}
}

func (n *node) notifyTick() {
	if k := &n.notifying; k.wake != 0 && n.now() >= k.wake {
		n.notifyStep(nil)
	}
	if k := &n.notifying; k.checkAt != 0 && n.now() >= k.checkAt {
		if s := n.engine.State(); s != nil {
			n.checkNotifiers(s.GetCluster().GetNotifiers())
		}
	}
}

// due is when notifyTick is, 0: it is not.
func (k *notifying) due() time.Duration {
	if k.checkAt != 0 && (k.wake == 0 || k.checkAt < k.wake) {
		return k.checkAt
	}
	return k.wake
}

// notifyAnswered takes the answer to a proposal of the core; false: it is somebody else's.
func (n *node) notifyAnswered(r engine.Result) bool {
	token, ours := n.notifying.asked[r.Token]
	if ours {
		delete(n.notifying.asked, r.Token)
		if r.Err != nil {
			n.log.Debug("what a notifier has done is not committed", "error", r.Err)
		}
		n.notifyStep(notify.Proposed{Token: token, Committed: r.Err == nil})
	}
	return ours
}

// deliver an event in the background.
func (n *node) deliver(d notify.Delivery) {
	k := &n.notifying
	ctx, cancel := n.whileRunning()
	if k.cancel == nil {
		k.cancel = map[uint64]context.CancelFunc{}
	}
	k.cancel[d.Token] = cancel
	m := n.message(d.Event)
	n.background(func() {
		err := deliver.Send(ctx, d.Notifier, m, n.runNotifier)
		ended := notify.Ended{Token: d.Token}
		if err != nil {
			ended.Err = err.Error()
			if ctx.Err() == nil {
				n.log.Warn("a notifier could not tell an event", "notifier", d.Notifier.GetName(), "event", d.Event.GetNumber(), "error", err)
			}
		}
		n.post(func() {
			cancel()
			delete(k.cancel, d.Token)
			n.notifyStep(ended)
		})
	})
}

func (n *node) message(e *v1.Event) *deliver.Message {
	return &deliver.Message{Cluster: n.id.ClusterName, ClusterUUID: n.id.ClusterUUID, Event: e}
}

// runNotifier implements deliver.RunProgram.
func (n *node) runNotifier(ctx context.Context, notifier string, argv []string, input []byte, timeout time.Duration) (int, string) {
	r := n.host.RunProgram(ctx, agents.Program{Name: "notifier-" + notifier + "-" + rand.Text(), Argv: argv, Input: input, Timeout: timeout,
		Env: []string{"HOLDFAST_NOTIFIER=" + notifier}})
	return r.Status, r.Message
}

// fetchEvents that the state has no more from this node's own log.
func (n *node) fetchEvents(f notify.Fetch) {
	log := n.notifying.log
	n.background(func() {
		ctx, stop := n.whileRunning()
		defer stop()
		ctx, cancel := context.WithTimeout(ctx, fetchLimit)
		defer cancel()
		in := notify.Fetched{Token: f.Token, Through: f.Before - 1}
		if log != nil {
			err := log.Read(ctx, eventlog.Query{First: f.After + 1, Last: f.Before - 1}, func(e *v1.Event) bool {
				in.Events = append(in.Events, e)
				if len(in.Events) == notify.FetchMax {
					in.Through = e.GetNumber()
				}
				return len(in.Events) < notify.FetchMax
			})
			if err != nil {
				n.log.Warn("events that notifiers have yet to tell can't be read", "error", err)
			}
		}
		n.post(func() { n.notifyStep(in) })
	})
}

// checkNotifiers looks whether this node could use the notifiers, if it led.
func (n *node) checkNotifiers(all []*v1.Notifier) {
	k := &n.notifying
	same := slices.EqualFunc(k.checked, all, func(a, b *v1.Notifier) bool { return proto.Equal(a, b) })
	if k.checking || same && (k.checkAt == 0 || n.now() < k.checkAt) {
		return
	}
	k.checked, k.checkAt = nil, 0
	for _, c := range all {
		k.checked = append(k.checked, proto.CloneOf(c))
	}
	if len(all) == 0 {
		k.faults = nil
		return
	}
	k.checking = true
	look := k.checked
	n.background(func() { // files may be on a disk that hangs
		var faults []string
		for _, c := range look {
			if err := deliver.Check(c); err != nil {
				faults = append(faults, fmt.Sprintf("notifier %s can't be used from here: %v", c.GetName(), err))
			}
		}
		n.post(func() {
			if !slices.Equal(k.faults, faults) {
				for _, f := range faults {
					n.log.Warn(f)
				}
				k.faults = faults
				n.notify()
			}
			k.checking, k.checkAt = false, n.now()+checkNotifiers
			if s := n.engine.State(); s != nil && n.ending == "" {
				n.checkNotifiers(s.GetCluster().GetNotifiers()) // they may have changed meanwhile
			}
		})
	})
}

// eventConditions are about the own log and the notifiers.
func (n *node) eventConditions() (cs []api.Condition) {
	k := &n.notifying
	warn := func(code, message string) {
		cs = append(cs, api.Condition{Code: code, Warning: true, Message: message})
	}
	if k.log != nil {
		if fault := k.log.Fault(); fault != "" {
			warn("event-log", "this node does not keep all events on its disk: "+fault)
		}
	}
	for _, f := range k.faults {
		warn("notifier-unusable", f)
	}
	for _, s := range k.core.Status() {
		if s.Failures > 0 && n.now()-s.Since >= failingFor {
			warn("notifier-failing", fmt.Sprintf("notifier %s has failed %d times since %s: %s", s.Name, s.Failures, n.wall().Add(s.Since-n.now()).UTC().Format(time.RFC3339), s.Error))
		}
	}
	return cs
}

// KeptEvents implements api.Backend.
func (b *backend) KeptEvents(ctx context.Context) (all []api.EventRange, err error) {
	if b.n.notifying.log == nil {
		return nil, nil
	}
	kept, err := b.n.notifying.log.Kept(ctx)
	for _, r := range kept {
		all = append(all, api.EventRange(r))
	}
	return all, err
}

// ReadEvents implements api.Backend.
func (b *backend) ReadEvents(ctx context.Context, q api.EventQuery, see func(*v1.Event) bool) error {
	if b.n.notifying.log == nil {
		return nil
	}
	return b.n.notifying.log.Read(ctx, eventlog.Query(q), see)
}

var errNoLeader = errors.New("no node leads at the moment: notifiers are run by the leader")

// leaderAPI is the service of whoever leads; nil: it is this node, or this node is asked for.
func (b *backend) leaderAPI(ctx context.Context, here bool) (c v1.NotifierServiceClient, stop func(), err error) {
	s, err := b.State(ctx)
	if err != nil {
		return nil, nil, err
	}
	var leader string
	if err := b.ask(ctx, func() { leader = b.n.engine.Leader() }); err != nil {
		return nil, nil, err
	}
	switch {
	case here || leader == b.n.id.Node:
		return nil, func() {}, nil
	case leader == "":
		return nil, nil, errNoLeader
	}
	h, err := b.n.apiOf(s, leader)
	if err != nil {
		return nil, nil, err
	}
	return v1.NewNotifierServiceClient(h, "https://"+apiHost), h.CloseIdleConnections, nil
}

// answerOf another node's API is told without what connect adds to it.
func answerOf(leader string, err error) error {
	var answer *connect.Error
	if errors.As(err, &answer) {
		return fmt.Errorf("%s: %s", leader, answer.Message())
	}
	return err
}

// Notifiers implements api.Backend.
func (b *backend) Notifiers(ctx context.Context, here bool) (all []*v1.NotifierStatus, err error) {
	ctx, cancel := context.WithTimeout(ctx, askLeaderFor)
	defer cancel()
	c, stop, err := b.leaderAPI(ctx, here)
	if err != nil {
		return nil, err
	}
	defer stop()
	if c != nil {
		resp, err := c.List(ctx, connect.NewRequest(&v1.ListNotifiersRequest{Here: true}))
		if err != nil {
			return nil, answerOf("the leader", err)
		}
		if why := resp.Msg.GetUnknown(); why != "" {
			return nil, errors.New(why)
		}
		return resp.Msg.GetNotifiers(), nil
	}
	err = b.ask(ctx, func() {
		at := func(d time.Duration) int64 {
			if d == 0 {
				return 0
			}
			return b.n.wall().Add(d - b.n.now()).UnixMilli()
		}
		for _, s := range b.n.notifying.core.Status() {
			all = append(all, &v1.NotifierStatus{
				Name: s.Name, Done: s.Done, LastDeliveryMs: at(s.Delivered), Error: s.Error, Failures: s.Failures, FailingSinceMs: at(s.Since), NextTryMs: at(s.Next),
			})
		}
	})
	return all, err
}

// TestNotifier implements api.Backend.
func (b *backend) TestNotifier(ctx context.Context, name string, here bool) (*v1.TestNotifierResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, notifierTestLimit)
	defer cancel()
	c, stop, err := b.leaderAPI(ctx, here)
	if err != nil {
		return nil, &api.Refusal{Code: api.CodeConflict, Message: err.Error() + "; repeat it when one does, or send the test from this node with --here"}
	}
	defer stop()
	if c != nil {
		resp, err := c.Test(ctx, connect.NewRequest(&v1.TestNotifierRequest{Name: name, Here: true}))
		if err != nil {
			return nil, answerOf("the leader", err)
		}
		return resp.Msg, nil
	}
	s, err := b.State(ctx)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(s.GetCluster().GetNotifiers(), func(n *v1.Notifier) bool { return n.GetName() == name })
	if i < 0 {
		return nil, &api.Refusal{Code: api.CodeNotFound, Message: "there is no notifier " + name}
	}
	m := b.n.message(&v1.Event{
		TimeMs: b.n.wall().UnixMilli(), Severity: v1.Severity_SEVERITY_INFORMATION, Code: "notifier.test", Epoch: s.GetView().GetEpoch(), Node: b.n.id.Node, Notifier: name,
		Message: fmt.Sprintf("this is a test of notifier %s, sent by %s", name, b.n.id.Node),
	})
	m.Try = strings.ToLower(rand.Text())
	resp := &v1.TestNotifierResponse{Node: b.n.id.Node}
	if err := deliver.Send(ctx, s.GetCluster().GetNotifiers()[i], m, b.n.runNotifier); err != nil {
		resp.Error = err.Error()
	} else {
		resp.Delivered = true
	}
	return resp, nil
}
