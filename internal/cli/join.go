package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/api"
	"github.com/holdfast-ha/holdfast/internal/cluster/identity"
	"github.com/holdfast-ha/holdfast/internal/cluster/peer"
)

const defaultStateDir = "/var/lib/holdfast"

// How nodes come and go for good.
func (a *app) membershipCommands() []*cobra.Command {
	return []*cobra.Command{a.nodeAddCommand(), a.nodeTokenCommand(), a.nodeTokensCommand(), a.nodeWithdrawCommand(), a.nodeJoinCommand(), a.nodeLeaveCommand(), a.nodeRemoveCommand()}
}

// links of --link NAME=ADDRESS, in order.
func parseLinks(list []string) (links []*v1.Link, err error) {
	for _, l := range list {
		name, address, ok := strings.Cut(l, "=")
		if !ok || name == "" || address == "" {
			return nil, usage("--link %s: write NAME=ADDRESS, with the names that the other nodes' links have", l)
		}
		links = append(links, &v1.Link{Name: name, Address: address})
	}
	return links, nil
}

func (a *app) nodeAddCommand() *cobra.Command {
	var list []string
	c := a.withOutput(&cobra.Command{
		Use: "add NODE --link NAME=ADDRESS…", Short: "Configure a node that has not joined yet", Args: args(1, 1), ValidArgsFunction: cobra.NoFileCompletions,
		Long: `Configure a node that has not joined yet. A token (holdfast node token) lets a
machine join as this node; a token for a node that is not configured does both.`,
		Example: "  holdfast node add n4 --link net1=10.0.1.4 --link net2=10.0.2.4",
		RunE: a.run(func(ctx context.Context, c *client, args []string) error {
			links, err := parseLinks(list)
			if err != nil {
				return err
			}
			if _, err := call(ctx, c, c.nodes.Add, &v1.AddNodeRequest{Node: &v1.Node{Name: args[0], Links: links}}); err != nil {
				return err
			}
			return a.did(args[0], fmt.Sprintf("%s is configured; holdfast node token %s lets a machine join as this node", args[0], args[0]))
		}),
	})
	c.Flags().StringArrayVar(&list, "link", nil, "address of the node on a link, NAME=ADDRESS; once per link")
	return c
}

func (a *app) nodeTokenCommand() *cobra.Command {
	var list []string
	var valid time.Duration
	c := a.withOutput(&cobra.Command{
		Use: "token NODE [--link NAME=ADDRESS…]", Short: "Make a token with which one machine can join, once", Args: args(1, 1), ValidArgsFunction: a.complete(nodeNames),
		Long: `Make a token with which one machine can join as NODE, once and for a limited
time. It is a secret: whoever has it gets the keys of the cluster. It also
holds the fingerprint of the cluster's authority, so that the machine can tell
this cluster from an impostor.

A new token for the same node makes the one before void.`,
		Example: "  holdfast node token n4 --link net1=10.0.1.4 --link net2=10.0.2.4\n  (on the new machine) holdfast node join --token-file FILE",
		RunE: a.run(func(ctx context.Context, c *client, args []string) error {
			links, err := parseLinks(list)
			if err != nil {
				return err
			}
			m, err := call(ctx, c, c.nodes.Invite, &v1.InviteNodeRequest{Node: &v1.Node{Name: args[0], Links: links}, Valid: durationpb.New(valid)})
			if err != nil {
				return err
			}
			return a.show("token/1", m, func(w io.Writer) {
				fmt.Fprintln(w, m.GetToken())
				fmt.Fprintf(a.Err, "good once until %s; on the new machine: holdfast node join --token TOKEN\n", moment(m.GetExpiresMs()))
			})
		}),
	})
	c.Flags().StringArrayVar(&list, "link", nil, "address of the node on a link, NAME=ADDRESS; once per link; not for a node that is configured")
	c.Flags().DurationVar(&valid, "valid", time.Hour, "how long it is good, 1m to 720h")
	return c
}

func moment(ms int64) string { return time.UnixMilli(ms).UTC().Format(time.RFC3339) }

