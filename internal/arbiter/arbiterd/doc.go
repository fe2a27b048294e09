// Package arbiterd is the arbiter: a server that is a coordination point for
// many clusters, each of which it knows by the certificates of its authority.
//
// What is promised to a cluster is decided by witness.Point. This package keeps
// it in one bbolt file, carries it, and sees to who may ask.
//
//	A1  an answer leaves only after everything that it rests on is durable: also
//	    what other requests of the same cluster, that were decided before it, changed
//	A2  the requests of a cluster are decided one at a time, each by what the one
//	    before has left
//	A3  who asks follows from the certificate that was shown in the handshake,
//	    signed by an authority that is registered for the cluster, and valid now.
//	    A node asks for its cluster and in its own name only
//	A4  a promise is never forgotten in silence: a store that is damaged, of a
//	    newer format or a copy is refused, a forgotten cluster leaves its highest
//	    register number behind, a restored store is another instance, in which all
//	    clusters abstain
//	A5  a token admits one cluster, once, and the store holds only its hash
//	A6  a connection costs bounded memory, and holds up no other one: decisions
//	    never wait for a network
//	A7  any failure to write ends the process, so that what is on the disk is
//	    read again before anything else is promised
//
// One goroutine commits: all changes that wait go into one transaction. A
// cluster that asks nothing costs its record in the file and its name in memory.
//
// The format of the file is described in docs/formats/arbiter.md.
package arbiterd
