package lab

import (
	"encoding/binary"
	"encoding/json"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

const ms = time.Millisecond

func probes(spec ...any) []Probe { // begin, end in ms, node
	var out []Probe
	for i := 0; i < len(spec); i += 3 {
		out = append(out, Probe{time.Duration(spec[i].(int)) * ms, time.Duration(spec[i+1].(int)) * ms, spec[i+2].(string)})
	}
	return out
}

func TestOutageOf(t *testing.T) {
	for _, c := range []struct {
		name   string
		probes []Probe
		fault  int
		want   Outage
		ok     bool
	}{
		{"nothing", nil, 100, Outage{}, false},
		{"never failed", probes(90, 91, "a", 105, 106, "a"), 100, Outage{}, false},
		{"not back yet", probes(90, 91, "a", 105, 355, "", 110, 360, ""), 100, Outage{Failed: 2}, false},
		{"moved", probes(90, 91, "a", 95, 96, "a", 105, 355, "", 300, 550, "", 700, 703, "b", 705, 706, "b"), 100,
			Outage{Recovery: 603 * ms, Gap: 607 * ms, Failed: 2, Node: "b"}, true},
		// A probe in flight at the fault, and one whose packet was sent again after a second.
		{"the earliest good end counts", probes(95, 345, "", 105, 355, "", 400, 640, "b", 500, 502, "b"), 100,
			Outage{Recovery: 402 * ms, Gap: 138 * ms, Failed: 1, Node: "b"}, true},
		// Good answers after the fault but before the first failure are no recovery.
		{"fault shows later", probes(101, 102, "a", 106, 107, "a", 111, 361, "", 400, 401, "b"), 100,
			Outage{Recovery: 301 * ms, Gap: 294 * ms, Failed: 1, Node: "b"}, true},
	} {
		slices.Reverse(c.probes) // any order will do
		got, ok := outageOf(c.probes, time.Duration(c.fault)*ms)
		if got != c.want || ok != c.ok {
			t.Errorf("%s: %+v %v, not %+v %v", c.name, got, ok, c.want, c.ok)
		}
	}
}

func TestMovedTo(t *testing.T) {
	p := probes(90, 91, "a", 105, 355, "", 110, 111, "a", 200, 202, "c", 310, 560, "", 700, 707, "b", 702, 705, "b")
	for _, c := range []struct {
		from []string
		want Outage
		ok   bool
	}{
		{[]string{"a", "c"}, Outage{Recovery: 605 * ms, Gap: 503 * ms, Failed: 2, Node: "b"}, true},
		{[]string{"a"}, Outage{Recovery: 102 * ms, Gap: 503 * ms, Failed: 2, Node: "c"}, true},
		{[]string{"a", "b", "c"}, Outage{Failed: 2}, false},
	} {
		if got, ok := movedTo(p, 100*ms, c.from); got != c.want || ok != c.ok {
			t.Errorf("from %v: %+v %v, not %+v", c.from, got, ok, c.want)
		}
	}
}

func TestSummarize(t *testing.T) {
	if _, err := summarize(nil); err == nil {
		t.Error("a summary of nothing")
	}
	var d []time.Duration
	for i := range 20 {
		d = append(d, time.Duration(20-i)*ms)
	}
	for _, c := range []struct {
		n    int
		want Summary
	}{
		{1, Summary{1, 20 * ms, 20 * ms, 20 * ms, 20 * ms}},
		{19, Summary{19, 2 * ms, 11 * ms, 20 * ms, 20 * ms}}, // below 20 the 95th percentile is the maximum
		{20, Summary{20, 1 * ms, 10*ms + 500*time.Microsecond, 19 * ms, 20 * ms}},
	} {
		if got, err := summarize(d[:c.n]); got != c.want || err != nil {
			t.Errorf("of %d: %+v, not %+v (%v)", c.n, got, c.want, err)
		}
	}
}

func TestParseProbe(t *testing.T) {
	p, err := parseProbe("5 9 n1")
	if err != nil || p != (Probe{5, 9, "n1"}) {
		t.Error(p, err)
	}
	if p, err := parseProbe("5 9 -"); err != nil || p.Good() {
		t.Error(p, err)
	}
	for _, bad := range []string{"", "1 2", "1 2 3 4", "x 2 n", "1 y n", "2 1 n"} {
		if _, err := parseProbe(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestSteady(t *testing.T) {
	p := probes(1, 2, "", 2, 3, "a", 3, 4, "a")
	if !steady(p, 2) || steady(p, 3) || steady(p, 4) || steady(probes(1, 2, "a", 3, 4, "b"), 2) {
		t.Error("steady is wrong")
	}
}

func TestParseStat(t *testing.T) {
	const line = "812 (a) S (b) S 7 812 812 0 -1 4194560 5 0 0 0 150 25 0 0 20 0 1 0 99887 0 0"
	st, err := parseStat([]byte(line))
	want := procStat{comm: "a) S (b", state: 'S', ppid: 7, start: 99887, cpu: 1750 * ms}
	if err != nil || st != want {
		t.Errorf("%+v, not %+v (%v)", st, want, err)
	}
	for _, bad := range []string{"", "812 (a", "812 (a) S 7", strings.Replace(line, "99887", "x", 1)} {
		if _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestPlan(t *testing.T) {
	addr := netip.MustParseAddr
	p, err := newPlan("a", "/d", Namespaces, 0, defaultAddresses(Namespaces, 0, 3), "/cg")
	if err != nil {
		t.Fatal(err)
	}
	n := p.Nodes[2]
	if n.Name != "n3" || n.Ports[1].Address.String() != "10.77.2.3/24" || n.Cgroup != "/cg/holdfast-lab/a/n3" || len(p.Bridges) != 2 ||
		p.Probe[0].Address.String() != "10.77.1.250/24" || p.service().String() != "10.77.1.100:80" {
		t.Errorf("%+v", p)
	}
	// Two labs at once without root have no address in common.
	a, _ := newPlan("a", "/d", Loopback, 0, defaultAddresses(Loopback, 0, 9), "")
	b, _ := newPlan("b", "/d", Loopback, 1, defaultAddresses(Loopback, 1, 9), "")
	if a.Nodes[0].Ports[0].Address.Addr() != addr("127.77.1.1") || a.Nodes[0].Ports[0].Address == b.Nodes[0].Ports[0].Address || a.service() == b.service() {
		t.Errorf("%+v %+v", a, b)
	}
	for _, c := range []struct {
		mode  Mode
		nodes []nodeAddresses
		want  string
	}{
		{Namespaces, nil, "1 to 9"},
		{Namespaces, []nodeAddresses{{Name: "a"}}, "0 links"},
		{Namespaces, []nodeAddresses{{"a", []netip.Addr{addr("127.0.0.1")}}}, "loopback address"},
		{Loopback, []nodeAddresses{{"a", []netip.Addr{addr("10.0.0.1")}}}, "as root"},
		{Namespaces, []nodeAddresses{{"a", []netip.Addr{addr("10.0.0.1")}}, {"b", []netip.Addr{addr("10.0.1.1")}}}, "one network"},
		{Namespaces, []nodeAddresses{{"a", []netip.Addr{addr("10.0.0.1")}}, {"b", []netip.Addr{addr("10.0.0.1")}}}, "both have"},
		{Namespaces, []nodeAddresses{{"a", []netip.Addr{addr("10.0.0.1")}}, {"b", []netip.Addr{addr("10.0.0.2"), addr("10.0.1.2")}}}, "same"},
	} {
		if _, err := newPlan("a", "/d", c.mode, 0, c.nodes, "/cg"); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, not %q", c.nodes, err, c.want)
		}
	}
	six, err := newPlan("a", "/d", Namespaces, 0, []nodeAddresses{{"a", []netip.Addr{addr("fd00::1")}}}, "/cg")
	if err != nil || six.Probe[0].Address.String() != "fd00::fa/64" {
		t.Errorf("%+v %v", six, err)
	}
	out, err := json.Marshal(p)
	var back plan
	if err == nil {
		err = json.Unmarshal(out, &back)
	}
	if err != nil || back.Nodes[1].Ports[1] != p.Nodes[1].Ports[1] {
		t.Errorf("a plan does not survive lab.json: %v", err)
	}
}

// dropProgram against a naive reading of what it should do.
func TestDropProgram(t *testing.T) {
	a, b := net.HardwareAddr{2, 'h', 'f', 0, 0, 1}, net.HardwareAddr{2, 'h', 'f', 0, 1, 1}
	for _, senders := range [][]net.HardwareAddr{nil, {a}, {a, b}} {
		prog := dropProgram(senders)
		for _, src := range []net.HardwareAddr{a, b, {2, 'h', 'f', 0, 0, 2}, {2, 'h', 'f', 1, 0, 1}} {
			for _, c := range []struct {
				what           string
				kind           uint16
				protocol, icmp byte
				passes         bool
			}{
				{"IPv4", 0x0800, 58, 135, false}, {"ARP", 0x0806, 0, 0, true}, {"IPv6 UDP", 0x86dd, 17, 135, false},
				{"ping", 0x86dd, 58, 128, false}, {"solicitation", 0x86dd, 58, 135, true}, {"advertisement", 0x86dd, 58, 136, true},
			} {
				frame := make([]byte, 60)
				copy(frame[6:], src)
				binary.BigEndian.PutUint16(frame[12:], c.kind)
				frame[20], frame[54] = c.protocol, c.icmp
				want := !c.passes && slices.ContainsFunc(senders, func(s net.HardwareAddr) bool { return slices.Equal(s, src) })
				if got := interpret(t, prog, frame); got != want {
					t.Errorf("%s from %v with senders %v: dropped %v", c.what, src, senders, got)
				}
			}
		}
	}
}

// interpret runs the few instructions that dropProgram uses.
func interpret(t *testing.T, prog []insn, frame []byte) (dropped bool) {
	var r [11]int64
	for pc := 0; ; pc++ {
		switch in := prog[pc]; in.op {
		case 0xbf:
			r[in.dst] = r[in.src]
		case 0xb7:
			r[in.dst] = int64(in.imm)
		case 0x20, 0x28, 0x30:
			n := map[uint8]int{0x20: 4, 0x28: 2, 0x30: 1}[in.op]
			r[0] = 0
			for _, c := range frame[in.imm : int(in.imm)+n] {
				r[0] = r[0]<<8 | int64(c)
			}
		case 0x15:
			if r[in.dst] == int64(in.imm) {
				pc += int(in.off)
			}
		case 0x55:
			if r[in.dst] != int64(in.imm) {
				pc += int(in.off)
			}
		case 0x95:
			return r[0] == 2
		default:
			t.Fatalf("instruction %d: unknown operation %#x", pc, in.op)
		}
	}
}
