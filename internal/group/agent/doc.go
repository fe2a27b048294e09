// Package agent decides what is done with the resources of one node: which
// entry point of which resource is called when, what its outcome means, and
// what is reported to the cluster. It is the field's agent framework and the
// part of its engine that walks dependency trees.
//
// A [Runtime] holds no file, timer or goroutine. The caller feeds it what the
// cluster wants ([Runtime.Desire]), outcomes ([Runtime.Done]) and notices
// ([Runtime.Notify]); after each of them it carries out what [Runtime.Take]
// returns, and calls [Runtime.Tick] at or after Actions.Wake.
//
// The caller owes it:
//
//   - exactly one Done per Call, also for one that was cancelled or timed out;
//   - guard's answer to Protect before a call that Starts something is run;
//   - reports proposed in order until committed;
//   - Desired.MayAct only under a lease and with a recent state.
//
// Wants are levels, not edges: as long as a resource is wanted online and is
// merely offline it is brought online; as long as it is wanted offline and
// found online it is taken offline. A faulted resource is left alone until it
// is cleared. Once begun, going online, going offline and cleaning run to their
// end; an order that comes meanwhile is followed then (except that waiting for
// an online resource to show up ends when it is wanted offline).
//
// Kept at all times; the labels reappear in comments and tests:
//
//	A1  at most one call per resource is under way, across incarnations and changes of the configuration too
//	A2  online is called, also to restart in place, only when MayAct, the group is wanted online, is not frozen, all of
//	    its enabled resources have been probed, and all that the resource requires is online
//	A3  offline is called only when nothing that requires the resource is online or on its way
//	A4  FAULTED and OFFLINE with activity NONE or WAITING_ONLINE are reported only of resources whose last monitor or
//	    clean says that nothing runs (with any other activity something may); one whose clean fails stays unable to
//	    offline, and clean is repeated. An order is reported as seen only once all resources have been looked at since
//	    the runtime started or guard stopped everything
//	A5  after Stopped nothing is brought online by the intent that was current
//	A6  a notice never changes a state; the monitor that it causes does
package agent
