package guard

import (
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
)

func goodConfigure() *guardpb.Configure {
	return &guardpb.Configure{
		Node: "a", Epoch: 3, RaftId: 1, MayAcknowledge: true, Peerinact: durationpb.New(time.Second),
		Peers: []*guardpb.Peer{
			{Node: "a", RaftId: 1, GuardIncarnation: 1, Addresses: []string{"10.0.0.1"}},
			{Node: "b", RaftId: 2, GuardIncarnation: 1, Addresses: []string{"10.0.0.2"}},
		},
	}
}

// Each fault of a configuration is named, all of them at once, and nothing changes.
func TestConfigureRefusals(t *testing.T) {
	for _, c := range []struct {
		want   string
		change func(c *guardpb.Configure)
	}{
		{`for node "b"`, func(c *guardpb.Configure) { c.Node = "b" }},
		{"own raft id is 9, and 1 in the list", func(c *guardpb.Configure) { c.RaftId = 9 }},
		{"raft id 1 is of a and of b", func(c *guardpb.Configure) { c.Peers[1].RaftId = 1 }},
		{"sorted", func(c *guardpb.Configure) { c.Peers[1].Node = "a" }},
		{"sorted", func(c *guardpb.Configure) { c.Peers[1].Node = "" }},
		{"9 links", func(c *guardpb.Configure) { c.Peers[1].Addresses = make([]string, 9) }},
		{"peerinact is -1s", func(c *guardpb.Configure) { c.Peerinact = durationpb.New(-time.Second) }},
		{"peerinact is", func(c *guardpb.Configure) { c.Peerinact = &durationpb.Duration{Seconds: 1 << 62} }},
		{"not below peerinact", func(c *guardpb.Configure) { c.Heartbeat = durationpb.New(time.Second) }},
		{"a silence of -1s", func(c *guardpb.Configure) { c.Peers[1].Silence = durationpb.New(-time.Second) }},
	} {
		core := New(0, Config{Node: "a", Incarnation: 1})
		core.EngineConn(0, true)
		core.Engine(0, &guardpb.ToGuard{Call: 1, Body: &guardpb.ToGuard_Configure{Configure: goodConfigure()}})
		core.Take()
		before := core.Configured()
		bad := goodConfigure()
		c.change(bad)
		core.Engine(1, &guardpb.ToGuard{Call: 2, Body: &guardpb.ToGuard_Configure{Configure: bad}})
		answer := ""
		for _, f := range core.Take().Engine {
			if f.GetDone().GetCall() == 2 {
				answer = f.GetDone().GetError()
			}
		}
		if !strings.Contains(answer, c.want) || core.Configured() != before {
			t.Errorf("want %q, got %q", c.want, answer)
		}
	}
}

// A restart of the machine is said by every guard until one is committed, and by none after that.
func TestRestartIsSaidUntilCommitted(t *testing.T) {
	var saved *Saved
	guard := func(incarnation uint64, committed bool) (rebooted bool) {
		c := New(0, Config{Node: "a", Incarnation: incarnation, Rebooted: incarnation == 1, Saved: saved})
		c.EngineConn(0, true)
		for _, f := range c.Take().Engine {
			rebooted = rebooted || f.GetWelcome().GetRebooted()
		}
		conf := goodConfigure()
		conf.MayAcknowledge = committed
		conf.Peers[0].GuardIncarnation = incarnation
		c.Engine(0, &guardpb.ToGuard{Body: &guardpb.ToGuard_Configure{Configure: conf}})
		conf = proto.CloneOf(conf)
		conf.MayAcknowledge = false // outside of the view it speaks for nobody; that is another matter
		c.Engine(0, &guardpb.ToGuard{Body: &guardpb.ToGuard_Configure{Configure: conf}})
		saved = c.Take().Save
		return rebooted
	}
	for i, committed := range []bool{false, false, true, false, false} {
		if said, want := guard(uint64(i+1), committed), i <= 2; said != want {
			t.Errorf("guard %d says that the machine was restarted: %v, want %v", i+1, said, want)
		}
	}
}

