package agents

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-ha/holdfast/internal/group/agent"
)

// stuckTime is how long after its time limit a call that does not return is given up.
const stuckTime = 2 * killTime

// Run carries out a call once the pool lets it, and calls done once, from another goroutine.
func (h *Host) Run(c agent.Call, done func(agent.Result)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.closed:
		go done(agent.Result{Err: "the engine is stopping"})
		return
	case c.Entry == agent.Monitor && h.stuck[key{c.Group, c.Resource}]:
		// As slow as a call that hangs, or the runtime would ask again at once.
		time.AfterFunc(c.Timeout, func() {
			done(agent.Result{TimedOut: true, Err: "an earlier call still hangs in the kernel"})
		})
		return
	}
	h.pool.add(&ticket{call: c, done: done})
	h.dispatch()
}

// dispatch begins what may begin. The caller holds mu.
func (h *Host) dispatch() {
	for t := h.pool.next(); t != nil; t = h.pool.next() {
		ctx, cancel := context.WithCancel(h.ctx)
		h.calls[t.call.Token] = cancel
		h.running.Add(1)
		go h.serve(ctx, t)
	}
}

func (h *Host) serve(ctx context.Context, t *ticket) {
	defer h.running.Done()
	patience := time.AfterFunc(h.pool.patience, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.pool.leave(t)
		h.dispatch()
	})
	r := h.carryOut(ctx, t.call)
	patience.Stop()
	h.mu.Lock()
	h.calls[t.call.Token]()
	delete(h.calls, t.call.Token)
	h.pool.end(t)
	if !h.closed {
		h.dispatch()
	}
	h.mu.Unlock()
	t.done(r)
}

// refuse answers calls that have not begun and never will.
func (h *Host) refuse(calls []*ticket, why string) {
	for _, t := range calls {
		go t.done(agent.Result{Err: why})
	}
}

// agentOf is the agent that carries out a call.
func (h *Host) agentOf(c agent.Call) *kind {
	switch {
	case c.Definition.GetScript() != nil:
		return &kind{typ: c.Definition, run: runScript}
	case c.Definition.GetOcf() != nil:
		return &kind{typ: c.Definition, run: runOCF}
	case c.Definition.GetSystemd() != nil:
		return &kind{typ: c.Definition, check: systemdUnitKind.check, run: runSystemdUnit}
	}
	return h.kindOf(c.Type)
}

// carryOut is H5: it returns even if the agent does not.
func (h *Host) carryOut(ctx context.Context, c agent.Call) agent.Result {
	kind := h.agentOf(c)
	if kind == nil {
		return agent.Result{Err: fmt.Sprintf("there is no agent for type %q", c.Type)}
	}
	if c.Entry == agent.Monitor || c.Entry == agent.Online {
		if errs := kind.faults(c.Attributes); len(errs) > 0 {
			return failed(errors.Join(errs...))
		}
	}
	timed, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	result := make(chan agent.Result, 1)
	k := key{c.Group, c.Resource}
	if c.Entry == agent.Close {
		defer h.unwatch(k)
	}
	go func() {
		r := kind.run(timed, h, c)
		result <- r
		h.mu.Lock()
		delete(h.stuck, k)
		h.mu.Unlock()
	}()
	giveUp := time.NewTimer(c.Timeout + h.giveUpAfter)
	defer giveUp.Stop()
	select {
	case r := <-result:
		switch {
		case r.Err == "":
		case errors.Is(timed.Err(), context.DeadlineExceeded):
			r.TimedOut = true
			if r.Message == "" && r.Err != timed.Err().Error() {
				r.Message = r.Err
			}
			h.log.Warn("a call did not end in time", "group", c.Group, "resource", c.Resource, "entry", c.Entry.String(),
				"limit", c.Timeout, "detail", r.Message)
		case timed.Err() != nil:
			r.Err = "cancelled"
		}
		return r
	case <-giveUp.C:
		h.mu.Lock()
		h.stuck[k] = true
		h.mu.Unlock()
		h.log.Error("a call hangs in the kernel", "group", c.Group, "resource", c.Resource, "entry", c.Entry.String())
		return agent.Result{TimedOut: true, Err: "the call hangs in the kernel"}
	}
}

// Cancel ends a call early, with everything that it has started. It still gets its answer.
func (h *Host) Cancel(token uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if t := h.pool.withdraw(token); t != nil {
		h.refuse([]*ticket{t}, "cancelled before it began")
		return
	}
	if cancel := h.calls[token]; cancel != nil {
		cancel()
	}
}
