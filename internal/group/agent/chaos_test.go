package agent

import (
	"fmt"
	"maps"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"pgregory.net/rapid"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

// TestChaos drives random groups through random orders, outcomes, deaths, lost leases, freezes and engine restarts. The
// world checks A1 to A3, A5, A7 and A8 at each call and A4 at each report; afterwards everything is mended and must converge.
func TestChaos(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		w.checkIdle = true
		w.hide(true)
		w.desired = Desired{Incarnation: 1, MayAct: true, Groups: []Group{randomGroup(t, "g"), randomGroup(t, "h")}}
		w.desire()
		for range rapid.IntRange(5, 40).Draw(t, "steps") {
			w.randomStep(t)
		}
		w.mend()
		w.converge(t, v1.Want_WANT_OFFLINE)
		w.converge(t, v1.Want_WANT_ONLINE)
		w.converge(t, v1.Want_WANT_OFFLINE)
	})
}

func randomGroup(t *rapid.T, name string) Group {
	g := Group{Config: &v1.Group{Name: name}, Types: map[string]*v1.ResourceType{}}
	if rapid.IntRange(0, 3).Draw(t, "unmanaged") == 0 {
		g.Config.ManageFaults = v1.ManageFaults_MANAGE_FAULTS_NONE
	}
	for n, ops := range operations {
		g.Types[n] = &v1.ResourceType{
			Name: n, Operations: ops, IntentionalOffline: true, SupportedActions: []string{"dump"}, NumThreads: proto.Uint32(3),
			Attributes: []*v1.Attribute{{Name: "Port", Registered: true}},
		}
	}
	n := rapid.IntRange(1, 6).Draw(t, "resources")
	for i := range n {
		r := &v1.Resource{
			Name: fmt.Sprintf("r%d", i),
			Type: rapid.SampledFrom([]string{"on-off", "on-off", "on-off", "on-off", "on-only", "none"}).Draw(t, "operations"),
			Limits: &v1.Limits{
				MonitorInterval:        durationpb.New(5 * time.Second),
				OfflineMonitorInterval: durationpb.New(20 * time.Second),
				OnlineTimeout:          durationpb.New(10 * time.Second),
				OfflineTimeout:         durationpb.New(10 * time.Second),
				MonitorTimeout:         durationpb.New(3 * time.Second),
				CleanTimeout:           durationpb.New(4 * time.Second),
				OpenTimeout:            durationpb.New(2 * time.Second),
				ActionTimeout:          durationpb.New(4 * time.Second),
				RestartLimit:           proto.Uint32(rapid.Uint32Range(0, 2).Draw(t, "restart")),
				OnlineRetryLimit:       proto.Uint32(rapid.Uint32Range(0, 1).Draw(t, "retry")),
				ToleranceLimit:         proto.Uint32(rapid.Uint32Range(0, 1).Draw(t, "tolerance")),
				OfflineWaitLimit:       proto.Uint32(rapid.Uint32Range(0, 1).Draw(t, "offlinewait")),
				FaultOnMonitorTimeouts: proto.Uint32(rapid.Uint32Range(0, 3).Draw(t, "hangs")),
				AlertOnMonitorTimeouts: proto.Uint32(2),
				CleanRetryLimit:        proto.Uint32(rapid.Uint32Range(0, 2).Draw(t, "cleanretry")),
				ImfMode:                proto.Uint32(rapid.Uint32Range(0, 3).Draw(t, "imf")),
				ImfMonitorFreq:         proto.Uint32(rapid.Uint32Range(0, 2).Draw(t, "freq")),
				LevelTwoMonitorFreq:    proto.Uint32(rapid.Uint32Range(0, 2).Draw(t, "deep")),
			},
		}
		if rapid.Bool().Draw(t, "info") {
			r.Limits.InfoInterval = durationpb.New(7 * time.Second)
		}
		var at *v1.AtLeast
		for j := range i {
			switch rapid.IntRange(0, 5).Draw(t, "edge") {
			case 0, 1:
				r.Requires = append(r.Requires, fmt.Sprintf("r%d", j))
			case 2:
				if at == nil {
					at = &v1.AtLeast{}
					r.RequiresAtLeast = append(r.RequiresAtLeast, at)
				}
				at.Of = append(at.Of, fmt.Sprintf("r%d", j))
				at.Count = rapid.Uint32Range(1, uint32(len(at.Of))).Draw(t, "count")
			}
		}
		g.Config.Resources = append(g.Config.Resources, r)
	}
	return g
}

