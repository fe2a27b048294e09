package arbiterd

import (
	"errors"
	"fmt"
	"sync"
)

// batchMax bounds a transaction.
const batchMax = 4096

// change is a part of a transaction. apply writes; an error of it ends the
// arbiter, as any other failure of the transaction does (A7). done is called
// once it is durable, in the order in which changes were put.
type change struct {
	apply func(*tables) error
	done  func()
}

// committer makes changes durable: all that wait, in one transaction.
type committer struct {
	store *store
	wake  chan struct{}
	ended chan struct{} // nothing is committed any more
	stats func(changes int)

	mu      sync.Mutex
	waiting []change
}

func newCommitter(s *store, stats func(int)) *committer {
	return &committer{store: s, wake: make(chan struct{}, 1), ended: make(chan struct{}), stats: stats}
}

// put a change. It never waits: who puts is bounded by what may be in flight.
func (c *committer) put(ch change) {
	c.mu.Lock()
	c.waiting = append(c.waiting, ch)
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// wait for a change that was put with done closing the channel.
func (c *committer) wait(done <-chan struct{}) error {
	select {
	case <-done:
		return nil
	case <-c.ended:
	}
	select {
	case <-done: // it was among the last
		return nil
	default:
		return ErrWrite
	}
}

func (c *committer) take() []change {
	c.mu.Lock()
	defer c.mu.Unlock()
	batch := c.waiting
	if len(batch) > batchMax {
		c.waiting = append([]change(nil), batch[batchMax:]...)
		return batch[:batchMax]
	}
	c.waiting = nil
	return batch
}

// run until stop is closed and nothing waits, or a write fails.
func (c *committer) run(stop <-chan struct{}) error {
	defer close(c.ended)
	for {
		batch := c.take()
		if len(batch) == 0 {
			select {
			case <-c.wake:
				continue
			case <-stop:
				return nil
			}
		}
		err := c.commit(batch)
		if err != nil {
			return fmt.Errorf("%w: %s: %w; see to the disk and start the arbiter again", ErrWrite, c.store.path, err)
		}
		c.stats(len(batch))
		for _, ch := range batch {
			ch.done()
		}
	}
}

func (c *committer) commit(batch []change) (err error) {
	// bbolt panics on pages that make no sense.
	defer func() {
		if r := recover(); r != nil {
			err = errors.Join(err, damaged("%v", r))
		}
	}()
	return c.store.update(func(t *tables) error {
		for _, ch := range batch {
			if ch.apply == nil {
				continue
			}
			if err := ch.apply(t); err != nil {
				return err
			}
		}
		return nil
	})
}
