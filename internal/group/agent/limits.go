package agent

import (
	"hash/fnv"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

// never is the time of a timer that does not run.
const never = time.Duration(1<<63 - 1)

// hungMonitorMemory is how long after the first of a row of monitor time-outs the row is forgotten.
const hungMonitorMemory = time.Hour

// leastInfoInterval keeps info, whose every answer is replicated, from flooding the log.
const leastInfoInterval = time.Second

// quickRetries is how soon a resource that is starting or stopping is looked at again; the last one repeats.
var quickRetries = []time.Duration{
	10 * time.Millisecond, 20 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond,
	200 * time.Millisecond, 500 * time.Millisecond, time.Second,
}

// slowRetries is how soon a probe that could not tell, or a clean that failed, is repeated; the last one repeats.
var slowRetries = []time.Duration{
	200 * time.Millisecond, 500 * time.Millisecond, time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second,
}

func retry(steps []time.Duration, n int, atMost time.Duration) time.Duration {
	d := steps[min(n, len(steps)-1)]
	if atMost > 0 {
		d = min(d, atMost)
	}
	return d
}

// after is now and d, or never if that is beyond what a clock shows.
func after(now, d time.Duration) time.Duration {
	if d > never-now {
		return never
	}
	return now + d
}

// times is n times d, or never if that is beyond what a clock shows.
func times(n uint32, d time.Duration) time.Duration {
	if d > 0 && time.Duration(n) > never/d {
		return never
	}
	return time.Duration(n) * d
}

// limits are the effective v1.Limits of a resource: its own over its type's over the field's defaults.
type limits struct {
	monitorInterval, offlineMonitorInterval, confInterval, infoInterval time.Duration
	timeouts                                                            [AttrChanged + 1]time.Duration
	onlineWait, offlineWait, onlineRetry, restart, tolerance            uint32
	faultOnMonitorTimeouts, alertOnMonitorTimeouts, cleanRetry          uint32
	imfMode, imfMonitorFreq, imfRetry, deepFreq                         uint32
}

func effectiveLimits(typ, own *v1.Limits) limits {
	span := func(get func(*v1.Limits) *durationpb.Duration, otherwise time.Duration) time.Duration {
		for _, l := range []*v1.Limits{own, typ} {
			if l != nil && get(l) != nil {
				return max(0, get(l).AsDuration())
			}
		}
		return otherwise
	}
	// A time of 0 makes no sense for these: it would end every call at once, or monitor without pause.
	positive := func(get func(*v1.Limits) *durationpb.Duration, otherwise time.Duration) time.Duration {
		if d := span(get, otherwise); d > 0 {
			return d
		}
		return otherwise
	}
	count := func(get func(*v1.Limits) *uint32, otherwise uint32) uint32 {
		for _, l := range []*v1.Limits{own, typ} {
			if l != nil && get(l) != nil {
				return *get(l)
			}
		}
		return otherwise
	}
	l := limits{
		monitorInterval:        positive(func(l *v1.Limits) *durationpb.Duration { return l.MonitorInterval }, time.Minute),
		offlineMonitorInterval: span(func(l *v1.Limits) *durationpb.Duration { return l.OfflineMonitorInterval }, 5*time.Minute),
		confInterval:           positive(func(l *v1.Limits) *durationpb.Duration { return l.ConfInterval }, 10*time.Minute),
		infoInterval:           span(func(l *v1.Limits) *durationpb.Duration { return l.InfoInterval }, 0),
		onlineWait:             count(func(l *v1.Limits) *uint32 { return l.OnlineWaitLimit }, 2),
		offlineWait:            count(func(l *v1.Limits) *uint32 { return l.OfflineWaitLimit }, 0),
		onlineRetry:            count(func(l *v1.Limits) *uint32 { return l.OnlineRetryLimit }, 0),
		restart:                count(func(l *v1.Limits) *uint32 { return l.RestartLimit }, 0),
		tolerance:              count(func(l *v1.Limits) *uint32 { return l.ToleranceLimit }, 0),
		faultOnMonitorTimeouts: count(func(l *v1.Limits) *uint32 { return l.FaultOnMonitorTimeouts }, 4),
		alertOnMonitorTimeouts: count(func(l *v1.Limits) *uint32 { return l.AlertOnMonitorTimeouts }, 0),
		cleanRetry:             count(func(l *v1.Limits) *uint32 { return l.CleanRetryLimit }, 0),
		imfMode:                count(func(l *v1.Limits) *uint32 { return l.ImfMode }, 3),
		imfMonitorFreq:         count(func(l *v1.Limits) *uint32 { return l.ImfMonitorFreq }, 5),
		imfRetry:               max(1, count(func(l *v1.Limits) *uint32 { return l.ImfRegisterRetryLimit }, 3)),
		deepFreq:               count(func(l *v1.Limits) *uint32 { return l.LevelTwoMonitorFreq }, 0),
	}
	if l.infoInterval > 0 {
		l.infoInterval = max(l.infoInterval, leastInfoInterval)
	}
	l.timeouts = [...]time.Duration{
		Monitor:     positive(func(l *v1.Limits) *durationpb.Duration { return l.MonitorTimeout }, time.Minute),
		Online:      positive(func(l *v1.Limits) *durationpb.Duration { return l.OnlineTimeout }, 5*time.Minute),
		Offline:     positive(func(l *v1.Limits) *durationpb.Duration { return l.OfflineTimeout }, 5*time.Minute),
		Clean:       positive(func(l *v1.Limits) *durationpb.Duration { return l.CleanTimeout }, time.Minute),
		Open:        positive(func(l *v1.Limits) *durationpb.Duration { return l.OpenTimeout }, time.Minute),
		Close:       positive(func(l *v1.Limits) *durationpb.Duration { return l.CloseTimeout }, time.Minute),
		Action:      positive(func(l *v1.Limits) *durationpb.Duration { return l.ActionTimeout }, 30*time.Second),
		Info:        positive(func(l *v1.Limits) *durationpb.Duration { return l.InfoTimeout }, 30*time.Second),
		AttrChanged: positive(func(l *v1.Limits) *durationpb.Duration { return l.AttrChangedTimeout }, time.Minute),
	}
	return l
}

// share of d that differs between resources, between a quarter and all of it, so that they are not all monitored at the
// same time.
func (x *resource) share(d time.Duration) time.Duration {
	return d/4 + d*3/4/1024*spread(x.g.Config.GetName(), x.name)
}

// spread is a number in [0, 1024) that differs between resources.
func spread(group, resource string) time.Duration {
	h := fnv.New32a()
	h.Write([]byte(group))
	h.Write([]byte{0})
	h.Write([]byte(resource))
	// The low bits of FNV vary little between names that differ in their last letter only.
	s := h.Sum32()
	return time.Duration((s ^ s>>16) & 1023)
}
