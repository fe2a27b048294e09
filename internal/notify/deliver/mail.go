package deliver

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/mail"
	"net/smtp"
	"net/textproto"
	"os"
	"strings"
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/protoyaml"
)

const (
	// mailTimeout is for all of a delivery.
	mailTimeout = 30 * time.Second
	// maxSubject bounds a subject, in characters.
	maxSubject = 160
)

type mailer struct{ *v1.MailNotifier }

func (w mailer) name() (way, to string) {
	return "mail", strings.Join(w.GetTo(), ", ") + " by " + w.GetServer()
}

// envelope is what w says, read and checked.
type envelope struct {
	host, address string
	from          *mail.Address
	to            []*mail.Address
	password      string
	tls           *tls.Config
}

func (w mailer) open(secrets *[]string) (e *envelope, err error) {
	e = &envelope{}
	if e.host, e.address, err = hostPort(w.GetServer(), 25); err != nil {
		return nil, err
	}
	if e.from, err = mail.ParseAddress(w.GetFrom()); err != nil {
		return nil, fmt.Errorf("from %q is no mail address: %w", w.GetFrom(), err)
	}
	for _, t := range w.GetTo() {
		a, err := mail.ParseAddress(t)
		if err != nil {
			return nil, fmt.Errorf("to %q is no mail address: %w", t, err)
		}
		e.to = append(e.to, a)
	}
	if len(e.to) == 0 {
		return nil, errors.New("nobody is named in to")
	}
	if w.GetUser() != "" {
		if e.password, err = secret(w.GetPasswordFile(), 1); err != nil {
			return nil, fmt.Errorf("passwordFile: %w", err)
		}
		*secrets = append(*secrets, e.password)
	}
	if e.tls, err = clientTLS(e.host, w.GetCaFile()); err != nil {
		return nil, fmt.Errorf("caFile: %w", err)
	}
	// A mail server on this machine often shows a certificate that nobody has signed; there is no way between.
	e.tls.InsecureSkipVerify = loopback(e.host) && !w.demanded()
	return e, nil
}

// demanded: without TLS nothing is sent.
func (w mailer) demanded() bool { return w.GetUser() != "" || w.GetCaFile() != "" }

func (w mailer) check() error {
	var secrets []string
	_, err := w.open(&secrets)
	return err
}

func (w mailer) send(ctx context.Context, _ string, m *Message, secrets *[]string) error {
	e, err := w.open(secrets)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, mailTimeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", e.address)
	if err != nil {
		return err
	}
	defer conn.Close()
	// Whatever waits for the server ends with ctx.
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	if err := w.talk(conn, e, m); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("%s did not take the mail within %v: %w", e.address, mailTimeout, err)
		}
		return fmt.Errorf("%s: %w", e.address, err)
	}
	return nil
}

func (w mailer) talk(conn net.Conn, e *envelope, m *Message) error {
	c, err := smtp.NewClient(conn, e.host)
	if err != nil {
		return err
	}
	defer c.Close()
	own, err := os.Hostname()
	if err != nil {
		own = "localhost"
	}
	if err := c.Hello(own); err != nil {
		return err
	}
	if ok, _ := c.Extension("STARTTLS"); ok {
		if err := c.StartTLS(e.tls); err != nil {
			return fmt.Errorf("STARTTLS: %w", err)
		}
	} else if w.demanded() {
		return errors.New("it does not offer STARTTLS, which is demanded with a user or an authority")
	}
	if w.GetUser() != "" {
		if err := c.Auth(smtp.PlainAuth("", w.GetUser(), e.password, e.host)); err != nil {
			return fmt.Errorf("authentication: %w", err)
		}
	}
	if err := c.Mail(e.from.Address); err != nil {
		return err
	}
	for _, t := range e.to {
		if err := c.Rcpt(t.Address); err != nil {
			return err
		}
	}
	body, err := c.Data()
	if err != nil {
		return err
	}
	if _, err := body.Write(e.letter(m)); err != nil {
		return err
	}
	if err := body.Close(); err != nil { // its answer says whether the mail was taken
		return err
	}
	// It was: a server that leaves without a word has it all the same.
	var said *textproto.Error
	if err := c.Quit(); errors.As(err, &said) && said.Code >= 500 {
		return err
	}
	return nil
}

// letter is the mail itself. All that comes from the event is encoded or in the body (D2).
func (e *envelope) letter(m *Message) []byte {
	ev := m.Event
	var b bytes.Buffer
	header := func(name, value string) { fmt.Fprintf(&b, "%s: %s\r\n", name, value) }
	var to []string
	for _, t := range e.to {
		to = append(to, t.String())
	}
	subject := []rune(fmt.Sprintf("[%s] %s %s: %s", printable(m.Cluster), strings.ToUpper(protoyaml.EnumName(ev.GetSeverity())), printable(ev.GetCode()), printable(ev.GetMessage())))
	if len(subject) > maxSubject {
		subject = append(subject[:maxSubject], '…')
	}
	header("From", e.from.String())
	header("To", strings.Join(to, ",\r\n\t"))
	header("Subject", mime.QEncoding.Encode("utf-8", string(subject)))
	header("Date", time.UnixMilli(ev.GetTimeMs()).UTC().Format(time.RFC1123Z))
	header("Message-ID", "<"+m.ID()+"@holdfast.invalid>")
	header("Auto-Submitted", "auto-generated")
	header("MIME-Version", "1.0")
	header("Content-Type", "text/plain; charset=utf-8")
	header("Content-Transfer-Encoding", "quoted-printable")
	b.WriteString("\r\n")
	q := quotedprintable.NewWriter(&b)
	for _, line := range [][2]string{
		{"", printable(ev.GetMessage())}, {"", ""},
		{"cluster", printable(m.Cluster)}, {"event", eventNumber(ev)}, {"time", time.UnixMilli(ev.GetTimeMs()).UTC().Format(time.RFC3339)},
		{"severity", protoyaml.EnumName(ev.GetSeverity())}, {"code", printable(ev.GetCode())},
		{"node", printable(ev.GetNode())}, {"group", printable(ev.GetGroup())}, {"resource", printable(ev.GetResource())}, {"notifier", printable(ev.GetNotifier())},
	} {
		switch {
		case line[0] == "":
			fmt.Fprintf(q, "%s\r\n", line[1])
		case line[1] != "":
			fmt.Fprintf(q, "%-9s %s\r\n", line[0]+":", line[1])
		}
	}
	_ = q.Close() // into memory
	return b.Bytes()
}

func eventNumber(e *v1.Event) string {
	if e.GetNumber() == 0 {
		return "none, this is a test"
	}
	return fmt.Sprintf("#%d", e.GetNumber())
}
