package witness

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-ha/holdfast/internal/cluster/witness/witnesspb"
)

// witnessID of the clusters in tests; data nodes are 1, 2, …
const witnessID = 9

// A dataNode is the library as the nodes run it, with a disk that is always in time.
type dataNode struct {
	id      uint64
	raw     *raft.RawNode
	storage *raft.MemoryStorage
	cs      *raftpb.ConfState
	applied uint64
	// What became committed here, and the epoch that this node has applied.
	committed map[uint64]uint64
	epoch     uint64
}

func newDataNode(id uint64, voters []uint64, sticky bool) *dataNode {
	n := &dataNode{id: id, storage: raft.NewMemoryStorage(), committed: map[uint64]uint64{}, cs: &raftpb.ConfState{Voters: voters}}
	// Everybody starts from one snapshot, which holds the configuration.
	err := n.storage.ApplySnapshot(&raftpb.Snapshot{Data: make([]byte, 8), Metadata: &raftpb.SnapshotMetadata{Index: new(uint64(1)), Term: new(uint64(1)), ConfState: n.cs}})
	if err != nil {
		panic(err)
	}
	n.applied = 1
	n.start(sticky)
	return n
}

func (n *dataNode) start(sticky bool) {
	raw, err := raft.NewRawNode(&raft.Config{
		ID: n.id, ElectionTick: 10, HeartbeatTick: 1, Storage: n.storage, Applied: n.applied, MaxSizePerMsg: 200, MaxInflightMsgs: 4,
		PreVote: true, CheckQuorum: sticky, DisableProposalForwarding: true, Logger: quiet{},
	})
	if err != nil {
		panic(err)
	}
	n.raw = raw
}

// quiet logger: what the library panics about still panics.
type quiet struct{}

func (quiet) Debug(...any)                   {}
func (quiet) Debugf(string, ...any)          {}
func (quiet) Error(...any)                   {}
func (quiet) Errorf(string, ...any)          {}
func (quiet) Info(...any)                    {}
func (quiet) Infof(string, ...any)           {}
func (quiet) Warning(...any)                 {}
func (quiet) Warningf(string, ...any)        {}
func (quiet) Fatal(v ...any)                 { panic(fmt.Sprint(v...)) }
func (quiet) Fatalf(format string, v ...any) { panic(fmt.Sprintf(format, v...)) }
func (quiet) Panic(v ...any)                 { panic(fmt.Sprint(v...)) }
func (quiet) Panicf(format string, v ...any) { panic(fmt.Sprintf(format, v...)) }

// drain everything that is ready; returns what is to be sent.
func (n *dataNode) drain() (out []*raftpb.Message) {
	for n.raw.HasReady() {
		rd := n.raw.Ready()
		if rd.HardState != nil && !raft.IsEmptyHardState(rd.HardState) {
			if err := n.storage.SetHardState(rd.HardState); err != nil {
				panic(err)
			}
		}
		if !raft.IsEmptySnap(rd.Snapshot) {
			if err := n.storage.ApplySnapshot(rd.Snapshot); err != nil {
				panic(err)
			}
			n.applied = rd.Snapshot.GetMetadata().GetIndex()
			n.epoch = binary.BigEndian.Uint64(rd.Snapshot.GetData())
		}
		if err := n.storage.Append(rd.Entries); err != nil {
			panic(err)
		}
		out = append(out, rd.Messages...)
		for _, e := range rd.CommittedEntries {
			n.applied = e.GetIndex()
			n.committed[e.GetIndex()] = e.GetTerm()
			if e.GetType() == raftpb.EntryConfChangeV2 {
				cc := &raftpb.ConfChangeV2{}
				if err := proto.Unmarshal(e.GetData(), cc); err != nil {
					panic(err)
				}
				n.cs = n.raw.ApplyConfChange(cc)
				n.epoch = binary.BigEndian.Uint64(cc.GetContext())
			}
		}
		n.raw.Advance(rd)
	}
	return out
}

// compact the log up to what was applied.
func (n *dataNode) compact() {
	if first, _ := n.storage.FirstIndex(); n.applied > first {
		data := binary.BigEndian.AppendUint64(nil, n.epoch)
		if _, err := n.storage.CreateSnapshot(n.applied, n.cs, data); err != nil {
			panic(err)
		}
		if err := n.storage.Compact(n.applied - 1); err != nil {
			panic(err)
		}
	}
}

// changeView proposes an entry that begins a view and changes nothing.
func (n *dataNode) changeView(epoch uint64) {
	_ = n.raw.ProposeConfChange(&raftpb.ConfChangeV2{
		Changes: []*raftpb.ConfChangeSingle{{Type: raftpb.ConfChangeUpdateNode.Enum(), NodeId: new(n.id)}},
		Context: binary.BigEndian.AppendUint64(nil, epoch),
	})
}

func (n *dataNode) leads() bool { return n.raw.BasicStatus().RaftState == raft.StateLeader }

