package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

// What of a list status shows before it leaves out what is well.
const (
	fewNodes  = 12
	fewGroups = 15
)

func (a *app) statusCommand() *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use: "status", Short: "Show how the cluster is, on one screen", Args: args(0, 0),
		RunE: a.run(func(ctx context.Context, c *client, _ []string) error {
			m, err := call(ctx, c, c.cluster.Status, &v1.StatusRequest{})
			if err != nil {
				return err
			}
			return a.show("status/1", m, func(w io.Writer) { writeStatus(w, m, all) })
		}),
	}
	c.Flags().BoolVar(&all, "all", false, "list also what is well in a large cluster")
	return a.withOutput(c)
}

func writeStatus(w io.Writer, m *v1.StatusResponse, all bool) {
	heading(w, m.GetSource())
	leader := ", no leader"
	if l := m.GetSource().GetLeader(); l != "" {
		leader = ", led by " + l
	}
	fmt.Fprintf(w, "Cluster %s, view %d%s, as %s sees it\n%s\n", m.GetCluster(), m.GetEpoch(), leader, m.GetSource().GetNode(), m.GetVerdict())

	rows := [][]string{{"NODE", "STATE", "LINKS", "GROUPS"}}
	loaded := anyLoad(m.GetNodes())
	if loaded {
		rows[0] = append(rows[0], "LEFT")
	}
	hidden := 0
	for _, n := range m.GetNodes() {
		well := n.GetPhase() == v1.NodePhase_NODE_PHASE_RUNNING && n.GetLinkState() == v1.LinkState_LINK_STATE_UP && !n.GetFrozen() && allUp(n)
		if !all && len(m.GetNodes()) > fewNodes && well {
			hidden++
			continue
		}
		row := []string{n.GetName(), nodeState(n), nodeLinks(n), few(n.GetGroups(), 5)}
		if loaded {
			row = append(row, left(n))
		}
		rows = append(rows, row)
	}
	fmt.Fprintln(w)
	writeList(w, rows, hidden, "nodes are well")

	rows, hidden = [][]string{{"GROUP", "STATE", "NODE", "NOTE"}}, 0
	for _, g := range m.GetGroups() {
		well := g.GetState() == v1.GroupState_GROUP_STATE_ONLINE && len(g.GetHolds()) == 0
		if !all && len(m.GetGroups()) > fewGroups && well {
			hidden++
			continue
		}
		rows = append(rows, groupRows(g)...)
	}
	fmt.Fprintln(w)
	writeList(w, rows, hidden, "groups are online")

	rows = [][]string{{"RESOURCE", "GROUP", "TYPE", "NODE", "STATE", "WHY"}}
	for _, f := range m.GetFailed() {
		rows = append(rows, []string{f.GetResource(), f.GetGroup(), f.GetType(), f.GetNode(), resourceState(f.GetStatus()), f.GetStatus().GetMessage()})
	}
	section(w, "Failed resources", rows...)

	rows = [][]string{{"ID", "WHAT", "SINCE", "NOTE"}}
	for _, o := range m.GetOperations() {
		rows = append(rows, []string{fmt.Sprint(o.GetId()), operationName(o), clock(o.GetStartedMs()), o.GetMessage()})
	}
	section(w, "Operations under way", rows...)

	if len(m.GetConditions()) > 0 {
		fmt.Fprintln(w, "\nConditions")
	}
	for _, c := range m.GetConditions() {
		fmt.Fprintf(w, "  %s: %s\n", word(c.GetSeverity()), c.GetMessage())
	}
}

func writeList(w io.Writer, rows [][]string, hidden int, well string) {
	if len(rows) > 1 || hidden == 0 {
		table(w, rows...)
	}
	if hidden > 0 {
		fmt.Fprintf(w, "%d %s (--all lists them)\n", hidden, well)
	}
}

func few(names []string, most int) string {
	if len(names) > most {
		return strings.Join(names[:most], " ") + fmt.Sprintf(" and %d more", len(names)-most)
	}
	return strings.Join(names, " ")
}

func allUp(n *v1.NodeInfo) bool {
	for _, s := range n.GetLinkStates() {
		if s != v1.LinkState_LINK_STATE_UP && !n.GetSelf() {
			return false
		}
	}
	return true
}

func nodeState(n *v1.NodeInfo) string {
	s := cmp.Or(word(n.GetPhase()), "unknown")
	for _, more := range []struct {
		is   bool
		text string
	}{
		{n.GetFrozen(), "frozen"}, {n.GetDetaching(), "detaching"}, {n.GetReset_() != "", "to be reset"}, {n.GetSuspected() && n.GetPhase() == v1.NodePhase_NODE_PHASE_RUNNING, "silent"}, {n.GetSilence(), "silence announced"},
		{n.GetEngineDown(), "engine down"}, {n.GetWaitingForProof() != "", "not proven to have stopped"},
	} {
		if more.is {
			s += ", " + more.text
		}
	}
	return s
}

// nodeLinks says which links are not up.
func nodeLinks(n *v1.NodeInfo) string {
	if n.GetSelf() {
		return ""
	}
	var bad []string
	for i, s := range n.GetLinkStates() {
		if s != v1.LinkState_LINK_STATE_UP && i < len(n.GetLinks()) {
			bad = append(bad, n.GetLinks()[i].GetName()+" "+cmp.Or(word(s), "unknown"))
		}
	}
	state := cmp.Or(word(n.GetLinkState()), "unknown")
	if len(bad) == 0 || len(bad) == len(n.GetLinks()) {
		return state
	}
	return state + " (" + strings.Join(bad, ", ") + ")"
}

func resourceState(s *v1.ResourceStatus) string {
	text := cmp.Or(word(s.GetState()), "unknown")
	if c := s.GetConfidence(); c > 0 && c < 100 && s.GetState() == v1.ResourceState_RESOURCE_STATE_ONLINE {
		text += fmt.Sprintf(" (%d%%)", c)
	}
	if s.GetIntentional() {
		text += " on purpose"
	}
	if w := s.GetAdminWait(); w != 0 {
		text += ", waits for an administrator (" + word(w) + ")"
	}
	if s.GetUnableToOffline() {
		text += ", unable to offline"
	}
	if s.GetMonitorTimedOut() {
		text += ", monitor timed out"
	}
	if s.GetActivity() > v1.ResourceActivity_RESOURCE_ACTIVITY_NONE {
		text += ", " + map[v1.ResourceActivity]string{
			v1.ResourceActivity_RESOURCE_ACTIVITY_WAITING_ONLINE:  "waiting to go online",
			v1.ResourceActivity_RESOURCE_ACTIVITY_ONLINE:          "going online",
			v1.ResourceActivity_RESOURCE_ACTIVITY_WAITING_OFFLINE: "waiting to go offline",
			v1.ResourceActivity_RESOURCE_ACTIVITY_OFFLINE:         "going offline",
			v1.ResourceActivity_RESOURCE_ACTIVITY_CLEAN:           "being cleaned",
			v1.ResourceActivity_RESOURCE_ACTIVITY_RESTARTING:      "restarting",
		}[s.GetActivity()]
	}
	return text
}
