package agent

import (
	"fmt"
	"maps"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

// TestScripts runs the stories of testdata/scripts. Verbs:
//
//	type NAME [operations=none|on-only] [intentional] [threads=N] [actions=a,b] [registered=Attr,Attr] [nopropagation]
//	                                      defines a type; on-off, on-only and none are there
//	group NAME [frozen] [managefaults=none] [nopropagation]
//	                                      defines or changes a group; the input has one resource per line:
//	  RESOURCE [type=NAME] [requires=a,b] [atleast=N:a,b,c] [disabled] [monitoronly] [noautostart] [managefaults=none|all]
//	           [restart=N] [retry=N] [tolerance=N] [onlinewait=N] [offlinewait=N] [cleanretry=N] [hangs=N] [alert=N] [conf=DUR]
//	           [monitor=DUR] [offlinemonitor=DUR] [info=DUR] [imfmode=N] [imffreq=N] [imfretry=N] [deep=N]
//	           [opentimeout=DUR] [actiontimeout=DUR] [Attr=value] [Attr@NODE=value]
//	remove group=NAME
//	behave [GROUP/]RESOURCE [ENTRY=ok|err|hang|noeffect|unknown|broken] [shows=DUR] [takes=DUR (online)] [ENTRYtakes=DUR]
//	       [watched] [unwatched] [partly] [confidence=N] [intentional] [plain] [verdict=NAME|none] [info=key:value,key:value]
//	order GROUP intent=N want=online|offline|nothing [RESOURCE=online|offline] [takeover]
//	lease held|lost
//	incarnation N
//	start RESOURCE, die RESOURCE [what=TEXT]   it runs, or stops running, by itself (what: and a notice tells)
//	clear, probe GROUP [RESOURCE]; flush GROUP [force]; stopped REASON
//	clearadminwait GROUP [RESOURCE] [fault]
//	act TOKEN RESOURCE ACTION [ARGUMENT ...]
//	notify RESOURCE
//	forget GROUP [RESOURCE]               the cluster forgets what was reported of it
//	retell                                nothing is on its way
//	advance DUR
//	restart                               the engine is restarted: a new runtime with what was committed
//	quiet on|off                          leave monitor, open, close and info out (on at the beginning)
//	show ENTRY ...                        these are not left out
//
// What happened is printed with the time at which it did.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/scripts", func(t *testing.T, path string) {
		w := newWorld(t)
		w.hide(true)
		w.desired = Desired{Incarnation: 1, MayAct: true}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			w.trace.Reset()
			w.do(t, d)
			return w.trace.String()
		})
	})
}

