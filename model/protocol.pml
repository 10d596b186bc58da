/*
 * One key, one server, one node: pushes, heartbeat, fence, fill, read, shared fetch and own write, as docs/coherence.md
 * describes them. What runs on a goroutine, a connection or a queue of its own is a process or a channel of its own here, and
 * every access to what they share is a step of its own; the checker tries every order.
 *
 * Values are versions: the value of the key is the number of writes that the server has executed. So is an instant: the number
 * of writes executed by then. Two instants without a write between them are one here, which allows the node more than its
 * clock does, never less. The properties hold for executed writes, and so for acknowledged ones.
 *
 * The macros that take away one precaution each are listed in model/check, with the property that then fails.
 */

/* How much happens. */
#ifndef OTHERS
#define OTHERS 1     /* writes by other clients */
#endif
#ifndef OWNS
#define OWNS 1       /* writes by this node */
#endif
#ifndef FLUSHES
#define FLUSHES 0    /* FLUSHALLs */
#endif
#ifndef CUTS
#define CUTS 0       /* connections that break, noticed early or late, with what was under way lost from any point on */
#endif
#ifndef FENCES
#define FENCES 0     /* calls of Fence */
#endif
#ifndef NEIGHBOURS
#define NEIGHBOURS 0 /* invalidations of another key of the same stripe */
#endif
#ifndef EVICTIONS
#define EVICTIONS 0  /* of the key's entry, for room */
#endif
#ifndef FILLS
#define FILLS 2      /* values that L1 takes; it refuses more */
#endif
#ifndef READS
#define READS 1      /* by the first of two readers; the other reads once */
#endif
#define READERS 2

/* The properties. ONLY restricts a run to one of them. */
#define BOUNDED 1 /* a read returns no value overwritten before its notBefore */
#define FRESH   2 /* the same, notBefore being the beginning of the read: linearizable, as there is one copy to read from */
#define OWN     3 /* a read that begins after a write of this node has returned returns that write or a later one */
#define FENCED  4 /* a read that begins after a Fence has returned misses no write executed before it was called */
#define ENDED   5 /* what a lost link or a flush has ended is not served to a read that begins after */
#define FILLED  6 /* while the link is up and nothing is on its way, L1 holds nothing servable that is out of date */
#ifndef ONLY
#define ONLY 0
#endif
#define checked(property) (ONLY == 0 || ONLY == property)
#define later(a, b) (a > b -> a : b)

mtype = { PUSH, PUSH_ALL, PONG }; /* what the server sends on the link */
mtype = { INSERT, DELETE };       /* what the store behind L1 has queued */

/* The server, and the link's connection to it. */
byte value;                   /* the number of writes executed so far */
bool connected;               /* pushes are sent on the connection, and it is not broken */
bool due, dueAll;             /* what the next broadcast pushes */
bool overdue;                 /* ... which must come before the next PING is processed */
bool ping;                    /* a PING is on its way or waits */
chan link = [2] of { mtype }; /* pushes and replies, in order */

/* The node's L1. An entry is immutable but for its seal and confirmed, and reaches the store once. */
byte generation;              /* of the key's stripe */
byte epoch, lastEpoch;        /* of the shard; epoch 0 is none */
byte asOf;
byte stored;                  /* the entry in the store; 0 is none */
chan queue = [2] of { mtype, byte };
typedef Entry { byte value, generation, epoch, confirmed; bool sealed };
Entry entry[FILLS + 1];
byte fills;
byte front;                   /* the entry in the front; 0 is none. It is good while entry[front].confirmed == generation. */

/* The fetches under way, by the reader that leads them. */
typedef Flight { byte generation, epoch, lastEpoch, began };
Flight flight[READERS + 1];
byte current;                 /* the one that may be joined; 0 is none */
byte waitsFor[READERS + 1];   /* a reader has joined the flight of that other one */
byte handed[READERS + 1];     /* and been given this */

/* What the properties speak of. */
byte own;                     /* the latest write of this node that has returned */
byte fenced;                  /* when the latest Fence that has returned was called */
byte ended;                   /* the latest epoch that the node knows to be over */
bool behind = true;           /* the node has not yet done all that it has received, or has no link */

