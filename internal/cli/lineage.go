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

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/api"
	"github.com/holdfast-ha/holdfast/internal/cluster/identity"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
	"github.com/holdfast-ha/holdfast/internal/node/points"
)

// What befalls a cluster as a whole: keys and certificates, backup, a new lineage, its end.
func (a *app) lifeCommands() []*cobra.Command {
	return []*cobra.Command{
		a.securityCommand(),
		a.rotateCommand("rotate-key", "Replace the heartbeat key on all nodes, without a gap", v1.Rotatable_ROTATABLE_HEARTBEAT_KEY,
			`Replace the key that heartbeats are encrypted with. All members get the next one
from each other over TLS and accept it; then they send with it; then the one
before is refused. No heartbeat is lost meanwhile. A node that is down gets it when it comes back.`),
		a.rotateCommand("rotate-certs", "Renew the certificates of all nodes", v1.Rotatable_ROTATABLE_CERTIFICATES,
			`Renew the certificate and the key of each node, while it runs.`),
		a.rotateCommand("rotate-authority", "Replace the authority that signs certificates", v1.Rotatable_ROTATABLE_AUTHORITY,
			`Replace the authority that signs certificates. All nodes trust the next one first;
then their certificates are issued anew; then the one before is dropped. It waits
for every node that has ever joined: remove those that will not come back.

Certificates of users end with the authority that has signed them: issue new ones.`),
		a.seedCommand(), a.destroyCommand(), a.backupCommand(), a.snapshotCommand(), a.restoreCommand(), a.reseedCommand(),
	}
}

func (a *app) securityCommand() *cobra.Command {
	return a.withOutput(&cobra.Command{
		Use: "security", Short: "Show certificates, keys, rotations under way and the protocol version", Args: args(0, 0),
		RunE: a.run(func(ctx context.Context, c *client, _ []string) error {
			m, err := call(ctx, c, c.cluster.Security, &v1.SecurityRequest{})
			if err != nil {
				return err
			}
			return a.show("security/1", m, func(w io.Writer) { writeSecurity(w, m) })
		}),
	})
}

func writeSecurity(w io.Writer, m *v1.SecurityResponse) {
	heading(w, m.GetSource())
	how := func(r *v1.RotationInfo) string {
		text := fmt.Sprintf("generation %d", r.GetGeneration())
		if r.GetProgress() != "" {
			text += "; " + r.GetProgress()
		}
		return text
	}
	lineage := m.GetLineage()
	if lineage == "" {
		lineage = "first"
	}
	pairs(w, [2]string{"Protocol", fmt.Sprintf("version %d", m.GetProtocol())}, [2]string{"Lineage", lineage},
		[2]string{"Heartbeat key", how(m.GetHeartbeatKey())}, [2]string{"Authority", how(m.GetAuthority())},
		[2]string{"Fingerprint", m.GetAuthorityFingerprint()}, [2]string{"Authority ends", day(m.GetAuthorityEndsMs())})
	rows := [][]string{{"NODE", "VERSION", "PROTOCOL", "KEY", "AUTHORITY", "CERTIFICATE ENDS"}}
	for _, n := range m.GetNodes() {
		if n.GetProtocolMax() == 0 {
			rows = append(rows, []string{n.GetNode(), "never seen", "", "", "", ""})
			continue
		}
		rows = append(rows, []string{n.GetNode(), n.GetVersion(), fmt.Sprintf("%d to %d", n.GetProtocolMin(), n.GetProtocolMax()),
			fmt.Sprint(n.GetHeartbeatKey()), fmt.Sprint(n.GetAuthority()), day(n.GetCertificateEndsMs())})
	}
	section(w, "Nodes", rows...)
}

func day(ms int64) string {
	if ms == 0 {
		return ""
	}
	return time.UnixMilli(ms).UTC().Format(time.DateOnly)
}

