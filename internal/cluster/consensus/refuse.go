package consensus

import (
	"encoding/binary"
	"errors"
	"fmt"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/confchange"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
)

// Terms, indexes and ids stay below, so that none of them ever overflows.
const maxNumber = 1 << 62

// impossible says why no peer that follows the protocol sends a message (C7);
// nil: one may.
func (n *Node) impossible(m *raftpb.Message) error {
	from, term, index := m.GetFrom(), m.GetTerm(), m.GetIndex()
	last, err := n.storage.LastIndex()
	if err != nil {
		return err
	}
	switch {
	case m.GetTo() != n.id:
		return errors.New("it is for another node")
	case from == raft.None || from == n.id || from >= maxNumber:
		return fmt.Errorf("no peer is %d", from)
	case term == 0 || term >= maxNumber || index >= maxNumber || m.GetLogTerm() > term:
		return fmt.Errorf("it is of term %d, index %d in term %d", term, index, m.GetLogTerm())
	}
	switch m.GetType() {
	case raftpb.MsgVote, raftpb.MsgPreVote, raftpb.MsgVoteResp, raftpb.MsgPreVoteResp, raftpb.MsgTimeoutNow:
		return nil
	case raftpb.MsgHeartbeatResp:
		b := n.raw.BasicStatus()
		if b.RaftState != raft.StateLeader || term != b.GetTerm() {
			return nil
		}
		return n.reads.possible(m)
	case raftpb.MsgApp:
		return possibleAppend(m, last)
	case raftpb.MsgAppResp:
		// Nobody has more of this leader's entries than it has sent.
		if b := n.raw.BasicStatus(); !m.GetReject() && index > n.known && b.RaftState == raft.StateLeader && term == b.GetTerm() {
			return fmt.Errorf("it acknowledges entry %d, and the last one is %d", index, n.known)
		}
		return nil
	case raftpb.MsgHeartbeat:
		// A leader tells of what this node has acknowledged, which is on its disk.
		if m.GetCommit() > last {
			return fmt.Errorf("entry %d is committed and this node is said to have it, but its last one is %d: has its log been lost?", m.GetCommit(), last)
		}
		return nil
	case raftpb.MsgSnap:
		return possibleSnapshot(m)
	}
	return errors.New("nodes do not send it to each other")
}

// reads is the highest number that a heartbeat of this leader has carried, for nudges (the library counts them).
type reads struct{ term, number uint64 }

func (r *reads) sent(m *raftpb.Message) {
	if m.GetType() != raftpb.MsgHeartbeat || len(m.GetContext()) != 8 {
		return
	}
	if m.GetTerm() != r.term {
		*r = reads{term: m.GetTerm()}
	}
	r.number = max(r.number, binary.LittleEndian.Uint64(m.GetContext()))
}

func (r *reads) possible(m *raftpb.Message) error {
	c, last := m.GetContext(), uint64(0)
	if m.GetTerm() == r.term {
		last = r.number
	}
	if len(c) != 0 && (len(c) != 8 || binary.LittleEndian.Uint64(c) > last) {
		return fmt.Errorf("it answers %x, and %d was asked last", c, last)
	}
	return nil
}

func possibleAppend(m *raftpb.Message, last uint64) error {
	if last == 0 && m.GetIndex() == 0 {
		return errors.New("a node without a log begins with a snapshot")
	}
	index, term := m.GetIndex(), m.GetLogTerm()
	if (index == 0) != (term == 0) {
		return fmt.Errorf("entry %d is of term %d", index, term)
	}
	for _, e := range m.GetEntries() {
		switch {
		case e.GetIndex() != index+1:
			return fmt.Errorf("entry %d follows entry %d", e.GetIndex(), index)
		case e.GetTerm() < term || e.GetTerm() == 0 || e.GetTerm() > m.GetTerm():
			return fmt.Errorf("an entry of term %d follows one of term %d in term %d", e.GetTerm(), term, m.GetTerm())
		case e.GetType() != raftpb.EntryNormal && e.GetType() != raftpb.EntryConfChangeV2:
			return fmt.Errorf("entry %d is a %s", e.GetIndex(), e.GetType())
		}
		index, term = e.GetIndex(), e.GetTerm()
	}
	return nil
}

func possibleSnapshot(m *raftpb.Message) error {
	meta := m.GetSnapshot().GetMetadata()
	if i, t := meta.GetIndex(), meta.GetTerm(); i == 0 || i >= maxNumber || t == 0 || t > m.GetTerm() {
		return fmt.Errorf("a snapshot at %d in term %d", i, t)
	}
	if _, err := changer(meta.GetConfState(), meta.GetIndex()); err != nil {
		return fmt.Errorf("a snapshot with the configuration %v: %w", meta.GetConfState(), err)
	}
	return nil
}

// changer of a configuration, which is checked.
func changer(cs *raftpb.ConfState, last uint64) (confchange.Changer, error) {
	c := confchange.Changer{Tracker: tracker.MakeProgressTracker(1, 0), LastIndex: last}
	cfg, progress, err := confchange.Restore(c, raftpb.EnsureConfState(cs))
	if err != nil {
		return c, err
	}
	c.Tracker.Config, c.Tracker.Progress = cfg, progress
	if len(cs.GetVoters()) == 0 {
		return c, errors.New("it has no voters")
	}
	if cs.Equivalent(c.Tracker.ConfState()) != nil { // which would print addresses
		return c, errors.New("some id has no place in it, or more than one")
	}
	return c, nil
}

// checkConfChange says why a change can't be put into force.
func (n *Node) checkConfChange(cc *raftpb.ConfChangeV2) error {
	c, err := changer(n.confState, n.applied)
	if err != nil {
		return err
	}
	if t := cc.GetTransition(); t < raftpb.ConfChangeTransitionAuto || t > raftpb.ConfChangeTransitionJointExplicit {
		return fmt.Errorf("its transition %d is unknown", t)
	}
	if cc.LeaveJoint() {
		_, _, err = c.LeaveJoint()
	} else if autoLeave, joint := cc.EnterJoint(); joint {
		_, _, err = c.EnterJoint(autoLeave, cc.Changes...)
	} else {
		_, _, err = c.Simple(cc.Changes...)
	}
	return err
}
