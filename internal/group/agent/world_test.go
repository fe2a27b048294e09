package agent

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

// world is a node with scripted resources under virtual time: it carries out what a Runtime asks for, and checks the
// invariants of the package comment at each step.
type world struct {
	t       failer
	r       *Runtime
	now     time.Duration
	desired Desired
	things  map[key]*thing
	pending []completion
	trace   *strings.Builder
	// committed statuses and intents, as the cluster would have them.
	committed map[string]map[string]*v1.ResourceStatus
	intents   map[string]uint64
	guarded   map[string]bool
	wake      time.Duration
	calls     int
	// types of resources that groups may have.
	types map[string]*v1.ResourceType
	// hidden calls are left out of the trace.
	hidden map[EntryPoint]bool
	// acted counts how often the end of each action was told, asked are the actions that were asked for.
	acted map[uint64]int
	asked uint64
	// reported counts reports by state.
	reported map[v1.ResourceState]int
	// checkIdle has reports compared with what was found out last (A4).
	checkIdle bool
	// voided intents must start nothing (A5).
	voided map[string]uint64
}

// failer is what testing.T and rapid.T have in common.
type failer interface {
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// thing is a scripted resource: whether it runs, and how its entry points behave: "ok", "err", "hang" (until the time
// limit), "noeffect" (succeeds and does nothing), "unknown", "broken" (monitor only).
type thing struct {
	key     key
	running bool
	how     map[EntryPoint]string
	takes   map[EntryPoint]time.Duration
	// shows: running becomes true so long after online has returned.
	shows time.Duration
	// watched: a monitor that is to have changes told can do so; watching: the last one has.
	watched, watching bool
	// partly: it tells some changes only.
	partly bool
	// What its monitors say beside the state, and what fails says beside failing.
	confidence  int
	intentional bool
	verdict     v1.Verdict
	info        map[string]string
	busy        EntryPoint
	visible     time.Duration
	// told: a monitor or clean that was not cancelled has told something; gone: the last one said that nothing runs.
	told, gone bool
	// freed: guard has stopped it, which ended any wait for an administrator, and nothing was reported since.
	freed bool
	// byAdmin: an administrator has said so, and nothing has looked since.
	byAdmin bool
	// opened as the last call of open or close was; halfOpen: that was an open, and it was cut off.
	opened, halfOpen bool
}

type completion struct {
	at   time.Duration
	seq  int
	call Call
	how  string
}

func newWorld(t failer) *world {
	return &world{
		t: t, r: New("n1"), things: map[key]*thing{}, trace: &strings.Builder{},
		committed: map[string]map[string]*v1.ResourceStatus{}, intents: map[string]uint64{}, guarded: map[string]bool{}, voided: map[string]uint64{},
		types: plainTypes(), hidden: map[EntryPoint]bool{}, acted: map[uint64]int{}, reported: map[v1.ResourceState]int{},
	}
}

// plainTypes has one type for each kind of operations.
func plainTypes() map[string]*v1.ResourceType {
	out := map[string]*v1.ResourceType{}
	for name, ops := range operations {
		out[name] = &v1.ResourceType{Name: name, Operations: ops, Attributes: []*v1.Attribute{{Name: "Greeting", Default: "hello"}}}
	}
	return out
}

// hide leaves calls that nothing interesting follows from out of the trace.
func (w *world) hide(quiet bool) {
	for _, e := range []EntryPoint{Monitor, Open, Close, Info} {
		w.hidden[e] = quiet
	}
}

func (w *world) thing(g, r string) *thing {
	k := key{g, r}
	if w.things[k] == nil {
		w.things[k] = &thing{
			key:   k,
			how:   map[EntryPoint]string{},
			takes: map[EntryPoint]time.Duration{Monitor: time.Millisecond, Online: 5 * time.Millisecond, Offline: 5 * time.Millisecond, Clean: 2 * time.Millisecond},
		}
	}
	return w.things[k]
}

func (w *world) printf(format string, args ...any) {
	fmt.Fprintf(w.trace, "%-8s ", w.now)
	fmt.Fprintf(w.trace, format, args...)
	w.trace.WriteByte('\n')
}

func (w *world) wall() int64 { return w.now.Milliseconds() }

func (w *world) desire() {
	for i := range w.desired.Groups {
		g := &w.desired.Groups[i]
		g.Known, g.KnownIntent = w.committed[g.Config.Name], w.intents[g.Config.Name]
	}
	w.r.Desire(w.now, w.wall(), w.desired)
	w.act()
}

func (w *world) config(group, resource string) *v1.Resource {
	for _, g := range w.desired.Groups {
		if g.Config.Name == group {
			for _, r := range g.Config.Resources {
				if r.Name == resource {
					return r
				}
			}
		}
	}
	return nil
}

func (w *world) act() {
	a := w.r.Take()
	w.wake = a.Wake
	for _, g := range a.Protect {
		w.guarded[g] = true
		w.printf("protect %s", g)
	}
	for _, token := range a.Cancel {
		for i := range w.pending {
			if p := &w.pending[i]; p.call.Token == token {
				w.printf("cancel %s %s", p.call.Resource, p.call.Entry)
				p.at, p.how = w.now, "cancelled"
			}
		}
	}
	for _, rep := range a.Reports {
		w.printf("report %s intent=%d", rep.Group, rep.Intent)
		w.intents[rep.Group] = rep.Intent
		if w.committed[rep.Group] == nil {
			w.committed[rep.Group] = map[string]*v1.ResourceStatus{}
		}
		for _, name := range slices.Sorted(maps.Keys(rep.Resources)) {
			s := rep.Resources[name]
			w.committed[rep.Group][name] = s
			fmt.Fprintf(w.trace, "           %s\n", describe(name, s))
			w.checkReport(rep.Group, name, s)
		}
	}
	for _, c := range a.Calls {
		w.calls++
		w.start(c)
	}
	for _, g := range a.Gone {
		w.guarded[g] = false
		w.printf("gone %s", g)
	}
	for _, done := range a.Acted {
		w.printf("acted %d: %s", done.Token, cmp.Or(done.Err, "ok")+done.Output)
		w.acted[done.Token]++
	}
	for _, e := range a.Events {
		w.printf("event %s %s %s/%s: %s", e.Severity, e.Code, e.Group, e.Resource, e.Message)
	}
}

func describe(name string, s *v1.ResourceStatus) string {
	out := name + " " + strings.TrimPrefix(s.State.String(), "RESOURCE_STATE_")
	if s.Activity != v1.ResourceActivity_RESOURCE_ACTIVITY_NONE {
		out += "/" + strings.TrimPrefix(s.Activity.String(), "RESOURCE_ACTIVITY_")
	}
	if s.UnableToOffline {
		out += " unable-to-offline"
	}
	if s.AdminWait != 0 {
		out += " admin-wait=" + strings.ToLower(strings.TrimPrefix(s.AdminWait.String(), "ADMIN_WAIT_"))
	}
	if s.Verdict != 0 {
		out += " verdict=" + strings.ToLower(strings.TrimPrefix(s.Verdict.String(), "VERDICT_"))
	}
	if s.Intentional {
		out += " intentional"
	}
	if s.Confidence != 0 {
		out += fmt.Sprintf(" confidence=%d", s.Confidence)
	}
	for _, k := range slices.Sorted(maps.Keys(s.Info)) {
		out += fmt.Sprintf(" %s=%s", k, s.Info[k])
	}
	if s.MonitorTimedOut {
		out += " monitor-timed-out"
	}
	if s.Restarts > 0 {
		out += fmt.Sprintf(" restarts=%d", s.Restarts)
	}
	if s.Message != "" {
		out += fmt.Sprintf(" %q", s.Message)
	}
	return out
}

// start checks A1, A2, A3, A5, A7 and A8 from outside and begins the call.
func (w *world) start(c Call) {
	th, config := w.thing(c.Group, c.Resource), w.config(c.Group, c.Resource)
	if th.busy != 0 {
		w.t.Errorf("%s: A1: %s of %s while %s is under way\n%s", w.now, c.Entry, c.Resource, th.busy, w.trace)
	}
	th.busy = c.Entry
	sameType := 1
	for _, p := range w.pending {
		if p.call.Type == c.Type {
			sameType++
		}
	}
	most := threads(c.Definition)
	for _, g := range w.desired.Groups {
		if t := g.Types[c.Type]; t != nil {
			most = threads(t)
		}
	}
	if sameType > most {
		w.t.Errorf("%s: A7: %d calls of %s, not %d\n%s", w.now, sameType, c.Type, most, w.trace)
	}
	if s := w.committed[c.Group][c.Resource]; s.GetAdminWait() != 0 && !th.freed && !slices.Contains([]EntryPoint{Open, Close, Action}, c.Entry) {
		w.t.Errorf("%s: A8: %s of %s, which waits for an administrator\n%s", w.now, c.Entry, c.Resource, w.trace)
	}
	if opens := c.Entry == Open; opens == th.opened && !th.halfOpen {
		w.t.Errorf("%s: %s of %s; it is open: %t\n%s", w.now, c.Entry, c.Resource, th.opened, w.trace)
	}
	switch c.Entry {
	case Open:
		th.opened, th.halfOpen = true, false
	case Close:
		th.opened, th.halfOpen = false, false
	case Online:
		if !w.desired.MayAct {
			w.t.Errorf("%s: A2: online of %s without MayAct\n%s", w.now, c.Resource, w.trace)
		}
		for _, g := range w.desired.Groups {
			if g.Config.Name == c.Group && g.Intent <= w.voided[c.Group] {
				w.t.Errorf("%s: A5: online of %s by intent %d\n%s", w.now, c.Resource, g.Intent, w.trace)
			}
		}
		if !c.Starts || !w.guarded[c.Group] {
			w.t.Errorf("%s: online of %s, but guard does not protect %s\n%s", w.now, c.Resource, c.Group, w.trace)
		}
		for _, n := range config.GetRequires() {
			if s := w.committed[c.Group][n]; s.GetState() != online || s.GetAdminWait() != 0 {
				w.t.Errorf("%s: A2: online of %s, which requires %s, which is %s\n%s", w.now, c.Resource, n, s, w.trace)
			}
		}
		for _, a := range config.GetRequiresAtLeast() {
			if n := w.online(c.Group, a, ""); n < int(a.Count) {
				w.t.Errorf("%s: A2: online of %s with %d of %s\n%s", w.now, c.Resource, n, a, w.trace)
			}
		}
	case Offline:
		for _, g := range w.desired.Groups {
			for _, p := range g.Config.Resources {
				if g.Config.Name == c.Group && w.needs(c.Group, p, c.Resource) && !w.leaves(c.Group, p) {
					w.t.Errorf("%s: A3: offline of %s before %s\n%s", w.now, c.Resource, p.Name, w.trace)
				}
			}
		}
	}
	if c.Entry != Monitor && c.Entry != Open && c.Entry != Close && config.GetMonitorOnly() && c.Entry != Info {
		w.t.Errorf("%s: %s of %s, which is only monitored\n%s", w.now, c.Entry, c.Resource, w.trace)
	}
	if c.Entry == Clean && manages(w.group(c.Group), config) == v1.ManageFaults_MANAGE_FAULTS_NONE {
		w.t.Errorf("%s: A8: clean of %s, of which faults are not managed\n%s", w.now, c.Resource, w.trace)
	}
	how := th.how[c.Entry]
	at := w.now + th.takes[c.Entry]
	if how == "hang" {
		at = w.now + c.Timeout
	}
	if !w.hidden[c.Entry] {
		w.printf("call %s %s%s", c.Resource, c.Entry, details(c))
	}
	w.pending = append(w.pending, completion{at: at, seq: int(c.Token), call: c, how: how})
}

func details(c Call) string {
	out := ""
	if c.Entry == Clean {
		out = fmt.Sprintf(" (%s)", c.CleanReason)
	}
	if c.Forced {
		out += " forced"
	}
	if c.Takeover {
		out += " takeover"
	}
	if c.Restarts > 0 {
		out += fmt.Sprintf(" (restart %d)", c.Restarts)
	}
	if c.Entry == Monitor && !c.Watch {
		out += " without watch"
	}
	if c.Deep {
		out += " deep"
	}
	if c.Name != "" {
		out += fmt.Sprintf(" %s %q", c.Name, c.Arguments)
	}
	for _, name := range c.Changed {
		out += fmt.Sprintf(" %s=%s", name, c.Attributes[name])
	}
	return out
}

func (w *world) group(name string) *v1.Group {
	for _, g := range w.desired.Groups {
		if g.Config.Name == name {
			return g.Config
		}
	}
	return nil
}

// manages says who deals with the faults of a resource.
func manages(g *v1.Group, r *v1.Resource) v1.ManageFaults {
	return cmp.Or(r.GetManageFaults(), g.GetManageFaults())
}

// online counts the members that are online and stay so by the reports.
func (w *world) online(group string, a *v1.AtLeast, without string) int {
	n := 0
	for _, name := range a.Of {
		s := w.committed[group][name]
		if name != without && s.GetState() == online && s.GetActivity() == v1.ResourceActivity_RESOURCE_ACTIVITY_NONE && s.GetAdminWait() == 0 {
			n++
		}
	}
	return n
}

// needs: p can't stay online without the resource.
func (w *world) needs(group string, p *v1.Resource, resource string) bool {
	if slices.Contains(p.Requires, resource) {
		return true
	}
	return slices.ContainsFunc(p.RequiresAtLeast, func(a *v1.AtLeast) bool {
		return slices.Contains(a.Of, resource) && w.online(group, a, resource) < int(a.Count)
	})
}

// leaves: by the reports nothing keeps what p requires from going offline.
func (w *world) leaves(group string, p *v1.Resource) bool {
	s := w.committed[group][p.Name]
	return p.Type != "on-off" || p.MonitorOnly || p.Enabled != nil && !p.GetEnabled() ||
		isIdle(s) && s.GetState() != online && s.GetState() != unknown && s.GetAdminWait() == 0
}

// isIdle: by its report nothing is done with it.
func isIdle(s *v1.ResourceStatus) bool {
	return s.GetActivity() == v1.ResourceActivity_RESOURCE_ACTIVITY_NONE || s.GetActivity() == v1.ResourceActivity_RESOURCE_ACTIVITY_WAITING_ONLINE
}

// set lets it start or die by itself; nobody is told but who watches.
func (w *world) set(th *thing, running bool) {
	changed := th.running != running
	th.running, th.visible = running, w.now
	if changed && th.watching {
		w.r.Notify(w.now, Notice{Group: th.key.group, Resource: th.key.resource})
		w.act()
	}
}

func (w *world) checkReport(group, name string, s *v1.ResourceStatus) {
	th := w.thing(group, name)
	th.freed = false
	if w.checkIdle && s.AdminWait == 0 && !th.byAdmin && isIdle(s) && (s.State == offline || s.State == faulted) && w.config(group, name).GetType() != "none" && !(th.told && th.gone) {
		w.t.Errorf("%s: A4: %s is reported %s, but nothing has said so\n%s", w.now, name, s.State, w.trace)
	}
	if isIdle(s) && s.State != unknown && slices.Contains([]EntryPoint{Online, Offline, Clean}, th.busy) {
		w.t.Errorf("%s: %s is reported idle during %s\n%s", w.now, name, th.busy, w.trace)
	}
}

// complete lets one call end.
func (w *world) complete(p completion) {
	th := w.thing(p.call.Group, p.call.Resource)
	th.busy = 0
	var res Result
	ok := p.how == "" || p.how == "ok"
	switch {
	case p.how == "cancelled":
		res.Err = "cancelled"
		th.halfOpen = p.call.Entry == Open
	case p.how == "hang":
		res.TimedOut = true
	case p.how == "err":
		res.Err = "exit status 1"
	case p.how == "broken":
		res.State, res.Message = faulted, "a part of it is missing"
	case p.call.Entry == Online && ok:
		th.running, th.visible = true, w.now+th.shows
	case (p.call.Entry == Offline || p.call.Entry == Clean) && ok:
		th.running = false
	case p.call.Entry == Monitor && ok:
		th.watching = th.watched && p.call.Watch
		res.State, res.Watched, res.WatchedPartly = offline, th.watching, th.partly && p.call.Watch
		if th.running && w.now >= th.visible {
			res.State, res.Confidence = online, th.confidence
		} else {
			res.Intentional, res.Verdict = th.intentional, th.verdict
		}
	case p.call.Entry == Action && ok:
		res.Output = " " + p.call.Name + " was done"
	case p.call.Entry == Info && ok:
		res.Info = th.info
	}
	if res.Err != "" || res.TimedOut {
		res.Verdict = th.verdict
	}
	if p.how != "" && p.how != "ok" && p.how != "noeffect" && !(w.hidden[p.call.Entry] && (p.how == "unknown" || p.how == "cancelled" && p.call.Entry != Monitor)) {
		w.printf("done %s %s: %s", p.call.Resource, p.call.Entry, p.how)
	}
	if ok && (p.call.Entry == Monitor || p.call.Entry == Clean) {
		th.byAdmin = false
	}
	switch {
	case p.call.Entry == Monitor && ok:
		th.told, th.gone = true, res.State == offline
	case p.call.Entry == Clean && (ok || p.how == "noeffect"):
		th.told, th.gone = true, true // whether clean tells the truth is its own business
	case p.call.Entry == Online:
		th.told, th.gone = true, false
	}
	w.r.Done(w.now, w.wall(), Done{Token: p.call.Token, Result: res})
	w.act()
}

// advance lets time pass until at, event by event.
func (w *world) advance(d time.Duration) {
	end := w.now + d
	for steps := 0; ; steps++ {
		if steps > 2_000_000 {
			w.t.Fatalf("%s: no end of events", w.now)
		}
		sort.SliceStable(w.pending, func(i, j int) bool {
			a, b := w.pending[i], w.pending[j]
			return a.at < b.at || a.at == b.at && a.seq < b.seq
		})
		next := end
		if w.wake != 0 {
			next = min(next, max(w.wake, w.now))
		}
		if len(w.pending) > 0 {
			next = min(next, w.pending[0].at)
		}
		w.now = max(w.now, next)
		switch {
		case len(w.pending) > 0 && w.pending[0].at <= w.now:
			p := w.pending[0]
			w.pending = w.pending[1:]
			w.complete(p)
		case w.wake != 0 && w.wake <= w.now:
			before := w.wake
			w.r.Tick(w.now)
			w.act()
			if w.wake == before && len(w.pending) == 0 {
				w.t.Fatalf("%s: Wake stays in the past", w.now)
			}
		case w.now >= end:
			return
		}
	}
}
