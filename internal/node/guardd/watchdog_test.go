//go:build linux

package guardd

import (
	"bufio"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
)

// fakeDog is a watchdog that remembers what was done with it.
type fakeDog struct {
	timeout, longest   time.Duration
	noWayOut           bool
	fed                int
	disarmed, dropped  bool
	feedError, setFail error
}

func (d *fakeDog) Feed() error {
	d.fed++
	return d.feedError
}

func (d *fakeDog) SetTimeout(t time.Duration) (time.Duration, error) {
	if d.setFail != nil {
		return 0, d.setFail
	}
	if d.longest != 0 {
		t = min(t, d.longest)
	}
	d.timeout = t
	return t, nil
}

func (d *fakeDog) Timeout() time.Duration { return d.timeout }
func (d *fakeDog) NoWayOut() bool         { return d.noWayOut }
func (d *fakeDog) Disarm() error          { d.disarmed = true; return nil }
func (d *fakeDog) Abandon() error         { d.dropped = true; return nil }
func (d *fakeDog) String() string         { return "/dev/fake (fake)" }

func testFeeder(d *fakeDog) *feeder {
	return newFeeder(Options{Watchdog: "/dev/fake", Log: slog.New(slog.DiscardHandler), armWatchdog: func(path string, t time.Duration) (watchdog, error) {
		if path != "/dev/fake" {
			return nil, fmt.Errorf("path %s", path)
		}
		_, err := d.SetTimeout(t)
		return d, err
	}})
}

func TestFeederFeedsOnlyWhileHarmless(t *testing.T) {
	d := &fakeDog{}
	f := testFeeder(d)
	f.feed(0, true)
	if f.told() != 0 || f.condition() != "" || d.fed != 0 {
		t.Fatalf("before guard knows its timers: told %v, condition %q, fed %d times", f.told(), f.condition(), d.fed)
	}
	f.configured(0, time.Second, 0)
	if d.timeout != time.Second || f.told() != time.Second || !strings.HasPrefix(f.condition(), "the watchdog is armed: /dev/fake (fake) resets this machine in 1s") {
		t.Fatalf("time-out %v, told %v, condition %q", d.timeout, f.told(), f.condition())
	}
	for ms := time.Duration(0); ms < 1000; ms += 10 {
		f.feed(ms*time.Millisecond, true)
	}
	if d.fed < 7 || d.fed > 9 {
		t.Errorf("fed %d times in one time-out, 8 are expected", d.fed)
	}
	fed := d.fed
	for ms := time.Duration(1000); ms < 3000; ms += 10 {
		f.feed(ms*time.Millisecond, false)
	}
	if d.fed != fed {
		t.Errorf("fed %d times while something may still run", d.fed-fed)
	}
	f.feed(3*time.Second, true)
	if d.fed != fed+1 {
		t.Errorf("not fed at once after all was stopped")
	}
}

func TestFeederFollowsTheTimers(t *testing.T) {
	d := &fakeDog{}
	f := testFeeder(d)
	f.configured(0, time.Second, 0)
	// Longer: the cluster has to know first.
	f.configured(0, 10*time.Second, time.Second)
	if d.timeout != time.Second || f.told() != 4*time.Second {
		t.Fatalf("time-out %v, told %v before it is committed", d.timeout, f.told())
	}
	f.configured(0, 10*time.Second, 4*time.Second)
	if d.timeout != 4*time.Second || f.told() != 4*time.Second {
		t.Fatalf("time-out %v, told %v after it was committed", d.timeout, f.told())
	}
	// Shorter: the device first.
	f.configured(0, time.Second, 4*time.Second)
	if d.timeout != time.Second || f.told() != time.Second {
		t.Fatalf("time-out %v, told %v with shorter timers", d.timeout, f.told())
	}
}

