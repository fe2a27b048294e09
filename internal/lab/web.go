package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// runWeb is the demo's web server where no nginx is installed: it answers
// with the name of the node that it runs on, on addr, until SIGTERM. It
// records its life below lives, unless that is empty.
func runWeb(addr, lives string) error {
	name, err := webName()
	if err != nil {
		return err
	}
	if lives != "" {
		if err := live(lives, name); err != nil {
			return err
		}
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("%w: is the group's address online on this node?", err)
	}
	s := &http.Server{
		ReadHeaderTimeout: 5 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			fmt.Fprintln(w, name)
		}),
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	go func() {
		<-ctx.Done()
		s.Close()
	}()
	if err := s.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// webName is the node's name: agents put it into the environment of what they
// run, and in namespaces it is the host name too.
func webName() (string, error) {
	if node := os.Getenv("HOLDFAST_NODE"); node != "" {
		return node, nil
	}
	if _, node, ok := strings.Cut(os.Getenv(markerVariable), "/"); ok {
		return node, nil
	}
	return os.Hostname()
}
