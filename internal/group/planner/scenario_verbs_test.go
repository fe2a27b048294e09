package planner

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
	"github.com/holdfast-ha/holdfast/internal/protoyaml"
)

// setFields sets the fields of m that arguments name, as YAML has them:
// failOverPolicy=load, load=(cpu:30,memory:5), disabledNodes=(n1,n2).
func setFields(t *testing.T, d *datadriven.TestData, m proto.Message, args []datadriven.CmdArg) {
	for _, a := range args {
		f := m.ProtoReflect().Descriptor().Fields().ByJSONName(a.Key)
		if f == nil || len(a.Vals) == 0 {
			continue
		}
		setField(t, d, m, f, a.Vals)
	}
}

func setField(t *testing.T, d *datadriven.TestData, m proto.Message, f protoreflect.FieldDescriptor, vals []string) {
	text := strings.Join(vals, ", ")
	switch {
	case f.IsMap():
		text = "{" + strings.ReplaceAll(text, ":", ": ") + "}"
	case f.IsList():
		text = "[" + text + "]"
	}
	var dec protoyaml.Decoder
	for _, doc := range dec.Split("", []byte(f.JSONName()+": "+text)) {
		one := m.ProtoReflect().New()
		dec.Decode(doc, one.Interface(), protoyaml.Path{})
		m.ProtoReflect().Set(f, one.Get(f))
	}
	if faults := dec.Faults(); len(faults) > 0 {
		d.Fatalf(t, "%s: %v", f.JSONName(), faults[0])
	}
}

// setResource reads a word of a resource's line: autoStart=false, atleast=2:a,b.
func setResource(t *testing.T, d *datadriven.TestData, r *v1.Resource, word string) bool {
	key, val, _ := strings.Cut(word, "=")
	if key == "atleast" {
		var n uint32
		count, of, _ := strings.Cut(val, ":")
		if _, err := fmt.Sscan(count, &n); err != nil {
			d.Fatalf(t, "%v", err)
		}
		r.RequiresAtLeast = append(r.RequiresAtLeast, &v1.AtLeast{Count: n, Of: strings.Split(of, ",")})
		return true
	}
	f := r.ProtoReflect().Descriptor().Fields().ByJSONName(key)
	if f == nil {
		return false
	}
	setField(t, d, r, f, strings.Split(strings.Trim(val, "()"), ","))
	return true
}

// more are the verbs about what groups and nodes are told beside operations.
func (b *bench) more(t *testing.T, d *datadriven.TestData, word func(int) string) bool {
	length := func(s string) int64 {
		v, err := time.ParseDuration(s)
		if err != nil {
			d.Fatalf(t, "%v", err)
		}
		return v.Milliseconds()
	}
	switch d.Cmd {
	case "node":
		i := slices.IndexFunc(b.cfg.Nodes, func(n *v1.Node) bool { return n.Name == word(0) })
		setFields(t, d, b.cfg.Nodes[i], d.CmdArgs)
		if b.s != nil {
			setFields(t, d, b.s.Nodes[word(0)], d.CmdArgs)
			b.s.PlanRevision++
		}
	case "clock":
		b.env.ClockMs = max(b.env.ClockMs, b.s.GetClockMs()) + length(word(0))
	case "wake":
		if _, wake := Plan(b.s, b.env); wake > 0 {
			fmt.Fprintf(&b.out, "in %v\n", wake)
		} else {
			b.out.WriteString("never\n")
		}
	case "trigger":
		b.trigger(word(0), word(1))
	case "triggers":
		for _, r := range b.s.Triggers {
			fmt.Fprintf(&b.out, "%s %s %s\n", strings.Join(state.TriggerArguments(r), " "), r.Program, r.Timeout.AsDuration())
		}
	case "disable", "enable", "autoenable":
		e := &statepb.Enable{Group: word(0), Node: word(1), AutoEnable: d.Cmd == "autoenable"}
		if d.Cmd == "disable" {
			e.Disabled = "an administrator said so"
		}
		b.must(&statepb.Command{Change: &statepb.Command_Enable{Enable: e}})
	case "switching":
		off := map[string]string{"off": "an administrator switched it off"}[word(1)]
		b.must(&statepb.Command{Change: &statepb.Command_SetSwitching{SetSwitching: &statepb.SetSwitching{Group: word(0), Off: off}}})
	case "maintenance":
		b.must(&statepb.Command{Change: &statepb.Command_SetMaintenance{SetMaintenance: &statepb.SetMaintenance{Group: word(0), Node: word(1)}}})
	case "clear-admin-wait":
		b.must(&statepb.Command{Change: &statepb.Command_ClearAdminWait{ClearAdminWait: &statepb.ClearAdminWait{Group: word(0), Node: word(1), Fault: word(2) == "fault"}}})
	case "load":
		load := &statepb.SetLoad{Node: word(0)}
		setFields(t, d, load, d.CmdArgs)
		b.must(&statepb.Command{Change: &statepb.Command_SetLoad{SetLoad: load}})
	case "freeze-for":
		f := &statepb.SetFrozen{Group: word(0), Frozen: true, Temporary: &statepb.Freeze{UntilClockMs: max(b.env.ClockMs, b.s.GetClockMs()) + length(word(1))}}
		if b.s.Nodes[word(0)] != nil {
			f.Group, f.Node = "", word(0)
		}
		b.must(&statepb.Command{Change: &statepb.Command_SetFrozen{SetFrozen: f}})
	case "evacuate":
		b.operate(&v1.Operation{Kind: v1.OperationKind_OPERATION_KIND_NODE_EVACUATE, Node: word(0)})
	case "detach":
		b.operate(&v1.Operation{Kind: v1.OperationKind_OPERATION_KIND_NODE_STOP, Node: word(0), Detach: true})
	case "forecast":
		for _, n := range Forecast(b.s, b.env, word(0)).GetNodes() {
			fmt.Fprintf(&b.out, "%d %s: %s%s\n", n.Rank, n.Node, n.Measure, strings.TrimSuffix(": "+n.Rejected, ": "))
		}
	default:
		return false
	}
	return true
}

