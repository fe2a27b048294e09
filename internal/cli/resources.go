package cli

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/protoyaml"
)

func (a *app) resourceCommand() *cobra.Command {
	group := ""
	list := a.withOutput(&cobra.Command{
		Use: "list [--group GROUP]", Short: "List resources on all nodes", Args: args(0, 0),
		RunE: a.run(func(ctx context.Context, c *client, _ []string) error {
			m, err := call(ctx, c, c.resources.List, &v1.ListResourcesRequest{Group: group})
			if err != nil {
				return err
			}
			return a.show("resources/1", m, func(w io.Writer) {
				heading(w, m.GetSource())
				table(w, resourceRows(m.GetResources(), true)...)
			})
		}),
	})
	list.Flags().StringVar(&group, "group", "", "of this group only")
	groups := a.complete(groupNames)
	must(list.RegisterFlagCompletionFunc("group", func(c *cobra.Command, _ []string, s string) ([]string, cobra.ShellCompDirective) {
		return groups(c, nil, s)
	}))
	show := a.withOutput(&cobra.Command{
		Use: "show RESOURCE", Short: "Show a resource: attributes, limits, state on all nodes", Args: args(1, 1), ValidArgsFunction: a.complete(resourceNames),
		RunE: a.run(func(ctx context.Context, c *client, args []string) error {
			m, err := call(ctx, c, c.resources.Show, &v1.ShowResourceRequest{Resource: args[0]})
			if err != nil {
				return err
			}
			return a.show("resource/1", m, func(w io.Writer) { writeResource(w, m) })
		}),
	})
	online := a.resourceOperation("online RESOURCE", "Bring a resource online, with what it requires",
		func(ctx context.Context, c *client, name, node string) (*v1.Operation, error) {
			m, err := call(ctx, c, c.resources.Online, &v1.OnlineResourceRequest{Resource: name, Node: node})
			return m.GetOperation(), err
		})
	offline := a.resourceOperation("offline RESOURCE", "Take a resource offline; the rest of its group stays",
		func(ctx context.Context, c *client, name, node string) (*v1.Operation, error) {
			m, err := call(ctx, c, c.resources.Offline, &v1.OfflineResourceRequest{Resource: name, Node: node})
			return m.GetOperation(), err
		})
	probe := a.onNode("probe RESOURCE", "Monitor a resource now", resourceNames, "is being probed",
		func(ctx context.Context, c *client, name, node string) error {
			_, err := call(ctx, c, c.resources.Probe, &v1.ProbeResourceRequest{Resource: name, Node: node})
			return err
		})
	clear := a.onNode("clear RESOURCE", "Take the fault off a resource after its cause was mended", resourceNames, "has no fault any more",
		func(ctx context.Context, c *client, name, node string) error {
			_, err := call(ctx, c, c.resources.Clear, &v1.ClearResourceRequest{Resource: name, Node: node})
			return err
		})
	return grouped(&cobra.Command{Use: "resource", Short: "Resources: the parts of groups"}, list, show, online, offline, probe, clear,
		a.actionCommand(), a.adminWaitCommand("clear-admin-wait RESOURCE", false), a.infoCommand())
}

func (a *app) resourceOperation(use, short string, begin func(ctx context.Context, c *client, name, node string) (*v1.Operation, error)) *cobra.Command {
	w := &waiting{}
	node := ""
	c := a.withOutput(&cobra.Command{
		Use: use + " [--node NODE]", Short: short, Args: args(1, 1), ValidArgsFunction: a.complete(resourceNames),
		RunE: a.run(func(ctx context.Context, c *client, args []string) error {
			op, err := begin(ctx, c, args[0], node)
			if err != nil {
				return err
			}
			return a.finish(ctx, c, op, w, "")
		}),
	})
	a.nodeFlag(c, &node, "node", "on this node (default: where its group is)")
	alias(c, "on", &node)
	w.flags(c)
	return c
}

