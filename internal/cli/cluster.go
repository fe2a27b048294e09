package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/api"
	"github.com/holdfast-ha/holdfast/internal/cluster/identity"
	"github.com/holdfast-ha/holdfast/internal/cluster/link"
	"github.com/holdfast-ha/holdfast/internal/config"
	"github.com/holdfast-ha/holdfast/internal/protoyaml"
)

// authorityDir is where init puts the authority, beside the nodes' directories.
const authorityDir = "authority"

func (a *app) clusterCommand() *cobra.Command {
	show := a.withOutput(&cobra.Command{
		Use: "show", Short: "Show the cluster's settings and members", Args: args(0, 0),
		RunE: a.run(func(ctx context.Context, c *client, _ []string) error {
			m, err := call(ctx, c, c.cluster.Show, &v1.ShowClusterRequest{})
			if err != nil {
				return err
			}
			return a.show("cluster/1", m, func(w io.Writer) { writeCluster(w, m) })
		}),
	})
	return grouped(&cobra.Command{Use: "cluster", Short: "The cluster as a whole"},
		append(a.lifeCommands(), a.clusterInitCommand(), show, a.clusterSetCommand(), a.clusterClientCommand())...)
}

func writeCluster(w io.Writer, m *v1.ShowClusterResponse) {
	heading(w, m.GetSource())
	c := m.GetCluster()
	pairs(w, [2]string{"Cluster", c.GetName()}, [2]string{"UUID", c.GetUuid()}, [2]string{"Leader", m.GetSource().GetLeader()},
		[2]string{"View", fmt.Sprintf("%d: %s", m.GetEpoch(), strings.Join(m.GetMembers(), ", "))},
		[2]string{"May fail at once", fmt.Sprint(m.GetTolerates())},
		[2]string{"Configuration", fmt.Sprintf("revision %d", m.GetConfigRevision())})
	set := func(isSet bool) string {
		if isSet {
			return "set"
		}
		return "default"
	}
	t, e := c.GetTimers(), m.GetEffectiveTimers()
	section(w, "Settings",
		[]string{"NAME", "VALUE", "FROM"},
		[]string{"heartbeat", span(e.GetHeartbeat()), set(t.GetHeartbeat() != nil)},
		[]string{"peertrouble", span(e.GetPeertrouble()), set(t.GetPeertrouble() != nil)},
		[]string{"peerinact", span(e.GetPeerinact()), set(t.GetPeerinact() != nil)},
		[]string{"seed-nodes", fmt.Sprint(m.GetEffectiveSeedNodes()), set(c.GetSeedNodes() != 0)},
		[]string{"engine-down-limit", span(m.GetEffectiveEngineDownLimit()), set(c.GetEngineDownLimit() != nil)},
		[]string{"preferred-fencing", preferredName(c), set(c.GetPreferredFencing() != 0)})
	fmt.Fprintf(w, "\nA node that nobody acknowledges ends its lease after %s and has stopped its groups after %s more;\n"+
		"the others start them elsewhere after %s.\n", span(m.GetLease()), span(m.GetStop()), span(e.GetPeerinact()))
}

func (a *app) clusterInitCommand() *cobra.Command {
	var files []string
	var out string
	c := &cobra.Command{
		Use: "init -f FILE --out DIR", Short: "Make a new cluster: one state directory per node", Args: args(0, 0),
		Long: `Make a new cluster from a complete configuration. DIR/NODE becomes the state
directory of that node (/var/lib/holdfast there): copy it over a safe path, for
it has the node's key and the cluster's secrets. DIR/` + authorityDir + ` is the authority that
signs certificates, for you to keep; the nodes have it too.`,
		Example: "  holdfast cluster init -f cluster.yaml --out new\n  scp -r new/n1 n1:/var/lib/holdfast",
		RunE: func(*cobra.Command, []string) error {
			if out == "" {
				return usage("name a directory for the new cluster with --out")
			}
			cfg, err := a.newCluster(files)
			if err != nil {
				return err
			}
			plan, err := identity.Init(identity.Spec{Configuration: cfg})
			if err != nil {
				return &failure{code: api.CodeBadConfig, message: err.Error()}
			}
			for _, n := range plan.Nodes() {
				if n == authorityDir {
					return &failure{code: api.CodeBadConfig, message: fmt.Sprintf("no node can be called %s: the authority gets that directory", authorityDir)}
				}
			}
			if err := writeNew(plan, out); err != nil {
				return err
			}
			fmt.Fprintf(a.Out, "made cluster %s, %s\n", plan.Configuration.GetCluster().GetName(), plan.Configuration.GetCluster().GetUuid())
			for _, n := range plan.Nodes() {
				fmt.Fprintf(a.Out, "  %s: move it to %s as /var/lib/holdfast\n", filepath.Join(out, n), n)
			}
			fmt.Fprintf(a.Out, "  %s: keep it safe; it signs certificates of the cluster\n", filepath.Join(out, authorityDir))
			return nil
		},
	}
	fileFlag(c, &files)
	c.Flags().StringVar(&out, "out", "", "directory for what is made")
	must(c.MarkFlagDirname("out"))
	return c
}

