package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/api"
)

// changePointsLimit is how long all nodes together may take to try new points.
const changePointsLimit = time.Minute

func (a *app) quorumCommand() *cobra.Command {
	show := a.withOutput(&cobra.Command{
		Use: "show", Short: "Show what breaks ties, and which failures the cluster survives now", Args: args(0, 0),
		RunE: a.run(func(ctx context.Context, c *client, _ []string) error {
			m, err := call(ctx, c, c.quorum.Show, &v1.ShowQuorumRequest{})
			if err != nil {
				return err
			}
			return a.show("quorum/1", m, func(w io.Writer) { writeQuorum(w, m) })
		}),
	})
	return grouped(&cobra.Command{Use: "quorum", Short: "Quorum: who decides, and the coordination points that break ties"},
		show, a.quorumAddCommand(), a.quorumRemoveCommand(), a.quorumReplaceCommand())
}

func writeQuorum(w io.Writer, m *v1.ShowQuorumResponse) {
	heading(w, m.GetSource())
	points := "none"
	switch n := len(m.GetPoints()); {
	case n > 0 && m.GetVotes():
		points = fmt.Sprintf("%d, with one vote together", n)
	case n > 0:
		points = fmt.Sprintf("%d, without a vote while the number of members is odd", n)
	}
	wanted := ""
	if m.GetChanging() {
		wanted = "none"
		if len(m.GetWanted()) > 0 {
			wanted = strings.Join(namesOf(m.GetWanted()), ", ")
		}
	}
	pairs(w, [2]string{"Members", strings.Join(m.GetMembers(), ", ")}, [2]string{"Decide", fmt.Sprintf("%d of %d votes", m.GetMajority(), m.GetVoters())},
		[2]string{"Coordination points", points}, [2]string{"Being changed to", wanted}, [2]string{"Preferred fencing", m.GetPreferredFencingMeans()})
	rows := [][]string{{"POINT", "WHERE", "STATE", "FOR", "ROUND TRIP", "NOTE"}}
	for _, p := range m.GetPoints() {
		rows = append(rows, []string{p.GetPoint().GetName(), p.GetWhere(), pointState(p), span(p.GetSince()), span(p.GetRoundTrip()), pointNote(p)})
	}
	section(w, "Coordination points, as "+m.GetSource().GetNode()+" sees them", rows...)
	if len(m.GetSurvives()) > 0 {
		fmt.Fprintln(w, "\nFailures that are survived now")
	}
	for _, line := range slices.Concat(m.GetSurvives(), m.GetJeopardy()) {
		fmt.Fprintf(w, "  %s\n", line)
	}
	if len(m.GetConditions()) > 0 {
		fmt.Fprintln(w, "\nConditions")
	}
	for _, c := range m.GetConditions() {
		fmt.Fprintf(w, "  %s: %s\n", word(c.GetSeverity()), c.GetMessage())
	}
}

func pointState(p *v1.PointInfo) string {
	switch {
	case p.GetSince() == nil:
		return "not asked yet"
	case p.GetAbstains():
		return "abstains"
	case p.GetReachable():
		return "reachable"
	}
	return "not reachable"
}

func pointNote(p *v1.PointInfo) string {
	if len(p.GetNotSeen()) > 0 {
		return "never written by " + strings.Join(p.GetNotSeen(), ", ")
	}
	return p.GetError()
}

// preferredFlags say which side of a split should win.
type preferredFlags struct{ rule, site, delay string }

func (p *preferredFlags) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&p.rule, "preferred-fencing", "", "which side of an even split should win: none, node-weight, group-priority or site")
	f.StringVar(&p.site, "preferred-site", "", "the site that should win, or none")
	f.StringVar(&p.delay, "preferred-fencing-delay", "", "how long the other side holds back, 0s to 1m, or default (half of peerinact)")
	must(c.RegisterFlagCompletionFunc("preferred-fencing", cobra.FixedCompletions(preferredRules, cobra.ShellCompDirectiveNoFileComp)))
}

// preferredRules in the order of their numbers, from 1.
var preferredRules = []string{"none", "node-weight", "group-priority", "site"}

// preferredName is the rule in one or two words.
func preferredName(c *v1.Cluster) string {
	name := preferredRules[max(int(c.GetPreferredFencing()), 1)-1]
	if c.GetPreferredFencing() == v1.PreferredFencing_PREFERRED_FENCING_SITE {
		name += " " + c.GetPreferredSite()
	}
	if d := c.GetPreferredFencingDelay(); d != nil {
		name += ", delay " + span(d)
	}
	return name
}

