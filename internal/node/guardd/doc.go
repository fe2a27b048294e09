//go:build linux

// Package guardd is the driver of guard on Linux: it gives the core of package
// guard its sockets, clock and files, kills when the core says stop, and keeps
// clusterd running.
//
// [Run] is the daemon. One goroutine owns the core: it waits in epoll for heartbeats,
// the timer (CLOCK_BOOTTIME) and for what other goroutines have put into its inbox.
// Whatever may block — killing, the engine's socket, starting clusterd — happens
// elsewhere and comes back through the inbox. All threads of the process have
// real-time priority, so that it does not matter which of them the goroutine gets.
//
// What holds:
//
//	D1  the incarnation is durable before the core that uses it exists
//	D2  what the core wants saved is in place before anything else of the same
//	    step; the end of the lease is in guard.lease before a heartbeat or a frame leaves
//	D3  the core hears that an engine is dead only when its process has ended
//	D4  only the node's own link addresses are bound
//	D5  clusterd and what it starts inherit neither priority nor locked memory, and
//	    do not end with guard
//	D6  one guard per run directory, one clusterd per guard
//
// Files in the run directory R and the state directory D (docs/formats/guard.md):
// R/guard.lock, R/guard.sock, R/guard.state, R/guard.lease, R/clusterd.lock, D/guard.incarnation, D/guard.detached.
package guardd
