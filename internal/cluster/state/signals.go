package state

import (
	"math"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	pb "github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

const (
	// MostSignals in a cluster.
	MostSignals = 1000
	// MostDimensions of a measured load.
	MostDimensions = 64

	maxName       = 256
	maxTimeToLive = 366 * 24 * time.Hour
)

func (a *applier) setSignal(c *pb.SetSignal) *Refused {
	if c.GetName() == "" || len(c.GetName()) > maxName {
		return refuse(CodeInvalid, "the name of a signal has 1 to %d bytes", maxName)
	}
	if a.s.Nodes[c.GetNode()] == nil {
		return noNode(c.GetNode())
	}
	sig := a.s.Signals[c.GetName()]
	if c.GetValue() == nil {
		if sig.GetNodes()[c.GetNode()] == nil {
			return refuse(CodeNotFound, "signal %s is not set on node %s: holdfast signal list shows all", c.GetName(), c.GetNode())
		}
		a.forgetSignal(c.GetName(), c.GetNode())
		return nil
	}
	v := proto.CloneOf(c.GetValue())
	if err := checkSignal(v); err != nil {
		return err
	}
	if sig == nil {
		if len(a.s.Signals) >= MostSignals {
			return refuse(CodeConflict, "there are %d signals: take some out with holdfast signal clear NAME", len(a.s.Signals))
		}
		if a.s.Signals == nil {
			a.s.Signals = map[string]*pb.Signal{}
		}
		sig = &pb.Signal{Nodes: map[string]*pb.SignalValue{}}
		a.s.Signals[c.GetName()] = sig
	}
	was := sig.Nodes[c.GetNode()]
	sig.Nodes[c.GetNode()] = v
	// Scripts say the same again and again, so that their word does not expire.
	a.same = was != nil && was.GetState() == v.GetState() && was.GetValue() == v.GetValue()
	return nil
}

func checkSignal(v *pb.SignalValue) *Refused {
	ttl := v.GetTimeToLive()
	switch {
	case v.GetState() < 0 || v.GetState() > v1.SignalState_SIGNAL_STATE_DOWN:
		return refuse(CodeInvalid, "a signal is up, down, unknown, or a number")
	case v.GetValue() < 0 || v.GetValue() > math.MaxInt32:
		return refuse(CodeInvalid, "the value of a signal is a number from 1 to %d", math.MaxInt32)
	case v.GetState() == v1.SignalState_SIGNAL_STATE_UNSPECIFIED && v.GetValue() == 0:
		return refuse(CodeInvalid, "say what the signal is: up, down, unknown, or a number from 1")
	case len(v.GetSource()) > maxName:
		return refuse(CodeInvalid, "the source of a signal has at most %d bytes", maxName)
	case ttl != nil && (ttl.CheckValid() != nil || ttl.AsDuration() <= 0 || ttl.AsDuration() > maxTimeToLive):
		return refuse(CodeInvalid, "the time to live of a signal is more than 0 and at most %v", maxTimeToLive)
	}
	return nil
}

func (a *applier) forgetSignal(name, node string) {
	delete(a.s.Signals[name].Nodes, node)
	if len(a.s.Signals[name].Nodes) == 0 {
		delete(a.s.Signals, name)
	}
}

// fitSignals forgets what was set on nodes that are not configured any more.
func (a *applier) fitSignals() {
	for _, name := range SortedKeys(a.s.Signals) {
		for _, node := range SortedKeys(a.s.Signals[name].Nodes) {
			if a.s.Nodes[node] == nil {
				a.forgetSignal(name, node)
			}
		}
	}
}

// SignalsOf a node, by name. Values that have outlived their time to live are for the node to judge.
func SignalsOf(s *pb.State, node string) map[string]*pb.SignalValue {
	out := map[string]*pb.SignalValue{}
	for name, sig := range s.GetSignals() {
		if v := sig.GetNodes()[node]; v != nil {
			out[name] = v
		}
	}
	return out
}

func (a *applier) setLoad(c *pb.SetLoad) *Refused {
	st := a.s.NodeStatus[c.GetNode()]
	if a.s.Nodes[c.GetNode()] == nil || st == nil {
		return noNode(c.GetNode())
	}
	if len(c.GetLoad()) > MostDimensions {
		return refuse(CodeInvalid, "a load has at most %d dimensions, not %d", MostDimensions, len(c.GetLoad()))
	}
	a.same = len(c.GetLoad()) == len(st.GetDynamicLoad())
	load := make(map[string]int64, len(c.GetLoad()))
	for _, dim := range SortedKeys(c.GetLoad()) {
		v := c.Load[dim]
		if v < 0 || dim == "" || len(dim) > maxName {
			return refuse(CodeInvalid, "the load %q is %d: a dimension has a name, and its load is a number from 0", dim, v)
		}
		old, known := st.GetDynamicLoad()[dim]
		a.same = a.same && known && old == v
		load[dim] = v
	}
	if a.same {
		return nil
	}
	st.DynamicLoad = load
	a.planChanged()
	return nil
}

func (a *applier) notified(c *pb.Notified) *Refused {
	have := a.s.Notified[c.GetNotifier()]
	known := slices.ContainsFunc(a.s.GetCluster().GetNotifiers(), func(n *v1.Notifier) bool { return n.GetName() == c.GetNotifier() })
	switch {
	case !known:
		return refuse(CodeNotFound, "there is no notifier %s: holdfast notifier list shows all", c.GetNotifier())
	case c.GetEvent() > a.s.GetNextEvent():
		return refuse(CodeInvalid, "there is no event %d yet", c.GetEvent())
	case c.GetEvent() <= have:
		return refuse(CodeStale, "notifier %s has told of event %d already", c.GetNotifier(), have)
	}
	if a.s.Notified == nil {
		a.s.Notified = map[string]uint64{}
	}
	a.s.Notified[c.GetNotifier()] = c.GetEvent()
	return nil
}

// fitNotified: a notifier begins with what happens after it was configured.
func fitNotified(s *pb.State) {
	names := map[string]bool{}
	for _, n := range s.GetCluster().GetNotifiers() {
		names[n.GetName()] = true
		if _, known := s.Notified[n.GetName()]; !known {
			if s.Notified == nil {
				s.Notified = map[string]uint64{}
			}
			s.Notified[n.GetName()] = s.GetNextEvent()
		}
	}
	for name := range s.Notified {
		if !names[name] {
			delete(s.Notified, name)
		}
	}
}
