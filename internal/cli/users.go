package cli

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/api"
	"github.com/holdfast-ha/holdfast/internal/cluster/identity"
	"github.com/holdfast-ha/holdfast/internal/cluster/link"
	"github.com/holdfast-ha/holdfast/internal/cluster/state"
)

var roles = map[string]v1.Role{"guest": v1.Role_ROLE_GUEST, "operator": v1.Role_ROLE_OPERATOR, "administrator": v1.Role_ROLE_ADMINISTRATOR}

func (a *app) userCommand() *cobra.Command {
	list := a.withOutput(&cobra.Command{
		Use: "list", Short: "List users and their roles", Args: args(0, 0),
		RunE: a.run(func(ctx context.Context, c *client, _ []string) error {
			m, err := call(ctx, c, c.users.List, &v1.ListUsersRequest{})
			if err != nil {
				return err
			}
			return a.show("users/1", m, func(w io.Writer) {
				heading(w, m.GetSource())
				rows := [][]string{{"USER", "ROLES"}}
				for _, u := range m.GetUsers() {
					rows = append(rows, []string{u.GetName(), state.RolesOf(u)})
				}
				table(w, rows...)
			})
		}),
	})
	remove := a.simple("delete USER", "Take a user away; its certificates are refused from then on", noNames, "is no user any more",
		func(ctx context.Context, c *client, name string) error {
			_, err := call(ctx, c, c.users.Delete, &v1.DeleteUserRequest{Name: name})
			return err
		})
	whoami := a.withOutput(&cobra.Command{
		Use: "whoami", Short: "Show who the cluster takes you for, and what you may do", Args: args(0, 0),
		RunE: a.run(func(ctx context.Context, c *client, _ []string) error {
			m, err := call(ctx, c, c.users.Whoami, &v1.WhoamiRequest{})
			if err != nil {
				return err
			}
			return a.show("whoami/1", m, func(w io.Writer) {
				roles := "administrator"
				if m.GetUser() != nil {
					roles = state.RolesOf(m.GetUser())
				}
				fmt.Fprintf(w, "%s: %s\n", m.GetWho(), roles)
			})
		}),
	})
	return grouped(&cobra.Command{Use: "user", Short: "Users: who may do what",
		Long: `Users: who may do what. A user is a system user of that name on any node (known
by the kernel on the API socket), and the holder of a client certificate of that
name. root on a node is an administrator always.`},
		a.userAddCommand(), list, remove, a.userCertCommand(), whoami)
}

func (a *app) userAddCommand() *cobra.Command {
	var role string
	var groups []string
	var only bool
	c := a.withOutput(&cobra.Command{
		Use: "add USER --role ROLE [--group GROUP…]", Short: "Give a user a role, in the whole cluster or of groups", Args: args(1, 1), ValidArgsFunction: cobra.NoFileCompletions,
		Long: `Give a user a role, in the whole cluster or of groups:

  guest          sees everything but secrets
  operator       also brings online and offline, switches, clears, freezes
  administrator  also changes the configuration, nodes and users; of a group: the group

What the user may do already stays, unless --only is given.`,
		Example: "  holdfast user add alice --role operator --group web\n  holdfast user add bob --role guest",
		RunE: a.run(func(ctx context.Context, c *client, args []string) error {
			r, ok := roles[role]
			if !ok {
				return usage("--role %q: the roles are guest, operator and administrator", role)
			}
			u := &v1.User{Name: args[0]}
			if len(groups) == 0 {
				u.Role = r
			} else {
				u.Groups = map[string]v1.Role{}
				for _, g := range groups {
					u.Groups[g] = r
				}
			}
			m, err := call(ctx, c, c.users.Set, &v1.SetUserRequest{User: u, Add: !only})
			if err != nil {
				return err
			}
			return a.did(args[0], fmt.Sprintf("%s is %s", args[0], state.RolesOf(m.GetUser())))
		}),
	})
	c.Flags().StringVar(&role, "role", "", "guest, operator or administrator")
	c.Flags().StringArrayVar(&groups, "group", nil, "only of this group; may be given more than once")
	c.Flags().BoolVar(&only, "only", false, "take away what the user may do beside this")
	return c
}

func (a *app) userCertCommand() *cobra.Command {
	var out string
	c := &cobra.Command{
		Use: "cert USER --out DIR", Short: "Issue a client certificate for a user, for the API over https", Args: args(1, 1), ValidArgsFunction: cobra.NoFileCompletions,
		Long: `Issue a client certificate for a user. The key is made here and written into DIR
together with the certificate; the cluster only signs.`,
		Example: "  holdfast user cert alice --out alice\n  holdfast status --api https://n1:7946 --client-dir alice",
		RunE: a.run(func(ctx context.Context, c *client, args []string) error {
			if out == "" {
				return usage("name a new directory for the certificate with --out")
			}
			if _, err := os.Lstat(out); err == nil {
				return &failure{code: api.CodeUsage, message: out + " exists already; nothing was changed", next: "choose another directory, or move it away"}
			}
			key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err != nil {
				return err
			}
			public, err := x509.MarshalPKIXPublicKey(key.Public())
			if err != nil {
				return err
			}
			private, err := x509.MarshalPKCS8PrivateKey(key)
			if err != nil {
				return err
			}
			m, err := call(ctx, c, c.users.Certificate, &v1.UserCertificateRequest{Name: args[0], PublicKey: public})
			if err != nil {
				return err
			}
			if err := os.MkdirAll(filepath.Dir(filepath.Clean(out)), 0o700); err != nil {
				return err
			}
			if err := os.Mkdir(out, 0o700); err != nil {
				return err
			}
			for name, content := range map[string][]byte{
				identity.FileAuthority: m.GetAuthority(), identity.FileClientCertificate: m.GetCertificate(),
				identity.FileClientKey: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
			} {
				if err := os.WriteFile(filepath.Join(out, name), content, 0o600); err != nil {
					return err
				}
			}
			_, err = fmt.Fprintf(a.Out, "made %s: use it with --client-dir %s --api https://NODE:%d\n", out, out, link.DefaultPort)
			return err
		}),
	}
	c.Flags().StringVar(&out, "out", "", "directory for the certificate and its key")
	must(c.MarkFlagDirname("out"))
	return c
}
