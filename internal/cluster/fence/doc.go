//go:build linux

// Package fence drives what makes sure that a lost node does no more harm:
// programs that switch machines off ([Runner]), reservations at disks
// ([Reserver]), and the watchdog of the own machine ([Watchdog]). It decides
// nothing: who is to be fenced, when, and whether that suffices, is the
// caller's to know (docs/fencing.md).
//
// What holds:
//
//	F1  a node is reported as off only if its agent said so and, where the agent
//	    has the action status, that says off too. (An agent may still lie: the caller
//	    gives [Request].Alive, which is asked after every level that seems to have succeeded.)
//	F2  a level has succeeded only if all of its devices have
//	F3  a secret is in nothing but the agent's standard input: not in arguments, the
//	    environment, messages or errors
//	F4  an agent's process group is gone when its run is over
//	F5  a watchdog that was armed is never disarmed by closing it, only by [Watchdog.Disarm]
package fence
