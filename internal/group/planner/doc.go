// Package planner decides what the cluster wants next of its groups: on which
// node each one shall be online, which resources shall be down, how far the
// operations of administrators are, and why.
//
// [Plan] is a pure function of the replicated state. The leader calls it each
// time State.plan_revision has moved, or the cluster's clock has reached what it returned last, and proposes what it returns; apply
// (package state) numbers orders, decisions and events, or refuses the whole
// plan when the state has moved on, and then it is planned again. All memory
// is in the state: GroupStatus is the planner's notebook, replaced by
// GroupChange. [Explain] and [Simulate] run the same function on copies.
//
// A failover group has one instance, a parallel group one on each node, a
// hybrid group one in each zone. A [group] is a group during one pass, a [work]
// one of its instances, a [spot] one instance on one node. Everything below the level of the group is
// decided per instance, of the nodes of that instance only: an instance that
// fails, moves or waits concerns no other one. Operations are on groups and are
// carried out by the instances that they concern (opparts.go).
//
// What the planner relies on:
//
//   - GroupStatus.nodes has a place for each member of the system list and for
//     each evicted node that is not yet proven to have stopped, and loses it on
//     proof or clean leave; a place is new after each start of its node;
//   - reported_intent reaches intent only with or after the resource states
//     and activities that this order causes;
//   - a resource that is wanted online, is merely offline and shows no activity
//     will not be started by that order any more: guard has stopped it;
//   - agents follow wants as levels: they bring resources online and offline in
//     order of dependency, restart in place, clean, and leave a faulted one alone.
//
// What it keeps; the labels reappear in comments and tests:
//
//	P1  at most one node of an instance is ordered online at any time (but for the moment in which nodes were moved
//	    between the zones of a hybrid group: then all but one are ordered offline at once)
//	P2  a node is ordered online only when every other node of the instance is clear of the group: a member that has probed it,
//	    has confirmed its newest order and runs nothing of it; or no member, and proven to have stopped. (Where it has
//	    been ordered online ever since, a fresh order needs only that nothing is known to run elsewhere)
//	P3  equal states give equal plans, and a plan changes no state that it is given
//	P4  the plan made from a state to which its own plan has been applied is nil
//	P5  nothing is ordered of a frozen group; no group comes to a frozen or leaving node
//	P6  within one failover episode (until the group is online, or an administrator orders it online) a node is tried once
//	P7  every order comes with a decision that says why, and every operation ends with a sentence
//
// One file per concern: groups.go (what a group needs next), model.go and
// facts.go (groups, instances and what is known of them on each node), placement.go (where it may go), faults.go (what a
// fault takes down), operations.go, opparts.go, resourceops.go and nodestop.go (what
// administrators asked for), orders.go (how it is all written down).
package planner
