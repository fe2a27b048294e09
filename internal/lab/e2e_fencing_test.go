package lab

import (
	"strings"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/internal/cluster/fence"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

// awaitCLI waits until what a command prints has the wanted text.
func (s *site) awaitCLI(node, want string, args ...string) string {
	s.t.Helper()
	for {
		out := s.cli(node, args...)
		if strings.Contains(out, want) {
			return out
		}
		if err := pause(s.ctx, 100*time.Millisecond); err != nil {
			s.t.Fatalf("holdfast %s does not show %q:\n%s", strings.Join(args, " "), want, out)
		}
	}
}

func (s *site) other(than string) string {
	for _, n := range s.Nodes() {
		if n != than {
			return n
		}
	}
	return ""
}

// A machine that hangs is switched off before its service starts elsewhere; and
// where it can't be switched off an administrator's word is waited for.
func TestPowerFencing(t *testing.T) {
	s := newSite(t, Options{Tune: Tuning{Fencing: true}})
	active := s.steady()
	other := s.other(active)
	if out := s.cli(other, "fence", "test", active); !strings.Contains(out, "on") {
		t.Errorf("fence test:\n%s", out)
	}
	fault := monotonic()
	s.must(s.Pause(active, false))
	o := s.outage(fault, active)
	s.must(s.Reload())
	if st, err := s.State(active); st != Off || err != nil {
		t.Errorf("%s is %v, %v", active, st, err)
	}
	gone := s.awaitGone(active, fault)
	if started, ok := s.watcher.came(o.Node, fault); !ok || started < gone {
		t.Errorf("the service came to %s after %v, %s was off after %v", o.Node, started-fault, active, gone-fault)
	}
	out := s.cli(o.Node, "fence", "history", active)
	if !strings.Contains(out, "off") || !strings.Contains(out, "device switch has switched it off, and sees it off") {
		t.Errorf("fence history:\n%s", out)
	}
	s.must(s.Start(active))
	s.settle()

	// The switch fails together with a node.
	active = s.steady()
	other = s.other(active)
	s.stopPower()
	fault, err := s.Kill(active)
	s.must(err)
	s.awaitCLI(other, "failed", "fence", "history", active)
	s.awaitCLI(other, "switching it off has failed", "explain", "group", defaultGroup)
	for _, n := range s.Nodes() {
		if _, came := s.watcher.came(n, fault); came && n != active {
			t.Errorf("the service was started on %s without a proof", n)
		}
	}
	s.cli(other, "node", "confirm-down", active, "--yes")
	s.outage(fault, active)
	s.awaitCLI(other, "confirmed", "fence", "history", active)
}

// The lab's agent is one like others.
func TestLabAgent(t *testing.T) {
	s := newSite(t, Options{Tune: Tuning{Fencing: true}})
	active := s.steady()
	d := &v1.FenceDevice{Name: "switch", Agent: FenceAgent(s.Dir()), Plugs: map[string]string{active: active, "n9": "n9"}, Tries: 1}
	r := &fence.Runner{}
	s.must(r.Validate(s.ctx, d))
	s.must(r.Monitor(s.ctx, d))
	if p, err := r.Status(s.ctx, d, active); p != fence.PowerOn || err != nil {
		t.Errorf("status %v, %v", p, err)
	}
	if _, err := r.Off(s.ctx, d, "n9"); err == nil || !strings.Contains(err.Error(), "n9") {
		t.Errorf("a node that is none: %v", err)
	}
	d.Parameters = map[string]string{"lie": "1"}
	out := r.Fence(s.ctx, fence.Request{Node: &v1.Node{Name: active, FenceLevels: []*v1.FenceLevel{{Devices: []string{"switch"}}}}, Devices: []*v1.FenceDevice{d}})
	if !out.Off {
		t.Errorf("a lie that nobody hears of: %+v", out)
	}
	if st, err := s.State(active); st != Running || err != nil {
		t.Errorf("%s is %v, %v", active, st, err)
	}
	d.Parameters = nil
	if said, err := r.Off(s.ctx, d, active); err != nil {
		t.Errorf("off: %q, %v", said, err)
	}
	s.must(s.Reload())
	if st, err := s.State(active); st != Off || err != nil {
		t.Errorf("%s is %v, %v", active, st, err)
	}
	s.must(r.On(s.ctx, d, active))
	if p, err := r.Status(s.ctx, d, active); p != fence.PowerOn || err != nil {
		t.Errorf("status %v, %v", p, err)
	}
	s.must(s.Reload())
}