// reconfigure changes one thing about a resource.
func reconfigure(t *rapid.T, g *v1.Group, r *v1.Resource) {
	switch rapid.SampledFrom([]string{"enable", "monitoronly", "managefaults", "group", "autostart", "attribute", "local", "imf", "requires", "atleast"}).Draw(t, "change") {
	case "enable":
		r.Enabled = proto.Bool(r.Enabled != nil && !r.GetEnabled())
	case "monitoronly":
		r.MonitorOnly = !r.MonitorOnly
	case "managefaults":
		r.ManageFaults = v1.ManageFaults(rapid.IntRange(0, 2).Draw(t, "managefaults"))
	case "group":
		g.ManageFaults = v1.ManageFaults(rapid.IntRange(0, 2).Draw(t, "managefaults"))
	case "autostart":
		r.AutoStart = proto.Bool(r.AutoStart != nil && !r.GetAutoStart())
	case "attribute":
		r.Attributes = map[string]string{"Port": rapid.SampledFrom([]string{"1", "2"}).Draw(t, "port")}
	case "local":
		r.NodeAttributes = map[string]*v1.Values{"n1": {Values: map[string]string{"Port": "3"}}}
	case "imf":
		r.Limits.ImfMode = proto.Uint32(rapid.Uint32Range(0, 3).Draw(t, "imf"))
	case "requires":
		r.Requires = nil
	case "atleast":
		r.RequiresAtLeast = nil
	}
}

func (w *world) randomStep(t *rapid.T) {
	gi := rapid.IntRange(0, len(w.desired.Groups)-1).Draw(t, "group")
	g := &w.desired.Groups[gi]
	res := rapid.SampledFrom(g.Config.Resources).Draw(t, "resource")
	th := w.thing(g.Config.Name, res.Name)
	edit := func(change func(*v1.Group)) {
		g.Config = proto.Clone(g.Config).(*v1.Group)
		change(g.Config)
		w.desire()
	}
	switch rapid.SampledFrom([]string{
		"order", "order", "order", "behave", "behave", "ok", "die", "die", "start", "lease", "stopped", "freeze", "clear",
		"flush", "probe", "notify", "restart", "incarnation", "configure", "configure", "forget", "act", "admin", "threads", "retell",
	}).Draw(t, "step") {
	case "order":
		g.Intent++
		g.Want = rapid.SampledFrom([]v1.Want{v1.Want_WANT_ONLINE, v1.Want_WANT_ONLINE, v1.Want_WANT_OFFLINE, v1.Want_WANT_NOTHING}).Draw(t, "want")
		g.ResourceWants = nil
		if rapid.IntRange(0, 3).Draw(t, "single") == 0 {
			g.ResourceWants = map[string]v1.Want{res.Name: rapid.SampledFrom([]v1.Want{v1.Want_WANT_OFFLINE, v1.Want_WANT_ONLINE}).Draw(t, "own")}
		}
		w.printf("order %s %d %s %v", g.Config.Name, g.Intent, g.Want, g.ResourceWants)
		w.desire()
	case "behave":
		e := rapid.SampledFrom([]EntryPoint{Online, Offline, Monitor, Clean, Online, Offline, Monitor, Clean, Open, Close, Action, Info, AttrChanged}).Draw(t, "entry")
		how := []string{"ok", "err", "hang", "noeffect"}
		if e == Monitor {
			how = []string{"ok", "hang", "unknown", "err", "broken"}
		}
		th.watched = rapid.Bool().Draw(t, "watched")
		th.intentional = rapid.IntRange(0, 3).Draw(t, "intentional") == 0
		th.confidence = rapid.IntRange(-5, 105).Draw(t, "confidence")
		th.verdict = v1.Verdict(rapid.SampledFrom([]int{0, 0, 0, 1, 2, 3, 4}).Draw(t, "verdict"))
		th.how[e] = rapid.SampledFrom(how).Draw(t, "how")
		w.printf("behave %s %s %s", res.Name, e, th.how[e])
	case "ok":
		clear(th.how)
	case "die":
		w.printf("die %s", res.Name)
		w.set(th, false)
	case "start":
		w.printf("start %s", res.Name)
		w.set(th, true)
	case "lease":
		w.desired.MayAct = !w.desired.MayAct
		w.printf("lease held: %t", w.desired.MayAct)
		w.desire()
	case "stopped":
		w.desired.MayAct = false
		w.desire()
		for _, th := range w.things {
			w.set(th, false)
		}
		w.stopped("no quorum")
		for i := range w.desired.Groups {
			w.voided[w.desired.Groups[i].Config.Name] = w.desired.Groups[i].Intent
		}
	case "freeze":
		w.printf("freeze %s %t", g.Config.Name, !g.Config.Frozen)
		edit(func(c *v1.Group) { c.Frozen = !c.Frozen })
	case "clear":
		w.r.Clear(w.now, g.Config.Name, "")
		w.act()
	case "flush":
		w.printf("flush %s", g.Config.Name)
		w.r.Flush(w.now, g.Config.Name, rapid.Bool().Draw(t, "force"))
		w.act()
	case "probe":
		w.r.Probe(w.now, g.Config.Name, "")
		w.act()
	case "notify":
		w.r.Notify(w.now, Notice{Group: g.Config.Name, Resource: res.Name, What: "something happened"})
		w.act()
	case "restart":
		w.printf("restart")
		w.r, w.pending, w.wake = New("n1"), nil, 0
		for _, th := range w.things {
			th.busy, th.told, th.opened = 0, false, false
		}
		clear(w.voided)
		clear(w.acted) // nobody answers for those any more
		w.desire()
	case "incarnation":
		w.printf("incarnation")
		w.desired.Incarnation++
		clear(w.committed)
		w.desire()
	case "configure":
		edit(func(c *v1.Group) {
			for _, r := range c.Resources {
				if r.Name == res.Name {
					reconfigure(t, c, r)
					w.printf("%s is now %s, group: %s", r.Name, r, c.ManageFaults)
				}
			}
		})
	case "act":
		w.asked++
		w.acted[w.asked] = 0
		w.r.Act(w.now, w.asked, g.Config.Name, res.Name, "dump", nil)
		w.act()
	case "admin":
		w.printf("clear admin wait of %s", res.Name)
		w.clearAdminWait(g.Config.Name, res.Name, rapid.Bool().Draw(t, "fault"))
	case "threads":
		types := maps.Clone(g.Types)
		typ := proto.CloneOf(types["on-off"])
		typ.NumThreads = proto.Uint32(rapid.Uint32Range(1, 4).Draw(t, "threads"))
		types["on-off"] = typ
		for i := range w.desired.Groups {
			w.desired.Groups[i].Types = types
		}
		w.desire()
	case "retell":
		w.desire()
		w.r.Retell()
		w.act()
	case "forget":
		name := g.Config.Name
		w.printf("remove and add %s", name)
		old := *g
		w.desired.Groups = append(append([]Group{}, w.desired.Groups[:gi]...), w.desired.Groups[gi+1:]...)
		w.desire()
		delete(w.voided, name)
		w.desired.Groups = append(w.desired.Groups, old)
		w.desire()
	}
	w.advance(rapid.SampledFrom([]time.Duration{0, time.Millisecond, 4 * time.Millisecond, 50 * time.Millisecond, time.Second, 10 * time.Second}).Draw(t, "pause"))
}

