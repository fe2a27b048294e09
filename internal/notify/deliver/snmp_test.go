//go:build linux

package deliver

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

// trapd runs net-snmp's receiver and hands out what it writes, one trap a line.
func trapd(t *testing.T, config string) (address string, lines chan string) {
	t.Helper()
	dir := t.TempDir()
	conf := filepath.Join(dir, "snmptrapd.conf")
	config += "doNotRetainNotificationLogs yes\n"
	if err := os.WriteFile(conf, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	free, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address = free.LocalAddr().String()
	_ = free.Close()
	cmd := exec.Command("/usr/sbin/snmptrapd", "-f", "-C", "-c", conf, "-m", "", "-n", "-On", "-Oe", "-Lo", "-F", `trap %v|\n`, "udp:"+address)
	cmd.Env = append(os.Environ(), "SNMP_PERSISTENT_DIR="+dir, "SNMPCONFPATH="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines = make(chan string, 100)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for r := bufio.NewScanner(out); r.Scan(); {
			lines <- r.Text()
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		_ = cmd.Wait()
	})
	return address, lines
}

// until the receiver listens a trap is answered with a refusal.
func until(t *testing.T, n *v1.Notifier, m *Message) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; {
		err := send(t, context.Background(), n, m)
		if err == nil {
			return
		}
		if !strings.Contains(err.Error(), "nobody listens") || time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// next trap that the receiver has accepted.
func next(t *testing.T, lines chan string) string {
	t.Helper()
	limit := time.After(20 * time.Second)
	for {
		select {
		case l := <-lines:
			if text, ok := strings.CutPrefix(l, "trap "); ok {
				return text
			}
		case <-limit:
			t.Fatal("no trap has arrived")
		}
	}
}

func bySNMP(s *v1.SnmpNotifier) *v1.Notifier {
	return &v1.Notifier{Name: "snmp", Way: &v1.Notifier_Snmp{Snmp: s}}
}

func wantTrap(t *testing.T, text string) {
	t.Helper()
	for _, want := range []string{
		".1.3.6.1.6.3.1.1.4.1.0 = OID: .1.3.6.1.4.1.8072.9999.9999.18502.0.4",
		`.18502.1.1.0 = STRING: "demo"`, `.18502.1.2.0 = STRING: "` + uuid + `"`, ".18502.1.3.0 = Counter64: 120", ".18502.1.5.0 = INTEGER: 4",
		"07 E7 0B 0E 16 0D 14 00 2B 00 00", `.18502.1.6.0 = STRING: "group.nofailover"`, `.18502.1.7.0 = STRING: "n2"`, `.18502.1.8.0 = STRING: "web"`,
		`.18502.1.9.0 = ""`, `.18502.1.11.0 = STRING: "web has no node to go to"`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in %s", want, text)
		}
	}
}

func TestTrapV2c(t *testing.T) {
	address, lines := trapd(t, "authCommunity log geheim\n")
	s := &v1.SnmpNotifier{Server: address, Version: v1.SnmpVersion_SNMP_VERSION_V2C, CommunityFile: file(t, "community", "geheim\n")}
	until(t, bySNMP(s), message())
	wantTrap(t, next(t, lines))
	// Of another community nothing is accepted; the one after it is.
	s.CommunityFile = ""
	if err := send(t, context.Background(), bySNMP(s), message()); err != nil {
		t.Fatal(err)
	}
	s.CommunityFile = file(t, "community", "geheim\n")
	long := message()
	long.Event = &v1.Event{Code: TestCode, Message: strings.Repeat("ü", 200) + "\r\n"}
	if err := send(t, context.Background(), bySNMP(s), long); err != nil {
		t.Fatal(err)
	}
	text := next(t, lines)
	if !strings.Contains(text, ".18502.0.5") || !strings.Contains(text, ".1.3.0 = Counter64: 0") || strings.Contains(text, "demo2") {
		t.Errorf("a test is %s", text)
	}
}

// A receiver keeps the engine's time of the last trap and refuses what is much
// older: leaders that follow each other, and restarts, do not get there.
func TestTrapV3(t *testing.T) {
	id := fmt.Sprintf("0x%x", EngineID(uuid))
	address, lines := trapd(t, "createUser -e "+id+" priv SHA-256 auth-phrase AES priv-phrase\nauthUser log priv priv\n"+
		"createUser -e "+id+" auth SHA-256 auth-phrase\nauthUser log auth auth\n")
	auth, priv := file(t, "a", "auth-phrase\n"), file(t, "p", "priv-phrase\n")
	s := &v1.SnmpNotifier{Server: address, Version: v1.SnmpVersion_SNMP_VERSION_V3, User: "priv", AuthFile: auth, PrivacyFile: priv}
	for range 3 {
		until(t, bySNMP(s), message())
		wantTrap(t, next(t, lines))
	}
	s.User, s.PrivacyFile = "auth", ""
	until(t, bySNMP(s), message())
	wantTrap(t, next(t, lines))
	// A wrong phrase is not accepted: what comes next is the trap after it.
	s.AuthFile = file(t, "a", "other-phrase\n")
	wrong := message()
	wrong.Event.Number = 666
	if err := send(t, context.Background(), bySNMP(s), wrong); err != nil {
		t.Fatal(err)
	}
	s.AuthFile = auth
	if err := send(t, context.Background(), bySNMP(s), message()); err != nil {
		t.Fatal(err)
	}
	wantTrap(t, next(t, lines))
}

func TestTrapThatCanNotBe(t *testing.T) {
	short := file(t, "s", "short\n")
	for want, s := range map[string]*v1.SnmpNotifier{
		"v2c or v3":      {Server: "127.0.0.1"},
		"no server":      {Version: v1.SnmpVersion_SNMP_VERSION_V2C},
		"communityFile":  {Server: "127.0.0.1", Version: v1.SnmpVersion_SNMP_VERSION_V2C, CommunityFile: "/no/such"},
		"needs a user":   {Server: "127.0.0.1", Version: v1.SnmpVersion_SNMP_VERSION_V3},
		"at least 8":     {Server: "127.0.0.1", Version: v1.SnmpVersion_SNMP_VERSION_V3, User: "u", AuthFile: short},
		"needs authFile": {Server: "127.0.0.1", Version: v1.SnmpVersion_SNMP_VERSION_V3, User: "u", PrivacyFile: short},
	} {
		fails(t, Check(bySNMP(s)), want, "!short\n")
		fails(t, send(t, context.Background(), bySNMP(s), message()), want)
	}
}

func TestEngineTimeGoesForward(t *testing.T) {
	at := time.Unix(1_700_000_000, 0)
	b0, s0 := engineTime(at)
	for range 20 {
		at = at.Add(5000 * time.Second)
		b1, s1 := engineTime(at)
		if b1 < b0 || b1 == b0 && s1 <= s0 || b1 > 1<<31-1 || s1 >= bootSeconds {
			t.Errorf("%d/%d after %d/%d", b1, s1, b0, s0)
		}
		b0, s0 = b1, s1
	}
	if id := EngineID(uuid); len(id) != 21 || id[0]&0x80 == 0 {
		t.Errorf("engine id %x", id)
	}
}

const mibFile = "../../../docs/HOLDFAST-MIB.txt"

// The MIB describes what is sent.
func TestMIB(t *testing.T) {
	raw, err := os.ReadFile(mibFile)
	if err != nil {
		t.Fatal(err)
	}
	defined := map[string]string{"enterprises": ".1.3.6.1.4.1"}
	// Forward references are allowed in MIBs: as often as there are definitions.
	definition := regexp.MustCompile(`(?s)(\w+)\s+(?:OBJECT IDENTIFIER|OBJECT-TYPE|NOTIFICATION-TYPE|MODULE-IDENTITY)\s.*?::= \{ (\w+) (\d+) \}`)
	all := definition.FindAllStringSubmatch(string(raw), -1)
	for range all {
		for _, d := range all {
			if under := defined[d[2]]; under != "" {
				defined[d[1]] = under + "." + d[3]
			}
		}
	}
	names := map[string]string{}
	for name, id := range defined {
		names[id] = name
	}
	if defined["holdfastMIB"] != mibRoot {
		t.Errorf("its root is %s, traps have %s", defined["holdfastMIB"], mibRoot)
	}
	objects := regexp.MustCompile(`(?s)(\w+) NOTIFICATION-TYPE\s+OBJECTS\s+\{(.*?)\}`).FindAllStringSubmatch(string(raw), -1)
	if len(objects) != 5 {
		t.Errorf("%d notifications", len(objects))
	}
	var sent []string
	for _, v := range trap(message())[2:] {
		sent = append(sent, names[strings.TrimSuffix(v.Name, ".0")])
	}
	for _, o := range objects {
		if have := strings.Join(strings.FieldsFunc(o[2], func(r rune) bool { return r == ',' || r <= ' ' }), " "); have != strings.Join(sent, " ") {
			t.Errorf("%s has the objects %s, traps %s", o[1], have, strings.Join(sent, " "))
		}
	}
	for i := range 4 {
		m := message()
		m.Event.Severity = v1.Severity(i + 1)
		want := "hf" + strings.ToUpper(m.Event.Severity.String()[9:10]) + strings.ToLower(m.Event.Severity.String()[10:])
		if got := names[trap(m)[1].Value.(string)]; got != want {
			t.Errorf("severity %v is sent as %s", m.Event.Severity, got)
		}
		if !strings.Contains(string(raw), strings.ToLower(want[2:])+"("+strconv.Itoa(i+1)+")") {
			t.Errorf("HfSeverity does not know %s", want)
		}
	}
}

// smilint finds nothing, whatever the level.
func TestMIBIsValid(t *testing.T) {
	stubs, err := filepath.Abs("testdata/mibs")
	if err != nil {
		t.Fatal(err)
	}
	lint := func(name string) (found []string) {
		cmd := exec.Command("smilint", "-m", "-s", "-l", "6", name)
		cmd.Env = append(os.Environ(), "SMIPATH="+stubs)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		for _, line := range strings.Split(string(out), "\n") {
			// The macros of the standard modules are not in those that stand for them.
			if strings.HasPrefix(line, name) && !strings.Contains(line, "{import-failed}") {
				found = append(found, line)
			}
		}
		return found
	}
	if found := lint(mibFile); len(found) > 0 {
		t.Errorf("smilint: %s", strings.Join(found, "\n"))
	}
	raw, err := os.ReadFile(mibFile)
	if err != nil {
		t.Fatal(err)
	}
	broken := file(t, "HOLDFAST-MIB", strings.Replace(string(raw), "hfEventMessage }", "hfEventMessag }", 1))
	if len(lint(broken)) == 0 {
		t.Error("smilint finds nothing in a MIB with a fault either")
	}
}
