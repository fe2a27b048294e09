package agent

import (
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

// What is reported of a resource. It goes into the replicated log: it is
// bounded, and changes only when there is something to tell.

const (
	maxMessage = 1024
	maxInfo    = 4096
	// leastChange of the confidence that is reported, in points.
	leastChange = 10
)

// status is a v1.ResourceStatus that can be compared.
type status struct {
	state            v1.ResourceState
	activity         v1.ResourceActivity
	unable, timedOut bool
	intentional      bool
	message          string
	restarts         uint32
	changedMs        int64
	confidence       int
	verdict          v1.Verdict
	adminWait        v1.AdminWait
	info             *info
}

// info is what the info entry point last said. It is never changed once made.
type info struct{ values map[string]string }

func (i *info) get() map[string]string {
	if i == nil {
		return nil
	}
	return i.values
}

// makeInfo fits what an entry point said into a report; nil: nothing.
func makeInfo(said map[string]string) *info {
	kept, room := make(map[string]string, len(said)), maxInfo
	for _, k := range slices.Sorted(maps.Keys(said)) {
		name, v := fit(k, maxInfo), fit(said[k], maxInfo)
		if len(name)+len(v) <= room {
			kept[name] = v
			room -= len(name) + len(v)
		}
	}
	if len(kept) == 0 {
		return nil
	}
	return &info{kept}
}

// fit makes a text of an agent one that can be stored: valid, and no longer than n bytes.
func fit(s string, n int) string {
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\uFFFD")
	}
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

func (s *status) proto() *v1.ResourceStatus {
	return &v1.ResourceStatus{
		State: s.state, Activity: s.activity, UnableToOffline: s.unable, MonitorTimedOut: s.timedOut,
		Message: s.message, Restarts: s.restarts, ChangedMs: s.changedMs, Confidence: uint32(s.confidence),
		Verdict: s.verdict, AdminWait: s.adminWait, Intentional: s.intentional, Info: s.info.get(),
	}
}

// knownAs says whether the committed status is this one. Their times are of different clocks.
func (s *status) knownAs(k *v1.ResourceStatus) bool {
	return k.GetState() == s.state && k.GetActivity() == s.activity && k.GetUnableToOffline() == s.unable &&
		k.GetMonitorTimedOut() == s.timedOut && k.GetMessage() == s.message && k.GetRestarts() == s.restarts &&
		k.GetConfidence() == uint32(s.confidence) && k.GetVerdict() == s.verdict && k.GetAdminWait() == s.adminWait &&
		k.GetIntentional() == s.intentional && maps.Equal(k.GetInfo(), s.info.get())
}

func (x *resource) status(mayAct bool) status {
	s := x.bareStatus(mayAct)
	s.message = fit(s.message, maxMessage)
	return s
}

func (x *resource) bareStatus(mayAct bool) status {
	s := status{
		state: x.state, activity: v1.ResourceActivity_RESOURCE_ACTIVITY_NONE,
		unable: x.unable, timedOut: x.timedOut, message: x.message, restarts: x.restarts, changedMs: x.changedMs,
		confidence: x.confidence, adminWait: x.adminWait, intentional: x.intentional && x.state == offline, info: x.info,
	}
	switch {
	case x.note != "":
		s.message = x.note
	case s.message == "":
		s.message = x.openNote
	}
	if x.phase == steady && (x.state == faulted || x.adminWait != 0) || x.unable {
		s.verdict = x.verdict
	}
	if (!x.probed || x.recheck) && x.state != online {
		s.state = unknown // what was known is too old to be told again (A4)
	}
	switch {
	case !x.enabled:
		s.state, s.message = unknown, "not enabled: neither monitored nor managed"
		return s
	case x.problem != "":
		s.state, s.message = unknown, x.problem
		return s
	}
	switch x.phase {
	case steady:
		switch {
		case !x.settled(), x.g.Config.GetFrozen():
		case x.want == v1.Want_WANT_ONLINE && x.state == offline:
			s.activity = v1.ResourceActivity_RESOURCE_ACTIVITY_WAITING_ONLINE
			if w := x.waitsFor(mayAct); w != "" {
				s.message = w
			}
		case x.want == v1.Want_WANT_OFFLINE && x.state == online && !x.givenUp():
			s.activity = v1.ResourceActivity_RESOURCE_ACTIVITY_WAITING_OFFLINE
			if p := x.leavesAfter(); p != nil {
				s.message = "waits for " + p.name + " to go offline"
			}
		}
	case starting, appearing:
		s.activity = v1.ResourceActivity_RESOURCE_ACTIVITY_ONLINE
		if x.restarting {
			s.activity = v1.ResourceActivity_RESOURCE_ACTIVITY_RESTARTING
		}
	case stopping, vanishing:
		s.activity = v1.ResourceActivity_RESOURCE_ACTIVITY_OFFLINE
	case cleaning, cleaned:
		s.activity = v1.ResourceActivity_RESOURCE_ACTIVITY_CLEAN
	}
	return s
}
