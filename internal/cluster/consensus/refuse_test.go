package consensus

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// hostile is node 1 of three, in one of the roles that a raft node can have, among
// peers that send it whatever they like.
func hostile(t testing.TB, role byte) *world {
	w := newWorld(t, 3)
	lead := uint64(2)
	switch role % 5 {
	case 0, 1:
		lead = 1
	}
	w.nodes[lead].Campaign()
	w.run()
	for i := range 5 {
		if err := w.nodes[lead].Propose([]byte{byte(i)}); err != nil {
			t.Fatal(err)
		}
	}
	w.run()
	n := w.nodes[1]
	switch role % 5 {
	case 1: // a leader in a joint configuration, with an entry that nobody has
		four := uint64(4)
		if err := n.ProposeConfChange(&raftpb.ConfChangeV2{
			Transition: raftpb.ConfChangeTransitionJointImplicit.Enum(),
			Changes:    []*raftpb.ConfChangeSingle{{Type: raftpb.ConfChangeAddLearnerNode.Enum(), NodeId: &four}},
		}); err != nil {
			t.Fatal(err)
		}
		w.run()
		w.cut[[2]uint64{1, 2}], w.cut[[2]uint64{1, 3}] = true, true
		_ = n.Propose([]byte("alone"))
		w.run()
	case 3: // a candidate
		w.cut[[2]uint64{1, 2}], w.cut[[2]uint64{1, 3}] = true, true
		n.ForgetLeader()
		n.Campaign()
		w.run()
	case 4: // one that has just joined, without a log
		w.add(1, Saved{})
	}
	return w
}

// strange makes a message of bytes; most of its numbers are near those that mean something.
type strange struct {
	b []byte
	n *testNode
}

func (s *strange) next() byte {
	if len(s.b) == 0 {
		return 0
	}
	b := s.b[0]
	s.b = s.b[1:]
	return b
}

func (s *strange) number(near uint64) *uint64 {
	var n uint64
	switch b := s.next(); {
	case b < 200:
		n = near + uint64(b%9) - 4
	case b < 240:
		n = uint64(s.next())
	case b < 250:
		n = ^uint64(0) - uint64(s.next()%4)
	default:
		n = 1<<62 - 2 + uint64(s.next()%4)
	}
	return &n
}

func (s *strange) ids() []uint64 {
	var ids []uint64
	for range s.next() % 5 {
		ids = append(ids, *s.number(3))
	}
	return ids
}

func (s *strange) message() *raftpb.Message {
	st := s.n.Status()
	typ := raftpb.MessageType(s.next() % 24)
	m := &raftpb.Message{
		Type: &typ, To: proto.Uint64(1), From: s.number(3), Term: s.number(st.Term + 1), LogTerm: s.number(st.LastTerm),
		Index: s.number(st.LastIndex), Commit: s.number(st.LastIndex), RejectHint: s.number(st.LastIndex), Reject: proto.Bool(s.next()%3 == 0),
	}
	switch s.next() % 8 {
	case 0, 1:
		m.Context = []byte("CampaignTransfer")
	case 2:
		m.Context = binary.LittleEndian.AppendUint64(nil, *s.number(3))
	case 3:
		m.Context = []byte{1, 2, 3}
	}
	at := m.GetIndex()
	for range s.next() % 4 {
		e := &raftpb.Entry{Index: s.number(at + 1), Term: s.number(m.GetTerm())}
		if s.next()%8 != 0 {
			e.Index = proto.Uint64(at + 1)
		}
		et := raftpb.EntryType(s.next() % 5 / 2)
		e.Type = &et
		if s.next()%2 == 0 {
			cc := &raftpb.ConfChangeV2{Changes: []*raftpb.ConfChangeSingle{{Type: raftpb.ConfChangeType(s.next() % 5).Enum(), NodeId: s.number(3)}}}
			e.Data, _ = proto.Marshal(cc)
		}
		at = e.GetIndex()
		m.Entries = append(m.Entries, e)
	}
	if typ == raftpb.MsgSnap && s.next()%8 != 0 {
		m.Snapshot = &raftpb.Snapshot{Data: []byte("x"), Metadata: &raftpb.SnapshotMetadata{
			Index: s.number(st.LastIndex + 4), Term: s.number(m.GetTerm()),
			ConfState: &raftpb.ConfState{Voters: s.ids(), Learners: s.ids(), VotersOutgoing: s.ids(), LearnersNext: s.ids(), AutoLeave: proto.Bool(s.next()%2 == 0)},
		}}
		if s.next()%4 != 0 {
			m.Snapshot.Metadata.ConfState = &raftpb.ConfState{Voters: []uint64{1, 2, 3}}
		}
	}
	return m
}

