package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-ha/holdfast/internal/api"
)

// A file without documents is bad input: with --prune it would otherwise remove everything.
func TestFileWithoutDocuments(t *testing.T) {
	s := newSite(t)
	for i, text := range []string{"", "\n\n", "# nothing but a comment\n", "---\n---\n", "null\n"} {
		name := filepath.Join(t.TempDir(), "empty.yaml")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		before, _ := s.State(t.Context())
		for _, args := range [][]string{{"apply", "-f", name}, {"apply", "-f", name, "--prune"}, {"apply", "-f", "testdata/cluster.yaml", "-f", name}, {"diff", "-f", name}} {
			got := s.run(t, args...)
			if !strings.Contains(got, "empty.yaml: has no documents") || !strings.Contains(got, "[HF1002]") || !strings.HasSuffix(got, "exit 2\n") {
				t.Errorf("%d: %v:\n%s", i, args, got)
			}
		}
		if after, _ := s.State(t.Context()); !proto.Equal(before, after) {
			t.Errorf("%d: the state has changed", i)
		}
	}
}

// What is wrong with the words for a command of another package ends as it does for those of this one.
func TestCommandsOfOtherPackages(t *testing.T) {
	other := func() *cobra.Command {
		c := &cobra.Command{Use: "other", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error { return c.Help() }}
		sub := &cobra.Command{Use: "group"}
		sub.AddCommand(&cobra.Command{Use: "deep", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error { return nil }})
		c.AddCommand(sub,
			&cobra.Command{Use: "one NODE", Args: cobra.ExactArgs(1), RunE: func(*cobra.Command, []string) error { return nil }},
			&cobra.Command{Use: "own", Args: func(*cobra.Command, []string) error { return &Exit{Status: api.ExitNotFound, Err: os.ErrNotExist} }, RunE: func(*cobra.Command, []string) error { return nil }},
		)
		return c
	}
	for _, c := range []struct {
		words  string
		status int
		say    string
	}{
		{"other", 0, "Usage:"},
		{"other one n1", 0, ""},
		{"other one", 2, "an argument is missing: holdfast other one NODE [HF1001]"},
		{"other one n1 n2", 2, "too many arguments: holdfast other one NODE [HF1001]"},
		{"other nonsense", 2, `there is no command "holdfast other nonsense" [HF1001]`},
		{"other group", 0, "deep"},
		{"other group nonsense", 2, `there is no command "holdfast other group nonsense"`},
		{"other group deep x", 2, "too many arguments: holdfast other group deep"},
		{"other one --bad", 2, "unknown flag: --bad [HF1001]"},
		{"other own x", 6, "file does not exist"},
	} {
		var out bytes.Buffer
		status := Main(t.Context(), Streams{In: strings.NewReader(""), Out: &out, Err: &out}, strings.Fields(c.words), other())
		if status != c.status || !strings.Contains(out.String(), c.say) {
			t.Errorf("%s: exit %d, want %d and %q:\n%s", c.words, status, c.status, c.say, out.String())
		}
	}
}
