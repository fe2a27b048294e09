package witness

import (
	"encoding/binary"
	"slices"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-ha/holdfast/internal/cluster/witness/witnesspb"
)

// Step has the voter with raft id, whose state is reg (nil: it knows nothing
// yet), take a message that is addressed to it. It returns the state that
// follows, nil where that is the same, and the answer, nil where there is none.
// reg is not changed. The answer may be given only once next is chosen (W4).
//
// The rules are those of a follower of the library. Left away are the check
// whether a leader was heard lately (the witness has no clock) and everything
// that needs a follower with a will of its own.
//
// Payloads are not looked at, except for the epochs of views: 8 bytes,
// big-endian, as data of a configuration change that begins one, and of a
// snapshot. A message that cannot come from a correct leader is ignored.
func Step(reg *witnesspb.Register, id uint64, m *raftpb.Message) (next *witnesspb.Register, resp *raftpb.Message) {
	if m == nil || id == 0 || m.GetTo() != id || m.GetFrom() == 0 || m.GetFrom() == id || m.GetTerm() == 0 || !sound(m) {
		return nil, nil
	}
	v := voter{id: id, Register: &witnesspb.Register{}}
	if reg != nil {
		v.Register = proto.CloneOf(reg)
	}
	resp, ok := v.step(m)
	if !ok {
		return nil, nil
	}
	if reg == nil {
		reg = &witnesspb.Register{}
	}
	if proto.Equal(reg, v.Register) {
		return nil, resp
	}
	return v.Register, resp
}

// sound says whether a correct node may have sent m.
func sound(m *raftpb.Message) bool {
	switch m.GetType() {
	case raftpb.MsgPreVote, raftpb.MsgVote, raftpb.MsgHeartbeat:
		return true
	case raftpb.MsgSnap:
		meta := m.GetSnapshot().GetMetadata()
		return meta.GetIndex() > 0 && meta.GetTerm() > 0 && meta.GetTerm() <= m.GetTerm() && len(m.GetSnapshot().GetData()) == 8
	case raftpb.MsgApp:
		index, term := m.GetIndex(), m.GetLogTerm()
		for _, e := range m.GetEntries() {
			if e.GetIndex() != index+1 || e.GetTerm() < term || e.GetTerm() == 0 {
				return false
			}
			if n := len(e.GetData()); e.GetType() == raftpb.EntryConfChangeV2 && n != 0 && n != 8 {
				return false
			}
			index, term = e.GetIndex(), e.GetTerm()
		}
		return term <= m.GetTerm()
	}
	return false
}

// voter is one step in progress.
type voter struct {
	*witnesspb.Register
	id uint64
}

// step changes the register and returns the answer. Not ok: the message can't
// be true, and whatever was changed does not count.
func (v *voter) step(m *raftpb.Message) (resp *raftpb.Message, ok bool) {
	fromLeader := m.GetType() == raftpb.MsgApp || m.GetType() == raftpb.MsgHeartbeat || m.GetType() == raftpb.MsgSnap
	switch {
	case m.GetTerm() > v.Term && m.GetType() != raftpb.MsgPreVote:
		v.Term, v.Vote, v.Leader = m.GetTerm(), 0, 0
	case m.GetTerm() < v.Term:
		switch m.GetType() {
		case raftpb.MsgApp, raftpb.MsgHeartbeat:
			// Tells a leader of old that there is a newer term.
			return v.answer(m, raftpb.MsgAppResp), true
		case raftpb.MsgPreVote:
			return v.rejectVote(m, raftpb.MsgPreVoteResp), true
		}
		return nil, true
	}
	if fromLeader {
		v.Leader = m.GetFrom()
	}
	switch m.GetType() {
	case raftpb.MsgPreVote, raftpb.MsgVote:
		return v.vote(m), true
	case raftpb.MsgHeartbeat:
		v.commitTo(m.GetCommit())
		resp = v.answer(m, raftpb.MsgHeartbeatResp)
		resp.Context = m.GetContext()
		return resp, true
	case raftpb.MsgApp:
		return v.append(m)
	default: // MsgSnap
		return v.restore(m), true
	}
}

func (v *voter) vote(m *raftpb.Message) *raftpb.Message {
	kind := raftpb.MsgVoteResp
	if m.GetType() == raftpb.MsgPreVote {
		kind = raftpb.MsgPreVoteResp
	}
	free := v.Vote == m.GetFrom() || v.Vote == 0 && v.Leader == 0 || m.GetType() == raftpb.MsgPreVote && m.GetTerm() > v.Term
	lastTerm, _ := v.termAt(v.LastIndex)
	if !free || m.GetLogTerm() < lastTerm || m.GetLogTerm() == lastTerm && m.GetIndex() < v.LastIndex {
		return v.rejectVote(m, kind)
	}
	if m.GetType() == raftpb.MsgVote {
		v.Vote = m.GetFrom()
	}
	resp := v.answer(m, kind)
	resp.Term = new(m.GetTerm()) // a pre-vote is for the term that it asks about
	return resp
}

func (v *voter) rejectVote(m *raftpb.Message, kind raftpb.MessageType) *raftpb.Message {
	resp := v.answer(m, kind)
	resp.Reject = new(true)
	return resp
}

func (v *voter) answer(m *raftpb.Message, kind raftpb.MessageType) *raftpb.Message {
	return &raftpb.Message{Type: kind.Enum(), To: new(m.GetFrom()), From: new(v.id), Term: new(v.Term)}
}

