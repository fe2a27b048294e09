// Package cli is the command line, `holdfast NOUN VERB`. It decides nothing: it
// turns words into calls of the API and answers into words, with an exit status
// that programs can rely on (docs/codes.md).
//
//	C1  results go to standard output, everything else to standard error
//	C2  with -o json or yaml the first key is "schema", whose number is raised when a field changes its meaning or goes
//	C3  an error says what to do next, if anything can be done
//	C4  nothing is asked: a command does what its line says, or fails
//
// The daemons and the lab are commands of the same binary; cmd/holdfast adds
// them, so that this package needs to know none of them.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"github.com/holdfast-ha/holdfast/internal/api"
	"github.com/holdfast-ha/holdfast/internal/protoyaml"
)

// Streams of a command.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
	// Terminal: Err is one, so progress may update its line.
	Terminal bool
}

// app is one run of the command line.
type app struct {
	Streams
	api    string
	client string
	output string
}

// Main runs a command line and returns its exit status. more are commands
// beside those of this package.
func Main(ctx context.Context, s Streams, args []string, more ...*cobra.Command) int {
	a := &app{Streams: s}
	root := a.root(more...)
	root.SetArgs(args)
	root.SetIn(s.In)
	root.SetOut(s.Out)
	root.SetErr(s.Err)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return api.ExitOK
	}
	status := a.fail(err)
	if exit := new(Exit); errors.As(err, &exit) {
		return exit.Status
	}
	return status
}

func (a *app) root(more ...*cobra.Command) *cobra.Command {
	root := &cobra.Command{
		Use:   "holdfast",
		Short: "Keep services running when processes, disks, networks and machines fail",
		Long: `Holdfast keeps services running when processes, networks and machines fail.

Commands talk to the daemon of this machine unless --api or HOLDFAST_API names
another: the path of a unix socket, or https://HOST:PORT with --client-dir.`,
		Example: `  holdfast status
  holdfast apply -f cluster.yaml
  holdfast group switch web --to n2
  holdfast explain group web`,
		SilenceUsage: true, SilenceErrors: true,
	}
	grouped(root)
	f := root.PersistentFlags()
	f.StringVar(&a.api, "api", "", "API of a node: the path of its unix socket, or https://HOST:PORT (default $HOLDFAST_API, else "+defaultAPI+")")
	f.StringVar(&a.client, "client-dir", "", "directory with ca.pem, client.pem and client.key, for https (default $HOLDFAST_CLIENT_DIR)")
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		if f := new(failure); errors.As(err, &f) { // a file that a flag names
			return f
		}
		return usage("%v", err).hint(c)
	})
	root.AddCommand(
		a.statusCommand(), a.clusterCommand(), a.nodeCommand(), a.linkCommand(), a.quorumCommand(), a.fenceCommand(), a.groupCommand(), a.packageCommand(), a.resourceCommand(), a.typeCommand(), a.signalCommand(),
		a.applyCommand(), a.diffCommand(), a.exportCommand(), a.eventsCommand(), a.notifierCommand(), a.userCommand(), a.explainCommand(), a.simulateCommand(), a.operationCommand(),
		a.setupCommand(), a.versionCommand(),
	)
	for _, c := range more {
		strict(c)
	}
	root.AddCommand(more...)
	return root
}

// strict gives a command of another package, and those below it, the manners of
// this one's: too few or too many words are a wrong command line.
func strict(c *cobra.Command) {
	for _, sub := range c.Commands() {
		strict(sub)
	}
	if c.HasSubCommands() && (c.Args == nil || c.Args(c, []string{"x"}) != nil) {
		grouped(c)
		return
	}
	check := c.Args
	if check == nil {
		return
	}
	c.Args = func(c *cobra.Command, have []string) error {
		err := check(c, have)
		if err == nil || errors.As(err, new(*Exit)) {
			return err
		}
		for n := range have {
			if check(c, have[:n]) == nil {
				return wrongNumber(c, "too many arguments")
			}
		}
		return wrongNumber(c, "an argument is missing")
	}
}

// grouped makes a command that only has subcommands: alone it shows them, and
// it knows when a word was none of them.
func grouped(c *cobra.Command, sub ...*cobra.Command) *cobra.Command {
	c.AddCommand(sub...)
	c.Args = cobra.ArbitraryArgs
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return c.Help()
		}
		var names []string
		for _, s := range c.Commands() {
			if s.IsAvailableCommand() {
				names = append(names, s.Name())
			}
		}
		return &failure{code: api.CodeUsage, message: fmt.Sprintf("there is no command %q", c.CommandPath()+" "+args[0]),
			next: protoyaml.DidYouMean(args[0], names, "commands")}
	}
	return c
}

// args checks the number of arguments and says which are missing.
func args(least, most int) cobra.PositionalArgs {
	return func(c *cobra.Command, have []string) error {
		if len(have) >= least && len(have) <= most {
			return nil
		}
		if len(have) < least {
			return wrongNumber(c, "an argument is missing")
		}
		return wrongNumber(c, "too many arguments")
	}
}

func wrongNumber(c *cobra.Command, what string) error {
	return usage("%s: %s", what, strings.TrimSuffix(c.UseLine(), " [flags]")).hint(c)
}

// failure is an error as it is shown.
type failure struct {
	code    string
	message string
	next    string
	// All faults of a configuration, one line each.
	faults []string
}

func (f *failure) Error() string { return f.message }

// An Exit is an error of a command beside those of this package that ends the
// program with a status of its own.
type Exit struct {
	Status int
	Err    error
}

func (e *Exit) Error() string { return e.Err.Error() }
func (e *Exit) Unwrap() error { return e.Err }

func (f *failure) hint(c *cobra.Command) *failure {
	f.next = c.CommandPath() + " --help shows how it is used"
	return f
}

func usage(format string, args ...any) *failure {
	return &failure{code: api.CodeUsage, message: fmt.Sprintf(format, args...)}
}

// fail prints an error and returns the exit status (C3).
func (a *app) fail(err error) int {
	f := explain(err)
	if a.output == "json" || a.output == "yaml" {
		a.failMachine(f)
		return api.CodeOf(f.code).Exit
	}
	for _, line := range f.faults {
		fmt.Fprintln(a.Err, line)
	}
	code := ""
	if f.code != "" {
		code = " [" + f.code + "]"
	}
	fmt.Fprintf(a.Err, "holdfast: %s%s\n", f.message, code)
	if f.next != "" {
		fmt.Fprintf(a.Err, "  %s\n", f.next)
	}
	if f.code == "" {
		return api.ExitError
	}
	return api.CodeOf(f.code).Exit
}

// explain turns any error into a failure.
func explain(err error) *failure {
	var f *failure
	switch {
	case errors.As(err, &f):
		return f
	case errors.Is(err, context.Canceled):
		return &failure{code: "", message: "interrupted"}
	}
	return &failure{message: strings.TrimSpace(err.Error())}
}

// Version of this binary.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	if v == "" || v == "(devel)" {
		v = "devel"
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" && len(s.Value) >= 12 {
				v += "-" + s.Value[:12]
			}
		}
	}
	return v
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version of this program", Args: args(0, 0),
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(a.Out, "holdfast "+Version())
			return err
		},
	}
}

// IsTerminal says whether f is one.
func IsTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"
}