func (p *preferredFlags) into(q *v1.SetClusterRequest) error {
	if p.rule != "" {
		i := slices.Index(preferredRules, p.rule)
		if i < 0 {
			return usage("--preferred-fencing %s: the rules are %s", p.rule, strings.Join(preferredRules, ", "))
		}
		q.PreferredFencing = v1.PreferredFencing(i + 1)
	}
	switch p.site {
	case "":
	case "none":
		q.PreferredSite = new("")
	default:
		q.PreferredSite = &p.site
	}
	switch p.delay {
	case "":
	case "default":
		q.PreferredFencingDelay = durationpb.New(-1)
	default:
		d, err := time.ParseDuration(p.delay)
		if err != nil || d < 0 {
			return usage("--preferred-fencing-delay %s: write a number with a unit such as 500ms, or default", p.delay)
		}
		q.PreferredFencingDelay = durationpb.New(d)
	}
	return nil
}

// newPoint has the flags that describe one point.
type newPoint struct {
	token, disk string
	paths       []string
}

func (p *newPoint) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&p.token, "arbiter-token", "", "token that holdfast arbiter token has printed, or @FILE with it")
	f.StringVar(&p.disk, "lock-disk", "", "path of a disk that holdfast lockdisk format has prepared")
	f.StringArrayVar(&p.paths, "path", nil, "NODE=PATH where the disk has another path on a node; may be given more than once")
	must(c.MarkFlagFilename("lock-disk"))
}

// spec of the point with that name.
func (p *newPoint) spec(name string) (*v1.PointSpec, error) {
	switch {
	case p.token == "" && p.disk == "":
		return nil, usage("say what %s is, with --arbiter-token or --lock-disk", name)
	case p.token != "" && p.disk != "":
		return nil, usage("%s can be an arbiter or a lock disk, not both", name)
	case p.token != "" && len(p.paths) > 0:
		return nil, usage("--path goes with --lock-disk")
	case p.token != "":
		token, err := tokenOf(p.token)
		return &v1.PointSpec{Name: name, Kind: &v1.PointSpec_ArbiterToken{ArbiterToken: token}}, err
	}
	d := &v1.LockDiskSpec{Path: p.disk}
	for _, text := range p.paths {
		if err := addPath(d, text); err != nil {
			return nil, err
		}
	}
	return &v1.PointSpec{Name: name, Kind: &v1.PointSpec_LockDisk{LockDisk: d}}, nil
}

func addPath(d *v1.LockDiskSpec, text string) error {
	node, path, ok := strings.Cut(text, "=")
	if !ok || node == "" || path == "" {
		return usage("--path %s: write NODE=PATH", text)
	}
	if d.Paths[node] != "" {
		return usage("--path: node %s is named twice", node)
	}
	if d.Paths == nil {
		d.Paths = map[string]string{}
	}
	d.Paths[node] = path
	return nil
}

// tokenOf an argument: itself, or what a file has, so that it need not stand in a list of processes.
func tokenOf(text string) (string, error) {
	name, ok := strings.CutPrefix(text, "@")
	if !ok {
		return text, nil
	}
	raw, err := os.ReadFile(name)
	if err != nil {
		return "", &failure{code: api.CodeUsage, message: err.Error()}
	}
	return strings.TrimSpace(string(raw)), nil
}

// pointSpecs reads --point NAME=arbiter:TOKEN and NAME=disk:PATH, and --path POINT:NODE=PATH.
func pointSpecs(points, paths []string) ([]*v1.PointSpec, error) {
	var specs []*v1.PointSpec
	for _, text := range points {
		name, rest, _ := strings.Cut(text, "=")
		kind, value, ok := strings.Cut(rest, ":")
		spec := &v1.PointSpec{Name: name}
		switch {
		case !ok || name == "" || value == "" || kind != "arbiter" && kind != "disk":
			return nil, usage("--point %s: write NAME=arbiter:TOKEN or NAME=disk:PATH", clipped(name, 40))
		case kind == "arbiter":
			token, err := tokenOf(value)
			if err != nil {
				return nil, err
			}
			spec.Kind = &v1.PointSpec_ArbiterToken{ArbiterToken: token}
		default:
			spec.Kind = &v1.PointSpec_LockDisk{LockDisk: &v1.LockDiskSpec{Path: value}}
		}
		specs = append(specs, spec)
	}
	for _, text := range paths {
		name, rest, ok := strings.Cut(text, ":")
		i := slices.IndexFunc(specs, func(s *v1.PointSpec) bool { return s.GetName() == name && s.GetLockDisk() != nil })
		if !ok || i < 0 {
			return nil, usage("--path %s: beside --point write POINT:NODE=PATH, where POINT is one of the lock disks", text)
		}
		if err := addPath(specs[i].GetLockDisk(), rest); err != nil {
			return nil, err
		}
	}
	return specs, nil
}

