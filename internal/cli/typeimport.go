package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/api"
	"github.com/holdfast-ha/holdfast/internal/config"
	"github.com/holdfast-ha/holdfast/internal/group/agents"
	"github.com/holdfast-ha/holdfast/internal/protoyaml"
)

func (a *app) typeImportOCFCommand() *cobra.Command {
	plain := false
	c := &cobra.Command{
		Use: "import-ocf PROVIDER:AGENT", Short: "Print a type for an OCF resource agent of this machine, to be applied", Args: args(1, 1),
		Long: "Asks a resource agent of the Open Cluster Framework for its description and prints a\n" +
			"document for apply -f. It changes nothing. docs/agents.md says how agents are called.",
		Example: "  holdfast type import-ocf heartbeat:IPaddr2 >ipaddr2.yaml\n  holdfast apply -f ipaddr2.yaml",
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return agents.OCFAgents(), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			t, notes, err := agents.ImportOCF(cmd.Context(), args[0], plain)
			return a.printType(t, notes, err)
		},
	}
	c.Flags().BoolVar(&plain, "plain", false, "also an agent that can be promoted: it will never be")
	return c
}

func (a *app) typeImportScriptCommand() *cobra.Command {
	var in agents.ScriptImport
	c := &cobra.Command{
		Use: "import-script DIR [--types FILE | --attributes NAME,NAME]", Short: "Print a type for a directory of script entry points, to be applied", Args: args(1, 1),
		Long: "Makes a type of a directory with the programs online, offline, monitor and so on, as the\n" +
			"field's script agents have it, and of its type definition (.cf), and prints a document for\n" +
			"apply -f. It changes nothing. docs/agents.md says how entry points are called.",
		Example: "  holdfast type import-script /opt/VRTSvcs/bin/Foo --types /etc/VRTSvcs/conf/config/FooTypes.cf\n" +
			"  holdfast type import-script /opt/agents/foo --attributes Path,Port",
		RunE: func(_ *cobra.Command, args []string) error {
			if in.TypesFile != "" && len(in.Attributes) > 0 {
				return usage("--types and --attributes both say what attributes there are: give one")
			}
			in.Dir = args[0]
			t, notes, err := agents.ImportScripts(in)
			return a.printType(t, notes, err)
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveFilterDirs
		},
	}
	c.Flags().StringVar(&in.TypesFile, "types", "", "file that defines the type; without it the .cf file in DIR")
	c.Flags().StringSliceVar(&in.Attributes, "attributes", nil, "attributes in the order in which they are passed, where no file defines the type")
	c.Flags().BoolVar(&in.BareValues, "bare-values", false, "the scripts expect values only, as those written before version 50 do")
	must(c.MarkFlagFilename("types", "cf"))
	return c
}

// printType prints a type as a document, with what there is to know about it as comments.
func (a *app) printType(t *v1.ResourceType, notes []string, err error) error {
	if err != nil {
		return &failure{code: api.CodeUsage, message: err.Error()}
	}
	for _, n := range notes {
		fmt.Fprintf(a.Out, "# Note: %s.\n", n)
	}
	_, err = a.Out.Write(protoyaml.Options{First: []protoyaml.Pair{{Key: "kind", Value: config.KindType}}}.YAML(t))
	return err
}
