// Package witness is the tie-breaking voter that all coordination points of a
// cluster form together.
//
// It decides how that voter answers raft's messages ([Step]), how a node brings
// a step into the register that the points keep, and how the points take part
// in leases ([Client]), and what a point that answers atomically promises
// ([Point], for arbiters; a lock disk has its own way to the same promises:
// package lockdisk). Nobody here opens a connection or reads a clock.
//
// The caller of a Client feeds it messages for the witness, wishes and replies,
// and carries out what [Client.Take] returns. It owes it that
//
//   - every Client has a proposer number of its own (W3);
//   - a request is carried out at most once, and within its timeout or reported as failed;
//   - messages come without payloads, and epochs as [Step] says;
//   - Tick is called when Wake is reached. Time may stand still, it never goes back.
//
// The labels of what holds reappear in the tests; docs/witness.md argues for them:
//
//	W1  the term never falls, and in a term the vote goes to one node at most
//	W2  a position that was acknowledged is lost only to an append that contradicts it, and never once committed
//	W3  under one ballot there is one value at most
//	W4  an answer that binds is given only after the register that it speaks of is chosen: a majority has accepted it
//	W5  a point answers after what it promised is durable; register number, promise and accepted ballot never fall
//	W6  a point that has stated a suspicion acknowledges no lease of that incarnation (nor of older ones of
//	    the same node) that shows no higher stays
//	W7  a statement's age is not above the time since the youngest renewal that this point acknowledged; a
//	    majority's youngest is not above that since the youngest renewal that any majority acknowledged
//	W8  a point that knows less than somebody has seen of it abstains from everything until it is asked
//	    about a higher register by somebody who has not
//	W9  a lease by a view older than the newest in the log of the chosen register is not acknowledged,
//	    unless the asker has applied that entry: then it was refused, and began no view
//
// Why lock disks are looked at every quarter of peerinact, and not only when
// somebody is missing: on a disk nobody tells when a counter was last raised. The
// age in a statement runs from when its maker first saw the counter as it is, so
// that observations must be old by the time that they are needed; the first look
// at a counter proves nothing but that it may have been raised just now.
//
// Formats: docs/formats/witness.md.
package witness
