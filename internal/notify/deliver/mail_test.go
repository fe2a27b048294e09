//go:build linux

package deliver

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/mail"
	"net/textproto"
	"strings"
	"testing"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

// smtpServer takes one mail after the other and tells what it was told.
type smtpServer struct {
	t        *testing.T
	l        net.Listener
	cert     *tls.Certificate // nil: no STARTTLS
	refuse   map[string]string
	commands chan string
	mails    chan string
}

func newSMTP(t *testing.T, cert *tls.Certificate) *smtpServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &smtpServer{t: t, l: l, cert: cert, refuse: map[string]string{}, commands: make(chan string, 100), mails: make(chan string, 10)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.serve(c)
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return s
}

func (s *smtpServer) serve(c net.Conn) {
	say := func(format string, args ...any) { fmt.Fprintf(c, format+"\r\n", args...) }
	r := textproto.NewReader(bufio.NewReader(c))
	say("220 stub")
	secure := ""
	for {
		line, err := r.ReadLine()
		if err != nil {
			return
		}
		s.commands <- secure + line
		verb, _, _ := strings.Cut(strings.ToUpper(line), " ")
		verb, _, _ = strings.Cut(verb, ":")
		if answer := s.refuse[verb]; answer != "" {
			if answer == "hang" {
				_, _ = io.Copy(io.Discard, c)
				return
			}
			say("%s", answer)
			continue
		}
		switch verb {
		case "EHLO":
			say("250-stub")
			if s.cert != nil && secure == "" {
				say("250-STARTTLS")
			}
			say("250 AUTH PLAIN")
		case "STARTTLS":
			say("220 go on")
			tc := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{*s.cert}})
			if tc.Handshake() != nil {
				return
			}
			c, r, secure = tc, textproto.NewReader(bufio.NewReader(tc)), "tls "
		case "AUTH":
			say("235 welcome")
		case "DATA":
			say("354 go on")
			text, err := r.ReadDotBytes()
			if err != nil {
				return
			}
			if s.refuse["."] != "" {
				say("%s", s.refuse["."])
				continue
			}
			s.mails <- string(text)
			say("250 taken")
		case "QUIT":
			say("221 bye")
			return
		default:
			say("250 ok")
		}
	}
}

func (s *smtpServer) told() (all []string) {
	for {
		select {
		case c := <-s.commands:
			all = append(all, c)
		default:
			return all
		}
	}
}

func (s *smtpServer) notifier(change func(*v1.MailNotifier)) *v1.Notifier {
	m := &v1.MailNotifier{Server: s.l.Addr().String(), From: "Cluster <ha@example.com>", To: []string{"ops@example.com", "Ämter <amt@example.com>"}}
	if change != nil {
		change(m)
	}
	return &v1.Notifier{Name: "mail", Way: &v1.Notifier_Mail{Mail: m}}
}

func parse(t *testing.T, raw string) (*mail.Message, string) {
	t.Helper()
	m, err := mail.ReadMessage(strings.NewReader(raw))
	if err != nil {
		t.Fatalf("%v\n%s", err, raw)
	}
	body, err := io.ReadAll(quotedprintable.NewReader(m.Body))
	if err != nil {
		t.Fatal(err)
	}
	return m, string(body)
}

