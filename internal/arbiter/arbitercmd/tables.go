package arbitercmd

import (
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/holdfast-ha/holdfast/internal/arbiter/arbiterpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/witness/witnesspb"
)

// pairs of a name and a value, one per line; empty values are left out.
func pairs(list ...[2]string) string {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, p := range list {
		if p[1] != "" {
			fmt.Fprintf(t, "%s:\t%s\n", p[0], p[1])
		}
	}
	_ = t.Flush() // a strings.Builder takes everything
	return b.String()
}

func rows(list [][]string) string {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, r := range list {
		for i := range r {
			if r[i] == "" {
				r[i] = "-"
			}
		}
		fmt.Fprintln(t, strings.Join(r, "\t"))
	}
	_ = t.Flush()
	return b.String()
}

// ago of a moment in Unix milliseconds, 0: never.
func ago(ms int64, now time.Time) string {
	if ms == 0 {
		return ""
	}
	return short(now.Sub(time.UnixMilli(ms))) + " ago"
}

func short(d time.Duration) string {
	switch d = max(d, 0); {
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < 48*time.Hour:
		return d.Round(time.Second).String()
	}
	return fmt.Sprintf("%d days", int(d/(24*time.Hour)))
}

func number(n uint64) string { return strconv.FormatUint(n, 10) }

func size(n uint64) string {
	switch {
	case n < 10<<10:
		return fmt.Sprintf("%d B", n)
	case n < 10<<20:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d MiB", n>>20)
}

// state of a cluster in a word.
func state(m *arbiterpb.Cluster) string {
	k := m.GetKept()
	switch {
	case m.GetForgotten() != 0:
		return "forgotten"
	case k.GetAbstains() && k.GetSequence() > 1:
		return "abstains"
	case k.GetAbstains():
		return "not asked yet"
	}
	return "serving"
}

func listTable(all *arbiterpb.Clusters, now time.Time) string {
	list := [][]string{{"NAME", "UUID", "STATE", "REGISTER", "TERM", "VOTE", "ASKED", "CONNECTIONS", "SIZE"}}
	for _, m := range all.GetClusters() {
		v := m.GetKept().GetValue()
		r := []string{m.GetName(), m.GetUuid(), state(m), number(m.GetKept().GetRegister()), "", "", ago(m.GetLastAsked(), now), number(uint64(m.GetConnections())), size(m.GetSize())}
		if v != nil {
			r[4], r[5] = number(v.GetTerm()), number(v.GetVote())
		}
		list = append(list, r)
	}
	return rows(list)
}

func showTable(m *arbiterpb.Cluster, now time.Time) string {
	k, v := m.GetKept(), m.GetKept().GetValue()
	list := [][2]string{
		{"Cluster", m.GetName()}, {"UUID", m.GetUuid()}, {"State", state(m)},
		{"Registered", strings.TrimSuffix(ago(m.GetRegistered(), now)+" by node "+m.GetRegisteredBy(), " by node ")},
		{"Forgotten", ago(m.GetForgotten(), now)},
		{"Authorities", strings.Join(m.GetAuthorities(), ", ")},
		{"Last asked", ago(m.GetLastAsked(), now)},
		{"Connections", number(uint64(m.GetConnections()))},
		{"Size", size(m.GetSize())},
		{"Register", number(k.GetRegister())}, {"Sequence", number(k.GetSequence())},
		{"Promised", ballot(k.GetPromised())}, {"Accepted", ballot(k.GetAccepted())},
	}
	if v != nil {
		list = append(list, [2]string{"Term", number(v.GetTerm())}, [2]string{"Vote", raftID(v.GetVote())}, [2]string{"Leader", raftID(v.GetLeader())},
			[2]string{"Log", positions(v)}, [2]string{"Committed", number(v.GetCommit())})
	}
	out := pairs(list...)
	if s := k.GetSuspicions(); len(s) > 0 {
		list := [][]string{{"NODE", "RAFT ID", "STAYS"}}
		for _, s := range s {
			list = append(list, []string{s.GetNode(), number(s.GetRaftId()), number(s.GetStays())})
		}
		out += "\nSuspicions\n" + rows(list)
	}
	if seen := m.GetSeen(); len(seen) > 0 {
		list := [][]string{{"NODE", "RAFT ID", "SEEN", "SUSPECTED"}}
		for _, s := range seen {
			suspected := ""
			if s.GetSuspected() {
				suspected = "yes"
			}
			list = append(list, []string{s.GetNode(), number(s.GetRaftId()), short(s.GetAge().AsDuration()) + " ago", suspected})
		}
		out += "\nNodes\n" + rows(list)
	}
	return out
}

func ballot(b *witnesspb.Ballot) string {
	if b == nil {
		return ""
	}
	return fmt.Sprintf("%d of proposer %016x", b.GetCounter(), b.GetProposer())
}

func raftID(id uint64) string {
	if id == 0 {
		return "nobody"
	}
	return "raft id " + number(id)
}

// positions of the log: up to which index, with the terms of its end.
func positions(v *witnesspb.Register) string {
	if v.GetLastIndex() == 0 {
		return "empty"
	}
	var runs []string
	for _, r := range v.GetRuns() {
		runs = append(runs, fmt.Sprintf("term %d from %d", r.GetTerm(), r.GetFirstIndex()))
	}
	return fmt.Sprintf("up to %d (%s)", v.GetLastIndex(), strings.Join(runs, ", "))
}

func statusTable(s *arbiterpb.ArbiterStatus, now time.Time) string {
	return pairs([2]string{"Instance", s.GetInstance()}, [2]string{"Key fingerprint", s.GetKeyFingerprint()},
		[2]string{"Listens on", s.GetListen()}, [2]string{"Address", s.GetAddress()}, [2]string{"Version", s.GetVersion()},
		[2]string{"Started", ago(s.GetStarted(), now)}, [2]string{"Clusters", number(s.GetClusters())},
		[2]string{"Abstaining", number(s.GetAbstaining())}, [2]string{"Forgotten", number(s.GetForgotten())},
		[2]string{"Connections", number(s.GetConnections())}, [2]string{"Requests", number(s.GetRequests())}, [2]string{"Looked at", "every " + number(uint64(s.GetLookEvery())) + " s"}, [2]string{"Open tokens", number(s.GetTokens())}, [2]string{"Store", size(s.GetSize())})
}
