package agents

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/holdfast-ha/holdfast/internal/group/agent"
)

// inNetwork runs the calling test in a child process with a network namespace of its own, which has eth0, a link to the
// peer's eth0 in a second namespace. It returns true in the child.
func inNetwork(t *testing.T) bool {
	t.Helper()
	return inNamespaces(t, syscall.CLONE_NEWNET)
}

// inNamespaces runs the calling test in a child process with namespaces of its own. It returns true in the child.
func inNamespaces(t *testing.T, flags uintptr) bool {
	t.Helper()
	const inside = "HOLDFAST_TEST_INSIDE"
	if os.Getenv(inside) == t.Name() {
		return true
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"-test.run=^" + t.Name() + "$", "-test.v"}
	cmd := exec.CommandContext(t.Context(), exe, args...)
	cmd.Env = append(os.Environ(), inside+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags, Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // Pdeathsig is about the thread
	defer runtime.UnlockOSThread()
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Fatalf("%v\n%s", err, out)
	}
	return false
}

// peer is the machine at the other end of eth0.
type peer struct {
	t   *testing.T
	ns  netns.NsHandle
	nl  *netlink.Handle
	far netlink.Link
	fd  int
}

func newPeer(t *testing.T) *peer {
	t.Helper()
	runtime.LockOSThread()
	own := must(netns.Get())
	other := must(netns.New())
	if err := netns.Set(own); err != nil {
		t.Fatal(err)
	}
	runtime.UnlockOSThread()
	p := &peer{t: t, ns: other, nl: must(netlink.NewHandleAt(other))}
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(other)}
	if err := netlink.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	p.far = must(p.nl.LinkByName("eth0"))
	p.set(true)
	if err := netlink.LinkSetUp(must(netlink.LinkByName("eth0"))); err != nil {
		t.Fatal(err)
	}
	p.within(func() {
		p.fd = must(unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(swap16(unix.ETH_P_ALL))))
	})
	until(t, "both ends have a carrier", func() bool {
		return linkUp(must(netlink.LinkByName("eth0")).Attrs().RawFlags) && linkUp(must(p.nl.LinkByName("eth0")).Attrs().RawFlags)
	})
	return p
}

func (p *peer) within(do func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	own := must(netns.Get())
	defer own.Close()
	if err := netns.Set(p.ns); err != nil {
		p.t.Fatal(err)
	}
	do()
	if err := netns.Set(own); err != nil {
		p.t.Fatal(err)
	}
}

func (p *peer) set(up bool) {
	p.t.Helper()
	err := p.nl.LinkSetDown(p.far)
	if up {
		err = p.nl.LinkSetUp(p.far)
	}
	if err != nil {
		p.t.Fatal(err)
	}
}

// frame waits for the next frame from the other side that is wanted.
func (p *peer) frame(wanted func(b []byte) bool) []byte {
	p.t.Helper()
	end := time.Now().Add(time.Minute)
	for time.Now().Before(end) {
		buf := make([]byte, 2048)
		n, _, err := unix.Recvfrom(p.fd, buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			p.t.Fatal(err)
		}
		if wanted(buf[:n]) {
			return buf[:n]
		}
	}
	p.t.Fatal("no such frame came")
	return nil
}

func isARP(op uint16) func([]byte) bool {
	return func(b []byte) bool {
		return len(b) >= 42 && binary.BigEndian.Uint16(b[12:]) == etherARP && binary.BigEndian.Uint16(b[20:]) == op
	}
}

func TestIP(t *testing.T) {
	if !inNetwork(t) {
		return
	}
	p := newPeer(t)
	r := newRig(t, "sessions")
	a := map[string]string{"Address": "192.0.2.9/24", "Device": "eth0"}
	r.watchState("IP", a, isOffline)
	res := r.call(agent.Call{Type: "IP", Entry: agent.Online, Attributes: a, Takeover: true})
	if res.Err != "" {
		t.Fatal(res.Err)
	}
	// First the question of RFC 5227, with no sender address, so that nobody's tables change.
	mac := must(netlink.LinkByName("eth0")).Attrs().HardwareAddr
	if b := p.frame(isARP(1)); netip.AddrFrom4([4]byte(b[28:32])) != netip.IPv4Unspecified() || netip.AddrFrom4([4]byte(b[38:42])).String() != "192.0.2.9" {
		t.Errorf("the probe is % x", b)
	}
	// Then both kinds of announcement, and again.
	for range 2 {
		for _, op := range []uint16{1, 2} {
			b := p.frame(isARP(op))
			if string(b[:6]) != string(broadcast) || string(b[6:12]) != string(mac) || string(b[22:28]) != string(mac) ||
				netip.AddrFrom4([4]byte(b[28:32])).String() != "192.0.2.9" || netip.AddrFrom4([4]byte(b[38:42])).String() != "192.0.2.9" {
				t.Errorf("announcement %d is % x", op, b)
			}
		}
	}
	if res := r.watchState("IP", a, isOnline); !res.Watched {
		t.Error("it is not watched")
	}
	r.do("IP", agent.Online, a)
	link := must(netlink.LinkByName("eth0"))
	if n := len(must(netlink.AddrList(link, netlink.FAMILY_V4))); n != 1 {
		t.Fatalf("%d addresses after online was called twice", n)
	}
	// Somebody removes it: told at once.
	if err := netlink.AddrDel(link, must(netlink.ParseAddr("192.0.2.9/24"))); err != nil {
		t.Fatal(err)
	}
	for n := r.notice(); n.What != "address 192.0.2.9 was removed"; n = r.notice() {
	}
	r.watchState("IP", a, isOffline)
	r.do("IP", agent.Online, a)
	r.watchState("IP", a, isOnline)
	for range 2 {
		r.do("IP", agent.Offline, a)
		r.watchState("IP", a, isOffline)
	}
	if n := len(must(netlink.AddrList(link, netlink.FAMILY_V4))); n != 0 {
		t.Fatalf("%d addresses are left", n)
	}
	// A wrong prefix length is not online, and is put right.
	if err := netlink.AddrAdd(link, must(netlink.ParseAddr("192.0.2.9/32"))); err != nil {
		t.Fatal(err)
	}
	r.watchState("IP", a, isOffline)
	r.do("IP", agent.Online, a)
	r.watchState("IP", a, isOnline)
	if n := len(must(netlink.AddrList(link, netlink.FAMILY_V4))); n != 1 {
		t.Fatalf("%d addresses", n)
	}
	r.do("IP", agent.Clean, a)
	r.watchState("IP", a, isOffline)
}

