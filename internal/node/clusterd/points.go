//go:build linux

package clusterd

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/holdfast-ha/holdfast/internal/cluster/witness/witnesspb"
	"github.com/holdfast-ha/holdfast/internal/node/engine"
	"github.com/holdfast-ha/holdfast/internal/node/points"
)

// pointsInUse are connected to as the engine says. Nothing waits for them but the
// goroutine that asks.
type pointsInUse struct {
	open map[string]points.Point
	// How long the last answer of each took.
	took map[string]time.Duration
	// Ends what is under way at points that are no longer wanted.
	cancel context.CancelFunc
	ctx    context.Context
}

// maxAsking bounds the requests under way at one time, so that a point which
// hangs does not gather goroutines for ever.
const maxAsking = 64

// usePoints connects to other coordination points than before.
func (n *node) usePoints(p *engine.Points) {
	n.closePoints()
	ctx, cancel := context.WithCancel(context.Background())
	n.points = pointsInUse{open: map[string]points.Point{}, took: map[string]time.Duration{}, ctx: ctx, cancel: cancel}
	for _, cp := range p.Points {
		one, err := points.Open(cp, n.id, p.Number, p.RaftID)
		if err != nil {
			n.log.Error("a coordination point can't be used", "point", cp.GetName(), "error", err)
			one = brokenPoint{err}
		}
		n.points.open[cp.GetName()] = one
	}
}

func (n *node) closePoints() {
	if n.points.cancel != nil {
		n.points.cancel()
	}
	for name, p := range n.points.open {
		n.background(func() { // a disk that hangs must not hold the loop
			if err := p.Close(); err != nil {
				n.log.Warn("a coordination point was not closed cleanly", "point", name, "error", err)
			}
		})
	}
	n.points = pointsInUse{}
}

// askPoint carries a request out and feeds the engine with what comes of it.
func (n *node) askPoint(r engine.ToPoint) {
	p := n.points.open[r.Point]
	answer := engine.FromPoint{Point: r.Point, Call: r.Call}
	switch {
	case p == nil:
		answer.Err = "it is not connected"
	case n.asking >= maxAsking:
		answer.Err = fmt.Sprintf("%d requests to coordination points are unanswered", n.asking)
	default:
		n.asking++
		ctx := n.points.ctx
		n.background(func() {
			ctx, cancel := context.WithTimeout(ctx, r.Timeout)
			defer cancel()
			began := time.Now()
			reply, err := p.Do(ctx, r.Request)
			took := time.Since(began)
			answer.Reply = reply
			if err != nil {
				answer.Reply, answer.Err = nil, err.Error()
			}
			n.post(func() {
				n.asking--
				if answer.Reply != nil && n.points.took != nil {
					n.points.took[r.Point] = took
				}
				n.step(answer)
			})
		})
		return
	}
	n.local = append(n.local, answer)
}

// brokenPoint could not be opened.
type brokenPoint struct{ err error }

func (b brokenPoint) Do(context.Context, *witnesspb.Request) (*witnesspb.Reply, error) {
	return nil, b.err
}
func (brokenPoint) Close() error { return nil }

// newProposer is a number that no run of an engine has had.
func newProposer() uint64 {
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		panic(err) // crypto/rand never fails on Linux
	}
	return binary.BigEndian.Uint64(b[:]) | 1
}
