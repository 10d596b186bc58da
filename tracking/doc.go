// Package tracking tells a program which keys of a Redis server change, over one connection that it can trust or knows that it
// cannot.
//
// A [Tracker] holds a link to one server: a dedicated RESP3 connection with CLIENT TRACKING ON BCAST, on which the server
// announces every write to a key under the given prefixes. What a program keeps in memory of those keys is then current up to a
// known moment, the as-of time, for as long as the link lives; and when the link's continuity is in doubt, its [Handler] is
// told so before anything else happens.
//
// # Guarantees
//
// Consistency. All of them hold between one call of [Handler.Live] and the next [Handler.Lost]:
//
//   - Every write that the server acknowledges to anybody after Live began is announced by Invalidate or Flush, unless Lost
//     comes first. A value that was read from this server after Live returned may therefore be kept until one of the three.
//   - [Handler.Confirm] (t) says that every write acknowledged before t has been announced. It is called with increasing times,
//     about once a [Options.Heartbeat], and t is then between one heartbeat and two old.
//   - When [Tracker.Fence] returns nil, every write acknowledged before it was called has been announced.
//   - A server that is not a primary, or no longer one, confirms nothing: its role is the answer to every heartbeat.
//
// Time is this process's monotonic clock. No clock of the server is used.
//
// Why one question is not enough: the server collects announcements and sends them once per turn of its event loop, and with
// I/O threads a reply may overtake the announcement of a write that was acknowledged before the question was asked. A full turn
// lies between two questions asked one after the other. So all round trips on a link are serialised, there is never more than
// one outstanding, the answer to one confirms everything before the one before it was sent, and a fence is two that were
// started after it was called.
//
// Ordering. The methods of a Handler are called one at a time. Announcements come in the order in which the server sent them;
// within one turn of its event loop the server groups them by prefix and mentions each key once. After Lost nothing of the old
// connection is passed on, whatever was still in flight.
//
// Delivery. At least once while the link lives. A key may be announced that has not changed, and the program's own writes come
// back like anybody's. A push of more than [MaxPushKeys] keys becomes a Flush; FLUSHALL and FLUSHDB of any database are one.
//
// Databases. The server names the key and not the database it is in: a write to the key in any database is announced.
//
// Blocking. Invalidate and Flush run on the goroutine that reads the connection. A handler that blocks there delays the
// heartbeat's answers; past [Options.Deadline] that looks like a dead server, and the link is given up. Fence waits for two
// round trips; callers share them.
//
// Goroutine-safety. All methods of a Tracker may be called from any goroutine, but Close, Fence and Doubt never from a Handler.
//
// # What is not announced
//
// SWAPDB, the stream commands that only touch consumer groups, and FUNCTION LOAD. An expired key is announced when the server
// gets round to deleting it, which may be long after: never rely on that, bound the life of a copy by the key's own. Writes
// that a failover loses are lost without a word. A primary that is cut off from its cluster goes on announcing its own writes
// only.
//
// # What it costs
//
// One connection per Tracker, one small command each way per heartbeat. On the server each distinct prefix that any client
// tracks costs every write some tens of nanoseconds, whether it matches or not; a write that matches costs a push to each
// tracker. So use few and short prefixes, the same ones in every process. Pushes count against client-output-buffer-limit
// normal; a client too slow for its limit is disconnected, never skipped over.
//
// # Rights
//
// The smallest set of rights under which everything works, with no key and no channel:
//
//	ACL SETUSER name on >password +client|tracking +role
//
// HELLO needs none. With +client|trackinginfo the server's view of the link is checked as well; without it, each new link
// leaves a line in ACL LOG and nothing else. [Probe] also needs +set and the right to write keys under its prefix.
//
// The server must be Redis 6.0 or later, or Valkey, reached directly or through a proxy that passes RESP3 pushes on. [Probe]
// proves it: some proxies, and every server asked in RESP2, accept the command and announce nothing.
package tracking
