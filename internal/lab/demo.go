package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Bring makes the lab, or takes the one that is there, and waits until its
// groups are online. It is what `holdfast lab up` does.
func Bring(ctx context.Context, o Options) (*Lab, error) {
	l, err := Open(o.Name, o.Dir)
	switch {
	case errors.Is(err, errNoLab):
		if l, err = Make(ctx, o); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	default:
		if l, err = l.again(ctx, o); err != nil {
			return nil, err
		}
	}
	begin := monotonic()
	note := func(missing string) { o.Progress(fmt.Sprintf("%6.2f s  %s", (monotonic() - begin).Seconds(), missing)) }
	_, err = l.awaitStatus(ctx, settled(l.Nodes()), note)
	if err != nil {
		return l, fmt.Errorf("the cluster is not online: %w; see holdfast lab logs %s --name %s, and holdfast lab down --name %s", err, l.Nodes()[0], l.Name(), l.Name())
	}
	if err := l.AddPoints(ctx); err != nil {
		return l, fmt.Errorf("the coordination points are not in use: %w; see holdfast lab logs %s --name %s, and holdfast lab down --name %s", err, l.Nodes()[0], l.Name(), l.Name())
	}
	note("online")
	return l, nil
}

// again takes a lab that exists: it must be the one that o describes. Nodes
// that are off are started.
func (l *Lab) again(ctx context.Context, o Options) (*Lab, error) {
	down := "holdfast lab down --name " + l.Name()
	switch {
	case l.rec.Boot != bootID() || l.rec.Phase != Up:
		if err := Sweep(o.Progress); err != nil {
			return nil, err
		}
		if _, err := Open(o.Name, o.Dir); err == nil {
			return nil, refused("lab %s is being made or removed by another command: try again when that has ended, or %s", l.Name(), down)
		}
		return Make(ctx, o)
	case o.Nodes != 0 && o.Nodes != len(l.Nodes()):
		return nil, refused("lab %s is up with %d nodes, not %d: %s removes it, --name makes another beside it", l.Name(), len(l.Nodes()), o.Nodes, down)
	case o.Arbiters+o.LockDisks != 0 && (o.Arbiters != len(l.rec.Plan.Arbiters) || o.LockDisks != len(l.rec.Plan.LockDisks)):
		return nil, refused("lab %s is up with %d arbiters and %d lock disks: %s removes it, --name makes another beside it; holdfast quorum changes the running one",
			l.Name(), len(l.rec.Plan.Arbiters), len(l.rec.Plan.LockDisks), down)
	case len(o.Config) > 0 && l.rec.Service != "":
		return nil, refused("lab %s is up with the default cluster: %s removes it, --name makes another beside it; holdfast apply changes the running one", l.Name(), down)
	}
	o.Progress(fmt.Sprintf("lab %s is up already in %s", l.Name(), l.Dir()))
	return l, l.StartAll()
}

// Demo shows a cluster: a service that survives the loss of its node. It
// leaves the lab for people to play with.
func Demo(ctx context.Context, w io.Writer, o Options, run func(node string, args ...string) error) error {
	d := &demo{w: w, o: o, run: run}
	if d.o.Progress == nil {
		d.o.Progress = func(s string) { fmt.Fprintln(w, "  "+s) }
	}
	return d.show(ctx)
}

type demo struct {
	w   io.Writer
	o   Options
	lab *Lab
	// Runs the CLI against a node, its output to w.
	run func(node string, args ...string) error
}

func (d *demo) say(format string, args ...any) { fmt.Fprintf(d.w, "\n"+format+"\n", args...) }

// holdfast runs the CLI as a person would, and shows the command.
func (d *demo) holdfast(node string, args ...string) error {
	fmt.Fprintf(d.w, "\n%s$ holdfast %s\n", node, strings.Join(args, " "))
	return d.run(node, args...)
}

func (d *demo) show(ctx context.Context) error {
	d.say("== A cluster of three nodes on this machine")
	begin := monotonic()
	d.o.Nodes = 0
	var err error
	if d.lab, err = Bring(ctx, d.o); err != nil {
		return err
	}
	l := d.lab
	for _, missing := range l.Mode().Missing() {
		fmt.Fprintln(d.w, "  "+missing)
	}
	d.say("Online after %.1f s, from nothing.", (monotonic() - begin).Seconds())
	prober, err := l.StartProber(l.Service())
	if err != nil {
		return err
	}
	defer prober.Close()
	var active string
	if err := within(ctx, settleLimit, "an answer of the service", func(ctx context.Context) error {
		active, err = prober.AwaitSteady(ctx, 5)
		return err
	}); err != nil {
		return err
	}
	if err := d.holdfast(active, "status"); err != nil {
		return err
	}
	d.say("== The service\nhttp://%s/ answers: %q. From now on it is asked every %v.", l.Service(), active, probeEvery)

	d.say("== Power off %s, where it runs: network gone, then SIGKILL to all of its processes", active)
	fault, err := l.Kill(active)
	if err != nil {
		return err
	}
	var o Outage
	if err := within(ctx, outageLimit, "recovery", func(ctx context.Context) error {
		o, err = prober.AwaitOutage(ctx, fault, steadyTime)
		return err
	}); err != nil {
		return err
	}
	d.say("It answers again, now from %s, %.2f s after the fault; %d probes had failed.", o.Node, o.Recovery.Seconds(), o.Failed)
	other := o.Node
	if err := d.holdfast(other, "explain", "group", defaultGroup); err != nil {
		return err
	}

	d.say("== Power on %s", active)
	begin = monotonic()
	if err := l.Start(active); err != nil {
		return err
	}
	if err := within(ctx, settleLimit, "rejoining", func(ctx context.Context) error {
		_, err := l.AwaitSettled(ctx)
		return err
	}); err != nil {
		return err
	}
	fmt.Fprintf(d.w, "%s is a member again after %.1f s. The service stays where it is.\n", active, (monotonic() - begin).Seconds())
	if err := d.holdfast(other, "status"); err != nil {
		return err
	}
	d.tips(active, other)
	return nil
}

func (d *demo) tips(active, other string) {
	l, name := d.lab, ""
	if l.Name() != DefaultName {
		name = " --name " + l.Name()
	}
	at := l.rec.Binary
	d.say("== It is yours now. Try")
	tips := [][2]string{
		{fmt.Sprintf("eval \"$(%s lab env %s%s)\"", at, other, name), "then plain holdfast commands go to " + other},
		{at + " group switch " + defaultGroup + " --to " + active, "move the service"},
		{at + " simulate --fail " + active, "what would happen"},
		{at + " events --follow", "watch, from another terminal"},
		{fmt.Sprintf("%s lab cut %s%s", at, active, name), "cut its network; lab heal mends it"},
		{fmt.Sprintf("%s lab pause %s%s", at, active, name), "stop it where it is; lab resume wakes it"},
		{fmt.Sprintf("%s lab exec %s%s -- ip addr", at, active, name), "look around on a node"},
		{fmt.Sprintf("%s lab down%s", at, name), "remove all of this"},
	}
	if l.Mode() == Loopback {
		tips = slices.DeleteFunc(tips, func(t [2]string) bool { return strings.Contains(t[0], "lab cut") || strings.Contains(t[0], "ip addr") })
	}
	for _, t := range tips {
		fmt.Fprintf(d.w, "  %-60s # %s\n", t[0], t[1])
	}
}

// DefaultName of a lab.
const DefaultName = "lab"

// demoLimit bounds the time for which lab up waits for the cluster.
const upLimit = 2 * time.Minute
