package peer

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// TestCutNetwork runs in a network namespace of its own, in a child: its
// loopback device is taken down under an established connection.
func TestCutNetwork(t *testing.T) {
	if os.Getenv("PEER_TEST_CUT") != "" {
		inOwnNetwork(t)
		return
	}
	t.Parallel() // it mostly waits
	c := exec.Command(os.Args[0], "-test.run=^TestCutNetwork$", "-test.v")
	c.Env = append(os.Environ(), "PEER_TEST_CUT=1")
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if uid := os.Getuid(); uid != 0 {
		c.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		c.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
	}
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	} else {
		t.Logf("%s", out)
	}
}

func inOwnNetwork(t *testing.T) {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	set := func(f func(netlink.Link) error) {
		if err := f(lo); err != nil {
			t.Fatal(err)
		}
	}
	set(netlink.LinkSetUp)
	a, b := pairOf(t)

	// A cut that heals: the first heartbeat is enough, TCP's own patience is not waited for.
	set(netlink.LinkSetDown)
	a.sendAll("n2", "into the cut")
	a.Transport.mu.Lock()
	p := a.out["n2"]
	a.Transport.mu.Unlock()
	began := time.Now()
	for range time.Tick(10 * time.Millisecond) {
		p.mu.Lock()
		is := p.conn != nil && stalled(p.conn)
		p.mu.Unlock()
		if is {
			break
		}
		if time.Since(began) > patience {
			t.Fatal("the connection does not count as stalled")
		}
	}
	set(netlink.LinkSetUp)
	healed := time.Now()
	a.Kick("n2")
	a.wait("down n2")
	a.wait("dropped n2: into the cut")
	a.wait("up n2")
	fmt.Printf("again connected %v after the cut had healed\n", time.Since(healed))
	if took := time.Since(healed); took > time.Second {
		t.Errorf("took %v", took)
	}
	a.sendAll("n2", "after the cut")
	b.wait("n1: after the cut")

	// A cut that does not: the connection ends, and what was taken comes back.
	set(netlink.LinkSetDown)
	a.sendAll("n2", "lost")
	began = time.Now()
	a.wait("dropped n2: lost")
	if took := time.Since(began); took > 2*userTimeout {
		t.Errorf("a dead peer held the queue for %v", took)
	}
	set(netlink.LinkSetUp)
}