// stripped is the message as an engine hands it to a Client.
func stripped(m *raftpb.Message) *raftpb.Message {
	m = proto.CloneOf(m)
	for _, e := range m.GetEntries() {
		if e.GetType() == raftpb.EntryConfChangeV2 {
			cc := &raftpb.ConfChangeV2{}
			if err := proto.Unmarshal(e.GetData(), cc); err != nil {
				panic(err)
			}
			e.Data = cc.GetContext()
		} else {
			e.Data = nil
		}
	}
	return m
}

// A trio is two or more data nodes and the acceptor, over a network that loses,
// doubles and reorders. Beside the acceptor stands a follower of the library
// that gets the same messages: the two must agree on everything.
type trio struct {
	t        *testing.T
	rng      *rand.Rand
	nodes    []*dataNode
	register *witnesspb.Register
	twin     *dataNode
	net      []*raftpb.Message
	leaders  map[uint64]uint64 // by term
	log      map[uint64]uint64 // committed anywhere: term by index
	epoch    uint64
	seen     map[string]int
	// Groups of data nodes that hear each other only; all hear the witness.
	side map[uint64]int
}

func newTrio(t *testing.T, seed uint64, nodes int) *trio {
	w := &trio{t: t, rng: rand.New(rand.NewPCG(seed, 1)), leaders: map[uint64]uint64{}, log: map[uint64]uint64{}, seen: map[string]int{}}
	voters := []uint64{witnessID}
	for i := range nodes {
		voters = append(voters, uint64(i+1))
	}
	for i := range nodes {
		w.nodes = append(w.nodes, newDataNode(uint64(i+1), voters, false))
	}
	w.twin = newDataNode(witnessID, voters, false)
	w.register, _ = Step(nil, witnessID, &raftpb.Message{Type: raftpb.MsgSnap.Enum(), From: new(uint64(1)), To: new(uint64(witnessID)), Term: new(uint64(1)),
		Snapshot: &raftpb.Snapshot{Data: make([]byte, 8), Metadata: &raftpb.SnapshotMetadata{Index: new(uint64(1)), Term: new(uint64(1))}}})
	w.register.Term, w.register.Leader = 0, 0
	return w
}

func (w *trio) step() {
	n := w.nodes[w.rng.IntN(len(w.nodes))]
	if w.rng.IntN(60) == 0 {
		w.side = map[uint64]int{}
		for _, n := range w.nodes {
			w.side[n.id] = w.rng.IntN(3) / 2
		}
	}
	switch w.rng.IntN(30) {
	case 0:
		_ = n.raw.Campaign()
	case 1:
		n.raw.ReportUnreachable(witnessID)
		n.raw.ReportSnapshot(witnessID, raft.SnapshotFailure)
	case 2:
		n.start(false) // a crash
	case 3:
		w.epoch++
		for _, n := range w.nodes {
			if n.leads() {
				n.changeView(w.epoch)
			}
		}
	case 4:
		n.compact()
	case 5:
		for range 11 {
			n.raw.Tick()
		}
	case 6:
		n.raw.Tick()
	case 7, 8, 9, 10:
		for _, n := range w.nodes {
			if n.leads() {
				_ = n.raw.Propose([]byte("0123456789"))
			}
		}
	default:
		for range w.rng.IntN(8) {
			w.deliver()
		}
	}
	for _, n := range w.nodes {
		w.net = append(w.net, n.drain()...)
		w.check(n)
	}
}

func (w *trio) deliver() {
	if len(w.net) == 0 {
		return
	}
	i := 0
	if w.rng.IntN(4) == 0 {
		i = w.rng.IntN(len(w.net))
	}
	m := w.net[i]
	switch w.rng.IntN(20) {
	case 0: // lost
		w.net = append(w.net[:i:i], w.net[i+1:]...)
		return
	case 1: // doubled
	default:
		w.net = append(w.net[:i:i], w.net[i+1:]...)
	}
	if m.GetTo() == witnessID {
		w.witnessed(m)
		return
	}
	if m.GetFrom() != witnessID && w.side[m.GetFrom()] != w.side[m.GetTo()] {
		return
	}
	if n := w.nodes[m.GetTo()-1]; !raft.IsLocalMsg(m.GetType()) {
		_ = n.raw.Step(proto.CloneOf(m))
	}
}