func TestFeederOfADeviceThatCannot(t *testing.T) {
	d := &fakeDog{longest: 3 * time.Second}
	f := testFeeder(d)
	f.configured(0, 60*time.Second, 0)
	if f.told() != 3*time.Second || !strings.Contains(f.condition(), "shorter than the time that this node has to stop") {
		t.Errorf("told %v, condition %q", f.told(), f.condition())
	}
	d.noWayOut, d.feedError = true, errors.New("keepalive: broken")
	f.feed(time.Second, true)
	if c := f.condition(); !strings.Contains(c, "broken") || !strings.Contains(c, "can't be disarmed") {
		t.Errorf("condition %q", c)
	}

	d = &fakeDog{setFail: errors.New("in use")}
	f = testFeeder(d)
	f.configured(0, time.Second, 0)
	if f.told() != 0 || f.condition() != "no watchdog is armed although one was asked for: in use" {
		t.Errorf("told %v, condition %q", f.told(), f.condition())
	}
	d.setFail = nil
	f.feed(rearm-1, true)
	if f.told() != 0 {
		t.Error("tried again too early")
	}
	f.feed(rearm, true)
	if f.told() != time.Second || strings.Contains(f.condition(), "in use") {
		t.Errorf("after the device became free: told %v, condition %q", f.told(), f.condition())
	}

	f = newFeeder(Options{Watchdog: "dev/watchdog", Log: slog.New(slog.DiscardHandler)})
	f.configured(0, time.Second, 0)
	f.feed(time.Hour, true)
	if !strings.Contains(f.condition(), "no watchdog is armed") || f.told() != 0 {
		t.Errorf("condition %q", f.condition())
	}
	if newFeeder(Options{Watchdog: "off"}) != nil || newFeeder(Options{}) != nil {
		t.Error("a watchdog is armed that nobody asked for")
	}
}

func TestFeederEnds(t *testing.T) {
	for _, stopped := range []bool{true, false} {
		d := &fakeDog{}
		f := testFeeder(d)
		f.configured(0, time.Second, 0)
		f.end(stopped)
		f.end(false)
		if d.disarmed != stopped || d.dropped == stopped {
			t.Errorf("stopped %v: disarmed %v, left armed %v", stopped, d.disarmed, d.dropped)
		}
	}
	var none *feeder
	none.end(true)
	none.feed(0, true)
	none.configured(0, 0, 0)
}

// A fake device in another process is a connection to the test: 'K' feeds, 'V'
// disarms, and without a 'V' the end of the connection leaves it armed.
type dialledDog struct {
	c       net.Conn
	timeout time.Duration
}

func dialFake(path string, timeout time.Duration) (watchdog, error) {
	c, err := net.Dial("unix", path)
	if err != nil {
		return nil, err
	}
	d := &dialledDog{c: c}
	_, err = d.SetTimeout(timeout)
	return d, err
}

func (d *dialledDog) say(line string) error {
	_, err := fmt.Fprintln(d.c, line)
	return err
}

func (d *dialledDog) SetTimeout(t time.Duration) (time.Duration, error) {
	d.timeout = t
	return t, d.say("T " + t.String())
}
func (d *dialledDog) Feed() error            { return d.say("K") }
func (d *dialledDog) Timeout() time.Duration { return d.timeout }
func (d *dialledDog) NoWayOut() bool         { return false }
func (d *dialledDog) Disarm() error          { return errors.Join(d.say("V"), d.c.Close()) }
func (d *dialledDog) Abandon() error         { return d.c.Close() }
func (d *dialledDog) String() string         { return "fake" }

// kennel is the test's end of such devices.
type kennel struct {
	t        *testing.T
	listener *net.UnixListener
	lines    chan string // "end" after the connection
}

func newKennel(t *testing.T, p *plan) *kennel {
	t.Helper()
	p.Watchdog, p.Fake = filepath.Join(filepath.Dir(p.Run), "dog"), true
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: p.Watchdog, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	k := &kennel{t: t, listener: l, lines: make(chan string, 1<<16)}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			for sc := bufio.NewScanner(c); sc.Scan(); {
				k.lines <- sc.Text()
			}
			k.lines <- "end"
		}
	}()
	return k
}

// await a line, and say which came before it.
func (k *kennel) await(want string) (before []string) {
	k.t.Helper()
	limit := time.After(10 * time.Second)
	for {
		select {
		case line := <-k.lines:
			if line == want {
				return before
			}
			before = append(before, line)
		case <-limit:
			k.t.Fatalf("the watchdog was not told %q, but %q", want, before)
		}
	}
}

