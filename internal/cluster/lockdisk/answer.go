package lockdisk

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/holdfast-ha/holdfast/internal/cluster/lockdisk/lockdiskpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/witness"
	"github.com/holdfast-ha/holdfast/internal/cluster/witness/witnesspb"
)

// fullLook: every so often a look finds blocks that nobody has used before.
const fullLook = 8

func (m *Machine) begin(now time.Duration) { m.withClaim(now, m.perform) }

// perform the request: write, read everything, answer by that (D5).
func (m *Machine) perform(now time.Duration) {
	r := m.request
	c := m.next()
	if r.GetSeenSequence() > m.sequence {
		what := fmt.Sprintf("sequence %d of this node, where %d is", r.GetSeenSequence(), m.sequence)
		c.Abstains = max(c.Abstains, m.newest(c.Register))
		m.put(c, now, false, func(time.Duration) { m.abstain(what) })
		return
	}
	if r.GetRegister() < c.GetRegister() {
		m.oldRegister(c.GetRegister())
		return
	}
	if _, look := r.GetBody().(*witnesspb.Request_Look); look {
		m.performLook(now, c)
		return
	}
	if r.GetRegister() > c.GetRegister() {
		// Suspicions outlive the register: they are of incarnations.
		c.Register, c.Promised, c.Accepted, c.Value = r.GetRegister(), nil, nil, nil
	}
	var answer func(now time.Duration)
	switch b := r.GetBody().(type) {
	case *witnesspb.Request_Prepare:
		ballot := b.Prepare.GetBallot()
		if witness.Compare(ballot, c.GetPromised()) < 0 {
			m.rejected(c.GetPromised())
			return
		}
		c.Promised = proto.CloneOf(ballot)
		answer = func(time.Duration) { m.answerPrepare(ballot) }
	case *witnesspb.Request_Accept:
		ballot := b.Accept.GetBallot()
		if witness.Compare(ballot, c.GetPromised()) < 0 {
			m.rejected(c.GetPromised())
			return
		}
		c.Accepted, c.Value, c.Promised = proto.CloneOf(ballot), proto.CloneOf(b.Accept.GetValue()), proto.CloneOf(b.Accept.GetNext())
		answer = func(time.Duration) { m.answerAccept(ballot) }
	case *witnesspb.Request_Renew:
		if m.suspected(b.Renew.GetStays()) {
			return // known before: the counter stays, or the others would have to wait
		}
		c.Counter++
		c.Stays = b.Renew.GetStays()
		answer = func(time.Duration) { m.answerRenew(b.Renew) }
	case *witnesspb.Request_Suspect:
		list, ok := witness.AddSuspicion(c.GetSuspicions(), b.Suspect)
		if !ok {
			m.refuse(witnesspb.Refused_REASON_FULL, fmt.Sprintf("the lock disk keeps %d suspicions of this node already: replace the coordination point by a fresh one", len(c.GetSuspicions())))
			return
		}
		c.Suspicions = list
		answer = func(now time.Duration) { m.answerSuspect(now, b.Suspect.GetAbout()) }
	}
	m.put(c, now, false, func(now time.Duration) {
		m.scan(now, scanFull, func(now time.Duration) {
			if m.usable() {
				answer(now)
			}
		})
	})
}

// usable by what all others say; else it has been refused.
func (m *Machine) usable() bool {
	var register, abstains uint64
	m.each(func(r *Record) {
		register, abstains = max(register, r.GetRegister()), max(abstains, r.GetAbstains())
	})
	switch {
	case abstains >= m.request.GetRegister():
		m.abstain("a node has found out")
	case register > m.request.GetRegister():
		m.oldRegister(register)
	default:
		return true
	}
	return false
}

func (m *Machine) oldRegister(newer uint64) {
	m.refuse(witnesspb.Refused_REASON_OLD_REGISTER,
		fmt.Sprintf("register %d has replaced %d here: the asker's configuration is old, or the point was taken out and added again", newer, m.request.GetRegister()))
}

func (m *Machine) rejected(by *witnesspb.Ballot) {
	m.reply(&witnesspb.Reply{Body: &witnesspb.Reply_Rejected{Rejected: &witnesspb.Rejected{Promised: proto.CloneOf(by)}}})
}

// promised is the highest promise to others than this run, and accepted the record with the
// highest accepted ballot, of this register.
func (m *Machine) promised() (promised *witnesspb.Ballot, accepted *Record) {
	m.each(func(r *Record) {
		if r.GetRegister() != m.request.GetRegister() {
			return
		}
		if !m.mine(r) && witness.Compare(r.GetPromised(), promised) > 0 {
			promised = r.GetPromised()
		}
		if accepted == nil || witness.Compare(r.GetAccepted(), accepted.GetAccepted()) > 0 {
			accepted = r
		}
	})
	return promised, accepted
}

