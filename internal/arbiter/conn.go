package arbiter

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/holdfast-ha/holdfast/internal/arbiter/arbiterpb"
	"github.com/holdfast-ha/holdfast/internal/wire"
)

// writeLimit after which a connection that takes nothing is given up.
const writeLimit = 5 * time.Second

// conn is a connection that has said hello.
type conn struct {
	client *Client
	tls    *tls.Conn
	idle   *time.Timer

	writing sync.Mutex

	mu       sync.Mutex
	next     uint64
	waiting  map[uint64]chan *arbiterpb.FromArbiter
	received uint64 // frames
	used     time.Time
	err      error // why it has ended
	ended    chan struct{}
	welcome  chan struct{} // closed by the welcome
}

func newConn(c *Client, tc *tls.Conn) *conn {
	k := &conn{client: c, tls: tc, waiting: map[uint64]chan *arbiterpb.FromArbiter{}, ended: make(chan struct{}), welcome: make(chan struct{}), used: time.Now()}
	k.idle = time.AfterFunc(idleLimit, k.checkIdle)
	return k
}

// use keeps the connection for a while.
func (k *conn) use() {
	k.mu.Lock()
	k.used = time.Now()
	k.mu.Unlock()
}

// rest closes the connection if nobody waits for an answer.
func (k *conn) rest() {
	k.mu.Lock()
	busy := len(k.waiting) > 0
	k.mu.Unlock()
	if !busy {
		k.fail(errIdle)
	}
}

// checkIdle closes a connection that nobody has used (C3).
func (k *conn) checkIdle() {
	k.mu.Lock()
	left := idleLimit - time.Since(k.used)
	busy := len(k.waiting) > 0
	k.mu.Unlock()
	if left <= 0 && !busy {
		k.fail(errIdle)
		return
	}
	k.idle.Reset(max(left, time.Second))
}

var errIdle = fmt.Errorf("%w: the connection was not used and is closed", ErrUnreachable)

func (k *conn) failed() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.err
}

// fail ends the connection.
func (k *conn) fail(err error) {
	k.mu.Lock()
	first := k.err == nil
	if first {
		k.err = err
		close(k.ended)
	}
	k.mu.Unlock()
	if !first {
		return
	}
	k.idle.Stop()
	_ = k.tls.NetConn().Close() // tls.Conn.Close would wait for a write that hangs
	c := k.client
	c.mu.Lock()
	if c.conn == k {
		c.conn = nil
	}
	c.mu.Unlock()
}

func (k *conn) write(m *arbiterpb.ToArbiter) error {
	frame, err := wire.AppendFrame(nil, m)
	if err != nil {
		return err
	}
	if len(frame) > FrameMax {
		return fmt.Errorf("arbiter: a request of %d bytes; %d are possible", len(frame), FrameMax)
	}
	k.writing.Lock()
	defer k.writing.Unlock()
	_ = k.tls.SetWriteDeadline(time.Now().Add(writeLimit))
	if _, err := k.tls.Write(frame); err != nil {
		return k.client.unreachable(err)
	}
	return nil
}

// ask and wait for the answer.
func (k *conn) ask(ctx context.Context, m *arbiterpb.ToArbiter) (*arbiterpb.FromArbiter, error) {
	answer := make(chan *arbiterpb.FromArbiter, 1)
	k.mu.Lock()
	if k.err != nil {
		defer k.mu.Unlock()
		return nil, k.err
	}
	k.next++
	id, before := k.next, k.received
	k.waiting[id] = answer
	k.mu.Unlock()
	defer func() {
		k.mu.Lock()
		delete(k.waiting, id)
		k.mu.Unlock()
	}()
	if err := k.write(&arbiterpb.ToArbiter{Id: id, Body: m.GetBody()}); err != nil {
		if !errors.Is(err, ErrUnreachable) {
			return nil, err
		}
		// The arbiter may have said why before it closed.
		select {
		case <-k.ended:
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
		k.fail(err)
		return nil, k.failed()
	}
	select {
	case a := <-answer:
		if a.GetRefusal() != nil {
			// Whether it will be let in is judged when it connects.
			k.fail(k.client.expect(a, false))
		}
		return a, nil
	case <-k.ended:
		return nil, k.failed()
	case <-ctx.Done():
		k.mu.Lock()
		silent := k.received == before
		k.mu.Unlock()
		err := k.client.unreachable(fmt.Errorf("no answer: %w", ctx.Err()))
		if silent && errors.Is(ctx.Err(), context.DeadlineExceeded) {
			k.fail(err) // the other end may be gone without a word
		}
		return nil, err
	}
}

// read answers until the connection ends.
func (k *conn) read() {
	r := bufio.NewReaderSize(k.tls, 4<<10)
	welcome := false
	for {
		m := new(arbiterpb.FromArbiter)
		if err := wire.ReadFrame(r, m, FrameMax); err != nil {
			k.fail(k.client.unreachable(err))
			return
		}
		if !welcome {
			err := fmt.Errorf("arbiter %s: %w: %T before a welcome", k.client.point.GetAddress(), ErrProtocol, m.GetBody())
			if w := m.GetWelcome(); w != nil {
				err = k.client.welcomed(w, k.tls.RemoteAddr())
			}
			if err != nil {
				k.fail(err)
				return
			}
			welcome = true
			close(k.welcome)
			continue
		}
		k.mu.Lock()
		k.received++
		answer := k.waiting[m.GetId()]
		k.mu.Unlock()
		if answer == nil {
			continue // nobody waits for it any more
		}
		select {
		case answer <- m:
		default: // answered twice
		}
	}
}
