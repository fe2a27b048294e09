// Package planner decides what the cluster wants next of its groups: on which
// node each one shall be online, which resources shall be down, which trigger
// programs are run, how far the operations of administrators are, and why.
//
// [Plan] is a pure function of the replicated state. The leader calls it each
// time State.plan_revision has moved, or the cluster's clock has reached what it returned last, and proposes what it returns;
// apply (package state) numbers orders, decisions, events and triggers, or
// refuses the whole plan when the state has moved on, and then it is planned
// again. All memory is in the state: each instance of a group has a notebook ([statepb.Instance]), replaced by
// GroupChange, and whatever takes several steps is written there, so that any leader goes on with it. [Explain],
// [Forecast] and [Simulate] run the same function on copies.
//
// A failover group has one instance, a parallel group one on each node, a
// hybrid group one in each zone. A [group] is a group during one pass, a [work]
// one of its instances, a [spot] one instance on one node. Everything below the level of the group is
// decided per instance, of the nodes of that instance only: an instance that
// fails, moves or waits concerns no other one. Operations are on groups and are
// carried out by the instances that they concern (opparts.go).
//
// A pass has three phases, each of which goes through all groups in one order ([pass.inOrder]): those that may
// displace others first, children before their parents.
//
//	review   what runs where, what is broken, and what goes offline because of that (review.go)
//	act      operations, and places for what shall be online and is not (operations.go, place.go, moves.go)
//	finish   what is still without a place says why, as all the others stand by then; everything is written down (orders.go)
//
// There is one place where an instance is ordered online ([work.bring], by way of [work.arrive]), one where it is ordered
// offline ([work.goOff], by way of [work.takeOff]), and one where a node is judged ([work.reject]). What instances take of
// their nodes is added up in one [ledger], in which those that are placed later in a pass see those before them.
//
// What the planner relies on:
//
//   - GroupStatus.nodes has a place for each member of the system list and for
//     each evicted or detached node that is not yet proven to have stopped, and loses it on
//     proof or clean leave; a place is new after each start of its node;
//   - reported_intent reaches intent only with or after the resource states
//     and activities that this order causes;
//   - a resource that is wanted online, is merely offline and shows no activity
//     will not be started by that order any more: guard has stopped it;
//   - agents follow wants as levels: they bring resources online and offline in
//     order of dependency, restart in place, clean, and leave alone what has faulted, what waits for
//     an administrator, and what somebody took offline on purpose until there is another order for it;
//   - a run of a trigger that an instance waits for stays in the state until a plan has seen it, and ends with its node.
//
// What it keeps; the labels reappear in comments and tests:
//
//	P1  at most one node of an instance is ordered online at any time (but for the moment in which nodes were moved
//	    between the zones of a hybrid group: then all but one are ordered offline at once)
//	P2  a node is ordered online only when every other node of the instance is clear of the group: a member that has probed it,
//	    has confirmed its newest order and runs nothing of it; or no member, and proven to have stopped; or by an administrator's
//	    word. (Where it has been ordered online ever since, a fresh order needs only that nothing is known to run elsewhere)
//	P3  equal states give equal plans, and a plan changes no state that it is given
//	P4  the plan made from a state to which its own plan has been applied is nil; where groups depend on each other, after
//	    two plans for each level of depth at most, and after two where they compete for room
//	P5  nothing is ordered of a frozen group; no group comes to a frozen or leaving node
//	P6  within one failover episode (until the group is online, or an administrator orders it online, or clears its faults
//	    by an attribute of the group) a node is tried once, and the same node again only as often as onlineRetryLimit says
//	P7  every order comes with a decision that says why, and every operation ends with a sentence
//	P8  a group is ordered to a node only where the groups that it depends on are online as the dependency says, or gone
//	    (depends.go); a group that others require firmly goes offline after them, frozen ones excepted
//	P9  no group is ordered to a node where its load or its prerequisites, with those of all that are there or on their
//	    way, are more than the node has to give
//
// One file per concern: model.go and facts.go (groups, instances, and what is
// known of them on each node), attributes.go (what unset attributes stand for),
// review.go (what goes offline), faults.go (what a fault takes down), verdicts.go (what follows from a fault, and how
// faults end), holds.go (what keeps the planner from acting), place.go (places), placement.go (which node may), rank.go
// (which node is best), ledger.go (what nodes have to give), moves.go (failback, evacuation, room), triggers.go,
// operations.go, opparts.go, resourceops.go and nodes.go (what administrators asked for), depends.go (groups that
// depend on each other), orders.go and planner.go (the pass, and how it is all written down).
package planner
