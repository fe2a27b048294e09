//go:build linux

// Package clusterd is the driver of the engine on Linux: it gives the core of
// package engine its clock, disk, network, guard and agents.
//
// [Run] is the daemon. One goroutine owns the engine and never waits for
// anything but its inbox: the disk has a goroutine of its own, guard's socket and
// the peers' connections have theirs, calls of agents run in package agents, and
// all of them answer through the inbox. So a disk that hangs does not keep this
// node from following what happens; the engine stops its ticks to guard after 5 s.
//
// What holds:
//
//	N1  a batch is durable before the engine hears so; at most one is outstanding
//	N2  what the engine says is carried out in the order of Out's fields
//	N3  one clusterd per run directory; guard's real-time priority is not kept
//	N4  without a guard everything protected is stopped once the lease that it
//	    left has ended, after every call that could still start something
//	N5  a node that can't go on (disk full, log damaged) has guard stop everything
//	    and say goodbye, then ends; it is not started again before an administrator acts
//
// Statuses with which `holdfast clusterd` ends: 0 as told; 1 an error, guard
// starts it again; [StatusGivenUp] N5, guard has ended too.
package clusterd
