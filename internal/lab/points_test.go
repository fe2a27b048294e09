package lab

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

func TestPointsOfAPlan(t *testing.T) {
	for _, mode := range []Mode{Namespaces, Loopback} {
		p, err := newPlan("a", "/d", mode, 0, defaultAddresses(mode, 0, 2), "/cg")
		if err != nil {
			t.Fatal(err)
		}
		if err := p.addPoints(2, 1); err != nil {
			t.Fatal(err)
		}
		if got := p.points(); !slices.Equal(got, []string{"a1", "a2", "d1"}) {
			t.Errorf("points %v", got)
		}
		a := p.Arbiters[1]
		if want := netip.AddrPortFrom(linkHost(mode, 0, 0, 202), arbiterPort); a.Arbiter != want || len(a.Ports) != 2 || a.Ports[1].Address.Addr() != linkHost(mode, 0, 1, 202) {
			t.Errorf("%s: a2 is %+v, not at %s", mode, a, want)
		}
		names := map[string]bool{}
		for _, m := range p.machines() {
			for _, port := range m.Ports {
				if mode == Namespaces && (names[port.Port] || names[port.MAC]) {
					t.Errorf("port %s of %s is there twice", port.Port, m.Name)
				}
				names[port.Port], names[port.MAC] = true, true
			}
		}
		if _, err := p.node("a1"); err == nil || !strings.Contains(err.Error(), "arbiter") {
			t.Errorf("an arbiter as a node: %v", err)
		}
		if _, err := p.machine("a3"); err == nil || !strings.Contains(err.Error(), "n1 n2 a1 a2") {
			t.Errorf("an unknown machine: %v", err)
		}
	}
	for _, c := range []struct {
		arbiters, disks int
		node            string
		address         string
		want            string
	}{
		{2, 0, "n1", "10.0.0.1", "1 or 3"},
		{0, 4, "n1", "10.0.0.1", "1 or 3"},
		{2, -1, "n1", "10.0.0.1", "1 or 3"},
		{1, 0, "a1", "10.0.0.1", "rename"},
		{0, 1, "d1", "10.0.0.1", "rename"},
		{1, 0, "n1", "10.0.0.201", "take another"},
	} {
		p, err := newPlan("a", "/d", Namespaces, 0, []nodeAddresses{{c.node, []netip.Addr{netip.MustParseAddr(c.address)}}}, "/cg")
		if err != nil {
			t.Fatal(err)
		}
		if err := p.addPoints(c.arbiters, c.disks); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestUsable(t *testing.T) {
	point := func(name string, reachable bool) *v1.PointInfo {
		return &v1.PointInfo{Point: &v1.CoordinationPoint{Name: name}, Reachable: reachable, Error: "no route"}
	}
	two := []string{"n1", "n2"}
	for _, c := range []struct {
		q    *v1.ShowQuorumResponse
		want string
	}{
		{&v1.ShowQuorumResponse{}, "a1 is not in use"},
		{&v1.ShowQuorumResponse{Changing: true, Points: []*v1.PointInfo{point("a1", true)}}, "under way"},
		{&v1.ShowQuorumResponse{Points: []*v1.PointInfo{point("a1", false)}}, "no route"},
		{&v1.ShowQuorumResponse{Points: []*v1.PointInfo{point("a1", true)}, Members: two}, "no vote yet"},
		{&v1.ShowQuorumResponse{Points: []*v1.PointInfo{point("a1", true)}, Members: two, Votes: true}, ""},
		{&v1.ShowQuorumResponse{Points: []*v1.PointInfo{point("a1", true)}, Members: []string{"n1"}}, ""},
	} {
		if got := usable(c.q, []string{"a1"}); !strings.Contains(got, c.want) || (got == "") != (c.want == "") {
			t.Errorf("%v: %q, not %q", c.q, got, c.want)
		}
	}
}

// Arbiters are machines as nodes are.
func TestArbiterIsAMachine(t *testing.T) {
	l := testLab(t, Options{Nodes: 2, Arbiters: 1})
	if got := l.Arbiters(); !slices.Equal(got, []string{"a1"}) || len(l.Nodes()) != 2 {
		t.Fatalf("arbiters %v, nodes %v", got, l.Nodes())
	}
	step := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	at := net.JoinHostPort(l.rec.Plan.Arbiters[0].Arbiter.Addr().String(), "80")
	up := func() { t.Helper(); awaitGet(t, l, "n1", at, "a1"); awaitGet(t, l, "n2", at, "a1") }
	down := func(from string) {
		t.Helper()
		if got := get(t, l, from, at); got != "-" {
			t.Errorf("from %s a1 answers %q", from, got)
		}
	}
	up()
	step(l.CutPair("n1", "a1", false))
	down("n1")
	awaitGet(t, l, "n2", at, "a1")
	step(l.Heal("n1"))
	up()
	_, err := l.Cut("a1")
	step(err)
	down("n1")
	down("n2")
	step(l.Heal("a1"))
	up()
	step(l.Pause("a1", false))
	down("n2")
	step(l.Resume("a1"))
	up()
	_, err = l.Kill("a1")
	step(err)
	down("n1")
	step(l.Start("a1"))
	up()

	// Two sides: each hears its own, and the arbiter hears all.
	_, err = l.Split([]string{"n1", "a1"}, []string{"n2"}, false)
	step(err)
	awaitGet(t, l, "n1", at, "a1")
	down("n2")
	awaitGet(t, l, "", web(l, 1, 0), "n2")
	if _, err := l.Split([]string{"n1"}, []string{"n2", "n1"}, false); err == nil {
		t.Error("n1 was cut from itself")
	}
	s := l.Status(t.Context())
	if len(s.Points) != 1 || s.Points[0].State != Running || s.Points[0].network() != "link0 deaf to n2, link1 deaf to n2" {
		t.Errorf("status: %+v", s.Points)
	}
}

// All nodes see the same blocks, and each can lose the disk for itself.
func TestLockDiskOfALab(t *testing.T) {
	l := testLab(t, Options{Nodes: 2, LockDisks: 1})
	path := l.rec.Plan.LockDisks[0].Path
	write := func(node, what string) error {
		_, err := l.Output(t.Context(), node, "sh", "-c", `printf %4096s "$0" | dd of="$1" bs=4096 seek=1 oflag=direct,dsync conv=notrunc`, what, path)
		return err
	}
	read := func(node string) string {
		out, err := l.Output(t.Context(), node, "sh", "-c", `dd if="$0" bs=4096 skip=1 count=1 iflag=direct 2>/dev/null`, path)
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(out))
	}
	step := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	step(write("n1", "one"))
	if got := read("n2"); got != "one" {
		t.Errorf("n2 reads %q", got)
	}
	_, err := l.CutDisk("d1", "n2")
	step(err)
	if got := read("n2"); got != "" {
		t.Errorf("without the disk n2 reads %q", got)
	}
	if err := write("n2", "two"); err == nil {
		t.Error("without the disk n2 writes")
	}
	step(write("n1", "three"))
	if s := l.Status(t.Context()); s.Nodes[1].network() != "d1 cut" || s.Points[0].Path != path {
		t.Errorf("status: %+v", s)
	}
	step(l.Heal("n2"))
	if got := read("n2"); got != "three" {
		t.Errorf("n2 reads %q", got)
	}
	// After a reboot it has another device, and the disk.
	_, err = l.CutDisk("d1", l.Nodes()...)
	step(err)
	_, err = l.Kill("n2")
	step(err)
	step(l.Start("n2"))
	step(write("n2", "four"))
	step(l.HealDisk("d1"))
	if got := read("n1"); got != "four" {
		t.Errorf("n1 reads %q", got)
	}
	if _, err := l.CutDisk("d2", "n1"); err == nil {
		t.Error("a disk that is not there was cut")
	}
}
