// Package guard decides, on one node, which peers are alive, whether this node
// may act (its lease), and what this node states about peers that it suspects.
//
// A [Core] is pure: it holds no socket, timer or goroutine. Its caller feeds it
// frames of the engine, authenticated heartbeats and the time, and after every
// call carries out what [Core.Take] returns, in the order of the fields of [Out].
// Time is CLOCK_BOOTTIME of this node since any start, the same start for all
// guards of one boot; it counts suspended time.
//
// What the caller owes it:
//
//   - Save is kept, and read back by the next guard of the same boot, before
//     anything else of the same Out is done.
//   - An incarnation is used by one Core only and is higher than any before it on
//     this node, reboots included.
//   - [Core.LeaseUntil] is kept where the next guard of this boot finds it, at least
//     whenever it became earlier; a value that is too early is safe, one that is
//     too late is not.
//   - What has arrived already is given to [Core.Receive] before [Core.Tick].
//   - Tick comes at Out.Wake, or as soon after it as the machine allows. A late Tick
//     costs availability, never safety.
//   - Stop is carried out at once and answered with [Core.Stopped]; heartbeats go on
//     meanwhile.
//
// # The lease
//
// A node's heartbeats are numbered, one number per round to all peers over all
// links. A voter's heartbeat acknowledges the newest number that it has heard from
// the receiver. The lease runs from the moment at which the newest number was sent
// that a majority of the voters of the applied view has acknowledged, for
// [timers.Lease]. What must hold, and where:
//
//	L1  An acknowledgement counts only for numbers of this guard's own incarnation, and
//	    only from the guard incarnation that the applied view names for its voter.
//	    (A voter that has not yet learned of its own raft id says 0; another one does not count.)
//	L2  It counts only if the voter's log held no view newer than the one that this
//	    node has applied when it was sent. The same goes for this node's own voice: with
//	    a newer view in its own log, or before its own guard is committed, it has none.
//	L3  The lease counts from the send time of the number, never from the arrival of
//	    the acknowledgement.
//	L4  The first thing that every call does is to look whether the lease has ended by
//	    the time that it was given. Once ended it does not come back by what arrives late:
//	    numbers up to the end of the stop never count again.
//	L5  A voter that suspects a node acknowledges it no more until the suspicion has
//	    ended: its number of stays was raised, or it has another raft id. A suspicion outlives
//	    the guard (Saved), and a started guard takes everyone for just acknowledged.
//	L6  The age in a statement reaches back at most to the arrival of the newest
//	    heartbeat that this node may have acknowledged; ages never understate how
//	    recent that is.
//	L7  Goodbye is said only when all is stopped, no call of the engine is under way
//	    (Quiet, or the engine is dead), and no number up to the one it names will be used
//	    for a lease. Numbers above it that still say goodbye are acknowledged by nobody.
//	L8  A change of the view keeps a lease that was earned by the view before only when
//	    the two differ by at most one voter, and only once: majorities of such views intersect, so
//	    that the statements which evict this node come from a voter that earned it.
//	L9  An announced silence lengthens a lease that is held; it never revives one.
//	L10 That this node runs by shorter timers is confirmed only when no lease that was
//	    earned by longer ones is left: the cluster waits by the longer ones until then.
//	L11 What goes on since this node was detached is under no lease, and while there is any no goodbye is said. It is
//	    taken up when this node takes a lease, before anyone is told of that, or stopped by order of the engine.
//
// Why that is enough: let a majority of the voters of view E state that they suspect
// X. A lease of X by E was acknowledged by a majority of E as well, so one of the
// stating voters, V, acknowledged the number q that it counts from. V heard q before it
// made its statement (L5) and the youngest arrival that V states is not older than q's (L6);
// q was sent before it arrived (L3). So X's lease ends at the latest one lease after
// V's stated arrival. Older views are kept out by L2 and L8. X's clock counts while X
// is paused, and X looks at it before it does anything (L4): the wake-up bound of
// docs/lease.md is the time between waking and the end of the stop.
//
// # Liveness
//
//	H1  A link counts as heard by packets that echo one of this guard's own recent numbers
//	    back over the same link. So a link that works one way only is down both ways, and
//	    replayed packets keep nobody alive.
//	H2  Numbers rise per link and incarnation; what does not is dropped and counted.
//	H3  A peer is suspected only if it is a voter of the view, and so is this node, and after
//	    peerinact of silence on all links or after its goodbye. Time in which this node
//	    itself did not run is not yet silence of others: after a gap there are two heartbeats of grace.
//	H4  Rounds keep to their grid: a late round does not shift the ones after it, missed ones are not made up.
//	H5  Receiving and sending a heartbeat allocates nothing.
//
// The heartbeat's bytes are docs/formats/heartbeat.md, the frames to and from the
// engine docs/formats/guard.md.
package guard