// trigger ends the oldest run that is waited for.
func (b *bench) trigger(how, message string) {
	for _, r := range b.s.Triggers {
		if r.Blocking && !r.Ended {
			status := map[string]int32{"fails": 1}[how]
			b.must(&statepb.Command{Change: &statepb.Command_TriggerDone{TriggerDone: &statepb.TriggerDone{Number: r.Number, Node: r.Node, RaftId: r.RaftId, ExitStatus: status, Message: message}}})
			return
		}
	}
	b.out.WriteString("nothing is waited for\n")
}

// facts of a status beside its state, in a report: verdict=RESET, adminwait=ONLINE_HUNG, intentional.
func statusFacts(t *testing.T, d *datadriven.TestData, st *v1.ResourceStatus) {
	if v := vals(d, "verdict"); v != nil && st.State == v1.ResourceState_RESOURCE_STATE_FAULTED {
		n, ok := v1.Verdict_value["VERDICT_"+v[0]]
		if !ok {
			d.Fatalf(t, "no verdict %s", v[0])
		}
		st.Verdict = v1.Verdict(n)
	}
	if v := vals(d, "adminwait"); v != nil {
		n, ok := v1.AdminWait_value["ADMIN_WAIT_"+v[0]]
		if !ok {
			d.Fatalf(t, "no reason %s", v[0])
		}
		st.AdminWait = v1.AdminWait(n)
	}
	st.Intentional = d.HasArg("intentional") && st.State == v1.ResourceState_RESOURCE_STATE_OFFLINE
}

// printMore of a plan: all but orders, decisions, notebooks, events and operations.
func (b *bench) printMore(p *statepb.Plan) {
	for _, c := range p.Places {
		on := b.s.GroupStatus[c.Group].Nodes[c.Node]
		if c.Disabled != on.GetDisabled() {
			fmt.Fprintf(&b.out, "disabled %s on %s: %s\n", c.Group, c.Node, c.Disabled)
		}
		if b.places && c.AutoDisabled != on.GetAutoDisabled() {
			fmt.Fprintf(&b.out, "auto-disabled %s on %s: %s\n", c.Group, c.Node, c.AutoDisabled)
		}
	}
	for _, f := range p.Flags {
		if f.SwitchingOff != b.s.GroupStatus[f.Group].GetSwitchingOff() {
			fmt.Fprintf(&b.out, "switching of %s off: %s\n", f.Group, f.SwitchingOff)
		}
		if f.Unfreeze {
			fmt.Fprintf(&b.out, "the freeze of %s has ended\n", f.Group)
		}
	}
	for _, n := range p.NodesUnfrozen {
		fmt.Fprintf(&b.out, "the freeze of %s has ended\n", n)
	}
	for _, n := range state.SortedKeys(p.Resets) {
		fmt.Fprintf(&b.out, "reset %s: %s\n", n, p.Resets[n])
	}
	for _, c := range p.Clears {
		fmt.Fprintf(&b.out, "clear %s %s\n", c.Group, c.Node)
	}
	for _, l := range p.Loads {
		fmt.Fprintf(&b.out, "load of %s: since %d, warned %v\n", l.Node, l.SinceMs, l.Warned)
	}
	for _, r := range p.Triggers {
		wait := ""
		if r.Blocking {
			wait = fmt.Sprintf(", waited for up to %v", r.Timeout.AsDuration())
		}
		fmt.Fprintf(&b.out, "trigger %s on %s%s\n", strings.Join(state.TriggerArguments(r), " "), r.Node, wait)
	}
}