// torment sends one node what the bytes say, and lets it work in between.
func torment(t testing.TB, b []byte) {
	if len(b) == 0 {
		return
	}
	w := hostile(t, b[0])
	n := w.nodes[1]
	s := &strange{b: b[1:], n: n}
	for len(s.b) > 0 {
		switch what := s.next(); {
		case what < 200:
			n.Step(s.message())
		case what < 210:
			n.Tick()
		case what < 220:
			_ = n.Propose([]byte("p"))
		case what < 225:
			n.Campaign()
		case what < 230:
			n.ForgetLeader()
		case what < 235:
			n.TransferLeader(2)
		case what < 240:
			n.Nudge()
		}
		if s.next()%2 == 0 {
			for range 20 {
				if !w.work(n) {
					break
				}
			}
		}
	}
	n.Status()
}

// work makes the node do what is due, and throws away what it sends.
func (w *world) work(n *testNode) bool {
	if _, ok := n.Ready(); !ok {
		return false
	}
	d, err := n.Persisted()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, e := range d.Committed {
		cc := &raftpb.ConfChangeV2{}
		if e.GetType() == raftpb.EntryConfChangeV2 && proto.Unmarshal(e.GetData(), cc) == nil {
			_ = n.ApplyConfChange(cc) // an engine would end here
		}
	}
	n.Node.Applied()
	return true
}

// FuzzStep: no peer can make a node panic, whatever it sends and whatever the node is doing.
func FuzzStep(f *testing.F) {
	luck := rand.New(rand.NewPCG(1, 1))
	for range 50 {
		b := make([]byte, 400)
		for i := range b {
			b[i] = byte(luck.Uint32())
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) { torment(t, b) })
}

func TestHostilePeers(t *testing.T) {
	luck := rand.New(rand.NewPCG(2, 2))
	for range 2000 {
		b := make([]byte, luck.IntN(600))
		for i := range b {
			b[i] = byte(luck.Uint32())
		}
		func() {
			defer func() {
				if p := recover(); p != nil {
					t.Fatalf("%x: %v", b, p)
				}
			}()
			torment(t, b)
		}()
	}
}

