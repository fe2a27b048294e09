package config

import (
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/link"
	"github.com/holdfast-ha/holdfast/internal/cluster/timers"
	"github.com/holdfast-ha/holdfast/internal/protoyaml"
)

// WithDefaults returns a copy of cfg with everything set that has a default.
func WithDefaults(cfg *v1.Configuration, types []*v1.ResourceType) *v1.Configuration {
	out := proto.CloneOf(cfg)
	if out.Cluster == nil {
		out.Cluster = &v1.Cluster{}
	}
	out.Cluster.Timers = EffectiveTimers(cfg.GetCluster())
	out.Cluster.SeedNodes = SeedNodes(cfg)
	out.Cluster.EngineDownLimit = durationpb.New(timers.EngineDownLimit(cfg.GetCluster()))
	fencingDefaults(out)
	byName := map[string]*v1.ResourceType{}
	for _, t := range slices.Concat(cfg.GetTypes(), types) {
		byName[t.GetName()] = t
	}
	for _, g := range out.Groups {
		if g.AutoFailOver == nil {
			g.AutoFailOver = proto.Uint32(1)
		}
		for _, r := range g.Resources {
			if r.Critical == nil {
				r.Critical = proto.Bool(true)
			}
			if r.Enabled == nil {
				r.Enabled = proto.Bool(true)
			}
			t := byName[r.GetType()]
			for _, a := range t.GetAttributes() {
				if _, given := r.GetAttributes()[a.GetName()]; !given && a.GetDefault() != "" {
					if r.Attributes == nil {
						r.Attributes = map[string]string{}
					}
					r.Attributes[a.GetName()] = a.GetDefault()
				}
			}
			r.Limits = EffectiveLimits(t, r)
		}
	}
	return out
}

// fencingDefaults fills in what breaks ties and what switches nodes off.
func fencingDefaults(cfg *v1.Configuration) {
	cl := cfg.Cluster
	if cl.PreferredFencing == v1.PreferredFencing_PREFERRED_FENCING_UNSPECIFIED {
		cl.PreferredFencing = v1.PreferredFencing_PREFERRED_FENCING_NONE
	}
	if cl.PreferredFencingDelay == nil {
		cl.PreferredFencingDelay = durationpb.New(cl.GetTimers().GetPeerinact().AsDuration() / 2)
	}
	for _, d := range cl.FenceDevices {
		if d.Timeout == nil {
			d.Timeout = durationpb.New(time.Minute)
		}
		if d.Tries == 0 {
			d.Tries = 2
		}
		if d.Action == "" {
			d.Action = "off"
		}
	}
	for _, n := range cfg.Nodes {
		if n.Weight == nil {
			n.Weight = proto.Uint32(1)
		}
	}
	for _, g := range cfg.Groups {
		if g.Priority == nil {
			g.Priority = proto.Uint32(1)
		}
	}
}

// EffectiveTimers are a cluster's timers with the unset ones derived.
func EffectiveTimers(c *v1.Cluster) *v1.Timers {
	hb, trouble, inact := timers.Effective(c.GetTimers())
	return &v1.Timers{Heartbeat: durationpb.New(hb), Peertrouble: durationpb.New(trouble), Peerinact: durationpb.New(inact)}
}

// SeedNodes is the number of nodes that must have been seen together before
// groups start: a majority unless set.
func SeedNodes(cfg *v1.Configuration) uint32 {
	if n := cfg.GetCluster().GetSeedNodes(); n > 0 {
		return n
	}
	return uint32(len(cfg.GetNodes())/2 + 1)
}

// EffectiveLimits are those of a resource: its own, else its type's, else those
// of all types. Either may be nil.
func EffectiveLimits(t *v1.ResourceType, r *v1.Resource) *v1.Limits {
	out := baseLimits()
	override(out, t.GetLimits())
	override(out, r.GetLimits())
	return out
}

// override sets in l what o has set; a message in it counts as one value.
func override(l, o *v1.Limits) {
	to, from := l.ProtoReflect(), o.ProtoReflect()
	fields := from.Descriptor().Fields()
	for i := range fields.Len() {
		if f := fields.Get(i); from.Has(f) {
			to.Set(f, from.Get(f))
		}
	}
}

// baseLimits are the field's defaults, for types that set nothing.
func baseLimits() *v1.Limits {
	return &v1.Limits{
		MonitorInterval:        durationpb.New(time.Minute),
		OfflineMonitorInterval: durationpb.New(5 * time.Minute),
		OnlineTimeout:          durationpb.New(5 * time.Minute),
		OfflineTimeout:         durationpb.New(5 * time.Minute),
		MonitorTimeout:         durationpb.New(time.Minute),
		CleanTimeout:           durationpb.New(time.Minute),
		OnlineWaitLimit:        proto.Uint32(2),
		OfflineWaitLimit:       proto.Uint32(0),
		OnlineRetryLimit:       proto.Uint32(0),
		RestartLimit:           proto.Uint32(0),
		ToleranceLimit:         proto.Uint32(0),
		ConfInterval:           durationpb.New(10 * time.Minute),
		FaultOnMonitorTimeouts: proto.Uint32(4),
		CleanRetryLimit:        proto.Uint32(0),
	}
}

