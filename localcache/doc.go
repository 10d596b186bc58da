// Package localcache is the in-process tier of a near cache: values of any types under one byte budget, held by ristretto,
// with the coherence that ristretto does not have. It knows no server and does no I/O; whoever uses it says what has been
// invalidated and until when a server's announcements have been heard.
//
// # Guarantees
//
// Consistency. A value is filled with a [Token] that was taken before it was fetched.
//
//   - A [View.Get] that begins after a [View.Invalidate] of the key has returned never serves a value whose token was taken
//     before that call. It does not matter whether the value was resident, on its way into the store, or still being
//     fetched.
//   - A Get that begins after [Shard.Renew], [Shard.Suspend] or [Shard.Close] has returned serves nothing whose token was
//     taken before, of that shard.
//   - A Get that passes notBefore serves nothing that its shard's server had overwritten before notBefore, provided that
//     [Shard.Confirm] tells the truth. The check is part of the read: no background work can be late for it.
//   - Nothing is served at or after its deadline.
//
// Visibility. A fill becomes visible soon after [View.Fill] has returned, or never: ristretto queues it and may refuse it
// without a word. So a read that follows a fill may miss. When several fills race, one of them wins. Where there was an
// entry of the key, servable or not, the new one replaces it at once.
//
// Budget. With 32-byte to 200 KB values the live heap of a cache that has had ten times its budget written into it is
// between 0.85 and 1.2 times [Options.MaxBytes], and a test of the package holds it under 1.25. Each view's index of hot
// entries comes on top: 8 bytes for every 8 KiB of the budget, from 2 to 512 KiB.
//
// Blocking. Get, Token, Fill and the methods of Shard do not block, beyond short critical sections. Invalidate can wait
// for a place in the store's queue, which is filled by other fills and invalidations and drained as fast as they are
// applied, roughly a million a second. [Cache.Wait] and [Cache.Close] wait, and say for what.
//
// Goroutines. Everything may be called from any goroutine at any time, Close included. A cache owns three goroutines, two
// of them ristretto's; Close ends them. No user code runs on them.
//
// Keys are hashed to 128 bits with secret seeds. All 128 are verified by each read, so serving the value of another key
// takes a collision of the whole hash.
//
// # How it works
//
// A plain ristretto cache serves stale values: Set is queued, so a Del that returns before a queued Set has been applied is
// followed by a moment in which the old value is there. A generation compared around Set under a lock does not help, since
// the value is inserted later, outside the lock. Here the comparison is made by the reader. An entry carries the
// generation of its key's stripe from its token. The first read that finds it in the store compares that with the present
// generation, and seals the entry if they are equal. Invalidate moves the generation first, and then deletes. So an entry
// that gets into the store after the deletion fails the comparison; and one that was sealed was in the store before the
// generation moved, where the deletion finds it. It cannot come back, because no pointer is handed to ristretto twice.
//
// The epoch does the same for a whole shard at once, without a deletion: an entry is served only while its shard is in the
// epoch of the entry's token. What is left behind is removed in the background.
//
// In front of the store stands a small index of the entries that reads have found good lately, where most hits of hot keys
// end. It is ruled by the same generations: an entry in it is served only while its stripe's generation is still the one that
// was read before the entry was looked up in the store, and Invalidate moves the generation once more after it has deleted.
// The store's policy is told of a sample of these hits.
//
// Reads are judged by a table of all shards' epochs and as-of instants, which the read takes before it looks the key up.
// It must be before: an as-of instant that was confirmed after the look-up vouches for an invalidation that the look-up
// came too early to see.
package localcache