// Each of these made the library panic, or counted for what it is not. It changes nothing, and is told once.
func TestImpossibleMessages(t *testing.T) {
	const follower, leader, fresh = 2, 0, 4
	entry := func(index, term uint64) *raftpb.Entry { return &raftpb.Entry{Index: &index, Term: &term} }
	snapshot := func(index, term uint64, cs *raftpb.ConfState) *raftpb.Snapshot {
		return &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{Index: &index, Term: &term, ConfState: cs}}
	}
	good := &raftpb.ConfState{Voters: []uint64{1, 2, 3}}
	for _, c := range []struct {
		role byte
		typ  raftpb.MessageType
		edit func(m *raftpb.Message, last uint64)
		want string
	}{
		{follower, raftpb.MsgHeartbeat, func(m *raftpb.Message, last uint64) { m.Commit = proto.Uint64(last + 1) }, "has its log been lost"},
		{follower, raftpb.MsgHeartbeat, func(m *raftpb.Message, _ uint64) { m.From = proto.Uint64(1) }, "no peer is 1"},
		{follower, raftpb.MsgHeartbeat, func(m *raftpb.Message, _ uint64) { m.From = proto.Uint64(raft.LocalAppendThread) }, "no peer is"},
		{follower, raftpb.MsgHeartbeat, func(m *raftpb.Message, _ uint64) { m.Term = nil }, "of term 0"},
		{follower, raftpb.MsgHeartbeat, func(m *raftpb.Message, _ uint64) { m.Term = proto.Uint64(1 << 63) }, "of term"},
		{follower, raftpb.MsgHeartbeat, func(m *raftpb.Message, _ uint64) { m.To = proto.Uint64(2) }, "for another node"},
		{follower, raftpb.MsgApp, func(m *raftpb.Message, last uint64) {
			m.Entries = []*raftpb.Entry{entry(last+1, 2), entry(last+3, 2)}
		}, "follows entry"},
		{follower, raftpb.MsgApp, func(m *raftpb.Message, _ uint64) { m.Entries = []*raftpb.Entry{entry(1, 2)} }, "entry 1 follows"},
		{follower, raftpb.MsgApp, func(m *raftpb.Message, last uint64) { m.Entries = []*raftpb.Entry{entry(last+1, 9)} }, "an entry of term 9"},
		{follower, raftpb.MsgApp, func(m *raftpb.Message, last uint64) { m.Entries = []*raftpb.Entry{entry(last+1, 1)} }, "an entry of term 1"},
		{follower, raftpb.MsgApp, func(m *raftpb.Message, last uint64) {
			e := entry(last+1, 2)
			e.Type = raftpb.EntryConfChange.Enum()
			m.Entries = []*raftpb.Entry{e}
		}, "is a EntryConfChange"},
		{fresh, raftpb.MsgApp, func(m *raftpb.Message, _ uint64) {
			m.Index, m.LogTerm, m.Entries = nil, nil, []*raftpb.Entry{entry(1, 1)}
		}, "begins with a snapshot"},
		{follower, raftpb.MsgSnap, func(m *raftpb.Message, _ uint64) {}, "a snapshot at 0"},
		{follower, raftpb.MsgSnap, func(m *raftpb.Message, _ uint64) { m.Snapshot = snapshot(50, 9, good) }, "a snapshot at 50 in term 9"},
		{fresh, raftpb.MsgSnap, func(m *raftpb.Message, _ uint64) { m.Snapshot = snapshot(50, 2, nil) }, "no voters"},
		{fresh, raftpb.MsgSnap, func(m *raftpb.Message, _ uint64) {
			m.Snapshot = snapshot(50, 2, &raftpb.ConfState{Voters: []uint64{1, 1, 2}})
		}, "more than one"},
		{fresh, raftpb.MsgSnap, func(m *raftpb.Message, _ uint64) {
			m.Snapshot = snapshot(50, 2, &raftpb.ConfState{Learners: []uint64{1}, VotersOutgoing: []uint64{2}})
		}, "removed all voters"},
		{leader, raftpb.MsgAppResp, func(m *raftpb.Message, last uint64) { m.Index = proto.Uint64(last + 1) }, "and the last one is"},
		{leader, raftpb.MsgHeartbeatResp, func(m *raftpb.Message, _ uint64) { m.Context = []byte{1, 2, 3} }, "it answers 010203"},
		{leader, raftpb.MsgHeartbeatResp, func(m *raftpb.Message, _ uint64) {
			m.Context = binary.LittleEndian.AppendUint64(nil, 7)
		}, "0 was asked last"},
		{leader, raftpb.MsgProp, func(m *raftpb.Message, _ uint64) { m.Entries = []*raftpb.Entry{{Data: []byte("x")}} }, "do not send it"},
		{leader, raftpb.MsgProp, func(m *raftpb.Message, _ uint64) { m.Term = nil }, "of term 0"},
		{leader, raftpb.MsgUnreachable, func(m *raftpb.Message, _ uint64) {}, "do not send it"},
		{leader, raftpb.MsgTransferLeader, func(m *raftpb.Message, _ uint64) {}, "do not send it"},
		{leader, raftpb.MsgReadIndex, func(m *raftpb.Message, _ uint64) {}, "do not send it"},
		{follower, raftpb.MsgForgetLeader, func(m *raftpb.Message, _ uint64) {}, "do not send it"},
		{leader, raftpb.MessageType(99), func(m *raftpb.Message, _ uint64) {}, "do not send it"},
	} {
		t.Run(fmt.Sprint(c.typ, c.want), func(t *testing.T) {
			w := hostile(t, c.role)
			n := w.nodes[1]
			var told []string
			n.warn = func(format string, args ...any) { told = append(told, fmt.Sprintf(format, args...)) }
			before := n.Status()
			for range 2 {
				m := &raftpb.Message{Type: &c.typ, To: proto.Uint64(1), From: proto.Uint64(2), Term: proto.Uint64(2), LogTerm: proto.Uint64(2), Index: proto.Uint64(before.LastIndex)}
				c.edit(m, before.LastIndex)
				n.Step(m)
			}
			if _, ok := n.Ready(); ok || n.Status() != before {
				t.Errorf("it changed %+v to %+v", before, n.Status())
			}
			if len(told) != 1 || !strings.Contains(told[0], c.want) {
				t.Errorf("told %q, want %q once", told, c.want)
			}
		})
	}
}

// A committed change that makes no sense is an error of the log, not the end of the process.
func TestImpossibleConfChange(t *testing.T) {
	w := newWorld(t, 3)
	for _, cc := range []*raftpb.ConfChangeV2{
		{},
		{Transition: raftpb.ConfChangeTransition(20).Enum(), Changes: []*raftpb.ConfChangeSingle{{NodeId: proto.Uint64(4)}}},
		{Changes: []*raftpb.ConfChangeSingle{{Type: raftpb.ConfChangeType(9).Enum(), NodeId: proto.Uint64(2)}}},
		{Changes: []*raftpb.ConfChangeSingle{
			{Type: raftpb.ConfChangeRemoveNode.Enum(), NodeId: proto.Uint64(1)}, {Type: raftpb.ConfChangeRemoveNode.Enum(), NodeId: proto.Uint64(2)},
			{Type: raftpb.ConfChangeRemoveNode.Enum(), NodeId: proto.Uint64(3)},
		}},
	} {
		before := proto.CloneOf(w.nodes[1].ConfState())
		if err := w.nodes[1].ApplyConfChange(cc); err == nil || !proto.Equal(before, w.nodes[1].ConfState()) {
			t.Errorf("%v: %v", cc, err)
		}
	}
}
