package deliver

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

const (
	webhookTimeout = 10 * time.Second
	// maxAnswer bounds what is read of an answer.
	maxAnswer = 4 << 10
	// secretValue is how long a header's value is that may be a secret, secretWord a word of one.
	secretValue = 4
	secretWord  = 8
)

type webhook struct{ *v1.WebhookNotifier }

func (w webhook) name() (way, to string) {
	u, err := url.Parse(w.GetUrl())
	if err != nil {
		return "webhook", ""
	}
	return "webhook", u.Scheme + "://" + u.Host
}

func (w webhook) open() (u *url.URL, header http.Header, client *http.Client, err error) {
	u, err = url.Parse(w.GetUrl())
	if err != nil {
		return nil, nil, nil, errors.New("url is not one") // the error of net/url has all of it
	}
	switch {
	case u.Host == "" || u.Hostname() == "":
		return nil, nil, nil, errors.New("url has no host")
	case u.Scheme == "http" && !loopback(u.Hostname()):
		return nil, nil, nil, fmt.Errorf("url: without TLS events go to this machine only, not to %s: write https", u.Hostname())
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, nil, nil, fmt.Errorf("url begins with %q: write https", u.Scheme)
	}
	if header, err = w.header(); err != nil {
		return nil, nil, nil, fmt.Errorf("headersFile: %w", err)
	}
	tls, err := clientTLS(u.Hostname(), w.GetCaFile())
	if err != nil {
		return nil, nil, nil, fmt.Errorf("caFile: %w", err)
	}
	return u, header, &http.Client{
		Transport: &http.Transport{TLSClientConfig: tls, DialContext: (&net.Dialer{}).DialContext, ForceAttemptHTTP2: true, DisableKeepAlives: true},
		// Secrets go to the server that was named, and to no other.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// header from the file. What is wrong is said by line: it may hold secrets.
func (w webhook) header() (http.Header, error) {
	h := http.Header{}
	if w.GetHeadersFile() == "" {
		return h, nil
	}
	b, err := readFile(w.GetHeadersFile())
	if err != nil {
		return nil, err
	}
	for i, line := range strings.Split(string(b), "\n") {
		line = strings.TrimRight(line, "\r")
		if strings.TrimSpace(line) == "" || line[0] == '#' {
			continue
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok || !isToken(name) || !isValue(value) {
			return nil, fmt.Errorf("line %d of %s is not of the form Name: value", i+1, w.GetHeadersFile())
		}
		switch http.CanonicalHeaderKey(name) {
		case "Content-Length", "Transfer-Encoding", "Idempotency-Key", "Content-Type", "Connection":
			return nil, fmt.Errorf("line %d of %s: %s can't be set", i+1, w.GetHeadersFile(), http.CanonicalHeaderKey(name))
		}
		h.Add(name, strings.TrimSpace(value))
	}
	return h, nil
}

// isToken: the name of a header field (RFC 9110, 5.6.2).
func isToken(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
	})
}

func isValue(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f })
}

func values(h http.Header) (all []string) {
	for _, v := range h {
		all = append(all, v...)
	}
	return all
}

func (w webhook) check() error {
	_, _, _, err := w.open()
	return err
}

func (w webhook) send(ctx context.Context, notifier string, m *Message, secrets *[]string) error {
	u, header, client, err := w.open()
	if err != nil {
		return err
	}
	*secrets = append(*secrets, u.String())
	if len(u.RequestURI()) >= secretWord {
		*secrets = append(*secrets, u.RequestURI())
	}
	for _, part := range values(header) {
		if len(part) >= secretValue {
			*secrets = append(*secrets, part)
		}
		for _, word := range strings.Fields(part) {
			if len(word) >= secretWord {
				*secrets = append(*secrets, word)
			}
		}
	}
	timeout := cmp.Or(w.GetTimeout().AsDuration(), webhookTimeout)
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader(m.JSON(notifier)))
	if err != nil {
		return withoutURL(err)
	}
	req.Header = header
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Idempotency-Key", `"`+m.ID()+`"`)
	if req.Header.Get("User-Agent") == "" {
		req.Header.Set("User-Agent", "holdfast")
	}
	if host := header.Get("Host"); host != "" {
		req.Host = host
	}
	resp, err := client.Do(req)
	if err != nil {
		if ctx.Err() == context.DeadlineExceeded {
			return fmt.Errorf("%s did not answer within %v", u.Host, timeout)
		}
		return withoutURL(err)
	}
	defer resp.Body.Close()
	answer, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if resp.StatusCode >= 200 && resp.StatusCode <= 299 {
		return nil
	}
	said := printable(string(answer))
	if said != "" {
		said = ": " + said
	}
	return fmt.Errorf("%s answered with status %d%s", u.Host, resp.StatusCode, said)
}
