package state

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	pb "github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

func (a *applier) report(c *pb.Report) *Refused {
	m := MemberOf(a.s, c.GetNode())
	if m == nil || m.GetRaftId() != c.GetRaftId() {
		return refuse(CodeStale, "raft id %d of node %s is not in the view", c.GetRaftId(), c.GetNode())
	}
	st := a.s.NodeStatus[c.GetNode()]
	if a.c.GetRequest() <= st.GetLastReport() {
		return refuse(CodeStale, "a newer report of node %s is known", c.GetNode())
	}
	st.LastReport = a.c.GetRequest()
	changed := false
	marks := marks{a: a, node: c.GetNode(), more: map[string]int{}}
	for _, gr := range c.GetGroups() {
		gs, g := a.s.GroupStatus[gr.GetGroup()], a.s.Groups[gr.GetGroup()]
		on := gs.GetNodes()[c.GetNode()]
		if g == nil || on == nil {
			continue // removed in the meantime
		}
		changed = true
		if gr.GetIntent() <= on.GetIntent() {
			on.ReportedIntent = max(on.GetReportedIntent(), gr.GetIntent())
		}
		if on.Resources == nil {
			on.Resources = map[string]*v1.ResourceStatus{}
		}
		for _, name := range SortedKeys(gr.GetResources()) {
			st, was := proto.CloneOf(gr.Resources[name]), on.Resources[name]
			if st == nil {
				st = &v1.ResourceStatus{}
			}
			st.ChangedMs = was.GetChangedMs()
			if st.GetState() != was.GetState() {
				st.ChangedMs = a.c.GetTimeMs()
				a.resourceEvent(c.GetNode(), gr.GetGroup(), name, was.GetState(), st)
			}
			marks.compare(gr.GetGroup(), name, was, st)
			a.resourceTriggers(c.GetNode(), g, name, was, st)
			on.Resources[name] = st
			on.Vouched = on.Vouched && st.GetState() != v1.ResourceState_RESOURCE_STATE_ONLINE
		}
		if on.GetDetached() && on.GetReportedIntent() == on.GetIntent() {
			a.attached(c.GetNode(), gr.GetGroup(), on)
		}
		fitResources(g, on)
	}
	marks.sumUp()
	if changed {
		a.planChanged()
	}
	return nil
}

func (a *applier) resourceEvent(node, group, name string, was v1.ResourceState, st *v1.ResourceStatus) {
	e := &v1.Event{Severity: v1.Severity_SEVERITY_INFORMATION, Node: node, Group: group, Resource: name}
	switch st.GetState() {
	case v1.ResourceState_RESOURCE_STATE_ONLINE:
		e.Code, e.Message = "resource.online", name+" is online on "+node
	case v1.ResourceState_RESOURCE_STATE_OFFLINE:
		if was == v1.ResourceState_RESOURCE_STATE_UNSPECIFIED || was == v1.ResourceState_RESOURCE_STATE_UNKNOWN {
			return // the first probe finds most things offline
		}
		e.Code, e.Message = "resource.offline", name+" is offline on "+node
		if st.GetIntentional() {
			e.Message += ", as somebody intended"
		}
	case v1.ResourceState_RESOURCE_STATE_FAULTED:
		e.Severity, e.Code, e.Message = v1.Severity_SEVERITY_ERROR, "resource.faulted", name+" is faulted on "+node
	default:
		e.Severity, e.Code, e.Message = v1.Severity_SEVERITY_WARNING, "resource.unknown", "the state of "+name+" on "+node+" is unknown"
	}
	if st.GetMessage() != "" {
		e.Message += ": " + st.GetMessage()
	}
	a.event(e)
}

const (
	// mostMarks of each kind are told one by one of one report: when a machine is too slow, a thousand monitors of it time out at once.
	mostMarks = 10
	// A confidence that moves by less is not told.
	confidenceStep = 20
)

// marks are what a report tells of resources beside their states.
type marks struct {
	a    *applier
	node string
	// How many there were of each kind, by code.
	more map[string]int
}

func (m *marks) compare(group, name string, was, st *v1.ResourceStatus) {
	tell := func(sev v1.Severity, code, format string, args ...any) {
		if m.more[code]++; m.more[code] > mostMarks {
			return
		}
		e := &v1.Event{Severity: sev, Code: code, Node: m.node, Group: group, Resource: name, Message: fmt.Sprintf(format, args...)}
		if st.GetMessage() != "" {
			e.Message += ": " + st.GetMessage()
		}
		m.a.event(e)
	}
	if c, old := int(st.GetConfidence()), int(was.GetConfidence()); c != 0 && old != 0 && max(c-old, old-c) >= confidenceStep {
		tell(v1.Severity_SEVERITY_INFORMATION, "resource.confidence", "it is %d %% sure that %s is online on %s, after %d %%", c, name, m.node, old)
	}
	if w := st.GetAdminWait(); w != v1.AdminWait_ADMIN_WAIT_UNSPECIFIED && w != was.GetAdminWait() {
		tell(v1.Severity_SEVERITY_ERROR, "resource.admin-wait", "%s on %s waits for an administrator: %s", name, m.node, waitsFor(w))
	}
	if st.GetUnableToOffline() && !was.GetUnableToOffline() {
		tell(v1.Severity_SEVERITY_ERROR, "resource.unable-to-offline", "%s can't be taken offline on %s, something of it may still run", name, m.node)
	}
	if st.GetMonitorTimedOut() && !was.GetMonitorTimedOut() {
		tell(v1.Severity_SEVERITY_WARNING, "resource.monitor-timed-out", "the monitor of %s on %s took too long", name, m.node)
	}
	if st.GetRestarts() > was.GetRestarts() {
		tell(v1.Severity_SEVERITY_WARNING, "resource.restarted", "%s is restarted on %s, for the %s time lately", name, m.node, ordinal(st.GetRestarts()))
	}
}

// sumUp what was not told one by one.
func (m *marks) sumUp() {
	for _, code := range SortedKeys(m.more) {
		if n := m.more[code] - mostMarks; n > 0 {
			m.a.event(&v1.Event{Severity: v1.Severity_SEVERITY_WARNING, Code: code, Node: m.node,
				Message: fmt.Sprintf("the same goes for %d more resources on %s", n, m.node)})
		}
	}
}

func waitsFor(w v1.AdminWait) string {
	switch w {
	case v1.AdminWait_ADMIN_WAIT_OFFLINE_HUNG:
		return "its offline took too long"
	case v1.AdminWait_ADMIN_WAIT_OFFLINE_INEFFECTIVE:
		return "it went on after its offline"
	case v1.AdminWait_ADMIN_WAIT_ONLINE_HUNG:
		return "its online took too long"
	case v1.AdminWait_ADMIN_WAIT_ONLINE_INEFFECTIVE:
		return "it did not come up after its online"
	case v1.AdminWait_ADMIN_WAIT_UNEXPECTED_OFFLINE:
		return "it went offline by itself"
	case v1.AdminWait_ADMIN_WAIT_MONITOR_HUNG:
		return "its monitor took too long again and again"
	}
	return "for an unknown reason"
}

func ordinal(n uint32) string {
	suffix := "th"
	switch {
	case n%100 >= 11 && n%100 <= 13:
	case n%10 == 1:
		suffix = "st"
	case n%10 == 2:
		suffix = "nd"
	case n%10 == 3:
		suffix = "rd"
	}
	return fmt.Sprintf("%d%s", n, suffix)
}
