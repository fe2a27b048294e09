//go:build linux

package deliver

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

func byWebhook(change func(*v1.WebhookNotifier)) *v1.Notifier {
	w := &v1.WebhookNotifier{}
	change(w)
	return &v1.Notifier{Name: "hook", Way: &v1.Notifier_Webhook{Webhook: w}}
}

// hook is a server whose answer a test chooses.
type hook struct {
	*httptest.Server
	requests chan *http.Request
	bodies   chan []byte
	answer   func(http.ResponseWriter, *http.Request)
	caFile   string
}

func newHook(t *testing.T) *hook {
	cert, caFile := authority(t)
	h := &hook{requests: make(chan *http.Request, 10), bodies: make(chan []byte, 10), caFile: caFile}
	h.answer = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }
	h.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		h.requests <- r
		h.bodies <- body
		h.answer(w, r)
	}))
	h.Config.ErrorLog = log.New(io.Discard, "", 0)
	h.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	h.StartTLS()
	t.Cleanup(h.Close)
	return h
}

func TestWebhook(t *testing.T) {
	h := newHook(t)
	headers := file(t, "headers", "# of the pager\n\nAuthorization: Bearer geheim-123\r\nX-Team: a\nX-Team: b\n")
	n := byWebhook(func(w *v1.WebhookNotifier) { w.Url, w.CaFile, w.HeadersFile = h.URL+"/in?x=1", h.caFile, headers })
	if err := send(t, context.Background(), n, message()); err != nil {
		t.Fatal(err)
	}
	r := <-h.requests
	for got, want := range map[string]string{
		r.Method: "POST", r.RequestURI: "/in?x=1", r.Header.Get("Content-Type"): "application/json", r.Header.Get("Authorization"): "Bearer geheim-123",
		strings.Join(r.Header["X-Team"], ","): "a,b", r.Header.Get("Idempotency-Key"): `"120.` + uuid + `"`,
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	var got map[string]any
	if err := json.Unmarshal(<-h.bodies, &got); err != nil || got["code"] != "group.nofailover" || got["toldBy"] != "hook" {
		t.Errorf("%v, %v", got, err)
	}
	// The same event has the same key; a test has one of its own.
	again := message()
	again.Event = &v1.Event{Code: TestCode}
	again.Try = "7"
	if err := send(t, context.Background(), n, again); err != nil {
		t.Fatal(err)
	}
	if key := (<-h.requests).Header.Get("Idempotency-Key"); key != `"test-7.`+uuid+`"` {
		t.Errorf("the key of a test is %s", key)
	}
	<-h.bodies
	// D1: a server that repeats what it was told.
	h.answer = func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(500)
		_, _ = io.WriteString(w, "bad token geheim-123 at "+r.RequestURI+"\r\n"+strings.Repeat("blah ", 1000))
	}
	n.GetWebhook().Url = h.URL + "/services/T123/s3cret"
	err := send(t, context.Background(), n, message())
	fails(t, err, "status 500", "bad token ***", "!geheim", "!s3cret", "!\n")
	if err != nil && len(err.Error()) > 2*maxError {
		t.Errorf("%d bytes of error", len(err.Error()))
	}
}

func TestWebhookThatFails(t *testing.T) {
	h := newHook(t)
	n := byWebhook(func(w *v1.WebhookNotifier) { w.Url, w.CaFile = h.URL+"/s3cret-path", h.caFile })
	// Nobody is sent elsewhere with the headers.
	h.answer = func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/other", http.StatusTemporaryRedirect)
	}
	fails(t, send(t, context.Background(), n, message()), "status 307")
	if len(h.requests) != 1 {
		t.Errorf("%d requests", len(h.requests))
	}
	block := make(chan struct{})
	h.answer = func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-block:
		}
	}
	n.GetWebhook().Timeout = durationpb.New(100 * time.Millisecond)
	fails(t, send(t, context.Background(), n, message()), "did not answer within 100ms", "!s3cret")
	close(block)
	// Another authority.
	_, n.GetWebhook().CaFile = authority(t)
	n.GetWebhook().Timeout = nil
	fails(t, send(t, context.Background(), n, message()), "certificate", "!s3cret")
	h.Close()
	fails(t, send(t, context.Background(), n, message()), "refused", "!s3cret")
}

func TestWebhookThatCanNotBe(t *testing.T) {
	for want, change := range map[string]func(*v1.WebhookNotifier){
		"no host":                 func(w *v1.WebhookNotifier) { w.Url = "https:///x" },
		"write https":             func(w *v1.WebhookNotifier) { w.Url = "http://example.com/s3cret" },
		`begins with "ftp"`:       func(w *v1.WebhookNotifier) { w.Url = "ftp://example.com/s3cret" },
		"url is not one":          func(w *v1.WebhookNotifier) { w.Url = "https://example.com/s3cret\x7f" },
		"line 2":                  func(w *v1.WebhookNotifier) { w.HeadersFile = file(t, "h", "A: b\ns3cret\n") },
		"line 1":                  func(w *v1.WebhookNotifier) { w.HeadersFile = file(t, "h", "A B: s3cret\n") },
		"Content-Length can't be": func(w *v1.WebhookNotifier) { w.HeadersFile = file(t, "h", "content-length: 5\n") },
		"no such file":            func(w *v1.WebhookNotifier) { w.HeadersFile = "/no/such" },
	} {
		n := byWebhook(func(w *v1.WebhookNotifier) { w.Url = "https://example.com/"; change(w) })
		fails(t, Check(n), want, "!s3cret")
		fails(t, send(t, context.Background(), n, message()), want, "!s3cret")
	}
	if err := Check(byWebhook(func(w *v1.WebhookNotifier) { w.Url = "http://127.0.0.1:9/" })); err != nil {
		t.Error(err)
	}
	if way, to := Name(byWebhook(func(w *v1.WebhookNotifier) { w.Url = "https://hooks.example.com/T1/s3cret" })); way != "webhook" || to != "https://hooks.example.com" {
		t.Errorf("%s to %s", way, to)
	}
}