func (w *world) do(t *testing.T, d *datadriven.TestData) {
	arg := func(i int) string {
		if i >= len(d.CmdArgs) {
			return ""
		}
		return d.CmdArgs[i].Key
	}
	switch d.Cmd {
	case "group":
		w.defineGroup(t, d)
		w.desire()
	case "remove":
		name := d.CmdArgs[0].Vals[0]
		for i, g := range w.desired.Groups {
			if g.Config.Name == name {
				w.desired.Groups = append(w.desired.Groups[:i:i], w.desired.Groups[i+1:]...)
			}
		}
		w.desire()
	case "behave":
		group, resource, found := strings.Cut(arg(0), "/")
		if !found {
			group, resource = w.groupOf(arg(0)), arg(0)
		}
		w.behave(t, d, w.thing(group, resource))
	case "order":
		for i := range w.desired.Groups {
			g := &w.desired.Groups[i]
			if g.Config.Name != arg(0) {
				continue
			}
			g.ResourceWants, g.Takeover = nil, false
			for _, a := range d.CmdArgs[1:] {
				switch a.Key {
				case "intent":
					n, err := strconv.ParseUint(a.Vals[0], 10, 64)
					if err != nil {
						d.Fatalf(t, "%v", err)
					}
					g.Intent = n
				case "want":
					g.Want = want(a.Vals[0])
				case "takeover":
					g.Takeover = true
				default:
					if g.ResourceWants == nil {
						g.ResourceWants = map[string]v1.Want{}
					}
					g.ResourceWants[a.Key] = want(a.Vals[0])
				}
			}
		}
		w.desire()
	case "lease":
		w.desired.MayAct = arg(0) == "held"
		w.desire()
	case "incarnation":
		n, err := strconv.ParseUint(arg(0), 10, 64)
		if err != nil {
			d.Fatalf(t, "%v", err)
		}
		w.desired.Incarnation = n
		w.committed = map[string]map[string]*v1.ResourceStatus{}
		w.desire()
	case "restart":
		w.r, w.pending, w.wake = New("n1"), nil, 0
		for _, th := range w.things {
			th.busy, th.opened = 0, false
		}
		w.desire()
	case "start":
		w.thing(w.groupOf(arg(0)), arg(0)).running = true
	case "die":
		w.thing(w.groupOf(arg(0)), arg(0)).running = false
		if len(d.CmdArgs) > 1 {
			w.r.Notify(w.now, Notice{Group: w.groupOf(arg(0)), Resource: arg(0), What: strings.ReplaceAll(d.CmdArgs[1].Vals[0], "_", " ")})
			w.act()
		}
	case "notify":
		w.r.Notify(w.now, Notice{Group: w.groupOf(arg(0)), Resource: arg(0)})
		w.act()
	case "clear":
		w.r.Clear(w.now, arg(0), arg(1))
		w.act()
	case "probe":
		w.r.Probe(w.now, arg(0), arg(1))
		w.act()
	case "flush":
		w.r.Flush(w.now, arg(0), arg(1) == "force")
		w.act()
	case "clearadminwait":
		resource := arg(1)
		if resource == "fault" {
			resource = ""
		}
		w.clearAdminWait(arg(0), resource, d.HasArg("fault"))
	case "act":
		token, err := strconv.ParseUint(arg(0), 10, 64)
		if err != nil {
			d.Fatalf(t, "%v", err)
		}
		var arguments []string
		for _, a := range d.CmdArgs[3:] {
			arguments = append(arguments, a.Key)
		}
		w.r.Act(w.now, token, w.groupOf(arg(1)), arg(1), arg(2), arguments)
		w.act()
	case "type":
		w.defineType(t, d)
	case "stopped":
		for _, th := range w.things {
			if th.how[Monitor] != "persistent" {
				th.running = false
			}
		}
		w.stopped(strings.ReplaceAll(arg(0), "_", " "))
	case "forget":
		if arg(1) != "" {
			delete(w.committed[arg(0)], arg(1))
		} else {
			delete(w.committed, arg(0))
			delete(w.intents, arg(0))
		}
	case "retell":
		w.desire()
		w.r.Retell()
		w.act()
	case "advance":
		w.advance(duration(t, arg(0)))
	case "quiet":
		w.hide(arg(0) == "on")
	case "show":
		for _, a := range d.CmdArgs {
			w.hidden[entryPoint(t, a.Key)] = false
		}
	default:
		d.Fatalf(t, "unknown verb %s", d.Cmd)
	}
}

// stopped tells that guard has stopped everything, which ends waits for an administrator, too.
func (w *world) stopped(reason string) {
	for _, th := range w.things {
		th.freed = true
	}
	w.r.Stopped(w.now, reason)
	w.act()
}

// clearAdminWait ends waits for an administrator, and remembers whose word counts then.
func (w *world) clearAdminWait(group, resource string, fault bool) {
	for name, s := range w.committed[group] {
		if s.GetAdminWait() != 0 && (resource == "" || resource == name) {
			w.thing(group, name).byAdmin = fault
			s.AdminWait = 0 // by the command
		}
	}
	w.r.ClearAdminWait(w.now, group, resource, fault)
	w.act()
}

func entryPoint(t *testing.T, name string) EntryPoint {
	for e := Monitor; e <= AttrChanged; e++ {
		if e.String() == name {
			return e
		}
	}
	t.Fatalf("there is no entry point %q", name)
	return 0
}

