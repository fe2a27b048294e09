//go:build linux

package guardd

import (
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"testing"
	"time"
)

// Guard stays small: it is locked in memory.
func TestMemory(t *testing.T) {
	_, daemons, engines := pair(t, time.Second)
	engines[0].await("table", upOnBothLinks)
	engines[0].stats()
	pid := daemons[0].cmd.Process.Pid
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		var kib int
		if n, _ := fmt.Sscanf(line, "VmRSS: %d kB", &kib); n == 1 {
			t.Logf("resident: %d KiB", kib)
			if kib > 30<<10 && !raced() {
				t.Errorf("%d KiB resident, at most 30 MiB are expected", kib)
			}
		}
	}
}

// raced: the race detector takes more memory than guard does.
func raced() bool {
	info, _ := debug.ReadBuildInfo()
	for _, s := range info.Settings {
		if s.Key == "-race" && s.Value == "true" {
			return true
		}
	}
	return false
}
