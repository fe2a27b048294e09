package lab

import (
	"os"

	"github.com/spf13/cobra"
)

// Hidden subcommands: processes that a lab starts from its own binary.
const (
	initCommand  = "node-init"
	probeCommand = "probe"
	webCommand   = "web"
)

// Command is `holdfast lab`.
func Command() *cobra.Command {
	c := &cobra.Command{Use: "lab", Short: "Run a whole cluster on this machine", SilenceUsage: true}
	c.AddCommand(
		&cobra.Command{Use: initCommand + " SPEC", Hidden: true, Args: cobra.ExactArgs(1),
			RunE: func(_ *cobra.Command, args []string) error { return runInit(args[0]) }},
		&cobra.Command{Use: probeCommand + " HOST:PORT", Hidden: true, Args: cobra.ExactArgs(1),
			RunE: func(_ *cobra.Command, args []string) error {
				return runProber(args[0], probeEvery, probeTimeout, os.Stdin, os.Stdout)
			}},
		&cobra.Command{Use: webCommand + " HOST:PORT", Hidden: true, Args: cobra.ExactArgs(1),
			RunE: func(_ *cobra.Command, args []string) error { return runWeb(args[0]) }},
	)
	return c
}
