// Package arbitercmd is `holdfast arbiter`: the commands on the arbiter's
// machine. They speak to the running arbiter over its private socket, or work
// on its directory while it does not run.
package arbitercmd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-ha/holdfast/internal/api"
	"github.com/holdfast-ha/holdfast/internal/arbiter"
	"github.com/holdfast-ha/holdfast/internal/arbiter/arbiterbench"
	"github.com/holdfast-ha/holdfast/internal/arbiter/arbiterd"
	"github.com/holdfast-ha/holdfast/internal/arbiter/arbiterpb"
	"github.com/holdfast-ha/holdfast/internal/cli"
	"github.com/holdfast-ha/holdfast/internal/protoyaml"
)

const defaultDir = "/var/lib/holdfast-arbiter"

// line is what all subcommands share.
type line struct{ dir, output string }

// Command is `holdfast arbiter`.
func Command() *cobra.Command {
	l := &line{}
	root := &cobra.Command{
		Use:   "arbiter",
		Short: "Run a coordination point for many clusters",
		Long: `Run a coordination point for many clusters.

An arbiter decides which half of a split cluster goes on. It runs outside of the
clusters that it serves, best at a site of its own. One process serves thousands.`,
		Example: `  holdfast arbiter init --listen :` + arbiter.DefaultPort + ` --address arbiter.example.com:` + arbiter.DefaultPort + `
  holdfast arbiter serve
  holdfast arbiter token --name shop      # then, on a node: holdfast quorum add NAME --arbiter-token TOKEN
  holdfast arbiter list`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usage(c, "there is no command %q", c.CommandPath()+" "+args[0])
			}
			return nil
		},
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.PersistentFlags().StringVar(&l.dir, "dir", defaultDir, "directory of the arbiter")
	root.AddCommand(l.init(), l.serve(), l.token(), l.list(), l.show(), l.status(), l.forget(), l.backup(), l.restore(), l.moved(), l.bench())
	return root
}

func usage(c *cobra.Command, format string, args ...any) error {
	return &cli.Exit{Status: api.ExitUsage, Err: fmt.Errorf(format+"; "+c.CommandPath()+" --help shows how it is used", args...)}
}

// exact number of arguments.
func exact(n int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		switch {
		case len(args) < n:
			return usage(c, "an argument is missing: %s", c.UseLine())
		case len(args) > n:
			return usage(c, "too many arguments: %s", c.UseLine())
		}
		return nil
	}
}