// writeNew writes all of a new cluster, or nothing.
func writeNew(plan *identity.Plan, out string) error {
	authority := filepath.Join(out, authorityDir)
	if _, err := os.Lstat(authority); err == nil {
		return &failure{code: api.CodeUsage, message: authority + " exists already; nothing was changed", next: "choose another directory, or move it away"}
	}
	if err := plan.WriteNodeDirs(out); err != nil {
		return err
	}
	err := plan.Authority.Write(authority)
	if err == nil {
		return nil
	}
	for _, n := range plan.Nodes() {
		err = errors.Join(err, os.RemoveAll(filepath.Join(out, n)))
	}
	return err
}

func (a *app) clusterClientCommand() *cobra.Command {
	var authority, out string
	c := &cobra.Command{
		Use: "client NAME --authority DIR --out DIR", Short: "Make a client certificate for the API over https, without asking the cluster", Args: args(1, 1), ValidArgsFunction: cobra.NoFileCompletions,
		Long: `Make a client certificate with the authority that cluster init made, without
asking the cluster. It says who somebody is; what that user may do, holdfast user
add says. holdfast user cert does the same through the cluster.`,
		RunE: func(_ *cobra.Command, args []string) error {
			if authority == "" || out == "" {
				return usage("name the authority's directory with --authority, and a new directory for the certificate with --out")
			}
			au, err := identity.LoadAuthority(authority)
			if err != nil {
				return err
			}
			if err := au.WriteClient(args[0], out); err != nil {
				return err
			}
			_, err = fmt.Fprintf(a.Out, "made %s: use it with --client-dir %s --api https://NODE:%d\n", out, out, link.DefaultPort)
			return err
		},
	}
	c.Flags().StringVar(&authority, "authority", "", "directory of the authority that cluster init made")
	c.Flags().StringVar(&out, "out", "", "directory for the certificate and its key")
	return c
}

// setting is a duration flag that also takes "default".
type setting struct{ d *durationpb.Duration }

func (s *setting) String() string { return "" }
func (s *setting) Type() string   { return "duration" }

func (s *setting) Set(text string) error {
	if text == "default" {
		s.d = durationpb.New(0)
		return nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return fmt.Errorf("write a number with a unit such as 300ms or 1s, or default")
	}
	s.d = durationpb.New(d)
	return nil
}

func (a *app) clusterSetCommand() *cobra.Command {
	var heartbeat, trouble, inact, engine setting
	var seed string
	var base uint64
	preferred := &preferredFlags{}
	c := a.withOutput(&cobra.Command{
		Use: "set", Short: "Change settings of the cluster, at run time and on all nodes", Args: args(0, 0),
		Example: "  holdfast cluster set --peerinact 300ms\n  holdfast cluster set --heartbeat default",
		RunE: a.run(func(ctx context.Context, c *client, _ []string) error {
			q := &v1.SetClusterRequest{Heartbeat: heartbeat.d, Peertrouble: trouble.d, Peerinact: inact.d, EngineDownLimit: engine.d, BaseRevision: base}
			if seed != "" {
				var n uint32
				if _, err := fmt.Sscanf(seed+"\n", "%d\n", &n); err != nil && seed != "default" {
					return usage("--seed-nodes %s: write a number of nodes, or default", seed)
				}
				q.SeedNodes = &n
			}
			if err := preferred.into(q); err != nil {
				return err
			}
			m, err := call(ctx, c, c.cluster.Set, q)
			if err != nil {
				return err
			}
			for _, n := range m.GetNotes() {
				fmt.Fprintln(a.Err, localFault(n))
			}
			return a.show("applied/1", m, func(w io.Writer) {
				fmt.Fprint(w, config.Render(m.GetChanges()))
				if len(m.GetChanges()) == 0 {
					fmt.Fprintln(w, "nothing to change")
				}
			})
		}),
	})
	f := c.Flags()
	f.Var(&heartbeat, "heartbeat", "interval between heartbeats, at most peerinact/8")
	f.Var(&trouble, "peertrouble", "silence after which a link is in trouble")
	f.Var(&inact, "peerinact", "silence after which a link is down; "+protoyaml.Duration(200*time.Millisecond)+" to 1m")
	f.Var(&engine, "engine-down-limit", "a node whose engine is down for longer stops its groups")
	f.StringVar(&seed, "seed-nodes", "", "start groups only once so many nodes have been seen together")
	preferred.flags(c)
	f.Uint64Var(&base, "base-revision", 0, "refuse if the configuration is not at this revision any more")
	return c
}
