package arbiterd

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-ha/holdfast/internal/arbiter"
	"github.com/holdfast-ha/holdfast/internal/arbiter/arbiterpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/witness/witnesspb"
	"github.com/holdfast-ha/holdfast/internal/wire"
)

const (
	controlMax     = 64 << 10
	controlLimit   = 30 * time.Second
	controlAnswer  = 64 << 20 // ten thousands of clusters
	backupPart     = 256 << 10
	controlsAtOnce = 16
)

// listenControl makes the private socket. The store's lock is held: whoever
// left a socket here does not run any more.
func listenControl(path string) (*net.UnixListener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	// Until now the directory's mode has kept others out.
	if err := os.Chmod(path, 0o600); err != nil {
		_ = l.Close()
		return nil, err
	}
	return l, nil
}

func (s *Server) serveControl() {
	slots := make(chan struct{}, controlsAtOnce)
	for {
		c, err := s.control.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			if !pause(s.ctx, 100*time.Millisecond) {
				return
			}
			continue
		}
		slots <- struct{}{}
		s.wg.Go(func() {
			defer func() { <-slots }()
			defer c.Close()
			stop := context.AfterFunc(s.ctx, func() { _ = c.Close() })
			defer stop()
			_ = c.SetDeadline(time.Now().Add(controlLimit))
			if err := s.command(c); err != nil {
				s.log.Warn("arbiter: command", "error", err)
			}
		})
	}
}

// allowed: root, and whoever the arbiter runs as.
func allowed(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	cerr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(err, cerr); err != nil {
		return err
	}
	if cred.Uid != 0 && int(cred.Uid) != os.Geteuid() {
		return fmt.Errorf("user %d is neither root nor the user of the arbiter", cred.Uid)
	}
	return nil
}

func (s *Server) command(c *net.UnixConn) error {
	stranger := allowed(c)
	m := new(arbiterpb.ToControl)
	if err := wire.ReadFrame(bufio.NewReader(c), m, controlMax); err != nil {
		return errors.Join(stranger, err)
	}
	if stranger != nil {
		_ = wire.WriteFrame(c, failure(stranger))
		return stranger
	}
	if m.GetBackup() != nil {
		return s.backup(c)
	}
	answer, err := s.reply(m)
	if err != nil {
		answer = failure(err)
	}
	return wire.WriteFrame(c, answer)
}

func failure(err error) *arbiterpb.FromControl {
	return &arbiterpb.FromControl{UnknownCluster: errors.Is(err, ErrUnknownCluster), Body: &arbiterpb.FromControl_Error{Error: err.Error()}}
}

func (s *Server) reply(m *arbiterpb.ToControl) (*arbiterpb.FromControl, error) {
	switch b := m.GetBody().(type) {
	case *arbiterpb.ToControl_MakeToken:
		t, err := s.table.makeToken(b.MakeToken.GetName(), b.MakeToken.GetAddress(), time.Duration(b.MakeToken.GetValidSeconds())*time.Second)
		if err != nil {
			return nil, err
		}
		return &arbiterpb.FromControl{Body: &arbiterpb.FromControl_TokenMade{TokenMade: &arbiterpb.TokenMade{Token: t.String(), Expires: t.Expires.UnixMilli()}}}, nil
	case *arbiterpb.ToControl_List:
		l, err := s.list(b.List.GetClusters())
		return &arbiterpb.FromControl{Body: &arbiterpb.FromControl_Clusters{Clusters: l}}, err
	case *arbiterpb.ToControl_Forget:
		f, err := s.table.forget(b.Forget.GetCluster())
		return &arbiterpb.FromControl{Body: &arbiterpb.FromControl_Forgotten{Forgotten: f}}, err
	case *arbiterpb.ToControl_Status:
		st, err := s.status()
		return &arbiterpb.FromControl{Body: &arbiterpb.FromControl_Status{Status: st}}, err
	}
	return nil, fmt.Errorf("a command %T, which this arbiter does not know: use the holdfast of the release that it runs", m.GetBody())
}

