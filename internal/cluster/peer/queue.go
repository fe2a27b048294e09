package peer

import (
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/holdfast-ha/holdfast/internal/cluster/peer/peerpb"
)

// queue of messages to one peer, bounded by count and bytes (P4). The owner
// guards it with a lock.
type queue struct {
	messages []*peerpb.Message
	bytes    int
	// Handed to the connection: being written, and the flush before that. What
	// was written last may be lost with the connection (P2).
	writing, written []*peerpb.Message
}

// put returns false if there is no room.
func (q *queue) put(m *peerpb.Message) bool {
	size := proto.Size(m)
	if size > FrameMax || len(q.messages) >= queueCount || q.bytes+size > queueBytes {
		return false
	}
	q.messages = append(q.messages, m)
	q.bytes += size
	return true
}

// take everything for one flush.
func (q *queue) take() []*peerpb.Message {
	if len(q.writing) > 0 {
		q.written = q.writing
	}
	q.writing, q.messages, q.bytes = q.messages, nil, 0
	return q.writing
}

// drain returns what may not have arrived, oldest first.
func (q *queue) drain() []*peerpb.Message {
	all := slices.Concat(q.written, q.writing, q.messages)
	*q = queue{}
	return all
}