// drained: what has come so far.
func (k *kennel) drained() (lines []string) {
	for {
		select {
		case line := <-k.lines:
			lines = append(lines, line)
		default:
			return lines
		}
	}
}

func withDog(t *testing.T, change func(*guardpb.Configure)) (*kennel, *daemon, *engine, *guardpb.Configure) {
	t.Helper()
	p := testPlan(t, "a", freePort(t, "127.0.0.1"))
	k := newKennel(t, &p)
	d := startRole(t, "guard", p, nil)
	e := dial(t, p)
	conf := configurations(time.Second, []plan{p}, []*engine{e})[0]
	if change != nil {
		change(conf)
	}
	e.configure(conf)
	k.await("T 1s")
	e.awaitLease(true, false)
	k.await("K")
	e.await("word of the watchdog", func(f *guardpb.FromGuard) bool {
		if f.GetPeers().GetWatchdog().AsDuration() != time.Second {
			return false
		}
		for _, c := range f.GetPeers().GetConditions() {
			if strings.HasPrefix(c, "the watchdog is armed: fake") {
				return true
			}
		}
		return false
	})
	return k, d, e, conf
}

// kill -9: nobody feeds it any more, and nobody has disarmed it.
func TestWatchdogOfAKilledGuard(t *testing.T) {
	k, d, _, _ := withDog(t, nil)
	k.await("K")
	d.kill()
	for _, line := range k.await("end") {
		if line != "K" {
			t.Errorf("the watchdog was told %q", line)
		}
	}
	if more := k.drained(); len(more) != 0 {
		t.Errorf("after the death of guard the watchdog was told %q", more)
	}
}

// An orderly end disarms it, once everything is stopped.
func TestWatchdogOfAnOrderlyEnd(t *testing.T) {
	k, d, e, _ := withDog(t, nil)
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	e.awaitLease(false, true)
	k.await("V")
	k.await("end")
	d.ended()
}

// A stop that can't be confirmed is not fed over.
func TestWatchdogAfterAStopThatFails(t *testing.T) {
	k, _, e, conf := withDog(t, nil)
	// A process that can't be killed, as in TestStopNamesWhatIsLeft.
	dir := t.TempDir()
	procs := filepath.Join(dir, "cgroup.procs")
	if err := os.WriteFile(procs, []byte("0\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if msg := e.call(&guardpb.ToGuard{Body: &guardpb.ToGuard_Protect{Protect: &guardpb.Protect{Group: "web", Cgroup: dir}}}); msg != "" {
		t.Fatal(msg)
	}
	conf.RaftId, conf.Peers[0].RaftId = 0, 0
	e.configure(conf)
	unstopped := func(f *guardpb.FromGuard) bool {
		return strings.Contains(f.GetLease().GetReason(), "not all is stopped")
	}
	e.await("a failed stop", unstopped)
	k.drained()
	// Two more stops fail, half a time-out later.
	e.await("a failed stop", unstopped)
	e.await("a failed stop", unstopped)
	if fed := k.drained(); len(fed) != 0 {
		t.Errorf("the watchdog was told %q while something runs without a lease", fed)
	}
	if err := os.WriteFile(procs, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	e.awaitLease(false, true)
	k.await("K")
}

// The time-out follows the timers: longer ones once that is committed.
func TestWatchdogFollowsTheTimers(t *testing.T) {
	k, _, e, conf := withDog(t, nil)
	conf.Peerinact = durationpb.New(5 * time.Second)
	conf.Watchdog = durationpb.New(time.Second)
	e.configure(conf)
	e.await("the longer time-out", func(f *guardpb.FromGuard) bool { return f.GetPeers().GetWatchdog().AsDuration() == 2*time.Second })
	for _, line := range k.drained() {
		if line != "K" {
			t.Errorf("the watchdog was told %q before that is committed", line)
		}
	}
	conf.Watchdog = durationpb.New(2 * time.Second)
	e.configure(conf)
	k.await("T 2s")
}