// Lint returns notes on a configuration without faults: what can be applied
// and will probably disappoint.
func Lint(cfg *v1.Configuration, types []*v1.ResourceType) []Fault {
	var notes []Fault
	note := func(p protoyaml.Path, problem, fix string) {
		notes = append(notes, Fault{Path: p.String(), Problem: problem, Fix: fix, Note: true})
	}
	lintCluster(cfg, note)
	lintFencing(cfg, note)
	byName := map[string]*v1.ResourceType{}
	for _, t := range slices.Concat(cfg.GetTypes(), types) {
		byName[t.GetName()] = t
	}
	for i, g := range cfg.GetGroups() {
		p := objectPath(KindGroup, g.GetName(), nameless(cfg.Groups[:i]))
		if len(g.GetResources()) == 0 {
			note(p.Field("resources"), "has no resources: there is nothing to run", "add some")
		} else if !slices.ContainsFunc(g.GetResources(), func(r *v1.Resource) bool { return r.Critical == nil || r.GetCritical() }) {
			note(p.Field("resources"), "has no critical resource: no fault of one will move it", "let at least one be critical")
		}
		if len(g.GetSystemList()) == 1 && len(cfg.GetNodes()) > 1 {
			note(p.Field("systemList"), "has one node: nothing can take the group over", "list another node")
		}
		for _, r := range g.GetResources() {
			lintResource(p.Object("resource", r.GetName()), r, byName[r.GetType()], note)
		}
	}
	return notes
}

// LintQuorum returns notes on what breaks ties in a cluster with so many
// coordination points, which are no part of a configuration.
func LintQuorum(cfg *v1.Configuration, points int) []Fault {
	if len(cfg.GetNodes()) != 2 || points > 0 {
		return nil
	}
	return []Fault{{Path: objectPath(KindCluster, "", 0).String(), Note: true,
		Problem: "has two nodes and no coordination point: when one fails the other can't tell and stops its groups, too",
		Fix:     "add a coordination point (holdfast quorum add) or a third node; only a clean stop leaves one running"}}
}

func lintCluster(cfg *v1.Configuration, note func(p protoyaml.Path, problem, fix string)) {
	p := objectPath(KindCluster, "", 0)
	nodes := cfg.GetNodes()
	if _, _, inact := timers.Effective(cfg.GetCluster().GetTimers()); inact < 300*time.Millisecond {
		note(p.Field("timers").Field("peerinact"), fmt.Sprintf("is %s: nodes that are merely busy may be evicted", protoyaml.Duration(inact)),
			"measure with holdfast link list under load first")
	}
	if seed := int(SeedNodes(cfg)); seed > len(nodes)/2+1 {
		note(p.Field("seedNodes"), fmt.Sprintf("is %d of %d: after a power cut nothing starts until so many nodes are up", seed, len(nodes)), "")
	}
	for i, n := range nodes {
		at := objectPath(KindNode, n.GetName(), nameless(nodes[:i]))
		if len(n.GetLinks()) == 1 && len(nodes) > 1 {
			note(at.Field("links"), "has one link: its failure is the loss of the node (always in jeopardy)", "add a second link over another switch")
		}
		hosts := map[string]string{}
		for _, l := range n.GetLinks() {
			ep, err := link.Parse(l.GetAddress())
			if err != nil {
				continue
			}
			if other, twice := hosts[ep.Addr().String()]; twice {
				note(at.Object("link", l.GetName()).Field("address"), "is on the same address as link "+other+": both fail together", "use another network card and switch")
			}
			hosts[ep.Addr().String()] = l.GetName()
		}
	}
}

func lintResource(p protoyaml.Path, r *v1.Resource, t *v1.ResourceType, note func(p protoyaml.Path, problem, fix string)) {
	l := EffectiveLimits(t, r)
	at := p.Field("limits")
	if d := r.GetLimits().GetOfflineMonitorInterval(); d != nil && d.AsDuration() == 0 {
		note(at.Field("offlineMonitorInterval"), "is 0s: what somebody starts by hand on a standby node goes unnoticed", "")
	}
	const patience = 10 * time.Minute
	if n := l.GetFaultOnMonitorTimeouts(); n > 0 && r.GetLimits() != nil {
		if d := time.Duration(n) * max(l.GetMonitorTimeout().AsDuration(), l.GetMonitorInterval().AsDuration()); d > patience {
			note(at.Field("monitorTimeout"), fmt.Sprintf("lets a hung resource go unnoticed for %s (%d monitors that time out)", protoyaml.Duration(d), n),
				"lower monitorTimeout, monitorInterval or faultOnMonitorTimeouts")
		}
	}
}