func (a *app) nodeTokensCommand() *cobra.Command {
	return a.withOutput(&cobra.Command{
		Use: "tokens", Short: "List the tokens that were made, without their secrets", Args: args(0, 0),
		RunE: a.run(func(ctx context.Context, c *client, _ []string) error {
			m, err := call(ctx, c, c.nodes.ListInvitations, &v1.ListInvitationsRequest{})
			if err != nil {
				return err
			}
			return a.show("tokens/1", m, func(w io.Writer) {
				heading(w, m.GetSource())
				rows := [][]string{{"ID", "NODE", "GOOD UNTIL", "USED"}}
				for _, i := range m.GetInvitations() {
					rows = append(rows, []string{i.GetId(), i.GetNode(), moment(i.GetExpiresMs()), yes(i.GetUsed())})
				}
				table(w, rows...)
			})
		}),
	})
}

func (a *app) nodeWithdrawCommand() *cobra.Command {
	return a.simple("withdraw ID", "Make a token void", noNames, "is void", func(ctx context.Context, c *client, id string) error {
		_, err := call(ctx, c, c.nodes.Withdraw, &v1.WithdrawInvitationRequest{Id: id})
		return err
	})
}

func noNames(*v1.Configuration) []string { return nil }

func (a *app) nodeJoinCommand() *cobra.Command {
	var token, tokenFile, stateDir string
	c := &cobra.Command{
		Use: "join (--token TOKEN | --token-file FILE)", Short: "Make this machine a node, with a token of the cluster", Args: args(0, 0),
		Long: `Make this machine a node, with a token that holdfast node token has made on a
member. The node's key is made here and stays here; a member signs it, and gives
what a node needs. Then start the daemon: the node catches up and becomes a member.`,
		Example: "  holdfast node join --token-file /root/token\n  systemctl start holdfast",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if (token == "") == (tokenFile == "") {
				return usage("give the token with --token or --token-file").hint(cmd)
			}
			if tokenFile != "" {
				raw, err := a.readToken(tokenFile)
				if err != nil {
					return &failure{code: api.CodeUsage, message: err.Error()}
				}
				token = string(raw)
			}
			node, cluster, err := JoinCluster(cmd.Context(), token, stateDir)
			if err != nil {
				return joinFailure(err)
			}
			fmt.Fprintf(a.Out, "this machine is %s of cluster %s; its state is in %s\n", node, cluster, stateDir)
			fmt.Fprintln(a.Out, "start it with: systemctl start holdfast")
			return nil
		},
	}
	c.Flags().StringVar(&token, "token", "", "the token")
	c.Flags().StringVar(&tokenFile, "token-file", "", "file with the token, - for standard input")
	c.Flags().StringVar(&stateDir, "state-dir", defaultStateDir, "state directory of the new node")
	must(c.MarkFlagDirname("state-dir"))
	return c
}

func (a *app) readToken(name string) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(io.LimitReader(a.In, 64<<10))
	}
	return readFile(name)
}

func joinFailure(err error) error {
	f := &failure{code: api.CodeUnreachable, message: "no member has let this machine join: " + err.Error(), next: "nothing was changed; see that a member can be reached over TCP, and try the same token again"}
	switch {
	case errors.Is(err, peer.ErrToken):
		f = &failure{code: api.CodeUsage, message: err.Error(), next: "holdfast node token NODE on a member makes one"}
	case errors.Is(err, peer.ErrRefused):
		f = &failure{code: api.CodeConflict, message: err.Error()}
	case errors.Is(err, errNotEmpty):
		f = &failure{code: api.CodeConflict, message: err.Error(), next: "move it away first if this machine is in no cluster any more"}
	}
	return f
}

var errNotEmpty = errors.New("is not empty: this machine may be a node already; nothing was changed")

// JoinCluster makes this machine a node with a token, and writes its state directory.
func JoinCluster(ctx context.Context, token, stateDir string) (node, cluster string, err error) {
	inv, err := peer.ParseToken(token)
	if err != nil {
		return "", "", err
	}
	if list, err := os.ReadDir(stateDir); err == nil && len(list) > 0 {
		return "", "", fmt.Errorf("%s %w", stateDir, errNotEmpty)
	}
	applicant, err := identity.NewApplicant()
	if err != nil {
		return "", "", err
	}
	r, err := peer.Enroll(ctx, inv, applicant)
	if err != nil {
		return "", "", err
	}
	err = applicant.Write(filepath.Clean(stateDir), identity.Enrolled{
		Node: r.GetNode(), ClusterName: r.GetClusterName(), ClusterUUID: r.GetClusterUuid(), Lineage: r.GetLineage(),
		Certificate: r.GetCertificate(), Authority: r.GetAuthority(), AuthorityKey: r.GetAuthorityKey(),
		Key: identity.Key{Generation: r.GetHeartbeatKeyGeneration(), Secret: r.GetHeartbeatKey()}, Nodes: r.GetNodes(), GuardIncarnation: r.GetGuardIncarnation(),
	})
	if err != nil {
		return "", "", fmt.Errorf("the token is used up, but the state directory could not be written: %w; mend that and make a new token", err)
	}
	return r.GetNode(), r.GetClusterName(), nil
}

