// Package nearcachetest tests programs that use nearcache: without a server, or against a real one whose announcements are lost,
// late, out of order, or cut off.
//
// # Without a server
//
// [NewClient] returns a client for unit tests: the same type, the same caches, the loader as the only source. What a read stored is
// there for the next one. Several on one network ([NewClientOn]) are several nodes: a Delete or Set on one is announced to the
// others. Nothing of it touches the world outside of the process, so all of it runs inside a testing/synctest bubble too, where time
// to live passes at once and synctest.Wait returns when every announcement has been applied.
//
// # With faults
//
// [Faults] stands between a client and a real Redis: its [Faults.Dial] goes into nearcache.Options.Redis.DialCtxFn. It knows enough of
// the protocol to tell an invalidation link from the connections that carry data, and a push from a reply. It guarantees:
//
//   - Without a fault every byte is passed on as it came, in order, in both directions.
//   - A fault applies to whatever arrives after the call that asked for it has returned, on all connections, old and new. What arrived
//     before may still be on its way to the other side.
//   - What is held back is passed on in the order in which it came, unless the test picks another one.
//   - No fault depends on time, except [Faults.DelayPushes]: the test says when each begins and ends.
//   - When the test ends the connections are closed and nothing is left running.
//
// Some faults are those of networks, and the library's promise holds through them: [Faults.Cut], [Faults.Stall],
// [Faults.RefuseConnections]. Others are lies that no working server tells, since a reply is never sent before an earlier push:
// [Faults.DropPushes], [Faults.HoldPushes] and [Faults.DelayPushes] leave the link in good health. No client can see those; they show
// what a program does when it is served something stale, and that its monitoring (nearcache.Options.Verify and Canary) finds out.
//
// # Assertions
//
// [AssertNotStalerThan] reads on all nodes while the test writes, and fails the test if a read returns what had been overwritten for
// longer than a bound. It sees what the program sees, so it finds what the library cannot: a lie of the server, a loader that
// reads from a replica, a value that the program itself keeps. [EventuallyCoherent] waits until all nodes return one value.
//
// All functions and methods may be called from any goroutine, but those that may end the test (they say so) only from the test's own.
package nearcachetest
