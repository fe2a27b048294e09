package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/api"
	"github.com/holdfast-ha/holdfast/internal/setup"
)

func (a *app) setupCommand() *cobra.Command {
	var file string
	var example, check, noWait bool
	c := &cobra.Command{
		Use: "setup -r FILE", Short: "Set up this node unattended, as a response file says", Args: args(0, 0),
		Long: `Set up this node unattended, as a response file says: make the cluster or join
it, start the daemon, and on the first node apply a configuration, make tokens
for the others, and add coordination points and users.

All faults of the file are reported at once, and then nothing is changed. Each
step sees whether it is done already, so the command can be interrupted and
repeated at any time: it goes on where it ended.`,
		Example: "  holdfast setup --example > n1.yaml\n  holdfast setup -r n1.yaml --check\n  holdfast setup -r n1.yaml",
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case example && (file != "" || check):
				return usage("--example stands alone").hint(cmd)
			case example:
				_, err := fmt.Fprint(a.Out, setup.Example)
				return err
			case file == "":
				return usage("name the response file with -r").hint(cmd)
			}
			s, err := a.readSetup(cmd.Context(), file)
			if err != nil {
				return err
			}
			s.noWait = noWait
			if check {
				return s.tell()
			}
			return s.run(cmd.Context())
		},
	}
	f := c.Flags()
	f.StringVarP(&file, "response", "r", "", "the response file, - for standard input")
	f.BoolVar(&check, "check", false, "only report faults, and what there is to do")
	f.BoolVar(&example, "example", false, "print a response file that explains itself")
	f.BoolVar(&noWait, "no-wait", false, "do not wait for other nodes: leave what needs them to the next run")
	must(c.MarkFlagFilename("response", "yaml", "yml"))
	return c
}

// setupRun carries a plan out.
type setupRun struct {
	*app
	*setup.Plan
	c      *client
	noWait bool
	// Steps begun, and changes made.
	step, changes int
}

// errLater ends a run that leaves the rest to the next one.
var errLater = errors.New("later")

// readSetup reads and checks a response file.
func (a *app) readSetup(ctx context.Context, name string) (*setupRun, error) {
	var text []byte
	var err error
	shown, dir := name, filepath.Dir(name)
	if name == "-" {
		shown, dir = "standard input", "."
		text, err = io.ReadAll(io.LimitReader(a.In, maxFile))
	} else {
		text, err = readFile(name)
	}
	if err == nil {
		dir, err = filepath.Abs(dir)
	}
	if err != nil {
		return nil, &failure{code: api.CodeUsage, message: err.Error()}
	}
	host, err := os.Hostname()
	if err != nil {
		return nil, err
	}
	f := setup.Read(shown, text, dir, host)
	local := *a
	local.api = filepath.Join(f.Response.GetRunDir(), filepath.Base(defaultAPI))
	c, err := local.dial()
	if err != nil {
		return nil, err
	}
	known := setup.Known{}
	if f.Own != nil {
		known = knownOf(ctx, c)
	}
	plan, faults := f.Check(known)
	if len(faults) > 0 {
		return nil, badConfig(faults)
	}
	return &setupRun{app: &local, Plan: plan, c: c}, nil
}

// knownOf the node, if it answers.
func knownOf(ctx context.Context, c *client) (k setup.Known) {
	ctx, cancel := context.WithTimeout(ctx, completeLimit)
	defer cancel()
	if m, err := call(ctx, c, c.config.Export, &v1.ExportRequest{}); err == nil {
		k.Configuration = m.GetConfiguration()
	}
	if m, err := call(ctx, c, c.quorum.Show, &v1.ShowQuorumRequest{}); err == nil {
		k.Points = append(namesOf(m.GetWanted()), pointNames(m.GetPoints())...)
	}
	return k
}

func pointNames(list []*v1.PointInfo) (names []string) {
	for _, p := range list {
		names = append(names, p.GetPoint().GetName())
	}
	return names
}

// A setupStep does one thing, or sees that it is done.
type setupStep struct {
	name string
	do   func(context.Context) error
}

func (s *setupRun) steps() []setupStep {
	all := []setupStep{{"state directory", s.makeState}, {"daemon", s.startDaemon}, {"membership", s.awaitMember}}
	if s.GetJoin() != nil {
		return all
	}
	if len(s.Others()) > 0 || s.Documents != nil {
		all = append(all, setupStep{"configuration", s.configure})
	}
	if len(s.Users) > 0 {
		all = append(all, setupStep{"users", s.addUsers})
	}
	if s.GetTokensInto() != "" {
		all = append(all, setupStep{"tokens", s.makeTokens})
	}
	if len(s.GetPoints()) > 0 {
		if len(s.Others()) > 0 {
			all = append(all, setupStep{"other nodes", s.awaitOthers})
		}
		all = append(all, setupStep{"coordination points", s.addPoints})
	}
	return all
}

// tell what there is to do.
func (s *setupRun) tell() error {
	var names []string
	for _, step := range s.steps() {
		names = append(names, step.name)
	}
	_, err := fmt.Fprintf(s.Out, "no faults; nothing was changed\nsteps for %s: %s\n", s.GetNode(), strings.Join(names, ", "))
	return err
}

func (s *setupRun) run(ctx context.Context) error {
	all := s.steps()
	for i, step := range all {
		s.step = i + 1
		fmt.Fprintf(s.Out, "%d/%d %s\n", i+1, len(all), step.name)
		err := step.do(ctx)
		if errors.Is(err, errLater) {
			var left []string
			for _, l := range all[i+1:] {
				left = append(left, l.name)
			}
			if len(left) == 0 {
				return nil
			}
			_, err = fmt.Fprintf(s.Out, "left to the next run: %s\n", strings.Join(left, ", "))
			return err
		}
		if err != nil {
			return afterwards(err)
		}
	}
	if s.changes == 0 {
		_, err := fmt.Fprintf(s.Out, "%s is set up; there was nothing to do\n", s.GetNode())
		return err
	}
	_, err := fmt.Fprintf(s.Out, "%s is set up\n", s.GetNode())
	return err
}

// afterwards says that the rest is not lost.
func afterwards(err error) error {
	f := *explain(err)
	const again = "mend that and repeat the command: it goes on from here"
	if f.next == "" {
		f.next = again
	} else {
		f.next += "; then repeat this command: it goes on from here"
	}
	return &f
}

func (s *setupRun) done(format string, args ...any) {
	s.changes++
	s.say(format, args...)
}

func (s *setupRun) say(format string, args ...any) {
	fmt.Fprintf(s.Out, "    "+format+"\n", args...)
}
