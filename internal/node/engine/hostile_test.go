package engine

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/consensus"
	"github.com/holdfast-ha/holdfast/internal/cluster/peer/peerpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// trio is three engines without guards whose messages arrive at once.
type trio struct {
	t   testing.TB
	now time.Duration
	by  map[string]*Engine
	// On its way.
	queue []packet
}

type packet struct {
	from, to string
	raw      []byte
}

func newTrio(t testing.TB) *trio {
	cfg := &v1.Configuration{Cluster: &v1.Cluster{Name: "c", Uuid: "u"}}
	for i := range 3 {
		cfg.Nodes = append(cfg.Nodes, &v1.Node{Name: fmt.Sprintf("n%d", i+1), Links: []*v1.Link{{Name: "a", Address: fmt.Sprintf("10.0.0.%d", i+1)}}})
	}
	s, err := state.Initial(cfg)
	if err != nil {
		t.Fatal(err)
	}
	w := &trio{t: t, now: time.Hour, by: map[string]*Engine{}}
	for _, n := range cfg.GetNodes() {
		e, err := New(w.now, 0, Config{Node: n.GetName(), Proposer: 1, Saved: consensus.Saved{
			HardState: &raftpb.HardState{Term: proto.Uint64(1), Commit: proto.Uint64(1)},
			Snapshot: &raftpb.Snapshot{Data: state.Marshal(s), Metadata: &raftpb.SnapshotMetadata{
				Index: proto.Uint64(1), Term: proto.Uint64(1), ConfState: &raftpb.ConfState{Voters: []uint64{1, 2, 3}},
			}},
		}})
		if err != nil {
			t.Fatal(err)
		}
		w.by[n.GetName()] = e
	}
	for _, a := range state.SortedKeys(w.by) {
		for _, b := range state.SortedKeys(w.by) {
			if a != b {
				w.step(a, PeerConn{Node: b, Up: true})
			}
		}
	}
	return w
}

// step one engine; what it sends arrives with the next pass.
func (w *trio) step(node string, in Input) {
	w.by[node].Step(w.now, 0, in)
	out := w.by[node].Take()
	for {
		for _, m := range out.ToPeers {
			raw, err := proto.Marshal(m.Message)
			if err != nil {
				w.t.Fatal(err)
			}
			w.queue = append(w.queue, packet{node, m.Node, raw})
		}
		if out.Persist == nil {
			return
		}
		w.by[node].Step(w.now, 0, Persisted{})
		out = w.by[node].Take()
	}
}

// deliver what is on its way.
func (w *trio) deliver() {
	queue := w.queue
	w.queue = nil
	for _, p := range queue {
		m := &peerpb.Message{}
		if err := proto.Unmarshal(p.raw, m); err != nil {
			w.t.Fatal(err)
		}
		if w.by[p.to] != nil && w.by[p.from] != nil {
			w.step(p.to, FromPeer{Node: p.from, Message: m})
		}
	}
}

func (w *trio) pass(d time.Duration) {
	for end := w.now + d; w.now < end; {
		w.now += 10 * time.Millisecond
		w.deliver()
		for _, name := range state.SortedKeys(w.by) {
			w.step(name, Tick{})
		}
	}
}

// elected returns the leader and the others.
func (w *trio) elected() (leader string, others []string) {
	for range 100 {
		w.pass(time.Second)
		for _, name := range []string{"n1", "n2", "n3"} {
			if w.by[name].IsLeader() && w.by[name].Leader() == name {
				leader = name
			}
		}
		if leader != "" {
			for _, name := range []string{"n1", "n2", "n3"} {
				if name != leader {
					others = append(others, name)
				}
			}
			return leader, others
		}
	}
	w.t.Fatal("nobody leads")
	return "", nil
}

// anything fills a message by chance, with values near those that mean something.
type anything struct{ *rand.Rand }

func (a anything) number() uint64 {
	switch a.IntN(8) {
	case 0:
		return a.Uint64()
	case 1:
		return ^uint64(0) - uint64(a.IntN(3))
	}
	return uint64(a.IntN(12))
}

func (a anything) name() string {
	return []string{"", "n1", "n2", "n3", "n4", "web", "\x00", "n1n1"}[a.IntN(8)]
}

func (a anything) raw(depth int) []byte {
	var m proto.Message
	switch a.IntN(4) {
	case 0:
		m = &raftpb.Message{}
	case 1:
		m = &statepb.Command{}
	case 2:
		m = &raftpb.ConfChangeV2{}
	default:
		b := make([]byte, a.IntN(20))
		for i := range b {
			b[i] = byte(a.Uint32())
		}
		return b
	}
	a.fill(m.ProtoReflect(), depth+1)
	b, err := proto.Marshal(m)
	if err != nil {
		return nil
	}
	return b
}

