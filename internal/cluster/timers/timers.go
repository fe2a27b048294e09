// Package timers derives every timing of a cluster from the few that an
// administrator may set. It decides nothing else and needs no checked input:
// an unset or nonsensical value counts as unset (internal/config refuses the
// nonsensical ones before they reach a cluster).
//
// What holds for every result; the labels reappear in the tests:
//
//	T1  lease + stop + margin = peerinact: when a node's last link has been
//	    silent for peerinact, the node itself has stopped
//	T2  with unset fields: heartbeat = peerinact/10, peertrouble = peerinact/2
//	T3  nothing is zero or negative
package timers

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	holdfastv1 "github.com/holdfast-ha/holdfast/api/holdfast/v1"
)

const (
	// DefaultPeerinact applies where none is set.
	DefaultPeerinact = time.Second
	// MinPeerinact and MaxPeerinact bound what may be set.
	MinPeerinact = 200 * time.Millisecond
	MaxPeerinact = 60 * time.Second
	// HeartbeatDivisor: heartbeat is at most peerinact divided by it, so that
	// the loss of several heartbeats in a row is not yet a lost peer.
	HeartbeatDivisor = 8
	// MinHeartbeat bounds what heartbeats may cost.
	MinHeartbeat = 5 * time.Millisecond

	// DefaultEngineDownLimit applies where none is set.
	DefaultEngineDownLimit = 60 * time.Second
	MinEngineDownLimit     = 5 * time.Second
	MaxEngineDownLimit     = 10 * time.Minute
)

// Effective returns the timers that apply when t is configured; t may be nil.
func Effective(t *holdfastv1.Timers) (heartbeat, peertrouble, peerinact time.Duration) {
	peerinact = or(t.GetPeerinact(), DefaultPeerinact)
	heartbeat = or(t.GetHeartbeat(), peerinact/10)
	peertrouble = or(t.GetPeertrouble(), peerinact/2)
	return max(heartbeat, 1), max(peertrouble, 1), max(peerinact, 1)
}

// EngineDownLimit returns how long a node's engine may be down before the node
// stops its groups; c may be nil.
func EngineDownLimit(c *holdfastv1.Cluster) time.Duration {
	return or(c.GetEngineDownLimit(), DefaultEngineDownLimit)
}

// Lease is how long a node may act after it sent the newest heartbeat that a
// quorum acknowledged: 60 % of peerinact.
func Lease(peerinact time.Duration) time.Duration {
	return percent(peerinact, 60)
}

// Stop is how long a node may take, from the end of its lease, until nothing of
// its groups runs: 25 % of peerinact.
func Stop(peerinact time.Duration) time.Duration {
	return percent(peerinact, 25)
}

// Margin is what remains of peerinact for clocks that drift and threads that
// are late: 15 % and what rounding left over.
func Margin(peerinact time.Duration) time.Duration {
	return peerinact - Lease(peerinact) - Stop(peerinact)
}

// Watchdog is the time-out of a watchdog that is fed only under the lease: stop and
// margin, in the whole seconds that such devices know.
func Watchdog(peerinact time.Duration) time.Duration {
	return (Stop(peerinact) + Margin(peerinact) + time.Second - 1).Truncate(time.Second)
}

// percent of d without overflow for any Duration.
func percent(d time.Duration, p int64) time.Duration {
	return d/100*time.Duration(p) + d%100*time.Duration(p)/100
}

func or(d *durationpb.Duration, fallback time.Duration) time.Duration {
	if v := d.AsDuration(); v > 0 {
		return v
	}
	return fallback
}
