// Package arbiterbench measures an arbiter as a process: what many idle clusters
// cost, and how many elections it decides. `holdfast arbiter bench` runs it.
package arbiterbench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	v1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
	"github.com/holdfast-ha/holdfast/internal/arbiter"
	"github.com/holdfast-ha/holdfast/internal/arbiter/arbiterbench/testcluster"
	"github.com/holdfast-ha/holdfast/internal/arbiter/arbiterd"
	"github.com/holdfast-ha/holdfast/internal/arbiter/arbiterpb"
)

// Options of a run.
type Options struct {
	// Serve is the command line that serves an arbiter from a directory.
	Serve func(dir string) []string
	// Dir for the arbiter's store; empty: a temporary one.
	Dir      string
	Clusters int
	// Idle is how long idle clusters are watched, 0: not at all.
	Idle time.Duration
	// Elections: how long each kind runs, 0: not at all.
	Elections time.Duration
	// Rate of elections per second.
	Rate int
}

const (
	nodes     = 2
	lookEvery = 10 * time.Second
	// at once, where something is done for every cluster.
	parallel = 64
)

var statusPlease = &arbiterpb.ToControl{Body: &arbiterpb.ToControl_Status{Status: &arbiterpb.Status{}}}

type bench struct {
	o   Options
	out io.Writer
	dir string
	pid int

	point    *v1.ArbiterPoint
	clusters []*testcluster.Cluster
	clients  [nodes][]*arbiter.Client
	ballot   []uint64
}

