package engine

import (
	"time"

	"go.etcd.io/raft/v3"

	"github.com/holdfast-ha/holdfast/internal/cluster/peer/peerpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// Who leads. A follower whose guard suspects the leader forgets it and says so
// to everybody, with the place at which its log ends. A voter without a leader
// campaigns when a quorum is without one and none of them is better placed,
// and again at each new report; raft's own time-outs are the fallback.

type election struct {
	// Voters that are without a leader, by name, as they said last.
	leaderless map[string]leaderless
	announced  time.Duration
	lastTry    time.Duration
	tries      int
	// Reports so far, and how many there were at the last try.
	reports, triedAt int
	// This node was without a leader when it looked last.
	without bool
	// The term, and since when it is that: somebody campaigns, or leadership was moved.
	term      uint64
	termSince time.Duration
	since     time.Duration
	wake      time.Duration
}

type leaderless struct {
	raftID, term, index uint64
	at                  time.Duration
}

const (
	// Without a leader this is said again so often; a word older than two of them counts no more.
	announceEvery = 200 * time.Millisecond
	// A campaign that has not won after this long is begun again; then after twice as long, and so on.
	retryCampaign    = 100 * time.Millisecond
	retryCampaignMax = 16 * retryCampaign
)

func (e *Engine) elect() {
	e.election.wake = 0
	if e.raft == nil || e.self() == nil {
		return // E3
	}
	st := e.raft.Status()
	if e.election.term != st.Term {
		if e.election.term != 0 {
			e.election.termSince = e.now
		}
		e.election.term = st.Term
	}
	if st.Leader != 0 {
		if e.election.without { // there is a leader again
			e.election.leaderless = map[string]leaderless{}
			e.election.without = false
		}
		// The word of one who suspects the leader a moment before this node does is kept.
		e.election.announced, e.election.tries = 0, 0
		return
	}
	if !e.election.without {
		e.election.without, e.election.since = true, e.now
	}
	if e.election.announced == 0 || e.now >= e.election.announced+announceEvery {
		e.announceLeaderless(st.LastTerm, st.LastIndex)
	}
	e.election.wake = e.election.announced + announceEvery
	members, best := e.bestPlaced(st.LastTerm, st.LastIndex)
	if st.State == raft.StateLeader || !best {
		return
	}
	if heartbeat, _, _ := e.timers(); members < state.Majority(state.Voters(e.s)) {
		// The coordination points decide. A leader on the other side, if there is one, has a head start.
		if due := e.election.since + heartbeat/2; e.now < due {
			e.election.wake = min(e.election.wake, due)
			return
		}
	}
	// Who won this term is about to say so; a campaign before that would take it away from the winner, who may be the
	// one that this node has just moved its leadership to.
	if next := e.election.termSince + retryCampaign; e.election.termSince != 0 && e.now < next {
		e.election.wake = min(e.election.wake, next)
		return
	}
	if e.election.tries > 0 {
		wait := min(retryCampaign<<min(e.election.tries-1, 10), retryCampaignMax)
		if e.election.reports != e.election.triedAt {
			wait = retryCampaign / 4 // somebody new is without a leader; but a campaign may be under way
		}
		if next := e.election.lastTry + wait; e.now < next {
			e.election.wake = min(e.election.wake, next)
			return
		}
	}
	e.election.lastTry, e.election.triedAt = e.now, e.election.reports
	e.election.tries++
	e.raft.Campaign()
}

// announceLeaderless to all voters. It may have been a suspicion that made
// this node so: then its statement is sent by fromGuard as well.
func (e *Engine) announceLeaderless(term, index uint64) {
	e.election.announced = e.now
	e.everyone(&peerpb.Message{Body: &peerpb.Message_Suspicion{Suspicion: &peerpb.Suspicion{LastTerm: term, LastIndex: index}}})
}

// bestPlaced: a quorum is without a leader, and none of it has a longer log.
// The coordination points, where they vote, are with whoever asks. Members says
// how many others there are, this node included.
func (e *Engine) bestPlaced(term, index uint64) (members int, best bool) {
	count := 1
	me := e.self()
	for _, m := range e.s.GetView().GetMembers() {
		l, ok := e.election.leaderless[m.GetNode()]
		if !ok || m.GetNode() == e.node || l.raftID != m.GetRaftId() || e.now > l.at+2*announceEvery {
			continue
		}
		count++
		switch {
		case l.term != term:
			if l.term > term {
				return count, false
			}
		case l.index != index:
			if l.index > index {
				return count, false
			}
		case m.GetRaftId() < me.GetRaftId():
			return count, false
		}
	}
	voters := state.Voters(e.s)
	return count, count+voters-len(e.s.GetView().GetMembers()) >= state.Majority(voters)
}

// suspicion of a peer: a statement, or only the word that it has no leader.
func (e *Engine) suspicion(node string, m *peerpb.Suspicion) {
	if st := m.GetStatement(); st != nil && st.GetVoter() == node {
		e.keeper.Stated(e.now, st)
		delete(e.lead.heardAgain[st.GetAbout()], node)
	}
	if m.GetLastIndex() != 0 {
		if e.raft != nil {
			if lead := e.raft.Status().Leader; lead != 0 && lead != e.RaftID() && lead == e.peers[node].hello.GetRaftId() {
				e.raft.ForgetLeader() // it leads no more by its own word: its engine was started again
			}
		}
		l := leaderless{e.peers[node].hello.GetRaftId(), m.GetLastTerm(), m.GetLastIndex(), e.now}
		if was, ok := e.election.leaderless[node]; !ok || was.raftID != l.raftID || was.term != l.term || was.index != l.index {
			e.election.reports++
		}
		e.election.leaderless[node] = l
	}
}

// suspected: this node's guard suspects a peer, bindingly.
func (e *Engine) suspected(st *statepb.Statement, reason string) {
	if st.Voter = e.node; st.GetVoterRaftId() != e.RaftID() {
		return // of an earlier incarnation, which guard forgets once it knows of this one: it binds nobody then
	}
	e.keeper.Stated(e.now, st)
	if was := e.guard.statements[st.GetAbout()].statement; was.GetAboutRaftId() != st.GetAboutRaftId() || was.GetStays() != st.GetStays() {
		e.guard.forgetHeard(st.GetAbout())
	}
	e.guard.statements[st.GetAbout()] = stated{st, e.now}
	e.logf("links: %s is suspected: %s", st.GetAbout(), reason)
	if e.raft == nil {
		return
	}
	m := &peerpb.Suspicion{Statement: st}
	status := e.raft.Status()
	if status.Leader == st.GetAboutRaftId() && status.Leader != status.RaftID {
		e.raft.ForgetLeader() // before it is said (C3)
		status = e.raft.Status()
		e.election.announced = e.now
	}
	if status.Leader == 0 {
		m.LastTerm, m.LastIndex = status.LastTerm, status.LastIndex
	}
	e.everyone(&peerpb.Message{Body: &peerpb.Message_Suspicion{Suspicion: m}})
}