func (w *world) behave(t *testing.T, d *datadriven.TestData, th *thing) {
	for _, a := range d.CmdArgs[1:] {
		v := ""
		if len(a.Vals) > 0 {
			v = a.Vals[0]
		}
		switch a.Key {
		case "shows":
			th.shows = duration(t, v)
		case "takes":
			th.takes[Online] = duration(t, v)
		case "watched", "unwatched":
			th.watched = a.Key == "watched"
		case "partly":
			th.partly = true
		case "intentional", "plain":
			th.intentional = a.Key == "intentional"
		case "confidence":
			n, err := strconv.Atoi(v)
			if err != nil {
				d.Fatalf(t, "%v", err)
			}
			th.confidence = n
		case "verdict":
			th.verdict = v1.Verdict(v1.Verdict_value["VERDICT_"+strings.ToUpper(v)])
		case "info":
			if !strings.Contains(v, ":") {
				th.how[Info] = v
				continue
			}
			th.info, th.how[Info] = map[string]string{}, "ok"
			for _, kv := range strings.Split(v, ",") {
				k, v, _ := strings.Cut(kv, ":")
				th.info[k] = v
			}
		default:
			if name, ok := strings.CutSuffix(a.Key, "takes"); ok {
				th.takes[entryPoint(t, name)] = duration(t, v)
			} else {
				th.how[entryPoint(t, a.Key)] = v
			}
		}
	}
}

// defineType makes a type of resources. Groups that are defined later may have it.
func (w *world) defineType(t *testing.T, d *datadriven.TestData) {
	typ := &v1.ResourceType{Name: d.CmdArgs[0].Key, Attributes: []*v1.Attribute{{Name: "Greeting", Default: "hello"}}}
	for _, a := range d.CmdArgs[1:] {
		switch a.Key {
		case "operations":
			typ.Operations = operations[a.Vals[0]]
		case "intentional":
			typ.IntentionalOffline = true
		case "threads":
			n, err := strconv.ParseUint(a.Vals[0], 10, 32)
			if err != nil {
				d.Fatalf(t, "%v", err)
			}
			typ.NumThreads = proto.Uint32(uint32(n))
		case "actions":
			typ.SupportedActions = strings.Split(a.Vals[0], ",")
		case "registered":
			for _, name := range strings.Split(a.Vals[0], ",") {
				typ.Attributes = append(typ.Attributes, &v1.Attribute{Name: name, Registered: true})
			}
		case "nopropagation":
			typ.FaultPropagation = proto.Bool(false)
		default:
			d.Fatalf(t, "unknown argument %s", a.Key)
		}
	}
	w.types[typ.Name] = typ
}

