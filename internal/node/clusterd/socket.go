//go:build linux

package clusterd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-ha/holdfast/internal/api"
	"github.com/holdfast-ha/holdfast/internal/cluster/identity"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// apiSocket serves the API on a unix socket. It is private to root and this
// daemon's own user until the cluster has users; then anybody may connect, the
// kernel says who it is, and package api what that user may do.
type apiSocket struct {
	path   string
	srv    *http.Server
	open   bool
	mu     sync.Mutex
	others int // connections of neither root nor this daemon's user
}

// othersMax: users can't keep administrators out.
const othersMax = 64

func serveAPI(ctx context.Context, path string, h http.Handler) (*apiSocket, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("API socket: %w", err)
	}
	old := unix.Umask(0o177)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	unix.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("API socket: %w", err)
	}
	a := &apiSocket{path: path}
	a.srv = &http.Server{
		Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, userKey{}, c.(*userConn).uid)
		},
		ErrorLog:  log.New(io.Discard, "", 0),
		Protocols: new(http.Protocols),
	}
	a.srv.Protocols.SetHTTP1(true)
	a.srv.Protocols.SetUnencryptedHTTP2(true) // gRPC
	go func() { _ = a.srv.Serve(known{l, a}) }()
	return a, nil
}

func (a *apiSocket) close() { _ = a.srv.Close() }

// setOpen lets everybody connect, or only root and this daemon's user. The run
// directory can then be passed through, not listed; what else is in it stays private.
func (a *apiSocket) setOpen(open bool) error {
	if a.open == open {
		return nil
	}
	dir, socket := fs.FileMode(0o700), fs.FileMode(0o600)
	if open {
		dir, socket = 0o711, 0o666
	}
	if err := errors.Join(os.Chmod(a.path, socket), os.Chmod(filepath.Dir(a.path), dir)); err != nil {
		return err
	}
	a.open = open
	return nil
}

type userKey struct{}

// userConn knows who is at the other end.
type userConn struct {
	*net.UnixConn
	uid  uint32
	once sync.Once
	gone func()
}

func (c *userConn) Close() error {
	c.once.Do(c.gone)
	return c.UnixConn.Close()
}

// known lets in whom the kernel vouches for.
type known struct {
	*net.UnixListener
	a *apiSocket
}

func (l known) Accept() (net.Conn, error) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		uid, err := peerUser(c)
		if err != nil {
			_ = c.Close()
			continue
		}
		if trustedUser(uid) {
			return &userConn{UnixConn: c, uid: uid, gone: func() {}}, nil
		}
		if !l.a.another(1) {
			_ = c.Close()
			continue
		}
		return &userConn{UnixConn: c, uid: uid, gone: func() { l.a.another(-1) }}, nil
	}
}

// another connection of a user comes or goes; false: there are too many.
func (a *apiSocket) another(n int) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if n > 0 && a.others >= othersMax {
		return false
	}
	a.others += n
	return true
}

func trustedUser(uid uint32) bool { return uid == 0 || int(uid) == os.Geteuid() }

// openAPI to system users while there are users.
func (n *node) openAPI(s *statepb.State) {
	if n.api == nil {
		return
	}
	if err := n.api.setOpen(len(s.GetUsers()) > 0); err != nil {
		n.log.Error("users can't reach the API on this node", "error", err)
	}
}

// caller of a request: by the certificate on a connection from elsewhere, by
// the kernel's word on the socket.
func (n *node) caller(r *http.Request) api.Caller {
	if r.TLS != nil {
		from, _, err := net.SplitHostPort(r.RemoteAddr)
		if err != nil {
			from = r.RemoteAddr
		}
		p, err := n.id.Verify(*r.TLS) // again for each request: it may have been taken back
		switch {
		case err != nil:
			return api.Caller{Who: "somebody without a valid certificate", From: from}
		case p.Kind == identity.KindNode:
			return api.Caller{Trusted: true, Who: "node " + p.Name, From: from}
		}
		return api.Caller{User: p.Name, Who: "user " + p.Name, From: from}
	}
	uid, ok := r.Context().Value(userKey{}).(uint32)
	switch {
	case !ok:
		return api.Caller{Who: "somebody", From: n.id.Node}
	case uid == 0:
		return api.Caller{Trusted: true, Who: "root", From: n.id.Node}
	case trustedUser(uid):
		return api.Caller{Trusted: true, Who: fmt.Sprintf("the daemon's user %d", uid), From: n.id.Node}
	}
	u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10))
	if err != nil || u.Username == "root" {
		return api.Caller{Who: fmt.Sprintf("system user %d", uid), From: n.id.Node}
	}
	return api.Caller{User: u.Username, Who: "user " + u.Username, From: n.id.Node}
}

func peerUser(c *net.UnixConn) (uint32, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var cerr error
	err = raw.Control(func(fd uintptr) { cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(err, cerr); err != nil {
		return 0, err
	}
	return cred.Uid, nil
}