func (a *app) nodeLeaveCommand() *cobra.Command {
	w := &waiting{}
	remove := false
	c := a.withOutput(&cobra.Command{
		Use: "leave NODE", Short: "Move a node's groups away and let it leave the cluster", Args: args(1, 1), ValidArgsFunction: a.complete(nodeNames),
		Long: `Move a node's groups to other nodes, stop what can't move, and let the node leave
the cluster. It stays configured and joins again when its daemon is started.

With --remove it is taken out of the configuration too, and its certificate is
refused from then on: ask another node than the one that leaves.`,
		RunE: a.run(func(ctx context.Context, c *client, args []string) error {
			n, err := call(ctx, c, c.nodes.Show, &v1.ShowNodeRequest{Node: args[0]})
			if err != nil {
				return err
			}
			if remove && n.GetNode().GetSelf() {
				return &failure{code: api.CodeConflict, message: args[0] + " can't remove itself: its daemon ends when it leaves", next: "run this on another node, or name its API with --api"}
			}
			if remove && w.no {
				return usage("--remove waits until the node has left: leave out --no-wait")
			}
			phase := n.GetNode().GetPhase()
			if phase == v1.NodePhase_NODE_PHASE_RUNNING || phase == v1.NodePhase_NODE_PHASE_LEAVING {
				m, err := call(ctx, c, c.nodes.Stop, &v1.StopNodeRequest{Node: args[0], Evacuate: true})
				if err != nil {
					return err
				}
				gone := ""
				if n.GetNode().GetSelf() {
					gone = args[0]
				}
				if err := a.finish(ctx, c, m.GetOperation(), w, gone); err != nil {
					return err
				}
			}
			if !remove {
				return nil
			}
			return a.remove(ctx, c, args[0], true)
		}),
	})
	c.Flags().BoolVar(&remove, "remove", false, "take it out of the configuration and off the system lists too")
	w.flags(c)
	return c
}

func (a *app) nodeRemoveCommand() *cobra.Command {
	fromGroups := false
	c := a.withOutput(&cobra.Command{
		Use: "remove NODE", Short: "Take a node that is not in the cluster out of the configuration, for ever", Args: args(1, 1), ValidArgsFunction: a.complete(nodeNames),
		Long: `Take a node that has left or has died out of the configuration, for ever. Its
certificate is refused from then on; a machine of that name needs a new token.

If somebody else may have its disk, replace what it knew too:
holdfast cluster rotate-key and holdfast cluster rotate-authority.`,
		RunE: a.run(func(ctx context.Context, c *client, args []string) error {
			return a.remove(ctx, c, args[0], fromGroups)
		}),
	})
	c.Flags().BoolVar(&fromGroups, "from-groups", false, "take it off the system lists of groups too")
	return c
}

func (a *app) remove(ctx context.Context, c *client, node string, fromGroups bool) error {
	if _, err := call(ctx, c, c.nodes.Remove, &v1.RemoveNodeRequest{Node: node, FromGroups: fromGroups}); err != nil {
		return err
	}
	return a.did(node, node+" was removed; its certificate is refused from now on")
}

// stopGroups takes every group that is not offline offline, and waits.
func (a *app) stopGroups(ctx context.Context, c *client) error {
	m, err := call(ctx, c, c.groups.List, &v1.ListGroupsRequest{})
	if err != nil {
		return err
	}
	var groups []*v1.GroupInfo
	for _, g := range m.GetGroups() {
		off := func(s v1.GroupState) bool {
			return s == v1.GroupState_GROUP_STATE_OFFLINE || s == v1.GroupState_GROUP_STATE_FAULTED
		}
		if slices.ContainsFunc(g.GetNodes(), func(n *v1.GroupOnNodeInfo) bool { return !off(n.GetState()) }) {
			groups = append(groups, g)
		}
	}
	for _, g := range groups {
		r, err := call(ctx, c, c.groups.Offline, &v1.OfflineGroupRequest{Group: g.GetName()})
		if err != nil {
			return err
		}
		if err := a.finish(ctx, c, r.GetOperation(), &waiting{}, ""); err != nil {
			return err
		}
	}
	return nil
}