func (m *Machine) answerPrepare(b *witnesspb.Ballot) {
	higher, newest := m.promised()
	if witness.Compare(higher, b) > 0 {
		m.rejected(higher)
		return
	}
	p := &witnesspb.Promised{}
	if newest != nil {
		p.Accepted, p.Value = proto.CloneOf(newest.GetAccepted()), proto.CloneOf(newest.GetValue())
	}
	m.reply(&witnesspb.Reply{Body: &witnesspb.Reply_Promised{Promised: p}})
}

func (m *Machine) answerAccept(b *witnesspb.Ballot) {
	if higher, _ := m.promised(); witness.Compare(higher, b) > 0 {
		m.rejected(higher)
		return
	}
	m.reply(&witnesspb.Reply{Body: &witnesspb.Reply_Accepted{Accepted: &witnesspb.Accepted{}}})
}

// suspected refuses a renewal if anybody suspects this incarnation.
func (m *Machine) suspected(stays uint64) bool {
	var binding *witnesspb.Suspicion
	m.each(func(r *Record) {
		for _, s := range r.GetSuspicions() {
			if s.GetNode() == m.cfg.Node && binds(s, m.cfg.RaftID, stays) && s.GetStays() >= binding.GetStays() {
				binding = s
			}
		}
	})
	if binding == nil {
		return false
	}
	m.reply(&witnesspb.Reply{Body: &witnesspb.Reply_Refused{Refused: &witnesspb.Refused{
		Reason: witnesspb.Refused_REASON_SUSPECTED, Message: fmt.Sprintf("node %s is suspected", m.cfg.Node), Stays: binding.GetStays(),
	}}})
	return true
}

// binds says whether s forbids to acknowledge an incarnation that shows stays.
func binds(s *witnesspb.Suspicion, raftID, stays uint64) bool {
	return raftID < s.GetRaftId() || raftID == s.GetRaftId() && stays <= s.GetStays()
}

func (m *Machine) answerRenew(b *witnesspb.Renew) {
	if m.suspected(b.GetStays()) {
		return
	}
	if _, r := m.promised(); r != nil {
		if witness.OldView(r.GetValue(), b) {
			m.refuse(witnesspb.Refused_REASON_OLD_VIEW, fmt.Sprintf("view %d is in the log; the asker has applied view %d", witness.Epoch(r.GetValue()), b.GetEpoch()))
			return
		}
	}
	m.reply(&witnesspb.Reply{Body: &witnesspb.Reply_Renewed{Renewed: &witnesspb.Renewed{}}})
}

func (m *Machine) answerSuspect(now time.Duration, about string) {
	last := m.since
	m.each(func(r *Record) {
		if r.GetNode() == about {
			last = max(last, m.sights[r.Number][r.Area].counter)
		}
	})
	m.reply(&witnesspb.Reply{Body: &witnesspb.Reply_Suspected{Suspected: &witnesspb.Suspected{Age: durationpb.New(max(0, now-last))}}})
}

// performLook keeps observations young, and gives a sign of life now and then.
func (m *Machine) performLook(now time.Duration, c *lockdiskpb.Contents) {
	m.looks++
	e := scanKnown
	if m.looks%fullLook == 1 {
		e = scanFull
	}
	m.put(c, now, now >= m.written+SignOfLife, func(now time.Duration) {
		m.scan(now, e, func(now time.Duration) {
			if m.usable() {
				m.reply(&witnesspb.Reply{Body: &witnesspb.Reply_Looked{Looked: &witnesspb.Looked{Seen: m.seen(now)}}})
			}
		})
	})
}

// seen are the nodes that have written while this one looked, and itself.
func (m *Machine) seen(now time.Duration) (seen []*witnesspb.Seen) {
	for n := range m.records {
		r := m.latest(n)
		if r == nil {
			continue
		}
		at := m.sights[n][r.Area]
		if n == int(m.cfg.Number) {
			at = sight{any: m.written, moved: true}
		}
		if !at.moved {
			continue
		}
		one := &witnesspb.Seen{Node: r.GetNode(), RaftId: r.GetRaftId(), Age: durationpb.New(max(0, now-at.any))}
		m.each(func(o *Record) {
			for _, s := range o.GetSuspicions() {
				one.Suspected = one.Suspected || s.GetNode() == one.Node && one.RaftId <= s.GetRaftId()
			}
		})
		seen = append(seen, one)
	}
	slices.SortFunc(seen, func(a, b *witnesspb.Seen) int {
		return cmp.Or(strings.Compare(a.GetNode(), b.GetNode()), cmp.Compare(a.GetRaftId(), b.GetRaftId()))
	})
	return seen
}