// mend makes everything work again.
func (w *world) mend() {
	w.printf("mend")
	for _, th := range w.things {
		clear(th.how)
		th.how[Monitor] = "ok"
		th.intentional, th.verdict = false, 0
	}
	w.desired.MayAct = true
	for i := range w.desired.Groups {
		g := &w.desired.Groups[i]
		g.Config = proto.Clone(g.Config).(*v1.Group)
		g.Config.Frozen = false
		g.Config.ManageFaults = 0
		for _, r := range g.Config.Resources {
			r.Enabled, r.AutoStart, r.MonitorOnly, r.ManageFaults = nil, nil, false, 0
			if r.Type == "none" {
				w.set(w.thing(g.Config.Name, r.Name), true)
			}
		}
	}
	w.desire()
	w.advance(2 * time.Minute)
}

// converge orders everything online or offline and checks that it gets there, in fact and in the reports.
func (w *world) converge(t *rapid.T, order v1.Want) {
	for i := range w.desired.Groups {
		g := &w.desired.Groups[i]
		g.Intent++
		g.Want, g.ResourceWants = order, nil
		w.clearAdminWait(g.Config.Name, "", true)
		w.r.Clear(w.now, g.Config.Name, "")
		w.act()
	}
	w.printf("converge %s", order)
	w.desire()
	w.advance(5 * time.Minute)
	for _, g := range w.desired.Groups {
		if w.intents[g.Config.Name] != g.Intent {
			t.Fatalf("%s: intent %d is reported, not %d\n%s", g.Config.Name, w.intents[g.Config.Name], g.Intent, w.trace)
		}
		running := 0
		for _, r := range g.Config.Resources {
			th, s := w.thing(g.Config.Name, r.Name), w.committed[g.Config.Name][r.Name]
			should := order == v1.Want_WANT_ONLINE || r.Type == "none" || r.Type == "on-only" && th.running
			if th.running && r.Type != "none" {
				running++
			}
			state := offline
			if should {
				state = online
			}
			if th.running != should || s.GetState() != state || s.GetActivity() != v1.ResourceActivity_RESOURCE_ACTIVITY_NONE || s.GetUnableToOffline() {
				t.Fatalf("%s.%s: runs: %t, should: %t, reported: %s\n%s", g.Config.Name, r.Name, th.running, should, s, w.trace)
			}
		}
		if w.guarded[g.Config.Name] != (running > 0) {
			t.Fatalf("%s: %d resources run, guard protects it: %t\n%s", g.Config.Name, running, w.guarded[g.Config.Name], w.trace)
		}
	}
	for i, call := range w.pending {
		if call.call.Entry != Monitor && call.call.Entry != Info {
			t.Fatalf("call %d is left: %s of %s\n%s", i, call.call.Entry, call.call.Resource, w.trace)
		}
	}
	for token, times := range w.acted {
		if times != 1 {
			t.Fatalf("the end of action %d was told %d times\n%s", token, times, w.trace)
		}
	}
}
