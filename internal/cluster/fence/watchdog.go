//go:build linux

package fence

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// What WatchdogPath takes instead of a path.
const (
	// WatchdogOff: none is to be armed.
	WatchdogOff = "off"
	// WatchdogAuto: the machine's first one, and where it has none the kernel's software watchdog.
	WatchdogAuto = "auto"
)

// softModule is the kernel's software watchdog. It resets a machine whose kernel
// still runs its timers; a hardware watchdog needs nothing of the machine.
const softModule = "softdog"

const watchdogClass = "/sys/class/watchdog"

// WatchdogPath finds the device that is meant by what an administrator has written:
// an absolute path, or auto.
func WatchdogPath(ctx context.Context, spec string) (string, error) {
	if spec != WatchdogAuto {
		if !filepath.IsAbs(spec) {
			return "", fmt.Errorf("fence: watchdog %q: write %s, %s, or the absolute path of a device", spec, WatchdogAuto, WatchdogOff)
		}
		return spec, nil
	}
	if path := firstWatchdog(); path != "" {
		return path, nil
	}
	out, err := exec.CommandContext(ctx, "modprobe", softModule).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("fence: this machine has no watchdog, and the module %s can't be loaded: %w%s", softModule, err, quoted(message(nil, out)))
	}
	// The device appears with the module, its node may take a moment longer.
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline) && ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
		if path := firstWatchdog(); path != "" {
			return path, nil
		}
	}
	return "", fmt.Errorf("fence: module %s is loaded, but there is no /dev/watchdog0", softModule)
}

func firstWatchdog() string {
	for _, path := range []string{"/dev/watchdog0", "/dev/watchdog"} {
		if info, err := os.Stat(path); err == nil && info.Mode()&os.ModeCharDevice != 0 {
			return path
		}
	}
	return ""
}

// Watchdog is an armed watchdog: unless it is fed, the machine is reset.
type Watchdog struct {
	f    *os.File
	path string
	// Identity as the driver tells it.
	identity string
	noWayOut bool
	timeout  time.Duration
}

// ArmWatchdog arms a watchdog. The device has a time-out of whole seconds: the least
// that is not below the given one and that it can do, or the highest that it can do;
// Timeout tells. If it fails the watchdog is not armed, as far as it lets us.
func ArmWatchdog(path string, timeout time.Duration) (*Watchdog, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("fence: there is no watchdog %s; load its driver, or use %s", path, softModule)
	case err != nil:
		return nil, fmt.Errorf("fence: watchdog: %w", err)
	case info.Mode()&os.ModeCharDevice == 0:
		return nil, fmt.Errorf("fence: %s is no watchdog", path)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.EBUSY) {
		return nil, fmt.Errorf("fence: watchdog %s is used by another program (systemd, if RuntimeWatchdogSec is set): %w", path, err)
	}
	if err != nil {
		return nil, fmt.Errorf("fence: watchdog: %w", err)
	}
	w := &Watchdog{f: f, path: path}
	support, err := unix.IoctlGetWatchdogInfo(int(f.Fd()))
	if err != nil {
		// It was started by opening it, whatever it is.
		err = fmt.Errorf("fence: %s is no watchdog: %w", path, err)
		return nil, errors.Join(err, w.Disarm())
	}
	w.identity = strings.TrimRight(unix.ByteSliceToString(support.Identity[:]), " ")
	w.noWayOut = support.Options&unix.WDIOF_MAGICCLOSE == 0 || noWayOut(watchdogClass, path)
	if _, err := w.SetTimeout(timeout); err != nil {
		return nil, errors.Join(err, w.Disarm())
	}
	if err := w.Feed(); err != nil {
		return nil, errors.Join(err, w.Disarm())
	}
	return w, nil
}

// className of a device in the kernel's class of watchdogs.
func className(path string) string {
	if name := filepath.Base(path); name != "watchdog" {
		return name
	}
	return "watchdog0" // of which it is the old name
}

// noWayOut asks the kernel whether the device can be stopped once it runs.
func noWayOut(class, path string) bool {
	raw, err := os.ReadFile(filepath.Join(class, className(path), "nowayout"))
	return err == nil && strings.TrimSpace(string(raw)) == "1"
}

// limits of the time-out in seconds, 0: not known.
func limits(class, path string) (least, most int) {
	read := func(file string) int {
		raw, _ := os.ReadFile(filepath.Join(class, className(path), file))
		n, _ := strconv.Atoi(strings.TrimSpace(string(raw)))
		return max(n, 0)
	}
	return read("min_timeout"), read("max_timeout")
}

// SetTimeout changes the time-out and returns what it is now.
func (w *Watchdog) SetTimeout(timeout time.Duration) (time.Duration, error) {
	seconds := int((timeout + time.Second - 1) / time.Second)
	least, most := limits(watchdogClass, w.path)
	seconds = max(seconds, least, 1)
	if most > 0 {
		seconds = min(seconds, most)
	}
	fd := int(w.f.Fd())
	err := unix.IoctlSetPointerInt(fd, unix.WDIOC_SETTIMEOUT, seconds)
	now, gerr := unix.IoctlGetInt(fd, unix.WDIOC_GETTIMEOUT)
	switch {
	case gerr != nil:
		return 0, fmt.Errorf("fence: watchdog %s does not tell its time-out: %w", w.path, gerr)
	case err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.ENOTTY):
		return 0, fmt.Errorf("fence: watchdog %s: time-out of %ds: %w", w.path, seconds, err)
	case now <= 0:
		return 0, fmt.Errorf("fence: watchdog %s tells a time-out of %ds", w.path, now)
	}
	// A device with a fixed time-out has that one.
	w.timeout = time.Duration(now) * time.Second
	return w.timeout, nil
}

// Timeout as the device tells it.
func (w *Watchdog) Timeout() time.Duration { return w.timeout }

// Feed starts the time-out anew.
func (w *Watchdog) Feed() error {
	if err := unix.IoctlWatchdogKeepalive(int(w.f.Fd())); err != nil {
		return fmt.Errorf("fence: watchdog %s: keepalive: %w", w.path, err)
	}
	return nil
}

// NoWayOut: it can't be disarmed, the machine is reset when it is not fed any more.
func (w *Watchdog) NoWayOut() bool { return w.noWayOut }

func (w *Watchdog) String() string {
	return fmt.Sprintf("%s (%s)", w.path, w.identity)
}

// Disarm it, and close. A device with nowayout goes on all the same: that is an error.
func (w *Watchdog) Disarm() error {
	_, err := w.f.Write([]byte("V"))
	if err = errors.Join(err, w.f.Close()); err != nil {
		return fmt.Errorf("fence: watchdog %s can't be disarmed: %w", w.path, err)
	}
	if w.noWayOut {
		return fmt.Errorf("fence: watchdog %s can't be disarmed (nowayout): the machine is reset in %v unless something else feeds it", w.path, w.timeout)
	}
	return nil
}

// Abandon closes it without disarming: the machine is reset after the time-out.
func (w *Watchdog) Abandon() error { return w.f.Close() }