func TestMail(t *testing.T) {
	s := newSMTP(t, nil)
	if err := send(t, context.Background(), s.notifier(nil), message()); err != nil {
		t.Fatal(err)
	}
	m, body := parse(t, <-s.mails)
	subject, err := new(mime.WordDecoder).DecodeHeader(m.Header.Get("Subject"))
	if err != nil {
		t.Fatal(err)
	}
	for got, want := range map[string]string{
		subject:                        "[demo] CRITICAL group.nofailover: web has no node to go to",
		m.Header.Get("Message-Id"):     "<120." + uuid + "@holdfast.invalid>",
		m.Header.Get("From"):           `"Cluster" <ha@example.com>`,
		m.Header.Get("Date"):           "Tue, 14 Nov 2023 22:13:20 +0000",
		m.Header.Get("Auto-Submitted"): "auto-generated",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if to, err := m.Header.AddressList("To"); err != nil || len(to) != 2 || to[1].Name != "Ämter" {
		t.Errorf("To is %v, %v", to, err)
	}
	for _, want := range []string{"web has no node to go to\n", "group:    web", "event:    #120", "node:     n2", "severity: critical"} {
		if !strings.Contains(body, want) {
			t.Errorf("the body has no %q:\n%s", want, body)
		}
	}
	told := strings.Join(s.told(), "; ")
	if !strings.Contains(told, "MAIL FROM:<ha@example.com>; RCPT TO:<ops@example.com>; RCPT TO:<amt@example.com>; DATA; QUIT") {
		t.Errorf("it was told %q", told)
	}
}

// D2: what an event says stays inside of its header or the body.
func TestMailCanNotBeInjectedInto(t *testing.T) {
	s := newSMTP(t, nil)
	evil := message()
	evil.Cluster = "de\r\nBcc: x@example.com\r\nmo"
	evil.Event.Code = "a\nBcc: y@example.com"
	evil.Event.Message = "one\r\n.\r\nMAIL FROM:<z@example.com>\r\nTo: z@example.com\r\n\r\nzwei ü " + strings.Repeat("long ", 100)
	evil.Event.Group = "\r\n.\r\nQUIT\r\n"
	if err := send(t, context.Background(), s.notifier(nil), evil); err != nil {
		t.Fatal(err)
	}
	m, body := parse(t, <-s.mails)
	if len(m.Header["Bcc"]) > 0 || len(m.Header["To"]) != 1 || strings.Contains(m.Header.Get("To"), "z@") {
		t.Errorf("headers %v", m.Header)
	}
	subject, err := new(mime.WordDecoder).DecodeHeader(m.Header.Get("Subject"))
	if err != nil || !strings.HasPrefix(subject, "[de Bcc: x@example.com mo] CRITICAL a Bcc: y@example.com: one . MAIL FROM") || !strings.HasSuffix(subject, "…") {
		t.Errorf("subject %q, %v", subject, err)
	}
	if !strings.HasPrefix(body, "one . MAIL FROM:<z@example.com> To: z@example.com zwei ü long") {
		t.Errorf("body %q", body)
	}
	for _, c := range s.told() {
		if strings.Contains(c, "z@") {
			t.Errorf("it was told %q", c)
		}
	}
}

func TestMailWithUser(t *testing.T) {
	cert, caFile := authority(t)
	s := newSMTP(t, &cert)
	n := s.notifier(func(m *v1.MailNotifier) {
		m.User, m.PasswordFile, m.CaFile = "ha", file(t, "pw", "geheim123\n"), caFile
	})
	if err := send(t, context.Background(), n, message()); err != nil {
		t.Fatal(err)
	}
	<-s.mails
	told := s.told()
	want := "tls AUTH PLAIN " + base64.StdEncoding.EncodeToString([]byte("\x00ha\x00geheim123"))
	found := false
	for _, c := range told {
		found = found || c == want
		if strings.HasPrefix(c, "MAIL") || strings.HasPrefix(c, "AUTH") {
			t.Errorf("%q without TLS", c)
		}
	}
	if !found {
		t.Errorf("it was told %q, want %q among them", told, want)
	}
	// An echo of the password does not get into the error (D1).
	s.refuse["AUTH"] = "535 wrong password geheim123"
	fails(t, send(t, context.Background(), n, message()), "535", "wrong password ***", "!geheim")
}

func TestMailDemandsTLS(t *testing.T) {
	s := newSMTP(t, nil)
	n := s.notifier(func(m *v1.MailNotifier) { m.User, m.PasswordFile = "ha", file(t, "pw", "geheim123\n") })
	fails(t, send(t, context.Background(), n, message()), "does not offer STARTTLS")
	for _, c := range s.told() {
		if !strings.HasPrefix(c, "EHLO") && c != "QUIT" {
			t.Errorf("it was told %q", c)
		}
	}
	// A server of another authority gets nothing either.
	cert, _ := authority(t)
	_, other := authority(t)
	s = newSMTP(t, &cert)
	n = s.notifier(func(m *v1.MailNotifier) { m.CaFile = other })
	fails(t, send(t, context.Background(), n, message()), "STARTTLS", "certificate")
	if len(s.mails) > 0 {
		t.Error("it was sent all the same")
	}
}

// A mail server on this machine with a certificate of its own making is spoken to with TLS.
func TestMailToThisMachine(t *testing.T) {
	cert, _ := authority(t)
	s := newSMTP(t, &cert)
	if err := send(t, context.Background(), s.notifier(nil), message()); err != nil {
		t.Fatal(err)
	}
	<-s.mails
	if told := strings.Join(s.told(), "; "); !strings.Contains(told, "tls MAIL FROM") {
		t.Errorf("it was told %q", told)
	}
}

func TestMailThatIsNotTaken(t *testing.T) {
	s := newSMTP(t, nil)
	for verb, answer := range map[string]string{"MAIL": "451 later", "RCPT": "550 nobody here", "DATA": "452 full", ".": "554 looks like spam"} {
		s.refuse = map[string]string{verb: answer}
		code, text, _ := strings.Cut(answer, " ")
		fails(t, send(t, context.Background(), s.notifier(nil), message()), code, text, s.l.Addr().String())
	}
	// What was taken is taken, however the server says good-bye.
	s.refuse = map[string]string{"QUIT": "421 what?"}
	if err := send(t, context.Background(), s.notifier(nil), message()); err != nil {
		t.Error(err)
	}
	<-s.mails
}

func TestMailToAServerThatHangs(t *testing.T) {
	s := newSMTP(t, nil)
	s.refuse["DATA"] = "hang"
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- send(t, ctx, s.notifier(nil), message()) }()
	for c := range s.commands {
		if c == "DATA" {
			break
		}
	}
	cancel()
	fails(t, <-done, "did not take the mail")
}

func TestMailThatCanNotBe(t *testing.T) {
	s := newSMTP(t, nil)
	for want, change := range map[string]func(*v1.MailNotifier){
		"no server":      func(m *v1.MailNotifier) { m.Server = "" },
		"from":           func(m *v1.MailNotifier) { m.From = "x@example.com\r\nRCPT TO:<y@example.com>" },
		"no mail addr":   func(m *v1.MailNotifier) { m.To = []string{"nobody"} },
		"nobody":         func(m *v1.MailNotifier) { m.To = nil },
		"passwordFile":   func(m *v1.MailNotifier) { m.User, m.PasswordFile = "u", "/no/such" },
		"no certificate": func(m *v1.MailNotifier) { m.CaFile = file(t, "ca", "x") },
	} {
		n := s.notifier(change)
		fails(t, Check(n), want)
		fails(t, send(t, context.Background(), n, message()), want)
	}
	if told := s.told(); len(told) > 0 {
		t.Errorf("it was told %q", told)
	}
}
