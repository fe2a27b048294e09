package state

import (
	"fmt"
	"slices"
	"strings"
	"time"

	pb "github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// Verdict is what an eviction means for one member.
type Verdict struct {
	Node string
	// How it is known already that it has stopped; unspecified: not yet.
	Proof pb.Proof
	// Without a proof: time from now on after which its lease, its stop time and a margin are over.
	Wait time.Duration
	// Who suspects it since when, for people.
	Reason string
}

// CheckEvict decides whether the statements in c allow to evict, and when the
// evicted are proven to have stopped. docs/lease.md has the argument; in short:
//
//   - A member renews its lease with a majority of the voters of the view that
//     it has applied. Statements of a majority of that view's voters, each
//     binding its voter not to acknowledge the member any more, end that; so the
//     lease ends one lease after the oldest of the majority's youngest
//     acknowledgements, at the latest.
//   - A member that has not applied this view may hold a lease by the view
//     before. Voters that appended this view acknowledge it no more, so that
//     this lease ends one lease after this view was committed.
//   - The coordination points are a voter like any other where they vote.
//   - A statement is void after "it stays" (its number is too low), after a
//     restart of the voter's guard and for another incarnation of the member.
func CheckEvict(s *pb.State, c *pb.Evict) ([]Verdict, *Refused) {
	if c.GetBaseEpoch() != s.GetView().GetEpoch() {
		return nil, refuse(CodeStale, "the view is %d by now, not %d", s.GetView().GetEpoch(), c.GetBaseEpoch())
	}
	atOnce := func(arbitrated bool) *Refused {
		if n := len(c.GetEvictees()); n == 0 || n > MostEvictees(s, arbitrated) {
			return refuse(CodeInvalid, "%d of %d members can't be evicted at once: a majority of the voters has to stay", n, len(s.View.Members))
		}
		return nil
	}
	if err := atOnce(WitnessID(s) != 0); err != nil {
		return nil, err
	}
	var verdicts []Verdict
	seen := map[string]bool{}
	arbitrated := WitnessID(s) != 0
	need := Majority(Voters(s))
	for _, e := range c.GetEvictees() {
		m := MemberOf(s, e.GetNode())
		if m == nil || seen[e.GetNode()] {
			return nil, refuse(CodeInvalid, "%s is not a member, or is named twice", e.GetNode())
		}
		seen[e.GetNode()] = true
		valid := validStatements(s, m, c.GetStatements())
		arbitrated = arbitrated && slices.ContainsFunc(valid, func(st *pb.Statement) bool { return st.GetVoter() == WitnessName })
		if len(valid) < need {
			return nil, refuse(CodeConflict, "only %d of the %d voters needed suspect %s", len(valid), need, m.GetNode())
		}
		verdicts = append(verdicts, verdict(s, m, e, c.GetViewAge().AsDuration(), valid[:need]))
	}
	return verdicts, atOnce(arbitrated)
}

// MostEvictees of one view change: those that stay are a majority of the
// voters of the view, the coordination points counting for those that they side with.
// (Where statements still travel although no heartbeat does, everyone suspects everyone.)
func MostEvictees(s *pb.State, arbitrated bool) int {
	stay := Majority(Voters(s))
	if arbitrated {
		stay--
	}
	return len(s.GetView().GetMembers()) - max(stay, 1)
}

// validStatements returns at most one statement per voter about m, the one
// with the oldest acknowledgement first.
func validStatements(s *pb.State, m *pb.Member, all []*pb.Statement) []*pb.Statement {
	byVoter := map[string]*pb.Statement{}
	for _, st := range all {
		v := MemberOf(s, st.GetVoter())
		if st.GetVoter() == WitnessName { // what points have stated is durable, so that they have no incarnations
			v = &pb.Member{RaftId: WitnessID(s)}
		}
		switch {
		case v == nil || v == m,
			v.GetRaftId() == 0 || st.GetVoterRaftId() != v.GetRaftId(),
			st.GetVoter() != WitnessName && (v.GetGuardIncarnation() == 0 || st.GetVoterGuardIncarnation() != v.GetGuardIncarnation()),
			st.GetAbout() != m.GetNode() || st.GetAboutRaftId() != m.GetRaftId(),
			st.GetStays() != s.GetNodeStatus()[m.GetNode()].GetStays():
			continue
		}
		byVoter[st.GetVoter()] = st
	}
	var valid []*pb.Statement
	for st := range values(byVoter) {
		valid = append(valid, st)
	}
	slices.SortStableFunc(valid, func(a, b *pb.Statement) int {
		return int(b.GetAge().AsDuration() - a.GetAge().AsDuration())
	})
	return valid
}

func verdict(s *pb.State, m *pb.Member, e *pb.Evictee, viewAge time.Duration, majority []*pb.Statement) Verdict {
	// Lease, stop and margin; and where guard can't stop what runs, an armed watchdog does.
	full := max(s.GetLongestPeerinact().AsDuration(), Peerinact(s)) + m.GetWatchdog().AsDuration()
	v := Verdict{Node: m.GetNode()}
	var who []string
	for _, st := range majority {
		age := st.GetAge().AsDuration()
		v.Wait = max(v.Wait, full-age)
		voter := st.GetVoter()
		if voter == WitnessName {
			voter = "the coordination points"
		}
		who = append(who, fmt.Sprintf("%s (%v)", voter, age.Round(time.Millisecond)))
	}
	slices.Sort(who)
	v.Reason = fmt.Sprintf("%s have last acknowledged it so long ago", strings.Join(who, " and "))
	if !e.GetConfirmedView() && s.View.GetEpoch() > 1 {
		v.Wait = max(v.Wait, full-viewAge)
	}
	if sil := s.GetNodeStatus()[m.GetNode()].GetSilence(); sil != nil && sil.GetRaftId() == m.GetRaftId() {
		v.Wait = max(v.Wait, sil.GetLength().AsDuration()+full-e.GetSilenceAge().AsDuration())
	}
	switch {
	case saidGoodbye(majority, full):
		v.Proof, v.Wait = pb.Proof_PROOF_GOODBYE, 0
		v.Reason = "its guard has stopped everything and said goodbye"
	case v.Wait <= 0:
		v.Proof, v.Wait = pb.Proof_PROOF_TIME, 0
	}
	return v
}

// saidGoodbye: the guard said that nothing runs and that it will use no lease
// from heartbeats up to a number; and no voter of the majority acknowledged a
// later one, so that there is no later lease either. A voter that cannot tell
// the number (its guard was started since) counts by the age.
func saidGoodbye(majority []*pb.Statement, full time.Duration) bool {
	var goodbye, by uint64
	for _, st := range majority {
		if st.GetGoodbyeSequence() > goodbye {
			goodbye, by = st.GetGoodbyeSequence(), st.GetAboutGuardIncarnation()
		}
	}
	if goodbye == 0 {
		return false
	}
	for _, st := range majority {
		sameGuard := st.GetAboutGuardIncarnation() == by && st.GetYoungestSequence() != 0
		if st.GetAge().AsDuration() >= full {
			continue
		}
		if !sameGuard || st.GetYoungestSequence() > goodbye {
			return false
		}
	}
	return true
}