// Run everything and print what was measured.
func Run(ctx context.Context, o Options, out io.Writer) error {
	dir, err := os.MkdirTemp(o.Dir, "holdfast-arbiter-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b := &bench{o: o, out: out, dir: filepath.Join(dir, "arbiter")}
	stop, err := b.serve(ctx)
	if err != nil {
		return err
	}
	defer stop()
	if err := b.register(ctx); err != nil {
		return err
	}
	b.usage("registered")
	if o.Idle > 0 {
		for _, always := range []bool{false, true} {
			if err := b.idle(ctx, always); err != nil {
				return err
			}
		}
	}
	if o.Elections > 0 {
		return b.elections(ctx)
	}
	return nil
}

// serve an arbiter in a process of its own.
func (b *bench) serve(ctx context.Context) (stop func(), err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	address := l.Addr().String()
	_ = l.Close()
	if _, err := arbiterd.Make(arbiterd.Init{Dir: b.dir, Listen: address}); err != nil {
		return nil, err
	}
	args := b.o.Serve(b.dir)
	cmd := exec.Command(args[0], args[1:]...)
	log, err := os.Create(filepath.Join(b.dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	b.pid = cmd.Process.Pid
	stop = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	for {
		_, err := arbiterd.Ask(ctx, b.dir, statusPlease)
		if err == nil {
			return stop, nil
		}
		if !pause(ctx, 20*time.Millisecond) || !errors.Is(err, arbiterd.ErrNotRunning) {
			stop()
			return nil, err
		}
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// each of n things, several at once.
func each(n int, fn func(i int) error) error {
	var next atomic.Int64
	var wg sync.WaitGroup
	errs := make([]error, parallel)
	for w := range parallel {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if errs[w] = fn(i); errs[w] != nil {
					next.Store(int64(n))
					return
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// register all clusters as administrators do, and let each node look once over
// a connection, as a node does that was just started.
func (b *bench) register(ctx context.Context) error {
	b.clusters = make([]*testcluster.Cluster, b.o.Clusters)
	b.ballot = make([]uint64, b.o.Clusters)
	for n := range b.clients {
		b.clients[n] = make([]*arbiter.Client, b.o.Clusters)
	}
	began := time.Now()
	err := each(b.o.Clusters, func(i int) error {
		c, err := testcluster.New(fmt.Sprintf("cluster-%d", i))
		if err != nil {
			return err
		}
		b.clusters[i] = c
		for n := range nodes {
			id, err := c.Node(node(n), time.Hour)
			if err != nil {
				return err
			}
			if n == 0 {
				a, err := arbiterd.Ask(ctx, b.dir, &arbiterpb.ToControl{Body: &arbiterpb.ToControl_MakeToken{MakeToken: &arbiterpb.MakeToken{Name: c.Name, ValidSeconds: 3600}}})
				if err != nil {
					return err
				}
				point, err := arbiter.Register(ctx, arbiter.Registration{Token: a.GetTokenMade().GetToken(), ClusterUUID: c.UUID, ClusterName: c.Name, Authorities: c.Authority(), Identity: id, Register: 1})
				if err != nil {
					return err
				}
				if i == 0 {
					b.point = point
				}
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(b.out, "%d clusters registered in %.0f s\n", b.o.Clusters, time.Since(began).Seconds())
	began = time.Now()
	err = each(b.o.Clusters*nodes, func(j int) error {
		i, n := j/nodes, j%nodes
		id, err := b.clusters[i].Node(node(n), time.Hour)
		if err != nil {
			return err
		}
		c := arbiter.Dial(b.point, id)
		b.clients[n][i] = c
		_, err = c.Do(ctx, b.clusters[i].Look(node(n)))
		c.Rest()
		return err
	})
	fmt.Fprintf(b.out, "%d nodes connected once in %.0f s\n", b.o.Clusters*nodes, time.Since(began).Seconds())
	return err
}

func node(n int) string { return fmt.Sprintf("n%d", n+1) }

// idle clusters: every node wants to look every 10 s. always: and does.
func (b *bench) idle(ctx context.Context, always bool) error {
	total := b.o.Clusters * nodes
	every := lookEvery / time.Duration(total)
	run := func(d time.Duration) (looks, failed int64, err error) {
		var wg sync.WaitGroup
		var bad atomic.Int64
		began := time.Now()
		for j := 0; time.Since(began) < d; {
			// As many as are due.
			for due := int(time.Since(began) / every); j < due; j++ {
				i, n := j/nodes%b.o.Clusters, j%nodes
				wg.Go(func() {
					look := b.clients[n][i].Do
					if always {
						look = b.clients[n][i].Ask
					}
					if _, err := look(ctx, b.clusters[i].Look(node(n))); err != nil {
						bad.Add(1)
					}
				})
				looks++
			}
			if !pause(ctx, 2*time.Millisecond) {
				return looks, bad.Load(), ctx.Err()
			}
		}
		wg.Wait()
		return looks, bad.Load(), nil
	}
	if _, _, err := run(lookEvery); err != nil { // once round before measuring
		return err
	}
	cpu, before, began := b.cpu(), b.answered(), time.Now()
	looks, failed, err := run(b.o.Idle)
	if err != nil {
		return err
	}
	took := time.Since(began)
	used, answered := b.cpu()-cpu, b.answered()-before
	how := "as often as the arbiter asks for"
	if always {
		how = "every 10 s, whatever the arbiter asks for"
	}
	fmt.Fprintf(b.out, "idle, %d nodes look %s: %d looks in %.0f s (%d failed), %d answered by the arbiter: %.2f %% of a core, %.1f µs per answer\n",
		b.o.Clusters*nodes, how, looks, took.Seconds(), failed, answered, 100*used.Seconds()/took.Seconds(), float64(used.Microseconds())/float64(max(answered, 1)))
	b.usage("idle")
	return nil
}

// elections: Prepare and Accept, each durable, by one node of a cluster.
func (b *bench) elections(ctx context.Context) error {
	for _, kind := range []struct {
		name  string
		rate  int
		fresh bool
	}{
		{"connections open, as fast as possible", 0, false},
		{fmt.Sprintf("connections open, %d per second", b.o.Rate), b.o.Rate, false},
		{fmt.Sprintf("a new connection for each, %d per second", b.o.Rate), b.o.Rate, true},
		{"a new connection for each, as fast as possible", 0, true},
	} {
		if err := b.elect(ctx, kind.name, kind.rate, kind.fresh); err != nil {
			return err
		}
	}
	b.usage("after elections")
	return nil
}

func (b *bench) elect(ctx context.Context, name string, rate int, fresh bool) error {
	clusters := min(b.o.Clusters, 1000)
	if !fresh {
		if err := each(clusters, func(i int) error { return b.clients[0][i].Warm(ctx) }); err != nil {
			return err
		}
	}
	var mu sync.Mutex
	var took []time.Duration
	var failed int
	var failure error
	cpu, began := b.cpu(), time.Now()
	one := func(i int) {
		start := time.Now()
		c, k := b.clusters[i], b.clients[0][i]
		b.ballot[i]++
		n := b.ballot[i]
		p, err := k.Do(ctx, c.Prepare(node(0), n))
		if err == nil && p.GetPromised() == nil {
			err = fmt.Errorf("prepare: %v", p)
		}
		if err == nil {
			r, err2 := k.Do(ctx, c.Accept(node(0), n, n, 1))
			if err = err2; err == nil && r.GetAccepted() == nil {
				err = fmt.Errorf("accept: %v", r)
			}
		}
		if fresh {
			k.Rest()
		}
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			failed, failure = failed+1, err
			return
		}
		took = append(took, time.Since(start))
	}
	var wg sync.WaitGroup
	free := make(chan int, clusters) // clusters without an election
	for i := range clusters {
		free <- i
	}
	slots := make(chan struct{}, parallel)
	for j := 0; time.Since(began) < b.o.Elections && ctx.Err() == nil; j++ {
		if rate > 0 {
			pause(ctx, time.Until(began.Add(time.Duration(j)*time.Second/time.Duration(rate))))
		} else {
			slots <- struct{}{}
		}
		i := <-free
		wg.Go(func() {
			one(i)
			free <- i
			if rate == 0 {
				<-slots
			}
		})
	}
	wg.Wait()
	whole, used := time.Since(began), b.cpu()-cpu
	if len(took) == 0 {
		return failure
	}
	if failed > 0 {
		fmt.Fprintf(b.out, "%d elections failed, the last one: %v\n", failed, failure)
	}
	slices.Sort(took)
	at := func(p float64) float64 { return took[int(p*float64(len(took)-1))].Seconds() * 1e3 }
	fmt.Fprintf(b.out, "elections, %s: %.0f per second, p50 %.1f ms, p95 %.1f ms, p99 %.1f ms; arbiter %.0f %% of a core\n",
		name, float64(len(took))/whole.Seconds(), at(0.5), at(0.95), at(0.99), 100*used.Seconds()/whole.Seconds())
	for i := range clusters {
		b.clients[0][i].Rest()
	}
	return nil
}

// answered requests of the arbiter.
func (b *bench) answered() uint64 {
	a, _ := arbiterd.Ask(context.Background(), b.dir, statusPlease)
	return a.GetStatus().GetRequests()
}

// cpu that the arbiter's process has used.
func (b *bench) cpu() time.Duration {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", b.pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
	user, _ := strconv.ParseInt(f[11], 10, 64)
	system, _ := strconv.ParseInt(f[12], 10, 64)
	return time.Duration(user+system) * 10 * time.Millisecond // 100 ticks per second on every Linux
}

// load of the machine: what else ran.
func load() string {
	raw, _ := os.ReadFile("/proc/loadavg")
	first, _, _ := strings.Cut(string(raw), " ")
	return first
}

func (b *bench) usage(when string) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.pid))
	if err != nil {
		return
	}
	var parts []string
	for line := range strings.Lines(string(raw)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch name {
		case "VmHWM", "VmRSS", "RssAnon":
			kb, _ := strconv.Atoi(strings.Fields(value)[0])
			parts = append(parts, fmt.Sprintf("%s %d MiB", name, kb>>10))
		}
	}
	store := int64(0)
	if info, err := os.Stat(filepath.Join(b.dir, arbiterd.FileStore)); err == nil {
		store = info.Size()
	}
	fmt.Fprintf(b.out, "%s: %s, store %d MiB; %d processors, load %s\n", when, strings.Join(parts, ", "), store>>20, runtime.NumCPU(), load())
}
