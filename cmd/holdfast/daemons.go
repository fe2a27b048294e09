package main

import (
	"context"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/holdfast-ha/holdfast/internal/cli"
	"github.com/holdfast-ha/holdfast/internal/node/clusterd"
	"github.com/holdfast-ha/holdfast/internal/node/guardd"
)

// Where a node keeps what is its own.
const (
	defaultStateDir = "/var/lib/holdfast"
	defaultRunDir   = "/run/holdfast"
)

// daemons are the commands that the system and guard start.
func daemons() []*cobra.Command {
	var watchdog string
	var mayRestart bool
	guard := daemon("guard", "Run a node: heartbeats, lease, and clusterd under its watch",
		func(ctx context.Context, stateDir, runDir string) error {
			return guardd.Run(ctx, guardd.Options{StateDir: stateDir, RunDir: runDir, Watchdog: watchdog, MayRestart: mayRestart})
		})
	guard.Flags().StringVar(&watchdog, "watchdog", "off", "reset this machine if guard fails or can't stop what runs: a device such as /dev/watchdog, auto (the first one, else softdog), or off")
	guard.Flags().BoolVar(&mayRestart, "allow-restart", false, "restart this machine when a package demands it (nodeFailFastEnabled, failFastEnabled of a service); without it the node only leaves the cluster")
	clusterd := daemon("clusterd", "The brain of a node; guard starts it",
		func(ctx context.Context, stateDir, runDir string) error {
			err := clusterd.Run(ctx, clusterd.Options{StateDir: stateDir, RunDir: runDir, Version: cli.Version()})
			if err != nil {
				err = &cli.Exit{Status: clusterd.Status(err), Err: err} // guard reads it
			}
			return err
		})
	return []*cobra.Command{guard, clusterd}
}

func daemon(use, short string, run func(ctx context.Context, stateDir, runDir string) error) *cobra.Command {
	var stateDir, runDir string
	c := &cobra.Command{
		Use: use, Short: short, Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, _ []string) error {
			slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, nil)).With("daemon", use))
			return run(c.Context(), stateDir, runDir)
		},
	}
	c.Flags().StringVar(&stateDir, "state-dir", defaultStateDir, "what survives a reboot: the node's identity, keys and log")
	c.Flags().StringVar(&runDir, "run-dir", defaultRunDir, "what does not: sockets and locks")
	return c
}