/* One step, because the server executes commands on one thread. */
inline execute() {
	value++;
	due = due || connected
}

/* The generation first, then the look and the deletion, which also queues up behind insertions that wait; then it moves again. */
inline invalidate() {
#ifdef DELETE_BEFORE_GENERATION
	remove();
	generation++
#else
	generation++;
	remove()
#endif
#ifndef ONE_MOVE
	;
	generation++
#endif
}

inline remove() {
	atomic {
		if
		:: stored != 0 -> stored = 0; queue!DELETE(0)
		:: else
		fi
	}
}

active proctype Server() {
	byte others = OTHERS, flushes = FLUSHES, cuts = CUTS;

end:	do
	:: others > 0 ->
		d_step { others--; execute() }
	:: flushes > 0 ->
		d_step { flushes--; value++; due = false; dueAll = connected }

	/* Once a turn of the event loop. A reply may precede it, even that of a command sent after the write was acknowledged. */
	:: connected && nfull(link) && (due || dueAll) ->
		atomic {
			if
			:: dueAll -> link!PUSH_ALL
			:: else -> link!PUSH
			fi;
			due = false; dueAll = false; overdue = false
		}
	/* But a connection has one command processed a turn, so a whole broadcast lies between one PING and the next. */
	:: connected && nfull(link) && ping && !overdue ->
		atomic { ping = false; overdue = due || dueAll; link!PONG }

	:: cuts > 0 && connected ->
		d_step { cuts--; connected = false; behind = true; due = false; dueAll = false; ping = false; overdue = false }
	od
}

/* The node's end of the link. */
active proctype Link() {
	bool live;
	bool waiting;             /* for a PONG */
	byte sent, sentBefore;    /* when the last PING was sent, and the one before */
	byte fences = FENCES, fenceCalled, fenceLeft;
	byte neighbours = NEIGHBOURS;

end:	do
	/* CLIENT TRACKING ON, answered. Epoch and as-of are published in one step. */
	:: !live && !connected ->
		sent = value;
		connected = true;
#ifdef FLUSH_AFTER_RECONNECT
		asOf = later(sent, asOf);
#endif
		d_step {
			asOf = later(sent, asOf);
#ifndef FLUSH_BEFORE_RECONNECT
			lastEpoch++;
			epoch = lastEpoch;
#endif
			sentBefore = sent;
			live = true;
			behind = !connected
		}

	/* The end of the connection, or a heartbeat that was not answered in time. */
	:: live && !connected ->
		d_step {
			do
			:: nempty(link) -> link?_
			:: empty(link) -> break
			od;
			live = false; waiting = false; sent = 0; sentBefore = 0; fenceCalled = 0; fenceLeft = 0;
			ended = epoch;
#ifdef FLUSH_BEFORE_RECONNECT
			lastEpoch++;
			epoch = lastEpoch
#else
#ifndef FLUSH_AFTER_RECONNECT
			epoch = 0
#endif
#endif
		}

	:: live && !waiting ->
		d_step {
			sentBefore = sent; sent = value; waiting = true; ping = connected
		}
	/* Fence: counts round trips that begin after the call. */
	:: live && !waiting && fences > 0 && fenceLeft == 0 ->
		d_step {
			fences--; fenceCalled = value;
#ifdef ONE_ROUND_TRIP_FENCE
			fenceLeft = 1
#else
			fenceLeft = 2
#endif
		}
	:: live && link?[PONG] ->
		d_step {
			link?PONG;
			waiting = false;
#ifdef AS_OF_LAST_REQUEST
			asOf = later(sent, asOf);
#else
			asOf = later(sentBefore, asOf);
#endif
			if
			:: fenceLeft > 0 ->
				fenceLeft--;
				if
				:: fenceLeft == 0 -> fenced = fenceCalled; fenceCalled = 0
				:: fenceLeft > 0
				fi
			:: fenceLeft == 0
			fi
		}

	:: live && link?[PUSH] ->
		atomic { link?PUSH; behind = true };
		invalidate();
		behind = !connected

	:: live && link?[PUSH_ALL] ->
		d_step { link?PUSH_ALL; ended = epoch; lastEpoch++; epoch = lastEpoch }

	:: neighbours > 0 ->
		d_step { neighbours--; generation++ }
	od
}

