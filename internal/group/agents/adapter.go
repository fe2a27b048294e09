package agents

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/group/agent"
)

// leftoverGrace is what processes of a service get between SIGTERM and the kill that its agent has stopped and forgotten.
const leftoverGrace = 2 * time.Second

// adapter is what agents that are programs have in common: a resource, and the call that is carried out.
type adapter struct {
	place
	call agent.Call
	env  []string
}

// adapted is what is remembered of a resource of such an agent between calls.
type adapted struct {
	// online: it was seen online, or brought online, and nothing has said otherwise since.
	online bool
	// stopping: offline was called. What is left in its control group when the monitor says offline is ended then.
	stopping bool
	// informed: info has been called since it came online.
	informed bool
	// address that it brings up, with its full length: guard can take it down without the agent.
	address string
}

func (a adapter) recall() adapted {
	a.h.mu.Lock()
	defer a.h.mu.Unlock()
	return a.h.adapted[a.key()]
}

func (a adapter) remember(change func(*adapted)) {
	a.h.mu.Lock()
	defer a.h.mu.Unlock()
	s := a.h.adapted[a.key()]
	change(&s)
	if s == (adapted{}) {
		delete(a.h.adapted, a.key())
	} else {
		a.h.adapted[a.key()] = s
	}
}

// offlineNow forgets what was true while it was online.
func (a adapter) offlineNow() {
	a.remember(func(s *adapted) { *s = adapted{address: s.address} })
}

func (a adapter) forgetAll() { a.remember(func(s *adapted) { *s = adapted{} }) }

// addressOf is the address that a resource of an agent that is a program brings up; empty: none that is known.
func (h *Host) addressOf(k key) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.adapted[k].address
}

// launch of a program of the agent.
func (a adapter) launch(argv ...string) launch {
	return launch{argv: argv, env: a.env, nice: int(a.call.Definition.GetScriptPriority())}
}

// begin runs the program that brings the resource online. What it leaves running is the service; what it leaves when it
// fails is for clean.
func (a adapter) begin(ctx context.Context, l launch, success func(outcome) bool) (outcome, error) {
	l.service, l.keep = true, true
	a.h.watcher.set(a.key(), nil)
	if err := a.save(record{Starting: true}); err != nil {
		return outcome{status: -1}, err
	}
	o, err := a.run(ctx, l)
	if err != nil || !success(o) {
		if ferr := a.forgetRecord(); err == nil && ferr != nil {
			err = ferr
		}
		return o, err
	}
	r := record{Forked: true}
	if a.h.cgroup == "" {
		members, err := a.members()
		if err != nil {
			return o, err
		}
		if len(members) > 0 {
			r.Session = members[0].session
		}
	}
	return o, a.save(r)
}

// runCall runs another program of the agent than the one that starts, and puts what it says into the log of the service.
func (a adapter) runCall(ctx context.Context, what string, l launch) (outcome, error) {
	o, err := a.run(ctx, l)
	if o.output != "" {
		a.note(what, o.output)
	}
	return o, err
}

// note appends to the log of the service.
func (p place) note(what, text string) {
	f, err := p.openLog()
	if err != nil {
		return
	}
	defer f.Close()
	_, _ = fmt.Fprintf(f, "%s: %s\n", what, strings.ReplaceAll(text, "\n", "\n\t"))
}

// watch has the end of a process that the service stands on told, if that is wanted, and says whether it will be. It never
// makes polling needless: there may be more to the service than processes.
func (a adapter) watch(online bool) (partly bool) {
	switch {
	case !online || !a.call.Watch:
		a.h.watcher.set(a.key(), nil)
		return false
	case a.h.watcher.holds(a.key()):
		return true
	case a.h.cgroup != "" && !populated(a.serviceDir()):
		a.h.watcher.set(a.key(), nil)
		return false
	}
	members, err := a.members()
	return err == nil && a.h.watcher.set(a.key(), roots(members))
}

// holds: all processes that are watched for k are still there, and there are some.
func (w *watcher) holds(k key) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.byKey[k] {
		if w.byProc[p] == nil {
			return false
		}
	}
	return len(w.byKey[k]) > 0
}

// half gives a part of a call half of the time that is left.
func half(ctx context.Context) (context.Context, context.CancelFunc) {
	end, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, time.Until(end)/2)
}

// lastLines is the end of a program's output, short enough for a message.
func lastLines(output string) string {
	const most = 400
	output = strings.TrimSpace(output)
	if len(output) <= most {
		return output
	}
	output = output[len(output)-most:]
	if _, rest, ok := strings.Cut(output, "\n"); ok && rest != "" {
		output = rest
	}
	return "… " + strings.ToValidUTF8(output, "")
}

// missing: there is no such file, which for an optional program is no fault.
func missing(name string) bool {
	_, err := os.Stat(name)
	return os.IsNotExist(err)
}

// CheckType finds what is wrong with the agent of a type as far as this machine can tell.
func CheckType(t *v1.ResourceType) []error {
	switch {
	case t.GetScript() != nil:
		return checkScripts(t)
	case t.GetOcf() != nil:
		return checkOCF(t)
	}
	return nil
}
