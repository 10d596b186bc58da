// Package nearcache is a read-through near cache for services that run on many nodes and share a Redis: reads are served from this
// process's memory in tens of nanoseconds, and are never staler than a bound.
//
// # The promise
//
// Redis announces each change of a key under Options.Prefixes to every node (CLIENT TRACKING in BCAST mode, over RESP3), and the
// node's L1 forgets the key. What makes that more than a hope:
//
//   - Bounded staleness. A read served from L1 never returns a value that had been overwritten, acknowledged to its writer, for longer than
//     Options.MaxStaleness when the read began. The read itself checks it, against the last instant of which all writes are known, so it
//     holds through lost and half-open connections, frozen servers, a process that was stopped, and failed timers.
//   - Fresh reads. Get with Fresh is linearizable with respect to the Redis server; a value that has not changed still comes from L1.
//   - Read your writes. After Set or Delete returns, no read on this node returns an older value.
//   - No lost invalidation. When the continuity of the link is in doubt, everything it covered is unservable at once.
//   - No stale fill. A value that was fetched or loaded before an invalidation is never stored after it, in L1 or in Redis.
//
// Outside the promise: SWAPDB, which Redis does not announce, and writes that Redis loses in a failover, both of which the time to live
// bounds; an address that leads to two servers that are both primaries; what a server that is no primary any more answers to a read that goes
// to Redis; what the loader answers while Redis is away; and the time for which the whole machine, its clock included, stood still.
// docs/coherence.md explains each.
//
// # Use
//
// Open a Client, one per process, and make a Cache of each kind of item with New. Get reads from L1, else from Redis, else from your
// loader; one load of a key runs at a time in the whole fleet. Values in Redis are what the Codec wrote, nothing else, so any
// program can read and write them; while a load runs, and for Config.NegativeTTL after one that found nothing, the key holds a marker
// that starts with a zero byte and "nearcache".
//
// # Goroutines
//
// All methods of Client and Cache may be called from any goroutine. A loader runs on a goroutine of its own. Close leaves none
// behind.
package nearcache
