package deliver

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unicode"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/protoyaml"
)

// TestCode is the code of an event that exists only to be told.
const TestCode = "notifier.test"

// Message is an event and where it comes from.
type Message struct {
	Cluster, ClusterUUID string
	Event                *v1.Event
	// Try tells test events apart, which have no number.
	Try string
}

// ID is the name of the event, the same whenever and by whomever it is told (D3).
func (m *Message) ID() string {
	if m.Event.GetNumber() == 0 {
		return "test-" + m.Try + "." + m.ClusterUUID
	}
	return strconv.FormatUint(m.Event.GetNumber(), 10) + "." + m.ClusterUUID
}

// JSON is what programs and webhooks get: the event with what it comes from, in one line.
func (m *Message) JSON(notifier string) []byte {
	return protoyaml.Options{Full: true, First: []protoyaml.Pair{
		{Key: "schema", Value: "notification/1"}, {Key: "id", Value: m.ID()},
		{Key: "cluster", Value: m.Cluster}, {Key: "clusterUuid", Value: m.ClusterUUID}, {Key: "toldBy", Value: notifier},
	}}.JSONLine(m.Event)
}

// A way tells events.
type way interface {
	// name and where to, for people.
	name() (way, to string)
	// check what can be known without telling anything.
	check() error
	// send once. secrets are what must not be in the error, filled in as they become known.
	send(ctx context.Context, notifier string, m *Message, secrets *[]string) error
}

// RunProgram runs a program for a notifier to its end and kills all that it has left. The status is -1 if it did not
// exit by itself; said is the end of what it printed, after why it did not.
type RunProgram func(ctx context.Context, notifier string, argv []string, input []byte, timeout time.Duration) (status int, said string)

func wayOf(n *v1.Notifier, run RunProgram) way {
	switch w := n.GetWay().(type) {
	case *v1.Notifier_Program:
		return program{w.Program, run}
	case *v1.Notifier_Mail:
		return mailer{w.Mail}
	case *v1.Notifier_Snmp:
		return trapper{w.Snmp}
	case *v1.Notifier_Webhook:
		return webhook{w.Webhook}
	}
	return nil
}

var errNoWay = errors.New("the notifier has no way that this version knows: give it program, mail, snmp or webhook, or upgrade this node")

// Send tells an event once. Nil: it was delivered.
func Send(ctx context.Context, n *v1.Notifier, m *Message, run RunProgram) error {
	w := wayOf(n, run)
	if w == nil {
		return errNoWay
	}
	var secrets []string
	err := w.send(ctx, n.GetName(), m, &secrets)
	if err == nil {
		return nil
	}
	return errors.New(oneLine(err.Error(), secrets))
}

// Check says why a notifier could not tell anything from this node: a file or
// a program that is not there. It tells nothing and opens no connection.
func Check(n *v1.Notifier) error {
	w := wayOf(n, nil)
	if w == nil {
		return errNoWay
	}
	if err := w.check(); err != nil {
		return errors.New(oneLine(err.Error(), nil))
	}
	return nil
}

// Name of a notifier's way and where it leads, for people.
func Name(n *v1.Notifier) (way, to string) {
	if w := wayOf(n, nil); w != nil {
		return w.name()
	}
	return "unknown", ""
}

// maxError bounds what is kept of an error, in characters.
const maxError = 300

// oneLine makes text fit for a message: printable, bounded, without secrets (D1).
func oneLine(text string, secrets []string) string {
	for _, s := range secrets {
		if s != "" {
			text = strings.ReplaceAll(text, s, "***")
		}
	}
	text = printable(text)
	if r := []rune(text); len(r) > maxError {
		return string(r[:maxError]) + "…"
	}
	return text
}

// printable is text in one line (D2).
func printable(text string) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
	return strings.Join(strings.Fields(text), " ")
}

// maxFile bounds the files that a notifier names.
const maxFile = 256 << 10

func readFile(path string) ([]byte, error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("%q is not an absolute path", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("%s is longer than %d bytes", path, maxFile)
	}
	return b, err
}

// secret is the first line of a file; what is wrong with it is said without it.
func secret(path string, least int) (string, error) {
	b, err := readFile(path)
	if err != nil {
		return "", err
	}
	line, err := bufio.NewReader(strings.NewReader(string(b))).ReadString('\n')
	if err != nil && err != io.EOF {
		return "", err
	}
	line = strings.TrimRight(line, "\r\n")
	if len(line) < max(least, 1) {
		return "", fmt.Errorf("the first line of %s has %d characters, at least %d are needed", path, len(line), max(least, 1))
	}
	return line, nil
}

// clientTLS for a server of that name; with a file its authorities are trusted and no others.
func clientTLS(host, caFile string) (*tls.Config, error) {
	cfg := &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12}
	if caFile == "" {
		return cfg, nil
	}
	pem, err := readFile(caFile)
	if err != nil {
		return nil, err
	}
	cfg.RootCAs = x509.NewCertPool()
	if !cfg.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s has no certificate in PEM form", caFile)
	}
	return cfg, nil
}

// hostPort of a server that may be given without a port.
func hostPort(server string, port int) (host, address string, err error) {
	if server == "" {
		return "", "", errors.New("no server is named")
	}
	host, p, err := net.SplitHostPort(server)
	if err != nil {
		host, p = strings.Trim(server, "[]"), strconv.Itoa(port)
	}
	if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 || host == "" || strings.ContainsAny(host, " /[]") {
		return "", "", fmt.Errorf("%q is not HOST:PORT", server)
	}
	return host, net.JoinHostPort(host, p), nil
}

// loopback: the host is this machine.
func loopback(host string) bool {
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback() || host == "localhost"
}

// withoutURL takes the address out of an error of net/http: it may hold a secret (D1).
func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}
