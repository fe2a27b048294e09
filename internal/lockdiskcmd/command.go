// Package lockdiskcmd is `holdfast lockdisk`: commands on a disk or a file that
// is a coordination point. They need no running node, and speak to none.
package lockdiskcmd

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-ha/holdfast/internal/api"
	"github.com/holdfast-ha/holdfast/internal/cli"
	"github.com/holdfast-ha/holdfast/internal/cluster/lockdisk"
	"github.com/holdfast-ha/holdfast/internal/cluster/lockdisk/device"
	"github.com/holdfast-ha/holdfast/internal/cluster/lockdisk/lockdiskpb"
	"github.com/holdfast-ha/holdfast/internal/protoyaml"
)

// Schemas of the results of show and check.
const (
	ShowSchema  = "lockdisk-show/1"
	CheckSchema = "lockdisk-check/1"
)

// line is what all subcommands share.
type line struct{ output string }

// Command is `holdfast lockdisk`.
func Command() *cobra.Command {
	l := &line{}
	root := &cobra.Command{
		Use:   "lockdisk",
		Short: "Prepare and look at disks that break ties",
		Long: `Prepare and look at disks that break ties.

A lock disk is a small block device that all nodes of a cluster reach, or a file
on a file system that they share. It is a coordination point: after a split, it
decides which half goes on. It needs no reservations. Clusters can share one.`,
		Example: `  holdfast lockdisk format /dev/disk/by-id/wwn-0x5000c500a0b1c2d3
  holdfast quorum add lock1 --lock-disk /dev/disk/by-id/wwn-0x5000c500a0b1c2d3
  holdfast lockdisk show /dev/disk/by-id/wwn-0x5000c500a0b1c2d3
  holdfast lockdisk check /dev/disk/by-id/wwn-0x5000c500a0b1c2d3 --expect n1,n2`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usage(c, "there is no command %q", c.CommandPath()+" "+args[0])
			}
			return nil
		},
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.AddCommand(l.format(), l.show(), l.check())
	return root
}

func usage(c *cobra.Command, format string, args ...any) error {
	return &cli.Exit{Status: api.ExitUsage, Err: fmt.Errorf(format+"; "+c.CommandPath()+" --help shows how it is used", args...)}
}

// explained gives an error its exit status.
func explained(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.As(err, new(*cli.Exit)):
		return err
	case errors.As(err, new(*device.RefusedError)):
		return &cli.Exit{Status: api.ExitRefused, Err: err}
	case errors.Is(err, os.ErrNotExist):
		return &cli.Exit{Status: api.ExitUsage, Err: err}
	}
	return &cli.Exit{Status: api.ExitError, Err: err}
}

// onPath is a subcommand that works on one disk.
func (l *line) onPath(c *cobra.Command, run func(c *cobra.Command, path string) error) *cobra.Command {
	c.Use += " PATH"
	c.Args = func(c *cobra.Command, args []string) error {
		switch {
		case len(args) < 1:
			return usage(c, "an argument is missing: %s", c.UseLine())
		case len(args) > 1:
			return usage(c, "too many arguments: %s", c.UseLine())
		}
		return nil
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		path, err := filepath.Abs(args[0])
		if err != nil {
			return err
		}
		return explained(run(c, path))
	}
	return c
}

func (l *line) withOutput(c *cobra.Command) *cobra.Command {
	c.Flags().StringVarP(&l.output, "output", "o", "table", "form of the result: table, json or yaml")
	if err := c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json", "yaml"}, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // the flag was defined above
	}
	c.PreRunE = func(c *cobra.Command, _ []string) error {
		switch l.output {
		case "table", "json", "yaml":
			return nil
		}
		return usage(c, "-o %s: the forms are table, json and yaml", l.output)
	}
	return c
}

func (l *line) print(c *cobra.Command, schema string, m proto.Message, table func(io.Writer)) error {
	opts := protoyaml.Options{First: []protoyaml.Pair{{Key: "schema", Value: schema}}, Full: true}
	var text []byte
	switch l.output {
	case "json":
		text = opts.JSON(m)
	case "yaml":
		text = opts.YAML(m)
	default:
		var b strings.Builder
		table(&b)
		text = []byte(b.String())
	}
	_, err := c.OutOrStdout().Write(text)
	return err
}