func (a *app) rotateCommand(use, short string, what v1.Rotatable, long string) *cobra.Command {
	var no bool
	var timeout time.Duration
	c := a.withOutput(&cobra.Command{
		Use: use, Short: short, Long: long, Args: args(0, 0),
		RunE: a.run(func(ctx context.Context, c *client, _ []string) error {
			before, err := call(ctx, c, c.cluster.Security, &v1.SecurityRequest{})
			if err != nil {
				return err
			}
			if _, err := call(ctx, c, c.cluster.Rotate, &v1.RotateRequest{What: what}); err != nil {
				return err
			}
			if no {
				return a.did(use, "begun; holdfast cluster security shows how far it is")
			}
			return a.awaitRotation(ctx, c, what, before, timeout)
		}),
	})
	c.Flags().BoolVar(&no, "no-wait", false, "only begin")
	c.Flags().DurationVar(&timeout, "timeout", time.Minute, "wait no longer than this; what was begun goes on")
	return c
}

// rotatePoll is how often a rotation is looked at.
const rotatePoll = 100 * time.Millisecond

func (a *app) awaitRotation(ctx context.Context, c *client, what v1.Rotatable, before *v1.SecurityResponse, timeout time.Duration) error {
	end := time.After(timeout)
	said := ""
	for {
		m, err := call(ctx, c, c.cluster.Security, &v1.SecurityRequest{})
		if err != nil {
			return err
		}
		open := rotationOpen(what, before, m)
		if open == "" {
			return a.did("cluster", "done on all nodes")
		}
		if open != said {
			fmt.Fprintln(a.Err, open)
			said = open
		}
		select {
		case <-time.After(rotatePoll):
		case <-end:
			return &failure{code: api.CodeWaitedTooLong, message: "not done yet: " + open, next: "it goes on by itself; holdfast cluster security shows how far it is"}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// rotationOpen says what is still waited for, empty: nothing.
func rotationOpen(what v1.Rotatable, before, now *v1.SecurityResponse) string {
	switch what {
	case v1.Rotatable_ROTATABLE_HEARTBEAT_KEY:
		return now.GetHeartbeatKey().GetProgress()
	case v1.Rotatable_ROTATABLE_AUTHORITY:
		return now.GetAuthority().GetProgress()
	}
	was := map[string]int64{}
	for _, n := range before.GetNodes() {
		was[n.GetNode()] = n.GetCertificateEndsMs()
	}
	var waits []string
	for _, n := range now.GetNodes() {
		if n.GetProtocolMax() != 0 && n.GetCertificateEndsMs() == was[n.GetNode()] {
			waits = append(waits, n.GetNode())
		}
	}
	if len(waits) == 0 {
		return ""
	}
	return "waiting for " + strings.Join(waits, ", ")
}

func (a *app) seedCommand() *cobra.Command {
	return a.withOutput(&cobra.Command{
		Use: "seed", Short: "Override: start groups now, with the nodes that are there", Args: args(0, 0),
		Long: `Start groups now, with the nodes that are there: the seed count is not waited for.
That never lowers the quorum: without one this is refused too (then see holdfast
cluster reseed). Groups may start where they were not started before; a node
that is missing does not run them, for without a quorum it has no lease.`,
		RunE: a.run(func(ctx context.Context, c *client, _ []string) error {
			if _, err := call(ctx, c, c.cluster.Seed, &v1.SeedClusterRequest{}); err != nil {
				return err
			}
			return a.did("cluster", "the cluster has started: groups come online by their auto start lists")
		}),
	})
}

func (a *app) destroyCommand() *cobra.Command {
	var name string
	c := a.withOutput(&cobra.Command{
		Use: "destroy --yes-destroy NAME", Short: "Stop all groups, and let all nodes forget the cluster", Args: args(0, 0),
		Long: `Stop all groups, then let all nodes forget the cluster: their keys, certificates
and logs are removed, and their daemons end. There is no way back but a backup.
A node that is down keeps what it has: remove its state directory by hand.`,
		RunE: a.run(func(ctx context.Context, c *client, _ []string) error {
			m, err := call(ctx, c, c.cluster.Show, &v1.ShowClusterRequest{})
			if err != nil {
				return err
			}
			if have := m.GetCluster().GetName(); name != have {
				return usage("to destroy this cluster say its name: --yes-destroy %s", have)
			}
			if err := a.stopGroups(ctx, c); err != nil {
				return err
			}
			if _, err := call(ctx, c, c.cluster.Destroy, &v1.DestroyClusterRequest{Name: name}); err != nil {
				return err
			}
			return a.did(name, fmt.Sprintf("cluster %s is destroyed; its nodes end and forget it", name))
		}),
	})
	c.Flags().StringVar(&name, "yes-destroy", "", "name of the cluster, as a confirmation")
	return c
}

func (a *app) backupCommand() *cobra.Command {
	return a.withOutput(&cobra.Command{
		Use: "backup FILE", Short: "Write what restoring the cluster needs: configuration, intents, users", Args: args(1, 1),
		Long: `Write what restoring the cluster needs into a new file: configuration, intents and
users. It holds no keys; a restored cluster has keys of its own.`,
		RunE: a.run(func(ctx context.Context, c *client, args []string) error {
			m, err := call(ctx, c, c.cluster.Backup, &v1.BackupRequest{})
			if err != nil {
				return err
			}
			if n := m.GetSource().GetNote(); n != "" {
				fmt.Fprintln(a.Err, n)
			}
			if err := writeNewFile(args[0], m.GetBackup()); err != nil {
				return err
			}
			return a.did(args[0], fmt.Sprintf("%s: index %d as %s knows it", args[0], m.GetSource().GetAppliedIndex(), m.GetSource().GetNode()))
		}),
	})
}

func (a *app) restoreCommand() *cobra.Command {
	var node, out string
	c := &cobra.Command{
		Use: "restore FILE --node NODE --out DIR", Short: "Make a cluster anew from a backup, beginning with one node", Args: args(1, 1),
		Long: `Make a cluster anew from a backup. DIR/NODE becomes the state directory of the node
that begins; the others join it with tokens (holdfast node token). The new cluster
has a uuid, an authority and keys of its own: nothing of the old one is taken for
a part of it. Make sure that no node of the old cluster runs any more: it does
not know of this one, and would run the same groups.`,
		Example: "  holdfast cluster restore backup --node n1 --out new\n  scp -r new/n1 n1:/var/lib/holdfast",
		RunE: func(_ *cobra.Command, args []string) error {
			if node == "" || out == "" {
				return usage("name the first node with --node, and a new directory with --out")
			}
			raw, err := readFile(args[0])
			if err != nil {
				return &failure{code: api.CodeUsage, message: err.Error()}
			}
			s, err := state.FromBackup(raw)
			if err != nil {
				return &failure{code: api.CodeUsage, message: args[0] + ": " + err.Error()}
			}
			plan, err := identity.Restore(s, node, nil)
			if err != nil {
				return &failure{code: api.CodeNotFound, message: err.Error()}
			}
			if err := plan.WriteNodeDir(node, filepath.Join(out, node)); err != nil {
				return err
			}
			if err := plan.Authority.Write(filepath.Join(out, authorityDir)); err != nil {
				return errors.Join(err, os.RemoveAll(filepath.Join(out, node)))
			}
			fmt.Fprintf(a.Out, "made cluster %s anew, %s\n", plan.Configuration.GetCluster().GetName(), plan.Configuration.GetCluster().GetUuid())
			fmt.Fprintf(a.Out, "  %s: move it to %s as /var/lib/holdfast; the other nodes join it with tokens\n", filepath.Join(out, node), node)
			return nil
		},
	}
	c.Flags().StringVar(&node, "node", "", "node that the cluster begins with")
	must(c.RegisterFlagCompletionFunc("node", cobra.NoFileCompletions))
	c.Flags().StringVar(&out, "out", "", "directory for what is made")
	must(c.MarkFlagDirname("out"))
	return c
}

func (a *app) reseedCommand() *cobra.Command {
	var stateDir string
	var lineage, sure, despite bool
	c := &cobra.Command{
		Use: "reseed --new-lineage --others-are-down", Short: "Override: go on with this node alone when the quorum is lost for good", Args: args(0, 0),
		Long: `Go on with this node alone when the quorum is lost for good. Run it on the node
that shall go on, while its daemon is stopped.

This gives up what protects from a split brain. What the other nodes have
committed and this one has not heard of is lost. If any of them still runs, or is
started again by a watchdog or a person before it has rejoined, both sides run
the same groups. Switch them off first, and say so with --others-are-down.

The cluster gets a new lineage and a new heartbeat key. Nodes of the old lineage
are refused until they rejoin: move their state directory away, and use a new
token (holdfast node token). Coordination points are forgotten: add them again.

The coordination points are asked first: it is refused when another node has been
there lately, or when none of them answers (--despite-points goes on all the
same). They hold no keys that would have to be cleared: only what moves counts.`,
		RunE: func(c *cobra.Command, _ []string) error {
			if !lineage || !sure {
				return usage("this gives up what protects from a split brain: read holdfast cluster reseed --help, then give both --new-lineage and --others-are-down")
			}
			if err := a.othersAreGone(c.Context(), stateDir, despite); err != nil {
				return err
			}
			r, err := identity.Reseed(stateDir, time.Now())
			if err != nil {
				return &failure{code: api.CodeConflict, message: err.Error()}
			}
			fmt.Fprintf(a.Out, "cluster %s goes on with %s alone, as lineage %s, from entry %d (%d were known to be committed)\n", r.Cluster, r.Node, r.Lineage, r.Index, r.Committed)
			if len(r.Others) > 0 {
				fmt.Fprintf(a.Out, "refused until they rejoin with a token: %s\n", strings.Join(r.Others, ", "))
			}
			fmt.Fprintln(a.Out, "start it with: systemctl start holdfast")
			return nil
		},
	}
	c.Flags().StringVar(&stateDir, "state-dir", defaultStateDir, "state directory of this node")
	c.Flags().BoolVar(&lineage, "new-lineage", false, "make this node the beginning of a new lineage")
	c.Flags().BoolVar(&sure, "others-are-down", false, "all other nodes are switched off, and stay so until they rejoin")
	c.Flags().BoolVar(&despite, "despite-points", false, "also when coordination points have seen another node lately, or do not answer")
	return c
}

// othersAreGone asks the coordination points whether the other side of a split
// that was there before lives (docs/lifecycle.md).
func (a *app) othersAreGone(ctx context.Context, stateDir string, despite bool) error {
	id, s, err := identity.LastKnown(stateDir)
	if err != nil {
		return &failure{code: api.CodeConflict, message: err.Error()}
	}
	all := len(s.GetWitness().GetPoints())
	if all == 0 {
		return nil
	}
	fmt.Fprintln(a.Err, "asking the coordination points who else has been there lately …")
	signs, unasked := points.OthersAlive(ctx, id, s, points.ArbiterMemory)
	for _, u := range unasked {
		fmt.Fprintf(a.Err, "coordination point %s was not asked: %v\n", u.Point, u.Err)
	}
	for _, sign := range signs {
		fmt.Fprintf(a.Err, "coordination point %s has seen %s %s ago\n", sign.Point, sign.Node, sign.Age.Round(time.Second))
	}
	switch {
	case despite || len(signs) == 0 && len(unasked) < all:
		return nil
	case len(signs) > 0:
		return &failure{code: api.CodeConflict, message: fmt.Sprintf("%s lives: both sides would run the same groups", signs[0].Node),
			next: "switch it off, wait until the signs above are old, and try again; if you know better: --despite-points"}
	}
	return &failure{code: api.CodeConflict, message: "no coordination point says that the other nodes are gone",
		next: "repair the way to one of them; if you have made sure otherwise: --despite-points"}
}
