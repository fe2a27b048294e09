package lab

import (
	"fmt"

	"github.com/holdfast-ha/holdfast/internal/api"
	"github.com/holdfast-ha/holdfast/internal/cli"
)

// The commands of labs end with the statuses of all others (docs/codes.md).

// bad: a word of the command line, or a value in a file, is wrong. Nothing was begun.
func bad(format string, args ...any) error {
	return &cli.Exit{Status: api.ExitUsage, Err: fmt.Errorf(format, args...)}
}

// absent: there is no such thing.
func absent(format string, args ...any) error {
	return &cli.Exit{Status: api.ExitNotFound, Err: fmt.Errorf(format, args...)}
}

// refused: something else has to happen first.
func refused(format string, args ...any) error {
	return &cli.Exit{Status: api.ExitRefused, Err: fmt.Errorf(format, args...)}
}