// witnessed has acceptor and twin take m, and compares them.
func (w *trio) witnessed(m *raftpb.Message) {
	before := w.register
	was := proto.CloneOf(before)
	next, resp := Step(w.register, witnessID, stripped(m))
	if !proto.Equal(before, was) {
		w.t.Fatalf("Step changed its argument by %v", m)
	}
	if next != nil {
		if err := CheckRegister(next); err != nil {
			w.t.Fatalf("%v after %v:\n%v", err, m, next)
		}
		if next.GetTerm() < was.GetTerm() || next.GetTerm() == was.GetTerm() && was.GetVote() != 0 && next.GetVote() != was.GetVote() {
			w.t.Fatalf("W1: %v became %v by %v", was, next, m)
		}
		if next.GetCommit() < was.GetCommit() {
			w.t.Fatalf("W2: %v became %v by %v", was, next, m)
		}
		w.register = next
	}
	_ = w.twin.raw.Step(proto.CloneOf(m))
	answers := w.twin.drain()
	w.same(m, resp, answers)
	if resp != nil {
		w.seen[fmt.Sprint(resp.GetType(), resp.GetReject())]++
		w.net = append(w.net, resp)
	}
}

func (w *trio) same(m, resp *raftpb.Message, answers []*raftpb.Message) {
	st := w.twin.raw.BasicStatus()
	last, _ := w.twin.storage.LastIndex()
	term, _ := w.twin.storage.Term(last)
	v := voter{id: witnessID, Register: w.register}
	ourTerm, _ := v.termAt(v.LastIndex)
	if v.Term != st.GetTerm() || v.Vote != st.GetVote() || v.Leader != st.Lead || v.Commit != st.GetCommit() || v.LastIndex != last || ourTerm != term {
		w.t.Fatalf("after %v:\nacceptor %v\nlibrary  %v, lead %d, last %d of term %d", m, w.register, st.HardState, st.Lead, last, term)
	}
	if e := w.epochInTwin(); Epoch(w.register) != e {
		w.t.Fatalf("W9: after %v: %v, and the log of the library holds view %d", m, w.register, e)
	}
	if len(answers) > 1 || (resp == nil) != (len(answers) == 0) {
		w.t.Fatalf("to %v\nacceptor answers %v\nlibrary  answers %v", m, resp, answers)
	}
	if resp != nil {
		a := answers[0]
		w.seen[fmt.Sprint(m.GetType())]++
		// A missing number is 0 to everyone.
		if resp.GetType() != a.GetType() || resp.GetTo() != a.GetTo() || resp.GetFrom() != a.GetFrom() || resp.GetTerm() != a.GetTerm() ||
			resp.GetReject() != a.GetReject() || resp.GetIndex() != a.GetIndex() || resp.GetRejectHint() != a.GetRejectHint() ||
			resp.GetLogTerm() != a.GetLogTerm() || string(resp.GetContext()) != string(a.GetContext()) {
			w.t.Fatalf("to %v\nacceptor answers %v\nlibrary  answers %v\n%v", m, resp, a, w.register)
		}
	}
}

// epochInTwin is the newest view in the library's log, or before it.
func (w *trio) epochInTwin() (epoch uint64) {
	snap, _ := w.twin.storage.Snapshot()
	epoch = binary.BigEndian.Uint64(snap.GetData())
	first, _ := w.twin.storage.FirstIndex()
	last, _ := w.twin.storage.LastIndex()
	if last < first {
		return epoch
	}
	entries, err := w.twin.storage.Entries(first, last+1, 1<<30)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, e := range stripped(&raftpb.Message{Entries: entries}).GetEntries() {
		if e.GetType() == raftpb.EntryConfChangeV2 {
			epoch = max(epoch, binary.BigEndian.Uint64(e.GetData()))
		}
	}
	return epoch
}

// check what raft promises for the whole cluster.
func (w *trio) check(n *dataNode) {
	if n.leads() {
		term := n.raw.BasicStatus().GetTerm()
		if other := w.leaders[term]; other != 0 && other != n.id {
			w.t.Fatalf("nodes %d and %d lead in term %d", other, n.id, term)
		}
		w.leaders[term] = n.id
	}
	for index, term := range n.committed {
		if t, known := w.log[index]; known && t != term {
			w.t.Fatalf("entry %d was committed with term %d and with term %d", index, t, term)
		}
		w.log[index] = term
		delete(n.committed, index)
	}
}

// TestAcceptorIsALibraryFollower: two to four data nodes and the acceptor as a
// voter keep raft's promises (W1, W2) under any schedule, and the acceptor
// answers every message as a follower of the library does.
func TestAcceptorIsALibraryFollower(t *testing.T) {
	seen := map[string]int{}
	leaders, committed := 0, 0
	for seed := range uint64(300) {
		w := newTrio(t, seed, 2+int(seed%3))
		for range 1000 {
			w.step()
		}
		for k, v := range w.seen {
			seen[k] += v
		}
		leaders += len(w.leaders)
		committed += len(w.log)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	t.Logf("%d leaders, %d entries, %v", leaders, committed, seen)
	for _, k := range []string{"MsgAppResp true", "MsgAppResp false", "MsgVoteResp true", "MsgVoteResp false", "MsgPreVoteResp true", "MsgPreVoteResp false", "MsgHeartbeatResp false", "MsgSnap"} {
		if seen[k] < 10 {
			t.Errorf("%s was seen %d times only", k, seen[k])
		}
	}
}
