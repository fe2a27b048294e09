// Package api serves what people and programs see of a cluster: the services
// of api/holdfast/v1 over a small [Backend].
//
// It decides nothing about the cluster. Reads are summaries of the state that
// the node has applied; each says whether a quorum stands behind it. Changes
// become one replicated command each, after the whole request was checked.
//
// The caller owes it authenticated connections: the listener of the unix
// socket knows who connects, that of the TLS port demands a certificate of
// the cluster's authority. What they may do stands in access.go, one row per procedure.
//
//	S1  a request that is refused has changed nothing
//	S2  every error has a code of the table in codes.go, and docs/codes.md lists it
//	S3  a read never waits for a quorum, and says when there is none
//	S4  a change that was committed, and a call that was refused, have an event that says who asked for it
package api