/* The goroutine of the store: what is queued becomes visible, or is refused, later. */
active proctype Store() {
	byte e;
	byte evictions = EVICTIONS;

end:	do
	:: atomic {
		queue?INSERT(e) ->
		if
		:: stored = e
		:: true
		fi;
		e = 0
	   }
	:: atomic { queue?DELETE(_) -> stored = 0 }
	:: atomic { evictions > 0 && stored != 0 -> evictions--; stored = 0 }
	od
}

/* A write of this node. */
active proctype Writer() {
	byte wrote;

	if
	:: OWNS > 0 ->
#ifndef NO_LOCAL_INVALIDATION
#ifndef NO_LOCAL_INVALIDATION_BEFORE
		invalidate();
#endif
#endif
		d_step { execute(); wrote = value };
#ifndef NO_LOCAL_INVALIDATION
#ifndef NO_LOCAL_INVALIDATION_AFTER
		invalidate();
#endif
#endif
		own = wrote
	:: OWNS == 0
	fi
}

/* Whether nothing has ended the token of a fetch. One that was taken without an epoch is over once there has been one. */
#ifdef EPOCH_ALONE
#define good(f) (generation == flight[f].generation && epoch == flight[f].epoch)
#else
#define good(f) (generation == flight[f].generation && epoch == flight[f].epoch && lastEpoch == flight[f].lastEpoch)
#endif

/* Whether a reader may take the result of a fetch that another one leads. */
#ifdef UNCHECKED_JOIN
#define joinable(f) true
#else
#define joinable(f) (good(f) && (flight[f].began >= notBefore || seenAsOf >= notBefore))
#endif