func (a anything) fill(m protoreflect.Message, depth int) {
	fields := m.Descriptor().Fields()
	one := map[protoreflect.FullName]int{}
	for i := range m.Descriptor().Oneofs().Len() {
		o := m.Descriptor().Oneofs().Get(i)
		one[o.FullName()] = a.IntN(o.Fields().Len())
	}
	for i := range fields.Len() {
		f := fields.Get(i)
		if o := f.ContainingOneof(); o != nil && !o.IsSynthetic() && o.Fields().Get(one[o.FullName()]) != f {
			continue
		}
		if depth > 6 || f.ContainingOneof() == nil && a.IntN(5) == 0 {
			continue
		}
		switch {
		case f.IsMap():
		case f.IsList():
			l := m.Mutable(f).List()
			for range a.IntN(3) {
				if f.Message() != nil {
					e := l.NewElement()
					a.fill(e.Message(), depth+1)
					l.Append(e)
				} else {
					l.Append(a.value(f, depth))
				}
			}
		case f.Message() != nil:
			a.fill(m.Mutable(f).Message(), depth+1)
		default:
			m.Set(f, a.value(f, depth))
		}
	}
}

func (a anything) value(f protoreflect.FieldDescriptor, depth int) protoreflect.Value {
	n := a.number()
	switch f.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(n%2 == 0)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(a.IntN(24)))
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(a.name())
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes(a.raw(depth))
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(uint32(n))
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(int32(n))
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(int64(n))
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(float64(n))
	case protoreflect.FloatKind:
		return protoreflect.ValueOfFloat32(float32(n))
	}
	return protoreflect.ValueOfUint64(n)
}

// message of a peer: raft's half of the time, with fitting terms and numbers.
func (a anything) message(e *Engine, from uint64) *peerpb.Message {
	if a.IntN(2) == 0 {
		m := &peerpb.Message{}
		a.fill(m.ProtoReflect(), 0)
		return m
	}
	st := e.raft.Status()
	rm := &raftpb.Message{}
	a.fill(rm.ProtoReflect(), 2)
	rm.To, rm.From = proto.Uint64(st.RaftID), &from
	if a.IntN(4) > 0 {
		rm.Term = proto.Uint64(st.Term + uint64(a.IntN(2)))
	}
	if a.IntN(4) > 0 {
		rm.Index, rm.LogTerm = proto.Uint64(st.LastIndex), proto.Uint64(st.LastTerm)
		for i, ent := range rm.Entries {
			ent.Index, ent.Term = proto.Uint64(st.LastIndex+1+uint64(i)), rm.Term
			ent.Type = raftpb.EntryType(a.IntN(2) * 2).Enum()
		}
	}
	raw, err := proto.Marshal(rm)
	if err != nil {
		return &peerpb.Message{}
	}
	return &peerpb.Message{Body: &peerpb.Message_Raft{Raft: raw}}
}

// A node with a good certificate and bad manners can make no other one panic,
// whether that leads or follows.
func TestHostilePeer(t *testing.T) {
	for seed := range uint64(100) {
		a := anything{rand.New(rand.NewPCG(seed, 1))}
		w := newTrio(t)
		leader, others := w.elected()
		victim, hostile := leader, others[0]
		if seed%2 == 0 {
			victim, hostile = others[0], leader
		}
		from := w.by[hostile].RaftID()
		delete(w.by, hostile)
		func() {
			defer func() {
				if p := recover(); p != nil {
					t.Errorf("seed %d: %v", seed, p)
					panic(p)
				}
			}()
			for range 200 {
				if w.by[victim].raft == nil || w.by[victim].fatal != nil {
					return // a hostile leader may well end it
				}
				w.step(victim, FromPeer{Node: hostile, Message: a.message(w.by[victim], from)})
				w.now += time.Duration(a.IntN(300)) * time.Millisecond
				w.deliver()
				for _, name := range state.SortedKeys(w.by) {
					w.step(name, Tick{})
				}
			}
		}()
	}
}

// Raft ids belong to nodes: what another node says under one is not heard.
func TestRaftIDOfAnotherNode(t *testing.T) {
	w := newTrio(t)
	leader, others := w.elected()
	victim, hostile := others[0], others[1]
	before := w.by[victim].raft.Status()
	hello := func(id uint64) {
		w.step(victim, FromPeer{Node: hostile, Message: &peerpb.Message{Body: &peerpb.Message_Hello{Hello: &peerpb.Hello{Node: hostile, RaftId: id}}}})
	}
	forged := &raftpb.Message{
		Type: raftpb.MsgHeartbeat.Enum(), To: proto.Uint64(before.RaftID), From: proto.Uint64(w.by[leader].RaftID()), Term: proto.Uint64(before.Term + 5),
	}
	raw, err := proto.Marshal(forged)
	if err != nil {
		t.Fatal(err)
	}
	hello(w.by[leader].RaftID())
	w.step(victim, FromPeer{Node: hostile, Message: &peerpb.Message{Body: &peerpb.Message_Raft{Raft: raw}}})
	if now := w.by[victim].raft.Status(); now.Term != before.Term || now.Leader != before.Leader {
		t.Errorf("%s took %s for the leader: %+v", victim, hostile, now)
	}
	// Its own id is its own.
	hello(w.by[hostile].RaftID())
	forged.From = proto.Uint64(w.by[hostile].RaftID())
	if raw, err = proto.Marshal(forged); err != nil {
		t.Fatal(err)
	}
	w.step(victim, FromPeer{Node: hostile, Message: &peerpb.Message{Body: &peerpb.Message_Raft{Raft: raw}}})
	if now := w.by[victim].raft.Status(); now.Term != before.Term+5 {
		t.Errorf("%s does not hear %s: %+v", victim, hostile, now)
	}
}
