// Package eventlog keeps the events that a node has applied on its disk, far
// longer than the replicated state does.
//
// It serves people: nothing is decided from it, and a node works without it.
// So [Log.Offer] never waits, [Open] never fails, and what is wrong with the
// disk is a condition ([Log.Fault]). The files are described in
// docs/formats/eventlog.md.
//
//	E1  what is read is what was offered: damage ends a file's usable part and is told
//	E2  a file holds events with consecutive numbers; where numbers are missing a new file begins, so
//	    that [Log.Kept] shows every gap
//	E3  the log never holds more than its bounds, and never takes the last of a file system's space
//	E4  of two histories with the same numbers the one that is offered is kept
//
// A crash of the machine may lose what was written in the last moments. The
// state still has that, and it is offered again.
package eventlog
