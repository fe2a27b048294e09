package guard

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
)

// TestScripts plays the stories in testdata/scripts. Each verb prints what happened
// since the one before. The verbs:
//
//	guards a b c [links=2] [peerinact=1s] [seed=0]   nodes, voters of view 1 all of them, started together
//	advance 1s                        let time pass
//	cut a-b | cut a>b [link=0]        packets get lost, both ways or one
//	cut a                             … to and from everybody
//	heal [a-b]
//	slow 5ms                          packets take so long
//	pause a, resume a                 SIGSTOP and SIGCONT of a whole node
//	crash a, start a                  power off and on
//	kill-guard a, start-guard a       guard alone; its engine and what it kept stay
//	commit-guard a                    the cluster commits a's present guard
//	view a b [rejoin=c]               the next view, applied everywhere (on=a: only there)
//	configure a                       a's engine tells its guard what is true by now
//	appended a EPOCH                  a newer view is in a's log
//	stays a                           the cluster commits that a stays
//	timers peerinact=300ms [heartbeat=..] [peertrouble=..]
//	engine a down|up|hung|works|slow  its engine; slow: never Quiet
//	protect a web, gone a web
//	stop-takes a 300ms, stop-fails a [no]
//	silence a 5s [number=1], silence-over a
//	leave a [detach], shutdown a
//	reset a [restart], stop-detached a  what a's engine tells its guard
//	replay a>b [link=0], forge a>b [link=0]
//	leases, links a, stats a b
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/scripts", func(t *testing.T, path string) {
		w := newWorld()
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			out := w.verb(t, d)
			out = w.log.String() + out
			w.log.Reset()
			return out
		})
	})
}

func (w *world) verb(t *testing.T, d *datadriven.TestData) string {
	var words []string
	for _, a := range d.CmdArgs {
		if len(a.Vals) == 0 {
			words = append(words, a.Key)
		}
	}
	word := func(i int) string {
		if i >= len(words) {
			d.Fatalf(t, "%s: word %d is missing", d.Cmd, i+1)
		}
		return words[i]
	}
	text := func(key, unset string) string {
		if d.HasArg(key) {
			d.ScanArgs(t, key, &unset)
		}
		return unset
	}
	duration := func(s string) time.Duration {
		v, err := time.ParseDuration(s)
		if err != nil {
			d.Fatalf(t, "%v", err)
		}
		return v
	}
	number := func(s string) (n int) {
		if _, err := fmt.Sscan(s, &n); err != nil {
			d.Fatalf(t, "%v", err)
		}
		return n
	}
	the := func(i int) *node {
		n := w.nodes[word(i)]
		if n == nil {
			d.Fatalf(t, "no node %q", word(i))
		}
		return n
	}
	timers := func() {
		for key, set := range map[string]func(*durationpb.Duration){
			"peerinact":   func(v *durationpb.Duration) { w.conf.Peerinact = v },
			"heartbeat":   func(v *durationpb.Duration) { w.conf.Heartbeat = v },
			"peertrouble": func(v *durationpb.Duration) { w.conf.Peertrouble = v },
			"engine-down": func(v *durationpb.Duration) { w.conf.EngineDownLimit = v },
		} {
			if v := text(key, ""); v != "" {
				set(durationpb.New(duration(v)))
			}
		}
	}
	switch d.Cmd {
	case "guards":
		w.links = number(text("links", "2"))
		w.add(words)
		timers()
		w.conf.SeedNodes = uint32(number(text("seed", "0")))
		for _, name := range w.names {
			w.nodes[name].conf = &w.conf
			w.nodes[name].start(true)
		}
	case "advance":
		w.run(w.now + duration(word(0)))
	case "cut", "heal":
		w.cut(text("link", ""), words, d.Cmd == "cut")
	case "slow":
		delay := duration(word(0))
		w.delay = func() time.Duration { return delay }
	case "pause":
		the(0).paused = true
	case "resume":
		the(0).resume(false)
	case "crash":
		n := the(0)
		n.up, n.core, n.waiting = false, nil, nil
	case "start":
		the(0).start(true)
	case "kill-guard":
		the(0).up = false
	case "start-guard":
		the(0).start(false)
	case "commit-guard":
		w.peer(word(0)).GuardIncarnation = the(0).incarnation
		w.configureAll()
	case "view":
		w.view(words, text("rejoin", ""))
		if on := text("on", ""); on != "" {
			w.nodes[on].configure(&w.conf)
		} else {
			w.configureAll()
		}
	case "configure":
		the(0).configure(&w.conf)
	case "appended":
		return orOK(the(0).ask(&guardpb.ToGuard{Body: &guardpb.ToGuard_Appended{Appended: &guardpb.Appended{Epoch: uint64(number(word(1)))}}})) + "\n"
	case "stays":
		w.peer(word(0)).Stays++
		w.configureAll()
	case "timers":
		timers()
		w.configureAll()
	case "engine":
		return w.engineVerb(the(0), word(1))
	case "protect", "gone":
		p := &guardpb.Protect{Group: word(1), Gone: d.Cmd == "gone"}
		return orOK(the(0).ask(&guardpb.ToGuard{Body: &guardpb.ToGuard_Protect{Protect: p}})) + "\n"
	case "stop-takes":
		the(0).stopTakes = duration(word(1))
	case "stop-fails":
		the(0).stopFails = len(words) == 1
	case "silence":
		n := the(0)
		a := n.ask(w.silence(n.name, duration(word(1)), uint64(number(text("number", "1")))))
		w.configureAll()
		return orOK(a) + "\n"
	case "silence-over":
		w.peer(word(0)).Silence = nil
		w.configureAll()
	case "leave":
		n := the(0)
		return orOK(n.ask(&guardpb.ToGuard{Body: &guardpb.ToGuard_Leaving{Leaving: &guardpb.Leaving{Detach: len(words) == 2}}})) + "\n"
	case "reset":
		return orOK(the(0).ask(&guardpb.ToGuard{Body: &guardpb.ToGuard_Reset_{Reset_: &guardpb.Reset{Reason: "web failed", Restart: len(words) == 2}}})) + "\n"
	case "stop-detached":
		return orOK(the(0).ask(&guardpb.ToGuard{Body: &guardpb.ToGuard_StopDetached{StopDetached: &guardpb.StopDetached{Reason: "nobody counts on it"}}})) + "\n"
	case "shutdown":
		n := the(0)
		n.do(func() { n.core.Shutdown(w.now, "the machine shuts down") })
	case "replay", "forge":
		from, to, _ := strings.Cut(word(0), ">")
		link := number(text("link", "0"))
		n := w.nodes[to]
		if d.Cmd == "forge" {
			n.do(func() { n.core.Dropped(link, from, DropForged) })
			break
		}
		hb := w.packets[fmt.Sprintf("%s>%s/%d", from, to, link)]
		n.do(func() { n.core.Receive(w.now, link, from, hb) })
	case "leases":
		return w.leases()
	case "links":
		return the(0).linkTable()
	case "stats":
		return the(0).statsOf(word(1))
	default:
		d.Fatalf(t, "no verb %s", d.Cmd)
	}
	return ""
}

