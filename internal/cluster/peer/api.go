package peer

import (
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"time"
)

// apiServer serves HTTP on connections whose certificates have been checked.
type apiServer struct {
	srv   *http.Server
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func newAPIServer(h http.Handler) *apiServer {
	a := &apiServer{conns: make(chan net.Conn), done: make(chan struct{})}
	a.srv = &http.Server{
		Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: log.New(io.Discard, "", 0),
	}
	return a
}

func (a *apiServer) serve() { _ = a.srv.Serve(a) }

func (a *apiServer) push(c net.Conn) {
	select {
	case a.conns <- c:
	case <-a.done:
		_ = c.Close()
	}
}

// Accept, Close and Addr make it a listener for http.Server.
func (a *apiServer) Accept() (net.Conn, error) {
	select {
	case c := <-a.conns:
		return c, nil
	case <-a.done:
		return nil, net.ErrClosed
	}
}

func (a *apiServer) Close() error {
	a.once.Do(func() { close(a.done) })
	return nil
}

func (a *apiServer) Addr() net.Addr { return &net.TCPAddr{} }

func (a *apiServer) close() {
	_ = a.Close()
	_ = a.srv.Close()
}