func (a *app) quorumAddCommand() *cobra.Command {
	p, w, q := &newPoint{}, &waiting{}, &v1.ChangeQuorumRequest{}
	var points []string
	c := a.withOutput(&cobra.Command{
		Use: "add NAME --arbiter-token TOKEN | --lock-disk PATH", Short: "Add a coordination point, or several at once with --point", Args: args(0, 1),
		Long: `Add a coordination point. There can be one or three: to go from one to three, or
to begin with three, name them all with --point.

An arbiter gives a token (holdfast arbiter token); a lock disk is prepared first
(holdfast lockdisk format). Before anything changes all nodes try the new points,
and what stands against them is told of all nodes at once. The command can be
repeated at any time.`,
		Example: "  holdfast quorum add arb1 --arbiter-token hfa-AVzq…\n" +
			"  holdfast quorum add lock --lock-disk /dev/disk/by-id/wwn-0x5000c500a1b2c3d4 --path n3=/dev/disk/by-id/scsi-36001405\n" +
			"  holdfast quorum add --point arb2=arbiter:hfa-AXbb… --point lock=disk:/dev/mapper/lock",
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.run(func(ctx context.Context, c *client, args []string) error {
			var err error
			switch {
			case len(points) > 0 && (len(args) > 0 || p.token != "" || p.disk != ""):
				return usage("name points either with --point, or one by itself with --arbiter-token or --lock-disk")
			case len(points) > 0:
				q.Add, err = pointSpecs(points, p.paths)
			case len(args) == 0:
				return usage("an argument is missing: the name of the point, or --point")
			default:
				var one *v1.PointSpec
				one, err = p.spec(args[0])
				q.Add = []*v1.PointSpec{one}
			}
			if err != nil {
				return err
			}
			return a.changePoints(ctx, c, q, w)
		}),
	})
	p.flags(c)
	c.Flags().StringArrayVar(&points, "point", nil, "NAME=arbiter:TOKEN or NAME=disk:PATH; may be given more than once (then --path is POINT:NODE=PATH)")
	a.changeFlags(c, q, w)
	return c
}

func (a *app) changeFlags(c *cobra.Command, q *v1.ChangeQuorumRequest, w *waiting) {
	f := c.Flags()
	f.BoolVar(&q.Force, "force", false, "go on although nodes do not answer; never although one says that it can't use the point")
	f.BoolVar(&w.no, "no-wait", false, "only have the points wanted; the cluster takes them into use by itself")
	f.DurationVar(&w.timeout, "timeout", 0, "wait no longer than this; what was begun goes on (default: as long as it takes)")
}

func (a *app) quorumRemoveCommand() *cobra.Command {
	w, q := &waiting{}, &v1.ChangeQuorumRequest{}
	c := a.withOutput(&cobra.Command{
		Use: "remove NAME...", Short: "Remove coordination points", Args: args(1, 3), ValidArgsFunction: a.completePoints(3),
		Example: "  holdfast quorum remove arb2 lock",
		RunE: a.run(func(ctx context.Context, c *client, args []string) error {
			q.Remove = args
			return a.changePoints(ctx, c, q, w)
		}),
	})
	a.changeFlags(c, q, w)
	return c
}

func (a *app) quorumReplaceCommand() *cobra.Command {
	p, w, q := &newPoint{}, &waiting{}, &v1.ChangeQuorumRequest{}
	c := a.withOutput(&cobra.Command{
		Use: "replace OLD NEW --arbiter-token TOKEN | --lock-disk PATH", Short: "Put a coordination point in the place of another", Args: args(2, 2), ValidArgsFunction: a.completePoints(1),
		Long: `Put a coordination point in the place of one that is dead, or that abstains. NEW
may be the name of OLD. While the nodes see each other this needs nothing of the
old one.`,
		Example: "  holdfast quorum replace arb1 arb9 --arbiter-token hfa-AVzq…",
		RunE: a.run(func(ctx context.Context, c *client, args []string) error {
			one, err := p.spec(args[1])
			if err != nil {
				return err
			}
			q.Remove, q.Add = args[:1], []*v1.PointSpec{one}
			return a.changePoints(ctx, c, q, w)
		}),
	})
	p.flags(c)
	a.changeFlags(c, q, w)
	return c
}

