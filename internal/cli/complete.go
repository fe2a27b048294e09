package cli

import (
	"context"
	"slices"

	"github.com/spf13/cobra"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/schema"
)

// Shells complete names from the live cluster; without one there are none.

type completion = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective)

// complete names from a configuration for the first few arguments, one
// function each; those given are not offered again.
func (a *app) complete(per ...func(*v1.Configuration) []string) completion {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) >= len(per) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(commandContext(cmd), completeLimit)
		defer cancel()
		c, err := a.dial()
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		m, err := call(ctx, c, c.config.Export, &v1.ExportRequest{})
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		names := slices.DeleteFunc(per[len(args)](m.GetConfiguration()), func(n string) bool { return slices.Contains(args, n) })
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

func commandContext(c *cobra.Command) context.Context {
	if ctx := c.Context(); ctx != nil {
		return ctx
	}
	return context.Background()
}

func namesOf[T interface{ GetName() string }](list []T) (names []string) {
	for _, o := range list {
		names = append(names, o.GetName())
	}
	return names
}

func nodeNames(c *v1.Configuration) []string  { return namesOf(c.GetNodes()) }
func groupNames(c *v1.Configuration) []string { return namesOf(c.GetGroups()) }
func typeNames(c *v1.Configuration) []string  { return namesOf(c.GetTypes()) }

func resourceNames(c *v1.Configuration) (names []string) {
	for _, g := range c.GetGroups() {
		names = append(names, namesOf(g.GetResources())...)
	}
	return names
}

// fieldFlag completes a flag that sets, or compares with, a field of an object
// of the configuration: with what the schema lets it hold, names of objects
// from the live cluster.
func (a *app) fieldFlag(c *cobra.Command, name, object, key string) {
	f := schema.Field(schema.Object(object), key)
	complete := cobra.FixedCompletions(schema.Values(f, nil), cobra.ShellCompDirectiveNoFileComp)
	if schema.Of(f).GetNames() != "" {
		live := a.complete(func(cfg *v1.Configuration) []string { return schema.Values(f, cfg) })
		complete = func(c *cobra.Command, _ []string, s string) ([]string, cobra.ShellCompDirective) {
			return live(c, nil, s)
		}
	}
	must(c.RegisterFlagCompletionFunc(name, complete))
}

// namesFlag has a flag completed with names.
func (a *app) namesFlag(c *cobra.Command, name string, names func(*v1.Configuration) []string) {
	complete := a.complete(names)
	must(c.RegisterFlagCompletionFunc(name, func(c *cobra.Command, _ []string, s string) ([]string, cobra.ShellCompDirective) {
		return complete(c, nil, s)
	}))
}

// nodeFlag is a flag whose value is the name of a node.
func (a *app) nodeFlag(c *cobra.Command, to *string, name, help string) {
	c.Flags().StringVar(to, name, "", help)
	a.fieldFlag(c, name, "Group", "systemList")
}
