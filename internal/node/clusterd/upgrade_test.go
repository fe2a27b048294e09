//go:build linux

package clusterd

import (
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

// Two builds side by side: the nodes of a cluster are upgraded one after the
// other. While both are there the old protocol is spoken; once all are new, the
// new one, and an old build is refused. The service moves twice at most and is
// never lost.
func TestRollingUpgrade(t *testing.T) {
	dir := t.TempDir()
	older, newer := filepath.Join(dir, "older"), filepath.Join(dir, "newer")
	for program, tags := range map[string]string{older: "", newer: "holdfast_next"} {
		c := exec.Command("go", "build", "-tags", tags, "-o", program, "github.com/holdfast-ha/holdfast/cmd/holdfast")
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	ms := cluster(t, []*v1.Group{service("n1", "n2", "n3")}, "n1", "n2", "n3")
	for _, m := range ms {
		m.program = older
		m.start()
	}
	for _, m := range ms {
		m.until("a healthy cluster", healthy(3, "web"))
	}
	speaks := func(m *machine, version uint32, newest int) {
		t.Helper()
		m.until("the protocol", func(s *v1.StatusResponse) bool {
			r := ask(t, m.clusters().Security, &v1.SecurityRequest{})
			n := 0
			for _, one := range r.GetNodes() {
				if one.GetProtocolMax() == 2 {
					n++
				}
			}
			return healthy(3, "web")(s) && r.GetProtocol() == version && n == newest
		})
	}
	speaks(ms["n1"], 1, 0)
	for i, name := range []string{"n1", "n2", "n3"} {
		m, other := ms[name], ms[map[string]string{"n1": "n2", "n2": "n3", "n3": "n1"}[name]]
		ask(t, other.nodes().Stop, &v1.StopNodeRequest{Node: m.name, Evacuate: true})
		m.gone()
		other.until("the service elsewhere", healthy(2, "web"))
		m.program = newer
		m.start()
		m.until("the node to be back", healthy(3, "web"))
		speaks(other, map[bool]uint32{true: 2, false: 1}[i == 2], i+1)
	}
	if got := events(t, ms["n1"], "protocol.raised"); len(got) != 1 || !strings.Contains(got[0], "version 2") {
		t.Errorf("%q", got)
	}
	for _, code := range []string{"resource.faulted", "node.evicted"} {
		if got := events(t, ms["n1"], code); len(got) > 0 {
			t.Errorf("%s: %q", code, got)
		}
	}

	// There is no way back.
	m := ms["n2"]
	ask(t, ms["n1"].nodes().Stop, &v1.StopNodeRequest{Node: m.name, Evacuate: true})
	m.gone()
	m.program = older
	m.start()
	ms["n1"].until("the old build to be told", func(*v1.StatusResponse) bool {
		return strings.Contains(m.log.String(), "the cluster speaks protocol version 2")
	})
	if s := ms["n1"].until("two members", healthy(2, "web")); s.GetSource().GetQuorum() == false {
		t.Error("an old build disturbs the others")
	}
	_ = m.guard.Process.Signal(syscall.SIGTERM)
	m.gone()
	m.program = newer
	m.start()
	m.until("the new build", healthy(3, "web"))
}
