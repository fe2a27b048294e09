package arbiterd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/holdfast-ha/holdfast/internal/arbiter/arbiterpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/witness/witnesspb"
)

// Options of a server.
type Options struct {
	// Dir that Make or Restore has made.
	Dir string
	// Listen instead of where the store says. Tests listen on port 0.
	Listen string
	// Metrics are served on this loopback address. Empty: not at all.
	Metrics string
	Version string
	Log     *slog.Logger
	// ConnectionsMax, 0: 4096. When they are used up, the one that was idle longest
	// goes; if all were just used, new ones are refused.
	ConnectionsMax int
	// FrameLimit for reading a frame that has begun, and for writing answers. 0: 10 s.
	FrameLimit time.Duration
}

// Server of one arbiter.
type Server struct {
	o         Options
	log       *slog.Logger
	store     *store
	committer *committer
	table     *table
	metrics   *metrics
	tls       *tls.Config
	started   time.Time

	listener net.Listener
	packets  *net.UDPConn
	control  *net.UnixListener
	web      net.Listener

	ctx  context.Context
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu       sync.Mutex
	conns    map[*conn]struct{}
	greeting int
	greetIP  map[netip.Addr]int
	number   uint64

	lastLogged, unlogged atomic.Int64
}

const (
	defaultConnectionsMax = 4096
	defaultFrameLimit     = 10 * time.Second
	handshakeLimit        = 10 * time.Second
	// Handshakes at a time, of all and of one address.
	greetingMax   = 1024
	greetingMaxIP = 512
	// evictIdle: a connection that was used within this time keeps its place.
	evictIdle = time.Second
	// strangerLogEvery is how often a refused connection gets a line.
	strangerLogEvery = time.Second
)

// Open the store and the listeners. Nothing is answered before Serve.
func Open(o Options) (_ *Server, err error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.ConnectionsMax == 0 {
		o.ConnectionsMax = defaultConnectionsMax
	}
	if o.FrameLimit == 0 {
		o.FrameLimit = defaultFrameLimit
	}
	if err := makeDir(o.Dir); err != nil {
		return nil, err
	}
	s := &Server{o: o, log: o.Log, started: time.Now(), conns: map[*conn]struct{}{}, greetIP: map[netip.Addr]int{}, metrics: newMetrics()}
	s.ctx, s.stop = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			s.closeListeners()
			if s.store != nil {
				_ = s.store.close()
			}
		}
	}()
	if s.store, err = openStore(filepath.Join(o.Dir, FileStore), false); err != nil {
		return nil, err
	}
	debug.FreeOSMemory() // the check of a large file needed some
	if s.tls, err = serverTLS(s.store.self); err != nil {
		return nil, s.store.explain(err)
	}
	// Whoever serves must be able to write; and the number says how often.
	if err = s.store.update(func(t *tables) error {
		s.store.self.Runs++
		return t.putSelf(s.store.self)
	}); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrWrite, s.store.path, err)
	}
	s.committer = newCommitter(s.store, s.metrics.committed)
	if s.table, err = newTable(s.store, s.committer, s.log, s.metrics, bootTime); err != nil {
		return nil, s.store.explain(err)
	}
	if err = s.listen(); err != nil {
		return nil, err
	}
	s.metrics.follow(s)
	return s, nil
}

func (s *Server) listen() (err error) {
	address := s.o.Listen
	if address == "" {
		address = s.store.self.GetListen()
	}
	if s.listener, err = net.Listen("tcp", address); err != nil {
		return fmt.Errorf("arbiter: %w; is another arbiter running on %s?", err, address)
	}
	if s.packets, err = listenPackets(s.listener.Addr().(*net.TCPAddr)); err != nil {
		return fmt.Errorf("arbiter: %w", err)
	}
	if s.control, err = listenControl(filepath.Join(s.o.Dir, FileSocket)); err != nil {
		return fmt.Errorf("arbiter: %w", err)
	}
	if s.o.Metrics == "" {
		return nil
	}
	host, _, err := net.SplitHostPort(s.o.Metrics)
	if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsLoopback() {
		return fmt.Errorf("metrics on %q: a loopback address is expected (127.0.0.1:PORT), since whoever reaches it is answered", s.o.Metrics)
	}
	if s.web, err = net.Listen("tcp", s.o.Metrics); err != nil {
		return fmt.Errorf("arbiter: metrics: %w", err)
	}
	return nil
}

// Addr on which nodes are answered.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// MetricsAddr, nil: there are none.
func (s *Server) MetricsAddr() net.Addr {
	if s.web == nil {
		return nil
	}
	return s.web.Addr()
}

// Serve until ctx ends or the store fails.
func (s *Server) Serve(ctx context.Context) error {
	stopCommitter := make(chan struct{})
	failed := make(chan error, 1)
	go func() { failed <- s.committer.run(stopCommitter) }()
	s.wg.Go(func() { s.accept() })
	s.wg.Go(func() { s.answerLooks() })
	s.wg.Go(func() { s.serveControl() })
	if s.web != nil {
		mux := http.NewServeMux()
		mux.Handle("GET /metrics", promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{}))
		web := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
		s.wg.Go(func() { _ = web.Serve(s.web) })
		defer web.Close()
	}
	served, forgotten := s.table.count()
	s.log.Info("arbiter: serving", "address", s.Addr().String(), "instance", s.store.self.GetInstance(), "clusters", served, "forgotten", forgotten, "run", s.store.self.GetRuns())
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	s.stop()
	s.closeListeners()
	for _, k := range s.connections() {
		k.close()
	}
	if err == nil {
		// What was decided is written, though nobody hears of it any more.
		close(stopCommitter)
		err = <-failed
	}
	s.wg.Wait()
	if err != nil {
		return err // the store is left as a crash would leave it
	}
	return s.store.close()
}