// Somebody else answers for the address: refused, and nothing is added.
func TestIPConflict(t *testing.T) {
	if !inNetwork(t) {
		return
	}
	p := newPeer(t)
	if err := p.nl.AddrAdd(p.far, must(netlink.ParseAddr("192.0.2.9/24"))); err != nil {
		t.Fatal(err)
	}
	r := newRig(t, "sessions")
	a := map[string]string{"Address": "192.0.2.9/24", "Device": "eth0"}
	res := r.call(agent.Call{Type: "IP", Entry: agent.Online, Attributes: a, Takeover: true})
	if !strings.Contains(res.Err, "192.0.2.9 is in use by the machine with hardware address "+p.far.Attrs().HardwareAddr.String()) {
		t.Fatalf("%+v", res)
	}
	r.watchState("IP", a, isOffline)
	if err := p.nl.AddrDel(p.far, must(netlink.ParseAddr("192.0.2.9/24"))); err != nil {
		t.Fatal(err)
	}
	r.do("IP", agent.Online, a)
	r.watchState("IP", a, isOnline)
}

// IPv6: usable at once, without duplicate address detection, and told to all nodes.
func TestIP6(t *testing.T) {
	if !inNetwork(t) {
		return
	}
	p := newPeer(t)
	r := newRig(t, "sessions")
	a := map[string]string{"Address": "2001:db8::9/64", "Device": "eth0"}
	r.do("IP", agent.Online, a)
	addrs := must(netlink.AddrList(must(netlink.LinkByName("eth0")), netlink.FAMILY_V6))
	found := false
	for _, n := range addrs {
		if n.IP.String() == "2001:db8::9" {
			found = true
			if n.Flags&unix.IFA_F_TENTATIVE != 0 {
				t.Error("the address is tentative")
			}
		}
	}
	if !found {
		t.Fatalf("addresses: %v", addrs)
	}
	b := p.frame(func(b []byte) bool { return len(b) >= 86 && b[20] == 58 && b[54] == 136 })
	if b[58]&0x20 == 0 || netip.AddrFrom16([16]byte(b[62:78])).String() != "2001:db8::9" || string(b[80:86]) != string(b[6:12]) {
		t.Errorf("advertisement % x", b)
	}
	// A right checksum makes the sum over pseudo header and message zero.
	pseudo := append([]byte{}, b[22:54]...)
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(b)-54))
	pseudo = append(pseudo, 0, 0, 0, 58)
	if sum := checksum(append(pseudo, b[54:]...)); sum != 0 {
		t.Errorf("checksum is off by %x", sum)
	}
	r.watchState("IP", a, isOnline)
	r.do("IP", agent.Clean, a)
	r.watchState("IP", a, isOffline)
}

// A card that loses its carrier is told at once, and comes back.
func TestNIC(t *testing.T) {
	if !inNetwork(t) {
		return
	}
	p := newPeer(t)
	r := newRig(t, "sessions")
	a := map[string]string{"Device": "eth0"}
	if res := r.watchState("NIC", a, isOnline); !res.Watched {
		t.Error("it is not watched")
	}
	p.set(false)
	for n := r.notice(); n.What != "link of eth0 went down"; n = r.notice() {
	}
	if res := r.watchState("NIC", a, isOffline); res.Message != "eth0 has no carrier" {
		t.Errorf("message %q", res.Message)
	}
	r.watchState("NIC", map[string]string{"Device": "eth0", "CheckCarrier": "false"}, isOnline)
	p.set(true)
	until(t, "a notice of the carrier, and the card online", func() bool {
		r.notice()
		return r.monitor("NIC", a).State == isOnline
	})
	if err := netlink.LinkDel(must(netlink.LinkByName("eth0"))); err != nil {
		t.Fatal(err)
	}
	r.notice()
	until(t, "the card is gone", func() bool { return r.monitor("NIC", a).State == isOffline })
	r.watchState("NIC", map[string]string{"Device": "eth9"}, isOffline)
	r.watchState("NIC", map[string]string{"Device": "lo"}, isOffline)
	if err := netlink.LinkSetUp(must(netlink.LinkByName("lo"))); err != nil {
		t.Fatal(err)
	}
	r.watchState("NIC", map[string]string{"Device": "lo"}, isOnline)
}
