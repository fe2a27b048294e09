// Package consensus drives the raft library by the rules that Holdfast needs,
// as a state machine without I/O.
//
// It decides when a node asks for leadership and what has to be on disk before
// what is sent. The library (go.etcd.io/raft/v3, checked against v3.7.0) decides
// everything else. The caller feeds ticks, messages and proposals, takes one
// [Ready] at a time, makes its batch durable, calls [Node.Persisted], and
// applies the committed entries that this returns, in order.
//
//	C1  nothing that depends on a batch is sent, counted or applied before the batch is durable
//	C2  at most one batch is outstanding
//	C3  a follower that suspects its leader forgets it before it says so: else its peers' campaigns
//	    would be ignored until the election time-out
//	C4  a dropped message is reported to the library, or the receiver's progress would stall
//	C5  a configuration change counts only when its entry is applied: a proposal that was taken may
//	    still become an empty entry while another change is pending
//	C6  a leader that is to be removed hands leadership over first; if it could not, it steps down on removal
//	C7  a message that no peer sends by the protocol changes nothing: the library would panic on many of them
//
// Pre-vote and check-quorum are on. Election time-outs are only the fallback:
// elections are driven by what the links show ([Node.Campaign]).
package consensus
