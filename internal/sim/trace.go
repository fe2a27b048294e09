package sim

import (
	"fmt"
	"hash/fnv"
	"io"
	"strings"
	"time"
)

// A trace is the story of a run. The last lines are kept for a failure; all of
// them go to verbose if that is set. Every line and every event enters the
// hash, which two runs of one seed share.
type trace struct {
	verbose io.Writer
	lines   []string
	next    int
	hash    uint64
}

const traceKept = 400

func (t *trace) add(now time.Duration, who, format string, args ...any) {
	line := fmt.Sprintf("%11s %-4s %s", seconds(now), who, fmt.Sprintf(format, args...))
	t.mix(line)
	if t.verbose != nil {
		fmt.Fprintln(t.verbose, line)
	}
	if len(t.lines) < traceKept {
		t.lines = append(t.lines, line)
		return
	}
	t.lines[t.next] = line
	t.next = (t.next + 1) % traceKept
}

func (t *trace) mix(s string) {
	h := fnv.New64a()
	io.WriteString(h, s) // never fails
	t.hash = t.hash*31 + h.Sum64()
}

func (t *trace) mixInt(n uint64) { t.hash = (t.hash ^ n) * 1099511628211 }

// tail returns the last n lines, oldest first.
func (t *trace) tail(n int) string {
	all := append(append([]string{}, t.lines[t.next:]...), t.lines[:t.next]...)
	return strings.Join(all[max(0, len(all)-n):], "\n")
}

// seconds prints a time of the run: 12.345678s.
func seconds(d time.Duration) string {
	return fmt.Sprintf("%d.%06ds", d/time.Second, d%time.Second/time.Microsecond)
}
