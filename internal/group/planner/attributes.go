package planner

import (
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/schema"
)

// unset is what unset attributes stand for.
type unset struct {
	cluster *v1.Cluster
	node    *v1.Node
	group   *v1.Group
	kind    *v1.ResourceType
	res     *v1.Resource
}

func readUnset() *unset {
	u := &unset{&v1.Cluster{}, &v1.Node{}, &v1.Group{}, &v1.ResourceType{}, &v1.Resource{}}
	schema.SetDefaults(u.cluster)
	schema.SetDefaults(u.node)
	schema.SetDefaults(u.group)
	schema.SetDefaults(u.kind)
	schema.SetDefaults(u.res)
	return u
}

// attributes of a group that the planner goes by, unset ones filled in. Spans
// are in milliseconds, as the cluster's clock is.
type attributes struct {
	autoFailOver, autoRestart, onlineRetryLimit, autoClearLimit uint32
	autoStart, ifPartial, propagates, evacuate, manualOps       bool
	startPolicy                                                 v1.AutoStartPolicy
	policy                                                      v1.FailOverPolicy
	failsBack, leftRunning, pulledUp, pulledDown                bool
	retryIntervalMs, clearIntervalMs                            int64
}

func (u *unset) attributes(g *v1.Group) attributes {
	d := u.group
	external := word(g.GetExternalStateChange(), d.GetExternalStateChange())
	return attributes{
		autoFailOver:     value(g.AutoFailOver, d.AutoFailOver),
		autoRestart:      value(g.AutoRestart, d.AutoRestart),
		onlineRetryLimit: value(g.OnlineRetryLimit, d.OnlineRetryLimit),
		autoClearLimit:   value(g.AutoClearLimit, d.AutoClearLimit),
		autoStart:        value(g.AutoStart, d.AutoStart),
		ifPartial:        value(g.AutoStartIfPartial, d.AutoStartIfPartial),
		propagates:       value(g.FaultPropagation, d.FaultPropagation),
		evacuate:         value(g.Evacuate, d.Evacuate),
		manualOps:        value(g.ManualOps, d.ManualOps),
		startPolicy:      word(g.GetAutoStartPolicy(), d.GetAutoStartPolicy()),
		policy:           word(g.GetFailOverPolicy(), d.GetFailOverPolicy()),
		failsBack:        word(g.GetFailback(), d.GetFailback()) == v1.Failback_FAILBACK_AUTOMATIC,
		leftRunning:      word(g.GetSysDownPolicy(), d.GetSysDownPolicy()) == v1.SysDownPolicy_SYS_DOWN_POLICY_AUTO_DISABLE_NO_OFFLINE,
		pulledUp: external == v1.ExternalStateChange_EXTERNAL_STATE_CHANGE_ONLINE_GROUP ||
			external == v1.ExternalStateChange_EXTERNAL_STATE_CHANGE_BOTH,
		pulledDown: external == v1.ExternalStateChange_EXTERNAL_STATE_CHANGE_OFFLINE_GROUP ||
			external == v1.ExternalStateChange_EXTERNAL_STATE_CHANGE_BOTH,
		retryIntervalMs: spanMs(g.GetOnlineRetryInterval(), d.GetOnlineRetryInterval()),
		clearIntervalMs: spanMs(g.GetAutoClearInterval(), d.GetAutoClearInterval()),
	}
}

// value of an attribute, or else its default. An attribute without a default is zero.
func value[T any](own, unset *T) (v T) {
	switch {
	case own != nil:
		return *own
	case unset != nil:
		return *unset
	}
	return v
}

// word is an enumeration's value, or else its default.
func word[T ~int32](own, unset T) T {
	if own != 0 {
		return own
	}
	return unset
}

func spanMs(own, unset *durationpb.Duration) int64 {
	if own != nil {
		return own.AsDuration().Milliseconds()
	}
	return unset.AsDuration().Milliseconds()
}

// residenceMs is how long a group stays where it came by itself before it goes home.
func (p *pass) residenceMs() int64 {
	return spanMs(p.s.GetCluster().GetMinimumResidence(), p.unset.cluster.GetMinimumResidence())
}
