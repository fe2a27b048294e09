//go:build linux

package guardd

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/holdfast-ha/holdfast/internal/cluster/fence"
	"github.com/holdfast-ha/holdfast/internal/cluster/timers"
)

// watchdog is an armed device: [fence.Watchdog], and a fake in tests.
type watchdog interface {
	Feed() error
	SetTimeout(time.Duration) (time.Duration, error)
	Timeout() time.Duration
	NoWayOut() bool
	Disarm() error
	Abandon() error
	String() string
}

// armDevice is [fence.ArmWatchdog] as an interface.
func armDevice(path string, timeout time.Duration) (watchdog, error) {
	w, err := fence.ArmWatchdog(path, timeout)
	if err != nil {
		return nil, err
	}
	return w, nil
}

const (
	// feeds per time-out, at least, where heartbeats are as frequent.
	feeds = 8
	// rearm is how often a watchdog that could not be armed is tried again.
	rearm = 10 * time.Second
	// findLimit bounds the search for a device.
	findLimit = 10 * time.Second
)

// feeder arms the watchdog once guard knows its timers, and feeds it only while
// this node is harmless: under its lease, or with everything confirmed to be stopped.
// So a machine whose guard hangs, dies, or can't stop what runs is reset at most one
// time-out after the end of its lease.
//
// The cluster adds the time-out to the wait of a takeover by time. It must therefore
// never be longer than what is committed, but for the first time: before that the cluster
// promises nothing that rests on it.
type feeder struct {
	path string // empty: none was found
	arm  func(path string, timeout time.Duration) (watchdog, error)
	log  *slog.Logger

	device watchdog // nil: not armed
	// wanted by the timers, told to the engine; may be longer than the device's until it is committed.
	wanted time.Duration
	fedAt  time.Duration
	tryAt  time.Duration // not before, if it is not armed
	// withheld: the device was not fed when it was due, for which reason.
	withheld string
	trouble  string // for people; empty: none
}

// newFeeder finds the device; this may load a module, and take its time.
func newFeeder(o Options) *feeder {
	if o.Watchdog == "" || o.Watchdog == fence.WatchdogOff {
		return nil
	}
	f := &feeder{arm: o.armWatchdog, log: o.Log}
	if f.arm == nil {
		f.arm = armDevice
	}
	ctx, cancel := context.WithTimeout(context.Background(), findLimit)
	defer cancel()
	path, err := fence.WatchdogPath(ctx, o.Watchdog)
	if err != nil {
		f.notArmed(err)
	}
	f.path = path
	return f
}

// notArmed says so, once.
func (f *feeder) notArmed(err error) {
	if text := err.Error(); text != f.trouble {
		f.trouble = text
		f.log.Error("no watchdog is armed: if guard fails, or can't stop what runs, nothing resets this machine", "error", err)
	}
}

// configured: guard runs by this peerinact, and so much is committed as the time-out
// of this node's watchdog.
func (f *feeder) configured(now, peerinact, committed time.Duration) {
	if f == nil {
		return
	}
	f.wanted = timers.Watchdog(peerinact)
	if f.device == nil {
		f.tryAt = now
		f.tryArm(now)
		return
	}
	if have := f.device.Timeout(); f.wanted < have || f.wanted > have && committed >= f.wanted {
		f.setTimeout()
	}
}

func (f *feeder) tryArm(now time.Duration) {
	if f.path == "" || f.device != nil || f.wanted == 0 || now < f.tryAt {
		return
	}
	device, err := f.arm(f.path, f.wanted)
	if err != nil {
		f.tryAt = now + rearm
		f.notArmed(err)
		return
	}
	f.device, f.fedAt, f.tryAt, f.trouble = device, now, now, ""
	f.log.Info("the watchdog is armed", "device", device.String(), "timeout", device.Timeout(), "wanted", f.wanted, "nowayout", device.NoWayOut())
	f.checkTimeout()
}

func (f *feeder) setTimeout() {
	before := f.device.Timeout()
	if _, err := f.device.SetTimeout(f.wanted); err != nil {
		f.trouble = err.Error()
		f.log.Error("the watchdog keeps its time-out", "error", err)
		return
	}
	f.log.Info("the watchdog has another time-out", "device", f.device.String(), "timeout", f.device.Timeout(), "before", before)
	f.checkTimeout()
}

// checkTimeout says so if the device can't do what is wanted.
func (f *feeder) checkTimeout() {
	f.trouble = ""
	if have := f.device.Timeout(); have < f.wanted {
		f.trouble = fmt.Sprintf("its longest time-out, %v, is shorter than the time that this node has to stop its groups, %v: a slow stop resets the machine", have, f.wanted)
	}
}

// told to the engine: what the cluster has to wait for. 0: nothing is armed.
func (f *feeder) told() time.Duration {
	if f == nil || f.device == nil {
		return 0
	}
	return max(f.device.Timeout(), min(f.wanted, f.longest()))
}

// longest time-out that is worth asking for: a device that can't do what is wanted keeps its own.
func (f *feeder) longest() time.Duration {
	if f.trouble != "" {
		return f.device.Timeout()
	}
	return f.wanted
}

// feed the device if this node is harmless.
func (f *feeder) feed(now time.Duration, harmless bool) {
	if f == nil {
		return
	}
	f.tryArm(now)
	if f.device == nil {
		return
	}
	if !harmless {
		if f.withheld == "" {
			f.withheld = "it is not confirmed that everything has stopped"
			f.log.Warn("the watchdog is not fed until everything is confirmed to be stopped", "fed", now-f.fedAt, "timeout", f.device.Timeout())
		}
		return
	}
	if f.withheld != "" {
		f.withheld = ""
		f.log.Info("the watchdog is fed again: everything is stopped")
	} else if now-f.fedAt < f.device.Timeout()/feeds {
		return
	}
	if err := f.device.Feed(); err != nil {
		if text := err.Error(); text != f.trouble {
			f.trouble = text
			f.log.Error("the watchdog can't be fed", "error", err)
		}
		return
	}
	f.fedAt = now
}

// condition for people; empty: none. Its first words are what programs know it by.
func (f *feeder) condition() string {
	switch {
	case f == nil:
		return ""
	case f.device == nil && f.trouble != "":
		return fmt.Sprintf("no watchdog is armed although one was asked for: %s", f.trouble)
	case f.device == nil:
		return ""
	}
	text := fmt.Sprintf("the watchdog is armed: %s resets this machine in %v unless guard feeds it", f.device, f.device.Timeout())
	if f.device.NoWayOut() {
		text += "; it can't be disarmed, so that stopping guard resets the machine too"
	}
	if f.trouble != "" {
		text += "; " + f.trouble
	}
	return text
}

// end of guard. Disarm only if everything is known to be stopped.
func (f *feeder) end(stopped bool) {
	if f == nil || f.device == nil {
		return
	}
	device := f.device
	f.device = nil
	if !stopped {
		f.log.Error("guard ends with the watchdog armed: the machine is reset unless another guard feeds it", "timeout", device.Timeout())
		_ = device.Abandon()
		return
	}
	if err := device.Disarm(); err != nil {
		f.log.Error("the watchdog stays armed", "error", err)
		return
	}
	f.log.Info("the watchdog is disarmed: nothing runs here")
}