func (v *voter) append(m *raftpb.Message) (*raftpb.Message, bool) {
	resp := v.answer(m, raftpb.MsgAppResp)
	prev := m.GetIndex()
	if prev < v.Commit {
		resp.Index = new(v.Commit)
		return resp, true
	}
	if t, known := v.termAt(prev); !known || t != m.GetLogTerm() {
		hint, term := v.guess(min(prev, v.LastIndex), m.GetLogTerm())
		resp.Index, resp.Reject, resp.RejectHint, resp.LogTerm = new(prev), new(true), new(hint), new(term)
		return resp, true
	}
	last := prev + uint64(len(m.GetEntries()))
	for i, e := range m.GetEntries() {
		if t, known := v.termAt(e.GetIndex()); known && t == e.GetTerm() {
			continue
		}
		// Only now is it certain that what follows differs (W2).
		if e.GetIndex() <= v.Commit {
			return nil, false
		}
		v.truncate(e.GetIndex() - 1)
		for _, e := range m.GetEntries()[i:] {
			v.add(e)
		}
		break
	}
	v.commitTo(min(m.GetCommit(), last))
	v.fold()
	resp.Index = new(min(last, v.LastIndex))
	return resp, true
}

func (v *voter) restore(m *raftpb.Message) *raftpb.Message {
	resp := v.answer(m, raftpb.MsgAppResp)
	index, term := m.GetSnapshot().GetMetadata().GetIndex(), m.GetSnapshot().GetMetadata().GetTerm()
	if index > v.Commit {
		if t, known := v.termAt(index); known && t == term {
			v.commitTo(index)
		} else {
			v.Runs = []*witnesspb.Run{{FirstIndex: index, Term: term}}
			v.Views = []*witnesspb.ViewAt{{Index: index, Epoch: binary.BigEndian.Uint64(m.GetSnapshot().GetData())}}
			v.LastIndex, v.Commit = index, index
		}
	}
	resp.Index = new(v.Commit)
	return resp
}

// termAt an index, where it is known. Known are index 0 of a register that has
// nothing committed, and everything from the first run on.
func (v *voter) termAt(index uint64) (term uint64, known bool) {
	if index == 0 {
		return 0, v.Commit == 0
	}
	if index > v.LastIndex {
		return 0, false
	}
	for _, r := range slices.Backward(v.Runs) {
		if r.GetFirstIndex() <= index {
			return r.GetTerm(), true
		}
	}
	return 0, false
}

// guess the highest index up to the given one at which a log may agree that
// has this term there, as the library does.
func (v *voter) guess(index, term uint64) (hint, hintTerm uint64) {
	for _, r := range slices.Backward(v.Runs) {
		switch {
		case r.GetFirstIndex() > index:
		case r.GetTerm() <= term:
			return index, r.GetTerm()
		default:
			index = r.GetFirstIndex() - 1
		}
	}
	return index, 0
}

// truncate to the entries up to last.
func (v *voter) truncate(last uint64) {
	v.Runs = slices.DeleteFunc(v.Runs, func(r *witnesspb.Run) bool { return r.GetFirstIndex() > last })
	v.Views = slices.DeleteFunc(v.Views, func(w *witnesspb.ViewAt) bool { return w.GetIndex() > last })
	v.LastIndex = min(v.LastIndex, last)
}

func (v *voter) add(e *raftpb.Entry) {
	v.LastIndex = e.GetIndex()
	if n := len(v.Runs); n == 0 || v.Runs[n-1].GetTerm() != e.GetTerm() {
		v.Runs = append(v.Runs, &witnesspb.Run{FirstIndex: e.GetIndex(), Term: e.GetTerm()})
	}
	if e.GetType() == raftpb.EntryConfChangeV2 && len(e.GetData()) == 8 {
		v.Views = append(v.Views, &witnesspb.ViewAt{Index: e.GetIndex(), Epoch: max(Epoch(v.Register), binary.BigEndian.Uint64(e.GetData()))})
	}
}

func (v *voter) commitTo(index uint64) {
	v.Commit = max(v.Commit, min(index, v.LastIndex))
	v.fold()
}

// fold forgets what no answer depends on: runs that end before the commit
// index, and views before the newest that is committed. What is too much even
// so is taken off the end: an append counts as if it had been shorter.
func (v *voter) fold() {
	for len(v.Runs) > 1 && v.Runs[1].GetFirstIndex() <= v.Commit {
		v.Runs = v.Runs[1:]
	}
	for len(v.Views) > 1 && v.Views[1].GetIndex() <= v.Commit {
		v.Views = v.Views[1:]
	}
	if len(v.Runs) > MaxRuns {
		v.truncate(v.Runs[MaxRuns].GetFirstIndex() - 1)
	}
	if len(v.Views) > MaxViews {
		v.truncate(v.Views[MaxViews].GetIndex() - 1)
	}
}

// Epoch is the highest of the views that the log of reg begins; 0: none is known.
func Epoch(reg *witnesspb.Register) uint64 {
	if n := len(reg.GetViews()); n > 0 {
		return reg.GetViews()[n-1].GetEpoch()
	}
	return 0
}

// OldView says whether the log of reg begins a view that the asker of a renewal
// does not go by. An entry that would begin one may be refused when it is
// applied: an asker that has applied it knows that it was.
func OldView(reg *witnesspb.Register, m *witnesspb.Renew) bool {
	n := len(reg.GetViews())
	return n > 0 && m.GetEpoch() < reg.GetViews()[n-1].GetEpoch() && m.GetApplied() < reg.GetViews()[n-1].GetIndex()
}
