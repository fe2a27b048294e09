package api

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"connectrpc.com/connect"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// This file switches what holds a group: whether it may run somewhere, whether
// it starts and moves by itself, maintenance, the wait for an administrator.

// maxReason bounds what somebody may give as a reason: it is kept in the state.
const maxReason = 200

// stamp writes who does something, and when, behind the reason. The state has
// one text for all three, so that they are not lost with old events; unstamp
// reads them back.
func (s *server) stamp(ctx context.Context, reason string) (string, error) {
	if err := checkReason(reason); err != nil {
		return "", err
	}
	text := fmt.Sprintf("by %s at %s", callerOf(ctx).Who, s.now().UTC().Format(time.RFC3339))
	if reason != "" {
		text = reason + "; " + text
	}
	return text, nil
}

func checkReason(reason string) error {
	if n := utf8.RuneCountInString(reason); n > maxReason {
		return fail(CodeBadRequest, "", "a reason has at most %d characters, not %d", maxReason, n)
	}
	if strings.ContainsFunc(reason, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return fail(CodeBadRequest, "", "a reason is one line of printable characters")
	}
	return nil
}

var stamped = regexp.MustCompile(`^(?:(.*); )?by (.+) at (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)$`)

// unstamp what stamp has written; any other text is a reason as it stands.
func unstamp(text string) (reason, by string, sinceMs int64) {
	m := stamped.FindStringSubmatch(text)
	if m == nil {
		return text, "", 0
	}
	at, err := time.Parse(time.RFC3339, m[3])
	if err != nil {
		return text, "", 0
	}
	return m[1], m[2], at.UnixMilli()
}

func (s *groupServer) Enable(ctx context.Context, req *connect.Request[v1.EnableGroupRequest]) (*connect.Response[v1.EnableGroupResponse], error) {
	m := req.Msg
	if err := s.enable(ctx, &statepb.Enable{Group: m.GetGroup(), Node: m.GetNode()}); err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.EnableGroupResponse{}), nil
}

func (s *groupServer) Disable(ctx context.Context, req *connect.Request[v1.DisableGroupRequest]) (*connect.Response[v1.DisableGroupResponse], error) {
	m := req.Msg
	why, err := s.stamp(ctx, m.GetReason())
	if err != nil {
		return nil, err
	}
	if err := s.enable(ctx, &statepb.Enable{Group: m.GetGroup(), Node: m.GetNode(), Disabled: why}); err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.DisableGroupResponse{}), nil
}

func (s *groupServer) AutoEnable(ctx context.Context, req *connect.Request[v1.AutoEnableGroupRequest]) (*connect.Response[v1.AutoEnableGroupResponse], error) {
	m := req.Msg
	if m.GetNode() == "" {
		return nil, fail(CodeBadRequest, "holdfast group show "+m.GetGroup()+" shows where it is not known", "name the node on which the group does not run")
	}
	if err := s.enable(ctx, &statepb.Enable{Group: m.GetGroup(), Node: m.GetNode(), AutoEnable: true}); err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.AutoEnableGroupResponse{}), nil
}

func (s *server) enable(ctx context.Context, c *statepb.Enable) error {
	l, err := s.look(ctx)
	if err != nil {
		return err
	}
	g, err := l.group(c.GetGroup())
	if err != nil {
		return err
	}
	if err := l.anyNode(c.GetNode()); err != nil {
		return err
	}
	if err := l.inSystemList(g, c.GetNode()); err != nil {
		return err
	}
	return s.submit(ctx, &statepb.Command{Change: &statepb.Command_Enable{Enable: c}})
}

func (s *groupServer) SetSwitching(ctx context.Context, req *connect.Request[v1.SetGroupSwitchingRequest]) (*connect.Response[v1.SetGroupSwitchingResponse], error) {
	m, off := req.Msg, ""
	if !m.GetOn() {
		why, err := s.stamp(ctx, m.GetReason())
		if err != nil {
			return nil, err
		}
		off = why
	}
	if err := s.onGroup(ctx, m.GetGroup(), "", &statepb.Command{
		Change: &statepb.Command_SetSwitching{SetSwitching: &statepb.SetSwitching{Group: m.GetGroup(), Off: off}}}); err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.SetGroupSwitchingResponse{}), nil
}

func (s *groupServer) SetMaintenance(ctx context.Context, req *connect.Request[v1.SetGroupMaintenanceRequest]) (*connect.Response[v1.SetGroupMaintenanceResponse], error) {
	l, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	m := req.Msg
	g, err := l.group(m.GetGroup())
	if err != nil {
		return nil, err
	}
	node := ""
	if m.GetOn() {
		if node, err = l.maintained(g, m.GetNode()); err != nil {
			return nil, err
		}
	}
	if err := s.submit(ctx, &statepb.Command{
		Change: &statepb.Command_SetMaintenance{SetMaintenance: &statepb.SetMaintenance{Group: g.GetName(), Node: node}}}); err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.SetGroupMaintenanceResponse{}), nil
}