// list clusters: as the store has them, and what is known in memory besides.
func (s *Server) list(names []string) (*arbiterpb.Clusters, error) {
	want := map[uuid]bool{}
	for _, n := range names {
		c, err := s.table.find(n)
		if err != nil {
			return nil, err
		}
		want[c.id] = true
	}
	all := &arbiterpb.Clusters{}
	err := s.store.view(func(t *tables) error {
		return t.each(func(id uuid, r *arbiterpb.Registration, k *witnesspb.Kept, size int) error {
			if len(names) > 0 && !want[id] {
				return nil
			}
			all.Clusters = append(all.Clusters, &arbiterpb.Cluster{
				Uuid: id.String(), Name: r.GetName(), Registered: r.GetRegistered(), RegisteredBy: r.GetBy(), Forgotten: r.GetForgotten(),
				Authorities: fingerprints(r.GetAuthorities()), Kept: k, Size: uint64(size),
			})
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	for _, c := range all.GetClusters() {
		s.table.remember(c)
	}
	slices.SortStableFunc(all.Clusters, func(a, b *arbiterpb.Cluster) int { return cmp.Compare(a.GetName(), b.GetName()) })
	return all, nil
}

// remember what is known of a cluster in memory.
func (t *table) remember(m *arbiterpb.Cluster) {
	id, err := arbiter.ParseUUID(m.GetUuid())
	c := t.cluster(id)
	if err != nil || c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	m.Connections = uint32(len(c.conns))
	if !c.asked.IsZero() {
		m.LastAsked = c.asked.UnixMilli()
	}
	if c.point != nil {
		m.Seen = c.point.Seen(t.now(), c.kept)
	}
}

// backup is sent in parts; an empty one is the last.
func (s *Server) backup(c net.Conn) error {
	w := bufio.NewWriterSize(writerFunc(func(p []byte) (int, error) {
		_ = c.SetDeadline(time.Now().Add(controlLimit))
		return len(p), wire.WriteFrame(c, &arbiterpb.FromControl{Body: &arbiterpb.FromControl_Backup{Backup: p}})
	}), backupPart)
	if err := errors.Join(s.store.copyTo(w), w.Flush()); err != nil {
		_ = wire.WriteFrame(c, failure(err))
		return err
	}
	s.log.Info("arbiter: backup made")
	return wire.WriteFrame(c, &arbiterpb.FromControl{Body: &arbiterpb.FromControl_Backup{}})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

var (
	// ErrNotRunning: nobody serves the directory.
	ErrNotRunning = errors.New("the arbiter is not running")
	// ErrUnknownCluster: no such cluster is registered.
	ErrUnknownCluster = errors.New("unknown cluster")
)

// Control sends one command to the arbiter that runs from dir. Each answer goes
// to take, which says whether it was the last.
func Control(ctx context.Context, dir string, m *arbiterpb.ToControl, take func(*arbiterpb.FromControl) (last bool, err error)) error {
	path := filepath.Join(dir, FileSocket)
	c, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err != nil {
		if errors.Is(err, os.ErrPermission) {
			return fmt.Errorf("%s: %w: run this command as root or as the arbiter's user", path, err)
		}
		return fmt.Errorf("%w (%w): start it with holdfast arbiter serve --dir %s", ErrNotRunning, err, dir)
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	if err := wire.WriteFrame(c, m); err != nil {
		return err
	}
	r := bufio.NewReaderSize(c, 64<<10)
	for {
		a := new(arbiterpb.FromControl)
		if err := wire.ReadFrame(r, a, controlAnswer); err != nil {
			if ctx.Err() != nil {
				err = ctx.Err()
			} else if errors.Is(err, io.EOF) {
				err = errors.New("it ended while it was asked: see its log")
			}
			return fmt.Errorf("the arbiter: %w", err)
		}
		if e, ok := a.GetBody().(*arbiterpb.FromControl_Error); ok {
			if a.GetUnknownCluster() {
				return &told{e.Error, ErrUnknownCluster}
			}
			return errors.New(e.Error)
		}
		if last, err := take(a); last || err != nil {
			return err
		}
	}
}

// told is an error in the arbiter's words.
type told struct {
	text  string
	class error
}

func (t *told) Error() string { return t.text }
func (t *told) Unwrap() error { return t.class }

// Ask is Control for a command with one answer.
func Ask(ctx context.Context, dir string, m *arbiterpb.ToControl) (answer *arbiterpb.FromControl, err error) {
	err = Control(ctx, dir, m, func(a *arbiterpb.FromControl) (bool, error) {
		answer = proto.CloneOf(a)
		return true, nil
	})
	return answer, err
}

// Backup of a running arbiter, or of one that does not run, to a new file.
func Backup(ctx context.Context, dir, file string) error {
	began := false
	err := WriteBackup(file, func(w io.Writer) error {
		return Control(ctx, dir, &arbiterpb.ToControl{Body: &arbiterpb.ToControl_Backup{Backup: &arbiterpb.Backup{}}}, func(a *arbiterpb.FromControl) (bool, error) {
			began = true
			_, err := w.Write(a.GetBackup())
			return len(a.GetBackup()) == 0, err
		})
	})
	if errors.Is(err, ErrNotRunning) && !began {
		return BackupOffline(dir, file)
	}
	return err
}
