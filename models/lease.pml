/*
 * Leases over a lock disk, where nothing can be read and written at once. X
 * renews: it raises its counter, then reads who suspects it. Y suspects: it
 * writes the suspicion, then reads X's counter. Whoever comes second sees the
 * other (Dekker). Y's statement says how old X's counter is: since Y first saw
 * it as it is.
 *
 * Checked (W6, W7): no renewal counts from a time after the one that the
 * statement names. A renewal counts from when it was asked for.
 *
 * breaks: BREAK_RENEW BREAK_SUSPECT BREAK_FIRST
 */
#define END 6

byte now;
byte counter;      /* in X's record */
bool suspected;    /* in Y's record */
byte newest;       /* when the newest renewal that counts was asked for; 0: none */
bool stated;
byte statedSince;  /* time of the statement less its age */

active proctype clock()
{
end:	do
	:: now < END -> now++
	od
}

active proctype X()
{
	byte asked;
	bool seen;
	do
	:: now == END -> break
	:: now < END && counter < 5 ->
		asked = now;
#ifdef BREAK_RENEW
		seen = suspected;
		counter++;
#else
		counter++;
		seen = suspected;
#endif
		if
		:: !seen -> atomic {
			newest = asked;
			assert(!stated || newest <= statedSince)
		   }
		:: else -> break
		fi
	od
}

active proctype Y()
{
	byte saw, first, c;
	bool looked;
	do
	:: /* a look */
		c = counter;
		atomic {
			if
			:: !looked || c != saw -> saw = c; first = now; looked = true
			:: else
			fi
		}
	:: break
	od;
	suspected = true;
#ifndef BREAK_SUSPECT
	c = counter;
#endif
	atomic {
		if
#ifdef BREAK_FIRST
		:: looked && c != saw -> saw = c; first = now
#else
		:: !looked || c != saw -> saw = c; first = now
#endif
		:: else
		fi;
		stated = true;
		statedSince = first;
		assert(newest <= statedSince)
	}
}
