package arbiterd

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-ha/holdfast/internal/arbiter"
	"github.com/holdfast-ha/holdfast/internal/arbiter/arbiterbench/testcluster"
)

// BenchmarkElections: Prepare and Accept of one cluster each, over real
// connections to an arbiter in this process. `holdfast arbiter bench` measures
// one in a process of its own.
func BenchmarkElections(b *testing.B) {
	for _, clusters := range []int{1, 16, 128} {
		b.Run(fmt.Sprintf("clusters=%d", clusters), func(b *testing.B) {
			dir := b.TempDir() + "/a"
			if _, err := Make(Init{Dir: dir, Listen: "127.0.0.1:0", Address: "127.0.0.1:1"}); err != nil {
				b.Fatal(err)
			}
			s, err := Open(Options{Dir: dir})
			if err != nil {
				b.Fatal(err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error, 1)
			go func() { done <- s.Serve(ctx) }()
			defer func() {
				cancel()
				if err := <-done; err != nil {
					b.Error(err)
				}
			}()
			type one struct {
				*testcluster.Cluster
				*arbiter.Client
				ballot uint64
			}
			free := make(chan *one, clusters)
			for i := range clusters {
				c, err := testcluster.New(fmt.Sprint(i))
				if err != nil {
					b.Fatal(err)
				}
				id, err := c.Node("n1", time.Hour)
				if err != nil {
					b.Fatal(err)
				}
				t, err := s.table.makeToken("", s.Addr().String(), time.Hour)
				if err != nil {
					b.Fatal(err)
				}
				p, err := arbiter.Register(ctx, arbiter.Registration{Token: t.String(), ClusterUUID: c.UUID, ClusterName: c.Name, Authorities: c.Authority(), Identity: id})
				if err != nil {
					b.Fatal(err)
				}
				k := arbiter.Dial(p, id)
				defer k.Close()
				if err := k.Warm(ctx); err != nil {
					b.Fatal(err)
				}
				free <- &one{c, k, 0}
			}
			var failed atomic.Int64
			b.SetParallelism(clusters)
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					o := <-free
					o.ballot++
					p, err := o.Do(ctx, o.Prepare("n1", o.ballot))
					if err == nil && p.GetPromised() != nil {
						p, err = o.Do(ctx, o.Accept("n1", o.ballot, o.ballot, 1))
					}
					if err != nil || p.GetAccepted() == nil {
						failed.Add(1)
					}
					free <- o
				}
			})
			if failed.Load() > 0 {
				b.Error(failed.Load(), "elections failed")
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "elections/s")
		})
	}
}
