/*
 * The register of internal/cluster/witness over three points that answer
 * atomically: two nodes, requests that are carried out late, twice or never,
 * replies that are lost, rounds that are given up at any moment.
 *
 * The register is small: who has the vote of the one term (1, 2), and a mark of
 * each node (4, 8). A node first wants the vote, then leaves its mark. Checked are
 * W1 to W4: all answers and all that is ever chosen name the same vote, and a
 * mark that was answered is in all that is chosen later.
 *
 * breaks: BREAK_CHOSEN BREAK_HIGHEST BREAK_PROMISE BREAK_NEXT
 */
#define LAST 5    /* of the ballots; odd ones are node 1's, even ones node 2's */
#define VOTE 3
#define MARK(n) (n << 2)

/* What a point keeps. */
byte promised[3];
byte accepted[3];
byte value[3];

/* Requests that were sent: they stay in the net for ever. */
bool prepare[9];
bool accept[9];
byte acceptValue[9];

/* By node: what it waits for, the points whose reply has arrived, and what these said. */
byte waits[3];
byte yes[3];
byte sawBallot[9];
byte sawValue[9];

/* What the world was told, or could have been: by ballot the points that took it. */
byte took[9];
byte theVote;
byte marked[3]; /* by node: the ballot under which its mark was answered, 0: not yet */

#define count(bits) ((bits & 1) + ((bits >> 1) & 1) + ((bits >> 2) & 1))
#define of(b) (2 - (b & 1)) /* the node of a ballot */

#ifdef BREAK_NEXT
#define nextOf(b) (b)
#else
#define nextOf(b) (b + 2)
#endif

inline told(v)
{
	assert(theVote == 0 || theVote == (v & VOTE));
	theVote = v & VOTE
}

active proctype network()
{
	byte b, i;
end:	do
	:: atomic {
		select(b : 1 .. LAST);
		select(i : 0 .. 2);
		if
		:: prepare[b] && b >= promised[i] ->
			promised[i] = b;
			if
			:: waits[of(b)] == b && !accept[b] && !(yes[of(b)] & (1 << i)) ->
				yes[of(b)] = yes[of(b)] | (1 << i);
				sawBallot[of(b) * 3 + i] = accepted[i];
				sawValue[of(b) * 3 + i] = value[i]
			:: skip /* the reply is lost */
			fi
		:: accept[b] &&
#ifdef BREAK_PROMISE
			b >= accepted[i] ->
#else
			b >= promised[i] ->
#endif
			promised[i] = nextOf(b);
			accepted[i] = b;
			value[i] = acceptValue[b];
			took[b] = took[b] | (1 << i);
			if
			:: count(took[b]) == 2 ->
				told(acceptValue[b]);
				assert(marked[1] == 0 || b < marked[1] || (acceptValue[b] & MARK(1)));
				assert(marked[2] == 0 || b < marked[2] || (acceptValue[b] & MARK(2)))
			:: else
			fi;
			if
			:: waits[of(b)] == b -> yes[of(b)] = yes[of(b)] | (1 << i)
			:: skip
			fi
		:: else
		fi;
		b = 0;
		i = 0
	}
	od
}

/* The value that a node goes on from: that of the highest ballot seen. */
inline adopt(i)
{
	if
#ifdef BREAK_HIGHEST
	:: (yes[me] & (1 << i)) ->
#else
	:: (yes[me] & (1 << i)) && sawBallot[me * 3 + i] >= high ->
#endif
		high = sawBallot[me * 3 + i];
		v = sawValue[me * 3 + i]
	:: else
	fi
}

#define same(i) (((yes[me] >> i) & 1) && sawBallot[me * 3 + i] == high)

inline forget()
{
	waits[me] = 0;
	yes[me] = 0;
	sawBallot[me * 3] = 0;
	sawBallot[me * 3 + 1] = 0;
	sawBallot[me * 3 + 2] = 0;
	sawValue[me * 3] = 0;
	sawValue[me * 3 + 1] = 0;
	sawValue[me * 3 + 2] = 0
}

proctype node(byte me)
{
	byte b, v, high, wants, steps;
	bool held, sure;
	b = me;
	do
	:: steps == 2 || b > LAST -> break
	:: else ->
		if
		:: held && ((v & VOTE) == 0 || steps == 1 && !(v & MARK(me))) ->
			/* The promise stands, and something is to change: no preparing. */
			atomic { held = false; sure = false }
		:: else ->
			held = false;
			atomic { prepare[b] = true; waits[me] = b }
			if
			:: atomic {
				count(yes[me]) >= 2 ->
				high = 0;
				v = 0;
				adopt(0);
				adopt(1);
				adopt(2);
				sure = same(0) + same(1) + same(2) >= 2;
				high = 0;
				forget()
			   }
			:: atomic { b = b + 2; forget(); goto again } /* given up */
			fi
		fi;
		atomic {
			/* The step: first the vote, if nobody has it, then the own mark. */
			wants = v;
			if
			:: (v & VOTE) == 0 -> wants = v | me
			:: else
			fi;
			if
			:: steps == 1 -> wants = wants | MARK(me)
			:: else
			fi;
			if
#ifdef BREAK_CHOSEN
			:: wants == v -> told(v); steps++; held = true; goto again
#else
			:: wants == v && sure -> told(v); steps++; held = true; goto again
#endif
			:: else
			fi;
			acceptValue[b] = wants;
			accept[b] = true;
			waits[me] = b
		}
		if
		:: atomic {
			count(yes[me]) >= 2 ->
			v = wants;
			told(v);
			if
			:: (v & MARK(me)) && !marked[me] -> marked[me] = b
			:: else
			fi;
			steps++;
			held = true;
			b = b + 2;
			forget()
		   }
		:: atomic { b = b + 2; forget() }
		fi;
again:		skip
	od
}

init {
	atomic {
		run node(1);
		run node(2)
	}
}
