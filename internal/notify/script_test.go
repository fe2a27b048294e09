package notify

import (
	"flag"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

func init() {
	if flag.Lookup("rewrite") == nil {
		flag.Bool("rewrite", false, "see datadriven")
	}
}

// world is a replicated state and one core per node, on virtual time. Verbs:
//
//	notifier NAME [severity=S] [codes=a,b] [give-up=1h]   add or change
//	remove NAME
//	event N [severity=S] [code=C] [notifier=NAME]         N events
//	keep N                                                the state has the last N events only
//	lost A B                                              the leader's own log does not have these
//	ending NODE                                           it is about to give up leadership
//	lead NODE [crash]                                     crash: the one before is a member no more
//	delivered NODE NAME | failed NODE NAME WHY            what is on its way ends
//	ok NAME | bad NAME WHY                                from now on deliveries end at once so
//	hold | release                                        commits
//	refuse                                                commits that are held fail
//	advance DURATION
//	status NODE
type world struct {
	now       time.Duration
	cores     map[string]*Core
	wakes     map[string]time.Duration
	leader    string
	former    map[string]bool // by node
	ending    map[string]bool
	notifiers []*v1.Notifier
	done      map[string]uint64
	events    []*v1.Event
	keep      int
	lost      [2]uint64
	onWay     map[string]Delivery // "node/notifier"
	answer    map[string]string   // by notifier: "" delivered, else why not
	automatic map[string]bool
	held      bool
	waiting   []func(committed bool)
	log       strings.Builder
}

func newWorld() *world {
	return &world{cores: map[string]*Core{}, wakes: map[string]time.Duration{}, former: map[string]bool{}, ending: map[string]bool{}, done: map[string]uint64{}, keep: 1000,
		onWay: map[string]Delivery{}, answer: map[string]string{}, automatic: map[string]bool{}}
}

func (w *world) say(format string, args ...any) {
	fmt.Fprintf(&w.log, "%8.3f  ", w.now.Seconds())
	fmt.Fprintf(&w.log, format+"\n", args...)
}

func (w *world) newest() uint64 { return uint64(len(w.events)) }

func (w *world) view(node string) View {
	kept := w.events[max(0, len(w.events)-w.keep):]
	return View{Leading: w.leader == node, Former: w.former[node], Ending: w.ending[node], Notifiers: w.notifiers, Done: w.done, Events: kept, Newest: w.newest()}
}

func (w *world) step(node string, in Input) {
	c := w.cores[node]
	c.Step(w.now, w.view(node), in)
	out := c.Take()
	w.wakes[node] = out.Wake
	for _, token := range out.Cancel {
		for key, d := range w.onWay {
			if d.Token == token && strings.HasPrefix(key, node+"/") {
				w.say("%s cancels %s #%d", node, d.Notifier.GetName(), d.Event.GetNumber())
				delete(w.onWay, key)
			}
		}
	}
	for _, p := range out.Propose {
		what := ""
		if n := p.Command.GetNotified(); n != nil {
			what = fmt.Sprintf("notified %s #%d", n.GetNotifier(), n.GetEvent())
		}
		for _, e := range p.Command.GetNote().GetEvents() {
			what += fmt.Sprintf("event %s %q ", e.GetCode(), e.GetMessage())
		}
		w.say("%s proposes %s", node, strings.TrimSpace(what))
		decide := func(committed bool) {
			if committed {
				w.apply(p.Command)
			}
			w.step(node, Proposed{Token: p.Token, Committed: committed})
			if committed {
				w.stepAll()
			}
		}
		w.waiting = append(w.waiting, decide)
	}
	for _, f := range out.Fetch {
		in := Fetched{Token: f.Token, Through: f.Before - 1}
		for _, e := range w.events[f.After : f.Before-1] {
			if n := e.GetNumber(); n < w.lost[0] || n > w.lost[1] {
				in.Events = append(in.Events, e)
			}
			if len(in.Events) == 3 { // small, so that it matters
				in.Through = e.GetNumber()
				break
			}
		}
		w.say("%s fetches after #%d before #%d: %d up to #%d", node, f.After, f.Before, len(in.Events), in.Through)
		w.step(node, in)
	}
	for _, d := range out.Deliver {
		name := d.Notifier.GetName()
		w.say("%s sends %s #%d %s", node, name, d.Event.GetNumber(), d.Event.GetCode())
		w.onWay[node+"/"+name] = d
		if w.automatic[name] {
			w.end(node, name, w.answer[name])
		}
	}
	if !w.held {
		w.release(true)
	}
}

func (w *world) release(committed bool) {
	for len(w.waiting) > 0 {
		f := w.waiting[0]
		w.waiting = w.waiting[1:]
		f(committed)
	}
}

func (w *world) apply(c *statepb.Command) {
	if n := c.GetNotified(); n != nil {
		w.done[n.GetNotifier()] = max(w.done[n.GetNotifier()], n.GetEvent())
	}
	for _, e := range c.GetNote().GetEvents() {
		w.event(e)
	}
}

func (w *world) event(e *v1.Event) {
	e.Number = w.newest() + 1
	w.events = append(w.events, e)
}

func (w *world) end(node, name, why string) bool {
	key := node + "/" + name
	d, ok := w.onWay[key]
	if !ok {
		return false
	}
	delete(w.onWay, key)
	if why != "" {
		w.say("%s fails with %s #%d: %s", node, name, d.Event.GetNumber(), why)
	}
	w.step(node, Ended{Token: d.Token, Err: why})
	return true
}

func (w *world) nodes() (all []string) {
	for n := range w.cores {
		all = append(all, n)
	}
	slices.Sort(all)
	return all
}

func (w *world) stepAll() {
	for _, n := range w.nodes() {
		w.step(n, nil)
	}
}

func (w *world) advance(d time.Duration) {
	for end := w.now + d; ; {
		next, node := end, ""
		for _, n := range w.nodes() {
			if at := w.wakes[n]; at != 0 && at <= next {
				next, node = max(at, w.now), n
			}
		}
		w.now = next
		if node == "" {
			return
		}
		w.step(node, nil)
	}
}

func (w *world) core(node string) {
	if w.cores[node] == nil {
		w.cores[node] = &Core{}
	}
}

func severity(s string) v1.Severity {
	return v1.Severity(v1.Severity_value["SEVERITY_"+strings.ToUpper(s)])
}

func (w *world) run(d *datadriven.TestData) error {
	var words []string
	opts := map[string]string{}
	for _, a := range d.CmdArgs {
		if len(a.Vals) == 0 {
			words = append(words, a.Key)
		} else {
			opts[a.Key] = strings.Join(a.Vals, ",")
		}
	}
	word := func(i int) string {
		if i < len(words) {
			return words[i]
		}
		return ""
	}
	rest := func(i int) string { return strings.Join(words[min(i, len(words)):], " ") }
	switch d.Cmd {
	case "notifier":
		n := &v1.Notifier{Name: word(0), Severity: severity(opts["severity"])}
		if c := opts["codes"]; c != "" {
			n.Codes = strings.Split(c, ",")
		}
		if g := opts["give-up"]; g != "" {
			after, err := time.ParseDuration(g)
			if err != nil {
				return err
			}
			n.GiveUpAfter = durationpb.New(after)
		}
		w.notifiers = slices.DeleteFunc(slices.Clone(w.notifiers), func(o *v1.Notifier) bool { return o.GetName() == n.GetName() })
		w.notifiers = append(w.notifiers, n)
	case "remove":
		w.notifiers = slices.DeleteFunc(slices.Clone(w.notifiers), func(o *v1.Notifier) bool { return o.GetName() == word(0) })
		delete(w.done, word(0))
	case "event":
		n, err := strconv.Atoi(word(0))
		if err != nil {
			return err
		}
		e := &v1.Event{Severity: severity(opts["severity"]), Code: opts["code"], Notifier: opts["notifier"]}
		if e.Severity == 0 {
			e.Severity = v1.Severity_SEVERITY_ERROR
		}
		for range n {
			w.event(&v1.Event{Severity: e.Severity, Code: e.Code, Notifier: e.Notifier})
		}
	case "keep":
		n, err := strconv.Atoi(word(0))
		if err != nil {
			return err
		}
		w.keep = n
		return nil
	case "lost":
		_, err := fmt.Sscan(rest(0), &w.lost[0], &w.lost[1])
		return err
	case "ending":
		w.ending[word(0)] = true
	case "lead":
		w.former[word(0)] = w.leader != "" && word(1) != "crash"
		before := w.leader
		w.leader = word(0)
		w.core(word(0))
		if word(1) == "crash" {
			delete(w.cores, before)
			delete(w.wakes, before)
			for key := range w.onWay {
				if strings.HasPrefix(key, before+"/") {
					delete(w.onWay, key)
				}
			}
		}
	case "delivered", "failed":
		why := ""
		if d.Cmd == "failed" {
			why = rest(2)
		}
		if !w.end(word(0), word(1), why) {
			return fmt.Errorf("%s has nothing of %s on its way", word(0), word(1))
		}
	case "ok", "bad":
		w.automatic[word(0)], w.answer[word(0)] = true, rest(1)
		return nil
	case "hold":
		w.held = true
		return nil
	case "release":
		w.held = false
		w.release(true)
		return nil
	case "refuse":
		w.release(false)
		return nil
	case "advance":
		by, err := time.ParseDuration(word(0))
		if err != nil {
			return err
		}
		w.advance(by)
		return nil
	case "status":
		fmt.Fprintf(&w.log, "busy=%v\n", w.cores[word(0)].Busy())
		for _, s := range w.cores[word(0)].Status() {
			fmt.Fprintf(&w.log, "%s done=%d delivered=%v failures=%d", s.Name, s.Done, s.Delivered, s.Failures)
			if s.Failures > 0 {
				fmt.Fprintf(&w.log, " since=%v next=%v error=%s", s.Since, s.Next, s.Error)
			}
			fmt.Fprintln(&w.log)
		}
		return nil
	default:
		return fmt.Errorf("there is no verb %s", d.Cmd)
	}
	w.stepAll()
	return nil
}

func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		w := newWorld()
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			if err := w.run(d); err != nil {
				t.Fatalf("%s: %v", d.Pos, err)
			}
			out := w.log.String()
			w.log.Reset()
			if out == "" {
				return "ok\n"
			}
			return out
		})
	})
}
