//go:build linux

package fence

import (
	"context"
	"errors"
	"fmt"
	"strings"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

// Request to switch a node off.
type Request struct {
	Node *v1.Node
	// Devices that the cluster has.
	Devices []*v1.FenceDevice
	// Alive is asked after each level that seems to have succeeded: whether the node
	// was heard after that, and how that is known. Nil: nobody can tell. It may take
	// its time: a machine that is off is silent at once, what was under way is not.
	Alive func(ctx context.Context) (why string, alive bool)
	// Tell is called with each step, for people. Nil: nobody listens.
	Tell func(step string)
}

// Outcome of a [Request].
type Outcome struct {
	// Off: the node is off, as far as agents can tell and Alive could see (F1).
	Off bool
	// Level that succeeded, from 1.
	Level int
	// Device of the last step, agents' words and all that failed before, for people.
	Message string
	// Lied: an agent said that the node is off, and it was heard after that.
	Lied bool
}

// Fence switches a node off: level by level, until one succeeds.
func (r *Runner) Fence(ctx context.Context, q Request) Outcome {
	var out Outcome
	var story []string
	tell := func(format string, args ...any) {
		step := fmt.Sprintf(format, args...)
		story = append(story, step)
		if q.Tell != nil {
			q.Tell(step)
		}
	}
	levels := q.Node.GetFenceLevels()
	if len(levels) == 0 {
		tell("node %s has no fence levels: it can't be switched off", q.Node.GetName())
	}
	for i, level := range levels {
		said, err := r.level(ctx, q, level)
		if err != nil {
			tell("level %d: %v", i+1, err)
			if ctx.Err() != nil {
				break
			}
			continue
		}
		if q.Alive != nil {
			if why, alive := q.Alive(ctx); alive {
				out.Lied = true
				tell("level %d: %s, but the node is alive: %s", i+1, said, why)
				continue
			}
			if ctx.Err() != nil {
				break
			}
		}
		tell("level %d: %s", i+1, said)
		out.Off, out.Level = true, i+1
		break
	}
	out.Message = strings.Join(story, "; ")
	return out
}

// level succeeds if all devices do (F2).
func (r *Runner) level(ctx context.Context, q Request, level *v1.FenceLevel) (string, error) {
	if len(level.GetDevices()) == 0 {
		return "", errors.New("it has no devices")
	}
	var said []string
	for _, name := range level.GetDevices() {
		d := deviceOf(q.Devices, name)
		if d == nil {
			return "", fmt.Errorf("device %s is not configured", name)
		}
		word, err := r.Off(ctx, d, q.Node.GetName())
		if err != nil {
			return "", fmt.Errorf("device %s: %w", name, err)
		}
		said = append(said, fmt.Sprintf("device %s %s", name, word))
	}
	return strings.Join(said, ", "), nil
}

func deviceOf(all []*v1.FenceDevice, name string) *v1.FenceDevice {
	for _, d := range all {
		if d.GetName() == name {
			return d
		}
	}
	return nil
}

// Off has a device switch a node off, as often as the device says, and verifies it.
// It returns how that is known.
func (r *Runner) Off(ctx context.Context, d *v1.FenceDevice, node string) (string, error) {
	if _, ok := d.GetPlugs()[node]; !ok {
		return "", fmt.Errorf("it has no plug for node %s", node)
	}
	var errs []error
	for try := range triesOf(d) {
		word, err := r.off(ctx, d, node)
		if err == nil {
			return word, nil
		}
		errs = append(errs, fmt.Errorf("try %d: %w", try+1, err))
		if ctx.Err() != nil {
			break
		}
	}
	return "", joined(errs)
}

func joined(errs []error) error {
	var all []string
	for _, err := range errs {
		all = append(all, err.Error())
	}
	return errors.New(strings.Join(all, "; "))
}

func (r *Runner) off(ctx context.Context, d *v1.FenceDevice, node string) (string, error) {
	action := ActionOf(d)
	res, m, err := r.act(ctx, d, action, node)
	if err != nil {
		return "", err
	}
	if res.status != exitDone {
		return "", fmt.Errorf("agent %s, action %s: status %d%s", d.GetAgent(), action, res.status, quoted(res.said))
	}
	if action != "off" {
		return "has restarted it (by the agent's word alone)", nil
	}
	if !m.Has("status") {
		return "has switched it off (by the agent's word alone: it has no action status)", nil
	}
	power, err := r.Status(ctx, d, node)
	if err != nil {
		return "", fmt.Errorf("agent %s said that it is off, but its status is not known: %w", d.GetAgent(), err)
	}
	if power != PowerOff {
		return "", fmt.Errorf("agent %s said that it is off, but its status is %v", d.GetAgent(), power)
	}
	return "has switched it off, and sees it off", nil
}

// On has a device switch a node on. Nothing in the cluster depends on it.
func (r *Runner) On(ctx context.Context, d *v1.FenceDevice, node string) error {
	res, _, err := r.act(ctx, d, "on", node)
	if err == nil && res.status != exitDone {
		err = fmt.Errorf("agent %s, action on: status %d%s", d.GetAgent(), res.status, quoted(res.said))
	}
	return err
}

// Status of a node, as a device sees it.
func (r *Runner) Status(ctx context.Context, d *v1.FenceDevice, node string) (Power, error) {
	res, _, err := r.act(ctx, d, "status", node)
	switch {
	case err != nil:
		return PowerUnknown, err
	case res.status == exitDone:
		return PowerOn, nil
	case res.status == exitOff && !strings.Contains(strings.ToLower(res.said), "usage"):
		return PowerOff, nil
	}
	return PowerUnknown, fmt.Errorf("agent %s, action status: status %d%s", d.GetAgent(), res.status, quoted(res.said))
}

// Monitor asks whether a device itself can be reached.
func (r *Runner) Monitor(ctx context.Context, d *v1.FenceDevice) error {
	res, _, err := r.act(ctx, d, "monitor", "")
	if err == nil && res.status != exitDone {
		err = fmt.Errorf("agent %s, action monitor: status %d%s", d.GetAgent(), res.status, quoted(res.said))
	}
	return err
}

// act runs an action. The agent's description may be missing: it is nil then.
func (r *Runner) act(ctx context.Context, d *v1.FenceDevice, action, node string) (result, *Metadata, error) {
	path, err := r.find(d.GetAgent())
	if err != nil {
		return result{}, nil, err
	}
	m, err := r.Metadata(ctx, d.GetAgent())
	if err != nil {
		m = nil // an agent that can't describe itself may still be able to switch
	}
	text, secrets, err := input(d, m, action, node)
	if err != nil {
		return result{}, m, err
	}
	res, err := run(ctx, path, text, secrets, timeoutOf(d))
	if err != nil {
		return res, m, fmt.Errorf("agent %s, action %s: %w", d.GetAgent(), action, err)
	}
	return res, m, nil
}