func (s *Server) closeListeners() {
	if s.listener != nil {
		_ = s.listener.Close()
	}
	if s.packets != nil {
		_ = s.packets.Close()
	}
	if s.control != nil {
		_ = s.control.Close()
	}
	if s.web != nil {
		_ = s.web.Close()
	}
}

func (s *Server) connections() []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*conn
	for k := range s.conns {
		all = append(all, k)
	}
	return all
}

func (s *Server) open() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

func (s *Server) accept() {
	for {
		c, err := s.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// Out of files, most likely: idle connections make room.
			s.log.Warn("arbiter: can't accept connections", "error", err)
			s.evict(0)
			select {
			case <-time.After(100 * time.Millisecond):
			case <-s.ctx.Done():
				return
			}
			continue
		}
		from, _ := netip.ParseAddrPort(c.RemoteAddr().String())
		// Refused before the handshake, which is what connections cost most.
		if s.open() >= s.o.ConnectionsMax && !s.evict(evictIdle) {
			_ = c.Close()
			s.refused(from.String(), "busy", errors.New("all connections are in use"))
			continue
		}
		release, ok := s.admitGreeting(from.Addr().Unmap())
		if !ok {
			_ = c.Close()
			s.refused(from.String(), "busy", errors.New("too many handshakes are under way"))
			continue
		}
		s.wg.Go(func() {
			k := s.greet(c)
			release()
			if k != nil {
				k.serve()
			}
		})
	}
}

func (s *Server) admitGreeting(from netip.Addr) (release func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.greeting >= greetingMax || s.greetIP[from] >= greetingMaxIP {
		return nil, false
	}
	s.greeting++
	s.greetIP[from]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.greeting--
		if s.greetIP[from]--; s.greetIP[from] == 0 {
			delete(s.greetIP, from)
		}
	}, true
}

// enter a connection among the open ones.
func (s *Server) enter(k *conn) {
	s.mu.Lock()
	s.number++
	k.number = s.number
	s.conns[k] = struct{}{}
	s.mu.Unlock()
	if s.ctx.Err() != nil {
		k.close()
	}
}

func (s *Server) leave(k *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, k)
}

// evict the connection that was idle longest, if that is at least so long.
func (s *Server) evict(least time.Duration) bool {
	var idlest *conn
	for _, k := range s.connections() {
		if idlest == nil || k.active.Load() < idlest.active.Load() {
			idlest = k
		}
	}
	if idlest == nil || time.Now().UnixNano()-idlest.active.Load() < int64(least) {
		return false
	}
	s.leave(idlest)
	idlest.close()
	return true
}

// refused counts and logs; strangers can't fill the log.
func (s *Server) refused(who, result string, err error) {
	s.metrics.connections.WithLabelValues(result).Inc()
	now, last := time.Now().UnixNano(), s.lastLogged.Load()
	if s.ctx.Err() != nil {
		return
	}
	if now-last < int64(strangerLogEvery) || !s.lastLogged.CompareAndSwap(last, now) {
		s.unlogged.Add(1)
		return
	}
	s.log.Warn("arbiter: connection refused", "from", who, "error", err, "not_logged_before", s.unlogged.Swap(0))
}

func (t *table) count() (served, forgotten int) {
	for _, c := range t.all() {
		c.mu.Lock()
		if c.forgotten {
			forgotten++
		} else {
			served++
		}
		c.mu.Unlock()
	}
	return served, forgotten
}

func (s *Server) status() (*arbiterpb.ArbiterStatus, error) {
	self := s.store.self
	fp, err := fingerprint(self)
	if err != nil {
		return nil, err
	}
	st := &arbiterpb.ArbiterStatus{
		Instance: self.GetInstance(), KeyFingerprint: fp, Listen: s.Addr().String(), Address: self.GetAddress(),
		Started: s.started.UnixMilli(), Connections: uint64(s.open()), Size: uint64(s.store.size()), Runs: self.GetRuns(), Version: s.o.Version,
		Requests: s.metrics.total.Load(), LookEvery: uint32(s.table.lookEvery()),
	}
	err = s.store.view(func(t *tables) error {
		err := t.each(func(_ uuid, r *arbiterpb.Registration, k *witnesspb.Kept, _ int) error {
			switch {
			case r.GetForgotten() != 0:
				st.Forgotten++
			default:
				st.Clusters++
				// What has never been asked abstains as well, until its first register.
				if k.GetAbstains() && k.GetSequence() > 1 {
					st.Abstaining++
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		return t.eachToken(func(_ []byte, m *arbiterpb.Token) error {
			if m.GetUsed() == 0 && time.Now().UnixMilli() <= m.GetExpires() {
				st.Tokens++
			}
			return nil
		})
	})
	return st, err
}