func (l *line) format() *cobra.Command {
	var o device.FormatOptions
	c := &cobra.Command{
		Use:   "format",
		Short: "Make a lock disk of a block device or file",
		Long: `Make a lock disk of a block device or file. Do it once, on one node.

A disk that is in use is refused. One that holds anything is refused unless
--force is given. What clusters have promised on the disk is forgotten: take the
coordination point out of them first.

Use a name that stays the same after a restart and is the same on all nodes, as
those below /dev/disk/by-id. ` + fmt.Sprintf("One slot takes 3 MiB, %d slots %d MiB.", device.DefaultSlots, (lockdisk.Size(device.DefaultSlots)+1<<20-1)>>20),
		Example: `  holdfast lockdisk format /dev/disk/by-id/wwn-0x5000c500a0b1c2d3
  holdfast lockdisk format /shared/lock.img --create --slots 1`,
	}
	c.Flags().IntVar(&o.Slots, "slots", 0, fmt.Sprintf("clusters that can share it (default as many as fit, %d at most)", device.DefaultSlots))
	c.Flags().BoolVar(&o.Force, "force", false, "overwrite what is on it")
	c.Flags().BoolVar(&o.Create, "create", false, "make the file, if there is none")
	return l.onPath(c, func(c *cobra.Command, path string) error {
		if c.Flags().Changed("slots") && (o.Slots < 1 || o.Slots > lockdisk.MaxSlots) {
			return usage(c, "--slots %d: 1 to %d are possible", o.Slots, lockdisk.MaxSlots)
		}
		h, err := device.Format(path, o)
		if err != nil {
			return err
		}
		fmt.Fprintf(c.ErrOrStderr(), "%s is a lock disk now: %v, for %s.\nNext, on a node of each: holdfast quorum add NAME --lock-disk %s\n", path, h.Disk, count(h.Slots, "cluster"), path)
		return nil
	})
}

func (l *line) show() *cobra.Command {
	var between time.Duration
	c := &cobra.Command{
		Use:   "show",
		Short: "Show which clusters and nodes use a lock disk, and what stands there",
		Long: `Show which clusters and nodes use a lock disk, and what stands there.

It looks twice. A node that has written in between is told as alive; nodes that
run write every ` + lockdisk.SignOfLife.String() + ` at least. Nothing is changed.`,
	}
	c.Flags().DurationVar(&between, "between", time.Second, "time between the two looks; 0: look once")
	return l.withOutput(l.onPath(c, func(c *cobra.Command, path string) error {
		if between < 0 {
			return usage(c, "--between %v: a time from 0 on", between)
		}
		v, err := device.Show(c.Context(), path, between)
		if err != nil {
			return err
		}
		return l.print(c, ShowSchema, v, func(w io.Writer) { viewTable(w, v) })
	}))
}

func (l *line) check() *cobra.Command {
	var o device.CheckOptions
	c := &cobra.Command{
		Use:   "check",
		Short: "Try whether a lock disk can do what a node needs of it",
		Long: `Try whether a lock disk can do what a node needs of it: sizes, damage, the time
of a read and of a durable write.

With --expect it waits until the nodes named have written, which those that run
and use this disk do every ` + lockdisk.SignOfLife.String() + `. A node that stays silent is down, or uses
another disk by the same name.`,
		Example: `  holdfast lockdisk check /dev/disk/by-id/wwn-0x5000c500a0b1c2d3 --expect n1,n2`,
	}
	c.Flags().StringSliceVar(&o.Expect, "expect", nil, "nodes that must be seen to write")
	c.Flags().DurationVar(&o.Patience, "timeout", 2*lockdisk.SignOfLife, "how long to wait for them")
	c.Flags().BoolVar(&o.ReadOnly, "read-only", false, "do not try a write")
	return l.withOutput(l.onPath(c, func(c *cobra.Command, path string) error {
		if o.Patience <= 0 {
			return usage(c, "--timeout %v: a time above 0", o.Patience)
		}
		r, err := device.Check(c.Context(), path, o)
		if err != nil {
			return err
		}
		if err := l.print(c, CheckSchema, r, func(w io.Writer) { checkTable(w, r) }); err != nil {
			return err
		}
		var faults []string
		if n := len(problems(r.GetView())); n > 0 {
			faults = append(faults, fmt.Sprintf("%s on the disk, listed above", count(n, "problem")))
		}
		if len(r.GetSilent()) > 0 {
			faults = append(faults, fmt.Sprintf("%s did not write within %v: not running, not using this point, or at another disk (compare holdfast lockdisk show there)",
				strings.Join(r.GetSilent(), ", "), o.Patience))
		}
		if len(faults) > 0 {
			return errors.New(strings.Join(faults, "; "))
		}
		return nil
	}))
}

