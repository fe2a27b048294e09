package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/api"
	"github.com/holdfast-ha/holdfast/internal/cluster/identity"
	"github.com/holdfast-ha/holdfast/internal/protoyaml"
)

const (
	defaultAPI = "/run/holdfast/api.sock"
	// callLimit is how long one answer may take.
	callLimit = 30 * time.Second
	// completeLimit is how long a shell may have to wait for names.
	completeLimit = time.Second
)

// client has a client of each service.
type client struct {
	address    string
	cluster    v1.ClusterServiceClient
	users      v1.UserServiceClient
	nodes      v1.NodeServiceClient
	links      v1.LinkServiceClient
	quorum     v1.QuorumServiceClient
	fence      v1.FenceServiceClient
	groups     v1.GroupServiceClient
	resources  v1.ResourceServiceClient
	signals    v1.SignalServiceClient
	types      v1.TypeServiceClient
	config     v1.ConfigServiceClient
	events     v1.EventServiceClient
	notifiers  v1.NotifierServiceClient
	explain    v1.ExplainServiceClient
	simulate   v1.SimulateServiceClient
	operations v1.OperationServiceClient
}

// dial makes clients for the address that was asked for. It connects with the
// first call.
func (a *app) dial() (*client, error) {
	address := cmp.Or(a.api, os.Getenv("HOLDFAST_API"), defaultAPI)
	h, base, err := a.transport(address)
	if err != nil {
		return nil, err
	}
	return &client{
		address:    address,
		cluster:    v1.NewClusterServiceClient(h, base),
		users:      v1.NewUserServiceClient(h, base),
		nodes:      v1.NewNodeServiceClient(h, base),
		links:      v1.NewLinkServiceClient(h, base),
		quorum:     v1.NewQuorumServiceClient(h, base),
		fence:      v1.NewFenceServiceClient(h, base),
		groups:     v1.NewGroupServiceClient(h, base),
		resources:  v1.NewResourceServiceClient(h, base),
		signals:    v1.NewSignalServiceClient(h, base),
		types:      v1.NewTypeServiceClient(h, base),
		config:     v1.NewConfigServiceClient(h, base),
		events:     v1.NewEventServiceClient(h, base),
		notifiers:  v1.NewNotifierServiceClient(h, base),
		explain:    v1.NewExplainServiceClient(h, base),
		simulate:   v1.NewSimulateServiceClient(h, base),
		operations: v1.NewOperationServiceClient(h, base),
	}, nil
}

func (a *app) transport(address string) (*http.Client, string, error) {
	socket, isSocket := strings.CutPrefix(address, "unix:")
	if isSocket || strings.HasPrefix(address, "/") || strings.HasPrefix(address, ".") {
		dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		}
		return &http.Client{Transport: &http.Transport{DialContext: dial}}, "http://holdfast", nil // the name is not looked up
	}
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, "", usage("%q is no address of an API; write the path of a unix socket, or https://HOST:PORT", address)
	}
	dir := cmp.Or(a.client, os.Getenv("HOLDFAST_CLIENT_DIR"))
	if dir == "" {
		return nil, "", &failure{code: api.CodeUsage, message: "https needs a client certificate of the cluster: name its directory with --client-dir",
			next: "holdfast cluster client NAME --authority DIR --out DIR makes one"}
	}
	cfg, err := identity.LoadClient(dir)
	if err != nil {
		return nil, "", &failure{code: api.CodeNotAllowed, message: err.Error()}
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: true}}, "https://" + u.Host, nil
}

// call makes one call with a limit, and turns its error into a failure.
func call[Q, R any](ctx context.Context, c *client, f func(context.Context, *connect.Request[Q]) (*connect.Response[R], error), q *Q) (*R, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	r, err := f(ctx, connect.NewRequest(q))
	if connect.CodeOf(err) == connect.CodeCanceled && ctx.Err() == nil { // not by us
		return nil, &failure{code: api.CodeNotAllowed, message: fmt.Sprintf("the daemon at %s has closed the connection", c.address), next: "its log says why; it may refuse this certificate"}
	}
	if err != nil {
		return nil, c.failed(err)
	}
	return r.Msg, nil
}

// notThere is the failure for a name of which this program has found out that it does not exist.
func notThere(what, name string, names []string) *failure {
	return &failure{code: api.CodeNotFound, message: fmt.Sprintf("there is no %s %q", what, name), next: protoyaml.DidYouMean(name, names, what+"s")}
}

// run makes what a command does from what it does with a client.
func (a *app) run(f func(ctx context.Context, c *client, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		c, err := a.dial()
		if err != nil {
			return err
		}
		return f(cmd.Context(), c, args)
	}
}

// failed turns the error of a call into a failure.
func (c *client) failed(err error) error {
	var e *connect.Error
	if !errors.As(err, &e) {
		return err
	}
	if d := detailOf(e); d != nil {
		f := &failure{code: d.GetCode(), message: e.Message(), next: d.GetNextStep()}
		for _, fault := range d.GetFaults() {
			f.faults = append(f.faults, localFault(fault).String())
		}
		return f
	}
	switch {
	case errors.Is(err, fs.ErrPermission):
		return &failure{code: api.CodeNotAllowed, message: fmt.Sprintf("the daemon at %s does not talk to this user", c.address), next: "run the command as root, or have an administrator add this user: holdfast user add"}
	case e.Code() == connect.CodeCanceled:
		return context.Canceled
	case e.Code() == connect.CodeDeadlineExceeded:
		return &failure{code: api.CodeUnknown, message: fmt.Sprintf("the daemon at %s did not answer in %s", c.address, callLimit), next: "try again, or ask another node"}
	case e.Code() == connect.CodeUnavailable || e.Code() == connect.CodeUnknown:
		return &failure{code: api.CodeUnreachable, message: fmt.Sprintf("no daemon answers at %s: %s", c.address, e.Message()),
			next: "start it with systemctl start holdfast, or name another node's API with --api or HOLDFAST_API"}
	}
	return &failure{code: api.CodeInternal, message: e.Message()}
}

func detailOf(e *connect.Error) *v1.ErrorDetail {
	for _, d := range e.Details() {
		if v, err := d.Value(); err == nil {
			if detail, ok := v.(*v1.ErrorDetail); ok {
				return detail
			}
		}
	}
	return nil
}