// maintained is the node on which maintenance of a group begins.
func (l *look) maintained(g *v1.Group, node string) (string, error) {
	if node != "" {
		if err := l.anyNode(node); err != nil {
			return "", err
		}
		return node, l.inSystemList(g, node)
	}
	switch on := l.groupInfo(g).GetActiveOn(); len(on) {
	case 1:
		return on[0], nil
	case 0:
		return "", fail(CodeBadRequest, "holdfast group maintenance on "+g.GetName()+" --node NODE", "group %s runs nowhere: say on which node somebody works on it", g.GetName())
	default:
		return "", fail(CodeBadRequest, "holdfast group maintenance on "+g.GetName()+" --node NODE", "group %s runs on %s: say on which node somebody works on it", g.GetName(), strings.Join(on, ", "))
	}
}

func (s *resourceServer) ClearAdminWait(ctx context.Context, req *connect.Request[v1.ClearAdminWaitRequest]) (*connect.Response[v1.ClearAdminWaitResponse], error) {
	l, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	m := req.Msg
	c := &statepb.ClearAdminWait{Group: m.GetGroup(), Resource: m.GetResource(), Node: m.GetNode(), Fault: m.GetFault()}
	if m.GetResource() != "" {
		g, _, err := l.resource(m.GetGroup(), m.GetResource())
		if err != nil {
			return nil, err
		}
		c.Group = g.GetName()
	}
	g, err := l.group(c.GetGroup())
	if err != nil {
		return nil, err
	}
	if err := l.anyNode(c.GetNode()); err != nil {
		return nil, err
	}
	if len(l.waiting(g, c.GetResource(), c.GetNode())) == 0 {
		what := "no resource of group " + g.GetName()
		if c.GetResource() != "" {
			what = "resource " + c.GetResource() + " does not wait for an administrator"
			if c.GetNode() != "" {
				what += " on " + c.GetNode()
			}
			return nil, fail(CodeConflict, "holdfast resource show "+c.GetResource()+" shows how it is", "%s", what)
		}
		return nil, fail(CodeConflict, "holdfast group show "+g.GetName()+" shows how it is", "%s waits for an administrator", what)
	}
	if err := s.submit(ctx, &statepb.Command{Change: &statepb.Command_ClearAdminWait{ClearAdminWait: c}}); err != nil {
		return nil, err
	}
	return connect.NewResponse(&v1.ClearAdminWaitResponse{}), nil
}

// waiting lists what of a group waits for an administrator, as "resource on node".
func (l *look) waiting(g *v1.Group, resource, node string) (out []string) {
	for _, n := range l.placesOf(g) {
		for _, name := range state.SortedKeys(l.GetGroupStatus()[g.GetName()].GetNodes()[n].GetResources()) {
			st := l.GetGroupStatus()[g.GetName()].GetNodes()[n].GetResources()[name]
			if st.GetAdminWait() != 0 && (resource == "" || resource == name) && (node == "" || node == n) {
				out = append(out, name+" on "+n)
			}
		}
	}
	return out
}

// mayFlush: what an agent is forcing down, or has left to a person, is not
// forgotten without force.
func (s *server) mayFlush(ctx context.Context, m *v1.FlushGroupRequest) error {
	l, err := s.look(ctx)
	if err != nil {
		return err
	}
	g, err := l.group(m.GetGroup())
	if err != nil || m.GetForce() {
		return err
	}
	var busy []string
	for _, n := range l.placesOf(g) {
		for _, r := range g.GetResources() {
			st := l.GetGroupStatus()[g.GetName()].GetNodes()[n].GetResources()[r.GetName()]
			if m.GetNode() != "" && m.GetNode() != n {
				continue
			}
			switch {
			case st.GetAdminWait() != 0:
				busy = append(busy, r.GetName()+" waits for an administrator on "+n)
			case st.GetUnableToOffline():
				busy = append(busy, r.GetName()+" can't be taken offline on "+n)
			case st.GetActivity() == v1.ResourceActivity_RESOURCE_ACTIVITY_CLEAN:
				busy = append(busy, r.GetName()+" is being cleaned on "+n)
			}
		}
	}
	if len(busy) == 0 {
		return nil
	}
	return fail(CodeConflict, "see to it first, or repeat it with --force", "group %s is not flushed: %s", g.GetName(), strings.Join(busy, "; "))
}
