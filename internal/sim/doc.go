// Package sim runs whole clusters of the cores that production runs, guard and
// engine of one to nine nodes, in virtual time. One seed decides everything:
// sizes, timings, luck, and the faults.
//
// A run has two phases. In the first anything of the language below may happen
// at any time. Then everything is healed: all machines up, the network whole,
// disks quick, agents good. Within a bounded time all nodes must be members,
// and every group that can be online must be online exactly once.
//
// # Faults
//
// One line each; a schedule is a list of them with times, drawn from the seed
// before the run starts. Scripts in testdata/stories use the same lines. "for D" takes
// the fault back after so long.
//
//	crash N                    the machine stops; an unsynced write may be lost, its clock starts anew
//	boot N                     it starts again
//	kill engine|guard N        the process ends; guard restarts the engine, init restarts guard
//	pause N for D              the machine stands still and its clock counts on
//	pause engine|guard N for D only that process does
//	cut A B [link K] for D     nothing passes between two nodes; A->B: one way; "cut A": between A and all others
//	flap A B link K for D      the link between two nodes goes up and down every few hundred milliseconds
//	split A,B|C,D for D        nothing passes between the sides
//	net [A->B] delay=D jitter=D loss=P dup=P for D
//	disk N slow=D for D        syncs take so long more
//	disk N hang for D          syncs do not come back
//	disk N full for D          syncs fail
//	disk N lose                a synced write is lost: with the next crash the whole log is gone
//	disk N erase               the log is gone under clusterd, which ends; the machine and its guard run on
//	point-down P for D         a coordination point is not there
//	point-slow P for D         it takes half of peerinact to answer
//	unreach N P for D          nothing passes between a node and a coordination point
//	die R N                    a process of a resource ends by itself
//	agents N KIND [R] for D    entry points go wrong: flaky=P, or one of the kinds in behaviours
//
// Administrators are a part of the chaos:
//
//	online|switch G [N], offline G, freeze|unfreeze G|N, clear G, flush G, stop N [evacuate|detach], start N,
//	silence N D, set peerinact=D, note TEXT, spare G in|out, confirm N (is down, which is true), signal S N VALUE
//
// And the leader's plans bring what no planner would have reason for here:
//
//	reset N                    fail-fast of a node
//	trigger N                  a trigger program on a node
//
// # Never
//
// Checked after every event:
//
//	N1  two views with one epoch and different members
//	N2  processes of a failover group alive on two nodes that are both awake, other than for the stop
//	    time after a node wakes
//	N3  two nodes that have applied the same index hold different states, or an index is applied twice differently
//	N4  a command that was acknowledged to its caller is not in the state of a node that has applied its index
//	N5  an incarnation that is proven to have stopped (after its eviction, by the word of the node's next incarnation, or
//	    because it resigned) holds a lease, paused or not, or runs something while awake; or one that left runs something
//	N6  a core panics, or stops for a reason that no fault explains
//	N7  something is started under a lease that guard would not stop at its end
//	N8  the cluster's clock goes back, or faster than the time
//
// And at the end of the second phase:
//
//	L1  all nodes run and are members of one view with a leader
//	L2  each group that can be online is online, on exactly one node, and all nodes know it
//	L3  all trigger programs have been run, and agents know of the signals
//
// A cluster of which a majority of disks is gone is excused: only an
// administrator can help it.
package sim
