package guard

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// Heartbeat is what one guard tells another every round. docs/formats/heartbeat.md
// has its bytes.
type Heartbeat struct {
	// Incarnation of the sender's guard, and the number of the round.
	Incarnation, Sequence uint64
	// The newest heartbeat that the sender heard from the receiver on this link, and how
	// long before it sent this one. 0: none.
	EchoIncarnation, EchoSequence uint64
	EchoDelay                     time.Duration
	// The newest heartbeat of the receiver, on any link, that the sender acknowledges. 0: none.
	AckIncarnation, Ack uint64
	// The sender's raft id by the view that it has applied (0: no voter), that view's
	// epoch, and the newest epoch in its log.
	RaftID, Epoch, Appended uint64
	// EngineTick of the sender's engine; EngineDown for so long, 0: it works.
	EngineTick uint64
	EngineDown time.Duration
	// Goodbye counts if Stopped.
	Goodbye Goodbye
	// Leader's name as the sender's engine knows it, empty: none.
	Leader     string
	Seeded     bool
	Stopped    bool
	HoldsLease bool
}

// Goodbye says that nothing runs at the sender, and that it will never use a
// lease from a heartbeat numbered up to Sequence.
type Goodbye struct {
	Sequence uint64
	// RaftID that the goodbye is of, and how often it had been said that it stays.
	RaftID, Stays uint64
}

// MaxName bounds node names, in bytes.
const MaxName = 255

const (
	heartbeatVersion = 1
	// heartbeatFixed is the length of the part before the leader's name.
	heartbeatFixed = 120

	flagSeeded  = 1
	flagStopped = 2
	flagLease   = 4
)

// MaxHeartbeat is the length of the longest encoded heartbeat of this version.
const MaxHeartbeat = heartbeatFixed + MaxName

// ErrHeartbeat marks bytes that are no heartbeat.
var ErrHeartbeat = errors.New("guard: damaged heartbeat")

// AppendHeartbeat appends the encoding of h to dst. The sequence is not part of
// it: it stands in the packet's header. A leader's name that is too long is left out.
func AppendHeartbeat(dst []byte, h *Heartbeat) []byte {
	leader := h.Leader
	if len(leader) > MaxName {
		leader = ""
	}
	var flags byte
	if h.Seeded {
		flags |= flagSeeded
	}
	if h.Stopped {
		flags |= flagStopped
	}
	if h.HoldsLease {
		flags |= flagLease
	}
	le := binary.LittleEndian
	dst = append(dst, heartbeatVersion, flags)
	dst = le.AppendUint16(dst, heartbeatFixed)
	dst = append(dst, byte(len(leader)), 0, 0, 0)
	for _, v := range [...]uint64{
		h.Incarnation, h.EchoIncarnation, h.EchoSequence, uint64(h.EchoDelay),
		h.AckIncarnation, h.Ack, h.RaftID, h.Epoch, h.Appended,
		h.EngineTick, uint64(h.EngineDown),
		h.Goodbye.Sequence, h.Goodbye.RaftID, h.Goodbye.Stays,
	} {
		dst = le.AppendUint64(dst, v)
	}
	return append(dst, leader...)
}

// DecodeHeartbeat decodes b into h, all but the sequence. It allocates only if the
// leader's name differs from the one that h holds. A fixed part that is longer than
// this version knows is fine: what follows is of a later release.
func DecodeHeartbeat(b []byte, h *Heartbeat) error {
	if len(b) < heartbeatFixed {
		return fmt.Errorf("%w: %d bytes, at least %d", ErrHeartbeat, len(b), heartbeatFixed)
	}
	if b[0] != heartbeatVersion {
		return fmt.Errorf("%w: version %d, this program knows %d", ErrHeartbeat, b[0], heartbeatVersion)
	}
	le := binary.LittleEndian
	flags, fixed, name := b[1], int(le.Uint16(b[2:])), int(b[4])
	if fixed < heartbeatFixed || fixed+name != len(b) {
		return fmt.Errorf("%w: %d bytes, its parts have %d and %d", ErrHeartbeat, len(b), fixed, name)
	}
	at := 8
	next := func() uint64 {
		v := le.Uint64(b[at:])
		at += 8
		return v
	}
	h.Incarnation, h.EchoIncarnation, h.EchoSequence, h.EchoDelay = next(), next(), next(), time.Duration(next())
	h.AckIncarnation, h.Ack, h.RaftID, h.Epoch, h.Appended = next(), next(), next(), next(), next()
	h.EngineTick, h.EngineDown = next(), time.Duration(next())
	h.Goodbye = Goodbye{Sequence: next(), RaftID: next(), Stays: next()}
	h.Seeded, h.Stopped, h.HoldsLease = flags&flagSeeded != 0, flags&flagStopped != 0, flags&flagLease != 0
	if h.EchoDelay < 0 || h.EngineDown < 0 {
		return fmt.Errorf("%w: negative duration", ErrHeartbeat)
	}
	if leader := b[fixed:]; string(leader) != h.Leader {
		h.Leader = string(leader)
	}
	return nil
}
