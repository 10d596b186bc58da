package tracking

import "time"

// MaxPushKeys is the largest number of keys in one push that are passed to [Handler.Invalidate] one by one; a larger push
// becomes one [Handler.Flush]. The server puts all that a turn of its event loop changed under a prefix into one push, so that
// a script over a million keys makes a push of a million keys. Nothing else is read from the link while a push is passed on, no
// announcement of another key and no answer to a heartbeat. A key costs about 0.3 µs to read and pass on, and what the handler
// makes of it: at this size some 50 ms go by. Past it, forgetting everything at once is the faster way to be right.
const MaxPushKeys = 1 << 17

// A Handler receives what a link learns. Its methods are called one at a time, in order, never concurrently, whatever goroutine
// they run on. None may block, do I/O, or call [Tracker.Fence], [Tracker.Doubt] or [Tracker.Close]; [Tracker.Status] may be
// called. A handler that panics ends the program: what it covers would be stale for ever otherwise.
type Handler interface {
	// Live says that the link is live: every write acknowledged from now on will be passed to Invalidate or Flush. Nothing that
	// was read before Live returned may be kept. asOf is a moment just before the call; it serves until the first Confirm.
	Live(asOf time.Time)

	// Invalidate says that this key changed, in whichever database. It runs on the goroutine that reads the connection. The
	// string may be kept.
	Invalidate(key string)

	// Flush says that anything may have changed: FLUSHALL or FLUSHDB of any database, a resynchronisation, a reload, a push too
	// large for Invalidate ([MaxPushKeys]). The link stays live. It runs on the goroutine that reads the connection.
	Flush()

	// Lost says that the continuity of the link is in doubt: nothing that it covered may be served any more. It is called
	// first, before the loss is logged and before a new connection is tried, on the goroutine that noticed. It is also called,
	// with [ErrClosed], when a live tracker is closed. Nothing follows it but Live. A key being passed to Invalidate at that
	// moment is finished first.
	Lost(err error)

	// Confirm says that every write acknowledged before asOf has been passed to Invalidate or Flush.
	Confirm(asOf time.Time)
}
