// Package engine is the brain of a node, without its body: raft, the
// replicated state, view changes, the planner and the agent runtime as one
// state machine that does no I/O.
//
// The caller (package clusterd on real machines, package sim in the simulator)
// feeds inputs to [Engine.Step] and afterwards carries out what [Engine.Take]
// returns, in the order of its fields; it calls Step with a [Tick] at or after
// Out.Wake. One goroutine at a time.
//
// The caller owes it:
//
//   - Out.Persist is durable as a whole before [Persisted] is fed; one batch at a time.
//   - messages to a peer arrive in order or not at all; what was dropped is fed as [PeerDropped].
//   - every call gets exactly one [CallDone].
//   - frames to guard arrive in order while the connection lasts.
//
// Rooms: raft.go (log and apply), elect.go (who leads), views.go (the leader's
// view changes), join.go (coming and going of incarnations), detach.go (detached nodes, fail-fast), guard.go
// (what guard is told and says), groups.go (planner and agents), clock.go (the cluster's clock), triggers.go (trigger
// programs and signals), actions.go (actions of resources, events), propose.go (commands on their way), peers.go (messages).
//
//	E1  a view change is acknowledged in the log only after guard has put its epoch into its acknowledgements
//	E2  nothing is brought online here except as a member of the applied view, under a lease, and caught up with the log
//	E3  a node that is outside of the view never campaigns, and joins only after guard has stopped everything, or with what it was
//	    left running by a detach while the cluster counts that as running there
//	E4  one report of this node is on its way at a time, so that reports are applied in order
//	E5  the leader plans only from a state that holds everything that it has proposed
//	E6  what was left running by a detach is reported on only after guard has taken it up under a lease of this incarnation
//	E7  the cluster's clock counts by CLOCK_BOOTTIME: no time of day has any effect on it
//	E8  a trigger program runs only under a lease, and at least once; how it ended is told until the state knows
package engine
