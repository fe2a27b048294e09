package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/api"
	"github.com/holdfast-ha/holdfast/internal/config"
	"github.com/holdfast-ha/holdfast/internal/group/agents"
)

// fileFlag is -f, which may be given several times.
func fileFlag(c *cobra.Command, files *[]string) {
	c.Flags().StringArrayVarP(files, "file", "f", nil, "file with documents, - for standard input; may be given more than once")
	must(c.MarkFlagFilename("file", "yaml", "yml"))
}

// read parses the files.
func (a *app) read(names []string) (*config.Documents, error) {
	if len(names) == 0 {
		return nil, usage("name the files with -f")
	}
	var files []config.File
	for _, name := range names {
		f := config.File{Name: name}
		var err error
		if name == "-" {
			f.Name = "standard input"
			f.Text, err = io.ReadAll(io.LimitReader(a.In, maxFile))
		} else {
			f.Text, err = readFile(name)
		}
		if err != nil {
			return nil, &failure{code: api.CodeUsage, message: err.Error()}
		}
		files = append(files, f)
	}
	return config.Parse(files...), nil
}

const maxFile = 64 << 20

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxFile))
}

// badConfig is the failure for a configuration with faults.
func badConfig(faults []config.Fault) *failure {
	f := &failure{code: api.CodeBadConfig}
	for _, fault := range faults {
		f.faults = append(f.faults, fault.String())
	}
	n := fmt.Sprintf("%d faults", len(faults))
	if len(faults) == 1 {
		n = "1 fault"
	}
	f.message = n + "; nothing was changed"
	return f
}

func localFault(f *v1.Fault) config.Fault {
	return config.Fault{Path: f.GetPath(), Problem: f.GetProblem(), Fix: f.GetFix(), Note: f.GetNote()}
}

// located puts the faults that a call was refused for in their places.
func (c *client) located(err error, docs *config.Documents) error {
	var e *connect.Error
	if !errors.As(err, &e) {
		return c.failed(err)
	}
	d := detailOf(e)
	if d == nil || len(d.GetFaults()) == 0 {
		return c.failed(err)
	}
	var faults []config.Fault
	for _, f := range d.GetFaults() {
		faults = append(faults, localFault(f))
	}
	return badConfig(docs.Locate(faults))
}

// checkReading reports everything that is wrong, if anything is wrong with the
// text itself: the cluster would never see it.
func checkReading(ctx context.Context, c *client, docs *config.Documents, prune bool) error {
	if len(docs.Faults()) == 0 {
		return nil
	}
	if m, err := call(ctx, c, c.config.Export, &v1.ExportRequest{}); err == nil {
		var types []*v1.ResourceType
		for _, t := range m.GetConfiguration().GetTypes() {
			if t.GetBundled() {
				types = append(types, t)
			}
		}
		return badConfig(docs.Check(m.GetConfiguration(), types, prune, agents.Check))
	}
	f := badConfig(docs.Faults())
	f.next = "the cluster does not answer: what depends on its configuration was not checked"
	return f
}

// notes prints what can be applied but should be looked at.
func (a *app) notes(docs *config.Documents, list []*v1.Fault) {
	var notes []config.Fault
	for _, f := range list {
		notes = append(notes, localFault(f))
	}
	for _, f := range docs.Locate(notes) {
		fmt.Fprintln(a.Err, f)
	}
}

