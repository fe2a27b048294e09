// Package lockdisk makes a coordination point of a disk that all nodes reach
// and that can do nothing but read and write: each node writes into its own
// block, reads everybody's, and only then answers (Disk Paxos).
//
// A [Machine] turns one request after the other into reads, writes and a reply.
// It does no I/O, reads no clock and draws no numbers; package device carries
// out what it wants on a real disk, the simulator on one in memory. Its caller
// owes it that
//
//   - the outcome of an I/O is reported before the next one is begun, and a write
//     is reported as done only when it is durable. One that failed may have
//     happened, in part, or happen later;
//   - Run is random and not 0, and drawn anew for every Machine;
//   - no two machines with the same number run at the same time, as far as a
//     lock of the operating system can see to that (D8 covers the rest);
//   - now never goes back. It may stand still.
//
// What holds, and why; "to write" and "to read" are always of whole records.
//
//	D1  A block has one writer per area, and each run of a node has an area of its
//	    own: the one whose claim is the lowest. Its first record holds everything
//	    that its earlier areas hold, which go on being read.
//	D2  A record is written into copy 0 and, when that is durable, into copy 1. It is
//	    complete then, and only then anything is built on it. So a complete record,
//	    or a newer one, is readable at any time from one copy or the other, whichever of
//	    them is being written or has gone bad.
//	D3  A copy that is neither valid nor all zero is bad. Where both are bad, also
//	    after reading again, nothing is known and nothing is answered. Only zeros
//	    are empty. A valid page that does not belong where it is found is bad.
//	D4  Of two valid copies the one with the higher (claim, sequence) counts. The
//	    other is a write that was interrupted, or one of an earlier run that came late.
//	D5  A request is answered by what was read after the own record was complete.
//	D6  Register number, promise and accepted ballot of an area never fall, its
//	    suspicions stay, its counter is raised for every renewal that is asked for.
//	D7  A run whose write failed claims another area before it writes anything else:
//	    the write may still come, into an area that is only read from then on.
//	D8  A run that finds a newer claim, or a record of its own that it has not
//	    written, stops for good: another incarnation of its node is at work.
//	D9  A complete record that has been seen and is gone means that the disk has
//	    forgotten. The finder writes so, and nobody uses the disk for that register.
//	D10 Nothing is written before the disk's identity was read, nor into a slot that
//	    belongs to no cluster or to another one, and nothing is answered from it.
//	D11 A statement's age runs from when its maker first saw the counter as it is after the
//	    suspicion was complete, or from when it began to look.
//
// # Why a promise holds
//
// Prepare(b) writes b and reads all. Accept(b', v) with b' < b writes (b', v) and reads all.
// Each has a read that begins after its own write is complete (D5). If Accept does not
// find b, its read was over before Prepare's write was complete; hence its own write
// was complete before Prepare's read began, and Prepare finds (b', v), or what was accepted later in that area.
// So a disk either refuses the lower ballot or tells the higher one of its value, which is all that
// a point has to do. Accept(b, v, next) is an Accept and at once the Prepare of next: it writes both, and
// finds nobody above b; whoever is between b and next afterwards finds next.
//
// The same two lines make the lease safe. Renew raises the counter and reads all; Suspect writes the
// suspicion and reads all. If the renewal does not find the suspicion, then the suspicion's read finds the raised counter, whose
// age runs from when it was first seen. That is after the renewal was asked for, and the lease counts from there.
//
// # Why a pause does no harm
//
// A run may stop between any two steps, for minutes, with a write on its way. What lands late is
// a promise, which only refuses; a value under a ballot that its proposer had been promised,
// which is outbid by every higher ballot that was accepted meanwhile; a suspicion, which binds
// its maker only; or a counter, which makes somebody wait. When the run goes on it reads everything, and answers by what it
// finds then: a promise above its ballot, a suspicion of itself, or the claim of its successor (D8). Nothing was
// built on the late record before.
//
// A write of an earlier run that lands when its area has been taken again hits one copy, which counts as bad by D4 until its
// owner has mended it. This needs a write to outlive three later runs of the same node; the area's newer record is lost
// only if the other copy goes bad as well in that moment.
//
// Format: docs/formats/lockdisk.md.
package lockdisk