// explained gives an error its exit status.
func explained(err error) error {
	status := 0
	switch {
	case err == nil:
		return nil
	case errors.As(err, new(*cli.Exit)):
		return err
	case errors.Is(err, arbiterd.ErrUnknownCluster):
		status = api.ExitNotFound
	case errors.Is(err, arbiterd.ErrNotRunning), errors.Is(err, fs.ErrPermission):
		status = api.ExitUnreachable
	case errors.Is(err, arbiterd.ErrNoStore), errors.Is(err, arbiterd.ErrDamaged), errors.Is(err, arbiterd.ErrNewer), errors.Is(err, arbiterd.ErrCopy),
		errors.Is(err, arbiterd.ErrInUse), errors.Is(err, fs.ErrExist):
		status = api.ExitRefused
	default:
		status = api.ExitError
	}
	return &cli.Exit{Status: status, Err: err}
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

// print a result in the form that was asked for.
func (l *line) print(c *cobra.Command, schema string, m proto.Message, table func() string) error {
	opts := protoyaml.Options{First: []protoyaml.Pair{{Key: "schema", Value: schema}}, Full: true}
	var text string
	switch l.output {
	case "json":
		text = string(opts.JSON(m))
	case "yaml":
		text = string(opts.YAML(m))
	default:
		text = table()
	}
	_, err := fmt.Fprint(c.OutOrStdout(), text)
	return err
}

func (l *line) ask(ctx context.Context, m *arbiterpb.ToControl) (*arbiterpb.FromControl, error) {
	return arbiterd.Ask(ctx, l.dir, m)
}

func (l *line) init() *cobra.Command {
	var listen, address string
	c := &cobra.Command{
		Use: "init", Short: "Make a new arbiter", Args: exact(0),
		RunE: func(c *cobra.Command, _ []string) error {
			made, err := arbiterd.Make(arbiterd.Init{Dir: l.dir, Listen: listen, Address: address})
			if err != nil {
				return explained(fmt.Errorf("make an arbiter in %s: %w", l.dir, err))
			}
			fmt.Fprint(c.OutOrStdout(), describe(made))
			fmt.Fprintf(c.OutOrStdout(), "\nNext: holdfast arbiter serve --dir %s\n", l.dir)
			return nil
		},
	}
	c.Flags().StringVar(&listen, "listen", ":"+arbiter.DefaultPort, "HOST:PORT to listen on, TCP and UDP; without HOST: on every address")
	c.Flags().StringVar(&address, "address", "", "HOST:PORT by which clusters find it (default: --listen, or this machine's name)")
	return c
}

func describe(m arbiterd.Made) string {
	return pairs([2]string{"Instance", m.Instance}, [2]string{"Key fingerprint", m.KeyFingerprint}, [2]string{"Listens on", m.Listen}, [2]string{"Address", m.Address})
}

func (l *line) serve() *cobra.Command {
	var listen, metrics string
	c := &cobra.Command{
		Use: "serve", Short: "Run the arbiter", Args: exact(0),
		RunE: func(c *cobra.Command, _ []string) error {
			log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("daemon", "arbiter")
			s, err := arbiterd.Open(arbiterd.Options{Dir: l.dir, Listen: listen, Metrics: metrics, Version: cli.Version(), Log: log})
			if err != nil {
				return explained(err)
			}
			return explained(s.Serve(c.Context()))
		},
	}
	c.Flags().StringVar(&listen, "listen", "", "HOST:PORT to listen on this time, instead of that of init")
	c.Flags().StringVar(&metrics, "metrics", "", "loopback address for Prometheus, as 127.0.0.1:9947 (default: none)")
	return c
}

func (l *line) token() *cobra.Command {
	var name, address string
	var valid time.Duration
	c := l.withOutput(&cobra.Command{
		Use: "token", Short: "Print a token with which one cluster can register, once", Args: exact(0),
		RunE: func(c *cobra.Command, _ []string) error {
			if address != "" {
				if err := arbiter.CheckAddress(address); err != nil {
					return usage(c, "%v", err)
				}
			}
			a, err := l.ask(c.Context(), &arbiterpb.ToControl{Body: &arbiterpb.ToControl_MakeToken{MakeToken: &arbiterpb.MakeToken{
				Name: name, Address: address, ValidSeconds: int64(valid / time.Second),
			}}})
			if err != nil {
				return explained(err)
			}
			t := a.GetTokenMade()
			return l.print(c, "arbiter-token/1", t, func() string { return t.GetToken() + "\n" })
		},
	})
	c.Flags().StringVar(&name, "name", "", "only for a cluster of this name")
	c.Flags().StringVar(&address, "address", "", "HOST:PORT by which this cluster finds the arbiter (default: that of init)")
	c.Flags().DurationVar(&valid, "valid", time.Hour, "how long it is valid")
	return c
}

func (l *line) clusters(ctx context.Context, names ...string) (*arbiterpb.Clusters, error) {
	a, err := l.ask(ctx, &arbiterpb.ToControl{Body: &arbiterpb.ToControl_List{List: &arbiterpb.List{Clusters: names}}})
	return a.GetClusters(), err
}

// complete the name of a cluster.
func (l *line) complete(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(c.Context(), 2*time.Second)
	defer cancel()
	all, err := l.clusters(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, m := range all.GetClusters() {
		names = append(names, m.GetName())
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func (l *line) list() *cobra.Command {
	return l.withOutput(&cobra.Command{
		Use: "list", Short: "List the clusters", Args: exact(0),
		RunE: func(c *cobra.Command, _ []string) error {
			all, err := l.clusters(c.Context())
			if err != nil {
				return explained(err)
			}
			return l.print(c, "arbiter-clusters/1", all, func() string { return listTable(all, time.Now()) })
		},
	})
}

func (l *line) show() *cobra.Command {
	return l.withOutput(&cobra.Command{
		Use: "show CLUSTER", Short: "Show what is promised to a cluster", Args: exact(1), ValidArgsFunction: l.complete,
		RunE: func(c *cobra.Command, args []string) error {
			all, err := l.clusters(c.Context(), args[0])
			if err != nil {
				return explained(err)
			}
			m := all.GetClusters()[0]
			return l.print(c, "arbiter-cluster/1", m, func() string { return showTable(m, time.Now()) })
		},
	})
}

func (l *line) status() *cobra.Command {
	return l.withOutput(&cobra.Command{
		Use: "status", Short: "Show the arbiter itself", Args: exact(0),
		RunE: func(c *cobra.Command, _ []string) error {
			a, err := l.ask(c.Context(), &arbiterpb.ToControl{Body: &arbiterpb.ToControl_Status{Status: &arbiterpb.Status{}}})
			if err != nil {
				return explained(err)
			}
			return l.print(c, "arbiter-status/1", a.GetStatus(), func() string { return statusTable(a.GetStatus(), time.Now()) })
		},
	})
}

func (l *line) forget() *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use: "forget CLUSTER", Short: "Forget a cluster that needs this arbiter no more", Args: exact(1), ValidArgsFunction: l.complete,
		Long: `Forget a cluster that needs this arbiter no more.

Take the coordination point out of the cluster first (holdfast quorum remove): a
cluster that still counts on it has one point less from this moment on. Only the
number of its register stays here, so that nobody who still believes in it gets a
second vote. To come back the cluster registers again, with a new token.`,
		RunE: func(c *cobra.Command, args []string) error {
			if !yes {
				return usage(c, "forgetting %s can't be undone: say --yes", args[0])
			}
			a, err := l.ask(c.Context(), &arbiterpb.ToControl{Body: &arbiterpb.ToControl_Forget{Forget: &arbiterpb.Forget{Cluster: args[0]}}})
			if err != nil {
				return explained(err)
			}
			f := a.GetForgotten()
			fmt.Fprintf(c.OutOrStdout(), "Cluster %s (%s) is forgotten. Register numbers up to %d stay refused.\n", f.GetName(), f.GetUuid(), f.GetRegister())
			return nil
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "do it")
	return c
}

func (l *line) backup() *cobra.Command {
	return &cobra.Command{
		Use: "backup FILE", Short: "Copy the store, whether or not the arbiter runs", Args: exact(1),
		RunE: func(c *cobra.Command, args []string) error {
			if err := arbiterd.Backup(c.Context(), l.dir, args[0]); err != nil {
				return explained(err)
			}
			fmt.Fprintf(c.OutOrStdout(), "%s holds the arbiter's key too: keep it private.\n", args[0])
			return nil
		},
	}
}

func (l *line) restore() *cobra.Command {
	return &cobra.Command{
		Use: "restore FILE", Short: "Make an arbiter from a backup; its clusters must be admitted again", Args: exact(1),
		Long: `Make an arbiter from a backup.

What was promised after the backup is not in it, so the result is another
instance: it has the same key and knows the clusters, but answers to none of them
until its coordination point was replaced (on a node: holdfast quorum replace,
with a new token). Until then each cluster has one point less.`,
		RunE: func(c *cobra.Command, args []string) error {
			made, clusters, err := arbiterd.Restore(args[0], l.dir)
			if err != nil {
				return explained(err)
			}
			fmt.Fprint(c.OutOrStdout(), describe(made))
			fmt.Fprintf(c.OutOrStdout(), "\n%d clusters abstain. For each: holdfast arbiter token here, holdfast quorum replace on one of its nodes.\nNext: holdfast arbiter serve --dir %s\n", clusters, l.dir)
			return nil
		},
	}
}

func (l *line) moved() *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use: "moved", Short: "Accept a directory that was moved here by hand", Args: exact(0),
		Long: `Accept a directory that was moved here by hand.

Only if no arbiter ran while it was copied, and none has run from the original
since. An arbiter that goes back to an older state forgets votes: two halves of a
cluster may then both win. If in doubt, restore instead (holdfast arbiter restore).`,
		RunE: func(c *cobra.Command, _ []string) error {
			if !yes {
				return usage(c, "whoever says so answers for it that nothing has run from the original since: say --yes")
			}
			return explained(arbiterd.Moved(l.dir))
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "it is the newest there is")
	return c
}

func (l *line) bench() *cobra.Command {
	var o arbiterbench.Options
	c := &cobra.Command{
		Use: "bench", Short: "Measure an arbiter of its own, with clusters of its own", Args: exact(0),
		RunE: func(c *cobra.Command, _ []string) error {
			program, err := os.Executable()
			if err != nil {
				return err
			}
			o.Serve = func(dir string) []string {
				return strings.Split(program+"\x00arbiter\x00serve\x00--dir\x00"+dir, "\x00")
			}
			return explained(arbiterbench.Run(c.Context(), o, c.OutOrStdout()))
		},
	}
	c.Flags().StringVar(&o.Dir, "work", "", "directory for it, on the disk that is to be measured (default: below the temporary directory)")
	c.Flags().IntVar(&o.Clusters, "clusters", 10_000, "clusters that are registered")
	c.Flags().DurationVar(&o.Idle, "idle", time.Minute, "how long idle clusters are watched; each of two nodes looks every 10 s")
	c.Flags().DurationVar(&o.Elections, "elections", 10*time.Second, "how long each kind of elections runs")
	c.Flags().IntVar(&o.Rate, "rate", 500, "elections per second where the rate is given")
	return c
}
