package cli

import (
	"io"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/api"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

func TestNamesComplete(t *testing.T) {
	s := newWide(t)
	s.Change(func(st *statepb.State, _ *api.Local) {
		st.Signals = map[string]*statepb.Signal{"disk": {Nodes: map[string]*statepb.SignalValue{"n1": {State: v1.SignalState_SIGNAL_STATE_UP}}}}
	})
	const groups, nodes, resources = "cache db shop watch", "n1 n2 n3", "cache-server db-server shop-ip shop-server watch-server"
	for line, want := range map[string]string{
		"group enable ?": groups, "group disable db --node ?": nodes, "group autoenable ?": groups, "group switching ?": "on off", "group switching off ?": groups, "group maintenance on db --node ?": nodes,
		"group freeze ?": groups, "group unfreeze ?": groups, "group drill db --node ?": nodes, "group dependencies ?": groups, "group clear-admin-wait ?": groups + " " + resources, "group online db --node ?": nodes,
		"group switch db --to ?": nodes, "group flush ?": groups, "resource action ?": resources, "resource action shop-server ?": "drill program.vfd checkpoint", "resource action shop-ip ?": "", "resource info ?": resources,
		"resource clear-admin-wait ?": resources, "node freeze ?": nodes, "node evacuate ?": nodes, "node load ?": nodes, "signal set ?": "disk", "signal set disk ?": "up down unknown", "signal clear ?": "disk",
		"signal clear disk --node ?": nodes, "package run ?": groups, "package halt ?": groups, "package enable db --node ?": nodes, "package disable ?": groups, "package show ?": groups,
		"explain resource ?": resources, "explain node ?": nodes, "explain event ?": "", "simulate --fail ?": nodes, "simulate --freeze ?": groups + " " + nodes, "simulate --disable ?": groups, "simulate --fault ?": resources,
	} {
		args := append([]string{"__complete"}, strings.Fields(strings.TrimSuffix(line, "?"))...)
		out, _, _ := strings.Cut(s.run(t, append(args, "")...), "stderr:")
		var got []string
		for name := range strings.Lines(out) {
			if name = strings.TrimSpace(name); name != "" && name[0] != ':' {
				got = append(got, name)
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %q, want %q", line, strings.Join(got, " "), want)
		}
	}
}

// Every argument, and every flag that names a node, is completed or said to have no names.
func TestEverythingCompletes(t *testing.T) {
	root := (&app{Streams: Streams{Out: io.Discard, Err: io.Discard}}).root()
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			walk(sub)
		}
		if c.HasSubCommands() || !c.Runnable() {
			return
		}
		if c.Args != nil && c.Args(c, []string{"x"}) == nil && c.ValidArgsFunction == nil && !strings.Contains(c.Use, "FILE") {
			t.Errorf("%s takes an argument and completes none", c.CommandPath())
		}
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Hidden || f.Value.Type() != "string" {
				return
			}
			if _, ok := c.GetFlagCompletionFunc(f.Name); !ok && f.Name == "node" {
				t.Errorf("%s --%s names a node and completes none", c.CommandPath(), f.Name)
			}
		})
	}
	walk(root)
}
