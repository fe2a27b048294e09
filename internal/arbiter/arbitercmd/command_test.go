package arbitercmd

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/internal/api"
	"github.com/holdfast-ha/holdfast/internal/arbiter"
	"github.com/holdfast-ha/holdfast/internal/arbiter/arbiterbench/testcluster"
	"github.com/holdfast-ha/holdfast/internal/arbiter/arbiterd"
	"github.com/holdfast-ha/holdfast/internal/cli"
)

// run a command line; its output and exit status.
func run(t *testing.T, args ...string) (out string, status int) {
	t.Helper()
	c := Command()
	var b bytes.Buffer
	c.SetOut(&b)
	c.SetErr(&b)
	c.SetArgs(args)
	c.SilenceErrors, c.SilenceUsage = true, true
	err := c.ExecuteContext(t.Context())
	if err == nil {
		return b.String(), 0
	}
	status = 2 // of an unknown flag
	if exit := new(cli.Exit); errors.As(err, &exit) {
		status = exit.Status
	}
	return b.String() + err.Error(), status
}

// serve the arbiter in dir; the result stops it.
func serve(t *testing.T, dir, listen string) (address string, stop func()) {
	t.Helper()
	s, err := arbiterd.Open(arbiterd.Options{Dir: dir, Listen: listen, Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(stop)
	return s.Addr().String(), stop
}

var changing = regexp.MustCompile(`[0-9a-f]{64}|[0-9a-f]{32}|[0-9.]+(ms|s) ago|127\.0\.0\.1:\d+|\d+ (B|KiB)`)

// same output, but for what differs from run to run.
func same(t *testing.T, what, got, want string) {
	t.Helper()
	got = changing.ReplaceAllString(got, "#")
	got = regexp.MustCompile(` +`).ReplaceAllString(got, " ")
	want = regexp.MustCompile(` +`).ReplaceAllString(strings.TrimPrefix(want, "\n"), " ")
	if got != want {
		t.Errorf("%s:\n%s\nwant:\n%s", what, got, want)
	}
}

func TestCommands(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a")
	for _, args := range [][]string{{"serve"}, {"moved", "--yes"}} {
		if out, status := run(t, append(args, "--dir", dir)...); status != api.ExitRefused || !strings.Contains(out, "holdfast arbiter init --dir "+dir) {
			t.Errorf("%v without an arbiter: %d, %s", args, status, out)
		}
	}
	if out, status := run(t, "token", "--dir", dir); status != api.ExitUnreachable || !strings.Contains(out, "holdfast arbiter serve --dir "+dir) {
		t.Error(status, out)
	}
	out, status := run(t, "init", "--dir", dir, "--listen", "127.0.0.1:0", "--address", "127.0.0.1:1")
	if status != 0 {
		t.Fatal(out)
	}
	same(t, "init", out, `
Instance: #
Key fingerprint: #
Listens on: #
Address: #

Next: holdfast arbiter serve --dir `+dir+"\n")
	if out, status := run(t, "init", "--dir", dir); status != api.ExitRefused {
		t.Error(status, out)
	}
	address, stop := serve(t, dir, "")

	out, status = run(t, "token", "--dir", dir, "--name", "shop", "--address", address, "--valid", "10m")
	if status != 0 {
		t.Fatal(out)
	}
	token, err := arbiter.ParseToken(out)
	if err != nil || token.Address != address || time.Until(token.Expires) > 10*time.Minute {
		t.Fatal(token, err)
	}
	c, err := testcluster.New("shop")
	if err != nil {
		t.Fatal(err)
	}
	id, err := c.Node("n1", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	p, err := arbiter.Register(t.Context(), arbiter.Registration{Token: strings.TrimSpace(out), ClusterUUID: c.UUID, ClusterName: c.Name, Authorities: c.Authority(), Identity: id, Register: 1})
	if err != nil {
		t.Fatal(err)
	}
	out, _ = run(t, "list", "--dir", dir)
	same(t, "list", out, `
NAME UUID STATE REGISTER TERM VOTE ASKED CONNECTIONS SIZE
shop # not asked yet 0 - - - 0 #
`)
	k := arbiter.Dial(p, id)
	defer k.Close()
	for b := uint64(1); b < 3; b++ {
		if _, err := k.Do(t.Context(), c.Accept("n1", b, b, 7)); err != nil {
			t.Fatal(err)
		}
	}
	out, _ = run(t, "show", "shop", "--dir", dir)
	same(t, "show", out, `
Cluster: shop
UUID: #
State: serving
Registered: # by node n1
Authorities: #
Last asked: #
Connections: 1
Size: #
Register: 1
Sequence: 3
Promised: 2 of proposer 0000000000000001
Accepted: 2 of proposer 0000000000000001
Term: 2
Vote: raft id 7
Leader: nobody
Log: up to 100 (term 1 from 1)
Committed: 90

Nodes
NODE RAFT ID SEEN SUSPECTED
n1 1 # -
`)
	out, _ = run(t, "status", "--dir", dir)
	same(t, "status", out, `
Instance: #
Key fingerprint: #
Listens on: #
Address: #
Version: test
Started: #
Clusters: 1
Abstaining: 0
Forgotten: 0
Connections: 1
Requests: 2
Looked at: every 10 s
Open tokens: 0
Store: #
`)
	for args, want := range map[string]string{
		"list -o json":        `"schema": "arbiter-clusters/1"`,
		"show shop -o yaml":   "schema: arbiter-cluster/1",
		"status -o json":      `"schema": "arbiter-status/1"`,
		"token -o yaml":       "schema: arbiter-token/1",
		"show " + c.UUID:      "shop",
		"backup " + dir + "b": "keep it private",
	} {
		if out, status := run(t, append(strings.Fields(args), "--dir", dir)...); status != 0 || !strings.Contains(out, want) {
			t.Errorf("%s: %d, %s", args, status, out)
		}
	}
	for args, want := range map[string]int{
		"":                           0,
		"nonsense":                   api.ExitUsage,
		"show":                       api.ExitUsage,
		"show a b":                   api.ExitUsage,
		"show nobody":                api.ExitNotFound,
		"list -o xml":                api.ExitUsage,
		"forget shop":                api.ExitUsage,
		"forget nobody --yes":        api.ExitNotFound,
		"moved":                      api.ExitUsage,
		"moved --yes":                api.ExitRefused,
		"token --address x":          api.ExitUsage,
		"token --valid 10000h":       api.ExitError,
		"restore " + dir + "b":       api.ExitRefused,
		"serve --metrics 0.0.0.0:1":  api.ExitRefused, // it is in use
		"backup " + dir + "b":        api.ExitRefused,
		"backup /nonexistent/x/y":    api.ExitError,
		"restore /nonexistent/x/y":   api.ExitRefused,
		"init --listen 127.0.0.1:no": api.ExitRefused,
	} {
		if out, status := run(t, append(strings.Fields(args), "--dir", dir)...); status != want {
			t.Errorf("%q: %d, want %d: %s", args, status, want, out)
		}
	}
	out, status = run(t, "forget", "shop", "--yes", "--dir", dir)
	if status != 0 || !strings.Contains(out, "Register numbers up to 1 stay refused") {
		t.Error(status, out)
	}
	stop()
	if err := os.Remove(filepath.Join(dir, arbiterd.FileStore)); err != nil {
		t.Fatal(err)
	}
	out, status = run(t, "restore", dir+"b", "--dir", dir)
	if status != 0 || !strings.Contains(out, "1 clusters abstain") {
		t.Error(status, out)
	}
	if out, status := run(t, "moved", "--yes", "--dir", dir); status != 0 {
		t.Error(status, out)
	}
}