proctype Reader(byte me; byte reads) {
	byte notBefore;
	byte floor;        /* the oldest version that the read may return */
	byte endedBefore;
	byte seenAsOf, seenEpoch, seenGeneration;
	byte e, got;

	do
	:: reads == 0 -> break
	:: reads > 0 ->
		atomic {
			reads--;
			if
			:: notBefore = value
			:: value > 0 && ONLY != FRESH -> notBefore = value - 1
			:: value > 1 && ONLY != FRESH -> notBefore = 0
			fi;
			floor = 0;
			if :: checked(BOUNDED) || checked(FRESH) -> floor = notBefore :: else fi;
			if :: checked(OWN) -> floor = later(own, floor) :: else fi;
			if :: checked(FENCED) -> floor = later(fenced, floor) :: else fi;
			endedBefore = ended
		}

look:		/* As-of and epoch in one step, then the generation, then the entry: in the front and, if it is not good there, in the store. */
#ifndef NO_FRONT
		atomic { seenAsOf = asOf; seenEpoch = epoch };
		seenGeneration = generation;
		e = front;
		if
		:: e != 0 && entry[e].confirmed == seenGeneration && entry[e].epoch == seenEpoch && seenAsOf >= notBefore -> goto hit
		:: else -> e = 0
		fi;
#endif
#ifdef AS_OF_AFTER_LOOKUP
		e = stored;
		seenEpoch = 0; seenGeneration = 0;
#endif
#ifdef EPOCH_BEFORE_AS_OF
		seenEpoch = epoch;
		seenAsOf = asOf;
#else
		atomic { seenAsOf = asOf; seenEpoch = epoch };
#endif
#ifndef NO_FRONT
#ifndef NOTE_AFTER_LOOKUP
		seenGeneration = generation;
#endif
#endif
		atomic {
#ifndef AS_OF_AFTER_LOOKUP
			e = stored;
#endif
			if
			:: e == 0 || entry[e].epoch != seenEpoch -> goto miss
			:: else
			fi;
			seenEpoch = 0
		};
#ifndef NO_SEAL
		if
		:: entry[e].sealed
		:: else ->
			if
			:: generation == entry[e].generation -> entry[e].sealed = true
			:: else -> goto miss
			fi
		fi;
#endif
#ifndef NO_AS_OF_CHECK
		if
		:: seenAsOf < notBefore ->
			atomic {
				e = 0; seenAsOf = 0; seenGeneration = 0;
				if
				:: asOf >= notBefore -> goto look /* after a fence */
				:: goto miss                      /* there was no link to fence */
				fi
			}
		:: else
		fi;
#endif
#ifndef NO_FRONT
#ifdef NOTE_AFTER_LOOKUP
		seenGeneration = generation;
#endif
		entry[e].confirmed = seenGeneration;
		front = e;
#endif
hit:		atomic {
			got = entry[e].value;
			assert(!checked(ENDED) || entry[e].epoch > endedBefore);
			goto serve
		};

miss:		atomic { e = 0; seenEpoch = 0; seenGeneration = 0; seenAsOf = asOf };
#ifdef JOIN_AS_OF_LAST
		e = current;
		if
		:: e != 0 && good(e)
		:: else -> e = 0
		fi;
		seenAsOf = asOf;
		if
		:: atomic { e != 0 && e == current && seenAsOf >= notBefore -> waitsFor[me] = e; e = 0; goto wait }
		:: else -> e = 0; seenAsOf = 0
		fi;
#endif
		atomic {
			if
			:: current != 0 && joinable(current) ->
				waitsFor[me] = current;
				goto wait
			:: else ->
				current = me;
				flight[me].generation = generation; /* the token */
				flight[me].epoch = epoch;
				flight[me].lastEpoch = lastEpoch;
				flight[me].began = value;
				seenAsOf = 0
			fi
		};
		got = value; /* the server executes the GET; from here on the reply is under way */
		/*
		 * The entry carries the token, so it does not matter what happens between a check and the insertion: there is no check. A
		 * visible entry is replaced at once; otherwise the new one is queued, or refused.
		 */
		atomic {
			if
#ifndef NO_TOKEN
			:: flight[me].epoch != 0 && fills < FILLS ->
				fills++;
				entry[fills].generation = flight[me].generation;
				entry[fills].epoch = flight[me].epoch;
#else
			:: epoch != 0 && fills < FILLS ->
				fills++;
				entry[fills].generation = generation;
				entry[fills].epoch = epoch;
#endif
				entry[fills].value = got;
				if
				:: stored != 0 -> stored = fills
				:: stored == 0 && nfull(queue) -> queue!INSERT(fills)
				:: stored == 0 && full(queue)
				fi;
#ifdef SAME_ENTRY_AGAIN
				if
				:: nfull(queue) -> queue!INSERT(fills)
				:: full(queue)
				fi
#endif
			:: else
			fi;
			for (e : 1 .. READERS) {
				if
				:: waitsFor[e] == me -> waitsFor[e] = 0; handed[e] = got
				:: else
				fi
			};
			current = (current == me -> 0 : current);
			flight[me].generation = 0; flight[me].epoch = 0; flight[me].lastEpoch = 0; flight[me].began = 0;
			goto serve
		};

wait:		atomic { waitsFor[me] == 0 -> got = handed[me]; handed[me] = 0 };

serve:		atomic {
			assert(got >= floor);
			e = 0; got = 0; notBefore = 0; floor = 0; endedBefore = 0; seenAsOf = 0; seenEpoch = 0; seenGeneration = 0
		}
	od
}

/* Looks after every step. */
never {
	do
	:: assert(!checked(FILLED) || behind || due || dueAll || nempty(link)
		|| (stored == 0 || entry[stored].value == value || entry[stored].epoch != epoch
			|| !entry[stored].sealed && entry[stored].generation != generation)
		&& (front == 0 || entry[front].value == value || entry[front].epoch != epoch
			|| entry[front].confirmed != generation))
	od
}

init {
	atomic { run Reader(1, READS); run Reader(2, 1) }
}
