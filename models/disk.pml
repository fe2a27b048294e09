/*
 * A lock disk as a point: every node writes its own record only, and then reads
 * all others, one after the other. Three nodes vote once each; each may give a
 * try up at any moment (a crash) and come back with a higher ballot.
 *
 * Checked: all answers name the same vote (W1, W3, W4).
 *
 * breaks: BREAK_REREAD BREAK_ORDER
 */
#define NODES 3
#define TRIES 2

byte mbal[NODES]; /* promised */
byte bal[NODES];  /* accepted */
byte val[NODES];
byte theVote;

proctype node(byte me)
{
	byte b, v, high, i, try;
	bool beaten;
	do
	:: try == TRIES -> break
	:: else ->
		try++;
		b = me + 1 + (try - 1) * NODES;
		if
		:: b <= bal[me] || b < mbal[me] -> goto again
		:: else
		fi;
#ifndef BREAK_ORDER
		mbal[me] = b;
#endif
		if
		:: goto again /* a crash */
		:: skip
		fi;
		/* Prepare: read all, the own record too. */
		atomic { beaten = false; high = bal[me]; v = val[me]; i = 0 }
		do
		:: i == NODES -> break
		:: i < NODES -> atomic {
			if
			:: i != me && mbal[i] > b -> beaten = true
			:: else
			fi;
			if
			:: bal[i] > high -> high = bal[i]; v = val[i]
			:: else
			fi;
			i++
		   }
		od;
#ifdef BREAK_ORDER
		mbal[me] = b;
#endif
		if
		:: beaten -> goto again
		:: else
		fi;
		if
		:: v == 0 -> v = me + 1
		:: else
		fi;
		/* Accept: a value, and the promise for the next ballot, in one write. */
		atomic { mbal[me] = b + NODES; bal[me] = b; val[me] = v }
#ifndef BREAK_REREAD
		atomic { beaten = false; i = 0 }
		do
		:: i == NODES -> break
		:: i < NODES -> atomic {
			if
			:: i != me && mbal[i] > b -> beaten = true
			:: else
			fi;
			i++
		   }
		od;
		if
		:: beaten -> goto again
		:: else
		fi;
#endif
		atomic {
			assert(theVote == 0 || theVote == v);
			theVote = v
		}
		break;
again:		skip
	od
}

init {
	atomic {
		run node(0);
		run node(1);
		run node(2)
	}
}
