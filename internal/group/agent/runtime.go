package agent

import "time"

// Runtime runs the resources of one node. It is not safe for concurrent use.
type Runtime struct{ node string }

// New returns a runtime that knows nothing yet.
func New(node string) *Runtime { return &Runtime{node: node} }

// Desire tells what the newest applied state says about this node. wallMs is the time of day in Unix milliseconds; it goes
// into statuses and decides nothing.
func (r *Runtime) Desire(now time.Duration, wallMs int64, d Desired) {}

// Clear takes the fault off a resource (or, with an empty name, off all resources of the group).
func (r *Runtime) Clear(now time.Duration, group, resource string) {}

// Flush makes the group forget what it was waiting to do.
func (r *Runtime) Flush(now time.Duration, group string) {}

// Probe monitors a resource (or, with an empty name, all of the group) at once.
func (r *Runtime) Probe(now time.Duration, group, resource string) {}

// Done tells the outcome of a call.
func (r *Runtime) Done(now time.Duration, wallMs int64, d Done) {}

// Notify tells what process notification has seen.
func (r *Runtime) Notify(now time.Duration, n Notice) {}

// Stopped tells that guard has stopped everything.
func (r *Runtime) Stopped(now time.Duration, reason string) {}

// Resend reports everything once more.
func (r *Runtime) Resend() {}

// Active returns the groups of which something runs or may run, sorted.
func (r *Runtime) Active() []string { return nil }

// Tick tells that time has passed.
func (r *Runtime) Tick(now time.Duration) {}

// Take returns what the caller must carry out now.
func (r *Runtime) Take() Actions { return Actions{} }
