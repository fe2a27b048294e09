package api

import (
	"context"
	"crypto"
	"time"

	"github.com/holdfast-ha/holdfast/internal/cluster/guard/guardpb"
	"github.com/holdfast-ha/holdfast/internal/cluster/state/statepb"
)

// Backend is the node that a handler speaks for. Its methods may be called
// from many goroutines at once.
type Backend interface {
	PointBackend
	FenceBackend
	EventBackend
	// State returns what this node has applied. The caller only reads it, and
	// it never changes afterwards.
	State(ctx context.Context) (*statepb.State, error)
	// Local returns what this node knows by itself.
	Local(ctx context.Context) (*Local, error)
	// Submit has a command committed and returns once it is applied here, or
	// fails: with a *Refusal when the cluster said no, and with the context's
	// error when it is not known whether the command will be committed. It
	// sets the command's proposer and request number, and its format if 0.
	Submit(ctx context.Context, c *statepb.Command) error
	// Sign the public key of a user with the cluster's authority, and return the
	// certificate and those of all authorities that are trusted, PEM.
	Sign(ctx context.Context, user string, generation uint64, public crypto.PublicKey) (certificate, authorities []byte, err error)
	// MakeSecret makes the next generation of what all nodes share and keeps it
	// here; others fetch it once a command has named it.
	MakeSecret(ctx context.Context, what statepb.Rotate_What, generation uint64) (*statepb.Secret, error)
	// Watch ticks at least once after each time that the applied state or what
	// Local returns has changed, until ctx ends; then the channel is closed.
	// Ticks of a slow reader are merged.
	Watch(ctx context.Context) (<-chan struct{}, error)
}

// Local is what one node knows by itself. The receiver only reads it.
type Local struct {
	Node string
	// Version of this daemon.
	Version string
	// Leader as this node knows it, empty: none.
	Leader string
	// Lease that guard holds for this node.
	Lease Lease
	// Peers as guard sees them, nil: guard is not connected.
	Peers *guardpb.Peers
	// Links has counters of each link to each peer.
	Links []*guardpb.LinkStats
	// Points are the coordination points as this node sees them.
	Points []PointStatus
	// Conditions that this node wants people to know.
	Conditions []Condition
	// FenceFaults are what is wrong with fence devices here.
	FenceFaults []string
	// AppliedIndex of the log.
	AppliedIndex uint64
	// ClockMs is the cluster's clock as this node reckons it: State.clock_ms and what has passed since that was applied here.
	ClockMs int64
	// Authority that signs certificates here: SHA-256 of its public key, and when it ends.
	Authority     []byte
	AuthorityEnds time.Time
}

// Lease is the state of this node's lease.
type Lease struct {
	Held bool
	// Remaining until it ends if nothing renews it.
	Remaining time.Duration
	// Reason why it is not held.
	Reason string
}

// Condition is something that people should know about a node.
type Condition struct {
	// Code is stable: "no-realtime".
	Code    string
	Warning bool // else for information only
	Message string
}

// Refusal is the answer no: nothing was changed.
type Refusal struct {
	// Code is "HFnnnn", from the table in docs/codes.md.
	Code string
	// Message says what was refused, why, and what to do.
	Message string
}

func (r *Refusal) Error() string { return r.Message }
