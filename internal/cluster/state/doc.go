// Package state is the replicated state machine: what all nodes agree on, and
// how each command changes it.
//
// [Apply] is the only way in which a state changes. It is deterministic: it
// reads no clock, no random source and no map in an order that could be seen,
// so that nodes that applied the same log hold equal states ([Digest]). A
// command that its state refuses changes nothing and says why; a command that
// is applied raises the revisions that it concerns.
//
// The caller applies entries in log order, one goroutine at a time, and hands
// out states only as clones. It marshals commands with [Marshal]; formats that
// this version does not know stop the node rather than being skipped, since a
// skipped command would make states differ.
//
//	S1  epochs are gapless: a view change names the epoch before it, and is refused otherwise
//	S2  a raft id belongs to one incarnation of one node for ever
//	S3  a member's vote and its place in the view change by the same entry
//	S4  a group's place on an evicted node is kept until that incarnation is proven to have stopped, if only by its own
//	    node, which names it when it asks to join anew
//	S5  a plan is taken only by the state that it was made from
//	S6  a configuration is replaced only by a caller who knew the current one
//	S7  a group that goes on where it was detached keeps its place there until that incarnation is known to run nothing, by
//	    its own node or an administrator, or until the node's next incarnation has reported on it under a lease: no time proves it
//	S8  the cluster's clock, the events that a notifier has told, and the numbers of triggers never go back
//
// The stored form is docs/formats/state.md.
package state
