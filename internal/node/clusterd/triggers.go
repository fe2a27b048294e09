//go:build linux

package clusterd

import (
	"context"
	"strconv"

	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
	"github.com/holdfast-ha/holdfast/internal/group/agents"
	"github.com/holdfast-ha/holdfast/internal/node/engine"
)

// runTrigger runs the program of a trigger, and tells the engine how it ended.
func (n *node) runTrigger(t engine.TriggerCall) {
	ctx, cancel := context.WithCancel(context.Background())
	n.triggers[t.Number] = cancel
	n.log.Info("trigger "+t.Trigger+" begins", "trigger", t.Number, "group", t.Group, "resource", t.Resource, "program", t.Program)
	p := agents.Program{
		Name: "trigger-" + strconv.FormatUint(t.Number, 10), Argv: append([]string{t.Program}, t.Arguments...), Input: t.Input, Timeout: t.Timeout,
		Env: []string{"HOLDFAST_TRIGGER=" + t.Trigger, "HOLDFAST_GROUP=" + t.Group, "HOLDFAST_RESOURCE=" + t.Resource},
	}
	n.background(func() {
		select {
		case <-ctx.Done():
		case <-n.done: // the next clusterd begins it again
			cancel()
		}
	})
	n.background(func() {
		r := n.host.RunProgram(ctx, p)
		cancel()
		n.post(func() {
			delete(n.triggers, t.Number)
			n.log.Info("trigger "+t.Trigger+" has ended", "trigger", t.Number, "group", t.Group, "status", r.Status, "message", r.Message)
			n.step(engine.TriggerEnded{Number: t.Number, Status: int32(r.Status), Message: r.Message})
		})
	})
}

func (n *node) cancelTrigger(number uint64) {
	if cancel := n.triggers[number]; cancel != nil {
		cancel()
	}
}

// setSignals tells agents of the signals of this node.
func (n *node) setSignals(signals map[string]*statepb.SignalValue) {
	out := make(map[string]agents.Signal, len(signals))
	for name, v := range signals {
		out[name] = agents.Signal{State: v.GetState(), Value: v.GetValue(), SetMs: v.GetSetMs(), TimeToLive: v.GetTimeToLive().AsDuration()}
	}
	n.host.SetSignals(out)
}
