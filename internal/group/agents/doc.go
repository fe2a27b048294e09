// Package agents has the agents that are part of Holdfast, those that are
// programs (OCF resource agents, the field's script agents), and the [Host] that
// carries out the calls of package agent on a machine: programs in control
// groups, addresses, network cards, files; and process notification.
//
// What the host keeps:
//
//	H1  services begin to run in <root>/holdfast-<node>/<group>/<resource> of control group v2, each in a session of
//	    its own; they survive this process. Without a writable control group v2 they are found by session and environment
//	H2  other programs (monitor, stop, clean …) run in <group>/<resource>.call beside it; whatever they leave is killed when
//	    they end, and their whole tree when their time is over
//	H3  an online that this process did not finish, because it died, is undone by the next one before anything is probed
//	H4  the death of a watched process, the loss of a watched address or link becomes a notice without polling, also for
//	    processes that are not children of this process
//	H5  every call is answered, even one whose system call never returns
//
// The caller tells guard what [Host.Protect] returns before a group's first
// call with Starts is run, and calls [Host.Release] when nothing of it runs.
package agents
