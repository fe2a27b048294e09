package agents

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// A Program belongs to no resource: the one of a trigger. It runs in a control group
// of its own, and ends with all that it has started.
type Program struct {
	// Name tells it from all others that run.
	Name string
	// Argv is its absolute path and its arguments; no shell looks at them.
	Argv []string
	// Input is what it reads from its standard input.
	Input []byte
	// Env is added to the usual environment of programs, NAME=value.
	Env []string
	// Timeout after which it is killed.
	Timeout time.Duration
}

// ProgramResult is how a program ended.
type ProgramResult struct {
	// Status with which it exited; -1: it could not be run, or was killed, and Message says why.
	Status int
	// Message is the end of what it printed, at most 4 KiB, after why it did not exit by itself.
	Message string
}

// programGroup is the place of programs among those of groups. No group has such a name.
const programGroup = ".programs"

// withInput gives a program a file as its standard input, which nobody else can open any more.
const withInput = `exec 3<"$1" && rm -f -- "$1" && shift && exec "$@" <&3 3<&-`

// RunProgram runs a program to its end, or until ctx or the host ends.
func (h *Host) RunProgram(ctx context.Context, p Program) ProgramResult {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return ProgramResult{Status: -1, Message: "clusterd is ending"}
	}
	h.running.Add(1)
	h.mu.Unlock()
	defer h.running.Done()
	ctx, cancel := context.WithTimeout(ctx, p.Timeout)
	defer cancel()
	defer context.AfterFunc(h.ctx, cancel)()
	o, err := h.runProgram(ctx, p)
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return ProgramResult{Status: -1, Message: said(fmt.Sprintf("it took longer than %v and was killed", p.Timeout), o)}
	case ctx.Err() != nil:
		return ProgramResult{Status: -1, Message: said("it was ended early", o)}
	case err != nil:
		return ProgramResult{Status: -1, Message: err.Error()}
	case o.status < 0:
		return ProgramResult{Status: -1, Message: said("it "+o.how, o)}
	}
	return ProgramResult{Status: o.status, Message: o.output}
}

func said(why string, o outcome) string {
	if o.output == "" {
		return why
	}
	return why + ": " + o.output
}

func (h *Host) runProgram(ctx context.Context, p Program) (outcome, error) {
	program := p.Argv[0]
	switch err := executable(program); {
	case errors.Is(err, os.ErrNotExist):
		return outcome{status: -1}, fmt.Errorf("no program %s", program)
	case err != nil:
		return outcome{status: -1}, err
	}
	at := place{h: h, group: programGroup, resource: p.Name}
	input := filepath.Join(h.runDir, "agents", fileName(p.Name)+".input")
	if err := os.WriteFile(input, p.Input, 0o600); err != nil {
		return outcome{status: -1}, err
	}
	defer os.Remove(input)
	defer at.forgetCall()
	return at.runToEnd(ctx, launch{
		argv: append([]string{"/bin/sh", "-c", withInput, "holdfast", input}, p.Argv...), env: p.Env,
	})
}

// runToEnd is run without a second try: what was killed by somebody is not begun again.
func (p place) runToEnd(ctx context.Context, l launch) (outcome, error) {
	o, _, err := p.runOnce(ctx, l, true)
	o.output = strings.TrimSpace(o.output)
	return o, err
}

// forgetCall removes the control group of a call that is over.
func (p place) forgetCall() {
	if p.h.cgroup == "" {
		return
	}
	p.h.dirs.Lock()
	defer p.h.dirs.Unlock()
	p.h.fresh.forget(p.callDir())
	removeCgroup(p.callDir())
}