func writeResource(w io.Writer, m *v1.ShowResourceResponse) {
	heading(w, m.GetSource())
	r := m.GetResource().GetResource()
	var flags []string
	if r.Critical != nil && !r.GetCritical() {
		flags = append(flags, "not critical")
	}
	if r.Enabled != nil && !r.GetEnabled() {
		flags = append(flags, "disabled")
	}
	pairs(w, [2]string{"Resource", r.GetName()}, [2]string{"Type", r.GetType()}, [2]string{"Group", m.GetResource().GetGroup()},
		[2]string{"Requires", strings.Join(r.GetRequires(), ", ")}, [2]string{"Is", strings.Join(flags, ", ")})
	rows := [][]string{{"ATTRIBUTE", "VALUE"}}
	for _, k := range slices.Sorted(maps.Keys(r.GetAttributes())) {
		rows = append(rows, []string{k, r.GetAttributes()[k]})
	}
	section(w, "Attributes", rows...)
	rows = [][]string{{"NODE", "STATE", "SINCE", "NOTE"}}
	for _, n := range m.GetResource().GetNodes() {
		note := n.GetStatus().GetMessage()
		if k := n.GetStatus().GetRestarts(); k > 0 {
			note = strings.TrimSuffix(fmt.Sprintf("restarted %d times; %s", k, note), "; ")
		}
		rows = append(rows, []string{n.GetNode(), resourceState(n.GetStatus()), clock(n.GetStatus().GetChangedMs()), note})
	}
	section(w, "Nodes", rows...)
	writeLimits(w, m.GetEffectiveLimits(), r.GetLimits())
}

// writeLimits lists limits; those that own has set are marked.
func writeLimits(w io.Writer, l, own *v1.Limits) {
	rows := [][]string{{"LIMIT", "VALUE"}}
	m := l.ProtoReflect()
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if !m.Has(f) {
			continue
		}
		v := protoyaml.FieldText(m, f)
		if own.ProtoReflect().Has(f) {
			v += " (set here)"
		}
		rows = append(rows, []string{f.JSONName(), v})
	}
	section(w, "Limits", rows...)
}

func (a *app) typeCommand() *cobra.Command {
	list := a.withOutput(&cobra.Command{
		Use: "list", Short: "List types of resources", Args: args(0, 0),
		RunE: a.run(func(ctx context.Context, c *client, _ []string) error {
			m, err := call(ctx, c, c.types.List, &v1.ListTypesRequest{})
			if err != nil {
				return err
			}
			return a.show("types/1", m, func(w io.Writer) {
				heading(w, m.GetSource())
				rows := [][]string{{"TYPE", "OPERATIONS", "WHAT"}}
				for _, t := range m.GetTypes() {
					rows = append(rows, []string{t.GetName(), operations(t), firstSentence(t.GetDescription())})
				}
				table(w, rows...)
			})
		}),
	})
	show := a.withOutput(&cobra.Command{
		Use: "show TYPE", Short: "Show a type: its attributes and limits", Args: args(1, 1), ValidArgsFunction: a.complete(typeNames),
		RunE: a.run(func(ctx context.Context, c *client, args []string) error {
			m, err := call(ctx, c, c.types.Show, &v1.ShowTypeRequest{Type: args[0]})
			if err != nil {
				return err
			}
			return a.show("type/1", m, func(w io.Writer) {
				heading(w, m.GetSource())
				t := m.GetType()
				pairs(w, [2]string{"Type", t.GetName()}, [2]string{"Operations", operations(t)}, [2]string{"What", t.GetDescription()},
					[2]string{"Actions", strings.Join(t.GetSupportedActions(), ", ")})
				rows := [][]string{{"ATTRIBUTE", "KIND", "REQUIRED", "DEFAULT", "WHAT"}}
				for _, at := range t.GetAttributes() {
					need := yes(at.GetRequired())
					if at.GetUnique() {
						need = strings.TrimPrefix(need+", unique", ", ")
					}
					rows = append(rows, []string{at.GetName(), word(at.GetKind()), need, at.GetDefault(), at.GetDescription()})
				}
				section(w, "Attributes", rows...)
				writeLimits(w, m.GetEffectiveLimits(), t.GetLimits())
			})
		}),
	})
	return grouped(&cobra.Command{Use: "type", Short: "Types: kinds of resources"}, list, show, a.typeImportOCFCommand(), a.typeImportScriptCommand())
}

func operations(t *v1.ResourceType) string {
	return map[v1.Operations]string{
		v1.Operations_OPERATIONS_ON_OFF:  "online and offline",
		v1.Operations_OPERATIONS_ON_ONLY: "online only",
		v1.Operations_OPERATIONS_NONE:    "watched only",
	}[t.GetOperations()]
}

func firstSentence(s string) string {
	if i := strings.Index(s, ". "); i >= 0 {
		return s[:i+1]
	}
	return s
}
