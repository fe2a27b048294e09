package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-ha/holdfast/internal/setup"
	"github.com/holdfast-ha/holdfast/internal/setup/setuppb"
)

// A daemon is started by systemd where there is the unit, and only there.
func TestSetupStartsTheUnit(t *testing.T) {
	for _, c := range []struct {
		name, systemctl string
		stateDir        string
		start           *bool
		want, asked     string
		err             string
	}{
		{"a unit", "exit 0", defaultStateDir, nil, "started: systemctl start holdfast.service", "cat holdfast.service\nstart holdfast.service\n", ""},
		{"no unit", "exit 1", defaultStateDir, nil, "start it with: holdfast guard --state-dir /var/lib/holdfast --run-dir /run/holdfast", "cat holdfast.service\n", ""},
		{"other directories", "exit 0", "/elsewhere", nil, "start it with: holdfast guard --state-dir /elsewhere", "", ""},
		{"not wanted", "exit 0", defaultStateDir, new(bool), "start it with: systemctl start holdfast.service", "cat holdfast.service\n", "later"},
		{"failure", "[ $1 = cat ] || { echo Job failed; exit 3; }", defaultStateDir, nil, "", "cat holdfast.service\nstart holdfast.service\n", "exit status 3: Job failed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			script := "#!/bin/sh\necho \"$@\" >> " + dir + "/asked\n" + c.systemctl + "\n"
			if err := os.WriteFile(filepath.Join(dir, "systemctl"), []byte(script), 0o700); err != nil {
				t.Fatal(err)
			}
			t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
			var out strings.Builder
			a := &app{Streams: Streams{Out: &out, Err: &out}, api: filepath.Join(dir, "nobody.sock")}
			cl, err := a.dial()
			if err != nil {
				t.Fatal(err)
			}
			s := &setupRun{app: a, c: cl, Plan: &setup.Plan{Response: &setuppb.Response{Node: "n1", StateDir: c.stateDir, RunDir: "/run/holdfast", Start: c.start}}}
			err = s.startDaemon(t.Context())
			if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("error %v", err)
			}
			asked, _ := os.ReadFile(filepath.Join(dir, "asked"))
			if !strings.Contains(out.String(), c.want) || string(asked) != c.asked {
				t.Errorf("printed %q, systemctl was asked %q", out.String(), asked)
			}
		})
	}
}

func TestSetupExampleAndUsage(t *testing.T) {
	run := func(args ...string) (string, int) {
		var out strings.Builder
		status := Main(t.Context(), Streams{In: strings.NewReader("nodes: 7\n"), Out: &out, Err: &out}, append([]string{"setup"}, args...))
		return out.String(), status
	}
	if out, status := run("--example"); status != 0 || out != setup.Example {
		t.Error(status, out)
	}
	for want, args := range map[string][]string{
		"name the response file with -r":             nil,
		"no such file":                               {"-r", "nowhere"},
		"stands alone":                               {"--example", "-r", "x"},
		"standard input:1:8: nodes: is the number 7": {"-r", "-"},
	} {
		if out, status := run(args...); status != 2 || !strings.Contains(out, want) {
			t.Errorf("%v: %d: %s", args, status, out)
		}
	}
}
