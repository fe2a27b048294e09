//go:build linux

package deliver

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/group/agents"
)

const uuid = "00112233445566778899aabbccddeeff"

func message() *Message {
	return &Message{Cluster: "demo", ClusterUUID: uuid, Event: &v1.Event{
		Number: 120, TimeMs: 1_700_000_000_000, Severity: v1.Severity_SEVERITY_CRITICAL, Code: "group.nofailover",
		Epoch: 7, Node: "n2", Group: "web", Message: "web has no node to go to", Decision: 31,
	}}
}

// send with programs run as clusterd does.
func send(t *testing.T, ctx context.Context, n *v1.Notifier, m *Message) error {
	t.Helper()
	run := func(ctx context.Context, _ string, argv []string, input []byte, timeout time.Duration) (int, string) {
		host, err := agents.NewHost(agents.Options{Node: "n1", RunDir: t.TempDir()})
		if err != nil {
			return -1, err.Error()
		}
		defer host.Close()
		r := host.RunProgram(ctx, agents.Program{Name: "test", Argv: argv, Input: input, Timeout: timeout})
		return r.Status, r.Message
	}
	return Send(ctx, n, m, run)
}

func file(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// authority makes a certificate for 127.0.0.1 and the file of who has signed it.
func authority(t *testing.T) (cert tls.Certificate, caFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	caFile = file(t, "ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, caFile
}

// fails wants an error with all of these words, and none that begin with "!".
func fails(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want one with %q", words)
		return
	}
	for _, w := range words {
		if unwanted, not := strings.CutPrefix(w, "!"); not == strings.Contains(err.Error(), strings.TrimPrefix(w, "!")) {
			t.Errorf("error %q, want %q (unwanted: %q)", err, w, unwanted)
		}
	}
}

func byProgram(command string, timeout time.Duration) *v1.Notifier {
	p := &v1.ProgramNotifier{Command: command}
	if timeout > 0 {
		p.Timeout = durationpb.New(timeout)
	}
	return &v1.Notifier{Name: "prog", Way: &v1.Notifier_Program{Program: p}}
}

func TestProgramGetsTheEvent(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	script := file(t, "tell", "#!/bin/sh\ncat >\"$1\"\nprintf %s \"$2\" >>\"$1\"\n[ -z \"$SECRET\" ]\n")
	t.Setenv("SECRET", "x")
	if err := send(t, context.Background(), byProgram(script+" "+out+" 'two  words'", 0), message()); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	line, rest, _ := strings.Cut(string(raw), "\n")
	var got map[string]any
	if err := json.Unmarshal([]byte(line), &got); err != nil {
		t.Fatalf("%v: %s", err, line)
	}
	for key, want := range map[string]any{
		"schema": "notification/1", "id": "120." + uuid, "cluster": "demo", "clusterUuid": uuid, "toldBy": "prog",
		"number": 120.0, "severity": "critical", "code": "group.nofailover", "group": "web", "node": "n2", "message": "web has no node to go to", "decision": 31.0,
	} {
		if fmt.Sprint(got[key]) != fmt.Sprint(want) {
			t.Errorf("%s is %v, want %v", key, got[key], want)
		}
	}
	if strings.TrimSpace(rest) != "two  words" {
		t.Errorf("its argument is %q", rest)
	}
}

func TestProgramThatFails(t *testing.T) {
	script := file(t, "fail", "#!/bin/sh\ncat >/dev/null\necho no paper >&2\nexit 3\n")
	fails(t, send(t, context.Background(), byProgram(script, 0), message()), "status 3", "no paper")
	// It need not read what it is given.
	big := message()
	big.Event.Message = strings.Repeat("x", 1<<20)
	if err := send(t, context.Background(), byProgram("/bin/true", 0), big); err != nil {
		t.Error(err)
	}
	for command, want := range map[string]string{
		"":             "no program",
		"bin/true":     "absolute path",
		"/no/such":     "no such file",
		"/etc/passwd":  "can be run",
		"/bin/true 'x": "inside a quote",
	} {
		fails(t, send(t, context.Background(), byProgram(command, 0), message()), want)
		fails(t, Check(byProgram(command, 0)), want)
	}
}

func TestProgramThatTakesTooLong(t *testing.T) {
	script := file(t, "hang", "#!/bin/sh\necho looking for paper\nsleep 1000\n")
	fails(t, send(t, context.Background(), byProgram(script, 300*time.Millisecond), message()), "longer than 300ms", "looking for paper")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	fails(t, send(t, ctx, byProgram(script, 0), message()), "canceled")
}

func TestUnknownWay(t *testing.T) {
	fails(t, send(t, context.Background(), &v1.Notifier{Name: "x"}, message()), "no way")
	fails(t, Check(&v1.Notifier{Name: "x"}), "no way")
}

func TestSecretFiles(t *testing.T) {
	for text, want := range map[string]string{"": "at least 1", "\nsecret": "at least 1", strings.Repeat("x", maxFile+1): "longer than"} {
		_, err := secret(file(t, "s", text), 1)
		fails(t, err, want, "!secret")
	}
	for text, want := range map[string]string{"a": "a", "a b\r\nc": "a b"} {
		if got, err := secret(file(t, "s", text), 1); err != nil || got != want {
			t.Errorf("%q gives %q, %v", text, got, err)
		}
	}
	_, err := secret("password", 1)
	fails(t, err, "absolute path")
}

func TestHostPort(t *testing.T) {
	for in, want := range map[string]string{
		"mail": "mail mail:25", "mail:587": "mail mail:587", "[::1]": "::1 [::1]:25", "::1": "::1 [::1]:25", "[::1]:26": "::1 [::1]:26", "10.0.0.1": "10.0.0.1 10.0.0.1:25",
		"": "-", "mail:": "-", "mail:x": "-", "a b:25": "-", "mail:0": "-", "mail:70000": "-",
	} {
		host, address, err := hostPort(in, 25)
		got := host + " " + address
		if err != nil {
			got = "-"
		}
		if got != want {
			t.Errorf("%q gives %q, want %q", in, got, want)
		}
	}
}

func TestWords(t *testing.T) {
	for in, want := range map[string]string{
		`/a b  c`: `["/a" "b" "c"]`, `/a 'b c' "d e" f\ g ''`: `["/a" "b c" "d e" "f g" ""]`, "": `[]`,
	} {
		got, err := words(in)
		if err != nil || fmt.Sprintf("%q", got) != want {
			t.Errorf("%s gives %q, %v", in, got, err)
		}
	}
	for _, in := range []string{`'a`, `"a`, `a\`, "a\x00"} {
		if got, err := words(in); err == nil {
			t.Errorf("%q gives %q", in, got)
		}
	}
}
