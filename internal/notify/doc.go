// Package notify decides which event is told through which notifier, and when:
// order, retries, giving up, and what is committed about it.
//
// A [Core] runs on every node and does something on the leader only. Its
// caller passes the applied state and the time into each [Core.Step], carries
// out what [Core.Take] returns, and feeds back what comes of it. Between
// steps the core keeps nothing of the state but numbers.
//
//	T1  through one notifier at most one event is on its way, and events go in the order of their numbers
//	T2  every event that a notifier tells is delivered, or given up after giveUpAfter, or is
//	    none that the leader has any more; the last two are an event each
//	T3  how far a notifier is, is committed within a second after it was delivered, once a second at most
//	T4  a new leader goes on after what is committed. One that is about to give up leadership begins nothing and is [Core.Busy] until
//	    what is on its way has ended and is committed. One that has lost it does the same, and while it is a member the next one waits for [Handover]. So after an orderly change nothing is told
//	    twice; after a crash what was delivered since the last commit is, with the same numbers
//	T5  an event about a notifier is not told by that one, and giving up such an event is none itself:
//	    notifiers that fail do not keep each other busy
//
// How long an event could not be told counts from when this leader first saw it, and not from before the
// notifier's last success. Ways that deliver are in the packages below this one.
package notify
