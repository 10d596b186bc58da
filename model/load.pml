/*
 * One key that Redis does not hold, its source, two nodes that load it, and a writer: who may load, and where the result may go,
 * as docs/coherence.md describes it. The source's value is the number of writes to it. The writer changes the source, then deletes the
 * key or sets it to the new value, and the write is acknowledged with that.
 *
 * What L1 does with a value is the matter of protocol.pml, and so are pushes that are late. Of it there is only this here: a reader may
 * join the flight of its node that leads to a load while no push of the key has come since the flight began. The pushes that
 * forbid it come at once; those that wake a waiter take their time.
 *
 * The macros that take away one precaution each are listed in model/check, with the property that then fails.
 */

#ifndef WRITES
#define WRITES 1
#endif
#ifndef EXPIRIES
#define EXPIRIES 0 /* leases that end by their time, with their holder still at work */
#endif
#ifndef REFUSALS
#define REFUSALS 0 /* leases that Redis refuses: out of memory, no right to write */
#endif
#ifndef LOADS
#define LOADS 2    /* by each of the two nodes, one after the other */
#endif
#define NODES 2

#define SINGLE   1 /* no load begins while one runs whose lease has been ended neither by a write nor by its time */
#define STORED   2 /* Redis never holds what was overwritten */
#define RETURNED 3 /* nobody is given what was overwritten before the flight began, or before he joined it */
#define WOKEN    4 /* who waits for a lease is woken by its end; found as a state in which nothing goes on */
#ifndef ONLY
#define ONLY 0
#endif
#define checked(property) (ONLY == 0 || ONLY == property)

/* What the key holds. */
#define NOTHING 0
#define VALUE 1
#define MARKER 2
byte kind = NOTHING;
byte content;                  /* of a value: its version; of a marker: its number */
byte markers;                  /* made so far */

byte source;                   /* the source's value */
byte acknowledged;             /* the latest write that is */

byte running;                  /* loads, by nodes whose lease has not been ended */
bool holds[NODES + 1];         /* a node runs one */
bool pushed[NODES + 1];        /* the node's flight may not be joined: the key was pushed since it began, or there is none */
byte floor[NODES + 1];         /* the oldest version that its flight may lead to */
bool waiting[NODES + 1];       /* a node has asked to be woken by a push of the key */
bool due[NODES + 1];           /* a push for it is under way */

/* Whatever changes the key is pushed. A deletion of what is not there changes nothing. */
inline change(k, c) {
	if
	:: kind != NOTHING || k != NOTHING -> pushed[1] = true; pushed[2] = true; due[1] = true; due[2] = true
	:: else
	fi;
	assert(!checked(STORED) || k != VALUE || c >= acknowledged);
	kind = k;
	content = c
}

/* Of the readers that may still join a flight, one that joins just now demands the most. */
inline acknowledge() {
	acknowledged = source;
	if :: !pushed[1] -> floor[1] = acknowledged :: else fi;
	if :: !pushed[2] -> floor[2] = acknowledged :: else fi
}

inline endLeases() {
	holds[1] = false; holds[2] = false; running = 0
}

active proctype Writer() {
	byte writes = WRITES;

	do
	:: writes > 0 ->
		writes--;
		source++;
		if
		:: atomic { endLeases(); change(NOTHING, 0); acknowledge() }
		:: atomic { endLeases(); change(VALUE, source); acknowledge() }
		fi
	:: writes == 0 -> break
	od
}

/* The end of a lease by its time is not pushed, or late: waiters have a timer. */
active proctype Time() {
	byte expiries = EXPIRIES;

end:	do
	:: atomic { expiries > 0 && kind == MARKER -> expiries--; endLeases(); kind = NOTHING; content = 0 }
	od
}

active proctype Links() {
end:	do
	:: atomic { due[1] -> due[1] = false; waiting[1] = false }
	:: atomic { due[2] -> due[2] = false; waiting[2] = false }
	od
}

proctype Node(byte me) {
	byte loads = LOADS, refusals = REFUSALS;
	byte marker; /* of this node's lease */
	byte got;

	do
	:: loads == 0 -> break
	:: loads > 0 ->
		atomic { loads--; floor[me] = acknowledged; pushed[me] = false };

again:		atomic {
			if
			:: kind == VALUE -> got = content; goto done
			:: kind == MARKER -> goto wait
			:: kind == NOTHING
			fi
		};
		/* SET NX PX. */
		atomic {
			if
#ifdef ACQUIRE_ANYWAY
			:: kind == MARKER || kind == NOTHING ->
#else
			:: kind == NOTHING ->
#endif
#ifdef SAME_MARKER
				marker = 1;
#else
				markers++; marker = markers;
#endif
				assert(!checked(SINGLE) || running == 0);
				running++; holds[me] = true;
				change(MARKER, marker)
			:: kind == NOTHING && refusals > 0 ->
				refusals--;
				goto unleased
			:: else -> goto again
			fi
		};
		got = source; /* the loader */
		/* Compare and set. */
#ifdef COMPARE_THEN_SET
		atomic {
			if
			:: kind == MARKER && content == marker
			:: else -> marker = 0; goto release
			fi
		};
		atomic { change(VALUE, got); marker = 0 };
#else
		atomic {
			if
#ifdef SET_ANYWAY
			:: true -> change(VALUE, got)
#else
			:: kind == MARKER && content == marker -> change(VALUE, got)
			:: else
#endif
			fi;
			marker = 0
		};
#endif
#ifdef COMPARE_THEN_SET
release:
#endif
		atomic {
			if
			:: holds[me] -> holds[me] = false; running--
			:: else
			fi
		};
		goto done;

unleased:	/* Nothing would be pushed if the source changed now, so nobody may join any more. */
#ifndef UNLEASED_JOINABLE
		pushed[me] = true;
#endif
		got = source;
		goto done;

wait:		/* Ask to be woken, then look once more, then wait. */
#ifndef LOOK_BEFORE_ASKING
		waiting[me] = true;
		atomic {
			if
			:: kind == MARKER
			:: else -> waiting[me] = false; goto again
			fi
		};
#else
		waiting[me] = true;
#endif
		atomic {
			if
			:: !waiting[me]
			:: EXPIRIES > 0 && kind != MARKER -> waiting[me] = false /* the timer */
			fi;
			goto again
		};

done:		atomic {
			assert(!checked(RETURNED) || got >= floor[me]);
			pushed[me] = true; floor[me] = 0; got = 0
		}
	od
}

init {
	atomic { pushed[1] = true; pushed[2] = true; run Node(1); run Node(2) }
}