func (a *app) applyCommand() *cobra.Command {
	var files []string
	var dryRun, prune bool
	var base uint64
	c := a.withOutput(&cobra.Command{
		Use: "apply -f FILE", Short: "Put documents into the configuration: all of them or, when there is a fault, none", Args: args(0, 0),
		Long: `Put documents into the configuration. Each replaces the object of its kind and
name; objects that the files do not have stay, unless --prune is given. All
faults are reported at once, and then nothing is changed.

What is frozen stays frozen: only the unfreeze commands end that.`,
		Example: "  holdfast apply -f cluster.yaml\n  holdfast export > all.yaml; editor all.yaml; holdfast apply -f all.yaml --prune",
		RunE: a.run(func(ctx context.Context, c *client, _ []string) error {
			docs, err := a.read(files)
			if err != nil {
				return err
			}
			if err := checkReading(ctx, c, docs, prune); err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(ctx, callLimit)
			defer cancel()
			r, err := c.config.Apply(ctx, connect.NewRequest(&v1.ApplyRequest{Documents: docs.Configuration(), BaseRevision: base, DryRun: dryRun, Prune: prune}))
			if err != nil {
				return c.located(err, docs)
			}
			a.notes(docs, r.Msg.GetNotes())
			return a.show("applied/1", r.Msg, func(w io.Writer) {
				fmt.Fprint(w, config.Render(r.Msg.GetChanges()))
				switch {
				case len(r.Msg.GetChanges()) == 0:
					fmt.Fprintf(w, "nothing to change: revision %d\n", r.Msg.GetConfigRevision())
				case dryRun:
					fmt.Fprintf(w, "this can be applied to revision %d; nothing was changed\n", r.Msg.GetConfigRevision())
				default:
					fmt.Fprintf(w, "applied: revision %d\n", r.Msg.GetConfigRevision())
				}
			})
		}),
	})
	fileFlag(c, &files)
	c.Flags().BoolVar(&dryRun, "dry-run", false, "check and show what would change, but change nothing")
	c.Flags().BoolVar(&prune, "prune", false, "remove the objects that the files do not have")
	c.Flags().Uint64Var(&base, "base-revision", 0, "refuse if the configuration is not at this revision any more")
	return c
}

func (a *app) diffCommand() *cobra.Command {
	var files []string
	var prune bool
	c := a.withOutput(&cobra.Command{
		Use: "diff -f FILE", Short: "Show what apply would change", Args: args(0, 0),
		RunE: a.run(func(ctx context.Context, c *client, _ []string) error {
			docs, err := a.read(files)
			if err != nil {
				return err
			}
			if err := checkReading(ctx, c, docs, prune); err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(ctx, callLimit)
			defer cancel()
			r, err := c.config.Diff(ctx, connect.NewRequest(&v1.DiffRequest{Documents: docs.Configuration(), Prune: prune}))
			if err != nil {
				return c.located(err, docs)
			}
			a.notes(docs, r.Msg.GetNotes())
			return a.show("changes/1", r.Msg, func(w io.Writer) {
				heading(w, r.Msg.GetSource())
				if len(r.Msg.GetChanges()) == 0 {
					fmt.Fprintln(w, "no difference")
				}
				fmt.Fprint(w, config.Render(r.Msg.GetChanges()))
			})
		}),
	})
	fileFlag(c, &files)
	c.Flags().BoolVar(&prune, "prune", false, "count the objects that the files do not have as removed")
	return c
}

func (a *app) exportCommand() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use: "export", Short: "Print the configuration as documents that apply takes", Args: args(0, 0),
		PreRunE: func(c *cobra.Command, _ []string) error {
			if output != "yaml" && output != "json" {
				return usage("-o %s: the forms are yaml and json", output).hint(c)
			}
			return nil
		},
		RunE: a.run(func(ctx context.Context, c *client, _ []string) error {
			m, err := call(ctx, c, c.config.Export, &v1.ExportRequest{})
			if err != nil {
				return err
			}
			if n := m.GetSource().GetNote(); n != "" {
				fmt.Fprintln(a.Err, n)
			}
			if output == "json" {
				a.output = "json"
				return a.show("configuration/1", m.GetConfiguration(), nil)
			}
			_, err = a.Out.Write(config.Export(m.GetConfiguration()))
			return err
		}),
	}
	c.Flags().StringVarP(&output, "output", "o", "yaml", "yaml (documents) or json")
	return c
}

// complete configuration of a new cluster from files.
func (a *app) newCluster(files []string) (*v1.Configuration, error) {
	docs, err := a.read(files)
	if err != nil {
		return nil, err
	}
	types := agents.Types()
	if faults := docs.Check(nil, types, false, agents.Check); len(faults) > 0 {
		return nil, badConfig(faults)
	}
	cfg := docs.Configuration()
	for _, f := range docs.Locate(append(config.LintQuorum(cfg, 0), config.Lint(cfg, types)...)) {
		fmt.Fprintln(a.Err, f)
	}
	return config.Complete(proto.CloneOf(cfg), types), nil
}
