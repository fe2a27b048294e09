// Package agent decides what is done with the resources of one node: which
// entry point of which resource is called when, what its outcome means, and
// what is reported to the cluster. It is the field's agent framework and the
// part of its engine that walks dependency trees.
//
// A [Runtime] holds no file, timer or goroutine. The caller feeds it what the
// cluster wants ([Runtime.Desire]), outcomes ([Runtime.Done]), notices
// ([Runtime.Notify]) and what administrators ask for (commands.go); after each
// of them it carries out what [Runtime.Take] returns, and calls [Runtime.Tick]
// at or after Actions.Wake.
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
// found online it is taken offline. These are left alone: a faulted resource
// until it is cleared; one that waits for an administrator until
// [Runtime.ClearAdminWait]; one that was taken offline on purpose, and one
// whose way offline was broken off (unable to offline without activity), until
// a newer order. Once begun, going online, going offline and cleaning run to
// their end; an order that comes meanwhile is followed then (except that
// waiting for an online resource to show up ends when it is wanted offline).
// Not brought online with their group are resources without auto_start, unless
// they are ordered online by themselves; resources that are only monitored are
// never wanted anything.
//
// Kept at all times; the labels reappear in comments and tests:
//
//	A1  at most one call per resource is under way, across incarnations and changes of the configuration too; the first
//	    call of a managed resource is open, the last one close
//	A2  online is called, also to restart in place, only when MayAct, the group is wanted online, is not frozen, all of
//	    its enabled resources have been probed, and all that the resource requires is online, of several resources of
//	    which some suffice so many
//	A3  offline is called only when nothing that requires the resource, and can't do without it, is online or on its way
//	A4  FAULTED and OFFLINE with activity NONE or WAITING_ONLINE are reported only of resources whose last monitor or
//	    clean says that nothing runs (with any other activity something may), or of which an administrator has said so
//	    by ClearAdminWait; but of one that waits for an administrator something may run in any state. One whose clean
//	    fails is unable to offline, and clean is repeated, as often as CleanRetryLimit says. An order is reported as seen
//	    only once all resources have been looked at since the runtime started or guard stopped everything
//	A5  after Stopped nothing is brought online by the intent that was current
//	A6  a notice never changes a state; the monitor that it causes does
//	A7  no more calls of a type are under way than its NumThreads; offline and clean come first, then online, then
//	    monitors after these or after a notice, then periodic monitors, then info, but nobody waits for ever; and hanging
//	    calls of one of these kinds leave slots for those before it, if there are four or more
//	A8  of a resource that waits for an administrator nothing is called but open, close, and actions that were asked for;
//	    clean is never called where faults are not managed
//	A9  what is reported is bounded, and said again only when it has changed
package agent
