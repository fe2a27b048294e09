package cli

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/api"
	"github.com/holdfast-ha/holdfast/internal/api/apifake"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// script is standard error that makes the next thing happen each time a line
// is written to it: nothing happens before the line before it was shown.
type script struct {
	mu    sync.Mutex
	shown strings.Builder
	next  []func()
}

func (s *script) Write(p []byte) (int, error) {
	s.mu.Lock()
	s.shown.Write(p)
	var do func()
	if len(s.next) > 0 {
		do, s.next = s.next[0], s.next[1:]
	}
	s.mu.Unlock()
	if do != nil {
		do()
	}
	return len(p), nil
}

// moving is a site on which web moves to n2 step by step once it is asked to;
// end says how it ends.
func moving(t *testing.T, end v1.OperationState, message string) (*site, *script) {
	s := newSite(t)
	errs := &script{}
	change := func(f func(st *statepb.State, op *v1.Operation)) func() {
		return func() {
			s.Change(func(st *statepb.State, _ *api.Local) { f(st, st.Operations[len(st.Operations)-1]) })
		}
	}
	begin := change(func(st *statepb.State, _ *v1.Operation) {
		on := st.GroupStatus["web"].Nodes["n1"]
		on.Want = v1.Want_WANT_OFFLINE
		on.Resources["web-server"].Activity = v1.ResourceActivity_RESOURCE_ACTIVITY_OFFLINE
	})
	s.Submitted = func(c *statepb.Command) {
		if c.GetOperate() != nil {
			begin()
		}
	}
	errs.next = []func(){
		change(func(st *statepb.State, _ *v1.Operation) {
			apifake.Runs(st, "web", "")
			on := st.GroupStatus["web"].Nodes["n2"]
			on.Want = v1.Want_WANT_ONLINE
			on.Resources["web-ip"].State = v1.ResourceState_RESOURCE_STATE_ONLINE
			on.Resources["web-server"].Activity = v1.ResourceActivity_RESOURCE_ACTIVITY_ONLINE
		}),
		change(func(st *statepb.State, op *v1.Operation) {
			op.State, op.Message, op.EndedMs = end, message, op.StartedMs+1234
		}),
	}
	return s, errs
}

func TestSwitchShowsProgress(t *testing.T) {
	for _, terminal := range []bool{false, true} {
		s, errs := moving(t, v1.OperationState_OPERATION_STATE_DONE, "web is online on n2")
		var out strings.Builder
		status := Main(t.Context(), Streams{Out: &out, Err: errs, Terminal: terminal}, []string{"--api", s.socket, "group", "switch", "web", "--to", "n2"})
		steps := []string{
			"web stopping on n1: 2 of 2 online, web-server going offline",
			"web starting on n2: 1 of 2 online, web-server going online",
		}
		want := strings.Join(steps, "\n") + "\n"
		if terminal {
			want = "\r\x1b[K" + strings.Join(steps, "\r\x1b[K") + "\r\x1b[K"
		}
		if got := errs.shown.String(); got != want || status != 0 || out.String() != "web is online on n2 (1234 ms)\n" {
			t.Errorf("terminal %v: exit %d\n%q\nwant\n%q\nout: %s", terminal, status, got, want, out.String())
		}
	}
}

func TestFailedOperation(t *testing.T) {
	s, errs := moving(t, v1.OperationState_OPERATION_STATE_FAILED, "web-server faulted on n2")
	status := Main(t.Context(), Streams{Out: io.Discard, Err: errs}, []string{"--api", s.socket, "group", "switch", "web", "--to", "n2"})
	want := "holdfast: switch group web to n2 failed: web-server faulted on n2 [HF3003]\n  holdfast explain group web says more\n"
	if got := errs.shown.String(); !strings.HasSuffix(got, want) || status != api.ExitError {
		t.Errorf("exit %d\n%s", status, got)
	}
}

func TestWaitTimesOut(t *testing.T) {
	s := newSite(t)
	got := s.run(t, "group", "offline", "web", "--timeout", "20ms")
	want := "stderr:\nholdfast: offline group web has not ended yet [HF3004]\n  it goes on; holdfast operation wait 1 follows it\nexit 5\n"
	if got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}

// The daemon of a node that is stopped ends before it could say that all is done.
func TestStoppingTheOwnNode(t *testing.T) {
	stop := func(args ...string) string {
		s, errs := moving(t, v1.OperationState_OPERATION_STATE_DONE, "")
		errs.next = []func(){func() { s.Close() }}
		var out strings.Builder
		status := Main(t.Context(), Streams{Out: &out, Err: errs}, append([]string{"--api", s.socket, "node", "stop"}, args...))
		return fmt.Sprintf("%sexit %d", out.String(), status)
	}
	if got := stop("n1", "--evacuate"); got != "n1 has stopped: its daemon answers no more\nexit 0" {
		t.Error(got)
	}
	// Of another node that would say nothing: this one just can't be asked any more.
	if got := stop("n2", "--timeout", "1s"); got != "exit 5" {
		t.Error(got)
	}
}

func TestFollowEvents(t *testing.T) {
	s := newSite(t)
	out := &script{}
	ctx, cancel := contextWithCancel(t)
	event := func(n uint64) func() {
		return func() {
			s.Change(func(st *statepb.State, _ *api.Local) {
				st.Events = append(st.Events, &v1.Event{Number: n, TimeMs: s.Now, Severity: v1.Severity_SEVERITY_ERROR, Code: "x.y", Message: fmt.Sprint("event ", n)})
			})
		}
	}
	out.next = []func(){event(3), event(4), cancel}
	status := Main(ctx, Streams{Out: out, Err: io.Discard}, []string{"--api", s.socket, "events", "--follow", "--since", "#1", "-o", "json"})
	lines := strings.Split(strings.TrimSpace(out.shown.String()), "\n")
	if status != 0 || len(lines) != 3 || !strings.HasPrefix(lines[2], `{"schema":"event/1","number":4,`) {
		t.Errorf("exit %d\n%s", status, out.shown.String())
	}
}

func TestDurationsAreReadable(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 1234 * time.Nanosecond: "1µs", 1234567 * time.Nanosecond: "1.23ms", 1234567890: "1.23s", time.Minute: "1m", time.Hour: "1h",
	} {
		if got := span(durationOf(d)); got != want {
			t.Errorf("%d: %s, want %s", d, got, want)
		}
	}
}