func duration(t *testing.T, s string) time.Duration {
	d, err := time.ParseDuration(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func want(s string) v1.Want {
	switch s {
	case "online":
		return v1.Want_WANT_ONLINE
	case "offline":
		return v1.Want_WANT_OFFLINE
	}
	return v1.Want_WANT_NOTHING
}

// groupOf finds the group of a resource; scripts use each resource name once.
func (w *world) groupOf(resource string) string {
	for _, g := range w.desired.Groups {
		for _, r := range g.Config.Resources {
			if r.Name == resource {
				return g.Config.Name
			}
		}
	}
	return ""
}

var operations = map[string]v1.Operations{
	"none": v1.Operations_OPERATIONS_NONE, "on-only": v1.Operations_OPERATIONS_ON_ONLY, "on-off": v1.Operations_OPERATIONS_ON_OFF,
}

func (w *world) defineGroup(t *testing.T, d *datadriven.TestData) {
	g := Group{Config: &v1.Group{Name: d.CmdArgs[0].Key}, Types: maps.Clone(w.types)}
	for _, a := range d.CmdArgs[1:] {
		switch a.Key {
		case "frozen":
			g.Config.Frozen = true
		case "managefaults":
			g.Config.ManageFaults = v1.ManageFaults_MANAGE_FAULTS_NONE
		case "nopropagation":
			g.Config.FaultPropagation = proto.Bool(false)
		default:
			d.Fatalf(t, "unknown argument %s", a.Key)
		}
	}
	at := -1
	for i, old := range w.desired.Groups {
		if old.Config.Name == g.Config.Name {
			at = i
			g.Intent, g.Want, g.ResourceWants, g.Takeover = old.Intent, old.Want, old.ResourceWants, old.Takeover
		}
	}
	for _, line := range strings.Split(d.Input, "\n") {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		r := &v1.Resource{Name: fields[0], Type: "on-off", Limits: &v1.Limits{}, Attributes: map[string]string{}}
		for _, f := range fields[1:] {
			k, v, _ := strings.Cut(f, "=")
			if err := setOption(r, k, v); err != nil {
				d.Fatalf(t, "%s: %v", f, err)
			}
		}
		g.Config.Resources = append(g.Config.Resources, r)
	}
	if at >= 0 {
		w.desired.Groups[at] = g
	} else {
		w.desired.Groups = append(w.desired.Groups, g)
	}
}

func setOption(r *v1.Resource, k, v string) error {
	count := func(p **uint32) error {
		n, err := strconv.ParseUint(v, 10, 32)
		*p = proto.Uint32(uint32(n))
		return err
	}
	span := func(p **durationpb.Duration) error {
		d, err := time.ParseDuration(v)
		*p = durationpb.New(d)
		return err
	}
	switch k {
	case "requires":
		r.Requires = strings.Split(v, ",")
	case "atleast":
		n, of, _ := strings.Cut(v, ":")
		count, err := strconv.ParseUint(n, 10, 32)
		r.RequiresAtLeast = append(r.RequiresAtLeast, &v1.AtLeast{Of: strings.Split(of, ","), Count: uint32(count)})
		return err
	case "operations", "type":
		r.Type = v
	case "disabled":
		r.Enabled = proto.Bool(false)
	case "monitoronly":
		r.MonitorOnly = true
	case "noautostart":
		r.AutoStart = proto.Bool(false)
	case "managefaults":
		r.ManageFaults = v1.ManageFaults_MANAGE_FAULTS_ALL
		if v == "none" {
			r.ManageFaults = v1.ManageFaults_MANAGE_FAULTS_NONE
		}
	case "restart":
		return count(&r.Limits.RestartLimit)
	case "retry":
		return count(&r.Limits.OnlineRetryLimit)
	case "tolerance":
		return count(&r.Limits.ToleranceLimit)
	case "onlinewait":
		return count(&r.Limits.OnlineWaitLimit)
	case "offlinewait":
		return count(&r.Limits.OfflineWaitLimit)
	case "cleanretry":
		return count(&r.Limits.CleanRetryLimit)
	case "hangs":
		return count(&r.Limits.FaultOnMonitorTimeouts)
	case "alert":
		return count(&r.Limits.AlertOnMonitorTimeouts)
	case "imfmode":
		return count(&r.Limits.ImfMode)
	case "imffreq":
		return count(&r.Limits.ImfMonitorFreq)
	case "imfretry":
		return count(&r.Limits.ImfRegisterRetryLimit)
	case "deep":
		return count(&r.Limits.LevelTwoMonitorFreq)
	case "monitor":
		return span(&r.Limits.MonitorInterval)
	case "offlinemonitor":
		return span(&r.Limits.OfflineMonitorInterval)
	case "conf":
		return span(&r.Limits.ConfInterval)
	case "info":
		return span(&r.Limits.InfoInterval)
	case "actiontimeout":
		return span(&r.Limits.ActionTimeout)
	case "opentimeout":
		return span(&r.Limits.OpenTimeout)
	default:
		if k == "" || k[0] < 'A' || k[0] > 'Z' {
			return fmt.Errorf("unknown option")
		}
		name, node, local := strings.Cut(k, "@")
		if !local {
			r.Attributes[k] = v
			return nil
		}
		if r.NodeAttributes == nil {
			r.NodeAttributes = map[string]*v1.Values{}
		}
		r.NodeAttributes[node] = &v1.Values{Values: map[string]string{name: v}}
	}
	return nil
}
