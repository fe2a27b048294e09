// Command holdfast is everything: the daemons of a node, the command line that
// talks to them, and the lab. It only puts parts together; each part says in
// its own package what it does.
package main

import (
	"context"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/holdfast-ha/holdfast/internal/arbiter/arbitercmd"
	"github.com/holdfast-ha/holdfast/internal/cli"
	"github.com/holdfast-ha/holdfast/internal/lab"
	"github.com/holdfast-ha/holdfast/internal/lockdiskcmd"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	streams := cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Terminal: cli.IsTerminal(os.Stderr)}
	status := cli.Main(ctx, streams, os.Args[1:], append(daemons(), arbitercmd.Command(), lockdiskcmd.Command(), lab.Command())...)
	stop()
	os.Exit(status)
}
