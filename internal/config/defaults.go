package config

import (
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/timers"
	"github.com/holdfast-ha/holdfast/internal/schema"
)

// WithDefaults returns a copy of cfg with everything set that has a default:
// that of the schema, or one that follows from other fields.
func WithDefaults(cfg *v1.Configuration, types []*v1.ResourceType) *v1.Configuration {
	out := proto.CloneOf(cfg)
	if out.Cluster == nil {
		out.Cluster = &v1.Cluster{}
	}
	schema.SetDefaults(out)
	cl := out.Cluster
	cl.Timers = EffectiveTimers(cfg.GetCluster())
	cl.SeedNodes = SeedNodes(cfg)
	if cl.PreferredFencingDelay == nil {
		cl.PreferredFencingDelay = durationpb.New(cl.GetTimers().GetPeerinact().AsDuration() / 2)
	}
	byName := map[string]*v1.ResourceType{}
	for _, t := range slices.Concat(cfg.GetTypes(), types) {
		byName[t.GetName()] = t
	}
	for i, g := range out.Groups {
		for _, d := range g.DependsOn {
			if d.Category == v1.GroupDependency_ONLINE && d.Rigidity == v1.GroupDependency_RIGIDITY_UNSPECIFIED {
				d.Rigidity = v1.GroupDependency_FIRM
			}
		}
		for j, r := range g.Resources {
			t := byName[r.GetType()]
			for _, a := range t.GetAttributes() {
				if _, given := r.GetAttributes()[a.GetName()]; !given && a.GetDefault() != "" {
					if r.Attributes == nil {
						r.Attributes = map[string]string{}
					}
					r.Attributes[a.GetName()] = a.GetDefault()
				}
			}
			r.Limits = EffectiveLimits(t, cfg.Groups[i].Resources[j])
			if r.ManageFaults == v1.ManageFaults_MANAGE_FAULTS_UNSPECIFIED {
				r.ManageFaults = g.ManageFaults
			}
		}
	}
	return out
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
	out := &v1.Limits{}
	schema.SetDefaults(out)
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
