package agent

import (
	"fmt"
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
//	group NAME [frozen]                   defines or changes a group; the input has one resource per line:
//	  RESOURCE [requires=a,b] [operations=none|on-only] [restart=N] [retry=N] [tolerance=N] [onlinewait=N]
//	           [offlinewait=N] [cleanretry=N] [monitor=DUR] [offlinemonitor=DUR] [hangs=N] [conf=DUR] [disabled] [Attr=value]
//	remove group=NAME
//	behave [GROUP/]RESOURCE [online|offline|monitor|clean=ok|err|hang|noeffect|unknown|broken] [shows=DUR] [watched] [takes=DUR]
//	order GROUP intent=N want=online|offline|nothing [RESOURCE=online|offline] [takeover]
//	lease held|lost
//	incarnation N
//	start RESOURCE, die RESOURCE [what=TEXT]   it runs, or stops running, by itself (what: and a notice tells)
//	clear, probe GROUP [RESOURCE]; flush GROUP; stopped REASON
//	forget GROUP [RESOURCE]               the cluster forgets what was reported of it
//	retell                                nothing is on its way
//	advance DUR
//	restart                               the engine is restarted: a new runtime with what was committed
//	quiet on|off                          leave monitors out
//
// What happened is printed with the time at which it did.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/scripts", func(t *testing.T, path string) {
		w := newWorld(t)
		w.quiet = true
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
		th := w.thing(group, resource)
		for _, a := range d.CmdArgs[1:] {
			switch a.Key {
			case "online":
				th.how[Online] = a.Vals[0]
			case "offline":
				th.how[Offline] = a.Vals[0]
			case "monitor":
				th.how[Monitor] = a.Vals[0]
			case "clean":
				th.how[Clean] = a.Vals[0]
			case "shows":
				th.shows = duration(t, a.Vals[0])
			case "takes":
				th.takes[Online] = duration(t, a.Vals[0])
			case "watched":
				th.watched = true
			default:
				d.Fatalf(t, "unknown argument %s", a.Key)
			}
		}
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
			th.busy = 0
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
		w.r.Flush(w.now, arg(0))
		w.act()
	case "stopped":
		for _, th := range w.things {
			if th.how[Monitor] != "persistent" {
				th.running = false
			}
		}
		w.r.Stopped(w.now, strings.ReplaceAll(arg(0), "_", " "))
		w.act()
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
		w.quiet = arg(0) == "on"
	default:
		d.Fatalf(t, "unknown verb %s", d.Cmd)
	}
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
	g := Group{Config: &v1.Group{Name: d.CmdArgs[0].Key}, Types: map[string]*v1.ResourceType{}}
	for _, a := range d.CmdArgs[1:] {
		g.Config.Frozen = a.Key == "frozen"
	}
	at := -1
	for i, old := range w.desired.Groups {
		if old.Config.Name == g.Config.Name {
			at = i
			g.Intent, g.Want, g.ResourceWants, g.Takeover = old.Intent, old.Want, old.ResourceWants, old.Takeover
		}
	}
	for name, ops := range operations {
		g.Types[name] = &v1.ResourceType{Name: name, Operations: ops, Attributes: []*v1.Attribute{{Name: "Greeting", Default: "hello"}}}
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
	case "operations":
		r.Type = v
	case "disabled":
		r.Enabled = proto.Bool(false)
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
	case "monitor":
		return span(&r.Limits.MonitorInterval)
	case "offlinemonitor":
		return span(&r.Limits.OfflineMonitorInterval)
	case "conf":
		return span(&r.Limits.ConfInterval)
	default:
		if k == "" || k[0] < 'A' || k[0] > 'Z' {
			return fmt.Errorf("unknown option")
		}
		r.Attributes[k] = v
	}
	return nil
}