// FuzzEngine: whatever an engine sends and a peer says, in whatever order, the core
// neither panics nor breaks what it asserts. The input is a list of steps, each a length
// and so many bytes: a frame, or a heartbeat if it decodes as none.
func FuzzEngine(f *testing.F) {
	var seed []byte
	for _, m := range []*guardpb.ToGuard{
		{Call: 1, Body: &guardpb.ToGuard_Configure{Configure: goodConfigure()}},
		{Body: &guardpb.ToGuard_Tick{Tick: &guardpb.Tick{Counter: 1, Leader: "b"}}},
		{Call: 2, Body: &guardpb.ToGuard_Protect{Protect: &guardpb.Protect{Group: "web"}}},
		{Call: 3, Body: &guardpb.ToGuard_Extend{Extend: &guardpb.Extend{Number: 1, Length: durationpb.New(time.Second)}}},
		{Body: &guardpb.ToGuard_Appended{Appended: &guardpb.Appended{Epoch: 4}}},
		{Body: &guardpb.ToGuard_Quiet{Quiet: &guardpb.Quiet{}}},
		{Call: 4, Body: &guardpb.ToGuard_StatsRequest{StatsRequest: &guardpb.StatsRequest{}}},
		{Call: 5, Body: &guardpb.ToGuard_Leaving{Leaving: &guardpb.Leaving{}}},
	} {
		b, _ := proto.Marshal(m)
		seed = append(append(seed, byte(len(b))), b...)
	}
	f.Add(seed)
	hb := AppendHeartbeat(nil, &fullHeartbeat)
	f.Add(append(append(seed[:0:0], seed...), append([]byte{byte(len(hb))}, hb...)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := New(0, Config{Node: "a", Incarnation: 1, Rebooted: true})
		c.EngineConn(0, true)
		now := time.Duration(0)
		for n := uint64(1); len(b) > 0; n++ {
			size := min(int(b[0]), len(b)-1)
			step := b[1 : 1+size]
			b = b[1+size:]
			now += time.Duration(size) * 7 * time.Millisecond
			m := new(guardpb.ToGuard)
			h := Heartbeat{Sequence: n}
			switch {
			case DecodeHeartbeat(step, &h) == nil:
				c.Receive(now, int(n%2), "b", h)
			case proto.Unmarshal(step, m) == nil:
				c.Engine(now, m)
			default:
				c.EngineConn(now, n%2 == 0)
			}
			out := c.Take()
			if out.Stop != nil {
				c.Stopped(now, 0, nil)
				c.Take()
			}
			c.Tick(max(now, out.Wake))
			now = max(now, out.Wake)
			if out := c.Take(); out.Save != nil {
				again := New(now, Config{Node: "a", Incarnation: 2, Saved: out.Save, LeaseUntil: c.LeaseUntil()})
				again.Take()
			}
		}
	})
}

// Harmless is what a watchdog is fed by: a lease, or a stop that was confirmed.
func TestHarmless(t *testing.T) {
	core := New(0, Config{Node: "a", Incarnation: 1})
	core.EngineConn(0, true)
	alone := goodConfigure()
	alone.Peers = alone.Peers[:1]
	core.Engine(0, &guardpb.ToGuard{Body: &guardpb.ToGuard_Configure{Configure: alone}})
	core.Watchdog(0, time.Second)
	said := false
	for _, f := range core.Take().Engine {
		said = said || f.GetPeers().GetWatchdog().AsDuration() == time.Second
	}
	if !said {
		t.Error("the engine is not told of the watchdog")
	}
	if core.LeaseUntil() != 600*time.Millisecond || !core.Harmless(599*time.Millisecond) || core.Harmless(600*time.Millisecond) {
		t.Errorf("lease until %v, harmless just before its end %v, and at it %v", core.LeaseUntil(), core.Harmless(599*time.Millisecond), core.Harmless(600*time.Millisecond))
	}
	now := 100 * time.Millisecond
	none := proto.CloneOf(alone)
	none.RaftId, none.Peers[0].RaftId = 0, 0
	core.Engine(now, &guardpb.ToGuard{Body: &guardpb.ToGuard_Configure{Configure: none}})
	if core.Take().Stop == nil || core.Harmless(now) {
		t.Error("harmless before the stop is confirmed")
	}
	core.Stopped(now, 0, errors.New("process 7 does not end"))
	if core.Harmless(now) {
		t.Error("harmless after a stop that failed")
	}
	now += time.Second
	core.Tick(now)
	if core.Take().Stop == nil || core.Harmless(now) {
		t.Error("harmless while it is tried again")
	}
	core.Stopped(now, 0, nil)
	if !core.Harmless(now) {
		t.Error("not harmless after everything is stopped")
	}
}

// A suspicion is the word of the incarnation that raised it, also when a later guard repeats it, and ends with it:
// taken for the word of the next incarnation it would be a statement that nobody is bound by.
func TestSuspicionIsOfItsIncarnation(t *testing.T) {
	c := New(0, Config{Node: "a", Incarnation: 1})
	c.EngineConn(0, true)
	c.Engine(0, &guardpb.ToGuard{Body: &guardpb.ToGuard_Configure{Configure: goodConfigure()}})
	for now := time.Duration(0); now < 2*time.Second; now += 50 * time.Millisecond {
		c.Tick(now)
	}
	word := func(c *Core) (st *guardpb.Suspect) {
		for _, f := range c.out.Engine {
			if f.GetSuspect() != nil {
				st = f.GetSuspect()
			}
		}
		return st
	}
	if st := word(c).GetStatement(); st.GetAbout() != "b" || st.GetVoterRaftId() != 1 {
		t.Fatalf("guard 1 says %v", st)
	}
	saved := c.Take().Save
	c = New(3*time.Second, Config{Node: "a", Incarnation: 2, Saved: saved})
	c.EngineConn(3*time.Second, true)
	if st := word(c).GetStatement(); st.GetAbout() != "b" || st.GetVoterRaftId() != 1 || st.GetVoterGuardIncarnation() != 2 {
		t.Fatalf("guard 2 says %v", st)
	}
	c.Take()
	joining := goodConfigure()
	joining.RaftId, joining.LearnerRaftId, joining.Peers[0].RaftId = 0, 9, 0
	c.Engine(3*time.Second, &guardpb.ToGuard{Body: &guardpb.ToGuard_Configure{Configure: joining}})
	if out := c.Take(); len(out.Save.GetSuspicions()) != 0 {
		t.Errorf("incarnation 9 is bound by %v", out.Save.GetSuspicions())
	}
	c.EngineConn(3*time.Second, false)
	c.EngineConn(3*time.Second, true)
	if st := word(c); st != nil {
		t.Errorf("incarnation 9 repeats %v", st)
	}
}
