package lab

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-ha/holdfast/internal/api"
	"github.com/holdfast-ha/holdfast/internal/cli"
)

// Commands of labs end with the statuses of docs/codes.md.
func TestExitStatuses(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.yaml")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	lab := "--dir=" + filepath.Join(t.TempDir(), "none")
	for words, want := range map[string]int{
		"lab kill":                              api.ExitUsage,
		"lab nonsense":                          api.ExitUsage,
		"lab up --nodes 0":                      api.ExitUsage,
		"lab up --nodes 100 " + lab:             api.ExitUsage,
		"lab up --arbiters 2 " + lab:            api.ExitUsage,
		"lab up -f /nonexistent":                api.ExitUsage,
		"lab up -f " + empty:                    api.ExitUsage,
		"lab up -f " + empty + " --nodes 2":     api.ExitUsage,
		"lab up --name Bad!":                    api.ExitUsage,
		"lab status -o xml":                     api.ExitUsage,
		"lab bench failover --runs 0":           api.ExitUsage,
		"lab bench failover --tests nonsense":   api.ExitUsage,
		"lab bench failover -o xml --tests all": api.ExitUsage,
		"lab status " + lab:                     api.ExitNotFound,
		"lab cut n1 " + lab:                     api.ExitNotFound,
	} {
		var out bytes.Buffer
		status := cli.Main(t.Context(), cli.Streams{In: strings.NewReader(""), Out: &out, Err: &out}, strings.Fields(words), Command())
		if status != want {
			t.Errorf("holdfast %s: exit %d, want %d:\n%s", words, status, want, out.String())
		}
	}
}