// cut or heal "a-b" (both ways), "a>b", "a" (everybody), or all links there are.
func (w *world) cut(link string, what []string, cut bool) {
	if len(what) == 0 {
		clear(w.cuts)
		return
	}
	set := func(from, to string) {
		for l := range w.links {
			if from != to && (link == "" || link == fmt.Sprint(l)) {
				w.cuts[fmt.Sprintf("%s>%s/%d", from, to, l)] = cut
			}
		}
	}
	for _, pair := range what {
		if a, b, ok := strings.Cut(pair, "-"); ok {
			set(a, b)
			set(b, a)
		} else if a, b, ok := strings.Cut(pair, ">"); ok {
			set(a, b)
		} else {
			for _, b := range w.names {
				set(pair, b)
				set(b, pair)
			}
		}
	}
}

// view makes the next view; rejoin is a member with a new raft id.
func (w *world) view(members []string, rejoin string) {
	w.conf.Epoch++
	for i, p := range w.conf.Peers {
		in := false
		for _, m := range members {
			in = in || m == p.Node
		}
		switch {
		case p.Node == rejoin:
			p.RaftId, p.GuardIncarnation = 100*w.conf.Epoch+uint64(i+1), w.nodes[rejoin].incarnation
		case !in:
			p.RaftId = 0
		case p.RaftId == 0:
			p.RaftId, p.GuardIncarnation = 100*w.conf.Epoch+uint64(i+1), w.nodes[p.Node].incarnation
		}
	}
}

func (w *world) engineVerb(n *node, what string) string {
	switch what {
	case "down":
		n.engine = false
		n.do(func() { n.core.EngineConn(w.now, false) })
	case "up":
		n.engine, n.hung, n.table = true, false, nil
		n.conf = &w.conf
		n.connect()
	case "hung":
		n.hung = true
	case "works":
		n.hung = false
	case "slow":
		n.slow = true
	default:
		return "engine: down, up, hung, works or slow\n"
	}
	return ""
}

func (n *node) linkTable() string {
	var b strings.Builder
	for _, p := range n.core.peerTable().Peers {
		fmt.Fprintf(&b, "%s %s:", p.Node, short(p.State))
		for i, l := range p.Links {
			fmt.Fprintf(&b, " net%d %s", i, short(l))
		}
		if p.Suspected {
			b.WriteString(", suspected")
		}
		fmt.Fprintln(&b)
	}
	return b.String()
}

func (n *node) statsOf(node string) string {
	var b strings.Builder
	for _, s := range n.core.stats().Links {
		if s.Node != node {
			continue
		}
		fmt.Fprintf(&b, "%s: received %d of %d sent here, lost %d, replayed %d, forged %d, malformed %d, foreign %d, refused %d; round trip p50 %v p99 %v; last heard %v ago\n",
			s.Link, s.Received, s.Sent, s.Lost, s.Replayed, s.Forged, s.Malformed, s.Foreign, s.Refused,
			s.RoundTripP50.AsDuration(), s.RoundTripP99.AsDuration(), s.SinceHeard.AsDuration().Round(time.Millisecond))
	}
	return b.String()
}
