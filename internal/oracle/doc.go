// Package oracle decides, while a system runs, whether what the readers of a cache were given is what the cache promises.
//
// # What it is told
//
// Every write of a key carries a version, greater than those before. Its writer tells the oracle when it begins and how it ended: it was
// acknowledged, it was refused, or nobody knows. Every read tells when it began and ended and which version it returned, or that there
// was none. All instants come from one monotonic clock. The oracle never looks at the wall clock, nor at the cache.
//
// # What it concludes
//
// One notion carries all rules: write a is overwritten by the instant t if another write began after a had taken effect, and
// had itself taken effect by t. That holds whatever happened between a write's beginning and its acknowledgement, so two writes that
// overlapped overwrite neither each other, and the oracle never accuses a cache because of an order that it only guessed:
//
//   - A write that was acknowledged took effect by then. So did one that a read has returned, by the end of that read.
//   - A write of which nobody knows may take effect at any later time, until Settle says that it cannot any more. Until then nothing
//     overwrites it; and it overwrites nothing, ever, unless a read shows that it happened.
//   - What may have been lost (eviction) is a removal of which nobody knows. What was certainly lost (FLUSHALL) is a removal. What may
//     have expired counts as absent from the earliest instant at which it may have.
//
// # The rules
//
// Each read says how recent it has to be: NotBefore, which is its own beginning for a fresh read, its beginning less the bound for a bounded
// one, and the beginning of the fence for a read after a fence.
//
//   - BoundedStaleness, FreshRead: no read returns what had been overwritten before its NotBefore. FreshRead is the interval check of
//     linearizability, which sees every read; the search for an order (package linearizability in the chaos module) sees samples.
//   - ReadYourWrites: no read on a node returns what was overwritten by a write of that node that had returned before the read began.
//   - MonotonicReads: on a node, no read returns what was overwritten by a write that an earlier read with the node's default bound had
//     returned. It is promised to readers that use the default bound or a tighter one, for keys whose truth is Redis. It is not
//     promised after a read that asked for more than the default: that one may have gone past L1, which then may still serve,
//     within its bound, what it held. Nor on a node whose policy is to serve what L1 held when its link was lost, for the same reason:
//     its readers are to demand Looser. Nor for keys with a source: while Redis is away a reader is shown the source, and what Redis
//     held when it comes back counts again until the writer's invalidation is acknowledged.
//   - StaleFill: Redis itself never holds, for a key with a source, what had been overwritten; and after quiescence all nodes and Redis
//     agree.
//   - LeaseOverdue: no lease outlives its time, and every lease has one.
//   - ExpiredRead: no read returns a value whose life in Redis had ended before it began.
//   - ForeignValue: no read returns what was never written under its key.
//
// # Two kinds of truth
//
// For a plain key Redis is the truth: a write takes effect when Redis executes it. For a sourced key the truth is a source behind a
// loader: a write begins before the source is changed, and is acknowledged when the invalidation (or the new value) has been acknowledged
// by Redis. Losses in Redis do not touch a sourced key, since it is loaded again.
//
// # Cost
//
// The memory is bounded: a key keeps the writes that are not overwritten and those that were in the last Options.Retain. A read costs one
// uncontended lock. What the oracle cannot decide any more it counts as undecided, and never as right or wrong.
package oracle