func problems(v *lockdiskpb.View) (list []string) {
	list = append(list, v.GetProblems()...)
	for _, s := range v.GetUsed() {
		for _, p := range s.GetProblems() {
			list = append(list, fmt.Sprintf("slot %d: %s", s.GetSlot(), p))
		}
		for _, n := range s.GetNodes() {
			for _, p := range n.GetProblems() {
				list = append(list, fmt.Sprintf("slot %d, block %d (%s): %s", s.GetSlot(), n.GetNumber(), cmp.Or(n.GetNode(), "no name"), p))
			}
		}
	}
	return list
}

func viewTable(w io.Writer, v *lockdiskpb.View) {
	fmt.Fprintf(w, "lock disk %s, %s, %d of them in use\n", v.GetDisk(), count(int(v.GetSlots()), "slot"), len(v.GetUsed()))
	for _, s := range v.GetUsed() {
		fmt.Fprintf(w, "\nslot %d, cluster %s\n", s.GetSlot(), cmp.Or(s.GetCluster(), "unknown"))
		if len(s.GetNodes()) == 0 {
			continue
		}
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "BLOCK\tNODE\tWRITES\tREGISTER\tTERM\tVOTE\tPROMISED\tACCEPTED\tCOUNTER\tSUSPECTS")
		for _, n := range s.GetNodes() {
			fmt.Fprintln(t, strings.Join([]string{
				strconv.Itoa(int(n.GetNumber())), cmp.Or(n.GetNode(), "-"), written(n), number(n.GetRegister()), number(n.GetTerm()), number(n.GetVote()),
				brief(n.GetPromised()), brief(n.GetAccepted()), number(n.GetCounter()), cmp.Or(strings.Join(n.GetSuspects(), " "), "-"),
			}, "\t"))
		}
		_ = t.Flush() // into a strings.Builder
		for _, n := range s.GetNodes() {
			if n.GetAbstains() != 0 {
				fmt.Fprintf(w, "node %s has found that the disk has forgotten what was written: nobody uses it for registers up to %d\n", n.GetNode(), n.GetAbstains())
			}
			if n.GetNonce() != "" {
				fmt.Fprintf(w, "node %s has left the mark %s\n", n.GetNode(), n.GetNonce())
			}
		}
	}
	if list := problems(v); len(list) > 0 {
		fmt.Fprintf(w, "\nproblems\n  %s\n", strings.Join(list, "\n  "))
	}
}

func written(n *lockdiskpb.NodeView) string {
	if n.GetMoved() {
		return fmt.Sprintf("%d, moving", n.GetSequence())
	}
	return strconv.FormatUint(n.GetSequence(), 10)
}

// brief form of a ballot: its counter, and enough of its proposer to tell them apart.
func brief(b string) string {
	counter, proposer, _ := strings.Cut(b, ".")
	return cmp.Or(strings.TrimSuffix(counter+"."+proposer[:min(len(proposer), 4)], "."), "-")
}

func number(n uint64) string {
	if n == 0 {
		return "-"
	}
	return strconv.FormatUint(n, 10)
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func checkTable(w io.Writer, r *lockdiskpb.CheckResult) {
	v := r.GetView()
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name, value string) {
		if value != "" {
			fmt.Fprintf(t, "%s:\t%s\n", name, value)
		}
	}
	row("Path", v.GetPath())
	row("Disk", v.GetDisk())
	row("Slots", fmt.Sprintf("%d, %d in use", v.GetSlots(), len(v.GetUsed())))
	row("Size", fmt.Sprintf("%d bytes", v.GetBytes()))
	if r.GetLogicalSector() != 0 {
		row("Sectors", fmt.Sprintf("%d bytes, physically %d", r.GetLogicalSector(), r.GetPhysicalSector()))
	}
	row("One read", took(r.GetRead().AsDuration()))
	if r.GetWrite() != nil {
		row("One durable write", took(r.GetWrite().AsDuration()))
	}
	row("Writing", strings.Join(r.GetMoved(), ", "))
	row("Silent", strings.Join(r.GetSilent(), ", "))
	row("Problems", strings.Join(problems(v), "; "))
	_ = t.Flush() // into a strings.Builder
}

func took(d time.Duration) string { return protoyaml.Duration(d.Round(time.Microsecond)) }
