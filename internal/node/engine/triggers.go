package engine

import (
	"encoding/json"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// What the state has this node do beside groups: trigger programs, and telling
// agents of signals.

// triggersAtOnce run on a node. Of the others those go first for which the planner waits.
const triggersAtOnce = 8

// A TriggerCall asks for the program of a trigger; each is answered with one [TriggerEnded].
type TriggerCall struct {
	Number          uint64
	Trigger         string
	Group, Resource string
	Program         string
	Arguments       []string
	// Input is what the program reads (docs/triggers.md).
	Input   []byte
	Timeout time.Duration
}

// defaultTriggerTimeout of a run that has none.
const defaultTriggerTimeout = 5 * time.Minute

type triggersInfo struct {
	// Under way here; true: it was cancelled.
	runs map[uint64]bool
	// Ended, which the state is being told.
	told map[uint64]bool
	// Signals of this node as the driver was told them; nil: never.
	signals map[string]*statepb.SignalValue
}

func (t *triggersInfo) init() { t.runs, t.told = map[uint64]bool{}, map[uint64]bool{} }

// triggersOn begins what is due, and ends what nobody waits for any more. The right
// to act is asked for as for groups: a node that may be about to be taken for lost starts nothing,
// and what it has started ends with its lease. If it keeps its place it begins it again.
func (e *Engine) triggersOn() {
	t := &e.triggers
	if len(t.runs)+len(t.told)+len(e.s.GetTriggers()) == 0 {
		return
	}
	may := e.mayAct()
	mine := map[uint64]*statepb.TriggerRun{}
	for _, r := range e.s.GetTriggers() {
		if r.GetNode() == e.node && r.GetRaftId() == e.RaftID() && !r.GetEnded() {
			mine[r.GetNumber()] = r
		}
	}
	for _, n := range sortedNumbers(t.runs) {
		if !t.runs[n] && (mine[n] == nil || !may) {
			t.runs[n] = true
			e.out.CancelTriggers = append(e.out.CancelTriggers, n)
		}
	}
	for n := range t.told {
		if mine[n] == nil {
			delete(t.told, n)
		}
	}
	if !may {
		return
	}
	for _, blocking := range []bool{true, false} {
		for _, n := range sortedNumbers(mine) {
			r := mine[n]
			if _, running := t.runs[n]; running || t.told[n] || r.GetBlocking() != blocking || len(t.runs) >= triggersAtOnce {
				continue
			}
			t.runs[n] = false
			e.out.Triggers = append(e.out.Triggers, e.triggerCall(r))
		}
	}
}

func (e *Engine) triggerCall(r *statepb.TriggerRun) TriggerCall {
	c := TriggerCall{
		Number: r.GetNumber(), Trigger: r.GetTrigger(), Group: r.GetGroup(), Resource: r.GetResource(),
		Program: r.GetProgram(), Arguments: state.TriggerArguments(r), Timeout: r.GetTimeout().AsDuration(),
	}
	if c.Timeout <= 0 {
		c.Timeout = defaultTriggerTimeout
	}
	if c.Program == "" {
		c.Program = state.TriggerProgram(e.s, e.s.GetGroups()[r.GetGroup()], r.GetTrigger())
	}
	input, err := json.Marshal(struct {
		Schema   string            `json:"schema"`
		Number   uint64            `json:"number"`
		Trigger  string            `json:"trigger"`
		Cluster  string            `json:"cluster"`
		Node     string            `json:"node"`
		Group    string            `json:"group,omitempty"`
		Resource string            `json:"resource,omitempty"`
		Facts    map[string]string `json:"facts,omitempty"`
	}{"holdfast.trigger/1", r.GetNumber(), r.GetTrigger(), e.s.GetCluster().GetName(), e.node, r.GetGroup(), r.GetResource(), r.GetFacts()})
	if err != nil {
		e.logf("engine: trigger %d: %v", r.GetNumber(), err) // texts always marshal
	}
	c.Input = append(input, '\n')
	return c
}

// triggerEnded: a program has. One that was cancelled and is still wanted is begun again when this node may act again.
func (e *Engine) triggerEnded(in TriggerEnded) {
	t := &e.triggers
	cancelled, known := t.runs[in.Number]
	delete(t.runs, in.Number)
	m := e.self()
	if !known || cancelled || m == nil {
		return
	}
	t.told[in.Number] = true
	e.submitOnce("trigger "+itoa(in.Number), &statepb.Command{Change: &statepb.Command_TriggerDone{TriggerDone: &statepb.TriggerDone{
		Number: in.Number, Node: e.node, RaftId: m.GetRaftId(), ExitStatus: in.Status, Message: in.Message,
	}}})
}

// signalsOn tells the driver of this node's signals, if they have changed.
func (e *Engine) signalsOn() {
	now := state.SignalsOf(e.s, e.node)
	t := &e.triggers
	if t.signals != nil && len(now) == len(t.signals) {
		same := true
		for name, v := range now {
			same = same && proto.Equal(v, t.signals[name])
		}
		if same {
			return
		}
	}
	t.signals = now // values are replaced as a whole, never changed
	e.out.Signals = now
}

func sortedNumbers[V any](m map[uint64]V) []uint64 {
	numbers := make([]uint64, 0, len(m))
	for n := range m {
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	return numbers
}