// completePoints offers names of points for the first so many arguments.
func (a *app) completePoints(most int) completion {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) >= most {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx := cmd.Context()
		if ctx == nil {
			ctx = context.Background()
		}
		ctx, cancel := context.WithTimeout(ctx, completeLimit)
		defer cancel()
		c, err := a.dial()
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		m, err := call(ctx, c, c.quorum.Show, &v1.ShowQuorumRequest{})
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var names []string
		for _, p := range m.GetPoints() {
			if name := p.GetPoint().GetName(); !slices.Contains(args, name) {
				names = append(names, name)
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// changePoints has other points wanted, and follows until they are in use.
func (a *app) changePoints(ctx context.Context, c *client, q *v1.ChangeQuorumRequest, w *waiting) error {
	if w.timeout > 0 {
		var cancel func()
		ctx, cancel = context.WithTimeout(ctx, w.timeout)
		defer cancel()
	}
	p := &progress{a: a}
	defer p.end()
	if len(q.GetAdd()) > 0 {
		p.show("all nodes try the new coordination points")
	}
	limited, cancel := context.WithTimeout(ctx, changePointsLimit)
	defer cancel()
	r, err := c.quorum.Change(limited, connect.NewRequest(q))
	if err != nil {
		p.end()
		return c.failed(err)
	}
	m := &v1.WatchQuorumResponse{Points: r.Msg.GetPoints(), Done: r.Msg.GetUnchanged()}
	if !r.Msg.GetUnchanged() && !w.no {
		if m, err = a.followPoints(ctx, c, r.Msg, p); err != nil {
			p.end()
			return err
		}
	}
	p.end()
	for _, n := range r.Msg.GetNotAsked() {
		fmt.Fprintf(a.Err, "%s was not asked; look there with: holdfast quorum show\n", n)
	}
	return a.show("quorumchange/1", m, func(out io.Writer) {
		names := strings.Join(namesOf(m.GetPoints()), ", ")
		switch {
		case r.Msg.GetUnchanged() && names == "":
			fmt.Fprintln(out, "nothing to change: there are no coordination points")
		case r.Msg.GetUnchanged():
			fmt.Fprintf(out, "nothing to change: the coordination points are %s\n", names)
		case !m.GetDone() && names == "":
			fmt.Fprintln(out, "wanted: no coordination points; holdfast quorum show tells when it is so")
		case !m.GetDone():
			fmt.Fprintf(out, "wanted: %s; holdfast quorum show tells when they are in use\n", names)
		case names == "":
			fmt.Fprintln(out, "there are no coordination points any more")
		case m.GetVotes():
			fmt.Fprintf(out, "in use: %s, with one vote together\n", names)
		default:
			fmt.Fprintf(out, "in use: %s, without a vote while the number of members is odd\n", names)
		}
	})
}

// followPoints until they are in use. A daemon that restarts meanwhile is asked again.
func (a *app) followPoints(ctx context.Context, c *client, begun *v1.ChangeQuorumResponse, p *progress) (*v1.WatchQuorumResponse, error) {
	for lost := 0; ; lost++ {
		stream, err := c.quorum.Watch(ctx, connect.NewRequest(&v1.WatchQuorumRequest{BaseRegister: begun.GetBaseRegister()}))
		if err == nil {
			for stream.Receive() {
				lost = 0
				m := stream.Msg()
				if m.GetDone() {
					stream.Close()
					return m, nil
				}
				p.show(m.GetProgress())
			}
			err = stream.Err()
			stream.Close()
		}
		var e *connect.Error
		const next = "it goes on; holdfast quorum show tells how far it is"
		switch {
		case errors.Is(ctx.Err(), context.DeadlineExceeded), errors.As(err, &e) && e.Code() == connect.CodeDeadlineExceeded:
			return nil, &failure{code: api.CodeWaitedTooLong, message: "the coordination points are not in use yet", next: next}
		case ctx.Err() != nil:
			return nil, &failure{message: "interrupted", next: next}
		case errors.As(err, &e) && detailOf(e) != nil:
			return nil, c.failed(err)
		}
		if lost > 1 {
			p.show("the daemon does not answer; asking again")
		}
		select {
		case <-ctx.Done():
		case <-time.After(reconnect):
		}
	}
}
